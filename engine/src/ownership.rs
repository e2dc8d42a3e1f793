//! What a node may answer for, where several nodes share one journal: a lease in time, the shards that the map of
//! owners gives it, and shards whose last batch has an outcome that is known.
//!
//! The lease protects what is read: nobody else takes a shard of a node while its lease runs. What is written is
//! protected by the epochs of the journal, whatever any clock says.

mod map;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::planted::{Fault, planted};

pub use map::{LiveNode, Member, OwnerMap, Plan, Seat, plan};

/// Stands for the time since which a shard comes, where it does not.
const NOT_COMING: i64 = i64::MAX;

/// Renewals in the time of one lease.
pub(crate) const RENEWALS_PER_LEASE: u32 = 6;
/// Looks at the leases of others in the time of one lease.
pub(crate) const LOOKS_PER_LEASE: u32 = 20;
/// Of the lease, the part in which the holder does not answer any more: it covers what the two clocks may differ by
/// over one lease, and the time between the last look at the clock and the answer on the wire.
const MARGIN_SHARE: u32 = 6;

/// How long a shard that comes to a node which runs may take to begin before the node is not ready: requests wait for
/// it meanwhile.
const BEGIN_GRACE_MS: i64 = 1_000;

/// What one node may answer for now.
pub struct Ownership {
    /// This life of the node; 0 where it owns nothing.
    own: u128,
    /// Until when, by [`crate::clock::boot_ms`].
    until_ms: AtomicI64,
    /// Per shard, whether the outcome of its last batch is unknown.
    unresolved: Vec<AtomicBool>,
    /// Per shard that comes to this node and has not begun, since when by [`crate::clock::boot_ms`]; else
    /// [`NOT_COMING`].
    coming_since_ms: Vec<AtomicI64>,
    /// Whether the node has had its share of the shards once, all begun.
    has_joined: AtomicBool,
    /// Who owns what, as far as it is known here.
    map: watch::Sender<Arc<OwnerMap>>,
    /// Told when a map comes from elsewhere that is newer.
    on_newer: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Ownership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ownership").field("until_ms", &self.until_ms).finish_non_exhaustive()
    }
}

impl Ownership {
    /// Of a gateway that only follows the map, or a test.
    pub fn new(shards: u16) -> Self {
        Self::of(0, shards)
    }

    /// Of this life of a node, which owns nothing yet.
    pub fn of(own: u128, shards: u16) -> Self {
        Self {
            own,
            until_ms: AtomicI64::new(i64::MIN),
            unresolved: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            coming_since_ms: (0..shards).map(|_| AtomicI64::new(NOT_COMING)).collect(),
            has_joined: AtomicBool::new(false),
            map: watch::Sender::new(Arc::new(OwnerMap::unknown(shards))),
            on_newer: OnceLock::new(),
        }
    }

    /// This life of the node.
    pub fn own(&self) -> u128 {
        self.own
    }

    /// Whether the map gives the shard to this node.
    pub fn is_owner(&self, shard: u16) -> bool {
        self.map.borrow().is_owner(shard, self.own)
    }

    /// A renewal that was sent at `sent_ms` has been confirmed.
    pub fn renewed(&self, sent_ms: i64, lease: Duration) {
        let usable = lease - lease / MARGIN_SHARE;
        let usable_ms = i64::try_from(usable.as_millis()).unwrap_or(i64::MAX);
        self.until_ms.fetch_max(sent_ms.saturating_add(usable_ms), Ordering::Release);
    }

    /// Whether the lease runs at `now_ms`.
    pub fn holds(&self, now_ms: i64) -> bool {
        planted(Fault::AnswerBeyondLease) || now_ms < self.until_ms.load(Ordering::Acquire)
    }

    /// Whether commands of a shard that this node owns may be decided at `now_ms`.
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

