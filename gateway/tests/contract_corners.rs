//! Where two rules of the contract meet: debt and returns, tiers and time, clients at once, limits.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{DAY_MS, SECOND_MS, Shop, Value, at, document, id, json, shortly};

fn numbers(value: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| value[*name].as_i64().unwrap_or_else(|| panic!("{name}: {value}"))).collect()
}

#[test]
fn what_comes_back_pays_debt_first() {
    let shop = Shop::open(json!({"negative_balance": {"policy": "debt", "floor": -100}}));
    let earn = shop.earn("m-1", 50);
    let redeem = shop.done("m-1", "redeem", json!({"points": 50}));
    shop.reverse(&earn, json!({}));
    assert_eq!(shop.points("m-1"), [-50, -50, 0, 0, 50]);
    let reversal = shop.reverse(&redeem, json!({"points": 20}));
    assert_eq!(numbers(&reversal, &["points", "new_balance"]), [20, -30]);
    shop.reverse(&redeem, json!({}));
    assert_eq!(shop.points("m-1"), [0; 5]);
    assert_eq!(shop.lots("m-1").len(), 0);
    // A hold that is released after the debt was made pays it too.
    let earn = shop.earn("m-2", 30);
    let hold = shop.done("m-2", "holds", json!({"points": 30}));
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&reversal, &["points", "new_balance", "available_points", "held_points"]), [-30, 0, -30, 30]);
    shop.on("m-2", &format!("holds/{}/void", hold["hold_id"].as_str().unwrap()), json!({})).expect(200);
    assert_eq!(shop.points("m-2"), [0; 5]);
    // So does a positive adjustment, and the spend of a capture is out of it.
    let earn = shop.earn("m-3", 30);
    let hold = shop.done("m-3", "holds", json!({"points": 30}));
    shop.reverse(&earn, json!({}));
    shop.done("m-3", &format!("holds/{}/capture", hold["hold_id"].as_str().unwrap()), json!({"points": 25}));
    assert_eq!(shop.points("m-3"), [-25, -25, 0, 0, 25]);
    shop.done("m-3", "adjust", json!({"points": 26, "reason": "r"}));
    assert_eq!(shop.points("m-3"), [1, 1, 0, 0, 0]);
}

#[test]
fn an_award_past_its_expiry_conserves_points_even_in_debt() {
    let shop = Shop::open(json!({"negative_balance": {"policy": "debt", "floor": -100}, "expiry": {"days": 10}}));
    let earn = shop.earn("m-1", 50);
    shop.done("m-1", "redeem", json!({"points": 50}));
    shop.reverse(&earn, json!({}));
    let old = shop.done("m-1", "earn", json!({"amount": "80.00", "occurred_at": "2024-01-01T00:00:00Z"}));
    assert_eq!(old["points"], 80);
    let balance = shop.balance("m-1");
    // Whether it paid the debt before it went is the program's business; nothing may be made or lost.
    let total = balance["total_points"].as_i64().unwrap();
    assert!(total == 0 || total == -50, "{balance}");
    shop.reverse(&old, json!({}));
}

#[test]
fn an_awards_own_expired_points_are_shared_among_its_lot() {
    let shop = Shop::open(json!({}));
    let expires_at = shortly(600);
    let first = shop.done("m-1", "earn", json!({"amount": "30.00", "expires_at": expires_at}));
    let second = shop.done("m-1", "earn", json!({"amount": "20.00", "expires_at": expires_at}));
    shop.done("m-1", "redeem", json!({"points": 15}));
    shop.earn("m-1", 100);
    shop.until("m-1", |balance| balance["total_points"] == 100);
    // 35 of the lot's 50 expired unspent: both reversals together take the spent 15 from elsewhere.
    let one = shop.reverse(&first, json!({}));
    let two = shop.reverse(&second, json!({}));
    let taken = numbers(&one, &["points"])[0] + numbers(&two, &["points"])[0];
    assert_eq!(taken, -15, "{one} {two}");
    assert_eq!(numbers(&one, &["reversed_points", "shortfall_points"]), [30, 0]);
    assert_eq!(numbers(&two, &["reversed_points", "shortfall_points"]), [20, 0]);
    assert_eq!(shop.points("m-1")[0], 85);
}

