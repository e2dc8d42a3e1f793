//! The turn under way: what a decision is given, and how it makes records.

use meed_schemas::command::{Keys, References, RequestId};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::{Balances, Detail, KeyBinding, Move, MoveOp, RENDERING, Record, RecordKind};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use super::apply::{ExpiredBefore, encode_expired_before, extension};
use super::facts::{FactKey, Facts, Fetch, Fetches};
use super::keys::Found;
use super::tier::TierBasis;
use super::wallet::live;
use super::{Account, Reversed, add_spend};
use crate::planted::{Fault, planted};
use crate::program::{Program, Programs, Version};

/// What a turn is given besides account and request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Every program.
    pub programs: &'a Programs,
    /// The time; never before that of an earlier turn of the shard.
    pub now: Millis,
    /// Nothing that is due after this is settled: see [`crate::clock::Clock`] on leaps. Not before `now` unless the
    /// clock is not trusted, or behind an earlier turn's.
    pub settle_until: Millis,
    /// The shard that owns the account.
    pub shard: u16,
    /// The next free sequence of the shard.
    pub next_sequence: u64,
}

/// The records of a turn; boxed where they are made, because they are handed on several times.
pub type Records = SmallVec<[Box<Record>; 2]>;

/// What a turn came to.
#[derive(Debug)]
pub struct Turn {
    /// What to journal, in order, already applied to the account: what was due first, whatever the verdict
    /// (a load included).
    pub records: Records,
    /// What to answer.
    pub verdict: Verdict,
}

/// What to answer, once everything that the turn saw is durable.
#[derive(Debug)]
pub enum Verdict {
    /// Executed: render the record with this index in the turn.
    Executed(usize),
    /// Executed before, or refused and remembered: read the record at this position and render it as a
    /// replay.
    Replay(Position),
    /// A view or a refusal.
    Reply(Reply),
    /// Load these, then take the turn again with the same request.
    Load(Fetches),
}

/// Why a decision ends before there is a record.
#[derive(Debug)]
pub(super) enum Stop {
    /// The request is refused.
    Refused(Refusal),
    /// Something must be loaded first.
    Load(Fetches),
}

impl Stop {
    /// One thing must be loaded first.
    pub(super) fn load(fetch: Fetch) -> Self {
        Self::Load(SmallVec::from_elem(fetch, 1))
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A step of a decision.
pub(super) type Step<T> = Result<T, Stop>;

/// The turn under way.
pub(super) struct Session<'a> {
    pub(super) account: &'a mut Account,
    pub(super) identity: &'a Identity,
    pub(super) program: &'a Program,
    pub(super) newest: &'a Version,
    pub(super) facts: &'a Facts,
    pub(super) now: Millis,
    /// What is due up to here is settled, and what counts as past; at most `now`.
    pub(super) settle_until: Millis,
    pub(super) shard: u16,
    next_sequence: u64,
    pub(super) records: Records,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        account: &'a mut Account,
        identity: &'a Identity,
        program: &'a Program,
        facts: &'a Facts,
        context: &Context<'_>,
    ) -> Self {
        Self {
            account,
            identity,
            program,
            newest: program.newest(),
            facts,
            now: context.now,
            settle_until: context.now.min(context.settle_until),
            shard: context.shard,
            next_sequence: context.next_sequence,
            records: SmallVec::new(),
        }
    }

    /// The position that the next record will have.
    pub(super) fn next_position(&self) -> Position {
        Position::new(self.shard, self.next_sequence)
    }

    /// A record that is yet to be given its place.
    pub(super) fn draft(&self, kind: RecordKind, occurred_at: Millis, version: u32, detail: Detail) -> Record {
        draft(self.identity, kind, self.now, occurred_at, (version, self.newest.number), detail)
    }

    /// Gives a record its place, applies it, and returns its index in the turn.
    pub(super) fn commit(&mut self, mut record: Record) -> usize {
        place(self.account, &mut record, self.next_position());
        self.next_sequence += 1;
        self.account.apply(&record);
        record.balances = self.account.balances();
        self.records.push(Box::new(record));
        self.records.len() - 1
    }

    /// What expired unspent before of these lots, as far as the record that changes it must tell: of lots whose
    /// memory is not in the state, and of all when there are several, because the memory of one may push
    /// that of another out while the record is applied.
    pub(super) fn expired_before(&self, expiries: &[Millis]) -> Step<ExpiredBefore> {
        let mut before = ExpiredBefore::new();
        let mut fetches = Fetches::new();
        for expires_at in expiries {
            match self.account.expired_of(*expires_at, self.facts) {
                Found::Yes((_, true)) if expiries.len() == 1 => {}
                Found::Yes((points, _)) => before.push((*expires_at, points)),
                Found::Unknown => fetches.push(Fetch::Fact(FactKey::ExpiredLot(*expires_at))),
                Found::No => {}
            }
        }
        if fetches.is_empty() { Ok(before) } else { Err(Stop::Load(fetches)) }
    }

