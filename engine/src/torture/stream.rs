//! How a simulated node publishes, and the broker that it publishes to. Of the product are [`Flow`] and [`Marks`];
//! simulated are the thread round them and Kafka with its client. The broker outlives every process, and holds what
//! comes to it against what came before, as one who reads the stream does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use meed_schemas::event::Attributes;
use meed_schemas::ids::{AccountKind, Identity, Position};
use meed_schemas::record::Record;
use meed_schemas::time::Millis;
use serde_json::Value;

use super::node::DATA;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::journal::Records;
use crate::program::Programs;
use crate::publish::flow::{Flow, Sent, Stuck, Topics};
use crate::publish::mark::{Mark, Marks};
use crate::random::{Random, mix};

/// Events that the client holds; then it takes no more.
const WINDOW: usize = 8;
/// What it says of a message that is refused.
const REFUSAL: &str = "the broker refuses it";
/// Events of a shard that the broker takes at a time.
const BATCH: usize = 4;

/// An event as it is in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    key: Vec<u8>,
    headers: Vec<(&'static str, Vec<u8>)>,
    data: Vec<u8>,
}

impl Message {
    /// The account's sequence; 0 where there is none.
    fn sequence(&self) -> u64 {
        let found = self.headers.iter().find(|(name, _)| *name == "ce_sequence");
        let text = found.and_then(|(_, value)| std::str::from_utf8(value).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct State {
    /// By shard, the events on their way.
    queues: BTreeMap<u16, VecDeque<(Position, Message)>>,
    /// The balances on their way, by key.
    balances_queue: BTreeMap<Vec<u8>, Vec<u8>>,
    confirmed: Vec<usize>,
    confirmed_balances: usize,
    is_away: bool,
    /// The next message is refused.
    will_refuse: bool,
    has_refused: bool,
    /// What is in the topics: events by position, the newest value of each key.
    events: BTreeMap<Position, Message>,
    balances: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By key, the sequence of the newest event.
    last: BTreeMap<Vec<u8>, u64>,
    found: Option<String>,
}

/// The broker, and the client's connection to it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Broker(Rc<RefCell<State>>);

impl State {
    fn waiting(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Takes the next event of a shard.
    fn take(&mut self, shard: u16) {
        let Some((position, message)) = self.queues.get_mut(&shard).and_then(VecDeque::pop_front) else { return };
        self.confirmed.push(position.to_u64() as usize);
        let wrong = match self.events.get(&position) {
            Some(before) if *before == message => None,
            Some(before) => Some(format!("the event of record {position} came as {before:?}, and as {message:?}")),
            None => {
                let sequence = message.sequence();
                let last = self.last.entry(message.key.clone()).or_default();
                let before = std::mem::replace(last, sequence);
                self.events.insert(position, message);
                let is_next = sequence == before + 1;
                (!is_next).then(|| format!("the event of record {position} has sequence {sequence} after {before}"))
            }
        };
        self.found = self.found.take().or(wrong);
    }

    fn take_balances(&mut self) {
        self.confirmed_balances += self.balances_queue.len();
        let taken = std::mem::take(&mut self.balances_queue);
        self.balances.extend(taken);
    }

    /// The connection ends; a part of what was on its way has come.
    fn disconnect(&mut self) {
        let mut random = Random(mix(self.events.len() as u64 ^ (self.waiting() as u64) << 32));
        let shards: Vec<(u16, usize)> = self.queues.iter().map(|(shard, queue)| (*shard, queue.len())).collect();
        for (shard, waiting) in shards {
            for _ in 0..random.below(waiting + 1) {
                self.take(shard);
            }
        }
        if random.chance(50) {
            self.take_balances();
        }
        self.queues.clear();
        self.balances_queue.clear();
        self.confirmed.clear();
        (self.confirmed_balances, self.has_refused) = (0, false);
    }
}

impl Broker {
    /// Nobody answers for a while, or somebody does again.
    pub(super) fn set_away(&self, is_away: bool) {
        self.0.borrow_mut().is_away = is_away;
    }

    /// The next message is refused, and the connection is of no use any more.
    pub(super) fn refuse(&self) {
        self.0.borrow_mut().will_refuse = true;
    }

    /// Nothing fails any more.
    pub(super) fn calm(&self) {
        let mut state = self.0.borrow_mut();
        (state.is_away, state.will_refuse) = (false, false);
    }

    /// The process is gone.
    pub(super) fn end_process(&self) {
        self.0.borrow_mut().disconnect();
    }

    /// Shards that have events on their way which can come.
    pub(super) fn shards(&self) -> Vec<u16> {
        let state = self.0.borrow();
        let waiting = state.queues.iter().filter(|(_, queue)| !queue.is_empty() && !state.is_away);
        waiting.map(|(shard, _)| *shard).collect()
    }

    /// Whether balances are on their way which can come.
    pub(super) fn has_balances(&self) -> bool {
        let state = self.0.borrow();
        !state.balances_queue.is_empty() && !state.is_away
    }

    /// Some events of a shard come.
    pub(super) fn take(&self, shard: u16) {
        let mut state = self.0.borrow_mut();
        (0..BATCH).for_each(|_| state.take(shard));
    }

    /// All balances on their way come.
    pub(super) fn take_balances(&self) {
        self.0.borrow_mut().take_balances();
    }

    /// What a reader of the stream has found.
    ///
    /// # Errors
    /// A gap, or an event that comes again as another one.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        self.0.borrow_mut().found.take().map_or(Ok(()), Err)
    }

    /// A journal ends at these sequences after a crash: what was published is in it.
    ///
    /// # Errors
    /// An event whose record is lost.
    pub(super) fn check_durable(&self, last_sequence: &[u64]) -> std::result::Result<(), String> {
        let state = self.0.borrow();
        let mut events = state.events.keys();
        match events.find(|position| position.sequence() > last_sequence[usize::from(position.shard())]) {
            Some(lost) => Err(format!("the event of record {lost} is published, and the record is lost")),
            None => Ok(()),
        }
    }

    /// Everything that these records tell is in the topic of events.
    ///
    /// # Errors
    /// A record without its event, or with another one.
    pub(super) fn check_events<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
    ) -> std::result::Result<(), String> {
        let state = self.0.borrow();
        for record in records.filter(|record| record.kind.is_effect()) {
            let position = record.position;
            let Some(message) = state.events.get(&position) else {
                return Err(format!("record {position} is not published"));
            };
            let data: Value = serde_json::from_slice(&message.data).map_err(|error| error.to_string())?;
            let is_program = record.identity.kind() == AccountKind::Program;
            let is_right = message.key == key_of(&record.identity)
                && message.sequence() == record.sequence
                && (is_program || data["total_points"] == record.balances.total);
            if !is_right {
                return Err(format!("{record:?} is published as {message:?}"));
            }
        }
        Ok(())
    }

    /// Both topics have what these records tell, which are all that there are, and nothing else.
    ///
    /// # Errors
    /// What is missing, or too much.
    pub(super) fn check_all<'a>(
        &self,
        records: impl Iterator<Item = &'a Record> + Clone,
    ) -> std::result::Result<(), String> {
        self.check_events(records.clone())?;
        let state = self.0.borrow();
        let effects = records.filter(|record| record.kind.is_effect());
        let (events, published) = (effects.clone().count(), state.events.len());
        if events != published {
            return Err(format!("{published} events are published of {events}"));
        }
        let accounts = effects.filter(|record| record.identity.kind() != AccountKind::Program);
        let newest: BTreeMap<Vec<u8>, &Record> = accounts.map(|record| (key_of(&record.identity), record)).collect();
        let is_right = |value: &Vec<u8>, record: &Record| {
            serde_json::from_slice::<Value>(value).is_ok_and(|value| {
                value["sequence"] == record.sequence && value["total_points"] == record.balances.total
            })
        };
        for (key, record) in &newest {
            let value = state.balances.get(key);
            if !value.is_some_and(|value| is_right(value, record)) {
                let value = value.map(|value| String::from_utf8_lossy(value));
                return Err(format!("the newest balance is {value:?} after {record:?}"));
            }
        }
        Ok(())
    }

    /// Tells worlds apart.
    pub(super) fn fingerprint(&self) -> u64 {
        let state = self.0.borrow();
        let events = state.events.keys().fold(0, |hash, position| mix(hash ^ position.to_u64()));
        state.balances.values().fold(events, |hash, value| mix(hash ^ xxhash_rust::xxh3::xxh3_64(value)))
    }
}

/// The key of an account's messages, as the contract of the stream says it.
fn key_of(identity: &Identity) -> Vec<u8> {
    format!("{}/{}/{}", identity.program(), identity.kind().name(), identity.id()).into_bytes()
}

impl Topics for Broker {
    fn send_event(&self, position: Position, _: Millis, attributes: &Attributes, data: &[u8]) -> Sent {
        let mut state = self.0.borrow_mut();
        if std::mem::take(&mut state.will_refuse) {
            state.disconnect();
            state.has_refused = true;
        }
        if state.has_refused {
            return Sent::Refused(REFUSAL.to_owned());
        }
        if state.waiting() >= WINDOW {
            return Sent::Full;
        }
        let headers = attributes.headers().map(|(name, value)| (name, value.to_vec())).collect();
        let message = Message { key: attributes.key().to_vec(), headers, data: data.to_vec() };
        state.queues.entry(position.shard()).or_default().push_back((position, message));
        Sent::Taken
    }

