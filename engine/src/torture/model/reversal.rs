//! Reversals, from the contract: cumulative and exact.

use meed_schemas::command::Portion;
use meed_schemas::ids::Position;
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{Detail, RecordKind, Spend};
use meed_schemas::time::Millis;

use super::{Award, Effect, Given, Model, Outcome, Spending, add, sum};

fn exceeds_points(left: i64) -> Refusal {
    Refusal::ExceedsRemaining { remaining_points: Some(left), remaining_amount: None }
}

impl Model {
    /// Takes back an award, or gives back a redemption.
    pub(super) fn reverse(&mut self, original: u64, portion: Portion, given: Given<'_>) -> Result<Outcome, Refusal> {
        let award = self.awards.get(&original).cloned();
        let spending = self.spendings.get(&original).cloned();
        let has_amount = award.as_ref().is_some_and(|award| award.amount.is_some());
        let is_reversible = award.is_some() || spending.is_some();
        if is_reversible && matches!(portion, Portion::Amount(_)) && !has_amount {
            return Err(Refusal::InvalidRequest { field: "amount".into(), detail: String::new() });
        }
        self.check_status(false)?;
        match (award, spending) {
            (Some(award), _) => self.take_back(original, award, portion, given),
            (None, Some(spending)) => self.give_back(original, spending, portion, given),
            (None, None) => Err(Refusal::NotReversible),
        }
    }

    fn take_back(
        &mut self,
        original: u64,
        award: Award,
        portion: Portion,
        given: Given<'_>,
    ) -> Result<Outcome, Refusal> {
        let awarded = award.amount.map_or(0, |(applied, _)| applied.amount);
        let points_left = award.points - award.reversed_points;
        let amount_left = awarded - award.reversed_amount;
        if (points_left, amount_left) == (0, 0) {
            return Err(Refusal::NothingToReverse);
        }
        let (take, off) = match portion {
            Portion::Rest => (points_left, amount_left),
            Portion::Points(points) if points > points_left => return Err(exceeds_points(points_left)),
            Portion::Points(points) => (points, 0),
            Portion::Amount(part) if part > amount_left => {
                return Err(Refusal::ExceedsRemaining { remaining_points: None, remaining_amount: Some(amount_left) });
            }
            Portion::Amount(part) => {
                // By the version that counted the award, and with its multiplier.
                let kept = award.amount.map_or(0, |(applied, version)| {
                    given.versions[version].1.award(amount_left - part, applied.applied_multiplier)
                });
                ((points_left - kept).max(0), part)
            }
        };
        let own = Award {
            reversed_points: award.reversed_points + take,
            reversed_amount: award.reversed_amount + off,
            ..award
        };
        let spend = (off > 0).then_some(Spend { month: own.month, amount: -off });
        self.spend.extend(spend);
        let floor = given.rules(given.now).floor;
        let (points, shortfall_points, expired_points) = self.take_points(&own, take, floor);
        let detail = Detail::Reversal {
            original: Position::new(given.next.shard(), original),
            original_kind: RecordKind::Earn,
            reversed_points: own.reversed_points,
            reversed_amount: own.amount.map(|_| own.reversed_amount),
            shortfall_points,
            expired_points,
        };
        self.awards.insert(original, own);
        let effects = vec![Effect { spend, ..given.effect(RecordKind::Reversal, points, given.now, detail) }];
        Ok(Outcome::Done { effects, shown: 0, taken: Vec::new() })
    }

    /// Takes points of an award: what of its own lot is pending, available or expired, then others in burn order,
    /// then into debt. Returns the change of what the account has, the shortfall, and what had expired.
    fn take_points(&mut self, award: &Award, take: i64, floor: i64) -> (i64, i64, i64) {
        let (mut rest, mut change) = (take, 0);
        if let Some(activates) = award.activates {
            let part = rest.min(self.pending.get(&(activates, award.expires)).copied().unwrap_or(0));
            add(&mut self.pending, (activates, award.expires), -part);
            (rest, change) = (rest - part, change - part);
        }
        let part = rest.min(self.live.get(&award.expires).copied().unwrap_or(0));
        add(&mut self.live, award.expires, -part);
        (rest, change) = (rest - part, change - part);
        let expired = rest.min(self.expired.get(&award.expires).copied().unwrap_or(0));
        add(&mut self.expired, award.expires, -expired);
        rest -= expired;
        let part = sum(&self.burn(rest, Some(award.expires)));
        (rest, change) = (rest - part, change - part);
        let owed = rest.min((-self.debt - floor).max(0));
        self.debt += owed;
        (change - owed, rest - owed, expired)
    }

    fn give_back(
        &mut self,
        original: u64,
        spending: Spending,
        portion: Portion,
        given: Given<'_>,
    ) -> Result<Outcome, Refusal> {
        let left = sum(&spending.taken) - spending.given_back;
        let points = match portion {
            _ if left == 0 => return Err(Refusal::NothingToReverse),
            Portion::Points(points) if points > left => return Err(exceeds_points(left)),
            Portion::Points(points) => points,
            _ => left,
        };
        let back = latest_first(&spending.taken, spending.given_back, points);
        let given_back = spending.given_back + points;
        self.spendings.insert(original, Spending { given_back, ..spending });
        let gone = self.let_go(back, given.settled);
        let detail = Detail::Reversal {
            original: Position::new(given.next.shard(), original),
            original_kind: RecordKind::Redeem,
            reversed_points: given_back,
            reversed_amount: None,
            shortfall_points: 0,
            expired_points: sum(&gone),
        };
        let mut effects = vec![given.effect(RecordKind::Reversal, points, given.now, detail)];
        effects.extend(self.expire(&gone, given.now, given));
        Ok(Outcome::Done { effects, shown: 0, taken: Vec::new() })
    }
}

/// Point by point, the latest expiry first, after those that went back before.
fn latest_first(taken: &[(Millis, i64)], skip: i64, points: i64) -> Vec<(Millis, i64)> {
    let mut order = taken.to_vec();
    order.sort_by_key(|(expires, _)| std::cmp::Reverse(*expires));
    let each = order.iter().flat_map(|(expires, points)| (0..*points).map(|_| *expires));
    let mut back: Vec<(Millis, i64)> = Vec::new();
    for expires in each.skip(skip as usize).take(points as usize) {
        match back.last_mut() {
            Some((last, count)) if *last == expires => *count += 1,
            _ => back.push((expires, 1)),
        }
    }
    back
}
