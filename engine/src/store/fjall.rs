//! The state store on disk. Keyspaces: `accounts`, `due`, `facts` (those kept for ever), `shards`, `meta`, and
//! one per class and week of spilled keys, dropped whole.

use std::collections::HashMap;
use std::path::Path;

use fjall::{Keyspace, OwnedWriteBatch, PersistMode};
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;

use super::database::{Database, DatabaseSettings, store_fault};
use super::keys;
use super::view::{FjallView, META_PREFIX};
use super::weeks::{Weeks, class_name};
use super::{FactKey, FactQuery, KeyClass, KeyPlace, ShardCheckpoint, ShardState, StoreOptions};
use crate::error::{Error, Result};

/// See the module.
pub struct FjallStore {
    database: Database,
    accounts: Keyspace,
    due: Keyspace,
    facts: Keyspace,
    shards: Keyspace,
    weeks: Weeks,
    /// Per shard, an instant before which its due index is empty: without it, every look at the index would
    /// first pass the tombstones of all that was ever due.
    due_floor: HashMap<u16, Millis>,
    memtable_bytes: u64,
    poisoned: bool,
}

/// About what a row takes beside its value.
const ROW_BYTES: usize = 48;

fn first_week_row(class: KeyClass) -> String {
    format!("s/first-week-{}", class_name(class))
}

/// About how many bytes the batch of a checkpoint has.
fn batch_bytes(checkpoint: &ShardCheckpoint) -> u64 {
    let mut bytes = checkpoint.keys.len() * ROW_BYTES;
    for account in &checkpoint.accounts {
        bytes += 2 * ROW_BYTES + account.blob.len();
        bytes += account.facts.iter().map(|(_, value)| ROW_BYTES + value.len()).sum::<usize>();
    }
    bytes as u64
}

impl FjallStore {
    pub(super) fn open(dir: &Path, journal_id: [u8; 16], options: &StoreOptions) -> Result<Self> {
        let settings = DatabaseSettings {
            purpose: "state",
            format: keys::STORE_FORMAT,
            journal_id,
            cache_bytes: options.cache_bytes,
            open_files: options.open_files,
        };
        let database = Database::open(dir, &settings)?;
        let mut first_week = [0; 2];
        for class in [KeyClass::Idempotency, KeyClass::Business] {
            let row = database.meta.get(first_week_row(class));
            if let Some(row) = row.map_err(|e| store_fault("read", dir, e))? {
                let row: [u8; 4] = row.as_ref().try_into().map_err(|_| keys::damaged(dir, "the first week of keys"))?;
                first_week[class as usize] = u32::from_le_bytes(row);
            }
        }
        Ok(Self {
            accounts: database.keyspace("accounts")?,
            due: database.keyspace("due")?,
            facts: database.keyspace("facts")?,
            shards: database.keyspace("shards")?,
            weeks: Weeks::open(&database, first_week)?,
            due_floor: HashMap::new(),
            memtable_bytes: options.memtable_bytes,
            poisoned: false,
            database,
        })
    }

    fn fault(&self, action: &'static str, error: fjall::Error) -> Error {
        store_fault(action, &self.database.folder, error)
    }

    fn check(&self) -> Result<()> {
        if self.poisoned {
            return Err(Error::Store {
                action: "go on",
                detail: "an earlier write failed; nothing after it can be trusted".to_owned(),
            });
        }
        Ok(())
    }

