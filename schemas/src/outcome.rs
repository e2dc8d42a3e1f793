//! What comes back from an account: an executed operation's record, a refusal, or a view.

use std::borrow::Cow;

use crate::command::{RequestId, Status};
use crate::ids::Position;
use crate::record::{Balances, Record, RecordKind};
use crate::time::Millis;

macro_rules! limits {
    ($($limit:ident $name:literal, $meaning:literal;)*) => {
        /// A bound of what an account holds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Limit { $(#[doc = $meaning] $limit,)* }

        impl Limit {
            /// Every bound.
            pub const ALL: &[Self] = &[$(Self::$limit,)*];

            /// The word for it in refusals.
            pub fn name(self) -> &'static str {
                match self { $(Self::$limit => $name,)* }
            }
        }
    };
}

limits! {
    Lots "lots", "Lots of different expiry or activation.";
    OpenHolds "open_holds", "Holds that are open.";
    SpendMonths "spend_months", "Months with spend.";
    ProgramVersions "program_versions", "Versions of a program.";
    Aliases "aliases", "Aliases.";
}

impl Limit {
    /// The bound with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|limit| limit.name() == name)
    }
}

/// Why a request was not executed. The order of the variants is the precedence of the HTTP contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A member that is wrong in the light of the program.
    InvalidRequest {
        /// Which.
        field: Cow<'static, str>,
        /// What is wrong and what to send instead.
        detail: String,
    },
    /// No such program.
    UnknownProgram,
    /// No such account, and it is not enrolled by this request.
    UnknownAccount,
    /// The key was used for another request, or the two keys name two outcomes.
    KeyReused,
    /// The first request with this key is still running at the deadline.
    KeyInProgress,
    /// No such transaction of this account.
    UnknownTransaction,
    /// What is named was executed, and its record is older than those that are kept.
    RecordGone,
    /// No such hold of this account.
    UnknownHold,
    /// Nothing is remembered under this key.
    UnknownOutcome,
    /// The account is closed.
    AccountClosed,
    /// The account is frozen.
    AccountFrozen,
    /// `occurred_at` is older than the program accepts.
    TooLate {
        /// The program's bound.
        late_days_max: i64,
    },
    /// `occurred_at` is more than 5 minutes ahead.
    InTheFuture,
    /// The hold was captured, or is closed.
    HoldClosed,
    /// Only EARN and REDEEM can be reversed.
    NotReversible,
    /// Nothing of the original is left to reverse.
    NothingToReverse,
    /// More than is left of the original.
    ExceedsRemaining {
        /// Points left, when points were asked.
        remaining_points: Option<i64>,
        /// Minor units left, when an amount was asked.
        remaining_amount: Option<i64>,
    },
    /// More than the hold pinned.
    ExceedsHold {
        /// What it pinned.
        held_points: i64,
    },
    /// Too few available points.
    InsufficientPoints {
        /// Available now.
        available_points: i64,
        /// Asked for.
        requested_points: i64,
    },
    /// A bound of the account.
    LimitExceeded {
        /// Which.
        limit: Limit,
    },
    /// The award or the balance would be beyond its bound.
    BalanceOverflow,
    /// Not executed: too much is under way. Safe to retry.
    Overloaded,
    /// Not executed: the node is stopping. Safe to retry.
    Draining,
    /// Not executed: the node is starting or cannot write. Safe to retry.
    NotReady,
    /// Not executed: another node owns the shard, or will, as the map of owners says from this version on. A gateway
    /// asks that node; it is no answer for a client.
    NotOwner {
        /// Of the map that the refusing node knows.
        version: i64,
    },
    /// The deadline passed; whether it was executed is to be asked under its key.
    OutcomeUnknown,
}

/// The tier of an account at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierView {
    /// Version of the program whose levels are meant.
    pub version: u32,
    /// The level.
    pub level: u8,
}

/// An account's balance as of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceView {
    /// Its status.
    pub status: Status,
    /// Its balances.
    pub balances: Balances,
    /// Its tier.
    pub tier: TierView,
    /// What decides the tier, in minor units.
    pub qualifying_spend: i64,
    /// The available points that go at the earliest instant.
    pub next_expiry: Option<(i64, Millis)>,
    /// Its last sequence.
    pub sequence: u64,
    /// `recorded_at` of its last record.
    pub last_updated: Millis,
    /// In burn order, when asked for.
    pub lots: Option<Vec<LotView>>,
}

/// A lot as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LotView {
    /// Spendable points (of a pending lot: its points).
    pub available: i64,
    /// Held points.
    pub held: i64,
    /// When it becomes available, if pending.
    pub activates_at: Option<Millis>,
    /// NEVER for none.
    pub expires_at: Millis,
}

/// The state of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// Open.
    Open,
    /// Captured by the record at this position.
    Captured(Position),
    /// Released by the record at this position.
    Voided(Position),
}

/// A hold as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldView {
    /// Its id.
    pub hold: Position,
    /// Points pinned.
    pub points: i64,
    /// When its time to live ends.
    pub expires_at: Option<Millis>,
    /// When it was recorded, where known without its record.
    pub recorded_at: Millis,
    /// Open or how it ended.
    pub state: HoldState,
}

/// An account as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Its status.
    pub status: Status,
    /// Its tier.
    pub tier: TierView,
    /// `recorded_at` of its first record.
    pub created_at: Millis,
    /// Its last sequence.
    pub sequence: u64,
    /// Effects so far, by kind.
    pub counts: Vec<(RecordKind, u64)>,
    /// The manual tier, if set: name, whether a floor, until.
    pub manual_tier: Option<(Box<str>, bool, Option<Millis>)>,
}

/// Where an account's history begins: newest effect first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryHead {
    /// Last account sequence.
    pub sequence: u64,
    /// Position of the newest effect.
    pub newest: Option<Position>,
    /// Per kind that has any: how many, and where the newest is.
    pub by_kind: Vec<(RecordKind, u64, Position)>,
}

/// How much of an original was reversed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReversedSoFar {
    /// Points, shortfalls included.
    pub points: i64,
    /// Minor units.
    pub amount: i64,
}

/// The answer of an account to one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Executed, now or (replayed) before: rendered from this record.
    Executed {
        /// The record that the answer shows.
        record: Box<Record>,
        /// Whether it was recognized by a key.
        replayed: bool,
    },
    /// Refused.
    Refused(Refusal),
    /// A remembered refusal, replayed with the first request's id.
    RefusedBefore {
        /// The refusal.
        refusal: Refusal,
        /// Named by the remembered answer.
        request_id: RequestId,
    },
    /// A balance, with lots when asked.
    Balance(Box<BalanceView>),
    /// Open holds.
    Holds(Vec<HoldView>),
    /// One hold.
    Hold(HoldView),
    /// The account.
    Account(Box<AccountView>),
    /// A transaction and what was reversed of it.
    Transaction {
        /// The record.
        record: Box<Record>,
        /// Of it so far.
        reversed: ReversedSoFar,
    },
    /// Where history begins.
    HistoryHead(Box<HistoryHead>),
    /// An outcome remembered under a key: the record that renders it (an effect or a Refusal record).
    Outcome(Box<Record>),
    /// The program's document already is this version, or is now.
    Program {
        /// Its number.
        version: u32,
        /// Whether this request made it.
        created: bool,
    },
    /// Everything due is settled.
    Settled,
}
