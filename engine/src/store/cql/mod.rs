//! The state store in CQL.
//!
//! A checkpoint is not one atomic batch here, because its rows lie in many partitions. Its order makes up for it: what
//! only adds (facts, new due rows) first, then the states, each of which appears whole with its due instant, then what
//! takes away, and last the row that says from where to replay. A crash between any two of them leaves states that are
//! newer than that row says, which replay skips, and due rows that their account's state does not confirm, which are
//! passed over and removed.
//!
//! Every row has the shard's sequence as its timestamp, so a late writer overwrites nothing newer.

mod aliases;
mod due;
mod keys;
mod published;
mod sweep;

use std::sync::Arc;

use futures_util::future::try_join_all;
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::keys as rows;
use super::{FactKey, FactQuery, KeyPlace, ShardCheckpoint, ShardState};
use crate::error::{Error, Result};
use crate::journal::cql::Cql;
pub use aliases::{AliasRow, CqlAliases};
use due::DueIndex;
use keys::SpilledKeys;
pub(crate) use keys::{class_number, part as key_part};
pub use published::PublishedRows;
pub(crate) use sweep::{Days, day_of};

/// Partitions of a shard's states, and of its facts. A constant of the tables' version 1.
const PARTS: u64 = 64;
/// Programs lie together, so that a start finds them all in one partition.
const PROGRAM_PART: i32 = 0;
/// Bytes of rows that are written to a partition at once.
const BATCH_BYTES: usize = 64 << 10;
/// Statements under way at once.
const AT_ONCE: usize = 16;

/// See the module.
pub struct CqlStore {
    cql: Arc<Cql>,
    due: DueIndex,
    spilled: SpilledKeys,
    put_state: PreparedStatement,
    state: PreparedStatement,
    states_of: PreparedStatement,
    put_fact: PreparedStatement,
    fact: PreparedStatement,
    put_checkpoint: PreparedStatement,
    checkpoint: PreparedStatement,
    put_setting: PreparedStatement,
    setting: PreparedStatement,
}

/// A part of a checkpoint. Whatever makes one goes through [`Stage::ORDER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Facts,
    Keys,
    NewDue,
    States,
    OldDue,
    Row,
}

impl Stage {
    /// See the module. A part begins when the one before it is written.
    pub(crate) const ORDER: [Self; 6] = [Self::Facts, Self::Keys, Self::NewDue, Self::States, Self::OldDue, Self::Row];
}

/// The timestamp of all rows of a checkpoint.
pub(crate) fn timestamp(checkpoint: &ShardCheckpoint) -> i64 {
    signed(checkpoint.state.totals_sequence)
}

