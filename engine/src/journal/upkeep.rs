//! What is done to closed segments in the background: packing them, and removing the oldest ones. When, and
//! whether anybody still needs them, is decided above. The newest closed segment is left alone, because only the
//! header of a later segment that is closed itself is certain to be durable.
//!
//! Packing a segment. P is its plain file, Q the packed one.
//! 1. Q is written under another name and synced. Crash: the next start removes it.
//! 2. Q gets its name, and the folder is synced. Crash before or after: P is there, perhaps Q as well; the next
//!    start removes Q, and it is made again.
//! 3. P is removed, and the folder is synced. Crash, power loss included: P, or Q, or both are there, and each is
//!    the whole segment.
//!
//! Removing the oldest segment.
//! 1. It leaves the list in memory: no reader finds it any more. Readers that have it open keep their file.
//! 2. Its file (both, after a crash in the middle of packing) is removed, and the folder is synced before
//!    anything else is removed: so whatever a power loss brings back is the oldest segment again, and there is
//!    never one missing between two.
//! 3. Its index is removed. Crash before: the next start removes it.

use std::sync::Arc;
use std::time::Instant;

use super::file::SegmentFile;
use super::packed::{PACKED_BLOCK_BYTES, PackedWriter};
use super::segment::{SegmentHeader, index_path, packed_path, segment_path, unfinished_packed_path};
use super::shared::{Shared, Snapshot, Stretch};
use super::walk::CHUNK_BYTES;
use super::{BatchSequence, BatchView, JournalReader};
use crate::error::{Error, Result};

/// How much of a segment is packed and synced in one step.
const STEP_BYTES: u64 = 512 * 1024;

/// Packs and removes closed segments; belongs to one thread.
#[derive(Debug)]
pub struct JournalUpkeep {
    shared: Arc<Shared>,
    /// A removal failed: what the folder holds is not known, so nothing more is removed before a restart.
    failed: bool,
}

/// A closed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    /// Its number.
    pub number: u64,
    /// Its first batch, and the first one of the segment after it.
    pub batches: std::ops::Range<BatchSequence>,
    /// Per shard, the last sequence that it or a segment before it holds.
    pub up_to: Vec<u64>,
    /// Length of its records and what is round them, unpacked.
    pub bytes: u64,
    /// Whether it is packed.
    pub packed: bool,
}

/// Told after each step of packing how long it took: waits as long as the one who commits is to be left in
/// peace; false when the work is to be left unfinished.
pub type Pace<'a> = &'a mut dyn FnMut(std::time::Duration) -> bool;

