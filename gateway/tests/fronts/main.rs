//! Fronts before an owner, with real processes: kills and stops on either side under load, wrong secrets, and
//! what a stranger can send to the listener for fronts.
#![allow(clippy::unwrap_used)]

mod events;
#[allow(dead_code)]
#[path = "../support/node.rs"]
mod node;
mod strangers;
#[path = "../support/wait.rs"]
mod wait;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use node::{Answer, Client, Node, PATIENCE, run};
use rustix::process::Signal;
use wait::{eventually, pause};

const JSON: &str = "Content-Type: application/json\r\n";

/// A folder with an owner's data and its socket.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn door(&self) -> String {
        format!("unix:{}", self.path("owner").display())
    }

    pub(crate) fn owner(&self) -> Node {
        let small = ["--shards", "4", "--workers", "2", "--segment-bytes", "1MiB"];
        Node::start(&self.path("data"), &[&["--owner-listen", &self.door()], &small[..]].concat())
    }

    pub(crate) fn front(&self, flags: &[&str]) -> Node {
        let door = self.door();
        let flags = [&["--front-of", &door, "--workers", "2"], flags].concat();
        Node::start(&self.path("front"), &flags)
    }

    fn verify(&self) {
        let (code, text) = run(&["verify", self.path("data").to_str().unwrap()]);
        assert_eq!(code, Some(0), "{text}");
    }
}

fn post(client: &mut Client, path: &str, key: &str, body: &str) -> std::io::Result<Answer> {
    client.send("POST", path, &format!("{JSON}Idempotency-Key: {key}\r\n"), body)?;
    client.receive()
}

pub(crate) fn earn(client: &mut Client, account: &str, key: &str) -> std::io::Result<Answer> {
    post(client, &format!("/api/v1/points/{account}/earn"), key, r#"{"points":1}"#)
}

/// Total points and records of an account.
fn counts(client: &mut Client, account: &str) -> (i64, i64) {
    let total = client.ask("GET", &format!("/api/v1/points/{account}/balance"), "", "").json()["total_points"].as_i64();
    let list = client.ask("GET", &format!("/api/v1/points/{account}/transactions?limit=1"), "", "").json();
    (total.unwrap(), list["total_count"].as_i64().unwrap())
}

fn readiness(node: &Node) -> (u16, String) {
    let answer = node.client().ask("GET", "/readyz", "", "");
    (answer.status, answer.body)
}

/// What the clients of a load have seen.
#[derive(Default)]
struct Seen {
    done: AtomicUsize,
    not_executed: AtomicUsize,
    unknown: AtomicUsize,
    broken: AtomicUsize,
    stop: AtomicBool,
}

/// One client: an earn after the other on an account of its own, each under a key of its own and asked again under it
/// until it is acknowledged, at any of the fronts; the number of acknowledged ones.
fn client(number: usize, fronts: &[String], seen: &Seen) -> i64 {
    let account = format!("m-{number}");
    let mut front = number % fronts.len();
    let mut connection = None;
    let mut acknowledged = 0;
    while !seen.stop.load(Ordering::Relaxed) {
        let key = format!("{account}-{acknowledged}");
        let begin = Instant::now();
        let mut last = None;
        loop {
            assert!(begin.elapsed() < PATIENCE, "{key} is never acknowledged: {last:?}");
            let Some(connected) = &mut connection else {
                connection = Client::connect(&fronts[front]).ok();
                front = (front + 1) % fronts.len();
                continue;
            };
            match earn(connected, &account, &key) {
                Ok(answer) if answer.status == 201 => break,
                Ok(answer) if answer.status == 503 => {
                    assert!(answer.header("retry-after").is_some(), "{answer:?}");
                    seen.not_executed.fetch_add(1, Ordering::Relaxed);
                    last = Some(answer);
                    pause();
                }
                Ok(answer) => {
                    assert_eq!(answer.status, 504, "{answer:?}");
                    assert!(answer.body.contains("outcome-unknown"), "{answer:?}");
                    seen.unknown.fetch_add(1, Ordering::Relaxed);
                    last = Some(answer);
                }
                Err(_) => {
                    seen.broken.fetch_add(1, Ordering::Relaxed);
                    connection = None;
                }
            }
        }
        acknowledged += 1;
        seen.done.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Runs a load at the fronts while `meanwhile` does something to the processes; then every account has what was
/// acknowledged, once.
fn under_load(fronts: &[String], meanwhile: impl FnOnce(&Seen)) -> Seen {
    const CLIENTS: usize = 8;
    let seen = Seen::default();
    let acknowledged: Vec<i64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let seen = &seen;
                    move || client(number, fronts, seen)
                })
            })
            .collect();
        meanwhile(&seen);
        seen.stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut client = fronts.iter().find_map(|front| Client::connect(front).ok()).unwrap();
    for (number, acknowledged) in acknowledged.into_iter().enumerate() {
        assert_eq!(counts(&mut client, &format!("m-{number}")), (acknowledged, acknowledged), "m-{number}");
    }
    let count = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
    println!(
        "{} acknowledged, {} not executed, {} unknown, {} connections broken",
        count(&seen.done),
        count(&seen.not_executed),
        count(&seen.unknown),
        count(&seen.broken)
    );
    seen
}

