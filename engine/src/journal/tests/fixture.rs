//! A journal that version 1 of the format wrote: what was written once can be read for ever.

use std::path::PathBuf;

use super::*;

/// Small enough that the fixture stays small.
fn fixture_options() -> JournalOptions {
    JournalOptions { segment_bytes: 4 * 1024, ..options() }
}

fn fixture_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures/journal/v1")
}

/// Writes what the fixture holds: two lives, the first closed in order, the second killed in the middle of a
/// write. The lock and segments without batches are left out.
fn write_fixture(dir: &Path) -> Vec<u64> {
    let (mut random, mut last) = (Random(1), vec![0; 4]);
    let open = || Journal::open(Disk::default(), dir, fixture_options());
    let (mut journal, ..) = open().unwrap();
    fill(&mut journal, &mut random, &mut last, 12);
    journal.close().unwrap();
    let (mut journal, ..) = open().unwrap();
    fill(&mut journal, &mut random, &mut last, 6);
    write(&mut journal, &mut random, &mut last.clone(), 4).unwrap();
    let (file, offset, _) = {
        let (reader, last_batch) = (journal.reader(), journal.last_batch());
        assert_eq!((reader.last_batch(), last_batch), (18, 19));
        let (file, offset, total_bytes) = places(&reader).pop().unwrap();
        (file, offset + total_bytes, ())
    };
    drop(journal);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[offset as usize + 200..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    std::fs::remove_file(dir.join("lock")).unwrap();
    for file in segments(dir) {
        if std::fs::read(&file).unwrap()[0] == 0 {
            std::fs::remove_file(file).unwrap();
        }
    }
    last
}

/// The files of version 1 are opened, read and continued. `UPDATE_FIXTURES=1` makes them anew: only for
/// a new version of the format, under a new folder's name; the old folders stay as they are.
#[test]
fn version_1_is_read_and_written_as_ever() {
    let fresh = tempfile::tempdir().unwrap();
    let last = write_fixture(fresh.path());
    if std::env::var_os("UPDATE_FIXTURES").is_some() && !fixture_dir().exists() {
        std::fs::create_dir_all(fixture_dir()).unwrap();
        copy_folder(fresh.path(), &fixture_dir());
    }
    let names = Disk::default().list(&fixture_dir()).unwrap();
    assert_eq!(names, Disk::default().list(fresh.path()).unwrap());
    for name in &names {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert!(read(&fixture_dir()) == read(fresh.path()), "{name} is written in another form than version 1");
    }

    let dir = tempfile::tempdir().unwrap();
    copy_folder(&fixture_dir(), dir.path());
    let (reader, recovered) = JournalReader::open(Disk::default(), dir.path()).unwrap();
    assert_eq!((recovered.journal_id, recovered.incarnation, recovered.last_batch), (0x6d65_6564, 2, 18));
    assert_eq!(recovered.cut.unwrap().batch, 19);
    check(&reader, &last);
    drop(reader);
    let (mut journal, reader, recovered) = Journal::open(Disk::default(), dir.path(), fixture_options()).unwrap();
    assert_eq!((recovered.incarnation, recovered.copied_batches, recovered.last_batch), (3, 1, 18));
    let mut last = last;
    fill(&mut journal, &mut Random(2), &mut last, 3);
    check(&reader, &last);
}
