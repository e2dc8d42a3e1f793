//! The contract of tills and batches.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{Answer, JSON, SECOND_MS, Shop, Value, at, check_operation, check_problem, each, id, json};

fn sale(account: &str, transaction: &str, amount: &str, more: Value) -> Value {
    let mut sale = json!({"store_id": "s-1", "transaction_id": transaction, "user_identifier": account,
        "amount": amount, "timestamp": "2026-01-02T10:00:00+07:00"});
    for (name, value) in more.as_object().unwrap() {
        sale[name] = value.clone();
    }
    sale
}

fn sell(shop: &Shop, sale: Value) -> Answer {
    shop.post_bare("/api/v1/pos/transaction", sale)
}

fn give_back(shop: &Shop, body: Value) -> Answer {
    shop.post_bare("/api/v1/pos/return", body)
}

fn batch(shop: &Shop, items: &[Value]) -> Vec<Value> {
    let answer = shop.post_bare("/api/v1/batch", json!({"items": items})).expect(207);
    let results = answer["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), items.len());
    results
}

#[test]
fn a_sale_is_an_earn_of_the_till() {
    let shop = Shop::open(
        json!({"time_zone": "Asia/Jakarta", "currency": "IDR", "earning": {"points": 1, "per_amount": "1000"}}),
    );
    let answer = sell(
        &shop,
        sale("m-1", "t-1", "150000.00", json!({"terminal_id": "7", "currency": "IDR", "metadata": {"a": 1}})),
    )
    .expect(201);
    check_operation(&answer);
    assert_eq!(
        (&answer["type"], &answer["points"], &answer["amount"]),
        (&json!("EARN"), &json!(150), &json!("150000.00"))
    );
    assert_eq!(answer["occurred_at"], "2026-01-02T03:00:00.000Z");
    assert_eq!(
        (&answer["store_id"], &answer["terminal_id"], &answer["pos_transaction_id"]),
        (&json!("s-1"), &json!("7"), &json!("t-1"))
    );
    assert_eq!((&answer["expires_at"], &answer["activates_at"]), (&Value::Null, &Value::Null));
    assert_eq!((&answer["applied_tier"], &answer["applied_multiplier"]), (&json!("BASE"), &json!("1")));
    assert!(answer.get("redemption").is_none_or(Value::is_null));
    let without = sell(&shop, sale("m-1", "t-1", "150000.00", json!({})));
    assert!(!without.is_replay(), "another terminal");
    assert_eq!(without.expect(201)["terminal_id"], Value::Null);
    assert!(sell(&shop, sale("m-1", "t-1", "150000", json!({}))).is_replay());
    sell(&shop, sale("m-1", "t-1", "150001", json!({}))).problem(422, "idempotency-key-reused");
    // Another account has keys of its own.
    assert!(!sell(&shop, sale("m-2", "t-1", "150001", json!({}))).is_replay());
    shop.points("m-1");
    let row = &shop.rows("m-1")[1];
    assert_eq!((&row["transaction_id"], &row["metadata"]), (&answer["transaction_id"], &json!({"a": 1})));
}

#[test]
fn what_a_sale_refuses() {
    let shop = Shop::open(json!({}));
    for name in ["store_id", "transaction_id", "user_identifier", "amount", "timestamp"] {
        for missing in [false, true] {
            let mut body = sale("m-1", "t-1", "1.00", json!({}));
            if missing {
                body.as_object_mut().unwrap().remove(name);
            } else {
                body[name] = Value::Null;
            }
            sell(&shop, body).invalid(name);
        }
    }
    for (name, value) in [
        ("currency", json!("EUR")),
        ("currency", json!("usd")),
        ("amount", json!("1.001")),
        ("amount", json!("-1")),
        ("timestamp", json!("2026-01-02T10:00:00")),
        ("timestamp", json!("yesterday")),
        ("timestamp", json!(1_767_000_000)),
        ("store_id", json!("s 1")),
        ("store_id", json!("")),
        ("terminal_id", json!("a/b")),
        ("transaction_id", json!("")),
        ("transaction_id", json!("x".repeat(256))),
        ("transaction_id", json!("a\u{1}")),
        ("user_identifier", json!("m 1")),
        ("user_identifier", json!("x".repeat(129))),
        ("redeem_points", json!(0)),
        ("redeem_points", json!("1")),
        ("metadata", json!([])),
        ("metadata", json!({"a": "x".repeat(4096)})),
        ("discount", json!(1)),
        ("points", json!(1)),
    ] {
        sell(&shop, sale("m-1", "t-1", "1.00", json!({name: value}))).invalid(name);
    }
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
}

#[test]
fn a_sale_redeems_first_or_does_nothing() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 50);
    let problem =
        sell(&shop, sale("m-1", "t-1", "100.00", json!({"redeem_points": 51}))).problem(400, "insufficient-points");
    assert_eq!((&problem["available_points"], &problem["requested_points"]), (&json!(50), &json!(51)));
    assert_eq!(shop.balance("m-1")["sequence"], 1);
    // A business key does not remember it.
    let answer = sell(&shop, sale("m-1", "t-1", "100.00", json!({"redeem_points": 50}))).expect(201);
    check_operation(&answer);
    assert_eq!(
        (&answer["type"], &answer["points"], &answer["new_balance"]),
        (&json!("EARN"), &json!(100), &json!(100))
    );
    let redemption = &answer["redemption"];
    assert_eq!(
        (&redemption["points"], &redemption["lots"]),
        (&json!(-50), &json!([{"expires_at": null, "points": 50}]))
    );
    assert!(redemption["redemption_code"].as_str().unwrap().len() >= 10);
    let rows = shop.rows("m-1");
    assert_eq!(each(&rows[..2], "type"), ["EARN", "REDEEM"]);
    assert_eq!(rows[1]["transaction_id"], redemption["transaction_id"]);
    assert_eq!(rows[1]["points"], -50);
    // The redemption of a sale is reversed as any other, and so is its earn.
    let reversal = shop.done(
        "m-1",
        &format!("transactions/{}/reverse", redemption["transaction_id"].as_str().unwrap()),
        json!({}),
    );
    assert_eq!(reversal["points"], 50);
    assert_eq!(shop.reverse(&answer, json!({"amount": "40.00"}))["points"], -40);
    assert_eq!(shop.points("m-1")[0], 110);
    // A new account has nothing to redeem.
    let answer = sell(&shop, sale("m-2", "t-2", "100.00", json!({"redeem_points": 1})));
    assert!(matches!(answer.status, 400 | 404), "{answer:?}");
    shop.get("/api/v1/points/m-2/balance").problem(404, "unknown-account");
}

