//! The accounts of a cluster: those of this process's own shards, if it has any, and those of other nodes over a link
//! to each.
//!
//! A request goes to the owner that the map names. A node that does not own the shard refuses before it decides, and
//! tells its map before that; then the request is asked once more, of the owner that the newest map names. While a
//! shard changes its owner the request waits, up to [`OWNER_WAIT`].

mod route;
mod window;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meed_engine::aliases::{Alias, PutOutcome};
use meed_engine::ownership::Ownership;
use meed_engine::program::Program;
use meed_engine::reader::PageQuery;
use meed_schemas::command::Request;
use meed_schemas::ids::Identity;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::Record;
use metrics::Counter;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;

use crate::error::Error;
use crate::feed::{self, Chunk, NoStart, Start, Wanted};
use crate::forward::Unanswered;
use crate::forward::handshake::LinkSecret;
use crate::link::{Known, Link, LinkLimits, Owner};
use crate::local::Local;
use crate::peer::Peer;
use route::{PAUSE, Place, Route, Time, in_the_end, is_to_ask_again, of_another};
pub use window::Window;

/// Time that a request waits for its shard to have an owner that can be reached; never beyond its deadline.
pub const OWNER_WAIT: Duration = Duration::from_secs(1);

/// Time between two looks whether a front has a link.
const MEET_POLL: Duration = Duration::from_millis(5);

/// What is told of the readiness of all owners together.
pub type OnState = Arc<dyn Fn(Result<(), String>) + Send + Sync>;

/// What the workers of a process know of the nodes.
pub struct Peers {
    known: Arc<Known>,
    secret: LinkSecret,
    limits: LinkLimits,
    workers: usize,
    /// By address, as [`Peer`] shows it.
    owners: Mutex<HashMap<String, Arc<Owner>>>,
    states: Arc<Mutex<HashMap<String, Result<(), String>>>>,
    on_state: Option<OnState>,
}

impl Peers {
    /// Of a process with so many workers. `on_state` is told when readiness changes: ready is who can reach any node.
    pub fn new(
        known: Arc<Known>,
        secret: LinkSecret,
        limits: LinkLimits,
        workers: usize,
        on_state: Option<OnState>,
    ) -> Arc<Self> {
        let (owners, states) = (Mutex::default(), Arc::default());
        Arc::new(Self { known, secret, limits, workers, owners, states, on_state })
    }

    /// Whether an owner has told that it is one of many.
    pub fn is_cluster(&self) -> bool {
        !self.known.ownership.map().seats.is_empty()
    }

    /// The node at an address, as all workers know it.
    pub fn owner(&self, peer: &Peer) -> Arc<Owner> {
        let address = peer.to_string();
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let (states, on_state, name) = (Arc::clone(&self.states), self.on_state.clone(), address.clone());
            let on_owner = move |state| {
                let Some(on_state) = &on_state else { return };
                let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
                states.insert(name.clone(), state);
                let any = states.values().find(|state| state.is_ok()).or(states.values().next());
                on_state(any.cloned().unwrap_or(Ok(())));
            };
            let (known, secret) = (Arc::clone(&self.known), self.secret.clone());
            Arc::new(Owner::new(peer.clone(), secret, self.workers, self.limits, known, true, Box::new(on_owner)))
        };
        Arc::clone(owners.entry(address.clone()).or_insert_with(made))
    }

    /// Forgets nodes that are in the map no more.
    fn forget(&self, address: &str) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
        self.states.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}

/// A worker's way to the accounts of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Rc<Inner>,
}

struct Inner {
    peers: Arc<Peers>,
    local: Option<Local>,
    index: usize,
    links: RefCell<HashMap<String, (Link, AbortHandle)>>,
    /// Addresses that keep their links when the map does not name them: all its nodes may be others one day.
    met: RefCell<HashSet<String>>,
    /// Version of the map whose nodes have links.
    linked: std::cell::Cell<i64>,
    redirects: Counter,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.inner.index)
    }
}

impl Cluster {
    /// Of worker `index`, with the engine of this process if it has one.
    pub fn new(peers: Arc<Peers>, local: Option<Local>, index: usize) -> Self {
        let redirects = metrics::counter!("meed_cluster_redirects_total");
        let (links, met, linked) = (RefCell::default(), RefCell::default(), std::cell::Cell::new(i64::MIN));
        Self { inner: Rc::new(Inner { peers, local, index, links, met, linked, redirects }) }
    }

