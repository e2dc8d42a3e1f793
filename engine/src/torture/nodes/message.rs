//! What clients, nodes and the broker say to each other.

use std::rc::Rc;
use std::sync::Arc;

use meed_schemas::command;
use meed_schemas::ids::Identity;
use meed_schemas::outcome;

use super::keyspace::Statement;

/// Who of a node waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    Lease,
    Manager,
    /// The appends of a shard.
    Shard(u16),
    Watermark(u16),
    /// Time passes for the shards.
    Tick,
    /// One of the tasks that share a [`super::line::Line`].
    Line,
}

/// What a client asks.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) client: usize,
    /// Of this try.
    pub(super) number: u64,
    pub(super) shard: u16,
    /// What it is called by the clients.
    pub(super) ask: u32,
    pub(super) command: Rc<command::Request>,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// By an owner whose records were durable up to a sequence, and who has shown them up to another.
    Decided { reply: Box<outcome::Reply>, durable: u64, shown: u64 },
    /// Not decided here.
    Refused,
}

/// An event of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Counts the events of a sender.
    pub(super) nth: u64,
    pub(super) identity: Identity,
    /// Dense per account, from 1.
    pub(super) number: u64,
    pub(super) record: Arc<[u8]>,
}

/// An event on its way to the broker and its confirmation back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sent {
    pub(super) shard: u16,
    /// Under which the sender has the shard: each time that it takes one, it is another sender.
    pub(super) epoch: i64,
    pub(super) sequence: u64,
}

#[derive(Debug)]
pub(super) enum Effect {
    Ask(Task, u64, Statement),
    /// Wakes the task after so long, unless something else has happened to it.
    Wake(Task, u64, i64),
    Reply(Request, Answer),
    /// An event goes to the broker.
    Produce(Sent, Entry),
    /// The process ends.
    Stop(String),
}
