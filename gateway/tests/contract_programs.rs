//! The contract of programs, their versions, and of time.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{DAY_MS, SECOND_MS, Shop, Value, at, document, json};

fn program_path(shop: &Shop) -> String {
    format!("/api/v1/programs/{}", shop.program)
}

#[test]
fn the_built_in_program() {
    let shop = Shop::named("default");
    let found = shop.get("/api/v1/programs/default").expect(200);
    assert_eq!(
        (&found["time_zone"], &found["currency"], &found["version"]),
        (&json!("Asia/Jakarta"), &json!("IDR"), &json!(1))
    );
    let earn = |account: &str, amount: &str| shop.done(account, "earn", json!({"amount": amount}));
    assert_eq!(earn("m-1", "150000")["points"], 150);
    assert_eq!(earn("m-2", "999.99")["points"], 0);
    for (account, amount, tier, multiplier) in [
        ("m-3", "5000000.99", "BRONZE", "1"),
        ("m-4", "5000001", "SILVER", "1.25"),
        ("m-5", "15000001", "GOLD", "1.5"),
        ("m-6", "50000001", "PLATINUM", "2"),
    ] {
        let answer = earn(account, amount);
        assert_eq!((&answer["tier"], &answer["tier_multiplier"]), (&json!(tier), &json!(multiplier)), "{amount}");
        assert_eq!(answer["applied_tier"], "BRONZE");
    }
    // 12 months on, to the end of the month, at midnight in Jakarta.
    let answer = shop.done("m-1", "earn", json!({"points": 1}));
    let occurred_at: jiff::Timestamp = answer["occurred_at"].as_str().unwrap().parse().unwrap();
    let day = occurred_at.in_tz("Asia/Jakarta").unwrap().date() + jiff::Span::new().months(12);
    let midnight = (day.last_of_month() + jiff::Span::new().days(1)).in_tz("Asia/Jakarta").unwrap();
    assert_eq!(answer["expires_at"], format!("{:.3}", midnight.timestamp()));
    // Without a header it is the program.
    let bare = shop.ask("GET", "/api/v1/points/m-1/balance", &[], b"").expect(200);
    assert_eq!(bare["program"], "default");
}

