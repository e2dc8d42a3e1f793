//! Removing old buckets of the journal in CQL, beside everything else.
//!
//! A bucket goes whole, the oldest first, when all of this holds:
//! - its newest record is older than the retention, by a clock that is trusted;
//! - everything in it is checkpointed, projected into the history, and published if events are published: all three
//!   by what is durable;
//! - two newer buckets are there.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use meed_schemas::time::Millis;

use crate::background::Stop;
use crate::clock::{Clock, SystemTimes};
use crate::error::{Error, Result};
use crate::journal;
use crate::journal::cql::{SpareBucket, Trimmer};
use crate::metrics::UpkeepMetrics;
use crate::planted::{Fault, planted};
use crate::retention::NeededFrom;

/// Rest between two removals: they are work for the servers.
const REST_AFTER_REMOVAL: Duration = Duration::from_millis(100);
/// Rest after a fault.
const REST_AFTER_FAULT: Duration = Duration::from_secs(60);

/// What the thread works on.
pub struct Trim {
    /// The buckets.
    pub trimmer: Trimmer,
    /// Who needs records, beside a start.
    pub needed_from: Vec<NeededFrom>,
    /// Whether the clock is trusted: else nothing is removed.
    pub is_clock_trusted: Box<dyn Fn() -> bool + Send>,
    /// The machine's clocks, and the leap beyond which the wall clock is not followed.
    pub times: (SystemTimes, i64),
    /// How old a record must be to go; `None` keeps all.
    pub retention_ms: Option<i64>,
    /// Time between two looks.
    pub interval: Duration,
    /// What is counted.
    pub metrics: UpkeepMetrics,
}

/// The running thread.
pub struct Trimming {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

impl Trimming {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(trim: Trim) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("trim".into()).spawn(move || trim.run(&told));
        let thread = thread.map_err(|e| Error::io("start the thread that removes old buckets of", "the node", e))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread, within one removal.
    pub fn stop(self) {
        self.stop.tell();
        // It logged what went wrong.
        let _ = self.thread.join();
    }
}

/// Whether nobody needs what lies up to a sequence: who needs records from where on, and up to where a start replays
/// nothing.
pub(crate) fn may_go(up_to: u64, mut needed_from: impl Iterator<Item = u64>, checkpointed: u64) -> bool {
    needed_from.all(|needed| needed > up_to) && (checkpointed >= up_to || planted(Fault::RemoveUncheckpointed))
}

impl Trim {
    fn run(self, stop: &Stop) {
        let (times, jump_ms) = self.times;
        let mut clock = Clock::new(times.wall_ms(), times.elapsed_ms(), jump_ms);
        let mut epochs = Vec::new();
        loop {
            let now = clock.now(times.wall_ms(), times.elapsed_ms());
            let is_trusted = !clock.jumped() && (self.is_clock_trusted)();
            let cutoff = self.retention_ms.filter(|_| is_trusted).map(|retention_ms| now.saturating_sub(retention_ms));
            let rest = match self.round(&mut epochs, cutoff) {
                Ok(true) => REST_AFTER_REMOVAL,
                Ok(false) => self.interval,
                Err(fault) => {
                    self.metrics.failures.increment(1);
                    tracing::warn!(%fault, "cannot remove old buckets of the journal");
                    REST_AFTER_FAULT
                }
            };
            if !stop.rest(rest) {
                return;
            }
        }
    }

    /// Removes at most one bucket of each shard; whether there was one.
    fn round(&self, epochs: &mut Vec<i64>, cutoff: Option<Millis>) -> Result<bool> {
        let owned = self.trimmer.reader().epochs();
        for (shard, epoch) in owned.iter().enumerate() {
            if *epoch != 0 && epochs.get(shard) != Some(epoch) {
                self.trimmer.finish_removals(shard as u16)?;
            }
        }
        *epochs = owned;
        let Some(cutoff) = cutoff else { return Ok(false) };
        let needed = self.needed_from.iter().map(|needed_from| needed_from()).collect::<Result<Vec<_>>>()?;
        let mut any = false;
        for spare in (0..epochs.len()).filter_map(|shard| self.trimmer.oldest(shard as u16)) {
            let needed = needed.iter().map(|needed| needed[usize::from(spare.shard)]);
            if !may_go(spare.up_to, needed, self.trimmer.checkpointed(spare.shard)?)
                || !self.is_older(&spare, cutoff)?
            {
                continue;
            }
            self.trimmer.remove(&spare)?;
            self.metrics.removed.increment(1);
            let SpareBucket { shard, bucket, up_to } = spare;
            tracing::info!(shard, bucket, up_to, "a bucket of the journal older than its retention was removed");
            any = true;
        }
        Ok(any)
    }

    fn is_older(&self, spare: &SpareBucket, cutoff: Millis) -> Result<bool> {
        let Some((position, payload)) = self.trimmer.newest_record(spare)? else { return Ok(false) };
        // Times of a shard's records never go back.
        Ok(journal::decode(position, &payload)?.recorded_at < cutoff)
    }
}
