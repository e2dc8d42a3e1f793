//! The actor round a shard: a thin shell that takes what lies in the shard's inbox, in one turn of the
//! worker, through the shard's logic.
//!
//! Inputs lie in an inbox beside the actor's own mailbox, which carries only "there is work": one message
//! for all that came meanwhile. The mailbox is unbounded; what is in the inbox is bounded by permits.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::{Input, Output, Shard};
use crate::node::Node;
use crate::worker::WorkerShared;

/// There is work in the inbox.
#[derive(Debug)]
pub struct Work;

#[cfg(feature = "cluster")]
impl ractor::Message for Work {}

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

    fn take(&self, inputs: &mut Vec<Input>) -> Option<Instant> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.inputs, inputs);
        queue.since.take()
    }
}

/// What the actor is made of.
pub struct ShardArguments {
    /// The shard.
    pub shard: Shard,
    /// The node.
    pub node: Arc<Node>,
    /// Its worker.
    pub worker: Arc<WorkerShared>,
    /// Its inbox.
    pub inbox: Arc<Inbox>,
}

/// What the actor owns.
pub struct ShardState {
    arguments: ShardArguments,
    inputs: Vec<Input>,
}

/// The actor of one shard.
pub struct ShardActor;

impl Actor for ShardActor {
    type Msg = Work;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(&self, myself: ActorRef<Work>, arguments: ShardArguments) -> Result<ShardState, ActorProcessingErr> {
        let _ = arguments.inbox.actor.set(myself);
        Ok(ShardState { arguments, inputs: Vec::new() })
    }

    async fn handle(&self, _: ActorRef<Work>, _: Work, state: &mut ShardState) -> Result<(), ActorProcessingErr> {
        let ShardState { arguments: ShardArguments { shard, node, worker, inbox }, inputs } = state;
        let Some(since) = inbox.take(inputs) else { return Ok(()) };
        worker.metrics.wait.record(since.elapsed());
        let world = worker.world(node);
        let mut out = Output::default();
        let mut housekeeping = false;
        {
            let mut lane = worker.lane();
            for input in inputs.drain(..) {
                housekeeping |= matches!(input, Input::Tick | Input::Flush | Input::CheckpointDone(_));
                if let Err(error) = shard.handle(input, &world, &mut lane, &mut out) {
                    node.fault(&error);
                    return Err(error.into());
                }
            }
        }
        if housekeeping {
            node.report(shard);
        }
        worker.took_turn(node, out);
        Ok(())
    }
}

/// Watches the shards: one that fails, by a fault or a panic, stops the node, because its accounts can no
/// longer be trusted. Recovery is the restart.
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = Arc<Node>;
    type Arguments = Arc<Node>;

    async fn pre_start(&self, _: ActorRef<()>, node: Arc<Node>) -> Result<Arc<Node>, ActorProcessingErr> {
        Ok(node)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        node: &mut Arc<Node>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            node.fault(&crate::error::Error::Stopped(format!("a shard failed: {error}")));
        }
        Ok(())
    }
}
