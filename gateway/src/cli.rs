//! The command line. Flags come from the declarations in [`crate::config`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command as Clap, value_parser};

use meed_engine::publish::Range;
use meed_schemas::time::{self, Millis};

use crate::config::{DECLARED, ENVIRONMENT_PREFIX, JournalKind, Loaded, SettingError, Settings, load};
pub use crate::exit::{EXIT_DAMAGED, EXIT_DONE, EXIT_FAILED, EXIT_LOCKED, EXIT_USAGE};
use crate::torture::Worlds;

const AFTER_HELP: &str = "\
Settings:
  A setting is taken from its flag, else from its environment variable (MEED_ and the
  name in upper case, such as MEED_METRICS_LISTEN), else from the file of --config
  (TOML, names with underscores), else it has its default. `meed config show` prints
  all of them. Credentials are declared in the file:
    [[credentials]]
    name = \"till-7\"
    token_sha256 = \"<sha256sum of the token>\"
    program = \"default\"               # \"*\": the header Program says which
    roles = [\"operate\", \"read\"]       # and \"admin\"

Exit codes:
  0 done   1 failed   2 usage   3 damaged data   4 another process holds the folder";

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Serve, with these settings.
    Serve(Box<Loaded>),
    /// Check a data folder.
    Verify {
        /// The folder.
        data: PathBuf,
        /// A snapshot beside those in the folder.
        snapshot: Option<PathBuf>,
    },
    /// Write a snapshot of the state of a data folder.
    Snapshot {
        /// The folder.
        data: PathBuf,
        /// The file to write.
        to: PathBuf,
    },
    /// Make the state of a data folder from a snapshot.
    Restore {
        /// The folder.
        data: PathBuf,
        /// The snapshot.
        from: PathBuf,
    },
    /// Print records of a data folder as JSON lines.
    Inspect {
        /// The folder.
        data: PathBuf,
        /// Only this account: program and account id.
        account: Option<(String, String)>,
        /// First account sequence (with an account) or shard sequence.
        from: u64,
        /// Most lines.
        limit: Option<u64>,
    },
    /// Publish events of a stopped node's folder once more.
    EventsReplay {
        /// The settings: folder, brokers and properties of the client.
        loaded: Box<Loaded>,
        /// Into which topic.
        topic: String,
        /// Which events.
        range: Range,
    },
    /// Print the nodes of a cluster and who owns its shards.
    ClusterStatus(Box<Loaded>),
    /// Let a node of a cluster give its shards away, or take some again.
    ClusterDrain {
        /// The settings: how the cluster is reached.
        loaded: Box<Loaded>,
        /// Its name.
        node: String,
        /// Take some again.
        undo: bool,
    },
    /// Print the effective settings.
    ConfigShow(Box<Loaded>),
    /// Break simulated nodes.
    Torture(Worlds),
}

