//! The stream of a program's events, read from the journal: server-sent events or NDJSON.
//!
//! A reader costs a task and at most three chunks: one rendered, one waiting, one that is being sent. What it has not read yet stays in the journal; one
//! that takes nothing for the idle time is cut, as any connection is.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::ACCEPT;
use meed_engine::error::{Error, Result as EngineResult};
use meed_engine::feed::{Next, Reached, Rendering, read_on};
use meed_engine::journal::Records;
use meed_engine::node::Node;
use meed_engine::reader::ReadJob;
use meed_schemas::event::{EventType, cursor, write_structured};
use meed_schemas::http::problem::{Kind, Problem};
use tokio::sync::{mpsc, oneshot};

use super::desk::{Desk, status};
use crate::context::{Context, Shared};
use crate::metrics::EventMetrics;
use crate::reach::Backend;
use crate::reply::{Media, Reply};
use crate::route::Query;

/// A chunk is sent when it has so many bytes; one event more may be in it.
const CHUNK_BYTES: usize = 64 << 10;
/// Records that one chunk may step over, of other programs and types.
const CHUNK_RECORDS_MAX: usize = 8_192;
/// Pace at which a follower looks for new records.
const POLL: Duration = Duration::from_millis(20);
/// A follower that has nothing to tell says so after this, or half of the idle time: only writing shows that a
/// client has gone.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Nodes with at most so many shards put a cursor to every event; others to every chunk.
const CURSOR_SHARDS_MAX: u16 = 64;
/// Most events that `limit` may ask for.
const LIMIT_MAX: u64 = 1_000_000;
/// The header with which a browser goes on.
const LAST_EVENT_ID: &str = "last-event-id";

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    ServerSent,
    Lines,
}

/// What one reader wants.
#[derive(Clone, Debug)]
struct Wanted {
    form: Form,
    program: String,
    types: Vec<EventType>,
    follow: bool,
    left: u64,
}

/// A part of the stream, rendered.
struct Chunk {
    bytes: Vec<u8>,
    from: Vec<u64>,
    events: u64,
    reached: Reached,
}

