//! The statements of the journal's tables.

use scylla::statement::prepared::PreparedStatement;

use super::claim::damaged;
use super::machine::{Answer, Ask};
use super::session::Cql;
use crate::error::Result;
use crate::journal::{BATCH_BYTES_MAX, lz4};

/// A batch as it is appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) sequence: u64,
    pub(super) bid: u128,
    pub(super) count: usize,
    /// Length of its frames.
    pub(super) bytes: usize,
    /// The frames, or packed where that is shorter.
    pub(super) body: &'a [u8],
}

/// Where something in the journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// First sequence of the bucket.
    pub(super) first_sequence: u64,
    /// Sequence of its last record, or that of the record before it.
    pub(super) last_sequence: u64,
}

/// All that asks the journal's tables.
#[derive(Debug)]
pub struct Statements {
    append: PreparedStatement,
    seal: PreparedStatement,
    open: PreparedStatement,
    raise: PreparedStatement,
    raise_sealed: PreparedStatement,
    fence: PreparedStatement,
    tail: PreparedStatement,
    shard: PreparedStatement,
    register: PreparedStatement,
    move_hint: PreparedStatement,
    add_bucket: PreparedStatement,
    buckets: PreparedStatement,
    row_at: PreparedStatement,
    rows_from: PreparedStatement,
}

