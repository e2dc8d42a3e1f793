//! Damage of a medium that was whole: it is noticed, or nothing is lost by it.

use std::path::Path;

use super::auditor::Auditor;
use super::node::FOLDER;
use crate::disk::Disk;
use crate::disk::simulated::{Rot, SimulatedDisk};
use crate::journal::{Floor, JournalReader};
use crate::random::mix;

/// Damages that are tried on one journal, each by itself.
const PROBES: u64 = 6;

/// Damages the journal of a node that was stopped in order, and puts it right again.
///
/// # Errors
/// A damaged journal was accepted, and is not what was written.
pub(super) fn probe(disk: &SimulatedDisk, auditor: &Auditor, seed: u64) -> Result<(), String> {
    disk.end_process();
    let whole = disk.snapshot();
    for number in 0..PROBES {
        let rot = [Rot::Flip, Rot::Stale, Rot::Misdirected][number as usize % 3];
        let damage = disk.rot(rot, mix(seed.wrapping_add(number)));
        let judged = judge(disk.disk(), auditor);
        disk.restore(&whole);
        judged.map_err(|found| format!("{found}, after {rot:?} of {damage:?}"))?;
    }
    Ok(())
}

fn judge(disk: Disk, auditor: &Auditor) -> Result<(), String> {
    let Ok((reader, _)) = JournalReader::open(disk, Path::new(FOLDER), Floor::default()) else { return Ok(()) };
    let mut found = Vec::new();
    let scanned = reader.scan_batches(1, &mut |batch| {
        found.extend(batch.records().map(|record| (record.position.to_u64(), record.payload.to_vec())));
        Ok(())
    });
    if scanned.is_err() {
        return Ok(());
    }
    let decided = auditor.records().map(|(record, bytes)| (record.position.to_u64(), bytes.to_vec()));
    let mut decided: Vec<_> = decided.collect();
    found.sort_unstable();
    decided.sort_unstable();
    if found != decided {
        return Err(format!("a journal of {} records is accepted with other {}", decided.len(), found.len()));
    }
    Ok(())
}
