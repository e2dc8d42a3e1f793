//! The state store: what is checkpointed of the accounts, so that a start replays only the journal's tail.
//!
//! Blobs are opaque here: this module never decides, decodes or dates anything about an account. A store is
//! called from one thread only, its own; nothing in it is shared. A write that failed poisons it: every later
//! call is an error, and the recovery is the restart.

pub mod cql;
mod database;
mod fjall;
mod keys;
mod memory;
mod room;
mod runs;
mod simulated;
mod torn;
mod view;
mod weeks;
pub mod snapshot;

use std::ops::RangeInclusive;
use std::path::Path;

use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;

use crate::error::{Error, Result};
pub(crate) use database::{Database, DatabaseSettings, ROOM_LOOK_PAUSE, sync_folder};
pub use memory::MemoryStore;
pub use simulated::{SimulatedStore, StoreSnapshot};

/// Most accounts in one checkpoint. Also the caller's to bound is the sum of its blobs: a batch lies in memory
/// beside the memtables, so a checkpoint past a few MiB should be cut in two.
pub const CHECKPOINT_ACCOUNTS_MAX: usize = 4096;
/// Days in the unit in which spilled keys are dropped.
pub const DAYS_PER_WEEK: u32 = 7;

/// The memory of a store. Its sum is part of the node's bound.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of the cache of blocks and filters.
    pub cache_bytes: u64,
    /// Bytes of what was written and is not yet in tables, being flushed included.
    pub memtable_bytes: u64,
    /// Most table files held open.
    pub open_files: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, memtable_bytes: 64 << 20, open_files: 256 }
    }
}

/// The families of keys that are remembered, each kept for a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyClass {
    /// `Idempotency-Key` headers.
    Idempotency,
    /// Business keys.
    Business,
}

/// Bytes of what is kept of a spilled key.
pub const KEY_VALUE_BYTES: usize = 16;

/// A key that an account's blob no longer holds. Kept until its week is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpilledKey {
    /// Family of the key.
    pub class: KeyClass,
    /// Week in which it was recorded: see [`week_of`].
    pub week: u32,
    /// Hash of the key and its account, uniform over all 128 bits.
    pub hash: u128,
    /// Its outcome, opaque.
    pub value: [u8; KEY_VALUE_BYTES],
}

/// A place among the spilled keys of a shard: see [`Store::spilled_keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    class: KeyClass,
    week: u32,
    run: u32,
    block: u32,
}

impl KeyPlace {
    /// Before the first key.
    pub const FIRST: Self = Self { class: KeyClass::Idempotency, week: 0, run: 0, block: 0 };
}

/// A fact about an account that its blob no longer holds, other than a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKey {
    /// How much of an original (its packed position) has been reversed. Kept for ever.
    Reversed(u64),
    /// What expired unspent of a lot (its instant). Kept for ever.
    ExpiredLot(i64),
    /// How a hold (its packed position) was closed. Kept for ever.
    ClosedHold(u64),
}

/// Which fact is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactQuery {
    /// The outcome of a key, in these weeks, newest first.
    Key {
        /// Family of the key.
        class: KeyClass,
        /// As [`SpilledKey::hash`].
        hash: u128,
        /// Weeks of recording to search. Weeks without a key cost nothing.
        weeks: RangeInclusive<u32>,
    },
    /// As [`FactKey::Reversed`].
    Reversed(u64),
    /// As [`FactKey::ExpiredLot`].
    ExpiredLot(i64),
    /// As [`FactKey::ClosedHold`].
    ClosedHold(u64),
}

/// The week of an instant, as facts are dropped by: days since the epoch / 7.
pub fn week_of(at: Millis) -> u32 {
    let week = at.div_euclid(meed_schemas::time::DAY_MS).div_euclid(i64::from(DAYS_PER_WEEK));
    u32::try_from(week.max(0)).unwrap_or(u32::MAX)
}

/// What one checkpoint of a shard changes, all of it in one atomic batch.
#[derive(Clone, Debug)]
pub struct ShardCheckpoint {
    /// The shard.
    pub shard: u16,
    /// The accounts that changed, at most [`CHECKPOINT_ACCOUNTS_MAX`].
    pub accounts: Vec<AccountWrite>,
    /// The keys that their blobs no longer hold. A key of a week that was dropped is not kept.
    pub keys: Vec<SpilledKey>,
    /// The state of the shard after them.
    pub state: ShardState,
}

/// How far a shard is checkpointed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// Lowest shard sequence whose effect the store may lack: replay begins here.
    pub replay_start: u64,
    /// The shard's totals, opaque.
    pub totals: Vec<u8>,
    /// Highest shard sequence that `totals` has.
    pub totals_sequence: u64,
    /// Number of accounts of the shard in the store.
    pub accounts: u64,
}

