//! `schemas/openapi.yaml` against the running node: every operation with every example, its retry, and what is
//! refused.

use std::collections::BTreeSet;
use std::path::Path;

use meed_gateway::route::{Access, ENDPOINTS, Endpoint};
use serde_json::{Value, json};

use crate::node::{Answer, Client, Node};
use crate::schema::{check as is_valid, object, operations, resolved, validate};
use crate::yaml;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// An account that has all that the examples name, in a program of its own for each of them.
const ACCOUNT: &str = "m-1";
/// An alias that nobody has: an unknown account for every operation, those that enroll included.
const UNKNOWN: &str = "card:404";

fn contract() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/openapi.yaml");
    yaml::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One request of the description.
struct Call<'a> {
    endpoint: String,
    operation: &'a Value,
    method: String,
    path: String,
    headers: String,
    media: &'a str,
    body: String,
}

impl Call<'_> {
    fn id(&self) -> &str {
        self.operation["operationId"].as_str().unwrap()
    }

    fn ask(&self, client: &mut Client) -> Answer {
        let media = if self.body.is_empty() { String::new() } else { format!("Content-Type: {}\r\n", self.media) };
        client.ask(&self.method.to_uppercase(), &self.path, &(media + &self.headers), &self.body)
    }
}

/// What a program was given, so that examples have something to work on.
struct Prepared {
    program: String,
    earn: String,
    hold: String,
}

fn prepare(client: &mut Client, number: usize, operation: &str) -> Prepared {
    let program = format!("p-{number}");
    let mut ask = |method: &str, path: &str, key: &str, body: Value| {
        let headers = format!("Content-Type: {JSON}\r\nProgram: {program}\r\n{key}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.ask(method, path, &headers, &body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.json()
    };
    let document = json!({
        "name": "Examples", "time_zone": "Asia/Jakarta", "currency": "IDR", "late_days_max": null,
        "earning": {"points": 1, "per_amount": "1"},
        "tiers": {"window": "lifetime", "levels": [{"name": "BASE", "from": "0", "multiplier": "1"}, {"name": "GOLD", "from": "9000", "multiplier": "2"}]}
    });
    let mut prepared = Prepared { program: program.clone(), earn: String::new(), hold: String::new() };
    ask("PUT", &format!("/api/v1/programs/{program}"), "", document);
    if operation == "openAccount" {
        return prepared;
    }
    let points = format!("/api/v1/points/{ACCOUNT}");
    let earn = json!({"amount": "1000", "reference_id": "order-1"});
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    prepared.earn =
        text(&ask("POST", &format!("{points}/earn"), "Idempotency-Key: prepared\r\n", earn)["transaction_id"]);
    let hold = ask("POST", &format!("{points}/holds"), "Idempotency-Key: prepared-hold\r\n", json!({"points": 100}));
    prepared.hold = text(&hold["hold_id"]);
    for alias in ["phone:+628123456789", "email:a@example.com"] {
        ask("PUT", &format!("/api/v1/accounts/{ACCOUNT}/aliases/{alias}"), "", Value::Null);
    }
    if operation == "saleReturn" {
        let sale = json!({
            "store_id": "s-1", "terminal_id": "4", "transaction_id": "t-1", "user_identifier": ACCOUNT,
            "amount": "50", "timestamp": "2026-01-01T00:00:00Z"
        });
        ask("POST", "/api/v1/pos/transaction", "", sale);
    }
    prepared
}

/// The path with an account, a hold and so on in the place of its parameters, and the query that it requires.
fn path_of(template: &str, operation: &Value, account: &str, prepared: &Prepared) -> String {
    let own_program = format!("new-{}", prepared.program);
    let program = if operation["operationId"] == "putProgram" { &own_program } else { &prepared.program };
    let path = template
        .replace("{account}", account)
        .replace("{hold_id}", &prepared.hold)
        .replace("{transaction_id}", &prepared.earn)
        .replace("{idempotency_key}", "prepared")
        .replace("{alias}", "card:1234")
        .replace("{program}", program)
        .replace("{problem}", "not-found");
    assert!(!path.contains('{'), "{path}");
    if operation["operationId"] == "getOutcomeByBusinessKey" { path + "?op=earn&reference_id=order-1" } else { path }
}

/// Every media type and body that the operation's description has as an example; one without a body if none is
/// required.
fn bodies<'a>(root: &'a Value, operation: &Value, prepared: &Prepared) -> Vec<(&'a str, String)> {
    let request = operation.get("requestBody").map(|request| resolved(root, request));
    let Some(request) = request else { return vec![(JSON, String::new())] };
    let mut bodies = Vec::new();
    let media = &request["content"][JSON];
    for (_, example) in object(&media["examples"]) {
        let body = example["value"].to_string().replace("\"3-14\"", &format!("{:?}", prepared.hold));
        if request["content"].get(NDJSON).is_some() {
            let batch: Value = serde_json::from_str(&body).unwrap();
            let lines = batch["items"].as_array().unwrap().iter().map(|item| format!("{item}\n"));
            bodies.push((NDJSON, lines.collect()));
        }
        bodies.push((JSON, body));
    }
    if request["required"] != true {
        bodies.push((JSON, String::new()));
    }
    assert!(!bodies.is_empty(), "{operation} has no example");
    bodies
}

