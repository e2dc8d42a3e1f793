//! The settings of a node: one declaration of each, from which the file, the environment, the command line,
//! `--help` and `meed config show` all come.
//!
//! A setting is taken from the first of these that has it: flag, environment (`MEED_…`), file (TOML),
//! default. This module reads nothing itself: contents and variables are arguments.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meed_engine::config::{RETENTION_DAYS_DEFAULT, RETENTION_DAYS_MIN};
use meed_engine::journal::cql::{APPENDS_DEFAULT, BATCH_BYTES, BUCKET_BYTES_DEFAULT};
use meed_engine::journal::{BLOCK_BYTES, SEGMENT_BYTES_DEFAULT};
use meed_schemas::event::{BALANCES_TOPIC, EVENTS_TOPIC};
use serde::Deserialize;

use crate::peer::Peer;
pub use crate::values::{ByteSize, JournalKind, ListenAddress, LogFormat, OptionalAddress, OptionalFile, OptionalPeer};
use crate::values::{Value, quoted, within};

/// What stands before the upper-case name of a setting in the environment.
pub const ENVIRONMENT_PREFIX: &str = "MEED_";
/// Most credentials that a file may declare.
pub const CREDENTIALS_MAX: usize = 10_000;

/// The longest name of a topic that Kafka takes.
const TOPIC_BYTES_MAX: usize = 249;

/// Parts of the names of Kafka properties whose values are not shown.
const SECRET_PROPERTIES: [&str; 5] = ["password", "secret", "sasl", "key", "oauth"];

/// Why settings cannot be used, in words for the person who wrote them. The command line answers it with
/// exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(pub String);

/// Where the value of a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file named by `--config`.
    File,
    /// A variable of the environment.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl Source {
    fn text(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// What is known of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Its name in the file; the flag has hyphens for underscores, the variable is `MEED_` and upper case.
    pub name: &'static str,
    /// The flag without its leading hyphens.
    pub flag: &'static str,
    /// What it is about.
    pub group: &'static str,
    /// What stands for its value in the help.
    pub value_name: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
    /// Whether the flag may stand without a value.
    pub switch: bool,
    /// Whether the flag takes several values.
    pub list: bool,
    set_text: fn(&mut Settings, &str) -> Result<(), String>,
    set_toml: fn(&mut Settings, &toml::Value) -> Result<(), String>,
    show: fn(&Settings) -> String,
}

impl Declared {
    /// The variable of the environment.
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// The value that `settings` has, as TOML.
    pub fn value(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }
}

/// The name with hyphens for underscores, made when the program is compiled: the command line wants text
/// that lives for ever.
const fn hyphens<const LENGTH: usize>(name: &str) -> [u8; LENGTH] {
    let mut flag = [0; LENGTH];
    let mut index = 0;
    while index < LENGTH {
        let byte = name.as_bytes()[index];
        flag[index] = if byte == b'_' { b'-' } else { byte };
        index += 1;
    }
    flag
}

macro_rules! settings {
    ($($group:literal { $($name:ident: $type:ty = $default:expr, $value_name:literal, $help:literal $(, $least:literal..=$most:literal)?;)* })*) => {
        /// The settings of a node. `meed serve --help` says what each does.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[doc = $help] pub $name: $type,)*)*
            /// Who may call; nobody configured: whoever reaches the loopback address.
            pub credentials: Vec<CredentialSetting>,
            /// Further properties of the Kafka client. Only in the file: `[kafka_properties]`.
            pub kafka_properties: BTreeMap<String, String>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($name: $default,)*)* credentials: Vec::new(), kafka_properties: BTreeMap::new() }
            }
        }

        /// Every setting, in the order of the help.
        pub const DECLARED: &[Declared] = &[$($(Declared {
            name: stringify!($name),
            flag: {
                const NAME: &str = stringify!($name);
                const FLAG: &[u8] = &hyphens::<{ NAME.len() }>(NAME);
                match std::str::from_utf8(FLAG) {
                    Ok(flag) => flag,
                    Err(_) => NAME,
                }
            },
            group: $group,
            value_name: $value_name,
            help: $help,
            switch: <$type as Value>::SWITCH,
            list: <$type as Value>::LIST,
            set_text: |settings, text| {
                settings.$name = within(<$type as Value>::parse(text)?, settings!(@bounds $($least..=$most)?))?;
                Ok(())
            },
            set_toml: |settings, value| {
                settings.$name = within(<$type as Value>::from_toml(value)?, settings!(@bounds $($least..=$most)?))?;
                Ok(())
            },
            show: |settings| Value::toml(&settings.$name),
        },)*)*];
    };
    (@bounds) => { None };
    (@bounds $least:literal..=$most:literal) => { Some(($least, $most)) };
}

