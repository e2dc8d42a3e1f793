//! What records may say, by a naive ledger that knows nothing but earlier records: points come from somewhere and go
//! somewhere, in burn order; a hold's pins end as a whole; reversals are exact. It shares no code with the account.

use std::collections::BTreeMap;

use meed_schemas::ids::{Identity, Position};
use meed_schemas::program::{Document, Earning, Rounding};
use meed_schemas::record::{AmountAward, Balances, Detail, Move, MoveOp, Record, RecordKind, VoidReason};
use meed_schemas::time::{Millis, NEVER};

/// Points by expiry.
type Lots = BTreeMap<Millis, i64>;
type Found = Result<(), String>;

/// One account.
#[derive(Debug, Default)]
struct Book {
    available: Lots,
    held: Lots,
    /// By activation and expiry.
    pending: BTreeMap<(Millis, Millis), i64>,
    debt: i64,
    /// Open holds: when each ends, and what it pins.
    holds: BTreeMap<Position, (Millis, Lots)>,
}

/// What can be reversed, and how much of it was.
#[derive(Debug)]
struct Original {
    points: i64,
    award: Option<(AmountAward, u32)>,
    reversed_points: i64,
    reversed_amount: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    books: BTreeMap<Identity, Book>,
    originals: BTreeMap<Position, Original>,
    /// By program and version.
    earnings: BTreeMap<(String, u32), Earning>,
}

fn put<K: Ord>(lots: &mut BTreeMap<K, i64>, lot: K, points: i64) {
    *lots.entry(lot).or_default() += points;
}

/// Takes points out of a lot, which may not go below 0.
fn take<K: Ord + Copy + std::fmt::Debug>(lots: &mut BTreeMap<K, i64>, lot: K, points: i64) -> Found {
    let there = lots.get(&lot).copied().unwrap_or(0);
    if points > there {
        return Err(format!("{points} points are taken from the lot {lot:?}, which has {there}"));
    }
    lots.insert(lot, there - points);
    lots.retain(|_, points| *points != 0);
    Ok(())
}

impl Book {
    /// Carries a move out. `in_order`: it has to take from the lot that expires first.
    fn carry_out(&mut self, m: &Move, in_order: bool) -> Found {
        let (expires_at, points) = (m.lot.expires_at, m.points);
        let first = self.available.keys().next().copied();
        if in_order && matches!(m.op, MoveOp::Burn | MoveOp::Hold) && first != Some(expires_at) {
            return Err(format!("points that expire at {expires_at} are taken before those of {first:?}"));
        }
        match (m.op, m.lot.activates_at) {
            (MoveOp::Grant, Some(at)) => put(&mut self.pending, (at, expires_at), points),
            (MoveOp::Grant, None) => put(&mut self.available, expires_at, points),
            (MoveOp::Activate, at) => {
                take(&mut self.pending, (at.unwrap_or(NEVER), expires_at), points)?;
                put(&mut self.available, expires_at, points);
            }
            (MoveOp::Burn, Some(at)) => take(&mut self.pending, (at, expires_at), points)?,
            (MoveOp::Burn | MoveOp::Expire, _) => take(&mut self.available, expires_at, points)?,
            (MoveOp::Hold, _) => {
                take(&mut self.available, expires_at, points)?;
                put(&mut self.held, expires_at, points);
            }
            (MoveOp::Release, _) => {
                take(&mut self.held, expires_at, points)?;
                put(&mut self.available, expires_at, points);
            }
            (MoveOp::Capture, _) => take(&mut self.held, expires_at, points)?,
            (MoveOp::PayDebt, _) => {
                take(&mut self.available, expires_at, points)?;
                self.debt -= points;
            }
            (MoveOp::Owe, _) => self.debt += points,
            (MoveOp::CountExpired, _) => {}
        }
        if self.debt < 0 { Err(format!("a debt of {}", self.debt)) } else { Ok(()) }
    }

    /// A hold ends: its pins are captured or released, all of them.
    fn end_hold(&mut self, hold: Position, record: &Record) -> Found {
        let Some((ends_at, pins)) = self.holds.remove(&hold) else { return Err(format!("no hold {hold} is open")) };
        let mut ended = Lots::new();
        for m in record.moves.iter().filter(|m| matches!(m.op, MoveOp::Capture | MoveOp::Release)) {
            put(&mut ended, m.lot.expires_at, m.points);
        }
        if ended != pins {
            return Err(format!("hold {hold} pinned {pins:?}, and {ended:?} were captured or released"));
        }
        let is_time_out = matches!(record.detail, Detail::Void { reason: VoidReason::Expired, .. });
        if is_time_out && record.occurred_at < ends_at {
            return Err(format!("hold {hold} ends by itself at {}, before {ends_at}", record.occurred_at));
        }
        Ok(())
    }

    fn balances(&self) -> Balances {
        let sum = |lots: &Lots| lots.values().sum::<i64>();
        Balances {
            total: sum(&self.available) + sum(&self.held) - self.debt,
            held: sum(&self.held),
            pending: self.pending.values().sum(),
            debt: self.debt,
        }
    }
}

