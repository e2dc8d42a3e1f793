//! The catalogue of refusals (RFC 9457) and the writer of their bodies: one for fresh refusals and for
//! remembered ones, which are replayed byte for byte.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use super::json::{self, key};
use crate::money;
use crate::outcome::{Limit, Refusal};

/// The media type of [`Problem::write`].
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! catalogue {
    ($($kind:ident $name:literal $status:literal $retryable:literal $retry_after:expr, $title:literal, $meaning:literal;)*) => {
        /// Why a request was refused. `openapi.yaml` lists the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $(#[doc = $meaning] $kind,)* }

        /// Every kind.
        pub const KINDS: &[Kind] = &[$(Kind::$kind,)*];

        impl Kind {
            /// The last part of the `type` member.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$kind => $status,)* }
            }

            /// A few words, the same for every refusal of this kind.
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// What it means and what to do.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning,)* }
            }

            /// Whether the same request, sent again later with the same key, may have another result.
            pub fn retryable(self) -> bool {
                match self { $(Self::$kind => $retryable,)* }
            }

            /// Seconds for the header `Retry-After`.
            pub fn retry_after_seconds(self) -> Option<u32> {
                match self { $(Self::$kind => $retry_after,)* }
            }

            /// The kind with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

catalogue! {
    InvalidRequest "invalid-request" 400 false None, "The request is not valid",
        "The member `field` names what is wrong. Correct it; nothing was executed.";
    IdempotencyKeyMissing "idempotency-key-missing" 400 false None, "The operation has no key",
        "Send the header Idempotency-Key, or, where the operation has one, a business key in the body, so that a retry is recognized.";
    InsufficientPoints "insufficient-points" 400 false None, "Not enough available points",
        "`available_points` is what can be spent now, `requested_points` what was asked for.";
    ExceedsRemaining "exceeds-remaining" 400 false None, "More than is left to reverse",
        "`remaining_points` or `remaining_amount` says how much of the original is left.";
    ExceedsHold "exceeds-hold" 400 false None, "More than is held",
        "`held_points` says how much the hold has.";
    NotReversible "not-reversible" 400 false None, "This kind of transaction has no reversal",
        "Only an EARN or a REDEEM can be reversed.";
    Unauthorized "unauthorized" 401 false None, "No valid credential",
        "Send `Authorization: Bearer <token>` with a token that this node knows.";
    Forbidden "forbidden" 403 false None, "The credential does not allow this",
        "The credential lacks the role, or belongs to another program.";
    UnknownAccount "unknown-account" 404 false None, "There is no such account",
        "Create it, or earn on it by its id in a program that enrolls by itself.";
    UnknownProgram "unknown-program" 404 false None, "There is no such program",
        "Create it with PUT /api/v1/programs/{program}.";
    UnknownTransaction "unknown-transaction" 404 false None, "There is no such transaction on this account",
        "Use a `transaction_id` that an answer for this account had.";
    UnknownHold "unknown-hold" 404 false None, "There is no such hold on this account",
        "Use a `hold_id` that an answer for this account had.";
    UnknownOutcome "unknown-outcome" 404 true None, "Nothing is remembered for this key",
        "The operation was not executed so far. Send it again with the same key.";
    NotFound "not-found" 404 false None, "There is nothing at this path",
        "Check the path: those there are stand in schemas/openapi.yaml, and none ends with a slash.";
    MethodNotAllowed "method-not-allowed" 405 false None, "The path does not take this method",
        "The header Allow names the methods that it takes.";
    RequestTimeout "request-timeout" 408 true None, "The request came too slowly",
        "Nothing was executed. Send the request again with the same key.";
    KeyInProgress "key-in-progress" 409 true Some(1), "The first request with this key is still running",
        "Ask again with the same key; the outcome will be the same.";
    HoldClosed "hold-closed" 409 false None, "The hold is closed",
        "It was captured, voided, or has expired.";
    AccountClosed "account-closed" 409 false None, "The account is closed",
        "A closed account takes only voids, reads and a change of its status.";
    AccountFrozen "account-frozen" 409 false None, "The account is frozen",
        "A frozen account takes no redemption, hold or capture.";
    NothingToReverse "nothing-to-reverse" 409 false None, "Nothing is left to reverse",
        "The original is reversed completely.";
    AliasTaken "alias-taken" 409 false None, "The alias belongs to another account",
        "Remove it there first.";
    PayloadTooLarge "payload-too-large" 413 false None, "The body is too large",
        "Nothing was executed. Send less, or several requests.";
    UnsupportedMediaType "unsupported-media-type" 415 false None, "The body has a type that is not accepted",
        "Send application/json in UTF-8; batches also take application/x-ndjson.";
    IdempotencyKeyReused "idempotency-key-reused" 422 false None, "The key belongs to another operation",
        "The same key came with other members. Use a new key for a new operation.";
    TooLate "too-late" 422 false None, "The operation is older than the program accepts",
        "`occurred_at` is further back than `late_days_max` of the program.";
    InTheFuture "in-the-future" 422 false None, "The operation has not happened yet",
        "`occurred_at` is more than 5 minutes ahead; check the clock of the sender.";
    LimitExceeded "limit-exceeded" 422 false None, "A limit of the account is reached",
        "The member `limit` names it.";
    BalanceOverflow "balance-overflow" 422 false None, "The points are beyond what can be counted",
        "An award or a balance would be too large.";
    RateLimited "rate-limited" 429 true Some(1), "Too many requests from this address",
        "Nothing was executed. Wait as Retry-After says, then send it again with the same key.";
    HeadersTooLarge "headers-too-large" 431 false None, "The request head is too large",
        "A head may have at most 100 headers and the configured bytes (16 KiB). Nothing was executed.";
    Overloaded "overloaded" 503 true Some(1), "The node has too much to do",
        "Nothing was executed. Wait as Retry-After says, then send it again with the same key.";
    Draining "draining" 503 true Some(1), "The node is stopping",
        "Nothing was executed. Send it again, to another node or when this one is back.";
    NotReady "not-ready" 503 true Some(1), "The node is not ready",
        "Nothing was executed. GET /readyz?verbose says what is missing; then send it again.";
    OutcomeUnknown "outcome-unknown" 504 true Some(1), "The outcome is not known yet",
        "The deadline passed. Ask again with the same key: the operation is executed at most once.";
}

/// The value of a named member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A JSON string.
    Text(String),
    /// A JSON integer.
    Integer(i64),
}

