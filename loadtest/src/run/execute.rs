//! One load on servers that are there: processes, connections, opening points, the load itself, the proof.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::check::{self, Books};
use crate::error::Fault;
use crate::fleet::{Fleet, Loaded, Sources};
use crate::http::{Client, Server, patiently};
use crate::machine;
use crate::node::{Servers, Use};
use crate::output::Live;
use crate::protocol::{Done, Hello, Tally};
use crate::run::collect::Collector;
use crate::run::plan::{self, Common};
use crate::run::{Options, Session};
use crate::scenario::{CheckLevel, Scenario, Stage};
use crate::summary::{ConnectionsSummary, Correctness, IntervalRow, Violation};
use crate::traffic;

const CDNOW_PROGRAM: &str = include_str!("../../../ops/programs/cdnow.json");
/// How long silent connections rest before the server's memory is read.
const SETTLE: Duration = Duration::from_millis(500);

/// What came of one load.
#[derive(Debug)]
pub(super) struct Execution {
    /// The scenario as it was run: a replay has got its stage, and one that was ended early has shorter ones.
    pub(super) scenario: Scenario,
    pub(super) run: String,
    /// After so many seconds, because the program was asked to end, or because the load failed.
    pub(super) ended_after_seconds: Option<u32>,
    /// Why the load did not come to its end.
    pub(super) failure: Option<String>,
    /// Whether a process went away, in the load or in the proof.
    pub(super) has_lost_processes: bool,
    pub(super) tallies: Vec<Tally>,
    pub(super) rows: Vec<IntervalRow>,
    pub(super) connections: ConnectionsSummary,
    pub(super) correctness: Correctness,
    pub(super) processes: u32,
    pub(super) hosts: Vec<String>,
    pub(super) generator_resident_bytes: u64,
    pub(super) server_processes: u32,
    /// Before the connections, with them, at the end.
    pub(super) server_use: [Use; 3],
}

/// Makes the load. `peak` is what the calibration found.
pub(super) fn execute(
    options: &Options,
    session: &Session,
    scenario: &Scenario,
    peak: Option<u64>,
    live: &mut Live,
) -> Result<Execution, Fault> {
    let run = machine::random_hex(4)?;
    let mut common = common(options, session, scenario, peak, &run)?;
    let servers: Vec<Server> =
        session.servers.iter().map(|server| Server { program: scenario.program.clone(), ..server.clone() }).collect();
    let mut books = Books { run: run.clone(), prefix: common.account_prefix.clone(), ..Books::default() };
    // A stream of events is a program's: the program comes first, then the place in the stream, then the first event.
    give_program(&servers, &common.scenario)?;
    books.events_from = match scenario.check.level {
        CheckLevel::Full if scenario.check.events_max > 0 => check::cursor_now(&servers[0], scenario.check.patience())?,
        CheckLevel::Full | CheckLevel::None => None,
    };
    prepare(&mut books, &servers, &common.scenario, live)?;
    let usage = || session.started.as_ref().map(Servers::usage).unwrap_or_default();
    let before = usage();
    let mut fleet = gather(options, &common, peak, live)?;
    let hosts: BTreeSet<String> = fleet.hellos().map(|hello| hello.host.clone()).collect();
    let processes = fleet.hellos().count();
    let mut connections = connect(options, &common, &mut fleet, live)?;
    if session.started.is_some() {
        std::thread::sleep(SETTLE);
    }
    let connected = usage();
    let stages = common.scenario.stages.clone();
    live.begin(&common.scenario.name, common.scenario.seconds());
    let mut collector = Collector::new(&stages, scenario.interval_ms, processes, session.started.as_ref(), live);
    let loaded = fleet.run(&common.scenario, &mut collector)?;
    let (tallies, rows) = collector.finish();
    let ended_after_seconds = ended_after(&loaded, &rows, &common.scenario);
    if let Some(seconds) = ended_after_seconds {
        plan::end_after(&mut common.scenario.stages, seconds);
    }
    connections.open_at_end = rows.last().map_or(0, |row| row.open_connections);
    let end = usage();
    let generator_resident_bytes = loaded.done.iter().map(|done| done.resident_bytes).sum();
    let correctness = match &loaded.failure {
        Some(failure) => unproven(books, &common.scenario, failure),
        None => prove(books, &servers, &common.scenario, loaded.done, &mut fleet, live),
    };
    let has_lost_processes = loaded.failure.is_some() || fleet.has_lost;
    // Of a load that failed, the processes that are left do not wait for orders.
    if loaded.failure.is_none() {
        fleet.finish();
    }
    Ok(Execution {
        run,
        ended_after_seconds,
        failure: loaded.failure,
        has_lost_processes,
        tallies,
        connections,
        rows,
        correctness,
        processes: u32::try_from(processes).unwrap_or(u32::MAX),
        hosts: hosts.into_iter().collect(),
        generator_resident_bytes,
        server_processes: session.started.as_ref().map_or(0, |started| started.process_count() as u32),
        server_use: [before, connected, end],
        scenario: common.scenario,
    })
}

