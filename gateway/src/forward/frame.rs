//! Frames: length, CRC32C, and messages. A frame that is not what was written ends the connection.

use std::io;

/// Length and checksum of a frame.
const HEADER_BYTES: usize = 8;
/// A frame that has grown to this is closed, and the next message begins another.
const FRAME_BYTES: usize = 256 << 10;
/// Longest frame that is taken: one message of the largest size on top of [`FRAME_BYTES`].
pub(crate) const FRAME_BYTES_MAX: usize = 20 << 20;
/// Room that is made for what comes next.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// Frames to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// Where the frame begins that takes the next message.
    open: Option<usize>,
    /// Frames begun so far.
    begun: u64,
    messages: u32,
}

impl Outgoing {
    /// Appends a message; the number of its frame.
    pub(crate) fn push(&mut self, message: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
            self.begun += 1;
        }
        message(&mut self.bytes);
        self.messages += 1;
        if self.open.is_some_and(|start| self.bytes.len() - start >= FRAME_BYTES) {
            self.close();
        }
        self.begun
    }

    fn close(&mut self) {
        let Some(start) = self.open.take() else { return };
        let (header, payload) = self.bytes[start..].split_at_mut(HEADER_BYTES);
        header[..4].copy_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        header[4..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Moves all frames into the empty `into`; the number of the last one, and how many messages they have.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) -> (u64, u32) {
        self.close();
        std::mem::swap(&mut self.bytes, into);
        (self.begun, std::mem::take(&mut self.messages))
    }
}

/// What came, cut into frames.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    start: usize,
}

impl Incoming {
    /// Where to read to. What was taken is dropped first.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            // A frame of the largest size does not stay for ever.
            self.bytes.shrink_to(2 * FRAME_BYTES);
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.reserve(READ_BYTES);
        &mut self.bytes
    }

    /// The messages of the next whole frame.
    ///
    /// # Errors
    /// A frame that is too long, or damaged.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let rest = &self.bytes[self.start..];
        let Some((header, rest)) = rest.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = number(0) as usize;
        let invalid = |detail: String| Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        if length > FRAME_BYTES_MAX {
            return invalid(format!("a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken"));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        if crc32c::crc32c(payload) != number(4) {
            return invalid("a frame with a wrong checksum".to_owned());
        }
        let begin = self.start + HEADER_BYTES;
        self.start = begin + length;
        Ok(Some(&self.bytes[begin..begin + length]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sent(messages: &[&[u8]]) -> Vec<u8> {
        let (mut outgoing, mut bytes) = (Outgoing::default(), Vec::new());
        for message in messages {
            outgoing.push(|out| out.extend_from_slice(message));
        }
        outgoing.take(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_sent_comes_whole_however_it_is_cut() {
        let long = vec![7; FRAME_BYTES];
        let bytes = sent(&[b"one", b"two", &long, b"three"]);
        for step in [1, 7, 4096, bytes.len()] {
            let (mut incoming, mut came) = (Incoming::default(), Vec::new());
            for piece in bytes.chunks(step) {
                incoming.room().extend_from_slice(piece);
                while let Some(frame) = incoming.next().unwrap() {
                    came.push(frame.to_vec());
                }
            }
            assert_eq!(came, [[b"onetwo", &long[..]].concat(), b"three".to_vec()]);
        }
    }

    #[test]
    fn damage_and_excess_are_errors() {
        let good = sent(&[b"message"]);
        for at in 4..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let mut incoming = Incoming::default();
            incoming.room().extend_from_slice(&bytes);
            assert!(incoming.next().is_err(), "{at}");
        }
        let mut incoming = Incoming::default();
        let excess = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
        incoming.room().extend_from_slice(&[&excess[..], &[0; 4]].concat());
        assert!(incoming.next().unwrap_err().to_string().contains("at most"));
    }
}
