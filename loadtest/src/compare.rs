//! Two sets of repeated runs, figure by figure: medians, and whether the difference is more than noise.
#![allow(clippy::float_arithmetic, reason = "ratios of figures for people")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::error::Fault;
use crate::figures::{mann_whitney, median};
use crate::output::SUMMARY_FILE;
use crate::summary::Summary;
use crate::verdict::{EXIT_CORRECTNESS, EXIT_FAILED, EXIT_INVALID, EXIT_THRESHOLD, worst};

/// A difference is significant when noise would show it less often than this.
const SIGNIFICANCE: f64 = 0.05;
/// Runs of each side below which no difference can be significant: all orders of 3 and 3 are too few.
const RUNS_MIN: usize = 4;

/// Figures that are compared: name, unit, and whether more is better.
const FIGURES: &[(&str, &str, bool)] = &[
    ("p50", "ms", false),
    ("p90", "ms", false),
    ("p99", "ms", false),
    ("p99.9", "ms", false),
    ("max", "ms", false),
    ("service_p50", "ms", false),
    ("service_p99", "ms", false),
    ("rate", "/s", true),
    ("goodput", "/s", true),
    ("errors", "%", false),
    ("server_cpu_ms_per_1000", "ms", false),
    ("server_bytes_per_connection", "B", false),
];

/// The comparison.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) text: String,
    /// What keeps a pipeline from passing, as the exit code that says so: runs with wrong books, invalid runs, or a
    /// figure that became significantly worse by more than `noise_percent`. None of them: 0.
    pub(crate) exit_code: u8,
}

/// Compares the runs under two paths: a summary, or folders that hold some.
///
/// # Errors
/// There is none, or the environments differ and `allows_differences` is not set.
pub(crate) fn compare(
    before: &Path,
    after: &Path,
    allows_differences: bool,
    noise_percent: f64,
) -> Result<Comparison, Fault> {
    let (left, right) = (load(before)?, load(after)?);
    let differences = differences(&left, &right);
    if !differences.is_empty() && !allows_differences {
        return Err(Fault::Usage(format!(
            "these runs do not compare: {}; --allow-different-environments compares them all the same",
            differences.join("; ")
        )));
    }
    let mut text = format!("{} runs of {} and {} of {}\n", left.len(), before.display(), right.len(), after.display());
    for difference in differences {
        let _ = writeln!(text, "warning: {difference}");
    }
    // Figures of such runs say nothing, so no comparison of them may pass for one without a regression.
    let mut codes = Vec::new();
    for (runs, path) in [(&left, before), (&right, after)] {
        for (code, what) in
            [(EXIT_CORRECTNESS, "had wrong books"), (EXIT_FAILED, "failed"), (EXIT_INVALID, "were invalid")]
        {
            let bad = runs.iter().filter(|run| run.verdict.exit_code == code).count();
            if bad > 0 {
                codes.push(code);
                let _ = writeln!(text, "warning: {bad} runs of {} {what}", path.display());
            }
        }
    }
    if left.len() < RUNS_MIN || right.len() < RUNS_MIN {
        // That nothing is told from noise must not pass for no regression.
        codes.push(EXIT_INVALID);
        let _ =
            writeln!(text, "fewer than {RUNS_MIN} runs of each: no difference can be told from noise (run --repeat)");
    }
    let _ = writeln!(text, "{:<28}{:>14}{:>14}{:>10}{:>9}", "", "before", "after", "change", "p");
    for (name, unit, more_is_better) in FIGURES {
        let of = |runs: &[Summary]| runs.iter().filter_map(|run| run.figures.get(*name).copied()).collect::<Vec<f64>>();
        let (values, others) = (of(&left), of(&right));
        if values.is_empty() || others.is_empty() {
            continue;
        }
        let (from, to, p) = (median(&values), median(&others), mann_whitney(&values, &others));
        let rises_from_nothing = from == 0.0 && to != 0.0;
        let change = if from == 0.0 { 0.0 } else { (to / from - 1.0) * 100.0 };
        let is_worse = if *more_is_better { to < from } else { to > from };
        let is_significant = p < SIGNIFICANCE;
        let change_text = match is_significant {
            true if rises_from_nothing => "from 0".to_owned(),
            true => format!("{change:+.1} %"),
            false => "~".to_owned(),
        };
        let regressed = is_significant && is_worse && (change.abs() > noise_percent || rises_from_nothing);
        let mark = if regressed {
            codes.push(EXIT_THRESHOLD);
            "  worse"
        } else if is_significant && !is_worse {
            "  better"
        } else {
            ""
        };
        let _ =
            writeln!(text, "{:<28}{from:>14.3}{to:>14.3}{change_text:>10}{p:>9.3}{mark}", format!("{name} ({unit})"));
    }
    Ok(Comparison { text, exit_code: worst(&codes) })
}

/// Whatever makes figures of the two sides incomparable.
fn differences(left: &[Summary], right: &[Summary]) -> Vec<String> {
    let Some(first) = left.first() else { return Vec::new() };
    let mut found = Vec::new();
    for run in left.iter().chain(right) {
        let (one, other) = (&first.environment, &run.environment);
        let pairs = [
            ("processor", one.coordinator.processor.clone(), other.coordinator.processor.clone()),
            ("cores", one.coordinator.cores.to_string(), other.coordinator.cores.to_string()),
            ("kernel", one.coordinator.kernel.clone(), other.coordinator.kernel.clone()),
            ("same machine", one.same_host.to_string(), other.same_host.to_string()),
            ("server processes", one.server_processes.to_string(), other.server_processes.to_string()),
            ("node flags", one.node_flags.join(" "), other.node_flags.join(" ")),
            ("generator processes", first.generator.processes.to_string(), run.generator.processes.to_string()),
            ("targets", one.targets.len().to_string(), other.targets.len().to_string()),
            ("harness", one.harness_version.clone(), other.harness_version.clone()),
            ("loop", first.mode.clone(), run.mode.clone()),
            ("ended after", ended_after(first), ended_after(run)),
            ("scenario", comparable(first), comparable(run)),
        ];
        for (name, one, other) in pairs {
            let text = match name {
                "scenario" => "the scenarios differ".to_owned(),
                _ => format!("{name}: {one} and {other}"),
            };
            if one != other && !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found
}

/// Where the schedule of a run ended. A replay gets its only stage when it runs, so its scenario does not tell.
fn ended_after(run: &Summary) -> String {
    run.ended_after_seconds.map_or_else(|| "its last stage".to_owned(), |seconds| format!("{seconds} s"))
}

/// The scenario but for what does not change the load.
fn comparable(run: &Summary) -> String {
    let mut scenario = run.scenario.clone();
    scenario.require.clear();
    scenario.description.clear();
    serde_json::to_string(&scenario).unwrap_or_default()
}

fn load(path: &Path) -> Result<Vec<Summary>, Fault> {
    let mut files = Vec::new();
    find(path, 2, &mut files);
    files.sort();
    if files.is_empty() {
        return Err(Fault::Usage(format!("{} holds no {SUMMARY_FILE}", path.display())));
    }
    let read = |file: &PathBuf| {
        let text = std::fs::read(file).map_err(|error| Fault::failed(file.display(), error))?;
        serde_json::from_slice(&text).map_err(|error| Fault::failed(file.display(), error))
    };
    files.iter().map(read).collect()
}

fn find(path: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        return files.push(path.to_owned());
    }
    let here = path.join(SUMMARY_FILE);
    if here.is_file() {
        return files.push(here);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| depth > 0 && entry.path().is_dir()) {
        find(&entry.path(), depth - 1, files);
    }
}
