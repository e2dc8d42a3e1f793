//! What a command needs beyond the account in memory: records of the journal, facts of the store.

use meed_schemas::command::Request;
use meed_schemas::ids::Identity;
use meed_schemas::time::{DAY_MS, Millis};

use super::filter::KeyFilter;
use super::messages::{BUSINESS_KEY_DAYS, Held, IDEMPOTENCY_KEY_DAYS, Output, Purpose, StoreJob, World};
use super::table::Live;
use crate::account::{Account, FactKey, Facts, Fetch};
use crate::commit::Lane;
use crate::store::{FactQuery, KeyClass, week_of};

/// Names a key together with its account, for the filter.
pub(super) fn scoped(key: u128, account_hash: u64) -> u128 {
    key ^ (u128::from(account_hash) << 64 | u128::from(account_hash))
}

/// Tells the turn which of the request's keys were certainly never spilled.
pub(super) fn absent_keys(filter: &KeyFilter, hash: u64, live: &Live, request: &Request, facts: &mut Facts) {
    if live.account.has_spilled_keys().is_none() {
        return;
    }
    for (key, business) in [(request.keys.idempotency, false), (request.keys.business, true)] {
        if let Some(key) = key
            && !filter.may_contain(scoped(key, hash))
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
                let query = query(key, account, world.now.min(world.settle_until));
                out.jobs.push(StoreJob::Fact(shard, identity.clone(), ticket, *key, query));
            }
        }
    }
}

/// How a fact is looked up: a key only in weeks in which this account spilled any, and which are kept.
fn query(key: &FactKey, account: &Account, now: Millis) -> FactQuery {
    match *key {
        FactKey::Key { hash, business } => {
            let (class, days) = match business {
                true => (KeyClass::Business, BUSINESS_KEY_DAYS),
                false => (KeyClass::Idempotency, IDEMPOTENCY_KEY_DAYS),
            };
            let (first, last) = account.has_spilled_keys().unwrap_or((now, now));
            let from = first.max(now.saturating_sub(days * DAY_MS));
            FactQuery::Key { class, hash, weeks: week_of(from)..=week_of(last) }
        }
        FactKey::Reversed(original) => FactQuery::Reversed(original),
        FactKey::ExpiredLot(expires_at) => FactQuery::ExpiredLot(expires_at),
        FactKey::ClosedHold(hold) => FactQuery::ClosedHold(hold),
    }
}
