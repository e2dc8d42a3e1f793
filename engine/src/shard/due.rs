//! Settling of idle accounts, so that what is due comes out on time.
//!
//! Accounts whose due instant is near when they change sit in a queue in memory; all others are found in
//! the store's due index, which every checkpoint keeps. Both only cause a turn: an account settles what is
//! due by itself. Both are paced, so that a month end at which every account is due is not a pause.

use std::cmp::Reverse;

use meed_schemas::command::{Command, Keys, Request, RequestId};
use meed_schemas::ids::Identity;
use meed_schemas::time::Millis;

use super::table::Resident;
use super::{Envelope, Held, Input, Output, Shard, StoreJob, World};
use crate::commit::Lane;
use crate::error::Result;

/// An account that changes and is due within this is remembered in memory; a checkpoint puts any other into
/// the due index long before.
pub const NEAR_MS: i64 = 15 * 60_000;
/// How long the index is left alone after it had nothing.
const QUIET_MS: i64 = 1_000;

/// Where the sweep of the due index is.
#[derive(Debug, Default)]
pub struct Sweep {
    asked: bool,
    after: Option<(Millis, Identity)>,
    not_before_ms: i64,
}

impl Shard {
    /// Settles resident accounts whose instant has come.
    pub(super) fn settle_near(&mut self, world: &World, lane: &mut Lane<Held>, out: &mut Output) -> Result<()> {
        let until = world.now.min(world.settle_until);
        for _ in 0..self.limits.settled_per_tick {
            let Some(Reverse((at, hash))) = self.near_due.peek().copied() else { break };
            if at > until {
                break;
            }
            self.near_due.pop();
            let Some((identity, resident)) = self.table.by_hash(hash, |_| true) else { continue };
            let is_due = match resident {
                Resident::Live(live) => {
                    let due = live.account.next_due().unwrap_or(i64::MAX);
                    live.queued_due = i64::MAX;
                    if due > until && due < until.saturating_add(NEAR_MS) {
                        // What was queued has gone, and something later has come meanwhile.
                        live.queued_due = due;
                        self.near_due.push(Reverse((due, hash)));
                    }
                    due <= until
                }
                Resident::Packed(_) => true,
                Resident::Loading(_) => false,
            };
            if is_due {
                let settle = settle(identity.clone());
                self.handle(Input::Command(settle), world, lane, out)?;
            }
        }
        Ok(())
    }

    /// Asks the store for the next due accounts.
    pub(super) fn sweep_step(&mut self, world: &World, out: &mut Output) {
        if self.due.asked || world.elapsed_ms < self.due.not_before_ms {
            return;
        }
        self.due.asked = true;
        let until = world.now.min(world.settle_until);
        out.jobs.push(StoreJob::Due(self.id, until, self.due.after.take(), self.limits.settled_per_tick));
    }

    /// Settles accounts that the index named. Rows of accounts that were settled and not yet checkpointed
    /// are still there: those accounts are in memory and say that nothing is due.
    pub(super) fn due_found(
        &mut self,
        accounts: Vec<(Millis, Identity)>,
        world: &World,
        lane: &mut Lane<Held>,
        out: &mut Output,
    ) -> Result<()> {
        self.due.asked = false;
        if accounts.len() == self.limits.settled_per_tick {
            self.due.after = accounts.last().cloned();
        } else {
            self.due.after = None;
            self.due.not_before_ms = world.elapsed_ms + QUIET_MS;
        }
        let until = world.now.min(world.settle_until);
        for (_, identity) in accounts {
            let hash = self.table.hash(&identity);
            let settled = match self.table.get_mut(hash, &identity) {
                Some(Resident::Live(live)) => live.account.next_due().is_none_or(|due| due > until),
                // The command that it is loaded for settles it. It may wait for room through many sweeps.
                Some(Resident::Loading(_)) => true,
                Some(Resident::Packed(_)) | None => false,
            };
            if !settled {
                self.handle(Input::Command(settle(identity)), world, lane, out)?;
            }
        }
        Ok(())
    }
}

fn settle(identity: Identity) -> Envelope {
    let request = Request {
        identity,
        command: Command::Settle,
        keys: Keys::default(),
        fingerprint: 0,
        request_id: RequestId::Made(0),
        traceparent: None,
    };
    Envelope { request, to: None, deadline_ms: i64::MAX, bytes: 0 }
}
