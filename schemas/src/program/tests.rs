#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The purchases that the project is measured on: three tiers over a rolling year.
const CDNOW: &str = r#"{"name":"CDNOW","time_zone":"America/New_York","currency":"USD",
 "earning":{"points":1,"per_amount":"1.00","rounding":"down"},
 "tiers":{"window":"rolling_12_months","levels":[
   {"name":"BASE","from":0,"multiplier":1},
   {"name":"PLUS","from":"100","multiplier":"1.25"},
   {"name":"GOLD","from":300.00,"multiplier":1.5000}]},
 "expiry":{"months":600,"round_to":"end_of_month"},
 "late_days_max":null}"#;

fn smallest() -> Value {
    json!({"name":"n","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":"1"}})
}

fn parse(json: &str) -> Result<Document, DocumentError> {
    Document::parse(json.as_bytes())
}

/// The smallest document with one top-level member set to the given JSON text.
fn with(member: &str, text: &str) -> Result<Document, DocumentError> {
    let mut document = smallest();
    document.as_object_mut().unwrap().remove(member);
    let rest = document.to_string();
    parse(&format!("{},\"{member}\":{text}}}", rest.strip_suffix('}').unwrap()))
}

#[track_caller]
fn refused(result: Result<Document, DocumentError>, field: &str) -> String {
    let error = result.expect_err("a refusal");
    assert_eq!(error.field, field, "{error}");
    error.detail
}

#[test]
fn defaults_are_written_out() {
    let document = parse(&smallest().to_string()).unwrap();
    assert_eq!(
        document.to_canonical_json(),
        r#"{"name":"n","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":"1.00","rounding":"down"},"tiers":{"window":"lifetime","levels":[{"name":"BASE","from":"0.00","multiplier":"1"}]},"expiry":"none","pending":{"days":0},"negative_balance":{"policy":"refuse"},"holds":{"default_ttl_seconds":900,"max_ttl_seconds":604800},"late_days_max":30,"auto_enroll":true}"#
    );
    let all_null = r#"{"name":"n","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":1,"rounding":null},
        "tiers":null,"expiry":null,"pending":{"days":null},"negative_balance":null,"holds":{"max_ttl_seconds":null},
        "auto_enroll":null}"#;
    assert_eq!(parse(all_null).unwrap(), document);
}

#[test]
fn every_member_is_read() {
    let document = parse(
        r#" {"auto_enroll":false,"late_days_max":0,"holds":{"max_ttl_seconds":31536000,"default_ttl_seconds":1},
        "negative_balance":{"policy":"debt","floor":-500},"pending":{"days":14},
        "expiry":{"days":90,"round_to":"end_of_quarter"},
        "tiers":{"window":"calendar_year","levels":[{"multiplier":"0.0001","name":"Ünï","from":0},
        {"name":"B","from":"0.001","multiplier":100}]},"currency":"KWD","time_zone":"Asia/Kuwait","name":"K \"1\"",
        "earning":{"rounding":"half_even","per_amount":0.001,"points":1000000000000}} "#,
    )
    .unwrap();
    assert_eq!(
        document.earning,
        Earning { points: 1_000_000_000_000, per_amount_minor: 1, rounding: Rounding::HalfEven }
    );
    assert_eq!(document.tiers.window, Window::CalendarYear);
    assert_eq!(document.tiers.levels[0].multiplier, 1);
    assert_eq!(document.tiers.levels[1], Level { name: "B".into(), from_minor: 1, multiplier: MULTIPLIER_MAX });
    assert_eq!(document.expiry, Expiry::Days(90, RoundTo::EndOfQuarter));
    assert_eq!((document.pending_days, document.late_days_max, document.auto_enroll), (14, Some(0), false));
    assert_eq!(document.negative_balance.floor(), -500);
    assert_eq!(document.holds, Holds { default_ttl_seconds: 1, max_ttl_seconds: 31_536_000 });
    assert_eq!(document.level_named("B"), Some(1));
    assert_eq!(document.level_named("b"), None);
    assert_eq!(parse(&document.to_canonical_json()).unwrap(), document);
}

