//! The contract of what is malformed: numbers, JSON, ids, methods, media types, headers.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use contract::{JSON, SECOND_MS, Shop, at, json};

const EARN: &str = "/api/v1/points/m-1/earn";

#[test]
fn points_are_integer_literals() {
    let shop = Shop::open(json!({}));
    for points in [
        "5.0",
        "5e0",
        "1e400",
        "1E2",
        "-0",
        "0",
        "-1",
        "0.5",
        "9223372036854775808",
        "18446744073709551616",
        "1000000000001",
        "99999999999999999999999999999999999999",
        "\"5\"",
        "true",
        "[5]",
        "{}",
        "-9223372036854775809",
    ] {
        shop.post(EARN, format!("{{\"points\":{points}}}")).invalid("points");
        shop.post("/api/v1/points/m-1/redeem", format!("{{\"points\":{points}}}")).invalid("points");
        shop.post("/api/v1/points/m-1/holds", format!("{{\"points\":{points}}}")).invalid("points");
    }
    for points in ["1e400", "5.0", "-0", "9223372036854775808", "-1000000000001"] {
        shop.post("/api/v1/points/m-1/adjust", format!("{{\"points\":{points},\"reason\":\"r\"}}")).invalid("points");
    }
    // No JSON at all.
    for points in ["05", "+5", ".5", "5.", "0x5", "NaN", "Infinity", "1e", "- 5", "1_000"] {
        shop.post(EARN, format!("{{\"points\":{points}}}")).problem(400, "invalid-request");
    }
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
}

#[test]
fn money_is_plain() {
    let shop = Shop::open(json!({}));
    for amount in [
        "1e2",
        "1E400",
        "\"1e2\"",
        "-1",
        "\"-1\"",
        "0.001",
        "\"0.001\"",
        "\"\"",
        "\" 1\"",
        "\"1 \"",
        "\"1,5\"",
        "\"+1\"",
        "\".5\"",
        "\"5.\"",
        "\"05.00\"",
        "true",
        "[1]",
        "{\"a\":1}",
        "9223372036854775808",
        "\"99999999999999999999999\"",
        "\"\u{661}\"",
        "\"0x10\"",
        "\"NaN\"",
        "10000000000.01",
        "1.10e1",
    ] {
        shop.post(EARN, format!("{{\"amount\":{amount}}}")).invalid("amount");
    }
    for amount in ["0", "0.1", "0.10", "\"0.10\"", "10000000000", "10000000000.00"] {
        let answer = shop.post(EARN, format!("{{\"amount\":{amount}}}"));
        assert_eq!(answer.status, 201, "{amount}: {answer:?}");
    }
}

#[test]
fn times_are_rfc_3339() {
    let shop = Shop::open(json!({}));
    for time in [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+0700",
        "2026-01-01 T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:00.Z",
        "",
        "now",
        "2026-01-01T00:00:00Z[UTC]",
        "2026-01-01T00:00:00+25:00",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
    ] {
        shop.on("m-1", "earn", json!({"points": 1, "occurred_at": time})).invalid("occurred_at");
    }
    for time in ["0", "1767225600000", "true", "{}"] {
        shop.post(EARN, format!("{{\"points\":1,\"occurred_at\":{time}}}")).invalid("occurred_at");
    }
    for (time, expected) in [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000Z"),
        ("2026-01-01T00:00:00.1234567891+00:00", "2026-01-01T00:00:00.123Z"),
        ("2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00.000Z"),
        ("2025-12-31T23:30:00-05:30", "2026-01-01T05:00:00.000Z"),
        ("2024-02-29T12:00:00.9999Z", "2024-02-29T12:00:00.999Z"),
    ] {
        let earn = shop.done("m-1", "earn", json!({"points": 1, "occurred_at": time}));
        assert_eq!(earn["occurred_at"], expected, "{time}");
    }
}

