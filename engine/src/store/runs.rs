//! Sorted runs of spilled keys: how the keys of one shard, class and week are laid out in rows. No I/O.
//!
//! A key is a keyed hash, so keys are uniform: a run of n entries is cut into 2^bits blocks by the highest
//! bits of the hash, and a look-up reads one block of each run. Each checkpoint adds one young run (level 0,
//! one block); runs of a level are merged into one of the next, as in a log-structured merge tree (O'Neil,
//! Cheng, Gawlick, O'Neil, 1996). One row holds a hundred entries, so an entry costs the store little.
//!
//! A merge takes many steps. Its output is `Building` until the last of them, its inputs stay `Live` until
//! then and are `Dying` afterwards; the step that turns both is atomic with its catalog. After a crash what
//! was being built is as good as dying, and the merge begins anew.

use std::cmp::Reverse;

use meed_schemas::codec::{CodecError, Reader, put_varint};

use super::KEY_VALUE_BYTES;

/// The hash, big endian, then the value.
pub(super) type Entry = [u8; ENTRY_BYTES];
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 16 + KEY_VALUE_BYTES;
/// Entries of a block, on average, at most.
const BLOCK_ENTRIES: u64 = 128;
/// Runs of one level that become one of the next.
const FAN_IN: usize = 8;
/// Entries of young runs that become one run of level 1. Young runs are kept in memory: see `weeks`.
const YOUNG_ENTRIES: u64 = 32_768;
/// Young runs that become one run of level 1, however small they are.
const YOUNG_RUNS: usize = 64;
const CATALOG_FORMAT: u8 = 1;

/// Whether a run is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is.
    Live,
    /// The output of a merge that is not done.
    Building,
    /// Nobody needs it; its rows are being removed.
    Dying,
}

/// A run, as the catalog knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Names it among the runs of its shard, class and week; never used twice.
    pub(super) id: u32,
    /// 0 for what a checkpoint wrote. A run of a lower level is newer than all of a higher one.
    pub(super) level: u8,
    /// It has 2^bits blocks.
    pub(super) bits: u8,
    /// Whether it is read.
    pub(super) stage: Stage,
    /// Entries that went in.
    pub(super) entries: u64,
}

impl Run {
    /// The block in which a hash lies.
    pub(super) fn block_of(&self, hash: u128) -> u32 {
        if self.bits == 0 { 0 } else { (hash >> (128 - u32::from(self.bits))) as u32 }
    }

    /// How many blocks it has; those without an entry have no row.
    pub(super) fn blocks(&self) -> u32 {
        1 << self.bits
    }
}

/// The runs of one shard, class and week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    next_id: u32,
    runs: Vec<Run>,
}

impl Catalog {
    /// Names a new run of so many entries.
    pub(super) fn add(&mut self, level: u8, entries: u64, stage: Stage) -> Run {
        let bits = match level {
            0 => 0,
            // At most 2^31 blocks; the catalog of one shard and week never gets near.
            _ => entries.div_ceil(BLOCK_ENTRIES).max(1).next_power_of_two().ilog2().min(31) as u8,
        };
        let run = Run { id: self.next_id, level, bits, stage, entries };
        self.next_id += 1;
        self.runs.push(run);
        run
    }

    /// The runs that are read, the one with the newest entries first.
    pub(super) fn live(&self) -> Vec<Run> {
        let mut live: Vec<Run> = self.of(Stage::Live).collect();
        live.sort_unstable_by_key(|run| (run.level, Reverse(run.id)));
        live
    }

    /// The first run that is read, by id, from this id on. A merge moves entries to a higher id only, so
    /// whoever goes through the runs by id sees every entry, whatever is merged meanwhile.
    pub(super) fn live_from(&self, id: u32) -> Option<Run> {
        self.of(Stage::Live).filter(|run| run.id >= id).min_by_key(|run| run.id)
    }

    /// The runs in a stage.
    pub(super) fn of(&self, stage: Stage) -> impl Iterator<Item = Run> {
        self.runs.iter().copied().filter(move |run| run.stage == stage)
    }

    /// Changes the stage of a run.
    pub(super) fn turn(&mut self, id: u32, stage: Stage) {
        self.runs.iter_mut().filter(|run| run.id == id).for_each(|run| run.stage = stage);
    }

