//! The contract of both key layers, of replays and of outcomes.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{Answer, Shop, Value, check_time, id, json};

const EARN: &str = "/api/v1/points/m-1/earn";
const REDEEM: &str = "/api/v1/points/m-1/redeem";

#[track_caller]
fn same(first: &Answer, again: &Answer) {
    assert!(!first.is_replay(), "{first:?}");
    assert!(again.is_replay(), "{again:?}");
    assert_eq!((first.status, &first.body), (again.status, &again.body));
}

fn outcome(shop: &Shop, rest: &str) -> Answer {
    shop.get(&format!("/api/v1/points/m-1/outcomes{rest}"))
}

#[test]
fn a_replay_is_the_same_bytes_whatever_the_state() {
    let shop = Shop::open(json!({}));
    let body = json!({"points": 10, "reference_id": "o-1"});
    let first = shop.post_key("k-1", EARN, &body);
    shop.earn("m-1", 5);
    shop.done("m-1", "redeem", json!({"points": 15}));
    same(&first, &shop.post_key("k-1", EARN, &body));
    // By either key alone.
    same(&first, &shop.post_bare(EARN, &body));
    // In double quotes it is the same key.
    same(&first, &shop.post_key("\"k-1\"", EARN, &body));
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    same(&first, &shop.post_key("k-1", EARN, &body));
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(shop.points("m-1")[0], 0);
}

#[test]
fn requests_are_compared_by_value() {
    let shop = Shop::open(json!({}));
    let first = shop.post_key(
        "k-1",
        EARN,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00Z","source":"web","description":"a","metadata":{"x":1}}"#,
    );
    assert_eq!(first.status, 201, "{first:?}");
    for body in [
        r#"{"amount":19.9,"occurred_at":"2026-01-01T00:00:00Z","source":"web"}"#,
        r#"{"source":"web","occurred_at":"2026-01-01T07:00:00.0001+07:00","amount":"19.9"}"#,
        r#"{"metadata":{"y":[2]},"description":"b","source":"web","occurred_at":"2025-12-31T23:00:00-01:00","amount":19.90}"#,
        "{\"source\" : \"w\\u0065b\",\n\"points\":null,\"occurred_at\":\"2026-01-01T00:00:00.000000Z\",\"amount\":\"19.90\"}",
    ] {
        same(&first, &shop.post_key("k-1", EARN, body));
    }
    for body in [
        r#"{"amount":"19.91","occurred_at":"2026-01-01T00:00:00Z","source":"web"}"#,
        r#"{"points":19,"occurred_at":"2026-01-01T00:00:00Z","source":"web"}"#,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00.001Z","source":"web"}"#,
        r#"{"amount":"19.90","source":"web"}"#,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00Z","source":"Web"}"#,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00Z"}"#,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00Z","source":"web","reference_id":"o"}"#,
        r#"{"amount":"19.90","occurred_at":"2026-01-01T00:00:00Z","source":"web","expires_at":"2030-01-01T00:00:00Z"}"#,
    ] {
        shop.post_key("k-1", EARN, body).problem(422, "idempotency-key-reused");
    }
    assert_eq!(shop.balance("m-1")["sequence"], 1);
}

#[test]
fn a_key_belongs_to_one_request() {
    let shop = Shop::open(json!({}));
    let earn = shop.post_key("k", EARN, json!({"points": 10})).expect(201);
    shop.post_key("k", REDEEM, json!({"points": 10})).problem(422, "idempotency-key-reused");
    shop.post_key("k", "/api/v1/points/m-1/holds", json!({"points": 10})).problem(422, "idempotency-key-reused");
    let path = format!("/api/v1/points/m-1/transactions/{}/reverse", id(&earn));
    shop.post_key("k", &path, json!({})).problem(422, "idempotency-key-reused");
    // Another account and another program have keys of their own.
    assert!(!shop.post_key("k", "/api/v1/points/m-2/earn", json!({"points": 11})).is_replay());
    let other = Shop::open(json!({}));
    assert!(!other.post_key("k", EARN, json!({"points": 12})).is_replay());
    // The same reversal of two originals are two requests.
    let second = shop.post_key("k2", EARN, json!({"points": 10})).expect(201);
    let path = |earn: &Value| format!("/api/v1/points/m-1/transactions/{}/reverse", id(earn));
    shop.post_key("r", &path(&earn), json!({})).expect(201);
    shop.post_key("r", &path(&second), json!({})).problem(422, "idempotency-key-reused");
}

