//! Starts a node, sends it requests through its first worker, and makes folders of an earlier time.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meed_engine::account::Totals;
use meed_engine::commit::Lane;
pub(crate) use meed_engine::config::EngineConfig as Config;
use meed_engine::disk::Disk;
use meed_engine::folder::FolderIdentity;
use meed_engine::journal::{Journal, JournalOptions};
use meed_engine::node::Node;
use meed_engine::program::{Program, Programs};
use meed_engine::shard::{Envelope, Held, Input, Output, Shard, ShardLimits, ShardReport, ShardStart, World};
use meed_engine::start::{Engine, RecoveryReport, WorkerMain, start};
use meed_schemas::command::{Basis, Command, Earn, Keys, Portion, Request, RequestId};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{BalanceView, Reply};
use meed_schemas::program::Document;
use meed_schemas::time::Millis;
use tokio::sync::mpsc::UnboundedSender;

const PATIENCE: Duration = Duration::from_secs(60);
const DOCUMENT: &str = r#"{"name":"test","time_zone":"UTC","currency":"USD",
    "earning":{"points":1,"per_amount":"1.00"},"expiry":"none"}"#;

type Asked = (Vec<Request>, mpsc::Sender<Vec<Reply>>);

pub(crate) struct Running {
    engine: Engine,
    asks: UnboundedSender<Asked>,
}

pub(crate) fn config(data: &Path) -> Config {
    // A machine that is busy with other tests answers late.
    let request_deadline_ms = PATIENCE.as_millis() as i64;
    let small = Config { shards: Some(4), segment_bytes: 1 << 20, checkpoint_interval_ms: 50, ..Config::new(data) };
    Config { workers: 1, request_deadline_ms, ..small }
}

pub(crate) fn seconds_from_now(seconds: i64) -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    now + seconds * 1_000
}

pub(crate) fn earn(points: i64) -> Command {
    let earn = Earn { basis: Basis::Points(points), occurred_at: None, expires_at: None, activates_at: None };
    Command::Earn { earn, references: None }
}

pub(crate) fn earn_until(points: i64, at: Millis) -> Command {
    let earn = Earn { basis: Basis::Points(points), occurred_at: None, expires_at: Some(at), activates_at: None };
    Command::Earn { earn, references: None }
}

pub(crate) fn reverse(original: Position) -> Command {
    Command::Reverse { original, portion: Portion::Rest, occurred_at: None, references: None }
}

