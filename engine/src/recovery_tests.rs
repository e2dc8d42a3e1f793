#![allow(clippy::unwrap_used)]
use meed_schemas::codec;
use meed_schemas::record::{LotKey, Move, MoveOp};

use super::*;
use crate::journal::MemoryRecords;
use crate::shard::encode_state;
use crate::store::{AccountWrite, ShardCheckpoint, ShardState};
use crate::test_record;

const LAST: u64 = 6;
/// When its points expire.
const DUE: Millis = 90_000;

fn identity() -> Identity {
    Identity::member("p", "m-1")
}

fn record(sequence: u64) -> Record {
    let mut record = test_record::earn(Position::new(0, sequence), identity());
    record.moves.push(Move { op: MoveOp::Grant, lot: LotKey::live(DUE), points: 1 });
    record
}

/// The state of the only account after its first records.
fn account(up_to: u64) -> Account {
    let mut account = Account::blank();
    (1..=up_to).for_each(|sequence| account.apply(&record(sequence)));
    account
}

/// A store whose checkpoint says this, and whose account has these records.
fn store(replay_start: u64, totals_sequence: u64, applied: u64) -> Store {
    let mut totals = Totals::default();
    (1..=totals_sequence).for_each(|sequence| totals.add(&record(sequence)));
    let totals = encode_state(record(totals_sequence).recorded_at, &totals);
    let state = ShardState { replay_start, totals, totals_sequence, accounts: 1 };
    let mut blob = Vec::new();
    account(applied).encode(&mut blob);
    let write = AccountWrite { identity: identity(), blob, due_before: None, due: None, facts: Vec::new() };
    let mut store = Store::in_memory();
    store.checkpoint(&ShardCheckpoint { shard: 0, accounts: vec![write], keys: Vec::new(), state }).unwrap();
    store
}

/// The records that are kept: those after `removed`, without one of them.
fn records(removed: u64, without: u64) -> Records {
    let mut records = MemoryRecords::new(1);
    records.set_extent(0, removed, LAST);
    for sequence in (removed + 1..=LAST).filter(|sequence| *sequence != without) {
        let mut payload = Vec::new();
        codec::encode(&record(sequence), &mut payload);
        records.put(Position::new(0, sequence), payload.into());
    }
    Records::Memory(records)
}

fn recovered(store: &Store, records: &Records) -> Result<ShardStart> {
    recover_shard(store, records, 0, LAST, 7).map(|(recovery, _)| recovery.start)
}

#[test]
fn what_is_removed_was_checkpointed_whatever_a_later_checkpoint_says() {
    // An owner that had slept brought the account to record 4 and removed what was before; the next one did not know.
    let start = recovered(&store(2, 5, 5), &records(4, 0)).unwrap();
    let mut all = Totals::default();
    (1..=LAST).for_each(|sequence| all.add(&record(sequence)));
    assert_eq!(encode_state(0, &start.totals), encode_state(0, &all));
    assert_eq!(start.replayed[0].1.account.applied(), LAST);
    // A store of long ago lacks them.
    let refused = recovered(&store(2, 3, 3), &records(4, 0)).unwrap_err();
    assert!(refused.to_string().contains("lacks the records"), "{refused}");
}

#[test]
fn records_that_go_while_they_are_replayed_are_noticed() {
    let removed = records(4, 0);
    let mut replay = Replay::begin(&store(3, 3, 3), 0, LAST).unwrap();
    replay.check_begin(1).unwrap();
    let mut count = 0;
    let take = &mut |position, payload: &[u8]| {
        count += 1;
        replay.take(journal::decode(position, payload)?, payload);
        Ok(())
    };
    removed.scan(&[2], &|_| true, take).unwrap();
    assert_eq!(count, 2, "a scan passes over what is removed");
    let noticed = replay.finish(&store(3, 3, 3), LAST).unwrap_err();
    assert!(noticed.to_string().contains("went while they were replayed"), "{noticed}");
    assert!(recovered(&store(3, 3, 3), &records(0, 4)).is_err(), "and a gap is one");
}

#[test]
fn the_next_checkpoint_of_a_replayed_account_writes_its_due_row_whatever_the_store_has() {
    let start = recovered(&store(3, 3, 3), &records(0, 0)).unwrap();
    let live = &start.replayed[0].1;
    assert_eq!((live.account.next_due(), live.due_in_store), (Some(DUE), None));
}
