//! What leaves memory, and what waits to come in.

use super::*;

#[test]
fn idle_accounts_are_packed_and_memory_is_bounded() {
    let mut b = Bench::new(limits());
    for n in 0..2_000 {
        b.send(&format!("m-{n}"), earn(n));
    }
    b.settle_down();
    let live = b.shard.report().resident_bytes;
    b.pack();
    let packed = b.shard.report();
    assert_eq!(packed.resident, 2_000);
    assert!(b.shard.table.iter().all(|(_, r)| matches!(r, Resident::Packed(_))));
    assert!(packed.resident_bytes < live, "{} is not less than {live}", packed.resident_bytes);
    assert!(packed.resident_bytes / 2_000 <= 300, "{} bytes an account", packed.resident_bytes / 2_000);
    let bound = packed.resident_bytes as usize / 4;
    b.shard.limits.resident_bytes = bound;
    for _ in 0..4 {
        b.tick(50);
        b.settle_down();
    }
    let report = b.shard.report();
    assert!(report.resident_bytes as usize <= bound, "{} of {bound}", report.resident_bytes);
    assert_eq!(report.resident + report.passivated, 2_000);
    assert!(report.resident > 0, "no more than needed leaves");
    for n in [0, 1, 999, 1_999] {
        assert_eq!(b.total(&format!("m-{n}")), n);
    }
}

#[test]
fn idle_accounts_are_packed_over_the_idle_time_and_not_by_one_tick() {
    let mut b = Bench::new(limits());
    for n in 0..1_000 {
        b.send(&format!("m-{n}"), earn(n));
    }
    b.checkpoint_all();
    let packed =
        |b: &Bench| b.shard.table.iter().filter(|(_, resident)| matches!(resident, Resident::Packed(_))).count();
    let (mut before, mut most) = (packed(&b), 0);
    for _ in 0..2 * 5_000 / 50 {
        b.tick(50);
        most = most.max(packed(&b) - before);
        before = packed(&b);
    }
    assert_eq!(before, 1_000);
    // Twenty ticks in a second, five seconds.
    assert!(most <= 10, "{most} in one tick");
}

#[test]
fn what_is_counted_is_what_is_there() {
    let mut b = Bench::new(limits());
    for round in 0..30 {
        for n in 0..50 {
            // Lots, keys and spilled keys make them grow while they live.
            let expires = START + 1_000_000_000 + i64::from(round) * 86_400_000;
            b.ask_keyed(&format!("m-{n}"), earn_until(10, Some(expires)), Some(u128::from(1_000 * n + round as u32)));
        }
    }
    let counted = |b: &Bench| b.shard.report().resident_bytes as usize;
    let there = |b: &Bench| -> usize {
        let heap = |r: &Resident| match r {
            Resident::Live(live) => live.account.heap_bytes() + size_of::<Live>(),
            Resident::Packed(blob) => blob.len(),
            Resident::Loading(_) => 0,
        };
        let fixed = Table::ENTRY_BYTES + size_of::<u64>();
        b.shard.table.iter().map(|(identity, r)| fixed + identity.heap_bytes() + heap(r)).sum()
    };
    b.checkpoint_all();
    b.tick(5_000);
    assert_eq!(counted(&b), there(&b), "live");
    b.settle_down();
    b.pack();
    assert_eq!(counted(&b), there(&b), "packed");
    for n in 0..10 {
        b.earned(&format!("m-{n}"), 1);
    }
    b.pack();
    assert_eq!(counted(&b), there(&b), "packed again");
    b.evict();
    assert_eq!(counted(&b), 0);
    assert!(b.shard.hand.is_empty());
}

/// What `accounts` of one lot take that have changed.
fn bytes_of(accounts: usize) -> usize {
    let mut b = Bench::new(limits());
    (0..100).for_each(|n| drop(b.earned(&format!("m-{n}"), 1)));
    b.shard.report().resident_bytes as usize / 100 * accounts
}

/// Accounts that the store has, and none in memory, which has room for `room`.
fn cold(accounts: u32, room: usize, limits: ShardLimits) -> Bench {
    let mut b = Bench::new(limits);
    earn_on(&mut b, 0..accounts);
    b.settle_down();
    b.evict();
    b.shard.limits.resident_bytes = bytes_of(room);
    b
}

