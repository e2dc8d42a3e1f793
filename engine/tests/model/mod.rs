//! What the account tests share: a world that drives an account as a shard does, and a naive model.
#![allow(clippy::unwrap_used, dead_code)]

pub mod naive;

use std::collections::HashMap;

use meed_engine::account::{Account, Context, FactKey, Facts, Fetch, Totals, Verdict, needs, turn};
use meed_engine::program::{Program, Programs};
use meed_schemas::codec;
use meed_schemas::command::{Basis, Command, Earn, Keys, Portion, Request, RequestId, Status};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{BalanceView, Refusal, Reply};
use meed_schemas::program::Document;
use meed_schemas::record::{MoveOp, Record, RecordKind};
use meed_schemas::time::{self, Millis};

pub const SHARD: u16 = 3;

/// An instant of RFC 3339.
pub fn at(text: &str) -> Millis {
    time::parse(text).unwrap_or_else(|| panic!("{text} is not an instant"))
}

/// A program document: what is given replaces the defaults.
pub fn document(members: &str) -> Document {
    let mut document: serde_json::Value = serde_json::from_str(
        r#"{"name":"test","time_zone":"UTC","currency":"USD","earning":{"points":1,"per_amount":"1.00"}}"#,
    )
    .unwrap();
    let members: serde_json::Value = serde_json::from_str(members).unwrap();
    for (name, value) in members.as_object().unwrap() {
        document[name] = value.clone();
    }
    Document::parse(document.to_string().as_bytes()).unwrap()
}

/// What a request came to.
#[derive(Debug)]
pub enum Came {
    Executed(Record),
    Replayed(Record),
    Refused(Refusal),
    Reply(Reply),
}

impl Came {
    #[track_caller]
    pub fn executed(self) -> Record {
        match self {
            Self::Executed(record) => record,
            other => panic!("not executed: {other:?}"),
        }
    }

    #[track_caller]
    pub fn replayed(self) -> Record {
        match self {
            Self::Replayed(record) => record,
            other => panic!("not replayed: {other:?}"),
        }
    }

