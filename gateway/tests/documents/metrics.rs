//! `ops/METRICS.md` against the metrics page of a node that has had traffic, and the alerts against both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::node::Node;

/// Type and labels of each metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Stands in every account, alias, key and reference of the traffic, and in no label.
const MARKER: &str = "zq7x";

/// How the names of metrics begin: the node's own, and those that all programs have.
const NAMES: [&str; 2] = ["meed_", "process_"];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(path)).unwrap()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn documented() -> Metrics {
    let mut metrics = Metrics::new();
    for line in
        read("METRICS.md").lines().filter(|line| NAMES.iter().any(|name| line.starts_with(&format!("| `{name}"))))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning, _alert] = cells[..] else { panic!("{line}") };
        assert!(meaning.ends_with('.'), "{line}");
        // After a colon stand the values of a label.
        let labels = quoted(labels.split(':').next().unwrap()).into_iter().collect();
        let before = metrics.insert(quoted(name).remove(0), (kind.to_owned(), labels));
        assert_eq!(before, None, "{line}");
    }
    metrics
}

/// The names of the labels of a sample, `le` apart.
fn labels(sample: &str) -> BTreeSet<String> {
    let Some((_, labels)) = sample.split_once('{') else { return BTreeSet::new() };
    let (labels, _) = labels.rsplit_once('}').unwrap();
    // No value of this test has a quote within.
    let names = labels.split('"').step_by(2).filter_map(|part| part.trim_start_matches(',').strip_suffix('='));
    names.filter(|name| *name != "le").map(str::to_owned).collect()
}

fn exposed(page: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let before = metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert_eq!(before, None, "{name} is given twice");
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        }
    }
    let mut sampled = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let sample = line.split(['{', ' ']).next().unwrap();
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.strip_suffix(suffix));
        let name = of_histogram.filter(|name| metrics.contains_key(*name)).unwrap_or(sample);
        let (kind, known) = metrics.get_mut(name).unwrap_or_else(|| panic!("{line} has no type"));
        assert_eq!(name != sample, kind == "histogram", "{line}");
        let labels = labels(line);
        if !sampled.insert(name.to_owned()) {
            assert_eq!(*known, labels, "{line}");
        }
        *known = labels;
    }
    assert_eq!(sampled, metrics.keys().cloned().collect(), "every metric has a sample");
    metrics
}

/// The program whose members may owe.
const LENDING: &str = "lending";

