//! Events: what others are told of one effect, as a CloudEvent with JSON data.
//!
//! An event is rendered from a record and the immutable program versions that it names, never from an
//! account's state: sent again, it is the same bytes. It carries no alias and no redemption code.
//! There is one rendering so far; a change of what it writes for a record that exists is a new value of
//! `record.rendering` with a renderer of its own beside this one.

mod attributes;
mod data;
pub mod cursor;

pub use attributes::{Attribute, Attributes, MEDIA_TYPE, SPEC_VERSION, write_structured};
pub use data::{Balance, write_balance, write_data};

use crate::ids::Identity;
use crate::program::Document;
use crate::record::{Detail, Record, RecordKind};

/// The topic of all events, and the version of what they mean.
pub const EVENTS_TOPIC: &str = "loyalty.account.events.v1";
/// The compacted topic of the newest balances.
pub const BALANCES_TOPIC: &str = "loyalty.account.balances.v1";

/// The two program versions that rendering needs. Nothing of them ever changes for a given record.
#[derive(Clone, Copy, Debug)]
pub struct Documents<'a> {
    /// The version that decided: the record's `program_version`.
    pub decided: &'a Document,
    /// The newest when it was recorded, which names the tier: the record's `newest_version`.
    pub newest: &'a Document,
}

/// What an event says happened. The names are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventType {
    /// Points awarded.
    PointsEarned,
    /// Points spent, captures included.
    PointsRedeemed,
    /// A correction by hand.
    PointsAdjusted,
    /// An award or redemption taken back.
    PointsReversed,
    /// Points that reached their expiry.
    PointsExpired,
    /// Points pinned by a hold.
    PointsHeld,
    /// A hold released.
    PointsReleased,
    /// Pending points that became available.
    PointsActivated,
    /// The tier is a higher one.
    TierUpgraded,
    /// The tier is a lower one.
    TierDowngraded,
    /// The tier was set or removed by hand and is the same.
    TierConfirmed,
    /// The account was opened by request.
    AccountOpened,
    /// The account's status changed.
    AccountStatusChanged,
    /// A version of a program.
    ProgramVersioned,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 14] = [
        Self::PointsEarned,
        Self::PointsRedeemed,
        Self::PointsAdjusted,
        Self::PointsReversed,
        Self::PointsExpired,
        Self::PointsHeld,
        Self::PointsReleased,
        Self::PointsActivated,
        Self::TierUpgraded,
        Self::TierDowngraded,
        Self::TierConfirmed,
        Self::AccountOpened,
        Self::AccountStatusChanged,
        Self::ProgramVersioned,
    ];

    /// The type of a record's event; `None` for a record without effect, which has no event.
    pub fn of(record: &Record, documents: Documents<'_>) -> Option<Self> {
        Some(match record.kind {
            RecordKind::Earn => Self::PointsEarned,
            RecordKind::Redeem => Self::PointsRedeemed,
            RecordKind::Adjust => Self::PointsAdjusted,
            RecordKind::Reversal => Self::PointsReversed,
            RecordKind::Expire => Self::PointsExpired,
            RecordKind::Hold => Self::PointsHeld,
            RecordKind::Void => Self::PointsReleased,
            RecordKind::Activate => Self::PointsActivated,
            RecordKind::Tier => of_tier(&record.detail, documents.newest),
            RecordKind::Open => Self::AccountOpened,
            RecordKind::Status => Self::AccountStatusChanged,
            RecordKind::Program => Self::ProgramVersioned,
            RecordKind::Refusal | RecordKind::Key => return None,
        })
    }

    /// The `type` of the CloudEvent.
    pub fn name(self) -> &'static str {
        match self {
            Self::PointsEarned => "points.earned",
            Self::PointsRedeemed => "points.redeemed",
            Self::PointsAdjusted => "points.adjusted",
            Self::PointsReversed => "points.reversed",
            Self::PointsExpired => "points.expired",
            Self::PointsHeld => "points.held",
            Self::PointsReleased => "points.released",
            Self::PointsActivated => "points.activated",
            Self::TierUpgraded => "tier.upgraded",
            Self::TierDowngraded => "tier.downgraded",
            Self::TierConfirmed => "tier.confirmed",
            Self::AccountOpened => "account.opened",
            Self::AccountStatusChanged => "account.status-changed",
            Self::ProgramVersioned => "program.versioned",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}

/// A tier that the newest version does not have any more is below all that it has.
fn of_tier(detail: &Detail, newest: &Document) -> EventType {
    let Detail::Tier { from, to, .. } = detail else { return EventType::TierConfirmed };
    match newest.level_named(to).cmp(&newest.level_named(from)) {
        std::cmp::Ordering::Greater => EventType::TierUpgraded,
        std::cmp::Ordering::Less => EventType::TierDowngraded,
        std::cmp::Ordering::Equal => EventType::TierConfirmed,
    }
}

/// Appends the key of an account in the stream: `program/kind/account`. It is the key of both topics.
pub fn write_key(out: &mut Vec<u8>, identity: &Identity) {
    out.extend_from_slice(identity.program().as_bytes());
    out.push(b'/');
    out.extend_from_slice(identity.kind().name().as_bytes());
    out.push(b'/');
    out.extend_from_slice(identity.id().as_bytes());
}
