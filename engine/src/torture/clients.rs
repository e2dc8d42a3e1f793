//! What clients ask next, as a seed has it.

use std::collections::BTreeMap;

use meed_schemas::command::Status;
use meed_schemas::time::DAY_MS;

use super::event::{Ask, Event, Key, Part, What};
use super::profile::{Profile, VERSIONS};
use super::world::Asked;
use crate::random::Random;

/// What clients know of their world.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) profile: &'a Profile,
    pub(super) asked: &'a BTreeMap<u32, Asked>,
}

pub(super) struct Clients {
    pub(super) random: Random,
    next_ask: u32,
}

impl Clients {
    pub(super) fn new(random: Random) -> Self {
        Self { random, next_ask: 1 }
    }

    /// What a client does next: a request, or one of before again.
    pub(super) fn next(&mut self, before: Before<'_>) -> Event {
        if self.random.chance(18)
            && let Some(ask) = self.asked(before, |_| true)
        {
            return Event::Again { ask };
        }
        let account = self.random.below(before.profile.accounts);
        let what = self.what(before, account);
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
            Key::Header if random.chance(before.profile.reuse_percent) => {
                self.asked(before, |asked| asked.account == account).map_or(key, Key::HeaderOf)
            }
            key => key,
        };
        Event::Ask(Ask { id, account, what, key })
    }

    /// One of the requests so far that is fit.
    fn asked(&mut self, before: Before<'_>, is_fit: impl Fn(&Asked) -> bool) -> Option<u32> {
        // The newest matter most, and the list may be long.
        let newest = before.asked.range(..self.next_ask).rev().take(60);
        let fit: Vec<u32> = newest.filter(|(_, asked)| is_fit(asked)).map(|(id, _)| *id).collect();
        if fit.is_empty() {
            return None;
        }
        let near = fit.len().min(8);
        Some(if self.random.chance(60) { fit[self.random.below(near)] } else { *self.random.pick(&fit) })
    }

    fn what(&mut self, before: Before<'_>, account: usize) -> What {
        let stride = before.profile.stride_ms.max(10_000);
        let roll = self.random.below(100);
        let of = |own: &mut Self, is_fit: &dyn Fn(&What) -> bool| {
            own.asked(before, |asked| asked.account == account && is_fit(&asked.what))
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
            68..=76 => self.about_hold(before, account),
            77..=84 => self.reversal(before, account),
            _ => self.other(before, account),
        }
    }

    fn about_hold(&mut self, before: Before<'_>, account: usize) -> What {
        let hold = |asked: &Asked| asked.account == account && matches!(asked.what, What::Hold { .. });
        let Some(of) = self.asked(before, hold) else { return What::Holds };
        let random = &mut self.random;
        match random.below(5) {
            0 | 1 => What::Capture { of, points: random.chance(60).then(|| random.between(1, 25)) },
            2 => What::Void { of },
            3 => What::HoldStatus { of },
            _ => What::Holds,
        }
    }

    fn reversal(&mut self, before: Before<'_>, account: usize) -> What {
        let is_fit = |asked: &Asked| {
            use What::{Capture, EarnAmount, EarnPoints, Hold, Redeem, Sale};
            asked.account == account
                && matches!(
                    asked.what,
                    EarnAmount { .. } | EarnPoints { .. } | Redeem { .. } | Sale { .. } | Capture { .. } | Hold { .. }
                )
        };
        let Some(of) = self.asked(before, is_fit) else { return What::Balance };
        let random = &mut self.random;
        let part = match random.below(4) {
            0 => Part::Rest,
            1 => Part::Amount(random.between(0, 3_000)),
            _ => Part::Points(random.between(1, 25)),
        };
        What::Reverse { of, part }
    }

    fn other(&mut self, before: Before<'_>, account: usize) -> What {
        let of_member = |asked: &Asked| !matches!(asked.what, What::Program { .. });
        let any = self.asked(before, |asked| asked.account == account && of_member(asked));
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
