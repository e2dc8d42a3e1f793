//! The node's reading threads: records that replays, reversals and listings need, read from the journal
//! away from the workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use meed_schemas::http::LIST_OFFSET_MAX;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Record, RecordKind};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::journal::{self, Records};

/// Reads that may wait when a page is asked for.
pub const READS_MAX: usize = 65_536;
/// Records that one listing may step over before its page begins.
pub const OFFSET_MAX: u64 = LIST_OFFSET_MAX as u64;

/// What is read, and what is done with it on the reading thread.
pub enum ReadJob {
    /// One record; `None` when there is none at the position.
    Record(Position, Box<dyn FnOnce(Option<Box<Record>>) + Send>),
    /// A page of an account's history.
    Page(PageQuery, oneshot::Sender<Vec<Record>>),
    /// A part of the feed; it deals with its faults by itself.
    Feed(Box<dyn FnOnce(&Records) + Send>),
}

/// A walk along an account's back-pointers, newest first.
#[derive(Debug, Clone)]
pub struct PageQuery {
    /// The account; a record of another ends the walk.
    pub identity: Identity,
    /// Where to begin.
    pub from: Position,
    /// Only records of this kind, by their own back-pointers.
    pub kind: Option<RecordKind>,
    /// How many to step over first.
    pub offset: u64,
    /// How many to give.
    pub limit: usize,
}

#[derive(Default)]
struct Shared {
    jobs: VecDeque<ReadJob>,
    stop: bool,
}

/// Hands reads to the threads.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    journal: Records,
}

impl Reader {
    /// Starts `threads` threads of this name. `on_fault` is called when a record that exists cannot be read: that is
    /// damage.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        journal: Records,
        name: &str,
        threads: usize,
        on_fault: Arc<dyn Fn(Error) + Send + Sync>,
    ) -> Result<Self> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let spawn = |index| {
            let (shared, journal, on_fault) = (Arc::clone(&shared), journal.clone(), Arc::clone(&on_fault));
            let body = move || run(&shared, &journal, &*on_fault);
            let spawned = std::thread::Builder::new().name(format!("{name}-{index}")).spawn(body);
            spawned.map_err(|error| Error::io("start a thread of", name, error))
        };
        let threads = (0..threads).map(spawn).collect::<Result<_>>()?;
        Ok(Self { shared, threads: Arc::new(Mutex::new(threads)), journal })
    }

    /// Queues reads of records. Their number is bounded by the permits of the commands that wait for them; one
    /// that was turned away would never be answered, and its permit never given back.
    pub fn submit(&self, jobs: Vec<ReadJob>) {
        let mut shared = self.lock();
        let count = jobs.len();
        shared.jobs.extend(jobs);
        drop(shared);
        match count {
            0 => {}
            1 => self.shared.1.notify_one(),
            _ => self.shared.1.notify_all(),
        }
    }

    /// Reads a page; `None` when too many reads wait, or its records are damaged, which is logged.
    pub async fn page(&self, query: PageQuery) -> Option<Vec<Record>> {
        if self.lock().jobs.len() >= READS_MAX {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.submit(vec![ReadJob::Page(query, sender)]);
        receiver.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The journal itself.
    pub fn journal(&self) -> &Records {
        &self.journal
    }

    /// Ends the threads, each after the read that it is at: nobody waits for the others any more. Afterwards what they
    /// read from can be closed; a read that finds it closed would look like damage.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.shared.1.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic there has been told.
            let _ = thread.join();
        }
    }
}

fn run(shared: &(Mutex<Shared>, Condvar), journal: &Records, on_fault: &(dyn Fn(Error) + Send + Sync)) {
    loop {
        let mut guard = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        let job = loop {
            if guard.stop {
                // Who waits for a page is told that there is none.
                guard.jobs.clear();
                return;
            }
            if let Some(job) = guard.jobs.pop_front() {
                break job;
            }
            guard = shared.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        drop(guard);
        let done = match job {
            ReadJob::Record(position, then) => read(journal, position).map(then),
            ReadJob::Page(query, sender) => match page(journal, &query) {
                // A reader that comes again and again would else stop the node each time; who decides still stops it.
                Err(error @ Error::Damaged { .. }) => {
                    tracing::error!(%error, "a page of a history cannot be read");
                    Ok(())
                }
                read => read.map(|records| {
                    // The client may have gone.
                    let _ = sender.send(records);
                }),
            },
            ReadJob::Feed(run) => {
                run(journal);
                Ok(())
            }
        };
        if let Err(error) = done {
            on_fault(error);
        }
    }
}

/// The record at a position.
///
/// # Errors
/// Damage.
pub fn read(journal: &Records, position: Position) -> Result<Option<Box<Record>>> {
    let Some(payload) = journal.read(position)? else { return Ok(None) };
    journal::decode(position, &payload).map(|record| Some(Box::new(record)))
}

fn page(journal: &Records, query: &PageQuery) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let (mut at, mut skip) = (Some(query.from), query.offset);
    let mut take = |record: Record| {
        let previous = if query.kind.is_some() { record.previous_of_kind } else { record.previous };
        let position = record.position;
        if skip > 0 {
            skip -= 1;
        } else {
            records.push(record);
        }
        let next = (previous > 0).then(|| Position::new(position.shard(), previous));
        (next, skip.saturating_add((query.limit - records.len()) as u64))
    };
    let mut wanted = query.offset.saturating_add(query.limit as u64);
    while let Some(position) = at
        && wanted > 0
    {
        // What has rows in the history is read from there, many at once; a row that is not there is in the journal.
        let limit = usize::try_from(wanted).unwrap_or(usize::MAX);
        let rows = journal.history(&query.identity, position, query.kind, limit)?;
        if rows.first().is_none_or(|(first, _)| *first != position) {
            let Some(record) = read(journal, position)?.filter(|record| record.identity == query.identity) else {
                break;
            };
            (at, wanted) = take(*record);
            continue;
        }
        for (found, payload) in rows {
            (at, wanted) = take(journal::decode(found, &payload)?);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::disk::Disk;
    use crate::journal::{Journal, JournalOptions};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A record that a command waits for is read however many wait; a page is refused.
    #[test]
    fn beyond_the_bound_pages_are_refused_and_no_read_of_a_record_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions { segment_bytes: 16 << 10, ..JournalOptions::new(4) };
        let (_journal, records, _) = Journal::open(Disk::default(), folder.path(), options).unwrap();
        let fault = Arc::new(|error: Error| panic!("{error}"));
        let reader = Reader::start(Records::Embedded(records), "reader", 1, fault).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let blocked = ReadJob::Feed(Box::new(move |_| released.recv_timeout(PATIENCE).unwrap()));
        let (answer, answers) = mpsc::channel();
        let read = |_| {
            let answer = answer.clone();
            ReadJob::Record(Position::new(0, 1), Box::new(move |record| answer.send(record.is_none()).unwrap()))
        };
        reader.submit(vec![blocked]);
        reader.submit((0..READS_MAX + 10).map(read).collect());
        let identity = Identity::member("p", "m");
        let query = PageQuery { identity, from: Position::new(0, 1), kind: None, offset: 0, limit: 1 };
        let page = reader.page(query);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(page).is_none());
        release.send(()).unwrap();
        for _ in 0..READS_MAX + 10 {
            assert!(answers.recv_timeout(PATIENCE).unwrap(), "there is no such record");
        }
        reader.stop();
    }
}
