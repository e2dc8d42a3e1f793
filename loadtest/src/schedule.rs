//! When requests are due, as decided before the first is sent: the server has no say in it.
#![allow(clippy::float_arithmetic, reason = "times of arrivals are drawn from real distributions; no points here")]

use serde::{Deserialize, Serialize};

use crate::scenario::Arrivals;

/// A stage with absolute rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slope {
    pub(crate) seconds: u32,
    pub(crate) rate: u64,
    pub(crate) to_rate: u64,
}

impl Slope {
    /// Requests due in the whole stage.
    fn count(&self) -> f64 {
        f64::from(self.seconds) * (self.rate as f64 + self.to_rate as f64) / 2.0
    }

    /// The second, counted from the stage's begin, by which `count` requests are due.
    fn time_of(&self, count: f64) -> f64 {
        let (begin, end, seconds) = (self.rate as f64, self.to_rate as f64, f64::from(self.seconds));
        let growth = (end - begin) / seconds;
        if growth.abs() < 1e-9 {
            return count / begin;
        }
        // begin·t + growth·t²/2 = count, in the form that does not cancel.
        let root = (begin * begin + 2.0 * growth * count).max(0.0).sqrt();
        2.0 * count / (begin + root)
    }
}

/// One due request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Counted from the begin of the first stage.
    pub(crate) at_ns: u64,
    pub(crate) stage: u16,
}

/// The due requests of one of several processes that share a schedule, in order of time.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    slopes: Vec<Slope>,
    arrivals: Arrivals,
    random: Random,
    workers: f64,
    stage: usize,
    stage_begin_s: f64,
    /// How many of all processes' requests of the stage were due at the last one of this process.
    passed: f64,
    /// Uniform arrivals: what is still to pass before the next one.
    offset: f64,
}

impl Schedule {
    /// The part of process `worker` of `workers`.
    pub(crate) fn new(slopes: Vec<Slope>, arrivals: Arrivals, seed: u64, worker: u32, workers: u32) -> Self {
        let mut random = Random::new(seed ^ (u64::from(worker) << 32) ^ 0x5ced);
        let workers = f64::from(workers);
        let offset = match arrivals {
            Arrivals::Uniform => f64::from(worker) + 0.5,
            Arrivals::Poisson => random.exponential() * workers,
        };
        Self { slopes, arrivals, random, workers, stage: 0, stage_begin_s: 0.0, passed: 0.0, offset }
    }
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        loop {
            let slope = self.slopes.get(self.stage)?;
            let count = slope.count();
            if self.passed + self.offset <= count && count > 0.0 {
                self.passed += self.offset;
                let at = self.stage_begin_s + slope.time_of(self.passed).min(f64::from(slope.seconds));
                self.offset = match self.arrivals {
                    Arrivals::Uniform => self.workers,
                    Arrivals::Poisson => self.random.exponential() * self.workers,
                };
                let stage = u16::try_from(self.stage).unwrap_or(u16::MAX);
                return Some(Due { at_ns: (at * 1e9) as u64, stage });
            }
            self.offset -= count - self.passed;
            self.passed = 0.0;
            self.stage_begin_s += f64::from(slope.seconds);
            self.stage += 1;
        }
    }
}

/// A small seeded generator (SplitMix64, Steele, Lea, Flood 2014), good enough for load.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

/// Draws ranks 0 to below `count`, the first most often, by Zipf's law (rejection-inversion, Hörmann and Derflinger
/// 1996): no table, so a hundred million accounts cost nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    count: f64,
    theta: f64,
    integral_first: f64,
    integral_last: f64,
    threshold: f64,
}

