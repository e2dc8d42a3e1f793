use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use meed_engine::disk::Disk;
use meed_engine::error::Error;
use meed_engine::journal::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, Journal, JournalOptions, JournalReader, Part, Prepare, RUN_BYTES, Run, frame,
};
use meed_schemas::ids::Position;

const SHARDS: u16 = 4;
/// Length of a segment's header for so many shards, and of a slot of `durable-end`: each ends in its checksum.
const SEGMENT_HEADER_BYTES: usize = 512;
const SLOT_BYTES: usize = 4_096;

macro_rules! fixture {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../../schemas/fixtures/journal/v1/", $name)) as &[u8])),*]
    };
}

/// A journal of two lives, of which the second was killed in the middle of a write.
const FILES: [(&str, &[u8]); 8] = fixture![
    "wal-00000000000000000001.log",
    "wal-00000000000000000002.log",
    "wal-00000000000000000003.log",
    "wal-00000000000000000004.log",
    "wal-00000000000000000005.log",
    "wal-00000000000000000001.index",
    "wal-00000000000000000002.index",
    "durable-end"
];

type Records = BTreeMap<Position, Vec<u8>>;

/// A journal that somebody changed. The first byte says whether checksums are put right again (1), with the chain
/// from batch to batch (2), and whether the journal is opened for writing too (4). Every four further bytes change
/// one: file, offset in two bytes, what it is combined with.
///
/// With its checksums as they were, whatever is read was written so. With checksums put right anything may be read,
/// but by every way the same, and nothing panics.
pub fn journal(data: &[u8]) {
    let Some((&mode, edits)) = data.split_first() else { return };
    let mut files: Vec<Vec<u8>> = FILES.iter().map(|(_, bytes)| bytes.to_vec()).collect();
    for edit in edits.chunks_exact(4).take(64) {
        let file = &mut files[usize::from(edit[0]) % FILES.len()];
        let at = usize::from(u16::from_le_bytes([edit[1], edit[2]])) % file.len();
        file[at] ^= edit[3];
    }
    let trusted = mode & 1 == 0;
    if !trusted {
        files.iter_mut().zip(FILES).for_each(|(bytes, (name, _))| sign(bytes, name, mode & 2 != 0));
    }
    let Ok(dir) = tempfile::tempdir() else { panic!("no room for a folder") };
    for (bytes, (name, _)) in files.iter().zip(FILES) {
        if let Err(error) = std::fs::write(dir.path().join(name), bytes) {
            panic!("no room for a file: {error}");
        }
    }
    read(dir.path(), trusted);
    if mode & 4 != 0 {
        go_on(dir.path(), trusted);
    }
}

/// What the fixture holds.
fn written() -> &'static Records {
    static WRITTEN: OnceLock<Records> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in FILES {
            std::fs::write(dir.path().join(name), bytes).expect("a file");
        }
        let (reader, _) = JournalReader::open(Disk::default(), dir.path()).expect("the fixture opens");
        let records = scanned(&reader).expect("the fixture can be read");
        assert!(records.len() > 40);
        records
    })
}

/// Everything in journal order; positions must be dense.
fn scanned(reader: &JournalReader) -> Result<Records, Error> {
    let (mut records, mut last) = (Records::new(), vec![0; usize::from(SHARDS)]);
    reader.scan_batches(1, &mut |batch| {
        for record in batch.records() {
            let shard = usize::from(record.position.shard());
            assert_eq!(record.position.sequence(), last[shard] + 1, "a position is missing or given twice");
            last[shard] += 1;
            records.insert(record.position, record.payload.to_vec());
        }
        Ok(())
    })?;
    assert_eq!(last, reader.last_sequence());
    Ok(records)
}

fn read(dir: &Path, trusted: bool) {
    let Ok((reader, recovered)) = JournalReader::open(Disk::default(), dir) else { return };
    assert_eq!(recovered.last_sequence, reader.last_sequence());
    let records = scanned(&reader).ok();
    if let (Some(records), true) = (&records, trusted) {
        for (position, payload) in records {
            assert_eq!(written().get(position), Some(payload), "{position} was never written so");
        }
    }
    for (shard, last) in (0..SHARDS).zip(recovered.last_sequence) {
        for sequence in (1..=last.min(40)).chain([last]) {
            let position = Position::new(shard, sequence);
            let Ok(Some(payload)) = reader.read(position) else { continue };
            if trusted {
                assert_eq!(written().get(&position), Some(&payload), "{position} was never written so");
            }
            if let Some(records) = &records {
                assert_eq!(records.get(&position), Some(&payload), "a point read differs from the scan");
            }
        }
    }
}

