//! The stream of a program's events: server-sent events or NDJSON.
//!
//! A reader costs a task and at most three chunks: one rendered, one waiting, one that is being sent. What it has not
//! read yet stays in the journal; one that takes nothing for the idle time is cut, as any connection is.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::ACCEPT;
use meed_schemas::event::EventType;
use meed_schemas::http::problem::{Kind, Problem};
use tokio::sync::mpsc;

use super::desk::{Desk, status};
use super::unanswered;
use crate::context::{Context, Shared};
use crate::feed::{Chunk, Form, NoStart, Start, Wanted};
use crate::forward::Unanswered;
use crate::metrics::EventMetrics;
use crate::reach::Backend;
use crate::reply::{Media, Reply};
use crate::route::Query;
use crate::stream::Piece;

/// A follower that has nothing to tell says so after this, or half of the idle time or of a request's: only writing
/// shows that a client has gone.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Most events that `limit` may ask for.
const LIMIT_MAX: u64 = 1_000_000;
/// The header with which a browser goes on.
const LAST_EVENT_ID: &str = "last-event-id";

impl Desk<'_> {
    /// Answers with a stream that begins behind a cursor.
    pub(super) async fn events(&self, context: &Rc<Context>) -> Result<Reply, Problem> {
        let query = Query::parse(self.call.query, &["after", "follow", "limit", "types"])?;
        let form = self.form();
        let types = types(query.get("types"))?;
        let is_followed = match query.get("follow") {
            None => form == Form::ServerSent,
            Some("true") => true,
            Some("false") => false,
            Some(_) => return Err(Problem::invalid("follow", "`follow` must be true or false")),
        };
        let left = match query.get("limit").map(str::parse) {
            None => u64::MAX,
            Some(Ok(limit)) if (1..=LIMIT_MAX).contains(&limit) => limit,
            Some(_) => {
                let detail = format!("`limit` must be a whole number from 1 to {LIMIT_MAX}");
                return Err(Problem::invalid("limit", detail));
            }
        };
        let program = self.program().await?.name().to_owned();
        let wanted = Wanted { form, program, types, follow: is_followed, left };
        let seat = Seat::take(&context.shared).ok_or_else(|| {
            Problem::new(Kind::Overloaded, "Too many readers of events; the setting event_readers bounds them.")
        })?;
        let first = self.first(&wanted, query.get("after")).await?;
        let (sender, pieces) = mpsc::channel(1);
        let settings = &context.shared.settings;
        let heartbeat_ms = settings.idle_timeout_ms.min(settings.request_deadline_ms) / 2;
        let heartbeat = HEARTBEAT.min(Duration::from_millis(heartbeat_ms));
        let backend = self.backend.clone();
        let shared = Arc::clone(&context.shared);
        // Who follows server-sent events comes again after any end, so that a stop is an orderly one.
        let comes_again = wanted.follow && form == Form::ServerSent;
        tokio::task::spawn_local(async move {
            let is_whole = tokio::select! {
                followed = follow(&backend, wanted, first, &sender, heartbeat) => followed.is_ok(),
                () = sender.closed() => return drop(seat),
                () = shared.drained() => comes_again,
            };
            // Once there is room for the end, what came before it has been taken.
            if let Ok(room) = sender.reserve().await
                && is_whole
            {
                room.send(Piece::End);
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

    /// The first chunk, at once: as long as nothing is sent, what cannot be read can be refused.
    async fn first(&self, wanted: &Wanted, after: Option<&str>) -> Result<Chunk, Problem> {
        let from = self.beginning(after).await?;
        let first = self.backend.next_events(wanted, from.clone(), Duration::ZERO).await;
        let Err(why) = first else { return first.map_err(unanswered) };
        // What is behind `from` may have been removed meanwhile: then this refuses, or has another beginning.
        let again = self.beginning(after).await?;
        if again == from {
            return Err(unanswered(why));
        }
        self.backend.next_events(wanted, again, Duration::ZERO).await.map_err(unanswered)
    }

    /// The positions behind which the stream begins.
    async fn beginning(&self, after: Option<&str>) -> Result<Vec<u64>, Problem> {
        let header = self.call.headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
        let (field, start) = match (header, after) {
            // What is no text is no cursor either.
            (Some(value), _) => ("Last-Event-ID", Start::After(value.to_str().unwrap_or_default().to_owned())),
            (None, Some("now")) => ("after", Start::Now),
            (None, Some(text)) => ("after", Start::After(text.to_owned())),
            (None, None) => ("after", Start::Oldest),
        };
        let detail = match self.backend.begin_events(&start).await.map_err(unanswered)? {
            Ok(from) => return Ok(from),
            Err(NoStart::NoCursor) if field == "after" => "must be a cursor of this node's events, or `now`",
            Err(NoStart::NoCursor) => "must be a cursor of this node's events",
            Err(NoStart::Ahead) => "is ahead of this node's journal: it was restored from an older copy",
            Err(NoStart::Removed) => "is of events that are removed; begin again without it",
            Err(NoStart::Unreadable) => return Err(Problem::of(Kind::Overloaded)),
        };
        Err(Problem::invalid(field, format!("`{field}` {detail}")))
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

/// Sends chunks until the wanted events are sent, the journal's end is reached and not to be followed, or nobody takes
/// them.
///
/// # Errors
/// The rest cannot be read. The client goes on with its last cursor.
async fn follow(
    backend: &Backend,
    mut wanted: Wanted,
    first: Chunk,
    sender: &mpsc::Sender<Piece>,
    heartbeat: Duration,
) -> Result<(), Unanswered> {
    let metrics = EventMetrics::register();
    let mut chunk = first;
    loop {
        metrics.sent.increment(chunk.events);
        wanted.left -= chunk.events.min(wanted.left);
        let piece = Piece::Bytes(Bytes::from(chunk.bytes));
        if sender.send(piece).await.is_err() || chunk.ended {
            return Ok(());
        }
        chunk = backend.next_events(&wanted, chunk.from, heartbeat).await?;
    }
}
