//! The contract of holds: authorize, capture, void, time out.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use std::sync::Barrier;

use contract::{Answer, Shop, Value, check_operation, check_time, each, id, json, shortly};

fn hold_id(hold: &Value) -> &str {
    hold["hold_id"].as_str().unwrap()
}

#[test]
fn a_hold_pins_points() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 100);
    let hold = shop.done("m-1", "holds", json!({"points": 30, "description": "basket", "reference_id": "b-1"}));
    assert_eq!((&hold["type"], &hold["points"]), (&json!("HOLD"), &json!(0)));
    assert_eq!(
        (&hold["new_balance"], &hold["available_points"], &hold["held_points"]),
        (&json!(100), &json!(70), &json!(30))
    );
    check_time(&hold["expires_at"]);
    // The default time to live.
    let instant = |name: &str| hold[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert_eq!(instant("expires_at") - instant("recorded_at"), 900_000);
    let open = shop.get("/api/v1/points/m-1/holds").expect(200);
    assert_eq!(each(open["holds"].as_array().unwrap(), "hold_id"), [&hold["hold_id"]]);
    let one = shop.get(&format!("/api/v1/points/m-1/holds/{}", hold_id(&hold))).expect(200);
    assert_eq!(
        (&one["hold_id"], &one["points"], &one["expires_at"]),
        (&hold["hold_id"], &json!(30), &hold["expires_at"])
    );
    let problem = shop.on("m-1", "holds", json!({"points": 71})).problem(400, "insufficient-points");
    assert_eq!((&problem["available_points"], &problem["requested_points"]), (&json!(70), &json!(71)));
    assert_eq!(shop.lots("m-1")[0]["held"], 30);
}

#[test]
fn a_capture_takes_all_or_part() {
    let shop = Shop::open(json!({}));
    let (early, late) = ("2030-01-01T00:00:00.000Z", "2031-01-01T00:00:00.000Z");
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": late}));
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": early}));
    let hold = shop.done("m-1", "holds", json!({"points": 15}));
    // A lot that goes earlier than those that are pinned is not the capture's.
    shop.done("m-1", "earn", json!({"points": 10, "expires_at": "2029-01-01T00:00:00Z"}));
    let path = format!("holds/{}/capture", hold_id(&hold));
    let problem = shop.on("m-1", &path, json!({"points": 16})).problem(400, "exceeds-hold");
    assert_eq!(problem["held_points"], 15);
    let capture = shop.done("m-1", &path, json!({"points": 12, "reward_id": "mug"}));
    assert_eq!(
        (&capture["type"], &capture["points"], &capture["hold_id"]),
        (&json!("REDEEM"), &json!(-12), &hold["hold_id"])
    );
    assert_eq!(capture["lots"], json!([{"expires_at": early, "points": 10}, {"expires_at": late, "points": 2}]));
    assert_eq!(capture["redemption_id"], capture["transaction_id"]);
    assert!(capture["redemption_code"].as_str().unwrap().len() >= 10);
    assert_eq!(shop.points("m-1"), [18, 18, 0, 0, 0]);
    // One capture per hold.
    shop.on("m-1", &path, json!({"points": 1})).problem(409, "hold-closed");
    shop.on("m-1", &format!("holds/{}/void", hold_id(&hold)), json!({})).problem(409, "hold-closed");
    let whole = shop.done("m-1", "holds", json!({"points": 5}));
    let capture = shop.post(&format!("/api/v1/points/m-1/holds/{}/capture", hold_id(&whole)), "").expect(201);
    check_operation(&capture);
    assert_eq!(capture["points"], -5);
    assert_eq!(shop.get("/api/v1/points/m-1/holds").expect(200)["holds"], json!([]));
    let closed = shop.get(&format!("/api/v1/points/m-1/holds/{}", hold_id(&whole)));
    assert!(closed.status == 200 || closed.status == 404, "{closed:?}");
}

#[test]
fn a_void_is_a_void_twice() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    let hold = shop.done("m-1", "holds", json!({"points": 10}));
    let path = format!("/api/v1/points/m-1/holds/{}/void", hold_id(&hold));
    shop.post_bare(&path, "").problem(400, "idempotency-key-missing");
    let void = shop.post_key("v", &path, "").expect(200);
    assert_eq!((&void["type"], &void["points"], &void["hold_id"]), (&json!("VOID"), &json!(0), &hold["hold_id"]));
    assert_eq!(void["available_points"], 10);
    let replay = shop.post_key("v", &path, "{}");
    assert!(replay.is_replay());
    assert_eq!(replay.expect(200), void);
    let sequence = shop.balance("m-1")["sequence"].clone();
    assert_eq!(shop.post(&path, "").status, 200);
    assert_eq!(shop.balance("m-1")["sequence"], sequence, "a second void writes no row");
    shop.on("m-1", &format!("holds/{}/capture", hold_id(&hold)), json!({})).problem(409, "hold-closed");
}

