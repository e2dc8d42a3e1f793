//! What writer and readers share: the list of segments, the synced part of the newest one, and a bounded part
//! of what was read of the others.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::BatchSequence;
use super::batch::Batch;
use super::cache::Cache;
use super::index::SegmentIndex;
use super::segment::{HeaderRead, SegmentHeader, segment_path};
use super::walk::{Step, Walker};
use crate::disk::{Disk, DiskFile, FolderLock};
use crate::error::{Error, Result};

/// Open files of closed segments that are kept.
const FILES_KEPT_MAX: usize = 64;
/// Memory for headers and for indexes of closed segments.
const HEADERS_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
const INDEXES_KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What writer and readers share.
#[derive(Debug)]
pub(super) struct Shared {
    disk: Disk,
    pub(super) dir: PathBuf,
    pub(super) journal_id: u128,
    pub(super) shards: u16,
    live: RwLock<Live>,
    kept: Mutex<Kept>,
    /// Where there is no writer, its lock.
    read_only: Option<FolderLock>,
}

#[derive(Debug)]
pub(super) struct Live {
    /// Numbers of the closed segments, ascending.
    closed: Arc<Vec<u64>>,
    /// The newest segment; none only in a journal that was never written to and is open for reading.
    pub(super) active: Option<View>,
    pub(super) last_sequence: Vec<u64>,
}

/// The synced part of the newest segment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) header: Arc<SegmentHeader>,
    pub(super) file: DiskFile,
    pub(super) index: SegmentIndex,
    pub(super) last_batch: BatchSequence,
}

#[derive(Debug)]
struct Kept {
    files: Cache<DiskFile>,
    headers: Cache<Arc<SegmentHeader>>,
    indexes: Cache<Arc<SegmentIndex>>,
}

impl View {
    pub(super) fn new(header: Arc<SegmentHeader>, file: DiskFile) -> Self {
        let (index, last_batch) = (SegmentIndex::new(&header), header.first_batch - 1);
        Self { header, file, index, last_batch }
    }
}

/// The journal as it was when a scan began.
pub(super) struct Snapshot {
    pub(super) closed: Arc<Vec<u64>>,
    /// Newest segment: header, file, end of what is synced.
    pub(super) active: Option<(Arc<SegmentHeader>, DiskFile, u64)>,
    pub(super) last_sequence: Vec<u64>,
}

/// One segment of a snapshot.
pub(super) struct Stretch {
    pub(super) header: Arc<SegmentHeader>,
    pub(super) file: DiskFile,
    pub(super) end: u64,
    /// The header of the next segment; this one's batches end where those begin.
    pub(super) next: Option<Arc<SegmentHeader>>,
}

impl Snapshot {
    pub(super) fn of(live: &Live) -> Self {
        let active = live.active.as_ref();
        Self {
            closed: live.closed.clone(),
            active: active.map(|view| (view.header.clone(), view.file.clone(), view.index.end)),
            last_sequence: live.last_sequence.clone(),
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.closed.len() + usize::from(self.active.is_some())
    }
}

impl Shared {
    pub(super) fn new(
        disk: Disk,
        dir: PathBuf,
        (journal_id, shards): (u128, u16),
        closed: Vec<u64>,
        active: Option<View>,
        last_sequence: Vec<u64>,
        read_only: Option<FolderLock>,
    ) -> Self {
        let kept = Kept {
            files: Cache::new(FILES_KEPT_MAX),
            headers: Cache::new(HEADERS_KEPT_BYTES_MAX),
            indexes: Cache::new(INDEXES_KEPT_BYTES_MAX),
        };
        Self {
            disk,
            dir,
            journal_id,
            shards,
            live: RwLock::new(Live { closed: Arc::new(closed), active, last_sequence }),
            kept: Mutex::new(kept),
            read_only,
        }
    }

    /// Shows what was synced to the readers.
    pub(super) fn publish(&self, durable: BatchSequence, last_sequence: &[u64], add: impl FnOnce(&mut View)) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = &mut live.active {
            add(view);
            view.last_batch = durable;
        }
        live.last_sequence.copy_from_slice(last_sequence);
    }

