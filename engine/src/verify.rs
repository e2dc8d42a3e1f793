//! The offline check of a data folder: replays the journal and holds it against itself, against the account rules'
//! invariants, against the state store and against every snapshot.
//!
//! Checked: every checksum and the chain of batches; dense positions and account sequences and their
//! back-pointers (invariant 5); the balances that records show, Σ points = total + pending per account and
//! per program (2); no available balance below the program's floor (3); the states and totals of the store and of
//! the snapshots equal to the replay at their sequence, hash for hash (6). The numbers are those of the README's
//! list.
//!
//! The replay begins with nothing while the journal is whole. When its early segments are gone it begins with a
//! snapshot, and 2, 3, 5 and 6 are checked from that on; without a snapshot that meets the segments only what an
//! account has shown since its first record that is there can be checked, and [`VerifyReport`] says so.

mod claims;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hashbrown::{HashMap, HashSet};
use meed_schemas::ids::Identity;
use meed_schemas::program::Document;
use meed_schemas::record::{Balances, Detail, Record};
use smallvec::SmallVec;

use self::claims::{Claim, Claims};
use crate::account::{Account, Totals};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::{BatchView, JournalReader};
use crate::read_state::ReadState;
use crate::secrets::Secrets;
use crate::store::Store;

/// What was checked.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Batches, each with its checksum and its place in the chain.
    pub batches: u64,
    /// Records, each decoded, and applied unless the base has it.
    pub records: u64,
    /// Accounts at the end that were replayed.
    pub accounts: u64,
    /// States of the store that were equal to the replay.
    pub blobs: u64,
    /// Snapshots that were held against the replay, and how many of their states were equal to it.
    pub snapshots: Vec<(PathBuf, u64)>,
    /// Snapshots that end before the journal begins, so that nothing can be held against them.
    pub snapshots_unused: Vec<PathBuf>,
    /// The first batch that is there; 1 while the journal is whole.
    pub first_batch: u64,
    /// The snapshot that the replay began with, and the accounts in it.
    pub base: Option<(PathBuf, u64)>,
    /// Accounts whose first records are gone, and no snapshot has them: they were not replayed.
    pub accounts_unchecked: u64,
    /// Totals per program and wallet at the end; none where accounts were not replayed.
    pub totals: Totals,
    /// Where a torn tail begins that the next start will cut, if there is one.
    pub torn_tail: Option<(PathBuf, u64)>,
}

impl VerifyReport {
    /// Whether early segments are gone and no snapshot stands in for them.
    pub fn lacks_base(&self) -> bool {
        self.first_batch > 1 && self.base.is_none()
    }
}

/// An account in the replay.
struct Checked {
    account: Account,
    /// Whether its state is known: from its first record on, or from the base.
    known: bool,
    /// Σ points of its records.
    points: i64,
    last: Option<Shown>,
    /// Shard sequence of its first record; 0 for one of the base.
    first: u64,
    /// States that are claimed of it and not reached yet.
    claims: SmallVec<[Claim; 1]>,
    /// Which of the stores and snapshots have a state of it, by bit.
    claimed_by: u64,
}

/// What the account's last effect showed.
#[derive(Clone, Copy)]
struct Shown {
    balances: Balances,
    sequence: u64,
    position: u64,
}

struct Verifier {
    accounts: HashMap<Identity, Checked>,
    floors: HashMap<Box<str>, i64>,
    shards: Vec<ShardTotals>,
    claims: Claims,
    /// Accounts begin with their first record; false where they may have records that are gone.
    from_the_beginning: bool,
    report: VerifyReport,
}

/// Totals of a shard in the replay, and those that are claimed until they are reached.
#[derive(Default)]
struct ShardTotals {
    replayed: Totals,
    /// Sequence of the base's totals.
    base: u64,
    claims: SmallVec<[(usize, u64, Totals); 1]>,
}

