//! One run, from the scenario to the verdict: servers, processes, connections, opening points, load, proof, result.
#![allow(clippy::float_arithmetic, reason = "rates and ratios for people")]

mod collect;
mod execute;
mod plan;
mod target;

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use plan::parse_sources;
pub(crate) use target::{Reach, Session};

use crate::error::Fault;
use crate::machine::{self, Machine};
use crate::node::{Layout, Use};
use crate::output::{Live, write_files};
use crate::protocol::Tally;
use crate::recorder::Latencies;
use crate::scenario::{Arrivals, Check, CheckLevel, Mode, Scenario, Stage};
use crate::summary::{
    Bare, Came, Environment, Generator, IntervalRow, SCHEMA_VERSION, ServerUse, StageSummary, Summary, Verdict,
    memory_growth,
};
use crate::verdict::{self, Threshold};
use execute::{Execution, execute};

/// Latencies are as before when the 99th percentile of an interval is at most this many times that of before.
const RECOVERED_FACTOR: u64 = 2;
/// And anything below this is recovered, whatever it was before.
const RECOVERED_US: u64 = 10_000;

/// What the command line says beside the scenario.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenario: Scenario,
    pub(crate) thresholds: Vec<Threshold>,
    pub(crate) reach: Reach,
    /// A server without logic that gets the same load before.
    pub(crate) bare: Option<Vec<String>>,
    pub(crate) processes: Option<u32>,
    /// Processes of agents on other machines; then none are started here.
    pub(crate) agents: u32,
    /// Where those come to, load after load.
    pub(crate) agents_listener: Option<Arc<TcpListener>>,
    /// What processes that make load must know.
    pub(crate) token: String,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) authorization: Option<String>,
    pub(crate) is_quiet: bool,
}

/// A run and what its files are made of.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) summary: Summary,
    /// Whether a process that made load went away before its end: one of an agent does not come again.
    pub(crate) has_lost_processes: bool,
    tally: Tally,
    rows: Vec<IntervalRow>,
    began: SystemTime,
}

impl Finished {
    /// Writes the files of the run, when the command line names a folder.
    pub(crate) fn write(&self, folder: &std::path::Path) -> Result<(), Fault> {
        write_files(folder, &self.summary, &self.tally, &self.rows, self.began)
    }
}

/// Runs a scenario against servers that are named, or that are started and stopped for it.
pub(crate) fn run(options: &Options) -> Result<Finished, Fault> {
    let mut live = Live::new(options.is_quiet);
    let bare = match (&options.bare, &options.reach) {
        (Some(command), Reach::Start(layout)) => Some(run_bare(options, command, layout, &mut live)?),
        (Some(_), Reach::Targets(_)) => {
            return Err(Fault::Usage("--beside needs --start-node: both get the same layout".to_owned()));
        }
        (None, _) => None,
    };
    let mut session =
        Session::open(&options.reach, options.authorization.as_deref(), options.scenario.connections_max())?;
    // Of one that was just started, before it can go away.
    let version = session.started.is_some().then(|| session.version());
    let mut finished = run_in(options, &session, &mut live)?;
    finished.summary.environment.server_version = version.unwrap_or_else(|| session.version());
    // What was measured was measured, however the server ends.
    finished.summary.failures.extend(session.close().err().map(|fault| fault.to_string()));
    if let Some(mut bare) = bare {
        // Refusals are quick, and no work done.
        bare.compare(finished.summary.measured.goodput_per_second);
        finished.summary.bare = Some(bare);
    }
    settle(options, &mut finished.summary);
    Ok(finished)
}

/// Figures and verdict, once everything else is known.
fn settle(options: &Options, summary: &mut Summary) {
    summary.figures = verdict::figures(summary);
    let invalid = verdict::invalid(&options.scenario, summary);
    summary.verdict = verdict::judge(&options.thresholds, summary, &invalid);
}

