//! A node: its lease, its shards and what it is to do about them. It answers each event with effects, which the
//! network carries out; everything that decides is the product's: [`Claim`], [`Appender`], [`Ownership`], [`Watcher`],
//! [`plan`] and [`Outbox`].

use std::sync::Arc;
use std::time::Duration;

use super::keyspace::{Answered, NodeRow, Statement};
use super::message::{Effect, Reply, Request, Sent, Task};
use super::owner::{Next, Owner, OwnerNext, Taking};
use crate::ownership::{LeaseRow, LiveNode, Member, OwnerMap, Ownership, Seat, Watcher, plan};

/// Time of a lease.
pub(super) const LEASE_MS: i64 = 6_000;
/// Between two looks at map and nodes.
const WATCH_MS: i64 = 300;
/// Before a statement without an answer is asked again.
const AGAIN_MS: i64 = 50;

/// Tells what a task last asked for from what it asked for before.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Token(u64);

impl Token {
    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    pub(super) fn is(self, token: u64) -> bool {
        self.0 == token
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Looking { asked_ms: i64 },
    Joining,
    Holding,
}

#[derive(Debug)]
enum Manager {
    Idle,
    Map,
    Nodes { asked_ms: i64 },
    Burying { rest: Vec<NodeRow>, dead: NodeRow },
    Seating { shard: u16, seat: Seat },
}

pub(super) enum Role {
    Elsewhere,
    Taking(Taking),
    Owning(Box<Owner>),
}

pub(super) struct Node {
    own: Arc<Member>,
    ownership: Ownership,
    watcher: Watcher,
    lease: Lease,
    lease_token: Token,
    beat: i64,
    sent_ms: i64,
    /// Whether it has had a lease.
    is_member: bool,
    manager: Manager,
    manager_token: Token,
    live: Vec<LiveNode>,
    map: OwnerMap,
    giving: Option<(u16, Arc<Member>)>,
    roles: Vec<Role>,
    shard_tokens: Vec<Token>,
    watermark_tokens: Vec<Token>,
    /// Batches of this life, so that no two have the same id.
    batches: u128,
    out: Vec<Effect>,
}

impl Node {
    pub(super) fn new(name: &str, incarnation: u128, shards: u16) -> Self {
        let own = Arc::new(Member { name: name.into(), incarnation, address: name.into() });
        let count = usize::from(shards);
        Self {
            ownership: Ownership::of(incarnation, shards),
            own,
            watcher: Watcher::default(),
            lease: Lease::Holding,
            lease_token: Token::default(),
            beat: 0,
            sent_ms: 0,
            is_member: false,
            manager: Manager::Idle,
            manager_token: Token::default(),
            live: Vec::new(),
            map: OwnerMap::unknown(shards),
            giving: None,
            roles: (0..shards).map(|_| Role::Elsewhere).collect(),
            shard_tokens: vec![Token::default(); count],
            watermark_tokens: vec![Token::default(); count],
            batches: incarnation << 64,
            out: Vec::new(),
        }
    }

    pub(super) fn incarnation(&self) -> u128 {
        self.own.incarnation
    }

    pub(super) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    fn stop(&mut self, why: impl Into<String>) {
        self.out.push(Effect::Stop(why.into()));
    }

    fn ask(&mut self, task: Task, statement: Statement) {
        let token = self.token(task).next();
        self.out.push(Effect::Ask(task, token, statement));
    }

    fn wake(&mut self, task: Task, after_ms: i64) {
        let token = self.token(task).next();
        self.out.push(Effect::Wake(task, token, after_ms));
    }

    fn token(&mut self, task: Task) -> &mut Token {
        match task {
            Task::Lease => &mut self.lease_token,
            Task::Manager => &mut self.manager_token,
            Task::Shard(shard) => &mut self.shard_tokens[usize::from(shard)],
            Task::Watermark(shard) => &mut self.watermark_tokens[usize::from(shard)],
        }
    }

    /// Begins by looking whether its name is free.
    pub(super) fn begin(&mut self, boot_ms: i64) {
        self.lease = Lease::Looking { asked_ms: boot_ms };
        self.ask(Task::Lease, Statement::Node { name: self.own.name.clone() });
    }