#[test]
fn a_business_key_has_a_kind_and_a_source() {
    let shop = Shop::open(json!({}));
    let earn = shop.post_bare(EARN, json!({"points": 10, "reference_id": "o-1"})).expect(201);
    let redeem = shop.post_bare(REDEEM, json!({"points": 3, "reference_id": "o-1"})).expect(201);
    assert_eq!((&earn["type"], &redeem["type"]), (&json!("EARN"), &json!("REDEEM")));
    let sourced = shop.post_bare(EARN, json!({"points": 10, "reference_id": "o-1", "source": "web"}));
    assert!(!sourced.is_replay());
    let path = format!("/api/v1/points/m-1/transactions/{}/reverse", id(&earn));
    let reversal = shop.post_bare(&path, json!({"reference_id": "o-1"})).expect(201);
    assert_eq!(reversal["type"], "REVERSAL");
    assert!(shop.post_bare(&path, json!({"reference_id": "o-1"})).is_replay());
    shop.post_bare(EARN, json!({"points": 11, "reference_id": "o-1"})).problem(422, "idempotency-key-reused");
    // References are compared exactly.
    assert!(!shop.post_bare(EARN, json!({"points": 1, "reference_id": "O-1"})).is_replay());
    assert!(!shop.post_bare(EARN, json!({"points": 1, "reference_id": " o-1"})).is_replay());
    assert!(!shop.post_bare(EARN, json!({"points": 1, "reference_id": "é"})).is_replay());
    assert!(!shop.post_bare(EARN, json!({"points": 1, "reference_id": "e\u{301}"})).is_replay());
    // `a` + `bc` is not `ab` + `c`.
    shop.post_bare(EARN, json!({"points": 1, "source": "a", "reference_id": "bc"})).expect(201);
    assert!(!shop.post_bare(EARN, json!({"points": 1, "source": "ab", "reference_id": "c"})).is_replay());
}

#[test]
fn two_keys_that_name_two_outcomes_are_refused() {
    let shop = Shop::open(json!({}));
    shop.post_key("k-1", EARN, json!({"points": 10, "reference_id": "o-1"})).expect(201);
    shop.post_key("k-2", EARN, json!({"points": 10, "reference_id": "o-2"})).expect(201);
    shop.post_key("k-1", EARN, json!({"points": 10, "reference_id": "o-2"})).problem(422, "idempotency-key-reused");
    assert_eq!(shop.points("m-1")[0], 20);
}

#[test]
fn a_retry_binds_its_other_key() {
    let shop = Shop::open(json!({}));
    let body = json!({"points": 10, "reference_id": "o-1"});
    let first = shop.post_bare(EARN, &body);
    same(&first, &shop.post_key("late", EARN, &body));
    // `late` is bound now: with another body it is a reused key.
    shop.post_key("late", EARN, json!({"points": 10, "reference_id": "o-2"})).problem(422, "idempotency-key-reused");
    let bound = outcome(&shop, "/late").expect(200);
    assert_eq!(bound["body"], first.json());
    assert_eq!(shop.balance("m-1")["sequence"], 1);
}

