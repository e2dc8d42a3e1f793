//! The tables of the state store, as the simulated cluster has them: of two writes of a row the one with the higher
//! timestamp counts, of two with the same one that which takes away, or column by column the greater value.

use std::collections::BTreeMap;

use crate::store::ShardState;

/// A row's name. Those of one partition lie together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    State { shard: u16, identity: Vec<u8> },
    Fact { shard: u16, identity: Vec<u8>, fact: Vec<u8> },
    Key { shard: u16, class: i32, week: i32, hash: u128 },
    Week { shard: u16, class: i32, week: i32 },
    Due { shard: u16, day: i32, at: i64, identity: Vec<u8> },
    Day { shard: u16, day: i32 },
    Checkpoint { shard: u16 },
}

/// What is in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    State {
        due: Option<i64>,
        state: Vec<u8>,
    },
    Bytes(Vec<u8>),
    Checkpoint(ShardState),
    /// Its name says all.
    Nothing,
}

/// A change of a row; `None` takes it away.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) row: Row,
    pub(super) timestamp: i64,
    pub(super) value: Option<Value>,
}

/// A row that was found, and its timestamp.
pub(super) type Found = (Row, i64, Value);

#[derive(Debug, Default)]
pub(super) struct Tables {
    rows: BTreeMap<Row, (i64, Option<Value>)>,
}

/// What two writes with the same timestamp come to.
fn merged(there: Option<Value>, new: Option<Value>) -> Option<Value> {
    match (there?, new?) {
        (Value::State { due, state }, Value::State { due: new_due, state: new_state }) => Some(Value::State {
            // A column without a value was taken away.
            due: due.zip(new_due).map(|(due, new)| due.max(new)),
            state: state.max(new_state),
        }),
        (Value::Checkpoint(there), Value::Checkpoint(new)) => Some(Value::Checkpoint(ShardState {
            replay_start: there.replay_start.max(new.replay_start),
            totals: there.totals.max(new.totals),
            totals_sequence: there.totals_sequence.max(new.totals_sequence),
            accounts: there.accounts.max(new.accounts),
        })),
        (Value::Bytes(there), Value::Bytes(new)) => Some(Value::Bytes(there.max(new))),
        (_, new) => Some(new),
    }
}

impl Tables {
    pub(super) fn write(&mut self, Write { row, timestamp, value }: Write) {
        match self.rows.get_mut(&row) {
            Some((at, _)) if *at > timestamp => {}
            Some((at, there)) if *at == timestamp => *there = merged(there.take(), value),
            _ => {
                self.rows.insert(row, (timestamp, value));
            }
        }
    }

    pub(super) fn get(&self, row: &Row) -> Option<(i64, Value)> {
        let (at, value) = self.rows.get(row)?;
        Some((*at, value.clone()?))
    }

    /// The rows from one name to another, both included, at most so many.
    pub(super) fn range(&self, from: &Row, to: &Row, limit: usize) -> Vec<Found> {
        if from > to {
            return Vec::new();
        }
        let found = self.rows.range(from.clone()..=to.clone());
        found.filter_map(|(row, (at, value))| Some((row.clone(), *at, value.clone()?))).take(limit).collect()
    }
}
