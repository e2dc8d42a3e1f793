//! One shard, without I/O: the unit of serialization, ownership and sequence.
//!
//! Everything that happens to it is an [`Input`]; what it wants done comes out as [`Output`] or goes into
//! the [`Lane`] of its worker. It knows neither sockets nor files nor the clock.

mod checkpoint;
pub mod due;
mod fetch;
pub mod filter;
mod memory;
pub mod table;
mod messages;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use meed_schemas::command::Command;
use meed_schemas::ids::Identity;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use checkpoint::OVERLAY_FACTS;
pub use checkpoint::{ShardReport, decode_state, encode_state};
pub use messages::{
    BUSINESS_KEY_DAYS, Checkpoint, Copied, Envelope, Held, IDEMPOTENCY_KEY_DAYS, Input, Output, Purpose, ReplyTo,
    ShardLimits, ShardStart, StoreJob, Tenure, World,
};

use crate::account::{Account, Context, FactKey, Facts, Fetch, Records, Totals, Turn, Verdict, needs, turn};
use crate::commit::Lane;
use crate::error::{Error, Result};
use crate::planted::{Fault, planted};
use fetch::{absent_keys, fetch};
use filter::KeyFilter;
use table::{Live, Parked, Resident, Table, scope};

/// One shard.
#[derive(Debug)]
pub struct Shard {
    id: u16,
    limits: ShardLimits,
    next_sequence: u64,
    last_recorded_at: Millis,
    table: Table,
    totals: Totals,
    accounts: u64,
    filter: KeyFilter,
    /// The filter is being filled with what was spilled before the start.
    filter_asked: bool,
    next_ticket: u64,
    /// (first sequence without checkpoint, hash), ascending.
    dirty: VecDeque<(u64, u64)>,
    /// Accounts with many spilled facts, to be written out of turn.
    overfull: VecDeque<u64>,
    checkpoint: checkpoint::Progress,
    due: due::Sweep,
    /// Resident accounts whose due instant is near.
    near_due: BinaryHeap<Reverse<(Millis, u64)>>,
    /// Every account in memory once, in the order of the clock hand; those that are asked for come when they are there.
    hand: VecDeque<u64>,
    resident_bytes: usize,
    memory: memory::Bound,
    /// Accounts in memory that exist; those being loaded and blank ones are not counted.
    resident_accounts: u64,
    /// Accounts being loaded, and commands that wait for what they need.
    waiting: u64,
}

impl Shard {
    /// A shard as recovery left it.
    pub fn new(start: ShardStart, limits: ShardLimits) -> Self {
        let mut shard = Self {
            id: start.id,
            limits,
            next_sequence: start.last_sequence + 1,
            last_recorded_at: start.last_recorded_at,
            table: Table::new(start.seed),
            totals: start.totals,
            accounts: start.accounts,
            filter: KeyFilter::new(limits.filter_bytes, start.no_spilled_keys),
            filter_asked: false,
            next_ticket: 0,
            dirty: VecDeque::new(),
            overfull: VecDeque::new(),
            checkpoint: checkpoint::Progress::of(start.id, limits.checkpoint_interval_ms),
            due: due::Sweep::default(),
            near_due: BinaryHeap::new(),
            hand: VecDeque::new(),
            resident_bytes: 0,
            memory: memory::Bound::default(),
            resident_accounts: 0,
            waiting: 0,
        };
        let mut replayed = start.replayed;
        replayed.sort_unstable_by_key(|(_, live)| live.dirty_since);
        shard.table.reserve(replayed.len());
        for (identity, live) in replayed {
            let hash = shard.table.hash(&identity);
            let scope = scope(&identity, start.seed);
            for spilled in live.account.overlay() {
                if let FactKey::Key { hash: key, .. } = spilled.fact {
                    shard.filter.insert(key ^ scope);
                }
            }
            shard.dirty.push_back((live.dirty_since, hash));
            shard.resident_accounts += u64::from(live.account.exists());
            shard.add_resident(hash, identity, Resident::Live(live));
        }
        shard
    }

