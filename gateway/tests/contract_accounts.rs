//! The contract of accounts, adjustments, tiers and aliases.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{DAY_MS, SECOND_MS, Shop, Value, at, check_time, each, json, shortly};

#[test]
fn an_account_is_opened_read_and_opened_again() {
    let shop = Shop::open(json!({}));
    let opened = shop.put("/api/v1/accounts/m-1", "").expect(201);
    assert_eq!(opened["account_id"], "m-1");
    shop.put("/api/v1/accounts/m-1", "{}").expect(200);
    let account = shop.get("/api/v1/accounts/m-1").expect(200);
    assert_eq!(
        (&account["status"], &account["tier"], &account["sequence"]),
        (&json!("active"), &json!("BASE"), &json!(1))
    );
    check_time(&account["created_at"]);
    assert!(account["counts"].is_object());
    assert_eq!(shop.points("m-1"), [0; 5]);
    assert_eq!(shop.types("m-1"), ["OPEN"]);
    shop.earn("m-1", 1);
    assert_eq!(shop.get("/api/v1/accounts/m-1").expect(200)["counts"], json!({"OPEN": 1, "EARN": 1}));
    // One that its first earn opened has no OPEN.
    shop.earn("m-2", 1);
    assert_eq!(shop.types("m-2"), ["EARN"]);
    shop.put("/api/v1/accounts/m-2", "").expect(200);
    shop.get("/api/v1/accounts/m-3").problem(404, "unknown-account");
    shop.patch("/api/v1/accounts/m-3", json!({"status": "frozen"})).problem(404, "unknown-account");
    shop.put("/api/v1/accounts/m-4", json!({"name": "x"})).invalid("name");
}

#[test]
fn without_enrolment_accounts_are_opened_first() {
    let shop = Shop::open(json!({"auto_enroll": false}));
    shop.on("m-1", "earn", json!({"points": 1})).problem(404, "unknown-account");
    let sale =
        json!({"store_id": "s", "transaction_id": "t", "user_identifier": "m-1", "amount": "1", "timestamp": at(0)});
    shop.post_bare("/api/v1/pos/transaction", &sale).problem(404, "unknown-account");
    shop.put("/api/v1/accounts/m-1", "").expect(201);
    shop.earn("m-1", 1);
    // A refusal is not remembered.
    assert_eq!(shop.post_bare("/api/v1/pos/transaction", &sale).status, 201);
}

#[test]
fn frozen_refuses_what_spends() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 100);
    let hold = shop.done("m-1", "holds", json!({"points": 10}));
    let second = shop.done("m-1", "holds", json!({"points": 10}));
    let status = shop.patch("/api/v1/accounts/m-1", json!({"status": "frozen", "reason": "lost card"})).expect(200);
    assert_eq!(status["account_id"], "m-1");
    assert_eq!(shop.balance("m-1")["status"], "frozen");
    let (hold, second) = (hold["hold_id"].as_str().unwrap(), second["hold_id"].as_str().unwrap());
    shop.on("m-1", "redeem", json!({"points": 1})).problem(409, "account-frozen");
    shop.on("m-1", "holds", json!({"points": 1})).problem(409, "account-frozen");
    shop.on("m-1", &format!("holds/{hold}/capture"), json!({})).problem(409, "account-frozen");
    shop.done("m-1", "earn", json!({"points": 5}));
    shop.done("m-1", "adjust", json!({"points": -1, "reason": "r"}));
    shop.reverse(&earn, json!({"points": 1}));
    shop.on("m-1", &format!("holds/{second}/void"), json!({})).expect(200);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "active"})).expect(200);
    shop.done("m-1", &format!("holds/{hold}/capture"), json!({}));
    let row = shop.rows("m-1").into_iter().find(|row| row["type"] == "STATUS").unwrap();
    assert_eq!((&row["points"], &row["type"]), (&json!(0), &json!("STATUS")));
}

