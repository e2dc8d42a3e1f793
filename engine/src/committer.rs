//! The node's journal thread: gathers the workers' buffers into one write and one fdatasync.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::commit::Buffer;
use crate::error::Error;
use crate::journal::{BatchSequence, Journal};
use crate::metrics::JournalMetrics;

/// What happens when a batch of a lane is durable, on the journal's thread.
pub type OnDurable = Box<dyn Fn(u64, Buffer) + Send>;
/// What happens when the journal fails: the process has to stop.
pub type OnFault = Box<dyn FnOnce(Error) + Send>;

#[derive(Debug, Default)]
struct Shared {
    slots: Vec<Option<(u64, Buffer)>>,
    idle: bool,
    stop: bool,
    /// A checkpoint asks to advance the durable end that is kept beside the journal.
    mark: bool,
}

/// Hands buffers to the journal thread: one slot per lane.
#[derive(Debug, Clone)]
pub struct Committer {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl Committer {
    /// Starts the thread. `on_durable` has one entry per lane.
    pub fn start(
        journal: Journal,
        on_durable: Vec<OnDurable>,
        on_fault: OnFault,
        metrics: JournalMetrics,
    ) -> (Self, std::thread::JoinHandle<Option<Journal>>) {
        let slots = on_durable.iter().map(|_| None).collect();
        let shared = Arc::new((Mutex::new(Shared { slots, ..Shared::default() }), Condvar::new()));
        let committer = Self { shared: Arc::clone(&shared) };
        let body = move || run(journal, &shared, &on_durable, on_fault, &metrics);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(body);
        match thread {
            Ok(thread) => (committer, thread),
            Err(error) => panic!("cannot start the journal thread: {error}"),
        }
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
    mut journal: Journal,
    shared: &(Mutex<Shared>, Condvar),
    on_durable: &[OnDurable],
    on_fault: OnFault,
    metrics: &JournalMetrics,
) -> Option<Journal> {
    let mut last: BatchSequence = 0;
    loop {
        let mut guard = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        while guard.slots.iter().all(Option::is_none) && !guard.stop && !guard.mark {
            guard.idle = true;
            guard = shared.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        guard.idle = false;
        let mark = std::mem::take(&mut guard.mark);
        let taken: Vec<(usize, u64, Buffer)> = guard
            .slots
            .iter_mut()
            .enumerate()
            .filter_map(|(lane, slot)| slot.take().map(|(number, buffer)| (lane, number, buffer)))
            .collect();
        let stop = guard.stop;
        drop(guard);
        let written = commit(&mut journal, &taken, mark, &mut last, metrics);
        if let Err(error) = written {
            // A failed write or sync is never retried and never acknowledged.
            on_fault(error);
            return None;
        }
        let idle = taken.is_empty();
        for (lane, number, buffer) in taken {
            on_durable[lane](number, buffer);
        }
        if stop && idle {
            return Some(journal);
        }
    }
}

fn commit(
    journal: &mut Journal,
    taken: &[(usize, u64, Buffer)],
    mark: bool,
    last: &mut BatchSequence,
    metrics: &JournalMetrics,
) -> crate::error::Result<()> {
    if mark && *last > 0 {
        journal.mark_durable(*last)?;
    }
    if taken.is_empty() {
        return Ok(());
    }
    let parts: Vec<_> = taken.iter().map(|(_, _, buffer)| buffer.part()).collect();
    let began = Instant::now();
    *last = journal.write(&parts)?;
    let wrote = Instant::now();
    journal.sync()?;
    let records = taken.iter().map(|t| t.2.records()).sum();
    let bytes = taken.iter().map(|t| t.2.bytes()).sum();
    metrics.batch(records, bytes, wrote - began, wrote.elapsed());
    Ok(())
}
