//! Two nodes on a real Cassandra and a real Kafka, loaded by `meed-loadtest`, of which one is killed, stopped, drained, put
//! to sleep or replaced by another of its name; or whose Cassandra is paused, or killed while the broker's disk is full,
//! or loses one of three servers. The load test proves that no point was
//! created or lost, the sample consumer that the stream has no gap, that what came twice is the same, and that the
//! compacted topic says what the accounts say.
//!
//! `ops/cql-tests.sh` runs them, one after another.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::ring::Ring;
use support::stage::{Stage, cassandra};
use support::{Node, binary, prove};

/// The load's schedule; the test ends it when everything has happened.
const LOAD_SECONDS_MAX: u64 = 1_800;
/// Requests a second, and what three servers that share this machine's processors can follow.
const RATE: u64 = 500;
const RATE_ON_RING: u64 = 100;
/// The lease of the stage's nodes.
const LEASE: Duration = Duration::from_secs(2);
const ACCOUNTS: u64 = 300;
const PREFIX: &str = "m-";
/// Events of its own that a node has published before anything happens to it.
const EVENTS_BEFORE: u64 = 600;

/// A load test on all nodes, which goes on until it is told to end.
fn loadtest(stage: &Stage, nodes: &[&Node], rate: u64) -> Child {
    let targets: Vec<String> = nodes.iter().map(|node| format!("http://127.0.0.1:{}", node.ports[0])).collect();
    let accounts = format!("accounts.count={ACCOUNTS}");
    let prefix = format!("accounts.prefix={PREFIX:?}");
    let seconds = format!("stages.1.seconds={LOAD_SECONDS_MAX}");
    let rates = [0, 1].map(|stage| format!("stages.{stage}.rate={rate}"));
    let mut arguments = vec!["run", "smoke", "--quiet", "--require", "conservation", "--out"];
    let out = stage.folder.path().join("result");
    arguments.push(out.to_str().unwrap());
    let targets = targets.join(",");
    arguments.extend(["--target", &targets]);
    // What does not come to the one that is gone is late, and what its schedule says is no matter here.
    let values = [
        &*accounts,
        &*prefix,
        &*seconds,
        &*rates[0],
        &*rates[1],
        "connections_per_second=100",
        "validity.lag_p99_us_max=60000000",
        "validity.sent_percent_min=0",
    ];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    let program = binary().with_file_name("meed-loadtest");
    Command::new(program).args(arguments).stdin(Stdio::null()).spawn().unwrap()
}

/// Loads two nodes, lets `happen` something, and proves that nothing came of it; `happen` gives the nodes that
/// live then.
fn under_load(keyspace: &str, happen: impl FnOnce(&Stage, Node, Node) -> [Node; 2]) {
    stage_under_load(&Stage::new(keyspace), RATE, happen);
}

/// The same on this stage, with so many requests a second.
fn stage_under_load(stage: &Stage, rate: u64, happen: impl FnOnce(&Stage, Node, Node) -> [Node; 2]) {
    stage.broker.run("topics");
    let (first, second) = (stage.start("first"), stage.start("second"));
    for node in [&first, &second] {
        node.wait("meed_cluster_shards_owned", |shards| shards == 2);
    }
    let began = Instant::now();
    let mut load = loadtest(stage, &[&first, &second], rate);
    for node in [&first, &second] {
        node.wait("meed_published_events_total", |events| events > EVENTS_BEFORE);
    }
    let nodes = happen(stage, first, second);
    // What comes after all that happened is in the books, too.
    nodes.iter().for_each(publishes_on);
    println!("under load for {:?}", began.elapsed());
    assert!(load.try_wait().unwrap().is_none(), "the load ended by itself after {:?}", began.elapsed());
    kill_process(Pid::from_child(&load), Signal::INT).unwrap();
    assert_eq!(load.wait().unwrap().code(), Some(0), "the load test");
    nodes.iter().for_each(|node| node.wait("meed_publish_lag_records", |lag| lag == 0));
    let answered = balances(&nodes);
    // What was acknowledged is in the load test's books.
    let check = prove(nodes.into(), &stage.broker, &[]);
    for (key, balance) in answered {
        assert_eq!(check.newest_balance(&key), Some(balance), "{}", String::from_utf8_lossy(&key));
    }
}