pub(super) fn signed(sequence: u64) -> i64 {
    // Sequences have at most 52 bits.
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(sequence: i64) -> u64 {
    u64::try_from(sequence).unwrap_or(0)
}

impl Statements {
    /// Prepares them in the keyspace in use.
    ///
    /// # Errors
    /// The cluster refuses one.
    pub fn prepare(cql: &Cql) -> Result<Self> {
        cql.block_on(Self::prepare_all(cql))
    }

    async fn prepare_all(cql: &Cql) -> Result<Self> {
        Ok(Self {
            append: cql
                .prepare(
                    "UPDATE journal SET bid = ?, count = ?, bytes = ?, body = ? WHERE shard = ? AND bucket = ? AND seq = ? \
                     IF epoch = ? AND sealed != true AND bid = null",
                )
                .await?,
            seal: cql.prepare("UPDATE journal SET sealed = true WHERE shard = ? AND bucket = ? IF epoch = ?").await?,
            open: cql
                .prepare(
                    "UPDATE journal SET epoch = ?, first_sequence = ? WHERE shard = ? AND bucket = ? IF epoch = null",
                )
                .await?,
            raise: cql
                .prepare("UPDATE journal SET epoch = ? WHERE shard = ? AND bucket = ? IF epoch = ? AND sealed != true")
                .await?,
            raise_sealed: cql
                .prepare("UPDATE journal SET epoch = ? WHERE shard = ? AND bucket = ? IF epoch = ?")
                .await?,
            fence: cql
                .prepare_serial("SELECT epoch, sealed FROM journal WHERE shard = ? AND bucket = ? LIMIT 1")
                .await?,
            tail: cql
                .prepare_serial(
                    "SELECT first_sequence, seq, count FROM journal WHERE shard = ? AND bucket = ? \
                     ORDER BY seq DESC LIMIT 1",
                )
                .await?,
            shard: cql.prepare_serial("SELECT first_bucket, head_hint FROM shards WHERE shard = ?").await?,
            register: cql
                .prepare("INSERT INTO shards (shard, first_bucket, head_hint) VALUES (?, ?, ?) IF NOT EXISTS")
                .await?,
            move_hint: cql.prepare("UPDATE shards SET head_hint = ? WHERE shard = ? IF head_hint < ?").await?,
            add_bucket: cql.prepare("INSERT INTO buckets (shard, bucket, first_sequence) VALUES (?, ?, ?)").await?,
            buckets: cql.prepare("SELECT bucket, first_sequence FROM buckets WHERE shard = ?").await?,
            row_at: cql
                .prepare(
                    "SELECT seq, bytes, body FROM journal WHERE shard = ? AND bucket = ? AND seq <= ? \
                     ORDER BY seq DESC LIMIT 1",
                )
                .await?,
            rows_from: cql
                .prepare_batches("SELECT seq, bytes, body FROM journal WHERE shard = ? AND bucket = ? AND seq >= ?")
                .await?,
        })
    }

    /// Asks once what the machine wants to know. `first_sequence` is that of a bucket that is opened.
    pub(super) async fn execute(
        &self,
        cql: &Cql,
        shard: i32,
        ask: Ask,
        batch: Option<Batch<'_>>,
        first_sequence: u64,
    ) -> Result<(Answer, String)> {
        match ask {
            Ask::Append { bucket, epoch } => {
                let Some(Batch { sequence, bid, count, bytes, body }) = batch else {
                    return Ok((Answer::Unknown, "nothing to append".into()));
                };
                let bid = bid.to_be_bytes();
                let (count, bytes) =
                    (i32::try_from(count).unwrap_or(i32::MAX), i32::try_from(bytes).unwrap_or(i32::MAX));
                let values = (&bid[..], count, bytes, body, shard, bucket, signed(sequence), epoch);
                cql.conditional("append to the journal", &self.append, values).await
            }
            Ask::Seal { bucket, epoch } => {
                cql.conditional("seal a bucket of the journal", &self.seal, (shard, bucket, epoch)).await
            }
            Ask::Open { bucket, epoch } => {
                let values = (epoch, signed(first_sequence), shard, bucket);
                cql.conditional("open a bucket of the journal", &self.open, values).await
            }
            Ask::Raise { bucket, from, to, sealed } => {
                let raise = if sealed { &self.raise_sealed } else { &self.raise };
                cql.conditional("claim a bucket of the journal", raise, (to, shard, bucket, from)).await
            }
            Ask::Read { bucket } => {
                let action = "read the epoch of a bucket";
                let rows: Vec<(Option<i64>, Option<bool>)> = cql.read(action, &self.fence, (shard, bucket)).await?;
                let (epoch, sealed) = rows.first().copied().unwrap_or_default();
                Ok((Answer::Bucket { epoch, sealed: sealed == Some(true) }, String::new()))
            }
        }
    }

    /// Where a bucket ends; `None` when there is no such bucket.
    pub(super) async fn tail(&self, cql: &Cql, shard: i32, bucket: i64) -> Result<Option<Tail>> {
        type Row = (Option<i64>, Option<i64>, Option<i32>);
        let rows: Vec<Row> = cql.read("read the end of the journal", &self.tail, (shard, bucket)).await?;
        Ok(rows.first().and_then(|&(first, sequence, count)| {
            let first_sequence = unsigned(first?);
            let count = u64::try_from(count.unwrap_or(0)).unwrap_or(0);
            let last_sequence = match sequence {
                Some(sequence) => unsigned(sequence) + count - 1,
                None => first_sequence - 1,
            };
            Some(Tail { first_sequence, last_sequence })
        }))
    }

    /// The first kept bucket and the hint of a shard that exists.
    pub(super) async fn shard(&self, cql: &Cql, shard: i32) -> Result<Option<(i64, i64)>> {
        let rows: Vec<(i64, i64)> = cql.read("read where a shard begins", &self.shard, (shard,)).await?;
        Ok(rows.first().copied())
    }

    /// Registers a new shard; false when it is registered already.
    pub(super) async fn register(&self, cql: &Cql, shard: i32, bucket: i64) -> Result<bool> {
        let values = (shard, bucket, bucket);
        Ok(cql.conditional_resolved("register a shard", &self.register, values).await?.applied())
    }

    /// Notes a bucket that was opened: its first sequence, and where claimants begin.
    pub(super) async fn note_bucket(&self, cql: &Cql, shard: i32, bucket: i64, first_sequence: u64) -> Result<()> {
        cql.write("note a bucket", &self.add_bucket, (shard, bucket, signed(first_sequence))).await?;
        cql.conditional_resolved("move the hint of a shard", &self.move_hint, (bucket, shard, bucket)).await?;
        Ok(())
    }

    /// The buckets that are noted, with their first sequences, ascending.
    pub(super) async fn buckets(&self, cql: &Cql, shard: i32) -> Result<Vec<(u64, i64)>> {
        let rows: Vec<(i64, i64)> = cql.read("read the buckets of a shard", &self.buckets, (shard,)).await?;
        Ok(rows.into_iter().map(|(bucket, first)| (unsigned(first), bucket)).collect())
    }

    /// The row with a sequence: its first sequence and its frames.
    pub(super) async fn row_at(
        &self,
        cql: &Cql,
        shard: u16,
        bucket: i64,
        sequence: u64,
    ) -> Result<Option<(u64, Vec<u8>)>> {
        let values = (i32::from(shard), bucket, signed(sequence));
        let rows: Vec<(i64, i32, Vec<u8>)> = cql.read("read a row of the journal", &self.row_at, values).await?;
        let Some((sequence, bytes, body)) = rows.into_iter().next() else { return Ok(None) };
        Ok(Some((unsigned(sequence), unpacked(shard, bucket, bytes, body)?)))
    }

    /// All rows of a bucket from a first sequence on.
    pub(super) async fn rows_from(
        &self,
        cql: &Cql,
        shard: u16,
        bucket: i64,
        sequence: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let values = (i32::from(shard), bucket, signed(sequence));
        let action = "read rows of the journal";
        let visit_row = &mut |(sequence, bytes, body): (i64, i32, Vec<u8>)| {
            visit(unsigned(sequence), &unpacked(shard, bucket, bytes, body)?)
        };
        cql.read_paged(action, &self.rows_from, values, visit_row).await
    }
}

/// The frames of a row, which are `bytes` long.
fn unpacked(shard: u16, bucket: i64, bytes: i32, body: Vec<u8>) -> Result<Vec<u8>> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    if length == body.len() {
        return Ok(body);
    }
    if length < body.len() || length > BATCH_BYTES_MAX {
        return Err(damaged(shard, bucket, "the length of a row is impossible"));
    }
    let mut frames = vec![0; length];
    match lz4::unpack(&body, &mut frames) {
        true => Ok(frames),
        false => Err(damaged(shard, bucket, "a row cannot be unpacked")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_is_unpacked_or_is_damage() {
        let frames = b"a record like the one before, ".repeat(20);
        let (mut packed, mut check) = (Vec::new(), Vec::new());
        assert!(lz4::pack(&frames, &mut packed, &mut check).unwrap());
        let length = i32::try_from(frames.len()).unwrap();
        let of = |bytes, body: &[u8]| unpacked(3, 7, bytes, body.to_vec());
        assert_eq!(of(length, &packed).unwrap(), frames);
        assert_eq!(of(length, &frames).unwrap(), frames, "as it is");
        assert_eq!(of(0, &[]).unwrap(), b"");
        let is_damage = |bytes, body: &[u8]| {
            let refused = of(bytes, body).unwrap_err().to_string();
            assert!(refused.contains("shard 3, bucket 7"), "{refused}");
        };
        for bytes in [-1, 0, 1, length - 1, length + 1, i32::MIN, i32::MAX] {
            is_damage(bytes, &packed);
        }
        for end in 0..packed.len() {
            is_damage(length, &packed[..end]);
        }
    }
}
