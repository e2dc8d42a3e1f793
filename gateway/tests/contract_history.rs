//! The contract of history: pages, cursors, rows, explanations, and what a restart keeps.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use contract::{Answer, JSON, Shop, Value, document, each, id, json};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

fn page(shop: &Shop, query: &str) -> Value {
    let page = ask(shop, query).expect(200);
    assert_eq!(page["has_more"], !page["next"].is_null(), "{page}");
    assert!(page["total_count"].is_u64(), "{page}");
    page
}

fn ask(shop: &Shop, query: &str) -> Answer {
    shop.get(&format!("/api/v1/points/m-1/transactions{query}"))
}

fn sequences(page: &Value) -> Vec<i64> {
    page["transactions"].as_array().unwrap().iter().map(|row| row["sequence"].as_i64().unwrap()).collect()
}

/// 40 earns and 20 redemptions: every third row is a REDEEM.
fn filled() -> Shop {
    let shop = Shop::open(json!({}));
    for n in 1..=60 {
        let what = if n % 3 == 0 { "redeem" } else { "earn" };
        shop.done("m-1", what, json!({"points": 1}));
    }
    shop
}

#[test]
fn pages_by_offset() {
    let shop = filled();
    let first = page(&shop, "");
    assert_eq!((&first["total_count"], &first["has_more"]), (&json!(60), &json!(true)));
    assert_eq!(sequences(&first), (11..=60).rev().collect::<Vec<_>>());
    assert_eq!(sequences(&page(&shop, "?limit=7&offset=5")), (49..=55).rev().collect::<Vec<_>>());
    let last = page(&shop, "?limit=50&offset=50");
    assert_eq!((sequences(&last), &last["has_more"]), ((1..=10).rev().collect(), &json!(false)));
    let exact = page(&shop, "?limit=60");
    assert_eq!((sequences(&exact).len(), &exact["has_more"]), (60, &json!(false)));
    let beyond = page(&shop, "?offset=60");
    assert_eq!((&beyond["transactions"], &beyond["total_count"]), (&json!([]), &json!(60)));
    assert_eq!(sequences(&page(&shop, "?offset=10000")), [] as [i64; 0]);
    let redeems = page(&shop, "?type=REDEEM&limit=3&offset=1");
    assert_eq!((sequences(&redeems), &redeems["total_count"]), (vec![57, 54, 51], &json!(20)));
    assert_eq!(page(&shop, "?type=EARN")["total_count"], 40);
    let none = page(&shop, "?type=HOLD");
    assert_eq!((&none["total_count"], &none["transactions"], &none["next"]), (&json!(0), &json!([]), &Value::Null));
}

#[test]
fn pages_by_cursor_are_stable() {
    let shop = filled();
    for (kind, expected) in
        [("", (1..=60).rev().collect::<Vec<i64>>()), ("&type=REDEEM", (1..=20).rev().map(|n| n * 3).collect())]
    {
        let mut seen = Vec::new();
        let mut next = page(&shop, &format!("?limit=7{kind}"));
        loop {
            seen.extend(sequences(&next));
            // New rows move nothing that is behind the cursor.
            shop.done("m-1", "earn", json!({"points": 2}));
            shop.done("m-1", "redeem", json!({"points": 1}));
            let Some(cursor) = next["next"].as_str() else { break };
            assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b)), "{cursor}");
            next = page(&shop, &format!("?limit=7{kind}&cursor={cursor}"));
        }
        let begin = seen.iter().position(|sequence| *sequence <= 60).unwrap();
        assert_eq!(&seen[begin..], expected);
        assert!(seen.windows(2).all(|pair| pair[0] > pair[1]));
    }
}

