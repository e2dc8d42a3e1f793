//! One request's body to a command, strictly: every member known, given once and within its bounds.

use std::borrow::Cow;

use super::BadRequest;
use super::keys::{BusinessKey, KeyKind, idempotency_key};
use super::members::{Field, Fields, Members, required};
use crate::command::{Basis, Command, Earn, Portion, References, Status};
use crate::ids::Position;
use crate::money::{Currency, POINTS_MAX};

/// What a body asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `POST …/earn`.
    Earn,
    /// `POST …/redeem`.
    Redeem,
    /// `POST …/adjust`.
    Adjust,
    /// `POST /api/v1/pos/transaction`.
    Pos,
    /// `POST /api/v1/pos/return`.
    PosReturn,
    /// `POST …/holds`.
    Hold,
    /// `POST …/holds/{hold_id}/capture`.
    Capture,
    /// `POST …/holds/{hold_id}/void`.
    Void,
    /// `POST …/transactions/{transaction_id}/reverse`.
    Reverse,
    /// `PATCH /api/v1/accounts/{account}`.
    SetStatus,
    /// `PUT /api/v1/admin/users/{account}/tier`.
    SetTier,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Earn,
        Self::Redeem,
        Self::Adjust,
        Self::Pos,
        Self::PosReturn,
        Self::Hold,
        Self::Capture,
        Self::Void,
        Self::Reverse,
        Self::SetStatus,
        Self::SetTier,
    ];

    /// The operation of a batch item's `op`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "earn" => Self::Earn,
            "redeem" => Self::Redeem,
            "adjust" => Self::Adjust,
            "pos" => Self::Pos,
            "pos_return" => Self::PosReturn,
            "hold" => Self::Hold,
            "capture" => Self::Capture,
            "void" => Self::Void,
            "reverse" => Self::Reverse,
            _ => return None,
        })
    }

    /// Whether its body names the account, as `user_identifier`.
    pub fn is_till(self) -> bool {
        matches!(self, Self::Pos | Self::PosReturn)
    }

    /// Whether a request without any key is refused with `idempotency-key-missing`.
    pub fn needs_key(self) -> bool {
        !matches!(self, Self::SetStatus | Self::SetTier)
    }

    pub(super) fn members(self) -> Fields {
        use Field::*;
        match self {
            Self::Earn => {
                const {
                    Fields::of(&[
                        Points,
                        Amount,
                        Source,
                        ReferenceId,
                        Description,
                        OccurredAt,
                        ExpiresAt,
                        ActivatesAt,
                        Metadata,
                    ])
                }
            }
            Self::Redeem => {
                const { Fields::of(&[Points, RewardId, Source, ReferenceId, Description, OccurredAt, Metadata]) }
            }
            Self::Adjust => const { Fields::of(&[Points, Reason, ReferenceId, ExpiresAt, Metadata]) },
            Self::Pos => {
                const {
                    Fields::of(&[
                        StoreId,
                        TransactionId,
                        UserIdentifier,
                        Amount,
                        Timestamp,
                        TerminalId,
                        Currency,
                        RedeemPoints,
                        Metadata,
                    ])
                }
            }
            Self::PosReturn => {
                const {
                    Fields::of(&[
                        StoreId,
                        TerminalId,
                        OriginalTransactionId,
                        TransactionId,
                        Amount,
                        Timestamp,
                        UserIdentifier,
                        Currency,
                        Reason,
                        Metadata,
                    ])
                }
            }
            Self::Hold => const { Fields::of(&[Points, TtlSeconds, ReferenceId, Description, Metadata]) },
            Self::Capture => const { Fields::of(&[Points, RewardId, Source, ReferenceId, Description, Metadata]) },
            Self::Void => const { Fields::of(&[Source, ReferenceId, Description, Metadata]) },
            Self::Reverse => const { Fields::of(&[Amount, Points, Reason, ReferenceId, OccurredAt, Metadata]) },
            Self::SetStatus => const { Fields::of(&[Field::Status, Reason]) },
            Self::SetTier => const { Fields::of(&[NewTier, Reason, Until]) },
        }
    }
}

/// A request, read from its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The account id or alias that the body names, as it came: always of tills and batch items.
    pub account: Option<Cow<'a, str>>,
    /// Of a batch item, without quotes.
    pub idempotency_key: Option<Cow<'a, str>>,
    /// The command. Of a return, [`Decoded::set_sale`] completes it.
    pub command: Command,
    /// Of a return: the till's transaction that is given back.
    original_transaction_id: Option<Box<str>>,
}

