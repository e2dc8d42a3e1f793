//! The contract of earn and redeem: awards, lots, burn order, expiry and activation.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{DAY_MS, SECOND_MS, Shop, Value, at, check_time, each, id, json};

#[test]
fn an_earn_answers_with_all_that_is_promised() {
    let shop = Shop::open(json!({}));
    let first = shop.done("m-1", "earn", json!({"points": 100, "reference_id": "o-1"}));
    assert_eq!(first["account_id"], "m-1");
    assert_eq!((&first["type"], &first["points"], &first["sequence"]), (&json!("EARN"), &json!(100), &json!(1)));
    assert_eq!((&first["expires_at"], &first["activates_at"]), (&Value::Null, &Value::Null));
    assert_eq!((&first["tier"], &first["tier_multiplier"]), (&json!("BASE"), &json!("1")));
    assert_eq!(first.get("amount"), None);
    let second = shop.done("m-1", "earn", json!({"amount": "19.99", "occurred_at": "2026-01-02T03:04:05.6789+07:00"}));
    assert_eq!((&second["points"], &second["amount"]), (&json!(19), &json!("19.99")));
    assert_eq!((&second["applied_tier"], &second["applied_multiplier"]), (&json!("BASE"), &json!("1")));
    assert_eq!(second["occurred_at"], "2026-01-01T20:04:05.678Z");
    assert_eq!(second["sequence"], 2);
    assert_eq!(second["new_balance"], 119);
    assert_ne!(id(&first), id(&second));
}

#[test]
fn a_balance_has_every_member() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"amount": "12.5"}));
    assert_eq!(
        shop.balance("m-1"),
        json!({
            "account_id": "m-1", "program": shop.program, "status": "active", "total_points": 12,
            "available_points": 12, "pending_points": 0, "held_points": 0, "debt_points": 0,
            "tier": "BASE", "tier_multiplier": "1", "qualifying_spend": "12.50", "next_expiry": null,
            "sequence": 1, "last_updated": earn["recorded_at"]
        })
    );
    shop.get("/api/v1/points/m-2/balance").problem(404, "unknown-account");
    shop.get("/api/v1/points/m-2/lots").problem(404, "unknown-account");
    shop.get("/api/v1/points/m-2/transactions").problem(404, "unknown-account");
}

#[test]
fn an_amount_may_award_nothing() {
    let shop = Shop::open(json!({}));
    for amount in ["0", "0.99", "0.00"] {
        let earn = shop.done("m-1", "earn", json!({"amount": amount}));
        assert_eq!((&earn["points"], &earn["type"]), (&json!(0), &json!("EARN")));
    }
    assert_eq!(shop.lots("m-1").len(), 0);
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "0.99");
}

#[test]
fn rounding_is_exact() {
    for (rounding, expected) in
        [("down", [0, 1, 1, 2]), ("half_up", [1, 1, 2, 3]), ("half_even", [0, 1, 2, 2]), ("up", [1, 2, 2, 3])]
    {
        // Half a point per unit.
        let earning = json!({"points": 1, "per_amount": "2.00", "rounding": rounding});
        let shop = Shop::open(json!({"earning": earning}));
        for (amount, points) in ["1.00", "2.02", "3.00", "5.00"].into_iter().zip(expected) {
            let earn = shop.done("m-1", "earn", json!({"amount": amount}));
            assert_eq!(earn["points"], points, "{rounding} {amount}");
        }
    }
}

#[test]
fn money_is_read_exactly() {
    let shop = Shop::open(json!({"earning": {"points": 100, "per_amount": "1.00"}}));
    // As floating point 0.29 × 100 is 28.999…, and 9007199254.74 has no exact double.
    for (amount, points) in [("0.29", 29), ("1.1", 110), ("\"0.29\"", 29), ("5", 500), ("\"5\"", 500), ("0.290", 29)] {
        let answer = shop.post("/api/v1/points/m-1/earn", format!("{{\"amount\":{amount}}}"));
        if amount == "0.290" {
            answer.invalid("amount");
        } else {
            assert_eq!(answer.expect(201)["points"], points, "{amount}");
        }
    }
    let big = shop.done("m-2", "earn", json!({"amount": "9007199254.74"}));
    assert_eq!(big["points"], 900_719_925_474_i64);
    let answer = shop.post("/api/v1/points/m-3/earn", "{\"amount\":9007199254.74}").expect(201);
    assert_eq!((&answer["points"], &answer["amount"]), (&json!(900_719_925_474_i64), &json!("9007199254.74")));
}

