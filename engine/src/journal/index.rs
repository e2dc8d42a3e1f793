//! Where in a segment a position is: blocks of about 64 KiB of whole batches, and per shard the first
//! sequence in each block that has one. The active segment's index grows with every batch; a closed one's is
//! a file beside it, which may be lost: it is made again by a scan.
//!
//! File, little-endian: magic (8 bytes) | format version u32 | shard count u16 | zero u16 | journal id u128 |
//! incarnation u64 | segment number u64 | first batch u64 | end offset u64 | number of blocks u32 | per block its
//! offset / 512 u32 | per shard: number of entries u32, then per entry first sequence − base u32 and block u32 | CRC32C
//! of all before it u32.

use std::path::Path;

use super::batch::{BLOCK_BYTES, FORMAT_VERSION, Run};
use super::frame::{u16_at, u32_at, u64_at, u128_at};
use super::segment::{SegmentHeader, index_path, unfinished_path};
use crate::disk::Disk;
use crate::error::Result;

const INDEX_MAGIC: [u8; 8] = *b"meedIDX\n";
const FIXED_BYTES: usize = 68;
/// A block is closed when it is at least this long.
const INDEX_BLOCK_BYTES: u64 = 64 * 1024;
/// Longest index file: 4,096 shards that all have records in every block of a segment of 1 GiB stay below.
const INDEX_FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The index of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    /// Offset behind the last batch.
    pub(super) end: u64,
    /// Offsets of the blocks in units of 512 bytes.
    blocks: Vec<u32>,
    shards: Vec<Vec<Entry>>,
}

/// The first record of a shard in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    sequence_delta: u32,
    block: u32,
}

impl SegmentIndex {
    /// The index of a segment without batches.
    pub(super) fn new(header: &SegmentHeader) -> Self {
        let shards = vec![Vec::new(); header.base.len()];
        Self { end: header.bytes() as u64, blocks: Vec::new(), shards }
    }

    /// Whether a run can stand in the segment: what is added was checked, by this or by the chain of batches.
    pub(super) fn may_have(header: &SegmentHeader, run: &Run) -> bool {
        let base = header.base.get(usize::from(run.shard));
        let delta = base.and_then(|base| run.first_sequence.checked_sub(*base));
        delta.is_some_and(|delta| (1..=u64::from(u32::MAX)).contains(&delta))
    }

    /// Adds the batch that begins where the last one ended.
    pub(super) fn add(&mut self, header: &SegmentHeader, total_bytes: u64, runs: impl Iterator<Item = Run>) {
        let offset = self.end;
        let block_start = self.blocks.last().map(|&b| u64::from(b) * BLOCK_BYTES as u64);
        if block_start.is_none_or(|start| offset - start >= INDEX_BLOCK_BYTES) {
            self.blocks.push((offset / BLOCK_BYTES as u64) as u32);
        }
        let block = (self.blocks.len() - 1) as u32;
        for run in runs {
            let shard = usize::from(run.shard);
            if self.shards[shard].last().is_none_or(|entry| entry.block != block) {
                let sequence_delta = (run.first_sequence - header.base[shard]) as u32;
                self.shards[shard].push(Entry { sequence_delta, block });
            }
        }
        self.end = offset + total_bytes;
    }

    /// Begin and end of the block that has this record of a shard, if the segment does.
    pub(super) fn block_of(&self, header: &SegmentHeader, shard: u16, sequence: u64) -> Option<(u64, u64)> {
        let base = *header.base.get(usize::from(shard))?;
        let delta = sequence.checked_sub(base)?;
        let entries = &self.shards[usize::from(shard)];
        let after = entries.partition_point(|entry| u64::from(entry.sequence_delta) <= delta);
        let block = entries.get(after.checked_sub(1)?)?.block as usize;
        let offset = |block: usize| self.blocks.get(block).map(|&b| u64::from(b) * BLOCK_BYTES as u64);
        Some((offset(block)?, offset(block + 1).unwrap_or(self.end)))
    }

    /// Roughly what it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let entries: usize = self.shards.iter().map(|s| s.len() * size_of::<Entry>()).sum();
        entries + self.blocks.len() * 4 + self.shards.len() * size_of::<Vec<Entry>>()
    }

    /// Writes the file of a closed segment. It is not synced: what a crash leaves of it is noticed and
    /// replaced.
    pub(super) fn write(&self, disk: &Disk, dir: &Path, header: &SegmentHeader) -> Result<()> {
        let path = index_path(dir, header.number);
        let unfinished = unfinished_path(&path);
        let file = disk.create(&unfinished)?;
        file.write_at(&self.encode(header), 0)?;
        disk.rename(&unfinished, &path)
    }

    /// Reads the file of a closed segment of `segment_bytes`; `None` when it is missing, damaged, or not of
    /// this segment as it is.
    pub(super) fn read(disk: &Disk, dir: &Path, header: &SegmentHeader, segment_bytes: u64) -> Result<Option<Self>> {
        let path = index_path(dir, header.number);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = disk.open_to_read(&path)?;
        let length = file.len()?;
        if length > INDEX_FILE_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        let length = file.read_at(&mut bytes, 0)?;
        Ok(Self::decode(&bytes[..length], header).filter(|index| index.end <= segment_bytes))
    }

    fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.weight());
        bytes.extend_from_slice(&INDEX_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.shards().to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&header.journal_id.to_le_bytes());
        bytes.extend_from_slice(&header.incarnation.to_le_bytes());
        bytes.extend_from_slice(&header.number.to_le_bytes());
        bytes.extend_from_slice(&header.first_batch.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        bytes.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            bytes.extend_from_slice(&block.to_le_bytes());
        }
        for entries in &self.shards {
            bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for entry in entries {
                bytes.extend_from_slice(&entry.sequence_delta.to_le_bytes());
                bytes.extend_from_slice(&entry.block.to_le_bytes());
            }
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<Self> {
        let (contents, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let is_of_segment = contents.len() >= FIXED_BYTES
            && u32_at(checksum, 0) == crc32c::crc32c(contents)
            && contents[0..8] == INDEX_MAGIC
            && u32_at(contents, 8) == FORMAT_VERSION
            && u16_at(contents, 12) == header.shards()
            && u128_at(contents, 16) == header.journal_id
            && u64_at(contents, 32) == header.incarnation
            && u64_at(contents, 40) == header.number
            && u64_at(contents, 48) == header.first_batch;
        if !is_of_segment {
            return None;
        }
        let mut rest = &contents[64..];
        let take = |rest: &mut &[u8]| -> Option<u32> {
            let (value, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            Some(u32::from_le_bytes(*value))
        };
        let blocks = take(&mut rest)?;
        let blocks = (0..blocks).map(|_| take(&mut rest)).collect::<Option<Vec<_>>>()?;
        let mut shards = Vec::with_capacity(header.base.len());
        for _ in 0..header.base.len() {
            let count = take(&mut rest)?;
            let entry = |_| Some(Entry { sequence_delta: take(&mut rest)?, block: take(&mut rest)? });
            shards.push((0..count).map(entry).collect::<Option<Vec<_>>>()?);
        }
        rest.is_empty().then_some(Self { end: u64_at(contents, 56), blocks, shards })
    }
}
