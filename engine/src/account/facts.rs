//! Facts about an account that its blob no longer holds: what was evicted and not yet checkpointed (the
//! overlay), and what was loaded for a turn.
//!
//! A fact is looked for in the state first, then in the overlay, then in what was loaded: the first place
//! that has it has its newest value.

use hashbrown::HashMap;
use meed_schemas::codec::{CodecError, Reader, put_varint};
use meed_schemas::ids::Position;
use meed_schemas::record::Record;
use meed_schemas::time::Millis;
use smallvec::SmallVec;

/// What a spilled fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FactKey {
    /// The outcome that a key leads to.
    Key {
        /// Keyed hash of the key.
        hash: u128,
        /// Whether it is a business key.
        business: bool,
    },
    /// How much of the original with this shard sequence was reversed.
    Reversed(u64),
    /// How many points of the lots with this expiry expired unspent and were not counted as taken since.
    ExpiredLot(Millis),
    /// How the hold with this shard sequence ended.
    ClosedHold(u64),
}

/// A fact that left the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    /// What it is about.
    pub fact: FactKey,
    /// Its value.
    pub value: FactValue,
    /// When the record that made it was recorded; retention of keys counts from it.
    pub recorded_at: Millis,
    /// Shard sequence of the record that evicted it.
    pub at: u64,
}

/// The value of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// Of a key.
    Outcome(Outcome),
    /// Of an original.
    Reversed {
        /// Points, shortfalls included.
        points: i64,
        /// Minor units.
        amount: i64,
    },
    /// Of an expired lot: points.
    ExpiredLot(i64),
    /// Of a hold.
    ClosedHold(ClosedHold),
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Shard sequence of the record that renders the outcome.
    pub target: u64,
    /// Fingerprint of the request.
    pub fingerprint: u64,
    /// Whether the record is a remembered refusal.
    pub refusal: bool,
}

impl Outcome {
    /// The bytes that the store keeps. A shard sequence has fewer than 63 bits.
    pub fn to_bytes(self) -> [u8; 16] {
        let target = self.target << 1 | u64::from(self.refusal);
        (u128::from(self.fingerprint) << 64 | u128::from(target)).to_le_bytes()
    }
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedHold {
    /// Shard sequence of the record that ended it.
    pub end: u64,
    /// Whether that was a capture; else it was released.
    pub captured: bool,
}

impl FactValue {
    /// The bytes that the store keeps.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match *self {
            Self::Outcome(outcome) => out.extend_from_slice(&outcome.to_bytes()),
            Self::Reversed { points, amount } => {
                put_varint(&mut out, points as u64);
                put_varint(&mut out, amount as u64);
            }
            Self::ExpiredLot(points) => put_varint(&mut out, points as u64),
            Self::ClosedHold(ClosedHold { end, captured }) => {
                put_varint(&mut out, end);
                out.push(u8::from(captured));
            }
        }
        out
    }

    /// Reads the value of a fact of this key.
    ///
    /// # Errors
    /// When the bytes are not what [`FactValue::encode`] wrote.
    pub fn decode(fact: &FactKey, bytes: &[u8]) -> Result<Self, CodecError> {
        let r = &mut Reader::new(bytes);
        let count = |r: &mut Reader<'_>| i64::try_from(r.varint("fact")?).map_err(|_| CodecError::Invalid("fact"));
        let value = match fact {
            FactKey::Key { .. } => {
                let (target, fingerprint) = (r.u64("fact")?, r.u64("fact")?);
                Self::Outcome(Outcome { target: target >> 1, fingerprint, refusal: target & 1 == 1 })
            }
            FactKey::Reversed(_) => Self::Reversed { points: count(r)?, amount: count(r)? },
            FactKey::ExpiredLot(_) => Self::ExpiredLot(count(r)?),
            FactKey::ClosedHold(_) => {
                Self::ClosedHold(ClosedHold { end: r.varint("fact")?, captured: r.byte("fact")? != 0 })
            }
        };
        if r.is_empty() { Ok(value) } else { Err(CodecError::Invalid("fact")) }
    }
}