#[test]
fn a_return_reverses_the_sale_of_its_key() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    let sold = sell(&shop, sale("m-1", "t-1", "100.00", json!({"terminal_id": "7", "redeem_points": 10}))).expect(201);
    let body = |transaction: &str, amount: Value| {
        json!({"store_id": "s-1", "terminal_id": "7", "original_transaction_id": "t-1", "transaction_id": transaction,
            "amount": amount, "timestamp": "2026-01-03T00:00:00Z", "user_identifier": "m-1", "reason": "broken"})
    };
    let first = give_back(&shop, body("r-1", json!("30.00")));
    let value = first.expect(201);
    check_operation(&value);
    assert_eq!((&value["type"], &value["points"]), (&json!("REVERSAL"), &json!(-30)));
    assert_eq!(value["original_transaction_id"], sold["transaction_id"]);
    assert_eq!((&value["reversed_points"], &value["reversed_amount"]), (&json!(30), &json!("30.00")));
    assert_eq!(value["occurred_at"], "2026-01-03T00:00:00.000Z");
    let again = give_back(&shop, body("r-1", json!(30)));
    assert!(again.is_replay());
    assert_eq!(again.body, first.body);
    give_back(&shop, body("r-1", json!("31.00"))).problem(422, "idempotency-key-reused");
    // Its key is one of the same kind as the sale's.
    give_back(&shop, body("t-1", json!("30.00"))).problem(422, "idempotency-key-reused");
    let problem = give_back(&shop, body("r-2", json!("70.01"))).problem(400, "exceeds-remaining");
    assert_eq!(problem["remaining_amount"], "70.00");
    give_back(&shop, body("r-2", json!("70.00"))).expect(201);
    give_back(&shop, body("r-3", json!("1.00"))).problem(409, "nothing-to-reverse");
    let mut other = body("r-4", json!("1.00"));
    other["terminal_id"] = Value::Null;
    give_back(&shop, other).problem(404, "unknown-transaction");
    let mut other = body("r-5", json!("1.00"));
    other["user_identifier"] = json!("m-9");
    give_back(&shop, other).problem(404, "unknown-account");
    let mut other = body("r-6", json!("1.00"));
    other["original_transaction_id"] = Value::Null;
    give_back(&shop, other).invalid("original_transaction_id");
    assert_eq!(shop.points("m-1")[0], 0);
}

