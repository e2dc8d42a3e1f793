//! Waiting for what other processes and threads do.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Leaves the processors to others for a moment.
pub(crate) fn pause() {
    std::thread::park_timeout(PAUSE);
}

/// Waits for a fact that has no event; says what is wrong where it is none in time.
#[track_caller]
pub(crate) fn eventually(patience: Duration, wrong: impl Fn() -> String, mut fact: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !fact() {
        assert!(begin.elapsed() < patience, "{}", wrong());
        pause();
    }
}
