//! The next event of a world, as its seed has it.

use meed_schemas::command::Status;
use meed_schemas::time::DAY_MS;

use super::event::{Ask, Event, Key, Part, What};
use super::profile::{Profile, VERSIONS};
use super::world::World;
use crate::disk::simulated::{Fault, Rot};
use crate::random::{Random, mix};

/// Requests under way beyond which clients wait.
const UNDER_WAY_MAX: usize = 24;

pub(super) struct Generator {
    random: Random,
    /// What is drawn from here leaves the rest of a world as it is.
    aside: Random,
    next_ask: u32,
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
        Self { random, aside, next_ask: 1, cycles_left: profile.cycles, events_left, planned, is_over: false }
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
        self.events_left = self.random.below(world.profile.events) + 5;
        let random = &mut self.random;
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
        while self.random.chance(25) {
            let random = &mut self.random;
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
        let roll = self.random.below(100);
        let steps = world.node.as_ref().map(|node| node.steps()).unwrap_or_default();
        match roll {
            0..=27 if world.auditor.unanswered().count() + world.network.len() < UNDER_WAY_MAX => self.client(world),
            0..=27 => self.step(&steps),
            28..=42 if !world.network.is_empty() => {
                let nth = self.random.below(world.network.len());
                if self.random.chance(3) { Event::Lose { nth } } else { Event::Arrive { nth } }
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
        if steps.is_empty() { Event::Tick } else { Event::Step(*self.random.pick(steps)) }
    }

    fn trouble(&mut self) -> Event {
        let random = &mut self.random;
        let after = random.below(6) as u64 + 1;
        match random.below(10) {
            0..=4 => Event::Arm { after, fault: Fault::Kill },
            5 | 6 => Event::Arm { after, fault: Fault::Eio },
            7 => Event::Arm { after, fault: Fault::Full },
            _ => Event::ArmStore { after, is_there: random.chance(50) },
        }
    }

    fn time(&mut self, world: &World) -> Event {
        let random = &mut self.random;
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

    fn client(&mut self, world: &World) -> Event {
        if self.random.chance(18)
            && let Some(ask) = self.asked(world, |_| true)
        {
            return Event::Again { ask };
        }
        let account = self.random.below(world.profile.accounts);
        let what = self.what(world, account);
        let id = self.next_ask;
        self.next_ask += 1;
        let random = &mut self.random;
        let key = match &what {
            What::Sale { .. } | What::SaleReturn { .. } => *random.pick(&[Key::Business, Key::Both]),
            What::EarnPoints { .. } | What::EarnAmount { .. } | What::Redeem { .. } | What::Reverse { .. } => {
                *random.pick(&[Key::Header, Key::Header, Key::Business, Key::Both])
            }
            What::Adjust { .. } | What::Hold { .. } | What::Capture { .. } | What::Void { .. } => Key::Header,
            What::Status(_) | What::Tier { .. } => *random.pick(&[Key::None, Key::Header]),
            _ => Key::None,
        };
        let key = match key {
            Key::Header if random.chance(world.profile.reuse_percent) => {
                self.asked(world, |asked| asked.account == account).map_or(key, Key::HeaderOf)
            }
            key => key,
        };
        Event::Ask(Ask { id, account, what, key })
    }

    /// One of the requests so far that is fit.
    fn asked(&mut self, world: &World, is_fit: impl Fn(&super::world::Asked) -> bool) -> Option<u32> {
        // The newest matter most, and the list may be long.
        let newest = world.asked.range(..self.next_ask).rev().take(60);
        let fit: Vec<u32> = newest.filter(|(_, asked)| is_fit(asked)).map(|(id, _)| *id).collect();
        if fit.is_empty() {
            return None;
        }
        let near = fit.len().min(8);
        Some(if self.random.chance(60) { fit[self.random.below(near)] } else { *self.random.pick(&fit) })
    }

    fn what(&mut self, world: &World, account: usize) -> What {
        let stride = world.profile.stride_ms.max(10_000);
        let roll = self.random.below(100);
        let of = |own: &mut Self, is_fit: &dyn Fn(&What) -> bool| {
            own.asked(world, |asked| asked.account == account && is_fit(&asked.what))
        };
        let random = &mut self.random;
        match roll {
            0..=21 => {
                let ago_ms = random.chance(25).then(|| random.between(0, 4 * stride));
                let expires_in_ms = random.chance(30).then(|| random.between(1, 3 * stride));
                let activates_in_ms = random.chance(20).then(|| random.between(-5_000, stride));
                What::EarnPoints { points: random.between(1, 40), ago_ms, expires_in_ms, activates_in_ms }
            }
            22..=34 => What::EarnAmount {
                amount: random.between(0, 6_000),
                ago_ms: random.chance(25).then(|| random.between(0, 4 * stride)),
            },
            35..=47 => What::Redeem { points: random.between(1, 30) },
            48..=52 => What::Adjust { points: *random.pick(&[-25, -3, 5, 20]) },
            53..=57 => What::Sale {
                amount: random.between(0, 4_000),
                redeem: random.chance(40).then(|| random.between(1, 20)),
                ago_ms: random.between(0, stride),
            },
            58..=60 => match of(self, &|what| matches!(what, What::Sale { .. })) {
                Some(of) => {
                    let amount = self.random.chance(60).then(|| self.random.between(0, 2_500));
                    What::SaleReturn { of, amount }
                }
                None => What::Lots,
            },
            61..=67 => What::Hold {
                points: random.between(1, 25),
                seconds: random.chance(70).then(|| random.between(1, stride / 1_000)),
            },
            68..=76 => self.about_hold(world, account),
            77..=84 => self.reversal(world, account),
            _ => self.other(world, account),
        }
    }

    fn about_hold(&mut self, world: &World, account: usize) -> What {
        let hold = |asked: &super::world::Asked| asked.account == account && matches!(asked.what, What::Hold { .. });
        let Some(of) = self.asked(world, hold) else { return What::Holds };
        let random = &mut self.random;
        match random.below(5) {
            0 | 1 => What::Capture { of, points: random.chance(60).then(|| random.between(1, 25)) },
            2 => What::Void { of },
            3 => What::HoldStatus { of },
            _ => What::Holds,
        }
    }

    fn reversal(&mut self, world: &World, account: usize) -> What {
        let is_fit = |asked: &super::world::Asked| {
            use What::{Capture, EarnAmount, EarnPoints, Hold, Redeem, Sale};
            asked.account == account
                && matches!(
                    asked.what,
                    EarnAmount { .. } | EarnPoints { .. } | Redeem { .. } | Sale { .. } | Capture { .. } | Hold { .. }
                )
        };
        let Some(of) = self.asked(world, is_fit) else { return What::Balance };
        let random = &mut self.random;
        let part = match random.below(4) {
            0 => Part::Rest,
            1 => Part::Amount(random.between(0, 3_000)),
            _ => Part::Points(random.between(1, 25)),
        };
        What::Reverse { of, part }
    }

    fn other(&mut self, world: &World, account: usize) -> What {
        let of_member = |asked: &super::world::Asked| !matches!(asked.what, What::Program { .. });
        let any = self.asked(world, |asked| asked.account == account && of_member(asked));
        let random = &mut self.random;
        match (random.below(14), any) {
            (0, _) => What::Open,
            (1, _) => What::Status(*random.pick(&[Status::Active, Status::Active, Status::Frozen, Status::Closed])),
            (2, _) => What::Tier {
                name: *random.pick(&[None, Some("A"), Some("B"), Some("C")]),
                for_ms: random.chance(50).then(|| random.between(1, 40 * DAY_MS)),
            },
            (3, _) => What::Program { number: random.below(VERSIONS as usize) as u32 },
            (4, _) => What::Account,
            (5, _) => What::History,
            (6, Some(of)) => What::Transaction { of },
            (7 | 8, Some(of)) => What::Outcome { of },
            (9, _) => What::Balance,
            // An account that was closed or frozen is of little use.
            (10, _) => What::Status(Status::Active),
            _ => What::Lots,
        }
    }
}
