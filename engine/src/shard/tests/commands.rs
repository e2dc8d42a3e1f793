//! Commands: what waits for what.

use super::*;

fn evicted(accounts: &[&str]) -> Bench {
    let mut bench = Bench::new(limits());
    for id in accounts {
        bench.earned(id, 100);
    }
    bench.evict();
    bench
}

#[test]
fn an_answer_waits_for_its_batch_and_reads_wait_for_what_they_saw() {
    let mut b = Bench::new(limits());
    let earned = b.send("m-1", earn(100));
    assert!(!b.answered(earned));
    let read = b.send("m-1", Command::Balance);
    b.submit();
    // Decided after the batch was handed over: their records are in the next one, the read's sight is not.
    let other = b.send("m-2", earn(1));
    let late_read = b.send("m-1", Command::Balance);
    let seen_by_nobody = b.send("m-3", Command::Balance);
    assert!(!b.answered(earned) && !b.answered(read) && !b.answered(late_read));
    assert_eq!(b.refused(seen_by_nobody), Refusal::UnknownAccount, "it saw nothing that could be lost");
    b.complete();
    assert!(b.answered(read) && b.answered(late_read) && !b.answered(other));
    assert_eq!(b.executed(earned).points, 100);
    b.journal_all();
    assert_eq!(b.executed(other).position.sequence(), 2);
    let quiet_read = b.send("m-1", Command::Balance);
    assert!(b.answered(quiet_read), "everything that it saw is durable");
}

#[test]
fn a_refusal_that_saw_undurable_state_waits_too() {
    let mut b = Bench::new(limits());
    let earned = b.send("m-1", earn(100));
    let refused = b.send("m-1", redeem(101));
    assert!(!b.answered(refused), "100 points are not durable, so neither is that they are too few");
    b.journal_all();
    b.executed(earned);
    let expected = Refusal::InsufficientPoints { available_points: 100, requested_points: 101 };
    assert_eq!(b.refused(refused), expected);
}

#[test]
fn a_cold_account_is_loaded_once_and_its_commands_keep_their_order() {
    let mut b = evicted(&["m-1", "m-2"]);
    let slots: Vec<u32> = (1..=5).map(|n| b.send("m-1", redeem(n))).collect();
    assert_eq!(b.jobs.len(), 1, "{:?}", b.jobs);
    assert!(matches!(b.jobs[0], StoreJob::Load(SHARD, _)));
    let other = b.send("m-2", earn(1));
    let warm = b.send("m-1", Command::Balance);
    // The younger load comes first: that account does not wait for the other.
    let (first, second) = (b.jobs.pop_front().unwrap(), b.jobs.pop_front().unwrap());
    b.answer_job(second);
    b.journal_all();
    assert_eq!(b.executed(other).balances.total, 101);
    assert!(slots.iter().all(|slot| !b.answered(*slot)));
    b.answer_job(first);
    b.journal_all();
    let totals: Vec<i64> = slots.into_iter().map(|slot| b.executed(slot).balances.total).collect();
    assert_eq!(totals, [99, 97, 94, 90, 85]);
    assert!(matches!(b.reply(warm), Reply::Balance(view) if view.balances.total == 85));
}

#[test]
fn an_account_that_does_not_exist_is_looked_for_once_however_many_ask() {
    let mut b = evicted(&["m-1"]);
    let slots: Vec<u32> = (0..100).map(|_| b.send("nobody", Command::Balance)).collect();
    let job = b.jobs.pop_front().unwrap();
    assert!(b.jobs.is_empty());
    b.answer_job(job);
    assert!(b.jobs.is_empty(), "what is not there was looked for again: {:?}", b.jobs);
    for slot in slots {
        assert_eq!(b.refused(slot), Refusal::UnknownAccount);
    }
    assert_eq!(b.shard.report().resident, 0);
    // One of them may open it.
    let slots = [Command::Balance, earn(5), Command::Balance].map(|command| b.send("nobody", command));
    b.settle_down();
    assert_eq!(b.refused(slots[0]), Refusal::UnknownAccount);
    assert_eq!(b.executed(slots[1]).sequence, 1);
    assert!(matches!(b.reply(slots[2]), Reply::Balance(view) if view.balances.total == 5));
    let report = b.shard.report();
    assert_eq!((report.resident, report.passivated), (1, 1));
}

