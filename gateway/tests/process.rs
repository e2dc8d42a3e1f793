//! The binary as a person or a supervisor meets it: output, signals, exit codes.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn meed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meed"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    meed(arguments).current_dir(folder.path()).output().unwrap()
}

/// A node whose working folder goes with it.
struct Running {
    child: Child,
    _folder: tempfile::TempDir,
    address: String,
    lines: Vec<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        Self::logging(Stdio::piped(), arguments)
    }

    fn logging(log: Stdio, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = meed(&["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
        let mut child = command.args(arguments).stderr(log).current_dir(folder.path()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        for line in output.lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.starts_with("try: ")) {
                break;
            }
        }
        let address = lines[0].strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, _folder: folder, address, lines }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// A connection that has a request in flight: its body does not end.
    fn stuck(&self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ask = "GET /livez HTTP/1.1\r\nHost: m\r\n\r\n\
            POST /api/v1/batch HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\n{";
        stream.write_all(ask.as_bytes()).unwrap();
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        stream
    }
}

impl Drop for Running {
    /// No node outlives its test. One that was waited for is not there any more.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_takes_no_line_stops_nothing() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut node = Running::logging(full().into(), &["--access-log"]);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&node.address).unwrap();
        write!(stream, "GET /livez HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_node_says_where_it_is_and_stops_when_told() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut node = Running::start(&["--data", "somewhere"]);
        assert!(node.lines[1].starts_with("metrics on http://127.0.0.1:"));
        assert!(node.lines[2].starts_with("data in /") && node.lines[2].ends_with("somewhere"));
        node.signal(signal);
        assert_eq!(node.exit_code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut node = Running::start(&["--drain-timeout-ms", "600000", "--body-timeout-ms", "3600000"]);
    let mut stuck = node.stuck();
    node.signal(Signal::TERM);
    // The node drains: it stops listening while the stuck request keeps it alive.
    while TcpStream::connect(&node.address).is_ok() {
        std::thread::yield_now();
    }
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(1));
    let _ = stuck.read(&mut [0; 16]);
}

#[test]
fn a_drain_ends_with_its_time() {
    let mut node = Running::start(&["--drain-timeout-ms", "50"]);
    let _stuck = node.stuck();
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_drain_is_seen_on_the_listener_of_metrics() {
    let mut node = Running::start(&[]);
    let mut stuck = node.stuck();
    node.signal(Signal::TERM);
    let metrics = node.lines[1].strip_prefix("metrics on http://").unwrap();
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    // The signal is handled some time after it was sent.
    let until = |path: &str, part: &str| {
        let begin = Instant::now();
        loop {
            let answer = ask(path);
            if answer.contains(part) {
                return answer;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{path} does not say {part}: {answer}");
        }
    };
    let refused = until("/readyz", "\"check\":\"draining\"");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // It may not have been read yet.
    until("/metrics", "meed_http_requests_in_flight 1");
    stuck.write_all(b"}       }").unwrap();
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn exit_codes_and_streams() {
    let refused = output(&["--listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stdout.is_empty());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("loopback only"));
    let refused = output(&["--log-level", "a=b=c"]);
    assert_eq!(refused.status.code(), Some(2));
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("meed.toml");
    std::fs::write(&settings, "kafka = \"127.0.0.1:1\"\n[kafka_properties]\nacks = \"0\"\n").unwrap();
    let data = folder.path().join("data");
    let refused =
        output(&["--config", settings.to_str().unwrap(), "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(2), "a setting that only the engine can refuse");
    let limited = ["-c", "ulimit -n 255; exec \"$0\" --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_meed")];
    let refused = Command::new("sh").args(limited).current_dir(folder.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "too few files to serve anybody");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("ulimit -n"));
    let taken = Running::start(&[]);
    let second = output(&["--listen", &taken.address, "--metrics-listen", "off"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("cannot listen on"));
    drop(taken.stuck());
    let mut taken = taken;
    taken.signal(Signal::TERM);
    assert_eq!(taken.exit_code(), Some(0));
    let shown = output(&["config", "show", "--shards", "32"]);
    assert_eq!((shown.status.code(), shown.stderr.len()), (Some(0), 0));
    assert!(String::from_utf8(shown.stdout).unwrap().contains("shards = 32  # flag"));
    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes:"));
}

#[test]
fn what_is_wrong_on_the_command_line_is_named() {
    let said = |arguments: &[&str], code: i32| {
        let output = output(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    };
    assert!(said(&["--log-level", "loud"], 2).contains("`loud` must be error, warn"));
    assert!(said(&["--log-level", "info,loud"], 2).contains("`loud` must be error, warn"));
    assert!(
        said(&["--kafka", "one:9092,two"], 2)
            .contains("--kafka must be HOST:PORT, with commas between several, not `two`")
    );
    assert!(said(&["--journal", "cql", "--cql-nodes", "one"], 2).contains("--cql-nodes must be HOST:PORT"));
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("my shop.json");
    std::fs::write(&program, "{").unwrap();
    assert!(said(&["--programs", program.to_str().unwrap()], 2).contains("without its extension is the program's id"));
    let program = folder.path().join("shop.json");
    std::fs::write(&program, "{").unwrap();
    assert!(said(&["--programs", program.to_str().unwrap()], 2).contains("shop.json: must be a JSON document"));
    let empty = folder.path().to_str().unwrap();
    for tool in ["verify", "inspect"] {
        assert!(said(&[tool, empty], 1).contains("is no data folder of meed: it has no node.json"), "{tool}");
        assert!(said(&[tool, "nowhere"], 1).contains("is no data folder of meed"), "{tool}");
    }
    let data = folder.path().join("data");
    let mut node = Running::start(&["--data", data.to_str().unwrap()]);
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
    let none = said(&["inspect", data.to_str().unwrap(), "--account", "default/m-1"], 0);
    assert!(none.contains("no record of default/m-1 with a sequence of 1 or more"), "{none}");
}

#[test]
fn credentials_of_the_file_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meed.toml");
    // The SHA-256 of `secret`.
    let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let text = format!(
        "[[credentials]]\nname = \"till\"\ntoken_sha256 = \"{digest}\"\nprogram = \"shop\"\nroles = [\"operate\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut node = Running::start(&["--config", file.to_str().unwrap()]);
    let ask = |path: &str, token: &str| {
        let mut stream = TcpStream::connect(&node.address).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: m\r\n{token}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let earn = "/api/v1/points/m-1/earn";
    let unknown = ask(earn, "");
    assert!(unknown.starts_with("HTTP/1.1 401 ") && unknown.contains("www-authenticate: Bearer\r\n"), "{unknown}");
    let token = "Authorization: Bearer secret\r\n";
    // It may operate, so what is wrong is the request.
    let known = ask(earn, token);
    assert!(known.starts_with("HTTP/1.1 400 "), "{known}");
    assert!(ask("/api/v1/points/m-1/adjust", token).starts_with("HTTP/1.1 403 "));
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

/// Every line is JSON with members, and a selection is what it says, whichever account sequences and positions are.
#[test]
fn inspect_shows_records_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let mut node = Running::start(&["--data", data, "--shards", "1"]);
    for (number, account) in ["m-1", "m-2", "m-1", "m-1", "m-2", "m-1"].into_iter().enumerate() {
        let metadata = format!(r#"{{"number":{number}}}"#);
        let body = format!(r#"{{"points":7,"reference_id":"r-{number}","metadata":{metadata}}}"#);
        let mut stream = TcpStream::connect(&node.address).unwrap();
        write!(
            stream,
            "POST /api/v1/points/{account}/earn HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));

    let inspect = |selection: &[&str]| -> Vec<Value> {
        let shown = output(&[&["inspect", data], selection].concat());
        assert_eq!(shown.status.code(), Some(0), "{}", String::from_utf8_lossy(&shown.stderr));
        let text = String::from_utf8(shown.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let positions =
        |lines: &[Value]| lines.iter().map(|l| l["position"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let all = inspect(&[]);
    let earns: Vec<&Value> = all.iter().filter(|line| line["type"] == "EARN").collect();
    assert_eq!(earns.len(), 6);
    for (number, line) in earns.iter().enumerate() {
        assert_eq!(line["references"], json!({"reference_id": format!("r-{number}"), "metadata": {"number": number}}));
        assert_eq!(line["detail"]["award"], Value::Null);
        assert_eq!(line["detail"]["redemption"], Value::Null);
        assert!(line["detail"]["expires_at"].is_string(), "{line}");
        assert_eq!((&line["kind"], &line["moves"][0]["move"]), (&json!("member"), &json!("granted")));
    }
    // Of all accounts by shard sequence, of one by its own.
    assert_eq!(positions(&inspect(&["--from", "3", "--limit", "2"])), ["0-3", "0-4"]);
    let own = inspect(&["--account", "default/m-1", "--from", "3", "--limit", "2"]);
    let third: Vec<_> = all.iter().filter(|line| line["account"] == "m-1").skip(2).take(2).cloned().collect();
    assert_eq!(own, third);
    assert_eq!(own.iter().map(|line| line["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(inspect(&["--account", "default/m-1", "--from", "5"]), [Value::Null; 0]);
}