/// The same load on the server without logic, in the same layout of processes.
fn run_bare(options: &Options, command: &[String], layout: &Layout, live: &mut Live) -> Result<Bare, Fault> {
    live.say(&format!("first the bare server: {}", command.join(" ")));
    let layout = Layout { bare: Some(command.to_vec()), ..layout.clone() };
    let mut scenario = options.scenario.clone();
    scenario.check = Check { level: CheckLevel::None, ..scenario.check };
    scenario.accounts.opening_points = 0;
    scenario.program_file = None;
    let bare_options = Options { scenario, bare: None, ..options.clone() };
    let mut session = Session::open(&Reach::Start(layout), None, options.scenario.connections_max())?;
    let finished = run_in(&bare_options, &session, live)?;
    session.close()?;
    let Summary { measured, peak_per_second, server, failures, .. } = finished.summary;
    if options.agents > 0 && finished.has_lost_processes {
        // The load itself would wait for them.
        return Err(Fault::failed(
            "processes of agents are gone after the run of the bare server",
            failures.join("; "),
        ));
    }
    Ok(Bare { command: command.join(" "), measured, peak_per_second, server, failures, ratio: None })
}

fn run_in(options: &Options, session: &Session, live: &mut Live) -> Result<Finished, Fault> {
    let peak = match options.scenario.calibration {
        Some(_) => Some(calibrate(options, session, live)?),
        None => None,
    };
    let began = SystemTime::now();
    let execution = execute(options, session, &options.scenario, peak, live)?;
    let (summary, tally) = summarize(options, session, &execution, peak, began);
    let has_lost_processes = execution.has_lost_processes;
    Ok(Finished { summary, has_lost_processes, tally, rows: execution.rows, began })
}

/// The rate of a closed loop on the same server, requests a second.
fn calibrate(options: &Options, session: &Session, live: &mut Live) -> Result<u64, Fault> {
    let Some(calibration) = options.scenario.calibration else { return Ok(0) };
    live.say("how much can it do? a closed loop first");
    let stage = |name: &str, seconds, warmup| Stage {
        name: name.to_owned(),
        seconds,
        rate: None,
        to_rate: None,
        percent_of_peak: None,
        warmup,
    };
    let mut scenario = options.scenario.clone();
    scenario.name = "calibration".to_owned();
    scenario.mode = Mode::Closed;
    scenario.arrivals = Arrivals::Uniform;
    scenario.connections = calibration.connections;
    scenario.stages = vec![stage("warm-up", 2, true), stage("closed", calibration.seconds, false)];
    scenario.check = Check { level: CheckLevel::None, ..scenario.check };
    scenario.accounts.prefix = None;
    let execution = execute(options, session, &scenario, None, live)?;
    if let Some(failure) = execution.failure {
        return Err(Fault::Failed(format!("the calibration failed: {failure}")));
    }
    if execution.ended_after_seconds.is_some() {
        return Err(Fault::Failed("ended by a signal in the calibration".to_owned()));
    }
    let good: u64 = execution.tallies[1].acknowledged_in_all();
    let peak = good / u64::from(calibration.seconds.max(1));
    live.say(&format!("it can do {peak} a second"));
    if peak == 0 {
        return Err(Fault::Failed("the server acknowledged nothing in the calibration".to_owned()));
    }
    Ok(peak)
}

