//! Snapshots as files: written whole or not at all, listed, and read with their hash checked.
//!
//! Those that the node takes lie in the folder `snapshots` of its data, numbered in the order in which they were
//! taken. Any of them, and any that the command line wrote elsewhere, is the same kind of file.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::planted::{Fault, planted};
use crate::store::StoreView;
use crate::store::snapshot::{SnapshotHeader, SnapshotReader, SnapshotRow, SnapshotWriter};

const FOLDER: &str = "snapshots";
const SUFFIX: &str = ".snapshot";
/// How much is read or written at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// How much is written between two syncs.
const SYNC_BYTES: u64 = 1024 * 1024;

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// What it is of.
    pub header: SnapshotHeader,
    /// Per shard, the sequence up to which every effect is in it; 0 for a shard without checkpoint.
    pub up_to: Vec<u64>,
    /// Accounts in it.
    pub accounts: u64,
    /// Facts and spilled keys in it.
    pub facts: u64,
}

impl SnapshotSummary {
    /// A summary of no rows.
    pub fn new(header: SnapshotHeader) -> Self {
        let up_to = vec![0; usize::from(header.shards)];
        Self { header, up_to, accounts: 0, facts: 0 }
    }

    /// Takes a row in.
    pub fn add(&mut self, row: &SnapshotRow) {
        match row {
            SnapshotRow::Shard { shard, state } => {
                if let Some(up_to) = self.up_to.get_mut(usize::from(*shard)) {
                    *up_to = state.replay_start.saturating_sub(1);
                }
            }
            SnapshotRow::Account { .. } => self.accounts += 1,
            SnapshotRow::Fact { .. } | SnapshotRow::Key(_) => self.facts += 1,
            SnapshotRow::Meta { .. } => {}
        }
    }

    /// Whether the journal may lose every record up to these sequences, per shard.
    pub fn covers(&self, up_to: &[u64]) -> bool {
        self.up_to.len() == up_to.len() && self.up_to.iter().zip(up_to).all(|(have, needed)| have >= needed)
    }
}

/// The snapshots in a data folder, oldest first.
pub fn list(disk: &Disk, data: &Path) -> Result<Vec<PathBuf>> {
    let folder = data.join(FOLDER);
    if !disk.exists(&folder)? {
        return Ok(Vec::new());
    }
    let names = disk.list(&folder)?;
    Ok(names.iter().filter(|name| number_of(name).is_some()).map(|name| folder.join(name)).collect())
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Makes the folder of snapshots if there is none, and takes away what a crash left of one that was being written.
pub fn prepare_folder(disk: &Disk, data: &Path) -> Result<()> {
    let folder = data.join(FOLDER);
    disk.create_dir(&folder)?;
    for name in disk.list(&folder)?.iter().filter(|name| name.ends_with(".unfinished")) {
        disk.remove(&folder.join(name))?;
    }
    Ok(())
}

/// The path of the next snapshot of a data folder.
pub fn next_path(disk: &Disk, data: &Path) -> Result<PathBuf> {
    let newest = list(disk, data)?.pop();
    let name = newest.as_ref().and_then(|path| path.file_name()?.to_str());
    let number = name.and_then(number_of).map_or(1, |number| number + 1);
    Ok(data.join(FOLDER).join(format!("{number:020}{SUFFIX}")))
}

/// Writes a snapshot: under another name, synced, then renamed and the folder synced, so that a file that has its
/// name is whole. `pace` is told after each piece how long it took, and waits as long as it wants; when it says
/// false, nothing is left and `None` is returned.
///
/// # Errors
/// The view cannot be read, or the file cannot be written; nothing is left of it.
pub fn write(
    disk: &Disk,
    path: &Path,
    view: &StoreView,
    header: &SnapshotHeader,
    pace: &mut dyn FnMut(Duration) -> bool,
) -> Result<Option<SnapshotSummary>> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let written = write_unfinished(disk, &unfinished, path, view, header, pace);
    if !matches!(written, Ok(Some(_))) {
        // What stays would only take space.
        let _ = disk.remove(&unfinished);
        return written;
    }
    disk.rename(&unfinished, path)?;
    if let Err(fault) = disk.sync_dir(parent(path)) {
        // Whether its name is durable is not known, and nobody may rely on it.
        let _ = disk.remove(path);
        return Err(fault);
    }
    written
}

