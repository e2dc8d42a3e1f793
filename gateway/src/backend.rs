//! Between the front end and the engine: settings in, a running engine out.

use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use meed_engine::config::{EngineConfig, KafkaOptions, UPKEEP_INTERVAL, retention_ms};
use meed_engine::error::{Error, Result};
use meed_engine::journal::cql::CqlConfig;
use meed_engine::node::Node;
use meed_engine::ownership::Ownership;
use meed_engine::permits::PermitLimits;
use meed_engine::start::{Engine, WorkerMain, start};

use tokio::task::{JoinHandle, spawn_local};

use meed_schemas::command::{Command, Keys, Request, RequestId};
use meed_schemas::ids::{ID_FORM, Identity, check_id};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::program::{BUILT_IN_DOCUMENT, BUILT_IN_NAME, Document};

use crate::cluster::{Cluster, Peers};
use crate::config::{JournalKind, SettingError, Settings};
use crate::connection::serve_worker;
use crate::context::{Context, Shared};
use crate::exit::exit_code;
use crate::forward::Unanswered;
use crate::link::{Known, LinkLimits};
use crate::owner::{Door, serve_fronts};
use crate::reach::{Backend, Local};

/// The engine's part of the settings. `shards` only when somebody set it: a folder or keyspace keeps its own.
///
/// # Errors
/// A password file that cannot be read.
pub fn engine_config(settings: &Settings, shards: Option<u16>) -> std::result::Result<EngineConfig, SettingError> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Ok(EngineConfig {
        data: settings.data.clone(),
        cql: if settings.journal == JournalKind::Cql { Some(cql_config(settings)?) } else { None },
        shards,
        workers: usize::from(settings.workers),
        memory_bytes: settings.memory_bytes.0,
        permits: PermitLimits {
            commands: i64::from(settings.admission_commands),
            bytes: signed(settings.admission_bytes.0),
            commands_per_shard: i64::from(settings.admission_commands_per_shard),
        },
        request_deadline_ms: signed(settings.request_deadline_ms),
        checkpoint_interval_ms: signed(settings.checkpoint_interval_ms),
        checkpoint_lag_records: settings.checkpoint_lag_records,
        segment_bytes: settings.segment_bytes.0,
        journal_retention_ms: retention_ms(settings.journal_retention_days),
        pack_segments: settings.pack_segments,
        upkeep_interval: UPKEEP_INTERVAL,
        clock_jump_ms: signed(settings.clock_jump_ms),
        settle_gap_days: i64::from(settings.settle_gap_days),
        settle_past_gap: settings.settle_past_gap,
        kafka: kafka_options(settings),
    })
}

/// How a node reaches its CQL cluster.
///
/// # Errors
/// A password file that cannot be read.
pub fn cql_config(settings: &Settings) -> std::result::Result<CqlConfig, SettingError> {
    let named = |name: &String| (!name.is_empty()).then(|| name.clone());
    let credentials = match named(&settings.cql_user) {
        None => None,
        Some(user) => {
            let file = &settings.cql_password_file;
            let text = std::fs::read_to_string(file)
                .map_err(|error| SettingError(format!("cannot read {}: {error}", file.display())))?;
            Some((user, text.lines().next().unwrap_or_default().to_owned()))
        }
    };
    Ok(CqlConfig {
        hosts: settings.cql_nodes.clone(),
        keyspace: settings.cql_keyspace.clone(),
        credentials,
        datacenter: named(&settings.cql_datacenter),
        replicas: settings.cql_replicas,
        appends: usize::try_from(settings.cql_appends).unwrap_or(usize::MAX),
        timeout: Duration::from_millis(settings.cql_timeout_ms),
        lease: Duration::from_millis(settings.lease_ms),
        bucket_bytes: settings.cql_bucket_bytes.0,
        batch_bytes: usize::try_from(settings.cql_batch_bytes.0).unwrap_or(usize::MAX),
        node_name: settings.node.clone(),
        address: String::new(),
    })
}

/// Where events are published, if anywhere.
pub fn kafka_options(settings: &Settings) -> Option<KafkaOptions> {
    let properties = settings.kafka_properties.iter().map(|(name, value)| (name.clone(), value.clone()));
    (!settings.kafka.is_empty()).then(|| KafkaOptions {
        brokers: settings.kafka.clone(),
        events_topic: settings.kafka_events_topic.clone(),
        balances_topic: Some(settings.kafka_balances_topic.clone()).filter(|topic| topic != "off"),
        balances_interval_ms: settings.kafka_balances_interval_ms,
        properties: properties.collect(),
    })
}

