//! The rows of aliases: found by keyed hashes, encrypted under a key each. Synchronous, one owner.
//!
//! ```text
//! aliases   alias hash (16)                    → version, slot u32, sealed(account row u64, account, alias)
//! accounts  account hash (16), account row (8) → version, slot u32, sealed(alias)
//! ```
//! Both rows of an alias are sealed (ChaCha20-Poly1305) under the random key in its slot, with nonces 0 and 1 and
//! their own keys as associated data; a key seals nothing else, so the nonces never meet again.
//!
//! A put writes its key into a slot, syncs, and then commits both rows; a delete overwrites the slot, syncs, and
//! then removes both rows. So a crash leaves a slot that no row names (a put that did not happen: the slot is
//! reclaimed at the start), or rows whose slot is free (a delete that did happen: the rows are removed at the
//! start), or all or nothing.

use std::hash::Hasher;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use fjall::{Keyspace, PersistMode};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::slots::{SlotFile, SlotKey};
use super::{ALIASES_PER_ACCOUNT_MAX, AliasOptions, PutOutcome};
use crate::error::{Error, Result};
use crate::store::{Database, DatabaseSettings};

const FORMAT: u32 = 1;
const ROW_VERSION: u8 = 1;
/// Version and slot, before what is sealed.
const ROW_HEAD_BYTES: usize = 5;
const NONCE_OF_ALIAS_ROW: u8 = 0;
const NONCE_OF_ACCOUNT_ROW: u8 = 1;
/// Rows removed in one batch at the start.
const CLEANUP_ROWS_MAX: usize = 1024;
const OPEN_FILES: usize = 64;

/// The keyed hashes by which rows are found.
#[derive(Clone)]
pub(super) struct AliasHasher {
    alias_key: [u8; 16],
    account_key: [u8; 16],
}

impl AliasHasher {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self { alias_key: std::array::from_fn(|i| secret[i]), account_key: std::array::from_fn(|i| secret[16 + i]) }
    }

    fn hash(key: &[u8; 16], program: &str, name: &str) -> u128 {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(&(program.len() as u64).to_le_bytes());
        hasher.write(program.as_bytes());
        hasher.write(name.as_bytes());
        hasher.finish128().as_u128()
    }

    pub(super) fn alias(&self, program: &str, alias: &str) -> u128 {
        Self::hash(&self.alias_key, program, alias)
    }

    pub(super) fn account(&self, program: &str, account: &str) -> u128 {
        Self::hash(&self.account_key, program, account)
    }

    /// Both rows of an alias, sealed under the key in its slot.
    fn rows(
        &self,
        (slot, key): (u32, &SlotKey),
        account_row: u64,
        program: &str,
        alias: &str,
        account: &str,
    ) -> Result<[AddedRow; 2]> {
        let alias_key = self.alias(program, alias).to_be_bytes().to_vec();
        let account_key = account_row_key(self.account(program, account), account_row);
        let by_alias = seal(key, NONCE_OF_ALIAS_ROW, &alias_key, &alias_plain(account_row, account, alias))?;
        let by_account = seal(key, NONCE_OF_ACCOUNT_ROW, &account_key, alias.as_bytes())?;
        Ok([(Table::Aliases, alias_key, row(slot, &by_alias)), (Table::Accounts, account_key, row(slot, &by_account))])
    }
}

/// A row with its table and key.
type AddedRow = (Table, Vec<u8>, Vec<u8>);

/// A row that was found and opened.
struct AliasRow {
    slot: u32,
    account_row: u64,
    account: String,
}

/// Writes that are decided and not yet made.
#[derive(Default)]
pub(super) struct Pending {
    keys: Vec<(u32, SlotKey)>,
    erased: Vec<u32>,
    added: Vec<AddedRow>,
    removed: Vec<(Table, Vec<u8>)>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.erased.is_empty()
    }
}

#[derive(Clone, Copy)]
enum Table {
    Aliases,
    Accounts,
}

/// See the module.
pub(super) struct AliasTable {
    hasher: AliasHasher,
    slots: SlotFile,
    database: Database,
    aliases: Keyspace,
    accounts: Keyspace,
    memtable_bytes: u64,
}

