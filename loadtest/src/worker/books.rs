//! What a process writes down: tallies per stage for the report, the ledger for the proof.

use std::collections::BTreeMap;

use crate::answer::Effect;
use crate::ledger::Ledger;
use crate::protocol::{Counts, Done, Open, Tally, VIOLATIONS_MAX, Wrong};
use crate::traffic::{Operation, Planned};

/// Most requests whose outcome is asked for at the end, per process; more than a minute of time-outs of a fast server.
/// With more of them nothing is proven.
const UNKNOWN_MAX: usize = 1_000_000;

/// Books of one process.
#[derive(Debug)]
pub(super) struct Books {
    worker: u32,
    tallies: Vec<Tally>,
    pub(super) ledger: Ledger,
    done: Done,
    unknown_max: usize,
}

impl Books {
    pub(super) fn new(worker: u32, stages: usize, accounts: u32) -> Self {
        let tallies = std::iter::repeat_with(Tally::default).take(stages).collect();
        Self { worker, tallies, ledger: Ledger::new(accounts), done: Done::default(), unknown_max: UNKNOWN_MAX }
    }

    /// The tally of the requests that were due in a stage.
    pub(super) fn stage(&mut self, stage: u16) -> &mut Tally {
        let last = self.tallies.len() - 1;
        &mut self.tallies[usize::from(stage).min(last)]
    }

    /// The tallies since the last call.
    pub(super) fn take_tallies(&mut self) -> BTreeMap<u16, Tally> {
        let taken = self.tallies.iter_mut().map(std::mem::take);
        // A read without an answer is an error and nothing else.
        let happened =
            |tally: &Tally| tally.counts != Counts::default() || !tally.errors.is_empty() || !tally.latency.is_empty();
        (0..).zip(taken).filter(|(_, tally)| happened(tally)).collect()
    }

    pub(super) fn latency(&mut self, stage: u16, operation: Operation, latency_us: u64) {
        self.stage(stage).latency.entry(operation).or_default().record(latency_us);
    }

    /// `item`: its place in a batch, else 0.
    pub(super) fn acknowledged(&mut self, stage: u16, planned: &Planned, item: u32, effect: Option<&Effect<'_>>) {
        *self.stage(stage).acknowledged.entry(planned.operation).or_default() += 1;
        if let Some(effect) = effect {
            let (account, number) = (planned.account + item, planned.number + u64::from(item));
            self.ledger.acknowledged(
                account,
                number,
                planned.operation,
                effect.transaction_id,
                effect.points,
                planned.held(),
            );
        }
    }

    /// `is_open`: an earlier attempt may have been executed all the same.
    pub(super) fn refused(
        &mut self,
        stage: u16,
        planned: &Planned,
        item: u32,
        problem: &str,
        is_business: bool,
        is_open: bool,
    ) {
        let tally = self.stage(stage);
        count(if is_business { &mut tally.refused } else { &mut tally.errors }, problem);
        if is_open {
            self.ask(planned, item);
        } else if planned.operation.writes() {
            self.ledger.refused(planned.account + item, planned.number + u64::from(item), planned.operation);
        }
    }

    pub(super) fn unknown(&mut self, stage: u16, planned: &Planned, item: u32, kind: &str) {
        count(&mut self.stage(stage).errors, kind);
        self.ask(planned, item);
    }

    /// Counts a whole request by how it ended. `is_unknown`: of a part of it at least nobody knows what became of it.
    pub(super) fn ended(&mut self, stage: u16, planned: &Planned, is_failed: bool, is_unknown: bool) {
        let counts = &mut self.stage(stage).counts;
        counts.failed += u64::from(is_failed);
        counts.unknown += u64::from(is_unknown && planned.operation.writes());
    }

    /// The outcome will be asked for by the key.
    fn ask(&mut self, planned: &Planned, item: u32) {
        if !planned.operation.writes() {
            return;
        }
        let (account, number) = (planned.account + item, planned.number + u64::from(item));
        self.ledger.unknown(account, number, planned.operation);
        if self.done.unknown.len() < self.unknown_max {
            let (worker, operation, points) = (self.worker, planned.operation, planned.points);
            self.done.unknown.push(Open { worker, account, number, operation, points });
        } else {
            self.done.unasked += 1;
        }
    }

    /// An answer that cannot be right.
    pub(super) fn wrong(&mut self, planned: &Planned, item: u32, what: String) {
        self.done.wrong_count += 1;
        if self.done.wrong.len() < VIOLATIONS_MAX {
            let (account, number) = (planned.account + item, planned.number + u64::from(item));
            self.done.wrong.push(Wrong { account, number, operation: planned.operation, what });
        }
    }

    /// The report for the end, and the ledger, which answers questions.
    pub(super) fn finish(mut self) -> (Done, Ledger) {
        self.done.entries = self.ledger.entries().collect();
        (self.done, self.ledger)
    }
}

fn count(kinds: &mut BTreeMap<String, u64>, kind: &str) {
    match kinds.get_mut(kind) {
        Some(count) => *count += 1,
        None => {
            kinds.insert(kind.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_nothing_but_reads_without_an_answer_is_reported() {
        let mut books = Books::new(0, 2, 1);
        let (operation, account, number) = (Operation::Balance, 0, 0);
        let planned = Planned { operation, account, number, points: 0, amount_minor: 0, at_ms: 0, about: None };
        books.latency(1, operation, 3_000_000);
        books.unknown(1, &planned, 0, "timeout");
        let tallies = books.take_tallies();
        assert_eq!(tallies.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!((tallies[&1].errors_in_all(), tallies[&1].latencies().count()), (1, 1));
        assert!(books.take_tallies().is_empty());
    }

    #[test]
    fn unknown_outcomes_beyond_the_bound_are_counted() {
        let mut books = Books::new(0, 1, 1);
        books.unknown_max = 2;
        let (operation, account) = (Operation::Redeem, 0);
        for number in 0..5 {
            let planned = Planned { operation, account, number, points: 1, amount_minor: 0, at_ms: 0, about: None };
            books.unknown(0, &planned, 0, "timeout");
        }
        let (done, _) = books.finish();
        assert_eq!((done.unknown.len(), done.unasked), (2, 3));
    }
}
