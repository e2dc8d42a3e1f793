//! A broker, a node and clients of a test of the stream.
#![allow(dead_code)]

pub(crate) mod acknowledged;
pub(crate) mod ring;
pub(crate) mod stage;
pub(crate) mod wait;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use acknowledged::Acknowledged;
use meed_benches::consumer::{Check, Nodes, check_topics};
use rustix::process::{Pid, Signal, kill_process};
use wait::{eventually, pause};

pub(crate) const EVENTS: &str = "loyalty.account.events.v1";
pub(crate) const BALANCES: &str = "loyalty.account.balances.v1";
/// Longest wait for anything; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const ACCOUNTS: u64 = 500;
/// Lines of a node's log that a failed test shows.
const SAID_LINES: usize = 100;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A broker of this test.
pub(crate) struct Broker {
    pub(crate) folder: PathBuf,
    port: u16,
}

impl Broker {
    pub(crate) fn start(folder: &Path) -> Self {
        let broker = Self { folder: folder.join("kafka"), port: 20_000 + free_port() % 10_000 };
        broker.run("start");
        broker
    }

    pub(crate) fn run(&self, command: &str) {
        self.run_with(command, &[]);
    }

    pub(crate) fn run_with(&self, command: &str, last: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/kafka.sh");
        let port = self.port.to_string();
        let last = if command == "start" { vec![port.as_str()] } else { last.to_vec() };
        let ended = Command::new(script).arg(command).arg(&self.folder).args(last).status().unwrap();
        assert!(ended.success(), "kafka.sh {command}: {ended}");
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_until_ended(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/kafka.sh");
        let is_up = || Command::new(&script).arg("status").arg(&self.folder).status().unwrap().success();
        eventually(PATIENCE, || "the broker does not end".to_owned(), || !is_up());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid: i32 = std::fs::read_to_string(self.folder.join("pid")).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.run_with("stop", &["KILL"]);
    }
}

/// A file system of its own, small enough to be filled.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where mounting is not permitted: it says that `what` did not run, and fails where all tests are asked for.
    pub(crate) fn mount(at: &Path, what: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(at).status();
        if mount.is_ok_and(|ended| ended.success()) {
            return Some(Self(at.to_owned()));
        }
        let is_to_run = std::env::var_os("MEED_TEST_ALL").is_some();
        assert!(!is_to_run, "all tests are asked for, and nothing can be mounted here");
        println!("DID NOT RUN: {what}, because nothing can be mounted here");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is free.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = vec![1; 4_096];
        while file.write_all(&block).is_ok() {}
    }

    /// Gives it back.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The binary `meed`: that of the variable MEED, else the one built beside this test.
pub(crate) fn binary() -> PathBuf {
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("meed");
    std::env::var_os("MEED").map_or(beside, PathBuf::from)
}

/// What a node is started with: the file that it logs to, flags, ports.
pub(crate) type Start = (PathBuf, Vec<String>, [u16; 2]);

/// A node of this test, on an address that it keeps over restarts.
pub(crate) struct Node {
    child: Child,
    log: PathBuf,
    arguments: Vec<String>,
    pub(crate) ports: [u16; 2],
}

impl Node {
    /// On these ports, 0 for any, with what it says at the end of a file; returns when it answers.
    pub(crate) fn start(log: PathBuf, arguments: Vec<String>, ports: [u16; 2]) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = Command::new(binary())
            .args(["--listen", &format!("127.0.0.1:{}", ports[0])])
            .args(["--metrics-listen", &format!("127.0.0.1:{}", ports[1])])
            .args(&arguments)
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ports = ["listening on ", "metrics on "].map(|what| {
            let line = lines.next().and_then(Result::ok);
            let port = line.as_deref().and_then(|line| line.strip_prefix(what)?.rsplit(':').next()?.parse().ok());
            let logged = || std::fs::read_to_string(&log).unwrap_or_default();
            port.unwrap_or_else(|| panic!("the node ended while it started: {}", logged()))
        });
        Self { child, log, arguments, ports }
    }

    /// With its data in a folder.
    pub(crate) fn new(folder: &Path, broker: &Broker) -> Self {
        let data = folder.join("data");
        let arguments = ["--kafka", &broker.address(), "--kafka-balances-interval-ms", "500", "--data"];
        let mut arguments = arguments.map(str::to_owned).to_vec();
        arguments.push(data.to_str().unwrap().to_owned());
        Self::start(data.with_extension("log"), arguments, [0, 0])
    }

    /// Kills it; what the next one is started with.
    pub(crate) fn kill(mut self) -> Start {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.start_again()
    }

    fn start_again(&self) -> Start {
        (self.log.clone(), self.arguments.clone(), self.ports)
    }

    /// The folder of its data, if it has one.
    fn data(&self) -> Option<PathBuf> {
        let at = self.arguments.iter().position(|argument| argument == "--data")?;
        self.arguments.get(at + 1).map(PathBuf::from)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself; its exit code, and what the next one is started with.
    pub(crate) fn ended(mut self) -> (Option<i32>, Start) {
        let mut status = None;
        let has_ended = || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        };
        eventually(PATIENCE, || "it does not end".to_owned(), has_ended);
        (status.unwrap().code(), self.start_again())
    }