#[test]
fn partial_reversals_across_an_expiry_take_what_one_would() {
    let shop = Shop::open(json!({"earning": {"points": 1, "per_amount": "3.00", "rounding": "half_up"}}));
    let expires_at = shortly(900);
    for account in ["whole", "parts"] {
        shop.done(account, "earn", json!({"points": 50}));
    }
    let earns = ["whole", "parts"].map(|account| {
        let earn = shop.done(account, "earn", json!({"amount": "100.00", "expires_at": expires_at}));
        // The award's lot is the first to burn.
        shop.done(account, "redeem", json!({"points": 13}));
        earn
    });
    assert_eq!(earns[0]["points"], 33);
    for account in ["whole", "parts"] {
        shop.until(account, |balance| balance["total_points"] == 50);
    }
    let whole = shop.reverse(&earns[0], json!({}));
    assert_eq!(numbers(&whole, &["points", "reversed_points", "shortfall_points"]), [-13, 33, 0]);
    for _ in 0..7 {
        shop.reverse(&earns[1], json!({"amount": "13.00"}));
    }
    let last = shop.reverse(&earns[1], json!({}));
    assert_eq!(numbers(&last, &["reversed_points"]), [33]);
    assert_eq!(shop.points("parts"), shop.points("whole"));
}

#[test]
fn a_sale_with_redemption_on_a_frozen_account() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 50);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "frozen"})).expect(200);
    let sale = |transaction: &str, redeem: Value| {
        shop.post_bare(
            "/api/v1/pos/transaction",
            json!({"store_id": "s", "transaction_id": transaction,
            "user_identifier": "m-1", "amount": "5.00", "timestamp": at(0), "redeem_points": redeem}),
        )
    };
    sale("t-1", json!(10)).problem(409, "account-frozen");
    assert_eq!(sale("t-2", Value::Null).status, 201);
    assert_eq!(shop.points("m-1")[0], 55);
}

#[test]
fn a_stored_refusal_and_an_executed_business_key_are_two_outcomes() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 5);
    let path = "/api/v1/points/m-1/redeem";
    let body = json!({"points": 10, "reference_id": "o-1"});
    let refused = shop.post_key("k", path, &body);
    refused.problem(400, "insufficient-points");
    shop.earn("m-1", 5);
    let executed = shop.post_bare(path, &body);
    assert_eq!(executed.status, 201);
    shop.post_key("k", path, &body).problem(422, "idempotency-key-reused");
    // Each key alone still leads to its own.
    assert_eq!(shop.post_bare(path, &body).body, executed.body);
    let outcome = shop.get("/api/v1/points/m-1/outcomes/k").expect(200);
    assert_eq!(outcome["body"], refused.json());
    assert_eq!(shop.points("m-1")[0], 0);
}

