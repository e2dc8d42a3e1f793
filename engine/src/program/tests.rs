#![allow(clippy::unwrap_used)]

use meed_schemas::program::BUILT_IN_DOCUMENT;
use meed_schemas::time;

use super::*;

fn at(text: &str) -> Millis {
    time::parse(text).unwrap()
}

/// What an amount awards at a level.
fn points(version: &Version, amount_minor: i64, level: usize) -> i64 {
    award::award(amount_minor, &version.document.earning, version.level(level).multiplier).unwrap()
}

fn built_in() -> Document {
    Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap()
}

fn cdnow() -> Document {
    Document::parse(
        br#"{"name":"CDNOW","time_zone":"America/New_York","currency":"USD",
        "earning":{"points":1,"per_amount":"1.00"},
        "tiers":{"window":"rolling_12_months","levels":[{"name":"BASE","from":"0","multiplier":"1"},
        {"name":"PLUS","from":"100","multiplier":"1.25"},{"name":"GOLD","from":"300","multiplier":"1.5"}]},
        "expiry":{"months":600,"round_to":"end_of_month"},"late_days_max":null}"#,
    )
    .unwrap()
}

#[test]
fn the_built_in_program() {
    let version = Version::compile(1, 0, built_in()).unwrap();
    assert_eq!(version.currency().code(), "IDR");
    // Points of a January last to the end of the next: gone at midnight in Jakarta.
    let expiry = version.expiry_of(at("2026-01-31T16:59:59.999Z")).unwrap();
    assert_eq!(time::format(expiry), "2027-01-31T17:00:00.000Z");
    let expiry = version.expiry_of(at("2026-01-31T17:00:00Z")).unwrap();
    assert_eq!(time::format(expiry), "2027-02-28T17:00:00.000Z");
    assert_eq!(version.activation_of(0), None);

    let now = version.month_of(at("2026-06-15T00:00:00Z"));
    let spend = [(now - 12, 500_000_100), (now, 100_000_000)];
    let level = version.earned_level(&spend, now);
    assert_eq!((version.level(level).name.as_str(), version.qualifying_spend(&spend, now)), ("SILVER", 500_000_100));
    // 150,000.00 at SILVER: 150 × 1.25 = 187.5.
    assert_eq!(points(&version, 15_000_000, level), 187);
    assert_eq!(version.level_named("PLATINUM"), Some(3));
    assert_eq!(version.level(99).name, "PLATINUM");
}

#[test]
fn the_cdnow_program() {
    let version = Version::compile(1, 0, cdnow()).unwrap();
    // A customer's purchases in New York: date, cents, level before, points.
    let purchases = [
        ("1997-01-12T17:00:00Z", 9_999, 0, 99),
        ("1997-01-13T17:00:00Z", 1, 0, 0),
        ("1997-01-14T17:00:00Z", 2_000, 1, 25),
        ("1997-12-31T17:00:00Z", 20_000, 1, 250),
        ("1998-01-31T17:00:00Z", 1_199, 2, 17),
        // January 1997 has left the window; 211.99 remain.
        ("1998-02-01T05:00:00Z", 1_199, 1, 14),
    ];
    let mut spend: Vec<(i32, i64)> = Vec::new();
    for (occurred_at, cents, level, awarded) in purchases {
        let month = version.month_of(at(occurred_at));
        assert_eq!(version.earned_level(&spend, month), level, "{occurred_at}");
        assert_eq!(points(&version, cents, level), awarded, "{occurred_at}");
        spend.push((month, cents));
    }
    let expiry = version.expiry_of(at("1997-01-12T17:00:00Z")).unwrap();
    assert_eq!(time::format(expiry), "2047-02-01T05:00:00.000Z");
}

#[test]
fn pending_points_activate_at_a_local_midnight() {
    let mut document = cdnow();
    document.pending_days = 14;
    let version = Version::compile(1, 0, document).unwrap();
    // Summer time begins in between.
    let activation = version.activation_of(at("2026-03-01T04:59:59Z")).unwrap();
    assert_eq!(time::format(activation), "2026-03-14T04:00:00.000Z");
    assert_eq!(version.activation_of(at("2026-03-01T05:00:00Z")), Some(activation + time::DAY_MS));
}

#[test]
fn versions_take_effect_when_accepted() {
    let first = Program::create("shop", 1_000, cdnow()).unwrap();
    let mut document = cdnow();
    document.earning.points = 2;
    let second = first.succeed(2_000, document.clone()).unwrap();
    document.earning.points = 3;
    // Clocks of shards may differ a little: versions stay in the order of their numbers.
    let third = second.succeed(1_500, document).unwrap();
    for (instant, number) in [(Millis::MIN, 1), (999, 1), (1_000, 1), (1_999, 1), (2_000, 3), (Millis::MAX, 3)] {
        assert_eq!(third.version_at(instant).number, number, "{instant}");
    }
    for (instant, number) in [(0, 1), (1_999, 1), (2_000, 2)] {
        assert_eq!(second.version_at(instant).number, number, "{instant}");
    }
    assert_eq!((first.newest().number, third.newest().number, third.newest().effective_from), (1, 3, 2_000));
    assert_eq!(third.version(2).unwrap().document.earning.points, 2);
    assert!(third.version(0).is_none() && third.version(4).is_none());
    assert_eq!((third.name(), third.versions().len()), ("shop", 3));
    assert!(Arc::ptr_eq(third.version(1).unwrap(), first.newest()));
}

#[test]
fn zone_and_currency_are_fixed() {
    let program = Program::create("shop", 0, cdnow()).unwrap();
    let mut document = cdnow();
    document.time_zone = "Asia/Jakarta".to_owned();
    assert_eq!(program.succeed(1, document).unwrap_err().field, "time_zone");
    let mut document = cdnow();
    document.currency = Currency::from_code("EUR").unwrap();
    assert_eq!(program.succeed(1, document).unwrap_err().field, "currency");
    let mut document = cdnow();
    document.name = "Another label".to_owned();
    assert_eq!(check_successor(&program.newest().document, &document), Ok(()));
    document.time_zone = "America/Gotham".to_owned();
    assert_eq!(Program::create("shop", 0, document).unwrap_err().field, "time_zone");
}

#[test]
fn programs_are_replaced_as_a_whole() {
    let none = Programs::default();
    let one = none.with(Program::create("a", 0, cdnow()).unwrap());
    let two = one.with(Program::create("b", 0, built_in()).unwrap());
    let program = Program::clone(two.get("a").unwrap());
    let replaced = two.with(program.succeed(5, cdnow()).unwrap());
    assert!(none.is_empty() && one.get("b").is_none());
    assert_eq!((two.len(), two.get("a").unwrap().newest().number), (2, 1));
    assert_eq!((replaced.iter().count(), replaced.get("a").unwrap().newest().number), (2, 2));
    assert!(Arc::ptr_eq(two.get("b").unwrap(), replaced.get("b").unwrap()));
}