#[test]
fn closed_refuses_all_but_reads() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"points": 100, "expires_at": shortly(700)}));
    let redeem = shop.done("m-1", "redeem", json!({"points": 1}));
    let hold = shop.done("m-1", "holds", json!({"points": 10}));
    shop.put("/api/v1/accounts/m-1/aliases/card:1", "").expect(201);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "closed"})).expect(200);
    assert_eq!(shop.points("m-1"), [99, 99, 0, 0, 0], "closing voids open holds");
    let types = shop.types("m-1");
    assert!(types.contains(&"VOID".to_owned()) && types.contains(&"STATUS".to_owned()), "{types:?}");
    for (what, body) in [
        ("earn", json!({"points": 1})),
        ("redeem", json!({"points": 1})),
        ("adjust", json!({"points": 1, "reason": "r"})),
        ("holds", json!({"points": 1})),
    ] {
        shop.on("m-1", what, body).problem(409, "account-closed");
    }
    shop.try_reverse(&earn, json!({})).problem(409, "account-closed");
    shop.try_reverse(&redeem, json!({})).problem(409, "account-closed");
    let sale =
        json!({"store_id": "s", "transaction_id": "t", "user_identifier": "m-1", "amount": "1", "timestamp": at(0)});
    shop.post_bare("/api/v1/pos/transaction", sale).problem(409, "account-closed");
    shop.put("/api/v1/accounts/m-1/aliases/card:2", "").problem(409, "account-closed");
    assert_eq!(shop.delete("/api/v1/accounts/m-1/aliases/card:1").status, 204, "personal data can always go");
    let hold = hold["hold_id"].as_str().unwrap();
    shop.on("m-1", &format!("holds/{hold}/void"), json!({})).expect(200);
    assert_eq!(shop.balance("m-1")["status"], "closed");
    // Points expire as they would.
    shop.until("m-1", |balance| balance["total_points"] == 0);
    shop.patch("/api/v1/accounts/m-1", json!({"status": "active"})).expect(200);
    shop.earn("m-1", 1);
    for (body, field) in
        [(json!({"status": "gone"}), "status"), (json!({}), "status"), (json!({"status": "active", "x": 1}), "x")]
    {
        shop.patch("/api/v1/accounts/m-1", body).invalid(field);
    }
}

#[test]
fn adjustments_of_both_signs_on_both_paths() {
    let shop = Shop::open(json!({"expiry": {"days": 10}, "tiers": {"window": "lifetime",
        "levels": [{"name": "ONLY", "from": "0", "multiplier": "3"}]}}));
    shop.on("m-1", "adjust", json!({"points": 1, "reason": "r"})).problem(404, "unknown-account");
    shop.earn("m-1", 10);
    let plus = shop.done("m-1", "adjust", json!({"points": 20, "reason": "sorry", "reference_id": "case-1"}));
    assert_eq!((&plus["type"], &plus["points"]), (&json!("ADJUST"), &json!(20)));
    // A lot like an award of now: it shares the earn's.
    assert_eq!(shop.lots("m-1").len(), 1);
    let given = at(2 * DAY_MS);
    shop.done("m-1", "adjust", json!({"points": 5, "reason": "r", "expires_at": given}));
    assert_eq!(shop.lots("m-1")[0]["expires_at"], given);
    let minus = shop.post("/api/v1/admin/points/m-1/adjust", json!({"points": -7, "reason": "r"})).expect(201);
    assert_eq!((&minus["type"], &minus["points"], &minus["new_balance"]), (&json!("ADJUST"), &json!(-7), &json!(28)));
    assert_eq!(shop.lots("m-1").len(), 1, "the earliest expiry goes first");
    let problem = shop.on("m-1", "adjust", json!({"points": -29, "reason": "r"})).problem(400, "insufficient-points");
    assert_eq!((&problem["available_points"], &problem["requested_points"]), (&json!(28), &json!(29)));
    assert_eq!(shop.points("m-1")[0], 28);
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "0.00");
    shop.on("m-1", "adjust", json!({"points": 0, "reason": "r"})).invalid("points");
    let row = &shop.rows("m-1")[0];
    assert_eq!((&row["type"], &row["reference_id"]), (&json!("ADJUST"), &Value::Null));
    assert_eq!(shop.rows("m-1")[2]["reference_id"], "case-1");
}

