//! Batches to CQL: one task per shard that is here, one append of a shard under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{OnFault, Result};
use crate::commit::Buffer;
use crate::error::Error;
use crate::journal::cql::{Appends, Cql, ShardJournal};
use crate::metrics::JournalMetrics;

/// What happens when a batch of a shard is durable: shard, number of the batch, its buffer.
pub type OnShardDurable = Arc<dyn Fn(u16, u64, Buffer) + Send + Sync>;

type Queue = mpsc::UnboundedSender<(u64, Buffer)>;
type Task = tokio::task::JoinHandle<Result<()>>;

/// Hands batches to the shards' tasks. A queue holds at most one batch, because a lane has at most one under way.
#[derive(Clone)]
pub struct CqlCommitter {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for CqlCommitter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CqlCommitter(..)")
    }
}

struct Shared {
    cql: Arc<Cql>,
    /// By shard.
    queues: Mutex<Vec<Option<Queue>>>,
    tasks: Mutex<Vec<Task>>,
    workers: usize,
    appends: Arc<Appends>,
    on_durable: OnShardDurable,
    on_fault: Arc<Mutex<Option<OnFault>>>,
    metrics: JournalMetrics,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks, to wait for.
pub struct CqlTasks(Arc<Shared>);

impl CqlCommitter {
    /// Of `shards` shards, none of which is here yet. At most `appends` are under way at once, shared evenly by the
    /// workers.
    pub fn new(
        cql: &Arc<Cql>,
        shards: u16,
        workers: usize,
        appends: usize,
        on_durable: OnShardDurable,
        on_fault: OnFault,
        metrics: JournalMetrics,
    ) -> (Self, CqlTasks) {
        let shared = Arc::new(Shared {
            cql: Arc::clone(cql),
            queues: Mutex::new((0..shards).map(|_| None).collect()),
            tasks: Mutex::default(),
            workers,
            appends: Arc::new(Appends::new(appends)),
            on_durable,
            on_fault: Arc::new(Mutex::new(Some(on_fault))),
            metrics,
        });
        (Self { shared: Arc::clone(&shared) }, CqlTasks(shared))
    }

    /// A shard is here: starts its task.
    pub fn attach(&self, shard: u16, journal: ShardJournal) {
        let shared = &self.shared;
        // A lane has one batch under way.
        let (queue, batches) = mpsc::unbounded_channel();
        let (on_durable, on_fault) = (Arc::clone(&shared.on_durable), Arc::clone(&shared.on_fault));
        let (metrics, appends) = (shared.metrics.clone(), Arc::clone(&shared.appends));
        let task = shared.cql.spawn(async move {
            let ended = run(shard, journal, batches, &appends, &on_durable, &metrics).await;
            let Err(error) = ended else { return Ok(()) };
            let first = lock(&on_fault).take();
            if let Some(on_fault) = first {
                on_fault(error);
            }
            Err(Error::Stopped("the journal had failed; the next start recovers".into()))
        });
        let mut tasks = lock(&shared.tasks);
        // One that failed has told it, and stops the node.
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
        drop(tasks);
        if let Some(place) = lock(&shared.queues).get_mut(usize::from(shard)) {
            *place = Some(queue);
        }
    }

    /// A shard is here no longer, and nothing of it is under way: its task ends.
    pub fn detach(&self, shard: u16) {
        if let Some(place) = lock(&self.shared.queues).get_mut(usize::from(shard)) {
            *place = None;
        }
    }

    /// How many batches one worker may have handed over.
    pub fn batches_per_worker(&self) -> usize {
        self.shared.appends.per_worker(self.shared.workers)
    }

    /// Hands over a batch of the worker's lane.
    pub fn submit(&self, worker: u16, lane: usize, number: u64, buffer: Buffer) {
        let shard = usize::from(worker) + lane * self.shared.workers;
        if let Some(Some(queue)) = lock(&self.shared.queues).get(shard) {
            // A task that is gone has failed, which stops the node.
            let _ = queue.send((number, buffer));
        }
    }

    /// The tasks end when they are through.
    pub fn stop(&self) {
        lock(&self.shared.queues).clear();
    }
}

impl CqlTasks {
    /// Waits for the tasks, which [`CqlCommitter::stop`] ends.
    ///
    /// # Errors
    /// The journal had failed.
    pub fn join(self) -> Result<()> {
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        self.0.cql.block_on(async {
            for task in tasks {
                task.await.unwrap_or_else(|_| Err(Error::Stopped("a task of the journal panicked".into())))?;
            }
            Ok(())
        })
    }
}

async fn run(
    shard: u16,
    mut journal: ShardJournal,
    mut batches: mpsc::UnboundedReceiver<(u64, Buffer)>,
    appends: &Appends,
    on_durable: &OnShardDurable,
    metrics: &JournalMetrics,
) -> Result<()> {
    while let Some((number, buffer)) = batches.recv().await {
        if let Some(first) = buffer.first_sequence() {
            let began = Instant::now();
            journal.append(appends, buffer.frames(), first, buffer.records()).await?;
            metrics.batch(buffer.records(), buffer.bytes(), Duration::ZERO, began.elapsed());
        }
        on_durable(shard, number, buffer);
    }
    Ok(())
}
