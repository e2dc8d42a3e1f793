//! The actor round a shard: a thin shell that takes what lies in the shard's inbox, in one turn of the
//! worker, through the shard's logic; and the supervisor that stops the node when one fails.
//!
//! Where several nodes share a journal, the actors of all shards run on every node, and each knows whether the shard is
//! here. A shard that is given away first ends what is under way: then nothing that it asked for can come back when
//! the node gets it again.

use std::sync::Arc;

use meed_schemas::outcome::{Refusal, Reply};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use crate::commit::Lane;
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::inbox::{Inbox, Work};
use crate::journal::cql;
use crate::node::Node;
use crate::shard::table::WARM_MAX;
use crate::shard::{Envelope, Held, Input, Output, Shard, ShardLimits, Tenure, World};

/// What the actor is made of.
pub struct ShardArguments {
    /// Which shard.
    pub id: u16,
    /// The shard, where it is here from the start.
    pub shard: Option<Shard>,
    /// Bounds of one that comes later.
    pub limits: ShardLimits,
    /// The node.
    pub node: Arc<Node>,
    /// Its worker's exchange.
    pub exchange: Arc<Exchange>,
    /// Its inbox.
    pub inbox: Arc<Inbox>,
}

/// Whether a shard is here.
enum Place {
    /// It is.
    Here(Box<Shard>),
    /// Another node has it, or nobody.
    Elsewhere,
    /// It is being recovered; what came for it waits.
    Coming(Vec<Envelope>),
    /// It is to go: what is under way ends, what comes waits. Once all has ended, the node was told.
    Going { shard: Box<Shard>, waiting: Vec<Input>, was_told: bool },
}

/// A shard's place on this node.
struct Tenancy {
    id: u16,
    place: Place,
    limits: ShardLimits,
}

/// What the actor owns.
pub struct ShardState {
    tenancy: Tenancy,
    node: Arc<Node>,
    exchange: Arc<Exchange>,
    inbox: Arc<Inbox>,
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
    ) -> std::result::Result<ShardState, ActorProcessingErr> {
        let ShardArguments { id, shard, limits, node, exchange, inbox } = arguments;
        inbox.attach(myself);
        let place = shard.map_or(Place::Elsewhere, |shard| Place::Here(Box::new(shard)));
        let (programs_number, programs) = node.numbered_programs();
        let world = World { now: 0, settle_until: 0, elapsed_ms: 0, may_decide: false, programs };
        let (tenancy, inputs, reported_ms) = (Tenancy { id, place, limits }, Vec::new(), i64::MIN / 2);
        Ok(ShardState { tenancy, node, exchange, inbox, inputs, world, programs_number, reported_ms })
    }

    async fn handle(
        &self,
        _: ActorRef<Work>,
        _: Work,
        state: &mut ShardState,
    ) -> std::result::Result<(), ActorProcessingErr> {
        let Some(since) = state.inbox.take(&mut state.inputs) else { return Ok(()) };
        state.exchange.metrics.wait.record(since.elapsed());
        state.turn().map_err(|error| {
            let text = error.to_string();
            state.node.fault(error);
            text.into()
        })
    }
}

