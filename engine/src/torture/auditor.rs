//! Who knows what every answer has to be, and what has to be there after every crash. It sees what clients see, and
//! besides the records in the order in which they were decided; it asks the node for nothing.

mod fork;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use meed_schemas::codec;
use meed_schemas::command::{Command, Request};
use meed_schemas::ids::{AccountKind, Identity, Position};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::{Detail, Record, RecordKind};
use meed_schemas::time::{DAY_MS, Millis};

use super::expect::{Account, Turn};
use super::profile::{Profile, Rules};
use super::watch::{Decided, Seen, Watch};
use crate::journal::JournalReader;
use crate::journal::frame::Frames;
use crate::shard::{BUSINESS_KEY_DAYS, IDEMPOTENCY_KEY_DAYS, Input, ReplyTo};

type Found = Result<(), String>;

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
#[derive(Clone, Debug, Default)]
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
    deadline_ms: i64,
    stage: Stage,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Auditor {
    logs: Vec<Log>,
    attempts: Vec<Attempt>,
    /// Attempts that were delivered and are not decided, by account, in order.
    queues: BTreeMap<Identity, VecDeque<u32>>,
    /// Accounts as their records have to make them, after each turn that had records; the newest last.
    accounts: BTreeMap<Identity, Vec<Account>>,
    /// What the versions of the program say, by their documents, and those that were decided.
    documents: Vec<(String, Rules)>,
    versions: Vec<(Millis, Rules)>,
    /// What each key led to first: by account, business or not, and hash.
    keys: BTreeMap<(Identity, bool, u128), Position>,
    /// Where an ask was executed, as its client was told.
    told: BTreeMap<u32, Position>,
    /// Latest time that a node has trusted: keys may be forgotten by it.
    latest_ms: Millis,
    /// Per shard, up to which sequence records were removed; a crash may have brought some back.
    gone: Vec<u64>,
}

impl Auditor {
    pub(super) fn new(profile: &Profile) -> Self {
        let shards = profile.shards;
        Self {
            logs: (0..shards).map(|_| Log::default()).collect(),
            attempts: Vec::new(),
            queues: BTreeMap::new(),
            accounts: BTreeMap::new(),
            documents: profile.versions(),
            versions: Vec::new(),
            keys: BTreeMap::new(),
            told: BTreeMap::new(),
            latest_ms: Millis::MIN,
            gone: vec![0; usize::from(shards)],
        }
    }

