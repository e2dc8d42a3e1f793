//! Waiting for what other processes and threads do.
#![allow(dead_code)]

use std::time::{Duration, Instant};

/// Longest wait for anything; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Leaves the processors to others for a moment, before something is tried or looked at again.
pub(crate) fn pause() {
    std::thread::park_timeout(PAUSE);
}

/// Waits for a fact that has no event.
#[track_caller]
pub(crate) fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !fact() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        pause();
    }
}