/// Why there is nothing to do: a message, and the exit code. Help and version are messages with code 0.
#[derive(Debug)]
pub struct Exit {
    /// What to print: on standard output when the code is 0, else on standard error.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

impl From<SettingError> for Exit {
    fn from(error: SettingError) -> Self {
        Self { message: format!("error: {error}\n"), code: EXIT_USAGE }
    }
}

fn setting_arguments() -> Vec<Arg> {
    let defaults = Settings::default();
    let mut arguments = vec![
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help(format!("Settings as TOML; also {ENVIRONMENT_PREFIX}CONFIG"))
            .help_heading("Node")
            .value_parser(value_parser!(PathBuf)),
    ];
    for declared in DECLARED {
        let help = format!("{} [default: {}]", declared.help, declared.value(&defaults).replace('"', ""));
        let argument = Arg::new(declared.name)
            .long(declared.flag)
            .value_name(declared.value_name)
            .help(help)
            .help_heading(declared.group);
        arguments.push(if declared.switch {
            argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(PossibleValuesParser::new(["true", "false"]))
                .hide_possible_values(true)
        } else if declared.list {
            argument.num_args(1..).action(ArgAction::Append)
        } else {
            argument
        });
    }
    arguments
}

fn data_argument() -> Arg {
    Arg::new("DIR").required(true).value_parser(value_parser!(PathBuf)).help("The data folder")
}

fn torture() -> Clap {
    let number = |name: &'static str, value_name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value_name).help(help).value_parser(value_parser!(u64))
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Clap::new("torture")
        .about("Break simulated nodes: crashes, power cuts, failing disks; exit 0, or 1 naming the first violation")
        .arg(number("seeds", "N", "How many worlds, one per seed").default_value("10000"))
        .arg(number("first", "SEED", "The first seed").default_value("0"))
        .arg(
            number("jobs", "N", "How many at a time")
                .default_value("1")
                .value_parser(value_parser!(u64).range(1..=256)),
        )
        .arg(number("seed", "SEED", "Only this seed").conflicts_with_all(["seeds", "first"]))
        .arg(flag("cluster", "Several nodes on one CQL cluster, instead of one node with its disk"))
        .arg(flag("verbose", "Print everything that happens in the world of the seed").requires("seed"))
        .after_help("A world is the same on every machine. Of a violation the events that lead to it are printed.")
}

fn torture_of(matches: &ArgMatches) -> Worlds {
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    let (first, seeds) = match number("seed") {
        Some(seed) => (seed, 1),
        None => (number("first").unwrap_or(0), number("seeds").unwrap_or(1)),
    };
    let jobs = number("jobs").unwrap_or(1) as usize;
    Worlds { first, seeds, jobs, verbose: matches.get_flag("verbose"), cluster: matches.get_flag("cluster") }
}

fn file_argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
}

fn cluster() -> Clap {
    let status = Clap::new("status").about("Print the nodes, and which shards each owns").args(setting_arguments());
    let drain = Clap::new("drain")
        .about("Let a node give all its shards to the others and go on as a front, until it is started anew")
        .arg(Arg::new("NODE").required(true).help("What it is called"))
        .arg(Arg::new("undo").long("undo").action(ArgAction::SetTrue).help("Let it take its share again"))
        .args(setting_arguments());
    let cluster = Clap::new("cluster").about("The nodes of a CQL keyspace").subcommands([status, drain]);
    cluster.subcommand_required(true).arg_required_else_help(true)
}

fn grammar() -> Clap {
    let serve = Clap::new("serve")
        .about("Serve loyalty points over HTTP (the default command)")
        .args(setting_arguments())
        .after_help(AFTER_HELP);
    let verify = Clap::new("verify")
        .about("Check a data folder: exit 0 and a summary, or 1 naming the first violation")
        .arg(data_argument())
        .arg(file_argument("snapshot", "A snapshot to use beside those in the folder"));
    let snapshot = Clap::new("snapshot")
        .about("Write a snapshot of the state of a stopped node's folder")
        .arg(data_argument())
        .arg(file_argument("to", "The file to write; it must not exist").required(true));
    let restore = Clap::new("restore")
        .about("Make the state of a folder without one from a snapshot; the next start replays the journal after it")
        .arg(data_argument())
        .arg(file_argument("from", "The snapshot").required(true));
    let inspect = Clap::new("inspect")
        .about("Print the records of a data folder as JSON lines")
        .arg(data_argument())
        .arg(Arg::new("account").long("account").value_name("PROGRAM/ACCOUNT").help("Only this account"))
        .arg(
            Arg::new("from")
                .long("from")
                .value_name("SEQ")
                .help("First sequence: the account's with --account, else that of each shard")
                .default_value("1")
                .value_parser(value_parser!(u64)),
        )
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("N")
                .help("Most lines")
                .value_parser(value_parser!(u64).range(1..)),
        );
    let config =
        Clap::new("config").about("Settings").subcommand_required(true).arg_required_else_help(true).subcommand(
            Clap::new("show")
                .about("Print the effective settings as TOML, and where each comes from")
                .args(setting_arguments()),
        );
    let instant = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("TIME").help(help).value_parser(parse_instant)
    };
    let replay = Clap::new("replay")
        .about("Publish events of a stopped node's folder once more, into a topic, with the same bytes")
        .arg(Arg::new("topic").long("topic").value_name("TOPIC").required(true).help("The topic; it must exist"))
        .arg(instant("since", "Only what was recorded at or after this (RFC 3339)"))
        .arg(instant("until", "Only what was recorded before this"))
        .arg(Arg::new("program").long("program").value_name("PROGRAM").help("Only events of this program"))
        .args(setting_arguments());
    let events =
        Clap::new("events").about("Events").subcommand_required(true).arg_required_else_help(true).subcommand(replay);
    Clap::new("meed")
        .about("Durable, in-memory loyalty-points transaction processor")
        .version(env!("CARGO_PKG_VERSION"))
        .args(setting_arguments())
        .args_conflicts_with_subcommands(true)
        .subcommands([serve, verify, inspect, snapshot, restore, events, cluster(), config, torture()])
        .after_help(AFTER_HELP)
}

