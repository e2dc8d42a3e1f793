//! When what is due takes effect. While the clock is not trusted nothing is past by it: what falls due is left, whoever
//! asks, and settled once it is trusted again.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod model;

use meed_schemas::command::{Basis, Command, Portion, Status};
use meed_schemas::record::Detail;
use meed_schemas::time::{DAY_MS, Millis};
use model::*;

/// A world in which 100 points expire in a month and another 100 never do; then the clock says that two months have passed.
fn leapt(prepare: impl FnOnce(&mut World, Millis) -> Vec<Command>) -> (World, Vec<Command>, Millis) {
    let mut w = World::new(r#"{"late_days_max":null,"holds":{"max_ttl_seconds":31536000}}"#);
    let expires_at = w.now + 30 * DAY_MS;
    w.ask(earn(Basis::Points(100), None, Some(expires_at), None)).executed();
    w.ask(earn(Basis::Points(100), None, Some(w.now + 3_000 * DAY_MS), None)).executed();
    let commands = prepare(&mut w, expires_at);
    w.settle_until = Some(w.now);
    w.now += 60 * DAY_MS;
    (w, commands, expires_at)
}

/// Does it while the clock is not trusted, finds that nothing expired, and that it does when the clock is trusted.
fn keeps_points(prepare: impl FnOnce(&mut World, Millis) -> Vec<Command>, total: i64, expired: i64) {
    let (mut w, commands, expires_at) = leapt(prepare);
    for command in commands {
        w.ask(command).executed();
        assert!(!kinds(&w.last).contains(&"EXPIRE"), "{:?}", w.last);
    }
    assert_eq!(w.balance(Command::Balance).balances.total, total);
    assert!(w.lots().iter().any(|lot| lot.0 == expires_at));
    w.settle_until = None;
    w.ask(Command::Settle);
    assert_eq!(kinds(&w.last), ["EXPIRE"]);
    assert_eq!(w.balance(Command::Balance).balances.total, total - expired);
    w.check();
}

#[test]
fn a_void_a_capture_and_a_closure_release_points_that_seem_past() {
    let held = |w: &mut World| w.ask(hold(150, Some(20_000_000))).executed().position;
    keeps_points(|w, _| vec![void(held(w))], 200, 100);
    // The earlier lot is captured first; ten of it are left.
    keeps_points(|w, _| vec![capture(held(w), Some(90))], 110, 10);
    keeps_points(
        |w, _| {
            vec![{
                held(w);
                set_status(Status::Closed)
            }]
        },
        200,
        100,
    );
}

#[test]
fn a_reversal_gives_points_back_to_a_lot_that_seems_past() {
    keeps_points(|w, _| vec![reverse(&w.ask(redeem(150)).executed(), Portion::Rest)], 200, 100);
}

#[test]
fn points_are_awarded_into_a_lot_that_seems_past_and_wait_for_an_activation_that_does() {
    let late = |w: &World, expires_at| earn(Basis::Points(7), Some(w.now), Some(expires_at), None);
    keeps_points(|w, expires_at| vec![late(w, expires_at)], 207, 107);
    let (mut w, commands, _) =
        leapt(|w, expires_at| vec![earn(Basis::Points(7), Some(w.now), Some(w.now + 90 * DAY_MS), Some(expires_at))]);
    for command in commands {
        let earned = w.ask(command).executed();
        assert!(matches!(earned.detail, Detail::Earn { activates_at: Some(_), .. }), "{earned:?}");
    }
    assert_eq!(w.balance(Command::Balance).balances.pending, 7);
    w.settle_until = None;
    w.ask(Command::Settle);
    assert_eq!(kinds(&w.last), ["ACTIVATE", "EXPIRE"]);
    w.check();
}

#[test]
fn what_expires_with_a_hold_does_so_when_it_ends_although_its_memory_is_in_the_store() {
    let mut w = World::new("{}");
    let soon = w.now + DAY_MS;
    w.ask(earn(Basis::Points(100), None, Some(soon), None)).executed();
    w.ask(hold(30, Some(604_800))).executed();
    let ends_at = w.now + 604_800_000;
    // So many other lots expire that the account remembers no more what expired of the first.
    for n in 1..=20 {
        w.ask(earn(Basis::Points(1), None, Some(soon + n), None)).executed();
    }
    w.now = soon + 1_000;
    w.ask(Command::Settle);
    w.checkpoint();
    let loads = w.loads;
    w.now = ends_at + 1;
    w.ask(Command::Settle);
    assert_eq!(w.loads, loads + 1, "its memory has to be loaded");
    assert_eq!(kinds(&w.last), ["VOID", "EXPIRE"]);
    assert_eq!([w.last[0].occurred_at, w.last[1].occurred_at], [ends_at; 2]);
    w.check();
}