/// The result of an execution; figures, verdict and version come later.
fn summarize(
    options: &Options,
    session: &Session,
    execution: &Execution,
    peak: Option<u64>,
    began: SystemTime,
) -> (Summary, Tally) {
    let scenario = &execution.scenario;
    let step = scenario.interval_ms as f64 / 1e3;
    let (mut tally, mut came, mut stages) = (Tally::default(), Came::default(), Vec::new());
    let (mut begin, mut measured_seconds) = (0.0, 0.0);
    for (stage, due) in scenario.stages.iter().zip(&execution.tallies) {
        let seconds = f64::from(stage.seconds);
        let came_now = Came::between(&execution.rows, begin, begin + seconds, step, stage.warmup);
        let mut summary = StageSummary::of(&stage.name, stage.warmup, seconds, due, came_now);
        let within = |row: &&IntervalRow| row.second >= begin && row.second < begin + seconds;
        summary.memory_growth_percent = memory_growth(execution.rows.iter().filter(within));
        stages.push(summary);
        begin += seconds;
        if !stage.warmup {
            tally.add(due);
            came.add(came_now);
            measured_seconds += seconds;
        }
    }
    let mut measured = StageSummary::of("measured", false, measured_seconds, &tally, came);
    measured.memory_growth_percent = memory_growth(measured_rows(execution));
    let mode = match scenario.mode {
        Mode::Open => "open".to_owned(),
        Mode::Closed => {
            "closed: a server that stalls is asked less, so latencies do not compare with an open loop's".to_owned()
        }
    };
    let started_ms = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut recorded = options.scenario.clone();
    if let Some(seconds) = execution.ended_after_seconds {
        // So that nobody compares it with a run of the whole.
        plan::end_after(&mut recorded.stages, seconds);
    }
    let summary = Summary {
        schema_version: SCHEMA_VERSION,
        name: scenario.name.clone(),
        run: execution.run.clone(),
        started_at: meed_schemas::time::format(i64::try_from(started_ms).unwrap_or(0)),
        verdict: Verdict::default(),
        mode,
        environment: environment(options, session, execution),
        connections: execution.connections.clone(),
        generator: generator(execution, &measured),
        server: session.started.as_ref().map(|_| server_use(execution, &measured)),
        peak_per_second: peak.map(|peak| peak as f64),
        recovery_seconds: recovery_seconds(scenario, &execution.rows),
        ended_after_seconds: execution.ended_after_seconds,
        failures: execution.failure.iter().cloned().collect(),
        bare: None,
        correctness: execution.correctness.clone(),
        figures: Default::default(),
        measured,
        stages,
        scenario: recorded,
    };
    (summary, tally)
}

/// What the figures depend on; the version of the server is asked for later.
fn environment(options: &Options, session: &Session, execution: &Execution) -> Environment {
    Environment {
        harness_version: env!("CARGO_PKG_VERSION").to_owned(),
        server_version: String::new(),
        targets: session.servers.iter().map(|server| server.address.to_string()).collect(),
        same_host: session.servers.iter().all(|server| machine::is_here(server.address.ip())),
        coordinator: Machine::here(),
        generators: execution.hosts.clone(),
        server_processes: execution.server_processes,
        node_flags: match &options.reach {
            Reach::Start(layout) => layout.flags.clone(),
            Reach::Targets(_) => Vec::new(),
        },
    }
}

fn measured_rows(execution: &Execution) -> impl Iterator<Item = &IntervalRow> {
    let end = execution.scenario.seconds() as f64;
    execution.rows.iter().filter(move |row| !row.is_warmup && row.second < end)
}

fn generator(execution: &Execution, measured: &StageSummary) -> Generator {
    let cpu_us: u64 = measured_rows(execution).map(|row| row.cpu_us).sum();
    let rows = measured_rows(execution).count().max(1) as f64;
    let in_flight: f64 = measured_rows(execution).map(|row| f64::from(row.in_flight)).sum();
    Generator {
        processes: execution.processes,
        cores_used: if measured.seconds > 0.0 { cpu_us as f64 / 1e6 / measured.seconds } else { 0.0 },
        cpu_us_per_request: cpu_us as f64 / measured.counts.completed.max(1) as f64,
        resident_bytes: execution.generator_resident_bytes,
        in_flight_by_law: measured.completed_per_second * measured.service.mean_us as f64 / 1e6,
        in_flight_counted: in_flight / rows,
    }
}

