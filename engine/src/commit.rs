//! The commit pipeline of one worker, without I/O: records go in, whole batches come out, and what saw
//! undurable state is held back until its batch is durable. With the embedded journal a worker has one lane for
//! all its shards; with CQL, where every shard is made durable by itself, it has one for each.
//!
//! Soundness rests on two rules. A batch is complete only when the journal has it synced; and everything
//! that left a turn – a reply, a read of a record, a checkpoint – names the shard sequence that it saw, and
//! is held until the batch with that sequence is complete. A failed write never completes a batch: the
//! process stops instead.

use std::collections::VecDeque;

use meed_schemas::codec;
use meed_schemas::record::Record;

use crate::error::Result;
use crate::journal::{Part, Run, frame};
use crate::planted::{Fault, planted};

/// Framed records of a worker's shards, in the order in which they were decided.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    runs: Vec<Run>,
    records: usize,
}

impl Buffer {
    /// What the journal writes.
    pub fn part(&self) -> Part<'_> {
        Part { bytes: &self.bytes, runs: &self.runs }
    }

    /// How many records it holds.
    pub fn records(&self) -> usize {
        self.records
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The frames themselves.
    pub fn frames(&self) -> &[u8] {
        &self.bytes
    }

    /// Sequence of the first record of its first shard; `None` when it has no record.
    pub fn first_sequence(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first_sequence)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_KEPT_BYTES);
        self.runs.clear();
        self.records = 0;
    }
}

/// A buffer that grew beyond this gives its memory back when it is reused.
const BUFFER_KEPT_BYTES: usize = 1 << 20;
/// Buffers kept for reuse.
const SPARES_MAX: usize = 3;

/// One pipeline. `H` is what is held back.
#[derive(Debug)]
pub struct Lane<H> {
    /// The lowest of its shards.
    first_shard: u16,
    /// A batch that has grown to this takes no further decision.
    batch_bytes_max: usize,
    /// Batches that are full and wait to be handed over.
    full: VecDeque<(u64, Buffer)>,
    filling: Buffer,
    /// Number of the batch being filled; numbers are dense from 1.
    filling_number: u64,
    /// Highest number known durable.
    durable: u64,
    spares: Vec<Buffer>,
    /// Per shard: index + 1 of its run in the filling buffer.
    run_of: Vec<u32>,
    /// Per shard: sequence of its last record in a durable batch.
    durable_sequence: Vec<u64>,
    /// Per shard: last sequence in each batch that takes no more records and is not yet durable.
    submitted: VecDeque<(u64, Vec<(u16, u64)>)>,
    held: VecDeque<(u64, H)>,
}

