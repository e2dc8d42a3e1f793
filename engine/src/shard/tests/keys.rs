use meed_schemas::time::DAY_MS;

use super::*;
use crate::account::OPERATIONS_RESIDENT;
use crate::keeper::Tasks;

/// The last millisecond of a week, in which a key is dropped soonest.
const END_OF_WEEK: Millis = START - START % (7 * DAY_MS) + 7 * DAY_MS - 1;

/// What the store's thread forgets at this time.
fn forget(bench: &mut Bench) {
    let mut tasks = Tasks::default();
    tasks.sync(bench.world.now, bench.world.settle_until);
    assert!(tasks.round(true).carry_out(&mut bench.store, &mut |_| {}).unwrap());
}

/// The days stand in the HTTP contract: they are compared with its figures, not with the constants.
#[test]
fn a_spilled_key_is_found_for_as_long_as_the_contract_says() {
    for (days, business) in [(31, false), (90, true)] {
        let keys = |key: u128| match business {
            true => Keys { idempotency: None, business: Some(key) },
            false => Keys { idempotency: Some(key), business: None },
        };
        let mut bench = Bench::new(limits());
        bench.world.now = END_OF_WEEK;
        let Reply::Executed { record: first, replayed: false } = bench.ask_with("m-1", earn(5), keys(0)) else {
            panic!("not executed");
        };
        for key in 1..=OPERATIONS_RESIDENT as u128 {
            bench.ask_with("m-1", earn(1), keys(key));
        }
        bench.evict();
        bench.world.now = END_OF_WEEK + days * DAY_MS - 1;
        forget(&mut bench);
        let Reply::Executed { record, replayed: true } = bench.ask_with("m-1", earn(5), keys(0)) else {
            panic!("executed again a moment before {days} days");
        };
        assert_eq!(record, first);
        // Weeks go whole: none is kept for another one.
        bench.evict();
        bench.world.now = END_OF_WEEK + (days + 7) * DAY_MS;
        forget(&mut bench);
        let again = bench.ask_with("m-1", earn(5), keys(0));
        assert!(
            matches!(again, Reply::Executed { replayed: false, .. }),
            "kept for longer than a week more: {again:?}"
        );
    }
}
