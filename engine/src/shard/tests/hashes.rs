//! Accounts whose hashes are equal.

use super::checkpoints::check_store;
use super::*;

#[test]
fn accounts_whose_hashes_are_equal_are_told_apart() {
    let mut b = Bench::new(limits());
    b.shard.table.let_all_collide();
    let accounts: Vec<String> = (0..4).map(|n| format!("m-{n}")).collect();
    for round in 1..=3 {
        for (points, id) in (round..).zip(&accounts) {
            b.earned(id, points);
        }
        // Two of them are with the store, each in a checkpoint of its own, when the others come.
        b.input(Input::CheckpointAll);
        b.earned("m-1", 100);
        b.checkpoint_all();
        assert!(b.shard.table.iter().all(|(_, resident)| match resident {
            Resident::Live(live) => live.writes_under_way == 0 && live.dirty_since == 0,
            Resident::Packed(_) | Resident::Loading(_) => false,
        }));
        check_store(&mut b, &accounts);
    }
    let mut b = b.restart(limits());
    assert_eq!(b.shard.lag_records(), 0);
    assert_eq!(["m-0", "m-1", "m-2", "m-3"].map(|id| b.total(id)), [6, 309, 12, 15]);
}
