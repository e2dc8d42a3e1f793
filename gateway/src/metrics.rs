//! What the HTTP front end counts, and the metrics page.
//!
//! A worker is the only writer of its cells, so an update is a plain load and store; the page sums the
//! workers when it is read. Everything else of the node goes through the `metrics` crate's recorder.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use meed_engine::account::{Sums, Totals};
use meed_engine::node::Node;
use meed_engine::shard::ShardReport;

use meed_schemas::http::problem::Kind;

use crate::route::{ENDPOINTS, Endpoint};

mod items;
pub use items::ItemCounts;

/// Upper bounds of the duration buckets in microseconds, with their labels in seconds.
const BUCKETS: [(u64, &str); 16] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];

/// Statuses that have a cell of their own; any other is `other`.
const CODES: [u16; 22] =
    [200, 201, 204, 207, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 502, 503, 504, 202, 302];

/// Why a connection was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The cap of the node.
    Connections,
    /// The cap of its address.
    Address,
    /// The system has no file descriptor or memory left.
    Files,
}

const REFUSED: [(Refused, &str); 3] =
    [(Refused::Connections, "connections"), (Refused::Address, "address"), (Refused::Files, "files")];

/// Why a request was turned away unexecuted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// The rate of its address.
    Rate,
    /// Permits or memory.
    Overload,
    /// The node is stopping.
    Draining,
    /// The node is not ready.
    NotReady,
}

const SHED: [(Shed, &str); 4] =
    [(Shed::Rate, "rate"), (Shed::Overload, "overload"), (Shed::Draining, "draining"), (Shed::NotReady, "not_ready")];

impl Shed {
    /// Why a request with this problem was turned away; `None` for any other problem.
    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::RateLimited => Some(Self::Rate),
            Kind::Overloaded => Some(Self::Overload),
            Kind::Draining => Some(Self::Draining),
            Kind::NotReady => Some(Self::NotReady),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct EndpointCells {
    codes: [AtomicU64; CODES.len() + 1],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// The counters of one worker. Only its own thread may call the methods that change them.
#[derive(Debug)]
pub struct WorkerMetrics {
    endpoints: Box<[EndpointCells]>,
    items: [[AtomicU64; CODES.len() + 1]; items::BATCHES.len()],
    in_flight: AtomicU64,
    connections: AtomicU64,
    waiting: AtomicU64,
    refused: [AtomicU64; REFUSED.len()],
    shed: [AtomicU64; SHED.len()],
}

fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

fn subtract(cell: &AtomicU64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
}

fn code_index(code: u16) -> usize {
    match code {
        200 => 0,
        201 => 1,
        _ => CODES.iter().position(|known| *known == code).unwrap_or(CODES.len()),
    }
}

impl Default for WorkerMetrics {
    fn default() -> Self {
        Self {
            endpoints: ENDPOINTS.iter().map(|_| EndpointCells::default()).collect(),
            items: Default::default(),
            in_flight: AtomicU64::default(),
            connections: AtomicU64::default(),
            waiting: AtomicU64::default(),
            refused: Default::default(),
            shed: Default::default(),
        }
    }
}

impl WorkerMetrics {
    /// A request was answered. Durations beyond the last bucket count in `+Inf`.
    pub fn answered(&self, endpoint: Endpoint, code: u16, duration: Duration) {
        let cells = &self.endpoints[endpoint as usize];
        add(&cells.codes[code_index(code)], 1);
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|(bound, _)| duration_us <= *bound).unwrap_or(BUCKETS.len());
        add(&cells.buckets[bucket], 1);
        add(&cells.sum_us, duration_us);
    }

    /// A request begins; it counts as in flight until the guard is dropped.
    pub fn begin(&self) -> InFlight<'_> {
        add(&self.in_flight, 1);
        InFlight(&self.in_flight)
    }

    /// A connection was opened.
    pub fn connected(&self) {
        add(&self.connections, 1);
    }

    /// A connection was closed.
    pub fn disconnected(&self) {
        subtract(&self.connections);
    }

    /// So many connections wait for their next request to be read.
    pub fn waiting(&self, connections: usize) {
        self.waiting.store(connections as u64, Ordering::Relaxed);
    }

