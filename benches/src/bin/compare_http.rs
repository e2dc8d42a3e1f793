//! Compares two HTTP servers, by default `meed` and the bare hyper server, under the same load in one run.
//!
//! The two alternate, each run on a freshly started process, because machines drift over minutes: only the ratio
//! within a pair means something.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meed_benches::figures::{Spread, Thousandths, parse_thousandths, thousandths};
use meed_benches::flags::Flags;
use meed_benches::prefill::{prefill, unexpected_codes};
use meed_benches::server_process::{CpuTime, DATA_PLACEHOLDER, ServerProcess};
use meed_benches::wrk::{self, Figures, Load, Scenario};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "compare_http [flags]   (from the workspace's root, after `cargo build --release --workspace`)

  --scenario NAME     earn (default), redeem, balance or batch
  --connections LIST  default 64,256,1024,4000
  --accounts N        drawn uniformly; default 100000; 1 sends everything to one account
  --items N           operations per request of batch; default 100
  --pairs N           runs of each server per level; default 5
  --seconds N         length of a run; default 10
  --warmup-seconds N  load before each run that is not counted; default 2
  --folder WHICH      fresh (default): an empty data folder for every run; kept: one folder for all
  --data-parent DIR   where data folders are made, on a disk; default target
  --at-least LIST     lowest median ratio per level, such as 0.55,0.65; below it the exit code is 1
  --json FILE         default target/compare-SCENARIO.json
  --body-bytes N      body of the bare server's answers; default by scenario
  --a COMMAND         default target/release/meed serve --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --data {data}
  --b COMMAND         default target/release/bare_hyper with the scenario's status and length

{data} stands for the data folder. Exit codes: 0 done, 1 a wrong answer, a failure or a ratio too low, 2 usage.";

/// Files that the server needs besides its connections.
const FILES_RESERVED: u64 = 256;
const METRICS_LINE_WAIT: Duration = Duration::from_millis(500);
/// From statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;

struct Settings {
    load: Load,
    levels: Vec<u32>,
    at_least: Vec<u64>,
    pairs: u32,
    warmup_seconds: u32,
    kept_folder: bool,
    data_parent: PathBuf,
    json: PathBuf,
    commands: [String; 2],
}

impl Settings {
    fn parse(mut flags: Flags) -> Result<Self, String> {
        let scenario: Scenario = flags.value("scenario", Scenario::Earn.name().to_owned())?.parse()?;
        let items = flags.value("items", 100)?;
        let body_bytes: u64 = flags.value("body-bytes", scenario.body_bytes(items))?;
        let bare = format!(
            "target/release/bare_hyper --listen 127.0.0.1:0 --status {} --body-bytes {body_bytes}",
            scenario.status()
        );
        let meed = format!(
            "target/release/meed serve --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --data {DATA_PLACEHOLDER}"
        );
        let at_least: Vec<String> = flags.list("at-least", "")?;
        let settings = Self {
            levels: flags.list("connections", "64,256,1024,4000")?,
            at_least: at_least.iter().map(|ratio| parse_thousandths(ratio)).collect::<Result<_, _>>()?,
            pairs: flags.value("pairs", 5)?,
            warmup_seconds: flags.value("warmup-seconds", 2)?,
            kept_folder: match flags.value("folder", "fresh".to_owned())?.as_str() {
                "fresh" => false,
                "kept" => true,
                other => return Err(format!("--folder {other}: fresh or kept")),
            },
            data_parent: flags.value("data-parent", PathBuf::from("target"))?,
            json: flags.value("json", PathBuf::from(format!("target/compare-{}.json", scenario.name())))?,
            commands: [flags.value("a", meed)?, flags.value("b", bare)?],
            load: Load {
                scenario,
                connections: 0,
                accounts: flags.value("accounts", 100_000)?,
                items,
                seconds: flags.value("seconds", 10)?,
                run: String::new(),
            },
        };
        flags.finish()?;
        if settings.pairs == 0 || settings.load.seconds == 0 || settings.load.accounts == 0 || items == 0 {
            return Err("--pairs, --seconds, --accounts and --items must be at least 1".to_owned());
        }
        if settings.levels.iter().any(|&connections| connections < 2) {
            return Err("--connections must be at least 2, one per thread of wrk".to_owned());
        }
        if !settings.at_least.is_empty() && settings.at_least.len() != settings.levels.len() {
            return Err("--at-least must have one ratio per level of --connections".to_owned());
        }
        Ok(settings)
    }
}

/// One run of one server.
#[derive(Default)]
struct Run {
    figures: Figures,
    cpu: CpuTime,
    peak_memory_bytes: u64,
    /// What was wrong with its answers.
    complaints: Vec<String>,
}

impl Run {
    /// Processor time per request, in nanoseconds.
    fn cpu_ns(&self, part: impl Fn(CpuTime) -> u64) -> u64 {
        part(self.cpu).saturating_mul(1_000) / self.figures.requests.max(1)
    }
}

