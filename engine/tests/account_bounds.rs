//! What an account holds has bounds, and at each of them a client meets a refusal that names it.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use meed_engine::account::{
    Account, LOTS_MAX, OPEN_HOLDS_MAX, PINS_MAX, PROGRAM_VERSIONS_MAX, SPEND_MONTH_MAX, SPEND_MONTHS_MAX,
};
use meed_engine::aliases::ALIASES_PER_ACCOUNT_MAX;
use meed_schemas::command::{Basis, Command, Portion, Status};
use meed_schemas::http::problem::Problem;
use meed_schemas::ids::Identity;
use meed_schemas::outcome::{Limit, Refusal, Reply};
use meed_schemas::time::{DAY_MS, Millis};
use model::*;

fn limit(limit: Limit) -> Refusal {
    Refusal::LimitExceeded { limit }
}

#[test]
fn refusals_name_the_bounds() {
    let bounds: [(Limit, &[usize]); 3] = [
        (Limit::Lots, &[LOTS_MAX]),
        (Limit::OpenHolds, &[OPEN_HOLDS_MAX, PINS_MAX]),
        (Limit::Aliases, &[ALIASES_PER_ACCOUNT_MAX]),
    ];
    for (limit, most) in bounds {
        let detail = Problem::limit(limit).detail;
        let told: String = detail.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(told, most.iter().map(usize::to_string).collect::<String>(), "{detail}");
    }
}

