//! A snapshot of a state store: the base of `verify` when segments are gone, of backup, and of moves.
//!
//! ```text
//! magic "MEEDSNAP"  format u32  journal id 16 bytes  shards u16  taken at i64 (milliseconds of the epoch)
//! rows, each beginning with its tag u8:
//!   1 meta:    name length u16, value length u32, name, value
//!   2 shard:   shard u16, sequence u64, totals sequence u64, accounts u64, totals length u32, totals
//!   3 account: identity length u16, blob length u32, identity, blob
//!   4 fact:    identity length u16, value length u32, identity, fact u8, number u64, value
//!   5 key:     class u8, week u32, hash 16 bytes, value 16 bytes
//!   0 end:     number of rows before it u64
//! xxh3-128 of everything before it, 16 bytes
//! ```
//! Shards ascend; a shard's accounts follow it, ascending by identity, then its facts, then its spilled keys, of
//! which the last one with a hash counts. A shard without checkpoint has no row. Facts: 1 reversed, 2 expired lot,
//! 3 closed hold. Classes: 1 `Idempotency-Key`, 2 business key. Numbers are little endian; the hash at the end is
//! written most significant byte first. It finds damage, it does not authenticate: whoever can write the file can
//! write its hash.
//!
//! Format 1 held one shard without its facts; nothing ever wrote it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meed_schemas::ids::{ID_BYTES_MAX, Identity, SHARDS_MAX};
use meed_schemas::time::Millis;
use xxhash_rust::xxh3::Xxh3;

use super::{FactKey, KeyClass, ShardState, SpilledKey};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"MEEDSNAP";
/// Version of the format that is written, the newest that is read.
pub const SNAPSHOT_FORMAT: u32 = 2;
const IDENTITY_BYTES_MAX: usize = 2 + 2 * ID_BYTES_MAX;
/// Longest value in a snapshot: a longer length is damage, not an allocation.
pub const SNAPSHOT_VALUE_BYTES_MAX: usize = 64 << 20;

const END: u8 = 0;
const META: u8 = 1;
const SHARD: u8 = 2;
const ACCOUNT: u8 = 3;
const FACT: u8 = 4;
const KEY: u8 = 5;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The journal that it belongs to.
    pub journal_id: [u8; 16],
    /// How many shards the journal has.
    pub shards: u16,
    /// When it was taken.
    pub taken_at: Millis,
}

/// One row. Borrowed to write, owned when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotRow {
    /// A value by name.
    Meta {
        /// Its name.
        name: String,
        /// The value.
        value: Vec<u8>,
    },
    /// What follows is of this shard. Every effect before its replay start is in what follows; some of later
    /// ones may be, as each account's own sequence says.
    Shard {
        /// The shard.
        shard: u16,
        /// How far it is checkpointed.
        state: ShardState,
    },
    /// An account.
    Account {
        /// Who it is.
        identity: Identity,
        /// Its state.
        blob: Vec<u8>,
    },
    /// A fact that an account's blob no longer holds.
    Fact {
        /// Whose.
        identity: Identity,
        /// What it is about.
        fact: FactKey,
        /// Its value.
        value: Vec<u8>,
    },
    /// A key that the blob of one of the shard's accounts no longer holds.
    Key(SpilledKey),
}

/// Writes a snapshot, row by row. `path` only names the file in messages; making it durable and giving it its
/// name is the caller's. Wants a buffered writer.
pub struct SnapshotWriter<W: Write> {
    out: W,
    path: PathBuf,
    hash: Xxh3,
    rows: u64,
    order: Order,
}

/// Where in the order of rows a writer or reader is.
#[derive(Debug, Default)]
struct Order {
    shard: Option<u16>,
    last: Option<Identity>,
    facts_begun: bool,
    keys_begun: bool,
}