settings! {
    "Node" {
        data: PathBuf = PathBuf::from("./meed-data"), "DIR", "Folder of the journal and the state";
        programs: Vec<PathBuf> = Vec::new(), "FILE", "Program documents (JSON) to load at start; a file's name without its extension is the program's id";
        journal: JournalKind = JournalKind::Embedded, "KIND", "Where operations become durable: embedded (in the data folder) or cql";
        shards: u16 = 16, "COUNT", "Shards of a data folder; fixed when it is created", 1..=4096;
        workers: u16 = 0, "COUNT", "Worker threads; 0 is one per core", 0..=1024;
    }
    "Network" {
        listen: ListenAddress = ListenAddress(SocketAddr::from(([127, 0, 0, 1], 8080))), "HOST:PORT", "Where to serve HTTP; port 0 takes a free one. Without credentials only loopback";
        metrics_listen: OptionalAddress = OptionalAddress(Some(SocketAddr::from(([127, 0, 0, 1], 9464)))), "HOST:PORT|off", "Where to serve /metrics, to whoever reaches it. Without [[credentials]] only loopback";
        share_port: bool = false, "BOOL", "Listen beside other processes of this user on the same HOST:PORT; the system spreads connections";
        listen_backlog: u32 = 4096, "COUNT", "Connections that wait to be accepted, per worker", 1..=65535;
        max_connections: u32 = 100_000, "COUNT", "Open connections in all; never more than the file limit leaves", 1..=10000000;
        max_connections_per_address: u32 = 0, "COUNT", "Open connections from one address; 0 is no cap";
        requests_per_second_per_address: u32 = 0, "COUNT", "Requests a second from one address; 0 is no limit";
        request_burst_per_address: u32 = 0, "COUNT", "Requests that one address may send at once; 0 is as many as its rate";
        head_bytes: ByteSize = ByteSize(16 << 10), "BYTES", "Longest request head; beyond it 431", 1024..=65536;
        head_timeout_ms: u64 = 10_000, "MS", "Time for a request head, and for a new connection to say something", 10..=3600000;
        body_timeout_ms: u64 = 10_000, "MS", "Time for a request body; beyond it 408", 10..=3600000;
        idle_timeout_ms: u64 = 120_000, "MS", "Time that a connection may be idle between requests", 10..=86400000;
        linger_ms: u64 = 1_000, "MS", "Time for a client to take its last answer before its connection is cut", 0..=60000;
        drain_timeout_ms: u64 = 25_000, "MS", "Time for requests to finish when the node is told to stop", 0..=600000;
    }
    "Fronts" {
        front_of: Vec<Peer> = Vec::new(), "ADDRESS", "Serve as a front without data: forward to the owner at unix:PATH or http://HOST:PORT; of a cluster any nodes, of which one must live";
        advertise: OptionalPeer = OptionalPeer(None), "HOST:PORT", "Where the other nodes of a cluster reach --owner-listen, if not at the address that it names";
        owner_listen: OptionalPeer = OptionalPeer(None), "ADDRESS", "Where fronts and other nodes reach it: unix:PATH or HOST:PORT, never the public address; with CQL 127.0.0.1 and a free port if not given";
        owner_secret: OptionalFile = OptionalFile(None), "FILE", "Secret that owner and fronts share, 16 bytes or more; a Unix socket without one uses PATH.secret, which the owner makes, and nodes of a keyspace one from there";
    }
    "Requests" {
        body_bytes: ByteSize = ByteSize(64 << 10), "BYTES", "Longest body of a single request; beyond it 413", 1024..=16777216;
        batch_body_bytes: ByteSize = ByteSize(8 << 20), "BYTES", "Longest body of a batch; beyond it 413", 1024..=268435456;
        batch_items: u32 = 10_000, "COUNT", "Most items of a batch; beyond it 413", 1..=1000000;
        body_buffer_bytes: ByteSize = ByteSize(256 << 20), "BYTES", "Memory for bodies that do not arrive in one piece; beyond it 503", 1048576..=1099511627776;
        request_deadline_ms: u64 = 10_000, "MS", "Time from the end of a request to its answer; beyond it 504", 1..=600000;
        requests_per_worker: u32 = 512, "COUNT", "Requests that a worker has under way before it leaves further ones in their sockets; 0: no limit, as always in a cluster", 0..=16777216;
        admission_wait_ms: u64 = 50, "MS", "Time that a request waits for a permit; beyond it 503", 0..=60000;
        overload_pause_ms: u64 = 100, "MS", "Time that such a 503 is kept before it leaves, so that who asks again at once takes little from the others", 0..=10000;
        admission_commands: u32 = 65_536, "COUNT", "Commands in work, per node", 1..=16777216;
        admission_bytes: ByteSize = ByteSize(256 << 20), "BYTES", "Bytes of commands in work, per node", 65536..=1099511627776;
        admission_commands_per_shard: u32 = 16_384, "COUNT", "Commands in work, per shard", 1..=16777216;
    }
    "Events" {
        event_readers: u32 = 64, "COUNT", "Readers of /api/v1/events at once; beyond it 503", 0..=65536;
    }
    "Kafka" {
        kafka: String = String::new(), "HOST:PORT,…", "Brokers to publish events to; none without it";
        kafka_events_topic: String = EVENTS_TOPIC.to_owned(), "TOPIC", "The topic of events; it must exist";
        kafka_balances_topic: String = BALANCES_TOPIC.to_owned(), "TOPIC|off", "The compacted topic of balances; it must exist";
        kafka_balances_interval_ms: u64 = 30_000, "MS", "Time between two flushes of balances", 10..=3600000;
    }
    "Memory and disk" {
        memory_bytes: ByteSize = ByteSize(2 << 30), "BYTES", "Memory for accounts, the state store and its filters; idle accounts leave it first", 1048576..=17592186044416;
        segment_bytes: ByteSize = ByteSize(SEGMENT_BYTES_DEFAULT), "BYTES", "Size of a journal segment, a multiple of 512", 1048576..=1073741824;
        journal_retention_days: u32 = RETENTION_DAYS_DEFAULT, "DAYS", "Age beyond which journal segments are removed, with the history in them: at least 366; 0 keeps all", 0..=36500;
        pack_segments: bool = true, "BOOL", "Compress journal segments that are full";
        checkpoint_interval_ms: u64 = 10_000, "MS", "Time between checkpoints of changed accounts", 10..=3600000;
        checkpoint_lag_records: u64 = 2_000_000, "COUNT", "Records that a restart may have to replay; beyond it load is shed", 1000..=1000000000000;
    }
    "CQL" {
        cql_nodes: Vec<String> = Vec::new(), "HOST:PORT", "Nodes of the ScyllaDB or Cassandra cluster to ask first";
        cql_keyspace: String = "meed".to_owned(), "NAME", "Keyspace; created with its tables if it is not there, else only checked";
        cql_replicas: u16 = 1, "COUNT", "Replicas in a keyspace that is created", 1..=9;
        cql_datacenter: String = String::new(), "NAME", "Datacenter whose nodes are asked, where the keyspace is; empty: the only one";
        cql_user: String = String::new(), "NAME", "User; empty: no login";
        cql_password_file: PathBuf = PathBuf::from("cql-password"), "FILE", "File with the user's password in its first line";
        cql_timeout_ms: u64 = 2_000, "MS", "Time after which the outcome of a statement is unknown and asked for again", 50..=60000;
        cql_appends: u32 = APPENDS_DEFAULT, "COUNT", "Appends to the journal under way at once, of all shards of the node", 1..=1024;
        cql_batch_bytes: ByteSize = ByteSize(BATCH_BYTES as u64), "BYTES", "Size after which an append takes no further operation; 1: one with each append", 1..=196608;
        cql_bucket_bytes: ByteSize = ByteSize(BUCKET_BYTES_DEFAULT), "BYTES", "Size of a journal partition after which the next one is begun", 4096..=1073741824;
        node: String = "meed-1".to_owned(), "NAME", "What this node is called among the nodes of its cluster";
        lease_ms: u64 = 6_000, "MS", "Time without a sign of life after which another node takes the shards", 500..=600000;
    }
    "Clock" {
        clock_jump_ms: u64 = 60_000, "MS", "Jump of the wall clock beyond which nothing more is settled", 1000..=86400000;
        settle_gap_days: u32 = 31, "DAYS", "Time since the last record beyond which a start settles nothing", 1..=36500;
        settle_past_gap: bool = false, "BOOL", "Settle beyond such a gap or jump: the clock is right, expired points go";
    }
    "Log" {
        log_format: LogFormat = LogFormat::Text, "FORMAT", "How log lines are written to standard error: text or json";
        log_level: String = "info".to_owned(), "LEVEL", "error, warn, info, debug, trace, or a list such as info,meed_engine=debug";
        access_log: bool = false, "BOOL", "Log a line for every request";
    }
}

