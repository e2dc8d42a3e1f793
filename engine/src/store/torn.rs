//! What a power cut leaves of fjall's journal, cut off before fjall reads it.
//!
//! What was appended and not synced comes to the disk in any order of its sectors, and where one is missing there are
//! zeros up to its end: fjall gives its files their length beforehand. fjall 3.1 takes a batch with such a hole for
//! damage and does not open, or finds lengths that contradict each other, and it cuts off what follows a flipped tag
//! without a word. So the batches are read here first: one with a hole, in the newest file, and all after it were never
//! synced and are removed; any other that is not whole is damage. No table has rows of the removed batches, because
//! fjall syncs its journal before it writes one.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::journal::is_zero;

/// What a disk writes whole or not at all; larger units consist of these.
const SECTOR_BYTES: usize = 512;
/// Zeros at the end of a sector that count as a hole. A part of a sector is missing where the system wrote it out
/// between two writes; rows have no runs of zeros of this length.
const HOLE_BYTES_MIN: usize = 64;
/// What is read at once. A file is read up to the first of these that is all zeros.
const READ_BYTES: usize = 1 << 20;

// The format of fjall 3 (`journal/entry.rs` there): a start, as many items as it says, an end.
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const END_MAGIC: &[u8] = b"FJL\x03";
const NOT_COMPRESSED: u8 = 0;

/// Where the whole batches of a file end, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Only zeros follow, or nothing.
    Whole,
    /// The batch at this offset has a hole.
    Torn { offset: usize },
    /// The batch at this offset is not what was written.
    Damaged { offset: usize, detail: &'static str },
}

/// Why a batch cannot be read, and how far it was.
struct Unreadable {
    read_to: usize,
    detail: &'static str,
}

/// Removes what was never synced from the end of the newest journal in `folder`.
///
/// # Errors
/// Another process has the database open; a file cannot be read, or what was synced in it is damaged.
pub(super) fn cut_off_torn_batches(folder: &Path) -> Result<()> {
    // fjall's own lock, a file of the same name, so that nobody appends meanwhile.
    let _lock = Disk::default().lock(folder)?;
    let files = journals(folder)?;
    for (n, file) in files.iter().enumerate() {
        let bytes = read(file).map_err(|e| Error::io("read", file, e))?;
        let damaged = |offset: usize, detail: &str| Error::Damaged {
            file: file.clone(),
            offset: offset as u64,
            detail: detail.to_owned(),
        };
        match end_of_batches(&bytes) {
            Ends::Whole => {}
            Ends::Torn { offset } if n + 1 == files.len() => {
                tracing::info!(file = %file.display(), offset, "removed what the last process had not synced");
                let written = OpenOptions::new().write(true).open(file);
                let cut = written.and_then(|file| file.set_len(offset as u64).and_then(|()| file.sync_all()));
                cut.map_err(|e| Error::io("cut", file, e))?;
            }
            Ends::Torn { offset } => return Err(damaged(offset, "a part of a batch is missing")),
            Ends::Damaged { offset, detail } => return Err(damaged(offset, detail)),
        }
    }
    Ok(())
}

/// The files of the journal, oldest first.
fn journals(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|extension| extension == "jnl")) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or_default());
    loop {
        let before = bytes.len();
        let count = file.by_ref().take(READ_BYTES as u64).read_to_end(&mut bytes)?;
        if count < READ_BYTES || is_zero(&bytes[before..]) {
            return Ok(bytes);
        }
    }
}

/// Reads a file's batches up to the first that is not whole.
pub(super) fn end_of_batches(bytes: &[u8]) -> Ends {
    let mut offset = 0;
    loop {
        if is_zero(&bytes[offset..]) {
            return Ends::Whole;
        }
        match read_batch(bytes, offset) {
            Ok(next) => offset = next,
            Err(unreadable) if has_hole(bytes, offset, unreadable.read_to) => return Ends::Torn { offset },
            Err(unreadable) => return Ends::Damaged { offset, detail: unreadable.detail },
        }
    }
}

/// The bytes from an offset on.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn unreadable(&self, detail: &'static str) -> Unreadable {
        Unreadable { read_to: self.at, detail }
    }

    fn take(&mut self, count: usize) -> std::result::Result<&'a [u8], Unreadable> {
        let (from, end) = (self.at, self.at.saturating_add(count).min(self.bytes.len()));
        self.at = end;
        if end - from < count {
            return Err(self.unreadable("the last batch goes beyond the file"));
        }
        Ok(&self.bytes[from..end])
    }

    /// A number, least byte first.
    fn number(&mut self, bytes: usize) -> std::result::Result<u64, Unreadable> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// Reads the batch at `offset`; returns where the next one begins.
fn read_batch(bytes: &[u8], offset: usize) -> std::result::Result<usize, Unreadable> {
    let mut cursor = Cursor { bytes, at: offset };
    if cursor.number(1)? != u64::from(START) {
        return Err(cursor.unreadable("no batch begins where one should"));
    }
    let items = cursor.number(4)?;
    let _sequence = cursor.number(8)?;
    let body = cursor.at;
    for _ in 0..items {
        match cursor.take(1)? {
            [ITEM] => skip_item(&mut cursor)?,
            [CLEAR] => drop(cursor.take(8)?),
            _ => return Err(cursor.unreadable("a batch has fewer rows than it says")),
        }
    }
    let hash = xxh3_64(&bytes[body..cursor.at]);
    if cursor.number(1)? != u64::from(END) {
        return Err(cursor.unreadable("a batch has more rows than it says"));
    }
    let recorded = cursor.number(8)?;
    if cursor.take(END_MAGIC.len())? != END_MAGIC {
        return Err(cursor.unreadable("a batch has no end"));
    }
    if recorded != hash {
        return Err(cursor.unreadable("the rows of a batch do not have the hash that was written"));
    }
    Ok(cursor.at)
}

fn skip_item(cursor: &mut Cursor<'_>) -> std::result::Result<(), Unreadable> {
    let _kind = cursor.number(1)?;
    let compression = cursor.number(1)?;
    let _keyspace = cursor.number(8)?;
    let key_bytes = cursor.number(2)?;
    let (value_bytes, written_bytes) = (cursor.number(4)?, cursor.number(4)?);
    if compression != u64::from(NOT_COMPRESSED) || value_bytes != written_bytes {
        return Err(cursor.unreadable("a row has two lengths"));
    }
    cursor.take((key_bytes + value_bytes) as usize).map(drop)
}

/// Whether a sector lacks what was written to it, of the batch at `offset` that could be read up to `read_to`. A hole
/// makes lengths smaller, so whoever reads over one stops before the batch's end; a damaged length may lead beyond it,
/// to where nothing was written.
fn has_hole(bytes: &[u8], offset: usize, read_to: usize) -> bool {
    let batch = &bytes[offset..read_to];
    let end_found = batch.windows(END_MAGIC.len()).position(|window| window == END_MAGIC);
    let read_to = end_found.map_or(read_to, |at| offset + at + END_MAGIC.len());
    if read_to == bytes.len() {
        return end_found.is_none();
    }
    let [first, last] = [offset, read_to].map(|at| (at / SECTOR_BYTES + 1) * SECTOR_BYTES);
    (first..=last).step_by(SECTOR_BYTES).any(|end| {
        let end = end.min(bytes.len());
        let begin = offset.max(end.saturating_sub(SECTOR_BYTES));
        let zeros = bytes[begin..end].iter().rev().take_while(|byte| **byte == 0).count();
        let hole = end - zeros;
        hole < read_to && (zeros >= HOLE_BYTES_MIN || hole == offset || end >= read_to)
    })
}
