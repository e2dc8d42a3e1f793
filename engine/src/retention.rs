//! The node's upkeep thread: removes journal segments that are older than their retention, and packs those that
//! stay. It has all the time in the world, so it rests far longer than it works.
//!
//! A segment goes when all of this holds; the oldest first, and none before the one that precedes it has gone:
//! - every record in it is older than the retention, by a clock that is trusted;
//! - nobody needs one of its records any more: not the replay of a start, from what is durable in the state
//!   store, nor any of those that [`NeededFrom`] lists (the stream, once it is published);
//! - a snapshot that is durable covers every record in it, so that what stays can be verified and restored.
//!
//! What an account may still ask for of a removed record is a matter of the retention, which the settings keep
//! longer than keys are remembered and holds can be open: see [`crate::config::RETENTION_DAYS_MIN`].

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meed_schemas::codec;
use meed_schemas::time::Millis;

use crate::clock::{Clock, SystemTimes};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::journal::{ClosedSegment, JournalUpkeep};
use crate::keeper::Keeper;
use crate::metrics::UpkeepMetrics;
use crate::snapshots::{self, SnapshotSummary};
use crate::store::snapshot::SnapshotHeader;

/// For each part of work it rests so many times as long.
const REST_FACTOR: u32 = 9;
/// Longest rest after one part.
const REST_MAX: Duration = Duration::from_secs(1);
/// Rest after a segment was removed: freeing its blocks takes the disk's time.
const REST_AFTER_REMOVAL: Duration = Duration::from_millis(100);
/// Rest after a fault.
const REST_AFTER_FAULT: Duration = Duration::from_secs(60);
/// Batches of a segment that are read before a rest.
const BATCHES_PER_PART: u32 = 64;
/// How much less urgent the thread is than those that commit.
const NICENESS: i32 = 10;

/// Per shard, the lowest sequence that somebody still needs to read from the journal.
pub type NeededFrom = Box<dyn Fn() -> Result<Vec<u64>> + Send>;

