//! The loop that sends on time. One thread, no locks; time is read once a turn and once an answer.

use std::collections::{BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::connections::{Breach, Connections};
use crate::ledger::Ledger;
use crate::machine;
use crate::protocol::{Done, FromWorker, Plan, ToWorker};
use crate::scenario::Mode;
use crate::schedule::{Random, Schedule};
use crate::traffic::{Heads, Traffic};
use crate::worker::books::Books;
use crate::worker::pending::{Pending, Queue, What};
use crate::worker::state::{Arriving, Slot, State, TURN_MAX};

/// Requests that one turn sends before it looks at answers.
const SENDS_PER_TURN: usize = 256;
/// Connections that are being made at once.
const CONNECTING_MAX: usize = 512;
/// Longest sleep of a turn while connections are made: the next may be begun soon.
const CONNECTING_TURN_MAX: Duration = Duration::from_millis(1);
/// Beyond the time that the ramp takes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// What every new connection asks first: a server may close one that says nothing.
const GREETING: &str = "/livez";

/// The load of one process.
#[derive(Debug)]
pub(super) struct Load {
    connections: Connections,
    state: State,
    request: Vec<u8>,
}

impl Load {
    pub(super) fn new(mut plan: Plan) -> std::io::Result<Self> {
        let count = plan.connections as usize;
        let connections = Connections::new(count, plan.targets.clone(), plan.sources.clone())?;
        let scenario = &plan.scenario;
        let heads = Heads::new(
            &plan.run,
            plan.worker,
            &plan.account_prefix,
            scenario.mix.batch_items,
            &plan.host,
            scenario.program.as_deref(),
            plan.authorization.as_deref(),
        );
        let schedule = || {
            Schedule::new(plan.slopes.clone(), scenario.arrivals, scenario.seed, plan.worker, plan.workers).peekable()
        };
        let arriving = match scenario.mode {
            _ if !plan.purchases.is_empty() => {
                Arriving::Replay(std::mem::take(&mut plan.purchases).into_iter().peekable())
            }
            Mode::Open => Arriving::Schedule(Box::new(schedule())),
            Mode::Closed => Arriving::Closed,
        };
        let state = State {
            heads,
            traffic: Traffic::new(scenario, plan.worker),
            books: Books::new(plan.worker, plan.slopes.len().max(1), scenario.accounts.count),
            slots: std::iter::repeat_with(Slot::default).take(count).collect(),
            open: 0,
            in_flight: 0,
            free: VecDeque::new(),
            absent: (0..plan.connections).collect(),
            unmade: VecDeque::new(),
            to_greet: Vec::new(),
            connecting: 0,
            failed_connects: 0,
            first_failure: None,
            deadlines: VecDeque::new(),
            resting: BinaryHeap::new(),
            queue: Queue::new(scenario.waiting_max as usize),
            arriving,
            random: Random::new(scenario.seed ^ 0x7e57),
            begin: Instant::now(),
            has_begun: false,
            begin_unix_ms: 0,
            end_ns: plan.slopes.iter().map(|slope| u64::from(slope.seconds) * 1_000_000_000).sum(),
            is_over: false,
            plan,
        };
        Ok(Self { connections, state, request: Vec::with_capacity(64 << 10) })
    }

    /// Makes all connections, no faster than the plan says, and has each answer once.
    pub(super) fn connect(&mut self, commands: &Receiver<ToWorker>) -> std::io::Result<FromWorker> {
        let started = Instant::now();
        let wanted = self.state.plan.connections;
        let ramp = Duration::from_secs(u64::from(wanted / self.state.plan.connections_per_second.max(1)));
        let failures_max = wanted / 10 + 10;
        let mut tried = 0;
        while self.state.open < wanted && self.state.failed_connects < failures_max {
            let gone = matches!(commands.try_recv(), Err(TryRecvError::Disconnected));
            if gone || started.elapsed() > 2 * ramp + CONNECT_PATIENCE {
                break;
            }
            self.connect_some(started.elapsed(), &mut tried);
            self.turn(CONNECTING_TURN_MAX)?;
        }
        let State { open, failed_connects, first_failure, .. } = &self.state;
        Ok(FromWorker::Connected { open: *open, failed: *failed_connects, first_failure: first_failure.clone() })
    }

    /// `elapsed` and `tried` say how many connections may be begun by now.
    fn connect_some(&mut self, elapsed: Duration, tried: &mut u64) {
        let rate = u128::from(self.state.plan.connections_per_second);
        let allowed = u64::try_from(elapsed.as_micros() * rate / 1_000_000).unwrap_or(u64::MAX) + 1;
        while *tried < allowed && self.state.connecting < CONNECTING_MAX {
            let Some(slot) = self.state.absent.pop_front() else { break };
            *tried += 1;
            self.state.slots[slot as usize] = Slot::Opening;
            self.state.connecting += 1;
            if let Err(breach) = self.connections.connect(slot as usize) {
                self.state.broken(slot, breach);
            }
        }
        // An unused allowance is not saved up.
        *tried = (*tried).max(allowed.saturating_sub(rate.try_into().unwrap_or(u64::MAX) / 10 + 1));
    }

    /// Handles what has come, waiting for it at most so long.
    fn turn(&mut self, wait: Duration) -> std::io::Result<()> {
        let Self { connections, state, .. } = self;
        connections.poll(wait, |slot, event| state.on_event(slot as u32, event))?;
        for slot in std::mem::take(&mut state.to_greet) {
            let (host, common) = (&state.plan.host, &state.plan.authorization);
            let authorization = common.as_ref().map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
            let greeting = format!("GET {GREETING} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n");
            state.slots[slot as usize] = Slot::Greeting;
            if let Err(breach) = connections.send(slot as usize, greeting.as_bytes()) {
                state.broken(slot, breach);
            }
        }
        Ok(())
    }

    /// Keeps the connections until the coordinator says something.
    pub(super) fn wait_for_start(&mut self, commands: &Receiver<ToWorker>) -> std::io::Result<Option<ToWorker>> {
        let (started, mut tried) = (Instant::now(), 0);
        loop {
            match commands.try_recv() {
                Ok(command) => return Ok(Some(command)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            self.connect_some(started.elapsed(), &mut tried);
            self.turn(TURN_MAX)?;
        }
    }

    /// Sends what is due until all is sent and has its outcome.
    pub(super) fn run(
        &mut self,
        begins_in: Duration,
        out: &Sender<FromWorker>,
        commands: &Receiver<ToWorker>,
    ) -> std::io::Result<()> {
        self.state.begin = Instant::now() + begins_in;
        self.state.has_begun = true;
        let begins_at = (SystemTime::now() + begins_in).duration_since(UNIX_EPOCH).unwrap_or_default();
        self.state.begin_unix_ms = i64::try_from(begins_at.as_millis()).unwrap_or(i64::MAX / 2);
        let interval_ns = self.state.plan.scenario.interval_ms * 1_000_000;
        let (mut number, mut cpu, mut tried) = (0, machine::own_cpu(), 0);
        loop {
            let now_ns = self.state.now_ns();
            self.state.arrive(now_ns);
            self.send_due(now_ns);
            for slot in self.state.expire(now_ns) {
                self.connections.close(slot as usize);
            }
            self.connect_some(Duration::from_nanos(now_ns), &mut tried);
            if now_ns >= (number + 1) * interval_ns {
                let interval = self.state.interval(number, &mut cpu);
                // The coordinator is gone: so is the reason for the load.
                if out.send(FromWorker::Interval(Box::new(interval))).is_err() {
                    return Ok(());
                }
                number += 1;
                match commands.try_recv() {
                    Err(TryRecvError::Disconnected) | Ok(ToWorker::Finish) => self.state.is_over = true,
                    Ok(ToWorker::End { after_seconds }) => self.state.end_after(after_seconds),
                    _ => {}
                }
            }
            if self.state.is_done(now_ns) {
                break;
            }
            let wait = self.state.wait((number + 1) * interval_ns);
            self.turn(wait)?;
        }
        self.state.give_up();
        let interval = self.state.interval(number, &mut cpu);
        // As above.
        let _ = out.send(FromWorker::Interval(Box::new(interval)));
        Ok(())
    }

    fn send_due(&mut self, now_ns: u64) {
        self.state.wake(now_ns);
        for _ in 0..SENDS_PER_TURN {
            let Some(slot) = self.state.free.pop_front() else { return };
            if !matches!(self.state.slots[slot as usize], Slot::Free) {
                continue;
            }
            let Some(pending) = self.state.next(now_ns) else {
                return self.state.free.push_front(slot);
            };
            let flight = self.state.take_off(pending, now_ns);
            self.request.clear();
            self.state.heads.request(&mut self.request, &flight.planned);
            match self.connections.send(slot as usize, &self.request) {
                Ok(()) => self.state.sent(slot, flight),
                Err(Breach::Closed) => {
                    let what = What::Again(Box::new(flight.planned));
                    let (scheduled_ns, stage, past) = (flight.scheduled_ns, flight.stage, flight.past);
                    self.state.queue.push_front(Pending { scheduled_ns, stage, past, what });
                    self.state.broken(slot, Breach::Closed);
                }
                Err(breach) => {
                    self.state.sent(slot, flight);
                    self.state.broken(slot, breach);
                }
            }
        }
    }

    /// The books, when the load is over.
    pub(super) fn finish(self) -> (Done, Ledger) {
        let (mut done, ledger) = self.state.books.finish();
        done.resident_bytes = machine::memory_bytes(std::process::id()).map_or(0, |(now, _)| now);
        (done, ledger)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scenario::{Scenario, Think};
    use crate::schedule::Slope;
    use crate::traffic::{Operation, Planned};
    use crate::worker::pending::Past;

    /// A load without a connection, whose pauses are these.
    fn load(min_ms: u64, max_ms: u64) -> Load {
        let mut scenario = Scenario::load("smoke").unwrap();
        scenario.think = Think { min_ms, max_ms };
        Load::new(Plan {
            run: "run".to_owned(),
            worker: 0,
            workers: 1,
            scenario,
            slopes: vec![Slope { seconds: 1, rate: 1, to_rate: 1 }],
            targets: vec![([127, 0, 0, 1], 9).into()],
            sources: Vec::new(),
            connections: 2,
            connections_per_second: 1,
            account_prefix: "lt-".to_owned(),
            host: "localhost".to_owned(),
            authorization: None,
            purchases: Vec::new(),
        })
        .unwrap()
    }

    #[test]
    fn a_connection_rests_as_long_as_the_scenario_thinks() {
        const MS: u64 = 1_000_000;
        let mut at_once = load(0, 0).state;
        at_once.release(1, 1_000 * MS);
        assert_eq!(at_once.free, [1]);
        let mut state = load(5, 9).state;
        let mut pauses = std::collections::BTreeSet::new();
        for _ in 0..200 {
            state.release(1, 1_000 * MS);
            assert!(state.free.is_empty(), "it rests");
            let end_ns = state.resting.peek().unwrap().0.0;
            state.wake(end_ns - 1);
            assert!(state.free.is_empty(), "not a moment too early");
            state.wake(end_ns);
            assert_eq!(state.free.pop_front(), Some(1));
            pauses.insert(end_ns / MS - 1_000);
        }
        assert_eq!(pauses.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_connection_that_cannot_be_made_again_is_tried_after_a_pause() {
        let mut state = load(0, 0).state;
        state.absent.clear();
        let fail = |state: &mut State| {
            state.slots[1] = Slot::Opening;
            state.connecting += 1;
            state.broken(1, Breach::Closed);
        };
        fail(&mut state);
        assert_eq!(state.absent.pop_front(), Some(1), "the load has not begun");
        state.has_begun = true;
        fail(&mut state);
        let (due_ns, _) = state.unmade[0];
        state.wake(due_ns - 1);
        assert!(state.absent.is_empty(), "not a moment too early");
        state.wake(due_ns);
        assert_eq!(state.absent, [1]);
    }

    #[test]
    fn what_waits_when_the_time_for_late_requests_has_passed_is_never_sent() {
        let mut state = load(0, 0).state;
        for _ in 0..3 {
            state.queue.push(Pending { scheduled_ns: 1, stage: 0, past: Past::default(), what: What::Drawn });
        }
        let last_ns = state.end_ns + state.timeout_ns();
        assert!(state.next(last_ns).is_some());
        // Its answer is all that the run waits for.
        state.in_flight = 1;
        assert!(state.next(last_ns + 1).is_none() && !state.is_done(last_ns + 1));
        state.in_flight = 0;
        assert!(state.is_done(last_ns + 1));
        state.give_up();
        assert_eq!(state.books.stage(0).counts.dropped, 2);
    }

    #[test]
    fn every_item_of_a_batch_that_was_sent_and_given_up_is_asked_for() {
        let mut state = load(0, 0).state;
        let (operation, account, number) = (Operation::Batch, 0, 0);
        let planned = Planned { operation, account, number, points: 1, amount_minor: 0, at_ms: 0, about: None };
        let pending = |attempts| {
            let what = What::Again(Box::new(planned.clone()));
            Pending { scheduled_ns: 0, stage: 0, past: Past { attempts, ..Past::default() }, what }
        };
        state.queue.push_at(1, pending(1));
        state.queue.push_at(1, pending(0));
        state.give_up();
        let counts = state.books.stage(0).counts;
        assert_eq!(counts.dropped, 1, "one was never sent");
        assert_eq!((counts.failed, counts.unknown), (1, 1), "a request is one, however many items it has");
        let (done, _) = state.books.finish();
        assert_eq!(done.unknown.len(), 20, "the items of the other");
    }
}
