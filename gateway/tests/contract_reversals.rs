//! The contract of reversals: cumulative, exact, back to where the points came from.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{DAY_MS, Shop, Value, at, id, json, shortly};

fn numbers(value: &Value, names: &[&str]) -> Vec<i64> {
    names.iter().map(|name| value[*name].as_i64().unwrap_or_else(|| panic!("{name}: {value}"))).collect()
}

#[test]
fn a_reversal_of_an_earn_takes_it_back() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00", "reference_id": "o-1"}));
    let reversal = shop.reverse(&earn, json!({"reason": "returned", "reference_id": "ret-1"}));
    assert_eq!(
        (&reversal["type"], &reversal["original_transaction_id"]),
        (&json!("REVERSAL"), &earn["transaction_id"])
    );
    assert_eq!(
        numbers(&reversal, &["points", "reversed_points", "shortfall_points", "expired_points"]),
        [-100, 100, 0, 0]
    );
    assert_eq!(reversal["reversed_amount"], "100.00");
    assert_eq!(reversal["lots"], json!([{"expires_at": null, "points": 100}]));
    assert_eq!(shop.points("m-1"), [0; 5]);
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "0.00");
    shop.try_reverse(&earn, json!({})).problem(409, "nothing-to-reverse");
    shop.try_reverse(&earn, json!({"points": 1})).problem(409, "nothing-to-reverse");
    shop.try_reverse(&earn, json!({"amount": "0.01"})).problem(409, "nothing-to-reverse");
    shop.try_reverse(&reversal, json!({})).problem(400, "not-reversible");
}

#[test]
fn many_partial_reversals_take_what_one_would() {
    // 1.5 points a unit of 10.00 with a multiplier: 99.99 awards 99.99 × 7 / 3.00 × 1.25 = 291.6375.
    let changes = json!({
        "earning": {"points": 7, "per_amount": "3.00", "rounding": "half_even"},
        "tiers": {"window": "lifetime", "levels": [{"name": "ONLY", "from": "0", "multiplier": "1.25"}]}
    });
    let shop = Shop::open(changes);
    let award = |cents: i64| {
        // Exactly: cents × 7 × 5 / (300 × 4), to the nearest, ties to even.
        let (n, d) = (cents * 35, 1200);
        let (q, r) = (n / d, n % d);
        q + i64::from(r * 2 > d || (r * 2 == d && q % 2 == 1))
    };
    for step in [1, 7, 333, 1234, 5000] {
        let account = format!("m-{step}");
        let earn = shop.done(&account, "earn", json!({"amount": "99.99"}));
        assert_eq!(earn["points"], award(9999));
        let (mut left, mut taken) = (9999, 0);
        let mut rounds = 0;
        while left > 0 && rounds < 40 {
            let part = step.min(left);
            left -= part;
            rounds += 1;
            let reversal = shop.reverse(&earn, json!({"amount": format!("{}.{:02}", part / 100, part % 100)}));
            let take = award(9999) - award(left) - taken;
            assert_eq!(reversal["points"], -take, "{reversal}");
            taken += take;
            assert_eq!(reversal["reversed_points"], taken);
            assert_eq!(reversal["reversed_amount"], format!("{}.{:02}", (9999 - left) / 100, (9999 - left) % 100));
        }
        if left > 0 {
            let problem = shop.try_reverse(&earn, json!({"amount": "99.99"})).problem(400, "exceeds-remaining");
            assert_eq!(problem["remaining_amount"], format!("{}.{:02}", left / 100, left % 100));
            shop.reverse(&earn, json!({}));
        }
        assert_eq!(shop.points(&account), [0; 5]);
        assert_eq!(shop.balance(&account)["qualifying_spend"], "0.00");
        shop.try_reverse(&earn, json!({})).problem(409, "nothing-to-reverse");
    }
}

