//! The harness against servers that misbehave in one known way each: it must see it, and say what it is.
#![allow(clippy::unwrap_used)]

mod batches;
mod comparing;
mod files;
mod processes;
mod stub;
mod vices;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A scenario as text, with what differs between tests.
pub(crate) struct Setup {
    pub(crate) mode: &'static str,
    pub(crate) connections: u32,
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    pub(crate) more: &'static str,
    pub(crate) require: &'static str,
    pub(crate) arguments: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        let (mode, more, require) = ("open", "", "errors<0.1%,conservation");
        Self { mode, connections: 8, rate: 300, seconds: 2, more, require, arguments: Vec::new() }
    }
}

/// What one run of the program came to.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) summary: Value,
    pub(crate) text: String,
    pub(crate) folder: TempDir,
}

impl Ran {
    #[track_caller]
    pub(crate) fn number(&self, pointer: &str) -> f64 {
        let found = self.summary.pointer(pointer).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no {pointer} in {}", self.text))
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        let all = self.summary["correctness"]["violations"].as_array().unwrap();
        all.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect()
    }
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meed-loadtest"));
    command.stdin(Stdio::null()).env_remove("MEED_LOADTEST_TOKEN");
    command
}

/// Writes the scenario; the tests' machine may be busy, so the generator's own lateness is no matter here.
pub(crate) fn scenario(setup: &Setup, folder: &TempDir) -> PathBuf {
    let Setup { mode, connections, rate, seconds, more, require, .. } = setup;
    let mut text = format!(
        "name = 'test'\nmode = '{mode}'\nconnections = {connections}\ntimeout_ms = 3000\ninterval_ms = 200\nrequire = '{require}'\n"
    );
    let rate = if *mode == "open" { format!("rate = {rate}") } else { String::new() };
    write!(text, "[[stages]]\nname = 'steady'\nseconds = {seconds}\n{rate}\n").unwrap();
    for table in
        ["[accounts]\ncount = 40", "[mix]\nearn_points = 1", "[check]\nresolve_after_ms = 100\nconnections = 4"]
    {
        writeln!(text, "{table}").unwrap();
    }
    if !more.contains("[validity]") {
        text.push_str("[validity]\nlag_p99_us_max = 60_000_000\nsent_percent_min = 90\n");
    }
    text.push_str(more);
    let path = folder.path().join("scenario.toml");
    std::fs::write(&path, text).unwrap();
    path
}

pub(crate) fn outcome(output: Output, folder: TempDir) -> Ran {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let summary = std::fs::read(folder.path().join("out/summary.json")).ok();
    let summary = summary.map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    Ran { code: output.status.code().unwrap(), summary, text, folder }
}

/// The program, about to run against a server, with its files in a folder.
pub(crate) fn running(address: std::net::SocketAddr, setup: &Setup, folder: &TempDir) -> Command {
    let path = scenario(setup, folder);
    let mut command = program();
    command.arg("run").arg(path).args(["--target", &format!("http://{address}"), "--out"]);
    command.arg(folder.path().join("out")).args(&setup.arguments);
    command
}

/// Runs the program against a server.
pub(crate) fn run(address: std::net::SocketAddr, setup: &Setup) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let output = running(address, setup, &folder).output().unwrap();
    outcome(output, folder)
}
