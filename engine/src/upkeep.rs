//! Keeping up the closed segments of the journal, one step at a time: removing those that are older than their
//! retention, and packing those that stay. Threads, clocks and rests are the caller's: the node's thread and the
//! simulator take the same steps.
//!
//! A segment goes when all of this holds; the oldest first, and none before the one that precedes it has gone:
//! - every record in it is older than the retention, by a clock that is trusted;
//! - nobody needs one of its records any more: not the replay of a start, from what is durable in the state
//!   store, nor any of those that [`Surroundings::needed_from`] lists (the stream, once it is published);
//! - a snapshot that is durable covers every record in it, so that what stays can be verified and restored.
//!
//! What an account may still ask for of a removed record is a matter of the retention, which the settings keep
//! longer than keys are remembered and holds can be open: see [`crate::config::RETENTION_DAYS_MIN`].

use std::path::PathBuf;
use std::time::Instant;

use meed_schemas::time::Millis;

use crate::disk::Disk;
use crate::error::Result;
use crate::journal::{ClosedSegment, JournalUpkeep, Pace};
use crate::planted::{Fault, planted};
use crate::snapshots::{self, SnapshotSummary};
use crate::store::StoreView;
use crate::store::snapshot::SnapshotHeader;

/// Batches of a segment that are read before a rest.
const BATCHES_PER_PART: u32 = 64;

/// What a step needs of the node round it.
pub struct Surroundings<'a> {
    /// Per shard and for each of those who read the journal, the lowest sequence that is still needed.
    pub needed_from: &'a dyn Fn() -> Result<Vec<Vec<u64>>>,
    /// A view of the store in which everything is durable; `None` when the node is stopping.
    pub view: &'a mut dyn FnMut() -> Result<Option<StoreView>>,
    /// Told after each part of the work.
    pub pace: Pace<'a>,
    /// The wall clock, as snapshots show it.
    pub taken_at: Millis,
}

/// The closed segments of one data folder.
pub struct Upkeep {
    disk: Disk,
    data: PathBuf,
    journal: JournalUpkeep,
    /// The journal's id, and how many shards it has.
    identity: (u128, u16),
    /// The time of the newest record of the oldest segment, once it is known.
    newest_record: Option<(u64, Millis)>,
    /// The newest snapshot, once it is known to be readable.
    snapshot: Option<SnapshotSummary>,
    snapshots_taken: u64,
}

impl Upkeep {
    /// Of the journal of a data folder, which has this id and so many shards.
    pub fn new(disk: Disk, data: PathBuf, journal: JournalUpkeep, identity: (u128, u16)) -> Self {
        Self { disk, data, journal, identity, newest_record: None, snapshot: None, snapshots_taken: 0 }
    }

    /// How many snapshots were taken so far.
    pub fn snapshots_taken(&self) -> u64 {
        self.snapshots_taken
    }