    /// Runs a write; if it fails, nothing runs after it.
    fn write<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.check()?;
        let result = write(self);
        self.poisoned = result.is_err();
        result
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) -> Result<()> {
        self.write(|store| {
            store.database.make_room(&store.keyspaces(), store.memtable_bytes)?;
            let mut batch = store.database.inner.batch();
            for account in &checkpoint.accounts {
                store.add_account(&mut batch, checkpoint.shard, account);
            }
            store.weeks.add(&store.database, &mut batch, checkpoint.shard, &checkpoint.keys)?;
            let state = keys::shard_state(&checkpoint.state);
            batch.insert(&store.shards, checkpoint.shard.to_be_bytes(), state);
            let bytes = batch_bytes(checkpoint);
            store.database.commit(batch, bytes).map_err(|e| store.fault("checkpoint", e))
        })
    }

    fn add_account(&mut self, batch: &mut OwnedWriteBatch, shard: u16, account: &super::AccountWrite) {
        if account.due_before != account.due {
            if let Some(at) = account.due_before {
                batch.remove(&self.due, keys::due(shard, at, &account.identity));
            }
            if let Some(at) = account.due {
                batch.insert(&self.due, keys::due(shard, at, &account.identity), b"");
                self.due_floor.entry(shard).and_modify(|floor| *floor = (*floor).min(at));
            }
        }
        for (fact, value) in &account.facts {
            batch.insert(&self.facts, keys::fact(shard, &account.identity, fact), value.as_slice());
        }
        batch.insert(&self.accounts, keys::account(shard, &account.identity), account.blob.as_slice());
    }

    /// Whether a checkpoint would not wait for a flush.
    pub(super) fn has_room(&self) -> Result<bool> {
        self.check()?;
        self.database.has_room(&self.keyspaces(), self.memtable_bytes)
    }

    pub(super) fn put_facts(&mut self, shard: u16, facts: &[(Identity, FactKey, Vec<u8>)]) -> Result<()> {
        self.write(|store| {
            store.database.make_room(&store.keyspaces(), store.memtable_bytes)?;
            let mut batch = store.database.inner.batch();
            for (identity, fact, value) in facts {
                batch.insert(&store.facts, keys::fact(shard, identity, fact), value.as_slice());
            }
            batch.commit().map_err(|e| store.fault("restore", e))
        })
    }

    pub(super) fn view(&self) -> FjallView {
        FjallView {
            snapshot: self.database.inner.snapshot(),
            accounts: self.accounts.clone(),
            facts: self.facts.clone(),
            shards: self.shards.clone(),
            meta: self.database.meta.clone(),
            weeks: self.weeks.named_keyspaces(),
            folder: self.database.folder.clone(),
        }
    }

    fn keyspaces(&self) -> Vec<&Keyspace> {
        let mut all = vec![&self.accounts, &self.due, &self.facts, &self.shards, &self.database.meta];
        all.extend(self.weeks.keyspaces());
        all
    }

    pub(super) fn sync(&mut self) -> Result<()> {
        self.write(|store| store.database.inner.persist(PersistMode::SyncData).map_err(|e| store.fault("sync", e)))
    }

    fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = keyspace.get(key).map_err(|e| self.fault("read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub(super) fn load(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        self.check()?;
        self.get(&self.accounts, &keys::account(shard, identity))
    }

    pub(super) fn spilled(&self, shard: u16, identity: &Identity, query: &FactQuery) -> Result<Option<Vec<u8>>> {
        self.check()?;
        let fact = match query {
            FactQuery::Key { class, hash, weeks } => {
                let value = self.weeks.find(&self.database, shard, *class, weeks.clone(), *hash)?;
                return Ok(value.map(|value| value.to_vec()));
            }
            FactQuery::Reversed(position) => FactKey::Reversed(*position),
            FactQuery::ExpiredLot(instant) => FactKey::ExpiredLot(*instant),
            FactQuery::ClosedHold(position) => FactKey::ClosedHold(*position),
        };
        self.get(&self.facts, &keys::fact(shard, identity, &fact))
    }

    pub(super) fn spilled_keys(
        &self,
        shard: u16,
        from: KeyPlace,
        limit: usize,
    ) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        self.check()?;
        self.weeks.walk(&self.database, shard, from, limit)
    }

    pub(super) fn due(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        self.check()?;
        let floor = self.due_floor.get(&shard).copied().unwrap_or(Millis::MIN);
        let (from, to) = keys::due_range(shard, floor, after, up_to);
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for row in self.due.range(from..to).take(limit) {
            let key = row.key().map_err(|e| self.fault("read", e))?;
            found.push(keys::read_due(&key, &self.database.folder)?);
        }
        if after.is_none_or(|(at, _)| *at < floor) {
            let first = found.first().map_or(up_to.saturating_add(1), |(at, _)| *at);
            self.due_floor.insert(shard, first.max(floor));
        }
        Ok(found)
    }

    pub(super) fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        self.check()?;
        let row = self.get(&self.shards, &shard.to_be_bytes())?;
        row.map(|row| keys::read_shard_state(&row, &self.database.folder)).transpose()
    }

    pub(super) fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.check()?;
        for row in self.accounts.prefix(keys::account_prefix(shard, kind)) {
            let (key, blob) = row.into_inner().map_err(|e| self.fault("read", e))?;
            visit(keys::identity_of_account(&key, &self.database.folder)?, &blob)?;
        }
        Ok(())
    }

    pub(super) fn drop_fact_weeks_before(&mut self, class: KeyClass, week: u32) -> Result<()> {
        self.write(|store| {
            if week <= store.weeks.first(class) {
                return Ok(());
            }
            // The floor is durable before anything goes, so that a key which a replay spills again into a
            // dropped week does not bring that week back.
            store.put_row(&first_week_row(class), &week.to_le_bytes())?;
            store.weeks.drop_before(&store.database, class, week)
        })
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.check()?;
        self.get(&self.database.meta, format!("{META_PREFIX}{name}").as_bytes())
    }

    pub(super) fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.write(|store| store.put_row(&format!("{META_PREFIX}{name}"), value))
    }

    fn put_row(&self, name: &str, value: &[u8]) -> Result<()> {
        let mut batch = self.database.inner.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.database.meta, name, value);
        batch.commit().map_err(|e| self.fault("write", e))
    }
}
