//! What a command needs beyond the account in memory: records of the journal, facts of the store.

use meed_schemas::command::{Keys, Request};
use meed_schemas::ids::Identity;
use meed_schemas::time::{DAY_MS, Millis};

use super::Shard;
use super::filter::KeyFilter;
use super::messages::{BUSINESS_KEY_DAYS, Held, IDEMPOTENCY_KEY_DAYS, Output, Purpose, StoreJob, World};
use super::table::{Live, scope};
use crate::account::{Account, FactKey, Facts, Fetch};
use crate::commit::Lane;
use crate::store::{FactQuery, KeyClass, KeyPlace, week_of};

/// Tells the turn which of the request's keys were certainly never spilled.
pub(super) fn absent_keys(filter: &KeyFilter, seed: u64, live: &Live, request: &Request, facts: &mut Facts) {
    if live.account.spilled_keys_span().is_none() || request.keys == Keys::default() {
        return;
    }
    let scope = scope(&request.identity, seed);
    for (key, business) in [(request.keys.idempotency, false), (request.keys.business, true)] {
        if let Some(key) = key
            && !filter.may_contain(key ^ scope)
        {
            // An absent fact has no bytes that could be damaged.
            let _ = facts.add_fact(FactKey::Key { hash: key, business }, None);
        }
    }
}

/// Asks for what a command needs. A record is read once it is durable.
#[expect(clippy::too_many_arguments, reason = "borrows parts of the shard beside the account")]
pub(super) fn fetch(
    shard: u16,
    seed: u64,
    identity: &Identity,
    ticket: u64,
    fetches: &[Fetch],
    account: &Account,
    world: &World,
    lane: &mut Lane<Held>,
    out: &mut Output,
) {
    for fetch in fetches {
        match fetch {
            Fetch::Record(position) => {
                let purpose = Purpose::Original { identity: identity.clone(), ticket };
                let held = Held::Read { position: *position, purpose };
                if position.shard() == shard && position.sequence() <= account.applied() {
                    out.ready.extend(lane.hold(shard, position.sequence(), held));
                } else {
                    out.ready.push(held);
                }
            }
            Fetch::Fact(key) => {
                // Where the clock is not trusted, no key is too old: see `Tasks::sync`.
                let query = query(key, scope(identity, seed), account, world.now.min(world.settle_until));
                out.jobs.push(StoreJob::Fact(shard, identity.clone(), ticket, *key, query));
            }
        }
    }
}

/// How a fact is looked up: a key only in weeks in which this account spilled any, and which are kept.
fn query(key: &FactKey, scope: u128, account: &Account, now: Millis) -> FactQuery {
    match *key {
        FactKey::Key { hash, business } => {
            let (class, days) = match business {
                true => (KeyClass::Business, BUSINESS_KEY_DAYS),
                false => (KeyClass::Idempotency, IDEMPOTENCY_KEY_DAYS),
            };
            let (first, last) = account.spilled_keys_span().unwrap_or((now, now));
            let from = first.max(now.saturating_sub(days * DAY_MS));
            FactQuery::Key { class, hash: hash ^ scope, weeks: week_of(from)..=week_of(last) }
        }
        FactKey::Reversed(original) => FactQuery::Reversed(original),
        FactKey::ExpiredLot(expires_at) => FactQuery::ExpiredLot(expires_at),
        FactKey::ClosedHold(hold) => FactQuery::ClosedHold(hold),
    }
}

impl Shard {
    /// Asks for the keys that were spilled before the start, once.
    pub(super) fn begin_filter(&mut self, out: &mut Output) {
        if self.filter.is_filling() && !std::mem::replace(&mut self.filter_asked, true) {
            out.jobs.push(StoreJob::Keys(self.id, KeyPlace::FIRST));
        }
    }

    /// Takes some of them and asks for the next, so that as many wait in memory as one answer has. Those that
    /// are spilled meanwhile are added as they are spilled.
    pub(super) fn fill_filter(&mut self, hashes: &[u128], next: Option<KeyPlace>, out: &mut Output) {
        hashes.iter().for_each(|hash| self.filter.insert(*hash));
        match next {
            Some(place) if self.filter.is_filling() => out.jobs.push(StoreJob::Keys(self.id, place)),
            Some(_) => {}
            None => self.filter.complete(),
        }
    }
}
