//! One shard on its owner: the real shard and lane, what its actor and its worker do with them, and how its batches are
//! appended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use meed_schemas::ids::Position;
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;

use super::begin::Begun;
use super::desk::Desk;
use super::keyspace::{Answered, Batch, Statement};
use super::message::{Answer, Entry, Request};
use crate::commit::{Buffer, Lane};
use crate::error::Error;
use crate::journal::cql::machine::{self, Appender, Ask, Step};
use crate::publish::outbox::Outbox;
use crate::release::Outlet;
use crate::shard::{Checkpoint, Envelope, Held, Input, Output, Purpose, ReplyTo, Shard, World};
use crate::torture::auditor::{self, Auditor};
use crate::torture::watch::{Seen, Watch, decided};

/// Batches of one lane that the journal may have at once, as the real worker has it.
const BATCHES_UNDER_WAY_MAX: usize = 1;
/// Events that wait for a confirmation.
const WINDOW: usize = 6;
/// A command's time to be decided.
const DEADLINE_MS: i64 = 10_000;

struct UnderWay {
    number: u64,
    first: u64,
    bid: u128,
    buffer: Buffer,
    batch: Batch,
    ask: Ask,
}

/// How far the stream is.
struct Stream {
    outbox: Outbox,
    sent: u64,
    /// Records after `published`: those without an event are `None`.
    entries: BTreeMap<u64, Option<Entry>>,
    events: u64,
}

impl Stream {
    fn add(&mut self, record: &Record, bytes: &[u8]) {
        let entry = record.kind.is_effect().then(|| Entry {
            nth: self.events,
            identity: record.identity.clone(),
            number: record.sequence,
            record: bytes.into(),
        });
        self.events += u64::from(entry.is_some());
        self.entries.insert(record.position.sequence(), entry);
    }
}

/// A shard and its owner's memory of it.
pub(super) struct Owner {
    id: u16,
    desk: Rc<Desk>,
    shard: Shard,
    lane: Lane<Held>,
    appender: Appender,
    under_way: Option<UnderWay>,
    auditor: Rc<RefCell<Auditor>>,
    /// By the slots of their answers.
    asked: Vec<Request>,
    stream: Stream,
    /// It is to go, and these wait.
    going: Option<Vec<Input>>,
    /// Another owns the shard, and this one has read what that one wrote: nothing that it decides from now on may leave.
    is_astray: bool,
}

/// What a release lets go.
#[derive(Default)]
pub(super) struct Released {
    pub(super) replies: Vec<(ReplyTo, Reply)>,
    pub(super) reads: Vec<(Position, Purpose)>,
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) fault: Option<Error>,
}

impl Outlet for Released {
    fn adopt_program_of(&mut self, _: &Record) -> crate::error::Result<()> {
        Ok(())
    }

    fn reply(&mut self, to: ReplyTo, _shard: u16, _bytes: u32, reply: Reply) {
        self.replies.push((to, reply));
    }

    // Clients of the simulator give up by themselves.
    fn still_running(&mut self, _: ReplyTo) {}

    fn read(&mut self, position: Position, purpose: Purpose) {
        self.reads.push((position, purpose));
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push(checkpoint);
    }

    fn fault(&mut self, error: Error) {
        self.fault = Some(error);
    }
}

impl Owner {
    /// # Errors
    /// What was recovered is not what was decided.
    pub(super) fn new(desk: &Rc<Desk>, begun: Begun) -> Result<Self, String> {
        let Begun { claimed, bucket_records, start, published, records } = begun;
        let (id, last) = (start.id, start.last_sequence);
        let removed = desk.extents.borrow()[usize::from(id)].removed();
        let auditor = Rc::new(RefCell::new(desk.setup.ledger.borrow().begin(id, last, removed)?));
        let mut stream =
            Stream { outbox: Outbox::new(&[published]), sent: published, entries: BTreeMap::new(), events: 0 };
        for sequence in published + 1..=last {
            let position = Position::new(id, sequence);
            let payload = records.read(position).map_err(|error| error.to_string())?;
            let payload = payload.ok_or_else(|| format!("record {position} is not published and is gone"))?;
            let record = meed_schemas::codec::decode(position, &payload).map_err(|error| error.to_string())?;
            stream.add(&record, &payload);
        }
        desk.extents.borrow_mut()[usize::from(id)].auditor = Some(Rc::clone(&auditor));
        Ok(Self {
            id,
            shard: Shard::new(start, desk.setup.limits),
            lane: Lane::of_shard(id, last, desk.setup.batch_bytes),
            appender: Appender::new(claimed, bucket_records, desk.setup.bucket_bytes),
            under_way: None,
            auditor,
            asked: Vec::new(),
            stream,
            going: None,
            is_astray: false,
            desk: Rc::clone(desk),
        })
    }

