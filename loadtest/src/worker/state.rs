//! Everything about the load of a process but its sockets: what is due, what is under way, what came of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::connections::{Breach, Event};
use crate::machine;
use crate::protocol::{Interval, NO_RETRY_AFTER, Plan};
use crate::scenario::CheckLevel;
use crate::schedule::{Due, Random, Schedule};
use crate::traffic::{Heads, Operation, Planned, Purchase, Traffic};
use crate::worker::books::Books;
use crate::worker::judge::{Judgement, Refusal, Rules, judge};
use crate::worker::pending::{Past, Pending, Queue, What};

/// Longest sleep of a turn, so that commands and reports are never far.
pub(super) const TURN_MAX: Duration = Duration::from_millis(10);

/// Longest sleep while no connection is free: with each request that comes due one would take the processor from a server
/// on the same machine, and nothing could be sent.
const NO_CONNECTION_SLEEP_NS: u64 = 500_000;
/// Time until a connection that could not be made again is tried once more: a server that is away should not find the
/// processors taken by it.
const RECONNECT_PAUSE_NS: u64 = 100_000_000;

/// A request under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) planned: Planned,
    pub(super) scheduled_ns: u64,
    pub(super) sent_ns: u64,
    pub(super) stage: u16,
    pub(super) past: Past,
}

#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Absent,
    Opening,
    Greeting,
    Free,
    Flight(Flight),
}

/// Due requests in order of time.
#[derive(Debug)]
pub(super) enum Arriving {
    Schedule(Box<std::iter::Peekable<Schedule>>),
    Replay(std::iter::Peekable<std::vec::IntoIter<Purchase>>),
    Closed,
}

/// All that is not a socket.
#[derive(Debug)]
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) heads: Heads,
    pub(super) traffic: Traffic,
    pub(super) books: Books,
    pub(super) slots: Vec<Slot>,
    pub(super) open: u32,
    pub(super) in_flight: u32,
    pub(super) free: VecDeque<u32>,
    pub(super) absent: VecDeque<u32>,
    /// Those that could not be made again, and from when on they are absent: in order of time.
    pub(super) unmade: VecDeque<(u64, u32)>,
    pub(super) to_greet: Vec<u32>,
    pub(super) connecting: usize,
    pub(super) failed_connects: u32,
    pub(super) first_failure: Option<String>,
    /// In order of time, because all requests may take equally long; the time tells one request on a slot from the next.
    pub(super) deadlines: VecDeque<(u64, u32)>,
    pub(super) resting: BinaryHeap<Reverse<(u64, u32)>>,
    pub(super) queue: Queue,
    pub(super) arriving: Arriving,
    pub(super) random: Random,
    pub(super) begin: Instant,
    /// Whether the load was ordered to begin: until then `begin` says nothing.
    pub(super) has_begun: bool,
    /// The same on the calendar, milliseconds since 1970: the time of tills.
    pub(super) begin_unix_ms: i64,
    pub(super) end_ns: u64,
    pub(super) is_over: bool,
}

impl State {
    /// Time since the begin of the load; 0 before it.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(Instant::now().saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ends the schedule, if it does not end before.
    pub(super) fn end_after(&mut self, seconds: u32) {
        self.end_ns = self.end_ns.min(u64::from(seconds) * 1_000_000_000);
    }

    /// Takes what is due from the schedule.
    pub(super) fn arrive(&mut self, now_ns: u64) {
        let until_ns = now_ns.min(self.end_ns);
        loop {
            let (due, what) = match &mut self.arriving {
                Arriving::Closed => return,
                Arriving::Schedule(schedule) => match schedule.next_if(|due| due.at_ns <= until_ns && now_ns > 0) {
                    Some(due) => (due, What::Drawn),
                    None => return,
                },
                Arriving::Replay(purchases) => match purchases.next_if(|due| due.due_ns <= until_ns && now_ns > 0) {
                    Some(purchase) => (Due { at_ns: purchase.due_ns, stage: 0 }, What::Sale(purchase)),
                    None => return,
                },
            };
            let tally = self.books.stage(due.stage);
            tally.counts.scheduled += 1;
            tally.lag.record((now_ns - due.at_ns) / 1_000);
            let pending = Pending { scheduled_ns: due.at_ns, stage: due.stage, past: Past::default(), what };
            if !self.queue.push(pending) {
                self.books.stage(due.stage).counts.dropped += 1;
            }
        }
    }

