//! The file system as the journal sees it: positional reads and writes, syncs of files and folders, and a lock. The
//! journal, the folder's identity and snapshots open no path by themselves, so that a disk with faults can stand in for
//! the real one; the state store, the aliases and the secrets do. It knows nothing of batches or records.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use crate::error::{Error, Result};

pub mod simulated;

#[cfg(test)]
pub mod faulty;

/// Where files live. Cloning is cheap; all clones are the same disk.
#[derive(Clone, Debug)]
pub enum Disk {
    /// The operating system's file systems.
    Real(RealDisk),
    /// One in memory that breaks as real ones do.
    Simulated(simulated::SimulatedDisk),
    /// The real one with planted faults.
    #[cfg(test)]
    Faulty(faulty::FaultyDisk),
}

/// An open file. Cloning is cheap; all clones are the same open file.
#[derive(Clone, Debug)]
pub enum DiskFile {
    /// A file of the operating system.
    Real(RealFile),
    /// A file of the disk in memory.
    Simulated(simulated::SimulatedFile),
    /// A real one with planted faults.
    #[cfg(test)]
    Faulty(faulty::FaultyFile),
}

/// The operating system's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A file of the operating system and the path under which it was opened, for messages.
#[derive(Clone, Debug)]
pub struct RealFile {
    file: Arc<File>,
    path: Arc<Path>,
}

/// Holds a folder for this process until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _held: Held,
}

/// What holds a folder.
#[derive(Debug)]
enum Held {
    Real {
        _file: File,
    },
    Simulated {
        _lock: simulated::SimulatedLock,
    },
    /// A folder on a file system where nobody can write.
    Unwritable,
}

impl Default for Disk {
    fn default() -> Self {
        Self::Real(RealDisk)
    }
}

impl Disk {
    /// Creates a folder and its missing parents, and makes its name durable.
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        self.change("create the folder", path)?;
        if let Self::Simulated(disk) = self {
            return disk.create_dir(path).map_err(|e| Error::io("create the folder", path, e));
        }
        if path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(path).map_err(|e| Error::io("create the folder", path, e))?;
        match path.parent() {
            Some(parent) if parent != Path::new("") => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }

    /// Creates an empty file for reading and writing; an older one of that name is emptied.
    pub fn create(&self, path: &Path) -> Result<DiskFile> {
        self.change("create", path)?;
        let mut options = OpenOptions::new();
        self.open_with("create", path, options.read(true).write(true).create(true).truncate(true))
    }

    /// Opens an existing file for reading and writing.
    pub fn open(&self, path: &Path) -> Result<DiskFile> {
        self.open_with("open", path, OpenOptions::new().read(true).write(true))
    }

    /// Opens an existing file for reading.
    pub fn open_to_read(&self, path: &Path) -> Result<DiskFile> {
        self.open_with("open", path, OpenOptions::new().read(true))
    }

