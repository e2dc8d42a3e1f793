//! Requests: who, what, under which keys.

use crate::codec::{
    CodecError, Reader, put_bytes, put_option, put_position, put_references, put_request_id, put_signed, read_option,
    read_position, read_references, read_request_id, read_status,
};
use crate::command::{Basis, Command, Earn, Keys, Portion, Request};
use crate::forward::FORMAT;
use crate::ids::Identity;
use crate::wire::Result;

mod flag {
    pub(super) const IDEMPOTENCY: u8 = 1;
    pub(super) const BUSINESS: u8 = 1 << 1;
    pub(super) const TRACEPARENT: u8 = 1 << 2;
    pub(super) const REFERENCES: u8 = 1 << 3;
    pub(super) const KNOWN: u8 = (1 << 4) - 1;
}

/// Numbers of the commands. They are never used again for another one.
mod tag {
    pub(super) const EARN: u8 = 1;
    pub(super) const REDEEM: u8 = 2;
    pub(super) const ADJUST: u8 = 3;
    pub(super) const SALE: u8 = 4;
    pub(super) const SALE_RETURN: u8 = 5;
    pub(super) const REVERSE: u8 = 6;
    pub(super) const HOLD: u8 = 7;
    pub(super) const CAPTURE: u8 = 8;
    pub(super) const VOID: u8 = 9;
    pub(super) const OPEN: u8 = 10;
    pub(super) const SET_STATUS: u8 = 11;
    pub(super) const SET_TIER: u8 = 12;
    pub(super) const PUT_PROGRAM: u8 = 13;
    pub(super) const SETTLE: u8 = 14;
    pub(super) const BALANCE: u8 = 15;
    pub(super) const LOTS: u8 = 16;
    pub(super) const HOLDS: u8 = 17;
    pub(super) const HOLD_STATUS: u8 = 18;
    pub(super) const ACCOUNT: u8 = 19;
    pub(super) const TRANSACTION: u8 = 20;
    pub(super) const HISTORY_HEAD: u8 = 21;
    pub(super) const OUTCOME: u8 = 22;
}

/// Appends a request.
pub fn encode_request(request: &Request, out: &mut Vec<u8>) {
    let references = request.command.references();
    let mut flags = 0;
    let mut set = |bit: u8, on: bool| flags |= if on { bit } else { 0 };
    set(flag::IDEMPOTENCY, request.keys.idempotency.is_some());
    set(flag::BUSINESS, request.keys.business.is_some());
    set(flag::TRACEPARENT, request.traceparent.is_some());
    set(flag::REFERENCES, references.is_some());
    out.extend_from_slice(&[FORMAT, flags]);
    put_bytes(out, request.identity.as_bytes());
    for hash in [request.keys.idempotency, request.keys.business].into_iter().flatten() {
        out.extend_from_slice(&hash.to_le_bytes());
    }
    if request.keys != Keys::default() {
        out.extend_from_slice(&request.fingerprint.to_le_bytes());
    }
    put_request_id(out, &request.request_id);
    if let Some(traceparent) = &request.traceparent {
        put_bytes(out, traceparent.as_bytes());
    }
    put_command(out, &request.command);
    if let Some(references) = references {
        put_references(out, references);
    }
}

