//! The life of client connections on one worker: accept, serve, sweep, drain.
//!
//! Everything here runs on one thread. It knows HTTP and the limits, and no business.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::admit::{self, BodyReservation, Place};
use crate::body::{self, BodyFormat, Collected};
use crate::context::Context;
use crate::handle::{self, Call, Operating};
use crate::identify::{self, TraceParent};
use crate::metrics::Refused;
use crate::operations;
use crate::reply::Reply;
use crate::route::{self, Access, Endpoint, NoRoute, Payload};
use crate::stream::Body;
use crate::watch::{ConnectionState, Phase, Stream, TimeLimits};
use meed_schemas::http::problem::{Kind, Problem};

/// Longest read or write buffer of a connection. A body comes in pieces of at most this.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// An answer that a socket takes at once.
const SHORT_ANSWER_BYTES: usize = 16 << 10;
/// Time between two rounds of the sweep.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Connections that one round looks at, at least; a tenth of all, if that is more, so that every
/// connection is seen once a second and no round is a pause.
const SWEEP_CONNECTIONS_MIN: usize = 4096;
/// Pause when the system has no file descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time without another such fault after which it is over. At the limit each connection that closes makes room for one.
const ACCEPT_QUIET: Duration = Duration::from_secs(10);
/// Refused connections that are kept open for a moment, so that their client can read why.
const REFUSED_LINGERING_MAX: usize = 256;

/// The connections of one worker.
#[derive(Debug, Default)]
struct Table {
    connections: RefCell<Slab<Rc<ConnectionState>>>,
    refused_lingering: std::cell::Cell<usize>,
    emptied: Notify,
}

struct Worker {
    context: Rc<Context>,
    table: Rc<Table>,
    builder: http1::Builder,
}

/// Serves the connections of `listener` on this thread until `stop`, and then until every connection has
/// closed or the drain time has passed. Must run inside a `LocalSet`.
///
/// Fails when the listener cannot be used.
pub async fn serve_worker(
    listener: std::net::TcpListener,
    context: Rc<Context>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let worker = Rc::new(Worker {
        builder: builder(context.shared.settings.head_bytes.as_usize()),
        table: Rc::default(),
        context: context.clone(),
    });
    let sweep = spawn_local(sweep(worker.clone()));
    tokio::select! {
        () = accept(&listener, &worker) => {}
        () = stop => {}
    }
    context.draining.set(true);
    context.intake.open();
    take_queued(&listener, &worker).await;
    drop(listener);
    let drain_timeout = Duration::from_millis(context.shared.settings.drain_timeout_ms);
    if tokio::time::timeout(drain_timeout, finish_all(&worker.table)).await.is_err() {
        let left = worker.table.connections.borrow().len();
        tracing::warn!(worker = context.worker, connections = left, "drain time is over; connections are cut");
    }
    sweep.abort();
    Ok(())
}

/// hyper's settings.
///
/// - `half_close`: a client that closes its sending side after a request still gets its answer. What it
///   asked for is executed in any case.
/// - No `pipeline_flush`: it holds a finished answer back while the next request is only partly there, so a
///   client that waits for one before it sends the rest waits for ever, and its write buffer has no bound.
/// - No `header_read_timeout`: it registers a timer per request; see [`crate::watch`].
/// - `max_headers` stays at its default, 100: any value of its own moves headers from the stack to the heap.
fn builder(head_bytes: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.half_close(true).max_header_size(head_bytes).max_buf_size(BUFFER_BYTES_MAX.max(head_bytes));
    builder
}

