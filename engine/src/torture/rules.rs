//! What a version of the program says, counted by hand: days, months, awards, levels.

use meed_schemas::record::Spend;
use meed_schemas::time::{DAY_MS, Millis, NEVER, civil_from_days, days_from_civil};

use super::profile::{Expiry, Rules};

impl Rules {
    fn day(&self, at: Millis) -> i64 {
        (at + self.zone.offset_ms()).div_euclid(DAY_MS)
    }

    fn midnight(&self, day: i64) -> Millis {
        day * DAY_MS - self.zone.offset_ms()
    }

    /// Year × 12 + month − 1.
    pub(super) fn month(&self, at: Millis) -> i32 {
        let (year, month, _) = civil_from_days(self.day(at));
        (year * 12) as i32 + month as i32 - 1
    }

    /// When points of an instant go.
    pub(super) fn expiry(&self, occurred: Millis) -> Millis {
        let day = self.day(occurred);
        let last = match self.expiry {
            Expiry::None => return NEVER,
            Expiry::Days(days) => day + days,
            Expiry::Months(months, to_end) => {
                let (year, month, of_month) = civil_from_days(day);
                let month = year * 12 + i64::from(month) - 1 + months;
                let first = |month: i64| days_from_civil(month.div_euclid(12), month.rem_euclid(12) as u32 + 1, 1);
                let end = first(month + 1) - 1;
                if to_end { end } else { end.min(first(month) + i64::from(of_month) - 1) }
            }
        };
        self.midnight(last + 1)
    }

    /// When points of an instant become available, if not at once.
    pub(super) fn activation(&self, occurred: Millis) -> Option<Millis> {
        (self.pending_days > 0).then(|| self.midnight(self.day(occurred) + self.pending_days))
    }

    /// What an amount earns.
    pub(super) fn award(&self, amount: i64, multiplier: u32) -> i64 {
        let numerator = i128::from(amount) * i128::from(self.points) * i128::from(multiplier);
        let denominator = i128::from(self.per_amount) * 10_000;
        let (whole, twice_rest) = (numerator / denominator, numerator % denominator * 2);
        let is_up = match self.rounding {
            "down" => false,
            "up" => twice_rest > 0,
            "half_up" => twice_rest >= denominator,
            _ => twice_rest > denominator || (twice_rest == denominator && whole % 2 == 1),
        };
        (whole + i128::from(is_up)) as i64
    }

    /// The spend that decides the tier in a month.
    pub(super) fn qualifying(&self, spend: &[Spend], now: i32) -> i64 {
        let sum = |first: i32, last: i32| -> i64 {
            spend.iter().filter(|spend| (first..=last).contains(&spend.month)).map(|spend| spend.amount).sum()
        };
        let january = now.div_euclid(12) * 12;
        match self.window {
            "lifetime" => sum(i32::MIN, now),
            "rolling_12_months" => sum(now - 12, now),
            _ => sum(january - 12, january - 1).max(sum(january, now)),
        }
    }

    /// The level that this spend earns in a month.
    pub(super) fn earned(&self, spend: &[Spend], now: i32) -> usize {
        let spend = self.qualifying(spend, now);
        self.levels.iter().rposition(|(_, from, _)| *from <= spend).unwrap_or(0)
    }

    /// The level with a name.
    pub(super) fn level_named(&self, name: &str) -> Option<usize> {
        self.levels.iter().position(|(own, _, _)| *own == name)
    }
}