    /// Time has come for a task.
    pub(super) fn woken(&mut self, task: Task, token: u64, boot_ms: i64) {
        if !self.token(task).is(token) {
            return;
        }
        match task {
            Task::Lease if self.lease == Lease::Holding => self.renew(boot_ms),
            Task::Lease => self.begin(boot_ms),
            Task::Manager => {
                self.manager = Manager::Map;
                self.ask(Task::Manager, Statement::Map);
            }
            Task::Shard(shard) => self.shard_woken(shard),
            Task::Watermark(shard) => self.save_watermark(shard),
        }
    }

    /// An answer has come, or none in time.
    pub(super) fn answered(&mut self, task: Task, token: u64, answered: Answered, boot_ms: i64) -> Result<(), String> {
        if !self.token(task).is(token) {
            return Ok(());
        }
        match task {
            Task::Lease => self.lease_answered(answered, boot_ms),
            Task::Manager => self.manager_answered(answered, boot_ms),
            Task::Shard(shard) => return self.shard_answered(shard, answered),
            Task::Watermark(shard) => self.wake(Task::Watermark(shard), 500),
        }
        Ok(())
    }

    fn renew(&mut self, boot_ms: i64) {
        self.beat += 1;
        self.sent_ms = boot_ms;
        let (name, holder) = (self.own.name.clone(), self.own.incarnation);
        self.ask(Task::Lease, Statement::Renew { name, holder, beat: self.beat });
    }

    fn lease_answered(&mut self, answered: Answered, boot_ms: i64) {
        match (self.lease, answered) {
            (Lease::Looking { asked_ms }, Answered::Nodes(rows)) => {
                let replaced = rows.first().map(|row| row.lease);
                match replaced {
                    Some(lease) if lease.holder == self.own.incarnation => {
                        (self.lease, self.beat) = (Lease::Holding, lease.beat);
                        self.renew(boot_ms);
                    }
                    Some(lease) if !self.watcher.is_dead(&self.own.name, lease, asked_ms, boot_ms) => {
                        self.wake(Task::Lease, LEASE_MS / 20);
                    }
                    _ => {
                        (self.lease, self.sent_ms, self.beat) =
                            (Lease::Joining, boot_ms, replaced.map_or(1, |r| r.beat + 1));
                        let lease = LeaseRow { holder: self.own.incarnation, beat: self.beat, lease_ms: LEASE_MS };
                        let row = NodeRow { member: Arc::clone(&self.own), lease, draining: false };
                        self.ask(Task::Lease, Statement::Join { row, replaced });
                    }
                }
            }
            (Lease::Joining | Lease::Holding, Answered::Changed(true)) => {
                self.ownership.renewed(self.sent_ms, Duration::from_millis(LEASE_MS as u64));
                self.lease = Lease::Holding;
                if !std::mem::replace(&mut self.is_member, true) {
                    self.wake(Task::Manager, 0);
                }
                self.wake(Task::Lease, LEASE_MS / 6);
            }
            (Lease::Holding, Answered::Changed(false)) => self.stop("another has its name, or it was buried"),
            _ => self.wake(Task::Lease, AGAIN_MS),
        }
    }

    fn look_again(&mut self) {
        self.manager = Manager::Idle;
        self.wake(Task::Manager, AGAIN_MS);
    }

    fn manager_answered(&mut self, answered: Answered, boot_ms: i64) {
        match (std::mem::replace(&mut self.manager, Manager::Idle), answered) {
            (Manager::Map, Answered::Map(map)) => {
                self.map = map;
                self.ownership.learn(self.map.clone());
                self.manager = Manager::Nodes { asked_ms: boot_ms };
                self.ask(Task::Manager, Statement::Nodes);
            }
            (Manager::Nodes { asked_ms }, Answered::Nodes(rows)) => self.nodes(rows, asked_ms, boot_ms),
            (Manager::Burying { rest, dead }, Answered::Changed(true)) => {
                self.live.retain(|node| node.member != dead.member);
                self.bury_next(rest);
            }
            (Manager::Burying { rest, .. }, _) => self.bury_next(rest),
            (Manager::Seating { shard, seat }, Answered::Changed(true)) => {
                self.map.version += 1;
                self.map.seats[usize::from(shard)] = Some(seat);
                self.ownership.learn(self.map.clone());
                self.act();
            }
            _ => self.look_again(),
        }
    }

