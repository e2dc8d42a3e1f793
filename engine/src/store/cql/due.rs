//! The due index in CQL: rows by day, so that what was due long ago is not passed again and again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::future::try_join_all;
use meed_schemas::ids::Identity;
use meed_schemas::time::{DAY_MS, Millis};
use scylla::statement::prepared::PreparedStatement;

use super::{AT_ONCE, Rows, gather, part, write};
use crate::error::{Error, Result};
use crate::journal::cql::Cql;
use crate::store::ShardCheckpoint;

/// Rows read at once; those that their states do not confirm are passed over.
const ROWS_AT_ONCE: i32 = 256;

pub(super) struct DueIndex {
    cql: Arc<Cql>,
    put: PreparedStatement,
    remove: PreparedStatement,
    put_day: PreparedStatement,
    days: PreparedStatement,
    rows: PreparedStatement,
    confirm: PreparedStatement,
    /// Per shard, the days that have rows.
    known_days: HashMap<u16, BTreeMap<i32, Millis>>,
}

/// The day under which the index has an instant.
pub(crate) fn day_of(at: Millis) -> i32 {
    i32::try_from(at.div_euclid(DAY_MS)).unwrap_or(if at < 0 { i32::MIN } else { i32::MAX })
}

impl DueIndex {
    pub(super) async fn open(cql: &Arc<Cql>) -> Result<Self> {
        Ok(Self {
            cql: Arc::clone(cql),
            put: cql
                .prepare("INSERT INTO due (shard, day, at, identity) VALUES (?, ?, ?, ?) USING TIMESTAMP ?")
                .await?,
            remove: cql
                .prepare("DELETE FROM due USING TIMESTAMP ? WHERE shard = ? AND day = ? AND at = ? AND identity = ?")
                .await?,
            put_day: cql.prepare("INSERT INTO due_days (shard, day) VALUES (?, ?)").await?,
            days: cql.prepare("SELECT day FROM due_days WHERE shard = ?").await?,
            rows: cql
                .prepare(
                    "SELECT at, identity FROM due WHERE shard = ? AND day = ? AND (at, identity) > (?, ?) AND at <= ? \
                     LIMIT ?",
                )
                .await?,
            confirm: cql
                .prepare("SELECT due, writetime(state) FROM states WHERE shard = ? AND part = ? AND identity = ?")
                .await?,
            known_days: HashMap::new(),
        })
    }

    /// Another node had the shard.
    pub(super) fn forget(&mut self, shard: u16) {
        self.known_days.remove(&shard);
    }

    async fn days_of(&mut self, shard: u16) -> Result<&mut BTreeMap<i32, Millis>> {
        if !self.known_days.contains_key(&shard) {
            let rows: Vec<(i32,)> =
                self.cql.read("read the days of the due index", &self.days, (i32::from(shard),)).await?;
            // Of a day that was not looked at yet, nothing is known to be gone.
            self.known_days.insert(shard, rows.into_iter().map(|(day,)| (day, Millis::MIN)).collect());
        }
        Ok(self.known_days.entry(shard).or_default())
    }

    /// The new due rows of a checkpoint.
    pub(super) async fn add(&mut self, checkpoint: &ShardCheckpoint, timestamp: i64) -> Result<()> {
        let shard = i32::from(checkpoint.shard);
        let mut batches: Vec<Rows<_>> = Vec::new();
        let changed = checkpoint.accounts.iter().filter(|a| a.due != a.due_before);
        for (account, at) in changed.filter_map(|account| Some((account, account.due?))) {
            let day = day_of(at);
            let days = self.days_of(checkpoint.shard).await?;
            let is_new = !days.contains_key(&day);
            // What was swept of that day is looked at again.
            let swept = days.entry(day).or_insert(Millis::MIN);
            *swept = (*swept).min(at - 1);
            if is_new {
                self.cql.write("note a day of the due index", &self.put_day, (shard, day)).await?;
            }
            let identity = account.identity.as_bytes();
            gather(&mut batches, i64::from(day), identity.len() + 16, (shard, day, at, identity, timestamp));
        }
        write(&self.cql, "write the due index", &self.put, &batches).await
    }

