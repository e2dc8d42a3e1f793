//! A snapshot of one shard: the base of `verify` when segments are gone, of backup, and of moves.
//!
//! ```text
//! magic "MEEDSNAP"  format u32  journal id 16 bytes  shard u16  sequence u64  accounts u64
//! accounts × (identity length u16, blob length u32, identity, blob), ascending by identity
//! totals sequence u64  totals length u32  totals
//! xxh3-128 of everything before it, 16 bytes
//! ```
//! Numbers are little endian; the hash is written most significant byte first. The hash finds damage, it does
//! not authenticate: whoever can write the file can write its hash.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meed_schemas::ids::{ID_BYTES_MAX, Identity, SHARDS_MAX};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"MEEDSNAP";
/// Version of the format that is written, the newest that is read.
pub const SNAPSHOT_FORMAT: u32 = 1;
const IDENTITY_BYTES_MAX: usize = 2 + 2 * ID_BYTES_MAX;
/// Longest blob of an account, or of totals, in a snapshot: a longer length is damage, not an allocation.
pub const SNAPSHOT_BLOB_BYTES_MAX: usize = 64 << 20;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The journal that it belongs to.
    pub journal_id: [u8; 16],
    /// The shard.
    pub shard: u16,
    /// Highest shard sequence whose effect is in it: the tail begins after.
    pub sequence: u64,
    /// Number of accounts in it.
    pub accounts: u64,
}

/// What stands after the accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTotals {
    /// Highest shard sequence that the totals have.
    pub sequence: u64,
    /// The shard's totals, opaque.
    pub totals: Vec<u8>,
}

/// Writes a snapshot, account by account. `path` only names the file in messages; making it durable and
/// giving it its name is the caller's. Wants a buffered writer.
pub struct SnapshotWriter<W: Write> {
    out: W,
    path: PathBuf,
    hash: Xxh3,
    accounts_left: u64,
    last: Option<Identity>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot.
    pub fn new(out: W, path: &Path, header: &SnapshotHeader) -> Result<Self> {
        let mut writer =
            Self { out, path: path.to_owned(), hash: Xxh3::new(), accounts_left: header.accounts, last: None };
        writer.put(MAGIC)?;
        writer.put(&SNAPSHOT_FORMAT.to_le_bytes())?;
        writer.put(&header.journal_id)?;
        writer.put(&header.shard.to_le_bytes())?;
        writer.put(&header.sequence.to_le_bytes())?;
        writer.put(&header.accounts.to_le_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn refuse(&self, detail: String) -> Error {
        Error::Store { action: "write a snapshot", detail }
    }

    fn put_length(&mut self, bytes: &[u8]) -> Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|l| *l as usize <= SNAPSHOT_BLOB_BYTES_MAX);
        let length = length.ok_or_else(|| self.refuse(format!("{} bytes in one blob", bytes.len())))?;
        self.put(&length.to_le_bytes())
    }

    /// Adds an account.
    ///
    /// # Errors
    /// [`Error::Store`] unless identities ascend and are as many as the header says.
    pub fn account(&mut self, identity: &Identity, blob: &[u8]) -> Result<()> {
        if self.last.as_ref().is_some_and(|last| last >= identity) {
            return Err(self.refuse(format!("{identity:?} comes after {:?}", self.last)));
        }
        self.accounts_left = self
            .accounts_left
            .checked_sub(1)
            .ok_or_else(|| self.refuse("more accounts than the header says".to_owned()))?;
        self.put(&(identity.as_bytes().len() as u16).to_le_bytes())?;
        self.put_length(blob)?;
        self.put(identity.as_bytes())?;
        self.put(blob)?;
        self.last = Some(identity.clone());
        Ok(())
    }

