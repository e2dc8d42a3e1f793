//! The program document: a tenant's rules as plain data, its strict parser and its canonical form.
//!
//! Knows neither the time-zone database nor the clock: whether `time_zone` exists is for whoever compiles
//! the document to say.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use crate::money::{self, Currency};

/// Largest document, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 65_536;
/// Longest `name`, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Most tier levels.
pub const LEVELS_MAX: usize = 20;
/// Longest name of a tier level, in characters.
pub const LEVEL_NAME_CHARS_MAX: usize = 64;
/// Highest threshold of a tier level, in minor units.
pub const THRESHOLD_MINOR_MAX: i64 = 1_000_000_000_000_000;
/// Decimals of a multiplier.
pub const MULTIPLIER_DIGITS: u8 = 4;
/// The multiplier 1, in the unit in which multipliers are kept: ten-thousandths.
pub const MULTIPLIER_ONE: u32 = 10_000;
/// The highest multiplier (100), in ten-thousandths.
pub const MULTIPLIER_MAX: u32 = 100 * MULTIPLIER_ONE;
/// Longest `expiry.days`.
pub const EXPIRY_DAYS_MAX: u32 = 36_500;
/// Longest `expiry.months`.
pub const EXPIRY_MONTHS_MAX: u32 = 1_200;
/// Longest `pending.days`.
pub const PENDING_DAYS_MAX: u32 = 3_650;
/// Deepest debt floor, in points (the floor is its negative).
pub const DEBT_POINTS_MAX: i64 = 1_000_000_000_000;
/// Longest time to live of a hold, in seconds.
pub const HOLD_TTL_SECONDS_MAX: u32 = 31_536_000;
/// Longest `late_days_max`.
pub const LATE_DAYS_MAX: u32 = 36_500;
/// The time to live of a hold that names none, where the document names none and permits as much.
pub const HOLD_TTL_SECONDS_DEFAULT: u32 = 900;
/// The longest time to live of a hold where the document names none.
pub const HOLD_TTL_SECONDS_LIMIT_DEFAULT: u32 = 604_800;
/// `late_days_max` where the document names none.
pub const LATE_DAYS_DEFAULT: u32 = 30;

/// The program of an open node's request that names none.
pub const BUILT_IN_NAME: &str = "default";
/// The document of the built-in program.
pub const BUILT_IN_DOCUMENT: &str = r#"{
  "name": "default",
  "time_zone": "Asia/Jakarta",
  "currency": "IDR",
  "earning": {"points": 1, "per_amount": "1000.00", "rounding": "down"},
  "tiers": {
    "window": "calendar_year",
    "levels": [
      {"name": "BRONZE", "from": "0.00", "multiplier": "1"},
      {"name": "SILVER", "from": "5000001.00", "multiplier": "1.25"},
      {"name": "GOLD", "from": "15000001.00", "multiplier": "1.5"},
      {"name": "PLATINUM", "from": "50000001.00", "multiplier": "2"}
    ]
  },
  "expiry": {"months": 12, "round_to": "end_of_month"}
}"#;

/// Why bytes are not a program document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{detail}", field, if field.is_empty() { "" } else { " " })]
pub struct DocumentError {
    /// Dotted path of the member, such as `tiers.levels[1].from`; empty when it is the document as a whole.
    pub field: String,
    /// What it must be, to be read after the path.
    pub detail: String,
}

/// A program's rules. Two documents are the same document exactly when they are equal, which is when
/// their canonical forms are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// A label of 1 to [`NAME_BYTES_MAX`] bytes without control characters.
    pub name: String,
    /// Name in the IANA time-zone database, which decides days, months and years.
    pub time_zone: String,
    /// The currency of every amount.
    pub currency: Currency,
    /// How an amount becomes points.
    pub earning: Earning,
    /// Levels and the spend that reaches them.
    pub tiers: Tiers,
    /// When awarded points are gone.
    pub expiry: Expiry,
    /// Days after which awarded points become available; 0 means at once.
    pub pending_days: u32,
    /// What happens when a reversal or negative adjustment takes more than there is.
    pub negative_balance: NegativeBalance,
    /// Times to live of holds.
    pub holds: Holds,
    /// How many days ago `occurred_at` may be; `None` accepts any age.
    pub late_days_max: Option<u32>,
    /// Whether the first earn opens an account.
    pub auto_enroll: bool,
}

/// `points` for each `per_amount_minor`, times the tier's multiplier, rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earning {
    /// 1 to [`money::POINTS_MAX`].
    pub points: i64,
    /// 1 to [`money::AMOUNT_MINOR_MAX`] minor units.
    pub per_amount_minor: i64,
    /// How the exact award becomes whole points.
    pub rounding: Rounding,
}

/// How a fraction of a point is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Towards 0.
    Down,
    /// To the nearest, a half up.
    HalfUp,
    /// To the nearest, a half to the even neighbour.
    HalfEven,
    /// Away from 0.
    Up,
}

/// Tier levels, of which there is always one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers {
    /// Which spend counts.
    pub window: Window,
    /// Ascending by threshold, the first from 0.
    pub levels: Vec<Level>,
}

/// Which months' spend decides the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// All of it.
    Lifetime,
    /// Last calendar year's, or this one's so far, whichever reaches higher.
    CalendarYear,
    /// This month's and that of the twelve months before.
    Rolling12Months,
}

/// One tier level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// 1 to [`LEVEL_NAME_CHARS_MAX`] characters without control characters, unique in the program.
    pub name: String,
    /// The lowest qualifying spend of this level, in minor units.
    pub from_minor: i64,
    /// 0 to [`MULTIPLIER_MAX`], in ten-thousandths.
    pub multiplier: u32,
}