    pub(super) fn epoch(&self) -> i64 {
        self.appender.epoch()
    }

    pub(super) fn is_going(&self) -> bool {
        self.going.is_some()
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.shard.is_quiet() && self.lane.is_quiet()
    }

    /// A command has come.
    pub(super) fn requested(&mut self, request: Request, elapsed_ms: i64) -> Input {
        let command = (*request.command).clone();
        let slot = self.auditor.borrow_mut().sent(request.ask, Rc::clone(&request.command));
        self.asked.push(request);
        let to = ReplyTo { worker: 0, slot, generation: 0, index: 0 };
        let deadline_ms = elapsed_ms + DEADLINE_MS;
        Input::Command(Envelope { request: command, to: Some(to), deadline_ms, bytes: 1 })
    }

    /// Handles an input, as the shard's actor does.
    ///
    /// # Errors
    /// A fault, or what nobody expects of an owner.
    pub(super) fn handle(&mut self, input: Input, world: &World) -> Result<Output, String> {
        let mut out = Output::default();
        match (&mut self.going, input) {
            (Some(waiting), input @ Input::Due(_)) => waiting.push(input),
            (Some(_), Input::Tick) => {}
            (_, input) => self.decide(input, world, &mut out)?,
        }
        Ok(out)
    }

    fn decide(&mut self, input: Input, world: &World, out: &mut Output) -> Result<(), String> {
        let mut watch = self.auditor.borrow_mut();
        if !self.is_astray {
            watch.input(&input);
        }
        let before = self.lane.place();
        self.shard.handle(input, world, &mut self.lane, out).map_err(|error| error.to_string())?;
        if self.is_astray {
            return Ok(());
        }
        let seen = watch.seen(Seen {
            shard: self.id,
            now: world.now,
            elapsed_ms: world.elapsed_ms,
            may_decide: world.may_decide,
            settle_until: world.settle_until,
            versions: 1,
            records: auditor::decode(&self.lane.decided_since(before))?,
            held: self.lane.waiting().chain(&out.ready).filter_map(decided).collect(),
        });
        match seen {
            Err(_) if self.desk.is_deposed(self.id, self.epoch()) => self.is_astray = true,
            seen => seen?,
        }
        Ok(())
    }

