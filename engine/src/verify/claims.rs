//! What the state store and the snapshots claim of accounts and totals, to be held against the replay when it comes
//! to the same sequence; and the snapshot that the replay begins with.

use std::path::{Path, PathBuf};

use meed_schemas::ids::Identity;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use super::{Checked, ShardTotals, Shown, Verifier};
use crate::account::Account;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::shard::decode_state;
use crate::snapshots::{self, SnapshotSummary};
use crate::store::snapshot::SnapshotRow;
use crate::store::{ShardState, Store};

/// Most stores and snapshots that are held against one replay: a bit of [`Checked`] for each.
const SOURCES_MAX: usize = 64;
/// What stands for the path of the state store.
const STORE: &str = "state";

/// A state of an account that a store or snapshot has: of which record, and its hash.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    source: usize,
    at: u64,
    hash: u128,
}

/// Where claims come from.
struct Source {
    path: PathBuf,
    /// Per shard, the sequence up to which every account is in it.
    up_to: Vec<u64>,
    equal: u64,
}

/// Everybody who claims something.
#[derive(Default)]
pub(super) struct Claims {
    sources: Vec<Source>,
}

impl Claims {
    /// A claim of this source is wrong.
    pub(super) fn wrong(&self, source: usize, detail: String) -> Error {
        let file = self.sources.get(source).map_or_else(|| STORE.into(), |source| source.path.clone());
        Error::Damaged { file, offset: 0, detail }
    }

    fn is_store(&self, source: usize) -> bool {
        self.sources[source].path == Path::new(STORE)
    }

    /// What messages call a source.
    fn name_of(&self, source: usize) -> String {
        if self.is_store(source) {
            "the state store".to_owned()
        } else {
            self.sources[source].path.display().to_string()
        }
    }

    pub(super) fn count(&mut self, source: usize) {
        self.sources[source].equal += 1;
    }

    /// The snapshots, and how many of their states were equal to the replay.
    pub(super) fn counted(&self) -> Vec<(PathBuf, u64)> {
        let snapshots = self.sources.iter().filter(|source| source.path != Path::new(STORE));
        snapshots.map(|source| (source.path.clone(), source.equal)).collect()
    }

    /// Whether every claim of an account was reached, and who covers its first record has it.
    pub(super) fn check_settled(&self, identity: &Identity, checked: &Checked, shards: u16) -> Result<()> {
        if let Some(claim) = checked.claims.first() {
            let at = claim.at;
            let detail = format!("account {identity:?} has a state of record {at}, which is not its");
            return Err(self.wrong(claim.source, detail));
        }
        if !checked.account.exists() {
            return Ok(());
        }
        let shard = usize::from(identity.shard(shards));
        for (index, source) in self.sources.iter().enumerate() {
            if checked.first <= source.up_to[shard] && checked.claimed_by & 1 << index == 0 {
                let up_to = source.up_to[shard];
                let detail = format!("it covers shard {shard} up to record {up_to} and lacks account {identity:?}");
                return Err(self.wrong(index, detail));
            }
        }
        Ok(())
    }
}

impl Checked {
    /// Holds the claims of the record just applied against the replay; returns how many of the store's, and which
    /// snapshots', were equal.
    pub(super) fn settle_claims(
        &mut self,
        claims: &Claims,
    ) -> std::result::Result<(u64, SmallVec<[usize; 1]>), String> {
        let (mut of_store, mut of_snapshots) = (0, SmallVec::new());
        let at = self.account.applied();
        if !self.claims.iter().any(|claim| claim.at == at) {
            return Ok((of_store, of_snapshots));
        }
        let mut replayed = Vec::new();
        self.account.encode(&mut replayed);
        let hash = xxh3_128(&replayed);
        for claim in self.claims.iter().filter(|claim| claim.at == at) {
            if claim.hash != hash {
                return Err(format!("{} has another state at this record", claims.name_of(claim.source)));
            }
            if claims.is_store(claim.source) {
                of_store += 1;
            } else {
                of_snapshots.push(claim.source);
            }
        }
        self.claims.retain(|claim| claim.at != at);
        Ok((of_store, of_snapshots))
    }
}

impl ShardTotals {
    /// Holds the totals that are claimed at this sequence against the replay.
    pub(super) fn settle_claims(&mut self, at: u64, claims: &Claims) -> std::result::Result<(), String> {
        if let Some((source, ..)) = self.claims.iter().find(|(_, a, totals)| *a == at && *totals != self.replayed) {
            return Err(format!("{} has other totals at this record", claims.name_of(*source)));
        }
        self.claims.retain(|(_, a, _)| *a != at);
        Ok(())
    }
}

