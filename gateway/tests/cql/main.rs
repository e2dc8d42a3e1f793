//! Real nodes on a real Cassandra that is killed and paused, and nodes that are. `ops/cql-tests.sh` runs them.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../crash/node.rs"]
mod node;

mod cluster;
mod figures;
#[path = "../support/wait.rs"]
mod wait;
mod waits;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use node::{Client, Node, PATIENCE};
use rustix::process::Signal;
use serde_json::{Value, json};
use wait::pause;

const ACCOUNTS: u64 = 24;
const LEASE_MS: u64 = 1_500;

/// What the script that runs these tests says.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ops/cql-tests.sh"))
}

/// The server that the tests may use and break.
struct Server {
    address: String,
    script: String,
    password: String,
}

impl Server {
    fn new() -> Self {
        Self {
            address: variable("MEED_TEST_CQL"),
            script: variable("MEED_TEST_CASSANDRA"),
            password: variable("MEED_TEST_CQL_PASSWORD"),
        }
    }

    fn run(&self, command: &str) {
        assert!(Command::new(&self.script).arg(command).status().unwrap().success(), "{command}");
    }

    /// Flags of a node that makes all paths run in a short time: small buckets, few shards, checkpoints all the time.
    fn flags(&self, keyspace: &str, name: &str) -> Vec<String> {
        let lease = LEASE_MS.to_string();
        let flags = [
            "--journal",
            "cql",
            "--cql-nodes",
            &self.address,
            "--cql-user",
            "cassandra",
            "--cql-password-file",
            &self.password,
            "--cql-keyspace",
            keyspace,
            "--node",
            name,
            "--lease-ms",
            &lease,
            "--cql-timeout-ms",
            "500",
            "--cql-bucket-bytes",
            "16KiB",
            "--shards",
            "4",
            "--workers",
            "2",
            "--checkpoint-interval-ms",
            "50",
        ];
        flags.map(str::to_owned).to_vec()
    }

    fn start(&self, keyspace: &str, name: &str) -> Node {
        let flags = self.flags(keyspace, name);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Node::start(Path::new("unused"), &flags)
    }

    /// With its measures on a port.
    fn measured(&self, keyspace: &str, name: &str) -> Node {
        let mut flags = self.flags(keyspace, name);
        flags.extend(["--metrics-listen", "127.0.0.1:0"].map(str::to_owned));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Node::start(Path::new("unused"), &flags)
    }

    fn refused(&self, flags: &[String]) -> (Option<i32>, String) {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Node::refused(Path::new("unused"), &flags)
    }
}

/// Clients that send earns of one point with a key, again and again until they are answered with 201; what was
/// answered so must be there for ever, and once.
struct Load {
    /// Where the nodes are now; a client goes to another when one does not answer.
    addresses: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// The test has failed: nobody waits for an answer any more.
    failed: AtomicBool,
    acknowledged: AtomicU64,
    /// Answers other than 201, by status; 0 for a connection that broke.
    others: Mutex<BTreeMap<u16, u64>>,
}

impl Load {
    fn new(node: &Node) -> Self {
        Self {
            addresses: Mutex::new(vec![node.address.clone()]),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            others: Mutex::default(),
        }
    }

    fn moves_to(&self, nodes: &[&Node]) {
        *self.addresses.lock().unwrap() = nodes.iter().map(|node| node.address.clone()).collect();
    }

    /// Where the client with this number goes for the try with that number.
    fn address(&self, number: u64) -> String {
        let addresses = self.addresses.lock().unwrap();
        addresses[(number % addresses.len() as u64) as usize].clone()
    }

    fn other(&self, status: u16) {
        *self.others.lock().unwrap().entry(status).or_default() += 1;
    }

