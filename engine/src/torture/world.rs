//! A node, its disk and store, its clocks, its clients and the auditor: what an event happens to.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use meed_schemas::command::Request;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use super::ask;
use super::auditor::{Auditor, has_key};
use super::event::{Ask, Event, Key, What};
use super::node::{DATA, Node, Step, Stop, Times};
use super::profile::Profile;
use super::rot::{self, Fate};
use super::store_ahead;
use super::stream::Broker;
use crate::disk::simulated::{Rot, SimulatedDisk, Snapshot as DiskSnapshot};
use crate::error::Error;
use crate::random::mix;
use crate::shard::{Envelope, Input, ReplyTo};
use crate::store::{SimulatedStore, Store, StoreSnapshot};
use crate::verify;

/// A command's time to be decided.
const DEADLINE_MS: i64 = 10_000;
/// Rounds in which a node has to finish what is under way once nothing fails.
const QUIET_ROUNDS_MAX: usize = 4_000;
/// What a quiet round lasts.
const QUIET_ROUND_MS: i64 = 50;

/// A request and what its client knows of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) what: What,
    pub(super) account: usize,
    pub(super) request: Rc<Request>,
    /// Whether an answer came that says what became of it.
    pub(super) is_resolved: bool,
}

pub(super) struct World {
    pub(super) profile: Profile,
    disk: SimulatedDisk,
    store: SimulatedStore,
    broker: Broker,
    store_copy: Option<StoreSnapshot>,
    disk_copy: Option<DiskSnapshot>,
    pub(super) node: Option<Node>,
    /// The node has faulted: it does nothing until it is started again.
    pub(super) has_halted: bool,
    began_ms: i64,
    monotonic_ms: i64,
    wall_ms: Millis,
    pub(super) asked: BTreeMap<u32, Asked>,
    pub(super) network: Vec<u32>,
    pub(super) auditor: Auditor,
    pub(super) recoveries: u64,
    starts: u64,
    was_stopped: bool,
}

