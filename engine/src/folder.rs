//! The identity of a data folder: which journal it belongs to, and how accounts are mapped to shards.

use std::path::Path;

use meed_schemas::ids::{SHARD_HASH_NAME, SHARDS_MAX};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{Error, Result};

const FILE: &str = "node.json";
const FORMAT: u32 = 1;
/// Shards of a folder or keyspace that is created, when nothing else is asked for.
pub(crate) const SHARDS_DEFAULT: u16 = 16;

/// What stands in `node.json`. Written once, when the folder is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderIdentity {
    /// Random; the journal and the state store carry it too.
    pub journal_id: u128,
    /// How many shards.
    pub shards: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    journal_id: String,
    shards: u16,
    shard_hash: String,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl FolderIdentity {
    /// Reads the identity of `folder`, or makes one of `shards` shards (16 when not given).
    ///
    /// # Errors
    /// A folder with another shard count than asked for or another hash, of a newer format, or one that has
    /// data but no identity.
    pub fn open_or_create(disk: &Disk, folder: &Path, shards: Option<u16>) -> Result<Self> {
        let path = folder.join(FILE);
        if disk.exists(&path)? {
            return Self::read_as(disk, &path, shards);
        }
        if disk.exists(&folder.join("journal"))? {
            let detail = format!("it has a journal but no {FILE}; restore that file from a copy");
            return Err(Error::Mismatch { path: folder.into(), detail });
        }
        let shards = shards.unwrap_or(SHARDS_DEFAULT);
        if shards == 0 || shards > SHARDS_MAX {
            return Err(Error::Setting(format!("shards is {shards}; it must be 1 to {SHARDS_MAX}")));
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let made = Self { journal_id: u128::from_le_bytes(id), shards };
        let document = Document {
            format: FORMAT,
            journal_id: format!("{:032x}", made.journal_id),
            shards,
            shard_hash: SHARD_HASH_NAME.into(),
        };
        let text =
            serde_json::to_string_pretty(&document).map_err(|e| Error::Setting(format!("cannot write {FILE}: {e}")))?;
        let unfinished = folder.join("node.json.new");
        let file = disk.create(&unfinished)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync_data()?;
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(folder)?;
        Ok(made)
    }

    /// Reads the identity of a folder that has one.
    ///
    /// # Errors
    /// No such file, or one of another form.
    pub fn read(disk: &Disk, folder: &Path) -> Result<Self> {
        if !disk.exists(&folder.join(FILE))? {
            return Err(Error::NoFolder { path: folder.into(), file: FILE });
        }
        Self::read_as(disk, &folder.join(FILE), None)
    }

    fn read_as(disk: &Disk, path: &Path, shards: Option<u16>) -> Result<Self> {
        let file = disk.open_to_read(path)?;
        let mut bytes = vec![0; 4_096];
        let length = file.read_at(&mut bytes, 0)?;
        let mismatch = |detail: String| Error::Mismatch { path: path.into(), detail };
        let damaged = |detail| Error::Damaged { file: path.into(), offset: 0, detail };
        let unreadable = |e: serde_json::Error| damaged(format!("it is not readable: {e}"));
        // The format first: a newer one may have members that this one does not know.
        let Format { format } = serde_json::from_slice(&bytes[..length]).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::NewerFormat { path: path.into(), found: format, known: FORMAT });
        }
        let document: Document = serde_json::from_slice(&bytes[..length]).map_err(unreadable)?;
        if document.shard_hash != SHARD_HASH_NAME {
            return Err(mismatch(format!("its accounts are mapped to shards by {}", document.shard_hash)));
        }
        if document.shards == 0 || document.shards > SHARDS_MAX {
            return Err(mismatch(format!("{} shards are not possible", document.shards)));
        }
        if let Some(asked) = shards.filter(|asked| *asked != document.shards) {
            let has = document.shards;
            return Err(mismatch(format!("it has {has} shards and {asked} were asked for; leave --shards out")));
        }
        let journal_id = u128::from_str_radix(&document.journal_id, 16)
            .map_err(|_| damaged("its journal id is not a number".into()))?;
        Ok(Self { journal_id, shards: document.shards })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::test_fixture;

    /// All but the id, which is random.
    #[test]
    fn the_file_is_pinned() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let id = "0123456789abcdef0011223344556677";
        let made = FolderIdentity::open_or_create(&disk, folder.path(), Some(64)).unwrap();
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap().replace(&format!("{:032x}", made.journal_id), id);
        std::fs::write(&path, test_fixture::whole("state/node.json", text.as_bytes())).unwrap();
        let expected = FolderIdentity { journal_id: 0x0123_4567_89ab_cdef_0011_2233_4455_6677, shards: 64 };
        assert_eq!(FolderIdentity::read(&disk, folder.path()).unwrap(), expected);
        assert_eq!(FolderIdentity::open_or_create(&disk, folder.path(), None).unwrap(), expected);
    }
}
