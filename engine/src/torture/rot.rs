//! Damage of a medium that was whole: it is noticed, or nothing is lost by it, or it lies in the last batch.

use std::path::Path;

use meed_schemas::ids::Position;

use super::auditor::Auditor;
use super::node::{DATA, FOLDER, Node};
use crate::disk::Disk;
use crate::disk::simulated::{Damage, Rot, SimulatedDisk};
use crate::journal::JournalReader;
use crate::random::mix;
use crate::verify;

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
    let Ok((reader, _)) = JournalReader::open(disk, Path::new(FOLDER)) else { return Ok(()) };
    let mut found = Vec::new();
    let Ok(first) = reader.first_batch() else { return Ok(()) };
    let scanned = reader.scan_batches(first, &mut |batch| {
        found.extend(batch.records().map(|record| (record.position.to_u64(), record.payload.to_vec())));
        Ok(())
    });
    if scanned.is_err() {
        return Ok(());
    }
    let Ok(removed) = reader.removed_sequence() else { return Ok(()) };
    let is_kept = |position: Position| position.sequence() > removed[usize::from(position.shard())];
    let decided = auditor.records().filter(|(record, _)| is_kept(record.position));
    let decided = decided.map(|(record, bytes)| (record.position.to_u64(), bytes.to_vec()));
    let mut decided: Vec<_> = decided.collect();
    found.sort_unstable();
    decided.sort_unstable();
    if found != decided {
        return Err(format!("a journal of {} records is accepted with other {}", decided.len(), found.len()));
    }
    Ok(())
}

/// What the journal of a node that does not run holds, per shard: the sequences at its end, and those up to which it
/// says itself that it is durable. Between them is the last batch, or what a start has copied and not yet noted:
/// damage there is like a torn write. `None` when there is no journal yet.
pub(super) fn ends(disk: &SimulatedDisk) -> Option<[Vec<u64>; 2]> {
    disk.end_process();
    let (reader, _) = JournalReader::open(disk.disk(), Path::new(FOLDER)).ok()?;
    let mut last = reader.removed_sequence().ok()?;
    let (mut ends, mut claimed) = (Vec::new(), 0);
    let scanned = reader.scan_batches(reader.first_batch().ok()?, &mut |batch| {
        ends.push((batch.header.sequence, last.clone()));
        claimed = batch.header.durable_up_to.max(claimed);
        for record in batch.records() {
            last[usize::from(record.position.shard())] = record.position.sequence();
        }
        Ok(())
    });
    scanned.ok()?;
    let durable = ends.into_iter().find(|(batch, _)| *batch > claimed).map_or_else(|| last.clone(), |(_, end)| end);
    Some([last, durable])
}

/// Whether what a damaged journal has lost lies behind what it said is durable.
pub(super) fn is_torn(disk: &SimulatedDisk, [_, durable]: &[Vec<u64>; 2]) -> bool {
    disk.end_process();
    let opened = JournalReader::open(disk.disk(), Path::new(FOLDER));
    opened.is_ok_and(|(_, found)| is_behind(&found.last_sequence, durable))
}

fn is_behind(found: &[u64], durable: &[u64]) -> bool {
    found.iter().zip(durable).all(|(found, durable)| found >= durable)
}

/// What became of a damage when a node was started on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was noticed, or was taken for a torn last batch: the medium has to be put right.
    Known,
    /// Everything is there, and nothing complains.
    Harmless,
}

/// Judges a node that was started, or was not, on a damaged journal that had these [`ends`].
///
/// # Errors
/// The damage was accepted, and something is lost or changed by it; or the complaint does not name the file.
pub(super) fn trial(
    disk: Disk,
    started: crate::error::Result<Node>,
    damage: &Damage,
    [last, durable]: &[Vec<u64>; 2],
    auditor: &Auditor,
) -> Result<Fate, String> {
    let named = |found: String| {
        let is_named = found.contains(&damage.file);
        if is_named { Ok(Fate::Known) } else { Err(format!("a damage of {} is told as: {found}", damage.file)) }
    };
    let node = match started {
        Ok(node) => node,
        Err(fault) => return named(fault.to_string()),
    };
    let found = &node.recovered.last_sequence;
    if found != last {
        return match is_behind(found, durable) {
            true => Ok(Fate::Known),
            false => Err(format!("a journal that ended at {last:?} is accepted with its end at {found:?}")),
        };
    }
    for (record, bytes) in auditor.records() {
        let is_there = last[usize::from(record.position.shard())] >= record.position.sequence();
        let read = node.reader.read(record.position);
        if is_there && read.is_ok_and(|read| read.is_some_and(|read| *read != *bytes)) {
            return Err(format!("record {} is read as another one", record.position));
        }
    }
    if let Err(fault) = verify::check(&disk, Path::new(DATA), &node.reader, Some(&node.store), None, found) {
        return named(fault.to_string());
    }
    let mut wrong = None;
    let from = node.reader.removed_sequence().map_err(|fault| fault.to_string())?;
    let scanned = node.reader.scan(&from, &|_| true, &mut |position, payload| {
        if auditor.bytes(position) != Some(payload) {
            wrong = Some(format!("record {position} is accepted as another one"));
        }
        Ok(())
    });
    match (scanned, wrong) {
        (Err(fault), _) => Err(format!("verify finds nothing, and the journal cannot be read: {fault}")),
        (Ok(()), Some(wrong)) => Err(wrong),
        (Ok(()), None) => Ok(Fate::Harmless),
    }
}