    /// A request is sent; the number names this sending of it.
    pub(super) fn sent(&mut self, ask: u32, request: Rc<Request>) -> u32 {
        self.attempts.push(Attempt { ask, request, deadline_ms: i64::MAX, stage: Stage::Sent });
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
    pub(super) fn records(&self) -> impl Iterator<Item = (&Record, &[u8])> + Clone {
        self.logs.iter().flat_map(|log| log.records.iter().map(|(record, bytes)| (record, &**bytes)))
    }

    /// The node has removed what is up to these sequences, at this time; or has been interrupted in it.
    pub(super) fn removed(&mut self, up_to: &[u64], at: Option<Millis>, retention_ms: Option<i64>) -> Found {
        let cutoff = at.map_or(Millis::MAX, |at| at.saturating_sub(retention_ms.unwrap_or(i64::MAX)));
        for ((log, gone), &up_to) in self.logs.iter().zip(&mut self.gone).zip(up_to) {
            // What has gone before was old by a clock that may have been set back since.
            let goes = log.records.get(*gone as usize..up_to as usize).unwrap_or_default();
            if let Some((young, _)) = goes.iter().find(|(r, _)| r.recorded_at >= cutoff) {
                return Err(format!("a record is removed before its time: {young:?}"));
            }
            *gone = up_to.max(*gone);
        }
        Ok(())
    }

    /// Whether any record was removed.
    pub(super) fn has_removed(&self) -> bool {
        self.gone.iter().any(|gone| *gone > 0)
    }

    fn is_gone(&self, position: Position) -> bool {
        position.sequence() <= self.gone[usize::from(position.shard())]
    }

    /// The bytes of a record.
    pub(super) fn bytes(&self, position: Position) -> Option<&[u8]> {
        let log = self.logs.get(usize::from(position.shard()))?;
        log.records.get((position.sequence() as usize).checked_sub(1)?).map(|(_, bytes)| &**bytes)
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
            Reply::Refused(Refusal::RecordGone) => self.is_gone(position),
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
        let from = reader.removed_sequence().map_err(|fault| fault.to_string())?;
        if let Some((from, gone)) = from.iter().zip(&self.gone).find(|(from, gone)| from > gone) {
            return Err(format!("the journal begins after record {from}, and {gone} was removed"));
        }
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
        self.forget_the_process();
        Ok(())
    }

    /// What was under way is lost, and what is known of accounts is what their records say.
    fn forget_the_process(&mut self) {
        self.queues.clear();
        for attempt in &mut self.attempts {
            attempt.stage = Stage::Answered;
        }
        let shards = self.logs.len() as u16;
        for (identity, past) in &mut self.accounts {
            let last = self.logs[usize::from(identity.shard(shards))].records.len() as u64;
            past.retain(|account| account.applied <= last);
            past.drain(..past.len().saturating_sub(1));
        }
        self.keys.clear();
        self.versions.clear();
        for (record, _) in self.logs.iter().flat_map(|log| &log.records) {
            note_version(&mut self.versions, &self.documents, record);
            for key in &record.keys {
                self.keys.insert((record.identity.clone(), key.business, key.hash), record.position);
            }
        }
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
        note_version(&mut self.versions, &self.documents, record);
        Ok(())
    }

    /// Holds what one input did to an account against what it has to do.
    fn audit(
        &mut self,
        identity: &Identity,
        records: &[&Record],
        decided: &[(u32, Decided<'_>)],
        seen: &Seen<'_>,
    ) -> Result<(), String> {
        let known = self.accounts.entry(identity.clone()).or_default();
        // Without a record nothing changes.
        let account = if records.is_empty() { known.pop() } else { known.last().cloned() };
        let mut account = account.unwrap_or_default();
        let log = &self.logs[usize::from(seen.shard)].records;
        // Time does not go back within a shard.
        let first = records.first().map_or(log.len(), |record| record.position.sequence() as usize - 1);
        let before = log[..first].iter().rev().map(|(record, _)| record.recorded_at).next().unwrap_or(0);
        let mut past = Vec::new();
        let mut turn = Turn {
            versions: &self.versions[..seen.versions.min(self.versions.len())],
            shard: seen.shard,
            log,
            now: seen.now.max(before),
            settle_until: seen.settle_until.min(seen.now),
            latest_ms: self.latest_ms,
            gone: self.gone[usize::from(seen.shard)],
            records,
            at: 0,
        };
        for (attempt, what) in decided {
            let Attempt { ask, request, deadline_ms, .. } = &self.attempts[*attempt as usize];
            let is_late = seen.elapsed_ms > *deadline_ms;
            let mut saw = 0;
            let in_ask = |found: String| format!("request {ask} of {identity:?}, {:?}: {found}", request.command);
            if is_late || !seen.may_decide || turn.versions.is_empty() {
                let expected = match (is_late, seen.may_decide) {
                    (true, _) => Refusal::OutcomeUnknown,
                    (false, false) => Refusal::NotReady,
                    (false, true) => Refusal::UnknownProgram,
                };
                if !matches!(what, Decided::Reply(Reply::Refused(refusal)) if *refusal == expected) {
                    return Err(in_ask(format!("{expected:?} is expected, not {what:?}")));
                }
            } else {
                let before = account.applied;
                account.settle(&mut turn, true).map_err(in_ask)?;
                if account.applied > before {
                    // What was due may have been settled by a decision of its own.
                    past.push(account.clone());
                }
                account.decided(request, *what, &mut turn).map_err(in_ask)?;
                saw = account.applied;
                // A crash may lose what comes after this decision.
                if saw > before && turn.at < records.len() {
                    past.push(account.clone());
                }
            }
            let replays = match what {
                Decided::Replay { position, outcome } => Some((*position, *outcome)),
                Decided::Reply(_) => None,
            };
            self.attempts[*attempt as usize].stage = Stage::Decided { saw, replays };
        }
        if !turn.versions.is_empty() {
            account.settle(&mut turn, false).map_err(|found| format!("{identity:?}: {found}"))?;
        }
        account.check_end(&turn).map_err(|found| format!("{identity:?}: {found}"))?;
        past.push(account);
        self.accounts.entry(identity.clone()).or_default().extend(past);
        Ok(())
    }

    /// A program's own account: a document that is not the newest becomes the next version.
    fn audit_program(&mut self, decided: &[(u32, Decided<'_>)], own: &[&Record], seen: &Seen<'_>) -> Found {
        let log = &self.logs[usize::from(seen.shard)].records;
        let versions: Vec<&Record> =
            log.iter().map(|(record, _)| record).filter(|r| r.kind == RecordKind::Program).collect();
        let mut count = versions.len() - own.len();
        for (attempt, what) in decided {
            let Attempt { ask, request, deadline_ms, .. } = &self.attempts[*attempt as usize];
            let Command::PutProgram { document } = &request.command else { continue };
            let newest = count.checked_sub(1).map(|newest| versions[newest]);
            let is_newest = |record: &Record| record.detail == Detail::Program { document: document.clone() };
            let mut saw = newest.map_or(0, |record| record.position.sequence());
            let is_right = match what {
                _ if seen.elapsed_ms > *deadline_ms => {
                    saw = 0;
                    matches!(what, Decided::Reply(Reply::Refused(Refusal::OutcomeUnknown)))
                }
                Decided::Reply(Reply::Program { version, created: false }) => {
                    newest.is_some_and(is_newest) && *version as usize == count
                }
                Decided::Reply(Reply::Executed { record, replayed: false }) => {
                    count += 1;
                    saw = record.position.sequence();
                    !newest.is_some_and(is_newest)
                        && is_newest(record)
                        && versions.get(count - 1) == Some(&&**record)
                        && (record.sequence, record.program_version) == (count as u64, count as u32)
                }
                _ => false,
            };
            if !is_right {
                return Err(format!("request {ask} puts a document after {count} versions, and gets {what:?}"));
            }
            self.attempts[*attempt as usize].stage = Stage::Decided { saw, replays: None };
        }
        if count != versions.len() {
            return Err(format!("{} versions were put, and {count} were asked for", versions.len()));
        }
        Ok(())
    }
}

fn note_version(versions: &mut Vec<(Millis, Rules)>, documents: &[(String, Rules)], record: &Record) {
    if let Detail::Program { document } = &record.detail
        && let Some((_, rules)) = documents.iter().find(|(text, _)| **text == **document)
    {
        versions.push((record.recorded_at, rules.clone()));
    }
}

impl Watch for Auditor {
    fn input(&mut self, input: &Input) {
        if let Input::Command(envelope) = input
            && let Some(to) = envelope.to
        {
            let attempt = &mut self.attempts[to.slot as usize];
            (attempt.stage, attempt.deadline_ms) = (Stage::Delivered, envelope.deadline_ms);
            self.queues.entry(envelope.request.identity.clone()).or_default().push_back(to.slot);
        }
    }

    fn seen(&mut self, mut seen: Seen<'_>) -> Result<(), String> {
        self.time_is(seen.now.min(seen.settle_until));
        let mut touched: Vec<Identity> = Vec::new();
        let mut records = Vec::new();
        for (record, bytes) in std::mem::take(&mut seen.records) {
            self.appended(&record, bytes)?;
            if !touched.contains(&record.identity) {
                touched.push(record.identity.clone());
            }
            records.push(record);
        }
        let mut decided: Vec<(u32, Decided<'_>)> = Vec::new();
        for (to, what) in std::mem::take(&mut seen.held) {
            let attempt = &self.attempts[to.slot as usize];
            if attempt.stage == Stage::Delivered {
                decided.push((to.slot, what));
                if !touched.contains(&attempt.request.identity) {
                    touched.push(attempt.request.identity.clone());
                }
            }
        }
        for identity in touched {
            let own: Vec<&Record> = records.iter().filter(|record| record.identity == identity).collect();
            let mut answers = Vec::new();
            let queue = self.queues.entry(identity.clone()).or_default();
            let mut count =
                decided.iter().filter(|(slot, _)| self.attempts[*slot as usize].request.identity == identity).count();
            while count > 0 {
                let next = queue.pop_front();
                let Some(answer) = decided.iter().find(|(attempt, _)| Some(*attempt) == next) else {
                    return Err(format!("a request of {identity:?} overtook another one"));
                };
                answers.push(*answer);
                count -= 1;
            }
            match identity.kind() {
                AccountKind::Program => self.audit_program(&answers, &own, &seen)?,
                _ => self.audit(&identity, &own, &answers, &seen)?,
            }
        }
        Ok(())
    }
}

/// Whether a request has a key under which it can be asked for.
pub(super) fn has_key(request: &Request) -> bool {
    request.keys.idempotency.is_some() && !matches!(request.command, Command::Outcome)
}