    /// Ends the snapshot, and gives the writer back flushed.
    pub fn finish(mut self, totals: &SnapshotTotals) -> Result<W> {
        if self.accounts_left != 0 {
            return Err(self.refuse(format!("{} accounts fewer than the header says", self.accounts_left)));
        }
        self.put(&totals.sequence.to_le_bytes())?;
        self.put_length(&totals.totals)?;
        self.put(&totals.totals)?;
        let hash = self.hash.digest128();
        self.put(&hash.to_be_bytes())?;
        self.out.flush().map_err(|e| Error::io("write", &self.path, e))?;
        Ok(self.out)
    }
}

/// Reads a snapshot. Nothing that it gave may be relied upon before [`SnapshotReader::finish`] has returned:
/// the hash stands at the end. Wants a buffered reader.
pub struct SnapshotReader<R: Read> {
    input: R,
    path: PathBuf,
    offset: u64,
    hash: Xxh3,
    header: SnapshotHeader,
    accounts_left: u64,
    last: Option<Identity>,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`]. Whose journal it is of is the caller's to compare.
    pub fn new(input: R, path: &Path) -> Result<Self> {
        let header = SnapshotHeader { journal_id: [0; 16], shard: 0, sequence: 0, accounts: 0 };
        let mut reader =
            Self { input, path: path.to_owned(), offset: 0, hash: Xxh3::new(), header, accounts_left: 0, last: None };
        if &reader.take::<8>()? != MAGIC {
            reader.offset = 0;
            return Err(reader.damaged("not a snapshot"));
        }
        let found = u32::from_le_bytes(reader.take()?);
        if found > SNAPSHOT_FORMAT {
            return Err(Error::NewerFormat { path: reader.path, found, known: SNAPSHOT_FORMAT });
        }
        reader.header = SnapshotHeader {
            journal_id: reader.take()?,
            shard: u16::from_le_bytes(reader.take()?),
            sequence: u64::from_le_bytes(reader.take()?),
            accounts: u64::from_le_bytes(reader.take()?),
        };
        if found != SNAPSHOT_FORMAT || reader.header.shard >= SHARDS_MAX {
            return Err(reader.damaged("the header cannot be"));
        }
        reader.accounts_left = reader.header.accounts;
        Ok(reader)
    }

    /// What the snapshot is of.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    fn damaged(&self, detail: &str) -> Error {
        Error::Damaged { file: self.path.clone(), offset: self.offset, detail: detail.to_owned() }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged("the snapshot ends early"),
            _ => Error::io("read", &self.path, e),
        })?;
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn take_blob(&mut self, length: usize) -> Result<Vec<u8>> {
        if length > SNAPSHOT_BLOB_BYTES_MAX {
            return Err(self.damaged("a length that cannot be"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next account; `None` after the last.
    pub fn next_account(&mut self) -> Result<Option<(Identity, Vec<u8>)>> {
        if self.accounts_left == 0 {
            return Ok(None);
        }
        let identity_length = usize::from(u16::from_le_bytes(self.take()?));
        let blob_length = u32::from_le_bytes(self.take()?) as usize;
        if identity_length > IDENTITY_BYTES_MAX {
            return Err(self.damaged("a length that cannot be"));
        }
        let identity = self.take_blob(identity_length)?;
        let identity = Identity::from_bytes(&identity).ok_or_else(|| self.damaged("an identity that cannot be"))?;
        if self.last.as_ref().is_some_and(|last| *last >= identity) {
            return Err(self.damaged("identities out of order"));
        }
        let blob = self.take_blob(blob_length)?;
        self.last = Some(identity.clone());
        self.accounts_left -= 1;
        Ok(Some((identity, blob)))
    }

    /// Reads on to the end, checks the hash and that nothing follows, and returns the totals.
    pub fn finish(mut self) -> Result<SnapshotTotals> {
        while self.next_account()?.is_some() {}
        let sequence = u64::from_le_bytes(self.take()?);
        let length = u32::from_le_bytes(self.take()?) as usize;
        let totals = self.take_blob(length)?;
        let hash = self.hash.digest128();
        if self.take()? != hash.to_be_bytes() {
            return Err(self.damaged("the hash does not match"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(SnapshotTotals { sequence, totals }),
            Ok(_) => Err(self.damaged("something follows the end")),
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