/// Where the parts of a comparison lie while it runs.
struct Place {
    folder: tempfile::TempDir,
    script: PathBuf,
}

impl Place {
    fn new(parent: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", parent.display());
        std::fs::create_dir_all(parent).map_err(failed)?;
        let system = rustix::fs::statfs(parent).map_err(|error| failed(error.into()))?;
        if system.f_type == TMPFS_MAGIC {
            return Err(format!("{} lies in memory (tmpfs): choose a disk by --data-parent", parent.display()));
        }
        let folder = tempfile::Builder::new().prefix("compare-").tempdir_in(parent).map_err(failed)?;
        let script = folder.path().join("requests.lua");
        std::fs::write(&script, wrk::REQUESTS_LUA).map_err(failed)?;
        Ok(Self { folder, script })
    }

    fn log(&self, side: usize) -> PathBuf {
        self.folder.path().join(format!("log-{side}"))
    }

    fn data(&self, side: usize) -> PathBuf {
        self.folder.path().join(format!("data-{side}"))
    }
}

/// Keys of one run never meet those of another: 26 characters, which makes an earn's body 90 bytes.
fn run_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:026x}", since.as_nanos())
}

fn run_once(settings: &Settings, place: &Place, side: usize, connections: u32) -> Result<Run, String> {
    let command = &settings.commands[side];
    let keeps_state = command.contains(DATA_PLACEHOLDER);
    let data = place.data(side);
    if !settings.kept_folder && data.exists() {
        std::fs::remove_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    }
    let server = ServerProcess::start(command, &data, &place.log(side))?;
    let metrics = if keeps_state { server.metrics_address(METRICS_LINE_WAIT)? } else { None };
    let mut load = Load { connections, run: run_id(), ..settings.load.clone() };
    if keeps_state && load.scenario.needs_points() {
        prefill(server.address(), load.accounts)?;
    }
    let mut run = Run::default();
    if settings.warmup_seconds > 0 {
        let warmup = Load { seconds: settings.warmup_seconds, ..load.clone() };
        wrk::run(server.address(), &place.script, &warmup)?;
        load.run = run_id();
    }
    let before = server.cpu_time()?;
    run.figures = wrk::run(server.address(), &place.script, &load)?;
    run.cpu = server.cpu_time()?.since(before);
    run.peak_memory_bytes = server.peak_memory_bytes()?;
    if run.figures.status_errors > 0 {
        run.complaints.push(format!("{} answers were refusals", run.figures.status_errors));
    }
    if run.figures.socket_errors > 0 {
        run.complaints.push(format!("{} connections failed or timed out", run.figures.socket_errors));
    }
    if let Some(metrics) = metrics {
        // wrk sees statuses from 400 on only; the server's own counter knows every one, the points given included.
        let codes = unexpected_codes(&metrics, &[load.scenario.status(), 207])?;
        if !codes.is_empty() {
            run.complaints.push(format!("unexpected statuses: {}", codes.join(", ")));
        }
    }
    server.stop()?;
    Ok(run)
}

/// Operations per second: a batch counts its items.
fn rate(settings: &Settings, run: &Run) -> u64 {
    let items = if settings.load.scenario == Scenario::Batch { settings.load.items } else { 1 };
    run.figures.requests_per_second().saturating_mul(items)
}

fn ratios(settings: &Settings, pairs: &[[Run; 2]]) -> Spread {
    Spread::of(pairs.iter().map(|[a, b]| thousandths(rate(settings, a), rate(settings, b))))
}

fn print_level(settings: &Settings, connections: u32, pairs: &[[Run; 2]]) {
    let unit = if settings.load.scenario == Scenario::Batch { "items/s" } else { "requests/s" };
    println!("\n{connections} connections, {} pairs of {} s", pairs.len(), settings.load.seconds);
    println!("     {unit:>10} {:>17}   latency us {:>7} {:>7} {:>7} {:>7}", "min–max", "p50", "p99", "p99.9", "max");
    for (side, name) in ["a", "b"].into_iter().enumerate() {
        let over = |value: &dyn Fn(&Run) -> u64| Spread::of(pairs.iter().map(|pair| value(&pair[side])));
        let rates = over(&|run| rate(settings, run));
        let latency = |index: usize| over(&|run| run.figures.latency_us[index]).median;
        let worst = over(&|run| run.figures.latency_us[4]).max;
        println!(
            "  {name}  {:>10} {:>17}              {:>7} {:>7} {:>7} {worst:>7}",
            rates.median,
            format!("{}–{}", rates.min, rates.max),
            latency(0),
            latency(2),
            latency(3)
        );
    }
    for (side, name) in ["a", "b"].into_iter().enumerate() {
        let over = |value: &dyn Fn(&Run) -> u64| Spread::of(pairs.iter().map(|pair| value(&pair[side])));
        let user = Thousandths(over(&|run| run.cpu_ns(|cpu| cpu.user_us)).median);
        let system = Thousandths(over(&|run| run.cpu_ns(|cpu| cpu.system_us)).median);
        let bytes = over(&|run| run.figures.bytes / run.figures.requests.max(1)).median;
        let memory = over(&|run| run.peak_memory_bytes >> 20).max;
        println!(
            "  {name}  CPU us a request: {user} user, {system} system; {bytes} bytes an answer; at most {memory} MiB"
        );
    }
    let ratio = ratios(settings, pairs);
    let (median, min, max) = (Thousandths(ratio.median), Thousandths(ratio.min), Thousandths(ratio.max));
    println!("  a/b  {median} ({min}–{max}), median and spread of the pairs");
}

