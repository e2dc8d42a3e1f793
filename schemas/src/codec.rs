//! The bytes of a record in the journal: format version 1.
//!
//! A frame outside this module carries length, checksum and position. Integers are LEB128 varints, signed
//! ones zigzag; optional parts are announced by flags. Unknown extension tags are carried along, but an unknown
//! wallet is refused.

use smallvec::SmallVec;

use crate::wire::Result;
pub use crate::wire::{CodecError, Reader, put_bytes, put_instant, put_signed, put_varint, read_instant};

use crate::command::{References, RequestId, Status};
use crate::ids::{Identity, Position};
use crate::record::{
    AmountAward, Balances, Detail, KeyBinding, LotKey, ManualTier, Move, MoveOp, Record, RecordKind, SaleRedemption,
    Spend, VoidReason, extension,
};
use crate::time::NEVER;

/// The version byte that this module writes and reads.
pub const FORMAT: u8 = 1;

mod flag {
    pub(super) const NEWEST_VERSION: u64 = 1;
    pub(super) const HELD: u64 = 1 << 1;
    pub(super) const PENDING: u64 = 1 << 2;
    pub(super) const DEBT: u64 = 1 << 3;
    pub(super) const TIER: u64 = 1 << 4;
    pub(super) const SPEND: u64 = 1 << 5;
    pub(super) const KEYS: u64 = 1 << 6;
    pub(super) const REFERENCES: u64 = 1 << 7;
    pub(super) const EXTENSIONS: u64 = 1 << 8;
    pub(super) const PREVIOUS_DIFFERS: u64 = 1 << 9;
    pub(super) const KNOWN: u64 = (1 << 10) - 1;
}

const EXPIRES: u8 = 0x40;
const ACTIVATES: u8 = 0x80;

/// Appends the record without its position.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let b = &record.balances;
    let mut flags = 0;
    let mut set = |bit: u64, on: bool| flags |= if on { bit } else { 0 };
    set(flag::NEWEST_VERSION, record.newest_version != record.program_version);
    set(flag::HELD, b.held != 0);
    set(flag::PENDING, b.pending != 0);
    set(flag::DEBT, b.debt != 0);
    set(flag::TIER, record.tier != 0);
    set(flag::SPEND, record.spend.is_some());
    set(flag::KEYS, !record.keys.is_empty());
    set(flag::REFERENCES, record.references.is_some());
    set(flag::EXTENSIONS, !record.extensions.is_empty());
    set(flag::PREVIOUS_DIFFERS, record.previous_of_kind != record.previous);
    out.extend_from_slice(&[FORMAT, record.rendering, record.kind as u8]);
    put_varint(out, flags);
    put_bytes(out, record.identity.as_bytes());
    put_varint(out, record.sequence);
    put_back_pointer(out, record.position, record.previous);
    if record.previous_of_kind != record.previous {
        put_back_pointer(out, record.position, record.previous_of_kind);
    }
    put_signed(out, record.recorded_at);
    put_signed(out, record.recorded_at.wrapping_sub(record.occurred_at));
    put_varint(out, u64::from(record.program_version));
    if record.newest_version != record.program_version {
        put_varint(out, u64::from(record.newest_version));
    }
    put_signed(out, record.points);
    put_signed(out, b.total);
    for value in [b.held, b.pending, b.debt] {
        if value != 0 {
            put_signed(out, value);
        }
    }
    if record.tier != 0 {
        out.push(record.tier);
    }
    put_varint(out, record.moves.len() as u64);
    for m in &record.moves {
        put_move(out, m);
    }
    if let Some(spend) = record.spend {
        put_signed(out, i64::from(spend.month));
        put_signed(out, spend.amount);
    }
    if !record.keys.is_empty() {
        out.push(record.keys.len() as u8);
        for key in &record.keys {
            out.push(u8::from(key.business));
            out.extend_from_slice(&key.hash.to_le_bytes());
        }
        out.extend_from_slice(&record.fingerprint.to_le_bytes());
    }
    if let Some(references) = &record.references {
        put_references(out, references);
    }
    put_detail(out, &record.detail);
    if !record.extensions.is_empty() {
        put_varint(out, record.extensions.len() as u64);
        for (tag, value) in &record.extensions {
            put_varint(out, u64::from(*tag));
            put_bytes(out, value);
        }
    }
}

