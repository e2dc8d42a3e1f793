//! Starting and stopping a node: listeners, worker threads, signals.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use meed_engine::error::Error as EngineError;
use meed_engine::node::Node;
use meed_engine::start::Engine;

use crate::config::{JournalKind, Loaded, LogFormat, Settings, Source};
use crate::connection::serve_worker;
use crate::context::{CHECK_STARTED, Context, Shared};
use crate::error::Error;
use crate::exit::{EXIT_DONE, EXIT_FAILED};
use crate::owner::Door;
use crate::peer::Peer;
use crate::{backend, files, front, logging, metrics, operations};

/// Time for the last checkpoint when clients have used up the time of the drain.
const FLUSH_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// The readiness check that fails when a node is told to stop.
const CHECK_STAYING: &str = "staying";
/// Where to wait for scrapers.
const METRICS_BACKLOG: i32 = 64;

/// The number of workers: the setting, or one per core.
fn worker_count(setting: u16) -> u16 {
    match setting {
        0 => thread::available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX)),
        workers => workers,
    }
}

/// Sockets that share one address, so that the system spreads connections over the workers.
fn bind(settings: &Settings, workers: usize) -> Result<Vec<TcpListener>, Error> {
    // Sockets that share an address share it with any process of the same user: another node on this port
    // would get a part of our connections. A socket that does not share fails where one listens already.
    let probe = listen(settings.listen.0, settings.share_port, 1)?;
    let address = probe.local_addr().map_err(Error::system("read the address of", settings.listen.0))?;
    drop(probe);
    let backlog = i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX);
    (0..workers).map(|_| listen(address, true, backlog)).collect()
}

fn listen(address: SocketAddr, shared: bool, backlog: i32) -> Result<TcpListener, Error> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(socket.into())
    };
    bound().map_err(Error::system("listen on", address))
}

/// The sockets of a node, and what answers on them while there is no engine: health, readiness, metrics,
/// and 503 for everything else.
#[derive(Debug)]
pub struct Front {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where it serves metrics.
    pub metrics_address: Option<SocketAddr>,
    /// What its threads share.
    pub shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    waiting_room: JoinHandle<()>,
    leave: Arc<Notify>,
    operations: JoinHandle<()>,
}

impl Front {
    /// Binds, and answers. `settings` say how many workers there are, at least one.
    ///
    /// # Errors
    /// An address that cannot be bound, credentials that cannot be used, too few files.
    pub fn open(mut settings: Settings) -> Result<Self, Error> {
        settings.max_connections = files::connections_within_limit(settings.max_connections)?;
        let workers = usize::from(settings.workers);
        let listeners = bind(&settings, workers)?;
        let address = listeners[0].local_addr().map_err(Error::system("read the address of", settings.listen.0))?;
        let metrics_listener = match settings.metrics_listen.0 {
            Some(address) => Some(listen(address, false, METRICS_BACKLOG)?),
            None => None,
        };
        let metrics_address = metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok());
        // The waiting room counts for itself, behind the workers.
        let shared = Shared::new(settings, workers + 1)?;
        let clones = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>();
        let clones = clones.map_err(Error::system("share", "the listeners"))?;
        let leave = Arc::new(Notify::new());
        let waiting_room = {
            let shared = shared.clone();
            start_waiting_room(clones, move || Context::new(shared, workers), leave.clone())?
        };
        let operations = start_operations(metrics_listener, shared.clone())?;
        Ok(Self { address, metrics_address, shared, listeners, waiting_room, leave, operations })
    }

    /// Stops answering on the sockets; what was asked is answered. The engine's workers serve from then on.
    fn hand_over(waiting_room: JoinHandle<()>, leave: &Notify) {
        leave.notify_one();
        // It logged what went wrong.
        let _ = waiting_room.join();
    }

    /// Waits until the threads have ended, which [`Shared::drain`] begins.
    pub fn join(self) {
        Self::hand_over(self.waiting_room, &self.leave);
        let _ = self.operations.join();
    }
}