    /// One client: how often each of its accounts was earned on.
    fn client(&self, number: u64) -> BTreeMap<u64, u64> {
        let mut earned = BTreeMap::new();
        let mut client: Option<Client> = None;
        let mut turn = number;
        for n in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let account = (number + n) % ACCOUNTS;
            let (path, key) = (format!("/api/v1/points/m-{account}/earn"), format!("{number}-{n}"));
            loop {
                if self.failed.load(Ordering::Relaxed) {
                    return earned;
                }
                let connection = match &mut client {
                    Some(connection) => connection,
                    none => match Client::connect(&self.address(turn)) {
                        Ok(connection) => none.insert(connection),
                        Err(_) => {
                            self.other(0);
                            turn += 1;
                            pause();
                            continue;
                        }
                    },
                };
                match connection.post(&path, Some(&key), r#"{"points":1}"#) {
                    Ok(answer) if answer.status == 201 => break,
                    Ok(answer) => {
                        assert!([429, 503, 504].contains(&answer.status), "{answer:?}");
                        self.other(answer.status);
                        pause();
                    }
                    Err(_) => {
                        self.other(0);
                        turn += 1;
                        client = None;
                    }
                }
            }
            *earned.entry(account).or_default() += 1;
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        earned
    }

    /// Waits until so many more were acknowledged.
    fn wait_for(&self, more: u64) {
        let until = self.acknowledged.load(Ordering::Relaxed) + more;
        let begin = Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < until {
            assert!(begin.elapsed() < PATIENCE, "no progress: {:?}", self.others.lock().unwrap());
            pause();
        }
    }

    /// Runs clients while `act` does something to the node; then every account has exactly what was acknowledged.
    fn run(&self, act: impl FnOnce(&Self) -> Node) -> Node {
        let (node, earned) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || self.client(number * 1_000_003))).collect();
            self.wait_for(100);
            let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(self)));
            self.failed.store(acted.is_err(), Ordering::Relaxed);
            self.stop.store(true, Ordering::Relaxed);
            let mut earned = BTreeMap::<u64, u64>::new();
            for client in clients {
                for (account, count) in client.join().unwrap() {
                    *earned.entry(account).or_default() += count;
                }
            }
            (acted.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), earned)
        });
        println!(
            "{} acknowledged, others {:?}",
            self.acknowledged.load(Ordering::Relaxed),
            self.others.lock().unwrap()
        );
        check(&node, &earned);
        node
    }
}

/// Every account has as many points and rows as were acknowledged: nothing lost, nothing twice.
#[track_caller]
fn check(node: &Node, earned: &BTreeMap<u64, u64>) {
    let mut client = node.client();
    for (account, count) in earned {
        assert_eq!(client.total(&format!("m-{account}")) as u64, *count, "m-{account}");
        let page = client.get(&format!("/api/v1/points/m-{account}/transactions?limit=5")).unwrap().json();
        assert_eq!(page["total_count"].as_u64(), Some(*count), "{page}");
    }
}

#[test]
fn a_node_that_is_killed_again_and_again_loses_nothing_acknowledged() {
    let server = Server::new();
    let node = server.start("killed", "only");
    let load = Load::new(&node);
    let node = load.run(|load| {
        let mut node = node;
        for _ in 0..3 {
            node.kill();
            node = server.start("killed", "only");
            load.moves_to(&[&node]);
            load.wait_for(200);
        }
        node
    });
    // Stopped in order it gives its lease back: the next start need not wait for it.
    let earned: BTreeMap<u64, u64> =
        (0..ACCOUNTS).map(|n| (n, node.client().total(&format!("m-{n}")) as u64)).collect();
    node.stop();
    let node = server.start("killed", "next");
    assert!(!node.logged().contains("waiting for the lease"), "{}", node.logged());
    check(&node, &earned);
}

#[test]
fn an_owner_that_slept_longer_than_its_lease_is_refused_and_ends() {
    let server = Server::new();
    let mut sleeper = server.start("slept", "first");
    let load = Load::new(&sleeper);
    let node = load.run(|load| {
        sleeper.signal(Signal::STOP);
        let begin = Instant::now();
        let node = server.start("slept", "second");
        cluster::wait_until_served(&node);
        println!("taken over after {:?}", begin.elapsed());
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(begin.elapsed() >= Duration::from_millis(LEASE_MS), "it did not wait for the lease");
        load.moves_to(&[&node]);
        // What the sleeper was about to write is still in its memory and its sockets; its clients still wait for it.
        sleeper.signal(Signal::CONT);
        let (code, log) = sleeper.ended();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("another node"), "{log}");
        load.wait_for(300);
        node
    });
    node.stop();
}

