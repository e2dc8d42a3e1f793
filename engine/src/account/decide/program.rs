//! A program's own account: its versions are its records.

use meed_schemas::command::{Command, Request};
use meed_schemas::ids::Position;
use meed_schemas::outcome::{Limit, Refusal, Reply};
use meed_schemas::program::Document;
use meed_schemas::record::{Detail, Record, RecordKind};
use meed_schemas::time::Millis;
use smallvec::SmallVec;

use crate::account::facts::{Facts, Fetch};
use crate::account::session::{Context, Turn, Verdict, draft, place};
use crate::account::{Account, PROGRAM_VERSIONS_MAX, views};
use crate::program::{Version, check_successor};

/// One turn of a program's account, which knows versions, history and nothing else.
pub(in super::super) fn turn(
    account: &mut Account,
    request: &mut Request,
    facts: &Facts,
    context: &Context<'_>,
) -> Turn {
    let mut records = SmallVec::new();
    let verdict = match &request.command {
        Command::Settle => Verdict::Reply(Reply::Settled),
        Command::PutProgram { document } => match put(account, document, context.now) {
            Ok(Some(number)) => {
                let detail = Detail::Program { document: document.clone() };
                let versions = (number, number);
                let mut record =
                    draft(&request.identity, RecordKind::Program, context.now, context.now, versions, detail);
                place(account, &mut record, Position::new(context.shard, context.next_sequence));
                account.apply(&record);
                records.push(Box::new(record));
                Verdict::Executed(0)
            }
            Ok(None) => {
                let version = account.program_versions().last().map_or(0, |version| version.number);
                Verdict::Reply(Reply::Program { version, created: false })
            }
            Err(refusal) => Verdict::Reply(Reply::Refused(refusal)),
        },
        _ if !account.exists() => Verdict::Reply(Reply::Refused(Refusal::UnknownProgram)),
        Command::HistoryHead => {
            Verdict::Reply(Reply::HistoryHead(Box::new(views::history_head(account, context.shard))))
        }
        Command::Transaction { position } => transaction(request, *position, facts, context),
        _ => Verdict::Reply(Reply::Refused(Refusal::UnknownAccount)),
    };
    Turn { records, verdict }
}

/// The number of the version that a document makes; `None` when it is the newest already.
fn put(account: &Account, document: &str, now: Millis) -> Result<Option<u32>, Refusal> {
    let refuse = |field: &'static str, detail| Refusal::InvalidRequest { field: field.into(), detail };
    let parse = |json: &str| Document::parse(json.as_bytes()).map_err(|error| refuse("document", error.to_string()));
    let Some(newest) = account.program_versions().last() else {
        // A document that cannot be compiled must never be journaled: no start would get past it.
        Version::compile(1, now, parse(document)?).map_err(|error| refuse("time_zone", error.detail))?;
        return Ok(Some(1));
    };
    if *newest.document == *document {
        return Ok(None);
    }
    check_successor(&parse(&newest.document)?, &parse(document)?).map_err(|error| {
        let field = if error.field == "currency" { "currency" } else { "time_zone" };
        refuse(field, error.detail)
    })?;
    if account.program_versions().len() >= PROGRAM_VERSIONS_MAX {
        return Err(Refusal::LimitExceeded { limit: Limit::ProgramVersions });
    }
    Ok(Some(newest.number + 1))
}

fn transaction(request: &Request, position: Position, facts: &Facts, context: &Context<'_>) -> Verdict {
    let own = |record: &&Record| record.identity == request.identity && record.kind.is_effect();
    if !position.is_in(context.shard, context.next_sequence - 1) {
        return Verdict::Reply(Reply::Refused(Refusal::UnknownTransaction));
    }
    match facts.record(position) {
        None => Verdict::Load(SmallVec::from_elem(Fetch::Record(position), 1)),
        Some(None) => Verdict::Reply(Reply::Refused(Refusal::RecordGone)),
        Some(record) => match record.filter(own) {
            Some(record) => Verdict::Reply(Reply::Transaction {
                record: Box::new(record.clone()),
                reversed: meed_schemas::outcome::ReversedSoFar::default(),
            }),
            None => Verdict::Reply(Reply::Refused(Refusal::UnknownTransaction)),
        },
    }
}
