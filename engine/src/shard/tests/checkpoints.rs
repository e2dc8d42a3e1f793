//! Checkpoints, spilled keys, the bound of memory, and starts over what they left.

use super::*;
use crate::account::{FactValue, OPERATIONS_RESIDENT};

fn replayed(reply: &Reply) -> &Record {
    match reply {
        Reply::Executed { record, replayed: true } => record,
        other => panic!("not replayed: {other:?}"),
    }
}

/// Looks that the store tell the same as the accounts in memory.
pub(super) fn check_store(b: &mut Bench, accounts: &[String]) {
    for id in accounts {
        let identity = member(id);
        let hash = b.shard.table.hash(&identity);
        let Some(Resident::Live(live)) = b.shard.table.get_mut(hash, &identity) else { panic!("{id} is not live") };
        let mut blob = Vec::new();
        live.account.encode(&mut blob);
        assert_eq!(b.store.load(SHARD, &identity).unwrap(), Some(blob));
    }
}

#[test]
fn a_checkpoint_waits_for_the_journal() {
    let mut b = Bench::new(limits());
    let first = b.send("m-1", earn(1));
    b.tick(1_000);
    assert!(b.checkpoints.is_empty(), "its blob is ahead of the journal");
    b.submit();
    // Decided between copy and journal: not in the blob, and so not covered.
    let second = b.send("m-1", earn(2));
    assert!(b.checkpoints.is_empty());
    b.complete();
    assert_eq!(b.checkpoints.len(), 1);
    assert!(b.answered(first) && !b.answered(second));
    let state = &b.checkpoints[0].rows.state;
    assert_eq!((state.totals_sequence, state.accounts, state.replay_start), (1, 1, 2));
    b.write_checkpoint();
    assert!(!b.shard.is_checkpointed());
    assert_eq!(b.shard.lag_records(), 1);
    b.journal_all();
    b.checkpoint_all();
    assert_eq!(b.shard.lag_records(), 0);
    check_store(&mut b, &["m-1".into()]);
}

#[test]
fn the_account_that_is_always_in_flight_is_checkpointed_too() {
    let mut b = Bench::new(limits());
    for _ in 0..100 {
        b.send("hot", earn(1));
        b.tick(100);
        b.submit();
        b.complete();
        while !b.checkpoints.is_empty() {
            b.write_checkpoint();
        }
    }
    assert!(b.checkpointed >= 80, "{}", b.checkpointed);
    assert!(b.shard.lag_records() <= 20, "{}", b.shard.lag_records());
}

#[test]
fn many_dirty_accounts_go_in_bounded_batches_oldest_first() {
    let mut b = Bench::new(limits());
    let accounts: Vec<String> = (0..1_000).map(|n| format!("m-{n}")).collect();
    for id in &accounts {
        b.send(id, earn(1));
    }
    b.journal_all();
    b.input(Input::CheckpointAll);
    assert_eq!(b.checkpoints.len(), 2, "no more than two batches are with the store");
    let mut starts = Vec::new();
    while let Some(checkpoint) = b.checkpoints.front() {
        assert!(checkpoint.rows.accounts.len() <= ROWS_PER_BATCH);
        starts.push(checkpoint.rows.state.replay_start);
        b.write_checkpoint();
    }
    assert_eq!(starts, [513, 1_001]);
    assert!(b.shard.is_checkpointed());
    check_store(&mut b, &accounts);
}

#[test]
fn a_start_replays_only_what_the_store_lacks() {
    let mut b = Bench::new(limits());
    for n in 0..20 {
        b.earned(&format!("m-{}", n % 5), n + 1);
    }
    b.checkpoint_all();
    b.earned("m-1", 1_000);
    b.earned("m-9", 5);
    // Decided and never journaled: gone with the process.
    b.send("m-2", earn(1_000_000));
    let mut b = b.restart(limits());
    assert_eq!(b.shard.dirty.len(), 2);
    assert_eq!(b.shard.lag_records(), 2);
    let report = b.shard.report();
    assert_eq!((report.resident, report.passivated), (2, 4));
    assert_eq!((b.total("m-1"), b.total("m-9"), b.total("m-2")), (1_000 + 2 + 7 + 12 + 17, 5, 3 + 8 + 13 + 18));
    assert_eq!(b.shard.totals.of("p").outstanding(), 210 + 1_005);
    assert_eq!(b.earned("m-2", 1).position.sequence(), 23);
    // The batch after the start brings the store to the journal's end.
    b.tick(1_000);
    b.settle_down();
    assert!(b.shard.is_checkpointed());
    let state = b.store.shard_state(SHARD).unwrap().unwrap();
    assert_eq!((state.replay_start, state.totals_sequence, state.accounts), (24, 23, 6));
}