/// Reads what [`encode_request`] wrote; the reader stands behind it afterwards.
///
/// # Errors
/// Bytes that are no request of this version.
pub fn decode_request(r: &mut Reader<'_>) -> Result<Request> {
    match r.byte("format")? {
        FORMAT => {}
        other => return Err(CodecError::NewerFormat(other)),
    }
    let flags = r.byte("flags")?;
    if flags & !flag::KNOWN != 0 {
        return Err(CodecError::Invalid("flags"));
    }
    let has = |bit: u8| flags & bit != 0;
    let identity = Identity::from_bytes(r.bytes("identity")?).ok_or(CodecError::Invalid("identity"))?;
    let mut hash = |bit| if has(bit) { r.u128("keys").map(Some) } else { Ok(None) };
    let keys = Keys { idempotency: hash(flag::IDEMPOTENCY)?, business: hash(flag::BUSINESS)? };
    let fingerprint = if keys == Keys::default() { 0 } else { r.u64("fingerprint")? };
    let request_id = read_request_id(r)?;
    let traceparent = if has(flag::TRACEPARENT) { Some(r.text("traceparent")?.into()) } else { None };
    let mut command = read_command(r)?;
    if has(flag::REFERENCES) {
        let place = command.references_mut().ok_or(CodecError::Invalid("references"))?;
        *place = Some(read_references(r)?);
    }
    Ok(Request { identity, command, keys, fingerprint, request_id, traceparent })
}

fn put_portion(out: &mut Vec<u8>, portion: Portion) {
    let (tag, value) = match portion {
        Portion::Rest => (0, None),
        Portion::Amount(amount) => (1, Some(amount)),
        Portion::Points(points) => (2, Some(points)),
    };
    out.push(tag);
    if let Some(value) = value {
        put_signed(out, value);
    }
}

fn read_portion(r: &mut Reader<'_>) -> Result<Portion> {
    Ok(match r.byte("portion")? {
        0 => Portion::Rest,
        1 => Portion::Amount(r.signed("portion")?),
        2 => Portion::Points(r.signed("portion")?),
        _ => return Err(CodecError::Invalid("portion")),
    })
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Earn { earn, .. } => put_earn(out, earn),
        Command::Redeem { points, occurred_at, .. } => {
            out.push(tag::REDEEM);
            put_signed(out, *points);
            put_option(out, *occurred_at);
        }
        Command::Adjust { points, expires_at, .. } => {
            out.push(tag::ADJUST);
            put_signed(out, *points);
            put_option(out, *expires_at);
        }
        Command::Sale { amount, redeem_points, occurred_at, .. } => {
            out.push(tag::SALE);
            put_signed(out, *amount);
            put_option(out, *redeem_points);
            put_signed(out, *occurred_at);
        }
        Command::SaleReturn { sale, portion, occurred_at, .. } => {
            out.push(tag::SALE_RETURN);
            out.extend_from_slice(&sale.to_le_bytes());
            put_portion(out, *portion);
            put_option(out, *occurred_at);
        }
        Command::Reverse { original, portion, occurred_at, .. } => {
            out.push(tag::REVERSE);
            put_position(out, *original);
            put_portion(out, *portion);
            put_option(out, *occurred_at);
        }
        Command::Hold { points, ttl_seconds, .. } => {
            out.push(tag::HOLD);
            put_signed(out, *points);
            put_option(out, *ttl_seconds);
        }
        Command::Capture { hold, points, .. } => {
            out.push(tag::CAPTURE);
            put_position(out, *hold);
            put_option(out, *points);
        }
        Command::Void { hold, .. } => {
            out.push(tag::VOID);
            put_position(out, *hold);
        }
        Command::SetStatus { status, .. } => out.extend_from_slice(&[tag::SET_STATUS, *status as u8]),
        Command::SetTier { tier, until, .. } => {
            out.extend_from_slice(&[tag::SET_TIER, u8::from(tier.is_some())]);
            if let Some(tier) = tier {
                put_bytes(out, tier.as_bytes());
            }
            put_option(out, *until);
        }
        Command::PutProgram { document } => {
            out.push(tag::PUT_PROGRAM);
            put_bytes(out, document.as_bytes());
        }
        Command::Open => out.push(tag::OPEN),
        read => put_read(out, read),
    }
}

fn put_earn(out: &mut Vec<u8>, earn: &Earn) {
    let (basis, value) = match earn.basis {
        Basis::Points(points) => (0, points),
        Basis::Amount(amount) => (1, amount),
    };
    out.extend_from_slice(&[tag::EARN, basis]);
    put_signed(out, value);
    for instant in [earn.occurred_at, earn.expires_at, earn.activates_at] {
        put_option(out, instant);
    }
}

