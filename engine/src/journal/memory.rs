//! Records in memory, as somebody has read them: for the simulator.

use std::collections::BTreeMap;
use std::sync::Arc;

use meed_schemas::ids::Position;

use super::frame;
use crate::error::{Error, Result};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemoryRecords {
    /// By shard and sequence.
    records: BTreeMap<(u16, u64), Arc<[u8]>>,
    last: Vec<u64>,
    removed: Vec<u64>,
}

impl MemoryRecords {
    /// Of shards without a record.
    pub fn new(shards: u16) -> Self {
        let none = vec![0; usize::from(shards)];
        Self { records: BTreeMap::new(), last: none.clone(), removed: none }
    }

    /// Up to `removed` they are no longer kept, and `last` is the last one.
    pub fn set_extent(&mut self, shard: u16, removed: u64, last: u64) {
        (self.removed[usize::from(shard)], self.last[usize::from(shard)]) = (removed, last);
    }

    /// Adds what frames hold.
    ///
    /// # Errors
    /// Damage.
    pub fn add(&mut self, frames: &[u8]) -> Result<()> {
        for found in frame::verified(frames) {
            let found = found.map_err(|fault| missing(fault.detail.to_owned()))?;
            let position = found.position();
            self.put(position, found.payload().into());
        }
        Ok(())
    }

    /// Adds a record.
    pub fn put(&mut self, position: Position, payload: Arc<[u8]>) {
        self.records.insert((position.shard(), position.sequence()), payload);
    }

    pub(super) fn last_sequence(&self) -> Vec<u64> {
        self.last.clone()
    }

    pub(super) fn removed_sequence(&self) -> Vec<u64> {
        self.removed.clone()
    }

    pub(super) fn read(&self, position: Position) -> Option<Vec<u8>> {
        self.records.get(&(position.shard(), position.sequence())).map(|payload| payload.to_vec())
    }

    pub(super) fn scan(
        &self,
        from: &[u64],
        shards: &dyn Fn(u16) -> bool,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for (shard, last) in (0..).zip(&self.last).filter(|(shard, _)| shards(*shard)) {
            let first = from.get(usize::from(shard)).copied().unwrap_or(0).max(self.removed[usize::from(shard)]) + 1;
            for sequence in first..=*last {
                let position = Position::new(shard, sequence);
                let payload = self.records.get(&(shard, sequence));
                visit(position, payload.ok_or_else(|| missing(format!("record {position} is missing")))?)?;
            }
        }
        Ok(())
    }
}

fn missing(detail: String) -> Error {
    Error::Damaged { file: "the journal in memory".into(), offset: 0, detail }
}
