//! `meed verify` and `meed inspect`: data on standard output, diagnostics on standard error.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use meed_engine::config::KafkaOptions;
use meed_engine::error::Error;
use meed_engine::inspect::{Selection, inspect as inspect_folder};
use meed_engine::publish::{Range, replay as replay_events};
use meed_engine::verify::verify as verify_folder;

use crate::backend::kafka_options;
use crate::config::Settings;
use crate::exit::{EXIT_DONE, EXIT_FAILED};

/// Checks a data folder and says what was checked; exit code 1 on the first violation.
pub fn verify(data: &Path) -> u8 {
    match verify_folder(data) {
        Ok(report) => {
            let mut text = format!(
                "checked {} batches, {} records, {} accounts; {} states in the store are those of the journal\n\
                 - every checksum, and that each batch continues the one before it\n\
                 - positions and account sequences are dense, and point back to the effect before (invariant 5)\n\
                 - balances are those that the records show; their points add up per account and program (2)\n\
                 - no available balance is below its program's floor (3)\n\
                 - states and totals in the store equal the replay, byte for byte (6)\n",
                report.batches, report.records, report.accounts, report.blobs
            );
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

/// Prints records as JSON lines.
pub fn inspect(data: &Path, account: Option<(String, String)>, from: u64, limit: Option<u64>) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    let shown = inspect_folder(data, &Selection { account, from, limit: limit.unwrap_or(0) }, &mut out);
    let flushed = out.flush();
    match (shown, flushed) {
        (Err(error), _) => fail(&error, false),
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

/// A violation that `verify` was asked to find is its answer: exit code 1. Elsewhere damage is 3.
fn fail(error: &Error, is_answer: bool) -> u8 {
    let _ = writeln!(io::stderr(), "error: {error}");
    if is_answer { EXIT_FAILED } else { error.exit_code() }
}

fn print(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => EXIT_FAILED,
        _ => EXIT_DONE,
    }
}
