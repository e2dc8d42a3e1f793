//! The history of accounts in typed rows: written behind the journal, read by listings.

use std::sync::Arc;

use futures_util::future::try_join_all;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Detail, Record, RecordKind};
use scylla::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};

use super::session::Cql;
use super::statements::{signed, unsigned};
use crate::error::Result;

/// Positions of one part of an account's history: a partition has at most as many rows. A constant of the tables'
/// version.
const PART_POSITIONS: u64 = 1 << 20;
/// Rows that are written with one statement, and bytes as the server counts them: below what Cassandra warns of by
/// itself, ten partitions and 5 KiB. Of a longer row that is alone it does not.
const BATCH_ROWS: usize = 8;
const BATCH_BYTES: usize = 5 << 10;
/// Bytes of a row beside what it has from its record, at most: numbers, names of columns and times of writing.
const ROW_BYTES: usize = 450;
/// Statements under way at once. More would take the servers' time from the commits.
const AT_ONCE: usize = 4;

/// An effect on an account, for its row.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The record.
    pub record: Record,
    /// As the journal has it.
    pub payload: Vec<u8>,
    /// Name of the tier after it, where it is known.
    pub tier: Option<Box<str>>,
}

/// The columns by their names.
#[derive(SerializeRow)]
struct Row<'a> {
    program: &'a str,
    kind: &'a str,
    account: &'a str,
    part: i32,
    position: i64,
    shard: i32,
    transaction_id: String,
    sequence: i64,
    #[scylla(rename = "type")]
    record_kind: &'a str,
    recorded_at: CqlTimestamp,
    occurred_at: CqlTimestamp,
    points: i64,
    amount: MaybeUnset<i64>,
    total_points: i64,
    available_points: i64,
    pending_points: i64,
    held_points: i64,
    debt_points: i64,
    tier: MaybeUnset<&'a str>,
    program_version: i32,
    source: MaybeUnset<&'a str>,
    reference_id: MaybeUnset<&'a str>,
    reward_id: MaybeUnset<&'a str>,
    store_id: MaybeUnset<&'a str>,
    terminal_id: MaybeUnset<&'a str>,
    pos_transaction_id: MaybeUnset<&'a str>,
    description: MaybeUnset<&'a str>,
    reason: MaybeUnset<&'a str>,
    metadata: MaybeUnset<&'a str>,
    record: &'a [u8],
    #[scylla(rename = "[timestamp]")]
    written: i64,
}

const COLUMNS: &str = "program, kind, account, part, position, shard, transaction_id, sequence, type, recorded_at, \
                       occurred_at, points, amount, total_points, available_points, pending_points, held_points, \
                       debt_points, tier, program_version, source, reference_id, reward_id, store_id, terminal_id, \
                       pos_transaction_id, description, reason, metadata, record";

fn part(sequence: u64) -> i32 {
    i32::try_from(sequence / PART_POSITIONS).unwrap_or(i32::MAX)
}

/// What one statement writes: neighbours, as many as the limits allow and at least one.
fn batches(effects: &[Effect]) -> Vec<&[Effect]> {
    let mut batches = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (index, effect) in effects.iter().enumerate() {
        // Texts of a record stand in their columns and in the record.
        let more = ROW_BYTES + 2 * effect.payload.len();
        if index > begin && (index - begin == BATCH_ROWS || bytes + more > BATCH_BYTES) {
            batches.push(&effects[begin..index]);
            (begin, bytes) = (index, 0);
        }
        bytes += more;
    }
    batches.push(&effects[begin..]);
    batches
}

/// A column without a value is left out: a null would be kept as a deletion.
fn unset<T: scylla::serialize::value::SerializeValue>(value: Option<T>) -> MaybeUnset<T> {
    value.map_or(MaybeUnset::Unset, MaybeUnset::Set)
}

impl<'a> Row<'a> {
    fn of(effect: &'a Effect) -> Self {
        let record = &effect.record;
        let position = signed(record.position.sequence());
        let award = match &record.detail {
            Detail::Earn { award, .. } => award.as_ref().map(|award| award.amount),
            _ => None,
        };
        let references = record.references.as_deref();
        macro_rules! reference {
            ($name:ident) => {
                unset(references.and_then(|references| references.$name.as_deref()))
            };
        }
        Self {
            program: record.identity.program(),
            kind: record.identity.kind().name(),
            account: record.identity.id(),
            part: part(record.position.sequence()),
            position,
            shard: i32::from(record.position.shard()),
            transaction_id: record.position.to_string(),
            sequence: signed(record.sequence),
            record_kind: record.kind.name(),
            recorded_at: CqlTimestamp(record.recorded_at),
            occurred_at: CqlTimestamp(record.occurred_at),
            points: record.points,
            amount: unset(award.or(record.spend.map(|spend| spend.amount))),
            total_points: record.balances.total,
            available_points: record.balances.available(),
            pending_points: record.balances.pending,
            held_points: record.balances.held,
            debt_points: record.balances.debt,
            tier: unset(effect.tier.as_deref()),
            program_version: i32::try_from(record.program_version).unwrap_or(i32::MAX),
            source: reference!(source),
            reference_id: reference!(reference_id),
            reward_id: reference!(reward_id),
            store_id: reference!(store_id),
            terminal_id: reference!(terminal_id),
            pos_transaction_id: reference!(pos_transaction_id),
            description: reference!(description),
            reason: reference!(reason),
            metadata: reference!(metadata),
            record: &effect.payload,
            written: position,
        }
    }
}

