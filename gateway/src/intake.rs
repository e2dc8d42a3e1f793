//! How many requests a worker has under way before it leaves further ones in their sockets.
//!
//! A request that was read takes room: its connection's state, buffers, futures, what is sent on. With thousands under
//! way all of that has left the processor's caches when the answer comes, and is fetched from memory a second time. One
//! that waits in its socket costs nothing, and when it is read it is served while it is in the caches. So beyond the
//! limit connections wait in a line, the one that has waited longest first, and whether their next request has come is
//! looked at when it is their turn.
//!
//! Only requests of the last moment count ([`MOMENT_MS`]): one that is older waits for something other than this
//! worker's processor (another node, a store), and must not keep others out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Waker;

/// Requests count for one to two times as long.
const MOMENT_MS: u64 = 250;

/// Where a connection is with its next request.
#[derive(Debug, Default)]
pub struct Turn(Cell<Stage>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// No part of a request has been read.
    #[default]
    Between,
    /// In the line, at this place.
    Waiting(u64),
    /// A request is under way since that moment.
    UnderWay(u64),
}

impl Turn {
    /// Whether the connection is in the line.
    pub fn is_waiting(&self) -> bool {
        matches!(self.0.get(), Stage::Waiting(_))
    }
}

/// The requests of one worker.
#[derive(Debug)]
pub struct Intake {
    limit: Cell<usize>,
    /// The moment of the first count.
    moment: Cell<u64>,
    /// Requests under way that began in this moment, and in the one before.
    begun: Cell<[usize; 2]>,
    /// Connections that were let in and have not read yet.
    let_in: Cell<usize>,
    line: RefCell<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// The place of the first.
    first: u64,
    /// `None` for one that has gone.
    wakers: VecDeque<Option<Waker>>,
}

