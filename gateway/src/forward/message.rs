//! Messages in frames. A message to the owner asks, for a place where the front waits; one to a front answers,
//! or tells it what it needs to know.

use std::time::Duration;

use meed_engine::aliases::PutOutcome;
use meed_engine::ownership::OwnerMap;
use meed_engine::permits::NoPermit;
use meed_engine::reader::PageQuery;
use meed_schemas::codec::{CodecError, Reader, put_bytes, put_signed, put_varint};
use meed_schemas::command::Request;
use meed_schemas::forward::{decode_reply, decode_request, encode_reply, put_record, read_record};
use meed_schemas::http::LIST_LIMIT_MAX;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::Reply;
use meed_schemas::record::{Record, RecordKind};
use meed_schemas::time::Millis;

use super::{events, map};
use crate::feed::{Chunk, NoStart, Start, Wanted};

type Result<T> = std::result::Result<T, CodecError>;

/// Most requests of one message: they get their permits together.
pub(crate) const WINDOW_ITEMS_MAX: usize = 1_000;
/// Longest time that events may be waited for.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// Longest page that a front may ask for, one record more than the contract's longest.
const PAGE_RECORDS_MAX: u64 = LIST_LIMIT_MAX as u64 + 1;

/// Where an answer goes: a front's slot, one use of it, and which of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) index: u32,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn number(r: &mut Reader<'_>, what: &'static str) -> Result<u32> {
    u32::try_from(r.varint(what)?).map_err(|_| CodecError::Invalid(what))
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.to_u64().to_le_bytes());
}

fn read_position(r: &mut Reader<'_>) -> Result<Position> {
    r.u64("position").map(Position::from_u64)
}

mod ask {
    pub(super) const COMMANDS: u8 = 1;
    pub(super) const RESOLVE: u8 = 2;
    pub(super) const PUT_ALIAS: u8 = 3;
    pub(super) const DELETE_ALIAS: u8 = 4;
    pub(super) const ALIASES: u8 = 5;
    pub(super) const PAGE: u8 = 6;
    pub(super) const PROGRAMS: u8 = 7;
    pub(super) const KEEP_ALIVE: u8 = 8;
    pub(super) const BEGIN_EVENTS: u8 = 9;
    pub(super) const NEXT_EVENTS: u8 = 10;
}

/// What a front asks.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Requests, each with its index; their permits are given together or not at all.
    Commands(Vec<(u32, Request)>),
    Resolve {
        program: String,
        alias: String,
    },
    PutAlias {
        program: String,
        alias: String,
        account: String,
    },
    DeleteAlias {
        program: String,
        alias: String,
        account: String,
    },
    Aliases {
        program: String,
        account: String,
    },
    Page(PageQuery),
    /// That every version of a program there is now has been told.
    Programs,
    /// Where a stream of events begins.
    BeginEvents(Start),
    /// The next events.
    NextEvents {
        wanted: Wanted,
        from: Vec<u64>,
        patience: Duration,
    },
}

/// A message to the owner.
#[derive(Debug)]
pub(crate) enum ToOwner {
    /// A question. Nothing of it is decided after the deadline, in the owner's clock.
    Ask { place: Place, deadline_ms: i64, ask: Ask },
    /// The front is there.
    KeepAlive,
}

/// The part of a question that does not change when it is sent again.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl Body {
    fn of(tag: u8, texts: &[&str]) -> Self {
        let mut out = vec![tag];
        texts.iter().for_each(|text| put_text(&mut out, text));
        Self(out)
    }

    pub(crate) fn resolve(program: &str, alias: &str) -> Self {
        Self::of(ask::RESOLVE, &[program, alias])
    }

    pub(crate) fn put_alias(program: &str, alias: &str, account: &str) -> Self {
        Self::of(ask::PUT_ALIAS, &[program, alias, account])
    }

    pub(crate) fn delete_alias(program: &str, alias: &str, account: &str) -> Self {
        Self::of(ask::DELETE_ALIAS, &[program, alias, account])
    }

    pub(crate) fn aliases(program: &str, account: &str) -> Self {
        Self::of(ask::ALIASES, &[program, account])
    }

    pub(crate) fn programs() -> Self {
        Self::of(ask::PROGRAMS, &[])
    }

    pub(crate) fn begin_events(start: &Start) -> Self {
        let mut out = vec![ask::BEGIN_EVENTS];
        events::put_start(&mut out, start);
        Self(out)
    }

    pub(crate) fn next_events(wanted: &Wanted, from: &[u64], patience: Duration) -> Self {
        let mut out = vec![ask::NEXT_EVENTS];
        events::put_wanted(&mut out, wanted);
        events::put_sequences(&mut out, from);
        put_varint(&mut out, u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        Self(out)
    }

    pub(crate) fn page(query: &PageQuery) -> Self {
        let mut out = vec![ask::PAGE];
        put_bytes(&mut out, query.identity.as_bytes());
        put_position(&mut out, query.from);
        out.push(query.kind.map_or(0, |kind| kind as u8));
        put_varint(&mut out, query.offset);
        put_varint(&mut out, query.limit as u64);
        Self(out)
    }
}

