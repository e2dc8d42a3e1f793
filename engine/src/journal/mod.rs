//! The journals of which a node has one. Here is the embedded one; that in CQL is in [`cql`].
//!
//! The embedded journal is one write-ahead log for all shards of a node. Records are opaque bytes here; what
//! they mean, and when a reply may leave, is decided above.
//!
//! - [`Journal`] belongs to the one thread that writes: `write` a batch, `sync`, and only then tell anybody.
//! - [`JournalReader`] belongs to everybody else and sees what is synced.
//! - [`frame`] is how a worker encodes its records into its own buffer.
//! - [`JournalUpkeep`] belongs to one thread in the background: packs closed segments, removes the oldest ones.
//!
//! A folder holds `wal-<number>.log` (segments) or `wal-<number>.packed` (closed ones, packed), `wal-<number>.index`
//! (where in a closed segment what is), `durable-end` (what was durable at the last checkpoint or stop) and `lock`.
//! Each format stands at the head of its file: `segment.rs`, `packed.rs`, `batch.rs`, `frame.rs`, `index.rs`,
//! `mark.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub mod cql;
mod memory;
mod writer;
mod recovery;
mod reader;
mod upkeep;
mod shared;
mod examine;
mod rules;
mod prepare;
mod walk;
mod index;
mod mark;
mod segment;
mod file;
mod packed;
mod lz4;
mod chain;
mod batch;
mod cache;
pub mod frame;

#[cfg(test)]
mod tests;

pub(crate) use batch::is_zero;
pub use batch::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchSequence, FORMAT_VERSION, Part, RUN_BYTES, Run,
};
pub use memory::MemoryRecords;
pub use reader::{BatchView, JournalReader, RecordView};
pub use upkeep::{ClosedSegment, JournalUpkeep, Pace};
pub use writer::Journal;

use crate::error::{Error, Result};
use meed_schemas::codec;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Record, RecordKind};

/// Default length of a segment.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Longest segment.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Most segments prepared ahead.
pub const PREPARED_SEGMENTS_MAX: usize = 64;

/// What everybody reads the durable records of a node's shards from.
#[derive(Clone, Debug)]
pub enum Records {
    /// The embedded journal.
    Embedded(JournalReader),
    /// The journal in CQL.
    Cql(cql::CqlReader),
    /// What the simulator has read.
    Memory(MemoryRecords),
}

impl Records {
    /// By shard, the sequence of its last durable record; 0 = none.
    pub fn last_sequence(&self) -> Vec<u64> {
        match self {
            Self::Embedded(reader) => reader.last_sequence(),
            Self::Cql(reader) => reader.last_sequence(),
            Self::Memory(records) => records.last_sequence(),
        }
    }

    /// The journal's id.
    pub fn journal_id(&self) -> u128 {
        match self {
            Self::Embedded(reader) => reader.journal_id(),
            Self::Cql(reader) => reader.journal_id(),
            Self::Memory(_) => 0,
        }
    }

    /// How many shards it has.
    pub fn shards(&self) -> u16 {
        match self {
            Self::Embedded(reader) => reader.shards(),
            Self::Cql(reader) => reader.shards(),
            Self::Memory(records) => records.last_sequence().len() as u16,
        }
    }

    /// By shard, the sequence up to which its records are no longer kept; 0 = all are there.
    ///
    /// # Errors
    /// Damage.
    pub fn removed_sequence(&self) -> Result<Vec<u64>> {
        match self {
            Self::Embedded(reader) => reader.removed_sequence(),
            Self::Cql(reader) => Ok(reader.removed_sequence()),
            Self::Memory(records) => Ok(records.removed_sequence()),
        }
    }

    /// By shard, the epoch that this node owns it under, 0 where it does not; `None` where the journal has one owner.
    pub fn epochs(&self) -> Option<Vec<i64>> {
        match self {
            Self::Embedded(_) | Self::Memory(_) => None,
            Self::Cql(reader) => Some(reader.epochs()),
        }
    }

    /// What a shard's records here stand for: the epoch that this node owns it under, which is another when it has gone
    /// and come back; `None` where it is another node's or has not begun here.
    pub fn tenure(&self, shard: u16) -> Option<i64> {
        match self {
            Self::Embedded(_) | Self::Memory(_) => Some(0),
            Self::Cql(reader) => reader.tenure(shard),
        }
    }

    /// A number that grows whenever more becomes durable.
    pub fn progress(&self) -> u64 {
        match self {
            Self::Embedded(reader) => reader.last_batch(),
            Self::Cql(reader) => reader.last_sequence().iter().sum(),
            Self::Memory(records) => records.last_sequence().iter().sum(),
        }
    }

    /// The same for who reads the journals of all nodes that append.
    pub fn of_all_nodes(&self) -> Self {
        match self {
            Self::Embedded(_) | Self::Memory(_) => self.clone(),
            Self::Cql(reader) => Self::Cql(reader.of_all_nodes()),
        }
    }

    /// Where other nodes append too: looks how far they are, unless that was done less than `age_max` ago.
    ///
    /// # Errors
    /// The node stops.
    pub async fn refresh(&self, age_max: Duration) -> Result<()> {
        match self {
            Self::Embedded(_) | Self::Memory(_) => Ok(()),
            Self::Cql(reader) => reader.refresh(age_max).await,
        }
    }

