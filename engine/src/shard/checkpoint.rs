//! Fuzzy incremental checkpoints.
//!
//! A blob is copied in a turn of its own, at shard sequence s, and reaches the store only once the journal
//! has passed s. Replay starts at the lowest sequence that no blob covers: the first sequence of the oldest
//! account that is still dirty. Totals and replay start travel in the same store batch as the blobs.

use hashbrown::HashSet;
use meed_schemas::codec;
use meed_schemas::ids::Identity;
use meed_schemas::time::Millis;

use super::table::{Resident, scope};
use super::{Checkpoint, Copied, Held, Output, Shard, ShardLimits, World};
use crate::account::{FactKey, FactValue, Totals};
use crate::commit::Lane;
use crate::error::Result;
use crate::planted::{Fault, planted};
use crate::store::{self, AccountWrite, KeyClass, ShardCheckpoint, ShardState, SpilledKey};

/// Spilled keys in one store batch, past which no account is added. They cost the store a fraction of a row.
const KEYS_PER_BATCH: usize = 8_192;
/// Spilled facts of one account that wait in memory; with more it is checkpointed out of turn, so that an
/// account that is always in use does not gather a batch of any size.
pub(super) const OVERLAY_FACTS: usize = 256;
/// Store batches of one shard under way.
const BATCHES_MAX: u32 = 2;
/// The part of the checkpoints' interval over which one is spread: half, so that it ends before the next begins.
const SPREAD_PARTS: i64 = 2;
/// Shards begin their checkpoints at so many different times, one after the other.
const PHASES: i64 = 16;

/// How far the running checkpoint is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Everything dirty before this sequence is to be written.
    target: u64,
    /// Accounts that were dirty when it began, and how many of them were taken since.
    size: u64,
    taken: u64,
    began_at_ms: i64,
    /// What is dirty since before this sequence is not spread over time, whatever checkpoint it is in by then: too much
    /// was dirty, memory was short, or the shard is to be in the store as it is.
    urgent: u64,
    batches_under_way: u32,
    accounts_under_way: usize,
    next_at_ms: i64,
    /// Lowest sequence that is in no store batch handed over yet.
    replay_start: u64,
}

impl Progress {
    /// Of shard `id`, at the start of its node.
    pub(super) fn of(id: u16, interval_ms: i64) -> Self {
        Self { next_at_ms: interval_ms / PHASES * (i64::from(id) % PHASES), ..Self::default() }
    }

    /// Begins a checkpoint of everything before `target`.
    fn begin(&mut self, target: u64, size: usize, now_ms: i64) {
        *self = Self { target, size: size as u64, taken: 0, began_at_ms: now_ms, ..*self };
    }

    /// How many accounts that are not urgent may be taken now. All at once would keep the processors and the disk from
    /// requests for as long as the store takes for them, every interval anew.
    fn allowance(&self, now_ms: i64, limits: &ShardLimits) -> u64 {
        let interval_ms = limits.checkpoint_interval_ms;
        let spread_ms = (interval_ms / SPREAD_PARTS) as u64;
        let passed_ms = now_ms.saturating_sub(self.began_at_ms).max(0) as u64;
        if passed_ms >= spread_ms {
            return u64::MAX;
        }
        let share = self.size.saturating_mul(passed_ms) / spread_ms;
        let allowed = share.next_multiple_of(limits.checkpoint_step).max(limits.checkpoint_step);
        allowed.saturating_sub(self.taken)
    }
}

/// What a shard tells of itself.
#[derive(Debug, Clone, Default)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// Accounts in memory.
    pub resident: u64,
    /// Accounts that exist and are not in memory.
    pub passivated: u64,
    /// Bytes of accounts in memory.
    pub resident_bytes: u64,
    /// Accounts that wait until memory has room for them.
    pub held_loads: u64,
    /// Records not covered by a checkpoint.
    pub lag_records: u64,
    /// Totals per program and wallet.
    pub totals: Totals,
}

