//! Threads that work beside those that commit.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much less urgent they are. Not so much less that they starve where the workers leave nothing: checkpoints and
/// commits wait for some of them in the end.
const NICENESS: i32 = 10;

/// Makes the calling thread, and those that it starts from now on, less urgent than those that commit. A system that
/// refuses leaves them as they are.
pub fn yield_to_commits() {
    let _ = rustix::process::nice(NICENESS);
}

/// Tells a thread that rests between its rounds to end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    told: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    fn told(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rests; false when the thread is to end, at once if it was told before.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        let rested = self.wake.wait_timeout_while(self.told(), time, |told| !*told);
        !*rested.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells the thread to end, and ends its rest.
    pub(crate) fn tell(&self) {
        *self.told() = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_rests_no_more() {
        let stop = Stop::default();
        assert!(stop.rest(Duration::ZERO));
        stop.tell();
        assert!(!stop.rest(Duration::from_secs(3_600)));
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let resting = scope.spawn(|| stop.rest(Duration::from_secs(3_600)));
            stop.tell();
            assert!(resting.join().is_ok_and(|goes_on| !goes_on), "a thread that rests is woken");
        });
    }
}
