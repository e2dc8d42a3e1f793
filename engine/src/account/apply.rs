//! The only code that changes an account. It never runs rules: what was decided stands in the record, and
//! nothing that is stamped on a record after its operation (balances, tier) is read here.

use meed_schemas::codec::{CodecError, Reader, put_instant, put_varint, read_instant};
use meed_schemas::record::{Detail, KeyBinding, ManualTier, MoveOp, Record, RecordKind};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use super::facts::{ClosedHold, FactKey, FactValue, Outcome, Spilled};
use super::{
    Account, CLOSED_HOLDS_RESIDENT, EXPIRED_RESIDENT, Hold, KindCount, MANUALS_BEFORE, Manual, OPERATIONS_RESIDENT,
    Operation, ProgramVersion, REVERSED_RESIDENT, Reversed, add_spend,
};

/// Tagged fields of records that only the account itself reads. Nobody else's tags begin at 16.
pub(super) mod extension {
    /// When the tier changes next if nothing happens before, as eight little-endian bytes. Absent from a
    /// record that changes spend or tier: not by itself.
    pub(in super::super) const TIER_DUE: u16 = 16;
    /// What had expired unspent in lots whose memory was no longer in the state: pairs of expiry and points,
    /// which the record's moves start from.
    pub(in super::super) const EXPIRED_BEFORE: u16 = 17;
}

/// Lots and what expired of them unspent.
pub(super) type ExpiredBefore = SmallVec<[(Millis, i64); 2]>;

/// The bytes of [`extension::EXPIRED_BEFORE`].
pub(super) fn encode_expired_before(entries: &[(Millis, i64)]) -> Box<[u8]> {
    let mut out = Vec::with_capacity(entries.len() * 16);
    for (expires_at, points) in entries {
        put_instant(&mut out, *expires_at);
        put_varint(&mut out, *points as u64);
    }
    out.into()
}

fn decode_expired_before(bytes: &[u8]) -> Result<ExpiredBefore, CodecError> {
    let r = &mut Reader::new(bytes);
    let mut entries = ExpiredBefore::new();
    while !r.is_empty() {
        entries.push((read_instant(r, "expiry")?, r.varint("points")? as i64));
    }
    Ok(entries)
}

impl Account {
    /// Carries out a record: live, and in replay. The caller skips what was applied before
    /// (`record.position.sequence() <= self.applied()`).
    pub fn apply(&mut self, record: &Record) {
        let at = record.position.sequence();
        self.applied = at;
        if record.kind.is_effect() {
            self.count(record, at);
        }
        let (mut tier_due, mut expired_before) = (None, ExpiredBefore::new());
        // Both are as a session wrote them, with no case for what cannot be read: bytes come here only from a session
        // or from below a checksum, and other bytes would need other tags.
        for (tag, bytes) in &record.extensions {
            match *tag {
                extension::TIER_DUE => {
                    tier_due = bytes.as_ref().try_into().ok().map(i64::from_le_bytes);
                }
                extension::EXPIRED_BEFORE => expired_before = decode_expired_before(bytes).unwrap_or_default(),
                _ => {}
            }
        }
        if let Some(spend) = record.spend {
            add_spend(&mut self.spend, spend.month, spend.amount);
        }
        if tier_due.is_some() || record.spend.is_some() || record.kind == RecordKind::Tier {
            self.tier_due = tier_due.unwrap_or(NEVER);
        }
        for m in &record.moves {
            self.wallet.apply(m);
            let change = match m.op {
                MoveOp::Expire => m.points,
                MoveOp::CountExpired => -m.points,
                _ => continue,
            };
            self.remember_expired(m.lot.expires_at, change, &expired_before, record, at);
        }
        self.apply_detail(record, at);
        if !record.keys.is_empty() {
            self.remember_keys(record, at);
        }
    }

    fn count(&mut self, record: &Record, at: u64) {
        if self.sequence == 0 {
            self.created_at = record.recorded_at;
            self.tier_version = record.newest_version;
        }
        self.sequence = record.sequence;
        self.newest = at;
        self.updated_at = record.recorded_at;
        match self.kinds.iter_mut().find(|k| k.kind == record.kind) {
            Some(kind) => {
                kind.count += 1;
                kind.newest = at;
            }
            None => {
                let index = self.kinds.partition_point(|k| k.kind < record.kind);
                self.kinds.insert(index, KindCount { kind: record.kind, count: 1, newest: at });
            }
        }
    }

    fn apply_detail(&mut self, record: &Record, at: u64) {
        match &record.detail {
            Detail::Reversal { original, reversed_points, reversed_amount, .. } => {
                let reversed = Reversed {
                    original: original.sequence(),
                    points: *reversed_points,
                    amount: reversed_amount.unwrap_or(0),
                };
                self.remember_reversed(reversed, record, at);
            }
            Detail::Hold { expires_at } => {
                let hold = Hold {
                    id: at,
                    recorded_at: record.recorded_at,
                    expires_at: expires_at.unwrap_or(NEVER),
                    pins: record.moves.iter().map(|m| (m.lot.expires_at, m.points)).collect(),
                };
                self.hold_due = self.hold_due.min(hold.expires_at);
                self.rare().holds.push(hold);
            }
            Detail::Redeem { hold: Some(hold) } => self.close_hold(hold.sequence(), true, record, at),
            Detail::Void { hold, .. } => self.close_hold(hold.sequence(), false, record, at),
            Detail::Tier { manual, .. } => {
                self.tier = record.tier;
                self.tier_version = record.newest_version;
                if let Some(manual) = manual {
                    self.set_manual(manual, record.recorded_at);
                }
            }
            Detail::Status { status, .. } => self.status = *status,
            Detail::Program { document } => self.rare().versions.push(ProgramVersion {
                number: record.program_version,
                effective_from: record.recorded_at,
                document: document.clone(),
            }),
            _ => {}
        }
    }

