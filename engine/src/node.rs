//! What all threads of a node share.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use meed_schemas::record::{Detail, Record};
use meed_schemas::time::Millis;

use crate::clock::{SystemTimes, boot_ms};
use crate::committer::Committer;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::exchange::{Exchange, Message};
use crate::keeper::Keeper;
use crate::ownership::Ownership;
use crate::permits::Permits;
use crate::program::{Programs, with_version};
use crate::reader::Reader;
use crate::secrets::Secrets;
use crate::shard::{Input, Shard, ShardReport};

/// Called once, with the first fault; the process has to stop.
pub type OnFault = Box<dyn Fn(&Error) + Send + Sync>;

/// What is done when something is done.
pub type Then = Box<dyn FnOnce() + Send>;
/// Makes a journaled version of a program known to every node.
pub type Announce = Box<dyn Fn(Option<Box<Record>>, Then) + Send + Sync>;

/// What a node of a cluster tells the manager of its shards.
pub struct ClusterHooks {
    /// Nothing of this shard, which is to go, is under way any more.
    pub on_quiet: Box<dyn Fn(u16) + Send + Sync>,
    /// Makes a journaled version of a program known to every node, or with none waits until all know what there is;
    /// then calls.
    pub announce: Announce,
}

/// The threads that a node hands work to.
pub struct Services {
    /// The journal's thread.
    pub committer: Committer,
    /// The store's thread.
    pub keeper: Keeper,
    /// The reading threads.
    pub reader: Reader,
    /// Those that read the feed.
    pub feed: Reader,
    /// In a cluster, the manager of its shards.
    pub cluster: Option<ClusterHooks>,
}

/// A node.
pub struct Node {
    config: EngineConfig,
    shards: u16,
    /// Keys of hashes and codes.
    pub secrets: Secrets,
    /// Its clocks.
    pub times: SystemTimes,
    /// What may be under way.
    pub permits: Permits,
    exchanges: Vec<Arc<Exchange>>,
    /// What it may answer for, where several nodes share a journal.
    ownership: Option<Arc<Ownership>>,
    services: OnceLock<Services>,
    programs: RwLock<Arc<Programs>>,
    /// Grows with every change of the programs.
    programs_number: AtomicU64,
    settle_until: AtomicI64,
    /// Whether the wall clock has leapt and is not followed.
    has_leapt: AtomicBool,
    reports: Vec<Mutex<ShardReport>>,
    lag_records: Vec<AtomicU64>,
    /// By shard: changed accounts that are not in the store.
    dirty_accounts: Vec<AtomicU64>,
    checkpointed: Vec<AtomicBool>,
    on_fault: OnFault,
    faulted: AtomicBool,
    stopped: AtomicBool,
}