/// A shard sequence before the record's own, as the distance; 0 for none.
fn put_back_pointer(out: &mut Vec<u8>, position: Position, sequence: u64) {
    put_varint(out, if sequence == 0 { 0 } else { position.sequence().wrapping_sub(sequence) });
}

fn read_back_pointer(r: &mut Reader<'_>, position: Position) -> Result<u64> {
    match r.varint("back-pointer")? {
        0 => Ok(0),
        distance if distance < position.sequence() => Ok(position.sequence() - distance),
        _ => Err(CodecError::Invalid("back-pointer")),
    }
}

/// At least one key, and the fingerprint of the request that they belong to.
fn read_keys(r: &mut Reader<'_>) -> Result<(SmallVec<[KeyBinding; 2]>, u64)> {
    let mut keys = SmallVec::new();
    for _ in 0..r.byte("keys")? {
        let business = r.byte("keys")? != 0;
        keys.push(KeyBinding { hash: r.u128("keys")?, business });
    }
    match keys.is_empty() {
        true => Err(CodecError::Invalid("keys")),
        false => Ok((keys, r.u64("fingerprint")?)),
    }
}

fn put_move(out: &mut Vec<u8>, m: &Move) {
    let mut tag = m.op as u8;
    if m.lot.expires_at != NEVER {
        tag |= EXPIRES;
    }
    if m.lot.activates_at.is_some() {
        tag |= ACTIVATES;
    }
    out.push(tag);
    put_varint(out, m.points as u64);
    if m.lot.expires_at != NEVER {
        put_signed(out, m.lot.expires_at);
    }
    if let Some(at) = m.lot.activates_at {
        put_signed(out, at);
    }
}

fn read_move(r: &mut Reader<'_>) -> Result<Move> {
    let tag = r.byte("move")?;
    let op = MoveOp::from_byte(tag & 0x3f).ok_or(CodecError::Invalid("move"))?;
    let points = i64::try_from(r.varint("move")?).map_err(|_| CodecError::Invalid("move"))?;
    let expires_at = if tag & EXPIRES != 0 { r.signed("expiry")? } else { NEVER };
    let activates_at = if tag & ACTIVATES != 0 { Some(r.signed("activation")?) } else { None };
    Ok(Move { op, lot: LotKey { expires_at, activates_at }, points })
}

pub(crate) fn put_references(out: &mut Vec<u8>, references: &References) {
    let parts = reference_parts(references);
    let mut present = 0u64;
    for (bit, part) in parts.iter().enumerate() {
        present |= u64::from(part.is_some()) << bit;
    }
    put_varint(out, present);
    for part in parts.into_iter().flatten() {
        put_bytes(out, part.as_bytes());
    }
}

/// The references in the order of their bits in the format.
fn reference_parts(r: &References) -> [Option<&str>; 10] {
    [
        r.source.as_deref(),
        r.reference_id.as_deref(),
        r.description.as_deref(),
        r.reason.as_deref(),
        r.reward_id.as_deref(),
        r.metadata.as_deref(),
        r.store_id.as_deref(),
        r.terminal_id.as_deref(),
        r.pos_transaction_id.as_deref(),
        r.traceparent.as_deref(),
    ]
}

pub(crate) fn read_references(r: &mut Reader<'_>) -> Result<Box<References>> {
    let present = r.varint("references")?;
    if present >= 1 << 10 {
        return Err(CodecError::Invalid("references"));
    }
    let mut next = |bit: u32| -> Result<Option<Box<str>>> {
        if present >> bit & 1 == 1 { Ok(Some(r.text("references")?.into())) } else { Ok(None) }
    };
    Ok(Box::new(References {
        source: next(0)?,
        reference_id: next(1)?,
        description: next(2)?,
        reason: next(3)?,
        reward_id: next(4)?,
        metadata: next(5)?,
        store_id: next(6)?,
        terminal_id: next(7)?,
        pos_transaction_id: next(8)?,
        traceparent: next(9)?,
    }))
}