    fn send_balance(&self, _: u16, _: Millis, key: &[u8], value: &[u8]) -> Sent {
        let mut state = self.0.borrow_mut();
        if state.has_refused {
            return Sent::Refused(REFUSAL.to_owned());
        }
        state.balances_queue.insert(key.to_vec(), value.to_vec());
        Sent::Taken
    }

    fn take_confirmed(&self, into: &mut Vec<usize>) {
        into.clear();
        into.append(&mut self.0.borrow_mut().confirmed);
    }

    // The simulated broker loses none that it took.
    fn take_confirmed_balances(&self) -> (usize, usize) {
        (std::mem::take(&mut self.0.borrow_mut().confirmed_balances), 0)
    }
}

/// A publishing thread between two of its turns.
pub(super) struct Publisher {
    marks: Marks,
    mark: Mark,
    flow: Flow,
    broker: Broker,
    journal: Records,
}

impl Publisher {
    /// Goes on where the file says that another one has ended.
    pub(super) fn start(disk: &Disk, journal: Records, broker: Broker) -> Result<Self> {
        let marks = Marks::in_folder(disk, Path::new(DATA), journal.journal_id(), journal.shards())?;
        let mark = marks.read("events", "balances", &journal.removed_sequence()?)?;
        Ok(Self { flow: Flow::new(&mark), marks, mark, broker, journal })
    }

