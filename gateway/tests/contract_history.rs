//! The contract of history: pages, cursors, rows, explanations, and what a restart keeps.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use contract::{Answer, Shop, Value, document, each, id, json};

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
    let mut child = Command::new(env!("CARGO_BIN_EXE_meed"))
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-level", "error", "--data", data])
        .stdout(Stdio::piped())
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

#[test]
fn an_alias_lies_nowhere_in_the_clear_and_stays_erased() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let node = start(&data);
    let shop = Shop::of(&node.address, "default");
    shop.earn("visible-account", 1);
    let path = "/api/v1/accounts/visible-account/aliases/email:quite.unusual%40example.org";
    shop.put(path, "").expect(201);
    shop.put("/api/v1/accounts/visible-account/aliases/phone:%2B4915112345678", "").expect(201);
    shop.done("quite.unusual%40example.org", "earn", json!({"points": 2}));
    assert_eq!(shop.delete(path).status, 204);
    drop(shop);
    drop(node);
    let root = folder.path().join("data");
    assert!(holds_bytes(&root, b"visible-account"), "the search finds what is there");
    for secret in ["quite.unusual", "4915112345678"] {
        assert!(!holds_bytes(&root, secret.as_bytes()), "{secret}");
    }
    let node = start(&data);
    let shop = Shop::of(&node.address, "default");
    let lookup = |alias: &str| shop.post_bare("/api/v1/accounts/lookup", json!({"user_identifier": alias}));
    lookup("quite.unusual@example.org").problem(404, "unknown-account");
    assert_eq!(lookup("+4915112345678").expect(200)["account_id"], "visible-account");
    shop.on("quite.unusual%40example.org", "earn", json!({"points": 2})).problem(404, "unknown-account");
}
