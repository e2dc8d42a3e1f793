//! Power cuts for a real process: it runs over a layer that logs what every write replaced, is killed, and then its
//! files are set back to what was synced, or to any mixture of that and what was written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use crate::load::Random;
use crate::node::Node;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The layer, and the log of one run over it.
pub(crate) struct Layer {
    log: PathBuf,
    settings: Vec<String>,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// Each sector by itself, as the dice fall.
    Some,
}

/// The library, built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lose_unsynced.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/lose_unsynced.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut build = Command::new(compiler);
        build.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&path).arg(source);
        assert!(build.status().unwrap().success(), "the layer cannot be built: {build:?}");
        (folder, path)
    });
    path
}

impl Layer {
    /// A layer whose log is at `log`; settings as the layer's source names them.
    pub(crate) fn new(log: &Path, settings: &[(&str, u64)]) -> Self {
        let settings = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Self { log: log.to_owned(), settings }
    }

    pub(crate) fn try_start(&self, data: &Path, flags: &[&str]) -> Result<Node, (ExitStatus, String)> {
        let mut wrapper = vec![
            "env".to_owned(),
            "MEED_METRICS_LISTEN=off".to_owned(),
            format!("LD_PRELOAD={}", library().display()),
            format!("MEED_LOSE_LOG={}", self.log.display()),
        ];
        wrapper.extend(self.settings.iter().cloned());
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        Node::try_start_under(&wrapper, data, flags)
    }

    /// From now on no sync ends.
    pub(crate) fn hold_syncs(&self) {
        fs::write(self.hold(), []).unwrap();
    }

    /// Syncs end again.
    pub(crate) fn release_syncs(&self) {
        fs::remove_file(self.hold()).unwrap();
    }

    /// How many writes have begun, of any file.
    pub(crate) fn writes(&self) -> usize {
        records(&fs::read(&self.log).unwrap()).iter().filter(|record| record.kind == b'W').count()
    }

    /// From now on no sync succeeds.
    pub(crate) fn fail_syncs(&self) {
        fs::write(self.log.with_added_extension("fail"), []).unwrap();
    }

    fn hold(&self) -> PathBuf {
        self.log.with_added_extension("hold")
    }

    /// Cuts the power of a process that was killed: sets back what it had not synced. Returns how many files were.
    pub(crate) fn cut_power(&self, data: &Path, left: Left, random: &mut Random) -> usize {
        let log = fs::read(&self.log).unwrap();
        let unsynced = unsynced(&log);
        let mut set_back = 0;
        for path in files(data) {
            let Some(writes) = unsynced.get(&path.metadata().unwrap().ino()) else { continue };
            let current = fs::read(&path).unwrap();
            let synced = writes.iter().rev().fold(current.clone(), |content, (_, write)| write.undo(content));
            if synced != current {
                fs::write(&path, mixed(&synced, &current, left, random)).unwrap();
                set_back += 1;
            }
        }
        set_back
    }
}

/// What the layer has noted.
struct Record<'a> {
    kind: u8,
    inode: u64,
    offset: usize,
    /// Length of the file before a write.
    length: usize,
    replaced: &'a [u8],
}

impl Record<'_> {
    /// Takes a write back.
    fn undo(&self, mut content: Vec<u8>) -> Vec<u8> {
        let end = self.offset + self.replaced.len();
        content.resize(content.len().max(end), 0);
        content[self.offset..end].copy_from_slice(self.replaced);
        content.resize(self.length, 0);
        content
    }
}

/// The records of a log. One that is cut off belongs to a write that never began.
fn records(log: &[u8]) -> Vec<Record<'_>> {
    const RECORD_BYTES: usize = 40;
    let (mut rest, mut found) = (log, Vec::new());
    while let Some((record, after)) = rest.split_at_checked(RECORD_BYTES) {
        let field = |n: usize| u64::from_le_bytes(record[n * 8..n * 8 + 8].try_into().unwrap());
        let [kind, inode, offset, length, replaced] = [0, 1, 2, 3, 4].map(field);
        let Some((replaced, after)) = after.split_at_checked(replaced as usize) else { break };
        found.push(Record { kind: kind as u8, inode, offset: offset as usize, length: length as usize, replaced });
        rest = after;
    }
    found
}

/// By inode, the writes that no sync covers, with their numbers in the log, oldest first.
fn unsynced(log: &[u8]) -> BTreeMap<u64, Vec<(usize, Record<'_>)>> {
    let mut writes: BTreeMap<u64, Vec<(usize, Record<'_>)>> = BTreeMap::new();
    for (number, record) in records(log).into_iter().enumerate() {
        let of_file = writes.entry(record.inode).or_default();
        match record.kind {
            b'W' => of_file.push((number, record)),
            b'N' => of_file.clear(),
            b'S' => of_file.retain(|(number, _)| *number >= record.offset),
            _ => panic!("the layer's log is damaged"),
        }
    }
    writes
}

fn mixed(synced: &[u8], current: &[u8], left: Left, random: &mut Random) -> Vec<u8> {
    if left == Left::Nothing {
        return synced.to_vec();
    }
    let length = if random.below(2) == 0 { synced.len() } else { current.len() };
    let mut content = Vec::with_capacity(length);
    while content.len() < length {
        let from = if random.below(2) == 0 { synced } else { current };
        let (start, end) = (content.len(), (content.len() + SECTOR_BYTES).min(length));
        content.extend_from_slice(&from[start.min(from.len())..end.min(from.len())]);
        // Where a file became longer without its bytes, there are zeros.
        content.resize(end, 0);
    }
    content
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