fn wait_for_more(seen: &Seen, more: usize) {
    let until = seen.done.load(Ordering::Relaxed) + more;
    eventually("the load goes on", || seen.done.load(Ordering::Relaxed) >= until);
}

#[test]
fn an_owner_killed_under_load_loses_nothing_and_does_nothing_twice() {
    let place = Place::new();
    let mut owner = Some(place.owner());
    let fronts = [place.front(&[]), place.front(&[])];
    let addresses = fronts.each_ref().map(|front| front.address.clone());
    let seen = under_load(&addresses, |seen| {
        for _ in 0..3 {
            wait_for_more(seen, 200);
            // Dropped, it is killed.
            owner = None;
            eventually("fronts notice", || fronts.iter().all(|front| readiness(front).0 == 503));
            assert!(readiness(&fronts[0]).1.contains("owner"), "{:?}", readiness(&fronts[0]));
            owner = Some(place.owner());
            eventually("fronts are ready again", || fronts.iter().all(|front| readiness(front).0 == 200));
        }
        wait_for_more(seen, 200);
    });
    assert_eq!(seen.broken.load(Ordering::Relaxed), 0, "no client of a front lost its connection");
    fronts.into_iter().for_each(Node::stop);
    owner.unwrap().stop();
    place.verify();
}

#[test]
fn an_owner_stopped_in_order_answers_what_it_took() {
    let place = Place::new();
    let mut owner = Some(place.owner());
    let front = place.front(&[]);
    let seen = under_load(std::slice::from_ref(&front.address), |seen| {
        for _ in 0..2 {
            wait_for_more(seen, 200);
            let begin = Instant::now();
            owner.take().unwrap().stop();
            assert!(begin.elapsed() < Duration::from_secs(10), "fronts do not keep an owner from stopping");
            owner = Some(place.owner());
        }
        wait_for_more(seen, 200);
    });
    assert_eq!(seen.unknown.load(Ordering::Relaxed), 0, "what it took it answered");
    front.stop();
    owner.unwrap().stop();
    place.verify();
}

#[test]
fn a_front_killed_under_load_loses_nothing() {
    let place = Place::new();
    let owner = place.owner();
    let stays = place.front(&[]);
    let mut goes = Some(place.front(&[]));
    let addresses = [stays.address.clone(), goes.as_ref().unwrap().address.clone()];
    let seen = under_load(&addresses, |seen| {
        wait_for_more(seen, 300);
        goes = None;
        wait_for_more(seen, 300);
    });
    assert!(seen.broken.load(Ordering::Relaxed) > 0);
    stays.stop();
    owner.stop();
    place.verify();
}