impl Shard {
    /// Begins a checkpoint of everything that is dirty, when it is time or too much is.
    pub(super) fn checkpoint_tick(&mut self, world: &World) {
        let lag = self.lag_records();
        let is_long = lag > self.limits.checkpoint_records;
        let is_taken = self.dirty.front().is_none_or(|(since, _)| *since >= self.checkpoint.target);
        // One that is under way is not begun anew, or what is left of it would be spread over time again.
        let is_large = is_taken && self.is_mostly_dirty();
        if lag > 0 && (world.elapsed_ms >= self.checkpoint.next_at_ms || is_long || is_large) {
            self.checkpoint.begin(self.next_sequence, self.dirty.len(), world.elapsed_ms);
            self.checkpoint.next_at_ms = world.elapsed_ms + self.limits.checkpoint_interval_ms;
        }
        if is_long || self.is_short() {
            self.checkpoint.urgent = self.checkpoint.target;
        }
    }

    /// Makes everything dirty go to the store as soon as possible, and lets in what waits for room in memory: a shard
    /// that is to go gets no ticks, and is not quiet before.
    pub fn checkpoint_all(&mut self, world: &World, lane: &mut Lane<Held>, out: &mut Output) -> Result<()> {
        self.load_all(out);
        self.checkpoint.begin(self.next_sequence, self.dirty.len(), world.elapsed_ms);
        self.checkpoint.urgent = self.next_sequence;
        self.checkpoint_step(world, lane, out)
    }

    /// Records from the replay start on.
    pub fn lag_records(&self) -> u64 {
        self.dirty.front().map_or(0, |(since, _)| self.next_sequence - since)
    }

    /// Accounts that have changed and are not written, about: one may be counted twice.
    pub fn dirty_accounts(&self) -> u64 {
        (self.dirty.len() + self.checkpoint.accounts_under_way) as u64
    }

    /// Whether everything is in the store.
    pub fn is_checkpointed(&self) -> bool {
        self.dirty.is_empty() && self.checkpoint.batches_under_way == 0
    }

    /// Whether nothing that the shard began is under way: no load, no command that waits for one, no checkpoint.
    pub fn is_quiet(&self) -> bool {
        self.waiting == 0 && self.is_checkpointed()
    }

    /// Copies dirty accounts into store batches, oldest first, as far as the target and the bound allow.
    pub(super) fn checkpoint_step(&mut self, world: &World, lane: &mut Lane<Held>, out: &mut Output) -> Result<()> {
        let mut allowance = self.checkpoint.allowance(world.elapsed_ms, &self.limits);
        while self.checkpoint.batches_under_way < BATCHES_MAX {
            let mut accounts = Vec::new();
            let mut copied = Vec::new();
            let mut keys = Vec::new();
            let mut rows = 0;
            while rows < self.limits.checkpoint_rows
                && keys.len() < KEYS_PER_BATCH
                && let Some((since, hash)) = self.next_dirty(&mut allowance)
            {
                let seed = self.table.seed();
                // A record is of one account. One that was written out of turn since it was queued is not found.
                let is_wanted = |resident: &Resident| match resident {
                    Resident::Live(live) => since.map_or(live.queued_overfull, |since| live.dirty_since == since),
                    Resident::Packed(_) | Resident::Loading(_) => false,
                };
                let Some((identity, Resident::Live(live))) = self.table.by_hash(hash, is_wanted) else { continue };
                live.queued_overfull = false;
                if live.dirty_since == 0 {
                    continue;
                }
                let write = live.copy(identity, scope(identity, seed), &mut keys);
                rows += 1 + write.facts.len();
                copied.push((identity.clone(), live.writing_up_to));
                accounts.push(write);
            }
            if accounts.is_empty() {
                break;
            }
            self.checkpoint.batches_under_way += 1;
            self.checkpoint.accounts_under_way += accounts.len();
            self.checkpoint.replay_start = self.dirty.front().map_or(self.next_sequence, |d| d.0);
            let state = ShardState {
                replay_start: self.checkpoint.replay_start,
                totals: encode_state(self.last_recorded_at, &self.totals),
                totals_sequence: self.next_sequence - 1,
                accounts: self.accounts,
            };
            let batch = ShardCheckpoint { shard: self.id, accounts, keys, state };
            // Held until the journal has the last record decided: blobs, totals and count are of now.
            let held = Held::Checkpoint(Checkpoint { rows: Box::new(batch), copied });
            let saw = if planted(Fault::CheckpointAhead) { 0 } else { self.next_sequence - 1 };
            out.ready.extend(lane.hold(self.id, saw, held));
        }
        Ok(())
    }

