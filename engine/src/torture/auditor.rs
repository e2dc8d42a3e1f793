//! Who knows what every answer has to be, and what has to be there after every crash. It sees what clients see, and
//! besides the records in the order in which they were decided; it asks the node for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use meed_schemas::codec;
use meed_schemas::command::{Command, Request};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::{Balances, Record, RecordKind};
use meed_schemas::time::{DAY_MS, Millis};

use super::ledger::Ledger;
use super::node::{Decided, Seen, Watch};
use crate::journal::JournalReader;
use crate::journal::frame::Frames;
use crate::shard::{BUSINESS_KEY_DAYS, IDEMPOTENCY_KEY_DAYS, Input, ReplyTo};

/// A record and its bytes in the journal.
pub(super) type Written = (Record, Box<[u8]>);

/// The records in a stretch of frames, with their bytes.
pub(super) fn decode(frames: &[u8]) -> Result<Vec<Written>, String> {
    let decode = |frame: Result<crate::journal::frame::Frame<'_>, _>| {
        let frame = frame.map_err(|fault: crate::journal::frame::FrameFault| fault.detail.to_owned())?;
        let record = codec::decode(frame.position(), frame.payload()).map_err(|e| e.to_string())?;
        Ok((record, frame.payload().into()))
    };
    Frames::new(frames).map(decode).collect()
}

/// A shard's records in the order in which they were decided.
#[derive(Debug, Default)]
struct Log {
    records: Vec<Written>,
    /// Highest sequence that an answer saw which has left.
    acknowledged: u64,
}

/// How far one sending of a request has come.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Sent,
    Delivered,
    /// With the sequence that the answer saw, and where a replayed record lies.
    Decided {
        saw: u64,
        replays: Option<(Position, bool)>,
    },
    Answered,
}

#[derive(Debug)]
struct Attempt {
    ask: u32,
    request: Rc<Request>,
    stage: Stage,
}

/// What is known of an account from its records alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shown {
    sequence: u64,
    /// Shard sequence of the last record of any kind.
    applied: u64,
    balances: Balances,
    points: i64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Auditor {
    logs: Vec<Log>,
    attempts: Vec<Attempt>,
    /// Attempts that were delivered and are not decided, by account, in order.
    queues: BTreeMap<Identity, VecDeque<u32>>,
    shown: BTreeMap<Identity, Shown>,
    ledger: Ledger,
    /// What each key led to first: by account, business or not, and hash.
    keys: BTreeMap<(Identity, bool, u128), Position>,
    /// Where an ask was executed, as its client was told.
    told: BTreeMap<u32, Position>,
    /// Latest time that a node has trusted: keys may be forgotten by it.
    latest_ms: Millis,
}

