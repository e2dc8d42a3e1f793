//! The catalogue of refusals (RFC 9457), and the writer of their bodies.

use std::borrow::Cow;

use bytes::Bytes;

macro_rules! catalogue {
    ($($kind:ident $name:literal $status:literal $retryable:literal $retry_after:expr, $title:literal, $meaning:literal;)*) => {
        /// Why a request was refused. API.md "Errors" is the list.
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
        "Send the header Idempotency-Key, or a business key in the body, so that a retry is recognized.";
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
        "Check the path against the documentation.";
    MethodNotAllowed "method-not-allowed" 405 false None, "The path does not take this method",
        "The header Allow names the methods that it takes.";
    RequestTimeout "request-timeout" 408 true None, "The body came too slowly",
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
        Self {
            kind,
            detail: detail.into(),
            members: Vec::new(),
            retry_after_seconds: kind.retry_after_seconds(),
        }
    }

    /// A refusal with the meaning of its kind as the detail.
    pub fn of(kind: Kind) -> Self {
        Self::new(kind, kind.meaning())
    }

    /// `invalid-request` with the `field` that is wrong.
    pub fn invalid(field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidRequest, detail).with("field", field.into())
    }

    /// Adds a named member.
    pub fn with(mut self, name: &'static str, value: impl Into<Member>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// The body, `application/problem+json`.
    pub fn body(&self, request_id: &str) -> Bytes {
        let mut out = Vec::with_capacity(320 + self.detail.len());
        out.extend_from_slice(b"{\"type\":\"/problems/");
        out.extend_from_slice(self.kind.name().as_bytes());
        out.extend_from_slice(b"\",\"title\":\"");
        out.extend_from_slice(self.kind.title().as_bytes());
        out.extend_from_slice(b"\",\"status\":");
        out.extend_from_slice(itoa::Buffer::new().format(self.kind.status()).as_bytes());
        out.extend_from_slice(b",\"detail\":");
        write_json_string(&mut out, &self.detail);
        out.extend_from_slice(b",\"instance\":\"/requests/");
        write_json_characters(&mut out, request_id);
        out.extend_from_slice(b"\",\"retryable\":");
        out.extend_from_slice(if self.kind.retryable() { b"true" } else { b"false" });
        for (name, value) in &self.members {
            out.push(b',');
            write_json_string(&mut out, name);
            out.push(b':');
            match value {
                Member::Text(text) => write_json_string(&mut out, text),
                Member::Integer(number) => {
                    out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
                }
            }
        }
        out.push(b'}');
        Bytes::from(out)
    }
}

/// The body of `GET /problems/{name}`.
pub fn explanation(kind: Kind) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"type\":\"/problems/");
    out.extend_from_slice(kind.name().as_bytes());
    out.extend_from_slice(b"\",\"title\":");
    write_json_string(&mut out, kind.title());
    out.extend_from_slice(b",\"status\":");
    out.extend_from_slice(itoa::Buffer::new().format(kind.status()).as_bytes());
    out.extend_from_slice(b",\"retryable\":");
    out.extend_from_slice(if kind.retryable() { b"true" } else { b"false" });
    out.extend_from_slice(b",\"meaning\":");
    write_json_string(&mut out, kind.meaning());
    out.push(b'}');
    Bytes::from(out)
}

/// Appends `text` as a JSON string with its quotes.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_json_characters(out, text);
    out.push(b'"');
}

/// Appends the characters of a JSON string without quotes: `"`, `\` and control characters are escaped,
/// all else is UTF-8 as it is.
fn write_json_characters(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bodies_are_json_whatever_stands_in_them() {
        let nasty: String = (0u8..0x80).map(char::from).chain("é\u{2028}\u{10348}\u{7f}".chars()).collect();
        let problem = Problem::invalid(nasty.clone(), nasty.clone()).with("available_points", -5i64);
        let body = problem.body("id-\"\\1");
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["type"], "/problems/invalid-request");
        assert_eq!(value["status"], 400);
        assert_eq!(value["detail"], nasty);
        assert_eq!(value["field"], nasty);
        assert_eq!(value["available_points"], -5);
        assert_eq!(value["instance"], "/requests/id-\"\\1");
        assert_eq!(value["retryable"], false);
    }

    #[test]
    fn the_catalogue_is_consistent() {
        for &kind in KINDS {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert!((400..600).contains(&kind.status()));
            let value: serde_json::Value = serde_json::from_slice(&Problem::of(kind).body("r")).unwrap();
            assert_eq!(value["title"], kind.title(), "titles need no escaping");
            let value: serde_json::Value = serde_json::from_slice(&explanation(kind)).unwrap();
            assert_eq!(value["status"], kind.status());
            let waits = matches!(kind.status(), 429 | 503);
            assert!(!waits || kind.retry_after_seconds().is_some(), "{}", kind.name());
        }
        assert_eq!(Kind::from_name("nothing"), None);
    }
}
