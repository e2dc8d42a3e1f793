#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::test_fixture;

const SECRET: [u8; 32] = [9; 32];
const JOURNAL: [u8; 16] = [1; 16];
const PHONE: &str = "phone:+6281234567890";
const ACCOUNT: &str = "member-number-one";

fn open(dir: &TempDir) -> AliasTable {
    AliasTable::open(&dir.path().join("aliases"), JOURNAL, &SECRET, &AliasOptions::default()).unwrap()
}

fn put(table: &mut AliasTable, program: &str, alias: &str, account: &str) -> PutOutcome {
    let mut pending = Pending::default();
    let outcome = table.put(&mut pending, program, alias, account).unwrap();
    table.commit(pending).unwrap();
    outcome
}

fn delete(table: &mut AliasTable, program: &str, account: &str, alias: &str) -> bool {
    let mut pending = Pending::default();
    let deleted = table.delete(&mut pending, program, account, alias).unwrap();
    table.commit(pending).unwrap();
    deleted
}

fn rows(table: &AliasTable) -> (usize, usize) {
    (table.aliases.len().unwrap(), table.accounts.len().unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The files under a folder in which these bytes stand.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let has = |path: &PathBuf| std::fs::read(path).unwrap().windows(bytes.len()).any(|w| w == bytes);
    files(folder).into_iter().filter(has).collect()
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    assert_eq!(put(&mut table, "p", PHONE, "m-1"), PutOutcome::New);
    assert_eq!(put(&mut table, "p", PHONE, "m-1"), PutOutcome::Same);
    assert_eq!(put(&mut table, "p", PHONE, "m-2"), PutOutcome::TakenBy("m-1".to_owned()));
    assert_eq!(put(&mut table, "p", "card:1", "m-1"), PutOutcome::New);
    assert_eq!(put(&mut table, "q", PHONE, "m-2"), PutOutcome::New);
    for _ in 0..2 {
        assert_eq!(table.resolve("p", PHONE).unwrap().unwrap(), "m-1");
        assert_eq!(table.resolve("q", PHONE).unwrap().unwrap(), "m-2");
        assert_eq!(table.resolve("p", "card:2").unwrap(), None);
        assert_eq!(table.resolve("r", PHONE).unwrap(), None);
        assert_eq!(table.list("p", "m-1").unwrap(), ["card:1", PHONE]);
        assert_eq!(table.list("q", "m-2").unwrap(), [PHONE]);
        assert_eq!(table.list("p", "m-2").unwrap(), [""; 0]);
        drop(table);
        table = open(&dir);
    }
    assert!(!delete(&mut table, "p", "m-2", PHONE), "another account's");
    assert!(delete(&mut table, "p", "m-1", PHONE));
    assert!(!delete(&mut table, "p", "m-1", PHONE));
    assert_eq!(table.list("p", "m-1").unwrap(), ["card:1"]);
    assert_eq!(table.resolve("q", PHONE).unwrap().unwrap(), "m-2");
    assert_eq!(put(&mut table, "p", PHONE, "m-2"), PutOutcome::New);
}

/// Rows and slots of other bytes would be aliases that are there and lead nowhere.
#[test]
fn rows_and_slots_are_pinned() {
    let (dir, key) = (tempfile::tempdir().unwrap(), std::array::from_fn(|i| i as u8));
    let mut table = open(&dir);
    let taken = [table.slots.take().unwrap(), table.slots.take().unwrap()];
    let mut pending = Pending { keys: vec![(taken[1], key)], ..Pending::default() };
    pending.added.extend(table.hasher.rows((taken[1], &key), 0x0102_0304_0506_0708, "p", PHONE, ACCOUNT).unwrap());
    let slots_path = dir.path().join("aliases/alias-keys");
    table.slots.write(taken[1], Some(&key)).unwrap();
    let slots = std::fs::read(&slots_path).unwrap();
    let names = [["key by alias", "row by alias"], ["key by account", "row by account"]];
    let named = pending.added.iter().zip(names);
    let mut written: Vec<_> =
        named.flat_map(|((_, key, row), names)| [(names[0], key.clone()), (names[1], row.clone())]).collect();
    written.push(("header and the first two slots", slots[..3 * 32].to_vec()));
    let fixture = test_fixture::lines("aliases/v1.hex", &written);
    // What the fixture has is found in a table that nobody has put anything into.
    drop(table);
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    table.slots.take().unwrap();
    let [alias_key, alias_row, account_key, account_row, slots] = &fixture[..] else { panic!("five lines") };
    pending.added = vec![
        (Table::Aliases, alias_key.clone(), alias_row.clone()),
        (Table::Accounts, account_key.clone(), account_row.clone()),
    ];
    pending.keys.clear();
    table.commit(pending).unwrap();
    let path = dir.path().join("aliases/alias-keys");
    drop(table);
    let rest = std::fs::read(&path).unwrap().split_off(slots.len());
    std::fs::write(&path, [&slots[..], &rest].concat()).unwrap();
    let table = open(&dir);
    assert_eq!(table.resolve("p", PHONE).unwrap().unwrap(), ACCOUNT);
    assert_eq!(table.list("p", ACCOUNT).unwrap(), [PHONE]);
}

#[test]
fn the_seventeenth_alias_is_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    for n in 0..16 {
        assert_eq!(put(&mut table, "p", &format!("card:{n}"), "m-1"), PutOutcome::New);
    }
    assert_eq!(put(&mut table, "p", "card:16", "m-1"), PutOutcome::TooMany);
    assert_eq!(put(&mut table, "p", "card:3", "m-1"), PutOutcome::Same);
    assert_eq!(put(&mut table, "q", "card:16", "m-1"), PutOutcome::New);
    assert!(delete(&mut table, "p", "m-1", "card:3"));
    assert_eq!(put(&mut table, "p", "card:16", "m-1"), PutOutcome::New);
}