#[test]
fn a_hold_times_out() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    let hold = shop.done("m-1", "holds", json!({"points": 10, "ttl_seconds": 1}));
    let balance = shop.until("m-1", |balance| balance["held_points"] == 0);
    assert_eq!((&balance["available_points"], &balance["sequence"]), (&json!(10), &json!(3)));
    let row = &shop.rows("m-1")[0];
    assert_eq!((&row["type"], &row["reason"], &row["points"]), (&json!("VOID"), &json!("expired"), &json!(0)));
    assert_eq!((&row["hold_id"], &row["occurred_at"]), (&hold["hold_id"], &hold["expires_at"]));
    shop.on("m-1", &format!("holds/{}/capture", hold_id(&hold)), json!({})).problem(409, "hold-closed");
    assert_eq!(shop.on("m-1", &format!("holds/{}/void", hold_id(&hold)), json!({})).status, 200);
}

/// An instant of an answer, in milliseconds.
fn instant(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Checks that the hold of an account had one end, that every capture and void was told of that end what API.md says,
/// and that history and balance agree. Returns how it ended.
fn check_end(shop: &Shop, account: &str, hold: &Value, captures: &[Answer], voids: &[Answer]) -> &'static str {
    let rows = shop.rows(account);
    let [end, before @ ..] = &rows[..] else { panic!("{account} has no rows") };
    assert_eq!(each(before, "type"), ["HOLD", "EARN"], "{rows:?}");
    assert_eq!(end["hold_id"], hold["hold_id"]);
    let deadline = instant(&hold["expires_at"]);
    let (name, left) = match (end["type"].as_str().unwrap(), end["reason"].as_str()) {
        ("REDEEM", _) => ("captured", 60),
        ("VOID", Some("expired")) => ("expired", 100),
        ("VOID", _) => ("voided", 100),
        _ => panic!("{end}"),
    };
    match name {
        "expired" => assert_eq!(end["occurred_at"], hold["expires_at"]),
        _ => assert!(instant(&end["recorded_at"]) < deadline, "{name} past its time: {end} {hold}"),
    }
    let mut captured = 0;
    for answer in captures {
        match (answer.status, name) {
            (201, "captured") => {
                assert_eq!((id(&answer.json()), &answer.json()["points"]), (id(end), &json!(-40)));
                captured += 1;
            }
            _ => drop(answer.problem(409, "hold-closed")),
        }
    }
    assert_eq!(captured, u32::from(name == "captured"), "{captures:?}");
    for answer in voids {
        match name {
            "captured" => drop(answer.problem(409, "hold-closed")),
            _ => assert_eq!(answer.expect(200)["hold_id"], hold["hold_id"]),
        }
    }
    let is_the_end = |answer: &&Answer| name == "voided" && id(&answer.json()) == id(end);
    assert!(name != "voided" || voids.iter().any(|answer| is_the_end(&answer)), "{voids:?}");
    assert_eq!(shop.points(account), [left, left, 0, 0, 0]);
    assert_eq!(shop.get(&format!("/api/v1/points/{account}/holds")).expect(200)["holds"], json!([]));
    name
}

