//! Holds: pinning points, capturing them, releasing them.

use meed_schemas::command::Command;
use meed_schemas::ids::Position;
use meed_schemas::outcome::{Limit, Refusal};
use meed_schemas::record::{Detail, MoveOp, RecordKind, VoidReason};

use super::{Operation, Shown, check_status};
use crate::account::facts::{ClosedHold, FactKey, Fetch};
use crate::account::keys::Found;
use crate::account::session::{Session, Step, Stop};
use crate::account::settle::{Pins, expired_of, expiries, release};
use crate::account::wallet::{Moves, live};
use crate::account::{OPEN_HOLDS_MAX, PINS_MAX};
use crate::planted::{Fault, planted};

pub(super) fn hold(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Hold { points, ttl_seconds, .. } = *operation.command else { unreachable!("called for holds") };
    check_status(session, true)?;
    let available_points = session.account.wallet.spendable();
    if points > available_points {
        return Err(Refusal::InsufficientPoints { available_points, requested_points: points }.into());
    }
    if session.account.holds().len() >= OPEN_HOLDS_MAX {
        return Err(Refusal::LimitExceeded { limit: Limit::OpenHolds }.into());
    }
    let mut moves = Moves::new();
    session.account.wallet.take(MoveOp::Hold, points, None, &mut moves);
    let pins: usize = session.account.holds().iter().map(|hold| hold.pins.len()).sum();
    if pins + moves.len() > PINS_MAX {
        return Err(Refusal::LimitExceeded { limit: Limit::OpenHolds }.into());
    }
    let seconds = ttl_seconds.unwrap_or(i64::from(session.newest.document.holds.default_ttl_seconds));
    let detail = Detail::Hold { expires_at: Some(session.now + seconds * 1_000) };
    let version = session.program.version_at(session.now).number;
    let mut record = session.draft(RecordKind::Hold, session.now, version, detail);
    record.moves = moves;
    operation.sign(&mut record);
    let index = session.commit(record);
    Ok((index, index))
}

/// The pins of an open hold, or how it ended.
fn find(session: &Session<'_>, hold: Position) -> Step<Result<Pins, ClosedHold>> {
    if hold.shard() != session.shard {
        return Err(Refusal::UnknownHold.into());
    }
    if let Some(open) = session.account.hold(hold.sequence()) {
        return Ok(Ok(open.pins.clone()));
    }
    match session.account.closed_hold(hold.sequence(), session.facts) {
        Found::Yes(closed) => Ok(Err(closed)),
        Found::No => Err(Refusal::UnknownHold.into()),
        Found::Unknown => Err(Stop::load(Fetch::Fact(FactKey::ClosedHold(hold.sequence())))),
    }
}

pub(super) fn capture(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Capture { hold, points, .. } = *operation.command else { unreachable!("called for captures") };
    let found = find(session, hold)?;
    check_status(session, true)?;
    let pins = found.map_err(|_| Refusal::HoldClosed)?;
    let held_points = pins.iter().map(|(_, points)| points).sum();
    let points = points.unwrap_or(held_points);
    if points > held_points {
        return Err(Refusal::ExceedsHold { held_points }.into());
    }
    let (mut moves, mut rest, mut missing) = (Moves::new(), Pins::new(), points);
    for (expires_at, pinned) in pins {
        let captured = pinned.min(missing);
        missing -= captured;
        if captured > 0 {
            moves.push(live(MoveOp::Capture, expires_at, captured));
        }
        if pinned > captured && !planted(Fault::LoseRemainderOfCapture) {
            rest.push((expires_at, pinned - captured));
        }
    }
    let expired = expired_of(&rest, session.settle_until);
    let before = session.expired_before(&expiries(&expired))?;
    moves.extend(release(session, &rest, session.settle_until));
    let version = session.program.version_at(session.now).number;
    let detail = Detail::Redeem { hold: Some(hold) };
    let mut record = session.draft(RecordKind::Redeem, session.now, version, detail);
    record.points = -points;
    record.moves = moves;
    operation.sign(&mut record);
    let index = session.commit(record);
    session.expire(&expired, &before, session.now);
    Ok((index, index))
}

/// Where the record is that released a hold, or `None` while it is open.
pub(super) fn ended(session: &Session<'_>, hold: Position) -> Step<Option<Position>> {
    match find(session, hold)? {
        Ok(_) => Ok(None),
        Err(closed) if closed.captured => Err(Refusal::HoldClosed.into()),
        Err(closed) => Ok(Some(Position::new(session.shard, closed.end))),
    }
}

pub(super) fn void(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Void { hold, .. } = *operation.command else { unreachable!("called for voids") };
    let pins = find(session, hold)?.map_err(|_| Refusal::HoldClosed)?;
    let expired = expired_of(&pins, session.settle_until);
    let before = session.expired_before(&expiries(&expired))?;
    let version = session.program.version_at(session.now).number;
    let detail = Detail::Void { hold, reason: VoidReason::Requested };
    let mut record = session.draft(RecordKind::Void, session.now, version, detail);
    record.moves = release(session, &pins, session.settle_until);
    operation.sign(&mut record);
    let index = session.commit(record);
    session.expire(&expired, &before, session.now);
    Ok((index, index))
}

/// Releases every open hold of an account that closes. What is past its expiry goes in one record at the end.
pub(super) fn close_all(session: &mut Session<'_>) -> Step<()> {
    let mut expired = Pins::new();
    for hold in session.account.holds() {
        for (expires_at, points) in expired_of(&hold.pins, session.settle_until) {
            match expired.iter_mut().find(|(e, _)| *e == expires_at) {
                Some((_, sum)) => *sum += points,
                None => expired.push((expires_at, points)),
            }
        }
    }
    let before = session.expired_before(&expiries(&expired))?;
    let version = session.program.version_at(session.now).number;
    while let Some(hold) = session.account.holds().first() {
        let position = Position::new(session.shard, hold.id);
        let moves = release(session, &hold.pins, session.settle_until);
        let detail = Detail::Void { hold: position, reason: VoidReason::Closed };
        let mut record = session.draft(RecordKind::Void, session.now, version, detail);
        record.moves = moves;
        session.commit(record);
    }
    expired.sort_unstable();
    session.expire(&expired, &before, session.now);
    Ok(())
}
