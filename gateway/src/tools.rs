//! `meed verify`, `inspect`, `snapshot` and `restore`: data on standard output, diagnostics on standard error.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use meed_engine::backup;
use meed_engine::clock::SystemTimes;
use meed_engine::cluster::{self, ClusterView};
use meed_engine::config::KafkaOptions;
use meed_engine::error::Error;
use meed_engine::inspect::{Selection, inspect as inspect_folder};
use meed_engine::journal::cql::CqlConfig;
use meed_engine::publish::{Range, replay as replay_events};
use meed_engine::verify::{VerifyReport, verify as verify_folder};

use crate::backend::{cql_config, kafka_options};
use crate::config::Settings;
use crate::exit::{EXIT_DONE, EXIT_FAILED, exit_code};

/// Checks a data folder and says what was checked; exit code 1 on the first violation.
pub fn verify(data: &Path, snapshot: Option<&Path>) -> u8 {
    match verify_folder(data, snapshot) {
        Ok(report) => {
            let mut text = format!(
                "checked {} batches, {} records, {} accounts; {} states in the store are those of the journal\n",
                report.batches, report.records, report.accounts, report.blobs
            );
            text += &base_of(&report);
            text += "- every checksum, and that each batch continues the one before it\n\
                     - positions and account sequences are dense, and point back to the effect before (invariant 5)\n\
                     - balances are those that the records show; their points add up per account and program (2)\n\
                     - no available balance is below its program's floor (3)\n\
                     - states and totals in the store and in snapshots equal the replay, hash for hash (6)\n";
            for (snapshot, states) in &report.snapshots {
                text += &format!("{states} states in the snapshot {} are those of the journal\n", snapshot.display());
            }
            for snapshot in &report.snapshots_unused {
                text += &format!(
                    "the snapshot {} ends before the journal begins: nothing can be held against it\n",
                    snapshot.display()
                );
            }
            if let Some((file, offset)) = &report.torn_tail {
                text += &format!(
                    "a torn tail begins in {} at offset {offset}; it was never acknowledged, and the next start cuts it\n",
                    file.display()
                );
            }
            for (program, wallet, sums) in report.totals.iter() {
                text += &format!(
                    "program {program}, {wallet}: {} accounts, {} issued, {} adjusted, {} returned, {} redeemed, \
                     {} reversed, {} expired, {} outstanding ({} pending, {} held, {} debt)\n",
                    sums.accounts,
                    sums.issued,
                    sums.adjusted,
                    sums.returned,
                    sums.redeemed,
                    sums.reversed,
                    sums.expired,
                    sums.outstanding(),
                    sums.pending,
                    sums.held,
                    sums.debt
                );
            }
            text += "no violation\n";
            print(&text)
        }
        Err(error) => fail(&error, matches!(error, Error::Damaged { .. })),
    }
}

/// Where the replay began, when that was not the beginning.
fn base_of(report: &VerifyReport) -> String {
    let first = report.first_batch;
    match &report.base {
        None if first == 1 => String::new(),
        Some((base, accounts)) => format!(
            "the journal begins at batch {first}; the replay began with the snapshot {} ({accounts} accounts), and what \
             follows was checked from that on\n",
            base.display()
        ),
        None => format!(
            "the journal begins at batch {first}, and no snapshot meets it. NOT CHECKED: the states, balances and \
             floors of {} accounts whose first records are gone (of their records only that they are dense and point \
             back to each other), and the sums and totals of every program. All else:\n",
            report.accounts_unchecked
        ),
    }
}

/// Writes a snapshot of a stopped node's state.
pub fn snapshot(data: &Path, to: &Path) -> u8 {
    match backup::take(data, to, SystemTimes::start().wall_ms()) {
        Ok(summary) => print(&format!("{}: {} accounts, {} facts\n", to.display(), summary.accounts, summary.facts)),
        Err(error) => fail(&error, false),
    }
}