#[test]
fn a_program_has_versions() {
    let shop = Shop::open(json!({}));
    let path = program_path(&shop);
    let first = shop.get(&path).expect(200);
    assert_eq!(first["version"], 1);
    for (name, value) in [
        ("tiers", Value::Null),
        ("holds", json!({"default_ttl_seconds": 900, "max_ttl_seconds": 604_800})),
        ("pending", json!({"days": 0})),
        ("negative_balance", json!({"policy": "refuse"})),
        ("auto_enroll", json!(true)),
        ("expiry", json!("none")),
    ] {
        if name != "tiers" {
            assert_eq!(first[name], value, "the default of {name}");
        }
    }
    assert_eq!(first["earning"]["rounding"], "down");
    let same =
        shop.put(&path, document(json!({"auto_enroll": true, "earning": {"per_amount": 1, "points": 1}}))).expect(200);
    assert_eq!(same["version"], 1, "the same by value");
    let second = shop.put(&path, document(json!({"earning": {"points": 3, "per_amount": "1.00"}}))).expect(200);
    assert_eq!(second["version"], 2);
    assert_eq!(shop.get(&path).expect(200)["earning"]["points"], 3);
    assert_eq!(shop.get(&format!("{path}?version=1")).expect(200)["earning"]["points"], 1);
    assert_eq!(shop.get(&format!("{path}?version=2")).expect(200)["version"], 2);
    for version in ["3", "99999999"] {
        let answer = shop.get(&format!("{path}?version={version}"));
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    for version in ["0", "x", "-1", "", "%2B1"] {
        let answer = shop.get(&format!("{path}?version={version}"));
        assert!(matches!(answer.status, 400 | 404), "{answer:?}");
    }
    shop.get("/api/v1/programs/none").problem(404, "unknown-program");
    let back = shop.put(&path, document(json!({}))).expect(200);
    assert_eq!(back["version"], 3, "what differs from the newest is a new version");
}

#[test]
fn an_operation_is_decided_by_the_version_at_its_time() {
    let shop = Shop::open(json!({}));
    let changes = json!({"earning": {"points": 3, "per_amount": "1.00"}, "expiry": {"days": 20000}});
    // Not now: the version may take effect within the same millisecond.
    let before = at(-SECOND_MS);
    shop.done("m-1", "earn", json!({"amount": "1", "occurred_at": before}));
    shop.put(&program_path(&shop), document(changes)).expect(200);
    // What occurred before the version is the first's, the first also for all earlier times.
    for occurred_at in [before.as_str(), "2000-01-01T00:00:00Z"] {
        let earn = shop.done("m-1", "earn", json!({"amount": "1", "occurred_at": occurred_at}));
        assert_eq!((&earn["points"], &earn["expires_at"]), (&json!(1), &Value::Null), "at {occurred_at}");
        let row = shop.get(&format!("/api/v1/points/m-1/transactions/{}", contract::id(&earn))).expect(200);
        assert_eq!(row["explanation"]["program_version"], 1);
    }
    for occurred_at in [at(0), at(60 * SECOND_MS)] {
        let earn = shop.done("m-1", "earn", json!({"amount": "1", "occurred_at": occurred_at}));
        assert_eq!(earn["points"], 3);
        assert!(earn["expires_at"].is_string());
        let row = shop.get(&format!("/api/v1/points/m-1/transactions/{}", contract::id(&earn))).expect(200);
        assert_eq!(row["explanation"]["program_version"], 2);
    }
}

#[test]
fn zone_and_currency_never_change() {
    let shop = Shop::open(json!({}));
    let path = program_path(&shop);
    shop.put(&path, document(json!({"time_zone": "Asia/Jakarta"}))).invalid("time_zone");
    shop.put(&path, document(json!({"currency": "EUR"}))).invalid("currency");
    let named = shop.put(&path, document(json!({"name": "another label"}))).expect(200);
    assert_eq!(named["name"], "another label");
    assert_eq!(named["currency"], "USD");
}

#[test]
fn documents_that_are_refused() {
    let shop = Shop::named("refused-documents").without_check();
    let path = program_path(&shop);
    let level =
        |name: &str, from: &str, multiplier: &str| json!({"name": name, "from": from, "multiplier": multiplier});
    let tiers = |levels: Vec<Value>| json!({"window": "lifetime", "levels": levels});
    let many = (0..21).map(|n| level(&format!("L{n}"), &n.to_string(), "1")).collect();
    for (name, value) in [
        ("time_zone", json!("Mars/Olympus")),
        ("time_zone", Value::Null),
        ("currency", json!("XXY")),
        ("currency", json!("usd")),
        ("name", Value::Null),
        ("earning", Value::Null),
        ("earning", json!({"points": 1})),
        ("earning", json!({"points": -1, "per_amount": "1.00"})),
        ("earning", json!({"points": 1, "per_amount": "0"})),
        ("earning", json!({"points": 1, "per_amount": "0.001"})),
        ("earning", json!({"points": 1, "per_amount": "1.00", "rounding": "away"})),
        ("earning", json!({"points": 1.5, "per_amount": "1.00"})),
        ("tiers", json!({"window": "weekly", "levels": [level("A", "0", "1")]})),
        ("tiers", tiers(vec![])),
        ("tiers", tiers(vec![level("A", "1", "1")])),
        ("tiers", tiers(vec![level("A", "0", "1"), level("B", "5", "1"), level("C", "5", "1")])),
        ("tiers", tiers(vec![level("A", "0", "1"), level("A", "5", "1")])),
        ("tiers", tiers(vec![level("A", "0", "100.0001")])),
        ("tiers", tiers(vec![level("A", "0", "1.00001")])),
        ("tiers", tiers(vec![level("A", "0", "-1")])),
        ("tiers", tiers(many)),
        ("expiry", json!("never")),
        ("expiry", json!({"days": 0})),
        ("expiry", json!({"days": 1, "months": 1})),
        ("expiry", json!({"months": 12, "round_to": "end_of_week"})),
        ("expiry", json!({"round_to": "day"})),
        ("pending", json!({"days": -1})),
        ("negative_balance", json!({"policy": "debt"})),
        ("negative_balance", json!({"policy": "debt", "floor": 1})),
        ("negative_balance", json!({"policy": "refuse", "floor": -1})),
        ("holds", json!({"default_ttl_seconds": 100, "max_ttl_seconds": 99})),
        ("holds", json!({"default_ttl_seconds": 0, "max_ttl_seconds": 99})),
        ("late_days_max", json!(-1)),
        ("auto_enroll", json!("yes")),
        ("colour", json!("red")),
    ] {
        let answer = shop.put(&path, document(json!({name: value})));
        let problem = answer.problem(400, "invalid-request");
        let field = problem["field"].as_str().unwrap();
        assert!(field.starts_with(name), "{name} {value}: {problem}");
    }
    shop.put(&path, "{").problem(400, "invalid-request");
    shop.put("/api/v1/programs/a%20b", document(json!({}))).problem(400, "invalid-request");
    shop.get(&path).problem(404, "unknown-program");
}

#[test]
fn an_unknown_program_is_refused() {
    let shop = Shop::named("nowhere").without_check();
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-program");
    shop.on("m-1", "earn", json!({"points": 1})).problem(404, "unknown-program");
    shop.put("/api/v1/accounts/m-1", "").problem(404, "unknown-program");
    // Syntax comes first.
    shop.on("m-1", "earn", json!({"points": 0})).invalid("points");
    let other = Shop::open(json!({}));
    let malformed = other.ask("GET", "/api/v1/version", &[], b"");
    assert_eq!(malformed.expect(200)["name"], "meed");
}

#[test]
fn lateness_and_the_future_have_bounds() {
    let shop = Shop::open(json!({"late_days_max": 30}));
    let earn = |offset_ms: i64| shop.on("m-1", "earn", json!({"points": 1, "occurred_at": at(offset_ms)}));
    assert_eq!(earn(0).status, 201);
    earn(-31 * DAY_MS).problem(422, "too-late");
    assert_eq!(earn(-30 * DAY_MS + 60 * SECOND_MS).status, 201);
    assert_eq!(earn(290 * SECOND_MS).status, 201);
    earn(310 * SECOND_MS).problem(422, "in-the-future");
    shop.on("m-1", "redeem", json!({"points": 1, "occurred_at": at(-40 * DAY_MS)})).problem(422, "too-late");
    shop.on("m-1", "redeem", json!({"points": 1, "occurred_at": at(400 * SECOND_MS)})).problem(422, "in-the-future");
    // Lateness is judged by the newest version.
    shop.put(&program_path(&shop), document(json!({"late_days_max": 60}))).expect(200);
    assert_eq!(earn(-40 * DAY_MS).status, 201);
    // A late redemption burns what is available now.
    let redeem = shop.done("m-1", "redeem", json!({"points": 4, "occurred_at": at(-50 * DAY_MS)}));
    assert_eq!(redeem["new_balance"], 0);
}

#[test]
fn refusals_have_a_precedence() {
    let shop = Shop::open(json!({"late_days_max": 1}));
    let late = at(-5 * DAY_MS);
    // Syntax and limits before the program; what depends on the program's currency is not one.
    let nowhere = Shop::named("no-such-program");
    nowhere.get("/api/v1/points/m-1/transactions?limit=0").invalid("limit");
    nowhere.get("/api/v1/points/m-1/transactions?limit=1").problem(404, "unknown-program");
    shop.get("/api/v1/points/card:404/transactions?offset=x").invalid("offset");
    for amount in ["150000000", "1000000000000", "0.0001"] {
        nowhere.on("m-1", "earn", json!({"amount": amount})).problem(404, "unknown-program");
    }
    for amount in ["1000000000000.0001", "0.00001"] {
        nowhere.on("m-1", "earn", json!({"amount": amount})).invalid("amount");
    }
    let sale = json!({"store_id": "s", "transaction_id": "1", "user_identifier": "m-1", "amount": "5",
        "timestamp": at(0), "currency": "USD"});
    nowhere.post("/api/v1/pos/transaction", sale).problem(404, "unknown-program");
    // Syntax before the account.
    shop.on("m-1", "redeem", json!({"points": 0})).invalid("points");
    shop.post_bare("/api/v1/points/m-1/redeem", json!({"points": 1})).problem(400, "idempotency-key-missing");
    // The account before everything that follows.
    shop.on("m-1", "redeem", json!({"points": 1, "occurred_at": late})).problem(404, "unknown-account");
    shop.post_key("k", "/api/v1/points/m-1/earn", json!({"points": 1})).expect(201);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "frozen"})).expect(200);
    // The key before the status, the status before the time, the time before amounts.
    shop.post_key("k", "/api/v1/points/m-1/redeem", json!({"points": 1})).problem(422, "idempotency-key-reused");
    shop.on("m-1", "redeem", json!({"points": 9, "occurred_at": late})).problem(409, "account-frozen");
    shop.patch("/api/v1/accounts/m-1", json!({"status": "active"})).expect(200);
    shop.on("m-1", "redeem", json!({"points": 9, "occurred_at": late})).problem(422, "too-late");
    shop.on("m-1", "redeem", json!({"points": 9})).problem(400, "insufficient-points");
    // What the path names beyond the account is looked for with it, before the account's status.
    let earn = shop.earn("m-1", 5);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    shop.on("m-1", "holds/none/capture", json!({})).problem(404, "unknown-hold");
    shop.on("m-1", "transactions/none/reverse", json!({})).problem(404, "unknown-transaction");
    // The status comes before time and amounts.
    shop.try_reverse(&earn, json!({"points": 99, "occurred_at": late})).problem(409, "account-closed");
    shop.patch("/api/v1/accounts/m-1", json!({"status": "active"})).expect(200);
    shop.try_reverse(&earn, json!({"points": 99, "occurred_at": late})).problem(422, "too-late");
    shop.try_reverse(&earn, json!({"points": 99})).problem(400, "exceeds-remaining");
}

#[test]
fn programs_are_apart() {
    let (one, two) =
        (Shop::open(json!({})), Shop::open(json!({"currency": "JPY", "earning": {"points": 1, "per_amount": "100"}})));
    one.earn("m-1", 5);
    two.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
    // The minor digits are the currency's.
    let earn = two.done("m-1", "earn", json!({"amount": "250"}));
    assert_eq!((&earn["points"], &earn["amount"]), (&json!(2), &json!("250")));
    two.on("m-1", "earn", json!({"amount": "250.5"})).invalid("amount");
    assert_eq!(one.points("m-1")[0], 5);
    let three = Shop::open(json!({"currency": "KWD", "earning": {"points": 1, "per_amount": "0.500"}}));
    let earn = three.done("m-1", "earn", json!({"amount": "1.499"}));
    assert_eq!((&earn["points"], &earn["amount"]), (&json!(2), &json!("1.499")));
}
