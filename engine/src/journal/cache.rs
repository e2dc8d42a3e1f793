//! A small cache with a bound, evicting what was used longest ago.

use std::collections::HashMap;

/// Values by segment number; the sum of their weights stays within a bound, but for the newest value.
#[derive(Debug)]
pub(super) struct Cache<V> {
    entries: HashMap<u64, Entry<V>>,
    weight: usize,
    weight_max: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(weight_max: usize) -> Self {
        Self { entries: HashMap::new(), weight: 0, weight_max, clock: 0 }
    }

    pub(super) fn get(&mut self, number: u64) -> Option<V> {
        self.clock += 1;
        let entry = self.entries.get_mut(&number)?;
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    pub(super) fn remove(&mut self, number: u64) {
        if let Some(removed) = self.entries.remove(&number) {
            self.weight -= removed.weight;
        }
    }

    pub(super) fn insert(&mut self, number: u64, value: V, weight: usize) {
        self.clock += 1;
        let entry = Entry { value, weight, used: self.clock };
        self.weight += weight;
        if let Some(replaced) = self.entries.insert(number, entry) {
            self.weight -= replaced.weight;
        }
        while self.weight > self.weight_max && self.entries.len() > 1 {
            let oldest = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(&number, _)| number);
            let Some(evicted) = oldest.and_then(|number| self.entries.remove(&number)) else { return };
            self.weight -= evicted.weight;
        }
    }
}