#[test]
fn known_programs() {
    let built_in = parse(BUILT_IN_DOCUMENT).unwrap();
    let levels: Vec<_> = built_in.tiers.levels.iter().map(|l| (l.name.as_str(), l.from_minor, l.multiplier)).collect();
    assert_eq!(
        levels,
        [
            ("BRONZE", 0, 10_000),
            ("SILVER", 500_000_100, 12_500),
            ("GOLD", 1_500_000_100, 15_000),
            ("PLATINUM", 5_000_000_100, 20_000)
        ]
    );
    assert_eq!(built_in.earning.per_amount_minor, 100_000);
    assert_eq!(built_in.expiry, Expiry::Months(12, RoundTo::EndOfMonth));

    let cdnow = parse(CDNOW).unwrap();
    assert_eq!(cdnow.late_days_max, None);
    assert_eq!(cdnow.expiry, Expiry::Months(600, RoundTo::EndOfMonth));
    assert_eq!(cdnow.tiers.levels[2].from_minor, 30_000);
    assert!(cdnow.to_canonical_json().contains(r#""late_days_max":null"#));
    assert_eq!(parse(&cdnow.to_canonical_json()).unwrap(), cdnow);
}

#[test]
fn the_name_is_part_of_the_document() {
    let one = parse(&smallest().to_string()).unwrap();
    let other = with("name", r#""m""#).unwrap();
    assert_ne!(one.to_canonical_json(), other.to_canonical_json());
    assert_eq!(with("name", r#""\u006e""#).unwrap(), one);
}

#[test]
fn what_is_not_a_document() {
    for text in ["", "{", "[]", "null", "{} x", "\u{feff}{}", "5", r#"{"name":"x",}"#] {
        refused(parse(text), "");
    }
    refused(Document::parse(b"{\"name\":\"\xff\"}"), "");
    let document = smallest().to_string();
    let padded = |length: usize| document.clone() + &" ".repeat(length - document.len());
    assert!(parse(&padded(DOCUMENT_BYTES_MAX)).is_ok());
    refused(parse(&padded(DOCUMENT_BYTES_MAX + 1)), "");
    for (member, field) in [("name", "name"), ("time_zone", "time_zone"), ("earning", "earning")] {
        let mut document = smallest();
        document.as_object_mut().unwrap().remove(member);
        assert_eq!(refused(parse(&document.to_string()), field), "is required");
        assert_eq!(refused(with(member, "null"), field), "is required");
    }
}

#[test]
fn unknown_and_duplicate_members_are_named() {
    let unknown = "is not a known member";
    assert_eq!(refused(with("colour", "1"), "colour"), unknown);
    assert_eq!(refused(with("Name", "\"x\""), "Name"), unknown);
    assert_eq!(refused(with("pending", r#"{"days":1,"hours":2}"#), "pending.hours"), unknown);
    let level = r#"{"levels":[{"name":"A","from":"0","multiplier":"1","color":"red"}]}"#;
    assert_eq!(refused(with("tiers", level), "tiers.levels[0].color"), unknown);

    let twice = "is given twice";
    assert_eq!(refused(parse(r#"{"name":"x","name":"x"}"#), "name"), twice);
    assert_eq!(refused(parse(r#"{"name":null,"\u006eame":"x"}"#), "name"), twice);
    let earning = r#"{"points":1,"per_amount":"1","points":1}"#;
    assert_eq!(refused(with("earning", earning), "earning.points"), twice);
    let level = r#"{"levels":[{"name":"A","from":"0","multiplier":"1"},{"name":"B","from":1,"from":1}]}"#;
    assert_eq!(refused(with("tiers", level), "tiers.levels[1].from"), twice);
}

#[test]
fn wrong_values_are_named() {
    let table: &[(&str, &str, &[&str])] = &[
        ("name", "name", &["1", r#""""#, r#""a\nb""#, r#""a\u0085b""#, r#""\ud800""#, "[]", "true"]),
        ("time_zone", "time_zone", &["1", r#""""#]),
        ("currency", "currency", &["1", r#""""#, r#""usd""#, r#""XXX""#]),
        ("late_days_max", "late_days_max", &["-1", "36501", "1.0", "\"30\"", "1e1", "false"]),
        ("auto_enroll", "auto_enroll", &["1", "\"true\"", "{}"]),
        ("earning", "earning", &["1", "[]", "\"x\""]),
        ("tiers", "tiers", &["1", "[]"]),
        ("tiers", "tiers.levels", &["{}", r#"{"levels":[]}"#, r#"{"levels":{}}"#, r#"{"levels":null}"#]),
        ("tiers", "tiers.window", &[r#"{"window":"year","levels":[]}"#, r#"{"window":1}"#]),
        ("tiers", "tiers.levels[0]", &[r#"{"levels":[null]}"#, r#"{"levels":["BASE"]}"#]),
        ("expiry", "expiry", &["\"never\"", "{}", "12", r#"{"days":1,"months":1}"#, r#"{"round_to":"day"}"#]),
        ("expiry", "expiry.days", &[r#"{"days":0}"#, r#"{"days":36501}"#, r#"{"days":1.5}"#, r#"{"days":"1"}"#]),
        ("expiry", "expiry.months", &[r#"{"months":0}"#, r#"{"months":1201}"#, r#"{"months":-1}"#]),
        ("expiry", "expiry.round_to", &[r#"{"days":1,"round_to":"end"}"#, r#"{"days":1,"round_to":1}"#]),
        ("pending", "pending", &["14", "[]"]),
        ("pending", "pending.days", &[r#"{"days":-1}"#, r#"{"days":3651}"#, r#"{"days":1e1}"#]),
        ("negative_balance", "negative_balance", &["\"debt\"", "0"]),
        ("negative_balance", "negative_balance.policy", &["{}", r#"{"policy":"none"}"#, r#"{"floor":0}"#]),
        (
            "negative_balance",
            "negative_balance.floor",
            &[
                r#"{"policy":"debt"}"#,
                r#"{"policy":"debt","floor":1}"#,
                r#"{"policy":"debt","floor":-1000000000001}"#,
                r#"{"policy":"debt","floor":-5.0}"#,
                r#"{"policy":"refuse","floor":0}"#,
            ],
        ),
        ("holds", "holds", &["900"]),
        ("holds", "holds.max_ttl_seconds", &[r#"{"max_ttl_seconds":0}"#, r#"{"max_ttl_seconds":31536001}"#]),
        (
            "holds",
            "holds.default_ttl_seconds",
            &[r#"{"default_ttl_seconds":604801}"#, r#"{"default_ttl_seconds":10,"max_ttl_seconds":9}"#],
        ),
    ];
    for (member, field, texts) in table {
        for text in *texts {
            println!("{member}: {text}");
            refused(with(member, text), field);
        }
    }
}

#[test]
fn earning_is_exact_and_bounded() {
    let earning = |points: &str, per_amount: &str| {
        with("earning", &format!(r#"{{"points":{points},"per_amount":{per_amount}}}"#))
    };
    for points in ["0", "-1", "1.0", "1e0", "\"1\"", "1000000000001", "99999999999999999999"] {
        refused(earning(points, "1"), "earning.points");
    }
    for amount in ["0", "\"0.00\"", "-1", "\"-1\"", "1e2", "0.001", "\"1.000\"", "\"\"", "\"01\"", "true", "[1]"] {
        refused(earning("1", amount), "earning.per_amount");
    }
    refused(earning("1", "10000000000.01"), "earning.per_amount");
    assert_eq!(earning("1", "10000000000.00").unwrap().earning.per_amount_minor, 1_000_000_000_000);
    assert_eq!(earning("1", "0.1").unwrap().earning.per_amount_minor, 10);
    refused(with("earning", r#"{"points":1}"#), "earning.per_amount");
    refused(with("earning", r#"{"per_amount":1}"#), "earning.points");
    refused(with("earning", r#"{"points":1,"per_amount":1,"rounding":"nearest"}"#), "earning.rounding");
}

#[test]
fn levels_ascend_and_are_unique() {
    let levels = |list: &str| with("tiers", &format!(r#"{{"levels":[{list}]}}"#));
    let level = |name: &str, from: &str, by: &str| format!(r#"{{"name":"{name}","from":{from},"multiplier":{by}}}"#);
    let base = level("A", "0", "1");
    refused(levels(&level("A", "1", "1")), "tiers.levels[0].from");
    refused(levels(&level("", "0", "1")), "tiers.levels[0].name");
    refused(levels(&level("a\\tb", "0", "1")), "tiers.levels[0].name");
    refused(levels(&level(&"é".repeat(65), "0", "1")), "tiers.levels[0].name");
    assert!(levels(&level(&"é".repeat(64), "0", "1")).is_ok());
    refused(levels(&format!("{base},{}", level("A", "1", "1"))), "tiers.levels[1].name");
    for from in ["0", "\"0.00\"", "-1", "0.001", "10000000000000.01", "null"] {
        refused(levels(&format!("{base},{}", level("B", from, "1"))), "tiers.levels[1].from");
    }
    let two = format!("{base},{}", level("B", "1", "1"));
    refused(levels(&format!("{two},{}", level("C", "1.00", "1"))), "tiers.levels[2].from");
    for multiplier in ["-1", "100.0001", "101", "0.00001", "1e1", "\"1.\"", "\".5\"", "\"01\"", "null", "{}"] {
        refused(levels(&level("A", "0", multiplier)), "tiers.levels[0].multiplier");
    }
    for (multiplier, value) in [("0", 0), ("\"0.5\"", 5_000), ("1.2500", 12_500), ("100.0000", 1_000_000)] {
        let document = levels(&level("A", "0", multiplier)).unwrap();
        assert_eq!(document.tiers.levels[0].multiplier, value);
        assert_eq!(document.tiers.window, Window::Rolling12Months);
    }
    let many = |count: usize| {
        let list: Vec<_> = (0..count).map(|i| level(&format!("L{i}"), &i.to_string(), "1")).collect();
        levels(&list.join(","))
    };
    assert_eq!(many(LEVELS_MAX).unwrap().tiers.levels.len(), 20);
    refused(many(LEVELS_MAX + 1), "tiers.levels");
}

#[test]
fn points_become_available_before_they_expire() {
    let both = |expiry: &str, days: u32| {
        let mut document = smallest();
        document["pending"] = json!({"days": days});
        document["expiry"] = serde_json::from_str(expiry).unwrap();
        parse(&document.to_string())
    };
    assert!(both(r#"{"days":14}"#, 14).is_ok());
    refused(both(r#"{"days":14}"#, 15), "pending.days");
    assert!(both(r#"{"months":1}"#, 28).is_ok());
    refused(both(r#"{"months":1}"#, 29), "pending.days");
    assert!(both("\"none\"", PENDING_DAYS_MAX).is_ok());
}

#[test]
fn a_lower_longest_hold_lowers_the_default() {
    let holds = with("holds", r#"{"max_ttl_seconds":600}"#).unwrap().holds;
    assert_eq!(holds, Holds { default_ttl_seconds: 600, max_ttl_seconds: 600 });
    assert_eq!(with("negative_balance", "\"refuse\"").unwrap().negative_balance, NegativeBalance::Refuse);
}

#[test]
fn multipliers_have_no_trailing_zeros() {
    for (multiplier, text) in
        [(0, "0"), (1, "0.0001"), (10_000, "1"), (12_500, "1.25"), (15_000, "1.5"), (1_000_000, "100")]
    {
        assert_eq!(format_multiplier(multiplier), text);
    }
}

fn round_tos() -> impl Strategy<Value = RoundTo> {
    prop::sample::select(vec![RoundTo::Day, RoundTo::EndOfMonth, RoundTo::EndOfQuarter, RoundTo::EndOfYear])
}

prop_compose! {
    fn documents()(
        name in "[a-zA-Z \"\\\\é€]{1,40}",
        code in prop::sample::select(vec!["USD", "JPY", "KWD", "IDR"]),
        points in 1..=money::POINTS_MAX,
        per_amount_minor in 1..=money::AMOUNT_MINOR_MAX,
        rounding in prop::sample::select(vec![Rounding::Down, Rounding::HalfUp, Rounding::HalfEven, Rounding::Up]),
        window in prop::sample::select(vec![Window::Lifetime, Window::CalendarYear, Window::Rolling12Months]),
        thresholds in prop::collection::btree_map(1..=THRESHOLD_MINOR_MAX, 0..=MULTIPLIER_MAX, 0..LEVELS_MAX),
        expiry in prop_oneof![
            Just(Expiry::None),
            (1..=EXPIRY_DAYS_MAX, round_tos()).prop_map(|(n, to)| Expiry::Days(n, to)),
            (1..=EXPIRY_MONTHS_MAX, round_tos()).prop_map(|(n, to)| Expiry::Months(n, to)),
        ],
        pending_share in 0..=100u32,
        floor in prop::option::of(-DEBT_POINTS_MAX..=0),
        default_ttl_seconds in 1..=HOLD_TTL_SECONDS_MAX,
        late_days_max in prop::option::of(0..=LATE_DAYS_MAX),
        auto_enroll in any::<bool>(),
    ) -> Document {
        let limit = match expiry {
            Expiry::None => PENDING_DAYS_MAX,
            Expiry::Days(n, _) => n.min(PENDING_DAYS_MAX),
            Expiry::Months(n, _) => (n * 28).min(PENDING_DAYS_MAX),
        };
        let levels = std::iter::once((0, MULTIPLIER_ONE)).chain(thresholds).enumerate().map(
            |(index, (from_minor, multiplier))| Level { name: format!("Tier {index}"), from_minor, multiplier },
        );
        Document {
            name,
            time_zone: "Europe/Paris".to_owned(),
            currency: Currency::from_code(code).unwrap(),
            earning: Earning { points, per_amount_minor, rounding },
            tiers: Tiers { window, levels: levels.collect() },
            expiry,
            pending_days: limit * pending_share / 100,
            negative_balance: floor.map_or(NegativeBalance::Refuse, NegativeBalance::Debt),
            holds: Holds { default_ttl_seconds, max_ttl_seconds: HOLD_TTL_SECONDS_MAX },
            late_days_max,
            auto_enroll,
        }
    }
}

proptest! {
    #[test]
    fn the_canonical_form_is_the_document(document in documents()) {
        let json = document.to_canonical_json();
        prop_assert_eq!(&parse(&json).unwrap(), &document);
        // Neither white space nor the order of members makes another document.
        let value: Value = serde_json::from_str(&json).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(parse(&pretty).unwrap().to_canonical_json(), json);
    }

    #[test]
    fn any_text_is_answered(text in "[\\[\\]{}\",:a-z0-9. \\\\-]{0,200}") {
        let _ = parse(&text);
    }
}
