//! The world of one seed: nodes, clients, network, clocks, broker, and what breaks.

use std::collections::BTreeMap;

use super::auditor::Auditor;
use super::keyspace::{Answered, Entry, Keyspace, Statement};
use super::message::{Effect, Reply, Request, Sent, Task, What};
use super::node::{LEASE_MS, Node};
use crate::random::{Random, mix};

/// A statement without an answer within this has an unknown outcome.
const TIMEOUT_MS: i64 = 800;
/// A client gives a try up after this.
const PATIENCE_MS: i64 = 2_500;
/// An event without a confirmation within this is sent again.
const RESEND_MS: i64 = 1_000;
/// Things break until then.
const STORM_MS: i64 = 40_000;
/// Once nothing breaks any more, everything is in order after this.
const CALM_MS: i64 = 60_000;
/// From a sender to the broker.
const PRODUCE_MS: i64 = 4;
const ACCOUNTS: u64 = 3;

/// What of a world its seed says.
#[derive(Debug)]
struct Profile {
    nodes: usize,
    shards: u16,
    clients: usize,
    /// Percent of statements, requests and answers that are lost.
    lost: u64,
    /// Percent of statements whose effect comes after their time-out.
    late: u64,
    /// Milliseconds between two things that break.
    pace_ms: i64,
    /// Of a thousand answers to an owner, before how many it falls asleep for longer than its lease.
    naps: usize,
    /// Milliseconds between two times that old buckets are cleared away.
    trim_ms: i64,
}

struct Process {
    node: Node,
    /// Counts its starts.
    life: u32,
    alive: bool,
    /// Stopped until then; what reaches it meanwhile waits.
    paused_until: i64,
    /// The database does not hear it until then.
    cut_off_until: i64,
    /// Of its clock, in thousandths.
    drift: i64,
    offset_ms: i64,
}

impl Process {
    fn boot_ms(&self, now: i64) -> i64 {
        self.offset_ms + now + now * self.drift / 1_000
    }

    /// How long something takes that lasts so long by its clock.
    fn real_ms(&self, boot_ms: i64) -> i64 {
        boot_ms * 1_000 / (1_000 + self.drift)
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
    Reply(Request, Reply),
    Client(usize),
    GiveUp(usize, u64),
    Produce(Place, Sent, Entry),
    Confirmed(Place, Sent),
    Resend(Place, Sent),
    Break,
    Trim,
}

/// A client: one operation at a time, tried until it has an answer.
#[derive(Debug, Clone, Copy)]
struct Client {
    what: Option<(u16, What)>,
    number: u64,
    shown_before: u64,
}

pub(super) struct World {
    random: Random,
    profile: Profile,
    now: i64,
    order: u64,
    events: BTreeMap<(i64, u64), Event>,
    keyspace: Keyspace,
    processes: Vec<Process>,
    clients: Vec<Client>,
    next_key: u64,
    auditor: Auditor,
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
        let profile = Profile {
            nodes: *random.pick(&[2, 3, 3, 4]),
            shards: *random.pick(&[1, 2, 4]),
            clients: *random.pick(&[2, 4, 6]),
            lost: *random.pick(&[0, 1, 4, 10]),
            late: *random.pick(&[0, 1, 4]),
            pace_ms: *random.pick(&[700, 2_000, 5_000]),
            naps: *random.pick(&[0, 0, 4]),
            trim_ms: *random.pick(&[300, 2_000, 20_000]),
        };
        let processes = (0..profile.nodes).map(|index| Process {
            node: Node::new("", 0, 0),
            life: 0,
            alive: false,
            paused_until: 0,
            cut_off_until: 0,
            // The lease's margin is a sixth, which two clocks share.
            drift: random.between(-50, 50),
            offset_ms: 1_000_000 * (index as i64 + 1),
        });
        let processes = processes.collect();
        let mut world = Self {
            keyspace: Keyspace::new(profile.shards),
            clients: vec![Client { what: None, number: 0, shown_before: 0 }; profile.clients],
            processes,
            profile,
            random,
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            next_key: 1,
            auditor: Auditor::default(),
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
        world.after(1_000, Event::Trim);
        world
    }

    fn after(&mut self, time_ms: i64, event: Event) {
        self.order += 1;
        self.events.insert((self.now + time_ms.max(0), self.order), event);
    }

    fn is_storm(&self) -> bool {
        self.now < STORM_MS
    }