/// Understands a command line. `environment` are the variables of the process; `read` gives the text of a file. An
/// error is what to print instead: help or version, or what is wrong with the command line or a setting.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (String, String)>,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Command, Exit> {
    let matches = grammar().try_get_matches_from(arguments).map_err(|error| {
        let code = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => EXIT_DONE,
            _ => EXIT_USAGE,
        };
        Exit { message: error.to_string(), code }
    })?;
    let settings = |matches: &ArgMatches| load_settings(matches, environment, read).map(Box::new);
    match matches.subcommand() {
        None => settings(&matches).map(Command::Serve),
        Some(("serve", matches)) => settings(matches).map(Command::Serve),
        Some(("config", matches)) => {
            settings(matches.subcommand_matches("show").unwrap_or(matches)).map(Command::ConfigShow)
        }
        Some(("events", matches)) => {
            let matches = matches.subcommand_matches("replay").unwrap_or(matches);
            let loaded = settings(matches)?;
            if loaded.settings.kafka.is_empty() {
                return Err(SettingError("--kafka says where to publish to".to_owned()).into());
            }
            let range = Range {
                since: matches.get_one("since").copied(),
                until: matches.get_one("until").copied(),
                program: matches.get_one("program").cloned(),
            };
            Ok(Command::EventsReplay { loaded, topic: matches.get_one("topic").cloned().unwrap_or_default(), range })
        }
        Some(("cluster", matches)) => {
            let (name, matches) = matches.subcommand().unwrap_or(("", matches));
            let loaded = settings(matches)?;
            if loaded.settings.journal != JournalKind::Cql {
                return Err(SettingError("a cluster needs --journal cql and --cql-nodes".to_owned()).into());
            } else if name == "status" {
                return Ok(Command::ClusterStatus(loaded));
            }
            let node = matches.get_one("NODE").cloned().unwrap_or_default();
            Ok(Command::ClusterDrain { loaded, node, undo: matches.get_flag("undo") })
        }
        Some(("torture", matches)) => Ok(Command::Torture(torture_of(matches))),
        Some(("verify", matches)) => Ok(Command::Verify { data: data(matches), snapshot: file(matches, "snapshot") }),
        Some(("snapshot", matches)) => {
            Ok(Command::Snapshot { data: data(matches), to: file(matches, "to").unwrap_or_default() })
        }
        Some(("restore", matches)) => {
            Ok(Command::Restore { data: data(matches), from: file(matches, "from").unwrap_or_default() })
        }
        Some((_, matches)) => Ok(Command::Inspect {
            data: data(matches),
            account: account(matches)?,
            from: matches.get_one("from").copied().unwrap_or(1),
            limit: matches.get_one("limit").copied(),
        }),
    }
}

fn parse_instant(text: &str) -> Result<Millis, String> {
    time::parse(text).ok_or_else(|| "must be a time such as 2026-11-21T00:00:00Z".to_owned())
}

fn data(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("DIR").cloned().unwrap_or_default()
}

fn file(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).cloned()
}

