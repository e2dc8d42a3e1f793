//! One worker: a thread with its own runtime, its own shards and its own connections.
//!
//! Requests for its own shards go straight into their inboxes; those for another worker's shards travel
//! through that worker's inbox, and their answers back, in batches with one wake-up each. A worker hands one
//! buffer per batch to the journal thread for all its shards.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_schemas::command::Request;
use meed_schemas::ids::Position;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::Record;
use smallvec::SmallVec;

use crate::error::{self, Error};
use crate::exchange::{Exchange, Message};
use crate::inbox::Inbox;
use crate::node::Node;
use crate::permits::NoPermit;
use crate::program::{Program, Programs};
use crate::reader::ReadJob;
use crate::release::{Came, Outlet, came_of, not_owner, program_of, release};
use crate::shard::{Checkpoint, Envelope, Held, Input, Purpose, ReplyTo};
use crate::slots::Slots;
pub use calls::{Answers, Call, CallMany};

mod calls;

/// How often a worker lets others run before it hands its batch to the journal, so that the batch grows.
const YIELDS_BEFORE_SUBMIT: usize = 3;
/// Batches of one lane that the journal may have at once. With a second one waiting, batches are smaller.
const BATCHES_UNDER_WAY_MAX: usize = 1;
/// A batch that has grown to this goes to the journal without waiting for more.
const BATCH_BYTES: usize = 4 << 20;
/// Pace of deadlines and of time in the shards.
pub const TICK: Duration = Duration::from_millis(50);
/// Ticks between two store syncs.
const TICKS_PER_SYNC: u32 = 100;

/// Time between two tries to get permits.
const ADMISSION_POLL: Duration = Duration::from_millis(2);

/// Permits of a window of commands, which their answers give back. They are lost if the commands are not
/// sent, so both happen in one breath.
#[must_use]
pub struct Admitted {
    shards: SmallVec<[u16; 1]>,
    bytes: u32,
}

/// A worker, seen from its own thread. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    inner: Rc<Inner>,
}

struct Inner {
    node: Arc<Node>,
    exchange: Arc<Exchange>,
    /// Inboxes of this worker's shards, by shard; `None` for those of others.
    shards: Vec<Option<Arc<Inbox>>>,
    slots: RefCell<Slots<Reply>>,
    outgoing: RefCell<Vec<Vec<Message>>>,
    outgoing_any: Cell<bool>,
    /// Batches that the journal has.
    batches_under_way: Cell<usize>,
    /// The lane whose turn it is.
    next_lane: Cell<usize>,
    /// As this thread knows them, with their number.
    programs: RefCell<(u64, Arc<Programs>)>,
}

impl Worker {
    /// The worker of this thread.
    pub fn new(node: Arc<Node>, exchange: Arc<Exchange>, shards: Vec<Option<Arc<Inbox>>>) -> Self {
        let others = (0..node.exchanges().len()).map(|_| Vec::new()).collect();
        let programs = RefCell::new(node.numbered_programs());
        Self {
            inner: Rc::new(Inner {
                node,
                exchange,
                shards,
                slots: RefCell::default(),
                outgoing: RefCell::new(others),
                outgoing_any: Cell::new(false),
                batches_under_way: Cell::new(0),
                next_lane: Cell::new(0),
                programs,
            }),
        }
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.inner.node
    }

    /// Which worker this is.
    pub fn index(&self) -> u16 {
        self.inner.exchange.index
    }

    /// Takes permits for a window of commands, all or none.
    ///
    /// # Errors
    /// No permits: nothing was executed.
    pub fn try_admit(&self, requests: &[Request], bytes: u32) -> Result<Admitted, NoPermit> {
        let shards: SmallVec<[u16; 1]> = requests.iter().map(|r| r.identity.shard(self.inner.node.shards())).collect();
        self.inner.node.permits.acquire(&shards, i64::from(bytes) * requests.len() as i64)?;
        Ok(Admitted { shards, bytes })
    }

