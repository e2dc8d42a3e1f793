//! The state store of a folder that is only read. To open a store takes the right to write: its files are locked and
//! put in order. Where that right is missing, as in a snapshot that a file system has mounted, a copy is opened.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::{Store, StoreOptions};

/// A state store, or a copy of one, which goes with it. The fields are dropped in this order.
pub(crate) struct ReadState {
    pub(crate) store: Store,
    _copy: Option<Copy>,
}

/// A folder of our own among the temporary ones.
struct Copy {
    path: PathBuf,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // What is left is the system's to remove, as all that is temporary.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl ReadState {
    /// Opens the store in `state`, of this journal.
    pub(crate) fn open(state: &Path, journal_id: u128) -> Result<Self> {
        let copy = match access(state, Access::WRITE_OK) {
            Err(Errno::ROFS | Errno::ACCESS) => Some(Copy::of(state, &std::env::temp_dir())?),
            _ => None,
        };
        let place = copy.as_ref().map_or(state, |copy| &copy.path);
        let store = Store::open(place, journal_id.to_le_bytes(), &StoreOptions::default())?;
        Ok(Self { store, _copy: copy })
    }
}

impl Copy {
    fn of(state: &Path, temporary: &Path) -> Result<Self> {
        let path = temporary.join(format!("meed-state-{}", std::process::id()));
        let fault = |e: io::Error| {
            let said = format!("{e}; {} may not be written to, and TMPDIR names where a copy is made", state.display());
            Error::io("copy the state to", &path, io::Error::new(e.kind(), said))
        };
        // Nobody else may read what it holds.
        DirBuilder::new().mode(0o700).create(&path).map_err(fault)?;
        let copy = Self { path: path.clone() };
        copy_files(state, &path).map_err(fault)?;
        Ok(copy)
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&source, &target)?;
        } else {
            // Not `fs::copy`: a file that may not be written to would be copied as such.
            io::copy(&mut fs::File::open(&source)?, &mut fs::File::create_new(&target)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_copy_opens_as_the_store_does_and_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let open = |path: &Path| Store::open(path, [7; 16], &StoreOptions::default()).unwrap();
        let mut first = open(&state);
        first.put_meta("name", b"value").unwrap();
        drop(first);
        let copy = Copy::of(&state, folder.path()).unwrap();
        let path = copy.path.clone();
        let store = open(&path);
        let _first = open(&state);
        assert_eq!(store.meta("name").unwrap().as_deref(), Some(&b"value"[..]));
        drop(ReadState { store, _copy: Some(copy) });
        assert!(!path.exists());
    }
}