fn put_read(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::HoldStatus { hold } => {
            out.push(tag::HOLD_STATUS);
            put_position(out, *hold);
        }
        Command::Transaction { position } => {
            out.push(tag::TRANSACTION);
            put_position(out, *position);
        }
        Command::Balance => out.push(tag::BALANCE),
        Command::Lots => out.push(tag::LOTS),
        Command::Holds => out.push(tag::HOLDS),
        Command::Account => out.push(tag::ACCOUNT),
        Command::HistoryHead => out.push(tag::HISTORY_HEAD),
        Command::Outcome => out.push(tag::OUTCOME),
        // Every other command has been written by `put_command`.
        _ => out.push(tag::SETTLE),
    }
}

fn read_command(r: &mut Reader<'_>) -> Result<Command> {
    let references = None;
    Ok(match r.byte("command")? {
        tag::EARN => Command::Earn { earn: read_earn(r)?, references },
        tag::REDEEM => {
            Command::Redeem { points: r.signed("points")?, occurred_at: read_option(r, "occurred_at")?, references }
        }
        tag::ADJUST => {
            Command::Adjust { points: r.signed("points")?, expires_at: read_option(r, "expiry")?, references }
        }
        tag::SALE => Command::Sale {
            amount: r.signed("amount")?,
            redeem_points: read_option(r, "points")?,
            occurred_at: r.signed("occurred_at")?,
            references,
        },
        tag::SALE_RETURN => Command::SaleReturn {
            sale: r.u128("sale")?,
            portion: read_portion(r)?,
            occurred_at: read_option(r, "occurred_at")?,
            references,
        },
        tag::REVERSE => Command::Reverse {
            original: read_position(r)?,
            portion: read_portion(r)?,
            occurred_at: read_option(r, "occurred_at")?,
            references,
        },
        tag::HOLD => {
            Command::Hold { points: r.signed("points")?, ttl_seconds: read_option(r, "time to live")?, references }
        }
        tag::CAPTURE => Command::Capture { hold: read_position(r)?, points: read_option(r, "points")?, references },
        tag::VOID => Command::Void { hold: read_position(r)?, references },
        tag::OPEN => Command::Open,
        tag::SET_STATUS => Command::SetStatus { status: read_status(r)?, references },
        tag::SET_TIER => {
            let tier = match r.byte("tier")? {
                0 => None,
                1 => Some(r.text("tier")?.into()),
                _ => return Err(CodecError::Invalid("tier")),
            };
            Command::SetTier { tier, until: read_option(r, "tier")?, references }
        }
        tag::PUT_PROGRAM => Command::PutProgram { document: r.text("document")?.into() },
        tag::SETTLE => Command::Settle,
        tag::BALANCE => Command::Balance,
        tag::LOTS => Command::Lots,
        tag::HOLDS => Command::Holds,
        tag::HOLD_STATUS => Command::HoldStatus { hold: read_position(r)? },
        tag::ACCOUNT => Command::Account,
        tag::TRANSACTION => Command::Transaction { position: read_position(r)? },
        tag::HISTORY_HEAD => Command::HistoryHead,
        tag::OUTCOME => Command::Outcome,
        _ => return Err(CodecError::Invalid("command")),
    })
}

fn read_earn(r: &mut Reader<'_>) -> Result<Earn> {
    let kind = r.byte("basis")?;
    let value = r.signed("basis")?;
    let basis = match kind {
        0 => Basis::Points(value),
        1 => Basis::Amount(value),
        _ => return Err(CodecError::Invalid("basis")),
    };
    Ok(Earn {
        basis,
        occurred_at: read_option(r, "occurred_at")?,
        expires_at: read_option(r, "expiry")?,
        activates_at: read_option(r, "activation")?,
    })
}