#[test]
fn a_kill_between_two_batches_of_one_checkpoint_loses_nothing() {
    for written in 0..=4 {
        let mut b = Bench::new(limits());
        for round in 1..=2 {
            for n in 0..800 {
                b.send(&format!("m-{n}"), earn(round));
            }
            b.journal_all();
            if round == 1 {
                b.checkpoint_all();
            }
        }
        b.input(Input::CheckpointAll);
        for _ in 0..written {
            b.write_checkpoint();
        }
        let mut b = b.restart(limits());
        assert_eq!(b.shard.totals.of("p").outstanding(), 2_400);
        assert_eq!(b.shard.dirty.len(), 800usize.saturating_sub(ROWS_PER_BATCH * written));
        for n in [0, 255, 256, 511, 512, 799] {
            assert_eq!(b.total(&format!("m-{n}")), 3, "m-{n} after {written} batches");
        }
        let report = b.shard.report();
        assert_eq!(report.resident + report.passivated, 800);
    }
}

/// An account with `count` keyed earns of n points under key n, from 1 on.
fn with_keys(count: u128) -> Bench {
    let mut b = Bench::new(limits());
    for key in 1..=count {
        b.ask_keyed("m-1", earn(key as i64), Some(key));
    }
    b
}

#[test]
fn a_spilled_key_is_found_in_the_overlay_and_a_new_one_asks_nobody() {
    let mut b = with_keys(20);
    let slot = b.send_keyed("m-1", earn(1), Some(1));
    assert!(b.jobs.is_empty(), "the overlay has it: {:?}", b.jobs);
    b.settle_down();
    assert_eq!(replayed(&b.reply(slot)).points, 1);
    let slot = b.send_keyed("m-1", earn(77), Some(77));
    assert!(b.jobs.is_empty(), "the filter knows that it is new: {:?}", b.jobs);
    b.settle_down();
    b.executed(slot);
}

#[test]
fn a_spilled_key_is_found_in_the_store_after_a_checkpoint() {
    let mut b = with_keys(20);
    b.checkpoint_all();
    let live = |b: &mut Bench| {
        let hash = b.shard.table.hash(&member("m-1"));
        match b.shard.table.get_mut(hash, &member("m-1")) {
            Some(Resident::Live(live)) => live.account.overlay().len(),
            _ => panic!("not live"),
        }
    };
    assert_eq!(live(&mut b), 0, "what is in the store leaves memory");
    let slot = b.send_keyed("m-1", earn(3), Some(3));
    assert!(matches!(b.jobs[0], StoreJob::Fact(..)));
    b.settle_down();
    assert_eq!(replayed(&b.reply(slot)).points, 3);
    // Another request under that key.
    let slot = b.send_keyed("m-1", earn(4), Some(3));
    b.settle_down();
    assert_eq!(b.refused(slot), Refusal::KeyReused);
    let resident = 20 - OPERATIONS_RESIDENT as u128 + 1;
    let slot = b.send_keyed("m-1", earn(resident as i64), Some(resident));
    assert!(b.jobs.is_empty(), "the newest are in the blob");
    b.settle_down();
    assert_eq!(replayed(&b.reply(slot)).points, resident as i64);
}

