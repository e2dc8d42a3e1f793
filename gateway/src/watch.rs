//! What is known of one connection, and the stream that notes it.
//!
//! hyper's own header timer registers a timer for every request. Instead the stream and the request path
//! note in plain cells what the connection waits for and since when, and one sweep per worker
//! looks at all of them ([`ConnectionState::judge`]). A request pays a few stores.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::Settings;
use crate::context::Context;
use crate::intake::{Intake, Turn};
use crate::reply::Reply;
use crate::route::Endpoint;
use meed_schemas::http::problem::{Kind, Problem};

/// Most bytes that are read and thrown away for a client that still sends after its last answer.
const LINGER_BYTES_MAX: usize = 64 << 20;
/// Longest answer that hyper itself makes for a head that it cannot read.
const BARE_ANSWER_BYTES_MAX: usize = 256;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first byte of a new connection.
    Fresh,
    /// The next request, or the client to take a short answer.
    Idle,
    /// The client to take an answer that is long, or comes in pieces; then the next request.
    Taking,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// An answer; this has no limit here, because a request has its own deadline.
    Handling,
    /// The client to close its side.
    Lingering,
}

/// The time limits of connections, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimits {
    head_ms: u64,
    body_ms: u64,
    idle_ms: u64,
    linger_ms: u64,
}

impl TimeLimits {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            head_ms: settings.head_timeout_ms,
            body_ms: settings.body_timeout_ms,
            idle_ms: settings.idle_timeout_ms,
            linger_ms: settings.linger_ms,
        }
    }
}

/// One connection, shared by its stream, its requests and the sweep; all on one thread.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// Whom it is from.
    pub(crate) address: IpAddr,
    phase: Cell<Phase>,
    since_ms: Cell<u64>,
    active_ms: Cell<u64>,
    /// Set when the body takes too long: the request is answered 408.
    pub(crate) body_late: Cell<bool>,
    /// Set when a head takes too long: the connection is answered 408 if it is its first, and dropped.
    pub(crate) head_late: Cell<bool>,
    /// Set when the connection is to be dropped as it is.
    pub(crate) cut: Cell<bool>,
    /// Set when the connection is to close after what it is doing.
    pub(crate) finish: Cell<bool>,
    /// Where it is with its next request.
    pub(crate) turn: Turn,
    waker: RefCell<Option<Waker>>,
}

impl ConnectionState {
    pub(crate) fn new(address: IpAddr, now_ms: u64) -> Self {
        Self {
            address,
            phase: Cell::new(Phase::Fresh),
            since_ms: Cell::new(now_ms),
            active_ms: Cell::new(now_ms),
            body_late: Cell::new(false),
            head_late: Cell::new(false),
            cut: Cell::new(false),
            finish: Cell::new(false),
            turn: Turn::default(),
            waker: RefCell::new(None),
        }
    }

    /// Notes that the connection now waits for something else.
    pub(crate) fn enter(&self, phase: Phase, now_ms: u64) {
        self.phase.set(phase);
        self.since_ms.set(now_ms);
    }

    /// Whether a part of a head has come. A part that came in one piece with an earlier request is not seen.
    pub(crate) fn is_within_head(&self) -> bool {
        self.phase.get() == Phase::Head
    }

    /// Puts a connection whose next request may not be read yet into the line, without a look at the request or at
    /// what belongs to it. True when there is nothing else to do for it.
    pub(crate) fn waits(&self, intake: &Intake, waker: &Waker) -> bool {
        self.phase.get() == Phase::Idle && intake.holds_back(&self.turn, waker)
    }

    /// Whether no part of a request has been read.
    fn is_between_requests(&self) -> bool {
        matches!(self.phase.get(), Phase::Fresh | Phase::Idle | Phase::Taking)
    }

    fn received(&self, now_ms: u64) {
        self.active_ms.set(now_ms);
        if self.is_between_requests() {
            self.enter(Phase::Head, now_ms);
        }
    }

    /// Keeps the waker of the connection's task. It is the same for the life of a task.
    pub(crate) fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if kept.is_none() {
            *kept = Some(waker.clone());
        }
    }

    /// Lets the connection's task look at its flags.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Ends what has taken too long. Milliseconds are of the worker's coarse clock.
    pub(crate) fn judge(&self, now_ms: u64, limits: TimeLimits) {
        if self.turn.is_waiting() {
            return;
        }
        let waited_ms = now_ms.saturating_sub(self.since_ms.get());
        let flag = match self.phase.get() {
            Phase::Fresh if waited_ms > limits.head_ms => &self.cut,
            Phase::Head if waited_ms > limits.head_ms => &self.head_late,
            Phase::Body if waited_ms > limits.body_ms => &self.body_late,
            // A client that takes its answer slowly is not idle.
            Phase::Idle | Phase::Taking
                if waited_ms.min(now_ms.saturating_sub(self.active_ms.get())) > limits.idle_ms =>
            {
                &self.cut
            }
            Phase::Lingering if waited_ms > limits.linger_ms => &self.cut,
            _ => return,
        };
        flag.set(true);
        self.wake();
    }
}

/// A client's stream that notes what happens on it.
///
/// It also says more than hyper where hyper answers a head that it cannot read by itself (400 or 431
/// without a body; hyper has no hook for that): such an answer is told from ours by its missing
/// `Request-Id`, and a problem document is sent in its place. An answer that hyper flushes together with an
/// earlier one stays bare.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: TcpStream,
    context: Rc<Context>,
    state: Rc<ConnectionState>,
    ended: bool,
    shut: bool,
    answered: bool,
    lingered_bytes: usize,
    replacement: Option<Box<Replacement>>,
}

#[derive(Debug)]
struct Replacement {
    bytes: Vec<u8>,
    written: usize,
}