    fn nodes(&mut self, rows: Vec<NodeRow>, asked_ms: i64, came_ms: i64) {
        self.live.clear();
        let mut dead = Vec::new();
        for row in rows {
            let is_own = row.member.incarnation == self.own.incarnation;
            if !is_own && self.watcher.is_dead(&row.member.name, row.lease, asked_ms, came_ms) {
                dead.push(row.clone());
            }
            self.live.push(LiveNode { member: row.member, draining: row.draining });
        }
        self.bury_next(dead);
    }

    fn bury_next(&mut self, mut rest: Vec<NodeRow>) {
        match rest.pop() {
            None => self.act(),
            Some(dead) => {
                self.ask(Task::Manager, Statement::Bury { name: dead.member.name.clone(), lease: dead.lease });
                self.manager = Manager::Burying { rest, dead };
            }
        }
    }

    fn seat(&mut self, shard: u16, seat: Seat) {
        let version = self.map.version;
        self.ask(Task::Manager, Statement::Seat { version, shard, seat: Some(seat.clone()) });
        self.manager = Manager::Seating { shard, seat };
    }

    /// Does the next thing that the map and the living nodes ask for.
    fn act(&mut self) {
        let own = self.own.incarnation;
        if let Some(shard) = self.follow_map() {
            return self.stop(format!("another node owns shard {shard}"));
        }
        if let Some((shard, to)) = self.giving.clone() {
            let is_alive = self.live.iter().any(|node| node.member == to && !node.draining);
            match &mut self.roles[usize::from(shard)] {
                Role::Owning(owner) if !is_alive => {
                    // What asked for the change may still be under way: the next change of the map ends that.
                    owner.draining = false;
                    self.giving = None;
                }
                Role::Owning(owner) if owner.is_quiet() => return self.seat(shard, Seat { member: to, epoch: 0 }),
                _ => return self.wake(Task::Manager, AGAIN_MS),
            }
        }
        let begun = self.roles.iter().enumerate().find_map(|(shard, role)| match role {
            Role::Owning(owner) => {
                let seat = self.map.seats[shard].as_ref().filter(|seat| seat.epoch != owner.epoch())?;
                Some((shard as u16, Seat { epoch: owner.epoch(), ..seat.clone() }))
            }
            _ => None,
        });
        if let Some((shard, seat)) = begun {
            return self.seat(shard, seat);
        }
        let next = plan(&self.map, &self.live, own);
        if let Some(shard) = next.take.first() {
            return self.seat(*shard, Seat { member: Arc::clone(&self.own), epoch: 0 });
        }
        if let Some((shard, to)) = next.give
            && let Role::Owning(owner) = &mut self.roles[usize::from(shard)]
        {
            owner.draining = true;
            self.giving = Some((shard, to));
        }
        self.wake(Task::Manager, WATCH_MS);
    }

    /// Begins what the map gives to this node and drops what it gave away; a shard that it lost otherwise.
    fn follow_map(&mut self) -> Option<u16> {
        for shard in 0..self.roles.len() as u16 {
            let is_own = self.map.is_owner(shard, self.own.incarnation);
            let is_given = self.giving.as_ref().is_some_and(|(given, _)| *given == shard);
            match &self.roles[usize::from(shard)] {
                Role::Elsewhere if is_own => {
                    self.roles[usize::from(shard)] = Role::Taking(Taking::new());
                    self.ask(Task::Shard(shard), Statement::Hint { shard });
                }
                Role::Owning(_) if !is_own && is_given => {
                    self.roles[usize::from(shard)] = Role::Elsewhere;
                    // What is under way for it has no one to come back to.
                    self.shard_tokens[usize::from(shard)].next();
                    self.watermark_tokens[usize::from(shard)].next();
                    self.giving = None;
                }
                Role::Taking(_) | Role::Owning(_) if !is_own => return Some(shard),
                _ => {}
            }
        }
        None
    }