#[test]
fn a_batch_answers_each_item_in_order() {
    let shop = Shop::open(json!({}));
    let answer = shop.post_bare("/api/v1/batch", json!({"items": [
        {"op": "earn", "account": "b-1", "idempotency_key": "1", "points": 10},
        {"op": "redeem", "account": "b-1", "idempotency_key": "2", "points": 11},
        {"op": "redeem", "account": "b-1", "reference_id": "x", "points": 4},
        {"op": "nothing", "account": "b-1", "idempotency_key": "3"},
        {"op": "earn", "account": "b-1", "points": 1},
        {"op": "earn", "idempotency_key": "4", "points": 1},
        {"op": "earn", "account": "b-1", "idempotency_key": "4", "points": "x"},
        {"op": "earn", "account": "b/1", "idempotency_key": "4", "points": 1},
        {"op": "earn", "account": "who@example.org", "idempotency_key": "4", "points": 1},
        {"op": "adjust", "account": "b-1", "idempotency_key": "5", "points": -1, "reason": "r"},
        {"op": "pos", "store_id": "s", "transaction_id": "t", "user_identifier": "b-1", "amount": "3", "timestamp": at(0)},
        {"op": "pos_return", "store_id": "s", "original_transaction_id": "t", "transaction_id": "u", "user_identifier": "b-1",
            "amount": "1.00", "timestamp": at(0)},
        {"op": "hold", "account": "b-2", "idempotency_key": "6", "points": 1},
        {"op": "earn", "account": "b-1", "idempotency_key": "7", "points": 1, "colour": "red"},
        {"op": "reverse", "account": "b-1", "idempotency_key": "8", "reverse_transaction_id": "none"},
        {"op": "capture", "account": "b-1", "idempotency_key": "9", "hold_id": "none"},
        {"op": "void", "account": "b-1", "idempotency_key": "10"},
        {"op": "earn", "account": "b-1", "idempotency_key": "1", "points": 10}
    ]}));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let value = answer.expect(207);
    let results = value["results"].as_array().unwrap();
    let expected = [
        (201, "EARN"),
        (400, "insufficient-points"),
        (201, "REDEEM"),
        (400, "invalid-request"),
        (400, "idempotency-key-missing"),
        (400, "invalid-request"),
        (400, "invalid-request"),
        (400, "invalid-request"),
        (404, "unknown-account"),
        (201, "ADJUST"),
        (201, "EARN"),
        (201, "REVERSAL"),
        (404, "unknown-account"),
        (400, "invalid-request"),
        (404, "unknown-transaction"),
        (404, "unknown-hold"),
        (400, "invalid-request"),
        (201, "EARN"),
    ];
    assert_eq!(results.len(), expected.len());
    for (index, (result, (status, name))) in results.iter().zip(expected).enumerate() {
        assert_eq!(result["status"], status, "{index}: {result}");
        assert_eq!(result["replayed"], index == 17, "{index}: {result}");
        let body = &result["body"];
        if status == 201 {
            assert_eq!(body["type"], name);
            check_operation(body);
        } else {
            check_problem(body, status, name);
        }
    }
    for (index, field) in [(3, "op"), (5, "account"), (6, "points"), (7, "account"), (13, "colour"), (16, "hold_id")] {
        assert_eq!(results[index]["body"]["field"], field, "{}", results[index]);
    }
    assert_eq!(results[17]["body"], results[0]["body"]);
    assert_eq!(shop.points("b-1")[0], 10 - 4 - 1 + 3 - 1);
}

