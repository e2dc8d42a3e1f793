//! What the next batch must continue: batch sequence, checksum of the previous batch, and the sequences of
//! every shard. The writer, recovery and the full scan ask the same questions here.

use meed_schemas::ids::Position;

use super::batch::{Batch, BatchSequence, Run};
use super::frame::Frame;
use crate::planted::{Fault, planted};

/// The end of a valid journal.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) last_batch: BatchSequence,
    pub(super) last_checksum: u32,
    /// By shard; 0 = no record.
    pub(super) last_sequence: Vec<u64>,
    /// Runs ahead of `last_sequence` never, equals it between batches.
    walked: Vec<u64>,
    touched: Vec<(u16, u64)>,
}

impl Chain {
    pub(super) fn new(last_batch: BatchSequence, last_checksum: u32, last_sequence: Vec<u64>) -> Self {
        let walked = last_sequence.clone();
        Self { last_batch, last_checksum, last_sequence, walked, touched: Vec::new() }
    }

    /// Moves to the end of a batch whose bytes are checked, or says why it does not follow and stays.
    pub(super) fn follow(&mut self, batch: &Batch<'_>) -> Result<(), &'static str> {
        let header = &batch.header;
        if !planted(Fault::DropPreviousBatchCheck) {
            if header.sequence != self.last_batch + 1 {
                return Err("a batch is missing");
            }
            if header.previous_checksum != self.last_checksum {
                return Err("a batch does not continue the one before it");
            }
        }
        self.begin();
        let mut result = batch.runs().try_for_each(|run| self.promise(&run));
        if result.is_ok() {
            result = batch.frames().try_for_each(|frame| match frame {
                Ok(frame) => self.walk(&frame),
                Err(fault) => Err(fault.detail),
            });
        }
        match result.and_then(|()| self.keep_promise()) {
            Ok(()) => {
                self.last_batch = header.sequence;
                self.last_checksum = header.checksum();
                Ok(())
            }
            Err(detail) => {
                self.take_back();
                Err(detail)
            }
        }
    }

    /// Begins a batch: runs are promised, then frames are walked.
    pub(super) fn begin(&mut self) {
        self.touched.clear();
    }

    /// Takes a run of the batch's directory.
    pub(super) fn promise(&mut self, run: &Run) -> Result<(), &'static str> {
        let Some(last) = self.last_sequence.get_mut(usize::from(run.shard)) else {
            return Err("a run names a shard that does not exist");
        };
        let next = *last + u64::from(run.count);
        if run.count == 0 || run.first_sequence != *last + 1 || next > Position::SEQUENCE_MAX {
            return Err("a run does not continue its shard");
        }
        self.touched.push((run.shard, *last));
        *last = next;
        Ok(())
    }

    /// Takes a frame of the batch.
    #[inline]
    pub(super) fn walk(&mut self, frame: &Frame<'_>) -> Result<(), &'static str> {
        let position = frame.position();
        let shard = usize::from(position.shard());
        match (self.walked.get_mut(shard), self.last_sequence.get(shard)) {
            (Some(walked), Some(&promised)) if *walked < promised && position.sequence() == *walked + 1 => {
                *walked += 1;
                Ok(())
            }
            _ => Err("a record is not where the directory of its batch says"),
        }
    }

    /// Ends the batch: all that was promised must have come.
    pub(super) fn keep_promise(&self) -> Result<(), &'static str> {
        let kept = |&(shard, _): &(u16, u64)| self.walked[usize::from(shard)] == self.last_sequence[usize::from(shard)];
        if self.touched.iter().all(kept) { Ok(()) } else { Err("a batch lacks records of its directory") }
    }

    fn take_back(&mut self) {
        while let Some((shard, before)) = self.touched.pop() {
            self.last_sequence[usize::from(shard)] = before;
            self.walked[usize::from(shard)] = before;
        }
    }
}