pub(crate) fn put_option(out: &mut Vec<u8>, value: Option<i64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_signed(out, value);
    }
}

pub(crate) fn read_option(r: &mut Reader<'_>, what: &'static str) -> Result<Option<i64>> {
    match r.byte(what)? {
        0 => Ok(None),
        1 => Ok(Some(r.signed(what)?)),
        _ => Err(CodecError::Invalid(what)),
    }
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_varint(out, u64::from(position.shard()));
    put_varint(out, position.sequence());
}

pub(crate) fn read_position(r: &mut Reader<'_>) -> Result<Position> {
    let (shard, sequence) = (r.varint("position")?, r.varint("position")?);
    if shard >= u64::from(crate::ids::SHARDS_MAX) || sequence > Position::SEQUENCE_MAX {
        return Err(CodecError::Invalid("position"));
    }
    Ok(Position::new(shard as u16, sequence))
}

pub(crate) fn put_request_id(out: &mut Vec<u8>, request_id: &RequestId) {
    match request_id {
        RequestId::Made(number) => {
            out.push(0);
            out.extend_from_slice(&number.to_le_bytes());
        }
        RequestId::Given(text) => {
            out.push(1);
            put_bytes(out, text.as_bytes());
        }
    }
}

pub(crate) fn read_request_id(r: &mut Reader<'_>) -> Result<RequestId> {
    Ok(match r.byte("request id")? {
        0 => RequestId::Made(r.u64("request id")?),
        1 => RequestId::Given(r.text("request id")?.into()),
        _ => return Err(CodecError::Invalid("request id")),
    })
}

fn put_detail(out: &mut Vec<u8>, detail: &Detail) {
    match detail {
        Detail::None => {}
        Detail::Earn { expires_at, activates_at, award, redemption } => {
            out.push(u8::from(award.is_some()) | u8::from(redemption.is_some()) << 1);
            put_instant(out, *expires_at);
            put_option(out, *activates_at);
            if let Some(award) = award {
                put_signed(out, award.amount);
                out.push(award.applied_tier);
                put_varint(out, u64::from(award.applied_multiplier));
            }
            if let Some(redemption) = redemption {
                put_position(out, redemption.position);
                put_signed(out, redemption.points);
                put_varint(out, redemption.lots.len() as u64);
                for (expires_at, points) in &redemption.lots {
                    put_instant(out, *expires_at);
                    put_signed(out, *points);
                }
            }
        }
        Detail::Redeem { hold } => {
            out.push(u8::from(hold.is_some()));
            if let Some(hold) = hold {
                put_position(out, *hold);
            }
        }
        Detail::Adjust { expires_at, activates_at } => {
            put_instant(out, *expires_at);
            put_option(out, *activates_at);
        }
        Detail::Reversal {
            original,
            original_kind,
            reversed_points,
            reversed_amount,
            shortfall_points,
            expired_points,
        } => {
            put_position(out, *original);
            out.push(*original_kind as u8);
            put_signed(out, *reversed_points);
            put_option(out, *reversed_amount);
            put_signed(out, *shortfall_points);
            put_signed(out, *expired_points);
        }
        Detail::Hold { expires_at } => put_option(out, *expires_at),
        Detail::Void { hold, reason } => {
            put_position(out, *hold);
            out.push(*reason as u8);
        }
        Detail::Activate { moved_points } => put_signed(out, *moved_points),
        Detail::Tier { from, to, manual } => {
            put_bytes(out, from.as_bytes());
            put_bytes(out, to.as_bytes());
            out.push(u8::from(manual.is_some()));
            if let Some(manual) = manual {
                out.push(u8::from(manual.name.is_some()) | u8::from(manual.floor) << 1);
                if let Some(name) = &manual.name {
                    put_bytes(out, name.as_bytes());
                }
                put_option(out, manual.until);
            }
        }
        Detail::Status { status, previous } => out.extend_from_slice(&[*status as u8, *previous as u8]),
        Detail::Program { document } => put_bytes(out, document.as_bytes()),
        Detail::Refusal { available_points, requested_points, request_id } => {
            put_signed(out, *available_points);
            put_signed(out, *requested_points);
            put_request_id(out, request_id);
        }
        Detail::Key { target } => put_position(out, *target),
    }
}

