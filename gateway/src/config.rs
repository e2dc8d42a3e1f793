//! The settings of a node: one declaration of each, from which the file, the environment, the command line,
//! `--help` and `meed config show` all come.
//!
//! A setting is taken from the first of these that has it: flag, environment (`MEED_…`), file (TOML),
//! default. This module reads nothing itself: contents and variables are arguments.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What stands before the upper-case name of a setting in the environment.
pub const ENVIRONMENT_PREFIX: &str = "MEED_";
/// Most credentials that a file may declare.
pub const CREDENTIALS_MAX: usize = 10_000;

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

/// A type that a setting can have.
trait Value: Sized {
    /// Whether the flag may stand without a value.
    const SWITCH: bool = false;
    /// Whether the flag takes several values.
    const LIST: bool = false;
    fn parse(text: &str) -> Result<Self, String>;
    fn toml(&self) -> String;
    fn magnitude(&self) -> Option<u64> {
        None
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::parse(text),
            toml::Value::Integer(number) => Self::parse(&number.to_string()),
            toml::Value::Boolean(flag) => Self::parse(if *flag { "true" } else { "false" }),
            _ => Err("must be a plain value".to_owned()),
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! integer_values {
    ($($type:ty),*) => { $(impl Value for $type {
        fn parse(text: &str) -> Result<Self, String> {
            text.replace('_', "").parse().map_err(|_| format!("must be an integer from 0 to {}, not `{text}`", <$type>::MAX))
        }
        fn toml(&self) -> String { self.to_string() }
        fn magnitude(&self) -> Option<u64> { Some(u64::from(*self)) }
    })* };
}
integer_values!(u16, u32, u64);

impl Value for bool {
    const SWITCH: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be `true` or `false`, not `{text}`"))
    }
    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(Self::from(text)) }
    }
    fn toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn toml(&self) -> String {
        quoted(self)
    }
}

impl Value for Vec<PathBuf> {
    const LIST: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').filter(|part| !part.is_empty()).map(PathBuf::parse).collect()
    }
    fn toml(&self) -> String {
        let parts: Vec<String> = self.iter().map(Value::toml).collect();
        format!("[{}]", parts.join(", "))
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Array(items) => items.iter().map(PathBuf::from_toml).collect(),
            other => PathBuf::from_toml(other).map(|path| vec![path]),
        }
    }
}

/// A size in bytes: an integer, or one with `KiB`, `MiB` or `GiB` behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size as a length in memory; a size beyond the address space is the address space.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("must be a number of bytes such as 65536 or 64KiB, not `{text}`");
        let (digits, factor) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        let number: u64 = digits.trim().replace('_', "").parse().map_err(|_| refuse())?;
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
    fn toml(&self) -> String {
        let suffix = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = suffix.iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        match whole {
            Some((suffix, shift)) => quoted(&format!("{}{suffix}", self.0 >> shift)),
            None => self.0.to_string(),
        }
    }
    fn magnitude(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// Where to listen: HOST:PORT; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl Value for ListenAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let mut found = text
            .to_socket_addrs()
            .map_err(|_| format!("must be HOST:PORT such as 127.0.0.1:8080, not `{text}`"))?;
        found.next().map(Self).ok_or_else(|| format!("`{text}` has no address"))
    }
    fn toml(&self) -> String {
        quoted(&self.0.to_string())
    }
}

/// Where to listen, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl Value for OptionalAddress {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        ListenAddress::parse(text)
            .map(|address| Self(Some(address.0)))
            .map_err(|detail| format!("{detail}, or `off`"))
    }
    fn toml(&self) -> String {
        quoted(&self.0.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])+ $type:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal),+ })*) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[doc = $variant_doc])+ $variant),+ }
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("must be one of", $(" `", $text, "`",)+ ", not `{}`"), text)),
                }
            }
            fn toml(&self) -> String { quoted(match self { $(Self::$variant => $text),+ }) }
        }
    )* };
}

choices! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json"
    }
}

/// Which journal makes operations durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalKind {
    /// A write-ahead log in the data folder.
    Embedded,
}

