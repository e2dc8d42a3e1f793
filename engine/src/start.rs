//! Building a node from its folder, and taking it down.
//!
//! Start: what is durable ([`crate::durable`]: journal, store, aliases), replay of what the store lacks, then the
//! threads.
//! Stop: no more permits, what is under way finishes, everything goes to the store, the journal is closed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meed_schemas::time::Millis;
use ractor::Actor;
use tokio::task::LocalSet;

use crate::actor::{ShardActor, ShardArguments, Supervisor};
use crate::aliases::{AliasOwner, Aliases};
use crate::clock::{Clock, SystemTimes};
use crate::cluster::{self, Manager};
use crate::commit::Lane;
use crate::committer::{Committer, CommitterThread, CqlCommitter, EmbeddedCommitter, OnDurable, OnShardDurable};
use crate::config::{EngineConfig, MemoryShares};
use crate::disk::FolderLock;
use crate::durable::{self, Cluster, Durable, OpenJournal};
use crate::error::{Error, Result};
use crate::exchange::{Exchange, Lanes, Message};
use crate::followers::Followers;
use crate::inbox::Inbox;
use crate::journal::{Recovered, cql};
use crate::keeper::Keeper;
use crate::metrics::{ClusterMetrics, JournalMetrics};
use crate::node::{Node, OnFault, Services};
use crate::reader::Reader;
use crate::recovery::{self, Recovery, SettleGap, ShardRecovery};
use crate::shard::{Input, Shard, ShardLimits, ShardStart};
use crate::worker::{TICK, Worker};

/// What each worker runs beside its shards, on its own thread.
pub type WorkerMain = Arc<dyn Fn(Worker, Aliases) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

/// Threads that read records for replays, reversals and listings.
const READERS: usize = 2;
/// Threads that read the feed for those who follow it over HTTP: they cannot delay the others.
const FEED_READERS: usize = 1;
/// Records of a shard without checkpoint at which one begins early, in all shards together.
const CHECKPOINT_RECORDS: u64 = 500_000;
/// The part of the records beyond which load is shed at which one begins early at the latest: half, so that it has time
/// to help first. Without it a small bound would shed load until the next checkpoint by the clock.
const CHECKPOINT_LAG_PARTS: u64 = 2;
/// Rows in one store batch, and accounts that a checkpoint takes at a time.
const CHECKPOINT_ROWS: usize = 512;
const CHECKPOINT_STEP: u64 = 128;
/// The same for both on CQL. Rows go to the cluster by partition, of which a shard has 64, so more rows make no more
/// statements, and a server's work goes by statements.
const CQL_CHECKPOINT_ROWS: usize = 4_096;
/// Idle accounts are packed after this, and before twice this.
const PACK_AFTER_MS: i64 = 15_000;
/// Idle accounts settled in a second by all shards together: so many of those in memory, and so many that the store
/// names. Those of a month end take minutes; an account that anybody asks for is settled by that.
const SETTLED_PER_SECOND: usize = 5_000;
/// Accounts that may come into memory in a second although it is full, in all shards together. Without them a bound
/// below what is always in use would keep every other account out. The store writes several times as many.
const UNBOUNDED_LOADS_PER_SECOND: usize = 5_000;
/// How often a stop looks whether it is through.
const STOP_POLL: Duration = Duration::from_millis(2);

/// A running node.
pub struct Engine {
    node: Arc<Node>,
    aliases: Aliases,
    alias_owner: AliasOwner,
    workers: Vec<JoinHandle<()>>,
    journal: CommitterThread,
    store: JoinHandle<()>,
    /// The cluster, where journal and state are in one.
    cluster: Option<Cluster>,
    /// Of its shards there.
    manager: Option<Manager>,
    followers: Followers,
    /// What recovery found and did, for the log.
    pub recovered: RecoveryReport,
    _lock: Option<FolderLock>,
}

/// What recovery found and did.
#[derive(Debug, Clone)]
pub struct RecoveryReport {
    /// What the journal found.
    pub journal: Recovered,
    /// Records replayed over the store.
    pub replayed_records: u64,
    /// How long opening the journal took, with the copy of its tail.
    pub journal_took: Duration,
    /// How long opening the state store took.
    pub store_took: Duration,
    /// How long everything took, the replay included.
    pub took: Duration,
    /// The last record's time, when what fell due since is left alone because it is too long ago.
    pub settles_until: Option<Millis>,
}

