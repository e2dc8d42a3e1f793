//! From what a client means to the request that the node gets.

use meed_schemas::command::{Basis, Command, Earn, Keys, Portion, Request, RequestId};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::program::Document;
use meed_schemas::time::Millis;
use xxhash_rust::xxh3::xxh3_64;

use super::event::{Ask, Key, Part, What};
use super::profile::Profile;
use crate::random::mix;

/// The one program of a simulated node.
pub(super) const PROGRAM: &str = "p";

/// The account with this index.
pub(super) fn identity(account: usize) -> Identity {
    Identity::member(PROGRAM, &format!("m-{account}"))
}

fn key(ask: u32, layer: u64) -> u128 {
    u128::from(mix(u64::from(ask) << 8 | layer)) << 64 | u128::from(ask)
}

/// The `Idempotency-Key` of a request.
pub(super) fn header_key(ask: u32) -> u128 {
    key(ask, 1)
}

/// The business key of a request.
pub(super) fn business_key(ask: u32) -> u128 {
    key(ask, 2)
}

fn keys(ask: &Ask) -> Keys {
    let (idempotency, business) = match ask.key {
        Key::None => (None, None),
        Key::Header => (Some(header_key(ask.id)), None),
        Key::Business => (None, Some(business_key(ask.id))),
        Key::Both => (Some(header_key(ask.id)), Some(business_key(ask.id))),
        Key::HeaderOf(other) => (Some(header_key(other)), None),
    };
    match &ask.what {
        What::Outcome { of } => Keys { idempotency: Some(header_key(*of)), business: Some(business_key(*of)) },
        _ => Keys { idempotency, business },
    }
}

/// Makes the request; `None` when it refers to something that has no position. `position_of` gives the position
/// under which a request was executed.
pub(super) fn request(
    ask: &Ask,
    profile: &Profile,
    now: Millis,
    position_of: &dyn Fn(u32) -> Option<Position>,
) -> Option<Request> {
    let command = command(ask, profile, now, position_of)?;
    let mut canonical = Vec::new();
    command.write_canonical(&mut canonical);
    let identity = match &ask.what {
        What::Program { .. } => Identity::program_account(PROGRAM),
        _ => identity(ask.account),
    };
    Some(Request {
        identity,
        command,
        keys: keys(ask),
        fingerprint: xxh3_64(&canonical),
        request_id: RequestId::Made(u64::from(ask.id)),
        traceparent: None,
    })
}

fn command(
    ask: &Ask,
    profile: &Profile,
    now: Millis,
    position_of: &dyn Fn(u32) -> Option<Position>,
) -> Option<Command> {
    let references = None;
    let earn = |basis, ago_ms: Option<i64>, expires_in_ms: Option<i64>, activates_in_ms: Option<i64>| Command::Earn {
        earn: Earn {
            basis,
            occurred_at: ago_ms.map(|ago| now - ago),
            expires_at: expires_in_ms.map(|ms| now + ms),
            activates_at: activates_in_ms.map(|ms| now + ms),
        },
        references: None,
    };
    let portion = |part| match part {
        Part::Rest => Portion::Rest,
        Part::Points(points) => Portion::Points(points),
        Part::Amount(amount) => Portion::Amount(amount),
    };
    Some(match &ask.what {
        What::EarnPoints { points, ago_ms, expires_in_ms, activates_in_ms } => {
            earn(Basis::Points(*points), *ago_ms, *expires_in_ms, *activates_in_ms)
        }
        What::EarnAmount { amount, ago_ms } => earn(Basis::Amount(*amount), *ago_ms, None, None),
        What::Redeem { points } => Command::Redeem { points: *points, occurred_at: None, references },
        What::Adjust { points } => Command::Adjust { points: *points, expires_at: None, references },
        What::Sale { amount, redeem, ago_ms } => {
            Command::Sale { amount: *amount, redeem_points: *redeem, occurred_at: now - ago_ms, references }
        }
        What::SaleReturn { of, amount } => Command::SaleReturn {
            sale: business_key(*of),
            portion: amount.map_or(Portion::Rest, Portion::Amount),
            occurred_at: None,
            references,
        },
        What::Reverse { of, part } => {
            Command::Reverse { original: position_of(*of)?, portion: portion(*part), occurred_at: None, references }
        }
        What::Hold { points, seconds } => Command::Hold { points: *points, ttl_seconds: *seconds, references },
        What::Capture { of, points } => Command::Capture { hold: position_of(*of)?, points: *points, references },
        What::Void { of } => Command::Void { hold: position_of(*of)?, references },
        What::Open => Command::Open,
        What::Status(status) => Command::SetStatus { status: *status, references },
        What::Tier { name, for_ms } => {
            Command::SetTier { tier: name.map(Into::into), until: for_ms.map(|ms| now + ms), references }
        }
        What::Program { number } => {
            let document = Document::parse(profile.version(*number).document().as_bytes()).ok()?;
            Command::PutProgram { document: document.to_canonical_json().into() }
        }
        What::Balance => Command::Balance,
        What::Lots => Command::Lots,
        What::Holds => Command::Holds,
        What::HoldStatus { of } => Command::HoldStatus { hold: position_of(*of)? },
        What::Account => Command::Account,
        What::Transaction { of } => Command::Transaction { position: position_of(*of)? },
        What::History => Command::HistoryHead,
        What::Outcome { .. } => Command::Outcome,
    })
}
