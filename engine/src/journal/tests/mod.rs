#![allow(clippy::unwrap_used)]

mod basics;
mod crash;
mod damage;
mod fixture;
mod limits;
mod properties;
mod upkeep;

use std::path::Path;

use meed_schemas::ids::Position;

use super::frame;
use super::*;
use crate::disk::Disk;
use crate::error::{Error, Result};

const SHARDS: u16 = 4;

/// Small segments, so that a few batches fill several.
fn options() -> JournalOptions {
    JournalOptions {
        segment_bytes: 8 * 1024,
        prepared_segments: 1,
        prepare: Prepare::Steps,
        new_journal_id: Some(0x6d65_6564),
        ..JournalOptions::new(SHARDS)
    }
}

fn open(dir: &Path) -> Result<(Journal, JournalReader, Recovered)> {
    Journal::open(Disk::default(), dir, options())
}

/// A generator whose seed a failing test prints.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Every record's payload follows from its position, so any record that is read can be judged.
fn payload(position: Position) -> Vec<u8> {
    let mut random = Random(position.to_u64());
    let length = random.below(200);
    (0..length).map(|_| random.next() as u8).collect()
}

/// Appends the next record of a shard to a part.
fn push(part: &mut (Vec<u8>, Vec<Run>), last: &mut [u64], shard: u16) {
    let sequence = last[usize::from(shard)] + 1;
    last[usize::from(shard)] = sequence;
    let position = Position::new(shard, sequence);
    let start = frame::begin(&mut part.0, position);
    part.0.extend_from_slice(&payload(position));
    frame::finish(&mut part.0, start).unwrap();
    match part.1.iter_mut().find(|run| run.shard == shard) {
        Some(run) => run.count += 1,
        None => part.1.push(Run { shard, first_sequence: sequence, count: 1 }),
    }
}

/// Two parts with `records` records, the lower half of the shards in the first.
fn parts(random: &mut Random, last: &mut [u64], records: u64) -> [(Vec<u8>, Vec<Run>); 2] {
    let mut parts = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for _ in 0..records {
        let shard = random.below(last.len() as u64) as u16;
        push(&mut parts[usize::from(usize::from(shard) >= last.len() / 2)], last, shard);
    }
    parts
}

/// Writes one batch; `last` moves with it.
fn write(journal: &mut Journal, random: &mut Random, last: &mut [u64], records: u64) -> Result<BatchSequence> {
    let parts = parts(random, last, records);
    journal.write(&parts.each_ref().map(|(bytes, runs)| Part { bytes, runs }))
}

/// Writes and syncs `batches` batches of 1–8 records; returns the last sequences.
fn fill(journal: &mut Journal, random: &mut Random, last: &mut [u64], batches: u64) {
    for _ in 0..batches {
        let records = 1 + random.below(8);
        write(journal, random, last, records).unwrap();
        journal.sync().unwrap();
    }
}

/// Checks that the journal holds exactly the records up to `last`, by every way of reading.
fn check(reader: &JournalReader, last: &[u64]) {
    assert_eq!(reader.last_sequence(), last);
    for (shard, &last) in last.iter().enumerate() {
        for sequence in 1..=last {
            let position = Position::new(shard as u16, sequence);
            assert_eq!(reader.read(position).unwrap(), Some(payload(position)), "{position}");
        }
        assert_eq!(reader.read(Position::new(shard as u16, last + 1)).unwrap(), None);
        assert_eq!(reader.read(Position::new(shard as u16, 0)).unwrap(), None);
    }
    check_batches(reader, last);
    check_scan(reader, &vec![0; last.len()], last, &|_| true);
}

fn check_batches(reader: &JournalReader, last: &[u64]) {
    let mut seen = vec![0; last.len()];
    let mut batch = 0;
    let mut visit = |view: &BatchView<'_>| {
        assert_eq!(view.header.sequence, batch + 1);
        batch += 1;
        for record in view.records() {
            assert_eq!(record.payload, payload(record.position));
            seen[usize::from(record.position.shard())] += 1;
            assert_eq!(record.position.sequence(), seen[usize::from(record.position.shard())]);
        }
        Ok(())
    };
    reader.scan_batches(1, &mut visit).unwrap();
    assert_eq!(seen, last);
}

fn check_scan(reader: &JournalReader, from: &[u64], last: &[u64], shards: &dyn Fn(u16) -> bool) {
    let mut seen = from.to_vec();
    let mut visit = |position: Position, bytes: &[u8]| {
        assert!(shards(position.shard()));
        assert_eq!(bytes, payload(position));
        seen[usize::from(position.shard())] += 1;
        assert_eq!(position.sequence(), seen[usize::from(position.shard())]);
        Ok(())
    };
    reader.scan(from, shards, &mut visit).unwrap();
    for (shard, seen) in seen.iter().enumerate() {
        let expected = if shards(shard as u16) { last[shard].max(from[shard]) } else { from[shard] };
        assert_eq!(*seen, expected);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Segment files, oldest first.
fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let folder = segment::Folder::of_names(Disk::default().list(dir).unwrap());
    folder.segments.iter().map(|&number| segment::segment_path(dir, number)).collect()
}

/// File, offset and length of every batch.
fn places(reader: &JournalReader) -> Vec<(std::path::PathBuf, u64, u64)> {
    let mut places = Vec::new();
    let mut visit = |view: &BatchView<'_>| {
        places.push((view.file.to_path_buf(), view.offset, view.total_bytes));
        Ok(())
    };
    reader.scan_batches(1, &mut visit).unwrap();
    places
}