/// Balances as the nodes answer them, by the keys of the stream.
fn balances(nodes: &[Node]) -> HashMap<Vec<u8>, (u64, [i64; 5])> {
    let read = |account: u64| {
        let node = &nodes[usize::try_from(account).unwrap() % nodes.len()];
        let (status, body) = node.get(0, &format!("/api/v1/points/{PREFIX}{account}/balance"));
        assert_eq!(status, 200, "{PREFIX}{account}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let points = ["total_points", "available_points", "pending_points", "held_points", "debt_points"];
        let points = points.map(|name| body[name].as_i64().unwrap());
        (format!("default/member/{PREFIX}{account}").into_bytes(), (body["sequence"].as_u64().unwrap(), points))
    };
    (0..ACCOUNTS).map(read).collect()
}

/// Waits until a node has published more.
fn publishes_on(node: &Node) {
    let events = node.metric("meed_published_events_total");
    node.wait("meed_published_events_total", |now| now > events);
}

#[test]
fn a_node_killed_under_load() {
    under_load("nodes_killed", |_, first, second| {
        let (log, arguments, ports) = second.kill();
        // The other takes its shards, and publishes on.
        first.wait("meed_cluster_shards_owned", |shards| shards == 4);
        let events = first.metric("meed_published_events_total");
        first.wait("meed_published_events_total", |now| now > events + EVENTS_BEFORE);
        [first, Node::start(log, arguments, ports)]
    });
}

#[test]
fn shards_handed_over_under_load() {
    under_load("nodes_handed", |stage, first, second| {
        stage.cluster(&["drain", "second"]);
        first.wait("meed_cluster_shards_owned", |shards| shards == 4);
        stage.cluster(&["drain", "second", "--undo"]);
        second.wait("meed_cluster_shards_owned", |shards| shards == 2);
        publishes_on(&second);
        let (log, arguments, ports) = second.stop();
        first.wait("meed_cluster_shards_owned", |shards| shards == 4);
        [first, Node::start(log, arguments, ports)]
    });
}

#[test]
fn an_owner_that_sleeps_longer_than_its_lease_under_load() {
    under_load("nodes_slept", |stage, first, second| {
        // What it has handed to its client cannot leave, and stays in the client's queue.
        stage.broker.signal(Signal::STOP);
        second.wait("meed_publish_waiting", |waiting| waiting > 50);
        second.signal(Signal::STOP);
        stage.broker.signal(Signal::CONT);
        first.wait("meed_cluster_shards_owned", |shards| shards == 4);
        let events = first.metric("meed_published_events_total");
        first.wait("meed_published_events_total", |now| now > events + EVENTS_BEFORE);
        second.signal(Signal::CONT);
        let (code, (log, arguments, ports)) = second.ended();
        assert_eq!(code, Some(1), "it has lost its lease");
        [first, Node::start(log, arguments, ports)]
    });
}

/// One load for two faults: most of what a test takes is its servers and its load.
#[test]
fn cassandra_paused_and_a_node_of_the_same_name_under_load() {
    under_load("nodes_stood", |stage, first, second| {
        cassandra("pause");
        // Nobody has a lease any more, and who reaches Cassandra first must not take the other for dead.
        [&first, &second].into_iter().for_each(|node| node.wait("meed_lease_held", |held| held == 0));
        let paused = Instant::now();
        first.wait("meed_publish_lag_seconds", |_| paused.elapsed() > LEASE);
        cassandra("resume");
        [&first, &second].into_iter().for_each(publishes_on);
        std::thread::scope(|scope| {
            let heir = scope.spawn(|| stage.start("second"));
            publishes_on(&second);
            assert!(!heir.is_finished(), "two nodes of one name serve");
            let (.., ports) = second.kill();
            let heir = heir.join().unwrap();
            heir.wait("meed_cluster_shards_owned", |shards| shards == 2);
            // The load test asks for what it does not know where it had sent it.
            let (log, arguments, _) = heir.stop();
            [first, Node::start(log, arguments, ports)]
        })
    });
}

#[test]
fn cassandra_killed_while_the_brokers_disk_is_full_under_load() {
    let what = "Cassandra killed while the broker's disk is full";
    let Some((stage, disk)) = Stage::with_small_disk("nodes_servers", what) else { return };
    stage_under_load(&stage, RATE, |stage, first, second| {
        disk.fill();
        stage.broker.wait_until_ended();
        cassandra("kill");
        [&first, &second].into_iter().for_each(|node| node.wait("meed_lease_held", |held| held == 0));
        cassandra("start");
        for node in [&first, &second] {
            node.wait("meed_cluster_shards_owned", |shards| shards == 2);
            let lag = node.metric("meed_publish_lag_records");
            // It answers, and nobody takes what comes of it.
            node.wait("meed_publish_lag_records", |now| now > lag + EVENTS_BEFORE);
        }
        disk.empty();
        stage.broker.run("start");
        [&first, &second].into_iter().for_each(publishes_on);
        [first, second]
    });
}

/// Run by itself: the ring takes the place of the one Cassandra.
#[test]
fn ring_one_of_three_servers_gone_and_back_under_load() {
    let ring = Ring::start();
    let stage = Stage::with(tempfile::tempdir().unwrap(), ring.flags());
    stage_under_load(&stage, RATE_ON_RING, |stage, first, second| {
        ring.run(3, "kill");
        [&first, &second].into_iter().for_each(publishes_on);
        // A node that starts meanwhile meets the other two servers.
        let third = stage.start("third");
        third.wait("meed_cluster_shards_owned", |shards| shards > 0);
        publishes_on(&third);
        third.stop();
        ring.run(3, "start");
        [&first, &second].into_iter().for_each(publishes_on);
        [first, second]
    });
}