/// Something to load before a request can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// The record at a position.
    Record(Position),
    /// A spilled fact of the account.
    Fact(FactKey),
}

/// What must be loaded.
pub type Fetches = SmallVec<[Fetch; 2]>;

/// What was loaded for a turn, absence included.
#[derive(Debug, Default)]
pub struct Facts {
    records: Vec<(Position, Option<Record>)>,
    facts: Vec<(FactKey, Option<FactValue>)>,
}

impl Facts {
    /// Adds what lies at a position; `None` when the journal has no such record.
    pub fn add_record(&mut self, position: Position, record: Option<Record>) {
        self.records.push((position, record));
    }

    /// Adds the stored value of a fact; `None` when the store has none.
    ///
    /// # Errors
    /// When the value is damaged.
    pub fn add_fact(&mut self, fact: FactKey, value: Option<&[u8]>) -> Result<(), CodecError> {
        let value = value.map(|bytes| FactValue::decode(&fact, bytes)).transpose()?;
        self.facts.push((fact, value));
        Ok(())
    }

    /// The record at a position; the outer `None` when it was not loaded.
    pub fn record(&self, position: Position) -> Option<Option<&Record>> {
        self.records.iter().rev().find(|(at, _)| *at == position).map(|(_, record)| record.as_ref())
    }

    /// The value of a fact; the outer `None` when it was not loaded.
    pub fn fact(&self, fact: &FactKey) -> Option<Option<FactValue>> {
        self.facts.iter().rev().find(|(key, _)| key == fact).map(|(_, value)| *value)
    }
}

/// Facts evicted and not yet checkpointed, in the order of their eviction.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    spilled: Vec<Spilled>,
    /// The number of the newest spill of each fact, counted from the first that there ever was; kept only
    /// while there are more than [`SEARCHED_FACTS`].
    newest: Option<Box<HashMap<FactKey, u64>>>,
    /// How many were dropped from the front so far.
    dropped: u64,
}

/// Facts that are searched one by one; more are found by an index. Most accounts never have as many.
const SEARCHED_FACTS: usize = 32;

impl Overlay {
    pub(super) fn push(&mut self, spilled: Spilled) {
        let number = self.dropped + self.spilled.len() as u64;
        if let Some(newest) = &mut self.newest {
            newest.insert(spilled.fact, number);
        }
        self.spilled.push(spilled);
        if self.newest.is_none() && self.spilled.len() > SEARCHED_FACTS {
            self.newest = Some(Box::new(self.spilled.iter().map(|s| s.fact).zip(self.dropped..).collect()));
        }
    }

    pub(super) fn get(&self, fact: &FactKey) -> Option<FactValue> {
        let Some(newest) = &self.newest else {
            return self.spilled.iter().rev().find(|s| s.fact == *fact).map(|s| s.value);
        };
        let number = newest.get(fact)?;
        self.spilled.get(number.checked_sub(self.dropped)? as usize).map(|s| s.value)
    }

    pub(super) fn all(&self) -> &[Spilled] {
        &self.spilled
    }

    /// Drops what was evicted by records up to this shard sequence.
    pub(super) fn drop_up_to(&mut self, at: u64) {
        let count = self.spilled.partition_point(|s| s.at <= at);
        for (number, spilled) in (self.dropped..).zip(self.spilled.drain(..count)) {
            if let Some(newest) = &mut self.newest
                && newest.get(&spilled.fact) == Some(&number)
            {
                newest.remove(&spilled.fact);
            }
        }
        self.dropped += count as u64;
        if self.spilled.is_empty() {
            *self = Self { dropped: self.dropped, ..Self::default() };
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.spilled.capacity() * size_of::<Spilled>()
            + self.newest.as_ref().map_or(0, |n| n.capacity() * (size_of::<(FactKey, u64)>() + 1))
    }
}
