//! The rows of the simulated store, and what its views are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;

use super::keys;
use super::{
    FactKey, FactQuery, KEY_VALUE_BYTES, KeyClass, KeyPlace, ShardCheckpoint, ShardState, SpilledKey, VisitFact,
};
use crate::error::Result;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
/// By shard and hash.
type Keys = BTreeMap<(u16, u128), [u8; KEY_VALUE_BYTES]>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    accounts: Rows,
    due: Rows,
    facts: Rows,
    weeks: BTreeMap<(KeyClass, u32), Keys>,
    dropped_before: BTreeMap<KeyClass, u32>,
    shards: BTreeMap<u16, ShardState>,
    meta: BTreeMap<String, Vec<u8>>,
}

/// Named in messages about rows that cannot be read.
fn folder() -> &'static Path {
    Path::new("memory")
}

impl MemoryStore {
    pub(super) fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) -> Result<()> {
        let shard = checkpoint.shard;
        for account in &checkpoint.accounts {
            if let Some(at) = account.due_before {
                self.due.remove(&keys::due(shard, at, &account.identity));
            }
            if let Some(at) = account.due {
                self.due.insert(keys::due(shard, at, &account.identity), Vec::new());
            }
            for (fact, value) in &account.facts {
                self.facts.insert(keys::fact(shard, &account.identity, fact), value.clone());
            }
            self.accounts.insert(keys::account(shard, &account.identity), account.blob.clone());
        }
        for key in &checkpoint.keys {
            if key.week >= self.first_week(key.class) {
                self.weeks.entry((key.class, key.week)).or_default().insert((shard, key.hash), key.value);
            }
        }
        self.shards.insert(shard, checkpoint.state.clone());
        Ok(())
    }

    pub(super) fn put_facts(&mut self, shard: u16, facts: &[(Identity, FactKey, Vec<u8>)]) -> Result<()> {
        for (identity, fact, value) in facts {
            self.facts.insert(keys::fact(shard, identity, fact), value.clone());
        }
        Ok(())
    }

    pub(super) fn facts(&self, shard: u16, visit: VisitFact<'_>) -> Result<()> {
        let prefix = shard.to_be_bytes();
        let rows = self.facts.range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded));
        for (key, value) in rows.take_while(|(key, _)| key.starts_with(&prefix)) {
            let (identity, fact) = keys::read_fact(key, folder())?;
            visit(identity, fact, value)?;
        }
        Ok(())
    }

    pub(super) fn keys(&self, shard: u16, visit: &mut dyn FnMut(SpilledKey) -> Result<()>) -> Result<()> {
        for (&(class, week), rows) in &self.weeks {
            for (&(_, hash), &value) in rows.range((shard, 0)..=(shard, u128::MAX)) {
                visit(SpilledKey { class, week, hash, value })?;
            }
        }
        Ok(())
    }

    pub(super) fn metas(&self, visit: &mut dyn FnMut(String, &[u8]) -> Result<()>) -> Result<()> {
        self.meta.iter().try_for_each(|(name, value)| visit(name.clone(), value))
    }

    fn first_week(&self, class: KeyClass) -> u32 {
        self.dropped_before.get(&class).copied().unwrap_or(0)
    }

    pub(super) fn load(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        Ok(self.accounts.get(&keys::account(shard, identity)).cloned())
    }

    pub(super) fn spilled(&self, shard: u16, identity: &Identity, query: &FactQuery) -> Result<Option<Vec<u8>>> {
        let fact = match query {
            FactQuery::Key { weeks, .. } if weeks.is_empty() => return Ok(None),
            FactQuery::Key { class, hash, weeks } => {
                let mut weeks = self.weeks.range((*class, *weeks.start())..=(*class, *weeks.end())).rev();
                return Ok(weeks.find_map(|(_, rows)| rows.get(&(shard, *hash)).map(|value| value.to_vec())));
            }
            FactQuery::Reversed(position) => FactKey::Reversed(*position),
            FactQuery::ExpiredLot(instant) => FactKey::ExpiredLot(*instant),
            FactQuery::ClosedHold(position) => FactKey::ClosedHold(*position),
        };
        Ok(self.facts.get(&keys::fact(shard, identity, &fact)).cloned())
    }

    /// Ignores the limit: a week at a time.
    pub(super) fn spilled_keys(
        &self,
        shard: u16,
        from: KeyPlace,
        _limit: usize,
    ) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        let mut weeks = self.weeks.range((from.class, from.week)..);
        let Some((_, rows)) = weeks.next() else { return Ok((Vec::new(), None)) };
        let hashes = rows.range((shard, 0)..=(shard, u128::MAX)).map(|((_, hash), _)| *hash).collect();
        let next = weeks.next().map(|(&(class, week), _)| KeyPlace { class, week, run: 0, block: 0 });
        Ok((hashes, next))
    }

    pub(super) fn due(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        let (from, to) = keys::due_range(shard, Millis::MIN, after, up_to);
        if from >= to {
            return Ok(Vec::new());
        }
        self.due.range(from..to).take(limit).map(|(key, _)| keys::read_due(key, folder())).collect()
    }

    pub(super) fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        Ok(self.shards.get(&shard).cloned())
    }

    pub(super) fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let prefix = keys::account_prefix(shard, kind);
        let rows = self.accounts.range::<[u8], _>((Bound::Included(prefix.as_slice()), Bound::Unbounded));
        for (key, blob) in rows.take_while(|(key, _)| key.starts_with(&prefix)) {
            visit(keys::identity_of_account(key, folder())?, blob)?;
        }
        Ok(())
    }

    pub(super) fn drop_fact_weeks_before(&mut self, class: KeyClass, week: u32) -> Result<()> {
        let first = self.first_week(class).max(week);
        self.dropped_before.insert(class, first);
        self.weeks.retain(|(c, w), _| *c != class || *w >= first);
        Ok(())
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(name).cloned())
    }

    pub(super) fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.meta.insert(name.to_owned(), value.to_vec());
        Ok(())
    }
}
