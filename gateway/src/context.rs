//! What requests need: of the node ([`Shared`]) and of the worker that serves them ([`Context`]).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meed_engine::node::Node;
use tokio::sync::watch;

use crate::admit::Gate;
use crate::auth::Credentials;
use crate::config::{SettingError, Settings};
use crate::identify::RequestIds;
use crate::intake::Intake;
use crate::metrics::WorkerMetrics;
use crate::reach::Backend;

/// The check that fails until every part of the node has started.
pub const CHECK_STARTED: &str = "started";
/// Whether the node holds the lease on its shards and knows what became of all that it journaled; only in a cluster.
const CHECK_OWNER: &str = "owner";

/// What the workers of a node share.
pub struct Shared {
    /// The settings in effect.
    pub settings: Settings,
    /// Caps and rates.
    pub gate: Arc<Gate>,
    /// Who may call.
    pub credentials: Credentials,
    /// When the node started, since the Unix epoch. Taken once, so that it differs only after a restart.
    pub started_at: Duration,
    /// The counters of each worker.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// How many read the stream of events.
    pub event_readers: AtomicU32,
    draining: watch::Sender<bool>,
    serving: watch::Sender<usize>,
    engine: OnceLock<Arc<Node>>,
    failed: AtomicBool,
    checks: Mutex<Vec<(&'static str, Result<(), String>)>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    /// The shared state of a node with `workers` workers. It is not ready: the check [`CHECK_STARTED`]
    /// fails until it is set.
    pub fn new(settings: Settings, workers: usize) -> Result<Arc<Self>, SettingError> {
        Ok(Arc::new(Self {
            gate: Gate::new(&settings),
            credentials: Credentials::new(&settings.credentials)?,
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            metrics: (0..workers).map(|_| Arc::default()).collect(),
            event_readers: AtomicU32::new(0),
            draining: watch::Sender::new(false),
            serving: watch::Sender::new(0),
            engine: OnceLock::new(),
            failed: AtomicBool::new(false),
            checks: Mutex::new(vec![(CHECK_STARTED, Err("the node is starting".to_owned()))]),
            settings,
        }))
    }

    /// Sets a readiness check; an error says what is missing.
    pub fn set_check(&self, name: &'static str, state: Result<(), String>) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        match checks.iter_mut().find(|(other, _)| *other == name) {
            Some(check) => check.1 = state,
            None => checks.push((name, state)),
        }
    }

    /// Every readiness check.
    pub fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(owner) = self.engine().map(|node| node.ownership_state()) {
            checks.extend(owner.map(|state| (CHECK_OWNER, state)));
        }
        checks
    }

    /// The engine runs; its measures are on the metrics page from now on.
    pub fn set_engine(&self, node: Arc<Node>) {
        // There is one engine in the life of a process.
        let _ = self.engine.set(node);
    }

    /// The engine, once it runs.
    pub fn engine(&self) -> Option<&Arc<Node>> {
        self.engine.get()
    }

    /// Begins to stop: readiness is refused, nothing more is accepted, what runs may finish.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Begins to stop because a part of the node failed; the process then exits with 1.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.drain();
    }

    /// Whether a part of the node failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the node is stopping.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Counts one more worker as serving until the guard is dropped.
    pub fn serving(self: &Arc<Self>) -> Serving {
        self.serving.send_modify(|workers| *workers += 1);
        Serving(Arc::clone(self))
    }

    /// Returns when no worker serves any more.
    pub async fn served(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.serving.subscribe().wait_for(|workers| *workers == 0).await;
    }

    /// Returns when the node begins to stop.
    pub async fn drained(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }
}

/// Counts a worker as serving while it lives.
#[derive(Debug)]
pub struct Serving(Arc<Shared>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.send_modify(|workers| *workers -= 1);
    }
}

/// Milliseconds since the worker started, read by anything that needs no better than a tenth of a second.
/// It moves on with every request and every sweep, so that reading it costs nothing.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now_ms: Cell<u64>,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), now_ms: Cell::new(0) }
    }

    /// Moves on to `now`.
    pub fn set(&self, now: Instant) {
        let elapsed_ms = now.saturating_duration_since(self.start).as_millis();
        self.now_ms.set(u64::try_from(elapsed_ms).unwrap_or(u64::MAX));
    }

    /// The time of the last [`Clock::set`].
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }
}

/// One worker's view of the node.
#[derive(Debug)]
pub struct Context {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// This worker's number, from 0.
    pub worker: usize,
    /// Whether the node is stopping, as this worker knows it.
    pub draining: Cell<bool>,
    /// The coarse clock.
    pub clock: Clock,
    /// How many requests it reads.
    pub intake: Intake,
    /// Makes request ids.
    pub request_ids: RequestIds,
    /// The way to the accounts; none while it starts.
    pub backend: Option<Backend>,
}

impl Context {
    /// The context of worker `worker`, which must be below the count given to [`Shared::new`].
    pub fn new(shared: Arc<Shared>, worker: usize) -> Self {
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()) << 32 | worker as u64);
        Self {
            metrics: shared.metrics[worker].clone(),
            draining: Cell::new(shared.is_draining()),
            clock: Clock::new(),
            intake: Intake::new(shared.settings.requests_per_worker as usize),
            request_ids: RequestIds::new(seed),
            backend: None,
            worker,
            shared,
        }
    }

    /// The same with a way to the accounts.
    pub fn with_backend(shared: Arc<Shared>, worker: usize, backend: Backend) -> Self {
        let context = Self::new(shared, worker);
        if matches!(backend, Backend::Cluster(_)) {
            // There requests wait for the database, and the more of them go in one write the better.
            context.intake.open();
        }
        Self { backend: Some(backend), ..context }
    }
}
