//! Where callers on one thread wait for their answers.

use std::task::Waker;

/// Room for answers that a free slot keeps.
const REPLIES_KEPT: usize = 16;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    open: bool,
    waker: Option<Waker>,
    missing: u32,
    /// What is missing after this stays missing.
    deadline_ms: i64,
    replies: Vec<Option<T>>,
    /// What is answered at the deadline if nothing else has come, by place.
    at_deadline: Vec<(u32, T)>,
    /// Of a slot that is open for any number of answers: those that came, each with its index.
    arrived: Option<Vec<(u32, T)>>,
}

impl<T> Slot<T> {
    fn give_up(&mut self) {
        self.missing = 0;
        for (place, reply) in self.at_deadline.drain(..) {
            if let Some(at @ None) = self.replies.get_mut(place as usize) {
                *at = Some(reply);
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Slots that are used again and again; a generation tells a late answer from one that is waited for.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Opens a slot for `count` answers.
    pub fn open(&mut self, count: u32) -> (u32, u32) {
        let (index, slot) = self.take();
        slot.missing = count;
        slot.replies.clear();
        slot.replies.resize_with(count as usize, || None);
        (index, slot.generation)
    }

    /// As [`Slots::open`], waited for until a deadline that [`Slots::give_up_late`] looks at.
    pub fn open_until(&mut self, count: u32, deadline_ms: i64) -> (u32, u32) {
        let (index, generation) = self.open(count);
        self.slots[index as usize].deadline_ms = deadline_ms;
        (index, generation)
    }

    /// Opens a slot for any number of answers, taken with [`Slots::poll_arrived`] as they come.
    pub fn open_endless(&mut self) -> (u32, u32) {
        let (index, slot) = self.take();
        slot.arrived = Some(Vec::new());
        (index, slot.generation)
    }

    fn take(&mut self) -> (u32, &mut Slot<T>) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let (waker, replies, at_deadline, arrived) = (None, Vec::new(), Vec::new(), None);
                self.slots.push(Slot {
                    generation: 0,
                    open: false,
                    waker,
                    missing: 0,
                    deadline_ms: i64::MAX,
                    replies,
                    at_deadline,
                    arrived,
                });
                self.slots.len() as u32 - 1
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.open = true;
        slot.deadline_ms = i64::MAX;
        (index, slot)
    }

    fn of(&mut self, index: u32, generation: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(index as usize).filter(|slot| slot.open && slot.generation == generation)
    }

    /// Whether somebody still waits for the answer at `place`.
    pub fn is_missing(&self, index: u32, generation: u32, place: u32) -> bool {
        let slot = self.slots.get(index as usize).filter(|slot| slot.open && slot.generation == generation);
        slot.is_some_and(|s| s.missing > 0 && s.replies.get(place as usize).is_some_and(Option::is_none))
    }

    /// An answer has come; a late one is dropped.
    pub fn fill(&mut self, index: u32, generation: u32, place: u32, reply: T) {
        let Some(slot) = self.of(index, generation) else { return };
        if let Some(arrived) = &mut slot.arrived {
            arrived.push((place, reply));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
            return;
        }
        if slot.missing == 0 {
            return;
        }
        if let Some(at) = slot.replies.get_mut(place as usize)
            && at.replace(reply).is_none()
        {
            slot.missing -= 1;
            if slot.missing == 0
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// Answers the caller at `place` with this if nothing else has come by its deadline. Callers without one, of an
    /// endless slot, are not told.
    pub fn tell_at_deadline(&mut self, index: u32, generation: u32, place: u32, reply: T) {
        if let Some(slot) = self.of(index, generation).filter(|slot| slot.arrived.is_none() && slot.missing > 0) {
            slot.at_deadline.push((place, reply));
        }
    }

    /// The deadline has passed: what is missing stays missing.
    pub fn give_up(&mut self, index: u32, generation: u32) {
        if let Some(slot) = self.of(index, generation).filter(|slot| slot.missing > 0) {
            slot.give_up();
        }
    }

    /// Time has passed: gives up whatever is late. Looks at every slot; there are never more than callers waited
    /// at once.
    pub fn give_up_late(&mut self, elapsed_ms: i64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.open && slot.missing > 0 && slot.deadline_ms < elapsed_ms)
        {
            slot.give_up();
        }
    }

    /// The answers, when all are there or the deadline has passed; `None` for one that is missing.
    pub fn poll(&mut self, index: u32, generation: u32, waker: &Waker) -> Option<&mut Vec<Option<T>>> {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.open && slot.generation == generation);
        if slot.missing > 0 {
            Self::remember(&mut slot.waker, waker);
            return None;
        }
        Some(&mut slot.replies)
    }

    /// Moves what has come to an endless slot into the empty `into`; false when nothing has, and then the waker is
    /// called when something does.
    pub fn poll_arrived(&mut self, index: u32, generation: u32, into: &mut Vec<(u32, T)>, waker: &Waker) -> bool {
        let Some(slot) = self.of(index, generation) else { return false };
        match &mut slot.arrived {
            Some(arrived) if !arrived.is_empty() => {
                std::mem::swap(arrived, into);
                true
            }
            _ => {
                Self::remember(&mut slot.waker, waker);
                false
            }
        }
    }

    fn remember(place: &mut Option<Waker>, waker: &Waker) {
        match place {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Nobody waits any more.
    pub fn close(&mut self, index: u32, generation: u32) {
        if let Some(slot) = self.of(index, generation) {
            slot.open = false;
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
            slot.arrived = None;
            slot.at_deadline.clear();
            slot.replies.clear();
            slot.replies.shrink_to(REPLIES_KEPT);
            self.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(slots: &mut Slots<u8>, (index, generation): (u32, u32)) -> Option<Vec<Option<u8>>> {
        slots.poll(index, generation, Waker::noop()).cloned()
    }

    #[test]
    fn at_the_deadline_a_caller_gets_what_it_was_to_be_told_unless_its_answer_has_come() {
        let mut slots = Slots::default();
        let (index, generation) = slots.open_until(3, 100);
        slots.tell_at_deadline(index, generation, 0, 1);
        slots.tell_at_deadline(index, generation, 1, 1);
        slots.fill(index, generation, 1, 2);
        slots.give_up_late(100);
        assert_eq!(answers(&mut slots, (index, generation)), None);
        slots.give_up_late(101);
        assert_eq!(answers(&mut slots, (index, generation)), Some(vec![Some(1), Some(2), None]));
        slots.close(index, generation);
        // Whoever has the slot next is told nothing of it.
        let next = slots.open_until(1, 200);
        slots.tell_at_deadline(index, generation, 0, 1);
        slots.give_up_late(201);
        assert_eq!((next.0, answers(&mut slots, next)), (index, Some(vec![None])));
    }
}
