//! Whether a run is good: conditions such as `p99<50ms,errors<0.1%,conservation`, and whether it says anything at all.

mod conditions;

use std::collections::BTreeMap;

pub(crate) use conditions::{Threshold, check, parse};

use crate::protocol::NO_RETRY_AFTER;
use crate::scenario::{Mode, Scenario};
use crate::summary::{StageSummary, Summary, ThresholdResult, Verdict, percent};

/// Everything that was required holds.
pub const EXIT_PASS: u8 = 0;
/// The program could not do what it was told.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the scenario is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The run says nothing about the server.
pub const EXIT_INVALID: u8 = 97;
/// The books are wrong.
pub const EXIT_CORRECTNESS: u8 = 98;
/// A condition does not hold.
pub const EXIT_THRESHOLD: u8 = 99;

/// A peak that is exceeded by more than this, in percent of itself, was none.
const GOODPUT_OF_PEAK_MAX: f64 = 110.0;

/// The figures that conditions can name: of all measured stages, and with a stage's name and a point before it, of one.
#[allow(clippy::float_arithmetic, reason = "ratios for people")]
pub(crate) fn figures(summary: &Summary) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    of_stage(&mut figures, "", &summary.measured);
    for stage in summary.stages.iter().filter(|stage| !stage.warmup) {
        let prefix = format!("{}.", stage.name);
        of_stage(&mut figures, &prefix, stage);
        if let Some(peak) = summary.peak_per_second.filter(|peak| *peak > 0.0) {
            figures.insert(format!("{prefix}goodput_of_peak"), stage.goodput_per_second * 100.0 / peak);
        }
    }
    let mut put = |name: &str, value: Option<f64>| {
        if let Some(value) = value {
            figures.insert(name.to_owned(), value);
        }
    };
    // Of books that were not read nobody knows that they are right.
    let is_proven = matches!(summary.correctness.conservation.as_str(), "holds" | "violated");
    put("violations", is_proven.then_some(summary.correctness.violation_count as f64));
    put("peak", summary.peak_per_second);
    put("recovery", summary.recovery_seconds.map(|seconds| seconds * 1_000.0));
    put("bare_ratio", summary.bare.as_ref().and_then(|bare| bare.ratio));
    put("connections", Some(f64::from(summary.connections.open)));
    put("server_bytes_per_connection", summary.server.as_ref().map(|server| server.resident_bytes_per_connection));
    put("server_cpu_ms_per_1000", summary.server.as_ref().map(|server| server.cpu_ms_per_1000_requests));
    figures
}

#[allow(clippy::float_arithmetic, reason = "milliseconds for people")]
fn of_stage(figures: &mut BTreeMap<String, f64>, prefix: &str, stage: &StageSummary) {
    let mut put = |name: &str, value: f64| {
        figures.insert(format!("{prefix}{name}"), value);
    };
    let milliseconds = |us: u64| us as f64 / 1_000.0;
    let kinds = [("", &stage.latency), ("service_", &stage.service), ("lag_", &stage.lag)];
    let kinds = kinds.map(|(kind, quantiles)| (kind.to_owned(), quantiles));
    let operations = stage.operations.iter().map(|(operation, quantiles)| (format!("{operation}."), quantiles));
    for (kind, quantiles) in kinds.into_iter().chain(operations) {
        put(&format!("{kind}p50"), milliseconds(quantiles.p50_us));
        put(&format!("{kind}p90"), milliseconds(quantiles.p90_us));
        put(&format!("{kind}p99"), milliseconds(quantiles.p99_us));
        put(&format!("{kind}p99.9"), milliseconds(quantiles.p999_us));
        put(&format!("{kind}p99.99"), milliseconds(quantiles.p9999_us));
        put(&format!("{kind}max"), milliseconds(quantiles.max_us));
        put(&format!("{kind}mean"), milliseconds(quantiles.mean_us));
    }
    if let Some(growth) = stage.memory_growth_percent {
        put("memory_growth", growth);
    }
    put("no_retry_after", stage.errors.get(NO_RETRY_AFTER).copied().unwrap_or(0) as f64);
    put("errors", stage.errors_percent);
    put("dropped", percent(stage.counts.dropped, stage.counts.scheduled));
    put("unknown", percent(stage.counts.unknown, stage.counts.scheduled));
    put("offered", stage.offered_per_second);
    put("rate", stage.completed_per_second);
    put("goodput", stage.goodput_per_second);
}