#[test]
fn clients_at_once_never_overdraw() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 100);
    let executed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|thread| {
                let client = shop.another();
                scope.spawn(move || {
                    let redeem = |n: i32| {
                        let key = format!("{thread}-{n}");
                        client.post_key(&key, "/api/v1/points/m-1/redeem", json!({"points": 3})).status
                    };
                    (0..20).map(redeem).filter(|status| *status == 201).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(executed, 33);
    assert_eq!(shop.points("m-1")[0], 1);
}

#[test]
fn clients_at_once_give_an_alias_one_owner() {
    let shop = Shop::open(json!({}));
    for n in 0..6 {
        shop.earn(&format!("m-{n}"), 1);
    }
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let client = shop.another();
                scope.spawn(move || client.put(&format!("/api/v1/accounts/m-{n}/aliases/card:1"), "").status)
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 5, "{statuses:?}");
}

fn tiered(window: &str) -> Value {
    json!({"tiers": {"window": window, "levels": [
        {"name": "LOW", "from": "0", "multiplier": "1"},
        {"name": "MID", "from": "100.00", "multiplier": "1.5"},
        {"name": "TOP", "from": "1000.00", "multiplier": "2.25"}]}})
}

#[test]
fn a_manual_tier_counts_within_its_time_alone() {
    let shop = Shop::open(tiered("lifetime"));
    shop.done("m-1", "earn", json!({"amount": "150.00"}));
    let until = shortly(700);
    let body = json!({"new_tier": "LOW", "reason": "ceiling", "until": until});
    assert_eq!(shop.put("/api/v1/admin/users/m-1/tier", body).expect(200)["tier"], "LOW");
    let inside = shop.done("m-1", "earn", json!({"amount": "1.00"}));
    assert_eq!((&inside["applied_tier"], &inside["tier"]), (&json!("LOW"), &json!("LOW")));
    shop.until("m-1", |balance| balance["tier"] == "MID");
    let after = shop.done("m-1", "earn", json!({"amount": "1.00"}));
    assert_eq!(after["applied_tier"], "MID");
    // A late operation of that time has the manual tier of that time.
    let late = shop.done("m-1", "earn", json!({"amount": "1.00", "occurred_at": inside["recorded_at"]}));
    assert_eq!((&late["applied_tier"], &late["tier"]), (&json!("LOW"), &json!("MID")));
    let types = shop.types("m-1");
    assert_eq!(types.iter().filter(|kind| *kind == "TIER").count(), 3, "{types:?}");
}

#[test]
fn what_qualifies_is_what_decides() {
    let shop = Shop::open(tiered("calendar_year"));
    let now = jiff::Timestamp::now().in_tz("UTC").unwrap();
    let last_year = format!("{}-06-15T00:00:00Z", now.year() - 1);
    shop.done("m-1", "earn", json!({"amount": "1000.00", "occurred_at": last_year}));
    assert_eq!(shop.balance("m-1")["tier"], "TOP");
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "1000.00");
    shop.done("m-1", "earn", json!({"amount": "5.00"}));
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "1000.00");
    // Two years ago it would be over.
    let before = format!("{}-06-15T00:00:00Z", now.year() - 2);
    shop.done("m-2", "earn", json!({"amount": "1000.00", "occurred_at": before}));
    shop.done("m-2", "earn", json!({"amount": "5.00"}));
    assert_eq!(
        (&shop.balance("m-2")["tier"], &shop.balance("m-2")["qualifying_spend"]),
        (&json!("LOW"), &json!("5.00"))
    );
}

#[test]
fn an_activation_behind_the_expiry_of_the_program_is_refused() {
    let shop = Shop::open(json!({"expiry": {"days": 1}}));
    let answer = shop.on("m-1", "earn", json!({"points": 1, "activates_at": at(10 * DAY_MS)}));
    answer.problem(400, "invalid-request");
    shop.done("m-1", "earn", json!({"points": 1, "activates_at": at(10 * DAY_MS), "expires_at": at(11 * DAY_MS)}));
    assert_eq!(shop.points("m-1"), [0, 0, 1, 0, 0]);
}

#[test]
fn a_pending_lot_and_a_live_one_of_the_same_expiry_become_one() {
    let shop = Shop::open(json!({}));
    let expires_at = at(DAY_MS);
    shop.done("m-1", "earn", json!({"points": 5, "expires_at": expires_at}));
    shop.done("m-1", "earn", json!({"points": 7, "expires_at": expires_at, "activates_at": at(SECOND_MS / 2)}));
    assert_eq!(shop.lots("m-1").len(), 2);
    assert_eq!(shop.balance("m-1")["next_expiry"]["points"], 5);
    shop.until("m-1", |balance| balance["pending_points"] == 0);
    let lots = shop.lots("m-1");
    assert_eq!((lots.len(), &lots[0]["available"]), (1, &json!(12)));
}

