//! How fast a checkpoint is written.

use super::*;

/// Accounts that are changed for the first time.
fn change(b: &mut Bench, accounts: std::ops::Range<u32>) {
    earn_on(b, accounts);
    b.journal_all();
}

#[test]
fn a_checkpoint_is_spread_over_half_its_interval_unless_too_much_is_dirty_or_memory_is_short() {
    let taken = |tighter: fn(&mut ShardLimits)| {
        let mut b = Bench::new(limits());
        change(&mut b, 0..1_000);
        tighter(&mut b.shard.limits);
        [(); 7].map(|()| {
            b.tick(100);
            b.settle_down();
            1_000 - b.shard.dirty.len()
        })
    };
    // It begins in its own part of the interval.
    assert_eq!(taken(|_| {}), [0, 128, 256, 512, 640, 896, 1_000]);
    assert_eq!(taken(|limits| limits.checkpoint_records = 999), [1_000; 7]);
    assert_eq!(taken(|limits| limits.resident_bytes = 1), [1_000; 7]);
}

#[test]
fn what_is_to_be_written_soon_is_not_spread_though_the_next_checkpoint_begins_meanwhile() {
    let mut b = Bench::new(limits());
    change(&mut b, 0..2_000);
    b.input(Input::CheckpointAll);
    assert_eq!((b.checkpoints.len(), b.shard.dirty.len()), (2, 2_000 - 2 * ROWS_PER_BATCH));
    change(&mut b, 2_000..3_000);
    b.tick(1_000);
    b.settle_down();
    assert_eq!(b.shard.dirty.len(), 1_000 - 128, "the rest at once, and the first of what came later");
    b.tick(100);
    b.settle_down();
    assert_eq!(b.shard.dirty.len(), 1_000 - 512, "of 1,976 a fifth of the time later");
    b.input(Input::CheckpointAll);
    b.settle_down();
    assert!(b.shard.is_checkpointed());
}
