//! A simulator that breaks a node, and an auditor that knows what each answer
//! has to be. One seed makes a world: its size, its program, its clients, what they ask, who moves when, and what
//! breaks. The same seed makes the same world on every machine.
//!
//! Real: shards, commit pipeline, journal, recovery, checkpoints, replay, programs, what the shells do with a batch
//! and a release, what publishing reads, counts and saves. Simulated: disk, store, clocks, network, threads, broker.

mod ask;
mod auditor;
mod books;
mod clients;
mod event;
mod expect;
mod generate;
mod minimize;
mod model;
mod node;
pub mod nodes;
mod profile;
mod rot;
mod rules;
mod store_ahead;
mod stream;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use event::Event;
use generate::Generator;
use profile::Profile;
use world::World;

/// What became of the world of one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Starts of the node after a crash or a stop.
    pub recoveries: u64,
    /// Things that happened.
    pub events: u64,
    /// Equal for equal worlds.
    pub fingerprint: u64,
    /// What was found, if anything was.
    pub failure: Option<Failure>,
}

/// What the auditor found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// What happened before, one line each; when made small, only what is needed.
    pub events: Vec<String>,
}

/// Runs the world of a seed.
pub fn run(seed: u64) -> Run {
    with_failure(run_world(seed, &mut |_| {}))
}

/// Runs the world of a seed and tells everything that happens, before it happens.
pub fn run_told(seed: u64, tell: &mut dyn FnMut(&str)) -> Run {
    with_failure(run_world(seed, &mut |event| tell(&format!("{event:?}"))))
}

fn with_failure((run, found): (Run, Option<(Vec<Event>, String)>)) -> Run {
    let failure = found.map(|(events, what)| Failure { what, events: lines(&events) });
    Run { failure, ..run }
}

/// Runs the world of a seed; if something is found, the list of events is made small.
pub fn run_small(seed: u64) -> Run {
    let (run, found) = run_world(seed, &mut |_| {});
    let failure = found.map(|(events, what)| {
        let (events, what) = minimize::minimize(&Profile::of(seed), &events, &what);
        Failure { what, events: lines(&events) }
    });
    Run { failure, ..run }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{event:?}")).collect()
}

fn run_world(seed: u64, tell: &mut dyn FnMut(&Event)) -> (Run, Option<(Vec<Event>, String)>) {
    let mut world = World::new(Profile::of(seed));
    let mut generator = Generator::new(&world.profile);
    let mut events: Vec<Event> = Vec::new();
    let mut found = None;
    while let Some(event) = generator.next(&world) {
        tell(&event);
        let happened = happen(&mut world, &event);
        events.push(event);
        if let Err(what) = happened {
            found = Some(what);
            break;
        }
    }
    let run = Run {
        seed,
        recoveries: world.recoveries,
        events: events.len() as u64,
        fingerprint: world.fingerprint(),
        failure: None,
    };
    (run, found.map(|what| (events, what)))
}

/// Lets an event happen; a panic is something found.
fn happen(world: &mut World, event: &Event) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| world.happen(event))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
            Err(format!("a panic: {text}"))
        }
    }
}
