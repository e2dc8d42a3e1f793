//! Where callers of a worker wait for their answers.

use std::task::Waker;

use meed_schemas::outcome::Reply;

use crate::shard::ReplyTo;

/// Room for answers that a free slot keeps.
const REPLIES_KEPT: usize = 16;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    open: bool,
    deadline_ms: i64,
    waker: Option<Waker>,
    missing: u32,
    replies: Vec<Option<Reply>>,
}

/// Slots that are used again and again; a generation tells a late answer from one that is waited for.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    /// Opens a slot for `count` answers, which are waited for until the deadline.
    pub(super) fn open(&mut self, count: u32, deadline_ms: i64) -> (u32, u32) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                self.slots.len() as u32 - 1
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.open = true;
        slot.deadline_ms = deadline_ms;
        slot.missing = count;
        slot.replies.clear();
        slot.replies.resize_with(count as usize, || None);
        (index, slot.generation)
    }

    /// An answer has come; a late one is dropped.
    pub(super) fn fill(&mut self, to: ReplyTo, reply: Reply) {
        let slot = &mut self.slots[to.slot as usize];
        if !slot.open || slot.generation != to.generation || slot.missing == 0 {
            return;
        }
        if let Some(place) = slot.replies.get_mut(to.index as usize)
            && place.replace(reply).is_none()
        {
            slot.missing -= 1;
            if slot.missing == 0
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Time has passed: what is missing after its deadline stays missing. Looks at every slot; there are never
    /// more than commands were under way at once.
    pub(super) fn give_up(&mut self, elapsed_ms: i64) {
        for slot in &mut self.slots {
            if slot.open && slot.missing > 0 && slot.deadline_ms < elapsed_ms {
                slot.missing = 0;
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// The answers, when all are there or the deadline has passed; `None` for one that is missing.
    pub(super) fn poll(&mut self, index: u32, generation: u32, waker: &Waker) -> Option<&mut Vec<Option<Reply>>> {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.open && slot.generation == generation);
        if slot.missing > 0 {
            match &mut slot.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return None;
        }
        Some(&mut slot.replies)
    }

    /// Nobody waits any more.
    pub(super) fn close(&mut self, index: u32, generation: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.open && slot.generation == generation {
            slot.open = false;
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
            slot.replies.clear();
            slot.replies.shrink_to(REPLIES_KEPT);
            self.free.push(index);
        }
    }
}