#[test]
fn points_and_amounts_add_up_and_never_take_back_too_much() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00"}));
    let reversal = shop.reverse(&earn, json!({"points": 60}));
    assert_eq!((&reversal["points"], &reversal["reversed_amount"]), (&json!(-60), &json!("0.00")));
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "100.00", "points move no spend");
    // Half the amount is 50 points, and 60 are taken already.
    let reversal = shop.reverse(&earn, json!({"amount": "50.00"}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points", "shortfall_points"]), [0, 60, 0]);
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "50.00");
    let problem = shop.try_reverse(&earn, json!({"points": 41})).problem(400, "exceeds-remaining");
    assert_eq!(problem["remaining_points"], 40);
    let problem = shop.try_reverse(&earn, json!({"amount": "50.01"})).problem(400, "exceeds-remaining");
    assert_eq!(problem["remaining_amount"], "50.00");
    let reversal = shop.reverse(&earn, json!({"points": 40}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points"]), [-40, 100]);
    // No point is left, but an amount is: it leaves the spend.
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!((&reversal["points"], &reversal["reversed_amount"]), (&json!(0), &json!("100.00")));
    assert_eq!(shop.balance("m-1")["qualifying_spend"], "0.00");
    shop.try_reverse(&earn, json!({})).problem(409, "nothing-to-reverse");
}

#[test]
fn an_amount_needs_an_award_that_came_from_one() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 10);
    assert_eq!(shop.try_reverse(&earn, json!({"amount": "1.00"})).status, 400);
    shop.try_reverse(&earn, json!({"amount": "1.00", "points": 1})).problem(400, "invalid-request");
    shop.try_reverse(&earn, json!({"points": 0})).invalid("points");
    let redeem = shop.done("m-1", "redeem", json!({"points": 4}));
    assert_eq!(shop.try_reverse(&redeem, json!({"amount": "1.00"})).status, 400);
    let problem = shop.try_reverse(&redeem, json!({"points": 5})).problem(400, "exceeds-remaining");
    assert_eq!(problem["remaining_points"], 4);
    let reversal = shop.reverse(&earn, json!({"points": 3}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points"]), [-3, 3]);
}

#[test]
fn what_is_spent_is_a_shortfall() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00"}));
    shop.done("m-1", "redeem", json!({"points": 70}));
    let reversal = shop.reverse(&earn, json!({"amount": "50.00"}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points", "shortfall_points"]), [-30, 50, 20]);
    // The written-off part counts as reversed.
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points", "shortfall_points"]), [0, 100, 50]);
    assert_eq!(shop.points("m-1"), [0; 5]);
    shop.earn("m-1", 5);
    assert_eq!(shop.points("m-1"), [5, 5, 0, 0, 0]);
}

#[test]
fn a_reversal_takes_other_lots_in_burn_order_and_never_held_points() {
    let shop = Shop::open(json!({}));
    let (early, late) = ("2030-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z");
    let earn = shop.done("m-1", "earn", json!({"points": 50, "expires_at": late}));
    shop.done("m-1", "redeem", json!({"points": 45}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": early}));
    shop.earn("m-1", 10);
    shop.done("m-1", "holds", json!({"points": 10}));
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&reversal, &["points", "shortfall_points", "reversed_points"]), [-15, 35, 50]);
    assert_eq!(reversal["lots"], json!([{"expires_at": late, "points": 5}, {"expires_at": null, "points": 10}]));
    assert_eq!(shop.points("m-1"), [10, 0, 0, 10, 0]);
}

#[test]
fn the_awards_own_lot_is_taken_first() {
    let shop = Shop::open(json!({}));
    let (early, late) = ("2030-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z");
    let earn = shop.done("m-1", "earn", json!({"points": 10, "expires_at": late}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": early}));
    let reversal = shop.reverse(&earn, json!({"points": 10}));
    assert_eq!(reversal["lots"], json!([{"expires_at": late, "points": 10}]));
}

#[test]
fn a_pending_award_is_reversed() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"points": 10, "activates_at": at(DAY_MS)}));
    let reversal = shop.reverse(&earn, json!({"points": 4}));
    assert_eq!(numbers(&reversal, &["points", "pending_points", "new_balance", "shortfall_points"]), [-4, 6, 0, 0]);
    shop.reverse(&earn, json!({}));
    assert_eq!(shop.points("m-1"), [0; 5]);
}

#[test]
fn points_that_expired_unspent_count_as_taken() {
    let shop = Shop::open(json!({}));
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00", "expires_at": shortly(700)}));
    shop.done("m-1", "redeem", json!({"points": 30}));
    shop.earn("m-1", 50);
    let before = shop.reverse(&earn, json!({"amount": "20.00"}));
    assert_eq!(numbers(&before, &["points", "reversed_points"]), [-20, 20]);
    shop.until("m-1", |balance| balance["total_points"] == 50);
    // 50 expired unspent: they are taken already, the spent 30 come from other lots.
    let after = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&after, &["points", "reversed_points", "shortfall_points"]), [-30, 100, 0]);
    assert_eq!(shop.points("m-1"), [20, 20, 0, 0, 0]);
}

