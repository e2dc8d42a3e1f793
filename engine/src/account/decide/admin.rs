//! Opening an account, its status, and a tier set by hand.

use meed_schemas::command::Command;
use meed_schemas::record::{Detail, ManualTier, RecordKind};
use meed_schemas::time::NEVER;

use super::{Operation, Shown, check_status, holds};
use crate::account::Manual;
use crate::account::session::{Session, Step, put_tier_due};
use crate::account::tier::TierBasis;
use crate::program::tier::ManualKind;

pub(super) fn open(session: &mut Session<'_>) -> Shown {
    let version = session.program.version_at(session.now).number;
    let record = session.draft(RecordKind::Open, session.now, version, Detail::None);
    let index = session.commit(record);
    (index, index)
}

pub(super) fn set_status(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::SetStatus { status, .. } = *operation.command else { unreachable!("called for a status") };
    if status == meed_schemas::command::Status::Closed {
        holds::close_all(session)?;
    }
    let version = session.program.version_at(session.now).number;
    let detail = Detail::Status { status, previous: session.account.status };
    let mut record = session.draft(RecordKind::Status, session.now, version, detail);
    operation.sign(&mut record);
    let index = session.commit(record);
    Ok((index, index))
}

/// Sets or removes a tier by hand. The record is written even when the tier stays what it is.
pub(super) fn set_tier(session: &mut Session<'_>, operation: &mut Operation<'_>) -> Step<Shown> {
    let Command::SetTier { tier, until, .. } = &*operation.command else { unreachable!("called for a tier") };
    check_status(session, false)?;
    let (newest, now) = (session.newest, session.now);
    let by_spend = TierBasis { spend: &session.account.spend, manual: None, manual_before: &[] };
    let earned = by_spend.level_at(newest, now);
    let manual = tier.as_ref().map(|name| Manual {
        name: name.clone(),
        floor: newest.level_named(name).is_some_and(|level| ManualKind::of(level, earned) == ManualKind::Floor),
        from: now,
        until: until.unwrap_or(NEVER),
    });
    let basis = TierBasis { manual: manual.as_ref(), ..by_spend };
    let level = basis.level_at(newest, now);
    let due = basis.next_change(newest, now);
    let detail = Detail::Tier {
        from: session.journaled_name(),
        to: newest.level(level).name.as_str().into(),
        manual: Some(Box::new(ManualTier {
            floor: manual.as_ref().is_some_and(|manual| manual.floor),
            until: tier.as_ref().and(*until),
            name: tier.clone(),
        })),
    };
    let version = session.program.version_at(now).number;
    let mut record = session.draft(RecordKind::Tier, now, version, detail);
    record.tier = level as u8;
    put_tier_due(&mut record, due);
    operation.sign(&mut record);
    let index = session.commit(record);
    Ok((index, index))
}
