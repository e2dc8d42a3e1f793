//! Round trips, reopening, indexes, readers beside the writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn what_is_written_is_read_before_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut random, mut last) = (Random(1), vec![0; 4]);
    let mut incarnation = 0;
    for round in 0..6 {
        let (mut journal, reader, recovered) = open(dir.path()).unwrap();
        assert_eq!(recovered.created, round == 0);
        assert_eq!(recovered.last_sequence, last);
        assert!(recovered.incarnation > incarnation);
        assert_eq!(recovered.cut, None);
        // Rounds end in order and otherwise in turn.
        assert_eq!(recovered.clean, round % 2 == 0);
        assert_eq!(recovered.copied_batches, u64::from(round % 2 == 1));
        incarnation = recovered.incarnation;
        check(&reader, &last);
        fill(&mut journal, &mut random, &mut last, 30);
        check(&reader, &last);
        if round % 2 == 1 {
            journal.close().unwrap();
        }
    }
    assert!(segments(dir.path()).len() > 5);
}

#[test]
fn idle_starts_leave_no_segments_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(2), &mut last, 3);
    journal.close().unwrap();
    for _ in 0..5 {
        let (journal, reader, _) = open(dir.path()).unwrap();
        check(&reader, &last);
        drop(journal);
    }
    assert_eq!(segments(dir.path()).len(), 2);
}

#[test]
fn readers_see_a_batch_only_after_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    write(&mut journal, &mut Random(3), &mut last, 20).unwrap();
    write(&mut journal, &mut Random(3), &mut last, 3).unwrap();
    assert_eq!(reader.last_sequence(), [0; 4]);
    assert_eq!(reader.read(Position::new(0, 1)).unwrap(), None);
    journal.sync().unwrap();
    check(&reader, &last);
    assert_eq!((journal.last_batch(), reader.last_batch()), (2, 2));
}

#[test]
fn a_scan_begins_anywhere_and_takes_only_its_shards() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let (mut random, mut last) = (Random(4), vec![0; 4]);
    fill(&mut journal, &mut random, &mut last, 120);
    for _ in 0..100 {
        let from: Vec<u64> = last.iter().map(|&l| random.below(l + 2)).collect();
        let chosen = random.next();
        check_scan(&reader, &from, &last, &|shard| chosen >> shard & 1 == 1);
    }
    assert_eq!(
        reader.scan(&[], &|_| true, &mut |_, _| Err(Error::Stopped("enough".into()))).unwrap_err().to_string(),
        "the node is stopping: enough"
    );
}

#[test]
fn large_batches_and_blocks_are_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { segment_bytes: 4 * 1024 * 1024, ..options() };
    let (mut journal, reader, _) = Journal::open(Disk::default(), dir.path(), options).unwrap();
    let (mut random, mut last) = (Random(5), vec![0; 4]);
    for records in [5_000, 1, 1, 12_000, 3, 20_000, 1] {
        write(&mut journal, &mut random, &mut last, records).unwrap();
        journal.sync().unwrap();
    }
    check_batches(&reader, &last);
    check_scan(&reader, &[0; 4], &last, &|_| true);
    for _ in 0..200 {
        let shard = random.below(4);
        let position = Position::new(shard as u16, 1 + random.below(last[shard as usize]));
        assert_eq!(reader.read(position).unwrap(), Some(payload(position)));
    }
    assert!(segments(dir.path()).len() > 1);
}

#[test]
fn an_index_that_is_lost_or_damaged_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    let (mut random, mut last) = (Random(6), vec![0; 4]);
    fill(&mut journal, &mut random, &mut last, 60);
    journal.close().unwrap();
    let indexes = || {
        let names = Disk::default().list(dir.path()).unwrap().into_iter();
        names.filter(|name| name.ends_with(".index")).map(|name| dir.path().join(name)).collect::<Vec<_>>()
    };
    let before: Vec<_> = indexes().into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    assert!(before.len() > 4);
    std::fs::remove_file(&before[0].1).unwrap();
    for (damaged, byte) in [(1, 0), (2, 60), (3, 90)] {
        let mut bytes = before[damaged].0.clone();
        bytes[byte] ^= 4;
        std::fs::write(&before[damaged].1, bytes).unwrap();
    }
    std::fs::write(&before[4].1, []).unwrap();
    let (journal, reader, _) = open(dir.path()).unwrap();
    check(&reader, &last);
    for (bytes, path) in &before {
        assert!(std::fs::read(path).unwrap() == *bytes, "{}", path.display());
    }
    drop((journal, reader));
    std::fs::remove_file(&before[0].1).unwrap();
    let (reader, recovered) = JournalReader::open(Disk::default(), dir.path()).unwrap();
    assert_eq!(recovered.last_sequence, last);
    check(&reader, &last);
    assert!(!before[0].1.exists(), "a reader changes nothing");
}

#[test]
fn readers_and_the_preparing_thread_run_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { prepare: Prepare::Thread, ..options() };
    let (mut journal, reader, _) = Journal::open(Disk::default(), dir.path(), options).unwrap();
    let (mut random, mut last) = (Random(7), vec![0; 4]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = |seed: u64| {
            let (mut random, mut rounds) = (Random(seed), 0_u64);
            while !stop.load(Ordering::Relaxed) || rounds < 20 {
                rounds += 1;
                let seen = reader.last_sequence();
                for (shard, &last) in seen.iter().enumerate().filter(|&(_, &last)| last > 0) {
                    for sequence in [last, 1 + random.below(last)] {
                        let position = Position::new(shard as u16, sequence);
                        assert_eq!(reader.read(position).unwrap(), Some(payload(position)));
                    }
                }
                let from: Vec<u64> = seen.iter().map(|&l| l - random.below(l + 1)).collect();
                let mut next = from.clone();
                let mut visit = |position: Position, bytes: &[u8]| {
                    next[usize::from(position.shard())] += 1;
                    assert_eq!(next[usize::from(position.shard())], position.sequence());
                    assert_eq!(bytes, payload(position));
                    Ok(())
                };
                reader.scan(&from, &|_| true, &mut visit).unwrap();
                assert!(next.iter().zip(&seen).all(|(next, seen)| next >= seen));
            }
        };
        scope.spawn(move || read(70));
        scope.spawn(move || read(71));
        fill(&mut journal, &mut random, &mut last, 400);
        stop.store(true, Ordering::Relaxed);
    });
    check(&reader, &last);
    journal.close().unwrap();
    check(&reader, &last);
}

#[test]
fn four_thousand_shards_fit() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions { shards: 4096, segment_bytes: 256 * 1024, prepare: Prepare::Steps, ..options() };
    let (mut random, mut last) = (Random(8), vec![0; 4096]);
    for _ in 0..2 {
        let (mut journal, reader, recovered) = Journal::open(Disk::default(), dir.path(), options).unwrap();
        assert_eq!(recovered.last_sequence, last);
        for _ in 0..5 {
            write(&mut journal, &mut random, &mut last, 400).unwrap();
            journal.sync().unwrap();
        }
        check(&reader, &last);
    }
}

#[test]
fn overhead_stays_small() {
    let one = |bytes: usize| frame::FRAME_HEADER_BYTES + bytes;
    assert_eq!((BATCH_HEADER_BYTES + RUN_BYTES + one(100)).next_multiple_of(BLOCK_BYTES), 512);
    let thousand = BATCH_HEADER_BYTES + 16 * RUN_BYTES + 1_000 * one(100) + BLOCK_BYTES;
    assert!(thousand - 100_000 < 18_000);
}