#[test]
fn parameters_that_are_refused() {
    let shop = filled();
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=501", "limit"),
        ("?limit=x", "limit"),
        ("?limit=", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?offset=-1", "offset"),
        ("?type=earn", "type"),
        ("?type=NOTHING", "type"),
        ("?cursor=abc", "cursor"),
        ("?colour=red", "colour"),
    ] {
        ask(&shop, query).invalid(field);
    }
    let problem = ask(&shop, "?offset=10001").problem(400, "invalid-request");
    assert!(problem["detail"].as_str().unwrap().contains("cursor"), "{problem}");
    let cursor = page(&shop, "?limit=5&type=EARN")["next"].as_str().unwrap().to_owned();
    // A cursor goes with its type, its account, and without an offset.
    for query in [
        format!("?cursor={cursor}"),
        format!("?cursor={cursor}&type=REDEEM"),
        format!("?cursor={cursor}&type=EARN&offset=1"),
    ] {
        ask(&shop, &query).problem(400, "invalid-request");
    }
    shop.earn("m-2", 1);
    let other = shop.get(&format!("/api/v1/points/m-2/transactions?type=EARN&cursor={cursor}"));
    other.problem(400, "invalid-request");
    let mut forged = cursor.into_bytes();
    forged[3] = if forged[3] == b'A' { b'B' } else { b'A' };
    ask(&shop, &format!("?type=EARN&cursor={}", String::from_utf8(forged).unwrap())).invalid("cursor");
}

#[test]
fn a_row_is_its_answer_and_more() {
    let shop = Shop::open(json!({}));
    let (description, metadata) = ("for \"you\" \\ é\u{1F600}", json!({"b": [1, 2.50, null, {"x": "é"}], "a": true}));
    let body = json!({"amount": "10.00", "source": "web", "reference_id": "o-1", "description": description, "metadata": metadata});
    let mut answers = vec![shop.done("m-1", "earn", body)];
    answers.push(shop.done("m-1", "redeem", json!({"points": 2, "reward_id": "mug"})));
    answers.push(shop.done("m-1", "holds", json!({"points": 2, "reference_id": "b"})));
    let hold = answers[2]["hold_id"].as_str().unwrap().to_owned();
    answers.push(shop.done("m-1", &format!("holds/{hold}/capture"), json!({"points": 1})));
    answers.push(shop.done("m-1", "adjust", json!({"points": -1, "reason": "r"})));
    answers.push(shop.reverse(&answers[0].clone(), json!({"amount": "1.00", "reason": "back"})));
    let sale = json!({"store_id": "s", "transaction_id": "t", "user_identifier": "m-1", "amount": "2.00",
        "timestamp": "2026-01-01T00:00:00Z"});
    answers.push(shop.post_bare("/api/v1/pos/transaction", sale).expect(201));
    let rows = shop.rows("m-1");
    assert_eq!(rows.len(), answers.len());
    for (row, answer) in rows.iter().rev().zip(&answers) {
        for (name, value) in answer.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name} of {row}");
        }
        for name in ["balance_after", "processed_at", "status", "source", "reference_id", "description", "metadata"] {
            assert!(row.get(name).is_some(), "{name} of {row}");
        }
    }
    let first = rows.last().unwrap();
    assert_eq!((&first["source"], &first["reference_id"]), (&json!("web"), &json!("o-1")));
    assert_eq!((&first["description"], &first["metadata"]), (&json!(description), &metadata));
    assert_eq!(rows[5]["metadata"], Value::Null);
    // One transaction is its row with an explanation.
    for row in &rows {
        let mut one = shop.get(&format!("/api/v1/points/m-1/transactions/{}", id(row))).expect(200);
        let explanation = one.as_object_mut().unwrap().remove("explanation").unwrap();
        assert!(explanation.is_object());
        assert_eq!(&one, row);
    }
    assert_eq!(each(&rows, "type"), ["EARN", "REVERSAL", "ADJUST", "REDEEM", "HOLD", "REDEEM", "EARN"]);
}

#[test]
fn an_award_is_explained() {
    let shop = Shop::open(json!({
        "earning": {"points": 1, "per_amount": "3.00", "rounding": "half_up"},
        "tiers": {"window": "lifetime", "levels": [{"name": "ONLY", "from": "0", "multiplier": "1.25"}]}
    }));
    // 10.00 / 3.00 × 1.25 = 4.1666…
    let earn = shop.done("m-1", "earn", json!({"amount": "10.00"}));
    assert_eq!(earn["points"], 4);
    let explain =
        || shop.get(&format!("/api/v1/points/m-1/transactions/{}", id(&earn))).expect(200)["explanation"].clone();
    let explanation = explain();
    assert_eq!(explanation["program_version"], 1);
    assert_eq!((&explanation["applied_tier"], &explanation["applied_multiplier"]), (&json!("ONLY"), &json!("1.25")));
    assert_eq!(explanation["rounding"], "half_up");
    let unrounded = explanation["unrounded_points"].as_str().unwrap();
    assert!(unrounded.starts_with("4.16") || unrounded == "25/6", "{explanation}");
    assert_eq!(explanation["lots"].as_array().unwrap().len(), 1);
    assert_eq!(explanation["reversed_points"], 0);
    shop.reverse(&earn, json!({"amount": "4.00"}));
    // 6.00 would award 2.5, half up 3.
    let explanation = explain();
    assert_eq!((&explanation["reversed_points"], &explanation["reversed_amount"]), (&json!(1), &json!("4.00")));
    for other in ["none", "0-0", "99999999999-1"] {
        shop.get(&format!("/api/v1/points/m-1/transactions/{other}")).problem(404, "unknown-transaction");
    }
}

