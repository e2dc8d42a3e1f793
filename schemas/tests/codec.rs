//! The record codec: whatever a record holds comes back, and bytes that are no record are an error, never a
//! panic.
#![allow(clippy::unwrap_used)]

use meed_schemas::codec::{CodecError, decode, encode};
use meed_schemas::command::{References, RequestId, Status};
use meed_schemas::ids::{AccountKind, Identity, Position};
use meed_schemas::record::{
    AmountAward, Balances, Detail, KeyBinding, LotKey, ManualTier, Move, MoveOp, Record, RecordKind, SaleRedemption,
    Spend, VoidReason, extension,
};
use meed_schemas::time::NEVER;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = Box<str>> {
    "\\PC{0,12}".prop_map(Into::into)
}

fn id() -> impl Strategy<Value = String> {
    "[!-~]{1,16}"
}

/// Instants that occur, and those at the ends of the format's arithmetic.
fn instant() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -62_167_219_200_000..253_402_300_800_000i64, 1 => Just(NEVER), 1 => -1..2i64]
}

fn points() -> impl Strategy<Value = i64> {
    prop_oneof![0..100i64, -1_000_000_000_000_000..1_000_000_000_000_000i64, any::<i64>()]
}

fn position() -> impl Strategy<Value = Position> {
    (0..4_096u16, 1..=Position::SEQUENCE_MAX).prop_map(|(shard, sequence)| Position::new(shard, sequence))
}

fn one_move() -> impl Strategy<Value = Move> {
    (1..=10u8, instant(), option::of(instant()), 1..i64::MAX).prop_map(|(op, expires_at, activates_at, points)| Move {
        op: MoveOp::from_byte(op).unwrap(),
        lot: LotKey { expires_at, activates_at },
        points,
    })
}

fn references() -> impl Strategy<Value = Option<Box<References>>> {
    option::of(vec(option::of(text()), 10)).prop_map(|parts| {
        let mut parts = parts?.into_iter();
        let mut next = || parts.next().flatten();
        Some(Box::new(References {
            source: next(),
            reference_id: next(),
            description: next(),
            reason: next(),
            reward_id: next(),
            metadata: next(),
            store_id: next(),
            terminal_id: next(),
            pos_transaction_id: next(),
            traceparent: next(),
        }))
    })
}

fn status() -> impl Strategy<Value = Status> {
    (0..3u8).prop_map(|byte| Status::from_byte(byte).unwrap())
}

fn earn() -> impl Strategy<Value = Detail> {
    let award = (points(), any::<u8>(), any::<u32>()).prop_map(|(amount, applied_tier, applied_multiplier)| {
        AmountAward { amount, applied_tier, applied_multiplier }
    });
    let redemption = (position(), points(), vec((instant(), points()), 0..4))
        .prop_map(|(position, points, lots)| Box::new(SaleRedemption { position, points, lots }));
    (instant(), option::of(instant()), option::of(award), option::of(redemption)).prop_map(
        |(expires_at, activates_at, award, redemption)| Detail::Earn { expires_at, activates_at, award, redemption },
    )
}

fn reversal() -> impl Strategy<Value = Detail> {
    (position(), any::<bool>(), points(), option::of(points()), points(), points()).prop_map(
        |(original, earn, reversed_points, reversed_amount, shortfall_points, expired_points)| Detail::Reversal {
            original,
            original_kind: if earn { RecordKind::Earn } else { RecordKind::Redeem },
            reversed_points,
            reversed_amount,
            shortfall_points,
            expired_points,
        },
    )
}

fn tier() -> impl Strategy<Value = Detail> {
    let manual = (option::of(text()), any::<bool>(), option::of(instant()))
        .prop_map(|(name, floor, until)| Box::new(ManualTier { name, floor, until }));
    (text(), text(), option::of(manual)).prop_map(|(from, to, manual)| Detail::Tier { from, to, manual })
}

