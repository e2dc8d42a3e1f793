//! The engine inside one process, without HTTP: earns and redemptions in batches, each answered only when
//! it is durable.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meed_benches::flags::{self, Flags};
use meed_engine::aliases::Aliases;
use meed_engine::clock::SystemTimes;
use meed_engine::config::EngineConfig;
use meed_engine::start::{Engine, start};
use meed_engine::worker::Worker;
use meed_schemas::command::{Basis, Command, Earn, Keys, Request, RequestId};
use meed_schemas::ids::Identity;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::program::{BUILT_IN_DOCUMENT, Document};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
in_process: the engine inside one process, without HTTP; each operation is answered when it is durable.

  --seconds N                how long, 10
  --operations N             end earlier, when so many were executed
  --accounts N               100000
  --batch N                  operations in a batch, 500
  --callers N                callers of each worker, 8
  --workers N                0: one per core
  --data DIR                 keep the data there; without it a folder below ./target, which is removed
  --fill N                   first earn once on each of so many accounts, and print what an idle one takes in memory
  --fill-expires-in SECONDS  all those points expire at one instant so far from the start
  --memory-mib N             what `memory_bytes` is for a node
  --end stop|abort           abort: end as a kill would; the next run on --data shows how long recovery takes
";

/// How often in a second it looks at the memory of the accounts.
const LOOKS_PER_SECOND: u32 = 20;

#[derive(Clone)]
struct Options {
    seconds: u64,
    accounts: u64,
    batch: usize,
    callers: usize,
    workers: usize,
    data: Option<PathBuf>,
    operations: u64,
    fill: u64,
    /// When the points of the filled accounts expire.
    fill_expires_at: Option<i64>,
    memory_bytes: Option<u64>,
    abort: bool,
}

/// Counts of one run.
#[derive(Default)]
struct Counts {
    executed: AtomicU64,
    refused: AtomicU64,
    shed: AtomicU64,
    failed: AtomicU64,
    filled: AtomicU64,
    go: AtomicBool,
    stop: AtomicBool,
    ready: AtomicBool,
}

fn options(mut flags: Flags) -> Result<Options, String> {
    let seconds_from_now = flags.optional("fill-expires-in")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        seconds: flags.value("seconds", 10)?,
        accounts: flags.value("accounts", 100_000)?.max(1),
        batch: flags.value("batch", 500)?.max(1),
        callers: flags.value("callers", 8)?.max(1),
        workers: flags.value("workers", cores)?,
        data: flags.optional("data")?,
        operations: flags.value("operations", u64::MAX)?,
        fill: flags.value("fill", 0)?,
        fill_expires_at: seconds_from_now.map(|seconds: i64| SystemTimes::start().wall_ms() + seconds * 1_000),
        memory_bytes: flags.optional("memory-mib")?.map(|mib: u64| mib << 20),
        abort: flags.value("end", "stop".to_owned())? == "abort",
    };
    flags.finish()?;
    Ok(options)
}

/// A small generator (SplitMix64, Steele et al.), so that every run has the same requests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

fn request(random: &mut Random, accounts: u64) -> Request {
    let number = random.next();
    let command = if number.is_multiple_of(4) {
        Command::Redeem { points: 10, occurred_at: None, references: None }
    } else {
        let earn = Earn { basis: Basis::Points(100), occurred_at: None, expires_at: None, activates_at: None };
        Command::Earn { earn, references: None }
    };
    Request {
        identity: Identity::member("default", &format!("m-{}", (number >> 8) % accounts)),
        command,
        keys: Keys { idempotency: Some(u128::from(random.next()) << 64 | u128::from(random.next())), business: None },
        fingerprint: random.next(),
        request_id: RequestId::Made(number),
        traceparent: None,
    }
}

async fn put_program(worker: &Worker) {
    let document = match Document::parse(BUILT_IN_DOCUMENT.as_bytes()) {
        Ok(document) => document.to_canonical_json().into_boxed_str(),
        Err(error) => panic!("{error:?}"),
    };
    let request = Request {
        identity: Identity::program_account("default"),
        command: Command::PutProgram { document },
        keys: Keys::default(),
        fingerprint: 0,
        request_id: RequestId::Made(0),
        traceparent: None,
    };
    match worker.admit(std::slice::from_ref(&request), 1_000, Duration::from_secs(1)).await {
        Ok(admitted) => drop(worker.call(request, &admitted).await),
        Err(error) => panic!("{error:?}"),
    }
}

