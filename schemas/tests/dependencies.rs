//! Every dependency comes from an allowed source under an allowed licence, as `ops/dependencies.toml` states.
//!
//! Works without a network: it reads the manifests that Cargo has fetched for this build already.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    /// Licence → why it is acceptable.
    licences: BTreeMap<String, String>,
    /// Source → why.
    sources: BTreeMap<String, String>,
    /// Package → licence text that it states, and why it is acceptable although no rule covers it.
    exceptions: BTreeMap<String, Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    licence: String,
    reason: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev` for tests.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rules() -> Rules {
    toml::from_str(&std::fs::read_to_string(root().join("ops/dependencies.toml")).unwrap()).unwrap()
}

/// Packages of a build for this machine. Those of other platforms are not fetched, so their licences are unknown here.
fn packages() -> Vec<Package> {
    let host = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())).arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host])
        .current_dir(root())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed; is Cargo.lock up to date?\n{errors}");
    serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages
}

/// Whether a licence expression (SPDX, or the older `A/B`) can be met with the allowed licences.
fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    let met = any(&mut words, allowed)?;
    if words.is_empty() { Ok(met) } else { Err(format!("{expression} is no licence expression")) }
}

fn any(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut met = all(words, allowed)?;
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        met |= all(words, allowed)?;
    }
    Ok(met)
}

fn all(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut met = one(words, allowed)?;
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        met &= one(words, allowed)?;
    }
    Ok(met)
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let (&first, rest) = words.split_first().ok_or("a licence is missing at the end")?;
    *words = rest;
    if first == "(" {
        let met = any(words, allowed)?;
        let (&close, rest) = words.split_first().ok_or("a parenthesis is not closed")?;
        *words = rest;
        return if close == ")" { Ok(met) } else { Err(format!("{close} where a parenthesis should close")) };
    }
    if let [with, exception, rest @ ..] = *words
        && *with == "WITH"
    {
        *words = rest;
        return Ok(allowed(&format!("{first} WITH {exception}")));
    }
    Ok(allowed(first))
}

#[test]
fn every_licence_is_allowed() {
    let rules = rules();
    let mut complaints = Vec::new();
    let mut unused: BTreeSet<_> = rules.exceptions.keys().cloned().collect();
    for package in packages() {
        let stated = package.license.unwrap_or_default();
        let exception = rules.exceptions.get(&package.name).filter(|exception| exception.licence == stated);
        if exception.is_some() {
            unused.remove(&package.name);
        } else if satisfied(&stated, &|licence| rules.licences.contains_key(licence)) != Ok(true) {
            complaints.push(format!("{} {} is under `{stated}`", package.name, package.version));
        }
    }
    complaints.extend(unused.into_iter().map(|name| format!("the exception for {name} is not needed")));
    let advice = "Take another library, or state in ops/dependencies.toml why the licence is acceptable.";
    assert!(complaints.is_empty(), "{advice}\n  {}\n", complaints.join("\n  "));
}

#[test]
fn every_source_is_allowed() {
    let rules = rules();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: Lock = toml::from_str(&lock).unwrap();
    assert!(lock.package.len() > 100, "the lock file has too few packages to be the workspace's");
    let mut complaints = Vec::new();
    for package in lock.package {
        // Without a source it is a member of the workspace, found by its path.
        let Some(source) = package.source else {
            if !package.name.starts_with("meed-") {
                complaints.push(format!("{} comes from a folder", package.name));
            }
            continue;
        };
        if !rules.sources.contains_key(&source) {
            complaints.push(format!("{} {} comes from {source}", package.name, package.version));
        }
        if package.checksum.is_none() {
            complaints.push(format!("{} {} has no checksum", package.name, package.version));
        }
    }
    let advice = "Dependencies come from the registry with a checksum; ops/dependencies.toml lists the sources.";
    assert!(complaints.is_empty(), "{advice}\n  {}\n", complaints.join("\n  "));
}

#[test]
fn every_rule_has_its_reason_and_its_use() {
    let rules = rules();
    let reasons = rules.licences.values().chain(rules.sources.values());
    let mut reasons = reasons.chain(rules.exceptions.values().map(|exception| &exception.reason));
    assert!(reasons.all(|reason| reason.len() > 10), "a rule without its reason");
    let packages = packages();
    assert!(packages.iter().any(|package| package.source.is_some()));
    for licence in rules.licences.keys() {
        let needed = packages.iter().any(|package| {
            let stated = package.license.as_deref().unwrap_or_default();
            let without = |name: &str| name != licence && rules.licences.contains_key(name);
            !rules.exceptions.contains_key(&package.name) && satisfied(stated, &without) != Ok(true)
        });
        assert!(needed, "no package needs {licence}: take it from ops/dependencies.toml");
    }
}

/// Members of the workspace that others may use: dependencies run one way.
#[test]
fn the_harness_knows_the_node_only_by_its_contract() {
    let packages = packages();
    let harness = packages.iter().find(|package| package.name == "meed-loadtest").unwrap();
    let used = harness.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
    let members: Vec<&str> = used.map(|used| used.name.as_str()).filter(|name| name.starts_with("meed-")).collect();
    assert_eq!(members, ["meed-schemas"], "the harness talks HTTP; it must not share code with what it measures");
}

#[test]
fn licence_expressions() {
    let allowed = |licence: &str| ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].contains(&licence);
    for (expression, expected) in [
        ("MIT", Ok(true)),
        ("GPL-3.0", Ok(false)),
        ("MIT/GPL-3.0", Ok(true)),
        ("MIT AND GPL-3.0", Ok(false)),
        ("GPL-3.0 OR MIT AND Zlib", Ok(true)),
        ("(MIT OR GPL-3.0) AND Unicode-3.0", Ok(false)),
        ("(MIT OR GPL-3.0) AND (Zlib)", Ok(true)),
        ("Apache-2.0 WITH LLVM-exception", Ok(true)),
        ("Apache-2.0", Ok(false)),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
    for malformed in ["", "(MIT", "MIT)", "MIT MIT", "MIT OR"] {
        assert!(satisfied(malformed, &allowed).is_err(), "{malformed}");
    }
}