    /// A connection was refused.
    pub fn refused(&self, reason: Refused) {
        add(&self.refused[reason as usize], 1);
    }

    /// A request got this problem for its answer.
    pub fn refused_with(&self, kind: Kind) {
        if let Some(reason) = Shed::of(kind) {
            add(&self.shed[reason as usize], 1);
        }
    }
}

/// Of the readers of events, through the recorder.
pub struct EventMetrics {
    /// How many read now.
    pub readers: metrics::Gauge,
    /// Events written for them.
    pub sent: metrics::Counter,
}

impl EventMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_gauge!("meed_event_readers", "Readers of the stream of events over HTTP");
        describe_counter!("meed_events_sent_total", "Events written for readers over HTTP");
        Self { readers: gauge!("meed_event_readers"), sent: counter!("meed_events_sent_total") }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        subtract(self.0);
    }
}

/// The recorder of the process. It is made on first use, because a process can have only one.
pub fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = builder().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; engine metrics are not on the page");
            }
            handle
        })
        .clone()
}

/// Fixed buckets, which add up over nodes; quantiles do not.
fn builder() -> PrometheusBuilder {
    let seconds =
        [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let counts = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4];
    let bytes = [512.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
    let sets: [(&str, &[f64]); 3] = [("_seconds", &seconds), ("_records", &counts), ("_bytes", &bytes)];
    sets.into_iter().fold(PrometheusBuilder::new(), |builder, (suffix, buckets)| {
        match builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets) {
            Ok(builder) => builder,
            Err(_) => unreachable!("no set of buckets is empty"),
        }
    })
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One of the cells of a worker.
type CellOf<'a> = &'a dyn Fn(&WorkerMetrics) -> &AtomicU64;

/// When the process started, as all programs tell Prometheus.
pub fn render_start(out: &mut String, since_epoch: Duration) {
    head(out, "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.");
    let (seconds, millis) = (since_epoch.as_secs(), since_epoch.subsec_millis());
    let _ = writeln!(out, "process_start_time_seconds {seconds}.{millis:03}");
}

/// The metrics of the HTTP front end in the Prometheus text format.
pub fn render(workers: &[Arc<WorkerMetrics>]) -> String {
    let total = |cell: CellOf<'_>| -> u64 {
        workers.iter().fold(0, |sum, worker| sum.wrapping_add(cell(worker).load(Ordering::Relaxed)))
    };
    let mut out = String::with_capacity(16 << 10);
    head(&mut out, "meed_build_info", "gauge", "Version of the program; the value is 1.");
    let _ = writeln!(out, "meed_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    head(&mut out, "meed_http_requests_total", "counter", "Answered HTTP requests.");
    for &endpoint in ENDPOINTS {
        for index in 0..=CODES.len() {
            let count = total(&|worker| &worker.endpoints[endpoint as usize].codes[index]);
            if count == 0 {
                continue;
            }
            let (route, method) = (endpoint.template(), endpoint.method_label());
            let _ = write!(out, "meed_http_requests_total{{route=\"{route}\",method=\"{method}\",code=\"");
            let _ = match CODES.get(index) {
                Some(code) => writeln!(out, "{code}\"}} {count}"),
                None => writeln!(out, "other\"}} {count}"),
            };
        }
    }
    items::render(&mut out, &total);
    let name = "meed_http_request_duration_seconds";
    head(&mut out, name, "histogram", "Time in seconds from the head of a request to its answer.");
    for &endpoint in ENDPOINTS {
        let cell = |index: usize| total(&|worker| &worker.endpoints[endpoint as usize].buckets[index]);
        let counts: Vec<u64> = (0..=BUCKETS.len()).map(cell).collect();
        if counts.iter().all(|count| *count == 0) {
            continue;
        }
        let labels = format!("route=\"{}\",method=\"{}\"", endpoint.template(), endpoint.method_label());
        let mut sum = 0u64;
        for (index, count) in counts.iter().enumerate() {
            sum = sum.wrapping_add(*count);
            let bound = BUCKETS.get(index).map_or("+Inf", |(_, label)| label);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
        }
        let sum_us = total(&|worker| &worker.endpoints[endpoint as usize].sum_us);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}.{:06}", sum_us / 1_000_000, sum_us % 1_000_000);
        let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
    }
    head(&mut out, "meed_http_requests_in_flight", "gauge", "HTTP requests that are being answered.");
    let _ = writeln!(out, "meed_http_requests_in_flight {}", total(&|worker| &worker.in_flight));
    head(&mut out, "meed_connections_open", "gauge", "Open client connections.");
    let _ = writeln!(out, "meed_connections_open {}", total(&|worker| &worker.connections));
    let waiting = "Connections that are not read from, as their worker has enough under way.";
    head(&mut out, "meed_connections_waiting", "gauge", waiting);
    let _ = writeln!(out, "meed_connections_waiting {}", total(&|worker| &worker.waiting));
    head(&mut out, "meed_connections_refused_total", "counter", "Connections closed without being served.");
    for (reason, label) in REFUSED {
        let count = total(&|worker| &worker.refused[reason as usize]);
        let _ = writeln!(out, "meed_connections_refused_total{{reason=\"{label}\"}} {count}");
    }
    head(&mut out, "meed_shed_requests_total", "counter", "Requests and items of batches turned away unexecuted.");
    for (reason, label) in SHED {
        let count = total(&|worker| &worker.shed[reason as usize]);
        let _ = writeln!(out, "meed_shed_requests_total{{reason=\"{label}\"}} {count}");
    }
    out
}