/// One who may call. Only in the file: `[[credentials]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialSetting {
    /// Who it is, for messages about it.
    pub name: String,
    /// SHA-256 of the bearer token, 64 hexadecimal digits.
    pub token_sha256: String,
    /// The program that it may act for; `*` is any, named by the header `Program`.
    pub program: String,
    /// What it may do: `read`, `operate`, `admin`, each by itself.
    pub roles: Vec<String>,
}

/// Settings and where each of them comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in effect.
    pub settings: Settings,
    sources: Vec<Source>,
}

impl Loaded {
    /// Where the setting `name` comes from; `None` when there is no such setting.
    pub fn source(&self, name: &str) -> Option<Source> {
        DECLARED.iter().position(|declared| declared.name == name).map(|index| self.sources[index])
    }

    /// The effective settings as TOML that `--config` takes, with the source of each as a comment. Digests
    /// of tokens are left out.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for (declared, source) in DECLARED.iter().zip(&self.sources) {
            if declared.group != group {
                group = declared.group;
                let _ = writeln!(text, "{}# {group}", if text.is_empty() { "" } else { "\n" });
            }
            let _ = writeln!(text, "{} = {}  # {}", declared.name, declared.value(&self.settings), source.text());
        }
        for credential in &self.settings.credentials {
            let roles: Vec<String> = credential.roles.iter().map(|role| quoted(role)).collect();
            let _ = write!(
                text,
                "\n[[credentials]]\nname = {}\ntoken_sha256 = \"redacted\"\nprogram = {}\nroles = [{}]\n",
                quoted(&credential.name),
                quoted(&credential.program),
                roles.join(", ")
            );
        }
        for (index, (name, value)) in self.settings.kafka_properties.iter().enumerate() {
            let is_secret = SECRET_PROPERTIES.iter().any(|part| name.contains(part));
            let value = quoted(if is_secret { "redacted" } else { value });
            let _ =
                writeln!(text, "{}{} = {value}", if index == 0 { "\n[kafka_properties]\n" } else { "" }, quoted(name));
        }
        text
    }
}