/// When awarded points are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    None,
    /// A number of days after the award, 1 to [`EXPIRY_DAYS_MAX`].
    Days(u32, RoundTo),
    /// A number of months after the award, 1 to [`EXPIRY_MONTHS_MAX`].
    Months(u32, RoundTo),
}

/// To what the last day of awarded points is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundTo {
    /// Not moved.
    Day,
    /// The last day of its month.
    EndOfMonth,
    /// The last day of its quarter.
    EndOfQuarter,
    /// The last day of its year.
    EndOfYear,
}

/// What happens when a reversal or negative adjustment takes more than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegativeBalance {
    /// No available balance goes below 0.
    Refuse,
    /// Available balances may go down to the floor, −[`DEBT_POINTS_MAX`] to 0 points.
    Debt(i64),
}

impl NegativeBalance {
    /// The lowest available balance, 0 or negative, in points.
    pub fn floor(self) -> i64 {
        match self {
            Self::Refuse => 0,
            Self::Debt(floor) => floor,
        }
    }
}

/// Times to live of holds, 1 to [`HOLD_TTL_SECONDS_MAX`] seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holds {
    /// Of a hold that names none; not above the longest.
    pub default_ttl_seconds: u32,
    /// The longest that a hold may ask for.
    pub max_ttl_seconds: u32,
}

/// An enum whose values the document names by fixed words.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];
}

impl Word for Rounding {
    const WORDS: &'static [(&'static str, Self)] =
        &[("down", Self::Down), ("half_up", Self::HalfUp), ("half_even", Self::HalfEven), ("up", Self::Up)];
}

impl Word for Window {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("lifetime", Self::Lifetime),
        ("calendar_year", Self::CalendarYear),
        ("rolling_12_months", Self::Rolling12Months),
    ];
}

impl Word for RoundTo {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("day", Self::Day),
        ("end_of_month", Self::EndOfMonth),
        ("end_of_quarter", Self::EndOfQuarter),
        ("end_of_year", Self::EndOfYear),
    ];
}

fn word<T: Word>(value: T) -> &'static str {
    T::WORDS.iter().find(|(_, v)| *v == value).map_or("", |(w, _)| w)
}

impl Rounding {
    /// The word that the document and explanations use.
    pub fn as_str(self) -> &'static str {
        word(self)
    }
}

/// The text of a multiplier in ten-thousandths, without trailing zeros: `1`, `1.25`, `0.0001`.
pub fn format_multiplier(multiplier: u32) -> String {
    let mut text = money::format_minor(i64::from(multiplier), MULTIPLIER_DIGITS);
    let kept = text.trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(kept);
    text
}

impl Document {
    /// Parses a document strictly.
    ///
    /// # Errors
    /// The first member that is unknown, given twice, missing, of a wrong type or out of its range.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        parse::document(json)
    }

    /// The index of the level with this name.
    pub fn level_named(&self, name: &str) -> Option<usize> {
        self.tiers.levels.iter().position(|level| level.name == name)
    }

    /// The canonical form: compact, members in a fixed order, defaults written out, amounts and
    /// multipliers as strings. Parses to an equal document.
    pub fn to_canonical_json(&self) -> String {
        let mut out = String::with_capacity(512);
        // Writing to a string cannot fail.
        let _ = self.write_canonical(&mut out);
        out
    }

    fn write_canonical(&self, out: &mut String) -> std::fmt::Result {
        let amount = |minor| money::format_minor(minor, self.currency.minor_digits);
        write!(out, r#"{{"name":{},"time_zone":{}"#, quoted(&self.name), quoted(&self.time_zone))?;
        write!(out, r#","currency":"{}","earning":{{"points":{}"#, self.currency.code(), self.earning.points)?;
        let per_amount = amount(self.earning.per_amount_minor);
        write!(out, r#","per_amount":"{per_amount}","rounding":"{}"}}"#, word(self.earning.rounding))?;
        write!(out, r#","tiers":{{"window":"{}","levels":["#, word(self.tiers.window))?;
        for (index, level) in self.tiers.levels.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let (name, from) = (quoted(&level.name), amount(level.from_minor));
            let multiplier = format_multiplier(level.multiplier);
            write!(out, r#"{comma}{{"name":{name},"from":"{from}","multiplier":"{multiplier}"}}"#)?;
        }
        out.push_str("]}");
        match self.expiry {
            Expiry::None => out.push_str(r#","expiry":"none""#),
            Expiry::Days(days, round_to) => {
                write!(out, r#","expiry":{{"days":{days},"round_to":"{}"}}"#, word(round_to))?;
            }
            Expiry::Months(months, round_to) => {
                write!(out, r#","expiry":{{"months":{months},"round_to":"{}"}}"#, word(round_to))?;
            }
        }
        write!(out, r#","pending":{{"days":{}}}"#, self.pending_days)?;
        match self.negative_balance {
            NegativeBalance::Refuse => out.push_str(r#","negative_balance":{"policy":"refuse"}"#),
            NegativeBalance::Debt(floor) => {
                write!(out, r#","negative_balance":{{"policy":"debt","floor":{floor}}}"#)?;
            }
        }
        let Holds { default_ttl_seconds, max_ttl_seconds } = self.holds;
        write!(out, r#","holds":{{"default_ttl_seconds":{default_ttl_seconds}"#)?;
        write!(out, r#","max_ttl_seconds":{max_ttl_seconds}}}"#)?;
        match self.late_days_max {
            None => out.push_str(r#","late_days_max":null"#),
            Some(days) => write!(out, r#","late_days_max":{days}"#)?,
        }
        write!(out, r#","auto_enroll":{}}}"#, self.auto_enroll)
    }
}

/// A JSON string with its quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
