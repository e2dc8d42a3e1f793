//! Clients that race, vanish, are silent, are slow, or are too many.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::node::{Client, Node, SMALL, post};

const EARN: &str = "/api/v1/points/m-1/earn";

/// Latencies of a working client, as the median and the 99th percentile.
fn percentiles(mut latencies: Vec<Duration>) -> (Duration, Duration) {
    latencies.sort_unstable();
    (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100])
}

fn work(client: &mut Client, prefix: &str, requests: usize) -> (Duration, Duration) {
    let timed = |n| {
        let begin = Instant::now();
        client.earn("worker", 1, &format!("{prefix}-{n}"));
        begin.elapsed()
    };
    percentiles((0..requests).map(timed).collect())
}

#[test]
fn one_key_raced_by_many_connections_has_one_effect_and_one_answer() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), SMALL);
    for (round, body) in [r#"{"points":7}"#, r#"{"amount":"7000","reference_id":"order"}"#].iter().enumerate() {
        let key = format!("race-{round}");
        let barrier = Barrier::new(64);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let race = || {
                let mut client = node.client();
                barrier.wait();
                client.post(EARN, Some(&key), body).unwrap()
            };
            let racing: Vec<_> = (0..64).map(|_| scope.spawn(race)).collect();
            racing.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
        let bodies: BTreeSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
        assert_eq!(bodies.len(), 1, "{bodies:?}");
        assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
        let other = node.client().post(EARN, Some(&key), r#"{"points":8}"#).unwrap();
        assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-key-reused"));
    }
    let list = node.client().get("/api/v1/points/m-1/transactions").unwrap().json();
    assert_eq!(list["total_count"], 2);
}

