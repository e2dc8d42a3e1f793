//! What the tasks of one node share: as the threads of a real one share queues.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::keyspace::Answered;
use super::ledger::Ledger;
use super::line::Line;
use crate::keeper::Tasks;
use crate::program::Programs;
use crate::shard::{Input, ShardLimits};
use crate::torture::auditor::Auditor;

/// What all nodes of a cluster have in common.
pub(super) struct Setup {
    pub(super) shards: u16,
    pub(super) limits: ShardLimits,
    pub(super) programs: Arc<Programs>,
    /// Of the hashes of accounts.
    pub(super) seed: u64,
    /// A batch takes no further decision beyond this.
    pub(super) batch_bytes: usize,
    /// A bucket is sealed when it has reached this.
    pub(super) bucket_bytes: u64,
    /// Between two looks for buckets that may go.
    pub(super) trim_ms: i64,
    pub(super) ledger: Rc<RefCell<Ledger>>,
}

/// Where the records of a shard are, as its owner knows; as [`crate::journal::cql::Extents`].
#[derive(Default)]
pub(super) struct Extent {
    /// 0 while the shard is elsewhere.
    pub(super) epoch: i64,
    /// First sequences and buckets.
    pub(super) buckets: Vec<(u64, i64)>,
    pub(super) last: u64,
    pub(super) auditor: Option<Rc<RefCell<Auditor>>>,
}

impl Extent {
    /// Up to which sequence records are no longer kept.
    pub(super) fn removed(&self) -> u64 {
        self.buckets.first().map_or(0, |(first, _)| first - 1)
    }

    /// The bucket that has a sequence.
    pub(super) fn bucket_of(&self, sequence: u64) -> Option<i64> {
        self.buckets.iter().rfind(|(first, _)| *first <= sequence).map(|(_, bucket)| *bucket)
    }

    /// The oldest bucket and its last sequence, if two newer ones are there.
    pub(super) fn oldest_spare(&self) -> Option<(i64, u64)> {
        match self.buckets[..] {
            [(_, bucket), (next, _), _, ..] => Some((bucket, next - 1)),
            _ => None,
        }
    }
}

/// See the module.
pub(super) struct Desk {
    pub(super) line: Line,
    pub(super) setup: Rc<Setup>,
    /// For the store's thread.
    pub(super) tasks: RefCell<Tasks>,
    /// For the shards.
    inputs: RefCell<Vec<(u16, Input)>>,
    pub(super) extents: RefCell<Vec<Extent>>,
}

impl Desk {
    pub(super) fn new(setup: &Rc<Setup>) -> Rc<Self> {
        Rc::new(Self {
            line: Line::default(),
            setup: Rc::clone(setup),
            tasks: RefCell::default(),
            inputs: RefCell::default(),
            extents: RefCell::new((0..setup.shards).map(|_| Extent::default()).collect()),
        })
    }

    pub(super) fn deliver(&self, shard: u16, input: Input) {
        self.inputs.borrow_mut().push((shard, input));
    }

    pub(super) fn take_inputs(&self) -> Vec<(u16, Input)> {
        std::mem::take(&mut self.inputs.borrow_mut())
    }

    /// Whether another has claimed a shard since it was claimed under this epoch.
    pub(super) fn is_deposed(&self, shard: u16, epoch: i64) -> bool {
        self.setup.ledger.borrow().claimed(shard) > epoch
    }

    /// From now on nobody here looks for records before this bucket.
    ///
    /// # Errors
    /// Of the auditor.
    pub(super) fn forget_before(&self, shard: u16, first: i64) -> Result<(), String> {
        let mut extents = self.extents.borrow_mut();
        let extent = &mut extents[usize::from(shard)];
        extent.buckets.retain(|(_, bucket)| *bucket >= first);
        if let Some(auditor) = &extent.auditor {
            let mut gone = vec![0; usize::from(self.setup.shards)];
            gone[usize::from(shard)] = extent.removed();
            auditor.borrow_mut().removed(&gone, None, None)?;
        }
        Ok(())
    }

    /// An answer to a task of the node has come.
    pub(super) fn came(&self, token: u64, answered: Answered) {
        self.line.came(token, answered);
    }
}
