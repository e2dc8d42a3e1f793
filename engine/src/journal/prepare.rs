//! Segments ahead of use: allocated, written with zeros and named, so that the fdatasync of a commit has no
//! metadata to write. Also what is left to do for a segment that was closed. All of it in small steps, taken
//! by a thread of low priority or by the caller, so as not to compete with commits.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::index::SegmentIndex;
use super::segment::{SegmentHeader, segment_path, unfinished_path};
use crate::background::yield_to_commits;
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::metrics::prepare_failures;

/// How many zeros one step writes and syncs.
const STEP_BYTES: usize = 256 * 1024;
/// Shortest and longest pause of the thread after a step, and the pause after one that failed.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(1);

static ZEROS: [u8; STEP_BYTES] = [0; STEP_BYTES];

/// A segment file full of zeros.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) number: u64,
    pub(super) file: DiskFile,
    pub(super) bytes: u64,
}

/// A segment that gets no more batches: it is cut at its end, and its index is written.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) header: Arc<SegmentHeader>,
    pub(super) file: DiskFile,
    pub(super) index: Arc<SegmentIndex>,
}

#[derive(Debug)]
pub(super) struct Preparer {
    disk: Disk,
    dir: PathBuf,
    segment_bytes: u64,
    wanted: usize,
    queues: Mutex<Queues>,
    wake: Condvar,
    /// Held for the length of a step, so never while `queues` is.
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Queues {
    ready: VecDeque<Prepared>,
    closing: VecDeque<Closing>,
    stop: bool,
}

#[derive(Debug)]
struct Work {
    next_number: u64,
    unfinished: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    number: u64,
    path: PathBuf,
    file: DiskFile,
    zeroed: u64,
}

impl Preparer {
    pub(super) fn new(
        disk: Disk,
        dir: PathBuf,
        (segment_bytes, wanted): (u64, usize),
        ready: VecDeque<Prepared>,
        next_number: u64,
    ) -> Self {
        Self {
            disk,
            dir,
            segment_bytes,
            wanted,
            queues: Mutex::new(Queues { ready, ..Queues::default() }),
            wake: Condvar::new(),
            work: Mutex::new(Work { next_number, unfinished: None }),
        }
    }

    /// The next segment; prepares one at once where none is ready.
    pub(super) fn take(&self) -> Result<Prepared> {
        loop {
            if let Some(prepared) = lock(&self.queues).ready.pop_front() {
                self.wake.notify_one();
                return Ok(prepared);
            }
            self.prepare_step()?;
        }
    }

    /// A segment of this many bytes, made at once. Those that are ready are removed, because numbers ascend.
    pub(super) fn make(&self, bytes: u64) -> Result<Prepared> {
        for ready in lock(&self.queues).ready.drain(..) {
            self.disk.remove(&segment_path(&self.dir, ready.number))?;
        }
        let mut work = lock(&self.work);
        let mut unfinished = self.begin(&mut work, bytes)?;
        while !self.zero(&mut unfinished, bytes)? {}
        drop(work);
        self.name(unfinished, bytes)
    }

    /// Leaves the rest of the work on a closed segment to a later step.
    pub(super) fn close(&self, closing: Closing) {
        lock(&self.queues).closing.push_back(closing);
        self.wake.notify_one();
    }

    /// Does one small piece of what is to do; false when there is nothing.
    pub(super) fn step(&self) -> Result<bool> {
        let (closing, enough) = {
            let mut queues = lock(&self.queues);
            (queues.closing.pop_front(), queues.ready.len() >= self.wanted)
        };
        if let Some(closing) = closing {
            closing.file.cut(closing.index.end)?;
            closing.index.write(&self.disk, &self.dir, &closing.header)?;
            return Ok(true);
        }
        if enough {
            return Ok(false);
        }
        self.prepare_step()?;
        Ok(true)
    }

    /// Finishes what was left of closed segments.
    pub(super) fn finish_closed(&self) -> Result<()> {
        while !lock(&self.queues).closing.is_empty() {
            self.step()?;
        }
        Ok(())
    }

    /// Runs steps until [`Preparer::stop`]. After a fault the next segment is tried again: it stops the node only when a
    /// commit needs a segment and there is none. The rest of a closed segment is not tried again: zeros behind its end do
    /// no harm, and whoever misses its index makes it.
    pub(super) fn run(&self) {
        yield_to_commits();
        let (failures, mut faults) = (prepare_failures(), Faults::default());
        loop {
            let begun = Instant::now();
            let pause = match self.step() {
                // Without a pause as long as none is ready: the next commit that needs one would wait longer.
                Ok(true) if lock(&self.queues).ready.is_empty() => Some(Duration::ZERO),
                Ok(true) => Some(begun.elapsed().clamp(PAUSE_MIN, PAUSE_MAX)),
                Ok(false) => {
                    if faults.end() {
                        tracing::info!("the next journal segments are prepared again");
                    }
                    None
                }
                Err(fault) => {
                    failures.increment(1);
                    if faults.is_new(&fault) {
                        tracing::warn!(%fault, "cannot prepare the next journal segment; it is tried every second");
                    }
                    Some(PAUSE_AFTER_FAULT)
                }
            };
            if self.pause(pause) {
                return;
            }
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.queues).stop = true;
        self.wake.notify_all();
    }

