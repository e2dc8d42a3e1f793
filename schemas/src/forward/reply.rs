//! Answers: what an account said to one request.

use std::borrow::Cow;

use crate::codec::{
    self, CodecError, Reader, put_bytes, put_instant, put_option, put_position, put_request_id, put_signed, put_varint,
    read_instant, read_option, read_position, read_request_id, read_status,
};
use crate::forward::FORMAT;
use crate::outcome::{
    AccountView, BalanceView, HistoryHead, HoldState, HoldView, Limit, LotView, Refusal, Reply, ReversedSoFar, TierView,
};
use crate::record::{Balances, Record, RecordKind};
use crate::wire::Result;

/// Numbers of the answers. They are never used again for another one.
mod tag {
    pub(super) const EXECUTED: u8 = 1;
    pub(super) const REPLAYED: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const REFUSED_BEFORE: u8 = 4;
    pub(super) const BALANCE: u8 = 5;
    pub(super) const HOLDS: u8 = 6;
    pub(super) const HOLD: u8 = 7;
    pub(super) const ACCOUNT: u8 = 8;
    pub(super) const TRANSACTION: u8 = 9;
    pub(super) const HISTORY_HEAD: u8 = 10;
    pub(super) const OUTCOME: u8 = 11;
    pub(super) const PROGRAM: u8 = 12;
    pub(super) const SETTLED: u8 = 13;
}

/// Appends a record with its position and length.
pub fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_position(out, record.position);
    // Four bytes for the length, which is known afterwards.
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    codec::encode(record, out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Reads what [`put_record`] wrote.
///
/// # Errors
/// Bytes that are no record.
pub fn read_record(r: &mut Reader<'_>) -> Result<Box<Record>> {
    let position = read_position(r)?;
    let mut length = [0; 4];
    length.copy_from_slice(r.take(4, "record")?);
    codec::decode(position, r.take(u32::from_le_bytes(length) as usize, "record")?).map(Box::new)
}

/// Appends an answer.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    out.push(FORMAT);
    match reply {
        Reply::Executed { record, replayed } => {
            out.push(if *replayed { tag::REPLAYED } else { tag::EXECUTED });
            put_record(out, record);
        }
        Reply::Refused(refusal) => {
            out.push(tag::REFUSED);
            put_refusal(out, refusal);
        }
        Reply::RefusedBefore { refusal, request_id } => {
            out.push(tag::REFUSED_BEFORE);
            put_refusal(out, refusal);
            put_request_id(out, request_id);
        }
        Reply::Balance(view) => {
            out.push(tag::BALANCE);
            put_balance(out, view);
        }
        Reply::Holds(holds) => {
            out.push(tag::HOLDS);
            put_varint(out, holds.len() as u64);
            holds.iter().for_each(|hold| put_hold(out, hold));
        }
        Reply::Hold(hold) => {
            out.push(tag::HOLD);
            put_hold(out, hold);
        }
        Reply::Account(view) => {
            out.push(tag::ACCOUNT);
            put_account(out, view);
        }
        Reply::Transaction { record, reversed } => {
            out.push(tag::TRANSACTION);
            put_record(out, record);
            put_signed(out, reversed.points);
            put_signed(out, reversed.amount);
        }
        Reply::HistoryHead(head) => {
            out.push(tag::HISTORY_HEAD);
            put_varint(out, head.sequence);
            out.push(u8::from(head.newest.is_some()));
            if let Some(newest) = head.newest {
                put_position(out, newest);
            }
            put_varint(out, head.by_kind.len() as u64);
            for (kind, count, newest) in &head.by_kind {
                out.push(*kind as u8);
                put_varint(out, *count);
                put_position(out, *newest);
            }
        }
        Reply::Outcome(record) => {
            out.push(tag::OUTCOME);
            put_record(out, record);
        }
        Reply::Program { version, created } => {
            out.push(tag::PROGRAM);
            put_varint(out, u64::from(*version));
            out.push(u8::from(*created));
        }
        Reply::Settled => out.push(tag::SETTLED),
    }
}

