//! The node's time: the wall clock, held against the monotonic one so that a leap is noticed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meed_schemas::time::Millis;
use rustix::time::{ClockId, clock_gettime};

/// Turns readings of the wall clock and the monotonic clock into instants that never go backwards.
///
/// A wall clock that moves by more than `jump_ms` against the monotonic one, which runs while the machine sleeps, is
/// not followed: time then goes on from the last good reading at the pace of the monotonic clock, so that a leap of
/// years does not expire points that would not come back.
#[derive(Debug, Clone)]
pub struct Clock {
    base_wall: Millis,
    base_elapsed_ms: i64,
    last: Millis,
    jump_ms: i64,
    jumped: bool,
}

impl Clock {
    /// A clock that begins at these readings.
    pub fn new(wall: Millis, elapsed_ms: i64, jump_ms: i64) -> Self {
        Self { base_wall: wall, base_elapsed_ms: elapsed_ms, last: wall, jump_ms, jumped: false }
    }

    /// The instant for these readings; never less than one given before.
    pub fn now(&mut self, wall: Millis, elapsed_ms: i64) -> Millis {
        let expected = self.base_wall.saturating_add(elapsed_ms - self.base_elapsed_ms);
        self.jumped = (wall.saturating_sub(expected)).saturating_abs() > self.jump_ms;
        if self.jumped {
            self.last = self.last.max(expected);
        } else {
            self.base_wall = wall;
            self.base_elapsed_ms = elapsed_ms;
            self.last = self.last.max(wall);
        }
        self.last
    }

    /// Whether the last reading of the wall clock was out of bounds.
    pub fn jumped(&self) -> bool {
        self.jumped
    }
}

/// Milliseconds of a clock that never goes back and also runs while the machine sleeps.
pub fn boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
}

/// The two clocks of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemTimes {
    started_ms: i64,
}

impl SystemTimes {
    /// Monotonic time counts from here.
    pub fn start() -> Self {
        Self { started_ms: boot_ms() }
    }

    /// Milliseconds since the epoch by the wall clock; 0 before it.
    pub fn wall_ms(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the start by the monotonic clock.
    pub fn elapsed_ms(&self) -> i64 {
        boot_ms().saturating_sub(self.started_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_are_followed_and_never_go_backwards() {
        let mut clock = Clock::new(1_000, 0, 500);
        assert_eq!(clock.now(1_400, 300), 1_400);
        assert_eq!(clock.now(1_350, 301), 1_400);
        assert!(!clock.jumped());
    }

    #[test]
    fn the_clock_of_deadlines_and_leases_goes_forward() {
        let first = boot_ms();
        assert!(boot_ms() >= first);
    }

    #[test]
    fn a_leap_is_not_followed_in_either_direction() {
        let mut clock = Clock::new(1_000, 0, 500);
        assert_eq!(clock.now(1_000_000_000, 10), 1_010);
        assert!(clock.jumped());
        assert_eq!(clock.now(1_000_000_050, 60), 1_060);
        assert_eq!(clock.now(1_070, 70), 1_070);
        assert!(!clock.jumped());
        assert_eq!(clock.now(-5_000, 80), 1_080);
        assert!(clock.jumped());
    }
}
