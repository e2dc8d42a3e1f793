//! A disk with planted faults: the real one that stops at the n-th change (a kill), has little space, fails a
//! sync, or forgets what was not synced (a power cut).

#![allow(clippy::unwrap_used)]

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, RealFile};

const SECTOR_BYTES: usize = 512;

/// The disk. Clones share its faults.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    changes: u64,
    changes_max: Option<u64>,
    space_bytes: Option<u64>,
    fail_sync: bool,
    unsynced: Vec<Unsynced>,
    /// Changes of names in folders that are not synced.
    unsynced_names: Vec<Name>,
    /// A second name for what lost its own.
    trash: Option<tempfile::TempDir>,
    trashed: u64,
}

/// A name that was taken from a file, perhaps for another one.
#[derive(Debug)]
struct Name {
    /// The name that is gone, and under which name in the trash the file still is.
    gone: Option<(PathBuf, PathBuf)>,
    /// From which name to which a file was renamed.
    renamed: Option<(PathBuf, PathBuf)>,
}

/// What a sector-wise write replaced, until its file is synced.
#[derive(Debug)]
struct Unsynced {
    path: PathBuf,
    offset: u64,
    before: Vec<u8>,
}

/// A file on it.
#[derive(Clone, Debug)]
pub struct FaultyFile {
    real: RealFile,
    disk: FaultyDisk,
}

impl FaultyDisk {
    pub(crate) fn disk(&self) -> Disk {
        Disk::Faulty(self.clone())
    }

    /// Every change after the next `count` ones fails, as if the process had been killed.
    pub(crate) fn stop_after(&self, count: u64) {
        let mut plan = self.plan();
        plan.changes_max = Some(plan.changes + count);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.plan().changes
    }

    /// Allocations beyond this many bytes fail.
    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.plan().space_bytes = bytes;
    }

    pub(crate) fn fail_sync(&self) {
        self.plan().fail_sync = true;
    }

    /// Puts back what was there before writes and changes of names that were not synced, each sector and each
    /// name or not as `keep` says.
    pub(crate) fn cut_power(&self, mut keep: impl FnMut() -> bool) {
        let names: Vec<Name> = self.plan().unsynced_names.drain(..).rev().collect();
        for name in names {
            if keep() {
                continue;
            }
            if let Some((from, to)) = name.renamed {
                // Where it has been renamed or removed since, that came to the disk and this with it.
                let _ = std::fs::rename(to, from);
            }
            if let Some((path, trash)) = name.gone {
                std::fs::rename(trash, path).unwrap();
            }
        }
        for undo in self.plan().unsynced.drain(..).rev() {
            let Ok(file) = std::fs::OpenOptions::new().write(true).open(&undo.path) else { continue };
            for (index, sector) in undo.before.chunks(SECTOR_BYTES).enumerate() {
                if !keep() {
                    file.write_all_at(sector, undo.offset + (index * SECTOR_BYTES) as u64).unwrap();
                }
            }
        }
    }

    pub(super) fn wrap(&self, real: RealFile) -> FaultyFile {
        FaultyFile { real, disk: self.clone() }
    }

    pub(super) fn before_change(&self) -> io::Result<()> {
        let mut plan = self.plan();
        if plan.changes_max.is_some_and(|max| plan.changes >= max) {
            return Err(io::Error::other("killed by the test"));
        }
        plan.changes += 1;
        Ok(())
    }

    pub(super) fn before_rename(&self, from: &Path, to: &Path) {
        let gone = self.keep_aside(to);
        self.plan().unsynced_names.push(Name { gone, renamed: Some((from.to_owned(), to.to_owned())) });
    }

    pub(super) fn before_remove(&self, path: &Path) {
        let gone = self.keep_aside(path);
        self.plan().unsynced_names.push(Name { gone, renamed: None });
    }

    pub(super) fn names_are_synced(&self, folder: &Path) {
        let in_folder = |path: &Path| path.parent() == Some(folder);
        self.plan().unsynced_names.retain(|name| {
            let path = name.gone.as_ref().or(name.renamed.as_ref()).map(|(path, _)| path.as_path());
            !path.is_some_and(in_folder)
        });
    }

    /// Gives a file, if it is there, a second name in the trash.
    fn keep_aside(&self, path: &Path) -> Option<(PathBuf, PathBuf)> {
        let mut plan = self.plan();
        plan.trashed += 1;
        let number = plan.trashed;
        let trash = plan.trash.get_or_insert_with(|| tempfile::tempdir().unwrap());
        let aside = trash.path().join(number.to_string());
        std::fs::hard_link(path, &aside).ok().map(|()| (path.to_owned(), aside))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultyFile {
    pub(super) fn real(&self) -> &RealFile {
        &self.real
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.before_change()?;
        let mut before = vec![0; bytes.len()];
        let length = self.real.file.read_at(&mut before, offset)?;
        before.truncate(length);
        self.disk.plan().unsynced.push(Unsynced { path: self.path(), offset, before });
        self.real.file.write_all_at(bytes, offset)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.disk.before_change()?;
        if self.disk.plan().fail_sync {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.real.file.sync_data()?;
        let path = self.path();
        self.disk.plan().unsynced.retain(|undo| undo.path != path);
        Ok(())
    }

    pub(super) fn allocate(&self, length: u64) -> io::Result<()> {
        self.disk.before_change()?;
        let mut plan = self.disk.plan();
        if let Some(space_bytes) = &mut plan.space_bytes {
            if *space_bytes < length {
                return Err(io::Error::from_raw_os_error(28));
            }
            *space_bytes -= length;
        }
        drop(plan);
        self.real.allocate(length)
    }

    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        self.disk.before_change()?;
        self.real.file.set_len(length)
    }

    fn path(&self) -> PathBuf {
        Path::to_path_buf(&self.real.path)
    }
}
