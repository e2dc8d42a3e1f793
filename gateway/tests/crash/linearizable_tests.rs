//! The checker against histories that are known to be possible or not.

use std::time::Instant;

use crate::linearizable::{Account, Action, Operation, Seen, View, check};
use crate::load::Random;

const START: Account = Account { total: 100, sequence: 1 };

fn operation(asked: u64, answered: u64, action: Action, seen: Seen) -> Operation {
    Operation { asked, answered, action, seen }
}

fn total(total: i64) -> Seen {
    Seen::Account(View { total, sequence: None })
}

#[test]
fn overlapping_operations_may_go_in_either_order() {
    let earns = [operation(0, 10, Action::Earn(5), total(112)), operation(1, 9, Action::Earn(7), total(107))];
    assert_eq!(check(START, &earns), Ok(()));
    // One after the other they may not.
    let earns = [operation(0, 10, Action::Earn(5), total(112)), operation(11, 19, Action::Earn(7), total(107))];
    assert!(check(START, &earns).is_err());
}

#[test]
fn a_stale_read_is_found() {
    let earn = operation(0, 10, Action::Earn(5), total(105));
    assert_eq!(check(START, &[earn, operation(5, 12, Action::Read, total(100))]), Ok(()));
    let error = check(START, &[earn, operation(11, 12, Action::Read, total(100))]).unwrap_err();
    assert!(error.contains("no place for Operation { asked: 11"), "{error}");
    // Two reads that overlap with the earn, but not with each other, see it in this order only.
    let reads =
        |first, second| [operation(1, 2, Action::Read, total(first)), operation(3, 4, Action::Read, total(second))];
    let with = |reads: [Operation; 2]| check(START, &[earn, reads[0], reads[1]]);
    assert!(with(reads(100, 105)).is_ok() && with(reads(105, 105)).is_ok() && with(reads(105, 100)).is_err());
}

#[test]
fn a_lost_update_is_found() {
    let both = [operation(0, 10, Action::Earn(5), total(105)), operation(1, 9, Action::Earn(7), total(107))];
    assert!(check(START, &both).is_err());
    let redeems = [operation(0, 9, Action::Redeem(80), total(20)), operation(1, 9, Action::Redeem(80), total(20))];
    assert!(check(START, &redeems).is_err());
    let redeems = [redeems[0], operation(1, 9, Action::Redeem(80), Seen::TooFew(20))];
    assert_eq!(check(START, &redeems), Ok(()));
    // A refusal for want of points that were there.
    assert!(check(START, &[operation(0, 1, Action::Redeem(80), Seen::TooFew(100))]).is_err());
}

#[test]
fn a_double_effect_is_found() {
    let earn = operation(0, 10, Action::Earn(5), total(105));
    assert!(check(START, &[earn, operation(11, 12, Action::Read, total(110))]).is_err());
    // By the sequence too, where the points do not tell.
    let earn = operation(0, 1, Action::Earn(0), Seen::Account(View { total: 100, sequence: Some(2) }));
    let read = |sequence| operation(2, 3, Action::Read, Seen::Account(View { total: 100, sequence: Some(sequence) }));
    assert!(check(START, &[earn, read(2)]).is_ok() && check(START, &[earn, read(3)]).is_err());
}

#[test]
fn an_unknown_outcome_may_be_any_but_only_one() {
    let earn = operation(5, 0, Action::Earn(5), Seen::Unknown);
    let read = |at, seen| operation(at, at + 1, Action::Read, total(seen));
    let reads = |reads: &[Operation]| check(START, &[&[earn], reads].concat());
    assert!(reads(&[read(6, 100), read(8, 100)]).is_ok());
    assert!(reads(&[read(6, 105), read(8, 105)]).is_ok());
    assert!(reads(&[read(6, 100), read(80, 105)]).is_ok());
    assert!(reads(&[read(6, 105), read(8, 100)]).is_err());
    assert!(reads(&[read(6, 105), read(8, 110)]).is_err());
    assert!(reads(&[read(0, 105)]).is_err(), "not before it was asked");
    let redeem = operation(0, 0, Action::Redeem(1_000), Seen::Unknown);
    assert!(check(START, &[redeem, read(3, 100)]).is_ok() && check(START, &[redeem, read(3, -900)]).is_err());
}