#[test]
fn nothing_readable_is_on_disk_and_nothing_at_all_after_a_delete() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    put(&mut table, "p", PHONE, ACCOUNT);
    let alias_key = table.hasher.alias("p", PHONE).to_be_bytes();
    let old_row = table.aliases.get(alias_key).unwrap().unwrap().to_vec();
    let (slot, sealed) = split_row(&old_row).unwrap();
    let row_key = table.slots.key(slot).unwrap().unwrap();
    assert!(unseal(&row_key, NONCE_OF_ALIAS_ROW, &alias_key, sealed).is_some());
    // Also in tables, not in fjall's journal alone.
    for keyspace in [&table.aliases, &table.accounts] {
        keyspace.rotate_memtable_and_wait().unwrap();
    }
    for text in [PHONE, "6281234567890", ACCOUNT] {
        assert_eq!(files_with(dir.path(), text.as_bytes()), Vec::<PathBuf>::new(), "before the delete");
    }
    assert_eq!(files_with(dir.path(), &row_key).len(), 1, "the key stands in its slot alone");

    assert!(delete(&mut table, "p", ACCOUNT, PHONE));
    assert_eq!(files_with(dir.path(), &row_key), Vec::<PathBuf>::new(), "the key is gone from all files");
    assert!(!files_with(dir.path(), sealed).is_empty(), "the storage engine still holds the row");
    assert_eq!(table.slots.key(slot).unwrap(), None);
    assert_eq!(unseal(&[0; 32], NONCE_OF_ALIAS_ROW, &alias_key, sealed), None);
    // The slot is used again, with a key that does not open the old row.
    put(&mut table, "p", PHONE, "another");
    let next_key = table.slots.key(slot).unwrap().unwrap();
    assert_eq!(unseal(&next_key, NONCE_OF_ALIAS_ROW, &alias_key, sealed), None);
    assert_eq!(table.resolve("p", PHONE).unwrap().unwrap(), "another");
}

#[test]
fn a_put_that_crashed_before_its_rows_did_not_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    put(&mut table, "p", "card:1", "m-1");
    let mut pending = Pending::default();
    assert_eq!(table.put(&mut pending, "p", PHONE, "m-1").unwrap(), PutOutcome::New);
    table.write_slots(&pending).unwrap();
    drop(table);
    let mut table = open(&dir);
    assert_eq!(table.resolve("p", PHONE).unwrap(), None);
    assert_eq!(table.list("p", "m-1").unwrap(), ["card:1"]);
    assert_eq!(table.slots.used_slots().count(), 1, "the orphan slot is reclaimed");
    assert_eq!(table.slots.key(pending.keys[0].0).unwrap(), None);
    assert_eq!(put(&mut table, "p", PHONE, "m-2"), PutOutcome::New);
}