/// A program document to be loaded at start.
#[derive(Debug)]
pub struct ProgramFile {
    /// The program: the file's name without its extension.
    name: String,
    /// The canonical document.
    document: Box<str>,
    /// Whether it is loaded only when the program does not exist.
    only_new: bool,
}

/// Reads the program documents of `--programs`, after the built-in program.
///
/// # Errors
/// A file that cannot be read, whose name is no program id, or that is no program document.
pub fn read_programs(files: &[PathBuf]) -> std::result::Result<Vec<ProgramFile>, SettingError> {
    let canonical = |bytes: &[u8], what: &str| {
        let document = Document::parse(bytes).map_err(|error| SettingError(format!("{what}: {error}")))?;
        Ok(document.to_canonical_json().into_boxed_str())
    };
    let mut programs = vec![ProgramFile {
        name: BUILT_IN_NAME.to_owned(),
        document: canonical(BUILT_IN_DOCUMENT.as_bytes(), "the built-in program")?,
        only_new: true,
    }];
    for file in files {
        let at = file.display();
        let name = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| check_id(stem));
        let Some(name) = name else {
            return Err(SettingError(format!(
                "{at}: the file's name without its extension is the program's id, and must be {ID_FORM}"
            )));
        };
        let bytes = std::fs::read(file).map_err(|error| SettingError(format!("cannot read {at}: {error}")))?;
        let document = canonical(&bytes, &at.to_string())?;
        programs.push(ProgramFile { name: name.to_owned(), document, only_new: false });
    }
    Ok(programs)
}

/// Starts the engine and loads the programs; then, after `before_serving`, each of its workers serves one
/// listener, and the fronts that come through the door, until the node is drained.
///
/// # Errors
/// As [`start`]; a program that is refused.
pub fn open(
    config: EngineConfig,
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    programs: Vec<ProgramFile>,
    door: Option<Arc<Door>>,
    before_serving: impl FnOnce(),
) -> Result<Engine> {
    let listeners: Vec<Mutex<Option<TcpListener>>> = listeners.into_iter().map(|l| Mutex::new(Some(l))).collect();
    let (listeners, programs) = (Arc::new(listeners), Arc::new(programs));
    let shared = Arc::clone(shared);
    let (loaded, outcome) = mpsc::channel();
    let peers: Arc<OnceLock<Arc<Peers>>> = Arc::default();
    let serve = tokio::sync::watch::Sender::new(false);
    let may_serve = serve.subscribe();
    let main: WorkerMain = Arc::new(move |worker, aliases| -> Pin<Box<dyn Future<Output = ()>>> {
        let (shared, listeners) = (Arc::clone(&shared), Arc::clone(&listeners));
        let (programs, loaded, mut may_serve) = (Arc::clone(&programs), loaded.clone(), may_serve.clone());
        let (door, peers) = (door.clone(), Arc::clone(&peers));
        Box::pin(async move {
            let _serving = shared.serving();
            let index = usize::from(worker.index());
            let local = Local { worker, aliases };
            let (backend, early) = backend_of(&local, &door, &peers, index, &shared);
            if index == 0 {
                // The starter waits for exactly one message.
                let _ = loaded.send(load_programs(&backend, &programs).await);
            }
            if may_serve.wait_for(|may| *may).await.is_err() {
                return;
            }
            let own = |l: &Mutex<Option<TcpListener>>| l.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(listener) = listeners.get(index).and_then(own) else { return };
            let late = door.filter(|_| early.is_none());
            let late = late.map(|door| spawn_local(serve_fronts(door, index, local, Arc::clone(&shared))));
            let context = Rc::new(Context::with_backend(Arc::clone(&shared), index, backend));
            if let Err(error) = serve_worker(listener, context, shared.drained()).await {
                tracing::error!(worker = index, %error, "a worker cannot serve");
                shared.fail();
            }
            if let Some(fronts) = early.or(late) {
                // Its panic stops the node through the worker's supervisor as any other does.
                let _ = fronts.await;
            }
        })
    });
    let engine = start(config, Box::new(stop_at_once), main)?;
    match outcome.recv() {
        Ok(Ok(())) => {
            before_serving();
            serve.send_replace(true);
            Ok(engine)
        }
        Ok(Err(error)) => engine.shutdown(PATIENCE).and(Err(error)),
        Err(_) => Err(Error::Stopped("the first worker ended while it loaded the programs".into())),
    }
}

