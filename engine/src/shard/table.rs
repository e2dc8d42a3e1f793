//! The accounts of one shard that are in memory.

use std::collections::VecDeque;

use hashbrown::HashTable;
use meed_schemas::ids::Identity;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::Envelope;
use crate::account::{Account, Facts};

/// How many accounts are read ahead of their turns at once: so many reads are under way that the processor has no place
/// for more.
pub const WARM_MAX: usize = 16;

/// An account in memory.
#[derive(Debug)]
pub struct Live {
    /// The account.
    pub account: Account,
    /// Shard sequence of its first record that no checkpoint has taken; 0 when there is none.
    pub dirty_since: u64,
    /// Shard sequence up to which a checkpoint has been handed to the store.
    pub writing_up_to: u64,
    /// Used since the hand last came by.
    pub touched: bool,
    /// Checkpoints that are with the store and contain it.
    pub writes_under_way: u16,
    /// Due instant as the store's due index has it, or will have it after the writes under way.
    pub due_in_store: Option<i64>,
    /// Bytes that the shard counts for it; what it has grown by since is counted when the hand comes by.
    pub counted_bytes: usize,
    /// The earliest due instant that sits in the shard's queue for it; `Millis::MAX` for none.
    pub queued_due: i64,
    /// Sits in the queue of accounts with many spilled facts.
    pub queued_overfull: bool,
    /// Commands that wait for something to be loaded, in order.
    pub waiting: VecDeque<Parked>,
}

/// A command that waits.
#[derive(Debug)]
pub struct Parked {
    /// The command.
    pub envelope: Envelope,
    /// What was loaded for it.
    pub facts: Facts,
    /// What is still being loaded for it.
    pub outstanding: u32,
    /// Names it in answers of loads.
    pub ticket: u64,
}

/// What is known of an account.
#[derive(Debug)]
pub enum Resident {
    /// In use.
    Live(Box<Live>),
    /// Idle and checkpointed: its blob, the due instant in the store is the blob's own.
    Packed(Box<[u8]>),
    /// Being loaded; commands wait in order.
    Loading(Box<VecDeque<Envelope>>),
}

#[derive(Debug)]
struct Entry {
    identity: Identity,
    resident: Resident,
}

/// What tells an account's keys from equal ones of others: the hash of a spilled key is its own XOR this. Two
/// accounts have the same only by the chance of 128 bits, since clients do not know the seed.
pub(super) fn scope(identity: &Identity, seed: u64) -> u128 {
    xxh3_128_with_seed(identity.as_bytes(), seed)
}

/// A hash table of accounts whose hash is seeded, so that clients cannot choose colliding ids.
#[derive(Debug)]
pub struct Table {
    entries: HashTable<Entry>,
    hasher: Hasher,
}

#[derive(Debug, Clone, Copy)]
struct Hasher {
    seed: u64,
    /// Bits of a hash that count; few of them let accounts collide.
    #[cfg(test)]
    mask: u64,
}

impl Hasher {
    fn hash(self, identity: &Identity) -> u64 {
        let hash = xxh3_64_with_seed(identity.as_bytes(), self.seed);
        #[cfg(test)]
        let hash = hash & self.mask;
        hash
    }
}

impl Table {
    /// An empty table.
    pub fn new(seed: u64) -> Self {
        let hasher = Hasher {
            seed,
            #[cfg(test)]
            mask: u64::MAX,
        };
        Self { entries: HashTable::new(), hasher }
    }

    /// Lets all accounts have the same hash. There are none yet.
    #[cfg(test)]
    pub fn let_all_collide(&mut self) {
        self.hasher.mask = 0;
    }

    /// The seeded hash of an identity; names an account in queues that must stay small.
    pub fn hash(&self, identity: &Identity) -> u64 {
        self.hasher.hash(identity)
    }

    /// The seed of the hashes.
    pub fn seed(&self) -> u64 {
        self.hasher.seed
    }

    /// What is known of an account.
    pub fn get_mut(&mut self, hash: u64, identity: &Identity) -> Option<&mut Resident> {
        self.entries.find_mut(hash, |e| e.identity == *identity).map(|e| &mut e.resident)
    }

    /// Reads a little of what turns of these accounts will read, of all of them before the first turn. Their memory is
    /// cold where accounts are many, and reads that do not depend on each other wait together.
    pub fn warm<'a>(&self, identities: impl Iterator<Item = &'a Identity>) {
        let found: SmallVec<[&Live; WARM_MAX]> = identities
            .filter_map(|identity| {
                match &self.entries.find(self.hash(identity), |e| e.identity == *identity)?.resident {
                    Resident::Live(live) => Some(&**live),
                    Resident::Packed(_) | Resident::Loading(_) => None,
                }
            })
            .collect();
        let inline = found.iter().fold(0, |sum, live| sum ^ live.dirty_since ^ live.account.warm_inline());
        let beyond = found.iter().fold(0, |sum, live| sum ^ live.account.warm_heap());
        std::hint::black_box((inline, beyond));
    }

    /// An account with this hash that is what is looked for. Two accounts of a shard have the same one only by the
    /// chance of 64 bits, but for as long as the store lives: who names an account by its hash alone must be right for
    /// either.
    pub fn by_hash(&mut self, hash: u64, is_wanted: impl Fn(&Resident) -> bool) -> Option<(&Identity, &mut Resident)> {
        let hasher = self.hasher;
        let is_found = |e: &Entry| hasher.hash(&e.identity) == hash && is_wanted(&e.resident);
        let entry = self.entries.find_mut(hash, is_found)?;
        Some((&entry.identity, &mut entry.resident))
    }

    /// Adds an account that is not there.
    pub fn insert(&mut self, hash: u64, identity: Identity, resident: Resident) {
        let hasher = self.hasher;
        self.entries.insert_unique(hash, Entry { identity, resident }, |e| hasher.hash(&e.identity));
    }

    /// Makes place for so many more accounts.
    pub fn reserve(&mut self, additional: usize) {
        let hasher = self.hasher;
        self.entries.reserve(additional, |e| hasher.hash(&e.identity));
    }

    /// Forgets an account.
    pub fn remove(&mut self, hash: u64, identity: &Identity) {
        if let Ok(entry) = self.entries.find_entry(hash, |e| e.identity == *identity) {
            entry.remove();
        }
    }

    /// Every account, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Identity, &Resident)> {
        self.entries.iter().map(|e| (&e.identity, &e.resident))
    }

    /// Bytes of a table entry, for accounting: the slot at the average load of a doubling table.
    pub const ENTRY_BYTES: usize = (size_of::<Entry>() + 1) * 3 / 2;
}

impl Live {
    /// A live account around `account`, clean, whose due instant the store has as `due_in_store`.
    pub fn new(account: Account, due_in_store: Option<i64>) -> Box<Self> {
        let counted_bytes = account.heap_bytes() + size_of::<Self>();
        Box::new(Self {
            account,
            counted_bytes,
            dirty_since: 0,
            writing_up_to: 0,
            touched: true,
            writes_under_way: 0,
            due_in_store,
            queued_due: i64::MAX,
            queued_overfull: false,
            waiting: VecDeque::new(),
        })
    }

    /// Counts anew; returns the bytes counted before and now. Not done in every turn: it walks the overlay.
    pub fn recount(&mut self) -> (usize, usize) {
        let bytes = self.account.heap_bytes() + size_of::<Self>();
        (std::mem::replace(&mut self.counted_bytes, bytes), bytes)
    }
}
