//! A shard with its lane, and a world that does by hand what threads do: journal, store, reading.
#![allow(clippy::unwrap_used)]

mod checkpoints;
mod commands;
mod dues;
mod hashes;
mod keys;
mod memory;
mod paces;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meed_schemas::codec;
use meed_schemas::command::{Basis, Command, Earn, Keys, Portion, Request, RequestId};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::program::Document;
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use super::*;
use crate::commit::Buffer;
use crate::journal::frame::verified;
use crate::program::{Program, Programs};
use crate::store::Store;

const SHARD: u16 = 3;
const START: Millis = 1_800_000_000_000;

pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) lane: Lane<Held>,
    pub(super) store: Store,
    pub(super) world: World,
    /// What the journal has, by sequence.
    pub(super) journal: BTreeMap<u64, Record>,
    under_way: VecDeque<(u64, Buffer)>,
    pub(super) jobs: VecDeque<StoreJob>,
    pub(super) reads: VecDeque<(Position, Purpose)>,
    pub(super) checkpoints: VecDeque<Checkpoint>,
    pub(super) still_running: Vec<u32>,
    replies: BTreeMap<u32, Reply>,
    next_slot: u32,
    /// Highest sequence that any checkpoint has covered.
    pub(super) checkpointed: u64,
}

/// As of a node with its own journal.
const ROWS_PER_BATCH: usize = 512;
/// So that they are seen to be few.
const UNBOUNDED_LOADS: usize = 16;

pub(super) fn limits() -> ShardLimits {
    ShardLimits {
        resident_bytes: usize::MAX,
        filter_bytes: 1 << 20,
        checkpoint_records: u64::MAX,
        checkpoint_interval_ms: 1_000,
        checkpoint_rows: ROWS_PER_BATCH,
        checkpoint_step: 128,
        pack_after_ms: 5_000,
        settled_per_tick: 64,
        unbounded_loads_per_tick: UNBOUNDED_LOADS,
    }
}

pub(super) fn member(id: &str) -> Identity {
    Identity::member("p", id)
}

pub(super) fn earn(points: i64) -> Command {
    earn_until(points, None)
}

pub(super) fn earn_until(points: i64, expires_at: Option<Millis>) -> Command {
    let earn = Earn { basis: Basis::Points(points), occurred_at: None, expires_at, activates_at: None };
    Command::Earn { earn, references: None }
}

pub(super) fn redeem(points: i64) -> Command {
    Command::Redeem { points, occurred_at: None, references: None }
}

pub(super) fn reverse(original: Position) -> Command {
    Command::Reverse { original, portion: Portion::Rest, occurred_at: None, references: None }
}

pub(super) fn request(identity: &Identity, command: Command, key: Option<u128>) -> Request {
    let mut canonical = Vec::new();
    command.write_canonical(&mut canonical);
    Request {
        identity: identity.clone(),
        command,
        keys: Keys { idempotency: key, business: None },
        fingerprint: xxhash_rust::xxh3::xxh3_64(&canonical),
        request_id: RequestId::Made(1),
        traceparent: None,
    }
}

/// Earns one point on each of these accounts; the slots of the answers.
pub(super) fn earn_on(b: &mut Bench, accounts: std::ops::Range<u32>) -> Vec<u32> {
    accounts.map(|n| b.send(&format!("m-{n}"), earn(1))).collect()
}

impl Bench {
    pub(super) fn new(limits: ShardLimits) -> Self {
        let start = ShardStart {
            id: SHARD,
            last_sequence: 0,
            last_recorded_at: 0,
            totals: Totals::default(),
            accounts: 0,
            replayed: Vec::new(),
            no_spilled_keys: true,
            seed: 1,
        };
        Self::with(start, limits, Store::in_memory(), BTreeMap::new())
    }

    pub(super) fn with(start: ShardStart, limits: ShardLimits, store: Store, journal: BTreeMap<u64, Record>) -> Self {
        let document = r#"{"name":"test","time_zone":"UTC","currency":"USD",
            "earning":{"points":1,"per_amount":"1.00"},"expiry":"none"}"#;
        let program = Program::create("p", 0, Document::parse(document.as_bytes()).unwrap()).unwrap();
        let programs = Arc::new(Programs::default().with(program));
        let mut durable = vec![0; usize::from(SHARD) + 1];
        durable[usize::from(SHARD)] = start.last_sequence;
        Self {
            shard: Shard::new(start, limits),
            lane: Lane::new(durable, usize::MAX),
            store,
            world: World { now: START, settle_until: Millis::MAX, elapsed_ms: 0, may_decide: true, programs },
            journal,
            under_way: VecDeque::new(),
            jobs: VecDeque::new(),
            reads: VecDeque::new(),
            checkpoints: VecDeque::new(),
            still_running: Vec::new(),
            replies: BTreeMap::new(),
            next_slot: 0,
            checkpointed: 0,
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.try_input(input).unwrap();
    }

    pub(super) fn try_input(&mut self, input: Input) -> Result<()> {
        let mut out = Output::default();
        self.shard.handle(input, &self.world, &mut self.lane, &mut out)?;
        self.jobs.extend(out.jobs);
        for held in out.ready {
            self.leave(held);
        }
        Ok(())
    }