/// Journal and readers do all that there is to do; the store answers questions and writes no checkpoint.
fn without_checkpoints(b: &mut Bench) {
    b.journal_all();
    while let Some(job) = b.jobs.pop_front() {
        b.answer_job(job);
    }
    b.journal_all();
}

#[test]
fn cold_and_new_accounts_wait_while_what_has_changed_fills_memory() {
    const ROOM: usize = 200;
    let mut b = cold(1_000, ROOM, limits());
    let bound = b.shard.limits.resident_bytes;
    let slots = earn_on(&mut b, 500..1_500);
    // One may be begun with the last byte that is free.
    assert!(b.jobs.len() <= ROOM + 1 + UNBOUNDED_LOADS, "{} are asked for at once", b.jobs.len());
    let mut most = 0;
    for round in 0.. {
        assert!(round < 1_000, "{} still wait", b.shard.held_loads());
        without_checkpoints(&mut b);
        most = most.max(b.shard.report().resident_bytes as usize);
        if b.shard.is_quiet() {
            break;
        }
        b.write_checkpoint();
        b.tick(50);
    }
    let beyond = bytes_of(3 * UNBOUNDED_LOADS);
    assert!(most <= bound + beyond, "{most} of {bound} and what may come in three ticks");
    slots.into_iter().for_each(|slot| drop(b.executed(slot)));
    assert_eq!([0, 500, 999, 1_000, 1_499].map(|n| b.total(&format!("m-{n}"))), [1, 2, 2, 1, 1]);
}

#[test]
fn what_is_always_in_use_does_not_keep_others_out() {
    let mut b = cold(300, 20, limits());
    let hot = |b: &mut Bench| earn_on(b, 0..40);
    hot(&mut b);
    for _ in 0..4 {
        without_checkpoints(&mut b);
        b.tick(50);
    }
    let others = earn_on(&mut b, 100..200);
    // The first come at once.
    for waves in 2..=4 {
        hot(&mut b);
        b.tick(50);
        without_checkpoints(&mut b);
        let answered = others.iter().filter(|slot| b.answered(**slot)).count();
        assert_eq!(answered, waves * UNBOUNDED_LOADS);
    }
}

#[test]
fn accounts_that_have_changed_stay_until_the_store_has_them_and_a_checkpoint_begins_when_they_take_half() {
    let mut b = cold(300, 100, ShardLimits { checkpoint_interval_ms: 1_000_000, ..limits() });
    let change = |b: &mut Bench, accounts: std::ops::Range<u32>| {
        earn_on(b, accounts);
        without_checkpoints(b);
        b.tick(50);
        b.journal_all();
    };
    change(&mut b, 0..40);
    assert!(b.checkpoints.is_empty(), "there is room for as many again");
    change(&mut b, 40..60);
    assert_eq!((b.checkpoints.len(), b.shard.dirty.len()), (1, 0));
    for _ in 0..10 {
        change(&mut b, 60..90);
    }
    assert_eq!(b.shard.report().resident, 90, "the store has none of them yet");
    b.settle_down();
    b.evict();
}

#[test]
fn a_shard_that_is_to_go_lets_in_what_waits() {
    let mut b = cold(300, 20, limits());
    let slots = earn_on(&mut b, 0..200);
    assert!(b.shard.held_loads() > 100);
    // It gets no ticks.
    b.input(Input::CheckpointAll);
    assert_eq!(b.shard.held_loads(), 0);
    without_checkpoints(&mut b);
    assert!(slots.into_iter().all(|slot| b.answered(slot)));
    b.checkpoint_all();
    assert!(b.shard.is_quiet());
}

#[test]
fn a_due_account_that_waits_for_room_is_not_asked_for_again_by_every_sweep() {
    let mut b = cold(300, 20, limits());
    earn_on(&mut b, 0..100);
    let due = member("m-200");
    for _ in 0..3 {
        b.input(Input::Due(vec![(START, due.clone())]));
    }
    let hash = b.shard.table.hash(&due);
    match b.shard.table.get_mut(hash, &due) {
        Some(Resident::Loading(queue)) => assert_eq!(queue.len(), 1),
        other => panic!("it does not wait: {other:?}"),
    }
}
