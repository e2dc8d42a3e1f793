//! Accounts, spilled facts and the tags that only accounts read, byte for byte as version 1 wrote them.
#![allow(clippy::unwrap_used)]

use meed_schemas::codec::{decode, encode};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{LotKey, Move, MoveOp};
use smallvec::smallvec;

use super::apply::extension;
use super::session::{put_expired_before, put_tier_due};
use super::wallet::{Lot, Pending};
use super::*;
use crate::{test_fixture, test_record};

const AT: Millis = 1_800_000_000_000;

fn kinds(all: &[(RecordKind, u64, u64)]) -> SmallVec<[KindCount; 1]> {
    all.iter().map(|(kind, count, newest)| KindCount { kind: *kind, count: *count, newest: *newest }).collect()
}

/// An account with something in every section that a member's can have.
fn rich() -> Account {
    let lots = smallvec![
        Lot { expires_at: AT + 1, available: 5, held: 0 },
        Lot { expires_at: AT + 86_400_000, available: 0, held: 7 },
        Lot { expires_at: NEVER, available: 300, held: 13 },
    ];
    let pending = vec![
        Pending { activates_at: AT + 5, expires_at: AT + 9, points: 17 },
        Pending { activates_at: AT + 6, expires_at: NEVER, points: 19 },
    ];
    let operation = |target, refusal, has, hashes| Operation {
        target,
        fingerprint: 0x0123_4567_89ab_cdef ^ target,
        recorded_at: AT - 1_000,
        refusal,
        has,
        hashes,
    };
    let hold = |id, expires_at| Hold { id, recorded_at: AT - 60_000, expires_at, pins: smallvec![(NEVER, 13)] };
    let closed = |end, captured| ClosedHold { end, captured };
    let rare = Rare {
        holds: vec![
            Hold {
                id: 4_600,
                recorded_at: AT - 90_000,
                expires_at: AT + 600_000,
                pins: smallvec![(AT + 86_400_000, 7)],
            },
            hold(4_650, NEVER),
        ],
        closed: vec![(4_400, closed(4_401, true)), (4_500, closed(4_555, false))],
        reversed: vec![Reversed { original: 4_000, points: 25, amount: 2_500 }],
        expired: vec![(AT - 7, 9), (AT - 5, 0)],
        manual: Some(Manual { name: "GOLD".into(), floor: true, from: AT - 3, until: AT + 3_000 }),
        manual_before: Vec::new(),
        versions: Vec::new(),
        spilled_keys: Some((AT - 9_000_000, AT - 8_000_000)),
        reversed_spilled: true,
        closed_spilled: true,
        expired_spilled: Some(AT - 100),
        overlay: Overlay::default(),
    };
    Account {
        wallet: Wallet { lots, pending, debt: 23, available: 305, held: 20, pending_points: 36 },
        applied: 4_711,
        sequence: 42,
        newest: 4_710,
        created_at: AT - 500_000_000,
        updated_at: AT,
        tier_due: AT + 2_000_000,
        hold_due: AT + 600_000,
        tier_version: 3,
        tier: 2,
        status: Status::Frozen,
        kinds: kinds(&[(RecordKind::Earn, 30, 4_700), (RecordKind::Expire, 12, 4_710)]),
        spend: smallvec![(24_311, 1_234_500), (24_312, -7)],
        operations: vec![
            operation(4_690, false, [true, true], [u128::MAX - 1, 5]),
            operation(4_705, true, [true, false], [6, 0]),
            operation(4_710, false, [false, true], [0, 7]),
        ],
        rare: Some(Box::new(rare)),
    }
}

