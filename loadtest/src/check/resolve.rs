//! What became of requests without an answer: asked by their keys, once the server can no longer be at work on them.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::answer::Effect;
use crate::check::{Books, in_parallel};
use crate::error::Fault;
use crate::http::{Client, Server};
use crate::protocol::Open;
use crate::scenario::Check;
use crate::summary::Violation;
use crate::traffic::{Operation, Planned};

/// How soon a key that is in progress is asked for again.
const PROGRESS_POLL: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// What is known of a request once the server was asked.
#[derive(Debug)]
enum Resolution {
    Executed {
        transaction_id: String,
        points: i64,
        held: i64,
    },
    NotExecuted,
    /// What the server said instead of an outcome.
    Unresolvable(String),
    /// Something else was executed under the key.
    Wrong(String),
}

/// Asks for every unknown outcome and enters it in the books.
///
/// # Errors
/// The server does not answer, has no capacity for longer than the check's patience, or does not allow it; violations that
/// were found before are in the books.
pub(crate) fn resolve(books: &mut Books, servers: &[Server], check: Check, open: &[Open]) -> Result<(), Fault> {
    let patience = check.patience();
    // Where one outcome cannot be had, the next could not either, each after the same patience.
    let silence = OnceLock::new();
    let resolutions = in_parallel(servers, check.connections, open, |client, open| {
        if silence.get().is_some() {
            return Ok(None);
        }
        Ok(ask(books, client, open, patience).map_err(|fault| silence.set(fault)).ok())
    })?;
    for (open, resolution) in open.iter().zip(resolutions) {
        let key = books.key(open.worker, open.number);
        books.result.unknown_outcomes += 1;
        let violation = |kind: &str, detail: String| Violation {
            kind: kind.to_owned(),
            account: books.account(open.account),
            detail,
            operations: vec![key.clone()],
        };
        let Some(resolution) = resolution else { continue };
        match resolution {
            Resolution::Executed { transaction_id, points, held } => {
                books.result.unknown_executed += 1;
                books.add_effect(open.account, key, &transaction_id, points, held);
            }
            Resolution::NotExecuted => books.result.unknown_not_executed += 1,
            Resolution::Unresolvable(what) => {
                let violation = violation(
                    "unresolvable",
                    format!("the outcome of a {} cannot be had: {what}", open.operation.name()),
                );
                books.violate(violation);
            }
            Resolution::Wrong(what) => {
                let violation =
                    violation("wrong-answer", format!("the outcome under the key is another operation: {what}"));
                books.violate(violation);
            }
        }
    }
    silence.into_inner().map_or(Ok(()), Err)
}

fn ask(books: &Books, client: &mut Client, open: &Open, patience: Duration) -> Result<Resolution, Fault> {
    let account = books.account(open.account);
    let path = format!("/api/v1/points/{account}/outcomes/{}", books.key(open.worker, open.number));
    let deadline = Instant::now() + patience;
    loop {
        let reply = client.get_patiently(&path, patience)?;
        match reply.status {
            200 => {
                return Ok(read(&reply.body, open, &account).unwrap_or_else(|| Resolution::Unresolvable(reply.text())));
            }
            404 => return Ok(Resolution::NotExecuted),
            // Still running: that passes.
            409 if Instant::now() < deadline => std::thread::sleep(PROGRESS_POLL),
            // Who may not ask, or is not listened to, knows nothing of the books, good or bad.
            401 | 403 | 429 | 503 | 504 => {
                return Err(Fault::failed(format!("outcomes cannot be asked for: {}", reply.status), reply.text()));
            }
            status => return Ok(Resolution::Unresolvable(format!("{status} {}", reply.text()))),
        }
    }
}

fn read(body: &[u8], open: &Open, account: &str) -> Option<Resolution> {
    let outcome: Outcome<'_> = serde_json::from_slice(body).ok()?;
    if (400..500).contains(&outcome.status) {
        return Some(Resolution::NotExecuted);
    }
    let effect = Effect::parse(outcome.body.get().as_bytes())?;
    let (operation, number, points) = (open.operation, open.number, open.points);
    let planned = Planned { operation, account: open.account, number, points, amount_minor: 0, at_ms: 0, about: None };
    if effect.account_id != account || !planned.is_answered_by(&effect) {
        return Some(Resolution::Wrong(format!(
            "{} of {} points on {}",
            effect.kind, effect.points, effect.account_id
        )));
    }
    if operation == Operation::Void && effect.reason == Some("expired") {
        return Some(Resolution::NotExecuted);
    }
    let (transaction_id, points, held) = (effect.transaction_id.to_owned(), effect.points, planned.held());
    Some(Resolution::Executed { transaction_id, points, held })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::canned::serve;
    use crate::scenario::Scenario;

    #[test]
    fn a_wrong_outcome_stays_one_when_the_server_goes_away_after_it() {
        // The first is of other points than were asked for; the connection ends when the next is asked for.
        let servers = [serve(|path| {
            let effect = r#"{"transaction_id":"t","account_id":"p-0","type":"EARN","points":6,"available_points":6}"#;
            path.contains("/p-0/").then(|| format!(r#"{{"status":201,"body":{effect}}}"#))
        })];
        let mut check = Scenario::load("smoke").unwrap().check;
        check.connections = 1;
        let mut books = Books { prefix: "p-".to_owned(), ..Books::default() };
        let operation = Operation::EarnPoints;
        let open: Vec<Open> = (0..3)
            .map(|account| Open { worker: 0, account, number: u64::from(account), operation, points: 5 })
            .collect();
        let fault = resolve(&mut books, &servers, check, &open).unwrap_err().to_string();
        assert!(fault.contains("without an answer"), "{fault}");
        let kinds: Vec<&str> = books.result.violations.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!((kinds, books.result.unknown_outcomes), (vec!["wrong-answer"], 3));
    }
}
