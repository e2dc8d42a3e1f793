//! The bytes of an account in the state store: format version 1.
//!
//! Equal histories give equal bytes. Instants that lie close to others are written as differences; sections
//! that most accounts do not have are announced by flags. What can be derived is not written.

use meed_schemas::codec::{CodecError, Reader, put_bytes, put_instant, put_signed, put_varint, read_instant};
use meed_schemas::command::Status;
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::record::{KeyBinding, RecordKind};
use meed_schemas::time::NEVER;

use super::facts::ClosedHold;
use super::wallet::{Lot, Pending, Wallet};
use super::{Account, Hold, KindCount, Manual, Operation, ProgramVersion, Rare, Reversed};
use crate::planted::{Fault, planted};

/// The version byte that this module writes and reads.
const FORMAT: u8 = 1;

mod flag {
    pub(super) const PENDING: u64 = 1;
    pub(super) const DEBT: u64 = 1 << 1;
    pub(super) const TIER_DUE: u64 = 1 << 2;
    pub(super) const STATUS: u64 = 1 << 3;
    pub(super) const SPEND: u64 = 1 << 4;
    pub(super) const OPERATIONS: u64 = 1 << 5;
    pub(super) const HOLDS: u64 = 1 << 6;
    pub(super) const CLOSED: u64 = 1 << 7;
    pub(super) const REVERSED: u64 = 1 << 8;
    pub(super) const EXPIRED: u64 = 1 << 9;
    pub(super) const MANUAL: u64 = 1 << 10;
    pub(super) const VERSIONS: u64 = 1 << 11;
    pub(super) const SPILLED_KEYS: u64 = 1 << 12;
    pub(super) const REVERSED_SPILLED: u64 = 1 << 13;
    pub(super) const CLOSED_SPILLED: u64 = 1 << 14;
    pub(super) const EXPIRED_SPILLED: u64 = 1 << 15;
    pub(super) const MANUAL_BEFORE: u64 = 1 << 16;
    pub(super) const KNOWN: u64 = (1 << 17) - 1;
}

type Result<T> = std::result::Result<T, CodecError>;

