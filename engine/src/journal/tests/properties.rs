//! Properties of any journal: what is written comes back, and any change of its files is found, has no effect, or lies
//! in the tail that is discarded.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// One write: how many records it has, whether it is synced, and whether a mark, a segment and a restart follow.
#[derive(Clone, Debug)]
struct Write {
    records: u64,
    sync: bool,
    mark: bool,
    prepare: bool,
    restart: bool,
}

prop_compose! {
    fn one_write()(
        records in 1..12u64,
        sync in prop::bool::weighted(0.8),
        mark in prop::bool::weighted(0.1),
        prepare in any::<bool>(),
        restart in prop::bool::weighted(0.05),
    ) -> Write {
        Write { records, sync, mark, prepare, restart }
    }
}

fn segment_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(4 * 1024), Just(8 * 1024), Just(64 * 1024)]
}

/// What a journal was told.
struct Told {
    /// By shard, what was written.
    last: Vec<u64>,
    /// By batch, the sequences after it.
    after: Vec<Vec<u64>>,
    /// The newest batch that was known durable when the last one was written, which says so.
    claimed: BatchSequence,
    closed: bool,
}

fn build(dir: &Path, segment_bytes: u64, seed: u64, writes: &[Write], close: bool) -> Told {
    let options = JournalOptions { segment_bytes, ..options() };
    let open = || Journal::open(Disk::default(), dir, options).unwrap();
    let (mut journal, ..) = open();
    let mut random = Random(seed);
    let mut told = Told { last: vec![0; 4], after: vec![vec![0; 4]], claimed: 0, closed: close };
    for write in writes {
        told.claimed = journal.reader().last_batch();
        super::write(&mut journal, &mut random, &mut told.last, write.records).unwrap();
        told.after.push(told.last.clone());
        if write.sync {
            journal.sync().unwrap();
        }
        if write.mark {
            journal.mark_durable(BatchSequence::MAX).unwrap();
        }
        if write.prepare {
            journal.prepare_step().unwrap();
        }
        if write.restart {
            drop(journal);
            journal = open().0;
        }
    }
    if close {
        journal.sync().unwrap();
        journal.close().unwrap();
    }
    told
}

/// Judges a folder that somebody changed: it is refused, a scan finds the damage, or what is there is a beginning of
/// what was written. Returns how many batches were accepted.
fn judge(dir: &Path, told: &Told) -> Option<u64> {
    let (reader, recovered) = JournalReader::open(Disk::default(), dir).ok()?;
    let accepted = &recovered.last_sequence;
    // Where an index leads astray, a point read may fail; it never returns another record.
    for (shard, &last) in accepted.iter().enumerate() {
        for sequence in 1..=last {
            let position = Position::new(shard as u16, sequence);
            if let Ok(found) = reader.read(position) {
                assert_eq!(found, Some(payload(position)), "{position} is another record");
            }
        }
    }
    let mut seen = vec![0; accepted.len()];
    let scanned = reader.scan_batches(1, &mut |view: &BatchView<'_>| {
        for record in view.records() {
            assert_eq!(record.payload, payload(record.position));
            seen[usize::from(record.position.shard())] = record.position.sequence();
        }
        Ok(())
    });
    scanned.ok()?;
    assert_eq!(&seen, accepted);
    let batch = recovered.last_batch as usize;
    assert_eq!(Some(accepted), told.after.get(batch), "no beginning of what was written");
    Some(recovered.last_batch)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back_and_a_changed_byte_is_found(
        payloads in vec(vec(any::<u8>(), 0..300), 1..8),
        positions in vec((0..4_096u16, 1..1_000_000u64), 8),
        at in any::<Index>(),
        change in 1..=255u8,
    ) {
        let mut buffer = Vec::new();
        for (payload, (shard, sequence)) in payloads.iter().zip(&positions) {
            let start = frame::begin(&mut buffer, Position::new(*shard, *sequence));
            buffer.extend_from_slice(payload);
            frame::finish(&mut buffer, start).unwrap();
        }
        let read: Vec<_> = frame::verified(&buffer).map(|frame| frame.unwrap()).collect();
        prop_assert_eq!(read.len(), payloads.len());
        for (frame, (payload, (shard, sequence))) in read.iter().zip(payloads.iter().zip(&positions)) {
            prop_assert_eq!((frame.position(), frame.payload()), (Position::new(*shard, *sequence), &payload[..]));
        }
        let at = at.index(buffer.len());
        buffer[at] ^= change;
        let intact = frame::verified(&buffer).take_while(|frame| frame.is_ok()).count();
        prop_assert!(frame::verified(&buffer).any(|frame| frame.is_err()));
        let before = frame::verified(&buffer).take(intact).map(|frame| frame.unwrap().payload().to_vec());
        prop_assert_eq!(before.collect::<Vec<_>>(), &payloads[..intact]);
    }

    #[test]
    fn any_journal_comes_back(
        seed in any::<u64>(),
        segment_bytes in segment_bytes(),
        writes in vec(one_write(), 1..40),
        close in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let told = build(dir.path(), segment_bytes, seed, &writes, close);
        let (reader, recovered) = JournalReader::open(Disk::default(), dir.path()).unwrap();
        prop_assert_eq!((&recovered.last_sequence, recovered.clean), (&told.last, told.closed));
        check(&reader, &told.last);
    }

    #[test]
    fn any_change_of_any_file_is_found_or_without_effect_or_in_the_discarded_tail(
        seed in any::<u64>(),
        segment_bytes in segment_bytes(),
        writes in vec(one_write(), 1..40),
        close in any::<bool>(),
        changes in vec((any::<Index>(), any::<Index>(), 1..=255u8), 1..4),
        cases in vec(any::<Index>(), 12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let told = build(dir.path(), segment_bytes, seed, &writes, close);
        let names = Disk::default().list(dir.path()).unwrap();
        let files: Vec<_> = names.iter().map(|name| dir.path().join(name)).filter(|path| {
            path.metadata().unwrap().len() > 0
        }).collect();
        // Every journal is spoiled twelve times: one byte anywhere, and once several bytes in several files.
        let single = cases.iter().enumerate().map(|(n, at)| vec![(changes[0].0, *at, 1 << (n % 8))]);
        for case in single.chain([changes.clone()]) {
            let mut originals = Vec::new();
            for (file, at, change) in &case {
                let path = &files[file.index(files.len())];
                let mut bytes = fs::read(path).unwrap();
                originals.push((path, bytes.clone()));
                let at = at.index(bytes.len());
                bytes[at] ^= change;
                fs::write(path, bytes).unwrap();
            }
            if let Some(accepted) = judge(dir.path(), &told) {
                // Only that can pass for a torn tail of which nothing later says that it was durable.
                let newest = told.after.len() as u64 - 1;
                let claimed = if told.closed { newest } else { told.claimed };
                prop_assert!(case.len() > 1 || accepted >= claimed, "{} of {}, claimed {}", accepted, newest, claimed);
            }
            for (path, bytes) in originals.into_iter().rev() {
                fs::write(path, bytes).unwrap();
            }
        }
        prop_assert_eq!(judge(dir.path(), &told), Some(told.after.len() as u64 - 1));
    }
}
