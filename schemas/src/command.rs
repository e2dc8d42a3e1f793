//! What a client may ask of one account, decoded: ids are resolved, money is in minor units, times are
//! milliseconds. Nothing here depends on the endpoint through which the request came.

use crate::ids::{Identity, Position};
use crate::time::Millis;

/// The request id of the answer's `Request-Id` and of a problem's `instance`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// Made by the node; shown as 16 hexadecimal digits.
    Made(u64),
    /// The client's: 1–128 printable ASCII characters.
    Given(Box<str>),
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Made(number) => write!(f, "{number:016x}"),
            Self::Given(text) => f.write_str(text),
        }
    }
}

/// Keyed 128-bit hashes of the keys that a request carries, each made over its layer, the kind of
/// operation (business keys only) and the key's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Of the `Idempotency-Key`.
    pub idempotency: Option<u128>,
    /// Of the business key.
    pub business: Option<u128>,
}

/// One request to one account.
#[derive(Clone, Debug)]
pub struct Request {
    /// The account, after alias resolution.
    pub identity: Identity,
    /// What is asked.
    pub command: Command,
    /// Under which keys.
    pub keys: Keys,
    /// Keyed hash of [`Command::write_canonical`]; compared when a key is found again.
    pub fingerprint: u64,
    /// Named by a refusal that is remembered.
    pub request_id: RequestId,
    /// W3C trace context, when given.
    pub traceparent: Option<Box<str>>,
}

/// Free text and references that come with an operation: journaled and published, never interpreted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Where the operation comes from.
    pub source: Option<Box<str>>,
    /// The client's reference; a business key of earn, redeem and reverse.
    pub reference_id: Option<Box<str>>,
    /// Free text up to 500 bytes.
    pub description: Option<Box<str>>,
    /// Free text up to 500 bytes.
    pub reason: Option<Box<str>>,
    /// What was redeemed.
    pub reward_id: Option<Box<str>>,
    /// A JSON object up to 4 KiB, without insignificant white space.
    pub metadata: Option<Box<str>>,
    /// The till's store.
    pub store_id: Option<Box<str>>,
    /// The till.
    pub terminal_id: Option<Box<str>>,
    /// The till's `transaction_id`.
    pub pos_transaction_id: Option<Box<str>>,
    /// W3C trace context of the request.
    pub traceparent: Option<Box<str>>,
}

/// What an earn is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// As many points, without multiplier and without spend.
    Points(i64),
    /// An amount of money in minor units: rule and multiplier apply, and it counts as spend.
    Amount(i64),
}

/// An award of points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earn {
    /// Points or money.
    pub basis: Basis,
    /// When it happened, by the client; absent: now.
    pub occurred_at: Option<Millis>,
    /// The lot's expiry; absent: by the program.
    pub expires_at: Option<Millis>,
    /// The lot's activation; absent: by the program.
    pub activates_at: Option<Millis>,
}

/// How much a reversal takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// All that is left.
    Rest,
    /// Of the original's money, in minor units.
    Amount(i64),
    /// Of the original's points.
    Points(i64),
}

/// An account's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Everything is allowed.
    Active = 0,
    /// Redeem, hold and capture are refused.
    Frozen = 1,
    /// All but void, reads and a change of status is refused.
    Closed = 2,
}

impl Status {
    /// The status with this number in the record format.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Active, Self::Frozen, Self::Closed].into_iter().find(|s| *s as u8 == byte)
    }

    /// The word of the HTTP contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Closed => "closed",
        }
    }

    /// The status with this word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Frozen, Self::Closed].into_iter().find(|s| s.name() == name)
    }
}

