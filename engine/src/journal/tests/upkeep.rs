//! Closed segments that are packed and removed: read as before, crashes between any two steps, damage.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::faulty::FaultyDisk;

fn folder(dir: &Path) -> segment::Folder {
    segment::Folder::of_names(Disk::default().list(dir).unwrap())
}

/// A folder with several closed segments, and the last sequences in it.
fn filled(seed: u64, batches: u64) -> (tempfile::TempDir, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let mut last = vec![0; 4];
    let (mut journal, ..) = open(dir.path()).unwrap();
    fill(&mut journal, &mut Random(seed), &mut last, batches);
    journal.close().unwrap();
    (dir, last)
}

fn pack_all(upkeep: &mut JournalUpkeep) -> Result<u64> {
    let mut packed = 0;
    while let Some(segment) = upkeep.oldest_plain()? {
        upkeep.pack(&segment, &mut |_| true)?.unwrap();
        packed += 1;
    }
    Ok(packed)
}

/// Checks that all after `removed` is there, by every way of reading, and nothing before.
fn check_after(reader: &JournalReader, removed: &[u64], last: &[u64], context: &str) {
    assert_eq!(reader.last_sequence(), last, "{context}");
    for shard in 0..last.len() {
        for sequence in 1..=last[shard] {
            let position = Position::new(shard as u16, sequence);
            let expected = (sequence > removed[shard]).then(|| payload(position));
            assert_eq!(reader.read(position).unwrap(), expected, "{context}: {position}");
        }
    }
    let mut seen = removed.to_vec();
    let first = reader.first_batch().unwrap();
    let mut visit = |view: &BatchView<'_>| {
        for record in view.records() {
            assert_eq!(record.payload, payload(record.position), "{context}");
            seen[usize::from(record.position.shard())] += 1;
        }
        Ok(())
    };
    reader.scan_batches(first, &mut visit).unwrap();
    assert_eq!(seen, last, "{context}");
    check_scan(reader, removed, last, &|_| true);
}

#[test]
fn packed_segments_are_read_as_before() {
    let (dir, mut last) = filled(60, 60);
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let closed = folder(dir.path()).segments.len();
    let before = fs::read(&segments(dir.path())[0]).unwrap();
    let mut upkeep = journal.upkeep();
    let packed = pack_all(&mut upkeep).unwrap();
    assert!(packed >= 5 && (packed as usize) < closed, "{packed} of {closed}");
    check(&reader, &last);
    assert_eq!(folder(dir.path()).packed.len() as u64, packed);
    assert!(upkeep.oldest().unwrap().unwrap().packed);
    let first = file::SegmentFile::open(&Disk::default(), dir.path(), 1).unwrap();
    let mut unpacked = vec![0; before.len() + 10];
    assert_eq!(first.read_at(&mut unpacked, 0).unwrap(), before.len());
    assert_eq!(unpacked[..before.len()], before);
    // Those written later are packed later.
    fill(&mut journal, &mut Random(61), &mut last, 40);
    assert!(pack_all(&mut upkeep).unwrap() > 0);
    check(&reader, &last);
    journal.close().unwrap();
    drop((reader, upkeep));
    // With their indexes, and without.
    for name in Disk::default().list(dir.path()).unwrap().iter().filter(|name| name.ends_with(".index")) {
        fs::remove_file(dir.path().join(name)).unwrap();
        let (reader, _) = JournalReader::open(Disk::default(), dir.path()).unwrap();
        check(&reader, &last);
    }
    let (_, reader, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.last_sequence, last);
    check(&reader, &last);
}

