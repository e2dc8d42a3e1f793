//! Reads the server's books and compares them with the ledger.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Deserialize;

use crate::check::{AskDetails, Books, Opening, diagnose, in_parallel, is_of_the_server};
use crate::error::Fault;
use crate::http::{Client, Reply, Server};
use crate::ledger::Entry;
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
/// The server does not answer, has no capacity for longer than the check's patience, or does not allow it, or a process of
/// the load does not say what it did; violations that were found all the same are in the books. What it answers wrongly
/// is a violation.
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
        if gives_up.load(Ordering::Relaxed) {
            return Ok(Audited { account: *account, unread: Some(String::new()), ..Audited::default() });
        }
        let one = audit_account(books, client, *account, *walks, check);
        gives_up.fetch_or(one.unread.is_some(), Ordering::Relaxed);
        Ok(one)
    })?;
    let unread = audited.iter().filter(|one| one.unread.is_some()).count();
    let why = audited.iter().filter_map(|one| one.unread.clone()).find(|why| !why.is_empty());
    let differing: Vec<u32> = audited.iter().filter(|a| a.differing.is_some()).map(|a| a.account).collect();
    let explained = &differing[..differing.len().min(EXPLAINED_MAX)];
    let asked = if explained.is_empty() { Ok(Vec::new()) } else { ask_details(explained) };
    // Differences that nobody explains are differences all the same.
    let (explained, details, silence) = match asked {
        Ok(details) => (explained, details, None),
        Err(fault) => (&[][..], Vec::new(), Some(fault)),
    };
    for one in audited {
        books.result.accounts_balanced += u64::from(one.unread.is_none());
        books.result.accounts_walked += u64::from(one.is_walked);
        books.result.transactions_read += one.rows;
        books.result.expired_points = books.result.expired_points.saturating_add(one.expired_points);
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
    books.result.acknowledged_points = entries.fold(0, |sum, entry| sum.saturating_add(entry.points));
    books.result.seconds = started.elapsed().as_secs_f64();
    match why {
        Some(why) => Err(Fault::failed(format!("the books of {unread} of {total} accounts were not read"), why)),
        None => silence.map_or(Ok(()), Err),
    }
}

fn audit_account(books: &Books, client: &mut Client, account: u32, walks: bool, check: Check) -> Audited {
    let entry = books.entries.get(&account).copied().unwrap_or_default();
    let opening = books.openings.get(&account).copied().unwrap_or_default();
    let name = books.account(account);
    let mut audited = Audited { account, ..Audited::default() };
    for _ in 0..READS_MAX {
        let Some(balance) = read_balance(client, &name, opening, entry, check, &mut audited) else { return audited };
        audited.violations = balance.contradictions(check.floor);
        let change = i128::from(balance.total_points) + i128::from(balance.pending_points) - i128::from(opening.points);
        let held = i128::from(balance.held_points) - i128::from(opening.held);
        if !walks && change == i128::from(entry.points) && held == i128::from(entry.held) {
            return audited;
        }
        let Some(rows) = read_rows(client, &name, opening.sequence, check, &mut audited) else { return audited };
        // Something happened between the two reads: read both again.
        if rows.first().map_or(opening.sequence, |row| row.sequence) > balance.sequence {
            continue;
        }
        compare_held(&mut audited, &rows, entry, held);
        compare(&mut audited, rows, entry, change, balance.sequence, opening.sequence);
        return audited;
    }
    audited.violations.push(("sequence", format!("it changed {READS_MAX} times while it was read")));
    audited
}

impl Balance {
    /// What is wrong with it, whatever happened before.
    fn contradictions(&self, floor: i64) -> Vec<(&'static str, String)> {
        let Self { total_points, available_points, held_points, .. } = *self;
        let mut found = Vec::new();
        if available_points < floor {
            found.push(("below-floor", format!("{available_points} available points, below the floor {floor}")));
        }
        if i128::from(available_points) != i128::from(total_points) - i128::from(held_points) {
            let text =
                format!("{available_points} available points, of {total_points} of which {held_points} are held");
            found.push(("balance", text));
        }
        found
    }
}

/// An answer; `None` when there is none, as `audited` then says.
fn get(client: &mut Client, path: &str, check: Check, audited: &mut Audited) -> Option<Reply> {
    client.get_patiently(path, check.patience()).map_err(|fault| audited.unread = Some(fault.to_string())).ok()
}

