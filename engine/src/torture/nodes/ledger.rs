//! What clients and readers of the stream saw, held against what the cluster has. Each owner of a shard has an auditor
//! of its own, which knows what it has to decide; the next owner's begins with what is durable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use meed_schemas::codec;
use meed_schemas::command;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;
use meed_schemas::time::{DAY_MS, Millis};

use super::keyspace::Batch;
use super::message::Entry;
use crate::account::{Account, Totals};
use crate::journal::MemoryRecords;
use crate::journal::frame::verified;
use crate::recovery::ShardRecovery;
use crate::shard::{IDEMPOTENCY_KEY_DAYS, encode_state};
use crate::torture::auditor::{Auditor, has_key};

type Found = Result<(), String>;
/// Gives an account's state in the store.
type Stored<'a> = &'a dyn Fn(&Identity) -> Option<Vec<u8>>;

/// Somebody who reads the stream by the rules: what is not newer than the account's last is dropped.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    /// By account: the last number.
    last: BTreeMap<Identity, u64>,
    seen: BTreeMap<(u16, u64), Arc<[u8]>>,
    /// Events that were not dropped, by shard.
    taken: BTreeMap<u16, u64>,
}

impl Consumer {
    /// # Errors
    /// A gap; an event that comes again with other content.
    pub(super) fn takes(&mut self, shard: u16, sequence: u64, entry: &Entry) -> Found {
        let before = self.seen.insert((shard, sequence), Arc::clone(&entry.record));
        if before.is_some_and(|before| before != entry.record) {
            return Err(format!("the stream has two records {sequence} of shard {shard}, one is {entry:?}"));
        }
        let last = self.last.entry(entry.identity.clone()).or_default();
        if entry.number <= *last {
            return Ok(());
        }
        if entry.number != *last + 1 {
            return Err(format!("the stream has a gap: {entry:?} of shard {shard} comes after number {last}"));
        }
        *last = entry.number;
        *self.taken.entry(shard).or_default() += 1;
        Ok(())
    }
}

/// One shard's records as they became durable; none ever goes.
#[derive(Default)]
struct Journal {
    records: Vec<Arc<[u8]>>,
    /// By record: when it became durable.
    durable_at: Vec<i64>,
    /// By first sequence: the batch.
    batches: BTreeMap<u64, u128>,
    /// The highest sequence that somebody was told of. Whoever asks later must see it.
    shown: u64,
    /// The newest epoch under which it was claimed.
    claimed: i64,
}

/// See the module.
pub(super) struct Ledger {
    journals: Vec<Journal>,
    /// By batch, the auditor of its owner.
    decided_by: BTreeMap<u128, Rc<RefCell<Auditor>>>,
    blank: Auditor,
    /// Where each ask was executed, as its client knows.
    told: BTreeMap<u32, Position>,
    pub(super) consumer: Consumer,
}

/// A shard as all its records make it.
struct Replayed {
    accounts: BTreeMap<Identity, Account>,
    totals: Totals,
    last_recorded_at: Millis,
}

fn decode(position: Position, payload: &[u8]) -> Result<Record, String> {
    codec::decode(position, payload).map_err(|error| format!("record {position}: {error}"))
}

fn encoded(account: &Account) -> Vec<u8> {
    let mut blob = Vec::new();
    account.encode(&mut blob);
    blob
}

impl Ledger {
    /// Of shards without a record; `blank` is the auditor of a shard that is new.
    pub(super) fn new(shards: u16, blank: Auditor) -> Self {
        Self {
            journals: (0..shards).map(|_| Journal::default()).collect(),
            decided_by: BTreeMap::new(),
            blank,
            told: BTreeMap::new(),
            consumer: Consumer::default(),
        }
    }

    fn of(&self, shard: u16) -> &Journal {
        &self.journals[usize::from(shard)]
    }

    /// What a request that is sent now has to see.
    pub(super) fn shown(&self, shard: u16) -> u64 {
        self.of(shard).shown
    }

    /// The newest epoch of a shard.
    pub(super) fn claimed(&self, shard: u16) -> i64 {
        self.of(shard).claimed
    }

