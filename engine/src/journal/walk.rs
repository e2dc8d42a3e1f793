//! Reads the batches of one segment in order, in large chunks. It verifies each batch's header and that it
//! belongs to the segment; the rest is the caller's to ask.

use super::batch::{BATCH_BYTES_MAX, BLOCK_BYTES, Batch, BatchHeader, is_zero};
use super::file::SegmentFile;
use super::segment::SegmentHeader;
use crate::error::Result;

/// How much is read at once.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// Walks over the batches in a part of a segment file.
#[derive(Debug)]
pub(super) struct Walker {
    file: SegmentFile,
    journal_id: u128,
    incarnation: u64,
    /// Offset of the next batch.
    at: u64,
    end: u64,
    chunk_bytes: usize,
    buffer: Vec<u8>,
    /// Offset in the file of `buffer[0]`.
    buffer_at: u64,
    filled: usize,
}

/// What stands at an offset where a batch may begin.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A batch with a valid header.
    Batch {
        /// Its offset in the file.
        offset: u64,
        batch: Batch<'a>,
    },
    /// The end of the part, or a block of zeros.
    End { offset: u64 },
    /// Something that is no batch of this segment.
    Invalid { offset: u64, detail: &'static str },
}

impl Walker {
    /// Walks from `start` to `end` of the segment's file.
    pub(super) fn new(file: SegmentFile, header: &SegmentHeader, start: u64, end: u64) -> Self {
        Self {
            file,
            journal_id: header.journal_id,
            incarnation: header.incarnation,
            at: start,
            end,
            chunk_bytes: (end.saturating_sub(start)).min(CHUNK_BYTES as u64) as usize,
            buffer: Vec::new(),
            buffer_at: start,
            filled: 0,
        }
    }

    /// Walks over the whole of the segment's file.
    pub(super) fn over(file: SegmentFile, header: &SegmentHeader) -> Result<Self> {
        let end = file.len()?;
        Ok(Self::new(file, header, header.bytes() as u64, end))
    }

    /// The file that is walked over.
    pub(super) fn file(&self) -> &SegmentFile {
        &self.file
    }

    /// The next batch. After anything else it stays where it is.
    pub(super) fn step(&mut self) -> Result<Step<'_>> {
        let offset = self.at;
        if offset >= self.end {
            return Ok(Step::End { offset });
        }
        let (start, length) = self.ensure(BLOCK_BYTES)?;
        let header = match BatchHeader::decode(&self.buffer[start..start + length]) {
            Ok(header) => header,
            Err(_) if is_zero(&self.buffer[start..start + length]) => return Ok(Step::End { offset }),
            Err(detail) => return Ok(Step::Invalid { offset, detail }),
        };
        if header.journal_id != self.journal_id || header.incarnation != self.incarnation {
            let detail = "a batch is of another journal or incarnation than its segment";
            return Ok(Step::Invalid { offset, detail });
        }
        let total_bytes = header.total_bytes() as usize;
        debug_assert!(total_bytes <= BATCH_BYTES_MAX);
        let (start, length) = self.ensure(total_bytes)?;
        if length < total_bytes {
            return Ok(Step::Invalid { offset, detail: "the file ends within a batch" });
        }
        self.at = offset + total_bytes as u64;
        Ok(Step::Batch { offset, batch: Batch::new(header, &self.buffer[start..start + total_bytes]) })
    }

    /// Brings `wanted` bytes from where the walk stands into the buffer; returns where they begin in it and
    /// how many there are.
    fn ensure(&mut self, wanted: usize) -> Result<(usize, usize)> {
        let start = (self.at - self.buffer_at) as usize;
        if start + wanted <= self.filled {
            return Ok((start, wanted));
        }
        let kept = self.filled.saturating_sub(start);
        self.buffer.copy_within(start.min(self.filled)..self.filled, 0);
        self.buffer_at = self.at;
        let rest = self.end - self.at;
        let target = (self.chunk_bytes.max(wanted) as u64).min(rest) as usize;
        if self.buffer.len() < target {
            self.buffer.resize(target, 0);
        }
        let count = self.file.read_at(&mut self.buffer[kept..target], self.at + kept as u64)?;
        self.filled = kept + count;
        Ok((0, wanted.min(self.filled)))
    }
}
