//! What fronts and the owner of the accounts say to each other: a framed binary protocol on a socket of their
//! own. Requests and answers have the form of [`meed_schemas::forward`].
//!
//! Both sides prove that they know one secret ([`handshake`]). Then frames go both ways, each with its length
//! and checksum, and hold as many messages as had come together ([`frame`]). A deadline is told in the owner's
//! own monotonic clock, which the front knows from the owner's frames ([`clock`]): a remaining time would begin
//! anew in an owner that was paused while the frame lay in its socket, and it would decide too late.

pub(crate) mod clock;
mod events;
pub(crate) mod frame;
pub(crate) mod handshake;
mod map;
pub(crate) mod message;
pub(crate) mod socket;

use meed_engine::permits::NoPermit;

/// Version of the protocol: frames, messages, and the forms of requests and answers in them. Both sides must
/// have the same.
pub const PROTOCOL_VERSION: u16 = 2;

/// Why a request has no answer from its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// No permit, here or at the owner: it was not executed.
    NoPermit(NoPermit),
    /// Too much waits for the aliases or for reads: it was not executed.
    Overloaded,
    /// The owner cannot be reached: it was not executed.
    NotReady,
    /// Its shard is another node's: it was not executed.
    NotOwner,
    /// The link to its owner broke. It has a key or only reads, so it may be asked once more, of whoever owns its shard
    /// then.
    Broken {
        /// Whether the owner may have seen it.
        was_sent: bool,
    },
    /// It was sent and no answer came: whether it was executed is to be asked under its key.
    Unknown,
}