    /// A shard comes to this node, since now.
    pub fn set_coming(&self, shard: u16, now_ms: i64) {
        self.coming_since_ms[usize::from(shard)].store(now_ms, Ordering::Release);
    }

    /// A shard that came has begun.
    pub fn set_begun(&self, shard: u16) {
        self.coming_since_ms[usize::from(shard)].store(NOT_COMING, Ordering::Release);
    }

    /// The map is known, there is nothing for this node to take, and all that it has taken has begun.
    pub fn set_joined(&self) {
        self.has_joined.store(true, Ordering::Release);
    }

    /// Whether the node answers for its shards at `now_ms`, and why not.
    ///
    /// # Errors
    /// What is missing.
    pub fn state(&self, now_ms: i64) -> Result<(), String> {
        if !self.holds(now_ms) {
            return Err("the lease on the shards could not be renewed".into());
        }
        let unresolved = self.unresolved();
        if unresolved > 0 {
            return Err(format!(
                "the cluster has not answered the last write of {unresolved} shards; it is asked again"
            ));
        }
        let has_joined = self.has_joined.load(Ordering::Acquire);
        let grace_ms = if has_joined { BEGIN_GRACE_MS } else { 0 };
        let since = self.coming_since_ms.iter().map(|since| since.load(Ordering::Acquire));
        let late = since.filter(|since| *since != NOT_COMING && now_ms.saturating_sub(*since) >= grace_ms).count();
        match (late, has_joined) {
            (0, true) => Ok(()),
            (0, false) => Err("it is not known yet which shards are this node's".into()),
            (late, _) => Err(format!("{late} shards of this node have not begun yet")),
        }
    }

    /// The newest map of owners that is known here.
    pub fn map(&self) -> Arc<OwnerMap> {
        Arc::clone(&self.map.borrow())
    }

    /// To wait for newer ones.
    pub fn maps(&self) -> watch::Receiver<Arc<OwnerMap>> {
        self.map.subscribe()
    }

    /// Takes a map unless one as new is known.
    pub fn learn(&self, map: OwnerMap) -> bool {
        self.map.send_if_modified(|known| {
            let is_newer = map.version > known.version;
            if is_newer {
                *known = Arc::new(map);
            }
            is_newer
        })
    }

    /// Another node has told its map.
    pub fn told(&self, map: OwnerMap) {
        if self.learn(map)
            && let Some(on_newer) = self.on_newer.get()
        {
            on_newer();
        }
    }

    /// Calls `on_newer` when another node tells a newer map; set once.
    pub fn on_newer(&self, on_newer: Box<dyn Fn() + Send + Sync>) {
        // A node has one manager of its shards.
        let _ = self.on_newer.set(on_newer);
    }
}

/// A node's lease, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRow {
    /// The incarnation that holds it.
    pub holder: u128,
    /// Grows with every renewal.
    pub beat: i64,
    /// How long the holder counts on it.
    pub lease_ms: i64,
}

/// Part of a lease for which who looks at others may have seen nothing. A look that comes later knows only that it was
/// blind: where nobody reaches the cluster nobody can renew, and whoever reaches it first would take all others for
/// dead.
const BLIND_SHARE: i64 = 3;
/// Longest pause of the CQL driver between two tries to connect. Its pauses double while a cluster is away, so that a
/// node may come back later than the first one by about as long as the cluster was away, up to this. After an outage
/// too short for [`BLIND_SHARE`] that is well within a lease.
pub(crate) const RECONNECT_PAUSE_MAX_MS: i64 = 10_000;
/// What the chance in those pauses can add: the time that others are given to connect is so many times as long as who
/// looks was blind.
const RECONNECT_SPREAD: i64 = 2;

/// What is known of a row.
#[derive(Debug)]
struct Watched {
    row: LeaseRow,
    since_ms: i64,
}

/// A look at all rows: when they were asked for, when they had come, and how long before that those of the look before
/// had, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    asked_ms: i64,
    came_ms: i64,
    blind_ms: i64,
}

