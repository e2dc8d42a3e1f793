//! The events of a program as they are read from the journal of this node, a part at a time; for its own clients and
//! for those of its fronts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_engine::error::Result as EngineResult;
use meed_engine::feed::{Next, Reached, Rendering, read_on};
use meed_engine::journal::Records;
use meed_engine::node::Node;
use meed_engine::reader::ReadJob;
use meed_schemas::event::{EventType, cursor, write_structured};
use tokio::sync::oneshot;

/// A chunk is sent when it has so many bytes; one event more may be in it.
const CHUNK_BYTES: usize = 64 << 10;
/// Records that one chunk may step over, of other programs and types.
const CHUNK_RECORDS_MAX: usize = 8_192;
/// Pace at which a follower looks for new records.
const POLL: Duration = Duration::from_millis(20);
/// In a cluster, the pace of looks at the journals of other nodes while somebody reads events.
const REFRESH: Duration = Duration::from_millis(250);
/// Looks at the journals of other nodes, when each time a shard has come or gone meanwhile, before a reader is told to
/// come again.
const LOOKS_MAX: usize = 16;
/// Nodes with at most so many shards put a cursor to every event; others to every chunk.
const CURSOR_SHARDS_MAX: u16 = 64;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    ServerSent,
    Lines,
}

/// What one reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) form: Form,
    pub(crate) program: String,
    /// All, when empty.
    pub(crate) types: Vec<EventType>,
    /// Whether to wait for more at the end.
    pub(crate) follow: bool,
    /// Most events.
    pub(crate) left: u64,
}

/// Where a stream begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the oldest event that is kept.
    Oldest,
    /// Behind the newest.
    Now,
    /// Behind a cursor.
    After(String),
}

/// Why a stream cannot begin there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoStart {
    /// It is no cursor of this node.
    NoCursor,
    /// The journal does not reach as far.
    Ahead,
    /// The events behind it are gone.
    Removed,
    /// The journal cannot be read.
    Unreadable,
}

/// A part of the stream, rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) bytes: Vec<u8>,
    /// By shard, the last sequence that was read.
    pub(crate) from: Vec<u64>,
    pub(crate) events: u64,
    /// Nothing more is to be read: all that was wanted came, or the end was reached and is not followed.
    pub(crate) ended: bool,
}

/// The positions behind which the stream begins.
pub(crate) async fn begin(node: &Arc<Node>, start: &Start) -> Result<Vec<u64>, NoStart> {
    let journal = node.feed().journal();
    let last = ends(journal).await.ok_or(NoStart::Unreadable)?;
    let given = match start {
        Start::Now => return Ok(last),
        Start::Oldest => None,
        Start::After(text) => {
            let read = cursor::decode(text, journal.journal_id(), journal.shards());
            Some(read.ok_or(NoStart::NoCursor)?)
        }
    };
    if given.as_ref().is_some_and(|given| given.iter().zip(&last).any(|(given, last)| given > last)) {
        return Err(NoStart::Ahead);
    }
    // Which records are still there may take a look at the disk.
    let removed = run(node, |journal| journal.removed_sequence()).await.ok_or(NoStart::Unreadable)?;
    match given {
        None => Ok(removed),
        Some(given) if given.iter().zip(&removed).any(|(given, removed)| given < removed) => Err(NoStart::Removed),
        Some(given) => Ok(given),
    }
}

/// By shard, how far the journals of all nodes are; `None` when they cannot be looked at. A shard that goes to another
/// node while those of the others are looked at is looked at there.
async fn ends(journal: &Records) -> Option<Vec<u64>> {
    for _ in 0..LOOKS_MAX {
        let epochs = journal.epochs();
        journal.refresh(Duration::ZERO).await.ok()?;
        let last = journal.last_sequence();
        if journal.epochs() == epochs {
            return Some(last);
        }
    }
    None
}

/// The next part behind `from`. A follower that has nothing to tell for so long gets its cursor alone. `None` when
/// the journal cannot be read, or no longer there.
pub(crate) async fn next(node: &Arc<Node>, wanted: &Wanted, mut from: Vec<u64>, patience: Duration) -> Option<Chunk> {
    let journal = node.feed().journal();
    if from.len() != usize::from(journal.shards()) {
        return None;
    }
    let began = Instant::now();
    loop {
        journal.refresh(REFRESH).await.ok()?;
        // Before reading, so that what becomes durable meanwhile is looked for again.
        let batch = journal.progress();
        let (asked, reader) = (wanted.clone(), Arc::clone(node));
        let (mut chunk, reached) = run(node, move |journal| read_chunk(journal, &reader, &asked, from)).await??;
        chunk.ended = chunk.events >= wanted.left || (reached == Reached::End && !wanted.follow);
        let is_silent = began.elapsed() >= patience;
        if chunk.bytes.is_empty() && (is_silent || (chunk.ended && wanted.form == Form::Lines)) {
            write_cursor(&mut chunk.bytes, wanted.form, journal.journal_id(), &chunk.from);
        }
        if chunk.ended || !chunk.bytes.is_empty() {
            return Some(chunk);
        }
        from = chunk.from;
        if reached == Reached::End {
            while journal.progress() == batch && began.elapsed() < patience {
                tokio::time::sleep(POLL).await;
                journal.refresh(REFRESH).await.ok()?;
            }
        }
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

/// The part behind `from`; `None` when records behind it are no longer kept, so that a part of them would be a gap.
fn read_chunk(
    journal: &Records,
    node: &Arc<Node>,
    wanted: &Wanted,
    from: Vec<u64>,
) -> EngineResult<Option<(Chunk, Reached)>> {
    let is_overtaken = || {
        // What cannot be said of the oldest records is no fault of those that are wanted.
        let removed = journal.removed_sequence().unwrap_or_default();
        removed.iter().zip(&from).any(|(removed, from)| removed > from)
    };
    if is_overtaken() {
        return Ok(None);
    }
    let read = render_chunk(journal, node, wanted, from.clone());
    // Retention may have come meanwhile: one journal then lacks a record that is looked for, the other passes over it.
    if (read.is_err() || matches!(journal, Records::Cql(_))) && is_overtaken() {
        return Ok(None);
    }
    read.map(Some)
}

fn render_chunk(
    journal: &Records,
    node: &Arc<Node>,
    wanted: &Wanted,
    mut from: Vec<u64>,
) -> EngineResult<(Chunk, Reached)> {
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
    Ok((Chunk { bytes, from, events, ended: false }, reached))
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