impl Decoded<'_> {
    /// The business key, if the body has one.
    pub fn business_key(&self) -> Option<BusinessKey<'_>> {
        let (Command::Earn { references, .. }
        | Command::Redeem { references, .. }
        | Command::Sale { references, .. }
        | Command::SaleReturn { references, .. }
        | Command::Reverse { references, .. }) = &self.command
        else {
            return None;
        };
        let references = references.as_deref()?;
        let reference = |kind, source| Some(BusinessKey::reference(kind, references.reference_id.as_deref()?, source));
        match self.operation {
            Operation::Earn => reference(KeyKind::Earn, references.source.as_deref()),
            Operation::Redeem => reference(KeyKind::Redeem, references.source.as_deref()),
            Operation::Reverse => reference(KeyKind::Reverse, None),
            _ => Some(BusinessKey::till(
                references.store_id.as_deref()?,
                references.terminal_id.as_deref(),
                references.pos_transaction_id.as_deref()?,
            )),
        }
    }

    /// Of a return: the business key of the sale. Its hash goes to [`Decoded::set_sale`] before the command
    /// is used.
    pub fn sale_key(&self) -> Option<BusinessKey<'_>> {
        let Command::SaleReturn { references: Some(references), .. } = &self.command else { return None };
        let original = self.original_transaction_id.as_deref()?;
        Some(BusinessKey::till(references.store_id.as_deref()?, references.terminal_id.as_deref(), original))
    }

    /// Puts the hash of [`Decoded::sale_key`] into a return's command; no other command has one.
    pub fn set_sale(&mut self, hash: u128) {
        if let Command::SaleReturn { sale, .. } = &mut self.command {
            *sale = hash;
        }
    }
}

/// The position that a hold or transaction id in a path or item names. What is no such id names the
/// position that no record has, so that it is refused as unknown, in its turn, and not as malformed.
pub fn subject(id: &str) -> Position {
    Position::parse(id).unwrap_or_default()
}

/// Reads a body. `subject` is the hold or transaction that the path names; other operations ignore it.
///
/// # Errors
/// The first member that is unknown, given twice, missing, of a wrong type or out of its bounds, or `body`
/// when the bytes are no JSON object.
pub fn decode(
    operation: Operation,
    body: &[u8],
    subject: Position,
    currency: Currency,
) -> Result<Decoded<'_>, BadRequest> {
    let members = Members::read_body(body)?;
    members.only(operation.members())?;
    operation_of(operation, &members, subject, currency)
}

/// Reads the body of `POST /api/v1/accounts/lookup`: the identifier as it came.
///
/// # Errors
/// As [`decode()`].
pub fn decode_lookup(body: &[u8]) -> Result<Cow<'_, str>, BadRequest> {
    let members = Members::read_body(body)?;
    members.only(const { Fields::of(&[Field::UserIdentifier]) })?;
    required(Field::UserIdentifier, members.identifier(Field::UserIdentifier)?)
}

/// Reads the body of a request that has no members: none, or an empty object.
///
/// # Errors
/// As [`decode()`].
pub fn decode_nothing(body: &[u8]) -> Result<(), BadRequest> {
    Members::read_body(body)?.only(const { Fields::of(&[]) })
}

/// Reads a batch item.
pub(super) fn decode_item(
    text: &str,
    default: Option<Operation>,
    currency: Currency,
) -> Result<Decoded<'_>, BadRequest> {
    let members = Members::read(text)?;
    let operation = match members.string(Field::Op)? {
        Some(name) => Operation::from_name(&name).ok_or_else(|| BadRequest::new("op", OPERATIONS))?,
        None => required(Field::Op, default)?,
    };
    const COMMON: Fields = Fields::of(&[Field::Op, Field::IdempotencyKey]);
    let path = match operation {
        Operation::Pos | Operation::PosReturn => const { Fields::of(&[]) },
        Operation::Capture | Operation::Void => const { Fields::of(&[Field::Account, Field::HoldId]) },
        Operation::Reverse => const { Fields::of(&[Field::Account, Field::ReverseTransactionId]) },
        _ => const { Fields::of(&[Field::Account]) },
    };
    members.only(COMMON.and(path).and(operation.members()))?;
    let named = |field| Ok(subject(&required(field, members.string(field)?)?));
    let position = match operation {
        Operation::Capture | Operation::Void => named(Field::HoldId)?,
        Operation::Reverse => named(Field::ReverseTransactionId)?,
        _ => Position::default(),
    };
    let mut decoded = operation_of(operation, &members, position, currency)?;
    if !operation.is_till() {
        decoded.account = Some(required(Field::Account, members.identifier(Field::Account)?)?);
    }
    decoded.idempotency_key = members.string(Field::IdempotencyKey)?.map(bare_key).transpose()?;
    Ok(decoded)
}

