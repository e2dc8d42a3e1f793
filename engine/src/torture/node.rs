//! A node in one thread: the shards, lanes, journal and store of the real one, and in place of its threads a step
//! for each thing that one of them would do next. Who moves when is the caller's to say.

mod released;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use meed_schemas::ids::Position;
use meed_schemas::outcome::Reply;
use meed_schemas::time::Millis;

use released::Released;

use super::auditor;
use super::profile::Profile;
use super::stream::{Broker, Publisher};
use super::watch::{Seen, Watch, decided};
use crate::clock::Clock;
use crate::commit::{Buffer, Lane};
use crate::committer::{Batch, Rounds};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::journal::{Journal, JournalOptions, JournalReader, Prepare, Records, Recovered};
use crate::keeper::Tasks;
use crate::program::Programs;
use crate::random::mix;
use crate::reader;
use crate::recovery::{self, Recovery, SettleGap};
use crate::release::{Came, came_of, release};
use crate::shard::{Held, Input, Output, Purpose, ReplyTo, Shard, World};
use crate::store::Store;
use crate::upkeep::{Surroundings, Upkeep};

/// Where the data of a simulated node lie.
pub(super) const DATA: &str = "data";
/// Where its journal lies.
pub(super) const FOLDER: &str = "data/journal";

/// Batches of one worker that the journal may have at once, as the real worker has it.
const BATCHES_UNDER_WAY_MAX: usize = 1;

/// What comes to a worker from other threads.
#[derive(Debug)]
enum Message {
    Input(u16, Input),
    Durable(u64, Buffer),
}

struct Worker {
    lane: Lane<Held>,
    clock: Clock,
    ready: Vec<Held>,
    messages: VecDeque<Message>,
}

/// The readings of the machine's clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) wall_ms: Millis,
    /// Since the process began.
    pub(super) elapsed_ms: i64,
}

/// One thing that a thread of a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A shard takes what lies in its inbox.
    Turn(u16),
    /// A worker lets go what is ready, and hands its batch to the journal.
    Release(u16),
    /// A worker takes what others have for it.
    Receive(u16),
    /// The journal's thread writes what the workers handed over.
    Write,
    /// It syncs, and tells them.
    Sync,
    /// The store's thread does its next round.
    Store,
    /// A reading thread reads one of the records asked for.
    Read(usize),
    /// The thread that prepares segments takes a step.
    Prepare,
    /// The thread that keeps up closed segments takes a step.
    Upkeep,
    /// The publishing thread takes a turn, in which balances are due or not.
    Publish { flush: bool },
    /// It saves how far it is.
    SaveMark,
    /// The broker takes events of a shard.
    TakeEvents(u16),
    /// It takes balances.
    TakeBalances,
}

