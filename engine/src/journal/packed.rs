//! A closed segment, compressed block by block, so that a record is read without the rest.
//!
//! File, little-endian: magic (8 bytes) | format version u32 | bytes of a block u32 | length of the segment u64
//! | number of blocks u32 | CRC32C of the table u32 | CRC32C of all before it u32 | table: per block its length
//! here u32 and the CRC32C of its bytes here u32 | the blocks, one after the other. A block holds the next bytes
//! of the segment, all of them the same length but the last one: in LZ4's block format, or as they are where
//! that is not shorter, which its length says. Every byte of the file is under one of the checksums, and its
//! length is the end of the last block.
//!
//! What is in the blocks are the bytes of the segment file, its header first, with checksums of their own.

use std::path::Path;

use super::batch::{BATCH_BYTES_MAX, BLOCK_BYTES};
use super::frame::{u32_at, u64_at};
use super::{SEGMENT_BYTES_MAX, lz4, shared};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::planted::{Fault, planted};

const PACKED_MAGIC: [u8; 8] = *b"meedPAK\n";
/// The format that is written, and the newest that is read.
pub(super) const PACKED_FORMAT_VERSION: u32 = 1;
const FIXED_BYTES: usize = 36;
const ENTRY_BYTES: usize = 8;
/// Bytes of the segment in one block: what a point read unpacks at least. With four times as many the file is
/// hardly smaller.
pub(super) const PACKED_BLOCK_BYTES: usize = 64 * 1024;
const PACKED_BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest segment: recovery makes one longer than the setting where its tail is.
const LENGTH_MAX: u64 = SEGMENT_BYTES_MAX + BATCH_BYTES_MAX as u64 + SEGMENT_BYTES_MAX;

/// An open packed segment. It is read as if it were the segment file.
#[derive(Debug)]
pub(super) struct PackedFile {
    file: DiskFile,
    block_bytes: usize,
    length: u64,
    /// Per block where it begins in the file, its length there and its checksum.
    blocks: Vec<(u64, u32, u32)>,
}

