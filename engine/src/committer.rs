//! Where workers hand their batches over: to the embedded journal's thread, which gathers the buffers of all
//! workers into one write and one fdatasync, or to CQL, which makes the batches of each shard durable by themselves.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::commit::Buffer;
use crate::error::{Error, Result};
use crate::journal::{BatchSequence, Journal};
use crate::metrics::JournalMetrics;
pub use cql::{CqlCommitter, CqlTasks, OnShardDurable};

mod cql;

/// What happens when a batch of a lane is durable, on the journal's thread.
pub type OnDurable = Box<dyn Fn(u64, Buffer) + Send>;
/// What happens when the journal fails: the process has to stop.
pub type OnFault = Box<dyn FnOnce(Error) + Send>;

/// A batch of a worker on its way: its lane, its number there, its records.
pub type Batch = (usize, u64, Buffer);

/// The journal as its thread drives it, without the thread: what one round writes, and its sync. The simulator
/// drives the same.
#[derive(Debug)]
pub struct Rounds {
    journal: Journal,
    /// The last batch of this process that is synced; 0 for none.
    last: BatchSequence,
}

impl Rounds {
    /// Of a journal that this process has not written to yet.
    pub fn new(journal: Journal) -> Self {
        Self { journal, last: 0 }
    }

    /// Records the durable end when asked for it, then writes the workers' batches as one. Nobody may be told
    /// before [`Rounds::sync`].
    ///
    /// # Errors
    /// A fault of the journal, which is final.
    pub fn write(&mut self, batches: &[Batch], mark: bool) -> Result<()> {
        if mark && self.last > 0 {
            self.journal.mark_durable(self.last)?;
        }
        if batches.is_empty() {
            return Ok(());
        }
        let parts: Vec<_> = batches.iter().map(|(_, _, buffer)| buffer.part()).collect();
        self.journal.write(&parts).map(|_| ())
    }

    /// Makes what was written durable: the workers may be told.
    ///
    /// # Errors
    /// A fault of the journal, which is final.
    pub fn sync(&mut self) -> Result<()> {
        self.journal.sync()?;
        self.last = self.journal.last_batch();
        Ok(())
    }

    /// The journal itself.
    pub fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// The journal, to close it.
    pub fn into_journal(self) -> Journal {
        self.journal
    }
}

#[derive(Debug, Default)]
struct Shared {
    slots: Vec<Option<(u64, Buffer)>>,
    idle: bool,
    stop: bool,
    /// A checkpoint asks to advance the durable end that is kept beside the journal.
    mark: bool,
}

/// The journal that a node has.
#[derive(Debug, Clone)]
pub enum Committer {
    /// The embedded one, by its thread.
    Embedded(EmbeddedCommitter),
    /// The one in CQL.
    Cql(CqlCommitter),
}

impl Committer {
    /// How many batches one worker may have handed over.
    pub fn batches_per_worker(&self) -> usize {
        match self {
            Self::Embedded(_) => 1,
            Self::Cql(committer) => committer.batches_per_worker(),
        }
    }

    /// Hands over a batch of a worker's lane, of which no other is under way.
    pub fn submit(&self, worker: u16, lane: usize, number: u64, buffer: Buffer) {
        match self {
            Self::Embedded(committer) => committer.submit(usize::from(worker), number, buffer),
            Self::Cql(committer) => committer.submit(worker, lane, number, buffer),
        }
    }

    /// A checkpoint is durable.
    pub fn mark_durable(&self) {
        match self {
            Self::Embedded(committer) => committer.mark_durable(),
            // What CQL has acknowledged needs no mark: it has no torn tail.
            Self::Cql(_) => {}
        }
    }

    /// Finishes what was handed over; [`CommitterThread::join`] waits for it.
    pub fn stop(&self) {
        match self {
            Self::Embedded(committer) => committer.stop(),
            Self::Cql(committer) => committer.stop(),
        }
    }
}

/// What is waited for when a node stops.
pub enum CommitterThread {
    /// The embedded journal's thread.
    Embedded(std::thread::JoinHandle<Option<Journal>>),
    /// The tasks of CQL.
    Cql(CqlTasks),
}

