//! What an account has to do and to answer, held against what it did and answers.

use std::collections::BTreeMap;

use meed_schemas::command::{Command, Request};
use meed_schemas::ids::Position;
use meed_schemas::outcome::{AccountView, BalanceView, HistoryHead, HoldState, Refusal, Reply, TierView};
use meed_schemas::record::{Detail, Record, RecordKind};
use meed_schemas::time::{DAY_MS, Millis};

use super::auditor::Written;
use super::books::Book;
use super::model::{Effect, Given, Model, Outcome};
use super::profile::Rules;
use super::watch::Decided;
use crate::shard::{BUSINESS_KEY_DAYS, IDEMPOTENCY_KEY_DAYS};

/// An account as its records so far have to make it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    model: Model,
    book: Book,
    /// Name of the tier last journaled; `None` before any.
    tier: Option<Box<str>>,
    /// Versions known when it was last looked when the tier changes by itself.
    tier_versions: usize,
    sequence: u64,
    /// Shard sequence of the last record of any kind.
    pub(super) applied: u64,
    /// Shard sequence of the last effect.
    newest: u64,
    created_at: Millis,
    updated_at: Millis,
    /// Effects of each kind, and the sequence of the newest.
    kinds: BTreeMap<RecordKind, (u64, u64)>,
    /// When each record that a key leads to was recorded.
    recorded: BTreeMap<u64, Millis>,
}

/// What one input did to an account, and the world in which it did.
pub(super) struct Turn<'a> {
    pub(super) versions: &'a [(Millis, Rules)],
    pub(super) shard: u16,
    pub(super) now: Millis,
    pub(super) settle_until: Millis,
    /// Latest time that any node has trusted: keys may be forgotten by it.
    pub(super) latest_ms: Millis,
    /// The sequence up to which records of the shard may be gone.
    pub(super) gone: u64,
    /// Every record of the shard.
    pub(super) log: &'a [Written],
    pub(super) records: &'a [&'a Record],
    /// Of `records`, how many are explained.
    pub(super) at: usize,
}

type Check = Result<(), String>;

/// A key that was used: whether a business key, its hash, and what it leads to.
type Known = (bool, u128, (u64, u64, bool));

impl<'a> Turn<'a> {
    fn given(&self, applied: u64) -> Given<'a> {
        let next = self.records.get(self.at).map(|record| record.position);
        let next = next.unwrap_or_else(|| Position::new(self.shard, applied + 1));
        Given { versions: self.versions, now: self.now, settled: self.now.min(self.settle_until), next }
    }

    fn newest(&self) -> &'a Rules {
        &self.versions[self.versions.len() - 1].1
    }

    fn version(&self) -> u32 {
        self.versions.len() as u32
    }
}

/// Whether nobody asked for a record: the tier changed, or the instant of its next change.
fn is_tier_change(record: &Record) -> bool {
    match &record.detail {
        Detail::Tier { manual: None, .. } => true,
        Detail::Key { target } => *target == record.position,
        _ => false,
    }
}

impl Account {
    fn tier(&self, turn: &Turn<'_>) -> Box<str> {
        self.tier.clone().unwrap_or_else(|| turn.newest().levels[0].0.into())
    }

    /// Takes the next record, which has to be where it belongs, with the tier at an instant.
    fn take(&mut self, record: &Record, at: Millis, turn: &mut Turn<'_>) -> Check {
        let is_effect = record.kind.is_effect();
        let of_kind = self.kinds.get(&record.kind).map_or(0, |(_, newest)| *newest);
        let expected = (
            if is_effect { self.sequence + 1 } else { 0 },
            self.newest,
            if is_effect { of_kind } else { self.newest },
            turn.now,
            turn.version(),
            self.model.level(turn.newest(), at) as u8,
        );
        let shown = (
            record.sequence,
            record.previous,
            record.previous_of_kind,
            record.recorded_at,
            record.newest_version,
            record.tier,
        );
        if shown != expected {
            return Err(format!("sequence, previous, time, version and tier are {expected:?}, not as in {record:?}"));
        }
        self.book.take(record)?;
        self.applied = record.position.sequence();
        if is_effect {
            self.sequence += 1;
            if self.sequence == 1 {
                self.created_at = record.recorded_at;
            }
            (self.newest, self.updated_at) = (self.applied, record.recorded_at);
            let kind = self.kinds.entry(record.kind).or_default();
            *kind = (kind.0 + 1, self.applied);
        }
        if !record.keys.is_empty() {
            self.recorded.insert(self.applied, record.recorded_at);
        }
        if record.spend.is_some() || is_tier_change(record) || matches!(record.detail, Detail::Tier { .. }) {
            self.tier_versions = turn.versions.len();
        }
        if let Detail::Tier { to, .. } = &record.detail {
            self.tier = Some(to.clone());
        }
        turn.at += 1;
        Ok(())
    }

