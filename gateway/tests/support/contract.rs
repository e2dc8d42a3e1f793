//! One running `meed` for the tests of a file, and a client of it that knows the contract alone.
//!
//! It never uses the crates of the project: what it checks is what any client sees.
// Each test file uses its own part.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) use serde_json::{Value, json};

#[path = "answer.rs"]
mod answer;
pub(crate) use answer::Answer;

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Stops the node and removes its data when standard input ends, which is when the test process does.
const KEEPER: &str = "\"$0\" --listen 127.0.0.1:0 --metrics-listen off --data \"$1/data\" --log-level error & node=$!; \
    cat >/dev/null; kill -KILL $node; wait $node 2>/dev/null; rm -rf \"$1\"";

/// The same with a front before the node: what clients reach is the front.
const FRONT_KEEPER: &str = "\"$0\" --listen 127.0.0.1:0 --metrics-listen off --data \"$1/data\" --log-level error \
    --owner-listen unix:\"$1/owner\" >\"$1/owner.out\" & node=$!; \
    until grep -q ^listening \"$1/owner.out\"; do kill -0 $node || exit 1; done; \
    \"$0\" --listen 127.0.0.1:0 --metrics-listen off --log-level error --front-of unix:\"$1/owner\" & front=$!; \
    cat >/dev/null; kill -KILL $front $node; wait $front $node 2>/dev/null; rm -rf \"$1\"";

/// The tests of all files run once more as one program of this name, through a front.
const THROUGH_FRONT: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"contract_through_front");

struct Node {
    address: String,
    _open: ChildStdin,
}

#[expect(clippy::zombie_processes, reason = "it ends with the test process, which closes its standard input")]
fn node() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                if THROUGH_FRONT { FRONT_KEEPER } else { KEEPER },
                env!("CARGO_BIN_EXE_meed"),
                folder.to_str().unwrap(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.to_owned();
            }
        };
        wait_ready(&address);
        Node { address, _open: child.stdin.take().unwrap() }
    })
}

/// Waits until a node answers that it is ready.
pub(crate) fn wait_ready(address: &str) {
    let begin = Instant::now();
    let mut connection = Connection::open(address);
    while connection.ask("GET", "/readyz", &[], b"").status != 200 {
        assert!(begin.elapsed() < PATIENCE, "not ready");
        std::thread::yield_now();
    }
}

impl Answer {
    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem, after checking what every problem has.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let value = self.json();
        check_problem(&value, status, name);
        if !self.is_replay() {
            assert_eq!(value["instance"], format!("/requests/{}", self.header("request-id").unwrap()));
        }
        value
    }

    /// An `invalid-request` that names this member.
    #[track_caller]
    pub(crate) fn invalid(&self, field: &str) {
        let problem = self.problem(400, "invalid-request");
        assert_eq!(problem["field"], field, "{problem}");
    }
}