#[test]
fn a_hold_raced_by_captures_voids_and_its_time_has_one_end() {
    const RACERS: usize = 4;
    let shop = Shop::open(json!({}));
    let holds: Vec<(String, Value)> = (0..12)
        .map(|n| {
            let account = format!("m-{n}");
            shop.earn(&account, 100);
            let hold = shop.done(&account, "holds", json!({"points": 40, "ttl_seconds": 1}));
            (account, hold)
        })
        .collect();
    let barrier = Barrier::new(2 * RACERS + 1);
    let race = |what: &'static str, racer: usize| {
        let (shop, barrier, holds) = (shop.another().without_check(), &barrier, &holds);
        move || {
            let ask = |(account, hold): &(String, Value)| {
                barrier.wait();
                let path = format!("/api/v1/points/{account}/holds/{}/{what}", hold_id(hold));
                shop.post_key(&format!("{what}-{racer}"), &path, "{}")
            };
            holds.iter().map(ask).collect::<Vec<Answer>>()
        }
    };
    let answers: Vec<Vec<Answer>> = std::thread::scope(|scope| {
        let racing: Vec<_> =
            (0..2 * RACERS).map(|n| scope.spawn(race(if n < RACERS { "capture" } else { "void" }, n))).collect();
        // The first half of the holds is raced before its time runs out, the other behind it.
        for ((_, hold), offset_ms) in holds.iter().zip((-240..).step_by(40)) {
            let start = instant(&hold["expires_at"]) + offset_ms;
            while jiff::Timestamp::now().as_millisecond() < start {
                std::thread::yield_now();
            }
            barrier.wait();
        }
        racing.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut ends = Vec::new();
    for (at, (account, hold)) in holds.iter().enumerate() {
        shop.until(account, |balance| balance["held_points"] == 0);
        let of_hold: Vec<Answer> = answers.iter().map(|answers| answers[at].clone()).collect();
        let (captures, voids) = of_hold.split_at(RACERS);
        ends.push(check_end(&shop, account, hold, captures, voids));
    }
    println!("{ends:?}");
    assert!(ends.contains(&"expired"), "the last one is past its time when it is raced");
}

#[test]
fn held_points_outlive_their_expiry_and_released_ones_do_not() {
    let shop = Shop::open(json!({}));
    for account in ["captured", "voided", "partly"] {
        shop.done(account, "earn", json!({"points": 10, "expires_at": shortly(1500)}));
    }
    let holds = ["captured", "voided", "partly"].map(|account| shop.done(account, "holds", json!({"points": 8})));
    for account in ["captured", "voided", "partly"] {
        shop.until(account, |balance| balance["total_points"] == 8);
        assert_eq!(shop.points(account), [8, 0, 0, 8, 0]);
        assert_eq!(shop.types(account), ["EARN", "HOLD", "EXPIRE"]);
        assert_eq!(shop.rows(account)[0]["points"], -2);
    }
    shop.done("captured", &format!("holds/{}/capture", hold_id(&holds[0])), json!({}));
    assert_eq!(shop.types("captured"), ["EARN", "HOLD", "EXPIRE", "REDEEM"]);
    shop.on("voided", &format!("holds/{}/void", hold_id(&holds[1])), json!({})).expect(200);
    assert_eq!(shop.types("voided"), ["EARN", "HOLD", "EXPIRE", "VOID", "EXPIRE"]);
    shop.done("partly", &format!("holds/{}/capture", hold_id(&holds[2])), json!({"points": 5}));
    assert_eq!(shop.types("partly"), ["EARN", "HOLD", "EXPIRE", "REDEEM", "EXPIRE"]);
    for account in ["captured", "voided", "partly"] {
        assert_eq!(shop.points(account), [0; 5]);
    }
}

#[test]
fn what_a_hold_refuses() {
    let shop = Shop::open(json!({"holds": {"default_ttl_seconds": 10, "max_ttl_seconds": 60}}));
    shop.earn("m-1", 10);
    shop.on("m-1", "holds", json!({"points": 1, "ttl_seconds": 61})).invalid("ttl_seconds");
    shop.on("m-1", "holds", json!({"points": 1, "ttl_seconds": 0})).invalid("ttl_seconds");
    shop.on("m-1", "holds", json!({})).invalid("points");
    shop.done("m-1", "holds", json!({"points": 1, "ttl_seconds": 60}));
    shop.post_bare("/api/v1/points/m-1/holds", json!({"points": 1, "reference_id": "r"}))
        .problem(400, "idempotency-key-missing");
    shop.on("m-2", "holds", json!({"points": 1})).problem(404, "unknown-account");
    for what in
        ["holds/none/capture", "holds/none/void", "holds/0-1/capture", "holds/99999-99999/void", "holds/m-1/void"]
    {
        shop.on("m-1", what, json!({})).problem(404, "unknown-hold");
    }
    shop.get("/api/v1/points/m-1/holds/none").problem(404, "unknown-hold");
    // The earn of the account is a transaction but no hold, and a hold of another account is none of this one.
    let earn = shop.earn("m-1", 5);
    shop.on("m-1", &format!("holds/{}/capture", id(&earn)), json!({})).problem(404, "unknown-hold");
    shop.earn("m-3", 5);
    let hold = shop.done("m-3", "holds", json!({"points": 5}));
    shop.on("m-1", &format!("holds/{}/capture", hold_id(&hold)), json!({})).problem(404, "unknown-hold");
    shop.get(&format!("/api/v1/points/m-1/holds/{}", hold_id(&hold))).problem(404, "unknown-hold");
    shop.get("/api/v1/points/none/holds").problem(404, "unknown-account");
}

#[test]
fn a_capture_is_reversible_and_a_hold_is_not() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    let hold = shop.done("m-1", "holds", json!({"points": 10}));
    shop.try_reverse(&hold, json!({})).problem(400, "not-reversible");
    let capture = shop.done("m-1", &format!("holds/{}/capture", hold_id(&hold)), json!({"points": 4}));
    let reversal = shop.reverse(&capture, json!({}));
    assert_eq!((&reversal["points"], &reversal["original_transaction_id"]), (&json!(4), &capture["transaction_id"]));
    assert_eq!(shop.points("m-1"), [10, 10, 0, 0, 0]);
}
