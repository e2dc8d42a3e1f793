//! What waits for a shard that has no owner yet, and for how long: items of a batch, readiness, requests to a node that
//! hangs; and what does not wait, because a shard does not know whether its last write is there.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meed_gateway::cluster::OWNER_WAIT;
use rustix::process::Signal;

use super::cluster::wait_until_served;
use super::node::{Node, PATIENCE, metric};
use super::wait::{eventually, pause};
use super::{ACCOUNTS, Server};

/// Rows that are listed at a time.
const LISTED: u64 = 50;
/// For what a busy machine adds.
const SLACK: Duration = Duration::from_secs(2);

/// Gives a flag another value.
fn with(flags: &mut [String], flag: &str, value: &str) {
    let at = flags.iter().position(|other| other == flag).unwrap() + 1;
    flags[at] = value.to_owned();
}

fn start(flags: &[String]) -> Node {
    Node::start(Path::new("unused"), &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Sends batches to a node one after the other, each with an earn, the redemption of it, and another earn, on accounts
/// of its own in all shards; so an item that overtakes another is refused. Each batch is sent once more. How many items
/// were refused because their shard had no owner for longer than a request waits.
fn batches(address: &str, client: usize, stop: &AtomicBool, done: &AtomicU64) -> u64 {
    let mut late = 0;
    let mut connection = super::node::Client::connect(address).unwrap();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let item = |account: usize, op: &str, points: u32| {
            format!(
                r#"{{"op":"{op}","account":"b-{client}-{account}","points":{points},"idempotency_key":"{round}-{op}-{points}"}}"#
            )
        };
        let items: Vec<String> = (0..8)
            .flat_map(|account| [item(account, "earn", 5), item(account, "redeem", 5), item(account, "earn", 1)])
            .collect();
        let body = format!(r#"{{"items":[{}]}}"#, items.join(","));
        for _ in 0..2 {
            let begin = Instant::now();
            let answer = connection.post("/api/v1/batch", None, &body).unwrap();
            assert_eq!(answer.status, 207, "{answer:?}");
            let took = begin.elapsed();
            for (item, told) in items.iter().zip(answer.json()["results"].as_array().unwrap()) {
                if told["status"] != 201 {
                    assert!(took >= OWNER_WAIT, "{item} after {took:?}: {told}");
                    late += 1;
                }
            }
        }
        list(&mut connection, &format!("b-{client}-{}", round % 8));
        done.fetch_add(1, Ordering::Relaxed);
    }
    late
}

/// A list that is answered is whole, wherever the account's shard is on its way to: nobody else writes to this account.
fn list(connection: &mut super::node::Client, account: &str) {
    let page = connection.get(&format!("/api/v1/points/{account}/transactions?limit={LISTED}")).unwrap();
    if page.status == 503 {
        return;
    }
    assert_eq!(page.status, 200, "{page:?}");
    let page = page.json();
    let rows = page["transactions"].as_array().unwrap().len();
    assert_eq!(rows as u64, page["total_count"].as_u64().unwrap().min(LISTED), "{account}: {page}");
}

#[test]
fn items_of_a_batch_wait_for_a_shard_on_its_way_and_keep_their_order() {
    let server = Server::new();
    let start = |name| {
        let mut flags = server.flags("batched", name);
        // However slow the database is, a shard that has an owner decides: items wait for owners alone.
        with(&mut flags, "--lease-ms", "12000");
        with(&mut flags, "--cql-timeout-ms", "5000");
        start(&flags)
    };
    let a = start("a");
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let wait_for = |more: u64| {
        let until = done.load(Ordering::Relaxed) + more;
        eventually("no progress", || done.load(Ordering::Relaxed) >= until);
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                scope.spawn({
                    let (address, stop, done) = (&a.address, &stop, &done);
                    move || batches(address, client, stop, done)
                })
            })
            .collect();
        // Whatever fails here, the clients end.
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(5);
            let b = start("b");
            server.wait_for_status("batched", &["a up 2 2", "b up 2 2"]);
            wait_for(5);
            let c = start("c");
            server.wait_for_status("batched", &["a up 2 2", "b up 1 1", "c up 1 1"]);
            wait_for(5);
            for node in [b, c] {
                node.stop();
                wait_for(5);
            }
            // What reaches a node that has nothing left goes on to whom has it.
            for _ in 0..4 {
                let b = start("b");
                server.wait_for_status("batched", &["a up 2 2", "b up 2 2"]);
                b.stop();
                wait_for(5);
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let late: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        println!("{} batches, {late} items waited in vain", done.load(Ordering::Relaxed));
        moved.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    a.stop();
}

#[test]
fn a_shard_with_many_changed_accounts_is_written_before_its_commands_wait() {
    let server = Server::new();
    let flags = |name| {
        let mut flags = server.flags("written", name);
        // Nothing is written by itself.
        with(&mut flags, "--checkpoint-interval-ms", "3600000");
        flags
    };
    let a = start(&flags("a"));
    let earn =
        |account| format!(r#"{{"op":"earn","account":"w-{account}","points":1,"idempotency_key":"w-{account}"}}"#);
    let items: Vec<String> = (0..2_000).map(earn).collect();
    let answer = a.client().post("/api/v1/batch", None, &format!(r#"{{"items":[{}]}}"#, items.join(","))).unwrap();
    assert_eq!(answer.status, 207, "{answer:?}");
    let b = start(&flags("b"));
    server.wait_for_status("written", &["a up 2 2", "b up 2 2"]);
    let log = a.logged();
    let given: Vec<&str> = log.lines().filter(|line| line.contains("was given away")).collect();
    let left = |line: &&str| -> u64 { line.split("left_accounts=").nth(1).unwrap().trim().parse().unwrap() };
    println!("{}", given.join("\n"));
    assert_eq!(given.len(), 2, "{log}");
    assert!(given.iter().all(|line| left(line) <= 64), "accounts were left to be written: {given:?}");
    for account in [0, 1_000, 1_999] {
        assert_eq!(b.client().total(&format!("w-{account}")), 1);
    }
    a.stop();
    b.stop();
}

#[test]
fn a_node_is_ready_when_all_its_shards_have_begun() {
    let server = Server::new();
    let mut flags = server.flags("readiness", "only");
    // So many that they take their time.
    with(&mut flags, "--shards", "64");
    for life in 0..2 {
        let node = start(&flags);
        let mut client = node.client();
        let begin = Instant::now();
        let mut before = None;
        loop {
            let answer = client.get("/readyz").unwrap();
            if answer.status == 200 {
                break;
            }
            before = Some(answer.body);
            assert!(begin.elapsed() < PATIENCE, "{before:?}");
        }
        let log = node.logged();
        assert_eq!(log.matches("a shard has begun").count(), 64, "life {life}, after {before:?}: {log}");
        node.kill();
    }
}

#[test]
fn a_request_to_a_node_that_hangs_is_answered_within_its_deadline() {
    const DEADLINE: Duration = Duration::from_millis(700);
    let server = Server::new();
    let flags = |name| {
        let mut flags = server.flags("hung", name);
        // Nobody takes over within this test.
        with(&mut flags, "--lease-ms", "20000");
        flags.extend(["--request-deadline-ms".to_owned(), DEADLINE.as_millis().to_string()]);
        flags
    };
    let (a, b) = (start(&flags("a")), start(&flags("b")));
    server.wait_for_status("hung", &["a up 2 2", "b up 2 2"]);
    wait_until_served(&a);
    b.signal(Signal::STOP);
    let mut late = 0;
    for round in 0..2 {
        for account in 0..ACCOUNTS {
            let begin = Instant::now();
            let path = format!("/api/v1/points/m-{account}/earn");
            let answer = a.client().post(&path, Some(&format!("{round}")), r#"{"points":1}"#).unwrap();
            let took = begin.elapsed();
            assert!([201, 503, 504].contains(&answer.status), "{answer:?}");
            assert!(took < DEADLINE + SLACK, "{took:?}: {answer:?}");
            late += u64::from(answer.status != 201);
        }
    }
    assert!(late > 0, "the node that hangs owns nothing");
    b.signal(Signal::CONT);
    wait_until_served(&a);
    for node in [b, a] {
        node.stop();
    }
}

/// The lease outlasts the outage: what holds the node back is the one write whose outcome it does not know.
#[test]
fn a_shard_whose_write_has_no_answer_says_so_and_then_decides_nothing_until_it_has_one() {
    let server = Server::new();
    let mut flags = server.flags("unanswered", "only");
    with(&mut flags, "--lease-ms", "60000");
    flags.extend(["--request-deadline-ms", "1500"].map(str::to_owned));
    let node = start(&flags);
    wait_until_served(&node);
    let earn = |account: &str, key: &str| {
        node.client().post(&format!("/api/v1/points/{account}/earn"), Some(key), r#"{"points":1}"#).unwrap()
    };
    assert_eq!(earn("m-1", "before").status, 201);
    server.run("pause");
    let unknown = earn("m-1", "during");
    assert_eq!((unknown.status, unknown.problem()), (504, "outcome-unknown".to_owned()));
    let begin = Instant::now();
    let refused = earn("m-1", "after");
    assert_eq!((refused.status, refused.problem()), (503, "not-ready".to_owned()));
    assert!(begin.elapsed() < OWNER_WAIT + SLACK, "{:?}", begin.elapsed());
    let ready = node.client().get("/readyz").unwrap();
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("has not answered the last write of 1 shards"), "{ready:?}");
    server.run("resume");
    wait_until_served(&node);
    let begin = Instant::now();
    let again = loop {
        let again = earn("m-1", "during");
        if again.status == 201 {
            break again;
        }
        assert!(begin.elapsed() < PATIENCE, "{again:?}");
        pause();
    };
    assert!(again.is_replay(), "it was decided before, and its write goes on until it is there: {again:?}");
    assert_eq!(node.client().total("m-1"), 2, "what was refused left nothing");
    node.stop();
}

/// On one node alone it would: requests of the last moment count, and a worker has one under way here.
#[test]
fn where_requests_wait_for_the_database_none_waits_in_its_socket_for_others() {
    const CLIENTS: usize = 8;
    let server = Server::new();
    let mut flags = server.flags("read", "only");
    with(&mut flags, "--workers", "1");
    with(&mut flags, "--lease-ms", "60000");
    flags.extend(["--requests-per-worker", "1", "--request-deadline-ms", "1500"].map(str::to_owned));
    flags.extend(["--metrics-listen", "127.0.0.1:0"].map(str::to_owned));
    let node = start(&flags);
    wait_until_served(&node);
    server.run("pause");
    let answered = AtomicU64::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (node, answered) = (&node, &answered);
            scope.spawn(move || {
                let path = format!("/api/v1/points/m-{client}/earn");
                let answer = node.client().post(&path, Some("paused"), r#"{"points":1}"#).unwrap();
                assert!([503, 504].contains(&answer.status), "{answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        let metrics = node.metrics.as_ref().unwrap();
        while answered.load(Ordering::Relaxed) < CLIENTS as u64 {
            assert_eq!(metric(metrics, "meed_connections_waiting"), 0.0);
            pause();
        }
    });
    server.run("resume");
    wait_until_served(&node);
    node.stop();
}
