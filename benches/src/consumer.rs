//! A sample consumer of meed's topics: it deduplicates, proves that there is no gap, and rebuilds every
//! balance from the changes that events tell. What it knows of the stream is what
//! `schemas/events/COMPATIBILITY.md` promises.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Longest wait for a message that is there.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The part of an event's data that is checked.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    transaction_id: Cow<'a, str>,
    sequence: u64,
    /// A balance has none.
    #[serde(default)]
    points: i64,
    total_points: i64,
    available_points: i64,
    pending_points: i64,
    held_points: i64,
    debt_points: i64,
    #[serde(borrow, default)]
    lots: Vec<Change<'a>>,
}

impl Data<'_> {
    fn told(&self) -> [i64; 5] {
        [self.total_points, self.available_points, self.pending_points, self.held_points, self.debt_points]
    }

    /// Stands for whose they are, the sequence and the balances.
    fn print(&self, key: &[u8]) -> u64 {
        let mut bytes = [0; 6 * 8];
        let numbers = std::iter::once(self.sequence as i64).chain(self.told());
        bytes.chunks_exact_mut(8).zip(numbers).for_each(|(into, number)| into.copy_from_slice(&number.to_le_bytes()));
        xxh3_64_with_seed(&bytes, xxh3_64(key))
    }
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    change: Cow<'a, str>,
    points: i64,
    #[serde(borrow)]
    activates_at: Option<Cow<'a, str>>,
}

/// A line of the journal's events, as `GET /api/v1/events` writes them.
#[derive(Deserialize)]
struct Line<'a> {
    id: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// An account as its events tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    sequence: u64,
    /// Its place among the journals.
    journal: usize,
    /// Sum of all `points`.
    points: i64,
    live: i64,
    held: i64,
    pending: i64,
    debt: i64,
    /// Total, available, pending, held and debt, as the newest event tells them. The first records of an
    /// operation tell the balances after all of it, so only those of the newest are compared.
    told: [i64; 5],
}

impl Account {
    /// The same as rebuilt from the changes.
    fn rebuilt(&self) -> [i64; 5] {
        let total = self.live + self.held - self.debt;
        [total, total - self.held, self.pending, self.held, self.debt]
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), String> {
        let points = change.points;
        match (&*change.change, change.activates_at.is_some()) {
            ("granted", false) => self.live += points,
            ("granted", true) => self.pending += points,
            ("activated", _) => {
                self.pending -= points;
                self.live += points;
            }
            ("taken", false) | ("expired", _) => self.live -= points,
            ("taken", true) => self.pending -= points,
            ("held", _) => {
                self.live -= points;
                self.held += points;
            }
            ("released", _) => {
                self.held -= points;
                self.live += points;
            }
            ("captured", _) => self.held -= points,
            ("paid_debt", _) => {
                self.live -= points;
                self.debt -= points;
            }
            ("owed", _) => self.debt += points,
            ("expired_before", _) => {}
            (other, _) => return Err(format!("the change {other} is not known")),
        }
        Ok(())
    }
}

/// What a message is identified by, and what it must be when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    value: u64,
    rest: u64,
    /// Of the sequence and balances, which a message of the compacted topic repeats.
    told: u64,
}

/// What the node does while the topics are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// It publishes: what is read first may end in the middle of an operation, balances may be behind the events, or
    /// ahead of those that were read before them.
    Running,
    /// It published everything and ended: the topics say the same.
    Stopped,
}

/// What is not the same in both topics because a node runs: so many accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// Their balances are not flushed yet, or not since their newest event.
    pub behind: usize,
    /// Their balances are newer than the events that were read.
    pub ahead: usize,
    /// Their newest operation was read in part.
    pub unfinished: usize,
}

/// A consumer's memory, and what it found.
#[derive(Debug, Default)]
pub struct Check {
    accounts: HashMap<Box<[u8]>, Account>,
    seen: HashMap<Box<[u8]>, Print>,
    balances: HashMap<Box<[u8]>, (u64, [i64; 5])>,
    /// By journal and shard, whose event is the last one: only its operation can go on behind the end.
    last_of_shards: HashMap<Box<[u8]>, Box<[u8]>>,
    /// What ids of events begin with, before the position.
    journals: Vec<Box<[u8]>>,
    /// Events that came for the first time.
    pub events: u64,
    /// Events that came again; they were the same.
    pub again: u64,
    /// Messages of the compacted topic.
    pub balance_messages: u64,
}

impl Check {
    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// What the compacted topic says of an account: sequence; total, available, pending, held and debt.
    pub fn newest_balance(&self, key: &[u8]) -> Option<(u64, [i64; 5])> {
        self.balances.get(key).copied()
    }

