//! The bounds of what is under way, each at its limit: what is beyond it is refused, not executed, and taken again once
//! there is room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use crate::node::{Answer, Client, Node, PATIENCE, metric, post, verified};
use crate::power::Layer;

const EARN: &str = "/api/v1/points/m-1/earn";

#[track_caller]
fn shed(answer: &Answer) {
    assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"), "{answer:?}");
    assert!(answer.headers.contains("retry-after: 1\r\n"), "{answer:?}");
    assert_eq!(answer.json()["retryable"], true, "{answer:?}");
}

/// A node whose syncs can be held, so that what it has admitted stays under way.
struct Held {
    folder: tempfile::TempDir,
    layer: Layer,
    node: Node,
}

impl Held {
    fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(&folder.path().join("writes"), &[]);
        let common = ["--metrics-listen", "127.0.0.1:0", "--workers", "1", "--admission-wait-ms", "0"];
        let node = layer.try_start(&folder.path().join("data"), &[&common, flags].concat()).unwrap();
        layer.hold_syncs();
        Self { folder, layer, node }
    }

    /// Sends a request and returns when so many commands are under way. Its answer is still to come.
    fn sent(&self, request: &str, under_way: f64) -> Client {
        let mut client = self.node.client();
        client.send(request).unwrap();
        let metrics = self.node.metrics.as_deref().unwrap();
        let began = Instant::now();
        while metric(metrics, "meed_mailbox_depth") < under_way {
            assert!(began.elapsed() < PATIENCE, "it is not admitted");
        }
        client
    }

    /// The syncs end, and with them what was sent; all that was given back can be had again.
    fn ends(self, sent: Vec<Client>, again: &[String]) {
        self.layer.release_syncs();
        for mut client in sent {
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        for request in again {
            let answer = self.node.client().ask(request).unwrap();
            assert!(answer.status == 201 && !answer.is_replay(), "{answer:?}");
        }
        let metrics = self.node.metrics.clone().unwrap();
        assert_eq!(metric(&metrics, "meed_mailbox_depth"), 0.0);
        self.node.stop();
        verified(&self.folder.path().join("data"));
    }
}