    fn leave(&mut self, held: Held) {
        match held {
            Held::Reply { to, reply, .. } => {
                assert!(self.replies.insert(to.slot, reply).is_none(), "two answers for one command");
            }
            Held::Read { position, purpose } => self.reads.push_back((position, purpose)),
            Held::StillRunning(to) => self.still_running.push(to.slot),
            Held::Checkpoint(checkpoint) => self.checkpoints.push_back(checkpoint),
        }
    }

    pub(super) fn send(&mut self, id: &str, command: Command) -> u32 {
        self.send_keyed(id, command, None)
    }

    pub(super) fn send_keyed(&mut self, id: &str, command: Command, key: Option<u128>) -> u32 {
        let slot = self.next_slot;
        self.next_slot += 1;
        let to = Some(ReplyTo { worker: 0, slot, generation: 0, index: 0 });
        let request = request(&member(id), command, key);
        self.input(Input::Command(Envelope { request, to, deadline_ms: 10_000_000, bytes: 1 }));
        slot
    }

    /// A command with any keys and everything that it takes.
    #[track_caller]
    pub(super) fn ask_with(&mut self, id: &str, command: Command, keys: Keys) -> Reply {
        let slot = self.next_slot;
        self.next_slot += 1;
        let to = Some(ReplyTo { worker: 0, slot, generation: 0, index: 0 });
        let request = Request { keys, ..request(&member(id), command, None) };
        self.input(Input::Command(Envelope { request, to, deadline_ms: 10_000_000, bytes: 1 }));
        self.settle_down();
        self.reply(slot)
    }

    /// A command that no answer is taken of, with its own deadline.
    pub(super) fn send_until(&mut self, id: &str, command: Command, deadline_ms: i64) -> u32 {
        let slot = self.next_slot;
        self.next_slot += 1;
        let to = Some(ReplyTo { worker: 0, slot, generation: 0, index: 0 });
        let request = request(&member(id), command, None);
        self.input(Input::Command(Envelope { request, to, deadline_ms, bytes: 1 }));
        slot
    }

    pub(super) fn answered(&self, slot: u32) -> bool {
        self.replies.contains_key(&slot)
    }

    #[track_caller]
    pub(super) fn reply(&mut self, slot: u32) -> Reply {
        self.replies.remove(&slot).expect("an answer")
    }