    /// Connections whose pause is over.
    pub(super) fn wake(&mut self, now_ns: u64) {
        while let Some((_, slot)) = self.unmade.pop_front_if(|unmade| unmade.0 <= now_ns) {
            self.absent.push_back(slot);
        }
        while let Some(Reverse((_, slot))) = self.resting.peek().filter(|rest| rest.0.0 <= now_ns) {
            self.free.push_back(*slot);
            self.resting.pop();
        }
    }

    /// What the next free connection sends. What has found none within the time-out after the schedule's end is never
    /// sent: a server that is far behind would hold the run for as long as it takes for all of it.
    pub(super) fn next(&mut self, now_ns: u64) -> Option<Pending> {
        if self.is_over || self.is_late(now_ns) {
            return None;
        }
        if let Some(pending) = self.queue.pop(now_ns) {
            return Some(pending);
        }
        if !matches!(self.arriving, Arriving::Closed) || now_ns == 0 || now_ns >= self.end_ns {
            return None;
        }
        let stage = self.stage_at(now_ns);
        self.books.stage(stage).counts.scheduled += 1;
        Some(Pending { scheduled_ns: now_ns, stage, past: Past::default(), what: What::Drawn })
    }

    pub(super) fn stage_at(&self, now_ns: u64) -> u16 {
        let mut end_ns = 0;
        let passed = self.plan.slopes.iter().take_while(|slope| {
            end_ns += u64::from(slope.seconds) * 1_000_000_000;
            end_ns <= now_ns
        });
        u16::try_from(passed.count()).unwrap_or(u16::MAX)
    }

    pub(super) fn take_off(&mut self, pending: Pending, now_ns: u64) -> Flight {
        let Pending { scheduled_ns, stage, past, what } = pending;
        let planned = match what {
            What::Again(planned) => *planned,
            What::Sale(purchase) => self.traffic.plan_sale(&purchase),
            What::Drawn => self.traffic.plan(self.begin_unix_ms + i64::try_from(now_ns / 1_000_000).unwrap_or(0)),
        };
        Flight { planned, scheduled_ns, sent_ns: 0, stage, past }
    }

    pub(super) fn sent(&mut self, slot: u32, mut flight: Flight) {
        flight.sent_ns = self.now_ns();
        let tally = self.books.stage(flight.stage);
        if flight.past.attempts == 0 {
            tally.counts.sent += 1;
        } else {
            tally.counts.retries += 1;
        }
        self.deadlines.push_back((flight.sent_ns, slot));
        self.slots[slot as usize] = Slot::Flight(flight);
        self.in_flight += 1;
    }

    pub(super) fn on_event(&mut self, slot: u32, event: Event<'_>) {
        match event {
            Event::Connected => self.to_greet.push(slot),
            Event::Broken(breach) => self.broken(slot, breach),
            Event::Answer(answer) => {
                let closes = answer.closes;
                match std::mem::take(&mut self.slots[slot as usize]) {
                    Slot::Flight(flight) => {
                        self.in_flight -= 1;
                        self.settle(slot, flight, &answer);
                    }
                    _ => self.connected(slot),
                }
                if closes {
                    self.lose(slot);
                }
            }
        }
    }

    pub(super) fn connected(&mut self, slot: u32) {
        self.connecting -= 1;
        self.open += 1;
        self.slots[slot as usize] = Slot::Free;
        self.free.push_back(slot);
    }

    /// An open connection is gone and will be made anew.
    pub(super) fn lose(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::Absent;
        self.open -= 1;
        self.absent.push_back(slot);
    }

