//! The binary as a process on a data folder, and a client that keeps its connection.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for anything; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node that runs. Dropped, it is killed.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: String,
    pub(crate) metrics_address: String,
    announced: Vec<String>,
    log: PathBuf,
    /// Open as long as the node lives: it must be able to print.
    _output: BufReader<ChildStdout>,
}

impl Node {
    /// Starts a node on the folder and waits until it is ready. What it logs goes to `node.log` beside the folder.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let log_path = data.with_file_name("node.log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_meed"))
            .args(["serve", "--metrics-listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let [mut address, mut metrics_address] = [String::new(), String::new()];
        let mut announced = Vec::new();
        // The last line of what it announces.
        while !announced.last().is_some_and(|line: &String| line.starts_with("try: ")) {
            let mut line = String::new();
            if output.read_line(&mut line).unwrap() == 0 {
                let log = std::fs::read_to_string(&log_path).unwrap_or_default();
                panic!("the node ended while it started ({:?}): {log}", child.wait());
            }
            if let Some(found) = line.strip_prefix("listening on http://") {
                address = found.trim().to_owned();
            } else if let Some(found) = line.strip_prefix("metrics on http://") {
                metrics_address = found.trim().to_owned();
            }
            announced.push(line);
        }
        Self { child, address, metrics_address, announced, log: log_path, _output: output }
    }

    /// What it announced behind this prefix.
    pub(crate) fn announced(&self, prefix: &str) -> String {
        self.announced.iter().find_map(|line| line.strip_prefix(prefix)).unwrap().trim().to_owned()
    }

    /// What it and others beside it have logged.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.address).unwrap()
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        let answer = Client::connect(&self.metrics_address).unwrap().ask("GET", "/metrics", "", "");
        assert_eq!(answer.status, 200);
        answer.body
    }

    /// The metrics page once it has all these lines; shards report only once a second.
    pub(crate) fn metrics_with(&self, lines: &[String]) -> String {
        let begin = Instant::now();
        loop {
            let page = self.metrics();
            let missing = lines.iter().find(|line| !page.lines().any(|other| other == *line));
            let Some(missing) = missing else { return page };
            assert!(begin.elapsed() < PATIENCE, "{missing} is not in {page}");
            std::thread::yield_now();
        }
    }

    /// Pauses it; returns when none of its threads runs any more.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let begin = Instant::now();
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |task: io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        };
        while !std::fs::read_dir(&tasks).unwrap().all(is_stopped) {
            assert!(begin.elapsed() < PATIENCE, "it does not stop");
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; the exit code, or nothing when a signal ended it.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Ends as a supervisor would end it.
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end(), Some(0));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end: exit code, standard output and standard error.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_meed")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

pub(crate) struct Client(BufReader<TcpStream>);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request; each header line ends in CR LF.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: m\r\n{headers}Content-Length: {length}\r\n\r\n");
        self.0.get_mut().write_all((head + body).as_bytes())
    }

    /// The answer to the oldest request that has none yet.
    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
        let mut answer = self.receive_head()?;
        let mut body = Vec::new();
        if answer.header("transfer-encoding") == Some("chunked") {
            while let chunk = self.receive_chunk()?
                && !chunk.is_empty()
            {
                body.extend(chunk);
            }
        } else {
            body.resize(answer.header("content-length").map_or(0, |text| text.parse().unwrap()), 0);
            self.0.read_exact(&mut body)?;
        }
        answer.body = String::from_utf8(body).map_err(|_| ErrorKind::InvalidData)?;
        Ok(answer)
    }

    /// So many bytes of a body.
    pub(crate) fn receive_bytes(&mut self, length: usize) -> io::Result<String> {
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        String::from_utf8(body).map_err(|_| ErrorKind::InvalidData.into())
    }

    /// The next chunk of an answer; empty behind the last one.
    pub(crate) fn receive_chunk(&mut self) -> io::Result<Vec<u8>> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim_end(), 16).map_err(|_| ErrorKind::InvalidData)?;
        let mut chunk = vec![0; length + 2];
        self.0.read_exact(&mut chunk)?;
        chunk.truncate(length);
        Ok(chunk)
    }

    /// The head of the answer to the oldest request that has none yet; its body is still to come.
    pub(crate) fn receive_head(&mut self) -> io::Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        Ok(Answer { status, head, body: String::new() })
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.send(method, path, headers, body).unwrap();
        self.receive().unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}
