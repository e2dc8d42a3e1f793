//! Draws what comes next: operation, account, points. Holds that are open and earns that can be taken back are
//! remembered, a bounded number of them.

use std::collections::VecDeque;

use crate::answer::Effect;
use crate::scenario::{Distribution, Scenario};
use crate::schedule::{Random, Zipf};
use crate::traffic::{OPERATIONS, Operation, Planned, Purchase};

/// Most holds, and most earns, that are remembered. Holds beyond it run into their time-out.
const REMEMBERED_MAX: usize = 4_096;
const EARN_POINTS_MAX: u64 = 100;
const REDEEM_POINTS_MAX: u64 = 50;
/// Amounts of sales, in hundredths: 1,000.00 to 500,000.00, which the built-in program turns into 1 to 500 points.
const AMOUNT_MINOR: std::ops::Range<u64> = 100_000..50_000_000;

/// A source of operations.
#[derive(Debug)]
pub(crate) struct Traffic {
    random: Random,
    /// Cumulated weights, in the order of [`OPERATIONS`].
    weights: [u64; OPERATIONS.len()],
    accounts: u32,
    distribution: Distribution,
    zipf: Zipf,
    hot_count: u32,
    hot_percent: u32,
    batch_items: u32,
    number: u64,
    holds: VecDeque<(u32, Box<str>, u32)>,
    earns: VecDeque<(u32, Box<str>)>,
    keeps_holds: bool,
    keeps_earns: bool,
}

impl Traffic {
    /// The part of process `worker`.
    pub(crate) fn new(scenario: &Scenario, worker: u32) -> Self {
        let mix = &scenario.mix;
        let weights = OPERATIONS.iter().map(|operation| match operation {
            Operation::EarnPoints => mix.earn_points,
            Operation::EarnAmount => mix.earn_amount,
            Operation::Redeem => mix.redeem,
            Operation::Balance => mix.balance,
            Operation::Hold => mix.hold,
            Operation::Capture => mix.capture,
            Operation::Void => mix.void,
            Operation::Reverse => mix.reverse,
            Operation::Pos => mix.pos,
            Operation::Batch => mix.batch,
        });
        let mut cumulated = [0; OPERATIONS.len()];
        let mut sum = 0;
        for (place, weight) in cumulated.iter_mut().zip(weights) {
            sum += u64::from(weight);
            *place = sum;
        }
        let accounts = &scenario.accounts;
        Self {
            random: Random::new(scenario.seed ^ (u64::from(worker) << 40)),
            weights: cumulated,
            accounts: accounts.count,
            distribution: accounts.distribution,
            zipf: Zipf::new(accounts.count, accounts.theta),
            hot_count: accounts.hot_count,
            hot_percent: accounts.hot_percent,
            batch_items: mix.batch_items,
            number: 0,
            holds: VecDeque::new(),
            earns: VecDeque::new(),
            keeps_holds: mix.capture > 0 || mix.void > 0,
            keeps_earns: mix.reverse > 0,
        }
    }

    /// What comes next. `now_ms` is milliseconds since 1970, for tills.
    pub(crate) fn plan(&mut self, now_ms: i64) -> Planned {
        let total = self.weights[OPERATIONS.len() - 1];
        let drawn = if total == 0 { 0 } else { self.random.below(total) };
        let place = self.weights.iter().position(|cumulated| drawn < *cumulated).unwrap_or(0);
        let mut operation = OPERATIONS[place];
        let (mut about, mut points, mut account) = (None, 0, None);
        match operation {
            // Nothing to capture, void or reverse yet: make something.
            Operation::Capture | Operation::Void => match self.holds.pop_front() {
                Some((of, hold, held)) => (account, about, points) = (Some(of), Some(hold), held),
                None => operation = Operation::Hold,
            },
            Operation::Reverse => match self.earns.pop_front() {
                Some((of, earn)) => (account, about) = (Some(of), Some(earn)),
                None => operation = Operation::EarnPoints,
            },
            _ => {}
        }
        points = match operation {
            Operation::EarnPoints | Operation::Batch => 1 + self.random.below(EARN_POINTS_MAX) as u32,
            Operation::Redeem | Operation::Hold => 1 + self.random.below(REDEEM_POINTS_MAX) as u32,
            _ => points,
        };
        let amount_minor = match operation {
            Operation::EarnAmount | Operation::Pos => {
                AMOUNT_MINOR.start + self.random.below(AMOUNT_MINOR.end - AMOUNT_MINOR.start)
            }
            _ => 0,
        };
        let mut account = account.unwrap_or_else(|| self.account());
        let mut numbers = 1;
        if operation == Operation::Batch {
            numbers = u64::from(self.batch_items);
            account = account.min(self.accounts.saturating_sub(self.batch_items));
        }
        let number = self.number;
        self.number += numbers;
        Planned { operation, account, number, points, amount_minor, at_ms: now_ms, about }
    }

