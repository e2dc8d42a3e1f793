//! A whole node inside this process: started over a folder, asked through its worker, stopped, started again.
#![allow(clippy::unwrap_used)]

mod harness;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use harness::{Running, config, earn, earn_until, old_folder, request, reverse, seconds_from_now};
use meed_engine::error::Error;
use meed_engine::permits::{NoPermit, PermitLimits};
use meed_engine::start::{WorkerMain, start};
use meed_engine::verify::verify;
use meed_schemas::command::{Command, References};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::time::{DAY_MS, Millis};

#[track_caller]
fn executed(reply: &Reply) -> &meed_schemas::record::Record {
    match reply {
        Reply::Executed { record, .. } => record,
        other => panic!("not executed: {other:?}"),
    }
}

#[test]
fn a_restart_in_order_keeps_everything_and_replays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let accounts: Vec<String> = (0..500).map(|n| format!("m-{n}")).collect();
    let requests = |points| -> Vec<_> {
        let key = |n: usize| (points as u128) << 64 | n as u128;
        accounts.iter().enumerate().map(|(n, id)| request(id, earn(points), Some(key(n)))).collect()
    };
    let mut answers = Vec::new();
    for (round, workers) in [1, 3, 2].into_iter().enumerate() {
        let node = Running::start(harness::Config { workers, ..config(folder.path()) });
        assert_eq!(node.recovered().replayed_records, 0);
        assert_eq!(node.recovered().journal.clean, round > 0 || node.recovered().journal.created);
        let points = 1 + round as i64;
        answers.push(node.ask_many(requests(points)));
        // Everything that was answered before, byte for byte, whichever worker has it now.
        for (before, points) in answers.iter().zip(1..) {
            for (reply, again) in before.iter().zip(node.ask_many(requests(points))) {
                assert_eq!(executed(reply), executed(&again));
            }
        }
        node.stop();
        let report = verify(folder.path(), None).unwrap();
        assert_eq!((report.accounts, report.records), (501, 501 + 500 * round as u64));
        // The blobs of all, the program's account among them.
        assert_eq!(report.blobs, 501);
    }
    let node = Running::start(config(folder.path()));
    for id in &accounts {
        let view = node.balance(id);
        assert_eq!((view.balances.total, view.sequence), (6, 3));
    }
    node.stop();
}

#[test]
fn more_at_once_than_a_segment_holds_goes_in_several_batches() {
    let folder = tempfile::tempdir().unwrap();
    let node = Running::start(harness::Config { workers: 3, ..config(folder.path()) });
    let segment_bytes = config(folder.path()).segment_bytes;
    let references = References {
        metadata: Some(format!("{{\"text\":\"{}\"}}", "x".repeat(4_000)).into()),
        ..References::default()
    };
    let requests: Vec<_> = (0..1_000)
        .map(|n| {
            let mut command = earn(1);
            if let Command::Earn { references: given, .. } = &mut command {
                *given = Some(Box::new(references.clone()));
            }
            request(&format!("m-{}", n % 50), command, Some(n))
        })
        .collect();
    let answers = node.ask_many(requests.clone());
    assert!(4_000 * answers.len() as u64 > 3 * segment_bytes);
    for (before, again) in answers.iter().zip(node.ask_many(requests)) {
        assert_eq!(executed(before), executed(&again));
    }
    node.stop();
    assert_eq!(verify(folder.path(), None).unwrap().records, 1_001);
}

