//! The event stream against the ledger: one event per acknowledged transaction, with its id and its points.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Deserialize;

use crate::check::{Books, is_of_the_server};
use crate::error::Fault;
use crate::http::{Client, Server};
use crate::ledger::Entry;
use crate::scenario::Check;
use crate::summary::Violation;

/// Events of one request.
const PAGE: u32 = 2_000;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    account_id: String,
    transaction_id: String,
    #[serde(rename = "type")]
    kind: String,
    points: i64,
    #[serde(default)]
    reason: Option<String>,
}

/// Where the stream stands now; `None` when the server has none, which it says by 404.
///
/// # Errors
/// The server does not answer, or does not let its stream be read: an unread stream proves nothing.
pub(crate) fn cursor_now(server: &Server, patience: Duration) -> Result<Option<String>, Fault> {
    let reply = Client::new(server.clone()).get_patiently("/api/v1/events?after=now&follow=false", patience)?;
    let cursor = lines(&reply.body).filter_map(|line| line.cursor).last();
    match (reply.status, cursor) {
        (404, _) => Ok(None),
        (200, Some(cursor)) => Ok(Some(cursor)),
        (401, _) => Err(Fault::failed("the server wants to know who asks: --token-file", reply.text())),
        (status, _) => Err(Fault::Failed(format!(
            "the event stream cannot be read: {status} {}; with --set check.events_max=0 it is left out of the proof",
            reply.text()
        ))),
    }
}

fn lines(body: &[u8]) -> impl Iterator<Item = Line> + '_ {
    body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// Reads the events since `cursor` and compares them with the books.
///
/// # Errors
/// The server does not answer, has no capacity for longer than the check's patience, or does not allow it.
pub(crate) fn compare_events(books: &mut Books, server: &Server, cursor: &str, check: Check) -> Result<(), Fault> {
    let most = check.events_max;
    let expected: u64 = books.entries.values().map(|entry| u64::from(entry.effects)).sum();
    if books.result.violation_count > 0 {
        books.result.events = "not compared: the books are wrong already".to_owned();
        return Ok(());
    }
    if expected > most {
        books.result.events = format!("not compared: {expected} transactions, more than check.events_max {most}");
        return Ok(());
    }
    let mut client = Client::new(server.clone());
    let (mut cursor, mut seen, mut found) = (cursor.to_owned(), HashSet::new(), HashMap::<u32, Entry>::new());
    let mut cursors = HashSet::from([cursor.clone()]);
    loop {
        let path = format!("/api/v1/events?after={cursor}&limit={PAGE}&follow=false");
        let reply = client.get_patiently(&path, check.patience())?;
        if reply.status != 200 {
            "not compared".clone_into(&mut books.result.events);
            return Err(Fault::failed(format!("the event stream cannot be read: {}", reply.status), reply.text()));
        }
        let mut count = 0;
        let mut next = None;
        for line in lines(&reply.body) {
            next = line.cursor.or(next);
            let (Some(id), Some(data)) = (line.id, line.data) else { continue };
            count += 1;
            let account = data.account_id.strip_prefix(&books.prefix).and_then(|number| number.parse::<u32>().ok());
            let Some(account) = account.filter(|_| !is_of_the_server(&data.kind, data.reason.as_deref())) else {
                continue;
            };
            // At least once: the same event may come again.
            if seen.insert(id) {
                found.entry(account).or_default().add_effect(&data.transaction_id, data.points, 0);
            }
        }
        match next {
            // It would go round for ever.
            Some(next) if count > 0 && !cursors.insert(next.clone()) => {
                differ(
                    books,
                    String::new(),
                    format!("the stream does not come to an end: the cursor {next} comes again"),
                );
                return Ok(());
            }
            Some(next) if count > 0 => cursor = next,
            Some(_) => break,
            None => {
                let text = format!("the stream ends without a cursor: {}", reply.text());
                differ(books, String::new(), text);
                return Ok(());
            }
        }
    }
    books.result.events = format!("{} events, as acknowledged", seen.len());
    compare_accounts(books, &found);
    Ok(())
}

/// Whether the stream told of the same on every account.
fn compare_accounts(books: &mut Books, found: &HashMap<u32, Entry>) {
    let mut accounts: Vec<u32> = books.entries.keys().chain(found.keys()).copied().collect();
    accounts.sort_unstable();
    accounts.dedup();
    for account in accounts {
        let expected = Entry { touched: true, held: 0, ..books.entries.get(&account).copied().unwrap_or_default() };
        let told = Entry { touched: true, ..found.get(&account).copied().unwrap_or_default() };
        if expected != told {
            let text = format!(
                "{} transactions of {} points were acknowledged, the stream has {} of {}",
                expected.effects, expected.points, told.effects, told.points
            );
            differ(books, books.account(account), text);
        }
    }
}

fn differ(books: &mut Books, account: String, detail: String) {
    books.result.events = "differ from what was acknowledged".to_owned();
    books.violate(Violation { kind: "events".to_owned(), account, detail, operations: Vec::new() });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::canned::serve;
    use crate::scenario::Scenario;

    const EVENT: &str = r#"{"id":"1","data":{"account_id":"p-0","transaction_id":"t","type":"EARN","points":5}}"#;

    /// What comes of a stream that tells of one event at a cursor; `next` is the cursor that follows one.
    fn compared(next: impl Fn(&str) -> Option<&'static str> + Send + Sync + 'static) -> Books {
        let mut books = Books { prefix: "p-".to_owned(), ..Books::default() };
        books.entries.entry(0).or_default().add_effect("t", 5, 0);
        let server = serve(move |path| {
            let (_, rest) = path.split_once("after=").unwrap();
            let cursor = rest.split_once('&').unwrap().0;
            Some(match next(cursor) {
                Some(next) => format!("{EVENT}\n{{\"cursor\":\"{next}\"}}"),
                None => format!("{{\"cursor\":\"{cursor}\"}}"),
            })
        });
        let check = Scenario::load("smoke").unwrap().check;
        compare_events(&mut books, &server, "a", check).unwrap();
        books
    }

    #[test]
    fn a_stream_that_does_not_come_to_an_end_is_a_violation() {
        for books in [compared(|_| Some("a")), compared(|cursor| Some(if cursor == "a" { "b" } else { "a" }))] {
            assert_eq!(books.result.violations[0].kind, "events");
            assert!(books.result.violations[0].detail.contains("does not come to an end"), "{:?}", books.result);
        }
        let books = compared(|cursor| (cursor == "a").then_some("b"));
        assert_eq!((books.result.violation_count, books.result.events.as_str()), (0, "1 events, as acknowledged"));
    }
}
