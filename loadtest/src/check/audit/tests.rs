//! The audit against servers that always say the same.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::check::canned::serve;
use crate::scenario::Scenario;

/// The books of accounts 0 to 2, on each of which one earn of 5 points was acknowledged.
fn books() -> Books {
    let mut books = Books { prefix: "p-".to_owned(), ..Books::default() };
    (0..3).for_each(|account| books.entries.entry(account).or_default().add_effect("t", 5, 0));
    books
}

fn row(sequence: u64, points: i64) -> String {
    format!(r#"{{"transaction_id":"t","type":"EARN","points":{points},"sequence":{sequence}}}"#)
}

fn balance(total: i64, pending: i64, held: i64, sequence: u64) -> String {
    let available = total.wrapping_sub(held);
    format!(
        r#"{{"total_points":{total},"pending_points":{pending},"available_points":{available},"held_points":{held},"sequence":{sequence}}}"#
    )
}

/// Audits the accounts of a server that answers so; the kinds of violations, and the fault.
fn audited(books: &mut Books, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Option<String> {
    let mut check = Scenario::load("smoke").unwrap().check;
    (check.connections, check.patience_ms) = (1, 0);
    let servers = [serve(answer)];
    audit(books, &servers, check, 1, &mut |_| Ok(Vec::new())).err().map(|fault| fault.to_string())
}

fn kinds(books: &Books) -> Vec<&str> {
    let mut kinds: Vec<&str> = books.result.violations.iter().map(|one| one.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn a_violation_that_was_found_stays_when_the_server_goes_away_after_it() {
    // Below the floor, and the connection ends when the history is asked for.
    let mut books = books();
    let fault = audited(&mut books, |path| path.ends_with("/balance").then(|| balance(-5, 0, 0, 1)));
    assert!(fault.unwrap().contains("the books of 3 of 3 accounts were not read"));
    assert_eq!(kinds(&books), ["below-floor"]);
}

#[test]
fn differences_are_told_though_a_process_does_not_say_what_it_did() {
    let mut books = books();
    let servers = [serve(|path| {
        let history = format!(r#"{{"transactions":[{},{}],"next":null}}"#, row(2, 5), row(1, 5));
        Some(if path.ends_with("/balance") { balance(10, 0, 0, 2) } else { history })
    })];
    let check = Scenario::load("smoke").unwrap().check;
    let fault = audit(&mut books, &servers, check, 1, &mut |_| Err(Fault::Failed("it went away".to_owned())));
    assert_eq!(fault.unwrap_err().to_string(), "it went away");
    assert_eq!((kinds(&books), books.result.violation_count), (vec!["balance"], 3));
}

#[test]
fn numbers_at_the_ends_of_their_range_are_violations() {
    const MOST: i64 = i64::MAX;
    for (total, pending, held, sequence, points) in [
        (MOST, MOST, 0, 2, [MOST, MOST]),
        (i64::MIN, i64::MIN, MOST, 2, [i64::MIN, i64::MIN]),
        (0, 0, i64::MIN, 2, [1, -1]),
        (MOST, 0, 0, u64::MAX, [MOST, 1]),
    ] {
        for kind in ["EARN", "EXPIRE"] {
            let mut books = books();
            books.openings.insert(0, Opening { points: -1, held: 1, sequence: 0 });
            books.openings.insert(1, Opening { points: 1, held: -1, sequence: 0 });
            let fault = audited(&mut books, move |path| {
                let rows = [row(sequence, points[0]), row(sequence - 1, points[1])].join(",").replace("EARN", kind);
                let history = format!(r#"{{"transactions":[{rows}],"next":null}}"#);
                Some(if path.ends_with("/balance") { balance(total, pending, held, sequence) } else { history })
            });
            assert_eq!(fault, None, "{total} {pending} {held}");
            assert!(books.result.violation_count >= 3, "{:?}", books.result);
        }
    }
    // No rows below the highest sequence that there is, and released points that no sum holds.
    for history in [
        r#"{"transactions":[],"next":null}"#.to_owned(),
        format!(r#"{{"transactions":[{0},{0}],"next":null}}"#, row(1, 0))
            .replace("\"EARN\"", "\"VOID\",\"reason\":\"expired\",\"released_points\":9223372036854775807"),
    ] {
        let mut books = books();
        let fault = audited(&mut books, move |path| {
            Some(if path.ends_with("/balance") { balance(9, 0, 0, u64::MAX) } else { history.clone() })
        });
        assert_eq!(fault, None);
        assert!(kinds(&books).contains(&"sequence"), "{:?}", books.result);
    }
}

#[test]
fn a_history_that_does_not_come_to_an_end_is_a_violation() {
    let page = |rows: &[String]| format!(r#"{{"transactions":[{}],"next":"again"}}"#, rows.join(","));
    // The same page for ever, pages that go up, and empty ones.
    for history in [page(&[row(3, 5), row(2, 5)]), page(&[row(2, 5), row(3, 5)]), page(&[])] {
        let mut books = books();
        let fault = audited(&mut books, move |path| {
            Some(if path.ends_with("/balance") { balance(9, 0, 0, 3) } else { history.clone() })
        });
        assert_eq!((fault, kinds(&books)), (None, vec!["sequence"]), "{:?}", books.result);
    }
    // One that does.
    let mut books = books();
    let fault = audited(&mut books, move |path| {
        let last = format!(r#"{{"transactions":[{}],"next":null}}"#, row(1, 5));
        let history = if path.contains("cursor=again") { last } else { page(&[row(3, 5), row(2, -5)]) };
        Some(if path.ends_with("/balance") { balance(5, 0, 0, 3) } else { history })
    });
    assert_eq!(fault, None);
    assert!(!kinds(&books).contains(&"sequence"), "{:?}", books.result);
}

#[test]
fn held_points_are_those_of_holds_that_are_neither_ended_nor_timed_out() {
    let row = |reason: &str, released_points| Row {
        transaction_id: String::new(),
        kind: "VOID".to_owned(),
        points: 0,
        sequence: 1,
        reference_id: None,
        pos_transaction_id: None,
        reason: Some(reason.to_owned()),
        released_points,
    };
    // Holds of 40 were acknowledged and not ended; one of 10 was over by itself. A void that was asked for is in the 40.
    let rows = [row("expired", 10), row("requested", 7)];
    let found = |held| {
        let mut audited = Audited::default();
        compare_held(&mut audited, &rows, Entry { held: 40, ..Entry::default() }, held);
        audited.violations.len()
    };
    assert_eq!((found(30), found(40), found(23)), (0, 1, 1));
}
