//! Deciding one request, in the precedence of the HTTP contract: syntax in the light of the program, program,
//! account, key, what the request refers to, account status, time bounds, amounts.
//!
//! Whatever can be refused is refused, and whatever must be loaded is asked for, before the operation's first
//! record exists.

pub(super) mod program;
mod award;
mod spend;
mod reverse;
mod admin;
mod holds;

use meed_schemas::command::{Command, Keys, References, Status};
use meed_schemas::ids::{AccountKind, Position};
use meed_schemas::outcome::Refusal;
use meed_schemas::record::{KeyBinding, Record};
use meed_schemas::time::{DAY_MS, Millis};

use super::keys::Recognized;
use super::session::{Session, Step, Stop, Verdict, bindings, with_trace};
use super::views;

/// How far ahead of now an operation may claim to have happened.
pub(super) const AHEAD_MS_MAX: Millis = 5 * 60 * 1_000;

/// The indexes of an operation's last primary record and of the record that the answer shows.
type Shown = (usize, usize);

/// The request, without its identity.
pub(super) struct Operation<'a> {
    pub(super) command: &'a mut Command,
    pub(super) keys: &'a Keys,
    pub(super) fingerprint: u64,
    pub(super) traceparent: &'a mut Option<Box<str>>,
}

impl Operation<'_> {
    /// Moves the references into the record that the keys shall lead to.
    pub(super) fn sign(&mut self, record: &mut Record) {
        record.references = with_trace(self.command.references_mut().and_then(Option::take), self.traceparent);
        record.keys = bindings(self.keys);
        if !record.keys.is_empty() {
            record.fingerprint = self.fingerprint;
        }
    }

    /// The references, while they are still there.
    pub(super) fn references(&self) -> Option<&References> {
        self.command.references()
    }
}

/// Decides a request of an account whose program exists and that has nothing due.
pub(super) fn decide(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Verdict> {
    if operation.command.is_read() {
        return views::view(session, operation.command, operation.keys);
    }
    let invalid = invalid(session, operation.command);
    if session.account.exists() {
        if matches!(operation.command, Command::Open) {
            return Ok(views::account(session));
        }
        let recognized = session.account.recognize(operation.keys, operation.fingerprint, session.facts);
        // A request that was executed is replayed even if it would not be valid any more.
        match (recognized.map_err(Stop::Load)?, invalid) {
            (Recognized::Before { target, bind }, _) => {
                let target = Position::new(session.shard, target);
                if let Some(key) = bind {
                    session.bind(key, operation.fingerprint, target);
                }
                return Ok(Verdict::Replay(target));
            }
            (_, Some(invalid)) => return Err(invalid.into()),
            (Recognized::Reused, None) => return Err(Refusal::KeyReused.into()),
            (Recognized::New, None) => {}
        }
    } else if let Some(invalid) = invalid {
        return Err(invalid.into());
    } else if !opens(session, operation.command) {
        return Err(Refusal::UnknownAccount.into());
    }
    let first = session.records.len();
    let (last_primary, shown) = match operation.command {
        Command::Earn { .. } => award::earn(session, operation)?,
        Command::Sale { .. } => award::sale(session, operation)?,
        Command::Adjust { points: 1.., .. } => award::adjust(session, operation)?,
        Command::Adjust { .. } => spend::adjust(session, operation)?,
        Command::Redeem { .. } => spend::redeem(session, operation)?,
        Command::Reverse { original, portion, occurred_at, .. } => {
            let (original, portion, occurred_at) = (*original, *portion, *occurred_at);
            reverse::reverse(session, operation, original, portion, occurred_at)?
        }
        Command::SaleReturn { sale, portion, occurred_at, .. } => {
            let (sale, portion, occurred_at) = (*sale, *portion, *occurred_at);
            let original = reverse::sale(session, sale)?;
            reverse::reverse(session, operation, original, portion, occurred_at)?
        }
        Command::Hold { .. } => holds::hold(session, operation)?,
        Command::Capture { .. } => holds::capture(session, operation)?,
        Command::Void { hold, .. } => match holds::ended(session, *hold)? {
            Some(end) => {
                if let Some(hash) = operation.keys.idempotency {
                    session.bind(KeyBinding { hash, business: false }, operation.fingerprint, end);
                }
                return Ok(Verdict::Replay(end));
            }
            None => holds::void(session, operation)?,
        },
        Command::Open => admin::open(session),
        Command::SetStatus { .. } => admin::set_status(session, operation)?,
        Command::SetTier { .. } => admin::set_tier(session, operation)?,
        // A program's document belongs to the program's own account; reads were answered above.
        _ => return Err(Refusal::UnknownAccount.into()),
    };
    session.finish(first, last_primary);
    Ok(Verdict::Executed(shown))
}

/// Whether a request to an account that does not exist makes it.
fn opens(session: &Session<'_>, command: &Command) -> bool {
    let occurred_at = match command {
        Command::Open => return true,
        Command::Earn { earn, .. } => earn.occurred_at.unwrap_or(session.now),
        Command::Sale { occurred_at, .. } => *occurred_at,
        _ => return false,
    };
    session.identity.kind() == AccountKind::Member && session.program.version_at(occurred_at).document.auto_enroll
}

/// What is wrong with a request in the light of the program and of now, whatever the account.
fn invalid(session: &Session<'_>, command: &Command) -> Option<Refusal> {
    let refuse = |field: &'static str, detail: String| Some(Refusal::InvalidRequest { field: field.into(), detail });
    match command {
        Command::Earn { earn, .. } if earn.expires_at.is_some() || earn.activates_at.is_some() => {
            let occurred_at = earn.occurred_at.unwrap_or(session.now);
            award::invalid_lot(session, occurred_at, earn.expires_at, earn.activates_at)
        }
        Command::Adjust { points: 1.., expires_at: Some(expires_at), .. } => {
            award::invalid_lot(session, session.now, Some(*expires_at), None)
        }
        Command::Hold { ttl_seconds: Some(seconds), .. } => {
            let longest = session.newest.document.holds.max_ttl_seconds;
            if *seconds < 1 || *seconds > i64::from(longest) {
                return refuse("ttl_seconds", format!("must be 1 to {longest} seconds in this program"));
            }
            None
        }
        Command::SetTier { tier: Some(tier), .. } if session.newest.level_named(tier).is_none() => {
            refuse("new_tier", "must be the name of a tier of the program's newest version, or null".to_owned())
        }
        Command::SetTier { until: Some(until), .. } if *until <= session.now => {
            refuse("until", "must lie in the future".to_owned())
        }
        _ => None,
    }
}

/// Refuses what the account's status forbids; `spends` tells whether a frozen account refuses it too.
fn check_status(session: &Session<'_>, spends: bool) -> Step<()> {
    match session.account.status {
        Status::Closed => Err(Refusal::AccountClosed.into()),
        Status::Frozen if spends => Err(Refusal::AccountFrozen.into()),
        _ => Ok(()),
    }
}

/// Refuses what happened too long ago or too far ahead.
fn check_time(session: &Session<'_>, occurred_at: Millis) -> Step<()> {
    if let Some(days) = session.newest.document.late_days_max {
        let late_days_max = i64::from(days);
        if session.now.saturating_sub(occurred_at) > late_days_max * DAY_MS {
            return Err(Refusal::TooLate { late_days_max }.into());
        }
    }
    if occurred_at.saturating_sub(session.now) > AHEAD_MS_MAX {
        return Err(Refusal::InTheFuture.into());
    }
    Ok(())
}
