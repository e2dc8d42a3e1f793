//! What is due, as records: activations, ends of holds, expiries, changes of the tier by time alone.
//!
//! In the order of their due instants; at the same instant in the order of this list. Each is applied before
//! the next is looked for, so that points that activate and expire between two turns do both.

use meed_schemas::ids::Position;
use meed_schemas::record::{Detail, LotKey, Move, MoveOp, RecordKind, VoidReason};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use super::session::{Session, Step};
use super::wallet::{Moves, live};
use crate::planted::{Fault, planted};

/// (expiry, points) of a hold.
pub(super) type Pins = SmallVec<[(Millis, i64); 1]>;

/// Settles everything due at or before now.
pub(super) fn settle(session: &mut Session<'_>) -> Step<()> {
    // An expiry that fell while its points were held takes effect when the hold ends.
    let mut settled_to = Millis::MIN;
    loop {
        let wallet = &session.account.wallet;
        let (activation, expiry) = (wallet.next_activation(), wallet.next_expiry());
        let (mut hold, tier) = (session.account.hold_due, session.account.tier_due);
        if planted(Fault::ExpireHeldPoints) {
            let pins = session.account.holds().iter().flat_map(|hold| &hold.pins);
            hold = pins.map(|(expires_at, _)| *expires_at).fold(hold, Millis::min);
        }
        let due = activation.min(hold).min(expiry).min(tier);
        if due > session.settle_until || due == NEVER {
            return Ok(());
        }
        settled_to = settled_to.max(due);
        if due == activation {
            activate(session, due);
        } else if due == hold {
            end_hold(session, settled_to)?;
        } else if due == expiry {
            let before = session.expired_before(&[due])?;
            let points = session.account.wallet.available_of(due);
            session.expire(&[(due, points)], &before, settled_to);
        } else {
            change_tier(session, due);
        }
    }
}

fn activate(session: &mut Session<'_>, at: Millis) {
    let wallet = &session.account.wallet;
    let due = wallet.pending.iter().take_while(|lot| lot.activates_at == at);
    let mut moves: Moves = due
        .clone()
        .map(|lot| Move {
            op: MoveOp::Activate,
            lot: LotKey { expires_at: lot.expires_at, activates_at: Some(at) },
            points: lot.points,
        })
        .collect();
    let moved_points = due.clone().map(|lot| lot.points).sum();
    // What activates at one instant lies in the order of expiry.
    wallet.pay_debt(due.map(|lot| (lot.expires_at, lot.points)), &mut moves);
    commit(session, RecordKind::Activate, at, Detail::Activate { moved_points }, moves);
}

fn end_hold(session: &mut Session<'_>, at: Millis) -> Step<()> {
    let due = session.account.hold_due;
    let is_expired = |pin: &(Millis, i64)| pin.0 <= at && planted(Fault::ExpireHeldPoints);
    let is_due = |hold: &&super::Hold| hold.expires_at == due || hold.pins.iter().any(is_expired);
    let Some(hold) = session.account.holds().iter().find(is_due) else { return Ok(()) };
    // What is past its expiry goes next, as of now. A load before that would end the turn behind this record, and the next
    // one would not know up to when it is settled.
    session.expired_before(&expiries(&expired_of(&hold.pins, at)))?;
    let moves = release(session, &hold.pins, at);
    let hold = Position::new(session.shard, hold.id);
    commit(session, RecordKind::Void, at, Detail::Void { hold, reason: VoidReason::Expired }, moves);
    Ok(())
}

/// Plans to release pins. What is past its expiry expires next; the rest becomes available and pays debt.
pub(super) fn release(session: &Session<'_>, pins: &[(Millis, i64)], at: Millis) -> Moves {
    let mut moves: Moves = pins.iter().map(|(e, points)| live(MoveOp::Release, *e, *points)).collect();
    let available = pins.iter().copied().filter(|(expires_at, _)| *expires_at > at);
    session.account.wallet.pay_debt(available, &mut moves);
    moves
}

/// What is released though its expiry has passed.
pub(super) fn expired_of(pins: &[(Millis, i64)], until: Millis) -> Pins {
    pins.iter().copied().filter(|(expires_at, _)| *expires_at <= until).collect()
}

/// The expiries alone.
pub(super) fn expiries(lots: &[(Millis, i64)]) -> SmallVec<[Millis; 4]> {
    lots.iter().map(|(expires_at, _)| *expires_at).collect()
}

fn change_tier(session: &mut Session<'_>, at: Millis) {
    let level = session.account.level_at(session.newest, at);
    if !session.is_journaled(level) {
        session.journal_tier(level, at);
        return;
    }
    // The instant was computed with levels that a newer version of the program has changed.
    let due = session.account.tier_basis().next_change(session.newest, at);
    session.move_tier_due(level, due, at);
}

fn commit(session: &mut Session<'_>, kind: RecordKind, at: Millis, detail: Detail, moves: Moves) {
    let version = session.program.version_at(at).number;
    let mut record = session.draft(kind, at, version, detail);
    record.moves = moves;
    record.tier = session.account.level_at(session.newest, at) as u8;
    session.commit(record);
}