    /// Which shard this is.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Handles one input. Records go to `lane`; what saw undurable state is held there.
    ///
    /// # Errors
    /// Only faults: damaged data, or a record that cannot be encoded. The node stops then.
    pub fn handle(&mut self, input: Input, world: &World, lane: &mut Lane<Held>, out: &mut Output) -> Result<()> {
        match input {
            Input::Command(envelope) => self.command(envelope, world, lane, out),
            Input::Loaded(identity, blob) => self.loaded(identity, blob, world, lane, out),
            Input::Fact(identity, ticket, key, value) => {
                let shard = self.id;
                self.arrived(&identity, ticket, world, lane, out, |facts| {
                    let added = facts.add_fact(key, value.as_deref());
                    added.map_err(|error| damaged_blob(shard, &identity, &format!("has a damaged fact: {error}")))
                })
            }
            Input::Record(identity, ticket, position, record) => {
                self.arrived(&identity, ticket, world, lane, out, |facts| {
                    facts.add_record(position, record.map(|record| *record));
                    Ok(())
                })
            }
            Input::CheckpointDone(accounts) => {
                self.checkpoint_done(&accounts);
                self.checkpoint_step(world, lane, out)
            }
            Input::SpilledKeys(hashes, next) => {
                self.fill_filter(&hashes, next, out);
                Ok(())
            }
            Input::Due(accounts) => self.due_found(accounts, world, lane, out),
            Input::CheckpointAll => self.checkpoint_all(world, lane, out),
            Input::Tenure(_) => Err(Error::Internal("a shard was asked who owns it".into())),
            Input::Tick => {
                self.settle_near(world, lane, out)?;
                self.sweep_step(world, out);
                self.hand_step(world);
                self.begin_filter(out);
                self.load_held(out);
                self.checkpoint_tick(world);
                self.checkpoint_step(world, lane, out)
            }
        }
    }

    /// Reads ahead for the first [`table::WARM_MAX`] of these inputs, which are about to be handled. One alone has none
    /// to wait with.
    pub fn warm(&self, inputs: &[Input]) {
        if inputs.len() < 2 {
            return;
        }
        let commands = inputs.iter().take(table::WARM_MAX).filter_map(|input| match input {
            Input::Command(envelope) => Some(&envelope.request.identity),
            _ => None,
        });
        self.table.warm(commands);
    }

    fn command(&mut self, envelope: Envelope, world: &World, lane: &mut Lane<Held>, out: &mut Output) -> Result<()> {
        let identity = &envelope.request.identity;
        let hash = self.table.hash(identity);
        // A new account waits for memory like any other.
        let all_resident = self.accounts == self.resident_accounts && !self.is_full();
        let seed = self.table.seed();
        match self.table.get_mut(hash, identity) {
            Some(Resident::Loading(queue)) => queue.push_back(envelope),
            Some(Resident::Live(live)) if !live.waiting.is_empty() => {
                self.waiting += 1;
                Self::park(self.id, seed, &mut self.next_ticket, live, envelope, Facts::default(), world, lane, out);
            }
            Some(Resident::Live(_)) => return self.run(hash, envelope, Facts::default(), world, lane, out),
            Some(Resident::Packed(_)) => {
                self.unpack(hash, identity.clone())?;
                return self.run(hash, envelope, Facts::default(), world, lane, out);
            }
            None if all_resident => {
                // Every account that exists is in memory, so this one does not.
                let identity = identity.clone();
                let blank = Live::new(Account::blank(), None);
                self.add_resident(hash, identity, Resident::Live(blank));
                return self.run(hash, envelope, Facts::default(), world, lane, out);
            }
            None => {
                let identity = identity.clone();
                let queue = Box::new(VecDeque::from([envelope]));
                self.waiting += 1;
                self.add_resident(hash, identity.clone(), Resident::Loading(queue));
                self.load(identity, out);
            }
        }
        Ok(())
    }

    /// Takes one turn of a live account that has nothing waiting before this command.
    fn run(
        &mut self,
        hash: u64,
        mut envelope: Envelope,
        mut facts: Facts,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        let seed = self.table.seed();
        let Some(Resident::Live(live)) = self.table.get_mut(hash, &envelope.request.identity) else {
            return Err(Error::Internal("a turn was taken for an account that is not in memory".into()));
        };
        let is_late = world.elapsed_ms > envelope.deadline_ms;
        if is_late || !world.may_decide {
            out.expired += u64::from(is_late);
            let refusal = if is_late { Refusal::OutcomeUnknown } else { Refusal::NotReady };
            Self::hold_reply(self.id, &envelope, 0, Reply::Refused(refusal), lane, out);
            self.forget_blank(hash, &envelope.request.identity);
            return Ok(());
        }
        live.touched = true;
        let spilled = live.account.overlay().len();
        absent_keys(&self.filter, seed, live, &envelope.request, &mut facts);
        let now = world.now.max(self.last_recorded_at);
        let context = Context {
            programs: &world.programs,
            now,
            // Not by records that a clock ahead of its time has left: what they say is past need not be.
            settle_until: world.settle_until.min(world.now),
            shard: self.id,
            next_sequence: self.next_sequence,
        };
        let was_blank = !live.account.exists();
        let Turn { mut records, verdict } = turn(&mut live.account, &mut envelope.request, &facts, &context);
        let saw = live.account.applied();
        if !records.is_empty() {
            if live.dirty_since == 0 {
                live.dirty_since = self.next_sequence;
                self.dirty.push_back((self.next_sequence, hash));
            }
            for spilled in &live.account.overlay()[spilled.min(live.account.overlay().len())..] {
                if let FactKey::Key { hash: key, .. } = spilled.fact {
                    self.filter.insert(key ^ scope(&envelope.request.identity, seed));
                }
            }
            if live.account.overlay().len() >= OVERLAY_FACTS && live.writes_under_way == 0 && !live.queued_overfull {
                live.queued_overfull = true;
                self.overfull.push_back(hash);
            }
            if let Some(at) = live.account.next_due()
                && at < live.queued_due.min(now + due::NEAR_MS)
            {
                live.queued_due = at;
                self.near_due.push(Reverse((at, hash)));
            }
            let opened = u64::from(was_blank && live.account.exists());
            self.accounts += opened;
            self.resident_accounts += opened;
            self.journal(&records, now, lane)?;
        }
        if let Verdict::Load(fetches) = verdict {
            return self.park_first(hash, envelope, facts, &fetches, world, lane, out);
        }
        self.answer(&envelope, verdict, &mut records, saw, lane, out);
        if saw == 0 {
            self.forget_blank(hash, &envelope.request.identity);
        }
        Ok(())
    }