impl World {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            disk: SimulatedDisk::new(profile.seed),
            store: SimulatedStore::default(),
            broker: Broker::default(),
            store_copy: None,
            disk_copy: None,
            node: None,
            has_halted: false,
            began_ms: 0,
            monotonic_ms: 0,
            wall_ms: profile.start_ms,
            asked: BTreeMap::new(),
            network: Vec::new(),
            auditor: Auditor::new(&profile),
            recoveries: 0,
            starts: 0,
            was_stopped: false,
            profile,
        }
    }

    fn times(&self) -> Times {
        Times { wall_ms: self.wall_ms, elapsed_ms: self.monotonic_ms - self.began_ms }
    }

    /// Whether a fault of the node has a cause that the disk or the store knows of.
    fn is_excused(&self) -> bool {
        self.disk.sprung().is_some() || self.disk.is_full() || self.store.is_dead()
    }

    /// The node's thread says that it is broken.
    fn fault(&mut self, error: Error) -> Result<(), String> {
        if !self.is_excused() {
            return Err(format!("the node faulted without a cause: {error}"));
        }
        self.has_halted = true;
        Ok(())
    }

    /// Lets an event happen.
    ///
    /// # Errors
    /// What the auditor found.
    pub(super) fn happen(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Ask(ask) => self.ask(ask),
            Event::Again { ask } => self.send(*ask),
            Event::Arrive { nth } => self.arrive(*nth),
            Event::Lose { nth } => {
                if *nth < self.network.len() {
                    self.network.remove(*nth);
                }
            }
            Event::Step(step) => return self.step(*step),
            Event::Tick => self.tick(),
            Event::SyncStore => self.sync_store(),
            Event::Time { passed_ms, leap_ms } => {
                self.monotonic_ms += passed_ms;
                self.wall_ms += passed_ms + leap_ms;
            }
            Event::Arm { after, fault } => self.disk.arm(*after, *fault),
            Event::ArmStore { after, is_there } => self.store.arm(*after, *is_there),
            Event::Calm => self.calm(),
            Event::BrokerAway { is_away } => self.broker.set_away(*is_away),
            Event::BrokerRefuses => self.broker.refuse(),
            Event::Kill => {
                self.end_process();
                self.disk.end_process();
                self.store.end_process();
            }
            Event::PowerCut { seed } => {
                self.end_process();
                self.disk.cut_power(*seed);
                self.store.cut_power(mix(*seed)).map_err(|e| e.to_string())?;
            }
            Event::Start => return self.start(),
            Event::Quiet => return self.quiet(),
            Event::Stop => return self.stop(),
            _ => return self.medium(event),
        }
        Ok(())
    }

    /// What happens to disk and store while no process runs.
    fn medium(&mut self, event: &Event) -> Result<(), String> {
        if let Event::Copy = event {
            (self.store_copy, self.disk_copy) = (Some(self.store.snapshot()), Some(self.disk.snapshot()));
        }
        if self.node.is_some() {
            return Ok(());
        }
        match event {
            // A store that is older than what was removed would be restored from a snapshot.
            Event::RestoreStore { .. } if self.auditor.has_removed() => {}
            Event::RestoreStore { is_gone: true } => self.store.restore(&StoreSnapshot::default()),
            Event::RestoreStore { is_gone: false } => {
                if let Some(copy) = self.store_copy.take() {
                    self.store.restore(&copy);
                }
            }
            Event::Rot { rot, seed } => return self.rot(*rot, *seed),
            Event::StoreAhead { is_gone } => return self.store_ahead(*is_gone),
            _ => {}
        }
        Ok(())
    }

    /// Damages a sector, starts a node on it and judges what it does. The medium is put right when that is told.
    fn rot(&mut self, kind: Rot, seed: u64) -> Result<(), String> {
        self.calm();
        let Some(ends) = rot::ends(&self.disk) else { return Ok(()) };
        let (whole, store) = (self.disk.snapshot(), self.store.snapshot());
        let Some(damage) = self.disk.rot(kind, seed) else { return Ok(()) };
        let damaged = self.disk.snapshot();
        let is_torn = rot::is_torn(&self.disk, &ends);
        let fate = match self.start_on_trial(seed) {
            // A checkpoint may have what the journal has lost.
            Err(_) if is_torn => Ok(Fate::Known),
            started => rot::trial(self.disk.disk(), started, &damage, &ends, &self.auditor),
        };
        self.store.restore(&store);
        let is_harmless = fate == Ok(Fate::Harmless);
        // What is not a batch may be cut off though the node was stopped in order.
        self.was_stopped &= !is_harmless;
        self.disk.restore(if is_harmless { &damaged } else { &whole });
        fate.map(|_| ()).map_err(|found| format!("{found}, after {kind:?} of {damage:?}"))
    }

    /// Starts a node on an older journal, or on none, beside the store as it is. It tells, or the store is not ahead.
    fn store_ahead(&mut self, is_gone: bool) -> Result<(), String> {
        let older =
            if is_gone { Some(SimulatedDisk::new(self.profile.seed).snapshot()) } else { self.disk_copy.take() };
        let Some(older) = older else { return Ok(()) };
        self.calm();
        let (disk, store) = (self.disk.snapshot(), self.store.snapshot());
        self.disk.restore(&older);
        self.calm();
        let end = rot::ends(&self.disk).map_or_else(|| vec![0; usize::from(self.profile.shards)], |[last, _]| last);
        self.disk.end_process();
        let judged = match store_ahead::is_of_this_history(self.disk.disk(), &self.auditor) {
            true => store_ahead::is_ahead(&Store::Simulated(self.store.clone()), &end).and_then(|is_ahead| {
                let started = self.start_on_trial(self.profile.seed);
                store_ahead::judge(&self.disk.disk(), started, is_ahead)
            }),
            false => Ok(()),
        };
        self.disk.restore(&disk);
        self.store.restore(&store);
        judged.map_err(|found| format!("{found}, with a journal that ends at {end:?}"))
    }

    /// Starts a node on the medium as it is, which the caller puts right again; it publishes nowhere.
    fn start_on_trial(&self, seed: u64) -> crate::error::Result<Node> {
        self.disk.end_process();
        self.store.end_process();
        let store = Store::Simulated(self.store.clone());
        let times = Times { wall_ms: self.wall_ms, elapsed_ms: 0 };
        Node::start(self.disk.disk(), store, Broker::default(), &self.profile, times, seed)
    }

    fn calm(&mut self) {
        self.disk.calm();
        self.store.calm();
        self.broker.calm();
    }

    fn end_process(&mut self) {
        self.node = None;
        self.broker.end_process();
        self.has_halted = false;
        self.was_stopped = false;
        self.network.clear();
    }

    /// The node that does something, if there is one.
    pub(super) fn running(&mut self) -> Option<&mut Node> {
        self.node.as_mut().filter(|_| !self.has_halted)
    }

    fn ask(&mut self, ask: &Ask) {
        if self.asked.contains_key(&ask.id) {
            return;
        }
        let position_of = |id: u32| self.auditor.told(id);
        let Some(request) = ask::request(ask, &self.profile, self.wall_ms, &position_of) else { return };
        let asked =
            Asked { what: ask.what.clone(), account: ask.account, request: Rc::new(request), is_resolved: false };
        self.asked.insert(ask.id, asked);
        self.send(ask.id);
    }

    fn send(&mut self, id: u32) {
        if self.node.is_none() {
            return;
        }
        if let Some(asked) = self.asked.get(&id) {
            let attempt = self.auditor.sent(id, Rc::clone(&asked.request));
            self.network.push(attempt);
        }
    }

    fn arrive(&mut self, nth: usize) {
        if nth >= self.network.len() || self.running().is_none() {
            return;
        }
        let attempt = self.network.remove(nth);
        let request = Request::clone(self.auditor.request(attempt));
        let shard = request.identity.shard(self.profile.shards);
        let to = ReplyTo { worker: 0, slot: attempt, generation: 0, index: 0 };
        let deadline_ms = self.times().elapsed_ms + DEADLINE_MS;
        let envelope = Envelope { request, to: Some(to), deadline_ms, bytes: 1 };
        if let Some(node) = &mut self.node {
            node.push(shard, Input::Command(envelope));
        }
    }

    fn tick(&mut self) {
        if let Some(node) = self.running() {
            node.tick();
        }
    }

    fn sync_store(&mut self) {
        let times = self.times();
        if let Some(node) = self.node.as_mut().filter(|_| !self.has_halted) {
            self.auditor.time_is(node.sync_store(times));
        }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let times = self.times();
        let Some(node) = self.node.as_mut().filter(|_| !self.has_halted) else { return Ok(()) };
        let is_retried = matches!(step, Step::Prepare | Step::Upkeep | Step::Publish { .. } | Step::SaveMark);
        let done = node.step(step, times, &mut self.auditor);
        if let Some((up_to, at)) = node.removed.take() {
            self.auditor.removed(&up_to, at, self.profile.retention_ms)?;
            if self.profile.publishes && at.is_some() {
                let is_gone =
                    |record: &&Record| record.position.sequence() <= up_to[usize::from(record.position.shard())];
                self.broker.check_events(self.auditor.records().map(|(record, _)| record).filter(is_gone))?;
            }
        }
        let answers = std::mem::take(&mut node.answers);
        match done {
            Ok(()) => {}
            // Preparing and keeping up segments is tried again, and so is publishing.
            Err(Stop::Fault(_)) if is_retried && self.is_excused() && !self.disk.is_dead() && !self.store.is_dead() => {
            }
            Err(Stop::Fault(error)) => self.fault(error)?,
            Err(Stop::Found(found)) => return Err(found),
        }
        self.broker.check()?;
        for (to, reply) in answers {
            self.auditor.answered(to, &reply)?;
            let ask = self.auditor.ask_of(to.slot);
            if !matches!(reply, Reply::Refused(Refusal::OutcomeUnknown))
                && let Some(asked) = self.asked.get_mut(&ask)
            {
                asked.is_resolved = true;
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        if self.node.is_some() {
            return Ok(());
        }
        self.disk.end_process();
        self.store.end_process();
        self.began_ms = self.monotonic_ms;
        self.starts += 1;
        let store = Store::Simulated(self.store.clone());
        let seed = mix(self.profile.seed.wrapping_add(self.starts));
        let broker = self.broker.clone();
        let started = Node::start(self.disk.disk(), store, broker, &self.profile, self.times(), seed);
        let node = match started {
            Ok(node) => node,
            Err(error) if self.is_excused() => {
                let _ = error;
                return Ok(());
            }
            Err(error) => return Err(format!("the node does not start: {error}")),
        };
        if self.was_stopped && (!node.recovered.clean || node.recovered.cut.is_some()) {
            return Err(format!("the node was stopped in order, and found {:?}", node.recovered));
        }
        self.was_stopped = false;
        self.recoveries += 1;
        self.auditor.recovered(&node.recovered.last_sequence, &node.reader)?;
        self.broker.check_durable(&node.recovered.last_sequence)?;
        self.node = Some(node);
        Ok(())
    }

    /// Everything that can be checked of a node that is at rest: journal, accounts, store.
    pub(super) fn verify(&mut self) -> Result<(), String> {
        let Some(node) = self.node.as_ref() else { return Ok(()) };
        let last_sequence = node.reader.last_sequence();
        let (disk, data) = (self.disk.disk(), Path::new(DATA));
        let report = verify::check(&disk, data, &node.reader, Some(&node.store), None, &last_sequence)
            .map_err(|e| format!("verify finds: {e}"))?;
        match report.lacks_base() {
            true => Err(format!("records are gone, and no snapshot stands for them: {report:?}")),
            false => Ok(()),
        }
    }

    /// Lets the node do everything that it can do, as time passes, until nothing is under way.
    fn settle_down(&mut self) -> Result<(), String> {
        for _ in 0..QUIET_ROUNDS_MAX {
            while !self.network.is_empty() {
                self.arrive(0);
            }
            let Some(node) = self.running() else { return Ok(()) };
            let steps: Vec<Step> = node.steps().into_iter().filter(|step| !matches!(step, Step::Read(1..))).collect();
            if steps.is_empty() {
                if self.auditor.unanswered().next().is_none() {
                    return Ok(());
                }
                self.monotonic_ms += QUIET_ROUND_MS;
                self.wall_ms += QUIET_ROUND_MS;
                self.tick();
            }
            for step in steps {
                self.step(step)?;
            }
        }
        let left: Vec<u32> = self.auditor.unanswered().map(|attempt| self.auditor.ask_of(attempt)).collect();
        Err(format!("the node makes no progress: requests {left:?} have no answer"))
    }

    /// Nothing fails any more: the node starts if it has to, finishes, and every unknown outcome is resolved.
    fn quiet(&mut self) -> Result<(), String> {
        self.calm();
        if self.has_halted {
            self.happen(&Event::Kill)?;
        }
        self.start()?;
        self.settle_down()?;
        let unknown: Vec<u32> =
            self.asked.iter().filter(|(_, a)| !a.is_resolved && has_key(&a.request)).map(|(id, _)| *id).collect();
        for id in unknown {
            self.send(id);
        }
        self.settle_down()?;
        for account in 0..self.profile.accounts {
            let id = u32::MAX - (self.recoveries as u32 * 64 + account as u32);
            self.ask(&Ask { id, account, what: What::Lots, key: Key::None });
        }
        self.settle_down()?;
        if let Some((id, _)) = self.asked.iter().find(|(_, a)| !a.is_resolved && has_key(&a.request)) {
            return Err(format!("what became of request {id} cannot be found out"));
        }
        if self.profile.publishes {
            self.broker.check_all(self.auditor.records().map(|(record, _)| record))?;
        }
        self.verify()
    }

    fn stop(&mut self) -> Result<(), String> {
        self.quiet()?;
        for _ in 0..QUIET_ROUNDS_MAX {
            let Some(node) = self.running() else { return Ok(()) };
            if node.is_checkpointed() && node.steps().is_empty() {
                break;
            }
            node.ask_checkpoint();
            self.settle_down()?;
        }
        let Some(node) = self.node.take() else { return Ok(()) };
        if !node.is_checkpointed() {
            return Err("the node does not bring everything to the store".to_owned());
        }
        node.close().map_err(|e| format!("the node does not stop in order: {e}"))?;
        self.end_process();
        self.was_stopped = true;
        rot::probe(&self.disk, &self.auditor, mix(self.profile.seed ^ self.starts))
    }

    /// Changes of disk and clocks so far, for a look from outside whether two runs are the same.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = mix(self.monotonic_ms as u64 ^ self.wall_ms as u64 ^ self.broker.fingerprint());
        for (_, bytes) in self.auditor.records() {
            hash = mix(hash ^ xxhash_rust::xxh3::xxh3_64(bytes));
        }
        hash
    }
}