#[track_caller]
pub(crate) fn check_problem(value: &Value, status: u16, name: &str) {
    assert_eq!(value["type"], format!("/problems/{name}"), "{value}");
    assert_eq!(value["status"], status, "{value}");
    for member in ["title", "detail"] {
        assert!(value[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {value}");
    }
    assert!(value["instance"].as_str().unwrap().starts_with("/requests/"), "{value}");
    let retryable = matches!(status, 408 | 429 | 503 | 504) || matches!(name, "key-in-progress" | "unknown-outcome");
    assert_eq!(value["retryable"], retryable, "{value}");
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: m\r\n");
        for (name, value) in headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        if method != "GET" {
            bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(body);
        // A node that refuses a body while it is sent may close; its answer is read all the same.
        let _ = self.stream.get_mut().write_all(&bytes);
        self.read()
    }

    fn read(&mut self) -> Answer {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {line:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let length: usize = answer.header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }
}

/// A document with the built-in values spelled out where a test needs none of them.
pub(crate) fn document(changes: Value) -> Value {
    let mut document = json!({
        "name": "test", "time_zone": "UTC", "currency": "USD",
        "earning": {"points": 1, "per_amount": "1.00"},
        "late_days_max": null
    });
    for (name, value) in changes.as_object().unwrap() {
        document[name] = value.clone();
    }
    document
}

/// A program of a test's own, with a client for it. At its end every account that was named in a path is
/// checked: Σ points of its rows is its total and pending points.
pub(crate) struct Shop {
    pub(crate) program: String,
    address: String,
    connection: RefCell<Connection>,
    accounts: RefCell<BTreeSet<String>>,
    next_key: Cell<u64>,
    check: Cell<bool>,
}

impl Shop {
    /// A new program with these changes to [`document`].
    #[track_caller]
    pub(crate) fn open(changes: Value) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let program = format!("p-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let shop = Self::of(&node().address, &program);
        shop.put(&format!("/api/v1/programs/{program}"), document(changes)).expect(201);
        shop
    }

    /// A client for a program that exists already, or does not.
    pub(crate) fn named(program: &str) -> Self {
        Self::of(&node().address, program)
    }

    pub(crate) fn of(address: &str, program: &str) -> Self {
        Self {
            program: program.to_owned(),
            address: address.to_owned(),
            connection: RefCell::new(Connection::open(address)),
            accounts: RefCell::default(),
            next_key: Cell::new(1),
            check: Cell::new(true),
        }
    }

    /// For tests that leave the node or its program in a state without accounts to read.
    pub(crate) fn without_check(self) -> Self {
        self.check.set(false);
        self
    }

    /// Another client of the same program, for another thread.
    pub(crate) fn another(&self) -> Self {
        Self::of(&self.address, &self.program)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = vec![("Program", self.program.as_str())];
        all.extend_from_slice(headers);
        let answer = self.connection.borrow_mut().ask(method, path, &all, body);
        if answer.header("connection") == Some("close") {
            *self.connection.borrow_mut() = Connection::open(&self.address);
        }
        assert!(answer.header("request-id").is_some(), "{answer:?}");
        if let Some(account) = path.strip_prefix("/api/v1/points/").and_then(|rest| rest.split('/').next()) {
            self.accounts.borrow_mut().insert(account.to_owned());
        }
        answer
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn put(&self, path: &str, body: impl ToString) -> Answer {
        self.ask("PUT", path, &[JSON], body.to_string().as_bytes())
    }

    pub(crate) fn patch(&self, path: &str, body: impl ToString) -> Answer {
        self.ask("PATCH", path, &[JSON], body.to_string().as_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], b"")
    }

    /// A POST without `Idempotency-Key`.
    pub(crate) fn post_bare(&self, path: &str, body: impl ToString) -> Answer {
        self.ask("POST", path, &[JSON], body.to_string().as_bytes())
    }

    pub(crate) fn post_key(&self, key: &str, path: &str, body: impl ToString) -> Answer {
        self.ask("POST", path, &[JSON, ("Idempotency-Key", key)], body.to_string().as_bytes())
    }

    /// A POST with a key of its own.
    pub(crate) fn post(&self, path: &str, body: impl ToString) -> Answer {
        let key = self.next_key.get();
        self.next_key.set(key + 1);
        self.post_key(&format!("key {key}"), path, body)
    }

    /// An operation on an account that executes: `what` is the path behind the account.
    #[track_caller]
    pub(crate) fn done(&self, account: &str, what: &str, body: Value) -> Value {
        let value = self.on(account, what, body).expect(201);
        check_operation(&value);
        value
    }

    /// An operation on an account.
    pub(crate) fn on(&self, account: &str, what: &str, body: Value) -> Answer {
        self.post(&format!("/api/v1/points/{account}/{what}"), body)
    }

    /// Points without a rule.
    #[track_caller]
    pub(crate) fn earn(&self, account: &str, points: i64) -> Value {
        self.done(account, "earn", json!({"points": points}))
    }

    #[track_caller]
    pub(crate) fn reverse(&self, original: &Value, body: Value) -> Value {
        let account = original["account_id"].as_str().unwrap();
        self.done(account, &format!("transactions/{}/reverse", id(original)), body)
    }

    pub(crate) fn try_reverse(&self, original: &Value, body: Value) -> Answer {
        let account = original["account_id"].as_str().unwrap();
        self.on(account, &format!("transactions/{}/reverse", id(original)), body)
    }

    #[track_caller]
    pub(crate) fn balance(&self, account: &str) -> Value {
        self.get(&format!("/api/v1/points/{account}/balance")).expect(200)
    }

    /// Total, available, pending, held, debt.
    #[track_caller]
    pub(crate) fn points(&self, account: &str) -> [i64; 5] {
        let balance = self.balance(account);
        ["total_points", "available_points", "pending_points", "held_points", "debt_points"]
            .map(|name| balance[name].as_i64().unwrap())
    }

    #[track_caller]
    pub(crate) fn lots(&self, account: &str) -> Vec<Value> {
        self.get(&format!("/api/v1/points/{account}/lots")).expect(200)["lots"].as_array().unwrap().clone()
    }

    /// Every row of an account, newest first.
    #[track_caller]
    pub(crate) fn rows(&self, account: &str) -> Vec<Value> {
        let path = format!("/api/v1/points/{account}/transactions?limit=500");
        let mut rows = Vec::new();
        let mut page = self.get(&path).expect(200);
        loop {
            rows.extend_from_slice(page["transactions"].as_array().unwrap());
            let Some(next) = page["next"].as_str() else { return rows };
            page = self.get(&format!("{path}&cursor={next}")).expect(200);
        }
    }

    /// The types of an account's rows, oldest first.
    #[track_caller]
    pub(crate) fn types(&self, account: &str) -> Vec<String> {
        self.rows(account).iter().rev().map(|row| row["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an account's balance satisfies `fact`.
    #[track_caller]
    pub(crate) fn until(&self, account: &str, fact: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let balance = self.balance(account);
            if fact(&balance) {
                return balance;
            }
            assert!(begin.elapsed() < PATIENCE, "{balance}");
            std::thread::yield_now();
        }
    }

    fn check_account(&self, account: &str) {
        let answer = self.get(&format!("/api/v1/points/{account}/balance"));
        if answer.status != 200 {
            return;
        }
        let balance = answer.json();
        let rows = self.rows(account);
        let number = |name: &str| balance[name].as_i64().unwrap();
        let sum: i64 = rows.iter().map(|row| row["points"].as_i64().unwrap()).sum();
        assert_eq!(sum, number("total_points") + number("pending_points"), "{account}: {balance} {rows:?}");
        let sequences: Vec<i64> = rows.iter().rev().map(|row| row["sequence"].as_i64().unwrap()).collect();
        assert_eq!(sequences, (1..=number("sequence")).collect::<Vec<_>>(), "{account}");
        let lots = self.lots(account);
        let of = |pending: bool, name: &str| -> i64 {
            lots.iter().filter(|lot| lot["pending"] == pending).map(|lot| lot[name].as_i64().unwrap()).sum()
        };
        assert_eq!(of(false, "available") - number("debt_points"), number("available_points"), "{balance} {lots:?}");
        assert_eq!(of(false, "held"), number("held_points"), "{balance} {lots:?}");
        let pending: i64 = of(true, "available");
        assert_eq!(pending, number("pending_points"), "{balance} {lots:?}");
        assert_eq!(number("total_points"), number("available_points") + number("held_points"), "{balance}");
        for row in rows {
            check_operation(&row);
            assert_eq!(row["balance_after"], row["new_balance"], "{row}");
            assert_eq!(row["processed_at"], row["recorded_at"], "{row}");
        }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.check.get() {
            return;
        }
        for account in self.accounts.take() {
            self.check_account(&account);
        }
    }
}

pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The `transaction_id` of an answer.
#[track_caller]
pub(crate) fn id(answer: &Value) -> &str {
    answer["transaction_id"].as_str().unwrap()
}

/// What every executed operation answers with.
#[track_caller]
pub(crate) fn check_operation(value: &Value) {
    for name in ["transaction_id", "account_id", "tier", "tier_multiplier"] {
        assert!(value[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {value}");
    }
    for name in ["points", "new_balance", "available_points", "pending_points", "held_points", "sequence"] {
        assert!(value[name].is_i64(), "{name}: {value}");
    }
    for name in ["occurred_at", "recorded_at"] {
        check_time(&value[name]);
    }
    let number = |name: &str| value[name].as_i64().unwrap();
    assert_eq!(number("new_balance"), number("available_points") + number("held_points"), "{value}");
    assert!(number("sequence") >= 1 && number("pending_points") >= 0 && number("held_points") >= 0, "{value}");
    let moves = ["EARN", "REDEEM", "ADJUST", "REVERSAL", "EXPIRE"];
    let still = ["HOLD", "VOID", "ACTIVATE", "TIER", "OPEN", "STATUS"];
    let kind = value["type"].as_str().unwrap();
    assert!(moves.contains(&kind) || still.contains(&kind) && number("points") == 0, "{value}");
}

/// Times go out in UTC with milliseconds.
#[track_caller]
pub(crate) fn check_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
}

/// An instant that lies so far from now, in milliseconds.
pub(crate) fn at(offset_ms: i64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    format!("{:.3}", jiff::Timestamp::from_millisecond(now + offset_ms).unwrap())
}

/// An instant to wait for, before which a test can do a few operations: so far from now, in milliseconds, and several
/// times as far where an operation is a conditional write of a CQL cluster.
pub(crate) fn shortly(offset_ms: i64) -> String {
    const TIMES_ON_CQL: i64 = 6;
    let is_on_cql = std::env::var_os("MEED_JOURNAL").is_some_and(|journal| journal == "cql");
    at(if is_on_cql { offset_ms * TIMES_ON_CQL } else { offset_ms })
}

pub(crate) const SECOND_MS: i64 = 1000;
pub(crate) const DAY_MS: i64 = 86_400_000;

/// The values of one member.
pub(crate) fn each<'a>(values: &'a [Value], name: &str) -> Vec<&'a Value> {
    values.iter().map(|value| &value[name]).collect()
}