/// Name, help and value of a metric of each program.
type ProgramMetric = (&'static str, &'static str, fn(&Sums) -> i128);

/// What the engine tells of itself, in the same format.
pub fn render_engine(out: &mut String, node: &Node) {
    let reports = node.reports();
    let mut totals = Totals::default();
    reports.iter().for_each(|report| totals.merge(&report.totals));
    let sum = |of: fn(&ShardReport) -> u64| reports.iter().map(of).sum();
    let gauges = [
        ("meed_accounts_resident", "Accounts in memory.", sum(|shard| shard.resident)),
        ("meed_accounts_passivated", "Accounts that exist and are not in memory.", sum(|shard| shard.passivated)),
        (
            "meed_accounts_resident_bytes",
            "Memory of the accounts in memory, as accounted.",
            sum(|shard| shard.resident_bytes),
        ),
        ("meed_accounts_waiting", "Accounts asked for that wait until memory has room.", sum(|shard| shard.held_loads)),
        (
            "meed_checkpoint_lag_records",
            "Records that no checkpoint covers; a restart replays them.",
            node.lag_records(),
        ),
        (
            "meed_settling_suspended",
            "1 while nothing that fell due in a gap or leap of the clock is settled.",
            u64::from(!node.follows_the_clock()),
        ),
        ("meed_lease_held", "1 while no other node may answer for this node's shards.", u64::from(node.holds_lease())),
        (
            "meed_shards_unresolved",
            "Shards that answer nothing because the outcome of their last write is unknown.",
            node.unresolved_shards(),
        ),
    ];
    for (name, help, value) in gauges {
        head(out, name, "gauge", help);
        let _ = writeln!(out, "{name} {value}");
    }
    head(out, "meed_mailbox_depth", "gauge", "Commands admitted to a shard and not yet answered, by worker.");
    let workers = node.exchanges().len() as u16;
    for worker in 0..workers {
        let depth: i64 =
            (0..node.shards()).filter(|s| node.worker_of(*s) == worker).map(|s| node.permits.under_way_in(s)).sum();
        let _ = writeln!(out, "meed_mailbox_depth{{worker=\"{worker}\"}} {depth}");
    }
    let counters: [ProgramMetric; 6] = [
        ("meed_points_issued_total", "Points awarded.", |s| s.issued),
        ("meed_points_redeemed_total", "Points spent.", |s| s.redeemed),
        ("meed_points_expired_total", "Points expired unspent.", |s| s.expired),
        ("meed_points_reversed_total", "Points taken back by reversals of awards.", |s| s.reversed),
        ("meed_points_returned_total", "Points given back by reversals of redemptions.", |s| s.returned),
        ("meed_points_shortfall_total", "Points that reversals asked back and that were no longer there.", |s| {
            s.shortfall
        }),
    ];
    let gauges: [ProgramMetric; 6] = [
        ("meed_points_outstanding", "Total and pending points of all accounts: the liability.", Sums::outstanding),
        ("meed_points_pending", "Points that are not yet available.", |s| s.pending),
        ("meed_points_held", "Points pinned by holds.", |s| s.held),
        ("meed_points_debt", "Points that members owe.", |s| s.debt),
        ("meed_points_adjusted", "Net of corrections by hand.", |s| s.adjusted),
        ("meed_accounts", "Accounts of the program.", |s| s.accounts),
    ];
    for (kind, metrics) in [("counter", counters), ("gauge", gauges)] {
        for (name, help, value) in metrics {
            head(out, name, kind, help);
            for (program, wallet, sums) in totals.iter() {
                let _ = writeln!(out, "{name}{{program=\"{}\",wallet=\"{wallet}\"}} {}", label(program), value(sums));
            }
        }
    }
}

