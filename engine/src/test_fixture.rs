//! Bytes that lie in data folders, as files of `schemas/fixtures`: written and read as these for ever.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/fixtures").join(file)
}

/// The bytes of a fixture, which must be `written`. `UPDATE_FIXTURES=1` makes a file where there is none; one that
/// is there stays as it is.
pub(crate) fn whole(file: &str, written: &[u8]) -> Vec<u8> {
    let path = path(file);
    if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, written).unwrap();
    }
    let fixture = std::fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(fixture == written, "{file} is written in another form than ever");
    fixture
}

/// As [`whole`], of several values: a line of each, with its name, a tab and its bytes in hexadecimal digits.
pub(crate) fn lines(file: &str, written: &[(&str, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut text = String::new();
    for (name, bytes) in written {
        write!(text, "{name}\t").unwrap();
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    if !path(file).exists() {
        whole(file, text.as_bytes());
    }
    let fixture = std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (line, expected) in text.lines().zip(fixture.lines()) {
        assert_eq!(line, expected, "{file} is written in another form than ever");
    }
    assert_eq!(text.lines().count(), fixture.lines().count(), "{file}");
    let bytes_of = |line: &str| {
        let digits = line.split_once('\t').unwrap().1;
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(byte).collect()
    };
    fixture.lines().map(bytes_of).collect()
}
