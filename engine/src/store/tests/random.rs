//! The store on disk against the one in memory, over random histories with restarts.

use super::*;

/// SplitMix64 (G. Steele, D. Lea, C. Flood).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}

const SHARDS: u16 = 3;
const ACCOUNTS: u64 = 40;
const WEEKS: u64 = 6;
const KEYS: u64 = 5_000;

fn class(random: &mut Random) -> KeyClass {
    if random.below(2) == 0 { KeyClass::Idempotency } else { KeyClass::Business }
}

fn random_fact(random: &mut Random) -> FactKey {
    match random.below(3) {
        0 => FactKey::Reversed(random.below(5)),
        1 => FactKey::ExpiredLot(random.below(5) as i64 - 2),
        _ => FactKey::ClosedHold(random.below(5)),
    }
}

fn random_checkpoint(
    random: &mut Random,
    replay_start: u64,
    due: &mut std::collections::HashMap<(u16, u64), Option<Millis>>,
) -> ShardCheckpoint {
    let shard = random.below(u64::from(SHARDS)) as u16;
    let first = random.below(ACCOUNTS);
    let writes = (first..ACCOUNTS.min(first + 1 + random.below(10))).map(|id| {
        let new_due = (random.below(3) > 0).then(|| random.below(50) as i64 - 10);
        let due_before = due.insert((shard, id), new_due).flatten();
        let facts = (0..random.below(4)).map(|n| (random_fact(random), vec![n as u8, id as u8])).collect();
        let blob = replay_start.to_le_bytes().repeat(1 + random.below(40) as usize);
        AccountWrite { identity: member(id), blob, due_before, due: new_due, facts }
    });
    let writes = writes.collect();
    // Few keys often, so that they are spilled again; many now and then, so that runs are merged.
    let count = if random.below(3) > 0 { random.below(20) } else { random.below(500) };
    let keys = (0..count).map(|n| {
        let value = (replay_start << 16 | n).to_be_bytes();
        key(class(random), hash(random), random.below(WEEKS) as u32, &value)
    });
    ShardCheckpoint { keys: keys.collect(), ..checkpoint(shard, replay_start, writes) }
}

/// One of the hashes that keys have here.
fn hash(random: &mut Random) -> u128 {
    xxhash_rust::xxh3::xxh3_128(&random.below(KEYS).to_le_bytes())
}

/// Every key that either has is seen by who goes through them, in small steps.
fn compare_keys(disk: &Store, memory: &Store, shard: u16) {
    let all = |store: &Store, limit| {
        let (mut all, mut place) = (std::collections::BTreeSet::new(), Some(KeyPlace::FIRST));
        while let Some(from) = place {
            let (hashes, next) = store.spilled_keys(shard, from, limit).unwrap();
            all.extend(hashes);
            place = next;
        }
        all
    };
    let on_disk = all(disk, 100);
    assert_eq!(on_disk, all(memory, 1));
}

fn compare(disk: &mut Store, memory: &mut Store, random: &mut Random) {
    for shard in 0..SHARDS {
        assert_eq!(disk.shard_state(shard).unwrap(), memory.shard_state(shard).unwrap());
        let (mut on_disk, mut in_memory) = (Vec::new(), Vec::new());
        let keep = |into: &mut Vec<_>, identity, blob: &[u8]| into.push((identity, blob.to_vec()));
        disk.accounts(shard, None, &mut |i, b| {
            keep(&mut on_disk, i, b);
            Ok(())
        })
        .unwrap();
        memory
            .accounts(shard, None, &mut |i, b| {
                keep(&mut in_memory, i, b);
                Ok(())
            })
            .unwrap();
        assert_eq!(on_disk, in_memory);
        let up_to = random.below(60) as i64 - 12;
        let after = (random.below(2) == 0).then(|| (random.below(50) as i64 - 10, member(20)));
        let limit = 1 + random.below(60) as usize;
        assert_eq!(
            disk.due(shard, up_to, after.as_ref(), limit).unwrap(),
            memory.due(shard, up_to, after.as_ref(), limit).unwrap()
        );
        for _ in 0..10 {
            let week = random.below(WEEKS) as u32;
            let query = find(class(random), hash(random), week / 2..=week);
            let who = member(0);
            assert_eq!(disk.spilled(shard, &who, &query).unwrap(), memory.spilled(shard, &who, &query).unwrap());
            let query = match random_fact(random) {
                FactKey::Reversed(n) => FactQuery::Reversed(n),
                FactKey::ExpiredLot(n) => FactQuery::ExpiredLot(n),
                FactKey::ClosedHold(n) => FactQuery::ClosedHold(n),
            };
            let who = member(random.below(ACCOUNTS));
            assert_eq!(disk.spilled(shard, &who, &query).unwrap(), memory.spilled(shard, &who, &query).unwrap());
        }
    }
}

#[test]
fn disk_and_memory_agree() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        // So little memory that tables are written and compacted all along.
        let options = StoreOptions { cache_bytes: 1 << 20, memtable_bytes: 64 << 10, open_files: 64 };
        let open = || Store::open(&dir.path().join("state"), JOURNAL, &options).unwrap();
        let (mut disk, mut memory) = (open(), Store::in_memory());
        let mut due = std::collections::HashMap::new();
        for step in 1..=150 {
            match random.below(40) {
                0 => {
                    drop(disk);
                    disk = open();
                }
                1 => {
                    let (class, week) = (class(&mut random), random.below(WEEKS) as u32);
                    disk.drop_fact_weeks_before(class, week).unwrap();
                    memory.drop_fact_weeks_before(class, week).unwrap();
                }
                _ => {
                    let checkpoint = random_checkpoint(&mut random, step, &mut due);
                    disk.checkpoint(&checkpoint).unwrap();
                    memory.checkpoint(&checkpoint).unwrap();
                }
            }
            if step % 10 == 0 {
                (0..SHARDS).for_each(|shard| compare_keys(&disk, &memory, shard));
                compare(&mut disk, &mut memory, &mut random);
            }
        }
    }
}