#[test]
fn a_delete_that_crashed_before_its_rows_did_happen() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    put(&mut table, "p", "card:1", "m-1");
    put(&mut table, "p", PHONE, "m-1");
    let mut pending = Pending::default();
    assert!(table.delete(&mut pending, "p", "m-1", PHONE).unwrap());
    table.write_slots(&pending).unwrap();
    assert_eq!(table.resolve("p", PHONE).unwrap(), None);
    assert_eq!(table.list("p", "m-1").unwrap(), ["card:1"]);
    drop(table);
    let mut table = open(&dir);
    assert_eq!(rows(&table), (1, 1), "the rows are removed");
    assert_eq!(table.resolve("p", PHONE).unwrap(), None);
    assert_eq!(table.list("p", "m-1").unwrap(), ["card:1"]);
    assert_eq!(put(&mut table, "p", PHONE, "m-2"), PutOutcome::New);
    drop(table);
    let table = open(&dir);
    assert_eq!(table.resolve("p", PHONE).unwrap().unwrap(), "m-2");
    assert_eq!(table.resolve("p", "card:1").unwrap().unwrap(), "m-1");
}

#[test]
fn a_put_or_delete_that_crashed_after_its_rows_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    put(&mut table, "p", "card:1", "m-1");
    let mut pending = Pending::default();
    table.delete(&mut pending, "p", "m-1", "card:1").unwrap();
    table.put(&mut pending, "p", PHONE, "m-2").unwrap();
    table.write_slots(&pending).unwrap();
    table.commit_rows(&pending).unwrap();
    drop(table);
    let table = open(&dir);
    assert_eq!(rows(&table), (1, 1));
    assert_eq!(table.resolve("p", "card:1").unwrap(), None);
    assert_eq!(table.resolve("p", PHONE).unwrap().unwrap(), "m-2");
    assert_eq!(table.slots.used_slots().count(), 1);
}

#[test]
fn slots_are_reused_and_the_file_grows() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    let mut pending = Pending::default();
    for n in 0..1500 {
        table.put(&mut pending, "p", &format!("card:{n}"), &format!("m-{n}")).unwrap();
    }
    table.commit(pending).unwrap();
    assert_eq!(table.slots.slots(), 2048);
    for round in 0..3 {
        for n in [3, 700, 1499] {
            assert!(delete(&mut table, "p", &format!("m-{n}"), &format!("card:{n}")), "round {round}");
        }
        drop(table);
        table = open(&dir);
        for n in [3, 700, 1499] {
            put(&mut table, "p", &format!("card:{n}"), &format!("m-{n}"));
        }
    }
    assert_eq!(table.slots.used_slots().collect::<Vec<_>>(), (0..1500).collect::<Vec<_>>());
    for n in 0..1500 {
        assert_eq!(table.resolve("p", &format!("card:{n}")).unwrap().unwrap(), format!("m-{n}"));
    }
}

#[test]
fn missing_or_foreign_files_are_refused() {
    let refused = |spoil: &dyn Fn(&Path), journal_id: [u8; 16]| {
        let dir = tempfile::tempdir().unwrap();
        put(&mut open(&dir), "p", PHONE, "m-1");
        let folder = dir.path().join("aliases");
        spoil(&folder);
        AliasTable::open(&folder, journal_id, &SECRET, &AliasOptions::default()).err().unwrap()
    };
    let keys = |folder: &Path| folder.join("alias-keys");
    let nothing = |_: &Path| {};
    let no_keys = |folder: &Path| std::fs::remove_file(keys(folder)).unwrap();
    let no_rows = |folder: &Path| std::fs::remove_dir_all(folder.join("rows")).unwrap();
    let cut = |folder: &Path| {
        std::fs::OpenOptions::new().write(true).open(keys(folder)).unwrap().set_len(32).unwrap();
    };
    let flipped = |folder: &Path| {
        let mut bytes = std::fs::read(keys(folder)).unwrap();
        bytes[14] ^= 1;
        std::fs::write(keys(folder), bytes).unwrap();
    };
    assert!(matches!(refused(&nothing, [2; 16]), Error::Mismatch { .. }));
    assert!(matches!(refused(&no_keys, JOURNAL), Error::Damaged { .. }));
    assert!(matches!(refused(&no_rows, JOURNAL), Error::Damaged { .. }));
    assert!(matches!(refused(&cut, JOURNAL), Error::Damaged { .. }));
    assert!(matches!(refused(&flipped, JOURNAL), Error::Damaged { .. }));
}

#[test]
fn a_damaged_key_is_damage_and_not_an_unknown_alias() {
    let dir = tempfile::tempdir().unwrap();
    let mut table = open(&dir);
    put(&mut table, "p", PHONE, "m-1");
    table.slots.write(0, Some(&[5; 32])).unwrap();
    assert!(matches!(table.resolve("p", PHONE), Err(Error::Damaged { .. })));
    assert!(matches!(table.list("p", "m-1"), Err(Error::Damaged { .. })));
}