fn refusal() -> impl Strategy<Value = Detail> {
    let request_id = prop_oneof![any::<u64>().prop_map(RequestId::Made), text().prop_map(RequestId::Given)];
    (points(), points(), request_id).prop_map(|(available_points, requested_points, request_id)| Detail::Refusal {
        available_points,
        requested_points,
        request_id,
    })
}

fn kind_and_detail() -> impl Strategy<Value = (RecordKind, Detail)> {
    let reason = prop_oneof![Just(VoidReason::Requested), Just(VoidReason::Expired), Just(VoidReason::Closed)];
    let adjust = (instant(), option::of(instant()))
        .prop_map(|(expires_at, activates_at)| Detail::Adjust { expires_at, activates_at });
    prop_oneof![
        earn().prop_map(|detail| (RecordKind::Earn, detail)),
        option::of(position()).prop_map(|hold| (RecordKind::Redeem, Detail::Redeem { hold })),
        adjust.prop_map(|detail| (RecordKind::Adjust, detail)),
        reversal().prop_map(|detail| (RecordKind::Reversal, detail)),
        Just((RecordKind::Expire, Detail::None)),
        option::of(instant()).prop_map(|expires_at| (RecordKind::Hold, Detail::Hold { expires_at })),
        (position(), reason).prop_map(|(hold, reason)| (RecordKind::Void, Detail::Void { hold, reason })),
        points().prop_map(|moved_points| (RecordKind::Activate, Detail::Activate { moved_points })),
        tier().prop_map(|detail| (RecordKind::Tier, detail)),
        Just((RecordKind::Open, Detail::None)),
        (status(), status()).prop_map(|(status, previous)| (RecordKind::Status, Detail::Status { status, previous })),
        text().prop_map(|document| (RecordKind::Program, Detail::Program { document })),
        refusal().prop_map(|detail| (RecordKind::Refusal, detail)),
        position().prop_map(|target| (RecordKind::Key, Detail::Key { target })),
    ]
}

/// Every tag but the wallet's, whose value is not free.
fn tag() -> impl Strategy<Value = u16> {
    any::<u16>().prop_filter("the wallet has its own test", |tag| *tag != extension::WALLET)
}

prop_compose! {
    fn record()(
        (kind, detail) in kind_and_detail(),
        position in position(),
        (program, id, account_kind) in (id(), id(), 1..=5u8),
        (sequence, distance, distance_of_kind) in (any::<u64>(), any::<u64>(), any::<u64>()),
        (recorded_at, occurred_at) in (instant(), instant()),
        (program_version, newest_version) in (any::<u32>(), option::of(any::<u32>())),
        (points, balances) in (points(), (points(), points(), points(), points())),
        (tier, rendering) in (any::<u8>(), any::<u8>()),
        moves in vec(one_move(), 0..5),
        spend in option::of((any::<i32>(), points())),
        keys in vec((any::<u128>(), any::<bool>()), 0..3),
        fingerprint in any::<u64>(),
        references in references(),
        extensions in vec((tag(), vec(any::<u8>(), 0..8)), 0..3),
    ) -> Record {
        let before = |distance: u64| distance % position.sequence();
        Record {
            kind,
            rendering,
            position,
            identity: Identity::new(&program, AccountKind::from_byte(account_kind).unwrap(), &id),
            sequence,
            previous: before(distance),
            previous_of_kind: before(distance_of_kind),
            recorded_at,
            occurred_at,
            program_version,
            newest_version: newest_version.unwrap_or(program_version),
            points,
            balances: Balances { total: balances.0, held: balances.1, pending: balances.2, debt: balances.3 },
            tier,
            moves: moves.into(),
            spend: spend.map(|(month, amount)| Spend { month, amount }),
            // A fingerprint is only kept with a key.
            fingerprint: if keys.is_empty() { 0 } else { fingerprint },
            keys: keys.into_iter().map(|(hash, business)| KeyBinding { hash, business }).collect(),
            references,
            detail,
            extensions: extensions.into_iter().map(|(tag, value)| (tag, value.into())).collect(),
        }
    }
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    encode(record, &mut out);
    out
}

