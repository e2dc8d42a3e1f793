//! Real purchases through the real binary: 6,919 sales of 2,357 customers, and every customer as a second
//! implementation of the rules computes it.
#![allow(clippy::unwrap_used)]

mod calendar;
mod naive;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/node.rs"]
mod node;
mod sales;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use calendar::{Date, utc_text};
use naive::{Award, Customer, Rules, money, number};
use node::{Client, Node, PATIENCE};
use sales::{CUSTOMERS, Random, Sale, lines, mixed, parts, sales, shuffled};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/programs/cdnow.json");
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";
const LAST_UPDATED: &str = "\"last_updated\":\"";

/// The `lots` answer of every customer, byte for byte but for `last_updated`.
type State = BTreeMap<String, String>;

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

fn start(data: &Path) -> Node {
    Node::start(data, &["--programs", DOCUMENT])
}

fn header(program: &str) -> String {
    format!("Program: {program}\r\n")
}

fn send(client: &mut Client, program: &str, sales: &[Sale]) -> std::io::Result<()> {
    client.send("POST", "/api/v1/pos/batch", &(header(program) + NDJSON), &lines(sales))
}

/// One result per sale: whether it was replayed, and the body as text.
fn results(body: &str, sales: &[Sale]) -> Vec<(bool, String)> {
    let results: Vec<_> = body.lines().map(result).collect();
    assert_eq!(results.len(), sales.len());
    results
}

fn result(line: &str) -> (bool, String) {
    let executed = line.strip_prefix("{\"status\":201,\"replayed\":").unwrap_or_else(|| panic!("{line}"));
    let (replayed, body) = executed.split_once(",\"body\":").unwrap();
    (replayed.parse().unwrap(), body.strip_suffix('}').unwrap().to_owned())
}

fn sell(client: &mut Client, program: &str, sales: &[Sale]) -> Vec<(bool, String)> {
    send(client, program, sales).unwrap();
    let answer = client.receive().unwrap();
    assert_eq!(answer.status, 207, "{answer:?}");
    results(&answer.body, sales)
}