#[test]
fn bounds_of_points_and_amounts() {
    let shop = Shop::open(json!({"earning": {"points": 1000, "per_amount": "1.00"}}));
    let most = 1_000_000_000_000_i64;
    assert_eq!(shop.done("m-1", "earn", json!({"points": most}))["points"], most);
    assert_eq!(shop.done("m-1", "earn", json!({"points": 1}))["points"], 1);
    for points in [0, -1, most + 1, i64::MAX] {
        shop.on("m-1", "earn", json!({"points": points})).invalid("points");
        shop.on("m-1", "redeem", json!({"points": points})).invalid("points");
    }
    shop.on("m-1", "earn", json!({"amount": "10000000000.01"})).invalid("amount");
    shop.on("m-1", "earn", json!({"amount": "-0.01"})).invalid("amount");
    // 10¹² minor units are within the amount's bound, but the award would be 10¹³ points.
    shop.on("m-1", "earn", json!({"amount": "10000000000.00"})).problem(422, "balance-overflow");
    assert_eq!(shop.points("m-1")[0], most + 1);
}

#[test]
fn a_balance_stays_within_its_bound() {
    let shop = Shop::open(json!({}));
    for _ in 0..1000 {
        shop.earn("m-1", 1_000_000_000_000);
    }
    shop.on("m-1", "earn", json!({"points": 1})).problem(422, "balance-overflow");
    shop.on("m-1", "adjust", json!({"points": 1, "reason": "r"})).problem(422, "balance-overflow");
    assert_eq!(shop.points("m-1")[0], 1_000_000_000_000_000);
    shop.done("m-1", "redeem", json!({"points": 1}));
    shop.earn("m-1", 1);
}

#[test]
fn exactly_one_of_points_and_amount() {
    let shop = Shop::open(json!({}));
    shop.on("m-1", "earn", json!({})).problem(400, "invalid-request");
    shop.on("m-1", "earn", json!({"points": 1, "amount": "1"})).problem(400, "invalid-request");
    shop.on("m-1", "earn", json!({"points": null, "amount": null})).problem(400, "invalid-request");
    // A null member is an absent one.
    assert_eq!(shop.done("m-1", "earn", json!({"points": null, "amount": "3", "source": null}))["points"], 3);
    assert_eq!(shop.done("m-1", "earn", json!({"points": 4, "amount": null, "metadata": null}))["points"], 4);
}

#[test]
fn a_redemption_says_what_it_took() {
    let shop = Shop::open(json!({}));
    let (early, late) = ("2030-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z");
    shop.earn("m-1", 5);
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": late}));
    shop.done("m-1", "earn", json!({"points": 20, "expires_at": early}));
    shop.done("m-1", "earn", json!({"points": 3, "expires_at": early}));
    let lots = shop.lots("m-1");
    assert_eq!(
        each(&lots, "expires_at"),
        [early, late].map(Value::from).iter().chain([&Value::Null]).collect::<Vec<_>>()
    );
    assert_eq!(each(&lots, "available"), [23, 10, 5].map(Value::from).iter().collect::<Vec<_>>());
    assert_eq!(
        lots[0],
        json!({"available": 23, "held": 0, "pending": false, "activates_at": null, "expires_at": early})
    );
    assert_eq!(shop.balance("m-1")["next_expiry"], json!({"points": 23, "at": early}));
    let redeem =
        shop.done("m-1", "redeem", json!({"points": 35, "reward_id": "mug", "source": "web", "reference_id": "o"}));
    assert_eq!(
        (&redeem["type"], &redeem["points"], &redeem["new_balance"]),
        (&json!("REDEEM"), &json!(-35), &json!(3))
    );
    assert_eq!(redeem["redemption_id"], redeem["transaction_id"]);
    assert_eq!(
        redeem["lots"],
        json!([{"expires_at": early, "points": 23}, {"expires_at": late, "points": 10}, {"expires_at": null, "points": 2}])
    );
    let code = redeem["redemption_code"].as_str().unwrap();
    assert!(code.len() >= 10 && code.bytes().all(|b| b.is_ascii_alphanumeric()), "{code}");
    assert!(!code.contains(['0', 'O', 'o', '1', 'I', 'l', 'L', 'i']), "{code}");
    let other = shop.done("m-1", "redeem", json!({"points": 1}));
    assert_ne!(other["redemption_code"], redeem["redemption_code"]);
    let problem = shop.on("m-1", "redeem", json!({"points": 3})).problem(400, "insufficient-points");
    assert_eq!((&problem["available_points"], &problem["requested_points"]), (&json!(2), &json!(3)));
    shop.on("m-1", "redeem", json!({})).invalid("points");
    shop.on("m-9", "redeem", json!({"points": 1})).problem(404, "unknown-account");
}