#[test]
fn nothing_is_decided_after_its_deadline_by_an_owner_that_was_paused() {
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&["--request-deadline-ms", "300"]);
    let mut client = front.client();
    assert_eq!(earn(&mut client, "m-1", "before").unwrap().status, 201);
    owner.pause();
    let late = earn(&mut client, "m-1", "late").unwrap();
    assert_eq!((late.status, late.json()["type"].as_str()), (504, Some("/problems/outcome-unknown")), "{late:?}");
    // Without a key there is nothing to ask by, but the answer is the same.
    let frozen = r#"{"status":"frozen"}"#;
    let patched = client.ask("PATCH", "/api/v1/accounts/m-1", JSON, frozen);
    assert_eq!(patched.status, 504, "{patched:?}");
    owner.signal(Signal::CONT);
    // This one is behind them on the same link, so they were looked at before it is answered.
    let mut status = 504;
    while status == 504 {
        status = earn(&mut client, "m-1", "after").unwrap().status;
    }
    assert_eq!(status, 201);
    let outcome = client.ask("GET", "/api/v1/points/m-1/outcomes/late", "", "");
    assert_eq!(outcome.status, 404, "it was decided after its deadline: {outcome:?}");
    let account = client.ask("GET", "/api/v1/accounts/m-1", "", "").json();
    assert_eq!(account["status"], "active", "{account}");
    assert_eq!(counts(&mut client, "m-1"), (2, 2));
    front.stop();
    owner.stop();
}

#[test]
fn what_a_broken_link_leaves_open_is_sent_again_only_with_a_key() {
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&["--request-deadline-ms", "50000"]);
    let mut client = front.client();
    assert_eq!(earn(&mut client, "m-1", "before").unwrap().status, 201);
    owner.pause();
    let (mut keyed, mut keyless) = (front.client(), front.client());
    keyless.send("PATCH", "/api/v1/accounts/m-1", JSON, r#"{"status":"frozen"}"#).unwrap();
    let headers = format!("{JSON}Idempotency-Key: again\r\n");
    keyed.send("POST", "/api/v1/points/m-1/earn", &headers, r#"{"points":1}"#).unwrap();
    eventually("both are under way", || front.metrics().lines().any(|line| line == "meed_forward_in_flight 2"));
    // Dropped, it is killed, and has decided neither.
    drop(owner);
    let lost = keyless.receive().unwrap();
    assert_eq!((lost.status, lost.json()["type"].as_str()), (504, Some("/problems/outcome-unknown")), "{lost:?}");
    let owner = place.owner();
    let again = keyed.receive().unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, None), "{again:?}");
    assert_eq!(client.ask("GET", "/api/v1/accounts/m-1", "", "").json()["status"], "active");
    assert_eq!(counts(&mut client, "m-1"), (2, 2));
    front.metrics_with(&["meed_forward_resent_total 1".to_owned(), "meed_forward_lost_total 1".to_owned()]);
    front.stop();
    owner.stop();
}

#[test]
fn what_one_front_publishes_every_front_knows() {
    let place = Place::new();
    let owner = place.owner();
    let (one, other) = (place.front(&[]), place.front(&[]));
    let (mut one_client, mut other_client) = (one.client(), other.client());
    for version in 1..=30 {
        let document = format!(
            r#"{{"name":"p","time_zone":"UTC","currency":"USD","earning":{{"points":{version},"per_amount":"1.00"}},
            "tiers":{{"levels":[{{"name":"T{version}","from":"0","multiplier":"1"}}]}}}}"#
        );
        let put = one_client.ask("PUT", "/api/v1/programs/p", JSON, &document);
        assert_eq!(put.status, if version == 1 { 201 } else { 200 }, "{put:?}");
        let headers = format!("{JSON}Program: p\r\nIdempotency-Key: {version}\r\n");
        let earned = other_client.ask("POST", "/api/v1/points/m-1/earn", &headers, r#"{"amount":"1.00"}"#);
        assert_eq!(earned.status, 201, "{earned:?}");
        let earned = earned.json();
        assert_eq!(earned["points"].as_i64(), Some(version), "{earned}");
        assert_eq!(earned["tier"].as_str(), Some(format!("T{version}").as_str()), "{earned}");
        let newest = other_client.ask("GET", "/api/v1/programs/p", "", "").json();
        assert_eq!(newest["version"].as_i64(), Some(version));
    }
    let unknown = other_client.ask("GET", "/api/v1/points/m-1/balance", "Program: nobody\r\n", "");
    assert_eq!(unknown.status, 404, "{unknown:?}");
    one.stop();
    other.stop();
    owner.stop();
}

