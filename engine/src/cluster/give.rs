//! Giving a shard to another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{At, Work};
use crate::error::{Error, Result};
use crate::journal::cql::Changed;
use crate::ownership::{LiveNode, Member, Seat};
use crate::shard::Tenure;

/// A shard that is to go is checkpointed while it still decides until no more accounts than this are left, because
/// commands wait while the rest is written.
const GIVEN_ACCOUNTS_MAX: u64 = 64;
/// The longest time for that; checkpoints of other shards wait for it.
const GIVEN_CHECKPOINT_MAX: Duration = Duration::from_secs(2);

/// How long the manager does nothing but wait for a shard whose commands wait, and checkpoints of others wait too.
const DRAIN_HURRY_MAX: Duration = Duration::from_millis(500);
/// The part of a lease that this may be: who looked at no other node for a third of it would count anew.
const DRAIN_HURRY_SHARE: u32 = 6;

/// A shard on its way to another node.
pub(super) struct Giving {
    shard: u16,
    to: Arc<Member>,
    /// Since when it is checkpointed.
    chosen: Instant,
    /// Since when its commands wait, and how many accounts were not written then.
    drained: Option<(Instant, u64)>,
}

/// Whether a node is there that can be given shards.
fn can_take(live: &[LiveNode], to: &Member) -> bool {
    live.iter().any(|node| node.member.incarnation == to.incarnation && !node.draining)
}

impl Work {
    /// Takes the shard that is to go a step further.
    pub(super) fn push_out(&mut self) {
        let Some(Giving { shard, to, chosen, drained }) = &mut self.giving else { return };
        if drained.is_none() && !can_take(&self.live, to) {
            // It has left, or drains, since it was chosen.
            return self.stay();
        }
        let left = self.parts.node.dirty_accounts_of(*shard);
        if drained.is_none() && (left <= GIVEN_ACCOUNTS_MAX || chosen.elapsed() >= GIVEN_CHECKPOINT_MAX) {
            *drained = Some((Instant::now(), left));
        }
        let (shard, drained) = (*shard, drained.is_some());
        match drained {
            true => self.parts.tell(shard, Tenure::Drain),
            false => self.parts.checkpoint(shard),
        }
        if drained && !self.is_hurried() {
            // Something else than its checkpoint takes long, and those of others have waited enough.
            self.parts.node.keeper().favour(None);
        }
    }

    /// Begins to give a shard away, while it still decides.
    pub(super) fn begin_giving(&mut self, shard: u16, to: Arc<Member>) {
        self.parts.checkpoint(shard);
        self.parts.node.keeper().favour(Some(shard));
        self.giving = Some(Giving { shard, to, chosen: Instant::now(), drained: None });
    }

    /// The shard that is to go stays, so that the checkpoints of all go on and its commands are answered.
    pub(super) fn stay(&mut self) {
        if let Some(giving) = self.giving.take() {
            self.parts.node.keeper().favour(None);
            self.parts.tell(giving.shard, Tenure::Resume);
        }
    }

    /// Whether the commands of a shard wait while it is given away, and not for long. Nothing else is looked at then.
    pub(super) fn is_hurried(&self) -> bool {
        let drained = self.giving.as_ref().and_then(|giving| giving.drained);
        let hurry_max = DRAIN_HURRY_MAX.min(self.parts.registry.lease() / DRAIN_HURRY_SHARE);
        drained.is_some_and(|(since, _)| since.elapsed() < hurry_max)
    }

    /// Nothing of a shard is under way any more: it goes.
    pub(super) fn quiet(&mut self, shard: u16) -> Result<()> {
        let Some(giving) = self.giving.take_if(|giving| giving.shard == shard) else { return Ok(()) };
        self.parts.node.keeper().favour(None);
        let Giving { to, chosen, drained, .. } = giving;
        let (since, left_accounts) = drained.unwrap_or((chosen, 0));
        let quiet_ms = since.elapsed().as_millis();
        loop {
            match self.change(shard, Seat { member: Arc::clone(&to), epoch: 0 })? {
                Changed::Done => break,
                // Another change was quicker.
                Changed::Lost => self.read_map()?,
                Changed::Unknown => self.refresh()?,
            }
            if self.map.is_owner(shard, to.incarnation) {
                break;
            }
            if !self.map.is_owner(shard, self.own.incarnation) {
                return Err(Error::Stopped(format!("another node owns shard {shard}")));
            }
            // The change that had no answer may still come: one more of the map makes it void.
            if !can_take(&self.live, &to)
                && let Some(own) = self.map.seats[usize::from(shard)].clone()
                && self.change(shard, own)? == Changed::Done
            {
                self.parts.tell(shard, Tenure::Resume);
                return Ok(());
            }
        }
        self.parts.committer.detach(shard);
        self.parts.extents.end(shard);
        self.at[usize::from(shard)] = At::Elsewhere;
        self.parts.tell(shard, Tenure::Release);
        // By the time it comes back, another node has had it.
        self.forgotten[usize::from(shard)] = Some(self.parts.node.keeper().forget(shard));
        self.metrics.given(since.elapsed());
        let pause_ms = since.elapsed().as_millis();
        tracing::info!(shard, to = &*to.name, pause_ms, quiet_ms, left_accounts, "a shard was given away");
        self.stale = true;
        Ok(())
    }
}