async fn accept(listener: &TcpListener, worker: &Rc<Worker>) {
    let mut faults = AcceptFaults::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if faults.is_over(Instant::now()) {
                    tracing::info!("connections are accepted again");
                }
                open(stream, peer, worker);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                worker.context.metrics.refused(Refused::Files);
                if faults.begins(Instant::now()) {
                    tracing::error!(%error, "cannot accept connections; raise the file limit (ulimit -n)");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells the first of a row of faults, and the end of the row: with each of them the log would soon hold nothing else.
#[derive(Debug, Default)]
struct AcceptFaults {
    last: Option<Instant>,
}

impl AcceptFaults {
    /// Whether a fault is the first of a row.
    fn begins(&mut self, now: Instant) -> bool {
        self.last.replace(now).is_none_or(|last| now.saturating_duration_since(last) >= ACCEPT_QUIET)
    }

    /// Whether a row of faults is over.
    fn is_over(&mut self, now: Instant) -> bool {
        self.last.take_if(|last| now.saturating_duration_since(*last) >= ACCEPT_QUIET).is_some()
    }
}

/// Whether an accept failed because of the one client only.
fn is_passing(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | HostUnreachable | NetworkUnreachable)
}

/// Takes the connections that the system has already accepted for us: closing the listener would reset
/// them. They get an answer that sends them elsewhere.
async fn take_queued(listener: &TcpListener, worker: &Rc<Worker>) {
    for _ in 0..worker.context.shared.settings.listen_backlog {
        let queued = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        match queued {
            Poll::Ready(Ok((stream, peer))) => open(stream, peer, worker),
            Poll::Ready(Err(error)) if is_passing(&error) => {}
            _ => return,
        }
    }
}

/// Tells every connection to finish, and waits until all have closed.
async fn finish_all(table: &Rc<Table>) {
    for (_, connection) in &*table.connections.borrow() {
        connection.finish.set(true);
        connection.wake();
    }
    while !table.connections.borrow().is_empty() {
        table.emptied.notified().await;
    }
}

async fn sweep(worker: Rc<Worker>) {
    let limits = TimeLimits::new(&worker.context.shared.settings);
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = 0;
    loop {
        interval.tick().await;
        let clock = &worker.context.clock;
        clock.set(Instant::now());
        let intake = &worker.context.intake;
        intake.tick(clock.now_ms());
        worker.context.metrics.waiting(intake.waiting());
        let connections = worker.table.connections.borrow();
        let places = connections.capacity();
        for _ in 0..places.min(SWEEP_CONNECTIONS_MIN.max(places / 10)) {
            next = if next + 1 < places { next + 1 } else { 0 };
            if let Some(connection) = connections.get(next) {
                connection.judge(clock.now_ms(), limits);
            }
        }
    }
}

fn open(stream: TcpStream, peer: SocketAddr, worker: &Rc<Worker>) {
    let context = &worker.context;
    match context.shared.gate.enter(peer.ip()) {
        Ok(place) => {
            // A socket without it only answers later.
            let _ = stream.set_nodelay(true);
            let state = Rc::new(ConnectionState::new(peer.ip(), context.clock.now_ms()));
            let seat = Seat::take(worker, state.clone(), place);
            let stream = Stream::new(stream, context.clone(), state.clone());
            spawn_local(serve(stream, state, seat));
        }
        Err(reason) => refuse(stream, reason, worker),
    }
}

/// The place of a connection in the table and at the gate.
struct Seat {
    worker: Rc<Worker>,
    key: usize,
    _place: Place,
}

impl Seat {
    fn take(worker: &Rc<Worker>, state: Rc<ConnectionState>, place: Place) -> Self {
        worker.context.metrics.connected();
        let key = worker.table.connections.borrow_mut().insert(state);
        Self { worker: worker.clone(), key, _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.context.metrics.disconnected();
        let mut connections = self.worker.table.connections.borrow_mut();
        connections.try_remove(self.key);
        if connections.is_empty() {
            self.worker.table.emptied.notify_one();
        }
    }
}

/// Says why, without reading a request.
fn refuse(stream: TcpStream, reason: Refused, worker: &Rc<Worker>) {
    worker.context.metrics.refused(reason);
    let detail = match reason {
        Refused::Address => "too many connections from this address; use fewer, and keep them open",
        _ => "too many connections; nothing was executed",
    };
    let id = worker.context.request_ids.next();
    let id = std::str::from_utf8(&id).unwrap_or_default();
    let answer = Reply::problem(&Problem::new(Kind::Overloaded, detail), id).into_bytes(id);
    let lingering = &worker.table.refused_lingering;
    if lingering.get() >= REFUSED_LINGERING_MAX {
        // A new socket takes a short answer without waiting.
        let _ = socket2::SockRef::from(&stream).send(&answer);
        return;
    }
    lingering.set(lingering.get() + 1);
    let worker = worker.clone();
    spawn_local(async move {
        let linger = Duration::from_millis(worker.context.shared.settings.linger_ms);
        let state = Rc::new(ConnectionState::new([0, 0, 0, 0].into(), 0));
        let mut stream = Stream::new(stream, worker.context.clone(), state);
        let _ = tokio::time::timeout(linger, async {
            tokio::io::AsyncWriteExt::write_all(&mut stream, &answer).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await
        })
        .await;
        let lingering = &worker.table.refused_lingering;
        lingering.set(lingering.get() - 1);
    });
}

async fn serve(stream: Stream, state: Rc<ConnectionState>, seat: Seat) {
    let context = seat.worker.context.clone();
    // Boxed per request: hyper keeps room for the service's future as long as the connection lives, and thousands of
    // silent connections would each hold some kilobytes for a request that they do not have.
    let service = service_fn(|request| Box::pin(respond(&context, &state, request)));
    let mut connection = pin!(seat.worker.builder.serve_connection(TokioIo::new(stream), service));
    let mut finishing = false;
    poll_fn(|cx| {
        state.remember(cx.waker());
        if state.cut.get() {
            return Poll::Ready(());
        }
        if state.waits(&context.intake, cx.waker()) {
            return Poll::Pending;
        }
        // What hyper reports here is a client that went away or sent no HTTP: answered already where that
        // is possible, and nothing that an operator could act on.
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if state.head_late.get() {
            // The stream has said why, unless hyper did not read from it.
            return Poll::Ready(());
        }
        if state.finish.get() && !finishing && !state.is_within_head() {
            // Only now: a request that has arrived, if only in part, is answered first, and that closes.
            finishing = true;
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx).map(|_| ());
        }
        Poll::Pending
    })
    .await;
}

async fn respond(
    context: &Rc<Context>,
    state: &ConnectionState,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let received_at = Instant::now();
    context.clock.set(received_at);
    state.enter(Phase::Handling, context.clock.now_ms());
    context.intake.begin(&state.turn, context.clock.now_ms());
    let in_flight = context.metrics.begin();
    let (parts, incoming) = request.into_parts();
    let request_id = context.request_ids.of(&parts.headers);
    let mut endpoint = Endpoint::Unmatched;
    let begun = begin(context, state, &parts, incoming, &request_id, &mut endpoint).await;
    // Before the wait for the account. The request's map has room for the answer's headers: no allocation.
    let Parts { method, mut headers, .. } = parts;
    headers.clear();
    let answered = match begun {
        Ok(Begun::Answered(reply)) => Ok(reply),
        Ok(Begun::Operating(operating, reservation)) => {
            let answered = operating.answer().await;
            // The memory of the body is given back only when its request is answered.
            drop(reservation);
            answered
        }
        Err(problem) => Err(problem),
    };
    let mut is_overload = false;
    let mut reply = answered.unwrap_or_else(|problem| {
        context.metrics.refused_with(problem.kind);
        is_overload = problem.kind == Kind::Overloaded;
        let reply = Reply::problem(&problem, request_id.to_str().unwrap_or_default());
        // The rest of such a body is not waited for.
        let unread = matches!(problem.kind, Kind::RequestTimeout | Kind::PayloadTooLarge);
        if unread { reply.closing() } else { reply }
    });
    reply.close |= context.draining.get();
    let now = Instant::now();
    context.clock.set(now);
    let duration = now.saturating_duration_since(received_at);
    context.metrics.answered(endpoint, reply.status.as_u16(), duration);
    if context.shared.settings.access_log {
        tracing::info!(
            method = %method,
            route = endpoint.template(),
            status = reply.status.as_u16(),
            duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            request_id = request_id.to_str().unwrap_or_default(),
            "request"
        );
    }
    drop(in_flight);
    context.intake.end(&state.turn);
    if method.is_safe() {
        // A cache between that keeps what does not say so would show a balance that is no longer true.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if is_overload && !context.draining.get() {
        admit::hold_back(context.shared.settings.overload_pause_ms).await;
    }
    let is_long = reply.pieces.is_some() || reply.body.len() > SHORT_ANSWER_BYTES;
    let next = if is_long { Phase::Taking } else { Phase::Idle };
    state.enter(next, context.clock.now_ms());
    Ok(reply.into_response(headers, request_id))
}

/// What a request came to before anything of it is given back.
enum Begun<'a> {
    Answered(Reply),
    Operating(Operating<'a>, Option<BodyReservation<'a>>),
}

