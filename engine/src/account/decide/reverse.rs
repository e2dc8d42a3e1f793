//! Reversals of EARN and REDEEM: cumulative and exact, so that many partial ones take what one would.

use meed_schemas::command::Portion;
use meed_schemas::ids::Position;
use meed_schemas::money::BALANCE_MAX;
use meed_schemas::outcome::{Limit, Refusal};
use meed_schemas::record::{AmountAward, Detail, KeyBinding, LotKey, Move, MoveOp, Record, RecordKind, Spend};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use super::{Operation, Shown, check_status, check_time};
use crate::account::Reversed;
use crate::account::apply::ExpiredBefore;
use crate::account::facts::{FactKey, Fetch};
use crate::account::keys::{Found, key_fact};
use crate::account::session::{Session, Step, Stop, put_expired_before, reversed_so_far, transaction, worth_of};
use crate::account::settle::expiries;
use crate::account::wallet::{LOTS_MAX, Moves, live};
use crate::planted::{Fault, planted};
use crate::program::award::award;

/// The position of the sale that has a business key.
pub(super) fn sale(session: &Session<'_>, hash: u128) -> Step<Position> {
    let key = KeyBinding { hash, business: true };
    match session.account.outcome_of(key, session.facts) {
        Found::Yes(outcome) => Ok(Position::new(session.shard, outcome.target)),
        Found::No => Err(Refusal::UnknownTransaction.into()),
        Found::Unknown => Err(Stop::load(Fetch::Fact(key_fact(key)))),
    }
}

/// How much a call takes back.
struct Taken {
    points: i64,
    /// Minor units, where the original came from an amount.
    amount: i64,
}

/// Decides how much of an original the portion is, or that it is too much.
fn portion_of(
    session: &Session<'_>,
    original: &Record,
    amount_award: Option<AmountAward>,
    so_far: Reversed,
    portion: Portion,
) -> Step<Taken> {
    let awarded = original.points.abs();
    let points_left = awarded - so_far.points;
    let amount_left = amount_award.map_or(0, |award| award.amount - so_far.amount);
    if points_left == 0 && amount_left == 0 {
        return Err(Refusal::NothingToReverse.into());
    }
    let amount = match (portion, amount_award) {
        (Portion::Points(points), _) if points > points_left => {
            let remaining_points = Some(points_left);
            return Err(Refusal::ExceedsRemaining { remaining_points, remaining_amount: None }.into());
        }
        (Portion::Points(points), _) => return Ok(Taken { points, amount: 0 }),
        (Portion::Amount(amount), _) if amount > amount_left => {
            let remaining_amount = Some(amount_left);
            return Err(Refusal::ExceedsRemaining { remaining_points: None, remaining_amount }.into());
        }
        (Portion::Amount(amount), _) => amount,
        (Portion::Rest, _) => return Ok(Taken { points: points_left, amount: amount_left }),
    };
    // A record of an amount names a version that exists: versions are kept as long as records.
    let recomputed = amount_award
        .and_then(|applied| {
            let version = match planted(Fault::ReverseWithCurrentVersion) {
                true => session.newest,
                false => session.program.version(original.program_version)?,
            };
            award(amount_left - amount, &version.document.earning, applied.applied_multiplier).ok()
        })
        .unwrap_or(0);
    Ok(Taken { points: (awarded - recomputed - so_far.points).max(0), amount })
}

/// What a reversal does to the wallet.
#[derive(Default)]
struct Plan {
    moves: Moves,
    shortfall_points: i64,
    expired_points: i64,
    before: ExpiredBefore,
    /// Came back past its expiry, and goes at once.
    expired: SmallVec<[(Millis, i64); 1]>,
}