/// After how many seconds the schedule ended, if before its last stage did.
fn ended_after(loaded: &Loaded, rows: &[IntervalRow], scenario: &Scenario) -> Option<u32> {
    let ended = match &loaded.failure {
        // The last interval may be one of some processes only.
        Some(_) => Some(rows.last().map_or(0, |row| scenario.full_second(row.second as u32))),
        None => loaded.ended,
    };
    ended.filter(|seconds| u64::from(*seconds) < scenario.seconds())
}

/// Plans the parts of all processes and makes the connections.
fn connect(
    options: &Options,
    common: &Common,
    fleet: &mut Fleet,
    live: &mut Live,
) -> Result<ConnectionsSummary, Fault> {
    let wanted = common.scenario.connections;
    let is_local = common.targets.iter().all(|target| machine::is_here(target.ip()));
    let warnings = plan::warnings(&common.scenario, is_local);
    warnings.iter().for_each(|warning| live.say(&format!("warning: {warning}")));
    let hellos: Vec<Hello> = fleet.hellos().cloned().collect();
    let files: Vec<u64> = hellos.iter().map(|hello| hello.files_max).collect();
    let shares = plan::shares(wanted, &files)?;
    let sources = plan::sources_by_host(&options.sources, &common.targets, &hellos, &shares)?;
    let began = Instant::now();
    let (open, failed, first_failure) = fleet.connect(plan::plans(common, &shares, &hellos, &sources))?;
    let took = began.elapsed();
    live.say(&format!("{open} connections from {} processes in {:.1} s", files.len(), took.as_secs_f64()));
    if open == 0 {
        let targets: Vec<String> = common.targets.iter().map(ToString::to_string).collect();
        let why = first_failure.unwrap_or_else(|| "none came to an end in time".to_owned());
        return Err(Fault::failed(format!("no connection could be made to {}", targets.join(", ")), why));
    }
    if let Some(failure) = first_failure {
        live.say(&format!("{failed} connections failed, the first: {failure}"));
    }
    Ok(ConnectionsSummary {
        wanted,
        open,
        failed,
        open_at_end: 0,
        connect_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        sources: sources.values().flatten().map(ToString::to_string).collect(),
    })
}