    /// Waits for the time given, or without one until there is something to do; true when it is to stop.
    fn pause(&self, pause: Option<Duration>) -> bool {
        let queues = lock(&self.queues);
        let idle = |q: &mut Queues| !q.stop && q.closing.is_empty() && q.ready.len() >= self.wanted;
        let queues = match pause {
            None => self.wake.wait_while(queues, idle).unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                let waited = self.wake.wait_timeout_while(queues, pause, |q| !q.stop);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        queues.stop
    }

    fn prepare_step(&self) -> Result<()> {
        let mut work = lock(&self.work);
        let mut unfinished = match work.unfinished.take() {
            Some(unfinished) => unfinished,
            None => self.begin(&mut work, self.segment_bytes)?,
        };
        let is_zeroed = self.zero(&mut unfinished, self.segment_bytes);
        if is_zeroed.is_err() {
            // Else every new attempt would take up more of the space that is short.
            let _ = self.disk.remove(&unfinished.path);
        }
        if is_zeroed? {
            let prepared = self.name(unfinished, self.segment_bytes)?;
            lock(&self.queues).ready.push_back(prepared);
        } else {
            work.unfinished = Some(unfinished);
        }
        Ok(())
    }

    fn begin(&self, work: &mut Work, bytes: u64) -> Result<Unfinished> {
        let number = work.next_number;
        let path = unfinished_path(&segment_path(&self.dir, number));
        let file = self.disk.create(&path)?;
        if let Err(fault) = file.allocate(bytes) {
            let _ = self.disk.remove(&path);
            return Err(explain_no_space(fault, bytes));
        }
        work.next_number += 1;
        Ok(Unfinished { number, path, file, zeroed: 0 })
    }

    /// Writes and syncs the next zeros; true when all are. Synced in pieces because one sync of a whole
    /// segment would hold up the commits behind it.
    fn zero(&self, unfinished: &mut Unfinished, bytes: u64) -> Result<bool> {
        let length = (bytes - unfinished.zeroed).min(STEP_BYTES as u64);
        let written = unfinished.file.write_at(&ZEROS[..length as usize], unfinished.zeroed);
        written.and_then(|()| unfinished.file.sync_data()).map_err(|e| explain_no_space(e, bytes))?;
        unfinished.zeroed += length;
        Ok(unfinished.zeroed == bytes)
    }

    /// Gives the file its name, durably: from here on a commit needs to sync no folder.
    fn name(&self, unfinished: Unfinished, bytes: u64) -> Result<Prepared> {
        let path = segment_path(&self.dir, unfinished.number);
        let named = self.disk.rename(&unfinished.path, &path).and_then(|()| self.disk.sync_dir(&self.dir));
        let file = named.and_then(|()| self.disk.open(&path));
        if file.is_err() {
            // The next attempt takes the next number, and a blank segment before one with batches would look like one
            // that lost them.
            let _ = self.disk.remove(&unfinished.path);
            let _ = self.disk.remove(&path);
        }
        Ok(Prepared { number: unfinished.number, file: file?, bytes })
    }
}

/// Faults that come again with every attempt. They are told once: the log would soon hold nothing else.
#[derive(Debug, Default)]
struct Faults {
    told: Option<String>,
}

impl Faults {
    /// Whether a fault differs from the one before it, but for the name of the segment.
    fn is_new(&mut self, fault: &Error) -> bool {
        let text = match fault {
            Error::Io { action, source, .. } => format!("{action}: {source}"),
            fault => fault.to_string(),
        };
        self.told.replace(text.clone()) != Some(text)
    }

    /// Whether there were any. There are none any more.
    fn end(&mut self) -> bool {
        self.told.take().is_some()
    }
}

fn explain_no_space(fault: Error, bytes: u64) -> Error {
    match fault {
        Error::Io { action, path, source } if source.kind() == io::ErrorKind::StorageFull => {
            let said = format!(
                "no space for the next journal segment ({source}); free at least {bytes} bytes there and \
                 start again, nothing acknowledged is lost"
            );
            Error::Io { action, path, source: io::Error::new(io::ErrorKind::StorageFull, said) }
        }
        fault => fault,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::disk::simulated::{Fault, SimulatedDisk};

    #[test]
    fn a_fault_that_lasts_is_told_once_and_so_is_its_end() {
        let fault = |kind: io::ErrorKind, path: &str| Error::io("allocate", path, kind.into());
        let mut faults = Faults::default();
        assert!(!faults.end());
        assert!(faults.is_new(&fault(io::ErrorKind::StorageFull, "1")));
        assert!(!faults.is_new(&fault(io::ErrorKind::StorageFull, "1")));
        assert!(!faults.is_new(&fault(io::ErrorKind::StorageFull, "2")), "another segment, and the same fault");
        assert!(faults.is_new(&fault(io::ErrorKind::PermissionDenied, "2")));
        assert!(faults.end() && !faults.end());
        assert!(faults.is_new(&fault(io::ErrorKind::PermissionDenied, "2")));
    }

    /// Whatever fails while a segment is prepared: the one that is taken then has no blank one before it.
    #[test]
    fn an_attempt_that_failed_leaves_no_segment_behind() {
        for after in 1..12 {
            let disk = SimulatedDisk::new(after);
            let dir = PathBuf::from("journal");
            let preparer = Preparer::new(disk.disk(), dir.clone(), (4_096, 1), VecDeque::new(), 1);
            disk.arm(after, Fault::Eio);
            let prepared = preparer.take().or_else(|_| preparer.take()).unwrap();
            let name = segment_path(&dir, prepared.number);
            let name = name.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(disk.disk().list(&dir).unwrap(), [name], "change {after}");
        }
    }
}
