//! Several nodes on one keyspace: they join, leave, die and sleep under load.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::node::{Client, Node, PATIENCE};
use super::wait::pause;
use super::{ACCOUNTS, Load, Server};

/// A shard must be served again within this, whatever its owner died of.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// Waits until the node, asked for any account, has an answer from its owner.
#[track_caller]
pub(super) fn wait_until_served(node: &Node) {
    let begin = Instant::now();
    let mut client = node.client();
    for account in 0..ACCOUNTS {
        while client.get(&format!("/api/v1/points/m-{account}/balance")).unwrap().status == 503 {
            assert!(begin.elapsed() < PATIENCE, "m-{account} is not served: {}", node.logged());
            pause();
        }
    }
}

impl Server {
    /// What `meed cluster` prints, and whether it ended with 0.
    fn cluster(&self, keyspace: &str, arguments: &[&str]) -> (bool, String) {
        let flags = self.flags(keyspace, "operator");
        let output =
            Command::new(env!("CARGO_BIN_EXE_meed")).arg("cluster").args(arguments).args(flags).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), text)
    }

    /// Waits until the table of the nodes has all these beginnings of lines, as words.
    #[track_caller]
    pub(super) fn wait_for_status(&self, keyspace: &str, lines: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let (_, text) = self.cluster(keyspace, &["status"]);
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let shown: Vec<String> = text.lines().map(words).collect();
            if lines.iter().all(|line| shown.iter().any(|other| other.starts_with(line))) {
                return text;
            }
            assert!(begin.elapsed() < PATIENCE, "{lines:?} is not in {text}");
        }
    }
}

#[test]
fn nodes_that_join_get_their_share_and_give_it_back_and_nothing_fails_for_good() {
    let server = Server::new();
    let a = server.start("joined", "a");
    let load = Load::new(&a);
    let last = load.run(|load| {
        let b = server.start("joined", "b");
        load.moves_to(&[&a, &b]);
        server.wait_for_status("joined", &["a up 2 2", "b up 2 2", "4 of 4 shards are served"]);
        load.wait_for(200);
        let c = server.start("joined", "c");
        let text = server.wait_for_status("joined", &["a up 2 2", "b up 1 1", "c up 1 1", "4 of 4"]);
        println!("{text}");
        load.wait_for(200);
        // A shard that is long on its way, because the machine is busy, is told of as such: that can be retried.
        let others = load.others.lock().unwrap().clone();
        assert!(others.keys().all(|status| *status == 503), "a request failed while nodes joined: {others:?}");
        // A node that stops gives its shards away while it still answers.
        load.moves_to(&[&b, &c]);
        let log = a.stop();
        println!("{}", log.lines().filter(|line| line.contains("was given away")).collect::<Vec<_>>().join("\n"));
        server.wait_for_status("joined", &["b up 2 2", "c up 2 2", "4 of 4"]);
        load.wait_for(200);
        load.moves_to(&[&c]);
        b.stop();
        server.wait_for_status("joined", &["c up 4 4"]);
        load.wait_for(200);
        c
    });
    assert!(!last.logged().contains("did not renew"), "{}", last.logged());
    // Connections to a node that ended broke.
    let others = load.others.lock().unwrap();
    assert!(others.keys().all(|status| matches!(status, 0 | 503)), "{others:?}");
}

#[test]
fn the_shards_of_a_node_that_is_killed_are_taken_by_the_others() {
    let server = Server::new();
    let a = server.start("split", "a");
    let load = Load::new(&a);
    load.run(|load| {
        let (b, c) = (server.start("split", "b"), server.start("split", "c"));
        load.moves_to(&[&a, &b, &c]);
        server.wait_for_status("split", &["4 of 4", "c up 1 1"]);
        load.wait_for(200);
        load.moves_to(&[&b, &c]);
        a.kill();
        let begin = Instant::now();
        wait_until_served(&b);
        wait_until_served(&c);
        println!("all served again {:?} after kill -9", begin.elapsed());
        assert!(begin.elapsed() < TAKE_OVER_MAX);
        load.wait_for(200);
        // The same name again, at once: a life of its own.
        let a = server.start("split", "a");
        load.moves_to(&[&a, &b, &c]);
        server.wait_for_status("split", &["a up 2 2", "b up 1 1", "c up 1 1"]);
        load.wait_for(200);
        c.kill();
        b.kill();
        load.moves_to(&[&a]);
        wait_until_served(&a);
        load.wait_for(100);
        a
    });
}

#[test]
fn a_node_that_slept_among_others_ends_and_its_clients_hear_the_truth() {
    let server = Server::new();
    let a = server.start("paused", "a");
    let load = Load::new(&a);
    load.run(|load| {
        let mut b = server.start("paused", "b");
        load.moves_to(&[&a, &b]);
        server.wait_for_status("paused", &["a up 2 2", "b up 2 2"]);
        load.wait_for(100);
        b.signal(Signal::STOP);
        let begin = Instant::now();
        wait_until_served(&a);
        println!("all served again {:?} after SIGSTOP", begin.elapsed());
        assert!(begin.elapsed() < TAKE_OVER_MAX);
        load.moves_to(&[&a]);
        b.signal(Signal::CONT);
        let (code, log) = b.ended();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("another node"), "{log}");
        load.wait_for(200);
        a
    });
}