    /// Holds what a turn answers until the journal has what it saw.
    fn answer(
        &self,
        envelope: &Envelope,
        verdict: Verdict,
        records: &mut Records,
        saw: u64,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) {
        match verdict {
            Verdict::Executed(index) => {
                let reply = Reply::Executed { record: records.swap_remove(index), replayed: false };
                Self::hold_reply(self.id, envelope, saw, reply, lane, out);
            }
            Verdict::Reply(reply) => {
                let saw = if planted(Fault::ReleaseReadEarly) { 0 } else { saw };
                Self::hold_reply(self.id, envelope, saw, reply, lane, out);
            }
            Verdict::Replay(position) => {
                let outcome = envelope.request.command == Command::Outcome;
                out.replays += u64::from(!outcome);
                if let Some(to) = envelope.to {
                    // The records of this very turn (a further key, what was due) must be durable too.
                    let purpose = Purpose::Replay { to, outcome, bytes: envelope.bytes, shard: self.id };
                    let durable = lane.hold(self.id, saw, Held::Read { position, purpose });
                    let is_running = !outcome && !lane.is_durable(self.id, position.sequence());
                    out.ready.extend(durable.or_else(|| is_running.then_some(Held::StillRunning(to))));
                }
            }
            Verdict::Load(_) => unreachable!("a load is no answer"),
        }
    }

    /// Hands records that a turn has applied to the worker's batch.
    fn journal(&mut self, records: &[Box<Record>], now: Millis, lane: &mut Lane<Held>) -> Result<()> {
        for record in records {
            lane.append(record)?;
            self.totals.add(record);
        }
        lane.end_decision();
        self.next_sequence += records.len() as u64;
        self.last_recorded_at = now;
        Ok(())
    }

    /// Parks the command whose turn ended in a load, before all others of its account.
    #[expect(clippy::too_many_arguments, reason = "what the turn had at hand")]
    fn park_first(
        &mut self,
        hash: u64,
        envelope: Envelope,
        facts: Facts,
        fetches: &[Fetch],
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (identity, seed) = (&envelope.request.identity, self.table.seed());
        if let Some(Resident::Live(live)) = self.table.get_mut(hash, identity) {
            fetch(self.id, seed, identity, ticket, fetches, &live.account, world, lane, out);
            self.waiting += 1;
            live.waiting.push_front(Parked { envelope, facts, outstanding: fetches.len() as u32, ticket });
        }
        Ok(())
    }

    /// Holds an answer until the journal has what it saw.
    fn hold_reply(shard: u16, envelope: &Envelope, saw: u64, reply: Reply, lane: &mut Lane<Held>, out: &mut Output) {
        let Some(to) = envelope.to else { return };
        let held = Held::Reply { to, shard, bytes: envelope.bytes, reply };
        out.ready.extend(lane.hold(shard, saw, held));
    }

    /// Parks a command behind others of its account, and begins to load what it will need.
    #[expect(clippy::too_many_arguments, reason = "borrows parts of the shard beside the account")]
    fn park(
        shard: u16,
        seed: u64,
        next_ticket: &mut u64,
        live: &mut Live,
        envelope: Envelope,
        facts: Facts,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) {
        let ticket = *next_ticket;
        *next_ticket += 1;
        let fetches = needs(&live.account, &envelope.request, shard);
        fetch(shard, seed, &envelope.request.identity, ticket, &fetches, &live.account, world, lane, out);
        live.waiting.push_back(Parked { envelope, facts, outstanding: fetches.len() as u32, ticket });
    }

