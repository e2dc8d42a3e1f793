//! The due index in CQL: rows by day, so that what was due long ago is not passed again and again.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use meed_schemas::ids::Identity;
use meed_schemas::time::Millis;
use scylla::statement::prepared::PreparedStatement;

use super::sweep::{Days, day_of};
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
    known_days: HashMap<u16, Days>,
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

    async fn days_of(&mut self, shard: u16) -> Result<&mut Days> {
        if !self.known_days.contains_key(&shard) {
            let rows: Vec<(i32,)> =
                self.cql.read("read the days of the due index", &self.days, (i32::from(shard),)).await?;
            self.known_days.insert(shard, Days::unswept(rows.into_iter().map(|(day,)| day)));
        }
        Ok(self.known_days.entry(shard).or_insert_with(|| Days::unswept([])))
    }

    /// The new due rows of a checkpoint.
    pub(super) async fn add(&mut self, checkpoint: &ShardCheckpoint, timestamp: i64) -> Result<()> {
        let shard = i32::from(checkpoint.shard);
        let mut batches: Vec<Rows<_>> = Vec::new();
        let changed = checkpoint.accounts.iter().filter(|a| a.due != a.due_before);
        for (account, at) in changed.filter_map(|account| Some((account, account.due?))) {
            let day = day_of(at);
            if self.days_of(checkpoint.shard).await?.add(at) {
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
        let mut sweep = self.days_of(shard).await?.sweep(up_to, after, limit);
        while let Some(page) = sweep.page().cloned() {
            let values = (i32::from(shard), page.day, page.at, page.identity, up_to, ROWS_AT_ONCE);
            let rows: Vec<(i64, Vec<u8>)> = self.cql.read("read the due index", &self.rows, values).await?;
            for some in rows.chunks(AT_ONCE) {
                let confirmed = some.iter().map(|(row_at, bytes)| self.confirmed(shard, page.day, *row_at, bytes));
                try_join_all(confirmed).await?.into_iter().flatten().for_each(|account| sweep.find(account));
                if sweep.is_full() {
                    break;
                }
            }
            let is_last = rows.len() < ROWS_AT_ONCE as usize;
            sweep.turn(rows.into_iter().next_back().filter(|_| !is_last));
        }
        Ok(self.days_of(shard).await?.finish(sweep))
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