/// A label's value: an id has no control characters, but may have quotes and backslashes.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_adds_up_the_workers() {
        let workers = [Arc::new(WorkerMetrics::default()), Arc::new(WorkerMetrics::default())];
        workers[0].answered(Endpoint::Earn, 201, Duration::from_micros(100));
        workers[1].answered(Endpoint::Earn, 201, Duration::from_micros(101));
        workers[1].answered(Endpoint::Earn, 418, Duration::from_secs(11));
        workers[1].refused_with(Kind::NotReady);
        workers[1].refused_with(Kind::NotFound);
        let mut items = ItemCounts::default();
        items.answered(201);
        [Kind::Overloaded, Kind::Overloaded, Kind::OutcomeUnknown].iter().for_each(|kind| items.refused(*kind));
        workers[0].batch(Endpoint::PosBatch, &items);
        workers[1].batch(Endpoint::PosBatch, &items);
        workers[0].refused(Refused::Files);
        workers[0].connected();
        workers[1].connected();
        workers[1].disconnected();
        let guard = workers[0].begin();
        let page = render(&workers);
        drop(guard);
        let route = "route=\"/api/v1/points/{account}/earn\",method=\"POST\"";
        let pos = "route=\"/api/v1/pos/batch\"";
        for line in [
            format!("meed_http_requests_total{{{route},code=\"201\"}} 2"),
            format!("meed_http_requests_total{{{route},code=\"other\"}} 1"),
            format!("meed_http_request_duration_seconds_bucket{{{route},le=\"0.0001\"}} 1"),
            format!("meed_http_request_duration_seconds_bucket{{{route},le=\"0.00025\"}} 2"),
            format!("meed_http_request_duration_seconds_bucket{{{route},le=\"+Inf\"}} 3"),
            format!("meed_http_request_duration_seconds_sum{{{route}}} 11.000201"),
            format!("meed_http_request_duration_seconds_count{{{route}}} 3"),
            "meed_http_requests_in_flight 1".to_owned(),
            "meed_connections_open 1".to_owned(),
            "meed_connections_refused_total{reason=\"files\"} 1".to_owned(),
            "meed_shed_requests_total{reason=\"not_ready\"} 1".to_owned(),
            "meed_shed_requests_total{reason=\"overload\"} 4".to_owned(),
            format!("meed_batch_items_total{{{pos},code=\"201\"}} 2"),
            format!("meed_batch_items_total{{{pos},code=\"503\"}} 4"),
            format!("meed_batch_items_total{{{pos},code=\"504\"}} 2"),
            "meed_batch_items_total{route=\"/api/v1/batch\",code=\"503\"} 0".to_owned(),
        ] {
            assert!(page.lines().any(|other| other == line), "{line}\n{page}");
        }
        assert!(render(&workers).contains("\nmeed_http_requests_in_flight 0\n"));
    }

    #[test]
    fn reasons_are_their_own_index() {
        assert!(REFUSED.iter().enumerate().all(|(index, (reason, _))| *reason as usize == index));
        assert!(SHED.iter().enumerate().all(|(index, (reason, _))| *reason as usize == index));
        assert!(CODES.iter().enumerate().all(|(index, code)| code_index(*code) == index));
    }
}