    /// Whether a turn would change anything.
    pub(super) fn wants_turn(&self) -> bool {
        let state = self.broker.0.borrow();
        let is_told = !state.confirmed.is_empty() || state.confirmed_balances > 0 || state.has_refused;
        let has_more = state.waiting() < WINDOW && !self.flow.has_read(&self.journal.last_sequence());
        let may_flush = state.waiting() == 0 && state.balances_queue.is_empty() && !self.flow.is_through();
        is_told || has_more || may_flush
    }

    /// Whether the mark has moved since it was saved.
    pub(super) fn wants_save(&self) -> bool {
        self.moved() != self.mark
    }

    fn moved(&self) -> Mark {
        self.flow.mark(&self.mark, |_| true)
    }

    /// Takes what is confirmed, reads on and hands over; balances too, if it is time.
    pub(super) fn turn(&mut self, programs: &Arc<Programs>, flush: bool) -> Result<()> {
        self.flow.confirm(&self.broker);
        if self.broker.0.borrow().has_refused {
            return self.connect_again();
        }
        match self.flow.turn(&self.broker, &self.journal, &|| Arc::clone(programs), flush, &|| true) {
            Ok(_) => Ok(()),
            Err(Stuck::Refused(detail)) if detail == REFUSAL => self.connect_again(),
            Err(Stuck::Refused(detail)) => Err(Error::Stopped(detail)),
            Err(Stuck::Journal(error)) => Err(error),
        }
    }

