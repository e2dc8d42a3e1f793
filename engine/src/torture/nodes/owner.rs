//! One shard on a node: how it is taken, and what its owner does.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keyspace::{Answered, Entry, Statement};
use super::message::{Effect, Reply, Request, What};
use crate::journal::cql::machine::{Answer, Appender, Ask, Claim, Claimed, Step};
use crate::publish::outbox::Outbox;

/// Records of a batch, at most.
const BATCH_MAX: usize = 4;
/// Records in a bucket before it is sealed.
const BUCKET_MAX: u64 = 6;
/// Events that wait for a confirmation.
const WINDOW: usize = 6;
/// The first bucket of a new shard.
const FIRST_BUCKET: i64 = 1;

/// What follows from an answer.
pub(super) enum Next {
    /// Ask what is to be asked now.
    Ask,
    /// The same after a pause.
    Pause,
    /// The shard is this node's.
    Taken(Box<Owner>),
}

enum Stage {
    Hint,
    Walking { claim: Claim, ask: Ask },
    Registering { claimed: Claimed },
    Reading { claimed: Claimed },
}

/// A shard that is being taken.
pub(super) struct Taking {
    stage: Stage,
    hint: Option<i64>,
}

impl Taking {
    pub(super) fn new() -> Self {
        Self { stage: Stage::Hint, hint: None }
    }

    pub(super) fn statement(&self, shard: u16) -> Statement {
        match &self.stage {
            Stage::Hint => Statement::Hint { shard },
            Stage::Walking { ask, .. } => Statement::Journal { shard, ask: *ask, sequence: 0, row: None },
            Stage::Registering { claimed } => Statement::Register { shard, bucket: claimed.bucket },
            Stage::Reading { .. } => Statement::Records { shard },
        }
    }

    /// # Errors
    /// A damaged chain, which no fault of this world explains.
    pub(super) fn answered(&mut self, answered: Answered) -> Result<Next, String> {
        match (&mut self.stage, answered) {
            (Stage::Hint, Answered::Hint(hint)) => {
                let (claim, ask) = Claim::begin(hint.unwrap_or(FIRST_BUCKET), hint.is_some());
                (self.hint, self.stage) = (hint, Stage::Walking { claim, ask });
                Ok(Next::Ask)
            }
            (Stage::Walking { .. }, answered) => self.walked(answered),
            (Stage::Registering { claimed }, Answered::Changed(true)) => {
                self.stage = Stage::Reading { claimed: *claimed };
                Ok(Next::Ask)
            }
            // It is not new, or an earlier try had an effect: begin again.
            (Stage::Registering { .. }, _) => {
                self.stage = Stage::Hint;
                Ok(Next::Pause)
            }
            (Stage::Reading { claimed }, Answered::Records { records, published }) => {
                Ok(Next::Taken(Box::new(Owner::new(*claimed, records, published))))
            }
            _ => Ok(Next::Pause),
        }
    }

    fn walked(&mut self, answered: Answered) -> Result<Next, String> {
        let Stage::Walking { claim, ask } = &mut self.stage else { return Ok(Next::Pause) };
        let answer = match answered {
            Answered::Journal(answer) => answer,
            _ => Answer::Unknown,
        };
        match claim.answer(answer) {
            Step::Ask(next) => {
                *ask = next;
                Ok(Next::Ask)
            }
            Step::Again(next) => {
                *ask = next;
                Ok(Next::Pause)
            }
            Step::Done => {
                let claimed = claim.claimed();
                self.stage = match claim.is_of_new_shard() {
                    true => Stage::Registering { claimed },
                    false => Stage::Reading { claimed },
                };
                Ok(Next::Ask)
            }
            // The hint is old, or another was quicker.
            Step::Missing | Step::Deposed(_) => {
                self.stage = Stage::Hint;
                Ok(Next::Pause)
            }
            Step::Damaged(what) => Err(format!("a claim finds damage: {what}")),
        }
    }
}

struct Batch {
    first: u64,
    bid: u128,
    entries: Arc<[Entry]>,
    ask: Ask,
}

/// A shard and its owner's memory of it.
pub(super) struct Owner {
    appender: Appender,
    /// Of the account: its last number.
    numbers: BTreeMap<u64, u64>,
    keys: BTreeMap<u64, u64>,
    entries: BTreeMap<u64, Entry>,
    decided: u64,
    durable: u64,
    under_way: Option<Batch>,
    held: Vec<(u64, Request, Reply)>,
    released: Vec<Effect>,
    /// How far the stream is; the shard is its only one.
    pub(super) outbox: Outbox,
    sent: u64,
    /// It is to go: nothing new is decided.
    pub(super) draining: bool,
}