    /// As [`Worker::try_admit`], waiting up to `wait` for permits.
    ///
    /// # Errors
    /// No permits: nothing was executed.
    pub async fn admit(&self, requests: &[Request], bytes: u32, wait: Duration) -> Result<Admitted, NoPermit> {
        let until = Instant::now() + wait;
        loop {
            match self.try_admit(requests, bytes) {
                Ok(admitted) => return Ok(admitted),
                Err(refused) if refused == NoPermit::Draining || Instant::now() >= until => return Err(refused),
                Err(_) => tokio::time::sleep(ADMISSION_POLL).await,
            }
        }
    }

    /// A program as of now.
    pub fn program(&self, name: &str) -> Option<Arc<Program>> {
        let (number, programs) = &mut *self.inner.programs.borrow_mut();
        self.inner.node.refresh_programs(number, programs);
        programs.get(name).cloned()
    }

    /// Sends an admitted request on its way. Dropping the future does not undo what was admitted.
    pub fn call(&self, request: Request, admitted: &Admitted) -> Call {
        self.call_within(request, admitted, Duration::MAX)
    }

    /// As [`Worker::call`], when no more than `left` of the time for a request is left.
    pub fn call_within(&self, request: Request, admitted: &Admitted, left: Duration) -> Call {
        let shard = admitted.shards[0];
        let deadline_ms = self.deadline_ms(left);
        let (slot, generation) = self.inner.slots.borrow_mut().open_until(1, deadline_ms);
        let to = ReplyTo { worker: self.index(), slot, generation, index: 0 };
        self.send_input(shard, Input::Command(Envelope { request, to: Some(to), deadline_ms, bytes: admitted.bytes }));
        self.flush_soon();
        Call { worker: self.clone(), slot, generation }
    }

    /// Sends an admitted window on its way, when no more than `left` of the time for a request is left; requests of one
    /// account are executed in their order, also over several windows.
    pub fn call_many(&self, requests: Vec<Request>, admitted: &Admitted, left: Duration) -> CallMany {
        let deadline_ms = self.deadline_ms(left);
        let (slot, generation) = self.inner.slots.borrow_mut().open_until(requests.len() as u32, deadline_ms);
        // Local inputs are grouped by shard, so that each inbox is locked once.
        let mut local: Vec<(u16, Vec<Input>)> = Vec::new();
        for (index, (request, &shard)) in requests.into_iter().zip(&admitted.shards).enumerate() {
            let to = ReplyTo { worker: self.index(), slot, generation, index: index as u32 };
            let input = Input::Command(Envelope { request, to: Some(to), deadline_ms, bytes: admitted.bytes });
            if self.inner.shards[shard as usize].is_some() {
                match local.iter_mut().find(|l| l.0 == shard) {
                    Some((_, inputs)) => inputs.push(input),
                    None => local.push((shard, vec![input])),
                }
            } else {
                self.send_input(shard, input);
            }
        }
        for (shard, inputs) in local {
            if let Some(inbox) = &self.inner.shards[shard as usize] {
                inbox.push(inputs);
            }
        }
        self.flush_soon();
        CallMany { worker: self.clone(), slot, generation }
    }

    /// When a request is to be answered, by the node's monotonic clock.
    fn deadline_ms(&self, left: Duration) -> i64 {
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        self.inner.node.times.elapsed_ms() + left_ms.min(self.inner.node.config().request_deadline_ms)
    }

    /// Opens a place for the answers to any number of calls, which are taken as they come.
    pub fn answers(&self) -> Answers {
        let (slot, generation) = self.inner.slots.borrow_mut().open_endless();
        Answers { worker: self.clone(), slot, generation }
    }

    fn fill(&self, to: ReplyTo, reply: Reply) {
        self.inner.slots.borrow_mut().fill(to.slot, to.generation, to.index, reply);
    }

    fn note_still_running(&self, to: ReplyTo) {
        let told = Reply::Refused(Refusal::KeyInProgress);
        self.inner.slots.borrow_mut().tell_at_deadline(to.slot, to.generation, to.index, told);
    }