#[test]
fn balances_lots_and_holds_are_bounded() {
    let mut w = World::new(r#"{"earning":{"points":1000000000000,"per_amount":"1.00"}}"#);
    assert_eq!(w.ask(earn_amount(200)).refused(), Refusal::BalanceOverflow);
    for _ in 0..1_000 {
        w.ask(earn_points(1_000_000_000_000)).executed();
    }
    assert_eq!(w.ask(earn_points(1)).refused(), Refusal::BalanceOverflow);
    let mut w = World::new("{}");
    let lot = |w: &World, n: usize| earn(Basis::Points(1), None, Some(w.now + DAY_MS + n as Millis), None);
    for n in 0..LOTS_MAX {
        let command = lot(&w, n);
        w.ask(command).executed();
    }
    let one_more = lot(&w, LOTS_MAX);
    assert_eq!(w.ask(one_more).refused(), limit(Limit::Lots));
    let again = lot(&w, 0);
    w.ask(again).executed();
    for _ in 0..OPEN_HOLDS_MAX {
        w.ask(hold(1, None)).executed();
    }
    assert_eq!(w.ask(hold(1, None)).refused(), limit(Limit::OpenHolds));
    w.check();
}

/// An amount of so many months before January 2026, in which the model's time begins.
fn earn_months_ago(amount: i64, months: usize) -> Command {
    let (year, month) = (2026 - months.div_ceil(12), 12 - (months + 11) % 12);
    earn(Basis::Amount(amount), Some(at(&format!("{year}-{month:02}-01T00:00:00Z"))), None, None)
}

#[test]
fn spend_is_bounded() {
    let mut w = World::new(r#"{"late_days_max":null}"#);
    for months in 0..SPEND_MONTHS_MAX {
        let command = earn_months_ago(100, months);
        w.ask(command).executed();
    }
    let one_more = earn_months_ago(100, SPEND_MONTHS_MAX);
    assert_eq!(w.ask(one_more.clone()).refused(), limit(Limit::SpendMonths));
    // A month that there is takes more, and points without an amount are no spend.
    w.ask(earn_amount(100)).executed();
    w.ask(earn_points(1)).executed();
    let oldest = w.journal[SPEND_MONTHS_MAX - 1].clone();
    w.ask(reverse(&oldest, Portion::Rest)).executed();
    w.ask(one_more).executed();
    w.check();

    let mut w = World::new(r#"{"late_days_max":null,"earning":{"points":1,"per_amount":"10000000.00"}}"#);
    w.ask(earn_amount(SPEND_MONTH_MAX - 1)).executed();
    assert_eq!(w.ask(earn_amount(2)).refused(), Refusal::BalanceOverflow);
    let last_month = earn_months_ago(2, 1);
    w.ask(last_month).executed();
    w.ask(earn_amount(1)).executed();
    assert_eq!(w.ask(earn_amount(1)).refused(), Refusal::BalanceOverflow);
    w.check();
}

#[test]
fn versions_of_a_program_are_bounded() {
    let mut w = World::new("{}");
    w.identity = Identity::program_account("fresh");
    w.account = Account::blank();
    let put = |enroll: bool| Command::PutProgram {
        document: document(&format!(r#"{{"auto_enroll":{enroll}}}"#)).to_canonical_json().into(),
    };
    for number in 1..=PROGRAM_VERSIONS_MAX as u32 {
        assert_eq!(w.ask(put(number % 2 == 0)).executed().program_version, number);
    }
    assert_eq!(w.ask(put(false)).refused(), limit(Limit::ProgramVersions));
    // The newest once more makes no version.
    let version = PROGRAM_VERSIONS_MAX as u32;
    assert!(matches!(w.ask(put(true)), Came::Reply(Reply::Program { version: v, created: false }) if v == version));
}

/// A world with all the lots that there may be, of so many points each; the last to expire comes last.
fn full_of_lots(points: i64, members: &str) -> World {
    let mut w = World::new(members);
    for n in 0..LOTS_MAX {
        let command = earn(Basis::Points(points), None, Some(w.now + DAY_MS + n as Millis), None);
        w.ask(command).executed();
    }
    w
}

#[test]
fn what_holds_pin_is_bounded_so_that_all_may_end_at_once() {
    let mut w = full_of_lots(1, "{}");
    for _ in 0..PINS_MAX / LOTS_MAX {
        w.ask(hold(LOTS_MAX as i64, None)).executed();
        for n in 0..LOTS_MAX {
            let command = earn(Basis::Points(1), None, Some(at("2026-01-11T12:00:00Z") + n as Millis), None);
            w.ask(command).executed();
        }
    }
    assert_eq!(w.ask(hold(1, None)).refused(), limit(Limit::OpenHolds));
    w.ask(set_status(Status::Closed)).executed();
    let moves: usize = w.last.iter().map(|record| record.moves.len()).sum();
    assert_eq!(moves, PINS_MAX);
    w.check();
}

#[test]
fn a_sale_that_redeems_first_has_the_room_that_it_makes() {
    let mut w = full_of_lots(2, "{}");
    assert_eq!(w.ask(sale(10_000, None, w.now)).refused(), limit(Limit::Lots));
    assert_eq!(w.ask(sale(10_000, Some(1), w.now)).refused(), limit(Limit::Lots), "the lot has a point left");
    w.ask(sale(10_000, Some(2), w.now)).executed();
    w.check();

    let mut w = World::new("{}");
    for _ in 0..1_000 {
        w.ask(earn_points(1_000_000_000_000)).executed();
    }
    assert_eq!(w.ask(sale(10_000, Some(99), w.now)).refused(), Refusal::BalanceOverflow);
    w.ask(sale(10_000, Some(100), w.now)).executed();
    w.check();
}

#[test]
fn what_is_gone_at_once_or_pays_debt_needs_no_room() {
    // Redeemed from a lot that has expired since, when all others are there.
    let mut w = World::new("{}");
    w.ask(earn(Basis::Points(5), None, Some(w.now + 1_000), None)).executed();
    let redeemed = w.ask(redeem(5)).executed();
    for _ in 0..1_000 {
        w.ask(earn_points(1_000_000_000_000)).executed();
    }
    w.now += 2_000;
    w.ask(reverse(&redeemed, Portion::Rest)).executed();
    w.ask(earn(Basis::Points(5), Some(w.now - 2_000), Some(w.now - 1_000), None)).executed();
    assert_eq!(w.balance(Command::Balance).balances.total, 1_000_000_000_000_000);
    w.check();

    let mut w = World::new(r#"{"negative_balance":{"policy":"debt","floor":-100}}"#);
    let sold = w.ask(earn_points(50)).executed();
    w.ask(redeem(50)).executed();
    w.ask(reverse(&sold, Portion::Rest)).executed();
    assert_eq!(w.balance(Command::Balance).balances.debt, 50);
    for n in 0..LOTS_MAX {
        let (activates_at, expires_at) = (w.now + DAY_MS + n as Millis, w.now + 9 * DAY_MS);
        w.ask(earn(Basis::Points(1), None, Some(expires_at), Some(activates_at))).executed();
    }
    w.ask(adjust(10)).executed();
    assert_eq!(w.ask(adjust(41)).refused(), limit(Limit::Lots), "a point of it would be left");
    w.check();
}
