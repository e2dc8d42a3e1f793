//! The result of a run as data: what `summary.json` holds, and what every other form of output is made from.
//! `summary.schema.json` describes it.
#![allow(clippy::float_arithmetic, reason = "rates and percentages for people; points are whole numbers throughout")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::node::Use;
use crate::protocol::{Counts, Tally};
use crate::recorder::Latencies;
use crate::scenario::Scenario;

/// Version of `summary.json`: members may be added under it, none may go or change meaning.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) schema_version: u32,
    pub(crate) name: String,
    /// Part of every key and, unless the scenario says otherwise, of every account id of this run.
    pub(crate) run: String,
    pub(crate) started_at: String,
    pub(crate) verdict: Verdict,
    /// `open`, or `closed: …` with the reason why its latencies compare with nothing.
    pub(crate) mode: String,
    pub(crate) environment: Environment,
    pub(crate) connections: ConnectionsSummary,
    /// All stages but warm-up.
    pub(crate) measured: StageSummary,
    pub(crate) stages: Vec<StageSummary>,
    pub(crate) generator: Generator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServerUse>,
    /// Requests a second that the calibration found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak_per_second: Option<f64>,
    /// From the end of the stage `overload` until latencies were as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recovery_seconds: Option<f64>,
    /// The schedule ended after so many seconds, because the program was asked to end, or because the load failed;
    /// `stages` and `scenario` are as short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_after_seconds: Option<u32>,
    /// What kept the run from coming to its end: processes or servers that went away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
    /// The same load on a server without logic, in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bare: Option<Bare>,
    pub(crate) correctness: Correctness,
    /// Every figure that `--require` can name, in milliseconds, percent, or requests a second.
    pub(crate) figures: BTreeMap<String, f64>,
    pub(crate) scenario: Scenario,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// `pass`, `threshold`, `correctness`, `invalid` or `failed`.
    pub(crate) result: String,
    pub(crate) exit_code: u8,
    pub(crate) reasons: Vec<String>,
    pub(crate) thresholds: Vec<ThresholdResult>,
}

/// One condition of `--require`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ThresholdResult {
    pub(crate) condition: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<f64>,
    pub(crate) holds: bool,
}

/// What the figures depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) harness_version: String,
    /// What `/api/v1/version` of the server says.
    pub(crate) server_version: String,
    pub(crate) targets: Vec<String>,
    /// Whether the server and the generator share a machine, and so its processors.
    pub(crate) same_host: bool,
    pub(crate) coordinator: Machine,
    /// Hosts of the processes that made the load.
    pub(crate) generators: Vec<String>,
    /// Processes that the harness started as servers; 0: they were there before.
    #[serde(default)]
    pub(crate) server_processes: u32,
    /// Further flags of the started node, those of the scenario included.
    #[serde(default)]
    pub(crate) node_flags: Vec<String>,
}

/// Connections of all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionsSummary {
    pub(crate) wanted: u32,
    pub(crate) open: u32,
    pub(crate) failed: u32,
    /// Of the last interval.
    pub(crate) open_at_end: u32,
    pub(crate) connect_ms: u64,
    pub(crate) sources: Vec<String>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) p9999_us: u64,
    pub(crate) max_us: u64,
}

impl Quantiles {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        Self {
            count: latencies.count(),
            mean_us: latencies.mean_us() as u64,
            p50_us: latencies.quantile_us(0.5),
            p90_us: latencies.quantile_us(0.9),
            p99_us: latencies.quantile_us(0.99),
            p999_us: latencies.quantile_us(0.999),
            p9999_us: latencies.quantile_us(0.9999),
            max_us: latencies.max_us(),
        }
    }
}

/// A stretch of the load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StageSummary {
    pub(crate) name: String,
    pub(crate) warmup: bool,
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) acknowledged: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) errors_percent: f64,
    pub(crate) offered_per_second: f64,
    /// Answers of any kind that came while the stage lasted. What is answered after its end is in `completed` and in
    /// the latencies, but a server that answers late is not faster for it.
    pub(crate) completed_per_second: f64,
    /// Operations that were acknowledged, or refused for a reason of the business, while the stage lasted; items of
    /// batches count each.
    pub(crate) goodput_per_second: f64,
    /// From the scheduled time; of a closed loop, from the write.
    pub(crate) latency: Quantiles,
    /// From the write.
    pub(crate) service: Quantiles,
    pub(crate) operations: BTreeMap<String, Quantiles>,
    /// Lateness of the generator itself.
    pub(crate) lag: Quantiles,
    /// From the first interval to the last, of servers that the harness started: by how much their resident memory grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_growth_percent: Option<f64>,
}

/// What came while a stage lasted, whenever it was due.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Came {
    /// Of the intervals that began in the stage.
    pub(crate) seconds: f64,
    pub(crate) answers: u64,
    pub(crate) good: u64,
}

impl Came {
    /// What a tally counts.
    pub(crate) fn of(tally: &Tally) -> Self {
        let good = tally.acknowledged_in_all() + tally.refused.values().sum::<u64>();
        Self { seconds: 0.0, answers: tally.counts.completed, good }
    }

    /// From `begin` to before `end`, in seconds of the load, of intervals of `step` seconds. A measured stage has nothing of
    /// what was due in a warm-up before it.
    pub(crate) fn between(rows: &[IntervalRow], begin: f64, end: f64, step: f64, is_warmup: bool) -> Self {
        let mut came = Self::default();
        for row in rows.iter().filter(|row| row.second >= begin && row.second < end) {
            came.add(if is_warmup { Self::of(&row.tally) } else { row.measured });
            came.seconds += step;
        }
        came
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.answers += other.answers;
        self.good += other.good;
    }
}

