//! Whether a run is good: conditions such as `p99<50ms,errors<0.1%,conservation`, and whether it says anything at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Fault;
use crate::scenario::{CheckLevel, Mode, Scenario};
use crate::summary::{StageSummary, Summary, ThresholdResult, Verdict, percent};
use crate::traffic::OPERATIONS;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Threshold {
    text: String,
    figure: String,
    comparison: Comparison,
    bound: f64,
}

/// What a figure counts, and so the units that its bound may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// Milliseconds.
    Time,
    Percent,
    /// Requests a second, bytes, or a plain number.
    Number,
    /// Of a figure that there is not: that is said when the scenario is known.
    Any,
}

impl Measure {
    fn of(figure: &str) -> Self {
        let name = figure.strip_suffix("p99.9").or_else(|| figure.strip_suffix("p99.99")).map(|_| "p99");
        let name = name.unwrap_or_else(|| figure.rsplit('.').next().unwrap_or(figure));
        match name {
            "errors" | "dropped" | "unknown" | "goodput_of_peak" | "memory_growth" => Self::Percent,
            "recovery" | "server_cpu_ms_per_1000" => Self::Time,
            _ if TIMES.contains(&name) || KINDS.iter().any(|kind| is_time(name, kind)) => Self::Time,
            _ if COUNTS.contains(&name) || NUMBERS.contains(&name) => Self::Number,
            _ => Self::Any,
        }
    }

    fn units(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Time => &[("us", 0.001), ("µs", 0.001), ("ms", 1.0), ("s", 1_000.0), ("", 1.0)],
            Self::Percent => &[("%", 1.0), ("", 1.0)],
            Self::Number => &[("", 1.0)],
            Self::Any => &[("us", 0.001), ("µs", 0.001), ("ms", 1.0), ("s", 1_000.0), ("%", 1.0), ("", 1.0)],
        }
    }
}

/// Times that every stage and every operation has, and what may stand before them.
const TIMES: &[&str] = &["p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
const KINDS: &[&str] = &["service_", "lag_"];
/// What every stage has beside them.
const COUNTS: &[&str] = &["errors", "dropped", "unknown", "offered", "rate", "goodput", "no_retry_after"];
/// Numbers of a whole run.
const NUMBERS: &[&str] = &["violations", "peak", "bare_ratio", "connections", "server_bytes_per_connection"];

fn is_time(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| TIMES.contains(&rest))
}

/// Refuses conditions on figures that a run of this scenario cannot have: whoever waits for an hour should not learn then
/// that a name was wrong. `is_started` and `has_bare`: whether the run starts its servers, and a bare one beside them.
///
/// # Errors
/// The first such condition, with the figures that there are.
pub(crate) fn check(
    thresholds: &[Threshold],
    scenario: &Scenario,
    is_started: bool,
    has_bare: bool,
) -> Result<(), Fault> {
    for threshold in thresholds {
        if threshold.figure == "violations" && scenario.check.level == CheckLevel::None {
            let why = "nothing is checked with check.level none; leave the condition out with --require";
            return Err(Fault::usage(&threshold.text, why));
        }
        let known = names(scenario, is_started, has_bare);
        if !known.contains(&threshold.figure) {
            let known = known.into_iter().filter(|name| !name.contains('.') || name.starts_with("p99.9"));
            let text = known.collect::<Vec<_>>().join(", ");
            let why =
                format!("this run has no such figure; it has {text}, and some with STAGE. or OPERATION. before them");
            return Err(Fault::usage(&threshold.text, &why));
        }
    }
    Ok(())
}