impl<H> Lane<H> {
    /// A lane for shards whose last durable sequences are `durable_sequence` (indexed by shard, all of the
    /// node's), whose batches end with the decision that takes them to `batch_bytes_max`.
    pub fn new(durable_sequence: Vec<u64>, batch_bytes_max: usize) -> Self {
        Self {
            first_shard: 0,
            batch_bytes_max,
            full: VecDeque::new(),
            filling: Buffer::default(),
            filling_number: 1,
            durable: 0,
            spares: Vec::new(),
            run_of: vec![0; durable_sequence.len()],
            durable_sequence,
            submitted: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    /// A lane for one shard alone, whose batches end with the decision that takes them to `batch_bytes_max`.
    pub fn of_shard(shard: u16, durable_sequence: u64, batch_bytes_max: usize) -> Self {
        Self { first_shard: shard, ..Self::new(vec![durable_sequence], batch_bytes_max) }
    }

    fn index(&self, shard: u16) -> usize {
        usize::from(shard - self.first_shard)
    }

    /// Appends a decided record to the batch being filled.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        let start = frame::begin(&mut self.filling.bytes, record.position);
        codec::encode(record, &mut self.filling.bytes);
        frame::finish(&mut self.filling.bytes, start)?;
        let (shard, sequence) = (record.position.shard(), record.position.sequence());
        let index = self.index(shard);
        let slot = &mut self.run_of[index];
        if *slot == 0 {
            self.filling.runs.push(Run { shard, first_sequence: sequence, count: 1 });
            *slot = self.filling.runs.len() as u32;
        } else {
            self.filling.runs[*slot as usize - 1].count += 1;
        }
        self.filling.records += 1;
        Ok(())
    }

    /// All records of a decision are appended: a batch that is full ends here, never within a decision.
    pub fn end_decision(&mut self) {
        if self.filling.bytes.len() >= self.batch_bytes_max {
            let full = self.begin_batch();
            self.full.push_back(full);
        }
    }

    /// Bytes waiting in the batch being filled.
    pub fn filling_bytes(&self) -> usize {
        self.filling.bytes.len()
    }

    /// Where the next record goes: the batch and the byte.
    pub fn place(&self) -> (u64, usize) {
        (self.filling_number, self.filling.bytes.len())
    }

    /// The frames of what was decided since the lane was at a place, and is not handed over.
    pub fn decided_since(&self, (batch, byte): (u64, usize)) -> Vec<u8> {
        let full = self.full.iter().map(|(number, buffer)| (*number, buffer));
        let all = full.chain([(self.filling_number, &self.filling)]).filter(|(number, _)| *number >= batch);
        let since = |(number, buffer): (u64, &Buffer)| buffer.bytes[if number == batch { byte } else { 0 }..].to_vec();
        all.flat_map(since).collect()
    }

    /// What is held, in the order in which it will be released.
    pub fn waiting(&self) -> impl Iterator<Item = &H> {
        self.held.iter().map(|(_, held)| held)
    }

    /// Whether the journal has this shard's records up to `sequence`.
    pub fn is_durable(&self, shard: u16, sequence: u64) -> bool {
        self.durable_sequence[self.index(shard)] >= sequence
    }

    /// Last durable sequence of a shard.
    pub fn durable_sequence(&self, shard: u16) -> u64 {
        self.durable_sequence[self.index(shard)]
    }

    /// Holds back what saw this shard up to `sequence`; gives it back at once when that is durable.
    pub fn hold(&mut self, shard: u16, sequence: u64, held: H) -> Option<H> {
        if self.is_durable(shard, sequence) {
            return Some(held);
        }
        let slot = self.run_of[self.index(shard)];
        let in_filling = slot != 0 && self.filling.runs[slot as usize - 1].first_sequence <= sequence;
        let number = if in_filling { self.filling_number } else { self.submitted_number(shard, sequence) };
        // Mostly appended at the end; only what an older batch suffices for goes before younger ones.
        let mut at = self.held.len();
        while at > 0 && self.held[at - 1].0 > number {
            at -= 1;
        }
        self.held.insert(at, (number, held));
        None
    }

    /// The batch under way that has `sequence` of `shard`.
    fn submitted_number(&self, shard: u16, sequence: u64) -> u64 {
        let found = self.submitted.iter().find(|(_, lasts)| lasts.iter().any(|l| l.0 == shard && l.1 >= sequence));
        found.map_or(self.filling_number, |(number, _)| *number)
    }

    /// Whether there is a batch to hand over.
    pub fn has_batch(&self) -> bool {
        self.filling.records > 0 || !self.full.is_empty()
    }

    /// Takes the oldest batch, that being filled included if it has records, to hand it to the journal.
    pub fn submit(&mut self) -> Option<(u64, Buffer)> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        (self.filling.records > 0).then(|| self.begin_batch())
    }

    /// Takes the batch being filled and begins the next.
    fn begin_batch(&mut self) -> (u64, Buffer) {
        let number = self.filling_number;
        self.filling_number += 1;
        let buffer = std::mem::replace(&mut self.filling, self.spares.pop().unwrap_or_default());
        let mut lasts = Vec::with_capacity(buffer.runs.len());
        for run in &buffer.runs {
            self.run_of[usize::from(run.shard - self.first_shard)] = 0;
            lasts.push((run.shard, run.first_sequence + u64::from(run.count) - 1));
        }
        if planted(Fault::AcknowledgeBeforeSync) {
            self.durable = number;
            lasts.iter().for_each(|(shard, last)| self.durable_sequence[usize::from(*shard)] = *last);
        }
        self.submitted.push_back((number, lasts));
        (number, buffer)
    }

    /// The journal has batch `number` and all before it.
    pub fn complete(&mut self, number: u64, mut buffer: Buffer) {
        while let Some((submitted, lasts)) = self.submitted.pop_front_if(|s| s.0 <= number) {
            debug_assert!(submitted <= number);
            for (shard, last) in lasts {
                self.durable_sequence[usize::from(shard - self.first_shard)] = last;
            }
        }
        self.durable = self.durable.max(number);
        if self.spares.len() < SPARES_MAX {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    /// Takes the oldest thing held whose batch is complete.
    pub fn release(&mut self) -> Option<H> {
        self.held.pop_front_if(|h| h.0 <= self.durable).map(|h| h.1)
    }

    /// Batches handed over and not yet durable.
    pub fn batches_under_way(&self) -> usize {
        self.submitted.len() - self.full.len()
    }

    /// Whether everything that was decided is durable and was released.
    pub fn is_quiet(&self) -> bool {
        !self.has_batch() && self.submitted.is_empty() && self.held.is_empty()
    }

    /// How many things are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
