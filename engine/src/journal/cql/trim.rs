//! Removing the oldest buckets of a shard.
//!
//! First the shard's row says that its chain begins later, then the bucket's rows go, and last the note of the bucket:
//! a removal that a crash cut short is found by that note and finished. What is removed was checkpointed, projected and
//! published, and stays so, so it does no harm when an owner that slept removes it; and as the last bucket that is
//! sealed always stays, no owner that slept takes an end of the chain that is gone for the end.

use std::sync::Arc;

use meed_schemas::ids::Position;
use scylla::statement::prepared::PreparedStatement;

use super::reader::CqlReader;
use super::session::Cql;
use super::statements::unsigned;
use crate::error::Result;

/// The oldest bucket of a shard, which may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareBucket {
    /// Whose.
    pub shard: u16,
    /// Its number.
    pub bucket: i64,
    /// Its last sequence.
    pub up_to: u64,
}

/// Removes buckets.
pub struct Trimmer {
    cql: Arc<Cql>,
    reader: CqlReader,
    begin_later: PreparedStatement,
    first_bucket: PreparedStatement,
    noted: PreparedStatement,
    drop_note: PreparedStatement,
    drop_rows: PreparedStatement,
    replay_start: PreparedStatement,
}

impl Trimmer {
    /// Of the shards of a reader.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn prepare(cql: &Arc<Cql>, reader: CqlReader) -> Result<Self> {
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                reader,
                begin_later: cql
                    .prepare("UPDATE shards SET first_bucket = ? WHERE shard = ? IF first_bucket < ?")
                    .await?,
                first_bucket: cql.prepare_serial("SELECT first_bucket FROM shards WHERE shard = ?").await?,
                noted: cql.prepare("SELECT bucket FROM buckets WHERE shard = ? AND bucket < ?").await?,
                drop_note: cql.prepare("DELETE FROM buckets WHERE shard = ? AND bucket = ?").await?,
                drop_rows: cql.prepare("DELETE FROM journal WHERE shard = ? AND bucket = ?").await?,
                replay_start: cql.prepare("SELECT replay_start FROM checkpoints WHERE shard = ?").await?,
            })
        })
    }

    /// The records that remain.
    pub fn reader(&self) -> &CqlReader {
        &self.reader
    }

    /// The oldest bucket of a shard of this node, unless it has to stay.
    pub fn oldest(&self, shard: u16) -> Option<SpareBucket> {
        let extents = self.reader.extents();
        let (bucket, up_to) = extents.oldest_spare(shard).filter(|_| extents.epoch(shard) != 0)?;
        Some(SpareBucket { shard, bucket, up_to })
    }

    /// The newest record of a bucket.
    ///
    /// # Errors
    /// Damage; the node stops.
    pub fn newest_record(&self, spare: &SpareBucket) -> Result<Option<(Position, Vec<u8>)>> {
        let position = Position::new(spare.shard, spare.up_to);
        Ok(self.reader.read(position)?.map(|payload| (position, payload)))
    }

    /// Up to where a start does not replay the shard, as it is durable.
    ///
    /// # Errors
    /// The node stops.
    pub fn checkpointed(&self, shard: u16) -> Result<u64> {
        let action = "read a checkpoint";
        let values = (i32::from(shard),);
        let rows: Vec<(i64,)> = self.cql.block_on(self.cql.read(action, &self.replay_start, values))?;
        Ok(rows.first().map_or(0, |row| unsigned(row.0).saturating_sub(1)))
    }

    /// Removes a bucket.
    ///
    /// # Errors
    /// The node stops.
    pub fn remove(&self, spare: &SpareBucket) -> Result<()> {
        let next = spare.bucket + 1;
        // Nobody looks there any more before anything is gone.
        self.reader.extents().remove(spare.shard, spare.bucket);
        let shard = i32::from(spare.shard);
        self.cql.block_on(async {
            let action = "move the first bucket of a shard";
            // Refused when an earlier try has moved it.
            self.cql.conditional_resolved(action, &self.begin_later, (next, shard, next)).await?;
            self.drop(shard, spare.bucket).await
        })
    }

    async fn drop(&self, shard: i32, bucket: i64) -> Result<()> {
        self.cql.write("remove a bucket of the journal", &self.drop_rows, (shard, bucket)).await?;
        self.cql.write("remove the note of a bucket", &self.drop_note, (shard, bucket)).await
    }

    /// Finishes the removals of a shard that a crash cut short.
    ///
    /// # Errors
    /// The node stops.
    pub fn finish_removals(&self, shard: u16) -> Result<()> {
        let shard = i32::from(shard);
        self.cql.block_on(async {
            let first: Vec<(i64,)> = self.cql.read("read where a shard begins", &self.first_bucket, (shard,)).await?;
            let Some((first,)) = first.first().copied() else { return Ok(()) };
            let left: Vec<(i64,)> = self.cql.read("read the buckets of a shard", &self.noted, (shard, first)).await?;
            for (bucket,) in left {
                self.drop(shard, bucket).await?;
            }
            Ok(())
        })
    }
}