impl Intake {
    /// Lets in so many at a time; 0 is no limit.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: Cell::new(if limit == 0 { usize::MAX } else { limit }),
            moment: Cell::new(0),
            begun: Cell::new([0; 2]),
            let_in: Cell::new(0),
            line: RefCell::default(),
        }
    }

    /// Connections in the line.
    pub fn waiting(&self) -> usize {
        self.line.borrow().wakers.len()
    }

    /// Whether the next request of a connection may not be read now. Then the connection is in the line, and `waker` is
    /// called when it is its turn.
    pub fn holds_back(&self, turn: &Turn, waker: &Waker) -> bool {
        let mut line = self.line.borrow_mut();
        match turn.0.get() {
            Stage::Between if self.has_room() && line.wakers.is_empty() => false,
            Stage::Between => {
                turn.0.set(Stage::Waiting(line.first + line.wakers.len() as u64));
                line.wakers.push_back(Some(waker.clone()));
                true
            }
            Stage::Waiting(place) => place >= line.first,
            Stage::UnderWay(_) => false,
        }
    }

    /// A part of a request was read.
    pub fn begin(&self, turn: &Turn, now_ms: u64) {
        match turn.0.get() {
            Stage::UnderWay(_) => return,
            Stage::Waiting(place) => self.leave_line(place),
            Stage::Between => {}
        }
        self.move_on(now_ms);
        let [now, before] = self.begun.get();
        self.begun.set([now + 1, before]);
        turn.0.set(Stage::UnderWay(self.moment.get()));
    }

    /// The request is answered, or there is none, or its connection has gone.
    pub fn end(&self, turn: &Turn) {
        match turn.0.replace(Stage::Between) {
            Stage::Between => return,
            Stage::Waiting(place) => self.leave_line(place),
            Stage::UnderWay(moment) => {
                let [now, before] = self.begun.get();
                match self.moment.get() - moment {
                    0 => self.begun.set([now - 1, before]),
                    1 => self.begun.set([now, before - 1]),
                    _ => {}
                }
            }
        }
        self.let_in_next();
    }

    /// Time has passed.
    pub fn tick(&self, now_ms: u64) {
        self.move_on(now_ms);
        self.let_in_next();
    }

    /// There is no limit any more.
    pub fn open(&self) {
        self.limit.set(usize::MAX);
        self.let_in_next();
    }

    /// Gives back the place in the line, or that of who was let in.
    fn leave_line(&self, place: u64) {
        let mut line = self.line.borrow_mut();
        match place.checked_sub(line.first) {
            Some(behind) => line.wakers[behind as usize] = None,
            None => self.let_in.set(self.let_in.get() - 1),
        }
    }

    fn move_on(&self, now_ms: u64) {
        let moment = now_ms / MOMENT_MS;
        let [now, _] = self.begun.get();
        match moment.saturating_sub(self.moment.get()) {
            0 => return,
            1 => self.begun.set([0, now]),
            _ => self.begun.set([0, 0]),
        }
        self.moment.set(moment);
    }

    fn has_room(&self) -> bool {
        let [now, before] = self.begun.get();
        now + before + self.let_in.get() < self.limit.get()
    }

    fn let_in_next(&self) {
        while self.has_room() {
            let mut line = self.line.borrow_mut();
            let Some(next) = line.wakers.pop_front() else { return };
            line.first += 1;
            drop(line);
            if let Some(waker) = next {
                self.let_in.set(self.let_in.get() + 1);
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Connection {
        turn: Turn,
        woken: Arc<Woken>,
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Connection {
        /// Has a request in its socket; whether that is read.
        fn asks(&self, intake: &Intake, now_ms: u64) -> bool {
            let reads = !intake.holds_back(&self.turn, &Waker::from(Arc::clone(&self.woken)));
            if reads {
                intake.begin(&self.turn, now_ms);
            }
            reads
        }

        fn is_woken(&self) -> bool {
            self.woken.0.load(Ordering::Relaxed) > 0
        }
    }

    fn connections<const COUNT: usize>() -> [Connection; COUNT] {
        std::array::from_fn(|_| Connection::default())
    }

    #[test]
    fn beyond_the_limit_they_are_read_in_their_order_as_others_end() {
        let (intake, [a, b, c, d, late]) = (Intake::new(2), connections());
        assert!(a.asks(&intake, 0) && b.asks(&intake, 0));
        assert!(!c.asks(&intake, 0) && !d.asks(&intake, 0) && !d.asks(&intake, 0));
        assert_eq!(intake.waiting(), 2);
        intake.end(&a.turn);
        assert!(c.is_woken() && !d.is_woken());
        assert!(!late.asks(&intake, 0), "who was let in has its place, and whoever waits is before the next");
        assert!(c.asks(&intake, 0));
        intake.end(&b.turn);
        assert!(d.is_woken() && d.asks(&intake, 0));
        intake.end(&c.turn);
        assert!(late.is_woken() && late.asks(&intake, 0));
        assert_eq!((intake.waiting(), late.woken.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn what_takes_longer_than_a_moment_keeps_nobody_out() {
        let (intake, [stuck, a, b]) = (Intake::new(1), connections());
        assert!(stuck.asks(&intake, 0) && !a.asks(&intake, 0));
        intake.tick(2 * MOMENT_MS - 1);
        assert!(!a.is_woken());
        intake.tick(2 * MOMENT_MS);
        assert!(a.is_woken() && a.asks(&intake, 2 * MOMENT_MS));
        // It was not counted any more, so its end lets nobody in.
        intake.end(&stuck.turn);
        assert!(!b.asks(&intake, 2 * MOMENT_MS));
        intake.end(&a.turn);
        assert!(b.is_woken());
    }

    #[test]
    fn an_end_counts_for_the_moment_in_which_the_request_began() {
        let (intake, [a, b, c]) = (Intake::new(2), connections());
        assert!(a.asks(&intake, MOMENT_MS - 1) && b.asks(&intake, MOMENT_MS));
        assert!(!c.asks(&intake, MOMENT_MS));
        intake.end(&a.turn);
        assert!(c.is_woken() && c.asks(&intake, MOMENT_MS));
        intake.tick(2 * MOMENT_MS);
        assert_eq!(intake.begun.get(), [0, 2]);
        intake.end(&b.turn);
        intake.end(&c.turn);
        intake.end(&c.turn);
        assert_eq!(intake.begun.get(), [0, 0]);
    }

    #[test]
    fn a_connection_that_goes_gives_its_place_to_the_next() {
        let (intake, [a, in_line, let_in, next]) = (Intake::new(1), connections());
        assert!(a.asks(&intake, 0));
        for waiting in [&in_line, &let_in, &next] {
            assert!(!waiting.asks(&intake, 0));
        }
        intake.end(&in_line.turn);
        intake.end(&a.turn);
        assert!(!in_line.is_woken() && let_in.is_woken() && !next.is_woken());
        intake.end(&let_in.turn);
        assert!(next.is_woken() && next.asks(&intake, 0));
        assert_eq!((intake.begun.get(), intake.let_in.get()), ([1, 0], 0));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let (intake, [a, b, c]) = (Intake::new(1), connections());
        assert!(a.asks(&intake, 0) && !b.asks(&intake, 0));
        intake.open();
        assert!(b.is_woken() && b.asks(&intake, 0) && c.asks(&intake, 0));
        let unlimited = Intake::new(0);
        assert!(connections::<100>().iter().all(|connection| connection.asks(&unlimited, 0)));
    }

    #[test]
    fn a_request_that_came_with_the_one_before_it_counts_once() {
        let (intake, [a]) = (Intake::new(1), connections());
        assert!(a.asks(&intake, 0));
        intake.begin(&a.turn, 0);
        intake.end(&a.turn);
        // It was read already, so it waits for nobody.
        intake.begin(&a.turn, 0);
        assert_eq!(intake.begun.get(), [1, 0]);
    }
}
