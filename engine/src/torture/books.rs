//! What the moves of an account's records leave in its lots: they have to come to what the model has.

use std::collections::BTreeMap;

use meed_schemas::outcome::LotView;
use meed_schemas::record::{Move, MoveOp, Record};
use meed_schemas::time::{Millis, NEVER};

/// The lots of one account.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// Available and held points by expiry.
    live: BTreeMap<Millis, (i64, i64)>,
    /// By activation and expiry.
    pending: BTreeMap<(Millis, Millis), i64>,
    debt: i64,
}

impl Book {
    /// Carries the moves of a record out.
    ///
    /// # Errors
    /// They do not come to the record's points, or take what is not there.
    pub(super) fn take(&mut self, record: &Record) -> Result<(), String> {
        record.moves.iter().for_each(|m| self.carry_out(m));
        let worth = record.moves.iter().map(|m| match m.op {
            MoveOp::Grant => m.points,
            MoveOp::Burn | MoveOp::Capture | MoveOp::Expire | MoveOp::Owe => -m.points,
            _ => 0,
        });
        if worth.sum::<i64>() != record.points || record.moves.iter().any(|m| m.points <= 0) {
            return Err(format!("the moves do not come to the points: {record:?}"));
        }
        let is_short = self.live.values().any(|(available, held)| *available < 0 || *held < 0)
            || self.pending.values().any(|points| *points < 0);
        if is_short || self.debt < 0 {
            return Err(format!("points are taken that are not there, {self:?} is left: {record:?}"));
        }
        self.live.retain(|_, lot| *lot != (0, 0));
        self.pending.retain(|_, points| *points != 0);
        Ok(())
    }

    fn carry_out(&mut self, m: &Move) {
        let (expires_at, points) = (m.lot.expires_at, m.points);
        let pending = self.pending.entry((m.lot.activates_at.unwrap_or(NEVER), expires_at)).or_default();
        let (available, held) = self.live.entry(expires_at).or_default();
        match (m.op, m.lot.activates_at) {
            (MoveOp::Grant, Some(_)) => *pending += points,
            (MoveOp::Burn, Some(_)) => *pending -= points,
            (MoveOp::Grant, None) => *available += points,
            (MoveOp::Burn | MoveOp::Expire, _) => *available -= points,
            (MoveOp::Activate, _) => (*pending, *available) = (*pending - points, *available + points),
            (MoveOp::Hold, _) => (*available, *held) = (*available - points, *held + points),
            (MoveOp::Release, _) => (*available, *held) = (*available + points, *held - points),
            (MoveOp::Capture, _) => *held -= points,
            (MoveOp::PayDebt, _) => (*available, self.debt) = (*available - points, self.debt - points),
            (MoveOp::Owe, _) => self.debt += points,
            (MoveOp::CountExpired, _) => {}
        }
    }

    /// The lots in burn order, pending ones last, and the debt.
    pub(super) fn lots(&self) -> (Vec<LotView>, i64) {
        let live = self.live.iter().map(|(expires_at, (available, held))| LotView {
            available: *available,
            held: *held,
            activates_at: None,
            expires_at: *expires_at,
        });
        let pending = self.pending.iter().map(|((at, expires_at), points)| LotView {
            available: *points,
            held: 0,
            activates_at: Some(*at),
            expires_at: *expires_at,
        });
        (live.chain(pending).collect(), self.debt)
    }
}