#[test]
fn open_holds_have_a_limit() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 5000);
    let item = |n: usize| json!({"op": "hold", "account": "m-1", "idempotency_key": format!("h{n}"), "points": 1});
    let items: Vec<Value> = (0..1024).map(item).collect();
    let results = shop.post_bare("/api/v1/batch", json!({"items": items})).expect(207);
    assert!(results["results"].as_array().unwrap().iter().all(|result| result["status"] == 201));
    let problem = shop.on("m-1", "holds", json!({"points": 1})).problem(422, "limit-exceeded");
    assert_eq!(problem["limit"], "open_holds");
    let holds = shop.get("/api/v1/points/m-1/holds").expect(200)["holds"].clone();
    assert_eq!(holds.as_array().unwrap().len(), 1024);
    // Closing voids them all.
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    assert_eq!(shop.points("m-1"), [5000, 5000, 0, 0, 0]);
}

#[test]
fn a_version_changes_a_tier_and_a_policy_at_once() {
    let shop = Shop::open(tiered("lifetime"));
    shop.done("m-1", "earn", json!({"amount": "150.00"}));
    assert_eq!(shop.balance("m-1")["tier"], "MID");
    let mut changes = tiered("lifetime");
    changes["tiers"]["levels"][1]["from"] = json!("200.00");
    changes["holds"] = json!({"default_ttl_seconds": 5, "max_ttl_seconds": 6});
    shop.put(&format!("/api/v1/programs/{}", shop.program), document(changes)).expect(200);
    assert_eq!(shop.balance("m-1")["tier"], "LOW");
    shop.on("m-1", "holds", json!({"points": 1, "ttl_seconds": 7})).invalid("ttl_seconds");
    assert_eq!(shop.done("m-1", "redeem", json!({"points": 1}))["tier"], "LOW");
}

#[test]
fn a_return_is_found_by_its_key_and_judged_by_its_time() {
    let shop = Shop::open(json!({"late_days_max": 30}));
    let sale = json!({"store_id": "s", "transaction_id": "t", "user_identifier": "m-1", "amount": "10.00", "timestamp": at(0)});
    let sold = shop.post_bare("/api/v1/pos/transaction", &sale).expect(201);
    let back = |transaction: &str, timestamp: String| {
        shop.post_bare(
            "/api/v1/pos/return",
            json!({"store_id": "s", "original_transaction_id": "t",
            "transaction_id": transaction, "user_identifier": "m-1", "amount": "4.00", "timestamp": timestamp}),
        )
    };
    back("r", at(400 * SECOND_MS)).problem(422, "in-the-future");
    back("r", at(-31 * DAY_MS)).problem(422, "too-late");
    let returned = back("r", at(0)).expect(201);
    assert_eq!(returned["original_transaction_id"], id(&sold));
    let outcome = shop.get("/api/v1/points/m-1/outcomes?op=pos&store_id=s&transaction_id=r").expect(200);
    assert_eq!(outcome["body"], returned);
    shop.points("m-1");
}

#[test]
fn a_positive_adjustment_is_a_lot_like_an_award_of_now() {
    let shop = Shop::open(json!({"pending": {"days": 2}, "expiry": {"days": 30}}));
    let earn = shop.earn("m-1", 5);
    let adjust = shop.done("m-1", "adjust", json!({"points": 7, "reason": "r"}));
    assert_eq!(numbers(&adjust, &["points", "pending_points", "new_balance"]), [7, 12, 0]);
    let lots = shop.lots("m-1");
    assert_eq!((lots.len(), &lots[0]["expires_at"]), (1, &earn["expires_at"]));
}

#[test]
fn a_reversal_never_takes_pending_points_of_other_awards() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 10);
    shop.done("m-1", "redeem", json!({"points": 10}));
    shop.done("m-1", "earn", json!({"points": 20, "activates_at": at(DAY_MS)}));
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&reversal, &["points", "shortfall_points", "pending_points"]), [0, 10, 20]);
}