fn common(
    options: &Options,
    session: &Session,
    scenario: &Scenario,
    peak: Option<u64>,
    run: &str,
) -> Result<Common, Fault> {
    let mut scenario = scenario.clone();
    let mut purchases = Vec::new();
    if let Some(replay) = &scenario.replay {
        purchases = traffic::purchases(replay, scenario.seed)?;
        let last_ns = purchases.last().map_or(0, |purchase| purchase.due_ns);
        let seconds = scenario.full_second(u32::try_from(last_ns / 1_000_000_000 + 1).unwrap_or(u32::MAX));
        let stage = Stage {
            name: "replay".to_owned(),
            seconds,
            rate: Some(0),
            to_rate: None,
            percent_of_peak: None,
            warmup: false,
        };
        scenario.stages = vec![stage];
        let last = purchases.iter().map(|purchase| purchase.account).max().unwrap_or(0);
        scenario.accounts.count = last.saturating_add(1);
    }
    let host = session.servers.first().map_or(String::new(), |server| server.host.clone());
    Ok(Common {
        run: run.to_owned(),
        slopes: plan::slopes(&scenario.stages, peak),
        targets: session.targets(),
        account_prefix: scenario.accounts.prefix.clone().unwrap_or_else(|| format!("lt-{run}-")),
        host,
        authorization: options.authorization.clone(),
        purchases,
        scenario,
    })
}

fn give_program(servers: &[Server], scenario: &Scenario) -> Result<(), Fault> {
    if let (Some(program), Some(file)) = (&scenario.program, &scenario.program_file) {
        let document = match file.as_str() {
            "cdnow" => CDNOW_PROGRAM.to_owned(),
            path => std::fs::read_to_string(path).map_err(|error| Fault::failed(path, error))?,
        };
        let mut client = Client::new(servers[0].clone());
        let path = format!("/api/v1/programs/{program}");
        let reply = patiently(scenario.check.patience(), || client.send("PUT", &path, document.as_bytes()))?;
        if !matches!(reply.status, 200 | 201) {
            return Err(Fault::Failed(format!("the program {program} was refused: {} {}", reply.status, reply.text())));
        }
    }
    Ok(())
}

/// Opening points, and what accounts had before.
fn prepare(books: &mut Books, servers: &[Server], scenario: &Scenario, live: &mut Live) -> Result<(), Fault> {
    let (accounts, check) = (scenario.accounts.count, scenario.check);
    let is_checked = scenario.check.level == CheckLevel::Full;
    if scenario.accounts.prefix.is_some() && is_checked {
        live.say(&format!("reading what {accounts} accounts have"));
        check::read_openings(books, servers, check, accounts)?;
    }
    let points = scenario.accounts.opening_points;
    if points > 0 && (is_checked || scenario.name == "calibration") {
        live.say(&format!("{accounts} accounts get {points} points each"));
        check::open_accounts(books, servers, check, accounts, points)?;
    }
    Ok(())
}

fn gather(options: &Options, common: &Common, peak: Option<u64>, live: &mut Live) -> Result<Fleet, Fault> {
    let connections = common.scenario.connections;
    let files_max = machine::raise_files_limit();
    let needed = plan::processes(connections, &common.slopes, peak, files_max);
    let local = if options.agents > 0 { 0 } else { options.processes.unwrap_or(needed).min(connections) };
    if local > 1 || local != needed {
        live.say(&format!("{local} processes make the load ({files_max} open files each)"));
    }
    let sources = Sources {
        local,
        remote: options.agents,
        listener: options.agents_listener.as_deref(),
        token: &options.token,
        give_way: common.scenario.give_way,
    };
    Fleet::gather(&sources)
}

/// The books of a load that failed: what its processes acknowledged is lost with one of them.
fn unproven(mut books: Books, scenario: &Scenario, failure: &str) -> Correctness {
    let is_checked = scenario.check.level == CheckLevel::Full;
    books.result.conservation = if is_checked { "not proven" } else { "not checked" }.to_owned();
    books.result.events = "not compared".to_owned();
    books.result.reason = is_checked.then(|| failure.to_owned());
    books.result
}

