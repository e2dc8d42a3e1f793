//! Batches that are answered, or not, as a whole: each of their items has a key and an account of its own.

use crate::stub::{Stub, Vice};
use crate::{Ran, Setup, run};

/// Items of a batch.
const ITEMS: f64 = 5.0;

/// Batches of [`ITEMS`] items and nothing else.
fn against(vice: Vice, accounts: u32, more: &'static str) -> Ran {
    let accounts = format!("accounts.count={accounts}");
    let changes = ["mix.earn_points=0", "mix.batch=1", "mix.batch_items=5", &accounts];
    let arguments = changes.iter().flat_map(|change| ["--set".to_owned(), (*change).to_owned()]).collect();
    run(Stub::start(vice).address, &Setup { rate: 60, seconds: 1, more, arguments, ..Setup::default() })
}

#[test]
fn an_honest_server_is_believed_item_by_item() {
    let ran = against(Vice::None, 40, "");
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(ran.number("/measured/acknowledged"), ITEMS * ran.number("/measured/sent"), "{}", ran.text);
    assert_eq!(ran.number("/correctness/transactions_read"), ran.number("/measured/acknowledged"), "{}", ran.text);
}

#[test]
fn every_item_of_a_batch_that_failed_as_a_whole_is_asked_for() {
    for status in [500, 502, 504] {
        let ran = against(Vice::FailsBatches(status), 40, "");
        assert_eq!(ran.code, 99, "{}", ran.text);
        assert_eq!(ran.summary["correctness"]["conservation"], "holds", "{}", ran.text);
        let sent = ran.number("/measured/sent");
        assert_eq!(ran.number("/correctness/unknown_outcomes"), ITEMS * sent, "{}", ran.text);
        assert_eq!(ran.number("/correctness/unknown_executed"), ITEMS * (sent / 2.0).floor(), "{}", ran.text);
        assert_eq!(ran.number(&format!("/measured/errors/{status} outcome-unknown")), ITEMS * sent, "{}", ran.text);
        assert_eq!(ran.number("/measured/unknown"), sent, "a request is one, however many items it has");
    }
}

#[test]
fn a_refused_retry_of_a_batch_says_nothing_of_any_item_of_the_attempt_without_an_answer() {
    let ran = against(Vice::DropsAndRefuses(3), 40, "[retry]\nattempts = 1\nbackoff_ms = 10\n");
    assert_eq!(ran.code, 99, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds", "{}", ran.text);
    let unknown = ran.number("/correctness/unknown_outcomes");
    assert!(unknown >= ITEMS && ran.number("/correctness/unknown_executed") == unknown, "{}", ran.text);
    assert_eq!(ITEMS * ran.number("/measured/unknown"), unknown, "{}", ran.text);
    assert_eq!(ran.number("/measured/errors/503 overloaded"), unknown, "{}", ran.text);
}

#[test]
fn a_batch_with_too_few_results_is_one_wrong_answer_and_nothing_else() {
    let ran = against(Vice::MiscountsBatches, 40, "");
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "wrong-answer"), "{}", ran.text);
    let sent = ran.number("/measured/sent");
    assert_eq!(ran.number("/correctness/violation_count"), sent, "{}", ran.text);
    assert_eq!(ran.number("/correctness/unknown_executed"), ITEMS * sent, "{}", ran.text);
}

#[test]
fn a_batch_that_was_refused_as_a_whole_and_applied_is_named_on_every_account() {
    // As many accounts as items, so that every batch begins with the first.
    let ran = against(Vice::RefusesAndApplies(1), 5, "");
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert_eq!(ran.number("/correctness/accounts_balanced"), ITEMS, "{}", ran.text);
    assert!(ran.violations().iter().all(|kind| kind == "not-acknowledged"), "{}", ran.text);
    let count = ITEMS * ran.number("/measured/sent");
    assert_eq!(ran.number("/correctness/violation_count"), count, "{}", ran.text);
    assert!(!ran.text.contains("nobody asked for it"), "{}", ran.text);
}