    /// The account to be written next: one with many spilled facts, else the one that is dirty longest, if it is urgent
    /// or another is allowed; this one with its first record that no checkpoint has.
    fn next_dirty(&mut self, allowance: &mut u64) -> Option<(Option<u64>, u64)> {
        if let Some(hash) = self.overfull.pop_front() {
            return Some((None, hash));
        }
        let Progress { target, urgent, .. } = self.checkpoint;
        let is_allowed = *allowance > 0;
        let (since, hash) = self.dirty.pop_front_if(|d| d.0 < urgent || (d.0 < target && is_allowed))?;
        if since >= urgent {
            *allowance -= 1;
            self.checkpoint.taken += 1;
        }
        Some((Some(since), hash))
    }

    /// The store has these accounts as of these sequences. What was spilled before may be forgotten, unless
    /// a command waits whose look-up may have begun before the write.
    pub(super) fn checkpoint_done(&mut self, accounts: &Copied) {
        self.checkpoint.batches_under_way -= 1;
        self.checkpoint.accounts_under_way -= accounts.len();
        for (identity, sequence) in accounts {
            let hash = self.table.hash(identity);
            let Some(Resident::Live(live)) = self.table.get_mut(hash, identity) else { continue };
            live.writes_under_way -= 1;
            if live.waiting.is_empty() {
                live.account.drop_overlay(*sequence);
            }
        }
    }

    /// What the node's metrics show of this shard.
    pub fn report(&self) -> ShardReport {
        ShardReport {
            shard: self.id,
            resident: self.resident_accounts,
            passivated: self.accounts - self.resident_accounts,
            resident_bytes: self.resident_bytes as u64,
            held_loads: self.held_loads() as u64,
            lag_records: self.lag_records(),
            totals: self.totals.clone(),
        }
    }
}

impl super::table::Live {
    /// Copies the account for the store, as of its last record.
    fn copy(&mut self, identity: &Identity, scope: u128, keys: &mut Vec<SpilledKey>) -> AccountWrite {
        let mut blob = Vec::with_capacity(192);
        self.account.encode(&mut blob);
        let due = self.account.next_due();
        let mut facts = Vec::new();
        // Of a fact that was evicted more than once the last value counts: rows of one checkpoint have one timestamp,
        // by which a store cannot tell them apart.
        let mut seen = HashSet::new();
        for spilled in self.account.overlay().iter().rev().filter(|s| s.at > self.writing_up_to) {
            if !seen.insert(spilled.fact) {
                continue;
            }
            match (spilled.fact, &spilled.value) {
                (FactKey::Key { .. }, _) if planted(Fault::LoseSpilledKey) => {}
                (FactKey::Key { hash, business }, FactValue::Outcome(outcome)) => keys.push(SpilledKey {
                    class: if business { KeyClass::Business } else { KeyClass::Idempotency },
                    week: store::week_of(spilled.recorded_at),
                    hash: hash ^ scope,
                    value: outcome.to_bytes(),
                }),
                (FactKey::Reversed(original), value) => {
                    facts.push((store::FactKey::Reversed(original), value.encode()))
                }
                (FactKey::ExpiredLot(at), value) => facts.push((store::FactKey::ExpiredLot(at), value.encode())),
                (FactKey::ClosedHold(hold), value) => facts.push((store::FactKey::ClosedHold(hold), value.encode())),
                (FactKey::Key { .. }, _) => unreachable!("the value of a key is an outcome"),
            }
        }
        let write = AccountWrite { identity: identity.clone(), blob, due, due_before: self.due_in_store, facts };
        self.due_in_store = due;
        self.dirty_since = 0;
        self.writing_up_to = self.account.applied();
        self.writes_under_way += 1;
        write
    }
}

/// The part of a shard's state that the store keeps without looking at it.
pub fn encode_state(last_recorded_at: Millis, totals: &Totals) -> Vec<u8> {
    let mut out = vec![STATE_FORMAT];
    codec::put_signed(&mut out, last_recorded_at);
    totals.encode(&mut out);
    out
}

const STATE_FORMAT: u8 = 1;

/// Reads what [`encode_state`] wrote: the last `recorded_at` and the totals.
///
/// # Errors
/// Bytes of another form.
pub fn decode_state(bytes: &[u8]) -> std::result::Result<(Millis, Totals), codec::CodecError> {
    let r = &mut codec::Reader::new(bytes);
    match r.byte("state format")? {
        STATE_FORMAT => {}
        newer => return Err(codec::CodecError::NewerFormat(newer)),
    }
    let last_recorded_at = r.signed("state")?;
    Ok((last_recorded_at, Totals::decode(r.rest())?))
}