/// Why a step ended: a fault of the node, or something that the watcher has found.
#[derive(Debug)]
pub(super) enum Stop {
    Fault(Error),
    Found(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

pub(super) struct Node {
    rounds: Rounds,
    pub(super) reader: JournalReader,
    pub(super) store: Store,
    pub(super) recovered: Recovered,
    tasks: Tasks,
    store_rounds: u64,
    is_cramped: bool,
    shards: Vec<(Shard, Vec<Input>)>,
    workers: Vec<Worker>,
    programs: Arc<Programs>,
    settle_until: Millis,
    slots: Vec<Option<(u64, Buffer)>>,
    written: Vec<Batch>,
    mark: bool,
    reads: Vec<(Position, Purpose)>,
    may_prepare: bool,
    upkeep: Upkeep,
    may_keep_up: bool,
    retention_ms: Option<i64>,
    pack: bool,
    publisher: Option<Publisher>,
    broker: Broker,
    /// Per shard, up to which sequence records were removed; and when, or `None` where that was interrupted.
    pub(super) removed: Option<(Vec<u64>, Option<Millis>)>,
    /// Answers that have left.
    pub(super) answers: Vec<(ReplyTo, Reply)>,
}

impl Node {
    /// Starts on what disk and store hold, as the real one does.
    ///
    /// # Errors
    /// What the real start would refuse.
    pub(super) fn start(
        disk: Disk,
        mut store: Store,
        broker: Broker,
        profile: &Profile,
        times: Times,
        seed: u64,
    ) -> Result<Self> {
        let options = JournalOptions {
            segment_bytes: profile.segment_bytes,
            shards: profile.shards,
            prepared_segments: profile.prepared_segments,
            prepare: Prepare::Steps,
            new_journal_id: Some(u128::from(profile.seed) | 1 << 64),
        };
        let (journal, reader, recovered) = Journal::open(disk.clone(), Path::new(FOLDER), options)?;
        let gap = SettleGap { days: profile.settle_gap_days, ignored: false };
        let Recovery { shards, programs, settles_until } = recovery::recover(
            &mut store,
            &Records::Embedded(reader.clone()),
            &recovered.last_sequence,
            1,
            gap,
            times.wall_ms,
            &|| Ok(seed),
        )?;
        let publisher = match profile.publishes {
            true => Some(Publisher::start(&disk, Records::Embedded(reader.clone()), broker.clone())?),
            false => None,
        };
        let identity = (reader.journal_id(), profile.shards);
        let upkeep = Upkeep::new(disk, DATA.into(), journal.upkeep(), identity);
        let batch_bytes_max = journal.batch_bytes_max() / (2 * usize::from(profile.workers));
        let worker = |_| Worker {
            lane: Lane::new(recovered.last_sequence.clone(), batch_bytes_max),
            clock: Clock::new(times.wall_ms, times.elapsed_ms, profile.clock_jump_ms),
            ready: Vec::new(),
            messages: VecDeque::new(),
        };
        let begin = |recovery: recovery::ShardRecovery| (Shard::new(recovery.start, profile.limits()), Vec::new());
        Ok(Self {
            rounds: Rounds::new(journal),
            reader,
            store,
            tasks: Tasks::default(),
            store_rounds: 0,
            is_cramped: profile.is_cramped,
            shards: shards.into_iter().map(begin).collect(),
            workers: (0..profile.workers).map(worker).collect(),
            programs: Arc::new(programs),
            settle_until: settles_until.unwrap_or(Millis::MAX),
            slots: (0..profile.workers).map(|_| None).collect(),
            written: Vec::new(),
            mark: false,
            reads: Vec::new(),
            may_prepare: true,
            upkeep,
            may_keep_up: true,
            retention_ms: profile.retention_ms,
            pack: profile.pack,
            publisher,
            broker,
            removed: None,
            answers: Vec::new(),
            recovered,
        })
    }

    fn worker_of(&self, shard: u16) -> usize {
        usize::from(shard) % self.workers.len()
    }

    /// An input arrives in a shard's inbox.
    pub(super) fn push(&mut self, shard: u16, input: Input) {
        self.shards[usize::from(shard)].1.push(input);
    }

    /// Time passes for all shards.
    pub(super) fn tick(&mut self) {
        for (_, inbox) in &mut self.shards {
            inbox.push(Input::Tick);
        }
        self.may_keep_up = true;
    }

    /// The store is to be synced, and old keys forgotten.
    /// Returns the time up to which they are.
    pub(super) fn sync_store(&mut self, times: Times) -> Millis {
        let now = self.workers[0].clock.now(times.wall_ms, times.elapsed_ms);
        self.tasks.sync(now, self.settle_until);
        now.min(self.settle_until)
    }

    /// What could be done next, in a fixed order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (shard, (_, inbox)) in (0..).zip(&self.shards) {
            if !inbox.is_empty() {
                steps.push(Step::Turn(shard));
            }
        }
        for (index, worker) in (0..).zip(&self.workers) {
            if !worker.ready.is_empty() || self.may_submit(worker) {
                steps.push(Step::Release(index));
            }
            if !worker.messages.is_empty() {
                steps.push(Step::Receive(index));
            }
        }
        match self.written.is_empty() {
            true if self.slots.iter().any(Option::is_some) || self.mark => steps.push(Step::Write),
            true => {}
            false => steps.push(Step::Sync),
        }
        if !self.tasks.is_empty() {
            steps.push(Step::Store);
        }
        steps.extend((0..self.reads.len()).map(Step::Read));
        if self.may_prepare {
            steps.push(Step::Prepare);
        }
        if self.may_keep_up {
            steps.push(Step::Upkeep);
        }
        if let Some(publisher) = &self.publisher {
            if publisher.wants_turn() {
                steps.extend([Step::Publish { flush: false }, Step::Publish { flush: true }]);
            }
            if publisher.wants_save() {
                steps.push(Step::SaveMark);
            }
            steps.extend(self.broker.shards().into_iter().map(Step::TakeEvents));
            if self.broker.has_balances() {
                steps.push(Step::TakeBalances);
            }
        }
        steps
    }

