//! Whether what clients saw of one account can have been, if every operation took effect at one instant between its
//! request and its answer.
//!
//! The search is that of Wing and Gong (“Testing and verifying concurrent objects”, 1993) with Lowe's memory of what
//! was tried (“Testing for linearizability”, 2017). It knows nothing of HTTP or of a node.

use std::collections::HashSet;
use std::fmt::Write as _;

/// What was asked of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Earn(i64),
    Redeem(i64),
    Read,
}

/// An account as an answer shows it. A sequence is compared where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) total: i64,
    pub(crate) sequence: Option<u64>,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Executed, or read: the account after it.
    Account(View),
    /// Refused for want of points: what was available.
    TooFew(i64),
    /// No answer came. It may have taken effect at any time after the request, or never.
    Unknown,
}

/// One operation. All requests with one key are one operation: from the first request to the first answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// By one monotonic clock for all clients, in any unit.
    pub(crate) asked: u64,
    /// Not looked at when the outcome is unknown.
    pub(crate) answered: u64,
    pub(crate) action: Action,
    pub(crate) seen: Seen,
}

/// The model: one account, one operation at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    pub(crate) total: i64,
    pub(crate) sequence: u64,
}

impl Account {
    /// The account after the operation; nothing if the client cannot have seen what it saw.
    fn after(self, operation: &Operation) -> Option<Self> {
        let (change, enough) = match operation.action {
            Action::Earn(points) => (points, true),
            Action::Redeem(points) => (-points, self.total >= points),
            Action::Read => (0, true),
        };
        let executed = match (operation.action, enough) {
            (Action::Read, _) | (_, false) => self,
            _ => Self { total: self.total + change, sequence: self.sequence + 1 },
        };
        let possible = match operation.seen {
            Seen::Unknown => true,
            Seen::TooFew(available) => !enough && available == self.total,
            Seen::Account(view) => {
                enough
                    && view.total == executed.total
                    && view.sequence.is_none_or(|sequence| sequence == executed.sequence)
            }
        };
        possible.then_some(executed)
    }
}

/// The calls and returns that have no place yet, in the order of their times: a list in two arrays. Entry `2n` is the
/// call of operation n, `2n + 1` its return; the entry behind them all is head and end.
struct Timeline {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Timeline {
    fn new(operations: &[Operation]) -> Self {
        let time = |entry: usize| {
            let operation = &operations[entry / 2];
            match (entry % 2, operation.seen) {
                (0, _) => (operation.asked, 0),
                // One that was never answered never has to have happened.
                (_, Seen::Unknown) => (u64::MAX, 1),
                // What ends as another begins is taken to overlap with it.
                _ => (operation.answered, 1),
            }
        };
        let head = operations.len() * 2;
        let mut entries: Vec<usize> = (0..head).collect();
        entries.sort_by_key(|entry| time(*entry));
        entries.push(head);
        let mut timeline = Self { next: vec![head; head + 1], previous: vec![head; head + 1] };
        let mut last = head;
        for entry in entries {
            timeline.next[last] = entry;
            timeline.previous[entry] = last;
            last = entry;
        }
        timeline
    }

    fn head(&self) -> usize {
        self.next.len() - 1
    }

    fn first(&self) -> usize {
        self.next[self.head()]
    }

    fn take_out(&mut self, operation: usize) {
        for entry in [operation * 2, operation * 2 + 1] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            self.next[before] = after;
            self.previous[after] = before;
        }
    }

    /// Undoes the last `take_out`.
    fn put_back(&mut self, operation: usize) {
        for entry in [operation * 2 + 1, operation * 2] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            self.next[before] = entry;
            self.previous[after] = entry;
        }
    }
}

/// Finds an order in which all the operations can have taken effect one after the other.
///
/// # Errors
/// There is none; the text shows how far the longest attempt came and what did not fit.
pub(crate) fn check(start: Account, operations: &[Operation]) -> Result<(), String> {
    let known = operations.iter().filter(|operation| operation.seen != Seen::Unknown).count();
    let mut timeline = Timeline::new(operations);
    let mut account = start;
    // Operations that have a place, and the account before each.
    let mut placed: Vec<(usize, Account)> = Vec::new();
    let mut placed_known = 0;
    let mut is_placed = vec![0u64; operations.len().div_ceil(64)];
    let mut tried: HashSet<(Box<[u64]>, Account)> = HashSet::new();
    let mut longest: (usize, String) = (0, String::new());
    let mut entry = timeline.first();
    while placed_known < known {
        let operation = entry / 2;
        if entry == timeline.head() {
            return Err("an operation has no return".to_owned());
        }
        let is_known = operations[operation].seen != Seen::Unknown;
        let bit = 1u64 << (operation % 64);
        if entry.is_multiple_of(2) {
            let mut new = false;
            if let Some(after) = account.after(&operations[operation]) {
                is_placed[operation / 64] |= bit;
                new = tried.insert((is_placed.clone().into_boxed_slice(), after));
                if new {
                    placed.push((operation, account));
                    placed_known += usize::from(is_known);
                    account = after;
                    timeline.take_out(operation);
                } else {
                    is_placed[operation / 64] &= !bit;
                }
            }
            entry = if new { timeline.first() } else { timeline.next[entry] };
            continue;
        }
        // This operation was answered by now, and has no place: the last decision was wrong.
        if placed.len() >= longest.0 {
            longest = (placed.len(), describe(&placed, account, operation, operations));
        }
        let Some((last, before)) = placed.pop() else { return Err(longest.1) };
        account = before;
        placed_known -= usize::from(operations[last].seen != Seen::Unknown);
        is_placed[last / 64] &= !(1 << (last % 64));
        timeline.put_back(last);
        entry = timeline.next[last * 2];
    }
    Ok(())
}

fn describe(placed: &[(usize, Account)], account: Account, misfit: usize, operations: &[Operation]) -> String {
    let mut text = format!("{} of {} operations have a place; the last ones:\n", placed.len(), operations.len());
    for (operation, before) in placed.iter().rev().take(8).rev() {
        let _ = writeln!(text, "  {before:?}: {:?}", operations[*operation]);
    }
    let _ = write!(text, "  {account:?}: no place for {:?}", operations[misfit]);
    text
}
