//! The stream of events over HTTP, black box: what is in it, where it goes on, who may read it, and that a
//! reader who does not read harms nobody.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use node::{Answer, Client, Node, PATIENCE};
use rustix::process::Signal;
use serde_json::Value;

const JSON: &str = "Content-Type: application/json\r\n";
const SERVER_SENT: &str = "Accept: text/event-stream\r\n";

fn earn(client: &mut Client, headers: &str, account: &str, reference: &str) {
    let body = format!("{{\"points\":10,\"reference_id\":\"{reference}\"}}");
    let path = format!("/api/v1/points/{account}/earn");
    assert_eq!(client.ask("POST", &path, &format!("{JSON}{headers}"), &body).status, 201);
}

/// Some 5 MB of events; six times that is more than the system buffers for a socket that nobody reads.
fn fill(node: &Node, batch: u32) {
    let description = "x".repeat(480);
    let mut lines = Vec::new();
    for number in 0..4_000 {
        writeln!(lines, r#"{{"op":"earn","account":"m-{}","points":1,"reference_id":"{batch}-{number}","description":"{description}"}}"#, number % 50).unwrap();
    }
    let lines = String::from_utf8(lines).unwrap();
    let answer = node.client().ask("POST", "/api/v1/batch", "Content-Type: application/x-ndjson\r\n", &lines);
    assert_eq!(answer.status, 207);
}

/// Earns on some accounts, a redemption, a hold and its release, a refusal that is remembered.
fn history(node: &Node) {
    let mut client = node.client();
    for number in 0..30 {
        earn(&mut client, "", &format!("m-{}", number % 7), &format!("e-{number}"));
    }
    let mut ask = |path: &str, body: &str, expected: u16| {
        let headers = format!("{JSON}Idempotency-Key: {}\r\n", path.len() + body.len());
        let answer = client.ask("POST", path, &headers, body);
        assert_eq!(answer.status, expected, "{answer:?}");
        answer.json()
    };
    ask("/api/v1/points/m-1/redeem", r#"{"points":5,"reward_id":"tea"}"#, 201);
    ask("/api/v1/points/m-1/redeem", r#"{"points":500}"#, 400);
    let hold = ask("/api/v1/points/m-2/holds", r#"{"points":3}"#, 201);
    let hold = hold["hold_id"].as_str().unwrap();
    ask(&format!("/api/v1/points/m-2/holds/{hold}/void"), "", 200);
}

fn events(client: &mut Client, query: &str, headers: &str) -> (Vec<Value>, String) {
    let answer = client.ask("GET", &format!("/api/v1/events{query}"), headers, "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cursor = lines.last().unwrap()["cursor"].as_str().unwrap().to_owned();
    (lines.into_iter().filter(|line| line.get("specversion").is_some()).collect(), cursor)
}

/// Every account's sequence is dense from 1 and its last event has the balance that the node answers.
fn check_accounts(client: &mut Client, events: &[Value]) {
    let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
    for event in events {
        let data = &event["data"];
        let before = last.insert(event["partitionkey"].as_str().unwrap(), data);
        let expected = before.map_or(1, |data| data["sequence"].as_u64().unwrap() + 1);
        assert_eq!(data["sequence"], expected, "{event}");
    }
    for (key, data) in last.into_iter().filter(|(key, _)| key.contains("/member/")) {
        let account = key.rsplit('/').next().unwrap();
        let balance = client.ask("GET", &format!("/api/v1/points/{account}/balance"), "", "").json();
        for name in ["total_points", "held_points", "available_points", "sequence", "tier"] {
            assert_eq!(balance[name], data[name], "{key} {name}");
        }
    }
}

#[test]
fn all_of_it_in_parts_and_again_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start(&data, &[]);
    history(&node);
    let mut client = node.client();
    let (all, end) = events(&mut client, "", "");
    // The refusal has no event.
    assert_eq!(all.iter().filter(|event| event["type"] == "points.earned").count(), 30);
    for kind in ["points.redeemed", "points.held", "points.released", "program.versioned"] {
        assert_eq!(all.iter().filter(|event| event["type"] == kind).count(), 1, "{kind}");
    }
    assert_eq!(all.len(), 34);
    check_accounts(&mut client, &all);
    let (mut parts, mut cursor) = events(&mut client, "?limit=5", "");
    while parts.len() < all.len() {
        let (part, next) = events(&mut client, &format!("?limit=5&after={cursor}"), "");
        assert!(part.len() <= 5 && !part.is_empty());
        parts.extend(part);
        cursor = next;
    }
    assert_eq!(parts, all);
    assert_eq!(events(&mut client, &format!("?after={end}"), ""), (Vec::new(), end.clone()));
    assert_eq!(events(&mut client, "?after=now", ""), (Vec::new(), end.clone()));
    let (redeemed, _) = events(&mut client, "?types=points.redeemed,points.held", "");
    assert_eq!(redeemed.len(), 2);
    let before = client.ask("GET", "/api/v1/events", "", "").body;
    node.signal(Signal::KILL);
    assert_eq!(node.end(), None);
    let node = Node::start(&data, &[]);
    let mut client = node.client();
    let again = client.ask("GET", "/api/v1/events", "", "").body;
    let of_events = |text: &str| text.lines().filter(|line| !line.contains("\"cursor\"")).collect::<String>();
    assert_eq!(of_events(&again), of_events(&before));
    earn(&mut client, "", "m-1", "later");
    let (later, _) = events(&mut client, &format!("?after={end}"), "");
    assert_eq!(later.len(), 1);
    node.stop();
}

#[test]
fn a_trace_goes_from_the_request_to_its_event_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    let mut client = node.client();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-of-a-later-version";
    let given = [
        ("none", vec![], None),
        ("valid", vec![trace], Some(trace)),
        ("later", vec![later], Some(&later[..trace.len()])),
        ("twice", vec![trace, trace], None),
        ("upper case", vec!["00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"], None),
        ("nothing", vec!["00-00000000000000000000000000000000-b7ad6b7169203331-01"], None),
        ("nonsense", vec!["nonsense"], None),
    ];
    for (reference, traces, _) in &given {
        let headers: String = traces.iter().map(|trace| format!("traceparent: {trace}\r\n")).collect();
        earn(&mut client, &headers, "m-1", reference);
    }
    // A request after one with a trace, on the same connection, has none.
    let (events, _) = events(&mut client, "?types=points.earned", "");
    let told: Vec<_> = events.iter().map(|event| (&event["data"]["reference_id"], event.get("traceparent"))).collect();
    let expected = given.map(|(reference, _, trace)| (Value::from(reference), trace.map(Value::from)));
    assert_eq!(told, expected.iter().map(|(reference, trace)| (reference, trace.as_ref())).collect::<Vec<_>>());
    node.stop();
}

/// A follower's next event: its id and its data.
fn next_event(client: &mut Client, unread: &mut String) -> (String, Value) {
    loop {
        while let Some(end) = unread.find("\n\n") {
            let block: String = unread.drain(..end + 2).collect();
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(data) = field("data: ") {
                return (field("id: ").unwrap(), serde_json::from_str(&data).unwrap());
            }
        }
        unread.push_str(&String::from_utf8(client.receive_chunk().unwrap()).unwrap());
    }
}

#[test]
fn followers_see_what_becomes_durable_and_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &[]);
    history(&node);
    let mut follower = node.client();
    follower.send("GET", "/api/v1/events?after=now", SERVER_SENT, "").unwrap();
    let head = follower.receive_head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    let (mut client, mut unread, mut ids) = (node.client(), String::new(), Vec::new());
    for number in 0..5 {
        earn(&mut client, "", "m-9", &format!("live-{number}"));
        let (id, event) = next_event(&mut follower, &mut unread);
        assert_eq!(event["data"]["reference_id"], format!("live-{number}"));
        ids.push(id);
    }
    drop(follower);
    let mut again = node.client();
    let header = format!("{SERVER_SENT}Last-Event-ID: {}\r\n", ids[1]);
    again.send("GET", "/api/v1/events?after=now", &header, "").unwrap();
    again.receive_head().unwrap();
    let mut unread = String::new();
    for (number, expected) in ids.iter().enumerate().skip(2) {
        let (id, event) = next_event(&mut again, &mut unread);
        assert_eq!((&id, &event["data"]["reference_id"]), (expected, &format!("live-{number}").into()));
    }
    // A node that is told to stop does not wait for its followers.
    let began = Instant::now();
    node.stop();
    assert!(began.elapsed() < PATIENCE / 4, "followers hold up a stop");
}

#[test]
fn a_reader_sees_its_program_only() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("meed.toml");
    // The SHA-256 of `secret` and of `other`.
    let digests = [
        (
            "shop",
            "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
            "\"operate\", \"read\", \"admin\"",
        ),
        ("default", "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa", "\"operate\", \"admin\""),
    ];
    let text: String = digests
        .iter()
        .map(|(program, digest, roles)| {
            format!("[[credentials]]\nname = \"{program}\"\ntoken_sha256 = \"{digest}\"\nprogram = \"{program}\"\nroles = [{roles}]\n")
        })
        .collect();
    std::fs::write(&settings, text).unwrap();
    let node = Node::start(&folder.path().join("data"), &["--config", settings.to_str().unwrap()]);
    let mut client = node.client();
    let (shop, other) = ("Authorization: Bearer secret\r\n", "Authorization: Bearer other\r\n");
    let document = r#"{"name":"Shop","time_zone":"UTC","currency":"EUR","earning":{"points":1,"per_amount":"1"}}"#;
    let put = client.ask("PUT", "/api/v1/programs/shop", &format!("{JSON}{shop}"), document);
    assert_eq!(put.status, 201, "{put:?}");
    earn(&mut client, shop, "m-1", "a");
    earn(&mut client, other, "m-1", "a");
    let (seen, _) = events(&mut client, "", shop);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|event| event["source"] == "/programs/shop"));
    assert_eq!(client.ask("GET", "/api/v1/events", other, "").status, 403, "it may not read");
    assert_eq!(client.ask("GET", "/api/v1/events", "", "").status, 401);
    node.stop();
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &["--event-readers", "1", "--idle-timeout-ms", "1000"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let younger = Node::start(&elsewhere.path().join("data"), &["--shards", "4"]);
    // A connection that is idle while another node starts would be cut.
    let mut client = node.client();
    earn(&mut client, "", "m-1", "a");
    let (_, ahead) = events(&mut client, "", "");
    for query in ["?after=x", "?after=", "?follow=yes", "?limit=0", "?limit=x", "?types=points.lost", "?from=1"] {
        let answer = client.ask("GET", &format!("/api/v1/events{query}"), "", "");
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
    }
    let foreign = younger.client().ask("GET", &format!("/api/v1/events?after={ahead}"), "", "");
    assert_eq!((foreign.status, foreign.json()["field"].as_str()), (400, Some("after")));
    let header = client.ask("GET", "/api/v1/events", "Last-Event-ID: now\r\n", "");
    assert_eq!((header.status, header.json()["field"].as_str()), (400, Some("Last-Event-ID")));
    assert!(!header.body.contains("`now`"), "only `after` may be that: {header:?}");
    assert_eq!(client.ask("GET", "/api/v1/events", "Program: nowhere\r\n", "").status, 404);
    assert_eq!(client.ask("POST", "/api/v1/events", "", "").status, 405);
    let mut only = node.client();
    only.send("GET", "/api/v1/events", SERVER_SENT, "").unwrap();
    assert_eq!(only.receive_head().unwrap().status, 200);
    let second = client.ask("GET", "/api/v1/events", "", "");
    assert_eq!((second.status, second.json()["retryable"].as_bool()), (503, Some(true)));
    drop(only);
    node.metrics_with(&["meed_event_readers 0".to_owned()]);
    assert_eq!(client.ask("GET", "/api/v1/events", "", "").status, 200);
    node.stop();
    younger.stop();
}

