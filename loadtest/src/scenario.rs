//! What a run does, as a person writes it down (TOML): connections, stages of load, accounts, the mix of operations,
//! and what the result must be. `profiles/` holds the scenarios that the program knows by name.

mod checked;

use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// Most connections of a run, over all processes.
pub(crate) const CONNECTIONS_MAX: u32 = 2_000_000;
/// Most accounts of a run: each costs 32 bytes per process.
pub(crate) const ACCOUNTS_MAX: u32 = 20_000_000;
/// Most stages of a run.
pub(crate) const STAGES_MAX: usize = 64;
/// Highest rate that can be asked for, requests a second.
pub(crate) const RATE_MAX: u64 = 100_000_000;
/// Longest stage.
pub(crate) const STAGE_SECONDS_MAX: u32 = 7 * 86_400;
/// Longest pause of a connection between an answer and its next request: a stage's longest.
pub(crate) const THINK_MS_MAX: u64 = STAGE_SECONDS_MAX as u64 * 1_000;
/// Longest wait before a first further attempt, an hour.
pub(crate) const BACKOFF_MS_MAX: u64 = 3_600_000;

/// The profiles that ship with the program: name and text.
pub(crate) const PROFILES: &[(&str, &str)] = &[
    ("smoke", include_str!("../profiles/smoke.toml")),
    ("mixed", include_str!("../profiles/mixed.toml")),
    ("hot-account", include_str!("../profiles/hot-account.toml")),
    ("headline-100k-50k", include_str!("../profiles/headline-100k-50k.toml")),
    ("connections-16k", include_str!("../profiles/connections-16k.toml")),
    ("overload-2x", include_str!("../profiles/overload-2x.toml")),
    ("soak", include_str!("../profiles/soak.toml")),
    ("half-peak-64", include_str!("../profiles/half-peak-64.toml")),
    ("idle-connections", include_str!("../profiles/idle-connections.toml")),
    ("cdnow", include_str!("../profiles/cdnow.toml")),
];

/// How requests begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// At their scheduled times, whatever the server does. Latency counts from the schedule.
    #[default]
    Open,
    /// When the connection's last answer is there. A server that stalls is asked less, so latencies say little.
    Closed,
}

/// How the times of an open loop are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrivals {
    /// Independent of each other, as customers are.
    #[default]
    Poisson,
    /// Equal distances.
    Uniform,
}

/// A stretch of time with its rate. The first stages may be warm-up; they appear in no figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) seconds: u32,
    /// Requests a second, at the beginning and, without `to_rate`, throughout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<u64>,
    /// The rate at the end, reached in a straight line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to_rate: Option<u64>,
    /// Instead of `rate`: percent of what the calibration measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) percent_of_peak: Option<u32>,
    /// Whether the stage is left out of every figure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) warmup: bool,
}

/// How the peak is found that `percent_of_peak` refers to: a closed loop on the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calibration {
    pub(crate) seconds: u32,
    pub(crate) connections: u32,
}

/// Which account an operation is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Accounts {
    pub(crate) count: u32,
    /// `prefix` and a number are the id. Without it every run has accounts of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefix: Option<String>,
    pub(crate) distribution: Distribution,
    /// Exponent of `zipf`: 0 is uniform, 0.99 what benchmarks of stores use. At least 0, below 3.
    pub(crate) theta: f64,
    /// `hot`: this many accounts get `hot_percent` of the operations.
    pub(crate) hot_count: u32,
    pub(crate) hot_percent: u32,
    /// Points that every account gets before the load begins, in batches; 0 for none.
    pub(crate) opening_points: u64,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            count: 100_000,
            prefix: None,
            distribution: Distribution::Uniform,
            theta: 0.99,
            hot_count: 1,
            hot_percent: 80,
            opening_points: 0,
        }
    }
}

/// How accounts are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Distribution {
    #[default]
    Uniform,
    Zipf,
    Hot,
}

