//! Building a node from its folder, and taking it down.
//!
//! Start: folder, journal (recovers its tail), store, replay of what the store lacks, then the threads.
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
use crate::aliases::{AliasOptions, AliasOwner, Aliases};
use crate::clock::{Clock, SystemTimes};
use crate::commit::Lane;
use crate::committer::{Committer, OnDurable};
use crate::config::EngineConfig;
use crate::disk::{Disk, FolderLock};
use crate::error::{Error, Result};
use crate::exchange::{Exchange, Message};
use crate::folder::FolderIdentity;
use crate::inbox::Inbox;
use crate::journal::{Floor, Journal, JournalOptions, JournalReader, JournalUpkeep, Recovered};
use crate::keeper::Keeper;
use crate::metrics::{JournalMetrics, PublishMetrics, UpkeepMetrics};
use crate::node::{Node, OnFault, Services};
use crate::publish::Publisher;
use crate::reader::Reader;
use crate::recovery::{self, Recovery, SettleGap, ShardRecovery};
use crate::retention::{NeededFrom, Retention, Upkeep};
use crate::secrets::Secrets;
use crate::shard::{Input, Shard, ShardLimits, ShardStart};
use crate::store::{Store, StoreOptions};
use crate::worker::Worker;

/// What each worker runs beside its shards, on its own thread.
pub type WorkerMain = Arc<dyn Fn(Worker, Aliases) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

/// Threads that read records for replays, reversals and listings.
const READERS: usize = 2;
/// Threads that read the feed for those who follow it over HTTP: they cannot delay the others.
const FEED_READERS: usize = 1;
/// Of the node's memory for accounts, the part that filters of spilled keys may take.
const FILTER_SHARE: u64 = 16;
/// Records of a shard without checkpoint at which one begins early, in all shards together.
const CHECKPOINT_RECORDS: u64 = 500_000;
/// Idle accounts are packed after this, and before twice this.
const PACK_AFTER_MS: i64 = 15_000;
/// Time at a stop for what Kafka lacks. The rest is the next start's.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(3);
/// How often a stop looks whether it is through.
const STOP_POLL: Duration = Duration::from_millis(2);

