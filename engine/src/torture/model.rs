//! One account the naive way: heaps of points by expiry, spend as a list of events, every answer counted afresh.
//! It is written from the contract, without the code of accounts, and predicts what each request comes to.

mod due;
mod operate;
mod reversal;
mod views;

use std::collections::BTreeMap;

use meed_schemas::command::Status;
use meed_schemas::ids::Position;
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{AmountAward, Balances, Detail, RecordKind, Spend};
use meed_schemas::time::Millis;

use super::profile::Rules;

/// A record as predicted.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) kind: RecordKind,
    pub(super) points: i64,
    /// When it occurred.
    pub(super) at: Millis,
    /// Number of the version that decided it.
    pub(super) version: u32,
    pub(super) spend: Option<Spend>,
    pub(super) detail: Detail,
}

/// What a request of an account with nothing due and with new keys comes to.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// These records. The answer shows the one with this index, and names these lots as taken.
    Done { effects: Vec<Effect>, shown: usize, taken: Vec<(Millis, i64)> },
    /// The answer of the record at this sequence.
    Replay(u64),
    /// A refusal; the text of an invalid request is not predicted.
    Refused(Refusal),
    /// A view.
    View,
}

#[derive(Clone, Debug)]
struct Hold {
    recorded_at: Millis,
    until: Millis,
    pins: Vec<(Millis, i64)>,
    /// The record that ended it, and whether it captured.
    end: Option<(u64, bool)>,
}

#[derive(Clone, Debug)]
struct Award {
    points: i64,
    /// With the index of the version that counted.
    amount: Option<(AmountAward, usize)>,
    month: i32,
    expires: Millis,
    activates: Option<Millis>,
    reversed_points: i64,
    reversed_amount: i64,
}

#[derive(Clone, Debug)]
struct Spending {
    taken: Vec<(Millis, i64)>,
    given_back: i64,
}

#[derive(Clone, Debug)]
struct Manual {
    name: String,
    is_floor: bool,
    from: Millis,
    until: Option<Millis>,
}

/// What a turn is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    /// The versions that are known, with the instants from which on they decide.
    pub(super) versions: &'a [(Millis, Rules)],
    pub(super) now: Millis,
    /// What is past by a clock that is trusted; at most `now`.
    pub(super) settled: Millis,
    /// Position of the next record.
    pub(super) next: Position,
}

impl<'a> Given<'a> {
    fn version(&self, at: Millis) -> usize {
        self.versions.iter().rposition(|(from, _)| *from <= at).unwrap_or(0)
    }

    fn rules(&self, at: Millis) -> &'a Rules {
        &self.versions[self.version(at)].1
    }

    pub(super) fn newest(&self) -> &'a Rules {
        &self.versions[self.versions.len() - 1].1
    }

    /// The next record but `count`.
    fn next_but(&self, count: usize) -> Position {
        Position::new(self.next.shard(), self.next.sequence() + count as u64)
    }

    fn effect(&self, kind: RecordKind, points: i64, at: Millis, detail: Detail) -> Effect {
        Effect { kind, points, at, version: self.version(at) as u32 + 1, spend: None, detail }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) exists: bool,
    status: Option<Status>,
    /// Available points by expiry.
    live: BTreeMap<Millis, i64>,
    /// By activation and expiry.
    pending: BTreeMap<(Millis, Millis), i64>,
    /// What expired unspent and was not counted by a reversal, by expiry.
    expired: BTreeMap<Millis, i64>,
    debt: i64,
    /// All that ever were, by the sequences of their records.
    holds: BTreeMap<u64, Hold>,
    awards: BTreeMap<u64, Award>,
    spendings: BTreeMap<u64, Spending>,
    spend: Vec<Spend>,
    /// Every tier that was set by hand, up to its end or to when another was set.
    manuals: Vec<Manual>,
    /// By business or not and hash: the record, the fingerprint, whether a refusal.
    pub(super) keys: BTreeMap<(bool, u128), (u64, u64, bool)>,
}

fn add<K: Ord>(heap: &mut BTreeMap<K, i64>, key: K, points: i64) {
    *heap.entry(key).or_default() += points;
    heap.retain(|_, points| *points != 0);
}

fn sum(heap: &[(Millis, i64)]) -> i64 {
    heap.iter().map(|(_, points)| points).sum()
}

impl Model {
    fn available(&self) -> i64 {
        self.live.values().sum::<i64>() - self.debt
    }

    fn open_holds(&self) -> impl Iterator<Item = (&u64, &Hold)> {
        self.holds.iter().filter(|(_, hold)| hold.end.is_none())
    }

    pub(super) fn balances(&self) -> Balances {
        let held = self.open_holds().map(|(_, hold)| sum(&hold.pins)).sum();
        Balances { total: self.available() + held, held, pending: self.pending.values().sum(), debt: self.debt }
    }

    /// The level at an instant.
    pub(super) fn level(&self, rules: &Rules, at: Millis) -> usize {
        let earned = rules.earned(&self.spend, rules.month(at));
        let is_on = |manual: &&Manual| manual.from <= at && manual.until.is_none_or(|until| at < until);
        let manual = self.manuals.iter().rev().find(is_on);
        match manual.and_then(|manual| Some((rules.level_named(&manual.name)?, manual.is_floor))) {
            None => earned,
            Some((level, true)) => earned.max(level),
            Some((level, false)) => earned.min(level),
        }
    }

    /// Points that have just become available pay debt, earliest expiry first.
    fn arrive(&mut self, mut heap: Vec<(Millis, i64)>) {
        heap.sort_unstable();
        for (expires, points) in heap {
            let paid = points.min(self.debt);
            self.debt -= paid;
            add(&mut self.live, expires, points - paid);
        }
    }

    /// Takes available points in burn order; returns what was taken.
    fn burn(&mut self, mut points: i64, except: Option<Millis>) -> Vec<(Millis, i64)> {
        let mut taken = Vec::new();
        for (expires, heap) in &mut self.live {
            let part = points.min(*heap);
            if part > 0 && Some(*expires) != except {
                *heap -= part;
                points -= part;
                taken.push((*expires, part));
            }
        }
        self.live.retain(|_, points| *points != 0);
        taken
    }

    /// Lets points of a hold go; what is past its expiry goes for good, and is returned.
    fn let_go(&mut self, pins: Vec<(Millis, i64)>, at: Millis) -> Vec<(Millis, i64)> {
        let (gone, back) = pins.into_iter().partition(|(expires, _)| *expires <= at);
        self.arrive(back);
        gone
    }

    /// What is past its expiry, if anything is, goes in one record.
    fn expire(&mut self, gone: &[(Millis, i64)], at: Millis, given: Given<'_>) -> Option<Effect> {
        for (expires, points) in gone {
            add(&mut self.expired, *expires, *points);
        }
        (!gone.is_empty()).then(|| given.effect(RecordKind::Expire, -sum(gone), at, Detail::None))
    }
}