struct Started {
    child: Child,
    address: String,
}

fn start(data: &str) -> Started {
    start_logging(data, Stdio::inherit(), &["--log-level", "error"])
}

fn start_logging(data: &str, log: Stdio, flags: &[&str]) -> Started {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meed"))
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data", data])
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        if let Some(address) = lines.next().unwrap().unwrap().strip_prefix("listening on http://") {
            break address.to_owned();
        }
    };
    contract::wait_ready(&address);
    Started { child, address }
}

impl Started {
    /// Stops it in order; its folder can be read then.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn answers_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let requests = |shop: &Shop| {
        let mut answers = Vec::new();
        for n in 0..30 {
            let account = format!("/api/v1/points/m-{}", n % 3);
            answers.push(shop.post_key(
                &format!("e{n}"),
                &format!("{account}/earn"),
                json!({"amount": "12.34", "reference_id": format!("o{n}")}),
            ));
            answers.push(shop.post_key(&format!("r{n}"), &format!("{account}/redeem"), json!({"points": 7})));
            answers.push(shop.post_key(&format!("h{n}"), &format!("{account}/holds"), json!({"points": 900 - n})));
        }
        answers
    };
    let node = start(data);
    let shop = Shop::of(&node.address, "shop");
    shop.put("/api/v1/programs/shop", document(json!({}))).expect(201);
    let before = requests(&shop);
    shop.put("/api/v1/accounts/m-1/aliases/card:7", "").expect(201);
    let read = |shop: &Shop| {
        ["m-0", "m-1", "card:7"].map(|account| (shop.balance(account), shop.lots(account), shop.rows(account)))
    };
    let state = read(&shop);
    let cursor = shop.get("/api/v1/points/m-1/transactions?limit=3").expect(200)["next"].as_str().unwrap().to_owned();
    let rest = |shop: &Shop| shop.get(&format!("/api/v1/points/m-1/transactions?limit=3&cursor={cursor}")).body;
    let continued = rest(&shop);
    drop(shop);
    drop(node);
    let verified = Command::new(env!("CARGO_BIN_EXE_meed")).args(["verify", data]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let node = start(data);
    let shop = Shop::of(&node.address, "shop");
    assert_eq!(read(&shop), state);
    assert_eq!(rest(&shop), continued);
    let after = requests(&shop);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.status, &before.body), (after.status, &after.body));
        assert!(after.is_replay() && !before.is_replay());
    }
    assert_eq!(read(&shop), state);
}

#[test]
fn a_refused_program_leaves_a_node_that_starts() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    for _ in 0..2 {
        let node = start(data);
        let shop = Shop::of(&node.address, "mars");
        shop.put("/api/v1/programs/mars", document(json!({"time_zone": "Mars/Olympus"}))).invalid("time_zone");
        shop.get("/api/v1/programs/mars").problem(404, "unknown-program");
    }
}

/// Whether any file under a folder holds these bytes.
fn holds_bytes(folder: &std::path::Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds_bytes(&path, bytes);
        }
        let content = std::fs::read(&path).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// Who may do everything, and the token that proves it.
const TOKEN: &str = "unusual-token-of-a-till";

