//! The tier of an account: a pure function of its recorded spend by month, and of a tier set by hand.
//!
//! Levels are indices into the document's list, 0 the lowest. Spend is a list of (month, minor units), in
//! any order, months numbered as by [`super::calendar::Zone::month_of`].

use meed_schemas::program::{Tiers, Window};

use super::calendar::year_of_month;

/// How a tier that was set by hand acts. Decided when it is set, and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManualKind {
    /// The account has at least this level.
    Floor,
    /// The account has at most this level.
    Ceiling,
}

impl ManualKind {
    /// The kind of a level that is set while another is earned.
    pub fn of(level: usize, earned: usize) -> Self {
        if level >= earned { Self::Floor } else { Self::Ceiling }
    }
}

/// The level that counts: the earned one, bounded by the one that was set by hand, if any.
pub fn effective_level(earned: usize, manual: Option<(usize, ManualKind)>) -> usize {
    match manual {
        None => earned,
        Some((level, ManualKind::Floor)) => earned.max(level),
        Some((level, ManualKind::Ceiling)) => earned.min(level),
    }
}

/// The level that the spend recorded so far has earned as of `month_now`. Later months never count.
pub fn earned_level(tiers: &Tiers, spend: &[(i32, i64)], month_now: i32) -> usize {
    let spend_minor = deciding_spend(tiers.window, spend, month_now);
    tiers.levels.partition_point(|level| i128::from(level.from_minor) <= spend_minor).saturating_sub(1)
}

/// The spend that decides the tier as of `month_now`, in minor units; saturates. For calendar years that is
/// the higher of last year's and this year's so far.
pub fn qualifying_spend(window: Window, spend: &[(i32, i64)], month_now: i32) -> i64 {
    let spend_minor = deciding_spend(window, spend, month_now);
    i64::try_from(spend_minor).unwrap_or(if spend_minor < 0 { i64::MIN } else { i64::MAX })
}