    /// Where an ask was executed, as its client knows.
    pub(super) fn told(&self, ask: u32) -> Option<Position> {
        self.told.get(&ask).copied()
    }

    /// Somebody has claimed a shard.
    pub(super) fn note_claim(&mut self, shard: u16, epoch: i64) {
        let journal = &mut self.journals[usize::from(shard)];
        journal.claimed = journal.claimed.max(epoch);
    }

    /// An owner is about to append a batch that it has decided.
    pub(super) fn note_batch(&mut self, bid: u128, auditor: &Rc<RefCell<Auditor>>) {
        self.decided_by.insert(bid, Rc::clone(auditor));
    }

    /// A batch is durable.
    ///
    /// # Errors
    /// It does not continue what was.
    pub(super) fn appended(&mut self, shard: u16, first: u64, bid: u128, batch: &Batch, now: i64) -> Found {
        let journal = &mut self.journals[usize::from(shard)];
        let next = journal.records.len() as u64 + 1;
        if first != next {
            return Err(format!("shard {shard} has record {first} where {next} belongs"));
        }
        journal.batches.insert(first, bid);
        for found in verified(&batch.frames) {
            let frame = found.map_err(|fault| fault.detail.to_owned())?;
            if frame.position() != Position::new(shard, journal.records.len() as u64 + 1) {
                return Err(format!("record {} lies in batch {first} of shard {shard}", frame.position()));
            }
            journal.records.push(frame.payload().into());
            journal.durable_at.push(now);
        }
        Ok(())
    }

    /// Somebody who has claimed a shard looks where its journal ends.
    ///
    /// # Errors
    /// It ends elsewhere.
    pub(super) fn check_end(&self, shard: u16, last: u64) -> Found {
        let durable = self.of(shard).records.len() as u64;
        if durable != last {
            return Err(format!("the journal of shard {shard} ends at {last} and {durable} became durable"));
        }
        Ok(())
    }

    /// The auditor of the next owner of a shard, which has found these records.
    ///
    /// # Errors
    /// They are not what was decided.
    pub(super) fn begin(&self, shard: u16, last: u64, removed: u64) -> Result<Auditor, String> {
        let journal = self.of(shard);
        let newest = journal.batches.range(..=last).next_back().and_then(|(_, bid)| self.decided_by.get(bid));
        let mut auditor = match newest {
            Some(auditor) => auditor.borrow().fork(shard, last)?,
            None => self.blank.fork(shard, last)?,
        };
        for (sequence, record) in (1..=last).zip(&journal.records) {
            if auditor.bytes(Position::new(shard, sequence)) != Some(record) {
                return Err(format!("record {sequence} of shard {shard} is not what was decided"));
            }
        }
        let mut gone = vec![0; self.journals.len()];
        gone[usize::from(shard)] = removed;
        auditor.removed(&gone, None, None)?;
        Ok(auditor)
    }

    fn replay(&self, shard: u16, last: u64) -> Result<Replayed, String> {
        let (mut accounts, mut totals, mut last_recorded_at) = (BTreeMap::new(), Totals::default(), 0);
        for (sequence, payload) in (1..=last).zip(&self.of(shard).records) {
            let record = decode(Position::new(shard, sequence), payload)?;
            let identity = record.identity.clone();
            let account = accounts.entry(identity).or_insert_with(Account::blank);
            account.apply(&record);
            account.drop_overlay(u64::MAX);
            totals.add(&record);
            last_recorded_at = record.recorded_at;
        }
        Ok(Replayed { accounts, totals, last_recorded_at })
    }

    /// Copies the records of a shard after a sequence; the last one.
    pub(super) fn copy_records(&self, shard: u16, removed: u64, records: &mut MemoryRecords) -> u64 {
        let all = &self.of(shard).records;
        let last = all.len() as u64;
        records.set_extent(shard, removed, last);
        for (sequence, payload) in (1..=last).zip(all).skip(removed as usize) {
            records.put(Position::new(shard, sequence), Arc::clone(payload));
        }
        last
    }