    /// Puts a new segment in place of the active one; returns that one, which is closed now, and its index.
    pub(super) fn begin_segment(&self, view: View) -> Option<(View, Arc<SegmentIndex>)> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let closed = live.active.replace(view)?;
        Arc::make_mut(&mut live.closed).push(closed.header.number);
        drop(live);
        let (number, index) = (closed.header.number, Arc::new(closed.index.clone()));
        let mut kept = self.kept();
        kept.headers.insert(number, closed.header.clone(), header_weight(&closed.header));
        kept.indexes.insert(number, index.clone(), index.weight());
        kept.files.insert(number, closed.file.clone(), 1);
        drop(kept);
        Some((closed, index))
    }

    pub(super) fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, number: u64) -> Result<DiskFile> {
        if let Some(file) = self.kept().files.get(number) {
            return Ok(file);
        }
        let file = self.disk.open_to_read(&segment_path(&self.dir, number))?;
        self.kept().files.insert(number, file.clone(), 1);
        Ok(file)
    }

    fn header(&self, number: u64) -> Result<Arc<SegmentHeader>> {
        if let Some(header) = self.kept().headers.get(number) {
            return Ok(header);
        }
        let file = self.file(number)?;
        let header = match SegmentHeader::read(&file)? {
            HeaderRead::Valid(header) => header,
            HeaderRead::Blank => return Err(damaged(&file, 0, "the header of a segment is missing")),
            HeaderRead::Invalid(detail) => return Err(damaged(&file, 0, detail)),
        };
        header.check_belongs(file.path(), number, self.journal_id, self.shards)?;
        self.kept().headers.insert(number, header.clone(), header_weight(&header));
        Ok(header)
    }

    pub(super) fn index_if_there(&self, stretch: &Stretch) -> Result<Option<Arc<SegmentIndex>>> {
        let number = stretch.header.number;
        if let Some(index) = self.kept().indexes.get(number) {
            return Ok(Some(index));
        }
        let read = SegmentIndex::read(&self.disk, &self.dir, &stretch.header, stretch.end)?;
        let Some(index) = read.map(Arc::new) else { return Ok(None) };
        self.kept().indexes.insert(number, index.clone(), index.weight());
        Ok(Some(index))
    }

    /// The index of a closed segment; made by a scan where its file is missing or damaged.
    pub(super) fn index(&self, stretch: &Stretch) -> Result<Arc<SegmentIndex>> {
        if let Some(index) = self.index_if_there(stretch)? {
            return Ok(index);
        }
        let mut index = SegmentIndex::new(&stretch.header);
        let mut scratch = Vec::new();
        walk_headers(stretch, stretch.header.bytes() as u64, &mut |batch, file, offset| {
            let checked = batch.check_directory(&mut scratch);
            checked.map_err(|fault| damaged(file, offset + fault.offset as u64, fault.detail))?;
            if !batch.runs().all(|run| SegmentIndex::may_have(&stretch.header, &run)) {
                return Err(damaged(file, offset, "a run does not continue its shard"));
            }
            index.add(&stretch.header, batch.header.total_bytes(), batch.runs());
            Ok(())
        })?;
        if self.read_only.is_none()
            && let Err(fault) = index.write(&self.disk, &self.dir, &stretch.header)
        {
            tracing::warn!(%fault, "cannot write the index of a journal segment");
        }
        let index = Arc::new(index);
        self.kept().indexes.insert(stretch.header.number, index.clone(), index.weight());
        Ok(index)
    }

    /// How many segments of the snapshot come before the first whose header does not satisfy `before`, which
    /// holds for none after it.
    pub(super) fn partition(&self, snapshot: &Snapshot, before: impl Fn(&SegmentHeader) -> bool) -> Result<usize> {
        let (mut low, mut high) = (0, snapshot.segments());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(&*self.header_in(snapshot, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn header_in(&self, snapshot: &Snapshot, segment: usize) -> Result<Arc<SegmentHeader>> {
        match (snapshot.closed.get(segment), &snapshot.active) {
            (None, Some((header, _, _))) => Ok(header.clone()),
            (Some(&number), _) => self.header(number),
            (None, None) => Err(Error::Stopped("the journal has no such segment".to_owned())),
        }
    }

    pub(super) fn stretch(&self, snapshot: &Snapshot, segment: usize) -> Result<Stretch> {
        let header = self.header_in(snapshot, segment)?;
        let Some(&number) = snapshot.closed.get(segment) else {
            return match &snapshot.active {
                Some((_, file, end)) => Ok(Stretch { header, file: file.clone(), end: *end, next: None }),
                None => Err(Error::Stopped("the journal has no such segment".to_owned())),
            };
        };
        let file = self.file(number)?;
        let end = file.len()?;
        let next = match segment + 1 < snapshot.segments() {
            true => Some(self.header_in(snapshot, segment + 1)?),
            false => None,
        };
        Ok(Stretch { header, file, end, next })
    }
}

fn header_weight(header: &SegmentHeader) -> usize {
    size_of::<SegmentHeader>() + header.base.len() * size_of::<u64>()
}

/// Walks over a segment's batches from `start` to where the next segment's begin, or to the end of what is
/// synced. Verifies headers, and that they follow each other without a gap.
pub(super) fn walk_headers(
    stretch: &Stretch,
    start: u64,
    visit: &mut dyn FnMut(&Batch<'_>, &DiskFile, u64) -> Result<()>,
) -> Result<()> {
    let header = &stretch.header;
    let limit = stretch.next.as_ref().map_or(u64::MAX, |next| next.first_batch);
    let mut walker = Walker::new(stretch.file.clone(), header, start, stretch.end);
    let mut before = None;
    if start == header.bytes() as u64 {
        before = Some((header.first_batch - 1, header.previous_checksum));
    }
    while before.is_none_or(|(sequence, _)| sequence + 1 < limit) {
        match walker.step()? {
            Step::Batch { offset, batch } => {
                let follows = before.is_none_or(|(sequence, checksum)| {
                    batch.header.sequence == sequence + 1 && batch.header.previous_checksum == checksum
                });
                if !follows {
                    return Err(damaged(&stretch.file, offset, "a batch does not continue the one before it"));
                }
                before = Some((batch.header.sequence, batch.header.checksum()));
                visit(&batch, &stretch.file, offset)?;
            }
            Step::End { offset } if offset == stretch.end && stretch.next.is_none() => break,
            Step::End { offset } => return Err(damaged(&stretch.file, offset, "a batch is missing")),
            Step::Invalid { offset, detail } => return Err(damaged(&stretch.file, offset, detail)),
        }
    }
    match (&stretch.next, before) {
        (Some(next), Some((_, checksum))) if next.previous_checksum != checksum => {
            Err(damaged(&stretch.file, 0, "the next segment does not continue this one"))
        }
        _ => Ok(()),
    }
}

pub(super) fn damaged(file: &DiskFile, offset: u64, detail: &str) -> Error {
    Error::Damaged { file: file.path().to_path_buf(), offset, detail: detail.to_owned() }
}
