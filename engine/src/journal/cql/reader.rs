//! Reading the journal in CQL: records by position, and everything after a position.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
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
    /// Of shards of other nodes, as they were when they were last looked at; only for who reads the journals of all.
    others: Option<Arc<Others>>,
    history: Arc<History>,
    journal_id: u128,
}

/// What was found of other nodes' shards.
#[derive(Debug)]
struct Others {
    extents: Extents,
    looked_at: tokio::sync::Mutex<Option<Instant>>,
}

/// Shards of other nodes that are looked at at the same time.
const LOOKS_AT_ONCE: usize = 8;

impl CqlReader {
    /// Of claimed shards.
    pub fn new(
        cql: Arc<Cql>,
        statements: Arc<Statements>,
        extents: Arc<Extents>,
        history: Arc<History>,
        journal_id: u128,
    ) -> Self {
        Self { cql, statements, extents, others: None, history, journal_id }
    }

    /// The same for who reads the journals of all nodes, once [`CqlReader::refresh`] has looked at them.
    pub fn of_all_nodes(&self) -> Self {
        let others = Others { extents: Extents::new(self.shards()), looked_at: tokio::sync::Mutex::new(None) };
        Self { others: Some(Arc::new(others)), ..self.clone() }
    }

    /// Where the records of a shard are: as this node knows, or as it was found.
    fn at(&self, shard: u16) -> &Extents {
        match &self.others {
            Some(others) if self.extents.epoch(shard) == 0 => &others.extents,
            _ => &self.extents,
        }
    }

    /// Looks how far the shards of other nodes are, unless that was done less than `age_max` ago. This node knows its
    /// own shards' by itself.
    ///
    /// # Errors
    /// The node stops.
    pub async fn refresh(&self, age_max: Duration) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        let mut looked_at = others.looked_at.lock().await;
        if looked_at.is_some_and(|at| at.elapsed() < age_max) {
            return Ok(());
        }
        let (reader, found) = (self.clone(), Arc::clone(others));
        let looked = self.cql.spawn(async move {
            let foreign: Vec<u16> = (0..reader.shards()).filter(|shard| reader.extents.epoch(*shard) == 0).collect();
            for some in foreign.chunks(LOOKS_AT_ONCE) {
                try_join_all(some.iter().map(|shard| reader.look(&found.extents, *shard))).await?;
            }
            Ok(())
        });
        let looked = looked.await.unwrap_or_else(|_| Err(Error::Stopped("a look at the journal panicked".into())));
        *looked_at = Some(Instant::now());
        looked
    }

    async fn look(&self, found: &Extents, shard: u16) -> Result<()> {
        let number = i32::from(shard);
        let buckets = self.statements.buckets(&self.cql, number).await?;
        let Some((_, last)) = buckets.last() else { return Ok(()) };
        if let Some(tail) = self.statements.tail(&self.cql, number, *last).await? {
            found.set(shard, buckets, tail.last_sequence, 0);
        }
        Ok(())
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
        self.by_shard(|shard| self.at(shard).last(shard))
    }

    /// By shard, the epoch that it is owned under; 0 where it is not.
    pub fn epochs(&self) -> Vec<i64> {
        self.by_shard(|shard| self.extents.epoch(shard))
    }

    /// The epoch that a shard is owned under; `None` while it is not.
    pub fn tenure(&self, shard: u16) -> Option<i64> {
        Some(self.extents.epoch(shard)).filter(|epoch| *epoch != 0)
    }

    /// By shard, the sequence up to which its records are no longer kept.
    pub fn removed_sequence(&self) -> Vec<u64> {
        self.by_shard(|shard| self.at(shard).removed(shard))
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
        if sequence == 0 || sequence > self.at(shard).last(shard) || sequence <= self.at(shard).removed(shard) {
            return Ok(None);
        }
        let Some(bucket) = self.at(shard).after(shard, sequence - 1).first().copied() else { return Ok(None) };
        let frames = match self.at(shard).recent_at(shard, sequence) {
            Some(frames) => Some(frames),
            None => {
                let row = self.statements.row_at(&self.cql, shard, bucket, sequence);
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
        match sequence <= self.removed_by_now(shard)? {
            true => Ok(None),
            false => Err(damaged(shard, bucket, &format!("record {position} is missing"))),
        }
    }

    /// Up to which sequence a shard's records are no longer kept, as the cluster says: an owner that slept may have
    /// removed buckets that it had found spare before another owned the shard.
    fn removed_by_now(&self, shard: u16) -> Result<u64> {
        if let Some((first, _)) = self.cql.block_on(self.statements.shard(&self.cql, i32::from(shard)))? {
            self.at(shard).begin_with(shard, first);
        }
        Ok(self.at(shard).removed(shard))
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
            let tenure = self.tenure(shard);
            let last = self.at(shard).last(shard);
            let from = from.get(usize::from(shard)).copied().unwrap_or(0);
            if from < last {
                let mut visitor = Visitor { shard, next: from + 1, last, has_gap: false, visit: &mut *visit };
                while let Err(missing) = self.scan_shard(&mut visitor)? {
                    // The shard may have gone to another node: what is left of it is read when it was looked at there.
                    if self.tenure(shard) != tenure {
                        break;
                    }
                    // It may have gone since it was looked for.
                    let removed = self.removed_by_now(shard)?;
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
        let removed = self.at(shard).removed(shard);
        visitor.next = visitor.next.max(removed + 1);
        let from = visitor.next;
        if let Some(batches) = self.at(shard).recent_from(shard, from) {
            batches.iter().try_for_each(|frames| visitor.take(0, frames))?;
            return Ok(visitor.is_through());
        }
        self.cql.block_on(async {
            for (index, bucket) in self.at(shard).after(shard, from - 1).into_iter().enumerate() {
                let mut begin = visitor.next;
                if index == 0 {
                    // The row may have begun before.
                    let row = self.statements.row_at(&self.cql, shard, bucket, begin).await?;
                    begin = row.map_or(begin, |(sequence, _)| sequence);
                }
                let visit_row = &mut |_, frames: &[u8]| visitor.take(bucket, frames);
                self.statements.rows_from(&self.cql, shard, bucket, begin, visit_row).await?;
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
