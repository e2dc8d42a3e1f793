//! How far shards are published, in CQL.

use std::sync::Arc;

use scylla::statement::prepared::PreparedStatement;

use super::{signed, unsigned};
use crate::error::{Error, Result};
use crate::journal::cql::Cql;

/// The rows of the published watermarks. A row only grows, because its timestamp is its sequence: an owner that slept
/// and writes late changes nothing.
pub struct PublishedRows {
    cql: Arc<Cql>,
    rows: PreparedStatement,
    pin: PreparedStatement,
    pinned: PreparedStatement,
    put: PreparedStatement,
}

impl std::fmt::Debug for PublishedRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublishedRows(..)")
    }
}

impl PublishedRows {
    /// Opens the table in the keyspace in use.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open(cql: &Arc<Cql>) -> Result<Self> {
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                rows: cql.prepare("SELECT shard, sequence FROM published WHERE topic = ?").await?,
                pin: cql.prepare("UPDATE published SET partitions = ? WHERE topic = ? IF partitions = null").await?,
                pinned: cql.prepare_serial("SELECT partitions FROM published WHERE topic = ? LIMIT 1").await?,
                put: cql
                    .prepare("INSERT INTO published (topic, shard, sequence) VALUES (?, ?, ?) USING TIMESTAMP ?")
                    .await?,
            })
        })
    }

    /// The partitions that the shards of a topic are spread over, 0 before its first publication; and by shard, its
    /// last sequence that is published without a gap.
    ///
    /// # Errors
    /// The node stops.
    pub fn read(&self, topic: &str, shards: u16) -> Result<(u32, Vec<u64>)> {
        self.cql.block_on(async {
            let partitions = self.read_pinned(topic).await?;
            type Row = (Option<i32>, Option<i64>);
            let rows: Vec<Row> = self.cql.read("read what is published", &self.rows, (topic,)).await?;
            let mut published = vec![0; usize::from(shards)];
            for (shard, sequence) in rows {
                let slot = shard.and_then(|shard| published.get_mut(usize::try_from(shard).ok()?));
                if let (Some(slot), Some(sequence)) = (slot, sequence) {
                    *slot = unsigned(sequence);
                }
            }
            Ok((partitions, published))
        })
    }

    /// Pins the partitions of a topic, unless that was done; returns what is pinned.
    ///
    /// # Errors
    /// The node stops.
    pub fn pin(&self, topic: &str, partitions: u32) -> Result<u32> {
        self.cql.block_on(async {
            let values = (i32::try_from(partitions).unwrap_or(i32::MAX), topic);
            // Refused when another node, or an earlier try, was first: what is read afterwards counts.
            self.cql.conditional_resolved("pin the partitions of a topic", &self.pin, values).await?;
            match self.read_pinned(topic).await? {
                0 => Err(Error::cql("pin the partitions of a topic", "they are not there after they were written")),
                pinned => Ok(pinned),
            }
        })
    }

    async fn read_pinned(&self, topic: &str) -> Result<u32> {
        let action = "read the partitions of a topic";
        let rows: Vec<(Option<i32>,)> = self.cql.read(action, &self.pinned, (topic,)).await?;
        Ok(rows.first().and_then(|row| row.0).map_or(0, i32::unsigned_abs))
    }

    /// Saves how far a shard is published in a topic. A lower sequence than the one that is there changes nothing.
    ///
    /// # Errors
    /// The node stops.
    pub fn put(&self, topic: &str, shard: u16, sequence: u64) -> Result<()> {
        let sequence = signed(sequence);
        let values = (topic, i32::from(shard), sequence, sequence);
        self.cql.block_on(self.cql.write("save what is published", &self.put, values))
    }
}