    pub(super) fn broken(&mut self, slot: u32, breach: Breach) {
        match std::mem::take(&mut self.slots[slot as usize]) {
            Slot::Opening | Slot::Greeting => {
                self.connecting -= 1;
                self.failed_connects += 1;
                self.first_failure.get_or_insert_with(|| breach.to_string());
                // While connections are made for the first time a failure is no error of the load, but one of its beginning.
                if self.has_begun && self.begin <= Instant::now() {
                    let stage = self.stage_at(self.now_ns());
                    *self.books.stage(stage).errors.entry("connect".to_owned()).or_default() += 1;
                    self.unmade.push_back((self.now_ns() + RECONNECT_PAUSE_NS, slot));
                } else {
                    self.absent.push_back(slot);
                }
            }
            Slot::Free => self.lose(slot),
            Slot::Flight(flight) => {
                self.in_flight -= 1;
                self.lose(slot);
                self.unsettled(flight, breach.kind());
            }
            Slot::Absent => {}
        }
    }

    /// The connection is free again, after a pause if the scenario wants one.
    pub(super) fn release(&mut self, slot: u32, now_ns: u64) {
        self.slots[slot as usize] = Slot::Free;
        let think = self.plan.scenario.think;
        if think.max_ms == 0 {
            return self.free.push_back(slot);
        }
        let pause_ms = think.min_ms + self.random.below(think.max_ms - think.min_ms + 1);
        self.resting.push(Reverse((now_ns + pause_ms * 1_000_000, slot)));
    }

    pub(super) fn settle(&mut self, slot: u32, mut flight: Flight, answer: &Answer<'_>) {
        let now_ns = self.now_ns();
        let scenario = &self.plan.scenario;
        let rules = Rules {
            account_prefix: &self.plan.account_prefix,
            floor: scenario.check.floor,
            batch_items: scenario.mix.batch_items,
            reads_bodies: scenario.check.level == CheckLevel::Full,
        };
        self.slots[slot as usize] = Slot::Free;
        let judgement = judge(&flight.planned, answer, flight.past.attempts == 0, rules);
        self.books.stage(flight.stage).counts.completed += u64::from(!flight.past.is_answered);
        flight.past.is_answered = true;
        flight.past.is_open |= matches!(judgement, Judgement::Unknown(_));
        let retries_as = match &judgement {
            Judgement::Refused { kind: Refusal::Overloaded, .. } => Some("overloaded"),
            Judgement::Refused { kind: Refusal::RateLimited, .. } => Some("rate-limited"),
            Judgement::Unknown(_) => Some("unknown"),
            _ => None,
        };
        if let Judgement::Refused { kind: Refusal::Overloaded | Refusal::RateLimited, .. } = &judgement
            && answer.retry_after_seconds.is_none()
        {
            *self.books.stage(flight.stage).errors.entry(NO_RETRY_AFTER.to_owned()).or_default() += 1;
        }
        if retries_as.is_none_or(|kind| !self.retry(&flight, kind, now_ns)) {
            // A refusal for want of capacity is quick; counted with the others it would make the server look better.
            if retries_as.is_none() || matches!(judgement, Judgement::Unknown(_)) {
                let tally = self.books.stage(flight.stage);
                tally.service.record((now_ns - flight.sent_ns) / 1_000);
                let latency_us = (now_ns - flight.scheduled_ns) / 1_000;
                self.books.latency(flight.stage, flight.planned.operation, latency_us);
            }
            let (is_failed, is_unknown) = how(&judgement, flight.past.is_open);
            self.books.ended(flight.stage, &flight.planned, is_failed, is_unknown);
            self.write_down(&flight, self.items(&flight.planned), judgement);
        }
        self.release(slot, now_ns);
    }