/// Verifies the data folder of a node that does not run, with its snapshots and perhaps one more.
///
/// # Errors
/// The first violation, as [`Error::Damaged`] with file, offset and account; or that the folder cannot be
/// read.
pub fn verify(data: &Path, snapshot: Option<&Path>) -> Result<VerifyReport> {
    let disk = Disk::default();
    let folder = FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock_to_read(data)?;
    let (reader, recovered) = JournalReader::open(disk.clone(), &data.join("journal"))?;
    // Without them no key and no alias is found again.
    Secrets::load_beside(data, folder.journal_id, recovered.last_batch > 0)?;
    let cut = recovered.cut.as_ref().map(|cut| (cut.file.clone(), cut.offset));
    let state = data.join("state");
    let store = match state.exists() {
        true => Some(ReadState::open(&state, folder.journal_id)?),
        false => None,
    };
    let report =
        check(&disk, data, &reader, store.as_ref().map(|state| &state.store), snapshot, &recovered.last_sequence)?;
    Ok(VerifyReport { torn_tail: cut, ..report })
}

/// Verifies a journal that ends at these sequences of its shards, the store beside it, which holds nothing beyond,
/// the snapshots in the data folder, and perhaps one more.
///
/// # Errors
/// As [`verify`].
pub fn check(
    disk: &Disk,
    data: &Path,
    reader: &JournalReader,
    store: Option<&Store>,
    snapshot: Option<&Path>,
    last_sequence: &[u64],
) -> Result<VerifyReport> {
    let (removed, first_batch) = (reader.removed_sequence()?, reader.first_batch()?);
    let mut verifier = Verifier::new(reader.shards(), first_batch);
    let identity = (reader.journal_id(), reader.shards());
    verifier.begin((disk, data, snapshot), identity, store, (&removed, last_sequence))?;
    reader.scan_batches(first_batch, &mut |batch| verifier.batch(batch))?;
    verifier.finish()
}

impl Checked {
    fn blank() -> Self {
        Self {
            account: Account::blank(),
            known: true,
            points: 0,
            last: None,
            first: 0,
            claims: SmallVec::new(),
            claimed_by: 0,
        }
    }
}

impl Verifier {
    /// Of a journal with so many shards, whose first batch is this.
    fn new(shards: u16, first_batch: u64) -> Self {
        Self {
            accounts: HashMap::new(),
            floors: HashMap::new(),
            shards: (0..shards).map(|_| ShardTotals::default()).collect(),
            claims: Claims::default(),
            from_the_beginning: first_batch == 1,
            report: VerifyReport { first_batch, ..VerifyReport::default() },
        }
    }

    fn batch(&mut self, batch: &BatchView<'_>) -> Result<()> {
        self.report.batches += 1;
        let mut touched = HashSet::new();
        for view in batch.records() {
            let record = view.decode()?;
            let applied = self.record(&record).map_err(|detail| Error::Damaged {
                file: batch.file.into(),
                offset: view.offset,
                detail: format!("record {} of account {:?}: {detail}", record.position, record.identity),
            })?;
            if applied {
                touched.insert(record.identity);
            }
        }
        for identity in &touched {
            if let Err(detail) = self.at_boundary(identity) {
                let detail = format!("account {identity:?}: {detail}");
                return Err(Error::Damaged { file: batch.file.into(), offset: batch.offset, detail });
            }
        }
        Ok(())
    }

    /// Takes a record; false when its effect is not in the replay, or was already.
    fn record(&mut self, record: &Record) -> std::result::Result<bool, String> {
        self.report.records += 1;
        if let Detail::Program { document } = &record.detail {
            self.add_floor(record.identity.program(), document)?;
        }
        self.totals(record)?;
        let at = record.position.sequence();
        let checked = self.accounts.entry_ref(&record.identity).or_insert_with(Checked::blank);
        if at <= checked.account.applied() {
            return Ok(false);
        }
        if checked.account.applied() == 0 && checked.last.is_none() && checked.first == 0 {
            checked.first = at;
            let is_first = if record.kind.is_effect() { record.sequence == 1 } else { record.previous == 0 };
            checked.known = self.from_the_beginning || is_first;
        }
        if record.kind.is_effect() {
            checked.follow(record)?;
        }
        if !checked.known {
            return Ok(false);
        }
        checked.account.apply(record);
        // What was evicted is in the store's keeping; the blob does not have it.
        checked.account.drop_overlay(u64::MAX);
        let equal = checked.settle_claims(&self.claims)?;
        self.report.blobs += equal.0;
        for source in equal.1 {
            self.claims.count(source);
        }
        Ok(true)
    }

