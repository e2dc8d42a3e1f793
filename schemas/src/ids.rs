//! Identities of accounts and positions of records.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64;

/// The name of the function that maps an identity to its shard, stored in every data folder and checked
/// at start. `fixtures/shard_of.json` pins its values.
pub const SHARD_HASH_NAME: &str = "xxh3-64 of kind byte, program length byte, program, id; modulo shard count";
/// Most shards that a node or keyspace can have: a position has 12 bits for the shard.
pub const SHARDS_MAX: u16 = 4096;
/// Longest account, program, store or terminal id, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// What kind of scarce thing an account holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AccountKind {
    /// A member's card, or a company account shared by several managers.
    Member = 1,
    /// The stock of one reward.
    Stock = 2,
    /// The budget of one campaign.
    Budget = 3,
    /// A program; its versions are its records.
    Program = 4,
    /// An order: a saga over several accounts.
    Order = 5,
}

impl AccountKind {
    /// The kind with this number in the record format, if there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Member,
            2 => Self::Stock,
            3 => Self::Budget,
            4 => Self::Program,
            5 => Self::Order,
            _ => return None,
        })
    }

    /// The word for it in keys of the stream, and where records are shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Stock => "stock",
            Self::Budget => "budget",
            Self::Program => "program",
            Self::Order => "order",
        }
    }
}

/// Who an account is: (program, kind, id), in the one byte form that is hashed, journaled and stored:
/// kind byte, program length byte, program, id.
///
/// It is copied with every record and kept with every account, so the usual lengths need no allocation.
#[derive(Clone)]
pub struct Identity(Bytes);

/// Longest byte form that lies in the identity itself: with the length and the variant it fills 24 bytes.
const INLINE_BYTES_MAX: usize = 22;

#[derive(Clone)]
enum Bytes {
    Inline(u8, [u8; INLINE_BYTES_MAX]),
    Heap(Box<[u8]>),
}

impl Identity {
    /// An identity of parts that [`check_id`] accepts (a program may be at most [`ID_BYTES_MAX`] long).
    pub fn new(program: &str, kind: AccountKind, id: &str) -> Self {
        debug_assert!(program.len() <= ID_BYTES_MAX && id.len() <= ID_BYTES_MAX);
        Self::of_parts(&[&[kind as u8, program.len() as u8], program.as_bytes(), id.as_bytes()])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > INLINE_BYTES_MAX {
            return Self(Bytes::Heap(parts.concat().into_boxed_slice()));
        }
        let (mut inline, mut at) = ([0; INLINE_BYTES_MAX], 0);
        for part in parts {
            inline[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Self(Bytes::Inline(length as u8, inline))
    }

    /// Bytes that it takes beside itself.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Bytes::Inline(..) => 0,
            Bytes::Heap(bytes) => bytes.len(),
        }
    }

    /// A member's account.
    pub fn member(program: &str, id: &str) -> Self {
        Self::new(program, AccountKind::Member, id)
    }

    /// The account whose records are the versions of a program.
    pub fn program_account(program: &str) -> Self {
        Self::new(program, AccountKind::Program, program)
    }

    /// Reads the byte form; `None` when it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        AccountKind::from_byte(kind)?;
        let (&program_length, rest) = rest.split_first()?;
        if rest.len() < program_length as usize || std::str::from_utf8(rest).is_err() {
            return None;
        }
        std::str::from_utf8(&rest[..program_length as usize]).ok()?;
        Some(Self::of_parts(&[bytes]))
    }

    /// The byte form.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline(length, bytes) => &bytes[..usize::from(*length).min(INLINE_BYTES_MAX)],
            Bytes::Heap(bytes) => bytes,
        }
    }

    /// The kind of account.
    pub fn kind(&self) -> AccountKind {
        AccountKind::from_byte(self.as_bytes()[0]).unwrap_or(AccountKind::Member)
    }

    /// The program (tenant).
    pub fn program(&self) -> &str {
        let bytes = self.as_bytes();
        std::str::from_utf8(&bytes[2..2 + bytes[1] as usize]).unwrap_or_default()
    }

    /// The account's id within its program and kind.
    pub fn id(&self) -> &str {
        let bytes = self.as_bytes();
        std::str::from_utf8(&bytes[2 + bytes[1] as usize..]).unwrap_or_default()
    }

    /// The shard that owns this account among `shards`.
    pub fn shard(&self, shards: u16) -> u16 {
        (xxh3_64(self.as_bytes()) % u64::from(shards)) as u16
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}/{}", self.program(), self.kind(), self.id())
    }
}

