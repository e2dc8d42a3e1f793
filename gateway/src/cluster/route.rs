//! Finding the owner of a shard for one request.

use std::time::Duration;

use meed_engine::permits::NoPermit;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Cluster, OWNER_WAIT};
use crate::forward::Unanswered;
use crate::link::Link;
use crate::local::Local;

/// Pause before a node that knows less than this gateway is asked again.
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// Owners that a request is asked of at most: the one that is thought right, and the one that is.
const OWNERS_MAX: u32 = 2;

/// Who is asked.
pub(super) enum Place {
    /// This process.
    Here(Local),
    /// Another node.
    There(Link),
}

/// What time a request has.
#[derive(Clone, Copy)]
pub(super) struct Time {
    /// Nobody is looked for any more.
    until: Instant,
    /// It is to be answered.
    deadline: Instant,
}

impl Time {
    /// From now on, with so much until the answer.
    pub(super) fn start(deadline: Duration) -> Self {
        let now = Instant::now();
        Self { until: now + OWNER_WAIT.min(deadline), deadline: now + deadline }
    }

    /// What is left until the answer.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Whom a request was asked of.
#[derive(Default)]
struct Asked {
    /// Incarnation of who was asked last.
    last: Option<u128>,
    owners: u32,
}

impl Asked {
    /// Notes who is asked next; `None` when that would be one too many, else whether it is another than the last.
    fn go_on(&mut self, incarnation: u128) -> Option<bool> {
        if self.last == Some(incarnation) {
            return Some(false);
        }
        if self.owners == OWNERS_MAX {
            return None;
        }
        self.owners += 1;
        Some(self.last.replace(incarnation).is_some())
    }
}

/// The way of one request, or of those of one shard that go together.
pub(super) struct Route {
    cluster: Cluster,
    shard: u16,
    time: Time,
    asked: Asked,
}

impl Route {
    pub(super) fn new(cluster: &Cluster, shard: u16, time: Time) -> Self {
        Self { cluster: cluster.clone(), shard, time, asked: Asked::default() }
    }

    /// Who is to be asked, once there is somebody; nobody when there is none in time, or it would be one too many.
    pub(super) async fn next(&mut self) -> Option<Place> {
        let mut maps = self.cluster.ownership().maps();
        while self.asked.last.is_none() || Instant::now() < self.time.until {
            let map = maps.borrow_and_update().clone();
            if let Some(owner) = map.owner(self.shard)
                && let Some(place) = self.place(owner.incarnation, &owner.address)
            {
                let is_redirect = self.asked.go_on(owner.incarnation)?;
                if is_redirect {
                    self.cluster.inner.redirects.increment(1);
                }
                return Some(place);
            }
            // A newer map, or a link that stands by now.
            let changed = async {
                tokio::select! {
                    changed = maps.changed() => drop(changed),
                    () = sleep(PAUSE) => {}
                }
            };
            if timeout_at(self.time.until, changed).await.is_err() {
                return None;
            }
        }
        None
    }

    /// Who was named last: requests for one owner go together.
    pub(super) fn asked(&self) -> Option<u128> {
        self.asked.last
    }

    fn place(&self, incarnation: u128, address: &str) -> Option<Place> {
        if incarnation == self.cluster.ownership().own() {
            return self.cluster.inner.local.clone().map(Place::Here);
        }
        let link = self.cluster.link_to(address)?;
        // One that is down comes up again, or its node is dead and the map will name another.
        (link.has_room() != Err(Unanswered::NotReady)).then_some(Place::There(link))
    }
}

/// What another node's refusal means here. One that stops has given its shards away, or does so now: the next map says
/// to whom.
pub(super) fn of_another(why: Unanswered) -> Unanswered {
    match why {
        Unanswered::NoPermit(NoPermit::Draining) => Unanswered::NotOwner,
        why => why,
    }
}

/// Whether the next owner is to be asked the same.
pub(super) fn is_to_ask_again(why: Unanswered) -> bool {
    matches!(why, Unanswered::NotOwner | Unanswered::Broken { .. })
}

/// What is to be said when nobody is asked any more, after this and what was to be said `before`.
pub(super) fn in_the_end(before: Unanswered, why: Unanswered) -> Unanswered {
    match why {
        Unanswered::Broken { was_sent: true } => Unanswered::Unknown,
        // What was seen by somebody once stays unknown, whatever the next one says.
        _ if before == Unanswered::Unknown => Unanswered::Unknown,
        Unanswered::Broken { was_sent: false } | Unanswered::NotOwner => Unanswered::NotReady,
        why => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_asked_of_one_owner_and_of_one_other_and_of_nobody_else() {
        let mut asked = Asked::default();
        // The same one again, as while its map is older than ours, is no other.
        assert_eq!([1, 1, 2, 2, 2].map(|owner| asked.go_on(owner)), [false, false, true, false, false].map(Some));
        // A third one is one too many, and so is one that was asked before and has the shard again.
        assert_eq!([3, 1].map(|owner| asked.go_on(owner)), [None, None]);
        assert_eq!((asked.last, asked.go_on(2)), (Some(2), Some(false)), "who was refused was not asked");
    }

    #[test]
    fn what_an_owner_may_have_seen_stays_unknown_whatever_the_next_one_says() {
        let (sent, unsent) = (Unanswered::Broken { was_sent: true }, Unanswered::Broken { was_sent: false });
        let (refused, open) = (Unanswered::NoPermit(NoPermit::Node), Unanswered::NotReady);
        for why in [unsent, Unanswered::NotOwner, Unanswered::NotReady] {
            assert_eq!(in_the_end(open, why), Unanswered::NotReady);
        }
        assert_eq!(in_the_end(open, refused), refused);
        let before = in_the_end(open, sent);
        for why in [unsent, sent, Unanswered::NotOwner, Unanswered::NotReady, refused, Unanswered::Overloaded] {
            assert_eq!(in_the_end(before, why), Unanswered::Unknown, "{why:?}");
        }
    }
}
