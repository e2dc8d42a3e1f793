//! Which scenarios can be run.

use std::collections::BTreeSet;

use crate::error::Fault;
use crate::scenario::{
    ACCOUNTS_MAX, BACKOFF_MS_MAX, CONNECTIONS_MAX, Mode, RATE_MAX, STAGE_SECONDS_MAX, STAGES_MAX, Scenario,
    THINK_MS_MAX,
};

impl Scenario {
    /// The same scenario when it can be run.
    ///
    /// # Errors
    /// It cannot; with the member that says so.
    pub(crate) fn checked(self) -> Result<Self, Fault> {
        let flaw = self.flaw_of_stages().or_else(|| self.flaw_of_names()).or_else(|| self.flaw_of_members());
        match flaw {
            Some(what) => Err(Fault::Usage(format!("the scenario {}: {what}", self.name))),
            None => Ok(self),
        }
    }

    fn flaw_of_stages(&self) -> Option<String> {
        let mix = &self.mix;
        let weights = [mix.earn_points, mix.earn_amount, mix.redeem, mix.balance, mix.hold, mix.capture, mix.void];
        let others = [mix.reverse, mix.pos, mix.batch];
        let has_operations = weights.iter().chain(&others).any(|weight| *weight > 0);
        let rates = self.stages.iter().flat_map(|stage| [stage.rate, stage.to_rate]).flatten();
        if self.stages.len() > STAGES_MAX || (self.stages.is_empty() && self.replay.is_none()) {
            return Some(format!("there must be from 1 to {STAGES_MAX} `[[stages]]`, or a `[replay]`"));
        }
        if !self.stages.is_empty() && self.stages.iter().all(|stage| stage.warmup) {
            return Some("every stage is warm-up, so nothing would be measured".to_owned());
        }
        if rates.max().is_some_and(|rate| rate > RATE_MAX) {
            return Some(format!("a rate is at most {RATE_MAX} a second"));
        }
        if self.stages.iter().any(|stage| !(1..=STAGE_SECONDS_MAX).contains(&stage.seconds)) {
            return Some(format!("`seconds` of a stage must be from 1 to {STAGE_SECONDS_MAX}"));
        }
        if !has_operations && self.replay.is_none() && self.stages.iter().any(|stage| stage.rate != Some(0)) {
            return Some("`[mix]` gives no operation any weight".to_owned());
        }
        if self.mode == Mode::Open && self.stages.iter().any(|s| s.rate.is_none() && s.percent_of_peak.is_none()) {
            return Some("a stage of an open loop needs `rate` or `percent_of_peak`".to_owned());
        }
        if self.calibration.is_none() && self.stages.iter().any(|stage| stage.percent_of_peak.is_some()) {
            return Some("`percent_of_peak` needs a `[calibration]`".to_owned());
        }
        if !(10..=3_600_000).contains(&self.timeout_ms) || !(10..=60_000).contains(&self.interval_ms) {
            return Some("`timeout_ms` must be from 10 to 3600000 and `interval_ms` from 10 to 60000".to_owned());
        }
        if self.stages.iter().any(|stage| (u64::from(stage.seconds) * 1_000) % self.interval_ms != 0) {
            return Some(
                "every stage must be a multiple of `interval_ms` long: an interval belongs to one stage".to_owned(),
            );
        }
        None
    }

    /// A stage's name and a point stand before its figures, so it must be the only one of its name.
    fn flaw_of_names(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        for name in self.stages.iter().map(|stage| stage.name.as_str()) {
            if name.is_empty() || name.contains('.') {
                return Some(format!("a stage needs a name without a point, and has `{name}`"));
            }
            if !names.insert(name) {
                return Some(format!("two stages have the name {name}: their figures could not be told apart"));
            }
        }
        None
    }

    fn flaw_of_members(&self) -> Option<String> {
        let (mix, think) = (&self.mix, self.think);
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Some(format!("`connections` must be from 1 to {CONNECTIONS_MAX}"));
        }
        if !(1..=ACCOUNTS_MAX).contains(&self.accounts.count) {
            return Some(format!("`accounts.count` must be from 1 to {ACCOUNTS_MAX}"));
        }
        if !(0.0..3.0).contains(&self.accounts.theta) {
            return Some("`accounts.theta` must be at least 0 and below 3".to_owned());
        }
        if self.accounts.hot_count == 0 || self.accounts.hot_count > self.accounts.count {
            return Some("`accounts.hot_count` must be from 1 to `accounts.count`".to_owned());
        }
        if self.accounts.hot_percent > 100 || self.validity.sent_percent_min > 100 {
            return Some("a percentage is at most 100".to_owned());
        }
        if !(1..=10_000).contains(&mix.batch_items) {
            return Some("`mix.batch_items` must be from 1 to 10000".to_owned());
        }
        if mix.batch > 0 && self.accounts.count < mix.batch_items {
            return Some("`accounts.count` must be at least `mix.batch_items`".to_owned());
        }
        if think.max_ms < think.min_ms || self.connections_per_second == 0 || self.check.connections == 0 {
            return Some(
                "`think.max_ms` must be at least `think.min_ms`; speeds and connections at least 1".to_owned(),
            );
        }
        if think.max_ms > THINK_MS_MAX || self.retry.backoff_ms > BACKOFF_MS_MAX {
            return Some(format!("`think.max_ms` is at most {THINK_MS_MAX}, `retry.backoff_ms` {BACKOFF_MS_MAX}"));
        }
        if self.replay.as_ref().is_some_and(|replay| replay.days_per_second == 0) {
            return Some("`replay.days_per_second` must be at least 1".to_owned());
        }
        if self.retry.on.iter().any(|on| !["overloaded", "rate-limited", "unknown"].contains(&on.as_str())) {
            return Some("`retry.on` may hold overloaded, rate-limited and unknown".to_owned());
        }
        None
    }
}