fn server_use(execution: &Execution, measured: &StageSummary) -> ServerUse {
    let [before, connected, end] = execution.server_use;
    let readings: Vec<&Use> = measured_rows(execution).filter_map(|row| row.server.as_ref()).collect();
    let cpu_us = match (readings.first(), readings.last()) {
        (Some(first), Some(last)) => last.cpu_us.saturating_sub(first.cpu_us),
        _ => 0,
    };
    let step = execution.scenario.interval_ms as f64 / 1e3;
    let seconds = (readings.len().saturating_sub(1) as f64 * step).max(step);
    let cores = cpu_us as f64 / 1e6 / seconds;
    let grown = connected.resident_bytes.saturating_sub(before.resident_bytes) as f64;
    let rate = measured.completed_per_second;
    ServerUse {
        processes: execution.server_processes,
        before,
        connected,
        end,
        resident_bytes_per_connection: grown / f64::from(execution.connections.open.max(1)),
        cores_used: cores,
        cpu_ms_per_1000_requests: if rate > 0.0 { cores * 1e6 / rate } else { 0.0 },
    }
}

/// From the end of the stage `overload` until an interval is as the stage before was.
fn recovery_seconds(scenario: &Scenario, rows: &[IntervalRow]) -> Option<f64> {
    let overload = scenario.stages.iter().position(|stage| stage.name == "overload")?;
    let seconds = |stages: &[Stage]| stages.iter().map(|stage| f64::from(stage.seconds)).sum::<f64>();
    let (begin, end) = (seconds(&scenario.stages[..overload]), seconds(&scenario.stages[..=overload]));
    let last = seconds(&scenario.stages);
    let mut before = Latencies::default();
    rows.iter().filter(|row| !row.is_warmup && row.second < begin).for_each(|row| before.add(&row.latency));
    let bound_us = (before.quantile_us(0.99) * RECOVERED_FACTOR).max(RECOVERED_US);
    let step = scenario.interval_ms as f64 / 1e3;
    let good = |row: &&IntervalRow| !row.latency.is_empty() && row.latency.quantile_us(0.99) <= bound_us;
    let after = rows.iter().filter(|row| row.second >= end && row.second < last);
    // The end of the first good interval; never, when there is none.
    Some(after.clone().find(good).map_or(f64::from(u32::MAX), |row| row.second + step - end))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A warm-up of a second at 800 ms, two seconds at `before_ms`, two of overload, three with a latency per half second
    /// (0: no answer).
    fn recovery(before_ms: u64, after_ms: [u64; 6]) -> Option<f64> {
        let mut scenario = Scenario::load("smoke").unwrap();
        scenario.interval_ms = 500;
        let stage = |name: &str, seconds, warmup| Stage {
            name: name.to_owned(),
            seconds,
            rate: Some(1),
            to_rate: None,
            percent_of_peak: None,
            warmup,
        };
        scenario.stages = vec![
            stage("warm-up", 1, true),
            stage("before", 2, false),
            stage("overload", 2, false),
            stage("after", 3, false),
        ];
        let latencies_ms = [&[800; 2][..], &[before_ms; 4], &[900; 4], &after_ms].concat();
        let rows: Vec<IntervalRow> = latencies_ms
            .iter()
            .enumerate()
            .map(|(number, latency_ms)| {
                let (second, is_warmup) = (number as f64 / 2.0, number < 2);
                let mut row = IntervalRow { second, is_warmup, ..IntervalRow::default() };
                if *latency_ms > 0 {
                    row.latency.record(latency_ms * 1_000);
                }
                row
            })
            .collect();
        recovery_seconds(&scenario, &rows)
    }

    #[test]
    fn recovery_lasts_until_an_interval_is_as_before() {
        assert_eq!(recovery(20, [39; 6]), Some(0.5), "at once: up to twice of before");
        assert_eq!(recovery(20, [900, 42, 39, 900, 39, 39]), Some(1.5), "late");
        assert_eq!(recovery(20, [0, 0, 39, 39, 39, 39]), Some(1.5), "an interval without an answer is not good");
        assert_eq!(recovery(20, [42; 6]), Some(f64::from(u32::MAX)), "never");
        assert_eq!(recovery(1, [9; 6]), Some(0.5), "below 10 ms everything is good");
        assert_eq!(recovery(1, [11; 6]), Some(f64::from(u32::MAX)));
        let calm = Scenario::load("smoke").unwrap();
        assert_eq!(recovery_seconds(&calm, &[]), None, "there is no overload");
    }
}
