//! A plain client for the questions before and after the load: one request at a time, blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::answer;
use crate::error::Fault;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a server that has no capacity is asked again, when it does not say when.
const AGAIN: Duration = Duration::from_millis(200);

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) program: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// A connection that is kept.
#[derive(Debug)]
pub(crate) struct Client {
    server: Server,
    stream: Option<TcpStream>,
    unread: Vec<u8>,
}

/// Status and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    retry_after: Option<Duration>,
}

impl Reply {
    /// The body as text, cut to a line, for messages.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.chars().take(300).collect()
    }

    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Client {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, stream: None, unread: Vec::new() }
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Reply, Fault> {
        self.ask("GET", path, None)
    }

    /// The same, asked again for at most so long while the server says that it has no capacity: 429, 503 and 504 pass.
    pub(crate) fn get_patiently(&mut self, path: &str, patience: Duration) -> Result<Reply, Fault> {
        patiently(patience, || self.get(path))
    }

    /// Sends JSON. Asked again on a new connection when the old one was closed meanwhile, so the request must have
    /// the same effect twice.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Reply, Fault> {
        self.ask(method, path, Some(body))
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Reply, Fault> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.server.host);
        let headers = [("Program", &self.server.program), ("Authorization", &self.server.authorization)];
        for (name, value) in headers {
            if let Some(value) = value {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        let mut request = (head + "\r\n").into_bytes();
        request.extend_from_slice(body.unwrap_or_default());
        let was_open = self.stream.is_some();
        let first = self.exchange(&request);
        let reply = if was_open && first.is_err() { self.exchange(&request) } else { first };
        reply.map_err(|error| Fault::failed(format!("{method} http://{}{path}", self.server.host), said(&error)))
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<Reply> {
        let result = self.try_exchange(request);
        if result.is_err() {
            self.stream = None;
            self.unread.clear();
        }
        result
    }

    fn try_exchange(&mut self, request: &[u8]) -> std::io::Result<Reply> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.server.address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            self.stream = Some(stream);
        }
        let Some(stream) = self.stream.as_mut() else { return Err(ErrorKind::NotConnected.into()) };
        stream.write_all(request)?;
        let mut buffer = [0; 32 << 10];
        loop {
            let malformed = |_| std::io::Error::new(ErrorKind::InvalidData, "what came is no answer of HTTP/1.1");
            if let Some(answer) = answer::take(&self.unread).map_err(malformed)? {
                let retry_after = answer.retry_after_seconds.map(Duration::from_secs);
                let reply = Reply { status: answer.status, body: answer.body.into_owned(), retry_after };
                let (length, closes) = (answer.length, answer.closes);
                self.unread.drain(..length);
                if closes {
                    self.stream = None;
                }
                return Ok(reply);
            }
            match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.unread.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// An error in words: that a socket's time is over, the system calls a resource that is temporarily unavailable.
fn said(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("timed out: no answer within {} s", TIMEOUT.as_secs()),
        ErrorKind::UnexpectedEof => "the server closed the connection without an answer".to_owned(),
        _ => error.to_string(),
    }
}

/// Asks until the answer is none of 429, 503 and 504, or the patience is over; then the last answer is the result.
pub(crate) fn patiently(patience: Duration, mut ask: impl FnMut() -> Result<Reply, Fault>) -> Result<Reply, Fault> {
    let deadline = Instant::now() + patience;
    loop {
        let reply = ask()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !matches!(reply.status, 429 | 503 | 504) || left.is_zero() {
            return Ok(reply);
        }
        std::thread::sleep(reply.retry_after.unwrap_or(AGAIN).max(AGAIN).min(left));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reply(status: u16) -> Reply {
        Reply { status, body: Vec::new(), retry_after: Some(Duration::ZERO) }
    }

    #[test]
    fn a_server_without_capacity_is_asked_again_for_as_long_as_the_patience() {
        let mut answers = [503, 429, 504, 200, 503].into_iter();
        let last = patiently(Duration::from_secs(60), || Ok(reply(answers.next().unwrap()))).unwrap();
        assert_eq!((last.status, answers.len()), (200, 1));
        assert_eq!(patiently(Duration::ZERO, || Ok(reply(503))).unwrap().status, 503);
        let mut answers = [401, 200].into_iter();
        assert_eq!(patiently(Duration::from_secs(60), || Ok(reply(answers.next().unwrap()))).unwrap().status, 401);
    }

    #[test]
    fn a_silent_server_has_timed_out() {
        let error = std::io::Error::from_raw_os_error(rustix::io::Errno::AGAIN.raw_os_error());
        assert_eq!(said(&error), "timed out: no answer within 30 s");
    }
}