/// Reverses an EARN or REDEEM.
pub(super) fn reverse(
    session: &mut Session<'_>,
    operation: &mut Operation<'_>,
    position: Position,
    portion: Portion,
    occurred_at: Option<Millis>,
) -> Step<Shown> {
    let original = transaction(session, position)?;
    let (lot, amount_award) = match &original.detail {
        Detail::Earn { expires_at, activates_at, award, .. } => {
            (Some(LotKey { expires_at: *expires_at, activates_at: *activates_at }), *award)
        }
        _ => (None, None),
    };
    let reversible = matches!(original.kind, RecordKind::Earn | RecordKind::Redeem);
    if reversible && amount_award.is_none() && matches!(portion, Portion::Amount(_)) {
        let detail = "must be left out: the transaction did not come from an amount; send points".to_owned();
        return Err(Refusal::InvalidRequest { field: "amount".into(), detail }.into());
    }
    let so_far = reversed_so_far(session, position.sequence())?;
    check_status(session, false)?;
    let occurred_at = occurred_at.unwrap_or(session.now);
    check_time(session, occurred_at)?;
    if !reversible {
        return Err(Refusal::NotReversible.into());
    }
    let taken = portion_of(session, original, amount_award, so_far, portion)?;
    let version = session.program.version_at(occurred_at);
    let plan = match lot {
        Some(lot) => take_back(session, lot, taken.points, version.document.negative_balance.floor())?,
        None => give_back(session, original, so_far.points, taken.points)?,
    };
    let detail = Detail::Reversal {
        original: position,
        original_kind: original.kind,
        reversed_points: so_far.points + taken.points,
        reversed_amount: amount_award.map(|_| so_far.amount + taken.amount),
        shortfall_points: plan.shortfall_points,
        expired_points: plan.expired_points,
    };
    let mut record = session.draft(RecordKind::Reversal, occurred_at, version.number, detail);
    record.points = worth_of(&plan.moves);
    record.moves = plan.moves;
    if taken.amount > 0 {
        record.spend = Some(Spend { month: version.month_of(original.occurred_at), amount: -taken.amount });
        session.put_tier_due(&mut record);
    }
    let mut before = plan.before;
    if plan.expired.is_empty() {
        put_expired_before(&mut record, &before);
        before.clear();
    }
    operation.sign(&mut record);
    let index = session.commit(record);
    session.expire(&plan.expired, &before, session.now);
    Ok((index, index))
}

/// Plans to take points of an award back: from its own lot first, with what expired unspent of it, then in
/// burn order, then into debt down to the floor; the rest is a shortfall.
fn take_back(session: &Session<'_>, lot: LotKey, points: i64, floor: i64) -> Step<Plan> {
    let wallet = &session.account.wallet;
    let (mut plan, mut rest) = (Plan::default(), points);
    if let Some(activates_at) = lot.activates_at {
        let taken = rest.min(wallet.pending_of(activates_at, lot.expires_at));
        if taken > 0 {
            plan.moves.push(Move { op: MoveOp::Burn, lot, points: taken });
            rest -= taken;
        }
    }
    let taken = rest.min(wallet.available_of(lot.expires_at));
    if taken > 0 {
        plan.moves.push(live(MoveOp::Burn, lot.expires_at, taken));
        rest -= taken;
    }
    if rest > 0 {
        let remembered = match session.account.expired_of(lot.expires_at, session.facts) {
            Found::Yes((remembered, _)) => remembered,
            Found::No => 0,
            Found::Unknown => return Err(Stop::load(Fetch::Fact(FactKey::ExpiredLot(lot.expires_at)))),
        };
        plan.expired_points = rest.min(remembered);
        if plan.expired_points > 0 {
            plan.before = session.expired_before(&[lot.expires_at])?;
            plan.moves.push(live(MoveOp::CountExpired, lot.expires_at, plan.expired_points));
            rest -= plan.expired_points;
        }
    }
    rest = wallet.take(MoveOp::Burn, rest, Some(lot.expires_at), &mut plan.moves);
    let owed = rest.min((-wallet.debt - floor).max(0));
    if owed > 0 {
        plan.moves.push(Move { op: MoveOp::Owe, lot: LotKey::live(NEVER), points: owed });
    }
    plan.shortfall_points = rest - owed;
    Ok(plan)
}

/// Plans to give redeemed points back to the lots that they came from, latest expiry first, after those that
/// earlier reversals gave back.
fn give_back(session: &Session<'_>, original: &Record, given_before: i64, points: i64) -> Step<Plan> {
    let wallet = &session.account.wallet;
    let mut lots = original.taken();
    lots.sort_by_key(|(expires_at, _)| std::cmp::Reverse(*expires_at));
    let (mut plan, mut skip, mut rest) = (Plan::default(), given_before, points);
    let mut available: SmallVec<[(Millis, i64); 2]> = SmallVec::new();
    for (expires_at, taken) in lots {
        let skipped = skip.min(taken);
        skip -= skipped;
        let given = rest.min(taken - skipped);
        if given == 0 {
            continue;
        }
        rest -= given;
        plan.moves.push(live(MoveOp::Grant, expires_at, given));
        if expires_at <= session.settle_until {
            plan.expired.push((expires_at, given));
            plan.expired_points += given;
        } else {
            available.push((expires_at, given));
        }
    }
    if wallet.worth() + points - plan.expired_points > BALANCE_MAX {
        return Err(Refusal::BalanceOverflow.into());
    }
    let new = available.iter().filter(|(expires_at, _)| wallet.is_new(LotKey::live(*expires_at))).count();
    if new > 0 && wallet.lots_count() + new > LOTS_MAX {
        return Err(Refusal::LimitExceeded { limit: Limit::Lots }.into());
    }
    plan.before = session.expired_before(&expiries(&plan.expired))?;
    available.reverse();
    wallet.pay_debt(available, &mut plan.moves);
    Ok(plan)
}
