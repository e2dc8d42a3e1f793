//! Torn tails and damage: every byte, and every row of the rule.

use std::fs;
use std::path::PathBuf;

use super::super::rules::{Findings, RULES, Verdict, decide};
use super::*;

/// A folder with `batches` batches, not closed in order.
fn killed(seed: u64, batches: u64) -> (tempfile::TempDir, Vec<u64>, Vec<(PathBuf, u64, u64)>) {
    killed_after_mark(seed, batches, 0)
}

/// The same, after `marked` was recorded as durable; 0 = nothing was.
fn killed_after_mark(
    seed: u64,
    batches: u64,
    marked: BatchSequence,
) -> (tempfile::TempDir, Vec<u64>, Vec<(PathBuf, u64, u64)>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(seed), &mut last, batches);
    journal.mark_durable(marked).unwrap();
    let places = places(&reader);
    (dir, last, places)
}

fn flip(file: &Path, offset: u64) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset as usize] ^= 1 << (offset % 8);
    fs::write(file, bytes).unwrap();
}

fn open_to_read(dir: &Path) -> Result<(JournalReader, Recovered)> {
    JournalReader::open(Disk::default(), dir)
}

#[track_caller]
fn assert_damaged<T>(result: Result<T>, expected: &Path, at: std::ops::Range<u64>, saying: &str) {
    match result.err() {
        Some(Error::Damaged { file, offset, detail }) => {
            assert_eq!(file, expected);
            assert!(at.contains(&offset), "{offset} not in {at:?}");
            assert!(detail.contains(saying), "{detail}");
        }
        other => panic!("not damaged but {other:?}"),
    }
}

#[test]
fn every_row_of_the_rule_decides_what_it_says() {
    let rows = [
        // bytes, later claim, recorded
        (false, false, false, Verdict::End),
        (true, false, false, Verdict::Cut),
        (false, false, true, RULES[1].verdict),
        (true, false, true, RULES[1].verdict),
        (false, true, false, RULES[0].verdict),
        (true, true, false, RULES[0].verdict),
        (false, true, true, RULES[0].verdict),
        (true, true, true, RULES[0].verdict),
    ];
    for (has_bytes, later_claim, recorded, verdict) in rows {
        let findings = Findings { has_bytes, later_claim, recorded };
        assert_eq!(decide(&findings), verdict, "{findings:?}");
        assert_eq!(RULES.iter().filter(|rule| rule.fits(&findings)).count(), 1, "{findings:?}");
    }
    assert!(matches!((RULES[0].verdict, RULES[1].verdict), (Verdict::Damage(_), Verdict::Damage(_))));
}

/// Row "cut": the last batch, torn at any byte, is the tail of a write that was not acknowledged.
#[test]
fn a_tail_torn_at_any_byte_is_cut() {
    let (dir, last, places) = killed(20, 9);
    let (file, offset, total_bytes) = places.last().unwrap();
    let bytes = fs::read(file).unwrap();
    let sealed = fs::read(file).unwrap().len() as u64;
    let before_last = {
        fs::write(file, &bytes[..*offset as usize]).unwrap();
        open_to_read(dir.path()).unwrap().1.last_sequence
    };
    assert_ne!(before_last, last);
    for at in *offset..*offset + *total_bytes {
        // Whatever came to the disk up to here and zeros behind; the file cut here; one bit changed.
        let mut torn = bytes.clone();
        torn[at as usize..].fill(0);
        let mut changed = bytes.clone();
        changed[at as usize] ^= 0x10;
        for (case, content) in [torn, bytes[..at as usize].to_vec(), changed].into_iter().enumerate() {
            // Zeros from the padding on are what was written.
            let is_whole = content == bytes;
            fs::write(file, content).unwrap();
            let (reader, recovered) = open_to_read(dir.path()).unwrap();
            let expected = if is_whole { &last } else { &before_last };
            assert_eq!(&recovered.last_sequence, expected, "case {case} at {at}");
            if !is_whole && at > *offset {
                let cut = recovered.cut.unwrap();
                assert_eq!((&cut.file, cut.offset, cut.batch), (file, *offset, 9));
            }
            check_batches(&reader, expected);
        }
    }
    assert!(sealed > offset + total_bytes);
    // And for writing: the tail is gone for good, and its number is given again.
    let mut torn = bytes.clone();
    torn[(offset + total_bytes / 2) as usize] ^= 1;
    fs::write(file, torn).unwrap();
    let (mut journal, reader, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.cut.unwrap().batch, 9);
    let mut last = before_last;
    assert_eq!(write(&mut journal, &mut Random(21), &mut last, 5).unwrap(), 9);
    journal.sync().unwrap();
    check(&reader, &last);
    drop((journal, reader));
    let (_, reader, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.cut, None);
    check(&reader, &last);
}

