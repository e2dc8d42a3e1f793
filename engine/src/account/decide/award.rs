//! Awards: earns, sales of tills, positive adjustments.

use meed_schemas::command::{Basis, Command, References};
use meed_schemas::money::{BALANCE_MAX, POINTS_MAX};
use meed_schemas::outcome::{Limit, Refusal};
use meed_schemas::record::{AmountAward, Detail, LotKey, Move, MoveOp, Record, RecordKind, SaleRedemption, Spend};
use meed_schemas::time::{Millis, NEVER};

use super::spend;
use super::{Operation, Shown, check_status, check_time};
use crate::account::apply::ExpiredBefore;
use crate::account::session::{Session, Step};
use crate::account::wallet::{LOTS_MAX, Wallet};
use crate::account::{SPEND_MONTH_MAX, SPEND_MONTHS_MAX};
use crate::program::{Version, award::award};

/// An award that nothing refuses any more.
struct Award {
    version: u32,
    occurred_at: Millis,
    points: i64,
    lot: LotKey,
    amount: Option<AmountAward>,
    spend: Option<Spend>,
    /// Whether the lot's expiry has passed, so that the points go at once.
    expired: bool,
    before: ExpiredBefore,
}

/// Where points of an instant go: (expiry or NEVER, activation).
fn lot_of(
    version: &Version,
    occurred_at: Millis,
    expires_at: Option<Millis>,
    activates_at: Option<Millis>,
) -> (Millis, Option<Millis>) {
    let expires_at = expires_at.or_else(|| version.expiry_of(occurred_at)).unwrap_or(NEVER);
    (expires_at, activates_at.or_else(|| version.activation_of(occurred_at)))
}

/// What is wrong with an expiry or activation that the request gives.
pub(super) fn invalid_lot(
    session: &Session<'_>,
    occurred_at: Millis,
    expires_at: Option<Millis>,
    activates_at: Option<Millis>,
) -> Option<Refusal> {
    let version = session.program.version_at(occurred_at);
    let (expiry, activation) = lot_of(version, occurred_at, expires_at, activates_at);
    let refuse = |detail: &str| {
        let field = if expires_at.is_some() { "expires_at" } else { "activates_at" };
        Some(Refusal::InvalidRequest { field: field.into(), detail: detail.to_owned() })
    };
    if expires_at.is_some() && expiry <= occurred_at {
        return refuse("must be after occurred_at");
    }
    match activation {
        Some(activation) if expiry <= activation => {
            refuse("must leave time between the activation of the points and their expiry")
        }
        _ => None,
    }
}

/// Plans an award to a wallet as it will be then.
fn plan(
    session: &Session<'_>,
    wallet: &Wallet,
    basis: Basis,
    occurred_at: Millis,
    expires_at: Option<Millis>,
    activates_at: Option<Millis>,
) -> Step<Award> {
    let version: &Version = session.program.version_at(occurred_at);
    let (expires_at, activates_at) = lot_of(version, occurred_at, expires_at, activates_at);
    let (points, amount, spend) = match basis {
        Basis::Points(points) => (points, None, None),
        Basis::Amount(amount) => {
            let level = session.account.level_at(version, occurred_at);
            let applied_multiplier = version.level(level).multiplier;
            let awarded = award(amount, &version.document.earning, applied_multiplier);
            let points = awarded.map_err(|_| Refusal::BalanceOverflow)?;
            let applied = AmountAward { amount, applied_tier: level as u8, applied_multiplier };
            let spend = (amount > 0).then(|| Spend { month: version.month_of(occurred_at), amount });
            (points, Some(applied), spend)
        }
    };
    let lot = LotKey { expires_at, activates_at: activates_at.filter(|at| *at > session.settle_until) };
    let expired = expires_at <= session.settle_until && points > 0;
    let pays_debt = lot.activates_at.is_none() && points <= wallet.debt;
    if points > 0 && !expired && !pays_debt && wallet.lots_count() >= LOTS_MAX && wallet.is_new(lot) {
        return Err(Refusal::LimitExceeded { limit: Limit::Lots }.into());
    }
    if let Some(spend) = spend {
        let months = &session.account.spend;
        match months.iter().rev().find(|(month, _)| *month == spend.month) {
            Some((_, sum)) if sum + spend.amount > SPEND_MONTH_MAX => return Err(Refusal::BalanceOverflow.into()),
            None if months.len() >= SPEND_MONTHS_MAX => {
                return Err(Refusal::LimitExceeded { limit: Limit::SpendMonths }.into());
            }
            _ => {}
        }
    }
    let lasting_points = if expired { 0 } else { points };
    if points > POINTS_MAX || wallet.worth() + lasting_points > BALANCE_MAX {
        return Err(Refusal::BalanceOverflow.into());
    }
    let before = if expired { session.expired_before(&[expires_at])? } else { ExpiredBefore::new() };
    Ok(Award { version: version.number, occurred_at, points, lot, amount, spend, expired, before })
}