impl Node {
    /// A node whose services are still to come.
    #[expect(clippy::too_many_arguments, reason = "the parts of a node, each built once")]
    pub fn new(
        config: EngineConfig,
        shards: u16,
        secrets: Secrets,
        exchanges: Vec<Arc<Exchange>>,
        programs: Programs,
        settle_until: Millis,
        times: SystemTimes,
        on_fault: OnFault,
        ownership: Option<Arc<Ownership>>,
    ) -> Self {
        Self {
            permits: Permits::new(config.permits, shards),
            config,
            shards,
            secrets,
            times,
            exchanges,
            ownership,
            services: OnceLock::new(),
            programs: RwLock::new(Arc::new(programs)),
            programs_number: AtomicU64::new(0),
            settle_until: AtomicI64::new(settle_until),
            has_leapt: AtomicBool::new(false),
            reports: (0..shards).map(|_| Mutex::default()).collect(),
            lag_records: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            dirty_accounts: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            checkpointed: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            on_fault,
            faulted: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// The threads stand.
    pub fn set_services(&self, services: Services) {
        // Set once, before any worker runs.
        let _ = self.services.set(services);
    }

    fn services(&self) -> &Services {
        match self.services.get() {
            Some(services) => services,
            None => unreachable!("workers run only after the services are set"),
        }
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// How many shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The journal's thread.
    pub fn committer(&self) -> &Committer {
        &self.services().committer
    }

    /// The store's thread.
    pub fn keeper(&self) -> &Keeper {
        &self.services().keeper
    }

    /// The reading threads.
    pub fn reader(&self) -> &Reader {
        &self.services().reader
    }

    /// The threads that read the feed.
    pub fn feed(&self) -> &Reader {
        &self.services().feed
    }

    /// The workers' exchanges, by index.
    pub fn exchanges(&self) -> &[Arc<Exchange>] {
        &self.exchanges
    }

    /// Sends an input to the worker of its shard.
    pub fn send(&self, shard: u16, input: Input) {
        self.exchanges[usize::from(self.worker_of(shard))].send([Message::Input(shard, input)]);
    }

    /// Which worker has a shard.
    pub fn worker_of(&self, shard: u16) -> u16 {
        shard % self.exchanges.len() as u16
    }

    /// What it may answer for, where several nodes share a journal.
    pub fn ownership(&self) -> Option<&Arc<Ownership>> {
        self.ownership.as_ref()
    }

    /// Whether a shard is this node's.
    pub fn owns(&self, shard: u16) -> bool {
        self.ownership.as_ref().is_none_or(|ownership| ownership.is_owner(shard))
    }

    /// The version of the map of owners that is known here.
    pub fn map_version(&self) -> i64 {
        self.ownership.as_ref().map_or(0, |ownership| ownership.map().version)
    }

    /// Nothing of this shard, which is to go, is under way any more.
    pub fn told_quiet(&self, shard: u16) {
        if let Some(cluster) = &self.services().cluster {
            (cluster.on_quiet)(shard);
        }
    }

    /// The manager of its shards, in a cluster.
    pub fn cluster(&self) -> Option<&ClusterHooks> {
        self.services().cluster.as_ref()
    }

    /// Whether commands of a shard may be decided now.
    pub fn may_decide(&self, shard: u16) -> bool {
        self.ownership.as_ref().is_none_or(|ownership| ownership.may_decide(shard, boot_ms()))
    }

    /// Whether it may answer for its shards now, where several nodes share a journal, and what is missing.
    pub fn ownership_state(&self) -> Option<std::result::Result<(), String>> {
        self.ownership.as_ref().map(|ownership| ownership.state(boot_ms()))
    }

    /// Shards that answer nothing because the outcome of their last write is unknown.
    pub fn unresolved_shards(&self) -> u64 {
        self.ownership.as_ref().map_or(0, |ownership| ownership.unresolved() as u64)
    }

    /// Whether nobody else may answer for its shards.
    pub fn holds_lease(&self) -> bool {
        self.ownership.as_ref().is_none_or(|ownership| ownership.holds(boot_ms()))
    }

    /// The programs as of now.
    pub fn programs(&self) -> Arc<Programs> {
        Arc::clone(&self.programs.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The programs as of now with their number, to be kept by one thread.
    pub fn numbered_programs(&self) -> (u64, Arc<Programs>) {
        // The number first: a change in between is then seen by the next look.
        let number = self.programs_number.load(Ordering::Acquire);
        (number, self.programs())
    }

    /// Brings programs that a thread keeps up to now. Costs a look at a number that hardly ever changes, where a clone
    /// of the programs writes to counts that all threads share.
    pub fn refresh_programs(&self, number: &mut u64, programs: &mut Arc<Programs>) {
        if self.programs_number.load(Ordering::Acquire) != *number {
            (*number, *programs) = self.numbered_programs();
        }
    }

    /// Makes a journaled version of a program known to every shard: turns that begin after this see it.
    /// Called in the order of the records.
    ///
    /// # Errors
    /// A document that does not compile, which the decision had excluded.
    pub fn adopt_program_of(&self, record: &Record) -> Result<()> {
        let Detail::Program { document } = &record.detail else { return Ok(()) };
        self.adopt_program(record.identity.program(), record.program_version, record.recorded_at, document)
    }

    /// Makes a version of a program known to every shard, unless it is known.
    ///
    /// # Errors
    /// As [`with_version`].
    pub fn adopt_program(&self, name: &str, number: u32, effective_from: Millis, document: &str) -> Result<()> {
        let mut programs = self.programs.write().unwrap_or_else(PoisonError::into_inner);
        *programs = Arc::new(with_version(&programs, name, number, effective_from, document)?);
        self.programs_number.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Nothing due after this is settled.
    pub fn settle_until(&self) -> Millis {
        self.settle_until.load(Ordering::Relaxed)
    }

    /// The node is stopping and answers nobody any more: what falls due from now on is the next start's, so that
    /// what is checkpointed stays checkpointed.
    pub fn stop_settling(&self) {
        self.settle_until.store(Millis::MIN, Ordering::Relaxed);
    }

    /// Whether everything that falls due is settled: no gap of the clock waits for a word of the operator, and the node
    /// does not stop.
    pub fn settles_everything(&self) -> bool {
        self.settle_until() == Millis::MAX
    }

    /// Notes whether the wall clock has leapt.
    pub fn note_leap(&self, has_leapt: bool) {
        match (self.has_leapt.swap(has_leapt, Ordering::Relaxed), has_leapt) {
            (false, true) => tracing::warn!(
                "the wall clock has moved by more than clock_jump_ms and is not followed: nothing that it says is past \
                 falls due, and operations with its time may be refused; set it right, or if it is right, start again"
            ),
            (true, false) => tracing::info!("the wall clock is right again and is followed"),
            _ => {}
        }
    }

    /// Whether everything falls due by the wall clock: it has not leapt, and no gap is left unsettled.
    pub fn follows_the_clock(&self) -> bool {
        self.settles_everything() && !self.has_leapt.load(Ordering::Relaxed)
    }

    /// Notes how far a shard's checkpoints are.
    pub fn note_progress(&self, shard: &Shard) {
        let index = shard.id() as usize;
        self.lag_records[index].store(shard.lag_records(), Ordering::Relaxed);
        self.dirty_accounts[index].store(shard.dirty_accounts(), Ordering::Relaxed);
        self.checkpointed[index].store(shard.is_checkpointed(), Ordering::Release);
    }

    /// Takes a shard's report.
    pub fn report(&self, shard: &Shard) {
        *self.reports[shard.id() as usize].lock().unwrap_or_else(PoisonError::into_inner) = shard.report();
    }

    /// A shard is not here: there is nothing to report or to checkpoint.
    pub fn note_absent(&self, shard: u16) {
        let index = usize::from(shard);
        self.lag_records[index].store(0, Ordering::Relaxed);
        self.dirty_accounts[index].store(0, Ordering::Relaxed);
        self.checkpointed[index].store(true, Ordering::Release);
        *self.reports[index].lock().unwrap_or_else(PoisonError::into_inner) =
            ShardReport { shard, ..ShardReport::default() };
    }

    /// The shards' last reports.
    pub fn reports(&self) -> Vec<ShardReport> {
        self.reports.iter().map(|r| r.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Accounts of a shard that have changed and are not written, as it last said.
    pub fn dirty_accounts_of(&self, shard: u16) -> u64 {
        self.dirty_accounts[usize::from(shard)].load(Ordering::Relaxed)
    }

    /// Records that no checkpoint covers.
    pub fn lag_records(&self) -> u64 {
        self.lag_records.iter().map(|lag| lag.load(Ordering::Relaxed)).sum()
    }

    /// Sheds load while checkpoints are too far behind.
    pub fn check_lag(&self) {
        self.permits.set_lagging(self.lag_records() > self.config.checkpoint_lag_records);
    }

    /// Whether every shard has said, since it was last asked to checkpoint, that the store has everything.
    pub fn is_checkpointed(&self) -> bool {
        self.checkpointed.iter().all(|f| f.load(Ordering::Acquire))
    }

    /// Forgets what the shards said of being checkpointed.
    pub fn ask_checkpoint(&self) {
        self.checkpointed.iter().for_each(|f| f.store(false, Ordering::Release));
    }

    /// A fault: nothing more is acknowledged, and the process stops.
    pub fn fault(&self, error: Error) {
        if !self.faulted.swap(true, Ordering::AcqRel) {
            self.permits.drain();
            (self.on_fault)(&error);
        }
    }

    /// Whether there was a fault.
    pub fn has_faulted(&self) -> bool {
        self.faulted.load(Ordering::Acquire)
    }

    /// Ends the workers' tasks.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.exchanges.iter().for_each(|e| e.wake_all());
    }

    /// Whether the workers' tasks are to end.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