#[test]
fn a_negative_adjustment_goes_to_the_floor_as_a_whole() {
    let shop = Shop::open(json!({"negative_balance": {"policy": "debt", "floor": -50}}));
    shop.earn("m-1", 10);
    shop.on("m-1", "adjust", json!({"points": -61, "reason": "r"})).problem(400, "insufficient-points");
    let adjust = shop.done("m-1", "adjust", json!({"points": -60, "reason": "r"}));
    assert_eq!((&adjust["points"], &adjust["new_balance"]), (&json!(-60), &json!(-50)));
    assert_eq!(shop.points("m-1"), [-50, -50, 0, 0, 50]);
    shop.done("m-1", "adjust", json!({"points": 70, "reason": "r"}));
    assert_eq!(shop.points("m-1"), [20, 20, 0, 0, 0]);
}

fn tiered(window: &str) -> Value {
    json!({"tiers": {"window": window, "levels": [
        {"name": "LOW", "from": "0", "multiplier": "1"},
        {"name": "MID", "from": "100.00", "multiplier": "1.5"},
        {"name": "TOP", "from": "1000.00", "multiplier": "2.25"}]}})
}

fn spend(shop: &Shop, account: &str, amount: &str, occurred_at: &str) -> Value {
    shop.done(account, "earn", json!({"amount": amount, "occurred_at": occurred_at}))
}

#[test]
fn a_lifetime_tier_counts_all_months_up_to_the_operation() {
    let shop = Shop::open(tiered("lifetime"));
    let first = spend(&shop, "m-1", "99.99", "2020-01-15T00:00:00Z");
    assert_eq!((&first["tier"], &first["points"]), (&json!("LOW"), &json!(99)));
    let second = spend(&shop, "m-1", "0.01", "2020-02-15T00:00:00Z");
    // The multiplier is that of before; the tier that of after.
    assert_eq!(
        (&second["applied_tier"], &second["tier"], &second["tier_multiplier"]),
        (&json!("LOW"), &json!("MID"), &json!("1.5"))
    );
    let third = spend(&shop, "m-1", "900.00", "2020-03-15T00:00:00Z");
    assert_eq!(
        (&third["points"], &third["applied_multiplier"], &third["tier"]),
        (&json!(1350), &json!("1.5"), &json!("TOP"))
    );
    // A late operation is judged at its own time: months after it do not count, a month counts whole.
    let late = spend(&shop, "m-1", "10.00", "2020-01-20T00:00:00Z");
    assert_eq!((&late["applied_tier"], &late["tier"]), (&json!("LOW"), &json!("TOP")));
    let late = spend(&shop, "m-1", "10.00", "2020-01-01T00:00:00Z");
    assert_eq!(late["applied_tier"], "MID", "the month has 109.99 by now");
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "1020.00");
    assert_eq!(shop.types("m-1").iter().filter(|kind| *kind == "TIER").count(), 2);
    let redeem = shop.done("m-1", "redeem", json!({"points": 1000}));
    assert_eq!(redeem["tier"], "TOP", "redeeming never lowers a tier");
    // Points without an amount are no spend.
    shop.earn("m-1", 5000);
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "1020.00");
}

#[test]
fn a_rolling_tier_counts_thirteen_months() {
    let shop = Shop::open(tiered("rolling_12_months"));
    spend(&shop, "m-1", "100.00", "2020-01-31T23:59:59.999Z");
    for (occurred_at, applied) in [
        ("2019-12-31T23:59:59.999Z", "LOW"),
        ("2020-01-01T00:00:00Z", "MID"),
        ("2021-01-31T23:59:59.999Z", "MID"),
        ("2021-02-01T00:00:00Z", "LOW"),
    ] {
        assert_eq!(spend(&shop, "m-1", "0", occurred_at)["applied_tier"], applied, "at {occurred_at}");
    }
    assert_eq!(shop.balance("m-1")["tier"], "LOW");
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "0.00");
}

