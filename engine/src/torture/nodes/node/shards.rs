//! The shards of a node: what comes for them, and what they let go.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use meed_schemas::ids::Position;

use super::super::AGAIN_MS;
use super::{Came, Node, Role, WATERMARK_MS};
use crate::release::{self, came_of};
use crate::shard::{Held, Input, Output, Purpose, World};
use crate::torture::nodes::begin::{Begun, begin};
use crate::torture::nodes::desk::Extent;
use crate::torture::nodes::keyspace::{Answered, Statement};
use crate::torture::nodes::message::{Answer, Effect, Request, Sent, Task};
use crate::torture::nodes::owner::{Owner, OwnerNext, Released};
use crate::torture::nodes::upkeep;

impl Node {
    fn owner(&mut self, shard: u16) -> Option<&mut Owner> {
        match &mut self.roles[usize::from(shard)] {
            Role::Owning(owner) => Some(owner),
            _ => None,
        }
    }

    fn elapsed_ms(&self) -> i64 {
        self.now.boot_ms - self.began_ms
    }

    fn world(&mut self, shard: u16) -> World {
        World {
            now: self.clock.now(self.now.wall_ms, self.now.boot_ms),
            settle_until: i64::MAX,
            elapsed_ms: self.elapsed_ms(),
            may_decide: self.ownership.may_decide(shard, self.now.boot_ms),
            programs: Arc::clone(&self.desk.setup.programs),
        }
    }

    /// Begins to take a shard.
    pub(super) fn take(&mut self, shard: u16) {
        self.roles[usize::from(shard)] = Role::Coming(Vec::new());
        let desk = Rc::clone(&self.desk);
        self.jobs.push(Box::pin(async move { Came::Begun(shard, begin(desk, shard).await.map(|b| b.map(Box::new))) }));
    }

    /// A shard is another node's.
    pub(super) fn release_shard(&mut self, shard: u16) {
        self.roles[usize::from(shard)] = Role::Elsewhere;
        self.desk.extents.borrow_mut()[usize::from(shard)] = Extent::default();
        // What is under way for it has no one to come back to.
        self.shard_tokens[usize::from(shard)].next();
        self.watermark_tokens[usize::from(shard)].next();
    }

    /// A client asks.
    pub(super) fn requested(&mut self, request: Request) -> Result<(), String> {
        let (shard, elapsed_ms) = (request.shard, self.elapsed_ms());
        let may_decide = self.ownership.may_decide(shard, self.now.boot_ms);
        match &mut self.roles[usize::from(shard)] {
            Role::Owning(owner) if may_decide && !owner.is_going() => {
                let input = owner.requested(request, elapsed_ms);
                return self.turn(shard, input);
            }
            Role::Coming(waiting) => waiting.push(request),
            _ => self.out.push(Effect::Reply(request, Answer::Refused)),
        }
        Ok(())
    }

    /// Lets a shard handle an input.
    pub(super) fn turn(&mut self, shard: u16, input: Input) -> Result<(), String> {
        let world = self.world(shard);
        let Some(owner) = self.owner(shard) else { return Ok(()) };
        let done = owner.handle(input, &world);
        self.carry(shard, done)
    }

    /// A shard is to go.
    pub(super) fn drain(&mut self, shard: u16) -> Result<(), String> {
        let world = self.world(shard);
        let Some(owner) = self.owner(shard) else { return Ok(()) };
        let done = owner.drain(&world);
        self.carry(shard, done)
    }

    /// It stays after all.
    pub(super) fn resume(&mut self, shard: u16) -> Result<(), String> {
        let waiting = self.owner(shard).map(Owner::resume).unwrap_or_default();
        // No commands are among them.
        waiting.into_iter().try_for_each(|input| self.turn(shard, input))
    }

    /// A fault of an owner stops its node; it needs a cause.
    fn fault(&mut self, shard: u16, epoch: i64, what: String) -> Result<(), String> {
        if !self.desk.is_deposed(shard, epoch) {
            return Err(what);
        }
        self.stop(format!("shard {shard} is another node's: {what}"));
        Ok(())
    }

    /// Carries out what a shard wants done.
    fn carry(&mut self, shard: u16, done: Result<Output, String>) -> Result<(), String> {
        let out = match done {
            Ok(out) => out,
            Err(what) => {
                let epoch = self.owner(shard).map_or(0, |owner| owner.epoch());
                return self.fault(shard, epoch, what);
            }
        };
        self.desk.tasks.borrow_mut().ask(out.jobs);
        self.release(shard, out.ready)?;
        self.append_next(shard);
        Ok(())
    }

    fn release(&mut self, shard: u16, held: Vec<Held>) -> Result<(), String> {
        let mut released = Released::default();
        release::release(held, &mut released);
        let Released { replies, reads, checkpoints, fault } = released;
        for checkpoint in checkpoints {
            self.desk.tasks.borrow_mut().checkpoint(checkpoint);
        }
        let Some(owner) = self.owner(shard) else { return Ok(()) };
        let epoch = owner.epoch();
        let answers: Vec<_> = replies.into_iter().map(|(to, reply)| owner.answered(to, reply)).collect();
        for answer in answers {
            let (request, answer) = answer?;
            self.out.push(Effect::Reply(request, answer));
        }
        for (position, purpose) in reads {
            self.read(shard, epoch, position, purpose);
        }
        fault.map_or(Ok(()), |error| Err(error.to_string()))
    }

