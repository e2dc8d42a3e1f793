//! One file: what is in the page cache, and what is on the medium.

use std::collections::BTreeMap;

use super::SECTOR_BYTES;
use crate::random::Random;

/// See the module. Bytes behind the end of `cache` or `medium` are zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) length: u64,
    /// Bytes whose blocks are reserved.
    pub(super) allocated: u64,
    pub(super) cache: Vec<u8>,
    pub(super) medium: Vec<u8>,
    medium_length: u64,
    /// Bit per sector that is in the cache only.
    unsynced: Vec<u64>,
    /// What sectors of the medium held before they were last overwritten.
    pub(super) before: BTreeMap<usize, Box<[u8]>>,
}

fn copy_sector(from: &[u8], to: &mut Vec<u8>, sector: usize) {
    let start = sector * SECTOR_BYTES;
    let source = &from[start.min(from.len())..(start + SECTOR_BYTES).min(from.len())];
    put(to, start, source);
    let (end, own_end) = (start + source.len(), (start + SECTOR_BYTES).min(to.len()));
    if end < own_end {
        to[end..own_end].fill(0);
    }
}

/// Puts bytes at an offset; zeros behind the end are not stored.
fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let stored = to.len().saturating_sub(offset).min(bytes.len());
    if stored > 0 {
        to[offset..offset + stored].copy_from_slice(&bytes[..stored]);
    }
    let rest = &bytes[stored..];
    if let Some(last) = rest.iter().rposition(|byte| *byte != 0) {
        to.resize(offset + stored, 0);
        to.extend_from_slice(&rest[..=last]);
    }
}

impl Inode {
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> usize {
        let length = self.length.saturating_sub(offset).min(bytes.len() as u64) as usize;
        let offset = (offset as usize).min(self.cache.len());
        let stored = (self.cache.len() - offset).min(length);
        bytes[..stored].copy_from_slice(&self.cache[offset..offset + stored]);
        bytes[stored..length].fill(0);
        length
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        let offset = offset as usize;
        let stored_before = self.cache.len();
        put(&mut self.cache, offset, bytes);
        self.length = self.length.max(end);
        self.allocated = self.allocated.max(end);
        // Zeros that were never anything else are the same everywhere.
        let touched = (offset + bytes.len()).min(stored_before.max(self.cache.len()));
        self.touch(offset, touched);
    }

    fn touch(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let word = sector / 64;
            if self.unsynced.len() <= word {
                self.unsynced.resize(word + 1, 0);
            }
            self.unsynced[word] |= 1 << (sector % 64);
        }
    }

    pub(super) fn cut(&mut self, length: u64) {
        self.touch(length as usize, self.cache.len());
        self.length = length;
        self.allocated = self.allocated.min(length);
        self.cache.truncate(length as usize);
    }

    fn unsynced_sectors(&mut self) -> Vec<usize> {
        let words = std::mem::take(&mut self.unsynced);
        let bits = words
            .into_iter()
            .enumerate()
            .flat_map(|(word, bits)| (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit));
        bits.collect()
    }

    pub(super) fn sync(&mut self) {
        for sector in self.unsynced_sectors() {
            self.write_through(sector);
        }
        self.medium.truncate(self.length as usize);
        self.medium_length = self.length;
    }

    fn write_through(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        if start < self.medium.len() {
            let old = &self.medium[start..(start + SECTOR_BYTES).min(self.medium.len())];
            if old.iter().any(|byte| *byte != 0) {
                self.before.insert(sector, old.into());
            }
        }
        copy_sector(&self.cache, &mut self.medium, sector);
    }

    /// A failed sync: some pages are on the medium, the others never will be, and all are clean.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        let all_lost = random.chance(50);
        for sector in self.unsynced_sectors() {
            if !all_lost && random.chance(50) {
                self.write_through(sector);
            }
        }
    }

    /// What is left of it when the power goes.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let kept_percent = *random.pick(&[0, 0, 20, 50, 80, 100]);
        let is_torn = random.chance(10);
        if self.length != self.medium_length && random.chance(50) {
            self.medium.truncate(self.length as usize);
            self.medium_length = self.length;
        }
        for sector in self.unsynced_sectors() {
            if !random.chance(kept_percent) || (sector * SECTOR_BYTES) as u64 >= self.medium_length {
                continue;
            }
            let start = sector * SECTOR_BYTES;
            let mut old = vec![0; SECTOR_BYTES];
            let stored = &self.medium[start.min(self.medium.len())..(start + SECTOR_BYTES).min(self.medium.len())];
            old[..stored.len()].copy_from_slice(stored);
            copy_sector(&self.cache, &mut self.medium, sector);
            if is_torn && random.chance(30) {
                let kept = random.below(SECTOR_BYTES);
                put(&mut self.medium, start + kept, &old[kept..]);
            }
        }
        self.medium.truncate(self.medium_length as usize);
        self.length = self.medium_length;
        self.allocated = self.allocated.min(self.length);
        self.cache.clone_from(&self.medium);
    }

    /// Changes the medium behind everybody's back, and what is read of it; the file stays as long as it is.
    pub(super) fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(self.length as usize).max(at);
        put(&mut self.medium, at, &bytes[..end - at]);
        put(&mut self.cache, at, &bytes[..end - at]);
    }
}
