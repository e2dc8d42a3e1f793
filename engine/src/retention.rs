//! The node's upkeep thread: it takes the steps of [`crate::upkeep`] when it is time. It has all the time in the
//! world, so it rests far longer than it works.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meed_schemas::time::Millis;

use crate::background::{Stop, yield_to_commits};
use crate::clock::{Clock, SystemTimes};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::journal::JournalUpkeep;
use crate::keeper::Keeper;
use crate::metrics::UpkeepMetrics;
use crate::upkeep::{Surroundings, Upkeep};

/// For each part of work it rests so many times as long.
const REST_FACTOR: u32 = 9;
/// Longest rest after one part.
const REST_MAX: Duration = Duration::from_secs(1);
/// Rest after a segment was removed: freeing its blocks takes the disk's time.
const REST_AFTER_REMOVAL: Duration = Duration::from_millis(100);
/// Rest after a fault.
const REST_AFTER_FAULT: Duration = Duration::from_secs(60);

/// Per shard, the lowest sequence that somebody still needs to read from the journal.
pub type NeededFrom = Box<dyn Fn() -> Result<Vec<u64>> + Send>;

/// What the thread is made of.
pub struct UpkeepParts {
    /// The data folder.
    pub data: PathBuf,
    /// The closed segments.
    pub journal: JournalUpkeep,
    /// The store's thread.
    pub keeper: Keeper,
    /// Who needs records, beside a start.
    pub needed_from: Vec<NeededFrom>,
    /// Whether the clock is trusted: else nothing is removed.
    pub is_clock_trusted: Box<dyn Fn() -> bool + Send>,
    /// The machine's clocks, and the leap beyond which the wall clock is not followed.
    pub times: (SystemTimes, i64),
    /// The journal's id, and how many shards it has.
    pub identity: (u128, u16),
    /// How old a record must be to go; `None` keeps all.
    pub retention_ms: Option<i64>,
    /// Whether closed segments are packed.
    pub pack: bool,
    /// Time between two looks.
    pub interval: Duration,
    /// What is counted.
    pub metrics: UpkeepMetrics,
}

/// The running thread.
pub struct UpkeepThread {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

impl UpkeepThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(parts: UpkeepParts) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let told = Arc::clone(&stop);
        let path = parts.data.clone();
        let body = move || Worker::new(parts, told).run();
        let thread = std::thread::Builder::new().name("upkeep".into()).spawn(body);
        let thread = thread.map_err(|e| Error::io("start the thread that keeps up the journal in", path, e))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread, within one part of its work.
    pub fn stop(self) {
        self.stop.tell();
        // It has nothing to return, and a panic in it was reported by the panic hook.
        let _ = self.thread.join();
    }
}

/// Rests after a part of work that took so long; false when the thread is to end.
fn rest_after(stop: &Stop, took: Duration) -> bool {
    stop.rest((took * REST_FACTOR).min(REST_MAX))
}

struct Worker {
    upkeep: Upkeep,
    keeper: Keeper,
    needed_from: Vec<NeededFrom>,
    is_clock_trusted: Box<dyn Fn() -> bool + Send>,
    times: SystemTimes,
    retention_ms: Option<i64>,
    pack: bool,
    interval: Duration,
    metrics: UpkeepMetrics,
    stop: Arc<Stop>,
    clock: Clock,
}

impl Worker {
    fn new(parts: UpkeepParts, stop: Arc<Stop>) -> Self {
        let (times, jump_ms) = parts.times;
        Self {
            upkeep: Upkeep::new(Disk::default(), parts.data, parts.journal, parts.identity),
            keeper: parts.keeper,
            needed_from: parts.needed_from,
            is_clock_trusted: parts.is_clock_trusted,
            times,
            retention_ms: parts.retention_ms,
            pack: parts.pack,
            interval: parts.interval,
            metrics: parts.metrics,
            stop,
            clock: Clock::new(times.wall_ms(), times.elapsed_ms(), jump_ms),
        }
    }

    fn run(mut self) {
        yield_to_commits();
        loop {
            let rest = match self.remove_old().and_then(|()| self.pack_next()) {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.interval,
                Err(fault) => {
                    self.metrics.failures.increment(1);
                    tracing::warn!(%fault, "cannot keep up the closed journal segments");
                    REST_AFTER_FAULT
                }
            };
            if !self.stop.rest(rest) {
                return;
            }
        }
    }

    /// The instant before which records are too old to be kept; `None` while nothing is to go.
    fn cutoff(&mut self) -> Option<Millis> {
        let retention_ms = self.retention_ms?;
        let now = self.clock.now(self.times.wall_ms(), self.times.elapsed_ms());
        let is_trusted = !self.clock.jumped() && (self.is_clock_trusted)();
        is_trusted.then(|| now.saturating_sub(retention_ms))
    }

    fn remove_old(&mut self) -> Result<()> {
        while let Some(cutoff) = self.cutoff() {
            let (keeper, needed_from, stop) = (&self.keeper, &self.needed_from, &self.stop);
            let taken_before = self.upkeep.snapshots_taken();
            let mut around = Surroundings {
                needed_from: &|| needed_from.iter().map(|needed| needed()).collect(),
                // The node is stopping where nothing comes.
                view: &mut || Ok(keeper.view().recv().ok()),
                pace: &mut |took| rest_after(stop, took),
                taken_at: self.times.wall_ms(),
            };
            let removed = self.upkeep.remove_next(cutoff, &mut around);
            self.metrics.snapshots.increment(self.upkeep.snapshots_taken() - taken_before);
            let Some(oldest) = removed? else { break };
            self.metrics.removed.increment(1);
            self.metrics.removed_bytes.increment(oldest.bytes);
            tracing::info!(
                segment = oldest.number,
                first_batch_kept = oldest.batches.end,
                "a journal segment older than its retention was removed"
            );
            if !self.stop.rest(REST_AFTER_REMOVAL) {
                break;
            }
        }
        Ok(())
    }

    /// Packs the oldest segment that is not packed; false when there is none.
    fn pack_next(&mut self) -> Result<bool> {
        if !self.pack {
            return Ok(false);
        }
        let stop = Arc::clone(&self.stop);
        let packed = self.upkeep.pack_next(&mut |took| rest_after(&stop, took))?;
        let Some((segment, bytes)) = packed else { return Ok(false) };
        self.metrics.packed.increment(1);
        self.metrics.plain_bytes.increment(segment.bytes);
        self.metrics.packed_bytes.increment(bytes);
        tracing::debug!(segment = segment.number, bytes, of = segment.bytes, "a journal segment was packed");
        Ok(true)
    }
}
