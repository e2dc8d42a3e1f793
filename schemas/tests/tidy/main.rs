//! Rules of the source tree that no compiler checks. Each failure says what to do.
//!
//! A ratchet names what is over a bound today, with the reason and its size: it may shrink, never grow, and the entry
//! goes when the bound is met.
#![allow(clippy::unwrap_used)]

mod ignored;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use source::Source;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Files over the bound: (path, lines, reason).
const LONG_FILES: &[(&str, usize, &str)] = &[];

/// Functions over the bound: (path, name, lines, reason).
const LONG_FUNCTIONS: &[(&str, &str, usize, &str)] = &[
    ("schemas/src/codec.rs", "put_detail", 75, "one arm per kind of record"),
    ("schemas/src/command.rs", "write_canonical", 101, "one arm per command"),
];

/// Where a dependency may be used: (its name in paths, path prefixes). A prefix ends in `/` or names a file.
const HOMES: &[(&str, &[&str])] = &[
    ("hyper", &["gateway/", "loadtest/", "benches/"]),
    ("hyper_util", &["gateway/", "loadtest/", "benches/"]),
    // The shard's shell, its mailbox, and what starts it.
    ("ractor", &["engine/src/actor.rs", "engine/src/inbox.rs", "engine/src/start.rs"]),
    ("scylla", &["engine/src/journal/cql/", "engine/src/store/cql/"]),
    ("rdkafka", &["engine/src/publish/kafka.rs", "engine/src/publish/kafka/", "engine/src/publish/tests", "benches/"]),
    ("fjall", &["engine/src/store.rs", "engine/src/store/", "engine/src/aliases.rs", "engine/src/aliases/"]),
];

/// Crates whose `lib.rs` declares its modules in the order in which they use each other.
const ORDERED: &[&str] = &["schemas", "engine", "gateway", "loadtest", "benches", "engine/fuzz"];

/// Where tests wait for what has no event: the only places that may rest between two looks.
const WAITS: &[&str] = &["benches/tests/support/wait.rs", "gateway/tests/support/wait.rs"];

