//! The strict parser of the program document. Numbers are read from their text, never through a float.

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    DEBT_POINTS_MAX, DOCUMENT_BYTES_MAX, Document, DocumentError, EXPIRY_DAYS_MAX, EXPIRY_MONTHS_MAX, Earning, Expiry,
    HOLD_TTL_SECONDS_DEFAULT, HOLD_TTL_SECONDS_LIMIT_DEFAULT, HOLD_TTL_SECONDS_MAX, Holds, LATE_DAYS_DEFAULT,
    LATE_DAYS_MAX, LEVEL_NAME_CHARS_MAX, LEVELS_MAX, Level, MULTIPLIER_DIGITS, MULTIPLIER_MAX, MULTIPLIER_ONE,
    NAME_BYTES_MAX, NegativeBalance, PENDING_DAYS_MAX, RoundTo, Rounding, THRESHOLD_MINOR_MAX, Tiers, Window, Word,
};
use crate::money::{self, Currency};

type Result<T> = std::result::Result<T, DocumentError>;

fn refuse<T>(field: impl Into<String>, detail: impl Into<String>) -> Result<T> {
    Err(DocumentError { field: field.into(), detail: detail.into() })
}

/// Days of the shortest month: no expiry of n months comes before n times as many days.
const MONTH_DAYS_MIN: u32 = 28;

pub(super) fn document(json: &[u8]) -> Result<Document> {
    if json.len() > DOCUMENT_BYTES_MAX {
        return refuse("", format!("must be at most {DOCUMENT_BYTES_MAX} bytes long"));
    }
    let Ok(text) = std::str::from_utf8(json) else {
        return refuse("", "must be UTF-8");
    };
    let raw: &RawValue = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return refuse("", format!("must be a JSON document: {error}")),
    };
    let root = Object::open(
        Value { path: String::new(), raw },
        &[
            "name",
            "time_zone",
            "currency",
            "earning",
            "tiers",
            "expiry",
            "pending",
            "negative_balance",
            "holds",
            "late_days_max",
            "auto_enroll",
        ],
    )?;
    let name = root.require("name")?.label(NAME_BYTES_MAX, str::len, "bytes")?;
    let time_zone = root.require("time_zone")?.label(NAME_BYTES_MAX, str::len, "bytes")?;
    let currency = currency(&root.require("currency")?)?;
    let earning = earning(root.require("earning")?, currency)?;
    let tiers = root.get("tiers").map_or_else(|| Ok(one_level()), |value| tiers(value, currency))?;
    let expiry = root.get("expiry").map_or(Ok(Expiry::None), expiry)?;
    let pending_days = root.get("pending").map_or(Ok(0), pending)?;
    check_pending(pending_days, expiry)?;
    Ok(Document {
        name,
        time_zone,
        currency,
        earning,
        tiers,
        expiry,
        pending_days,
        negative_balance: root.get("negative_balance").map_or(Ok(NegativeBalance::Refuse), negative_balance)?,
        holds: holds(root.get("holds"))?,
        late_days_max: match root.get_or_null("late_days_max") {
            None => Some(LATE_DAYS_DEFAULT),
            Some(value) if value.is_null() => None,
            Some(value) => Some(value.small(0..=LATE_DAYS_MAX, " or null")?),
        },
        auto_enroll: root.get("auto_enroll").map_or(Ok(true), |value| value.boolean())?,
    })
}

fn currency(value: &Value<'_>) -> Result<Currency> {
    match Currency::from_code(&value.string()?) {
        Some(currency) => Ok(currency),
        None => value.refuse("must be an upper-case ISO 4217 code"),
    }
}

fn earning(value: Value<'_>, currency: Currency) -> Result<Earning> {
    let object = Object::open(value, &["points", "per_amount", "rounding"])?;
    Ok(Earning {
        points: object.require("points")?.integer(1..=money::POINTS_MAX, "")?,
        per_amount_minor: object.require("per_amount")?.amount(currency, 1..=money::AMOUNT_MINOR_MAX)?,
        rounding: object.get("rounding").map_or(Ok(Rounding::Down), |value| value.word())?,
    })
}

