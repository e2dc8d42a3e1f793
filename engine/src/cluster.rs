//! The shards of a node among several: it takes its share, begins shards and gives them away while it runs, and tells
//! the other nodes of programs.
//!
//! One thread looks at the map of owners and at the nodes' leases and does what [`plan`] says. A change of the map is
//! one conditional write that names the version that it was made from. A shard is given away in this order: its actor
//! lets commands wait and ends what is under way, the map names the new owner, the commands that waited are told. The
//! new owner claims the epochs of the shard's journal, replays what its last checkpoint lacks, and begins. Whatever
//! goes wrong between, the map says who is to begin, and the epochs say who may write.

mod announce;
mod begin;
mod give;
mod view;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::boot_ms;
use crate::committer::CqlCommitter;
use crate::durable::Cluster;
use crate::error::{Error, Result};
use crate::journal::Records;
use crate::journal::cql::{Changed, CqlConfig, Extents, Registry, Statements};
use crate::metrics::ClusterMetrics;
use crate::node::{ClusterHooks, Node};
use crate::ownership::{LOOKS_PER_LEASE, LiveNode, Member, OwnerMap, Ownership, Seat, Watcher, plan};
use crate::shard::{Input, Tenure};
use crate::store::Store;

/// Pace of looks at the version of the map.
const MAP_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Pace of looks at a shard that is to go.
const GIVING_LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Shards that are claimed and recovered at the same time.
const BEGINS_AT_ONCE: usize = 4;
/// Time between two looks whether a node has given all its shards away.
const LEAVE_POLL: Duration = Duration::from_millis(10);

/// What beginning a shard takes.
struct Parts {
    node: Arc<Node>,
    cql: Arc<crate::journal::cql::Cql>,
    config: CqlConfig,
    registry: Arc<Registry>,
    ownership: Arc<Ownership>,
    statements: Arc<Statements>,
    extents: Arc<Extents>,
    /// For recovery alone; the node's own is on its own thread.
    store: Store,
    reader: Records,
    committer: CqlCommitter,
    /// Of the hashes of accounts.
    seed: u64,
    announcer: Announcer,
}

impl Parts {
    fn tell(&self, shard: u16, tenure: Tenure) {
        self.node.send(shard, Input::Tenure(Box::new(tenure)));
    }

    /// Lets a shard checkpoint what it has, while it goes on.
    fn checkpoint(&self, shard: u16) {
        self.node.send(shard, Input::CheckpointAll);
    }
}

/// What happens to the manager of a node's shards.
#[derive(Debug)]
enum Event {
    /// There may be something new.
    Look,
    /// Nothing of this shard, which is to go, is under way any more.
    Quiet(u16),
    /// This shard was claimed under this epoch and has begun.
    Begun(u16, i64),
    /// All shards are to go.
    Leave,
    /// Nothing is to change any more.
    Stop,
}

/// Hands events over before the manager runs. What waits here is at most one look per version of the map, and two
/// events per shard.
pub struct Events(Sender<Event>, Receiver<Event>);

impl Default for Events {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self(sender, receiver)
    }
}

impl Events {
    /// What the node tells the manager, and the announcer's queue.
    pub fn hooks(&self, announcer: &Announcer) -> ClusterHooks {
        let (quiet, announcer) = (self.0.clone(), announcer.clone());
        ClusterHooks {
            // A manager that is gone has stopped, and so does the node.
            on_quiet: Box::new(move |shard| drop(quiet.send(Event::Quiet(shard)))),
            announce: Box::new(move |record, then| announcer.ask(record, then)),
        }
    }
}

pub use announce::{Announcer, AnnouncerQueue};
use begin::Known;
use give::Giving;
pub use view::{ClusterView, NodeView, drain, view};

/// The manager of a node's shards.
pub struct Manager {
    events: Sender<Event>,
    has_left: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    announcer: Announcer,
}