/// Reasons why a run says nothing about the server.
pub(crate) fn invalid(scenario: &Scenario, summary: &Summary) -> Vec<String> {
    let mut reasons = Vec::new();
    let measured = &summary.measured;
    let connections = &summary.connections;
    if connections.open < connections.wanted {
        reasons.push(format!("only {} of {} connections were made", connections.open, connections.wanted));
    }
    // A replay gets its only stage when its file is read.
    let wants_load =
        scenario.replay.is_some() || scenario.stages.iter().any(|stage| !stage.warmup && stage.rate != Some(0));
    if measured.counts.sent == 0 && wants_load {
        reasons.push("nothing was sent".to_owned());
    }
    if scenario.mode == Mode::Closed {
        return reasons;
    }
    let sent = percent(measured.counts.sent, measured.counts.scheduled);
    if sent < f64::from(scenario.validity.sent_percent_min) && measured.counts.scheduled > 0 {
        let least = scenario.validity.sent_percent_min;
        reasons.push(format!(
            "{sent:.1} % of the schedule was sent, at least {least} % must be: connections or processor were not enough"
        ));
    }
    reasons.extend(overloads(scenario, summary));
    if is_late(scenario, summary) {
        let (lag, most) = (measured.lag.p99_us, scenario.validity.lag_p99_us_max);
        reasons.push(format!("the generator itself was late: lag p99 {lag} µs, at most {most} µs; give it more processes or another machine"));
    }
    reasons
}

/// Stages above the peak that were none: what the server does in them is more than what was found to be its peak.
#[allow(clippy::float_arithmetic, reason = "ratios for people")]
fn overloads<'a>(scenario: &'a Scenario, summary: &'a Summary) -> impl Iterator<Item = String> + 'a {
    let above =
        |name: &str| scenario.stages.iter().any(|stage| stage.name == name && stage.percent_of_peak > Some(100));
    let peak = summary.peak_per_second.filter(|peak| *peak > 0.0);
    let stages = summary.stages.iter().filter(move |stage| above(&stage.name));
    stages.filter_map(move |stage| {
        let of_peak = stage.goodput_per_second * 100.0 / peak?;
        let name = &stage.name;
        (of_peak > GOODPUT_OF_PEAK_MAX).then(|| {
            format!("{name} was no overload: its goodput is {of_peak:.0} % of the peak that the calibration found")
        })
    })
}

/// Whether the generator itself was later than the scenario allows. A closed loop has no schedule to be late for.
fn is_late(scenario: &Scenario, summary: &Summary) -> bool {
    scenario.mode == Mode::Open && summary.measured.lag.p99_us > scenario.validity.lag_p99_us_max
}

/// Whether an invalid run was so for a reason that is none of the server's: a server that is too slow for a rate leaves a
/// part of the schedule unsent as well.
pub(crate) fn says_nothing(scenario: &Scenario, summary: &Summary) -> bool {
    is_late(scenario, summary) || summary.connections.open < summary.connections.wanted
}

/// The exit code of several results: wrong books before a failed run, an invalid one, and a missed condition.
pub(crate) fn worst(codes: &[u8]) -> u8 {
    let order = [EXIT_CORRECTNESS, EXIT_FAILED, EXIT_INVALID, EXIT_THRESHOLD];
    order.into_iter().find(|code| codes.contains(code)).unwrap_or(EXIT_PASS)
}

/// Why a run did not come to its end, or its books could not be read.
fn failures(summary: &Summary) -> Vec<String> {
    let unproven = summary.correctness.reason.iter().map(|reason| format!("conservation is not proven: {reason}"));
    summary.failures.iter().cloned().chain(unproven).collect()
}