/// Compares the server's books with what it acknowledged. A server that does not let itself be asked proves nothing, and
/// what was measured stays.
fn prove(
    mut books: Books,
    servers: &[Server],
    scenario: &Scenario,
    done: Vec<Done>,
    fleet: &mut Fleet,
    live: &mut Live,
) -> Correctness {
    let result = &mut books.result;
    if scenario.check.level == CheckLevel::None {
        result.conservation = "not checked".to_owned();
        result.events = "not checked".to_owned();
        return books.result;
    }
    result.events = "not compared".to_owned();
    let fault = compare(&mut books, servers, scenario, done, fleet, live).err();
    books.result.conservation = match fault {
        _ if books.result.violation_count > 0 => "violated",
        Some(_) => "not proven",
        None => "holds",
    }
    .to_owned();
    books.result.reason = fault.map(|fault| fault.to_string());
    books.result
}

fn compare(
    books: &mut Books,
    servers: &[Server],
    scenario: &Scenario,
    done: Vec<Done>,
    fleet: &mut Fleet,
    live: &mut Live,
) -> Result<(), Fault> {
    let ended = Instant::now();
    let (mut unknown, mut unasked) = (Vec::new(), 0u64);
    for (worker, done) in (0..).zip(done) {
        for (account, entry) in done.entries {
            books.entries.entry(account).or_default().add(entry);
        }
        unknown.extend(done.unknown);
        unasked += done.unasked;
        // Beyond those that are named.
        books.result.violation_count += done.wrong_count - done.wrong.len() as u64;
        for wrong in done.wrong {
            let violation = Violation {
                kind: "wrong-answer".to_owned(),
                account: books.account(wrong.account),
                detail: wrong.what,
                operations: vec![books.key(worker, wrong.number)],
            };
            books.violate(violation);
        }
    }
    if !unknown.is_empty() {
        live.say(&format!("{} outcomes are unknown; asking for them by their keys", unknown.len()));
        std::thread::sleep(Duration::from_millis(scenario.check.resolve_after_ms).saturating_sub(ended.elapsed()));
        check::resolve(books, servers, scenario.check, &unknown)?;
    }
    if unasked > 0 {
        // What was executed of them would seem to be nobody's.
        let why = "more than are asked for, so they are neither acknowledged nor refused";
        return Err(Fault::failed(format!("{unasked} outcomes beside {} are unknown", unknown.len()), why));
    }
    live.say(&format!("reading the books of {} accounts", books.entries.len()));
    check::audit(books, servers, scenario.check, scenario.seed, &mut |accounts| fleet.details(accounts))?;
    match books.events_from.take() {
        Some(cursor) => check::compare_events(books, &servers[0], &cursor, scenario.check)?,
        None if scenario.check.events_max == 0 => "not compared".clone_into(&mut books.result.events),
        None => "the server has no event stream".clone_into(&mut books.result.events),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::check::canned::serve;
    use crate::ledger::Entry;

    #[test]
    fn books_with_outcomes_that_were_not_asked_for_are_not_proven() {
        // Something was executed that nobody knows of.
        let servers = [serve(|path| {
            let row = r#"{"transaction_id":"t","type":"EARN","points":5,"sequence":1}"#;
            let balance = r#"{"total_points":5,"pending_points":0,"available_points":5,"held_points":0,"sequence":1}"#;
            let history = format!(r#"{{"transactions":[{row}],"next":null}}"#);
            Some(if path.ends_with("/balance") { balance.to_owned() } else { history })
        })];
        let scenario = Scenario::load("smoke").unwrap();
        let conservation = |unasked| {
            let entries = vec![(0, Entry { touched: true, ..Entry::default() })];
            let done = Done { entries, unasked, ..Done::default() };
            let (mut fleet, mut live) = (Fleet::of_nobody(std::sync::mpsc::channel().1), Live::new(true));
            prove(Books::default(), &servers, &scenario, vec![done], &mut fleet, &mut live)
        };
        assert_eq!(conservation(0).conservation, "violated");
        let unproven = conservation(3);
        assert_eq!((unproven.conservation.as_str(), unproven.violation_count), ("not proven", 0));
        assert!(unproven.reason.unwrap().contains("3 outcomes beside 0 are unknown"));
    }
}
