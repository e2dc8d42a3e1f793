//! Two ways to thread the same small server, over the product's journal: a runtime per core with its own listener,
//! connections and shards, or one multi-thread runtime for everything.
//!
//! Both do the same work: read a request, add to a balance in the account's shard, frame a record, answer once the
//! record is synced. Both group commits on one journal thread and yield three times before they hand over a batch.
//! `compare_http --a "… --threading cores …" --b "… --threading shared …"` runs them in pairs.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use meed_benches::flags::Flags;
use meed_benches::listener::listen;
use meed_engine::disk::Disk;
use meed_engine::journal::{Journal, JournalOptions, Part, Run, frame};
use meed_schemas::ids::Position;
use tokio::sync::{Notify, oneshot};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "runtimes --data DIR --threading cores|shared [--workers N]

  --data DIR        folder of the journal, which must be empty
  --threading NAME  cores: a runtime, a listener and shards per core; shared: one multi-thread runtime
  --workers N       threads; default one per core";

const SHARDS: u16 = 16;
const RECORD_BYTES: usize = 113;
const BODY_BYTES: usize = 345;
const YIELDS_BEFORE_SUBMIT: usize = 3;

/// Who waits for a record, and on which worker.
struct Waiter {
    worker: usize,
    done: oneshot::Sender<()>,
}

/// A request for a shard of another worker.
struct Forwarded {
    account: Box<str>,
    waiter: Waiter,
}

#[derive(Default)]
struct Shard {
    balances: HashMap<Box<str>, u64>,
    sequence: u64,
}

/// Records of a batch that is being filled, and who waits for it.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    waiters: Vec<Waiter>,
}

/// What other threads leave for a lane, and what wakes it.
#[derive(Default)]
struct Lane {
    filling: Mutex<Batch>,
    forwarded: Mutex<Vec<Forwarded>>,
    answered: Mutex<Vec<oneshot::Sender<()>>>,
    armed: Notify,
}

/// The journal's slots, one per lane; a lane with a batch under way waits.
#[derive(Default)]
struct Slots {
    batches: Vec<Option<Batch>>,
    under_way: Vec<bool>,
}

