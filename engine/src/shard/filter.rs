//! Which spilled keys may exist: a Bloom filter in generations, so that an operation with a new key needs
//! no look-up in the store.
//!
//! Each key sets [`PROBES`] bits of one 512-bit block (Putze, Sanders, Singler: "Cache-, Hash- and
//! Space-Efficient Bloom Filters"). After a start over a store it is filled from there while operations
//! go on, and says "not there" of nothing until it has everything. When it would outgrow its bound it is given
//! up. While it is not complete, every look-up goes to the store.

/// Bits that a key sets in its block.
const PROBES: u32 = 7;
/// Keys of a generation; 32 bits each.
const GENERATION_KEYS: usize = 1 << 16;
const BLOCK_WORDS: usize = 8;
const BLOCKS: usize = GENERATION_KEYS * 32 / 512;

/// The filter of one shard.
#[derive(Debug)]
pub struct KeyFilter {
    generations: Vec<Box<[u64]>>,
    newest_keys: usize,
    generations_max: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// What was spilled before the start is missing yet.
    Filling,
    Complete,
    GivenUp,
}

impl KeyFilter {
    /// A filter of at most `bytes_max` bytes; `complete` when nothing was spilled before it.
    pub fn new(bytes_max: usize, complete: bool) -> Self {
        let generation_bytes = BLOCKS * BLOCK_WORDS * 8;
        Self {
            generations: Vec::new(),
            newest_keys: 0,
            generations_max: (bytes_max / generation_bytes).max(1),
            stage: if complete { Stage::Complete } else { Stage::Filling },
        }
    }

    /// Whether it needs the keys that were spilled before the start.
    pub fn is_filling(&self) -> bool {
        self.stage == Stage::Filling
    }

    /// It has every key that was spilled before the start.
    pub fn complete(&mut self) {
        if self.stage == Stage::Filling {
            self.stage = Stage::Complete;
        }
    }

    /// Remembers that a key was spilled.
    pub fn insert(&mut self, key: u128) {
        if self.stage == Stage::GivenUp {
            return;
        }
        if self.generations.is_empty() || self.newest_keys >= GENERATION_KEYS {
            if self.generations.len() >= self.generations_max {
                self.stage = Stage::GivenUp;
                self.generations = Vec::new();
                return;
            }
            self.generations.push(vec![0; BLOCKS * BLOCK_WORDS].into_boxed_slice());
            self.newest_keys = 0;
        }
        self.newest_keys += 1;
        let (block, probes) = Self::place(key);
        if let Some(generation) = self.generations.last_mut() {
            for probe in probes {
                generation[block + probe / 64] |= 1 << (probe % 64);
            }
        }
    }

    /// Whether the store has to be asked.
    pub fn may_contain(&self, key: u128) -> bool {
        if self.stage != Stage::Complete {
            return true;
        }
        let (block, probes) = Self::place(key);
        self.generations
            .iter()
            .rev()
            .any(|generation| probes.iter().all(|probe| generation[block + probe / 64] >> (probe % 64) & 1 == 1))
    }

    /// First word of the key's block, and its bits within the block. Keys are keyed hashes already.
    fn place(key: u128) -> (usize, [usize; PROBES as usize]) {
        let (low, high) = (key as u64, (key >> 64) as u64);
        let block = (low as usize % BLOCKS) * BLOCK_WORDS;
        (block, std::array::from_fn(|i| (high >> (i as u32 * 9)) as usize & 511))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> u128 {
        let bytes = n.to_le_bytes();
        u128::from(xxhash_rust::xxh3::xxh3_64(&bytes)) << 64
            | u128::from(xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, 1))
    }

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let mut filter = KeyFilter::new(1 << 20, true);
        for n in 0..200_000 {
            filter.insert(key(n));
        }
        assert!((0..200_000).all(|n| filter.may_contain(key(n))));
        let wrong = (200_000..300_000).filter(|n| filter.may_contain(key(*n))).count();
        assert!(wrong < 100, "{wrong} of 100,000 found that were never added");
    }

    #[test]
    fn beyond_its_bound_it_asks_the_store_every_time() {
        let mut filter = KeyFilter::new(1, true);
        for n in 0..=GENERATION_KEYS as u64 {
            filter.insert(key(n));
        }
        assert!(filter.may_contain(key(u64::MAX)));
        assert!(KeyFilter::new(1, false).may_contain(1));
    }
}