#[test]
fn the_oldest_segments_go_and_the_rest_stays() {
    let (dir, mut last) = filled(62, 60);
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let mut upkeep = journal.upkeep();
    pack_all(&mut upkeep).unwrap();
    fill(&mut journal, &mut Random(63), &mut last, 30);
    while let Some(oldest) = upkeep.oldest().unwrap() {
        let mut batches = Vec::new();
        let mut visit = |view: &BatchView<'_>| {
            batches.push(view.header.sequence);
            Ok(true)
        };
        upkeep.visit(&oldest, &mut visit).unwrap();
        assert_eq!(batches, oldest.batches.clone().collect::<Vec<_>>());
        upkeep.remove(&oldest).unwrap();
        assert_eq!(reader.removed_sequence().unwrap(), oldest.up_to);
        assert_eq!(reader.first_batch().unwrap(), oldest.batches.end);
        check_after(&reader, &oldest.up_to, &last, "removed");
        assert!(matches!(upkeep.remove(&oldest), Err(Error::Stopped(_))), "removed twice");
    }
    let removed = reader.removed_sequence().unwrap();
    let folder = folder(dir.path());
    assert!(folder.segments.len() <= 4 && folder.stray_indexes.is_empty(), "{folder:?}");
    drop((journal, reader, upkeep));
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    check_after(&reader, &removed, &last, "opened again");
    fill(&mut journal, &mut Random(64), &mut last, 5);
    check_after(&reader, &removed, &last, "written to");
}

/// Opens, packs and removes until the disk stops.
fn keep_up(disk: &FaultyDisk, dir: &Path) -> Result<()> {
    let (journal, ..) = Journal::open(disk.disk(), dir, options())?;
    let mut upkeep = journal.upkeep();
    for _ in 0..2 {
        if let Some(segment) = upkeep.oldest_plain()? {
            upkeep.pack(&segment, &mut |_| true)?;
        }
    }
    // The first is packed, the third is not.
    for _ in 0..3 {
        if let Some(oldest) = upkeep.oldest()? {
            upkeep.remove(&oldest)?;
        }
    }
    Ok(())
}

#[test]
fn a_crash_between_any_two_steps_of_packing_or_removing_loses_nothing_else() {
    let (origin, last) = filled(65, 50);
    let ends: Vec<Vec<u64>> = {
        let (journal, reader, _) = open(origin.path()).unwrap();
        let mut upkeep = journal.upkeep();
        let copy = tempfile::tempdir().unwrap();
        copy_folder(origin.path(), copy.path());
        let mut ends = vec![reader.removed_sequence().unwrap()];
        while ends.len() < 4 {
            let oldest = upkeep.oldest().unwrap().unwrap();
            upkeep.remove(&oldest).unwrap();
            ends.push(oldest.up_to);
        }
        drop((journal, upkeep, reader));
        fs::remove_dir_all(origin.path()).unwrap();
        fs::create_dir(origin.path()).unwrap();
        copy_folder(copy.path(), origin.path());
        ends
    };
    // The first time the process is killed; then the power is cut, with other luck each time.
    for luck in 0..8 {
        for stop_after in 0.. {
            let mut random = Random(luck * 1_000 + stop_after);
            let context = format!("stopped after {stop_after} changes, luck {luck}");
            let dir = tempfile::tempdir().unwrap();
            copy_folder(origin.path(), dir.path());
            let disk = FaultyDisk::default();
            disk.stop_after(stop_after);
            let kept = keep_up(&disk, dir.path());
            if luck > 0 {
                disk.cut_power(|| random.below(2) == 0);
            }
            let (reader, _) =
                JournalReader::open(Disk::default(), dir.path()).unwrap_or_else(|fault| panic!("{context}: {fault}"));
            let removed = reader.removed_sequence().unwrap();
            assert!(ends.contains(&removed), "{context}: removed up to {removed:?}");
            check_after(&reader, &removed, &last, &context);
            drop(reader);
            let (_, reader, _) = open(dir.path()).unwrap_or_else(|fault| panic!("{context}: {fault}"));
            check_after(&reader, &removed, &last, &context);
            let folder = folder(dir.path());
            assert!(folder.packed_twice.is_empty() && folder.stray_indexes.is_empty(), "{context}: {folder:?}");
            if kept.is_ok() {
                assert_eq!(removed, ends[3], "{context}");
                break;
            }
        }
    }
}

