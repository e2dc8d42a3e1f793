//! The bytes round one record: checksum, length, position, payload. It knows nothing of batches, and nothing
//! of what a payload means.
//!
//! Layout, little-endian: CRC32C u32 | payload length u32 | position u64 | payload. The checksum covers all
//! that follows it, so a point read verifies a record without its batch.

use meed_schemas::ids::Position;

use crate::error::{Error, Result};
use crate::planted::{Fault, planted};

/// What a frame adds to its payload.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Longest payload of one record.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;

/// Where in its buffer a frame begins that is not finished.
#[derive(Debug)]
#[must_use = "a frame that is begun must be finished"]
pub struct FrameStart(usize);

/// Begins the frame of a record; its payload is appended to `buffer` next.
pub fn begin(buffer: &mut Vec<u8>, position: Position) -> FrameStart {
    let start = FrameStart(buffer.len());
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&position.to_u64().to_le_bytes());
    start
}

/// Ends the frame: fills in length and checksum. A payload over [`RECORD_BYTES_MAX`] is a fault; the frame is
/// taken back.
pub fn finish(buffer: &mut Vec<u8>, start: FrameStart) -> Result<()> {
    let FrameStart(start) = start;
    let payload_bytes = buffer.len() - start - FRAME_HEADER_BYTES;
    if payload_bytes > RECORD_BYTES_MAX {
        buffer.truncate(start);
        return Err(Error::Stopped(format!(
            "a record of {payload_bytes} bytes exceeds the limit of {RECORD_BYTES_MAX}"
        )));
    }
    buffer[start + 4..start + 8].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    let checksum = crc32c::crc32c(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// One frame in a slice of frames.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Offset of the frame within the slice.
    pub offset: usize,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The record's position.
    #[inline]
    pub fn position(&self) -> Position {
        Position::from_u64(u64_at(self.bytes, 8))
    }

    /// The record.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[FRAME_HEADER_BYTES..]
    }

    /// The checksum as stored.
    #[inline]
    pub fn checksum(&self) -> [u8; 4] {
        [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]
    }

    /// Whether the checksum is that of length, position and payload.
    #[inline]
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(&self.bytes[4..]).to_le_bytes() == self.checksum() || planted(Fault::SkipChecksum)
    }

    fn intact(self) -> std::result::Result<Self, FrameFault> {
        if self.is_intact() {
            return Ok(self);
        }
        Err(FrameFault { offset: self.offset, detail: "the checksum of a record does not match" })
    }
}

/// What is wrong with a frame, and where in the slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFault {
    /// Offset of the frame within the slice.
    pub offset: usize,
    /// What is wrong.
    pub detail: &'static str,
}

/// The frames in a slice, without a look at their checksums; ends after the first fault.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// The frames that fill `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = std::result::Result<Frame<'a>, FrameFault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let rest = &self.bytes[offset..];
        if rest.is_empty() {
            return None;
        }
        let detail = if rest.len() < FRAME_HEADER_BYTES {
            "a record's frame is cut off"
        } else {
            let payload_bytes = u32_at(rest, 4) as usize;
            match rest.get(..FRAME_HEADER_BYTES + payload_bytes) {
                Some(bytes) if payload_bytes <= RECORD_BYTES_MAX => {
                    self.at = offset + bytes.len();
                    return Some(Ok(Frame { offset, bytes }));
                }
                _ => "a record's length is impossible",
            }
        };
        self.at = self.bytes.len();
        Some(Err(FrameFault { offset, detail }))
    }
}

/// The frames in a slice, each verified.
pub fn verified(bytes: &[u8]) -> impl Iterator<Item = std::result::Result<Frame<'_>, FrameFault>> {
    Frames::new(bytes).map(|frame| frame.and_then(Frame::intact))
}

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut value = [0; 2];
    value.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(value)
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[inline]
pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(value)
}
