//! Random histories of an account, against a naive model written differently.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use meed_engine::random::Random;
use meed_schemas::command::{Basis, Command, Keys, Portion};
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{Detail, Record, RecordKind};
use meed_schemas::time::DAY_MS;
use model::naive::{Naive, Part, Refused, Rules};
use model::*;

fn same_refusal(refusal: &Refusal, expected: &Refused) -> bool {
    match expected {
        Refused::Insufficient => matches!(refusal, Refusal::InsufficientPoints { .. }),
        Refused::Exceeds => matches!(refusal, Refusal::ExceedsRemaining { .. } | Refusal::ExceedsHold { .. }),
        Refused::Nothing => *refusal == Refusal::NothingToReverse,
        Refused::Hold => *refusal == Refusal::HoldClosed,
    }
}

fn rules(random: &mut Random) -> (String, Rules) {
    let expiry_days = *random.pick(&[None, Some(3), Some(20), Some(400)]);
    let pending_days = if random.chance(40) { random.between(1, 3) } else { 0 };
    let floor = *random.pick(&[0, -15, -1_000]);
    let window = *random.pick(&["lifetime", "calendar_year", "rolling_12_months"]);
    let negative = if floor == 0 {
        r#"{"policy":"refuse"}"#.to_owned()
    } else {
        format!(r#"{{"policy":"debt","floor":{floor}}}"#)
    };
    let expiry = expiry_days.map_or(r#""none""#.to_owned(), |days| format!(r#"{{"days":{days}}}"#));
    let members = format!(
        r#"{{"expiry":{expiry},"pending":{{"days":{pending_days}}},"negative_balance":{negative},"late_days_max":null,
           "tiers":{{"window":"{window}","levels":[{{"name":"A","from":"0","multiplier":"1"}},
           {{"name":"B","from":"60","multiplier":"1.5"}},{{"name":"C","from":"150","multiplier":"0.3333"}}]}}}}"#
    );
    let levels = vec![(0, 10_000), (6_000, 15_000), (15_000, 3_333)];
    (members, Rules { expiry_days, pending_days, floor, levels, window })
}

struct History {
    world: World,
    naive: Naive,
    random: Random,
    originals: Vec<Record>,
    holds: Vec<Record>,
}

impl History {
    fn step(&mut self) {
        let w = &mut self.world;
        if self.random.chance(40) {
            let days = *self.random.pick(&[0, 0, 1, 2, 5, 40, 400]);
            w.now += days * DAY_MS + self.random.between(0, DAY_MS / 3);
        }
        let now = w.now;
        self.naive.settle(now);
        match self.random.below(12) {
            0..=3 => self.earn(),
            4 => {
                let points = self.random.between(1, 20);
                let came = self.world.ask(redeem(points));
                let expected = self.naive.redeem(self.id(), points);
                self.compare(came, expected);
            }
            5 => {
                let points = self.random.between(1, 15);
                let came = self.world.ask(adjust(-points));
                let expected = self.naive.deduct(points);
                self.compare(came, expected);
            }
            6 | 7 => {
                let points = self.random.between(1, 12);
                let seconds = self.random.between(1, 604_800);
                let came = self.world.ask(hold(points, Some(seconds)));
                let expected = self.naive.hold(self.id(), points, now + seconds * 1_000);
                self.compare(came, expected);
            }
            8 if !self.holds.is_empty() => self.end_hold(),
            9..=11 if !self.originals.is_empty() => self.reverse(),
            _ => {
                self.world.ask(Command::Settle);
                self.world.check();
            }
        }
    }

    /// Sequence of the first primary record of the last turn.
    fn id(&self) -> u64 {
        let primary = [RecordKind::Earn, RecordKind::Redeem, RecordKind::Hold, RecordKind::Reversal];
        self.world.last.iter().rev().find(|r| primary.contains(&r.kind)).map_or(0, |r| r.position.sequence())
    }

