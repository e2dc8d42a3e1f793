//! Several processes, source addresses, and agents.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::stub::{Stub, Vice, pause};
use crate::{Setup, outcome, program, run, running, scenario};

#[test]
fn processes_share_a_schedule_and_their_histograms_are_merged() {
    let stub = Stub::start(Vice::None);
    let arguments = ["--processes", "3", "--sources", "127.0.0.1,127.0.0.2,127.0.0.3"].map(str::to_owned).to_vec();
    let ran = run(stub.address, &Setup { arguments, ..Setup::default() });
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(ran.number("/generator/processes"), 3.0);
    assert_eq!(ran.number("/connections/open"), 8.0);
    let scheduled = ran.number("/measured/scheduled");
    // 600 are expected; six deviations of a Poisson count are 147.
    assert!((450.0..750.0).contains(&scheduled), "{scheduled}");
    assert_eq!(ran.number("/measured/latency/count"), scheduled);
    assert_eq!(stub.earns() as f64, scheduled);
}

/// A coordinator that waits for agents: itself, their token, and where they come to.
fn coordinator(stub: &Stub, folder: &tempfile::TempDir, setup: Setup, agents: &str) -> (Child, String, String) {
    let more = ["--agents", agents, "--agents-listen", "127.0.0.1:0"].map(str::to_owned);
    let arguments = setup.arguments.iter().cloned().chain(more).collect();
    let mut command = running(stub.address, &Setup { arguments, ..setup }, folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let invitation = lines.find(|line| line.contains("meed-loadtest agent")).unwrap();
    let (token, port) = invitation.trim().split_once(" meed-loadtest agent THIS_HOST:").unwrap();
    let token = token.strip_prefix("MEED_LOADTEST_TOKEN=").unwrap().to_owned();
    std::thread::spawn(move || lines.count());
    (child, token, format!("127.0.0.1:{port}"))
}

fn agent(address: &str, token: &str, processes: &str) -> Child {
    let mut agent = program();
    agent.args(["agent", address, "--processes", processes]).env("MEED_LOADTEST_TOKEN", token);
    agent.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn agents_bring_their_processes_load_after_load_when_they_know_the_token() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { arguments: ["--repeat", "2"].map(str::to_owned).to_vec(), ..Setup::default() };
    let (child, token, address) = coordinator(&stub, &folder, setup, "2");
    // A stranger is not let in, and learns why; the run waits for the two that it knows.
    let stranger = agent(&address, "guessed", "1").wait_with_output().unwrap();
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(stranger.status.code() == Some(1) && said.contains("is not the token"), "{said}");
    let agent = agent(&address, &token, "2");
    let output = child.wait_with_output().unwrap();
    // The coordinator is done, and so is the agent.
    let ended = agent.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let out = folder.path().join("out");
    let mut sent = 0.0;
    for run in ["run-1", "run-2"] {
        let text = std::fs::read(out.join(run).join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(summary["generator"]["processes"], 2);
        sent += summary["measured"]["sent"].as_f64().unwrap();
    }
    let ran = outcome(output, folder);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert_eq!(stub.earns() as f64, sent);
}

#[test]
fn a_load_that_failed_is_not_repeated_with_agents_that_are_gone() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--repeat", "2"].map(str::to_owned).to_vec();
    let (mut child, token, address) =
        coordinator(&stub, &folder, Setup { seconds: 600, arguments, ..Setup::default() }, "1");
    let mut agent = agent(&address, &token, "1");
    while stub.earns() == 0 {
        pause(Duration::from_millis(5));
    }
    kill_process(children(&agent)[0], Signal::KILL).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(1));
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        pause(Duration::from_millis(20));
    }
    // Of one that waits for agents it is the end; one that has ended has its own.
    let _ = child.kill();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let out = folder.path().join("out");
    assert!(out.join("run-1/summary.json").exists() && !out.join("run-2").exists());
}