/// Every single changed byte of every segment file is either found, or lies in what is discarded.
#[test]
fn any_changed_byte_is_found_or_discarded() {
    let (dir, last, places) = killed(22, 24);
    let files = segments(dir.path());
    assert!(files.len() >= 3);
    let all_but_one = {
        let (file, offset, _) = places.last().unwrap();
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..*offset as usize]).unwrap();
        let sequences = open_to_read(dir.path()).unwrap().1.last_sequence;
        fs::write(file, bytes).unwrap();
        sequences
    };
    let (mut found, mut discarded) = (0, 0);
    for file in &files {
        let original = fs::read(file).unwrap();
        let mut bytes = original.clone();
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            fs::write(file, &bytes).unwrap();
            bytes[at] = original[at];
            let Ok((reader, recovered)) = open_to_read(dir.path()) else {
                found += 1;
                continue;
            };
            discarded += 1;
            let end = places.iter().rev().find(|place| place.0 == *file).map_or(0, |place| place.1 + place.2);
            assert!(recovered.cut.is_some() || at as u64 >= end, "{} at {at}", file.display());
            let expected = if recovered.last_batch == 24 { &last } else { &all_but_one };
            assert_eq!(&recovered.last_sequence, expected, "{} at {at}", file.display());
            if at % 37 == 0 {
                check_batches(&reader, expected);
            }
        }
        fs::write(file, original).unwrap();
    }
    println!("found {found}, discarded {discarded}");
    assert!(found > 10_000);
    check(&open_to_read(dir.path()).unwrap().0, &last);
}

/// The same with a durable end that is recorded: what opening does not examine, the full scan finds.
#[test]
fn any_changed_byte_of_what_opening_skips_is_found_by_the_scan() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(23), &mut last, 24);
    journal.close().unwrap();
    let files = segments(dir.path());
    let first = fs::read(&files[0]).unwrap();
    let mut bytes = first.clone();
    for at in (0..first.len()).step_by(3) {
        bytes[at] ^= 0x40;
        fs::write(&files[0], &bytes).unwrap();
        bytes[at] = first[at];
        if let Ok((reader, _)) = open_to_read(dir.path()) {
            assert!(reader.scan_batches(1, &mut |_| Ok(())).is_err(), "at {at}");
        }
    }
}

/// Row "a later batch claims it".
#[test]
fn damage_that_a_later_batch_speaks_against_refuses_with_file_and_offset() {
    let (dir, _, places) = killed(24, 24);
    for batch in [0, 3, 10, 22] {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(dir.path(), copy.path());
        let (file, offset, total_bytes) = &places[batch];
        let file = copy.path().join(file.file_name().unwrap());
        flip(&file, offset + total_bytes / 4);
        let saying = "what was written later says that it was durable";
        assert_damaged(open(copy.path()), &file, *offset..offset + 1, saying);
        assert_damaged(open_to_read(copy.path()), &file, *offset..offset + 1, saying);
    }
}

/// The claim counts even where the batch that makes it is torn itself: its header is whole.
#[test]
fn a_torn_batch_still_speaks_for_the_ones_before_it() {
    let (dir, _, places) = killed(25, 6);
    let (file, offset, _) = &places[4];
    let (last_file, last_offset, last_bytes) = &places[5];
    assert_eq!(file, last_file);
    flip(file, offset + 80);
    flip(file, last_offset + last_bytes - 400);
    assert_damaged(open(dir.path()), file, *offset..offset + 1, "does not match, and what was written later");
}

