//! Makes a failure small: leaves out as many events as it can while something is still found, in bounded time.

use super::event::Event;
use super::profile::Profile;
use super::world::World;

/// Worlds that are tried at most.
const TRIES_MAX: usize = 3_000;

/// What a list of events leads to: how many of them were needed, and what was found.
pub(super) fn replay(profile: &Profile, events: &[Event]) -> Option<(usize, String)> {
    let mut world = World::new(profile.clone());
    for (index, event) in events.iter().enumerate() {
        if let Err(found) = super::happen(&mut world, event) {
            return Some((index + 1, found));
        }
    }
    None
}

/// A shorter list of events in which something is found, and what. Stretches are left out, long ones first, then
/// single events (Zeller, Hildebrandt: "Simplifying and isolating failure-inducing input", 2002).
pub(super) fn minimize(profile: &Profile, events: &[Event], found: &str) -> (Vec<Event>, String) {
    let mut best = events.to_vec();
    let mut what = found.to_owned();
    let mut tries = 0;
    let mut length = best.len().div_ceil(2);
    while length > 0 && tries < TRIES_MAX {
        let (mut at, mut is_shorter) = (0, false);
        while at < best.len() && tries < TRIES_MAX {
            let end = (at + length).min(best.len());
            let shorter: Vec<Event> = best[..at].iter().chain(&best[end..]).cloned().collect();
            tries += 1;
            // Another failure than the first would not explain it.
            match replay(profile, &shorter).filter(|(_, other)| kind(other) == kind(found)) {
                Some((needed, other)) => {
                    best = shorter;
                    best.truncate(needed);
                    what = other;
                    is_shorter = true;
                }
                None => at = end,
            }
        }
        length = if is_shorter && length == 1 { 1 } else { length / 2 };
    }
    (best, what)
}

/// What kind of finding a text is: its words without numbers.
fn kind(found: &str) -> String {
    found.chars().filter(|c| c.is_ascii_alphabetic() || *c == ' ').take(40).collect()
}
