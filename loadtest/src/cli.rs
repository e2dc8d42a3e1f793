//! The command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::compare::compare;
use crate::error::Fault;
use crate::fleet;
use crate::interrupt;
use crate::machine;
use crate::node::Layout;
use crate::output::{self, table};
use crate::protocol::TOKEN_VARIABLE;
use crate::run::{self, Finished, Options, Reach, parse_sources};
use crate::scenario::{PROFILES, Scenario};
use crate::search::{Found, Search, search};
use crate::verdict::{self, EXIT_FAILED, EXIT_INVALID, EXIT_PASS, EXIT_THRESHOLD, EXIT_USAGE};
use crate::worker;

const AFTER_HELP: &str = "\
Exit codes:
  0   everything that was required holds
  1   the program could not do what it was told, or a server or a process went away before the books were read
  2   the command line or the scenario is wrong
  97  INVALID: the run says nothing about the server, and says why
  98  CORRECTNESS: points were created, lost or applied twice, or an answer was wrong
  99  THRESHOLD: a condition of --require does not hold";

#[derive(Debug, Parser)]
#[command(name = "meed-loadtest", version, about = "Load on a schedule, and proof that no point is created or lost", after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a scenario: a profile by its name, or a TOML file
    Run(RunArguments),
    /// Find the highest rate that holds: double, halve in between, confirm with a longer run
    Search(SearchArguments),
    /// Compare repeated runs: medians, and whether the difference is more than noise
    Compare {
        /// A summary.json, or a folder with runs
        before: PathBuf,
        /// The same
        after: PathBuf,
        /// Compare even when machine, kernel or scenario differ
        #[arg(long)]
        allow_different_environments: bool,
        /// Exit with 99 when a figure became significantly worse, with 98 or 97 when runs had wrong books or were invalid
        #[arg(long)]
        fail_on_regression: bool,
        /// Changes up to this are no regression
        #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
        noise_percent: f64,
    },
    /// List the profiles
    Profiles,
    /// Print a profile, as a beginning of a scenario of your own
    Show { profile: String },
    /// Make load for a coordinator on another machine
    Agent {
        /// HOST:PORT of the coordinator's --agents-listen
        coordinator: String,
        /// Processes; one per core by default
        #[arg(long)]
        processes: Option<u32>,
        /// Source addresses of this machine: a list, or networks such as 10.0.0.0/28
        #[arg(long, value_name = "LIST", default_value = "")]
        sources: String,
    },
    /// One process that makes load; `run` and `agent` start it
    #[command(hide = true)]
    Worker {
        coordinator: String,
        #[arg(long, default_value = "")]
        sources: String,
    },
}

#[derive(Clone, Debug, Args)]
struct RunArguments {
    /// A profile (see `profiles`) or a TOML file
    scenario: String,
    #[command(flatten)]
    common: CommonArguments,
    /// Conditions, such as p99<50ms,errors<0.1%,conservation; default: those of the scenario
    #[arg(long, value_name = "CONDITIONS")]
    require: Option<String>,
    /// Run so many times, for `compare`; the runs go to folders run-1, run-2, …
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    repeat: u32,
    /// Folder for summary.json, intervals.csv, histograms and report.html
    #[arg(long, value_name = "DIR", default_value = "loadtest-result")]
    out: PathBuf,
}

#[derive(Clone, Debug, Args)]
struct SearchArguments {
    /// A profile (see `profiles`) or a TOML file; its stages are replaced
    #[arg(default_value = "mixed")]
    scenario: String,
    #[command(flatten)]
    common: CommonArguments,
    /// Highest 99th percentile, such as 50ms
    #[arg(long, value_name = "TIME")]
    p99: Option<String>,
    /// Most errors, such as 0.1%
    #[arg(long, value_name = "PERCENT")]
    errors: Option<String>,
    /// Further conditions
    #[arg(long, value_name = "CONDITIONS", default_value = "conservation")]
    require: String,
    /// First rate
    #[arg(long, value_name = "RATE", default_value_t = 1_000)]
    from: u64,
    /// Highest rate
    #[arg(long, value_name = "RATE", default_value_t = 10_000_000)]
    to: u64,
    /// Length of a try
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Length of the confirmation
    #[arg(long, default_value_t = 30)]
    confirm_seconds: u32,
    /// Folder for the files of the confirmation
    #[arg(long, value_name = "DIR", default_value = "loadtest-result")]
    out: PathBuf,
}