/// Whether the answer is as the description has it under its status.
fn check(root: &Value, call: &Call<'_>, answer: &Answer) {
    let at = format!("{} {}: {answer:?}", call.endpoint, call.body);
    let responses = &call.operation["responses"];
    let class = format!("{}XX", answer.status / 100);
    let response = responses.get(answer.status.to_string()).or_else(|| responses.get(class));
    let response = resolved(root, response.unwrap_or_else(|| panic!("not described: {at}")));
    assert!(answer.header("request-id").is_some(), "{at}");
    for (name, _) in object(&response["headers"]).filter(|(name, _)| *name == "Request-Id") {
        assert!(answer.header(&name.to_ascii_lowercase()).is_some(), "{name}: {at}");
    }
    let Some(content) = response.get("content") else { return assert!(answer.body.is_empty(), "{at}") };
    let media = answer.header("content-type").and_then(|text| text.split(';').next()).unwrap_or_default();
    let schema = &content.get(media).unwrap_or_else(|| panic!("{media} is not described: {at}"))["schema"];
    match media {
        NDJSON => {
            let of_batch = json!({"$ref": "#/components/schemas/BatchResult"});
            let of_line = schema.get("x-line").unwrap_or(&of_batch);
            for line in answer.body.lines() {
                validate(root, of_line, &serde_json::from_str(line).unwrap(), &at);
            }
        }
        "text/plain" => assert!(!answer.body.is_empty(), "{at}"),
        _ => validate(root, schema, &answer.json(), &at),
    }
}

/// A refusal with one of the problems that the operation's description names.
fn check_refused(root: &Value, call: &Call<'_>, problem: &str, answer: &Answer) {
    check(root, call, answer);
    assert_eq!(answer.json()["type"], format!("/problems/{problem}"), "{}: {answer:?}", call.endpoint);
    assert_eq!(answer.json()["status"], answer.status, "{}", call.endpoint);
}

fn names(operation: &Value, problem: &str) -> bool {
    operation["x-problems"].as_array().into_iter().flatten().any(|name| *name == problem)
}

/// The second time an operation with a key is asked for, it answers as the first time.
fn check_retry(call: &Call<'_>, client: &mut Client, first: &Answer) {
    let again = call.ask(client);
    assert_eq!((again.status, &again.body), (first.status, &first.body), "{}", call.endpoint);
    assert_eq!(again.header("idempotent-replayed"), Some("true"), "{}", call.endpoint);
}

/// Without the header an operation is refused where the description requires it, and only there: the bodies in the
/// examples of the others have a business key.
fn check_key_is_required(root: &Value, call: &Call<'_>, without: &Answer) {
    let keys = call.operation["parameters"].as_array().unwrap();
    let key = keys.iter().map(|key| resolved(root, key)).find(|key| key["name"] == "Idempotency-Key").unwrap();
    if key["required"] == true {
        check_refused(root, call, "idempotency-key-missing", without);
    } else if !call.body.is_empty() {
        let problem = if without.status < 300 { Value::Null } else { without.json()["type"].clone() };
        assert_ne!(problem, "/problems/idempotency-key-missing", "{} {}", call.endpoint, call.body);
    }
}

