//! What happens in a world, one thing at a time. An event stands for itself: a list of them without some of its
//! events is a list of events, which is how a failure is made small.

use meed_schemas::command::Status;

use super::node::Step;
use crate::disk::simulated::{Fault, Rot};

/// One thing that happens. Where it makes no sense in the world as it is, nothing does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A client sends a new request.
    Ask(Ask),
    /// A client sends a request again, whatever became of it.
    Again { ask: u32 },
    /// The network delivers one of the requests on their way.
    Arrive { nth: usize },
    /// The network loses one.
    Lose { nth: usize },
    /// The node does something.
    Step(Step),
    /// A shard gets its tick.
    Tick,
    /// The store's thread is asked to sync.
    SyncStore,
    /// Both clocks go on, and the wall clock leaps besides.
    Time { passed_ms: i64, leap_ms: i64 },
    /// The disk is going to fail.
    Arm { after: u64, fault: Fault },
    /// The process is going to be killed in a change of the store.
    ArmStore { after: u64, is_there: bool },
    /// Nothing is going to fail, and there is space.
    Calm,
    /// The process is killed.
    Kill,
    /// The power goes.
    PowerCut { seed: u64 },
    /// The process starts.
    Start,
    /// What disk and store hold is kept as a copy.
    Copy,
    /// The store's folder is put back from the copy, or is gone.
    RestoreStore { is_gone: bool },
    /// The disk's files are put back from the copy, or are gone, and the store is newer; a node is started on that and has
    /// to tell. Then they are put right.
    StoreAhead { is_gone: bool },
    /// A sector of a file goes bad while no process runs; the node is started on it, and the medium is put right if
    /// it tells.
    Rot { rot: Rot, seed: u64 },
    /// The broker does not answer, or answers again.
    BrokerAway { is_away: bool },
    /// The broker is going to refuse a message.
    BrokerRefuses,
    /// Nothing fails any more: everything under way has to finish, and what is unknown to be resolved.
    Quiet,
    /// As [`Event::Quiet`], and then the node stops in order.
    Stop,
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// Names it in other events.
    pub(super) id: u32,
    pub(super) account: usize,
    pub(super) what: What,
    pub(super) key: Key,
}

/// Which keys a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    None,
    /// Its own `Idempotency-Key`.
    Header,
    /// Its own business key.
    Business,
    Both,
    /// The `Idempotency-Key` of another request.
    HeaderOf(u32),
}

/// What is asked; times are relative to the client's now, other requests are named by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    EarnPoints { points: i64, ago_ms: Option<i64>, expires_in_ms: Option<i64>, activates_in_ms: Option<i64> },
    EarnAmount { amount: i64, ago_ms: Option<i64> },
    Redeem { points: i64 },
    Adjust { points: i64 },
    Sale { amount: i64, redeem: Option<i64>, ago_ms: i64 },
    SaleReturn { of: u32, amount: Option<i64> },
    Reverse { of: u32, part: Part },
    Hold { points: i64, seconds: Option<i64> },
    Capture { of: u32, points: Option<i64> },
    Void { of: u32 },
    Open,
    Status(Status),
    Tier { name: Option<&'static str>, for_ms: Option<i64> },
    Program { number: u32 },
    Balance,
    Lots,
    Holds,
    HoldStatus { of: u32 },
    Account,
    Transaction { of: u32 },
    History,
    Outcome { of: u32 },
}

/// How much of an original is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Rest,
    Points(i64),
    Amount(i64),
}