fn put_ask_head(out: &mut Vec<u8>, slot: u32, generation: u32, deadline_ms: i64) {
    // A keep-alive has 0 here.
    put_varint(out, u64::from(slot) + 1);
    put_varint(out, u64::from(generation));
    put_signed(out, deadline_ms);
}

/// Appends a question that has one answer.
pub(crate) fn put_ask(out: &mut Vec<u8>, slot: u32, generation: u32, deadline_ms: i64, body: &[u8]) {
    put_ask_head(out, slot, generation, deadline_ms);
    out.extend_from_slice(body);
}

/// Appends requests that get their permits together: each an index and its bytes.
pub(crate) fn put_commands<'a>(
    out: &mut Vec<u8>,
    slot: u32,
    generation: u32,
    deadline_ms: i64,
    items: impl ExactSizeIterator<Item = (u32, &'a [u8])>,
) {
    put_ask_head(out, slot, generation, deadline_ms);
    out.push(ask::COMMANDS);
    put_varint(out, items.len() as u64);
    for (index, bytes) in items {
        put_varint(out, u64::from(index));
        out.extend_from_slice(bytes);
    }
}

/// Appends a sign of life.
pub(crate) fn put_keep_alive(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, ask::KEEP_ALIVE]);
}

/// Reads a message of a front.
pub(crate) fn read_to_owner(r: &mut Reader<'_>) -> Result<ToOwner> {
    let Some(slot) = number(r, "slot")?.checked_sub(1) else {
        return match r.byte("message")? {
            ask::KEEP_ALIVE => Ok(ToOwner::KeepAlive),
            _ => Err(CodecError::Invalid("message")),
        };
    };
    let place = Place { slot, generation: number(r, "generation")?, index: 0 };
    let deadline_ms = r.signed("deadline")?;
    let text = |r: &mut Reader<'_>| r.text("text").map(str::to_owned);
    let ask = match r.byte("message")? {
        ask::COMMANDS => {
            let count = r.count("requests")?;
            if !(1..=WINDOW_ITEMS_MAX).contains(&count) {
                return Err(CodecError::Invalid("requests"));
            }
            let item = |r: &mut Reader<'_>| Ok((number(r, "index")?, decode_request(r)?));
            Ask::Commands((0..count).map(|_| item(r)).collect::<Result<_>>()?)
        }
        ask::RESOLVE => Ask::Resolve { program: text(r)?, alias: text(r)? },
        ask::PUT_ALIAS => Ask::PutAlias { program: text(r)?, alias: text(r)?, account: text(r)? },
        ask::DELETE_ALIAS => Ask::DeleteAlias { program: text(r)?, alias: text(r)?, account: text(r)? },
        ask::ALIASES => Ask::Aliases { program: text(r)?, account: text(r)? },
        ask::PAGE => Ask::Page(read_page_query(r)?),
        ask::PROGRAMS => Ask::Programs,
        ask::BEGIN_EVENTS => Ask::BeginEvents(events::read_start(r)?),
        ask::NEXT_EVENTS => {
            let (wanted, from) = (events::read_wanted(r)?, events::read_sequences(r)?);
            Ask::NextEvents { wanted, from, patience: Duration::from_millis(r.varint("patience")?).min(PATIENCE_MAX) }
        }
        _ => return Err(CodecError::Invalid("message")),
    };
    Ok(ToOwner::Ask { place, deadline_ms, ask })
}

fn read_page_query(r: &mut Reader<'_>) -> Result<PageQuery> {
    let identity = Identity::from_bytes(r.bytes("identity")?).ok_or(CodecError::Invalid("identity"))?;
    let from = read_position(r)?;
    let kind = match r.byte("kind")? {
        0 => None,
        byte => Some(RecordKind::from_byte(byte).ok_or(CodecError::Invalid("kind"))?),
    };
    let (offset, limit) = (r.varint("offset")?, r.varint("limit")?);
    if offset > meed_engine::reader::OFFSET_MAX || limit > PAGE_RECORDS_MAX {
        return Err(CodecError::Invalid("limit"));
    }
    Ok(PageQuery { identity, from, kind, offset, limit: limit as usize })
}

