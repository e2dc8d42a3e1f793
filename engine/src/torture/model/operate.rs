//! Operations, from the contract.

use meed_schemas::command::{Basis, Command, Earn, Request, Status};
use meed_schemas::ids::Position;
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{AmountAward, Detail, ManualTier, RecordKind, SaleRedemption, Spend, VoidReason};
use meed_schemas::time::{DAY_MS, Millis};

use super::{Award, Effect, Given, Hold, Manual, Model, Outcome, Spending, sum};

/// How far ahead of now an operation may claim to have happened.
const AHEAD_MS_MAX: i64 = 300_000;
/// Longest time to live of a hold in every version, in seconds.
const HOLD_SECONDS_MAX: i64 = 604_800;

fn invalid(field: &'static str) -> Refusal {
    Refusal::InvalidRequest { field: field.into(), detail: String::new() }
}

fn done(effects: Vec<Effect>) -> Outcome {
    Outcome::Done { effects, shown: 0, taken: Vec::new() }
}

fn check_time(occurred: Millis, given: Given<'_>) -> Result<(), Refusal> {
    if let Some(days) = given.newest().late_days.filter(|days| given.now - occurred > days * DAY_MS) {
        return Err(Refusal::TooLate { late_days_max: days });
    }
    if occurred - given.now > AHEAD_MS_MAX { Err(Refusal::InTheFuture) } else { Ok(()) }
}