    fn loaded(
        &mut self,
        identity: Identity,
        blob: Option<Vec<u8>>,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        let hash = self.table.hash(&identity);
        let Some(resident) = self.table.get_mut(hash, &identity) else { return Ok(()) };
        let Resident::Loading(queue) = resident else { return Ok(()) };
        let queue = std::mem::take(&mut **queue);
        self.waiting -= 1;
        let (account, due) = match &blob {
            Some(blob) => {
                let account = decode(self.id, &identity, blob)?;
                if account.applied() >= self.next_sequence {
                    return Err(match world.may_decide {
                        true => damaged_blob(self.id, &identity, "is ahead of the journal"),
                        false => Error::Stopped(format!("another node has decided for shard {}", self.id)),
                    });
                }
                let due = account.next_due();
                self.resident_accounts += u64::from(account.exists());
                (account, due)
            }
            None => (Account::blank(), None),
        };
        let live = Live::new(account, due);
        self.resident_bytes = (self.resident_bytes + live.counted_bytes).saturating_sub(memory::LOADING_BYTES);
        *resident = Resident::Live(live);
        self.hand.push_back(hash);
        for envelope in queue {
            if blob.is_none() && self.table.get_mut(hash, &identity).is_none() {
                // A command before this one was refused and left no trace: it is still known that there is none.
                let blank = Live::new(Account::blank(), None);
                self.add_resident(hash, identity.clone(), Resident::Live(blank));
            }
            self.command(envelope, world, lane, out)?;
        }
        self.forget_blank(hash, &identity);
        Ok(())
    }

    /// Something that a parked command needs has come; runs what can run, in order.
    fn arrived(
        &mut self,
        identity: &Identity,
        ticket: u64,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
        add: impl FnOnce(&mut Facts) -> Result<()>,
    ) -> Result<()> {
        let hash = self.table.hash(identity);
        let Some(Resident::Live(live)) = self.table.get_mut(hash, identity) else { return Ok(()) };
        if let Some(parked) = live.waiting.iter_mut().find(|p| p.ticket == ticket) {
            add(&mut parked.facts)?;
            parked.outstanding = parked.outstanding.saturating_sub(1);
        }
        loop {
            let Some(Resident::Live(live)) = self.table.get_mut(hash, identity) else { return Ok(()) };
            let Some(parked) = live.waiting.pop_front_if(|p| p.outstanding == 0) else { return Ok(()) };
            self.waiting -= 1;
            self.run(hash, parked.envelope, parked.facts, world, lane, out)?;
        }
    }

    fn add_resident(&mut self, hash: u64, identity: Identity, resident: Resident) {
        self.resident_bytes += match &resident {
            Resident::Live(live) => memory::entry_bytes(&identity) + live.counted_bytes,
            Resident::Packed(blob) => memory::entry_bytes(&identity) + blob.len(),
            // Counted when the store is asked for it.
            Resident::Loading(_) => 0,
        };
        if !matches!(resident, Resident::Loading(_)) {
            self.hand.push_back(hash);
        }
        self.table.insert(hash, identity, resident);
    }

    fn unpack(&mut self, hash: u64, identity: Identity) -> Result<()> {
        let id = self.id;
        if let Some(resident) = self.table.get_mut(hash, &identity)
            && let Resident::Packed(blob) = resident
        {
            let account = decode(id, &identity, blob)?;
            let due = account.next_due();
            let live = Live::new(account, due);
            self.resident_bytes = self.resident_bytes.saturating_sub(blob.len()) + live.counted_bytes;
            *resident = Resident::Live(live);
        }
        Ok(())
    }

    /// An account that was asked for and does not exist leaves no trace.
    fn forget_blank(&mut self, hash: u64, identity: &Identity) {
        if let Some(Resident::Live(live)) = self.table.get_mut(hash, identity)
            && live.account.applied() == 0
            && live.waiting.is_empty()
        {
            self.hand.pop_back_if(|last| *last == hash);
            let freed = live.counted_bytes + memory::entry_bytes(identity);
            self.resident_bytes = self.resident_bytes.saturating_sub(freed);
            self.table.remove(hash, identity);
        }
    }
}

fn decode(shard: u16, identity: &Identity, blob: &[u8]) -> Result<Account> {
    Account::decode(identity, blob).map_err(|error| damaged_blob(shard, identity, &error.to_string()))
}

fn damaged_blob(shard: u16, identity: &Identity, what: &str) -> Error {
    Error::Damaged {
        file: "state".into(),
        offset: 0,
        detail: format!("the state of account {identity:?} in shard {shard} {what}"),
    }
}

#[cfg(test)]
mod tests;