    fn set_manual(&mut self, manual: &ManualTier, from: Millis) {
        let until = manual.until.unwrap_or(NEVER);
        let mut set = manual.name.as_ref().map(|name| Manual { name: name.clone(), floor: manual.floor, from, until });
        let rare = self.rare();
        // What happened while the one before held is decided by it, whenever it comes.
        if let Some(before) = rare.manual.take() {
            let ended = before.until.min(from);
            match &mut set {
                Some(set) if ended == from && (&set.name, set.floor) == (&before.name, before.floor) => {
                    set.from = before.from;
                }
                _ if before.from < ended => rare.manual_before.push(Manual { until: ended, ..before }),
                _ => {}
            }
            if rare.manual_before.len() > MANUALS_BEFORE {
                rare.manual_before.remove(0);
            }
        }
        rare.manual = set;
    }

    fn spill(&mut self, fact: FactKey, value: &FactValue, recorded_at: Millis, at: u64) {
        self.rare().overlay.push(Spilled { fact, value: *value, recorded_at, at });
    }

    fn close_hold(&mut self, id: u64, captured: bool, record: &Record, at: u64) {
        let rare = self.rare();
        rare.holds.retain(|hold| hold.id != id);
        let hold_due = rare.holds.iter().map(|hold| hold.expires_at).min().unwrap_or(NEVER);
        rare.closed.push((id, ClosedHold { end: at, captured }));
        if rare.closed.len() > CLOSED_HOLDS_RESIDENT {
            let (oldest, closed) = rare.closed.remove(0);
            rare.closed_spilled = true;
            self.spill(FactKey::ClosedHold(oldest), &FactValue::ClosedHold(closed), record.recorded_at, at);
        }
        self.hold_due = hold_due;
    }

    fn remember_reversed(&mut self, reversed: Reversed, record: &Record, at: u64) {
        let rare = self.rare();
        rare.reversed.retain(|r| r.original != reversed.original);
        rare.reversed.push(reversed);
        if rare.reversed.len() > REVERSED_RESIDENT {
            let Reversed { original, points, amount } = rare.reversed.remove(0);
            rare.reversed_spilled = true;
            let value = FactValue::Reversed { points, amount };
            self.spill(FactKey::Reversed(original), &value, record.recorded_at, at);
        }
    }

    /// What expired unspent stays in the list even when nothing is left of it: the store may have an older
    /// value.
    fn remember_expired(
        &mut self,
        expires_at: Millis,
        change: i64,
        expired_before: &[(Millis, i64)],
        record: &Record,
        at: u64,
    ) {
        let rare = self.rare();
        let before = match rare.expired.iter().position(|(e, _)| *e == expires_at) {
            Some(index) => rare.expired.remove(index).1,
            None => expired_before.iter().find(|(e, _)| *e == expires_at).map_or(0, |(_, points)| *points),
        };
        debug_assert!(before + change >= 0, "no more is counted than expired");
        rare.expired.push((expires_at, before + change));
        if rare.expired.len() > EXPIRED_RESIDENT {
            let (oldest, points) = rare.expired.remove(0);
            rare.expired_spilled = rare.expired_spilled.max(Some(oldest));
            self.spill(FactKey::ExpiredLot(oldest), &FactValue::ExpiredLot(points), record.recorded_at, at);
        }
    }

    fn remember_keys(&mut self, record: &Record, at: u64) {
        let target = match &record.detail {
            Detail::Key { target } => target.sequence(),
            _ => at,
        };
        let mut operation = Operation {
            target,
            fingerprint: record.fingerprint,
            recorded_at: record.recorded_at,
            refusal: record.kind == RecordKind::Refusal,
            has: [false; 2],
            hashes: [0; 2],
        };
        record.keys.iter().for_each(|key| operation.add_key(*key));
        if self.operations.is_empty() {
            // Most accounts are idle after one.
            self.operations.reserve_exact(1);
        }
        self.operations.push(operation);
        if self.operations.len() <= OPERATIONS_RESIDENT {
            return;
        }
        let oldest = self.operations.remove(0);
        let Operation { target, fingerprint, recorded_at, refusal, .. } = oldest;
        let outcome = FactValue::Outcome(Outcome { target, fingerprint, refusal });
        for KeyBinding { hash, business } in oldest.keys() {
            self.spill(FactKey::Key { hash, business }, &outcome, recorded_at, at);
        }
        let rare = self.rare();
        let (first, _) = rare.spilled_keys.unwrap_or((recorded_at, recorded_at));
        rare.spilled_keys = Some((first, recorded_at));
    }
}