/// A running node.
pub struct Engine {
    node: Arc<Node>,
    aliases: Aliases,
    alias_owner: AliasOwner,
    workers: Vec<JoinHandle<()>>,
    journal: JoinHandle<Option<Journal>>,
    store: JoinHandle<()>,
    retention: Retention,
    publisher: Option<Publisher>,
    /// What recovery found and did, for the log.
    pub recovered: RecoveryReport,
    _lock: FolderLock,
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
/// Anything about the folder: held by another process, damaged, of a newer format, not permitted.
pub fn start(config: EngineConfig, on_fault: OnFault, main: WorkerMain) -> Result<Engine> {
    let began = Instant::now();
    let times = SystemTimes::start();
    let disk = Disk::default();
    disk.create_dir(&config.data)?;
    let lock = disk.lock(&config.data)?;
    let folder = FolderIdentity::open_or_create(&disk, &config.data, config.shards)?;
    let options = JournalOptions {
        segment_bytes: config.segment_bytes,
        new_journal_id: Some(folder.journal_id),
        ..JournalOptions::new(folder.shards)
    };
    let (journal, reader, recovered) = Journal::open(disk, &config.data.join("journal"), options, Floor::default())?;
    let journal_took = began.elapsed();
    if recovered.journal_id != folder.journal_id {
        return Err(Error::Mismatch {
            path: config.data.join("journal"),
            detail: "it is the journal of another node; put the folders of one node together".into(),
        });
    }
    let secrets = secrets_of(&config, &folder, recovered.last_batch > 0)?;
    let store_options = StoreOptions::default();
    let mut store = Store::open(&config.data.join("state"), folder.journal_id.to_le_bytes(), &store_options)?;
    let store_took = began.elapsed() - journal_took;
    let (aliases, alias_owner) = Aliases::open(
        &config.data.join("aliases"),
        folder.journal_id.to_le_bytes(),
        &secrets.alias,
        &AliasOptions::default(),
    )?;
    let workers = worker_count(&config);
    let wall = times.wall_ms();
    let gap = SettleGap { days: config.settle_gap_days, ignored: config.settle_past_gap };
    let Recovery { shards: replayed, programs, settles_until } =
        recovery::recover(&mut store, &reader, &recovered.last_sequence, workers, gap, wall, &random_seed)?;
    let report = RecoveryReport {
        replayed_records: replayed.iter().map(|r| r.records).sum(),
        journal_took,
        store_took,
        took: began.elapsed(),
        settles_until,
        journal: recovered,
    };
    let exchange = |index| {
        let lane = Lane::new(report.journal.last_sequence.clone());
        Arc::new(Exchange::new(index, lane, Clock::new(wall, times.elapsed_ms(), config.clock_jump_ms)))
    };
    let exchanges = (0..workers as u16).map(exchange).collect();
    let node = Node::new(
        config,
        folder.shards,
        secrets,
        exchanges,
        programs,
        settles_until.unwrap_or(Millis::MAX),
        times,
        on_fault,
    );
    run(Arc::new(node), lock, (aliases, alias_owner), journal, reader, store, replayed, main, report)
}

/// The number of workers: the setting, or one per core.
fn worker_count(config: &EngineConfig) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// The secrets of the folder; made where it is new.
fn secrets_of(config: &EngineConfig, folder: &FolderIdentity, has_journal: bool) -> Result<Secrets> {
    match Secrets::load(&config.data, folder.journal_id)? {
        Some(secrets) => Ok(secrets),
        // A journal whose keys were hashed with secrets that are gone would execute every retry again.
        None if has_journal => {
            let detail = "it has a journal but no secrets; restore that file from a copy".into();
            Err(Error::Mismatch { path: config.data.clone(), detail })
        }
        None => Secrets::create(&config.data, folder.journal_id),
    }
}

fn random_seed() -> Result<u64> {
    getrandom::u64().map_err(|error| Error::Stopped(format!("the system gives no random bytes: {error}")))
}

/// Starts the threads round a recovered node.
#[expect(clippy::too_many_arguments, reason = "the parts of a node, each built once")]
fn run(
    node: Arc<Node>,
    lock: FolderLock,
    (aliases, alias_owner): (Aliases, AliasOwner),
    journal: Journal,
    reader: JournalReader,
    store: Store,
    replayed: Vec<ShardRecovery>,
    main: WorkerMain,
    recovered: RecoveryReport,
) -> Result<Engine> {
    let fault = |node: &Arc<Node>| {
        let node = Arc::clone(node);
        move |error| node.fault(error)
    };
    let on_durable = node.exchanges().iter().map(|exchange| {
        let exchange = Arc::clone(exchange);
        Box::new(move |number, buffer| exchange.send([Message::Durable(number, buffer)])) as OnDurable
    });
    let upkeep = journal.upkeep();
    let (committer, journal) =
        Committer::start(journal, on_durable.collect(), Box::new(fault(&node)), JournalMetrics::register());
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
    let (keeper, store) = Keeper::start(store, Box::new(deliver), Box::new(on_synced), Box::new(fault(&node)));
    let upkeep_keeper = keeper.clone();
    let feed = Reader::start(reader.clone(), "feed", FEED_READERS, Arc::new(fault(&node)));
    let reader = Reader::start(reader, "reader", READERS, Arc::new(fault(&node)));
    let publisher = start_publisher(&node, reader.journal())?;
    let retention = Retention::start(upkeep_of(&node, upkeep, upkeep_keeper, publisher.as_ref()))?;
    node.set_services(Services { committer, keeper, reader, feed });
    let mut by_worker: Vec<Vec<ShardStart>> = node.exchanges().iter().map(|_| Vec::new()).collect();
    for ShardRecovery { start, .. } in replayed {
        by_worker[node.worker_of(start.id) as usize].push(start);
    }
    let (ready, all_ready) = mpsc::channel();
    let mut workers = Vec::new();
    for (index, shards) in by_worker.into_iter().enumerate() {
        let (node, main, ready, aliases) = (Arc::clone(&node), Arc::clone(&main), ready.clone(), aliases.clone());
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
    Ok(Engine { node, aliases, alias_owner, workers, journal, store, retention, publisher, recovered, _lock: lock })
}

/// What is not published yet stays in the journal.
fn published_floor(publisher: &Publisher) -> NeededFrom {
    let published = publisher.published();
    Box::new(move || Ok(published.sequences().into_iter().map(|sequence| sequence + 1).collect()))
}

/// What the upkeep thread works on.
fn upkeep_of(node: &Arc<Node>, journal: JournalUpkeep, keeper: Keeper, publisher: Option<&Publisher>) -> Upkeep {
    let journal_id = journal.reader().journal_id();
    let config = node.config();
    let trusting = Arc::clone(node);
    Upkeep {
        data: config.data.clone(),
        journal,
        keeper,
        // Whoever reads the journal behind the checkpoints has its place here.
        needed_from: publisher.into_iter().map(published_floor).collect(),
        is_clock_trusted: Box::new(move || trusting.settles_everything()),
        times: (node.times, config.clock_jump_ms),
        identity: (journal_id, node.shards()),
        retention_ms: config.journal_retention_ms,
        pack: config.pack_segments,
        interval: config.upkeep_interval,
        metrics: UpkeepMetrics::register(),
    }
}

/// Publishes events, if there is somewhere to publish them to.
fn start_publisher(node: &Arc<Node>, journal: &JournalReader) -> Result<Option<Publisher>> {
    // Registered in any case: the metrics page has the same measures on every node.
    let metrics = PublishMetrics::register();
    let Some(options) = node.config().kafka.clone() else { return Ok(None) };
    let programs = {
        let node = Arc::clone(node);
        Arc::new(move || node.programs())
    };
    Publisher::start(options, &node.config().data, journal.clone(), programs, metrics).map(Some)
}

impl Engine {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Takes the node down in order, within about `patience` for what is under way and the last checkpoint.
    /// What is not finished then is as safe as after a kill: it is in the journal.
    ///
    /// # Errors
    /// A fault of the journal or store.
    pub fn shutdown(self, patience: Duration) -> Result<()> {
        let node = &self.node;
        let until = Instant::now() + patience;
        node.permits.drain();
        self.retention.stop();
        while node.permits.under_way() > 0 && Instant::now() < until && !node.has_faulted() {
            std::thread::sleep(STOP_POLL);
        }
        node.stop_settling();
        node.ask_flush();
        for (shard, exchange) in (0..node.shards()).map(|s| (s, &node.exchanges()[node.worker_of(s) as usize])) {
            exchange.send([Message::Input(shard, Input::Flush)]);
        }
        while !node.is_flushed() && Instant::now() < until && !node.has_faulted() {
            std::thread::sleep(STOP_POLL);
        }
        node.stop();
        for worker in self.workers {
            // A worker that panicked has stopped the node already.
            let _ = worker.join();
        }
        drop(self.aliases);
        self.alias_owner.join()?;
        node.reader().stop();
        node.feed().stop();
        node.keeper().stop();
        let _ = self.store.join();
        if let Some(publisher) = self.publisher {
            publisher.stop(until.saturating_duration_since(Instant::now()).min(PUBLISH_PATIENCE));
        }
        node.committer().stop();
        match self.journal.join() {
            Ok(Some(journal)) => journal.close(),
            _ => Err(Error::Stopped("the journal had failed; the next start recovers".into())),
        }
    }
}

fn worker_thread(
    node: Arc<Node>,
    index: usize,
    shards: Vec<ShardStart>,
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
async fn spawn_shards(node: &Arc<Node>, index: usize, shards: Vec<ShardStart>) -> Result<Vec<Option<Arc<Inbox>>>> {
    let failed = |error: ractor::SpawnErr| Error::Stopped(format!("an actor did not start: {error}"));
    let (supervisor, _) = Supervisor::spawn(None, Supervisor, Arc::clone(node)).await.map_err(failed)?;
    let mut inboxes: Vec<Option<Arc<Inbox>>> = (0..node.shards()).map(|_| None).collect();
    let share = u64::from(node.shards());
    let memory = node.config().memory_bytes;
    let limits = ShardLimits {
        resident_bytes: usize::try_from(memory / share).unwrap_or(usize::MAX),
        filter_bytes: usize::try_from(memory / FILTER_SHARE / share).unwrap_or(usize::MAX),
        checkpoint_records: (CHECKPOINT_RECORDS / share).max(1),
        checkpoint_interval_ms: node.config().checkpoint_interval_ms,
        pack_after_ms: PACK_AFTER_MS,
    };
    for start in shards {
        let inbox = Arc::new(Inbox::default());
        let id = start.id;
        let arguments = ShardArguments {
            shard: Shard::new(start, limits),
            node: Arc::clone(node),
            exchange: Arc::clone(&node.exchanges()[index]),
            inbox: Arc::clone(&inbox),
        };
        Actor::spawn_linked(None, ShardActor, arguments, supervisor.get_cell()).await.map_err(failed)?;
        inboxes[id as usize] = Some(inbox);
    }
    Ok(inboxes)
}