async fn begin<'a>(
    context: &'a Rc<Context>,
    state: &ConnectionState,
    parts: &Parts,
    incoming: Incoming,
    request_id: &HeaderValue,
    endpoint: &mut Endpoint,
) -> Result<Begun<'a>, Problem> {
    let request_id = request_id.to_str().unwrap_or_default();
    identify::check_host(parts)?;
    let route = match route::resolve(&parts.method, parts.uri.path()) {
        Ok(route) => route,
        Err(error) => return unrouted(error, request_id).map(Begun::Answered),
    };
    *endpoint = route.endpoint();
    let query = parts.uri.query();
    if endpoint.access() == Access::Open {
        return operations::answer(&context.shared, &route, query, request_id).map(Begun::Answered);
    }
    if context.draining.get() {
        return Err(Problem::of(Kind::Draining));
    }
    if let Err(wait_seconds) = context.shared.gate.count_request(state.address) {
        let mut problem = Problem::of(Kind::RateLimited);
        problem.retry_after_seconds = Some(wait_seconds);
        return Err(problem);
    }
    let caller = context.shared.credentials.caller(&parts.headers, &route)?;
    if endpoint.payload() != Payload::None {
        // What takes a body takes no parameters: one that was ignored might be meant to change what is done.
        route::Query::parse(query, &[])?;
    }
    let (body, body_format) = read_body(context, state, parts, incoming, endpoint.payload()).await?;
    let call = Call {
        route,
        query,
        headers: &parts.headers,
        caller,
        request_id,
        trace_parent: TraceParent::of(&parts.headers),
        body: body.bytes,
        body_format,
    };
    if let Some(operating) = handle::begin(context, &call)? {
        return Ok(Begun::Operating(operating, body.reservation));
    }
    // In a box, so that the room that every request takes is not that of the rarest.
    let reply = Box::pin(handle::handle(context, call)).await;
    // The memory of the body is given back only when its request is answered.
    drop(body.reservation);
    reply.map(Begun::Answered)
}

