//! A disk on which a sync takes long: what clients are told meanwhile, and what they find after it.

use std::path::PathBuf;
use std::time::Instant;

use tempfile::TempDir;

use crate::node::{Answer, Node, PATIENCE, SMALL, verified};
use crate::power::Layer;

const FLAGS: &[&str] = &["--request-deadline-ms", "200", "--shards", "2", "--workers", "1"];

fn data_of(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

/// A node whose syncs the layer can hold.
fn started(flags: &[&str]) -> (TempDir, Layer, Node) {
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::new(&folder.path().join("writes"), &[]);
    let node = layer.try_start(&data_of(&folder), flags).unwrap();
    (folder, layer, node)
}

/// Asks again until the status is this one; every try waits for the deadline of a request by itself.
fn until(status: u16, mut ask: impl FnMut() -> Answer) -> Answer {
    let began = Instant::now();
    loop {
        let answer = ask();
        if answer.status == status {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "{answer:?}");
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, problem: &str) {
    assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{answer:?}");
    assert_eq!(answer.json()["retryable"], true, "{answer:?}");
}

#[test]
fn what_a_slow_sync_left_without_an_answer_is_found_by_its_key() {
    let (folder, layer, node) = started(FLAGS);
    let (mut first, mut second) = (node.client(), node.client());
    first.earn("m-1", 100, "before");
    let earn = |client: &mut crate::node::Client, points: i64| {
        let body = format!(r#"{{"points":{points}}}"#);
        client.post("/api/v1/points/m-1/earn", Some("slow"), &body).unwrap()
    };

    layer.hold_syncs();
    refused(&earn(&mut first, 7), 504, "outcome-unknown");
    refused(&earn(&mut second, 7), 409, "key-in-progress");
    refused(&second.get("/api/v1/points/m-1/outcomes/slow").unwrap(), 409, "key-in-progress");
    // It would show what is not durable yet.
    refused(&second.get("/api/v1/points/m-1/balance").unwrap(), 504, "outcome-unknown");
    layer.release_syncs();

    let outcome = until(200, || second.get("/api/v1/points/m-1/outcomes/slow").unwrap()).json();
    let replayed = earn(&mut first, 7);
    assert!(replayed.status == 201 && replayed.is_replay(), "{replayed:?}");
    assert_eq!(outcome["body"], replayed.json());
    assert_eq!(earn(&mut first, 8).problem(), "idempotency-key-reused");
    assert_eq!(first.total("m-1"), 107);
    node.stop();
    verified(&data_of(&folder));
}

#[test]
fn a_kill_during_a_slow_sync_leaves_an_outcome_that_is_found_by_its_key() {
    let (folder, layer, node) = started(FLAGS);
    let mut client = node.client();
    client.earn("m-1", 100, "before");
    layer.hold_syncs();
    let late = client.post("/api/v1/points/m-1/earn", Some("slow"), r#"{"points":7}"#).unwrap();
    refused(&late, 504, "outcome-unknown");
    node.kill();
    let node = Node::start(&data_of(&folder), FLAGS);
    let mut client = node.client();
    // The page cache has kept it, or not: the same request gives one effect either way.
    client.earn("m-1", 7, "slow");
    assert_eq!(client.total("m-1"), 107);
    node.stop();
    verified(&data_of(&folder));
}

#[test]
fn an_alias_is_answered_by_the_deadline_too() {
    let (folder, layer, node) = started(FLAGS);
    let mut client = node.client();
    client.earn("m-1", 100, "before");
    let put = "PUT /api/v1/accounts/m-1/aliases/card:77 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n";

    layer.hold_syncs();
    refused(&client.ask(put).unwrap(), 504, "outcome-unknown");
    // The aliases' thread waits for its disk, and who asks for one waits for that.
    refused(&client.get("/api/v1/points/card:77/balance").unwrap(), 504, "outcome-unknown");
    layer.release_syncs();

    // It was put: what is unknown may be asked again.
    until(200, || client.ask(put).unwrap());
    assert_eq!(client.get("/api/v1/points/card:77/balance").unwrap().json()["total_points"], 100);
    node.stop();
    verified(&data_of(&folder));
}

/// The journal and the alias store fail at the same moment: the first ends the process, and the other may still answer.
/// Who only asks for an alias meanwhile is told that nothing was executed.
#[test]
fn a_change_of_an_alias_that_failed_is_never_refused_as_not_executed() {
    const ALIAS: &str = "/api/v1/accounts/m-1/aliases/card:77 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n";
    let [mut answered, mut answered_reads] = [0, 0];
    for method in ["PUT", "DELETE"].repeat(10) {
        let (_folder, layer, mut node) = started(SMALL);
        let (mut first, mut second, mut third) = (node.client(), node.client(), node.client());
        first.earn("m-1", 100, "before");
        if method == "DELETE" {
            assert_eq!(first.ask(&format!("PUT {ALIAS}")).unwrap().status, 201);
        }
        layer.hold_syncs();
        let before = layer.writes();
        std::thread::scope(|scope| {
            let earn = scope.spawn(move || first.post("/api/v1/points/m-2/earn", Some("failed"), r#"{"points":7}"#));
            let change = scope.spawn(move || second.ask(&format!("{method} {ALIAS}")));
            let began = Instant::now();
            while layer.writes() < before + 2 {
                assert!(began.elapsed() < PATIENCE, "they did not write");
                std::thread::yield_now();
            }
            let read = scope.spawn(move || third.get("/api/v1/points/card:88/balance"));
            layer.fail_syncs();
            layer.release_syncs();
            if let Ok(answer) = read.join().unwrap() {
                assert!(answer.status == 503 || answer.status == 404, "{answer:?}");
                answered_reads += 1;
            }
            for answer in [earn.join().unwrap(), change.join().unwrap()].into_iter().flatten() {
                refused(&answer, 504, "outcome-unknown");
                answered += 1;
            }
        });
        let (code, log) = node.ended();
        assert!(code == Some(1) && log.contains("Input/output error"), "{code:?} {log}");
    }
    println!("{answered} changes and {answered_reads} reads were answered");
}

#[test]
fn a_batch_has_one_deadline_for_all_that_it_holds() {
    const DEADLINE_MS: u128 = 1_500;
    let (folder, layer, node) = started(&["--request-deadline-ms", "1500", "--shards", "2", "--workers", "1"]);
    let mut client = node.client();
    client.earn("m-1", 100, "before");
    // More than twice of what is under way at once.
    let items: Vec<String> = (0..9_000)
        .map(|item| format!(r#"{{"op":"earn","account":"m-{item}","points":1,"idempotency_key":"b-{item}"}}"#))
        .collect();
    let body = format!(r#"{{"items":[{}]}}"#, items.join(","));

    layer.hold_syncs();
    let began = Instant::now();
    let answer = client.post("/api/v1/batch", None, &body).unwrap();
    let took_ms = began.elapsed().as_millis();
    layer.release_syncs();

    assert_eq!(answer.status, 207);
    let answer = answer.json();
    let results = answer["results"].as_array().unwrap();
    assert!(results.len() == 9_000 && results.iter().all(|result| result["status"] == 504));
    assert!((DEADLINE_MS..2 * DEADLINE_MS).contains(&took_ms), "answered after {took_ms} ms");
    until(200, || client.get("/api/v1/points/m-1/outcomes/b-1").unwrap());
    node.stop();
    verified(&data_of(&folder));
}