impl ShardState {
    fn turn(&mut self) -> Result<()> {
        let Self { tenancy, node, exchange, inputs, world, programs_number, reported_ms, .. } = self;
        let elapsed_ms = node.times.elapsed_ms();
        world.now = exchange.clock().now(node.times.wall_ms(), elapsed_ms);
        world.settle_until = node.settle_until();
        world.elapsed_ms = elapsed_ms;
        world.may_decide = node.may_decide(tenancy.id);
        node.refresh_programs(programs_number, &mut world.programs);
        let mut out = Output::default();
        let mut housekeeping = false;
        {
            let mut lane = exchange.lane(tenancy.id);
            let mut inputs = inputs.drain(..);
            let mut warm = 0;
            loop {
                if warm == 0
                    && let Place::Here(shard) = &tenancy.place
                {
                    shard.warm(inputs.as_slice());
                    warm = WARM_MAX;
                }
                warm = warm.saturating_sub(1);
                let Some(input) = inputs.next() else { break };
                let Place::Here(shard) = &mut tenancy.place else {
                    tenancy.away(node, input, world, &mut lane, &mut out)?;
                    continue;
                };
                if !world.may_decide
                    && let Input::Command(envelope) = &input
                {
                    out.ready.extend(refused(tenancy.id, envelope, Refusal::NotReady));
                    continue;
                }
                if let Input::Tenure(tenure) = input {
                    tenancy.change(node, *tenure, world, &mut lane, &mut out)?;
                    continue;
                }
                housekeeping |= matches!(input, Input::Tick | Input::CheckpointAll | Input::CheckpointDone(_));
                shard.handle(input, world, &mut lane, &mut out)?;
            }
            tenancy.look_whether_gone(node, &lane, &out);
        }
        if let (true, Place::Here(shard)) = (housekeeping, &tenancy.place) {
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

impl Tenancy {
    /// Takes an input of a shard that is not, or not wholly, here.
    fn away(
        &mut self,
        node: &Node,
        input: Input,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        let version = node.map_version();
        match (&mut self.place, input) {
            (_, Input::Tenure(tenure)) => self.change(node, *tenure, world, lane, out)?,
            (Place::Here(shard), input) => shard.handle(input, world, lane, out)?,
            (Place::Elsewhere, Input::Command(envelope)) => {
                out.ready.extend(refused(self.id, &envelope, Refusal::NotOwner { version }));
            }
            (Place::Coming(waiting), Input::Command(envelope)) => waiting.push(envelope),
            (Place::Elsewhere, Input::CheckpointAll) => node.note_absent(self.id),
            // What a tenure before this one had asked for.
            (Place::Elsewhere | Place::Coming(_), _) => {}
            // The keys that were spilled come piece by piece: another piece would be asked for behind what makes the
            // store forget the shard, and remembered when the shard comes back.
            (Place::Going { waiting, .. }, input @ (Input::Command(_) | Input::Due(_) | Input::SpilledKeys(..))) => {
                waiting.push(input);
            }
            (Place::Going { .. }, Input::Tick) => {}
            (Place::Going { shard, .. }, input) => {
                shard.handle(input, world, lane, out)?;
                node.note_progress(shard);
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        node: &Node,
        tenure: Tenure,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        let version = node.map_version();
        let (place, waiting) = match (std::mem::replace(&mut self.place, Place::Elsewhere), tenure) {
            (Place::Elsewhere, Tenure::Prepare) => (Place::Coming(Vec::new()), Vec::new()),
            (Place::Coming(waiting), Tenure::Begin(start)) => {
                let batch_bytes = node.config().cql.as_ref().map_or(cql::BATCH_BYTES, |cql| cql.batch_bytes);
                *lane = Lane::of_shard(self.id, start.last_sequence, batch_bytes);
                let shard = Box::new(Shard::new(*start, self.limits));
                (Place::Here(shard), waiting.into_iter().map(Input::Command).collect())
            }
            (Place::Here(shard), Tenure::Drain) => {
                (Place::Going { shard, waiting: Vec::new(), was_told: false }, Vec::new())
            }
            (Place::Going { shard, waiting, .. }, Tenure::Resume) => (Place::Here(shard), waiting),
            (Place::Going { waiting, .. }, Tenure::Release) => (Place::Elsewhere, waiting),
            (place, _) => (place, Vec::new()),
        };
        self.place = place;
        for input in waiting {
            match (&mut self.place, input) {
                // What the store has answered is never asked for again: it counts whatever the clock says.
                (Place::Here(shard), input) if world.may_decide || !matches!(input, Input::Command(_)) => {
                    shard.handle(input, world, lane, out)?;
                }
                (Place::Here(_), Input::Command(envelope)) => {
                    out.ready.extend(refused(self.id, &envelope, Refusal::NotReady));
                }
                (_, Input::Command(envelope)) => {
                    out.ready.extend(refused(self.id, &envelope, Refusal::NotOwner { version }));
                }
                _ => {}
            }
        }
        match &mut self.place {
            Place::Going { shard, .. } => shard.checkpoint_all(world, lane, out)?,
            Place::Here(shard) => node.report(shard),
            Place::Elsewhere => node.note_absent(self.id),
            Place::Coming(_) => {}
        }
        Ok(())
    }

    /// Tells the node once when nothing of a shard that is to go is under way any more.
    fn look_whether_gone(&mut self, node: &Node, lane: &Lane<Held>, out: &Output) {
        if let Place::Going { shard, was_told, .. } = &mut self.place
            && !*was_told
            && shard.is_quiet()
            && lane.is_quiet()
            && out.ready.is_empty()
        {
            *was_told = true;
            node.told_quiet(self.id);
        }
    }
}

/// The answer to a command that this node may not decide: by the clock, because it does not know what became of
/// what it decided before, or because another node owns the shard.
fn refused(shard: u16, envelope: &Envelope, why: Refusal) -> Option<Held> {
    Some(Held::Reply { to: envelope.to?, shard, bytes: envelope.bytes, reply: Reply::Refused(why) })
}

/// Watches the shards: one that fails, by a fault or a panic, stops the node, because its accounts can no
/// longer be trusted. Recovery is the restart.
pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = Work;
    type State = Arc<Node>;
    type Arguments = Arc<Node>;

    async fn pre_start(
        &self,
        _: ActorRef<Work>,
        node: Arc<Node>,
    ) -> std::result::Result<Arc<Node>, ActorProcessingErr> {
        Ok(node)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Work>,
        event: SupervisionEvent,
        node: &mut Arc<Node>,
    ) -> std::result::Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            node.fault(Error::Stopped(format!("a shard failed: {error}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::account::Totals;
    use crate::clock::SystemTimes;
    use crate::config::EngineConfig;
    use crate::program::Programs;
    use crate::secrets::Secrets;
    use crate::shard::ShardStart;
    use crate::store::KeyPlace;

    #[test]
    fn a_shard_that_is_to_go_asks_for_no_more_spilled_keys_until_it_stays() {
        let (config, secrets) = (EngineConfig::new("unused"), Secrets::from_random(&[1; 96]));
        let on_fault = Box::new(|_: &Error| {});
        let times = SystemTimes::start();
        let node = Node::new(config, 1, secrets, Vec::new(), Programs::default(), i64::MAX, times, on_fault, None);
        let limits = ShardLimits {
            resident_bytes: 1 << 20,
            unbounded_loads_per_tick: 1,
            filter_bytes: 1 << 10,
            checkpoint_records: 1,
            checkpoint_interval_ms: 1_000,
            checkpoint_rows: 1,
            checkpoint_step: 1,
            pack_after_ms: 1_000,
            settled_per_tick: 1,
        };
        let start = ShardStart {
            id: 0,
            last_sequence: 0,
            last_recorded_at: 0,
            totals: Totals::default(),
            accounts: 0,
            replayed: Vec::new(),
            no_spilled_keys: false,
            seed: 1,
        };
        let shard = Box::new(Shard::new(start, limits));
        let place = Place::Going { shard, waiting: Vec::new(), was_told: true };
        let mut tenancy = Tenancy { id: 0, place, limits };
        let world = World { now: 0, settle_until: 0, elapsed_ms: 0, may_decide: true, programs: Arc::default() };
        let (mut lane, mut out) = (Lane::of_shard(0, 0, usize::MAX), Output::default());
        let piece = Input::SpilledKeys(vec![7], Some(KeyPlace::FIRST));
        tenancy.away(&node, piece, &world, &mut lane, &mut out).unwrap();
        assert!(out.jobs.is_empty(), "its rows are forgotten before this is asked");
        tenancy.change(&node, Tenure::Resume, &world, &mut lane, &mut out).unwrap();
        assert_eq!(out.jobs.len(), 1);
    }
}