    fn is_lost(&mut self) -> bool {
        self.is_storm() && self.random.chance(self.profile.lost)
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
        if let Some(client) = self.clients.iter().find(|client| client.what.is_some()) {
            return Err(format!("nothing breaks for a minute, and {client:?} has no answer"));
        }
        let map = self.keyspace.map();
        let alive = |member: u128| self.processes.iter().any(|process| process.node.incarnation() == member);
        if let Some(shard) =
            (0..self.profile.shards).find(|shard| !map.owner(*shard).is_some_and(|m| alive(m.incarnation)))
        {
            return Err(format!("nothing breaks for a minute, and nobody owns shard {shard}: {map:?}"));
        }
        self.auditor.check(&self.keyspace, self.profile.shards)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        self.fingerprint = mix(self.fingerprint ^ self.now as u64 ^ self.order << 32);
        if let Event::Answered(place, Task::Shard(_), _, Answered::Journal(_)) = &event
            && self.is_storm()
            && self.random.below(1_000) < self.profile.naps
        {
            self.processes[place.node].paused_until = self.now + self.random.between(LEASE_MS, 2 * LEASE_MS);
        }
        if let Some((place, at)) = self.waits(&event) {
            if place.is_some() {
                self.order += 1;
                self.events.insert((at, self.order), event);
            }
            return Ok(());
        }
        match event {
            Event::Begin(node) => self.start(node),
            Event::Statement(place, task, token, statement, is_answer_lost) => {
                let stale = self.random.chance(10);
                let answered = self.keyspace.carry_out(&statement, stale);
                if !is_answer_lost {
                    let delay = self.delay();
                    self.after(delay, Event::Answered(place, task, token, answered));
                }
            }
            Event::Answered(place, task, token, answered) => {
                let boot_ms = self.processes[place.node].boot_ms(self.now);
                self.processes[place.node].node.answered(task, token, answered, boot_ms)?;
                self.carry_out(place);
            }
            Event::Wake(place, task, token) => {
                let boot_ms = self.processes[place.node].boot_ms(self.now);
                self.processes[place.node].node.woken(task, token, boot_ms);
                self.carry_out(place);
            }
            Event::Request(node, request) => {
                let process = &mut self.processes[node];
                let boot_ms = process.boot_ms(self.now);
                process.node.requested(request, boot_ms);
                let life = process.life;
                self.carry_out(Place { node, life });
            }
            Event::Reply(request, reply) => self.replied(request, reply)?,
            Event::Client(client) => self.ask(client),
            Event::GiveUp(client, number) if self.clients[client].number == number => self.ask_again(client),
            Event::GiveUp(..) => {}
            Event::Produce(place, sent, entry) => self.produced(place, sent, entry)?,
            Event::Confirmed(place, sent) => {
                self.processes[place.node].node.confirmed(sent);
                self.carry_out(place);
            }
            Event::Resend(place, sent) => {
                self.processes[place.node].node.unconfirmed(sent);
                self.carry_out(place);
            }
            Event::Break => self.break_something(),
            Event::Trim => self.trim(),
        }
        Ok(())
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
        if !process.alive || process.life != place.life {
            return Some((None, 0));
        }
        (process.paused_until > self.now).then_some((Some(place), process.paused_until))
    }

    fn start(&mut self, node: usize) {
        if self.processes[node].alive {
            return;
        }
        let incarnation = u128::from(self.random.bits()) | 1;
        let now = self.now;
        let process = &mut self.processes[node];
        process.life += 1;
        process.alive = true;
        process.paused_until = 0;
        process.node = Node::new(&format!("n{node}"), incarnation, self.profile.shards);
        process.node.begin(process.boot_ms(now));
        let life = process.life;
        self.recoveries += 1;
        self.carry_out(Place { node, life });
    }

    fn kill(&mut self, node: usize, restart_ms: i64) {
        if std::mem::take(&mut self.processes[node].alive) {
            self.after(restart_ms, Event::Begin(node));
        }
    }

    fn carry_out(&mut self, place: Place) {
        for effect in self.processes[place.node].node.effects() {
            match effect {
                Effect::Ask(task, token, statement) => self.send(place, task, token, statement),
                Effect::Wake(task, token, after_ms) => {
                    let after_ms = self.processes[place.node].real_ms(after_ms);
                    self.after(after_ms, Event::Wake(place, task, token));
                }
                Effect::Reply(request, reply) => {
                    if !self.is_lost() {
                        let delay = self.delay();
                        self.after(delay, Event::Reply(request, reply));
                    }
                }
                Effect::Produce(sent, entry) => {
                    self.sessions.entry((place.node, place.life, sent.shard, sent.epoch)).or_insert(sent.sequence);
                    // One connection: what is not lost comes in order.
                    if !self.is_lost() {
                        self.after(PRODUCE_MS, Event::Produce(place, sent, entry));
                    }
                    self.after(RESEND_MS, Event::Resend(place, sent));
                }
                Effect::Stop(why) => {
                    self.told.push(format!("{} {place:?} ends: {why}", self.now));
                    let after_ms = self.random.between(100, 2_000);
                    self.kill(place.node, after_ms);
                }
            }
        }
    }

