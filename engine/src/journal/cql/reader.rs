//! Reading the journal in CQL: records by position, and everything after a position.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use meed_schemas::ids::Position;

use super::claim::damaged;
use super::session::Cql;
use super::statements::Statements;
use crate::error::{Error, Result};
use crate::journal::frame;

/// Where the records of this node's shards are.
#[derive(Debug)]
pub struct Extents {
    shards: Vec<Extent>,
}

#[derive(Debug, Default)]
struct Extent {
    /// First sequences and buckets, ascending.
    buckets: RwLock<Vec<(u64, i64)>>,
    /// Sequence of the last record that is durable.
    last: AtomicU64,
    /// The epoch that the shard is owned under, 0 while it is not.
    epoch: AtomicI64,
}

impl Extent {
    fn removed(&self) -> u64 {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.first().map_or(0, |(first, _)| first - 1)
    }
}

impl Extents {
    pub(super) fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| Extent::default()).collect() }
    }

    pub(super) fn set(&self, shard: u16, buckets: Vec<(u64, i64)>, last: u64, epoch: i64) {
        let extent = &self.shards[usize::from(shard)];
        *extent.buckets.write().unwrap_or_else(PoisonError::into_inner) = buckets;
        extent.last.store(last, Ordering::Release);
        extent.epoch.store(epoch, Ordering::Release);
    }

    pub(super) fn has(&self, shard: u16, bucket: i64) -> bool {
        let buckets = self.shards[usize::from(shard)].buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.last().is_some_and(|last| last.1 >= bucket)
    }

    pub(super) fn add(&self, shard: u16, first_sequence: u64, bucket: i64) {
        let mut buckets = self.shards[usize::from(shard)].buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.push((first_sequence, bucket));
    }

    pub(super) fn append(&self, shard: u16, last: u64) {
        self.shards[usize::from(shard)].last.store(last, Ordering::Release);
    }

    fn last(&self, shard: u16) -> u64 {
        self.shards.get(usize::from(shard)).map_or(0, |extent| extent.last.load(Ordering::Acquire))
    }

    /// The buckets with records after `sequence`.
    fn after(&self, shard: u16, sequence: u64) -> Vec<i64> {
        let buckets = self.shards[usize::from(shard)].buckets.read().unwrap_or_else(PoisonError::into_inner);
        let begin = buckets.partition_point(|(first, _)| *first <= sequence + 1).saturating_sub(1);
        buckets[begin..].iter().map(|(_, bucket)| *bucket).collect()
    }
}

/// Reads what is durable.
#[derive(Debug, Clone)]
pub struct CqlReader {
    cql: Arc<Cql>,
    statements: Arc<Statements>,
    extents: Arc<Extents>,
    journal_id: u128,
}

impl CqlReader {
    /// Of claimed shards.
    pub fn new(cql: Arc<Cql>, statements: Arc<Statements>, extents: Arc<Extents>, journal_id: u128) -> Self {
        Self { cql, statements, extents, journal_id }
    }

    /// The journal's id.
    pub fn journal_id(&self) -> u128 {
        self.journal_id
    }

    /// How many shards it has.
    pub fn shards(&self) -> u16 {
        self.extents.shards.len() as u16
    }

    /// By shard, the sequence of its last durable record; 0 = none.
    pub fn last_sequence(&self) -> Vec<u64> {
        (0..self.extents.shards.len()).map(|shard| self.extents.last(shard as u16)).collect()
    }

    /// By shard, the epoch that it is owned under; 0 where it is not.
    pub fn epochs(&self) -> Vec<i64> {
        self.extents.shards.iter().map(|extent| extent.epoch.load(Ordering::Acquire)).collect()
    }

    /// By shard, the sequence up to which its records are no longer kept.
    pub fn removed_sequence(&self) -> Vec<u64> {
        self.extents.shards.iter().map(Extent::removed).collect()
    }

    /// The record at a position; `None` when the shard's durable records do not reach it.
    ///
    /// # Errors
    /// Damage; the node stops.
    pub fn read(&self, position: Position) -> Result<Option<Vec<u8>>> {
        let (shard, sequence) = (position.shard(), position.sequence());
        if sequence == 0 || sequence > self.extents.last(shard) {
            return Ok(None);
        }
        let Some(bucket) = self.extents.after(shard, sequence - 1).first().copied() else { return Ok(None) };
        let row = self.cql.block_on(self.statements.row_at(&self.cql, i32::from(shard), bucket, sequence))?;
        let missing = || damaged(shard, bucket, &format!("record {position} is missing"));
        let (_, frames) = row.ok_or_else(missing)?;
        for found in frame::verified(&frames) {
            let found = found.map_err(|fault| damaged(shard, bucket, fault.detail))?;
            if found.position() == position {
                return Ok(Some(found.payload().to_vec()));
            }
        }
        Err(missing())
    }

    /// Every durable record of the chosen shards with a sequence greater than `from[shard]`, shard by shard in order,
    /// up to what is durable when the scan begins.
    ///
    /// # Errors
    /// Damage; a fault that `visit` returns; the node stops.
    pub fn scan(
        &self,
        from: &[u64],
        shards: &dyn Fn(u16) -> bool,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for shard in (0..self.extents.shards.len() as u16).filter(|shard| shards(*shard)) {
            let last = self.extents.last(shard);
            let from = from.get(usize::from(shard)).copied().unwrap_or(0);
            if from < last {
                self.scan_shard(shard, from, last, visit)?;
            }
        }
        Ok(())
    }

    fn scan_shard(
        &self,
        shard: u16,
        from: u64,
        last: u64,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let number = i32::from(shard);
        let mut next = from + 1;
        self.cql.block_on(async {
            for (index, bucket) in self.extents.after(shard, from).into_iter().enumerate() {
                let mut begin = next;
                if index == 0 {
                    // The row may have begun before.
                    let row = self.statements.row_at(&self.cql, number, bucket, next).await?;
                    begin = row.map_or(next, |(sequence, _)| sequence);
                }
                let visit_row = &mut |_, frames: &[u8]| {
                    for found in frame::verified(frames) {
                        let found = found.map_err(|fault| damaged(shard, bucket, fault.detail))?;
                        let position = found.position();
                        if position.sequence() < next || position.sequence() > last {
                            continue;
                        }
                        if position != Position::new(shard, next) {
                            return Err(damaged(shard, bucket, &format!("record {next} is missing")));
                        }
                        next += 1;
                        visit(position, found.payload())?;
                    }
                    Ok(())
                };
                self.statements.rows_from(&self.cql, number, bucket, begin, visit_row).await?;
            }
            Ok::<(), Error>(())
        })?;
        match next > last {
            true => Ok(()),
            false => Err(damaged(shard, 0, &format!("record {next} is missing"))),
        }
    }
}