/// One account's part of a checkpoint.
#[derive(Clone, Debug)]
pub struct AccountWrite {
    /// Who it is.
    pub identity: Identity,
    /// Its state, which replaces the one stored.
    pub blob: Vec<u8>,
    /// The due instant that the previous checkpoint of this account gave: its row is replaced. Taken from the
    /// caller so that a checkpoint reads nothing.
    pub due_before: Option<Millis>,
    /// The instant at which the account has something to settle, if it has one.
    pub due: Option<Millis>,
    /// Other facts that the blob no longer holds.
    pub facts: Vec<(FactKey, Vec<u8>)>,
}

/// The state store of a node.
// Made once and never moved, so the size of its larger variant is of no account.
#[allow(clippy::large_enum_variant)]
pub enum Store {
    /// On disk.
    Fjall(fjall::FjallStore),
    /// In memory, with a medium that outlives the process.
    Simulated(SimulatedStore),
    /// In a CQL cluster.
    Cql(cql::CqlStore),
}

macro_rules! dispatch {
    (StoreView $self:expr, $view:ident => $call:expr) => {
        match $self {
            StoreView::Fjall($view) => $call,
            StoreView::Memory($view) => $call,
        }
    };
    ($self:expr, $store:ident => $call:expr) => {
        match $self {
            Store::Fjall($store) => $call,
            Store::Simulated($store) => $call,
            Store::Cql($store) => $call,
        }
    };
}

impl Store {
    /// Opens the store in `dir`, and creates it if the folder does not exist. It appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it belongs to another journal, [`Error::NewerFormat`], [`Error::Locked`],
    /// [`Error::Damaged`].
    pub fn open(dir: &Path, journal_id: [u8; 16], options: &StoreOptions) -> Result<Self> {
        fjall::FjallStore::open(dir, journal_id, options).map(Self::Fjall)
    }

    /// An empty store in memory.
    pub fn in_memory() -> Self {
        Self::Simulated(SimulatedStore::default())
    }

    /// Writes a checkpoint as one atomic batch: a reader, and a start after a kill, sees all of it or nothing.
    /// Durable against power loss after the next [`Store::sync`]. May wait for memory to be flushed.
    pub fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) -> Result<()> {
        if checkpoint.accounts.len() > CHECKPOINT_ACCOUNTS_MAX {
            return Err(Error::Store {
                action: "checkpoint",
                detail: format!(
                    "{} accounts in one batch, at most {CHECKPOINT_ACCOUNTS_MAX}",
                    checkpoint.accounts.len()
                ),
            });
        }
        dispatch!(self, store => store.checkpoint(checkpoint))
    }

    /// Makes everything written before it survive power loss.
    pub fn sync(&mut self) -> Result<()> {
        match self {
            Self::Fjall(store) => store.sync(),
            Self::Simulated(store) => store.sync(),
            // Every write was durable when it returned.
            Self::Cql(_) => Ok(()),
        }
    }

    /// Whether [`Store::checkpoint`] would not wait for what was written before.
    ///
    /// # Errors
    /// A fault of the store.
    pub fn has_room(&self) -> Result<bool> {
        match self {
            Self::Fjall(store) => store.has_room(),
            Self::Simulated(_) | Self::Cql(_) => Ok(true),
        }
    }

    /// The blob of an account.
    pub fn load(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        dispatch!(self, store => store.load(shard, identity))
    }

    /// As [`Store::load`] for each, in order; many at once where that is quicker.
    pub fn load_many(&self, wanted: &[(u16, Identity)]) -> Result<Vec<Option<Vec<u8>>>> {
        match self {
            Self::Cql(store) => store.load_many(wanted),
            _ => wanted.iter().map(|(shard, identity)| self.load(*shard, identity)).collect(),
        }
    }

    /// A fact that an account's blob no longer holds.
    pub fn spilled(&self, shard: u16, identity: &Identity, query: &FactQuery) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Fjall(store) => store.spilled(shard, identity, query),
            Self::Simulated(store) => store.spilled(shard, identity, query),
            Self::Cql(store) => {
                let wanted = (shard, identity.clone(), query.clone());
                Ok(store.spilled_many(&[wanted])?.pop().flatten())
            }
        }
    }

    /// As [`Store::spilled`] for each, in order; many at once where that is quicker.
    pub fn spilled_many(&self, wanted: &[(u16, Identity, FactQuery)]) -> Result<Vec<Option<Vec<u8>>>> {
        match self {
            Self::Cql(store) => store.spilled_many(wanted),
            _ => wanted.iter().map(|(shard, identity, query)| self.spilled(*shard, identity, query)).collect(),
        }
    }

    /// Hashes of the keys that a shard has spilled, from a place on: at least `limit` if there are as many; and
    /// the place after them, `None` at the end. Checkpoints may come between two calls: every key that was
    /// there at the first one is seen, some perhaps twice.
    pub fn spilled_keys(&self, shard: u16, from: KeyPlace, limit: usize) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        dispatch!(self, store => store.spilled_keys(shard, from, limit))
    }

    /// The accounts of a shard that are due at or before `up_to`, by instant and identity: at most `limit`,
    /// those after `after`. An account stays in the index until a checkpoint changes its due instant, so a
    /// sweep passes the last pair that it was given until it is through.
    pub fn due(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        dispatch!(self, store => store.due(shard, up_to, after, limit))
    }

    /// The state of a shard, `None` before its first checkpoint.
    pub fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        dispatch!(self, store => store.shard_state(shard))
    }

    /// Visits the accounts of a shard, of one kind or of all, in the order of their identities (the order of
    /// a snapshot). Ends at the first error, which it returns.
    pub fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        dispatch!(self, store => store.accounts(shard, kind, visit))
    }

    /// Drops all keys of `class` of the weeks before `week`, for all shards, and refuses to keep any later.
    /// Durable when it returns. Going back is ignored.
    pub fn drop_fact_weeks_before(&mut self, class: KeyClass, week: u32) -> Result<()> {
        match self {
            Self::Fjall(store) => store.drop_fact_weeks_before(class, week),
            Self::Simulated(store) => store.drop_fact_weeks_before(class, week),
            // There they go by their time to live.
            Self::Cql(_) => Ok(()),
        }
    }

    /// Everything as of now, to be read beside what is written from now on, by any thread.
    ///
    /// # Errors
    /// A store in CQL has no views.
    pub fn view(&self) -> Result<StoreView> {
        Ok(match self {
            Self::Fjall(store) => StoreView::Fjall(store.view()),
            Self::Simulated(store) => StoreView::Memory(store.view()),
            Self::Cql(_) => return Err(not_in_cql("view")),
        })
    }

    /// Puts facts in that a snapshot has.
    ///
    /// # Errors
    /// A store in CQL takes none.
    pub fn put_facts(&mut self, shard: u16, facts: &[(Identity, FactKey, Vec<u8>)]) -> Result<()> {
        match self {
            Self::Fjall(store) => store.put_facts(shard, facts),
            Self::Simulated(store) => store.put_facts(shard, facts),
            Self::Cql(_) => Err(not_in_cql("put facts into")),
        }
    }

    /// A value by name.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        dispatch!(self, store => store.meta(name))
    }

    /// Another node had the shard: what is remembered of its rows is old.
    pub fn forget(&mut self, shard: u16) {
        if let Self::Cql(store) = self {
            store.forget(shard);
        }
    }

    /// The value under this name, which is `value` when there is none yet; durable when it returns.
    pub fn meta_or_insert(&mut self, name: &str, value: &[u8]) -> Result<Vec<u8>> {
        if let Self::Cql(store) = self {
            return store.meta_or_insert(name, value);
        }
        if let Some(found) = self.meta(name)? {
            return Ok(found);
        }
        self.put_meta(name, value)?;
        Ok(value.to_vec())
    }

    /// Keeps a value by name, durable when it returns.
    pub fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<()> {
        dispatch!(self, store => store.put_meta(name, value))
    }
}

