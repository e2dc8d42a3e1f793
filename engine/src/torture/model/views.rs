//! What an account shows.

use meed_schemas::command::Status;
use meed_schemas::ids::Position;
use meed_schemas::outcome::{HoldState, HoldView, LotView, ReversedSoFar};
use meed_schemas::time::{Millis, NEVER};

use super::{Model, sum};
use crate::torture::profile::Rules;

impl Model {
    pub(in super::super) fn status(&self) -> Status {
        self.status.unwrap_or(Status::Active)
    }

    /// In burn order, pending ones last.
    pub(in super::super) fn lots(&self) -> Vec<LotView> {
        let held = |expires_at| {
            let pins = self.open_holds().flat_map(|(_, hold)| &hold.pins);
            pins.filter(|(own, _)| *own == expires_at).map(|(_, points)| points).sum::<i64>()
        };
        let pinned = self.open_holds().flat_map(|(_, hold)| hold.pins.iter().map(|(expires, _)| *expires));
        let mut expiries: Vec<Millis> = self.live.keys().copied().chain(pinned).collect();
        expiries.sort_unstable();
        expiries.dedup();
        let live = expiries.into_iter().map(|expires_at| LotView {
            available: self.live.get(&expires_at).copied().unwrap_or(0),
            held: held(expires_at),
            activates_at: None,
            expires_at,
        });
        let pending = self.pending.iter().map(|((at, expires_at), points)| LotView {
            available: *points,
            held: 0,
            activates_at: Some(*at),
            expires_at: *expires_at,
        });
        live.chain(pending).collect()
    }

    /// The available points that go at the earliest instant.
    pub(in super::super) fn next_expiry(&self) -> Option<(i64, Millis)> {
        self.live.iter().next().filter(|(at, _)| **at != NEVER).map(|(at, points)| (*points, *at))
    }

    /// A hold of this account.
    pub(in super::super) fn hold_view(&self, position: Position) -> Option<HoldView> {
        let hold = self.holds.get(&position.sequence())?;
        let state = match hold.end.map(|(end, captured)| (Position::new(position.shard(), end), captured)) {
            None => HoldState::Open,
            Some((end, true)) => HoldState::Captured(end),
            Some((end, false)) => HoldState::Voided(end),
        };
        let (points, expires_at) = (sum(&hold.pins), Some(hold.until));
        Some(HoldView { hold: position, points, expires_at, recorded_at: hold.recorded_at, state })
    }

    /// Open holds, oldest first.
    pub(in super::super) fn hold_views(&self, shard: u16) -> Vec<HoldView> {
        self.open_holds().filter_map(|(id, _)| self.hold_view(Position::new(shard, *id))).collect()
    }

    /// What was reversed of an original.
    pub(in super::super) fn reversed(&self, original: u64) -> ReversedSoFar {
        let given = self.spendings.get(&original).map(|spending| (spending.given_back, 0));
        let taken = self.awards.get(&original).map(|award| (award.reversed_points, award.reversed_amount));
        let (points, amount) = taken.or(given).unwrap_or_default();
        ReversedSoFar { points, amount }
    }

    /// What decides the tier.
    pub(in super::super) fn qualifying_spend(&self, rules: &Rules, at: Millis) -> i64 {
        rules.qualifying(&self.spend, rules.month(at))
    }

    /// A tier set by hand: name, whether a floor, until.
    pub(in super::super) fn manual(&self, now: Millis) -> Option<(Box<str>, bool, Option<Millis>)> {
        let manual = self.manuals.last().filter(|manual| manual.until.is_none_or(|until| now < until))?;
        Some((manual.name.as_str().into(), manual.is_floor, manual.until))
    }
}