    /// Explains records of the tier: each tells of a change that there is.
    fn tier_changes(&mut self, turn: &mut Turn<'_>) -> Check {
        while let Some(record) = turn.records.get(turn.at).filter(|record| is_tier_change(record)) {
            let level = turn.newest().levels[self.model.level(turn.newest(), record.occurred_at)].0;
            if let Detail::Tier { from, to, .. } = &record.detail
                && (**to != *level || *from != self.tier(turn) || from == to || record.occurred_at > turn.now)
            {
                return Err(format!("the tier is {level} after {:?}: {record:?}", self.tier));
            }
            self.take(record, record.occurred_at, turn)?;
        }
        Ok(())
    }

    /// The next record is this effect; it shows the tier at an instant.
    fn effect(&mut self, effect: &Effect, at: Millis, turn: &mut Turn<'_>) -> Check {
        let Some(record) = turn.records.get(turn.at) else { return Err(format!("{effect:?} is expected")) };
        let is_same = (record.kind, record.points, record.occurred_at, record.program_version)
            == (effect.kind, effect.points, effect.at, effect.version)
            && (record.spend, &record.detail) == (effect.spend, &effect.detail);
        if !is_same {
            return Err(format!("{effect:?} is expected, not {record:?}"));
        }
        self.take(record, at, turn)
    }