mod tell {
    pub(super) const CLOCK: u8 = 1;
    pub(super) const STATE: u8 = 2;
    pub(super) const KEYS: u8 = 3;
    pub(super) const PROGRAM: u8 = 4;
    pub(super) const MAP: u8 = 5;
    pub(super) const REPLY: u8 = 16;
    pub(super) const NO_PERMIT: u8 = 17;
    pub(super) const OVERLOADED: u8 = 18;
    pub(super) const ACCOUNT: u8 = 19;
    pub(super) const ALIAS_PUT: u8 = 20;
    pub(super) const ALIAS_DELETED: u8 = 21;
    pub(super) const ALIASES: u8 = 22;
    pub(super) const PAGE_RECORD: u8 = 23;
    pub(super) const PAGE_END: u8 = 24;
    pub(super) const PROGRAMS: u8 = 25;
    pub(super) const EVENTS_BEGIN: u8 = 26;
    pub(super) const EVENTS: u8 = 27;
    pub(super) const NOT_OWNER: u8 = 28;
}

/// An answer of the owner.
#[derive(Debug)]
pub(crate) enum Answer {
    /// What the account said.
    Reply(Reply),
    /// It was not executed.
    NoPermit(NoPermit),
    /// It was not executed: too much waits.
    Overloaded,
    /// It was not executed: another node owns the shard.
    NotOwner,
    /// The account of an alias.
    Account(Option<String>),
    /// What became of a put alias.
    AliasPut(PutOutcome),
    /// Whether the alias was there.
    AliasDeleted(bool),
    /// The aliases of an account.
    Aliases(Vec<String>),
    /// A page.
    Page(Vec<Record>),
    /// All programs have been told.
    Programs,
    /// Where a stream of events begins.
    EventsBegin(std::result::Result<Vec<u64>, NoStart>),
    /// A part of one.
    Events(Chunk),
}

/// A message to a front.
#[derive(Debug)]
pub(crate) enum ToFront {
    /// The owner's clock when the frame left; first in every frame.
    Clock(i64),
    /// Whether the owner is ready; if not, why.
    State { draining: bool, failing: Option<String> },
    /// The sealed keys that hash and render; first of all.
    Keys(Vec<u8>),
    /// A version of a program. Told before any answer that names it.
    Program { name: String, number: u32, effective_from: Millis, document: String },
    /// Who owns which shard, as the owner knows it. Told before any answer that rests on it.
    Map(OwnerMap),
    /// An answer.
    Answer(Place, Answer),
    /// A record of a page, whose end is still to come.
    PageRecord(Place, Box<Record>),
}

pub(crate) fn put_clock(out: &mut Vec<u8>, owner_ms: i64) {
    out.push(tell::CLOCK);
    put_signed(out, owner_ms);
}

pub(crate) fn put_state(out: &mut Vec<u8>, draining: bool, failing: Option<&str>) {
    out.extend_from_slice(&[tell::STATE, u8::from(draining), u8::from(failing.is_some())]);
    if let Some(failing) = failing {
        put_text(out, failing);
    }
}

pub(crate) fn put_keys(out: &mut Vec<u8>, sealed: &[u8]) {
    out.push(tell::KEYS);
    put_bytes(out, sealed);
}

pub(crate) fn put_program(out: &mut Vec<u8>, name: &str, number: u32, effective_from: Millis, document: &str) {
    out.push(tell::PROGRAM);
    put_text(out, name);
    put_varint(out, u64::from(number));
    put_signed(out, effective_from);
    put_text(out, document);
}

pub(crate) fn put_map(out: &mut Vec<u8>, map: &OwnerMap) {
    out.push(tell::MAP);
    map::put(out, map);
}

fn put_answer_head(out: &mut Vec<u8>, tag: u8, place: Place) {
    out.push(tag);
    for part in [place.slot, place.generation, place.index] {
        put_varint(out, u64::from(part));
    }
}

