//! Random histories of short-lived lots and holds: nothing is made or lost, answers repeat, a kill changes nothing.
#![allow(clippy::unwrap_used)]

#[path = "support/contract.rs"]
mod contract;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use contract::{Answer, DAY_MS, Shop, Value, at, check_operation, document, json};

const SEED: u64 = 0x6d65_6564;
const OPERATIONS: usize = 700;
const ACCOUNTS: u64 = 3;
const FLOOR: i64 = -40;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Started {
    child: Child,
    address: String,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(data: &str) -> Started {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meed"))
        .args(["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-level", "error", "--data", data])
        .args(["--checkpoint-interval-ms", "100"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        if let Some(address) = lines.next().unwrap().unwrap().strip_prefix("listening on http://") {
            break address.to_owned();
        }
    };
    contract::wait_ready(&address);
    Started { child, address }
}

struct Sent {
    path: String,
    body: Value,
    answer: Answer,
}

/// One request at random; `known` are the executed ones of the account.
fn request(random: &mut Random, account: u64, known: &[Value]) -> (String, Value) {
    let base = format!("/api/v1/points/m-{account}");
    let points = 1 + i64::try_from(random.below(60)).unwrap();
    let pick = |random: &mut Random, kinds: &[&str]| {
        let of: Vec<&Value> = known.iter().filter(|one| kinds.contains(&one["type"].as_str().unwrap())).collect();
        (!of.is_empty()).then(|| of[usize::try_from(random.below(of.len() as u64)).unwrap()].clone())
    };
    let soon = |random: &mut Random| at(100 + i64::try_from(random.below(1500)).unwrap());
    match random.below(12) {
        0 => (format!("{base}/earn"), json!({"points": points})),
        1 => (format!("{base}/earn"), json!({"amount": format!("{points}.37"), "expires_at": soon(random)})),
        2 => (format!("{base}/earn"), json!({"amount": format!("{points}.99"), "expires_at": at(DAY_MS)})),
        3 => (format!("{base}/earn"), json!({"points": points, "activates_at": soon(random)})),
        4 | 5 => (format!("{base}/redeem"), json!({"points": points})),
        6 => {
            (format!("{base}/adjust"), json!({"points": if points % 2 == 0 { points } else { -points }, "reason": "r"}))
        }
        7 => (format!("{base}/holds"), json!({"points": points, "ttl_seconds": 1 + points % 2})),
        8 => match pick(random, &["HOLD"]) {
            Some(hold) => {
                (format!("{base}/holds/{}/capture", hold["hold_id"].as_str().unwrap()), json!({"points": points}))
            }
            None => (format!("{base}/earn"), json!({"points": 1})),
        },
        9 => match pick(random, &["HOLD"]) {
            Some(hold) => (format!("{base}/holds/{}/void", hold["hold_id"].as_str().unwrap()), json!({})),
            None => (format!("{base}/earn"), json!({"points": 2})),
        },
        _ => match pick(random, &["EARN", "REDEEM"]) {
            Some(original) => {
                let path = format!("{base}/transactions/{}/reverse", contract::id(&original));
                let by_amount = original.get("amount").is_some() && points % 3 == 0;
                let body = match (by_amount, points % 3) {
                    (true, _) => json!({"amount": format!("{}.11", points % 20)}),
                    (false, 1) => json!({}),
                    _ => json!({"points": points}),
                };
                (path, body)
            }
            None => (format!("{base}/earn"), json!({"points": 3})),
        },
    }
}

/// What must hold of any answer.
fn check(sent: &Sent) {
    let Sent { path, body, answer } = sent;
    match answer.status {
        200 | 201 => {
            let value = answer.json();
            check_operation(&value);
            let number = |name: &str| value[name].as_i64().unwrap();
            assert!(number("available_points") >= FLOOR, "{value}");
            match value["type"].as_str().unwrap() {
                "REDEEM" | "HOLD" if !path.ends_with("capture") => assert!(number("available_points") >= 0, "{value}"),
                "REVERSAL" => {
                    assert!(number("shortfall_points") >= 0 && number("expired_points") >= 0, "{value}");
                    // Of an award, what expired unspent counts as taken; what went back into lots is all in `points`.
                    let expired = if number("points") > 0 { 0 } else { number("expired_points") };
                    if let Some(points) = body["points"].as_i64() {
                        assert_eq!(
                            number("shortfall_points") + number("points").abs() + expired,
                            points,
                            "{body} {value}"
                        );
                    }
                }
                _ => {}
            }
        }
        400 | 409 => {
            let name = answer.json()["type"].as_str().unwrap().to_owned();
            let expected =
                ["insufficient-points", "exceeds-remaining", "exceeds-hold", "hold-closed", "nothing-to-reverse"];
            assert!(expected.iter().any(|end| name.ends_with(end)), "{path} {body} {answer:?}");
        }
        _ => panic!("{path} {body} {answer:?}"),
    }
}

/// Balance, lots and rows of every account, once nothing is due soon any more.
fn still(shop: &Shop) -> Vec<(Value, Vec<Value>, Vec<Value>)> {
    let read = |account: u64| {
        let account = format!("m-{account}");
        let near = at(DAY_MS / 2);
        shop.until(&account, |balance| {
            let expiry = balance["next_expiry"]["at"].as_str();
            let later = expiry.is_none_or(|at| at > near.as_str());
            balance["held_points"] == 0 && balance["pending_points"] == 0 && later
        });
        (shop.balance(&account), shop.lots(&account), shop.rows(&account))
    };
    (0..ACCOUNTS).map(read).collect()
}

#[test]
fn random_histories_add_up_and_survive_a_kill() {
    println!("seed {SEED:#x}");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let node = start(&data);
    let shop = Shop::of(&node.address, "shop");
    let policy = json!({"policy": "debt", "floor": FLOOR});
    let earning = json!({"points": 2, "per_amount": "3.00", "rounding": "half_even"});
    shop.put("/api/v1/programs/shop", document(json!({"negative_balance": policy, "earning": earning}))).expect(201);
    let mut random = Random(SEED);
    let mut known: Vec<Vec<Value>> = vec![Vec::new(); 3];
    let mut all: Vec<Sent> = Vec::new();
    for account in 0..ACCOUNTS {
        shop.earn(&format!("m-{account}"), 10);
    }
    for n in 0..OPERATIONS {
        let account = random.below(ACCOUNTS);
        let mine = &mut known[usize::try_from(account).unwrap()];
        let (path, body) = request(&mut random, account, mine);
        let answer = shop.post_key(&format!("k{n}"), &path, &body);
        let sent = Sent { path, body, answer };
        check(&sent);
        if sent.answer.status == 201 {
            mine.push(sent.answer.json());
        }
        all.push(sent);
    }
    let before = still(&shop);
    let kinds: std::collections::BTreeSet<&str> =
        before.iter().flat_map(|(_, _, rows)| rows.iter().map(|row| row["type"].as_str().unwrap())).collect();
    for kind in ["ACTIVATE", "ADJUST", "EARN", "EXPIRE", "HOLD", "REDEEM", "REVERSAL", "VOID"] {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
    drop(shop);
    drop(node);
    let verified = Command::new(env!("CARGO_BIN_EXE_meed")).args(["verify", &data]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let node = start(&data);
    let shop = Shop::of(&node.address, "shop");
    assert_eq!(still(&shop), before);
    for (n, sent) in all.iter().enumerate() {
        let remembered = matches!(sent.answer.status, 200 | 201) || sent.answer.body.contains("insufficient-points");
        if remembered {
            let again = shop.post_key(&format!("k{n}"), &sent.path, &sent.body);
            assert_eq!(
                (again.status, &again.body),
                (sent.answer.status, &sent.answer.body),
                "{} {}",
                sent.path,
                sent.body
            );
            assert!(again.is_replay(), "{} {} {again:?}", sent.path, sent.body);
        }
    }
    assert_eq!(still(&shop), before);
}
