//! A front: the gateway of a node without shards. Its workers serve clients as those of any node do, and reach
//! the accounts over a link each.

use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{AbortHandle, LocalSet, spawn_local};

use crate::cluster::{self, Cluster, Peers};
use crate::config::{SettingError, Settings};
use crate::connection::serve_worker;
use crate::context::{Context, Shared};
use crate::error::Error;
use crate::forward::handshake::LinkSecret;
use crate::link::{Known, Link, LinkLimits, Owner};
use crate::owner::default_secret_file;
use crate::peer::Peer;
use crate::reach::Backend;

/// The readiness check of the links.
const CHECK_OWNER: &str = "owner";

/// What a front knows of its owners before it has met one.
pub struct Destination {
    peers: Vec<Peer>,
    secret: LinkSecret,
}

/// The destination that the settings name, if this node is a front.
///
/// # Errors
/// A secret that cannot be read.
pub fn destination(settings: &Settings) -> Result<Option<Destination>, SettingError> {
    let peers = settings.front_of.clone();
    let file: Option<PathBuf> = match (&settings.owner_secret.0, &peers[..]) {
        (_, []) => return Ok(None),
        (Some(file), _) => Some(file.clone()),
        (None, [Peer::Unix(path)]) => Some(default_secret_file(path)),
        (None, _) => None,
    };
    let file = file.ok_or_else(|| SettingError("--front-of on TCP needs --owner-secret FILE".to_owned()))?;
    let secret = LinkSecret::read(&file).map_err(SettingError)?;
    Ok(Some(Destination { peers, secret }))
}

/// How a front's workers meet their owners.
#[derive(Clone)]
struct Meeting {
    peers: Arc<Peers>,
    /// Who may be met first.
    first: Vec<Peer>,
    /// The same as long as it is not known whether they are a cluster.
    owners: Vec<Arc<Owner>>,
    chosen: Chosen,
}

/// The first owner with which a link stood. Where it is one by itself, all workers go to that one.
#[derive(Clone, Default)]
struct Chosen(Arc<Mutex<Option<usize>>>);

impl Chosen {
    fn choose(&self, number: usize) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(number) == number
    }

    /// Calls unless another was chosen; none is while that runs.
    fn unless_another(&self, number: usize, call: impl FnOnce()) {
        let chosen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chosen.is_none_or(|chosen| chosen == number) {
            call();
        }
    }
}

impl Meeting {
    fn new(destination: Destination, shared: &Arc<Shared>, workers: usize) -> Self {
        let limits = LinkLimits::of(&shared.settings);
        let on_state: cluster::OnState = {
            let shared = Arc::clone(shared);
            Arc::new(move |state| shared.set_check(CHECK_OWNER, state))
        };
        let (known, chosen) = (Arc::new(Known::of_front()), Chosen::default());
        let Destination { peers: first, secret } = destination;
        let owner = |(number, peer): (usize, &Peer)| {
            let (on_state, chosen) = (Arc::clone(&on_state), chosen.clone());
            let on_owner = Box::new(move |state| chosen.unless_another(number, || on_state(state)));
            Arc::new(Owner::new(peer.clone(), secret.clone(), workers, limits, Arc::clone(&known), false, on_owner))
        };
        let owners = first.iter().enumerate().map(owner).collect();
        let peers = Peers::new(known, secret, limits, workers, Some(on_state));
        Self { peers, first, owners, chosen }
    }
}

/// Starts the workers; when each has a link, and after `before_serving`, each serves its listener until the node
/// is drained. The threads end then.
///
/// # Errors
/// All owners are such that no link can stand with them, or a thread cannot be started.
pub fn open(
    destination: Destination,
    shared: &Arc<Shared>,
    listeners: Vec<TcpListener>,
    before_serving: impl FnOnce(),
) -> Result<Vec<JoinHandle<()>>, Error> {
    let meeting = Meeting::new(destination, shared, listeners.len());
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
                Err(error) => return drop(linked.send(Err(Error::Link(error)))),
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

/// Waits for the first link that stands, of this worker; its way to the accounts if the owner is one by itself, and
/// what runs the links.
///
/// # Errors
/// None can ever stand.
async fn meet(meeting: &Meeting, index: usize) -> Result<(Option<Link>, Vec<AbortHandle>), Error> {
    // Every owner sends at most once.
    let (met, mut meetings) = unbounded_channel();
    let mut links = Vec::new();
    for (number, owner) in meeting.owners.iter().enumerate() {
        let link = Link::new(Arc::clone(owner), index);
        let met = met.clone();
        let running = spawn_local(link.clone().run(Some(move |first| drop(met.send((number, first))))));
        links.push((link, running.abort_handle()));
    }
    drop(met);
    let mut refused = Error::NoOwner;
    while let Some((number, first)) = meetings.recv().await {
        match first {
            // An owner that is one of many has told who the others are before its link stood.
            Ok(()) if meeting.peers.is_cluster() => return Ok((None, links.into_iter().map(|link| link.1).collect())),
            Ok(()) if meeting.chosen.choose(number) => {
                meeting.owners[number].tell_state();
                let (link, running) = links.swap_remove(number);
                links.iter().for_each(|(_, running)| running.abort());
                return Ok((Some(link), vec![running]));
            }
            Ok(()) => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn work(
    index: usize,
    shared: Arc<Shared>,
    listener: TcpListener,
    meeting: Meeting,
    linked: mpsc::Sender<Result<(), Error>>,
    mut may_serve: tokio::sync::watch::Receiver<bool>,
) {
    let met = tokio::select! {
        met = meet(&meeting, index) => met,
        () = shared.drained() => return,
    };
    // The starter may have gone with an error of another worker.
    let (link, running) = match met {
        Ok(met) => {
            let _ = linked.send(Ok(()));
            met
        }
        Err(error) => return drop(linked.send(Err(error))),
    };
    drop(linked);
    tokio::select! {
        allowed = may_serve.wait_for(|may| *may) => if allowed.is_err() { return },
        () = shared.drained() => return,
    }
    let backend = match link {
        Some(link) => Backend::Owner(link),
        None => {
            running.iter().for_each(AbortHandle::abort);
            let cluster = Cluster::new(meeting.peers, None, index);
            meeting.first.iter().for_each(|peer| cluster.meet(peer));
            spawn_local(cluster.clone().keep_links());
            tokio::select! {
                () = cluster.met() => {}
                () = shared.drained() => return,
            }
            Backend::Cluster(cluster)
        }
    };
    let context = Rc::new(Context::with_backend(Arc::clone(&shared), index, backend));
    if let Err(error) = serve_worker(listener, context, shared.drained()).await {
        tracing::error!(worker = index, %error, "a worker cannot serve");
        shared.fail();
    }
    running.iter().for_each(AbortHandle::abort);
}