impl Desk<'_> {
    /// Answers with a stream that begins behind a cursor.
    pub(super) async fn events(&self, context: &Rc<Context>) -> Result<Reply, Problem> {
        let query = Query::parse(self.call.query, &["after", "follow", "limit", "types"])
            .map_err(|e| Problem::invalid(e.field, e.detail))?;
        let program = self.program().await?.name().to_owned();
        let form = self.form();
        let wanted = Wanted {
            form,
            program,
            types: types(query.get("types"))?,
            follow: match query.get("follow") {
                None => form == Form::ServerSent,
                Some("true") => true,
                Some("false") => false,
                Some(_) => return Err(Problem::invalid("follow", "`follow` must be true or false")),
            },
            left: match query.get("limit").map(str::parse) {
                None => u64::MAX,
                Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => limit,
                Some(_) => {
                    let detail = format!("`limit` must be a whole number from 1 to {LIMIT_MAX}");
                    return Err(Problem::invalid("limit", detail));
                }
            },
        };
        let Backend::Local(local) = self.backend else {
            return Err(Problem::new(
                Kind::NotReady,
                "A front has no events yet: read them at its owner's own address.",
            ));
        };
        let node = Arc::clone(local.worker.node());
        let from = self.beginning(&node, query.get("after")).await?;
        let seat = Seat::take(&context.shared).ok_or_else(|| {
            Problem::new(Kind::Overloaded, "Too many readers of events; the setting event_readers bounds them.")
        })?;
        let (sender, pieces) = mpsc::channel(1);
        let heartbeat = HEARTBEAT.min(Duration::from_millis(context.shared.settings.idle_timeout_ms / 2));
        let shared = Arc::clone(&context.shared);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = follow(&node, wanted, from, &sender, heartbeat) => {}
                () = sender.closed() => {}
                () = shared.drained() => {}
            }
            drop(seat);
        });
        let media = if form == Form::ServerSent { Media::EventStream } else { Media::NdJson };
        Ok(Reply { pieces: Some(pieces), ..Reply::new(status(200), media, Bytes::new()) })
    }

    fn form(&self) -> Form {
        let accepts = |value: &hyper::header::HeaderValue| {
            value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("text/event-stream"))
        };
        if self.call.headers.get_all(ACCEPT).iter().any(accepts) { Form::ServerSent } else { Form::Lines }
    }

    /// The positions behind which the stream begins.
    async fn beginning(&self, node: &Arc<Node>, after: Option<&str>) -> Result<Vec<u64>, Problem> {
        let header = self.call.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
        let (field, text) = match header {
            Some(value) => ("Last-Event-ID", value.to_str().ok()),
            None => ("after", after),
        };
        let journal = node.reader().journal();
        let last = journal.last_sequence();
        let given = match (text, header) {
            (Some("now"), None) => return Ok(last),
            (None, None) => None,
            (text, _) => {
                let read = text.and_then(|text| cursor::decode(text, journal.journal_id(), journal.shards()));
                let detail = "must be a cursor of this node's events, or `now`";
                Some(read.ok_or_else(|| Problem::invalid(field, format!("`{field}` {detail}")))?)
            }
        };
        if given.as_ref().is_some_and(|given| given.iter().zip(&last).any(|(given, last)| given > last)) {
            let detail = "is ahead of this node's journal: it was restored from an older copy";
            return Err(Problem::invalid(field, format!("`{field}` {detail}")));
        }
        // Which records are still there may take a look at the disk.
        let removed = run(node, |journal| journal.removed_sequence()).await;
        let removed = removed.ok_or_else(|| Problem::of(Kind::NotReady))?;
        match given {
            None => Ok(removed),
            Some(given) if given.iter().zip(&removed).any(|(given, removed)| given < removed) => {
                let detail = "is of events that are removed; begin again without it";
                Err(Problem::invalid(field, format!("`{field}` {detail}")))
            }
            Some(given) => Ok(given),
        }
    }
}

fn types(text: Option<&str>) -> Result<Vec<EventType>, Problem> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let named = |name: &str| {
        EventType::from_name(name).ok_or_else(|| {
            let names = EventType::ALL.map(EventType::name).join(", ");
            Problem::invalid("types", format!("`types` must be names with commas between them, of {names}"))
        })
    };
    text.split(',').map(named).collect()
}

/// The place of a reader.
struct Seat(Arc<Shared>, EventMetrics);

impl Seat {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let most = shared.settings.event_readers;
        let taken = shared.event_readers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |readers| {
            readers.checked_add(1).filter(|readers| *readers <= most)
        });
        taken.ok()?;
        let metrics = EventMetrics::register();
        metrics.readers.increment(1.0);
        Some(Self(Arc::clone(shared), metrics))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.event_readers.fetch_sub(1, Ordering::Relaxed);
        self.1.readers.decrement(1.0);
    }
}

/// Runs on a thread that reads the feed; `None` when that failed, which is logged.
async fn run<T: Send + 'static>(
    node: &Arc<Node>,
    read: impl FnOnce(&Records) -> EngineResult<T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let job = move |journal: &Records| {
        let read = read(journal);
        if let Err(error) = &read {
            // Damage of what was acknowledged long ago does not stop what is asked now.
            tracing::error!(%error, "events cannot be read");
        }
        // The reader may have gone.
        let _ = sender.send(read.ok());
    };
    node.feed().submit(vec![ReadJob::Feed(Box::new(job))]);
    receiver.await.ok().flatten()
}

