//! A journal that is older than the state store beside it: somebody has put back an old copy of its files, or none. What
//! the store knows beyond the journal was acknowledged and has no record any more, so no node may go on from there.

use std::path::Path;

use super::auditor::Auditor;
use super::node::{DATA, FOLDER, Node};
use crate::account::Account;
use crate::disk::Disk;
use crate::error::Result;
use crate::journal::JournalReader;
use crate::store::Store;
use crate::verify;

/// Whether every record of a journal that no process writes to was decided. One that the power took before it was durable
/// is in a copy, and another may have its position since: then the store is of another history, neither ahead nor not.
pub(super) fn is_of_this_history(disk: Disk, auditor: &Auditor) -> bool {
    let Ok((reader, _)) = JournalReader::open(disk, Path::new(FOLDER)) else { return true };
    let Ok(from) = reader.removed_sequence() else { return true };
    let mut is_same = true;
    let scanned = reader.scan(&from, &|_| true, &mut |position, payload| {
        is_same &= auditor.bytes(position) == Some(payload);
        Ok(())
    });
    scanned.is_err() || is_same
}

/// Whether a store has anything that is not in a journal which ends at these sequences.
pub(super) fn is_ahead(store: &Store, end: &[u64]) -> std::result::Result<bool, String> {
    let is_ahead = |shard: u16, end: u64| -> Result<bool> {
        let mut newest = store.shard_state(shard)?.map_or(0, |state| state.totals_sequence);
        store.accounts(shard, None, &mut |identity, blob| {
            newest = newest.max(Account::decode(&identity, blob).map_or(u64::MAX, |account| account.applied()));
            Ok(())
        })?;
        Ok(newest > end)
    };
    for (shard, end) in (0..).zip(end) {
        if is_ahead(shard, *end).map_err(|error| error.to_string())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Judges a node that was started, or was not, beside a store that is ahead of its journal or is not.
///
/// # Errors
/// It starts on what is ahead; or it does not, or finds something wrong, on what is not.
pub(super) fn judge(disk: &Disk, started: Result<Node>, is_ahead: bool) -> std::result::Result<(), String> {
    match (started, is_ahead) {
        (Ok(_), true) => Err("the store is ahead of the journal, and the node starts".to_owned()),
        (Ok(node), false) => {
            let end = node.reader.last_sequence();
            let checked = verify::check(disk, Path::new(DATA), &node.reader, Some(&node.store), None, &end);
            checked.map(|_| ()).map_err(|found| format!("an older journal that has all of the store is wrong: {found}"))
        }
        (Err(told), false) => Err(format!("an older journal that has all of the store is refused: {told}")),
        (Err(told), true) => {
            let told = told.to_string();
            let is_plain = told.contains("ahead of the journal") || told.contains("the journal ends at");
            if is_plain { Ok(()) } else { Err(format!("a store ahead of the journal is told as: {told}")) }
        }
    }
}