impl Account {
    /// Appends the state: everything but the overlay.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = self.flags();
        let has = |bit: u64| flags & bit != 0;
        out.push(FORMAT);
        put_varint(out, flags);
        put_varint(out, self.applied);
        put_varint(out, self.sequence);
        put_varint(out, self.applied - self.newest);
        put_signed(out, self.created_at);
        put_signed(out, self.updated_at - self.created_at);
        put_varint(out, u64::from(self.tier_version));
        out.push(self.tier);
        put_varint(out, self.kinds.len() as u64);
        for KindCount { kind, count, newest } in &self.kinds {
            out.push(*kind as u8);
            put_varint(out, *count);
            put_varint(out, self.applied - newest);
        }
        self.encode_wallet(has(flag::PENDING), has(flag::DEBT), out);
        if has(flag::TIER_DUE) {
            put_instant(out, self.tier_due);
        }
        if has(flag::STATUS) {
            out.push(self.status as u8);
        }
        if has(flag::SPEND) {
            put_varint(out, self.spend.len() as u64);
            for (month, amount) in &self.spend {
                put_signed(out, i64::from(*month));
                put_signed(out, *amount);
            }
        }
        if has(flag::OPERATIONS) {
            self.encode_operations(out);
        }
        if let Some(rare) = &self.rare {
            rare.encode(flags, self.applied, self.updated_at, out);
        }
    }

    fn flags(&self) -> u64 {
        let mut flags = 0;
        let mut set = |bit: u64, on: bool| flags |= if on { bit } else { 0 };
        set(flag::PENDING, !self.wallet.pending.is_empty());
        set(flag::DEBT, self.wallet.debt != 0);
        set(flag::TIER_DUE, self.tier_due != NEVER);
        set(flag::STATUS, self.status != Status::Active);
        set(flag::SPEND, !self.spend.is_empty());
        set(flag::OPERATIONS, !self.operations.is_empty());
        if let Some(rare) = &self.rare {
            set(flag::HOLDS, !rare.holds.is_empty());
            set(flag::CLOSED, !rare.closed.is_empty());
            set(flag::REVERSED, !rare.reversed.is_empty());
            set(flag::EXPIRED, !rare.expired.is_empty());
            set(flag::MANUAL, rare.manual.is_some());
            set(flag::MANUAL_BEFORE, !rare.manual_before.is_empty());
            set(flag::VERSIONS, !rare.versions.is_empty());
            set(flag::SPILLED_KEYS, rare.spilled_keys.is_some());
            set(flag::REVERSED_SPILLED, rare.reversed_spilled);
            set(flag::CLOSED_SPILLED, rare.closed_spilled);
            set(flag::EXPIRED_SPILLED, rare.expired_spilled.is_some());
        }
        flags
    }

    fn encode_wallet(&self, pending: bool, debt: bool, out: &mut Vec<u8>) {
        put_varint(out, self.wallet.lots.len() as u64);
        let mut earlier = 0;
        for lot in &self.wallet.lots {
            // The last lot may never expire; every other comes after the one before it.
            put_instant(out, if lot.expires_at == NEVER { NEVER } else { lot.expires_at.wrapping_sub(earlier) });
            earlier = lot.expires_at;
            put_varint(out, (lot.available as u64) << 1 | u64::from(lot.held != 0));
            if lot.held != 0 {
                put_varint(out, lot.held as u64);
            }
        }
        if pending {
            put_varint(out, self.wallet.pending.len() as u64);
            for lot in &self.wallet.pending {
                put_signed(out, lot.activates_at);
                put_instant(out, lot.expires_at);
                put_varint(out, lot.points as u64);
            }
        }
        if debt {
            put_varint(out, self.wallet.debt as u64);
        }
    }

    fn encode_operations(&self, out: &mut Vec<u8>) {
        let forgotten = usize::from(planted(Fault::ForgetKeyAtCheckpoint));
        put_varint(out, (self.operations.len() - forgotten) as u64);
        for operation in &self.operations[forgotten..] {
            put_varint(out, self.applied - operation.target);
            put_signed(out, self.updated_at.wrapping_sub(operation.recorded_at));
            out.extend_from_slice(&operation.fingerprint.to_le_bytes());
            let [idempotency, business] = operation.has;
            out.push(u8::from(operation.refusal) | u8::from(idempotency) << 1 | u8::from(business) << 2);
            for key in operation.keys() {
                out.extend_from_slice(&key.hash.to_le_bytes());
            }
        }
    }

    /// Reads what [`Account::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged, of a newer format, or of another kind of account.
    pub fn decode(identity: &Identity, blob: &[u8]) -> Result<Self> {
        let r = &mut Reader::new(blob);
        match r.byte("format")? {
            FORMAT => {}
            newer => return Err(CodecError::NewerFormat(newer)),
        }
        let flags = r.varint("flags")?;
        if flags & !flag::KNOWN != 0 {
            return Err(CodecError::Invalid("flags"));
        }
        let has = |bit: u64| flags & bit != 0;
        if has(flag::VERSIONS) && identity.kind() != AccountKind::Program {
            return Err(CodecError::Invalid("identity"));
        }
        let mut account = Self::blank();
        account.applied = r.varint("applied")?;
        account.sequence = r.varint("sequence")?;
        account.newest = before(r, account.applied)?;
        account.created_at = r.signed("created_at")?;
        account.updated_at = account.created_at.wrapping_add(r.signed("updated_at")?);
        account.tier_version = r.varint("tier")?.try_into().map_err(|_| CodecError::Invalid("tier"))?;
        account.tier = r.byte("tier")?;
        for _ in 0..r.count("kinds")? {
            let kind = RecordKind::from_byte(r.byte("kinds")?).ok_or(CodecError::Invalid("kinds"))?;
            let (count, newest) = (r.varint("kinds")?, before(r, account.applied)?);
            account.kinds.push(KindCount { kind, count, newest });
        }
        account.wallet = decode_wallet(r, has(flag::PENDING), has(flag::DEBT))?;
        if has(flag::TIER_DUE) {
            account.tier_due = read_instant(r, "tier")?;
        }
        if has(flag::STATUS) {
            account.status = Status::from_byte(r.byte("status")?).ok_or(CodecError::Invalid("status"))?;
        }
        if has(flag::SPEND) {
            for _ in 0..r.count("spend")? {
                let month = r.signed("spend")?.try_into().map_err(|_| CodecError::Invalid("spend"))?;
                account.spend.push((month, r.signed("spend")?));
            }
        }
        if has(flag::OPERATIONS) {
            account.decode_operations(r)?;
        }
        if flags >= flag::HOLDS {
            let rare = Rare::decode(r, flags, account.applied, account.updated_at)?;
            account.hold_due = rare.holds.iter().map(|hold| hold.expires_at).min().unwrap_or(NEVER);
            account.rare = Some(Box::new(rare));
        }
        if r.is_empty() { Ok(account) } else { Err(CodecError::Invalid("length")) }
    }

    fn decode_operations(&mut self, r: &mut Reader<'_>) -> Result<()> {
        let count = r.count("operations")?;
        self.operations.reserve_exact(count);
        for _ in 0..count {
            let target = before(r, self.applied)?;
            let recorded_at = self.updated_at.wrapping_sub(r.signed("operations")?);
            let fingerprint = r.u64("operations")?;
            let head = r.byte("operations")?;
            if head > 7 {
                return Err(CodecError::Invalid("operations"));
            }
            let mut operation =
                Operation { target, fingerprint, recorded_at, refusal: head & 1 != 0, has: [false; 2], hashes: [0; 2] };
            for business in [false, true] {
                if head >> (1 + u8::from(business)) & 1 != 0 {
                    operation.add_key(KeyBinding { business, hash: r.u128("operations")? });
                }
            }
            self.operations.push(operation);
        }
        Ok(())
    }
}

