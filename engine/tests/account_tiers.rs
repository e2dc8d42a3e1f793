//! Tiers of an account: spend, time, versions of the program, tiers set by hand.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use meed_schemas::command::{Basis, Command, Portion};
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{Detail, RecordKind};
use meed_schemas::time::{DAY_MS, NEVER};
use model::*;

const TIERS: &str = r#"{"tiers":{"window":"rolling_12_months","levels":[
    {"name":"BASE","from":"0","multiplier":"1"},{"name":"PLUS","from":"100","multiplier":"1.5"},
    {"name":"TOP","from":"300","multiplier":"2"}]},"expiry":{"months":600,"round_to":"end_of_month"}}"#;

#[test]
fn tiers_follow_spend_and_time() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    let first = w.ask(earn_amount(10_000)).executed();
    assert_eq!((first.points, first.tier, kinds(&w.last)), (100, 1, vec!["EARN", "TIER"]));
    assert!(
        matches!(&w.last[1].detail, Detail::Tier { from, to, manual: None } if &**from == "BASE" && &**to == "PLUS")
    );
    // The multiplier is that of the tier before the operation.
    let second = w.ask(earn_amount(20_000)).executed();
    assert!(matches!(&second.detail, Detail::Earn { award: Some(a), .. } if a.applied_multiplier == 15_000));
    assert_eq!((second.points, second.tier), (300, 2));
    // February's spend holds BASE only once January is out of the window: thirteen months later, on time.
    w.now = at("2026-02-10T00:00:00Z");
    w.ask(earn_amount(5_000)).executed();
    assert_eq!(w.account.next_due(), Some(at("2027-02-01T00:00:00Z")));
    w.now = at("2027-01-31T23:59:59.999Z");
    assert_eq!(w.tier_name(), "TOP");
    assert!(w.last.is_empty());
    w.now = at("2027-02-03T00:00:00Z");
    w.ask(Command::Settle);
    assert_eq!(kinds(&w.last), ["TIER"]);
    assert_eq!(w.last[0].occurred_at, at("2027-02-01T00:00:00Z"));
    assert_eq!((w.tier_name(), w.account.next_due().is_some_and(|due| due < NEVER)), ("BASE".to_owned(), true));
    w.check();
}

#[test]
fn a_reversed_amount_leaves_the_month_of_the_original() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    let first = w.ask(earn_amount(10_000)).executed();
    w.now = at("2026-03-01T00:00:00Z");
    let reversal = w.ask(reverse(&first, Portion::Amount(1))).executed();
    assert_eq!(kinds(&w.last), ["REVERSAL", "TIER"], "reversing lowers the tier");
    assert_eq!(reversal.spend.map(|s| (s.month, s.amount)), Some((2026 * 12, -1)));
    assert_eq!(w.tier_name(), "BASE");
    // Points alone move no spend.
    let reversal = w.ask(reverse(&first, Portion::Points(5))).executed();
    assert_eq!((reversal.points, reversal.spend), (-5, None));
    w.check();
}

#[test]
fn a_tier_by_hand_is_a_floor_or_a_ceiling() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    w.ask(earn_amount(10_000)).executed();
    let until = w.now + 10 * DAY_MS;
    let set = w.ask(set_tier(Some("TOP"), Some(until))).executed();
    assert_eq!((set.kind, set.tier, w.tier_name()), (RecordKind::Tier, 2, "TOP".to_owned()));
    assert_eq!(w.account.next_due(), Some(until));
    w.now = until + 5;
    assert_eq!(w.tier_name(), "PLUS");
    assert_eq!((kinds(&w.last), w.last[0].occurred_at), (vec!["TIER"], until));
    // A ceiling keeps what is earned above it from counting.
    w.ask(set_tier(Some("BASE"), None)).executed();
    let earned = w.ask(earn_amount(90_000)).executed();
    assert_eq!((earned.points, w.tier_name()), (900, "BASE".to_owned()));
    // It holds from its recorded instant on, not for what happened before.
    let before = earn(Basis::Amount(100), Some(until - 1), None, None);
    let applied = w.ask(before).executed();
    assert!(matches!(&applied.detail, Detail::Earn { award: Some(a), .. } if a.applied_tier == 2));
    let removed = w.ask(set_tier(None, None)).executed();
    assert_eq!((removed.tier, w.tier_name()), (2, "TOP".to_owned()));
    w.check();
}

