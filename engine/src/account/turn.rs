//! One turn of an account: settle what is due, decide one request, apply and stamp its records.

use meed_schemas::command::{Command, Request};
use meed_schemas::ids::{AccountKind, Position};
use meed_schemas::outcome::{Refusal, Reply};
use meed_schemas::record::KeyBinding;
use smallvec::SmallVec;

use super::facts::{FactKey, Facts, Fetch, Fetches};
use super::keys::Found;
use super::session::{Context, Session, Stop, Turn, Verdict};
use super::{Account, decide, settle};

/// Settles what is due, then decides the request. The records that it returns are applied to the account.
/// The request's references are moved into its record; a request whose turn ends in [`Verdict::Load`] is
/// untouched.
pub fn turn(account: &mut Account, request: &mut Request, facts: &Facts, context: &Context<'_>) -> Turn {
    if request.identity.kind() == AccountKind::Program {
        return decide::program::turn(account, request, facts, context);
    }
    let Some(program) = context.programs.get(request.identity.program()) else {
        return Turn { records: SmallVec::new(), verdict: Verdict::Reply(Reply::Refused(Refusal::UnknownProgram)) };
    };
    let Request { identity, command, keys, fingerprint, request_id, traceparent } = request;
    let mut session = Session::new(account, identity, program, facts, context);
    let mut result = Ok(());
    if session.account.next_due().is_some_and(|due| due <= session.settle_until) {
        result = settle::settle(&mut session);
    }
    let decided = result.and_then(|()| {
        let mut operation = decide::Operation { command, keys, fingerprint: *fingerprint, traceparent };
        decide::decide(&mut session, &mut operation)
    });
    let verdict = match decided {
        Ok(verdict) => verdict,
        Err(Stop::Load(fetches)) => Verdict::Load(fetches),
        Err(Stop::Refused(refusal)) => {
            // An account that this request would have opened does not exist, so it remembers nothing.
            if let (Refusal::InsufficientPoints { .. }, Some(hash)) = (&refusal, keys.idempotency)
                && session.account.exists()
            {
                session.remember_refusal(&refusal, hash, *fingerprint, request_id);
            }
            Verdict::Reply(Reply::Refused(refusal))
        }
    };
    Turn { records: session.records, verdict }
}

/// What a request will need, as far as can be told without it.
pub fn needs(account: &Account, request: &Request, shard: u16) -> Fetches {
    let facts = Facts::default();
    let mut fetches = Fetches::new();
    if !account.exists() {
        return fetches;
    }
    if let Err(missing) = account.recognize(&request.keys, request.fingerprint, &facts) {
        fetches.extend(missing);
    }
    match &request.command {
        Command::Reverse { original, .. } | Command::Transaction { position: original }
            if original.is_in(shard, account.applied()) =>
        {
            fetches.push(Fetch::Record(*original));
            if account.reversed_of(original.sequence(), &facts) == Found::Unknown {
                fetches.push(Fetch::Fact(FactKey::Reversed(original.sequence())));
            }
        }
        Command::SaleReturn { sale, .. } => {
            match account.outcome_of(KeyBinding { hash: *sale, business: true }, &facts) {
                Found::Yes(outcome) => fetches.push(Fetch::Record(Position::new(shard, outcome.target))),
                Found::Unknown => fetches.push(Fetch::Fact(FactKey::Key { hash: *sale, business: true })),
                Found::No => {}
            }
        }
        Command::Capture { hold, .. } | Command::Void { hold, .. } | Command::HoldStatus { hold }
            if account.hold(hold.sequence()).is_none()
                && account.closed_hold(hold.sequence(), &facts) == Found::Unknown =>
        {
            fetches.push(Fetch::Fact(FactKey::ClosedHold(hold.sequence())));
        }
        _ => {}
    }
    fetches
}
