//! The proof: what the server acknowledged is what its books hold, no point more, no point less.
//!
//! Before the load, accounts get their opening points. After it, unknown outcomes are asked for by their keys; then
//! balances and histories are read and compared with the ledger of all processes.

mod audit;
#[cfg(test)]
pub(crate) mod canned;
mod diagnose;
mod events;
mod opening;
mod resolve;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use audit::audit;
pub(crate) use events::{compare_events, cursor_now};
pub(crate) use opening::{open_accounts, read_openings};
pub(crate) use resolve::resolve;

use crate::error::Fault;
use crate::http::{Client, Server};
use crate::ledger::{Entry, Logged};
use crate::summary::{Correctness, Violation};
use crate::traffic;

/// Most violations that a summary names.
const VIOLATIONS_NAMED_MAX: usize = 50;

/// What an account had before the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Total and pending points.
    pub(crate) points: i64,
    /// Those of the total that holds pin.
    pub(crate) held: i64,
    pub(crate) sequence: u64,
}

/// The books of a whole run.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) run: String,
    pub(crate) prefix: String,
    /// Where the event stream stood before; none: the server has no stream.
    pub(crate) events_from: Option<String>,
    pub(crate) entries: HashMap<u32, Entry>,
    /// Accounts that were there before; the others began with nothing.
    pub(crate) openings: HashMap<u32, Opening>,
    /// Effects that no process knows: opening points, and outcomes found by key. Account, key, digest.
    pub(crate) extra: Vec<(u32, String, u64)>,
    pub(crate) result: Correctness,
}

impl Books {
    pub(crate) fn account(&self, account: u32) -> String {
        let mut name = Vec::new();
        traffic::account_name(&mut name, &self.prefix, account);
        String::from_utf8(name).unwrap_or_default()
    }

    pub(crate) fn key(&self, worker: u32, number: u64) -> String {
        let mut key = Vec::new();
        traffic::request_key(&mut key, &self.run, worker, number);
        String::from_utf8(key).unwrap_or_default()
    }

    /// An effect that no process has in its own ledger.
    pub(crate) fn add_effect(&mut self, account: u32, key: String, transaction_id: &str, points: i64, held: i64) {
        self.entries.entry(account).or_default().add_effect(transaction_id, points, held);
        self.extra.push((account, key, crate::ledger::digest(transaction_id, points)));
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        self.result.violation_count += 1;
        if self.result.violations.len() < VIOLATIONS_NAMED_MAX {
            self.result.violations.push(violation);
        }
    }
}

/// Whether a transaction is none that anybody asks for: the server makes it when its time has come.
fn is_of_the_server(kind: &str, reason: Option<&str>) -> bool {
    match kind {
        "EXPIRE" | "ACTIVATE" | "TIER" | "OPEN" | "STATUS" => true,
        "VOID" => reason == Some("expired"),
        _ => false,
    }
}

/// Asks the processes of the load what they did on some accounts.
pub(crate) type AskDetails<'a> = &'a mut dyn FnMut(&[u32]) -> Result<Vec<(usize, Logged)>, Fault>;

/// Does something for every item, on several connections at once; results in the order of the items.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    servers: &[Server],
    connections: u32,
    items: &[T],
    work: impl Fn(&mut Client, &T) -> Result<R, Fault> + Sync,
) -> Result<Vec<R>, Fault> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let fault: Mutex<Option<Fault>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..connections as usize {
            let server = servers[thread % servers.len()].clone();
            let (next, results, fault, work) = (&next, &results, &fault, &work);
            scope.spawn(move || {
                let mut client = Client::new(server);
                let mut own = Vec::new();
                while let Some((index, item)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?)))
                {
                    match work(&mut client, item) {
                        Ok(result) => own.push((index, result)),
                        Err(error) => {
                            next.store(items.len(), Ordering::Relaxed);
                            *fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                        }
                    }
                }
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(own);
            });
        }
    });
    if let Some(fault) = fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(fault);
    }
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_unstable_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
