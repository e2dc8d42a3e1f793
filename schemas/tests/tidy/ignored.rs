//! The files of a tree without those that its `.gitignore` names: build output, data folders and results may lie there
//! and change while the rules are checked, and hold paths of the machine.

use std::path::Path;

/// A line of `.gitignore`: names, with `*` and `?`. Other forms are not used, and not known here.
struct Pattern {
    glob: String,
    /// From the root on; else a name at any depth.
    anchored: bool,
    folders_only: bool,
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        assert!(
            !line.contains(['!', '[', '\\']) && !line.contains("**"),
            ".gitignore: {line} is a form not known here"
        );
        let glob = line.trim_matches('/');
        let anchored = line.starts_with('/') || glob.contains('/');
        Some(Self { glob: glob.to_owned(), anchored, folders_only: line.ends_with('/') })
    }

    fn matches(&self, path: &str, is_folder: bool) -> bool {
        let text = if self.anchored { path } else { path.rsplit('/').next().unwrap_or(path) };
        (is_folder || !self.folders_only) && is_match(self.glob.as_bytes(), text.as_bytes())
    }
}

fn is_match(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), Some((first, others))) => {
            is_match(rest, text) || (*first != b'/' && is_match(glob, others))
        }
        (Some((b'*', rest)), None) => is_match(rest, text),
        (Some((wanted, rest)), Some((first, others))) => {
            (wanted == first || (*wanted == b'?' && *first != b'/')) && is_match(rest, others)
        }
        _ => false,
    }
}

/// Paths of the tree's files, relative to its root and in order.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join(".gitignore")).unwrap();
    let patterns: Vec<Pattern> = text.lines().filter_map(Pattern::parse).collect();
    let mut found = Vec::new();
    walk(root, root, &patterns, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, root: &Path, patterns: &[Pattern], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // In a linked worktree `.git` is a file.
        if name == ".git" || path.is_symlink() || patterns.iter().any(|pattern| pattern.matches(&name, path.is_dir())) {
            continue;
        }
        if path.is_dir() { walk(&path, root, patterns, found) } else { found.push(name) }
    }
}

#[test]
fn what_is_ignored_is_no_part_of_the_tree() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("what_is_ignored");
    let _ = std::fs::remove_dir_all(&root);
    let real = std::fs::read_to_string(super::root().join(".gitignore")).unwrap();
    let kept = [
        ".gitignore",
        "loadtest-results/a",
        "ops/kafka.sh",
        "ops/kafka/library",
        "src/fronts/a",
        "src/lib.rs",
        "src/loadtest-result/a",
        "src/meed-data.rs",
        "src/meed-kafka",
    ];
    let ignored = [
        ".git/config",
        ".tmpx/a",
        "loadtest-123456/log",
        "loadtest-result/report.html",
        "meed-data.fronts/owner.log",
        "meed-data/node.json",
        "meed-kafka/server.log",
        "ops/kafka/lib/a.jar",
        "ops/kafka/lib.lock",
        "src/meed-data/journal/a",
        "src/x.fronts/a",
        "target/debug/a",
    ];
    for path in kept.iter().chain(&ignored) {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), real.as_bytes()).unwrap();
    }
    assert_eq!(files(&root), kept);
}