    fn earn(&mut self) {
        let (w, random) = (&mut self.world, &mut self.random);
        let occurred_at = if random.chance(30) { Some(w.now - random.between(0, 60) * DAY_MS) } else { None };
        let occurred = occurred_at.unwrap_or(w.now);
        let activates_at = if random.chance(15) { Some(occurred + random.between(-1, 3) * DAY_MS) } else { None };
        let mut expires_at = if random.chance(30) { Some(occurred + random.between(9, 30) * DAY_MS) } else { None };
        if activates_at.is_some() {
            expires_at = expires_at.or(Some(occurred + 40 * DAY_MS));
        }
        let (points, amount) = match random.chance(50) {
            true => (Some(random.between(1, 30)), None),
            false => (None, Some(random.between(0, 4_000))),
        };
        let basis = points.map_or_else(|| Basis::Amount(amount.unwrap()), Basis::Points);
        let came = w.ask(earn(basis, occurred_at, expires_at, activates_at));
        let record = came.executed();
        let now = self.world.now;
        let id = record.position.sequence();
        let awarded = self.naive.earn(id, points, amount, occurred, expires_at, activates_at, now);
        assert_eq!(record.points, awarded);
        self.originals.push(record);
        self.world.check();
    }

    fn end_hold(&mut self) {
        let hold = self.random.pick(&self.holds).position;
        let now = self.world.now;
        if self.random.chance(50) {
            let points = if self.random.chance(50) { Some(self.random.between(1, 12)) } else { None };
            let came = self.world.ask(capture(hold, points));
            let expected = self.naive.capture(hold.sequence(), self.id(), points, now);
            self.compare(came, expected);
        } else {
            let open = self.naive.open_holds().contains(&hold.sequence());
            match self.world.ask(void(hold)) {
                Came::Executed(_) if open => self.naive.void(hold.sequence(), now),
                Came::Replayed(record) if !open => assert_eq!(record.kind, RecordKind::Void),
                Came::Refused(Refusal::HoldClosed) if !open => {}
                other => panic!("{other:?}"),
            }
            self.world.check();
        }
    }

    fn reverse(&mut self) {
        let original = self.random.pick(&self.originals).clone();
        let from_amount = matches!(original.detail, Detail::Earn { award: Some(_), .. });
        let (portion, part) = match self.random.below(3) {
            0 => (Portion::Rest, Part::Rest),
            1 if from_amount => {
                let amount = self.random.between(0, 3_000);
                (Portion::Amount(amount), Part::Amount(amount))
            }
            _ => {
                let points = self.random.between(1, 20);
                (Portion::Points(points), Part::Points(points))
            }
        };
        let came = self.world.ask(reverse(&original, portion));
        let expected = self.naive.reverse(original.position.sequence(), part, self.world.now);
        if let (Came::Executed(record), Ok((points, shortfall))) = (&came, &expected) {
            let Detail::Reversal { shortfall_points, .. } = record.detail else { panic!("{record:?}") };
            assert_eq!((record.points, shortfall_points), (*points, *shortfall), "{portion:?} of {original:?}");
        }
        self.compare(came, expected.map(|_| ()));
    }

    fn compare(&mut self, came: Came, expected: Result<(), Refused>) {
        match (came, expected) {
            (Came::Executed(record), Ok(())) => match record.kind {
                RecordKind::Redeem => self.originals.push(record),
                RecordKind::Hold => self.holds.push(record),
                _ => {}
            },
            (Came::Refused(refusal), Err(expected)) if same_refusal(&refusal, &expected) => {}
            (came, expected) => panic!("{came:?} where {expected:?} was expected"),
        }
        self.world.check();
    }