/// Answers on `listeners` until told to leave.
fn start_waiting_room(
    listeners: Vec<TcpListener>,
    context: impl FnOnce() -> Context + Send + 'static,
    leave: Arc<Notify>,
) -> Result<JoinHandle<()>, Error> {
    let run = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot answer while the node starts");
                return;
            }
        };
        LocalSet::new().block_on(&runtime, async move {
            let context = Rc::new(context());
            let (stop, stopping) = watch::channel(false);
            let serve = |listener| {
                let mut stopping = stopping.clone();
                let stopped = async move {
                    let _ = stopping.wait_for(|stop| *stop).await;
                };
                tokio::task::spawn_local(serve_worker(listener, context.clone(), stopped))
            };
            let serving: Vec<_> = listeners.into_iter().map(serve).collect();
            tokio::select! {
                () = leave.notified() => {}
                () = context.shared.drained() => {}
            }
            stop.send_replace(true);
            for served in serving {
                if let Ok(Err(error)) = served.await {
                    tracing::error!(%error, "cannot answer while the node starts");
                }
            }
        });
    };
    thread::Builder::new().name("waiting-room".to_owned()).spawn(run).map_err(Error::system("start", "a thread"))
}

fn start_operations(listener: Option<TcpListener>, shared: Arc<Shared>) -> Result<JoinHandle<()>, Error> {
    let run = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "cannot serve metrics");
                return;
            }
        };
        let drained = shared.clone();
        LocalSet::new().block_on(
            &runtime,
            operations::serve(listener, shared, async move {
                drained.drained().await;
                // A drain that takes long is looked at here: the workers' listeners are closed by then.
                drained.served().await;
            }),
        );
    };
    thread::Builder::new()
        .name("operations".to_owned())
        .spawn(run)
        .map_err(Error::system("start", "the metrics thread"))
}

/// Runs a node until it is told to stop; returns the exit code.
///
/// The first SIGTERM or SIGINT drains; while the node starts there is nothing to drain, and it ends at once. A second one
/// ends the process at once with code 1, which loses nothing that was acknowledged.
pub fn run(loaded: Loaded) -> u8 {
    let settings = &loaded.settings;
    let started = logging::start(settings.log_format, &settings.log_level).map_err(Error::from);
    let is_json = started.is_ok() && settings.log_format == LogFormat::Json;
    end_when_a_thread_panics();
    match started.and_then(|()| run_node(loaded)) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            if is_json {
                tracing::error!(%error, "the node ends");
            } else {
                let _ = writeln!(io::stderr(), "error: {error}");
            }
            error.exit_code()
        }
    }
}

/// Threads whose panics are seen to where they are joined, or cost one connection.
const THREADS_WATCHED: [&str; 4] = ["main", "worker-", "waiting-room", "operations"];

/// A thread of the engine that has panicked does its work no more, and nobody waits for it before the stop: the process
/// ends, as for any other fault, instead of looking well without it.
fn end_when_a_thread_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        tell(info);
        let thread = thread::current();
        let name = thread.name().unwrap_or_default();
        if !THREADS_WATCHED.iter().any(|watched| name.starts_with(watched)) {
            std::process::exit(i32::from(EXIT_FAILED));
        }
    }));
}