#[test]
fn a_node_with_little_memory_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let small =
        || harness::Config { memory_bytes: 200_000, checkpoint_interval_ms: 20, workers: 2, ..config(folder.path()) };
    let node = Running::start(small());
    let key = |n: u128, round: u128| Some(n << 32 | round);
    for round in 0..12u32 {
        let earns = (0..3_000).map(|n| request(&format!("m-{n}"), earn(1), key(n, round.into()))).collect();
        assert!(node.ask_many(earns).iter().all(|reply| matches!(reply, Reply::Executed { replayed: false, .. })));
    }
    // They leave memory while nobody asks for them.
    node.wait_until("accounts leave memory", |node| {
        let reports = node.reports();
        reports.iter().map(|r| r.resident_bytes).sum::<u64>() <= 200_000
            && reports.iter().map(|r| r.resident + r.passivated).sum::<u64>() == 3_001
    });
    // The first keys have long left the blobs: they are found in the store.
    let retries = (0..3_000).map(|n| request(&format!("m-{n}"), earn(1), key(n, 0))).collect();
    assert!(node.ask_many(retries).iter().all(|reply| matches!(reply, Reply::Executed { replayed: true, .. })));
    let others = (0..100).map(|n| request(&format!("m-{n}"), earn(2), key(n, 1))).collect();
    assert!(node.ask_many(others).iter().all(|reply| matches!(reply, Reply::Refused(Refusal::KeyReused))));
    node.stop();
    let node = Running::start(small());
    for n in (0..3_000).step_by(100) {
        assert_eq!(node.balance(&format!("m-{n}")).balances.total, 12);
    }
    node.stop();
    assert_eq!(verify(folder.path(), None).unwrap().records, 36_001);
}

#[test]
fn commands_of_one_account_keep_their_order_over_loads_and_workers() {
    let folder = tempfile::tempdir().unwrap();
    let node = Running::start(harness::Config { workers: 3, ..config(folder.path()) });
    let first = node.ask(request("m-1", earn(100), None));
    let original = executed(&first).position;
    node.stop();
    let node = Running::start(harness::Config { workers: 3, ..config(folder.path()) });
    // The account is cold, the reversal waits for its record, the rest for the reversal.
    let replies = node.ask_many(vec![
        request("m-1", earn(1), None),
        request("m-1", reverse(original), None),
        request("m-2", earn(5), None),
        request("m-1", earn(10), None),
        request("m-1", Command::Balance, None),
    ]);
    let totals: Vec<i64> = [0, 1, 3].iter().map(|at| executed(&replies[*at]).balances.total).collect();
    assert_eq!(totals, [101, 1, 11]);
    assert!(matches!(&replies[4], Reply::Balance(view) if view.balances.total == 11));
    node.stop();
}

#[test]
fn a_stop_while_everything_is_due_is_short_and_clean() {
    let folder = tempfile::tempdir().unwrap();
    // Nothing but the stop itself brings it all to the store.
    let checkpoint_interval_ms = 3_600_000;
    let node = Running::start(harness::Config { workers: 2, checkpoint_interval_ms, ..config(folder.path()) });
    for batch in 0..30 {
        let due = seconds_from_now(3);
        let earns = (0..1_000).map(|n| request(&format!("m-{batch}-{n}"), earn_until(1, due), None)).collect();
        node.ask_many(earns).iter().for_each(|reply| assert_eq!(executed(reply).points, 1));
    }
    node.wait_until("points expire", |node| node.reports().iter().any(|r| r.totals.of("p").expired > 0));
    let begin = Instant::now();
    node.stop();
    assert!(begin.elapsed() < Duration::from_secs(8), "the stop took {:?}", begin.elapsed());
    let node = Running::start(config(folder.path()));
    assert_eq!(node.recovered().replayed_records, 0);
    node.wait_until("the rest expires", |node| {
        node.reports().iter().map(|r| r.totals.of("p").expired).sum::<i128>() == 30_000
    });
    node.stop();
    verify(folder.path(), None).unwrap();
}

