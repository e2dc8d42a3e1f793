//! The world of one seed: nodes, clients, network, clocks, broker, and what breaks.

mod breaks;
mod clients;
mod ends;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use meed_schemas::time::{DAY_MS, Millis};

use clients::Client;

use super::desk::Setup;
use super::keyspace::{Answered, Keyspace, Statement};
use super::ledger::Ledger;
use super::message::{Answer, Effect, Entry, Request, Sent, Task};
use super::node::{LEASE_MS, Node, Now};
use crate::journal::cql::machine;
use crate::program::{Programs, with_version};
use crate::random::{Random, mix};
use crate::torture::ask::PROGRAM;
use crate::torture::auditor::Auditor;
use crate::torture::clients::Clients;
use crate::torture::profile;
use crate::torture::world::Asked;

/// A statement without an answer within this has an unknown outcome.
const TIMEOUT_MS: i64 = 800;
/// An event without a confirmation within this is sent again.
const RESEND_MS: i64 = 1_000;
/// Things break until then.
const STORM_MS: i64 = 40_000;
/// Once nothing breaks any more, everything is in order after this.
const CALM_MS: i64 = 60_000;
/// In one of so many worlds nothing breaks but the database.
const OUTAGES_ONE_OF: u64 = 16;
/// From a sender to the broker.
const PRODUCE_MS: i64 = 4;

/// What of a world its seed says.
#[derive(Debug)]
struct Profile {
    nodes: usize,
    shards: u16,
    clients: usize,
    /// Percent of statements, requests and answers that are lost.
    lost_percent: u64,
    /// Percent of statements whose effect comes after their time-out.
    late_percent: u64,
    /// Milliseconds between two things that break.
    pace_ms: i64,
    /// Of a thousand answers to an owner, before how many it falls asleep for longer than its lease.
    naps_per_mille: usize,
    /// Percent of the owners that have just sealed a bucket that fall asleep so before they open the next.
    long_naps_percent: u64,
    /// Nothing breaks but the database, for all nodes at the same time; nobody takes a node for dead for that.
    has_only_outages: bool,
    /// Milliseconds of the wall clock in one of the others, so that points expire and keys are spilled and forgotten.
    wall_clock_factor: i64,
    /// Milliseconds between two requests of a client, at most.
    pause_ms: i64,
}

struct Process {
    node: Option<Box<Node>>,
    /// Counts its starts.
    life: u32,
    /// Stopped until then; what reaches it meanwhile waits.
    paused_until: i64,
    /// The database does not hear it until then.
    cut_off_until: i64,
    /// Of its clock, in thousandths.
    drift_per_mille: i64,
    offset_ms: i64,
    wall_skew_ms: i64,
}

impl Process {
    fn now(&self, now: i64, start_ms: Millis, wall_clock_factor: i64) -> Now {
        let boot_ms = self.offset_ms + now + now * self.drift_per_mille / 1_000;
        Now { boot_ms, wall_ms: start_ms + now * wall_clock_factor + self.wall_skew_ms }
    }