    /// Enters what became of some items of a batch: of all of them, where it was answered as a whole, because each has a
    /// key and an account of its own. Any other request is its only item.
    fn write_down(&mut self, flight: &Flight, items: Range<u32>, judgement: Judgement<'_>) {
        let (stage, planned, is_open) = (flight.stage, &flight.planned, flight.past.is_open);
        match judgement {
            // Of a server whose bodies are not read: as many operations as the other would have told of.
            Judgement::Acknowledged(None) if planned.operation == Operation::Batch => {
                *self.books.stage(stage).acknowledged.entry(planned.operation).or_default() += items.len() as u64;
            }
            Judgement::Acknowledged(effect) => {
                if let Some(effect) = &effect {
                    self.traffic.learn(planned, effect);
                }
                self.books.acknowledged(stage, planned, items.start, effect.as_ref());
            }
            Judgement::Batch(judgements) => {
                let judged = items.zip(judgements);
                judged.for_each(|(item, judgement)| self.write_down(flight, item..item + 1, judgement));
            }
            // What refuses a later attempt says nothing of an earlier one without an answer.
            Judgement::Refused { kind: Refusal::Business, problem, .. } => {
                items.for_each(|item| self.books.refused(stage, planned, item, problem, true, is_open));
            }
            Judgement::Refused { problem, status, .. } => {
                let problem = format!("{status} {problem}");
                items.for_each(|item| self.books.refused(stage, planned, item, &problem, false, is_open));
            }
            Judgement::Unknown(kind) => items.for_each(|item| self.books.unknown(stage, planned, item, &kind)),
            Judgement::Wrong(what) => {
                self.books.wrong(planned, items.start, what);
                items.for_each(|item| self.books.unknown(stage, planned, item, "wrong answer"));
            }
        }
    }

    /// A request whose connection broke, or whose time is over.
    pub(super) fn unsettled(&mut self, mut flight: Flight, kind: &str) {
        let now_ns = self.now_ns();
        flight.past.is_open = true;
        if self.retry(&flight, "unknown", now_ns) {
            return;
        }
        // What was waited is a lower bound of what the answer would have taken.
        self.books.latency(flight.stage, flight.planned.operation, (now_ns - flight.scheduled_ns) / 1_000);
        self.ask_later(flight.stage, &flight.planned, kind);
    }

    /// The outcome is unknown; of a batch, that of every item.
    fn ask_later(&mut self, stage: u16, planned: &Planned, kind: &str) {
        self.books.ended(stage, planned, true, true);
        self.items(planned).for_each(|item| self.books.unknown(stage, planned, item, kind));
    }

    /// The items of a request; of one that is no batch, itself.
    fn items(&self, planned: &Planned) -> Range<u32> {
        0..if planned.operation == Operation::Batch { self.plan.scenario.mix.batch_items } else { 1 }
    }

    /// Whether the request will be sent again.
    pub(super) fn retry(&mut self, flight: &Flight, kind: &str, now_ns: u64) -> bool {
        let retry = &self.plan.scenario.retry;
        if flight.past.attempts >= retry.attempts || !retry.on.iter().any(|on| on == kind) || self.is_over {
            return false;
        }
        let backoff_ns = (retry.backoff_ms * 1_000_000).saturating_mul(1 << flight.past.attempts.min(16));
        let what = What::Again(Box::new(flight.planned.clone()));
        let past = Past { attempts: flight.past.attempts + 1, ..flight.past };
        let (scheduled_ns, stage) = (flight.scheduled_ns, flight.stage);
        self.queue.push_at(now_ns + backoff_ns, Pending { scheduled_ns, stage, past, what });
        true
    }

    /// Requests that have waited too long for their answer: their connections must be closed.
    pub(super) fn expire(&mut self, now_ns: u64) -> Vec<u32> {
        let timeout_ns = self.timeout_ns();
        let mut closed = Vec::new();
        while let Some(&(sent_ns, slot)) = self.deadlines.front() {
            let is_this = matches!(&self.slots[slot as usize], Slot::Flight(flight) if flight.sent_ns == sent_ns);
            if is_this && sent_ns + timeout_ns > now_ns {
                break;
            }
            self.deadlines.pop_front();
            if is_this && let Slot::Flight(flight) = std::mem::take(&mut self.slots[slot as usize]) {
                self.in_flight -= 1;
                self.lose(slot);
                self.unsettled(flight, "timeout");
                closed.push(slot);
            }
        }
        closed
    }

