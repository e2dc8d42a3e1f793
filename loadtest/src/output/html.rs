//! The report: one page that needs nothing else, no script and no other file.
#![allow(clippy::float_arithmetic, reason = "figures of a page for people")]

use std::fmt::Write as _;

use crate::output::svg::{Axis, Chart, Scale, Series};
use crate::output::table::microseconds;
use crate::protocol::Counts;
use crate::recorder::Latencies;
use crate::summary::{IntervalRow, Quantiles, StageSummary, Summary};

const STYLE: &str = include_str!("report.css");

/// The page of a run. `latency` and `service` are those of the measured stages.
pub(super) fn report(summary: &Summary, latency: &Latencies, service: &Latencies, rows: &[IntervalRow]) -> String {
    let verdict = &summary.verdict;
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name} – {result}</title><style>{STYLE}</style></head><body><main>\
         <h1>{name} <span class=\"verdict {result}\">{result}</span></h1><p class=\"sub\">{description}</p>\
         <p class=\"sub\">Run {run}, {started}; loop: {mode}</p>",
        name = escaped(&summary.name),
        result = escaped(&verdict.result),
        description = escaped(&summary.scenario.description),
        run = escaped(&summary.run),
        started = escaped(&summary.started_at),
        mode = escaped(&summary.mode),
    );
    for reason in &verdict.reasons {
        let _ = write!(page, "<p class=\"reason\">{}</p>", escaped(reason));
    }
    cards(&mut page, summary);
    conditions(&mut page, summary);
    charts(&mut page, summary, latency, service, rows);
    stages(&mut page, summary);
    operations(&mut page, summary);
    books(&mut page, summary);
    environment(&mut page, summary);
    page.push_str("</main></body></html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn cards(page: &mut String, summary: &Summary) {
    let measured = &summary.measured;
    let cards = [
        (
            "answered a second",
            format!("{:.0}", measured.completed_per_second),
            format!("of {:.0} offered", measured.offered_per_second),
        ),
        ("p50", microseconds(measured.latency.p50_us), "from the scheduled time".to_owned()),
        (
            "p99",
            microseconds(measured.latency.p99_us),
            format!("service time {}", microseconds(measured.service.p99_us)),
        ),
        ("p99.9", microseconds(measured.latency.p999_us), format!("max {}", microseconds(measured.latency.max_us))),
        (
            "errors",
            format!("{:.3} %", measured.errors_percent),
            format!("{} unknown, {} dropped", measured.counts.unknown, measured.counts.dropped),
        ),
        (
            "conservation",
            summary.correctness.conservation.clone(),
            format!("{} transactions", summary.correctness.acknowledged_transactions),
        ),
    ];
    page.push_str("<section class=\"cards\">");
    for (title, value, note) in cards {
        let _ = write!(
            page,
            "<div><small>{title}</small><b>{}</b><small>{}</small></div>",
            escaped(&value),
            escaped(&note)
        );
    }
    page.push_str("</section>");
}

fn conditions(page: &mut String, summary: &Summary) {
    if summary.verdict.thresholds.is_empty() {
        return;
    }
    page.push_str("<h2>Conditions</h2><table><tr><th>condition</th><th>found</th><th></th></tr>");
    for threshold in &summary.verdict.thresholds {
        let found = threshold.found.map_or("no such figure".to_owned(), |found| format!("{found:.3}"));
        let (class, text) = if threshold.holds { ("good", "holds") } else { ("bad", "does not hold") };
        let condition = escaped(&threshold.condition);
        let _ =
            write!(page, "<tr><td>{condition}</td><td class=\"n\">{found}</td><td class=\"{class}\">{text}</td></tr>");
    }
    page.push_str("</table>");
}

fn seconds_label(value: f64) -> String {
    format!("{value:.0}")
}