    /// Records the expiry of available points.
    pub(super) fn expire(&mut self, lots: &[(Millis, i64)], before: &ExpiredBefore, at: Millis) {
        if lots.is_empty() {
            return;
        }
        let version = self.program.version_at(at).number;
        let mut record = self.draft(RecordKind::Expire, at, version, Detail::None);
        record.moves = lots.iter().map(|(e, points)| live(MoveOp::Expire, *e, *points)).collect();
        record.points = -lots.iter().map(|(_, points)| points).sum::<i64>();
        put_expired_before(&mut record, before);
        record.tier = self.account.level_at(self.newest, at) as u8;
        self.commit(record);
    }

    /// Whether the level is the tier last journaled.
    pub(super) fn is_journaled(&self, level: usize) -> bool {
        let account = &self.account;
        if !account.exists() {
            return level == 0;
        }
        let journaled = usize::from(account.tier);
        if account.tier_version == self.newest.number {
            return level == journaled;
        }
        self.program
            .version(account.tier_version)
            .is_some_and(|version| version.level(journaled).name == self.newest.level(level).name)
    }

    /// The name of the tier last journaled.
    pub(super) fn journaled_name(&self) -> Box<str> {
        let version = self.program.version(self.account.tier_version).map_or(self.newest, |version| version);
        version.level(usize::from(self.account.tier)).name.as_str().into()
    }

    /// Tells a record that changes the spend when the tier changes next by itself; where it changes at once
    /// the TIER record that follows tells it.
    pub(super) fn put_tier_due(&self, record: &mut Record) {
        let Some(delta) = record.spend else { return };
        let mut spend = self.account.spend.clone();
        add_spend(&mut spend, delta.month, delta.amount);
        let basis = TierBasis { spend: &spend, ..self.account.tier_basis() };
        if self.is_journaled(basis.level_at(self.newest, self.now)) {
            put_tier_due(record, basis.next_change(self.newest, self.now));
        }
    }

    /// Ends an operation: writes the TIER record if the tier is another now, and stamps the operation's
    /// records, which begin at `first`; those up to `last_primary` show the balances after everything.
    pub(super) fn finish(&mut self, first: usize, last_primary: usize) {
        let level = self.account.level_at(self.newest, self.now);
        if !self.is_journaled(level) {
            self.journal_tier(level, self.now);
        } else if self.account.tier_version != self.newest.number {
            // When it changes next was computed with the levels of another version, which may have changed.
            let due = self.account.tier_basis().next_change(self.newest, self.now);
            if due != self.account.tier_due {
                self.move_tier_due(level, due, self.now);
            }
        }
        let balances = self.account.balances();
        for (index, record) in self.records.iter_mut().enumerate().skip(first) {
            record.tier = level as u8;
            if index <= last_primary {
                record.balances = balances;
            }
        }
    }

    /// Writes a TIER record: the tier is this level at an instant that is due, or now.
    pub(super) fn journal_tier(&mut self, level: usize, at: Millis) {
        let detail = Detail::Tier {
            from: self.journaled_name(),
            to: self.newest.level(level).name.as_str().into(),
            manual: None,
        };
        let version = self.program.version_at(at).number;
        let mut record = self.draft(RecordKind::Tier, at, version, detail);
        record.tier = level as u8;
        put_tier_due(&mut record, self.account.tier_basis().next_change(self.newest, at));
        self.commit(record);
    }

    /// Writes a record without effect that moves the instant at which the tier changes next by itself.
    pub(super) fn move_tier_due(&mut self, level: usize, due: Millis, at: Millis) {
        let version = self.program.version_at(at).number;
        let target = self.next_position();
        let mut record = self.draft(RecordKind::Key, at, version, Detail::Key { target });
        record.tier = level as u8;
        // Also where it never changes by itself again: a record of this kind without the field leaves the instant as it
        // is, which would stay due for ever.
        record.extensions.push((extension::TIER_DUE, due.to_le_bytes().into()));
        self.commit(record);
    }

    /// Remembers that points were missing, under the request's `Idempotency-Key`.
    pub(super) fn remember_refusal(&mut self, refusal: &Refusal, hash: u128, fingerprint: u64, request_id: &RequestId) {
        let Refusal::InsufficientPoints { available_points, requested_points } = *refusal else { return };
        if planted(Fault::ForgetRefusal) {
            return;
        }
        let detail = Detail::Refusal { available_points, requested_points, request_id: request_id.clone() };
        let mut record = self.draft(RecordKind::Refusal, self.now, self.newest.number, detail);
        record.keys.push(KeyBinding { hash, business: false });
        record.fingerprint = fingerprint;
        record.tier = self.account.level_at(self.newest, self.now) as u8;
        self.commit(record);
    }