    /// What was due comes first; all of it, or where a load interrupts it as much as there are records.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, is_whole: bool) -> Check {
        let mut settled_to = Millis::MIN;
        let until = turn.now.min(turn.settle_until);
        loop {
            self.tier_changes(turn)?;
            if !is_whole && turn.at == turn.records.len() {
                return Ok(());
            }
            let given = turn.given(self.applied);
            match self.model.settle_one(until, &mut settled_to, given) {
                Some(effect) => self.effect(&effect, effect.at, turn)?,
                None => break,
            }
        }
        // What time alone changed was told, unless it was computed by an older version.
        let level = turn.newest().levels[self.model.level(turn.newest(), turn.now)].0;
        if self.model.exists
            && until == turn.now
            && self.tier_versions == turn.versions.len()
            && *self.tier(turn) != *level
        {
            return Err(format!("the tier is {level}, and {:?} was journaled", self.tier));
        }
        Ok(())
    }

    /// What is due up to an instant and was not settled.
    pub(super) fn due_by(&self, shard: u16, until: Millis, versions: &[(Millis, Rules)]) -> Option<Effect> {
        let given = Given { versions, now: until, settled: until, next: Position::new(shard, self.applied + 1) };
        self.model.clone().settle_one(until, &mut Millis::MIN.clone(), given)
    }

    /// Everything that happened is explained, and the last record shows what there is.
    pub(super) fn check_end(&self, turn: &Turn<'_>) -> Check {
        if let Some(record) = turn.records.get(turn.at) {
            return Err(format!("nobody expected {record:?}"));
        }
        let (lots, debt) = self.book.lots();
        if (&lots, debt) != (&self.model.lots(), self.model.balances().debt) {
            return Err(format!("lots and debt are {lots:?} and {debt} by the moves, not as in {:?}", self.model));
        }
        turn.records.last().map_or(Ok(()), |record| self.check_balances(record))
    }

    fn check_balances(&self, record: &Record) -> Check {
        let expected = self.model.balances();
        if record.balances != expected {
            return Err(format!("{expected:?} are the balances, not as in {record:?}"));
        }
        Ok(())
    }

    /// Holds what a command came to against what it has to come to.
    pub(super) fn decided(&mut self, request: &Request, decided: Decided<'_>, turn: &mut Turn<'_>) -> Check {
        self.settle(turn, true)?;
        if request.command == Command::Outcome {
            return self.outcome(request, decided, turn);
        }
        let has_keys = self.model.exists && !request.command.is_read() && request.command != Command::Open;
        if has_keys && self.recognized(request, decided, turn)? {
            return Ok(());
        }
        if let Command::SaleReturn { sale, .. } = &request.command
            && self.is_aged(true, *sale, turn)
            && refused_with(decided, &Refusal::UnknownTransaction)
        {
            return Ok(());
        }
        if self.is_of_gone(&request.command, turn) && refused_with(decided, &Refusal::RecordGone) {
            return Ok(());
        }
        let given = turn.given(self.applied);
        let existed = self.model.exists;
        match self.model.decide(request, given) {
            Outcome::View => self.view(request, decided, turn),
            Outcome::Replay(target) => {
                expect_replay(target, decided)?;
                let key = request.keys.idempotency.map(|hash| (false, hash));
                key.map_or(Ok(()), |key| self.joins(key, target, false, request, turn))
            }
            Outcome::Refused(refusal) => {
                if existed {
                    self.remembered(request, &refusal, turn)?;
                }
                let is_right = refused_with(decided, &refusal);
                if is_right { Ok(()) } else { Err(format!("{refusal:?} is expected, not {decided:?}")) }
            }
            Outcome::Done { mut effects, shown, taken } => {
                let first = turn.at;
                for effect in &mut effects {
                    if let Detail::Tier { from, .. } = &mut effect.detail {
                        *from = self.tier(turn);
                    }
                    self.effect(effect, turn.now, turn)?;
                }
                self.tier_changes(turn)?;
                let level = turn.newest().levels[self.model.level(turn.newest(), turn.now)].0;
                if *self.tier(turn) != *level {
                    return Err(format!("the tier is {level}, and {:?} was journaled", self.tier));
                }
                self.check_done(turn.records[first + shown], &taken, decided)
            }
        }
    }

    /// Whether a command asks for a record that may be gone.
    fn is_of_gone(&self, command: &Command, turn: &Turn<'_>) -> bool {
        let original = match command {
            Command::Reverse { original: position, .. } | Command::Transaction { position } => position.sequence(),
            Command::SaleReturn { sale, .. } => self.model.keys.get(&(true, *sale)).map_or(u64::MAX, |sale| sale.0),
            _ => return false,
        };
        self.model.exists && original <= turn.gone
    }

    fn check_done(&self, expected: &Record, taken: &[(Millis, i64)], decided: Decided<'_>) -> Check {
        match decided {
            Decided::Reply(Reply::Executed { record, replayed: false }) if **record == *expected => {}
            _ => return Err(format!("{expected:?} is the answer, not {decided:?}")),
        }
        if expected.kind == RecordKind::Redeem && expected.taken() != taken {
            return Err(format!("{taken:?} is taken, not as in {expected:?}"));
        }
        self.check_balances(expected)
    }

    /// A refusal for want of points is remembered under the request's `Idempotency-Key`.
    fn remembered(&mut self, request: &Request, refusal: &Refusal, turn: &mut Turn<'_>) -> Check {
        let Refusal::InsufficientPoints { available_points, requested_points } = *refusal else { return Ok(()) };
        let Some(hash) = request.keys.idempotency else { return Ok(()) };
        let detail = Detail::Refusal { available_points, requested_points, request_id: request.request_id.clone() };
        self.note(RecordKind::Refusal, detail, turn)?;
        self.model.keys.insert((false, hash), (self.applied, request.fingerprint, true));
        Ok(())
    }

    /// The next record is this one, which has no effect.
    fn note(&mut self, kind: RecordKind, detail: Detail, turn: &mut Turn<'_>) -> Check {
        let effect = Effect { kind, points: 0, at: turn.now, version: turn.version(), spend: None, detail };
        self.effect(&effect, turn.now, turn)
    }

    fn is_aged(&self, business: bool, hash: u128, turn: &Turn<'_>) -> bool {
        let days = if business { BUSINESS_KEY_DAYS } else { IDEMPOTENCY_KEY_DAYS };
        let target = self.model.keys.get(&(business, hash)).map(|(target, ..)| target);
        let at = target.and_then(|target| self.recorded.get(target));
        at.is_some_and(|at| turn.latest_ms.saturating_sub(*at) > days * DAY_MS)
    }

    fn known(&self, request: &Request) -> [Option<Known>; 2] {
        let keys = [(false, request.keys.idempotency), (true, request.keys.business)];
        keys.map(|(business, hash)| {
            let hash = hash?;
            Some((business, hash, *self.model.keys.get(&(business, hash))?))
        })
    }

    /// Whether a request's keys decide what it comes to. A key that is older than it has to be kept may do so or not.
    fn recognized(&mut self, request: &Request, decided: Decided<'_>, turn: &mut Turn<'_>) -> Result<bool, String> {
        let known = self.known(request);
        let mut wrong = None;
        for forgotten in [[false, false], [true, false], [false, true], [true, true]] {
            let is_aged = |key: &Known| self.is_aged(key.0, key.1, turn);
            let may_be = |(key, forgotten): (&Option<Known>, bool)| !forgotten || key.as_ref().is_some_and(is_aged);
            if !known.iter().zip(forgotten).all(may_be) {
                continue;
            }
            let kept = [0, 1].map(|layer| known[layer].filter(|_| !forgotten[layer]));
            match self.recognized_by(kept, request, decided, turn) {
                Ok(is_recognized) => return Ok(is_recognized),
                Err(found) => wrong = wrong.or(Some(found)),
            }
        }
        Err(wrong.unwrap_or_default())
    }

    /// The same, when these keys are known. Nothing changes where it is not so.
    fn recognized_by(
        &mut self,
        known: [Option<Known>; 2],
        request: &Request,
        decided: Decided<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, String> {
        let targets: Vec<_> = known.iter().flatten().map(|(.., outcome)| *outcome).collect();
        let Some(&(target, _, is_refusal)) = targets.first() else { return Ok(false) };
        let is_other = |of: &(u64, u64, bool)| of.1 != request.fingerprint || of.0 != target;
        if targets.iter().any(is_other) {
            if self.model.invalid(&request.command, turn.given(self.applied)).is_some() {
                return Ok(false);
            }
            let is_refused = matches!(decided, Decided::Reply(Reply::Refused(Refusal::KeyReused)));
            return if is_refused { Ok(true) } else { Err(format!("the key was used: {decided:?}")) };
        }
        expect_replay(target, decided)?;
        // The other key of the request joins; a business key remembers no refusal.
        let missing = match (known, request.keys.idempotency, request.keys.business) {
            ([Some(_), None], _, Some(hash)) if !is_refusal => Some((true, hash)),
            ([None, Some(_)], Some(hash), _) => Some((false, hash)),
            _ => None,
        };
        let bound = turn.records.get(turn.at).filter(|record| record.kind == RecordKind::Key);
        let bound = bound.and_then(|record| record.keys.first()).map(|key| (key.business, key.hash));
        let is_own = |(business, hash): &(bool, u128)| {
            Some(*hash) == if *business { request.keys.business } else { request.keys.idempotency }
        };
        let bound = bound.filter(is_own);
        if bound != missing {
            return Err(format!("{missing:?} joins the outcome of record {target}, not {bound:?}"));
        }
        if let Some(key) = missing {
            self.joins(key, target, is_refusal, request, turn)?;
        }
        Ok(true)
    }

    /// A key leads to the outcome of an earlier record from now on.
    fn joins(
        &mut self,
        key: (bool, u128),
        target: u64,
        is_refusal: bool,
        request: &Request,
        turn: &mut Turn<'_>,
    ) -> Check {
        let target_at = Position::new(turn.shard, target);
        self.note(RecordKind::Key, Detail::Key { target: target_at }, turn)?;
        self.model.keys.insert(key, (target, request.fingerprint, is_refusal));
        Ok(())
    }

    fn outcome(&self, request: &Request, decided: Decided<'_>, turn: &Turn<'_>) -> Check {
        let mut first = None;
        for (business, hash, (target, ..)) in self.known(request).into_iter().flatten() {
            if matches!(decided, Decided::Replay { position, outcome: true } if position.sequence() == target) {
                return Ok(());
            }
            first.get_or_insert(target);
            // A key of such an age may have been forgotten; then the other one leads on.
            if !self.is_aged(business, hash, turn) {
                return Err(format!("the outcome is record {target}, not {decided:?}"));
            }
        }
        match (decided, first) {
            (Decided::Reply(Reply::Refused(Refusal::UnknownOutcome)), _) => Ok(()),
            (_, None) => Err(format!("there is no such outcome: {decided:?}")),
            (_, Some(target)) => Err(format!("the outcome is record {target} or forgotten, not {decided:?}")),
        }
    }

    fn tier_view(&self, turn: &Turn<'_>) -> TierView {
        TierView { version: turn.version(), level: self.model.level(turn.newest(), turn.now) as u8 }
    }

    fn balance_view(&self, with_lots: bool, turn: &Turn<'_>) -> BalanceView {
        BalanceView {
            status: self.model.status(),
            balances: self.model.balances(),
            tier: self.tier_view(turn),
            qualifying_spend: self.model.qualifying_spend(turn.newest(), turn.now),
            next_expiry: self.model.next_expiry(),
            sequence: self.sequence,
            last_updated: self.updated_at,
            lots: with_lots.then(|| self.model.lots()),
        }
    }

    fn account_view(&self, shown: &AccountView, turn: &Turn<'_>) -> bool {
        let mut counts = shown.counts.clone();
        counts.sort_unstable();
        let expected = AccountView {
            status: self.model.status(),
            tier: self.tier_view(turn),
            created_at: self.created_at,
            sequence: self.sequence,
            counts: self.kinds.iter().map(|(kind, (count, _))| (*kind, *count)).collect(),
            manual_tier: self.model.manual(turn.now),
        };
        AccountView { counts, ..shown.clone() } == expected
    }

    fn history_head(&self, shown: &HistoryHead, turn: &Turn<'_>) -> bool {
        let at = |sequence| Position::new(turn.shard, sequence);
        let mut by_kind = shown.by_kind.clone();
        by_kind.sort_unstable();
        let expected: Vec<_> = self.kinds.iter().map(|(kind, (count, newest))| (*kind, *count, at(*newest))).collect();
        (shown.sequence, shown.newest, by_kind) == (self.sequence, Some(at(self.newest)), expected)
    }

    fn view(&self, request: &Request, decided: Decided<'_>, turn: &Turn<'_>) -> Check {
        let Decided::Reply(reply) = decided else { return Err(format!("{decided:?} is no view")) };
        let is_right = match (&request.command, reply) {
            (Command::Balance, Reply::Balance(view)) => **view == self.balance_view(false, turn),
            (Command::Lots, Reply::Balance(view)) => **view == self.balance_view(true, turn),
            (Command::Holds, Reply::Holds(holds)) => *holds == self.model.hold_views(turn.shard),
            (Command::HoldStatus { hold }, reply) => match (self.model.hold_view(*hold), reply) {
                (Some(expected), Reply::Hold(view)) => *view == expected,
                (None, Reply::Refused(refusal)) => *refusal == Refusal::UnknownHold,
                // How it ended is known, and what it was is not any more.
                (Some(view), Reply::Refused(Refusal::UnknownHold)) => {
                    view.state != HoldState::Open && hold.sequence() <= turn.gone
                }
                _ => false,
            },
            (Command::Account | Command::Open, Reply::Account(view)) => self.account_view(view, turn),
            (Command::Transaction { position }, Reply::Transaction { record, reversed }) => {
                let expected = turn.log.get(position.sequence() as usize - 1);
                expected.is_some_and(|(expected, _)| **record == *expected)
                    && *reversed == self.model.reversed(position.sequence())
            }
            (Command::HistoryHead, Reply::HistoryHead(head)) => self.history_head(head, turn),
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("{decided:?} is not what there is: {self:?}")) }
    }
}

fn expect_replay(target: u64, decided: Decided<'_>) -> Check {
    match decided {
        Decided::Replay { position, outcome: false } if position.sequence() == target => Ok(()),
        _ => Err(format!("it is a replay of record {target}, not {decided:?}")),
    }
}

fn refused_with(decided: Decided<'_>, expected: &Refusal) -> bool {
    let Decided::Reply(Reply::Refused(refusal)) = decided else { return false };
    match (refusal, expected) {
        (Refusal::InvalidRequest { field, .. }, Refusal::InvalidRequest { field: expected, .. }) => field == expected,
        _ => refusal == expected,
    }
}