#[test]
fn an_account_that_was_asked_for_in_vain_leaves_nothing() {
    let mut b = Bench::new(limits());
    b.earned("m-1", 1);
    let before = b.shard.report().resident_bytes;
    for n in 0..100 {
        assert!(matches!(b.ask(&format!("nobody-{n}"), Command::Balance), Reply::Refused(Refusal::UnknownAccount)));
    }
    let report = b.shard.report();
    assert_eq!((report.resident, report.resident_bytes), (1, before));
    assert_eq!(b.shard.hand.len(), 1);
    // Nor where the store has to be asked, for several at once.
    let mut b = evicted(&["m-1"]);
    let slots = [1, 2, 3].map(|n| b.send(&format!("nobody-{n}"), Command::Balance));
    b.settle_down();
    assert!(slots.iter().all(|slot| b.refused(*slot) == Refusal::UnknownAccount));
    assert!(b.shard.hand.is_empty());
}

#[test]
fn commands_queue_behind_one_that_waits_for_a_record() {
    let mut b = Bench::new(limits());
    let original = b.earned("m-1", 100).position;
    let reversal = b.send("m-1", reverse(original));
    let earned = b.send("m-1", earn(7));
    let read = b.send("m-1", Command::Balance);
    let elsewhere = b.send("m-2", earn(1));
    b.journal_all();
    assert_eq!(b.reads.len(), 1);
    assert!(!b.answered(earned) && !b.answered(read) && b.answered(elsewhere));
    b.settle_down();
    assert_eq!(b.executed(reversal).balances.total, 0);
    assert_eq!(b.executed(earned).balances.total, 7);
    assert!(matches!(b.reply(read), Reply::Balance(view) if view.balances.total == 7));
}

#[test]
fn a_record_is_read_only_once_it_is_durable() {
    let mut b = Bench::new(limits());
    let earned = b.send("m-1", earn(100));
    let reversal = b.send("m-1", reverse(Position::new(SHARD, 1)));
    assert!(b.reads.is_empty(), "the record is not in the journal yet");
    b.submit();
    assert!(b.reads.is_empty());
    b.complete();
    assert_eq!(b.reads.len(), 1);
    b.settle_down();
    b.executed(earned);
    assert_eq!(b.executed(reversal).points, -100);
    // A position that nobody has yet.
    let unknown = b.send("m-1", reverse(Position::new(SHARD, 1_000)));
    b.settle_down();
    assert_eq!(b.refused(unknown), Refusal::UnknownTransaction);
}