impl Zipf {
    pub(crate) fn new(count: u32, theta: f64) -> Self {
        let mut zipf = Self { count: f64::from(count), theta, integral_first: 0.0, integral_last: 0.0, threshold: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.count + 0.5);
        zipf.threshold = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn weight(&self, rank: f64) -> f64 {
        (-self.theta * rank.ln()).exp()
    }

    fn integral(&self, rank: f64) -> f64 {
        let log = rank.ln();
        let exponent = (1.0 - self.theta) * log;
        // (e^x − 1)/x, which is 1 at 0.
        let ratio = if exponent.abs() > 1e-8 { exponent.exp_m1() / exponent } else { 1.0 + exponent / 2.0 };
        ratio * log
    }

    fn inverse(&self, area: f64) -> f64 {
        let scaled = (area * (1.0 - self.theta)).max(-1.0);
        // ln(1 + x)/x, which is 1 at 0.
        let ratio = if scaled.abs() > 1e-8 { scaled.ln_1p() / scaled } else { 1.0 - scaled / 2.0 };
        (ratio * area).exp()
    }

    pub(crate) fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let area = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let point = self.inverse(area);
            let rank = (point + 0.5).floor().clamp(1.0, self.count);
            if rank - point <= self.threshold || area >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u32 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(slopes: &[Slope], arrivals: Arrivals, workers: u32) -> Vec<Due> {
        let mut due: Vec<Due> = (0..workers)
            .flat_map(|worker| Schedule::new(slopes.to_vec(), arrivals, 7, worker, workers).collect::<Vec<_>>())
            .collect();
        due.sort_by_key(|due| due.at_ns);
        due
    }

    #[test]
    fn uniform_arrivals_of_several_processes_interleave() {
        let slopes = [Slope { seconds: 2, rate: 1_000, to_rate: 1_000 }];
        let due = all(&slopes, Arrivals::Uniform, 4);
        assert_eq!(due.len(), 2_000);
        for pair in due.windows(2) {
            let gap_us = (pair[1].at_ns - pair[0].at_ns) / 1_000;
            assert!((990..=1_010).contains(&gap_us), "{gap_us}");
        }
    }

    #[test]
    fn a_ramp_has_its_rate_everywhere_and_a_pause_has_none() {
        let slopes = [
            Slope { seconds: 10, rate: 0, to_rate: 1_000 },
            Slope { seconds: 5, rate: 0, to_rate: 0 },
            Slope { seconds: 10, rate: 1_000, to_rate: 500 },
        ];
        for arrivals in [Arrivals::Uniform, Arrivals::Poisson] {
            let due = all(&slopes, arrivals, 3);
            let within = |from: u64, to: u64| {
                due.iter().filter(|due| (from * 1_000_000_000..to * 1_000_000_000).contains(&due.at_ns)).count()
            };
            // Areas under the slopes, and four standard deviations of a Poisson count.
            for (from, to, expected) in [(0, 5, 1_250), (5, 10, 3_750), (10, 15, 0), (15, 20, 4_375), (20, 25, 3_125)] {
                let found = within(from, to).abs_diff(expected);
                assert!(found as f64 <= 4.0 * (expected as f64).sqrt(), "{arrivals:?} {from}-{to}: off by {found}");
            }
            assert!(due.iter().all(|due| (due.at_ns < 10_000_000_000) == (due.stage == 0)));
        }
    }

    #[test]
    fn poisson_gaps_vary_as_they_should() {
        let due = all(&[Slope { seconds: 20, rate: 5_000, to_rate: 5_000 }], Arrivals::Poisson, 2);
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1].at_ns - pair[0].at_ns) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 200_000.0 - 1.0).abs() < 0.02, "{mean}");
        // Of an exponential distribution mean and deviation are equal.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{}", variance.sqrt() / mean);
    }

    #[test]
    fn zipf_follows_its_law() {
        for theta in [0.0, 0.5, 0.99, 1.0, 1.5] {
            let zipf = Zipf::new(1_000, theta);
            let mut random = Random::new(11);
            let mut counts = vec![0u32; 1_000];
            const DRAWS: u32 = 400_000;
            for _ in 0..DRAWS {
                counts[zipf.draw(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=1_000).map(|rank| f64::from(rank).powf(-theta)).sum();
            for rank in [1, 2, 10, 100] {
                let expected = f64::from(rank).powf(-theta) / total * f64::from(DRAWS);
                let found = f64::from(counts[rank as usize - 1]);
                assert!(
                    (found - expected).abs() < 5.0 * expected.sqrt() + 1.0,
                    "θ {theta} rank {rank}: {found} {expected}"
                );
            }
        }
    }
}