#[test]
fn what_fell_due_in_a_long_gap_is_left_until_told() {
    let folder = tempfile::tempdir().unwrap();
    let old = seconds_from_now(0) - 40 * DAY_MS;
    // One lot fell due before the last record and was not settled any more; one within the gap.
    old_folder(folder.path(), old, &[("m-1", 10, old - 1_000), ("m-2", 20, old + DAY_MS)]);
    let total = |node: &Running, id: &str| node.balance(id).balances.total;
    let node = Running::start(config(folder.path()));
    assert_eq!(node.recovered().settles_until, Some(old));
    assert!(!node.node().settles_everything());
    assert_eq!((total(&node, "m-1"), total(&node, "m-2")), (0, 20));
    node.stop();
    let node = Running::start(harness::Config { settle_past_gap: true, ..config(folder.path()) });
    assert_eq!(node.recovered().settles_until, None);
    assert_eq!((total(&node, "m-1"), total(&node, "m-2")), (0, 0));
    node.stop();
    verify(folder.path(), None).unwrap();
}

#[test]
fn a_gap_is_not_forgotten_by_what_is_recorded_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let old = seconds_from_now(0) - 40 * DAY_MS;
    old_folder(folder.path(), old, &[("m-2", 20, old + DAY_MS)]);
    for round in 0..3 {
        let node = Running::start(config(folder.path()));
        assert_eq!(node.recovered().settles_until, Some(old), "start {round}");
        executed(&node.ask(request("m-3", earn(1), None)));
        assert_eq!(node.balance("m-2").balances.total, 20);
        node.stop();
    }
    let node = Running::start(harness::Config { settle_past_gap: true, ..config(folder.path()) });
    assert_eq!(node.balance("m-2").balances.total, 0);
    node.stop();
    let node = Running::start(config(folder.path()));
    assert_eq!(node.recovered().settles_until, None, "the operator has decided");
    node.stop();
}

#[test]
fn a_node_without_workers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = harness::Config { workers: 0, ..config(folder.path()) };
    let refused = start(config, Box::new(|fault| panic!("a fault: {fault}")), Arc::new(|_, _| Box::pin(async {})));
    assert!(matches!(refused, Err(Error::Setting(detail)) if detail.contains("at least one worker")));
}

/// Who waits for a permit when the node begins to stop is told that, not what it waited for.
#[test]
fn a_wait_for_a_permit_ends_with_the_reason_of_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let permits = PermitLimits { commands: 1, ..config(folder.path()).permits };
    let (full, is_full) = mpsc::channel();
    let (refused, reason) = mpsc::channel();
    let main: WorkerMain = Arc::new(move |worker, _| {
        let (full, refused) = (full.clone(), refused.clone());
        Box::pin(async move {
            let only = [request("m-1", Command::Balance, None)];
            let held = worker.try_admit(&only, 1).unwrap();
            let mut waiting = pin!(worker.admit(&only, 1, Duration::from_secs(5)));
            let polled = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await;
            assert!(polled.is_pending());
            full.send(()).unwrap();
            refused.send(waiting.await.err()).unwrap();
            worker.call(only[0].clone(), &held).await;
        })
    });
    let config = harness::Config { permits, ..config(folder.path()) };
    let node = start(config, Box::new(|fault| panic!("a fault: {fault}")), main).unwrap();
    is_full.recv().unwrap();
    node.shutdown(Duration::from_secs(20)).unwrap();
    assert_eq!(reason.recv().unwrap(), Some(NoPermit::Draining));
}

#[test]
fn a_gap_within_the_bound_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let old: Millis = seconds_from_now(0) - 30 * DAY_MS;
    old_folder(folder.path(), old, &[("m-2", 20, old + DAY_MS)]);
    let node = Running::start(config(folder.path()));
    assert_eq!(node.recovered().settles_until, None);
    assert_eq!(node.balance("m-2").balances.total, 0);
    node.stop();
}

#[test]
fn what_a_start_refuses_is_a_violation() {
    let folder = tempfile::tempdir().unwrap();
    Running::start(config(folder.path())).stop();
    for file in ["secrets", "node.json"] {
        let path = folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[0] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let found = verify(folder.path(), None).unwrap_err();
        assert!(matches!(&found, Error::Damaged { file: named, .. } if *named == path), "{found}");
        std::fs::write(&path, whole).unwrap();
    }
    verify(folder.path(), None).unwrap();
}