impl JournalUpkeep {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, failed: false }
    }

    /// A reader of the same journal.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// The oldest segment, if it may be removed: it is closed, and not the newest that is.
    pub fn oldest(&self) -> Result<Option<ClosedSegment>> {
        let snapshot = Snapshot::of(&self.shared.live());
        if snapshot.closed.len() < 2 {
            return Ok(None);
        }
        self.closed_segment(&snapshot, 0).map(Some)
    }

    /// The oldest segment that is not packed, if it may be: it is closed, and not the newest that is.
    pub fn oldest_plain(&self) -> Result<Option<ClosedSegment>> {
        let snapshot = Snapshot::of(&self.shared.live());
        let Some(number) = self.shared.oldest_plain() else { return Ok(None) };
        match snapshot.closed.binary_search(&number) {
            Ok(at) if at + 1 < snapshot.closed.len() => self.closed_segment(&snapshot, at).map(Some),
            _ => Ok(None),
        }
    }

    fn closed_segment(&self, snapshot: &Snapshot, at: usize) -> Result<ClosedSegment> {
        let stretch = self.shared.stretch(snapshot, at)?;
        let (first, next) = (stretch.header.first_batch, following(&stretch)?);
        Ok(ClosedSegment {
            number: stretch.header.number,
            batches: first..next.first_batch,
            up_to: next.base.clone(),
            bytes: stretch.end,
            packed: matches!(stretch.file, SegmentFile::Packed(_)),
        })
    }

    /// The batches of a closed segment, each fully checked, until `visit` says that it is enough.
    pub fn visit(&self, segment: &ClosedSegment, visit: &mut dyn FnMut(&BatchView<'_>) -> Result<bool>) -> Result<()> {
        let mut enough = false;
        let scanned = self.reader().scan_batches(segment.batches.start, &mut |batch| {
            enough = batch.header.sequence >= segment.batches.end || !visit(batch)?;
            // Ends the scan.
            if enough { Err(Error::Stopped("seen enough".to_owned())) } else { Ok(()) }
        });
        if enough { Ok(()) } else { scanned }
    }

    /// Removes the oldest segment, which is `segment`.
    ///
    /// # Errors
    /// The folder cannot be changed; then this refuses everything after.
    pub fn remove(&mut self, segment: &ClosedSegment) -> Result<()> {
        if self.failed || self.shared.oldest() != Some(segment.number) {
            return Err(Error::Stopped(format!("segment {} cannot be removed now", segment.number)));
        }
        self.shared.forget_oldest(segment.number);
        let removed = self.try_remove(segment.number);
        self.failed = removed.is_err();
        removed
    }

    fn try_remove(&self, number: u64) -> Result<()> {
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        disk.remove(&segment_path(dir, number))?;
        disk.remove(&packed_path(dir, number))?;
        disk.sync_dir(dir)?;
        disk.remove(&index_path(dir, number))
    }

    /// Packs a closed segment; returns the length of the packed file, or `None` when `pace` ended it.
    ///
    /// # Errors
    /// The segment cannot be read or the packed file cannot be written; the segment is as it was.
    pub fn pack(&mut self, segment: &ClosedSegment, pace: Pace<'_>) -> Result<Option<u64>> {
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        let unfinished = unfinished_packed_path(dir, segment.number);
        let written = self.write_packed(segment, &unfinished, pace);
        let Ok(Some(bytes)) = written else {
            // Else an attempt that failed would keep the space that may be what is short.
            let _ = disk.remove(&unfinished);
            return written;
        };
        disk.rename(&unfinished, &packed_path(dir, segment.number))?;
        disk.sync_dir(dir)?;
        disk.remove(&segment_path(dir, segment.number))?;
        self.shared.note_packed(segment.number);
        disk.sync_dir(dir)?;
        Ok(Some(bytes))
    }

    fn write_packed(
        &self,
        segment: &ClosedSegment,
        unfinished: &std::path::Path,
        pace: Pace<'_>,
    ) -> Result<Option<u64>> {
        let snapshot = Snapshot::of(&self.shared.live());
        let Ok(at) = snapshot.closed.binary_search(&segment.number) else { return Ok(None) };
        let stretch = self.shared.stretch(&snapshot, at)?;
        // Not the length of the file: behind the last batch may be zeros that are not cut off yet.
        let end = self.shared.index(&stretch)?.end;
        let mut packed = PackedWriter::new(self.shared.disk.create(unfinished)?, end);
        let mut block = vec![0; PACKED_BLOCK_BYTES.min(CHUNK_BYTES)];
        let (mut offset, mut synced, mut began) = (0, 0, Instant::now());
        while offset < end {
            let length = (end - offset).min(block.len() as u64);
            let block = &mut block[..length as usize];
            if stretch.file.read_at(block, offset)? < block.len() {
                return Err(super::shared::damaged(&stretch.file, offset, "the segment ends early"));
            }
            packed.add(block)?;
            offset += length;
            if offset - synced >= STEP_BYTES {
                packed.sync()?;
                synced = offset;
                if !pace(began.elapsed()) {
                    return Ok(None);
                }
                began = Instant::now();
            }
        }
        packed.finish().map(Some)
    }
}

fn following(stretch: &Stretch) -> Result<Arc<SegmentHeader>> {
    let missing = || Error::Internal("a closed segment has none after it".to_owned());
    stretch.next.clone().ok_or_else(missing)
}