    /// Saves how far it is. If that fails, it connects again.
    pub(super) fn save(&mut self) -> Result<()> {
        let mark = self.moved();
        let saved = self.marks.save(&self.mark, &mark);
        match saved {
            Ok(()) => self.mark = mark,
            Err(_) => self.connect(),
        }
        saved
    }

    /// Connects, and goes on behind what is saved.
    fn connect(&mut self) {
        self.broker.0.borrow_mut().disconnect();
        self.flow = Flow::new(&self.mark);
    }

    fn connect_again(&mut self) -> Result<()> {
        self.save()?;
        self.connect();
        Ok(())
    }

    /// By shard, the lowest sequence that it still has to read.
    pub(super) fn needed_from(&self) -> Vec<u64> {
        self.mark.published().map(|sequence| sequence + 1).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use meed_schemas::event::{Documents, write_balance, write_data, write_key};
    use meed_schemas::program::{BUILT_IN_DOCUMENT, Document};
    use meed_schemas::record::Balances;

    use super::*;
    use crate::test_record::earn;

    fn record(sequence: u64) -> Record {
        earn(Position::new(0, sequence), Identity::member("p", "m-0"))
    }

    fn document() -> Document {
        Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap()
    }

    fn publish(broker: &Broker, record: &Record) {
        let (document, mut attributes, mut data) = (document(), Attributes::default(), Vec::new());
        let documents = Documents { decided: &document, newest: &document };
        assert!(attributes.set(record, 7, documents));
        write_data(&mut data, record, documents);
        assert_eq!(broker.send_event(record.position, 0, &attributes, &data), Sent::Taken);
        broker.take(0);
    }

    fn publish_balance(broker: &Broker, record: &Record) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        write_key(&mut key, &record.identity);
        write_balance(&mut value, &record.identity, &meed_schemas::event::Balance::of(record), &document());
        assert_eq!(broker.send_balance(0, 0, &key, &value), Sent::Taken);
        broker.take_balances();
    }

    #[test]
    fn a_reader_of_the_stream_sees_what_is_wrong_with_it() {
        let records: Vec<Record> = (1..=3).map(record).collect();
        let broker = Broker::default();
        records.iter().take(2).for_each(|record| publish(&broker, record));
        publish(&broker, &records[0]);
        assert_eq!(broker.check(), Ok(()), "what comes again is the same");
        assert_eq!(broker.check_durable(&[2]), Ok(()));
        assert!(broker.check_durable(&[1]).unwrap_err().contains("0-2 is published, and the record is lost"));
        assert!(broker.check_all(records.iter()).unwrap_err().contains("0-3 is not published"));
        let found = broker.check_all(records[..2].iter()).unwrap_err();
        assert!(found.contains("the newest balance is None"), "{found}");
        publish_balance(&broker, &records[0]);
        let found = broker.check_all(records[..2].iter()).unwrap_err();
        assert!(found.contains("the newest balance is Some"), "{found}");
        publish_balance(&broker, &records[1]);
        assert_eq!(broker.check_all(records[..2].iter()), Ok(()));
        assert!(broker.check_all(records[..1].iter()).unwrap_err().contains("2 events are published of 1"));
    }

    #[test]
    fn a_gap_and_another_event_of_the_same_record_are_seen() {
        let broker = Broker::default();
        publish(&broker, &record(1));
        publish(&broker, &record(3));
        assert!(broker.check().unwrap_err().contains("has sequence 3 after 1"));
        let other = Record { balances: Balances { total: 9, ..Balances::default() }, ..record(1) };
        publish(&broker, &other);
        assert!(broker.check().unwrap_err().contains("the event of record 0-1 came as"));
    }
}
