//! The next event of a world, as its seed has it.

use meed_schemas::time::DAY_MS;

use super::clients::{Before, Clients};
use super::event::{Ask, Event, Key, What};
use super::profile::Profile;
use super::world::World;
use crate::disk::simulated::{Fault, Rot};
use crate::random::{Random, mix};

/// Requests under way beyond which clients wait.
const UNDER_WAY_MAX: usize = 24;

pub(super) struct Generator {
    clients: Clients,
    /// What is drawn from here leaves the rest of a world as it is.
    aside: Random,
    cycles_left: usize,
    events_left: usize,
    /// Events that are already decided, the next one last.
    planned: Vec<Event>,
    is_over: bool,
}

impl Generator {
    pub(super) fn new(profile: &Profile) -> Self {
        let mut random = Random(mix(profile.seed));
        let events_left = random.below(profile.events) + 5;
        let program = Ask { id: 0, account: 0, what: What::Program { number: 0 }, key: Key::None };
        let planned = vec![Event::Quiet, Event::Arrive { nth: 0 }, Event::Ask(program), Event::Start];
        let aside = Random(mix(profile.seed ^ 0x6173_6964));
        Self { clients: Clients::new(random), aside, cycles_left: profile.cycles, events_left, planned, is_over: false }
    }

    /// The next event; `None` when the world has come to its end.
    pub(super) fn next(&mut self, world: &World) -> Option<Event> {
        if let Some(planned) = self.planned.pop() {
            return Some(planned);
        }
        if self.is_over {
            return None;
        }
        let is_up = world.node.is_some() && !world.has_halted;
        if self.events_left == 0 || !is_up {
            return Some(self.end_cycle(world));
        }
        if world.profile.publishes && self.aside.chance(3) {
            let is_away = self.aside.chance(70);
            return Some(if self.aside.chance(70) { Event::BrokerAway { is_away } } else { Event::BrokerRefuses });
        }
        self.events_left -= 1;
        Some(self.live(world))
    }

    /// The process ends, and another begins; or it was the last one.
    fn end_cycle(&mut self, world: &World) -> Event {
        if self.cycles_left == 0 {
            self.is_over = true;
            self.planned.extend([Event::Stop, Event::Start]);
            return Event::Stop;
        }
        self.cycles_left -= 1;
        self.events_left = self.clients.random.below(world.profile.events) + 5;
        let random = &mut self.clients.random;
        let mut events = Vec::new();
        let power = Event::PowerCut { seed: random.bits() };
        events.push(match random.below(10) {
            0 => Event::Stop,
            1..=4 => Event::Kill,
            _ => power,
        });
        if random.chance(8) {
            events.push(Event::RestoreStore { is_gone: random.chance(50) });
        }
        if random.chance(30) {
            let rot = *random.pick(&[Rot::Flip, Rot::Stale, Rot::Misdirected]);
            events.push(Event::Rot { rot, seed: random.bits() });
        }
        if self.aside.chance(10) {
            events.push(Event::StoreAhead { is_gone: self.aside.chance(10) });
        }
        if random.chance(10) {
            events.push(self.time(world));
        }
        // A start may be interrupted, also more than once.
        while self.clients.random.chance(25) {
            let random = &mut self.clients.random;
            let after = random.below(14) as u64 + 1;
            let fault = *random.pick(&[Fault::Kill, Fault::Kill, Fault::Kill, Fault::Eio, Fault::Full]);
            events.extend([Event::Arm { after, fault }, Event::Start]);
            let seed = random.bits();
            events.push(if random.chance(50) { Event::Kill } else { Event::PowerCut { seed } });
        }
        events.extend([Event::Calm, Event::Start]);
        let first = events.remove(0);
        self.planned.extend(events.into_iter().rev());
        first
    }

    fn live(&mut self, world: &World) -> Event {
        let roll = self.clients.random.below(100);
        let steps = world.node.as_ref().map(|node| node.steps()).unwrap_or_default();
        match roll {
            0..=27 if world.auditor.unanswered().count() + world.network.len() < UNDER_WAY_MAX => {
                self.clients.next(Before { profile: &world.profile, asked: &world.asked })
            }
            0..=27 => self.step(&steps),
            28..=42 if !world.network.is_empty() => {
                let nth = self.clients.random.below(world.network.len());
                if self.clients.random.chance(3) { Event::Lose { nth } } else { Event::Arrive { nth } }
            }
            28..=84 => self.step(&steps),
            85..=90 => self.time(world),
            91..=95 => Event::Tick,
            96 => Event::SyncStore,
            97 => Event::Copy,
            _ => self.trouble(),
        }
    }

    fn step(&mut self, steps: &[super::node::Step]) -> Event {
        if steps.is_empty() { Event::Tick } else { Event::Step(*self.clients.random.pick(steps)) }
    }

    fn trouble(&mut self) -> Event {
        let random = &mut self.clients.random;
        let after = random.below(6) as u64 + 1;
        match random.below(10) {
            0..=4 => Event::Arm { after, fault: Fault::Kill },
            5 | 6 => Event::Arm { after, fault: Fault::Eio },
            7 => Event::Arm { after, fault: Fault::Full },
            _ => Event::ArmStore { after, is_there: random.chance(50) },
        }
    }

    fn time(&mut self, world: &World) -> Event {
        let random = &mut self.clients.random;
        let passed_ms = match random.below(4) {
            0 => random.between(0, 60),
            1 | 2 => random.between(0, world.profile.stride_ms.min(8_000)),
            _ => random.between(0, world.profile.stride_ms),
        };
        let leap_ms = match random.below(20) {
            0 => random.between(-5_000, 5_000),
            1 => *random.pick(&[-DAY_MS, DAY_MS, 40 * DAY_MS, -400 * DAY_MS]),
            _ => 0,
        };
        Event::Time { passed_ms, leap_ms }
    }
}
