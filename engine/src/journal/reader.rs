//! Reads what is synced: one record by its position, or everything in journal order. Readers take the lock
//! that the writer takes once per sync for a few look-ups in memory, never across a read of a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meed_schemas::ids::Position;
use meed_schemas::record::Record;

use super::batch::{Batch, BatchHeader};
use super::chain::Chain;
use super::examine::examine;
use super::file::{SegmentFile, is_missing};
use super::index::SegmentIndex;
use super::mark::MarkFile;
use super::segment::{Folder, SegmentHeader};
use super::shared::{Shared, Snapshot, Stretch, View, damaged, walk_headers};
use super::walk::{Step, Walker};
use super::{BatchSequence, Recovered};
use crate::disk::Disk;
use crate::error::{Error, Result};

/// The reading end of a journal. Clones share what they keep in memory.
#[derive(Clone, Debug)]
pub struct JournalReader {
    shared: Arc<Shared>,
}

/// One batch, fully checked, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// The segment file.
    pub file: &'a Path,
    /// Byte offset of the batch in it.
    pub offset: u64,
    /// Length in the file.
    pub total_bytes: u64,
    /// Its header.
    pub header: BatchHeader,
    batch: Batch<'a>,
}

/// A record in a [`BatchView`].
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Its position.
    pub position: Position,
    /// The segment file.
    pub file: &'a Path,
    /// Byte offset of its frame in it.
    pub offset: u64,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl RecordView<'_> {
    /// The record itself.
    ///
    /// # Errors
    /// [`Error::Damaged`], with the place.
    pub fn decode(&self) -> Result<Record> {
        super::decode_at(self.file, self.offset, self.position, self.payload)
    }
}

impl<'a> BatchView<'a> {
    /// The records, in journal order.
    pub fn records(&self) -> impl Iterator<Item = RecordView<'a>> + use<'a> {
        let (file, frames_offset) = (self.file, self.offset + self.batch.frames_offset() as u64);
        self.batch.frames().flatten().map(move |frame| RecordView {
            position: frame.position(),
            file,
            offset: frames_offset + frame.offset as u64,
            payload: frame.payload(),
        })
    }
}

