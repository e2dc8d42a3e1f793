//! The part of a worker that other threads and its shards' actors reach: its inbox, its commit pipeline,
//! and what its shards have ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use meed_schemas::outcome::Reply;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::commit::{Buffer, Lane};
use crate::metrics::ShardMetrics;
use crate::shard::{Held, Input, ReplyTo};

/// What comes to a worker from others.
#[derive(Debug)]
pub enum Message {
    /// For one of its shards.
    Input(u16, Input),
    /// For one of its callers.
    Reply(ReplyTo, Reply),
    /// What one of its callers is told at its deadline.
    StillRunning(ReplyTo),
    /// A batch of one of its lanes is durable.
    Durable(usize, u64, Buffer),
}

/// The commit pipelines of a worker.
#[allow(clippy::large_enum_variant, reason = "made once; a box would be one more step on the way of every command")]
#[derive(Debug)]
pub enum Lanes {
    /// One for all its shards: the embedded journal makes them durable together.
    Shared(Mutex<Lane<Held>>),
    /// One for each of its shards, which are `worker`, `worker` + `workers`, …, in this order.
    PerShard {
        /// How many workers there are.
        workers: usize,
        /// The lanes.
        lanes: Vec<Mutex<Lane<Held>>>,
    },
}

/// One worker's exchange.
#[derive(Debug)]
pub struct Exchange {
    /// Which worker.
    pub index: u16,
    /// Measures of its shards.
    pub metrics: ShardMetrics,
    lanes: Lanes,
    clock: Mutex<Clock>,
    inbox: Mutex<Vec<Message>>,
    inbox_notify: Notify,
    ready: Mutex<Vec<Held>>,
    turn_notify: Notify,
    turn_armed: AtomicBool,
}

impl Exchange {
    /// Of a worker that has not begun.
    pub fn new(index: u16, lanes: Lanes, clock: Clock) -> Self {
        Self {
            index,
            metrics: ShardMetrics::register(),
            lanes,
            clock: Mutex::new(clock),
            inbox: Mutex::new(Vec::new()),
            inbox_notify: Notify::new(),
            ready: Mutex::new(Vec::new()),
            turn_notify: Notify::new(),
            turn_armed: AtomicBool::new(false),
        }
    }

    /// Delivers to this worker from any thread; wakes it at most once per batch, because waking another
    /// thread's runtime is a system call.
    pub fn send(&self, messages: impl IntoIterator<Item = Message>) {
        let mut inbox = lock(&self.inbox);
        let was_empty = inbox.is_empty();
        inbox.extend(messages);
        let wake = was_empty && !inbox.is_empty();
        drop(inbox);
        if wake {
            self.inbox_notify.notify_one();
        }
    }

    /// Waits for messages and takes them all into the empty `messages`.
    pub async fn receive(&self, messages: &mut Vec<Message>) {
        self.inbox_notify.notified().await;
        std::mem::swap(messages, &mut *lock(&self.inbox));
    }

    /// The commit pipeline of one of the worker's shards.
    pub fn lane(&self, shard: u16) -> MutexGuard<'_, Lane<Held>> {
        lock(match &self.lanes {
            Lanes::Shared(lane) => lane,
            Lanes::PerShard { workers, lanes } => &lanes[usize::from(shard) / workers],
        })
    }

    /// How many commit pipelines the worker has.
    pub fn lanes(&self) -> usize {
        match &self.lanes {
            Lanes::Shared(_) => 1,
            Lanes::PerShard { lanes, .. } => lanes.len(),
        }
    }

    /// One of them by number.
    pub fn lane_at(&self, number: usize) -> MutexGuard<'_, Lane<Held>> {
        lock(match &self.lanes {
            Lanes::Shared(lane) => lane,
            Lanes::PerShard { lanes, .. } => &lanes[number],
        })
    }

    /// Whether a pipeline has more than `bytes` to hand over.
    pub fn has_filled(&self, bytes: usize) -> bool {
        (0..self.lanes()).any(|number| self.lane_at(number).filling_bytes() > bytes)
    }

    /// Whether anything waits to be handed to the journal.
    pub fn has_batch(&self) -> bool {
        (0..self.lanes()).any(|number| self.lane_at(number).has_batch())
    }

    /// The worker's clock.
    pub fn clock(&self) -> MutexGuard<'_, Clock> {
        lock(&self.clock)
    }

    /// Held things whose turn came at once; they leave after the turn.
    pub fn put_ready(&self, ready: Vec<Held>) {
        if !ready.is_empty() {
            lock(&self.ready).extend(ready);
        }
    }

    /// Takes what is ready.
    pub fn take_ready(&self) -> Vec<Held> {
        std::mem::take(&mut *lock(&self.ready))
    }

    /// There is something to send, to answer or to journal.
    pub fn arm(&self) {
        if !self.turn_armed.swap(true, Ordering::Relaxed) {
            self.turn_notify.notify_one();
        }
    }

    /// Waits until [`Exchange::arm`].
    pub async fn armed(&self) {
        self.turn_notify.notified().await;
    }

    /// What is armed from now on is not yet seen.
    pub fn disarm(&self) {
        self.turn_armed.store(false, Ordering::Relaxed);
    }

    /// Lets the worker's tasks see that the node has stopped.
    pub fn wake_all(&self) {
        self.turn_notify.notify_one();
        self.inbox_notify.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock stops the node through the supervisor; until then others may look.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
