//! Reading the journal in CQL: records by position, and everything after a position.

use std::sync::Arc;

use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::RecordKind;

use super::claim::damaged;
use super::extents::Extents;
use super::history::History;
use super::session::Cql;
use super::statements::Statements;
use crate::error::{Error, Result};
use crate::journal::frame;

/// Reads what is durable.
#[derive(Debug, Clone)]
pub struct CqlReader {
    cql: Arc<Cql>,
    statements: Arc<Statements>,
    extents: Arc<Extents>,
    history: Arc<History>,
    journal_id: u128,
}

impl CqlReader {
    /// Of claimed shards.
    pub fn new(
        cql: Arc<Cql>,
        statements: Arc<Statements>,
        extents: Arc<Extents>,
        history: Arc<History>,
        journal_id: u128,
    ) -> Self {
        Self { cql, statements, extents, history, journal_id }
    }

    /// The journal's id.
    pub fn journal_id(&self) -> u128 {
        self.journal_id
    }

    /// How many shards it has.
    pub fn shards(&self) -> u16 {
        self.extents.shards()
    }

    fn by_shard<T>(&self, of: impl Fn(u16) -> T) -> Vec<T> {
        (0..self.extents.shards()).map(of).collect()
    }

    /// By shard, the sequence of its last durable record; 0 = none.
    pub fn last_sequence(&self) -> Vec<u64> {
        self.by_shard(|shard| self.extents.last(shard))
    }

    /// By shard, the epoch that it is owned under; 0 where it is not.
    pub fn epochs(&self) -> Vec<i64> {
        self.by_shard(|shard| self.extents.epoch(shard))
    }

    /// By shard, the sequence up to which its records are no longer kept.
    pub fn removed_sequence(&self) -> Vec<u64> {
        self.by_shard(|shard| self.extents.removed(shard))
    }

    /// The history of accounts.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Where the records are.
    pub fn extents(&self) -> &Arc<Extents> {
        &self.extents
    }

    /// Every effect of a shard up to this sequence has its row in the history.
    pub fn projected(&self, shard: u16) -> u64 {
        self.extents.projected(shard)
    }

    /// The history of a shard is written up to this sequence.
    pub fn set_projected(&self, shard: u16, sequence: u64) {
        self.extents.set_projected(shard, sequence);
    }

    /// As [`History::page`].
    ///
    /// # Errors
    /// The node stops.
    pub fn page(
        &self,
        identity: &Identity,
        from: Position,
        kind: Option<RecordKind>,
        limit: usize,
    ) -> Result<Vec<(Position, Vec<u8>)>> {
        self.history.page(identity, from, kind, limit)
    }

    /// The record at a position; `None` when the shard's durable records do not reach it, or no longer.
    ///
    /// # Errors
    /// Damage; the node stops.
    pub fn read(&self, position: Position) -> Result<Option<Vec<u8>>> {
        let (shard, sequence) = (position.shard(), position.sequence());
        if sequence == 0 || sequence > self.extents.last(shard) || sequence <= self.extents.removed(shard) {
            return Ok(None);
        }
        let Some(bucket) = self.extents.after(shard, sequence - 1).first().copied() else { return Ok(None) };
        let frames = match self.extents.recent_at(shard, sequence) {
            Some(frames) => Some(frames),
            None => {
                let row = self.statements.row_at(&self.cql, i32::from(shard), bucket, sequence);
                self.cql.block_on(row)?.map(|(_, frames)| frames.into())
            }
        };
        for found in frame::verified(frames.as_deref().unwrap_or_default()) {
            let found = found.map_err(|fault| damaged(shard, bucket, fault.detail))?;
            if found.position() == position {
                return Ok(Some(found.payload().to_vec()));
            }
        }
        // It may have gone since it was looked for.
        match sequence <= self.extents.removed(shard) {
            true => Ok(None),
            false => Err(damaged(shard, bucket, &format!("record {position} is missing"))),
        }
    }

    /// Every durable record of the chosen shards with a sequence greater than `from[shard]`, shard by shard in order,
    /// up to what is durable when the scan begins. What is no longer kept is passed over.
    ///
    /// # Errors
    /// Damage; a fault that `visit` returns; the node stops.
    pub fn scan(
        &self,
        from: &[u64],
        shards: &dyn Fn(u16) -> bool,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for shard in (0..self.extents.shards()).filter(|shard| shards(*shard)) {
            let last = self.extents.last(shard);
            let from = from.get(usize::from(shard)).copied().unwrap_or(0);
            if from < last {
                let mut visitor = Visitor { shard, next: from + 1, last, has_gap: false, visit: &mut *visit };
                while let Err(missing) = self.scan_shard(&mut visitor)? {
                    // It may have gone since it was looked for.
                    let removed = self.extents.removed(shard);
                    if visitor.next > removed {
                        return Err(missing);
                    }
                    (visitor.next, visitor.has_gap) = (removed + 1, false);
                }
            }
        }
        Ok(())
    }

    /// The inner error says that a record is not there.
    fn scan_shard(&self, visitor: &mut Visitor<'_>) -> Result<std::result::Result<(), Error>> {
        let shard = visitor.shard;
        let removed = self.extents.removed(shard);
        visitor.next = visitor.next.max(removed + 1);
        let from = visitor.next;
        if let Some(batches) = self.extents.recent_from(shard, from) {
            batches.iter().try_for_each(|frames| visitor.take(0, frames))?;
            return Ok(visitor.is_through());
        }
        let number = i32::from(shard);
        self.cql.block_on(async {
            for (index, bucket) in self.extents.after(shard, from - 1).into_iter().enumerate() {
                let mut begin = visitor.next;
                if index == 0 {
                    // The row may have begun before.
                    let row = self.statements.row_at(&self.cql, number, bucket, begin).await?;
                    begin = row.map_or(begin, |(sequence, _)| sequence);
                }
                let visit_row = &mut |_, frames: &[u8]| visitor.take(bucket, frames);
                self.statements.rows_from(&self.cql, number, bucket, begin, visit_row).await?;
                if visitor.has_gap {
                    break;
                }
            }
            Ok::<(), Error>(())
        })?;
        Ok(visitor.is_through())
    }
}

/// One shard's records in order.
struct Visitor<'a> {
    shard: u16,
    next: u64,
    last: u64,
    has_gap: bool,
    visit: &'a mut dyn FnMut(Position, &[u8]) -> Result<()>,
}

impl Visitor<'_> {
    fn take(&mut self, bucket: i64, frames: &[u8]) -> Result<()> {
        for found in frame::verified(frames) {
            let found = found.map_err(|fault| damaged(self.shard, bucket, fault.detail))?;
            let position = found.position();
            if self.has_gap || position.sequence() < self.next || position.sequence() > self.last {
                continue;
            }
            if position != Position::new(self.shard, self.next) {
                self.has_gap = true;
                continue;
            }
            self.next += 1;
            (self.visit)(position, found.payload())?;
        }
        Ok(())
    }

    fn is_through(&self) -> std::result::Result<(), Error> {
        match self.next > self.last {
            true => Ok(()),
            false => Err(damaged(self.shard, 0, &format!("record {} is missing", self.next))),
        }
    }
}
