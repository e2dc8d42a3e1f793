//! `compare`: noise is noise, a difference is one, and unlike machines are refused.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::stub::{Stub, Vice};
use crate::{Setup, program, run};

fn write_runs(folder: &Path, summary: &Value, p99: &[f64], change: &dyn Fn(&mut Value)) {
    for (number, p99) in p99.iter().enumerate() {
        let mut summary = summary.clone();
        summary["figures"]["p99"] = json!(p99);
        change(&mut summary);
        let folder = folder.join(format!("run-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
    }
}

#[test]
fn only_differences_beyond_noise_count() {
    let ran = run(Stub::start(Vice::None).address, &Setup { seconds: 1, ..Setup::default() });
    let folder = tempfile::tempdir().unwrap();
    let side = |name: &str| folder.path().join(name);
    let same = |_: &mut Value| {};
    write_runs(&side("before"), &ran.summary, &[10.0, 11.0, 12.0, 13.0, 14.0], &same);
    write_runs(&side("noise"), &ran.summary, &[10.5, 9.0, 12.5, 13.5, 15.0], &same);
    write_runs(&side("worse"), &ran.summary, &[20.0, 21.0, 22.0, 23.0, 24.0], &same);
    write_runs(&side("few"), &ran.summary, &[20.0, 21.0], &same);
    let other_machine = |summary: &mut Value| summary["environment"]["coordinator"]["processor"] = json!("another");
    write_runs(&side("elsewhere"), &ran.summary, &[20.0; 5], &other_machine);
    let other_load = |summary: &mut Value| summary["scenario"]["connections"] = json!(9);
    write_runs(&side("other-load"), &ran.summary, &[20.0; 5], &other_load);

    let compare = |after: &str, flags: &[&str]| -> (i32, String) {
        let mut command = program();
        let output: Output = command.arg("compare").arg(side("before")).arg(side(after)).args(flags).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    };
    let line = |text: &str| text.lines().find(|line| line.starts_with("p99 ")).unwrap().to_owned();

    let (code, text) = compare("noise", &["--fail-on-regression"]);
    assert!(code == 0 && line(&text).contains('~'), "{text}");
    let (code, text) = compare("worse", &["--fail-on-regression"]);
    assert!(code == 99 && line(&text).contains("+83.3 %") && line(&text).contains("worse"), "{text}");
    assert_eq!(compare("worse", &[]).0, 0);
    assert_eq!(compare("worse", &["--fail-on-regression", "--noise-percent", "90"]).0, 0);
    let (code, text) = compare("few", &["--fail-on-regression"]);
    assert!(code == 97 && text.contains("fewer than 4 runs"), "{text}");
    assert_eq!(compare("few", &[]).0, 0);
    write_runs(&side("erring"), &ran.summary, &[10.0; 5], &|summary| summary["figures"]["errors"] = json!(0.5));
    let (code, text) = compare("erring", &["--fail-on-regression"]);
    let errors = text.lines().find(|line| line.starts_with("errors ")).unwrap();
    assert!(code == 99 && errors.contains("from 0") && errors.contains("worse"), "{text}");
    let (code, text) = compare("elsewhere", &[]);
    assert!(code == 2 && text.contains("another"), "{text}");
    assert_eq!(compare("elsewhere", &["--allow-different-environments"]).0, 0);
    let (code, text) = compare("other-load", &[]);
    assert!(code == 2 && text.contains("the scenarios differ"), "{text}");
    assert_eq!(compare("no-such-folder", &[]).0, 2);
    let more_processes = |summary: &mut Value| {
        summary["environment"]["server_processes"] = json!(3);
        summary["environment"]["node_flags"] = json!(["--shards=64"]);
        summary["generator"]["processes"] = json!(2);
    };
    write_runs(&side("other-layout"), &ran.summary, &[20.0; 5], &more_processes);
    let (code, text) = compare("other-layout", &[]);
    assert_eq!(code, 2, "{text}");
    for part in ["server processes: 0 and 3", "node flags:  and --shards=64", "generator processes: 1 and 2"] {
        assert!(text.contains(part), "no {part} in {text}");
    }

    // Figures of runs that say nothing, however good, are no reason to pass; wrong books are the worst.
    let verdict = |result: &'static str, code: u8| {
        move |summary: &mut Value| {
            summary["verdict"]["result"] = json!(result);
            summary["verdict"]["exit_code"] = json!(code);
        }
    };
    write_runs(&side("invalid"), &ran.summary, &[10.0, 11.0, 12.0, 13.0, 14.0], &verdict("invalid", 97));
    let (code, text) = compare("invalid", &["--fail-on-regression"]);
    assert!(code == 97 && text.contains("5 runs of") && text.contains("were invalid"), "{text}");
    assert_eq!(compare("invalid", &[]).0, 0);
    write_runs(&side("wrong"), &ran.summary, &[20.0, 21.0, 22.0, 23.0], &verdict("invalid", 97));
    write_runs(&side("wrong").join("more"), &ran.summary, &[24.0], &verdict("correctness", 98));
    let (code, text) = compare("wrong", &["--fail-on-regression"]);
    assert!(code == 98 && text.contains("1 runs of") && text.contains("had wrong books"), "{text}");
}

#[test]
fn a_run_that_was_ended_early_is_refused_beside_a_whole_one() {
    let ran = run(Stub::start(Vice::None).address, &Setup { seconds: 1, ..Setup::default() });
    let folder = tempfile::tempdir().unwrap();
    let side = |name: &str| folder.path().join(name);
    write_runs(&side("whole"), &ran.summary, &[10.0; 5], &|_| {});
    // Of a replay the scenario has no stage that could be shorter.
    write_runs(&side("ended"), &ran.summary, &[10.0; 5], &|summary| summary["ended_after_seconds"] = json!(1));
    let compare = |one: &str, other: &str| -> (i32, String) {
        let output = program().arg("compare").arg(side(one)).arg(side(other)).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = compare("whole", "ended");
    assert!(code == 2 && text.contains("ended after: its last stage and 1 s"), "{text}");
    let (code, text) = compare("ended", "ended");
    assert_eq!(code, 0, "{text}");
}
