//! Conditions such as `p99<50ms`: their text, and which of them a run can have a figure for.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Fault;
use crate::scenario::{CheckLevel, Scenario};
use crate::summary::ThresholdResult;
use crate::traffic::OPERATIONS;

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

/// Refuses conditions on figures that a run of this scenario cannot have, and stages whose figures would be those of an
/// operation: whoever waits for an hour should not learn then that a name was wrong. `is_started` and `has_bare`: whether
/// the run starts its servers, and a bare one beside them.
///
/// # Errors
/// The first such stage or condition, with the figures that there are.
pub(crate) fn check(
    thresholds: &[Threshold],
    scenario: &Scenario,
    is_started: bool,
    has_bare: bool,
) -> Result<(), Fault> {
    let is_operation = |name: &str| OPERATIONS.iter().any(|operation| operation.name() == name);
    if let Some(stage) = scenario.stages.iter().find(|stage| is_operation(&stage.name)) {
        let why = "it has the name of an operation, and their figures could not be told apart";
        return Err(Fault::usage(format!("the stage {}", stage.name), why));
    }
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

/// The names of all figures that a run of the scenario may have; see [`super::figures`].
pub(super) fn names(scenario: &Scenario, is_started: bool, has_bare: bool) -> BTreeSet<String> {
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
    pub(super) fn judge(&self, figures: &BTreeMap<String, f64>) -> ThresholdResult {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        let mut twice = Scenario::load("smoke").unwrap();
        twice.stages[1].name = "redeem".to_owned();
        let fault = check(&[], &twice, false, false).unwrap_err().to_string();
        assert!(fault.contains("the stage redeem: it has the name of an operation"), "{fault}");
        let mut unchecked = Scenario::load("smoke").unwrap();
        unchecked.check.level = CheckLevel::None;
        assert!(check(&parse("conservation").unwrap(), &unchecked, false, false).is_err());
    }
}