/// Operations of every kind that moves points, a replay, refusals and a path that is not there. Returns how many
/// records it made.
fn traffic(node: &Node) -> u64 {
    let mut client = node.client();
    let mut number = 0;
    let mut ask = |program: &str, method: &str, path: &str, body: &str, expected: u16| {
        // The second request is a retry of the first.
        number += u64::from(number != 1 || path != EARN);
        let headers =
            format!("Content-Type: application/json\r\nProgram: {program}\r\nIdempotency-Key: {MARKER}-{number}\r\n");
        let answer = client.ask(method, &path.replace('*', MARKER), &headers, &body.replace('*', MARKER));
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { serde_json::from_str(&answer.body).unwrap_or_default() }
    };
    const EARN: &str = "/api/v1/points/*/earn";
    let reverse =
        |of: &Value| format!("/api/v1/points/*/transactions/{}/reverse", of["transaction_id"].as_str().unwrap());
    let earn = r#"{"points":100,"reference_id":"*-1"}"#;
    ask("default", "POST", EARN, earn, 201);
    ask("default", "POST", EARN, earn, 201);
    let redeemed = ask("default", "POST", "/api/v1/points/*/redeem", r#"{"points":30}"#, 201);
    ask("default", "POST", &reverse(&redeemed), r#"{"points":12}"#, 201);
    ask("default", "POST", "/api/v1/points/*/holds", r#"{"points":10}"#, 201);
    ask("default", "POST", "/api/v1/points/*/adjust", r#"{"points":5}"#, 201);
    let late = at(30);
    ask("default", "POST", EARN, &format!(r#"{{"points":7,"activates_at":"{late}"}}"#), 201);
    ask("default", "PUT", "/api/v1/accounts/*/aliases/card:*", "", 201);
    ask("default", "POST", "/api/v1/points/*-nobody/redeem", r#"{"points":1}"#, 404);
    let batch = r#"{"items":[{"op":"earn","account":"*","points":1,"idempotency_key":"*"}]}"#;
    ask("default", "POST", "/api/v1/batch", batch, 207);
    ask("default", "GET", "/api/v1/points/*/balance", "", 200);
    ask("default", "GET", "/api/v1/events?limit=1", "", 200);
    ask("default", "GET", "/*", "", 404);
    // Of 50 awarded 45 are spent: taken back are those that are left, and the rest is a shortfall.
    let spent = ask("default", "POST", "/api/v1/points/*-2/earn", r#"{"points":50}"#, 201);
    ask("default", "POST", "/api/v1/points/*-2/redeem", r#"{"points":45}"#, 201);
    ask("default", "POST", &reverse(&spent).replace('*', "*-2"), "{}", 201);
    let document = r#"{"name":"lending","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":"1.00"},
        "negative_balance":{"policy":"debt","floor":-500}}"#;
    ask("default", "PUT", "/api/v1/programs/lending", document, 201);
    ask(LENDING, "POST", EARN, r#"{"points":10}"#, 201);
    ask(LENDING, "POST", "/api/v1/points/*/adjust", r#"{"points":-25}"#, 201);
    // Those of the first account, of the second, of the third, and of two programs.
    7 + 3 + 2 + 2
}

/// So many days from now.
fn at(days: i64) -> String {
    let day = jiff::SignedDuration::from_hours(24 * days);
    (jiff::Timestamp::now() + day).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since the Unix epoch.
fn since_epoch() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The value of a metric without labels.
fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {page}")).parse().unwrap()
}

/// What the traffic must have made of the metrics of points.
fn sums() -> Vec<String> {
    let of_default = [
        ("points_issued_total", 158),
        ("points_redeemed_total", 75),
        ("points_expired_total", 0),
        ("points_reversed_total", 5),
        ("points_returned_total", 12),
        ("points_shortfall_total", 45),
        ("points_held", 10),
        ("points_pending", 7),
        ("points_debt", 0),
        ("points_adjusted", 5),
        ("points_outstanding", 95),
        ("accounts", 2),
    ];
    let of_lending = [
        ("points_issued_total", 10),
        ("points_adjusted", -25),
        ("points_debt", 15),
        ("points_outstanding", -15),
        ("accounts", 1),
    ];
    let line =
        |program| move |(name, points)| format!("meed_{name}{{program=\"{program}\",wallet=\"points\"}} {points}");
    let default = of_default.into_iter().map(line("default"));
    default.chain(of_lending.into_iter().map(line(LENDING))).collect()
}

/// What the engine tells of itself after so many records of five accounts, two of them of programs.
fn check_engine(page: &str, records: u64) {
    let of = |name: &str| value(page, &format!("meed_{name}"));
    assert!((300.0..50_000.0).contains(&of("accounts_resident_bytes")), "{}", of("accounts_resident_bytes"));
    // Each part of a batch is counted once, in a batch that was written and synced once.
    let batches = of("journal_batch_records_count");
    assert!((1.0..=records as f64).contains(&batches), "{batches}");
    for name in ["journal_batch_bytes_count", "journal_write_seconds_count", "journal_sync_seconds_count"] {
        assert_eq!(of(name), batches, "{name}");
    }
    assert_eq!(of("journal_batch_records_sum"), records as f64);
    assert_eq!(of("journal_batch_bytes_sum"), of("journal_bytes_total"));
    assert!(of("journal_bytes_total") > (50 * records) as f64, "{}", of("journal_bytes_total"));
    assert!(of("journal_sync_seconds_sum") > 0.0 && of("journal_write_seconds_sum") > 0.0);
    // Whoever asked has its answer.
    assert!(page.lines().any(|line| line == "meed_mailbox_depth{worker=\"0\"} 0"), "{page}");
    assert!(of("mailbox_wait_seconds_count") > 0.0 && of("mailbox_wait_seconds_sum") < 60.0);
}

#[test]
fn the_page_has_what_is_documented_and_nothing_else() {
    let (folder, begun_at) = (tempfile::tempdir().unwrap(), since_epoch());
    let door = format!("unix:{}", folder.path().join("owner").display());
    // No checkpoint within this test but the first of shard 0, which has none of these accounts.
    let flags = ["--owner-listen", &door, "--checkpoint-interval-ms", "3600000"];
    let data = folder.path().join("data");
    let node = Node::start(&data, &flags);
    let front = Node::start(&folder.path().join("front"), &["--front-of", &door]);
    let records = traffic(&node);
    // A link that had nothing to send has no measures of it.
    front.client().ask("GET", &format!("/api/v1/points/{MARKER}/balance"), "", "");
    let mut lines = sums();
    lines.push("meed_idempotent_replays_total 1".to_owned());
    lines.push("meed_accounts_resident 5".to_owned());
    lines.push("meed_accounts_passivated 0".to_owned());
    lines.push("meed_accounts_waiting 0".to_owned());
    lines.push(format!("meed_checkpoint_lag_records {records}"));
    let page = node.metrics_with(&lines);
    check_engine(&page, records);
    let start = value(&page, "process_start_time_seconds") as u64;
    assert!((begun_at..=since_epoch()).contains(&start), "{start}");
    let of_front = front.metrics();
    let (documented, mut exposed) = (documented(), exposed(&page));
    for (name, measure) in self::exposed(&of_front) {
        // Of a front come its links' measures and those that every node has.
        let known = exposed.entry(name.clone()).or_insert_with(|| measure.clone());
        assert_eq!(known.0, measure.0, "{name}");
    }
    for (name, described) in &documented {
        assert_eq!(exposed.get(name), Some(described), "{name}: the page against METRICS.md");
    }
    for name in exposed.keys() {
        assert!(documented.contains_key(name), "{name} is not in METRICS.md");
    }
    assert!(!page.contains(MARKER) && !of_front.contains(MARKER), "{page}{of_front}");
    front.stop();
    node.stop();
    // Stopped in order it has checkpointed everything, and started again it loads members when they are asked for.
    let node = Node::start(&data, &flags);
    let none = ["accounts_resident 0", "accounts_passivated 5", "checkpoint_lag_records 0"];
    node.metrics_with(&none.map(|line| format!("meed_{line}")));
    node.client().ask("GET", &format!("/api/v1/points/{MARKER}/balance"), "", "");
    let loaded = ["resident 1", "passivated 4"].map(|name| format!("meed_accounts_{name}"));
    node.metrics_with(&[&sums()[..], &loaded].concat());
    node.stop();
}

/// How many items of an NDJSON answer have this status.
fn items_with(answer: &str, code: u16) -> u64 {
    let status = |line: &str| serde_json::from_str::<Value>(line).unwrap()["status"].clone();
    answer.lines().filter(|line| status(line) == code).count() as u64
}

/// The batches are answered with 207, so only their items tell that nearly all of them are turned away.
#[test]
fn items_that_are_turned_away_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    // With no time to wait for it, the second window has no permit while the first is under way.
    let node = Node::start(&folder.path().join("data"), &["--admission-commands", "50", "--admission-wait-ms", "0"]);
    let item = |number| {
        let members = json!({"op": "earn", "account": format!("{MARKER}-{number}"), "points": 1,
                             "idempotency_key": format!("k-{number}")});
        format!("{members}\n")
    };
    let body: String = (0..400).map(item).collect();
    let mut client = node.client();
    let (mut executed, mut shed) = (0, 0);
    for _ in 0..5 {
        let headers = "Content-Type: application/x-ndjson\r\nProgram: default\r\n";
        let answer = client.ask("POST", "/api/v1/batch", headers, &body);
        assert_eq!(answer.status, 207, "{answer:?}");
        executed += items_with(&answer.body, 201);
        shed += items_with(&answer.body, 503);
    }
    assert!(executed > 0 && shed > 0 && executed + shed == 2_000, "{executed} executed, {shed} turned away");
    let items = |code, count| format!("meed_batch_items_total{{route=\"/api/v1/batch\",code=\"{code}\"}} {count}");
    let page = node.metrics();
    for line in
        [items(201, executed), items(503, shed), format!("meed_shed_requests_total{{reason=\"overload\"}} {shed}")]
    {
        assert!(page.lines().any(|other| other == line), "{line} is not in {page}");
    }
    node.stop();
}

#[test]
fn names_follow_the_rules() {
    for (name, (kind, _)) in documented() {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(name.bytes().all(good), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        if kind == "histogram" {
            assert!(["_seconds", "_bytes", "_records"].iter().any(|unit| name.ends_with(unit)), "{name} has no unit");
        }
        for part in ["_ms", "_us", "_milliseconds", "_kb", "_percent", "_bucket", "_sum", "_count"] {
            assert!(!name.ends_with(part), "{name}");
        }
        assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name} is a {kind}");
    }
}

#[test]
fn alerts_are_on_metrics_that_exist() {
    let documented = documented();
    let alerts = read("prometheus/alerts.yaml");
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let names: Vec<&str> =
        alerts.split(|c| !word(c)).filter(|name| NAMES.iter().any(|own| name.starts_with(own))).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let metric = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(documented.contains_key(metric), "{name}");
    }
}
