//! Histograms of latencies in microseconds: recorded in every process, merged bucket by bucket, never averaged.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Significant decimal digits that a recorded value keeps.
const DIGITS: u8 = 3;
/// Longest latency that is told apart from longer ones: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// A histogram of microseconds that travels as pairs of a value and how often it came.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Grows with its largest value; three digits and no bounds are valid arguments.
        Self(Histogram::new(DIGITS).expect("three digits are allowed"))
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency_us: u64) {
        self.record_many(latency_us, 1);
    }

    fn record_many(&mut self, latency_us: u64, count: u64) {
        // Fails only when the value does not fit and the histogram may not grow; this one may.
        let _ = self.0.record_n(latency_us.clamp(1, LATENCY_US_MAX), count);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Fails only as above.
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest value, in the precision of the histogram.
    pub(crate) fn max_us(&self) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.max() }
    }

    /// The value below or at which this part of all values lies, 0 to 1; 0 of nothing.
    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(quantile) }
    }

    pub(crate) fn mean_us(&self) -> f64 {
        self.0.mean()
    }

    pub(crate) fn deviation_us(&self) -> f64 {
        self.0.stdev()
    }

    /// The histogram itself, for its file formats.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latencies = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.record_many(value, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_histogram_is_that_of_all_values() {
        let (mut left, mut right, mut whole) = (Latencies::default(), Latencies::default(), Latencies::default());
        for number in 0..10_000u64 {
            let value = number * number % 7_919 * 131;
            whole.record(value);
            if number % 3 == 0 { &mut left } else { &mut right }.record(value);
        }
        let carried: Latencies = serde_json::from_str(&serde_json::to_string(&right).unwrap()).unwrap();
        left.add(&carried);
        assert_eq!(left.count(), whole.count());
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(left.quantile_us(quantile), whole.quantile_us(quantile));
        }
        assert_eq!(left.max_us(), whole.max_us());
    }

    #[test]
    fn nothing_is_zero_and_too_much_is_the_bound() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.count(), latencies.max_us(), latencies.quantile_us(0.99)), (0, 0, 0));
        latencies.record(u64::MAX);
        assert!(latencies.max_us() >= LATENCY_US_MAX);
        assert!(latencies.max_us() < LATENCY_US_MAX + LATENCY_US_MAX / 500);
    }
}