#[test]
fn every_operation_through_a_batch() {
    let shop = Shop::open(json!({}));
    let one = |item: Value| batch(&shop, &[item])[0].clone();
    let earn = one(json!({"op": "earn", "account": "b-1", "idempotency_key": "e", "points": 50}));
    let hold = one(json!({"op": "hold", "account": "b-1", "idempotency_key": "h", "points": 20, "ttl_seconds": 60}));
    let captured = one(
        json!({"op": "capture", "account": "b-1", "idempotency_key": "c", "hold_id": hold["body"]["hold_id"], "points": 5}),
    );
    assert_eq!(captured["body"]["points"], -5);
    let hold = one(json!({"op": "hold", "account": "b-1", "idempotency_key": "h2", "points": 20}));
    let voided =
        one(json!({"op": "void", "account": "b-1", "idempotency_key": "v", "hold_id": hold["body"]["hold_id"]}));
    assert_eq!((&voided["status"], &voided["body"]["type"]), (&json!(200), &json!("VOID")));
    let reversed = one(json!({"op": "reverse", "account": "b-1", "idempotency_key": "r",
        "reverse_transaction_id": earn["body"]["transaction_id"], "points": 5}));
    assert_eq!(reversed["body"]["points"], -5);
    assert_eq!(shop.points("b-1"), [40, 40, 0, 0, 0]);
    // On the tills' batch an item is a sale unless it says otherwise; on the other it must say.
    let plain = sale("b-1", "t-1", "2.00", json!({}));
    let results = shop.post_bare("/api/v1/pos/batch", json!({"items": [plain]})).expect(207);
    assert_eq!(results["results"][0]["body"]["points"], 2);
    let refused = one(plain);
    check_problem(&refused["body"], 400, "invalid-request");
    assert_eq!(refused["body"]["field"], "op");
}

#[test]
fn items_of_one_account_run_in_order() {
    let shop = Shop::open(json!({}));
    shop.put("/api/v1/accounts/b-0", "").expect(201);
    shop.put("/api/v1/accounts/b-0/aliases/card:5", "").expect(201);
    let mut items = Vec::new();
    for n in 0..300 {
        let account = if n % 2 == 0 { "b-0" } else { "card:5" };
        items.push(json!({"op": "earn", "account": account, "idempotency_key": format!("e{n}"), "points": 1}));
        items.push(json!({"op": "redeem", "account": account, "idempotency_key": format!("r{n}"), "points": 1}));
        items.push(json!({"op": "earn", "account": format!("b-{}", n % 7 + 1), "idempotency_key": format!("k{n}"), "points": 1}));
    }
    let results = batch(&shop, &items);
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["status"], 201, "{index} {result}");
        let account = match (index % 3, index / 3) {
            (0 | 1, _) => "b-0".to_owned(),
            (_, n) => format!("b-{}", n % 7 + 1),
        };
        assert_eq!(result["body"]["account_id"], account, "{index}");
    }
    let sequences: Vec<i64> = results
        .iter()
        .filter(|result| result["body"]["account_id"] == "b-0")
        .map(|result| result["body"]["sequence"].as_i64().unwrap())
        .collect();
    assert_eq!(sequences, (2..=601).collect::<Vec<_>>());
    assert_eq!(shop.points("b-0"), [0; 5]);
}

