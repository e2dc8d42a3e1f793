//! What is refused: locks, formats, strangers, full disks, wrong batches, and everything after a fault.

use std::fs;

use super::*;
use crate::disk::faulty::FaultyDisk;

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, ..) = open(dir.path()).unwrap();
    let Err(Error::Locked { path }) = open(dir.path()) else { panic!("opened twice") };
    assert_eq!(path, dir.path());
    let read = JournalReader::open(Disk::default(), dir.path());
    assert!(matches!(read, Err(Error::Locked { .. })));
    drop(journal);
    open(dir.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    fill(&mut journal, &mut Random(40), &mut [0; 4], 2);
    drop(journal);
    for file in [segments(dir.path())[0].clone(), dir.path().join("durable-end")] {
        let whole = fs::read(&file).unwrap();
        let mut newer = whole.clone();
        newer[8] = 2;
        fs::write(&file, newer).unwrap();
        let Err(Error::NewerFormat { path, found: 2, known: 1 }) = open(dir.path()) else {
            panic!("opened {}", file.display())
        };
        assert_eq!(path, file);
        fs::write(&file, whole).unwrap();
    }
    open(dir.path()).unwrap();
}

#[test]
fn other_shards_and_other_journals_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut journal, ..) = open(one.path()).unwrap();
    fill(&mut journal, &mut Random(41), &mut [0; 4], 3);
    drop(journal);
    let eight = JournalOptions { shards: 8, ..options() };
    let opened = Journal::open(Disk::default(), one.path(), eight);
    let Err(Error::Mismatch { detail, .. }) = opened else { panic!("opened with other shards") };
    assert!(detail.contains("start with --shards 4"), "{detail}");

    let stranger = JournalOptions { new_journal_id: None, ..options() };
    let (journal, _, recovered) = Journal::open(Disk::default(), other.path(), stranger).unwrap();
    assert_ne!(recovered.journal_id, 0x6d65_6564);
    drop(journal);
    fs::copy(&segments(one.path())[0], &segments(other.path())[0]).unwrap();
    assert!(matches!(open(other.path()), Err(Error::Mismatch { .. })));
    // A segment under another one's name.
    let mut renamed = segments(one.path())[0].clone();
    renamed.set_file_name("wal-00000000000000000077.log");
    fs::copy(&segments(one.path())[0], &renamed).unwrap();
    let Err(Error::Mismatch { path, .. }) = open(one.path()) else { panic!("opened") };
    assert_eq!(path, renamed);
}

#[test]
fn a_lost_durable_end_is_damage_and_half_of_it_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(42), &mut last, 3);
    journal.close().unwrap();
    let file = dir.path().join("durable-end");
    let whole = fs::read(&file).unwrap();
    for slot in [0, 4096] {
        let mut torn = whole.clone();
        torn[slot + 30..slot + 60].fill(0xff);
        fs::write(&file, torn).unwrap();
        let (reader, _) = JournalReader::open(Disk::default(), dir.path()).unwrap();
        check(&reader, &last);
    }
    fs::write(&file, vec![0; whole.len()]).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
    fs::remove_file(&file).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
}

#[test]
fn no_space_stops_the_journal_with_a_message_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let (mut journal, reader, _) = Journal::open(disk.disk(), dir.path(), options()).unwrap();
    disk.limit_space(Some(2 * 8 * 1024));
    let (mut random, mut last) = (Random(43), vec![0; 4]);
    let fault = loop {
        let before = last.clone();
        if let Err(fault) = write(&mut journal, &mut random, &mut last, 5).and_then(|_| journal.sync()) {
            last = before;
            break fault.to_string();
        }
    };
    assert!(fault.contains("allocate") && fault.contains("free at least 8192 bytes"), "{fault}");
    assert!(journal.reader().last_batch() > 10);
    check(&reader, &last);
    assert!(matches!(journal.sync(), Err(Error::Stopped(_))));
    drop((journal, reader));
    // Nothing unfinished stays behind to take up space, and no space is needed to read.
    assert!(Disk::default().list(dir.path()).unwrap().iter().all(|name| !name.ends_with(".unfinished")));
    assert!(Journal::open(disk.disk(), dir.path(), options()).is_err());
    disk.limit_space(None);
    let (_, reader, _) = open(dir.path()).unwrap();
    check(&reader, &last);
}