#[test]
fn a_calendar_tier_is_kept_to_the_end_of_the_next_year() {
    let shop = Shop::open(tiered("calendar_year"));
    spend(&shop, "m-1", "60.00", "2020-03-01T00:00:00Z");
    spend(&shop, "m-1", "40.00", "2020-06-30T00:00:00Z");
    for (occurred_at, applied) in [
        ("2020-05-31T00:00:00Z", "LOW"),
        ("2020-06-01T00:00:00Z", "MID"),
        ("2020-12-31T00:00:00Z", "MID"),
        ("2021-12-31T23:59:59Z", "MID"),
        ("2022-01-01T00:00:00Z", "LOW"),
    ] {
        assert_eq!(spend(&shop, "m-1", "0", occurred_at)["applied_tier"], applied, "at {occurred_at}");
    }
    // Two years do not add up: 60 and 60 are no 100.
    spend(&shop, "m-2", "60.00", "2020-03-01T00:00:00Z");
    spend(&shop, "m-2", "60.00", "2021-03-01T00:00:00Z");
    assert_eq!(spend(&shop, "m-2", "0", "2021-04-01T00:00:00Z")["applied_tier"], "LOW");
}

#[test]
fn months_of_spend_are_those_of_the_zone() {
    let mut changes = tiered("rolling_12_months");
    changes["time_zone"] = json!("Asia/Jakarta");
    let shop = Shop::open(changes);
    // Already February in Jakarta.
    spend(&shop, "m-1", "100.00", "2020-01-31T17:00:00Z");
    assert_eq!(spend(&shop, "m-1", "0", "2020-01-31T16:59:59Z")["applied_tier"], "LOW");
    assert_eq!(spend(&shop, "m-1", "0", "2020-01-31T17:00:01Z")["applied_tier"], "MID");
    assert_eq!(spend(&shop, "m-1", "0", "2021-02-28T16:59:59Z")["applied_tier"], "MID");
    assert_eq!(spend(&shop, "m-1", "0", "2021-02-28T17:00:00Z")["applied_tier"], "LOW");
}

#[test]
fn a_tier_record_tells_a_change() {
    let shop = Shop::open(tiered("lifetime"));
    let earn = shop.done("m-1", "earn", json!({"amount": "1000.00"}));
    assert_eq!((&earn["tier"], &earn["sequence"]), (&json!("TOP"), &json!(1)));
    let rows = shop.rows("m-1");
    assert_eq!((&rows[0]["type"], &rows[0]["points"], &rows[0]["tier"]), (&json!("TIER"), &json!(0), &json!("TOP")));
    shop.reverse(&earn, json!({"amount": "950.00"}));
    assert_eq!(shop.types("m-1"), ["EARN", "TIER", "REVERSAL", "TIER"]);
    assert_eq!(shop.balance("m-1")["tier"], "LOW");
}