    /// Takes an event: its id, sequence and key, all of its headers and its value.
    ///
    /// # Errors
    /// What is wrong with the stream, in words.
    pub fn event(&mut self, id: &[u8], key: &[u8], rest: &[u8], value: &[u8]) -> Result<(), String> {
        let name = || String::from_utf8_lossy(id).into_owned();
        let (of_value, of_rest) = (xxh3_64(value), xxh3_64(rest));
        if let Some(before) = self.seen.get(id) {
            self.again += 1;
            let same = (before.value, before.rest) == (of_value, of_rest);
            return if same { Ok(()) } else { Err(format!("{} came again with other bytes", name())) };
        }
        let data: Data<'_> = serde_json::from_slice(value).map_err(|error| format!("{}: {error}", name()))?;
        self.seen.insert(id.into(), Print { value: of_value, rest: of_rest, told: data.print(key) });
        self.events += 1;
        let journal = self
            .end_shard_with(id, key, &data.transaction_id)
            .ok_or_else(|| format!("{} is not the id of an event of {}", name(), data.transaction_id))?;
        let account = match self.accounts.get_mut(key) {
            Some(account) => account,
            None => self.accounts.entry(key.into()).or_default(),
        };
        let expected = account.sequence + 1;
        if data.sequence != expected {
            let of = String::from_utf8_lossy(key);
            let what = if data.sequence > expected { "a gap" } else { "out of order" };
            return Err(format!("{what}: {of} has sequence {} where {expected} belongs", data.sequence));
        }
        (account.sequence, account.journal) = (data.sequence, journal);
        account.points += data.points;
        for change in &data.lots {
            account.apply(change).map_err(|error| format!("{}: {error}", name()))?;
        }
        account.told = data.told();
        Ok(())
    }

    /// Takes note that this is the last event of its shard so far. Returns the journal's place; `None` if the id is
    /// none of this transaction.
    fn end_shard_with(&mut self, id: &[u8], key: &[u8], transaction_id: &str) -> Option<usize> {
        let journal = id.strip_suffix(transaction_id.as_bytes())?;
        let shard = &id[..id.len() - transaction_id.len() + transaction_id.find('-')?];
        match self.last_of_shards.get_mut(shard) {
            Some(last) if **last == *key => {}
            Some(last) => *last = key.into(),
            None => drop(self.last_of_shards.insert(shard.into(), key.into())),
        }
        Some(self.journals.iter().position(|known| **known == *journal).unwrap_or_else(|| {
            self.journals.push(journal.into());
            self.journals.len() - 1
        }))
    }

    /// Takes a message of the compacted topic; those of events are all taken by then. What it says its event said, too,
    /// if that was read.
    ///
    /// # Errors
    /// A value that is none, or says something else than the event.
    pub fn balance(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let balance: Data<'_> = serde_json::from_slice(value).map_err(|error| format!("a balance: {error}"))?;
        self.balance_messages += 1;
        if let Some(account) = self.accounts.get(key).filter(|account| balance.sequence <= account.sequence) {
            let id = [&*self.journals[account.journal], balance.transaction_id.as_bytes()].concat();
            if self.seen.get(id.as_slice()).is_none_or(|event| event.told != balance.print(key)) {
                let (of, at, told) = (String::from_utf8_lossy(key), balance.sequence, balance.told());
                return Err(format!("{of}: the compacted topic says {told:?} at {at}, its event does not"));
            }
        }
        // The topic keeps the last one of a key, so that is the one that counts.
        self.balances.insert(key.into(), (balance.sequence, balance.told()));
        Ok(())
    }

    /// Whether what was rebuilt is what the newest event says, for every account, and the compacted topic's newest
    /// balance is that of the newest event as far as `nodes` allow.
    ///
    /// # Errors
    /// The first account for which it is not.
    pub fn finish(&self, nodes: Nodes) -> Result<Apart, String> {
        let mut apart = Apart::default();
        let last: HashSet<&[u8]> = self.last_of_shards.values().map(|key| &**key).collect();
        for (key, account) in &self.accounts {
            let of = String::from_utf8_lossy(key);
            let rebuilt = account.rebuilt();
            if rebuilt != account.told {
                if nodes == Nodes::Stopped || !last.contains(&**key) {
                    return Err(format!("{of}: rebuilt {rebuilt:?}, told {:?}", account.told));
                }
                apart.unfinished += 1;
            }
            if account.points != rebuilt[0] + rebuilt[2] {
                return Err(format!("{of}: the points of its events are {}, not {rebuilt:?}", account.points));
            }
        }
        for (key, (sequence, told)) in &self.balances {
            let of = String::from_utf8_lossy(key);
            let account = self.accounts.get(key).copied().unwrap_or_default();
            let (at, is) = (account.sequence, account.told);
            match sequence.cmp(&at) {
                // It is that event's, or it was found when it was taken.
                Ordering::Equal => {}
                Ordering::Less if nodes == Nodes::Running => apart.behind += 1,
                Ordering::Greater if nodes == Nodes::Running => apart.ahead += 1,
                _ if at == 0 => return Err(format!("{of} has a balance and no event")),
                _ => {
                    return Err(format!(
                        "{of}: the compacted topic says {told:?} at {sequence}, its events {is:?} at {at}"
                    ));
                }
            }
        }
        Ok(apart)
    }

