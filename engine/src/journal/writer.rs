//! The one writer of a journal. A write or sync that fails is final: the journal refuses everything after it,
//! because nobody knows what is on the disk; recovery is the restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::batch::{BATCH_BYTES_MAX, BatchBuilder, BatchHeader};
use super::chain::Chain;
use super::file::SegmentFile;
use super::frame::Frames;
use super::mark::MarkFile;
use super::prepare::{Closing, Preparer};
use super::recovery::{self, Started};
use super::segment::{SegmentHeader, header_bytes};
use super::shared::{Shared, View};
use super::{BatchSequence, JournalOptions, JournalReader, JournalUpkeep, Part, Prepare, Recovered, Run};
use crate::disk::{Disk, DiskFile, FolderLock};
use crate::error::{Error, Result};
use crate::planted::{Fault, planted};

/// The writing end of a journal; belongs to one thread.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    preparer: Arc<Preparer>,
    thread: Option<JoinHandle<()>>,
    mark: MarkFile,
    batch_bytes_max: usize,
    header: Arc<SegmentHeader>,
    file: DiskFile,
    /// Length of the active segment's file, and where its next batch goes.
    segment_bytes: u64,
    offset: u64,
    chain: Chain,
    durable: BatchSequence,
    builder: BatchBuilder,
    /// Batches that are written and not synced, and their runs one after the other.
    unsynced: Vec<Unsynced>,
    unsynced_runs: Vec<Run>,
    poisoned: Option<String>,
    _lock: FolderLock,
}

#[derive(Clone, Copy, Debug)]
struct Unsynced {
    total_bytes: u64,
    runs: usize,
}

impl Journal {
    /// Opens the journal in `dir`, or creates both. Recovers the end of the journal: a torn tail is cut;
    /// what is valid but not known durable is copied into a fresh segment and synced; every start begins a
    /// new segment with a higher incarnation.
    ///
    /// Fails with [`Error::Locked`] when another process has the folder, [`Error::Damaged`] when something
    /// that was durable is not what was written, [`Error::Mismatch`] when files are of another journal or
    /// shard count, [`Error::NewerFormat`], [`Error::Setting`] or [`Error::Io`].
    pub fn open(disk: Disk, dir: &Path, options: JournalOptions) -> Result<(Self, JournalReader, Recovered)> {
        options.check()?;
        disk.create_dir(dir)?;
        let lock = disk.lock(dir)?;
        let Started { recovered, mark, preparer, closed, packed, active, chain } =
            recovery::start(&disk, dir, &options)?;
        let preparer = Arc::new(preparer);
        let thread = match options.prepare {
            Prepare::Thread => Some(spawn(&preparer, dir)?),
            Prepare::Steps => None,
        };
        let offset = active.index.end;
        let view = View {
            header: active.header.clone(),
            file: SegmentFile::Plain(active.file.clone()),
            index: active.index,
            last_batch: chain.last_batch,
        };
        let shared = Arc::new(Shared::new(
            disk,
            PathBuf::from(dir),
            (recovered.journal_id, options.shards),
            (closed, packed),
            Some(view),
            chain.last_sequence.clone(),
            None,
        ));
        let journal = Self {
            shared: shared.clone(),
            preparer,
            thread,
            mark,
            batch_bytes_max: batch_bytes_max(&options),
            header: active.header,
            file: active.file,
            segment_bytes: active.bytes,
            offset,
            durable: chain.last_batch,
            chain,
            builder: BatchBuilder::default(),
            unsynced: Vec::new(),
            unsynced_runs: Vec::new(),
            poisoned: None,
            _lock: lock,
        };
        Ok((journal, JournalReader::new(shared), recovered))
    }

    /// Writes one batch of all parts, in their order. Not durable, and not visible to readers, before
    /// [`Journal::sync`]. Parts without records write nothing; the last batch's number is returned.
    ///
    /// Every shard's records must continue the shard's sequence, and the runs must be what the frames are;
    /// a batch must be at most [`Journal::batch_bytes_max`] long. Any fault is final.
    pub fn write(&mut self, parts: &[Part<'_>]) -> Result<BatchSequence> {
        self.refuse_when_poisoned()?;
        let written = self.try_write(parts);
        self.poison_on_fault(written)
    }

    /// Makes every batch written so far durable, and visible to readers. Any fault is final.
    pub fn sync(&mut self) -> Result<()> {
        self.refuse_when_poisoned()?;
        let synced = self.try_sync();
        self.poison_on_fault(synced)
    }

    /// The last batch written.
    pub fn last_batch(&self) -> BatchSequence {
        self.chain.last_batch
    }

    /// Longest batch, with its header, [`super::RUN_BYTES`] per run and padding to a multiple of 512.
    pub fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    /// Notes durably that `batch` is durable (or the newest durable one, if that is older), so that damage
    /// below it is recognized and the next start examines less. Costs one small write and sync: meant for
    /// every round of checkpoints, not for every batch.
    pub fn mark_durable(&mut self, batch: BatchSequence) -> Result<()> {
        self.refuse_when_poisoned()?;
        let batch = batch.min(self.durable);
        if batch <= self.mark.mark.batch {
            return Ok(());
        }
        let marked = self.mark.advance(batch, self.header.incarnation, false);
        self.poison_on_fault(marked)
    }

    /// Does one small piece of the preparation of segments, with [`Prepare::Steps`]; false when there is
    /// nothing to do. A fault here is not final: the next `write` that needs a segment tries again.
    pub fn prepare_step(&mut self) -> Result<bool> {
        self.preparer.step()
    }

    /// Another reader of this journal.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(self.shared.clone())
    }