impl Model {
    /// Decides a request of an account that has nothing due and whose keys are new.
    pub(in super::super) fn decide(&mut self, request: &Request, given: Given<'_>) -> Outcome {
        if request.command.is_read() {
            let is_there = self.exists || matches!(request.command, Command::Outcome | Command::Settle);
            return if is_there { Outcome::View } else { Outcome::Refused(Refusal::UnknownAccount) };
        }
        if self.exists && request.command == Command::Open {
            return Outcome::View;
        }
        if let Some(invalid) = self.invalid(&request.command, given) {
            return Outcome::Refused(invalid);
        }
        let opens = match &request.command {
            Command::Open => true,
            Command::Earn { earn, .. } => given.rules(earn.occurred_at.unwrap_or(given.now)).auto_enroll,
            Command::Sale { occurred_at, .. } => given.rules(*occurred_at).auto_enroll,
            _ => false,
        };
        if !self.exists && !opens {
            return Outcome::Refused(Refusal::UnknownAccount);
        }
        // What is refused is refused before anything changes.
        match self.operate(&request.command, given) {
            Ok(Outcome::Done { effects, shown, taken }) => {
                self.exists = true;
                self.remember(request, given.next_but(shown).sequence());
                Outcome::Done { effects, shown, taken }
            }
            Ok(other) => other,
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn remember(&mut self, request: &Request, at: u64) {
        for (hash, business) in [(request.keys.idempotency, false), (request.keys.business, true)] {
            if let Some(hash) = hash {
                self.keys.insert((business, hash), (at, request.fingerprint, false));
            }
        }
    }

    /// What is wrong with a request in the light of the program, whatever the account.
    pub(in super::super) fn invalid(&self, command: &Command, given: Given<'_>) -> Option<Refusal> {
        match command {
            Command::Earn { earn, .. } if earn.expires_at.is_some() || earn.activates_at.is_some() => {
                let occurred = earn.occurred_at.unwrap_or(given.now);
                let rules = given.rules(occurred);
                let expires = earn.expires_at.unwrap_or_else(|| rules.expiry(occurred));
                let activates = earn.activates_at.or_else(|| rules.activation(occurred));
                let is_wrong =
                    earn.expires_at.is_some_and(|at| at <= occurred) || activates.is_some_and(|at| expires <= at);
                let field = if earn.expires_at.is_some() { "expires_at" } else { "activates_at" };
                is_wrong.then(|| invalid(field))
            }
            Command::Hold { ttl_seconds: Some(seconds), .. } => {
                (!(1..=HOLD_SECONDS_MAX).contains(seconds)).then(|| invalid("ttl_seconds"))
            }
            Command::SetTier { tier: Some(name), .. } if given.newest().level_named(name).is_none() => {
                Some(invalid("new_tier"))
            }
            Command::SetTier { until: Some(until), .. } if *until <= given.now => Some(invalid("until")),
            _ => None,
        }
    }

    pub(super) fn check_status(&self, spends: bool) -> Result<(), Refusal> {
        match self.status {
            Some(Status::Closed) => Err(Refusal::AccountClosed),
            Some(Status::Frozen) if spends => Err(Refusal::AccountFrozen),
            _ => Ok(()),
        }
    }

    fn operate(&mut self, command: &Command, given: Given<'_>) -> Result<Outcome, Refusal> {
        let now = given.now;
        match command {
            Command::Earn { earn, .. } => {
                self.check_status(false)?;
                let occurred = earn.occurred_at.unwrap_or(now);
                check_time(occurred, given)?;
                Ok(done(self.earn(earn, occurred, 0, given)))
            }
            Command::Sale { amount, redeem_points, occurred_at, .. } => {
                self.check_status(redeem_points.is_some())?;
                check_time(*occurred_at, given)?;
                self.sale(*amount, *redeem_points, *occurred_at, given)
            }
            Command::Redeem { points, occurred_at, .. } => {
                let occurred = occurred_at.unwrap_or(now);
                self.check_status(true)?;
                check_time(occurred, given)?;
                let taken = self.redeem(*points, given)?;
                let effects = vec![given.effect(RecordKind::Redeem, -points, occurred, Detail::Redeem { hold: None })];
                Ok(Outcome::Done { effects, shown: 0, taken })
            }
            Command::Adjust { points, .. } => self.adjust(*points, given),
            Command::Hold { points, ttl_seconds, .. } => self.hold(*points, *ttl_seconds, given),
            Command::Capture { hold, points, .. } => self.capture(*hold, *points, given),
            Command::Void { hold, .. } => self.void(*hold, given),
            Command::Reverse { original, portion, .. } => self.reverse(original.sequence(), *portion, given),
            Command::SaleReturn { sale, portion, .. } => {
                let (sale, ..) = *self.keys.get(&(true, *sale)).ok_or(Refusal::UnknownTransaction)?;
                self.reverse(sale, *portion, given)
            }
            Command::SetStatus { status, .. } => Ok(self.set_status(*status, given)),
            Command::SetTier { tier, until, .. } => self.set_tier(tier.as_deref(), *until, given),
            _ => Ok(done(vec![given.effect(RecordKind::Open, 0, now, Detail::None)])),
        }
    }

    /// An award, as the record `nth` of the operation.
    fn earn(&mut self, earn: &Earn, occurred: Millis, nth: usize, given: Given<'_>) -> Vec<Effect> {
        let (version, rules) = (given.version(occurred), given.rules(occurred));
        let expires = earn.expires_at.unwrap_or_else(|| rules.expiry(occurred));
        let activates = earn.activates_at.or_else(|| rules.activation(occurred)).filter(|at| *at > given.settled);
        let month = rules.month(occurred);
        let (points, award, spend);
        match earn.basis {
            Basis::Points(given) => (points, award, spend) = (given, None, None),
            Basis::Amount(amount) => {
                let level = self.level(rules, occurred);
                let applied_multiplier = rules.levels[level].2 as u32;
                award = Some(AmountAward { amount, applied_tier: level as u8, applied_multiplier });
                points = rules.award(amount, applied_multiplier);
                spend = (amount > 0).then_some(Spend { month, amount });
            }
        }
        self.spend.extend(spend);
        let own = Award {
            points,
            amount: award.map(|award| (award, version)),
            month,
            expires,
            activates,
            reversed_points: 0,
            reversed_amount: 0,
        };
        self.awards.insert(given.next_but(nth).sequence(), own);
        let detail = Detail::Earn { expires_at: expires, activates_at: activates, award, redemption: None };
        let mut effects = vec![Effect { spend, ..given.effect(RecordKind::Earn, points, occurred, detail) }];
        match activates {
            Some(activates) => super::add(&mut self.pending, (activates, expires), points),
            None if expires <= given.settled && points > 0 => {
                effects.extend(self.expire(&[(expires, points)], given.now, given));
            }
            None => self.arrive(vec![(expires, points)]),
        }
        effects
    }

    fn adjust(&mut self, points: i64, given: Given<'_>) -> Result<Outcome, Refusal> {
        self.check_status(false)?;
        if points > 0 {
            let earn = Earn { basis: Basis::Points(points), occurred_at: None, expires_at: None, activates_at: None };
            let mut effects = self.earn(&earn, given.now, 0, given);
            // It cannot be reversed.
            self.awards.remove(&given.next.sequence());
            if let Detail::Earn { expires_at, activates_at, .. } = effects[0].detail {
                (effects[0].kind, effects[0].detail) =
                    (RecordKind::Adjust, Detail::Adjust { expires_at, activates_at });
            }
            return Ok(done(effects));
        }
        let available_points = self.available();
        if available_points + points < given.rules(given.now).floor {
            return Err(Refusal::InsufficientPoints { available_points, requested_points: -points });
        }
        let taken = self.burn(-points, None);
        self.debt += -points - sum(&taken);
        let detail = Detail::Adjust { expires_at: meed_schemas::time::NEVER, activates_at: None };
        Ok(done(vec![given.effect(RecordKind::Adjust, points, given.now, detail)]))
    }

    fn take(&mut self, points: i64) -> Result<Vec<(Millis, i64)>, Refusal> {
        let available_points = self.available();
        if points > available_points {
            return Err(Refusal::InsufficientPoints { available_points, requested_points: points });
        }
        Ok(self.burn(points, None))
    }

    fn redeem(&mut self, points: i64, given: Given<'_>) -> Result<Vec<(Millis, i64)>, Refusal> {
        let taken = self.take(points)?;
        self.spendings.insert(given.next.sequence(), Spending { taken: taken.clone(), given_back: 0 });
        Ok(taken)
    }

    fn sale(
        &mut self,
        amount: i64,
        redeem: Option<i64>,
        occurred: Millis,
        given: Given<'_>,
    ) -> Result<Outcome, Refusal> {
        let mut effects = Vec::new();
        let mut redemption = None;
        if let Some(points) = redeem {
            let lots = self.redeem(points, given)?;
            effects.push(given.effect(RecordKind::Redeem, -points, occurred, Detail::Redeem { hold: None }));
            redemption = Some(Box::new(SaleRedemption { position: given.next, points, lots }));
        }
        let shown = effects.len();
        let basis = Basis::Amount(amount);
        let earn = Earn { basis, occurred_at: Some(occurred), expires_at: None, activates_at: None };
        effects.extend(self.earn(&earn, occurred, shown, given));
        if let Detail::Earn { redemption: own, .. } = &mut effects[shown].detail {
            *own = redemption;
        }
        Ok(Outcome::Done { effects, shown, taken: Vec::new() })
    }

    fn hold(&mut self, points: i64, seconds: Option<i64>, given: Given<'_>) -> Result<Outcome, Refusal> {
        self.check_status(true)?;
        let pins = self.take(points)?;
        let until = given.now + seconds.unwrap_or(given.newest().hold_seconds) * 1_000;
        self.holds.insert(given.next.sequence(), Hold { recorded_at: given.now, until, pins, end: None });
        Ok(done(vec![given.effect(RecordKind::Hold, 0, given.now, Detail::Hold { expires_at: Some(until) })]))
    }

    fn capture(&mut self, hold: Position, points: Option<i64>, given: Given<'_>) -> Result<Outcome, Refusal> {
        let own = self.holds.get(&hold.sequence()).ok_or(Refusal::UnknownHold)?.clone();
        self.check_status(true)?;
        if own.end.is_some() {
            return Err(Refusal::HoldClosed);
        }
        let held_points = sum(&own.pins);
        let points = points.unwrap_or(held_points);
        if points > held_points {
            return Err(Refusal::ExceedsHold { held_points });
        }
        let (mut taken, mut rest, mut missing) = (Vec::new(), Vec::new(), points);
        for (expires, pinned) in own.pins {
            let part = pinned.min(missing);
            missing -= part;
            taken.extend((part > 0).then_some((expires, part)));
            rest.extend((pinned > part).then_some((expires, pinned - part)));
        }
        self.end(hold, given.next, true);
        self.spendings.insert(given.next.sequence(), Spending { taken: taken.clone(), given_back: 0 });
        let gone = self.let_go(rest, given.settled);
        let mut effects =
            vec![given.effect(RecordKind::Redeem, -points, given.now, Detail::Redeem { hold: Some(hold) })];
        effects.extend(self.expire(&gone, given.now, given));
        Ok(Outcome::Done { effects, shown: 0, taken })
    }

    fn end(&mut self, hold: Position, by: Position, captured: bool) {
        if let Some(hold) = self.holds.get_mut(&hold.sequence()) {
            hold.end = Some((by.sequence(), captured));
        }
    }

    fn void(&mut self, hold: Position, given: Given<'_>) -> Result<Outcome, Refusal> {
        let own = self.holds.get(&hold.sequence()).ok_or(Refusal::UnknownHold)?.clone();
        match own.end {
            Some((_, true)) => return Err(Refusal::HoldClosed),
            Some((end, false)) => return Ok(Outcome::Replay(end)),
            None => self.end(hold, given.next, false),
        }
        let gone = self.let_go(own.pins, given.settled);
        let detail = Detail::Void { hold, reason: VoidReason::Requested };
        let mut effects = vec![given.effect(RecordKind::Void, 0, given.now, detail)];
        effects.extend(self.expire(&gone, given.now, given));
        Ok(done(effects))
    }

    /// Closing lets every hold go, and what is past its expiry in one record.
    fn set_status(&mut self, status: Status, given: Given<'_>) -> Outcome {
        let mut effects = Vec::new();
        let mut gone = std::collections::BTreeMap::new();
        let open: Vec<(u64, Vec<(Millis, i64)>)> =
            self.open_holds().map(|(id, hold)| (*id, hold.pins.clone())).collect();
        for (id, pins) in open.into_iter().filter(|_| status == Status::Closed) {
            let hold = Position::new(given.next.shard(), id);
            self.end(hold, given.next_but(effects.len()), false);
            for (expires, points) in self.let_go(pins, given.settled) {
                super::add(&mut gone, expires, points);
            }
            let detail = Detail::Void { hold, reason: VoidReason::Closed };
            effects.push(given.effect(RecordKind::Void, 0, given.now, detail));
        }
        effects.extend(self.expire(&gone.into_iter().collect::<Vec<_>>(), given.now, given));
        let detail = Detail::Status { status, previous: self.status() };
        effects.push(given.effect(RecordKind::Status, 0, given.now, detail));
        self.status = Some(status);
        let shown = effects.len() - 1;
        Outcome::Done { effects, shown, taken: Vec::new() }
    }

    /// The names of the tier before and after are the caller's to fill in.
    fn set_tier(&mut self, name: Option<&str>, until: Option<Millis>, given: Given<'_>) -> Result<Outcome, Refusal> {
        self.check_status(false)?;
        let (rules, now) = (given.newest(), given.now);
        let earned = rules.earned(&self.spend, rules.month(now));
        if let Some(before) = self.manuals.last_mut() {
            before.until = Some(before.until.map_or(now, |until| until.min(now)));
        }
        let is_floor = name.is_some_and(|name| rules.level_named(name).is_some_and(|level| level >= earned));
        self.manuals.extend(name.map(|name| Manual { name: name.to_owned(), is_floor, from: now, until }));
        let manual =
            ManualTier { name: name.map(Into::into), floor: is_floor, until: until.filter(|_| name.is_some()) };
        let to = rules.levels[self.level(rules, now)].0.into();
        let detail = Detail::Tier { from: "".into(), to, manual: Some(Box::new(manual)) };
        Ok(done(vec![given.effect(RecordKind::Tier, 0, now, detail)]))
    }
}
