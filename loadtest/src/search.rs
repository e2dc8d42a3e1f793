//! The highest rate at which every condition holds: doubled until one does not, then halved in between, then confirmed.

use crate::error::Fault;
use crate::run::{self, Finished, Options, Reach, Session};
use crate::scenario::{Mode, Scenario, Stage};
use crate::verdict::{self, EXIT_INVALID, EXIT_PASS, EXIT_THRESHOLD, says_nothing};

/// Rates are told apart to this part of themselves.
const PRECISION_PERCENT: u64 = 3;
/// Most runs of a search.
const RUNS_MAX: usize = 40;
/// A rate that does not hold in the long run is lowered by this.
const STEP_DOWN_PERCENT: u64 = 5;
/// Length of the warm-up of every run.
const WARMUP_SECONDS: u32 = 2;
/// Length of its intervals, where those of the scenario do not fit.
const INTERVAL_MS: u64 = 1_000;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    /// The first rate.
    pub(crate) from: u64,
    /// The highest rate that is tried.
    pub(crate) to: u64,
    /// Length of a try, and of the confirmation.
    pub(crate) seconds: u32,
    pub(crate) confirm_seconds: u32,
}

/// What a try says of its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Holds,
    /// A condition is missed, or the server does not keep up.
    Missed,
    /// The run says nothing about the server: the generator was late, or connections could not be made.
    SaysNothing,
}

/// How a search ended.
#[derive(Debug)]
pub(crate) enum Found {
    /// A rate that holds, the long run that showed it, and, when the next higher rate failed for a reason that is none of
    /// the server's, that reason.
    Rate { rate: u64, confirmation: Box<Finished>, limit: Option<String> },
    /// No rate holds; the reason as above.
    Nothing { limit: Option<String> },
    /// Wrong books, or a proof that failed, in this run: no rate counts for anything then.
    Stopped(Box<Finished>),
}

/// Why a search goes no further.
enum Stop {
    Fault(Fault),
    Run(Box<Finished>),
}

/// The search itself, apart from what a try is: `holds` says whether a rate holds.
fn highest<E>(search: Search, mut holds: impl FnMut(u64) -> Result<bool, E>) -> Result<Option<u64>, E> {
    let (mut good, mut rate) = (None, search.from);
    let mut bad = loop {
        if !holds(rate)? {
            break rate;
        }
        good = Some(rate);
        if rate >= search.to {
            return Ok(good);
        }
        rate = (rate * 2).min(search.to);
    };
    // Not even the first: look below it, down to nothing.
    let mut low = good.unwrap_or(0);
    while bad - low > (bad * PRECISION_PERCENT / 100).max(1) {
        let middle = low + (bad - low) / 2;
        if holds(middle)? {
            low = middle;
        } else {
            bad = middle;
        }
    }
    Ok((low > 0).then_some(low))
}

/// The highest rate at or below `candidate` that holds in a long run, and that run; `attempt` makes it and returns it
/// when it holds.
fn confirm<T, E>(candidate: u64, mut attempt: impl FnMut(u64) -> Result<Option<T>, E>) -> Result<Option<(u64, T)>, E> {
    let mut rate = candidate;
    while rate > 0 {
        if let Some(held) = attempt(rate)? {
            return Ok(Some((rate, held)));
        }
        rate = rate * (100 - STEP_DOWN_PERCENT) / 100;
    }
    Ok(None)
}

/// The lowest rate above `found` that did not hold, when a try of it says nothing about the server: then `found` is the
/// generator's limit and not the server's.
fn foreign_limit(tries: &[(u64, Tried)], found: u64) -> Option<u64> {
    let failed = tries.iter().filter(|(rate, tried)| *rate > found && *tried != Tried::Holds);
    // At the rate that was found a longer run may have failed before a shorter one; those above it decide.
    let lowest = failed.clone().map(|(rate, _)| *rate).min()?;
    failed.into_iter().find(|(rate, tried)| *rate == lowest && *tried == Tried::SaysNothing).map(|(rate, _)| *rate)
}

