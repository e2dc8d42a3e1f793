//! Spending: redemptions and negative adjustments.

use meed_schemas::command::Command;
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{Detail, LotKey, Move, MoveOp, RecordKind};
use meed_schemas::time::NEVER;

use super::{Operation, Shown, check_status, check_time};
use crate::account::session::{Session, Step};
use crate::account::wallet::Moves;

/// Plans to burn points that are all there.
pub(super) fn plan(session: &Session<'_>, points: i64) -> Step<Moves> {
    let available_points = session.account.wallet.spendable();
    if points > available_points {
        return Err(Refusal::InsufficientPoints { available_points, requested_points: points }.into());
    }
    let mut moves = Moves::new();
    session.account.wallet.take(MoveOp::Burn, points, None, &mut moves);
    Ok(moves)
}

pub(super) fn redeem(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Redeem { points, occurred_at, .. } = *operation.command else {
        unreachable!("called for redemptions")
    };
    check_status(session, true)?;
    let occurred_at = occurred_at.unwrap_or(session.now);
    check_time(session, occurred_at)?;
    let moves = plan(session, points)?;
    let version = session.program.version_at(occurred_at).number;
    let mut record = session.draft(RecordKind::Redeem, occurred_at, version, Detail::Redeem { hold: None });
    record.points = -points;
    record.moves = moves;
    operation.sign(&mut record);
    let index = session.commit(record);
    Ok((index, index))
}

/// A negative adjustment: whole, or refused where it would go below the program's floor.
pub(super) fn adjust(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Adjust { points, .. } = *operation.command else { unreachable!("called for adjustments") };
    check_status(session, false)?;
    let requested_points = -points;
    let version = session.program.version_at(session.now);
    let available_points = session.account.wallet.spendable();
    if available_points - requested_points < version.document.negative_balance.floor() {
        return Err(Refusal::InsufficientPoints { available_points, requested_points }.into());
    }
    let mut moves = Moves::new();
    let owed = session.account.wallet.take(MoveOp::Burn, requested_points, None, &mut moves);
    if owed > 0 {
        moves.push(Move { op: MoveOp::Owe, lot: LotKey::live(NEVER), points: owed });
    }
    let detail = Detail::Adjust { expires_at: NEVER, activates_at: None };
    let mut record = session.draft(RecordKind::Adjust, session.now, version.number, detail);
    record.points = points;
    record.moves = moves;
    operation.sign(&mut record);
    let index = session.commit(record);
    Ok((index, index))
}