fn account(matches: &ArgMatches) -> Result<Option<(String, String)>, Exit> {
    let Some(text) = matches.get_one::<String>("account") else { return Ok(None) };
    match text.split_once('/') {
        Some((program, id)) if meed_schemas::ids::check_id(program) && meed_schemas::ids::check_id(id) => {
            Ok(Some((program.to_owned(), id.to_owned())))
        }
        _ => Err(SettingError(format!("--account must be PROGRAM/ACCOUNT, not `{text}`")).into()),
    }
}

fn load_settings(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (String, String)>,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Loaded, Exit> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let config_variable = format!("{ENVIRONMENT_PREFIX}CONFIG");
    let named = environment.iter().find(|(name, _)| *name == config_variable);
    let path = match (matches.get_one::<PathBuf>("config"), named) {
        (Some(path), _) => Some(path.clone()),
        (None, Some((_, path))) => Some(PathBuf::from(path)),
        (None, None) => None,
    };
    let file = match path {
        None => None,
        Some(path) => {
            let text = read(&path).map_err(|error| SettingError(format!("cannot read {}: {error}", path.display())))?;
            Some((path, text))
        }
    };
    let mut flags = Vec::new();
    for declared in DECLARED {
        if let Some(values) = matches.get_many::<String>(declared.name) {
            let values: Vec<&str> = values.map(String::as_str).collect();
            flags.push((declared.name.to_owned(), values.join(",")));
        }
    }
    let file = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    Ok(load(file, environment, &flags)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Source;
    use crate::peer::Peer;

    fn run(line: &str, environment: &[(&str, &str)]) -> Result<Command, Exit> {
        let arguments = std::iter::once("meed").chain(line.split_whitespace()).map(OsString::from);
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(arguments, environment, |path| match path.to_str() {
            Some("compose.toml") => Ok(include_str!("../../ops/compose.toml").to_owned()),
            Some("good.toml") => Ok("shards = 4\nworkers = 4".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        })
    }

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_all_sources_meet() {
        let Ok(Command::Serve(loaded)) = run("", &[]) else { panic!() };
        assert_eq!(loaded.settings, Settings::default());
        for line in [
            "--config good.toml --workers 2 --settle-past-gap",
            "serve --config good.toml --workers=2 --settle-past-gap=true",
        ] {
            let Ok(Command::Serve(loaded)) = run(line, &[("MEED_SHARDS", "8"), ("MEED_WORKERS", "9")]) else {
                panic!("{line}")
            };
            assert_eq!((loaded.settings.shards, loaded.settings.workers), (8, 2));
            assert!(loaded.settings.settle_past_gap);
            assert_eq!(loaded.source("shards"), Some(Source::Environment));
        }
        let Ok(Command::ConfigShow(loaded)) =
            run("config show --programs a.json b.json --programs c.json", &[("MEED_CONFIG", "good.toml")])
        else {
            panic!()
        };
        assert_eq!(loaded.settings.programs.len(), 3);
        assert_eq!(loaded.source("shards"), Some(Source::File));
    }

    #[test]
    fn the_nodes_of_the_compose_file_take_their_settings() {
        let text = include_str!("../../ops/compose.yaml");
        let commands: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix(r#"command: ["--config","#)).collect();
        assert_eq!(commands.len(), 3);
        for command in commands {
            let rest = command.replace(['"', ',', ']'], "").replace("/etc/meed.toml", "compose.toml");
            let line = format!("serve --config {rest}");
            let Ok(Command::Serve(loaded)) = run(&line, &[]) else { panic!("{line}") };
            let settings = &loaded.settings;
            assert!(settings.node.starts_with("meed-") && settings.cql_nodes.len() == 3);
            // Where each is in a container of its own, the others do not reach it at 127.0.0.1.
            assert_eq!(settings.owner_listen.0, Some(Peer::Tcp(format!("{}:7000", settings.node))));
        }
    }

    #[test]
    fn usage_errors_say_what_and_exit_with_2() {
        for (line, part) in [
            ("--journal cql", "--cql-nodes"),
            ("--cql-nodes a:1", "--journal cql"),
            ("--front-of unix:x --owner-listen unix:y", "exclude each other"),
            ("--front-of http://owner:7000", "--owner-secret"),
            ("--owner-listen 127.0.0.1:0", "--owner-secret"),
            ("--front-of owner", "unix:PATH"),
            ("--front-of unix:x --programs a.json", "owner's"),
            ("--config bad.toml", "bad.toml"),
            ("--listen 0.0.0.0:8080", "loopback only"),
            ("--metrics-listen 0.0.0.0:9464", "loopback only"),
            ("--max-connections 0", "--max-connections must be from 1"),
            ("verify", "DIR"),
            ("snapshot d", "--to"),
            ("restore d", "--from"),
            ("--journal-retention-days 365", "at least 366"),
            ("inspect d --account nothing", "PROGRAM/ACCOUNT"),
            ("inspect d --limit 0", "--limit"),
            ("events replay --kafka b:1", "--topic"),
            ("events replay --topic t", "--kafka"),
            ("events replay --topic t --kafka b:1 --since yesterday", "must be a time"),
            ("cluster status", "--journal cql"),
            ("cluster drain --journal cql --cql-nodes a:1", "NODE"),
            ("--journal cql --cql-nodes a:1 --owner-listen 0.0.0.0:7000", "must be an address"),
            ("nonsense", "nonsense"),
            ("config", "show"),
        ] {
            let exit = run(line, &[]).unwrap_err();
            assert_eq!(exit.code, EXIT_USAGE, "{line}");
            assert!(exit.message.contains(part), "{line}: {}", exit.message);
        }
    }

    #[test]
    fn other_commands() {
        let Ok(Command::Verify { data, snapshot: None }) = run("verify d", &[]) else { panic!() };
        assert_eq!(data, PathBuf::from("d"));
        let Ok(Command::Verify { snapshot, .. }) = run("verify d --snapshot s", &[]) else { panic!() };
        assert_eq!(snapshot, Some(PathBuf::from("s")));
        let Ok(Command::Snapshot { data, to }) = run("snapshot d --to s", &[]) else { panic!() };
        assert_eq!((data, to), (PathBuf::from("d"), PathBuf::from("s")));
        let Ok(Command::Restore { data, from }) = run("restore d --from s", &[]) else { panic!() };
        assert_eq!((data, from), (PathBuf::from("d"), PathBuf::from("s")));
        let Ok(Command::Inspect { account, from, limit, .. }) =
            run("inspect d --account p/m-1 --from 7 --limit 3", &[])
        else {
            panic!()
        };
        assert_eq!((account, from, limit), (Some(("p".to_owned(), "m-1".to_owned())), 7, Some(3)));
        let line = "events replay --topic t --kafka b:1 --data d --since 1970-01-01T00:00:01Z --program p";
        let Ok(Command::EventsReplay { loaded, topic, range }) = run(line, &[]) else { panic!() };
        assert_eq!((loaded.settings.kafka.as_str(), topic.as_str()), ("b:1", "t"));
        assert_eq!((range.since, range.until, range.program.as_deref()), (Some(1_000), None, Some("p")));
        let Ok(Command::Torture(torture)) = run("torture --seeds 7 --first 3 --jobs 2", &[]) else { panic!() };
        assert_eq!(torture, Worlds { first: 3, seeds: 7, jobs: 2, verbose: false, cluster: false });
        let Ok(Command::Torture(torture)) = run("torture --seed 9 --verbose --cluster", &[]) else { panic!() };
        assert_eq!(torture, Worlds { first: 9, seeds: 1, jobs: 1, verbose: true, cluster: true });
        assert_eq!(run("torture --seed 9 --first 3", &[]).unwrap_err().code, EXIT_USAGE);
        let help = run("serve --help", &[]).unwrap_err();
        assert_eq!(help.code, EXIT_DONE);
        for part in ["Exit codes", "Network:", "[default: 127.0.0.1:8080]", "--admission-wait-ms", "[[credentials]]"] {
            assert!(help.message.contains(part), "{part}");
        }
    }
}
