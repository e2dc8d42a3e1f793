//! The forms of requests and answers between fronts and the owner: all come back as they were, their bytes are
//! those of the fixtures, and other bytes are an error, never a panic.
//!
//! A fixture that is not there is written with `UPDATE_FIXTURES=1`; one that is there is never changed.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod records;

use std::fmt::Write as _;
use std::path::PathBuf;

use meed_schemas::codec::Reader;
use meed_schemas::command::{Basis, Command, Earn, Keys, Portion, References, Request, RequestId, Status};
use meed_schemas::forward::{decode_reply, decode_request, encode_reply, encode_request};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{
    AccountView, BalanceView, HistoryHead, HoldState, HoldView, Limit, LotView, Refusal, Reply, ReversedSoFar, TierView,
};
use meed_schemas::record::{Balances, RecordKind};
use meed_schemas::time::NEVER;
use proptest::prelude::*;

fn position(sequence: u64) -> Position {
    Position::new(3, sequence)
}

fn references() -> Option<Box<References>> {
    let text = |text: &str| Some(text.into());
    Some(Box::new(References {
        source: text("PURCHASE"),
        reference_id: text("order-1"),
        metadata: text(r#"{"a":1}"#),
        store_id: text("s-1"),
        ..References::default()
    }))
}

fn commands() -> Vec<Command> {
    let none = None;
    let occurred_at = Some(1_770_000_000_000);
    let earn = |basis, occurred_at, expires_at| Earn { basis, occurred_at, expires_at, activates_at: expires_at };
    vec![
        Command::Earn { earn: earn(Basis::Points(5), None, None), references: none.clone() },
        Command::Earn { earn: earn(Basis::Amount(1_990), occurred_at, Some(-1)), references: references() },
        Command::Redeem { points: 50, occurred_at, references: references() },
        Command::Adjust { points: -7, expires_at: None, references: none.clone() },
        Command::Sale { amount: 0, redeem_points: Some(3), occurred_at: 1, references: references() },
        Command::SaleReturn {
            sale: u128::MAX - 1,
            portion: Portion::Amount(9),
            occurred_at: None,
            references: none.clone(),
        },
        Command::Reverse { original: position(7), portion: Portion::Rest, occurred_at, references: none.clone() },
        Command::Reverse {
            original: position(7),
            portion: Portion::Points(4),
            occurred_at: None,
            references: references(),
        },
        Command::Hold { points: 9, ttl_seconds: Some(60), references: none.clone() },
        Command::Capture { hold: position(9), points: Some(1), references: references() },
        Command::Void { hold: position(9), references: none.clone() },
        Command::Open,
        Command::SetStatus { status: Status::Frozen, references: references() },
        Command::SetTier { tier: Some("GOLD".into()), until: occurred_at, references: none.clone() },
        Command::SetTier { tier: None, until: None, references: none },
        Command::PutProgram { document: "{}".into() },
        Command::Settle,
        Command::Balance,
        Command::Lots,
        Command::Holds,
        Command::HoldStatus { hold: position(1) },
        Command::Account,
        Command::Transaction { position: position(2) },
        Command::HistoryHead,
        Command::Outcome,
    ]
}

fn requests() -> Vec<Request> {
    let keys = [
        Keys::default(),
        Keys { idempotency: Some(1), business: None },
        Keys { idempotency: None, business: Some(u128::MAX) },
        Keys { idempotency: Some(2), business: Some(3) },
    ];
    let request = |(number, command): (usize, Command)| {
        let keys = keys[number % keys.len()];
        Request {
            identity: Identity::member("default", "m-1"),
            command,
            keys,
            fingerprint: if keys == Keys::default() { 0 } else { 0x0123_4567_89ab_cdef },
            request_id: if number % 2 == 0 { RequestId::Made(42) } else { RequestId::Given("till 7/1".into()) },
            traceparent: (number % 3 == 0).then(|| "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        }
    };
    commands().into_iter().enumerate().map(request).collect()
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::InvalidRequest { field: "ttl_seconds".into(), detail: "must be at most 604800".into() },
        Refusal::UnknownProgram,
        Refusal::UnknownAccount,
        Refusal::KeyReused,
        Refusal::KeyInProgress,
        Refusal::UnknownTransaction,
        Refusal::UnknownHold,
        Refusal::UnknownOutcome,
        Refusal::AccountClosed,
        Refusal::AccountFrozen,
        Refusal::TooLate { late_days_max: 30 },
        Refusal::InTheFuture,
        Refusal::HoldClosed,
        Refusal::NotReversible,
        Refusal::NothingToReverse,
        Refusal::ExceedsRemaining { remaining_points: Some(5), remaining_amount: None },
        Refusal::ExceedsHold { held_points: 50 },
        Refusal::InsufficientPoints { available_points: -20, requested_points: 50 },
        Refusal::LimitExceeded { limit: Limit::Lots },
        Refusal::BalanceOverflow,
        Refusal::Overloaded,
        Refusal::Draining,
        Refusal::NotReady,
        Refusal::NotOwner { version: 17 },
        Refusal::OutcomeUnknown,
    ]
}

fn balance(lots: Option<Vec<LotView>>) -> Reply {
    Reply::Balance(Box::new(BalanceView {
        status: Status::Active,
        balances: Balances { total: 1_250, held: 50, pending: 7, debt: 1 },
        tier: TierView { version: 2, level: 1 },
        qualifying_spend: 600_000,
        next_expiry: lots.as_ref().map(|_| (200, 1_800_000_000_000)),
        sequence: 17,
        last_updated: 1_770_000_000_000,
        lots,
    }))
}

fn replies() -> Vec<Reply> {
    let hold = |state| HoldView { hold: position(4), points: 9, expires_at: Some(5), recorded_at: 1, state };
    let lot = |expires_at, activates_at| LotView { available: 5, held: 1, activates_at, expires_at };
    let mut replies: Vec<Reply> = records::records()
        .into_iter()
        .map(|(_, record)| Reply::Executed { record: Box::new(record), replayed: false })
        .collect();
    let record = Box::new(records::records().swap_remove(0).1);
    replies.extend(refusals().into_iter().map(Reply::Refused));
    let refusal = Refusal::InsufficientPoints { available_points: 1, requested_points: 2 };
    let account = |manual_tier| AccountView {
        status: Status::Closed,
        tier: TierView { version: 1, level: 0 },
        created_at: 5,
        sequence: 3,
        counts: vec![(RecordKind::Earn, 2), (RecordKind::Redeem, 1)],
        manual_tier,
    };
    replies.extend([
        Reply::Executed { record: record.clone(), replayed: true },
        Reply::RefusedBefore { refusal, request_id: RequestId::Given("till".into()) },
        balance(None),
        balance(Some(vec![lot(NEVER, None), lot(7, Some(6))])),
        Reply::Holds(vec![hold(HoldState::Open), hold(HoldState::Captured(position(5)))]),
        Reply::Hold(hold(HoldState::Voided(position(6)))),
        Reply::Account(Box::new(account(None))),
        Reply::Account(Box::new(account(Some(("GOLD".into(), true, Some(9)))))),
        Reply::Transaction { record: record.clone(), reversed: ReversedSoFar { points: 5, amount: 0 } },
        Reply::HistoryHead(Box::new(HistoryHead { sequence: 0, newest: None, by_kind: Vec::new() })),
        Reply::HistoryHead(Box::new(HistoryHead {
            sequence: 2,
            newest: Some(position(8)),
            by_kind: vec![(RecordKind::Earn, 2, position(8))],
        })),
        Reply::Outcome(record),
        Reply::Program { version: 3, created: true },
        Reply::Settled,
        Reply::Refused(Refusal::RecordGone),
    ]);
    replies
}

fn bytes_of<T>(value: &T, encode: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(value, &mut bytes);
    bytes
}

fn compare(file: &str, all: &[Vec<u8>]) {
    let mut text = String::new();
    for bytes in all {
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/forward").join(file);
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let fixture = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (number, (line, expected)) in text.lines().zip(fixture.lines()).enumerate() {
        assert_eq!(line, expected, "{file}, line {}", number + 1);
    }
    assert_eq!(text.lines().count(), fixture.lines().count(), "{file}");
}

/// Every part of the bytes, and the bytes with one changed: an error or another value, never a panic.
fn break_it(bytes: &[u8], decode: impl Fn(&mut Reader<'_>) -> bool) {
    for end in 0..bytes.len() {
        assert!(!decode(&mut Reader::new(&bytes[..end])), "{end} bytes of {}", bytes.len());
        let mut changed = bytes.to_vec();
        for bit in 0..8 {
            changed[end] ^= 1 << bit;
            decode(&mut Reader::new(&changed));
        }
    }
    let mut other = bytes.to_vec();
    other[0] += 1;
    assert!(!decode(&mut Reader::new(&other)), "another version");
}

#[test]
fn requests_come_back_and_their_bytes_stay() {
    let mut all = Vec::new();
    for request in requests() {
        let bytes = bytes_of(&request, encode_request);
        let mut reader = Reader::new(&bytes);
        let decoded = decode_request(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!(format!("{decoded:?}"), format!("{request:?}"));
        break_it(&bytes, |r| decode_request(r).is_ok());
        all.push(bytes);
    }
    compare("requests-v1.hex", &all);
}

#[test]
fn answers_come_back_and_their_bytes_stay() {
    let mut all = Vec::new();
    for reply in replies() {
        let bytes = bytes_of(&reply, encode_reply);
        let mut reader = Reader::new(&bytes);
        let decoded = decode_reply(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!(format!("{decoded:?}"), format!("{reply:?}"));
        break_it(&bytes, |r| decode_reply(r).is_ok());
        all.push(bytes);
    }
    compare("answers-v1.hex", &all);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let versioned: Vec<u8> = [&[1][..], &bytes].concat();
        for bytes in [&bytes, &versioned] {
            let _ = decode_request(&mut Reader::new(bytes));
            let _ = decode_reply(&mut Reader::new(bytes));
        }
    }
}