    /// Takes away the due rows that a checkpoint replaces.
    pub(super) async fn remove(&mut self, checkpoint: &ShardCheckpoint, timestamp: i64) -> Result<()> {
        let shard = i32::from(checkpoint.shard);
        let mut batches: Vec<Rows<_>> = Vec::new();
        let changed = checkpoint.accounts.iter().filter(|a| a.due != a.due_before);
        for (account, at) in changed.filter_map(|account| Some((account, account.due_before?))) {
            let identity = account.identity.as_bytes();
            let day = day_of(at);
            gather(&mut batches, i64::from(day), identity.len() + 16, (timestamp, shard, day, at, identity));
        }
        write(&self.cql, "clear the due index", &self.remove, &batches).await
    }

    /// As [`crate::store::Store::due`].
    pub(super) async fn find(
        &mut self,
        shard: u16,
        up_to: Millis,
        after: Option<&(Millis, Identity)>,
        limit: usize,
    ) -> Result<Vec<(Millis, Identity)>> {
        let mut found: Vec<(Millis, Identity)> = Vec::new();
        let first = after.map_or(i32::MIN, |(at, _)| day_of(*at));
        let days: Vec<(i32, Millis)> =
            self.days_of(shard).await?.range(first..=day_of(up_to)).map(|(day, swept)| (*day, *swept)).collect();
        for (day, swept) in days {
            // The day's end, when all of it has been due and nothing was left: it is not asked again.
            if swept >= (i64::from(day) + 1).saturating_mul(DAY_MS) - 1 {
                continue;
            }
            let (mut at, mut identity) = match after {
                Some((at, identity)) if day_of(*at) == day => (*at, identity.as_bytes().to_vec()),
                _ => (swept, vec![u8::MAX]),
            };
            let from_swept = at == swept;
            let mut first_left = None;
            loop {
                let values = (i32::from(shard), day, at, identity, up_to, ROWS_AT_ONCE);
                let rows: Vec<(i64, Vec<u8>)> = self.cql.read("read the due index", &self.rows, values).await?;
                let is_last = rows.len() < ROWS_AT_ONCE as usize;
                for some in rows.chunks(AT_ONCE) {
                    let confirmed = some.iter().map(|(row_at, bytes)| self.confirmed(shard, day, *row_at, bytes));
                    for account in try_join_all(confirmed).await?.into_iter().flatten() {
                        first_left = first_left.or(Some(account.0));
                        found.push(account);
                        if found.len() == limit {
                            return Ok(found);
                        }
                    }
                }
                match rows.into_iter().next_back() {
                    Some(last) if !is_last => (at, identity) = last,
                    _ => break,
                }
            }
            if from_swept {
                let end =
                    first_left.map_or(up_to, |left| left - 1).min((i64::from(day) + 1).saturating_mul(DAY_MS) - 1);
                if let Some(swept) = self.days_of(shard).await?.get_mut(&day) {
                    *swept = (*swept).max(end);
                }
            }
        }
        Ok(found)
    }

    /// The row, if the account's state says that it is due then. A row that it does not confirm is one of a checkpoint
    /// that was not finished; it is removed, unless it is newer than the state, which will follow.
    async fn confirmed(&self, shard: u16, day: i32, at: Millis, bytes: &[u8]) -> Result<Option<(Millis, Identity)>> {
        let action = "read the due instant of an account";
        let account = Identity::from_bytes(bytes).ok_or_else(|| Error::cql(action, "an identity cannot be read"))?;
        let values = (i32::from(shard), part(&account), bytes);
        let rows: Vec<(Option<i64>, Option<i64>)> = self.cql.read(action, &self.confirm, values).await?;
        let Some((due, Some(written))) = rows.first().copied() else { return Ok(None) };
        if due == Some(at) {
            return Ok(Some((at, account)));
        }
        let row = (written, i32::from(shard), day, at, bytes);
        self.cql.write("clear the due index", &self.remove, row).await?;
        Ok(None)
    }
}
