//! The bound of memory: what leaves it, and what waits to come in.
//!
//! While memory is short the clock hand forgets clean accounts. Those that have changed cannot leave before a
//! checkpoint has them: where they fill the bound, accounts that are not in memory wait until others have left, or
//! requests on cold accounts would fill memory faster than the store takes them.

use std::collections::VecDeque;

use meed_schemas::ids::Identity;

use super::table::{Live, Resident, Table};
use super::{Output, Shard, StoreJob, World};
use crate::planted::{Fault, planted};

/// Counted for an account that the store was asked for, beside its entry, until it has come: what a new one takes.
pub(super) const LOADING_BYTES: usize = size_of::<Live>();
/// This part of the bound is kept free by the hand, so that accounts that come do not wait for its next step.
const FREE_PARTS: usize = 16;
/// Residents that the hand looks at in one tick while memory is short.
const HAND_STEPS_SHORT: usize = 8_192;

/// What the table and the hand take for an account, whatever is known of it.
pub(super) fn entry_bytes(identity: &Identity) -> usize {
    Table::ENTRY_BYTES + identity.heap_bytes() + size_of::<u64>()
}

/// What the bound of memory keeps.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// When the hand last moved.
    hand_ms: i64,
    /// Accounts that the store is not asked for yet, in the order in which they came.
    held: VecDeque<Identity>,
    /// How many more may come before the next tick although memory is full.
    unbounded_loads: usize,
}

impl Shard {
    /// Whether the hand has to make room.
    pub(super) fn is_short(&self) -> bool {
        self.resident_bytes > self.limits.resident_bytes - self.limits.resident_bytes / FREE_PARTS
    }

    /// Whether accounts that are not in memory have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.resident_bytes > self.limits.resident_bytes
    }

    /// Whether accounts that have changed take more than half of the bound. With what a checkpoint of them has under
    /// way there is just room for those that change meanwhile.
    pub(super) fn is_mostly_dirty(&self) -> bool {
        let mean_bytes = self.resident_bytes / self.hand.len().max(1);
        mean_bytes.saturating_mul(self.dirty.len()) > self.limits.resident_bytes / 2
    }

    /// Asks the store for an account, now or when there is room for it.
    pub(super) fn load(&mut self, identity: Identity, out: &mut Output) {
        self.memory.held.push_back(identity);
        self.load_where_room(out);
    }

    /// Asks for all accounts that wait for room.
    pub(super) fn load_all(&mut self, out: &mut Output) {
        self.memory.unbounded_loads = usize::MAX;
        self.load_where_room(out);
        self.memory.unbounded_loads = 0;
    }

    /// Asks for accounts that have waited for room. Some may come in each tick in any case: what fills memory may be in
    /// use for ever.
    pub(super) fn load_held(&mut self, out: &mut Output) {
        self.memory.unbounded_loads = self.limits.unbounded_loads_per_tick;
        self.load_where_room(out);
    }

    /// Accounts that wait for room.
    pub(super) fn held_loads(&self) -> usize {
        self.memory.held.len()
    }

    fn load_where_room(&mut self, out: &mut Output) {
        while !self.is_full() || self.memory.unbounded_loads > 0 {
            let Some(identity) = self.memory.held.pop_front() else { break };
            self.memory.unbounded_loads -= usize::from(self.is_full());
            self.resident_bytes += entry_bytes(&identity) + LOADING_BYTES;
            out.jobs.push(StoreJob::Load(self.id, identity));
        }
    }

    /// Moves the clock hand: packs idle accounts, and forgets packed ones while memory is short.
    pub(super) fn hand_step(&mut self, world: &World) {
        let short = self.is_short();
        let passed_ms = (world.elapsed_ms - self.memory.hand_ms).clamp(0, self.limits.pack_after_ms);
        // A round takes the idle time, so an account is packed after one to two of them.
        let paced = self.hand.len() as u64 * passed_ms as u64 / self.limits.pack_after_ms.max(1) as u64;
        if paced == 0 && !short {
            return;
        }
        self.memory.hand_ms = world.elapsed_ms;
        let steps = if short { HAND_STEPS_SHORT.max(paced as usize) } else { paced as usize };
        let steps = steps.min(self.hand.len());
        for _ in 0..steps {
            let Some(hash) = self.hand.pop_front() else { break };
            let short = self.is_short();
            let Some((identity, resident)) = self.table.by_hash(hash, |_| true) else { continue };
            match resident {
                Resident::Live(live) if live.is_clean() && (short || !live.touched) => {
                    live.account.drop_overlay(live.writing_up_to);
                    let mut blob = Vec::with_capacity(160);
                    live.account.encode(&mut blob);
                    let freed = live.counted_bytes;
                    self.resident_bytes = (self.resident_bytes + blob.len()).saturating_sub(freed);
                    *resident = Resident::Packed(blob.into_boxed_slice());
                }
                Resident::Live(live) => {
                    live.touched = false;
                    let (before, now) = live.recount();
                    self.resident_bytes = (self.resident_bytes + now).saturating_sub(before);
                }
                Resident::Packed(blob) if short => {
                    let freed = blob.len() + entry_bytes(identity);
                    let identity = identity.clone();
                    self.table.remove(hash, &identity);
                    self.resident_accounts -= 1;
                    self.resident_bytes = self.resident_bytes.saturating_sub(freed);
                    continue;
                }
                _ => {}
            }
            self.hand.push_back(hash);
        }
    }
}

impl Live {
    /// Whether the store has this account as it is, so that it may leave memory.
    fn is_clean(&self) -> bool {
        let nobody_waits = self.waiting.is_empty() || planted(Fault::EvictWhileLoading);
        self.dirty_since == 0 && self.writes_under_way == 0 && nobody_waits && self.account.exists()
    }
}
