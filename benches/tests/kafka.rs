//! The stream on a real Kafka under load, with faults: broker killed, slow, paused, its disk full, topic missing, node
//! killed. After each the sample consumer proves that nothing is missing, out of order or changed, every acknowledged
//! operation is found in the stream once, and the node's folder is verified.
//!
//! `ops/server-tests.sh` runs them, one after another.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use meed_benches::consumer::{Nodes, check_topics, consume};
use rdkafka::message::{Headers, Message};
use rustix::process::Signal;
use support::acknowledged::Acknowledged;
use support::{Broker, Load, Node, SmallDisk, binary, check};

/// A look-up that finds everything would prove nothing.
#[test]
fn what_is_acknowledged_and_not_in_the_stream_is_found() {
    let event = |reference: &str, sequence: u64| {
        format!("{{\"data\":{{\"transaction_id\":\"1-{sequence}\",\"reference_id\":\"{reference}\"}}}}\n")
    };
    let answers = r#"{"status":201,"body":{"transaction_id":"1-1"}}
        {"status":404,"body":{"type":"/problems/unknown-account"}}
        {"status":201,"body":{"transaction_id":"1-2"}}"#;
    let mut acknowledged = Acknowledged::default();
    acknowledged.take(answers, |item| format!("r-{item}"));
    assert_eq!(acknowledged.count(), 2);
    let whole = event("r-0", 1) + &event("r-2", 2);
    assert_eq!(acknowledged.are_in(&(whole.clone() + "{\"cursor\":\"c\"}\n")), Ok(()));
    let lost = acknowledged.are_in(&event("r-0", 1)).unwrap_err();
    assert!(lost.contains("r-2 was acknowledged as 1-2 and is not in the stream"), "{lost}");
    let replaced = acknowledged.are_in(&(event("r-0", 1) + &event("r-2", 3))).unwrap_err();
    assert!(replaced.contains("r-2 was answered as 1-2, and is 1-3"), "{replaced}");
    let doubled = acknowledged.are_in(&(whole + &event("r-0", 3))).unwrap_err();
    assert!(doubled.contains("r-0 was done twice"), "{doubled}");
}

#[test]
fn broker_killed_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.run("topics");
    let node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    node.wait("meed_published_events_total", |events| events > 1_000);
    broker.run_with("stop", &["KILL"]);
    load.wait(4_000);
    node.wait("meed_publish_lag_records", |lag| lag > 2_000);
    assert_eq!(node.get(0, "/readyz").0, 200, "readiness does not ask Kafka");
    broker.run("start");
    load.wait(1_000);
    check(load, node, &broker);
}

#[test]
fn broker_slow_and_then_paused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.run("topics");
    let node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    node.wait("meed_published_events_total", |events| events > 1_000);
    // It goes on for as long as it takes to confirm something, and stands still while the node answers.
    for _ in 0..10 {
        broker.signal(Signal::STOP);
        let published = node.metric("meed_published_events_total");
        load.wait(400);
        broker.signal(Signal::CONT);
        node.wait("meed_published_events_total", |events| events > published);
    }
    assert_eq!(node.metric("meed_publish_failures_total"), 0, "slow is not gone");
    broker.signal(Signal::STOP);
    load.wait(4_000);
    node.wait("meed_publish_lag_records", |lag| lag > 2_000);
    // Long enough for the controller's session of the broker to end.
    node.wait("meed_publish_lag_seconds", |seconds| seconds >= 8);
    assert_eq!(node.get(0, "/readyz").0, 200);
    broker.signal(Signal::CONT);
    check(load, node, &broker);
}

#[test]
fn broker_with_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("kafka/logs"), "a broker with a full disk") else { return };
    let broker = Broker::start(folder.path());
    broker.run("topics");
    let node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    node.wait("meed_published_events_total", |events| events > 1_000);
    disk.fill();
    // A broker whose only disk takes nothing ends.
    broker.wait_until_ended();
    load.wait(4_000);
    node.wait("meed_publish_lag_records", |lag| lag > 2_000);
    assert_eq!(node.get(0, "/readyz").0, 200);
    disk.empty();
    broker.run("start");
    load.wait(1_000);
    check(load, node, &broker);
}

/// Publishes a stopped node's journal, or a part of it, into a topic that it makes.
fn replay(broker: &Broker, data: &Path, topic: &str, range: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/kafka.sh");
    let mut topics = Command::new(script);
    topics.env("EVENTS_TOPIC", topic).env("BALANCES_TOPIC", "not-used").arg("topics").arg(&broker.folder);
    assert!(topics.status().unwrap().success());
    let arguments = ["events", "replay", "--topic", topic, "--kafka", &broker.address(), "--data"];
    let ended = Command::new(binary()).args(arguments).arg(data).args(range).status().unwrap();
    assert!(ended.success(), "meed events replay {range:?}: {ended}");
}

/// When the events of a topic were recorded, in order.
fn recorded_times(broker: &Broker, topic: &str) -> Vec<String> {
    let mut times = Vec::new();
    let consumed = consume(&broker.address(), topic, |message| {
        let headers = message.headers().unwrap();
        let recorded = headers.iter().find(|header| header.key == "ce_recordedtime").unwrap().value.unwrap();
        times.push(String::from_utf8(recorded.to_vec()).unwrap());
        Ok(())
    });
    assert_eq!(consumed.unwrap(), times.len() as u64);
    times.sort_unstable();
    times
}

#[test]
fn topic_missing() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    let node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    load.wait(4_000);
    node.wait("meed_publish_failures_total", |failures| failures > 0);
    assert_eq!((node.metric("meed_publish_up"), node.metric("meed_published_events_total")), (0, 0));
    assert_eq!(node.get(0, "/readyz").0, 200);
    broker.run("topics");
    node.wait("meed_publish_up", |up| up == 1);
    let check = check(load, node, &broker);
    // What the journal of the stopped node gives once more is the same.
    let data = folder.path().join("data");
    replay(&broker, &data, "replayed", &[]);
    let (again, _) = check_topics(&broker.address(), "replayed", None, Nodes::Stopped).unwrap();
    assert_eq!((again.events, again.again, again.accounts()), (check.events, 0, check.accounts()));
    // And so is a part of it: exactly the events between two instants that events have.
    let mut all = recorded_times(&broker, "replayed");
    let (since, until) = (all[all.len() / 3].clone(), all[all.len() / 3 * 2].clone());
    replay(&broker, &data, "part", &["--since", &since, "--until", &until]);
    all.retain(|at| (&since..&until).contains(&at));
    assert!(!all.is_empty());
    assert_eq!(recorded_times(&broker, "part"), all);
}

#[test]
fn node_killed_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.run("topics");
    let mut node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    for life in 0..4 {
        node.wait("meed_published_events_total", |events| events > 500 * (life + 1));
        let (log, arguments, ports) = node.kill();
        node = Node::start(log, arguments, ports);
    }
    load.wait(1_000);
    let check = check(load, node, &broker);
    assert!(check.again > 0, "no kill came between a confirmation and its save");
}