/// The newest snapshot in a data folder that can be read, if there is one: it and its name are durable.
///
/// A process that was killed after the rename and before the sync of the folder leaves a name that the next power
/// cut may take; whoever removes segments on the strength of it would lose both. So the folder is synced first.
///
/// # Errors
/// The folder cannot be read or synced.
pub fn newest(disk: &Disk, data: &Path, identity: (u128, u16)) -> Result<Option<SnapshotSummary>> {
    let Some(path) = list(disk, data)?.pop() else { return Ok(None) };
    disk.sync_dir(parent(&path))?;
    match read(disk, &path, identity, &mut |_| Ok(())) {
        Ok(summary) => Ok(Some(summary)),
        Err(fault @ Error::Io { .. }) => Err(fault),
        Err(fault) => {
            // Another one is taken in its place.
            tracing::warn!(%fault, "a snapshot cannot be used");
            Ok(None)
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

fn write_unfinished(
    disk: &Disk,
    unfinished: &Path,
    path: &Path,
    view: &StoreView,
    header: &SnapshotHeader,
    pace: &mut dyn FnMut(Duration) -> bool,
) -> Result<Option<SnapshotSummary>> {
    let file = disk.create(unfinished)?;
    let output = FileWriter { file: file.clone(), at: 0 };
    let mut writer = SnapshotWriter::new(BufWriter::with_capacity(BUFFER_BYTES, output), path, header)?;
    let mut summary = SnapshotSummary::new(header.clone());
    let (mut bytes, mut began, mut ended) = (0, Instant::now(), false);
    let rows = view.rows(header.shards, &mut |row| {
        bytes += row_bytes(&row);
        summary.add(&row);
        writer.row(&row)?;
        if bytes >= SYNC_BYTES {
            bytes = 0;
            file.sync_data()?;
            if !pace(began.elapsed()) {
                ended = true;
                return Err(Error::Stopped("told to end".to_owned()));
            }
            began = Instant::now();
        }
        Ok(())
    });
    if ended {
        return Ok(None);
    }
    rows?;
    writer.finish()?;
    if !planted(Fault::SkipSnapshotSync) {
        file.sync_data()?;
    }
    Ok(Some(summary))
}

fn row_bytes(row: &SnapshotRow) -> u64 {
    let bytes = match row {
        SnapshotRow::Meta { value, .. } => value.len(),
        SnapshotRow::Shard { state, .. } => state.totals.len(),
        SnapshotRow::Account { identity, blob } => identity.as_bytes().len() + blob.len(),
        SnapshotRow::Fact { identity, value, .. } => identity.as_bytes().len() + value.len() + 9,
        SnapshotRow::Key(key) => size_of_val(key),
    };
    bytes as u64
}

/// Reads a snapshot to its end. What `visit` was given counts only when this returns in order: the hash stands at
/// the end. A snapshot of another journal than `journal_id`, or of another number of shards, is refused.
///
/// # Errors
/// [`Error::Damaged`], [`Error::NewerFormat`], [`Error::Mismatch`]; the first that `visit` returns.
pub fn read(
    disk: &Disk,
    path: &Path,
    (journal_id, shards): (u128, u16),
    visit: &mut dyn FnMut(SnapshotRow) -> Result<()>,
) -> Result<SnapshotSummary> {
    let input = FileReader { file: disk.open_to_read(path)?, at: 0 };
    let mut reader = SnapshotReader::new(BufReader::with_capacity(BUFFER_BYTES, input), path)?;
    let header = reader.header().clone();
    let mismatch = |detail: String| Error::Mismatch { path: path.to_path_buf(), detail };
    if header.journal_id != journal_id.to_le_bytes() {
        return Err(mismatch("it is a snapshot of another journal; take one of this folder".to_owned()));
    }
    if header.shards != shards {
        return Err(mismatch(format!("it was taken of {} shards, the folder has {shards}", header.shards)));
    }
    let mut summary = SnapshotSummary::new(header);
    while let Some(row) = reader.next_row()? {
        summary.add(&row);
        visit(row)?;
    }
    Ok(summary)
}

struct FileWriter {
    file: DiskFile,
    at: u64,
}

impl Write for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.at).map_err(into_io)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FileReader {
    file: DiskFile,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.at).map_err(into_io)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// What the system said, without the path, which is put round it again.
fn into_io(fault: Error) -> io::Error {
    match fault {
        Error::Io { source, .. } => source,
        fault => io::Error::other(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::disk::simulated::{Fault, SimulatedDisk};
    use crate::store::Store;

    const DATA: &str = "data";
    const IDENTITY: (u128, u16) = (7, 1);

    /// Writes a snapshot on a disk that fails at the `after`-th change.
    fn write_interrupted(disk: &SimulatedDisk, after: u64, fault: Fault) -> bool {
        let data = Path::new(DATA);
        let view = Store::in_memory().view().unwrap();
        let header = SnapshotHeader { journal_id: IDENTITY.0.to_le_bytes(), shards: IDENTITY.1, taken_at: 0 };
        disk.arm(after, fault);
        let written = prepare_folder(&disk.disk(), data)
            .and_then(|()| next_path(&disk.disk(), data))
            .and_then(|path| write(&disk.disk(), &path, &view, &header, &mut |_| true));
        written.is_ok_and(|written| written.is_some())
    }

    /// Wherever the writing of a snapshot ends: one that is relied on outlives the power.
    #[test]
    fn a_snapshot_that_is_relied_on_is_there_after_a_power_cut() {
        for fault in [Fault::Kill, Fault::Eio] {
            let mut relied = 0;
            for after in 1..12 {
                let disk = SimulatedDisk::new(after);
                let is_written = write_interrupted(&disk, after, fault);
                if fault == Fault::Kill {
                    disk.end_process();
                }
                disk.calm();
                let newest = newest(&disk.disk(), Path::new(DATA), IDENTITY).unwrap();
                assert!(newest.is_some() || !is_written);
                disk.cut_power(0);
                let there = list(&disk.disk(), Path::new(DATA)).unwrap();
                assert!(!there.is_empty() || newest.is_none(), "{fault:?} at change {after}");
                relied += usize::from(newest.is_some());
            }
            assert!(relied > 0);
        }
    }
}
