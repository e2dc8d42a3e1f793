//! Records: what was decided, self-contained. Applying one changes an account; rendering one gives the
//! answer, the event and the history row.

use smallvec::SmallVec;

use crate::command::{References, RequestId, Status};
use crate::ids::{Identity, Position};
use crate::time::Millis;

/// The rendering version that new records carry; renderers of older ones are kept.
pub const RENDERING: u8 = 1;

/// What a record is. Numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// Points awarded.
    Earn = 1,
    /// Points spent, captures included.
    Redeem = 2,
    /// A correction by hand.
    Adjust = 3,
    /// An EARN or REDEEM taken back, whole or in part.
    Reversal = 4,
    /// Points that reached their expiry.
    Expire = 5,
    /// Points pinned.
    Hold = 6,
    /// A hold released: by request, by time-out, by closing.
    Void = 7,
    /// Pending points that became available.
    Activate = 8,
    /// The tier changed, or was set by hand.
    Tier = 9,
    /// The account was opened by request.
    Open = 10,
    /// The status changed.
    Status = 11,
    /// A version of a program.
    Program = 12,
    /// A remembered refusal: no effect, no account sequence.
    Refusal = 32,
    /// A further key for an outcome: no effect, no account sequence.
    Key = 33,
}

impl RecordKind {
    /// Every kind that has an account sequence, a history row and an event.
    pub const EFFECTS: [Self; 12] = [
        Self::Earn,
        Self::Redeem,
        Self::Adjust,
        Self::Reversal,
        Self::Expire,
        Self::Hold,
        Self::Void,
        Self::Activate,
        Self::Tier,
        Self::Open,
        Self::Status,
        Self::Program,
    ];

    /// The kind with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::EFFECTS.into_iter().chain([Self::Refusal, Self::Key]).find(|k| *k as u8 == byte)
    }

    /// Whether it takes an account sequence.
    pub fn is_effect(self) -> bool {
        (self as u8) < Self::Refusal as u8
    }

    /// The `type` of the HTTP contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Earn => "EARN",
            Self::Redeem => "REDEEM",
            Self::Adjust => "ADJUST",
            Self::Reversal => "REVERSAL",
            Self::Expire => "EXPIRE",
            Self::Hold => "HOLD",
            Self::Void => "VOID",
            Self::Activate => "ACTIVATE",
            Self::Tier => "TIER",
            Self::Open => "OPEN",
            Self::Status => "STATUS",
            Self::Program => "PROGRAM",
            Self::Refusal => "REFUSAL",
            Self::Key => "KEY",
        }
    }

    /// The kind with this `type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::EFFECTS.into_iter().find(|k| k.name() == name)
    }
}

/// A lot of a wallet: points with the same expiry instant, pending ones also with the same activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LotKey {
    /// First instant at which the points are gone; [`crate::time::NEVER`] for none.
    pub expires_at: Millis,
    /// When they become available; `None` for a live lot.
    pub activates_at: Option<Millis>,
}

impl LotKey {
    /// A live lot.
    pub fn live(expires_at: Millis) -> Self {
        Self { expires_at, activates_at: None }
    }
}

/// A primitive change of a wallet. Totals, balances and explanations are sums over these; numbers are part
/// of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MoveOp {
    /// Points come into a lot: available, or pending when the lot has an activation.
    Grant = 1,
    /// A pending lot's points become available in the live lot of the same expiry.
    Activate = 2,
    /// Available points leave a lot, or pending ones when the lot has an activation.
    Burn = 3,
    /// Available points become held.
    Hold = 4,
    /// Held points become available.
    Release = 5,
    /// Held points leave.
    Capture = 6,
    /// Available points of a lot reached their expiry; the lot's memory of what expired unspent grows.
    Expire = 7,
    /// A reversal counts points that expired unspent as taken: that memory shrinks, no balance changes.
    CountExpired = 8,
    /// Available points pay debt.
    PayDebt = 9,
    /// Debt grows; no lot.
    Owe = 10,
}