/// Builds settings from the text of a file (with its path, for messages), variables of the environment and
/// flags (setting name and text). Unknown members of the file are refused; variables that are no setting
/// are ignored, because orchestrators set `MEED_…` of their own.
pub fn load(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, SettingError> {
    let mut loaded = Loaded { settings: Settings::default(), sources: vec![Source::Default; DECLARED.len()] };
    if let Some((path, text)) = file {
        load_file(&mut loaded, path, text)?;
    }
    for (variable, text) in environment {
        let found = DECLARED.iter().enumerate().find(|(_, declared)| declared.variable() == variable);
        if let Some((index, declared)) = found {
            (declared.set_text)(&mut loaded.settings, &text)
                .map_err(|detail| SettingError(format!("environment variable {variable} {detail}")))?;
            loaded.sources[index] = Source::Environment;
        }
    }
    for (name, text) in flags {
        let found = DECLARED.iter().enumerate().find(|(_, declared)| declared.name == name);
        let Some((index, declared)) = found else {
            return Err(SettingError(format!("there is no setting `{name}`")));
        };
        (declared.set_text)(&mut loaded.settings, text)
            .map_err(|detail| SettingError(format!("--{} {detail}", declared.flag)))?;
        loaded.sources[index] = Source::Flag;
    }
    check(&loaded.settings)?;
    Ok(loaded)
}

fn load_file(loaded: &mut Loaded, path: &Path, text: &str) -> Result<(), SettingError> {
    let at = path.display();
    let table: toml::Table = text.parse().map_err(|error| SettingError(format!("{at} is not TOML: {error}")))?;
    for (name, value) in &table {
        if name == "credentials" {
            loaded.settings.credentials =
                value.clone().try_into().map_err(|error| SettingError(format!("{at}: in `credentials`: {error}")))?;
            continue;
        }
        if name == "kafka_properties" {
            loaded.settings.kafka_properties = properties(value)
                .ok_or_else(|| SettingError(format!("{at}: `kafka_properties` must be a table of plain values")))?;
            continue;
        }
        let found = DECLARED.iter().enumerate().find(|(_, declared)| declared.name == name);
        let Some((index, declared)) = found else {
            return Err(SettingError(format!(
                "{at}: unknown setting `{name}`; `meed config show` lists all that there are"
            )));
        };
        (declared.set_toml)(&mut loaded.settings, value)
            .map_err(|detail| SettingError(format!("{at}: `{name}` {detail}")))?;
        loaded.sources[index] = Source::File;
    }
    Ok(())
}

/// A table of plain values, each as the text that Kafka's client takes.
fn properties(value: &toml::Value) -> Option<BTreeMap<String, String>> {
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    };
    value.as_table()?.iter().map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// What no setting can say by itself.
fn check(settings: &Settings) -> Result<(), SettingError> {
    if settings.credentials.len() > CREDENTIALS_MAX {
        return Err(SettingError(format!("`credentials` may have at most {CREDENTIALS_MAX} entries")));
    }
    let days = settings.journal_retention_days;
    if days > 0 && days < RETENTION_DAYS_MIN {
        return Err(SettingError(format!(
            "--journal-retention-days {days} is refused: it must be at least {RETENTION_DAYS_MIN}, because holds may be \
             open for a year and keys are remembered for months, or 0 to keep all"
        )));
    }
    let segment_bytes = settings.segment_bytes.0;
    if !segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(SettingError(format!("--segment-bytes must be a multiple of {BLOCK_BYTES}, not {segment_bytes}")));
    }
    check_open(settings)?;
    for (flag, addresses) in [
        ("--kafka", settings.kafka.split(',').filter(|part| !part.is_empty()).collect::<Vec<_>>()),
        ("--cql-nodes", settings.cql_nodes.iter().map(String::as_str).collect()),
    ] {
        if let Some(wrong) = addresses.into_iter().find(|address| !has_port(address)) {
            return Err(SettingError(format!("{flag} must be HOST:PORT, with commas between several, not `{wrong}`")));
        }
    }
    check_journal(settings)?;
    check_topics(settings)?;
    check_fronts(settings)
}

