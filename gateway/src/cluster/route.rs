//! Finding the owner of a shard for one request.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Cluster, OWNER_WAIT};
use crate::forward::Unanswered;
use crate::link::Link;
use crate::local::Local;

/// Pause before a node that knows less than this gateway is asked again.
const PAUSE: Duration = Duration::from_millis(5);
/// Owners that a request is asked of at most: the one that is thought right, and the one that is.
const OWNERS_MAX: u32 = 2;

/// Who is asked.
pub(super) enum Place {
    /// This process.
    Here(Local),
    /// Another node.
    There(Link),
}

/// The way of one request.
pub(super) struct Route<'a> {
    cluster: &'a Cluster,
    shard: u16,
    until: Instant,
    /// Incarnation of who was asked last.
    asked: Option<u128>,
    owners: u32,
    /// What is to be said when nobody answers in time.
    failed: Unanswered,
}

impl<'a> Route<'a> {
    pub(super) fn new(cluster: &'a Cluster, shard: u16) -> Self {
        let until = Instant::now() + OWNER_WAIT;
        Self { cluster, shard, until, asked: None, owners: 0, failed: Unanswered::NotReady }
    }

    /// Who is to be asked, once there is somebody.
    ///
    /// # Errors
    /// Nobody in time, or one owner too many.
    pub(super) async fn next(&mut self) -> Result<Place, Unanswered> {
        let mut maps = self.cluster.ownership().maps();
        loop {
            let map = maps.borrow_and_update().clone();
            if let Some(owner) = map.owner(self.shard)
                && let Some(place) = self.place(owner.incarnation, &owner.address)
            {
                if self.asked != Some(owner.incarnation) {
                    self.owners += 1;
                    if self.owners > OWNERS_MAX {
                        return Err(self.failed);
                    }
                    if self.asked.replace(owner.incarnation).is_some() {
                        self.cluster.inner.redirects.increment(1);
                    }
                }
                return Ok(place);
            }
            // A newer map, or a link that stands by now.
            let changed = async {
                tokio::select! {
                    changed = maps.changed() => drop(changed),
                    () = sleep(PAUSE) => {}
                }
            };
            if timeout_at(self.until, changed).await.is_err() {
                return Err(self.failed);
            }
        }
    }

    fn place(&self, incarnation: u128, address: &str) -> Option<Place> {
        if incarnation == self.cluster.ownership().own() {
            return self.cluster.inner.local.clone().map(Place::Here);
        }
        let link = self.cluster.link_to(address)?;
        // One that is down comes up again, or its node is dead and the map will name another.
        (link.has_room() != Err(Unanswered::NotReady)).then_some(Place::There(link))
    }

    /// Whoever was asked is not the owner, or can be reached no more.
    ///
    /// # Errors
    /// It is too late to ask once more.
    pub(super) async fn failed(&mut self, why: Unanswered) -> Result<(), Unanswered> {
        self.failed = match why {
            Unanswered::Broken { was_sent: true } => Unanswered::Unknown,
            // What was seen by somebody once stays unknown.
            _ if self.failed == Unanswered::Unknown => Unanswered::Unknown,
            _ => Unanswered::NotReady,
        };
        if Instant::now() >= self.until {
            return Err(self.failed);
        }
        sleep(PAUSE).await;
        Ok(())
    }
}
