//! Reads the server's books and compares them with the ledger.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Deserialize;

use crate::check::{AskDetails, Books, diagnose, in_parallel, is_of_the_server};
use crate::error::Fault;
use crate::http::{Client, Server};
use crate::ledger::{Entry, digest};
use crate::scenario::Check;
use crate::schedule::Random;
use crate::summary::Violation;

/// Most accounts whose differences are explained operation by operation.
const EXPLAINED_MAX: usize = 50;
/// An account is read again when something happened to it meanwhile (an expiry, a time-out), at most so often.
const READS_MAX: usize = 5;
/// Rows of one page.
const PAGE: u32 = 500;

#[derive(Debug, Deserialize)]
struct Balance {
    total_points: i64,
    pending_points: i64,
    available_points: i64,
    held_points: i64,
    sequence: u64,
}

#[derive(Debug, Deserialize)]
struct Page {
    transactions: Vec<Row>,
    next: Option<String>,
}

/// A row of a history.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) transaction_id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) points: i64,
    pub(super) sequence: u64,
    #[serde(default)]
    pub(super) reference_id: Option<String>,
    #[serde(default)]
    pub(super) pos_transaction_id: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    /// Of a hold that ended without a redemption.
    #[serde(default)]
    pub(super) released_points: i64,
}

impl Row {
    /// The key under which it was asked for, as far as the row tells.
    pub(super) fn key(&self) -> Option<&str> {
        self.reference_id.as_deref().or(self.pos_transaction_id.as_deref())
    }
}