#[test]
fn closed_means_tiers_too() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    let tier = shop.put("/api/v1/admin/users/m-1/tier", json!({"new_tier": "BASE", "reason": "r"}));
    tier.problem(409, "account-closed");
    shop.put("/api/v1/accounts/m-1", "").expect(200);
    assert_eq!(shop.get("/api/v1/accounts/m-1").expect(200)["status"], "closed");
    shop.rows("m-1");
}

#[test]
fn an_alias_names_the_account_of_an_alias_and_of_an_outcome() {
    let shop = Shop::open(json!({}));
    shop.post_key("k", "/api/v1/points/m-1/earn", json!({"points": 10})).expect(201);
    shop.put("/api/v1/accounts/m-1/aliases/card:1", "").expect(201);
    shop.put("/api/v1/accounts/card:1/aliases/card:2", "").expect(201);
    let list = shop.get("/api/v1/accounts/card%3A2/aliases").expect(200);
    assert_eq!((&list["account_id"], list["aliases"].as_array().unwrap().len()), (&json!("m-1"), 2));
    assert_eq!(shop.get("/api/v1/points/card:2/outcomes/k").expect(200)["body"]["points"], 10);
    shop.patch("/api/v1/accounts/card:2", json!({"status": "frozen"})).expect(200);
    assert_eq!(shop.balance("m-1")["status"], "frozen");
    assert_eq!(shop.delete("/api/v1/accounts/card:2/aliases/card:1").status, 204);
    assert_eq!(shop.delete("/api/v1/accounts/card:2/aliases/card:2").status, 204);
    shop.get("/api/v1/points/card:2/balance").problem(404, "unknown-account");
}

#[test]
fn bounds_of_a_document_are_within() {
    let level = |n: i64| json!({"name": format!("L{n}"), "from": format!("{n}.00"), "multiplier": if n % 2 == 0 { "0" } else { "100.0000" }});
    let levels: Vec<Value> = (0..20).map(level).collect();
    let shop = Shop::open(json!({"tiers": {"window": "lifetime", "levels": levels}, "late_days_max": 0,
        "negative_balance": {"policy": "debt", "floor": 0}, "holds": {"default_ttl_seconds": 1, "max_ttl_seconds": 1}}));
    let first = shop.done("m-1", "earn", json!({"amount": "1.00"}));
    assert_eq!((&first["points"], &first["tier"]), (&json!(0), &json!("L1")));
    let second = shop.done("m-1", "earn", json!({"amount": "1.00"}));
    assert_eq!((&second["points"], &second["applied_tier"]), (&json!(100), &json!("L1")));
    shop.on("m-1", "earn", json!({"points": 1, "occurred_at": at(-60 * SECOND_MS)})).problem(422, "too-late");
}

#[test]
fn a_batch_takes_no_key_and_null_is_absent() {
    let shop = Shop::open(json!({}));
    let items = json!({"items": [
        {"op": null, "store_id": "s", "transaction_id": "t", "user_identifier": "m-1", "amount": "2", "timestamp": at(0), "idempotency_key": null},
        {"op": "earn", "account": "m-1", "idempotency_key": "\"q\"", "points": 1}
    ]});
    let first = shop.post_key("k", "/api/v1/pos/batch", &items).expect(207);
    let again = shop.post_key("k", "/api/v1/pos/batch", &items);
    assert!(!again.is_replay());
    let again = again.expect(207);
    for (first, again) in first["results"].as_array().unwrap().iter().zip(again["results"].as_array().unwrap()) {
        assert_eq!((&first["status"], &first["body"]), (&json!(201), &again["body"]));
        assert_eq!((&first["replayed"], &again["replayed"]), (&json!(false), &json!(true)));
    }
    assert!(shop.post_key("q", "/api/v1/points/m-1/earn", json!({"points": 1})).is_replay());
}