/// Opens for writing, writes one record more and opens again: it is there, behind what was there.
fn go_on(dir: &Path, trusted: bool) {
    let options = JournalOptions {
        segment_bytes: 4 * 1024,
        prepared_segments: 1,
        prepare: Prepare::Steps,
        ..JournalOptions::new(SHARDS)
    };
    let open = || Journal::open(Disk::default(), dir, options);
    let Ok((mut journal, _, recovered)) = open() else { return };
    let next = recovered.last_sequence[0] + 1;
    let mut bytes = Vec::new();
    let start = frame::begin(&mut bytes, Position::new(0, next));
    bytes.extend_from_slice(b"one more");
    assert!(frame::finish(&mut bytes, start).is_ok());
    let runs = [Run { shard: 0, first_sequence: next, count: 1 }];
    let ended = journal.write(&[Part { bytes: &bytes, runs: &runs }]).and_then(|_| journal.sync());
    // Where sequences come near the end of their range there is no next one.
    assert!(ended.is_ok() || !trusted, "{ended:?}");
    drop(journal);
    if ended.is_err() {
        return;
    }
    let again = open();
    match &again {
        Ok((_, reader, _)) => {
            assert_eq!(reader.last_sequence()[0], next);
            let found = reader.read(Position::new(0, next));
            assert!(matches!(&found, Ok(Some(payload)) if payload == b"one more"), "{found:?}");
        }
        Err(error) => panic!("it was open, and now it is refused: {error}"),
    }
}

/// Puts the checksums of a file right.
fn sign(bytes: &mut [u8], name: &str, chain: bool) {
    if name == "durable-end" {
        bytes.chunks_exact_mut(SLOT_BYTES).for_each(sign_end);
    } else if name.ends_with(".index") {
        sign_end(bytes);
    } else if name.ends_with(".log") {
        let (head, batches) = bytes.split_at_mut(SEGMENT_HEADER_BYTES);
        if head.iter().any(|byte| *byte != 0) {
            sign_end(head);
        }
        let mut previous = chain.then(|| u32_at(head, 56));
        let mut at = 0;
        while at + BLOCK_BYTES <= batches.len() {
            at += sign_batch(&mut batches[at..], &mut previous).next_multiple_of(BLOCK_BYTES);
        }
    }
}

fn sign_end(block: &mut [u8]) {
    let end = block.len() - 4;
    let checksum = crc32c::crc32c(&block[..end]);
    block[end..].copy_from_slice(&checksum.to_le_bytes());
}

/// Signs the batch at the beginning of `bytes`; returns how long it is, at least a byte.
fn sign_batch(bytes: &mut [u8], previous: &mut Option<u32>) -> usize {
    if !bytes.starts_with(b"mBAT") {
        return 1;
    }
    if let Some(previous) = previous {
        bytes[48..52].copy_from_slice(&previous.to_le_bytes());
    }
    let body_start = BATCH_HEADER_BYTES + (u32_at(bytes, 60) as usize).min(64) * RUN_BYTES;
    let body_end = body_start.saturating_add(u32_at(bytes, 52) as usize);
    if body_end <= bytes.len() {
        let mut checksums = Vec::new();
        let mut at = body_start;
        while at + frame::FRAME_HEADER_BYTES <= body_end {
            let end = at.saturating_add(frame::FRAME_HEADER_BYTES + u32_at(bytes, at + 4) as usize);
            if end > body_end {
                break;
            }
            let checksum = crc32c::crc32c(&bytes[at + 4..end]).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&checksum);
            checksums.extend_from_slice(&checksum);
            at = end;
        }
        let directory = crc32c::crc32c(&bytes[BATCH_HEADER_BYTES..body_start]);
        bytes[64..68].copy_from_slice(&crc32c::crc32c_append(directory, &checksums).to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[..68]);
    bytes[68..72].copy_from_slice(&checksum.to_le_bytes());
    if let Some(previous) = previous {
        *previous = checksum;
    }
    body_end.clamp(1, bytes.len())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