/// The verdict: wrong books before a failed run, an invalid one, and a missed condition.
pub(crate) fn judge(thresholds: &[Threshold], summary: &Summary, invalid: &[String]) -> Verdict {
    let (figures, books) = (&summary.figures, &summary.correctness);
    let failures = failures(summary);
    let thresholds: Vec<ThresholdResult> = thresholds.iter().map(|threshold| threshold.judge(figures)).collect();
    let missed: Vec<String> = thresholds
        .iter()
        .filter(|result| !result.holds)
        .map(|result| match result.found {
            Some(found) => format!("{} does not hold: {found:.3}", result.condition),
            None => format!("{} names no figure of this run", result.condition),
        })
        .collect();
    let (result, exit_code, reasons) = if books.violation_count > 0 {
        let first = books
            .violations
            .first()
            .map_or(String::new(), |first| format!(", first: {}: {}", first.account, first.detail));
        let mut reasons = vec![format!("{} violations{first}", books.violation_count)];
        reasons.extend(failures);
        ("correctness", EXIT_CORRECTNESS, reasons)
    } else if !failures.is_empty() {
        ("failed", EXIT_FAILED, failures)
    } else if !invalid.is_empty() {
        ("invalid", EXIT_INVALID, invalid.to_vec())
    } else if !missed.is_empty() {
        ("threshold", EXIT_THRESHOLD, missed)
    } else {
        ("pass", EXIT_PASS, Vec::new())
    };
    Verdict { result: result.to_owned(), exit_code, reasons, thresholds }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::Counts;
    use crate::summary::{ConnectionsSummary, Correctness, Environment, Generator, SCHEMA_VERSION};

    /// A good run of a profile: everything was sent in time on all connections.
    fn good(profile: &str) -> (Scenario, Summary) {
        let scenario = Scenario::load(profile).unwrap();
        let mut measured = StageSummary::default();
        (measured.counts.scheduled, measured.counts.sent) = (1_000, 1_000);
        measured.lag.p99_us = 1_000;
        let summary = Summary {
            schema_version: SCHEMA_VERSION,
            name: profile.to_owned(),
            run: String::new(),
            started_at: String::new(),
            verdict: Verdict::default(),
            mode: String::new(),
            environment: Environment::default(),
            connections: ConnectionsSummary { wanted: 8, open: 8, ..ConnectionsSummary::default() },
            measured,
            stages: Vec::new(),
            generator: Generator::default(),
            server: None,
            peak_per_second: None,
            recovery_seconds: None,
            ended_after_seconds: None,
            failures: Vec::new(),
            bare: None,
            correctness: Correctness::default(),
            figures: BTreeMap::new(),
            scenario: scenario.clone(),
        };
        (scenario, summary)
    }

    #[test]
    fn a_run_that_says_nothing_is_invalid_and_says_why() {
        let reasons = |profile: &str, change: fn(&mut Scenario, &mut Summary)| {
            let (mut scenario, mut summary) = good(profile);
            change(&mut scenario, &mut summary);
            invalid(&scenario, &summary)
        };
        let nothing_sent = |_: &mut Scenario, summary: &mut Summary| summary.measured.counts = Counts::default();
        // Connections only, which is what was wanted.
        let silent = |scenario: &mut Scenario, summary: &mut Summary| {
            scenario.stages.iter_mut().for_each(|stage| stage.rate = Some(0));
            summary.measured.counts = Counts::default();
        };
        let late = |_: &mut Scenario, summary: &mut Summary| summary.measured.lag.p99_us = 1_001;
        let unsent = |_: &mut Scenario, summary: &mut Summary| summary.measured.counts.sent = 989;
        let unconnected = |_: &mut Scenario, summary: &mut Summary| summary.connections.open = 7;
        let in_a_closed_loop = |scenario: &mut Scenario, summary: &mut Summary| {
            scenario.mode = Mode::Closed;
            (summary.measured.lag.p99_us, summary.measured.counts.sent, summary.connections.open) = (9_000, 1, 7);
        };
        for (profile, change, expected) in [
            ("mixed", late as fn(&mut Scenario, &mut Summary), &["lag p99 1001 µs, at most 1000 µs"][..]),
            ("mixed", unsent, &["98.9 % of the schedule was sent, at least 99 %"]),
            ("mixed", unconnected, &["only 7 of 8 connections were made"]),
            ("mixed", nothing_sent, &["nothing was sent"]),
            ("cdnow", nothing_sent, &["nothing was sent"]),
            ("mixed", silent, &[]),
            ("mixed", in_a_closed_loop, &["only 7 of 8"]),
            ("mixed", |_, summary| summary.measured.counts.sent = 990, &[]),
        ] {
            let found = reasons(profile, change);
            assert_eq!(found.len(), expected.len(), "{profile}: {found:?}");
            assert!(found.iter().zip(expected).all(|(found, part)| found.contains(part)), "{profile}: {found:?}");
        }
    }

    #[test]
    fn only_a_late_generator_and_missing_connections_are_no_matter_of_the_server() {
        let (scenario, mut summary) = good("smoke");
        summary.measured.counts.sent = 10;
        assert!(!invalid(&scenario, &summary).is_empty() && !says_nothing(&scenario, &summary));
        summary.measured.lag.p99_us = scenario.validity.lag_p99_us_max + 1;
        assert!(says_nothing(&scenario, &summary));
        let (scenario, mut summary) = good("smoke");
        summary.connections.open = 7;
        assert!(says_nothing(&scenario, &summary));
    }

    #[test]
    fn an_overload_has_figures_of_its_own() {
        let (scenario, mut summary) = good("overload-2x");
        let conditions = "overload.goodput_of_peak>=90%,recovery<2s";
        let holds = |summary: &Summary| -> Vec<bool> {
            let figures = figures(summary);
            parse(conditions).unwrap().iter().map(|condition| condition.judge(&figures).holds).collect()
        };
        assert_eq!(holds(&summary), [false, false], "there is no peak and no recovery");
        let overload = |goodput_per_second| StageSummary {
            name: "overload".to_owned(),
            goodput_per_second,
            ..StageSummary::default()
        };
        (summary.peak_per_second, summary.recovery_seconds) = (Some(40_000.0), Some(1.9));
        summary.stages = vec![overload(36_000.0)];
        assert_eq!(figures(&summary)["overload.goodput_of_peak"], 90.0);
        assert_eq!(holds(&summary), [true, true]);
        assert!(invalid(&scenario, &summary).is_empty());
        summary.stages = vec![overload(44_001.0)];
        let found = invalid(&scenario, &summary);
        assert!(found[0].contains("overload was no overload: its goodput is 110 %"), "{found:?}");
        (summary.stages, summary.recovery_seconds) = (vec![overload(35_999.0)], Some(f64::from(u32::MAX)));
        assert_eq!(holds(&summary), [false, false]);
        summary.peak_per_second = Some(0.0);
        assert!(!figures(&summary).contains_key("overload.goodput_of_peak"));
    }

    #[test]
    fn wrong_books_outweigh_everything() {
        let missed = parse("p99<1ms").unwrap();
        let code = |invalid: &[String], violation_count, reason: Option<&str>| {
            let (_, mut summary) = good("smoke");
            summary.figures = BTreeMap::from([("p99".to_owned(), 2.0)]);
            summary.correctness.violation_count = violation_count;
            summary.correctness.reason = reason.map(str::to_owned);
            judge(&missed, &summary, invalid).exit_code
        };
        let late = ["late".to_owned()];
        assert_eq!(code(&late, 1, Some("403")), EXIT_CORRECTNESS);
        assert_eq!(code(&late, 0, Some("403")), EXIT_FAILED);
        assert_eq!(code(&late, 0, None), EXIT_INVALID);
        assert_eq!(code(&[], 0, None), EXIT_THRESHOLD);
        assert_eq!(judge(&[], &good("smoke").1, &[]).exit_code, EXIT_PASS);
        assert_eq!(worst(&[EXIT_INVALID, EXIT_FAILED, EXIT_THRESHOLD]), EXIT_FAILED);
    }

    #[test]
    fn books_that_were_not_read_are_no_proof() {
        let (_, mut summary) = good("smoke");
        for (conservation, holds) in [("holds", true), ("not proven", false), ("not checked", false)] {
            conservation.clone_into(&mut summary.correctness.conservation);
            let figures = figures(&summary);
            assert_eq!(parse("conservation").unwrap()[0].judge(&figures).holds, holds, "{conservation}");
        }
    }

    #[test]
    fn operations_have_all_quantiles() {
        let (_, mut summary) = good("smoke");
        let quantiles = crate::summary::Quantiles { p90_us: 7_000, p999_us: 9_000, ..Default::default() };
        summary.measured.operations.insert("redeem".to_owned(), quantiles);
        let figures = figures(&summary);
        assert_eq!((figures["redeem.p90"], figures["redeem.p99.9"]), (7.0, 9.0));
        let (scenario, known) = (&summary.scenario, conditions::names(&summary.scenario, true, true));
        assert!(
            scenario.check.level == crate::scenario::CheckLevel::Full
                && figures.keys().all(|name| known.contains(name)),
            "{figures:?}"
        );
    }
}
