//! The stream of nodes on a real Cassandra, under load, with faults: owners killed and paused, the broker killed, paused
//! and without topics, Cassandra killed, both at once. After each the sample consumer proves that nothing is missing, out
//! of order or changed, and that every acknowledged operation is in the stream once.
//!
//! `ops/cql-tests.sh` runs them, one after another.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::Signal;
use support::stage::{Stage, cassandra};
use support::{Load, Node, check, prove};

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
    assert_eq!(sleeper.ended().0, Some(1), "it has lost its lease");
    let first = load.end();
    second.wait(1_000);
    prove(vec![node], &stage.broker, &[first, second.end()]);
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