#[test]
fn held_and_pending_points_cannot_be_spent() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 100);
    shop.done("m-1", "earn", json!({"points": 50, "activates_at": at(DAY_MS)}));
    shop.done("m-1", "holds", json!({"points": 60}));
    assert_eq!(shop.points("m-1"), [100, 40, 50, 60, 0]);
    let problem = shop.on("m-1", "redeem", json!({"points": 41})).problem(400, "insufficient-points");
    assert_eq!((&problem["available_points"], &problem["requested_points"]), (&json!(40), &json!(41)));
    shop.done("m-1", "redeem", json!({"points": 40}));
    assert_eq!(shop.points("m-1"), [60, 0, 50, 60, 0]);
}

#[test]
fn pending_points_come_in_time() {
    let shop = Shop::open(json!({}));
    let activates_at = at(SECOND_MS / 2);
    let earn = shop.done("m-1", "earn", json!({"points": 30, "activates_at": activates_at, "expires_at": at(DAY_MS)}));
    assert_eq!((&earn["points"], &earn["pending_points"], &earn["new_balance"]), (&json!(30), &json!(30), &json!(0)));
    assert_eq!(earn["activates_at"], activates_at);
    let lots = shop.lots("m-1");
    assert_eq!((&lots[0]["pending"], &lots[0]["activates_at"]), (&json!(true), &json!(activates_at)));
    shop.until("m-1", |balance| balance["available_points"] == 30);
    assert_eq!(shop.points("m-1"), [30, 30, 0, 0, 0]);
    let rows = shop.rows("m-1");
    assert_eq!(
        (&rows[0]["type"], &rows[0]["points"], &rows[0]["moved_points"]),
        (&json!("ACTIVATE"), &json!(0), &json!(30))
    );
    assert_eq!(rows[0]["occurred_at"], activates_at);
    assert_eq!(shop.lots("m-1")[0]["activates_at"], Value::Null);
}

#[test]
fn points_go_at_their_expiry() {
    let shop = Shop::open(json!({}));
    let expires_at = at(SECOND_MS / 2);
    shop.done("m-1", "earn", json!({"points": 30, "expires_at": expires_at}));
    shop.earn("m-1", 1);
    let balance = shop.until("m-1", |balance| balance["total_points"] == 1);
    assert_eq!((&balance["sequence"], &balance["next_expiry"]), (&json!(3), &Value::Null));
    let row = &shop.rows("m-1")[0];
    assert_eq!(
        (&row["type"], &row["points"], &row["occurred_at"]),
        (&json!("EXPIRE"), &json!(-30), &json!(expires_at))
    );
}

#[test]
fn an_award_that_is_past_its_expiry_expires_at_once() {
    let shop = Shop::open(json!({"expiry": {"days": 10}}));
    let earn = shop.done("m-1", "earn", json!({"points": 7, "occurred_at": "2024-02-28T12:00:00Z"}));
    assert_eq!(earn["expires_at"], "2024-03-10T00:00:00.000Z");
    assert_eq!(shop.points("m-1"), [0; 5]);
    assert_eq!(shop.types("m-1"), ["EARN", "EXPIRE"]);
    assert_eq!(shop.lots("m-1").len(), 0);
}

#[test]
fn expiry_and_activation_of_a_request() {
    let shop = Shop::open(json!({}));
    let (now, soon, later) = (at(0), at(DAY_MS), at(2 * DAY_MS));
    shop.on("m-1", "earn", json!({"points": 1, "expires_at": soon, "activates_at": later})).invalid("expires_at");
    shop.on("m-1", "earn", json!({"points": 1, "expires_at": soon, "activates_at": soon})).invalid("expires_at");
    shop.on("m-1", "earn", json!({"points": 1, "expires_at": now, "occurred_at": now})).invalid("expires_at");
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
    // An activation that is already past is none.
    shop.done("m-1", "earn", json!({"points": 1, "activates_at": at(-DAY_MS)}));
    assert_eq!(shop.points("m-1"), [1, 1, 0, 0, 0]);
}