    /// The oldest segment that may be removed once it is time.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn oldest(&self) -> Result<Option<ClosedSegment>> {
        self.journal.oldest()
    }

    /// Removes the oldest segment, if all its records are older than `cutoff` and nobody needs them; returns it.
    ///
    /// # Errors
    /// The journal or the store cannot be read, a snapshot cannot be written, or the folder cannot be changed.
    pub fn remove_next(&mut self, cutoff: Millis, around: &mut Surroundings<'_>) -> Result<Option<ClosedSegment>> {
        let Some(oldest) = self.oldest()? else { return Ok(None) };
        if !self.is_older(&oldest, cutoff, around.pace)? || !self.is_spare(&oldest, around)? {
            return Ok(None);
        }
        self.journal.remove(&oldest)?;
        Ok(Some(oldest))
    }

    /// Packs the oldest segment that is not packed; returns it and the length of the packed file, or `None` when
    /// there is none, or `pace` ended it.
    ///
    /// # Errors
    /// The segment cannot be read, or the packed file cannot be written.
    pub fn pack_next(&mut self, pace: Pace<'_>) -> Result<Option<(ClosedSegment, u64)>> {
        let Some(segment) = self.journal.oldest_plain()? else { return Ok(None) };
        let packed = self.journal.pack(&segment, pace)?;
        Ok(packed.map(|bytes| (segment, bytes)))
    }

    /// Whether every record of the oldest segment is older than the cutoff. Its first batch mostly tells that they
    /// are not; else the whole of it is read, once.
    fn is_older(&mut self, segment: &ClosedSegment, cutoff: Millis, pace: Pace<'_>) -> Result<bool> {
        if let Some((number, newest)) = self.newest_record
            && number == segment.number
        {
            return Ok(newest < cutoff);
        }
        let first = segment.batches.start;
        let begin = ClosedSegment { batches: first..first + 1, ..segment.clone() };
        if self.newest_of(&begin, pace)?.is_none_or(|newest| newest >= cutoff) {
            return Ok(false);
        }
        let Some(newest) = self.newest_of(segment, pace)? else { return Ok(false) };
        self.newest_record = Some((segment.number, newest));
        Ok(newest < cutoff)
    }

    /// The time of the newest record in a segment's batches; `None` when it was told to stop.
    fn newest_of(&self, segment: &ClosedSegment, pace: Pace<'_>) -> Result<Option<Millis>> {
        let (mut newest, mut batches, mut began, mut goes_on) = (Millis::MIN, 0u32, Instant::now(), true);
        self.journal.visit(segment, &mut |batch| {
            for view in batch.records() {
                newest = newest.max(view.decode()?.recorded_at);
            }
            batches += 1;
            if batches.is_multiple_of(BATCHES_PER_PART) {
                goes_on = pace(began.elapsed());
                began = Instant::now();
            }
            Ok(goes_on)
        })?;
        Ok(goes_on.then_some(newest))
    }

    /// Whether nobody needs the records up to the end of a segment, and a snapshot covers them; takes one if not.
    fn is_spare(&mut self, segment: &ClosedSegment, around: &mut Surroundings<'_>) -> Result<bool> {
        let (journal_id, shards) = self.identity;
        let goes = |needed: &[u64]| needed.iter().zip(&segment.up_to).all(|(needed, up_to)| up_to < needed);
        if !(around.needed_from)()?.iter().all(|needed| goes(needed)) && !planted(Fault::RemoveUnpublished) {
            return Ok(false);
        }
        let Some(view) = (around.view)()? else { return Ok(false) };
        if !goes(&view.replay_starts(shards)?) && !planted(Fault::RemoveNeededSegment) {
            return Ok(false);
        }
        if self.newest_snapshot()?.is_some_and(|snapshot| snapshot.covers(&segment.up_to)) {
            return Ok(true);
        }
        let header = SnapshotHeader { journal_id: journal_id.to_le_bytes(), shards, taken_at: around.taken_at };
        snapshots::prepare_folder(&self.disk, &self.data)?;
        let path = snapshots::next_path(&self.disk, &self.data)?;
        let written = snapshots::write(&self.disk, &path, &view, &header, around.pace)?;
        let Some(summary) = written else { return Ok(false) };
        self.snapshots_taken += 1;
        tracing::info!(file = %path.display(), accounts = summary.accounts, "a snapshot was taken");
        let covers = summary.covers(&segment.up_to) || planted(Fault::RemoveNeededSegment);
        self.snapshot = Some(summary);
        // Those before it cover less, and what they are the base of goes.
        for older in snapshots::list(&self.disk, &self.data)?.iter().filter(|older| **older < path) {
            self.disk.remove(older)?;
        }
        Ok(covers)
    }

    fn newest_snapshot(&mut self) -> Result<Option<&SnapshotSummary>> {
        if self.snapshot.is_none() {
            self.snapshot = snapshots::newest(&self.disk, &self.data, self.identity)?;
        }
        Ok(self.snapshot.as_ref())
    }
}