impl Stream {
    pub(crate) fn new(inner: TcpStream, context: Rc<Context>, state: Rc<ConnectionState>) -> Self {
        Self { inner, context, state, ended: false, shut: false, answered: false, lingered_bytes: 0, replacement: None }
    }

    fn replace(&self, status: &[u8]) -> Option<Box<Replacement>> {
        let problem = match status {
            b"400" => Problem::invalid(
                "head",
                "the request is not well-formed HTTP/1.1: check the request line, the header lines, Content-Length and Transfer-Encoding",
            ),
            b"414" | b"431" => Problem::of(Kind::HeadersTooLarge),
            _ => return None,
        };
        Some(Box::new(Replacement { bytes: self.problem(&problem), written: 0 }))
    }

    /// A whole answer for a request that was not parsed.
    fn problem(&self, problem: &Problem) -> Vec<u8> {
        let id = self.context.request_ids.next();
        let id = std::str::from_utf8(&id).unwrap_or_default();
        self.context.metrics.answered(Endpoint::Unmatched, problem.kind.status(), Default::default());
        Reply::problem(problem, id).into_bytes(id)
    }

    /// Tells a client whose first head is late why it is cut. Behind an earlier answer nothing is said: a part of that
    /// one may still be on its way.
    fn answer_late_head(&mut self) {
        if !self.answered {
            self.answered = true;
            // A socket that was never written to takes a short answer without waiting.
            let _ = self.inner.try_write(&self.problem(&Problem::of(Kind::RequestTimeout)));
        }
    }
}

/// The status of an answer that hyper made by itself.
fn bare_status(answer: &[u8]) -> Option<&[u8]> {
    let client_error = answer.starts_with(b"HTTP/1.") && answer.get(8..10) == Some(b" 4");
    if !client_error || answer.len() > BARE_ANSWER_BYTES_MAX || !answer.ends_with(b"\r\n\r\n") {
        return None;
    }
    let ours = answer.windows(13).any(|part| part == b"\r\nrequest-id:");
    if ours { None } else { answer.get(9..12) }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.context.intake.end(&self.state.turn);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.head_late.get() {
            this.answer_late_head();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let (intake, turn) = (&this.context.intake, &this.state.turn);
        let is_next = this.state.is_between_requests();
        if is_next && intake.holds_back(turn, cx.waker()) {
            // Whether a request is there is not asked: its coming would wake the task once more for nothing.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let now_ms = this.context.clock.now_ms();
        match &result {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                intake.begin(turn, now_ms);
                this.state.received(now_ms);
                return result;
            }
            Poll::Ready(_) => this.ended = true,
            Poll::Pending => {}
        }
        if is_next {
            intake.end(turn);
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answered = true;
        if this.replacement.is_none()
            && let Some(status) = bare_status(buffer)
        {
            this.replacement = this.replace(status);
        }
        if let Some(replacement) = &mut this.replacement {
            while replacement.written < replacement.bytes.len() {
                let rest = &replacement.bytes[replacement.written..];
                match ready!(Pin::new(&mut this.inner).poll_write(cx, rest)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => replacement.written += count,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            this.replacement = None;
            return Poll::Ready(Ok(buffer.len()));
        }
        let result = Pin::new(&mut this.inner).poll_write(cx, buffer);
        if result.is_ready() {
            this.state.active_ms.set(this.context.clock.now_ms());
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Closes our side, then reads what the client still sends until it closes its side. A socket that is
    /// closed with unread bytes resets the connection, and the client may lose the answer that told it to
    /// stop (413, 408, 431). Bounded by bytes here and by the linger time in the sweep.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.shut = true;
            this.state.enter(Phase::Lingering, this.context.clock.now_ms());
        }
        let mut scratch = [0u8; 16_384];
        while !this.ended && this.lingered_bytes < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => this.lingered_bytes += buffer.filled().len(),
                _ => this.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_answers_are_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(bare_status(bare), Some(&b"431"[..]));
        let ours = b"HTTP/1.1 404 Not Found\r\nrequest-id: 1\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(bare_status(ours), None);
        assert_eq!(bare_status(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(bare_status(b"HTTP/1."), None);
        assert_eq!(bare_status(b""), None);
    }

    #[test]
    fn each_phase_has_its_limit() {
        let limits = TimeLimits { head_ms: 10, body_ms: 20, idle_ms: 30, linger_ms: 40 };
        for (phase, limit_ms) in
            [(Phase::Fresh, 10), (Phase::Head, 10), (Phase::Body, 20), (Phase::Idle, 30), (Phase::Lingering, 40)]
        {
            let state = ConnectionState::new(IpAddr::from([127, 0, 0, 1]), 100);
            state.enter(phase, 100);
            state.judge(100 + limit_ms, limits);
            assert!(!state.cut.get() && !state.body_late.get() && !state.head_late.get(), "{phase:?}");
            state.judge(101 + limit_ms, limits);
            assert_eq!(state.body_late.get(), phase == Phase::Body);
            assert_eq!(state.head_late.get(), phase == Phase::Head);
            assert_eq!(state.cut.get(), !matches!(phase, Phase::Body | Phase::Head));
        }
        let state = ConnectionState::new(IpAddr::from([127, 0, 0, 1]), 0);
        state.enter(Phase::Handling, 0);
        state.judge(u64::MAX, limits);
        assert!(!state.cut.get());
        state.enter(Phase::Idle, 0);
        state.active_ms.set(1000);
        state.judge(1030, limits);
        assert!(!state.cut.get(), "a client that takes its answer is not idle");
        state.received(1031);
        assert_eq!((state.phase.get(), state.since_ms.get()), (Phase::Head, 1031));
    }
}