/// Starts a node: returns when it answers.
///
/// # Errors
/// No workers. Anything about the folder: held by another process, damaged, of a newer format, not permitted.
pub fn start(config: EngineConfig, on_fault: OnFault, main: WorkerMain) -> Result<Engine> {
    let began = Instant::now();
    let times = SystemTimes::start();
    let workers = config.workers;
    if workers == 0 {
        return Err(Error::Setting("a node has at least one worker".to_owned()));
    }
    let mut durable = durable::open(&config, times.wall_ms())?;
    let wall = times.wall_ms();
    let gap = SettleGap { days: config.settle_gap_days, ignored: config.settle_past_gap };
    let last_sequence = durable.recovered.last_sequence.clone();
    let (seed, recovery) = match &mut durable.journal {
        OpenJournal::Embedded(_) => {
            let recovery = recovery::recover(
                &mut durable.store,
                &durable.reader,
                &last_sequence,
                workers,
                gap,
                wall,
                &random_seed,
            )?;
            (0, recovery)
        }
        // Its shards come while the node runs.
        OpenJournal::Cql(cluster) => {
            let (seed, settles_until) = recovery::prepare(&mut durable.store, durable.shards, gap, wall, &random_seed)?;
            cluster.join()?;
            (seed, Recovery { shards: Vec::new(), programs: cluster.programs()?, settles_until })
        }
    };
    let Recovery { shards: replayed, programs, settles_until } = recovery;
    let report = RecoveryReport {
        replayed_records: replayed.iter().map(|r| r.records).sum(),
        journal_took: durable.journal_took,
        store_took: durable.store_took,
        took: began.elapsed(),
        settles_until,
        journal: durable.recovered.clone(),
    };
    let exchange = |index| {
        let lanes = lanes(&durable.journal, &config, &last_sequence, index, workers);
        Arc::new(Exchange::new(index as u16, lanes, Clock::new(wall, times.elapsed_ms(), config.clock_jump_ms)))
    };
    let exchanges = (0..workers).map(exchange).collect();
    let node = Node::new(
        config,
        durable.shards,
        durable.secrets.clone(),
        exchanges,
        programs,
        settles_until.unwrap_or(Millis::MAX),
        times,
        on_fault,
        durable.ownership(),
    );
    run(Arc::new(node), durable, replayed, seed, main, report)
}

/// The commit pipelines of a worker: one for each unit that its journal makes durable by itself.
fn lanes(journal: &OpenJournal, config: &EngineConfig, last_sequence: &[u64], worker: usize, workers: usize) -> Lanes {
    match journal {
        OpenJournal::Embedded(journal) => {
            // The batches of all workers go in one write, and each may exceed this by its last decision.
            let batch_bytes_max = journal.batch_bytes_max() / (2 * workers);
            Lanes::Shared(Lane::new(last_sequence.to_vec(), batch_bytes_max).into())
        }
        OpenJournal::Cql(_) => {
            let batch_bytes = config.cql.as_ref().map_or(cql::BATCH_BYTES, |cql| cql.batch_bytes);
            let own = last_sequence.iter().enumerate().skip(worker).step_by(workers);
            let lane = |(shard, last): (usize, &u64)| Lane::of_shard(shard as u16, *last, batch_bytes).into();
            Lanes::PerShard { workers, lanes: own.map(lane).collect() }
        }
    }
}

fn random_seed() -> Result<u64> {
    Ok(getrandom::u64()?)
}

/// Starts the thread or tasks that write the journal.
fn start_committer(node: &Arc<Node>, journal: OpenJournal) -> Result<(Committer, CommitterThread, Option<Cluster>)> {
    let on_fault = {
        let node = Arc::clone(node);
        Box::new(move |error| node.fault(error))
    };
    match journal {
        OpenJournal::Embedded(journal) => {
            let on_durable = node.exchanges().iter().map(|exchange| {
                let exchange = Arc::clone(exchange);
                Box::new(move |number, buffer| exchange.send([Message::Durable(0, number, buffer)])) as OnDurable
            });
            let (committer, thread) =
                EmbeddedCommitter::start(*journal, on_durable.collect(), on_fault, JournalMetrics::register())?;
            Ok((Committer::Embedded(committer), CommitterThread::Embedded(thread), None))
        }
        OpenJournal::Cql(mut cluster) => {
            let workers = node.exchanges().len();
            let on_durable = {
                let node = Arc::clone(node);
                Arc::new(move |shard: u16, number, buffer| {
                    let (worker, lane) = (usize::from(shard) % workers, usize::from(shard) / workers);
                    node.exchanges()[worker].send([Message::Durable(lane, number, buffer)]);
                }) as OnShardDurable
            };
            let (metrics, appends) = (JournalMetrics::register(), cluster.config.appends);
            let shards = node.shards();
            let (committer, tasks) =
                CqlCommitter::new(&cluster.cql, shards, workers, appends, on_durable, on_fault, metrics);
            let lost = Arc::clone(node);
            cluster.watch_lease(move |error| lost.fault(error));
            Ok((Committer::Cql(committer), CommitterThread::Cql(tasks), Some(*cluster)))
        }
    }
}