impl JournalReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Opens a folder that no process writes to, for reading only: nothing is repaired, a torn tail is left
    /// where it is. Holds the folder's lock until the last clone is dropped.
    pub fn open(disk: Disk, dir: &Path) -> Result<(Self, Recovered)> {
        if !disk.exists(dir)? {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("open the journal in", dir, source));
        }
        let lock = disk.lock_to_read(dir)?;
        let folder = Folder::of_names(disk.list(dir)?);
        let Some(mark) = MarkFile::open(&disk, dir, false)? else { return Err(MarkFile::missing(dir)) };
        let mark = mark.mark;
        let mut examined = examine(&disk, dir, &folder.segments, &mark)?;
        let active = examined.last.map(|last| {
            examined.segments.pop();
            let last_batch = examined.chain.last_batch;
            View { header: last.header, file: last.file, index: last.index, last_batch }
        });
        let recovered = Recovered {
            journal_id: mark.journal_id,
            incarnation: examined.incarnation,
            created: false,
            clean: mark.clean,
            last_batch: examined.chain.last_batch,
            last_sequence: examined.chain.last_sequence.clone(),
            copied_batches: 0,
            cut: examined.cut,
        };
        let shared = Shared::new(
            disk,
            PathBuf::from(dir),
            (mark.journal_id, mark.shards),
            (examined.segments, folder.packed),
            active,
            examined.chain.last_sequence,
            Some(lock),
        );
        Ok((Self::new(Arc::new(shared)), recovered))
    }

    /// How many shards the journal was made with.
    pub fn shards(&self) -> u16 {
        self.shared.shards
    }

    /// The journal's id.
    pub fn journal_id(&self) -> u128 {
        self.shared.journal_id
    }

    /// By shard, the sequence of the last synced record; 0 = none.
    pub fn last_sequence(&self) -> Vec<u64> {
        self.shared.live().last_sequence.clone()
    }

    /// By shard, the last sequence before the first record that is still there; 0 = all are.
    pub fn removed_sequence(&self) -> Result<Vec<u64>> {
        let none = || vec![0; usize::from(self.shards())];
        Ok(self.oldest_header()?.map_or_else(none, |header| header.base.clone()))
    }

    /// The last synced batch; 0 = none.
    pub fn last_batch(&self) -> BatchSequence {
        self.shared.live().active.as_ref().map_or(0, |view| view.last_batch)
    }

    /// The record at a position, verified by its own checksum; `None` when the shard's synced records do not
    /// reach it, or no longer.
    pub fn read(&self, position: Position) -> Result<Option<Vec<u8>>> {
        let (shard, sequence) = (position.shard(), position.sequence());
        loop {
            let snapshot = {
                let live = self.shared.live();
                match live.last_sequence.get(usize::from(shard)) {
                    Some(&last) if sequence > 0 && sequence <= last => {}
                    _ => return Ok(None),
                }
                if let Some(view) = &live.active
                    && view.header.base[usize::from(shard)] < sequence
                {
                    let block = view.index.block_of(&view.header, shard, sequence);
                    let (header, file) = (view.header.clone(), view.file.clone());
                    drop(live);
                    return find(file, &header, block, position).map(Some);
                }
                Snapshot::of(&live)
            };
            match self.read_closed(&snapshot, position) {
                // Removed between the look at the list and the opening of the file: the next list lacks it.
                Err(fault) if is_missing(&fault) && self.shared.oldest() != snapshot.closed.first().copied() => {}
                found => return found,
            }
        }
    }

    fn read_closed(&self, snapshot: &Snapshot, position: Position) -> Result<Option<Vec<u8>>> {
        let (shard, sequence) = (position.shard(), position.sequence());
        let after = self.shared.partition(snapshot, |header| header.base[usize::from(shard)] < sequence)?;
        let Some(segment) = after.checked_sub(1) else { return Ok(None) };
        let stretch = self.shared.stretch(snapshot, segment)?;
        let index = self.shared.index(&stretch)?;
        let block = index.block_of(&stretch.header, shard, sequence);
        find(stretch.file, &stretch.header, block, position).map(Some)
    }

    /// The first batch that is still there; 1 as long as none was removed.
    pub fn first_batch(&self) -> Result<BatchSequence> {
        Ok(self.oldest_header()?.map_or(1, |header| header.first_batch))
    }

    /// The header of the oldest segment.
    fn oldest_header(&self) -> Result<Option<Arc<SegmentHeader>>> {
        loop {
            let snapshot = Snapshot::of(&self.shared.live());
            if snapshot.segments() == 0 {
                return Ok(None);
            }
            match self.shared.stretch(&snapshot, 0) {
                // As in `read`.
                Err(fault) if is_missing(&fault) && self.shared.oldest() != snapshot.closed.first().copied() => {}
                stretch => return stretch.map(|stretch| Some(stretch.header)),
            }
        }
    }

    /// Every synced record of the chosen shards with a sequence greater than `from[shard]`, in journal
    /// order, up to what is synced when the scan begins. Verifies every batch's header and that batches
    /// follow each other, the checksum of every record visited, and that none is missing. A fault that
    /// `visit` returns ends the scan.
    pub fn scan(
        &self,
        from: &[u64],
        shards: &dyn Fn(u16) -> bool,
        visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let from = |shard: usize| from.get(shard).copied().unwrap_or(0);
        let (snapshot, wanted, after) = loop {
            let snapshot = Snapshot::of(&self.shared.live());
            let is_wanted = |shard: &usize| snapshot.last_sequence[*shard] > from(*shard) && shards(*shard as u16);
            let wanted: Vec<usize> = (0..snapshot.last_sequence.len()).filter(is_wanted).collect();
            if wanted.is_empty() {
                return Ok(());
            }
            match self.shared.partition(&snapshot, |header| wanted.iter().all(|&s| header.base[s] <= from(s))) {
                // As in `read`.
                Err(fault) if is_missing(&fault) && self.shared.oldest() != snapshot.closed.first().copied() => {}
                after => break (snapshot, wanted, after?),
            }
        };
        // The next sequence of each shard that is wanted; others never match.
        let mut next: Vec<u64> = vec![u64::MAX; snapshot.last_sequence.len()];
        wanted.iter().for_each(|&shard| next[shard] = from(shard) + 1);
        let first = after.saturating_sub(1);
        for segment in first..snapshot.segments() {
            let stretch = self.shared.stretch(&snapshot, segment)?;
            let mut start = stretch.header.bytes() as u64;
            if segment == first {
                start = self.start_in(&stretch, segment == snapshot.closed.len(), &wanted, &from)?;
            }
            walk_headers(&stretch, start, &mut |batch, file, offset| {
                visit_wanted(batch, &mut next, visit).map_err(|fault| match fault {
                    ScanFault::Visit(fault) => fault,
                    ScanFault::Damage(at, detail) => damaged(file, offset + at as u64, &detail),
                })
            })?;
        }
        match wanted.iter().find(|&&shard| next[shard] <= snapshot.last_sequence[shard]) {
            None => Ok(()),
            Some(&shard) => {
                let detail = format!("record {} is missing", Position::new(shard as u16, next[shard]));
                Err(Error::Damaged { file: self.shared.dir.clone(), offset: 0, detail })
            }
        }
    }

    /// Every synced batch from `from_batch` on, with file and offset, after a full check of everything from
    /// the beginning of the segment that holds it: header, directory, every record, padding, that batches
    /// follow each other and that every shard's sequence is dense.
    pub fn scan_batches(
        &self,
        from_batch: BatchSequence,
        visit: &mut dyn FnMut(&BatchView<'_>) -> Result<()>,
    ) -> Result<()> {
        let snapshot = Snapshot::of(&self.shared.live());
        let after = self.shared.partition(&snapshot, |header| header.first_batch <= from_batch)?;
        let mut scratch = Vec::new();
        let mut chain: Option<Chain> = None;
        for segment in after.saturating_sub(1)..snapshot.segments() {
            let stretch = self.shared.stretch(&snapshot, segment)?;
            let header = &stretch.header;
            let chain = chain.get_or_insert_with(|| {
                Chain::new(header.first_batch - 1, header.previous_checksum, header.base.clone())
            });
            if chain.last_checksum != header.previous_checksum || chain.last_sequence != header.base {
                return Err(damaged(&stretch.file, 0, "the segment does not continue the one before it"));
            }
            walk_headers(&stretch, header.bytes() as u64, &mut |batch, file, offset| {
                let checked = batch.check(&mut scratch);
                checked.map_err(|fault| damaged(file, offset + fault.offset as u64, fault.detail))?;
                chain.follow(batch).map_err(|detail| damaged(file, offset, detail))?;
                if batch.header.sequence < from_batch {
                    return Ok(());
                }
                visit(&BatchView {
                    file: file.path(),
                    offset,
                    total_bytes: batch.header.total_bytes(),
                    header: batch.header,
                    batch: *batch,
                })
            })?;
        }
        Ok(())
    }

    /// Where in its first segment a scan begins.
    fn start_in(
        &self,
        stretch: &Stretch,
        is_active: bool,
        wanted: &[usize],
        from: &impl Fn(usize) -> u64,
    ) -> Result<u64> {
        let header = &stretch.header;
        let start_with = |index: &SegmentIndex| {
            let blocks = wanted.iter().filter_map(|&shard| index.block_of(header, shard as u16, from(shard) + 1));
            blocks.map(|(start, _)| start).min().unwrap_or(index.end)
        };
        if is_active {
            let live = self.shared.live();
            if let Some(view) = live.active.as_ref().filter(|view| view.header.number == header.number) {
                return Ok(start_with(&view.index).min(stretch.end));
            }
        }
        // Without an index the scan begins at the segment's beginning, which is cheaper than making one.
        Ok(self.shared.index_if_there(stretch)?.map_or(header.bytes() as u64, |index| start_with(&index)))
    }
}