/// Operations of a client each, one after the other, on an account that does one at a time.
fn possible(random: &mut Random, clients: usize, count: usize, sequences: bool) -> Vec<Operation> {
    let mut account = START;
    let mut free = vec![0; clients];
    let mut operations = Vec::new();
    let mut now = 0;
    for _ in 0..count {
        now += 1 + random.below(5);
        let client = random.below(clients as u64) as usize;
        let asked = free[client] + random.below(now.saturating_sub(free[client]).max(1));
        if asked >= now {
            continue;
        }
        let points = random.below(40) as i64;
        let action = match random.below(3) {
            0 => Action::Earn(points),
            1 => Action::Redeem(points),
            _ => Action::Read,
        };
        let enough = !matches!(action, Action::Redeem(points) if points > account.total);
        match action {
            Action::Earn(points) => account.total += points,
            Action::Redeem(points) if enough => account.total -= points,
            _ => {}
        }
        account.sequence += u64::from(enough && action != Action::Read);
        let view = View { total: account.total, sequence: sequences.then_some(account.sequence) };
        let seen = match enough {
            _ if random.below(50) == 0 => Seen::Unknown,
            true => Seen::Account(view),
            false => Seen::TooFew(account.total),
        };
        free[client] = now + 1 + random.below(20);
        operations.push(operation(asked, free[client] - 1, action, seen));
    }
    operations
}

#[test]
fn what_happened_is_always_possible_and_a_wrong_balance_never() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut operations = possible(&mut random, 8, 400, seed % 2 == 0);
        assert_eq!(check(START, &operations), Ok(()), "seed {seed}");
        let at = random.below(operations.len() as u64) as usize;
        // No sum of the points that were moved comes near this.
        operations[at].seen = Seen::Account(View { total: 1_000_000, sequence: None });
        assert!(check(START, &operations).is_err(), "seed {seed}");
    }
}

/// Tries every order.
fn naive(account: (i64, u64), left: &[Operation]) -> bool {
    left.iter().all(|operation| operation.seen == Seen::Unknown)
        || (0..left.len()).any(|at| {
            let chosen = left[at];
            let too_early = left.iter().any(|other| other.seen != Seen::Unknown && other.answered < chosen.asked);
            let (mut total, mut sequence) = account;
            let enough = !matches!(chosen.action, Action::Redeem(points) if points > total);
            match chosen.action {
                Action::Earn(points) => (total, sequence) = (total + points, sequence + 1),
                Action::Redeem(points) if enough => (total, sequence) = (total - points, sequence + 1),
                _ => {}
            }
            let fits = match chosen.seen {
                Seen::Unknown => true,
                Seen::TooFew(available) => !enough && available == total,
                Seen::Account(view) => enough && view.total == total && view.sequence.is_none_or(|s| s == sequence),
            };
            let rest: Vec<_> = left.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, other)| *other).collect();
            !too_early && fits && naive((total, sequence), &rest)
        })
}

#[test]
fn it_judges_as_trying_every_order_does() {
    let mut verdicts = [0; 2];
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let mut operations = possible(&mut random, 4, 6, false);
        for operation in &mut operations {
            match &mut operation.seen {
                Seen::Account(view) if random.below(4) == 0 => view.total += random.below(41) as i64 - 20,
                _ => {}
            }
        }
        let expected = naive((START.total, START.sequence), &operations);
        assert_eq!(check(START, &operations).is_ok(), expected, "seed {seed}: {operations:?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 300), "{verdicts:?}");
}

#[test]
fn thousands_of_operations_are_judged_soon() {
    let begin = Instant::now();
    for seed in 0..20 {
        let operations = possible(&mut Random(seed), 12, 500, true);
        assert_eq!(check(START, &operations), Ok(()));
    }
    println!("20 accounts with 500 operations each in {:?}", begin.elapsed());
    assert!(begin.elapsed().as_secs() < 20);
}
