//! How a transaction came out as it did: the row and its `explanation`.

use super::answer::{Facts, write_row_open};
use super::json::{self, key};
use crate::outcome::ReversedSoFar;
use crate::program::{Document, Earning, MULTIPLIER_ONE};
use crate::record::{AmountAward, Detail, Move, Record};

/// Decimals up to which an unrounded value is shown as a decimal, if it is exact within them.
const UNROUNDED_DECIMALS_MAX: u32 = 12;

/// Appends one transaction: its row and its explanation. `reversed` is what was reversed of it so far.
pub fn write_transaction(out: &mut Vec<u8>, record: &Record, reversed: ReversedSoFar, facts: &impl Facts) {
    write_row_open(out, record, facts);
    let document = facts.document(record.program_version);
    let award = match &record.detail {
        Detail::Earn { award, .. } => award.as_ref(),
        _ => None,
    };
    json::raw(out, concat!(key!("explanation"), "{\"program_version\":"));
    json::integer(out, record.program_version);
    match award {
        Some(award) => write_rule(out, award, document),
        None => json::raw(
            out,
            concat!(
                key!("applied_tier"),
                "null",
                key!("applied_multiplier"),
                "null",
                key!("unrounded_points"),
                "null",
                key!("rounding"),
                "null"
            ),
        ),
    }
    json::raw(out, concat!(key!("lots"), "["));
    for (index, m) in record.moves.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_move(out, m);
    }
    out.push(b']');
    if let Some(spend) = record.spend {
        json::raw(out, concat!(key!("qualifying_spend"), "{\"month\":\""));
        let (year, month) = (spend.month.div_euclid(12), spend.month.rem_euclid(12) + 1);
        json::raw(out, &format!("{year:04}-{month:02}"));
        json::raw(out, concat!("\"", key!("amount")));
        json::amount(out, spend.amount, document.currency.minor_digits);
        out.push(b'}');
    }
    json::raw(out, key!("reversed_points"));
    json::integer(out, reversed.points);
    json::raw(out, key!("reversed_amount"));
    match award {
        Some(_) => json::amount(out, reversed.amount, document.currency.minor_digits),
        None => json::raw(out, "null"),
    }
    json::raw(out, "}}");
}

fn write_rule(out: &mut Vec<u8>, award: &AmountAward, document: &Document) {
    let earning = &document.earning;
    let level = document.tiers.levels.get(award.applied_tier as usize);
    json::raw(out, key!("applied_tier"));
    json::string_or_null(out, level.map(|level| level.name.as_str()));
    json::raw(out, key!("applied_multiplier"));
    json::multiplier(out, award.applied_multiplier);
    json::raw(out, concat!(key!("rule"), "{\"points\":"));
    json::integer(out, earning.points);
    json::raw(out, key!("per_amount"));
    json::amount(out, earning.per_amount_minor, document.currency.minor_digits);
    json::raw(out, concat!("}", key!("unrounded_points")));
    json::string(out, &unrounded_points(award, earning));
    json::raw(out, key!("rounding"));
    json::string(out, earning.rounding.as_str());
}

/// What an amount awarded before it was rounded.
fn unrounded_points(award: &AmountAward, earning: &Earning) -> String {
    // At most 10^12 × 10^12 × 10^6 by 10^16: far within 128 bits.
    let factor = |value: i64| u128::from(value.unsigned_abs());
    let numerator = factor(award.amount) * factor(earning.points) * u128::from(award.applied_multiplier);
    let denominator = factor(earning.per_amount_minor) * u128::from(MULTIPLIER_ONE);
    unrounded_text(numerator, denominator)
}

fn write_move(out: &mut Vec<u8>, m: &Move) {
    json::raw(out, "{\"change\":");
    json::string(out, m.op.name());
    json::raw(out, key!("points"));
    json::integer(out, m.points);
    json::raw(out, key!("expires_at"));
    json::instant_or_null(out, m.lot.expires_at);
    json::raw(out, key!("activates_at"));
    json::instant_or_null(out, m.lot.activates_at);
    out.push(b'}');
}

/// A quotient as text: an exact decimal without trailing zeros where 12 decimals are enough for that, else
/// a reduced fraction (`100/3`). The denominator is positive.
fn unrounded_text(numerator: u128, denominator: u128) -> String {
    let divisor = greatest_common_divisor(numerator, denominator).max(1);
    let (numerator, denominator) = (numerator / divisor, (denominator / divisor).max(1));
    let mut text = (numerator / denominator).to_string();
    let mut rest = numerator % denominator;
    for place in 0..UNROUNDED_DECIMALS_MAX {
        if rest == 0 {
            return text;
        }
        if place == 0 {
            text.push('.');
        }
        let Some(shifted) = rest.checked_mul(10) else { break };
        text.push(char::from(b'0' + (shifted / denominator) as u8));
        rest = shifted % denominator;
    }
    if rest == 0 { text } else { format!("{numerator}/{denominator}") }
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::program::Rounding;

    #[test]
    fn the_rule_and_the_multiplier_are_in_the_unrounded_points() {
        let unrounded = |amount, per_amount_minor, applied_multiplier| {
            let earning = Earning { points: 1, per_amount_minor, rounding: Rounding::Down };
            unrounded_points(&AmountAward { amount, applied_tier: 0, applied_multiplier }, &earning)
        };
        // 1,999.00 at 1 point per 1,000, ×1.25: 2.49875, not 1.25 times 1.
        assert_eq!(unrounded(199_900, 100_000, 12_500), "2.49875");
        assert_eq!(unrounded(199_900, 100_000, 0), "0");
        assert_eq!(unrounded(199_900, 100_000, 1), "0.0001999");
        // 150,000.00 at SILVER of the built-in program: 150 × 1.25.
        assert_eq!(unrounded(15_000_000, 100_000, 12_500), "187.5");
        assert_eq!(unrounded(100, 3, MULTIPLIER_ONE), "100/3");
    }

    #[test]
    fn unrounded_values_are_exact() {
        let table = [
            (0, 7, "0"),
            (100, 4, "25"),
            (1, 4, "0.25"),
            (200, 6, "100/3"),
            (1, 4_096, "0.000244140625"),
            (1, 8_192, "1/8192"),
            (1, 1_000_000_000_000, "0.000000000001"),
            (1, 10_000_000_000_000, "1/10000000000000"),
            (u128::MAX, 1, "340282366920938463463374607431768211455"),
            (1, u128::MAX, "1/340282366920938463463374607431768211455"),
        ];
        for (numerator, denominator, text) in table {
            assert_eq!(unrounded_text(numerator, denominator), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_text_is_the_value(numerator in 0..10u128.pow(20), denominator in prop_oneof![1..=1_000_000u64, 1..=1_000u64, prop::sample::select(vec![2, 4, 8, 50, 20_000])]) {
            let denominator = u128::from(denominator);
            let text = unrounded_text(numerator, denominator);
            if let Some((n, d)) = text.split_once('/') {
                let (n, d): (u128, u128) = (n.parse().unwrap(), d.parse().unwrap());
                prop_assert_eq!(n * denominator, numerator * d);
                prop_assert!(!(10u128.pow(12) * numerator).is_multiple_of(denominator));
            } else {
                let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
                prop_assert!(fraction.len() <= 12 && !fraction.ends_with('0'));
                let n: u128 = format!("{whole}{fraction}").parse().unwrap();
                prop_assert_eq!(n * denominator, numerator * 10u128.pow(fraction.len() as u32));
            }
        }
    }
}