#[test]
fn a_key_remembers_insufficient_points_and_a_business_key_does_not() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 5);
    let body = json!({"points": 10, "reference_id": "o-1"});
    let refused = shop.post_key("k", REDEEM, &body);
    refused.problem(400, "insufficient-points");
    let unkeyed = json!({"points": 10, "reference_id": "o-2"});
    shop.post_bare(REDEEM, &unkeyed).problem(400, "insufficient-points");
    let stored = outcome(&shop, "/k").expect(200);
    assert_eq!((&stored["status"], &stored["body"]), (&json!(400), &refused.json()));
    check_time(&stored["recorded_at"]);
    outcome(&shop, "?op=redeem&reference_id=o-1").problem(404, "unknown-outcome");
    shop.earn("m-1", 20);
    same(&refused, &shop.post_key("k", REDEEM, &body));
    shop.post_key("k", REDEEM, json!({"points": 1, "reference_id": "o-1"})).problem(422, "idempotency-key-reused");
    // By the business key alone it is decided anew.
    assert_eq!(shop.post_bare(REDEEM, &unkeyed).status, 201);
    assert_eq!(shop.post_bare(REDEEM, &body).status, 201);
    // The refusals took no sequence.
    assert_eq!(shop.balance("m-1")["sequence"], 4);
    // Holds and negative adjustments remember it too.
    for what in ["holds", "adjust"] {
        let path = format!("/api/v1/points/m-1/{what}");
        let body = if what == "holds" { json!({"points": 999}) } else { json!({"points": -999, "reason": "r"}) };
        let refused = shop.post_key(what, &path, &body);
        refused.problem(400, "insufficient-points");
        shop.earn("m-1", 2000);
        same(&refused, &shop.post_key(what, &path, &body));
        shop.done("m-1", "redeem", json!({"points": 2000}));
    }
}

#[test]
fn other_refusals_are_decided_anew() {
    let shop = Shop::open(json!({}));
    shop.post_key("k", REDEEM, json!({"points": 1})).problem(404, "unknown-account");
    shop.post_key("e", EARN, json!({"points": 1, "occurred_at": "2099-01-01T00:00:00Z"})).problem(422, "in-the-future");
    // Of an account that is not there yet nothing was executed either.
    outcome(&shop, "/e").problem(404, "unknown-outcome");
    shop.earn("m-1", 5);
    outcome(&shop, "/e").problem(404, "unknown-outcome");
    assert!(!shop.post_key("e", EARN, json!({"points": 2})).is_replay());
    shop.patch("/api/v1/accounts/m-1", json!({"status": "frozen"})).expect(200);
    shop.post_key("k", REDEEM, json!({"points": 1})).problem(409, "account-frozen");
    shop.patch("/api/v1/accounts/m-1", json!({"status": "active"})).expect(200);
    let done = shop.post_key("k", REDEEM, json!({"points": 1}));
    assert_eq!(done.status, 201);
    assert!(!done.is_replay());
}

#[test]
fn one_operation_through_every_endpoint() {
    let shop = Shop::open(json!({}));
    let single = shop.post_key("k-1", EARN, json!({"points": 10, "reference_id": "o-1"})).expect(201);
    let item = json!({"op": "earn", "account": "m-1", "idempotency_key": "k-1", "points": 10, "reference_id": "o-1"});
    let results = shop.post_bare("/api/v1/batch", json!({"items": [item]})).expect(207);
    assert_eq!(results["results"][0], json!({"status": 201, "replayed": true, "body": single}));
    // Both batches take every operation.
    let results = shop.post_bare("/api/v1/pos/batch", json!({"items": [item]})).expect(207);
    assert_eq!(results["results"][0]["replayed"], true);
    let sale = json!({"store_id": "s", "transaction_id": "t-1", "user_identifier": "m-1", "amount": "5.00",
        "timestamp": "2026-01-01T00:00:00Z"});
    let first = shop.post_bare("/api/v1/pos/transaction", &sale).expect(201);
    let results = shop.post_bare("/api/v1/pos/batch", json!({"items": [sale]})).expect(207);
    assert_eq!(results["results"][0], json!({"status": 201, "replayed": true, "body": first}));
    let mut item = sale.clone();
    item["op"] = json!("pos");
    let results = shop.post_bare("/api/v1/batch", json!({"items": [item]})).expect(207);
    assert_eq!(results["results"][0]["body"], first);
    // By an alias as well.
    shop.put("/api/v1/accounts/m-1/aliases/card:77", "").expect(201);
    let aliased = shop.post_key("k-1", "/api/v1/points/card%3A77/earn", json!({"points": 10, "reference_id": "o-1"}));
    assert!(aliased.is_replay());
    assert_eq!(aliased.expect(201), single);
    // Both adjust paths are one operation.
    let adjust = json!({"points": 5, "reason": "r"});
    let first = shop.post_key("a", "/api/v1/points/m-1/adjust", &adjust);
    same(&first, &shop.post_key("a", "/api/v1/admin/points/m-1/adjust", &adjust));
    // And an operation that ran in a batch replays as a single one.
    let hold = json!({"op": "hold", "account": "m-1", "idempotency_key": "h", "points": 2});
    let results = shop.post_bare("/api/v1/batch", json!({"items": [hold]})).expect(207);
    let again = shop.post_key("h", "/api/v1/points/m-1/holds", json!({"points": 2}));
    assert!(again.is_replay());
    assert_eq!(again.expect(201), results["results"][0]["body"]);
}