impl CommitterThread {
    /// Waits until the journal is closed in order.
    ///
    /// # Errors
    /// It had failed, or fails now.
    pub fn join(self) -> Result<()> {
        let failed = || Error::Stopped("the journal had failed; the next start recovers".into());
        match self {
            Self::Embedded(thread) => match thread.join() {
                Ok(Some(journal)) => journal.close(),
                _ => Err(failed()),
            },
            Self::Cql(tasks) => tasks.join(),
        }
    }
}

/// Hands buffers to the journal thread: one slot per lane.
#[derive(Debug, Clone)]
pub struct EmbeddedCommitter {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl EmbeddedCommitter {
    /// Starts the thread. `on_durable` has one entry per lane.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        journal: Journal,
        on_durable: Vec<OnDurable>,
        on_fault: OnFault,
        metrics: JournalMetrics,
    ) -> Result<(Self, std::thread::JoinHandle<Option<Journal>>)> {
        let slots = on_durable.iter().map(|_| None).collect();
        let shared = Arc::new((Mutex::new(Shared { slots, ..Shared::default() }), Condvar::new()));
        let committer = Self { shared: Arc::clone(&shared) };
        let body = move || run(journal, &shared, &on_durable, on_fault, &metrics);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(body);
        Ok((committer, thread.map_err(|error| Error::io("start a thread of", "the journal", error))?))
    }

    /// Puts a batch into the lane's slot, which is free: a lane has one batch under way.
    pub fn submit(&self, lane: usize, number: u64, buffer: Buffer) {
        let mut shared = self.lock();
        debug_assert!(shared.slots[lane].is_none());
        shared.slots[lane] = Some((number, buffer));
        if std::mem::take(&mut shared.idle) {
            self.shared.1.notify_one();
        }
    }

    /// Records the durable end beside the journal before the next batch, so that damage below it is not
    /// taken for a torn tail.
    pub fn mark_durable(&self) {
        let mut shared = self.lock();
        shared.mark = true;
        if std::mem::take(&mut shared.idle) {
            self.shared.1.notify_one();
        }
    }

    /// Writes what is in the slots, then ends the thread, which gives the journal back.
    pub fn stop(&self) {
        let mut shared = self.lock();
        shared.stop = true;
        self.shared.1.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(
    journal: Journal,
    shared: &(Mutex<Shared>, Condvar),
    on_durable: &[OnDurable],
    on_fault: OnFault,
    metrics: &JournalMetrics,
) -> Option<Journal> {
    let mut rounds = Rounds::new(journal);
    loop {
        let mut guard = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        while guard.slots.iter().all(Option::is_none) && !guard.stop && !guard.mark {
            guard.idle = true;
            guard = shared.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        guard.idle = false;
        let mark = std::mem::take(&mut guard.mark);
        let taken: Vec<Batch> = guard
            .slots
            .iter_mut()
            .enumerate()
            .filter_map(|(lane, slot)| slot.take().map(|(number, buffer)| (lane, number, buffer)))
            .collect();
        let stop = guard.stop;
        drop(guard);
        if let Err(error) = commit(&mut rounds, &taken, mark, metrics) {
            // A failed write or sync is never retried and never acknowledged.
            on_fault(error);
            return None;
        }
        let idle = taken.is_empty();
        for (lane, number, buffer) in taken {
            on_durable[lane](number, buffer);
        }
        if stop && idle {
            return Some(rounds.into_journal());
        }
    }
}

fn commit(rounds: &mut Rounds, taken: &[Batch], mark: bool, metrics: &JournalMetrics) -> Result<()> {
    let began = Instant::now();
    rounds.write(taken, mark)?;
    if taken.is_empty() {
        return Ok(());
    }
    let wrote = Instant::now();
    rounds.sync()?;
    let records = taken.iter().map(|t| t.2.records()).sum();
    let bytes = taken.iter().map(|t| t.2.bytes()).sum();
    metrics.batch(records, bytes, wrote - began, wrote.elapsed());
    Ok(())
}