/// Sends chunks until the wanted events are sent, the journal's end is reached and not to be followed, or the
/// journal cannot be read.
async fn follow(
    node: &Arc<Node>,
    mut wanted: Wanted,
    mut from: Vec<u64>,
    sender: &mpsc::Sender<Bytes>,
    heartbeat: Duration,
) {
    let metrics = EventMetrics::register();
    let journal = node.reader().journal();
    let mut spoke = Instant::now();
    loop {
        // Before reading, so that what becomes durable meanwhile is looked for again.
        let batch = journal.progress();
        let (asked, begin, reader) = (wanted.clone(), from.clone(), Arc::clone(node));
        let Some(chunk) = run(node, move |journal| read_chunk(journal, &reader, &asked, begin)).await else { return };
        metrics.sent.increment(chunk.events);
        wanted.left -= chunk.events;
        from = chunk.from;
        let ended = wanted.left == 0 || (chunk.reached == Reached::End && !wanted.follow);
        let mut bytes = chunk.bytes;
        let is_silent = bytes.is_empty() && spoke.elapsed() >= heartbeat;
        if is_silent || (ended && wanted.form == Form::Lines && bytes.is_empty()) {
            write_cursor(&mut bytes, wanted.form, journal.journal_id(), &from);
        }
        if !bytes.is_empty() {
            spoke = Instant::now();
            if sender.send(Bytes::from(bytes)).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
        if chunk.reached == Reached::End {
            while journal.progress() == batch && spoke.elapsed() < heartbeat {
                tokio::time::sleep(POLL).await;
            }
        }
    }
}

fn read_chunk(journal: &Records, node: &Arc<Node>, wanted: &Wanted, mut from: Vec<u64>) -> Result<Chunk, Error> {
    let id = journal.journal_id();
    let programs = || node.programs();
    let mut rendering = Rendering::new(id, &programs);
    let (mut bytes, mut events) = (Vec::new(), 0);
    let marks_each = wanted.form == Form::ServerSent && journal.shards() <= CURSOR_SHARDS_MAX;
    let mut is_marked = true;
    let reached = read_on(journal, &mut from, CHUNK_RECORDS_MAX, &mut |record, from| {
        is_marked = false;
        if record.identity.program() != wanted.program {
            return Ok(Next::More);
        }
        rendering.of(record, |attributes, documents| {
            let kind = EventType::of(record, documents);
            if !wanted.types.is_empty() && !kind.is_some_and(|kind| wanted.types.contains(&kind)) {
                return;
            }
            if marks_each {
                write_mark(&mut bytes, id, from);
                is_marked = true;
            }
            if wanted.form == Form::ServerSent {
                bytes.extend_from_slice(b"event: ");
                bytes.extend_from_slice(kind.map_or("", EventType::name).as_bytes());
                bytes.extend_from_slice(b"\ndata: ");
            }
            write_structured(&mut bytes, attributes, record, documents);
            bytes.extend_from_slice(if wanted.form == Form::ServerSent { b"\n\n" } else { b"\n" });
            events += 1;
        })?;
        Ok(if bytes.len() >= CHUNK_BYTES || events >= wanted.left { Next::Stop } else { Next::More })
    })?;
    if !is_marked {
        write_cursor(&mut bytes, wanted.form, id, &from);
    }
    Ok(Chunk { bytes, from, events, reached })
}

/// The line that gives an event its cursor.
fn write_mark(out: &mut Vec<u8>, journal_id: u128, from: &[u64]) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(cursor::encode(journal_id, from).as_bytes());
    out.push(b'\n');
}

/// A cursor by itself. In server-sent events it is an event without data: a browser keeps its id and tells
/// nobody.
fn write_cursor(out: &mut Vec<u8>, form: Form, journal_id: u128, from: &[u64]) {
    match form {
        Form::ServerSent => {
            write_mark(out, journal_id, from);
            out.push(b'\n');
        }
        Form::Lines => {
            out.extend_from_slice(b"{\"cursor\":\"");
            out.extend_from_slice(cursor::encode(journal_id, from).as_bytes());
            out.extend_from_slice(b"\"}\n");
        }
    }
}