    /// The record at a position; `None` when the shard's durable records do not reach it, or no longer.
    ///
    /// # Errors
    /// Damage.
    pub fn read(&self, position: Position) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Embedded(reader) => reader.read(position),
            Self::Cql(reader) => reader.read(position),
            Self::Memory(records) => Ok(records.read(position)),
        }
    }

    /// Records of an account, newest first, from the one at `from` on back, where they lie apart from the journal: some
    /// of them, at most `limit`, of one kind if asked for. None where there is only the journal, or it is not there
    /// yet.
    ///
    /// # Errors
    /// The node stops.
    pub fn history(
        &self,
        identity: &Identity,
        from: Position,
        kind: Option<RecordKind>,
        limit: usize,
    ) -> Result<Vec<(Position, Vec<u8>)>> {
        match self {
            Self::Cql(reader) if from.sequence() <= reader.projected(from.shard()) => {
                reader.page(identity, from, kind, limit)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Every durable record of the chosen shards with a sequence greater than `from[shard]`, those of a shard in
    /// order.
    ///
    /// # Errors
    /// Damage; a fault that `visit` returns.
    pub fn scan(
        &self,
        from: &[u64],
        shards: &dyn Fn(u16) -> bool,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Embedded(reader) => reader.scan(from, shards, visit),
            Self::Cql(reader) => reader.scan(from, shards, visit),
            Self::Memory(records) => records.scan(from, shards, visit),
        }
    }
}

/// A record that was read from the journal at no place that could be named.
///
/// # Errors
/// [`Error::Damaged`].
pub fn decode(position: Position, payload: &[u8]) -> Result<Record> {
    decode_at(Path::new("journal"), 0, position, payload)
}

fn decode_at(file: &Path, offset: u64, position: Position, payload: &[u8]) -> Result<Record> {
    codec::decode(position, payload).map_err(|error| Error::Damaged {
        file: file.into(),
        offset,
        detail: format!("record {position}: {error}"),
    })
}

/// How a journal is opened.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Length of new segments: a multiple of 512, up to [`SEGMENT_BYTES_MAX`]. A batch must fit into one.
    pub segment_bytes: u64,
    /// Shards of the node, 1–4,096. A folder that was made with another number is refused.
    pub shards: u16,
    /// How many segments are kept ready, 1–[`PREPARED_SEGMENTS_MAX`].
    pub prepared_segments: usize,
    /// Who prepares them.
    pub prepare: Prepare,
    /// The id of a journal that is created; random where there is none. An existing folder keeps its own.
    pub new_journal_id: Option<u128>,
}

/// Who prepares segments and finishes closed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepare {
    /// A thread of low priority.
    Thread,
    /// The caller, by [`Journal::prepare_step`]; a segment that is not ready when it is needed is prepared
    /// within `write`.
    Steps,
}

impl JournalOptions {
    /// Defaults for a node with this many shards.
    pub fn new(shards: u16) -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            shards,
            prepared_segments: 2,
            prepare: Prepare::Thread,
            new_journal_id: None,
        }
    }

    /// Whether a journal can be opened so.
    ///
    /// # Errors
    /// The first bound that is broken.
    pub fn check(&self) -> Result<()> {
        let shards_max = meed_schemas::ids::SHARDS_MAX;
        if self.shards == 0 || self.shards > shards_max {
            return Err(Error::Setting(format!("the number of shards must be 1–{shards_max}")));
        }
        let segment_bytes_min = (segment::header_bytes(self.shards) + batch::BATCH_BYTES_MIN) as u64;
        let is_length = (segment_bytes_min..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            && self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        if !is_length {
            return Err(Error::Setting(format!(
                "the length of a journal segment must be a multiple of {BLOCK_BYTES} from {segment_bytes_min} to \
                 {SEGMENT_BYTES_MAX} bytes"
            )));
        }
        if !(1..=PREPARED_SEGMENTS_MAX).contains(&self.prepared_segments) {
            return Err(Error::Setting(format!(
                "the number of prepared journal segments must be 1–{PREPARED_SEGMENTS_MAX}"
            )));
        }
        Ok(())
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Random, made at creation.
    pub journal_id: u128,
    /// Of this start; higher than that of every earlier one.
    pub incarnation: u64,
    /// Whether the journal was created now.
    pub created: bool,
    /// Whether the last process closed the journal in order.
    pub clean: bool,
    /// The last batch; 0 = none.
    pub last_batch: BatchSequence,
    /// By shard, the sequence of its last record; 0 = none.
    pub last_sequence: Vec<u64>,
    /// How many batches at the end were valid but not known to be durable, and were written again.
    pub copied_batches: u64,
    /// The torn tail that was discarded.
    pub cut: Option<Cut>,
}

/// A torn tail: what stood where the next batch belongs. It was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment file.
    pub file: PathBuf,
    /// Byte offset of the batch.
    pub offset: u64,
    /// Number that the batch had or would have had; it is given again.
    pub batch: BatchSequence,
    /// What was wrong with it.
    pub detail: String,
}