struct Server {
    shards: Vec<Mutex<Shard>>,
    lanes: Vec<Lane>,
    slots: Mutex<Slots>,
    filled: Condvar,
    hasher: RandomState,
    body: Bytes,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn new(lanes: usize) -> Self {
        let slots = Slots { batches: (0..lanes).map(|_| None).collect(), under_way: vec![false; lanes] };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            slots: Mutex::new(slots),
            filled: Condvar::new(),
            hasher: RandomState::new(),
            body: Bytes::from(vec![b'x'; BODY_BYTES]),
        }
    }

    /// Takes a request on `worker` to the lane of its shard.
    async fn earn(&self, worker: usize, account: &str) {
        let shard = (self.hasher.hash_one(account) % u64::from(SHARDS)) as u16;
        let owner = usize::from(shard) % self.lanes.len();
        let (done, answered) = oneshot::channel();
        let waiter = Waiter { worker, done };
        if owner == worker {
            self.execute(owner, shard, account, waiter);
        } else {
            lock(&self.lanes[owner].forwarded).push(Forwarded { account: account.into(), waiter });
        }
        self.lanes[owner].armed.notify_one();
        // The journal thread ends the process when it fails, so nobody is left waiting.
        let _ = answered.await;
    }

    fn execute(&self, lane: usize, number: u16, account: &str, waiter: Waiter) {
        let mut shard = lock(&self.shards[usize::from(number)]);
        match shard.balances.get_mut(account) {
            Some(balance) => *balance += 100,
            None => drop(shard.balances.insert(account.into(), 100)),
        }
        shard.sequence += 1;
        let sequence = shard.sequence;
        // The shard stays locked, so that its records lie in the batch in their order.
        let mut batch = lock(&self.lanes[lane].filling);
        let start = frame::begin(&mut batch.bytes, Position::new(number, sequence));
        batch.bytes.extend_from_slice(&[7; RECORD_BYTES]);
        if frame::finish(&mut batch.bytes, start).is_err() {
            unreachable!("a record of {RECORD_BYTES} bytes has a frame");
        }
        match batch.runs.iter_mut().find(|run| run.shard == number) {
            Some(run) => run.count += 1,
            None => batch.runs.push(Run { shard: number, first_sequence: sequence, count: 1 }),
        }
        batch.waiters.push(waiter);
    }

    /// Requests of other workers, answers for this one, then the batch.
    async fn turns(&self, lane: usize) {
        let own = &self.lanes[lane];
        loop {
            own.armed.notified().await;
            for _ in 0..YIELDS_BEFORE_SUBMIT {
                tokio::task::yield_now().await;
            }
            for forwarded in std::mem::take(&mut *lock(&own.forwarded)) {
                let shard = (self.hasher.hash_one(&*forwarded.account) % u64::from(SHARDS)) as u16;
                self.execute(lane, shard, &forwarded.account, forwarded.waiter);
            }
            for done in std::mem::take(&mut *lock(&own.answered)) {
                let _ = done.send(());
            }
            let mut slots = lock(&self.slots);
            let mut filling = lock(&own.filling);
            if !slots.under_way[lane] && !filling.waiters.is_empty() {
                slots.under_way[lane] = true;
                slots.batches[lane] = Some(std::mem::take(&mut *filling));
                self.filled.notify_one();
            }
        }
    }

    /// The journal's thread: one write and one sync for what lies in the slots.
    fn commit(&self, journal: &mut Journal) -> Result<Infallible, meed_engine::error::Error> {
        loop {
            let mut slots = lock(&self.slots);
            while slots.batches.iter().all(Option::is_none) {
                slots = self.filled.wait(slots).unwrap_or_else(PoisonError::into_inner);
            }
            let taken: Vec<(usize, Batch)> =
                slots.batches.iter_mut().enumerate().filter_map(|(lane, slot)| Some((lane, slot.take()?))).collect();
            drop(slots);
            let parts: Vec<_> = taken.iter().map(|(_, b)| Part { bytes: &b.bytes, runs: &b.runs }).collect();
            journal.write(&parts)?;
            journal.sync()?;
            for (lane, batch) in taken {
                lock(&self.slots).under_way[lane] = false;
                let mut answered: Vec<Vec<_>> = self.lanes.iter().map(|_| Vec::new()).collect();
                for waiter in batch.waiters {
                    answered[waiter.worker].push(waiter.done);
                }
                for (worker, done) in answered.into_iter().enumerate() {
                    if !done.is_empty() || worker == lane {
                        lock(&self.lanes[worker].answered).extend(done);
                        self.lanes[worker].armed.notify_one();
                    }
                }
            }
        }
    }

    async fn respond(&self, worker: usize, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let account: Box<str> = request.uri().path().split('/').nth(4).unwrap_or_default().into();
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            drop(frame?);
        }
        self.earn(worker, &account).await;
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = StatusCode::CREATED;
        Ok(response)
    }

    async fn connection(self: Arc<Self>, worker: usize, stream: tokio::net::TcpStream) {
        if stream.set_nodelay(true).is_ok() {
            let service = service_fn(|request| self.respond(worker, request));
            // The end of a connection, clean or not, is of no interest to a benchmark.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

async fn accept(listener: &tokio::net::TcpListener) -> tokio::net::TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // A failed accept (the client is gone, or no file is left) concerns no other connection.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn serve_core(server: Arc<Server>, worker: usize, listener: TcpListener) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let turns = Arc::clone(&server);
        tokio::task::spawn_local(async move { turns.turns(worker).await });
        loop {
            let stream = accept(&listener).await;
            tokio::task::spawn_local(Arc::clone(&server).connection(worker, stream));
        }
    })
}

fn serve_shared(server: Arc<Server>, workers: usize, listener: TcpListener) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let turns = Arc::clone(&server);
        tokio::spawn(async move { turns.turns(0).await });
        let accepting = tokio::spawn(async move {
            loop {
                let stream = accept(&listener).await;
                tokio::spawn(Arc::clone(&server).connection(0, stream));
            }
        });
        accepting.await.map_err(std::io::Error::other)
    })
}

fn run() -> Result<(), String> {
    let mut flags = Flags::parse(std::env::args().skip(1), &[])?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers: usize = flags.value("workers", cores)?.max(1);
    let data: PathBuf = flags.optional("data")?.ok_or("--data is missing")?;
    let shared = match flags.value("threading", String::new())?.as_str() {
        "cores" => false,
        "shared" => true,
        other => return Err(format!("--threading {other}: cores or shared")),
    };
    flags.finish()?;

    let opened = Journal::open(Disk::default(), &data, JournalOptions::new(SHARDS));
    let (mut journal, _, _) = opened.map_err(|error| error.to_string())?;
    let server = Arc::new(Server::new(if shared { 1 } else { workers }));
    let committing = Arc::clone(&server);
    std::thread::spawn(move || {
        let Err(error) = committing.commit(&mut journal);
        eprintln!("runtimes: {error}");
        std::process::exit(1);
    });
    let failed = |error: std::io::Error| format!("cannot serve: {error}");
    let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    println!("listening on http://{bound}");
    std::io::stdout().flush().map_err(failed)?;
    if shared {
        return serve_shared(server, workers, first).map_err(failed);
    }
    for worker in 1..workers {
        let (server, listener) = (Arc::clone(&server), listen(bound).map_err(failed)?);
        std::thread::spawn(move || serve_core(server, worker, listener));
    }
    serve_core(server, 0, first).map_err(failed)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("runtimes: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
