//! Giving a shard to another node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{At, Work};
use crate::error::{Error, Result};
use crate::journal::cql::Changed;
use crate::ownership::{Member, Seat};
use crate::shard::Tenure;

/// A shard that is to go is checkpointed while it still decides until no more accounts than this are left, because
/// commands wait while the rest is written.
const GIVEN_ACCOUNTS_MAX: u64 = 64;
/// The longest time for that.
const GIVEN_CHECKPOINT_MAX: Duration = Duration::from_secs(2);

/// A shard on its way to another node.
pub(super) struct Giving {
    shard: u16,
    to: Arc<Member>,
    /// Since when it is checkpointed.
    chosen: Instant,
    /// Since when its commands wait, and how many accounts were not written then.
    drained: Option<(Instant, u64)>,
}

impl Giving {
    pub(super) fn new(shard: u16, to: Arc<Member>) -> Self {
        Self { shard, to, chosen: Instant::now(), drained: None }
    }
}

impl Work {
    /// Takes the shard that is to go a step further.
    pub(super) fn push_out(&mut self) {
        let Some(Giving { shard, chosen, drained, .. }) = &mut self.giving else { return };
        let left = self.parts.node.dirty_accounts_of(*shard);
        if drained.is_none() && (left <= GIVEN_ACCOUNTS_MAX || chosen.elapsed() >= GIVEN_CHECKPOINT_MAX) {
            *drained = Some((Instant::now(), left));
        }
        match drained {
            Some(_) => self.parts.tell(*shard, Tenure::Drain),
            None => self.parts.checkpoint(*shard),
        }
    }

    /// Nothing of a shard is under way any more: it goes.
    pub(super) fn quiet(&mut self, shard: u16) -> Result<()> {
        let Some(giving) = self.giving.take_if(|giving| giving.shard == shard) else { return Ok(()) };
        let Giving { to, chosen, drained, .. } = giving;
        let (since, left_accounts) = drained.unwrap_or((chosen, 0));
        let quiet_ms = since.elapsed().as_millis();
        loop {
            if self.change(shard, Seat { member: Arc::clone(&to), epoch: 0 })? == Changed::Done {
                break;
            }
            self.refresh()?;
            if self.map.is_owner(shard, to.incarnation) {
                break;
            }
            if !self.map.is_owner(shard, self.own.incarnation) {
                return Err(Error::Stopped(format!("another node owns shard {shard}")));
            }
            let is_there = self.live.iter().any(|node| node.member.incarnation == to.incarnation && !node.draining);
            // The change that had no answer may still come: one more of the map makes it void.
            if !is_there
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
        self.metrics.given(since.elapsed());
        let pause_ms = since.elapsed().as_millis();
        tracing::info!(shard, to = &*to.name, pause_ms, quiet_ms, left_accounts, "a shard was given away");
        self.stale = true;
        Ok(())
    }
}
