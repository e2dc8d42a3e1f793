//! The owner's monotonic clock as a front knows it: never ahead of what it really shows.

/// Time after which an estimate is replaced by what was learnt meanwhile: two clocks drift apart.
const WINDOW_MS: i64 = 10_000;
/// Both clocks are read in whole milliseconds.
const ROUNDING_MS: i64 = 1;

/// How far the owner's clock is ahead of the front's, at least.
///
/// A frame says what the owner's clock showed when it left. It shows at least that when the frame is read, so
/// every reading gives a lower bound; the highest of the last seconds is the one whose frame was under way for
/// the shortest time. A deadline told by it may come too early, never too late.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerClock {
    offset_ms: i64,
    next_ms: i64,
    next_since_ms: i64,
}

impl OwnerClock {
    /// From the first frame: what the owner's clock showed, and what ours shows now.
    pub(crate) fn new(owner_ms: i64, now_ms: i64) -> Self {
        let offset_ms = owner_ms.saturating_sub(now_ms);
        Self { offset_ms, next_ms: offset_ms, next_since_ms: now_ms }
    }

    /// From a later frame.
    pub(crate) fn learn(&mut self, owner_ms: i64, now_ms: i64) {
        let offset_ms = owner_ms.saturating_sub(now_ms);
        if now_ms.saturating_sub(self.next_since_ms) > WINDOW_MS {
            self.offset_ms = self.next_ms.max(offset_ms);
            (self.next_ms, self.next_since_ms) = (offset_ms, now_ms);
        }
        self.next_ms = self.next_ms.max(offset_ms);
        self.offset_ms = self.offset_ms.max(offset_ms);
    }

    /// An instant of our clock in the owner's, or somewhat earlier.
    pub(crate) fn owners(&self, own_ms: i64) -> i64 {
        own_ms.saturating_add(self.offset_ms).saturating_sub(ROUNDING_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_frame_counts_and_delays_only_bring_deadlines_forward() {
        // The owner's clock is 1,000 ahead; frames take 5, 2 and 40 ms.
        let mut clock = OwnerClock::new(1_000, 5);
        assert_eq!(clock.owners(100), 1_094);
        clock.learn(1_010, 12);
        clock.learn(1_020, 60);
        assert_eq!(clock.owners(100), 1_097);
    }

    #[test]
    fn a_clock_that_falls_behind_is_followed() {
        let mut clock = OwnerClock::new(1_000, 0);
        for second in 1..=30 {
            // It loses a millisecond a second.
            clock.learn(1_000 + second * 999, second * 1_000);
        }
        let truly = 1_000 + 30 * 999;
        let told = clock.owners(30_000);
        assert!((truly..=truly + 20).contains(&told), "{told} for {truly}");
    }
}