/// Who looks at other nodes' leases: one is dead when its row has not changed for as long as it runs, by the looking
/// node's own clock and as seen by looks that were never a third of a lease apart. After looks that were, the time of
/// all others begins when they must have had a connection again.
#[derive(Debug, Default)]
pub struct Watcher {
    seen: HashMap<Box<str>, Watched>,
    look: Option<Look>,
    /// When all others must have had a connection again.
    connected_ms: i64,
}

impl Watcher {
    /// Begins a look whose rows were asked for at `asked_ms` and had come by `came_ms` (both by
    /// [`crate::clock::boot_ms`]).
    pub fn look(&mut self, asked_ms: i64, came_ms: i64) {
        let came_ms = came_ms.max(asked_ms);
        let blind_ms = self.look.map_or(0, |before| came_ms.saturating_sub(before.came_ms));
        self.look = Some(Look { asked_ms, came_ms, blind_ms });
    }

    /// Whether the lease in this row of the newest look has run out. Who acts on it must make sure that the row is
    /// still the same.
    pub fn is_dead(&mut self, name: &str, row: LeaseRow) -> bool {
        let Look { asked_ms, came_ms, blind_ms } = self.look.unwrap_or_default();
        let was_blind = blind_ms >= row.lease_ms / BLIND_SHARE;
        let same = self.seen.get(name).filter(|seen| seen.row == row);
        if same.is_some() && planted(Fault::TakeFromTheLiving) {
            return true;
        }
        if let Some(seen) = same
            && !was_blind
        {
            return asked_ms.saturating_sub(seen.since_ms) >= row.lease_ms;
        }
        if was_blind && !planted(Fault::GiveNoTimeToConnect) {
            let connect_ms = blind_ms.saturating_mul(RECONNECT_SPREAD).min(RECONNECT_PAUSE_MAX_MS);
            self.connected_ms = self.connected_ms.max(came_ms.saturating_add(connect_ms));
        }
        // The row may have changed just before it was read, so the time counts from after that answer. That it has
        // changed says nothing of a connection: what was read before may have been old.
        self.seen.insert(name.into(), Watched { row, since_ms: came_ms.max(self.connected_ms) });
        false
    }

    /// Forgets rows that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.seen.retain(|name, _| is_there(name));
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
    fn a_lease_is_over_when_its_row_stood_still_for_as_long_as_it_runs() {
        let row = |holder, beat| LeaseRow { holder, beat, lease_ms: 6_000 };
        let mut watcher = Watcher::default();
        let mut look = |row, asked_ms| {
            watcher.look(asked_ms, asked_ms + 10);
            watcher.is_dead("other", row)
        };
        assert!(!look(row(7, 3), 1_000));
        for asked_ms in [2_900, 4_800, 6_700, 7_009] {
            assert!(!look(row(7, 3), asked_ms), "it may have been renewed just before it was first read");
        }
        assert!(!look(row(7, 4), 7_010), "it was renewed");
        assert!(!look(row(8, 4), 9_000), "another has the name");
        for asked_ms in [10_900, 12_800, 14_700, 15_009] {
            assert!(!look(row(8, 4), asked_ms));
        }
        assert!(look(row(8, 4), 15_010));
        assert!(look(row(8, 4), 15_020), "until somebody acts on it");
    }

    #[test]
    fn who_could_not_look_takes_nobody_for_dead() {
        let row = LeaseRow { holder: 7, beat: 3, lease_ms: 6_000 };
        let mut watcher = Watcher::default();
        let mut is_dead = |asked_ms, came_ms| {
            watcher.look(asked_ms, came_ms);
            watcher.is_dead("other", row)
        };
        assert!(!is_dead(1_000, 1_010));
        // The cluster is away: one look was asked before that and is answered after it, or none was made.
        assert!(!is_dead(1_500, 20_000));
        assert!(!is_dead(20_010, 20_020), "the other has had no time to renew");
        assert!(!is_dead(40_000, 40_010));
        // Ten seconds to connect, and a whole lease.
        for asked_ms in (41_900..56_000).step_by(1_900).chain([56_009]) {
            assert!(!is_dead(asked_ms, asked_ms + 10), "{asked_ms}");
        }
        assert!(is_dead(56_010, 56_020), "now it has had a whole lease");
    }

