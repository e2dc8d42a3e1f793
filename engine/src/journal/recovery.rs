//! The second half of recovery: opens a folder for writing. The valid tail that may be only in the page cache
//! is copied into a fresh segment and synced, then everything else is put in order.
//!
//! Why a copy. A process is killed after `write` and before `sync` returns; the page cache survives. The next
//! process reads batch K from the cache, replays it, and would acknowledge its outcomes to retries. Then the
//! power goes: K was never on disk, and something acknowledged is lost. A second fdatasync of the old file
//! does not help, because the first one may have failed and marked the pages clean. So K is written again.
//!
//! Interleavings. D is the newest batch known durable, L the last valid one, `old` the segment that has
//! them, `new` the fresh one.
//! 1. Crash before the header of `new` is valid: `new` counts for nothing, `old` still has D+1..L. The next
//!    recovery finds in `new` at most copies that claim no more than D, discards it and starts over.
//! 2. The copies are synced before the header is written, so a valid header says that they are all durable.
//!    It also names D+1 as its first batch: from here on `old` ends at D, whatever stands behind.
//! 3. Crash before `old` is cut: the next recovery reads `old` up to D and `new` from D+1, as above, and cuts
//!    it then. It cannot miss `old`, because examination begins at the segment that holds the recorded
//!    durable end, and that is advanced only after the cut is durable.
//! 4. Crash after that and before `durable-end` says L: the next recovery copies D+1..L once more, into a
//!    third segment, and `new` is left without batches of its own and removed.
//!
//! Copies keep batch sequence, records and directory; incarnation, claim and chain are those of `new`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::batch::{BLOCK_BYTES, BatchBuilder, BatchHeader};
use super::chain::Chain;
use super::examine::{Examined, LastSegment, examine};
use super::file::SegmentFile;
use super::index::SegmentIndex;
use super::mark::MarkFile;
use super::prepare::{Prepared, Preparer};
use super::segment::{Folder, SegmentHeader, check_identity, header_bytes, index_path, packed_path, segment_path};
use super::walk::{Step, Walker};
use super::{JournalOptions, Recovered};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::planted::{Fault, planted};

/// A journal that is ready to be written to.
pub(super) struct Started {
    pub(super) recovered: Recovered,
    pub(super) mark: MarkFile,
    pub(super) preparer: Preparer,
    /// Closed segments, oldest first.
    pub(super) closed: Vec<u64>,
    /// Those of them that are packed.
    pub(super) packed: Vec<u64>,
    pub(super) active: Active,
    pub(super) chain: Chain,
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) header: Arc<SegmentHeader>,
    pub(super) file: DiskFile,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Its batches so far.
    pub(super) index: SegmentIndex,
}

/// Recovers the journal in a folder that is locked, or creates one.
pub(super) fn start(disk: &Disk, dir: &Path, options: &JournalOptions) -> Result<Started> {
    let folder = Folder::of_names(disk.list(dir)?);
    for name in &folder.unfinished {
        disk.remove(&dir.join(name))?;
    }
    tidy_up(disk, dir, &folder)?;
    let (mut mark, created) = match MarkFile::open(disk, dir, true)? {
        Some(mark) => (mark, false),
        None if !folder.segments.is_empty() => return Err(MarkFile::missing(dir)),
        None => {
            let journal_id = match options.new_journal_id {
                Some(id) => id,
                None => random_id()?,
            };
            (MarkFile::create(disk, dir, journal_id, options.shards)?, true)
        }
    };
    let journal_id = mark.mark.journal_id;
    check_identity(dir, (journal_id, mark.mark.shards), (journal_id, options.shards))?;
    let mut examined = examine(disk, dir, &folder.segments, &mark.mark)?;

    let incarnation = examined.incarnation + 1;
    let preparer = clear_the_way(disk, dir, options, &mut examined, folder.segments.last().copied())?;
    let tail = Tail::of(&examined)?;
    let active = tail.copy(&preparer, &examined, (journal_id, incarnation), options)?;
    let copied_batches = examined.chain.last_batch - tail.start.last_batch;
    let mut chain = examined.chain.clone();
    chain.last_checksum = active.1;
    let closed = retire(disk, dir, &examined, &tail)?;
    let mut last_sequence = chain.last_sequence.clone();
    if planted(Fault::ReuseSequenceAfterTornTail) && examined.cut.is_some() {
        last_sequence.iter_mut().for_each(|last| *last = last.saturating_sub(1));
    }
    let recovered = Recovered {
        journal_id,
        incarnation,
        created,
        clean: mark.mark.clean,
        last_batch: chain.last_batch,
        last_sequence,
        copied_batches,
        cut: examined.cut,
    };
    mark.advance(chain.last_batch, incarnation, false)?;
    Ok(Started { recovered, mark, preparer, closed, packed: folder.packed, active: active.0, chain })
}

/// Takes away what a crash between two steps of packing or of removing a segment left: of a segment that is there
/// in both forms the packed one, which is made again; the index of one that is gone.
fn tidy_up(disk: &Disk, dir: &Path, folder: &Folder) -> Result<()> {
    for &number in &folder.packed_twice {
        disk.remove(&packed_path(dir, number))?;
    }
    for &number in &folder.stray_indexes {
        disk.remove(&index_path(dir, number))?;
    }
    Ok(())
}