impl PackedFile {
    /// Reads header and table.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`], or that the file cannot be read.
    pub(super) fn open(disk: &Disk, path: &Path) -> Result<Self> {
        let file = disk.open_to_read(path)?;
        let damaged = |offset: u64, detail: &str| shared::damaged_at(file.path(), offset, detail);
        let mut fixed = [0; FIXED_BYTES];
        if file.read_at(&mut fixed, 0)? < FIXED_BYTES || fixed[0..8] != PACKED_MAGIC {
            return Err(damaged(0, "the header of a packed segment is not one"));
        }
        let version = u32_at(&fixed, 8);
        if version > PACKED_FORMAT_VERSION {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat { path, found: version, known: PACKED_FORMAT_VERSION });
        }
        if u32_at(&fixed, FIXED_BYTES - 4) != crc32c::crc32c(&fixed[..FIXED_BYTES - 4]) {
            return Err(damaged(0, "the checksum of the header of a packed segment does not match"));
        }
        let (block_bytes, length, count) = (u32_at(&fixed, 12) as usize, u64_at(&fixed, 16), u32_at(&fixed, 24));
        let is_possible = (BLOCK_BYTES..=PACKED_BLOCK_BYTES_MAX).contains(&block_bytes)
            && length <= LENGTH_MAX
            && length.div_ceil(block_bytes as u64) == u64::from(count);
        if !is_possible {
            return Err(damaged(0, "the header of a packed segment has an impossible length"));
        }
        let mut table = vec![0; count as usize * ENTRY_BYTES];
        let is_whole = file.read_at(&mut table, FIXED_BYTES as u64)? == table.len();
        if !is_whole || u32_at(&fixed, 28) != crc32c::crc32c(&table) {
            return Err(damaged(FIXED_BYTES as u64, "the checksum of the table of a packed segment does not match"));
        }
        let mut at = (FIXED_BYTES + table.len()) as u64;
        let mut blocks = Vec::with_capacity(count as usize);
        for entry in table.chunks_exact(ENTRY_BYTES) {
            blocks.push((at, u32_at(entry, 0), u32_at(entry, 4)));
            at += u64::from(u32_at(entry, 0));
        }
        if file.len()? != at {
            return Err(damaged(at, "a packed segment is not as long as its table says"));
        }
        Ok(Self { file, block_bytes, length, blocks })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Length of the segment.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Fills `bytes` with the segment's from `offset`; returns how many there were.
    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        let mut unpacked = Vec::new();
        while filled < bytes.len() && offset + (filled as u64) < self.length {
            let at = offset + filled as u64;
            let block = (at / self.block_bytes as u64) as usize;
            self.unpack(block, &mut unpacked)?;
            let from = (at % self.block_bytes as u64) as usize;
            let count = (unpacked.len() - from).min(bytes.len() - filled);
            bytes[filled..filled + count].copy_from_slice(&unpacked[from..from + count]);
            filled += count;
        }
        Ok(filled)
    }

    /// The bytes of one block, checked.
    fn unpack(&self, block: usize, unpacked: &mut Vec<u8>) -> Result<()> {
        let (offset, packed_bytes, checksum) = self.blocks[block];
        let damaged = |detail: &str| shared::damaged_at(self.path(), offset, detail);
        let wanted = (self.length - (block * self.block_bytes) as u64).min(self.block_bytes as u64) as usize;
        if packed_bytes as usize > wanted {
            return Err(damaged("a block of a packed segment is longer than what is in it"));
        }
        let mut packed = vec![0; packed_bytes as usize];
        let is_whole = self.file.read_at(&mut packed, offset)? == packed.len();
        if !is_whole || crc32c::crc32c(&packed) != checksum {
            return Err(damaged("the checksum of a block of a packed segment does not match"));
        }
        if packed.len() == wanted {
            *unpacked = packed;
            return Ok(());
        }
        unpacked.resize(wanted, 0);
        match lz4::unpack(&packed, unpacked) {
            true => Ok(()),
            false => Err(damaged("a block of a packed segment cannot be unpacked")),
        }
    }
}

/// Writes a packed segment, block by block. Giving the file its name is the caller's.
#[derive(Debug)]
pub(super) struct PackedWriter {
    file: DiskFile,
    length: u64,
    at: u64,
    table: Vec<u8>,
    packed: Vec<u8>,
    check: Vec<u8>,
}

impl PackedWriter {
    /// Begins the file of a segment of `length` bytes.
    pub(super) fn new(file: DiskFile, length: u64) -> Self {
        let blocks = length.div_ceil(PACKED_BLOCK_BYTES as u64) as usize;
        let at = (FIXED_BYTES + blocks * ENTRY_BYTES) as u64;
        Self {
            file,
            length,
            at,
            table: Vec::with_capacity(blocks * ENTRY_BYTES),
            packed: Vec::new(),
            check: Vec::new(),
        }
    }

    /// Adds the next block: [`PACKED_BLOCK_BYTES`] of the segment, or what is left of it.
    pub(super) fn add(&mut self, block: &[u8]) -> Result<()> {
        let is_shorter = lz4::pack(block, &mut self.packed, &mut self.check)
            .map_err(|detail| Error::Stopped(format!("cannot pack {}: {detail}", self.file.path().display())))?;
        let bytes = if is_shorter { &self.packed[..] } else { block };
        self.table.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.table.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        self.file.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Makes what was added durable.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// Writes header and table, makes all of it durable, and returns the length of the file.
    pub(super) fn finish(self) -> Result<u64> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.table.len());
        bytes.extend_from_slice(&PACKED_MAGIC);
        bytes.extend_from_slice(&PACKED_FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&(PACKED_BLOCK_BYTES as u32).to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&((self.table.len() / ENTRY_BYTES) as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&self.table).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(&self.table);
        self.file.write_at(&bytes, 0)?;
        if !planted(Fault::SkipPackedSync) {
            self.file.sync_data()?;
        }
        Ok(self.at)
    }
}
