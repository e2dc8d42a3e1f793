//! The state store on disk as it was at an instant, read beside what is written since.

use std::path::{Path, PathBuf};

use fjall::{Keyspace, Readable, Snapshot};
use meed_schemas::ids::{AccountKind, Identity};

use super::database::store_fault;
use super::weeks::runs_in;
use super::{KeyClass, ShardState, SpilledKey, VisitFact, keys};
use crate::error::Result;

/// What the names of the store's own values begin with; the database's begin otherwise.
pub(super) const META_PREFIX: &str = "u/";

/// Takes a key and its row.
type VisitRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// See the module.
pub struct FjallView {
    pub(super) snapshot: Snapshot,
    pub(super) accounts: Keyspace,
    pub(super) facts: Keyspace,
    pub(super) shards: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) weeks: Vec<((KeyClass, u32), Keyspace)>,
    pub(super) folder: PathBuf,
}

impl FjallView {
    fn visit(&self, keyspace: &Keyspace, prefix: &[u8], visit: VisitRow<'_>) -> Result<()> {
        for row in self.snapshot.prefix(keyspace, prefix) {
            let (key, value) = row.into_inner().map_err(|e| store_fault("read", &self.folder, e))?;
            visit(&key, &value)?;
        }
        Ok(())
    }

    /// The row of a key.
    pub(super) fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let row = self.snapshot.get(keyspace, key).map_err(|e| store_fault("read", &self.folder, e))?;
        Ok(row.map(|row| row.to_vec()))
    }

    /// The folder, for messages.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        let row = self.get(&self.shards, &shard.to_be_bytes())?;
        row.map(|row| keys::read_shard_state(&row, &self.folder)).transpose()
    }

    pub(super) fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.visit(&self.accounts, &keys::account_prefix(shard, kind), &mut |key, blob| {
            visit(keys::identity_of_account(key, &self.folder)?, blob)
        })
    }

    pub(super) fn facts(&self, shard: u16, visit: VisitFact<'_>) -> Result<()> {
        self.visit(&self.facts, &shard.to_be_bytes(), &mut |key, value| {
            let (identity, fact) = keys::read_fact(key, &self.folder)?;
            visit(identity, fact, value)
        })
    }

    pub(super) fn keys(&self, shard: u16, visit: &mut dyn FnMut(SpilledKey) -> Result<()>) -> Result<()> {
        for ((class, week), keyspace) in &self.weeks {
            runs_in(self, keyspace, shard, &mut |hash, value| {
                visit(SpilledKey { class: *class, week: *week, hash, value })
            })?;
        }
        Ok(())
    }

    pub(super) fn metas(&self, visit: &mut dyn FnMut(String, &[u8]) -> Result<()>) -> Result<()> {
        self.visit(&self.meta, META_PREFIX.as_bytes(), &mut |key, value| {
            let name = key.get(META_PREFIX.len()..).and_then(|name| std::str::from_utf8(name).ok());
            visit(name.ok_or_else(|| keys::damaged(&self.folder, "a name"))?.to_owned(), value)
        })
    }
}