/// Reads what [`encode_reply`] wrote; the reader stands behind it afterwards.
///
/// # Errors
/// Bytes that are no answer of this version.
pub fn decode_reply(r: &mut Reader<'_>) -> Result<Reply> {
    match r.byte("format")? {
        FORMAT => {}
        other => return Err(CodecError::NewerFormat(other)),
    }
    Ok(match r.byte("answer")? {
        tag::EXECUTED => Reply::Executed { record: read_record(r)?, replayed: false },
        tag::REPLAYED => Reply::Executed { record: read_record(r)?, replayed: true },
        tag::REFUSED => Reply::Refused(read_refusal(r)?),
        tag::REFUSED_BEFORE => Reply::RefusedBefore { refusal: read_refusal(r)?, request_id: read_request_id(r)? },
        tag::BALANCE => Reply::Balance(Box::new(read_balance(r)?)),
        tag::HOLDS => Reply::Holds((0..r.count("holds")?).map(|_| read_hold(r)).collect::<Result<_>>()?),
        tag::HOLD => Reply::Hold(read_hold(r)?),
        tag::ACCOUNT => Reply::Account(Box::new(read_account(r)?)),
        tag::TRANSACTION => Reply::Transaction {
            record: read_record(r)?,
            reversed: ReversedSoFar { points: r.signed("reversed points")?, amount: r.signed("reversed amount")? },
        },
        tag::HISTORY_HEAD => {
            let sequence = r.varint("sequence")?;
            let newest = if flag(r)? { Some(read_position(r)?) } else { None };
            let by_kind = (0..r.count("kinds")?)
                .map(|_| Ok((read_kind(r)?, r.varint("count")?, read_position(r)?)))
                .collect::<Result<_>>()?;
            Reply::HistoryHead(Box::new(HistoryHead { sequence, newest, by_kind }))
        }
        tag::OUTCOME => Reply::Outcome(read_record(r)?),
        tag::PROGRAM => Reply::Program { version: read_version(r)?, created: flag(r)? },
        tag::SETTLED => Reply::Settled,
        _ => return Err(CodecError::Invalid("answer")),
    })
}

fn flag(r: &mut Reader<'_>) -> Result<bool> {
    match r.byte("flag")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Invalid("flag")),
    }
}

fn read_version(r: &mut Reader<'_>) -> Result<u32> {
    u32::try_from(r.varint("version")?).map_err(|_| CodecError::Invalid("version"))
}

fn read_kind(r: &mut Reader<'_>) -> Result<RecordKind> {
    RecordKind::from_byte(r.byte("kind")?).ok_or(CodecError::Invalid("kind"))
}

/// Refusals without members, by their numbers from 1 on. Numbers are never used again for another one.
const PLAIN: [Refusal; 19] = [
    Refusal::UnknownProgram,
    Refusal::UnknownAccount,
    Refusal::KeyReused,
    Refusal::KeyInProgress,
    Refusal::UnknownTransaction,
    Refusal::UnknownHold,
    Refusal::UnknownOutcome,
    Refusal::AccountClosed,
    Refusal::AccountFrozen,
    Refusal::InTheFuture,
    Refusal::HoldClosed,
    Refusal::NotReversible,
    Refusal::NothingToReverse,
    Refusal::BalanceOverflow,
    Refusal::Overloaded,
    Refusal::Draining,
    Refusal::NotReady,
    Refusal::OutcomeUnknown,
    Refusal::RecordGone,
];
const INVALID_REQUEST: u8 = 64;
const TOO_LATE: u8 = 65;
const EXCEEDS_REMAINING: u8 = 66;
const EXCEEDS_HOLD: u8 = 67;
const INSUFFICIENT_POINTS: u8 = 68;
const LIMIT_EXCEEDED: u8 = 69;
const NOT_OWNER: u8 = 70;

fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    match refusal {
        Refusal::InvalidRequest { field, detail } => {
            out.push(INVALID_REQUEST);
            put_bytes(out, field.as_bytes());
            put_bytes(out, detail.as_bytes());
        }
        Refusal::TooLate { late_days_max } => {
            out.push(TOO_LATE);
            put_signed(out, *late_days_max);
        }
        Refusal::ExceedsRemaining { remaining_points, remaining_amount } => {
            out.push(EXCEEDS_REMAINING);
            put_option(out, *remaining_points);
            put_option(out, *remaining_amount);
        }
        Refusal::ExceedsHold { held_points } => {
            out.push(EXCEEDS_HOLD);
            put_signed(out, *held_points);
        }
        Refusal::InsufficientPoints { available_points, requested_points } => {
            out.push(INSUFFICIENT_POINTS);
            put_signed(out, *available_points);
            put_signed(out, *requested_points);
        }
        Refusal::LimitExceeded { limit } => {
            out.push(LIMIT_EXCEEDED);
            put_bytes(out, limit.name().as_bytes());
        }
        Refusal::NotOwner { version } => {
            out.push(NOT_OWNER);
            put_signed(out, *version);
        }
        plain => {
            // A test holds this table against every refusal; 0 is refused by the reader.
            let number = PLAIN.iter().position(|other| other == plain).map_or(0, |index| index + 1);
            out.push(u8::try_from(number).unwrap_or(0));
        }
    }
}

fn read_refusal(r: &mut Reader<'_>) -> Result<Refusal> {
    Ok(match r.byte("refusal")? {
        INVALID_REQUEST => Refusal::InvalidRequest {
            field: Cow::Owned(r.text("field")?.to_owned()),
            detail: r.text("detail")?.to_owned(),
        },
        TOO_LATE => Refusal::TooLate { late_days_max: r.signed("days")? },
        EXCEEDS_REMAINING => Refusal::ExceedsRemaining {
            remaining_points: read_option(r, "remaining points")?,
            remaining_amount: read_option(r, "remaining amount")?,
        },
        EXCEEDS_HOLD => Refusal::ExceedsHold { held_points: r.signed("held points")? },
        INSUFFICIENT_POINTS => Refusal::InsufficientPoints {
            available_points: r.signed("available points")?,
            requested_points: r.signed("requested points")?,
        },
        NOT_OWNER => Refusal::NotOwner { version: r.signed("version")? },
        LIMIT_EXCEEDED => {
            Refusal::LimitExceeded { limit: Limit::from_name(r.text("limit")?).ok_or(CodecError::Invalid("limit"))? }
        }
        number => {
            let plain = usize::from(number).checked_sub(1).and_then(|index| PLAIN.get(index));
            plain.ok_or(CodecError::Invalid("refusal"))?.clone()
        }
    })
}