#[test]
fn malformed_json_is_refused() {
    let shop = Shop::open(json!({}));
    let deep = format!("{{\"points\":1,\"metadata\":{{\"a\":{}{}}}}}", "[".repeat(3000), "]".repeat(3000));
    let deeper = "[".repeat(60_000);
    for body in [
        "",
        " ",
        "{",
        "}",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{\"points\":1",
        "{\"points\":1}}",
        "{\"points\":1} 2",
        "{'points':1}",
        "{points:1}",
        "{\"points\":1,}",
        "{\"points\" 1}",
        "\u{feff}{\"points\":1}",
        "{\"points\":1}\u{0}",
        "// x\n{\"points\":1}",
        "{\"points\":1,\"source\":\"a\nb\"}",
        "{\"points\":1,\"source\":\"\\x\"}",
        "{\"points\":1,\"source\":\"\\ud800\"}",
        deep.as_str(),
        deeper.as_str(),
    ] {
        let answer = shop.post(EARN, body);
        let shown: String = body.chars().take(40).collect();
        assert_eq!(answer.status, 400, "{shown}: {answer:?}");
        answer.problem(400, "invalid-request");
    }
    for bytes in [
        b"{\"points\":1,\"source\":\"\xff\"}".as_slice(),
        b"\xff\xfe{\x00",
        b"{\"points\":1,\"source\":\"\xc0\xaf\"}",
        b"{\"points\":1,\"description\":\"\xed\xa0\x80\"}",
    ] {
        let answer = shop.ask("POST", EARN, &[JSON, ("Idempotency-Key", "k")], bytes);
        answer.problem(400, "invalid-request");
    }
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
}

#[test]
fn members_are_known_and_given_once() {
    let shop = Shop::open(json!({}));
    shop.post(EARN, "{\"points\":1,\"points\":1}").invalid("points");
    shop.post(EARN, "{\"points\":1,\"po\\u0069nts\":1}").invalid("points");
    shop.post(EARN, "{\"points\":null,\"points\":1}").invalid("points");
    shop.post(EARN, "{\"points\":1,\"Points\":1}").invalid("Points");
    shop.post(EARN, "{\"points\":1,\"x\":null}").invalid("x");
    shop.post(EARN, "{\"points\":1,\"reward_id\":\"r\"}").invalid("reward_id");
    shop.post(EARN, "{\"points\":1,\"reason\":\"r\"}").invalid("reason");
    shop.post("/api/v1/points/m-1/redeem", "{\"points\":1,\"amount\":\"1\"}").invalid("amount");
    shop.post(EARN, "{\"points\":1,\"metadata\":{\"a\":1,\"a\":2}}").problem(400, "invalid-request");
    shop.post(EARN, "{\"points\":1,\"metadata\":\"x\"}").invalid("metadata");
    shop.post(EARN, "{\"points\":1,\"description\":5}").invalid("description");
    shop.get("/api/v1/points/m-1/balance").problem(404, "unknown-account");
}

#[test]
fn texts_have_bounds() {
    let shop = Shop::open(json!({}));
    let euro = |bytes: usize| "€".repeat(bytes / 3) + &"x".repeat(bytes % 3);
    for (name, longest) in [("reference_id", 255), ("source", 255), ("description", 500)] {
        shop.done("m-1", "earn", json!({"points": 1, name: euro(longest)}));
        shop.on("m-1", "earn", json!({"points": 1, name: euro(longest + 1)})).invalid(name);
        if name != "description" {
            for text in ["", "a\u{0}b", "a\nb", "\u{7f}", "a\u{85}b"] {
                shop.on("m-1", "earn", json!({"points": 1, name: text})).invalid(name);
            }
        }
    }
    shop.done("m-1", "redeem", json!({"points": 1, "reward_id": euro(255)}));
    shop.on("m-1", "redeem", json!({"points": 1, "reward_id": euro(256)})).invalid("reward_id");
    shop.done("m-1", "adjust", json!({"points": 1, "reason": euro(500)}));
    shop.on("m-1", "adjust", json!({"points": 1, "reason": euro(501)})).invalid("reason");
    let metadata = |bytes: usize| json!({"a": "x".repeat(bytes - 8)});
    shop.done("m-1", "earn", json!({"points": 1, "metadata": metadata(4096)}));
    shop.on("m-1", "earn", json!({"points": 1, "metadata": metadata(4097)})).invalid("metadata");
    shop.done("m-1", "earn", json!({"points": 1, "metadata": {}}));
}

#[test]
fn ids_in_paths() {
    let shop = Shop::open(json!({}));
    let longest = "a".repeat(128);
    for (account, id) in [
        (longest.as_str(), longest.as_str()),
        ("m%2D1", "m-1"),
        ("%6d-1", "m-1"),
        ("a~b!$&'()*,;=", "a~b!$&'()*,;="),
        ("%22x%22", "\"x\""),
        ("a%5C", "a\\"),
        ("...", "..."),
        ("-", "-"),
    ] {
        let earn = shop.on(account, "earn", json!({"points": 1})).expect(201);
        assert_eq!(earn["account_id"], id);
        let key = json!({"op": "earn", "account": id, "idempotency_key": format!("b{account}"), "points": 1});
        let results = shop.post_bare("/api/v1/batch", json!({"items": [key]})).expect(207);
        assert_eq!(results["results"][0]["body"]["account_id"], id);
    }
    for account in [
        "a%20b",
        "a%2Fb",
        "a%3Fb",
        "a%23b",
        "a%25b",
        "%00",
        "%7F",
        "%C3%A9",
        "%2E%2E",
        ".",
        "..",
        "a%2",
        "a%zz",
        "%FF",
        &"a".repeat(129),
    ] {
        let answer = shop.on(account, "earn", json!({"points": 1}));
        assert!(matches!(answer.status, 400 | 404), "{account}: {answer:?}");
        assert!(answer.body.contains("invalid-request") || answer.body.contains("not-found"), "{account}: {answer:?}");
        let answer = shop.get(&format!("/api/v1/points/{account}/balance"));
        assert!(matches!(answer.status, 400 | 404), "{account}: {answer:?}");
    }
    shop.on("a%2525b", "earn", json!({"points": 1})).invalid("account");
    for account in ["", " ", "a b", "a/b", ".", "..", "é", "a\n"] {
        let item = json!({"op": "earn", "account": account, "idempotency_key": "k", "points": 1});
        let results = shop.post_bare("/api/v1/batch", json!({"items": [item]})).expect(207);
        assert_eq!(results["results"][0]["status"], 400, "{account:?}: {results}");
        assert_eq!(results["results"][0]["body"]["field"], "account", "{account:?}: {results}");
    }
    for path in [
        "/api/v1/points//earn",
        "/api/v1/points/m-1/earn/",
        "/api/v1/points/m-1/Earn",
        "/api/v1/points/m-1",
        "/api/v2/points/m-1/earn",
        "/",
        "//",
    ] {
        shop.post(path, "{\"points\":1}").problem(404, "not-found");
    }
}

#[test]
fn methods_are_those_of_the_path() {
    let shop = Shop::open(json!({}));
    for (method, path, allow) in [
        ("GET", EARN, "POST"),
        ("PUT", EARN, "POST"),
        ("DELETE", "/api/v1/points/m-1/balance", "GET"),
        ("POST", "/api/v1/accounts/m-1/aliases/card:1", "DELETE"),
        ("PATCH", "/api/v1/programs/x", "PUT"),
        ("GET", "/api/v1/batch", "POST"),
        ("BREW", "/api/v1/batch", "POST"),
    ] {
        let answer = shop.ask(method, path, &[], b"");
        answer.problem(405, "method-not-allowed");
        let allowed = answer.header("allow").unwrap();
        assert!(allowed.split(',').any(|name| name.trim() == allow), "{method} {path}: {allowed}");
    }
    shop.ask("POST", "/api/v1/accounts/m-1", &[JSON], b"").problem(405, "method-not-allowed");
}

#[test]
fn media_types() {
    let shop = Shop::open(json!({}));
    let send = |path: &str, media: &str| {
        shop.ask("POST", path, &[("Content-Type", media), ("Idempotency-Key", "k")], b"{\"points\":1}")
    };
    for media in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        "json",
        "application/jsonp",
    ] {
        send(EARN, media).problem(415, "unsupported-media-type");
    }
    assert_eq!(send(EARN, "application/json; charset=utf-8").status, 201);
    assert_eq!(send(EARN, "Application/JSON").status, 201);
    shop.ask("POST", "/api/v1/batch", &[("Content-Type", "text/plain")], b"{\"items\":[]}")
        .problem(415, "unsupported-media-type");
    // Without one it is taken for JSON.
    let bare = shop.ask("POST", EARN, &[("Idempotency-Key", "k")], b"{\"points\":1}");
    assert_eq!(bare.status, 201, "{bare:?}");
}