    /// A client asks.
    pub(super) fn requested(&mut self, request: Request, boot_ms: i64) {
        let shard = usize::from(request.shard);
        let may_decide = self.ownership.may_decide(request.shard, boot_ms);
        match &mut self.roles[shard] {
            Role::Owning(owner) if may_decide && !owner.draining => {
                owner.decide(request);
                self.out.extend(owner.released());
                self.append_next(request.shard);
            }
            _ => self.out.push(Effect::Reply(request, Reply::Refused)),
        }
    }

    fn append_next(&mut self, shard: u16) {
        let Role::Owning(owner) = &mut self.roles[usize::from(shard)] else { return };
        if let Some(statement) = owner.begin_batch(shard, &mut self.batches) {
            self.ask(Task::Shard(shard), statement);
        }
    }

    fn shard_woken(&mut self, shard: u16) {
        match &self.roles[usize::from(shard)] {
            Role::Elsewhere => {}
            Role::Taking(taking) => {
                let statement = taking.statement(shard);
                self.ask(Task::Shard(shard), statement);
            }
            Role::Owning(owner) => {
                if let Some(statement) = owner.statement(shard) {
                    self.ask(Task::Shard(shard), statement);
                }
            }
        }
    }

    fn shard_answered(&mut self, shard: u16, answered: Answered) -> Result<(), String> {
        match &mut self.roles[usize::from(shard)] {
            Role::Elsewhere => {}
            Role::Taking(taking) => match taking.answered(answered)? {
                Next::Ask => self.shard_woken(shard),
                Next::Pause => self.wake(Task::Shard(shard), AGAIN_MS),
                Next::Taken(owner) => {
                    self.roles[usize::from(shard)] = Role::Owning(owner);
                    self.ownership.set_unresolved(shard, false);
                    self.send_events(shard);
                    self.wake(Task::Watermark(shard), 500);
                }
            },
            Role::Owning(owner) => {
                let next = owner.answered(answered)?;
                self.ownership.set_unresolved(shard, next == OwnerNext::Pause);
                match next {
                    OwnerNext::Ask => self.shard_woken(shard),
                    OwnerNext::Pause => self.wake(Task::Shard(shard), AGAIN_MS),
                    OwnerNext::Deposed => self.stop(format!("another node writes shard {shard}")),
                    OwnerNext::Durable => {
                        self.out.extend(owner.released());
                        self.send_events(shard);
                        self.append_next(shard);
                    }
                }
            }
        }
        Ok(())
    }

    fn send_events(&mut self, shard: u16) {
        let Role::Owning(owner) = &mut self.roles[usize::from(shard)] else { return };
        let epoch = owner.epoch();
        for (sequence, entry) in owner.take_unsent() {
            self.out.push(Effect::Produce(Sent { shard, epoch, sequence }, entry));
        }
    }

    fn sender(&mut self, sent: Sent) -> Option<&mut Owner> {
        match &mut self.roles[usize::from(sent.shard)] {
            Role::Owning(owner) if owner.epoch() == sent.epoch => Some(owner),
            _ => None,
        }
    }

    /// The broker has an event.
    pub(super) fn confirmed(&mut self, sent: Sent) {
        if let Some(owner) = self.sender(sent) {
            owner.outbox.confirmed(0, sent.sequence);
            self.send_events(sent.shard);
        }
    }

    /// An event that was sent may have no confirmation in time: when it is the oldest, all that wait are sent again, in
    /// order.
    pub(super) fn unconfirmed(&mut self, sent: Sent) {
        let Some(owner) = self.sender(sent).filter(|owner| owner.outbox.waiting_of(0).next() == Some(sent.sequence))
        else {
            return;
        };
        let waiting = owner.outbox.waiting_of(0).filter_map(|sequence| Some((sequence, owner.entry(sequence)?)));
        let again: Vec<_> = waiting.collect();
        self.out.extend(again.into_iter().map(|(sequence, entry)| Effect::Produce(Sent { sequence, ..sent }, entry)));
    }

    fn save_watermark(&mut self, shard: u16) {
        if let Role::Owning(owner) = &self.roles[usize::from(shard)] {
            let up_to = owner.outbox.published().next().unwrap_or(0);
            self.ask(Task::Watermark(shard), Statement::Published { shard, up_to });
        }
    }

    /// Whether it has the shard, by what it knows.
    pub(super) fn has(&self, shard: u16) -> bool {
        matches!(self.roles[usize::from(shard)], Role::Owning(_))
    }
}