/// The balance of an account; `None` when there is none, or it cannot be read, or not understood, as `audited` then says
/// beside what it said before.
fn read_balance(
    client: &mut Client,
    name: &str,
    opening: Opening,
    entry: Entry,
    check: Check,
    audited: &mut Audited,
) -> Option<Balance> {
    let reply = get(client, &format!("/api/v1/points/{name}/balance"), check, audited)?;
    match (reply.status, serde_json::from_slice(&reply.body)) {
        (200, Ok(balance)) => return Some(balance),
        (404, _) if opening.sequence > 0 => {
            let before = format!("{} points at sequence {}", opening.points, opening.sequence);
            audited.violations.push(("lost", format!("the account had {before} before the load, and is gone")));
        }
        (404, _) if entry.effects == 0 => {}
        (404, _) => audited.differing = Some(Vec::new()),
        (200, _) => {
            audited.violations.push(("balance", format!("the balance has not its members: {}", reply.text())));
        }
        (status, _) => {
            audited.unread = Some(format!("the balance of {name} cannot be read: {status} {}", reply.text()));
        }
    }
    None
}

/// The rows above the opening, newest first; `None` when the history cannot be read, or not understood, as `audited` then
/// says.
fn read_rows(
    client: &mut Client,
    name: &str,
    opening_sequence: u64,
    check: Check,
    audited: &mut Audited,
) -> Option<Vec<Row>> {
    let (mut rows, mut lowest) = (Vec::new(), None);
    let mut query = format!("limit={PAGE}");
    loop {
        let path = format!("/api/v1/points/{name}/transactions?{query}");
        let reply = get(client, &path, check, audited)?;
        let page: Page = match (reply.status, serde_json::from_slice(&reply.body)) {
            (200, Ok(page)) => page,
            (200, _) => {
                let text = format!("the history has not its members: {}", reply.text());
                audited.violations.push(("sequence", text));
                return None;
            }
            (status, _) => {
                audited.unread = Some(format!("the history of {name} cannot be read: {status} {}", reply.text()));
                return None;
            }
        };
        let is_enough = page.transactions.iter().any(|row| row.sequence <= opening_sequence);
        let Some(next) = page.next.clone().filter(|_| !is_enough) else {
            rows.extend(page.transactions.into_iter().filter(|row| row.sequence > opening_sequence));
            return Some(rows);
        };
        // Else it might have no end.
        let Some(last) = page.falls_below(lowest) else {
            let text = format!("a page of the history, of which {next} is the next, has no sequences that fall");
            audited.violations.push(("sequence", text));
            return None;
        };
        lowest = Some(last);
        rows.extend(page.transactions);
        query = format!("limit={PAGE}&cursor={next}");
    }
}

impl Page {
    /// The last of its sequences, when it has rows and they fall, from below `bound` on.
    fn falls_below(&self, bound: Option<u64>) -> Option<u64> {
        let mut bound = bound;
        for row in &self.transactions {
            if bound.is_some_and(|bound| row.sequence >= bound) {
                return None;
            }
            bound = Some(row.sequence);
        }
        bound.filter(|_| !self.transactions.is_empty())
    }
}

/// What is held now must be what acknowledged operations say, less the holds whose time was over.
fn compare_held(audited: &mut Audited, rows: &[Row], entry: Entry, held: i128) {
    let timed_out = rows.iter().filter(|row| row.kind == "VOID" && is_of_the_server(&row.kind, row.reason.as_deref()));
    let expected = i128::from(entry.held) - timed_out.map(|row| i128::from(row.released_points)).sum::<i128>();
    if held != expected {
        let text = format!("its held points changed by {held}, its holds say {expected}");
        audited.violations.push(("balance", text));
    }
}

fn compare(audited: &mut Audited, rows: Vec<Row>, entry: Entry, change: i128, sequence: u64, opening_sequence: u64) {
    audited.is_walked = true;
    audited.rows = rows.len() as u64;
    let mut found = Entry { held: entry.held, ..Entry::default() };
    let (mut sum, mut expected_sequence) = (0i128, sequence);
    for row in &rows {
        if row.sequence != expected_sequence {
            let text = format!("sequence {} where {expected_sequence} should be", row.sequence);
            audited.violations.push(("sequence", text));
        }
        expected_sequence = row.sequence.saturating_sub(1);
        sum += i128::from(row.points);
        if is_of_the_server(&row.kind, row.reason.as_deref()) {
            let expired = if row.kind == "EXPIRE" { row.points } else { 0 };
            audited.expired_points = audited.expired_points.saturating_add(expired);
        } else {
            found.add_effect(&row.transaction_id, row.points, 0);
        }
    }
    found.touched = entry.touched;
    if expected_sequence != opening_sequence {
        let [ends, should] = [expected_sequence, opening_sequence].map(|sequence| sequence.saturating_add(1));
        audited.violations.push(("sequence", format!("the history ends at sequence {ends} instead of {should}")));
    }
    if sum != change {
        audited.violations.push(("balance", format!("it changed by {change} points, its transactions say {sum}")));
    }
    if found != entry {
        audited.differing = Some(rows);
    }
}

#[cfg(test)]
mod tests;