#[test]
fn debt_goes_to_its_floor_and_is_paid_first() {
    let shop = Shop::open(json!({"negative_balance": {"policy": "debt", "floor": -30}}));
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00"}));
    shop.done("m-1", "redeem", json!({"points": 90}));
    let reversal = shop.reverse(&earn, json!({}));
    assert_eq!(numbers(&reversal, &["points", "shortfall_points", "reversed_points"]), [-40, 60, 100]);
    assert_eq!(numbers(&reversal, &["new_balance", "available_points"]), [-30, -30]);
    assert_eq!(shop.points("m-1"), [-30, -30, 0, 0, 30]);
    let problem = shop.on("m-1", "redeem", json!({"points": 1})).problem(400, "insufficient-points");
    assert_eq!(problem["available_points"], -30);
    shop.on("m-1", "holds", json!({"points": 1})).problem(400, "insufficient-points");
    let earn = shop.earn("m-1", 50);
    assert_eq!(numbers(&earn, &["points", "new_balance"]), [50, 20]);
    assert_eq!(shop.points("m-1"), [20, 20, 0, 0, 0]);
    assert_eq!(shop.lots("m-1")[0]["available"], 20);
    // Pending points pay when they activate.
    let first = shop.earn("m-2", 20);
    shop.done("m-2", "redeem", json!({"points": 20}));
    shop.done("m-2", "earn", json!({"points": 50, "activates_at": shortly(600)}));
    shop.reverse(&first, json!({}));
    assert_eq!(shop.points("m-2"), [-20, -20, 50, 0, 20]);
    shop.until("m-2", |balance| balance["pending_points"] == 0);
    assert_eq!(shop.points("m-2"), [30, 30, 0, 0, 0]);
}

#[test]
fn a_redemption_goes_back_to_its_lots() {
    let shop = Shop::open(json!({}));
    let (early, late) = ("2030-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z");
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": early}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": late}));
    shop.earn("m-1", 10);
    let before = shop.lots("m-1");
    let redeem = shop.done("m-1", "redeem", json!({"points": 25}));
    let reversal = shop.reverse(&redeem, json!({"points": 7, "reason": "r"}));
    assert_eq!(numbers(&reversal, &["points", "reversed_points", "expired_points", "shortfall_points"]), [7, 7, 0, 0]);
    // Latest expiry first.
    assert_eq!(reversal["lots"], json!([{"expires_at": null, "points": 5}, {"expires_at": late, "points": 2}]));
    let problem = shop.try_reverse(&redeem, json!({"points": 19})).problem(400, "exceeds-remaining");
    assert_eq!(problem["remaining_points"], 18);
    let reversal = shop.reverse(&redeem, json!({}));
    assert_eq!(reversal["lots"], json!([{"expires_at": late, "points": 8}, {"expires_at": early, "points": 10}]));
    assert_eq!(shop.lots("m-1"), before);
    shop.try_reverse(&redeem, json!({})).problem(409, "nothing-to-reverse");
}

#[test]
fn a_redemption_reversed_past_expiry_expires_at_once() {
    let shop = Shop::open(json!({}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": shortly(500)}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": at(DAY_MS)}));
    let redeem = shop.done("m-1", "redeem", json!({"points": 14}));
    // Nothing of the first lot is left to expire, so only the instant can be waited for.
    let other = shop.done("clock", "earn", json!({"points": 1, "expires_at": shortly(600)}));
    shop.until("clock", |balance| balance["total_points"] == 0);
    assert_eq!(other["points"], 1);
    let reversal = shop.reverse(&redeem, json!({}));
    assert_eq!(numbers(&reversal, &["points", "expired_points", "new_balance", "available_points"]), [14, 10, 10, 10]);
    assert_eq!(shop.types("m-1"), ["EARN", "EARN", "REDEEM", "REVERSAL", "EXPIRE"]);
    assert_eq!(shop.rows("m-1")[0]["points"], -10);
}