proptest! {
    #[test]
    fn records_come_back(record in record()) {
        let bytes = encoded(&record);
        prop_assert_eq!(decode(record.position, &bytes), Ok(record));
    }

    #[test]
    fn every_truncation_and_extension_is_an_error(record in record()) {
        let mut bytes = encoded(&record);
        for end in 0..bytes.len() {
            prop_assert!(decode(record.position, &bytes[..end]).is_err(), "cut at {} of {}", end, bytes.len());
        }
        bytes.push(0);
        prop_assert_eq!(decode(record.position, &bytes), Err(CodecError::Invalid("length")));
    }

    #[test]
    fn damaged_records_never_panic(record in record(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encoded(&record);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // What is decoded nevertheless is a record like any other.
        if let Ok(other) = decode(record.position, &bytes) {
            prop_assert_eq!(decode(other.position, &encoded(&other)), Ok(other));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(position in position(), tail in vec(any::<u8>(), 0..300)) {
        let _ = decode(position, &tail);
        for kind in 0..40 {
            let bytes: Vec<u8> = [1, 1, kind].into_iter().chain(tail.iter().copied()).collect();
            let _ = decode(position, &bytes);
        }
    }
}

/// A fingerprint that belongs to no key would be lost when the record is written again.
#[test]
fn a_record_that_announces_keys_has_some() {
    // Format, rendering, refusal; flags: keys; identity; sequence and zeros up to the moves; no key, a fingerprint.
    let head = [1, 1, RecordKind::Refusal as u8, 0x40, 4, 1, 1, b'p', b'm', 0, 0, 0, 0, 0, 0, 0, 0];
    let detail = [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let key = [&[1, 0][..], &[9; 16]].concat();
    let record = |keys: &[u8]| [&head[..], keys, &[7; 8], &detail].concat();
    let position = Position::new(0, 1);
    assert_eq!(decode(position, &record(&key)).unwrap().fingerprint, 0x0707_0707_0707_0707);
    assert_eq!(decode(position, &record(&[0])), Err(CodecError::Invalid("keys")));
}

fn with_extensions(extensions: Vec<(u16, &[u8])>) -> (Position, Vec<u8>) {
    // Format, rendering, OPEN; flags: extensions; identity; sequence 1 and zeros up to the moves.
    let mut bytes = vec![1, 1, RecordKind::Open as u8, 0x80, 2, 4, 1, 1, b'p', b'm', 1, 0, 0, 0, 0, 0, 0, 0];
    bytes.push(extensions.len() as u8);
    for (tag, value) in extensions {
        bytes.extend([tag as u8, value.len() as u8]);
        bytes.extend_from_slice(value);
    }
    (Position::new(0, 1), bytes)
}

/// Applied to the points, a record of another wallet would give away what nobody awarded.
#[test]
fn a_record_of_an_unknown_wallet_is_refused_and_other_tags_are_carried_along() {
    let reserved = [extension::OPERATION, extension::SAGA_ROLE, extension::COUNTER_ACCOUNT, 99];
    let carried: Vec<(u16, &[u8])> = reserved.map(|tag| (tag, &b"later"[..])).to_vec();
    let (position, bytes) = with_extensions(carried.clone());
    let record = decode(position, &bytes).unwrap();
    assert_eq!(record.extensions, carried.iter().map(|(tag, value)| (*tag, (*value).into())).collect::<Vec<_>>());
    assert_eq!(encoded(&record), bytes);
    let (position, bytes) = with_extensions(vec![(extension::WALLET, b"points")]);
    assert_eq!(encoded(&decode(position, &bytes).unwrap()), bytes);
    for wallet in [&b"stamps"[..], b"point", b"points ", b""] {
        let (position, bytes) = with_extensions(vec![(extension::OPERATION, b"1"), (extension::WALLET, wallet)]);
        assert_eq!(decode(position, &bytes), Err(CodecError::UnknownWallet), "{wallet:?}");
    }
}
