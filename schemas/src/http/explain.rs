//! How a transaction came out as it did: the row and its `explanation`.

use super::answer::{Facts, write_row_open};
use super::json::{self, key};
use crate::outcome::ReversedSoFar;
use crate::program::{Document, MULTIPLIER_ONE};
use crate::record::{AmountAward, Detail, Move, MoveOp, Record};

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
    // At most 10^12 × 10^12 × 10^6 by 10^16: far within 128 bits.
    let factor = |value: i64| u128::from(value.unsigned_abs());
    let numerator = factor(award.amount) * factor(earning.points) * u128::from(award.applied_multiplier);
    let denominator = factor(earning.per_amount_minor) * u128::from(MULTIPLIER_ONE);
    json::string(out, &unrounded_text(numerator, denominator));
    json::raw(out, key!("rounding"));
    json::string(out, earning.rounding.as_str());
}

fn write_move(out: &mut Vec<u8>, m: &Move) {
    json::raw(out, "{\"change\":");
    json::string(out, change(m.op));
    json::raw(out, key!("points"));
    json::integer(out, m.points);
    json::raw(out, key!("expires_at"));
    json::instant_or_null(out, m.lot.expires_at);
    json::raw(out, key!("activates_at"));
    json::instant_or_null(out, m.lot.activates_at);
    out.push(b'}');
}

/// The word for a move.
pub(crate) fn change(op: MoveOp) -> &'static str {
    match op {
        MoveOp::Grant => "granted",
        MoveOp::Activate => "activated",
        MoveOp::Burn => "taken",
        MoveOp::Hold => "held",
        MoveOp::Release => "released",
        MoveOp::Capture => "captured",
        MoveOp::Expire => "expired",
        MoveOp::CountExpired => "expired_before",
        MoveOp::PayDebt => "paid_debt",
        MoveOp::Owe => "owed",
    }
}

/// A quotient as text: an exact decimal without trailing zeros where 12 decimals are enough for that, else
/// a reduced fraction (`100/3`). The denominator is positive.
pub fn unrounded_text(numerator: u128, denominator: u128) -> String {
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
    use super::*;

    #[test]
    fn unrounded_values_are_exact() {
        for (numerator, denominator, text) in
            [(0, 7, "0"), (100, 4, "25"), (1, 4, "0.25"), (200, 6, "100/3"), (1, 4_096, "0.000244140625")]
        {
            assert_eq!(unrounded_text(numerator, denominator), text);
        }
        assert_eq!(unrounded_text(1, 8_192), "1/8192");
    }
}