    fn send_input(&self, shard: u16, input: Input) {
        match &self.inner.shards[shard as usize] {
            Some(inbox) => inbox.push([input]),
            None => self.send_to(self.inner.node.worker_of(shard), Message::Input(shard, input)),
        }
    }

    fn send_to(&self, worker: u16, message: Message) {
        self.inner.outgoing.borrow_mut()[worker as usize].push(message);
        self.inner.outgoing_any.set(true);
    }

    /// Sends what is for other workers at the end of this round of tasks.
    fn flush_soon(&self) {
        if self.inner.outgoing_any.get() {
            self.inner.exchange.arm();
        }
    }

    fn flush(&self) {
        if !self.inner.outgoing_any.replace(false) {
            return;
        }
        let mut outgoing = self.inner.outgoing.borrow_mut();
        for (worker, messages) in self.inner.node.exchanges().iter().zip(outgoing.iter_mut()) {
            if !messages.is_empty() {
                worker.send(messages.drain(..));
            }
        }
    }

    /// Runs the worker's own tasks until the node stops.
    pub async fn run(self) {
        let (turns, receives, ticks) = (self.clone().turns(), self.clone().receives(), self.clone().ticks());
        tokio::join!(turns, receives, ticks);
    }

    /// After turns: what is ready leaves, then the batch goes to the journal.
    async fn turns(self) {
        let exchange = &self.inner.exchange;
        while !self.inner.node.has_stopped() {
            exchange.armed().await;
            self.dispatch(exchange.take_ready());
            self.flush();
            for _ in 0..YIELDS_BEFORE_SUBMIT {
                tokio::task::yield_now().await;
                if exchange.has_filled(BATCH_BYTES) {
                    break;
                }
            }
            exchange.disarm();
            self.dispatch(exchange.take_ready());
            self.flush();
            self.submit();
        }
    }

    /// Hands batches to the journal: one of a lane at a time, and no more in all than the journal wants of this
    /// worker. Lanes take turns, so that under load all grow alike.
    fn submit(&self) {
        let exchange = &self.inner.exchange;
        let committer = self.inner.node.committer();
        let lanes = exchange.lanes();
        let first = self.inner.next_lane.get();
        for number in (first..lanes).chain(0..first) {
            if self.inner.batches_under_way.get() >= committer.batches_per_worker() {
                self.inner.next_lane.set(number);
                return;
            }
            let mut lane = exchange.lane_at(number);
            if lane.batches_under_way() < BATCHES_UNDER_WAY_MAX
                && let Some((batch, buffer)) = lane.submit()
            {
                self.inner.batches_under_way.update(|count| count + 1);
                committer.submit(self.index(), number, batch, buffer);
            }
        }
    }

    /// What other threads deliver.
    async fn receives(self) {
        let exchange = &self.inner.exchange;
        let mut messages = Vec::new();
        while !self.inner.node.has_stopped() {
            exchange.receive(&mut messages).await;
            let mut released = Vec::new();
            for message in messages.drain(..) {
                match message {
                    Message::Input(shard, input) => {
                        if let Some(inbox) = &self.inner.shards[shard as usize] {
                            inbox.push([input]);
                        }
                    }
                    Message::Reply(to, reply) => self.fill(to, reply),
                    Message::StillRunning(to) => self.note_still_running(to),
                    Message::Durable(number, batch, buffer) => {
                        self.inner.batches_under_way.update(|count| count - 1);
                        let mut lane = exchange.lane_at(number);
                        lane.complete(batch, buffer);
                        released.extend(std::iter::from_fn(|| lane.release()));
                    }
                }
            }
            if !released.is_empty() {
                self.dispatch(released);
                self.flush();
            }
            if exchange.has_batch() {
                exchange.arm();
            }
        }
    }