/// Text that has no place in any file: folders and registries of one machine or another.
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("crates", ".io/api"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("proxy.", "golang.org"),
    concat!("registry.", "npmjs.org"),
    concat!("pypi", ".org"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Paths of the tree's files, relative to its root, without version control and what it ignores.
fn files() -> Vec<String> {
    let found = ignored::files(&root());
    assert!(found.iter().any(|path| path == "schemas/src/lib.rs"), "the tree was not found");
    found
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    let mut sources: Vec<Source> =
        rust.map(|path| Source::new(std::fs::read_to_string(root().join(&path)).unwrap(), path)).collect();
    let test_modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let of_module = |module: &String| {
            source.path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        source.is_test = source.is_test || test_modules.iter().any(of_module);
    }
    sources
}

/// Fails with all complaints at once.
fn report(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}\n  {}\n", complaints.join("\n  "));
}

#[test]
fn files_are_short() {
    let mut complaints = Vec::new();
    let mut ratchet: BTreeMap<_, _> = LONG_FILES.iter().map(|(path, lines, _)| (*path, *lines)).collect();
    for source in sources() {
        let lines = source.text.lines().count();
        let bound = ratchet.remove(source.path.as_str());
        match bound {
            None if lines > FILE_LINES_MAX => {
                complaints.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path));
            }
            Some(bound) if lines > bound => {
                complaints.push(format!("{}: {lines} lines, grown from {bound}", source.path));
            }
            Some(_) if lines <= FILE_LINES_MAX => {
                complaints.push(format!("{} is short now: take it from LONG_FILES", source.path));
            }
            _ => {}
        }
    }
    complaints.extend(ratchet.into_keys().map(|path| format!("{path} is gone: take it from LONG_FILES")));
    report("Split a file by what its parts are about.", &complaints);
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    let mut ratchet: BTreeMap<_, _> =
        LONG_FUNCTIONS.iter().map(|(path, name, lines, _)| ((path.to_string(), name.to_string()), *lines)).collect();
    for source in sources() {
        for function in source.functions() {
            let allowed = ratchet.get(&(source.path.clone(), function.name.clone())).copied();
            if function.lines > allowed.unwrap_or(FUNCTION_LINES_MAX) {
                let (path, line, name, lines) = (&source.path, function.line, &function.name, function.lines);
                complaints.push(format!("{path}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
            }
            if function.lines > FUNCTION_LINES_MAX {
                ratchet.remove(&(source.path.clone(), function.name));
            }
        }
    }
    let stale = ratchet.into_keys().map(|(path, name)| format!("{path}: fn {name}: take it from LONG_FUNCTIONS"));
    complaints.extend(stale);
    report("Split a function; only a flat ladder of decisions may be in LONG_FUNCTIONS.", &complaints);
}

#[test]
fn modules_use_only_modules_declared_below_them() {
    let sources = sources();
    let mut complaints = Vec::new();
    for crate_folder in ORDERED {
        let prefix = format!("{crate_folder}/src/");
        let Some(library) = sources.iter().find(|source| source.path == format!("{prefix}lib.rs")) else { continue };
        let order = library.modules();
        let rank = |module: &str| order.iter().position(|name| name == module);
        for source in sources.iter().filter(|source| source.path.starts_with(&prefix)) {
            let module = source.path[prefix.len()..].split(['/', '.']).next().unwrap();
            let Some(own) = rank(module) else { continue };
            for (line, used) in source.crate_modules() {
                if rank(&used).is_some_and(|used| used < own) {
                    complaints.push(format!("{}:{line}: uses crate::{used}, declared above {module}", source.path));
                }
            }
        }
    }
    report("Move the shared part below both, or the mod line in lib.rs.", &complaints);
}

#[test]
fn dependencies_stay_at_home() {
    let mut complaints = Vec::new();
    for source in sources() {
        for (dependency, homes) in HOMES {
            if homes.iter().any(|home| source.path.starts_with(home)) {
                continue;
            }
            let lines = source.lines_with_path_to(dependency);
            complaints.extend(lines.map(|line| format!("{}:{line}: uses {dependency}", source.path)));
        }
    }
    report("Each of these has its places, in HOMES; elsewhere the code must not know it.", &complaints);
}

#[test]
fn no_unfinished_or_careless_code() {
    /// (text, allowed in tests, what to do).
    const FORBIDDEN: &[(&str, bool, &str)] = &[
        (".unwrap()", true, "return an error, or say why it cannot fail by expect"),
        ("todo!(", false, "write it"),
        ("unimplemented!(", false, "write it"),
        ("dbg!(", false, "remove it"),
        ("#[ignore", false, "a test runs or goes"),
    ];
    let mut complaints = Vec::new();
    for source in sources() {
        for (number, line, in_test) in source.code_lines() {
            for (text, allowed_in_tests, advice) in FORBIDDEN {
                if line.contains(text) && !(in_test && *allowed_in_tests) {
                    complaints.push(format!("{}:{number}: {text} – {advice}", source.path));
                }
            }
            let is_rest = ["sleep(", "sleep_until("].iter().any(|rest| line.contains(rest))
                || line.contains("park_timeout") && !WAITS.contains(&source.path.as_str());
            if in_test && is_rest {
                complaints.push(format!("{}:{number}: a test waits for what it needs, through {WAITS:?}", source.path));
            }
        }
    }
    report("What is not there is not hidden.", &complaints);
}

#[test]
fn no_path_or_host_of_one_machine() {
    let mut complaints = Vec::new();
    for path in files() {
        // Cargo names its registry in the lock file; ids there are not hosts that anybody connects to by our will.
        if path == "Cargo.lock" {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        for (index, line) in text.lines().enumerate() {
            let found = FOREIGN.iter().find(|foreign| line.contains(**foreign));
            complaints.extend(found.map(|foreign| format!("{path}:{}: {foreign}", index + 1)));
        }
    }
    report("The project speaks of itself alone: use relative paths and placeholders.", &complaints);
}

#[test]
fn every_crate_has_the_workspaces_lints() {
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| path.ends_with("/Cargo.toml")) {
        let manifest = std::fs::read_to_string(root().join(path)).unwrap();
        if !manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!("{path} has no `[lints] workspace = true`"));
        }
        for inherited in ["version", "edition", "license", "publish"] {
            if !manifest.contains(&format!("{inherited}.workspace = true")) {
                complaints.push(format!("{path} has no `{inherited}.workspace = true`"));
            }
        }
    }
    report("One place decides: the workspace.", &complaints);
}