    fn may_submit(&self, worker: &Worker) -> bool {
        worker.lane.has_batch() && worker.lane.batches_under_way() < BATCHES_UNDER_WAY_MAX
    }

    /// Does one thing; nothing when there is no such thing to do.
    pub(super) fn step(&mut self, step: Step, times: Times, watch: &mut impl Watch) -> std::result::Result<(), Stop> {
        match step {
            Step::Turn(shard) => return self.turn(shard, times, watch),
            Step::Release(worker) => {
                let ready = std::mem::take(&mut self.workers[usize::from(worker)].ready);
                self.release(ready)?;
                self.submit(usize::from(worker));
            }
            Step::Receive(worker) => self.receive(usize::from(worker))?,
            Step::Write => self.write()?,
            Step::Sync => self.sync()?,
            Step::Store => {
                let mut inputs = Vec::new();
                self.store_rounds += 1;
                let has_room = !self.is_cramped || !mix(self.store_rounds).is_multiple_of(3);
                let done = self.tasks.round(has_room).carry_out(&mut self.store, &mut |of| inputs.extend(of));
                for (shard, input) in inputs {
                    self.deliver(shard, input);
                }
                self.mark |= done?;
            }
            Step::Read(nth) => self.read(nth)?,
            Step::Prepare => self.may_prepare = self.rounds.journal().prepare_step()?,
            Step::Upkeep => {
                self.may_keep_up = false;
                self.may_keep_up = self.keep_up(times)?;
            }
            Step::TakeEvents(shard) => self.broker.take(shard),
            Step::TakeBalances => self.broker.take_balances(),
            Step::Publish { .. } | Step::SaveMark => {
                let Some(publisher) = &mut self.publisher else { return Ok(()) };
                match step {
                    Step::Publish { flush } => publisher.turn(&self.programs, flush)?,
                    _ => publisher.save()?,
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, shard: u16, input: Input) {
        let worker = self.worker_of(shard);
        self.workers[worker].messages.push_back(Message::Input(shard, input));
    }

    fn turn(&mut self, shard: u16, times: Times, watch: &mut impl Watch) -> std::result::Result<(), Stop> {
        let worker = self.worker_of(shard);
        let Worker { lane, clock, ready, .. } = &mut self.workers[worker];
        let (logic, inbox) = &mut self.shards[usize::from(shard)];
        let now = clock.now(times.wall_ms, times.elapsed_ms);
        let world = World {
            now,
            settle_until: self.settle_until,
            elapsed_ms: times.elapsed_ms,
            may_decide: true,
            programs: Arc::clone(&self.programs),
        };
        let mut out = Output::default();
        for input in inbox.drain(..) {
            watch.input(&input);
            let (before, ready_before) = (lane.place(), out.ready.len());
            logic.handle(input, &world, lane, &mut out)?;
            let held = lane.waiting().chain(&out.ready[ready_before..]).filter_map(decided).collect();
            let records = auditor::decode(&lane.decided_since(before)).map_err(Stop::Found)?;
            let known = self.programs.get(super::ask::PROGRAM).map_or(0, |program| program.newest().number as usize);
            watch
                .seen(Seen {
                    shard,
                    now,
                    elapsed_ms: times.elapsed_ms,
                    may_decide: true,
                    settle_until: self.settle_until,
                    versions: known,
                    records,
                    held,
                })
                .map_err(Stop::Found)?;
        }
        self.tasks.ask(out.jobs);
        ready.extend(out.ready);
        Ok(())
    }

    fn release(&mut self, held: Vec<Held>) -> Result<()> {
        let mut released = Released { node: self, fault: None };
        release(held, &mut released);
        released.fault.map_or(Ok(()), Err)
    }

    fn submit(&mut self, worker: usize) {
        if self.may_submit(&self.workers[worker])
            && let Some(batch) = self.workers[worker].lane.submit()
        {
            self.slots[worker] = Some(batch);
        }
    }

    fn receive(&mut self, worker: usize) -> Result<()> {
        let messages = std::mem::take(&mut self.workers[worker].messages);
        let mut released = Vec::new();
        for message in messages {
            match message {
                Message::Input(shard, input) => self.push(shard, input),
                Message::Durable(number, buffer) => {
                    let lane = &mut self.workers[worker].lane;
                    lane.complete(number, buffer);
                    released.extend(std::iter::from_fn(|| lane.release()));
                }
            }
        }
        self.release(released)
    }

    fn write(&mut self) -> Result<()> {
        let slots = self.slots.iter_mut().enumerate();
        self.written =
            slots.filter_map(|(lane, slot)| slot.take().map(|(number, buffer)| (lane, number, buffer))).collect();
        self.may_prepare = true;
        self.rounds.write(&self.written, std::mem::take(&mut self.mark))
    }

    fn sync(&mut self) -> Result<()> {
        self.rounds.sync()?;
        for (lane, number, buffer) in self.written.drain(..) {
            self.workers[lane].messages.push_back(Message::Durable(number, buffer));
        }
        Ok(())
    }

    /// Removes or packs one closed segment; false when there is none to be.
    fn keep_up(&mut self, times: Times) -> Result<bool> {
        let clock = &mut self.workers[0].clock;
        let now = clock.now(times.wall_ms, times.elapsed_ms);
        let is_trusted = !clock.jumped() && self.settle_until == Millis::MAX;
        if let Some(retention_ms) = self.retention_ms.filter(|_| is_trusted) {
            let store = &mut self.store;
            let needed_from: Vec<Vec<u64>> = self.publisher.iter().map(Publisher::needed_from).collect();
            let mut around = Surroundings {
                needed_from: &|| Ok(needed_from.clone()),
                view: &mut || {
                    store.sync()?;
                    store.view().map(Some)
                },
                pace: &mut |_| true,
                taken_at: times.wall_ms,
            };
            let oldest = self.upkeep.oldest()?;
            self.removed = oldest.map(|segment| (segment.up_to, None));
            let removed = self.upkeep.remove_next(now - retention_ms, &mut around)?;
            self.removed = removed.map(|segment| (segment.up_to, Some(now)));
            if self.removed.is_some() {
                return Ok(true);
            }
        }
        Ok(self.pack && self.upkeep.pack_next(&mut |_| true)?.is_some())
    }

    fn read(&mut self, nth: usize) -> Result<()> {
        if nth >= self.reads.len() {
            return Ok(());
        }
        let (position, purpose) = self.reads.remove(nth);
        let record = reader::read(&Records::Embedded(self.reader.clone()), position)?;
        match came_of(position, purpose, record, self.shards.len() as u16) {
            Came::Reply { to, reply, .. } => self.answers.push((to, reply)),
            Came::Input(shard, input) => self.deliver(shard, input),
        }
        Ok(())
    }

    /// Nothing more falls due for it, and everything goes to the store: the node is stopping.
    pub(super) fn ask_checkpoint(&mut self) {
        self.settle_until = Millis::MIN;
        for (_, inbox) in &mut self.shards {
            inbox.push(Input::CheckpointAll);
        }
    }

    /// Whether the store has everything.
    pub(super) fn is_checkpointed(&self) -> bool {
        self.shards.iter().all(|(shard, _)| shard.is_checkpointed())
    }

    /// Ends in order.
    pub(super) fn close(mut self) -> Result<()> {
        self.store.sync()?;
        self.rounds.into_journal().close()
    }
}