#[test]
fn what_cannot_be_reversed() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 10);
    let adjust = shop.done("m-1", "adjust", json!({"points": 5, "reason": "gift"}));
    shop.try_reverse(&adjust, json!({})).problem(400, "not-reversible");
    for id in ["none", "0-0", "99999-1", "m-1", "-", "0--1"] {
        let path = format!("transactions/{id}/reverse");
        shop.on("m-1", &path, json!({})).problem(404, "unknown-transaction");
    }
    shop.earn("m-2", 10);
    let path = format!("transactions/{}/reverse", id(&earn));
    shop.on("m-2", &path, json!({})).problem(404, "unknown-transaction");
    shop.on("m-9", &path, json!({})).problem(404, "unknown-account");
    shop.get(&format!("/api/v1/points/m-2/transactions/{}", id(&earn))).problem(404, "unknown-transaction");
    let path = format!("/api/v1/points/m-1/{path}");
    shop.post_bare(&path, "").problem(400, "idempotency-key-missing");
    let whole = shop.post_bare(&path, json!({"reference_id": "r"})).expect(201);
    let replay = shop.post_bare(&path, json!({"reference_id": "r", "reason": "said otherwise"}));
    assert!(replay.is_replay() || replay.status == 422, "{replay:?}");
    assert_eq!(whole["points"], -10);
}

#[test]
fn the_recorded_rule_and_multiplier_count() {
    let changes = |per_amount: &str| {
        json!({
            "earning": {"points": 1, "per_amount": per_amount},
            "tiers": {"window": "lifetime", "levels": [
                {"name": "LOW", "from": "0", "multiplier": "1"}, {"name": "HIGH", "from": "100.00", "multiplier": "2"}]}
        })
    };
    let shop = Shop::open(changes("1.00"));
    let low = shop.done("m-1", "earn", json!({"amount": "100.00"}));
    assert_eq!((&low["points"], &low["applied_multiplier"], &low["tier"]), (&json!(100), &json!("1"), &json!("HIGH")));
    let high = shop.done("m-1", "earn", json!({"amount": "10.00"}));
    assert_eq!((&high["points"], &high["applied_tier"]), (&json!(20), &json!("HIGH")));
    shop.put(&format!("/api/v1/programs/{}", shop.program), contract::document(changes("0.10"))).expect(200);
    assert_eq!(shop.reverse(&low, json!({}))["points"], -100);
    assert_eq!(shop.balance("m-1")["tier"], "LOW", "reversing lowers a tier");
    assert_eq!(shop.reverse(&high, json!({"amount": "5.00"}))["points"], -10, "other awards keep their multipliers");
}

#[test]
fn the_spend_leaves_the_month_of_the_original() {
    let changes = json!({"tiers": {"window": "calendar_year", "levels": [
        {"name": "LOW", "from": "0", "multiplier": "1"}, {"name": "HIGH", "from": "100.00", "multiplier": "2"}]}});
    let shop = Shop::open(changes);
    let earn = shop.done("m-1", "earn", json!({"amount": "100.00", "occurred_at": "2020-03-01T00:00:00Z"}));
    let late = |occurred_at: &str| shop.done("m-1", "earn", json!({"amount": "1.00", "occurred_at": occurred_at}));
    assert_eq!(late("2020-04-01T00:00:00Z")["applied_tier"], "HIGH");
    assert_eq!(late("2021-12-31T00:00:00Z")["applied_tier"], "HIGH");
    assert_eq!(late("2022-01-01T00:00:00Z")["applied_tier"], "LOW");
    shop.reverse(&earn, json!({}));
    assert_eq!(late("2020-05-01T00:00:00Z")["applied_tier"], "LOW");
}
