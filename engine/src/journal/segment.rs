//! The header of a segment, and the names of the journal's files.
//!
//! A segment file is allocated and zeroed ahead of use; it counts from when its header is valid. Header,
//! little-endian: magic (8 bytes) | format version u32 | header length u32 | journal id u128 | incarnation
//! u64 | segment number u64 | first batch u64 | checksum of the batch before it u32 | shard count u16 | zero
//! u16 | per shard the last sequence before the segment, u64 | zeros | CRC32C of all before it u32. Its length
//! is a multiple of 512. The sequences make every segment self-contained: any one is found, checked and
//! indexed without reading the ones before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meed_schemas::ids::{Position, SHARDS_MAX};

use super::batch::{BLOCK_BYTES, BatchSequence, FORMAT_VERSION, is_zero};
use super::frame::{u16_at, u32_at, u64_at, u128_at};
use crate::disk::DiskFile;
use crate::error::{Error, Result};

const SEGMENT_MAGIC: [u8; 8] = *b"meedWAL\n";
const TABLE_OFFSET: usize = 64;
const HEADER_BYTES_MAX: usize = header_bytes(SHARDS_MAX);

/// Length of the header of a segment of a journal with this many shards.
pub(super) const fn header_bytes(shards: u16) -> usize {
    (TABLE_OFFSET + shards as usize * 8 + 4).next_multiple_of(BLOCK_BYTES)
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) journal_id: u128,
    pub(super) incarnation: u64,
    pub(super) number: u64,
    /// Every batch before this one was durable when this header was written.
    pub(super) first_batch: BatchSequence,
    pub(super) previous_checksum: u32,
    /// By shard, the last sequence before this segment; 0 = none.
    pub(super) base: Vec<u64>,
}

/// What stands where a segment's header belongs.
#[derive(Clone, Debug)]
pub(super) enum HeaderRead {
    Valid(Arc<SegmentHeader>),
    /// Zeros: prepared and not used.
    Blank,
    Invalid(&'static str),
}

impl SegmentHeader {
    pub(super) fn bytes(&self) -> usize {
        header_bytes(self.shards())
    }

    pub(super) fn shards(&self) -> u16 {
        self.base.len() as u16
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes()];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let length = bytes.len();
        bytes[12..16].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.journal_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.number.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_batch.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.previous_checksum.to_le_bytes());
        bytes[60..62].copy_from_slice(&self.shards().to_le_bytes());
        for (entry, last) in bytes[TABLE_OFFSET..].chunks_exact_mut(8).zip(&self.base) {
            entry.copy_from_slice(&last.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..length - 4]);
        bytes[length - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of a segment file. A newer format is a fault; another journal's or another shard
    /// count's header is valid here, and [`SegmentHeader::check_belongs`] refuses it.
    pub(super) fn read(file: &DiskFile) -> Result<HeaderRead> {
        let mut bytes = vec![0; BLOCK_BYTES];
        let length = file.read_at(&mut bytes, 0)?;
        if is_zero(&bytes[..length]) {
            return Ok(HeaderRead::Blank);
        }
        if length < BLOCK_BYTES || bytes[0..8] != SEGMENT_MAGIC {
            return Ok(HeaderRead::Invalid("the header of a segment is not one"));
        }
        let version = u32_at(&bytes, 8);
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat { path: file.path().to_path_buf(), found: version, known: FORMAT_VERSION });
        }
        let length = u32_at(&bytes, 12) as usize;
        let shards = u16_at(&bytes, 60);
        if length > HEADER_BYTES_MAX || shards == 0 || shards > SHARDS_MAX || length != header_bytes(shards) {
            return Ok(HeaderRead::Invalid("the header of a segment has an impossible length"));
        }
        bytes.resize(length, 0);
        let is_whole = file.read_at(&mut bytes, 0)? == length;
        if !is_whole || u32_at(&bytes, length - 4) != crc32c::crc32c(&bytes[..length - 4]) {
            return Ok(HeaderRead::Invalid("the checksum of a segment header does not match"));
        }
        let table = bytes[TABLE_OFFSET..].chunks_exact(8).take(usize::from(shards));
        let header = Self {
            journal_id: u128_at(&bytes, 16),
            incarnation: u64_at(&bytes, 32),
            number: u64_at(&bytes, 40),
            first_batch: u64_at(&bytes, 48),
            previous_checksum: u32_at(&bytes, 56),
            base: table.map(|entry| u64_at(entry, 0)).collect(),
        };
        // Batches are counted from 1; what computes with these numbers relies on it.
        if header.first_batch == 0 || header.base.iter().any(|&last| last > Position::SEQUENCE_MAX) {
            return Ok(HeaderRead::Invalid("the header of a segment has an impossible number"));
        }
        Ok(HeaderRead::Valid(Arc::new(header)))
    }

    /// Refuses a file of another journal, of another shard count, or under another segment's name.
    pub(super) fn check_belongs(&self, path: &Path, number: u64, journal_id: u128, shards: u16) -> Result<()> {
        check_identity(path, (self.journal_id, self.shards()), (journal_id, shards))?;
        if self.number == number {
            return Ok(());
        }
        let detail = format!("it is segment {} under another name; rename it back", self.number);
        Err(Error::Mismatch { path: path.to_path_buf(), detail })
    }
}

/// Refuses a file whose journal id and shard count are not those expected.
pub(super) fn check_identity(path: &Path, found: (u128, u16), expected: (u128, u16)) -> Result<()> {
    let detail = if found.0 != expected.0 {
        format!(
            "it is of journal {:032x}, the folder's is {:032x}; take the file out, or restore the folder",
            found.0, expected.0
        )
    } else if found.1 != expected.1 {
        format!("it was made with {} shards, not {}; start with --shards {}", found.1, expected.1, found.1)
    } else {
        return Ok(());
    };
    Err(Error::Mismatch { path: path.to_path_buf(), detail })
}

/// The path of a segment.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal-{number:020}.log"))
}

/// The path of the index of a closed segment.
pub(super) fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("wal-{number:020}.index"))
}

/// Under this name a file is made before it gets its own; what is left of one after a crash is removed.
pub(super) fn unfinished_path(path: &Path) -> PathBuf {
    path.with_extension("unfinished")
}

/// What a folder of a journal holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    /// Numbers of the segment files, ascending.
    pub(super) segments: Vec<u64>,
    /// Names of files that were being made when the process ended.
    pub(super) unfinished: Vec<String>,
}

impl Folder {
    /// Sorts out the names in a folder; files of others are left alone.
    pub(super) fn of_names(names: Vec<String>) -> Self {
        let mut folder = Self::default();
        for name in names {
            let number = name
                .strip_prefix("wal-")
                .and_then(|rest| rest.strip_suffix(".log"))
                .filter(|digits| digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok());
            if let Some(number) = number {
                folder.segments.push(number);
            } else if name.ends_with(".unfinished") {
                folder.unfinished.push(name);
            }
        }
        folder.segments.sort_unstable();
        folder
    }
}
