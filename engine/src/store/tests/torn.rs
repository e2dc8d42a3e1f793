//! What a power cut leaves of the journal of the rows: any mixture of the sectors that were not synced.

use std::fs;
use std::path::{Path, PathBuf};

use ::fjall::PersistMode;

use super::random::Random;
use super::*;
use crate::store::torn::{Ends, end_of_batches};

const SEED: u64 = 0x746f_726e;
const SECTOR_BYTES: usize = 512;
/// Batches that were synced, and those that follow them.
const SYNCED: u32 = 5;
const UNSYNCED: u32 = 6;
/// The row that has the number of the last batch.
const NUMBER: &str = "number";

/// A database whose last batches were not synced, as it lies on the disk of a process that was killed.
struct Killed {
    dir: TempDir,
    journal: PathBuf,
    /// The journal when its sync returned, and at the end.
    synced: Vec<u8>,
    written: Vec<u8>,
}

fn settings() -> DatabaseSettings {
    DatabaseSettings { purpose: "state", format: 1, journal_id: JOURNAL, cache_bytes: 1 << 20, open_files: 64 }
}

fn written(journal: &Path) -> Vec<u8> {
    let mut bytes = fs::read(journal).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    bytes
}

impl Killed {
    fn new(random: &mut Random) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let database = Database::open(&folder, &settings()).unwrap();
        let rows = database.keyspace("rows").unwrap();
        let mut images = [SYNCED, SYNCED + UNSYNCED].iter().scan(0, |from, to| {
            for number in *from..*to {
                let mut batch = database.inner.batch();
                batch.insert(&rows, NUMBER, number.to_le_bytes());
                for row in 0..1 + random.below(5) as u8 {
                    let value: Vec<u8> = (0..random.below(2_000)).map(|_| random.below(256) as u8).collect();
                    batch.insert(&rows, [row + 1; 20], value);
                }
                batch.commit().unwrap();
            }
            *from = *to;
            database.inner.persist(PersistMode::SyncData).unwrap();
            Some(written(&folder.join("0.jnl")))
        });
        let (synced, written) = (images.next().unwrap(), images.next().unwrap());
        Self { journal: folder.join("0.jnl"), dir, synced, written }
    }

    /// How far the journal was synced, in bytes.
    fn synced_bytes(&self) -> usize {
        self.synced.len()
    }

    /// Every sector as it was written, or as it was synced, as `is_written` says of its number.
    fn left(&self, mut is_written: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut content = self.written.clone();
        content.resize(content.len().next_multiple_of(SECTOR_BYTES) + 4 * SECTOR_BYTES, 0);
        for (number, sector) in content.chunks_mut(SECTOR_BYTES).enumerate() {
            if !is_written(number) {
                sector.fill(0);
                let synced = self.synced.chunks(SECTOR_BYTES).nth(number).unwrap_or_default();
                sector[..synced.len()].copy_from_slice(synced);
            }
        }
        content
    }

    /// The number of the last batch that a start over this journal finds.
    fn last_batch(&self, journal: &[u8]) -> Result<u32> {
        fs::write(&self.journal, journal).unwrap();
        let database = Database::open(&self.dir.path().join("state"), &settings())?;
        let rows = database.keyspace("rows")?;
        let number = rows.get(NUMBER).unwrap().unwrap();
        Ok(u32::from_le_bytes(number.as_ref().try_into().unwrap()))
    }
}

#[test]
fn whichever_sectors_a_power_cut_leaves_a_start_finds_whole_batches_and_all_that_were_synced() {
    let random = &mut Random(SEED);
    let killed = Killed::new(random);
    let first = killed.synced_bytes() / SECTOR_BYTES;
    let sectors = killed.written.len() / SECTOR_BYTES + 1;
    let missing = (first..sectors).map(|missing| killed.left(|sector| sector != missing));
    let mixtures: Vec<_> = (0..40).map(|_| killed.left(|_| random.below(2) == 0)).collect();
    let mut found = std::collections::BTreeSet::new();
    for (case, journal) in missing.chain(mixtures).enumerate() {
        let last = killed.last_batch(&journal).unwrap_or_else(|e| panic!("case {case}: {e}"));
        assert!((SYNCED - 1..SYNCED + UNSYNCED).contains(&last), "case {case}: {last}");
        found.insert(last);
    }
    assert!(found.len() > 2, "{found:?}");
}

#[test]
fn a_journal_that_was_cut_off_can_be_written_on_and_cut_off_again() {
    let random = &mut Random(SEED + 1);
    let killed = Killed::new(random);
    let hole = killed.synced_bytes() / SECTOR_BYTES + 2;
    assert!(killed.last_batch(&killed.left(|sector| sector != hole)).unwrap() < SYNCED + UNSYNCED - 1);
    let database = Database::open(&killed.dir.path().join("state"), &settings()).unwrap();
    let rows = database.keyspace("rows").unwrap();
    rows.insert(NUMBER, 77u32.to_le_bytes()).unwrap();
    drop((rows, database));
    // It is as long as what is in it now, and ends in a write that came through by half.
    let whole = fs::read(&killed.journal).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&killed.written[..40]);
    assert_eq!(killed.last_batch(&torn).unwrap(), 77);
    assert_eq!(fs::read(&killed.journal).unwrap(), whole);
}

#[test]
fn in_thousands_of_mixtures_nothing_that_was_synced_counts_as_torn() {
    let random = &mut Random(SEED + 2);
    for _ in 0..20 {
        let killed = Killed::new(random);
        for _ in 0..200 {
            match end_of_batches(&killed.left(|_| random.below(5) > 0)) {
                Ends::Whole => {}
                Ends::Torn { offset } => assert!(offset >= killed.synced_bytes()),
                damaged @ Ends::Damaged { .. } => panic!("{damaged:?}"),
            }
        }
    }
}

/// Every flipped bit is found, but in the numbers of batches, of which no hash is written.
#[test]
fn a_flipped_bit_is_damage_and_never_the_end_of_the_journal() {
    let random = &mut Random(SEED + 3);
    let killed = Killed::new(random);
    let whole = killed.left(|_| true);
    assert_eq!(end_of_batches(&whole), Ends::Whole);
    let mut unseen = 0;
    for byte in 0..killed.synced_bytes() {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << random.below(8);
        match end_of_batches(&flipped) {
            Ends::Whole => unseen += 1,
            Ends::Damaged { offset, .. } => assert!(offset <= byte, "{offset} {byte}"),
            torn @ Ends::Torn { .. } => panic!("byte {byte}: {torn:?}"),
        }
    }
    assert!(unseen >= 8 * SYNCED && unseen % 8 == 0, "{unseen} flips were not seen");
    let mut flipped = whole;
    flipped[killed.synced_bytes() - 1] ^= 1;
    let refused = killed.last_batch(&flipped).unwrap_err();
    assert!(matches!(refused, Error::Damaged { ref file, .. } if *file == killed.journal), "{refused}");
}