    #[track_caller]
    pub fn refused(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// One account, its shard's journal and store, and a replica that follows by replay alone.
pub struct World {
    pub programs: Programs,
    pub identity: Identity,
    pub account: Account,
    pub replica: Account,
    pub journal: Vec<Record>,
    pub store: HashMap<FactKey, Vec<u8>>,
    pub totals: Totals,
    pub now: Millis,
    /// What is due after this is not settled, where the clock is not trusted.
    pub settle_until: Option<Millis>,
    pub loads: usize,
    /// Records of the last turn.
    pub last: Vec<Record>,
}

impl World {
    pub fn new(members: &str) -> Self {
        Self::with(document(members), at("2026-01-10T12:00:00Z"))
    }

    pub fn with(document: Document, now: Millis) -> Self {
        let program = Program::create("p", now - 1_000_000, document).unwrap();
        let identity = Identity::member("p", "m-1");
        Self {
            programs: Programs::default().with(program),
            account: Account::blank(),
            replica: Account::blank(),
            identity,
            journal: Vec::new(),
            store: HashMap::new(),
            totals: Totals::default(),
            now,
            settle_until: None,
            loads: 0,
            last: Vec::new(),
        }
    }

    pub fn program(&self) -> &Program {
        self.programs.get("p").unwrap()
    }

    /// A new version of the program, in effect from now.
    pub fn succeed(&mut self, members: &str) {
        let next = self.program().succeed(self.now, document(members)).unwrap();
        self.programs = self.programs.with(next);
    }

    pub fn ask(&mut self, command: Command) -> Came {
        self.ask_with(command, Keys::default())
    }

    pub fn keyed(&mut self, command: Command, idempotency: u128) -> Came {
        self.ask_with(command, Keys { idempotency: Some(idempotency), business: None })
    }

    pub fn ask_with(&mut self, command: Command, keys: Keys) -> Came {
        let mut request = request(self, command, keys);
        let mut facts = Facts::default();
        if self.now % 2 == 0 {
            for fetch in needs(&self.account, &request, SHARD) {
                self.load(&mut facts, fetch);
            }
        }
        self.last.clear();
        for _ in 0..32 {
            let context = Context {
                programs: &self.programs,
                now: self.now,
                settle_until: self.settle_until.unwrap_or(self.now),
                shard: SHARD,
                next_sequence: self.journal.len() as u64 + 1,
            };
            let turn = turn(&mut self.account, &mut request, &facts, &context);
            let first = self.journal.len();
            for record in turn.records {
                self.journalize(*record);
            }
            match turn.verdict {
                Verdict::Executed(index) => return Came::Executed(self.journal[first + index].clone()),
                Verdict::Replay(position) => return Came::Replayed(self.record(position).unwrap().clone()),
                Verdict::Reply(Reply::Refused(refusal)) => return Came::Refused(refusal),
                Verdict::Reply(reply) => return Came::Reply(reply),
                Verdict::Load(fetches) => {
                    self.loads += 1;
                    assert!(!fetches.is_empty());
                    for fetch in fetches {
                        self.load(&mut facts, fetch);
                    }
                }
            }
        }
        panic!("loads without end");
    }

    pub fn record(&self, position: Position) -> Option<&Record> {
        assert_eq!(position.shard(), SHARD);
        self.journal.get(position.sequence() as usize - 1)
    }

    fn load(&self, facts: &mut Facts, fetch: Fetch) {
        match fetch {
            Fetch::Record(position) => facts.add_record(position, self.record(position).cloned()),
            Fetch::Fact(fact) => facts.add_fact(fact, self.store.get(&fact).map(Vec::as_slice)).unwrap(),
        }
    }

    /// Journals a record, follows it with the replica, and checks what holds after every record.
    fn journalize(&mut self, record: Record) {
        let at = self.journal.len() as u64 + 1;
        assert_eq!(record.position, Position::new(SHARD, at), "positions are dense");
        let mut bytes = Vec::new();
        codec::encode(&record, &mut bytes);
        let decoded = codec::decode(record.position, &bytes).unwrap();
        assert_eq!(decoded, record);
        let before = self.journal.iter().rev().find(|r| r.kind.is_effect());
        let of_kind = self.journal.iter().rev().find(|r| r.kind == record.kind);
        assert_eq!(record.previous, before.map_or(0, |r| r.position.sequence()));
        if record.kind.is_effect() {
            assert_eq!(record.sequence, before.map_or(0, |r| r.sequence) + 1, "account sequences are dense");
            assert_eq!(record.previous_of_kind, of_kind.map_or(0, |r| r.position.sequence()));
        } else {
            assert_eq!(record.sequence, 0);
        }
        assert!(record.moves.iter().all(|m| m.points > 0), "{record:?}");
        assert!(self.journal.last().is_none_or(|last| last.recorded_at <= record.recorded_at));
        self.replica.apply(&decoded);
        self.totals.add(&record);
        self.last.push(record.clone());
        self.journal.push(record);
    }

    /// What holds at the end of every turn.
    pub fn check(&self) {
        let (mut live, mut replayed) = (Vec::new(), Vec::new());
        self.account.encode(&mut live);
        self.replica.encode(&mut replayed);
        assert_eq!(live, replayed, "replay gives the same state");
        let decoded = Account::decode(&self.identity, &live).unwrap();
        let mut again = Vec::new();
        decoded.encode(&mut again);
        assert_eq!(live, again);
        assert_eq!(decoded.next_due(), self.account.next_due());
        let b = self.account.balances();
        let points: i64 = self.journal.iter().map(|r| r.points).sum();
        assert_eq!(points, b.total + b.pending, "the sum of points is total and pending");
        let sums = self.totals.of("p");
        assert_eq!(sums.outstanding(), i128::from(points));
        assert_eq!(sums.accounts, 1);
        let mut bytes = Vec::new();
        self.totals.encode(&mut bytes);
        assert_eq!(Totals::decode(&bytes).unwrap(), self.totals);
        assert!(bytes.len() < 2 || Totals::decode(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!((sums.pending, sums.held, sums.debt), (b.pending.into(), b.held.into(), b.debt.into()));
        assert!(b.debt == 0 || b.available() == -b.debt, "debt is paid first: {b:?}");
        if let Some(last) = self.last.last() {
            assert_eq!(last.balances, b, "the last record of a turn shows the state after it");
        }
        assert!(self.account.next_due().is_none_or(|due| due > self.now || self.last.is_empty()));
    }

    /// Moves the overlay into the store and reads the account back from its blob.
    pub fn checkpoint(&mut self) {
        for spilled in self.account.overlay() {
            self.store.insert(spilled.fact, spilled.value.encode());
        }
        self.account.drop_overlay(self.account.applied());
        assert!(self.account.overlay().is_empty());
        let mut blob = Vec::new();
        self.account.encode(&mut blob);
        self.account = Account::decode(&self.identity, &blob).unwrap();
    }

    pub fn balance(&mut self, command: Command) -> BalanceView {
        match self.ask(command) {
            Came::Reply(Reply::Balance(view)) => *view,
            other => panic!("no balance: {other:?}"),
        }
    }

    /// Live lots as (expiry, available, held).
    pub fn lots(&mut self) -> Vec<(Millis, i64, i64)> {
        let lots = self.balance(Command::Lots).lots.unwrap();
        lots.iter().filter(|l| l.activates_at.is_none()).map(|l| (l.expires_at, l.available, l.held)).collect()
    }

    pub fn tier_name(&mut self) -> String {
        let tier = self.balance(Command::Balance).tier;
        self.program().version(tier.version).unwrap().level(tier.level.into()).name.clone()
    }
}

/// A request of the world's account.
pub fn request(world: &World, command: Command, keys: Keys) -> Request {
    let mut canonical = Vec::new();
    command.write_canonical(&mut canonical);
    let fingerprint = canonical.iter().fold(7u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    Request {
        identity: world.identity.clone(),
        command,
        keys,
        fingerprint,
        request_id: RequestId::Made(world.journal.len() as u64),
        traceparent: None,
    }
}

pub fn earn_points(points: i64) -> Command {
    earn(Basis::Points(points), None, None, None)
}

pub fn earn_amount(amount: i64) -> Command {
    earn(Basis::Amount(amount), None, None, None)
}

pub fn earn(
    basis: Basis,
    occurred_at: Option<Millis>,
    expires_at: Option<Millis>,
    activates_at: Option<Millis>,
) -> Command {
    Command::Earn { earn: Earn { basis, occurred_at, expires_at, activates_at }, references: None }
}

pub fn redeem(points: i64) -> Command {
    Command::Redeem { points, occurred_at: None, references: None }
}

pub fn adjust(points: i64) -> Command {
    Command::Adjust { points, expires_at: None, references: None }
}

pub fn reverse(original: &Record, portion: Portion) -> Command {
    Command::Reverse { original: original.position, portion, occurred_at: None, references: None }
}

pub fn hold(points: i64, ttl_seconds: Option<i64>) -> Command {
    Command::Hold { points, ttl_seconds, references: None }
}

pub fn capture(hold: Position, points: Option<i64>) -> Command {
    Command::Capture { hold, points, references: None }
}

pub fn void(hold: Position) -> Command {
    Command::Void { hold, references: None }
}

pub fn sale(amount: i64, redeem_points: Option<i64>, occurred_at: Millis) -> Command {
    Command::Sale { amount, redeem_points, occurred_at, references: None }
}

pub fn set_status(status: Status) -> Command {
    Command::SetStatus { status, references: None }
}

pub fn set_tier(tier: Option<&str>, until: Option<Millis>) -> Command {
    Command::SetTier { tier: tier.map(Into::into), until, references: None }
}

/// Kinds of records, by their names.
pub fn kinds(records: &[Record]) -> Vec<&'static str> {
    records.iter().map(|r| r.kind.name()).collect()
}

/// Points moved by an operation in a record.
pub fn moved(record: &Record, op: MoveOp) -> i64 {
    record.moves.iter().filter(|m| m.op == op).map(|m| m.points).sum()
}

/// Whether a record is of a kind.
pub fn is(record: &Record, kind: RecordKind) -> bool {
    record.kind == kind
}
