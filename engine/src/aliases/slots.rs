//! The file of row keys: slots of 32 bytes, overwritten in place. A row of the database is readable as long as
//! its slot holds its key; overwriting the slot is what erases a row, wherever the database still has copies.
//!
//! A slot never crosses a 512-byte sector, so that a power cut leaves it old or new. What the device or a
//! copy-on-write file system keeps of an overwritten sector is beyond this: a stated limit.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::store::sync_folder;

pub(super) const SLOT_BYTES: usize = 32;
/// The key of one row.
pub(super) type SlotKey = [u8; SLOT_BYTES];
/// What a free slot holds.
const FREE: SlotKey = [0; SLOT_BYTES];
const MAGIC: &[u8; 8] = b"MEEDKEYS";
const FORMAT: u32 = 1;
/// Slots that the file grows by at once.
const GROWTH_SLOTS: u32 = 1024;
/// Bytes read at once at the start.
const READ_BYTES: usize = 1 << 16;

/// See the module. The slot with number n lies at byte 32 × (n + 1); the first 32 bytes are the header: magic,
/// format, journal id, CRC32C.
pub(super) struct SlotFile {
    file: File,
    path: PathBuf,
    slots: u32,
    /// One bit a slot: set while it holds a key or is handed out.
    used: Vec<u64>,
    /// No slot below it is free.
    first_free: u32,
}

impl SlotFile {
    /// Opens the file, creating it if it is not there.
    pub(super) fn open(path: &Path, journal_id: &[u8; 16]) -> Result<Self> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(path, journal_id)?,
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let length = file.metadata().map_err(|e| Error::io("look at", path, e))?.len();
        let damaged = |detail: &str| Error::Damaged { file: path.to_owned(), offset: 0, detail: detail.to_owned() };
        let mut found = FREE;
        if length < SLOT_BYTES as u64 {
            return Err(damaged("the file of keys has no header"));
        }
        file.read_exact_at(&mut found, 0).map_err(|e| Error::io("read", path, e))?;
        let (body, checksum) = found.split_at(SLOT_BYTES - 4);
        if !body.starts_with(MAGIC) || crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err(damaged("the header of the file of keys cannot be read"));
        }
        let format = u32::from_le_bytes(std::array::from_fn(|i| found[8 + i]));
        if format > FORMAT {
            return Err(Error::NewerFormat { path: path.to_owned(), found: format, known: FORMAT });
        }
        if &found[12..28] != journal_id {
            return Err(Error::Mismatch {
                path: path.to_owned(),
                detail: "it was written with another journal; restore both from the same copy".to_owned(),
            });
        }
        // A slot cut short was being added, and no row names it.
        let slots = u32::try_from(length / SLOT_BYTES as u64 - 1).map_err(|_| damaged("too many slots"))?;
        let mut slot_file = Self { file, path: path.to_owned(), slots, used: Vec::new(), first_free: 0 };
        slot_file.read_used()?;
        Ok(slot_file)
    }

    fn read_used(&mut self) -> Result<()> {
        self.used = vec![0; (self.slots as usize).div_ceil(64)];
        let fault = |e| Error::io("read", &self.path, e);
        self.file.seek(SeekFrom::Start(SLOT_BYTES as u64)).map_err(fault)?;
        let mut buffer = vec![0; READ_BYTES];
        let mut slot = 0;
        while slot < self.slots {
            let bytes = READ_BYTES.min((self.slots - slot) as usize * SLOT_BYTES);
            self.file.read_exact(&mut buffer[..bytes]).map_err(fault)?;
            for key in buffer[..bytes].chunks_exact(SLOT_BYTES) {
                if key != FREE {
                    self.used[slot as usize / 64] |= 1 << (slot % 64);
                }
                slot += 1;
            }
        }
        Ok(())
    }

    pub(super) fn is_used(&self, slot: u32) -> bool {
        self.used.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn used_slots(&self) -> impl Iterator<Item = u32> {
        (0..self.slots).filter(|slot| self.is_used(*slot))
    }

    /// The key in a slot, `None` when it is free.
    pub(super) fn key(&self, slot: u32) -> Result<Option<SlotKey>> {
        if slot >= self.slots {
            return Err(Error::Damaged {
                file: self.path.clone(),
                offset: offset(slot),
                detail: format!("slot {slot} of an alias lies beyond the end"),
            });
        }
        let mut key = FREE;
        self.file.read_exact_at(&mut key, offset(slot)).map_err(|e| Error::io("read", &self.path, e))?;
        Ok((key != FREE).then_some(key))
    }

    /// A free slot, which is handed out no more until [`SlotFile::give_back`].
    pub(super) fn take(&mut self) -> Result<u32> {
        let word = (self.first_free as usize / 64..self.used.len()).find(|w| self.used[*w] != u64::MAX);
        let free = word.map(|w| w as u32 * 64 + self.used[w].trailing_ones());
        let slot = match free {
            Some(slot) if slot < self.slots => slot,
            _ => self.grow()?,
        };
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        self.first_free = slot;
        Ok(slot)
    }

    /// Appends free slots, and returns the first of them.
    fn grow(&mut self) -> Result<u32> {
        let first = self.slots;
        let slots = first
            .checked_add(GROWTH_SLOTS)
            .ok_or_else(|| Error::Store { action: "add an alias", detail: "the file of keys is full".to_owned() })?;
        let zeros = vec![0; GROWTH_SLOTS as usize * SLOT_BYTES];
        let fault = |e| Error::io("extend", &self.path, e);
        self.file.write_all_at(&zeros, offset(first)).map_err(fault)?;
        self.file.sync_all().map_err(fault)?;
        self.slots = slots;
        self.used.resize((slots as usize).div_ceil(64), 0);
        Ok(first)
    }

    /// Writes a key into a slot, or [`None`] over it. Durable after [`SlotFile::sync`].
    pub(super) fn write(&self, slot: u32, key: Option<&SlotKey>) -> Result<()> {
        let key = key.unwrap_or(&FREE);
        self.file.write_all_at(key, offset(slot)).map_err(|e| Error::io("write", &self.path, e))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }

    /// Makes a slot free again. Only after the rows that named it are gone durably: with another key in it they
    /// would be rows that do not open.
    pub(super) fn give_back(&mut self, slot: u32) {
        self.used[slot as usize / 64] &= !(1 << (slot % 64));
        self.first_free = self.first_free.min(slot);
    }
}

fn offset(slot: u32) -> u64 {
    (u64::from(slot) + 1) * SLOT_BYTES as u64
}

fn create(path: &Path, journal_id: &[u8; 16]) -> Result<File> {
    let mut header = Vec::with_capacity(SLOT_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(journal_id);
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    let temporary = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(&header)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(file)
    };
    let file = write().map_err(|e| Error::io("create", path, e))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}
