//! Several nodes on one simulated CQL cluster and one simulated broker, with clocks that drift, networks that lose and
//! delay, and processes that are killed or stand still.
//!
//! Real: how a shard's journal is claimed and appended to ([`crate::journal::cql::machine`]), leases and the plan of
//! who owns what ([`crate::ownership`]), and how far the stream is ([`crate::publish::outbox`]). Simulated is the rest:
//! the statements of the database, the broker, and a shard whose records are keys.
//!
//! Checked: nothing acknowledged is lost or has two effects, whoever owns the shard when; records are dense; a read
//! sees all that was shown to anybody before it was asked; the stream, read by its rules, has no gap and all records;
//! and once nothing breaks any more, every operation gets its answer and every shard its owner.

mod world;
mod auditor;
mod node;
mod owner;
mod message;
mod keyspace;

use super::{Failure, Run};
use world::World;

/// Events before a violation that are told of it.
const EVENTS_TOLD: usize = 60;

/// Runs the cluster of a seed.
pub fn run(seed: u64) -> Run {
    run_told(seed, &mut |_| {})
}

/// Runs the cluster of a seed and tells everything that happens, before it happens.
pub fn run_told(seed: u64, tell: &mut dyn FnMut(&str)) -> Run {
    let mut world = World::new(seed);
    let found = world.run(tell).err();
    let failure = found.map(|what| Failure { what, events: Vec::new() });
    Run { seed, recoveries: world.recoveries, events: world.count, fingerprint: world.fingerprint, failure }
}

/// Runs the cluster of a seed; if something is found, the last events before it come with it.
pub fn run_small(seed: u64) -> Run {
    let mut last = std::collections::VecDeque::new();
    let run = run_told(seed, &mut |event| {
        if last.len() == EVENTS_TOLD {
            last.pop_front();
        }
        last.push_back(event.to_owned());
    });
    let failure = run.failure.map(|Failure { what, .. }| Failure { what, events: last.into() });
    Run { failure, ..run }
}
