//! The journal of one shard as a simulated cluster has it: what its statements do, one after the other, as
//! lightweight transactions and serial reads do. For tests and the simulator.

use std::collections::BTreeMap;

use super::machine::{Answer, Ask};

/// A row: the batch that has it, and what is in it.
pub type Row<T> = (u128, T);

#[derive(Debug, Clone)]
struct Bucket<T> {
    epoch: i64,
    sealed: bool,
    /// By first sequence.
    rows: BTreeMap<u64, Row<T>>,
}

/// The chain of buckets of one shard.
#[derive(Debug, Clone)]
pub struct Chain<T> {
    buckets: BTreeMap<i64, Bucket<T>>,
    /// A bucket that is not before the first that is kept; `None` when the shard is not registered.
    hint: Option<i64>,
    /// The first bucket that is kept. One before it can come to be again, by a statement that comes very late; nobody
    /// looks there.
    first: i64,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), hint: None, first: i64::MIN }
    }
}

impl<T: Clone> Chain<T> {
    /// Carries a statement out; `sequence` and `row` are those of an append.
    pub fn apply(&mut self, ask: Ask, sequence: u64, row: Option<&Row<T>>) -> Answer {
        let number = match ask {
            Ask::Append { bucket, .. }
            | Ask::Seal { bucket, .. }
            | Ask::Open { bucket, .. }
            | Ask::Raise { bucket, .. }
            | Ask::Read { bucket } => bucket,
        };
        let Some(bucket) = self.buckets.get_mut(&number) else {
            return match ask {
                Ask::Open { epoch, .. } => {
                    self.buckets.insert(number, Bucket { epoch, sealed: false, rows: BTreeMap::new() });
                    Answer::Applied
                }
                Ask::Read { .. } => Answer::Bucket { epoch: None, sealed: false },
                _ => Answer::Refused { epoch: None, bid: None },
            };
        };
        let refused = Answer::Refused { epoch: Some(bucket.epoch), bid: None };
        match (ask, row) {
            (Ask::Append { epoch, .. }, Some(row)) => match bucket.rows.get(&sequence) {
                None if bucket.epoch == epoch && !bucket.sealed => {
                    bucket.rows.insert(sequence, row.clone());
                    Answer::Applied
                }
                there => Answer::Refused { epoch: Some(bucket.epoch), bid: there.map(|row| row.0) },
            },
            (Ask::Seal { epoch, .. }, _) if bucket.epoch == epoch => {
                bucket.sealed = true;
                Answer::Applied
            }
            (Ask::Raise { from, to, sealed, .. }, _) if bucket.epoch == from && (sealed || !bucket.sealed) => {
                bucket.epoch = to;
                Answer::Applied
            }
            (Ask::Read { .. }, _) => Answer::Bucket { epoch: Some(bucket.epoch), sealed: bucket.sealed },
            _ => refused,
        }
    }

    /// The rows of all buckets that are kept, in the order of the chain.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &Row<T>)> {
        self.buckets.range(self.first..).flat_map(|(_, bucket)| &bucket.rows).map(|(sequence, row)| (*sequence, row))
    }

    /// Where a claim begins.
    pub fn hint(&self) -> Option<i64> {
        self.hint
    }

    /// Registers a shard that is new; false when it is registered.
    pub fn register(&mut self, bucket: i64) -> bool {
        let is_new = self.hint.is_none();
        self.hint = self.hint.or(Some(bucket));
        is_new
    }

    /// Moves the hint forward.
    pub fn advance_hint(&mut self, bucket: i64) {
        self.hint = self.hint.max(Some(bucket));
    }

    /// Deletes the oldest sealed buckets, all but the last sealed one, and gives what was in them.
    pub fn trim(&mut self) -> Vec<(u64, Row<T>)> {
        let kept = self.buckets.range(self.first..);
        let sealed: Vec<i64> = kept.filter(|(_, bucket)| bucket.sealed).map(|(number, _)| *number).collect();
        let Some((last, old)) = sealed.split_last() else { return Vec::new() };
        // The hint moves first.
        self.advance_hint(*last);
        self.first = *last;
        old.iter().filter_map(|number| self.buckets.remove(number)).flat_map(|bucket| bucket.rows).collect()
    }

    /// The buckets that are kept, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = i64> {
        self.buckets.range(self.first..).map(|(number, _)| *number)
    }

    /// The rows of a bucket, if it is there.
    pub fn rows_of(&self, bucket: i64) -> Option<&BTreeMap<u64, Row<T>>> {
        self.buckets.get(&bucket).map(|bucket| &bucket.rows)
    }

    /// The first bucket that is kept.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// Nobody looks before this bucket any more; false when that was so.
    pub fn begin_later(&mut self, bucket: i64) -> bool {
        let is_later = self.first < bucket;
        if is_later {
            self.advance_hint(bucket);
            self.first = bucket;
        }
        is_later
    }

    /// A bucket goes with its rows.
    pub fn remove(&mut self, bucket: i64) {
        self.buckets.remove(&bucket);
    }

    /// Whether a bucket is kept.
    pub fn has(&self, bucket: i64) -> bool {
        self.buckets.contains_key(&bucket)
    }
}
