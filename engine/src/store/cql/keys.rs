//! Spilled keys in CQL: by week, so that a look-up reads one row for each week in which the key may be.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use meed_schemas::time::DAY_MS;
use scylla::statement::prepared::PreparedStatement;

use super::{Rows, gather, write};
use crate::error::{Error, Result};
use crate::journal::cql::Cql;
use crate::store::{DAYS_PER_WEEK, KEY_VALUE_BYTES, KeyClass, KeyPlace, ShardCheckpoint};

/// Partitions of a shard's keys of one class and week. A constant of the tables' version 1.
const PARTS: u32 = 16;
/// A key goes with its week in the other stores: this much later at most.
const SLACK_DAYS: i64 = DAYS_PER_WEEK as i64;

type Weeks = BTreeSet<(i32, i32)>;

pub(super) struct SpilledKeys {
    cql: Arc<Cql>,
    put: PreparedStatement,
    find: PreparedStatement,
    walk: PreparedStatement,
    put_week: PreparedStatement,
    weeks: PreparedStatement,
    /// How long keys of a class are remembered at least.
    days: [i64; 2],
    /// Per shard, the classes and weeks that have keys.
    known: Mutex<HashMap<u16, Weeks>>,
}

pub(crate) fn class_number(class: KeyClass) -> i32 {
    match class {
        KeyClass::Idempotency => 0,
        KeyClass::Business => 1,
    }
}

fn class_of(number: i32) -> KeyClass {
    if number == 0 { KeyClass::Idempotency } else { KeyClass::Business }
}

/// The partition of a key, of its class and week.
pub(crate) fn part(hash: u128) -> i32 {
    // Not the highest bits: they are the order within a partition.
    (hash as u32 % PARTS) as i32
}

impl SpilledKeys {
    pub(super) async fn open(cql: &Arc<Cql>, days: [i64; 2]) -> Result<Self> {
        Ok(Self {
            cql: Arc::clone(cql),
            put: cql
                .prepare(
                    "INSERT INTO spilled_keys (shard, class, week, part, hash, value) VALUES (?, ?, ?, ?, ?, ?) \
                     USING TIMESTAMP ? AND TTL ?",
                )
                .await?,
            find: cql
                .prepare(
                    "SELECT value FROM spilled_keys WHERE shard = ? AND class = ? AND week = ? AND part = ? \
                     AND hash = ?",
                )
                .await?,
            walk: cql
                .prepare(
                    "SELECT hash FROM spilled_keys WHERE shard = ? AND class = ? AND week = ? AND part = ? \
                     AND hash >= ? LIMIT ?",
                )
                .await?,
            put_week: cql.prepare("INSERT INTO key_weeks (shard, class, week) VALUES (?, ?, ?) USING TTL ?").await?,
            weeks: cql.prepare("SELECT class, week FROM key_weeks WHERE shard = ?").await?,
            days,
            known: Mutex::default(),
        })
    }

    fn seconds(&self, class: KeyClass) -> i32 {
        let days = self.days[class as usize] + SLACK_DAYS;
        i32::try_from(days * (DAY_MS / 1_000)).unwrap_or(i32::MAX)
    }

    /// Another node had the shard.
    pub(super) fn forget(&self, shard: u16) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    async fn weeks(&self, shard: u16) -> Result<Weeks> {
        if let Some(weeks) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&shard) {
            return Ok(weeks.clone());
        }
        let rows: Vec<(i32, i32)> = self.cql.read("read the weeks of keys", &self.weeks, (i32::from(shard),)).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.entry(shard).or_insert_with(|| rows.into_iter().collect()).clone())
    }

    /// The keys of a checkpoint.
    pub(super) async fn add(&self, checkpoint: &ShardCheckpoint, timestamp: i64) -> Result<()> {
        let shard = i32::from(checkpoint.shard);
        let mut batches: Vec<Rows<_>> = Vec::new();
        // The weeks of a checkpoint are few: a row of its own for each, which outlives its keys.
        let mut known = self.weeks(checkpoint.shard).await?;
        for key in &checkpoint.keys {
            let (class, week) = (class_number(key.class), i32::try_from(key.week).unwrap_or(i32::MAX));
            if known.insert((class, week)) {
                let seconds = self.seconds(key.class) + self.seconds(key.class);
                self.cql.write("note a week of keys", &self.put_week, (shard, class, week, seconds)).await?;
                let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(checkpoint.shard).or_default().insert((class, week));
            }
            let part = part(key.hash);
            let partition = i64::from(class) << 40 | i64::from(week) << 8 | i64::from(part);
            let row = (
                shard,
                class,
                week,
                part,
                key.hash.to_be_bytes().to_vec(),
                key.value.to_vec(),
                timestamp,
                self.seconds(key.class),
            );
            gather(&mut batches, partition, size_of::<u128>() + KEY_VALUE_BYTES, row);
        }
        write(&self.cql, "write keys of accounts", &self.put, &batches).await
    }

    /// The newest outcome of a key in these weeks.
    pub(super) async fn find(
        &self,
        shard: u16,
        class: KeyClass,
        weeks: RangeInclusive<u32>,
        hash: u128,
    ) -> Result<Option<Vec<u8>>> {
        let class = class_number(class);
        let number = |week: &u32| i32::try_from(*week).unwrap_or(i32::MAX);
        let known = self.weeks(shard).await?;
        let (first, last) = (number(weeks.start()), number(weeks.end()));
        let wanted = known.iter().rev().filter(|(c, week)| *c == class && (first..=last).contains(week));
        let hash_bytes = hash.to_be_bytes();
        let reads = wanted.map(|(class, week)| {
            let values = (i32::from(shard), *class, *week, part(hash), &hash_bytes[..]);
            self.cql.read::<(Vec<u8>,)>("read a key of an account", &self.find, values)
        });
        let found = try_join_all(reads).await?;
        Ok(found.into_iter().flatten().next().map(|(value,)| value))
    }

    /// As [`crate::store::Store::spilled_keys`]. A place is a class, a week, a part, and the highest bits of a hash.
    pub(super) async fn walk(&self, shard: u16, from: KeyPlace, limit: usize) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        let unreadable = || Error::cql("read keys of accounts", "a hash cannot be read");
        let rows_max = i32::try_from(limit).unwrap_or(i32::MAX);
        let first = (class_number(from.class), i32::try_from(from.week).unwrap_or(i32::MAX));
        let known = self.weeks(shard).await?;
        let mut hashes = Vec::new();
        for &(class, week) in known.range(first..) {
            let is_first = (class, week) == first;
            let (begin, mut block) = if is_first { (from.run, from.block) } else { (0, 0) };
            for part in begin..PARTS {
                let number = i32::try_from(part).unwrap_or(0);
                let values = (i32::from(shard), class, week, number, block.to_be_bytes().to_vec(), rows_max);
                let rows: Vec<(Vec<u8>,)> = self.cql.read("read keys of accounts", &self.walk, values).await?;
                let is_all = rows.len() < limit;
                for (hash,) in rows {
                    hashes.push(u128::from_be_bytes(hash.try_into().map_err(|_| unreadable())?));
                }
                let place = |run, block| KeyPlace { class: class_of(class), week: week.unsigned_abs(), run, block };
                let next = match hashes.last() {
                    // From the last one's highest bits on, some come twice; but always further than before.
                    Some(last) if !is_all => place(part, ((last >> 96) as u32).max(block + 1)),
                    _ => place(part + 1, 0),
                };
                if hashes.len() >= limit {
                    return Ok((hashes, Some(next)));
                }
                block = 0;
            }
        }
        Ok((hashes, None))
    }
}