#[test]
fn a_failed_sync_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let (mut journal, reader, _) = Journal::open(disk.disk(), dir.path(), options()).unwrap();
    let (mut random, mut last) = (Random(44), vec![0; 4]);
    fill(&mut journal, &mut random, &mut last, 3);
    let known = last.clone();
    write(&mut journal, &mut random, &mut last, 3).unwrap();
    disk.fail_sync();
    assert!(matches!(journal.sync(), Err(Error::Io { action: "sync", .. })));
    assert!(matches!(journal.sync(), Err(Error::Stopped(_))));
    assert!(matches!(write(&mut journal, &mut random, &mut last.clone(), 1), Err(Error::Stopped(_))));
    assert!(matches!(journal.mark_durable(1), Err(Error::Stopped(_))));
    check(&reader, &known);
    assert!(journal.close().is_err());
}

#[test]
fn a_wrong_batch_is_refused_before_anything_is_written() {
    let good = |last: &mut [u64]| {
        let mut part = (Vec::new(), Vec::new());
        for shard in [0, 1, 0] {
            push(&mut part, last, shard);
        }
        part
    };
    type Spoil = fn(&mut (Vec<u8>, Vec<Run>));
    let spoils: [Spoil; 7] = [
        |part| part.1[0].count += 1,
        |part| part.1[0].first_sequence += 1,
        |part| part.1[0].shard = 3,
        |part| part.1[0].shard = SHARDS,
        |part| part.1.truncate(1),
        |part| part.0.truncate(part.0.len() - 1),
        |part| part.0.extend_from_slice(&[0; 5]),
    ];
    for (case, spoil) in spoils.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, ..) = open(dir.path()).unwrap();
        let mut last = vec![0; 4];
        let mut part = good(&mut last);
        spoil(&mut part);
        let written = journal.write(&[Part { bytes: &part.0, runs: &part.1 }]);
        assert!(matches!(written, Err(Error::Internal(_))), "case {case}");
        drop(journal);
        let (_, _, recovered) = open(dir.path()).unwrap();
        assert_eq!((recovered.last_batch, recovered.cut), (0, None), "case {case}");
    }
}

#[test]
fn sizes_are_limited() {
    let mut buffer = vec![1, 2, 3];
    let start = frame::begin(&mut buffer, Position::new(1, 1));
    buffer.resize(buffer.len() + frame::RECORD_BYTES_MAX + 1, 0);
    assert!(frame::finish(&mut buffer, start).is_err());
    assert_eq!(buffer, [1, 2, 3]);

    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    assert_eq!(journal.write(&[]).unwrap(), 0);
    assert_eq!(journal.batch_bytes_max(), 8 * 1024 - 512);
    assert!(write(&mut journal, &mut Random(45), &mut [0; 4], 500).is_err());
    for wrong in [
        JournalOptions { shards: 0, ..options() },
        JournalOptions { shards: 4097, ..options() },
        JournalOptions { segment_bytes: 512, ..options() },
        JournalOptions { segment_bytes: 8_000, ..options() },
        JournalOptions { segment_bytes: SEGMENT_BYTES_MAX + 512, ..options() },
        JournalOptions { prepared_segments: 0, ..options() },
    ] {
        let opened = Journal::open(Disk::default(), dir.path(), wrong);
        assert!(matches!(opened, Err(Error::Setting(_))), "{wrong:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let Err(Error::Io { action, path, .. }) = open(&file) else { panic!("opened a file") };
    assert_eq!((action, path), ("create the folder", file));
    let absent = JournalReader::open(Disk::default(), &dir.path().join("absent"));
    assert!(matches!(absent, Err(Error::Io { .. })));
}

/// Other segment lengths than before: prepared segments are replaced, and a tail that is longer than the new
/// length gets a segment of its own size.
#[test]
fn the_length_of_segments_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = vec![0; 4];
    for (round, segment_bytes) in [64 * 1024, 1024, 16 * 1024, 8 * 1024].into_iter().enumerate() {
        let options = JournalOptions { segment_bytes, ..options() };
        let (mut journal, reader, recovered) = Journal::open(Disk::default(), dir.path(), options).unwrap();
        assert_eq!(recovered.last_sequence, last);
        check(&reader, &last);
        let mut random = Random(46 + round as u64);
        for _ in 0..10 {
            let records = if segment_bytes > 1024 { 30 } else { 1 };
            write(&mut journal, &mut random, &mut last, records).unwrap();
        }
        while journal.prepare_step().unwrap() {}
        if round > 0 {
            journal.sync().unwrap();
        }
    }
    let (_, reader, _) = open(dir.path()).unwrap();
    check(&reader, &last);
}
