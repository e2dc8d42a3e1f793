//! A node: its lease, its shards and what it is to do about them. It answers each event with effects, which the
//! network carries out; everything that decides is the product's: [`Ownership`], [`Watcher`], [`plan`], and what its
//! shards and tasks are made of.

mod manager;
mod shards;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meed_schemas::ids::Position;
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use manager::Manager;

use super::AGAIN_MS;
use super::begin::Begun;
use super::desk::{Desk, Setup};
use super::keyspace::{Answered, NodeRow, Statement};
use super::message::{Effect, Request, Task};
use super::owner::Owner;
use super::{state, upkeep};
use crate::clock::Clock;
use crate::ownership::{LOOKS_PER_LEASE, LeaseRow, LiveNode, Member, OwnerMap, Ownership, RENEWALS_PER_LEASE, Watcher};
use crate::shard::{Input, Purpose};

/// Time of a lease.
pub(super) const LEASE_MS: i64 = 6_000;
/// Between two looks at map and nodes.
const WATCH_MS: i64 = 300;
/// Between two ticks of the shards.
const TICK_MS: i64 = 250;
/// Between two times that it is saved how far the stream is.
const WATERMARK_MS: i64 = 500;

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

/// What the clocks of a node show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) boot_ms: i64,
    pub(super) wall_ms: Millis,
}

enum Role {
    Elsewhere,
    /// It is being taken; these wait for it.
    Coming(Vec<Request>),
    Owning(Box<Owner>),
}

/// What a task of a node has come to.
enum Came {
    Begun(u16, Result<Option<Box<Begun>>, String>),
    Read {
        shard: u16,
        epoch: i64,
        position: Position,
        purpose: Purpose,
        record: Result<Option<Box<Record>>, String>,
    },
    /// One that never ends has.
    Ended(Result<(), String>),
}

type Job = Pin<Box<dyn Future<Output = Came>>>;

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
    tick_token: Token,
    /// Batches of this life, so that no two have the same id.
    batches: u128,
    desk: Rc<Desk>,
    jobs: Vec<Job>,
    clock: Clock,
    began_ms: i64,
    now: Now,
    out: Vec<Effect>,
}

impl Node {
    pub(super) fn new(name: &str, incarnation: u128, setup: &Rc<Setup>, now: Now) -> Self {
        let shards = setup.shards;
        let desk = Desk::new(setup);
        let keep = state::keep(Rc::clone(&desk));
        let keep: Job = Box::pin(async move { Came::Ended(keep.await) });
        let trim = upkeep::trim(Rc::clone(&desk));
        let trim = Box::pin(async move { Came::Ended(trim.await) });
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
            tick_token: Token::default(),
            batches: incarnation << 64,
            jobs: vec![keep, trim],
            desk,
            clock: Clock::new(now.wall_ms, now.boot_ms, i64::MAX / 4),
            began_ms: now.boot_ms,
            now,
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
            Task::Tick | Task::Line => &mut self.tick_token,
        }
    }

    /// The process has begun.
    ///
    /// # Errors
    /// As [`Node::answered`].
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.begin();
        self.wake(Task::Tick, TICK_MS);
        self.run()
    }

    /// Begins by looking whether its name is free.
    fn begin(&mut self) {
        self.lease = Lease::Looking { asked_ms: self.now.boot_ms };
        self.ask(Task::Lease, Statement::Node { name: self.own.name.clone() });
    }

    /// Time has come for a task.
    ///
    /// # Errors
    /// As [`Node::answered`].
    pub(super) fn woken(&mut self, task: Task, token: u64, now: Now) -> Result<(), String> {
        self.now = now;
        if task == Task::Line {
            self.desk.came(token, Answered::Unknown);
            return self.run();
        }
        if !self.token(task).is(token) {
            return Ok(());
        }
        match task {
            Task::Lease if self.lease == Lease::Holding => self.renew(),
            Task::Lease => self.begin(),
            Task::Manager => {
                self.manager = Manager::Map;
                self.ask(Task::Manager, Statement::Map);
            }
            Task::Shard(shard) => self.append_again(shard),
            Task::Watermark(shard) => self.save_watermark(shard),
            Task::Tick | Task::Line => {
                (0..self.desk.setup.shards).try_for_each(|shard| self.turn(shard, Input::Tick))?;
                self.wake(Task::Tick, TICK_MS);
            }
        }
        self.run()
    }

    /// An answer has come, or none in time.
    ///
    /// # Errors
    /// Something that no fault of this world explains.
    pub(super) fn answered(&mut self, task: Task, token: u64, answered: Answered, now: Now) -> Result<(), String> {
        self.now = now;
        if task == Task::Line {
            self.desk.came(token, answered);
            return self.run();
        }
        if !self.token(task).is(token) {
            return Ok(());
        }
        match task {
            Task::Lease => self.lease_answered(answered),
            Task::Manager => self.manager_answered(answered)?,
            Task::Shard(shard) => self.appended(shard, answered)?,
            Task::Watermark(shard) => self.wake(Task::Watermark(shard), WATERMARK_MS),
            Task::Tick | Task::Line => {}
        }
        self.run()
    }

    /// A client asks.
    ///
    /// # Errors
    /// As [`Node::answered`].
    pub(super) fn asked(&mut self, request: Request, now: Now) -> Result<(), String> {
        self.now = now;
        self.requested(request)?;
        self.run()
    }

    fn renew(&mut self) {
        self.beat += 1;
        self.sent_ms = self.now.boot_ms;
        let (name, holder) = (self.own.name.clone(), self.own.incarnation);
        self.ask(Task::Lease, Statement::Renew { name, holder, beat: self.beat });
    }

    fn lease_answered(&mut self, answered: Answered) {
        let boot_ms = self.now.boot_ms;
        match (self.lease, answered) {
            (Lease::Looking { asked_ms }, Answered::Nodes(rows)) => {
                let replaced = rows.first().map(|row| row.lease);
                self.watcher.look(asked_ms, boot_ms);
                match replaced {
                    Some(lease) if lease.holder == self.own.incarnation => {
                        (self.lease, self.beat) = (Lease::Holding, lease.beat);
                        self.renew();
                    }
                    Some(lease) if !self.watcher.is_dead(&self.own.name, lease) => {
                        self.wake(Task::Lease, LEASE_MS / i64::from(LOOKS_PER_LEASE));
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
                self.wake(Task::Lease, LEASE_MS / i64::from(RENEWALS_PER_LEASE));
            }
            (Lease::Holding, Answered::Changed(false)) => self.stop("another has its name, or it was buried"),
            _ => self.wake(Task::Lease, AGAIN_MS),
        }
    }

    /// Whether it has the shard, by what it knows.
    pub(super) fn has(&self, shard: u16) -> bool {
        matches!(self.roles[usize::from(shard)], Role::Owning(_))
    }

    /// The owner of a shard that is here.
    pub(super) fn owner_of(&self, shard: u16) -> Option<&Owner> {
        match &self.roles[usize::from(shard)] {
            Role::Owning(owner) => Some(owner),
            _ => None,
        }
    }
}