    fn check(&mut self) {
        let now = self.world.now;
        self.naive.settle(now);
        for r in &self.world.last {
            println!("{} {} {:?} {:?}", r.kind.name(), r.points, r.moves, r.detail);
        }
        let balances = self.world.balance(Command::Balance).balances;
        assert_eq!(self.world.lots(), self.naive.lots());
        assert_eq!((balances.pending, balances.debt), (self.naive.pending(), self.naive.debt));
        assert_eq!(balances.available(), self.naive.available());
        assert_eq!(self.world.tier_name(), ["A", "B", "C"][self.naive.level(now)]);
        // The account may be due for its tier before the model, which knows no such instant.
        let (due, naive_due) = (self.world.account.next_due(), self.naive.next_due());
        assert!(naive_due.is_none_or(|naive| due.is_some_and(|due| due <= naive)));
        let journaled = self.world.journal.iter().rev().find_map(|r| match &r.detail {
            Detail::Tier { to, .. } => Some(to.to_string()),
            _ => None,
        });
        assert_eq!(journaled.unwrap_or_else(|| "A".to_owned()), self.world.tier_name(), "TIER records are complete");
    }
}

fn run(seed: u64, steps: usize) -> usize {
    println!("seed {seed}");
    let mut random = Random(seed);
    let (members, rules) = rules(&mut random);
    let mut world = World::new(&members);
    world.ask(Command::Open).executed();
    let mut history = History { world, naive: Naive::new(rules), random, originals: Vec::new(), holds: Vec::new() };
    for _ in 0..steps {
        history.step();
        history.check();
        if history.random.chance(20) {
            history.world.checkpoint();
        }
    }
    history.world.loads
}

#[test]
fn histories_agree_with_the_model() {
    let loads: usize = (0..300).map(|seed| run(seed, 60)).sum();
    println!("{loads} loads");
}

/// Long histories overflow every list of the state, so that facts spill, are loaded and come back.
#[test]
fn long_histories_spill_and_load() {
    let loads: usize = (1_000..1_012).map(|seed| run(seed, 900)).sum();
    assert!(loads > 100, "only {loads} loads");
}

/// Retries under the same keys, at any later time, change nothing and lead to the same record.
#[test]
fn retries_are_recognized_whatever_happened_since() {
    for seed in 2_000..2_040 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut world = World::new(r#"{"expiry":{"days":5},"late_days_max":null}"#);
        let mut done: Vec<(Command, Keys, Result<u64, Refusal>)> = Vec::new();
        for number in 1..60u128 {
            world.now += random.between(0, DAY_MS);
            let command = match random.below(3) {
                0 if number > 1 => redeem(random.between(1, 30)),
                _ => earn_points(random.between(1, 20)),
            };
            let keys = match random.below(3) {
                0 => Keys { idempotency: Some(number), business: None },
                1 => Keys { idempotency: None, business: Some(number) },
                _ => Keys { idempotency: Some(number), business: Some(number) },
            };
            let outcome = match world.ask_with(command.clone(), keys) {
                Came::Executed(record) => Ok(record.position.sequence()),
                Came::Refused(refusal) => Err(refusal),
                other => panic!("{other:?}"),
            };
            done.push((command, keys, outcome));
            if random.chance(30) {
                world.checkpoint();
            }
            let (command, keys, outcome) = random.pick(&done).clone();
            let balances = world.balance(Command::Balance).balances;
            // Another key that was never seen before joins those of the operation.
            let joined = Keys { idempotency: keys.idempotency.or(Some(1_000 + number)), ..keys };
            match (world.ask_with(command, joined), outcome) {
                (Came::Replayed(record), Ok(position)) => assert_eq!(record.position.sequence(), position),
                // Without an Idempotency-Key a refusal is not remembered: it is decided anew.
                (_, Err(_)) if keys.idempotency.is_none() => continue,
                (Came::Replayed(record), Err(_)) => assert_eq!(record.kind, RecordKind::Refusal),
                other => panic!("{other:?}"),
            }
            assert_eq!(world.account.balances(), balances);
            world.check();
        }
    }
}