/// A node without credentials listens on loopback only, metrics too: they show what a program owes and how busy it is,
/// to whoever reaches them. Where credentials are declared somebody has thought of who may reach the node; scrapers
/// need none.
fn check_open(settings: &Settings) -> Result<(), SettingError> {
    if !settings.credentials.is_empty() {
        return Ok(());
    }
    let listeners = [("--listen", Some(settings.listen.0)), ("--metrics-listen", settings.metrics_listen.0)];
    for (flag, address) in listeners {
        if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
            return Err(SettingError(format!(
                "{flag} {address} is refused: without credentials this node answers anybody, so it listens on \
                 loopback only. Declare [[credentials]] in the file of --config, or listen on 127.0.0.1"
            )));
        }
    }
    Ok(())
}

/// Whether this is HOST:PORT. Whoever connects resolves the host.
fn has_port(address: &str) -> bool {
    let parts = address.trim().rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn check_journal(settings: &Settings) -> Result<(), SettingError> {
    match (settings.journal, settings.cql_nodes.is_empty()) {
        (JournalKind::Cql, true) => {
            Err(SettingError("--journal cql needs --cql-nodes HOST:PORT, the nodes of the cluster to ask first".into()))
        }
        (JournalKind::Embedded, false) => {
            Err(SettingError("--cql-nodes has no effect without --journal cql; give both or none".into()))
        }
        _ => Ok(()),
    }
}

/// A name that a broker refuses would be asked for again for ever.
fn check_topics(settings: &Settings) -> Result<(), SettingError> {
    let (events, balances) = (&settings.kafka_events_topic, &settings.kafka_balances_topic);
    for (flag, topic) in [("--kafka-events-topic", events), ("--kafka-balances-topic", balances)] {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=TOPIC_BYTES_MAX).contains(&topic.len())
            || !topic.bytes().all(is_known)
            || [".", ".."].contains(&&**topic)
        {
            let detail = format!("1 to {TOPIC_BYTES_MAX} letters, digits, `.`, `_` and `-`");
            return Err(SettingError(format!("{flag} must be {detail}, not `{topic}`")));
        }
    }
    match events == balances {
        true => Err(SettingError(format!("--kafka-events-topic and --kafka-balances-topic are both `{events}`"))),
        false => Ok(()),
    }
}

