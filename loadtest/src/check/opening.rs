//! What accounts have when the load begins.

use std::io::Write as _;
use std::time::Duration;

use serde::Deserialize;

use crate::answer::{BatchAnswer, Effect};
use crate::check::{Books, Opening, in_parallel};
use crate::error::Fault;
use crate::http::{Client, Server, patiently};
use crate::scenario::Check;

/// Accounts of one request.
const ITEMS: u32 = 1_000;

/// Gives every account its points.
///
/// # Errors
/// The server does not answer, or refuses.
pub(crate) fn open_accounts(
    books: &mut Books,
    servers: &[Server],
    check: Check,
    accounts: u32,
    points: u64,
) -> Result<(), Fault> {
    let firsts: Vec<u32> = (0..accounts).step_by(ITEMS as usize).collect();
    let opened = in_parallel(servers, check.connections, &firsts, |client, first| {
        open_some(books, client, *first..accounts.min(first + ITEMS), points, check.patience())
    })?;
    for (account, transaction_id, points) in opened.into_iter().flatten() {
        let key = format!("{}-o-{account}", books.run);
        books.add_effect(account, key, &transaction_id, points, 0);
    }
    Ok(())
}

fn open_some(
    books: &Books,
    client: &mut Client,
    accounts: std::ops::Range<u32>,
    points: u64,
    patience: Duration,
) -> Result<Vec<(u32, String, i64)>, Fault> {
    let mut body = b"{\"items\":[".to_vec();
    for account in accounts.clone() {
        let (comma, run) = (if account == accounts.start { "" } else { "," }, &books.run);
        let name = books.account(account);
        // Writing to memory does not fail.
        let _ = write!(
            body,
            r#"{comma}{{"op":"earn","account":"{name}","points":{points},"idempotency_key":"{run}-o-{account}"}}"#
        );
    }
    body.extend_from_slice(b"]}");
    let reply = patiently(patience, || client.send("POST", "/api/v1/batch", &body))?;
    let refused = |what: String| Fault::Failed(format!("opening points were not taken: {what}"));
    if reply.status != 207 {
        return Err(refused(format!("{} {}", reply.status, reply.text())));
    }
    let answer: BatchAnswer<'_> = serde_json::from_slice(&reply.body).map_err(|error| refused(error.to_string()))?;
    let effects = accounts.zip(answer.results).map(|(account, item)| {
        let effect = Effect::parse(item.body.get().as_bytes()).filter(|_| item.status == 201);
        let effect = effect.ok_or_else(|| refused(format!("{} {}", item.status, item.body.get())))?;
        Ok((account, effect.transaction_id.to_owned(), effect.points))
    });
    effects.collect()
}

#[derive(Deserialize)]
struct Balance {
    total_points: i64,
    pending_points: i64,
    held_points: i64,
    sequence: u64,
}

/// Reads what accounts have that are not new in this run.
///
/// # Errors
/// The server does not answer as the contract says.
pub(crate) fn read_openings(books: &mut Books, servers: &[Server], check: Check, accounts: u32) -> Result<(), Fault> {
    let accounts: Vec<u32> = (0..accounts).collect();
    let openings = in_parallel(servers, check.connections, &accounts, |client, account| {
        let path = format!("/api/v1/points/{}/balance", books.account(*account));
        let reply = client.get_patiently(&path, check.patience())?;
        match reply.status {
            200 => {}
            404 => return Ok(None),
            401 => return Err(Fault::failed("the server wants to know who asks: --token-file", reply.text())),
            status => return Err(Fault::failed(format!("{path}: {status}"), reply.text())),
        }
        let balance: Balance = serde_json::from_slice(&reply.body)
            .map_err(|error| Fault::failed(format!("{path}: {}", reply.text()), error))?;
        // Of more than there can be, the audit finds another change than was acknowledged.
        let points = balance.total_points.saturating_add(balance.pending_points);
        Ok(Some((*account, Opening { points, held: balance.held_points, sequence: balance.sequence })))
    })?;
    books.openings = openings.into_iter().flatten().collect();
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::canned::serve;
    use crate::scenario::Scenario;

    #[test]
    fn what_accounts_have_may_be_more_than_there_can_be() {
        let servers = [serve(|_| {
            let most = i64::MAX;
            Some(format!(r#"{{"total_points":{most},"pending_points":{most},"held_points":0,"sequence":1}}"#))
        })];
        let mut books = Books::default();
        read_openings(&mut books, &servers, Scenario::load("smoke").unwrap().check, 1).unwrap();
        assert_eq!(books.openings[&0], Opening { points: i64::MAX, held: 0, sequence: 1 });
    }
}
