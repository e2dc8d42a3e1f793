//! What the server has acknowledged, per account: enough to prove at the end that nothing was lost, added or changed.
//!
//! Every process keeps its own; sums and digests of all processes add up, whatever the order. The log behind them is
//! asked only about accounts whose books differ.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::traffic::Operation;

/// Most operations that one process remembers one by one. Beyond it a difference names the account, but not what this
/// process sent.
const LOG_OPERATIONS_MAX: usize = 40_000_000;
/// Operations of one piece of that memory. In one piece it would be copied whenever it is full, which takes the thread
/// that sends 40 ms at half a million operations.
const PIECE_OPERATIONS: usize = 1 << 14;

/// A transaction as its id and its points: equal exactly when both are. Digests of a set of transactions add up.
pub(crate) fn digest(transaction_id: &str, points: i64) -> u64 {
    xxh3_64_with_seed(transaction_id.as_bytes(), points as u64)
}

/// The acknowledged effects on one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Whether anything was tried, acknowledged or not: what was refused must not have happened either.
    pub(crate) touched: bool,
    /// Transactions.
    pub(crate) effects: u32,
    /// Their points, summed.
    pub(crate) points: i64,
    /// The sum of their [`digest`]s, wrapping.
    pub(crate) digest: u64,
    /// Points that holds pinned, less those of holds that were captured or voided.
    pub(crate) held: i64,
}

impl Entry {
    pub(crate) fn add(&mut self, other: Self) {
        self.touched |= other.touched;
        self.effects = self.effects.saturating_add(other.effects);
        self.points = self.points.saturating_add(other.points);
        self.digest = self.digest.wrapping_add(other.digest);
        self.held = self.held.saturating_add(other.held);
    }

    pub(crate) fn add_effect(&mut self, transaction_id: &str, points: i64, held: i64) {
        self.add(Self { touched: true, effects: 1, points, digest: digest(transaction_id, points), held });
    }
}

/// How an operation ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Seen {
    Acknowledged,
    Refused,
    Unknown,
}

/// One operation of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Logged {
    pub(crate) account: u32,
    /// The last part of its key.
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) seen: Seen,
    pub(crate) points: i64,
    /// See [`digest`]; 0 unless acknowledged.
    pub(crate) digest: u64,
}

/// The books of one process.
#[derive(Debug)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    log: Vec<Vec<Logged>>,
}

impl Ledger {
    pub(crate) fn new(accounts: u32) -> Self {
        Self { entries: vec![Entry::default(); accounts as usize], log: Vec::new() }
    }

    /// `points` are those of the transaction, `held` the change of what the account's holds pin.
    pub(crate) fn acknowledged(
        &mut self,
        account: u32,
        number: u64,
        operation: Operation,
        transaction_id: &str,
        points: i64,
        held: i64,
    ) {
        let digest = digest(transaction_id, points);
        if let Some(entry) = self.entries.get_mut(account as usize) {
            entry.add(Entry { touched: true, effects: 1, points, digest, held });
        }
        self.note(Logged { account, number, operation, seen: Seen::Acknowledged, points, digest });
    }

    pub(crate) fn refused(&mut self, account: u32, number: u64, operation: Operation) {
        self.note(Logged { account, number, operation, seen: Seen::Refused, points: 0, digest: 0 });
    }

    pub(crate) fn unknown(&mut self, account: u32, number: u64, operation: Operation) {
        self.note(Logged { account, number, operation, seen: Seen::Unknown, points: 0, digest: 0 });
    }

    fn note(&mut self, logged: Logged) {
        if let Some(entry) = self.entries.get_mut(logged.account as usize) {
            entry.touched = true;
        }
        let is_full = self.log.last().is_none_or(|piece| piece.len() == PIECE_OPERATIONS);
        if is_full && self.log.len() < LOG_OPERATIONS_MAX / PIECE_OPERATIONS {
            self.log.push(Vec::with_capacity(PIECE_OPERATIONS));
        }
        if let Some(piece) = self.log.last_mut().filter(|piece| piece.len() < PIECE_OPERATIONS) {
            piece.push(logged);
        }
    }

    /// Accounts that something was tried on.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let numbered = self.entries.iter().enumerate().filter(|(_, entry)| entry.touched);
        numbered.filter_map(|(account, entry)| Some((u32::try_from(account).ok()?, *entry)))
    }

    /// What this process did on some accounts.
    pub(crate) fn details(&self, accounts: &[u32]) -> Vec<Logged> {
        self.log.iter().flatten().filter(|logged| accounts.contains(&logged.account)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_remembered_in_its_order_across_pieces() {
        let mut ledger = Ledger::new(2);
        let count = 2 * PIECE_OPERATIONS as u64 + 1;
        (0..count).for_each(|number| ledger.refused(u32::from(number % 2 == 1), number, Operation::EarnPoints));
        let odd: Vec<u64> = ledger.details(&[1]).iter().map(|logged| logged.number).collect();
        assert_eq!(odd, (1..count).step_by(2).collect::<Vec<_>>());
        assert_eq!(ledger.details(&[0, 1]).len() as u64, count);
    }

    #[test]
    fn books_of_processes_add_up_in_any_order() {
        let (mut left, mut right, mut whole) = (Entry::default(), Entry::default(), Entry::default());
        for (number, (id, points)) in [("a", 5), ("b", -3), ("c", 0)].into_iter().enumerate() {
            whole.add_effect(id, points, 1);
            if number == 1 { &mut left } else { &mut right }.add_effect(id, points, 1);
        }
        left.add(right);
        assert_eq!(left, whole);
        assert_eq!(whole.held, 3);
        let mut other = Entry::default();
        other.add_effect("a", 5, 0);
        other.add_effect("b", -4, 0);
        other.add_effect("c", 1, 0);
        assert_eq!((other.effects, other.points), (whole.effects, whole.points));
        assert_ne!(other.digest, whole.digest, "two changed rows that cancel out are seen");
    }
}
