//! The bytes of one batch: header, directory of runs, frames, zeros up to the next block. It knows nothing of
//! files.
//!
//! Header, little-endian: magic u32 | format version u32 | journal id u128 | incarnation u64 | batch sequence
//! u64 | durable up to u64 | checksum of the previous batch u32 | bytes of the frames u32 | records u32 |
//! runs u32 | checksum of the contents u32 | checksum of the header u32. The checksum of the contents covers
//! directory and record checksums, and that of the header all fields before it; so the latter stands for the
//! whole batch. The header has its own because a batch whose body is torn can still say what was durable
//! when it was written.

use meed_schemas::ids::Position;

use super::frame::{self, FRAME_HEADER_BYTES, Frames, u32_at, u64_at, u128_at};

/// Batches and segment headers begin at multiples of this.
pub const BLOCK_BYTES: usize = 512;
/// Longest batch, header, directory and padding included.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The format of segments and batches that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Length of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 72;
/// Length of one run in the directory: first position u64, count u32.
pub const RUN_BYTES: usize = 12;

const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"mBAT");
/// Zeros to compare with, because comparing whole blocks is fast in every build.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Number of a batch: dense over the journal's life, beginning at 1.
pub type BatchSequence = u64;

/// The records of one shard in one part: `count` of them from `first_sequence` on. Records of several runs
/// may stand between each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The shard.
    pub shard: u16,
    /// Shard sequence of its first record here.
    pub first_sequence: u64,
    /// How many records, at least one.
    pub count: u32,
}

/// A worker's contribution to one batch: framed records of its shards in decide order.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Frames, one after the other.
    pub bytes: &'a [u8],
    /// What they are, by shard.
    pub runs: &'a [Run],
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The journal that the batch belongs to.
    pub journal_id: u128,
    /// The start of the process that wrote it.
    pub incarnation: u64,
    /// Its number.
    pub sequence: BatchSequence,
    /// Newest batch that was known durable when this one was written; less than `sequence`.
    pub durable_up_to: BatchSequence,
    /// [`BatchHeader::checksum`] of the batch before.
    pub previous_checksum: u32,
    /// Length of all frames.
    pub body_bytes: u32,
    /// Number of records.
    pub records: u32,
    /// Number of runs in the directory.
    pub runs: u32,
    /// Checksum of directory and record checksums.
    pub contents_checksum: u32,
}

impl BatchHeader {
    /// The stored form.
    pub(super) fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.journal_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable_up_to.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.previous_checksum.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.records.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.runs.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.contents_checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..68]);
        bytes[68..72].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header at the beginning of `bytes`, or says why there is none. Lengths in what it returns are
    /// within limits.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return Err("the file ends within a batch");
        }
        if u32_at(bytes, 0) != BATCH_MAGIC {
            return Err("there is no batch here");
        }
        if u32_at(bytes, 68) != crc32c::crc32c(&bytes[..68]) {
            return Err("the checksum of a batch header does not match");
        }
        if u32_at(bytes, 4) != FORMAT_VERSION {
            return Err("a batch has another format version than its segment");
        }
        let header = Self {
            journal_id: u128_at(bytes, 8),
            incarnation: u64_at(bytes, 24),
            sequence: u64_at(bytes, 32),
            durable_up_to: u64_at(bytes, 40),
            previous_checksum: u32_at(bytes, 48),
            body_bytes: u32_at(bytes, 52),
            records: u32_at(bytes, 56),
            runs: u32_at(bytes, 60),
            contents_checksum: u32_at(bytes, 64),
        };
        if header.durable_up_to >= header.sequence {
            return Err("a batch claims that it was durable before it was written");
        }
        let total = header.unpadded_bytes();
        if header.records == 0 || total > BATCH_BYTES_MAX as u64 {
            return Err("a batch has an impossible length");
        }
        Ok(header)
    }

    /// Whether `bytes` could begin with a header: a fast test before [`BatchHeader::decode`].
    pub(super) fn may_begin(bytes: &[u8]) -> bool {
        bytes.len() >= BATCH_HEADER_BYTES && u32_at(bytes, 0) == BATCH_MAGIC
    }

    /// The checksum that stands for the whole batch.
    pub(super) fn checksum(&self) -> u32 {
        u32_at(&self.encode(), 68)
    }

    /// Length in the file, padding included.
    pub(super) fn total_bytes(&self) -> u64 {
        self.unpadded_bytes().next_multiple_of(BLOCK_BYTES as u64)
    }

    fn unpadded_bytes(&self) -> u64 {
        BATCH_HEADER_BYTES as u64 + u64::from(self.runs) * RUN_BYTES as u64 + u64::from(self.body_bytes)
    }
}

/// A batch in memory whose header is valid; the rest is checked on demand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) header: BatchHeader,
    pub(super) bytes: &'a [u8],
}

/// What is wrong with a batch, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchFault {
    pub(super) offset: usize,
    pub(super) detail: &'static str,
}

impl<'a> Batch<'a> {
    /// `bytes` are exactly [`BatchHeader::total_bytes`] long.
    pub(super) fn new(header: BatchHeader, bytes: &'a [u8]) -> Self {
        debug_assert_eq!(bytes.len() as u64, header.total_bytes());
        Self { header, bytes }
    }

    fn body_start(&self) -> usize {
        BATCH_HEADER_BYTES + self.header.runs as usize * RUN_BYTES
    }