enum ScanFault {
    Visit(Error),
    Damage(usize, String),
}

/// Visits the records of a batch that come next in their shards.
fn visit_wanted(
    batch: &Batch<'_>,
    next: &mut [u64],
    visit: &mut dyn FnMut(Position, &[u8]) -> Result<()>,
) -> std::result::Result<(), ScanFault> {
    let frames_offset = batch.frames_offset();
    for frame in batch.frames() {
        let frame = match frame {
            Ok(frame) => frame,
            Err(f) => return Err(ScanFault::Damage(frames_offset + f.offset, f.detail.to_owned())),
        };
        let position = frame.position();
        let Some(next) = next.get_mut(usize::from(position.shard())) else {
            let detail = "a record is of a shard that does not exist".to_owned();
            return Err(ScanFault::Damage(frames_offset + frame.offset, detail));
        };
        if position.sequence() < *next {
            continue;
        }
        if position.sequence() > *next || !frame.is_intact() {
            let expected = Position::new(position.shard(), *next);
            let detail = format!("record {expected} is damaged or missing");
            return Err(ScanFault::Damage(frames_offset + frame.offset, detail));
        }
        *next += 1;
        visit(position, frame.payload()).map_err(ScanFault::Visit)?;
    }
    Ok(())
}

/// Finds a record in a block of a segment. Verifies the headers that it needs to find it, and the record.
fn find(file: SegmentFile, header: &SegmentHeader, block: Option<(u64, u64)>, position: Position) -> Result<Vec<u8>> {
    let missing = |offset| damaged(&file, offset, &format!("record {position} is not where the index says"));
    let Some((start, end)) = block else { return Err(missing(0)) };
    let mut walker = Walker::new(file.clone(), header, start, end);
    loop {
        let (offset, batch) = match walker.step()? {
            Step::Batch { offset, batch } => (offset, batch),
            Step::End { offset } => return Err(missing(offset)),
            Step::Invalid { offset, detail } => return Err(damaged(&file, offset, detail)),
        };
        for frame in batch.frames() {
            let at = |frame_offset: usize| offset + (batch.frames_offset() + frame_offset) as u64;
            let frame = frame.map_err(|fault| damaged(&file, at(fault.offset), fault.detail))?;
            if frame.position() == position {
                if frame.is_intact() {
                    return Ok(frame.payload().to_vec());
                }
                let detail = format!("the checksum of record {position} does not match");
                return Err(damaged(&file, at(frame.offset), &detail));
            }
        }
    }
}