#[test]
fn a_drained_node_goes_on_as_a_front_and_may_come_back() {
    let server = Server::new();
    let a = server.start("drained", "a");
    let load = Load::new(&a);
    load.run(|load| {
        let b = server.start("drained", "b");
        load.moves_to(&[&a, &b]);
        server.wait_for_status("drained", &["a up 2 2", "b up 2 2"]);
        let (done, text) = server.cluster("drained", &["drain", "b"]);
        assert!(done, "{text}");
        server.wait_for_status("drained", &["a up 4 4", "b draining 0 0", "4 of 4"]);
        load.wait_for(100);
        b.client().earn("by-b", 3, "by-b");
        assert_eq!(a.client().total("by-b"), 3);
        let (done, text) = server.cluster("drained", &["drain", "nobody"]);
        assert!(!done && text.contains("no node is called nobody"), "{text}");
        assert!(server.cluster("drained", &["drain", "b", "--undo"]).0);
        server.wait_for_status("drained", &["a up 2 2", "b up 2 2"]);
        load.wait_for(100);
        let others = load.others.lock().unwrap().clone();
        assert!(others.keys().all(|status| *status == 503), "{others:?}");
        a.stop();
        load.moves_to(&[&b]);
        b
    });
}

/// Puts a version of the program `shop` that gives so many points per dollar.
#[track_caller]
fn put_program(client: &mut Client, points: u64) {
    let body = format!(
        r#"{{"name":"Shop","time_zone":"America/New_York","currency":"USD","earning":{{"points":{points},"per_amount":"1.00","rounding":"down"}},"tiers":{{"window":"lifetime","levels":[{{"name":"ALL","from":"0","multiplier":"1"}}]}},"expiry":{{"months":600,"round_to":"end_of_month"}},"late_days_max":null}}"#
    );
    let text = format!(
        "PUT /api/v1/programs/shop HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = client.ask(&text).unwrap();
    assert!([200, 201].contains(&answer.status), "{answer:?}");
}

/// The points that the node gives for a purchase of a dollar.
#[track_caller]
fn points_for_a_dollar(node: &Node, account: &str) -> u64 {
    let body = r#"{"amount":"1.00","source":"PURCHASE"}"#;
    let text = format!(
        "POST /api/v1/points/{account}/earn HTTP/1.1\r\nHost: m\r\nProgram: shop\r\nIdempotency-Key: {account}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = node.client().ask(&text).unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["points"].as_u64().unwrap()
}

#[test]
fn a_version_of_a_program_counts_on_every_node_when_its_author_hears_of_it() {
    let server = Server::new();
    let (a, mut b) = (server.start("programs", "a"), server.start("programs", "b"));
    server.wait_for_status("programs", &["a up 2 2", "b up 2 2"]);
    for points in 1..=5 {
        let (author, other) = if points % 2 == 0 { (&a, &b) } else { (&b, &a) };
        put_program(&mut author.client(), points);
        // Accounts of all shards, asked at once of the node that did not take the version.
        for account in 0..8 {
            assert_eq!(points_for_a_dollar(other, &format!("v{points}-{account}")), points);
        }
    }
    // A node that cannot be told: the version counts when its lease is over.
    b.signal(Signal::STOP);
    let begin = Instant::now();
    wait_until_served(&a);
    put_program(&mut a.client(), 7);
    println!("a version without a sleeping node after {:?}", begin.elapsed());
    b.signal(Signal::CONT);
    assert_eq!(b.ended().0, Some(1));
    for account in 0..8 {
        assert_eq!(points_for_a_dollar(&a, &format!("v7-{account}")), 7);
    }
    // What the first key was given for does not change.
    assert_eq!(points_for_a_dollar(&a, "v5-0"), 5);
    a.stop();
}

#[test]
fn a_front_follows_the_shards_and_events_of_all_nodes_are_read_from_any() {
    let server = Server::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a secret of this test").unwrap();
    let start = |name: &str| {
        let flags = [server.flags("fronted", name), vec!["--owner-secret".into(), secret.path().display().to_string()]];
        let flags = flags.concat();
        Node::start(Path::new("unused"), &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (a, b) = (start("a"), start("b"));
    let status = server.wait_for_status("fronted", &["a up 2 2", "b up 2 2"]);
    let address_of = |status: &str, name: &str| {
        let row = status.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        row.split_whitespace().nth(4).unwrap().to_owned()
    };
    let address = address_of(&status, "a");
    let secret_file = secret.path().to_str().unwrap();
    let flags = ["--front-of", &address, "--owner-secret", secret_file, "--workers", "2"];
    let front = Node::start(Path::new("unused"), &flags);
    let load = Load::new(&front);
    let mut last = None;
    let front = load.run(|load| {
        load.wait_for(200);
        let others = load.others.lock().unwrap().clone();
        assert!(others.keys().all(|status| *status == 503), "{others:?}");
        // The node that the front met first leaves.
        a.stop();
        let status = server.wait_for_status("fronted", &["b up 4 4"]);
        load.wait_for(200);
        // Another meets the one that is left; the first of its addresses is of nobody any more.
        let both = format!("{address},{}", address_of(&status, "b"));
        let other =
            Node::start(Path::new("unused"), &["--front-of", &both, "--owner-secret", secret_file, "--workers", "2"]);
        wait_until_served(&other);
        assert_eq!(other.client().get("/readyz").unwrap().status, 200);
        load.moves_to(&[&front, &other]);
        load.wait_for(200);
        load.moves_to(&[&front]);
        other.stop();
        let c = start("c");
        server.wait_for_status("fronted", &["b up 2 2", "c up 2 2"]);
        load.wait_for(200);
        b.kill();
        wait_until_served(&c);
        wait_until_served(&front);
        load.wait_for(200);
        last = Some(c);
        front
    });
    let c = last.unwrap();
    let earned = load.acknowledged.load(std::sync::atomic::Ordering::Relaxed);
    let mut stream = std::net::TcpStream::connect(&c.address).unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("\"type\":\"points.earned\"").count() as u64, earned);
    drop(front);
    c.stop();
}