    /// Accounts that are not in the compacted topic, those of programs aside.
    fn without_balance(&self) -> usize {
        let is_program = |key: &[u8]| key.windows(9).any(|part| part == b"/program/");
        self.accounts.keys().filter(|key| !is_program(key) && !self.balances.contains_key(*key)).count()
    }

    /// Compares with a program's events as the node tells them over HTTP, NDJSON: each was consumed with the same
    /// bytes. Returns how many there are.
    ///
    /// # Errors
    /// The first event that is not the same.
    pub fn compare(&self, lines: &str) -> Result<u64, String> {
        let mut count = 0;
        for line in lines.lines() {
            let line: Line<'_> = serde_json::from_str(line).map_err(|error| format!("a line of events: {error}"))?;
            let (Some(id), Some(data)) = (line.id, line.data) else { continue };
            match self.seen.get(id.as_bytes()) {
                Some(print) if print.value == xxh3_64(data.get().as_bytes()) => count += 1,
                Some(_) => return Err(format!("{id} was consumed with other bytes")),
                None => return Err(format!("{id} is in the journal and was not consumed")),
            }
        }
        Ok(count)
    }
}

/// Consumes a topic from its beginning to its end as it is now, all partitions at once. Returns how many messages there
/// were.
///
/// # Errors
/// What Kafka says; what `take` says.
pub fn consume(
    brokers: &str,
    topic: &str,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), String>,
) -> Result<u64, String> {
    let failed = |error: rdkafka::error::KafkaError| format!("{topic}: {error}");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "meed-consume")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.message.max.bytes", "4194304")
        .create()
        .map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), READ_TIMEOUT).map_err(failed)?;
    // By partition, the offset behind its last message; a partition that is through is not waited for.
    let mut ends = HashMap::new();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (begin, end) = consumer.fetch_watermarks(topic, partition.id(), READ_TIMEOUT).map_err(failed)?;
        if begin < end {
            ends.insert(partition.id(), end);
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut count, mut heard) = (0, Instant::now());
    while !ends.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            if heard.elapsed() > READ_TIMEOUT {
                return Err(format!("{topic}: nothing comes any more, and {} partitions are not through", ends.len()));
            }
            continue;
        };
        let message = message.map_err(failed)?;
        heard = Instant::now();
        let Some(end) = ends.get(&message.partition()).copied() else { continue };
        if message.offset() < end {
            take(&message)?;
            count += 1;
        }
        if message.offset() + 1 >= end {
            ends.remove(&message.partition());
        }
    }
    Ok(count)
}