#[test]
fn a_retry_that_meets_the_first_still_running_gets_its_answer() {
    let mut b = Bench::new(limits());
    let first = b.send_keyed("m-1", earn(100), Some(1));
    let retries: Vec<u32> = (0..63).map(|_| b.send_keyed("m-1", earn(100), Some(1))).collect();
    assert!(b.reads.is_empty(), "a replay is read once its record is durable");
    b.settle_down();
    let record = b.executed(first);
    for retry in retries {
        match b.reply(retry) {
            Reply::Executed { record: again, replayed: true } => assert_eq!(*again, record),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((b.journal.len(), b.total("m-1")), (1, 100));
}

#[test]
fn a_retry_of_what_is_not_durable_yet_is_known_as_one() {
    let mut b = Bench::new(limits());
    b.earned("m-1", 1);
    let first = b.send_keyed("m-1", earn(100), Some(7));
    let retry = b.send_keyed("m-1", earn(100), Some(7));
    let outcome = b.send_keyed("m-1", Command::Outcome, Some(7));
    assert_eq!(b.still_running, [retry], "whoever asks for the outcome knows that it asks");
    b.settle_down();
    assert_eq!(b.executed(first).balances.total, 101);
    assert!(matches!(b.reply(retry), Reply::Executed { replayed: true, .. }));
    assert!(matches!(b.reply(outcome), Reply::Outcome(_)));
    // What the retry repeats is durable, only its account has something newer.
    let newer = b.send("m-1", earn(5));
    let retry = b.send_keyed("m-1", earn(100), Some(7));
    assert_eq!(b.still_running.len(), 1);
    b.settle_down();
    assert_eq!(b.executed(newer).balances.total, 106);
    assert!(matches!(b.reply(retry), Reply::Executed { replayed: true, .. }));
}

#[test]
fn a_command_is_not_decided_after_its_deadline_wherever_it_waited() {
    let mut b = evicted(&["m-1"]);
    b.world.elapsed_ms = 1_000;
    let loading = b.send_until("m-1", earn(1), 1_500);
    let in_time = b.send_until("m-1", earn(2), 3_000);
    b.world.elapsed_ms = 1_501;
    b.settle_down();
    assert_eq!(b.refused(loading), Refusal::OutcomeUnknown);
    let record = b.executed(in_time);
    assert_eq!(record.balances.total, 102);
    let parked = b.send_until("m-1", reverse(record.position), 2_000);
    let behind = b.send_until("m-1", earn(4), 2_000);
    b.world.elapsed_ms = 2_001;
    b.settle_down();
    assert_eq!((b.refused(parked), b.refused(behind)), (Refusal::OutcomeUnknown, Refusal::OutcomeUnknown));
    let blank = b.send_until("m-9", earn(4), 2_000);
    b.settle_down();
    assert_eq!(b.refused(blank), Refusal::OutcomeUnknown);
    assert_eq!(b.total("m-1"), 102);
    assert_eq!(b.shard.report().resident, 1);
}

#[test]
fn what_waited_for_the_store_beyond_the_lease_is_not_decided() {
    let mut b = evicted(&["m-1"]);
    let (read, earned) = (b.send("m-1", Command::Balance), b.send("m-1", earn(1)));
    b.world.may_decide = false;
    b.settle_down();
    assert_eq!([b.refused(read), b.refused(earned)], [Refusal::NotReady, Refusal::NotReady]);
    b.world.may_decide = true;
    let again = b.send("m-1", earn(1));
    b.settle_down();
    assert_eq!(b.executed(again).sequence, 2, "nothing was executed");
}

#[test]
fn time_never_goes_backwards_within_a_shard() {
    let mut b = Bench::new(limits());
    let first = b.earned("m-1", 1).recorded_at;
    b.world.now -= 60_000;
    assert_eq!(b.earned("m-2", 1).recorded_at, first);
    let mut b = b.restart(limits());
    assert_eq!(b.earned("m-3", 1).recorded_at, first, "nor over a restart");
}

#[test]
fn a_blob_that_is_ahead_of_the_journal_or_damaged_is_a_fault() {
    let mut b = evicted(&["m-1"]);
    b.send("m-1", Command::Balance);
    let Some(StoreJob::Load(_, identity)) = b.jobs.pop_front() else { panic!("no load") };
    let blob = b.store.load(SHARD, &identity).unwrap();
    b.shard.next_sequence = 1;
    let fault = b.try_input(Input::Loaded(identity.clone(), blob.clone())).unwrap_err();
    assert!(fault.to_string().contains("m-1 in shard 3 is ahead of the journal"), "{fault}");
    // Beyond the lease another node may have written it.
    let mut b = evicted(&["m-1"]);
    b.send("m-1", Command::Balance);
    (b.shard.next_sequence, b.world.may_decide) = (1, false);
    let fault = b.try_input(Input::Loaded(identity.clone(), blob.clone())).unwrap_err();
    assert!(matches!(fault, Error::Stopped(_)), "{fault}");
    let mut b = evicted(&["m-1"]);
    b.send("m-1", Command::Balance);
    let cut = blob.unwrap()[..10].to_vec();
    let fault = b.try_input(Input::Loaded(identity, Some(cut))).unwrap_err();
    assert!(matches!(fault, Error::Damaged { .. }), "{fault}");
}
