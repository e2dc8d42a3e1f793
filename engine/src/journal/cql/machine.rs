//! How a shard's journal in CQL is owned and written, without I/O: what is asked of the cluster next, given what it
//! answered. The shell sends each [`Ask`] and brings back an [`Answer`]; nothing is ever assumed of a statement
//! without an answer.
//!
//! The journal of a shard is a chain of buckets. A bucket has an epoch; rows are appended only under it. Only the
//! last bucket of the chain is open, all before it are sealed.
//!
//! - A claimant walks the chain from a hint, raises the epoch of every bucket that it meets, and stops in the one
//!   that is open, or opens the next. What it read as open it raises only if that is not sealed by then. Whoever owned
//!   the shard before can then append nothing, seal nothing, and what it tries to open is there already.
//! - The bucket after a sealed one could be opened by an owner that slept while the chain went on and was cleared away
//!   behind it. So whoever opens a bucket then looks at the one before: unless that still has the opener's own epoch,
//!   the chain has gone on without it. Whoever walks there later raises that epoch first and finds the new bucket.

use crate::planted::{Fault, planted};

/// Longest part of a chain that a claimant walks; more than that is damage.
const WALK_MAX: u32 = 1_000_000;

/// What a record in a bucket that another has written counts for; packed it is shorter.
const RECORD_BYTES: u64 = 256;

/// A statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Append the batch, if the epoch is `epoch`, the bucket is not sealed and there is no such row.
    Append {
        /// The bucket.
        bucket: i64,
        /// Required epoch.
        epoch: i64,
    },
    /// Seal the bucket if its epoch is `epoch`.
    Seal {
        /// The bucket.
        bucket: i64,
        /// Required epoch.
        epoch: i64,
    },
    /// Give the bucket this epoch if it has none.
    Open {
        /// The bucket.
        bucket: i64,
        /// Its epoch.
        epoch: i64,
    },
    /// Raise the bucket's epoch if it is `from` and the bucket is not sealed, or was read as sealed, which it stays.
    Raise {
        /// The bucket.
        bucket: i64,
        /// Required epoch.
        from: i64,
        /// The new one.
        to: i64,
        /// Whether it was read as sealed.
        sealed: bool,
    },
    /// Read the bucket's epoch and seal, with all that is under way in it resolved (a serial read).
    Read {
        /// The bucket.
        bucket: i64,
    },
}

/// What the cluster said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The condition held; it is durable.
    Applied,
    /// The condition did not hold.
    Refused {
        /// The bucket's epoch.
        epoch: Option<i64>,
        /// The batch that has the row, where the row was a part of the condition.
        bid: Option<u128>,
    },
    /// What a read found.
    Bucket {
        /// Its epoch; `None` when there is no such bucket.
        epoch: Option<i64>,
        /// Whether it is sealed.
        sealed: bool,
    },
    /// None: it may have happened, or may yet happen.
    Unknown,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask this.
    Ask(Ask),
    /// Ask this, which is not the first time, after a pause.
    Again(Ask),
    /// It is done.
    Done,
    /// Somebody else owns the shard, under this epoch where it is known.
    Deposed(Option<i64>),
    /// There is no bucket where the claim was to begin. Its hint may be old: when it still is the hint, this is damage.
    Missing,
    /// The chain is not what it must be.
    Damaged(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Appending,
    Sealing,
    Opening,
    Checking,
}

/// The owner's side of one shard.
#[derive(Debug)]
pub struct Appender {
    epoch: i64,
    bucket: i64,
    bucket_bytes: u64,
    bucket_bytes_max: u64,
    state: State,
    batch: Option<(u128, u64)>,
}

impl Appender {
    /// Of an owner that has claimed `bucket`, in which there are so many records, under `epoch`. A bucket that has
    /// reached about `bucket_bytes_max` is sealed and the next one opened.
    pub fn new(claimed: Claimed, bucket_records: u64, bucket_bytes_max: u64) -> Self {
        let Claimed { bucket, epoch } = claimed;
        let bucket_bytes = bucket_records.saturating_mul(RECORD_BYTES);
        Self { epoch, bucket, bucket_bytes, bucket_bytes_max, state: State::Idle, batch: None }
    }

    /// The open bucket.
    pub fn bucket(&self) -> i64 {
        self.bucket
    }

