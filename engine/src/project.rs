//! Projection: effects that are durable in the journal in CQL become typed rows of the history, for listings and for
//! people. A thread follows the journal; nothing waits for it. Rows are the same whoever writes them and however often,
//! so after a crash it goes on behind the watermark that was saved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meed_schemas::codec;
use meed_schemas::record::Record;

use crate::background::Stop;
use crate::error::{Error, Result};
use crate::feed::{Next, Reached, read_on};
use crate::journal::Records;
use crate::journal::cql::{CqlReader, Effect};
use crate::metrics::ProjectMetrics;
use crate::program::Programs;
use crate::publish::CurrentPrograms;
use crate::retention::NeededFrom;

/// Records that are read before their rows are written.
const ROUND_RECORDS: usize = 256;
/// Pace of looking for new records when there were none.
const POLL: Duration = Duration::from_millis(50);
/// Pace of trying again after a fault.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two saves of the watermark.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The projecting thread, seen from the others.
#[derive(Debug)]
pub struct Projector {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    /// What is saved as projected.
    saved: Vec<AtomicU64>,
}

impl Projector {
    /// Starts to write what the journal has and the history lacks.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(journal: CqlReader, programs: CurrentPrograms, metrics: ProjectMetrics) -> Result<Self> {
        let shards = usize::from(journal.shards());
        let saved = (0..shards).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { stop: Stop::default(), saved });
        let records = Records::Cql(journal.clone());
        let run = Run {
            journal,
            records,
            programs,
            metrics,
            shared: Arc::clone(&shared),
            epochs: Vec::new(),
            from: vec![0; shards],
            next_shard: 0,
            saved_at: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("projector".into()).spawn(move || run.run());
        let thread = thread.map_err(|error| Error::io("start the projecting thread of", "the node", error))?;
        Ok(Self { shared, thread })
    }

    /// What is not saved as projected stays in the journal.
    pub fn needed_from(&self) -> NeededFrom {
        let shared = Arc::clone(&self.shared);
        Box::new(move || Ok(shared.saved.iter().map(|sequence| sequence.load(Ordering::Acquire) + 1).collect()))
    }

    /// Ends the thread. What is not projected yet is left to whoever owns the shards next.
    pub fn stop(self) {
        self.shared.stop.tell();
        // It logged what went wrong.
        let _ = self.thread.join();
    }
}

struct Run {
    journal: CqlReader,
    records: Records,
    programs: CurrentPrograms,
    metrics: ProjectMetrics,
    shared: Arc<Shared>,
    /// The shards as they were taken.
    epochs: Vec<i64>,
    /// By shard, everything up to here has its row.
    from: Vec<u64>,
    /// The shard that the next round begins with.
    next_shard: usize,
    saved_at: Instant,
}

impl Run {
    fn run(mut self) {
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            let rest = match self.round() {
                // It leaves the servers as much time as it takes.
                Ok(Reached::Limit) => began.elapsed(),
                Ok(Reached::End) => POLL,
                Err(fault) => {
                    self.metrics.failures.increment(1);
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(%fault, "the history is not written; the journal keeps what it lacks");
                    }
                    RETRY
                }
            };
            if rest < RETRY && std::mem::take(&mut has_failed) {
                tracing::info!("the history is written again");
            }
            if !self.shared.stop.rest(rest) {
                // What is not saved is written once more.
                let _ = self.save();
                return;
            }
        }
    }

    fn round(&mut self) -> Result<Reached> {
        self.take_shards()?;
        let programs = (self.programs)();
        let (mut from, mut effects) = (self.from.clone(), Vec::new());
        let reached = read_round(&self.records, &mut from, &mut self.next_shard, &mut |record| {
            if record.kind.is_effect() {
                effects.push(effect(record, &programs));
            }
        })?;
        if !effects.is_empty() {
            self.journal.history().write(&effects)?;
            self.metrics.rows.increment(effects.len() as u64);
        }
        self.from = from;
        for (shard, sequence) in self.from.iter().enumerate().filter(|(shard, _)| self.epochs[*shard] != 0) {
            self.journal.set_projected(shard as u16, *sequence);
        }
        if self.saved_at.elapsed() >= SAVE_INTERVAL {
            self.save()?;
        }
        Ok(reached)
    }

    /// Looks which shards this node owns, and how far others have come with those that it took.
    fn take_shards(&mut self) -> Result<()> {
        let epochs = self.journal.epochs();
        if epochs == self.epochs {
            return Ok(());
        }
        let removed = self.journal.removed_sequence();
        for shard in (0..epochs.len()).filter(|shard| self.epochs.get(*shard) != Some(&epochs[*shard])) {
            let saved = if epochs[shard] == 0 { 0 } else { self.journal.history().saved(shard as u16)? };
            // Nothing is removed before it is projected.
            self.from[shard] = saved.max(removed[shard]);
            self.shared.saved[shard].store(self.from[shard], Ordering::Release);
        }
        self.epochs = epochs;
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.saved_at = Instant::now();
        let mut lag = 0;
        for (shard, last) in self.journal.last_sequence().iter().enumerate() {
            let sequence = self.from[shard];
            lag += last.saturating_sub(sequence);
            if self.shared.saved[shard].load(Ordering::Acquire) < sequence {
                self.journal.history().save(shard as u16, sequence)?;
                self.shared.saved[shard].store(sequence, Ordering::Release);
            }
        }
        self.metrics.report(lag);
        Ok(())
    }
}