    fn read(&mut self, shard: u16, epoch: i64, position: Position, purpose: Purpose) {
        let desk = Rc::clone(&self.desk);
        self.jobs.push(Box::pin(async move {
            let record = upkeep::read(&desk, position).await;
            Came::Read { shard, epoch, position, purpose, record }
        }));
    }

    fn append_next(&mut self, shard: u16) {
        let Role::Owning(owner) = &mut self.roles[usize::from(shard)] else { return };
        if let Some(statement) = owner.begin_batch(&mut self.batches) {
            self.ask(Task::Shard(shard), statement);
        }
    }

    /// Asks for a shard's batch again.
    pub(super) fn append_again(&mut self, shard: u16) {
        if let Some(statement) = self.owner(shard).and_then(|owner| owner.statement()) {
            self.ask(Task::Shard(shard), statement);
        }
    }

    /// An answer to an append has come.
    pub(super) fn appended(&mut self, shard: u16, answered: Answered) -> Result<(), String> {
        let Some(owner) = self.owner(shard) else { return Ok(()) };
        let next = owner.appended(answered)?;
        self.ownership.set_unresolved(shard, matches!(next, OwnerNext::Pause));
        match next {
            OwnerNext::Ask => self.append_again(shard),
            OwnerNext::Pause => self.wake(Task::Shard(shard), AGAIN_MS),
            OwnerNext::Deposed => self.stop(format!("another node writes shard {shard}")),
            OwnerNext::Durable(held) => {
                self.release(shard, held)?;
                self.send_events(shard);
                self.append_next(shard);
            }
        }
        Ok(())
    }

    fn send_events(&mut self, shard: u16) {
        let Some(owner) = self.owner(shard) else { return };
        let epoch = owner.epoch();
        for (sequence, entry) in owner.take_unsent() {
            self.out.push(Effect::Produce(Sent { shard, epoch, sequence }, entry));
        }
    }

    fn sender(&mut self, sent: Sent) -> Option<&mut Owner> {
        self.owner(sent.shard).filter(|owner| owner.epoch() == sent.epoch)
    }

    /// The broker has an event.
    pub(in super::super) fn confirmed(&mut self, sent: Sent) {
        if let Some(owner) = self.sender(sent) {
            owner.confirmed(sent.sequence);
            self.send_events(sent.shard);
        }
    }

    /// An event that was sent may have no confirmation in time: when it is the oldest, all that wait are sent again, in
    /// order.
    pub(in super::super) fn unconfirmed(&mut self, sent: Sent) {
        let again = self.sender(sent).map(|owner| owner.waiting_since(sent.sequence)).unwrap_or_default();
        self.out.extend(again.into_iter().map(|(sequence, entry)| Effect::Produce(Sent { sequence, ..sent }, entry)));
    }

    pub(super) fn save_watermark(&mut self, shard: u16) {
        if let Some(up_to) = self.owner(shard).map(|owner| owner.published()) {
            self.ask(Task::Watermark(shard), Statement::Published { shard, up_to });
        }
    }

    /// Lets the tasks of the node go on, until nothing comes of it.
    pub(super) fn run(&mut self) -> Result<(), String> {
        loop {
            let mut came = Vec::new();
            let context = &mut Context::from_waker(Waker::noop());
            self.jobs.retain_mut(|job| match job.as_mut().poll(context) {
                Poll::Ready(done) => {
                    came.push(done);
                    false
                }
                Poll::Pending => true,
            });
            let inputs = self.desk.take_inputs();
            if came.is_empty() && inputs.is_empty() {
                break;
            }
            came.into_iter().try_for_each(|came| self.came(came))?;
            inputs.into_iter().try_for_each(|(shard, input)| self.turn(shard, input))?;
        }
        self.out.extend(self.desk.line.take_out());
        Ok(())
    }

    fn came(&mut self, came: Came) -> Result<(), String> {
        match came {
            Came::Begun(shard, begun) => match begun? {
                Some(begun) => self.begun(shard, *begun),
                None => {
                    self.stop(format!("another node claimed shard {shard}"));
                    Ok(())
                }
            },
            Came::Read { shard, epoch, position, purpose, record } => {
                let record = match record {
                    Ok(record) => record,
                    Err(what) => return self.fault(shard, epoch, what),
                };
                let shards = self.desk.setup.shards;
                // The shard may have gone to another node: then nobody waits here.
                let Some(owner) = self.owner(shard).filter(|owner| owner.epoch() == epoch) else { return Ok(()) };
                match came_of(position, purpose, record, shards) {
                    release::Came::Reply { to, reply, .. } => {
                        let (request, answer) = owner.answered(to, reply)?;
                        self.out.push(Effect::Reply(request, answer));
                        Ok(())
                    }
                    release::Came::Input(shard, input) => self.turn(shard, input),
                }
            }
            Came::Ended(ended) => ended,
        }
    }

    fn begun(&mut self, shard: u16, begun: Begun) -> Result<(), String> {
        let owner = Owner::new(&self.desk, begun)?;
        let role = std::mem::replace(&mut self.roles[usize::from(shard)], Role::Owning(Box::new(owner)));
        self.ownership.set_unresolved(shard, false);
        self.send_events(shard);
        self.wake(Task::Watermark(shard), WATERMARK_MS);
        let Role::Coming(waiting) = role else { return Ok(()) };
        waiting.into_iter().try_for_each(|request| self.requested(request))
    }
}