fn run_node(loaded: Loaded) -> Result<(), Error> {
    let runtime =
        Builder::new_current_thread().enable_all().build().map_err(Error::system("start", "the signal runtime"))?;
    runtime.block_on(async {
        let failed = || Error::system("watch", "signals");
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate()).map_err(failed())?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed())?,
        };
        let is_set = loaded.source("shards") != Some(Source::Default);
        // Counted once: cores may come and go, and each listener needs its worker.
        let workers = worker_count(loaded.settings.workers);
        let settings = Settings { workers, ..loaded.settings };
        let programs = backend::read_programs(&settings.programs)?;
        let destination = front::destination(&settings)?;
        let is_front = destination.is_some();
        let mut config = backend::engine_config(&settings, is_set.then_some(settings.shards))?;
        // Before the engine registers its measures.
        metrics::recorder();
        let Front { address, metrics_address, shared, listeners, waiting_room, leave, operations } =
            Front::open(settings.clone())?;
        let door = open_door(&settings).await?;
        let door_address = door.as_ref().map(|door| door.address.clone());
        config.cql.iter_mut().for_each(|cql| cql.address = reached_at(&settings, door_address.as_deref()));
        let opening = {
            let shared = shared.clone();
            let hand_over = move || Front::hand_over(waiting_room, &leave);
            tokio::task::spawn_blocking(move || match destination {
                Some(to) => Running::of_front(to, &shared, listeners, hand_over),
                None => Running::of_engine(backend::open(config, &shared, listeners, programs, door, hand_over)?),
            })
        };
        let opened = tokio::select! {
            opened = opening => opened,
            () = signals.any() => end_at_once(EXIT_DONE),
        };
        let running = match opened {
            Ok(opened) => opened?,
            Err(_) => return Err(Error::Engine(EngineError::Stopped("a thread of the start panicked".into()))),
        };
        running.node().into_iter().for_each(|node| shared.set_engine(Arc::clone(node)));
        shared.set_check(CHECK_STARTED, Ok(()));
        announce(address, metrics_address, door_address.as_deref(), (!is_front).then_some(&settings));
        tokio::select! {
            () = signals.any() => {}
            () = shared.drained() => {}
        }
        tracing::info!("stopping");
        let until = Instant::now() + Duration::from_millis(settings.drain_timeout_ms);
        let running = give_away(running, &shared, until, &mut signals).await?;
        shared.drain();
        let stop = async {
            shared.served().await;
            // Clients and engine share one bound; a client that used it up leaves the engine a moment.
            let patience = until.saturating_duration_since(Instant::now()).max(FLUSH_TIMEOUT_MIN);
            let stopped = tokio::task::spawn_blocking(move || running.stop(patience)).await;
            stopped.unwrap_or_else(|_| Err(EngineError::Stopped("a thread of the stop panicked".into())))
        };
        tokio::select! {
            stopped = stop => stopped?,
            () = signals.any() => end_at_once(EXIT_FAILED),
        }
        // It logged what went wrong.
        let _ = operations.join();
        match shared.has_failed() {
            true => Err(Error::Engine(EngineError::Stopped("a worker could not serve".into()))),
            false => Ok(()),
        }
    })
}

/// Gives the shards of a node that stops to other nodes, while it still answers.
async fn give_away(running: Running, shared: &Shared, until: Instant, signals: &mut Signals) -> Result<Running, Error> {
    if shared.is_draining() {
        return Ok(running);
    }
    shared
        .set_check(CHECK_STAYING, Err("the node stops, and gives its shards away if others can have them".to_owned()));
    let leaving = tokio::task::spawn_blocking(move || {
        if let Running::Engine(engine) = &running {
            engine.leave(until);
        }
        running
    });
    tokio::select! {
        left = leaving => left.map_err(|_| Error::Engine(EngineError::Stopped("a thread of the stop panicked".into()))),
        () = signals.any() => end_at_once(EXIT_FAILED),
    }
}

/// Whether `HOST:PORT` is on this machine, as far as its text says.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

async fn open_door(settings: &Settings) -> Result<Option<Arc<Door>>, Error> {
    let in_cluster = settings.journal == JournalKind::Cql;
    if in_cluster && settings.owner_listen.0.is_none() && !settings.cql_nodes.iter().all(|node| is_loopback(node)) {
        tracing::warn!("only nodes on this machine reach this one: give it an address of its own with --owner-listen");
    }
    let local = in_cluster.then(|| Peer::Tcp("127.0.0.1:0".to_owned()));
    let Some(peer) = settings.owner_listen.0.clone().or(local) else { return Ok(None) };
    let secret = settings.owner_secret.0.as_deref();
    Ok(Some(Door::open(&peer, secret, usize::from(settings.workers), in_cluster).await?))
}