fn not_in_cql(action: &'static str) -> Error {
    Error::Store { action, detail: "snapshots are of a state in a folder, not of one in CQL".into() }
}

/// Takes a fact and its value.
type VisitFact<'a> = &'a mut dyn FnMut(Identity, FactKey, &[u8]) -> Result<()>;

/// A store as it was at an instant. Keeps the disk from forgetting what was replaced since: not for long.
pub enum StoreView {
    /// On disk.
    Fjall(view::FjallView),
    /// In memory.
    Memory(MemoryStore),
}

impl StoreView {
    /// Per shard, the lowest sequence whose effect may be missing: 1 for a shard without checkpoint.
    pub fn replay_starts(&self, shards: u16) -> Result<Vec<u64>> {
        let state = |shard| dispatch!(StoreView self, view => view.shard_state(shard));
        (0..shards).map(|shard| Ok(state(shard)?.map_or(1, |state| state.replay_start.max(1)))).collect()
    }

    /// Visits everything in the order of a snapshot's rows, `shards` being how many there are. Ends at the first
    /// error, which it returns.
    pub fn rows(&self, shards: u16, visit: &mut dyn FnMut(snapshot::SnapshotRow) -> Result<()>) -> Result<()> {
        use snapshot::SnapshotRow;
        dispatch!(StoreView self, view => {
            view.metas(&mut |name, value| visit(SnapshotRow::Meta { name, value: value.to_vec() }))?;
            for shard in 0..shards {
                let Some(state) = view.shard_state(shard)? else { continue };
                visit(SnapshotRow::Shard { shard, state })?;
                view.accounts(shard, None, &mut |identity, blob| {
                    visit(SnapshotRow::Account { identity, blob: blob.to_vec() })
                })?;
                view.facts(shard, &mut |identity, fact, value| {
                    visit(SnapshotRow::Fact { identity, fact, value: value.to_vec() })
                })?;
                view.keys(shard, &mut |key| visit(SnapshotRow::Key(key)))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