#[test]
fn what_a_client_sent_is_executed_though_it_hangs_up() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), SMALL);
    for n in 0..50 {
        let mut client = node.client();
        client.send(&post(EARN, Some(&format!("gone-{n}")), r#"{"points":1}"#)).unwrap();
    }
    let begin = Instant::now();
    let mut client = node.client();
    // The system may deliver a connection's end before its bytes are read; those are executed all the same.
    while client.total("m-1") < 50 {
        assert!(begin.elapsed() < crate::node::PATIENCE, "{} of 50 were executed", client.total("m-1"));
    }
    assert_eq!(client.total("m-1"), 50);
}

#[test]
fn past_the_deadline_the_outcome_is_unknown_and_can_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &["--request-deadline-ms", "20", "--shards", "4", "--workers", "2"]);
    let (points, unknown, stop) = (AtomicI64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (node, points, unknown, stop) = (&node, &points, &unknown, &stop);
            scope.spawn(move || {
                let mut client = node.client();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("{thread}-{n}");
                    let mut answer = client.post(EARN, Some(&key), r#"{"points":1}"#).unwrap();
                    assert!(matches!(answer.status, 201 | 504), "{answer:?}");
                    // A retry whose first try still runs is told so.
                    while matches!(answer.status, 504 | 409) {
                        let expected = if answer.status == 504 { "outcome-unknown" } else { "key-in-progress" };
                        assert_eq!(answer.problem(), expected);
                        unknown.fetch_add(1, Ordering::Relaxed);
                        let outcome = client.get(&format!("/api/v1/points/m-1/outcomes/{key}")).unwrap();
                        assert!([200, 404, 409, 504].contains(&outcome.status), "{outcome:?}");
                        answer = client.post(EARN, Some(&key), r#"{"points":1}"#).unwrap();
                        // What was executed then stays so: the retry is a replay.
                        assert!(outcome.status != 200 || answer.status != 201 || answer.is_replay(), "{answer:?}");
                        assert!(outcome.status != 404 || !answer.is_replay(), "{answer:?}");
                    }
                    assert_eq!(answer.status, 201, "{answer:?}");
                    points.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begin = Instant::now();
        while unknown.load(Ordering::Relaxed) < 5 {
            assert!(begin.elapsed() < crate::node::PATIENCE, "no deadline passed");
            node.signal(Signal::STOP);
            let stopped = Instant::now();
            // Longer than the deadline, by the clock that runs on.
            while stopped.elapsed() < Duration::from_millis(40) {
                std::thread::yield_now();
            }
            node.signal(Signal::CONT);
            let before = points.load(Ordering::Relaxed);
            while points.load(Ordering::Relaxed) < before + 50 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} answers were unknown", unknown.load(Ordering::Relaxed));
    assert_eq!(node.client().total("m-1"), points.load(Ordering::Relaxed));
    let list = node.client().get("/api/v1/points/m-1/transactions?limit=1").unwrap().json();
    assert_eq!(list["total_count"].as_i64(), Some(points.load(Ordering::Relaxed)));
}

#[test]
fn silent_connections_do_not_hurt_a_working_client() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = if raised.is_ok() { limit.maximum } else { limit.current };
    let count = files.map_or(10_000, |files| files.saturating_sub(3_000)).min(10_000);
    assert!(count >= 2_000, "the file limit leaves room for {count} connections");
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &["--shards", "4", "--workers", "2", "--head-timeout-ms", "60000"]);
    let mut client = node.client();
    let before = work(&mut client, "before", 200);
    let silent: Vec<TcpStream> = (0..count).map(|_| TcpStream::connect(&node.address).unwrap()).collect();
    let during = work(&mut client, "during", 200);
    println!("{} silent connections: median and p99 {before:?} before, {during:?} with them", silent.len());
    let mut late = node.client();
    work(&mut late, "late", 20);
    assert_eq!(client.total("worker"), 420);
}

#[test]
fn clients_that_send_a_byte_now_and_then_are_cut_off_and_others_work_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &["--shards", "4", "--workers", "2", "--head-timeout-ms", "200"]);
    let mut slow: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(&node.address).unwrap()).collect();
    for stream in &slow {
        stream.set_nonblocking(true).unwrap();
    }
    let head = b"POST /api/v1/points/m-1/earn HTTP/1.1\r\nHost: m\r\nX-Slow: ";
    let mut client = node.client();
    let begin = Instant::now();
    for round in 0.. {
        assert!(begin.elapsed() < crate::node::PATIENCE, "{} are still open", slow.len());
        let byte = [*head.get(round).unwrap_or(&b'x')];
        slow.retain_mut(|stream| {
            let open = match stream.read(&mut [0; 1024]) {
                Ok(0) => false,
                Ok(_) => true,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            };
            open && stream.write_all(&byte).is_ok()
        });
        if slow.is_empty() {
            break;
        }
        client.earn("worker", 1, &format!("slow-{round}"));
    }
    work(&mut client, "after", 20);
}

#[test]
fn what_is_too_much_is_refused_and_not_executed() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--admission-commands", "2", "--admission-wait-ms", "0", "--shards", "4", "--workers", "2"];
    let node = Node::start(folder.path(), &flags);
    let (executed, refused) = (AtomicI64::new(0), AtomicI64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let (node, executed, refused) = (&node, &executed, &refused);
            scope.spawn(move || {
                let mut client = node.client();
                for n in 0..100 {
                    let key = format!("{thread}-{n}");
                    let answer = client.post(EARN, Some(&key), r#"{"points":1}"#).unwrap();
                    match answer.status {
                        201 => executed.fetch_add(1, Ordering::Relaxed),
                        503 => {
                            assert_eq!(answer.problem(), "overloaded");
                            assert!(answer.headers.contains("retry-after: "), "{answer:?}");
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => panic!("{answer:?}"),
                    };
                }
            });
        }
    });
    let (executed, refused) = (executed.into_inner(), refused.into_inner());
    assert!(executed > 0 && refused > 0, "{executed} executed, {refused} refused");
    assert_eq!(node.client().total("m-1"), executed);
    // All permits came back.
    node.client().earn("m-1", 1, "alone");
    node.stop();
}
