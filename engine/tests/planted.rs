//! Planted faults: each is found by the simulator within so many seeds, and nothing is found without one.
//!
//! Only with the feature `planted`: `ops/planted.sh` runs it.
#![cfg(feature = "planted")]

use std::time::Instant;

use meed_engine::planted::{Fault, plant};
use meed_engine::torture::run;

/// How often each fault is found, to know how many seeds it takes, unless `MEED_PLANTED_SEARCHES` says less.
const FOUND: usize = 15;
/// In the clean build nothing is found in so many seeds.
const CLEAN_SEEDS: u64 = 2_000;

/// Within how many seeds a fault has to be found, each time.
const SEEDS_MAX: u64 = 5_000;

/// How often a fault is looked for, and within how many seeds it has to be found each time.
fn bound(fault: Fault) -> (usize, u64) {
    match fault {
        // Takes a write that went to the place of the batch before it, which has another shard's records.
        Fault::DropPreviousBatchCheck => (3, 20_000),
        // Takes years to pass while the broker is away.
        Fault::RemoveUnpublished => (5, 10_000),
        _ => (FOUND, SEEDS_MAX),
    }
}

/// How many seeds it took to find a fault each time, one search after the other, and what was found first.
fn search(times: usize, seeds_max: u64) -> (Vec<u64>, String) {
    let (mut found, mut since, mut first) = (Vec::new(), 0, String::new());
    for seed in 0.. {
        since += 1;
        if let Some(failure) = run(seed).failure {
            found.push(std::mem::take(&mut since));
            if first.is_empty() {
                first = failure.what;
            }
        }
        if found.len() == times || since == seeds_max {
            break;
        }
    }
    (found, first)
}

/// One test, because a process has one planted fault at a time.
#[test]
fn every_planted_fault_is_found_and_nothing_else() {
    // What a fault makes panic is found; it need not be told of each time.
    std::panic::set_hook(Box::new(|_| {}));
    let searches = std::env::var("MEED_PLANTED_SEARCHES").ok();
    let most = searches.map_or(FOUND, |searches| searches.parse().expect("a number of searches"));
    let begin = Instant::now();
    plant(None);
    let mut wrong: Vec<String> = Vec::new();
    for seed in 0..CLEAN_SEEDS {
        if let Some(failure) = run(seed).failure
            && wrong.len() < 5
        {
            wrong.push(format!("nothing is planted, and seed {seed} finds: {}", failure.what));
        }
    }
    println!("nothing planted: {} found in {CLEAN_SEEDS} seeds, {:?}", wrong.len(), begin.elapsed());
    for fault in Fault::ALL {
        let begin = Instant::now();
        plant(Some(fault));
        let (wanted, seeds_max) = bound(fault);
        let wanted = wanted.min(most);
        let (mut found, first) = search(wanted, seeds_max);
        let (times, worst) = (found.len(), found.iter().copied().max().unwrap_or(0));
        found.sort_unstable();
        let median = found.get(times / 2).copied().unwrap_or(0);
        let first: String = first.chars().take(120).collect();
        println!("{fault:?}: median {median}, worst {worst} of {times}, {:?}: {first}", begin.elapsed());
        if times < wanted {
            wrong.push(format!("{fault:?} is not found within {seeds_max} seeds after it was found {times} times"));
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
