//! Spilled keys on disk: a keyspace per class and week, dropped whole, with a catalog row per shard and the
//! rows of its runs. Everything goes into the batch of a checkpoint, merges included, so a start sees keys,
//! blobs and catalogs of one moment.

use std::collections::{BTreeMap, HashMap};

use fjall::{Keyspace, OwnedWriteBatch};

use super::database::Database;
use super::runs::{self, Catalog, Entry, Merge, Run, Stage};
use super::{KEY_VALUE_BYTES, KeyClass, KeyPlace, SpilledKey, keys};
use crate::error::Result;

/// Entries merged for each that a checkpoint adds, in every merge under way. One would be enough for a merge
/// to be done before the next of its level is due.
const MERGED_PER_ADDED: usize = 4;
/// Rows of dying runs that a checkpoint removes.
const REMOVED_PER_CHECKPOINT: u32 = 1_024;

/// The weeks that are kept.
#[derive(Default)]
pub(super) struct Weeks {
    weeks: BTreeMap<(KeyClass, u32), Week>,
    first_week: [u32; 2],
}

struct Week {
    keyspace: Keyspace,
    shards: HashMap<u16, ShardRuns>,
}

/// The runs of a shard in a week.
#[derive(Default)]
struct ShardRuns {
    catalog: Catalog,
    /// The entries of young runs: they are many and small, and all are looked through. Bounded by what makes
    /// a run of level 1, so by a MiB per shard, class and week in use.
    young: HashMap<u32, Vec<Entry>>,
    merges: Vec<Merge>,
    /// Blocks of the first dying run that are removed.
    removed: u32,
}

/// What a class is called in names.
pub(super) fn class_name(class: KeyClass) -> &'static str {
    match class {
        KeyClass::Idempotency => "idempotency",
        KeyClass::Business => "business",
    }
}

fn week_name(class: KeyClass, week: u32) -> String {
    format!("keys-{}-{week}", class_name(class))
}

fn parse_week_name(name: &str) -> Option<(KeyClass, u32)> {
    let (class, week) = name.strip_prefix("keys-")?.split_once('-')?;
    let class = [KeyClass::Idempotency, KeyClass::Business].into_iter().find(|c| class_name(*c) == class)?;
    Some((class, week.parse().ok()?))
}

impl Weeks {
    /// The weeks of a database, from the first that is kept of each class: a crash between recording that and
    /// dropping those before it is mended here.
    pub(super) fn open(database: &Database, first_week: [u32; 2]) -> Result<Self> {
        let mut weeks = Self { first_week, ..Self::default() };
        for name in database.inner.list_keyspace_names() {
            if let Some((class, week)) = parse_week_name(&name) {
                let keyspace = database.keyspace(&name)?;
                let shards = match week < first_week[class as usize] {
                    true => HashMap::new(),
                    false => read_catalogs(database, &keyspace)?,
                };
                weeks.weeks.insert((class, week), Week { keyspace, shards });
            }
        }
        for class in [KeyClass::Idempotency, KeyClass::Business] {
            weeks.drop_before(database, class, first_week[class as usize])?;
        }
        Ok(weeks)
    }

