//! The primitives of every binary form: LEB128 varints, zigzag for signed integers, lengths before bytes.

use crate::time::NEVER;

/// Bytes that are not a record of this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside a field.
    #[error("the record ends inside {0}")]
    Truncated(&'static str),
    /// A field has a value that it cannot have.
    #[error("the record's {0} is invalid")]
    Invalid(&'static str),
    /// Written by a newer program.
    #[error("record format {0} is newer than this program")]
    NewerFormat(u8),
    /// Of a wallet that this program does not know: applied to the points it would be another record.
    #[error("the record is of a wallet that this program does not know")]
    UnknownWallet,
}

pub(crate) type Result<T> = std::result::Result<T, CodecError>;

/// Appends an unsigned varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer as a zigzag varint.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends bytes with their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the `put_…` functions wrote, never beyond the end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes are left.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8]> {
        if self.bytes.len() < count {
            return Err(CodecError::Truncated(what));
        }
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(taken)
    }

    /// One byte.
    pub fn byte(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.take(1, what)?[0])
    }

    /// An unsigned varint.
    pub fn varint(&mut self, what: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            if shift == 63 && byte > 1 {
                return Err(CodecError::Invalid(what));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Invalid(what))
    }

    /// A zigzag varint.
    pub fn signed(&mut self, what: &'static str) -> Result<i64> {
        let value = self.varint(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of items of at least one byte each, so that it cannot announce more than there is.
    pub fn count(&mut self, what: &'static str) -> Result<usize> {
        let count = self.varint(what)?;
        if count > self.bytes.len() as u64 {
            return Err(CodecError::Truncated(what));
        }
        Ok(count as usize)
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let count = self.count(what)?;
        self.take(count, what)
    }

    /// UTF-8 text with its length.
    pub fn text(&mut self, what: &'static str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| CodecError::Invalid(what))
    }

    /// Eight little-endian bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_le_bytes(buffer))
    }

    /// Sixteen little-endian bytes.
    pub fn u128(&mut self, what: &'static str) -> Result<u128> {
        let mut buffer = [0; 16];
        buffer.copy_from_slice(self.take(16, what)?);
        Ok(u128::from_le_bytes(buffer))
    }
}

/// Appends an expiry: 0 for never, else the instant plus one step so that 0 stays free.
pub fn put_instant(out: &mut Vec<u8>, at: i64) {
    match at {
        NEVER => put_varint(out, 0),
        at => put_varint(out, (((at << 1) ^ (at >> 63)) as u64).saturating_add(1)),
    }
}

/// Reads what [`put_instant`] wrote.
pub fn read_instant(r: &mut Reader<'_>, what: &'static str) -> Result<i64> {
    match r.varint(what)? {
        0 => Ok(NEVER),
        value => {
            let value = value - 1;
            Ok((value >> 1) as i64 ^ -((value & 1) as i64))
        }
    }
}