#[derive(Clone, Debug, Args)]
struct CommonArguments {
    /// Servers to load; several: connections are spread over them
    #[arg(long, value_name = "http://HOST:PORT", value_delimiter = ',', conflicts_with = "start_node")]
    target: Vec<String>,
    /// Start a node in a temporary folder, and stop it at the end
    #[arg(long)]
    start_node: bool,
    /// With --start-node: so many gateway processes in front of one owner
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    fronts: u32,
    /// The program meed; default: beside this one
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
    /// Where the temporary folder is made: a disk, as the journal's speed is the disk's
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_parent: PathBuf,
    /// A flag for the started node, such as --node-flag=--shards=64; may be repeated
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    node_flag: Vec<String>,
    /// First give the same load to this program in the same layout, such as target/release/bare_hyper
    #[arg(long, value_name = "COMMAND")]
    beside: Option<String>,
    /// Processes that make the load; default: as many as the file limit and the rate need
    #[arg(long, value_name = "COUNT")]
    processes: Option<u32>,
    /// Wait for so many processes of agents on other machines instead of starting any
    #[arg(long, value_name = "COUNT", default_value_t = 0, requires = "agents_listen")]
    agents: u32,
    /// Where agents come to
    #[arg(long, value_name = "HOST:PORT")]
    agents_listen: Option<String>,
    /// Source addresses: a list, or networks such as 10.0.0.0/28; those of other machines are given to their agents
    #[arg(long, value_name = "LIST", default_value = "", conflicts_with = "agents")]
    sources: String,
    /// File with the bearer token of the server
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Set a value of the scenario, such as --set connections=1000 or --set stages.0.rate=5000; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// Runs the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Printing fails when nobody reads.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match obey(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            tell(&format!("meed-loadtest: {fault}"));
            ExitCode::from(if matches!(fault, Fault::Usage(_)) { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

fn obey(verb: Verb) -> Result<u8, Fault> {
    match verb {
        Verb::Run(arguments) => {
            interrupt::watch()?;
            run_repeatedly(&arguments)
        }
        Verb::Search(arguments) => {
            interrupt::watch()?;
            find_rate(&arguments)
        }
        Verb::Compare { before, after, allow_different_environments, fail_on_regression, noise_percent } => {
            let compared = compare(&before, &after, allow_different_environments, noise_percent)?;
            show(&compared.text);
            Ok(if fail_on_regression { compared.exit_code } else { EXIT_PASS })
        }
        Verb::Profiles => {
            for (name, _) in PROFILES {
                show(&format!("{name:<20} {}\n", Scenario::load(name)?.description));
            }
            Ok(0)
        }
        Verb::Show { profile } => {
            let known = PROFILES.iter().find(|(name, _)| *name == profile);
            let (_, text) = known.ok_or_else(|| Fault::Usage(format!("`{profile}` is no profile")))?;
            show(text);
            Ok(0)
        }
        Verb::Agent { coordinator, processes, sources } => {
            parse_sources(&sources)?;
            worker::agent(&coordinator, &token()?, processes, &sources).map(|()| EXIT_PASS)
        }
        Verb::Worker { coordinator, sources } => worker::serve(&coordinator, &token()?, parse_sources(&sources)?),
    }
}

/// Writes to standard output. Nobody reads it: then it is not needed, and the run, its files and its exit code are.
fn show(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Writes a line to standard error, with the same right to be ignored.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs once or several times; the exit code is the worst of all runs.
fn run_repeatedly(arguments: &RunArguments) -> Result<u8, Fault> {
    let options = options(&arguments.scenario, &arguments.common, arguments.require.as_deref())?;
    let (is_started, has_bare) = (arguments.common.start_node, arguments.common.beside.is_some());
    verdict::check(&options.thresholds, &options.scenario, is_started, has_bare)?;
    output::clear(&arguments.out)?;
    let (mut codes, count) = (Vec::new(), arguments.repeat.max(1));
    for number in 1..=count {
        let finished = match run::run(&options) {
            Ok(finished) => finished,
            Err(fault) if codes.is_empty() => return Err(fault),
            // What the runs before it showed stays.
            Err(fault) => {
                tell(&format!("meed-loadtest: run {number} of {count}: {fault}"));
                codes.push(EXIT_FAILED);
                break;
            }
        };
        let folder = if count > 1 { output::run_folder(&arguments.out, number) } else { arguments.out.clone() };
        codes.push(report(&finished, &folder));
        if interrupt::is_asked() {
            break;
        }
        if options.agents > 0 && finished.has_lost_processes && number < count {
            tell("meed-loadtest: processes of agents are gone, so no further run begins");
            break;
        }
    }
    Ok(verdict::worst(&codes))
}

/// Shows a run and writes its files. Its exit code; files that cannot be written do not hide wrong books.
fn report(finished: &Finished, folder: &Path) -> u8 {
    show(&table(&finished.summary));
    let code = finished.summary.verdict.exit_code;
    match finished.write(folder) {
        Ok(()) => {
            show(&format!("files in {}\n", folder.display()));
            code
        }
        Err(fault) => {
            tell(&format!("meed-loadtest: {fault}"));
            verdict::worst(&[code, EXIT_FAILED])
        }
    }
}

fn find_rate(arguments: &SearchArguments) -> Result<u8, Fault> {
    let mut conditions = vec![arguments.require.clone()];
    conditions.extend(arguments.p99.as_ref().map(|bound| format!("p99<{bound}")));
    conditions.extend(arguments.errors.as_ref().map(|bound| format!("errors<{bound}")));
    let asked = conditions.join(",");
    let options = options(&arguments.scenario, &arguments.common, Some(&asked))?;
    let SearchArguments { from, to, seconds, confirm_seconds, .. } = *arguments;
    if from == 0 || to < from || seconds == 0 || confirm_seconds == 0 {
        return Err(Fault::Usage("--from must be at least 1 and at most --to; lengths at least 1".to_owned()));
    }
    output::clear(&arguments.out)?;
    let found = search(&options, Search { from, to, seconds, confirm_seconds }, &mut tell)?;
    match found {
        // Wrong books are wrong, however short the run was.
        Found::Stopped(finished) => {
            let code = report(&finished, &arguments.out);
            show("\nthe search ended here: whatever rate holds, this must not be\n");
            Ok(code)
        }
        Found::Nothing { .. } | Found::Rate { .. } if interrupt::is_asked() => {
            Err(Fault::Failed("ended by a signal: no rate was confirmed".to_owned()))
        }
        Found::Nothing { limit: None } => {
            show("no rate holds\n");
            Ok(EXIT_THRESHOLD)
        }
        Found::Nothing { limit: Some(limit) } => {
            show(&format!("no rate is known to hold: {limit}\n"));
            Ok(EXIT_INVALID)
        }
        Found::Rate { rate, confirmation, limit } => {
            confirmation.write(&arguments.out)?;
            show(&table(&confirmation.summary));
            show(&format!("\nhighest rate that holds: {rate}/s ({asked})\n"));
            Ok(match limit {
                None => EXIT_PASS,
                Some(limit) => {
                    show(&format!("INVALID: that limit is the generator's and not the server's: {limit}\n"));
                    EXIT_INVALID
                }
            })
        }
    }
}

fn token() -> Result<String, Fault> {
    std::env::var(TOKEN_VARIABLE).map_err(|_| {
        Fault::Usage(format!("the environment variable {TOKEN_VARIABLE} is missing; the coordinator prints its value"))
    })
}

fn options(scenario: &str, common: &CommonArguments, require: Option<&str>) -> Result<Options, Fault> {
    let scenario = Scenario::load(scenario)?.with(&common.set)?;
    let thresholds = verdict::parse(require.unwrap_or(&scenario.require))?;
    let program = match &common.node {
        Some(node) => node.clone(),
        None => {
            let own = std::env::current_exe().map_err(|error| Fault::failed("this program's own path", error))?;
            own.with_file_name("meed")
        }
    };
    let reach = if common.start_node {
        Reach::Start(Layout {
            program,
            fronts: common.fronts,
            folder_parent: common.data_parent.clone(),
            flags: scenario.node_flags.iter().chain(&common.node_flag).cloned().collect(),
            bare: None,
        })
    } else if common.target.is_empty() {
        return Err(Fault::Usage(
            "name a server by --target http://HOST:PORT, or let --start-node start one".to_owned(),
        ));
    } else {
        let plain = |target: &String| {
            let rest = target.strip_prefix("http://").unwrap_or(target);
            rest.trim_end_matches('/').to_owned()
        };
        Reach::Targets(common.target.iter().map(plain).collect())
    };
    let authorization = match &common.token_file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| Fault::failed(path.display(), error))?;
            Some(format!("Bearer {}", text.trim()))
        }
    };
    let token = match std::env::var(TOKEN_VARIABLE) {
        Ok(token) if !token.is_empty() => token,
        _ => machine::random_hex(16)?,
    };
    Ok(Options {
        scenario,
        thresholds,
        reach,
        bare: common.beside.as_ref().map(|command| command.split_whitespace().map(str::to_owned).collect()),
        processes: common.processes,
        agents: common.agents,
        agents_listener: invite(common, &token)?,
        token,
        sources: parse_sources(&common.sources)?,
        authorization,
        is_quiet: common.quiet,
    })
}

/// Listens for agents, for all loads of the command, and says what to start on the other machines.
fn invite(common: &CommonArguments, token: &str) -> Result<Option<Arc<TcpListener>>, Fault> {
    let Some(listen) = common.agents_listen.as_deref().filter(|_| common.agents > 0) else { return Ok(None) };
    let listener = fleet::listen(listen)?;
    let address = listener.local_addr().map_err(|error| Fault::failed(listen, error))?;
    tell(&format!(
        "waiting for {} processes of other machines; on each:\n  {TOKEN_VARIABLE}={token} meed-loadtest agent THIS_HOST:{}",
        common.agents,
        address.port()
    ));
    Ok(Some(Arc::new(listener)))
}