fn seal(key: &SlotKey, nonce: u8, row_key: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let nonce = Nonce::from([nonce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&nonce, Payload { msg: plain, aad: row_key })
        .map_err(|_| Error::Store { action: "encrypt an alias", detail: "it is too long".to_owned() })
}

pub(super) fn unseal(key: &SlotKey, nonce: u8, row_key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let nonce = Nonce::from([nonce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ChaCha20Poly1305::new(&Key::from(*key)).decrypt(&nonce, Payload { msg: sealed, aad: row_key }).ok()
}

fn row(slot: u32, sealed: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(ROW_HEAD_BYTES + sealed.len());
    row.push(ROW_VERSION);
    row.extend_from_slice(&slot.to_le_bytes());
    row.extend_from_slice(sealed);
    row
}

/// The slot and the sealed part of a row.
pub(super) fn split_row(row: &[u8]) -> Option<(u32, &[u8])> {
    let (head, sealed) = row.split_at_checked(ROW_HEAD_BYTES)?;
    let slot = u32::from_le_bytes(head[1..].try_into().ok()?);
    (head[0] == ROW_VERSION).then_some((slot, sealed))
}

fn alias_plain(account_row: u64, account: &str, alias: &str) -> Vec<u8> {
    let mut plain = Vec::with_capacity(10 + account.len() + alias.len());
    plain.extend_from_slice(&account_row.to_be_bytes());
    plain.extend_from_slice(&(account.len() as u16).to_le_bytes());
    plain.extend_from_slice(account.as_bytes());
    plain.extend_from_slice(alias.as_bytes());
    plain
}

/// Account row, account and alias.
fn read_alias_plain(plain: &[u8]) -> Option<(u64, &str, &str)> {
    let account_row = u64::from_be_bytes(plain.get(..8)?.try_into().ok()?);
    let length = usize::from(u16::from_le_bytes(plain.get(8..10)?.try_into().ok()?));
    let (account, alias) = plain.get(10..)?.split_at_checked(length)?;
    Some((account_row, std::str::from_utf8(account).ok()?, std::str::from_utf8(alias).ok()?))
}

fn account_row_key(account_hash: u128, account_row: u64) -> Vec<u8> {
    let mut key = account_hash.to_be_bytes().to_vec();
    key.extend_from_slice(&account_row.to_be_bytes());
    key
}

impl AliasTable {
    /// Opens the aliases in `dir`, creating them if they are not there, and clears away what a crash left.
    pub(super) fn open(dir: &Path, journal_id: [u8; 16], secret: &[u8; 32], options: &AliasOptions) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let (keys_path, rows_path) = (dir.join("alias-keys"), dir.join("rows"));
        let rows_exist = rows_path.try_exists().map_err(|e| Error::io("look at", &rows_path, e))?;
        let keys_exist = keys_path.try_exists().map_err(|e| Error::io("look at", &keys_path, e))?;
        let damaged =
            |file: &Path, detail: &str| Error::Damaged { file: file.to_owned(), offset: 0, detail: detail.to_owned() };
        if rows_exist && !keys_exist {
            return Err(damaged(&keys_path, "the keys of the aliases are missing"));
        }
        let slots = SlotFile::open(&keys_path, &journal_id)?;
        // Taken for a new store, this would end in erasing every key.
        if !rows_exist && slots.used_slots().next().is_some() {
            return Err(damaged(&rows_path, "the rows of the aliases are missing"));
        }
        let settings = DatabaseSettings {
            purpose: "aliases",
            format: FORMAT,
            journal_id,
            cache_bytes: options.cache_bytes,
            open_files: OPEN_FILES,
        };
        let database = Database::open(&rows_path, &settings)?;
        let mut table = Self {
            hasher: AliasHasher::new(secret),
            slots,
            aliases: database.keyspace("aliases")?,
            accounts: database.keyspace("accounts")?,
            memtable_bytes: options.memtable_bytes,
            database,
        };
        table.clean_up()?;
        Ok(table)
    }

    /// Removes rows whose slot is free, and frees slots that no row names.
    fn clean_up(&mut self) -> Result<()> {
        let mut named = vec![false; self.slots.slots() as usize];
        for keyspace in [self.aliases.clone(), self.accounts.clone()] {
            let mut dead = Vec::new();
            for entry in keyspace.iter() {
                let (key, value) = entry.into_inner().map_err(|e| self.database.fault("read", e))?;
                let (slot, _) = split_row(&value).ok_or_else(|| self.unreadable())?;
                let name = named.get_mut(slot as usize).ok_or_else(|| self.unreadable())?;
                if self.slots.is_used(slot) {
                    *name = true;
                } else {
                    dead.push(key);
                }
            }
            for some in dead.chunks(CLEANUP_ROWS_MAX) {
                let mut batch = self.database.inner.batch().durability(Some(PersistMode::SyncAll));
                some.iter().for_each(|key| batch.remove(&keyspace, key.clone()));
                batch.commit().map_err(|e| self.database.fault("clean up", e))?;
            }
        }
        let orphans: Vec<u32> = self.slots.used_slots().filter(|slot| !named[*slot as usize]).collect();
        for slot in &orphans {
            self.slots.write(*slot, None)?;
        }
        self.slots.sync()?;
        orphans.iter().for_each(|slot| self.slots.give_back(*slot));
        Ok(())
    }

    fn unreadable(&self) -> Error {
        self.database.damaged("a row of an alias cannot be read")
    }

    pub(super) fn hasher(&self) -> &AliasHasher {
        &self.hasher
    }

    /// What is sealed in a row, and its slot; `None` when the slot is free: the row is deleted.
    fn open_row(&self, nonce: u8, row_key: &[u8], value: &[u8]) -> Result<Option<(u32, Vec<u8>)>> {
        let (slot, sealed) = split_row(value).ok_or_else(|| self.unreadable())?;
        let Some(key) = self.slots.key(slot)? else {
            return Ok(None);
        };
        let plain = unseal(&key, nonce, row_key, sealed).ok_or_else(|| self.unreadable())?;
        Ok(Some((slot, plain)))
    }

    fn find(&self, program: &str, alias: &str) -> Result<Option<AliasRow>> {
        let key = self.hasher.alias(program, alias).to_be_bytes();
        let value = self.aliases.get(key).map_err(|e| self.database.fault("read", e))?;
        let Some(value) = value else {
            return Ok(None);
        };
        let Some((slot, plain)) = self.open_row(NONCE_OF_ALIAS_ROW, &key, &value)? else {
            return Ok(None);
        };
        let (account_row, account, text) = read_alias_plain(&plain).ok_or_else(|| self.unreadable())?;
        if text != alias {
            return Err(self.database.damaged("two aliases have the same hash"));
        }
        Ok(Some(AliasRow { slot, account_row, account: account.to_owned() }))
    }

    /// The account that an alias names.
    pub(super) fn resolve(&self, program: &str, alias: &str) -> Result<Option<String>> {
        Ok(self.find(program, alias)?.map(|row| row.account))
    }

    /// The aliases of an account, in order.
    pub(super) fn list(&self, program: &str, account: &str) -> Result<Vec<String>> {
        let mut aliases = Vec::new();
        for entry in self.accounts.prefix(self.hasher.account(program, account).to_be_bytes()) {
            let (key, value) = entry.into_inner().map_err(|e| self.database.fault("read", e))?;
            if let Some((_, plain)) = self.open_row(NONCE_OF_ACCOUNT_ROW, &key, &value)? {
                aliases.push(String::from_utf8(plain).map_err(|_| self.unreadable())?);
            }
        }
        aliases.sort_unstable();
        Ok(aliases)
    }

    /// Decides a put; what it writes is added to `pending`, which must not yet touch this alias or account.
    pub(super) fn put(
        &mut self,
        pending: &mut Pending,
        program: &str,
        alias: &str,
        account: &str,
    ) -> Result<PutOutcome> {
        if let Some(found) = self.find(program, alias)? {
            let same = found.account == account;
            return Ok(if same { PutOutcome::Same } else { PutOutcome::TakenBy(found.account) });
        }
        if self.list(program, account)?.len() >= ALIASES_PER_ACCOUNT_MAX {
            return Ok(PutOutcome::TooMany);
        }
        let (mut key, mut account_row) = (SlotKey::default(), [0; 8]);
        getrandom::fill(&mut key)?;
        getrandom::fill(&mut account_row)?;
        let account_row = u64::from_be_bytes(account_row);
        let slot = self.slots.take()?;
        pending.added.extend(self.hasher.rows((slot, &key), account_row, program, alias, account)?);
        pending.keys.push((slot, key));
        Ok(PutOutcome::New)
    }

    /// Decides a delete, as [`AliasTable::put`]. False when the account has no such alias.
    pub(super) fn delete(&mut self, pending: &mut Pending, program: &str, account: &str, alias: &str) -> Result<bool> {
        let Some(found) = self.find(program, alias)?.filter(|found| found.account == account) else {
            return Ok(false);
        };
        let account_hash = self.hasher.account(program, account);
        pending.erased.push(found.slot);
        pending.removed.push((Table::Aliases, self.hasher.alias(program, alias).to_be_bytes().to_vec()));
        pending.removed.push((Table::Accounts, account_row_key(account_hash, found.account_row)));
        Ok(true)
    }

    /// Makes pending writes, durable when it returns.
    pub(super) fn commit(&mut self, pending: Pending) -> Result<()> {
        self.write_slots(&pending)?;
        self.commit_rows(&pending)?;
        pending.erased.iter().for_each(|slot| self.slots.give_back(*slot));
        Ok(())
    }

    /// The first half: keys of new rows are there before the rows, keys of deleted rows gone before the rows.
    pub(super) fn write_slots(&mut self, pending: &Pending) -> Result<()> {
        for (slot, key) in &pending.keys {
            self.slots.write(*slot, Some(key))?;
        }
        for slot in &pending.erased {
            self.slots.write(*slot, None)?;
        }
        self.slots.sync()
    }

    /// The second half: all rows in one batch.
    fn commit_rows(&mut self, pending: &Pending) -> Result<()> {
        let keyspaces = [&self.aliases, &self.accounts, &self.database.meta];
        self.database.make_room(&keyspaces, self.memtable_bytes)?;
        let mut batch = self.database.inner.batch().durability(Some(PersistMode::SyncAll));
        for (table, key) in &pending.removed {
            batch.remove(self.keyspace(*table), key.as_slice());
        }
        for (table, key, value) in &pending.added {
            batch.insert(self.keyspace(*table), key.as_slice(), value.as_slice());
        }
        batch.commit().map_err(|e| self.database.fault("write an alias", e))
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        match table {
            Table::Aliases => &self.aliases,
            Table::Accounts => &self.accounts,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