#[test]
fn a_second_node_of_the_same_name_waits_and_takes_over_when_the_first_ends() {
    let server = Server::new();
    for (keyspace, signal) in [("handed", Signal::TERM), ("taken", Signal::KILL)] {
        let first = server.start(keyspace, "first");
        let load = Load::new(&first);
        let node = load.run(|load| {
            std::thread::scope(|scope| {
                let second = scope.spawn(|| server.start(keyspace, "first"));
                load.wait_for(100);
                assert!(!second.is_finished(), "two nodes own the shards");
                first.signal(signal);
                let begin = Instant::now();
                let second = second.join().unwrap();
                cluster::wait_until_served(&second);
                println!("{signal:?}: ready again after {:?}", begin.elapsed());
                assert!(begin.elapsed() < Duration::from_secs(10));
                load.moves_to(&[&second]);
                load.wait_for(200);
                second
            })
        });
        node.stop();
    }
}

#[test]
fn cassandra_that_is_paused_or_killed_leaves_nothing_unknown_for_ever() {
    let server = Server::new();
    let node = server.start("outage", "only");
    // Nothing of this account is under way, so its answers wait for nothing.
    node.client().earn("idle", 1, "idle");
    let load = Load::new(&node);
    let node = load.run(|load| {
        for round in 0..2 {
            server.run("pause");
            // Longer than a statement's time-out and the lease: the node may not answer any more, not even reads.
            let begin = Instant::now();
            let mut client = node.client();
            while client.get("/api/v1/points/idle/balance").unwrap().status != 503 {
                assert!(begin.elapsed() < PATIENCE, "round {round}: it answers without a lease");
                pause();
            }
            assert!(begin.elapsed() < Duration::from_millis(LEASE_MS), "it answered after its lease");
            server.run("resume");
            load.wait_for(200);
        }
        server.run("kill");
        server.run("start");
        load.wait_for(200);
        node
    });
    node.stop();
}

#[test]
fn what_a_node_cannot_use_is_said_and_left_alone() {
    let server = Server::new();
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "wrong\n").unwrap();
    let mut flags = server.flags("refused", "only");
    let at = flags.iter().position(|flag| flag == "--cql-password-file").unwrap() + 1;
    flags[at] = wrong.path().to_str().unwrap().to_owned();
    let (code, log) = server.refused(&flags);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("cannot connect in the CQL cluster") && !log.contains("wrong\n"), "{log}");

    let node = server.start("refused", "only");
    node.stop();
    let mut flags = server.flags("refused", "only");
    let at = flags.iter().position(|flag| flag == "--shards").unwrap() + 1;
    flags[at] = "8".to_owned();
    let (code, log) = server.refused(&flags);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("it has 4 shards and 8 were asked for"), "{log}");
    let mut flags = server.flags("no-keyspace", "only");
    let (code, log) = server.refused(&flags);
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("`no-keyspace` is no keyspace"), "{log}");
    flags.truncate(2);
    let (code, log) = server.refused(&flags);
    assert_eq!(code, Some(2), "{log}");
}

