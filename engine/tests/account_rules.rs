//! The account's rules, sentence by sentence: precedence of refusals, idempotency, lots, holds, tills.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use meed_engine::account::{Account, Context, Facts, turn};
use meed_schemas::command::{Basis, Command, Keys, Portion, Status};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::{HoldState, Refusal, Reply};
use meed_schemas::record::{Detail, MoveOp, RecordKind, VoidReason};
use meed_schemas::time::{DAY_MS, NEVER};
use model::*;

const TIERS: &str = r#"{"tiers":{"window":"rolling_12_months","levels":[
    {"name":"BASE","from":"0","multiplier":"1"},{"name":"PLUS","from":"100","multiplier":"1.5"},
    {"name":"TOP","from":"300","multiplier":"2"}]},"expiry":{"months":600,"round_to":"end_of_month"}}"#;

/// One request that could be refused for every reason at once is refused for the first; each line removes it.
#[test]
fn refusals_come_in_the_order_of_the_contract() {
    let mut w = World::new(r#"{"late_days_max":5}"#);
    let late = Some(w.now - 6 * DAY_MS);
    let ahead = Some(w.now + 5 * 60_000 + 1);
    let keys = Keys { idempotency: Some(1), business: None };
    let big = 5_000;
    let redeem_at = |points, occurred_at| Command::Redeem { points, occurred_at, references: None };
    w.identity = Identity::member("nowhere", "m-1");
    assert_eq!(w.ask_with(redeem_at(big, late), keys).refused(), Refusal::UnknownProgram);
    w.identity = Identity::member("p", "m-1");
    assert_eq!(w.ask_with(redeem_at(big, late), keys).refused(), Refusal::UnknownAccount);
    w.ask_with(earn_points(100), keys).executed();
    w.ask(set_status(Status::Closed)).executed();
    assert_eq!(w.ask_with(redeem_at(big, late), keys).refused(), Refusal::KeyReused);
    assert_eq!(w.ask(redeem_at(big, late)).refused(), Refusal::AccountClosed);
    w.ask(set_status(Status::Frozen)).executed();
    assert_eq!(w.ask(redeem_at(big, late)).refused(), Refusal::AccountFrozen);
    w.ask(set_status(Status::Active)).executed();
    assert_eq!(w.ask(redeem_at(big, late)).refused(), Refusal::TooLate { late_days_max: 5 });
    assert_eq!(w.ask(redeem_at(big, ahead)).refused(), Refusal::InTheFuture);
    let insufficient = Refusal::InsufficientPoints { available_points: 100, requested_points: big };
    assert_eq!(w.ask(redeem_at(big, Some(w.now - 5 * DAY_MS))).refused(), insufficient);
    assert_eq!(w.ask(redeem_at(100, Some(w.now + 5 * 60_000))).executed().points, -100);
    w.check();
}

#[test]
fn what_is_wrong_in_the_light_of_the_program_comes_first() {
    let mut w = World::new(r#"{"pending":{"days":3}}"#);
    let field = |came: Came| match came.refused() {
        Refusal::InvalidRequest { field, .. } => field,
        other => panic!("{other:?}"),
    };
    let now = w.now;
    // Even before the account is missed.
    assert_eq!(field(w.ask(hold(1, Some(604_801)))), "ttl_seconds");
    assert_eq!(field(w.ask(set_tier(Some("NONE"), None))), "new_tier");
    let points = Basis::Points(1);
    assert_eq!(field(w.ask(earn(points, None, Some(now), None))), "expires_at");
    // Three days pending by the program, expiry tomorrow by the request.
    assert_eq!(field(w.ask(earn(points, None, Some(now + DAY_MS), None))), "expires_at");
    assert_eq!(field(w.ask(earn(points, None, Some(now + 9), Some(now + 9)))), "expires_at");
    let record = w.ask(earn(points, None, Some(now + 10), Some(now + 9))).executed();
    assert_eq!(record.balances.pending, 1);
    w.ask(set_status(Status::Closed)).executed();
    assert_eq!(field(w.ask(set_tier(Some("BASE"), Some(now)))), "until");
    assert_eq!(w.ask(set_tier(Some("BASE"), None)).refused(), Refusal::AccountClosed);
}

#[test]
fn a_replay_wins_over_everything() {
    let mut w = World::new(r#"{"holds":{"max_ttl_seconds":900}}"#);
    let expiring = earn(Basis::Points(10), None, Some(w.now + 1_000), None);
    let first = w.keyed(expiring.clone(), 1).executed();
    w.now += 5_000;
    w.ask(set_status(Status::Closed)).executed();
    // By now the expiry lies in the past and the account is closed.
    assert_eq!(w.keyed(expiring.clone(), 1).replayed(), first);
    assert!(matches!(w.keyed(expiring, 2).refused(), Refusal::InvalidRequest { field, .. } if field == "expires_at"));
    w.check();
}

#[test]
fn keys_remember_what_the_contract_says() {
    let mut w = World::new("{}");
    let both = |a, b| Keys { idempotency: Some(a), business: Some(b) };
    let business = |b| Keys { idempotency: None, business: Some(b) };
    w.ask(earn_points(10)).executed();
    // A refusal is remembered by the header's key only.
    let insufficient = Refusal::InsufficientPoints { available_points: 10, requested_points: 50 };
    assert_eq!(w.ask_with(redeem(50), both(1, 100)).refused(), insufficient);
    assert_eq!(kinds(&w.last), ["REFUSAL"]);
    w.ask(earn_points(90)).executed();
    let refused = w.keyed(redeem(50), 1).replayed();
    assert_eq!((refused.kind, refused.keys.len()), (RecordKind::Refusal, 1));
    assert_eq!(w.ask_with(redeem(50), both(1, 100)).replayed(), refused);
    assert!(w.last.is_empty(), "the business key is not bound to a refusal");
    let spent = w.ask_with(redeem(50), business(100)).executed();
    // Now the two keys name two outcomes.
    assert_eq!(w.ask_with(redeem(50), both(1, 100)).refused(), Refusal::KeyReused);
    // A new header's key joins, and then leads there alone.
    assert_eq!(w.ask_with(redeem(50), both(2, 100)).replayed(), spent);
    assert_eq!(kinds(&w.last), ["KEY"]);
    assert_eq!(w.keyed(redeem(50), 2).replayed(), spent);
    assert_eq!(w.keyed(redeem(51), 2).refused(), Refusal::KeyReused);
    // Any other refusal is decided anew.
    w.ask(set_status(Status::Frozen)).executed();
    assert_eq!(w.keyed(redeem(1), 3).refused(), Refusal::AccountFrozen);
    w.ask(set_status(Status::Active)).executed();
    w.keyed(redeem(1), 3).executed();
    let outcome = |w: &mut World, key| w.keyed(Command::Outcome, key);
    assert_eq!(outcome(&mut w, 1).replayed(), refused);
    assert_eq!(outcome(&mut w, 2).replayed(), spent);
    assert_eq!(outcome(&mut w, 9).refused(), Refusal::UnknownOutcome);
    w.check();
    let mut nobody = World::new("{}");
    assert_eq!(outcome(&mut nobody, 1).refused(), Refusal::UnknownOutcome);
}

#[test]
fn only_earns_and_sales_enroll() {
    let orders = [redeem(1), adjust(1), hold(1, None), set_status(Status::Frozen), Command::Balance];
    for command in orders {
        assert_eq!(World::new("{}").ask(command).refused(), Refusal::UnknownAccount);
    }
    let mut w = World::new("{}");
    let now = w.now;
    w.ask(sale(100, None, now)).executed();
    let mut w = World::new(r#"{"auto_enroll":false}"#);
    assert_eq!(w.ask(earn_points(1)).refused(), Refusal::UnknownAccount);
    assert_eq!(w.ask(Command::Open).executed().kind, RecordKind::Open);
    assert!(matches!(w.ask(Command::Open), Came::Reply(Reply::Account(_))));
    assert_eq!(w.ask(earn_points(1)).executed().sequence, 2);
    w.check();
    // By the version that decides the operation.
    let mut w = World::new("{}");
    let before = w.now;
    w.now += DAY_MS;
    w.succeed(r#"{"auto_enroll":false}"#);
    assert_eq!(w.ask(earn_points(1)).refused(), Refusal::UnknownAccount);
    w.ask(sale(100, None, before)).executed();
    w.check();
}

#[test]
fn points_burn_by_expiry_and_expire_on_time() {
    let mut w = World::new("{}");
    let (soon, later) = (w.now + DAY_MS, w.now + 9 * DAY_MS);
    for (points, expires_at) in [(10, None), (20, Some(later)), (30, Some(soon))] {
        w.ask(earn(Basis::Points(points), None, expires_at, None)).executed();
    }
    let spent = w.ask(redeem(40)).executed();
    assert_eq!(spent.taken(), [(soon, 30), (later, 10)]);
    assert_eq!(w.account.next_due(), Some(later));
    w.now = later - 1;
    assert_eq!(w.lots(), [(later, 10, 0), (NEVER, 10, 0)]);
    w.now = later + 77;
    assert_eq!(w.lots(), [(NEVER, 10, 0)]);
    let expired = w.last[0].clone();
    assert_eq!((expired.kind, expired.points, expired.occurred_at), (RecordKind::Expire, -10, later));
    assert_eq!(expired.recorded_at, later + 77);
    // What comes back: latest expiry first; what is past its expiry goes at once.
    let back = w.ask(reverse(&spent, Portion::Rest)).executed();
    assert_eq!(kinds(&w.last), ["REVERSAL", "EXPIRE"]);
    assert_eq!((back.points, back.balances.total), (40, 10), "balances are after the expiry");
    assert!(matches!(back.detail, Detail::Reversal { expired_points: 40, shortfall_points: 0, .. }));
    // An award that comes too late is recorded and gone.
    let late = w.ask(earn(Basis::Points(5), Some(soon - 1_000), Some(soon), None)).executed();
    assert_eq!(kinds(&w.last), ["EARN", "EXPIRE"]);
    assert_eq!((late.points, late.balances.total), (5, 10));
    w.check();
}

#[test]
fn pending_points_activate_and_pay_debt_first() {
    let mut w = World::new(r#"{"pending":{"days":2},"negative_balance":{"policy":"debt","floor":-50}}"#);
    let record = w.ask(earn_points(100)).executed();
    let midnight = at("2026-01-12T00:00:00Z");
    assert!(matches!(record.detail, Detail::Earn { activates_at: Some(a), .. } if a == midnight));
    assert_eq!((record.balances.total, record.balances.pending), (0, 100));
    assert_eq!(w.ask(redeem(1)).refused(), Refusal::InsufficientPoints { available_points: 0, requested_points: 1 });
    let beyond = w.ask(adjust(-51)).refused();
    assert_eq!(beyond, Refusal::InsufficientPoints { available_points: 0, requested_points: 51 });
    w.ask(adjust(-30)).executed();
    assert_eq!(w.account.balances().available(), -30);
    // A pending award's reversal takes its pending points, and no debt.
    let reversal = w.ask(reverse(&record, Portion::Points(20))).executed();
    assert_eq!((moved(&reversal, MoveOp::Burn), w.account.balances().debt), (20, 30));
    w.now = midnight;
    w.ask(Command::Settle);
    let activated = w.last[0].clone();
    assert!(matches!(activated.detail, Detail::Activate { moved_points: 80 }));
    assert_eq!((activated.points, moved(&activated, MoveOp::PayDebt)), (0, 30));
    assert_eq!((w.account.balances().available(), w.account.balances().debt), (50, 0));
    w.check();
}

#[test]
fn reversals_of_amounts_are_cumulative_and_exact() {
    // 1 point per 3.00, rounded half up: no part is a whole number of points.
    let members = r#"{"earning":{"points":1,"per_amount":"3.00","rounding":"half_up"}}"#;
    for parts in [vec![1_000], vec![100; 10], vec![333, 333, 334], vec![1, 999]] {
        let mut w = World::new(members);
        let record = w.ask(earn_amount(10_000)).executed();
        assert_eq!(record.points, 33);
        let taken: i64 = parts.iter().map(|p| -w.ask(reverse(&record, Portion::Amount(*p))).executed().points).sum();
        assert_eq!(taken, 3, "{parts:?}");
        assert_eq!(w.ask(reverse(&record, Portion::Rest)).executed().points, -30);
        assert_eq!(w.ask(reverse(&record, Portion::Rest)).refused(), Refusal::NothingToReverse);
        assert_eq!(w.balance(Command::Balance).qualifying_spend, 0);
        w.check();
    }
}

#[test]
fn reversals_are_bounded_by_what_is_left() {
    let mut w = World::new("{}");
    let points = w.ask(earn_points(10)).executed();
    let amount = w.ask(earn_amount(1_000)).executed();
    let left =
        |points: Option<i64>, amount| Refusal::ExceedsRemaining { remaining_points: points, remaining_amount: amount };
    assert!(matches!(
        w.ask(reverse(&points, Portion::Amount(1))).refused(),
        Refusal::InvalidRequest { field, .. } if field == "amount"
    ));
    assert_eq!(w.ask(reverse(&points, Portion::Points(11))).refused(), left(Some(10), None));
    assert_eq!(w.ask(reverse(&amount, Portion::Amount(1_001))).refused(), left(None, Some(1_000)));
    let spent = w.ask(redeem(15)).executed();
    // Five points are left of twenty: the rest is written off, and counted as reversed.
    let all = w.ask(reverse(&points, Portion::Rest)).executed();
    assert!(matches!(all.detail, Detail::Reversal { shortfall_points: 5, reversed_points: 10, .. }));
    assert_eq!(all.points, -5);
    assert_eq!(w.ask(reverse(&all, Portion::Rest)).refused(), Refusal::NotReversible);
    for sequence in [999, 0] {
        let nowhere = Command::Reverse {
            original: Position::new(SHARD, sequence),
            portion: Portion::Rest,
            occurred_at: None,
            references: None,
        };
        assert_eq!(w.ask(nowhere).refused(), Refusal::UnknownTransaction);
    }
    // Another account's record is unknown here.
    let mut other = spent.clone();
    other.identity = Identity::member("p", "m-2");
    w.journal[spent.position.sequence() as usize - 1] = other;
    assert_eq!(w.ask(reverse(&spent, Portion::Rest)).refused(), Refusal::UnknownTransaction);
}

#[test]
fn reversals_never_take_held_points_but_count_what_expired() {
    let mut w = World::new("{}");
    let soon = w.now + DAY_MS;
    let first = w.ask(earn(Basis::Points(100), None, Some(soon), None)).executed();
    w.ask(earn_points(40)).executed();
    let held = w.ask(hold(30, Some(604_800))).executed();
    w.now = soon;
    // 70 expired unspent, 30 are held, 40 are another award's.
    let reversal = w.ask(reverse(&first, Portion::Rest)).executed();
    assert!(matches!(reversal.detail, Detail::Reversal { expired_points: 70, shortfall_points: 0, .. }));
    assert_eq!((reversal.points, w.account.balances().available()), (-30, 10));
    assert_eq!(hold_state(&mut w, held.position), HoldState::Open);
    w.now += 604_800_000;
    assert!(matches!(hold_state(&mut w, held.position), HoldState::Voided(_)));
    assert_eq!(kinds(&w.last), ["VOID", "EXPIRE"]);
    assert!(matches!(w.last[0].detail, Detail::Void { reason: VoidReason::Expired, .. }));
    w.check();
}

fn hold_state(w: &mut World, hold: Position) -> HoldState {
    match w.ask(Command::HoldStatus { hold }) {
        Came::Reply(Reply::Hold(view)) => view.state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn holds_live_and_end_once() {
    let mut w = World::new("{}");
    let soon = w.now + 60_000;
    w.ask(earn(Basis::Points(10), None, Some(soon), None)).executed();
    w.ask(earn_points(10)).executed();
    let (a, b) = (w.ask(hold(15, Some(120))).executed().position, w.ask(hold(3, Some(600))).executed().position);
    assert!(matches!(w.ask(hold(3, None)).refused(), Refusal::InsufficientPoints { available_points: 2, .. }));
    assert_eq!(w.ask(capture(a, Some(16))).refused(), Refusal::ExceedsHold { held_points: 15 });
    // Held points do not expire while held; what is released after its expiry goes at once.
    w.now = soon + 1;
    assert_eq!(w.lots(), [(soon, 0, 10), (NEVER, 2, 8)]);
    let captured = w.ask(capture(a, Some(4))).executed();
    assert_eq!(kinds(&w.last), ["REDEEM", "EXPIRE"]);
    assert_eq!((captured.points, captured.taken()), (-4, vec![(soon, 4)]));
    assert_eq!((captured.balances.total, captured.balances.held), (10, 3));
    assert!(matches!(captured.detail, Detail::Redeem { hold: Some(hold) } if hold == a));
    assert_eq!(w.ask(capture(a, None)).refused(), Refusal::HoldClosed);
    assert_eq!(w.ask(void(a)).refused(), Refusal::HoldClosed);
    assert_eq!(hold_state(&mut w, a), HoldState::Captured(captured.position));
    let voided = w.ask(void(b)).executed();
    assert_eq!(w.ask(void(b)).replayed(), voided);
    assert_eq!(w.ask(capture(b, None)).refused(), Refusal::HoldClosed);
    assert_eq!(w.ask(void(captured.position)).refused(), Refusal::UnknownHold);
    // A capture is reversed like any redemption.
    let back = w.ask(reverse(&captured, Portion::Rest)).executed();
    assert_eq!((back.points, back.balances.total), (4, 10));
    let third = w.ask(hold(1, Some(60))).executed().position;
    w.now += 61_000;
    let ended = w.ask(void(third)).replayed();
    assert_eq!(ended.occurred_at, w.now - 1_000, "the due instant");
    w.check();
}

#[test]
fn closing_voids_open_holds() {
    let mut w = World::new("{}");
    w.ask(earn_points(10)).executed();
    let held = w.ask(hold(4, None)).executed().position;
    w.ask(hold(5, None)).executed();
    let closed = w.ask(set_status(Status::Closed)).executed();
    assert_eq!(kinds(&w.last), ["VOID", "VOID", "STATUS"]);
    assert_eq!((closed.kind, closed.balances.held, closed.balances.total), (RecordKind::Status, 0, 10));
    assert!(matches!(w.ask(void(held)), Came::Replayed(_)));
    // A key that it is repeated with is used, as its outcome is told.
    assert_eq!(w.keyed(void(held), 7).replayed().kind, RecordKind::Void);
    assert_eq!(kinds(&w.last), ["KEY"]);
    assert_eq!(w.keyed(earn_points(1), 7).refused(), Refusal::KeyReused);
    assert_eq!(w.keyed(void(held), 7).replayed().kind, RecordKind::Void);
    assert!(w.last.is_empty());
    for command in [earn_points(1), redeem(1), adjust(1), adjust(-1), capture(held, None), hold(1, None)] {
        assert_eq!(w.ask(command).refused(), Refusal::AccountClosed);
    }
    assert_eq!(w.balance(Command::Balance).status, Status::Closed);
    w.check();
}

/// A program's new thresholds make an instant pass at which nothing changes: it must not stay due.
#[test]
fn an_account_that_does_not_exist_remembers_no_refusal() {
    let mut w = World::new("{}");
    let key = Keys { idempotency: Some(1), business: None };
    for _ in 0..2 {
        let refused = w.ask_with(sale(500, Some(1), w.now), key).refused();
        assert_eq!(refused, Refusal::InsufficientPoints { available_points: 0, requested_points: 1 });
        assert!(w.journal.is_empty() && !w.account.exists());
    }
    w.ask_with(sale(500, None, w.now), Keys { idempotency: Some(2), ..key }).executed();
}

#[test]
fn a_sale_redeems_and_awards_or_neither() {
    let mut w = World::new("{}");
    let now = w.now;
    let key = Keys { idempotency: None, business: Some(77) };
    w.ask(earn_points(100)).executed();
    assert!(matches!(w.ask(sale(500, Some(101), now)).refused(), Refusal::InsufficientPoints { .. }));
    let sold = w.ask_with(sale(5_000, Some(60), now), key).executed();
    assert_eq!(kinds(&w.last), ["REDEEM", "EARN"]);
    assert_eq!((sold.points, sold.balances.total), (50, 90));
    assert_eq!(w.last[0].balances, sold.balances, "after the operation");
    let Detail::Earn { redemption: Some(redemption), .. } = &sold.detail else { panic!("{sold:?}") };
    assert_eq!((redemption.position, redemption.points), (w.last[0].position, 60));
    let back = |sale, portion| Command::SaleReturn { sale, portion, occurred_at: None, references: None };
    let returned = w.ask(back(77, Portion::Amount(1_000))).executed();
    assert_eq!(returned.points, -10);
    assert!(matches!(returned.detail, Detail::Reversal { original, .. } if original == sold.position));
    assert_eq!(w.ask(back(78, Portion::Rest)).refused(), Refusal::UnknownTransaction);
    assert_eq!(
        w.ask(back(77, Portion::Amount(4_001))).refused(),
        Refusal::ExceedsRemaining { remaining_points: None, remaining_amount: Some(4_000) }
    );
    // The key has long been spilled when the rest comes back.
    for key in 0..20 {
        w.keyed(earn_points(1), key).executed();
    }
    assert!(w.account.spilled_keys_span().is_some());
    w.checkpoint();
    assert_eq!(w.ask(back(77, Portion::Rest)).executed().points, -40);
    w.ask(set_status(Status::Frozen)).executed();
    assert_eq!(w.ask(sale(1, Some(1), now)).refused(), Refusal::AccountFrozen);
    w.ask(sale(1, None, now)).executed();
    w.check();
}

/// A hold of a saga is prepared by a record and has no time to live: only the saga ends it.
#[test]
fn a_prepared_hold_waits_for_its_saga() {
    for captured in [true, false] {
        let mut w = World::new(r#"{"expiry":{"days":30}}"#);
        w.ask(earn_points(10)).executed();
        let mut prepared = w.ask(hold(4, Some(60))).executed();
        prepared.detail = Detail::Hold { expires_at: None };
        // As if the saga's record were the one that was journaled.
        let earned = w.journal[0].clone();
        for account in [&mut w.account, &mut w.replica] {
            *account = Account::blank();
            [&earned, &prepared].into_iter().for_each(|record| account.apply(record));
        }
        w.journal[1] = prepared.clone();
        w.checkpoint();
        w.now += 400 * DAY_MS;
        assert_eq!(w.balance(Command::Balance).balances.held, 4);
        assert_eq!(kinds(&w.last), ["EXPIRE"], "of what was not held");
        w.checkpoint();
        assert_eq!(w.account.next_due(), None, "nothing ends it by time");
        let Came::Reply(Reply::Holds(holds)) = w.ask(Command::Holds) else { panic!("no holds") };
        assert_eq!((holds.len(), holds[0].points, holds[0].state), (1, 4, HoldState::Open));
        assert_eq!(holds[0].expires_at, None);
        let end = if captured { capture(prepared.position, None) } else { void(prepared.position) };
        let ended = w.ask(end).executed();
        assert_eq!(ended.points, if captured { -4 } else { 0 });
        assert_eq!(w.account.balances().total, 0, "what is released is past its expiry");
        w.check();
    }
}

#[test]
fn programs_are_versions_of_their_own_account() {
    let mut w = World::new("{}");
    w.identity = Identity::program_account("fresh");
    w.account = Account::blank();
    let put = |members: &str| Command::PutProgram { document: document(members).to_canonical_json().into() };
    let first = w.ask(put("{}")).executed();
    assert_eq!((first.kind, first.program_version), (RecordKind::Program, 1));
    assert!(matches!(w.ask(put("{}")), Came::Reply(Reply::Program { version: 1, created: false })));
    w.now += 5;
    assert_eq!(w.ask(put(r#"{"auto_enroll":false}"#)).executed().program_version, 2);
    assert!(
        matches!(w.ask(put(r#"{"currency":"EUR"}"#)).refused(), Refusal::InvalidRequest { field, .. } if field == "currency")
    );
    let versions: Vec<_> = w.account.program_versions().iter().map(|v| (v.number, v.effective_from)).collect();
    assert_eq!(versions, [(1, w.now - 5), (2, w.now)]);
    let mut blob = Vec::new();
    w.account.encode(&mut blob);
    assert_eq!(Account::decode(&w.identity, &blob).unwrap().program_versions(), w.account.program_versions());
    assert!(Account::decode(&Identity::member("p", "m"), &blob).is_err());
}

#[test]
fn history_begins_at_the_newest_effect() {
    let mut w = World::new("{}");
    w.ask(earn_points(5)).executed();
    let spent = w.ask(redeem(2)).executed();
    w.ask(earn_points(5)).executed();
    w.keyed(redeem(100), 1).refused();
    let Came::Reply(Reply::HistoryHead(head)) = w.ask(Command::HistoryHead) else { panic!("no head") };
    assert_eq!((head.sequence, head.newest), (3, Some(Position::new(SHARD, 3))));
    let at = |sequence| Position::new(SHARD, sequence);
    assert_eq!(head.by_kind, [(RecordKind::Earn, 2, at(3)), (RecordKind::Redeem, 1, at(2))]);
    w.ask(reverse(&spent, Portion::Points(1))).executed();
    let Came::Reply(Reply::Transaction { record, reversed }) = w.ask(Command::Transaction { position: spent.position })
    else {
        panic!("no transaction")
    };
    assert_eq!((*record, reversed.points), (spent, 1));
    let refusal = w.ask(Command::Transaction { position: at(4) }).refused();
    assert_eq!(refusal, Refusal::UnknownTransaction, "a remembered refusal is no transaction");
}

/// Reversing an award leaves what would be there had it never come, when nothing came between.
#[test]
fn an_idle_account_is_small() {
    let mut w = World::new(r#"{"expiry":{"months":12,"round_to":"end_of_month"}}"#);
    let keys = Keys { idempotency: Some(u128::MAX), business: Some(u128::MAX - 1) };
    let mut request = request(&w, earn_amount(123_456), keys);
    // Late in the life of a shard, so that its sequence takes its usual room.
    let context =
        Context { programs: &w.programs, now: w.now, settle_until: w.now, shard: SHARD, next_sequence: 3_000_000 };
    turn(&mut w.account, &mut request, &Facts::default(), &context);
    let mut blob = Vec::new();
    w.account.encode(&mut blob);
    println!("blob {} B, state {} B and {} B of heap", blob.len(), size_of::<Account>(), w.account.heap_bytes());
    assert!(blob.len() <= 110, "{}", blob.len());
    assert!(size_of::<Account>() + w.account.heap_bytes() <= 400);
}

#[test]
fn damaged_blobs_are_refused() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    for key in 0..12 {
        w.keyed(earn_amount(3_000), key).executed();
    }
    w.ask(hold(5, None)).executed();
    w.ask(set_tier(Some("TOP"), None)).executed();
    let mut blob = Vec::new();
    w.account.encode(&mut blob);
    for length in 0..blob.len() {
        assert!(Account::decode(&w.identity, &blob[..length]).is_err(), "{length} of {}", blob.len());
    }
    for index in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[index] ^= 0x41;
        // Never a panic; what is not seen here is seen by the store's checksum.
        let _ = Account::decode(&w.identity, &damaged);
    }
}
