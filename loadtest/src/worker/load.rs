//! The loop that sends on time. One thread, no locks; time is read once a turn and once an answer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::answer::Answer;
use crate::connections::{Breach, Connections, Event};
use crate::ledger::Ledger;
use crate::machine;
use crate::protocol::{Done, FromWorker, Interval, Plan, ToWorker};
use crate::scenario::{CheckLevel, Mode};
use crate::schedule::{Due, Random, Schedule};
use crate::traffic::{Heads, Planned, Purchase, Traffic};
use crate::worker::books::Books;
use crate::worker::judge::{Judgement, Refusal, Rules, judge};
use crate::worker::pending::{Pending, Queue, What};

/// Requests that one turn sends before it looks at answers.
const SENDS_PER_TURN: usize = 256;
/// Connections that are being made at once.
const CONNECTING_MAX: usize = 512;
/// Longest sleep of a turn, so that commands and reports are never far.
const TURN_MAX: Duration = Duration::from_millis(10);
/// Beyond the time that the ramp takes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// What every new connection asks first: a server may close one that says nothing.
const GREETING: &str = "/livez";

/// A request under way.
#[derive(Debug)]
struct Flight {
    planned: Planned,
    scheduled_ns: u64,
    sent_ns: u64,
    stage: u16,
    attempts: u32,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Absent,
    Opening,
    Greeting,
    Free,
    Flight(Flight),
}

/// Due requests in order of time.
#[derive(Debug)]
enum Arriving {
    Schedule(Box<std::iter::Peekable<Schedule>>),
    Replay(std::iter::Peekable<std::vec::IntoIter<Purchase>>),
    Closed,
}

