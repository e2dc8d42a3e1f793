#![allow(clippy::unwrap_used)]

mod measure;
mod merges;
mod random;
mod torn;

use super::*;
use tempfile::TempDir;

const JOURNAL: [u8; 16] = [7; 16];

fn small() -> StoreOptions {
    StoreOptions { cache_bytes: 4 << 20, memtable_bytes: 4 << 20, open_files: 64 }
}

fn open(dir: &TempDir) -> Store {
    Store::open(&dir.path().join("state"), JOURNAL, &small()).unwrap()
}

/// Runs a test on both kinds of store.
fn on_both(test: impl Fn(&mut Store)) {
    test(&mut Store::in_memory());
    let dir = tempfile::tempdir().unwrap();
    test(&mut open(&dir));
}

fn member(id: u64) -> Identity {
    Identity::member("default", &format!("m-{id:06}"))
}

fn write(identity: Identity, blob: &[u8]) -> AccountWrite {
    AccountWrite { identity, blob: blob.to_vec(), due_before: None, due: None, facts: Vec::new() }
}

fn checkpoint(shard: u16, replay_start: u64, accounts: Vec<AccountWrite>) -> ShardCheckpoint {
    let state = ShardState {
        replay_start,
        totals: format!("totals at {replay_start}").into_bytes(),
        totals_sequence: replay_start,
        accounts: accounts.len() as u64,
    };
    ShardCheckpoint { shard, accounts, keys: Vec::new(), state }
}

fn key(class: KeyClass, hash: u128, week: u32, value: &[u8]) -> SpilledKey {
    SpilledKey { class, hash, week, value: padded(value) }
}

fn padded(value: &[u8]) -> [u8; KEY_VALUE_BYTES] {
    std::array::from_fn(|i| value.get(i).copied().unwrap_or(b' '))
}

fn find(class: KeyClass, hash: u128, weeks: RangeInclusive<u32>) -> FactQuery {
    FactQuery::Key { class, hash, weeks }
}

#[test]
fn a_checkpoint_is_there_after_a_kill_without_sync() {
    let dir = tempfile::tempdir().unwrap();
    let mut account = write(member(1), b"blob");
    account.due = Some(5);
    account.facts = vec![(FactKey::Reversed(9), b"r".to_vec())];
    let keys = vec![key(KeyClass::Business, 1, 7, b"k")];
    let written = ShardCheckpoint { keys, ..checkpoint(2, 10, vec![account]) };
    let copy = tempfile::tempdir().unwrap();
    {
        let mut store = open(&dir);
        store.checkpoint(&written).unwrap();
        // What a kill leaves is what the files hold while the store is open.
        copy_folder(&dir.path().join("state"), &copy.path().join("state"));
    }
    for dir in [&dir, &copy] {
        let mut store = open(dir);
        assert_eq!(store.shard_state(2).unwrap(), Some(written.state.clone()));
        assert_eq!(store.load(2, &member(1)).unwrap().unwrap(), b"blob");
        assert_eq!(store.due(2, 9, None, 9).unwrap(), vec![(5, member(1))]);
        assert_eq!(store.spilled(2, &member(1), &FactQuery::Reversed(9)).unwrap().unwrap(), b"r");
        let query = find(KeyClass::Business, 1, 0..=9);
        assert_eq!(store.spilled(2, &member(1), &query).unwrap().unwrap(), padded(b"k"));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Cuts the files of a killed store at every byte of the last checkpoints: a start sees a whole number of
/// them, blobs and replay start together.
#[test]
fn a_torn_checkpoint_is_not_seen_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir);
    let journal_file = dir.path().join("state/0.jnl");
    let written_so_far = || std::fs::read(&journal_file).unwrap();
    let batch = |n: u64| {
        let accounts = (0..3).map(|id| write(member(id), format!("blob {n}").as_bytes())).collect();
        checkpoint(1, n, accounts)
    };
    store.checkpoint(&batch(1)).unwrap();
    let one = written_so_far();
    store.checkpoint(&batch(2)).unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy_folder(&dir.path().join("state"), &killed.path().join("state"));
    let two = written_so_far();
    let end = (0..two.len()).rfind(|i| one.get(*i) != two.get(*i)).unwrap() + 1;
    let start = (0..two.len()).find(|i| one.get(*i) != two.get(*i)).unwrap();
    assert!(end > start + 100);
    for cut in (start..=end).step_by(13).chain([end]) {
        let torn = tempfile::tempdir().unwrap();
        copy_folder(&killed.path().join("state"), &torn.path().join("state"));
        let file = std::fs::OpenOptions::new().write(true).open(torn.path().join("state/0.jnl")).unwrap();
        file.set_len(cut as u64).unwrap();
        let store = open(&torn);
        let seen = store.shard_state(1).unwrap().unwrap().replay_start;
        assert_eq!(seen, if cut == end { 2 } else { 1 }, "cut at {cut} of {start}..{end}");
        for id in 0..3 {
            let blob = store.load(1, &member(id)).unwrap().unwrap();
            assert_eq!(blob, format!("blob {seen}").into_bytes(), "cut at {cut}");
        }
    }
}