/// Earns once on each account of this worker's part.
async fn fill(worker: &Worker, accounts: u64, expires_at: Option<i64>) {
    let mut next = u64::from(worker.index());
    let step = worker.node().exchanges().len() as u64;
    while next < accounts {
        let mut requests = Vec::new();
        while next < accounts && requests.len() < 1_000 {
            let earn = Earn { basis: Basis::Points(100), occurred_at: None, expires_at, activates_at: None };
            requests.push(Request {
                identity: Identity::member("default", &format!("m-{next}")),
                command: Command::Earn { earn, references: None },
                keys: Keys { idempotency: Some(u128::from(next) + 1), business: None },
                fingerprint: next,
                request_id: RequestId::Made(next),
                traceparent: None,
            });
            next += step;
        }
        match worker.admit(&requests, 100, Duration::from_secs(10)).await {
            Ok(admitted) => drop(worker.call_many(requests, &admitted, Duration::MAX).await),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    resident.unwrap_or_default() * 4_096
}

async fn caller(worker: Worker, seed: u64, options: Options, counts: Arc<Counts>) {
    let mut random = Random(seed);
    while !counts.stop.load(Ordering::Relaxed) {
        let requests: Vec<_> = (0..options.batch).map(|_| request(&mut random, options.accounts)).collect();
        match worker.admit(&requests, 100, Duration::ZERO).await {
            Ok(admitted) => {
                let call = worker.call_many(requests, &admitted, Duration::MAX);
                let (mut executed, mut refused, mut failed) = (0, 0, 0);
                for reply in call.await {
                    match reply {
                        Reply::Executed { .. } => executed += 1,
                        Reply::Refused(Refusal::InsufficientPoints { .. } | Refusal::UnknownAccount) => refused += 1,
                        _ => failed += 1,
                    }
                }
                counts.executed.fetch_add(executed, Ordering::Relaxed);
                counts.refused.fetch_add(refused, Ordering::Relaxed);
                counts.failed.fetch_add(failed, Ordering::Relaxed);
            }
            Err(_) => {
                counts.shed.fetch_add(options.batch as u64, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// What each worker runs: the program, the accounts to be filled, then the callers.
async fn worker_main(worker: Worker, options: Options, counts: Arc<Counts>) {
    if worker.index() == 0 {
        put_program(&worker).await;
        counts.ready.store(true, Ordering::Release);
    }
    while !counts.ready.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fill(&worker, options.fill, options.fill_expires_at).await;
    counts.filled.fetch_add(1, Ordering::AcqRel);
    while !counts.go.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..options.callers as u64 {
        let seed = number * 1_000 + u64::from(worker.index());
        tokio::task::spawn_local(caller(worker.clone(), seed, options.clone(), Arc::clone(&counts)));
    }
    std::future::pending::<()>().await;
}

/// Waits until the accounts are filled, and prints what they take once they are idle.
fn wait_filled(engine: &Engine, options: &Options, counts: &Counts, before: u64) {
    while counts.filled.load(Ordering::Acquire) < engine.node().exchanges().len() as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    if options.fill > 0 {
        // Idle accounts are checkpointed within one interval and packed within twice the idle time.
        std::thread::sleep(Duration::from_secs(45));
        print_memory("idle", before, options.fill, engine);
    }
}

/// Bytes of accounts in memory, as the node counts them.
fn accounted_bytes(engine: &Engine) -> u64 {
    engine.node().reports().iter().map(|report| report.resident_bytes).sum()
}

/// What the accounts take in memory, beyond the resident `before`.
fn print_memory(when: &str, before: u64, accounts: u64, engine: &Engine) {
    let accounted = accounted_bytes(engine);
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "{accounts} accounts, {when}: {grown} bytes resident, {} each; {accounted} as accounted, {} each",
        grown / accounts,
        accounted / accounts
    );
}

/// Lets the callers run, and prints the rate each second and in all, and the most memory that accounts had.
fn measure(options: &Options, counts: &Counts, engine: &Engine) {
    let answered = || counts.executed.load(Ordering::Relaxed) + counts.refused.load(Ordering::Relaxed);
    counts.go.store(true, Ordering::Release);
    let (began, mut last, mut most_bytes) = (Instant::now(), 0, 0);
    for _ in 0..options.seconds {
        for _ in 0..LOOKS_PER_SECOND {
            std::thread::sleep(Duration::from_secs(1) / LOOKS_PER_SECOND);
            most_bytes = most_bytes.max(accounted_bytes(engine));
        }
        let now = answered();
        println!("{} a second", now - last);
        last = now;
        if counts.executed.load(Ordering::Relaxed) >= options.operations {
            break;
        }
    }
    let seconds = began.elapsed();
    counts.stop.store(true, Ordering::Relaxed);
    println!(
        "executed {}, refused {}, shed {}, failed {} in {seconds:?}: {} operations a second, at most {most_bytes} bytes of \
         accounts",
        counts.executed.load(Ordering::Relaxed),
        counts.refused.load(Ordering::Relaxed),
        counts.shed.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed),
        u128::from(last) * 1_000 / seconds.as_millis().max(1),
    );
}

fn run(options: &Options) -> Result<(), String> {
    let folder = tempfile::tempdir_in("target").map_err(|error| format!("no folder for the journal: {error}"))?;
    let data = options.data.clone().unwrap_or_else(|| folder.path().join("data"));
    let defaults = EngineConfig::new(data);
    let memory_bytes = options.memory_bytes.unwrap_or(defaults.memory_bytes);
    let config = EngineConfig { workers: options.workers, memory_bytes, ..defaults };
    let counts = Arc::new(Counts::default());
    let (run_options, run_counts) = (options.clone(), Arc::clone(&counts));
    let main = move |worker: Worker, _: Aliases| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(worker_main(worker, run_options.clone(), Arc::clone(&run_counts)))
    };
    let on_fault = |error: &meed_engine::error::Error| {
        eprintln!("error: {error}");
        std::process::exit(1);
    };
    let starting = Instant::now();
    let engine = start(config, Box::new(on_fault), Arc::new(main)).map_err(|error| error.to_string())?;
    println!(
        "ready in {:?}: recovered in {:?} (journal {:?}, store {:?}), {} records replayed",
        starting.elapsed(),
        engine.recovered.took,
        engine.recovered.journal_took,
        engine.recovered.store_took,
        engine.recovered.replayed_records
    );
    let before = resident_bytes();
    wait_filled(&engine, options, &counts, before);
    measure(options, &counts, &engine);
    print_memory("after the load", before, options.accounts, &engine);
    if options.abort {
        std::process::abort();
    }
    engine.shutdown(Duration::from_secs(20)).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    flags::main(USAGE, |flags| run(&options(flags)?))
}