/// Starts the threads round a recovered node.
fn run(
    node: Arc<Node>,
    durable: Durable,
    replayed: Vec<ShardRecovery>,
    seed: u64,
    main: WorkerMain,
    recovered: RecoveryReport,
) -> Result<Engine> {
    let Durable { journal, store, reader, aliases, alias_owner, lock, .. } = durable;
    let fault = |node: &Arc<Node>| {
        let node = Arc::clone(node);
        move |error| node.fault(error)
    };
    let upkeep = match &journal {
        OpenJournal::Embedded(journal) => Some(journal.upkeep()),
        OpenJournal::Cql(_) => None,
    };
    let (committer, journal, mut cluster) = start_committer(&node, journal)?;
    let deliver = {
        let node = Arc::clone(&node);
        move |inputs: Vec<(u16, Input)>| {
            let mut by_worker: Vec<Vec<Message>> = node.exchanges().iter().map(|_| Vec::new()).collect();
            for (shard, input) in inputs {
                by_worker[node.worker_of(shard) as usize].push(Message::Input(shard, input));
            }
            for (exchange, messages) in node.exchanges().iter().zip(by_worker) {
                exchange.send(messages);
            }
        }
    };
    let on_synced = {
        let committer = committer.clone();
        move || committer.mark_durable()
    };
    let (keeper, store) = Keeper::start(store, Box::new(deliver), Box::new(on_synced), Box::new(fault(&node)))?;
    let feed = Reader::start(reader.of_all_nodes(), "feed", FEED_READERS, Arc::new(fault(&node)))?;
    let records = reader.clone();
    let reader = Reader::start(reader, "reader", READERS, Arc::new(fault(&node)))?;
    // Registered in any case: the metrics page has the same measures on every node.
    let _ = ClusterMetrics::register();
    let (events, announcer) = (cluster::Events::default(), cluster::Announcer::new());
    let hooks = cluster.as_ref().map(|_| events.hooks(&announcer.0));
    let followers = Followers::start(&node, reader.journal(), cluster.as_ref(), upkeep.zip(Some(keeper.clone())))?;
    node.set_services(Services { committer: committer.clone(), keeper, reader, feed, cluster: hooks });
    let workers = start_workers(&node, &aliases, replayed, &main)?;
    let manager = match (&mut cluster, committer) {
        (Some(cluster), Committer::Cql(committer)) => {
            Some(Manager::start(&node, cluster, records, committer, seed, events, announcer)?)
        }
        _ => None,
    };
    Ok(Engine {
        node,
        aliases,
        alias_owner,
        workers,
        journal,
        store,
        cluster,
        manager,
        followers,
        recovered,
        _lock: lock,
    })
}

/// Shards of a worker: those that are here from the start, and those that may come.
type ShardStarts = Vec<(u16, Option<ShardStart>)>;

/// Starts the workers with their shards, and waits until all answer.
fn start_workers(
    node: &Arc<Node>,
    aliases: &Aliases,
    replayed: Vec<ShardRecovery>,
    main: &WorkerMain,
) -> Result<Vec<JoinHandle<()>>> {
    let mut starts: Vec<Option<ShardStart>> = (0..node.shards()).map(|_| None).collect();
    for ShardRecovery { start, .. } in replayed {
        let id = usize::from(start.id);
        starts[id] = Some(start);
    }
    let mut by_worker: Vec<ShardStarts> = node.exchanges().iter().map(|_| Vec::new()).collect();
    for (shard, start) in (0..node.shards()).zip(starts) {
        by_worker[node.worker_of(shard) as usize].push((shard, start));
    }
    let (ready, all_ready) = mpsc::channel();
    let mut workers = Vec::new();
    for (index, shards) in by_worker.into_iter().enumerate() {
        let (node, main, ready, aliases) = (Arc::clone(node), Arc::clone(main), ready.clone(), aliases.clone());
        let main = move |worker| main(worker, aliases.clone());
        let body = move || worker_thread(node, index, shards, main, ready);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(body)
            .map_err(|error| Error::io("start a worker thread of", "the node", error))?;
        workers.push(thread);
    }
    drop(ready);
    for _ in &workers {
        match all_ready.recv() {
            Ok(result) => result?,
            Err(_) => return Err(Error::Stopped("a worker ended while it was starting".into())),
        }
    }
    Ok(workers)
}

impl Engine {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Gives this node's shards to other nodes while it still answers, where there are any; returns when they are
    /// given, or at `until`.
    pub fn leave(&self, until: Instant) {
        if let Some(manager) = &self.manager {
            manager.leave(until);
        }
    }