#[test]
fn sizes_have_limits() {
    let shop = Shop::open(json!({}));
    let padded = |bytes: usize| format!("{{\"points\":1{}}}", " ".repeat(bytes - 12));
    assert_eq!(shop.post(EARN, padded(64 * 1024)).status, 201);
    shop.post(EARN, padded(64 * 1024 + 1)).problem(413, "payload-too-large");
    let long = "x".repeat(17 * 1024);
    shop.ask("GET", "/api/v1/version", &[("X-Long", &long)], b"").problem(431, "headers-too-large");
    let many: Vec<(&str, &str)> = vec![("X-A", "1"); 120];
    shop.ask("GET", "/api/v1/version", &many, b"").problem(431, "headers-too-large");
    assert_eq!(shop.points("m-1")[0], 1);
}

#[test]
fn request_ids_and_traces() {
    let shop = Shop::open(json!({}));
    let ask = |id: &str| shop.ask("POST", EARN, &[JSON, ("Request-Id", id)], b"{}");
    for id in ["my-id-1", "~!@#$%^&*()_+", &"x".repeat(128)] {
        let answer = ask(id);
        assert_eq!(answer.header("request-id"), Some(id));
        assert_eq!(answer.json()["instance"], format!("/requests/{id}"));
    }
    for id in ["", &"x".repeat(129), "é"] {
        let made = ask(id).header("request-id").unwrap().to_owned();
        assert!(!made.is_empty() && made != id, "{made}");
    }
    let (one, two) = (shop.get("/livez"), shop.get("/livez"));
    assert_ne!(one.header("request-id"), two.header("request-id"));
    for trace in ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "nonsense", ""] {
        let answer =
            shop.ask("POST", EARN, &[JSON, ("Idempotency-Key", "t"), ("traceparent", trace)], b"{\"points\":1}");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

#[test]
fn a_body_where_none_is_needed() {
    let shop = Shop::open(json!({}));
    let earn = shop.earn("m-1", 10);
    let hold = shop.done("m-1", "holds", json!({"points": 3}));
    let capture = shop.post(&format!("/api/v1/points/m-1/holds/{}/capture", hold["hold_id"].as_str().unwrap()), "");
    assert_eq!(capture.status, 201, "{capture:?}");
    let reverse = shop.post(&format!("/api/v1/points/m-1/transactions/{}/reverse", contract::id(&earn)), "");
    assert_eq!(reverse.status, 201, "{reverse:?}");
    shop.post(EARN, "").problem(400, "invalid-request");
}

#[test]
fn operations_endpoints() {
    let shop = Shop::open(json!({}));
    for path in ["/health", "/livez", "/health/live", "/readyz", "/health/ready", "/readyz?verbose", "/api/v1/version"]
    {
        assert_eq!(shop.get(path).status, 200, "{path}");
    }
    shop.get("/api/v1/nothing").problem(404, "not-found");
    // The header that names a program has the form of an id.
    let answer = shop.ask("GET", "/api/v1/points/m-1/balance", &[("Program", "again")], b"");
    assert!(matches!(answer.status, 400 | 404), "{answer:?}");
    let bad = Shop::named("a b").without_check();
    bad.get("/api/v1/points/m-1/balance").problem(400, "invalid-request");
    let none = Shop::named("none").without_check();
    none.get("/api/v1/points/m-1/balance").problem(404, "unknown-program");
}

#[test]
fn until_lies_ahead_and_ttl_is_an_integer() {
    let shop = Shop::open(json!({}));
    shop.earn("m-1", 10);
    for ttl in ["1.5", "\"60\"", "-1", "9223372036854775808", "1e2"] {
        shop.post("/api/v1/points/m-1/holds", format!("{{\"points\":1,\"ttl_seconds\":{ttl}}}")).invalid("ttl_seconds");
    }
    let tier = |until: &str| {
        shop.put("/api/v1/admin/users/m-1/tier", json!({"new_tier": "BASE", "reason": "r", "until": until}))
    };
    tier("soon").invalid("until");
    tier(&at(60 * SECOND_MS)).expect(200);
}

#[test]
fn queries_are_known_and_written_as_forms_are() {
    let shop = Shop::open(json!({}));
    // A parameter that was ignored might be meant to change what is done.
    for (method, path) in [
        ("POST", "/api/v1/points/m-1/earn?dry_run=true"),
        ("POST", "/api/v1/pos/batch?dry_run=true"),
        ("POST", "/api/v1/accounts/lookup?dry_run=true"),
        ("PUT", "/api/v1/accounts/m-1?dry_run=true"),
        ("PUT", "/api/v1/programs/never?dry_run=true"),
        ("DELETE", "/api/v1/accounts/m-1/aliases/card:1?dry_run=true"),
        ("GET", "/api/v1/points/m-1/balance?dry_run=true"),
    ] {
        let body: &[u8] = if method == "GET" { b"" } else { b"{\"points\":1}" };
        let answer = shop.ask(method, path, &[JSON, ("Idempotency-Key", "k")], body);
        answer.invalid("dry_run");
        assert!(answer.json()["detail"].as_str().unwrap().contains("`dry_run`"), "{answer:?}");
    }
    let earn = shop.post_bare(EARN, json!({"points": 1, "reference_id": "till 7 + 8"})).expect(201);
    for written in ["till+7+%2B+8", "till%207%20%2B%208", "till+7%20%2b%208"] {
        let outcome = shop.get(&format!("/api/v1/points/m-1/outcomes?op=earn&reference_id={written}"));
        assert_eq!(outcome.expect(200)["body"], earn, "{written}");
    }
    shop.get("/api/v1/points/m-1/outcomes?op=earn&reference_id=till%207%20+%208").problem(404, "unknown-outcome");
}

#[test]
fn answers_to_reads_are_not_to_be_stored() {
    let shop = Shop::open(json!({}));
    let earn = shop.post(EARN, json!({"points": 1}));
    assert_eq!(earn.header("cache-control"), None);
    for path in ["/api/v1/points/m-1/balance", "/api/v1/points/nobody/balance", "/api/v1/nothing", "/readyz"] {
        assert_eq!(shop.get(path).header("cache-control"), Some("no-store"), "{path}");
    }
    // The account of the second one is nobody's.
    shop.earn("nobody", 1);
}

#[test]
fn a_program_that_is_no_json_names_the_body() {
    let shop = Shop::open(json!({}));
    shop.put("/api/v1/programs/never", "{").invalid("body");
}