impl Manager {
    /// Starts it for a node whose threads are about to run.
    pub fn start(
        node: &Arc<Node>,
        cluster: &mut Cluster,
        reader: Records,
        committer: CqlCommitter,
        seed: u64,
        Events(events, received): Events,
        announcer: (Announcer, AnnouncerQueue),
    ) -> Result<Self> {
        let store = cluster.take_store()?;
        let parts = Arc::new(Parts {
            node: Arc::clone(node),
            cql: Arc::clone(&cluster.cql),
            config: cluster.config.clone(),
            registry: Arc::clone(&cluster.registry),
            ownership: Arc::clone(&cluster.ownership),
            statements: Arc::clone(&cluster.statements),
            extents: Arc::clone(&cluster.extents),
            store,
            reader,
            committer,
            seed,
            announcer: announcer.0.clone(),
        });
        let look = Mutex::new(events.clone());
        parts.ownership.on_newer(Box::new(move || {
            let _ = look.lock().unwrap_or_else(PoisonError::into_inner).send(Event::Look);
        }));
        let has_left = Arc::new(AtomicBool::new(false));
        let work = Work::new(Arc::clone(&parts), events.clone(), Arc::clone(&has_left));
        let failed = |error| Error::io("start a thread of", "the cluster", error);
        let announcing = {
            let (parts, look) = (Arc::clone(&parts), events.clone());
            let body = move || {
                let look = || drop(look.send(Event::Look));
                guard(&parts.node, || announcer.1.run(&parts.node, &parts.registry, look));
            };
            std::thread::Builder::new().name("announcer".into()).spawn(body).map_err(failed)?
        };
        let managing = {
            let body = move || guard(&parts.node, || work.run(&received));
            std::thread::Builder::new().name("shards".into()).spawn(body).map_err(failed)?
        };
        Ok(Self { events, has_left, threads: vec![managing, announcing], announcer: announcer.0 })
    }

    /// Gives all shards to other nodes, if there are any; returns when that is done, or at `until`.
    pub fn leave(&self, until: Instant) {
        // A manager that is gone has nothing to give.
        if self.events.send(Event::Leave).is_err() {
            return;
        }
        while !self.has_left.load(Ordering::Acquire) && Instant::now() < until {
            std::thread::sleep(LEAVE_POLL);
        }
    }

    /// Nothing changes any more: waits for what is being begun.
    pub fn stop(self) {
        let _ = self.events.send(Event::Stop);
        self.announcer.stop();
        for thread in self.threads {
            // A panic there has stopped nothing but it.
            let _ = thread.join();
        }
    }
}

/// Runs a part of the cluster. Its fault, or panic, stops the node, unless that is stopping.
fn guard(node: &Node, run: impl FnOnce() -> Result<()>) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let result = result.unwrap_or_else(|_| Err(Error::Stopped("a thread of the cluster panicked".into())));
    if let Err(error) = result
        && !node.has_stopped()
    {
        node.fault(error);
    }
}

/// Where a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Elsewhere,
    Coming,
    Here,
}

struct Work {
    parts: Arc<Parts>,
    events: Sender<Event>,
    has_left: Arc<AtomicBool>,
    own: Arc<Member>,
    /// As it was last read or changed.
    map: OwnerMap,
    live: Vec<LiveNode>,
    watcher: Watcher,
    at: Vec<At>,
    /// By shard, the epoch that a map last named.
    epochs: Vec<Option<i64>>,
    /// By shard that was given away, told when what was remembered of its rows is forgotten.
    forgotten: Vec<Option<Receiver<()>>>,
    to_begin: VecDeque<u16>,
    beginning: Vec<JoinHandle<()>>,
    giving: Option<Giving>,
    leaving: bool,
    /// The map or the nodes may be others by now.
    stale: bool,
    looked_at: Instant,
    /// Announcements of programs that were followed.
    programs: i64,
    metrics: ClusterMetrics,
}

impl Work {
    fn new(parts: Arc<Parts>, events: Sender<Event>, has_left: Arc<AtomicBool>) -> Self {
        let shards = parts.node.shards();
        Self {
            own: Arc::clone(parts.registry.own()),
            parts,
            events,
            has_left,
            map: OwnerMap::unknown(shards),
            live: Vec::new(),
            watcher: Watcher::default(),
            at: vec![At::Elsewhere; usize::from(shards)],
            epochs: vec![None; usize::from(shards)],
            forgotten: (0..shards).map(|_| None).collect(),
            to_begin: VecDeque::new(),
            beginning: Vec::new(),
            giving: None,
            leaving: false,
            stale: true,
            looked_at: Instant::now(),
            programs: -1,
            metrics: ClusterMetrics::register(),
        }
    }