const OPERATIONS: &str = "must be earn, redeem, adjust, pos, pos_return, hold, capture, void or reverse";

fn bare_key(key: Cow<'_, str>) -> Result<Cow<'_, str>, BadRequest> {
    let named = |error: BadRequest| BadRequest::new(Field::IdempotencyKey.name(), error.detail);
    Ok(match key {
        Cow::Borrowed(text) => Cow::Borrowed(idempotency_key(text.as_bytes()).map_err(named)?),
        Cow::Owned(text) => Cow::Owned(idempotency_key(text.as_bytes()).map_err(named)?.to_owned()),
    })
}

fn operation_of<'a>(
    operation: Operation,
    members: &Members<'a>,
    subject: Position,
    currency: Currency,
) -> Result<Decoded<'a>, BadRequest> {
    let command = match operation {
        Operation::Earn => earn(members, currency)?,
        Operation::Redeem => Command::Redeem {
            points: required(Field::Points, points(members, Field::Points)?)?,
            occurred_at: members.time(Field::OccurredAt)?,
            references: references(members)?,
        },
        Operation::Adjust => adjust(members)?,
        Operation::Pos => return sale(members, currency),
        Operation::PosReturn => return sale_return(members, currency),
        Operation::Hold => Command::Hold {
            points: required(Field::Points, points(members, Field::Points)?)?,
            ttl_seconds: members.integer(Field::TtlSeconds, 1..=i64::MAX)?,
            references: references(members)?,
        },
        Operation::Capture => Command::Capture {
            hold: subject,
            points: points(members, Field::Points)?,
            references: references(members)?,
        },
        Operation::Void => Command::Void { hold: subject, references: references(members)? },
        Operation::Reverse => Command::Reverse {
            original: subject,
            portion: portion(members, currency)?,
            occurred_at: members.time(Field::OccurredAt)?,
            references: references(members)?,
        },
        Operation::SetStatus => set_status(members)?,
        Operation::SetTier => set_tier(members)?,
    };
    Ok(Decoded { operation, account: None, idempotency_key: None, command, original_transaction_id: None })
}

fn points(members: &Members<'_>, field: Field) -> Result<Option<i64>, BadRequest> {
    members.integer(field, 1..=POINTS_MAX)
}

fn earn(members: &Members<'_>, currency: Currency) -> Result<Command, BadRequest> {
    const ONE_OF: &str = "is required, or `amount` instead: exactly one of the two";
    let basis = match (points(members, Field::Points)?, members.amount(Field::Amount, currency)?) {
        (Some(points), None) => Basis::Points(points),
        (None, Some(amount)) => Basis::Amount(amount),
        (None, None) => return Err(BadRequest::new("points", ONE_OF)),
        (Some(_), Some(_)) => return Err(BadRequest::new("amount", "cannot come with `points`: give one of the two")),
    };
    Ok(Command::Earn {
        earn: Earn {
            basis,
            occurred_at: members.time(Field::OccurredAt)?,
            expires_at: members.time(Field::ExpiresAt)?,
            activates_at: members.time(Field::ActivatesAt)?,
        },
        references: references(members)?,
    })
}

fn adjust(members: &Members<'_>) -> Result<Command, BadRequest> {
    let points = required(Field::Points, members.integer(Field::Points, -POINTS_MAX..=POINTS_MAX)?)?;
    let expires_at = members.time(Field::ExpiresAt)?;
    if points == 0 {
        return Err(BadRequest::new("points", "must not be 0"));
    }
    if points < 0 && expires_at.is_some() {
        return Err(BadRequest::new("expires_at", "is only for a positive adjustment"));
    }
    Ok(Command::Adjust { points, expires_at, references: references(members)? })
}