/// What is asked of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Award points.
    Earn {
        /// The award.
        earn: Earn,
        /// References.
        references: Option<Box<References>>,
    },
    /// Spend available points.
    Redeem {
        /// How many, at least 1.
        points: i64,
        /// When it happened, by the client.
        occurred_at: Option<Millis>,
        /// References.
        references: Option<Box<References>>,
    },
    /// Correct a balance by hand.
    Adjust {
        /// How many, not 0.
        points: i64,
        /// Expiry of the lot of a positive adjustment; absent: by the program.
        expires_at: Option<Millis>,
        /// References.
        references: Option<Box<References>>,
    },
    /// A till's sale: redeems first, if asked, then awards on the amount.
    Sale {
        /// The sale's amount in minor units.
        amount: i64,
        /// Points to redeem in the same operation.
        redeem_points: Option<i64>,
        /// The till's time of the sale.
        occurred_at: Millis,
        /// References; store and till transaction are always there.
        references: Option<Box<References>>,
    },
    /// A till's return of goods: the reversal of the sale that has the business key `sale`.
    SaleReturn {
        /// Hash of the sale's business key.
        sale: u128,
        /// Amount returned, in minor units; absent: all that is left.
        portion: Portion,
        /// The till's time of the return.
        occurred_at: Option<Millis>,
        /// References.
        references: Option<Box<References>>,
    },
    /// Reverse an EARN or REDEEM.
    Reverse {
        /// The original.
        original: Position,
        /// How much of it.
        portion: Portion,
        /// When it happened, by the client.
        occurred_at: Option<Millis>,
        /// References.
        references: Option<Box<References>>,
    },
    /// Pin points for a later capture.
    Hold {
        /// How many, at least 1.
        points: i64,
        /// Time to live; absent: the program's default.
        ttl_seconds: Option<i64>,
        /// References.
        references: Option<Box<References>>,
    },
    /// Redeem what a hold pinned.
    Capture {
        /// The hold.
        hold: Position,
        /// How many; absent: all.
        points: Option<i64>,
        /// References.
        references: Option<Box<References>>,
    },
    /// Release what a hold pinned.
    Void {
        /// The hold.
        hold: Position,
        /// References.
        references: Option<Box<References>>,
    },
    /// Open the account (PUT).
    Open,
    /// Change its status (PATCH).
    SetStatus {
        /// The new status.
        status: Status,
        /// References.
        references: Option<Box<References>>,
    },
    /// Set or remove a tier by hand.
    SetTier {
        /// The tier's name; `None` removes the manual tier.
        tier: Option<Box<str>>,
        /// Until when it holds; absent: for ever.
        until: Option<Millis>,
        /// References.
        references: Option<Box<References>>,
    },
    /// A new version of a program, addressed to the program's own account.
    PutProgram {
        /// The canonical document.
        document: Box<str>,
    },
    /// Settle what is due; asked by the sweep, never by a client.
    Settle,
    /// The balance.
    Balance,
    /// The balance with its lots.
    Lots,
    /// The open holds.
    Holds,
    /// One hold.
    HoldStatus {
        /// Which.
        hold: Position,
    },
    /// Status, tier, counts.
    Account,
    /// One transaction with its explanation.
    Transaction {
        /// Which.
        position: Position,
    },
    /// Where the account's history begins, for listing.
    HistoryHead,
    /// The outcome remembered under one of the request's keys.
    Outcome,
}

/// The place of the references in a command, borrowed as the command is.
macro_rules! place_of_references {
    ($command:expr) => {
        match $command {
            Command::Earn { references, .. }
            | Command::Redeem { references, .. }
            | Command::Adjust { references, .. }
            | Command::Sale { references, .. }
            | Command::SaleReturn { references, .. }
            | Command::Reverse { references, .. }
            | Command::Hold { references, .. }
            | Command::Capture { references, .. }
            | Command::Void { references, .. }
            | Command::SetStatus { references, .. }
            | Command::SetTier { references, .. } => Some(references),
            _ => None,
        }
    };
}