    /// Who packs and removes closed segments. One at a time.
    pub fn upkeep(&self) -> JournalUpkeep {
        JournalUpkeep::new(self.shared.clone())
    }

    /// Stops in order: syncs, and records the durable end, so that the next start finds nothing to repair.
    pub fn close(mut self) -> Result<()> {
        self.sync()?;
        self.stop_thread();
        self.preparer.finish_closed()?;
        self.mark.advance(self.durable, self.header.incarnation, true)
    }

    fn try_write(&mut self, parts: &[Part<'_>]) -> Result<BatchSequence> {
        if parts.iter().all(|part| part.bytes.is_empty() && part.runs.is_empty()) {
            return Ok(self.chain.last_batch);
        }
        let total_bytes = BatchBuilder::total_bytes(parts);
        if total_bytes > self.batch_bytes_max {
            let max = self.batch_bytes_max;
            return Err(Error::Internal(format!("a batch of {total_bytes} bytes exceeds the limit of {max}")));
        }
        if self.offset + total_bytes as u64 > self.segment_bytes {
            self.begin_segment()?;
        }
        self.take_records(parts)
            .map_err(|detail| Error::Internal(format!("a batch that was to be written is wrong: {detail}")))?;
        let header = BatchHeader {
            journal_id: self.header.journal_id,
            incarnation: self.header.incarnation,
            sequence: self.chain.last_batch + 1,
            durable_up_to: self.durable,
            previous_checksum: self.chain.last_checksum,
            body_bytes: 0,
            records: 0,
            runs: 0,
            contents_checksum: 0,
        };
        let (header, bytes) = self.builder.build(header, parts);
        self.file.write_at(bytes, self.offset)?;
        self.offset += total_bytes as u64;
        self.chain.last_batch = header.sequence;
        self.chain.last_checksum = header.checksum();
        let runs_before = self.unsynced_runs.len();
        self.unsynced_runs.extend(parts.iter().flat_map(|p| p.runs));
        let runs = self.unsynced_runs.len() - runs_before;
        self.unsynced.push(Unsynced { total_bytes: total_bytes as u64, runs });
        Ok(header.sequence)
    }

    /// Checks that the parts continue every shard, and collects their records' checksums.
    fn take_records(&mut self, parts: &[Part<'_>]) -> std::result::Result<(), &'static str> {
        self.chain.begin();
        self.builder.clear();
        for run in parts.iter().flat_map(|part| part.runs) {
            self.chain.promise(run)?;
        }
        for part in parts {
            for frame in Frames::new(part.bytes) {
                let frame = frame.map_err(|fault| fault.detail)?;
                self.chain.walk(&frame)?;
                self.builder.push_checksum(frame.checksum());
            }
        }
        self.chain.keep_promise()
    }

    fn try_sync(&mut self) -> Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if !planted(Fault::SkipSync) {
            self.file.sync_data()?;
        }
        self.durable = self.chain.last_batch;
        let mut runs = self.unsynced_runs.as_slice();
        self.shared.publish(self.durable, &self.chain.last_sequence, |view| {
            for batch in &self.unsynced {
                let (these, rest) = runs.split_at(batch.runs);
                view.index.add(&view.header, batch.total_bytes, these.iter().copied());
                runs = rest;
            }
        });
        self.unsynced.clear();
        self.unsynced_runs.clear();
        Ok(())
    }

    /// Goes on in the next prepared segment. All that precedes it is synced first, because its header says
    /// so. The header itself needs no sync of its own: a batch in it is acknowledged only after the sync
    /// that covers both.
    fn begin_segment(&mut self) -> Result<()> {
        self.try_sync()?;
        let prepared = self.preparer.take()?;
        let header = Arc::new(SegmentHeader {
            journal_id: self.header.journal_id,
            incarnation: self.header.incarnation,
            number: prepared.number,
            first_batch: self.chain.last_batch + 1,
            previous_checksum: self.chain.last_checksum,
            base: self.chain.last_sequence.clone(),
        });
        prepared.file.write_at(&header.encode(), 0)?;
        let view = View::new(header.clone(), SegmentFile::Plain(prepared.file.clone()));
        if let Some((closed, index)) = self.shared.begin_segment(view) {
            self.preparer.close(Closing { header: closed.header, file: self.file.clone(), index });
        }
        self.offset = header.bytes() as u64;
        self.segment_bytes = prepared.bytes;
        self.file = prepared.file;
        self.header = header;
        Ok(())
    }

    fn refuse_when_poisoned(&self) -> Result<()> {
        match &self.poisoned {
            Some(fault) => Err(Error::Stopped(format!("the journal failed: {fault}"))),
            None => Ok(()),
        }
    }

    fn poison_on_fault<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(fault) = &result {
            self.poisoned = Some(fault.to_string());
        }
        result
    }

    fn stop_thread(&mut self) {
        self.preparer.stop();
        if let Some(thread) = self.thread.take() {
            // It has nothing to return, and a panic in it was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

fn spawn(preparer: &Arc<Preparer>, dir: &Path) -> Result<JoinHandle<()>> {
    let preparer = preparer.clone();
    std::thread::Builder::new()
        .name("journal-prepare".to_owned())
        .spawn(move || preparer.run())
        .map_err(|e| Error::io("start the thread that prepares segments in", dir, e))
}

fn batch_bytes_max(options: &JournalOptions) -> usize {
    let room = options.segment_bytes.saturating_sub(header_bytes(options.shards) as u64);
    room.min(BATCH_BYTES_MAX as u64) as usize
}