fn one_level() -> Tiers {
    let level = Level { name: "BASE".to_owned(), from_minor: 0, multiplier: MULTIPLIER_ONE };
    Tiers { window: Window::Lifetime, levels: vec![level] }
}

fn tiers(value: Value<'_>, currency: Currency) -> Result<Tiers> {
    let object = Object::open(value, &["window", "levels"])?;
    let window = object.get("window").map_or(Ok(Window::Rolling12Months), |value| value.word())?;
    let list = object.require("levels")?;
    let values = list.array()?;
    if values.is_empty() || values.len() > LEVELS_MAX {
        return list.refuse(format!("must have 1 to {LEVELS_MAX} levels"));
    }
    let mut levels: Vec<Level> = Vec::with_capacity(values.len());
    for value in values {
        let object = Object::open(value, &["name", "from", "multiplier"])?;
        let name_value = object.require("name")?;
        let name = name_value.label(LEVEL_NAME_CHARS_MAX, |text| text.chars().count(), "characters")?;
        if levels.iter().any(|level| level.name == name) {
            return name_value.refuse("must differ from the names of the other levels");
        }
        let from_value = object.require("from")?;
        let from_minor = from_value.amount(currency, 0..=THRESHOLD_MINOR_MAX)?;
        match levels.last() {
            None if from_minor != 0 => return from_value.refuse("must be 0 for the first level"),
            Some(below) if from_minor <= below.from_minor => {
                return from_value.refuse("must be above that of the level before");
            }
            _ => {}
        }
        let multiplier = object.require("multiplier")?.multiplier()?;
        levels.push(Level { name, from_minor, multiplier });
    }
    Ok(Tiers { window, levels })
}

fn expiry(value: Value<'_>) -> Result<Expiry> {
    const ONE_OF: &str = "must be \"none\" or an object with either \"days\" or \"months\"";
    if value.is_string() {
        return if value.string()? == "none" { Ok(Expiry::None) } else { value.refuse(ONE_OF) };
    }
    let path = value.path.clone();
    let object = Object::open(value, &["days", "months", "round_to"])?;
    let round_to = object.get("round_to").map(|value| value.word()).transpose()?;
    match (object.get("days"), object.get("months")) {
        (Some(days), None) => Ok(Expiry::Days(days.small(1..=EXPIRY_DAYS_MAX, "")?, round_to.unwrap_or(RoundTo::Day))),
        (None, Some(months)) => {
            let round_to = round_to.unwrap_or(RoundTo::EndOfMonth);
            Ok(Expiry::Months(months.small(1..=EXPIRY_MONTHS_MAX, "")?, round_to))
        }
        _ => refuse(path, ONE_OF),
    }
}

fn pending(value: Value<'_>) -> Result<u32> {
    let object = Object::open(value, &["days"])?;
    object.get("days").map_or(Ok(0), |value| value.small(0..=PENDING_DAYS_MAX, ""))
}

/// Points must become available before they expire, whatever the day of the award.
fn check_pending(pending_days: u32, expiry: Expiry) -> Result<()> {
    let days_max = match expiry {
        Expiry::None => return Ok(()),
        Expiry::Days(days, _) => days,
        Expiry::Months(months, _) => months * MONTH_DAYS_MIN,
    };
    if pending_days > days_max {
        let detail = format!("must be at most {days_max} with this expiry: points would expire while pending");
        return refuse("pending.days", detail);
    }
    Ok(())
}