    /// How long something takes that lasts so long by its clock.
    fn real_ms(&self, boot_ms: i64) -> i64 {
        boot_ms * 1_000 / (1_000 + self.drift_per_mille)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    node: usize,
    life: u32,
}

#[derive(Debug)]
enum Event {
    Begin(usize),
    Statement(Place, Task, u64, Statement, bool),
    Answered(Place, Task, u64, Answered),
    Wake(Place, Task, u64),
    Request(usize, Request),
    Reply(Request, Answer),
    Client(usize),
    GiveUp(usize, u64),
    Produce(Place, Sent, Entry),
    Confirmed(Place, Sent),
    Resend(Place, Sent),
    Break,
}

/// The program of a world, and what bounds its shards.
fn program(seed: u64, profile: &Profile, random: &mut Random) -> profile::Profile {
    profile::Profile {
        shards: profile.shards,
        accounts: *random.pick(&[2, 4, 8]),
        checkpoint_interval_ms: *random.pick(&[200, 1_000, 5_000]),
        stride_ms: profile.wall_clock_factor.saturating_mul(5_000).clamp(10_000, 20 * DAY_MS),
        ..profile::Profile::of(seed)
    }
}

fn setup(program: &profile::Profile, random: &mut Random) -> Rc<Setup> {
    // From before the first record on, and known to every node.
    let since = program.start_ms - 400 * DAY_MS;
    let blank = Auditor::with_program(program, since, program.rules.clone());
    let programs = with_version(&Programs::default(), PROGRAM, 1, since, &program.rules.document());
    Rc::new(Setup {
        shards: program.shards,
        limits: program.limits(),
        programs: Arc::new(programs.expect("the documents of the simulator are valid")),
        seed: random.bits(),
        batch_bytes: *random.pick(&[100, 300, 1_000]),
        bucket_bytes: *random.pick(&[200, 600, 2_000]),
        trim_ms: *random.pick(&[100, 500, 5_000]),
        ledger: Rc::new(RefCell::new(Ledger::new(program.shards, blank))),
    })
}

pub(super) struct World {
    random: Random,
    profile: Profile,
    now: i64,
    order: u64,
    events: BTreeMap<(i64, u64), Event>,
    keyspace: Keyspace,
    processes: Vec<Process>,
    setup: Rc<Setup>,
    ledger: Rc<RefCell<Ledger>>,
    program: profile::Profile,
    clients: Vec<Client>,
    asker: Clients,
    asked: BTreeMap<u32, Asked>,
    /// Of the newest try of any client.
    next_try: u64,
    broker_down_until: i64,
    /// What is to be told beside the events.
    told: Vec<String>,
    /// By sender: the sequence that the broker takes next from it.
    sessions: BTreeMap<(usize, u32, u16, i64), u64>,
    /// Starts of nodes and changes of owners.
    pub(super) recoveries: u64,
    pub(super) count: u64,
    pub(super) fingerprint: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(mix(seed ^ 0x6e6f_6465_7300));
        let mut profile = Profile {
            nodes: *random.pick(&[2, 3, 3, 4]),
            shards: *random.pick(&[1, 2, 4]),
            clients: *random.pick(&[3, 6, 9]),
            lost_percent: *random.pick(&[0, 1, 4, 10]),
            late_percent: *random.pick(&[0, 1, 4]),
            pace_ms: *random.pick(&[700, 2_000, 5_000]),
            naps_per_mille: *random.pick(&[0, 2, 8]),
            long_naps_percent: *random.pick(&[0, 0, 20]),
            has_only_outages: mix(seed ^ 0x6f75_7461_6765).is_multiple_of(OUTAGES_ONE_OF),
            wall_clock_factor: *random.pick(&[1, 1_000, 30_000, 300_000]),
            pause_ms: *random.pick(&[60, 200, 600]),
        };
        if profile.has_only_outages {
            profile = Profile { lost_percent: 0, late_percent: 0, naps_per_mille: 0, long_naps_percent: 0, ..profile };
        }
        let program = program(seed, &profile, &mut random);
        let setup = setup(&program, &mut random);
        let processes = (0..profile.nodes).map(|index| Process {
            node: None,
            life: 0,
            paused_until: 0,
            cut_off_until: 0,
            // The lease's margin is a sixth, which two clocks share.
            drift_per_mille: random.between(-50, 50),
            offset_ms: 1_000_000 * (index as i64 + 1),
            wall_skew_ms: random.between(-200, 200) * profile.wall_clock_factor,
        });
        let mut world = Self {
            keyspace: Keyspace::new(profile.shards),
            clients: vec![Client::default(); profile.clients],
            processes: processes.collect(),
            asker: Clients::new(Random(mix(seed ^ 0x6173_6b65_7273))),
            asked: BTreeMap::new(),
            next_try: 1,
            ledger: Rc::clone(&setup.ledger),
            setup,
            program,
            profile,
            random,
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            broker_down_until: 0,
            told: Vec::new(),
            sessions: BTreeMap::new(),
            recoveries: 0,
            count: 0,
            fingerprint: 0,
        };
        for node in 0..world.profile.nodes {
            world.after(node as i64 * 100, Event::Begin(node));
        }
        for client in 0..world.profile.clients {
            world.after(500, Event::Client(client));
        }
        world.after(1_000, Event::Break);
        world
    }

    /// What the clocks of a node show.
    fn clocks(&self, node: usize) -> Now {
        self.processes[node].now(self.now, self.program.start_ms, self.profile.wall_clock_factor)
    }