fn config_with_token(folder: &Path) -> String {
    let file = folder.join("meed.toml");
    let digest: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "[[credentials]]\nname = \"till\"\ntoken_sha256 = \"{digest}\"\nprogram = \"*\"\n\
         roles = [\"read\", \"operate\", \"admin\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What every line of the log is: an object; those of requests name the route, not the path, and the request.
fn check_log(text: &str, requests: usize) {
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    assert!(lines.iter().any(|line| line["message"] != "request"), "it tells of itself too: {text}");
    // The test asked for readiness until there was.
    let is_request = |line: &&Value| line["message"] == "request" && line["route"] != "/readyz";
    let of_requests: Vec<&Value> = lines.iter().filter(is_request).collect();
    assert_eq!(of_requests.len(), requests, "{text}");
    let mut ids = BTreeSet::new();
    for line in of_requests {
        assert!(line["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
        assert!(line["route"].as_str().is_some_and(|route| !route.contains("visible-account")), "{line}");
        assert!(line["status"].is_u64() && line["duration_us"].is_u64() && line["timestamp"].is_string(), "{line}");
        ids.insert(line["request_id"].as_str().unwrap());
    }
    assert!(ids.contains("asked-by-the-client") && ids.len() == requests, "{ids:?}");
}

#[test]
fn an_alias_lies_nowhere_in_the_clear_and_stays_erased() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let log = folder.path().join("log");
    let config = config_with_token(folder.path());
    let flags = ["--config", config.as_str(), "--log-format", "json", "--access-log", "--log-level", "trace"];
    // Short ones are read soon.
    let flags = [&flags[..], &["--segment-bytes", "1MiB"]].concat();
    let node = start_logging(&data, File::create(&log).unwrap().into(), &flags);
    let shop = Shop::of(&node.address, "default").without_check();
    let bearer = format!("Bearer {TOKEN}");
    let requests = Cell::new(0);
    let ask = |method: &str, path: &str, body: &str| {
        requests.set(requests.get() + 1);
        let key = format!("unusual-key-{}", requests.get());
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", &key), JSON];
        shop.ask(method, path, &headers, body.as_bytes())
    };
    let path = "/api/v1/accounts/visible-account/aliases/email:quite.unusual%40example.org";
    ask("POST", "/api/v1/points/visible-account/earn", r#"{"points":9}"#).expect(201);
    ask("PUT", path, "").expect(201);
    ask("PUT", "/api/v1/accounts/visible-account/aliases/phone:%2B4915112345678", "").expect(201);
    ask("POST", "/api/v1/points/quite.unusual%40example.org/earn", r#"{"points":2}"#).expect(201);
    let redeemed = ask("POST", "/api/v1/points/quite.unusual%40example.org/redeem", r#"{"points":1}"#).expect(201);
    let code = redeemed["redemption_code"].as_str().unwrap().to_owned();
    // What is refused names nothing in the log either: no route, no account, no document, no credential.
    ask("GET", "/quite.unusual@example.org?phone=4915112345678", "").problem(404, "not-found");
    ask("POST", "/api/v1/points/quite.unusual%40example.com/redeem", r#"{"points":1}"#).problem(404, "unknown-account");
    ask("POST", "/api/v1/accounts/lookup", r#"{"user_identifier":"quite.unusual@example.org","#).invalid("body");
    let wrong = [("Authorization", "Bearer unusual-token-of-nobody"), ("Request-Id", "asked-by-the-client")];
    assert_eq!(shop.ask("GET", "/api/v1/points/quite.unusual%40example.org/balance", &wrong, b"").status, 401);
    assert_eq!(ask("DELETE", path, "").status, 204);
    drop(shop);
    node.stop();
    let verified = Command::new(env!("CARGO_BIN_EXE_meed")).args(["verify", &data]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let logged = std::fs::read_to_string(&log).unwrap();
    check_log(&logged, requests.get() + 1);
    for secret in ["quite.unusual", "4915112345678", "unusual-key", "unusual-token", &code] {
        assert!(!logged.contains(secret), "{secret}: {logged}");
    }
    let root = folder.path().join("data");
    assert!(holds_bytes(&root, b"visible-account"), "the search finds what is there");
    for secret in ["quite.unusual", "4915112345678", "unusual-key", "unusual-token", &code] {
        assert!(!holds_bytes(&root, secret.as_bytes()), "{secret}");
    }
    let node = start(&data);
    let shop = Shop::of(&node.address, "default");
    let lookup = |alias: &str| shop.post_bare("/api/v1/accounts/lookup", json!({"user_identifier": alias}));
    lookup("quite.unusual@example.org").problem(404, "unknown-account");
    assert_eq!(lookup("+4915112345678").expect(200)["account_id"], "visible-account");
    shop.on("quite.unusual%40example.org", "earn", json!({"points": 2})).problem(404, "unknown-account");
}
