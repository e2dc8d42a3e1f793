//! Nodes whose journal reaches back further than it is kept: the binary, over a folder that begins years ago.
#![allow(clippy::unwrap_used)]

mod history;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/node.rs"]
mod node;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use history::History;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::time::{DAY_MS, Millis};
use node::{Answer, Client, Node, PATIENCE, run};

const PROGRAM: &str = "Program: old\r\n";

fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as Millis
}

fn history() -> History {
    History { program: "old".to_owned(), accounts: 10, earns: 400 }
}

fn start(data: &Path) -> Node {
    // The history of before the gap is settled: nothing in it falls due.
    Node::start(data, &["--settle-past-gap", "--checkpoint-interval-ms", "50"])
}

/// A folder whose history is eight years old but for what `recent` and two starts after it did, stopped in order; and
/// how many segments are too old.
fn aged(folder: &Path, recent: impl FnOnce(&mut Client)) -> (PathBuf, u64) {
    let data = folder.join("data");
    history().write(&data, now() - 8 * 365 * DAY_MS);
    // The last one is closed by the next start.
    let old = files(&data, ".index").len() as u64 + 1;
    let keep = || Node::start(&data, &["--settle-past-gap", "--journal-retention-days", "0", "--pack-segments=false"]);
    let node = keep();
    recent(&mut node.client());
    node.stop();
    for key in ["l-1", "l-2"] {
        let node = keep();
        assert_eq!(ask(&mut node.client(), "POST", "points/later/earn", key, r#"{"points":1}"#).status, 201);
        node.stop();
    }
    (data, old)
}

fn ask(client: &mut Client, method: &str, path: &str, key: &str, body: &str) -> Answer {
    let headers = match key {
        "" => PROGRAM.to_owned(),
        key => format!("{PROGRAM}Idempotency-Key: {key}\r\n"),
    };
    client.ask(method, &format!("/api/v1/{path}"), &headers, body)
}

/// Files of the journal, and how long they are together.
fn files(data: &Path, suffix: &str) -> Vec<String> {
    let names = fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(suffix));
    names.sort();
    names
}

fn counter(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Starts the node and waits until it has removed what is too old.
fn shortened(data: &Path, old: u64) -> Node {
    assert!(old > 3, "{old} old segments");
    let node = start(data);
    let begin = Instant::now();
    while counter(&node.metrics(), "meed_journal_segments_removed_total") < old {
        assert!(begin.elapsed() < PATIENCE, "{}", node.metrics());
        std::thread::yield_now();
    }
    node
}

fn problem(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    (answer.status, body["type"].as_str().unwrap_or_default().trim_start_matches("/problems/").to_owned())
}

/// Whatever is asked of what is gone has an answer that says so, and what the accounts have is still there.
#[test]
fn what_is_older_than_the_retention_goes_and_every_question_about_it_has_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut recent = String::new();
    let (data, old) = aged(folder.path(), |client| {
        let answer = ask(client, "POST", "points/m-1/earn", "new", r#"{"points":7}"#);
        assert_eq!(answer.status, 201, "{answer:?}");
        recent = answer.body;
    });
    let node = shortened(&data, old);
    let client = &mut node.client();
    assert_eq!(counter(&node.metrics(), "meed_snapshots_total"), 1);
    assert_eq!(counter(&node.metrics(), "meed_journal_upkeep_failures_total"), 0);
    for account in 0..10 {
        let balance = ask(client, "GET", &format!("points/m-{account}/balance"), "", "").json();
        assert_eq!(balance["total_points"], if account == 1 { 207 } else { 200 });
    }
    // The listing ends where the records end, and the count still counts all.
    let list = ask(client, "GET", "points/m-1/transactions?limit=5", "", "").json();
    assert_eq!((list["total_count"].as_u64(), list["has_more"].as_bool()), (Some(41), Some(false)), "{list}");
    assert_eq!(list["transactions"].as_array().unwrap().len(), 1);
    let list = ask(client, "GET", "points/m-2/transactions?type=EARN&offset=3", "", "").json();
    assert_eq!((list["transactions"].as_array().unwrap().len(), &list["next"]), (0, &serde_json::Value::Null));

    // `m-1` earned with the keys k-1, k-11, …; it remembers the newest eight.
    let gone = (404, "unknown-transaction".to_owned());
    let newest_key = "k-391";
    assert_eq!(problem(&ask(client, "GET", &format!("points/m-1/outcomes/{newest_key}"), "", "")), gone);
    let retried = ask(client, "POST", "points/m-1/earn", newest_key, r#"{"points":5}"#);
    assert_eq!(problem(&retried), gone);
    assert!(retried.body.contains("no longer kept") && retried.body.contains("\"retryable\":false"), "{retried:?}");
    let reused = ask(client, "POST", "points/m-1/earn", newest_key, r#"{"points":6}"#);
    assert_eq!(problem(&reused), (422, "idempotency-key-reused".to_owned()));
    let original = Position::new(Identity::member("old", "m-1").shard(history::SHARDS), 2);
    assert_eq!(problem(&ask(client, "GET", &format!("points/m-1/transactions/{original}"), "", "")), gone);
    let reversal = ask(client, "POST", &format!("points/m-1/transactions/{original}/reverse"), "r-1", "{}");
    assert_eq!(problem(&reversal), gone);
    let missing = ask(client, "GET", &format!("points/m-1/holds/{original}"), "", "");
    assert_eq!(problem(&missing), (404, "unknown-hold".to_owned()));

    // Nothing of that was executed; what is recent is as ever.
    let again = ask(client, "POST", "points/m-1/earn", "new", r#"{"points":7}"#);
    assert_eq!((again.status, &again.body), (201, &recent));
    let redeemed = ask(client, "POST", "points/m-1/redeem", "spend", r#"{"points":207}"#);
    assert_eq!((redeemed.status, redeemed.json()["new_balance"].as_i64()), (201, Some(0)));
    let events = ask(client, "GET", "events?follow=false", "", "");
    assert_eq!(events.status, 200, "{events:?}");
    node.stop();

    let (code, text) = run(&["verify", data.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the replay began with the snapshot") && text.contains("(13 accounts)"), "{text}");
    let (code, lines) = run(&["inspect", data.to_str().unwrap(), "--account", "old/m-1"]);
    assert_eq!((code, lines.lines().count()), (Some(0), 2), "{lines}");
}

#[test]
fn verify_says_what_it_cannot_check_and_finds_a_snapshot_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = aged(folder.path(), |client| {
        assert_eq!(ask(client, "POST", "points/m-3/earn", "new", r#"{"points":7}"#).status, 201);
        assert_eq!(ask(client, "POST", "points/new-1/earn", "new", r#"{"points":7}"#).status, 201);
    });
    let verify = |more: &[&str]| run(&[&["verify", data.to_str().unwrap()], more].concat());
    let early = folder.path().join("early.snapshot");
    let (code, text) = run(&["snapshot", data.to_str().unwrap(), "--to", early.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    // The journal is whole, and the snapshot is held against the replay of all of it.
    let (code, text) = verify(&["--snapshot", early.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("14 states in the snapshot") && !text.contains("replay began"), "{text}");

    let node = shortened(&data, old);
    assert_eq!(ask(&mut node.client(), "POST", "points/m-4/redeem", "s", r#"{"points":50}"#).status, 201);
    node.stop();
    let taken = fs::read_dir(data.join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&taken).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&taken, damaged).unwrap();
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(taken.file_name().unwrap().to_str().unwrap()), "{text}");

    fs::remove_file(&taken).unwrap();
    let (code, text) = verify(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("NOT CHECKED") && text.contains("of 11 accounts"), "{text}");
    // The one taken by hand covers what was removed as well.
    let (code, text) = verify(&["--snapshot", early.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the replay began with the snapshot") && !text.contains("NOT CHECKED"), "{text}");
}

/// A backup without the state store becomes a node again that knows every balance, fact and key.
#[test]
fn a_backup_of_snapshot_and_segments_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = aged(folder.path(), |_| {});
    let node = shortened(&data, old);
    let client = &mut node.client();
    let earned = ask(client, "POST", "points/m-5/earn", "e", r#"{"points":100}"#).json();
    let id = earned["transaction_id"].as_str().unwrap().to_owned();
    let reverse = format!("points/m-5/transactions/{id}/reverse");
    assert_eq!(ask(client, "POST", &reverse, "part", r#"{"points":30}"#).status, 201);
    let first = ask(client, "POST", "points/m-5/redeem", "spilled", r#"{"points":1}"#);
    // So that key and reversal are in the store only.
    for number in 0..40 {
        let answer = ask(client, "POST", "points/m-5/earn", &format!("more-{number}"), r#"{"points":2}"#);
        assert_eq!(answer.status, 201);
        let id = answer.json()["transaction_id"].as_str().unwrap().to_owned();
        let path = format!("points/m-5/transactions/{id}/reverse");
        assert_eq!(ask(client, "POST", &path, &format!("back-{number}"), r#"{"points":1}"#).status, 201);
    }
    node.stop();
    let snapshot = folder.path().join("backup.snapshot");
    let (code, text) = run(&["snapshot", data.to_str().unwrap(), "--to", snapshot.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    // What happens after the snapshot is in the segments.
    let node = start(&data);
    assert_eq!(ask(&mut node.client(), "POST", "points/m-6/earn", "after", r#"{"points":9}"#).status, 201);
    let balances: Vec<String> = (0..10).map(|n| balance(&mut node.client(), n)).collect();
    node.stop();

    let restore = || run(&["restore", data.to_str().unwrap(), "--from", snapshot.to_str().unwrap()]);
    let (code, text) = restore();
    assert_eq!(code, Some(1), "there is a state: {text}");
    fs::remove_dir_all(data.join("state")).unwrap();
    let (code, text) = run(&["serve", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("meed restore"), "{text}");
    fs::remove_dir_all(data.join("state")).unwrap();
    let (code, text) = restore();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("replays 1 record"), "{text}");

    let node = start(&data);
    let client = &mut node.client();
    assert_eq!((0..10).map(|n| balance(client, n)).collect::<Vec<_>>(), balances);
    let again = ask(client, "POST", "points/m-5/redeem", "spilled", r#"{"points":1}"#);
    assert_eq!((again.status, again.body), (201, first.body));
    let rest = ask(client, "POST", &reverse, "rest", r#"{"points":71}"#);
    assert_eq!((rest.status, rest.json()["remaining_points"].as_i64()), (400, Some(70)));
    node.stop();
    let (code, text) = run(&["verify", data.to_str().unwrap(), "--snapshot", snapshot.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
}

fn balance(client: &mut Client, account: u64) -> String {
    let answer = ask(client, "GET", &format!("points/m-{account}/lots"), "", "");
    assert_eq!(answer.status, 200);
    answer.body
}

/// A snapshot that does not meet the segments is no base, and nothing is restored from it.
#[test]
fn a_snapshot_older_than_the_segments_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = aged(folder.path(), |_| {});
    let empty = folder.path().join("empty.snapshot");
    let other = folder.path().join("other");
    let node = Node::start(&other, &[]);
    node.stop();
    let (code, _) = run(&["snapshot", other.to_str().unwrap(), "--to", empty.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    shortened(&data, old).stop();
    let (code, text) = run(&["verify", data.to_str().unwrap(), "--snapshot", empty.to_str().unwrap()]);
    assert_eq!(code, Some(1), "of another journal: {text}");
    assert!(text.contains("another journal"), "{text}");
    fs::remove_dir_all(data.join("state")).unwrap();
    let (code, text) = run(&["restore", data.to_str().unwrap(), "--from", empty.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(!data.join("state").exists());
}

/// Full segments are packed while the node runs, and read as before.
#[test]
fn closed_segments_are_packed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    history().write(&data, now() - 100 * DAY_MS);
    let closed = files(&data, ".index").len();
    let node = start(&data);
    let begin = Instant::now();
    while counter(&node.metrics(), "meed_journal_segments_packed_total") < closed as u64 - 1 {
        assert!(begin.elapsed() < PATIENCE, "{}", node.metrics());
        std::thread::yield_now();
    }
    assert_eq!(counter(&node.metrics(), "meed_journal_segments_removed_total"), 0);
    let (before, after) = ["from", "to"].map(|end| format!("meed_journal_packed_{end}_bytes_total")).into();
    assert!(counter(&node.metrics(), &after) * 2 < counter(&node.metrics(), &before));
    let client = &mut node.client();
    let list = ask(client, "GET", "points/m-1/transactions?limit=500", "", "").json();
    assert_eq!(list["transactions"].as_array().unwrap().len(), 40);
    node.stop();
    assert!(files(&data, ".packed").len() >= closed - 1);
    let (code, text) = run(&["verify", data.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let node = Node::start(&data, &["--settle-past-gap", "--pack-segments=false", "--journal-retention-days", "0"]);
    assert_eq!(ask(&mut node.client(), "GET", "points/m-1/outcomes/k-391", "", "").status, 200);
    node.stop();
}