fn sale<'a>(members: &Members<'a>, currency: Currency) -> Result<Decoded<'a>, BadRequest> {
    let account = till(members, currency)?;
    let amount = required(Field::Amount, members.amount(Field::Amount, currency)?)?;
    let occurred_at = required(Field::Timestamp, members.time(Field::Timestamp)?)?;
    let redeem_points = points(members, Field::RedeemPoints)?;
    let command = Command::Sale { amount, redeem_points, occurred_at, references: references(members)? };
    Ok(Decoded {
        operation: Operation::Pos,
        account: Some(account),
        idempotency_key: None,
        command,
        original_transaction_id: None,
    })
}

fn sale_return<'a>(members: &Members<'a>, currency: Currency) -> Result<Decoded<'a>, BadRequest> {
    let account = till(members, currency)?;
    let original = required(Field::OriginalTransactionId, members.reference(Field::OriginalTransactionId)?)?;
    let portion = members.amount(Field::Amount, currency)?.map_or(Portion::Rest, Portion::Amount);
    let occurred_at = members.time(Field::Timestamp)?;
    let command = Command::SaleReturn { sale: 0, portion, occurred_at, references: references(members)? };
    Ok(Decoded {
        operation: Operation::PosReturn,
        account: Some(account),
        idempotency_key: None,
        command,
        original_transaction_id: Some(original),
    })
}

/// What every till request must have, and the account that it names.
fn till<'a>(members: &Members<'a>, currency: Currency) -> Result<Cow<'a, str>, BadRequest> {
    for field in [Field::StoreId, Field::TransactionId] {
        if !members.has(field) {
            return required(field, None);
        }
    }
    let named = members.string(Field::Currency)?;
    if currency.is_known() && named.is_some_and(|code| code != currency.code()) {
        return Err(BadRequest::new("currency", format!("must be {}, the program's", currency.code())));
    }
    required(Field::UserIdentifier, members.identifier(Field::UserIdentifier)?)
}

fn portion(members: &Members<'_>, currency: Currency) -> Result<Portion, BadRequest> {
    match (members.amount(Field::Amount, currency)?, points(members, Field::Points)?) {
        (None, None) => Ok(Portion::Rest),
        (Some(amount), None) => Ok(Portion::Amount(amount)),
        (None, Some(points)) => Ok(Portion::Points(points)),
        (Some(_), Some(_)) => Err(BadRequest::new("amount", "cannot come with `points`: give at most one of the two")),
    }
}

fn set_status(members: &Members<'_>) -> Result<Command, BadRequest> {
    let name = required(Field::Status, members.string(Field::Status)?)?;
    match Status::from_name(&name) {
        Some(status) => Ok(Command::SetStatus { status, references: references(members)? }),
        None => Err(BadRequest::new("status", "must be active, frozen or closed")),
    }
}

fn set_tier(members: &Members<'_>) -> Result<Command, BadRequest> {
    // Null removes the tier set by hand, so it is not the same as absent here.
    required(Field::NewTier, members.get_or_null(Field::NewTier))?;
    let tier = members.reference(Field::NewTier)?;
    let until = members.time(Field::Until)?;
    if tier.is_none() && until.is_some() {
        return Err(BadRequest::new("until", "is only for a tier that is set, not for its removal"));
    }
    Ok(Command::SetTier { tier, until, references: references(members)? })
}

/// The references of any operation: which of them it may have is settled before. Boxed only when there is
/// one.
fn references(members: &Members<'_>) -> Result<Option<Box<References>>, BadRequest> {
    const REFERENCES: Fields = Fields::of(&[
        Field::Source,
        Field::ReferenceId,
        Field::Description,
        Field::Reason,
        Field::RewardId,
        Field::Metadata,
        Field::StoreId,
        Field::TerminalId,
        Field::TransactionId,
    ]);
    if !members.has_any(REFERENCES) {
        return Ok(None);
    }
    Ok(Some(Box::new(References {
        source: members.reference(Field::Source)?,
        reference_id: members.reference(Field::ReferenceId)?,
        description: members.text(Field::Description)?,
        reason: members.text(Field::Reason)?,
        reward_id: members.reference(Field::RewardId)?,
        metadata: members.metadata()?,
        store_id: members.id(Field::StoreId)?,
        terminal_id: members.id(Field::TerminalId)?,
        pos_transaction_id: members.reference(Field::TransactionId)?,
        traceparent: None,
    })))
}
