//! What a worker's pipeline holds back, and for how long.
#![allow(clippy::unwrap_used)]

use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Balances, Detail, Record, RecordKind};

use super::*;
use crate::journal::frame::verified;
use crate::test_record::earn;

fn record(shard: u16, sequence: u64) -> Record {
    Record {
        kind: RecordKind::Open,
        recorded_at: 1,
        occurred_at: 1,
        points: 0,
        balances: Balances::default(),
        detail: Detail::None,
        ..earn(Position::new(shard, sequence), Identity::member("p", "m-1"))
    }
}

fn append(lane: &mut Lane<&'static str>, shard: u16, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        lane.append(&record(shard, sequence)).unwrap();
    }
}

fn released(lane: &mut Lane<&'static str>) -> Vec<&'static str> {
    std::iter::from_fn(|| lane.release()).collect()
}

#[test]
fn nothing_leaves_before_the_batch_that_it_saw_is_complete() {
    let mut lane = Lane::new(vec![7, 0], usize::MAX);
    assert_eq!(lane.hold(0, 7, "old"), Some("old"), "what was durable before is given back at once");
    append(&mut lane, 0, 8..=9);
    assert_eq!(lane.hold(0, 8, "first"), None);
    assert_eq!(lane.hold(0, 9, "second"), None);
    assert_eq!(lane.hold(0, 7, "older"), Some("older"));
    assert_eq!(released(&mut lane), [""; 0]);
    let (number, buffer) = lane.submit().unwrap();
    assert_eq!((number, buffer.records(), lane.filling_bytes()), (1, 2, 0));
    assert_eq!(released(&mut lane), [""; 0], "handed over is not durable");
    assert!(!lane.is_durable(0, 8));
    lane.complete(number, buffer);
    assert_eq!(released(&mut lane), ["first", "second"]);
    assert_eq!((lane.durable_sequence(0), lane.durable_sequence(1)), (9, 0));
    assert_eq!((lane.held(), lane.batches_under_way()), (0, 0));
    assert!(lane.submit().is_none(), "an empty batch is none");
}

#[test]
fn several_batches_under_way_release_in_their_order() {
    let mut lane = Lane::new(vec![0, 0], usize::MAX);
    append(&mut lane, 0, 1..=1);
    lane.hold(0, 1, "a1");
    let first = lane.submit().unwrap();
    append(&mut lane, 1, 1..=2);
    lane.hold(1, 2, "b2");
    // A read of what the first batch has, while the second fills: it waits for the first alone.
    assert_eq!(lane.hold(0, 1, "read a1"), None);
    let second = lane.submit().unwrap();
    append(&mut lane, 0, 2..=2);
    lane.hold(0, 2, "a2");
    lane.hold(1, 1, "read b1");
    lane.hold(0, 1, "read a1 again");
    assert_eq!(lane.batches_under_way(), 2);
    lane.complete(first.0, first.1);
    assert_eq!(released(&mut lane), ["a1", "read a1", "read a1 again"]);
    lane.complete(second.0, second.1);
    assert_eq!(released(&mut lane), ["b2", "read b1"]);
    let third = lane.submit().unwrap();
    assert_eq!(third.0, 3);
    lane.complete(third.0, third.1);
    assert_eq!(released(&mut lane), ["a2"]);
    assert_eq!((lane.durable_sequence(0), lane.durable_sequence(1)), (2, 2));
}

#[test]
fn a_completion_covers_the_batches_before_it() {
    let mut lane = Lane::new(vec![0, 0], usize::MAX);
    append(&mut lane, 0, 1..=3);
    lane.hold(0, 3, "a");
    let _written_with_the_next = lane.submit().unwrap();
    append(&mut lane, 1, 1..=1);
    lane.hold(1, 1, "b");
    let second = lane.submit().unwrap();
    lane.complete(second.0, second.1);
    assert_eq!(released(&mut lane), ["a", "b"]);
    assert_eq!((lane.durable_sequence(0), lane.durable_sequence(1)), (3, 1));
}

#[test]
fn a_buffer_has_its_records_in_order_and_a_run_per_shard() {
    let mut lane = Lane::<()>::new(vec![0, 4, 0], usize::MAX);
    for position in [(1, 5), (0, 1), (1, 6), (0, 2), (1, 7)] {
        lane.append(&record(position.0, position.1)).unwrap();
    }
    for _ in 0..2 {
        let (number, buffer) = lane.submit().unwrap();
        let part = buffer.part();
        let runs: Vec<_> = part.runs.iter().map(|r| (r.shard, r.first_sequence, r.count)).collect();
        let positions: Vec<_> = verified(part.bytes).map(|f| f.unwrap().position()).collect();
        if number == 1 {
            assert_eq!(runs, [(1, 5, 3), (0, 1, 2)]);
            let expected = [(1, 5), (0, 1), (1, 6), (0, 2), (1, 7)].map(|(s, n)| Position::new(s, n));
            assert_eq!(positions, expected);
        } else {
            // A buffer that is used again has nothing of before.
            assert_eq!((runs, positions), (vec![(0, 3, 1)], vec![Position::new(0, 3)]));
        }
        lane.complete(number, buffer);
        if number == 1 {
            lane.append(&record(0, 3)).unwrap();
        }
    }
}

#[test]
fn a_record_that_is_too_long_is_a_fault_and_leaves_the_batch_whole() {
    let mut lane = Lane::<()>::new(vec![0], usize::MAX);
    lane.append(&record(0, 1)).unwrap();
    let before = lane.filling_bytes();
    let mut long = record(0, 2);
    let text = "x".repeat(crate::journal::frame::RECORD_BYTES_MAX + 1);
    long.references =
        Some(Box::new(meed_schemas::command::References { metadata: Some(text.into()), ..Default::default() }));
    assert!(lane.append(&long).is_err());
    assert_eq!(lane.filling_bytes(), before);
    let (_, buffer) = lane.submit().unwrap();
    assert_eq!((buffer.records(), buffer.part().runs[0].count), (1, 1));
}

#[test]
fn a_full_batch_ends_with_a_decision_and_batches_leave_in_order() {
    let mut lane = Lane::of_shard(5, 3, 1);
    append(&mut lane, 5, 4..=6);
    assert!(lane.has_batch());
    lane.end_decision();
    assert_eq!(lane.filling_bytes(), 0, "the decision filled the batch");
    assert_eq!(lane.hold(5, 6, "first"), None);
    append(&mut lane, 5, 7..=7);
    lane.end_decision();
    append(&mut lane, 5, 8..=8);
    assert_eq!(lane.hold(5, 8, "third"), None);
    assert_eq!(lane.hold(5, 7, "second"), None);
    assert_eq!(lane.batches_under_way(), 0);
    for (expected, records) in [("first", 3), ("second", 1), ("third", 1)] {
        let (number, buffer) = lane.submit().unwrap();
        assert_eq!((buffer.records(), lane.batches_under_way()), (records, 1));
        assert_eq!(released(&mut lane), [""; 0]);
        lane.complete(number, buffer);
        assert_eq!(released(&mut lane), [expected]);
    }
    assert!(lane.submit().is_none() && !lane.has_batch());
    assert!(lane.is_durable(5, 8) && !lane.is_durable(5, 9));
}
