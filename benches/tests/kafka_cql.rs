//! The stream of nodes on a real Cassandra, under load, with faults: owners killed and paused, the broker killed,
//! paused, full and without topics, Cassandra killed, both at once. After each the sample consumer proves that nothing
//! is missing, out of order or changed.
//!
//! `ops/cql-tests.sh` runs them, one after another.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::{Broker, Load, Node, check, free_port};

const LEASE_MS: &str = "2000";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ops/cql-tests.sh"))
}

fn cassandra(command: &str) {
    let script = variable("MEED_TEST_CASSANDRA");
    assert!(Command::new(script).arg(command).status().unwrap().success(), "{command}");
}

/// A broker and a keyspace.
struct Stage {
    folder: tempfile::TempDir,
    broker: Broker,
    keyspace: &'static str,
}

impl Stage {
    fn new(keyspace: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(folder.path());
        Self { folder, broker, keyspace }
    }

    /// A node that is not waited for.
    fn starting(&self, name: &str) -> Node {
        let arguments = [
            "--journal",
            "cql",
            "--cql-nodes",
            &variable("MEED_TEST_CQL"),
            "--cql-user",
            "cassandra",
            "--cql-password-file",
            &variable("MEED_TEST_CQL_PASSWORD"),
            "--cql-keyspace",
            self.keyspace,
            "--cql-timeout-ms",
            "500",
            "--cql-bucket-bytes",
            "256KiB",
            "--lease-ms",
            LEASE_MS,
            "--shards",
            "4",
            "--node",
            name,
            "--kafka",
            &self.broker.address(),
            "--kafka-balances-interval-ms",
            "300",
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        Node::starting(Path::new(self.folder.path()).join(name), arguments, [free_port(), free_port()])
    }

    fn start(&self, name: &str) -> Node {
        self.starting(name).ready()
    }
}

#[test]
fn owners_killed_under_load() {
    let stage = Stage::new("stream_killed");
    stage.broker.run("topics");
    let mut node = stage.start("only");
    let load = Load::start(node.ports[0]);
    for life in 0..3 {
        node.wait("meed_published_events_total", |events| events > 300 * (life + 1));
        let (log, arguments, ports) = node.kill();
        node = Node::start(log, arguments, ports);
    }
    load.wait(1_000);
    check(load, node, &stage.broker);
}

#[test]
fn an_owner_that_sleeps_with_messages_in_its_queue_does_no_harm() {
    let stage = Stage::new("stream_slept");
    stage.broker.run("topics");
    let sleeper = stage.start("first");
    let load = Load::start(sleeper.ports[0]);
    sleeper.wait("meed_published_events_total", |events| events > 1_000);
    // What it has handed to its client cannot leave, and stays in the client's queue.
    stage.broker.signal(Signal::STOP);
    sleeper.wait("meed_publish_waiting", |waiting| waiting > 500);
    sleeper.signal(Signal::STOP);
    stage.broker.signal(Signal::CONT);
    let node = stage.start("second");
    let second = Load::start_at(node.ports[0], 1_000_000);
    node.wait("meed_published_events_total", |events| events > 1_000);
    sleeper.signal(Signal::CONT);
    assert_eq!(sleeper.ended(), Some(1), "it has lost its lease");
    load.end();
    second.wait(1_000);
    check(second, node, &stage.broker);
}

#[test]
fn broker_killed_paused_and_without_topics() {
    let stage = Stage::new("stream_broker");
    let node = stage.start("only");
    let load = Load::start(node.ports[0]);
    node.wait("meed_publish_failures_total", |failures| failures > 0);
    load.wait(1_000);
    stage.broker.run("topics");
    node.wait("meed_published_events_total", |events| events > 1_000);
    stage.broker.run_with("stop", &["KILL"]);
    load.wait(2_000);
    node.wait("meed_publish_lag_records", |lag| lag > 1_000);
    assert_eq!(node.get(0, "/readyz").0, 200, "readiness does not ask Kafka");
    stage.broker.run("start");
    node.wait("meed_publish_up", |up| up == 1);
    stage.broker.signal(Signal::STOP);
    node.wait("meed_publish_lag_seconds", |seconds| seconds >= 5);
    load.wait(1_000);
    stage.broker.signal(Signal::CONT);
    check(load, node, &stage.broker);
}

#[test]
fn everything_killed_at_once() {
    let stage = Stage::new("stream_all");
    stage.broker.run("topics");
    let node = stage.start("only");
    let load = Load::start(node.ports[0]);
    node.wait("meed_published_events_total", |events| events > 1_000);
    // Both servers go, and come back.
    stage.broker.run_with("stop", &["KILL"]);
    cassandra("kill");
    cassandra("start");
    load.wait(1_000);
    stage.broker.run("start");
    node.wait("meed_publish_up", |up| up == 1);
    // All three go.
    let (log, arguments, ports) = node.kill();
    stage.broker.run_with("stop", &["KILL"]);
    cassandra("kill");
    cassandra("start");
    stage.broker.run("start");
    let node = Node::start(log, arguments, ports);
    load.wait(1_000);
    check(load, node, &stage.broker);
}
