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
/// distribution. Exact for few values without ties, else by the normal approximation with its corrections for ties and
/// continuity. 1 when there is nothing to compare.
pub(crate) fn mann_whitney(left: &[f64], right: &[f64]) -> f64 {
    if left.is_empty() || right.is_empty() {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> =
        left.iter().map(|value| (*value, true)).chain(right.iter().map(|value| (*value, false))).collect();
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut rank_sum, mut tie_sum, mut begin) = (0.0, 0.0, 0);
    while begin < all.len() {
        let length = all[begin..].iter().take_while(|value| value.0 == all[begin].0).count();
        let rank = begin as f64 + (length as f64 + 1.0) / 2.0;
        rank_sum += rank * all[begin..begin + length].iter().filter(|value| value.1).count() as f64;
        tie_sum += (length as f64).powi(3) - length as f64;
        begin += length;
    }
    let (m, n) = (left.len(), right.len());
    let (mf, nf) = (m as f64, n as f64);
    let u = rank_sum - mf * (mf + 1.0) / 2.0;
    let u = u.min(mf * nf - u);
    if tie_sum == 0.0 && m + n <= EXACT_MAX {
        return exact(m, n, u as usize);
    }
    let total = mf + nf;
    let variance = mf * nf / 12.0 * (total + 1.0 - tie_sum / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - mf * nf / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// Twice the share of orders in which U is at most `u`.
fn exact(m: usize, n: usize, u: usize) -> f64 {
    // counts[j][k]: ways in which j values of the left series have U = k, as values are added one by one.
    let mut counts = vec![vec![0.0f64; m * n + 1]; m + 1];
    counts[0][0] = 1.0;
    for value in 1..=m + n {
        for taken in (1..=m.min(value)).rev() {
            // The value belongs to the left series: it stands above value − taken of the right.
            let above = value - taken;
            if above > n {
                continue;
            }
            for k in (above..=m * n).rev() {
                let ways = counts[taken - 1][k - above];
                counts[taken][k] += ways;
            }
        }
    }
    let total: f64 = counts[m].iter().sum();
    let below: f64 = counts[m][..=u.min(m * n)].iter().sum();
    (2.0 * below / total).min(1.0)
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
        // U = 2 of 5 and 5: 4 of 252 orders or fewer on each side.
        close(mann_whitney(&[1.0, 2.0, 3.0, 5.0, 7.0], &[4.0, 6.0, 8.0, 9.0, 10.0]), 2.0 * 7.0 / 252.0);
        close(mann_whitney(&[1.0, 4.0], &[2.0, 3.0]), 1.0);
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