#[test]
fn a_reader_who_does_not_read_is_cut_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &["--idle-timeout-ms", "400"]);
    let mut lazy = node.client();
    lazy.send("GET", "/api/v1/events?after=now", SERVER_SENT, "").unwrap();
    assert_eq!(lazy.receive_head().unwrap().status, 200);
    node.metrics_with(&["meed_event_readers 1".to_owned()]);
    for batch in 0..6 {
        fill(&node, batch);
    }
    node.metrics_with(&["meed_event_readers 0".to_owned()]);
    let (all, _) = events(&mut node.client(), "", "");
    assert_eq!(all.len(), 24_001);
    node.stop();
}

#[test]
fn a_read_that_a_stop_breaks_off_does_not_look_complete() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&folder.path().join("data"), &["--workers", "1"]);
    for batch in 0..6 {
        fill(&node, batch);
    }
    let mut reader = node.client();
    reader.send("GET", "/api/v1/events", "", "").unwrap();
    assert_eq!(reader.receive_head().unwrap().status, 200);
    let mut follower = node.client();
    follower.send("GET", "/api/v1/events?after=now", SERVER_SENT, "").unwrap();
    assert_eq!(follower.receive_head().unwrap().status, 200);
    node.signal(Signal::TERM);
    while !follower.receive_chunk().expect("who follows comes again: an orderly end").is_empty() {}
    while let Ok(chunk) = reader.receive_chunk() {
        assert!(!chunk.is_empty(), "a part looks like all");
    }
    assert_eq!(node.end(), Some(0));
}