fn read_earn(r: &mut Reader<'_>) -> Result<Detail> {
    let parts = r.byte("earn")?;
    let expires_at = read_instant(r, "expiry")?;
    let activates_at = read_option(r, "activation")?;
    let mut award = None;
    if parts & 1 != 0 {
        award = Some(AmountAward {
            amount: r.signed("amount")?,
            applied_tier: r.byte("tier")?,
            applied_multiplier: r.varint("multiplier")?.try_into().map_err(|_| CodecError::Invalid("multiplier"))?,
        });
    }
    let mut redemption = None;
    if parts & 2 != 0 {
        let (position, points) = (read_position(r)?, r.signed("points")?);
        let lots = (0..r.count("lots")?)
            .map(|_| Ok((read_instant(r, "lots")?, r.signed("lots")?)))
            .collect::<Result<Vec<_>>>()?;
        redemption = Some(Box::new(SaleRedemption { position, points, lots }));
    }
    Ok(Detail::Earn { expires_at, activates_at, award, redemption })
}

fn read_tier(r: &mut Reader<'_>) -> Result<Detail> {
    let (from, to) = (r.text("tier")?.into(), r.text("tier")?.into());
    let mut manual = None;
    if r.byte("tier")? != 0 {
        let parts = r.byte("tier")?;
        let name = if parts & 1 != 0 { Some(r.text("tier")?.into()) } else { None };
        manual = Some(Box::new(ManualTier { name, floor: parts & 2 != 0, until: read_option(r, "tier")? }));
    }
    Ok(Detail::Tier { from, to, manual })
}

pub(crate) fn read_status(r: &mut Reader<'_>) -> Result<Status> {
    Status::from_byte(r.byte("status")?).ok_or(CodecError::Invalid("status"))
}

fn read_detail(r: &mut Reader<'_>, kind: RecordKind) -> Result<Detail> {
    Ok(match kind {
        RecordKind::Earn => read_earn(r)?,
        RecordKind::Redeem => {
            Detail::Redeem { hold: if r.byte("hold")? != 0 { Some(read_position(r)?) } else { None } }
        }
        RecordKind::Adjust => {
            Detail::Adjust { expires_at: read_instant(r, "expiry")?, activates_at: read_option(r, "activation")? }
        }
        RecordKind::Reversal => Detail::Reversal {
            original: read_position(r)?,
            original_kind: RecordKind::from_byte(r.byte("kind")?).ok_or(CodecError::Invalid("kind"))?,
            reversed_points: r.signed("reversed points")?,
            reversed_amount: read_option(r, "reversed amount")?,
            shortfall_points: r.signed("shortfall")?,
            expired_points: r.signed("expired points")?,
        },
        RecordKind::Hold => Detail::Hold { expires_at: read_option(r, "expiry")? },
        RecordKind::Void => Detail::Void {
            hold: read_position(r)?,
            reason: match r.byte("reason")? {
                0 => VoidReason::Requested,
                1 => VoidReason::Expired,
                2 => VoidReason::Closed,
                _ => return Err(CodecError::Invalid("reason")),
            },
        },
        RecordKind::Activate => Detail::Activate { moved_points: r.signed("points")? },
        RecordKind::Tier => read_tier(r)?,
        RecordKind::Status => Detail::Status { status: read_status(r)?, previous: read_status(r)? },
        RecordKind::Program => Detail::Program { document: r.text("document")?.into() },
        RecordKind::Expire | RecordKind::Open => Detail::None,
        RecordKind::Refusal => Detail::Refusal {
            available_points: r.signed("points")?,
            requested_points: r.signed("points")?,
            request_id: read_request_id(r)?,
        },
        RecordKind::Key => Detail::Key { target: read_position(r)? },
    })
}