    /// The epoch that it owns the shard under.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Begins to append batch `bid` of `bytes` bytes. The one before must be done.
    pub fn begin(&mut self, bid: u128, bytes: u64) -> Ask {
        debug_assert_eq!(self.state, State::Idle);
        self.batch = Some((bid, bytes));
        if self.bucket_bytes > 0 && self.bucket_bytes.saturating_add(bytes) > self.bucket_bytes_max {
            self.state = State::Sealing;
        } else {
            self.state = State::Appending;
        }
        self.ask()
    }

    fn ask(&self) -> Ask {
        let (bucket, epoch) = (self.bucket, self.epoch);
        match self.state {
            State::Idle | State::Appending => Ask::Append { bucket, epoch },
            State::Sealing => Ask::Seal { bucket, epoch },
            State::Opening => Ask::Open { bucket: bucket + 1, epoch },
            State::Checking => Ask::Read { bucket },
        }
    }

    fn go_on(&mut self, state: State) -> Step {
        self.state = state;
        Step::Ask(self.ask())
    }

    /// The bucket being opened is the shard's now.
    fn next_bucket(&mut self) -> Step {
        self.bucket += 1;
        self.bucket_bytes = 0;
        self.go_on(State::Appending)
    }

    fn appended(&mut self) -> Step {
        let bytes = self.batch.take().map_or(0, |(_, bytes)| bytes);
        self.bucket_bytes = self.bucket_bytes.saturating_add(bytes);
        self.state = State::Idle;
        Step::Done
    }

    /// What to do after this answer to the last [`Ask`].
    pub fn answer(&mut self, answer: Answer) -> Step {
        let own = self.batch.map(|(bid, _)| bid);
        match (self.state, answer) {
            (State::Appending, Answer::Unknown) if planted(Fault::TakeUnknownForDone) => self.appended(),
            (State::Sealing, Answer::Unknown) if planted(Fault::OpenBeforeSealed) => self.go_on(State::Opening),
            (_, Answer::Unknown) => Step::Again(self.ask()),
            (State::Appending, Answer::Applied) => self.appended(),
            // It had happened when it was asked before, whoever owns the shard by now.
            (State::Appending, Answer::Refused { bid, .. }) if bid.is_some() && bid == own => self.appended(),
            (State::Appending, Answer::Refused { epoch, bid }) if epoch == Some(self.epoch) => match bid {
                Some(_) => Step::Damaged("another batch has the row of this one, under the same epoch"),
                None => Step::Damaged("the bucket is sealed and was not sealed by its owner"),
            },
            (State::Sealing, Answer::Applied) => self.go_on(State::Opening),
            (State::Opening, Answer::Applied) if planted(Fault::OpenWithoutLookingBack) => self.next_bucket(),
            (State::Opening, Answer::Applied) => self.go_on(State::Checking),
            // Nobody else opens under this epoch: it had happened when it was asked before.
            (State::Opening, Answer::Refused { epoch, .. }) if epoch == Some(self.epoch) => self.go_on(State::Checking),
            (State::Checking, Answer::Bucket { epoch, sealed: true }) if epoch == Some(self.epoch) => {
                self.next_bucket()
            }
            (State::Checking, Answer::Bucket { epoch, sealed: false }) if epoch == Some(self.epoch) => {
                Step::Damaged("the bucket before the open one is not sealed")
            }
            (_, Answer::Refused { epoch, .. } | Answer::Bucket { epoch, .. }) => Step::Deposed(epoch),
            (_, Answer::Applied) => Step::Damaged("an answer to a question that was not asked"),
        }
    }
}

/// What a claim has won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// The open bucket.
    pub bucket: i64,
    /// Its epoch, the claimant's own.
    pub epoch: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    Looking,
    Raising {
        to: i64,
        sealed: bool,
    },
    Opening {
        epoch: i64,
    },
    /// Opened; the bucket before must still have the epoch that this claim gave it.
    Checking {
        epoch: i64,
    },
}

/// The claim of one shard.
#[derive(Debug)]
pub struct Claim {
    first: i64,
    /// Whether the shard has been written to before: its first bucket must be there then.
    exists: bool,
    bucket: i64,
    /// Epoch of this claim in the bucket before.
    before: Option<i64>,
    highest: i64,
    walk: Walk,
    steps: u32,
}