/// Searches on one server, which is started once.
pub(crate) fn search(options: &Options, search: Search, say: &mut dyn FnMut(&str)) -> Result<Found, Fault> {
    if options.scenario.mode != Mode::Open {
        return Err(Fault::Usage("a closed loop has no rate to search for".to_owned()));
    }
    // Stages of a try have their rates: nothing is in percent of a peak.
    let stages_first = stages(search.from, search.seconds);
    let tried = Scenario { stages: stages_first, calibration: None, replay: None, ..options.scenario.clone() };
    // Each try finds its servers there, and has none beside them.
    verdict::check(&options.thresholds, &tried, false, false)?;
    let mut session = Session::open(&options.reach, options.authorization.as_deref(), tried.connections_max())?;
    let targets = session.targets().iter().map(ToString::to_string).collect();
    let reach = Reach::Targets(targets);
    let (mut tries, mut reasons) = (Vec::new(), Vec::new());
    let mut attempt = |rate: u64, seconds: u32| -> Result<Option<Finished>, Stop> {
        if tries.len() >= RUNS_MAX {
            return Err(Stop::Fault(Fault::Failed(format!("no rate was found in {RUNS_MAX} runs"))));
        }
        let scenario = Scenario { stages: stages(rate, seconds), ..tried.clone() };
        let mut options = Options { scenario, reach: reach.clone(), bare: None, is_quiet: true, ..options.clone() };
        if options.scenario.clone().checked().is_err() {
            // Intervals of the scenario's own stages may be too long for a try.
            options.scenario.interval_ms = INTERVAL_MS;
        }
        let finished = run::run(&options).map_err(Stop::Fault)?;
        say(&line(rate, seconds, &finished));
        let verdict = &finished.summary.verdict;
        let tried = match verdict.exit_code {
            EXIT_PASS => Tried::Holds,
            EXIT_THRESHOLD => Tried::Missed,
            EXIT_INVALID if says_nothing(&options.scenario, &finished.summary) => Tried::SaysNothing,
            EXIT_INVALID => Tried::Missed,
            _ => return Err(Stop::Run(Box::new(finished))),
        };
        tries.push((rate, tried));
        reasons.push((rate, verdict.reasons.first().cloned().unwrap_or_default()));
        Ok((tried == Tried::Holds).then_some(finished))
    };
    let found = highest(search, |rate| attempt(rate, search.seconds).map(|finished| finished.is_some()))
        .and_then(|rate| confirm(rate.unwrap_or(0), |rate| attempt(rate, search.confirm_seconds)));
    let found = match found {
        Ok(found) => found,
        Err(Stop::Fault(fault)) => return Err(fault),
        // What the server does at its end says less than its books.
        Err(Stop::Run(finished)) => return Ok(Found::Stopped(finished)),
    };
    session.close()?;
    let limit = foreign_limit(&tries, found.as_ref().map_or(0, |(rate, _)| *rate));
    let limit = limit.map(|limit| {
        let reason = reasons.iter().find(|(rate, reason)| *rate == limit && !reason.is_empty());
        format!("{limit}/s says nothing about the server: {}", reason.map_or("", |(_, reason)| reason))
    });
    Ok(match found {
        Some((rate, confirmation)) => Found::Rate { rate, confirmation: Box::new(confirmation), limit },
        None => Found::Nothing { limit },
    })
}

/// A try as a line for people.
fn line(rate: u64, seconds: u32, finished: &Finished) -> String {
    let summary = &finished.summary;
    let latency = &summary.measured.latency;
    format!(
        "{rate:>9}/s for {seconds:>3} s: {:<11} p50 {:>9}  p99 {:>9}  errors {:.3} %  answered {:.0}/s{}",
        summary.verdict.result,
        crate::output::microseconds(latency.p50_us),
        crate::output::microseconds(latency.p99_us),
        summary.measured.errors_percent,
        summary.measured.completed_per_second,
        summary.verdict.reasons.first().map_or(String::new(), |reason| format!("  ({reason})"))
    )
}

fn stages(rate: u64, seconds: u32) -> Vec<Stage> {
    let stage = |name: &str, seconds, warmup| Stage {
        name: name.to_owned(),
        seconds,
        rate: Some(rate),
        to_rate: None,
        percent_of_peak: None,
        warmup,
    };
    vec![stage("warm-up", WARMUP_SECONDS, true), stage("try", seconds, false)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_wherever_it_lies() {
        let search = Search { from: 1_000, to: 1_000_000, seconds: 1, confirm_seconds: 1 };
        for limit in [3, 999, 1_000, 1_001, 47_123, 999_999, 5_000_000] {
            let mut tries = 0;
            let found = highest(search, |rate| {
                tries += 1;
                Ok::<_, Fault>(rate <= limit)
            });
            let (found, most) = (found.unwrap().unwrap(), limit.min(search.to));
            assert!(found <= most && most - found <= most * 4 / 100 + 1, "{found} for {limit}");
            assert!(tries < RUNS_MAX, "{tries}");
        }
        assert_eq!(highest(search, |_| Ok::<_, Fault>(false)).unwrap(), None);
    }

    #[test]
    fn a_rate_that_does_not_hold_for_long_is_lowered_until_one_does() {
        let mut tried = Vec::new();
        let confirmed = confirm(1_000, |rate| {
            tried.push(rate);
            Ok::<_, Fault>((rate < 910).then_some("held"))
        });
        assert_eq!(confirmed.unwrap(), Some((902, "held")));
        assert_eq!(tried, [1_000, 950, 902]);
        assert_eq!(confirm(7, |_| Ok::<_, Fault>(None::<()>)).unwrap(), None);
        assert_eq!(confirm(0, |_| Ok::<_, Fault>(Some(()))).unwrap(), None);
    }

    #[test]
    fn a_rate_above_which_the_generator_was_late_is_not_the_servers_highest() {
        use Tried::{Holds, Missed, SaysNothing};
        let late = [(1_000, Holds), (2_000, Missed), (1_500, SaysNothing), (1_250, Holds)];
        assert_eq!(foreign_limit(&late, 1_250), Some(1_500));
        // Between it and what was found the server itself failed.
        let own = [(1_000, Holds), (2_000, SaysNothing), (1_500, Missed), (1_250, Holds)];
        assert_eq!(foreign_limit(&own, 1_250), None);
        // The confirmation was late where the short try was not.
        assert_eq!(foreign_limit(&[(1_000, Holds), (1_000, SaysNothing), (950, Holds)], 950), Some(1_000));
        assert_eq!(foreign_limit(&[(1_000, SaysNothing)], 0), Some(1_000));
        assert_eq!(foreign_limit(&[(1_000, Holds)], 1_000), None);
    }
}