fn read_extensions(r: &mut Reader<'_>) -> Result<Vec<(u16, Box<[u8]>)>> {
    let mut extensions = Vec::new();
    for _ in 0..r.count("extensions")? {
        let tag = r.varint("extension")?.try_into().map_err(|_| CodecError::Invalid("extension"))?;
        let value = r.bytes("extension")?;
        if tag == extension::WALLET && value != extension::POINTS_WALLET.as_bytes() {
            return Err(CodecError::UnknownWallet);
        }
        extensions.push((tag, value.into()));
    }
    Ok(extensions)
}

/// Reads a record that [`encode`] wrote; `position` is the frame's.
pub fn decode(position: Position, bytes: &[u8]) -> Result<Record> {
    let r = &mut Reader::new(bytes);
    match r.byte("format")? {
        FORMAT => {}
        newer => return Err(CodecError::NewerFormat(newer)),
    }
    let rendering = r.byte("rendering")?;
    let kind = RecordKind::from_byte(r.byte("kind")?).ok_or(CodecError::Invalid("kind"))?;
    let flags = r.varint("flags")?;
    if flags & !flag::KNOWN != 0 {
        return Err(CodecError::Invalid("flags"));
    }
    let has = |bit: u64| flags & bit != 0;
    let version = |r: &mut Reader<'_>| u32::try_from(r.varint("version")?).map_err(|_| CodecError::Invalid("version"));
    let identity = Identity::from_bytes(r.bytes("identity")?).ok_or(CodecError::Invalid("identity"))?;
    let sequence = r.varint("sequence")?;
    let previous = read_back_pointer(r, position)?;
    let previous_of_kind = if has(flag::PREVIOUS_DIFFERS) { read_back_pointer(r, position)? } else { previous };
    let recorded_at = r.signed("recorded_at")?;
    let occurred_at = recorded_at.wrapping_sub(r.signed("occurred_at")?);
    let program_version = version(r)?;
    let newest_version = if has(flag::NEWEST_VERSION) { version(r)? } else { program_version };
    let points = r.signed("points")?;
    let total = r.signed("total")?;
    let mut balance = |bit| if has(bit) { r.signed("balance") } else { Ok(0) };
    let balances =
        Balances { total, held: balance(flag::HELD)?, pending: balance(flag::PENDING)?, debt: balance(flag::DEBT)? };
    let tier = if has(flag::TIER) { r.byte("tier")? } else { 0 };
    let moves = (0..r.count("moves")?).map(|_| read_move(r)).collect::<Result<SmallVec<_>>>()?;
    let mut spend = None;
    if has(flag::SPEND) {
        let month = r.signed("month")?.try_into().map_err(|_| CodecError::Invalid("month"))?;
        spend = Some(Spend { month, amount: r.signed("spend")? });
    }
    let (keys, fingerprint) = if has(flag::KEYS) { read_keys(r)? } else { (SmallVec::new(), 0) };
    let references = if has(flag::REFERENCES) { Some(read_references(r)?) } else { None };
    let detail = read_detail(r, kind)?;
    let extensions = if has(flag::EXTENSIONS) { read_extensions(r)? } else { Vec::new() };
    if !r.is_empty() {
        return Err(CodecError::Invalid("length"));
    }
    Ok(Record {
        kind,
        rendering,
        position,
        identity,
        sequence,
        previous,
        previous_of_kind,
        recorded_at,
        occurred_at,
        program_version,
        newest_version,
        points,
        balances,
        tier,
        moves,
        spend,
        keys,
        fingerprint,
        references,
        detail,
        extensions,
    })
}