/// Row "recorded", by a checkpoint and by a clean stop.
#[test]
fn damage_below_a_recorded_end_refuses() {
    let saying = "a checkpoint or the last stop recorded";
    let (dir, _, places) = killed_after_mark(26, 6, 6);
    let (file, offset, _) = &places[5];
    flip(file, offset + 100);
    assert_damaged(open_to_read(dir.path()), file, *offset..offset + 1, saying);
    let (dir, last, places) = killed_after_mark(26, 6, 5);
    let (file, offset, _) = &places[5];
    let whole = fs::read(file).unwrap();
    flip(file, offset + 100);
    assert_eq!(open_to_read(dir.path()).unwrap().1.last_batch, 5);
    fs::write(file, whole).unwrap();
    let (journal, ..) = open(dir.path()).unwrap();
    journal.close().unwrap();
    let reader = open_to_read(dir.path()).unwrap().0;
    check(&reader, &last);
    let (file, offset, _) = super::places(&reader).pop().unwrap();
    drop(reader);
    let whole = fs::read(&file).unwrap();
    // Changed, zeroed, cut off, or gone with its file.
    let zeros = [&whole[..offset as usize], &vec![0; whole.len() - offset as usize]].concat();
    for content in [zeros, whole[..offset as usize].to_vec()] {
        fs::write(&file, content).unwrap();
        assert_damaged(open(dir.path()), &file, offset..offset + 1, saying);
    }
    fs::write(&file, &whole).unwrap();
    flip(&file, offset + 100);
    assert_damaged(open(dir.path()), &file, offset..offset + 1, saying);
    fs::remove_file(&file).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Damaged { .. })));
}

/// A mark advanced while running protects what it covers.
#[test]
fn a_durable_end_may_be_marked_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, reader, _) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(27), &mut last, 3);
    write(&mut journal, &mut Random(27), &mut last, 3).unwrap();
    journal.mark_durable(99).unwrap();
    journal.sync().unwrap();
    let places = places(&reader);
    drop((journal, reader));
    // The header of the last batch, so that it does not speak for the one before it.
    flip(&places[3].0, places[3].1 + 10);
    assert_eq!(open_to_read(dir.path()).unwrap().1.last_batch, 3, "only what was synced was marked");
    flip(&places[2].0, places[2].1 + 90);
    assert_damaged(open(dir.path()), &places[2].0, places[2].1..places[2].1 + 1, "a checkpoint or");
}

#[test]
fn a_damaged_header_of_a_segment_with_durable_batches_refuses() {
    let (dir, ..) = killed(28, 40);
    let files = segments(dir.path());
    let used: Vec<_> = files.iter().filter(|f| fs::read(f).unwrap()[0] != 0).collect();
    assert!(used.len() > 3);
    for file in &used {
        let whole = fs::read(file).unwrap();
        flip(file, 77);
        assert_damaged(open(dir.path()), file, 0..1, "segment header");
        fs::write(file, vec![0; 512]).unwrap();
        assert!(matches!(open_to_read(dir.path()), Err(Error::Damaged { .. })) || *file == *used.last().unwrap());
        fs::write(file, whole).unwrap();
    }
}

/// A batch of an older incarnation that turns up behind the end is no batch.
#[test]
fn stale_batches_are_never_taken_for_valid() {
    let (dir, mut last, places) = killed(29, 3);
    let stale = {
        let (file, offset, total_bytes) = &places[2];
        fs::read(file).unwrap()[*offset as usize..(*offset + *total_bytes) as usize].to_vec()
    };
    // The journal loses batch 3 in a power cut, and in the next life the old one stands in its place.
    let (file, offset, _) = &places[2];
    let mut bytes = fs::read(file).unwrap();
    bytes[*offset as usize..].fill(0);
    fs::write(file, bytes).unwrap();
    let (journal, reader, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.last_batch, 2);
    last.clone_from(&recovered.last_sequence);
    let copied = super::places(&reader);
    drop((journal, reader));
    let (file, offset, total_bytes) = copied.last().unwrap();
    let mut bytes = fs::read(file).unwrap();
    let end = (offset + total_bytes) as usize;
    bytes[end..end + stale.len()].copy_from_slice(&stale);
    fs::write(file, bytes).unwrap();
    let (_, reader, recovered) = open(dir.path()).unwrap();
    assert_eq!(recovered.cut.unwrap().detail, "a batch is of another journal or incarnation than its segment");
    check(&reader, &last);
}

