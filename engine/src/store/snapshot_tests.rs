#![allow(clippy::unwrap_used)]

use meed_schemas::ids::AccountKind;

use super::*;

fn header(accounts: u64) -> SnapshotHeader {
    SnapshotHeader { journal_id: std::array::from_fn(|i| i as u8), shard: 3, sequence: 4711, accounts }
}

fn accounts() -> Vec<(Identity, Vec<u8>)> {
    let mut accounts = vec![
        (Identity::member("default", "m-1"), b"first".to_vec()),
        (Identity::member("default", "m-2"), Vec::new()),
        (Identity::member("other", "m-1"), vec![0xff; 300]),
        (Identity::new("default", AccountKind::Stock, "reward-1"), b"stock".to_vec()),
        (Identity::program_account("default"), br#"{"name":"x"}"#.to_vec()),
    ];
    accounts.sort();
    accounts
}

fn totals() -> SnapshotTotals {
    SnapshotTotals { sequence: 4710, totals: b"issued 10 redeemed 3".to_vec() }
}

fn written() -> Vec<u8> {
    let mut writer = SnapshotWriter::new(Vec::new(), Path::new("x"), &header(5)).unwrap();
    for (identity, blob) in accounts() {
        writer.account(&identity, &blob).unwrap();
    }
    writer.finish(&totals()).unwrap()
}

type Whole = (SnapshotHeader, Vec<(Identity, Vec<u8>)>, SnapshotTotals);

fn read(bytes: &[u8]) -> Result<Whole> {
    let mut reader = SnapshotReader::new(bytes, Path::new("x"))?;
    let header = reader.header().clone();
    let mut accounts = Vec::new();
    while let Some(account) = reader.next_account()? {
        accounts.push(account);
    }
    Ok((header, accounts, reader.finish()?))
}

/// Snapshots are kept for years: version 1 is written and read as these bytes for ever.
#[test]
fn format_is_pinned() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/snapshot/v1.snapshot");
    let fixture = std::fs::read(path).unwrap();
    assert_eq!(read(&fixture).unwrap(), (header(5), accounts(), totals()));
    assert_eq!(written(), fixture);
}

#[test]
fn an_empty_shard_has_a_snapshot() {
    let nothing = SnapshotTotals { sequence: 0, totals: Vec::new() };
    let bytes = SnapshotWriter::new(Vec::new(), Path::new("x"), &header(0)).unwrap().finish(&nothing).unwrap();
    assert_eq!(read(&bytes).unwrap(), (header(0), Vec::new(), nothing));
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let whole = written();
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
fn the_writer_refuses_disorder_and_wrong_counts() {
    let first = Identity::member("default", "m-1");
    let second = Identity::member("default", "m-2");
    let writer = || SnapshotWriter::new(Vec::new(), Path::new("x"), &header(1)).unwrap();
    let mut unordered = SnapshotWriter::new(Vec::new(), Path::new("x"), &header(2)).unwrap();
    unordered.account(&second, b"").unwrap();
    assert!(unordered.account(&first, b"").is_err());
    assert!(unordered.account(&second, b"").is_err());
    let mut more = writer();
    more.account(&first, b"").unwrap();
    assert!(more.account(&second, b"").is_err());
    assert!(writer().finish(&totals()).is_err());
}
