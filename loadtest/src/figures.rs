//! Whether two series of measurements differ, by their ranks.
#![allow(clippy::float_arithmetic, reason = "statistics; no points here")]

/// Up to so many values in both series together, the exact distribution is computed.
const EXACT_MAX: usize = 40;

/// The middle value; of an even number, the mean of the middle two; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Two-sided p-value of the Mann–Whitney U test: how likely so different ranks are when both series come from one
/// distribution. Exact for few values, ties included, else by the normal approximation with its corrections for ties and
/// continuity. 1 when there is nothing to compare.
pub(crate) fn mann_whitney(left: &[f64], right: &[f64]) -> f64 {
    if left.is_empty() || right.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> =
        left.iter().map(|value| (*value, true)).chain(right.iter().map(|value| (*value, false))).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    // Twice the rank of each value, which is a whole number; equal values have the mean of their ranks.
    let (mut ranks, mut tie_sum) = (Vec::with_capacity(all.len()), 0.0);
    while ranks.len() < all.len() {
        let begin = ranks.len();
        let length = all[begin..].iter().take_while(|value| value.0 == all[begin].0).count();
        ranks.extend(std::iter::repeat_n(2 * begin + length + 1, length));
        tie_sum += (length as f64).powi(3) - length as f64;
    }
    let rank_sum: usize = ranks.iter().zip(&all).filter(|(_, value)| value.1).map(|(rank, _)| rank).sum();
    let (m, n) = (left.len(), right.len());
    if m + n <= EXACT_MAX {
        return exact(&ranks, m, rank_sum);
    }
    let (mf, nf) = (m as f64, n as f64);
    let total = mf + nf;
    let distance = (rank_sum as f64 / 2.0 - mf * (total + 1.0) / 2.0).abs();
    let variance = mf * nf / 12.0 * (total + 1.0 - tie_sum / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (distance - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// The share of choices of `m` of the ranks whose sum is at least as far from the middle as `rank_sum`.
fn exact(ranks: &[usize], m: usize, rank_sum: usize) -> f64 {
    let most: usize = ranks.iter().sum();
    // counts[j][k]: ways to choose j of the ranks so far with the sum k.
    let mut counts = vec![vec![0.0f64; most + 1]; m + 1];
    counts[0][0] = 1.0;
    for rank in ranks {
        for chosen in (1..=m).rev() {
            for sum in *rank..=most {
                // The row below is of the ranks before this one, because rows are filled from the last.
                let ways = counts[chosen - 1][sum - rank];
                counts[chosen][sum] += ways;
            }
        }
    }
    // Doubled ranks have the mean count + 1.
    let middle = m * (ranks.len() + 1);
    let distance = rank_sum.abs_diff(middle);
    let total: f64 = counts[m].iter().sum();
    let beyond = counts[m].iter().enumerate().filter(|(sum, _)| sum.abs_diff(middle) >= distance);
    (beyond.map(|(_, ways)| ways).sum::<f64>() / total).min(1.0)
}

/// The standard normal distribution beyond `z`, which is not negative (Abramowitz and Stegun 7.1.26, error below
/// 1.5e-7).
fn upper_tail(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let sum =
        t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    0.5 * sum * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
    }

    #[test]
    fn p_values_are_those_of_the_tables() {
        // All of one below all of the other: 2 / C(m + n, m).
        close(mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        close(mann_whitney(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]), 2.0 / 252.0);
        // U = 3 of 5 and 5: 7 of 252 orders on each side are as far from the middle, or further.
        close(mann_whitney(&[1.0, 2.0, 3.0, 5.0, 7.0], &[4.0, 6.0, 8.0, 9.0, 10.0]), 2.0 * 7.0 / 252.0);
        close(mann_whitney(&[1.0, 4.0], &[2.0, 3.0]), 1.0);
        // All of one tie below all of the other: as without ties, where the approximation says 0.047.
        close(mann_whitney(&[0.0; 3], &[0.5; 3]), 0.1);
        close(mann_whitney(&[0.0, 0.0, 1.0], &[0.0, 1.0, 1.0]), 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
        assert_eq!(mann_whitney(&[2.0; 5], &[2.0; 5]), 1.0);
        // The approximation agrees with the exact one where both can be had.
        let left: Vec<f64> = (0..20).map(|value| f64::from(value) * 2.0).collect();
        let right: Vec<f64> = (0..20).map(|value| f64::from(value) * 2.0 + 9.0).collect();
        let exact = mann_whitney(&left, &right);
        let (more_left, more_right) = ([&left[..], &[-1.0]].concat(), [&right[..], &[100.0]].concat());
        assert!(mann_whitney(&more_left, &more_right) < exact + 0.01 && exact < 0.1, "{exact}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
