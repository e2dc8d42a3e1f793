//! Batches to CQL: one task per shard, one append of a shard under way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{OnFault, Result};
use crate::commit::Buffer;
use crate::error::Error;
use crate::journal::cql::{Cql, ShardJournal};
use crate::metrics::JournalMetrics;

/// What happens when a batch of a shard is durable: shard, number of the batch, its buffer.
pub type OnShardDurable = Arc<dyn Fn(u16, u64, Buffer) + Send + Sync>;

type Queue = mpsc::UnboundedSender<(u64, Buffer)>;

/// Hands batches to the shards' tasks. A queue holds at most one batch, because a lane has at most one under way.
#[derive(Debug, Clone)]
pub struct CqlCommitter {
    queues: Arc<Mutex<Vec<Queue>>>,
    workers: usize,
    batches_per_worker: usize,
}

/// The tasks, to wait for.
pub struct CqlTasks {
    cql: Arc<Cql>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl CqlCommitter {
    /// Starts a task for each journal; they are of the shards 0, 1, … in this order. `appends` may be under way at
    /// once, shared evenly by the workers.
    pub fn start(
        cql: &Arc<Cql>,
        journals: Vec<ShardJournal>,
        workers: usize,
        appends: usize,
        on_durable: &OnShardDurable,
        on_fault: OnFault,
        metrics: &JournalMetrics,
    ) -> (Self, CqlTasks) {
        let on_fault = Arc::new(Mutex::new(Some(on_fault)));
        let mut queues = Vec::new();
        let mut tasks = Vec::new();
        for (shard, journal) in journals.into_iter().enumerate() {
            let (queue, batches) = mpsc::unbounded_channel();
            queues.push(queue);
            let (on_durable, on_fault, metrics) = (Arc::clone(on_durable), Arc::clone(&on_fault), metrics.clone());
            tasks.push(cql.spawn(async move {
                let result = run(shard as u16, journal, batches, &on_durable, &metrics).await;
                if let Err(error) = result {
                    let first = on_fault.lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some(on_fault) = first {
                        on_fault(error);
                    }
                    return Err(Error::Stopped("the journal had failed; the next start recovers".into()));
                }
                Ok(())
            }));
        }
        let batches_per_worker = (appends / workers.max(1)).max(1);
        let committer = Self { queues: Arc::new(Mutex::new(queues)), workers, batches_per_worker };
        (committer, CqlTasks { cql: Arc::clone(cql), tasks })
    }

    /// How many appends one worker may have under way.
    pub fn batches_per_worker(&self) -> usize {
        self.batches_per_worker
    }

    /// Hands over a batch of the worker's lane.
    pub fn submit(&self, worker: u16, lane: usize, number: u64, buffer: Buffer) {
        let shard = usize::from(worker) + lane * self.workers;
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(shard) {
            // A task that is gone has failed, which stops the node.
            let _ = queue.send((number, buffer));
        }
    }

    /// The tasks end when they are through.
    pub fn stop(&self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl CqlTasks {
    /// Waits for the tasks, which [`CqlCommitter::stop`] ends.
    ///
    /// # Errors
    /// The journal had failed.
    pub fn join(self) -> Result<()> {
        self.cql.block_on(async {
            for task in self.tasks {
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
    on_durable: &OnShardDurable,
    metrics: &JournalMetrics,
) -> Result<()> {
    while let Some((number, buffer)) = batches.recv().await {
        if let Some(first) = buffer.first_sequence() {
            let began = Instant::now();
            journal.append(buffer.frames(), first, buffer.records()).await?;
            metrics.batch(buffer.records(), buffer.bytes(), Duration::ZERO, began.elapsed());
        }
        on_durable(shard, number, buffer);
    }
    Ok(())
}
