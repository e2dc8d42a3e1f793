//! Where a reader of events is: an opaque text that holds, per shard, the last sequence it was given.

use crate::wire::{Reader, put_varint};

const VERSION: u8 = 1;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Longest cursor: 4,096 shards with the highest sequence each.
pub const CURSOR_BYTES_MAX: usize = 64 * 1024;

/// The text of a cursor: URL-safe. It carries a part of the journal's id, so that one of another journal is
/// recognized.
pub fn encode(journal_id: u128, sequences: &[u64]) -> String {
    let mut bytes = Vec::with_capacity(8 + sequences.len() * 4);
    bytes.push(VERSION);
    bytes.extend_from_slice(&(journal_id as u32).to_le_bytes());
    put_varint(&mut bytes, sequences.len() as u64);
    for sequence in sequences {
        put_varint(&mut bytes, *sequence);
    }
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let group = three.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for shift in [18, 12, 6, 0].into_iter().take(three.len() + 1) {
            text.push(char::from(DIGITS[(group >> shift & 63) as usize]));
        }
    }
    text
}

/// Reads a cursor of this journal with so many shards; `None` when it is none.
pub fn decode(text: &str, journal_id: u128, shards: u16) -> Option<Vec<u64>> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.as_bytes().chunks(4) {
        let mut group = 0u32;
        for digit in four {
            group = group << 6 | DIGITS.iter().position(|d| d == digit)? as u32;
        }
        group <<= 6 * (4 - four.len());
        bytes.extend_from_slice(group.to_be_bytes().get(1..four.len())?);
    }
    let mut reader = Reader::new(&bytes);
    if reader.byte("cursor").ok()? != VERSION || reader.take(4, "cursor").ok()? != (journal_id as u32).to_le_bytes() {
        return None;
    }
    if reader.varint("cursor").ok()? != u64::from(shards) {
        return None;
    }
    let sequences: Option<Vec<u64>> = (0..shards).map(|_| reader.varint("cursor").ok()).collect();
    sequences.filter(|_| reader.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        for sequences in [vec![0], vec![1, 0], vec![7, u64::MAX >> 12, 0, 300], vec![u64::MAX; 4096]] {
            let shards = sequences.len() as u16;
            let text = encode(id, &sequences);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
            assert_eq!(decode(&text, id, shards).as_ref(), Some(&sequences));
            assert!(text.len() <= CURSOR_BYTES_MAX, "{}", text.len());
            assert_eq!(decode(&text, id + 1, shards), None, "another journal");
            assert_eq!(decode(&text, id, shards + 1), None, "another number of shards");
            assert_eq!(decode(&text[..text.len() - 1], id, shards), None);
            assert_eq!(decode(&format!("{text}AAAA"), id, shards), None);
            assert_eq!(decode(&text.replacen('A', "!", 1), id, shards).filter(|_| text.contains('A')), None);
        }
        for text in ["", "A", "ä", "0", "AAAAAAAA"] {
            assert_eq!(decode(text, 0, 1), None, "{text}");
        }
    }
}