#[test]
fn who_reads_a_segment_goes_on_reading_it_while_it_is_packed_and_removed() {
    let (dir, last) = filled(66, 60);
    let (journal, reader, _) = open(dir.path()).unwrap();
    let mut upkeep = journal.upkeep();
    let (mut batches, mut first) = (0, None);
    let mut visit = |view: &BatchView<'_>| {
        batches += 1;
        let oldest = upkeep.oldest_plain().unwrap().unwrap();
        if *first.get_or_insert(oldest.number) == oldest.number {
            upkeep.pack(&oldest, &mut |_| true).unwrap();
            let oldest = upkeep.oldest().unwrap().unwrap();
            upkeep.remove(&oldest).unwrap();
        }
        assert!(view.records().all(|record| record.payload == payload(record.position)));
        Ok(())
    };
    reader.scan_batches(1, &mut visit).unwrap();
    assert_eq!(batches, reader.last_batch());

    // Many readers, while everything that may go goes.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (reader, last, done) = (reader.clone(), &last, &done);
            scope.spawn(move || {
                let mut random = Random(67 + thread);
                while !done.load(Ordering::Relaxed) {
                    let shard = random.below(4) as u16;
                    let position = Position::new(shard, 1 + random.below(last[usize::from(shard)]));
                    let read = reader.read(position).unwrap();
                    assert!(read.is_none_or(|read| read == payload(position)));
                }
            });
        }
        while let Some(oldest) = upkeep.oldest().unwrap() {
            if let Some(plain) = upkeep.oldest_plain().unwrap() {
                upkeep.pack(&plain, &mut |_| true).unwrap();
            }
            upkeep.remove(&oldest).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    check_after(&reader, &reader.removed_sequence().unwrap(), &last, "all removed that may be");
}

#[test]
fn who_reads_behind_the_oldest_segment_does_not_notice_that_it_goes() {
    for seed in 70..80 {
        let (dir, _) = filled(seed, 60);
        let (journal, reader, _) = open(dir.path()).unwrap();
        let mut upkeep = journal.upkeep();
        let (from, done) = (Mutex::new(reader.removed_sequence().unwrap()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (reader, from, done) = (reader.clone(), &from, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let from = from.lock().unwrap().clone();
                        let first = &mut |_, _: &[u8]| Err(Error::Stopped(String::new()));
                        let Err(fault) = reader.scan(&from, &|_| true, first) else { continue };
                        let removed = reader.removed_sequence().unwrap();
                        let is_overtaken = removed.iter().zip(&from).any(|(removed, from)| removed > from);
                        assert!(is_overtaken || matches!(fault, Error::Stopped(_)), "{fault}");
                    }
                });
            }
            while let Some(oldest) = upkeep.oldest().unwrap() {
                from.lock().unwrap().clone_from(&oldest.up_to);
                upkeep.remove(&oldest).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}

fn read_all(dir: &Path) -> Result<()> {
    let (reader, _) = JournalReader::open(Disk::default(), dir)?;
    reader.scan_batches(1, &mut |_| Ok(()))
}

#[test]
fn any_byte_of_a_packed_segment_that_is_changed_or_cut_off_is_found() {
    let (dir, last) = filled(68, 40);
    let (journal, ..) = open(dir.path()).unwrap();
    pack_all(&mut journal.upkeep()).unwrap();
    drop(journal);
    let packed: PathBuf = segment::packed_path(dir.path(), 2);
    let whole = fs::read(&packed).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        for (case, bytes) in [changed.as_slice(), &whole[..at]].into_iter().enumerate() {
            // One byte in seven is cut off at, for time.
            if case == 1 && !at.is_multiple_of(7) {
                continue;
            }
            fs::write(&packed, bytes).unwrap();
            match read_all(dir.path()) {
                Err(Error::Damaged { file, offset, .. }) => {
                    assert_eq!(file, packed, "byte {at}");
                    assert!(offset <= whole.len() as u64 && (case == 1 || offset <= at as u64), "byte {at}: {offset}");
                }
                Err(Error::NewerFormat { path, .. }) if (8..12).contains(&at) => assert_eq!(path, packed),
                other => panic!("byte {at}, case {case}: {other:?}"),
            }
        }
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&packed, longer).unwrap();
    assert!(matches!(read_all(dir.path()), Err(Error::Damaged { .. })));
    fs::write(&packed, whole).unwrap();
    let (_, reader, _) = open(dir.path()).unwrap();
    check(&reader, &last);
}