fn negative_balance(value: Value<'_>) -> Result<NegativeBalance> {
    const ONE_OF: &str = "must be \"refuse\" or \"debt\"";
    if value.is_string() {
        return if value.string()? == "refuse" {
            Ok(NegativeBalance::Refuse)
        } else {
            value.refuse("must be {\"policy\":\"refuse\"} or {\"policy\":\"debt\",\"floor\":…}")
        };
    }
    let object = Object::open(value, &["policy", "floor"])?;
    let policy = object.require("policy")?;
    match policy.string()?.as_str() {
        "refuse" => match object.get("floor") {
            Some(floor) => floor.refuse("is only for the policy \"debt\""),
            None => Ok(NegativeBalance::Refuse),
        },
        "debt" => Ok(NegativeBalance::Debt(object.require("floor")?.integer(-DEBT_POINTS_MAX..=0, "")?)),
        _ => policy.refuse(ONE_OF),
    }
}

fn holds(value: Option<Value<'_>>) -> Result<Holds> {
    let object = value.map(|value| Object::open(value, &["default_ttl_seconds", "max_ttl_seconds"])).transpose()?;
    let seconds = |name| {
        let value = object.as_ref().and_then(|object| object.get(name));
        value.map(|value| value.small(1..=HOLD_TTL_SECONDS_MAX, "")).transpose()
    };
    let max_ttl_seconds = seconds("max_ttl_seconds")?.unwrap_or(HOLD_TTL_SECONDS_LIMIT_DEFAULT);
    let default_ttl_seconds = seconds("default_ttl_seconds")?.unwrap_or(HOLD_TTL_SECONDS_DEFAULT.min(max_ttl_seconds));
    if default_ttl_seconds > max_ttl_seconds {
        let detail = format!("must be at most max_ttl_seconds, which is {max_ttl_seconds}");
        return refuse("holds.default_ttl_seconds", detail);
    }
    Ok(Holds { default_ttl_seconds, max_ttl_seconds })
}

/// A JSON text and where in the document it stands.
struct Value<'a> {
    path: String,
    raw: &'a RawValue,
}

impl<'a> Value<'a> {
    fn refuse<T>(&self, detail: impl Into<String>) -> Result<T> {
        refuse(self.path.clone(), detail)
    }

    fn is_null(&self) -> bool {
        self.raw.get() == "null"
    }

    fn is_string(&self) -> bool {
        self.raw.get().starts_with('"')
    }

    fn is_number(&self) -> bool {
        self.raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit())
    }

    fn boolean(&self) -> Result<bool> {
        match self.raw.get() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => self.refuse("must be true or false"),
        }
    }

    fn string(&self) -> Result<String> {
        if !self.is_string() {
            return self.refuse("must be a string");
        }
        // Fails on what only a decoder notices, such as half of a surrogate pair.
        match serde_json::from_str(self.raw.get()) {
            Ok(text) => Ok(text),
            Err(error) => self.refuse(format!("must be a JSON string: {error}")),
        }
    }

    fn label(&self, length_max: usize, length: fn(&str) -> usize, unit: &str) -> Result<String> {
        let text = self.string()?;
        if text.is_empty() || length(&text) > length_max || text.chars().any(char::is_control) {
            return self.refuse(format!("must have 1 to {length_max} {unit}, none of them a control character"));
        }
        Ok(text)
    }

    fn word<T: Word>(&self) -> Result<T> {
        let text = if self.is_string() { self.string()? } else { String::new() };
        match T::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<_> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                self.refuse(format!("must be one of {}", words.join(", ")))
            }
        }
    }

    /// An integer literal: `5`, never `5.0`, `5e0` or `"5"`. `otherwise` says what else is possible.
    fn integer(&self, range: RangeInclusive<i64>, otherwise: &str) -> Result<i64> {
        // A literal with a fraction or exponent does not parse, and neither does a JSON string.
        match self.raw.get().parse::<i64>() {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => self.refuse(format!("must be an integer from {} to {}{otherwise}", range.start(), range.end())),
        }
    }

    fn small(&self, range: RangeInclusive<u32>, otherwise: &str) -> Result<u32> {
        let value = self.integer(i64::from(*range.start())..=i64::from(*range.end()), otherwise)?;
        Ok(u32::try_from(value).unwrap_or(*range.end()))
    }

    /// The text of a decimal: that of a number as it stands, or the content of a string.
    fn decimal_text(&self) -> Result<Option<String>> {
        if self.is_number() {
            return Ok(Some(self.raw.get().to_owned()));
        }
        if self.is_string() { self.string().map(Some) } else { Ok(None) }
    }

    fn amount(&self, currency: Currency, range: RangeInclusive<i64>) -> Result<i64> {
        let digits = currency.minor_digits;
        let minor = self.decimal_text()?.and_then(|text| money::parse_minor(&text, digits));
        match minor.filter(|minor| range.contains(minor)) {
            Some(minor) => Ok(minor),
            None => self.refuse(format!(
                "must be an amount from {} to {} in plain notation with at most {digits} decimals",
                money::format_minor(*range.start(), digits),
                money::format_minor(*range.end(), digits),
            )),
        }
    }

    fn multiplier(&self) -> Result<u32> {
        let value = self.decimal_text()?.and_then(|text| money::parse_minor(&text, MULTIPLIER_DIGITS));
        match value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value <= MULTIPLIER_MAX) {
            Some(value) => Ok(value),
            None => self.refuse(format!(
                "must be from 0 to {} in plain notation with at most {MULTIPLIER_DIGITS} decimals",
                MULTIPLIER_MAX / MULTIPLIER_ONE
            )),
        }
    }

    /// The elements. They are counted only after reading; the bytes of a document bound them.
    fn array(&self) -> Result<Vec<Value<'a>>> {
        let Ok(raws) = serde_json::from_str::<Vec<&RawValue>>(self.raw.get()) else {
            return self.refuse("must be an array");
        };
        let element = |(index, raw)| Value { path: format!("{}[{index}]", self.path), raw };
        Ok(raws.into_iter().enumerate().map(element).collect())
    }
}