    pub(crate) fn get(&self, listener: usize, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        ask(self.ports[listener], &request).unwrap_or_else(|error| panic!("{path}: {error}; it said: {}", self.said()))
    }

    /// The end of what it logged.
    fn said(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(SAID_LINES)..].join("\n")
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, page) = self.get(1, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).split('.').next().unwrap().parse().unwrap()
    }

    /// Waits until a measure is as it should be.
    pub(crate) fn wait(&self, name: &str, is_right: impl Fn(u64) -> bool) {
        eventually(PATIENCE, || format!("{name} is {}", self.metric(name)), || is_right(self.metric(name)));
    }

    /// A stop that publishes what is left; what the next one is started with.
    pub(crate) fn stop(mut self) -> Start {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let code = self.child.wait().unwrap().code();
        assert_eq!(code, Some(0), "it said: {}", self.said());
        self.start_again()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of the answer to a request after which the node closes.
pub(crate) fn ask(port: u16, request: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if is_chunked { unchunked(body) } else { body.to_owned() }))
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n")
        && let Ok(length @ 1..) = usize::from_str_radix(length, 16)
    {
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    whole
}

/// Clients that send batches of earns, redemptions and holds until told to end, to whoever listens on a port.
pub(crate) struct Load {
    ended: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(port: u16) -> Self {
        Self::start_at(port, 0)
    }

    /// With keys from a number on.
    pub(crate) fn start_at(port: u16, first: u64) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let clients = (0..2u64).map(|client| {
            let (ended, acknowledged) = (Arc::clone(&ended), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                let mut number = first + client;
                while !ended.load(Ordering::Relaxed) {
                    number += 2;
                    let body = batch(number);
                    let length = body.len();
                    let request = format!(
                        "POST /api/v1/batch HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\
                         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n{body}"
                    );
                    // A node that is killed answers nobody.
                    if let Ok((207, answers)) = ask(port, &request) {
                        acknowledged.lock().unwrap().take(&answers, |item| key(number, item));
                    }
                    // The schedule of the load, which waits for nothing: a part of the processors is for the servers.
                    pause();
                }
            })
        });
        let clients = clients.collect();
        Self { ended, acknowledged, clients }
    }

    /// Waits until so many more items are acknowledged: the node serves.
    pub(crate) fn wait(&self, more: usize) {
        let count = || self.acknowledged.lock().unwrap().count();
        let before = count();
        eventually(PATIENCE, || "the node acknowledges nothing".to_owned(), || count() >= before + more);
    }

    /// Ends it; what was acknowledged.
    pub(crate) fn end(self) -> Acknowledged {
        self.ended.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}

fn key(number: u64, item: u64) -> String {
    format!("{number}-{item}")
}

fn batch(number: u64) -> String {
    let mut lines = String::new();
    for item in 0..200 {
        let (account, key) = ((number * 7 + item * 13) % ACCOUNTS, key(number, item));
        let keys = format!(r#""reference_id":"{key}","idempotency_key":"{key}""#);
        lines += &match item % 5 {
            0 => format!(r#"{{"op":"redeem","account":"m-{account}","points":7,{keys}}}"#),
            1 => format!(r#"{{"op":"hold","account":"m-{account}","points":3,"ttl_seconds":1,{keys}}}"#),
            _ => format!(r#"{{"op":"earn","account":"m-{account}","points":10,{keys}}}"#),
        };
        lines.push('\n');
    }
    lines
}

/// Ends the load, and proves what [`prove`] does of one node.
pub(crate) fn check(load: Load, node: Node, broker: &Broker) -> Check {
    let acknowledged = load.end();
    prove(vec![node], broker, &[acknowledged])
}

/// Waits until everything is published, stops the nodes, and consumes it: nothing that the journal tells is missing in
/// the stream, nothing that was acknowledged is missing in either, and a journal in a folder is whole.
pub(crate) fn prove(nodes: Vec<Node>, broker: &Broker, acknowledged: &[Acknowledged]) -> Check {
    nodes.iter().for_each(|node| node.wait("meed_publish_lag_records", |lag| lag == 0));
    let (status, journal) = nodes[0].get(0, "/api/v1/events");
    assert_eq!(status, 200);
    let folders: Vec<PathBuf> = nodes.iter().filter_map(Node::data).collect();
    nodes.into_iter().for_each(|node| drop(node.stop()));
    let (check, _) = check_topics(&broker.address(), EVENTS, Some(BALANCES), Nodes::Stopped).unwrap();
    // Holds that fell due while the node stopped have events of their own.
    let told = check.compare(&journal).unwrap();
    assert!(check.events >= told && told > 1_000, "{told} of {}", check.events);
    // The journal's events were all consumed with the same bytes, so what is among them was consumed.
    acknowledged.iter().for_each(|acknowledged| acknowledged.are_in(&journal).unwrap());
    for folder in folders {
        let ended = Command::new(binary()).arg("verify").arg(folder).stdout(Stdio::null()).status().unwrap();
        assert!(ended.success(), "meed verify: {ended}");
    }
    let acknowledged: usize = acknowledged.iter().map(Acknowledged::count).sum();
    let (again, balances) = (check.again, check.balance_messages);
    println!("{acknowledged} acknowledged, {} events, {again} came again, {balances} of balances", check.events);
    check
}
