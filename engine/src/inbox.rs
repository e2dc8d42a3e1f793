//! The inbox of one shard, beside its actor's own mailbox: inputs lie here, and the mailbox carries only
//! "there is work", once for all that came meanwhile. The mailbox is unbounded; what lies here is bounded
//! by permits.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use ractor::ActorRef;

use crate::shard::Input;

/// There is work in the inbox.
#[derive(Debug)]
pub struct Work;

#[derive(Debug, Default)]
struct Queue {
    inputs: Vec<Input>,
    since: Option<Instant>,
}

/// Where a shard's inputs are put, by its own worker only.
#[derive(Debug, Default)]
pub struct Inbox {
    queue: Mutex<Queue>,
    actor: OnceLock<ActorRef<Work>>,
}

impl Inbox {
    /// From now on this actor is told.
    pub fn attach(&self, actor: ActorRef<Work>) {
        // A shard has one actor for the life of the process.
        let _ = self.actor.set(actor);
    }

    /// Adds inputs; the actor is told once.
    pub fn push(&self, inputs: impl IntoIterator<Item = Input>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.inputs.extend(inputs);
        if queue.since.is_none() && !queue.inputs.is_empty() {
            queue.since = Some(Instant::now());
            drop(queue);
            if let Some(actor) = self.actor.get() {
                // An actor that is gone has failed, which stops the node.
                let _ = actor.cast(Work);
            }
        }
    }

    /// Takes everything into the empty `inputs`; since when the oldest waited, if there is any.
    pub fn take(&self, inputs: &mut Vec<Input>) -> Option<Instant> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.inputs, inputs);
        queue.since.take()
    }
}