    /// The names in a folder, sorted; names that are not UTF-8 are left out.
    pub fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let fault = |e| Error::io("list the folder", folder, e);
        if let Self::Simulated(disk) = self {
            return disk.list(folder).map_err(fault);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(fault)? {
            if let Ok(name) = entry.map_err(fault)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether there is a file or folder of this name.
    pub fn exists(&self, path: &Path) -> Result<bool> {
        let exists = match self {
            Self::Simulated(disk) => disk.exists(path),
            _ => path.try_exists(),
        };
        exists.map_err(|e| Error::io("look for", path, e))
    }

    /// Gives a file another name in the same folder, replacing what has it. Durable after
    /// [`Disk::sync_dir`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.change("rename", from)?;
        #[cfg(test)]
        if let Self::Faulty(disk) = self {
            disk.before_rename(from, to);
        }
        let renamed = match self {
            Self::Simulated(disk) => disk.rename(from, to),
            _ => fs::rename(from, to),
        };
        renamed.map_err(|e| Error::io("rename", from, e))
    }

    /// Removes a file; one that is not there is no fault. Durable after [`Disk::sync_dir`].
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.change("remove", path)?;
        #[cfg(test)]
        if let Self::Faulty(disk) = self {
            disk.before_remove(path);
        }
        let removed = match self {
            Self::Simulated(disk) => disk.remove(path),
            _ => fs::remove_file(path),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// Makes the names in a folder durable.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.change("sync the folder", path)?;
        #[cfg(test)]
        if let Self::Faulty(disk) = self {
            disk.names_are_synced(path);
        }
        let synced = match self {
            Self::Simulated(disk) => disk.sync_dir(path),
            _ => File::open(path).and_then(|d| d.sync_all()),
        };
        synced.map_err(|e| Error::io("sync the folder", path, e))
    }

    /// Takes the folder for this process, through a file `lock` in it.
    pub fn lock(&self, folder: &Path) -> Result<FolderLock> {
        self.lock_with(folder, |path| open_to_lock(path).map(Some))
    }

    /// Takes the folder for a process that only reads it, also where it may not be written to.
    pub fn lock_to_read(&self, folder: &Path) -> Result<FolderLock> {
        self.lock_with(folder, |path| or_to_read(open_to_lock(path), || File::open(path)))
    }

    fn lock_with(&self, folder: &Path, open: impl Fn(&Path) -> io::Result<Option<File>>) -> Result<FolderLock> {
        if let Self::Simulated(disk) = self {
            let lock = disk.lock(folder).map_err(|e| Error::io("lock", folder, e))?;
            let locked = || Error::Locked { path: folder.to_path_buf() };
            return Ok(FolderLock { _held: Held::Simulated { _lock: lock.ok_or_else(locked)? } });
        }
        let path = folder.join("lock");
        let Some(file) = open(&path).map_err(|e| Error::io("open", &path, e))? else {
            return Ok(FolderLock { _held: Held::Unwritable });
        };
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _held: Held::Real { _file: file } }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked { path: folder.to_path_buf() }),
            Err(TryLockError::Error(e)) => Err(Error::io("lock", path, e)),
        }
    }

    fn open_with(&self, action: &'static str, path: &Path, options: &OpenOptions) -> Result<DiskFile> {
        if let Self::Simulated(disk) = self {
            let file = if action == "create" { disk.create(path) } else { disk.open(path) };
            return file.map(DiskFile::Simulated).map_err(|e| Error::io(action, path, e));
        }
        let file = options.open(path).map_err(|e| Error::io(action, path, e))?;
        let real = RealFile { file: Arc::new(file), path: Arc::from(path) };
        Ok(match self {
            Self::Real(_) | Self::Simulated(_) => DiskFile::Real(real),
            #[cfg(test)]
            Self::Faulty(disk) => DiskFile::Faulty(disk.wrap(real)),
        })
    }

    /// Every change of the folder passes here first; only a disk with faults refuses.
    fn change(&self, _action: &'static str, _path: &Path) -> Result<()> {
        match self {
            Self::Real(_) | Self::Simulated(_) => Ok(()),
            #[cfg(test)]
            Self::Faulty(disk) => disk.before_change().map_err(|e| Error::io(_action, _path, e)),
        }
    }
}

fn open_to_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The file to lock for one who only reads, which takes no right to write to it. `None` where there is no such file and
/// nobody can make one: then nobody can write what is read either.
fn or_to_read(opened: io::Result<File>, to_read: impl FnOnce() -> io::Result<File>) -> io::Result<Option<File>> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    let refused = match opened {
        Err(e) if matches!(e.kind(), ReadOnlyFilesystem | PermissionDenied) => e,
        opened => return opened.map(Some),
    };
    match to_read() {
        Err(e) if e.kind() == NotFound && refused.kind() == ReadOnlyFilesystem => Ok(None),
        Err(e) if e.kind() == NotFound => Err(refused),
        opened => opened.map(Some),
    }
}

