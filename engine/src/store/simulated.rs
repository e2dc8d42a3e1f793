//! The state store of the simulator and of tests: in memory, with a memory of what is on its medium. A batch is whole
//! or not at all; what was written survives a kill; what was synced survives the loss of power, and of what came after
//! it a prefix does. The store that nodes of a simulated cluster share is in `torture::nodes`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;

use super::memory::MemoryStore;
use super::{FactKey, FactQuery, KeyClass, KeyPlace, ShardCheckpoint, ShardState};
use crate::error::{Error, Result};
use crate::random::Random;

#[derive(Clone, Debug)]
enum Change {
    Checkpoint(Box<ShardCheckpoint>),
    Drop(KeyClass, u32),
    Meta(String, Vec<u8>),
    Facts(u16, Vec<(Identity, FactKey, Vec<u8>)>),
}

#[derive(Clone, Debug, Default)]
struct State {
    written: MemoryStore,
    medium: MemoryStore,
    unsynced: Vec<Change>,
    changes: u64,
    /// The change in whose middle the process is killed, and whether that change is there afterwards.
    armed: Option<(u64, bool)>,
    is_dead: bool,
}

/// The store. Clones are the same store, so that what it holds outlives a process.
#[derive(Clone, Debug, Default)]
pub struct SimulatedStore(Arc<Mutex<State>>);

/// What a store held, to go back to.
#[derive(Clone, Debug, Default)]
pub struct StoreSnapshot(State);

fn dead() -> Error {
    Error::Store { action: "write", detail: "the process was killed".to_owned() }
}

impl MemoryStore {
    fn carry_out(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
            Change::Drop(class, week) => self.drop_fact_weeks_before(*class, *week),
            Change::Meta(name, value) => self.put_meta(name, value),
            Change::Facts(shard, facts) => self.put_facts(*shard, facts),
        }
    }
}

impl State {
    fn change(&mut self, change: Change) -> Result<()> {
        if self.is_dead {
            return Err(dead());
        }
        self.changes += 1;
        let fate = self.armed.filter(|(at, _)| *at <= self.changes);
        if fate.is_none_or(|(_, is_there)| is_there) {
            self.written.carry_out(&change)?;
            self.unsynced.push(change);
        }
        if fate.is_some() {
            self.armed = None;
            self.is_dead = true;
            return Err(dead());
        }
        Ok(())
    }

    fn flush(&mut self, count: usize) -> Result<()> {
        for change in self.unsynced.drain(..count) {
            self.medium.carry_out(&change)?;
        }
        Ok(())
    }
}

impl SimulatedStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process is killed in the middle of the `after`-th change from now on, which `is_there` afterwards or not.
    pub fn arm(&self, after: u64, is_there: bool) {
        let mut state = self.state();
        state.armed = Some((state.changes + after.max(1), is_there));
    }

    /// Whether the armed kill has happened in this life of the process.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// Nothing fails any more.
    pub fn calm(&self) {
        self.state().armed = None;
    }

    /// The process is gone; what was written is there.
    pub fn end_process(&self) {
        let mut state = self.state();
        state.armed = None;
        state.is_dead = false;
    }

    /// The power goes, and with it the process.
    ///
    /// # Errors
    /// Of the store in memory; none is known.
    pub fn cut_power(&self, seed: u64) -> Result<()> {
        self.end_process();
        let mut state = self.state();
        let mut random = Random(seed);
        let kept = if random.chance(50) { random.below(state.unsynced.len() + 1) } else { 0 };
        state.flush(kept)?;
        state.unsynced.clear();
        state.written = state.medium.clone();
        Ok(())
    }

    /// What it holds.
    pub fn snapshot(&self) -> StoreSnapshot {
        StoreSnapshot(self.state().clone())
    }

    /// Goes back to what it held, for a new process.
    pub fn restore(&self, snapshot: &StoreSnapshot) {
        *self.state() = snapshot.0.clone();
        self.end_process();
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) -> Result<()> {
        self.state().change(Change::Checkpoint(Box::new(checkpoint.clone())))
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        let mut state = self.state();
        if state.is_dead {
            return Err(dead());
        }
        let count = state.unsynced.len();
        state.flush(count)
    }

    pub(super) fn load(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        self.state().written.load(shard, identity)
    }

    pub(super) fn spilled(&self, shard: u16, identity: &Identity, query: &FactQuery) -> Result<Option<Vec<u8>>> {
        self.state().written.spilled(shard, identity, query)
    }

    pub(super) fn spilled_keys(
        &self,
        shard: u16,
        from: KeyPlace,
        limit: usize,
    ) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        self.state().written.spilled_keys(shard, from, limit)
    }

    pub(super) fn due(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        self.state().written.due(shard, up_to, after, limit)
    }

    pub(super) fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        self.state().written.shard_state(shard)
    }

    pub(super) fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.state().written.accounts(shard, kind, visit)
    }

    pub(super) fn drop_fact_weeks_before(&mut self, class: KeyClass, week: u32) -> Result<()> {
        self.state().change(Change::Drop(class, week))?;
        self.sync()
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.state().written.meta(name)
    }

    pub(super) fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.state().change(Change::Meta(name.to_owned(), value.to_vec()))?;
        self.sync()
    }

    pub(super) fn put_facts(&mut self, shard: u16, facts: &[(Identity, FactKey, Vec<u8>)]) -> Result<()> {
        self.state().change(Change::Facts(shard, facts.to_vec()))
    }

    pub(super) fn view(&self) -> MemoryStore {
        self.state().written.clone()
    }
}
