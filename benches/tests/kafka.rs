//! The stream on a real Kafka under load, with faults: broker killed, broker paused, its disk full, topic missing, node
//! killed. After each the sample consumer proves that nothing is missing, out of order or changed.
//!
//! `ops/server-tests.sh` runs them, one after another.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use meed_benches::consumer::check_topics;
use rustix::process::Signal;
use support::{Broker, Load, Node, SmallDisk, binary, check};

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
fn broker_paused() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path());
    broker.run("topics");
    let node = Node::new(folder.path(), &broker);
    let load = Load::start(node.ports[0]);
    node.wait("meed_published_events_total", |events| events > 1_000);
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
    let Some(disk) = SmallDisk::mount(&folder.path().join("kafka/logs")) else {
        println!("DID NOT RUN: a broker with a full disk, because nothing can be mounted here");
        return;
    };
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
    let replayed = ["EVENTS_TOPIC=replayed", "BALANCES_TOPIC=not-used"];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/kafka.sh");
    let made = Command::new("env").args(replayed).arg(script).arg("topics").arg(&broker.folder).status().unwrap();
    assert!(made.success());
    let arguments = ["events", "replay", "--topic", "replayed", "--kafka", &broker.address(), "--data"];
    let ended = Command::new(binary()).args(arguments).arg(folder.path().join("data")).status().unwrap();
    assert!(ended.success(), "meed events replay: {ended}");
    let again = check_topics(&broker.address(), "replayed", None).unwrap();
    assert_eq!((again.events, again.again, again.accounts()), (check.events, 0, check.accounts()));
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
