//! Planted faults of several nodes on one cluster: each is found by the simulator within so many seeds.
//!
//! Only with the feature `planted`: `ops/planted.sh` runs it.
#![cfg(feature = "planted")]

use std::panic::catch_unwind;
use std::time::Instant;

use meed_engine::planted::{Fault, plant};
use meed_engine::torture::nodes::run;

/// How often each fault is looked for, to know how many seeds it takes, unless `MEED_PLANTED_SEARCHES` says less.
const SEARCHES: usize = 8;
/// Within how many seeds a fault has to be found.
const SEEDS_MAX: u64 = 2_000;
/// The same for faults that take an owner which falls asleep for longer than its lease at one certain step, and to whom
/// that matters when it wakes; one search of each.
const SEEDS_MAX_SLEPT: u64 = 20_000;
const SLEPT: [Fault; 2] = [Fault::OpenWithoutLookingBack, Fault::TrustFoundDue];

/// What a seed finds; a panic is something found.
fn found(seed: u64) -> Option<String> {
    catch_unwind(|| run(seed).failure).map_or_else(|_| Some("a panic".to_owned()), |failure| Some(failure?.what))
}

/// One test, because a process has one planted fault at a time.
#[test]
fn every_planted_fault_of_a_cluster_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let searches = std::env::var("MEED_PLANTED_SEARCHES").ok();
    let most = searches.map_or(SEARCHES, |searches| searches.parse().expect("a number of searches"));
    let mut wrong = Vec::new();
    for fault in Fault::NODES {
        let begin = Instant::now();
        plant(Some(fault));
        let (mut seeds, mut since, mut first) = (Vec::new(), 0, String::new());
        let (searches, seeds_max) = if SLEPT.contains(&fault) { (1, SEEDS_MAX_SLEPT) } else { (SEARCHES, SEEDS_MAX) };
        let searches = searches.min(most);
        for seed in 0..seeds_max {
            since += 1;
            if let Some(what) = found(seed) {
                seeds.push(std::mem::take(&mut since));
                first = if first.is_empty() { what } else { first };
            }
            if seeds.len() == searches {
                break;
            }
        }
        seeds.sort_unstable();
        let first: String = first.chars().take(120).collect();
        println!("{fault:?}: found after {seeds:?} seeds, {:?}: {first}", begin.elapsed());
        if seeds.is_empty() {
            wrong.push(format!("{fault:?} is not found within {seeds_max} seeds"));
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