    /// Forgets a run.
    pub(super) fn remove(&mut self, id: u32) {
        self.runs.retain(|run| run.id != id);
    }

    /// Begins a merge if a level has enough runs and none of its own is under way.
    pub(super) fn begin_merge(&mut self, under_way: &[Merge]) -> Option<Merge> {
        let levels = self.runs.iter().map(|run| run.level).max()?;
        for level in 0..=levels {
            if under_way.iter().any(|merge| merge.output.level == level + 1) {
                continue;
            }
            let mut inputs: Vec<Run> = self.of(Stage::Live).filter(|run| run.level == level).collect();
            let entries = inputs.iter().map(|run| run.entries).sum();
            let enough = match level {
                0 => entries >= YOUNG_ENTRIES || inputs.len() >= YOUNG_RUNS,
                _ => inputs.len() >= FAN_IN,
            };
            if enough && level < u8::MAX {
                inputs.sort_unstable_by_key(|run| Reverse(run.id));
                let output = self.add(level + 1, entries, Stage::Building);
                return Some(Merge { inputs, output, slice: 0 });
            }
        }
        None
    }

    /// The row of the catalog.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = vec![CATALOG_FORMAT];
        put_varint(&mut row, u64::from(self.next_id));
        for run in &self.runs {
            row.extend_from_slice(&[run.level, run.bits, run.stage as u8]);
            put_varint(&mut row, u64::from(run.id));
            put_varint(&mut row, run.entries);
        }
        row
    }

    /// Reads what [`Catalog::encode`] wrote. What was being built is dying.
    pub(super) fn decode(row: &[u8]) -> Result<Self, CodecError> {
        let r = &mut Reader::new(row);
        let id = |r: &mut Reader<'_>| u32::try_from(r.varint("runs")?).map_err(|_| CodecError::Invalid("runs"));
        match r.byte("runs")? {
            CATALOG_FORMAT => {}
            newer => return Err(CodecError::NewerFormat(newer)),
        }
        let mut catalog = Self { next_id: id(r)?, runs: Vec::new() };
        while !r.is_empty() {
            let (level, bits) = (r.byte("runs")?, r.byte("runs")?);
            let stage = match r.byte("runs")? {
                0 => Stage::Live,
                1 | 2 => Stage::Dying,
                _ => return Err(CodecError::Invalid("runs")),
            };
            if bits > 31 {
                return Err(CodecError::Invalid("runs"));
            }
            catalog.runs.push(Run { id: id(r)?, level, bits, stage, entries: r.varint("runs")? });
        }
        Ok(catalog)
    }
}

/// Numbers of blocks and their bytes.
pub(super) type Blocks = Vec<(u32, Vec<u8>)>;

/// A merge under way. It goes through the hashes in slices, each a block of the input with the fewest.
#[derive(Clone, Debug)]
pub(super) struct Merge {
    /// What is merged, newest first.
    pub(super) inputs: Vec<Run>,
    /// What comes of it.
    pub(super) output: Run,
    slice: u32,
}

impl Merge {
    fn bits(&self) -> u8 {
        self.inputs.iter().map(|run| run.bits).min().unwrap_or(0)
    }

    /// Whether every slice is through.
    pub(super) fn is_done(&self) -> bool {
        self.slice >= 1 << self.bits()
    }

    /// Merges one slice: the blocks of the output that it fills, and how many entries they have.
    ///
    /// # Errors
    /// Those of `read`, which gives the entries of a block of an input.
    pub(super) fn step<E>(
        &mut self,
        mut read: impl FnMut(&Run, u32, &mut Vec<Entry>) -> Result<(), E>,
    ) -> Result<(Blocks, usize), E> {
        let mut entries = Vec::new();
        for run in &self.inputs {
            let shift = run.bits - self.bits();
            for block in self.slice << shift..(self.slice + 1) << shift {
                read(run, block, &mut entries)?;
            }
        }
        self.slice += 1;
        // Stable, and the newest input came first: of equal hashes the newest entry stays.
        entries.sort_by_key(hash_of);
        entries.dedup_by_key(|entry| hash_of(entry));
        let blocks = entries.chunk_by(|a, b| self.output.block_of(hash_of(a)) == self.output.block_of(hash_of(b)));
        let blocks = blocks.map(|chunk| (self.output.block_of(hash_of(&chunk[0])), chunk.as_flattened().to_vec()));
        Ok((blocks.collect(), entries.len()))
    }
}

