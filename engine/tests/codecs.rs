//! What lies in the state store and in snapshots: it comes back, and bytes that are none of it are an error, never a
//! panic.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use std::collections::BTreeMap;
use std::path::Path;

use meed_engine::account::Account;
use meed_engine::error::Error;
use meed_engine::random::Random;
use meed_engine::store::snapshot::{SnapshotHeader, SnapshotReader, SnapshotTotals, SnapshotWriter};
use meed_schemas::command::{Keys, Portion};
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::record::RecordKind;
use meed_schemas::time::DAY_MS;
use model::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

/// An account that has been through a random history, and its blob.
fn used(seed: u64, steps: usize) -> (Identity, Vec<u8>) {
    let mut w = World::new(
        r#"{"expiry":{"days":20},"negative_balance":{"policy":"debt","floor":-50},"late_days_max":null,
            "tiers":{"window":"lifetime","levels":[{"name":"A","from":"0","multiplier":"1"},
            {"name":"B","from":"60","multiplier":"1.5"}]}}"#,
    );
    let mut random = Random(seed);
    for step in 0..steps {
        if random.chance(20) {
            w.now += random.between(0, 5 * DAY_MS);
        }
        let held: Vec<_> = w.journal.iter().filter(|r| is(r, RecordKind::Hold)).map(|r| r.position).collect();
        let earned: Vec<_> = w.journal.iter().filter(|r| is(r, RecordKind::Earn)).cloned().collect();
        let now = w.now;
        let points = random.between(1, 40);
        let command = match random.below(9) {
            3 => redeem(points),
            4 => hold(points, Some(random.between(1, 600_000))),
            5 if !held.is_empty() => capture(*random.pick(&held), None),
            6 if !held.is_empty() => void(*random.pick(&held)),
            7 if !earned.is_empty() => reverse(random.pick(&earned), Portion::Rest),
            8 => set_tier(Some("B"), Some(now + 3 * DAY_MS)),
            2 => earn(meed_schemas::command::Basis::Points(points), None, None, Some(now + DAY_MS)),
            _ => earn_amount(points * 100),
        };
        let business = random.chance(30).then_some(step as u128);
        w.ask_with(command, Keys { idempotency: random.chance(50).then_some(step as u128), business });
        if !w.journal.is_empty() {
            w.check();
        }
        if random.chance(10) {
            w.checkpoint();
        }
    }
    let mut blob = Vec::new();
    w.account.encode(&mut blob);
    (w.identity, blob)
}

/// What is decoded is an account like any other: it can be written, and comes back.
fn stays(identity: &Identity, blob: &[u8]) -> bool {
    let Ok(account) = Account::decode(identity, blob) else { return false };
    let mut again = Vec::new();
    account.encode(&mut again);
    let mut third = Vec::new();
    Account::decode(identity, &again).unwrap().encode(&mut third);
    assert_eq!(again, third);
    true
}

fn identity() -> impl Strategy<Value = Identity> {
    ("[!-~]{1,16}", 1..=5u8, "[!-~]{1,16}")
        .prop_map(|(program, kind, id)| Identity::new(&program, AccountKind::from_byte(kind).unwrap(), &id))
}

type Whole = (SnapshotHeader, Vec<(Identity, Vec<u8>)>, SnapshotTotals);

fn read(bytes: &[u8]) -> Result<Whole, Error> {
    let mut reader = SnapshotReader::new(bytes, Path::new("x"))?;
    let header = reader.header().clone();
    let mut accounts = Vec::new();
    while let Some(account) = reader.next_account()? {
        accounts.push(account);
    }
    Ok((header, accounts, reader.finish()?))
}

prop_compose! {
    fn snapshot()(
        journal_id in any::<[u8; 16]>(),
        (shard, sequence, totals_sequence) in (0..4_096u16, any::<u64>(), any::<u64>()),
        accounts in btree_map(identity(), vec(any::<u8>(), 0..60), 0..8),
        totals in vec(any::<u8>(), 0..40),
    ) -> (Whole, Vec<u8>) {
        let accounts: BTreeMap<Identity, Vec<u8>> = accounts;
        let header = SnapshotHeader { journal_id, shard, sequence, accounts: accounts.len() as u64 };
        let totals = SnapshotTotals { sequence: totals_sequence, totals };
        let mut writer = SnapshotWriter::new(Vec::new(), Path::new("x"), &header).unwrap();
        for (identity, blob) in &accounts {
            writer.account(identity, blob).unwrap();
        }
        let bytes = writer.finish(&totals).unwrap();
        ((header, accounts.into_iter().collect(), totals), bytes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blobs_come_back_and_damaged_ones_never_panic(
        seed in any::<u64>(),
        steps in 1..60usize,
        changes in vec((any::<Index>(), any::<u8>()), 200),
        tail in vec(any::<u8>(), 1..20),
    ) {
        let (identity, blob) = used(seed, steps);
        prop_assert!(stays(&identity, &blob));
        for end in 0..blob.len() {
            prop_assert!(Account::decode(&identity, &blob[..end]).is_err(), "cut at {} of {}", end, blob.len());
        }
        let longer = [&blob[..], &tail].concat();
        prop_assert!(Account::decode(&identity, &longer).is_err());
        for (at, byte) in changes {
            let mut damaged = blob.clone();
            damaged[at.index(blob.len())] = byte;
            stays(&identity, &damaged);
        }
    }

    #[test]
    fn arbitrary_blobs_never_panic(identity in identity(), tail in vec(any::<u8>(), 0..200)) {
        stays(&identity, &tail);
        stays(&identity, &[&[1], &tail[..]].concat());
    }

    #[test]
    fn snapshots_come_back_and_any_change_is_found(
        (whole, bytes) in snapshot(),
        changes in vec((any::<Index>(), 1..=255u8), 30),
        tail in vec(any::<u8>(), 1..20),
    ) {
        prop_assert_eq!(read(&bytes).unwrap(), whole);
        for (at, change) in changes {
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= change;
            prop_assert!(read(&damaged).is_err());
            prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
        }
        prop_assert!(read(&[&bytes[..], &tail].concat()).is_err());
    }
}