impl From<i64> for Member {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<&str> for Member {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Member {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub kind: Kind,
    /// What to do next, in this case.
    pub detail: Cow<'static, str>,
    /// Named members, in the order in which they are written.
    pub members: Vec<(&'static str, Member)>,
    /// Seconds for `Retry-After`, where they are not the kind's.
    pub retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A refusal with a detail of its own.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), members: Vec::new(), retry_after_seconds: kind.retry_after_seconds() }
    }

    /// A refusal with the meaning of its kind as the detail.
    pub fn of(kind: Kind) -> Self {
        Self::new(kind, kind.meaning())
    }

    /// `invalid-request` with the `field` that is wrong.
    pub fn invalid(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidRequest, detail).with("field", field.into())
    }

    /// `limit-exceeded` with the `limit` that is reached, and what to do about it.
    pub fn limit(limit: Limit) -> Self {
        let detail = match limit {
            Limit::Lots => {
                "The account has 2,048 lots of different expiry. Let awards expire with others, at the same day."
            }
            Limit::OpenHolds => {
                "The account has 1,024 open holds, or they pin 16,384 lots together. Capture or void some first."
            }
            Limit::SpendMonths => {
                "The account has spend in too many months. Send `occurred_at` of a month that has some."
            }
            Limit::ProgramVersions => "The program has as many versions as it can have. Create another program.",
            Limit::Aliases => "The account has 16 aliases. Remove one first.",
        };
        Self::new(Kind::LimitExceeded, detail).with("limit", limit.name())
    }

    /// Adds a named member.
    pub fn with(mut self, name: &'static str, value: impl Into<Member>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Appends the body, [`MEDIA_TYPE`].
    pub fn write(&self, out: &mut Vec<u8>, request_id: impl Display) {
        json::raw(out, "{\"type\":\"/problems/");
        json::raw(out, self.kind.name());
        json::raw(out, concat!("\"", key!("title")));
        json::string(out, self.kind.title());
        json::raw(out, key!("status"));
        json::integer(out, self.kind.status());
        json::raw(out, key!("detail"));
        json::string(out, &self.detail);
        json::raw(out, concat!(key!("instance"), "\"/requests/"));
        // Writing to a string cannot fail.
        let mut id = String::new();
        let _ = write!(id, "{request_id}");
        json::characters(out, &id);
        json::raw(out, concat!("\"", key!("retryable")));
        json::boolean(out, self.kind.retryable());
        for (name, value) in &self.members {
            out.push(b',');
            json::string(out, name);
            out.push(b':');
            match value {
                Member::Text(text) => json::string(out, text),
                Member::Integer(number) => json::integer(out, *number),
            }
        }
        out.push(b'}');
    }
}