    /// It is to go: what comes waits, and everything goes to the store. Asked again and again.
    ///
    /// # Errors
    /// A fault.
    pub(super) fn drain(&mut self, world: &World) -> Result<Output, String> {
        self.going.get_or_insert_default();
        let mut out = Output::default();
        self.shard.checkpoint_all(world, &mut self.lane, &mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    /// It stays after all; what has waited.
    pub(super) fn resume(&mut self) -> Vec<Input> {
        self.going.take().unwrap_or_default()
    }

    /// An answer leaves.
    ///
    /// # Errors
    /// It must not.
    pub(super) fn answered(&mut self, to: ReplyTo, reply: Reply) -> Result<(Request, Answer), String> {
        let mut auditor = self.auditor.borrow_mut();
        auditor.answered(to, &reply)?;
        let (durable, shown) = (self.lane.durable_sequence(self.id), auditor.acknowledged(self.id));
        let request = self.asked[to.slot as usize].clone();
        Ok((request, Answer::Decided { reply: Box::new(reply), durable, shown }))
    }

    /// The next batch, if there is one and none is under way.
    pub(super) fn begin_batch(&mut self, batches: &mut u128) -> Option<Statement> {
        if self.lane.batches_under_way() >= BATCHES_UNDER_WAY_MAX {
            return None;
        }
        let (number, buffer) = self.lane.submit()?;
        let first = buffer.first_sequence()?;
        *batches += 1;
        self.desk.setup.ledger.borrow_mut().note_batch(*batches, &self.auditor);
        let batch = Batch { frames: buffer.frames().into(), records: buffer.records() as u64 };
        let ask = self.appender.begin(*batches, batch.frames.len() as u64);
        self.under_way = Some(UnderWay { number, first, bid: *batches, buffer, batch, ask });
        self.statement()
    }

    /// What is asked for the batch under way.
    pub(super) fn statement(&self) -> Option<Statement> {
        let UnderWay { first, bid, batch, ask, .. } = self.under_way.as_ref()?;
        if let Ask::Append { bucket, .. } = ask {
            let mut extents = self.desk.extents.borrow_mut();
            let buckets = &mut extents[usize::from(self.id)].buckets;
            if buckets.last().is_none_or(|last| last.1 < *bucket) {
                buckets.push((*first, *bucket));
            }
        }
        Some(Statement::Journal { shard: self.id, ask: *ask, sequence: *first, row: Some((*bid, batch.clone())) })
    }

    /// # Errors
    /// A damaged chain.
    pub(super) fn appended(&mut self, answered: Answered) -> Result<OwnerNext, String> {
        let answer = match answered {
            Answered::Journal(answer) => answer,
            _ => machine::Answer::Unknown,
        };
        let Some(mut under_way) = self.under_way.take() else { return Ok(OwnerNext::Ask) };
        let next = match self.appender.answer(answer) {
            Step::Ask(next) => {
                under_way.ask = next;
                OwnerNext::Ask
            }
            Step::Again(next) => {
                under_way.ask = next;
                OwnerNext::Pause
            }
            Step::Done => {
                let UnderWay { number, first, buffer, batch, .. } = under_way;
                let last = first + batch.records - 1;
                self.desk.extents.borrow_mut()[usize::from(self.id)].last = last;
                for (record, bytes) in auditor::decode(&batch.frames)? {
                    self.stream.add(&record, &bytes);
                }
                self.lane.complete(number, buffer);
                if !self.is_astray {
                    self.auditor.borrow_mut().durable(self.id, last);
                }
                return Ok(OwnerNext::Durable(std::iter::from_fn(|| self.lane.release()).collect()));
            }
            Step::Deposed(_) => return Ok(OwnerNext::Deposed),
            Step::Missing => return Err("an owner's bucket is missing".into()),
            Step::Damaged(what) => return Err(format!("an owner finds damage: {what}")),
        };
        self.under_way = Some(under_way);
        Ok(next)
    }

    /// Events that are durable and fit the window.
    pub(super) fn take_unsent(&mut self) -> Vec<(u64, Entry)> {
        let durable = self.lane.durable_sequence(self.id);
        let Stream { outbox, sent, entries, .. } = &mut self.stream;
        let mut found = Vec::new();
        while *sent < durable && outbox.waiting() < WINDOW {
            *sent += 1;
            match entries.get(sent).cloned().flatten() {
                Some(entry) => {
                    outbox.sent(0, *sent, 0);
                    found.push((*sent, entry));
                }
                None => outbox.passed(0, *sent),
            }
        }
        found
    }

    /// The broker has an event.
    pub(super) fn confirmed(&mut self, sequence: u64) {
        self.stream.outbox.confirmed(0, sequence);
    }

    /// All events that wait for a confirmation, when this is the oldest.
    pub(super) fn waiting_since(&self, sequence: u64) -> Vec<(u64, Entry)> {
        let Stream { outbox, entries, .. } = &self.stream;
        if outbox.waiting_of(0).next() != Some(sequence) {
            return Vec::new();
        }
        outbox.waiting_of(0).filter_map(|sequence| Some((sequence, entries.get(&sequence)?.clone()?))).collect()
    }

    /// How far the stream is.
    pub(super) fn published(&self) -> u64 {
        self.stream.outbox.published().next().unwrap_or(0)
    }

    /// What it has to have decided.
    pub(super) fn auditor(&self) -> std::cell::Ref<'_, Auditor> {
        self.auditor.borrow()
    }
}

/// What follows from an answer to an owner.
#[derive(Debug)]
pub(super) enum OwnerNext {
    /// Ask what is to be asked now.
    Ask,
    /// The same after a pause; the outcome is unknown till then.
    Pause,
    /// The batch is durable, and this is released.
    Durable(Vec<Held>),
    /// Another node has the shard.
    Deposed,
}
