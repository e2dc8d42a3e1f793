//! The account rules a second time, from their description alone: straightforward and slow.
//!
//! It keeps every award of a customer and computes everything from them whenever it is asked. It knows sales
//! only: no redemptions, no holds, no pending points.

use serde_json::{Value, json};

use super::calendar::{Date, utc_text};

/// A tier: its name, the spend from which it is held, its multiplier as written and in ten-thousandths.
struct Level {
    name: String,
    from_cents: i128,
    multiplier_text: String,
    multiplier: i128,
}

/// A program, as its document has it. Only what the documents of this test use.
pub(crate) struct Rules {
    points: i128,
    per_cents: i128,
    rounding: String,
    window: String,
    levels: Vec<Level>,
    expiry: Value,
}

/// A sale that was awarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Award {
    pub(crate) occurred_ms: i64,
    /// Months since the year 0, in New York.
    month: i64,
    pub(crate) cents: i128,
    pub(crate) points: i128,
    pub(crate) tier: String,
    pub(crate) multiplier: String,
    pub(crate) expires_ms: i64,
}

/// A customer: the awards in the order in which they came, and how often the tier at now changed.
#[derive(Default)]
pub(crate) struct Customer {
    pub(crate) awards: Vec<Award>,
    shown_level: usize,
    pub(crate) tier_records: usize,
}

/// A decimal as an integer of the given number of digits after the point.
pub(crate) fn decimal(text: &str, digits: usize) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= digits, "{text}");
    format!("{whole}{fraction:0<digits$}").parse().unwrap()
}

fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

fn month_at(instant_ms: i64) -> i64 {
    let date = Date::at(instant_ms);
    date.year * 12 + date.month - 1
}

impl Rules {
    pub(crate) fn of(document: &Value) -> Self {
        assert_eq!(document["time_zone"], "America/New_York");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let level = |level: &Value| Level {
            name: text(&level["name"]),
            from_cents: decimal(level["from"].as_str().unwrap(), 2),
            multiplier_text: text(&level["multiplier"]),
            multiplier: decimal(level["multiplier"].as_str().unwrap(), 4),
        };
        Self {
            points: i128::from(integer(&document["earning"]["points"])),
            per_cents: decimal(document["earning"]["per_amount"].as_str().unwrap(), 2),
            rounding: text(&document["earning"]["rounding"]),
            window: text(&document["tiers"]["window"]),
            levels: document["tiers"]["levels"].as_array().unwrap().iter().map(level).collect(),
            expiry: document["expiry"].clone(),
        }
    }

    /// The tier that so much spend holds.
    fn level_of(&self, cents: i128) -> usize {
        let held = (0..self.levels.len()).filter(|level| self.levels[*level].from_cents <= cents);
        held.max().unwrap()
    }

    /// The spend that decides the tier at any instant of a month.
    fn qualifying_cents(&self, customer: &Customer, month: i64) -> i128 {
        let spend = |first: i64, last: i64| -> i128 {
            let counts = |award: &&Award| (first..=last).contains(&award.month);
            customer.awards.iter().filter(counts).map(|award| award.cents).sum()
        };
        let january = month / 12 * 12;
        match self.window.as_str() {
            "lifetime" => spend(0, month),
            "rolling_12_months" => spend(month - 12, month),
            "calendar_year" => spend(january - 12, january - 1).max(spend(january, month)),
            other => panic!("{other}"),
        }
    }

    fn expires_ms(&self, occurred_ms: i64) -> i64 {
        let day = Date::at(occurred_ms);
        let day = match (self.expiry.get("days"), self.expiry.get("months")) {
            (Some(days), None) => day.plus_days(integer(days)),
            (None, Some(months)) => day.plus_months(integer(months)),
            _ => panic!("{}", self.expiry),
        };
        let last = match self.expiry["round_to"].as_str().unwrap() {
            "day" => day,
            "end_of_month" => day.last_of_month(),
            "end_of_quarter" => Date { month: (day.month + 2) / 3 * 3, day: 1, ..day }.last_of_month(),
            "end_of_year" => Date { month: 12, day: 31, ..day },
            other => panic!("{other}"),
        };
        last.plus_days(1).midnight_ms()
    }

    fn points_of(&self, cents: i128, multiplier: i128) -> i128 {
        let (dividend, divisor) = (cents * self.points * multiplier, self.per_cents * 10_000);
        let (whole, rest) = (dividend / divisor, dividend % divisor);
        let up = match self.rounding.as_str() {
            "down" => false,
            "up" => rest > 0,
            "half_up" => 2 * rest >= divisor,
            "half_even" => 2 * rest > divisor || (2 * rest == divisor && whole % 2 == 1),
            other => panic!("{other}"),
        };
        whole + i128::from(up)
    }

    /// A sale at a till: what it awards. The tier is that before the sale, at its own time.
    pub(crate) fn sale(&self, customer: &mut Customer, occurred_ms: i64, cents: i128, now_ms: i64) -> Award {
        let month = month_at(occurred_ms);
        let level = &self.levels[self.level_of(self.qualifying_cents(customer, month))];
        let award = Award {
            occurred_ms,
            month,
            cents,
            points: self.points_of(cents, level.multiplier),
            tier: level.name.clone(),
            multiplier: level.multiplier_text.clone(),
            expires_ms: self.expires_ms(occurred_ms),
        };
        customer.awards.push(award.clone());
        let shown = self.level_of(self.qualifying_cents(customer, month_at(now_ms)));
        if shown != customer.shown_level {
            customer.shown_level = shown;
            customer.tier_records += 1;
        }
        award
    }

    /// How many records of each type the customer's account has: EARN, EXPIRE, TIER.
    pub(crate) fn records(&self, customer: &Customer, now_ms: i64) -> [usize; 3] {
        let expired = customer.awards.iter().filter(|award| award.expires_ms <= now_ms && award.points > 0);
        [customer.awards.len(), expired.count(), customer.tier_records]
    }

    /// What `GET …/lots` answers, without `last_updated`.
    pub(crate) fn lots(&self, customer: &Customer, account: &str, program: &str, now_ms: i64) -> Value {
        let live = || customer.awards.iter().filter(|award| award.expires_ms > now_ms && award.points > 0);
        let mut instants: Vec<i64> = live().map(|award| award.expires_ms).collect();
        instants.sort_unstable();
        instants.dedup();
        let lots: Vec<(i64, i128)> = instants
            .into_iter()
            .map(|instant| {
                (instant, live().filter(|award| award.expires_ms == instant).map(|award| award.points).sum())
            })
            .collect();
        let lot = |(instant, points): &(i64, i128)| {
            json!({
                "available": number(*points), "held": 0, "pending": false, "activates_at": null,
                "expires_at": utc_text(*instant)
            })
        };
        let total = number(live().map(|award| award.points).sum());
        let next = lots.first().map(|(instant, points)| json!({"points": number(*points), "at": utc_text(*instant)}));
        let cents = self.qualifying_cents(customer, month_at(now_ms));
        let level = &self.levels[self.level_of(cents)];
        json!({
            "account_id": account, "program": program, "status": "active", "total_points": total,
            "available_points": total, "pending_points": 0, "held_points": 0, "debt_points": 0,
            "tier": level.name, "tier_multiplier": level.multiplier_text, "qualifying_spend": money(cents),
            "next_expiry": next, "sequence": self.records(customer, now_ms).iter().sum::<usize>(),
            "lots": lots.iter().map(lot).collect::<Vec<_>>()
        })
    }
}

pub(crate) fn number(value: i128) -> i64 {
    i64::try_from(value).unwrap()
}

pub(crate) fn money(cents: i128) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
