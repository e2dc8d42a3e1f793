//! Kills and power cuts at every change of the disk, while writing and while recovering.

use super::*;
use crate::disk::faulty::FaultyDisk;

/// A node's life up to its first fault: the sequences that were acknowledged, and those that were written.
#[derive(Clone, Debug)]
struct Life {
    acknowledged: Vec<u64>,
    written: Vec<u64>,
}

impl Life {
    fn new() -> Self {
        Self { acknowledged: vec![0; 4], written: vec![0; 4] }
    }
}

/// Opens the journal and writes until a fault or the end.
fn live(disk: &FaultyDisk, dir: &Path, seed: u64, before: &Life, batches: u64) -> Life {
    let mut random = Random(seed);
    let mut life = before.clone();
    let Ok((mut journal, _, recovered)) = Journal::open(disk.disk(), dir, options()) else {
        return life;
    };
    life.written = recovered.last_sequence.clone();
    // What recovery returned is what retries are answered from.
    life.acknowledged = recovered.last_sequence;
    for batch in 0..batches {
        let records = 1 + random.below(8);
        let mut written = life.written.clone();
        let result = write(&mut journal, &mut random, &mut written, records);
        // A write that failed may have reached the disk all the same.
        life.written = written;
        if result.is_err() || (batch % 3 != 1 && journal.sync().is_err()) {
            return life;
        }
        if batch % 3 != 1 {
            life.acknowledged = life.written.clone();
        }
        if batch % 7 == 6 && journal.mark_durable(BatchSequence::MAX).is_err() {
            return life;
        }
        if batch % 4 == 3 && journal.prepare_step().is_err() {
            return life;
        }
    }
    life
}

/// Opens what a crash left and checks: everything acknowledged is there, nothing that was never written.
fn recover(dir: &Path, life: &Life, context: &str) -> Vec<u64> {
    let (journal, reader, recovered) =
        Journal::open(Disk::default(), dir, options()).unwrap_or_else(|fault| panic!("{context}: {fault}"));
    let found = recovered.last_sequence;
    for shard in 0..usize::from(SHARDS) {
        assert!(found[shard] >= life.acknowledged[shard], "{context}: lost {life:?} {found:?}");
        assert!(found[shard] <= life.written[shard], "{context}: invented {life:?} {found:?}");
    }
    check(&reader, &found);
    drop(journal);
    found
}

#[test]
fn nothing_acknowledged_is_lost_wherever_the_process_stops() {
    for cut_power in [false, true] {
        for stop_after in 0.. {
            let seed = 1_000 + stop_after;
            let context = format!("seed {seed}, power cut {cut_power}");
            let dir = tempfile::tempdir().unwrap();
            let disk = FaultyDisk::default();
            disk.stop_after(stop_after);
            let life = live(&disk, dir.path(), seed, &Life::new(), 40);
            if cut_power {
                let mut random = Random(seed);
                disk.cut_power(|| random.below(2) == 0);
            }
            recover(dir.path(), &life, &context);
            if disk.changes() < stop_after {
                break;
            }
        }
    }
}

#[test]
fn recovery_may_be_interrupted_anywhere_and_again() {
    let origin = tempfile::tempdir().unwrap();
    let life = {
        let disk = FaultyDisk::default();
        let mut life = live(&disk, origin.path(), 11, &Life::new(), 30);
        // The last batches are in the page cache only, and a torn one follows.
        let (mut journal, ..) = open(origin.path()).unwrap();
        life.written = journal.reader().last_sequence();
        write(&mut journal, &mut Random(12), &mut life.written, 4).unwrap();
        journal.sync().unwrap();
        life.acknowledged = life.written.clone();
        write(&mut journal, &mut Random(13), &mut life.written, 4).unwrap();
        write(&mut journal, &mut Random(14), &mut life.written, 4).unwrap();
        life
    };
    for cut_power in [false, true] {
        for stop_after in 0.. {
            let seed = 2_000 + stop_after;
            let context = format!("stopped after {stop_after} changes, power cut {cut_power}");
            let dir = tempfile::tempdir().unwrap();
            copy_folder(origin.path(), dir.path());
            let mut random = Random(seed);
            let disk = FaultyDisk::default();
            let mut crashes = 0;
            for round in 0..3 {
                disk.stop_after(stop_after + round * 3);
                let opened = Journal::open(disk.disk(), dir.path(), options());
                crashes += u64::from(opened.is_err());
                if cut_power {
                    disk.cut_power(|| random.below(2) == 0);
                }
            }
            let found = recover(dir.path(), &life, &context);
            assert_eq!(found, life.written, "{context}: what the copies' source had is still there");
            recover(dir.path(), &Life { acknowledged: found, ..life.clone() }, &context);
            if crashes == 0 {
                break;
            }
        }
    }
}

#[test]
fn what_a_recovery_returned_survives_a_power_cut() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let mut last = vec![0; 4];
        let (mut journal, ..) = Journal::open(disk.disk(), dir.path(), options()).unwrap();
        fill(&mut journal, &mut Random(seed), &mut last, 5);
        write(&mut journal, &mut Random(seed + 1), &mut last, 3).unwrap();
        // Killed before the sync; the page cache stays, and the next start reads the batch from it.
        drop(journal);
        let (journal, reader, recovered) = Journal::open(disk.disk(), dir.path(), options()).unwrap();
        assert_eq!((&recovered.last_sequence, recovered.copied_batches), (&last, 1));
        check(&reader, &last);
        drop((journal, reader));
        let mut random = Random(seed);
        disk.cut_power(|| random.below(2) == 0);
        let (_, reader, _) = open(dir.path()).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        check(&reader, &last);
    }
}

#[test]
fn two_lives_with_crashes_in_both_keep_everything() {
    for seed in 0..150 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let mut random = Random(seed);
        let mut life = Life::new();
        for round in 0..5 {
            disk.stop_after(10 + random.below(120));
            life = live(&disk, dir.path(), seed * 10 + round, &life, 40);
            if random.below(2) == 0 {
                disk.cut_power(|| random.below(3) == 0);
            }
            // Half of the time the next life recovers by itself.
            if random.below(2) == 0 {
                let found = recover(dir.path(), &life, &format!("seed {seed}, round {round}"));
                life = Life { acknowledged: found.clone(), written: found };
            }
        }
        disk.stop_after(u64::MAX / 2);
        let (_, reader, recovered) = Journal::open(disk.disk(), dir.path(), options()).unwrap();
        let mut pairs = recovered.last_sequence.iter().zip(&life.acknowledged);
        assert!(pairs.all(|(found, acknowledged)| found >= acknowledged), "seed {seed}");
        check(&reader, &recovered.last_sequence);
    }
}
