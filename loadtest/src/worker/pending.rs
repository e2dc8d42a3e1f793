//! Requests that are due, or will be due again, and have no connection yet.

use std::collections::{BTreeMap, VecDeque};

use crate::traffic::{Planned, Purchase};

/// What became of earlier attempts of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) attempts: u32,
    /// One of them was answered, whatever the answer.
    pub(super) is_answered: bool,
    /// One of them was not, and may have been executed.
    pub(super) is_open: bool,
}

/// A due request.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// When it was due first, from the begin of the load.
    pub(super) scheduled_ns: u64,
    pub(super) stage: u16,
    pub(super) past: Past,
    pub(super) what: What,
}

/// What it will ask for.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// Drawn when a connection is there.
    Drawn,
    /// A sale that is replayed.
    Sale(Purchase),
    /// The same again.
    Again(Box<Planned>),
}

/// The queue. What is due goes first in, first out; it is bounded, and what finds it full is dropped.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Pending>,
    /// By the time at which they may go, and a number that keeps equal times apart.
    later: BTreeMap<(u64, u64), Pending>,
    later_count: u64,
    waiting_max: usize,
}

impl Queue {
    pub(super) fn new(waiting_max: usize) -> Self {
        Self { waiting_max, ..Self::default() }
    }

    /// Whether there was room.
    pub(super) fn push(&mut self, pending: Pending) -> bool {
        let has_room = self.waiting.len() < self.waiting_max;
        if has_room {
            self.waiting.push_back(pending);
        }
        has_room
    }

    pub(super) fn push_at(&mut self, at_ns: u64, pending: Pending) {
        self.later_count += 1;
        self.later.insert((at_ns, self.later_count), pending);
    }

    /// Back to the front: the connection that it was for is gone.
    pub(super) fn push_front(&mut self, pending: Pending) {
        self.waiting.push_front(pending);
    }

    pub(super) fn pop(&mut self, now_ns: u64) -> Option<Pending> {
        let first_later = self.later.first_entry().filter(|entry| entry.key().0 <= now_ns);
        first_later.map(|entry| entry.remove()).or_else(|| self.waiting.pop_front())
    }

    /// When something will be due again.
    pub(super) fn next_later_ns(&self) -> Option<u64> {
        self.later.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Whether something may be sent at once.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.later.len()
    }

    /// Everything that was never sent.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Pending> + '_ {
        self.waiting.drain(..).chain(std::mem::take(&mut self.later).into_values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(scheduled_ns: u64) -> Pending {
        Pending { scheduled_ns, stage: 0, past: Past::default(), what: What::Drawn }
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let mut queue = Queue::new(2);
        queue.push_at(50, pending(7));
        assert!(queue.push(pending(1)) && queue.push(pending(2)) && !queue.push(pending(3)));
        let mut order = Vec::new();
        assert_eq!(queue.next_later_ns(), Some(50));
        for now in [10, 60, 60, 60] {
            order.extend(queue.pop(now).map(|pending| pending.scheduled_ns));
        }
        assert_eq!(order, [1, 7, 2]);
        assert_eq!((queue.len(), queue.drain().count()), (0, 0));
    }
}