    /// Keeps links to all nodes of the map for as long as it is polled.
    pub async fn keep_links(self) {
        let mut maps = self.ownership().maps();
        loop {
            self.link_all();
            // The sender lives as long as `self`.
            if maps.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until a node can be asked.
    pub async fn met(&self) {
        while self.any_link().is_err() {
            sleep(MEET_POLL).await;
        }
    }

    /// Links to a node, from now on, whether or not the map names it: it tells the map.
    pub fn meet(&self, peer: &Peer) {
        self.inner.links.borrow_mut().entry(peer.to_string()).or_insert_with(|| self.link(peer));
        self.inner.met.borrow_mut().insert(peer.to_string());
    }

    fn link(&self, peer: &Peer) -> (Link, AbortHandle) {
        let link = Link::new(self.inner.peers.owner(peer), self.inner.index);
        let running = spawn_local(link.clone().run(None::<fn(Result<(), Error>)>));
        (link, running.abort_handle())
    }

    fn ownership(&self) -> &Arc<Ownership> {
        &self.inner.peers.known.ownership
    }

    /// Keys and programs.
    pub fn known(&self) -> &Known {
        &self.inner.peers.known
    }

    /// The time for a request of which at most `left` is left.
    fn time(&self, left: Duration) -> Time {
        let deadline_ms = self.inner.peers.limits.request_deadline_ms;
        Time::start(left.min(Duration::from_millis(u64::try_from(deadline_ms).unwrap_or(0))))
    }

    fn shard(&self, identity: &Identity) -> Result<u16, Unanswered> {
        match u16::try_from(self.ownership().map().seats.len()) {
            Ok(shards) if shards > 0 => Ok(identity.shard(shards)),
            _ => Err(Unanswered::NotReady),
        }
    }

    /// Links to every node of the map, and to no other than those that were met first.
    fn link_all(&self) {
        let map = self.ownership().map();
        if self.inner.linked.replace(map.version) == map.version {
            return;
        }
        let mut wanted: HashMap<String, Peer> = HashMap::new();
        for seat in map.seats.iter().flatten() {
            if seat.member.incarnation == self.ownership().own() {
                continue;
            }
            if let Some(peer) = Peer::parse(&seat.member.address) {
                wanted.insert(peer.to_string(), peer);
            }
        }
        let mut links = self.inner.links.borrow_mut();
        // Without any owner the old ways are the only ones that may bring the next map.
        if !wanted.is_empty() {
            links.retain(|address, (link, running)| {
                let is_met = self.inner.met.borrow().contains(address);
                let is_up = self.inner.local.is_none() && link.has_room().is_ok();
                let stays = wanted.contains_key(address) || is_met || is_up;
                if !stays && !link.is_waited_for() {
                    running.abort();
                    self.inner.peers.forget(address);
                    return false;
                }
                true
            });
        }
        for (address, peer) in wanted {
            links.entry(address).or_insert_with(|| self.link(&peer));
        }
    }

    fn link_to(&self, address: &str) -> Option<Link> {
        self.link_all();
        let peer = Peer::parse(address)?.to_string();
        self.inner.links.borrow().get(&peer).map(|(link, _)| link.clone())
    }

    /// Any node that can be asked what does not belong to a shard.
    fn any_link(&self) -> Result<Link, Unanswered> {
        self.link_all();
        let links = self.inner.links.borrow();
        let up = links.values().map(|(link, _)| link).find(|link| link.has_room().is_ok());
        up.cloned().ok_or(Unanswered::NotReady)
    }

    /// Whether a request has a chance at all.
    pub(crate) fn has_room(&self) -> Result<(), Unanswered> {
        match &self.inner.local {
            Some(local) => local.worker.node().permits.has_room().map_err(Unanswered::NoPermit),
            None => self.any_link().map(|_| ()),
        }
    }

    /// As [`crate::reach::Backend::find_program`].
    pub(crate) async fn find_program(&self, name: &str) -> Result<Option<Arc<Program>>, Unanswered> {
        if let Some(program) = self.known().programs().get(name) {
            return Ok(Some(Arc::clone(program)));
        }
        self.refresh_programs().await?;
        Ok(self.known().programs().get(name).cloned())
    }

    /// As [`crate::reach::Backend::refresh_programs`]. A node knows every version before anybody hears of it.
    pub(crate) async fn refresh_programs(&self) -> Result<(), Unanswered> {
        match &self.inner.local {
            Some(_) => Ok(()),
            None => self.any_link()?.refresh_programs().await,
        }
    }

    /// Asks the owner of a shard, and who owns it then when it is the owner no more or does not answer. What is asked
    /// is told what time is left.
    async fn at_owner<T>(
        &self,
        identity: &Identity,
        left: Duration,
        ask: impl AsyncFn(Place, Duration) -> Result<T, Unanswered>,
    ) -> Result<T, Unanswered> {
        let time = self.time(left);
        let mut route = Route::new(self, self.shard(identity)?, time);
        let mut failed = Unanswered::NotReady;
        loop {
            let Some(place) = route.next().await else { return Err(failed) };
            let is_there = matches!(place, Place::There(_));
            let answer = ask(place, time.left()).await;
            match answer.map_err(|why| if is_there { of_another(why) } else { why }) {
                Err(why) if is_to_ask_again(why) => failed = in_the_end(failed, why),
                answer => return answer.map_err(|why| in_the_end(failed, why)),
            }
            sleep(PAUSE).await;
        }
    }

    /// As [`crate::reach::Backend::ask`].
    pub(crate) async fn ask(
        &self,
        request: Request,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<Reply, Unanswered> {
        self.at_owner(&request.identity, left, async |place, left| {
            let answer = match place {
                Place::Here(local) => local.ask(request.clone(), bytes, wait, left).await,
                Place::There(link) => link.ask(&request, bytes, wait, left).await,
            };
            match answer {
                Ok(Reply::Refused(Refusal::NotOwner { .. })) => Err(Unanswered::NotOwner),
                Ok(Reply::Refused(Refusal::NotReady)) => Err(Unanswered::NotReady),
                answer => answer,
            }
        })
        .await
    }

    /// Sends requests to their owners; those of one owner get their permits together.
    pub(crate) async fn send_window(
        &self,
        requests: Vec<Request>,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Window {
        Window::send(self, requests, bytes, wait, left).await
    }

    /// As [`crate::reach::Backend::resolve`].
    pub(crate) async fn resolve(
        &self,
        program: &str,
        alias: &Alias,
        left: Duration,
    ) -> Result<Option<String>, Unanswered> {
        match &self.inner.local {
            Some(local) => local.resolve(program, alias, left).await,
            None => self.any_link()?.resolve(program, alias.as_str(), left).await,
        }
    }

    /// As [`crate::reach::Backend::put_alias`]: by the owner of the account, which does one after the other.
    pub(crate) async fn put_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<PutOutcome, Unanswered> {
        self.at_owner(&Identity::member(program, account), left, async |place, left| match place {
            Place::Here(local) => local.put_alias(program, alias, account, left).await,
            Place::There(link) => link.put_alias(program, alias.as_str(), account, left).await,
        })
        .await
    }

    /// As [`crate::reach::Backend::delete_alias`].
    pub(crate) async fn delete_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<bool, Unanswered> {
        self.at_owner(&Identity::member(program, account), left, async |place, left| match place {
            Place::Here(local) => local.delete_alias(program, alias, account, left).await,
            Place::There(link) => link.delete_alias(program, alias.as_str(), account, left).await,
        })
        .await
    }

    /// As [`crate::reach::Backend::aliases`].
    pub(crate) async fn aliases(
        &self,
        program: &str,
        account: &str,
        left: Duration,
    ) -> Result<Vec<String>, Unanswered> {
        self.at_owner(&Identity::member(program, account), left, async |place, left| match place {
            Place::Here(local) => local.aliases_of(program, account, left).await,
            Place::There(link) => link.aliases(program, account, left).await,
        })
        .await
    }

    /// As [`crate::reach::Backend::page`].
    pub(crate) async fn page(&self, query: PageQuery, left: Duration) -> Result<Vec<Record>, Unanswered> {
        self.at_owner(&query.identity, left, async |place, left| match place {
            Place::Here(local) => local.page(query.clone(), left).await,
            Place::There(link) => link.page(&query, left).await,
        })
        .await
    }

    /// As [`crate::reach::Backend::begin_events`]: any node reads the journals of all.
    pub(crate) async fn begin_events(&self, start: &Start) -> Result<Result<Vec<u64>, NoStart>, Unanswered> {
        match &self.inner.local {
            Some(local) => Ok(feed::begin(local.worker.node(), start).await),
            None => self.any_link()?.begin_events(start).await,
        }
    }

    /// As [`crate::reach::Backend::next_events`].
    pub(crate) async fn next_events(
        &self,
        wanted: &Wanted,
        from: Vec<u64>,
        patience: Duration,
    ) -> Result<Chunk, Unanswered> {
        match &self.inner.local {
            Some(local) => feed::next(local.worker.node(), wanted, from, patience).await.ok_or(Unanswered::Overloaded),
            None => self.any_link()?.next_events(wanted, &from, patience).await,
        }
    }
}
