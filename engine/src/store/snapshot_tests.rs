#![allow(clippy::unwrap_used)]

use meed_schemas::ids::AccountKind;

use super::*;

fn header() -> SnapshotHeader {
    SnapshotHeader { journal_id: std::array::from_fn(|i| i as u8), shards: 4, taken_at: 1_800_000_000_123 }
}

fn account(identity: Identity, blob: &[u8]) -> SnapshotRow {
    SnapshotRow::Account { identity, blob: blob.to_vec() }
}

fn fact(fact: FactKey, value: &[u8]) -> SnapshotRow {
    SnapshotRow::Fact { identity: Identity::member("default", "m-1"), fact, value: value.to_vec() }
}

fn key(class: KeyClass, hash: u128, week: u32) -> SnapshotRow {
    SnapshotRow::Key(SpilledKey { class, week, hash, value: *b"the outcome of a" })
}

fn shard(shard: u16) -> SnapshotRow {
    let totals = b"issued 10 redeemed 3".to_vec();
    SnapshotRow::Shard { shard, state: ShardState { replay_start: 4_712, totals, totals_sequence: 4_710, accounts: 5 } }
}

/// A row of every kind.
fn rows() -> Vec<SnapshotRow> {
    let mut accounts = vec![
        (Identity::member("default", "m-1"), b"first".to_vec()),
        (Identity::member("default", "m-2"), Vec::new()),
        (Identity::member("other", "m-1"), vec![0xff; 300]),
        (Identity::new("default", AccountKind::Stock, "reward-1"), b"stock".to_vec()),
        (Identity::program_account("default"), br#"{"name":"x"}"#.to_vec()),
    ];
    accounts.sort();
    let mut rows = vec![SnapshotRow::Meta { name: "settle-until".to_owned(), value: b"12345678".to_vec() }, shard(1)];
    rows.extend(accounts.into_iter().map(|(identity, blob)| account(identity, &blob)));
    let hash = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
    rows.extend([
        fact(FactKey::Reversed(77), b"r"),
        fact(FactKey::ExpiredLot(-5), b""),
        fact(FactKey::ClosedHold(u64::MAX), b"c"),
        key(KeyClass::Idempotency, hash, 2_900),
        key(KeyClass::Business, u128::MAX, 2_901),
        shard(3),
        account(Identity::member("default", "m-1"), b"of another shard"),
    ]);
    rows
}

fn written(rows: &[SnapshotRow]) -> Vec<u8> {
    let mut writer = SnapshotWriter::new(Vec::new(), Path::new("x"), &header()).unwrap();
    for row in rows {
        writer.row(row).unwrap();
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<(SnapshotHeader, Vec<SnapshotRow>)> {
    let mut reader = SnapshotReader::new(bytes, Path::new("x"))?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    assert_eq!(reader.next_row()?, None);
    Ok((reader.header().clone(), rows))
}

/// Snapshots are kept for years: version 2 is written and read as these bytes for ever. `UPDATE_FIXTURES=1`
/// makes the file where there is none.
#[test]
fn format_is_pinned() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/snapshot/v2.snapshot");
    if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
        std::fs::write(&path, written(&rows())).unwrap();
    }
    let fixture = std::fs::read(path).unwrap();
    assert_eq!(read(&fixture).unwrap(), (header(), rows()));
    assert_eq!(written(&rows()), fixture);
}

#[test]
fn an_empty_store_has_a_snapshot() {
    assert_eq!(read(&written(&[])).unwrap(), (header(), Vec::new()));
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let whole = written(&rows());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match read(&bytes) {
            Err(Error::Damaged { .. }) => {}
            Err(Error::NewerFormat { .. }) if (8..12).contains(&(bit / 8)) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    for length in 0..whole.len() {
        assert!(matches!(read(&whole[..length]), Err(Error::Damaged { .. })), "length {length}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(matches!(read(&longer), Err(Error::Damaged { .. })));
}

#[test]
fn the_writer_refuses_disorder() {
    let first = || account(Identity::member("default", "m-1"), b"");
    let second = || account(Identity::member("default", "m-2"), b"");
    let meta = || SnapshotRow::Meta { name: "a".to_owned(), value: Vec::new() };
    let reversed = || fact(FactKey::Reversed(1), b"");
    for disorder in [
        vec![first()],
        vec![reversed()],
        vec![shard(1), meta()],
        vec![shard(1), shard(1)],
        vec![shard(2), shard(1)],
        vec![shard(1), second(), first()],
        vec![shard(1), first(), first()],
        vec![shard(1), reversed(), first()],
        vec![shard(1), key(KeyClass::Business, 1, 2), first()],
        vec![shard(1), key(KeyClass::Business, 1, 2), reversed()],
    ] {
        let mut writer = SnapshotWriter::new(Vec::new(), Path::new("x"), &header()).unwrap();
        let (last, before) = disorder.split_last().unwrap();
        before.iter().for_each(|row| writer.row(row).unwrap());
        assert!(matches!(writer.row(last), Err(Error::Store { .. })), "{disorder:?}");
    }
}