fn put_tier(out: &mut Vec<u8>, tier: TierView) {
    put_varint(out, u64::from(tier.version));
    out.push(tier.level);
}

fn read_tier(r: &mut Reader<'_>) -> Result<TierView> {
    Ok(TierView { version: read_version(r)?, level: r.byte("tier")? })
}

fn put_balance(out: &mut Vec<u8>, view: &BalanceView) {
    out.push(view.status as u8);
    let b = &view.balances;
    for points in [b.total, b.held, b.pending, b.debt] {
        put_signed(out, points);
    }
    put_tier(out, view.tier);
    put_signed(out, view.qualifying_spend);
    out.push(u8::from(view.next_expiry.is_some()));
    if let Some((points, at)) = view.next_expiry {
        put_signed(out, points);
        put_signed(out, at);
    }
    put_varint(out, view.sequence);
    put_signed(out, view.last_updated);
    out.push(u8::from(view.lots.is_some()));
    if let Some(lots) = &view.lots {
        put_varint(out, lots.len() as u64);
        for lot in lots {
            put_signed(out, lot.available);
            put_signed(out, lot.held);
            put_option(out, lot.activates_at);
            put_instant(out, lot.expires_at);
        }
    }
}

fn read_balance(r: &mut Reader<'_>) -> Result<BalanceView> {
    let status = read_status(r)?;
    let mut points = || r.signed("balance");
    let balances = Balances { total: points()?, held: points()?, pending: points()?, debt: points()? };
    let tier = read_tier(r)?;
    let qualifying_spend = r.signed("spend")?;
    let next_expiry = if flag(r)? { Some((r.signed("points")?, r.signed("expiry")?)) } else { None };
    let (sequence, last_updated) = (r.varint("sequence")?, r.signed("last updated")?);
    let mut lots = None;
    if flag(r)? {
        let lot = |r: &mut Reader<'_>| {
            Ok(LotView {
                available: r.signed("lot")?,
                held: r.signed("lot")?,
                activates_at: read_option(r, "lot")?,
                expires_at: read_instant(r, "lot")?,
            })
        };
        lots = Some((0..r.count("lots")?).map(|_| lot(r)).collect::<Result<_>>()?);
    }
    Ok(BalanceView { status, balances, tier, qualifying_spend, next_expiry, sequence, last_updated, lots })
}

fn put_hold(out: &mut Vec<u8>, hold: &HoldView) {
    put_position(out, hold.hold);
    put_signed(out, hold.points);
    put_option(out, hold.expires_at);
    put_signed(out, hold.recorded_at);
    let (state, at) = match hold.state {
        HoldState::Open => (0, None),
        HoldState::Captured(at) => (1, Some(at)),
        HoldState::Voided(at) => (2, Some(at)),
    };
    out.push(state);
    if let Some(at) = at {
        put_position(out, at);
    }
}

fn read_hold(r: &mut Reader<'_>) -> Result<HoldView> {
    Ok(HoldView {
        hold: read_position(r)?,
        points: r.signed("points")?,
        expires_at: read_option(r, "expiry")?,
        recorded_at: r.signed("recorded_at")?,
        state: match r.byte("hold")? {
            0 => HoldState::Open,
            1 => HoldState::Captured(read_position(r)?),
            2 => HoldState::Voided(read_position(r)?),
            _ => return Err(CodecError::Invalid("hold")),
        },
    })
}

fn put_account(out: &mut Vec<u8>, view: &AccountView) {
    out.push(view.status as u8);
    put_tier(out, view.tier);
    put_signed(out, view.created_at);
    put_varint(out, view.sequence);
    put_varint(out, view.counts.len() as u64);
    for (kind, count) in &view.counts {
        out.push(*kind as u8);
        put_varint(out, *count);
    }
    out.push(u8::from(view.manual_tier.is_some()));
    if let Some((name, floor, until)) = &view.manual_tier {
        put_bytes(out, name.as_bytes());
        out.push(u8::from(*floor));
        put_option(out, *until);
    }
}

fn read_account(r: &mut Reader<'_>) -> Result<AccountView> {
    let (status, tier) = (read_status(r)?, read_tier(r)?);
    let (created_at, sequence) = (r.signed("created_at")?, r.varint("sequence")?);
    let counts = (0..r.count("counts")?).map(|_| Ok((read_kind(r)?, r.varint("counts")?))).collect::<Result<_>>()?;
    let manual_tier = if flag(r)? { Some((r.text("tier")?.into(), flag(r)?, read_option(r, "tier")?)) } else { None };
    Ok(AccountView { status, tier, created_at, sequence, counts, manual_tier })
}