    /// Takes the node down in order, within about `patience` for what is under way and the last checkpoint.
    /// What is not finished then is as safe as after a kill: it is in the journal.
    ///
    /// # Errors
    /// A fault of the journal or store.
    pub fn shutdown(mut self, patience: Duration) -> Result<()> {
        let node = &self.node;
        let until = Instant::now() + patience;
        node.permits.drain();
        self.followers.stop_removing();
        if let Some(cluster) = &self.cluster {
            cluster.stop_asking_at(until);
        }
        if let Some(manager) = self.manager {
            manager.stop();
        }
        while node.permits.under_way() > 0 && Instant::now() < until && !node.has_faulted() {
            std::thread::sleep(STOP_POLL);
        }
        node.stop_settling();
        node.ask_checkpoint();
        (0..node.shards()).for_each(|shard| node.send(shard, Input::CheckpointAll));
        while !node.is_checkpointed() && Instant::now() < until && !node.has_faulted() {
            std::thread::sleep(STOP_POLL);
        }
        node.stop();
        for worker in self.workers {
            // A worker that panicked has stopped the node already.
            let _ = worker.join();
        }
        drop(self.aliases);
        let aliases = self.alias_owner.join();
        node.reader().stop();
        node.feed().stop();
        node.keeper().stop();
        let _ = self.store.join();
        self.followers.stop(until);
        node.committer().stop();
        let journal = self.journal.join();
        if let Some(cluster) = self.cluster {
            // Only what is in order is handed over at once; a taker waits for the lease's end otherwise.
            cluster.close(aliases.is_ok() && journal.is_ok());
        }
        aliases.and(journal)
    }
}

fn worker_thread(
    node: Arc<Node>,
    index: usize,
    shards: ShardStarts,
    main: impl Fn(Worker) -> Pin<Box<dyn Future<Output = ()>>>,
    ready: mpsc::Sender<Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The starter waits for exactly one message.
            let _ = ready.send(Err(Error::io("build the runtime of", format!("worker {index}"), error)));
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let spawned = spawn_shards(&node, index, shards).await;
        match spawned {
            Ok(inboxes) => {
                let exchange = Arc::clone(&node.exchanges()[index]);
                let worker = Worker::new(node, exchange, inboxes);
                let tasks = tokio::task::spawn_local(main(worker.clone()));
                let _ = ready.send(Ok(()));
                drop(ready);
                worker.run().await;
                tasks.abort();
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    });
}

/// Spawns the actors of a worker's shards, under a supervisor.
async fn spawn_shards(node: &Arc<Node>, index: usize, shards: ShardStarts) -> Result<Vec<Option<Arc<Inbox>>>> {
    let failed = |error: ractor::SpawnErr| Error::Stopped(format!("an actor did not start: {error}"));
    let (supervisor, _) = Supervisor::spawn(None, Supervisor, Arc::clone(node)).await.map_err(failed)?;
    let mut inboxes: Vec<Option<Arc<Inbox>>> = (0..node.shards()).map(|_| None).collect();
    let share = u64::from(node.shards());
    let memory = MemoryShares::of(node.config().memory_bytes);
    let (checkpoint_rows, checkpoint_step) = match node.config().cql {
        None => (CHECKPOINT_ROWS, CHECKPOINT_STEP),
        Some(_) => (CQL_CHECKPOINT_ROWS, CQL_CHECKPOINT_ROWS as u64),
    };
    let checkpoint_records = CHECKPOINT_RECORDS.min(node.config().checkpoint_lag_records / CHECKPOINT_LAG_PARTS);
    let per_tick =
        |per_second: usize| (per_second * TICK.as_millis() as usize / 1_000 / usize::from(node.shards())).max(1);
    let limits = ShardLimits {
        resident_bytes: usize::try_from(memory.accounts / share).unwrap_or(usize::MAX),
        unbounded_loads_per_tick: per_tick(UNBOUNDED_LOADS_PER_SECOND),
        filter_bytes: usize::try_from(memory.filters / share).unwrap_or(usize::MAX),
        checkpoint_records: (checkpoint_records / share).max(1),
        checkpoint_interval_ms: node.config().checkpoint_interval_ms,
        checkpoint_rows,
        checkpoint_step,
        pack_after_ms: PACK_AFTER_MS,
        settled_per_tick: per_tick(SETTLED_PER_SECOND),
    };
    for (id, start) in shards {
        let inbox = Arc::new(Inbox::default());
        let arguments = ShardArguments {
            id,
            shard: start.map(|start| Shard::new(start, limits)),
            limits,
            node: Arc::clone(node),
            exchange: Arc::clone(&node.exchanges()[index]),
            inbox: Arc::clone(&inbox),
        };
        Actor::spawn_linked(None, ShardActor, arguments, supervisor.get_cell()).await.map_err(failed)?;
        inboxes[id as usize] = Some(inbox);
    }
    Ok(inboxes)
}
