//! The purchases as till sales, in the orders in which they are sent.

use super::calendar::{Date, utc_ms, utc_text};
use super::naive::decimal;

pub(crate) const PURCHASES: usize = 6_919;
pub(crate) const CUSTOMERS: usize = 2_357;

/// One purchase as a till sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sale {
    pub(crate) customer: String,
    pub(crate) occurred_ms: i64,
    pub(crate) cents: i128,
    /// The line of the request.
    pub(crate) line: String,
}

/// The file's purchases, so many months later, at a time of day in UTC. A day that a month may lack becomes the 28th.
pub(crate) fn sales(months_later: i64, hours: i64, minutes: i64) -> Vec<Sale> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/data/cdnow-sample.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let sale = |(index, line): (usize, &str)| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [_, customer, day, _, dollars] = columns[..] else { panic!("{line}") };
        let part = |range: std::ops::Range<usize>| day[range].parse::<i64>().unwrap();
        let date = Date { year: part(0..4), month: part(4..6), day: part(6..8) };
        let date =
            if months_later == 0 { date } else { Date { day: date.day.min(28), ..date }.plus_months(months_later) };
        let occurred_ms = utc_ms(date, hours, minutes);
        let key = format!("{}-{customer}", index + 1);
        let line = serde_json::json!({
            "store_id": "cdnow", "transaction_id": key, "user_identifier": format!("c-{customer}"),
            "amount": dollars, "timestamp": utc_text(occurred_ms), "currency": "USD"
        });
        Sale { customer: format!("c-{customer}"), occurred_ms, cents: decimal(dollars, 2), line: format!("{line}\n") }
    };
    let sales: Vec<Sale> = text.lines().enumerate().map(sale).collect();
    assert_eq!(sales.len(), PURCHASES);
    sales
}

/// SplitMix64: a seed gives the same numbers on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

fn by_customer(sales: &[Sale]) -> Vec<&[Sale]> {
    sales.chunk_by(|left, right| left.customer == right.customer).collect()
}

/// Customers in a random order, each one's sales together.
pub(crate) fn shuffled(sales: &[Sale], random: &mut Random) -> Vec<Sale> {
    let mut customers = by_customer(sales);
    for last in (1..customers.len()).rev() {
        customers.swap(last, random.below(last + 1));
    }
    customers.concat()
}

/// The sales of all customers mixed at random; each one's own stay in the order of time.
pub(crate) fn mixed(sales: &[Sale], random: &mut Random) -> Vec<Sale> {
    let mut customers = by_customer(sales);
    let mut mixed = Vec::new();
    while !customers.is_empty() {
        let chosen = random.below(customers.len());
        let (first, rest) = customers[chosen].split_first().unwrap();
        mixed.push(first.clone());
        customers[chosen] = rest;
        if rest.is_empty() {
            customers.swap_remove(chosen);
        }
    }
    mixed
}

/// In parts of random sizes of up to `most` sales.
pub(crate) fn parts<'a>(mut sales: &'a [Sale], most: usize, random: &mut Random) -> Vec<&'a [Sale]> {
    let mut parts = Vec::new();
    while !sales.is_empty() {
        let (part, rest) = sales.split_at(sales.len().min(1 + random.below(most)));
        parts.push(part);
        sales = rest;
    }
    parts
}

pub(crate) fn lines(sales: &[Sale]) -> String {
    sales.iter().map(|sale| sale.line.as_str()).collect()
}
