//! Snapshots by hand: one of a stopped node's folder, and a folder's state made again from one.
//!
//! A backup of a node is a snapshot, the journal's segments from the one on that holds the record after it, the
//! files `node.json` and `secrets`, and the folder `aliases` of the stopped node. Restored, it is a data folder
//! without `state`; [`restore`] makes that from the snapshot, and the next start replays the segments.

use std::fs;
use std::path::Path;

use meed_schemas::ids::Identity;
use meed_schemas::time::Millis;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::JournalReader;
use crate::read_state::ReadState;
use crate::recovery::read_account;
use crate::secrets::Secrets;
use crate::snapshots::{self, SnapshotSummary};
use crate::store::snapshot::{SnapshotHeader, SnapshotRow};
use crate::store::{AccountWrite, FactKey, ShardCheckpoint, ShardState, SpilledKey, Store, StoreOptions, sync_folder};

/// Rows that are put into the state store at once.
const ROWS_PER_BATCH: usize = 512;
const STATE: &str = "state";
/// Where a state is made before it gets its name.
const UNFINISHED_STATE: &str = "state.restored";

/// Writes a snapshot of the state store of a node that does not run.
///
/// # Errors
/// The folder cannot be read, or is another process's; the file cannot be written, or is there already.
pub fn take(data: &Path, to: &Path, now: Millis) -> Result<SnapshotSummary> {
    let disk = Disk::default();
    let folder = FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock_to_read(data)?;
    if disk.exists(to)? {
        return Err(Error::Setting(format!("{} is there already; name another file", to.display())));
    }
    if !disk.exists(&data.join(STATE))? {
        return Err(Error::Setting(format!("{} has no state; start a node on it first", data.display())));
    }
    let ReadState { store, .. } = &ReadState::open(&data.join(STATE), folder.journal_id)?;
    let header = SnapshotHeader { journal_id: folder.journal_id.to_le_bytes(), shards: folder.shards, taken_at: now };
    match snapshots::write(&disk, to, &store.view()?, &header, &mut |_| true)? {
        Some(summary) => Ok(summary),
        None => Err(Error::Stopped("the snapshot was not finished".to_owned())),
    }
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the snapshot held.
    pub snapshot: SnapshotSummary,
    /// Records of the journal after it, which the next start replays.
    pub tail_records: u64,
}

/// Makes the state store of a data folder from a snapshot of the same journal. The folder must hold `node.json`,
/// `secrets` and the journal's segments from the record after the snapshot on, and no state.
///
/// # Errors
/// There is a state already; the snapshot is damaged, of another journal, or does not meet the segments.
pub fn restore(data: &Path, from: &Path) -> Result<Restored> {
    let disk = Disk::default();
    let folder = FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock(data)?;
    let (state, unfinished) = (data.join(STATE), data.join(UNFINISHED_STATE));
    if disk.exists(&state)? {
        let detail = "it is there already; move it away if it is to be made from the snapshot".to_owned();
        return Err(Error::Mismatch { path: state, detail });
    }
    if Secrets::load(data, folder.journal_id)?.is_none() {
        let detail = "it has no secrets, without which no retry is recognized; restore that file too".to_owned();
        return Err(Error::Mismatch { path: data.to_path_buf(), detail });
    }
    let (reader, recovered) = JournalReader::open(disk.clone(), &data.join("journal"))?;
    let journal = (folder.journal_id, folder.shards);
    // Read twice: nothing of a snapshot counts before its hash is checked.
    let snapshot = snapshots::read(&disk, from, journal, &mut |_| Ok(()))?;
    let removed = reader.removed_sequence()?;
    check_meets(from, &snapshot, &removed, &recovered.last_sequence)?;
    match fs::remove_dir_all(&unfinished) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", unfinished, e)),
        _ => {}
    }
    let store = Store::open(&unfinished, folder.journal_id.to_le_bytes(), &StoreOptions::default())?;
    let last_sequence = &recovered.last_sequence;
    let mut filling =
        Filling { store, last_sequence, shard: None, accounts: Vec::new(), facts: Vec::new(), keys: Vec::new() };
    snapshots::read(&disk, from, journal, &mut |row| filling.take(row, from))?;
    filling.flush()?;
    filling.store.sync()?;
    drop(filling);
    disk.rename(&unfinished, &state)?;
    sync_folder(data)?;
    let tail = recovered.last_sequence.iter().zip(&snapshot.up_to).map(|(last, up_to)| last.saturating_sub(*up_to));
    Ok(Restored { tail_records: tail.sum(), snapshot })
}