/// Visits the records of one round and moves `from` on past them. It begins with another shard each time it could not
/// read all: under more load than the history can follow, those behind the first busy one would get nothing for as
/// long.
fn read_round(
    records: &Records,
    from: &mut [u64],
    next_shard: &mut usize,
    visit: &mut dyn FnMut(&Record),
) -> Result<Reached> {
    let (shards, mut left, mut last) = (from.len(), ROUND_RECORDS, *next_shard);
    for part in [*next_shard..shards, 0..*next_shard] {
        // Of the others everything counts as read.
        let mut of_part = vec![u64::MAX - 1; shards];
        of_part[part.clone()].copy_from_slice(&from[part.clone()]);
        let reached = read_on(records, &mut of_part, left, &mut |record, _| {
            visit(record);
            (left, last) = (left - 1, usize::from(record.position.shard()));
            Ok(Next::More)
        });
        from[part.clone()].copy_from_slice(&of_part[part]);
        if reached? == Reached::Limit {
            *next_shard = (last + 1) % shards;
            return Ok(Reached::Limit);
        }
    }
    Ok(Reached::End)
}

fn effect(record: &Record, programs: &Programs) -> Effect {
    let program = programs.get(record.identity.program());
    let version = program.and_then(|program| program.version(record.newest_version));
    let tier = version.and_then(|version| version.document.tiers.levels.get(usize::from(record.tier)));
    let mut payload = Vec::new();
    codec::encode(record, &mut payload);
    Effect { record: record.clone(), payload, tier: tier.map(|level| level.name.as_str().into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use meed_schemas::ids::{Identity, Position};

    use super::*;
    use crate::journal::MemoryRecords;
    use crate::test_record::earn;

    #[test]
    fn a_shard_that_is_always_busy_does_not_keep_the_others_waiting() {
        let shards = 3;
        let count = 3 * ROUND_RECORDS as u64;
        let mut records = MemoryRecords::new(shards as u16);
        for shard in 0..shards as u16 {
            records.set_extent(shard, 0, count);
            for sequence in 1..=count {
                let (position, mut payload) = (Position::new(shard, sequence), Vec::new());
                codec::encode(&earn(position, Identity::member("p", "m")), &mut payload);
                records.put(position, payload.into());
            }
        }
        let records = Records::Memory(records);
        let (mut from, mut next_shard, mut seen) = (vec![0; shards], 0, Vec::new());
        for _ in 0..shards {
            let reached = read_round(&records, &mut from, &mut next_shard, &mut |record| seen.push(record.position));
            assert_eq!(reached.unwrap(), Reached::Limit);
        }
        assert_eq!(from, [ROUND_RECORDS as u64; 3], "each has had its round");
        assert_eq!(seen.len(), 3 * ROUND_RECORDS);
        while read_round(&records, &mut from, &mut next_shard, &mut |record| seen.push(record.position)).unwrap()
            == Reached::Limit
        {}
        assert_eq!((from, seen.len() as u64), (vec![count; 3], 3 * count));
    }
}
