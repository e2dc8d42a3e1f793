//! Damage of what was durable: what no journal survives in general, and every journal has to notice.

use super::{SECTOR_BYTES, SimulatedDisk};
use crate::random::Random;

/// How a medium fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// A few bits of a sector turn.
    Flip,
    /// A write never reached the medium though the disk said so: an older content is there.
    Stale,
    /// A write went to another sector: that one is overwritten, and its own is older.
    Misdirected,
}

/// What was damaged.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The file, without its folder.
    pub file: String,
    /// The sectors.
    pub sectors: Vec<usize>,
}

impl SimulatedDisk {
    /// Damages what is on the medium of a file that has bytes, chosen by the seed: a segment of the journal mostly.
    /// For a disk that no process has open. `None` when there is nothing to damage.
    pub fn rot(&self, rot: Rot, seed: u64) -> Option<Damage> {
        let mut random = Random(seed);
        let mut state = self.state();
        let is_wanted = |name: &str, any: bool| any || name.ends_with(".log");
        let any = random.chance(25);
        let files: Vec<(String, usize)> = state
            .names
            .iter()
            .filter(|(_, inode)| !state.inodes[**inode].cache.is_empty())
            .filter_map(|(name, inode)| {
                let text = std::str::from_utf8(name).ok()?;
                let file = text.rsplit('/').next().unwrap_or(text);
                is_wanted(file, any).then(|| (file.to_owned(), *inode))
            })
            .collect();
        if files.is_empty() {
            return None;
        }
        // The newest segment's end is where damage is hardest to tell from a torn write.
        let newest = files.iter().rfind(|(file, _)| file.ends_with(".log")).filter(|_| random.chance(60));
        let (file, index) = newest.unwrap_or_else(|| random.pick(&files)).clone();
        let inode = &mut state.inodes[index];
        let used: Vec<usize> = (0..inode.cache.len().div_ceil(SECTOR_BYTES))
            .filter(|sector| inode.cache.iter().skip(sector * SECTOR_BYTES).take(SECTOR_BYTES).any(|b| *b != 0))
            .collect();
        if used.is_empty() {
            return None;
        }
        let sector = if random.chance(60) { *used.last()? } else { *random.pick(&used) };
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(inode.cache.len());
        let mut sectors = vec![sector];
        let older = inode.before.get(&sector).map_or_else(|| vec![0; end - start], |old| old.to_vec());
        let mut content = vec![0; end - start];
        match rot {
            Rot::Flip => {
                content.copy_from_slice(&inode.cache[start..end]);
                for _ in 0..random.between(1, 3) {
                    let bit = random.below(content.len() * 8);
                    content[bit / 8] ^= 1 << (bit % 8);
                }
                inode.overwrite(start, &content);
            }
            Rot::Stale => inode.overwrite(start, &older),
            Rot::Misdirected => {
                let other = other_than(sector, &used, file.ends_with(".log"), &mut random);
                content.copy_from_slice(&inode.cache[start..end]);
                inode.overwrite(start, &older);
                if ((other * SECTOR_BYTES) as u64) < inode.length {
                    inode.overwrite(other * SECTOR_BYTES, &content);
                    sectors.push(other);
                }
            }
        }
        Some(Damage { file, sectors })
    }
}

/// Where the write of a sector went instead, among those in use or behind them. A file that only grows has its
/// sectors written in order, and a later write would have put right what an earlier one spoilt: so what is spoilt
/// stands before it.
fn other_than(sector: usize, used: &[usize], only_grows: bool, random: &mut Random) -> usize {
    let behind = used.last().map_or(0, |last| last + 1);
    let fit: Vec<usize> = used.iter().copied().filter(|&u| u < sector || !only_grows && u != sector).collect();
    match random.below(4) {
        0 => behind,
        1 | 2 if sector > 0 && fit.contains(&(sector - 1)) => sector - 1,
        _ if fit.is_empty() => behind,
        _ => *random.pick(&fit),
    }
}