fn count_label(value: f64) -> String {
    match value {
        10_000.0.. => format!("{:.0}k", value / 1_000.0),
        ..10.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn time_label(value: f64) -> String {
    microseconds(value as u64)
}

/// Of a place on an axis of 1/(1 − quantile).
fn percentile_label(value: f64) -> String {
    let nines = value.log10().round() as usize;
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        _ => format!("99.{} %", "9".repeat(nines - 2)),
    }
}

fn megabytes_label(value: f64) -> String {
    format!("{value:.0} MB")
}

const SECONDS: Axis = Axis { scale: Scale::Linear, label: seconds_label, title: "seconds" };

fn charts(page: &mut String, summary: &Summary, latency: &Latencies, service: &Latencies, rows: &[IntervalRow]) {
    let per_second = 1_000.0 / summary.scenario.interval_ms as f64;
    let line = |name, class, value: &dyn Fn(&IntervalRow) -> f64| Series {
        name,
        class,
        points: rows.iter().map(|row| (row.second, value(row))).collect(),
    };
    let quantile = |name, class, quantile: f64| Series {
        name,
        class,
        points: rows
            .iter()
            .filter(|row| !row.latency.is_empty())
            .map(|row| (row.second, row.latency.quantile_us(quantile) as f64))
            .collect(),
    };
    let warmup = rows.iter().filter(|row| row.is_warmup).map(|row| row.second + 1.0 / per_second).fold(0.0, f64::max);
    let shaded = (warmup > 0.0).then_some((0.0, warmup));
    let draw = |y: Axis, series: &[Series]| Chart { x: SECONDS, y, series, shaded }.draw();
    page.push_str("<h2>Over time</h2>");
    let time = Axis { scale: Scale::Logarithmic, label: time_label, title: "Latency" };
    let lines = [
        quantile("max", "d", 1.0),
        quantile("p99.9", "c", 0.999),
        quantile("p99", "b", 0.99),
        quantile("p50", "a", 0.5),
    ];
    page.push_str(&draw(time, &lines));
    let counts = Axis { scale: Scale::Linear, label: count_label, title: "Requests a second" };
    let lines = [
        line("due", "grey", &|row| row.tally.counts.scheduled as f64 * per_second),
        line("answered", "a", &|row| row.tally.counts.completed as f64 * per_second),
        line("errors", "d", &|row| (row.tally.errors_in_all() + row.tally.counts.dropped) as f64 * per_second),
    ];
    page.push_str(&draw(counts, &lines));
    let under_way = Axis { title: "Requests under way and waiting", ..counts };
    let lines = [
        line("in flight", "a", &|row| f64::from(row.in_flight)),
        line("waiting for a connection", "d", &|row| f64::from(row.waiting)),
    ];
    page.push_str(&draw(under_way, &lines));
    if rows.iter().any(|row| row.server.is_some()) {
        let memory = Axis { label: megabytes_label, title: "Resident memory of the server", ..counts };
        let value = |row: &IntervalRow| row.server.map_or(0.0, |server| server.resident_bytes as f64 / 1_048_576.0);
        page.push_str(&draw(memory, &[line("resident", "a", &value)]));
    }
    page.push_str("<h2>Distribution</h2>");
    let lines = [
        percentile_curve("latency, from the scheduled time", "b", latency),
        percentile_curve("service time, from the write", "a", service),
    ];
    let x = Axis { scale: Scale::Logarithmic, label: percentile_label, title: "percentile" };
    page.push_str(
        &Chart {
            x,
            y: Axis { title: "Time below which so many requests were answered", ..time },
            series: &lines,
            shaded: None,
        }
        .draw(),
    );
}

fn percentile_curve(name: &'static str, class: &'static str, latencies: &Latencies) -> Series {
    let most = latencies.count().max(1) as f64;
    let points = (0..=120).map(|step| 10f64.powf(f64::from(step) / 20.0)).take_while(|place| *place <= most);
    let value = |place: f64| (place, latencies.quantile_us(1.0 - 1.0 / place).max(1) as f64);
    Series { name, class, points: points.map(value).collect() }
}

fn stages(page: &mut String, summary: &Summary) {
    page.push_str(
        "<h2>Stages</h2><table><tr><th>stage</th><th>seconds</th><th>offered/s</th><th>answered/s</th><th>good/s</th>\
         <th>scheduled</th><th>sent</th><th>completed</th><th>dropped</th><th>unknown</th><th>p50</th><th>p99</th><th>max</th><th>errors</th></tr>",
    );
    for stage in &summary.stages {
        let StageSummary { counts: Counts { scheduled, sent, completed, dropped, unknown, .. }, latency, .. } = stage;
        let (name, note) = (escaped(&stage.name), if stage.warmup { " <small>warm-up</small>" } else { "" });
        let _ = write!(
            page,
            "<tr><td>{name}{note}</td><td class=\"n\">{:.0}</td><td class=\"n\">{:.0}</td><td class=\"n\">{:.0}</td><td class=\"n\">{:.0}</td>\
             <td class=\"n\">{scheduled}</td><td class=\"n\">{sent}</td><td class=\"n\">{completed}</td><td class=\"n\">{dropped}</td><td class=\"n\">{unknown}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3} %</td></tr>",
            stage.seconds,
            stage.offered_per_second,
            stage.completed_per_second,
            stage.goodput_per_second,
            microseconds(latency.p50_us),
            microseconds(latency.p99_us),
            microseconds(latency.max_us),
            stage.errors_percent
        );
    }
    page.push_str("</table>");
    for (title, kinds) in [("Refused", &summary.measured.refused), ("Errors", &summary.measured.errors)] {
        if !kinds.is_empty() {
            let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{} {count}", escaped(kind))).collect();
            let _ = write!(page, "<p><b>{title}:</b> {}</p>", kinds.join(", "));
        }
    }
}

fn operations(page: &mut String, summary: &Summary) {
    page.push_str("<h2>Operations</h2><table><tr><th></th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th></tr>");
    let measured = &summary.measured;
    let all = [
        ("all, latency", &measured.latency),
        ("all, service time", &measured.service),
        ("lag of the generator", &measured.lag),
    ];
    let operations = measured.operations.iter().map(|(name, quantiles)| (name.as_str(), quantiles));
    for (name, Quantiles { count, mean_us, p50_us, p90_us, p99_us, p999_us, p9999_us, max_us }) in
        all.into_iter().chain(operations)
    {
        let times = [mean_us, p50_us, p90_us, p99_us, p999_us, p9999_us, max_us];
        let cells: String = times.map(|us| format!("<td class=\"n\">{}</td>", microseconds(*us))).concat();
        let _ = write!(page, "<tr><td>{}</td><td class=\"n\">{count}</td>{cells}</tr>", escaped(name));
    }
    page.push_str("</table>");
}

fn books(page: &mut String, summary: &Summary) {
    let books = &summary.correctness;
    let _ = write!(
        page,
        "<h2>Books</h2><p>Conservation: <b>{}</b>. {} transactions with {} points were acknowledged; {} outcomes were unknown, of which {} had been executed \
         and {} not. {} balances and {} histories with {} transactions were read. Events: {}.</p>",
        escaped(&books.conservation),
        books.acknowledged_transactions,
        books.acknowledged_points,
        books.unknown_outcomes,
        books.unknown_executed,
        books.unknown_not_executed,
        books.accounts_balanced,
        books.accounts_walked,
        books.transactions_read,
        escaped(&books.events)
    );
    if let Some(reason) = &books.reason {
        let _ = write!(page, "<p>{}</p>", escaped(reason));
    }
    if !books.violations.is_empty() {
        page.push_str("<table><tr><th>violation</th><th>account</th><th>what</th><th>operations</th></tr>");
        for violation in &books.violations {
            let cells = [&violation.kind, &violation.account, &violation.detail, &violation.operations.join(" ")];
            let cells: String = cells.map(|text| format!("<td>{}</td>", escaped(text))).concat();
            let _ = write!(page, "<tr class=\"bad\">{cells}</tr>");
        }
        page.push_str("</table>");
    }
}

fn environment(page: &mut String, summary: &Summary) {
    let environment = &summary.environment;
    let machine = &environment.coordinator;
    let generator = &summary.generator;
    let mut rows = vec![
        (
            "machine",
            format!(
                "{} cores of {}, {} GB, Linux {}",
                machine.cores,
                machine.processor,
                machine.memory_bytes >> 30,
                machine.kernel
            ),
        ),
        ("server", format!("{} {}", environment.server_version, environment.targets.join(" "))),
        (
            "same machine",
            if environment.same_host { "yes: server and generator compete for its processors" } else { "no" }
                .to_owned(),
        ),
        (
            "connections",
            format!(
                "{} of {} open, {} failed, made in {} ms",
                summary.connections.open,
                summary.connections.wanted,
                summary.connections.failed,
                summary.connections.connect_ms
            ),
        ),
        (
            "generator",
            format!(
                "{} processes on {}, {:.2} cores, {:.1} µs of processor per request",
                generator.processes,
                environment.generators.join(" "),
                generator.cores_used,
                generator.cpu_us_per_request
            ),
        ),
        (
            "under way",
            format!(
                "{:.1} requests by Little's law, {:.1} counted",
                generator.in_flight_by_law, generator.in_flight_counted
            ),
        ),
    ];
    used(&mut rows, summary);
    page.push_str("<h2>Environment</h2><table>");
    for (name, value) in rows {
        let _ = write!(page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    page.push_str("</table>");
}

/// What is known of servers only when they were started here, and of peaks.
fn used(rows: &mut Vec<(&'static str, String)>, summary: &Summary) {
    if let Some(server) = &summary.server {
        rows.push(("use of the server", format!(
            "{} processes, {:.2} cores, {:.2} ms of processor per 1,000 requests, {:.0} bytes of memory a connection",
            server.processes, server.cores_used, server.cpu_ms_per_1000_requests, server.resident_bytes_per_connection
        )));
    }
    if let Some(peak) = summary.peak_per_second {
        rows.push(("peak, closed loop", format!("{peak:.0} a second")));
    }
    if let Some(bare) = &summary.bare {
        rows.push((
            "bare server",
            format!(
                "{:.0} a second, p99 {}; {}",
                bare.measured.completed_per_second,
                microseconds(bare.measured.latency.p99_us),
                bare.ratio_text()
            ),
        ));
    }
}
