//! What breaks, and when.

use super::{Event, STORM_MS, World};
use crate::ownership::RECONNECT_PAUSE_MAX_MS;
use crate::torture::nodes::node::LEASE_MS;

/// The longest time that the database is away where nothing else breaks.
const OUTAGE_MAX_MS: i64 = 15_000;
/// The first pause of a driver that tries to connect again, as that of the nodes has it.
const RECONNECT_PAUSE_MIN_MS: i64 = 50;

impl World {
    /// The database is away, and every node comes back when its driver tries to connect again; when that is over.
    fn outage(&mut self) -> i64 {
        let away_ms = self.random.between(100, OUTAGE_MAX_MS);
        for node in 0..self.processes.len() {
            let (mut tried_ms, mut pause_ms) = (0, RECONNECT_PAUSE_MIN_MS);
            while tried_ms < away_ms {
                tried_ms += (pause_ms * self.random.between(85, 115) / 100)
                    .clamp(RECONNECT_PAUSE_MIN_MS, RECONNECT_PAUSE_MAX_MS);
                pause_ms = (2 * pause_ms).min(RECONNECT_PAUSE_MAX_MS);
            }
            self.processes[node].cut_off_until = self.now + tried_ms;
        }
        away_ms + RECONNECT_PAUSE_MAX_MS + LEASE_MS
    }

    /// Breaks something and says when the next thing breaks; or, once the storm is over, mends everything.
    pub(super) fn break_something(&mut self) {
        if !self.is_storm() {
            // Everything works again.
            self.broker_down_until = 0;
            for node in 0..self.processes.len() {
                self.keyspace.drain(&format!("n{node}"), false);
                self.processes[node].cut_off_until = 0;
                self.processes[node].paused_until = self.processes[node].paused_until.min(self.now);
                self.after(10, Event::Begin(node));
            }
            return;
        }
        if self.profile.has_only_outages {
            let over_ms = self.outage();
            return self.after(over_ms.min(STORM_MS - self.now).max(1), Event::Break);
        }
        let node = self.random.below(self.processes.len());
        let until = self.now + self.random.between(200, 14_000);
        match self.random.below(6) {
            0 => {
                let restart_ms = self.random.between(50, 9_000);
                self.kill(node, restart_ms);
            }
            1 | 2 => self.processes[node].paused_until = until,
            3 => self.processes[node].cut_off_until = until,
            4 => self.broker_down_until = until,
            _ => {
                let draining = self.random.chance(50);
                self.keyspace.drain(&format!("n{node}"), draining);
            }
        }
        let pace = self.random.between(1, 2 * self.profile.pace_ms).min(STORM_MS - self.now);
        self.after(pace.max(1), Event::Break);
    }
}
