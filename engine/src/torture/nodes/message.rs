//! What clients, nodes and the broker say to each other.

use super::keyspace::{Entry, Statement};

/// Who of a node waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    Lease,
    Manager,
    Shard(u16),
    Watermark(u16),
}

/// What a client asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) client: usize,
    /// Of this try.
    pub(super) number: u64,
    pub(super) shard: u16,
    pub(super) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Write { key: u64, account: u64 },
    Read,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// The sequence of the key's record.
    Written(u64),
    /// The last sequence that the shard had decided.
    Seen(u64),
    /// Not decided here.
    Refused,
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
    Reply(Request, Reply),
    /// An event goes to the broker.
    Produce(Sent, Entry),
    /// The process ends.
    Stop(String),
}
