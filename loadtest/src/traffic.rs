//! What is asked: operations drawn from the mix, their requests as bytes, and what an answer to one must say.

mod draw;
mod encode;
mod replay;

use serde::{Deserialize, Serialize};

pub(crate) use draw::Traffic;
pub(crate) use encode::{Heads, account_name, request_key};
pub(crate) use replay::{Purchase, purchases};

use crate::answer::Effect;

macro_rules! operations {
    ($($kind:ident $name:literal,)*) => {
        /// What one request does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum Operation { $($kind,)* }

        /// All of them, in the order of their numbers.
        pub(crate) const OPERATIONS: &[Operation] = &[$(Operation::$kind,)*];

        impl Operation {
            /// As it is written in scenarios and reports.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

operations! {
    EarnPoints "earn-points",
    EarnAmount "earn-amount",
    Redeem "redeem",
    Balance "balance",
    Hold "hold",
    Capture "capture",
    Void "void",
    Reverse "reverse",
    Pos "pos",
    Batch "batch",
}

impl Operation {
    /// The status of success.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Balance | Self::Void => 200,
            Self::Batch => 207,
            _ => 201,
        }
    }

    /// Whether it changes anything.
    pub(crate) fn writes(self) -> bool {
        self != Self::Balance
    }
}

/// One request before it has bytes. The same plan gives the same bytes, so a retry is the same operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) operation: Operation,
    pub(crate) account: u32,
    /// The last part of the key; a batch takes one number per item, this is the first.
    pub(crate) number: u64,
    /// Points asked for; of an amount, whole units of money times 100 are in `amount_minor`.
    pub(crate) points: u32,
    pub(crate) amount_minor: u64,
    /// `timestamp` of a till sale, milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// The hold or transaction that it is about.
    pub(crate) about: Option<Box<str>>,
}

impl Planned {
    /// Whether kind and points of the transaction are what was asked for. Only what the request alone decides is compared: an award from
    /// an amount depends on program and tier.
    pub(crate) fn is_answered_by(&self, effect: &Effect<'_>) -> bool {
        let points = i64::from(self.points);
        let (kind, expected) = match self.operation {
            Operation::EarnPoints | Operation::Batch => ("EARN", Some(points)),
            Operation::EarnAmount | Operation::Pos => ("EARN", None),
            Operation::Redeem | Operation::Capture => ("REDEEM", Some(-points)),
            Operation::Hold => ("HOLD", Some(0)),
            Operation::Void => ("VOID", Some(0)),
            Operation::Reverse => ("REVERSAL", None),
            Operation::Balance => return false,
        };
        let is_held = self.operation != Operation::Hold || effect.hold_points == Some(points);
        effect.kind == kind && expected.is_none_or(|expected| effect.points == expected) && is_held
    }

    /// By how much the held points of the account change when it is executed: what ends a hold ends all of it.
    pub(crate) fn held(&self) -> i64 {
        match self.operation {
            Operation::Hold => i64::from(self.points),
            Operation::Capture | Operation::Void => -i64::from(self.points),
            _ => 0,
        }
    }
}
