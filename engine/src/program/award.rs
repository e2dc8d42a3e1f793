//! Points for an amount: exact rationals, rounded once.

use meed_schemas::money::POINTS_MAX;
use meed_schemas::program::{Earning, MULTIPLIER_ONE, Rounding};

/// An amount would award more than [`POINTS_MAX`] points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwardTooLarge;

/// The points for an amount: `amount × points × multiplier / per_amount`, rounded once by the rule, 0 to
/// [`POINTS_MAX`]. The multiplier is in ten-thousandths; an amount below 0 counts as 0.
///
/// # Errors
/// When it comes to more than [`POINTS_MAX`] points.
pub fn award(amount_minor: i64, earning: &Earning, multiplier: u32) -> Result<i64, AwardTooLarge> {
    let factor = |value: i64| u128::from(value.max(0).unsigned_abs());
    // A document bounds points by 10^12 and multipliers by 10^6: below 10^37 for any amount.
    let numerator = factor(amount_minor)
        .checked_mul(factor(earning.points))
        .and_then(|product| product.checked_mul(u128::from(multiplier)))
        .ok_or(AwardTooLarge)?;
    let denominator = factor(earning.per_amount_minor).max(1) * u128::from(MULTIPLIER_ONE);
    let (whole, rest) = (numerator / denominator, numerator % denominator);
    let up = match earning.rounding {
        Rounding::Down => false,
        Rounding::Up => rest > 0,
        Rounding::HalfUp => rest * 2 >= denominator,
        Rounding::HalfEven => rest * 2 > denominator || (rest * 2 == denominator && whole % 2 == 1),
    };
    let points = i64::try_from(whole + u128::from(up)).ok().filter(|points| *points <= POINTS_MAX);
    points.ok_or(AwardTooLarge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const ROUNDINGS: [Rounding; 4] = [Rounding::Down, Rounding::HalfUp, Rounding::HalfEven, Rounding::Up];

    fn earning(points: i64, per_amount_minor: i64, rounding: Rounding) -> Earning {
        Earning { points, per_amount_minor, rounding }
    }

    #[test]
    fn one_rounding_by_the_rule() {
        // Amount (one point per 1.00, ×1), and what down, half_up, half_even and up make of it.
        let table = [
            (0, [0, 0, 0, 0]),
            (1, [0, 0, 0, 1]),
            (49, [0, 0, 0, 1]),
            (50, [0, 1, 0, 1]),
            (51, [0, 1, 1, 1]),
            (100, [1, 1, 1, 1]),
            (150, [1, 2, 2, 2]),
            (250, [2, 3, 2, 3]),
            (1_999, [19, 20, 20, 20]),
            (-5, [0, 0, 0, 0]),
        ];
        for (amount, expected) in table {
            let points = ROUNDINGS.map(|rounding| award(amount, &earning(1, 100, rounding), 10_000).unwrap());
            assert_eq!(points, expected, "{amount}");
        }
    }

    #[test]
    fn the_multiplier_comes_before_the_rounding() {
        // 1,999.00 at 1 point per 1,000, ×1.25: 2.49875, not 1.25 times 1.
        let award_of = |multiplier| award(199_900, &earning(1, 100_000, Rounding::Down), multiplier).unwrap();
        assert_eq!((award_of(12_500), award_of(0), award_of(1)), (2, 0, 0));
    }

    #[test]
    fn the_largest_award() {
        let rule = earning(POINTS_MAX, 1, Rounding::Up);
        assert_eq!(award(1, &rule, 10_000).unwrap(), POINTS_MAX);
        assert_eq!(award(1, &rule, 10_001), Err(AwardTooLarge));
        assert_eq!(award(2, &rule, 10_000), Err(AwardTooLarge));
        assert_eq!(award(i64::MAX, &rule, 1_000_000), Err(AwardTooLarge));
        assert_eq!(award(i64::MAX, &earning(i64::MAX, 1, Rounding::Up), u32::MAX), Err(AwardTooLarge));
        // Half a point above the bound is rounded before it is judged.
        let thirds = |rounding| award(3_000_000_000_001, &earning(1, 3, rounding), 10_000);
        assert_eq!(thirds(Rounding::HalfUp), Ok(POINTS_MAX));
        assert_eq!(thirds(Rounding::Up), Err(AwardTooLarge));
    }

    /// Decimal digits, lowest first: schoolbook arithmetic that shares nothing with the code under test.
    fn digits(mut value: u64) -> Vec<u32> {
        let mut out = Vec::new();
        while value > 0 {
            out.push((value % 10) as u32);
            value /= 10;
        }
        out
    }

    fn multiply(a: &[u32], b: &[u32]) -> Vec<u32> {
        let mut out = vec![0; a.len() + b.len() + 1];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                out[i + j] += x * y;
            }
        }
        for place in 0..out.len() - 1 {
            out[place + 1] += out[place] / 10;
            out[place] %= 10;
        }
        out
    }

    /// The quotient of digits by a number, rounded; long division digit by digit.
    fn divide(dividend: &[u32], divisor: u128, rounding: Rounding) -> u128 {
        let (mut quotient, mut rest) = (0u128, 0u128);
        for digit in dividend.iter().rev() {
            rest = rest * 10 + u128::from(*digit);
            let mut count = 0;
            while rest >= divisor {
                rest -= divisor;
                count += 1;
            }
            quotient = quotient * 10 + count;
        }
        let half = (rest + rest).cmp(&divisor);
        let more = match rounding {
            Rounding::Down => false,
            Rounding::Up => rest != 0,
            Rounding::HalfUp => half.is_ge(),
            Rounding::HalfEven => half.is_gt() || half.is_eq() && !quotient.is_multiple_of(2),
        };
        if more { quotient + 1 } else { quotient }
    }

    /// Magnitudes of every size, and many ties.
    fn magnitudes(max: u64) -> impl Strategy<Value = u64> {
        prop_oneof![1..=max, 1..=max.min(1_000), prop::sample::select(vec![1, 2, 4, 8, 50, 100, 1_000, 20_000])]
            .prop_map(move |value| value.min(max))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn agrees_with_schoolbook_arithmetic(
            amount in prop_oneof![Just(0), magnitudes(1_000_000_000_000)],
            points in magnitudes(1_000_000_000_000),
            per_amount in magnitudes(1_000_000_000_000),
            multiplier in prop_oneof![Just(0), magnitudes(1_000_000)],
            rounding in prop::sample::select(ROUNDINGS.to_vec()),
        ) {
            let product = multiply(&multiply(&digits(amount), &digits(points)), &digits(multiplier));
            let expected = divide(&product, u128::from(per_amount) * 10_000, rounding);
            let rule = earning(points as i64, per_amount as i64, rounding);
            let result = award(amount as i64, &rule, multiplier as u32);
            if expected > POINTS_MAX as u128 {
                prop_assert_eq!(result, Err(AwardTooLarge));
            } else {
                prop_assert_eq!(result, Ok(expected as i64));
            }
        }
    }
}
