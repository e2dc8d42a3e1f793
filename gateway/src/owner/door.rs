//! The listener for fronts, and the secret that it asks for.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use meed_engine::error::Error as EngineError;
use meed_engine::secrets::{Secrets, keep_secret};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::Error;
use crate::forward::handshake::LinkSecret;
use crate::forward::socket::Socket;
use crate::peer::Peer;

/// Most connections of fronts at once, those included that have not proved themselves.
const FRONTS_MAX: usize = 1024;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time between two log lines about fronts that were refused.
const REFUSED_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Random bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(unix::UnixListener),
}

/// A connection that has not proved itself, with its place.
pub(super) struct Stream {
    stream: AnyStream,
    permit: OwnedSemaphorePermit,
}

enum AnyStream {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

impl Stream {
    /// The socket on this thread's runtime, and its place.
    pub(super) fn into_socket(self) -> io::Result<(Socket, OwnedSemaphorePermit)> {
        let socket = match self.stream {
            AnyStream::Tcp(stream) => Socket::of_tcp(TcpStream::from_std(stream)?)?,
            AnyStream::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        };
        Ok((socket, self.permit))
    }
}

type Queue = mpsc::UnboundedReceiver<Stream>;

/// The listener for fronts.
pub struct Door {
    listener: Mutex<Option<Listener>>,
    socket_file: Option<PathBuf>,
    /// Where it listens, as a front has to name it.
    pub address: String,
    /// That of the keyspace, where no file has one, is known when the node runs.
    secret: OnceLock<LinkSecret>,
    queues: Vec<(mpsc::UnboundedSender<Stream>, Mutex<Option<Queue>>)>,
    places: Arc<Semaphore>,
    refused: metrics::Counter,
    logged: Mutex<Option<Instant>>,
}

impl Door {
    /// Listens at `peer` for fronts that know the secret in `secret_file`, and spreads them over `workers`. For a
    /// Unix socket without such a file one is made beside it, `PATH.secret`, mode 0600. In a cluster the node sets
    /// the secret of its keyspace instead.
    ///
    /// # Errors
    /// An address that cannot be used, a secret that cannot be read.
    pub async fn open(
        peer: &Peer,
        secret_file: Option<&Path>,
        workers: usize,
        in_cluster: bool,
    ) -> Result<Arc<Self>, Error> {
        let (listener, address, default_secret) = match peer {
            Peer::Unix(path) => {
                let listener = listen_unix(path)?;
                (Listener::Unix(listener), peer.to_string(), Some(default_secret_file(path)))
            }
            Peer::Tcp(address) => {
                let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std);
                let listener = bound.map_err(Error::system("listen for fronts on", address))?;
                let local = listener.local_addr().map_err(Error::system("read the address of", address))?;
                (Listener::Tcp(listener), format!("http://{local}"), None)
            }
        };
        let secret = match (secret_file, default_secret) {
            (Some(file), _) => LinkSecret::read(file).map(OnceLock::from),
            (None, _) if in_cluster => Ok(OnceLock::new()),
            (None, Some(file)) => {
                make_secret(&file)?;
                LinkSecret::read(&file).map(OnceLock::from)
            }
            (None, None) => Err("a listener for fronts on TCP needs --owner-secret FILE".to_owned()),
        };
        metrics::describe_gauge!("meed_fronts_connected", "Links of fronts.");
        metrics::describe_counter!(
            "meed_fronts_refused_total",
            "Connections to the listener for fronts that proved nothing."
        );
        Ok(Arc::new(Self {
            socket_file: match peer {
                Peer::Unix(path) => Some(path.clone()),
                Peer::Tcp(_) => None,
            },
            listener: Mutex::new(Some(listener)),
            address,
            secret: secret.map_err(Error::Secret)?,
            queues: (0..workers)
                .map(|_| {
                    // `FRONTS_MAX` bounds them all together.
                    let (sender, queue) = mpsc::unbounded_channel();
                    (sender, Mutex::new(Some(queue)))
                })
                .collect(),
            places: Arc::new(Semaphore::new(FRONTS_MAX)),
            refused: metrics::counter!("meed_fronts_refused_total"),
            logged: Mutex::default(),
        }))
    }

    /// The secret; `keyspace` is that of the node's keyspace, which counts where no file has one.
    pub(crate) fn secret(&self, keyspace: &Secrets) -> &LinkSecret {
        self.secret.get_or_init(|| LinkSecret::of_keyspace(keyspace))
    }

    /// The connections for a worker; once.
    pub(super) fn take_queue(&self, worker: usize) -> Option<Queue> {
        self.queues.get(worker)?.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A connection proved nothing.
    pub(super) fn refused(&self, why: &str) {
        self.refused.increment(1);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= REFUSED_LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!("a connection to the listener for fronts was refused: {why}");
        }
    }

    /// Takes connections and gives them to the workers in turn; ends only with an error, which is logged.
    pub(super) async fn accept(&self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let accepted = match listener {
            Some(Listener::Tcp(listener)) => self.accept_tcp(listener).await,
            Some(Listener::Unix(listener)) => self.accept_unix(listener).await,
            None => Ok(()),
        };
        if let Err(error) = accepted {
            tracing::error!(%error, "cannot listen for fronts");
        }
    }

    async fn accept_tcp(&self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        for worker in (0..self.queues.len()).cycle() {
            let stream = listener.accept().await.and_then(|(stream, _)| stream.into_std()).map(AnyStream::Tcp);
            self.give(worker, stream).await;
        }
        Ok(())
    }

    async fn accept_unix(&self, listener: unix::UnixListener) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        for worker in (0..self.queues.len()).cycle() {
            let stream = listener.accept().await.and_then(|(stream, _)| stream.into_std()).map(AnyStream::Unix);
            self.give(worker, stream).await;
        }
        Ok(())
    }

    async fn give(&self, worker: usize, stream: io::Result<AnyStream>) {
        match (stream, Arc::clone(&self.places).try_acquire_owned()) {
            // A worker that is gone is stopping, and so is the node.
            (Ok(stream), Ok(permit)) => drop(self.queues[worker].0.send(Stream { stream, permit })),
            (Ok(_), Err(_)) => self.refused("there are too many connections"),
            (Err(_), _) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }

    /// Nobody is let in any more.
    pub(super) fn close(&self) {
        if let Some(file) = &self.socket_file {
            // It may be gone already.
            let _ = fs::remove_file(file);
        }
    }
}

/// Where the secret of a Unix socket lies when no file is named.
pub(crate) fn default_secret_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".secret");
    PathBuf::from(name)
}

/// Makes a secret unless there is one.
fn make_secret(file: &Path) -> Result<(), Error> {
    if file.exists() {
        return Ok(());
    }
    let mut random = [0; SECRET_BYTES];
    getrandom::fill(&mut random).map_err(EngineError::from)?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    // Another process may have been quicker: what it made counts.
    keep_secret(file, text.as_bytes())?;
    Ok(())
}

/// Listens on a Unix socket that only this user can open. A socket that a killed node left is replaced.
fn listen_unix(path: &Path) -> Result<unix::UnixListener, Error> {
    let at = || path.display();
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        if unix::UnixStream::connect(path).is_ok() {
            return Err(Error::system("listen for fronts on", at())(io::ErrorKind::AddrInUse.into()));
        }
        fs::remove_file(path).map_err(Error::system("remove", at()))?;
    }
    let listener = unix::UnixListener::bind(path).map_err(Error::system("listen for fronts on", at()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::system("restrict", at()))?;
    listener.set_nonblocking(true).map_err(Error::system("listen for fronts on", at()))?;
    Ok(listener)
}