pub(crate) fn request(id: &str, command: Command, key: Option<u128>) -> Request {
    let mut canonical = Vec::new();
    command.write_canonical(&mut canonical);
    let fingerprint = canonical.iter().fold(7u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    addressed(Identity::member("p", id), command, Keys { idempotency: key, business: None }, fingerprint)
}

fn addressed(identity: Identity, command: Command, keys: Keys, fingerprint: u64) -> Request {
    Request { identity, command, keys, fingerprint, request_id: RequestId::Made(1), traceparent: None }
}

fn put_program() -> Request {
    let document = Document::parse(DOCUMENT.as_bytes()).unwrap();
    let command = Command::PutProgram { document: document.to_canonical_json().into() };
    addressed(Identity::program_account("p"), command, Keys::default(), 0)
}

impl Running {
    /// Starts a node and makes sure that its program is there.
    pub(crate) fn start(config: Config) -> Self {
        let (asks, receiver) = tokio::sync::mpsc::unbounded_channel::<Asked>();
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let main: WorkerMain = Arc::new(move |worker, _aliases| {
            let receiver = if worker.index() == 0 { receiver.lock().unwrap().take() } else { None };
            Box::pin(async move {
                let Some(mut receiver) = receiver else { return };
                while let Some((requests, answers)) = receiver.recv().await {
                    let admitted = worker.admit(&requests, 1, PATIENCE).await;
                    let admitted = admitted.unwrap_or_else(|refused| panic!("no permits: {refused:?}"));
                    // The test may have given up.
                    let _ = answers.send(worker.call_many(requests, &admitted, Duration::MAX).await);
                }
            })
        });
        let engine = start(config, Box::new(|fault| panic!("a fault: {fault}")), main).unwrap();
        let running = Self { engine, asks };
        running.ask(put_program());
        running
    }

    pub(crate) fn recovered(&self) -> &RecoveryReport {
        &self.engine.recovered
    }

    pub(crate) fn node(&self) -> &Node {
        self.engine.node()
    }

    pub(crate) fn reports(&self) -> Vec<ShardReport> {
        self.node().reports()
    }

    pub(crate) fn ask_many(&self, requests: Vec<Request>) -> Vec<Reply> {
        let (sender, answers) = mpsc::channel();
        assert!(self.asks.send((requests, sender)).is_ok(), "the worker has ended");
        answers.recv_timeout(PATIENCE).unwrap()
    }

    pub(crate) fn ask(&self, request: Request) -> Reply {
        self.ask_many(vec![request]).remove(0)
    }

    pub(crate) fn balance(&self, id: &str) -> BalanceView {
        match self.ask(request(id, Command::Balance, None)) {
            Reply::Balance(view) => *view,
            other => panic!("no balance of {id}: {other:?}"),
        }
    }

    /// Waits for a fact that has no event.
    pub(crate) fn wait_until(&self, what: &str, fact: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !fact(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn stop(self) {
        self.engine.shutdown(PATIENCE).unwrap();
    }
}

/// A folder whose last record was written at `last`, with accounts that earned points until an instant.
pub(crate) fn old_folder(data: &Path, last: Millis, accounts: &[(&str, i64, Millis)]) {
    let disk = Disk::default();
    disk.create_dir(data).unwrap();
    let folder = FolderIdentity::open_or_create(&disk, data, Some(4)).unwrap();
    meed_engine::secrets::Secrets::create(data, folder.journal_id).unwrap();
    let options = JournalOptions {
        segment_bytes: 1 << 20,
        new_journal_id: Some(folder.journal_id),
        ..JournalOptions::new(folder.shards)
    };
    let journal = Journal::open(disk, &data.join("journal"), options);
    let (mut journal, _, recovered) = journal.unwrap();
    let limits = ShardLimits {
        resident_bytes: usize::MAX,
        filter_bytes: 1 << 10,
        checkpoint_records: u64::MAX,
        checkpoint_interval_ms: i64::MAX / 2,
        checkpoint_rows: 512,
        checkpoint_step: 128,
        pack_after_ms: i64::MAX / 2,
        settled_per_tick: 64,
        unbounded_loads_per_tick: 16,
    };
    let begin = |id| ShardStart {
        id,
        last_sequence: 0,
        last_recorded_at: 0,
        totals: Totals::default(),
        accounts: 0,
        replayed: Vec::new(),
        no_spilled_keys: true,
        seed: 1,
    };
    let mut shards: Vec<Shard> = (0..folder.shards).map(|id| Shard::new(begin(id), limits)).collect();
    let program = Program::create("p", last - 10_000, Document::parse(DOCUMENT.as_bytes()).unwrap()).unwrap();
    let programs = Arc::new(Programs::default().with(program));
    let mut lane = Lane::<Held>::new(recovered.last_sequence, usize::MAX);
    let earned = |(id, points, until): &(&str, i64, Millis)| request(id, earn_until(*points, *until), None);
    let requests = std::iter::once((put_program(), last - 10_000));
    let requests = requests.chain(accounts.iter().map(earned).map(|request| (request, last - 5_000)));
    for (request, now) in requests.chain([(request("m-0", earn(1), None), last)]) {
        let shard = usize::from(request.identity.shard(folder.shards));
        let world =
            World { now, settle_until: Millis::MAX, elapsed_ms: 0, may_decide: true, programs: Arc::clone(&programs) };
        let envelope = Envelope { request, to: None, deadline_ms: i64::MAX, bytes: 1 };
        shards[shard].handle(Input::Command(envelope), &world, &mut lane, &mut Output::default()).unwrap();
    }
    let (_, buffer) = lane.submit().unwrap();
    journal.write(&[buffer.part()]).unwrap();
    journal.sync().unwrap();
    journal.close().unwrap();
}
