//! The offline check of a data folder: replays the whole journal from nothing and holds it against itself,
//! against the account rules' invariants, and against the state store.
//!
//! Checked: every checksum and the chain of batches; dense positions and account sequences and their
//! back-pointers (invariant 5); the balances that records show, Σ points = total + pending per account and
//! per program (2); no available balance below the program's floor (3); the store's blobs and totals equal
//! to the replay at their sequence, byte for byte (6). The numbers are those of the README's list.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hashbrown::{HashMap, HashSet};
use meed_schemas::codec;
use meed_schemas::ids::Identity;
use meed_schemas::program::Document;
use meed_schemas::record::{Balances, Detail, Record};

use crate::account::{Account, Totals};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::{BatchView, Floor, JournalReader};
use crate::shard::decode_state;
use crate::store::{Store, StoreOptions};

/// What was checked.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Batches, each with its checksum and its place in the chain.
    pub batches: u64,
    /// Records, each decoded and applied.
    pub records: u64,
    /// Accounts at the end.
    pub accounts: u64,
    /// Blobs of the store that were equal to the replay.
    pub blobs: u64,
    /// Totals per program and wallet at the end.
    pub totals: Totals,
    /// Where a torn tail begins that the next start will cut, if there is one.
    pub torn_tail: Option<(PathBuf, u64)>,
}

/// An account in the replay.
struct Checked {
    account: Account,
    /// Σ points of its records.
    points: i64,
    last: Option<Shown>,
    /// Blob of the store that is not reached yet.
    stored: Option<(u64, Vec<u8>)>,
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
    report: VerifyReport,
}

/// Totals of a shard in the replay, and those of the store until they are reached.
#[derive(Default)]
struct ShardTotals {
    replayed: Totals,
    stored: Option<(u64, Totals)>,
}

/// Verifies the data folder of a node that does not run.
///
/// # Errors
/// The first violation, as [`Error::Damaged`] with file, offset and account; or that the folder cannot be
/// read.
pub fn verify(data: &Path) -> Result<VerifyReport> {
    let disk = Disk::default();
    let folder = FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock(data)?;
    let (reader, recovered) = JournalReader::open(disk, &data.join("journal"), Floor::default())?;
    let store = Store::open(&data.join("state"), folder.journal_id.to_le_bytes(), &StoreOptions::default())?;
    let report = check(&reader, &store, &recovered.last_sequence)?;
    Ok(VerifyReport { torn_tail: recovered.cut.map(|cut| (cut.file, cut.offset)), ..report })
}

/// Verifies a journal that ends at these sequences of its shards, and the store beside it, which holds nothing beyond.
///
/// # Errors
/// As [`verify`].
pub fn check(reader: &JournalReader, store: &Store, last_sequence: &[u64]) -> Result<VerifyReport> {
    let mut verifier = Verifier {
        accounts: HashMap::new(),
        floors: HashMap::new(),
        shards: Vec::new(),
        report: VerifyReport::default(),
    };
    verifier.expect_store(store, last_sequence)?;
    reader.scan_batches(1, &mut |batch| verifier.batch(batch))?;
    verifier.finish()
}