    /// The keyspaces, for the bound of memory.
    pub(super) fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.weeks.values().map(|week| &week.keyspace)
    }

    /// The first week that is kept.
    pub(super) fn first(&self, class: KeyClass) -> u32 {
        self.first_week[class as usize]
    }

    /// Drops the weeks before this one, which is durably the first that is kept.
    pub(super) fn drop_before(&mut self, database: &Database, class: KeyClass, first: u32) -> Result<()> {
        self.first_week[class as usize] = first;
        let old: Vec<_> = self.weeks.range((class, 0)..(class, first)).map(|(week, _)| *week).collect();
        for week in old {
            if let Some(week) = self.weeks.remove(&week) {
                database.inner.delete_keyspace(week.keyspace).map_err(|e| database.fault("drop keys in", e))?;
            }
        }
        Ok(())
    }

    /// Adds the keys that a checkpoint spills, but those of weeks that were dropped, and goes on with merges.
    pub(super) fn add(
        &mut self,
        database: &Database,
        batch: &mut OwnedWriteBatch,
        shard: u16,
        spilled: &[SpilledKey],
    ) -> Result<()> {
        let mut by_week: BTreeMap<(KeyClass, u32), Vec<Entry>> = BTreeMap::new();
        for key in spilled.iter().filter(|key| key.week >= self.first_week[key.class as usize]) {
            by_week.entry((key.class, key.week)).or_default().push(runs::entry(key.hash, &key.value));
        }
        for ((class, week), mut entries) in by_week {
            // Stable and reversed: of equal hashes the last one stays.
            entries.reverse();
            entries.sort_by_key(runs::hash_of);
            entries.dedup_by_key(|entry| runs::hash_of(entry));
            let week = match self.weeks.entry((class, week)) {
                std::collections::btree_map::Entry::Occupied(week) => week.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    let keyspace = database.keyspace(&week_name(class, week))?;
                    place.insert(Week { keyspace, shards: HashMap::new() })
                }
            };
            let runs = week.shards.entry(shard).or_default();
            let step = Step { database, keyspace: &week.keyspace, shard };
            runs.add(&step, batch, entries)?;
        }
        Ok(())
    }

    /// The value of a key in these weeks, newest first.
    pub(super) fn find(
        &self,
        database: &Database,
        shard: u16,
        class: KeyClass,
        weeks: std::ops::RangeInclusive<u32>,
        hash: u128,
    ) -> Result<Option<[u8; KEY_VALUE_BYTES]>> {
        if weeks.is_empty() {
            return Ok(None);
        }
        for (_, week) in self.weeks.range((class, *weeks.start())..=(class, *weeks.end())).rev() {
            let Some(runs) = week.shards.get(&shard) else { continue };
            let step = Step { database, keyspace: &week.keyspace, shard };
            for run in runs.catalog.live() {
                let found = match runs.young.get(&run.id) {
                    Some(entries) => runs::find(entries, hash),
                    None => step.block(&run, run.block_of(hash), |entries| runs::find(entries, hash))?.flatten(),
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// The hashes of a shard's keys from a place on, at least `limit` of them if there are as many, and the
    /// place after them, `None` at the end.
    pub(super) fn walk(
        &self,
        database: &Database,
        shard: u16,
        from: KeyPlace,
        limit: usize,
    ) -> Result<(Vec<u128>, Option<KeyPlace>)> {
        let mut hashes = Vec::with_capacity(limit);
        let mut place = from;
        for (&(class, number), week) in self.weeks.range((from.class, from.week)..) {
            if (class, number) != (place.class, place.week) {
                place = KeyPlace { class, week: number, run: 0, block: 0 };
            }
            let Some(runs) = week.shards.get(&shard) else { continue };
            let step = Step { database, keyspace: &week.keyspace, shard };
            while let Some(run) = runs.catalog.live_from(place.run) {
                if run.id != place.run {
                    place = KeyPlace { run: run.id, block: 0, ..place };
                }
                while place.block < run.blocks() {
                    if hashes.len() >= limit {
                        return Ok((hashes, Some(place)));
                    }
                    let take = |entries: &[Entry]| hashes.extend(entries.iter().map(runs::hash_of));
                    step.block(&run, place.block, take)?;
                    place.block += 1;
                }
                place = KeyPlace { run: run.id + 1, block: 0, ..place };
            }
        }
        Ok((hashes, None))
    }
}

/// Where the rows of a shard's runs are.
struct Step<'a> {
    database: &'a Database,
    keyspace: &'a Keyspace,
    shard: u16,
}

impl Step<'_> {
    /// Looks at a block; `None` when it has no entry.
    fn block<T>(&self, run: &Run, block: u32, look: impl FnOnce(&[Entry]) -> T) -> Result<Option<T>> {
        let row = self.keyspace.get(keys::key_block(self.shard, run.id, block));
        let Some(row) = row.map_err(|e| self.database.fault("read", e))? else { return Ok(None) };
        let entries = runs::entries_of(&row).ok_or_else(|| self.database.damaged("a block of spilled keys"))?;
        Ok(Some(look(entries)))
    }
}

impl ShardRuns {
    fn add(&mut self, step: &Step<'_>, batch: &mut OwnedWriteBatch, entries: Vec<Entry>) -> Result<()> {
        let added = entries.len();
        let run = self.catalog.add(0, added as u64, Stage::Live);
        batch.insert(step.keyspace, keys::key_block(step.shard, run.id, 0), entries.as_flattened());
        self.young.insert(run.id, entries);
        self.merges.extend(self.catalog.begin_merge(&self.merges));
        let mut merges = std::mem::take(&mut self.merges);
        for merge in &mut merges {
            self.merge(step, batch, merge, added * MERGED_PER_ADDED)?;
        }
        merges.retain(|merge| !merge.is_done());
        self.merges = merges;
        self.remove_dying(step, batch);
        batch.insert(step.keyspace, keys::key_catalog(step.shard), self.catalog.encode());
        Ok(())
    }

    /// Goes on with a merge, by at least so many entries or a slice.
    fn merge(
        &mut self,
        step: &Step<'_>,
        batch: &mut OwnedWriteBatch,
        merge: &mut Merge,
        entries_wanted: usize,
    ) -> Result<()> {
        let mut merged = 0;
        while !merge.is_done() && (merged == 0 || merged < entries_wanted) {
            let read = |run: &Run, block, into: &mut Vec<Entry>| match self.young.get(&run.id) {
                Some(entries) => {
                    into.extend_from_slice(entries);
                    Ok(())
                }
                None => step.block(run, block, |entries| into.extend_from_slice(entries)).map(drop),
            };
            let (blocks, count) = merge.step(read)?;
            merged += count.max(1);
            for (block, bytes) in blocks {
                batch.insert(step.keyspace, keys::key_block(step.shard, merge.output.id, block), bytes);
            }
        }
        if merge.is_done() {
            self.catalog.turn(merge.output.id, Stage::Live);
            for run in &merge.inputs {
                self.catalog.turn(run.id, Stage::Dying);
                self.young.remove(&run.id);
            }
        }
        Ok(())
    }

    /// Removes rows of runs that nobody needs.
    fn remove_dying(&mut self, step: &Step<'_>, batch: &mut OwnedWriteBatch) {
        let mut left = REMOVED_PER_CHECKPOINT;
        while left > 0 {
            let Some(run) = self.catalog.of(Stage::Dying).next() else { break };
            let end = run.blocks().min(self.removed + left);
            for block in self.removed..end {
                batch.remove(step.keyspace, keys::key_block(step.shard, run.id, block));
            }
            left -= end - self.removed;
            self.removed = end;
            if end == run.blocks() {
                self.catalog.remove(run.id);
                self.removed = 0;
            }
        }
    }
}

/// The catalogs of a week, and the young runs in memory.
fn read_catalogs(database: &Database, keyspace: &Keyspace) -> Result<HashMap<u16, ShardRuns>> {
    let mut shards = HashMap::new();
    for row in keyspace.prefix(keys::KEY_CATALOGS) {
        let (key, row) = row.into_inner().map_err(|e| database.fault("read", e))?;
        let shard = keys::shard_of_catalog(&key).ok_or_else(|| database.damaged("a key of the runs of keys"))?;
        let catalog = Catalog::decode(&row).map_err(|e| database.damaged(&format!("the runs of keys: {e}")))?;
        let mut runs = ShardRuns { catalog, ..ShardRuns::default() };
        let step = Step { database, keyspace, shard };
        for run in runs.catalog.live().iter().filter(|run| run.level == 0) {
            let entries = step.block(run, 0, <[Entry]>::to_vec)?;
            runs.young.insert(run.id, entries.ok_or_else(|| database.damaged("a run of spilled keys is missing"))?);
        }
        shards.insert(shard, runs);
    }
    Ok(shards)
}