impl MoveOp {
    /// The operation with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        use MoveOp::*;
        [Grant, Activate, Burn, Hold, Release, Capture, Expire, CountExpired, PayDebt, Owe]
            .into_iter()
            .find(|op| *op as u8 == byte)
    }

    /// The word for it in answers and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grant => "granted",
            Self::Activate => "activated",
            Self::Burn => "taken",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Capture => "captured",
            Self::Expire => "expired",
            Self::CountExpired => "expired_before",
            Self::PayDebt => "paid_debt",
            Self::Owe => "owed",
        }
    }
}

/// One primitive change of one lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What happens.
    pub op: MoveOp,
    /// To which lot.
    pub lot: LotKey,
    /// How many points, positive.
    pub points: i64,
}

/// An account's balances, in points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    /// Live lots, held points included, less debt.
    pub total: i64,
    /// Held points.
    pub held: i64,
    /// Pending points.
    pub pending: i64,
    /// Debt, not negative.
    pub debt: i64,
}

impl Balances {
    /// What may be spent; negative while there is debt.
    pub fn available(&self) -> i64 {
        self.total - self.held
    }
}

/// A change of the qualifying spend of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spend {
    /// Month as year × 12 + month − 1, in the program's zone.
    pub month: i32,
    /// Minor units, negative for a reversal.
    pub amount: i64,
}

/// How an EARN came from an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountAward {
    /// Minor units.
    pub amount: i64,
    /// Level of the tier applied, in the version that decided.
    pub applied_tier: u8,
    /// Multiplier applied, in ten-thousandths.
    pub applied_multiplier: u32,
}

/// The redemption inside a till's sale, kept in the sale's EARN so that the answer renders from it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleRedemption {
    /// Position of the REDEEM record.
    pub position: Position,
    /// Points taken, positive.
    pub points: i64,
    /// What it took: (expiry, points).
    pub lots: Vec<(Millis, i64)>,
}

/// Why a hold was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VoidReason {
    /// By request.
    Requested = 0,
    /// Its time to live ended.
    Expired = 1,
    /// The account was closed.
    Closed = 2,
}

impl VoidReason {
    /// The word for it in answers and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Expired => "expired",
            Self::Closed => "closed",
        }
    }
}

/// A tier set or removed by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManualTier {
    /// The level's name; `None` removes.
    pub name: Option<Box<str>>,
    /// Whether it is a floor (set at or above the earned tier) or a ceiling.
    pub floor: bool,
    /// Until when, if not for ever.
    pub until: Option<Millis>,
}

/// What only one kind of record has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Of EXPIRE and OPEN.
    None,
    /// Of EARN.
    Earn {
        /// The lot's expiry or NEVER.
        expires_at: Millis,
        /// The lot's activation, when pending.
        activates_at: Option<Millis>,
        /// When it came from an amount.
        award: Option<AmountAward>,
        /// When the sale redeemed as well.
        redemption: Option<Box<SaleRedemption>>,
    },
    /// Of REDEEM: the hold that it captures.
    Redeem {
        /// The hold, if it is a capture.
        hold: Option<Position>,
    },
    /// Of ADJUST.
    Adjust {
        /// Expiry of the lot of a positive one, or NEVER.
        expires_at: Millis,
        /// Activation of that lot, when pending.
        activates_at: Option<Millis>,
    },
    /// Of REVERSAL.
    Reversal {
        /// The record taken back.
        original: Position,
        /// Its kind: EARN or REDEEM.
        original_kind: RecordKind,
        /// Points of the original reversed so far, this one and shortfalls included.
        reversed_points: i64,
        /// Minor units of the original reversed so far, when it came from an amount.
        reversed_amount: Option<i64>,
        /// Written off by this call.
        shortfall_points: i64,
        /// Of what came back, already past its expiry; or of what was taken, expired unspent before.
        expired_points: i64,
    },
    /// Of HOLD.
    Hold {
        /// When its time to live ends; `None` for a prepared hold of a saga.
        expires_at: Option<Millis>,
    },
    /// Of VOID.
    Void {
        /// The hold.
        hold: Position,
        /// Why.
        reason: VoidReason,
    },
    /// Of ACTIVATE.
    Activate {
        /// Points that became available.
        moved_points: i64,
    },
    /// Of TIER.
    Tier {
        /// Name of the tier before.
        from: Box<str>,
        /// Name of the tier after.
        to: Box<str>,
        /// When set or removed by hand.
        manual: Option<Box<ManualTier>>,
    },
    /// Of STATUS.
    Status {
        /// The status from now on.
        status: Status,
        /// The one before.
        previous: Status,
    },
    /// Of PROGRAM; the version's number is the record's `program_version`.
    Program {
        /// The canonical document.
        document: Box<str>,
    },
    /// Of a remembered `insufficient-points`.
    Refusal {
        /// Available at the time.
        available_points: i64,
        /// Asked for.
        requested_points: i64,
        /// The request that was refused; part of the remembered answer.
        request_id: RequestId,
    },
    /// Of KEY: the outcome that the record's keys lead to.
    Key {
        /// Position of the record whose answer it is.
        target: Position,
    },
}