/// Sums in 128 bits, which no list that fits into memory overflows.
fn deciding_spend(window: Window, spend: &[(i32, i64)], month_now: i32) -> i128 {
    let sum_from = |first: i32, last: i32| -> i128 {
        spend.iter().filter(|(month, _)| (first..=last).contains(month)).map(|(_, s)| i128::from(*s)).sum()
    };
    match window {
        Window::Lifetime => sum_from(i32::MIN, month_now),
        Window::Rolling12Months => sum_from(month_now.saturating_sub(12), month_now),
        Window::CalendarYear => {
            let january = year_of_month(month_now).saturating_mul(12);
            // A level is monotone in its spend, so the higher spend is also the one of the higher level.
            sum_from(january.saturating_sub(12), january.saturating_sub(1)).max(sum_from(january, month_now))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use meed_schemas::program::{BUILT_IN_DOCUMENT, Document, Level};
    use proptest::prelude::*;

    use super::*;

    fn tiers(window: Window, thresholds: &[i64]) -> Tiers {
        let level = |(index, from_minor): (usize, &i64)| Level {
            name: format!("L{index}"),
            from_minor: *from_minor,
            multiplier: 10_000,
        };
        Tiers { window, levels: thresholds.iter().enumerate().map(level).collect() }
    }

    const JANUARY: i32 = 2026 * 12;

    #[test]
    fn the_threshold_belongs_to_the_upper_tier() {
        let tiers = Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap().tiers;
        let table = [
            (0, 0),
            (500_000_000, 0),
            (500_000_099, 0),
            (500_000_100, 1),
            (1_500_000_099, 1),
            (1_500_000_100, 2),
            (5_000_000_099, 2),
            (5_000_000_100, 3),
            (i64::MAX, 3),
            (-1, 0),
        ];
        for (spend, level) in table {
            assert_eq!(earned_level(&tiers, &[(JANUARY, spend)], JANUARY), level, "{spend}");
        }
        assert_eq!(earned_level(&tiers, &[], JANUARY), 0);
    }

    #[test]
    fn windows() {
        let thresholds = [0, 100, 300];
        type Case = (Window, &'static [(i32, i64)], i32, usize, i64);
        // Window, spend, month, level, spend that decides.
        let table: [Case; 15] = [
            (Window::Lifetime, &[(JANUARY - 500, 60), (JANUARY, 40)], JANUARY, 1, 100),
            (Window::Lifetime, &[(JANUARY, 60), (JANUARY + 1, 900)], JANUARY, 0, 60),
            (Window::Rolling12Months, &[(JANUARY - 12, 300)], JANUARY, 2, 300),
            (Window::Rolling12Months, &[(JANUARY - 13, 300)], JANUARY, 0, 0),
            (Window::Rolling12Months, &[(JANUARY - 12, 50), (JANUARY, 50)], JANUARY, 1, 100),
            (Window::Rolling12Months, &[(JANUARY + 1, 900), (JANUARY, 99)], JANUARY, 0, 99),
            // Reached in a year, kept to the end of the next.
            (Window::CalendarYear, &[(JANUARY + 3, 300)], JANUARY + 3, 2, 300),
            (Window::CalendarYear, &[(JANUARY + 3, 300)], JANUARY + 23, 2, 300),
            (Window::CalendarYear, &[(JANUARY + 3, 300)], JANUARY + 24, 0, 0),
            (Window::CalendarYear, &[(JANUARY + 3, 300)], JANUARY + 2, 0, 0),
            // Years are not added up.
            (Window::CalendarYear, &[(JANUARY, 60), (JANUARY + 12, 60)], JANUARY + 12, 0, 60),
            (Window::CalendarYear, &[(JANUARY, 110), (JANUARY + 12, 60)], JANUARY + 12, 1, 110),
            (Window::CalendarYear, &[(JANUARY, 110), (JANUARY + 12, 120)], JANUARY + 12, 1, 120),
            (Window::CalendarYear, &[(JANUARY - 1, 99), (JANUARY - 12, 1)], JANUARY, 1, 100),
            (Window::CalendarYear, &[(JANUARY - 13, 900)], JANUARY, 0, 0),
        ];
        for (window, spend, month, level, deciding) in table {
            let tiers = tiers(window, &thresholds);
            assert_eq!(earned_level(&tiers, spend, month), level, "{window:?} {spend:?} {month}");
            assert_eq!(qualifying_spend(window, spend, month), deciding, "{window:?} {spend:?} {month}");
        }
    }

    #[test]
    fn sums_saturate() {
        let spend = [(JANUARY, i64::MAX), (JANUARY, i64::MAX), (JANUARY + 1, i64::MIN)];
        assert_eq!(qualifying_spend(Window::Lifetime, &spend, JANUARY), i64::MAX);
        assert_eq!(qualifying_spend(Window::Lifetime, &spend[2..], JANUARY + 1), i64::MIN);
        for window in [Window::Lifetime, Window::Rolling12Months, Window::CalendarYear] {
            for month in [i32::MIN, i32::MAX] {
                assert_eq!(earned_level(&tiers(window, &[0, 1]), &[(0, 0)], month), 0);
            }
        }
    }

    #[test]
    fn a_manual_tier_is_a_floor_or_a_ceiling() {
        // Level set, earned when it was set, earned now, level that counts.
        let table = [
            (2, 0, 0, 2),
            (2, 0, 1, 2),
            (2, 0, 3, 3),
            (1, 1, 0, 1),
            (1, 1, 2, 2),
            (1, 2, 2, 1),
            (1, 2, 3, 1),
            (1, 2, 0, 0),
            (0, 3, 3, 0),
        ];
        for (level, earned_then, earned_now, expected) in table {
            let manual = Some((level, ManualKind::of(level, earned_then)));
            assert_eq!(effective_level(earned_now, manual), expected, "{level} {earned_then} {earned_now}");
        }
        assert_eq!(effective_level(2, None), 2);
    }

    /// Month by month, as the rules read.
    fn naive(tiers: &Tiers, spend: &[(i32, i64)], now: i32) -> (usize, i64) {
        let level_of = |sum: i64| {
            let mut level = 0;
            for (index, candidate) in tiers.levels.iter().enumerate() {
                if sum >= candidate.from_minor {
                    level = index;
                }
            }
            level
        };
        let mut sums = [0i64; 4];
        for (month, minor) in spend {
            if *month > now {
                continue;
            }
            sums[0] += minor;
            if now - month <= 12 {
                sums[1] += minor;
            }
            match now / 12 - month / 12 {
                0 => sums[2] += minor,
                1 => sums[3] += minor,
                _ => {}
            }
        }
        match tiers.window {
            Window::Lifetime => (level_of(sums[0]), sums[0]),
            Window::Rolling12Months => (level_of(sums[1]), sums[1]),
            Window::CalendarYear => {
                let (this, last) = ((level_of(sums[2]), sums[2]), (level_of(sums[3]), sums[3]));
                if this.0 == last.0 {
                    (this.0, this.1.max(last.1))
                } else if this.0 > last.0 {
                    this
                } else {
                    last
                }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_rules(
            window in prop::sample::select(vec![
                Window::Lifetime, Window::CalendarYear, Window::Rolling12Months,
            ]),
            thresholds in prop::collection::btree_set(1..2_000i64, 0..6),
            spend in prop::collection::vec((JANUARY - 40..JANUARY + 40, 0..600i64), 0..40),
            now in JANUARY - 30..JANUARY + 45,
        ) {
            let thresholds: Vec<_> = std::iter::once(0).chain(thresholds).collect();
            let tiers = tiers(window, &thresholds);
            let (level, deciding) = naive(&tiers, &spend, now);
            prop_assert_eq!(earned_level(&tiers, &spend, now), level);
            prop_assert_eq!(qualifying_spend(window, &spend, now), deciding);
        }
    }
}
