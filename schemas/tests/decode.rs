//! Bodies in: what is accepted, what is refused and by which name, and that nothing panics.
#![allow(clippy::unwrap_used)]

use meed_schemas::command::{Basis, Command, Earn, Portion, References, Status};
use meed_schemas::http::{
    BATCH_ITEMS_MAX, BadRequest, BatchError, BatchFormat, BusinessKey, Decoded, KeyKind, Operation, decode,
    decode_batch, decode_lookup, decode_nothing, subject,
};
use meed_schemas::ids::Position;
use meed_schemas::money::Currency;
use meed_schemas::time;
use proptest::prelude::*;

fn idr() -> Currency {
    Currency::from_code("IDR").unwrap()
}

fn take(operation: Operation, body: &str) -> Result<Decoded<'_>, BadRequest> {
    decode(operation, body.as_bytes(), subject("3-17"), idr())
}

fn command(operation: Operation, body: &str) -> Command {
    take(operation, body).unwrap_or_else(|error| panic!("{body}: {error:?}")).command
}

fn refused_field(operation: Operation, body: &[u8]) -> String {
    match decode(operation, body, Position::default(), idr()) {
        Ok(decoded) => panic!("accepted {}: {decoded:?}", String::from_utf8_lossy(body)),
        Err(error) => error.field,
    }
}

const TILL: &str = r#""store_id":"s-1","transaction_id":"t 1","user_identifier":"+62 812"#;

fn sale(rest: &str) -> String {
    format!("{{{TILL}\",\"timestamp\":\"2026-11-21T01:02:03Z\"{rest}}}")
}

