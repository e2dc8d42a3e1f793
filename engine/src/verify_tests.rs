#![allow(clippy::unwrap_used)]

use meed_schemas::codec;
use meed_schemas::ids::Position;
use meed_schemas::record::{LotKey, Move, MoveOp, RecordKind};
use meed_schemas::time::NEVER;

use super::*;
use crate::journal::{Journal, JournalOptions, Part, Prepare, Run, frame};
use crate::shard::encode_state;
use crate::store::{AccountWrite, ShardCheckpoint, ShardState};
use crate::test_record;

const PROGRAM: &str = r#"{"name":"test","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":"1.00"},
    "negative_balance":{"policy":"debt","floor":-5}}"#;

fn record(sequence: u64, identity: Identity, kind: RecordKind, detail: Detail) -> Record {
    let position = Position::new(0, sequence);
    let empty =
        Record { sequence: 1, points: 0, balances: Balances::default(), ..test_record::earn(position, identity) };
    Record { kind, detail, ..empty }
}

fn moved(op: MoveOp, points: i64) -> Move {
    Move { op, lot: LotKey::live(NEVER), points }
}

/// A program with a floor, an account that earns, redeems all and is brought down to the floor, and another.
fn records() -> Vec<Record> {
    let member = |id| Identity::member("p", id);
    let earn = || Detail::Earn { expires_at: NEVER, activates_at: None, award: None, redemption: None };
    let adjust = Detail::Adjust { expires_at: NEVER, activates_at: None };
    let document = Detail::Program { document: PROGRAM.into() };
    let mut records = vec![
        record(1, Identity::program_account("p"), RecordKind::Program, document),
        record(2, member("m-1"), RecordKind::Earn, earn()),
        record(3, member("m-1"), RecordKind::Redeem, Detail::Redeem { hold: None }),
        record(4, member("m-1"), RecordKind::Adjust, adjust),
        record(5, member("m-2"), RecordKind::Earn, earn()),
    ];
    for (index, sequence, previous, op, points, total) in [
        (1, 1, 0, MoveOp::Grant, 10, 10),
        (2, 2, 2, MoveOp::Burn, -10, 0),
        (3, 3, 3, MoveOp::Owe, -5, -5),
        (4, 1, 0, MoveOp::Grant, 7, 7),
    ] {
        let record: &mut Record = &mut records[index];
        (record.sequence, record.previous, record.points) = (sequence, previous, points);
        record.balances = Balances { total, debt: -total.min(0), ..Balances::default() };
        record.moves.push(moved(op, points.abs()));
    }
    records
}

/// The checkpoint that is right for these records.
fn checkpoint(records: &[Record]) -> ShardCheckpoint {
    let mut accounts: BTreeMap<Identity, Account> = BTreeMap::new();
    let mut totals = Totals::default();
    for record in records {
        accounts.entry(record.identity.clone()).or_insert_with(Account::blank).apply(record);
        totals.add(record);
    }
    let write = |(identity, account): (Identity, Account)| {
        let mut blob = Vec::new();
        account.encode(&mut blob);
        AccountWrite { identity, blob, due_before: None, due: None, facts: Vec::new() }
    };
    let (last, accounts) = (records.len() as u64, accounts.into_iter().map(write).collect::<Vec<_>>());
    let totals = encode_state(records[records.len() - 1].recorded_at, &totals);
    let state = ShardState { replay_start: last + 1, totals, totals_sequence: last, accounts: accounts.len() as u64 };
    ShardCheckpoint { shard: 0, accounts, keys: Vec::new(), state }
}

/// Writes a batch per record, so that every checksum is right whatever the records say.
fn write(folder: &Path, records: &[Record]) -> JournalReader {
    let options = JournalOptions { segment_bytes: 16 * 1024, prepare: Prepare::Steps, ..JournalOptions::new(1) };
    let (mut journal, reader, _) = Journal::open(Disk::default(), folder, options).unwrap();
    for record in records {
        let mut bytes = Vec::new();
        let start = frame::begin(&mut bytes, record.position);
        codec::encode(record, &mut bytes);
        frame::finish(&mut bytes, start).unwrap();
        let runs = [Run { shard: 0, first_sequence: record.position.sequence(), count: 1 }];
        journal.write(&[Part { bytes: &bytes, runs: &runs }]).unwrap();
        journal.sync().unwrap();
    }
    journal.close().unwrap();
    reader
}

/// What is wrong, in records or checkpoint; the store is that of the records, wrong or not.
enum Wrong {
    Records(fn(&mut [Record])),
    Store(fn(&mut ShardCheckpoint)),
}

/// Where a complaint points to: a record by its sequence, the batch of one, or the state store.
enum At {
    Record(u64),
    Batch(u64),
    Store,
}

/// What is wrong, where it is found, which account is named, and what is said of it.
type Row = (Wrong, At, &'static str, &'static str);

fn of_account<'a>(checkpoint: &'a mut ShardCheckpoint, id: &str) -> &'a mut AccountWrite {
    checkpoint.accounts.iter_mut().find(|write| write.identity.id() == id).unwrap()
}