    /// The sale of a purchase.
    pub(crate) fn plan_sale(&mut self, purchase: &Purchase) -> Planned {
        let number = self.number;
        self.number += 1;
        Planned {
            operation: Operation::Pos,
            account: purchase.account,
            number,
            points: 0,
            amount_minor: purchase.amount_minor,
            at_ms: purchase.at_ms,
            about: None,
        }
    }

    fn account(&mut self) -> u32 {
        let below = |random: &mut Random, bound: u32| random.below(u64::from(bound)) as u32;
        match self.distribution {
            Distribution::Uniform => below(&mut self.random, self.accounts),
            Distribution::Zipf => self.zipf.draw(&mut self.random),
            Distribution::Hot if below(&mut self.random, 100) < self.hot_percent => {
                below(&mut self.random, self.hot_count)
            }
            Distribution::Hot => below(&mut self.random, self.accounts),
        }
    }

    /// Learns from an acknowledged operation what later ones can be about.
    pub(crate) fn learn(&mut self, planned: &Planned, effect: &Effect<'_>) {
        match planned.operation {
            Operation::Hold if self.keeps_holds && self.holds.len() < REMEMBERED_MAX => {
                if let Some(hold) = effect.hold_id {
                    self.holds.push_back((planned.account, hold.into(), planned.points));
                }
            }
            Operation::EarnPoints | Operation::EarnAmount
                if self.keeps_earns && self.earns.len() < REMEMBERED_MAX && self.random.below(8) == 0 =>
            {
                self.earns.push_back((planned.account, effect.transaction_id.into()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_what_was_asked_for_and_numbers_are_never_used_twice() {
        let mut scenario = Scenario::load("smoke").unwrap();
        scenario.mix.batch = 5;
        scenario.accounts.distribution = Distribution::Hot;
        scenario.accounts.hot_percent = 90;
        let mut traffic = Traffic::new(&scenario, 0);
        let mut next_number = 0;
        let (mut hot, mut drawn, mut redeems, mut captures) = (0, 0, 0, 0);
        for _ in 0..50_000 {
            let planned = traffic.plan(0);
            assert_eq!(planned.number, next_number);
            next_number += if planned.operation == Operation::Batch { 20 } else { 1 };
            assert!(planned.account < scenario.accounts.count);
            redeems += u32::from(planned.operation == Operation::Redeem);
            captures += u32::from(planned.operation == Operation::Capture);
            if planned.operation == Operation::Redeem {
                drawn += 1;
                hot += u32::from(planned.account == 0);
            }
            if planned.operation == Operation::Hold {
                let effect = Effect {
                    transaction_id: "t",
                    account_id: "a",
                    kind: "HOLD",
                    points: 0,
                    available_points: 0,
                    hold_id: Some("h"),
                    hold_points: Some(1),
                    reason: None,
                };
                traffic.learn(&planned, &effect);
            }
        }
        // The heaviest weights are weights as well.
        (scenario.mix.capture, scenario.mix.void) = (u32::MAX, u32::MAX);
        assert!(Traffic::new(&scenario, 0).keeps_holds);
        // 15 of 104 weights redeem and 3 capture.
        assert!((6_700..7_700).contains(&redeems), "{redeems}");
        assert!((1_200..1_700).contains(&captures), "{captures}");
        assert!((87..93).contains(&(hot * 100 / drawn)), "{hot} of {drawn}");
    }
}