fn check_refusals(root: &Value, mut call: Call<'_>, template: &str, prepared: &Prepared, client: &mut Client) {
    let known = format!("Program: {}\r\n", prepared.program);
    let headers = call.headers.replace("example-", "refused-");
    if names(call.operation, "unknown-program") {
        call.headers = headers.replace(&known, "Program: nowhere\r\n");
        call.path = call.path.replace(&format!("programs/{}", prepared.program), "programs/nowhere");
        check_refused(root, &call, "unknown-program", &call.ask(client));
    }
    if names(call.operation, "idempotency-key-missing") {
        call.headers = known;
        check_key_is_required(root, &call, &call.ask(client));
    }
    call.headers = headers;
    if template.contains("{account}") && names(call.operation, "unknown-account") {
        call.path = path_of(template, call.operation, UNKNOWN, prepared);
        check_refused(root, &call, "unknown-account", &call.ask(client));
    }
    if call.operation.get("requestBody").is_some() && names(call.operation, "invalid-request") {
        call.path = path_of(template, call.operation, ACCOUNT, prepared);
        (call.media, call.body) = (JSON, "{\"nonsense\":1}".to_owned());
        check_refused(root, &call, "invalid-request", &call.ask(client));
        call.body = "{".to_owned();
        check_refused(root, &call, "invalid-request", &call.ask(client));
    }
}

#[test]
fn every_operation_is_as_described() {
    let root = contract();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    let mut client = node.client();
    let [mut seen, mut described] = [BTreeSet::new(), BTreeSet::new()];
    let mut number = 0;
    for (endpoint, operation) in operations(&root) {
        let (method, template) = endpoint.split_once(' ').unwrap();
        let id = operation["operationId"].as_str().unwrap();
        let good = object(&operation["responses"]).filter(|(status, _)| status.starts_with('2'));
        described.extend(good.map(|(status, _)| format!("{id} {status}")));
        if id == "metrics" {
            client = Client::connect(&node.metrics_address).unwrap();
        }
        let examples = bodies(&root, operation, &prepare(&mut node.client(), number, id)).len();
        for example in 0..examples {
            number += 1;
            let prepared = prepare(&mut node.client(), number, id);
            let (media, body) = bodies(&root, operation, &prepared).swap_remove(example);
            let keyed = operation["parameters"].to_string().contains("IdempotencyKey");
            let key = if keyed { format!("Idempotency-Key: example-{number}\r\n") } else { String::new() };
            let headers = format!("Program: {}\r\n{key}", prepared.program);
            let path = path_of(template, operation, ACCOUNT, &prepared);
            let (endpoint, method) = (endpoint.clone(), method.to_owned());
            let call = Call { endpoint, operation, method, path, headers, media, body };
            let answer = call.ask(&mut client);
            assert_eq!(answer.status / 100, 2, "{} {}: {answer:?}", call.endpoint, call.body);
            check(&root, &call, &answer);
            seen.insert(format!("{} {}", call.id(), answer.status));
            if keyed {
                check_retry(&call, &mut client, &answer);
            } else if matches!(call.method.as_str(), "put" | "delete") {
                let again = call.ask(&mut client);
                check(&root, &call, &again);
                seen.insert(format!("{} {}", call.id(), again.status));
            }
            check_refusals(&root, call, template, &prepared, &mut client);
        }
        number += 1;
        if id == "metrics" {
            client = node.client();
        }
    }
    assert_eq!(seen, described, "every good answer that is described was given");
    node.stop();
}