/// The state of the account m-2 after another earn than its own.
fn other_state(sequence: u64, points: i64) -> Vec<u8> {
    let mut records = records();
    let record = &mut records[4];
    (record.position, record.moves[0].points) = (Position::new(0, sequence), points);
    let mut account = Account::blank();
    account.apply(record);
    let mut blob = Vec::new();
    account.encode(&mut blob);
    blob
}

fn rows() -> Vec<Row> {
    use At::{Batch, Record, Store};
    let records = Wrong::Records;
    let store = Wrong::Store;
    vec![
        (records(|r| r[2].sequence = 3), Record(3), "p/Member/m-1", "its sequence is 3, after 1"),
        (records(|r| r[3].previous = 2), Record(4), "p/Member/m-1", "it points back to 2, the previous effect is 3"),
        (records(|r| r[4].previous = 4), Record(5), "p/Member/m-2", "it points back to 4, the previous effect is 0"),
        (records(|r| r[4].points = 8), Batch(5), "p/Member/m-2", "Σ points is 8, total and pending are 7 and 0"),
        (records(|r| r[4].balances.total = 8), Batch(5), "p/Member/m-2", "its last record shows Balances { total: 8,"),
        (
            records(|r| {
                (r[3].points, r[3].moves[0].points) = (-6, 6);
                (r[3].balances.total, r[3].balances.debt) = (-6, 6);
            }),
            Batch(4),
            "p/Member/m-1",
            "-6 points are available, the floor is -5",
        ),
        (
            records(|r| (r[4].kind, r[4].detail) = (RecordKind::Open, Detail::None)),
            Store,
            "program p",
            "totals give -5 outstanding, accounts 2",
        ),
        (
            store(|c| of_account(c, "m-2").blob = other_state(5, 8)),
            Record(5),
            "p/Member/m-2",
            "the state store has another state at this record",
        ),
        (
            store(|c| c.state.totals = checkpoint(&self::records()[..4]).state.totals),
            Record(5),
            "p/Member/m-2",
            "the state store has other totals at this record",
        ),
        (
            store(|c| c.accounts.retain(|write| write.identity.id() != "m-1")),
            Store,
            "p/Member/m-1",
            "it covers shard 0 up to record 5 and lacks account",
        ),
        (
            store(|c| of_account(c, "m-2").blob = other_state(4, 7)),
            Store,
            "p/Member/m-2",
            "has a state of record 4, which is not its",
        ),
        (store(|c| of_account(c, "m-2").blob = other_state(6, 7)), Store, "p/Member/m-2", "is ahead of the journal"),
        (
            store(|c| c.state.replay_start = 7),
            Store,
            "shard 0",
            "its checkpoint is ahead of the journal, which ends at 5",
        ),
    ]
}

fn checked(folder: &Path, records: &[Record], checkpoint: &ShardCheckpoint) -> (JournalReader, Result<VerifyReport>) {
    let reader = write(&folder.join("journal"), records);
    let mut store = Store::in_memory();
    store.checkpoint(checkpoint).unwrap();
    let report = check(&Disk::default(), folder, &reader, Some(&store), None, &reader.last_sequence());
    (reader, report)
}

/// File and offset of a batch and of its only record, by the record's sequence.
fn place(reader: &JournalReader, sequence: u64) -> (PathBuf, u64, u64) {
    let mut found = None;
    let mut visit = |batch: &BatchView<'_>| {
        let record = batch.records().find(|record| record.position.sequence() == sequence);
        found = record.map(|record| (batch.file.to_path_buf(), batch.offset, record.offset)).or(found.take());
        Ok(())
    };
    reader.scan_batches(1, &mut visit).unwrap();
    found.unwrap()
}

#[test]
fn a_journal_whose_checksums_are_right_is_still_held_against_the_invariants() {
    let folder = tempfile::tempdir().unwrap();
    let (_, report) = checked(folder.path(), &records(), &checkpoint(&records()));
    let report = report.unwrap();
    assert_eq!((report.records, report.accounts, report.blobs), (5, 3, 3));
    let mut complaints = Vec::new();
    for (wrong, at, who, what) in rows() {
        let (folder, mut records) = (tempfile::tempdir().unwrap(), records());
        if let Wrong::Records(change) = wrong {
            change(&mut records);
        }
        let mut checkpoint = checkpoint(&records);
        if let Wrong::Store(change) = wrong {
            change(&mut checkpoint);
        }
        let (reader, report) = checked(folder.path(), &records, &checkpoint);
        let (file, offset) = match at {
            At::Record(sequence) => (place(&reader, sequence).0, place(&reader, sequence).2),
            At::Batch(sequence) => (place(&reader, sequence).0, place(&reader, sequence).1),
            At::Store => ("state".into(), 0),
        };
        let is_found = match &report {
            Err(Error::Damaged { file: found, offset: found_at, detail }) => {
                (found, *found_at) == (&file, offset) && detail.contains(who) && detail.contains(what)
            }
            _ => false,
        };
        if !is_found {
            complaints.push(format!("{what}: {:?}", report.map(|report| report.records)));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
