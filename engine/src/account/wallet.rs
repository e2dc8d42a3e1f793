//! The points of an account: lots, pending lots and debt.
//!
//! While there is debt, no live lot has available points: whatever becomes available pays debt first, and
//! nothing is owed before everything available was taken.

use crate::planted::{Fault, planted};
use meed_schemas::record::{Balances, LotKey, Move, MoveOp};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

/// Most lots of a wallet, pending ones included.
pub const LOTS_MAX: usize = 2_048;

/// The moves of a record.
pub(super) type Moves = SmallVec<[Move; 2]>;

/// Points that share their expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lot {
    /// First instant at which the points are gone, or NEVER.
    pub(super) expires_at: Millis,
    /// Neither held nor pending.
    pub(super) available: i64,
    /// Pinned by open holds.
    pub(super) held: i64,
}

/// Points that share expiry and activation, and are not available yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) activates_at: Millis,
    pub(super) expires_at: Millis,
    pub(super) points: i64,
}

/// A named balance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wallet {
    /// In burn order, which is by expiry; none is empty.
    pub(super) lots: SmallVec<[Lot; 1]>,
    /// By activation, then expiry; none is empty.
    pub(super) pending: Vec<Pending>,
    pub(super) debt: i64,
    /// Sum of the available points of all lots.
    pub(super) available: i64,
    /// Sum of the held points of all lots.
    pub(super) held: i64,
    /// Sum of the pending points.
    pub(super) pending_points: i64,
}

/// A move of available points of a live lot.
pub(super) fn live(op: MoveOp, expires_at: Millis, points: i64) -> Move {
    Move { op, lot: LotKey::live(expires_at), points }
}

impl Wallet {
    pub(super) fn balances(&self) -> Balances {
        Balances {
            total: self.available + self.held - self.debt,
            held: self.held,
            pending: self.pending_points,
            debt: self.debt,
        }
    }

    /// What may be spent; negative while there is debt.
    pub(super) fn spendable(&self) -> i64 {
        let pending = if planted(Fault::CountPendingAsAvailable) { self.pending_points } else { 0 };
        self.available - self.debt + pending
    }

    /// Total and pending points.
    pub(super) fn worth(&self) -> i64 {
        self.available + self.held + self.pending_points - self.debt
    }

    pub(super) fn lots_count(&self) -> usize {
        self.lots.len() + self.pending.len()
    }

    pub(super) fn lot(&self, expires_at: Millis) -> Option<&Lot> {
        self.lots.binary_search_by_key(&expires_at, |lot| lot.expires_at).ok().map(|index| &self.lots[index])
    }

    /// Available points of the live lot with this expiry.
    pub(super) fn available_of(&self, expires_at: Millis) -> i64 {
        self.lot(expires_at).map_or(0, |lot| lot.available)
    }

    pub(super) fn pending_of(&self, activates_at: Millis, expires_at: Millis) -> i64 {
        self.pending_index(activates_at, expires_at).map_or(0, |index| self.pending[index].points)
    }

    fn pending_index(&self, activates_at: Millis, expires_at: Millis) -> Result<usize, usize> {
        self.pending.binary_search_by_key(&(activates_at, expires_at), |p| (p.activates_at, p.expires_at))
    }

    /// Whether a grant to this lot would be one lot more.
    pub(super) fn is_new(&self, lot: LotKey) -> bool {
        match lot.activates_at {
            Some(at) => self.pending_index(at, lot.expires_at).is_err(),
            None => self.lot(lot.expires_at).is_none(),
        }
    }

    /// Plans to take up to `points` available points in burn order, except from the lot `except`; returns
    /// how many are missing.
    pub(super) fn take(&self, op: MoveOp, mut points: i64, except: Option<Millis>, moves: &mut Moves) -> i64 {
        let latest_first = planted(Fault::BurnLatestFirst);
        for index in 0..self.lots.len() {
            let lot = &self.lots[if latest_first { self.lots.len() - 1 - index } else { index }];
            if points == 0 {
                break;
            }
            let taken = points.min(lot.available);
            if taken > 0 && Some(lot.expires_at) != except {
                moves.push(live(op, lot.expires_at, taken));
                points -= taken;
            }
        }
        points
    }