/// Its versions are all that a program's account has beside its counts.
fn program() -> Account {
    let version = |number: u32| ProgramVersion {
        number,
        effective_from: AT + i64::from(number),
        document: format!(r#"{{"name":"version {number}"}}"#).into(),
    };
    Account {
        applied: 9,
        sequence: 2,
        newest: 9,
        created_at: AT,
        updated_at: AT + 2,
        kinds: kinds(&[(RecordKind::Program, 2, 9)]),
        rare: Some(Box::new(Rare { versions: vec![version(1), version(2)], ..Rare::default() })),
        ..Account::blank()
    }
}

/// One lot and one remembered operation: what most accounts have.
fn plain(identity: &Identity) -> Account {
    let mut record = test_record::earn(Position::new(0, 3), identity.clone());
    record.moves.push(Move { op: MoveOp::Grant, lot: LotKey::live(AT), points: 1 });
    record.keys.push(KeyBinding { hash: 0x0011_2233, business: false });
    record.fingerprint = 8;
    let mut account = Account::blank();
    account.apply(&record);
    account
}

#[test]
fn states_are_pinned() {
    let (member, own) = (Identity::member("p", "m-1"), Identity::program_account("p"));
    let accounts = [
        ("blank", &member, Account::blank()),
        ("plain", &member, plain(&member)),
        ("rich", &member, rich()),
        ("program", &own, program()),
    ];
    let encoded = |account: &Account| {
        let mut blob = Vec::new();
        account.encode(&mut blob);
        blob
    };
    let written: Vec<_> = accounts.iter().map(|(name, _, account)| (*name, encoded(account))).collect();
    let fixture = test_fixture::lines("state/accounts-v1.hex", &written);
    for ((name, identity, account), blob) in accounts.iter().zip(fixture) {
        let decoded = Account::decode(identity, &blob).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{account:?}"), "{name}");
    }
}

#[test]
fn spilled_facts_are_pinned() {
    let outcome = |refusal| FactValue::Outcome(Outcome { target: 4_711, fingerprint: 0x0123_4567_89ab_cdef, refusal });
    let facts = [
        ("outcome", FactKey::Key { hash: 1, business: false }, outcome(false)),
        ("refusal", FactKey::Key { hash: 1, business: true }, outcome(true)),
        ("reversed", FactKey::Reversed(1), FactValue::Reversed { points: 300, amount: 1_990 }),
        ("expired lot", FactKey::ExpiredLot(1), FactValue::ExpiredLot(300)),
        ("captured", FactKey::ClosedHold(1), FactValue::ClosedHold(ClosedHold { end: 4_711, captured: true })),
        ("released", FactKey::ClosedHold(1), FactValue::ClosedHold(ClosedHold { end: 4_711, captured: false })),
    ];
    let written: Vec<_> = facts.iter().map(|(name, _, value)| (*name, value.encode())).collect();
    let fixture = test_fixture::lines("state/facts.hex", &written);
    for ((name, key, value), bytes) in facts.iter().zip(fixture) {
        assert_eq!(FactValue::decode(key, &bytes).as_ref(), Ok(value), "{name}");
    }
}

/// Records with these tags lie in journals, and a replay must read in them what was decided.
#[test]
fn tags_that_only_accounts_read_are_pinned() {
    assert_eq!((extension::TIER_DUE, extension::EXPIRED_BEFORE), (16, 17));
    let identity = Identity::member("p", "m-1");
    let mut record = test_record::earn(Position::new(0, 3), identity.clone());
    let moved = |op, expires_at, points| Move { op, lot: LotKey::live(expires_at), points };
    record.moves = smallvec![
        moved(MoveOp::Grant, AT, 2),
        moved(MoveOp::Expire, AT, 2),
        moved(MoveOp::CountExpired, AT + 300, 100),
    ];
    put_tier_due(&mut record, AT + 2_000_000);
    put_expired_before(&mut record, &smallvec![(AT, 5), (AT + 300, 100)]);
    let mut bytes = Vec::new();
    encode(&record, &mut bytes);
    let fixture = test_fixture::lines("state/record-with-tags.hex", &[("tier due, expired before", bytes)]);
    let decoded = decode(record.position, &fixture[0]).unwrap();
    assert_eq!(decoded, record);
    let mut account = Account::blank();
    account.apply(&decoded);
    assert_eq!(account.tier_due, AT + 2_000_000);
    assert_eq!(account.rare().expired, [(AT, 7), (AT + 300, 0)]);
}
