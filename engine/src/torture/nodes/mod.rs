//! Several nodes on one simulated CQL cluster and one simulated broker, with clocks that drift, networks that lose and
//! delay, and processes that are killed or stand still.
//!
//! Real: shards and lanes, what is released when, checkpoints and in which order their rows are written
//! ([`crate::store::cql`]), recovery, programs, how a shard's journal is claimed and appended to
//! ([`crate::journal::cql::machine`]), which buckets may go ([`crate::trim`]), leases and the plan of who owns what
//! ([`crate::ownership`]), and how far the stream is ([`crate::publish::outbox`]). Simulated: the statements of the
//! database and what is in its tables, the broker, clocks, network, threads. What stands between the two, as
//! [`crate::cluster`], the reads of [`crate::store::cql`] and [`crate::journal::cql`], is written anew here, statement by
//! statement. There is one program, which does not change.
//!
//! Checked: every record and every answer of every owner is what a naive model has it; nothing acknowledged is lost or
//! has two effects, whoever owns the shard when; records are dense; a read sees all that was shown to anybody before it
//! was asked; a recovery comes to what a replay of all records gives, whatever was removed; the stream, read by its
//! rules, has no gap and all effects; and once nothing breaks any more, every operation gets its answer, every shard its
//! owner, what is due is settled, and store and due index are whole.

mod world;
mod node;
mod owner;
mod begin;
mod state;
mod upkeep;
mod desk;
mod ledger;
mod line;
mod message;
mod keyspace;
mod rows;

use super::{Failure, Run};
use world::World;

/// Before a statement without an answer is asked again, and a claim that came to nothing is begun again.
const AGAIN_MS: i64 = 50;
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