#[test]
fn events_through_a_front_are_the_owners() {
    let place = Place::new();
    let (owner, front) = (place.owner(), place.front(&[]));
    let mut client = front.client();
    for n in 0..40 {
        assert_eq!(earn(&mut client, &format!("m-{}", n % 3), &format!("k-{n}")).unwrap().status, 201);
    }
    let mut cursor = String::new();
    for query in ["", "?limit=7", "?types=points.redeemed", "?after=now", "?after=nonsense", "?limit=0"] {
        let path = format!("/api/v1/events{query}");
        let (there, here) = (owner.client().ask("GET", &path, "", ""), client.ask("GET", &path, "", ""));
        // A problem names its request.
        let without_id = |answer: &Answer| answer.body.split("\"instance\"").next().unwrap().to_owned();
        assert_eq!((there.status, without_id(&there)), (here.status, without_id(&here)), "{query}");
        if query == "?limit=7" {
            let last: serde_json::Value = serde_json::from_str(here.body.lines().last().unwrap()).unwrap();
            cursor = last["cursor"].as_str().unwrap().to_owned();
        }
    }
    let rest = client.ask("GET", &format!("/api/v1/events?after={cursor}"), "", "");
    let there = owner.client().ask("GET", &format!("/api/v1/events?after={cursor}"), "", "");
    assert_eq!(rest.body, there.body);
    assert_eq!(
        rest.body.lines().filter(|line| line.contains("specversion")).count(),
        34,
        "all but seven of the awards and the program's version: {rest:?}"
    );
    // A follower sees what comes later.
    let mut follower = front.client();
    follower.send("GET", "/api/v1/events?after=now&follow=true&limit=1", "", "").unwrap();
    let begin = Instant::now();
    let followed = std::thread::spawn(move || follower.receive());
    let mut n = 0;
    while !followed.is_finished() {
        assert!(begin.elapsed() < PATIENCE, "the follower sees nothing");
        n += 1;
        assert_eq!(earn(&mut client, "m-9", &format!("later-{n}")).unwrap().status, 201);
    }
    let followed = followed.join().unwrap().unwrap();
    assert!(followed.body.contains("\"m-9\"") && followed.body.contains("specversion"), "{followed:?}");
    front.stop();
    owner.stop();
}

