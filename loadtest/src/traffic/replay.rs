//! Purchases of a file as till sales: whose, how much, and when on the load's own clock.

use meed_schemas::time::days_from_civil;
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::scenario::{ACCOUNTS_MAX, Replay};
use crate::schedule::Random;

const CDNOW: &str = include_str!("../../../benches/data/cdnow-sample.txt");
const DAY_MS: i64 = 86_400_000;
const DAY_NS: u64 = 1_000_000_000;
/// Noon in New York, in summer and in winter on the same day.
const SALE_HOUR_MS: i64 = 17 * 3_600_000;

/// One sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purchase {
    /// The customer's number.
    pub(crate) account: u32,
    pub(crate) amount_minor: u64,
    /// When it was, milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// When it is due, from the begin of the load.
    pub(crate) due_ns: u64,
}

/// The purchases of a file in order of time. A file tells the day; within it the seed spreads them evenly.
///
/// # Errors
/// The file cannot be read, or a line is no purchase: full id, customer, YYYYMMDD, count, dollars with two decimals.
pub(crate) fn purchases(replay: &Replay, seed: u64) -> Result<Vec<Purchase>, Fault> {
    let text = match replay.file.as_str() {
        "cdnow" => CDNOW.to_owned(),
        path => std::fs::read_to_string(path).map_err(|error| Fault::failed(path, error))?,
    };
    let mut random = Random::new(seed);
    let mut purchases = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (account, day, amount_minor) = parse(line)
            .ok_or_else(|| Fault::Usage(format!("{}: line {} is no purchase: {line}", replay.file, index + 1)))?;
        if account >= ACCOUNTS_MAX {
            let (file, line) = (&replay.file, index + 1);
            return Err(Fault::Usage(format!("{file}: line {line}: a customer's number must be below {ACCOUNTS_MAX}")));
        }
        let due_ns = random.below(DAY_NS);
        purchases.push(Purchase { account, amount_minor, at_ms: day * DAY_MS + SALE_HOUR_MS, due_ns });
    }
    let first = purchases.iter().map(|purchase| purchase.at_ms).min();
    let first = first.ok_or_else(|| Fault::Usage(format!("{} holds no purchase", replay.file)))?;
    for purchase in &mut purchases {
        let days = u64::try_from((purchase.at_ms - first) / DAY_MS).unwrap_or(0);
        purchase.due_ns = (days * DAY_NS + purchase.due_ns) / u64::from(replay.days_per_second);
    }
    purchases.sort_by_key(|purchase| purchase.due_ns);
    Ok(purchases)
}

fn parse(line: &str) -> Option<(u32, i64, u64)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let &[_, customer, date, _, dollars] = columns.as_slice() else { return None };
    let (whole, cents) = dollars.split_once('.').filter(|(_, cents)| cents.len() == 2)?;
    let date: u32 = date.parse().ok().filter(|_| date.len() == 8)?;
    let (year, month, day) = (date / 10_000, date / 100 % 100, date % 100);
    let good = (1..=12).contains(&month) && (1..=31).contains(&day);
    let amount = whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(cents.parse().ok()?)?;
    good.then_some((customer.parse().ok()?, days_from_civil(i64::from(year), month, day), amount))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_beyond_all_accounts_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sales");
        std::fs::write(&path, " 1 19999999 19970101 1 5.00\n 2 20000000 19970101 1 5.00\n").unwrap();
        let replay = Replay { file: path.to_str().unwrap().into(), days_per_second: 1 };
        let message = purchases(&replay, 1).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("below 20000000"), "{message}");
    }

    #[test]
    fn the_sample_is_whole_and_in_order() {
        let found = purchases(&Replay { file: "cdnow".into(), days_per_second: 10 }, 1).unwrap();
        assert_eq!(found.len(), 6_919);
        assert_eq!(found.iter().map(|purchase| purchase.account).max(), Some(2_357));
        assert!(found.is_sorted_by_key(|purchase| purchase.due_ns));
        assert_eq!(found[0].due_ns / DAY_NS, 0);
        // 1 January 1997 to 30 June 1998 is 546 days.
        assert_eq!(found.last().unwrap().due_ns / DAY_NS, 54);
        assert!(parse(" 00004 0001 19970101  2   29.33").is_some());
        for wrong in ["", "a b c", "1 0001 19971301 2 29.33", "1 0001 19970101 2 29.3", "1 0001 970101 2 29.33"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
