//! A record for tests that care for few of its fields.

use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Balances, Detail, RENDERING, Record, RecordKind};
use meed_schemas::time::NEVER;

/// An earn of one point, with which the account has as many points as the shard has records.
pub(crate) fn earn(position: Position, identity: Identity) -> Record {
    let sequence = position.sequence();
    Record {
        kind: RecordKind::Earn,
        rendering: RENDERING,
        position,
        identity,
        sequence,
        previous: 0,
        previous_of_kind: 0,
        recorded_at: 1_000 + sequence as i64,
        occurred_at: 1_000,
        program_version: 1,
        newest_version: 1,
        points: 1,
        balances: Balances { total: sequence as i64, ..Balances::default() },
        tier: 0,
        moves: Default::default(),
        spend: None,
        keys: Default::default(),
        fingerprint: 0,
        references: None,
        detail: Detail::Earn { expires_at: NEVER, activates_at: None, award: None, redemption: None },
        extensions: Vec::new(),
    }
}