#[test]
fn a_node_without_room_says_so_before_it_reads_what_was_asked() {
    let held = Held::start(&["--admission-commands", "1", "--shards", "1"]);
    let only = held.sent(&post(EARN, Some("first"), r#"{"points":1}"#), 1.0);
    let mut client = held.node.client();
    let second = post("/api/v1/points/m-2/earn", Some("second"), r#"{"points":1}"#);
    shed(&client.ask(&second).unwrap());
    // These would be 400 where there is room: nobody spends the time to find out.
    shed(&client.post(EARN, Some("third"), "{").unwrap());
    shed(&client.post("/api/v1/batch", None, "{").unwrap());
    shed(&client.get("/api/v1/points/m-1/transactions?limit=0").unwrap());
    assert_eq!(client.get("/livez").unwrap().status, 200);
    held.ends(vec![only], &[second]);
}

#[test]
fn bytes_under_way_are_bounded() {
    let held = Held::start(&["--admission-bytes", "65536", "--shards", "1"]);
    let large = format!(r#"{{"points":1}}{}"#, " ".repeat(40_000));
    let first = held.sent(&post(EARN, Some("first"), &large), 1.0);
    let second = post(EARN, Some("second"), &large);
    shed(&held.node.client().ask(&second).unwrap());
    // A short one still has room, although the long one was refused.
    let short = held.sent(&post(EARN, Some("short"), r#"{"points":1}"#), 2.0);
    held.ends(vec![first, short], &[second]);
}

#[test]
fn commands_of_one_shard_are_bounded() {
    const ACCOUNTS: usize = 16;
    let held = Held::start(&["--admission-commands-per-shard", "1", "--shards", "2"]);
    let requests: Vec<String> =
        (0..ACCOUNTS).map(|n| post(&format!("/api/v1/points/m-{n}/earn"), Some("k"), r#"{"points":1}"#)).collect();
    let (answers, answered) = mpsc::channel();
    std::thread::scope(|scope| {
        for request in &requests {
            let (mut client, answers) = (held.node.client(), answers.clone());
            scope.spawn(move || answers.send((request, client.ask(request).unwrap())));
        }
        // One command of each shard is admitted and waits for the disk; all others are told at once.
        let again: Vec<String> = (0..ACCOUNTS - 2)
            .map(|_| {
                let (request, answer) = answered.recv_timeout(PATIENCE).unwrap();
                shed(&answer);
                request.clone()
            })
            .collect();
        held.layer.release_syncs();
        for _ in 0..2 {
            assert_eq!(answered.recv_timeout(PATIENCE).unwrap().1.status, 201);
        }
        held.layer.hold_syncs();
        held.ends(Vec::new(), &again);
    });
}

#[test]
fn a_batch_runs_in_windows_that_the_permits_allow() {
    let folder = tempfile::tempdir().unwrap();
    let item = |n| format!(r#"{{"op":"earn","account":"m-1","points":1,"idempotency_key":"k-{n}"}}"#);
    let items: Vec<String> = (0..600).map(item).collect();
    let batch = format!(r#"{{"items":[{}]}}"#, items.join(","));
    for (round, flags) in
        [["--admission-commands", "100"], ["--admission-commands-per-shard", "100"], ["--admission-bytes", "65536"]]
            .iter()
            .enumerate()
    {
        let data = folder.path().join(round.to_string());
        let node = Node::start(&data, &[&["--shards", "1", "--admission-wait-ms", "20000"], &flags[..]].concat());
        let answer = node.client().post("/api/v1/batch", None, &batch).unwrap();
        assert_eq!(answer.body.matches(r#""status":201"#).count(), items.len(), "{flags:?}");
        assert_eq!(node.client().total("m-1"), items.len() as i64);
        node.stop();
    }
}

#[test]
fn load_is_shed_while_checkpoints_are_too_far_behind_and_taken_again_after_one() {
    const BATCH: usize = 2_000;
    let folder = tempfile::tempdir().unwrap();
    // By the clock there is no checkpoint within this test: the lag itself begins one.
    let flags = ["--checkpoint-lag-records", "1000", "--checkpoint-interval-ms", "3600000", "--admission-wait-ms", "0"];
    let node = Node::start(folder.path(), &[&flags[..], &["--shards", "1", "--workers", "1"]].concat());
    let has_shed = AtomicBool::new(false);
    let mut executed = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = node.client();
            let mut executed = 0;
            for batch in 0.. {
                if has_shed.load(Ordering::Relaxed) {
                    break;
                }
                let item = |n| format!(r#"{{"op":"earn","account":"b-{batch}-{n}","points":1,"idempotency_key":"k"}}"#);
                let items: Vec<String> = (0..BATCH).map(item).collect();
                let body = format!(r#"{{"items":[{}]}}"#, items.join(","));
                let answer = client.post("/api/v1/batch", None, &body).unwrap();
                if answer.status == 503 {
                    shed(&answer);
                    continue;
                }
                let [done, refused] =
                    ["201", "503"].map(|code| answer.body.matches(&format!(r#""status":{code},"#)).count());
                assert_eq!(done + refused, BATCH, "{}", answer.body);
                executed += done;
            }
            executed
        });
        let mut client = node.client();
        let (began, mut single) = (Instant::now(), 0);
        let refused = loop {
            if began.elapsed() > PATIENCE {
                // The other client ends too.
                has_shed.store(true, Ordering::Relaxed);
                panic!("nothing is shed");
            }
            let request = post(EARN, Some(&format!("k-{single}")), r#"{"points":1}"#);
            let answer = client.ask(&request).unwrap();
            if answer.status != 201 {
                break (request, answer);
            }
            single += 1;
        };
        has_shed.store(true, Ordering::Relaxed);
        let (request, answer) = refused;
        shed(&answer);
        assert!(answer.body.contains("The state store is behind"), "{answer:?}");
        // Not executed, so the same request is a first one as soon as the checkpoint has caught up.
        let admitted = loop {
            let answer = client.ask(&request).unwrap();
            if answer.status == 201 {
                break answer;
            }
            shed(&answer);
            assert!(began.elapsed() < PATIENCE, "it is not admitted again");
        };
        assert!(!admitted.is_replay(), "{admitted:?}");
        single += 1;
        assert_eq!(admitted.json()["new_balance"], single);
        load.join().unwrap() + single
    });
    // The record of the program is one more.
    executed += 1;
    node.stop();
    let said = verified(folder.path());
    assert!(said.contains(&format!("{executed} records")), "{executed}: {said}");
}