fn state(client: &mut Client, program: &str, sales: &[Sale]) -> State {
    let mut state = State::new();
    for customer in sales.iter().map(|sale| &sale.customer) {
        if state.contains_key(customer) {
            continue;
        }
        let answer = client.ask("GET", &format!("/api/v1/points/{customer}/lots"), &header(program), "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let (before, after) = answer.body.split_once(LAST_UPDATED).unwrap();
        let (_, after) = after.split_once("\",").unwrap();
        state.insert(customer.clone(), format!("{before}{after}"));
    }
    assert_eq!(state.len(), CUSTOMERS);
    state
}

/// Every customer after the sales in the order of the file, sent at once to a fresh node.
static IN_ORDER: LazyLock<State> = LazyLock::new(|| {
    let (_folder, data) = folder();
    let node = start(&data);
    let sales = sales(0, 17, 0);
    let mut client = node.client();
    assert!(sell(&mut client, "cdnow", &sales).iter().all(|(replayed, _)| !replayed));
    let state = state(&mut client, "cdnow", &sales);
    node.stop();
    state
});

#[track_caller]
fn assert_same(found: &State, what: &str) {
    for (customer, lots) in &*IN_ORDER {
        assert_eq!(&found[customer], lots, "{what}: {customer}");
    }
}

/// What came out, in points: issued, expired, and sales and points by the tier that was applied.
#[derive(Default, Debug)]
struct Totals {
    issued: i128,
    expired: i128,
    outstanding: i128,
    by_tier: BTreeMap<String, (usize, i128)>,
    customers_by_last_tier: BTreeMap<String, usize>,
}

fn check_award(found: &Value, award: &Award, sale: &Sale) {
    let expected = json!({
        "account_id": sale.customer, "type": "EARN", "points": number(award.points), "amount": money(award.cents),
        "applied_tier": award.tier, "applied_multiplier": award.multiplier,
        "occurred_at": utc_text(award.occurred_ms), "expires_at": utc_text(award.expires_ms)
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name} of {}: {found}", sale.line);
    }
}

fn check_history(client: &mut Client, program: &str, account: &str, expected: [usize; 3]) {
    let path = format!("/api/v1/points/{account}/transactions?limit=500");
    let page = client.ask("GET", &path, &header(program), "").json();
    let rows = page["transactions"].as_array().unwrap();
    let of_type = |name: &str| rows.iter().filter(|row| row["type"] == name).count();
    assert_eq!(["EARN", "EXPIRE", "TIER"].map(of_type), expected, "{account}");
    assert_eq!((rows.len(), &page["has_more"]), (expected.iter().sum(), &json!(false)), "{account}");
    assert_eq!(page["total_count"], rows.len(), "{account}");
    let sequences: Vec<usize> = rows.iter().map(|row| row["sequence"].as_u64().unwrap() as usize).collect();
    assert_eq!(sequences, (1..=rows.len()).rev().collect::<Vec<_>>(), "{account}");
}

/// Sends the sales in one batch and compares every answer, every customer and the program's totals.
fn check_program(node: &Node, program: &str, document: &Value, sales: &[Sale]) -> Totals {
    let rules = Rules::of(document);
    let now_ms = now_ms();
    let mut client = node.client();
    let answers = sell(&mut client, program, sales);
    let mut customers: BTreeMap<&str, Customer> = BTreeMap::new();
    let mut totals = Totals::default();
    for (sale, (replayed, body)) in sales.iter().zip(&answers) {
        let customer = customers.entry(&sale.customer).or_default();
        let award = rules.sale(customer, sale.occurred_ms, sale.cents, now_ms);
        assert!(!replayed);
        check_award(&serde_json::from_str(body).unwrap(), &award, sale);
        let of_tier = totals.by_tier.entry(award.tier).or_default();
        *of_tier = (of_tier.0 + 1, of_tier.1 + award.points);
        totals.issued += award.points;
        if award.expires_ms <= now_ms {
            totals.expired += award.points;
        }
    }
    totals.outstanding = totals.issued - totals.expired;
    let found = state(&mut client, program, sales);
    for (account, customer) in &customers {
        let lots: Value = serde_json::from_str(&found[*account]).unwrap();
        assert_eq!(lots, rules.lots(customer, account, program, now_ms), "{program}");
        check_history(&mut client, program, account, rules.records(customer, now_ms));
        let last = customer.awards.last().unwrap();
        *totals.customers_by_last_tier.entry(last.tier.clone()).or_default() += 1;
    }
    let lines = [
        ("issued_total", totals.issued),
        ("redeemed_total", 0),
        ("expired_total", totals.expired),
        ("outstanding", totals.outstanding),
    ]
    .map(|(name, points)| format!("meed_points_{name}{{program=\"{program}\",wallet=\"points\"}} {points}"));
    node.metrics_with(&lines);
    totals
}

fn document(window: &str, rounding: &str, per_amount: &str, expiry: Value) -> Value {
    json!({
        "name": "CDNOW under other rules", "time_zone": "America/New_York", "currency": "USD",
        "earning": {"points": 3, "per_amount": per_amount, "rounding": rounding},
        "tiers": {"window": window, "levels": [
            {"name": "BASE", "from": "0", "multiplier": "1"},
            {"name": "PLUS", "from": "75.01", "multiplier": "1.3333"},
            {"name": "GOLD", "from": "200", "multiplier": "2.5"}
        ]},
        "expiry": expiry, "late_days_max": null
    })
}

/// The program of the example on the real dates; and, so that windows, expiry and time zone matter at now, the
/// same purchases moved to end last month, or sold in New York's evening, under rules that round otherwise.
#[test]
fn every_customer_comes_out_as_computed() {
    let today = Date::at(now_ms());
    let months_later = (today.year - 1998) * 12 + today.month - 7;
    let recent = sales(months_later, 3, 59);
    let original = sales(0, 17, 0);
    let example: Value = serde_json::from_str(&std::fs::read_to_string(DOCUMENT).unwrap()).unwrap();
    let months = |months: i64, round_to: &str| json!({"months": months, "round_to": round_to});
    let cases = [
        ("cdnow", example, &original),
        ("recent-rolling", document("rolling_12_months", "half_up", "0.70", months(12, "end_of_month")), &recent),
        (
            "recent-year",
            document("calendar_year", "half_even", "0.80", json!({"days": 200, "round_to": "day"})),
            &recent,
        ),
        ("recent-quarter", document("lifetime", "down", "1.99", months(9, "end_of_quarter")), &recent),
        ("long-ago", document("lifetime", "up", "9.99", months(12, "end_of_year")), &original),
    ];
    let (_folder, data) = folder();
    let node = start(&data);
    for (program, document, sales) in &cases {
        if *program != "cdnow" {
            let path = format!("/api/v1/programs/{program}");
            let answer = node.client().ask("PUT", &path, "Content-Type: application/json\r\n", &document.to_string());
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        println!("{program}: {:?}", check_program(&node, program, document, sales));
    }
    node.stop();
    let (code, said) = node::run(&["verify", data.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    // Windows and expiry are judged at now: a midnight in between would change what is expected.
    assert_eq!(Date::at(now_ms()), today, "a day began in New York during the test; run it again");
}

#[test]
fn sent_twice_it_counts_once() {
    let seed = 20_261_121;
    println!("seed {seed}");
    let mut random = Random(seed);
    let sales = shuffled(&sales(0, 17, 0), &mut random);
    let (_folder, data) = folder();
    let node = start(&data);
    let mut client = node.client();
    let first = sell(&mut client, "cdnow", &sales);
    assert_same(&state(&mut client, "cdnow", &sales), "customers in another order");
    let order: Vec<usize> = {
        let mut order: Vec<usize> = (0..sales.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        order
    };
    let again: Vec<Sale> = order.iter().map(|index| sales[*index].clone()).collect();
    for (index, answer) in order.iter().zip(sell(&mut client, "cdnow", &again)) {
        assert_eq!(answer, (true, first[*index].1.clone()));
    }
    assert_same(&state(&mut client, "cdnow", &sales), "sent twice");
    node.stop();
}

/// How the node goes while a part is being executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// kill -9 as soon as the part is sent.
    KilledAtOnce,
    /// kill -9 once the journal has something of the part.
    KilledWithin,
    /// kill -9 after the answer.
    KilledAfter,
    /// SIGTERM as soon as the part is sent.
    Stopped,
}

fn journaled(node: &Node) -> String {
    let page = node.metrics();
    page.lines().find(|line| line.starts_with("meed_journal_bytes_total")).unwrap_or_default().to_owned()
}

/// Sends a part to a node that ends meanwhile; what it answered.
fn interrupted(node: Node, part: &[Sale], end: End) -> Option<Vec<(bool, String)>> {
    let mut client = node.client();
    let before = journaled(&node);
    send(&mut client, "cdnow", part).unwrap();
    match end {
        End::KilledWithin => {
            let begin = Instant::now();
            while journaled(&node) == before {
                assert!(begin.elapsed() < PATIENCE, "nothing of the part is journaled");
            }
        }
        End::KilledAfter => {
            let answers = results(&client.receive().unwrap().body, part);
            drop(node);
            return Some(answers);
        }
        End::KilledAtOnce | End::Stopped => {}
    }
    if end == End::Stopped {
        node.stop()
    } else {
        drop(node)
    }
    // A node that is killed may still have answered, and one that stops may have refused what it had not begun.
    client.receive().ok().filter(|answer| answer.status == 207).map(|answer| results(&answer.body, part))
}

#[test]
fn restarts_change_nothing() {
    let seed = 19_970_101;
    println!("seed {seed}");
    let mut random = Random(seed);
    let sales = mixed(&sales(0, 17, 0), &mut random);
    let (_folder, data) = folder();
    let mut node = start(&data);
    let ends = [End::KilledAtOnce, End::KilledWithin, End::Stopped, End::KilledAfter];
    for (index, part) in parts(&sales, 1_200, &mut random).into_iter().enumerate() {
        let end = ends[index % ends.len()];
        let answered = interrupted(node, part, end);
        node = start(&data);
        let again = sell(&mut node.client(), "cdnow", part);
        let replayed = again.iter().filter(|(replayed, _)| *replayed).count();
        println!("{end:?}: {} sales, answered: {}, replayed {replayed}", part.len(), answered.is_some());
        for (before, after) in answered.unwrap_or_default().into_iter().zip(&again) {
            assert_eq!((true, &before.1), (after.0, &after.1), "an acknowledged sale is replayed as it was answered");
        }
    }
    assert_same(&state(&mut node.client(), "cdnow", &sales), "restarts in between");
    drop(node);
    let (code, said) = node::run(&["verify", data.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let node = start(&data);
    assert_same(&state(&mut node.client(), "cdnow", &sales), "after the last kill");
    node.stop();
}