    /// Plans how points that become available pay debt: `arriving` in burn order.
    pub(super) fn pay_debt(&self, arriving: impl IntoIterator<Item = (Millis, i64)>, moves: &mut Moves) {
        let mut debt = self.debt;
        for (expires_at, points) in arriving {
            let paid = points.min(debt);
            if paid > 0 {
                moves.push(live(MoveOp::PayDebt, expires_at, paid));
                debt -= paid;
            }
        }
    }

    /// The wallet as it is after these moves.
    pub(super) fn after(&self, moves: &[Move]) -> Self {
        let mut wallet = self.clone();
        moves.iter().for_each(|m| wallet.apply(m));
        wallet
    }

    /// Carries out one move. `CountExpired` concerns no balance.
    pub(super) fn apply(&mut self, m: &Move) {
        let (expires_at, points) = (m.lot.expires_at, m.points);
        match (m.op, m.lot.activates_at) {
            (MoveOp::Grant, Some(at)) => self.add_pending(at, expires_at, points),
            (MoveOp::Grant, None) => self.add(expires_at, points, 0),
            (MoveOp::Activate, at) => {
                self.add_pending(at.unwrap_or(NEVER), expires_at, -points);
                self.add(expires_at, points, 0);
            }
            (MoveOp::Burn, Some(at)) => self.add_pending(at, expires_at, -points),
            (MoveOp::Burn | MoveOp::Expire, _) => self.add(expires_at, -points, 0),
            (MoveOp::Hold, _) => self.add(expires_at, -points, points),
            (MoveOp::Release, _) => self.add(expires_at, points, -points),
            (MoveOp::Capture, _) => self.add(expires_at, 0, -points),
            (MoveOp::PayDebt, _) => {
                self.add(expires_at, -points, 0);
                self.debt -= points;
            }
            (MoveOp::Owe, _) => self.debt += points,
            (MoveOp::CountExpired, _) => {}
        }
        debug_assert!(self.debt >= 0, "debt is never negative");
    }

    fn add(&mut self, expires_at: Millis, available: i64, held: i64) {
        self.available += available;
        self.held += held;
        // The newest award usually has the latest expiry.
        let found = match self.lots.last() {
            Some(last) if last.expires_at == expires_at => Ok(self.lots.len() - 1),
            Some(last) if last.expires_at < expires_at => Err(self.lots.len()),
            _ => self.lots.binary_search_by_key(&expires_at, |lot| lot.expires_at),
        };
        match found {
            Ok(index) => {
                let lot = &mut self.lots[index];
                lot.available += available;
                lot.held += held;
                debug_assert!(lot.available >= 0 && lot.held >= 0, "a lot is never negative");
                if lot.available == 0 && lot.held == 0 {
                    self.lots.remove(index);
                }
            }
            Err(index) => {
                debug_assert!(available >= 0 && held >= 0, "only what is there is taken");
                self.lots.insert(index, Lot { expires_at, available, held });
            }
        }
    }

    fn add_pending(&mut self, activates_at: Millis, expires_at: Millis, points: i64) {
        self.pending_points += points;
        match self.pending_index(activates_at, expires_at) {
            Ok(index) => {
                let lot = &mut self.pending[index];
                lot.points += points;
                debug_assert!(lot.points >= 0, "a pending lot is never negative");
                if lot.points == 0 {
                    self.pending.remove(index);
                }
            }
            Err(index) => {
                debug_assert!(points >= 0, "only what is there is taken");
                self.pending.insert(index, Pending { activates_at, expires_at, points });
            }
        }
    }

    /// The earliest expiry of available points, NEVER for none.
    pub(super) fn next_expiry(&self) -> Millis {
        self.lots.iter().find(|lot| lot.available > 0).map_or(NEVER, |lot| lot.expires_at)
    }

    /// The earliest activation, NEVER for none.
    pub(super) fn next_activation(&self) -> Millis {
        self.pending.first().map_or(NEVER, |lot| lot.activates_at)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let lots = if self.lots.spilled() { self.lots.capacity() * size_of::<Lot>() } else { 0 };
        lots + self.pending.capacity() * size_of::<Pending>()
    }
}
