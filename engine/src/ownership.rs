//! What a node may answer for, where several nodes share one journal: a lease in time, and shards whose last batch has
//! an outcome that is known.
//!
//! The lease protects what is read: nobody else owns the shards while it runs. What is written is protected by the
//! epochs of the journal, whatever any clock says.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds of a clock that never goes back and also runs while the machine sleeps.
pub fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

/// Of the lease, the part in which the holder does not answer any more: it covers what the two clocks may differ by
/// over one lease, and the time between the last look at the clock and the answer on the wire.
const MARGIN_SHARE: u32 = 6;

/// What one node may answer for now.
#[derive(Debug)]
pub struct Ownership {
    /// Until when, by [`boot_ms`].
    until_ms: AtomicI64,
    /// Per shard, whether the outcome of its last batch is unknown.
    unresolved: Vec<AtomicBool>,
}

impl Ownership {
    /// Owns nothing yet.
    pub fn new(shards: u16) -> Self {
        Self { until_ms: AtomicI64::new(i64::MIN), unresolved: (0..shards).map(|_| AtomicBool::new(false)).collect() }
    }

    /// A renewal that was sent at `sent_ms` has been confirmed.
    pub fn renewed(&self, sent_ms: i64, lease: Duration) {
        let usable = lease - lease / MARGIN_SHARE;
        let usable_ms = i64::try_from(usable.as_millis()).unwrap_or(i64::MAX);
        self.until_ms.fetch_max(sent_ms.saturating_add(usable_ms), Ordering::Release);
    }

    /// Whether the lease runs at `now_ms`.
    pub fn holds(&self, now_ms: i64) -> bool {
        now_ms < self.until_ms.load(Ordering::Acquire)
    }

    /// Whether commands of a shard may be decided at `now_ms`.
    pub fn may_decide(&self, shard: u16, now_ms: i64) -> bool {
        self.holds(now_ms) && !self.unresolved[usize::from(shard)].load(Ordering::Acquire)
    }

    /// Says whether the outcome of the shard's last batch is unknown. Until it is known, new commands are refused.
    pub fn set_unresolved(&self, shard: u16, unresolved: bool) {
        self.unresolved[usize::from(shard)].store(unresolved, Ordering::Release);
    }

    /// Shards whose last batch has an unknown outcome.
    pub fn unresolved(&self) -> usize {
        self.unresolved.iter().filter(|u| u.load(Ordering::Relaxed)).count()
    }
}

/// Who holds the lease, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRow {
    /// The incarnation that holds it; `None` when it was given back.
    pub holder: Option<u128>,
    /// Grows with every renewal.
    pub beat: i64,
    /// How long the holder counts on it.
    pub lease_ms: i64,
}

/// Somebody who waits for the lease: it is dead when its row has not changed for as long as it runs, by the waiting
/// node's own clock.
#[derive(Debug, Default)]
pub struct Taker {
    seen: Option<(LeaseRow, i64)>,
}

impl Taker {
    /// Whether the lease may be taken, given its row at `now_ms` (by [`boot_ms`], read before the row was asked for).
    pub fn may_take(&mut self, row: LeaseRow, now_ms: i64) -> bool {
        if row.holder.is_none() {
            return true;
        }
        match self.seen {
            // The row may have changed just after it was read: the time counts from after that answer.
            Some((seen, since_ms)) if seen == row => now_ms.saturating_sub(since_ms) >= row.lease_ms,
            _ => {
                self.seen = Some((row, boot_ms().max(now_ms)));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_before_the_renewal_was_sent_and_ends_early() {
        let ownership = Ownership::new(2);
        assert!(!ownership.holds(0));
        ownership.renewed(1_000, Duration::from_secs(6));
        assert!(ownership.holds(5_999) && !ownership.holds(6_000), "five sixths of six seconds");
        ownership.renewed(500, Duration::from_secs(6));
        assert!(ownership.holds(5_999), "an older answer takes nothing away");
        ownership.set_unresolved(1, true);
        assert!(ownership.may_decide(0, 5_999) && !ownership.may_decide(1, 5_999));
        assert_eq!(ownership.unresolved(), 1);
        ownership.set_unresolved(1, false);
        assert!(ownership.may_decide(1, 5_999));
    }

    #[test]
    fn a_lease_is_taken_when_its_row_stood_still_for_as_long_as_it_runs() {
        let row = |holder, beat| LeaseRow { holder, beat, lease_ms: 6_000 };
        let start = boot_ms() + 1_000_000;
        let mut taker = Taker::default();
        assert!(taker.may_take(row(None, 3), start), "given back");
        assert!(!taker.may_take(row(Some(7), 3), start));
        assert!(!taker.may_take(row(Some(7), 3), start + 5_999));
        assert!(!taker.may_take(row(Some(7), 4), start + 6_000), "it was renewed");
        assert!(!taker.may_take(row(Some(8), 4), start + 11_000), "another has it");
        assert!(!taker.may_take(row(Some(8), 4), start + 16_999));
        assert!(taker.may_take(row(Some(8), 4), start + 17_000));
    }

    #[test]
    fn the_clock_of_leases_goes_forward() {
        let first = boot_ms();
        assert!(boot_ms() >= first);
    }
}