/// The names of all figures that a run of the scenario may have; see [`figures`].
fn names(scenario: &Scenario, is_started: bool, has_bare: bool) -> BTreeSet<String> {
    let replay = scenario.replay.as_ref().map(|_| "replay");
    let stages = scenario.stages.iter().filter(|stage| !stage.warmup).map(|stage| stage.name.as_str());
    let stages: Vec<&str> = replay.into_iter().chain(stages.filter(|_| replay.is_none())).collect();
    let mut names = BTreeSet::new();
    for prefix in std::iter::once(String::new()).chain(stages.iter().map(|stage| format!("{stage}."))) {
        let mut put = |name: &str| {
            names.insert(format!("{prefix}{name}"));
        };
        COUNTS.iter().for_each(|name| put(name));
        for time in TIMES {
            put(time);
            KINDS.iter().for_each(|kind| put(&format!("{kind}{time}")));
            OPERATIONS.iter().for_each(|operation| put(&format!("{}.{time}", operation.name())));
        }
        if is_started {
            put("memory_growth");
        }
        if scenario.calibration.is_some() && !prefix.is_empty() {
            put("goodput_of_peak");
        }
    }
    let more = [
        ("violations", scenario.check.level == CheckLevel::Full),
        ("peak", scenario.calibration.is_some()),
        ("recovery", stages.contains(&"overload")),
        ("bare_ratio", has_bare),
        ("connections", true),
        ("server_bytes_per_connection", is_started),
        ("server_cpu_ms_per_1000", is_started),
    ];
    names.extend(more.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()));
    names
}

/// Reads a list of conditions.
///
/// # Errors
/// One is not `FIGURE<NUMBER[unit]` with `<`, `<=`, `>` or `>=`, nor `conservation`.
pub(crate) fn parse(text: &str) -> Result<Vec<Threshold>, Fault> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(part: &str) -> Result<Threshold, Fault> {
    let wrong = || {
        Fault::Usage(format!(
            "`{part}` is no condition such as p99<50ms, errors<0.1%, goodput>1000, steady.p99<20ms or conservation"
        ))
    };
    if part == "conservation" || part == "conservation==ok" {
        let (figure, comparison) = ("violations".to_owned(), Comparison::Less);
        return Ok(Threshold { text: part.to_owned(), figure, comparison, bound: 1.0 });
    }
    let at = part.find(['<', '>']).ok_or_else(wrong)?;
    let (figure, rest) = part.split_at(at);
    let (comparison, number) = match rest {
        _ if rest.starts_with("<=") => (Comparison::LessOrEqual, &rest[2..]),
        _ if rest.starts_with(">=") => (Comparison::GreaterOrEqual, &rest[2..]),
        _ if rest.starts_with('<') => (Comparison::Less, &rest[1..]),
        _ => (Comparison::Greater, &rest[1..]),
    };
    let figure = figure.trim();
    let bound = parse_number(number.trim(), Measure::of(figure)).ok_or_else(wrong)?;
    if figure.is_empty() {
        return Err(wrong());
    }
    Ok(Threshold { text: part.to_owned(), figure: figure.to_owned(), comparison, bound })
}

/// Times become milliseconds; percentages stay what they are. No figure is below 0 but growth, which has no lower bound.
#[allow(clippy::float_arithmetic, reason = "bounds of figures for people")]
fn parse_number(text: &str, measure: Measure) -> Option<f64> {
    let (number, factor) =
        measure.units().iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number: f64 = number.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    Some(number * factor)
}