impl Command {
    /// Whether it only reads: needs no key and writes nothing but what was due.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Settle
                | Self::Balance
                | Self::Lots
                | Self::Holds
                | Self::HoldStatus { .. }
                | Self::Account
                | Self::Transaction { .. }
                | Self::HistoryHead
                | Self::Outcome
        )
    }

    /// The references, of a command that has some.
    pub fn references(&self) -> Option<&References> {
        place_of_references!(self)?.as_deref()
    }

    /// The place of the references, in a command that can have them.
    pub fn references_mut(&mut self) -> Option<&mut Option<Box<References>>> {
        place_of_references!(self)
    }

    /// Appends the command by value, for the fingerprint: every member that makes two requests different,
    /// in one form whatever the endpoint; descriptions, metadata and trace context are left out.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, value: i64| out.extend_from_slice(&value.to_le_bytes());
        let option = |out: &mut Vec<u8>, value: Option<i64>| match value {
            Some(value) => {
                out.push(1);
                out.extend_from_slice(&value.to_le_bytes());
            }
            None => out.push(0),
        };
        let portion = |out: &mut Vec<u8>, portion: &Portion| match portion {
            Portion::Rest => out.push(0),
            Portion::Amount(amount) => {
                out.push(1);
                out.extend_from_slice(&amount.to_le_bytes());
            }
            Portion::Points(points) => {
                out.push(2);
                out.extend_from_slice(&points.to_le_bytes());
            }
        };
        let references = match self {
            Self::Earn { earn, references } => {
                let (tag, value) = match earn.basis {
                    Basis::Points(points) => (1, points),
                    Basis::Amount(amount) => (2, amount),
                };
                out.push(tag);
                number(out, value);
                option(out, earn.occurred_at);
                option(out, earn.expires_at);
                option(out, earn.activates_at);
                references
            }
            Self::Redeem { points, occurred_at, references } => {
                out.push(3);
                number(out, *points);
                option(out, *occurred_at);
                references
            }
            Self::Adjust { points, expires_at, references } => {
                out.push(4);
                number(out, *points);
                option(out, *expires_at);
                references
            }
            Self::Sale { amount, redeem_points, occurred_at, references } => {
                out.push(5);
                number(out, *amount);
                option(out, *redeem_points);
                number(out, *occurred_at);
                references
            }
            Self::SaleReturn { sale, portion: part, occurred_at, references } => {
                out.push(6);
                out.extend_from_slice(&sale.to_le_bytes());
                portion(out, part);
                option(out, *occurred_at);
                references
            }
            Self::Reverse { original, portion: part, occurred_at, references } => {
                out.push(7);
                out.extend_from_slice(&original.to_u64().to_le_bytes());
                portion(out, part);
                option(out, *occurred_at);
                references
            }
            Self::Hold { points, ttl_seconds, references } => {
                out.push(8);
                number(out, *points);
                option(out, *ttl_seconds);
                references
            }
            Self::Capture { hold, points, references } => {
                out.push(9);
                out.extend_from_slice(&hold.to_u64().to_le_bytes());
                option(out, *points);
                references
            }
            Self::Void { hold, references } => {
                out.push(10);
                out.extend_from_slice(&hold.to_u64().to_le_bytes());
                references
            }
            Self::SetStatus { status, references } => {
                out.extend_from_slice(&[11, *status as u8]);
                references
            }
            Self::SetTier { tier, until, references } => {
                out.push(12);
                text(out, tier.as_deref());
                option(out, *until);
                references
            }
            _ => return,
        };
        if let Some(references) = references {
            references.write_canonical(out);
        }
    }
}

impl References {
    /// Appends what is compared of them; nothing when they have none of it, as a request that has no references at all.
    fn write_canonical(&self, out: &mut Vec<u8>) {
        let compared = [
            &self.source,
            &self.reference_id,
            &self.reason,
            &self.reward_id,
            &self.store_id,
            &self.terminal_id,
            &self.pos_transaction_id,
        ];
        if compared.iter().any(|part| part.is_some()) {
            compared.iter().for_each(|part| text(out, part.as_deref()));
        }
    }
}

/// Appends an optional text with its length, so that no two sequences of texts have one form.
fn text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => {
            out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        None => out.extend_from_slice(&[0; 4]),
    }
}
