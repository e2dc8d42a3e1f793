//! Identities of accounts and positions of records.

use std::fmt;

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

    /// The word for it in keys of the stream.
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
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Box<[u8]>);

impl Identity {
    /// An identity of parts that [`check_id`] accepts (a program may be at most [`ID_BYTES_MAX`] long).
    pub fn new(program: &str, kind: AccountKind, id: &str) -> Self {
        debug_assert!(program.len() <= ID_BYTES_MAX && id.len() <= ID_BYTES_MAX);
        let mut bytes = Vec::with_capacity(2 + program.len() + id.len());
        bytes.push(kind as u8);
        bytes.push(program.len() as u8);
        bytes.extend_from_slice(program.as_bytes());
        bytes.extend_from_slice(id.as_bytes());
        Self(bytes.into_boxed_slice())
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
        Some(Self(bytes.into()))
    }

    /// The byte form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The kind of account.
    pub fn kind(&self) -> AccountKind {
        AccountKind::from_byte(self.0[0]).unwrap_or(AccountKind::Member)
    }

    /// The program (tenant).
    pub fn program(&self) -> &str {
        std::str::from_utf8(&self.0[2..2 + self.0[1] as usize]).unwrap_or_default()
    }

    /// The account's id within its program and kind.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.0[2 + self.0[1] as usize..]).unwrap_or_default()
    }

    /// The shard that owns this account among `shards`.
    pub fn shard(&self, shards: u16) -> u16 {
        (xxh3_64(&self.0) % u64::from(shards)) as u16
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}/{}", self.program(), self.kind(), self.id())
    }
}

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
