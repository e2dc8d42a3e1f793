//! Reads: what an account shows as of a turn.

use meed_schemas::command::{Command, Keys};
use meed_schemas::ids::Position;
use meed_schemas::outcome::{
    AccountView, BalanceView, HistoryHead, HoldState, HoldView, LotView, Refusal, Reply, ReversedSoFar, TierView,
};
use meed_schemas::record::{Detail, KeyBinding, MoveOp};
use meed_schemas::time::NEVER;

use super::facts::{FactKey, Fetch, Fetches};
use super::keys::{Found, key_fact};
use super::session::{Session, Step, Stop, Verdict, reversed_so_far, transaction};
use super::{Account, Hold};

/// Answers a read.
pub(super) fn view(session: &Session<'_>, command: &Command, keys: &Keys) -> Step<Verdict> {
    match command {
        Command::Settle => return Ok(Verdict::Reply(Reply::Settled)),
        Command::Outcome => return outcome(session, keys),
        _ if !session.account.exists() => return Err(Refusal::UnknownAccount.into()),
        _ => {}
    }
    let reply = match command {
        Command::Balance => Reply::Balance(Box::new(balance(session, false))),
        Command::Lots => Reply::Balance(Box::new(balance(session, true))),
        Command::Holds => {
            Reply::Holds(session.account.holds().iter().map(|hold| open_hold(session.shard, hold)).collect())
        }
        Command::HoldStatus { hold } => Reply::Hold(hold_status(session, *hold)?),
        Command::Account => return Ok(account(session)),
        Command::Transaction { position } => {
            let record = transaction(session, *position)?;
            let reversed = reversed_so_far(session, position.sequence())?;
            let reversed = ReversedSoFar { points: reversed.points, amount: reversed.amount };
            Reply::Transaction { record: Box::new(record.clone()), reversed }
        }
        _ => Reply::HistoryHead(Box::new(history_head(session.account, session.shard))),
    };
    Ok(Verdict::Reply(reply))
}

fn tier_view(session: &Session<'_>) -> TierView {
    let level = session.account.level_at(session.newest, session.now) as u8;
    TierView { version: session.newest.number, level }
}

fn balance(session: &Session<'_>, with_lots: bool) -> BalanceView {
    let account = &*session.account;
    let wallet = &account.wallet;
    let next = wallet.lots.iter().find(|lot| lot.available > 0 && lot.expires_at != NEVER);
    let lots = with_lots.then(|| {
        let live = wallet.lots.iter().map(|lot| LotView {
            available: lot.available,
            held: lot.held,
            activates_at: None,
            expires_at: lot.expires_at,
        });
        let pending = wallet.pending.iter().map(|lot| LotView {
            available: lot.points,
            held: 0,
            activates_at: Some(lot.activates_at),
            expires_at: lot.expires_at,
        });
        live.chain(pending).collect()
    });
    BalanceView {
        status: account.status,
        balances: wallet.balances(),
        tier: tier_view(session),
        qualifying_spend: session.newest.qualifying_spend(&account.spend, session.newest.month_of(session.now)),
        next_expiry: next.map(|lot| (lot.available, lot.expires_at)),
        sequence: account.sequence,
        last_updated: account.updated_at,
        lots,
    }
}

fn open_hold(shard: u16, hold: &Hold) -> HoldView {
    HoldView {
        hold: Position::new(shard, hold.id),
        points: hold.points(),
        expires_at: (hold.expires_at != NEVER).then_some(hold.expires_at),
        recorded_at: hold.recorded_at,
        state: HoldState::Open,
    }
}

/// A hold, open or not; what a closed one was is read from its record.
fn hold_status(session: &Session<'_>, hold: Position) -> Step<HoldView> {
    if hold.shard() != session.shard {
        return Err(Refusal::UnknownHold.into());
    }
    if let Some(open) = session.account.hold(hold.sequence()) {
        return Ok(open_hold(session.shard, open));
    }
    let closed = match session.account.closed_hold(hold.sequence(), session.facts) {
        Found::Yes(closed) => closed,
        Found::No => return Err(Refusal::UnknownHold.into()),
        Found::Unknown => return Err(Stop::load(Fetch::Fact(FactKey::ClosedHold(hold.sequence())))),
    };
    let Some(record) = session.facts.record(hold) else { return Err(Stop::load(Fetch::Record(hold))) };
    let record = record.filter(|record| record.identity == *session.identity).ok_or(Refusal::UnknownHold)?;
    let Detail::Hold { expires_at } = record.detail else { return Err(Refusal::UnknownHold.into()) };
    let end = Position::new(session.shard, closed.end);
    Ok(HoldView {
        hold,
        points: record.moves.iter().filter(|m| m.op == MoveOp::Hold).map(|m| m.points).sum(),
        expires_at,
        recorded_at: record.recorded_at,
        state: if closed.captured { HoldState::Captured(end) } else { HoldState::Voided(end) },
    })
}

/// The account's view.
pub(super) fn account(session: &Session<'_>) -> Verdict {
    let account = &*session.account;
    let manual = account.manual().filter(|manual| session.now < manual.until);
    Verdict::Reply(Reply::Account(Box::new(AccountView {
        status: account.status,
        tier: tier_view(session),
        created_at: account.created_at,
        sequence: account.sequence,
        counts: account.kinds.iter().map(|kind| (kind.kind, kind.count)).collect(),
        manual_tier: manual
            .map(|manual| (manual.name.clone(), manual.floor, (manual.until != NEVER).then_some(manual.until))),
    })))
}

/// Where the history begins.
pub(super) fn history_head(account: &Account, shard: u16) -> HistoryHead {
    HistoryHead {
        sequence: account.sequence,
        newest: (account.newest > 0).then(|| Position::new(shard, account.newest)),
        by_kind: account.kinds.iter().map(|k| (k.kind, k.count, Position::new(shard, k.newest))).collect(),
    }
}

/// The outcome under the first of the keys that leads to one.
fn outcome(session: &Session<'_>, keys: &Keys) -> Step<Verdict> {
    let mut missing = Fetches::new();
    for (hash, business) in [(keys.idempotency, false), (keys.business, true)] {
        let Some(hash) = hash else { continue };
        let key = KeyBinding { hash, business };
        match session.account.outcome_of(key, session.facts) {
            Found::Yes(outcome) => return Ok(Verdict::Replay(Position::new(session.shard, outcome.target))),
            Found::No => {}
            Found::Unknown => missing.push(Fetch::Fact(key_fact(key))),
        }
    }
    if missing.is_empty() { Err(Refusal::UnknownOutcome.into()) } else { Err(Stop::Load(missing)) }
}