fn random_id() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Removes torn segments behind the valid end, and takes over the prepared ones that fit.
fn clear_the_way(
    disk: &Disk,
    dir: &Path,
    options: &JournalOptions,
    examined: &mut Examined,
    last_number: Option<u64>,
) -> Result<Preparer> {
    let mut ready = VecDeque::new();
    for &(number, bytes) in &examined.blank {
        if bytes == options.segment_bytes {
            let file = disk.open(&segment_path(dir, number))?;
            ready.push_back(Prepared { number, file, bytes });
        } else {
            examined.discard.push(number);
        }
    }
    let newest = examined.last.as_ref().map_or(0, |last| last.header.number);
    for &number in examined.discard.iter().filter(|&&number| number > newest) {
        disk.remove(&segment_path(dir, number))?;
    }
    let ahead = (options.segment_bytes, options.prepared_segments);
    let next_number = last_number.unwrap_or(0) + 1;
    Ok(Preparer::new(disk.clone(), dir.to_path_buf(), ahead, ready, next_number))
}

/// The batches after the newest one known durable, all in the newest segment: a segment is begun only when
/// what precedes it is durable.
struct Tail {
    /// The journal's end before the tail.
    start: Chain,
    offset: u64,
    bytes: u64,
}

impl Tail {
    fn of(examined: &Examined) -> Result<Self> {
        let Some(LastSegment { header, file, index }) = &examined.last else {
            return Ok(Self { start: examined.chain.clone(), offset: 0, bytes: 0 });
        };
        let mut start = Chain::new(header.first_batch - 1, header.previous_checksum, header.base.clone());
        let mut walker = Walker::new(file.clone(), header, header.bytes() as u64, index.end);
        let mut offset = header.bytes() as u64;
        while start.last_batch < examined.durable {
            match walker.step()? {
                Step::Batch { offset: at, batch } => {
                    start.follow(&batch).map_err(|detail| changed(file, at, detail))?;
                    offset = at + batch.header.total_bytes();
                }
                Step::End { offset } => return Err(changed(file, offset, "a batch is gone")),
                Step::Invalid { offset, detail } => return Err(changed(file, offset, detail)),
            }
        }
        Ok(Self { start, offset, bytes: index.end - offset })
    }

    /// Begins the segment of this incarnation with the tail; returns it and the checksum of its last batch.
    fn copy(
        &self,
        preparer: &Preparer,
        examined: &Examined,
        (journal_id, incarnation): (u128, u64),
        options: &JournalOptions,
    ) -> Result<(Active, u32)> {
        let header_bytes = header_bytes(options.shards) as u64;
        let needed = header_bytes + self.bytes;
        let prepared = if needed <= options.segment_bytes {
            preparer.take()?
        } else {
            preparer.make(needed.next_multiple_of(BLOCK_BYTES as u64))?
        };
        let header = Arc::new(SegmentHeader {
            journal_id,
            incarnation,
            number: prepared.number,
            first_batch: self.start.last_batch + 1,
            previous_checksum: self.start.last_checksum,
            base: self.start.last_sequence.clone(),
        });
        let mut index = SegmentIndex::new(&header);
        let mut checksum = self.start.last_checksum;
        if let (Some(last), true) = (&examined.last, self.bytes > 0) {
            let end = self.offset + self.bytes;
            let mut walker = Walker::new(last.file.clone(), &last.header, self.offset, end);
            let mut builder = BatchBuilder::default();
            loop {
                let (offset, batch) = match walker.step()? {
                    Step::Batch { offset, batch } => (offset, batch),
                    Step::End { offset } if offset == end => break,
                    Step::End { offset } => return Err(changed(&last.file, offset, "a batch is gone")),
                    Step::Invalid { offset, detail } => return Err(changed(&last.file, offset, detail)),
                };
                let copy = BatchHeader {
                    incarnation,
                    durable_up_to: self.start.last_batch,
                    previous_checksum: checksum,
                    ..batch.header
                };
                debug_assert!(offset >= self.offset);
                checksum = copy.checksum();
                prepared.file.write_at(builder.rebuild(copy, batch.contents()), index.end)?;
                index.add(&header, copy.total_bytes(), batch.runs());
            }
            if !planted(Fault::AcknowledgeUnsyncedTail) {
                prepared.file.sync_data()?;
            }
        }
        prepared.file.write_at(&header.encode(), 0)?;
        if !planted(Fault::AcknowledgeUnsyncedTail) {
            prepared.file.sync_data()?;
        }
        Ok((Active { header, file: prepared.file, bytes: prepared.bytes, index }, checksum))
    }
}

/// Cuts what is superseded off the older segments, removes those that hold nothing else, and makes that
/// durable. Returns the segments that stay.
fn retire(disk: &Disk, dir: &Path, examined: &Examined, tail: &Tail) -> Result<Vec<u64>> {
    let mut closed = examined.segments.clone();
    let mut excess = examined.excess.clone();
    let mut discard = examined.discard.clone();
    if let Some(last) = &examined.last {
        if tail.start.last_batch + 1 == last.header.first_batch {
            discard.push(last.header.number);
            closed.pop();
        } else if last.file.len()? > tail.offset {
            excess.push((last.header.number, tail.offset));
        }
    }
    for (number, end) in excess {
        let file = disk.open(&segment_path(dir, number))?;
        file.cut(end)?;
        file.sync_data()?;
    }
    for number in discard {
        disk.remove(&segment_path(dir, number))?;
        disk.remove(&packed_path(dir, number))?;
        disk.remove(&index_path(dir, number))?;
    }
    disk.sync_dir(dir)?;
    Ok(closed)
}

fn changed(file: &SegmentFile, offset: u64, detail: &str) -> Error {
    let detail = format!("{detail}; it changed while the journal was being opened");
    Error::Damaged { file: file.path().to_path_buf(), offset, detail }
}
