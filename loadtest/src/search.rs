//! The highest rate at which every condition holds: doubled until one does not, then halved in between, then confirmed.

use crate::error::Fault;
use crate::run::{self, Finished, Options, Reach, Session};
use crate::scenario::{Mode, Stage};
use crate::verdict::EXIT_PASS;

/// Rates are told apart to this part of themselves.
const PRECISION_PERCENT: u64 = 3;
/// Most runs of a search.
const RUNS_MAX: u32 = 40;
/// A rate that does not hold in the long run is lowered by this.
const STEP_DOWN_PERCENT: u64 = 5;
/// Length of the warm-up of every run.
const WARMUP_SECONDS: u32 = 2;

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

/// A rate that holds, and the long run that showed it.
#[derive(Debug)]
pub(crate) struct Confirmed {
    pub(crate) rate: u64,
    pub(crate) confirmation: Finished,
}

/// The search itself, apart from what a try is: `holds` says whether a rate holds.
fn highest(search: Search, mut holds: impl FnMut(u64) -> Result<bool, Fault>) -> Result<Option<u64>, Fault> {
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
fn confirm<T>(
    candidate: u64,
    mut attempt: impl FnMut(u64) -> Result<Option<T>, Fault>,
) -> Result<Option<(u64, T)>, Fault> {
    let mut rate = candidate;
    while rate > 0 {
        if let Some(held) = attempt(rate)? {
            return Ok(Some((rate, held)));
        }
        rate = rate * (100 - STEP_DOWN_PERCENT) / 100;
    }
    Ok(None)
}

/// Searches on one server, which is started once. `None`: no rate holds.
pub(crate) fn search(options: &Options, search: Search, say: &mut dyn FnMut(&str)) -> Result<Option<Confirmed>, Fault> {
    if options.scenario.mode != Mode::Open {
        return Err(Fault::Usage("a closed loop has no rate to search for".to_owned()));
    }
    let mut session = Session::open(&options.reach, options.authorization.as_deref())?;
    let targets = session.targets().iter().map(ToString::to_string).collect();
    let reach = Reach::Targets(targets);
    let mut runs = 0;
    let mut attempt = |rate: u64, seconds: u32| -> Result<Finished, Fault> {
        runs += 1;
        if runs > RUNS_MAX {
            return Err(Fault::Failed(format!("no rate was found in {RUNS_MAX} runs")));
        }
        let mut options = Options { reach: reach.clone(), bare: None, is_quiet: true, ..options.clone() };
        options.scenario.stages = stages(rate, seconds);
        options.scenario.replay = None;
        let finished = run::run(&options)?;
        let summary = &finished.summary;
        let latency = &summary.measured.latency;
        say(&format!(
            "{rate:>9}/s for {seconds:>3} s: {:<11} p50 {:>9}  p99 {:>9}  errors {:.3} %  answered {:.0}/s{}",
            summary.verdict.result,
            crate::output::microseconds(latency.p50_us),
            crate::output::microseconds(latency.p99_us),
            summary.measured.errors_percent,
            summary.measured.completed_per_second,
            summary.verdict.reasons.first().map_or(String::new(), |reason| format!("  ({reason})"))
        ));
        Ok(finished)
    };
    let passes = |finished: &Finished| finished.summary.verdict.exit_code == EXIT_PASS;
    let rate = highest(search, |rate| attempt(rate, search.seconds).map(|finished| passes(&finished)))?;
    let confirmed = confirm(rate.unwrap_or(0), |rate| {
        let finished = attempt(rate, search.confirm_seconds)?;
        Ok(passes(&finished).then_some(finished))
    })?;
    session.close()?;
    Ok(confirmed.map(|(rate, confirmation)| Confirmed { rate, confirmation }))
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
                Ok(rate <= limit)
            });
            let (found, most) = (found.unwrap().unwrap(), limit.min(search.to));
            assert!(found <= most && most - found <= most * 4 / 100 + 1, "{found} for {limit}");
            assert!(tries < RUNS_MAX, "{tries}");
        }
        assert_eq!(highest(search, |_| Ok(false)).unwrap(), None);
    }

    #[test]
    fn a_rate_that_does_not_hold_for_long_is_lowered_until_one_does() {
        let mut tried = Vec::new();
        let confirmed = confirm(1_000, |rate| {
            tried.push(rate);
            Ok((rate < 910).then_some("held"))
        });
        assert_eq!(confirmed.unwrap(), Some((902, "held")));
        assert_eq!(tried, [1_000, 950, 902]);
        assert_eq!(confirm(7, |_| Ok(None::<()>)).unwrap(), None);
        assert_eq!(confirm(0, |_| Ok(Some(()))).unwrap(), None);
    }
}