#[test]
fn without_any_key_nothing_runs() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 10);
    for (what, body) in [
        ("earn", json!({"points": 1})),
        ("earn", json!({"points": 1, "source": "web"})),
        ("redeem", json!({"points": 1})),
        ("adjust", json!({"points": 1, "reason": "r", "reference_id": "x"})),
        ("holds", json!({"points": 1, "reference_id": "x"})),
        ("holds/0-1/capture", json!({"reference_id": "x"})),
        ("holds/0-1/void", json!({})),
    ] {
        shop.post_bare(&format!("/api/v1/points/m-1/{what}"), body).problem(400, "idempotency-key-missing");
    }
    let path = format!("/api/v1/points/m-1/transactions/{}/reverse", id(&earn));
    shop.post_bare(&path, json!({"reason": "x"})).problem(400, "idempotency-key-missing");
    assert_eq!(shop.balance("m-1")["sequence"], 1);
}

#[test]
fn forms_of_a_key() {
    let shop = Shop::open(json!({}));
    let longest = "k".repeat(255);
    for (key, status) in [
        (longest.as_str(), 201),
        ("a b~!\"c", 201),
        ("~", 201),
        ("", 400),
        ("\"\"", 400),
        ("clé", 400),
        ("a\tb", 400),
    ] {
        let answer = shop.post_key(key, EARN, json!({"points": 1}));
        assert_eq!(answer.status, status, "{key} {answer:?}");
    }
    assert_eq!(shop.post_key(&format!("\"{longest}\""), EARN, json!({"points": 1})).status, 201);
    shop.post_key(&"k".repeat(256), EARN, json!({"points": 1})).invalid("Idempotency-Key");
    let twice = shop.ask("POST", EARN, &[("Idempotency-Key", "a"), ("Idempotency-Key", "b")], b"{\"points\":1}");
    twice.invalid("Idempotency-Key");
}