pub(crate) fn part(identity: &Identity) -> i32 {
    match identity.kind() {
        AccountKind::Program => PROGRAM_PART,
        // The remainder is below 64.
        _ => (xxhash_rust::xxh3::xxh3_64(identity.as_bytes()) % PARTS) as i32,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The name of a fact within its account.
pub(crate) fn fact_name(shard: u16, identity: &Identity, fact: &FactKey) -> Vec<u8> {
    rows::fact(shard, identity, fact)[rows::account(shard, identity).len()..].to_vec()
}

/// Rows of one statement for one partition.
struct Rows<V> {
    partition: i64,
    bytes: usize,
    rows: Vec<V>,
}

/// Adds a row to the open batch of its partition.
fn gather<V>(batches: &mut Vec<Rows<V>>, partition: i64, bytes: usize, row: V) {
    match batches.iter_mut().rev().find(|b| b.partition == partition) {
        Some(open) if open.bytes + bytes <= BATCH_BYTES => {
            open.bytes += bytes;
            open.rows.push(row);
        }
        _ => batches.push(Rows { partition, bytes, rows: vec![row] }),
    }
}

/// Writes rows, those of one partition together.
async fn write<V: SerializeRow>(
    cql: &Cql,
    action: &'static str,
    statement: &PreparedStatement,
    batches: &[Rows<V>],
) -> Result<()> {
    for some in batches.chunks(AT_ONCE) {
        let writes = some.iter().map(|rows| async move {
            let mut batch = Batch::new(BatchType::Unlogged);
            rows.rows.iter().for_each(|_| batch.append_statement(statement.clone()));
            cql.write_batch(action, &batch, &rows.rows).await
        });
        try_join_all(writes).await?;
    }
    Ok(())
}

impl CqlStore {
    /// Opens the store in the keyspace in use. `key_days` is how long keys of a class are remembered at least.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open(cql: &Arc<Cql>, key_days: [i64; 2]) -> Result<Self> {
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                due: DueIndex::open(cql).await?,
                spilled: SpilledKeys::open(cql, key_days).await?,
                put_state: cql
                    .prepare(
                        "INSERT INTO states (shard, part, identity, due, state) VALUES (?, ?, ?, ?, ?) \
                         USING TIMESTAMP ?",
                    )
                    .await?,
                state: cql.prepare("SELECT state FROM states WHERE shard = ? AND part = ? AND identity = ?").await?,
                states_of: cql
                    .prepare(
                        "SELECT identity, state FROM states WHERE shard = ? AND part = ? AND identity >= ? \
                         AND identity < ?",
                    )
                    .await?,
                put_fact: cql
                    .prepare(
                        "INSERT INTO facts (shard, part, identity, fact, value) VALUES (?, ?, ?, ?, ?) \
                         USING TIMESTAMP ?",
                    )
                    .await?,
                fact: cql
                    .prepare("SELECT value FROM facts WHERE shard = ? AND part = ? AND identity = ? AND fact = ?")
                    .await?,
                put_checkpoint: cql
                    .prepare(
                        "INSERT INTO checkpoints (shard, replay_start, totals_sequence, accounts, totals) \
                         VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
                    )
                    .await?,
                checkpoint: cql
                    .prepare("SELECT replay_start, totals_sequence, accounts, totals FROM checkpoints WHERE shard = ?")
                    .await?,
                put_setting: cql.prepare("INSERT INTO settings (name, value) VALUES (?, ?)").await?,
                setting: cql.prepare("SELECT value FROM settings WHERE name = ?").await?,
            })
        })
    }

    pub(super) fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) -> Result<()> {
        let shard = i32::from(checkpoint.shard);
        let at = timestamp(checkpoint);
        let (mut facts, mut states) = (Vec::new(), Vec::new());
        for account in &checkpoint.accounts {
            let identity = account.identity.as_bytes();
            let part = part(&account.identity);
            for (fact, value) in &account.facts {
                let name = fact_name(checkpoint.shard, &account.identity, fact);
                let bytes = identity.len() + name.len() + value.len();
                gather(&mut facts, i64::from(part), bytes, (shard, part, identity, name, value, at));
            }
            let bytes = identity.len() + account.blob.len();
            gather(
                &mut states,
                i64::from(part),
                bytes,
                (shard, part, identity, account.due, account.blob.as_slice(), at),
            );
        }
        let cql = Arc::clone(&self.cql);
        cql.block_on(async {
            for stage in Stage::ORDER {
                match stage {
                    Stage::Facts => write(&cql, "write facts of accounts", &self.put_fact, &facts).await?,
                    Stage::Keys => self.spilled.add(checkpoint, at).await?,
                    Stage::NewDue => self.due.add(checkpoint, at).await?,
                    Stage::States => write(&cql, "write states of accounts", &self.put_state, &states).await?,
                    Stage::OldDue => self.due.remove(checkpoint, at).await?,
                    Stage::Row => {
                        let ShardState { replay_start, totals, totals_sequence, accounts } = &checkpoint.state;
                        let (begin, last, count) = (signed(*replay_start), signed(*totals_sequence), signed(*accounts));
                        let values = (shard, begin, last, count, totals.as_slice(), at);
                        cql.write("write a checkpoint", &self.put_checkpoint, values).await?;
                    }
                }
            }
            Ok(())
        })
    }

    pub(super) fn load(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        self.cql.block_on(self.load_one(shard, identity))
    }

    async fn load_one(&self, shard: u16, identity: &Identity) -> Result<Option<Vec<u8>>> {
        let values = (i32::from(shard), part(identity), identity.as_bytes());
        let rows: Vec<(Vec<u8>,)> = self.cql.read("read the state of an account", &self.state, values).await?;
        Ok(rows.into_iter().next().map(|(state,)| state))
    }

    /// As [`CqlStore::load`] for each, in order, many at once.
    pub(super) fn load_many(&self, wanted: &[(u16, Identity)]) -> Result<Vec<Option<Vec<u8>>>> {
        self.cql.block_on(async {
            let mut found = Vec::with_capacity(wanted.len());
            for some in wanted.chunks(AT_ONCE) {
                found.extend(try_join_all(some.iter().map(|(shard, identity)| self.load_one(*shard, identity))).await?);
            }
            Ok(found)
        })
    }

    pub(super) fn spilled_many(&self, wanted: &[(u16, Identity, FactQuery)]) -> Result<Vec<Option<Vec<u8>>>> {
        self.cql.block_on(async {
            let mut found = Vec::with_capacity(wanted.len());
            for some in wanted.chunks(AT_ONCE) {
                let reads = some.iter().map(|(shard, identity, query)| self.spilled_one(*shard, identity, query));
                found.extend(try_join_all(reads).await?);
            }
            Ok(found)
        })
    }

    async fn spilled_one(&self, shard: u16, identity: &Identity, query: &FactQuery) -> Result<Option<Vec<u8>>> {
        let fact = match query {
            FactQuery::Key { class, hash, weeks } => {
                return self.spilled.find(shard, *class, weeks.clone(), *hash).await;
            }
            FactQuery::Reversed(position) => FactKey::Reversed(*position),
            FactQuery::ExpiredLot(instant) => FactKey::ExpiredLot(*instant),
            FactQuery::ClosedHold(position) => FactKey::ClosedHold(*position),
        };
        let name = fact_name(shard, identity, &fact);
        let values = (i32::from(shard), part(identity), identity.as_bytes(), name);
        let rows: Vec<(Vec<u8>,)> = self.cql.read("read a fact of an account", &self.fact, values).await?;
        Ok(rows.into_iter().next().map(|(value,)| value))
    }

    pub(super) fn spilled_keys(
        &self,
        shard: u16,
        from: KeyPlace,
        limit: usize,
    ) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        self.cql.block_on(self.spilled.walk(shard, from, limit))
    }

    pub(super) fn due(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        let cql = Arc::clone(&self.cql);
        cql.block_on(self.due.find(shard, up_to, after, limit))
    }

    pub(super) fn shard_state(&self, shard: u16) -> Result<Option<ShardState>> {
        type Row = (i64, i64, i64, Vec<u8>);
        let values = (i32::from(shard),);
        let rows: Vec<Row> = self.cql.block_on(self.cql.read("read a checkpoint", &self.checkpoint, values))?;
        Ok(rows.into_iter().next().map(|(replay_start, totals_sequence, accounts, totals)| ShardState {
            replay_start: unsigned(replay_start),
            totals_sequence: unsigned(totals_sequence),
            accounts: unsigned(accounts),
            totals,
        }))
    }

    pub(super) fn accounts(
        &self,
        shard: u16,
        kind: Option<AccountKind>,
        visit: &mut dyn FnMut(Identity, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let parts = match kind {
            Some(AccountKind::Program) => PROGRAM_PART..PROGRAM_PART + 1,
            _ => 0..PARTS as i32,
        };
        let from = kind.map_or(0, |kind| kind as u8);
        let to = kind.map_or(u8::MAX, |kind| kind as u8 + 1);
        let mut found = Vec::new();
        self.cql.block_on(async {
            for part in parts {
                let values = (i32::from(shard), part, [from].to_vec(), [to].to_vec());
                let add = &mut |(identity, state): (Vec<u8>, Vec<u8>)| {
                    let unreadable = || Error::cql("read the states of accounts", "an identity cannot be read");
                    found.push((Identity::from_bytes(&identity).ok_or_else(unreadable)?, state));
                    Ok(())
                };
                self.cql.read_paged("read the states of accounts", &self.states_of, values, add).await?;
            }
            Ok::<(), Error>(())
        })?;
        // In the order of the identities, as the other stores have them.
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().try_for_each(|(identity, state)| visit(identity, &state))
    }

    pub(super) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let rows: Vec<(Vec<u8>,)> = self.cql.block_on(self.cql.read("read a value", &self.setting, (name,)))?;
        Ok(rows.into_iter().next().map(|(value,)| value))
    }

    /// Of nodes that start at the same time, the value of one is everybody's.
    pub(super) fn meta_or_insert(&self, name: &str, value: &[u8]) -> Result<Vec<u8>> {
        self.cql.block_on(async {
            let make = self.cql.prepare("INSERT INTO settings (name, value) VALUES (?, ?) IF NOT EXISTS").await?;
            self.cql.conditional_resolved("make a value", &make, (name, value)).await?;
            let find = self.cql.prepare_serial("SELECT value FROM settings WHERE name = ?").await?;
            let rows: Vec<(Vec<u8>,)> = self.cql.read("read a value", &find, (name,)).await?;
            rows.into_iter().next().map(|(value,)| value).ok_or_else(|| Error::cql("read a value", "it is gone"))
        })
    }

    pub(super) fn forget(&mut self, shard: u16) {
        self.due.forget(shard);
        self.spilled.forget(shard);
    }

    pub(super) fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<()> {
        self.cql.block_on(self.cql.write("write a value", &self.put_setting, (name, value)))
    }
}