/// Where other nodes reach this one.
fn reached_at(settings: &Settings, door_address: Option<&str>) -> String {
    let advertised = settings.advertise.0.as_ref().map(|peer| format!("http://{peer}"));
    advertised.or(door_address.map(str::to_owned)).unwrap_or_default()
}

/// What serves.
enum Running {
    /// The engine of this process.
    Engine(Box<Engine>),
    /// The workers of a front.
    Front(Vec<JoinHandle<()>>),
}

impl Running {
    fn of_engine(engine: Engine) -> Result<Self, Error> {
        backend::log_recovery(&engine);
        Ok(Self::Engine(Box::new(engine)))
    }

    fn of_front(
        to: front::Destination,
        shared: &Arc<Shared>,
        listeners: Vec<TcpListener>,
        before_serving: impl FnOnce(),
    ) -> Result<Self, Error> {
        Ok(Self::Front(
            front::open(to, shared, listeners, before_serving).map_err(|error| Error::Front(Box::new(error)))?,
        ))
    }

    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Engine(engine) => Some(engine.node()),
            Self::Front(_) => None,
        }
    }

    /// Ends it, once nobody is served any more.
    fn stop(self, patience: Duration) -> meed_engine::error::Result<()> {
        match self {
            Self::Engine(engine) => engine.shutdown(patience),
            Self::Front(workers) => {
                // A worker that panicked has been reported.
                workers.into_iter().for_each(|worker| drop(worker.join()));
                Ok(())
            }
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn end_at_once(code: u8) -> ! {
    tracing::warn!("a signal while the node starts or stops: ending at once");
    std::process::exit(i32::from(code));
}

/// Where the data of a node is, for people.
fn data_of(settings: &Settings) -> String {
    match settings.journal {
        JournalKind::Embedded => {
            let data = std::path::absolute(&settings.data).unwrap_or_else(|_| settings.data.clone());
            data.display().to_string()
        }
        JournalKind::Cql => format!("keyspace {} on {}", settings.cql_keyspace, settings.cql_nodes.join(", ")),
    }
}

fn announce(address: SocketAddr, metrics_address: Option<SocketAddr>, door: Option<&str>, owner: Option<&Settings>) {
    let mut text = format!("listening on http://{address}\n");
    if let Some(address) = metrics_address {
        text += &format!("metrics on http://{address}\n");
    }
    if let Some(door) = door {
        text += &format!("fronts on {door}\n");
    }
    if let Some(settings) = owner {
        text += &format!("data in {}\n", data_of(settings));
    }
    text += &format!(
        "try: curl -i http://{address}/api/v1/points/m-1/earn --json '{{\"points\":100,\"reference_id\":\"first\"}}'\n"
    );
    // Whoever started the node may have closed its end; that does not stop it.
    let mut output = io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The variable that has a run of this test program panic, in a thread of this name.
    const PANICKING: &str = "MEED_TEST_PANICKING";

    #[test]
    fn a_panic_of_the_engine_ends_the_process() {
        let name = "server::tests::a_panic_of_the_engine_ends_the_process";
        if let Ok(thread) = std::env::var(PANICKING) {
            end_when_a_thread_panics();
            let panicked = thread::Builder::new().name(thread).spawn(|| panic!("as it was told")).unwrap().join();
            assert!(panicked.is_err());
            return;
        }
        for (thread, code) in [("journal", EXIT_FAILED), ("store", EXIT_FAILED), ("worker-1", EXIT_DONE)] {
            let mut run = std::process::Command::new(std::env::current_exe().unwrap());
            let output = run.args(["--exact", name]).env(PANICKING, thread).output().unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(i32::from(code)), "{thread}: {log}");
        }
    }
}