#[test]
fn outcomes_by_key_and_by_business_key() {
    let shop = Shop::open(json!({}));
    let earn = shop.post_key("order/1 ü".split(' ').next().unwrap(), EARN, json!({"points": 10, "reference_id": "o-1", "source": "a&b"}));
    let recorded_at = &earn.json()["recorded_at"];
    let expected = json!({"status": 201, "body": earn.json(), "recorded_at": recorded_at});
    assert_eq!(outcome(&shop, "/order%2F1").expect(200), expected);
    assert_eq!(outcome(&shop, "?op=earn&reference_id=o-1&source=a%26b").expect(200), expected);
    assert_eq!(outcome(&shop, "?source=a%26b&reference_id=o-1&op=earn").expect(200), expected);
    outcome(&shop, "?op=earn&reference_id=o-1").problem(404, "unknown-outcome");
    outcome(&shop, "?op=redeem&reference_id=o-1&source=a%26b").problem(404, "unknown-outcome");
    outcome(&shop, "/none").problem(404, "unknown-outcome");
    shop.get("/api/v1/points/m-9/outcomes/none").problem(404, "unknown-outcome");
    shop.get("/api/v1/points/card:9/outcomes/none").problem(404, "unknown-account");
    let sale = json!({"store_id": "s 1".replace(' ', "-"), "terminal_id": "till-1", "transaction_id": "t+1",
        "user_identifier": "m-1", "amount": "5.00", "timestamp": "2026-01-01T00:00:00Z"});
    let sale = shop.post_bare("/api/v1/pos/transaction", sale).expect(201);
    let found = outcome(&shop, "?op=pos&store_id=s-1&terminal_id=till-1&transaction_id=t%2B1").expect(200);
    assert_eq!(found["body"], sale);
    outcome(&shop, "?op=pos&store_id=s-1&transaction_id=t%2B1").problem(404, "unknown-outcome");
    let path = format!("/api/v1/points/m-1/transactions/{}/reverse", id(&earn.json()));
    let reversal = shop.post_bare(&path, json!({"reference_id": "ret"})).expect(201);
    assert_eq!(outcome(&shop, "?op=reverse&reference_id=ret").expect(200)["body"], reversal);
    for (query, field) in [
        ("?op=hold&reference_id=a", "op"),
        ("?reference_id=a", "op"),
        ("?op=earn", "reference_id"),
        ("?op=pos&store_id=s", "transaction_id"),
        ("?op=pos&transaction_id=s", "store_id"),
        ("?op=earn&reference_id=a&colour=red", "colour"),
        ("?op=earn&op=earn&reference_id=a", "op"),
    ] {
        outcome(&shop, query).invalid(field);
    }
}

#[test]
fn concurrent_retries_are_one_operation() {
    let shop = Shop::open(json!({}));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let client = shop.another();
                scope.spawn(move || {
                    let client = client;
                    (0..20).map(|n| client.post_key(&format!("k{n}"), EARN, json!({"points": 10}))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 201));
    assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 20);
    for answer in &answers {
        assert_eq!(answers.iter().filter(|other| other.body == answer.body).count(), 8);
    }
    assert_eq!(shop.points("m-1")[0], 200);
}

#[test]
fn many_keys_later_the_first_is_still_known() {
    let shop = Shop::open(json!({}));
    let first: Vec<Answer> = (0..30).map(|n| shop.post_key(&format!("k{n}"), EARN, json!({"points": 1, "reference_id": format!("o{n}")}))).collect();
    for (n, first) in first.iter().enumerate() {
        let body = json!({"points": 1, "reference_id": format!("o{n}")});
        same(first, &shop.post_key(&format!("k{n}"), EARN, &body));
        same(first, &shop.post_bare(EARN, &body));
        assert_eq!(outcome(&shop, &format!("/k{n}")).expect(200)["body"], first.json());
        shop.post_key(&format!("k{n}"), EARN, json!({"points": 2})).problem(422, "idempotency-key-reused");
    }
    let crossed = shop.post_key("k3", EARN, json!({"points": 1, "reference_id": "o4"}));
    crossed.problem(422, "idempotency-key-reused");
}

#[test]
fn patch_and_tier_honour_a_key() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    let patch = |key: &str, status: &str| {
        shop.ask("PATCH", "/api/v1/accounts/m-1", &[contract::JSON, ("Idempotency-Key", key)],
            json!({"status": status}).to_string().as_bytes())
    };
    let frozen = patch("p", "frozen");
    assert_eq!(frozen.status, 200, "{frozen:?}");
    patch("q", "active").expect(200);
    same(&frozen, &patch("p", "frozen"));
    assert_eq!(shop.balance("m-1")["status"], "active");
    patch("p", "closed").problem(422, "idempotency-key-reused");
    let tier = |key: &str, tier: Value| {
        shop.ask("PUT", "/api/v1/admin/users/m-1/tier", &[contract::JSON, ("Idempotency-Key", key)],
            json!({"new_tier": tier, "reason": "r"}).to_string().as_bytes())
    };
    let set = tier("t", json!("BASE"));
    assert_eq!(set.status, 200, "{set:?}");
    same(&set, &tier("t", json!("BASE")));
    tier("t", Value::Null).problem(422, "idempotency-key-reused");
}
