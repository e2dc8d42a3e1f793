//! Spilled keys of one shard and week through merges of several levels, starts in the middle of them, and a
//! walk through all keys meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn hash(n: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())
}

fn rows(dir: &TempDir) -> Vec<(bool, usize)> {
    let database = ::fjall::Database::builder(dir.path().join("state")).open().unwrap();
    let keyspace = database.keyspace("keys-idempotency-3", ::fjall::KeyspaceCreateOptions::default).unwrap();
    let row = |guard: ::fjall::Guard| {
        let (key, value) = guard.into_inner().unwrap();
        (key[0] == keys::KEY_CATALOGS[0], value.len())
    };
    keyspace.iter().map(row).collect()
}

#[test]
fn keys_outlive_merges_and_starts_in_the_middle_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir);
    let mut model: BTreeMap<u128, [u8; KEY_VALUE_BYTES]> = BTreeMap::new();
    let mut next = 0;
    let mut walk = (BTreeSet::new(), Some(KeyPlace::FIRST), BTreeSet::new());
    for round in 0..700u64 {
        // Sizes from 1 to some hundred, each key twice in the course of time.
        let count = 1 + round * 7_919 % 250;
        let written: Vec<_> = (next..next + count)
            .map(|n| key(KeyClass::Idempotency, hash(n / 2 * 3 % 60_000), 3, &round.to_be_bytes()))
            .collect();
        next += count;
        model.extend(written.iter().map(|key| (key.hash, key.value)));
        store.checkpoint(&ShardCheckpoint { keys: written, ..checkpoint(5, round, Vec::new()) }).unwrap();
        if let Some(from) = walk.1 {
            let (hashes, after) = store.spilled_keys(5, from, 300).unwrap();
            walk.0.extend(hashes);
            walk.1 = after;
        }
        if walk.1.is_none() {
            assert!(walk.2.is_subset(&walk.0), "what was there when the walk began is seen by it");
            walk = (BTreeSet::new(), Some(KeyPlace::FIRST), model.keys().copied().collect());
        }
        if round % 29 == 28 {
            drop(store);
            store = open(&dir);
        }
        let look = |hash| store.spilled(5, &member(0), &find(KeyClass::Idempotency, hash, 0..=9)).unwrap();
        for (hash, value) in model.iter().skip((round % 97) as usize).step_by(97) {
            assert_eq!(look(*hash).as_deref(), Some(value.as_slice()), "round {round}");
        }
        assert_eq!(look(hash(1 << 40 | round)), None);
    }
    drop(store);
    let rows = rows(&dir);
    assert_eq!(rows.iter().filter(|(is_catalog, _)| *is_catalog).count(), 1);
    let (blocks, bytes) = rows.iter().filter(|row| !row.0).fold((0, 0), |(n, sum), row| (n + 1, sum + row.1));
    assert!(bytes <= 3 * model.len() * 32, "{bytes} bytes for {} keys: merged runs stay", model.len());
    assert!(blocks <= 200 + model.len() / 20, "{blocks} rows for {} keys", model.len());
}
