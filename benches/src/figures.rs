//! Medians, spreads and ratios in whole numbers: a ratio is in thousandths.

use std::fmt;

/// Median, smallest and largest of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// The middle value; of an even number of values, the mean of the middle two, rounded down.
    pub median: u64,
    /// The smallest.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

impl Spread {
    /// Of no values: all zero.
    pub fn of(values: impl IntoIterator<Item = u64>) -> Self {
        let mut values: Vec<u64> = values.into_iter().collect();
        values.sort_unstable();
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { u64::midpoint(values[middle - 1], values[middle]) };
        Self { median, min, max }
    }
}

/// `numerator / denominator` in thousandths, rounded to the nearest; 0 when the denominator is 0.
pub fn thousandths(numerator: u64, denominator: u64) -> u64 {
    if denominator == 0 {
        return 0;
    }
    let scaled = (u128::from(numerator) * 2_000 + u128::from(denominator)) / (u128::from(denominator) * 2);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Shows thousandths with three decimals.
#[derive(Clone, Copy, Debug)]
pub struct Thousandths(pub u64);

impl fmt::Display for Thousandths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}.{:03}", self.0 / 1_000, self.0 % 1_000))
    }
}

/// Parses a ratio such as `0.65` into thousandths.
///
/// # Errors
/// Anything but digits, a point and at most three decimals.
pub fn parse_thousandths(text: &str) -> Result<u64, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
        return Err(format!("{text} is not a ratio such as 0.65"));
    }
    format!("{whole}{decimals:0<3}").parse().map_err(|error| format!("{text}: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([3]), Spread { median: 3, min: 3, max: 3 });
        assert_eq!(Spread::of([9, 1, 5]), Spread { median: 5, min: 1, max: 9 });
        assert_eq!(Spread::of([4, 1, 2, 9]), Spread { median: 3, min: 1, max: 9 });
    }

    #[test]
    fn ratios() {
        assert_eq!(thousandths(2, 3), 667);
        assert_eq!(thousandths(1, 0), 0);
        assert_eq!(thousandths(u64::MAX, u64::MAX), 1_000);
        assert_eq!(Thousandths(1_045).to_string(), "1.045");
        assert_eq!(parse_thousandths("0.65"), Ok(650));
        assert_eq!(parse_thousandths("1"), Ok(1_000));
        assert!(parse_thousandths(".5").is_err());
        assert!(parse_thousandths("0.6555").is_err());
        assert!(parse_thousandths("-1").is_err());
    }
}