impl Threshold {
    fn judge(&self, figures: &BTreeMap<String, f64>) -> ThresholdResult {
        let found = figures.get(&self.figure).copied();
        let holds = found.is_some_and(|found| match self.comparison {
            Comparison::Less => found < self.bound,
            Comparison::LessOrEqual => found <= self.bound,
            Comparison::Greater => found > self.bound,
            Comparison::GreaterOrEqual => found >= self.bound,
        });
        ThresholdResult { condition: self.text.clone(), found, holds }
    }
}

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
    put("bare_ratio", summary.bare.as_ref().map(|bare| bare.ratio));
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
    if is_late(scenario, summary) {
        let (lag, most) = (measured.lag.p99_us, scenario.validity.lag_p99_us_max);
        reasons.push(format!("the generator itself was late: lag p99 {lag} µs, at most {most} µs; give it more processes or another machine"));
    }
    reasons
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

    #[test]
    fn conditions_have_units() {
        let figures =
            BTreeMap::from([("p99".to_owned(), 49.0), ("errors".to_owned(), 0.05), ("violations".to_owned(), 0.0)]);
        for (text, holds) in [
            ("p99<50ms", true),
            ("p99<49ms", false),
            ("p99<=49ms", true),
            ("p99<0.05s", true),
            ("p99<50000us", true),
            ("p99>50ms", false),
            ("errors<0.1%", true),
            ("errors>=0.05%", true),
            ("conservation", true),
            ("p77<1s", false),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed[0].judge(&figures).holds, holds, "{text}");
        }
        assert_eq!(parse("p99 < 50 ms, errors<1%,").unwrap().len(), 2);
        let wrong =
            ["p99", "<5ms", "p99<fast", "p99<5kg", "p99<nan", "errors<50ms", "p99<500%", "p99<-1ms", "rate>5ms"];
        for text in wrong.into_iter().chain(["lag_p99.9<1%", "steady.earn-points.p99.99<1%", "goodput>10%"]) {
            assert!(parse(text).is_err(), "{text}");
        }
    }

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
            ("smoke", late as fn(&mut Scenario, &mut Summary), &["lag p99 1001 µs, at most 1000 µs"][..]),
            ("smoke", unsent, &["98.9 % of the schedule was sent, at least 99 %"]),
            ("smoke", unconnected, &["only 7 of 8 connections were made"]),
            ("smoke", nothing_sent, &["nothing was sent"]),
            ("cdnow", nothing_sent, &["nothing was sent"]),
            ("smoke", silent, &[]),
            ("smoke", in_a_closed_loop, &["only 7 of 8"]),
            ("smoke", |_, summary| summary.measured.counts.sent = 990, &[]),
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
        let (_, mut summary) = good("overload-2x");
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
    fn a_figure_that_a_run_cannot_have_is_refused_before_it() {
        let refused = |profile: &str, condition: &str, is_started| {
            let scenario = Scenario::load(profile).unwrap();
            check(&parse(condition).unwrap(), &scenario, is_started, false).err().map(|fault| fault.to_string())
        };
        for name in crate::scenario::PROFILES.iter().map(|(name, _)| *name) {
            let own = Scenario::load(name).unwrap().require;
            assert_eq!(refused(name, &own, true), None, "{name}");
        }
        for good in ["steady.redeem.p99.9<1s", "lag_p99.99<1s", "hold.mean<1s", "steady.service_p90<1s"] {
            assert_eq!(refused("smoke", good, false), None, "{good}");
        }
        assert_eq!(refused("cdnow", "replay.pos.p90<1s", false), None);
        for wrong in ["p9<1", "peak>1", "recovery<1s", "warm-up.p99<1s", "bare_ratio>0.4", "memory_growth<1%"] {
            assert!(refused("smoke", wrong, false).unwrap().contains("p99.9, "), "{wrong}");
        }
        let mut unchecked = Scenario::load("smoke").unwrap();
        unchecked.check.level = CheckLevel::None;
        assert!(check(&parse("conservation").unwrap(), &unchecked, false, false).is_err());
    }

    #[test]
    fn operations_have_all_quantiles() {
        let (_, mut summary) = good("smoke");
        let quantiles = crate::summary::Quantiles { p90_us: 7_000, p999_us: 9_000, ..Default::default() };
        summary.measured.operations.insert("redeem".to_owned(), quantiles);
        let figures = figures(&summary);
        assert_eq!((figures["redeem.p90"], figures["redeem.p99.9"]), (7.0, 9.0));
        let (scenario, known) = (&summary.scenario, names(&summary.scenario, true, true));
        assert!(
            scenario.check.level == CheckLevel::Full && figures.keys().all(|name| known.contains(name)),
            "{figures:?}"
        );
    }
}
