//! A front: the gateway of a node without shards. Its workers serve clients as those of any node do, and reach
//! the accounts over a link each.

use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use crate::cluster::{self, Cluster, Peers};
use crate::config::{SettingError, Settings};
use crate::connection::serve_worker;
use crate::context::{Context, Shared};
use crate::forward::handshake::LinkSecret;
use crate::link::{Known, Link, LinkError, LinkLimits, Owner};
use crate::owner::default_secret_file;
use crate::peer::Peer;
use crate::reach::Backend;

/// The readiness check of the links.
const CHECK_OWNER: &str = "owner";

/// What a front knows of its owner before it has met it.
pub struct Destination {
    peer: Peer,
    secret: LinkSecret,
}

/// The destination that the settings name, if this node is a front.
///
/// # Errors
/// A secret that cannot be read.
pub fn destination(settings: &Settings) -> Result<Option<Destination>, SettingError> {
    let Some(peer) = settings.front_of.0.clone() else { return Ok(None) };
    let file: Option<PathBuf> = match (&settings.owner_secret.0, &peer) {
        (Some(file), _) => Some(file.clone()),
        (None, Peer::Unix(path)) => Some(default_secret_file(path)),
        (None, Peer::Tcp(_)) => None,
    };
    let file = file.ok_or_else(|| SettingError("--front-of on TCP needs --owner-secret FILE".to_owned()))?;
    let secret = LinkSecret::read(&file).map_err(SettingError)?;
    Ok(Some(Destination { peer, secret }))
}

/// How a front's workers meet their owners.
#[derive(Clone)]
struct Meeting {
    peers: Arc<Peers>,
    /// Who is met first.
    first: Peer,
    owner: Arc<Owner>,
}

/// Starts the workers; when every link stands, and after `before_serving`, each serves its listener until the node
/// is drained. The threads end then.
///
/// # Errors
/// The owner is one with which no link can stand, or a thread cannot be started.
pub fn open(
    destination: Destination,
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    before_serving: impl FnOnce(),
) -> Result<Vec<JoinHandle<()>>, LinkError> {
    let settings = &shared.settings;
    let limits = LinkLimits::of(settings);
    let on_state: cluster::OnState = {
        let shared = Arc::clone(shared);
        Arc::new(move |state| shared.set_check(CHECK_OWNER, state))
    };
    let known = Arc::new(Known::of_front());
    let workers = listeners.len();
    let first = destination.peer.clone();
    let peers =
        Peers::new(Arc::clone(&known), destination.secret.clone(), limits, workers, Some(Arc::clone(&on_state)));
    let on_owner = Box::new(move |state| on_state(state));
    let owner = Owner::new(destination.peer, destination.secret, workers, limits, known, false, on_owner);
    let meeting = Meeting { peers, first, owner: Arc::new(owner) };
    let (linked, all_linked) = mpsc::channel();
    let serve = tokio::sync::watch::Sender::new(false);
    let mut threads = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let (shared, meeting) = (Arc::clone(shared), meeting.clone());
        let (linked, may_serve) = (linked.clone(), serve.subscribe());
        let run = move || {
            let serving = shared.serving();
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // The starter waits for exactly one message of each worker.
                Err(error) => return drop(linked.send(Err(LinkError::Io(error)))),
            };
            LocalSet::new().block_on(&runtime, work(index, shared, listener, meeting, linked, may_serve));
            drop(serving);
        };
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(run)?);
    }
    drop(linked);
    for _ in &threads {
        // A worker that is told to stop before its link stands ends without a message.
        if let Ok(result) = all_linked.recv() {
            result?;
        }
    }
    before_serving();
    serve.send_replace(true);
    Ok(threads)
}

async fn work(
    index: usize,
    shared: Arc<Shared>,
    listener: TcpListener,
    meeting: Meeting,
    linked: mpsc::Sender<Result<(), LinkError>>,
    mut may_serve: tokio::sync::watch::Receiver<bool>,
) {
    // The starter may have gone with an error of another worker.
    let link = Link::new(meeting.owner, index);
    let running = spawn_local(link.clone().run(Some(move |first| drop(linked.send(first)))));
    tokio::select! {
        allowed = may_serve.wait_for(|may| *may) => if allowed.is_err() { return },
        () = shared.drained() => return,
    }
    // An owner that is one of many has told who the others are before its link stood.
    let backend = if meeting.peers.is_cluster() {
        running.abort();
        let cluster = Cluster::new(meeting.peers, None, index);
        cluster.meet(&meeting.first);
        spawn_local(cluster.clone().keep_links());
        tokio::select! {
            () = cluster.met() => {}
            () = shared.drained() => return,
        }
        Backend::Cluster(cluster)
    } else {
        Backend::Owner(link)
    };
    let context = Rc::new(Context::with_backend(Arc::clone(&shared), index, backend));
    if let Err(error) = serve_worker(listener, context, shared.drained()).await {
        tracing::error!(worker = index, %error, "a worker cannot serve");
        shared.fail();
    }
    running.abort();
}