/// Refuses a snapshot that ends before the segments begin, or that is of records which the segments do not have.
fn check_meets(from: &Path, snapshot: &SnapshotSummary, removed: &[u64], last: &[u64]) -> Result<()> {
    for (shard, &up_to) in snapshot.up_to.iter().enumerate() {
        let mismatch = |detail: String| Error::Mismatch { path: from.to_path_buf(), detail };
        if up_to < removed[shard] {
            let first = removed[shard] + 1;
            return Err(mismatch(format!(
                "it covers shard {shard} up to record {up_to}, and the journal begins at record {first}; take a \
                 newer snapshot, or put the older segments back"
            )));
        }
        if up_to > last[shard] {
            let last = last[shard];
            return Err(mismatch(format!(
                "it covers shard {shard} up to record {up_to}, and the journal ends at record {last}; put the newer \
                 segments back"
            )));
        }
    }
    Ok(())
}

/// A state store that is being filled from a snapshot's rows.
struct Filling<'a> {
    store: Store,
    last_sequence: &'a [u64],
    shard: Option<(u16, ShardState)>,
    accounts: Vec<AccountWrite>,
    facts: Vec<(Identity, FactKey, Vec<u8>)>,
    keys: Vec<SpilledKey>,
}

impl Filling<'_> {
    fn take(&mut self, row: SnapshotRow, from: &Path) -> Result<()> {
        match row {
            SnapshotRow::Meta { name, value } => return self.store.put_meta(&name, &value),
            SnapshotRow::Shard { shard, state } => {
                self.flush()?;
                self.shard = Some((shard, state));
                // Also of a shard without accounts.
                self.put_accounts()?;
            }
            SnapshotRow::Account { identity, blob } => {
                let account = read_account(from, &identity, &blob)?;
                let last = self.shard.as_ref().map_or(0, |(shard, _)| self.last_sequence[usize::from(*shard)]);
                if account.applied() > last {
                    let detail = format!(
                        "the state of account {identity:?} is of record {}, and the journal ends at record {last}; \
                         put the newer segments back",
                        account.applied()
                    );
                    return Err(Error::Damaged { file: from.to_path_buf(), offset: 0, detail });
                }
                let due = account.next_due();
                self.accounts.push(AccountWrite { identity, blob, due_before: None, due, facts: Vec::new() });
            }
            SnapshotRow::Fact { identity, fact, value } => self.facts.push((identity, fact, value)),
            SnapshotRow::Key(key) => self.keys.push(key),
        }
        if self.accounts.len() + self.facts.len() + self.keys.len() >= ROWS_PER_BATCH {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.accounts.is_empty() || !self.keys.is_empty() {
            self.put_accounts()?;
        }
        if let Some((shard, _)) = &self.shard
            && !self.facts.is_empty()
        {
            self.store.put_facts(*shard, &self.facts)?;
            self.facts.clear();
        }
        Ok(())
    }

    fn put_accounts(&mut self) -> Result<()> {
        let Some((shard, state)) = &self.shard else { return Ok(()) };
        let (accounts, keys) = (std::mem::take(&mut self.accounts), std::mem::take(&mut self.keys));
        self.store.checkpoint(&ShardCheckpoint { shard: *shard, accounts, keys, state: state.clone() })
    }
}