/// A key that leads to this record's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyBinding {
    /// Keyed hash of the key.
    pub hash: u128,
    /// Whether it is a business key (else an `Idempotency-Key`).
    pub business: bool,
}

/// Optional tagged fields. A reader carries those that it does not know along: they come back as they were and
/// change neither what the record does to its account nor its answer. What would change that needs a new version
/// of the format, or a reader that refuses what it does not know, as with [`extension::WALLET`].
pub mod extension {
    /// Operation id of a saga. Reserved: nobody writes it, readers carry it along.
    pub const OPERATION: u16 = 1;
    /// Role in a saga. Reserved: nobody writes it, readers carry it along.
    pub const SAGA_ROLE: u16 = 2;
    /// Identity of the counter-account. Reserved: nobody writes it, readers carry it along.
    pub const COUNTER_ACCOUNT: u16 = 3;
    /// Name of the wallet; absent: [`POINTS_WALLET`]. A record of any other is refused when it is read.
    pub const WALLET: u16 = 4;
    /// The wallet that there is.
    pub const POINTS_WALLET: &str = "points";
}

/// One journaled record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// How it is rendered.
    pub rendering: u8,
    /// Where it is.
    pub position: Position,
    /// Whose it is.
    pub identity: Identity,
    /// Account sequence, dense from 1 over effects; 0 for a record without effect.
    pub sequence: u64,
    /// Shard sequence of the account's previous effect, 0 for none.
    pub previous: u64,
    /// Shard sequence of the account's previous effect of this kind, 0 for none.
    pub previous_of_kind: u64,
    /// Ours, never going backwards within a shard.
    pub recorded_at: Millis,
    /// The client's, or the due instant of what was due.
    pub occurred_at: Millis,
    /// Version of the program that decided.
    pub program_version: u32,
    /// Newest version of the program when it was recorded: names `tier`.
    pub newest_version: u32,
    /// Change of total + pending.
    pub points: i64,
    /// After the operation, further records of the same operation included.
    pub balances: Balances,
    /// Level of the account's tier after the operation, in `newest_version`.
    pub tier: u8,
    /// What it does to the lots, in order.
    pub moves: SmallVec<[Move; 2]>,
    /// What it does to the qualifying spend.
    pub spend: Option<Spend>,
    /// Keys that lead here.
    pub keys: SmallVec<[KeyBinding; 2]>,
    /// Fingerprint of the request, when there are keys.
    pub fingerprint: u64,
    /// References and free text.
    pub references: Option<Box<References>>,
    /// What only this kind has.
    pub detail: Detail,
    /// Tagged fields (see [`extension`]), in ascending order of tag.
    pub extensions: Vec<(u16, Box<[u8]>)>,
}

impl Record {
    /// What a debit took, as (expiry, points), one entry per lot in the order taken.
    pub fn taken(&self) -> Vec<(Millis, i64)> {
        let mut lots: Vec<(Millis, i64)> = Vec::new();
        for m in &self.moves {
            if matches!(m.op, MoveOp::Burn | MoveOp::Capture) {
                match lots.last_mut().filter(|l| l.0 == m.lot.expires_at) {
                    Some(last) => last.1 += m.points,
                    None => lots.push((m.lot.expires_at, m.points)),
                }
            }
        }
        lots
    }
}
