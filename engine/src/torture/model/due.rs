//! What falls due: activations, ends of holds, expiries.

use meed_schemas::ids::Position;
use meed_schemas::record::{Detail, RecordKind, VoidReason};
use meed_schemas::time::{Millis, NEVER};

use super::{Effect, Given, Model, add};

impl Model {
    /// Settles the first thing that is due up to an instant; `None` when nothing is. `settled_to`: how far that
    /// has come; points that expired while they were held go when the hold ends.
    pub(in super::super) fn settle_one(
        &mut self,
        until: Millis,
        settled_to: &mut Millis,
        given: Given<'_>,
    ) -> Option<Effect> {
        let activation = self.pending.keys().next().map_or(NEVER, |(at, _)| *at);
        let hold = self.open_holds().map(|(id, hold)| (hold.until, *id)).min();
        let hold_ends = hold.map_or(NEVER, |(until, _)| until);
        let expiry = self.live.keys().next().copied().unwrap_or(NEVER);
        let due = activation.min(hold_ends).min(expiry);
        if due > until || due == NEVER {
            return None;
        }
        *settled_to = due.max(*settled_to);
        if due == activation {
            let heap: Vec<_> = self.pending.iter().filter(|((at, _), _)| *at == due).collect();
            let heap: Vec<_> = heap.into_iter().map(|((_, expires), points)| (*expires, *points)).collect();
            self.pending.retain(|(at, _), _| *at != due);
            let moved_points = super::sum(&heap);
            self.arrive(heap);
            return Some(given.effect(RecordKind::Activate, 0, due, Detail::Activate { moved_points }));
        }
        if let Some((_, id)) = hold.filter(|_| due == hold_ends) {
            let mut pins = Vec::new();
            if let Some(hold) = self.holds.get_mut(&id) {
                hold.end = Some((given.next.sequence(), false));
                pins = hold.pins.clone();
            }
            // What is past its expiry expires next.
            for (expires, points) in self.let_go(pins, *settled_to) {
                add(&mut self.live, expires, points);
            }
            let hold = Position::new(given.next.shard(), id);
            let detail = Detail::Void { hold, reason: VoidReason::Expired };
            return Some(given.effect(RecordKind::Void, 0, *settled_to, detail));
        }
        let points = self.live.remove(&expiry).unwrap_or(0);
        self.expire(&[(expiry, points)], *settled_to, given)
    }
}