impl Award {
    fn draft(&self, session: &Session<'_>, kind: RecordKind, detail: Detail) -> Record {
        let mut record = session.draft(kind, self.occurred_at, self.version, detail);
        record.points = self.points;
        if self.points > 0 {
            record.moves.push(Move { op: MoveOp::Grant, lot: self.lot, points: self.points });
            if self.lot.activates_at.is_none() && !self.expired {
                session.account.wallet.pay_debt([(self.lot.expires_at, self.points)], &mut record.moves);
            }
        }
        record.spend = self.spend;
        session.put_tier_due(&mut record);
        record
    }

    /// Commits the award's record, and the expiry of what came too late.
    fn commit(&self, session: &mut Session<'_>, record: Record) -> usize {
        let index = session.commit(record);
        if self.expired {
            session.expire(&[(self.lot.expires_at, self.points)], &self.before, session.now);
        }
        index
    }

    fn detail(&self, redemption: Option<Box<SaleRedemption>>) -> Detail {
        Detail::Earn {
            expires_at: self.lot.expires_at,
            activates_at: self.lot.activates_at,
            award: self.amount,
            redemption,
        }
    }
}

pub(super) fn earn(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Earn { earn, .. } = &*operation.command else { unreachable!("called for earns") };
    check_status(session, false)?;
    let occurred_at = earn.occurred_at.unwrap_or(session.now);
    check_time(session, occurred_at)?;
    let award = plan(session, &session.account.wallet, earn.basis, occurred_at, earn.expires_at, earn.activates_at)?;
    let mut record = award.draft(session, RecordKind::Earn, award.detail(None));
    operation.sign(&mut record);
    let index = award.commit(session, record);
    Ok((index, index))
}

/// A positive adjustment.
pub(super) fn adjust(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Adjust { points, expires_at, .. } = *operation.command else { unreachable!("called for adjustments") };
    check_status(session, false)?;
    let award = plan(session, &session.account.wallet, Basis::Points(points), session.now, expires_at, None)?;
    let detail = Detail::Adjust { expires_at: award.lot.expires_at, activates_at: award.lot.activates_at };
    let mut record = award.draft(session, RecordKind::Adjust, detail);
    operation.sign(&mut record);
    let index = award.commit(session, record);
    Ok((index, index))
}

/// A till's sale: both the redemption and the award, or neither.
pub(super) fn sale(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::Sale { amount, redeem_points, occurred_at, .. } = *operation.command else {
        unreachable!("called for sales")
    };
    check_status(session, redeem_points.is_some())?;
    check_time(session, occurred_at)?;
    let spent = match redeem_points {
        Some(points) => Some((points, spend::plan(session, points)?)),
        None => None,
    };
    let wallet = &session.account.wallet;
    let redeemed = spent.as_ref().map(|(_, moves)| wallet.after(moves));
    let wallet = redeemed.as_ref().unwrap_or(wallet);
    let award = plan(session, wallet, Basis::Amount(amount), occurred_at, None, None)?;
    let redemption = spent.map(|(points, moves)| {
        let mut record = session.draft(RecordKind::Redeem, occurred_at, award.version, Detail::Redeem { hold: None });
        record.points = -points;
        record.moves = moves;
        record.references = operation.references().map(|references| Box::new(till_of(references)));
        let lots = record.taken();
        let index = session.commit(record);
        Box::new(SaleRedemption { position: session.records[index].position, points, lots })
    });
    let mut record = award.draft(session, RecordKind::Earn, award.detail(redemption));
    operation.sign(&mut record);
    let index = award.commit(session, record);
    Ok((index, index))
}

/// The references that a sale's redemption shares with the sale.
fn till_of(references: &References) -> References {
    References { description: None, reason: None, metadata: None, ..references.clone() }
}
