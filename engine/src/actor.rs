//! The actor round a shard: a thin shell that takes what lies in the shard's inbox, in one turn of the
//! worker, through the shard's logic; and the supervisor that stops the node when one fails.

use std::sync::Arc;

use meed_schemas::outcome::{Refusal, Reply};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::error::Error;
use crate::exchange::Exchange;
use crate::inbox::{Inbox, Work};
use crate::node::Node;
use crate::shard::{Envelope, Held, Input, Output, Shard, World};

/// What the actor is made of.
pub struct ShardArguments {
    /// The shard.
    pub shard: Shard,
    /// The node.
    pub node: Arc<Node>,
    /// Its worker's exchange.
    pub exchange: Arc<Exchange>,
    /// Its inbox.
    pub inbox: Arc<Inbox>,
}

/// What the actor owns.
pub struct ShardState {
    arguments: ShardArguments,
    inputs: Vec<Input>,
    /// What the shard is told with every input.
    world: World,
    programs_number: u64,
    /// When the shard last reported, by the node's monotonic clock.
    reported_ms: i64,
}

/// Pace of a shard's reports: they copy the totals of all its programs.
const REPORT_MS: i64 = 1_000;

/// The actor of one shard.
pub struct ShardActor;

impl Actor for ShardActor {
    type Msg = Work;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Work>,
        arguments: ShardArguments,
    ) -> Result<ShardState, ActorProcessingErr> {
        arguments.inbox.attach(myself);
        let (programs_number, programs) = arguments.node.numbered_programs();
        let world = World { now: 0, settle_until: 0, elapsed_ms: 0, programs };
        Ok(ShardState { arguments, inputs: Vec::new(), world, programs_number, reported_ms: i64::MIN / 2 })
    }

    async fn handle(&self, _: ActorRef<Work>, _: Work, state: &mut ShardState) -> Result<(), ActorProcessingErr> {
        let ShardState { arguments, inputs, world, programs_number, reported_ms } = state;
        let ShardArguments { shard, node, exchange, inbox } = arguments;
        let Some(since) = inbox.take(inputs) else { return Ok(()) };
        exchange.metrics.wait.record(since.elapsed());
        let elapsed_ms = node.times.elapsed_ms();
        world.now = exchange.clock().now(node.times.wall_ms(), elapsed_ms);
        world.settle_until = node.settle_until();
        world.elapsed_ms = elapsed_ms;
        node.refresh_programs(programs_number, &mut world.programs);
        let mut out = Output::default();
        let mut housekeeping = false;
        {
            let mut lane = exchange.lane(shard.id());
            let may_decide = node.may_decide(shard.id());
            for input in inputs.drain(..) {
                if !may_decide && let Input::Command(envelope) = &input {
                    out.ready.extend(refused(shard.id(), envelope));
                    continue;
                }
                housekeeping |= matches!(input, Input::Tick | Input::Flush | Input::CheckpointDone(_));
                if let Err(error) = shard.handle(input, world, &mut lane, &mut out) {
                    let text = error.to_string();
                    node.fault(error);
                    return Err(text.into());
                }
            }
        }
        if housekeeping {
            node.note_progress(shard);
            if elapsed_ms - *reported_ms >= REPORT_MS {
                *reported_ms = elapsed_ms;
                node.report(shard);
            }
        }
        // Counters are shared by all workers: nothing is written to them for nothing.
        if out.replays > 0 {
            exchange.metrics.replays.increment(out.replays);
        }
        if out.expired > 0 {
            exchange.metrics.expired.increment(out.expired);
        }
        if !out.jobs.is_empty() {
            node.keeper().ask(out.jobs);
        }
        exchange.put_ready(out.ready);
        exchange.arm();
        Ok(())
    }
}

/// The answer to a command that this node may not decide, by the clock or because it does not know what became of
/// what it decided before.
fn refused(shard: u16, envelope: &Envelope) -> Option<Held> {
    let reply = Reply::Refused(Refusal::NotReady);
    Some(Held::Reply { to: envelope.to?, shard, bytes: envelope.bytes, reply })
}

/// Watches the shards: one that fails, by a fault or a panic, stops the node, because its accounts can no
/// longer be trusted. Recovery is the restart.
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = Work;
    type State = Arc<Node>;
    type Arguments = Arc<Node>;

    async fn pre_start(&self, _: ActorRef<Work>, node: Arc<Node>) -> Result<Arc<Node>, ActorProcessingErr> {
        Ok(node)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Work>,
        event: SupervisionEvent,
        node: &mut Arc<Node>,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            node.fault(Error::Stopped(format!("a shard failed: {error}")));
        }
        Ok(())
    }
}