/// The members of a JSON object, each known and given once.
struct Object<'a> {
    path: String,
    members: Vec<(&'static str, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn open(value: Value<'a>, known: &'static [&'static str]) -> Result<Self> {
        if !value.raw.get().starts_with('{') {
            return value.refuse("must be a JSON object");
        }
        let mut problem = None;
        let visitor = MemberVisitor { known, problem: &mut problem };
        match serde_json::Deserializer::from_str(value.raw.get()).deserialize_map(visitor) {
            Ok(members) => Ok(Self { path: value.path, members }),
            Err(error) => match problem {
                Some((name, detail)) => refuse(join(&value.path, &name), detail),
                None => value.refuse(format!("must be a JSON object: {error}")),
            },
        }
    }

    /// A member; `null` is the same as absent.
    fn get(&self, name: &'static str) -> Option<Value<'a>> {
        self.get_or_null(name).filter(|value| !value.is_null())
    }

    fn get_or_null(&self, name: &'static str) -> Option<Value<'a>> {
        let (_, raw) = self.members.iter().find(|(member, _)| *member == name)?;
        Some(Value { path: join(&self.path, name), raw })
    }

    fn require(&self, name: &'static str) -> Result<Value<'a>> {
        match self.get(name) {
            Some(value) => Ok(value),
            None => refuse(join(&self.path, name), "is required"),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Collects members, and stops at the first that is unknown or given twice. serde's errors carry only a
/// text, so the member's name leaves through `problem`.
struct MemberVisitor<'p> {
    known: &'static [&'static str],
    problem: &'p mut Option<(String, &'static str)>,
}

impl<'a> Visitor<'a> for MemberVisitor<'_> {
    type Value = Vec<(&'static str, &'a RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(self.known.len());
        while let Some(key) = map.next_key::<String>()? {
            let Some(name) = self.known.iter().find(|name| **name == key) else {
                *self.problem = Some((key, "is not a known member"));
                return Err(A::Error::custom("unknown member"));
            };
            if members.iter().any(|(member, _)| member == name) {
                *self.problem = Some((key, "is given twice"));
                return Err(A::Error::custom("duplicate member"));
            }
            members.push((*name, map.next_value::<&'a RawValue>()?));
        }
        Ok(members)
    }
}
