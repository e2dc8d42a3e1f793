//! The newest balances between two flushes to the compacted topic: one per account, however many events it
//! had. A flush is published when all of it is confirmed; then everything up to the positions at which it was
//! taken is. When some of it is lost, all of it is sent again: which of them is not known.

use hashbrown::HashMap;
use meed_schemas::event::Balance;
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::record::Record;

/// Accounts that wait for a flush; with more of them it comes early.
pub(super) const ACCOUNTS_MAX: usize = 100_000;

/// Balances since the last flush, and the flush under way.
#[derive(Debug)]
pub(super) struct Balances {
    newest: HashMap<Identity, Balance>,
    published: Vec<u64>,
    flush: Option<Flush>,
}

#[derive(Debug)]
struct Flush {
    up_to: Vec<u64>,
    unsent: Vec<(Identity, Balance)>,
    sent: Vec<(Identity, Balance)>,
    unconfirmed: usize,
    has_lost: bool,
}

impl Balances {
    /// Nothing is under way, and everything up to `published` is confirmed.
    pub(super) fn new(published: Vec<u64>) -> Self {
        Self { newest: HashMap::new(), published, flush: None }
    }

    /// Takes the balances of a record that is not published here yet. Programs have none.
    pub(super) fn note(&mut self, record: &Record) {
        let position = record.position;
        if record.identity.kind() != AccountKind::Program
            && record.kind.is_effect()
            && position.sequence() > self.published[usize::from(position.shard())]
        {
            self.newest.insert(record.identity.clone(), Balance::of(record));
        }
    }

    /// Whether so many accounts wait that the flush cannot.
    pub(super) fn is_full(&self) -> bool {
        self.newest.len() >= ACCOUNTS_MAX
    }

    /// Whether a flush is under way.
    pub(super) fn is_flushing(&self) -> bool {
        self.flush.is_some()
    }

    /// Begins a flush of what was read up to these positions, unless one is under way.
    pub(super) fn begin_flush(&mut self, up_to: &[u64]) {
        if self.flush.is_none() && self.published != up_to {
            let unsent = self.newest.drain().collect();
            self.flush =
                Some(Flush { up_to: up_to.to_owned(), unsent, sent: Vec::new(), unconfirmed: 0, has_lost: false });
            self.finish();
        }
    }

    /// Hands balances of the flush to `send` until it takes no more.
    pub(super) fn send(&mut self, mut send: impl FnMut(&Identity, &Balance) -> bool) {
        let Some(flush) = &mut self.flush else { return };
        while let Some((identity, balance)) = flush.unsent.last()
            && send(identity, balance)
        {
            flush.sent.extend(flush.unsent.pop());
            flush.unconfirmed += 1;
        }
    }

    /// So many balances are confirmed, and so many have not come in time.
    pub(super) fn confirmed(&mut self, count: usize, lost: usize) {
        if let Some(flush) = &mut self.flush {
            flush.unconfirmed = flush.unconfirmed.saturating_sub(count + lost);
            flush.has_lost |= lost > 0;
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(flush) = &mut self.flush
            && flush.has_lost
            && flush.unconfirmed == 0
        {
            flush.unsent.append(&mut flush.sent);
            flush.has_lost = false;
        }
        if let Some(flush) = self.flush.take_if(|flush| flush.unsent.is_empty() && flush.unconfirmed == 0) {
            self.published = flush.up_to;
        }
    }

    /// How many balances wait for a confirmation.
    pub(super) fn waiting(&self) -> usize {
        self.flush.as_ref().map_or(0, |flush| flush.unconfirmed)
    }

    /// Per shard, the balances of everything up to here are published.
    pub(super) fn published(&self) -> &[u64] {
        &self.published
    }
}