#[test]
fn the_version_at_the_time_of_the_operation_decides() {
    let mut w = World::new("{}");
    let before = w.now;
    w.now += DAY_MS;
    w.succeed(r#"{"earning":{"points":3,"per_amount":"1.00"},"late_days_max":2}"#);
    let old = w.ask(earn(Basis::Amount(100), Some(before), None, None)).executed();
    let new = w.ask(earn_amount(100)).executed();
    assert_eq!((old.program_version, old.newest_version, old.points), (1, 2, 1));
    assert_eq!((new.program_version, new.points), (2, 3));
    // Recomputed with the recorded version, refused by the newest one's bound.
    assert_eq!(w.ask(reverse(&old, Portion::Rest)).executed().points, -1);
    let late = earn(Basis::Amount(1), Some(w.now - 2 * DAY_MS - 1), None, None);
    assert_eq!(w.ask(late).refused(), Refusal::TooLate { late_days_max: 2 });
    w.check();
}

#[test]
fn an_instant_that_changes_nothing_is_not_due_twice() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    w.ask(earn_amount(10_000)).executed();
    let due = w.account.next_due().unwrap();
    w.succeed(&TIERS.replace("\"PLUS\"", "\"SOME\"").replace("\"BASE\",\"from\":\"0\"", "\"PLUS\",\"from\":\"0\""));
    w.now = due;
    w.ask(Command::Settle);
    assert_eq!(kinds(&w.last), ["KEY"], "a record without effect");
    assert!(w.account.next_due().is_none_or(|next| next > due));
    w.check();
}

#[test]
fn an_operation_under_a_new_version_moves_the_instant_of_the_next_change() {
    let lifetime = TIERS.replace("rolling_12_months", "lifetime");
    let mut w = World::with(document(&lifetime), at("2026-01-31T12:00:00Z"));
    w.ask(earn_amount(10_000)).executed();
    let expiry = w.account.next_due();
    w.succeed(TIERS);
    w.ask(redeem(1)).executed();
    assert_eq!(kinds(&w.last), ["REDEEM", "KEY"]);
    let change = at("2027-02-01T00:00:00Z");
    assert_eq!(w.account.next_due(), Some(change));
    w.ask(redeem(1)).executed();
    assert_eq!(kinds(&w.last), ["REDEEM"], "once");
    w.now = change + 5;
    w.ask(Command::Settle);
    assert_eq!((kinds(&w.last), w.last[0].occurred_at), (vec!["TIER"], change));
    assert_eq!((w.tier_name(), w.account.next_due()), ("BASE".to_owned(), expiry));
    w.check();
}

#[test]
fn a_reversal_equals_never_having_happened() {
    for (portions, lots) in [(vec![Portion::Rest], 1), (vec![Portion::Amount(1_234), Portion::Rest], 1)] {
        let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
        w.ask(earn_amount(2_000)).executed();
        let before = (w.lots(), w.tier_name(), w.balance(Command::Balance).qualifying_spend);
        let record = w.ask(earn_amount(50_000)).executed();
        for portion in portions {
            w.ask(reverse(&record, portion)).executed();
        }
        assert_eq!((w.lots(), w.tier_name(), w.balance(Command::Balance).qualifying_spend), before);
        assert_eq!(before.0.len(), lots);
        w.check();
    }
}

#[test]
fn what_comes_late_counts_by_the_tier_that_was_set_then() {
    let mut w = World::with(document(TIERS), at("2026-01-31T12:00:00Z"));
    let start = w.now;
    let hour = |n: i64| start + n * 3_600_000;
    w.ask(Command::Open).executed();
    w.ask(set_tier(Some("TOP"), Some(hour(48)))).executed();
    w.now = hour(2);
    w.ask(set_tier(Some("TOP"), Some(hour(72)))).executed();
    w.now = hour(4);
    w.ask(set_tier(Some("PLUS"), None)).executed();
    w.now = hour(6);
    w.ask(set_tier(None, None)).executed();
    w.now = hour(8);
    w.ask(set_tier(Some("TOP"), Some(hour(10)))).executed();
    w.now = hour(12);
    w.ask(set_tier(Some("PLUS"), None)).executed();
    w.checkpoint();
    // Renewed, replaced, removed, run out, and set again.
    for (when, level) in [(1, 2), (3, 2), (5, 1), (7, 0), (9, 2), (11, 0), (12, 1)] {
        let late = w.ask(earn(Basis::Amount(1), Some(hour(when)), None, None)).executed();
        let Detail::Earn { award: Some(award), .. } = &late.detail else { panic!("{late:?}") };
        assert_eq!(award.applied_tier, level, "after {when} hours");
    }
    w.check();
}