impl Owner {
    fn new(claimed: Claimed, records: BTreeMap<u64, Entry>, published: u64) -> Self {
        let mut numbers = BTreeMap::new();
        for entry in records.values() {
            let number = numbers.entry(entry.account).or_default();
            *number = entry.number.max(*number);
        }
        let last = records.keys().next_back().copied().unwrap_or(0);
        Self {
            // What is in a claimed bucket is not counted again, as in the product.
            appender: Appender::new(claimed, if last > 0 { u64::MAX } else { 0 }, BUCKET_MAX),
            numbers,
            keys: records.iter().map(|(sequence, entry)| (entry.key, *sequence)).collect(),
            entries: records,
            decided: last,
            durable: last,
            under_way: None,
            held: Vec::new(),
            released: Vec::new(),
            outbox: Outbox::new(&[published]),
            sent: published,
            draining: false,
        }
    }

    pub(super) fn epoch(&self) -> i64 {
        self.appender.epoch()
    }

    pub(super) fn entry(&self, sequence: u64) -> Option<Entry> {
        self.entries.get(&sequence).copied()
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_none() && self.durable == self.decided
    }

    /// Decides a request; its answer waits until the journal has what it saw.
    pub(super) fn decide(&mut self, request: Request) {
        let (saw, reply) = match request.what {
            What::Read => (self.decided, Reply::Seen(self.decided)),
            What::Write { key, account } => {
                let known = self.keys.get(&key).copied();
                let sequence = known.unwrap_or_else(|| {
                    self.decided += 1;
                    let number = self.numbers.entry(account).or_default();
                    *number += 1;
                    self.entries.insert(self.decided, Entry { key, account, number: *number });
                    self.keys.insert(key, self.decided);
                    self.decided
                });
                (sequence, Reply::Written(sequence))
            }
        };
        self.held.push((saw, request, reply));
        self.release();
    }

    fn release(&mut self) {
        let durable = self.durable;
        for (_, request, reply) in self.held.extract_if(.., |held| held.0 <= durable) {
            self.released.push(Effect::Reply(request, reply));
        }
    }

    pub(super) fn released(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.released)
    }

    /// The next batch, if there is one and none is under way.
    pub(super) fn begin_batch(&mut self, shard: u16, batches: &mut u128) -> Option<Statement> {
        if self.under_way.is_some() || self.durable == self.decided {
            return None;
        }
        let first = self.durable + 1;
        let entries: Arc<[Entry]> = self.entries.range(first..).take(BATCH_MAX).map(|(_, entry)| *entry).collect();
        *batches += 1;
        let ask = self.appender.begin(*batches, entries.len() as u64);
        self.under_way = Some(Batch { first, bid: *batches, entries, ask });
        self.statement(shard)
    }

    pub(super) fn statement(&self, shard: u16) -> Option<Statement> {
        let Batch { first, bid, entries, ask } = self.under_way.as_ref()?;
        Some(Statement::Journal { shard, ask: *ask, sequence: *first, row: Some((*bid, Arc::clone(entries))) })
    }

    /// # Errors
    /// A damaged chain.
    pub(super) fn answered(&mut self, answered: Answered) -> Result<OwnerNext, String> {
        let answer = match answered {
            Answered::Journal(answer) => answer,
            _ => Answer::Unknown,
        };
        let Some(batch) = &mut self.under_way else { return Ok(OwnerNext::Durable) };
        match self.appender.answer(answer) {
            Step::Ask(next) => {
                batch.ask = next;
                Ok(OwnerNext::Ask)
            }
            Step::Again(next) => {
                batch.ask = next;
                Ok(OwnerNext::Pause)
            }
            Step::Done => {
                self.durable += batch.entries.len() as u64;
                self.under_way = None;
                self.release();
                Ok(OwnerNext::Durable)
            }
            Step::Deposed(_) => Ok(OwnerNext::Deposed),
            Step::Missing => Err("an owner's bucket is missing".into()),
            Step::Damaged(what) => Err(format!("an owner finds damage: {what}")),
        }
    }

    /// Events that are durable and fit the window.
    pub(super) fn take_unsent(&mut self) -> Vec<(u64, Entry)> {
        let mut found = Vec::new();
        while self.sent < self.durable && self.outbox.waiting() < WINDOW {
            self.sent += 1;
            self.outbox.sent(0, self.sent, 0);
            found.extend(self.entry(self.sent).map(|entry| (self.sent, entry)));
        }
        found
    }
}

/// What follows from an answer to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerNext {
    /// Ask what is to be asked now.
    Ask,
    /// The same after a pause; the outcome is unknown till then.
    Pause,
    /// The batch is durable.
    Durable,
    /// Another node has the shard.
    Deposed,
}