impl StageSummary {
    /// `tally` holds what was due in the stage, `came` what came while it lasted.
    pub(crate) fn of(name: &str, warmup: bool, seconds: f64, tally: &Tally, came: Came) -> Self {
        let rate = |count: u64, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let counts = tally.counts;
        let operations =
            tally.latency.iter().map(|(operation, latency)| (operation.name().to_owned(), Quantiles::of(latency)));
        Self {
            name: name.to_owned(),
            warmup,
            seconds,
            counts,
            acknowledged: tally.acknowledged_in_all(),
            refused: tally.refused.clone(),
            errors: tally.errors.clone(),
            errors_percent: percent(counts.failed + counts.dropped, counts.scheduled),
            offered_per_second: rate(counts.scheduled, seconds),
            completed_per_second: rate(came.answers, came.seconds),
            goodput_per_second: rate(came.good, came.seconds),
            latency: Quantiles::of(&tally.latencies()),
            service: Quantiles::of(&tally.service),
            operations: operations.collect(),
            lag: Quantiles::of(&tally.lag),
            memory_growth_percent: None,
        }
    }
}

/// By how much the resident memory of started servers grew in some intervals; `None` when it was not read twice.
pub(crate) fn memory_growth<'a>(rows: impl Iterator<Item = &'a IntervalRow>) -> Option<f64> {
    let readings: Vec<u64> =
        rows.filter_map(|row| Some(row.server?.resident_bytes)).filter(|bytes| *bytes > 0).collect();
    match readings.as_slice() {
        [first, .., last] => Some((*last as f64 / *first as f64 - 1.0) * 100.0),
        _ => None,
    }
}

/// `part` of `whole` in percent; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// The processes that made the load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Generator {
    pub(crate) processes: u32,
    /// Processor time of all of them during the measured stages, in cores.
    pub(crate) cores_used: f64,
    pub(crate) cpu_us_per_request: f64,
    pub(crate) resident_bytes: u64,
    /// Mean number of requests under way by Little's law (completed rate × mean service time), and as counted.
    pub(crate) in_flight_by_law: f64,
    pub(crate) in_flight_counted: f64,
}

/// Servers that the harness started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerUse {
    pub(crate) processes: u32,
    /// Before the connections, with all of them silent, and at the end.
    pub(crate) before: Use,
    pub(crate) connected: Use,
    pub(crate) end: Use,
    pub(crate) resident_bytes_per_connection: f64,
    /// During the measured stages, in cores.
    pub(crate) cores_used: f64,
    pub(crate) cpu_ms_per_1000_requests: f64,
}

/// The server without logic beside it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bare {
    pub(crate) command: String,
    pub(crate) measured: StageSummary,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak_per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServerUse>,
    /// What kept its run from coming to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<String>,
    /// The goodput of the node as a part of the bare server's. There is none when the bare server's run did not come to its
    /// end, or nothing was acknowledged in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
}

impl Bare {
    /// Compares it with the goodput of the node.
    pub(crate) fn compare(&mut self, goodput_per_second: f64) {
        let other = self.measured.goodput_per_second;
        self.ratio = (self.failures.is_empty() && other > 0.0).then(|| goodput_per_second / other);
    }

    /// The ratio for people, or why there is none.
    pub(crate) fn ratio_text(&self) -> String {
        match (self.ratio, self.failures.first()) {
            (Some(ratio), _) => format!("the goodput of the node is {ratio:.2} of its"),
            (None, Some(failure)) => format!("there is no ratio, because its run failed: {failure}"),
            (None, None) => "there is no ratio, because nothing was acknowledged".to_owned(),
        }
    }
}

/// The books.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Correctness {
    /// `holds`, `violated`, `not proven`, or `not checked`.
    pub(crate) conservation: String,
    /// Why the books could not be read to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) acknowledged_transactions: u64,
    pub(crate) acknowledged_points: i64,
    pub(crate) unknown_outcomes: u64,
    pub(crate) unknown_executed: u64,
    pub(crate) unknown_not_executed: u64,
    pub(crate) accounts_balanced: u64,
    pub(crate) accounts_walked: u64,
    pub(crate) transactions_read: u64,
    pub(crate) expired_points: i64,
    pub(crate) events: String,
    pub(crate) seconds: f64,
    pub(crate) violation_count: u64,
    /// The first of them.
    pub(crate) violations: Vec<Violation>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Violation {
    /// `lost`, `applied-twice`, `not-acknowledged`, `changed`, `wrong-answer`, `balance`, `below-floor`, `sequence`,
    /// `unresolvable` or `events`.
    pub(crate) kind: String,
    pub(crate) account: String,
    pub(crate) detail: String,
    /// Keys or transaction ids.
    pub(crate) operations: Vec<String>,
}

/// A line of `intervals.csv`.
#[derive(Clone, Debug, Default)]
pub(crate) struct IntervalRow {
    pub(crate) second: f64,
    pub(crate) is_warmup: bool,
    pub(crate) tally: Tally,
    /// Latencies of all operations.
    pub(crate) latency: Latencies,
    /// What came, and latencies, of requests that were due in a measured stage.
    pub(crate) measured: Came,
    pub(crate) measured_latency: Latencies,
    pub(crate) in_flight: u32,
    pub(crate) waiting: u32,
    pub(crate) open_connections: u32,
    pub(crate) cpu_us: u64,
    pub(crate) server: Option<Use>,
}