fn unrouted(error: NoRoute, request_id: &str) -> Result<Reply, Problem> {
    match error {
        NoRoute::NotFound => Err(Problem::of(Kind::NotFound)),
        NoRoute::BadPath(detail) => Err(Problem::invalid("path", detail)),
        NoRoute::MethodNotAllowed(allow) => {
            let detail = format!("this path takes {allow}");
            let mut reply = Reply::problem(&Problem::new(Kind::MethodNotAllowed, detail), request_id);
            reply.allow = Some(allow);
            Ok(reply)
        }
    }
}

async fn read_body<'a>(
    context: &'a Context,
    state: &ConnectionState,
    parts: &Parts,
    incoming: Incoming,
    payload: Payload,
) -> Result<(Collected<'a>, BodyFormat), Problem> {
    let settings = &context.shared.settings;
    let limit = match payload {
        Payload::None => None,
        Payload::Single => Some(settings.body_bytes.as_usize()),
        Payload::Batch => Some(settings.batch_body_bytes.as_usize()),
    };
    let nothing = Collected { bytes: Bytes::new(), reservation: None };
    let is_empty = incoming.is_end_stream();
    let Some(limit) = limit.filter(|_| !is_empty || payload == Payload::Batch) else {
        return Ok((nothing, BodyFormat::Json));
    };
    let format = body::format(&parts.headers, payload)?;
    if is_empty {
        return Ok((nothing, format));
    }
    state.enter(Phase::Body, context.clock.now_ms());
    let collected = body::collect(incoming, limit, &context.shared.gate, &state.body_late).await;
    state.enter(Phase::Handling, context.clock.now_ms());
    Ok((collected?, format))
}

#[cfg(test)]
mod tests;