impl Verifier {
    /// Takes the base and every claim in.
    pub(super) fn begin(
        &mut self,
        (disk, data, snapshot): (&Disk, &Path, Option<&Path>),
        journal: (u128, u16),
        store: Option<&Store>,
        (removed, last): (&[u64], &[u64]),
    ) -> Result<()> {
        // The one that was named is among those that are looked at, however many the folder has.
        let named = snapshot.map(Path::to_path_buf);
        let paths: Vec<PathBuf> = named.into_iter().chain(snapshots::list(disk, data)?).collect();
        let mut usable: Vec<(PathBuf, SnapshotSummary)> = Vec::new();
        for path in paths.into_iter().take(SOURCES_MAX - 1) {
            let summary = snapshots::read(disk, &path, journal, &mut |_| Ok(()))?;
            if summary.covers(removed) {
                usable.push((path, summary));
            } else {
                self.report.snapshots_unused.push(path);
            }
        }
        // The one that covers least leaves most to replay.
        usable.sort_by_key(|(_, summary)| summary.up_to.iter().sum::<u64>());
        if !self.from_the_beginning && !usable.is_empty() {
            let (path, _) = usable.remove(0);
            let summary = snapshots::read(disk, &path, journal, &mut |row| self.take_base(row, &path, last))?;
            self.from_the_beginning = true;
            self.report.base = Some((path, summary.accounts));
        }
        if let Some(store) = store {
            self.claim_store(store, last)?;
        }
        for (path, summary) in usable {
            self.claims.sources.push(Source { path: path.clone(), up_to: summary.up_to, equal: 0 });
            let (source, mut shard) = (self.claims.sources.len() - 1, 0);
            snapshots::read(disk, &path, journal, &mut |row| match row {
                SnapshotRow::Shard { shard: next, state } => {
                    shard = next;
                    self.claim_totals(source, shard, &state, last)
                }
                SnapshotRow::Account { identity, blob } => self.claim(source, shard, &identity, &blob, last),
                SnapshotRow::Meta { .. } | SnapshotRow::Fact { .. } | SnapshotRow::Key(_) => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Takes what the state store has, to be held against the replay when it comes to the same sequence.
    pub(super) fn claim_store(&mut self, store: &Store, last: &[u64]) -> Result<()> {
        let mut up_to = Vec::with_capacity(last.len());
        for shard in (0u16..).take(last.len()) {
            up_to.push(store.shard_state(shard)?.map_or(0, |state| state.replay_start.saturating_sub(1)));
        }
        self.claims.sources.push(Source { path: STORE.into(), up_to, equal: 0 });
        let source = self.claims.sources.len() - 1;
        for shard in (0u16..).take(last.len()) {
            if let Some(state) = store.shard_state(shard)? {
                self.claim_totals(source, shard, &state, last)?;
            }
            store.accounts(shard, None, &mut |identity, blob| self.claim(source, shard, &identity, blob, last))?;
        }
        Ok(())
    }

    fn claim_totals(&mut self, source: usize, shard: u16, state: &ShardState, last: &[u64]) -> Result<()> {
        let wrong = |detail: String| self.claims.wrong(source, format!("shard {shard}: {detail}"));
        let last = last.get(usize::from(shard)).copied().unwrap_or(0);
        if state.totals_sequence > last || state.replay_start > last + 1 {
            return Err(wrong(format!("its checkpoint is ahead of the journal, which ends at {last}")));
        }
        let (_, totals) = decode_state(&state.totals).map_err(|e| wrong(e.to_string()))?;
        let replay = &mut self.shards[usize::from(shard)];
        if state.totals_sequence < replay.base || self.report.lacks_base() {
            // Of a record before the base.
            return Ok(());
        }
        replay.claims.push((source, state.totals_sequence, totals));
        if state.totals_sequence == replay.base {
            let settled = replay.settle_claims(replay.base, &self.claims);
            return settled.map_err(|detail| self.claims.wrong(source, format!("shard {shard}: {detail}")));
        }
        Ok(())
    }

    fn claim(&mut self, source: usize, shard: u16, identity: &Identity, blob: &[u8], last: &[u64]) -> Result<()> {
        let wrong = |detail: &str| self.claims.wrong(source, format!("account {identity:?} in shard {shard} {detail}"));
        let claimed = Account::decode(identity, blob).map_err(|e| wrong(&e.to_string()))?;
        let at = claimed.applied();
        if at > last.get(usize::from(shard)).copied().unwrap_or(0) {
            return Err(wrong("is ahead of the journal"));
        }
        let checked = self.accounts.entry_ref(identity).or_insert_with(Checked::blank);
        checked.claimed_by |= 1 << source;
        if at < checked.account.applied() {
            // Of a record before the base's.
            return Ok(());
        }
        checked.claims.push(Claim { source, at, hash: xxh3_128(blob) });
        if at == checked.account.applied() {
            let equal = checked.settle_claims(&self.claims);
            let (of_store, of_snapshots) =
                equal.map_err(|detail| self.claims.wrong(source, format!("account {identity:?}: {detail}")))?;
            self.report.blobs += of_store;
            of_snapshots.into_iter().for_each(|source| self.claims.count(source));
        }
        Ok(())
    }

    /// Takes a row of the snapshot that the replay begins with.
    fn take_base(&mut self, row: SnapshotRow, path: &Path, last: &[u64]) -> Result<()> {
        let wrong = |detail: String| Error::Damaged { file: path.to_path_buf(), offset: 0, detail };
        match row {
            SnapshotRow::Shard { shard, state } => {
                let end = last.get(usize::from(shard)).copied().unwrap_or(0);
                if state.totals_sequence > end || state.replay_start > end + 1 {
                    return Err(wrong(format!("it is ahead of shard {shard} of the journal, which ends at {end}")));
                }
                let (_, replayed) = decode_state(&state.totals).map_err(|e| wrong(e.to_string()))?;
                let totals = ShardTotals { replayed, base: state.totals_sequence, claims: SmallVec::new() };
                self.shards[usize::from(shard)] = totals;
            }
            SnapshotRow::Account { identity, blob } => {
                let about = |detail: String| wrong(format!("account {identity:?}: {detail}"));
                let account = Account::decode(&identity, &blob).map_err(|e| about(e.to_string()))?;
                for version in account.program_versions() {
                    self.add_floor(identity.program(), &version.document).map_err(about)?;
                }
                let balances = account.balances();
                let shown = Shown { balances, sequence: account.sequence(), position: account.newest() };
                let checked = Checked {
                    points: balances.total + balances.pending,
                    last: Some(shown),
                    account,
                    ..Checked::blank()
                };
                self.accounts.insert(identity, checked);
            }
            SnapshotRow::Meta { .. } | SnapshotRow::Fact { .. } | SnapshotRow::Key(_) => {}
        }
        Ok(())
    }
}