impl Verifier {
    /// Takes what the store has, to be held against the replay when it comes to the same sequence.
    fn expect_store(&mut self, store: &Store, last_sequence: &[u64]) -> Result<()> {
        for (shard, &last) in (0u16..).zip(last_sequence) {
            let mut totals = ShardTotals::default();
            if let Some(state) = store.shard_state(shard)? {
                let wrong = |detail: String| in_store(format!("shard {shard}: {detail}"));
                if state.totals_sequence > last || state.replay_start > last + 1 {
                    return Err(wrong(format!("its checkpoint is ahead of the journal, which ends at {last}")));
                }
                let (_, stored) = decode_state(&state.totals).map_err(|e| wrong(e.to_string()))?;
                totals.stored = Some((state.totals_sequence, stored));
            }
            self.shards.push(totals);
            store.accounts(shard, None, &mut |identity, blob| {
                let wrong = |detail: &str| in_store(format!("account {identity:?} in shard {shard} {detail}"));
                let stored = Account::decode(&identity, blob).map_err(|e| wrong(&e.to_string()))?;
                if stored.applied() > last {
                    return Err(wrong("is ahead of the journal"));
                }
                let checked = Checked {
                    account: Account::new(&identity),
                    points: 0,
                    last: None,
                    stored: Some((stored.applied(), blob.to_vec())),
                };
                self.accounts.insert(identity.clone(), checked);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn batch(&mut self, batch: &BatchView<'_>) -> Result<()> {
        self.report.batches += 1;
        let mut touched = HashSet::new();
        for view in batch.records() {
            let at = |detail: String| Error::Damaged { file: batch.file.into(), offset: view.offset, detail };
            let record =
                codec::decode(view.position, view.payload).map_err(|e| at(format!("record {}: {e}", view.position)))?;
            let outcome = self.record(&record);
            outcome.map_err(|detail| {
                at(format!("record {} of account {:?}: {detail}", record.position, record.identity))
            })?;
            touched.insert(record.identity);
        }
        for identity in &touched {
            if let Err(detail) = self.at_boundary(identity) {
                let detail = format!("account {identity:?}: {detail}");
                return Err(Error::Damaged { file: batch.file.into(), offset: batch.offset, detail });
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> std::result::Result<(), String> {
        self.report.records += 1;
        if let Detail::Program { document } = &record.detail {
            let document = Document::parse(document.as_bytes()).map_err(|e| format!("{} {}", e.field, e.detail))?;
            let floor = self.floors.entry(record.identity.program().into()).or_default();
            *floor = (*floor).min(document.negative_balance.floor());
        }
        let checked = self.accounts.entry_ref(&record.identity).or_insert_with(|| Checked {
            account: Account::new(&record.identity),
            points: 0,
            last: None,
            stored: None,
        });
        if record.kind.is_effect() {
            let (sequence, position) = checked.last.map_or((0, 0), |l| (l.sequence, l.position));
            if record.sequence != sequence + 1 {
                return Err(format!("its sequence is {}, after {sequence}", record.sequence));
            }
            if record.previous != position {
                return Err(format!("it points back to {}, the previous effect is {position}", record.previous));
            }
            checked.points = checked.points.checked_add(record.points).ok_or("Σ points overflows")?;
            checked.last = Some(Shown {
                balances: record.balances,
                sequence: record.sequence,
                position: record.position.sequence(),
            });
        }
        checked.account.apply(record);
        // What was evicted is in the store's keeping; the blob does not have it.
        checked.account.drop_overlay(u64::MAX);
        if let Some((at, blob)) = &checked.stored
            && *at == record.position.sequence()
        {
            let mut replayed = Vec::new();
            checked.account.encode(&mut replayed);
            if replayed != *blob {
                return Err("the state store has another state at this record".into());
            }
            checked.stored = None;
            self.report.blobs += 1;
        }
        self.totals(record)
    }

    fn totals(&mut self, record: &Record) -> std::result::Result<(), String> {
        let shard = &mut self.shards[record.position.shard() as usize];
        shard.replayed.add(record);
        if let Some((at, stored)) = &shard.stored
            && *at == record.position.sequence()
        {
            if *stored != shard.replayed {
                return Err("the state store has other totals at this record".into());
            }
            shard.stored = None;
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
        let floor = self.floors.get(identity.program()).copied().unwrap_or(0);
        if balances.available() < floor {
            return Err(format!("{} points are available, the floor is {floor}", balances.available()));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<VerifyReport> {
        for (identity, checked) in &self.accounts {
            if let Some((at, _)) = &checked.stored {
                return Err(in_store(format!("account {identity:?} has a state of record {at}, which is not its")));
            }
            self.report.accounts += u64::from(checked.account.exists());
        }
        let mut outstanding: BTreeMap<&str, i128> = BTreeMap::new();
        for (identity, checked) in &self.accounts {
            let balances = checked.account.balances();
            *outstanding.entry(identity.program()).or_default() += i128::from(balances.total + balances.pending);
        }
        for shard in &self.shards {
            if let Some((at, _)) = &shard.stored
                && *at > 0
            {
                return Err(in_store(format!("there are totals of a record {at} that the journal does not have")));
            }
            self.report.totals.merge(&shard.replayed);
        }
        for (program, _, totals) in self.report.totals.iter() {
            let sum = outstanding.get(program).copied().unwrap_or(0);
            if totals.outstanding() != sum {
                let totals = totals.outstanding();
                return Err(in_store(format!("program {program}: totals give {totals} outstanding, accounts {sum}")));
            }
        }
        Ok(self.report)
    }
}

fn in_store(detail: String) -> Error {
    Error::Damaged { file: "state".into(), offset: 0, detail }
}