impl Ledger {
    /// Learns a version of a program, before records of any shard that name it.
    ///
    /// # Errors
    /// The record's document is none.
    pub(super) fn learn(&mut self, record: &Record) -> Found {
        if let Detail::Program { document } = &record.detail {
            let document = Document::parse(document.as_bytes()).map_err(|e| format!("a document: {e:?}"))?;
            let version = (record.identity.program().to_owned(), record.program_version);
            self.earnings.insert(version, document.earning);
        }
        Ok(())
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn take(&mut self, record: &Record) -> Found {
        self.check(record).map_err(|found| format!("{found}: {record:?}"))
    }

    fn check(&mut self, record: &Record) -> Found {
        self.learn(record)?;
        // A reversal begins with the lot of its award; its checks are its own.
        let in_order = matches!(record.kind, RecordKind::Redeem | RecordKind::Adjust | RecordKind::Hold);
        let book = self.books.entry(record.identity.clone()).or_default();
        let mut worth = 0;
        for m in &record.moves {
            book.carry_out(m, in_order)?;
            worth += match m.op {
                MoveOp::Grant => m.points,
                MoveOp::Burn | MoveOp::Capture | MoveOp::Expire | MoveOp::Owe => -m.points,
                _ => 0,
            };
            let due = if m.op == MoveOp::Expire { Some(m.lot.expires_at) } else { m.lot.activates_at };
            if matches!(m.op, MoveOp::Expire | MoveOp::Activate) && due > Some(record.occurred_at) {
                return Err(format!("what is due at {due:?} is settled at {}", record.occurred_at));
            }
        }
        if worth != record.points {
            return Err(format!("the moves come to {worth} points"));
        }
        match &record.detail {
            Detail::Hold { expires_at } => {
                let pins = record.moves.iter().filter(|m| m.op == MoveOp::Hold);
                let pins = pins.map(|m| (m.lot.expires_at, m.points)).collect();
                book.holds.insert(record.position, (expires_at.unwrap_or(NEVER), pins));
            }
            Detail::Redeem { hold: Some(hold) } | Detail::Void { hold, .. } => book.end_hold(*hold, record)?,
            _ => {}
        }
        self.check_award(record)
    }

    /// Awards and reversals.
    fn check_award(&mut self, record: &Record) -> Found {
        let award = match record.detail {
            Detail::Earn { award, .. } => award.map(|award| (award, record.program_version)),
            Detail::Redeem { .. } => None,
            Detail::Reversal { .. } => return self.check_reversal(record),
            _ => return Ok(()),
        };
        let points = record.points.abs();
        if let Some((award, version)) = award {
            let expected = self.points_for(record, award.amount, award.applied_multiplier, version)?;
            if expected != points {
                return Err(format!("{} minor units award {expected} points", award.amount));
            }
        }
        let original = Original { points, award, reversed_points: 0, reversed_amount: 0 };
        self.originals.insert(record.position, original);
        Ok(())
    }

    fn check_reversal(&mut self, record: &Record) -> Found {
        let Detail::Reversal {
            original,
            original_kind,
            reversed_points,
            reversed_amount,
            shortfall_points,
            expired_points,
        } = record.detail
        else {
            return Ok(());
        };
        let Some(of) = self.originals.get(&original) else { return Err(format!("there is no award {original}")) };
        let taken = match original_kind {
            RecordKind::Earn => -record.points + shortfall_points + expired_points,
            _ => record.points,
        };
        let amount = reversed_amount.unwrap_or(0) - of.reversed_amount;
        if reversed_points != of.reversed_points + taken || reversed_points > of.points || amount < 0 {
            return Err(format!("{taken} points and {amount} minor units are reversed, after {of:?}"));
        }
        // Where an amount was taken back, the points are those of the amount that remains, by the rule that awarded it.
        if let Some((award, version)) = of.award.filter(|_| amount > 0) {
            let left = award.amount - of.reversed_amount - amount;
            let kept = self.points_for(record, left, award.applied_multiplier, version)?;
            let expected = (of.points - kept - of.reversed_points).max(0);
            if left < 0 || taken != expected {
                return Err(format!("{amount} minor units take back {expected} points, after {of:?}"));
            }
        }
        let of = self.originals.entry(original);
        of.and_modify(|of| {
            of.reversed_points = reversed_points;
            of.reversed_amount += amount;
        });
        Ok(())
    }

    fn points_for(&self, record: &Record, amount: i64, multiplier: u32, version: u32) -> Result<i64, String> {
        let name = (record.identity.program().to_owned(), version);
        let Some(earning) = self.earnings.get(&name) else { return Err(format!("there is no version {version}")) };
        let exact = i128::from(amount.max(0)) * i128::from(earning.points) * i128::from(multiplier);
        let whole = i128::from(earning.per_amount_minor) * 10_000;
        let (points, twice) = (exact / whole, exact % whole * 2);
        let up = match earning.rounding {
            Rounding::Down => false,
            Rounding::Up => twice > 0,
            Rounding::HalfUp => twice >= whole,
            Rounding::HalfEven => twice > whole || twice == whole && points % 2 != 0,
        };
        i64::try_from(points + i128::from(up)).map_err(|_| "an award beyond all bounds".to_owned())
    }

    /// What an account has after a turn, of which this is the last record.
    ///
    /// # Errors
    /// The record shows other balances.
    pub(super) fn check_balances(&self, last: &Record) -> Found {
        let balances = self.books.get(&last.identity).map(Book::balances).unwrap_or_default();
        if last.balances != balances {
            return Err(format!("the records so far give {balances:?}: {last:?}"));
        }
        Ok(())
    }
}
