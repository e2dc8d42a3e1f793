//! `meed torture`: simulated worlds, several at a time, until one of them shows a violation.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meed_engine::torture::{self, Run, nodes};

use crate::exit::{EXIT_DONE, EXIT_FAILED};

/// Pace of the lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How often it is looked whether all is done.
const POLL: Duration = Duration::from_millis(20);

/// Which simulated worlds are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worlds {
    /// First seed.
    pub first: u64,
    /// How many seeds.
    pub seeds: u64,
    /// How many at a time.
    pub jobs: usize,
    /// Whether everything that happens is printed.
    pub verbose: bool,
    /// Several nodes on one cluster instead of one with a disk.
    pub cluster: bool,
}

impl Worlds {
    fn run(&self, seed: u64) -> Run {
        if self.cluster { nodes::run(seed) } else { torture::run(seed) }
    }

    fn run_small(&self, seed: u64) -> Run {
        if self.cluster { nodes::run_small(seed) } else { torture::run_small(seed) }
    }

    fn run_told(&self, seed: u64, tell: &mut dyn FnMut(&str)) -> Run {
        if self.cluster { nodes::run_told(seed, tell) } else { torture::run_told(seed, tell) }
    }
}

#[derive(Default)]
struct Progress {
    next: AtomicU64,
    worlds: AtomicU64,
    recoveries: AtomicU64,
    events: AtomicU64,
    is_over: AtomicBool,
    failed: Mutex<Option<u64>>,
}

/// Runs the worlds; exit code 1 when there is a violation.
pub fn torture(worlds: &Worlds) -> u8 {
    // A panic of the code under test is a finding, which is reported with its events.
    std::panic::set_hook(Box::new(|_| {}));
    if worlds.verbose {
        return verbose(worlds);
    }
    let began = Instant::now();
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..worlds.jobs).map(|_| scope.spawn(|| work(worlds, &progress))).collect();
        let mut reported = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(POLL);
            if reported.elapsed() >= PROGRESS {
                reported = Instant::now();
                say(&mut io::stderr(), &summary(&progress, worlds.jobs, began.elapsed()));
            }
        }
    });
    say(&mut io::stdout(), &summary(&progress, worlds.jobs, began.elapsed()));
    match progress.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => {
            say(&mut io::stdout(), "no violation");
            EXIT_DONE
        }
        Some(seed) => {
            say(&mut io::stdout(), &format!("seed {seed}: a violation; making it small"));
            report(worlds, &worlds.run_small(seed))
        }
    }
}

fn work(worlds: &Worlds, progress: &Progress) {
    while !progress.is_over.load(Ordering::Relaxed) {
        let nth = progress.next.fetch_add(1, Ordering::Relaxed);
        if nth >= worlds.seeds {
            return;
        }
        let Run { seed, recoveries, events, failure, .. } = worlds.run(worlds.first.wrapping_add(nth));
        progress.worlds.fetch_add(1, Ordering::Relaxed);
        progress.recoveries.fetch_add(recoveries, Ordering::Relaxed);
        progress.events.fetch_add(events, Ordering::Relaxed);
        if failure.is_some() {
            // The lowest of those that were under way, so that the same command says the same.
            let mut failed = progress.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(failed.map_or(seed, |other| other.min(seed)));
            progress.is_over.store(true, Ordering::Relaxed);
        }
    }
}

fn verbose(worlds: &Worlds) -> u8 {
    let mut out = io::stdout().lock();
    let run = worlds.run_told(worlds.first, &mut |line| say(&mut out, line));
    drop(out);
    if run.failure.is_none() {
        let Run { recoveries, events, fingerprint, .. } = run;
        say(&mut io::stdout(), &format!("{events} events, {recoveries} starts, fingerprint {fingerprint:016x}"));
        say(&mut io::stdout(), "no violation");
        return EXIT_DONE;
    }
    report(worlds, &run)
}

fn report(worlds: &Worlds, run: &Run) -> u8 {
    let Some(failure) = &run.failure else { return EXIT_DONE };
    for event in &failure.events {
        say(&mut io::stdout(), &format!("  {event}"));
    }
    say(&mut io::stdout(), &format!("violation: {}", failure.what));
    let cluster = if worlds.cluster { " --cluster" } else { "" };
    say(&mut io::stdout(), &format!("repeat it with: meed torture{cluster} --seed {}", run.seed));
    EXIT_FAILED
}

fn summary(progress: &Progress, jobs: usize, took: Duration) -> String {
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (worlds, recoveries, events) =
        (number(&progress.worlds), number(&progress.recoveries), number(&progress.events));
    let per_second = u128::from(recoveries) * 1_000 / took.as_millis().max(1);
    format!(
        "{worlds} worlds, {events} events, {recoveries} recoveries in {}.{:03} s with {jobs} at a time: {per_second} \
         recoveries a second",
        took.as_secs(),
        took.subsec_millis()
    )
}

/// Prints a line; a reader that went away is no failure.
fn say(out: &mut impl io::Write, line: &str) {
    let _ = writeln!(out, "{line}");
}