impl Value for JournalKind {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "cql" => Err("`cql` is not possible: this build has no CQL journal; use `embedded`".to_owned()),
            _ => Err(format!("must be `embedded`, not `{text}`")),
        }
    }
    fn toml(&self) -> String {
        quoted("embedded")
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

fn within<T: Value>(value: T, bounds: Option<(u64, u64)>) -> Result<T, String> {
    match (value.magnitude(), bounds) {
        (Some(number), Some((least, most))) if number < least || number > most => {
            Err(format!("must be from {least} to {most}, not {number}"))
        }
        _ => Ok(value),
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
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($name: $default,)*)* credentials: Vec::new() }
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
        programs: Vec<PathBuf> = Vec::new(), "FILE", "Program documents (JSON) to load at start";
        journal: JournalKind = JournalKind::Embedded, "KIND", "Where operations become durable: embedded";
        shards: u16 = 16, "COUNT", "Shards of a data folder; fixed when it is created", 1..=4096;
        workers: u16 = 0, "COUNT", "Worker threads; 0 is one per core", 0..=1024;
    }
    "Network" {
        listen: ListenAddress = ListenAddress(SocketAddr::from(([127, 0, 0, 1], 8080))), "HOST:PORT", "Where to serve HTTP; port 0 takes a free one. Without credentials only loopback";
        metrics_listen: OptionalAddress = OptionalAddress(Some(SocketAddr::from(([127, 0, 0, 1], 9464)))), "HOST:PORT|off", "Where to serve /metrics";
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
    "Requests" {
        body_bytes: ByteSize = ByteSize(64 << 10), "BYTES", "Longest body of a single request; beyond it 413", 1024..=16777216;
        batch_body_bytes: ByteSize = ByteSize(8 << 20), "BYTES", "Longest body of a batch; beyond it 413", 1024..=268435456;
        batch_items: u32 = 10_000, "COUNT", "Most items of a batch; beyond it 413", 1..=1000000;
        body_buffer_bytes: ByteSize = ByteSize(256 << 20), "BYTES", "Memory for bodies that do not arrive in one piece; beyond it 503", 1048576..=1099511627776;
        request_deadline_ms: u64 = 10_000, "MS", "Time from the end of a request to its answer; beyond it 504", 1..=600000;
        admission_wait_ms: u64 = 50, "MS", "Time that a request waits for a permit; beyond it 503", 0..=60000;
        admission_commands: u32 = 65_536, "COUNT", "Commands in work, per node", 1..=16777216;
        admission_bytes: ByteSize = ByteSize(256 << 20), "BYTES", "Bytes of commands in work, per node", 65536..=1099511627776;
        admission_commands_per_shard: u32 = 16_384, "COUNT", "Commands in work, per shard", 1..=16777216;
    }
    "Memory and disk" {
        memory_bytes: ByteSize = ByteSize(2 << 30), "BYTES", "Memory for accounts; idle ones leave it first", 1048576..=17592186044416;
        segment_bytes: ByteSize = ByteSize(64 << 20), "BYTES", "Size of a journal segment", 1048576..=4294967296;
        checkpoint_interval_ms: u64 = 10_000, "MS", "Time between checkpoints of changed accounts", 10..=3600000;
        checkpoint_lag_records: u64 = 4_000_000, "COUNT", "Records that a restart may have to replay; beyond it load is shed", 1000..=1000000000000;
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
    /// Who it is, for the log.
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
            let _ =
                writeln!(text, "{} = {}  # {}", declared.name, declared.value(&self.settings), source.text());
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
    let table: toml::Table =
        text.parse().map_err(|error| SettingError(format!("{at} is not TOML: {error}")))?;
    for (name, value) in &table {
        if name == "credentials" {
            loaded.settings.credentials = value
                .clone()
                .try_into()
                .map_err(|error| SettingError(format!("{at}: in `credentials`: {error}")))?;
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

/// What no setting can say by itself.
fn check(settings: &Settings) -> Result<(), SettingError> {
    if settings.credentials.len() > CREDENTIALS_MAX {
        return Err(SettingError(format!("`credentials` may have at most {CREDENTIALS_MAX} entries")));
    }
    let listen = settings.listen.0;
    if settings.credentials.is_empty() && !listen.ip().is_loopback() {
        return Err(SettingError(format!(
            "--listen {listen} is refused: without credentials this node answers anybody, so it listens on \
             loopback only. Declare [[credentials]] in the file of --config, or listen on 127.0.0.1"
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