impl Order {
    /// Takes the next row, or says what is wrong with its place.
    fn take(&mut self, row: &SnapshotRow) -> std::result::Result<(), &'static str> {
        match row {
            SnapshotRow::Meta { .. } if self.shard.is_some() => return Err("a value by name comes after a shard"),
            SnapshotRow::Meta { .. } => {}
            SnapshotRow::Shard { shard, .. } => {
                if self.shard.is_some_and(|before| before >= *shard) {
                    return Err("shards out of order");
                }
                *self = Self { shard: Some(*shard), ..Self::default() };
            }
            _ if self.shard.is_none() => return Err("a row of no shard"),
            SnapshotRow::Account { identity, .. } => {
                if self.facts_begun || self.last.as_ref().is_some_and(|last| last >= identity) {
                    return Err("identities out of order");
                }
                self.last = Some(identity.clone());
            }
            SnapshotRow::Fact { .. } if self.keys_begun => return Err("a fact comes after a key"),
            SnapshotRow::Fact { .. } => self.facts_begun = true,
            SnapshotRow::Key(_) => (self.facts_begun, self.keys_begun) = (true, true),
        }
        Ok(())
    }
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins a snapshot.
    pub fn new(out: W, path: &Path, header: &SnapshotHeader) -> Result<Self> {
        let mut writer = Self { out, path: path.to_owned(), hash: Xxh3::new(), rows: 0, order: Order::default() };
        writer.put(MAGIC)?;
        writer.put(&SNAPSHOT_FORMAT.to_le_bytes())?;
        writer.put(&header.journal_id)?;
        writer.put(&header.shards.to_le_bytes())?;
        writer.put(&header.taken_at.to_le_bytes())?;
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
        let length = u32::try_from(bytes.len()).ok().filter(|l| *l as usize <= SNAPSHOT_VALUE_BYTES_MAX);
        let length = length.ok_or_else(|| self.refuse(format!("{} bytes in one value", bytes.len())))?;
        self.put(&length.to_le_bytes())
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Store`] unless rows come in the order of the format.
    pub fn row(&mut self, row: &SnapshotRow) -> Result<()> {
        self.order.take(row).map_err(|detail| self.refuse(detail.to_owned()))?;
        self.rows += 1;
        match row {
            SnapshotRow::Meta { name, value } => {
                self.put(&[META])?;
                self.put(&(name.len() as u16).to_le_bytes())?;
                self.put_length(value)?;
                self.put(name.as_bytes())?;
                self.put(value)
            }
            SnapshotRow::Shard { shard, state } => {
                self.put(&[SHARD])?;
                self.put(&shard.to_le_bytes())?;
                for number in [state.replay_start.saturating_sub(1), state.totals_sequence, state.accounts] {
                    self.put(&number.to_le_bytes())?;
                }
                self.put_length(&state.totals)?;
                self.put(&state.totals)
            }
            SnapshotRow::Account { identity, blob } => {
                self.put(&[ACCOUNT])?;
                self.put_owner(identity, blob)?;
                self.put(blob)
            }
            SnapshotRow::Fact { identity, fact, value } => {
                self.put(&[FACT])?;
                self.put_owner(identity, value)?;
                let (kind, number) = match *fact {
                    FactKey::Reversed(position) => (1, position),
                    // As its bits, because instants may be before the epoch.
                    FactKey::ExpiredLot(instant) => (2, instant as u64),
                    FactKey::ClosedHold(position) => (3, position),
                };
                self.put(&[kind])?;
                self.put(&number.to_le_bytes())?;
                self.put(value)
            }
            SnapshotRow::Key(key) => {
                let class = match key.class {
                    KeyClass::Idempotency => 1,
                    KeyClass::Business => 2,
                };
                self.put(&[KEY, class])?;
                self.put(&key.week.to_le_bytes())?;
                self.put(&key.hash.to_le_bytes())?;
                self.put(&key.value)
            }
        }
    }

    fn put_owner(&mut self, identity: &Identity, value: &[u8]) -> Result<()> {
        self.put(&(identity.as_bytes().len() as u16).to_le_bytes())?;
        self.put_length(value)?;
        self.put(identity.as_bytes())
    }

    /// Ends the snapshot, and gives the writer back flushed.
    pub fn finish(mut self) -> Result<W> {
        self.put(&[END])?;
        self.put(&self.rows.to_le_bytes())?;
        let hash = self.hash.digest128();
        self.put(&hash.to_be_bytes())?;
        self.out.flush().map_err(|e| Error::io("write", &self.path, e))?;
        Ok(self.out)
    }
}

/// Reads a snapshot. Nothing that it gave may be relied upon before [`SnapshotReader::next_row`] has returned
/// `None`: the hash stands at the end. Wants a buffered reader.
pub struct SnapshotReader<R: Read> {
    input: R,
    path: PathBuf,
    offset: u64,
    hash: Xxh3,
    header: SnapshotHeader,
    rows: u64,
    order: Order,
    ended: bool,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerFormat`]. Whose journal it is of is the caller's to compare.
    pub fn new(input: R, path: &Path) -> Result<Self> {
        let mut reader = Self {
            input,
            path: path.to_owned(),
            offset: 0,
            hash: Xxh3::new(),
            header: SnapshotHeader { journal_id: [0; 16], shards: 0, taken_at: 0 },
            rows: 0,
            order: Order::default(),
            ended: false,
        };
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
            shards: u16::from_le_bytes(reader.take()?),
            taken_at: i64::from_le_bytes(reader.take()?),
        };
        if found != SNAPSHOT_FORMAT || reader.header.shards > SHARDS_MAX {
            return Err(reader.damaged("the header cannot be"));
        }
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

    fn take_number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn take_length(&mut self) -> Result<usize> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        match length {
            0..=SNAPSHOT_VALUE_BYTES_MAX => Ok(length),
            _ => Err(self.damaged("a length that cannot be")),
        }
    }

    fn take_bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn take_owner(&mut self) -> Result<(Identity, usize)> {
        let identity_length = usize::from(u16::from_le_bytes(self.take()?));
        let length = self.take_length()?;
        if identity_length > IDENTITY_BYTES_MAX {
            return Err(self.damaged("a length that cannot be"));
        }
        let identity = self.take_bytes(identity_length)?;
        let identity = Identity::from_bytes(&identity).ok_or_else(|| self.damaged("an identity that cannot be"))?;
        Ok((identity, length))
    }

    fn take_row(&mut self, tag: u8) -> Result<SnapshotRow> {
        Ok(match tag {
            META => {
                let name_length = usize::from(u16::from_le_bytes(self.take()?));
                let length = self.take_length()?;
                let name = String::from_utf8(self.take_bytes(name_length)?);
                let name = name.map_err(|_| self.damaged("a name that cannot be"))?;
                SnapshotRow::Meta { name, value: self.take_bytes(length)? }
            }
            SHARD => {
                let shard = u16::from_le_bytes(self.take()?);
                let (sequence, totals_sequence, accounts) =
                    (self.take_number()?, self.take_number()?, self.take_number()?);
                let length = self.take_length()?;
                let totals = self.take_bytes(length)?;
                if shard >= self.header.shards {
                    return Err(self.damaged("a shard that cannot be"));
                }
                let replay_start = sequence.saturating_add(1);
                SnapshotRow::Shard { shard, state: ShardState { replay_start, totals, totals_sequence, accounts } }
            }
            ACCOUNT => {
                let (identity, length) = self.take_owner()?;
                SnapshotRow::Account { identity, blob: self.take_bytes(length)? }
            }
            FACT => {
                let (identity, length) = self.take_owner()?;
                let [kind] = self.take()?;
                let number = self.take_number()?;
                let fact = match kind {
                    1 => FactKey::Reversed(number),
                    2 => FactKey::ExpiredLot(number as i64),
                    3 => FactKey::ClosedHold(number),
                    _ => return Err(self.damaged("a fact that cannot be")),
                };
                SnapshotRow::Fact { identity, fact, value: self.take_bytes(length)? }
            }
            KEY => {
                let class = match self.take()? {
                    [1] => KeyClass::Idempotency,
                    [2] => KeyClass::Business,
                    _ => return Err(self.damaged("a class of keys that cannot be")),
                };
                let (week, hash) = (u32::from_le_bytes(self.take()?), u128::from_le_bytes(self.take()?));
                SnapshotRow::Key(SpilledKey { class, week, hash, value: self.take()? })
            }
            _ => return Err(self.damaged("a row of an unknown kind")),
        })
    }

    /// The next row; `None` after the last, when the number of rows, the hash, and that nothing follows are
    /// checked.
    pub fn next_row(&mut self) -> Result<Option<SnapshotRow>> {
        if self.ended {
            return Ok(None);
        }
        let [tag] = self.take()?;
        if tag != END {
            let row = self.take_row(tag)?;
            self.order.take(&row).map_err(|detail| self.damaged(detail))?;
            self.rows += 1;
            return Ok(Some(row));
        }
        if self.take_number()? != self.rows {
            return Err(self.damaged("rows are missing"));
        }
        let hash = self.hash.digest128();
        if self.take()? != hash.to_be_bytes() {
            return Err(self.damaged("the hash does not match"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => {
                self.ended = true;
                Ok(None)
            }
            Ok(_) => Err(self.damaged("something follows the end")),
            Err(e) => Err(Error::io("read", &self.path, e)),
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
