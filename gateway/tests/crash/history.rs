//! Concurrent clients on shared accounts: what they saw, while the node was killed, stopped and paused, must be what
//! one account after the other could have shown.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::linearizable::{Account, Action, Operation, Seen, View, check};
use crate::load::Random;
use crate::node::{Answer, Client, Node, PATIENCE, SMALL, verified};

const ACCOUNTS: usize = 12;
const CLIENTS: usize = 12;
const OPERATIONS_PER_CLIENT: u64 = 400;
const START_POINTS: i64 = 50;

/// Where the node is now; nowhere while it starts again.
struct Place {
    address: Mutex<Option<String>>,
    changed: Condvar,
    begin: Instant,
}

impl Place {
    fn set(&self, address: Option<String>) {
        *self.address.lock().unwrap() = address;
        self.changed.notify_all();
    }

    /// A connection, as soon as there is a node that takes one.
    fn connect(&self) -> Client {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "no node");
            let address = self.address.lock().unwrap();
            let (address, _) = self.changed.wait_timeout_while(address, PATIENCE, |a| a.is_none()).unwrap();
            let Some(address) = address.clone() else { continue };
            if let Ok(client) = Client::connect(&address) {
                return client;
            }
        }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }
}

fn view(json: &serde_json::Value, total: &str) -> View {
    View { total: json[total].as_i64().unwrap(), sequence: json["sequence"].as_u64() }
}

/// What an answer tells; nothing when the operation was not executed for now.
fn seen(answer: &Answer, action: Action) -> Option<Seen> {
    match answer.status {
        200 if action == Action::Read => Some(Seen::Account(view(&answer.json(), "total_points"))),
        201 => Some(Seen::Account(view(&answer.json(), "new_balance"))),
        400 if answer.problem() == "insufficient-points" => {
            Some(Seen::TooFew(answer.json()["available_points"].as_i64().unwrap()))
        }
        503 => None,
        504 => Some(Seen::Unknown),
        _ => panic!("{answer:?}"),
    }
}

fn request(account: usize, action: Action, key: &str) -> String {
    let base = format!("/api/v1/points/h-{account}");
    match action {
        Action::Earn(points) => {
            crate::node::post(&format!("{base}/earn"), Some(key), &format!(r#"{{"points":{points}}}"#))
        }
        Action::Redeem(points) => {
            crate::node::post(&format!("{base}/redeem"), Some(key), &format!(r#"{{"points":{points}}}"#))
        }
        Action::Read => format!("GET {base}/balance HTTP/1.1\r\nHost: m\r\n\r\n"),
    }
}

/// One operation with its retries. Sometimes the client hangs up at once, or gives up after a broken connection.
fn operate(place: &Place, client: &mut Client, random: &mut Random, account: usize, key: &str) -> Option<Operation> {
    let points = 1 + random.below(40) as i64;
    let action = match random.below(10) {
        0..4 => Action::Earn(points),
        4..8 => Action::Redeem(points),
        _ => Action::Read,
    };
    let bytes = request(account, action, key);
    let asked = place.now();
    let unknown = Operation { asked, answered: 0, action, seen: Seen::Unknown };
    let mut may_have_been_executed = false;
    loop {
        if random.below(100) == 0 {
            let _ = client.send(&bytes);
            *client = place.connect();
            return Some(unknown);
        }
        match client.ask(&bytes) {
            Ok(answer) => match seen(&answer, action) {
                Some(Seen::Unknown) => may_have_been_executed = true,
                Some(seen) => return Some(Operation { asked, answered: place.now(), action, seen }),
                None => *client = place.connect(),
            },
            Err(_) => {
                may_have_been_executed = true;
                *client = place.connect();
            }
        }
        if random.below(4) == 0 {
            return may_have_been_executed.then_some(unknown);
        }
    }
}

fn run(place: &Place, client: usize, seed: u64, answered: &Sender<()>) -> Vec<(usize, Operation)> {
    let mut random = Random(seed ^ (client as u64) << 32);
    let mut connection = place.connect();
    let mut history = Vec::new();
    for number in 0..OPERATIONS_PER_CLIENT {
        let account = random.below(ACCOUNTS as u64) as usize;
        let key = format!("{client}-{number}");
        history.extend(operate(place, &mut connection, &mut random, account, &key).map(|o| (account, o)));
        // Nobody counts any more near the end.
        let _ = answered.send(());
    }
    history
}

/// Kills, stops and pauses, each after some answers.
fn disturb(place: &Place, mut node: Node, data: &std::path::Path, answered: &Receiver<()>) -> Node {
    let wait = |answers: u64| (0..answers).for_each(|_| assert!(answered.recv_timeout(PATIENCE).is_ok(), "no answers"));
    let steps = CLIENTS as u64 * OPERATIONS_PER_CLIENT / 8;
    for step in 0..7 {
        wait(steps);
        match step % 3 {
            0 => {
                place.set(None);
                node.kill();
            }
            1 => {
                node.signal(Signal::STOP);
                let paused = Instant::now();
                while paused.elapsed() < Duration::from_millis(30) {
                    std::thread::yield_now();
                }
                node.signal(Signal::CONT);
                continue;
            }
            _ => {
                place.set(None);
                node.stop();
            }
        }
        node = Node::start(data, SMALL);
        place.set(Some(node.address.clone()));
    }
    node
}

#[test]
fn what_concurrent_clients_see_is_linearizable_per_account() {
    let seed: u64 = std::env::var("MEED_CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("MEED_CRASH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let node = Node::start(&data, SMALL);
    let mut client = node.client();
    for account in 0..ACCOUNTS {
        client.earn(&format!("h-{account}"), START_POINTS, "start");
    }
    let address = Mutex::new(Some(node.address.clone()));
    let place = Place { address, changed: Condvar::new(), begin: Instant::now() };
    let (sender, receiver) = channel();
    let mut histories = vec![Vec::new(); ACCOUNTS];
    let node = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (place, sender) = (&place, sender.clone());
                scope.spawn(move || run(place, client, seed, &sender))
            })
            .collect();
        drop(sender);
        let node = disturb(&place, node, &data, &receiver);
        for client in clients {
            client.join().unwrap().into_iter().for_each(|(account, o)| histories[account].push(o));
        }
        node
    });
    let mut client = node.client();
    for (account, history) in histories.iter_mut().enumerate() {
        let asked = place.now();
        let answer = client.ask(&request(account, Action::Read, "")).unwrap();
        let seen = seen(&answer, Action::Read).unwrap();
        history.push(Operation { asked, answered: place.now(), action: Action::Read, seen });
    }
    node.stop();
    verified(&data);
    let unknown = histories.iter().flatten().filter(|operation| operation.seen == Seen::Unknown).count();
    let begin = Instant::now();
    for (account, history) in histories.iter().enumerate() {
        let start = Account { total: START_POINTS, sequence: 1 };
        check(start, history).unwrap_or_else(|error| panic!("account h-{account}: {error}"));
    }
    let all = histories.iter().flatten().count();
    println!("{all} operations, {unknown} of them with unknown outcomes, judged in {:?}", begin.elapsed());
    assert!(all > 4_000 && unknown > 10, "{all} {unknown}");
}
