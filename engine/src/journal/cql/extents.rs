//! Where the records of this node's shards are: in which buckets, up to where, and the newest of them in memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Newest batches of all shards that are kept in memory, so that what follows the journal closely asks no server.
const RECENT_BYTES: usize = 64 << 20;

/// Where the records of this node's shards are.
#[derive(Debug)]
pub struct Extents {
    shards: Vec<Extent>,
}

#[derive(Debug, Default)]
struct Extent {
    /// First sequences and buckets, ascending.
    buckets: RwLock<Vec<(u64, i64)>>,
    /// Sequence of the last record that is durable.
    last: AtomicU64,
    /// The epoch that the shard is owned under, 0 while it is not.
    epoch: AtomicI64,
    /// Every effect up to here has its row in the history.
    projected: AtomicU64,
    recent: Mutex<Recent>,
}

/// A row of the journal: its first and last sequence, and its frames.
type Batch = (u64, u64, Arc<[u8]>);

/// The newest batches, without a gap up to the last one.
#[derive(Debug, Default)]
struct Recent {
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Extents {
    /// Of shards of which nothing is known yet.
    pub fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| Extent::default()).collect() }
    }

    fn of(&self, shard: u16) -> &Extent {
        &self.shards[usize::from(shard)]
    }

    pub(super) fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    pub(super) fn set(&self, shard: u16, buckets: Vec<(u64, i64)>, last: u64, epoch: i64) {
        let extent = self.of(shard);
        // Who reads looks at the epoch before and after: what was read in between of an extent that changes does not
        // count.
        extent.epoch.store(0, Ordering::Release);
        *extent.recent.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
        *extent.buckets.write().unwrap_or_else(PoisonError::into_inner) = buckets;
        extent.last.store(last, Ordering::Release);
        extent.projected.store(0, Ordering::Release);
        extent.epoch.store(epoch, Ordering::Release);
    }

    /// A shard is another node's: nothing of it is followed here any more.
    pub fn end(&self, shard: u16) {
        self.set(shard, Vec::new(), 0, 0);
    }

    pub(super) fn epoch(&self, shard: u16) -> i64 {
        self.of(shard).epoch.load(Ordering::Acquire)
    }

    pub(super) fn has(&self, shard: u16, bucket: i64) -> bool {
        let buckets = self.of(shard).buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.last().is_some_and(|last| last.1 >= bucket)
    }

    pub(super) fn add(&self, shard: u16, first_sequence: u64, bucket: i64) {
        let mut buckets = self.of(shard).buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.push((first_sequence, bucket));
    }

    /// A batch is durable.
    pub(super) fn append(&self, shard: u16, first: u64, last: u64, frames: &[u8]) {
        let extent = self.of(shard);
        let bytes_max = RECENT_BYTES / self.shards.len().max(1);
        let mut recent = extent.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += frames.len();
        recent.batches.push_back((first, last, frames.into()));
        while recent.bytes > bytes_max
            && let Some((_, _, oldest)) = recent.batches.pop_front()
        {
            recent.bytes -= oldest.len();
        }
        extent.last.store(last, Ordering::Release);
    }

    /// The frames from the batch that has this sequence on, where they are in memory.
    pub(super) fn recent_from(&self, shard: u16, sequence: u64) -> Option<Vec<Arc<[u8]>>> {
        let recent = self.of(shard).recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.batches.front().filter(|(first, ..)| *first <= sequence)?;
        let begin = recent.batches.partition_point(|(_, last, _)| *last < sequence);
        Some(recent.batches.range(begin..).map(|(_, _, frames)| Arc::clone(frames)).collect())
    }

    /// The frames of the batch that has this sequence, where they are in memory.
    pub(super) fn recent_at(&self, shard: u16, sequence: u64) -> Option<Arc<[u8]>> {
        let recent = self.of(shard).recent.lock().unwrap_or_else(PoisonError::into_inner);
        let index = recent.batches.partition_point(|(_, last, _)| *last < sequence);
        recent.batches.get(index).filter(|(first, ..)| *first <= sequence).map(|(_, _, frames)| Arc::clone(frames))
    }

    pub(super) fn last(&self, shard: u16) -> u64 {
        self.shards.get(usize::from(shard)).map_or(0, |extent| extent.last.load(Ordering::Acquire))
    }

    pub(super) fn projected(&self, shard: u16) -> u64 {
        self.shards.get(usize::from(shard)).map_or(0, |extent| extent.projected.load(Ordering::Acquire))
    }

    pub(super) fn set_projected(&self, shard: u16, sequence: u64) {
        self.of(shard).projected.fetch_max(sequence, Ordering::AcqRel);
    }

    /// The buckets with records after `sequence`.
    pub(super) fn after(&self, shard: u16, sequence: u64) -> Vec<i64> {
        let buckets = self.of(shard).buckets.read().unwrap_or_else(PoisonError::into_inner);
        let begin = buckets.partition_point(|(first, _)| *first <= sequence + 1).saturating_sub(1);
        buckets[begin..].iter().map(|(_, bucket)| *bucket).collect()
    }

    /// Up to which sequence records are no longer kept.
    pub(super) fn removed(&self, shard: u16) -> u64 {
        let buckets = self.of(shard).buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.first().map_or(0, |(first, _)| first - 1)
    }

    /// The oldest bucket and its last sequence, if two that are newer are sealed or open behind it: the last one
    /// that is sealed stays for ever, so that whoever owned the shard before finds its end of the chain changed.
    pub(super) fn oldest_spare(&self, shard: u16) -> Option<(i64, u64)> {
        let buckets = self.of(shard).buckets.read().unwrap_or_else(PoisonError::into_inner);
        match buckets[..] {
            [(_, bucket), (next, _), _, ..] => Some((bucket, next - 1)),
            _ => None,
        }
    }

    /// The shard begins with this bucket: somebody else has removed those before it.
    pub(super) fn begin_with(&self, shard: u16, first: i64) {
        let mut buckets = self.of(shard).buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|(_, bucket)| *bucket >= first);
    }

    /// A bucket, the oldest, is to go: from now on nobody looks for its records.
    pub(super) fn remove(&self, shard: u16, bucket: i64) {
        let mut buckets = self.of(shard).buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|(_, other)| *other != bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_has_removed_is_removed() {
        let extents = Extents::new(1);
        extents.set(0, vec![(1, 4), (10, 5), (20, 6)], 25, 3);
        assert_eq!(extents.removed(0), 0);
        extents.begin_with(0, 4);
        assert_eq!((extents.removed(0), extents.after(0, 0)), (0, vec![4, 5, 6]));
        extents.begin_with(0, 6);
        assert_eq!((extents.removed(0), extents.after(0, 0)), (19, vec![6]));
    }
}
