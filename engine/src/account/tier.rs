//! The tier of an account at an instant, and the instant at which it changes by itself.

use meed_schemas::program::Window;
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use super::{Account, Manual};
use crate::program::Version;
use crate::program::tier::{ManualKind, effective_level};

/// What decides a tier.
#[derive(Clone, Copy)]
pub(super) struct TierBasis<'a> {
    pub(super) spend: &'a [(i32, i64)],
    pub(super) manual: Option<&'a Manual>,
    /// Those that held before it, oldest first.
    pub(super) manual_before: &'a [Manual],
}

impl TierBasis<'_> {
    /// The level at an instant, in a version.
    pub(super) fn level_at(&self, version: &Version, at: Millis) -> usize {
        if self.spend.is_empty() && self.manual.is_none() && self.manual_before.is_empty() {
            return 0;
        }
        self.level(version, version.month_of(at), at)
    }

    fn level(&self, version: &Version, month: i32, at: Millis) -> usize {
        let earned = version.earned_level(self.spend, month);
        let mut manuals = self.manual.into_iter().chain(self.manual_before.iter().rev());
        let manual = manuals.find(|manual| manual.from <= at && at < manual.until);
        let manual = manual.and_then(|manual| {
            let kind = if manual.floor { ManualKind::Floor } else { ManualKind::Ceiling };
            Some((version.level_named(&manual.name)?, kind))
        });
        effective_level(earned, manual)
    }

    /// The first instant after `at` at which the level is another, if nothing happens before; NEVER for none.
    pub(super) fn next_change(&self, version: &Version, at: Millis) -> Millis {
        let month_now = version.month_of(at);
        let level_now = self.level(version, month_now, at);
        let later_spend = self.spend.last().is_some_and(|(month, _)| *month > month_now);
        // Time alone only lowers what was earned, unless an accepted operation lies in a month to come.
        if level_now == 0 && self.manual.is_none() && !later_spend {
            return NEVER;
        }
        let mut candidates: SmallVec<[Millis; 16]> = SmallVec::new();
        let mut last_month = month_now;
        for month in self.months_of_change(version.document.tiers.window, month_now) {
            if month > last_month {
                candidates.push(version.zone().start_of_month(month));
                last_month = month;
            }
        }
        if let Some(until) = self.manual.map(|manual| manual.until).filter(|until| *until != NEVER && *until > at) {
            candidates.push(until);
            candidates.sort_unstable();
        }
        candidates.into_iter().find(|t| self.level_at(version, *t) != level_now).unwrap_or(NEVER)
    }

    /// The months after `month_now` whose beginning changes what counts, ascending.
    fn months_of_change(&self, window: Window, month_now: i32) -> SmallVec<[i32; 16]> {
        let mut months: SmallVec<[i32; 16]> = SmallVec::new();
        for (month, _) in self.spend {
            if *month > month_now {
                months.push(*month);
            }
            let gone = match window {
                Window::Lifetime => continue,
                Window::Rolling12Months => month.saturating_add(13),
                Window::CalendarYear => month.div_euclid(12).saturating_add(2).saturating_mul(12),
            };
            if gone > month_now && months.last() != Some(&gone) {
                months.push(gone);
            }
        }
        months.sort_unstable();
        months
    }
}

impl Account {
    pub(super) fn tier_basis(&self) -> TierBasis<'_> {
        TierBasis { spend: &self.spend, manual: self.manual(), manual_before: self.manual_before() }
    }

    /// The level at an instant, in a version.
    pub(super) fn level_at(&self, version: &Version, at: Millis) -> usize {
        self.tier_basis().level_at(version, at)
    }
}