    pub(super) fn timeout_ns(&self) -> u64 {
        self.plan.scenario.timeout_ms * 1_000_000
    }

    fn is_late(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.end_ns) > self.timeout_ns()
    }

    pub(super) fn is_done(&self, now_ns: u64) -> bool {
        let all_arrived = match &self.arriving {
            // It ends with its last purchase.
            Arriving::Replay(purchases) if purchases.len() == 0 => true,
            _ => now_ns >= self.end_ns,
        };
        let late = self.is_late(now_ns);
        if self.is_over {
            return self.in_flight == 0 || late;
        }
        all_arrived && self.in_flight == 0 && (self.queue.len() == 0 || late)
    }

    /// How long a turn may sleep.
    pub(super) fn wait(&mut self, interval_end_ns: u64) -> Duration {
        let before_begin = self.begin.saturating_duration_since(Instant::now());
        if !before_begin.is_zero() {
            return before_begin.min(TURN_MAX);
        }
        let now_ns = self.now_ns();
        let next_due = match &mut self.arriving {
            Arriving::Closed => Some(self.end_ns),
            // What is due now must wait for an answer, which ends the sleep.
            _ if self.free.is_empty() => Some(now_ns + NO_CONNECTION_SLEEP_NS),
            Arriving::Schedule(schedule) => schedule.peek().map(|due| due.at_ns),
            Arriving::Replay(purchases) => purchases.peek().map(|due| due.due_ns),
        };
        let has_work = !self.free.is_empty() && (self.queue.has_waiting() || matches!(self.arriving, Arriving::Closed));
        if has_work && now_ns < self.end_ns {
            return Duration::ZERO;
        }
        let timeout_ns = self.timeout_ns();
        let deadline = self.deadlines.front().map(|(sent_ns, _)| sent_ns + timeout_ns);
        let resting = self.resting.peek().map(|rest| rest.0.0);
        let unmade = self.unmade.front().map(|unmade| unmade.0);
        let times = [next_due, deadline, resting, unmade, self.queue.next_later_ns(), Some(interval_end_ns)];
        let next_ns = times.into_iter().flatten().min().unwrap_or(0);
        Duration::from_nanos(next_ns.saturating_sub(now_ns)).min(TURN_MAX)
    }

    /// What was never sent, at the end.
    pub(super) fn give_up(&mut self) {
        let left: Vec<Pending> = self.queue.drain().collect();
        for pending in left {
            match pending.what {
                // It was sent before: what became of it must be asked for.
                What::Again(planned) if pending.past.attempts > 0 => {
                    self.ask_later(pending.stage, &planned, "given up")
                }
                _ => self.books.stage(pending.stage).counts.dropped += 1,
            }
        }
    }

    pub(super) fn interval(&mut self, number: u64, cpu: &mut Duration) -> Interval {
        let used = machine::own_cpu();
        let cpu_us = u64::try_from((used - *cpu).as_micros()).unwrap_or(u64::MAX);
        *cpu = used;
        Interval {
            number,
            stages: self.books.take_tallies(),
            in_flight: self.in_flight,
            waiting: u32::try_from(self.queue.len()).unwrap_or(u32::MAX),
            open_connections: self.open,
            cpu_us,
        }
    }
}

/// Whether a request ended in an error, and whether its outcome is unknown; of a batch, that of at least one item.
fn how(judgement: &Judgement<'_>, is_open: bool) -> (bool, bool) {
    match judgement {
        Judgement::Acknowledged(_) => (false, false),
        Judgement::Refused { kind, .. } => (*kind != Refusal::Business, is_open),
        Judgement::Unknown(_) | Judgement::Wrong(_) => (true, true),
        Judgement::Batch(items) => items.iter().fold((false, false), |(failed, unknown), item| {
            let one = how(item, is_open);
            (failed || one.0, unknown || one.1)
        }),
    }
}
