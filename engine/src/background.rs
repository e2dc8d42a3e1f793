//! Threads that work beside those that commit.

/// How much less urgent they are. Not so much less that they starve where the workers leave nothing: checkpoints and
/// commits wait for some of them in the end.
const NICENESS: i32 = 10;

/// Makes the calling thread, and those that it starts from now on, less urgent than those that commit. A system that
/// refuses leaves them as they are.
pub fn yield_to_commits() {
    let _ = rustix::process::nice(NICENESS);
}
