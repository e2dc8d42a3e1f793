//! `ops/METRICS.md` against the metrics page of a node that has had traffic, and the alerts against both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::node::Node;

/// Type and labels of each metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Stands in every account, alias, key and reference of the traffic, and in no label.
const MARKER: &str = "zq7x";

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops").join(path)).unwrap()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn documented() -> Metrics {
    let mut metrics = Metrics::new();
    for line in read("METRICS.md").lines().filter(|line| line.starts_with("| `meed_")) {
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

/// Operations, a replay, refusals and a path that is not there.
fn traffic(node: &Node) {
    let mut client = node.client();
    let mut ask = |method: &str, path: &str, body: &str, expected: u16| {
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {MARKER}-{path}\r\n");
        let answer = client.ask(method, &path.replace('*', MARKER), &headers, &body.replace('*', MARKER));
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
    };
    let earn = r#"{"points":100,"reference_id":"*-1"}"#;
    ask("POST", "/api/v1/points/*/earn", earn, 201);
    ask("POST", "/api/v1/points/*/earn", earn, 201);
    ask("POST", "/api/v1/points/*/redeem", r#"{"points":30}"#, 201);
    ask("POST", "/api/v1/points/*/holds", r#"{"points":10}"#, 201);
    ask("POST", "/api/v1/points/*/adjust", r#"{"points":5}"#, 201);
    ask("PUT", "/api/v1/accounts/*/aliases/card:*", "", 201);
    ask("POST", "/api/v1/points/*-nobody/redeem", r#"{"points":1}"#, 404);
    ask("POST", "/api/v1/batch", r#"{"items":[{"op":"earn","account":"*","points":1,"idempotency_key":"*"}]}"#, 207);
    ask("GET", "/api/v1/points/*/balance", "", 200);
    ask("GET", "/api/v1/events?limit=1", "", 200);
    ask("GET", "/*", "", 404);
}

#[test]
fn the_page_has_what_is_documented_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let door = format!("unix:{}", folder.path().join("owner").display());
    let node = Node::start(&folder.path().join("data"), &["--owner-listen", &door]);
    let front = Node::start(&folder.path().join("front"), &["--front-of", &door]);
    traffic(&node);
    // A link that had nothing to send has no measures of it.
    front.client().ask("GET", &format!("/api/v1/points/{MARKER}/balance"), "", "");
    let of_program =
        |(name, points): (&str, i64)| format!("meed_{name}{{program=\"default\",wallet=\"points\"}} {points}");
    let sums = [
        ("points_issued_total", 101),
        ("points_redeemed_total", 30),
        ("points_held", 10),
        ("points_adjusted", 5),
        ("points_outstanding", 76),
        ("accounts", 1),
    ];
    let mut lines: Vec<String> = sums.into_iter().map(of_program).collect();
    lines.push("meed_idempotent_replays_total 1".to_owned());
    let page = node.metrics_with(&lines);
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
    let names: Vec<&str> = alerts.split(|c| !word(c)).filter(|name| name.starts_with("meed_")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let metric = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(documented.contains_key(metric), "{name}");
    }
}