#[test]
fn a_point_read_finds_damage_by_the_record_alone() {
    let (dir, last, _) = killed(30, 12);
    let (_journal, reader, _) = open(dir.path()).unwrap();
    let mut at = None;
    let mut visit = |view: &BatchView<'_>| {
        at = at.take().or(view
            .records()
            .find(|r| !r.payload.is_empty())
            .map(|r| (view.file.to_path_buf(), r.offset, r.position)));
        Ok(())
    };
    reader.scan_batches(1, &mut visit).unwrap();
    let (file, offset, position) = at.unwrap();
    flip(&file, offset + 16);
    assert_damaged(reader.read(position), &file, offset..offset + 1, "record");
    let mut visited = 0;
    let scanned = reader.scan(&[0; 4], &|_| true, &mut |_, _| {
        visited += 1;
        Ok(())
    });
    assert_damaged(scanned, &file, offset..offset + 1, "is damaged or missing");
    // Other shards do not mind.
    check_scan(&reader, &[0; 4], &last, &|shard| shard != position.shard());
    let mut next = position.sequence() + 1;
    next = next.min(last[usize::from(position.shard())]);
    if next > position.sequence() {
        assert!(reader.read(Position::new(position.shard(), next)).unwrap().is_some());
    }
}

/// A batch whose checksums match although its runs cannot be: a closed segment without an index file is not indexed
/// by it.
#[test]
fn runs_that_cannot_be_are_damage_when_an_index_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    let mut last = vec![0; 4];
    fill(&mut journal, &mut Random(31), &mut last, 40);
    journal.close().unwrap();
    let (file, whole) = (segments(dir.path())[1].clone(), fs::read(&segments(dir.path())[1]).unwrap());
    // The first run: below what the segment begins with, of a shard that there is not, too far ahead.
    for first in [Position::new(0, 0), Position::new(77, 1), Position::new(0, 1 << 33)] {
        let mut bytes = whole.clone();
        bytes[512 + 72..512 + 80].copy_from_slice(&first.to_u64().to_le_bytes());
        let runs = u32::from_le_bytes(bytes[512 + 60..512 + 64].try_into().unwrap()) as usize;
        let body = 512 + 72 + runs * 12;
        let length = u32::from_le_bytes(bytes[512 + 52..512 + 56].try_into().unwrap()) as usize;
        let checksums: Vec<u8> =
            frame::verified(&bytes[body..body + length]).flat_map(|frame| frame.unwrap().checksum()).collect();
        let contents = crc32c::crc32c_append(crc32c::crc32c(&bytes[512 + 72..body]), &checksums);
        bytes[512 + 64..512 + 68].copy_from_slice(&contents.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[512..512 + 68]);
        bytes[512 + 68..512 + 72].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        let _ = fs::remove_file(file.with_extension("index"));
        let (reader, _) = open_to_read(dir.path()).unwrap();
        let within = u64::from_le_bytes(bytes[64..72].try_into().unwrap()) + 1;
        assert_damaged(reader.read(Position::new(0, within)), &file, 512..513, "a run does not continue its shard");
    }
}

/// A segment header whose checksum matches although its numbers cannot be.
#[test]
fn a_segment_header_with_impossible_numbers_is_damage() {
    let (dir, ..) = killed(32, 24);
    let file = segments(dir.path())[0].clone();
    let whole = fs::read(&file).unwrap();
    // The first batch, and the last sequence of shard 0 before the segment.
    for (at, number) in [(48, 0), (64, Position::SEQUENCE_MAX + 1)] {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..508]);
        bytes[508..512].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        assert_damaged(open_to_read(dir.path()), &file, 0..1, "impossible number");
        fs::write(&file, &whole).unwrap();
        open_to_read(dir.path()).unwrap();
    }
}