    fn add_floor(&mut self, program: &str, document: &str) -> std::result::Result<(), String> {
        let document = Document::parse(document.as_bytes()).map_err(|e| format!("{} {}", e.field, e.detail))?;
        let floor = self.floors.entry(program.into()).or_default();
        *floor = (*floor).min(document.negative_balance.floor());
        Ok(())
    }

    fn totals(&mut self, record: &Record) -> std::result::Result<(), String> {
        let shard = &mut self.shards[record.position.shard() as usize];
        if record.position.sequence() > shard.base {
            shard.replayed.add(record);
            shard.settle_claims(record.position.sequence(), &self.claims)?;
        }
        Ok(())
    }

    /// What has to hold between decisions; all records of one lie in one batch.
    fn at_boundary(&self, identity: &Identity) -> std::result::Result<(), String> {
        let Some(checked) = self.accounts.get(identity) else { return Ok(()) };
        let balances = checked.account.balances();
        if let Some(last) = checked.last
            && last.balances != balances
        {
            return Err(format!("its last record shows {:?}, the replay gives {balances:?}", last.balances));
        }
        if checked.points != balances.total + balances.pending {
            let sum = checked.points;
            return Err(format!(
                "Σ points is {sum}, total and pending are {} and {}",
                balances.total, balances.pending
            ));
        }
        // Without a base the program's record may be gone.
        let floor = match self.floors.get(identity.program()) {
            None if self.report.lacks_base() => return Ok(()),
            floor => floor.copied().unwrap_or(0),
        };
        if balances.available() < floor {
            return Err(format!("{} points are available, the floor is {floor}", balances.available()));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<VerifyReport> {
        let lacks_base = self.report.lacks_base();
        for (identity, checked) in &self.accounts {
            // Without a base, also those that only a store has.
            if !checked.known || (lacks_base && checked.account.applied() == 0) {
                self.report.accounts_unchecked += 1;
                continue;
            }
            self.claims.check_settled(identity, checked, self.shards.len() as u16)?;
            self.report.accounts += u64::from(checked.account.exists());
        }
        if !lacks_base {
            self.check_totals()?;
        }
        self.report.snapshots = self.claims.counted();
        Ok(self.report)
    }

    fn check_totals(&mut self) -> Result<()> {
        let mut outstanding: BTreeMap<&str, i128> = BTreeMap::new();
        for (identity, checked) in &self.accounts {
            let balances = checked.account.balances();
            *outstanding.entry(identity.program()).or_default() += i128::from(balances.total + balances.pending);
        }
        for shard in &self.shards {
            if let Some((source, at, _)) = shard.claims.iter().find(|(_, at, _)| *at > 0) {
                let detail = format!("there are totals of a record {at} that the journal does not have");
                return Err(self.claims.wrong(*source, detail));
            }
            self.report.totals.merge(&shard.replayed);
        }
        for (program, _, totals) in self.report.totals.iter() {
            let sum = outstanding.get(program).copied().unwrap_or(0);
            if totals.outstanding() != sum {
                let totals = totals.outstanding();
                let detail = format!("program {program}: totals give {totals} outstanding, accounts {sum}");
                return Err(Error::Damaged { file: "state".into(), offset: 0, detail });
            }
        }
        Ok(())
    }
}

impl Checked {
    /// Holds an effect against the one before it.
    fn follow(&mut self, record: &Record) -> std::result::Result<(), String> {
        let before = self.last.map_or((0, 0), |l| (l.sequence, l.position));
        if self.known || self.last.is_some() {
            let (sequence, position) = before;
            if record.sequence != sequence + 1 {
                return Err(format!("its sequence is {}, after {sequence}", record.sequence));
            }
            if record.previous != position {
                return Err(format!("it points back to {}, the previous effect is {position}", record.previous));
            }
        }
        self.points = self.points.checked_add(record.points).ok_or("Σ points overflows")?;
        self.last =
            Some(Shown { balances: record.balances, sequence: record.sequence, position: record.position.sequence() });
        Ok(())
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