/// Consumes both topics to their ends and checks all that can be checked. Where nodes are stopped, every account is in
/// the compacted topic.
///
/// # Errors
/// What is wrong with the stream, in words.
pub fn check_topics(
    brokers: &str,
    events: &str,
    balances: Option<&str>,
    nodes: Nodes,
) -> Result<(Check, Apart), String> {
    let mut check = Check::default();
    let mut rest = Vec::new();
    consume(brokers, events, |message| {
        rest.clear();
        let mut id: &[u8] = &[];
        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
            rest.extend_from_slice(header.key.as_bytes());
            rest.extend_from_slice(header.value.unwrap_or_default());
            if header.key == "ce_id" {
                id = header.value.unwrap_or_default();
            }
        }
        let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        rest.extend_from_slice(key);
        rest.extend_from_slice(&message.timestamp().to_millis().unwrap_or_default().to_le_bytes());
        check.event(id, key, &rest, value)
    })?;
    if let Some(topic) = balances {
        consume(brokers, topic, |message| {
            check.balance(message.key().unwrap_or_default(), message.payload().unwrap_or_default())
        })?;
    }
    let mut apart = check.finish(nodes)?;
    match (balances, check.without_balance()) {
        (None, _) | (_, 0) => {}
        (_, missing) if nodes == Nodes::Running => apart.behind += missing,
        (_, missing) => return Err(format!("{missing} accounts are not in the compacted topic")),
    }
    Ok((check, apart))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn data(sequence: u64, points: i64, total: i64) -> Vec<u8> {
        format!(
            "{{\"transaction_id\":\"0-{sequence}\",\"sequence\":{sequence},\"points\":{points},\
             \"total_points\":{total},\"available_points\":{total},\
             \"pending_points\":0,\"held_points\":0,\"debt_points\":0,\
             \"lots\":[{{\"change\":\"granted\",\"points\":{points}}}]}}"
        )
        .into_bytes()
    }

    const KEY: &[u8] = b"p/member/m";

    /// So many events of ten points each.
    fn consumed(count: u64) -> Check {
        let mut check = Check::default();
        for sequence in 1..=count {
            let id = format!("j-0-{sequence}");
            check.event(id.as_bytes(), KEY, b"r", &data(sequence, 10, 10 * sequence as i64)).unwrap();
        }
        check
    }

    /// A consumer that accepts everything would prove nothing.
    #[test]
    fn what_is_wrong_is_found() {
        let mut good = consumed(3);
        good.event(b"j-0-2", KEY, b"r", &data(2, 10, 20)).unwrap();
        good.balance(KEY, &data(2, 0, 20)).unwrap();
        good.balance(KEY, &data(3, 0, 30)).unwrap();
        assert_eq!((good.finish(Nodes::Stopped), good.without_balance()), (Ok(Apart::default()), 0));
        assert_eq!((good.events, good.again, good.accounts()), (3, 1, 1));
        assert!(good.event(b"j-0-3", KEY, b"s", &data(3, 10, 30)).unwrap_err().contains("other bytes"));
        assert!(good.event(b"j-0-3", KEY, b"r", &data(3, 11, 31)).unwrap_err().contains("other bytes"));
        assert!(good.event(b"j-0-5", KEY, b"r", &data(5, 10, 50)).unwrap_err().contains("a gap"));
        assert!(good.event(b"j-0-9", KEY, b"r", &data(4, 10, 40)).unwrap_err().contains("not the id"));
        let repeated = String::from_utf8(data(1, 10, 10)).unwrap().replace("0-1", "0-8");
        assert!(good.event(b"j-0-8", KEY, b"r", repeated.as_bytes()).unwrap_err().contains("out of order"));
        let late = consumed(1);
        let value = String::from_utf8(data(1, 10, 10)).unwrap();
        assert_eq!(late.compare(&format!("{{\"id\":\"j-0-1\",\"data\":{value}}}\n{{\"cursor\":\"x\"}}")), Ok(1));
        assert!(late.compare(&format!("{{\"id\":\"j-0-2\",\"data\":{value}}}")).unwrap_err().contains("not consumed"));
    }

    #[test]
    fn the_topics_of_a_running_node_may_be_apart_and_those_of_a_stopped_one_may_not() {
        let mut behind = consumed(3);
        behind.balance(KEY, &data(2, 0, 20)).unwrap();
        assert_eq!(behind.finish(Nodes::Running), Ok(Apart { behind: 1, ..Apart::default() }));
        assert!(behind.finish(Nodes::Stopped).unwrap_err().contains("compacted topic"));
        let mut ahead = consumed(3);
        ahead.balance(KEY, &data(4, 0, 40)).unwrap();
        ahead.balance(b"p/member/n", &data(1, 0, 10)).unwrap();
        assert_eq!(ahead.finish(Nodes::Running), Ok(Apart { ahead: 2, ..Apart::default() }));
        assert!(ahead.finish(Nodes::Stopped).is_err());
        // What a balance says of an event that was read is compared all the same, be it the newest or not.
        for sequence in 1..=3 {
            let wrong = data(sequence, 0, 10 * sequence as i64 + 1);
            assert!(consumed(3).balance(KEY, &wrong).unwrap_err().contains("compacted topic"));
        }
        assert_eq!(consumed(1).without_balance(), 1);
    }

    #[test]
    fn only_a_shards_last_operation_may_go_on_behind_the_end() {
        let mut cut = consumed(1);
        cut.event(b"j-0-2", KEY, b"r", &data(2, 10, 25)).unwrap();
        assert_eq!(cut.finish(Nodes::Running), Ok(Apart { unfinished: 1, ..Apart::default() }));
        assert!(cut.finish(Nodes::Stopped).unwrap_err().contains("rebuilt"));
        let other = String::from_utf8(data(1, 10, 10)).unwrap();
        cut.event(b"j-1-3", b"p/member/n", b"r", other.replace("0-1", "1-3").as_bytes()).unwrap();
        assert!(cut.finish(Nodes::Running).is_ok(), "another shard's");
        cut.event(b"j-0-3", b"p/member/o", b"r", other.replace("0-1", "0-3").as_bytes()).unwrap();
        assert!(cut.finish(Nodes::Running).unwrap_err().contains("rebuilt"));
    }
}