/// Changes one bit of the journal, in the record that has this text.
fn flip(journal: &Path, text: &[u8]) {
    for entry in std::fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            bytes[at - 1] ^= 0x10;
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            return file.write_all_at(&bytes[at - 1..at], at as u64 - 1).unwrap();
        }
    }
    panic!("no record has that text");
}

/// Reads from a cursor on until damage is refused; how many reads were cut before.
fn cut_until_refused(node: &Node, query: &str, headers: &str) -> (u32, Answer) {
    let (mut after, mut cuts) = (String::new(), 0);
    loop {
        let mut client = node.client();
        client.send("GET", &format!("/api/v1/events?{query}{after}"), headers, "").unwrap();
        let mut head = client.receive_head().unwrap();
        if head.status != 200 {
            let length: usize = head.header("content-length").unwrap().parse().unwrap();
            head.body = client.receive_bytes(length).unwrap();
            return (cuts, head);
        }
        let mut text = String::new();
        while let Ok(chunk) = client.receive_chunk() {
            assert!(!chunk.is_empty(), "a part looks like all");
            text.push_str(&String::from_utf8(chunk).unwrap());
        }
        cuts += 1;
        let sent = text.lines().rev().find_map(|line| {
            let line = line.strip_prefix("id: ").or_else(|| line.strip_prefix("{\"cursor\":\""))?;
            Some(line.trim_end_matches("\"}").to_owned())
        });
        after = format!("&after={}", sent.expect("a cut read got no further"));
    }
}

#[test]
fn a_read_that_meets_damage_is_cut_and_the_next_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start(&data, &["--pack-segments=false", "--segment-bytes", "1MiB"]);
    fill(&node, 0);
    earn(&mut node.client(), "", "the-victim", "the-victim");
    fill(&node, 1);
    let (all, _) = events(&mut node.client(), "", "");
    flip(&data.join("journal"), b"the-victim");
    for (query, headers) in [("follow=false", ""), ("follow=false", SERVER_SENT), ("follow=true", SERVER_SENT)] {
        let (cuts, refused) = cut_until_refused(&node, query, headers);
        assert!(cuts > 0 && refused.status == 503, "{cuts} {refused:?}");
        assert_eq!(refused.json()["type"], "/problems/overloaded");
    }
    flip(&data.join("journal"), b"the-victim");
    assert_eq!(events(&mut node.client(), "", "").0, all);
    node.stop();
}