impl Auditor {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            logs: (0..shards).map(|_| Log::default()).collect(),
            attempts: Vec::new(),
            queues: BTreeMap::new(),
            shown: BTreeMap::new(),
            ledger: Ledger::default(),
            keys: BTreeMap::new(),
            told: BTreeMap::new(),
            latest_ms: Millis::MIN,
        }
    }

    /// A request is sent; the number names this sending of it.
    pub(super) fn sent(&mut self, ask: u32, request: Rc<Request>) -> u32 {
        self.attempts.push(Attempt { ask, request, stage: Stage::Sent });
        self.attempts.len() as u32 - 1
    }

    /// The request of a sending.
    pub(super) fn request(&self, attempt: u32) -> &Rc<Request> {
        &self.attempts[attempt as usize].request
    }

    /// Which request a sending is of.
    pub(super) fn ask_of(&self, attempt: u32) -> u32 {
        self.attempts[attempt as usize].ask
    }

    /// Sendings that the node has got and not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = u32> {
        let open = |a: &Attempt| matches!(a.stage, Stage::Delivered | Stage::Decided { .. });
        (0..).zip(&self.attempts).filter(move |(_, a)| open(a)).map(|(attempt, _)| attempt)
    }

    /// The bytes of every record, to be held against the journal.
    pub(super) fn records(&self) -> impl Iterator<Item = (&Record, &[u8])> {
        self.logs.iter().flat_map(|log| log.records.iter().map(|(record, bytes)| (record, &**bytes)))
    }

    fn record(&self, position: Position) -> Option<&Record> {
        let log = self.logs.get(usize::from(position.shard()))?;
        log.records.get((position.sequence() as usize).checked_sub(1)?).map(|(record, _)| record)
    }

    /// The node has let an answer go.
    pub(super) fn answered(&mut self, to: ReplyTo, reply: &Reply) -> Result<(), String> {
        let attempt = &mut self.attempts[to.slot as usize];
        let Stage::Decided { saw, replays } = attempt.stage.clone() else {
            return Err(format!("request {} got an answer in stage {:?}: {reply:?}", attempt.ask, attempt.stage));
        };
        attempt.stage = Stage::Answered;
        let (ask, request) = (attempt.ask, Rc::clone(&attempt.request));
        let shard = usize::from(request.identity.shard(self.logs.len() as u16));
        let mut acknowledged = saw;
        if let Some((position, outcome)) = replays {
            acknowledged = acknowledged.max(position.sequence());
            self.check_replay(ask, position, outcome, reply)?;
        }
        if let Reply::Executed { record, .. } = reply {
            acknowledged = acknowledged.max(record.position.sequence());
            self.told.entry(ask).or_insert(record.position);
        }
        let log = &mut self.logs[shard];
        log.acknowledged = log.acknowledged.max(acknowledged);
        Ok(())
    }

    fn check_replay(&self, ask: u32, position: Position, outcome: bool, reply: &Reply) -> Result<(), String> {
        let Some(expected) = self.record(position) else {
            return Err(format!("request {ask} is answered from record {position}, which nobody decided"));
        };
        let is_same = match reply {
            Reply::Executed { record, replayed: true } if !outcome => **record == *expected,
            Reply::Outcome(record) if outcome => **record == *expected,
            Reply::RefusedBefore { .. } if !outcome => expected.kind == RecordKind::Refusal,
            _ => false,
        };
        if !is_same {
            return Err(format!("request {ask} is a replay of {expected:?}, and the answer is {reply:?}"));
        }
        Ok(())
    }

    /// A node believes that it is this late.
    pub(super) fn time_is(&mut self, now: Millis) {
        self.latest_ms = self.latest_ms.max(now);
    }

    /// Where a request was executed, as far as its client knows.
    pub(super) fn told(&self, ask: u32) -> Option<Position> {
        self.told.get(&ask).copied()
    }

    /// A process has begun whose journal ends at these sequences.
    pub(super) fn recovered(&mut self, last_sequence: &[u64], reader: &JournalReader) -> Result<(), String> {
        for (shard, (log, &last)) in self.logs.iter().zip(last_sequence).enumerate() {
            if last < log.acknowledged {
                return Err(format!(
                    "shard {shard} ends at {last} after recovery; record {} was acknowledged",
                    log.acknowledged
                ));
            }
            if last > log.records.len() as u64 {
                let decided = log.records.len();
                return Err(format!("shard {shard} ends at {last} after recovery; only {decided} were decided"));
            }
        }
        for (log, &last) in self.logs.iter_mut().zip(last_sequence) {
            log.records.truncate(last as usize);
        }
        let from = vec![0; last_sequence.len()];
        let mut found = None;
        let scanned = reader.scan(&from, &|_| true, &mut |position, payload| {
            let own = &self.logs[usize::from(position.shard())].records[position.sequence() as usize - 1];
            if *own.1 != *payload {
                found = Some(format!("record {position} is not what was decided"));
            }
            Ok(())
        });
        scanned.map_err(|fault| format!("the recovered journal cannot be read: {fault}"))?;
        if let Some(found) = found {
            return Err(found);
        }
        self.forget_the_process()
    }

    /// What was under way is lost, and what is known of accounts is what their records say.
    fn forget_the_process(&mut self) -> Result<(), String> {
        self.queues.clear();
        for attempt in &mut self.attempts {
            attempt.stage = Stage::Answered;
        }
        self.shown.clear();
        self.keys.clear();
        self.ledger = Ledger::default();
        self.logs.iter().flat_map(|log| &log.records).try_for_each(|(record, _)| self.ledger.learn(record))?;
        for (record, _) in self.logs.iter().flat_map(|log| &log.records) {
            note(&mut self.shown, record);
            self.ledger.take(record)?;
            for key in &record.keys {
                self.keys.insert((record.identity.clone(), key.business, key.hash), record.position);
            }
        }
        Ok(())
    }

    fn appended(&mut self, record: &Record, bytes: Box<[u8]>) -> Result<(), String> {
        let shard = usize::from(record.position.shard());
        let next = self.logs[shard].records.len() as u64 + 1;
        if record.position.sequence() != next {
            return Err(format!("record {} was decided where {next} is next", record.position));
        }
        for key in &record.keys {
            let name = (record.identity.clone(), key.business, key.hash);
            let first = self.keys.insert(name, record.position).unwrap_or(record.position);
            let days = if key.business { BUSINESS_KEY_DAYS } else { IDEMPOTENCY_KEY_DAYS };
            let made_at = self.logs[shard].records.get(first.sequence() as usize - 1).map(|(r, _)| r.recorded_at);
            if made_at.is_some_and(|at| self.latest_ms.saturating_sub(at) <= days * DAY_MS) {
                return Err(format!("one key has two effects: {first} and {record:?}"));
            }
        }
        let log = &mut self.logs[shard];
        log.records.push((record.clone(), bytes));
        note(&mut self.shown, record);
        self.ledger.take(record)
    }

    /// Checks that an account which exists remembers a refusal for want of points.
    fn check_remembered(&self, attempt: u32, decided: Decided<'_>) -> Result<(), String> {
        let Attempt { ask, request, .. } = &self.attempts[attempt as usize];
        let is_remembered = |hash| self.keys.contains_key(&(request.identity.clone(), false, hash));
        let is_refused = matches!(decided, Decided::Reply(Reply::Refused(Refusal::InsufficientPoints { .. })));
        if is_refused && request.keys.idempotency.is_some_and(|hash| !is_remembered(hash)) {
            return Err(format!("request {ask} lacks points, and its key does not remember the refusal"));
        }
        Ok(())
    }

    /// Checks an answer that was just decided against what the records say.
    fn check_decided(&self, attempt: u32, decided: Decided<'_>, has_changed: bool) -> Result<(), String> {
        let Attempt { ask, request, .. } = &self.attempts[attempt as usize];
        let shown = self.shown.get(&request.identity).copied().unwrap_or_default();
        match decided {
            Decided::Reply(Reply::Balance(view))
                if !has_changed
                    && ((view.sequence, view.balances) != (shown.sequence, shown.balances)
                        || view.balances.total + view.balances.pending != shown.points) =>
            {
                return Err(format!("request {ask} shows {view:?}; the records give {shown:?}"));
            }
            Decided::Reply(Reply::Executed { record, replayed: false })
                if self.record(record.position) != Some(record) =>
            {
                return Err(format!("request {ask} shows a record that was not decided: {record:?}"));
            }
            Decided::Reply(Reply::Refused(Refusal::UnknownAccount)) if shown.sequence > 0 && !has_changed => {
                return Err(format!("request {ask} finds no account {:?}, which has {shown:?}", request.identity));
            }
            _ => {}
        }
        Ok(())
    }
}