/// The rows of the history, and how far they are written.
pub struct History {
    cql: Arc<Cql>,
    put: PreparedStatement,
    page: PreparedStatement,
    page_of_kind: PreparedStatement,
    save: PreparedStatement,
    saved: PreparedStatement,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("History(..)")
    }
}

impl History {
    /// Prepares the statements in the keyspace in use.
    ///
    /// # Errors
    /// The cluster refuses one.
    pub fn prepare(cql: &Arc<Cql>) -> Result<Self> {
        let marks = COLUMNS.split(',').map(|_| "?").collect::<Vec<_>>().join(", ");
        // Rows are the same whoever writes them, so the timestamp only has to be the same as well.
        let put = format!("INSERT INTO history ({COLUMNS}) VALUES ({marks}) USING TIMESTAMP ?");
        let of_account = "SELECT position, record FROM history WHERE program = ? AND kind = ? AND account = ? \
                          AND part = ? AND position <= ?";
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                put: cql.prepare(&put).await?,
                page: cql.prepare(&format!("{of_account} LIMIT ?")).await?,
                // Within one partition.
                page_of_kind: cql.prepare(&format!("{of_account} AND type = ? LIMIT ? ALLOW FILTERING")).await?,
                save: cql.prepare("INSERT INTO projected (shard, sequence) VALUES (?, ?) USING TIMESTAMP ?").await?,
                saved: cql.prepare("SELECT sequence FROM projected WHERE shard = ?").await?,
            })
        })
    }

    /// Writes the rows of these effects; they can be read when it returns.
    ///
    /// # Errors
    /// The node stops.
    pub fn write(&self, effects: &[Effect]) -> Result<()> {
        self.cql.block_on(async {
            for some in batches(effects).chunks(AT_ONCE) {
                try_join_all(some.iter().map(|rows| self.write_some(rows))).await?;
            }
            Ok(())
        })
    }

    async fn write_some(&self, effects: &[Effect]) -> Result<()> {
        let mut batch = Batch::new(BatchType::Unlogged);
        effects.iter().for_each(|_| batch.append_statement(self.put.clone()));
        let rows: Vec<Row<'_>> = effects.iter().map(Row::of).collect();
        self.cql.write_batch("write the history", &batch, &rows).await
    }

    /// Records of an account, newest first, from the one at `from` on back, which may be no more than a part of them:
    /// with the last one's back-pointer it goes on. At most `limit`, of one kind if asked for.
    ///
    /// # Errors
    /// The node stops.
    pub fn page(
        &self,
        identity: &Identity,
        from: Position,
        kind: Option<RecordKind>,
        limit: usize,
    ) -> Result<Vec<(Position, Vec<u8>)>> {
        let at = from.sequence();
        let account = (identity.program(), identity.kind().name(), identity.id());
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let action = "read the history of an account";
        let rows: Vec<(i64, Vec<u8>)> = self.cql.block_on(async {
            let (program, account_kind, account) = account;
            match kind {
                None => {
                    let values = (program, account_kind, account, part(at), signed(at), limit);
                    self.cql.read(action, &self.page, values).await
                }
                Some(kind) => {
                    let values = (program, account_kind, account, part(at), signed(at), kind.name(), limit);
                    self.cql.read(action, &self.page_of_kind, values).await
                }
            }
        })?;
        let of_row = |(sequence, record)| (Position::new(from.shard(), unsigned(sequence)), record);
        Ok(rows.into_iter().map(of_row).collect())
    }

    /// Saves that everything of a shard up to a sequence is written. A lower one than is saved changes nothing.
    ///
    /// # Errors
    /// The node stops.
    pub fn save(&self, shard: u16, sequence: u64) -> Result<()> {
        let sequence = signed(sequence);
        let values = (i32::from(shard), sequence, sequence);
        self.cql.block_on(self.cql.write("save how far the history is written", &self.save, values))
    }

    /// Up to which sequence everything of a shard is written.
    ///
    /// # Errors
    /// The node stops.
    pub fn saved(&self, shard: u16) -> Result<u64> {
        let action = "read how far the history is written";
        let rows: Vec<(i64,)> = self.cql.block_on(self.cql.read(action, &self.saved, (i32::from(shard),)))?;
        Ok(rows.first().map_or(0, |row| unsigned(row.0)))
    }
}
