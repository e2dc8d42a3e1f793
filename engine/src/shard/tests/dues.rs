//! What falls due is settled without being asked for.

use super::*;

const HOUR: Millis = 3_600_000;

/// Ticks of 50 ms until the time has passed.
fn wait(b: &mut Bench, ms: i64) {
    for _ in 0..ms / 50 {
        b.tick(50);
        b.settle_down();
    }
}

fn expired(b: &Bench) -> usize {
    b.journal.values().filter(|r| r.kind == meed_schemas::record::RecordKind::Expire).count()
}

#[test]
fn what_is_near_is_settled_by_a_tick() {
    let mut b = Bench::new(limits());
    b.ask("m-1", earn_until(10, Some(START + 1_000)));
    b.ask("m-2", earn(10));
    wait(&mut b, 950);
    assert_eq!(expired(&b), 0);
    wait(&mut b, 50);
    assert_eq!(expired(&b), 1);
    let record = b.journal.values().last().unwrap();
    assert_eq!((record.occurred_at, record.points), (START + 1_000, -10));
    wait(&mut b, 5_000);
    assert_eq!(expired(&b), 1);
}

#[test]
fn what_is_far_is_found_in_the_store_also_after_its_account_has_left_memory() {
    let mut b = Bench::new(limits());
    for n in 0..200 {
        b.ask(&format!("m-{n}"), earn_until(10, Some(START + HOUR + n)));
    }
    b.evict();
    b.world.now = START + HOUR - 1_000;
    wait(&mut b, 900);
    assert_eq!(expired(&b), 0);
    wait(&mut b, 3_000);
    assert_eq!(expired(&b), 200);
    b.checkpoint_all();
    assert_eq!(b.total("m-7"), 0);
    // The index is empty: nothing is settled again.
    wait(&mut b, 5_000);
    assert_eq!(expired(&b), 200);
}

#[test]
fn what_replay_brought_back_is_settled_after_the_restart() {
    let mut b = Bench::new(limits());
    b.ask("m-1", earn_until(10, Some(START + 2_000)));
    let mut b = b.restart(limits());
    wait(&mut b, 4_000);
    assert_eq!(expired(&b), 1);
}

#[test]
fn a_tick_settles_a_bounded_number() {
    for (settled_per_tick, ticks) in [(64, 60), (3, 400)] {
        let mut b = Bench::new(ShardLimits { settled_per_tick, ..limits() });
        for n in 0..1_000 {
            b.send(&format!("m-{n}"), earn_until(10, Some(START + 500)));
        }
        b.settle_down();
        let (mut before, mut most) = (0, 0);
        for _ in 0..ticks {
            b.tick(50);
            b.settle_down();
            most = most.max(expired(&b) - before);
            before = expired(&b);
        }
        assert_eq!(before, 1_000);
        assert!(most <= 2 * settled_per_tick, "{most} in one tick");
    }
}

#[test]
fn nothing_is_settled_beyond_the_bound_until_it_is_lifted() {
    let mut b = Bench::new(limits());
    b.world.settle_until = START + 500;
    b.ask("m-1", earn_until(1, Some(START + 400)));
    b.ask("m-2", earn_until(2, Some(START + 600)));
    b.ask("m-3", earn_until(4, Some(START + HOUR)));
    b.evict();
    b.world.now = START + 2 * HOUR;
    wait(&mut b, 3_000);
    assert_eq!(expired(&b), 1);
    assert_eq!((b.total("m-2"), b.total("m-3")), (2, 4), "nor by a read");
    b.world.settle_until = Millis::MAX;
    wait(&mut b, 3_000);
    assert_eq!(expired(&b), 3);
}

#[test]
fn an_account_that_is_used_much_waits_in_the_queue_once() {
    let mut b = Bench::new(ShardLimits { pack_after_ms: 1_000_000, ..limits() });
    b.earned("m-1", 1_000_000);
    let hold = || Command::Hold { points: 1, ttl_seconds: Some(60), references: None };
    for _ in 0..500 {
        let slot = b.send("m-1", hold());
        b.settle_down();
        let hold = b.executed(slot).position;
        let slot = b.send("m-1", Command::Void { hold, references: None });
        b.settle_down();
        b.executed(slot);
        b.earned("m-1", 1);
        b.world.now += 1;
    }
    assert!(b.shard.near_due.len() <= 1, "{} entries", b.shard.near_due.len());
    // The entry is of the first hold, which is long void; a later one is still released in time.
    let slot = b.send("m-1", hold());
    b.settle_down();
    let last = b.executed(slot);
    wait(&mut b, 60_000);
    let end = b.journal.values().last().unwrap();
    assert_eq!(end.kind, meed_schemas::record::RecordKind::Void);
    assert_eq!(end.occurred_at, last.recorded_at + 60_000);
    assert!(end.recorded_at <= end.occurred_at + 100, "it came {} ms late", end.recorded_at - end.occurred_at);
}