    #[track_caller]
    pub(super) fn executed(&mut self, slot: u32) -> Record {
        match self.reply(slot) {
            Reply::Executed { record, replayed: false } => *record,
            other => panic!("not executed: {other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn refused(&mut self, slot: u32) -> Refusal {
        match self.reply(slot) {
            Reply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Hands the batch being filled to the journal.
    pub(super) fn submit(&mut self) {
        self.under_way.extend(self.lane.submit());
    }

    /// The journal has the oldest batch under way.
    pub(super) fn complete(&mut self) {
        let Some((number, buffer)) = self.under_way.pop_front() else { return };
        for frame in verified(buffer.part().bytes) {
            let frame = frame.unwrap();
            let record = codec::decode(frame.position(), frame.payload()).unwrap();
            let last = self.journal.last_key_value().map_or(0, |(sequence, _)| *sequence);
            assert_eq!(record.position.sequence(), last + 1, "positions are dense");
            self.journal.insert(last + 1, record);
        }
        self.lane.complete(number, buffer);
        while let Some(held) = self.lane.release() {
            self.leave(held);
        }
    }

    /// Everything decided so far is durable.
    pub(super) fn journal_all(&mut self) {
        self.submit();
        while !self.under_way.is_empty() {
            self.complete();
        }
    }

    pub(super) fn answer_job(&mut self, job: StoreJob) {
        let input = match job {
            StoreJob::Load(shard, identity) => {
                let blob = self.store.load(shard, &identity).unwrap();
                Input::Loaded(identity, blob)
            }
            StoreJob::Fact(shard, identity, ticket, key, query) => {
                let value = self.store.spilled(shard, &identity, &query).unwrap();
                Input::Fact(identity, ticket, key, value)
            }
            StoreJob::Due(shard, up_to, after, limit) => {
                Input::Due(self.store.due(shard, up_to, after.as_ref(), limit).unwrap())
            }
            StoreJob::Keys(shard, from) => {
                let (hashes, next) = self.store.spilled_keys(shard, from, 1).unwrap();
                Input::SpilledKeys(hashes, next)
            }
            StoreJob::Forget(..) => unreachable!("no shard asks to be forgotten"),
        };
        self.input(input);
    }

    pub(super) fn write_checkpoint(&mut self) {
        let Some(Checkpoint { rows, copied }) = self.checkpoints.pop_front() else { return };
        let durable = self.lane.durable_sequence(SHARD);
        for (_, sequence) in &copied {
            assert!(*sequence <= durable, "a blob of {sequence} is ahead of the journal's {durable}");
        }
        assert!(rows.state.totals_sequence <= durable);
        self.checkpointed = self.checkpointed.max(rows.state.totals_sequence);
        self.store.checkpoint(&rows).unwrap();
        self.input(Input::CheckpointDone(copied));
    }

    pub(super) fn read(&mut self, position: Position, purpose: Purpose) {
        let record = self.journal.get(&position.sequence()).cloned().map(Box::new);
        match purpose {
            Purpose::Replay { to, outcome, .. } => {
                let record = record.unwrap();
                let reply = if outcome { Reply::Outcome(record) } else { Reply::Executed { record, replayed: true } };
                assert!(self.replies.insert(to.slot, reply).is_none());
            }
            Purpose::Original { identity, ticket } => self.input(Input::Record(identity, ticket, position, record)),
        }
    }

    /// Journal, store and readers do all that there is to do.
    pub(super) fn settle_down(&mut self) {
        loop {
            self.journal_all();
            if let Some(job) = self.jobs.pop_front() {
                self.answer_job(job);
            } else if let Some((position, purpose)) = self.reads.pop_front() {
                self.read(position, purpose);
            } else if !self.checkpoints.is_empty() {
                self.write_checkpoint();
            } else if self.shard.held_loads() > 0 {
                self.tick(50);
            } else if self.lane.filling_bytes() == 0 {
                return;
            }
        }
    }

    pub(super) fn tick(&mut self, after_ms: i64) {
        self.world.now += after_ms;
        self.world.elapsed_ms += after_ms;
        self.input(Input::Tick);
    }

    /// A command with everything that it takes.
    #[track_caller]
    pub(super) fn ask(&mut self, id: &str, command: Command) -> Reply {
        self.ask_keyed(id, command, None)
    }

    #[track_caller]
    pub(super) fn ask_keyed(&mut self, id: &str, command: Command, key: Option<u128>) -> Reply {
        let slot = self.send_keyed(id, command, key);
        self.settle_down();
        self.reply(slot)
    }

    #[track_caller]
    pub(super) fn earned(&mut self, id: &str, points: i64) -> Record {
        let slot = self.send(id, earn(points));
        self.settle_down();
        self.executed(slot)
    }

    #[track_caller]
    pub(super) fn total(&mut self, id: &str) -> i64 {
        match self.ask(id, Command::Balance) {
            Reply::Balance(view) => view.balances.total,
            other => panic!("no balance: {other:?}"),
        }
    }

    /// Everything goes to the store.
    pub(super) fn checkpoint_all(&mut self) {
        self.input(Input::CheckpointAll);
        self.settle_down();
        assert!(self.shard.is_checkpointed());
    }

    /// Idle accounts become blobs in memory.
    pub(super) fn pack(&mut self) {
        self.checkpoint_all();
        for _ in 0..2 {
            self.tick(5_000);
            self.settle_down();
        }
    }

    /// Every account leaves memory.
    pub(super) fn evict(&mut self) {
        let bytes = std::mem::replace(&mut self.shard.limits.resident_bytes, 0);
        self.checkpoint_all();
        while self.shard.report().resident > 0 {
            self.tick(50);
            self.settle_down();
        }
        self.shard.limits.resident_bytes = bytes;
    }

    /// A new process over what journal and store have: what the lane still holds is lost.
    pub(super) fn restart(self, limits: ShardLimits) -> Self {
        let state = self.store.shard_state(SHARD).unwrap();
        let has_store = state.is_some();
        let state = state.unwrap_or_default();
        let mut totals = Totals::default();
        let mut last_recorded_at = 0;
        if has_store {
            (last_recorded_at, totals) = decode_state(&state.totals).unwrap();
        }
        let (from, mut accounts) = (state.replay_start.max(1), state.accounts);
        let mut touched: BTreeMap<Identity, (Account, u64, Option<Millis>)> = BTreeMap::new();
        for (sequence, record) in self.journal.range(from..) {
            last_recorded_at = last_recorded_at.max(record.recorded_at);
            if *sequence > state.totals_sequence {
                totals.add(record);
                accounts += u64::from(record.sequence == 1);
            }
            let entry = touched.entry(record.identity.clone()).or_insert_with(|| {
                let blob = self.store.load(SHARD, &record.identity).unwrap();
                let account = match blob {
                    Some(blob) => Account::decode(&record.identity, &blob).unwrap(),
                    None => Account::blank(),
                };
                let due = account.next_due();
                (account, 0, due)
            });
            if *sequence > entry.0.applied() {
                entry.0.apply(record);
                entry.1 = if entry.1 == 0 { *sequence } else { entry.1 };
            }
        }
        let begun = |(identity, (account, since, due_in_store))| {
            let mut live = Live::new(account, due_in_store);
            live.dirty_since = since;
            (identity, live)
        };
        let replayed = touched.into_iter().filter(|(_, t)| t.1 > 0).map(begun).collect();
        let last_sequence = self.journal.last_key_value().map_or(0, |(sequence, _)| *sequence);
        let start = ShardStart {
            id: SHARD,
            last_sequence,
            last_recorded_at,
            totals,
            accounts,
            replayed,
            no_spilled_keys: !has_store,
            seed: 1,
        };
        let mut next = Self::with(start, limits, self.store, self.journal);
        next.world.now = self.world.now;
        next
    }
}
