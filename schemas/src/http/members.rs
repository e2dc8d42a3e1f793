//! The members of a request's JSON object, each known and given once, and their values read exactly from
//! their text: no number passes through a float.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{decode_string, is_reference, shown_name};
use super::{BadRequest, metadata};
use crate::ids;
use crate::money::{self, Currency};
use crate::time::{self, Millis};

/// Longest `description` or `reason`, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 500;
/// Longest account identifier in a body, in bytes: an account id or an alias, which the caller checks.
pub(super) const IDENTIFIER_BYTES_MAX: usize = 512;
/// 0000-01-01T00:00:00.000Z: outside of four-digit years an instant cannot be shown.
const INSTANT_MIN: Millis = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const INSTANT_MAX: Millis = 253_402_300_799_999;

macro_rules! fields {
    ($($field:ident $name:literal)*) => {
        /// Every member that any request has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Field { $($field),* }

        impl Field {
            /// In the order of their bits.
            const ALL: &'static [Self] = &[$(Self::$field),*];
            const COUNT: usize = Self::ALL.len();

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$field => $name),* }
            }

            fn from_name(name: &str) -> Option<Self> {
                Some(match name { $($name => Self::$field,)* _ => return None })
            }
        }
    };
}

fields! {
    Points "points"
    Amount "amount"
    Source "source"
    ReferenceId "reference_id"
    Description "description"
    Reason "reason"
    RewardId "reward_id"
    Metadata "metadata"
    OccurredAt "occurred_at"
    ExpiresAt "expires_at"
    ActivatesAt "activates_at"
    TtlSeconds "ttl_seconds"
    StoreId "store_id"
    TerminalId "terminal_id"
    TransactionId "transaction_id"
    OriginalTransactionId "original_transaction_id"
    UserIdentifier "user_identifier"
    Timestamp "timestamp"
    Currency "currency"
    RedeemPoints "redeem_points"
    Status "status"
    NewTier "new_tier"
    Until "until"
    Op "op"
    Account "account"
    IdempotencyKey "idempotency_key"
    HoldId "hold_id"
    ReverseTransactionId "reverse_transaction_id"
}

/// A set of members, a bit each.
#[derive(Clone, Copy)]
pub(super) struct Fields(u32);

