//! Starting and stopping a node: listeners, worker threads, signals.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::cli::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE};
use crate::config::{SettingError, Settings};
use crate::connection::serve_worker;
use crate::context::{Context, Shared};
use crate::{logging, operations};

/// File descriptors that connections may not take: journal, store, listeners, log.
const FILES_RESERVED: u64 = 512;
/// Where to wait for scrapers.
const METRICS_BACKLOG: i32 = 64;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The system refused something.
    #[error("cannot {action} {subject}: {source}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setting(_) => EXIT_USAGE,
            Self::System { .. } => EXIT_FAILED,
        }
    }

    fn system(action: &'static str, subject: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, subject: subject.to_string(), source }
    }
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where it serves metrics.
    pub metrics_address: Option<SocketAddr>,
    /// What its workers share.
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    /// Waits until the node has stopped, which [`Shared::drain`] begins.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                self.shared.fail();
            }
        }
    }
}

/// The number of workers: the setting, or one per core.
pub fn worker_count(settings: &Settings) -> usize {
    match settings.workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        workers => usize::from(workers),
    }
}

/// Binds, and starts the threads of a node. The node refuses business with `not-ready` until its readiness
/// checks are set on [`Node::shared`].
pub fn start(mut settings: Settings) -> Result<Node, StartError> {
    settings.max_connections = connections_within_file_limit(settings.max_connections);
    let workers = worker_count(&settings);
    let listeners = bind(settings.listen.0, workers, settings.listen_backlog)?;
    let address =
        listeners[0].local_addr().map_err(StartError::system("read the address of", settings.listen.0))?;
    let metrics_listener = match settings.metrics_listen.0 {
        Some(address) => Some(listen(address, false, METRICS_BACKLOG)?),
        None => None,
    };
    let metrics_address = metrics_listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let shared = Shared::new(settings, workers)?;
    let mut threads = Vec::with_capacity(workers + 1);
    for (worker, listener) in listeners.into_iter().enumerate() {
        threads.push(start_worker(listener, shared.clone(), worker)?);
    }
    threads.push(start_operations(metrics_listener, shared.clone())?);
    Ok(Node { address, metrics_address, shared, threads })
}

/// Sockets that share one address, so that the system spreads connections over the workers.
fn bind(address: SocketAddr, workers: usize, backlog: u32) -> Result<Vec<TcpListener>, StartError> {
    // Sockets that share an address share it with any process of the same user: another node on this port
    // would get a part of our connections. A socket that does not share fails where one listens already.
    let probe = listen(address, false, 1)?;
    let address = probe.local_addr().map_err(StartError::system("read the address of", address))?;
    drop(probe);
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    (0..workers).map(|_| listen(address, true, backlog)).collect()
}

fn listen(address: SocketAddr, shared: bool, backlog: i32) -> Result<TcpListener, StartError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(socket.into())
    };
    bound().map_err(StartError::system("listen on", address))
}

/// Starts one worker: a thread with a runtime of its own. A worker that ends by itself stops the node.
fn start_worker(
    listener: TcpListener,
    shared: Arc<Shared>,
    worker: usize,
) -> Result<JoinHandle<()>, StartError> {
    let stopped = StopNode(shared.clone());
    thread::Builder::new()
        .name(format!("worker-{worker}"))
        .spawn(move || {
            let stopped = stopped;
            let served = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                let local = LocalSet::new();
                let context = Rc::new(Context::new(shared, worker));
                local.block_on(&runtime, serve_worker(listener, context))
            });
            if let Err(error) = served {
                tracing::error!(worker, %error, "a worker cannot serve");
            }
            drop(stopped);
        })
        .map_err(StartError::system("start", "a worker thread"))
}

/// Stops the node when a worker ends, however it ends.
struct StopNode(Arc<Shared>);

impl Drop for StopNode {
    fn drop(&mut self) {
        if !self.0.is_draining() {
            self.0.fail();
        }
    }
}

fn start_operations(
    listener: Option<TcpListener>,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, StartError> {
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
            }),
        );
    };
    thread::Builder::new()
        .name("operations".to_owned())
        .spawn(run)
        .map_err(StartError::system("start", "the metrics thread"))
}

/// Raises the soft file limit to the hard one, and bounds `wanted` by what it leaves.
fn connections_within_file_limit(wanted: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let Some(files) = files else { return wanted };
    // A small limit is shared: half of it.
    let most = files.saturating_sub(FILES_RESERVED).max(files / 2).max(1);
    match u32::try_from(most) {
        Ok(most) if most < wanted => {
            tracing::info!(max_connections = most, files, "the file limit bounds connections");
            most
        }
        _ => wanted,
    }
}

/// Runs a node until it is told to stop; returns the exit code. `open` starts what stands behind the front
/// end, and `close` stops it when no request is left.
///
/// The first SIGTERM or SIGINT drains; a second one ends the process at once with code 1, which loses
/// nothing that was acknowledged.
pub fn run(
    settings: Settings,
    open: impl FnOnce(&Arc<Shared>) -> Result<(), StartError>,
    close: impl FnOnce() -> Result<(), String>,
) -> u8 {
    let result = logging::start(settings.log_format, &settings.log_level)
        .map_err(StartError::from)
        .and_then(|()| run_node(settings, open));
    match result {
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            error.exit_code()
        }
        Ok(failed) => match close() {
            Ok(()) if !failed => EXIT_DONE,
            Ok(()) => EXIT_FAILED,
            Err(error) => {
                tracing::error!(error, "the node did not stop cleanly");
                EXIT_FAILED
            }
        },
    }
}

fn run_node(
    settings: Settings,
    open: impl FnOnce(&Arc<Shared>) -> Result<(), StartError>,
) -> Result<bool, StartError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::system("start", "the signal runtime"))?;
    runtime.block_on(async {
        let failed = || StartError::system("watch", "signals");
        let mut terminate = signal(SignalKind::terminate()).map_err(failed())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed())?;
        let data = settings.data.clone();
        let node = start(settings)?;
        let shared = node.shared.clone();
        if let Err(error) = open(&shared) {
            shared.fail();
            node.join();
            return Err(error);
        }
        announce(&node, &data);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = shared.drained() => {}
        }
        tracing::info!("stopping");
        shared.drain();
        let joined = tokio::task::spawn_blocking(|| node.join());
        tokio::select! {
            _ = joined => {}
            _ = terminate.recv() => end_at_once(),
            _ = interrupt.recv() => end_at_once(),
        }
        Ok(shared.has_failed())
    })
}

fn end_at_once() {
    tracing::warn!("a second signal: ending at once");
    std::process::exit(i32::from(EXIT_FAILED));
}

fn announce(node: &Node, data: &std::path::Path) {
    let mut text = format!("listening on http://{}\n", node.address);
    if let Some(address) = node.metrics_address {
        text += &format!("metrics on http://{address}\n");
    }
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    text += &format!(
        "data in {}\ntry: curl -i http://{}/api/v1/points/m-1/earn -d '{{\"points\":100,\"reference_id\":\"first\"}}'\n",
        data.display(),
        node.address
    );
    // Whoever started the node may have closed its end; that does not stop it.
    let mut output = io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