/// Time for the shard of a program to have an owner, and between two tries.
const LOAD_PATIENCE: Duration = Duration::from_secs(60);
const LOAD_PAUSE: Duration = Duration::from_millis(20);
/// Time for a node that cannot be used to stop in order.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker's way to the accounts. In a cluster it goes to other nodes too, and they come here from now on: they must
/// reach this node's shards while it loads programs over theirs.
fn backend_of(
    local: &Local,
    door: &Option<Arc<Door>>,
    peers: &OnceLock<Arc<Peers>>,
    index: usize,
    shared: &Arc<Shared>,
) -> (Backend, Option<JoinHandle<()>>) {
    let node = local.worker.node();
    let (Some(ownership), Some(door)) = (node.ownership(), door) else {
        return (Backend::Local(local.clone()), None);
    };
    let peers = peers.get_or_init(|| peers_of(node, ownership, door, shared));
    let cluster = Cluster::new(Arc::clone(peers), Some(local.clone()), index);
    spawn_local(cluster.clone().keep_links());
    let fronts = spawn_local(serve_fronts(Arc::clone(door), index, local.clone(), Arc::clone(shared)));
    (Backend::Cluster(cluster), Some(fronts))
}

/// The other nodes, as those of a cluster know each other.
fn peers_of(node: &Arc<Node>, ownership: &Arc<Ownership>, door: &Door, shared: &Shared) -> Arc<Peers> {
    let known = Arc::new(Known::of_node(node, ownership));
    let limits = LinkLimits::of(&shared.settings);
    Peers::new(known, door.secret(&node.secrets).clone(), limits, node.exchanges().len(), None)
}

async fn load_programs(backend: &Backend, programs: &[ProgramFile]) -> Result<()> {
    for program in programs {
        let request = Request {
            identity: Identity::program_account(&program.name),
            command: Command::PutProgram { document: program.document.clone() },
            keys: Keys::default(),
            fingerprint: 0,
            request_id: RequestId::Made(0),
            traceparent: None,
        };
        let bytes = u32::try_from(program.document.len()).unwrap_or(u32::MAX);
        let began = Instant::now();
        let answer = loop {
            if program.only_new && backend.programs().get(&program.name).is_some() {
                break None;
            }
            match backend.ask(request.clone(), bytes, PATIENCE, Duration::MAX).await {
                Ok(Reply::Refused(Refusal::NotReady | Refusal::Draining | Refusal::OutcomeUnknown)) => {}
                // In a cluster another node may have to begin the program's shard first; a document may be put twice.
                Err(Unanswered::NotReady | Unanswered::Unknown) => {}
                answer => break Some(answer),
            }
            if began.elapsed() > LOAD_PATIENCE {
                return Err(Error::Stopped(format!("nobody took program {}", program.name)));
            }
            tokio::time::sleep(LOAD_PAUSE).await;
        };
        match answer {
            None | Some(Ok(Reply::Executed { .. } | Reply::Program { .. })) => {}
            Some(Ok(Reply::Refused(Refusal::InvalidRequest { field, detail }))) => {
                let name = &program.name;
                return Err(Error::Setting(format!("program {name}: `{field}` {detail}")));
            }
            Some(Ok(other)) => {
                let name = &program.name;
                return Err(Error::Setting(format!("program {name} was not accepted: {other:?}")));
            }
            Some(Err(_)) => return Err(Error::Setting("the limits leave no room to load a program".to_owned())),
        }
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Says what the start found.
pub fn log_recovery(engine: &Engine) {
    let recovered = &engine.recovered;
    let journal = &recovered.journal;
    tracing::info!(
        incarnation = journal.incarnation,
        clean = journal.clean,
        last_batch = journal.last_batch,
        copied_batches = journal.copied_batches,
        replayed_records = recovered.replayed_records,
        journal_ms = milliseconds(recovered.journal_took),
        store_ms = milliseconds(recovered.store_took),
        took_ms = milliseconds(recovered.took),
        "recovered"
    );
    if let Some(cut) = &journal.cut {
        tracing::warn!(file = %cut.file.display(), offset = cut.offset, detail = cut.detail, "a torn tail was cut");
    }
    if let Some(at) = recovered.settles_until {
        tracing::warn!(
            last_record = meed_schemas::time::format(at),
            "the last record is too old: what fell due since is not settled; if the clock is right, start with \
             --settle-past-gap"
        );
    }
}

/// A fault of the engine ends the process at once, as a kill would: nothing more may be acknowledged, and
/// the next start recovers.
fn stop_at_once(error: &Error) {
    tracing::error!(%error, "the node stops: nothing more can be acknowledged");
    std::process::exit(i32::from(exit_code(error)));
}