impl Claim {
    /// Begins at `hint`: the first bucket of a shard that is new, else one that is not before the first that is kept.
    /// Where the epoch of the owner before is thought to be known, it is outbid without a look first: that has an
    /// effect only if it is so and the bucket is open.
    pub fn begin(hint: i64, exists: bool, known_epoch: Option<i64>) -> (Self, Ask) {
        let walk = Walk::Looking;
        let mut claim = Self { first: hint, exists, bucket: hint, before: None, highest: 0, walk, steps: 0 };
        let ask = match known_epoch.filter(|_| exists && !planted(Fault::ClaimWithoutRaise)) {
            Some(from) => claim.raise(from, false),
            None => Ask::Read { bucket: hint },
        };
        (claim, ask)
    }

    fn raise(&mut self, from: i64, sealed: bool) -> Ask {
        let to = self.highest.max(from) + 1;
        self.walk = Walk::Raising { to, sealed };
        Ask::Raise { bucket: self.bucket, from, to, sealed }
    }

    fn look(&mut self) -> Step {
        self.walk = Walk::Looking;
        Step::Ask(Ask::Read { bucket: self.bucket })
    }

    /// Whether the shard was thought to be new. Whoever claims one registers it then, which must be refused when it
    /// is registered already; the claim counts for nothing in that case.
    pub fn is_of_new_shard(&self) -> bool {
        !self.exists
    }

    /// What was won, once the step was [`Step::Done`].
    pub fn claimed(&self) -> Claimed {
        Claimed { bucket: self.bucket, epoch: self.highest }
    }

    fn forward(&mut self, epoch: i64) -> Step {
        self.before = Some(epoch);
        self.bucket += 1;
        self.look()
    }

    fn found(&mut self, epoch: Option<i64>, sealed: bool) -> Step {
        match epoch {
            Some(epoch) if planted(Fault::ClaimWithoutRaise) => self.raised(epoch, sealed),
            Some(from) => Step::Ask(self.raise(from, sealed)),
            None if self.bucket == self.first && self.exists => Step::Missing,
            None => {
                let epoch = self.highest + 1;
                // The bucket before has the highest epoch so far, which is this claim's.
                let epoch = self.before.unwrap_or(epoch);
                self.walk = Walk::Opening { epoch };
                Step::Ask(Ask::Open { bucket: self.bucket, epoch })
            }
        }
    }

    fn raised(&mut self, epoch: i64, sealed: bool) -> Step {
        self.highest = epoch;
        if sealed && !planted(Fault::ClaimSealed) { self.forward(epoch) } else { Step::Done }
    }

    fn opened(&mut self, epoch: i64) -> Step {
        self.highest = epoch;
        if self.before.is_none() {
            return Step::Done;
        }
        self.walk = Walk::Checking { epoch };
        Step::Ask(Ask::Read { bucket: self.bucket - 1 })
    }

    /// What to do after this answer to the last [`Ask`].
    pub fn answer(&mut self, answer: Answer) -> Step {
        self.steps += 1;
        if self.steps > WALK_MAX {
            return Step::Damaged("the chain of buckets has no end");
        }
        match (self.walk, answer) {
            (Walk::Looking, Answer::Bucket { epoch, sealed }) => self.found(epoch, sealed),
            (Walk::Raising { to, sealed }, Answer::Applied) => self.raised(to, sealed),
            (Walk::Opening { epoch }, Answer::Applied) => self.opened(epoch),
            (Walk::Checking { epoch }, Answer::Bucket { epoch: now, sealed: true }) if now == Some(epoch) => Step::Done,
            (Walk::Checking { .. }, Answer::Bucket { epoch, .. }) => Step::Deposed(epoch),
            // Nobody else opens under the epoch of the bucket before: it had happened when it was asked before.
            (Walk::Opening { epoch }, Answer::Refused { epoch: now, .. })
                if self.before.is_some() && now == Some(epoch) =>
            {
                self.opened(epoch)
            }
            // Found by reading it would look like a part of the chain, and need not be one.
            (Walk::Opening { epoch }, Answer::Unknown) if self.before.is_some() => {
                Step::Again(Ask::Open { bucket: self.bucket, epoch })
            }
            // Whoever was quicker is outbid, and what was sealed meanwhile is passed: look again. The same after no
            // answer, which reading resolves.
            (Walk::Raising { .. } | Walk::Opening { .. }, Answer::Refused { .. }) => self.look(),
            (Walk::Checking { .. }, Answer::Unknown) => Step::Again(Ask::Read { bucket: self.bucket - 1 }),
            (_, Answer::Unknown) => {
                self.walk = Walk::Looking;
                Step::Again(Ask::Read { bucket: self.bucket })
            }
            _ => Step::Damaged("an answer to a question that was not asked"),
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