fn check_fronts(settings: &Settings) -> Result<(), SettingError> {
    let refuse = |text: &str| Err(SettingError(text.to_owned()));
    if !settings.front_of.is_empty() && settings.owner_listen.0.is_some() {
        return refuse("--front-of and --owner-listen exclude each other: a front has no accounts to forward to");
    }
    if !settings.front_of.is_empty() && !settings.programs.is_empty() {
        return refuse("--programs is the owner's: a front has the programs of its owner");
    }
    let has_own_secret = settings.journal == JournalKind::Cql;
    match (&settings.advertise.0, &settings.owner_listen.0) {
        (None, _) => {}
        (Some(Peer::Tcp(_)), Some(Peer::Tcp(_))) if has_own_secret => {}
        (Some(_), _) => {
            return refuse("--advertise HOST:PORT is for a node of a cluster with --owner-listen HOST:PORT");
        }
    }
    if has_own_secret
        && settings.advertise.0.is_none()
        && let Some(Peer::Tcp(address)) = &settings.owner_listen.0
    {
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        if matches!(host, "0.0.0.0" | "[::]" | "*") {
            return refuse(
                "--owner-listen of a node of a cluster must be an address at which the other nodes reach it, or \
                 --advertise must name one",
            );
        }
    }
    let listens = matches!(settings.owner_listen.0, Some(Peer::Tcp(_))) && !has_own_secret;
    let forwards = settings.front_of.len() > 1 || matches!(settings.front_of[..], [Peer::Tcp(_)]);
    if settings.owner_secret.0.is_none() && (forwards || listens) {
        return refuse("--front-of and --owner-listen on TCP need --owner-secret FILE: who knows it may do everything");
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