    /// Binds a further key to an outcome.
    pub(super) fn bind(&mut self, key: KeyBinding, fingerprint: u64, target: Position) {
        let mut record = self.draft(RecordKind::Key, self.now, self.newest.number, Detail::Key { target });
        record.keys.push(key);
        record.fingerprint = fingerprint;
        record.tier = self.account.level_at(self.newest, self.now) as u8;
        self.commit(record);
    }
}

/// A record without a place, of (deciding, newest) version.
pub(super) fn draft(
    identity: &Identity,
    kind: RecordKind,
    now: Millis,
    occurred_at: Millis,
    versions: (u32, u32),
    detail: Detail,
) -> Record {
    Record {
        kind,
        rendering: RENDERING,
        position: Position::default(),
        identity: identity.clone(),
        sequence: 0,
        previous: 0,
        previous_of_kind: 0,
        recorded_at: now,
        occurred_at,
        program_version: versions.0,
        newest_version: versions.1,
        points: 0,
        balances: Balances::default(),
        tier: 0,
        moves: SmallVec::new(),
        spend: None,
        keys: SmallVec::new(),
        fingerprint: 0,
        references: None,
        detail,
        extensions: Vec::new(),
    }
}

/// Gives a record its position, sequence and back-pointers.
pub(super) fn place(account: &Account, record: &mut Record, position: Position) {
    record.position = position;
    record.previous = account.newest;
    if record.kind.is_effect() {
        record.sequence = account.sequence + 1;
        record.previous_of_kind = account.kind_count(record.kind).map_or(0, |kind| kind.newest);
    } else {
        record.previous_of_kind = account.newest;
    }
}

/// Puts in the instant at which the tier changes by itself, if there is one.
pub(super) fn put_tier_due(record: &mut Record, due: Millis) {
    if due != NEVER {
        record.extensions.push((extension::TIER_DUE, due.to_le_bytes().into()));
    }
}

/// Puts in what had expired before in lots that the record's moves concern.
pub(super) fn put_expired_before(record: &mut Record, before: &ExpiredBefore) {
    if !before.is_empty() {
        record.extensions.push((extension::EXPIRED_BEFORE, encode_expired_before(before)));
    }
}

/// The points that moves add to total and pending.
pub(super) fn worth_of(moves: &[Move]) -> i64 {
    use MoveOp::{Burn, Capture, Expire, Grant, Owe};
    moves
        .iter()
        .map(|m| match m.op {
            Grant => m.points,
            Burn | Capture | Expire | Owe => -m.points,
            _ => 0,
        })
        .sum()
}

/// The keys of a request as bindings, header first.
pub(super) fn bindings(keys: &Keys) -> SmallVec<[KeyBinding; 2]> {
    let header = keys.idempotency.map(|hash| KeyBinding { hash, business: false });
    let business = keys.business.map(|hash| KeyBinding { hash, business: true });
    header.into_iter().chain(business).collect()
}

/// References with the request's trace context.
pub(super) fn with_trace(
    references: Option<Box<References>>,
    traceparent: &mut Option<Box<str>>,
) -> Option<Box<References>> {
    match traceparent.take() {
        None => references,
        Some(traceparent) => {
            let mut references = references.unwrap_or_default();
            references.traceparent = Some(traceparent);
            Some(references)
        }
    }
}

/// A transaction of this account.
pub(super) fn transaction<'a>(session: &Session<'a>, position: Position) -> Step<&'a Record> {
    if !position.is_in(session.shard, session.account.applied) {
        return Err(Refusal::UnknownTransaction.into());
    }
    match session.facts.record(position) {
        None => Err(Stop::load(Fetch::Record(position))),
        // Every record up to the account's newest was there once.
        Some(None) => Err(Refusal::RecordGone.into()),
        Some(Some(record)) if record.identity == *session.identity && record.kind.is_effect() => Ok(record),
        Some(_) => Err(Refusal::UnknownTransaction.into()),
    }
}

/// How much of an original was reversed so far.
pub(super) fn reversed_so_far(session: &Session<'_>, original: u64) -> Step<Reversed> {
    match session.account.reversed_of(original, session.facts) {
        Found::Yes(reversed) if !planted(Fault::ForgetReversed) => Ok(reversed),
        Found::Yes(_) | Found::No => Ok(Reversed { original, points: 0, amount: 0 }),
        Found::Unknown => Err(Stop::load(Fetch::Fact(FactKey::Reversed(original)))),
    }
}