    fn run(mut self, received: &Receiver<Event>) -> Result<()> {
        let mut next_look = Instant::now();
        loop {
            let pause = next_look.saturating_duration_since(Instant::now());
            let pause = match &self.giving {
                // A look that is due waits too.
                Some(_) if self.is_hurried() => GIVING_LOOK_INTERVAL,
                Some(_) => pause.min(GIVING_LOOK_INTERVAL),
                None => pause,
            };
            match received.recv_timeout(pause) {
                Ok(Event::Look) => self.told(),
                Ok(Event::Quiet(shard)) => self.quiet(shard)?,
                Ok(Event::Begun(shard, epoch)) => self.begun(shard, epoch)?,
                Ok(Event::Leave) => {
                    // The others must know, or they give shards back.
                    self.parts.registry.drain(&self.own.name, true)?;
                    (self.leaving, self.stale) = (true, true);
                    // They go one after the other; what is written by then need not be waited for.
                    let here = (0..self.parts.node.shards()).filter(|shard| self.at[usize::from(*shard)] == At::Here);
                    here.for_each(|shard| self.parts.checkpoint(shard));
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.push_out();
            self.begin_next();
            if (self.stale || Instant::now() >= next_look) && !self.is_hurried() {
                self.look()?;
                next_look = Instant::now() + MAP_LOOK_INTERVAL;
            }
        }
        self.stay();
        for thread in self.beginning {
            let _ = thread.join();
        }
        Ok(())
    }

    /// There may be something new. What another node has told of the map it has read or changed itself: the shards that
    /// it gives to this node are begun before it is read here, as their commands wait.
    fn told(&mut self) {
        self.stale = true;
        let known = self.parts.ownership.map();
        // What was announced has to be read before a shard begins.
        if known.version > self.map.version && known.programs == self.programs {
            self.set_map(OwnerMap::clone(&known), false);
            self.begin_own();
        }
    }

    /// Looks whether there is anything new, and does what is to be done about it.
    fn look(&mut self) -> Result<()> {
        let lease = self.parts.registry.lease();
        let is_due = self.looked_at.elapsed() >= lease / LOOKS_PER_LEASE;
        if self.stale || is_due || self.parts.registry.version()?.0 != self.map.version {
            self.refresh()?;
            self.act()?;
        }
        Ok(())
    }

    /// Reads the map, and the programs if it says that there are others.
    fn read_map(&mut self) -> Result<()> {
        let registry = Arc::clone(&self.parts.registry);
        let map = registry.map(self.parts.node.shards())?;
        let has_announced = map.programs != self.programs;
        if has_announced {
            // Their rows were written before the map said so.
            announce::adopt(&self.parts.node, registry.programs()?)?;
            self.programs = map.programs;
        }
        self.set_map(map, has_announced);
        Ok(())
    }

    /// Reads the map, then the nodes: an owner that is not among them has left or is dead.
    fn refresh(&mut self) -> Result<()> {
        let registry = Arc::clone(&self.parts.registry);
        (self.stale, self.looked_at) = (false, Instant::now());
        self.read_map()?;
        // Their commands wait, so the nodes are looked at after that.
        self.begin_own();
        let asked_ms = boot_ms();
        let rows = registry.nodes()?;
        self.watcher.look(asked_ms, boot_ms());
        self.watcher.keep(|name| rows.iter().any(|row| *row.member.name == *name));
        self.live.clear();
        for row in rows {
            let is_own = row.member.incarnation == self.own.incarnation;
            if !is_own && self.watcher.is_dead(&row.member.name, row.lease) {
                if registry.bury(&row)? == Changed::Done {
                    tracing::warn!(node = &*row.member.name, "a node did not renew its lease; its shards are taken");
                    self.metrics.buried.increment(1);
                    continue;
                }
                self.stale = true;
            }
            self.live.push(LiveNode { member: row.member, draining: row.draining || (is_own && self.leaving) });
        }
        self.report();
        Ok(())
    }

    fn set_map(&mut self, map: OwnerMap, has_announced: bool) {
        for (known, seat) in self.epochs.iter_mut().zip(&map.seats) {
            *known = seat.as_ref().map(|seat| seat.epoch).filter(|epoch| *epoch > 0).or(*known);
        }
        self.map = map;
        self.parts.ownership.learn(self.map.clone());
        self.parts.registry.set_seen(self.map.version, has_announced);
    }

    fn report(&self) {
        let here = self.at.iter().filter(|at| **at == At::Here).count();
        self.metrics.set(self.live.len(), here, self.map.version);
    }

    /// Changes the owner of a shard in the map as it was last read.
    fn change(&mut self, shard: u16, seat: Seat) -> Result<Changed> {
        let changed = self.parts.registry.seat(self.map.version, shard, &seat)?;
        if changed == Changed::Done {
            let mut map = self.map.clone();
            map.version += 1;
            map.seats[usize::from(shard)] = Some(seat);
            self.set_map(map, false);
        } else {
            self.stale = true;
        }
        Ok(changed)
    }

    /// Begins the shards that the map gives to this node: they were given to it, or an earlier try to take them had an
    /// effect.
    fn begin_own(&mut self) {
        for shard in 0..self.parts.node.shards() {
            if self.at[usize::from(shard)] == At::Elsewhere && self.map.is_owner(shard, self.own.incarnation) {
                self.begin(shard);
            }
        }
    }

    fn act(&mut self) -> Result<()> {
        let own = self.own.incarnation;
        let is_lost = |shard: &u16| self.at[usize::from(*shard)] != At::Elsewhere && !self.map.is_owner(*shard, own);
        if let Some(shard) = (0..self.parts.node.shards()).find(is_lost) {
            return Err(Error::Stopped(format!("another node owns shard {shard}")));
        }
        let next = plan(&self.map, &self.live, own);
        if next.take.is_empty() && !self.at.contains(&At::Coming) {
            self.parts.ownership.set_joined();
        }
        for shard in next.take {
            let seat = Seat { member: Arc::clone(&self.own), epoch: 0 };
            if self.change(shard, seat)? != Changed::Done {
                return Ok(());
            }
            self.begin(shard);
        }
        if let (None, Some((shard, to))) = (&self.giving, next.give)
            && self.at[usize::from(shard)] == At::Here
        {
            self.begin_giving(shard, to);
        }
        let is_alone = self.live.iter().all(|node| node.draining);
        let has_none = self.map.shards_of(own).next().is_none();
        if self.leaving && self.giving.is_none() && (is_alone || has_none) {
            self.has_left.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn begin(&mut self, shard: u16) {
        self.at[usize::from(shard)] = At::Coming;
        self.parts.ownership.set_coming(shard, boot_ms());
        self.parts.tell(shard, Tenure::Prepare);
        self.to_begin.push_back(shard);
        self.begin_next();
    }

    fn begin_next(&mut self) {
        self.beginning.retain(|thread| !thread.is_finished());
        while self.beginning.len() < BEGINS_AT_ONCE
            && let Some(shard) = self.to_begin.pop_front()
        {
            let (parts, events, metrics) = (Arc::clone(&self.parts), self.events.clone(), self.metrics.clone());
            let known =
                Known { epoch: self.epochs[usize::from(shard)], forgotten: self.forgotten[usize::from(shard)].take() };
            let body = move || {
                guard(&parts.node, || {
                    let epoch = begin::begin(&parts, shard, known, &metrics)?;
                    // A manager that is gone has stopped.
                    let _ = events.send(Event::Begun(shard, epoch));
                    Ok(())
                });
            };
            match std::thread::Builder::new().name(format!("begin-{shard}")).spawn(body) {
                Ok(thread) => self.beginning.push(thread),
                Err(error) => self.parts.node.fault(Error::io("start a thread of", "the cluster", error)),
            }
        }
    }

    /// A shard has begun: the map says so, which lets others give this node the next one.
    fn begun(&mut self, shard: u16, epoch: i64) -> Result<()> {
        self.at[usize::from(shard)] = At::Here;
        self.parts.ownership.set_begun(shard);
        loop {
            let seat = Seat { member: Arc::clone(&self.own), epoch };
            if self.change(shard, seat.clone())? == Changed::Done {
                break;
            }
            self.refresh()?;
            if !self.map.is_owner(shard, self.own.incarnation) {
                return Err(Error::Stopped(format!("another node owns shard {shard}")));
            }
            if self.map.seats[usize::from(shard)].as_ref() == Some(&seat) {
                break;
            }
        }
        self.stale = true;
        self.report();
        Ok(())
    }
}