#[test]
fn absent_things_are_none() {
    on_both(|store| {
        assert_eq!(store.load(0, &member(1)).unwrap(), None);
        assert_eq!(store.shard_state(0).unwrap(), None);
        assert_eq!(store.meta("x").unwrap(), None);
        assert_eq!(store.due(0, Millis::MAX, None, 10).unwrap(), vec![]);
        store.checkpoint(&checkpoint(0, 1, vec![write(member(1), b"a")])).unwrap();
        assert_eq!(store.load(0, &member(2)).unwrap(), None);
        assert_eq!(store.load(1, &member(1)).unwrap(), None);
        assert_eq!(store.spilled(0, &member(1), &FactQuery::Reversed(1)).unwrap(), None);
        assert_eq!(store.spilled(0, &member(1), &find(KeyClass::Business, 1, 0..=u32::MAX)).unwrap(), None);
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = find(KeyClass::Business, 1, 5..=1);
        assert_eq!(store.spilled(0, &member(1), &backwards).unwrap(), None);
    });
}

#[test]
fn the_due_row_is_replaced() {
    on_both(|store| {
        let mut account = write(member(1), b"a");
        account.due = Some(100);
        store.checkpoint(&checkpoint(0, 1, vec![account.clone()])).unwrap();
        assert_eq!(store.due(0, 99, None, 10).unwrap(), vec![]);
        assert_eq!(store.due(0, 100, None, 10).unwrap(), vec![(100, member(1))]);
        assert_eq!(store.due(1, Millis::MAX, None, 10).unwrap(), vec![]);
        (account.due_before, account.due) = (Some(100), Some(50));
        store.checkpoint(&checkpoint(0, 2, vec![account.clone()])).unwrap();
        assert_eq!(store.due(0, 200, None, 10).unwrap(), vec![(50, member(1))]);
        (account.due_before, account.due) = (Some(50), Some(50));
        store.checkpoint(&checkpoint(0, 3, vec![account.clone()])).unwrap();
        assert_eq!(store.due(0, 200, None, 10).unwrap(), vec![(50, member(1))]);
        (account.due_before, account.due) = (Some(50), None);
        store.checkpoint(&checkpoint(0, 4, vec![account.clone()])).unwrap();
        assert_eq!(store.due(0, Millis::MAX, None, 10).unwrap(), vec![]);
        // Earlier than all that was ever looked at.
        (account.due_before, account.due) = (None, Some(-5));
        store.checkpoint(&checkpoint(0, 5, vec![account])).unwrap();
        assert_eq!(store.due(0, 0, None, 10).unwrap(), vec![(-5, member(1))]);
    });
}