fn run_json(settings: &Settings, run: &Run) -> Value {
    let [p50, p90, p99, p999, max] = run.figures.latency_us;
    json!({
        "per_second": rate(settings, run),
        "requests": run.figures.requests,
        "duration_us": run.figures.duration_us,
        "bytes": run.figures.bytes,
        "latency_us": {"p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": max},
        "cpu_user_ns_per_request": run.cpu_ns(|cpu| cpu.user_us),
        "cpu_system_ns_per_request": run.cpu_ns(|cpu| cpu.system_us),
        "peak_memory_bytes": run.peak_memory_bytes,
        "status_errors": run.figures.status_errors,
        "socket_errors": run.figures.socket_errors,
        "complaints": run.complaints,
    })
}

fn level_json(settings: &Settings, connections: u32, pairs: &[[Run; 2]]) -> Value {
    let ratio = ratios(settings, pairs);
    let runs = pairs.iter().map(|[a, b]| json!({"a": run_json(settings, a), "b": run_json(settings, b)}));
    json!({
        "connections": connections,
        "ratio_thousandths": {"median": ratio.median, "min": ratio.min, "max": ratio.max},
        "pairs": runs.collect::<Vec<_>>(),
    })
}

/// Raises the number of files that this process and its children may open, and says what it is.
fn raise_file_limit(levels: &[u32]) -> Result<(), String> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, ..found };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    let show = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    println!("open files: {} a process (raised from {})", show(raised.current), show(found.current));
    let needed = u64::from(levels.iter().copied().max().unwrap_or(0)) + FILES_RESERVED;
    match raised.current {
        Some(limit) if limit < needed => Err(format!("{needed} open files are needed: raise the limit (ulimit -n)")),
        _ => Ok(()),
    }
}

/// Whether all answers were right and all ratios high enough.
fn compare(settings: &Settings) -> Result<bool, String> {
    wrk::check()?;
    raise_file_limit(&settings.levels)?;
    let place = Place::new(&settings.data_parent)?;
    let load = &settings.load;
    println!("a: {}\nb: {}", settings.commands[0], settings.commands[1]);
    println!("scenario {}, {} accounts, {} s warm-up", load.scenario.name(), load.accounts, settings.warmup_seconds);
    let mut good = true;
    let mut levels = Vec::new();
    for (level, &connections) in settings.levels.iter().enumerate() {
        let mut pairs = Vec::new();
        for number in 1..=settings.pairs {
            let pair = [run_once(settings, &place, 0, connections)?, run_once(settings, &place, 1, connections)?];
            for (run, name) in pair.iter().zip(["a", "b"]) {
                for complaint in &run.complaints {
                    good = false;
                    println!("WRONG: {name}, {connections} connections, pair {number}: {complaint}");
                }
            }
            pairs.push(pair);
        }
        print_level(settings, connections, &pairs);
        let median = ratios(settings, &pairs).median;
        if let Some(&bound) = settings.at_least.get(level).filter(|bound| median < **bound) {
            good = false;
            println!("TOO LOW: {} is below {}", Thousandths(median), Thousandths(bound));
        }
        levels.push(level_json(settings, connections, &pairs));
    }
    let report = json!({
        "scenario": load.scenario.name(), "accounts": load.accounts, "items": load.items, "seconds": load.seconds,
        "folder": if settings.kept_folder { "kept" } else { "fresh" },
        "a": settings.commands[0], "b": settings.commands[1], "levels": levels,
    });
    let failed = |error: std::io::Error| format!("{}: {error}", settings.json.display());
    std::fs::write(&settings.json, format!("{report:#}\n")).map_err(failed)?;
    println!("\nwritten to {}", settings.json.display());
    Ok(good)
}

fn main() -> ExitCode {
    let settings = Flags::parse(std::env::args().skip(1), &["help"])
        .and_then(|mut flags| if flags.switch("help") { Ok(None) } else { Settings::parse(flags).map(Some) });
    let settings = match settings {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("compare_http: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match compare(&settings) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("compare_http: {message}");
            ExitCode::FAILURE
        }
    }
}