/// The kind of a refusal.
pub fn kind_of(refusal: &Refusal) -> Kind {
    match refusal {
        Refusal::InvalidRequest { .. } => Kind::InvalidRequest,
        Refusal::UnknownProgram => Kind::UnknownProgram,
        Refusal::UnknownAccount => Kind::UnknownAccount,
        Refusal::KeyReused => Kind::IdempotencyKeyReused,
        Refusal::KeyInProgress => Kind::KeyInProgress,
        Refusal::UnknownTransaction | Refusal::RecordGone => Kind::UnknownTransaction,
        Refusal::UnknownHold => Kind::UnknownHold,
        Refusal::UnknownOutcome => Kind::UnknownOutcome,
        Refusal::AccountClosed => Kind::AccountClosed,
        Refusal::AccountFrozen => Kind::AccountFrozen,
        Refusal::TooLate { .. } => Kind::TooLate,
        Refusal::InTheFuture => Kind::InTheFuture,
        Refusal::HoldClosed => Kind::HoldClosed,
        Refusal::NotReversible => Kind::NotReversible,
        Refusal::NothingToReverse => Kind::NothingToReverse,
        Refusal::ExceedsRemaining { .. } => Kind::ExceedsRemaining,
        Refusal::ExceedsHold { .. } => Kind::ExceedsHold,
        Refusal::InsufficientPoints { .. } => Kind::InsufficientPoints,
        Refusal::LimitExceeded { .. } => Kind::LimitExceeded,
        Refusal::BalanceOverflow => Kind::BalanceOverflow,
        Refusal::Overloaded => Kind::Overloaded,
        Refusal::Draining => Kind::Draining,
        Refusal::NotReady | Refusal::NotOwner { .. } => Kind::NotReady,
        Refusal::OutcomeUnknown => Kind::OutcomeUnknown,
    }
}

/// The problem that tells a refusal. `minor_digits` are those of the program's currency.
pub fn problem_of(refusal: &Refusal, minor_digits: u8) -> Problem {
    let problem = Problem::of(kind_of(refusal));
    match refusal {
        Refusal::InvalidRequest { field, detail } => Problem::invalid(field.as_ref(), format!("`{field}` {detail}")),
        Refusal::TooLate { late_days_max } => Problem {
            detail: format!("`occurred_at` is more than {late_days_max} days ago, which the program does not accept.")
                .into(),
            ..problem
        },
        Refusal::ExceedsRemaining { remaining_points, remaining_amount } => {
            let problem = match remaining_points {
                Some(points) => problem.with("remaining_points", *points),
                None => problem,
            };
            match remaining_amount {
                Some(amount) => problem.with("remaining_amount", money::format_minor(*amount, minor_digits)),
                None => problem,
            }
        }
        Refusal::RecordGone => Problem {
            detail: "It was executed so long ago that its record is no longer kept. Nothing was executed now.".into(),
            ..problem
        },
        Refusal::ExceedsHold { held_points } => problem.with("held_points", *held_points),
        Refusal::InsufficientPoints { available_points, requested_points } => {
            problem.with("available_points", *available_points).with("requested_points", *requested_points)
        }
        Refusal::LimitExceeded { limit } => Problem::limit(*limit),
        _ => problem,
    }
}

/// Appends the body of a refusal; see [`problem_of`].
pub fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, request_id: impl Display, minor_digits: u8) {
    problem_of(refusal, minor_digits).write(out, request_id);
}

/// The HTTP status of a refusal.
pub fn refusal_status(refusal: &Refusal) -> u16 {
    kind_of(refusal).status()
}

/// Appends the body of `GET /problems/{name}`.
pub fn write_explanation(out: &mut Vec<u8>, kind: Kind) {
    json::raw(out, "{\"type\":\"/problems/");
    json::raw(out, kind.name());
    json::raw(out, concat!("\"", key!("title")));
    json::string(out, kind.title());
    json::raw(out, key!("status"));
    json::integer(out, kind.status());
    json::raw(out, key!("retryable"));
    json::boolean(out, kind.retryable());
    json::raw(out, key!("meaning"));
    json::string(out, kind.meaning());
    out.push(b'}');
}