    fn after(&mut self, time_ms: i64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + time_ms.max(0), self.order), event);
    }

    fn is_storm(&self) -> bool {
        self.now < STORM_MS
    }

    fn is_lost(&mut self) -> bool {
        self.is_storm() && self.random.chance(self.profile.lost_percent)
    }

    fn delay(&mut self) -> i64 {
        self.random.between(1, 8)
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn run(&mut self, tell: &mut dyn FnMut(&str)) -> Result<(), String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            if at > STORM_MS + CALM_MS {
                break;
            }
            self.count += 1;
            tell(&format!("{at} {event:?}"));
            self.happen(event)?;
            self.told.drain(..).for_each(|line| tell(&line));
        }
        self.check_end()
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        self.fingerprint = mix(self.fingerprint ^ self.now as u64 ^ self.order << 32);
        // An owner falls asleep between an append or a part of a checkpoint and what follows from it.
        if let Event::Answered(place, Task::Shard(_) | Task::Line, _, Answered::Journal(_) | Answered::Changed(_)) =
            &event
            && self.is_storm()
            && self.random.below(1_000) < self.profile.naps_per_mille
        {
            self.processes[place.node].paused_until = self.now + self.random.between(LEASE_MS, 3 * LEASE_MS);
        }
        if let Some((place, at)) = self.waits(&event) {
            if place.is_some() {
                self.order += 1;
                self.events.insert((at, self.order), event);
            }
            return Ok(());
        }
        match event {
            Event::Begin(node) => self.start(node)?,
            Event::Statement(place, task, token, statement, is_answer_lost) => {
                let stale = self.random.chance(10);
                let answered = self.keyspace.carry_out(&statement, stale);
                self.note(&statement, &answered)?;
                if let Statement::Journal { ask: machine::Ask::Seal { .. }, .. } = statement
                    && self.is_storm()
                    && self.random.chance(self.profile.long_naps_percent)
                {
                    let until = self.now + self.random.between(2 * LEASE_MS, 4 * LEASE_MS);
                    self.processes[place.node].paused_until = until;
                }
                if !is_answer_lost {
                    let delay = self.delay();
                    self.after(delay, Event::Answered(place, task, token, answered));
                }
            }
            Event::Answered(place, task, token, answered) => {
                self.with(place.node, |node, now| node.answered(task, token, answered, now))?;
            }
            Event::Wake(place, task, token) => self.with(place.node, |node, now| node.woken(task, token, now))?,
            Event::Request(node, request) => self.with(node, |node, now| node.asked(request, now))?,
            Event::Reply(request, answer) => self.replied(&request, &answer)?,
            Event::Client(client) => self.ask(client),
            Event::GiveUp(client, number) if self.clients[client].number == number => self.ask_again(client),
            Event::GiveUp(..) => {}
            Event::Produce(place, sent, entry) => self.produced(place, sent, &entry)?,
            Event::Confirmed(place, sent) => self.with(place.node, |node, _| {
                node.confirmed(sent);
                Ok(())
            })?,
            Event::Resend(place, sent) => self.with(place.node, |node, _| {
                node.unconfirmed(sent);
                Ok(())
            })?,
            Event::Break => self.break_something(),
        }
        Ok(())
    }

    /// Lets a node do something, and carries out what it wants.
    fn with(&mut self, node: usize, act: impl FnOnce(&mut Node, Now) -> Result<(), String>) -> Result<(), String> {
        let now = self.clocks(node);
        let process = &mut self.processes[node];
        let place = Place { node, life: process.life };
        let Some(running) = &mut process.node else { return Ok(()) };
        act(running, now)?;
        let effects = running.effects();
        self.carry_out(place, effects)
    }

    /// Tells the ledger what became durable.
    fn note(&mut self, statement: &Statement, answered: &Answered) -> Result<(), String> {
        let mut ledger = self.ledger.borrow_mut();
        match (statement, answered) {
            (
                Statement::Journal {
                    shard,
                    ask: machine::Ask::Append { bucket, .. },
                    sequence,
                    row: Some((bid, batch)),
                },
                Answered::Journal(machine::Answer::Applied),
            ) if self.keyspace.is_kept(*shard, *bucket) => ledger.appended(*shard, *sequence, *bid, batch, self.now),
            (Statement::Tail { shard }, Answered::Tail { last, .. }) => ledger.check_end(*shard, *last),
            _ => Ok(()),
        }
    }

    /// Of an event that a process cannot take now: until when it waits, or that it is for nobody.
    fn waits(&self, event: &Event) -> Option<(Option<Place>, i64)> {
        let place = match event {
            Event::Answered(place, ..)
            | Event::Wake(place, ..)
            | Event::Confirmed(place, ..)
            | Event::Resend(place, ..) => *place,
            Event::Request(node, _) => Place { node: *node, life: self.processes[*node].life },
            _ => return None,
        };
        let process = &self.processes[place.node];
        if process.node.is_none() || process.life != place.life {
            return Some((None, 0));
        }
        (process.paused_until > self.now).then_some((Some(place), process.paused_until))
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        if self.processes[node].node.is_some() {
            return Ok(());
        }
        let incarnation = u128::from(self.random.bits()) | 1;
        let running = Node::new(&format!("n{node}"), incarnation, &self.setup, self.clocks(node));
        let process = &mut self.processes[node];
        process.life += 1;
        process.paused_until = 0;
        process.node = Some(Box::new(running));
        self.recoveries += 1;
        self.with(node, |node, _| node.start())
    }

    fn kill(&mut self, node: usize, restart_ms: i64) {
        if self.processes[node].node.take().is_some() {
            self.after(restart_ms, Event::Begin(node));
        }
    }

    /// Carries out what a node wants.
    ///
    /// # Errors
    /// It ends, and nothing had happened to it but outages of the database.
    fn carry_out(&mut self, place: Place, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                Effect::Ask(task, token, statement) => self.send(place, task, token, statement),
                Effect::Wake(task, token, after_ms) => {
                    let after_ms = self.processes[place.node].real_ms(after_ms);
                    self.after(after_ms, Event::Wake(place, task, token));
                }
                Effect::Reply(request, answer) => {
                    if !self.is_lost() {
                        let delay = self.delay();
                        self.after(delay, Event::Reply(request, answer));
                    }
                }
                Effect::Produce(sent, entry) => {
                    self.sessions.entry((place.node, place.life, sent.shard, sent.epoch)).or_insert(0);
                    // One connection: what is not lost comes in order.
                    if !self.is_lost() {
                        self.after(PRODUCE_MS, Event::Produce(place, sent, entry));
                    }
                    self.after(RESEND_MS, Event::Resend(place, sent));
                }
                Effect::Stop(why) if self.profile.has_only_outages => {
                    return Err(format!("{place:?} ends, and only the database was away: {why}"));
                }
                Effect::Stop(why) => {
                    self.told.push(format!("{} {place:?} ends: {why}", self.now));
                    let after_ms = self.random.between(100, 2_000);
                    self.kill(place.node, after_ms);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, place: Place, task: Task, token: u64, statement: Statement) {
        let timeout_ms = self.processes[place.node].real_ms(TIMEOUT_MS);
        self.after(timeout_ms, Event::Answered(place, task, token, Answered::Unknown));
        let is_cut_off = self.processes[place.node].cut_off_until > self.now;
        if is_cut_off || self.is_lost() {
            return;
        }
        let is_late = self.is_storm() && self.random.chance(self.profile.late_percent);
        let delay = if is_late { self.random.between(TIMEOUT_MS, 15_000) } else { self.delay() };
        let is_answer_lost = self.is_lost();
        self.after(delay, Event::Statement(place, task, token, statement, is_answer_lost));
    }

    /// An event comes to the broker, which takes those of one sender in their order, without a gap, once.
    fn produced(&mut self, place: Place, sent: Sent, entry: &Entry) -> Result<(), String> {
        if self.broker_down_until > self.now {
            return Ok(());
        }
        let session = (place.node, place.life, sent.shard, sent.epoch);
        let Some(next) = self.sessions.get_mut(&session).filter(|next| entry.nth <= **next) else { return Ok(()) };
        if entry.nth == *next {
            *next += 1;
            self.ledger.borrow_mut().consumer.takes(sent.shard, sent.sequence, entry)?;
        }
        if !self.is_lost() {
            let delay = self.delay();
            self.after(delay, Event::Confirmed(place, sent));
        }
        Ok(())
    }
}
