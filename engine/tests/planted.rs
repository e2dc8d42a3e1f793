//! Planted faults: each is found by the simulator within so many seeds, and nothing is found without one.
//!
//! Only with the feature `planted`:
//! `cargo test --profile checked -p meed-engine --features planted --test planted -- --nocapture`
#![cfg(feature = "planted")]

use std::time::Instant;

use meed_engine::planted::{Fault, plant};
use meed_engine::torture::run;

/// How often each fault is found, to know how many seeds it takes.
const FOUND: usize = 15;
/// In the clean build nothing is found in so many seeds.
const CLEAN_SEEDS: u64 = 20_000;

/// Within how many seeds a fault has to be found: the least such number of 1, 2 or 5 times a power of ten that is
/// ten times as many as it took at the median when this was written.
fn seeds_max(fault: Fault) -> u64 {
    match fault {
        _ => 2_000,
    }
}

/// How many seeds it took to find a fault each time, one search after the other.
fn search(seeds: u64) -> Vec<u64> {
    let (mut found, mut since) = (Vec::new(), 0);
    for seed in 0..seeds {
        since += 1;
        if run(seed).failure.is_some() {
            found.push(std::mem::take(&mut since));
            if found.len() == FOUND {
                break;
            }
        }
    }
    found
}

/// One test, because a process has one planted fault at a time.
#[test]
fn every_planted_fault_is_found_and_nothing_else() {
    // What a fault makes panic is found; it need not be told of each time.
    std::panic::set_hook(Box::new(|_| {}));
    let begin = Instant::now();
    plant(None);
    for seed in 0..CLEAN_SEEDS {
        if let Some(failure) = run(seed).failure {
            let _ = std::panic::take_hook();
            panic!("seed {seed} without a planted fault: {}", failure.what);
        }
    }
    println!("nothing planted: nothing found in {CLEAN_SEEDS} seeds, {:?}", begin.elapsed());
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let begin = Instant::now();
        plant(Some(fault));
        let mut found = search(seeds_max(fault) * FOUND as u64);
        let worst = found.iter().copied().max();
        found.sort_unstable();
        let median = found.get(found.len() / 2);
        println!("{fault:?}: found {} times, median {median:?}, worst {worst:?}, {:?}", found.len(), begin.elapsed());
        if found.is_empty() || worst > Some(seeds_max(fault)) {
            missed.push(fault);
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found in time: {missed:?}");
}