#[test]
fn a_search_that_was_interrupted_tells_of_wrong_books() {
    let stub = Stub::start(Vice::AppliesTwice(20));
    let folder = tempfile::tempdir().unwrap();
    let mut command = program();
    command.arg("search").arg(scenario(&Setup { connections: 1, ..Setup::default() }, &folder));
    command.args(["--target", &stub.address.to_string(), "--from", "12", "--to", "24", "--seconds", "600"]);
    command.args(["--set", "arrivals=\"uniform\"", "--out"]).arg(folder.path().join("out"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while stub.earns() < 24 {
        pause(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = outcome(child.wait_with_output().unwrap(), folder);
    assert_eq!(ran.code, 98, "{}", ran.text);
    assert_eq!(ran.summary["verdict"]["result"], "correctness", "{}", ran.text);
    assert!(ran.number("/ended_after_seconds") > 1.0 && ran.text.contains("the search ended here"), "{}", ran.text);
}

#[test]
fn an_agent_that_loses_its_coordinator_in_the_middle_says_so() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let (mut child, token, address) = coordinator(&stub, &folder, Setup { seconds: 600, ..Setup::default() }, "1");
    let agent = agent(&address, &token, "1");
    while stub.earns() == 0 {
        pause(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = agent.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("went away"), "{said}");
}

/// Starts a run of ten minutes, and interrupts it when it says something.
fn interrupted(stub: &Stub, folder: &tempfile::TempDir, arguments: [&str; 4], when: &str) -> Child {
    let arguments = arguments.map(str::to_owned).to_vec();
    let mut command = running(stub.address, &Setup { seconds: 600, arguments, ..Setup::default() }, folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains(when)).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // It is read to the end, so that nobody writes into a closed pipe.
    std::thread::spawn(move || lines.count());
    child
}

#[test]
fn a_signal_ends_the_schedule_and_the_books_are_read() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    // A line of progress: the load runs. The second run does not begin.
    let arguments = ["--processes", "2", "--repeat", "2"];
    let output = interrupted(&stub, &folder, arguments, "in flight").wait_with_output().unwrap();
    let out = folder.path().join("out");
    assert!(!out.join("run-2").exists());
    std::fs::rename(out.join("run-1/summary.json"), out.join("summary.json")).unwrap();
    let ran = outcome(output, folder);
    assert_eq!(ran.code, 0, "{}", ran.text);
    let seconds = ran.number("/ended_after_seconds");
    assert!((1.0..100.0).contains(&seconds), "{seconds}");
    assert_eq!(ran.number("/measured/seconds"), seconds);
    assert_eq!(ran.number("/scenario/stages/0/seconds"), seconds);
    assert_eq!(ran.number("/measured/completed"), ran.number("/measured/scheduled"));
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
    assert_eq!(ran.number("/correctness/acknowledged_transactions"), stub.earns() as f64);
    assert!(ran.text.contains("ended early, after"), "{}", ran.text);
}

/// Processes that this one has started, whichever of its threads did.
fn children(child: &Child) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    // A thread may end meanwhile.
    let found = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")));
    let found: String = found.filter_map(Result::ok).collect();
    found.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

#[test]
fn a_process_that_goes_away_leaves_a_report_of_what_was_measured() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--processes", "2"].map(str::to_owned).to_vec();
    let mut command = running(stub.address, &Setup { seconds: 600, arguments, ..Setup::default() }, &folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    // Two seconds of the load.
    assert_eq!(lines.by_ref().filter(|line| line.contains("in flight")).take(2).count(), 2);
    kill_process(children(&child)[0], Signal::KILL).unwrap();
    std::thread::spawn(move || lines.count());
    let ran = outcome(child.wait_with_output().unwrap(), folder);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "not proven");
    assert!(ran.summary["failures"][0].as_str().unwrap().contains("went away"), "{}", ran.text);
    assert!(ran.number("/measured/completed") > 100.0, "{}", ran.text);
    assert!((1.0..60.0).contains(&ran.number("/ended_after_seconds")), "{}", ran.text);
}

/// A program that says that it listens where a stub does, and ends after a while as it is told to.
pub(crate) fn pretender(stub: &Stub, folder: &tempfile::TempDir, then: &str) -> String {
    let path = folder.path().join("node");
    let text = format!("#!/bin/sh\necho listening on http://{}\n{then}\n", stub.address);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_bare_run_that_lost_a_process_gives_no_ratio() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let path = scenario(&Setup { seconds: 3, require: "conservation,bare_ratio>0.01", ..Setup::default() }, &folder);
    let node = pretender(&stub, &folder, "trap 'exit 0' TERM\nsleep 60 &\nwait");
    let mut command = program();
    command.arg("run").arg(path).args(["--start-node", "--node", &node, "--beside", &node, "--data-parent"]);
    command.arg(folder.path()).arg("--out").arg(folder.path().join("out"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Half of the load, so that there is a goodput.
    while stub.earns() < 450 {
        pause(Duration::from_millis(5));
    }
    let name = |pid: &Pid| std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap();
    let makes_load = |pid: &Pid| name(pid).trim() == "meed-loadtest";
    kill_process(children(&child).into_iter().find(makes_load).unwrap(), Signal::KILL).unwrap();
    let ran = outcome(child.wait_with_output().unwrap(), folder);
    assert_eq!(ran.code, 99, "{}", ran.text);
    assert!(ran.number("/bare/measured/goodput_per_second") > 0.0, "{}", ran.text);
    assert!(ran.summary["bare"]["ratio"].is_null() && ran.text.contains("there is no ratio"), "{}", ran.text);
    assert!(ran.summary["bare"]["failures"][0].as_str().unwrap().contains("went away"), "{}", ran.text);
    assert!(ran.text.contains("bare_ratio>0.01 names no figure of this run"), "{}", ran.text);
}

#[test]
fn a_server_that_ends_badly_leaves_a_report_of_what_was_measured() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let path = scenario(&Setup::default(), &folder);
    let mut command = program();
    command.arg("run").arg(path).args(["--start-node", "--node", &pretender(&stub, &folder, "sleep 1; exit 3")]);
    command.arg("--data-parent").arg(folder.path()).arg("--out").arg(folder.path().join("out"));
    let ran = outcome(command.output().unwrap(), folder);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert_eq!(ran.summary["correctness"]["conservation"], "holds");
    assert!(ran.summary["failures"][0].as_str().unwrap().contains("exit status: 3"), "{}", ran.text);
}

#[test]
fn a_started_server_does_not_outlive_a_harness_that_is_killed() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    let path = scenario(&Setup { seconds: 600, ..Setup::default() }, &folder);
    let mut command = program();
    command.arg("run").arg(path).args(["--start-node", "--node", &pretender(&stub, &folder, "exec sleep 600")]);
    command.arg("--data-parent").arg(folder.path()).arg("--out").arg(folder.path().join("out"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    while stub.earns() == 0 {
        pause(Duration::from_millis(5));
    }
    let started = children(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    let runs = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert_eq!(started.len(), 2, "the server and a process that makes load");
    let deadline = Instant::now() + Duration::from_secs(20);
    while started.iter().any(runs) {
        assert!(Instant::now() < deadline, "{started:?} still run; this test needs setpriv, of util-linux");
        pause(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_before_the_load_ends_the_program() {
    let stub = Stub::start(Vice::None);
    let folder = tempfile::tempdir().unwrap();
    // Nobody comes.
    let arguments = ["--agents", "1", "--agents-listen", "127.0.0.1:0"];
    let mut child = interrupted(&stub, &folder, arguments, "meed-loadtest agent");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