/// A shard sequence at or before `applied`.
fn before(r: &mut Reader<'_>, applied: u64) -> Result<u64> {
    applied.checked_sub(r.varint("sequence")?).ok_or(CodecError::Invalid("sequence"))
}

fn points(r: &mut Reader<'_>) -> Result<i64> {
    i64::try_from(r.varint("points")?).map_err(|_| CodecError::Invalid("points"))
}

fn sum(total: &mut i64, value: i64) -> Result<()> {
    *total = total.checked_add(value).ok_or(CodecError::Invalid("points"))?;
    Ok(())
}

fn decode_wallet(r: &mut Reader<'_>, pending: bool, debt: bool) -> Result<Wallet> {
    let mut wallet = Wallet::default();
    let mut earlier = 0i64;
    let count = r.count("lots")?;
    wallet.lots.reserve_exact(count);
    for _ in 0..count {
        let expires_at = match read_instant(r, "lots")? {
            NEVER => NEVER,
            later => earlier.wrapping_add(later),
        };
        earlier = expires_at;
        let head = r.varint("lots")?;
        let held = if head & 1 != 0 { points(r)? } else { 0 };
        let lot = Lot { expires_at, available: (head >> 1) as i64, held };
        sum(&mut wallet.available, lot.available)?;
        sum(&mut wallet.held, lot.held)?;
        wallet.lots.push(lot);
    }
    if pending {
        for _ in 0..r.count("pending")? {
            let (activates_at, expires_at) = (r.signed("pending")?, read_instant(r, "pending")?);
            let lot = Pending { activates_at, expires_at, points: points(r)? };
            sum(&mut wallet.pending_points, lot.points)?;
            wallet.pending.push(lot);
        }
    }
    if debt {
        wallet.debt = points(r)?;
    }
    Ok(wallet)
}