#[test]
fn too_much_under_way_is_refused_at_the_front_and_at_the_owner() {
    let place = Place::new();
    let door = place.door();
    let owner = Node::start(&place.path("data"), &["--owner-listen", &door, "--admission-commands", "8"]);
    let wide = place.front(&[]);
    let narrow = place.front(&["--admission-commands", "8", "--admission-wait-ms", "0"]);
    let items: Vec<String> =
        (0..100).map(|n| format!(r#"{{"op":"earn","account":"m-1","points":1,"idempotency_key":"b-{n}"}}"#)).collect();
    let batch = format!(r#"{{"items":[{}]}}"#, items.join(","));
    // The front would let it run in one window, which the owner has no permits for.
    let answer = wide.client().ask("POST", "/api/v1/batch", JSON, &batch);
    assert_eq!(answer.status, 207, "{answer:?}");
    let results = answer.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 100);
    assert!(results.iter().all(|item| item["status"] == 503), "{results:?}");
    assert_eq!(earn(&mut wide.client(), "m-1", "single").unwrap().status, 201);
    // An owner that answers nothing keeps the front's permits taken.
    owner.pause();
    let send = |n| {
        let mut client = narrow.client();
        let headers = format!("{JSON}Idempotency-Key: waiting-{n}\r\n");
        client.send("POST", "/api/v1/points/m-1/earn", &headers, r#"{"points":1}"#).unwrap();
        client
    };
    let waiting: Vec<Client> = (0..8).map(send).collect();
    narrow.metrics_with(&["meed_forward_in_flight 8".to_owned()]);
    let refused = earn(&mut narrow.client(), "m-1", "ninth").unwrap();
    assert!(refused.status == 503 && refused.body.contains("overloaded"), "{refused:?}");
    owner.signal(Signal::CONT);
    for mut client in waiting {
        assert_eq!(client.receive().unwrap().status, 201);
    }
    assert_eq!(earn(&mut narrow.client(), "m-1", "ninth").unwrap().status, 201);
    assert_eq!(counts(&mut wide.client(), "m-1"), (10, 10));
    wide.stop();
    narrow.stop();
    owner.stop();
}

#[test]
fn fronts_share_a_port_and_nobody_else_may() {
    let place = Place::new();
    let owner = place.owner();
    let one = place.front(&["--share-port"]);
    let port = one.address.clone();
    let data = place.path("front-2");
    let flags = ["--front-of", &place.door(), "--listen", &port, "--metrics-listen", "off"];
    let (code, text) = run(&[&["serve", "--data", data.to_str().unwrap()], &flags[..]].concat());
    assert_eq!(code, Some(1), "{text}");
    let other = Node::start(&data, &["--front-of", &place.door(), "--listen", &port, "--share-port"]);
    assert_eq!(other.address, port);
    one.stop();
    assert_eq!(earn(&mut other.client(), "m-1", "k").unwrap().status, 201);
    other.stop();
    owner.stop();
}

#[test]
fn a_front_of_several_addresses_goes_to_the_one_that_answers() {
    let place = Place::new();
    let owner = place.owner();
    let secret = format!("{}.secret", place.path("owner").display());
    let nobody = format!("unix:{}", place.path("nobody").display());
    // At the public address somebody answers who is not an owner.
    let flags =
        ["--front-of", &nobody, &format!("http://{},{}", owner.address, place.door()), "--owner-secret", &secret];
    let front = Node::start(&place.path("front"), &flags);
    eventually("it is ready", || readiness(&front).0 == 200);
    assert_eq!(earn(&mut front.client(), "m-1", "once").unwrap().status, 201);
    let owner = {
        drop(owner);
        eventually("it notices", || readiness(&front).0 == 503);
        place.owner()
    };
    eventually("it is ready again", || readiness(&front).0 == 200);
    assert_eq!(counts(&mut front.client(), "m-1"), (1, 1));
    front.stop();
    owner.stop();
}

#[test]
fn a_front_says_what_keeps_it_from_its_owner() {
    let place = Place::new();
    let owner = place.owner();
    let secret = place.path("secret");
    let serve =
        |flags: &[&str]| run(&[&["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"], flags].concat());
    let door = place.door();
    std::fs::write(&secret, "a secret of somebody else").unwrap();
    let (code, text) = serve(&["--front-of", &door, "--owner-secret", secret.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("another secret") && text.contains("--owner-secret"), "{text}");
    std::fs::write(&secret, "short").unwrap();
    let (code, text) = serve(&["--front-of", &door, "--owner-secret", secret.to_str().unwrap()]);
    assert!(code == Some(2) && text.contains("16 to 4096 bytes"), "{code:?} {text}");
    let (code, text) =
        serve(&["--front-of", &format!("http://{}", owner.address), "--owner-secret", &file(&place, "right")]);
    assert!(code == Some(1) && text.contains("not the internal listener"), "{code:?} {text}");
    let (code, text) = serve(&["--front-of", "unix:nowhere"]);
    assert!(code == Some(2) && text.contains("nowhere.secret"), "{code:?} {text}");
    owner.stop();
}

/// A file with a good secret.
pub(crate) fn file(place: &Place, name: &str) -> String {
    let path = place.path(name);
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    path.to_str().unwrap().to_owned()
}

/// Reads the secret that an owner made.
pub(crate) fn secret_of(place: &Place) -> Vec<u8> {
    std::fs::read(Path::new(&format!("{}.secret", place.path("owner").display()))).unwrap()
}
