//! What a sweep of the due index reads next, without I/O: rows lie by day, and a day that was swept to its end is not
//! read again until a checkpoint adds to it.

use std::collections::{BTreeMap, VecDeque};

use meed_schemas::ids::Identity;
use meed_schemas::time::{DAY_MS, Millis};

/// The day under which the index has an instant.
pub(crate) fn day_of(at: Millis) -> i32 {
    i32::try_from(at.div_euclid(DAY_MS)).unwrap_or(if at < 0 { i32::MIN } else { i32::MAX })
}

fn end_of(day: i32) -> Millis {
    (i64::from(day) + 1).saturating_mul(DAY_MS) - 1
}

/// The days of a shard that have rows, each with the last instant up to which nothing is left.
pub(crate) struct Days(BTreeMap<i32, Millis>);

impl Days {
    /// Of a day that was not looked at yet, nothing is known to be gone.
    pub(crate) fn unswept(days: impl IntoIterator<Item = i32>) -> Self {
        Self(days.into_iter().map(|day| (day, Millis::MIN)).collect())
    }

    /// A row comes: its day is looked at from there on. Returns whether the day is new, so that it must be noted before
    /// the row is written.
    pub(crate) fn add(&mut self, at: Millis) -> bool {
        let is_new = !self.0.contains_key(&day_of(at));
        let swept = self.0.entry(day_of(at)).or_insert(Millis::MIN);
        *swept = (*swept).min(at - 1);
        is_new
    }

    /// Looks for at most `limit` accounts that are due at or before `up_to`, behind `after`. A node that stops while it
    /// sweeps asks for what is due before everything, behind an account that is not.
    pub(crate) fn sweep(&self, up_to: Millis, after: Option<&(Millis, Identity)>, limit: usize) -> Sweep {
        let first = after.map_or(i32::MIN, |(at, _)| day_of(*at));
        let last = day_of(up_to);
        let days = (first <= last).then(|| self.0.range(first..=last)).into_iter().flatten();
        let days = days.filter(|(day, swept)| **swept < end_of(**day));
        let pages = days.map(|(day, swept)| match after {
            Some((at, identity)) if day_of(*at) == *day => {
                Page { day: *day, at: *at, identity: identity.as_bytes().to_vec(), begins_swept: at == swept }
            }
            _ => Page { day: *day, at: *swept, identity: vec![u8::MAX], begins_swept: true },
        });
        Sweep { up_to, limit, pages: pages.collect(), first_left: None, found: Vec::new(), swept: Vec::new() }
    }

    /// Takes over how far a sweep came.
    pub(crate) fn finish(&mut self, sweep: Sweep) -> Vec<(Millis, Identity)> {
        for (day, up_to) in sweep.swept {
            if let Some(swept) = self.0.get_mut(&day) {
                *swept = (*swept).max(up_to);
            }
        }
        sweep.found
    }
}

/// Rows of a day to read: those behind an instant and a name, the first ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) day: i32,
    pub(crate) at: Millis,
    pub(crate) identity: Vec<u8>,
    /// Whether nothing between what was swept of the day and its first page is left out.
    begins_swept: bool,
}

/// See [`Days::sweep`].
pub(crate) struct Sweep {
    up_to: Millis,
    limit: usize,
    /// The first is what to read next.
    pages: VecDeque<Page>,
    /// The first account of the first page's day that is due.
    first_left: Option<Millis>,
    found: Vec<(Millis, Identity)>,
    /// Days that were read to the end, and up to where nothing of them is left.
    swept: Vec<(i32, Millis)>,
}

impl Sweep {
    /// What to read next, up to the sweep's `up_to`; `None` at the end or when enough is found.
    pub(crate) fn page(&self) -> Option<&Page> {
        self.pages.front().filter(|_| !self.is_full())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= self.limit
    }

    /// A row of the page is confirmed by its account's state. Beyond the limit it is left for the next sweep.
    pub(crate) fn find(&mut self, account: (Millis, Identity)) {
        if !self.is_full() {
            self.first_left = self.first_left.or(Some(account.0));
            self.found.push(account);
        }
    }