/// An entry.
pub(super) fn entry(hash: u128, value: &[u8; KEY_VALUE_BYTES]) -> Entry {
    let mut entry = [0; ENTRY_BYTES];
    entry[..16].copy_from_slice(&hash.to_be_bytes());
    entry[16..].copy_from_slice(value);
    entry
}

/// The hash of an entry.
pub(super) fn hash_of(entry: &Entry) -> u128 {
    u128::from_be_bytes(std::array::from_fn(|i| entry[i]))
}

/// The entries of a block; `None` when it does not consist of entries.
pub(super) fn entries_of(block: &[u8]) -> Option<&[Entry]> {
    let (entries, rest) = block.as_chunks();
    rest.is_empty().then_some(entries)
}

/// The value of a hash in a block.
pub(super) fn find(entries: &[Entry], hash: u128) -> Option<[u8; KEY_VALUE_BYTES]> {
    let at = entries.binary_search_by_key(&hash, hash_of).ok()?;
    Some(std::array::from_fn(|i| entries[at][16 + i]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::{BTreeMap, HashMap};
    use std::convert::Infallible;

    fn hash(n: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes())
    }

    /// Young runs of random sizes, everything merged that is due: every key is found with its newest value,
    /// in as many blocks as there are runs.
    #[test]
    fn every_key_is_found_with_its_newest_value_in_few_runs() {
        let (mut catalog, mut merges) = (Catalog::default(), Vec::<Merge>::new());
        let mut blocks: HashMap<(u32, u32), Vec<u8>> = HashMap::new();
        let mut model: BTreeMap<u128, [u8; 16]> = BTreeMap::new();
        for round in 0..1_500u64 {
            let keys: Vec<u64> = (0..1 + round * 7_919 % 120).map(|n| round * 50 + n).collect();
            let mut young: Vec<Entry> =
                keys.iter().map(|n| entry(hash(*n), &u128::from(round).to_be_bytes())).collect();
            model.extend(keys.iter().map(|n| (hash(*n), u128::from(round).to_be_bytes())));
            young.sort_by_key(hash_of);
            let run = catalog.add(0, young.len() as u64, Stage::Live);
            blocks.insert((run.id, 0), young.as_flattened().to_vec());
            merges.extend(catalog.begin_merge(&merges));
            // A slice of each a round: several levels are under way at once.
            for merge in &mut merges {
                let read = |run: &Run, block, into: &mut Vec<Entry>| {
                    into.extend(blocks.get(&(run.id, block)).into_iter().flat_map(|b| entries_of(b).unwrap()));
                    Ok::<_, Infallible>(())
                };
                let (made, _) = merge.step(read).unwrap();
                blocks.extend(made.into_iter().map(|(block, bytes)| ((merge.output.id, block), bytes)));
            }
            for merge in merges.extract_if(.., |merge| merge.is_done()) {
                merge.inputs.iter().for_each(|run| catalog.remove(run.id));
                catalog.turn(merge.output.id, Stage::Live);
            }
        }
        assert!(catalog.live().iter().any(|run| run.level == 2), "{catalog:?}");
        assert!(catalog.live().len() < YOUNG_RUNS + 2 * FAN_IN, "{catalog:?}");
        let look = |hash: u128| {
            catalog
                .live()
                .iter()
                .find_map(|run| find(entries_of(blocks.get(&(run.id, run.block_of(hash)))?).unwrap(), hash))
        };
        assert!(model.iter().all(|(hash, value)| look(*hash) == Some(*value)));
        assert_eq!(look(hash(u64::MAX)), None);
    }

    #[test]
    fn a_catalog_is_read_back_and_what_was_being_built_is_dying() {
        let mut catalog = Catalog::default();
        for (level, stage) in [(0, Stage::Live), (2, Stage::Building), (1, Stage::Dying)] {
            catalog.add(level, 40_000, stage);
        }
        let read = Catalog::decode(&catalog.encode()).unwrap();
        catalog.turn(1, Stage::Dying);
        assert_eq!(read, catalog);
        assert_eq!(read.live().len(), 1);
        assert!(Catalog::decode(&[CATALOG_FORMAT, 3, 0, 40, 0, 0, 0]).is_err());
        assert_eq!(Catalog::decode(&[9]), Err(CodecError::NewerFormat(9)));
    }
}