/// Appends an answer. A page is several messages, so that none is long.
pub(crate) fn put_answer(out: &mut Vec<u8>, place: Place, answer: &Answer) {
    match answer {
        Answer::Reply(reply) => {
            put_answer_head(out, tell::REPLY, place);
            encode_reply(reply, out);
        }
        Answer::NoPermit(none) => {
            put_answer_head(out, tell::NO_PERMIT, place);
            let reason = PERMITS.iter().position(|other| other == none).unwrap_or(0);
            put_varint(out, reason as u64);
        }
        Answer::Overloaded => put_answer_head(out, tell::OVERLOADED, place),
        Answer::NotOwner => put_answer_head(out, tell::NOT_OWNER, place),
        Answer::Account(account) => {
            put_answer_head(out, tell::ACCOUNT, place);
            // No account id is empty.
            put_text(out, account.as_deref().unwrap_or_default());
        }
        Answer::AliasPut(outcome) => {
            put_answer_head(out, tell::ALIAS_PUT, place);
            let (tag, taken_by) = match outcome {
                PutOutcome::New => (0, ""),
                PutOutcome::Same => (1, ""),
                PutOutcome::TooMany => (2, ""),
                PutOutcome::TakenBy(account) => (3, account.as_str()),
            };
            out.push(tag);
            put_text(out, taken_by);
        }
        Answer::AliasDeleted(was_there) => {
            put_answer_head(out, tell::ALIAS_DELETED, place);
            out.push(u8::from(*was_there));
        }
        Answer::Aliases(aliases) => {
            put_answer_head(out, tell::ALIASES, place);
            put_varint(out, aliases.len() as u64);
            aliases.iter().for_each(|alias| put_text(out, alias));
        }
        Answer::Page(records) => {
            for record in records {
                put_answer_head(out, tell::PAGE_RECORD, place);
                put_record(out, record);
            }
            put_answer_head(out, tell::PAGE_END, place);
        }
        Answer::Programs => put_answer_head(out, tell::PROGRAMS, place),
        Answer::EventsBegin(begins) => {
            put_answer_head(out, tell::EVENTS_BEGIN, place);
            events::put_begins(out, begins);
        }
        Answer::Events(chunk) => {
            put_answer_head(out, tell::EVENTS, place);
            events::put_chunk(out, chunk);
        }
    }
}

/// By their numbers on the wire.
const PERMITS: [NoPermit; 4] = [NoPermit::Node, NoPermit::Shard, NoPermit::CheckpointLag, NoPermit::Draining];

/// Reads a message of the owner.
pub(crate) fn read_to_front(r: &mut Reader<'_>) -> Result<ToFront> {
    let tag = r.byte("message")?;
    let flag = |r: &mut Reader<'_>| r.byte("flag").map(|byte| byte != 0);
    match tag {
        tell::CLOCK => return Ok(ToFront::Clock(r.signed("clock")?)),
        tell::STATE => {
            let draining = flag(r)?;
            let failing = if flag(r)? { Some(r.text("state")?.to_owned()) } else { None };
            return Ok(ToFront::State { draining, failing });
        }
        tell::MAP => return Ok(ToFront::Map(map::read(r)?)),
        tell::KEYS => return Ok(ToFront::Keys(r.bytes("keys")?.to_vec())),
        tell::PROGRAM => {
            return Ok(ToFront::Program {
                name: r.text("program")?.to_owned(),
                number: number(r, "version")?,
                effective_from: r.signed("version")?,
                document: r.text("document")?.to_owned(),
            });
        }
        _ => {}
    }
    let place = Place { slot: number(r, "slot")?, generation: number(r, "generation")?, index: number(r, "index")? };
    let answer = match tag {
        tell::REPLY => Answer::Reply(decode_reply(r)?),
        tell::NO_PERMIT => {
            let reason = r.varint("reason")? as usize;
            Answer::NoPermit(*PERMITS.get(reason).ok_or(CodecError::Invalid("reason"))?)
        }
        tell::OVERLOADED => Answer::Overloaded,
        tell::NOT_OWNER => Answer::NotOwner,
        tell::ACCOUNT => Answer::Account(Some(r.text("account")?.to_owned()).filter(|account| !account.is_empty())),
        tell::ALIAS_PUT => {
            let tag = r.byte("alias")?;
            let taken_by = r.text("account")?.to_owned();
            Answer::AliasPut(match tag {
                0 => PutOutcome::New,
                1 => PutOutcome::Same,
                2 => PutOutcome::TooMany,
                3 => PutOutcome::TakenBy(taken_by),
                _ => return Err(CodecError::Invalid("alias")),
            })
        }
        tell::ALIAS_DELETED => Answer::AliasDeleted(flag(r)?),
        tell::ALIASES => Answer::Aliases(
            (0..r.count("aliases")?).map(|_| r.text("alias").map(str::to_owned)).collect::<Result<_>>()?,
        ),
        tell::PAGE_RECORD => return Ok(ToFront::PageRecord(place, read_record(r)?)),
        tell::PAGE_END => Answer::Page(Vec::new()),
        tell::PROGRAMS => Answer::Programs,
        tell::EVENTS_BEGIN => Answer::EventsBegin(events::read_begins(r)?),
        tell::EVENTS => Answer::Events(events::read_chunk(r)?),
        _ => return Err(CodecError::Invalid("message")),
    };
    Ok(ToFront::Answer(place, answer))
}
