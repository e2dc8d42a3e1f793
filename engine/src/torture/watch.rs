//! What the auditor sees of a node: each input, and what it did.

use meed_schemas::ids::Position;
use meed_schemas::outcome::Reply;
use meed_schemas::time::Millis;

use super::auditor::Written;
use crate::shard::{Held, Input, Purpose, ReplyTo};

/// What one input did, as far as anybody outside can see.
pub(super) struct Seen<'a> {
    pub(super) shard: u16,
    pub(super) now: Millis,
    pub(super) elapsed_ms: i64,
    /// Whether the node held its lease.
    pub(super) may_decide: bool,
    pub(super) settle_until: Millis,
    /// How many versions of the program the shard knows.
    pub(super) versions: usize,
    /// The records that it decided.
    pub(super) records: Vec<Written>,
    /// What is held or ready now; who was answered earlier may be among them.
    pub(super) held: Vec<(ReplyTo, Decided<'a>)>,
}

/// What a command came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decided<'a> {
    Reply(&'a Reply),
    Replay { position: Position, outcome: bool },
}

/// Who watches what a node does.
pub(super) trait Watch {
    /// Before an input is handled.
    fn input(&mut self, input: &Input);
    /// After it.
    fn seen(&mut self, seen: Seen<'_>) -> std::result::Result<(), String>;
}

/// Who is answered by something that is held, and with what.
pub(super) fn decided(held: &Held) -> Option<(ReplyTo, Decided<'_>)> {
    match held {
        Held::Reply { to, reply, .. } => Some((*to, Decided::Reply(reply))),
        Held::Read { position, purpose: Purpose::Replay { to, outcome, .. } } => {
            Some((*to, Decided::Replay { position: *position, outcome: *outcome }))
        }
        _ => None,
    }
}
