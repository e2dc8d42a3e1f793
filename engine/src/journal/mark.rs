//! The file `durable-end`: the newest batch that a clean stop, a checkpoint or the end of a recovery knew to
//! be durable. Damage at or below it is never taken for a torn tail. It also holds what the folder was made
//! with, and is the first file in it.
//!
//! Two slots are written in turn, so that a crash in the middle of one leaves the other. A slot, 4,096 bytes,
//! little-endian: magic (8 bytes) | format version u32 | shard count u16 | clean stop u16 | journal id u128 |
//! generation u64 | batch u64 | incarnation u64 | zeros | CRC32C of all before it u32.

use std::path::Path;

use super::batch::{BatchSequence, FORMAT_VERSION};
use super::frame::{u16_at, u32_at, u64_at, u128_at};
use super::segment::unfinished_path;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};

const MARK_MAGIC: [u8; 8] = *b"meedEND\n";
const SLOT_BYTES: usize = 4096;
const FILE_NAME: &str = "durable-end";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) journal_id: u128,
    pub(super) shards: u16,
    /// Newest batch known durable.
    pub(super) batch: BatchSequence,
    /// Highest incarnation so far.
    pub(super) incarnation: u64,
    /// Whether the process stopped in order after this.
    pub(super) clean: bool,
    generation: u64,
}

/// The open file and what it says.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: DiskFile,
    pub(super) mark: Mark,
}

impl MarkFile {
    /// Creates the file of a new journal.
    pub(super) fn create(disk: &Disk, dir: &Path, journal_id: u128, shards: u16) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let unfinished = unfinished_path(&path);
        let mark = Mark { journal_id, shards, batch: 0, incarnation: 0, clean: true, generation: 0 };
        let file = disk.create(&unfinished)?;
        let slot = mark.encode();
        file.write_at(&slot, 0)?;
        file.write_at(&slot, SLOT_BYTES as u64)?;
        file.sync_data()?;
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(dir)?;
        Ok(Self { file: disk.open(&path)?, mark })
    }

    /// Opens the file; `None` when there is none.
    pub(super) fn open(disk: &Disk, dir: &Path, to_write: bool) -> Result<Option<Self>> {
        let path = dir.join(FILE_NAME);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        let file = if to_write { disk.open(&path)? } else { disk.open_to_read(&path)? };
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let length = file.read_at(&mut bytes, 0)?;
        let mut newest: Option<Mark> = None;
        for slot in bytes[..length].chunks_exact(SLOT_BYTES) {
            if let Some(mark) = Mark::decode(slot, &path)?
                && newest.is_none_or(|n| n.generation < mark.generation)
            {
                newest = Some(mark);
            }
        }
        match newest {
            Some(mark) => Ok(Some(Self { file, mark })),
            None => Err(damaged(&path, "neither copy of the durable end is readable")),
        }
    }

    /// The fault of a folder that has segments and no such file.
    pub(super) fn missing(dir: &Path) -> Error {
        damaged(&dir.join(FILE_NAME), "the file is missing, and there are segments")
    }

    /// Says durably that `batch` is. It never goes back.
    pub(super) fn advance(&mut self, batch: BatchSequence, incarnation: u64, clean: bool) -> Result<()> {
        let mark = Mark {
            batch: self.mark.batch.max(batch),
            incarnation: self.mark.incarnation.max(incarnation),
            clean,
            generation: self.mark.generation + 1,
            ..self.mark
        };
        self.file.write_at(&mark.encode(), mark.generation % 2 * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.mark = mark;
        Ok(())
    }
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SLOT_BYTES];
        bytes[0..8].copy_from_slice(&MARK_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.shards.to_le_bytes());
        bytes[14..16].copy_from_slice(&u16::from(self.clean).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.journal_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.batch.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.incarnation.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..SLOT_BYTES - 4]);
        bytes[SLOT_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Option<Self>> {
        if bytes[0..8] != MARK_MAGIC {
            return Ok(None);
        }
        let version = u32_at(bytes, 8);
        if version > FORMAT_VERSION {
            let path = path.to_path_buf();
            return Err(Error::NewerFormat { path, found: version, known: FORMAT_VERSION });
        }
        if u32_at(bytes, SLOT_BYTES - 4) != crc32c::crc32c(&bytes[..SLOT_BYTES - 4]) {
            return Ok(None);
        }
        Ok(Some(Self {
            journal_id: u128_at(bytes, 16),
            shards: u16_at(bytes, 12),
            batch: u64_at(bytes, 40),
            incarnation: u64_at(bytes, 48),
            clean: u16_at(bytes, 14) == 1,
            generation: u64_at(bytes, 32),
        }))
    }
}

fn damaged(path: &Path, detail: &str) -> Error {
    Error::Damaged { file: path.to_path_buf(), offset: 0, detail: detail.to_owned() }
}