    /// Looks every 100 ms from `from_ms` on; when the row is taken for dead.
    fn death(watcher: &mut Watcher, row: LeaseRow, from_ms: i64) -> Option<i64> {
        (from_ms..60_000).step_by(100).find(|now_ms| {
            watcher.look(*now_ms, *now_ms);
            watcher.is_dead("other", row)
        })
    }

    #[test]
    fn who_was_blind_for_long_waits_for_those_whose_next_try_comes_late() {
        let row = |beat| LeaseRow { holder: 7, beat, lease_ms: 2_000 };
        let died_after = |blind_ms: i64, row_after: LeaseRow| {
            let mut watcher = Watcher::default();
            watcher.look(0, 10);
            assert!(!watcher.is_dead("other", row(3)));
            death(&mut watcher, row_after, 10 + blind_ms)
        };
        // The cluster was away for 25 s: another one's pause of 10 s may have begun just before it came back.
        assert_eq!(died_after(25_000, row(3)), Some(25_010 + 10_000 + 2_000));
        assert_eq!(died_after(25_000, row(4)), Some(25_010 + 10_000 + 2_000), "that may be from before it went away");
        assert_eq!(died_after(1_000, row(3)), Some(1_010 + 2_000 + 2_000), "nor did it pause for long");
        assert_eq!(died_after(600, row(3)), Some(2_010), "that is not blind");
        let mut watcher = Watcher::default();
        for asked_ms in [0, 25_000] {
            watcher.look(asked_ms, asked_ms + 10);
            assert!(!watcher.is_dead("other", row(3)));
        }
        assert_eq!(death(&mut watcher, row(4), 25_100), Some(37_100), "what was read first may have been old");
        watcher.look(37_200, 37_200);
        assert!(!watcher.is_dead("other", row(5)));
        assert_eq!(death(&mut watcher, row(5), 37_300), Some(39_200), "its lease runs as always");
    }

    #[test]
    fn a_node_is_ready_when_its_share_has_begun_and_while_a_shard_that_comes_is_not_late() {
        let ownership = Ownership::new(3);
        assert!(ownership.state(0).is_err_and(|why| why.contains("lease")));
        ownership.renewed(0, Duration::from_secs(60));
        assert!(ownership.state(0).is_err_and(|why| why.contains("not known")));
        ownership.set_coming(1, 10);
        assert!(ownership.state(10).is_err_and(|why| why.starts_with("1 shards")), "at its start nothing waits for it");
        ownership.set_begun(1);
        ownership.set_joined();
        assert_eq!(ownership.state(20), Ok(()));
        ownership.set_coming(2, 1_000);
        assert_eq!(ownership.state(1_999), Ok(()), "requests wait for it");
        assert!(ownership.state(2_000).is_err_and(|why| why.starts_with("1 shards")));
        ownership.set_begun(2);
        assert_eq!(ownership.state(2_000), Ok(()));
        ownership.set_unresolved(0, true);
        assert!(ownership.state(2_000).is_err_and(|why| why.contains("last write of 1 shards")));
    }

    #[test]
    fn only_a_newer_map_is_taken() {
        let ownership = Ownership::new(1);
        let of = |version| OwnerMap { version, ..OwnerMap::unknown(1) };
        assert!(ownership.learn(of(3)) && !ownership.learn(of(3)) && !ownership.learn(of(2)));
        assert_eq!(ownership.map().version, 3);
    }
}