    /// Directory and frames, without header and padding.
    pub(super) fn contents(&self) -> &'a [u8] {
        &self.bytes[BATCH_HEADER_BYTES..self.body_start() + self.header.body_bytes as usize]
    }

    /// Offset of the first frame within the batch.
    pub(super) fn frames_offset(&self) -> usize {
        self.body_start()
    }

    /// Frames, not yet verified.
    pub(super) fn frames(&self) -> Frames<'a> {
        Frames::new(self.frame_bytes())
    }

    fn frame_bytes(&self) -> &'a [u8] {
        &self.bytes[self.body_start()..][..self.header.body_bytes as usize]
    }

    /// The directory.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + use<'a> {
        let directory = &self.bytes[BATCH_HEADER_BYTES..self.body_start()];
        directory.chunks_exact(RUN_BYTES).map(|run| {
            let first = Position::from_u64(u64_at(run, 0));
            Run { shard: first.shard(), first_sequence: first.sequence(), count: u32_at(run, 8) }
        })
    }

    /// Verifies every byte behind the header: directory, records, padding. Whether it continues the journal
    /// is not asked here.
    pub(super) fn check(&self, scratch: &mut Vec<u8>) -> Result<(), BatchFault> {
        let body_start = self.body_start();
        for frame in frame::verified(self.frame_bytes()) {
            frame.map_err(|f| BatchFault { offset: body_start + f.offset, detail: f.detail })?;
        }
        self.check_directory(scratch)?;
        let padding = body_start + self.header.body_bytes as usize;
        if !is_zero(&self.bytes[padding..]) {
            return Err(BatchFault { offset: padding, detail: "there is something behind a batch's end" });
        }
        Ok(())
    }

    /// Verifies the directory and where records begin, not the records: one damaged record must not keep the
    /// others of its segment from being indexed.
    pub(super) fn check_directory(&self, scratch: &mut Vec<u8>) -> Result<(), BatchFault> {
        let body_start = self.body_start();
        scratch.clear();
        for frame in self.frames() {
            let frame = frame.map_err(|f| BatchFault { offset: body_start + f.offset, detail: f.detail })?;
            scratch.extend_from_slice(&frame.checksum());
        }
        let fault = |detail| Err(BatchFault { offset: 0, detail });
        if contents_checksum(&self.bytes[BATCH_HEADER_BYTES..body_start], scratch) != self.header.contents_checksum {
            return fault("the checksum of a batch does not match");
        }
        if scratch.len() != self.header.records as usize * 4 {
            return fault("a batch has another number of records than its header says");
        }
        Ok(())
    }
}

/// The checksum of directory and record checksums.
pub(super) fn contents_checksum(directory: &[u8], record_checksums: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(directory), record_checksums)
}

/// Builds the batches that are written, in one buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    buffer: Vec<u8>,
    record_checksums: Vec<u8>,
}

impl BatchBuilder {
    /// Length in the file of a batch of these parts.
    pub(super) fn total_bytes(parts: &[Part<'_>]) -> usize {
        let contents: usize = parts.iter().map(|p| p.bytes.len() + p.runs.len() * RUN_BYTES).sum();
        (BATCH_HEADER_BYTES + contents).next_multiple_of(BLOCK_BYTES)
    }

    /// Appends a frame's checksum; called for every frame of the parts in order before
    /// [`BatchBuilder::build`].
    #[inline]
    pub(super) fn push_checksum(&mut self, checksum: [u8; 4]) {
        self.record_checksums.extend_from_slice(&checksum);
    }

    /// Begins the next batch.
    pub(super) fn clear(&mut self) {
        self.record_checksums.clear();
    }

    /// The bytes of a batch. Lengths, counts and checksums of `header` are filled in; the header as written
    /// is returned with them.
    pub(super) fn build(&mut self, header: BatchHeader, parts: &[Part<'_>]) -> (BatchHeader, &[u8]) {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES, 0);
        for run in parts.iter().flat_map(|p| p.runs) {
            let first = Position::new(run.shard, run.first_sequence);
            buffer.extend_from_slice(&first.to_u64().to_le_bytes());
            buffer.extend_from_slice(&run.count.to_le_bytes());
        }
        let directory_end = buffer.len();
        for part in parts {
            buffer.extend_from_slice(part.bytes);
        }
        let header = BatchHeader {
            body_bytes: (buffer.len() - directory_end) as u32,
            records: (self.record_checksums.len() / 4) as u32,
            runs: ((directory_end - BATCH_HEADER_BYTES) / RUN_BYTES) as u32,
            contents_checksum: contents_checksum(&buffer[BATCH_HEADER_BYTES..directory_end], &self.record_checksums),
            ..header
        };
        buffer[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        buffer.resize(buffer.len().next_multiple_of(BLOCK_BYTES), 0);
        (header, &self.buffer)
    }

    /// The same batch under another header: how recovery copies it.
    pub(super) fn rebuild(&mut self, header: BatchHeader, contents: &[u8]) -> &[u8] {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend_from_slice(&header.encode());
        buffer.extend_from_slice(contents);
        buffer.resize(buffer.len().next_multiple_of(BLOCK_BYTES), 0);
        &self.buffer
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Shortest batch: one record without payload.
pub(super) const BATCH_BYTES_MIN: usize =
    (BATCH_HEADER_BYTES + RUN_BYTES + FRAME_HEADER_BYTES).next_multiple_of(BLOCK_BYTES);