/// Makes the state of a folder from a snapshot.
pub fn restore(data: &Path, from: &Path) -> u8 {
    match backup::restore(data, from) {
        Ok(restored) => print(&format!(
            "{} accounts and {} facts restored; the next start replays {} records of the journal\n",
            restored.snapshot.accounts, restored.snapshot.facts, restored.tail_records
        )),
        Err(error) => fail(&error, false),
    }
}

/// Prints records as JSON lines.
pub fn inspect(data: &Path, account: Option<(String, String)>, from: u64, limit: Option<u64>) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    let selection = Selection { account, from, limit: limit.unwrap_or(0) };
    let shown = inspect_folder(data, &selection, &mut out);
    let flushed = out.flush();
    match (shown, flushed) {
        (Err(error), _) => fail(&error, false),
        (Ok(0), _) => {
            let of = selection.account.map_or(String::new(), |(program, account)| format!(" of {program}/{account}"));
            let _ = writeln!(io::stderr(), "no record{of} with a sequence of {from} or more");
            EXIT_DONE
        }
        (Ok(_), Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => EXIT_FAILED,
        _ => EXIT_DONE,
    }
}

/// Publishes events of a folder once more, and says how many.
pub fn replay(settings: &Settings, topic: String, range: &Range) -> u8 {
    let Some(options) = kafka_options(settings) else { return EXIT_FAILED };
    let options = KafkaOptions { events_topic: topic, ..options };
    match replay_events(&settings.data, &options, range) {
        Ok(count) => print(&format!("published {count} events into {}\n", options.events_topic)),
        Err(error) => fail(&error, false),
    }
}

/// Prints the nodes of a cluster and who owns its shards; exit code 1 when a shard has no owner that lives.
pub fn cluster_status(settings: &Settings) -> u8 {
    match cql_of(settings).and_then(|cql| cluster::view(&cql)) {
        Ok(view) => {
            let (text, is_whole) = describe(&view);
            let printed = print(&text);
            if is_whole { printed } else { EXIT_FAILED }
        }
        Err(error) => fail(&error, false),
    }
}

/// The table of a cluster, and whether every shard has an owner that lives and has begun.
fn describe(view: &ClusterView) -> (String, bool) {
    let mut text =
        format!("{:<20} {:<10} {:>6} {:>6}  {:<28} started\n", "node", "state", "shards", "begun", "address");
    let mut served = 0;
    for node in &view.nodes {
        let state = match (node.is_renewing, node.draining) {
            (false, _) => "silent",
            (true, true) => "draining",
            (true, false) => "up",
        };
        served += if node.is_renewing { node.begun } else { 0 };
        let started = meed_schemas::time::format(node.started_at);
        let (name, address) = (&node.name, &node.address);
        text += &format!("{name:<20} {state:<10} {:>6} {:>6}  {address:<28} {started}\n", node.shards, node.begun);
    }
    let shards = view.map.seats.len();
    text += &format!("{served} of {shards} shards are served; version {} of the map\n", view.map.version);
    (text, served == shards)
}

/// Lets a node give its shards away, or take some again.
pub fn cluster_drain(settings: &Settings, node: &str, undo: bool) -> u8 {
    match cql_of(settings).and_then(|cql| cluster::drain(&cql, node, !undo)) {
        Ok(true) if undo => print(&format!("{node} takes its share of the shards again\n")),
        Ok(true) => print(&format!("{node} gives its shards away; `meed cluster status` shows how far it is\n")),
        Ok(false) => fail(&Error::Setting(format!("no node is called {node}; see `meed cluster status`")), false),
        Err(error) => fail(&error, false),
    }
}

/// How the settings reach their cluster.
fn cql_of(settings: &Settings) -> Result<CqlConfig, Error> {
    cql_config(settings).map_err(|error| Error::Setting(error.0))
}

/// A violation that `verify` was asked to find is its answer: exit code 1. Elsewhere damage is 3.
fn fail(error: &Error, is_answer: bool) -> u8 {
    let _ = writeln!(io::stderr(), "error: {error}");
    if is_answer { EXIT_FAILED } else { exit_code(error) }
}

/// Prints data; a reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => EXIT_FAILED,
        _ => EXIT_DONE,
    }
}