fn note(shown: &mut BTreeMap<Identity, Shown>, record: &Record) {
    let shown = shown.entry(record.identity.clone()).or_default();
    shown.applied = record.position.sequence();
    if record.kind.is_effect() {
        shown.sequence = record.sequence;
        shown.balances = record.balances;
        shown.points += record.points;
    }
}

impl Watch for Auditor {
    fn input(&mut self, input: &Input) {
        if let Input::Command(envelope) = input
            && let Some(to) = envelope.to
        {
            self.attempts[to.slot as usize].stage = Stage::Delivered;
            self.queues.entry(envelope.request.identity.clone()).or_default().push_back(to.slot);
        }
    }

    fn seen(&mut self, seen: Seen<'_>) -> Result<(), String> {
        self.time_is(seen.now.min(seen.settle_until));
        let before = self.shown.clone();
        let mut changed = Vec::new();
        let mut last: BTreeMap<Identity, Record> = BTreeMap::new();
        for (record, bytes) in seen.records {
            self.appended(&record, bytes)?;
            changed.push(record.identity.clone());
            last.insert(record.identity.clone(), record);
        }
        last.values().try_for_each(|record| self.ledger.check_balances(record))?;
        let mut decided: Vec<(u32, Decided<'_>)> = Vec::new();
        for (to, what) in seen.held {
            if self.attempts[to.slot as usize].stage == Stage::Delivered {
                decided.push((to.slot, what));
            }
        }
        let is_single = decided.len() == 1;
        while !decided.is_empty() {
            let identity = self.attempts[decided[0].0 as usize].request.identity.clone();
            let queue = self.queues.entry(identity.clone()).or_default();
            let next = queue.pop_front();
            let Some(at) = decided.iter().position(|(attempt, _)| Some(*attempt) == next) else {
                return Err(format!("a request of {identity:?} overtook another one"));
            };
            let (attempt, what) = decided.remove(at);
            self.check_decided(attempt, what, changed.contains(&identity))?;
            if before.get(&identity).is_some_and(|shown| shown.sequence > 0) {
                self.check_remembered(attempt, what)?;
            }
            // Who comes too late is told so without a look at anything.
            let is_blind = matches!(what, Decided::Reply(Reply::Refused(Refusal::OutcomeUnknown)));

            let shown = if is_single { &self.shown } else { &before };
            let saw = shown.get(&identity).filter(|_| !is_blind).map_or(0, |shown| shown.applied);
            let replays = match what {
                Decided::Replay { position, outcome } => Some((position, outcome)),
                Decided::Reply(_) => None,
            };
            self.attempts[attempt as usize].stage = Stage::Decided { saw, replays };
        }
        Ok(())
    }
}

/// Whether a request has a key under which it can be asked for.
pub(super) fn has_key(request: &Request) -> bool {
    request.keys.idempotency.is_some() && !matches!(request.command, Command::Outcome)
}