#[test]
fn a_batch_of_lines() {
    let shop = Shop::open(json!({}));
    let lines = [
        r#"{"op":"earn","account":"n-1","idempotency_key":"1","points":3}"#,
        r#"{"op":"earn","account":"n-1","#,
        r#"not json"#,
        r#"[1]"#,
        r#"{"op":"earn","account":"n-1","idempotency_key":"2","points":4} trailing"#,
        r#"{"op":"earn","account":"n-1","idempotency_key":"3","points":5,"points":6}"#,
        r#"{"op":"redeem","account":"n-1","idempotency_key":"4","points":1}"#,
    ];
    for (end, separator) in [("\n", "\n"), ("", "\r\n")] {
        let text = lines.join(separator) + end;
        let answer = shop.ask("POST", "/api/v1/batch", &[("Content-Type", "application/x-ndjson")], text.as_bytes());
        assert_eq!(answer.status, 207, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let results: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(results.len(), lines.len());
        for (index, result) in results.iter().enumerate() {
            match index {
                0 | 6 => assert_eq!(
                    (&result["status"], &result["replayed"]),
                    (&json!(201), &json!(end.is_empty())),
                    "{result}"
                ),
                _ => check_problem(&result["body"], 400, "invalid-request"),
            }
        }
        assert_eq!(results[5]["body"]["field"], "points");
    }
    assert_eq!(shop.points("n-1")[0], 2);
    for nothing in ["", "\n", "\r\n\n"] {
        let answer = shop.ask("POST", "/api/v1/batch", &[("Content-Type", "application/x-ndjson")], nothing.as_bytes());
        assert_eq!((answer.status, answer.body.as_str()), (207, ""), "{nothing:?}: no lines, no results");
    }
}

#[test]
fn limits_of_a_batch() {
    let shop = Shop::open(json!({}));
    let item = |n: usize| format!("{{\"op\":\"earn\",\"account\":\"l-{n}\",\"idempotency_key\":\"k\",\"points\":1}}");
    let items = |count: usize| (0..count).map(item).collect::<Vec<_>>();
    let document = |count| format!("{{\"items\":[{}]}}", items(count).join(","));
    shop.post_bare("/api/v1/batch", document(10_001)).problem(413, "payload-too-large");
    let lines = items(10_001).join("\n");
    let ndjson = ("Content-Type", "application/x-ndjson");
    shop.ask("POST", "/api/v1/batch", &[ndjson], lines.as_bytes()).problem(413, "payload-too-large");
    shop.get("/api/v1/points/l-0/balance").problem(404, "unknown-account");
    let large = format!("{{\"items\":[{{\"op\":\"{}\"}}]}}", "x".repeat(8 << 20));
    shop.post_bare("/api/v1/batch", large).problem(413, "payload-too-large");
    let answer = shop.post_bare("/api/v1/pos/batch", document(10_000)).expect(207);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 10_000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!((&result["status"], &result["body"]["account_id"]), (&json!(201), &json!(format!("l-{n}"))));
    }
    assert_eq!(shop.points("l-9999")[0], 1);
}

#[test]
fn a_malformed_document_runs_nothing() {
    let shop = Shop::open(json!({}));
    let good = r#"{"op":"earn","account":"d-1","idempotency_key":"1","points":3}"#;
    for body in [
        format!("{{\"items\":[{good},]}}"),
        format!("{{\"items\":[{good}"),
        format!("{{\"items\":[{good}]}} x"),
        format!("[{good}]"),
        format!("{{\"items\":[{good}],\"more\":1}}"),
        format!("{{\"items\":[{good}],\"items\":[]}}"),
        "{\"items\":{}}".to_owned(),
        "{}".to_owned(),
        String::new(),
        format!("{{\"items\":[{good},{{\"op\":}}]}}"),
    ] {
        let answer = shop.ask("POST", "/api/v1/batch", &[JSON], body.as_bytes());
        answer.problem(400, "invalid-request");
    }
    shop.get("/api/v1/points/d-1/balance").problem(404, "unknown-account");
    let empty = shop.post_bare("/api/v1/batch", json!({"items": []}));
    assert!(matches!(empty.status, 207 | 400), "{empty:?}");
}

#[test]
fn times_of_a_sale_have_bounds() {
    let shop = Shop::open(json!({"late_days_max": 1}));
    sell(&shop, sale("m-1", "t-1", "1.00", json!({"timestamp": at(-2 * 86_400 * SECOND_MS)}))).problem(422, "too-late");
    sell(&shop, sale("m-1", "t-1", "1.00", json!({"timestamp": at(400 * SECOND_MS)}))).problem(422, "in-the-future");
    let sold = sell(&shop, sale("m-1", "t-1", "1.00", json!({"timestamp": at(200 * SECOND_MS)}))).expect(201);
    assert_eq!(sold["points"], 1);
    assert!(!id(&sold).is_empty());
    shop.points("m-1");
}
