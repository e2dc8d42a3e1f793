//! What was read, sent and confirmed, per shard. A record is published when it and every record of its shard
//! before it are confirmed or have no event.

use std::collections::VecDeque;

use meed_schemas::time::Millis;

use crate::planted::{Fault, planted};

/// A record that was sent and is not yet behind the watermark.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    sequence: u64,
    recorded_at: Millis,
    is_confirmed: bool,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    /// Last sequence that was read.
    read: u64,
    waiting: VecDeque<Waiting>,
}

/// The shards' records on their way.
#[derive(Clone, Debug)]
pub struct Outbox {
    shards: Vec<Shard>,
    waiting: usize,
}

impl Outbox {
    /// Nothing is under way, and everything up to `published` is confirmed.
    pub fn new(published: &[u64]) -> Self {
        let shard = |&read: &u64| Shard { read, waiting: VecDeque::new() };
        Self { shards: published.iter().map(shard).collect(), waiting: 0 }
    }

    /// A record without an event was read.
    pub fn passed(&mut self, shard: u16, sequence: u64) {
        self.shards[usize::from(shard)].read = sequence;
    }

    /// A record's event was handed over.
    pub fn sent(&mut self, shard: u16, sequence: u64, recorded_at: Millis) {
        let shard = &mut self.shards[usize::from(shard)];
        shard.read = sequence;
        shard.waiting.push_back(Waiting { sequence, recorded_at, is_confirmed: false });
        self.waiting += 1;
    }

    /// A record's event is confirmed. One that is not waited for changes nothing.
    pub fn confirmed(&mut self, shard: u16, sequence: u64) {
        let Some(shard) = self.shards.get_mut(usize::from(shard)) else { return };
        // Mostly the oldest: confirmations come in order.
        let index = match shard.waiting.front() {
            Some(first) if first.sequence == sequence => 0,
            _ => match shard.waiting.binary_search_by_key(&sequence, |waiting| waiting.sequence) {
                Ok(index) => index,
                Err(_) => return,
            },
        };
        shard.waiting[index].is_confirmed = true;
        while shard.waiting.pop_front_if(|waiting| waiting.is_confirmed).is_some() {
            self.waiting -= 1;
        }
    }

    /// The records of a shard that wait, oldest first.
    pub fn waiting_of(&self, shard: u16) -> impl Iterator<Item = u64> {
        self.shards[usize::from(shard)].waiting.iter().map(|waiting| waiting.sequence)
    }

    /// How many records wait for a confirmation, of themselves or of one before them.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The watermark: per shard, everything up to here is published.
    pub fn published(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().map(|shard| match shard.waiting.front() {
            Some(first) if !planted(Fault::PublishPastGap) => first.sequence - 1,
            _ => shard.read,
        })
    }

    /// When the oldest record that waits was recorded.
    pub fn oldest(&self) -> Option<Millis> {
        self.shards.iter().filter_map(|shard| shard.waiting.front()).map(|first| first.recorded_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(outbox: &Outbox) -> Vec<u64> {
        outbox.published().collect()
    }

    #[test]
    fn only_a_prefix_without_gap_is_published() {
        let mut outbox = Outbox::new(&[10, 0]);
        assert_eq!((published(&outbox), outbox.oldest()), (vec![10, 0], None));
        for sequence in 11..=14 {
            outbox.sent(0, sequence, sequence as i64);
        }
        outbox.passed(0, 15);
        outbox.sent(1, 1, 5);
        assert_eq!((published(&outbox), outbox.waiting(), outbox.oldest()), (vec![10, 0], 5, Some(5)));
        outbox.confirmed(0, 12);
        outbox.confirmed(0, 13);
        assert_eq!(published(&outbox), [10, 0], "11 is not confirmed");
        outbox.confirmed(0, 11);
        assert_eq!((published(&outbox), outbox.waiting()), (vec![13, 0], 2));
        outbox.confirmed(0, 14);
        assert_eq!(published(&outbox), [15, 0], "what has no event is behind what had one");
        outbox.confirmed(1, 1);
        assert_eq!((published(&outbox), outbox.waiting(), outbox.oldest()), (vec![15, 1], 0, None));
    }

    #[test]
    fn confirmations_of_nothing_change_nothing() {
        let mut outbox = Outbox::new(&[0]);
        outbox.sent(0, 3, 0);
        for (shard, sequence) in [(0, 2), (0, 4), (9, 3)] {
            outbox.confirmed(shard, sequence);
        }
        assert_eq!((published(&outbox), outbox.waiting()), (vec![2], 1));
        outbox.confirmed(0, 3);
        outbox.confirmed(0, 3);
        assert_eq!((published(&outbox), outbox.waiting()), (vec![3], 0));
    }

    #[test]
    fn any_order_of_confirmations_ends_at_the_same_watermark() {
        for seed in 0..50u64 {
            let mut outbox = Outbox::new(&[0, 0]);
            let mut open = Vec::new();
            for step in 1..=40u64 {
                let sequence = step;
                if (step ^ seed) % 5 == 0 {
                    outbox.passed((step % 2) as u16, sequence);
                } else {
                    outbox.sent((step % 2) as u16, sequence, 0);
                    open.push(((step % 2) as u16, sequence));
                }
            }
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut before = published(&outbox);
            while !open.is_empty() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (shard, sequence) = open.swap_remove((random >> 33) as usize % open.len());
                outbox.confirmed(shard, sequence);
                let now = published(&outbox);
                for (shard, watermark) in now.iter().enumerate() {
                    assert!(*watermark >= before[shard], "seed {seed}");
                    assert!(!open.iter().any(|o| usize::from(o.0) == shard && o.1 <= *watermark), "seed {seed}");
                }
                before = now;
            }
            assert_eq!((before, outbox.waiting()), (vec![40, 39], 0), "seed {seed}");
        }
    }
}