#[test]
fn a_manual_tier_is_a_floor_or_a_ceiling() {
    let shop = Shop::open(tiered("lifetime"));
    let tier = |body: Value| shop.put("/api/v1/admin/users/m-1/tier", body);
    tier(json!({"new_tier": "MID", "reason": "r"})).problem(404, "unknown-account");
    shop.done("m-1", "earn", json!({"amount": "1.00"}));
    tier(json!({"new_tier": "GOLD", "reason": "r"})).invalid("new_tier");
    let set = tier(json!({"new_tier": "MID", "reason": "friend"})).expect(200);
    assert_eq!((&set["updated"], &set["tier"]), (&json!(true), &json!("MID")));
    let earn = shop.done("m-1", "earn", json!({"amount": "10.00"}));
    assert_eq!((&earn["applied_tier"], &earn["points"]), (&json!("MID"), &json!(15)));
    // From its recorded instant on, not before.
    let before = shop.done("m-1", "earn", json!({"amount": "10.00", "occurred_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(before["applied_tier"], "LOW");
    // Below the earned tier it is a ceiling.
    shop.done("m-1", "earn", json!({"amount": "2000.00"}));
    assert_eq!(shop.balance("m-1")["tier"], "TOP", "a floor holds nobody down");
    assert_eq!(tier(json!({"new_tier": "LOW", "reason": "fraud"})).expect(200)["tier"], "LOW");
    assert_eq!(shop.balance("m-1")["tier"], "LOW");
    assert_eq!(tier(json!({"new_tier": null, "reason": "r"})).expect(200)["tier"], "TOP");
    tier(json!({"reason": "r"})).invalid("new_tier");
    // With an end.
    let until = at(SECOND_MS);
    assert_eq!(tier(json!({"new_tier": "MID", "reason": "r", "until": until})).expect(200)["tier"], "MID");
    shop.until("m-1", |balance| balance["tier"] == "TOP");
}

#[test]
fn aliases_are_normalized_and_looked_up() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    for (alias, lookups) in [
        ("phone:%2B62%20812-3456", ["phone:+628123456", "+62 812 3456", "+62-812-3456", "phone:+62812-3456"]),
        ("email:Ann%40Example.ORG", ["ann@example.org", "ANN@EXAMPLE.ORG", "email:ann@example.org", "Ann@Example.org"]),
        ("card:AB12", ["card:AB12", "card:AB12", "card:AB12", "card:AB12"]),
        ("badge:x_1", ["badge:x_1", "badge:x_1", "badge:x_1", "badge:x_1"]),
    ] {
        let path = format!("/api/v1/accounts/m-1/aliases/{alias}");
        let put = shop.put(&path, "");
        assert_eq!(put.status, 201, "{alias} {put:?}");
        shop.put(&path, "").expect(200);
        for identifier in lookups {
            let found = shop.post_bare("/api/v1/accounts/lookup", json!({"user_identifier": identifier}));
            assert_eq!(found.expect(200), json!({"account_id": "m-1"}), "{identifier}");
        }
    }
    let list = shop.get("/api/v1/accounts/m-1/aliases").expect(200);
    let mut aliases: Vec<&str> =
        list["aliases"].as_array().unwrap().iter().map(|alias| alias.as_str().unwrap()).collect();
    aliases.sort_unstable();
    assert_eq!(aliases, ["badge:x_1", "card:AB12", "email:ann@example.org", "phone:+628123456"]);
    let lookup = |identifier: &str| shop.post_bare("/api/v1/accounts/lookup", json!({"user_identifier": identifier}));
    assert_eq!(lookup("m-1").expect(200), json!({"account_id": "m-1"}));
    lookup("m-9").problem(404, "unknown-account");
    lookup("nobody@example.org").problem(404, "unknown-account");
    lookup("phone:12").invalid("user_identifier");
    shop.post_bare("/api/v1/accounts/lookup", "{}").invalid("user_identifier");
    shop.put("/api/v1/accounts/none/aliases/card:9", "").problem(404, "unknown-account");
    shop.get("/api/v1/accounts/none/aliases").problem(404, "unknown-account");
    for alias in ["plain", "phone:abc", "card:", "Loud:x", "card:a%20b!"] {
        let answer = shop.put(&format!("/api/v1/accounts/m-1/aliases/{alias}"), "");
        answer.problem(400, "invalid-request");
    }
}

#[test]
fn an_alias_has_one_owner() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    shop.earn("m-2", 20);
    shop.put("/api/v1/accounts/m-1/aliases/card:1", "").expect(201);
    shop.put("/api/v1/accounts/m-2/aliases/card:1", "").problem(409, "alias-taken");
    // Another program has aliases of its own.
    let other = Shop::open(json!({}));
    other.earn("m-5", 1);
    other.put("/api/v1/accounts/m-5/aliases/card:1", "").expect(201);
    assert_eq!(shop.delete("/api/v1/accounts/m-2/aliases/card:1").status, 204);
    let lookup = || shop.post_bare("/api/v1/accounts/lookup", json!({"user_identifier": "card:1"}));
    assert_eq!(lookup().expect(200)["account_id"], "m-1", "another account's alias is not deleted");
    let deleted = shop.delete("/api/v1/accounts/m-1/aliases/card:1");
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    assert_eq!(shop.delete("/api/v1/accounts/m-1/aliases/card:1").status, 204);
    lookup().problem(404, "unknown-account");
    assert_eq!(shop.get("/api/v1/accounts/m-1/aliases").expect(200)["aliases"], json!([]));
    shop.put("/api/v1/accounts/m-2/aliases/card:1", "").expect(201);
    assert_eq!(lookup().expect(200)["account_id"], "m-2");
    // At most 16.
    for n in 100..115 {
        shop.put(&format!("/api/v1/accounts/m-2/aliases/card:{n}"), "").expect(201);
    }
    let problem = shop.put("/api/v1/accounts/m-2/aliases/card:17", "").problem(422, "limit-exceeded");
    assert_eq!(problem["limit"], "aliases");
    assert!(problem["detail"].as_str().unwrap().contains("Remove one first"), "{problem}");
    shop.put("/api/v1/accounts/m-2/aliases/card:1", "").expect(200);
    shop.delete("/api/v1/accounts/m-2/aliases/card:1");
    shop.put("/api/v1/accounts/m-2/aliases/card:17", "").expect(201);
}

#[test]
fn an_alias_stands_wherever_an_account_does() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 100);
    shop.put("/api/v1/accounts/m-1/aliases/email:a%40b.org", "").expect(201);
    let alias = "a%40B.org";
    assert_eq!(shop.balance(alias)["account_id"], "m-1");
    let earn = shop.done(alias, "earn", json!({"points": 5}));
    assert_eq!(earn["account_id"], "m-1");
    shop.done(alias, "redeem", json!({"points": 5}));
    shop.done("email%3Aa%40b.org", "adjust", json!({"points": 5, "reason": "r"}));
    let hold = shop.done("a@b.org", "holds", json!({"points": 5}));
    shop.on(alias, &format!("holds/{}/void", hold["hold_id"].as_str().unwrap()), json!({})).expect(200);
    shop.done(alias, &format!("transactions/{}/reverse", contract::id(&earn)), json!({}));
    assert_eq!(each(&shop.rows(alias), "account_id").iter().filter(|account| **account != "m-1").count(), 0);
    let account = shop.get(&format!("/api/v1/accounts/{alias}"));
    assert_eq!(account.expect(200)["account_id"], "m-1");
    let tier = shop.put(&format!("/api/v1/admin/users/{alias}/tier"), json!({"new_tier": "BASE", "reason": "r"}));
    assert_eq!(tier.status, 200, "{tier:?}");
    let item = json!({"op": "earn", "account": "A@b.org", "idempotency_key": "x", "points": 1});
    let results = shop.post_bare("/api/v1/batch", json!({"items": [item]})).expect(207);
    assert_eq!(results["results"][0]["body"]["account_id"], "m-1");
    // Unknown: never enrolled.
    shop.on("z%40b.org", "earn", json!({"points": 5})).problem(404, "unknown-account");
    let sale = json!({"store_id": "s", "transaction_id": "t", "user_identifier": "z@b.org", "amount": "1", "timestamp": at(0)});
    shop.post_bare("/api/v1/pos/transaction", sale).problem(404, "unknown-account");
    shop.put("/api/v1/accounts/z%40b.org", "").problem(404, "unknown-account");
    // What looks like an alias is none without the percent either.
    shop.on("card:1", "earn", json!({"points": 1})).problem(404, "unknown-account");
    shop.on("+1234567", "earn", json!({"points": 1})).problem(404, "unknown-account");
    // No answer tells an alias.
    for row in shop.rows("m-1") {
        assert!(!row.to_string().contains("b.org"), "{row}");
    }
}