impl Rare {
    fn encode(&self, flags: u64, applied: u64, updated_at: i64, out: &mut Vec<u8>) {
        let has = |bit: u64| flags & bit != 0;
        if has(flag::HOLDS) {
            put_varint(out, self.holds.len() as u64);
            for hold in &self.holds {
                put_varint(out, applied - hold.id);
                put_signed(out, updated_at.wrapping_sub(hold.recorded_at));
                put_instant(out, hold.expires_at);
                put_varint(out, hold.pins.len() as u64);
                for (expires_at, points) in &hold.pins {
                    put_instant(out, *expires_at);
                    put_varint(out, *points as u64);
                }
            }
        }
        if has(flag::CLOSED) {
            put_varint(out, self.closed.len() as u64);
            for (id, closed) in &self.closed {
                put_varint(out, applied - id);
                put_varint(out, (applied - closed.end) << 1 | u64::from(closed.captured));
            }
        }
        if has(flag::REVERSED) {
            put_varint(out, self.reversed.len() as u64);
            for reversed in &self.reversed {
                put_varint(out, applied - reversed.original);
                put_varint(out, reversed.points as u64);
                put_varint(out, reversed.amount as u64);
            }
        }
        if has(flag::EXPIRED) {
            put_varint(out, self.expired.len() as u64);
            for (expires_at, points) in &self.expired {
                put_instant(out, *expires_at);
                put_varint(out, *points as u64);
            }
        }
        if let Some(manual) = &self.manual {
            manual.encode(out);
        }
        if has(flag::VERSIONS) {
            put_varint(out, self.versions.len() as u64);
            for version in &self.versions {
                put_varint(out, u64::from(version.number));
                put_signed(out, version.effective_from);
                put_bytes(out, version.document.as_bytes());
            }
        }
        if let Some((first, last)) = self.spilled_keys {
            put_signed(out, first);
            put_signed(out, last);
        }
        if let Some(expired) = self.expired_spilled {
            put_instant(out, expired);
        }
        if has(flag::MANUAL_BEFORE) {
            put_varint(out, self.manual_before.len() as u64);
            self.manual_before.iter().for_each(|manual| manual.encode(out));
        }
    }

    fn decode(r: &mut Reader<'_>, flags: u64, applied: u64, updated_at: i64) -> Result<Self> {
        let has = |bit: u64| flags & bit != 0;
        let mut rare = Self {
            reversed_spilled: has(flag::REVERSED_SPILLED),
            closed_spilled: has(flag::CLOSED_SPILLED),
            ..Self::default()
        };
        if has(flag::HOLDS) {
            for _ in 0..r.count("holds")? {
                let id = before(r, applied)?;
                let recorded_at = updated_at.wrapping_sub(r.signed("holds")?);
                let expires_at = read_instant(r, "holds")?;
                let mut hold = Hold { id, recorded_at, expires_at, pins: smallvec::SmallVec::new() };
                for _ in 0..r.count("holds")? {
                    hold.pins.push((read_instant(r, "holds")?, points(r)?));
                }
                rare.holds.push(hold);
            }
        }
        if has(flag::CLOSED) {
            for _ in 0..r.count("closed holds")? {
                let id = before(r, applied)?;
                let head = r.varint("closed holds")?;
                let end = applied.checked_sub(head >> 1).ok_or(CodecError::Invalid("closed holds"))?;
                rare.closed.push((id, ClosedHold { end, captured: head & 1 != 0 }));
            }
        }
        if has(flag::REVERSED) {
            for _ in 0..r.count("reversed")? {
                let original = before(r, applied)?;
                rare.reversed.push(Reversed { original, points: points(r)?, amount: points(r)? });
            }
        }
        if has(flag::EXPIRED) {
            for _ in 0..r.count("expired")? {
                rare.expired.push((read_instant(r, "expired")?, points(r)?));
            }
        }
        if has(flag::MANUAL) {
            rare.manual = Some(Manual::decode(r)?);
        }
        if has(flag::VERSIONS) {
            for _ in 0..r.count("versions")? {
                let number = r.varint("versions")?.try_into().map_err(|_| CodecError::Invalid("versions"))?;
                let effective_from = r.signed("versions")?;
                rare.versions.push(ProgramVersion { number, effective_from, document: r.text("versions")?.into() });
            }
        }
        if has(flag::SPILLED_KEYS) {
            rare.spilled_keys = Some((r.signed("spilled keys")?, r.signed("spilled keys")?));
        }
        if has(flag::EXPIRED_SPILLED) {
            rare.expired_spilled = Some(read_instant(r, "expired")?);
        }
        if has(flag::MANUAL_BEFORE) {
            for _ in 0..r.count("manual tiers")? {
                rare.manual_before.push(Manual::decode(r)?);
            }
        }
        Ok(rare)
    }
}

impl Manual {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        out.push(u8::from(self.floor));
        put_signed(out, self.from);
        put_instant(out, self.until);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let name = r.text("manual tier")?.into();
        let floor = r.byte("manual tier")? != 0;
        let from = r.signed("manual tier")?;
        Ok(Self { name, floor, from, until: read_instant(r, "manual tier")? })
    }
}