    /// Holds what a recovery came to against a replay of everything. What it has not replayed the store must have:
    /// `stored` gives an account's state there.
    ///
    /// # Errors
    /// What is different.
    pub(super) fn check_recovered(&self, recovery: &ShardRecovery, stored: Option<Stored<'_>>) -> Found {
        let start = &recovery.start;
        let all = self.replay(start.id, start.last_sequence)?;
        let counted = all.accounts.values().filter(|account| account.exists()).count() as u64;
        let (shard, count) = (start.id, start.accounts);
        if counted != count {
            return Err(format!("shard {shard} is recovered with {count} accounts, a replay of all gives {counted}"));
        }
        if encode_state(start.last_recorded_at, &start.totals) != encode_state(all.last_recorded_at, &all.totals) {
            return Err(format!("the totals of shard {shard} as recovered are not those of a replay of all records"));
        }
        let mut rest = all.accounts;
        for (identity, live) in &start.replayed {
            let replayed = rest.remove(identity);
            if replayed.is_none_or(|replayed| encoded(&replayed) != encoded(&live.account)) {
                return Err(format!("{identity:?} as recovered is not what a replay of all records gives"));
            }
        }
        let Some(stored) = stored else { return Ok(()) };
        for (identity, account) in rest {
            if stored(&identity) != Some(encoded(&account)) {
                return Err(format!("{identity:?} in the store is not what a replay of all records gives"));
            }
        }
        Ok(())
    }

    /// A client has an answer that it waited for, or a late one to a try that it had given up: then `shown_before` is 0.
    ///
    /// # Errors
    /// An answer that cannot be.
    pub(super) fn replied(
        &mut self,
        (ask, request, shard): (u32, &command::Request, u16),
        (reply, durable, shown): (&Reply, u64, u64),
        shown_before: u64,
    ) -> Found {
        if durable < shown_before {
            return Err(format!("an answer of shard {shard} saw {durable} when {shown_before} had been shown before"));
        }
        let journal = &mut self.journals[usize::from(shard)];
        let there = journal.records.len() as u64;
        if shown > there {
            return Err(format!("record {shown} of shard {shard} was shown, and {there} are durable"));
        }
        journal.shown = journal.shown.max(shown);
        let record = match reply {
            Reply::Executed { record, .. } | Reply::Outcome(record) => record,
            _ => return Ok(()),
        };
        let mut payload = Vec::new();
        codec::encode(record, &mut payload);
        let there = self.of(shard).records.get((record.position.sequence() as usize).wrapping_sub(1));
        if there.is_none_or(|there| **there != *payload) {
            return Err(format!("request {ask} is answered by {record:?}, and {there:?} is there"));
        }
        if !matches!(reply, Reply::Executed { .. }) {
            return Ok(());
        }
        let first = *self.told.entry(ask).or_insert(record.position);
        if first != record.position && has_key(request) && !self.is_aged(shard, first, record.recorded_at)? {
            return Err(format!("request {ask} has two effects: {first} and {record:?}"));
        }
        Ok(())
    }

    /// Whether the key of a record may have been forgotten by an instant.
    fn is_aged(&self, shard: u16, first: Position, at: Millis) -> Result<bool, String> {
        let payload = self.of(shard).records.get(first.sequence() as usize - 1);
        let payload = payload.ok_or_else(|| format!("record {first} was told and is gone"))?;
        Ok(at.saturating_sub(decode(first, payload)?.recorded_at) > IDEMPOTENCY_KEY_DAYS * DAY_MS)
    }

    /// At the end: the stream has every effect that was durable at `until`, and none that is not.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check_stream(&self, until: i64) -> Found {
        for (shard, journal) in (0..).zip(&self.journals) {
            let (mut effects, mut older) = (0, 0);
            for ((sequence, payload), durable_at) in (1..).zip(&journal.records).zip(&journal.durable_at) {
                let is_effect = decode(Position::new(shard, sequence), payload)?.kind.is_effect();
                effects += u64::from(is_effect);
                older += u64::from(is_effect && *durable_at <= until);
            }
            let taken = self.consumer.taken.get(&shard).copied().unwrap_or(0);
            if !(older..=effects).contains(&taken) {
                return Err(format!(
                    "shard {shard} has {effects} effects, {older} of them older, and the stream {taken}"
                ));
            }
        }
        Ok(())
    }
}