#[test]
fn expiry_by_the_program() {
    let cases = [
        (json!({"days": 1}), "2025-06-15T23:59:59Z", "2025-06-17T00:00:00.000Z"),
        (json!({"months": 1}), "2025-01-31T00:00:00Z", "2025-03-01T00:00:00.000Z"),
        (json!({"months": 1}), "2024-01-31T00:00:00Z", "2024-03-01T00:00:00.000Z"),
        (json!({"months": 12, "round_to": "end_of_month"}), "2025-06-15T00:00:00Z", "2026-07-01T00:00:00.000Z"),
        (json!({"months": 1, "round_to": "end_of_quarter"}), "2025-06-30T00:00:00Z", "2025-10-01T00:00:00.000Z"),
        (json!({"months": 1, "round_to": "end_of_year"}), "2025-11-30T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        (json!({"days": 40, "round_to": "day"}), "2024-02-01T00:00:00Z", "2024-03-13T00:00:00.000Z"),
        (json!({"months": 12}), "2025-06-15T00:00:00Z", "2026-07-01T00:00:00.000Z"),
        (json!({"days": 40}), "2024-02-01T00:00:00Z", "2024-03-13T00:00:00.000Z"),
    ];
    for (expiry, occurred_at, expected) in cases {
        let shop = Shop::open(json!({"expiry": expiry}));
        let earn = shop.done("m-1", "earn", json!({"points": 1, "occurred_at": occurred_at}));
        assert_eq!(earn["expires_at"], expected, "{expiry} from {occurred_at}");
    }
    let shop = Shop::open(json!({"expiry": "none"}));
    assert_eq!(shop.earn("m-1", 1)["expires_at"], Value::Null);
}

#[test]
fn days_are_those_of_the_zone_with_its_summer_time() {
    // New York goes from −05:00 to −04:00 on 2026-03-08 and back on 2026-11-01.
    let shop = Shop::open(json!({"time_zone": "America/New_York", "expiry": {"days": 1}}));
    for (occurred_at, expected) in [
        ("2026-03-07T04:59:59Z", "2026-03-08T05:00:00.000Z"),
        ("2026-03-07T05:00:00Z", "2026-03-09T04:00:00.000Z"),
        ("2026-03-06T12:00:00-05:00", "2026-03-08T05:00:00.000Z"),
        ("2026-10-31T03:59:59Z", "2026-11-01T04:00:00.000Z"),
        ("2026-10-31T12:00:00-04:00", "2026-11-02T05:00:00.000Z"),
    ] {
        let earn = shop.done("m-1", "earn", json!({"points": 1, "occurred_at": occurred_at}));
        assert_eq!(earn["expires_at"], expected, "from {occurred_at}");
    }
    // A zone whose day began at 01:00: midnight of 2018-11-04 did not exist in São Paulo.
    let shop = Shop::open(json!({"time_zone": "America/Sao_Paulo", "expiry": {"days": 1}}));
    let earn = shop.done("m-1", "earn", json!({"points": 1, "occurred_at": "2018-11-02T12:00:00-03:00"}));
    assert_eq!(earn["expires_at"], "2018-11-04T03:00:00.000Z");
}

#[test]
fn pending_days_count_local_midnights() {
    let shop = Shop::open(json!({"time_zone": "America/New_York", "pending": {"days": 2}}));
    // The days of this are long past: it is pending no more.
    let earn = shop.done("m-1", "earn", json!({"points": 1, "occurred_at": "2026-03-07T23:00:00-05:00"}));
    assert_eq!((&earn["activates_at"], &earn["pending_points"]), (&Value::Null, &json!(0)));
    let earn = shop.done("m-1", "earn", json!({"points": 1}));
    let occurred_at = earn["occurred_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let day = occurred_at.in_tz("America/New_York").unwrap().date() + jiff::Span::new().days(2);
    let midnight = day.in_tz("America/New_York").unwrap().timestamp();
    assert_eq!(earn["activates_at"], format!("{midnight:.3}"));
    check_time(&earn["activates_at"]);
    assert_eq!(shop.points("m-1"), [1, 1, 1, 0, 0]);
}

#[test]
fn an_account_holds_so_many_lots() {
    let shop = Shop::open(json!({}));
    let begin = at(DAY_MS).parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let body = |lot: i64| {
        let expires_at = jiff::Timestamp::from_millisecond(begin + lot).unwrap().to_string();
        json!({"op": "earn", "account": "m-1", "idempotency_key": format!("l{lot}"), "points": 1, "expires_at": expires_at})
    };
    let items: Vec<Value> = (0..2048).map(body).collect();
    let results = shop.post_bare("/api/v1/batch", json!({"items": items})).expect(207);
    assert!(results["results"].as_array().unwrap().iter().all(|result| result["status"] == 201));
    let problem = shop.on("m-1", "earn", json!({"points": 1})).problem(422, "limit-exceeded");
    assert_eq!(problem["limit"], "lots");
    // One more that shares a lot is none more.
    let expires_at = shop.lots("m-1")[5]["expires_at"].clone();
    shop.done("m-1", "earn", json!({"points": 1, "expires_at": expires_at}));
    assert_eq!(shop.points("m-1")[0], 2049);
}