/// What one account's books say.
#[derive(Debug, Default)]
struct Audited {
    account: u32,
    is_walked: bool,
    rows: u64,
    expired_points: i64,
    violations: Vec<(&'static str, String)>,
    /// Why its books were not read to the end: then they are neither right nor wrong.
    unread: Option<String>,
    /// The rows, where they are not what was acknowledged.
    differing: Option<Vec<Row>>,
}

/// Audits every account that anything was tried on; up to `walk_accounts_max` of them row by row.
///
/// # Errors
/// The server does not answer, has no capacity for longer than the check's patience, or does not allow it; violations that
/// were found before are in the books. What it answers wrongly is a violation.
pub(crate) fn audit(
    books: &mut Books,
    servers: &[Server],
    check: Check,
    seed: u64,
    ask_details: AskDetails<'_>,
) -> Result<(), Fault> {
    let started = Instant::now();
    let mut accounts: Vec<u32> = books.entries.keys().copied().collect();
    accounts.sort_unstable();
    let mut random = Random::new(seed ^ 0xa0d1);
    let walked = u64::from(check.walk_accounts_max);
    let total = accounts.len() as u64;
    let chosen: Vec<(u32, bool)> =
        accounts.into_iter().map(|account| (account, total <= walked || random.below(total) < walked)).collect();
    // Where one account cannot be read, the next could not either, each after the same patience.
    let gives_up = AtomicBool::new(false);
    let audited = in_parallel(servers, check.connections, &chosen, |client, (account, walks)| {
        let unread = |why: String| Audited { account: *account, unread: Some(why), ..Audited::default() };
        if gives_up.load(Ordering::Relaxed) {
            return Ok(unread(String::new()));
        }
        let one =
            audit_account(books, client, *account, *walks, check).unwrap_or_else(|fault| unread(fault.to_string()));
        gives_up.fetch_or(one.unread.is_some(), Ordering::Relaxed);
        Ok(one)
    })?;
    let unread = audited.iter().filter(|one| one.unread.is_some()).count();
    let why = audited.iter().filter_map(|one| one.unread.clone()).find(|why| !why.is_empty());
    let differing: Vec<u32> = audited.iter().filter(|a| a.differing.is_some()).map(|a| a.account).collect();
    let explained = &differing[..differing.len().min(EXPLAINED_MAX)];
    let details = if explained.is_empty() { Vec::new() } else { ask_details(explained)? };
    for one in audited {
        books.result.accounts_balanced += u64::from(one.unread.is_none());
        books.result.accounts_walked += u64::from(one.is_walked);
        books.result.transactions_read += one.rows;
        books.result.expired_points += one.expired_points;
        for (kind, detail) in one.violations {
            let account = books.account(one.account);
            books.violate(Violation { kind: kind.to_owned(), account, detail, operations: Vec::new() });
        }
        if let Some(rows) = one.differing {
            diagnose::explain(books, one.account, &rows, &details, explained.contains(&one.account));
        }
    }
    let entries = books.entries.values();
    books.result.acknowledged_transactions = entries.clone().map(|entry| u64::from(entry.effects)).sum();
    books.result.acknowledged_points = entries.map(|entry| entry.points).sum();
    books.result.seconds = started.elapsed().as_secs_f64();
    match why {
        Some(why) => Err(Fault::failed(format!("the books of {unread} of {total} accounts were not read"), why)),
        None => Ok(()),
    }
}

fn audit_account(
    books: &Books,
    client: &mut Client,
    account: u32,
    walks: bool,
    check: Check,
) -> Result<Audited, Fault> {
    let floor = check.floor;
    let entry = books.entries.get(&account).copied().unwrap_or_default();
    let opening = books.openings.get(&account).copied().unwrap_or_default();
    let name = books.account(account);
    let mut audited = Audited { account, ..Audited::default() };
    for _ in 0..READS_MAX {
        audited = Audited { account, ..Audited::default() };
        let reply = client.get_patiently(&format!("/api/v1/points/{name}/balance"), check.patience())?;
        let balance: Balance = match (reply.status, serde_json::from_slice(&reply.body)) {
            (200, Ok(balance)) => balance,
            (404, _) if opening.sequence > 0 => {
                let before = format!("{} points at sequence {}", opening.points, opening.sequence);
                audited.violations.push(("lost", format!("the account had {before} before the load, and is gone")));
                return Ok(audited);
            }
            (404, _) if entry.effects == 0 => return Ok(audited),
            (404, _) => {
                audited.differing = Some(Vec::new());
                return Ok(audited);
            }
            (200, _) => {
                audited.violations.push(("balance", format!("the balance has not its members: {}", reply.text())));
                return Ok(audited);
            }
            (status, _) => {
                audited.unread = Some(format!("the balance of {name} cannot be read: {status} {}", reply.text()));
                return Ok(audited);
            }
        };
        if balance.available_points < floor {
            let available = balance.available_points;
            audited.violations.push(("below-floor", format!("{available} available points, below the floor {floor}")));
        }
        if balance.available_points != balance.total_points - balance.held_points {
            let Balance { total_points, available_points, held_points, .. } = balance;
            let text =
                format!("{available_points} available points, of {total_points} of which {held_points} are held");
            audited.violations.push(("balance", text));
        }
        let change = balance.total_points + balance.pending_points - opening.points;
        let held = balance.held_points - opening.held;
        if !walks && change == entry.points && held == entry.held {
            return Ok(audited);
        }
        let Some(rows) = read_rows(client, &name, opening.sequence, check, &mut audited)? else { return Ok(audited) };
        // Something happened between the two reads: read both again.
        if rows.first().map_or(opening.sequence, |row| row.sequence) > balance.sequence {
            continue;
        }
        compare_held(&mut audited, &rows, entry, held);
        compare(&mut audited, rows, entry, change, balance.sequence, opening.sequence);
        return Ok(audited);
    }
    audited.violations.push(("sequence", format!("it changed {READS_MAX} times while it was read")));
    Ok(audited)
}

/// The rows above the opening, newest first; `None` when the history cannot be read, or not understood, as `audited` then
/// says.
fn read_rows(
    client: &mut Client,
    name: &str,
    opening_sequence: u64,
    check: Check,
    audited: &mut Audited,
) -> Result<Option<Vec<Row>>, Fault> {
    let mut rows: Vec<Row> = Vec::new();
    let mut query = format!("limit={PAGE}");
    loop {
        let reply = client.get_patiently(&format!("/api/v1/points/{name}/transactions?{query}"), check.patience())?;
        let page: Page = match (reply.status, serde_json::from_slice(&reply.body)) {
            (200, Ok(page)) => page,
            (200, _) => {
                let text = format!("the history has not its members: {}", reply.text());
                audited.violations.push(("sequence", text));
                return Ok(None);
            }
            (status, _) => {
                audited.unread = Some(format!("the history of {name} cannot be read: {status} {}", reply.text()));
                return Ok(None);
            }
        };
        let is_enough = page.transactions.iter().any(|row| row.sequence <= opening_sequence);
        rows.extend(page.transactions.into_iter().filter(|row| row.sequence > opening_sequence));
        match page.next {
            Some(next) if !is_enough => query = format!("limit={PAGE}&cursor={next}"),
            _ => return Ok(Some(rows)),
        }
    }
}

/// What is held now must be what acknowledged operations say, less the holds whose time was over.
fn compare_held(audited: &mut Audited, rows: &[Row], entry: Entry, held: i64) {
    let timed_out = rows.iter().filter(|row| row.kind == "VOID" && is_of_the_server(&row.kind, row.reason.as_deref()));
    let expected = entry.held - timed_out.map(|row| row.released_points).sum::<i64>();
    if held != expected {
        let text = format!("its held points changed by {held}, its holds say {expected}");
        audited.violations.push(("balance", text));
    }
}

fn compare(audited: &mut Audited, rows: Vec<Row>, entry: Entry, change: i64, sequence: u64, opening_sequence: u64) {
    audited.is_walked = true;
    audited.rows = rows.len() as u64;
    let mut found = Entry { touched: entry.touched, held: entry.held, ..Entry::default() };
    let (mut sum, mut expected_sequence) = (0i64, sequence);
    for row in &rows {
        if row.sequence != expected_sequence {
            let text = format!("sequence {} where {expected_sequence} should be", row.sequence);
            audited.violations.push(("sequence", text));
        }
        expected_sequence = row.sequence.saturating_sub(1);
        sum = sum.saturating_add(row.points);
        if is_of_the_server(&row.kind, row.reason.as_deref()) {
            audited.expired_points += if row.kind == "EXPIRE" { row.points } else { 0 };
        } else {
            found.effects += 1;
            found.points += row.points;
            found.digest = found.digest.wrapping_add(digest(&row.transaction_id, row.points));
        }
    }
    if expected_sequence != opening_sequence {
        let text =
            format!("the history ends at sequence {} instead of {}", expected_sequence + 1, opening_sequence + 1);
        audited.violations.push(("sequence", text));
    }
    if sum != change {
        audited.violations.push(("balance", format!("it changed by {change} points, its transactions say {sum}")));
    }
    if found != entry {
        audited.differing = Some(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