    /// Time: deadlines of callers, and a tick for every shard.
    async fn ticks(self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0u32;
        while !self.inner.node.has_stopped() {
            interval.tick().await;
            count = count.wrapping_add(1);
            let elapsed_ms = self.inner.node.times.elapsed_ms();
            self.inner.slots.borrow_mut().give_up_late(elapsed_ms);
            for inbox in self.inner.shards.iter().flatten() {
                inbox.push([Input::Tick]);
            }
            if self.index() == 0 {
                self.inner.node.check_lag();
                let node = &self.inner.node;
                let (now, has_leapt) = {
                    let mut clock = self.inner.exchange.clock();
                    (clock.now(node.times.wall_ms(), elapsed_ms), clock.jumped())
                };
                node.note_leap(has_leapt);
                if count.is_multiple_of(TICKS_PER_SYNC) {
                    node.keeper().sync(now, node.settle_until());
                }
            }
        }
        // The other tasks see that the node has stopped.
        self.inner.exchange.wake_all();
    }

    /// Carries out what was held until it was durable.
    fn dispatch(&self, held: Vec<Held>) {
        let mut released = Released { worker: self, count: 0, bytes: 0, reads: Vec::new() };
        release(held, &mut released);
        let Released { count, bytes, reads, .. } = released;
        let node = &self.inner.node;
        if count > 0 {
            node.permits.release_node(count, bytes);
        }
        if !reads.is_empty() {
            node.reader().submit(reads);
        }
    }

    fn read_job(&self, position: Position, purpose: Purpose) -> ReadJob {
        let node = Arc::clone(&self.inner.node);
        let own = Arc::clone(&self.inner.exchange);
        ReadJob::Record(
            position,
            Box::new(move |record| match came_of(position, purpose, record, node.shards()) {
                Came::Reply { to, shard, bytes, reply } => {
                    let reply = if node.owns(shard) { reply } else { not_owner(node.map_version()) };
                    node.permits.release_shard(shard, 1);
                    node.permits.release_node(1, i64::from(bytes));
                    node.exchanges()[to.worker as usize].send([Message::Reply(to, reply)]);
                }
                Came::Input(shard, input) => own.send([Message::Input(shard, input)]),
            }),
        )
    }
}

/// What a release adds up to, so that the node's permits are touched once.
struct Released<'a> {
    worker: &'a Worker,
    count: i64,
    bytes: i64,
    reads: Vec<ReadJob>,
}

impl Outlet for Released<'_> {
    fn adopt_program_of(&mut self, record: &Record) -> error::Result<()> {
        let node = &self.worker.inner.node;
        // In a cluster every node must know it before its author hears of it: see `reply`.
        if node.cluster().is_some() { Ok(()) } else { node.adopt_program_of(record) }
    }

    fn reply(&mut self, to: ReplyTo, shard: u16, bytes: u32, reply: Reply) {
        let worker = self.worker;
        if let Some(cluster) = worker.inner.node.cluster()
            && let Some(record) = program_of(&reply)
        {
            let node = Arc::clone(&worker.inner.node);
            let then = Box::new(move || {
                node.permits.release_shard(shard, 1);
                node.permits.release_node(1, i64::from(bytes));
                node.exchanges()[to.worker as usize].send([Message::Reply(to, reply)]);
            });
            return (cluster.announce)(record, then);
        }
        worker.inner.node.permits.release_shard(shard, 1);
        self.count += 1;
        self.bytes += i64::from(bytes);
        if to.worker == worker.index() {
            worker.fill(to, reply);
        } else {
            worker.send_to(to.worker, Message::Reply(to, reply));
        }
    }

    fn still_running(&mut self, to: ReplyTo) {
        if to.worker == self.worker.index() {
            self.worker.note_still_running(to);
        } else {
            self.worker.send_to(to.worker, Message::StillRunning(to));
        }
    }

    fn read(&mut self, position: Position, purpose: Purpose) {
        self.reads.push(self.worker.read_job(position, purpose));
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.worker.inner.node.keeper().checkpoint(checkpoint);
    }

    fn fault(&mut self, error: Error) {
        self.worker.inner.node.fault(error);
    }
}
