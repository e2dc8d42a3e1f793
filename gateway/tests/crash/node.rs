//! The binary as a child process, and a client that speaks to it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What makes all paths run in a short time: small segments, few shards, checkpoints all the time.
pub(crate) const SMALL: &[&str] =
    &["--segment-bytes", "1MiB", "--shards", "4", "--workers", "2", "--checkpoint-interval-ms", "20"];

/// A node over a folder.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: String,
    pub(crate) metrics: Option<String>,
    log: PathBuf,
}

/// The binary of this build, or another one, such as a release, that `MEED_BINARY` names.
fn binary() -> PathBuf {
    let given = std::env::var_os("MEED_BINARY").map(PathBuf::from);
    given.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_meed")))
}

fn command(data: &Path, flags: &[&str]) -> (Command, PathBuf) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = std::env::temp_dir().join(format!("meed-crash-{}-{number}.log", std::process::id()));
    let mut command = Command::new(binary());
    command
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env("MEED_METRICS_LISTEN", "off")
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap());
    (command, log)
}

impl Node {
    /// Starts a node; returns when it is ready.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Self {
        Self::try_start(data, flags).unwrap_or_else(|(status, log)| panic!("it did not start: {status}, {log}"))
    }

    /// Starts a node; how it ended and what it said when it does not become ready.
    pub(crate) fn try_start(data: &Path, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let (mut command, log) = command(data, flags);
        Self::wait_for(command.spawn().unwrap(), log)
    }

    /// As [`Node::try_start`], under a command that sets something up and then runs it.
    pub(crate) fn try_start_under(wrapper: &[&str], data: &Path, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let (inner, log) = command(data, flags);
        let mut outer = Command::new(wrapper[0]);
        outer
            .args(&wrapper[1..])
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap());
        Self::wait_for(outer.spawn().unwrap(), log)
    }

    fn wait_for(mut child: Child, log: PathBuf) -> Result<Self, (ExitStatus, String)> {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        match lines.next() {
            Some(line) => {
                let address = line.unwrap().strip_prefix("listening on http://").unwrap().to_owned();
                let next = lines.next().unwrap().unwrap();
                let metrics = next.strip_prefix("metrics on http://").map(str::to_owned);
                Ok(Self { child, address, metrics, log })
            }
            None => {
                let status = child.wait().unwrap();
                let text = std::fs::read_to_string(&log).unwrap();
                let _ = std::fs::remove_file(&log);
                Err((status, text))
            }
        }
    }

    /// A start that is refused: exit code and message.
    #[track_caller]
    pub(crate) fn refused(data: &Path, flags: &[&str]) -> (Option<i32>, String) {
        match Self::try_start(data, flags) {
            Ok(_) => panic!("it started"),
            Err((status, text)) => (status.code(), text),
        }
    }

    /// Begins a start and kills it after a while, ready or not.
    pub(crate) fn kill_while_starting(data: &Path, flags: &[&str], after: Duration) {
        let (mut command, log) = command(data, flags);
        let mut child = command.spawn().unwrap();
        let begin = std::time::Instant::now();
        // Any moment will do, so there is nothing to wait for.
        while begin.elapsed() < after {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = std::fs::remove_file(log);
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end: exit code and what it logged.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.logged())
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let (code, log) = self.ended();
        assert_eq!(code, Some(0), "{log}");
        log
    }

    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// `meed verify`: exit code, output, diagnostics.
pub(crate) fn verify(data: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(binary()).arg("verify").arg(data).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
pub(crate) fn verified(data: &Path) -> String {
    let (code, text, fault) = verify(data);
    assert_eq!(code, Some(0), "{fault}{text}");
    text
}

/// Copies a folder with what is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a copy in the place of a folder.
pub(crate) fn restore(copied: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    copy(copied, to);
}

/// Segments of a journal, oldest first.
pub(crate) fn segments(data: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = names.filter(|path| path.extension().is_some_and(|ending| ending == "log")).collect();
    segments.sort();
    segments
}

/// A connection that is kept.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// The sum of a metric's samples.
pub(crate) fn metric(address: &str, name: &str) -> f64 {
    let mut client = Client::connect(address).unwrap();
    let text = client.get("/metrics").unwrap().body;
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.headers.contains("idempotent-replayed: true")
    }

    pub(crate) fn problem(&self) -> String {
        self.json()["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

pub(crate) fn post(path: &str, key: Option<&str>, body: &str) -> String {
    let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: m\r\n{key}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Client {
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub(crate) fn send(&mut self, bytes: &str) -> io::Result<()> {
        self.stream.write_all(bytes.as_bytes())
    }

    /// Reads one answer; an error when the connection ends before it is whole.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(answer) = self.take() {
                return Ok(answer);
            }
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.unread.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn take(&mut self) -> Option<Answer> {
        let end = self.unread.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
        let headers = String::from_utf8(self.unread[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if self.unread.len() < end + length {
            return None;
        }
        let body = String::from_utf8(self.unread[end..end + length].to_vec()).unwrap();
        self.unread.drain(..end + length);
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        Some(Answer { status, headers, body })
    }

    pub(crate) fn ask(&mut self, bytes: &str) -> io::Result<Answer> {
        self.send(bytes)?;
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, key: Option<&str>, body: &str) -> io::Result<Answer> {
        self.ask(&post(path, key, body))
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n"))
    }

    /// Earns points that must be executed.
    #[track_caller]
    pub(crate) fn earn(&mut self, account: &str, points: i64, key: &str) -> Value {
        let answer =
            self.post(&format!("/api/v1/points/{account}/earn"), Some(key), &format!(r#"{{"points":{points}}}"#));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    #[track_caller]
    pub(crate) fn total(&mut self, account: &str) -> i64 {
        let answer = self.get(&format!("/api/v1/points/{account}/balance")).unwrap();
        match answer.status {
            404 => 0,
            _ => answer.json()["total_points"].as_i64().unwrap(),
        }
    }
}