#[test]
fn a_filter_that_does_not_know_asks_the_store() {
    let mut b = with_keys(20);
    b.checkpoint_all();
    // After a start over a store nothing is known of what was spilled before.
    let mut b = b.restart(limits());
    for (key, is_new) in [(2, false), (500, true)] {
        let slot = b.send_keyed("m-1", earn(key as i64), Some(key));
        let load = b.jobs.pop_front();
        if let Some(load) = load {
            b.answer_job(load);
        }
        assert!(is_new && key == 500 || matches!(b.jobs.front(), Some(StoreJob::Fact(..))), "{:?}", b.jobs);
        b.settle_down();
        match b.reply(slot) {
            Reply::Executed { replayed, .. } => assert_eq!(replayed, !is_new),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn after_a_start_the_filter_is_filled_and_then_a_new_key_asks_nobody() {
    // Keys of three weeks and two accounts, spilled by several checkpoints.
    let mut b = Bench::new(limits());
    for key in 1..=60 {
        b.ask_keyed(if key % 2 == 0 { "m-1" } else { "m-2" }, earn(key as i64), Some(key));
        if key % 10 == 0 {
            b.checkpoint_all();
            b.world.now += 4 * 86_400_000;
        }
    }
    // Spilled by records that only the journal has.
    (61..=70).for_each(|key| drop(b.ask_keyed("m-1", earn(key as i64), Some(key))));
    let mut b = b.restart(limits());
    b.total("m-2");
    b.input(Input::Tick);
    // Not before the last part: until then both are looked up, and found or not.
    let mut parts = 0;
    while let Some(job) = b.jobs.pop_front() {
        if !matches!(job, StoreJob::Keys(..)) {
            b.answer_job(job);
            continue;
        }
        assert!(b.shard.filter.is_filling());
        let known = b.send_keyed("m-2", earn(1), Some(1));
        let new = b.send_keyed("m-2", earn(1), Some(1_000 + parts));
        let asked: Vec<StoreJob> = b.jobs.drain(..).collect();
        assert!(asked.len() == 2 && asked.iter().all(|job| matches!(job, StoreJob::Fact(..))), "{asked:?}");
        asked.into_iter().for_each(|job| b.answer_job(job));
        assert!(b.jobs.is_empty());
        b.journal_all();
        let (position, purpose) = b.reads.pop_front().unwrap();
        b.read(position, purpose);
        assert_eq!(replayed(&b.reply(known)).points, 1);
        b.executed(new);
        b.answer_job(job);
        parts += 1;
    }
    // Complete: spilled before the start, spilled again by replay, spilled since.
    for (id, key) in [("m-1", 2), ("m-2", 3), ("m-1", 30), ("m-2", 31), ("m-1", 62), ("m-2", 57)] {
        let slot = b.send_keyed(id, earn(key as i64), Some(key));
        b.settle_down();
        assert_eq!(replayed(&b.reply(slot)).points, key as i64, "key {key}");
    }
    for key in 2_000..2_020 {
        let slot = b.send_keyed("m-2", earn(1), Some(key));
        assert!(b.jobs.is_empty(), "the filter knows that {key} is new: {:?}", b.jobs);
        b.journal_all();
        b.executed(slot);
    }
    // A key of the other account is none of this one's.
    let slot = b.send_keyed("m-1", earn(1), Some(1));
    b.settle_down();
    b.executed(slot);
    assert!(parts > 2, "{parts} parts");
}

#[test]
fn the_overlay_stays_while_a_look_up_is_under_way() {
    let mut b = with_keys(8);
    b.checkpoint_all();
    let mut b = b.restart(limits());
    // The filter is incomplete and the account has spilled nothing: key 9 evicts key 1, key 10 evicts key 2.
    b.ask_keyed("m-1", earn(9), Some(9));
    let original = b.journal[&1].position;
    // Waits for its record; behind it a retry of key 2 looks into the store, which does not have it.
    let reversal = b.send_keyed("m-1", reverse(original), Some(10));
    let retry = b.send_keyed("m-1", earn(2), Some(2));
    let jobs: Vec<StoreJob> = b.jobs.drain(..).collect();
    b.input(Input::CheckpointAll);
    b.journal_all();
    b.write_checkpoint();
    for job in jobs {
        b.answer_job(job);
    }
    // The reversal runs and evicts key 2; its checkpoint is done while the retry still waits.
    b.settle_down();
    b.executed(reversal);
    assert_eq!(replayed(&b.reply(retry)).points, 2);
    assert_eq!(b.journal.values().filter(|r| r.points == 2).count(), 1);
}

#[test]
fn the_overlay_stays_while_anything_waits_that_was_looked_up_before() {
    let mut b = with_keys(10);
    b.checkpoint_all();
    let mut b = b.restart(limits());
    b.total("m-1");
    let (one, two) = (b.journal[&1].position, b.journal[&2].position);
    // Its key is new. Behind it come as many as push that key out of the state, one that waits for a record,
    // and a retry of the first: its look-up tells that the key is nowhere, because so far it is not.
    let first = b.send_keyed("m-1", reverse(one), Some(100));
    let between: Vec<u32> = (101..109).map(|key| b.send_keyed("m-1", earn(key as i64), Some(key))).collect();
    let slow = b.send_keyed("m-1", reverse(two), Some(109));
    let retry = b.send_keyed("m-1", reverse(one), Some(100));
    while let Some(job) = b.jobs.pop_front() {
        b.answer_job(job);
    }
    while let Some(at) = b.reads.iter().position(|(position, _)| *position == one) {
        let (position, purpose) = b.reads.remove(at).unwrap();
        b.read(position, purpose);
    }
    b.journal_all();
    assert!(b.answered(first) && between.iter().all(|slot| b.answered(*slot)) && !b.answered(slow));
    b.input(Input::CheckpointAll);
    b.journal_all();
    b.write_checkpoint();
    b.settle_down();
    let record = b.executed(first);
    b.executed(slow);
    assert_eq!(*replayed(&b.reply(retry)), record);
}

#[test]
fn a_key_is_never_executed_twice_whatever_the_store_does_meanwhile() {
    for seed in 0..40u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |end: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % end
        };
        let mut b = Bench::new(limits());
        b.shard.limits.resident_bytes = 4_000;
        let mut points: BTreeMap<String, i64> = BTreeMap::new();
        let mut done: BTreeMap<(String, u128), bool> = BTreeMap::new();
        for step in 0..600 {
            match next(12) {
                0..6 => {
                    let (id, key) = (format!("m-{}", next(4)), u128::from(next(30) + 1));
                    b.send_keyed(&id, earn(key as i64), Some(key));
                    if done.insert((id.clone(), key), true).is_none() {
                        *points.entry(id).or_default() += key as i64;
                    }
                }
                6 => b.journal_all(),
                7 => {
                    if let Some(job) = b.jobs.pop_front() {
                        b.answer_job(job);
                    }
                }
                8 => b.write_checkpoint(),
                9 => b.tick(700),
                10 if step % 7 == 0 => {
                    b.settle_down();
                    b = b.restart(ShardLimits { resident_bytes: 4_000, ..limits() });
                }
                10 => b.tick(6_000),
                _ => b.settle_down(),
            }
        }
        b.settle_down();
        for (id, expected) in &points {
            assert_eq!(b.total(id), *expected, "{id}, seed {seed}");
        }
        assert_eq!(b.journal.len(), done.len(), "seed {seed}");
    }
}

/// A start with a wrong clock must not execute every retry again.
#[test]
fn a_key_is_found_however_late_it_seems_to_be_while_the_clock_is_not_trusted() {
    let mut b = Bench::new(limits());
    let slot = b.send_keyed("m-1", earn(1), Some(7));
    b.settle_down();
    let first = b.executed(slot);
    for key in 0..OPERATIONS_RESIDENT as u128 {
        b.ask_keyed("m-1", earn(1), Some(100 + key));
    }
    b.evict();
    let mut b = b.restart(limits());
    b.world.settle_until = b.world.now;
    b.world.now += 400 * meed_schemas::time::DAY_MS;
    assert_eq!(*replayed(&b.ask_keyed("m-1", earn(1), Some(7))), first);
}

#[test]
fn a_fact_that_was_evicted_twice_is_in_a_checkpoint_once_with_its_last_value() {
    let mut b = Bench::new(limits());
    let slot = b.send("m-1", earn(1_000));
    b.journal_all();
    b.executed(slot);
    let mut originals = Vec::new();
    for _ in 0..40 {
        let slot = b.send("m-1", redeem(10));
        b.journal_all();
        originals.push(b.executed(slot).position);
    }
    // Each round pushes the first one out of the state.
    for _ in 0..2 {
        for original in &originals {
            let portion = Portion::Points(if *original == originals[0] { 3 } else { 1 });
            let reverse = Command::Reverse { original: *original, portion, occurred_at: None, references: None };
            let slot = b.send("m-1", reverse);
            b.settle_down();
            b.executed(slot);
        }
    }
    b.input(Input::CheckpointAll);
    let facts = &b.checkpoints[0].rows.accounts[0].facts;
    let first: Vec<_> =
        facts.iter().filter(|(fact, _)| *fact == crate::store::FactKey::Reversed(originals[0].sequence())).collect();
    assert_eq!(first.len(), 1, "a store of rows with one timestamp would keep whichever has the larger bytes");
    assert_eq!(first[0].1, FactValue::Reversed { points: 6, amount: 0 }.encode());
}

#[test]
fn a_time_that_a_clock_ahead_of_its_time_has_left_makes_nothing_fall_due() {
    let mut b = Bench::new(limits());
    let expires_at = START + 1_000_000;
    b.send("m-1", earn_until(5, Some(expires_at)));
    b.journal_all();
    b.world.now = START + 5_000_000;
    b.world.settle_until = START;
    b.send("m-2", earn(1));
    b.journal_all();
    // The clock is right again, and everything is settled by it.
    (b.world.now, b.world.settle_until) = (START + 1_000, Millis::MAX);
    let slot = b.send("m-1", Command::Balance);
    b.journal_all();
    let Reply::Balance(view) = b.reply(slot) else { panic!("no balance") };
    assert_eq!(view.balances.total, 5);
    b.world.now = expires_at;
    let slot = b.send("m-1", Command::Balance);
    b.journal_all();
    let Reply::Balance(view) = b.reply(slot) else { panic!("no balance") };
    assert_eq!(view.balances.total, 0);
}