/// Weights of the operations; they need not add up to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Mix {
    pub(crate) earn_points: u32,
    pub(crate) earn_amount: u32,
    pub(crate) redeem: u32,
    pub(crate) balance: u32,
    pub(crate) hold: u32,
    pub(crate) capture: u32,
    pub(crate) void: u32,
    pub(crate) reverse: u32,
    pub(crate) pos: u32,
    pub(crate) batch: u32,
    /// Earns in one request of `batch`.
    pub(crate) batch_items: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            earn_points: 0,
            earn_amount: 0,
            redeem: 0,
            balance: 0,
            hold: 0,
            capture: 0,
            void: 0,
            reverse: 0,
            pos: 0,
            batch: 0,
            batch_items: 100,
        }
    }
}

/// What happens after an answer that may be repeated with the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retry {
    /// Further attempts; 0: none.
    pub(crate) attempts: u32,
    /// Wait before the first of them; it doubles with each.
    pub(crate) backoff_ms: u64,
    /// `overloaded` (503), `rate-limited` (429), `unknown` (no answer, 504).
    pub(crate) on: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 0, backoff_ms: 100, on: vec!["overloaded".into(), "rate-limited".into(), "unknown".into()] }
    }
}

/// Pause of a connection between an answer and its next request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Think {
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
}

/// How thoroughly the server's books are checked at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CheckLevel {
    /// Every balance, and every transaction of up to `walk_accounts_max` accounts.
    #[default]
    Full,
    /// Answers only: for servers that are no `meed`, such as a bare one beside it.
    None,
}

/// See [`CheckLevel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Check {
    pub(crate) level: CheckLevel,
    /// Accounts whose history is read from end to end; chosen by the seed when there are more.
    pub(crate) walk_accounts_max: u32,
    /// Lowest available balance that the program allows.
    pub(crate) floor: i64,
    /// Connections that ask.
    pub(crate) connections: u32,
    /// Most transactions that are compared with the event stream; 0: it is not read.
    pub(crate) events_max: u64,
    /// The server's deadline of a request: an unknown outcome is asked for no sooner than this after the load.
    pub(crate) resolve_after_ms: u64,
    /// How long one question is repeated while the server has no capacity to answer it.
    pub(crate) patience_ms: u64,
}

impl Check {
    pub(crate) fn patience(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.patience_ms)
    }
}

impl Default for Check {
    fn default() -> Self {
        Self {
            level: CheckLevel::Full,
            walk_accounts_max: 200_000,
            floor: 0,
            connections: 16,
            events_max: 500_000,
            resolve_after_ms: 10_000,
            patience_ms: 30_000,
        }
    }
}

/// When a run says nothing about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Validity {
    /// Part of the schedule that must have been sent.
    pub(crate) sent_percent_min: u32,
    /// Bound of the 99th percentile of the generator's own lateness.
    pub(crate) lag_p99_us_max: u64,
}

impl Default for Validity {
    fn default() -> Self {
        Self { sent_percent_min: 99, lag_p99_us_max: 1_000 }
    }
}

/// Purchases of a file, sent as till sales at the distances that they had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    /// A file like `benches/data/cdnow-sample.txt`; `cdnow` is that file.
    pub(crate) file: String,
    /// Days of the file that pass in one second.
    pub(crate) days_per_second: u32,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) mode: Mode,
    #[serde(default)]
    pub(crate) arrivals: Arrivals,
    #[serde(default = "defaults::seed")]
    pub(crate) seed: u64,
    pub(crate) connections: u32,
    /// How fast connections are made, over all processes, apart from the rate of requests.
    #[serde(default = "defaults::connections_per_second")]
    pub(crate) connections_per_second: u32,
    /// A request without an answer after this has an unknown outcome.
    #[serde(default = "defaults::timeout_ms")]
    pub(crate) timeout_ms: u64,
    /// Due requests that may wait for a free connection, per process; beyond it they are dropped, and counted.
    #[serde(default = "defaults::waiting_max")]
    pub(crate) waiting_max: u32,
    #[serde(default = "defaults::interval_ms")]
    pub(crate) interval_ms: u64,
    /// Whether the processes that make load give way to a server on the same machine.
    #[serde(default)]
    pub(crate) give_way: bool,
    /// Program of the accounts, sent in the header `Program`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<String>,
    /// Document that the program gets before the load; `cdnow` is the one of `ops/programs/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) program_file: Option<String>,
    /// Flags of a node that is started for the run, before those of the command line.
    #[serde(default)]
    pub(crate) node_flags: Vec<String>,
    /// What `--require` is when it is not given.
    #[serde(default)]
    pub(crate) require: String,
    #[serde(default)]
    pub(crate) accounts: Accounts,
    #[serde(default)]
    pub(crate) mix: Mix,
    #[serde(default)]
    pub(crate) think: Think,
    #[serde(default)]
    pub(crate) retry: Retry,
    #[serde(default)]
    pub(crate) check: Check,
    #[serde(default)]
    pub(crate) validity: Validity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<Calibration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replay: Option<Replay>,
    #[serde(default)]
    pub(crate) stages: Vec<Stage>,
}