impl Fields {
    pub(super) const fn of(fields: &[Field]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < fields.len() {
            bits |= 1 << fields[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The members of one object. `null` is the same as absent, except for [`Members::get_or_null`].
pub(super) struct Members<'a> {
    values: [Option<&'a RawValue>; Field::COUNT],
    seen: Fields,
}

impl<'a> Members<'a> {
    /// Reads an object whose members are known to some request. [`Members::only`] says which are meant.
    pub(super) fn read(text: &'a str) -> Result<Self, BadRequest> {
        let mut problem = None;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let visitor = MembersVisitor { problem: &mut problem };
        let members = deserializer.deserialize_map(visitor).and_then(|members| {
            deserializer.end()?;
            Ok(members)
        });
        members.map_err(|error| problem.unwrap_or_else(|| unreadable(text, &error)))
    }

    /// The same for a whole body. No bytes, or white space alone, is an object without members.
    pub(super) fn read_body(body: &'a [u8]) -> Result<Self, BadRequest> {
        let text = std::str::from_utf8(body).map_err(|_| BadRequest::body("must be UTF-8"))?;
        if text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
            return Ok(Self::none());
        }
        Self::read(text)
    }

    fn none() -> Self {
        Self { values: [None; Field::COUNT], seen: Fields(0) }
    }

    /// Refuses every member but these.
    pub(super) fn only(&self, allowed: Fields) -> Result<(), BadRequest> {
        let others = self.seen.0 & !allowed.0;
        if others == 0 {
            return Ok(());
        }
        let first = Field::ALL.get(others.trailing_zeros() as usize);
        Err(BadRequest::new(first.map_or("body", |field| field.name()), UNKNOWN))
    }

    pub(super) fn get_or_null(&self, field: Field) -> Option<&'a RawValue> {
        self.values[field as usize]
    }

    #[inline]
    fn get(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize].map(RawValue::get).filter(|text| *text != "null")
    }

    pub(super) fn has(&self, field: Field) -> bool {
        self.get(field).is_some()
    }

    /// Whether any of these is there with a value.
    pub(super) fn has_any(&self, fields: Fields) -> bool {
        let seen = self.seen.0 & fields.0;
        seen != 0 && Field::ALL.iter().any(|field| seen & 1 << *field as u8 != 0 && self.has(*field))
    }

    /// An integer literal within `range`: `5`, never `5.0`, `5e0`, `-0` or `"5"`.
    pub(super) fn integer(&self, field: Field, range: RangeInclusive<i64>) -> Result<Option<i64>, BadRequest> {
        let Some(text) = self.get(field) else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                let (start, end) = (range.start(), range.end());
                let detail = format!("must be an integer literal from {start} to {end}, such as 5 (not 5.0 or \"5\")");
                Err(BadRequest::new(field.name(), detail))
            }
        }
    }

    /// Money in minor units, from a decimal string or a number in plain notation.
    pub(super) fn amount(&self, field: Field, currency: Currency) -> Result<Option<i64>, BadRequest> {
        let Some(text) = self.get(field) else { return Ok(None) };
        let digits = currency.minor_digits;
        let decimal = match text.as_bytes() {
            [b'"', ..] => decode_string(text).unwrap_or_default(),
            _ => Cow::Borrowed(text),
        };
        match money::parse_minor(&decimal, digits) {
            Some(minor) if minor <= currency.amount_minor_max() => Ok(Some(minor)),
            _ => {
                let (code, most) = (currency.code(), money::format_minor(currency.amount_minor_max(), digits));
                let detail = format!(
                    "must be an amount of {code} from 0 to {most} in plain notation with at most {digits} decimals, \
                     as a string or a number"
                );
                Err(BadRequest::new(field.name(), detail))
            }
        }
    }

    /// An instant.
    pub(super) fn time(&self, field: Field) -> Result<Option<Millis>, BadRequest> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        match time::parse(&text).filter(|at| (INSTANT_MIN..=INSTANT_MAX).contains(at)) {
            Some(at) => Ok(Some(at)),
            None => Err(BadRequest::new(
                field.name(),
                "must be an RFC 3339 time with an offset, such as 2026-11-21T01:02:03Z",
            )),
        }
    }

    /// A reference: 1 to 255 bytes without control characters.
    pub(super) fn reference(&self, field: Field) -> Result<Option<Box<str>>, BadRequest> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        if is_reference(&text) {
            return Ok(Some(text.into()));
        }
        Err(BadRequest::new(field.name(), REFERENCE))
    }

    /// Free text of up to 500 bytes.
    pub(super) fn text(&self, field: Field) -> Result<Option<Box<str>>, BadRequest> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadRequest::new(field.name(), format!("must have at most {TEXT_BYTES_MAX} bytes")));
        }
        Ok(Some(text.into()))
    }

    /// A store or terminal id.
    pub(super) fn id(&self, field: Field) -> Result<Option<Box<str>>, BadRequest> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        if ids::check_id(&text) {
            return Ok(Some(text.into()));
        }
        Err(BadRequest::new(field.name(), format!("must be {}", ids::ID_FORM)))
    }

    /// An account id or alias; which, and whether it is a right one, is for who resolves it to say.
    pub(super) fn identifier(&self, field: Field) -> Result<Option<Cow<'a, str>>, BadRequest> {
        let Some(text) = self.string(field)? else { return Ok(None) };
        if text.is_empty() || text.len() > IDENTIFIER_BYTES_MAX {
            return Err(BadRequest::new(field.name(), "must be an account id or an alias such as email:a@example.com"));
        }
        Ok(Some(text))
    }

    /// A JSON string, of any length.
    pub(super) fn string(&self, field: Field) -> Result<Option<Cow<'a, str>>, BadRequest> {
        let Some(text) = self.get(field) else { return Ok(None) };
        match decode_string(text) {
            Some(text) => Ok(Some(text)),
            None => Err(BadRequest::new(field.name(), "must be a JSON string of Unicode text")),
        }
    }

    /// A JSON object without insignificant white space.
    pub(super) fn metadata(&self) -> Result<Option<Box<str>>, BadRequest> {
        let Some(text) = self.get(Field::Metadata) else { return Ok(None) };
        metadata::compact(text).map(Some)
    }
}

/// The value of a member that must be there.
pub(super) fn required<T>(field: Field, value: Option<T>) -> Result<T, BadRequest> {
    value.ok_or_else(|| BadRequest::new(field.name(), "is required"))
}

const UNKNOWN: &str = "is not a member of this request";
const REFERENCE: &str = "must be a string of 1 to 255 bytes without control characters";

/// Why text is not an object, without repeating any of it.
pub(super) fn unreadable(text: &str, error: &serde_json::Error) -> BadRequest {
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return BadRequest::body("must be a JSON object");
    }
    BadRequest::body(format!("is not valid JSON (line {}, column {})", error.line(), error.column()))
}

/// Collects members and stops at the first that is unknown or given twice. serde's errors carry only a
/// text, so the member's name leaves through `problem`.
struct MembersVisitor<'p> {
    problem: &'p mut Option<BadRequest>,
}

impl<'a> Visitor<'a> for MembersVisitor<'_> {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
        let mut members = Members::none();
        while let Some(field) = map.next_key_seed(FieldSeed { problem: &mut *self.problem })? {
            let bit = 1 << field as u8;
            if members.seen.0 & bit != 0 {
                *self.problem = Some(BadRequest::new(field.name(), "is given twice"));
                return Err(A::Error::custom("duplicate member"));
            }
            members.seen.0 |= bit;
            members.values[field as usize] = Some(map.next_value::<&'a RawValue>()?);
        }
        Ok(members)
    }
}

struct FieldSeed<'p> {
    problem: &'p mut Option<BadRequest>,
}

impl<'a> DeserializeSeed<'a> for FieldSeed<'_> {
    type Value = Field;

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldSeed<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Field, E> {
        Field::from_name(name).ok_or_else(|| {
            *self.problem = Some(BadRequest::new(shown_name(name), UNKNOWN));
            E::custom("unknown member")
        })
    }
}