/// A retry may describe what the first request did not, and the other way round.
#[test]
fn what_is_not_compared_leaves_the_form_of_a_request_alone() {
    let form = |rest: &str| {
        let mut bytes = Vec::new();
        command(Operation::Earn, &format!(r#"{{"points":5{rest}}}"#)).write_canonical(&mut bytes);
        bytes
    };
    let bare = form("");
    for rest in [r#","description":"a""#, r#","metadata":{"x":1}"#, r#","description":"b","metadata":{}"#] {
        assert_eq!(form(rest), bare, "{rest}");
        let (source, described) = (r#","source":"web""#, format!(r#"{rest},"source":"web""#));
        assert_eq!(form(&described), form(source), "{described}");
        assert_ne!(form(source), bare);
    }
}

#[test]
fn an_earn_with_every_member() {
    let body = r#" { "points" : 5 , "source":"PURCHASE","reference_id":"r\u002d1","description":"two\nlines",
        "occurred_at":"2026-11-21T08:02:03.0049+07:00","expires_at":"2027-01-01T00:00:00Z",
        "activates_at":"2026-12-01T00:00:00Z","metadata":{ "a" : [1, 2] }, "amount": null } "#;
    let decoded = take(Operation::Earn, body).unwrap();
    assert_eq!(decoded.business_key(), Some(BusinessKey::reference(KeyKind::Earn, "r-1", Some("PURCHASE"))));
    let references = References {
        source: Some("PURCHASE".into()),
        reference_id: Some("r-1".into()),
        description: Some("two\nlines".into()),
        metadata: Some(r#"{"a":[1,2]}"#.into()),
        ..References::default()
    };
    let earn = Earn {
        basis: Basis::Points(5),
        occurred_at: time::parse("2026-11-21T01:02:03.004Z"),
        expires_at: time::parse("2027-01-01T00:00:00Z"),
        activates_at: time::parse("2026-12-01T00:00:00Z"),
    };
    assert_eq!(decoded.command, Command::Earn { earn, references: Some(Box::new(references)) });
}

#[test]
fn null_is_absent_and_references_are_boxed_only_when_there_is_one() {
    let body = r#"{"points":5,"source":null,"metadata":null,"occurred_at":null,"expires_at":null}"#;
    let earn = Earn { basis: Basis::Points(5), occurred_at: None, expires_at: None, activates_at: None };
    assert_eq!(command(Operation::Earn, body), Command::Earn { earn, references: None });
    assert_eq!(take(Operation::Earn, body).unwrap().business_key(), None);
}

#[test]
fn money_is_read_exactly() {
    for (text, minor) in [
        ("\"19.90\"", 1_990),
        ("19.90", 1_990),
        ("19.9", 1_990),
        ("20", 2_000),
        ("0", 0),
        ("\"0.00\"", 0),
        ("\"\\u0031.5\"", 150),
        ("0.07", 7),
        ("10000000000.00", 1_000_000_000_000),
    ] {
        let body = format!("{{\"amount\":{text}}}");
        let Command::Earn { earn, .. } = command(Operation::Earn, &body) else { panic!() };
        assert_eq!(earn.basis, Basis::Amount(minor), "{text}");
    }
    for text in [
        "0.001",
        "\"19.900\"",
        "-1",
        "-0",
        "\"-0\"",
        "\"+1\"",
        "1e3",
        "1E0",
        "1e400",
        "\"1,5\"",
        "\"\"",
        "\" 1\"",
        "\"01\"",
        "10000000000.01",
        "99999999999999999999999",
        "true",
        "[]",
        "{}",
    ] {
        assert_eq!(refused_field(Operation::Earn, format!("{{\"amount\":{text}}}").as_bytes()), "amount", "{text}");
    }
    let yen = Currency::from_code("JPY").unwrap();
    assert!(decode(Operation::Earn, br#"{"amount":"5"}"#, Position::default(), yen).is_ok());
    assert!(decode(Operation::Earn, br#"{"amount":"5.0"}"#, Position::default(), yen).is_err());
}

#[test]
fn points_are_integer_literals() {
    let text = "1000000000000";
    assert!(take(Operation::Redeem, &format!("{{\"points\":{text}}}")).is_ok());
    for text in [
        "0",
        "-0",
        "-1",
        "5.0",
        "5e0",
        "5E0",
        "1e400",
        "\"5\"",
        "1000000000001",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "true",
        "[5]",
        "{\"a\":5}",
    ] {
        for operation in [Operation::Earn, Operation::Redeem, Operation::Hold, Operation::Capture, Operation::Reverse] {
            assert_eq!(refused_field(operation, format!("{{\"points\":{text}}}").as_bytes()), "points", "{text}");
        }
    }
    let adjusted = |text: &str| command(Operation::Adjust, &format!("{{\"points\":{text}}}"));
    assert_eq!(adjusted("-5"), Command::Adjust { points: -5, expires_at: None, references: None });
    for text in ["0", "-0", "-1000000000001", "5.0"] {
        assert_eq!(refused_field(Operation::Adjust, format!("{{\"points\":{text}}}").as_bytes()), "points", "{text}");
    }
}

#[test]
fn what_is_malformed_is_the_body() {
    let deep = "[".repeat(60_000);
    let texts = [
        "{",
        "{\"points\"",
        "{\"points\":",
        "{\"points\":5",
        "{\"points\":5,",
        "{\"points\":5,}",
        "{\"points\":5}}",
        "{\"points\":5} x",
        "{\"points\":5}{}",
        "[]",
        "5",
        "\"points\"",
        "null",
        "true",
        "1e400",
        "{points:5}",
        "{'points':5}",
        "{\"points\":05}",
        "{\"points\":+5}",
        "{\"points\":.5}",
        "{\"points\":NaN}",
        "{\"source\":\"a\tb\"}",
        "{\"source\":\"\\x\"}",
        "{\"source\":\"\\u12\"}",
        "\u{feff}{\"points\":5}",
        &deep,
        "{\"points\":5}\0",
        "{5:5}",
    ];
    for text in texts {
        assert_eq!(refused_field(Operation::Earn, text.as_bytes()), "body", "{text:.40}");
    }
    for bytes in [&b"\xff"[..], b"{\"points\":5}\xff", b"{\"source\":\"\xc3\x28\"}", b"{\"source\":\"\xed\xa0\x80\"}"] {
        assert_eq!(refused_field(Operation::Earn, bytes), "body", "{bytes:?}");
    }
    let whole = br#"{"points":5,"source":"a\u0062","metadata":{"a":[1,{"b":null}]}}"#;
    assert!(decode(Operation::Earn, whole, Position::default(), idr()).is_ok());
    for end in 1..whole.len() {
        assert_eq!(refused_field(Operation::Earn, &whole[..end]), "body", "cut at {end}");
    }
}

#[test]
fn the_member_that_is_wrong_is_named() {
    let long = |bytes: usize| "x".repeat(bytes);
    let table: &[(Operation, String, &str)] = &[
        (Operation::Earn, String::new(), "points"),
        (Operation::Earn, "{}".into(), "points"),
        (Operation::Earn, "  ".into(), "points"),
        (Operation::Earn, r#"{"points":null}"#.into(), "points"),
        (Operation::Earn, r#"{"points":5,"amount":"1"}"#.into(), "amount"),
        (Operation::Earn, r#"{"points":5,"points":5}"#.into(), "points"),
        (Operation::Earn, r#"{"points":5,"\u0070oints":5}"#.into(), "points"),
        (Operation::Earn, r#"{"points":5,"source":null,"source":null}"#.into(), "source"),
        (Operation::Earn, r#"{"points":5,"Points":5}"#.into(), "Points"),
        (Operation::Earn, r#"{"points":5,"bonus":{"a":1}}"#.into(), "bonus"),
        (Operation::Earn, r#"{"points":5,"bonus":null}"#.into(), "bonus"),
        (Operation::Earn, r#"{"points":5,"reward_id":"r"}"#.into(), "reward_id"),
        (Operation::Earn, r#"{"points":5,"op":"earn"}"#.into(), "op"),
        (Operation::Earn, r#"{"points":5,"source":5}"#.into(), "source"),
        (Operation::Earn, r#"{"points":5,"source":""}"#.into(), "source"),
        (Operation::Earn, r#"{"points":5,"source":"a\u0000"}"#.into(), "source"),
        (Operation::Earn, r#"{"points":5,"source":"a\u0085"}"#.into(), "source"),
        (Operation::Earn, r#"{"points":5,"source":"\ud800"}"#.into(), "source"),
        (Operation::Earn, format!(r#"{{"points":5,"reference_id":"{}"}}"#, long(256)), "reference_id"),
        (Operation::Earn, format!(r#"{{"points":5,"description":"{}"}}"#, long(501)), "description"),
        (Operation::Earn, r#"{"points":5,"metadata":[]}"#.into(), "metadata"),
        (Operation::Earn, r#"{"points":5,"metadata":"{}"}"#.into(), "metadata"),
        (Operation::Earn, r#"{"points":5,"metadata":{"a":{"k":1,"k":2}}}"#.into(), "metadata.k"),
        (Operation::Earn, format!(r#"{{"points":5,"metadata":{{"a":"{}"}}}}"#, long(4_096)), "metadata"),
        (Operation::Earn, r#"{"points":5,"occurred_at":"2026-11-21T01:02:03"}"#.into(), "occurred_at"),
        (Operation::Earn, r#"{"points":5,"occurred_at":"9999-12-31T23:59:59-01:00"}"#.into(), "occurred_at"),
        (Operation::Earn, r#"{"points":5,"occurred_at":1795222923004}"#.into(), "occurred_at"),
        (Operation::Earn, r#"{"points":5,"expires_at":"soon"}"#.into(), "expires_at"),
        (Operation::Redeem, "{}".into(), "points"),
        (Operation::Redeem, r#"{"points":5,"amount":"5"}"#.into(), "amount"),
        (Operation::Adjust, r#"{"points":-5,"expires_at":"2027-01-01T00:00:00Z"}"#.into(), "expires_at"),
        (Operation::Adjust, r#"{"reason":"x"}"#.into(), "points"),
        (Operation::Hold, r#"{"points":5,"ttl_seconds":0}"#.into(), "ttl_seconds"),
        (Operation::Hold, r#"{"points":5,"ttl_seconds":1.5}"#.into(), "ttl_seconds"),
        (Operation::Void, r#"{"points":5}"#.into(), "points"),
        (Operation::Reverse, r#"{"points":5,"amount":5}"#.into(), "amount"),
        (Operation::SetStatus, "{}".into(), "status"),
        (Operation::SetStatus, r#"{"status":"Active"}"#.into(), "status"),
        (Operation::SetTier, r#"{"reason":"x"}"#.into(), "new_tier"),
        (Operation::SetTier, r#"{"new_tier":5}"#.into(), "new_tier"),
        (Operation::SetTier, r#"{"new_tier":null,"until":"2027-01-01T00:00:00Z"}"#.into(), "until"),
        (Operation::Pos, "{}".into(), "store_id"),
        (Operation::Pos, r#"{"store_id":"s"}"#.into(), "transaction_id"),
        (Operation::Pos, r#"{"store_id":"s","transaction_id":"t"}"#.into(), "user_identifier"),
        (Operation::Pos, sale(""), "amount"),
        (Operation::Pos, format!("{{{TILL}\",\"amount\":5}}"), "timestamp"),
        (Operation::Pos, sale(r#","amount":5,"currency":"USD""#), "currency"),
        (Operation::Pos, sale(r#","amount":5,"currency":"idr""#), "currency"),
        (Operation::Pos, sale(r#","amount":5,"redeem_points":0"#), "redeem_points"),
        (Operation::Pos, sale(r#","amount":5,"terminal_id":"a b""#), "terminal_id"),
        (Operation::Pos, sale(r#","amount":5,"reason":"x""#), "reason"),
        (Operation::PosReturn, sale(""), "original_transaction_id"),
        (Operation::PosReturn, sale(r#","original_transaction_id":"t","redeem_points":5"#), "redeem_points"),
    ];
    for (operation, body, field) in table {
        assert_eq!(refused_field(*operation, body.as_bytes()), *field, "{operation:?} {body:.120}");
    }
    let unknown = format!("{{\"{}\":1}}", "é".repeat(500));
    assert_eq!(refused_field(Operation::Earn, unknown.as_bytes()), "é".repeat(64));
}

#[test]
fn a_refusal_never_repeats_a_value() {
    for body in [r#""secret-value""#, r#"{"points":"secret-value"}"#, r#"{"source":["secret-value"]}"#] {
        let error = take(Operation::Earn, body).unwrap_err();
        assert!(!format!("{error:?}").contains("secret-value"), "{error:?}");
    }
}

#[test]
fn texts_at_their_bounds() {
    let body = format!(
        r#"{{"points":5,"reference_id":"{}","description":"{}","source":"é ü"}}"#,
        "r".repeat(255),
        "d".repeat(500)
    );
    assert!(take(Operation::Earn, &body).is_ok());
    assert!(take(Operation::Earn, r#"{"points":5,"description":""}"#).is_ok());
}

#[test]
fn operations_on_what_the_path_names() {
    let position = Position::new(3, 17);
    assert_eq!(command(Operation::Capture, ""), Command::Capture { hold: position, points: None, references: None });
    assert_eq!(command(Operation::Void, "{}"), Command::Void { hold: position, references: None });
    let reverse = |body: &str| match command(Operation::Reverse, body) {
        Command::Reverse { original, portion, .. } => {
            assert_eq!(original, position);
            portion
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(reverse(""), Portion::Rest);
    assert_eq!(reverse(r#"{"amount":"5"}"#), Portion::Amount(500));
    assert_eq!(reverse(r#"{"points":5}"#), Portion::Points(5));
    let keyed = take(Operation::Reverse, r#"{"reference_id":"r"}"#).unwrap();
    assert_eq!(keyed.business_key(), Some(BusinessKey::reference(KeyKind::Reverse, "r", None)));
    for id in ["", "x", "3", "3-0", "3-01", "4096-1", "3-17 ", "-1-1"] {
        assert_eq!(subject(id), Position::default(), "{id}");
    }
}

#[test]
fn status_tier_and_small_bodies() {
    let Command::SetStatus { status, references } =
        command(Operation::SetStatus, r#"{"status":"frozen","reason":"x"}"#)
    else {
        panic!()
    };
    assert_eq!((status, references.unwrap().reason.as_deref()), (Status::Frozen, Some("x")));
    let tier = |body: &str| command(Operation::SetTier, body);
    assert_eq!(tier(r#"{"new_tier":null}"#), Command::SetTier { tier: None, until: None, references: None });
    let gold = tier(r#"{"new_tier":"GOLD","until":"1970-01-01T00:00:01Z"}"#);
    assert_eq!(gold, Command::SetTier { tier: Some("GOLD".into()), until: Some(1_000), references: None });
    assert_eq!(decode_lookup(br#"{"user_identifier":"email:a@b"}"#).unwrap(), "email:a@b");
    assert_eq!(decode_lookup(b"{}").unwrap_err().field, "user_identifier");
    assert_eq!(decode_lookup(br#"{"user_identifier":""}"#).unwrap_err().field, "user_identifier");
    assert_eq!(decode_nothing(b""), Ok(()));
    assert_eq!(decode_nothing(b" {} "), Ok(()));
    assert_eq!(decode_nothing(br#"{"points":5}"#).unwrap_err().field, "points");
    assert_eq!(decode_nothing(b"[]").unwrap_err().field, "body");
}

#[test]
fn tills_name_account_and_keys() {
    let body = sale(r#","amount":"19.90","redeem_points":7,"terminal_id":"t-1","currency":"IDR""#);
    let decoded = take(Operation::Pos, &body).unwrap();
    assert_eq!(decoded.account.as_deref(), Some("+62 812"));
    assert_eq!(decoded.business_key(), Some(BusinessKey::till("s-1", Some("t-1"), "t 1")));
    assert_eq!(decoded.sale_key(), None);
    let Command::Sale { amount, redeem_points, occurred_at, references } = decoded.command else { panic!() };
    assert_eq!((amount, redeem_points), (1_990, Some(7)));
    assert_eq!(Some(occurred_at), time::parse("2026-11-21T01:02:03Z"));
    assert_eq!(references.unwrap().pos_transaction_id.as_deref(), Some("t 1"));

    let body = sale(r#","original_transaction_id":"t 0","terminal_id":"t-1""#);
    let mut decoded = take(Operation::PosReturn, &body).unwrap();
    assert_eq!(decoded.sale_key(), Some(BusinessKey::till("s-1", Some("t-1"), "t 0")));
    assert_eq!(decoded.business_key(), Some(BusinessKey::till("s-1", Some("t-1"), "t 1")));
    decoded.set_sale(42);
    let Command::SaleReturn { sale, portion, .. } = decoded.command else { panic!() };
    assert_eq!((sale, portion), (42, Portion::Rest));
}

fn items(format: BatchFormat, body: &[u8]) -> Result<Vec<Result<Decoded<'_>, BadRequest>>, BatchError> {
    decode_batch(body, format, Some(Operation::Pos), idr(), BATCH_ITEMS_MAX)
}

/// Items of every operation, right and wrong, with the field that is refused.
fn batch_items() -> Vec<(String, Option<&'static str>)> {
    vec![
        (sale(r#","amount":5"#), None),
        (sale(r#","amount":5,"op":"pos","idempotency_key":"k""#), None),
        (sale(r#","original_transaction_id":"t","op":"pos_return""#), None),
        (r#"{"op":"earn","account":"m-1","points":5,"idempotency_key":"\"k 1\""}"#.into(), None),
        (r#"{"op":"redeem","account":"email:a@b","points":5}"#.into(), None),
        (r#"{"op":"adjust","account":"m-1","points":-5}"#.into(), None),
        (r#"{"op":"hold","account":"m-1","points":5}"#.into(), None),
        (r#"{"op":"capture","account":"m-1","hold_id":"3-17"}"#.into(), None),
        (r#"{"op":"void","account":"m-1","hold_id":"none of ours"}"#.into(), None),
        (r#"{"op":"reverse","account":"m-1","reverse_transaction_id":"3-17","points":5}"#.into(), None),
        ("5".into(), Some("body")),
        ("[]".into(), Some("body")),
        ("{}".into(), Some("store_id")),
        (r#"{"op":"balance","account":"m-1"}"#.into(), Some("op")),
        (r#"{"op":5}"#.into(), Some("op")),
        (r#"{"op":"earn","points":5}"#.into(), Some("account")),
        (r#"{"op":"earn","account":"m-1","points":5,"points":5}"#.into(), Some("points")),
        (r#"{"op":"earn","account":"m-1","points":5,"hold_id":"3-17"}"#.into(), Some("hold_id")),
        (r#"{"op":"earn","account":"m-1","points":5,"idempotency_key":""}"#.into(), Some("idempotency_key")),
        (r#"{"op":"earn","account":"m-1","points":5,"metadata":{"a":1,"a":1}}"#.into(), Some("metadata.a")),
        (r#"{"op":"capture","account":"m-1"}"#.into(), Some("hold_id")),
        (r#"{"op":"capture","account":"m-1","hold_id":5}"#.into(), Some("hold_id")),
        (r#"{"op":"reverse","account":"m-1"}"#.into(), Some("reverse_transaction_id")),
        (sale(r#","amount":5,"account":"m-1""#), Some("account")),
    ]
}

#[test]
fn both_batch_formats_have_the_same_items() {
    let table = batch_items();
    let texts: Vec<_> = table.iter().map(|(text, _)| text.as_str()).collect();
    let document = format!(" {{ \"items\" : [ {} ] }} ", texts.join(" ,\n "));
    let lines = format!("\n{}\r\n\n  \n", texts.join("\r\n"));
    let from_document = items(BatchFormat::Json, document.as_bytes()).unwrap();
    let from_lines = items(BatchFormat::Ndjson, lines.as_bytes()).unwrap();
    assert_eq!(from_document.len(), table.len());
    for (((text, field), one), other) in table.iter().zip(&from_document).zip(&from_lines) {
        assert_eq!(one.as_ref().err().map(|e| e.field.as_str()), *field, "{text}");
        assert_eq!(one, other, "{text}");
    }
    let earn = from_lines[3].as_ref().unwrap();
    assert_eq!((earn.idempotency_key.as_deref(), earn.account.as_deref()), (Some("k 1"), Some("m-1")));
    let single = take(Operation::Reverse, r#"{"points":5}"#).unwrap();
    assert_eq!(from_lines[9].as_ref().unwrap().command, single.command);
}

#[test]
fn a_malformed_line_is_one_item_and_a_malformed_document_is_all() {
    let good = r#"{"op":"earn","account":"m-1","points":5}"#;
    let mut lines = format!("{good}\n{{\"op\":\"earn\"\n").into_bytes();
    lines.extend_from_slice(b"\xff\n");
    lines.extend_from_slice(good.as_bytes());
    let fields: Vec<_> = items(BatchFormat::Ndjson, &lines).unwrap();
    let fields: Vec<_> = fields.iter().map(|item| item.as_ref().err().map(|e| e.field.as_str())).collect();
    assert_eq!(fields, [None, Some("body"), Some("body"), None]);
    for (body, field) in [
        (format!("{{\"items\":[{good},{{\"op\":\"earn\"}}"), "body"),
        (format!("{{\"items\":[{good}]}} x"), "body"),
        (format!("{{\"items\":[{good},]}}"), "body"),
        (format!("[{good}]"), "body"),
        ("{}".into(), "items"),
        (String::new(), "body"),
        (r#"{"items":null}"#.into(), "items"),
        (r#"{"items":{"secret":1}}"#.into(), "items"),
        (format!("{{\"items\":[{good}],\"items\":[]}}"), "items"),
        (r#"{"items":[],"mode":"atomic"}"#.into(), "mode"),
    ] {
        match items(BatchFormat::Json, body.as_bytes()) {
            Err(BatchError::BadRequest(error)) => assert_eq!(error.field, field, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_eq!(items(BatchFormat::Json, br#"{"items":[]}"#), Ok(Vec::new()));
    assert_eq!(items(BatchFormat::Ndjson, b""), Ok(Vec::new()));
}

#[test]
fn items_are_counted_before_anything_runs() {
    let document = |count: usize| format!("{{\"items\":[{}]}}", vec!["{}"; count].join(","));
    let lines = |count: usize| "{}\n".repeat(count);
    assert_eq!(items(BatchFormat::Json, document(BATCH_ITEMS_MAX).as_bytes()).unwrap().len(), BATCH_ITEMS_MAX);
    assert_eq!(items(BatchFormat::Ndjson, lines(BATCH_ITEMS_MAX).as_bytes()).unwrap().len(), BATCH_ITEMS_MAX);
    let too_many = Err(BatchError::TooManyItems(BATCH_ITEMS_MAX));
    assert_eq!(items(BatchFormat::Json, document(BATCH_ITEMS_MAX + 1).as_bytes()), too_many);
    assert_eq!(items(BatchFormat::Ndjson, lines(BATCH_ITEMS_MAX + 1).as_bytes()), too_many);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for operation in Operation::ALL {
            let _ = decode(operation, &body, Position::default(), idr());
        }
        let _ = items(BatchFormat::Json, &body);
        let _ = items(BatchFormat::Ndjson, &body);
        let _ = decode_lookup(&body);
    }

    /// Text that is nearly right reaches further than random bytes do.
    #[test]
    fn damaged_requests_never_panic(which in 0..24usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = batch_items()[which].0.clone().into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        for operation in Operation::ALL {
            let _ = decode(operation, &body, Position::default(), idr());
        }
        let _ = items(BatchFormat::Ndjson, &body);
        body.truncate(at);
        let _ = items(BatchFormat::Ndjson, &body);
    }
}