/// Whether a value is as a schema of the description has it, and the node's answer to a request with it in its path.
fn assert_same_verdict(root: &Value, schema: &str, value: &str, answer: &Answer) {
    let reference = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let described = is_valid(root, &reference, &Value::from(value), schema).is_ok();
    let expected = if described { 404 } else { 400 };
    assert_eq!(answer.status, expected, "{schema} {value:?}: {answer:?}");
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn what_stands_in_paths_is_taken_as_described() {
    let root = contract();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    let mut client = node.client();
    let (fits, too_long) = ("a".repeat(128), "a".repeat(129));
    let (mail_fits, mail_too_long) = (format!("{}@b", "a".repeat(247)), format!("{}@b", "a".repeat(248)));
    let (alias_fits, alias_too_long) = (format!("x:{}", "a".repeat(253)), format!("x:{}", "a".repeat(254)));
    let accounts = "m-1|a*b|~|.|..|...|a b|a#b|a?b|a%b|ä|+1|+62 812-3456|+62|+628|+062812|+1234567890123456|phone:+628123|\
        phone: +62-81|phone:628123|a@b|A@B|a@|@b|a@b@c|a b@c|a\u{2003}@c|a+b@c|+a@c|email:a@b|email:a:b@c|email:a|\
        card:12ab|card:12-34|card:|Card:12|iban:DE 12/34|x:\u{7}|1x:2|a:b@c|email:";
    let lengths = [&fits, &too_long, &mail_fits, &mail_too_long, &alias_fits, &alias_too_long].map(String::as_str);
    for account in accounts.split('|').chain(lengths) {
        let path = format!("/api/v1/points/{}/balance", percent_encoded(account));
        assert_same_verdict(&root, "AccountName", account, &client.ask("GET", &path, "", ""));
    }
    let account = client.ask("PUT", "/api/v1/accounts/m-1", "", "");
    assert_eq!(account.status, 201, "{account:?}");
    let (fits, too_long) = ("k".repeat(255), "k".repeat(256));
    let quoted = format!("\"{fits}\"");
    for key in ["k", "a b", "\"k\"", "\"", "\"\"", "\"a\"b\"", "ä", "a\tb", &fits, &too_long, &quoted] {
        let path = format!("/api/v1/points/m-1/outcomes/{}", percent_encoded(key));
        assert_same_verdict(&root, "IdempotencyKey", key, &client.ask("GET", &path, "", ""));
    }
    node.stop();
}

fn without_names(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

#[test]
fn the_description_has_every_route_and_no_other() {
    let root = contract();
    let described: BTreeSet<String> = operations(&root)
        .iter()
        .map(|(endpoint, _)| without_names(endpoint))
        .filter(|endpoint| endpoint != "get /metrics")
        .collect();
    let routes: BTreeSet<String> = ENDPOINTS
        .iter()
        .filter(|endpoint| **endpoint != Endpoint::Unmatched)
        .map(|endpoint| format!("{} {}", endpoint.method_label().to_lowercase(), without_names(endpoint.template())))
        .collect();
    assert_eq!(described, routes);
    for (at, operation) in operations(&root).iter().filter(|(at, _)| at != "get /metrics") {
        let is_it = |endpoint: &&Endpoint| {
            format!("{} {}", endpoint.method_label().to_lowercase(), without_names(endpoint.template()))
                == without_names(at)
        };
        let access = ENDPOINTS.iter().find(is_it).unwrap().access();
        let role = (access != Access::Open).then(|| format!("{access:?}").to_lowercase());
        assert_eq!(operation["x-role"].as_str(), role.as_deref(), "{at}");
        assert_eq!(operation.get("security").is_some(), role.is_none(), "{at}");
    }
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    let mut client = node.client();
    for (path, item) in object(&root["paths"]).filter(|(path, _)| *path != "/metrics") {
        // `lookup` is an account id too.
        for method in METHODS.iter().filter(|method| item.get(**method).is_none() && !path.ends_with("/lookup")) {
            let answer = client.ask(&method.to_uppercase(), &path.replace(['{', '}'], "x"), "", "");
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            let allowed: BTreeSet<String> =
                answer.header("allow").unwrap().split(", ").filter(|name| *name != "head").map(str::to_owned).collect();
            let described: BTreeSet<String> =
                METHODS.iter().filter(|method| item.get(**method).is_some()).map(|name| (*name).to_owned()).collect();
            assert_eq!(allowed, described, "{method} {path}");
        }
    }
    node.stop();
}