/// What is wrong in a segment stays wrong, and found, when it is packed.
#[test]
fn damage_is_not_packed_away() {
    let (dir, _) = filled(69, 40);
    let (journal, reader, _) = open(dir.path()).unwrap();
    let (file, offset, total_bytes) = places(&reader)[3].clone();
    let mut bytes = fs::read(&file).unwrap();
    bytes[(offset + total_bytes / 2) as usize] ^= 1;
    fs::write(&file, bytes).unwrap();
    let mut upkeep = journal.upkeep();
    let segment = upkeep.oldest_plain().unwrap().unwrap();
    upkeep.pack(&segment, &mut |_| true).unwrap();
    drop((journal, upkeep, reader));
    match read_all(dir.path()) {
        Err(Error::Damaged { file, offset: at, detail }) => {
            assert_eq!(file, segment::packed_path(dir.path(), segment.number));
            assert!((offset..offset + total_bytes).contains(&at) && detail.contains("unpacked"), "{at}: {detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn packing_that_is_ended_or_fails_leaves_the_segment_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = vec![0; 4];
    let disk = FaultyDisk::default();
    let large = JournalOptions { segment_bytes: 1 << 20, ..options() };
    let (mut journal, reader, _) = Journal::open(disk.disk(), dir.path(), large).unwrap();
    for seed in 0..1_600 {
        write(&mut journal, &mut Random(seed), &mut last, 20).unwrap();
    }
    journal.sync().unwrap();
    let mut upkeep = journal.upkeep();
    let segment = upkeep.oldest_plain().unwrap().unwrap();
    let mut steps = 0;
    let ended = upkeep.pack(&segment, &mut |_| {
        steps += 1;
        false
    });
    assert!(ended.unwrap().is_none() && steps == 1);
    assert_eq!(folder(dir.path()).unfinished, Vec::<String>::new());
    disk.fail_sync();
    assert!(matches!(upkeep.pack(&segment, &mut |_| true), Err(Error::Io { .. })));
    assert_eq!(upkeep.oldest_plain().unwrap(), Some(segment));
    assert_eq!(folder(dir.path()).unfinished, Vec::<String>::new());
    check(&reader, &last);
}

fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/journal/packed-v1")
}

/// What version 1 of the packed form wrote can be read for ever; which bytes a compressor makes of a block is not
/// part of the form. `UPDATE_FIXTURES=1` makes the folder where there is none.
#[test]
fn version_1_of_packed_segments_is_read() {
    if std::env::var_os("UPDATE_FIXTURES").is_some() && !fixture_dir().exists() {
        let (dir, _) = filled(1, 14);
        let (journal, ..) = open(dir.path()).unwrap();
        assert!(pack_all(&mut journal.upkeep()).unwrap() > 0);
        journal.close().unwrap();
        fs::remove_file(dir.path().join("lock")).unwrap();
        for file in segments(dir.path()) {
            if fs::read(&file).is_ok_and(|bytes| bytes[0] == 0) {
                fs::remove_file(file).unwrap();
            }
        }
        fs::create_dir_all(fixture_dir()).unwrap();
        copy_folder(dir.path(), &fixture_dir());
    }
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&fixture_dir(), dir.path());
    assert!(!folder(dir.path()).packed.is_empty());
    let (reader, recovered) = JournalReader::open(Disk::default(), dir.path()).unwrap();
    assert_eq!(recovered.last_batch, 14);
    check(&reader, &recovered.last_sequence);
    let packed = fs::read(segment::packed_path(dir.path(), 1)).unwrap();
    assert_eq!(packed[..12], *b"meedPAK\n\x01\0\0\0");
}