/// What [`check_id`] wants, to be read after `must be`.
pub const ID_FORM: &str = "1 to 128 printable ASCII characters without space / ? # %";

/// Whether `id` is an account, program, store or terminal id: 1–128 printable ASCII characters without
/// space `/ ? # %`, and not `.` or `..`.
pub fn check_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= ID_BYTES_MAX
        && id != "."
        && id != ".."
        && id.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'%'))
}

/// Whether `id` is an account id: a [`check_id`] that cannot be taken for an alias.
pub fn check_account_id(id: &str) -> bool {
    check_id(id) && !is_alias(id)
}

/// Whether an identifier in a path or body is an alias: it contains `:` or `@`, or begins with `+`.
pub fn is_alias(identifier: &str) -> bool {
    identifier.starts_with('+') || identifier.bytes().any(|b| b == b':' || b == b'@')
}

/// Where a record is: shard and shard sequence, dense per shard over every record. Packed into 64 bits
/// (12 + 52) because back-pointers, keys and ids all hold one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(u64);

impl Position {
    const SEQUENCE_BITS: u32 = 52;
    /// Highest shard sequence.
    pub const SEQUENCE_MAX: u64 = (1 << Self::SEQUENCE_BITS) - 1;

    /// The position of a shard's record; sequences begin at 1.
    pub fn new(shard: u16, sequence: u64) -> Self {
        debug_assert!(shard < SHARDS_MAX && sequence <= Self::SEQUENCE_MAX);
        Self(u64::from(shard) << Self::SEQUENCE_BITS | sequence)
    }

    /// The packed form.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Reads the packed form; every value is a position.
    pub fn from_u64(packed: u64) -> Self {
        Self(packed)
    }

    /// The shard.
    pub fn shard(self) -> u16 {
        (self.0 >> Self::SEQUENCE_BITS) as u16
    }

    /// The sequence within the shard.
    pub fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }

    /// Whether it is that of a record of this shard, whose newest has `last_sequence`.
    pub fn is_in(self, shard: u16, last_sequence: u64) -> bool {
        self.shard() == shard && (1..=last_sequence).contains(&self.sequence())
    }

    /// Parses the text of [`Position`]'s `Display` (a `transaction_id` or `hold_id`); only the canonical
    /// form is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (shard, sequence) = text.split_once('-')?;
        let canonical = |t: &str| {
            !t.is_empty() && t.len() <= 16 && t.bytes().all(|b| b.is_ascii_digit()) && (t == "0" || !t.starts_with('0'))
        };
        if !canonical(shard) || !canonical(sequence) {
            return None;
        }
        let (shard, sequence) = (shard.parse::<u16>().ok()?, sequence.parse::<u64>().ok()?);
        (shard < SHARDS_MAX && (1..=Self::SEQUENCE_MAX).contains(&sequence)).then(|| Self::new(shard, sequence))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard(), self.sequence())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn the_form_of_an_id_names_its_bound() {
        assert!(ID_FORM.starts_with(&format!("1 to {ID_BYTES_MAX} ")), "{ID_FORM}");
    }

    /// Identities that fit, that just do not, and of the longest program: the form tells nobody where it lies.
    #[test]
    fn an_identity_is_its_bytes_wherever_they_lie() {
        let hasher = RandomState::new();
        let mut all = Vec::new();
        for program in ["p", &"q".repeat(ID_BYTES_MAX)] {
            for length in 1..=ID_BYTES_MAX {
                let id = "x".repeat(length);
                let identity = Identity::new(program, AccountKind::Stock, &id);
                let mut bytes = vec![AccountKind::Stock as u8, program.len() as u8];
                bytes.extend_from_slice(program.as_bytes());
                bytes.extend_from_slice(id.as_bytes());
                assert_eq!(identity.as_bytes(), bytes);
                assert_eq!((identity.program(), identity.kind(), identity.id()), (program, AccountKind::Stock, &*id));
                let read = Identity::from_bytes(&bytes).unwrap_or_else(|| panic!("{identity:?} is not read"));
                assert_eq!(read, identity);
                assert_eq!(hasher.hash_one(&read), hasher.hash_one(&identity));
                assert_eq!(identity.heap_bytes() == 0, bytes.len() <= INLINE_BYTES_MAX);
                all.push((bytes, identity));
            }
        }
        assert_eq!(size_of::<Identity>(), 24);
        all.sort_by(|a, b| a.1.cmp(&b.1));
        assert!(all.is_sorted_by(|a, b| a.0 < b.0), "identities have the order of their bytes");
    }
}
