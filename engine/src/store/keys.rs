//! The byte form of the rows. All numbers in keys are big endian, so that byte order is their order; every
//! key of an account's rows begins with the shard, so that a shard is one range of each keyspace.

use std::path::Path;

use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::time::Millis;

use super::{FactKey, ShardState};
use crate::error::{Error, Result};

/// Version of the rows of the state store.
pub(super) const STORE_FORMAT: u32 = 2;
const SHARD_STATE_FORMAT: u8 = 1;
const REVERSED: u8 = 1;
const EXPIRED_LOT: u8 = 2;
const CLOSED_HOLD: u8 = 3;

/// Key of an account's blob: shard, identity.
pub(super) fn account(shard: u16, identity: &Identity) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + identity.as_bytes().len());
    key.extend_from_slice(&shard.to_be_bytes());
    key.extend_from_slice(identity.as_bytes());
    key
}

/// What the keys of the accounts of a shard and kind begin with.
pub(super) fn account_prefix(shard: u16, kind: Option<AccountKind>) -> Vec<u8> {
    let mut key = shard.to_be_bytes().to_vec();
    key.extend(kind.map(|kind| kind as u8));
    key
}

/// The identity in an account's key.
pub(super) fn identity_of_account(key: &[u8], folder: &Path) -> Result<Identity> {
    key.get(2..).and_then(Identity::from_bytes).ok_or_else(|| damaged(folder, "a key of an account"))
}

/// Signed numbers keep their order as unsigned ones when the sign bit is turned.
fn ordered(at: Millis) -> [u8; 8] {
    (at as u64 ^ 1 << 63).to_be_bytes()
}

/// Key of a due row: shard, instant, identity.
pub(super) fn due(shard: u16, at: Millis, identity: &Identity) -> Vec<u8> {
    let mut key = due_from(shard, at);
    key.extend_from_slice(identity.as_bytes());
    key
}

/// The lowest key that a due row of an instant can have.
pub(super) fn due_from(shard: u16, at: Millis) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.extend_from_slice(&shard.to_be_bytes());
    key.extend_from_slice(&ordered(at));
    key
}

/// The range of due rows after `after`, or from `floor` on, up to and with the instant `up_to`.
pub(super) fn due_range(
    shard: u16,
    floor: Millis,
    after: Option<&(Millis, Identity)>,
    up_to: Millis,
) -> (Vec<u8>, Vec<u8>) {
    let from = match after {
        // Nothing lies between a key and the same key with a zero byte.
        Some((at, identity)) if *at >= floor => {
            let mut key = due(shard, *at, identity);
            key.push(0);
            key
        }
        _ => due_from(shard, floor),
    };
    let to = match up_to.checked_add(1) {
        Some(end) => due_from(shard, end),
        // Shards are fewer than 4,096, so there is always a number after.
        None => shard.saturating_add(1).to_be_bytes().to_vec(),
    };
    (from, to)
}

/// Reads a due row's key.
pub(super) fn read_due(key: &[u8], folder: &Path) -> Result<(Millis, Identity)> {
    let row = || {
        let instant: [u8; 8] = key.get(2..10)?.try_into().ok()?;
        let at = (u64::from_be_bytes(instant) ^ 1 << 63) as i64;
        Some((at, Identity::from_bytes(key.get(10..)?)?))
    };
    row().ok_or_else(|| damaged(folder, "a key of the due index"))
}

/// Key of a fact: shard, identity, and a suffix of fixed length, so that two facts never have the same key.
pub(super) fn fact(shard: u16, identity: &Identity, fact: &FactKey) -> Vec<u8> {
    let mut key = account(shard, identity);
    let (tag, number) = match fact {
        FactKey::Reversed(position) => (REVERSED, *position),
        FactKey::ExpiredLot(instant) => (EXPIRED_LOT, *instant as u64),
        FactKey::ClosedHold(position) => (CLOSED_HOLD, *position),
    };
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// What the keys of the catalogs of spilled keys begin with.
pub(super) const KEY_CATALOGS: [u8; 1] = [0];
const KEY_BLOCKS: u8 = 1;

/// Key of the catalog of a shard's spilled keys in a week.
pub(super) fn key_catalog(shard: u16) -> [u8; 3] {
    let shard = shard.to_be_bytes();
    [KEY_CATALOGS[0], shard[0], shard[1]]
}

/// The shard of a catalog's key.
pub(super) fn shard_of_catalog(key: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// Key of a block of spilled keys: shard, run, block.
pub(super) fn key_block(shard: u16, run: u32, block: u32) -> [u8; 11] {
    let mut key = [KEY_BLOCKS; 11];
    key[1..3].copy_from_slice(&shard.to_be_bytes());
    key[3..7].copy_from_slice(&run.to_be_bytes());
    key[7..].copy_from_slice(&block.to_be_bytes());
    key
}

/// The row of a shard's state.
pub(super) fn shard_state(state: &ShardState) -> Vec<u8> {
    let mut row = Vec::with_capacity(25 + state.totals.len());
    row.push(SHARD_STATE_FORMAT);
    for number in [state.replay_start, state.totals_sequence, state.accounts] {
        row.extend_from_slice(&number.to_le_bytes());
    }
    row.extend_from_slice(&state.totals);
    row
}

/// Reads the row of a shard's state.
pub(super) fn read_shard_state(row: &[u8], folder: &Path) -> Result<ShardState> {
    let number = |at: usize| -> Option<u64> { Some(u64::from_le_bytes(row.get(at..at + 8)?.try_into().ok()?)) };
    let read = || {
        (row.first() == Some(&SHARD_STATE_FORMAT)).then_some(())?;
        Some(ShardState {
            replay_start: number(1)?,
            totals_sequence: number(9)?,
            accounts: number(17)?,
            totals: row.get(25..)?.to_vec(),
        })
    };
    read().ok_or_else(|| damaged(folder, "the state of a shard"))
}

pub(super) fn damaged(folder: &Path, what: &str) -> Error {
    Error::Damaged { file: folder.to_owned(), offset: 0, detail: format!("{what} cannot be read") }
}
