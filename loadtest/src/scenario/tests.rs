//! Which scenarios can be run.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn every_profile_can_be_run() {
    for (name, _) in PROFILES {
        let scenario = Scenario::load(name).unwrap();
        assert_eq!(scenario.name, *name);
        assert!(!scenario.description.is_empty(), "{name}");
        let again: Scenario = serde_json::from_str(&serde_json::to_string(&scenario).unwrap()).unwrap();
        assert_eq!(again, scenario, "a worker would get another plan");
    }
}

#[test]
fn the_longest_pauses_are_no_more_than_times_can_hold() {
    let most_ns = (u128::from(BACKOFF_MS_MAX) << 16).max(u128::from(THINK_MS_MAX)) * 1_000_000;
    let longest_ns = STAGES_MAX as u128 * u128::from(STAGE_SECONDS_MAX) * 1_000_000_000;
    assert!(most_ns + 2 * longest_ns < u128::from(u64::MAX), "a pause that begins at the end of the longest run");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_member() {
    let good = Scenario::load("smoke").unwrap();
    let wrong = |change: fn(&mut Scenario), part: &str| {
        let mut scenario = good.clone();
        change(&mut scenario);
        let message = scenario.checked().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    wrong(|s| s.connections = 0, "connections");
    wrong(|s| s.stages.clear(), "stages");
    wrong(|s| s.stages.iter_mut().for_each(|stage| stage.warmup = true), "warm-up");
    wrong(|s| s.stages[0].rate = None, "rate");
    wrong(|s| s.stages[0].seconds = 0, "seconds");
    wrong(|s| s.stages[0].percent_of_peak = Some(50), "calibration");
    wrong(|s| s.mix = Mix::default(), "mix");
    wrong(|s| s.accounts.theta = 3.0, "theta");
    wrong(|s| s.accounts.hot_count = 0, "hot_count");
    wrong(|s| s.retry.on = vec!["always".into()], "retry.on");
    wrong(|s| s.timeout_ms = 0, "timeout_ms");
    wrong(|s| s.interval_ms = 1_500, "a multiple of `interval_ms`");
    wrong(|s| s.think.max_ms = 9_000_000_000_000_000_000, "think.max_ms");
    wrong(|s| s.retry.backoff_ms = 9_000_000_000_000_000_000, "retry.backoff_ms");
    wrong(|s| s.stages[1].name = s.stages[0].name.clone(), "two stages have the name warm-up");
    wrong(|s| s.stages[0].name.clear(), "needs a name");
    wrong(|s| s.stages[0].name = "steady.redeem".into(), "without a point");
    assert!(Scenario::load("no-such-profile").unwrap_err().to_string().contains("headline-100k-50k"));
    assert!(toml::from_str::<Scenario>("name='a'\nconnections=1\nconections_per_second=2").is_err());
}