#[test]
fn holds_reversals_aliases_and_expiry_survive_a_take_over() {
    let server = Server::new();
    let node = server.start("session", "first");
    let mut client = node.client();
    client.earn("m-1", 1_000, "e-1");
    let held = client.post("/api/v1/points/m-1/holds", Some("h-1"), r#"{"points":300,"ttl_seconds":1}"#).unwrap();
    assert_eq!(held.status, 201, "{held:?}");
    let spent = client.post("/api/v1/points/m-1/redeem", Some("r-1"), r#"{"points":200,"reward_id":"tea"}"#).unwrap();
    assert_eq!(spent.status, 201, "{spent:?}");
    let put = "PUT /api/v1/accounts/m-1/aliases/phone:+628123456 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(client.ask(put).unwrap().status, 201);
    assert_eq!(client.ask(put).unwrap().status, 200);
    for n in 0..30 {
        client.earn("m-1", 1, &format!("many-{n}"));
    }
    node.kill();
    let node = server.start("session", "second");
    cluster::wait_until_served(&node);
    let mut client = node.client();
    let again = client.post("/api/v1/points/m-1/redeem", Some("r-1"), r#"{"points":200,"reward_id":"tea"}"#).unwrap();
    assert_eq!((again.status, again.is_replay()), (201, true));
    assert_eq!(again.body, spent.body, "the answer to a retry, byte for byte");
    let first = client.post("/api/v1/points/m-1/earn", Some("e-1"), r#"{"points":1000}"#).unwrap();
    assert!(first.is_replay(), "{first:?}");
    let begin = Instant::now();
    // The hold's time ends by itself.
    loop {
        let balance = client.get("/api/v1/points/phone:+628123456/balance").unwrap().json();
        assert_eq!(balance["total_points"], 830, "{balance}");
        if balance["held_points"] == 0 {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{balance}");
    }
    let other = "PUT /api/v1/accounts/m-2/aliases/phone:+628123456 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n";
    client.earn("m-2", 1, "e-2");
    assert_eq!(client.ask(other).unwrap().status, 409);
    let delete =
        "DELETE /api/v1/accounts/m-1/aliases/phone:+628123456 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(client.ask(delete).unwrap().status, 204);
    assert_eq!(client.get("/api/v1/points/phone:+628123456/balance").unwrap().status, 404);
    assert_eq!(client.ask(other).unwrap().status, 201);
    node.stop();
}

/// Waits until everything has its row in the history, of which there are at least so many.
fn wait_for_rows(node: &Node, at_least: u64) {
    let begin = Instant::now();
    loop {
        let page = Client::connect(node.metrics.as_ref().unwrap()).unwrap().get("/metrics").unwrap().body;
        let measure = |name: &str| -> u64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map_or(0, |value| value.split('.').next().unwrap().parse().unwrap())
        };
        let (rows, lag) = (measure("meed_history_rows_total"), measure("meed_history_lag_records"));
        if rows >= at_least && lag == 0 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{rows} rows, {lag} behind");
        pause();
    }
}

#[test]
fn listings_are_the_same_from_the_journal_and_from_the_rows() {
    let server = Server::new();
    let node = server.measured("listed", "first");
    let mut client = node.client();
    for n in 0..60 {
        client.earn("m-1", 10, &format!("e-{n}"));
        if n % 3 == 0 {
            let spent = client.post("/api/v1/points/m-1/redeem", Some(&format!("r-{n}")), r#"{"points":4}"#).unwrap();
            assert_eq!(spent.status, 201, "{spent:?}");
        }
    }
    let pages = |node: &Node| {
        let mut client = node.client();
        let queries =
            ["limit=200", "limit=7", "limit=30&offset=25", "type=REDEEM&limit=50", "type=REDEEM&offset=9&limit=3"];
        queries.map(|query| {
            let page = client.get(&format!("/api/v1/points/m-1/transactions?{query}")).unwrap().json();
            (page["transactions"].clone(), page["total_count"].clone())
        })
    };
    let lengths = |pages: &[(Value, Value)]| -> Vec<usize> {
        pages.iter().map(|(page, _)| page.as_array().unwrap().len()).collect()
    };
    // Some of them have their rows by now, some not.
    let first = pages(&node);
    assert_eq!(lengths(&first), [80, 7, 30, 20, 3]);
    // Rows of all lengths and of many accounts, some of which go together.
    let items: Vec<Value> = (0..60)
        .map(|n| {
            let metadata = if n == 30 { "m".repeat(4_000) } else { String::new() };
            json!({"op": "earn", "account": format!("n-{n}"), "points": 1, "idempotency_key": format!("b-{n}"),
                   "description": "d".repeat(n * 8), "metadata": {"text": metadata}})
        })
        .collect();
    let answer = client.post("/api/v1/batch", None, &json!({"items": items}).to_string()).unwrap();
    assert!(answer.json()["results"].as_array().unwrap().iter().all(|one| one["status"] == 201), "{answer:?}");
    wait_for_rows(&node, 140);
    assert_eq!(pages(&node), first);
    assert!(!node.logged().contains("a warning"), "what Cassandra warns of: {}", node.logged());
    node.kill();
    let node = server.measured("listed", "second");
    cluster::wait_until_served(&node);
    assert_eq!(pages(&node), first);
    node.client().earn("m-1", 10, "one-more");
    wait_for_rows(&node, 1);
    let after = pages(&node);
    assert_eq!(after[0].0.as_array().unwrap()[1..], first[0].0.as_array().unwrap()[..]);
    node.stop();
}