/// What the thread works on.
pub struct Upkeep {
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
pub struct Retention {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Stop {
    told: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    fn told(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests; false when it is to stop.
    fn rest(&self, time: Duration) -> bool {
        let told = self.told();
        let rested = self.wake.wait_timeout_while(told, time, |told| !*told);
        !*rested.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Rests after a part of work that took so long.
    fn rest_after(&self, took: Duration) -> bool {
        self.rest((took * REST_FACTOR).min(REST_MAX))
    }
}

impl Retention {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(upkeep: Upkeep) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let told = Arc::clone(&stop);
        let path = upkeep.data.clone();
        let body = move || Worker::new(upkeep, told).run();
        let thread = std::thread::Builder::new().name("upkeep".into()).spawn(body);
        let thread = thread.map_err(|e| Error::io("start the thread that keeps up the journal in", path, e))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread, within one part of its work.
    pub fn stop(self) {
        *self.stop.told() = true;
        self.stop.wake.notify_all();
        // It has nothing to return, and a panic in it was reported by the panic hook.
        let _ = self.thread.join();
    }
}

struct Worker {
    upkeep: Upkeep,
    disk: Disk,
    stop: Arc<Stop>,
    clock: Clock,
    /// The time of the newest record of the oldest segment, once it is known.
    newest_record: Option<(u64, Millis)>,
    /// The newest snapshot, once it is known to be readable.
    snapshot: Option<SnapshotSummary>,
}

impl Worker {
    fn new(upkeep: Upkeep, stop: Arc<Stop>) -> Self {
        let (times, jump_ms) = upkeep.times;
        let clock = Clock::new(times.wall_ms(), times.elapsed_ms(), jump_ms);
        Self { upkeep, disk: Disk::default(), stop, clock, newest_record: None, snapshot: None }
    }

    fn run(mut self) {
        let _ = rustix::process::nice(NICENESS);
        loop {
            let rest = match self.remove_old().and_then(|()| self.pack_next()) {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.upkeep.interval,
                Err(fault) => {
                    self.upkeep.metrics.failures.increment(1);
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
        let retention_ms = self.upkeep.retention_ms?;
        let now = self.clock.now(self.upkeep.times.0.wall_ms(), self.upkeep.times.0.elapsed_ms());
        let is_trusted = !self.clock.jumped() && (self.upkeep.is_clock_trusted)();
        is_trusted.then(|| now.saturating_sub(retention_ms))
    }

    fn remove_old(&mut self) -> Result<()> {
        while let Some(cutoff) = self.cutoff()
            && let Some(oldest) = self.upkeep.journal.oldest()?
            && self.is_older(&oldest, cutoff)?
            && self.is_spare(&oldest)?
        {
            self.upkeep.journal.remove(&oldest)?;
            self.upkeep.metrics.removed.increment(1);
            self.upkeep.metrics.removed_bytes.increment(oldest.bytes);
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

    /// Whether every record of the oldest segment is older than the cutoff. Its first batch mostly tells that they
    /// are not; else the whole of it is read, once.
    fn is_older(&mut self, segment: &ClosedSegment, cutoff: Millis) -> Result<bool> {
        if let Some((number, newest)) = self.newest_record
            && number == segment.number
        {
            return Ok(newest < cutoff);
        }
        let first = segment.batches.start;
        let begin = ClosedSegment { batches: first..first + 1, ..segment.clone() };
        if self.newest_of(&begin)?.is_none_or(|newest| newest >= cutoff) {
            return Ok(false);
        }
        let Some(newest) = self.newest_of(segment)? else { return Ok(false) };
        self.newest_record = Some((segment.number, newest));
        Ok(newest < cutoff)
    }

    /// The time of the newest record in a segment's batches; `None` when it was told to stop.
    fn newest_of(&self, segment: &ClosedSegment) -> Result<Option<Millis>> {
        let (mut newest, mut batches, mut began, mut goes_on) = (Millis::MIN, 0u32, Instant::now(), true);
        self.upkeep.journal.visit(segment, &mut |batch| {
            for view in batch.records() {
                let record = codec::decode(view.position, view.payload).map_err(|e| Error::Damaged {
                    file: batch.file.into(),
                    offset: view.offset,
                    detail: format!("record {}: {e}", view.position),
                })?;
                newest = newest.max(record.recorded_at);
            }
            batches += 1;
            if batches.is_multiple_of(BATCHES_PER_PART) {
                goes_on = self.stop.rest_after(began.elapsed());
                began = Instant::now();
            }
            Ok(goes_on)
        })?;
        Ok(goes_on.then_some(newest))
    }

    /// Whether nobody needs the records up to the end of a segment, and a snapshot covers them; takes one if not.
    fn is_spare(&mut self, segment: &ClosedSegment) -> Result<bool> {
        let (journal_id, shards) = self.upkeep.identity;
        let goes = |needed: &[u64]| needed.iter().zip(&segment.up_to).all(|(needed, up_to)| up_to < needed);
        for needed_from in &self.upkeep.needed_from {
            if !goes(&needed_from()?) {
                return Ok(false);
            }
        }
        // The node is stopping where nothing comes.
        let Ok(view) = self.upkeep.keeper.view().recv() else { return Ok(false) };
        if !goes(&view.replay_starts(shards)?) {
            return Ok(false);
        }
        if self.newest_snapshot()?.is_some_and(|snapshot| snapshot.covers(&segment.up_to)) {
            return Ok(true);
        }
        let taken_at = self.upkeep.times.0.wall_ms();
        let header = SnapshotHeader { journal_id: journal_id.to_le_bytes(), shards, taken_at };
        snapshots::prepare_folder(&self.disk, &self.upkeep.data)?;
        let path = snapshots::next_path(&self.disk, &self.upkeep.data)?;
        let stop = Arc::clone(&self.stop);
        let written = snapshots::write(&self.disk, &path, &view, &header, &mut |took| stop.rest_after(took))?;
        let Some(summary) = written else { return Ok(false) };
        self.upkeep.metrics.snapshots.increment(1);
        tracing::info!(file = %path.display(), accounts = summary.accounts, "a snapshot was taken");
        let covers = summary.covers(&segment.up_to);
        self.snapshot = Some(summary);
        // Those before it cover less, and what they are the base of goes.
        for older in snapshots::list(&self.disk, &self.upkeep.data)?.iter().filter(|older| **older < path) {
            self.disk.remove(older)?;
        }
        Ok(covers)
    }

    fn newest_snapshot(&mut self) -> Result<Option<&SnapshotSummary>> {
        if self.snapshot.is_none()
            && let Some(path) = snapshots::list(&self.disk, &self.upkeep.data)?.pop()
        {
            match snapshots::read(&self.disk, &path, self.upkeep.identity, &mut |_| Ok(())) {
                Ok(summary) => self.snapshot = Some(summary),
                Err(fault @ Error::Io { .. }) => return Err(fault),
                // Another one is taken in its place.
                Err(fault) => tracing::warn!(%fault, "a snapshot cannot be used"),
            }
        }
        Ok(self.snapshot.as_ref())
    }

    /// Packs the oldest segment that is not packed; false when there is none.
    fn pack_next(&mut self) -> Result<bool> {
        if !self.upkeep.pack {
            return Ok(false);
        }
        let Some(segment) = self.upkeep.journal.oldest_plain()? else { return Ok(false) };
        let stop = Arc::clone(&self.stop);
        let packed = self.upkeep.journal.pack(&segment, &mut |took| stop.rest_after(took))?;
        let Some(bytes) = packed else { return Ok(false) };
        self.upkeep.metrics.packed.increment(1);
        self.upkeep.metrics.plain_bytes.increment(segment.bytes);
        self.upkeep.metrics.packed_bytes.increment(bytes);
        tracing::debug!(segment = segment.number, bytes, of = segment.bytes, "a journal segment was packed");
        Ok(true)
    }
}