    fn send(&mut self, place: Place, task: Task, token: u64, statement: Statement) {
        let timeout_ms = self.processes[place.node].real_ms(TIMEOUT_MS);
        self.after(timeout_ms, Event::Answered(place, task, token, Answered::Unknown));
        let is_cut_off = self.processes[place.node].cut_off_until > self.now;
        if is_cut_off || self.is_lost() {
            return;
        }
        let is_late = self.is_storm() && self.random.chance(self.profile.late);
        let delay = if is_late { self.random.between(TIMEOUT_MS, 15_000) } else { self.delay() };
        let is_answer_lost = self.is_lost();
        self.after(delay, Event::Statement(place, task, token, statement, is_answer_lost));
    }

    fn ask(&mut self, client: usize) {
        // It stops when the storm is over.
        if !self.is_storm() {
            return;
        }
        let shard = self.random.below(usize::from(self.profile.shards)) as u16;
        let what = if self.random.chance(30) {
            What::Read
        } else {
            self.next_key += 1;
            What::Write { key: self.next_key, account: self.random.bits() % ACCOUNTS }
        };
        self.clients[client].what = Some((shard, what));
        self.ask_again(client);
    }

    /// Sends what a client wants, under the same key as before.
    fn ask_again(&mut self, client: usize) {
        let Some((shard, what)) = self.clients[client].what else { return };
        self.next_key += 1;
        let number = self.next_key;
        self.clients[client].number = number;
        self.clients[client].shown_before = self.auditor.shown(shard);
        let request = Request { client, number, shard, what };
        let owns = |process: &Process| process.alive && process.node.has(shard);
        let owners: Vec<usize> = (0..self.processes.len()).filter(|node| owns(&self.processes[*node])).collect();
        let node = match owners.is_empty() || self.random.chance(10) {
            true => self.random.below(self.processes.len()),
            false => *self.random.pick(&owners),
        };
        if !self.is_lost() {
            // Some come when the client has long asked somebody else.
            let is_late = self.is_storm() && self.random.chance(self.profile.late);
            let delay = if is_late { self.random.between(1_000, 10_000) } else { self.delay() };
            self.after(delay, Event::Request(node, request));
        }
        self.after(PATIENCE_MS, Event::GiveUp(client, number));
    }

    fn replied(&mut self, request: Request, reply: Reply) -> Result<(), String> {
        let client = self.clients[request.client];
        if client.number != request.number {
            // Nobody waits for it any more; what it says must be right all the same, but a read of long ago is old.
            if matches!(request.what, What::Write { .. }) {
                self.auditor.replied(request, reply, 0, &self.keyspace)?;
            }
            return Ok(());
        }
        self.auditor.replied(request, reply, client.shown_before, &self.keyspace)?;
        self.clients[request.client].number = 0;
        if reply == Reply::Refused {
            let (client, number) = (request.client, self.next_key + 1);
            self.next_key += 1;
            self.clients[client].number = number;
            let pause = self.random.between(20, 200);
            self.after(pause, Event::GiveUp(client, number));
        } else {
            self.clients[request.client].what = None;
            let pause = self.random.between(1, 60);
            self.after(pause, Event::Client(request.client));
        }
        Ok(())
    }

    /// An event comes to the broker, which takes those of one sender in their order, without a gap, once.
    fn produced(&mut self, place: Place, sent: Sent, entry: Entry) -> Result<(), String> {
        if self.broker_down_until > self.now {
            return Ok(());
        }
        let session = (place.node, place.life, sent.shard, sent.epoch);
        let Some(next) = self.sessions.get_mut(&session).filter(|next| sent.sequence <= **next) else { return Ok(()) };
        if sent.sequence == *next {
            *next += 1;
            self.auditor.consumer.takes(sent.shard, sent.sequence, entry)?;
        }
        if !self.is_lost() {
            let delay = self.delay();
            self.after(delay, Event::Confirmed(place, sent));
        }
        Ok(())
    }

    fn trim(&mut self) {
        (0..self.profile.shards).for_each(|shard| self.keyspace.trim(shard));
        if self.is_storm() {
            self.after(self.profile.trim_ms, Event::Trim);
        }
    }

    fn break_something(&mut self) {
        if !self.is_storm() {
            // Everything works again.
            self.broker_down_until = 0;
            for node in 0..self.processes.len() {
                self.keyspace.drain(&format!("n{node}"), false);
                self.processes[node].cut_off_until = 0;
                self.processes[node].paused_until = self.processes[node].paused_until.min(self.now);
                self.after(10, Event::Begin(node));
            }
            return;
        }
        let node = self.random.below(self.processes.len());
        let until = self.now + self.random.between(200, 14_000);
        match self.random.below(6) {
            0 => {
                let restart_ms = self.random.between(50, 9_000);
                self.kill(node, restart_ms);
            }
            1 | 2 => self.processes[node].paused_until = until,
            3 => self.processes[node].cut_off_until = until,
            4 => self.broker_down_until = until,
            _ => {
                let draining = self.random.chance(50);
                self.keyspace.drain(&format!("n{node}"), draining);
            }
        }
        let pace = self.random.between(1, 2 * self.profile.pace_ms).min(STORM_MS - self.now);
        self.after(pace.max(1), Event::Break);
    }
}
