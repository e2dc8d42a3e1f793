//! The result as text, for standard output.
#![allow(clippy::float_arithmetic, reason = "figures for people")]

use std::fmt::Write as _;

use crate::summary::{Quantiles, StageSummary, Summary};

/// A time in the unit that shows three or four digits.
pub(crate) fn microseconds(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

fn row(text: &mut String, name: &str, quantiles: &Quantiles) {
    let Quantiles { count, p50_us, p90_us, p99_us, p999_us, max_us, .. } = *quantiles;
    let [p50, p90, p99, p999, max] = [p50_us, p90_us, p99_us, p999_us, max_us].map(microseconds);
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {name:<14}{count:>10}{p50:>11}{p90:>11}{p99:>11}{p999:>11}{max:>11}");
}

fn stage(text: &mut String, stage: &StageSummary) {
    let StageSummary { name, seconds, offered_per_second, completed_per_second, goodput_per_second, .. } = stage;
    let _ = writeln!(
        text,
        "{name}: {seconds:.0} s, offered {offered_per_second:.0}/s, answered {completed_per_second:.0}/s; good operations {goodput_per_second:.0}/s"
    );
    let _ = writeln!(
        text,
        "  scheduled {}, sent {}, completed {}, dropped {}, unknown {}, retries {}; errors {:.3} %",
        stage.counts.scheduled,
        stage.counts.sent,
        stage.counts.completed,
        stage.counts.dropped,
        stage.counts.unknown,
        stage.counts.retries,
        stage.errors_percent
    );
    for (title, kinds) in [("refused", &stage.refused), ("errors", &stage.errors)] {
        if !kinds.is_empty() {
            let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            let _ = writeln!(text, "  {title}: {}", kinds.join(", "));
        }
    }
    let _ = writeln!(
        text,
        "  {:<14}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}",
        "", "count", "p50", "p90", "p99", "p99.9", "max"
    );
    row(text, "latency", &stage.latency);
    row(text, "service time", &stage.service);
    for (operation, quantiles) in stage.operations.iter().filter(|_| stage.operations.len() > 1) {
        row(text, operation, quantiles);
    }
}

/// The whole result.
pub(crate) fn table(summary: &Summary) -> String {
    let mut text = format!("\n{} ({}), run {}\n\n", summary.name, summary.mode, summary.run);
    let measured: Vec<&StageSummary> = summary.stages.iter().filter(|stage| !stage.warmup).collect();
    if measured.len() == 1 {
        stage(&mut text, measured[0]);
    } else {
        measured.into_iter().for_each(|one| stage(&mut text, one));
        stage(&mut text, &StageSummary { name: "all measured stages".to_owned(), ..summary.measured.clone() });
    }
    generator(&mut text, summary);
    servers(&mut text, summary);
    books(&mut text, summary);
    let verdict = &summary.verdict;
    for threshold in &verdict.thresholds {
        let found = threshold.found.map_or("no such figure".to_owned(), |found| format!("{found:.3}"));
        let _ = writeln!(text, "  {} {:<28} {found}", if threshold.holds { "✓" } else { "✗" }, threshold.condition);
    }
    let _ = writeln!(text, "\n{}{}", verdict.result.to_uppercase(), reasons(&verdict.reasons));
    text
}

fn reasons(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("\n  {reason}")).collect()
}

fn generator(text: &mut String, summary: &Summary) {
    let generator = &summary.generator;
    let lag = &summary.measured.lag;
    let _ = writeln!(
        text,
        "\ngenerator: {} processes, {:.2} cores, {:.1} µs of processor per request; lag p50 {}, p99 {}, max {}; {} connections ({} failed)",
        generator.processes,
        generator.cores_used,
        generator.cpu_us_per_request,
        microseconds(lag.p50_us),
        microseconds(lag.p99_us),
        microseconds(lag.max_us),
        summary.connections.open,
        summary.connections.failed,
    );
    let environment = &summary.environment;
    let _ = writeln!(
        text,
        "{} cores of {}, Linux {}; server {}{}",
        environment.coordinator.cores,
        environment.coordinator.processor,
        environment.coordinator.kernel,
        environment.server_version,
        if environment.same_host { ", on the same machine: both compete for its processors" } else { "" }
    );
}

fn servers(text: &mut String, summary: &Summary) {
    if let Some(peak) = summary.peak_per_second {
        let _ = writeln!(text, "peak in a closed loop: {peak:.0}/s");
    }
    if let Some(seconds) = summary.ended_after_seconds {
        let _ = writeln!(text, "ended early, after {seconds} s of its schedule");
    }
    if let Some(recovery) = summary.recovery_seconds {
        let _ = writeln!(text, "latencies as before the overload after {recovery:.2} s");
    }
    if let Some(server) = &summary.server {
        let _ = writeln!(
            text,
            "server: {} processes, {:.2} cores, {:.2} ms of processor per 1,000 requests; resident {} MB before, {} MB connected ({:.0} bytes a connection), {} MB at the end",
            server.processes,
            server.cores_used,
            server.cpu_ms_per_1000_requests,
            server.before.resident_bytes >> 20,
            server.connected.resident_bytes >> 20,
            server.resident_bytes_per_connection,
            server.end.resident_bytes >> 20
        );
    }
    if let Some(bare) = &summary.bare {
        let _ = writeln!(
            text,
            "bare server in the same layout: answered {:.0}/s of {:.0}/s, p50 {}, p99 {}; {}",
            bare.measured.completed_per_second,
            bare.measured.offered_per_second,
            microseconds(bare.measured.latency.p50_us),
            microseconds(bare.measured.latency.p99_us),
            bare.ratio_text()
        );
    }
}

fn books(text: &mut String, summary: &Summary) {
    let books = &summary.correctness;
    let _ = writeln!(
        text,
        "conservation {}: {} transactions with {} points acknowledged; {} unknown outcomes ({} were executed); {} balances and {} histories ({} transactions) read in {:.1} s; events: {}",
        books.conservation,
        books.acknowledged_transactions,
        books.acknowledged_points,
        books.unknown_outcomes,
        books.unknown_executed,
        books.accounts_balanced,
        books.accounts_walked,
        books.transactions_read,
        books.seconds,
        books.events
    );
    if let Some(reason) = &books.reason {
        let _ = writeln!(text, "  {reason}");
    }
    for violation in books.violations.iter().take(10) {
        let _ = writeln!(
            text,
            "  ✗ {} on {}: {} [{}]",
            violation.kind,
            violation.account,
            violation.detail,
            violation.operations.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (us, text) in [(0, "0 µs"), (999, "999 µs"), (1_234, "1.23 ms"), (56_789, "56.8 ms"), (1_400_000, "1.40 s")]
        {
            assert_eq!(microseconds(us), text);
        }
    }
}
