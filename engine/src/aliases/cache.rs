//! Aliases resolved of late, shared by the workers. Only the owner adds and removes, so that an entry is never
//! older than what the owner has answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;

struct Entry {
    account: Arc<str>,
    /// Found since the last eviction.
    touched: AtomicBool,
}

/// See the module. Keys are the keyed hashes of aliases: no alias lies in memory here.
pub(super) struct AliasCache {
    entries: DashMap<u128, Entry>,
    entries_max: usize,
}

impl AliasCache {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries: DashMap::new(), entries_max }
    }

    pub(super) fn get(&self, hash: u128) -> Option<Arc<str>> {
        let entry = self.entries.get(&hash)?;
        // Not written when set already: the line stays shared by the workers.
        if !entry.touched.load(Ordering::Relaxed) {
            entry.touched.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.account))
    }

    pub(super) fn insert(&self, hash: u128, account: Arc<str>) {
        if self.entries_max == 0 {
            return;
        }
        if self.entries.len() >= self.entries_max {
            self.evict();
        }
        self.entries.insert(hash, Entry { account, touched: AtomicBool::new(false) });
    }

    /// Drops what was not found since the last time; where that is little, every second entry.
    fn evict(&self) {
        self.entries.retain(|_, entry| entry.touched.swap(false, Ordering::Relaxed));
        if self.entries.len() > self.entries_max / 2 {
            self.entries.retain(|hash, _| hash & 1 == 0);
        }
        // Where hashes are uneven, or the bound is tiny, the bound still holds.
        if self.entries.len() >= self.entries_max {
            self.entries.clear();
        }
    }

    pub(super) fn remove(&self, hash: u128) {
        self.entries.remove(&hash);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = AliasCache::new(100);
        cache.insert(1000, "hot".into());
        for n in 0..500u128 {
            assert!(cache.get(1000).is_some(), "after {n}");
            cache.insert(n, "cold".into());
            assert!(cache.len() <= 100);
        }
        let all_hot = AliasCache::new(10);
        for n in 0..100 {
            all_hot.insert(n * 2, "a".into());
            all_hot.get(n * 2);
            assert!(all_hot.len() <= 10);
        }
        cache.remove(1000);
        assert_eq!(cache.get(1000), None);
    }
}