impl DiskFile {
    /// The path under which the file was opened, for messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Real(real) => &real.path,
            Self::Simulated(file) => file.path(),
            #[cfg(test)]
            Self::Faulty(faulty) => &faulty.real().path,
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> Result<u64> {
        let length = match self {
            Self::Real(real) => real.length(),
            Self::Simulated(file) => file.length(),
            #[cfg(test)]
            Self::Faulty(faulty) => faulty.real().length(),
        };
        length.map_err(|e| Error::io("read the length of", self.path(), e))
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `bytes` from `offset`; returns how many bytes there were, less than asked only at the end of
    /// the file.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            let (rest, at) = (&mut bytes[filled..], offset + filled as u64);
            let read = match self {
                Self::Real(real) => real.file.read_at(rest, at),
                Self::Simulated(file) => file.read_at(rest, at),
                #[cfg(test)]
                Self::Faulty(faulty) => faulty.real().file.read_at(rest, at),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", self.path(), e)),
            }
        }
        Ok(filled)
    }

    /// Writes all of `bytes` at `offset`. Durable after [`DiskFile::sync_data`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = match self {
            Self::Real(real) => real.file.write_all_at(bytes, offset),
            Self::Simulated(file) => file.write_at(bytes, offset),
            #[cfg(test)]
            Self::Faulty(faulty) => faulty.write_at(bytes, offset),
        };
        written.map_err(|e| Error::io("write", self.path(), e))
    }

    /// Makes what was written durable, with the length where that changed. Never try again after a fault:
    /// the system may have dropped the pages that it could not write, and a second sync would succeed.
    pub fn sync_data(&self) -> Result<()> {
        let synced = match self {
            Self::Real(real) => real.file.sync_data(),
            Self::Simulated(file) => file.sync_data(),
            #[cfg(test)]
            Self::Faulty(faulty) => faulty.sync_data(),
        };
        synced.map_err(|e| Error::io("sync", self.path(), e))
    }

    /// Reserves the blocks of the first `length` bytes and makes the file that long. A file system that
    /// cannot reserve gets its blocks when zeros are written.
    pub fn allocate(&self, length: u64) -> Result<()> {
        let allocated = match self {
            Self::Real(real) => real.allocate(length),
            Self::Simulated(file) => file.allocate(length),
            #[cfg(test)]
            Self::Faulty(faulty) => faulty.allocate(length),
        };
        allocated.map_err(|e| Error::io("allocate", self.path(), e))
    }

    /// Cuts the file to `length` bytes.
    pub fn cut(&self, length: u64) -> Result<()> {
        let cut = match self {
            Self::Real(real) => real.file.set_len(length),
            Self::Simulated(file) => file.cut(length),
            #[cfg(test)]
            Self::Faulty(faulty) => faulty.cut(length),
        };
        cut.map_err(|e| Error::io("cut", self.path(), e))
    }
}

impl RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&*self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(length),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};

    /// The system is not asked to refuse: it refuses nothing to a test that runs with all rights.
    #[test]
    fn who_only_reads_needs_no_right_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let after = |refusal: io::ErrorKind| or_to_read(Err(refusal.into()), || File::open(&path));
        assert!(after(ReadOnlyFilesystem).unwrap().is_none(), "nobody can write there");
        assert_eq!(after(PermissionDenied).unwrap_err().kind(), PermissionDenied, "another user may write there");
        assert_eq!(after(StorageFull).unwrap_err().kind(), StorageFull);
        std::fs::write(&path, "").unwrap();
        let disk = Disk::default();
        for refusal in [ReadOnlyFilesystem, PermissionDenied] {
            let file = after(refusal).unwrap().unwrap();
            file.try_lock().unwrap();
            let second = [disk.lock(folder.path()), disk.lock_to_read(folder.path())];
            assert!(second.iter().all(|held| matches!(held, Err(Error::Locked { .. }))), "{second:?}");
        }
        disk.lock_to_read(folder.path()).unwrap();
    }
}
