//! A node in this process, and a client that sends and reads raw bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use meed_gateway::config::{ListenAddress, OptionalAddress, Settings};
use meed_gateway::server::Front;

#[path = "../support/answer.rs"]
mod answer;
pub(crate) use answer::Answer;
#[path = "../support/wait.rs"]
mod wait;
pub(crate) use wait::eventually;

/// Longest wait for anything that must happen; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn settings() -> Settings {
    Settings {
        listen: ListenAddress("127.0.0.1:0".parse().unwrap()),
        metrics_listen: OptionalAddress(None),
        workers: 1,
        linger_ms: 100,
        ..Settings::default()
    }
}

pub(crate) struct Server(Option<Front>);

impl Server {
    pub(crate) fn start(settings: Settings) -> Self {
        Self(Some(Front::open(settings).unwrap()))
    }

    pub(crate) fn node(&self) -> &Front {
        self.0.as_ref().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.node().address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            node.shared.drain();
            node.join();
        }
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Answer {
    /// The name of the problem, after checking what every problem has.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let value = self.json();
        assert_eq!(value["status"], self.status);
        let id = self.header("request-id").unwrap();
        assert_eq!(value["instance"], format!("/requests/{id}"));
        assert!(value["retryable"].is_boolean() && value["title"].is_string() && value["detail"].is_string());
        value["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Reads more; false at the end of the stream.
    pub(crate) fn read_more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    pub(crate) fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.read_more(), "closed; so far {:?}", String::from_utf8_lossy(&self.unread));
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Answer { status, headers, body: String::new() }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map_or(0, |text| text.parse().unwrap());
        while self.unread.len() < length {
            assert!(self.read_more(), "closed within a body");
        }
        answer.body = String::from_utf8(self.unread.drain(..length).collect()).unwrap();
        answer
    }

    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes);
        self.answer()
    }

    /// Whether the server closes without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.read_more()
    }
}

pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: m\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n")
}

pub(crate) const EARN: &str = "/api/v1/points/m-1/earn";
pub(crate) const JSON: &str = "Content-Type: application/json\r\n";