#[test]
fn a_sweep_goes_on_after_the_last_pair() {
    on_both(|store| {
        let due = |id: u64, at| AccountWrite { due: Some(at), ..write(member(id), b"a") };
        let accounts = (0..30).map(|id| due(id, 1000 - id as i64 / 3)).collect();
        store.checkpoint(&checkpoint(4095, 1, accounts)).unwrap();
        store.checkpoint(&checkpoint(4094, 1, vec![due(99, 1)])).unwrap();
        let mut all = Vec::new();
        loop {
            let some = store.due(4095, Millis::MAX, all.last(), 7).unwrap();
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        assert_eq!(all.len(), 30);
        assert!(all.is_sorted());
        assert_eq!(store.due(4095, 995, Some(&(993, member(22))), 99).unwrap().len(), 7);
        assert_eq!(store.due(4094, Millis::MAX, None, 99).unwrap().len(), 1);
    });
}

#[test]
fn keys_are_found_newest_week_first_and_kept_apart() {
    on_both(|store| {
        let mut account = write(member(1), b"a");
        account.facts = vec![
            (FactKey::Reversed(3), b"reversed".to_vec()),
            (FactKey::ExpiredLot(3), b"expired".to_vec()),
            (FactKey::ClosedHold(3), b"closed".to_vec()),
        ];
        let keys = vec![
            key(KeyClass::Idempotency, 5, 10, b"old"),
            key(KeyClass::Idempotency, 5, 12, b"newer"),
            key(KeyClass::Idempotency, 5, 12, b"new"),
            key(KeyClass::Business, 5, 11, b"business"),
        ];
        store.checkpoint(&ShardCheckpoint { keys, ..checkpoint(0, 1, vec![account]) }).unwrap();
        let me = member(1);
        let many = [
            (0, me.clone(), find(KeyClass::Idempotency, 5, 0..=20)),
            (0, me.clone(), find(KeyClass::Idempotency, 5, 0..=11)),
            (0, me.clone(), find(KeyClass::Idempotency, 5, 11..=11)),
            (0, me.clone(), find(KeyClass::Business, 5, 0..=20)),
            (0, me.clone(), FactQuery::Reversed(3)),
            (0, me.clone(), FactQuery::ExpiredLot(3)),
            (0, me.clone(), FactQuery::ClosedHold(3)),
            (0, me.clone(), FactQuery::ClosedHold(4)),
            (0, member(2), FactQuery::Reversed(3)),
        ];
        let text =
            |fact: &Option<Vec<u8>>| fact.as_ref().map(|f| String::from_utf8(f.clone()).unwrap().trim().to_owned());
        let found: Vec<_> = store.spilled_many(&many).unwrap().iter().map(text).collect();
        let expected = ["new", "old", "", "business", "reversed", "expired", "closed", "", ""];
        let expected: Vec<_> = expected.iter().map(|t| if t.is_empty() { None } else { Some(t.to_string()) }).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_dropped_week_is_gone_for_good() {
    let drop_and_look = |store: &mut Store| {
        let keys = [(KeyClass::Idempotency, 10), (KeyClass::Idempotency, 11), (KeyClass::Business, 10)]
            .map(|(class, week)| key(class, u128::from(week), week, b"v"))
            .to_vec();
        let written = ShardCheckpoint { keys, ..checkpoint(0, 1, vec![write(member(1), b"a")]) };
        store.checkpoint(&written).unwrap();
        store.drop_fact_weeks_before(KeyClass::Idempotency, 11).unwrap();
        // Going back brings nothing back, and a replay that spills again does not either.
        store.drop_fact_weeks_before(KeyClass::Idempotency, 5).unwrap();
        store.checkpoint(&written).unwrap();
    };
    let look = |store: &Store| {
        let found =
            |class, week: u32| store.spilled(0, &member(1), &find(class, u128::from(week), 0..=99)).unwrap().is_some();
        assert!(!found(KeyClass::Idempotency, 10));
        assert!(found(KeyClass::Idempotency, 11));
        assert!(found(KeyClass::Business, 10));
    };
    on_both(|store| {
        drop_and_look(store);
        look(store);
    });
    let dir = tempfile::tempdir().unwrap();
    let folders = || std::fs::read_dir(dir.path().join("state/keyspaces")).unwrap().count();
    let mut store = open(&dir);
    let before = folders();
    drop_and_look(&mut store);
    drop(store);
    let mut store = open(&dir);
    look(&store);
    assert_eq!(folders(), before + 2, "two weeks are left, each a folder");
    store.drop_fact_weeks_before(KeyClass::Idempotency, 100).unwrap();
    store.drop_fact_weeks_before(KeyClass::Business, 100).unwrap();
    drop(store);
    drop(open(&dir));
    assert_eq!(folders(), before);
}

#[test]
fn accounts_are_visited_by_kind_in_order() {
    on_both(|store| {
        let stock = |id: &str| Identity::new("a", AccountKind::Stock, id);
        let accounts = [member(2), stock("s"), member(1), stock("r"), Identity::member("a", "z")];
        let writes: Vec<_> = accounts.iter().map(|i| write(i.clone(), i.id().as_bytes())).collect();
        store.checkpoint(&checkpoint(0x00ff, 1, writes)).unwrap();
        store.checkpoint(&checkpoint(0x0100, 1, vec![write(member(9), b"x")])).unwrap();
        let visit = |store: &Store, kind| {
            let mut seen = Vec::new();
            store
                .accounts(0x00ff, kind, &mut |identity, blob| {
                    assert_eq!(identity.id().as_bytes(), blob);
                    seen.push(identity);
                    Ok(())
                })
                .unwrap();
            seen
        };
        let mut all = accounts.to_vec();
        all.sort();
        assert_eq!(visit(store, None), all);
        assert_eq!(visit(store, Some(AccountKind::Stock)), vec![stock("r"), stock("s")]);
        assert_eq!(visit(store, Some(AccountKind::Order)), vec![]);
        let stop = store.accounts(0x00ff, None, &mut |_, _| Err(Error::Stopped("enough".to_owned())));
        assert!(matches!(stop, Err(Error::Stopped(_))));
    });
}

#[test]
fn a_store_of_another_journal_or_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let mut store = open(&dir);
    store.put_meta("cursor", b"1").unwrap();
    assert!(matches!(Store::open(&folder, JOURNAL, &small()), Err(Error::Locked { .. })));
    drop(store);
    assert!(matches!(Store::open(&folder, [8; 16], &small()), Err(Error::Mismatch { .. })));
    let settings = |purpose, format| DatabaseSettings {
        purpose,
        format,
        journal_id: JOURNAL,
        cache_bytes: 1 << 20,
        open_files: 64,
    };
    assert!(matches!(Database::open(&folder, &settings("aliases", keys::STORE_FORMAT)), Err(Error::Mismatch { .. })));
    assert!(matches!(Database::open(&folder, &settings("state", 0)), Err(Error::NewerFormat { .. })));
    let older = Database::open(&folder, &settings("state", keys::STORE_FORMAT + 1)).map(drop).unwrap_err();
    assert!(older.to_string().contains("start it with the version that wrote it"), "{older}");
    assert_eq!(open(&dir).meta("cursor").unwrap().unwrap(), b"1");
    // A folder without its marks is not taken for a new one.
    let bare = dir.path().join("bare");
    drop(::fjall::Database::builder(&bare).open().unwrap());
    assert!(matches!(Store::open(&bare, JOURNAL, &small()), Err(Error::Damaged { .. })));
}

#[test]
fn a_crash_while_creating_leaves_nothing_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join("state.new");
    std::fs::create_dir_all(&temporary).unwrap();
    std::fs::write(temporary.join("0.jnl"), b"half").unwrap();
    open(&dir).put_meta("a", b"b").unwrap();
    assert!(!temporary.exists());
    assert_eq!(open(&dir).meta("a").unwrap().unwrap(), b"b");
}

/// The background thread cannot write a table: the store stops, and stays stopped.
#[test]
fn a_failed_flush_poisons_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir);
    let keyspaces = dir.path().join("state/keyspaces");
    for folder in std::fs::read_dir(&keyspaces).unwrap() {
        let tables = folder.unwrap().path().join("tables");
        if tables.is_dir() {
            std::fs::remove_dir_all(tables).unwrap();
        }
    }
    let failed = (0..10_000u64).find_map(|n| {
        let accounts = (0..100).map(|id| write(member(n * 100 + id), &[1; 200])).collect();
        store.checkpoint(&checkpoint(0, n, accounts)).err()
    });
    let failed = failed.expect("nothing failed");
    println!("{failed}");
    assert!(store.load(0, &member(1)).is_err());
    assert!(store.sync().is_err());
    assert!(store.meta("x").is_err());
    assert!(store.checkpoint(&checkpoint(0, 1, Vec::new())).is_err());
    assert!(store.due(0, 1, None, 1).is_err());
}

#[test]
fn a_checkpoint_past_its_limit_is_refused() {
    on_both(|store| {
        let accounts = (0..=CHECKPOINT_ACCOUNTS_MAX as u64).map(|id| write(member(id), b"")).collect();
        assert!(matches!(store.checkpoint(&checkpoint(0, 1, accounts)), Err(Error::Store { .. })));
        store.checkpoint(&checkpoint(0, 1, Vec::new())).unwrap();
    });
}

#[test]
fn weeks_are_those_of_the_epoch() {
    use meed_schemas::time::DAY_MS;
    assert_eq!(week_of(0), 0);
    assert_eq!(week_of(7 * DAY_MS - 1), 0);
    assert_eq!(week_of(7 * DAY_MS), 1);
    assert_eq!(week_of(-1), 0);
    assert_eq!(week_of(Millis::MAX), u32::MAX);
}