/// All that is not a socket.
#[derive(Debug)]
struct State {
    plan: Plan,
    heads: Heads,
    traffic: Traffic,
    books: Books,
    slots: Vec<Slot>,
    open: u32,
    in_flight: u32,
    free: VecDeque<u32>,
    absent: VecDeque<u32>,
    to_greet: Vec<u32>,
    connecting: usize,
    failed_connects: u32,
    first_failure: Option<String>,
    /// In order of time, because all requests may take equally long; the time tells one request on a slot from the next.
    deadlines: VecDeque<(u64, u32)>,
    resting: BinaryHeap<Reverse<(u64, u32)>>,
    queue: Queue,
    arriving: Arriving,
    random: Random,
    begin: Instant,
    end_ns: u64,
    is_over: bool,
}

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
            self.turn(Duration::from_millis(1))?;
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
        let interval_ns = self.state.plan.scenario.interval_ms * 1_000_000;
        let timeout_ns = self.state.plan.scenario.timeout_ms * 1_000_000;
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
                if matches!(commands.try_recv(), Err(TryRecvError::Disconnected) | Ok(ToWorker::Finish)) {
                    self.state.is_over = true;
                }
            }
            if self.state.is_done(now_ns, timeout_ns) {
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
            let flight = self.state.take_off(pending);
            self.request.clear();
            self.state.heads.request(&mut self.request, &flight.planned);
            match self.connections.send(slot as usize, &self.request) {
                Ok(()) => self.state.sent(slot, flight),
                Err(Breach::Closed) => {
                    let what = What::Again(Box::new(flight.planned));
                    let (scheduled_ns, stage, attempts) = (flight.scheduled_ns, flight.stage, flight.attempts);
                    self.state.queue.push_front(Pending { scheduled_ns, stage, attempts, what });
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

impl State {
    /// Time since the begin of the load; 0 before it.
    fn now_ns(&self) -> u64 {
        u64::try_from(Instant::now().saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes what is due from the schedule.
    fn arrive(&mut self, now_ns: u64) {
        loop {
            let (due, what) = match &mut self.arriving {
                Arriving::Closed => return,
                Arriving::Schedule(schedule) => match schedule.next_if(|due| due.at_ns <= now_ns && now_ns > 0) {
                    Some(due) => (due, What::Drawn),
                    None => return,
                },
                Arriving::Replay(purchases) => match purchases.next_if(|due| due.due_ns <= now_ns && now_ns > 0) {
                    Some(purchase) => (Due { at_ns: purchase.due_ns, stage: 0 }, What::Sale(purchase)),
                    None => return,
                },
            };
            let tally = self.books.stage(due.stage);
            tally.scheduled += 1;
            tally.lag.record((now_ns - due.at_ns) / 1_000);
            let pending = Pending { scheduled_ns: due.at_ns, stage: due.stage, attempts: 0, what };
            if !self.queue.push(pending) {
                self.books.stage(due.stage).dropped += 1;
            }
        }
    }

    /// Connections whose pause is over.
    fn wake(&mut self, now_ns: u64) {
        while let Some(Reverse((_, slot))) = self.resting.peek().filter(|rest| rest.0.0 <= now_ns) {
            self.free.push_back(*slot);
            self.resting.pop();
        }
    }

    /// What the next free connection sends.
    fn next(&mut self, now_ns: u64) -> Option<Pending> {
        if self.is_over {
            return None;
        }
        if let Some(pending) = self.queue.pop(now_ns) {
            return Some(pending);
        }
        if !matches!(self.arriving, Arriving::Closed) || now_ns == 0 || now_ns >= self.end_ns {
            return None;
        }
        let stage = self.stage_at(now_ns);
        self.books.stage(stage).scheduled += 1;
        Some(Pending { scheduled_ns: now_ns, stage, attempts: 0, what: What::Drawn })
    }

    fn stage_at(&self, now_ns: u64) -> u16 {
        let mut end_ns = 0;
        let passed = self.plan.slopes.iter().take_while(|slope| {
            end_ns += u64::from(slope.seconds) * 1_000_000_000;
            end_ns <= now_ns
        });
        u16::try_from(passed.count()).unwrap_or(u16::MAX)
    }

    fn take_off(&mut self, pending: Pending) -> Flight {
        let Pending { scheduled_ns, stage, attempts, what } = pending;
        let planned = match what {
            What::Again(planned) => *planned,
            What::Sale(purchase) => self.traffic.plan_sale(&purchase),
            What::Drawn => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.traffic.plan(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
            }
        };
        Flight { planned, scheduled_ns, sent_ns: 0, stage, attempts }
    }

    fn sent(&mut self, slot: u32, mut flight: Flight) {
        flight.sent_ns = self.now_ns();
        let tally = self.books.stage(flight.stage);
        if flight.attempts == 0 {
            tally.sent += 1;
        } else {
            tally.retries += 1;
        }
        self.deadlines.push_back((flight.sent_ns, slot));
        self.slots[slot as usize] = Slot::Flight(flight);
        self.in_flight += 1;
    }

    fn on_event(&mut self, slot: u32, event: Event<'_>) {
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

    fn connected(&mut self, slot: u32) {
        self.connecting -= 1;
        self.open += 1;
        self.slots[slot as usize] = Slot::Free;
        self.free.push_back(slot);
    }

    /// An open connection is gone and will be made anew.
    fn lose(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot::Absent;
        self.open -= 1;
        self.absent.push_back(slot);
    }

    fn broken(&mut self, slot: u32, breach: Breach) {
        match std::mem::take(&mut self.slots[slot as usize]) {
            Slot::Opening | Slot::Greeting => {
                self.connecting -= 1;
                self.failed_connects += 1;
                self.first_failure.get_or_insert_with(|| format!("{breach:?}").to_lowercase());
                if self.begin <= Instant::now() && self.open > 0 {
                    let stage = self.stage_at(self.now_ns());
                    *self.books.stage(stage).errors.entry("connect".to_owned()).or_default() += 1;
                }
                self.absent.push_back(slot);
            }
            Slot::Free => self.lose(slot),
            Slot::Flight(flight) => {
                self.in_flight -= 1;
                self.lose(slot);
                self.unsettled(flight, &format!("{breach:?}").to_lowercase());
            }
            Slot::Absent => {}
        }
    }

    /// The connection is free again, after a pause if the scenario wants one.
    fn release(&mut self, slot: u32, now_ns: u64) {
        self.slots[slot as usize] = Slot::Free;
        let think = self.plan.scenario.think;
        if think.max_ms == 0 {
            return self.free.push_back(slot);
        }
        let pause_ms = think.min_ms + self.random.below(think.max_ms - think.min_ms + 1);
        self.resting.push(Reverse((now_ns + pause_ms * 1_000_000, slot)));
    }

    fn settle(&mut self, slot: u32, flight: Flight, answer: &Answer<'_>) {
        let now_ns = self.now_ns();
        let scenario = &self.plan.scenario;
        let rules = Rules {
            account_prefix: &self.plan.account_prefix,
            floor: scenario.check.floor,
            batch_items: scenario.mix.batch_items,
            reads_bodies: scenario.check.level == CheckLevel::Full,
        };
        self.slots[slot as usize] = Slot::Free;
        let judgement = judge(&flight.planned, answer, flight.attempts == 0, rules);
        self.books.stage(flight.stage).completed += u64::from(flight.attempts == 0);
        let retries_as = match &judgement {
            Judgement::Refused { kind: Refusal::Overloaded, .. } => Some("overloaded"),
            Judgement::Refused { kind: Refusal::RateLimited, .. } => Some("rate-limited"),
            Judgement::Unknown(_) => Some("unknown"),
            _ => None,
        };
        if let Judgement::Refused { kind: Refusal::Overloaded | Refusal::RateLimited, .. } = &judgement
            && !answer.has_retry_after
        {
            *self.books.stage(flight.stage).errors.entry("no retry-after".to_owned()).or_default() += 1;
        }
        if retries_as.is_none_or(|kind| !self.retry(&flight, kind, now_ns)) {
            // A refusal for want of capacity is quick; counted with the others it would make the server look better.
            if retries_as.is_none() || matches!(judgement, Judgement::Unknown(_)) {
                let tally = self.books.stage(flight.stage);
                tally.service.record((now_ns - flight.sent_ns) / 1_000);
                let latency_us = (now_ns - flight.scheduled_ns) / 1_000;
                self.books.latency(flight.stage, flight.planned.operation, latency_us);
            }
            self.write_down(&flight, 0, judgement);
        }
        self.release(slot, now_ns);
    }

    fn write_down(&mut self, flight: &Flight, item: u32, judgement: Judgement<'_>) {
        let (stage, planned) = (flight.stage, &flight.planned);
        match judgement {
            Judgement::Acknowledged(effect) => {
                if let Some(effect) = &effect {
                    self.traffic.learn(planned, effect);
                }
                self.books.acknowledged(stage, planned, item, effect.as_ref());
            }
            Judgement::Batch(items) => {
                (0..).zip(items).for_each(|(item, judgement)| self.write_down(flight, item, judgement));
            }
            Judgement::Refused { kind: Refusal::Business, problem, .. } => {
                self.books.refused(stage, planned, item, problem, true);
            }
            Judgement::Refused { problem, status, .. } => {
                self.books.refused(stage, planned, item, &format!("{status} {problem}"), false);
            }
            Judgement::Unknown(kind) => self.books.unknown(stage, planned, item, &kind),
            Judgement::Wrong(what) => {
                self.books.wrong(planned, item, what);
                self.books.unknown(stage, planned, item, "wrong answer");
            }
        }
    }

    /// A request whose connection broke, or whose time is over.
    fn unsettled(&mut self, flight: Flight, kind: &str) {
        let now_ns = self.now_ns();
        if self.retry(&flight, "unknown", now_ns) {
            return;
        }
        // What was waited is a lower bound of what the answer would have taken.
        self.books.latency(flight.stage, flight.planned.operation, (now_ns - flight.scheduled_ns) / 1_000);
        if flight.planned.operation == crate::traffic::Operation::Batch {
            for item in 0..self.plan.scenario.mix.batch_items {
                self.books.unknown(flight.stage, &flight.planned, item, kind);
            }
        } else {
            self.books.unknown(flight.stage, &flight.planned, 0, kind);
        }
    }

    /// Whether the request will be sent again.
    fn retry(&mut self, flight: &Flight, kind: &str, now_ns: u64) -> bool {
        let retry = &self.plan.scenario.retry;
        if flight.attempts >= retry.attempts || !retry.on.iter().any(|on| on == kind) || self.is_over {
            return false;
        }
        let backoff_ns = (retry.backoff_ms * 1_000_000).saturating_mul(1 << flight.attempts.min(16));
        let what = What::Again(Box::new(flight.planned.clone()));
        let (scheduled_ns, stage, attempts) = (flight.scheduled_ns, flight.stage, flight.attempts + 1);
        self.queue.push_at(now_ns + backoff_ns, Pending { scheduled_ns, stage, attempts, what });
        true
    }

    /// Requests that have waited too long for their answer: their connections must be closed.
    fn expire(&mut self, now_ns: u64) -> Vec<u32> {
        let timeout_ns = self.plan.scenario.timeout_ms * 1_000_000;
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

    fn is_done(&self, now_ns: u64, timeout_ns: u64) -> bool {
        let all_arrived = match &self.arriving {
            Arriving::Closed | Arriving::Schedule(_) => now_ns >= self.end_ns,
            // Nothing is left when the largest time has passed.
            Arriving::Replay(purchases) => purchases.len() == 0,
        };
        let late = now_ns.saturating_sub(self.end_ns) > timeout_ns;
        if self.is_over {
            return self.in_flight == 0 || late;
        }
        all_arrived && self.in_flight == 0 && (self.queue.len() == 0 || late)
    }

    /// How long a turn may sleep.
    fn wait(&mut self, interval_end_ns: u64) -> Duration {
        let before_begin = self.begin.saturating_duration_since(Instant::now());
        if !before_begin.is_zero() {
            return before_begin.min(TURN_MAX);
        }
        let now_ns = self.now_ns();
        let next_due = match &mut self.arriving {
            Arriving::Closed => Some(self.end_ns),
            Arriving::Schedule(schedule) => schedule.peek().map(|due| due.at_ns),
            Arriving::Replay(purchases) => purchases.peek().map(|due| due.due_ns),
        };
        let has_work = !self.free.is_empty() && (self.queue.has_waiting() || matches!(self.arriving, Arriving::Closed));
        if has_work && now_ns < self.end_ns {
            return Duration::ZERO;
        }
        let timeout_ns = self.plan.scenario.timeout_ms * 1_000_000;
        let deadline = self.deadlines.front().map(|(sent_ns, _)| sent_ns + timeout_ns);
        let resting = self.resting.peek().map(|rest| rest.0.0);
        let times = [next_due, deadline, resting, self.queue.next_later_ns(), Some(interval_end_ns)];
        let next_ns = times.into_iter().flatten().min().unwrap_or(0);
        Duration::from_nanos(next_ns.saturating_sub(now_ns)).min(TURN_MAX)
    }

    /// What was never sent, at the end.
    fn give_up(&mut self) {
        let left: Vec<Pending> = self.queue.drain().collect();
        for pending in left {
            match pending.what {
                // It was sent before: what became of it must be asked for.
                What::Again(planned) if pending.attempts > 0 => {
                    self.books.unknown(pending.stage, &planned, 0, "given up");
                }
                _ => self.books.stage(pending.stage).dropped += 1,
            }
        }
    }

    fn interval(&mut self, number: u64, cpu: &mut Duration) -> Interval {
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
