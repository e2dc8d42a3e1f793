//! What becomes of things that were held until the journal had what they saw. Without threads: a worker and the
//! simulator both release through it.

use meed_schemas::ids::Position;
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::{Detail, Record, RecordKind};

use crate::error::{Error, Result};
use crate::shard::{Checkpoint, Held, Input, Purpose, ReplyTo};

/// Where released things go.
pub trait Outlet {
    /// Makes a version of a program known to every shard, before its answer leaves.
    fn adopt_program_of(&mut self, record: &Record) -> Result<()>;
    /// An answer leaves, and its permit of a shard and of so many bytes comes back.
    fn reply(&mut self, to: ReplyTo, shard: u16, bytes: u32, reply: Reply);
    /// At the deadline of a caller's wait, it is told that the first request with its key is still running.
    fn still_running(&mut self, to: ReplyTo);
    /// A record is to be read; see [`came_of`].
    fn read(&mut self, position: Position, purpose: Purpose);
    /// A checkpoint is to be written.
    fn checkpoint(&mut self, checkpoint: Checkpoint);
    /// The node has to stop.
    fn fault(&mut self, error: Error);
}

/// Releases what is durable, in order.
pub fn release(held: Vec<Held>, outlet: &mut impl Outlet) {
    for held in held {
        match held {
            Held::Reply { to, shard, bytes, reply } => {
                if let Reply::Executed { record, replayed: false } = &reply
                    && record.kind == RecordKind::Program
                    && let Err(error) = outlet.adopt_program_of(record)
                {
                    outlet.fault(error);
                    continue;
                }
                outlet.reply(to, shard, bytes, reply);
            }
            Held::Read { position, purpose } => outlet.read(position, purpose),
            Held::StillRunning(to) => outlet.still_running(to),
            Held::Checkpoint(checkpoint) => outlet.checkpoint(checkpoint),
        }
    }
}

/// What comes of a record that was read.
#[derive(Debug)]
pub enum Came {
    /// The answer of a replay.
    Reply {
        /// To whom.
        to: ReplyTo,
        /// The shard whose permit it gives back.
        shard: u16,
        /// Bytes that the permit counts.
        bytes: u32,
        /// The answer.
        reply: Reply,
    },
    /// Something that a command of this shard waits for.
    Input(u16, Input),
}

/// What comes of the record at a position, or of there being none, in a node of so many shards.
pub fn came_of(position: Position, purpose: Purpose, record: Option<Box<Record>>, shards: u16) -> Came {
    match purpose {
        Purpose::Replay { to, outcome, bytes, shard } => {
            Came::Reply { to, shard, bytes, reply: replayed(record, outcome) }
        }
        Purpose::Original { identity, ticket } => {
            let shard = identity.shard(shards);
            Came::Input(shard, Input::Record(identity, ticket, position, record))
        }
    }
}

/// The answer from a record of a shard that went to another node before it was read: it may have been missed.
pub fn not_owner(version: i64) -> Reply {
    Reply::Refused(Refusal::NotOwner { version })
}

/// Whether an answer names a version of a program to its author, and the record if it made one.
pub fn program_of(reply: &Reply) -> Option<Option<Box<Record>>> {
    match reply {
        Reply::Executed { record, replayed: false } if record.kind == RecordKind::Program => Some(Some(record.clone())),
        Reply::Program { .. } => Some(None),
        _ => None,
    }
}

/// The answer of a replay, from the record that the key led to. A key may outlive its record's retention, because
/// an account remembers its newest keys for ever: what it stood for is not known any more, but that it was used is,
/// so it is neither executed again nor worth a retry.
fn replayed(record: Option<Box<Record>>, outcome: bool) -> Reply {
    let Some(record) = record else { return Reply::Refused(Refusal::RecordGone) };
    if outcome {
        return Reply::Outcome(record);
    }
    match &record.detail {
        Detail::Refusal { available_points, requested_points, request_id } => Reply::RefusedBefore {
            refusal: Refusal::InsufficientPoints {
                available_points: *available_points,
                requested_points: *requested_points,
            },
            request_id: request_id.clone(),
        },
        _ => Reply::Executed { record, replayed: true },
    }
}
