//! What became of requests without an answer: asked by their keys, once the server can no longer be at work on them.

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
/// The server does not answer, has no capacity for longer than the check's patience, or does not allow it.
pub(crate) fn resolve(books: &mut Books, servers: &[Server], check: Check, open: &[Open]) -> Result<(), Fault> {
    let patience = check.patience();
    let resolutions = in_parallel(servers, check.connections, open, |client, open| ask(books, client, open, patience))?;
    for (open, resolution) in open.iter().zip(resolutions) {
        let key = books.key(open.worker, open.number);
        books.result.unknown_outcomes += 1;
        let violation = |kind: &str, detail: String| Violation {
            kind: kind.to_owned(),
            account: books.account(open.account),
            detail,
            operations: vec![key.clone()],
        };
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
    Ok(())
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