    /// The page is read: `last` is its last row if more may follow.
    pub(crate) fn turn(&mut self, last: Option<(Millis, Vec<u8>)>) {
        // What is behind the limit was not looked at.
        if self.is_full() {
            return;
        }
        if let (Some((at, identity)), Some(page)) = (last, self.pages.front_mut()) {
            (page.at, page.identity) = (at, identity);
            return;
        }
        let first_left = self.first_left.take();
        if let Some(page) = self.pages.pop_front().filter(|page| page.begins_swept) {
            let up_to = first_left.map_or(self.up_to, |left| left - 1).min(end_of(page.day));
            self.swept.push((page.day, up_to));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn account(name: &str) -> Identity {
        Identity::member("p", name)
    }

    #[test]
    fn a_day_that_is_swept_to_its_end_is_read_again_only_when_a_row_comes() {
        let mut days = Days::unswept([0, 1]);
        let mut sweep = days.sweep(DAY_MS + 5, None, 10);
        assert_eq!(sweep.page().unwrap().day, 0);
        sweep.turn(None);
        assert_eq!(sweep.page().unwrap().day, 1);
        sweep.turn(None);
        assert_eq!(sweep.page(), None);
        assert!(days.finish(sweep).is_empty());

        let sweep = days.sweep(DAY_MS + 5, None, 10);
        let page = sweep.page().unwrap();
        assert_eq!((page.day, page.at), (1, DAY_MS + 5), "of the second day what is due later may still come");

        assert!(!days.add(7) && days.add(3 * DAY_MS));
        let sweep = days.sweep(DAY_MS + 5, None, 10);
        let page = sweep.page().unwrap();
        assert_eq!((page.day, page.at), (0, 6), "before the row that came");
    }

    #[test]
    fn what_is_left_is_found_again_and_pages_go_on_behind_the_last_row() {
        let mut days = Days::unswept([0]);
        let mut sweep = days.sweep(100, None, 10);
        sweep.find((30, account("a")));
        sweep.turn(Some((40, b"b".to_vec())));
        let page = sweep.page().unwrap();
        assert_eq!((page.at, page.identity.as_slice()), (40, b"b".as_slice()));
        sweep.turn(None);
        assert_eq!(days.finish(sweep), [(30, account("a"))]);
        let sweep = days.sweep(100, None, 10);
        assert_eq!(sweep.page().unwrap().at, 29, "the account is still due");
    }

    #[test]
    fn behind_what_is_no_longer_asked_for_nothing_is_due() {
        let mut days = Days::unswept([0, 1]);
        let after = (DAY_MS + 5, account("a"));
        for up_to in [Millis::MIN, DAY_MS - 1] {
            let sweep = days.sweep(up_to, Some(&after), 10);
            assert_eq!(sweep.page(), None);
            assert!(days.finish(sweep).is_empty());
        }
        assert_eq!(days.sweep(DAY_MS + 5, None, 10).page().unwrap().at, Millis::MIN, "nothing was looked at");
    }

    #[test]
    fn a_sweep_that_is_full_does_not_count_what_it_did_not_look_at() {
        let mut days = Days::unswept([0]);
        let mut sweep = days.sweep(100, None, 1);
        sweep.find((30, account("a")));
        sweep.find((31, account("b")));
        sweep.turn(None);
        assert_eq!(sweep.page(), None);
        assert_eq!(days.finish(sweep), [(30, account("a"))]);

        let after = (30, account("a"));
        let mut sweep = days.sweep(100, Some(&after), 1);
        assert_eq!(sweep.page().unwrap().at, 30);
        sweep.turn(None);
        assert!(days.finish(sweep).is_empty());
        let sweep = days.sweep(100, None, 1);
        assert_eq!(
            sweep.page().unwrap().at,
            Millis::MIN,
            "a sweep from the middle of a day says nothing of its beginning"
        );
    }
}