mod defaults {
    pub(super) fn seed() -> u64 {
        1
    }
    pub(super) fn connections_per_second() -> u32 {
        5_000
    }
    pub(super) fn timeout_ms() -> u64 {
        10_000
    }
    pub(super) fn waiting_max() -> u32 {
        100_000
    }
    pub(super) fn interval_ms() -> u64 {
        1_000
    }
}

impl Scenario {
    /// A profile by its name, or the scenario of a file.
    pub(crate) fn load(name: &str) -> Result<Self, Fault> {
        let shipped = PROFILES.iter().find(|(known, _)| *known == name);
        let text = match shipped {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(name).map_err(|error| {
                let known: Vec<&str> = PROFILES.iter().map(|(name, _)| *name).collect();
                Fault::Usage(format!(
                    "`{name}` is no profile and cannot be read as a file ({error}); the profiles are {}",
                    known.join(", ")
                ))
            })?,
        };
        let scenario: Self =
            toml::from_str(&text).map_err(|error| Fault::Usage(format!("the scenario {name}: {error}")))?;
        scenario.checked()
    }

    /// The scenario with single values replaced: `connections=10`, `stages.0.rate=500`. A value is TOML, or else text.
    pub(crate) fn with(self, changes: &[String]) -> Result<Self, Fault> {
        if changes.is_empty() {
            return Ok(self);
        }
        let wrong = |change: &str, why: String| Fault::Usage(format!("--set {change}: {why}"));
        let mut document = toml::Value::try_from(&self).map_err(|error| Fault::failed("the scenario", error))?;
        for change in changes {
            let (path, text) = change.split_once('=').ok_or_else(|| wrong(change, "NAME=VALUE is meant".to_owned()))?;
            let parsed = format!("value = {text}").parse::<toml::Table>().ok();
            let value = parsed.and_then(|mut table| table.remove("value"));
            let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
            put(&mut document, path, value).ok_or_else(|| wrong(change, "there is no such place".to_owned()))?;
        }
        let changed: Self = document.try_into().map_err(|error| wrong(&changes.join(" "), format!("{error}")))?;
        changed.checked()
    }

    /// The first second at or after this one at which an interval ends.
    pub(crate) fn full_second(&self, second: u32) -> u32 {
        let ends = |second: &u32| (u64::from(*second) * 1_000).is_multiple_of(self.interval_ms);
        // An interval is at most a minute of whole milliseconds, so one ends with a second within a minute's milliseconds.
        (second..second.saturating_add(60_000)).find(ends).unwrap_or(second)
    }

    /// Most connections at once: those of the load, or those of its calibration.
    pub(crate) fn connections_max(&self) -> u32 {
        self.connections.max(self.calibration.map_or(0, |calibration| calibration.connections))
    }

    /// Length of all stages.
    pub(crate) fn seconds(&self) -> u64 {
        self.stages.iter().map(|stage| u64::from(stage.seconds)).sum()
    }
}

/// Puts a value at a path of names and numbers.
fn put(document: &mut toml::Value, path: &str, value: toml::Value) -> Option<()> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let place = match document {
        toml::Value::Array(items) => items.get_mut(first.parse::<usize>().ok()?)?,
        toml::Value::Table(table) => table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new())),
        _ => return None,
    };
    match rest {
        Some(rest) => put(place, rest, value),
        None => {
            *place = value;
            Some(())
        }
    }
}

#[cfg(test)]
mod tests;
