//! The files of a run: `summary.json`, `intervals.csv`, histograms for the HdrHistogram tools, and the report.
#![allow(clippy::float_arithmetic, reason = "seconds and milliseconds in the formats of other tools")]

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::error::Fault;
use crate::output::html;
use crate::protocol::Tally;
use crate::recorder::Latencies;
use crate::summary::{IntervalRow, Summary};

/// The file that `compare` reads.
pub(crate) const SUMMARY_FILE: &str = "summary.json";
/// Half of what is left to 100 % is shown in so many steps, as HdrHistogram's own tools do.
const TICKS_PER_HALF: u32 = 5;

/// Names of all that a run writes.
const FILES: &[&str] = &[SUMMARY_FILE, "intervals.csv", "latency.hgrm", "service.hgrm", "latency.hlog", "report.html"];
/// What folders of repeated runs are named, before their number.
const RUN: &str = "run-";

/// The folder of a repeated run.
pub(crate) fn run_folder(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{RUN}{number}"))
}

/// Takes away what earlier runs wrote into a folder, so that nobody takes it for the result of this one; other files stay.
pub(crate) fn clear(folder: &Path) -> Result<(), Fault> {
    let remove = |folder: &Path| {
        for path in FILES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()) {
            std::fs::remove_file(&path).map_err(|error| Fault::failed(path.display(), error))?;
        }
        Ok(())
    };
    remove(folder)?;
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(RUN)).map(str::parse::<u32>);
        if matches!(number, Some(Ok(_))) && entry.path().is_dir() {
            remove(&entry.path())?;
            // One that holds something else stays.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

/// Writes everything into a folder, which is made. `tally` holds the measured stages.
pub(crate) fn write_files(
    folder: &Path,
    summary: &Summary,
    tally: &Tally,
    rows: &[IntervalRow],
    began: SystemTime,
) -> Result<(), Fault> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| Fault::failed(path.display(), error))
    };
    std::fs::create_dir_all(folder).map_err(|error| Fault::failed(folder.display(), error))?;
    let json = serde_json::to_vec_pretty(summary).map_err(|error| Fault::failed(SUMMARY_FILE, error))?;
    write(SUMMARY_FILE, &json)?;
    write("intervals.csv", intervals(rows, summary.scenario.interval_ms).as_bytes())?;
    write("latency.hgrm", percentiles(&tally.latencies()).as_bytes())?;
    write("service.hgrm", percentiles(&tally.service).as_bytes())?;
    let log = interval_log(summary, tally, rows, began).map_err(|error| Fault::failed("latency.hlog", error))?;
    write("latency.hlog", &log)?;
    write("report.html", html::report(summary, &tally.latencies(), &tally.service, rows).as_bytes())
}

/// One line per interval, warm-up included and marked.
fn intervals(rows: &[IntervalRow], interval_ms: u64) -> String {
    let mut text = "second,warmup,scheduled,sent,completed,acknowledged,refused,errors,dropped,unknown,rate,\
        p50_us,p90_us,p99_us,p999_us,max_us,lag_p99_us,in_flight,waiting,connections,generator_cpu_us,\
        server_resident_bytes,server_cpu_us\n"
        .to_owned();
    for row in rows {
        let tally = &row.tally;
        let refused: u64 = tally.refused.values().sum();
        let rate = tally.counts.completed as f64 * 1_000.0 / interval_ms as f64;
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|quantile| row.latency.quantile_us(quantile));
        let server = row.server.unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:.3},{},{},{},{},{},{refused},{},{},{},{rate:.1},{p50},{p90},{p99},{p999},{},{},{},{},{},{},{},{}",
            row.second,
            u8::from(row.is_warmup),
            tally.counts.scheduled,
            tally.counts.sent,
            tally.counts.completed,
            tally.acknowledged_in_all(),
            tally.errors_in_all(),
            tally.counts.dropped,
            tally.counts.unknown,
            row.latency.max_us(),
            tally.lag.quantile_us(0.99),
            row.in_flight,
            row.waiting,
            row.open_connections,
            row.cpu_us,
            server.resident_bytes,
            server.cpu_us
        );
    }
    text
}

/// The distribution in the text format of HdrHistogram, in milliseconds.
fn percentiles(latencies: &Latencies) -> String {
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut count = 0;
    for step in latencies.histogram().iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / 1_000.0, step.quantile_iterated_to());
        let _ = if quantile < 1.0 {
            writeln!(text, "{value:>12.3} {quantile:>14.12} {count:>10} {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:>12.3} {quantile:>14.12} {count:>10}")
        };
    }
    let histogram = latencies.histogram();
    let (mean, deviation) = (latencies.mean_us() / 1_000.0, latencies.deviation_us() / 1_000.0);
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let (max, total) = (latencies.max_us() as f64 / 1_000.0, latencies.count());
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {total:>12}]");
    let (buckets, digits) = (histogram.buckets(), histogram.sigfig());
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SignificantDigits = {digits:>9}]");
    text
}

/// Intervals of all operations without a tag, and one histogram of all measured stages per operation, tagged with it.
fn interval_log(
    summary: &Summary,
    tally: &Tally,
    rows: &[IntervalRow],
    began: SystemTime,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.with_start_time(began).with_base_time(began).with_max_value_divisor(1_000.0);
    builder.add_comment("[Latencies in microseconds from the scheduled time; interval maxima in milliseconds]");
    let mut log = builder.begin_log_with(&mut bytes, &mut serializer)?;
    let interval = Duration::from_millis(summary.scenario.interval_ms);
    for row in rows.iter().filter(|row| !row.measured_latency.is_empty()) {
        log.write_histogram(row.measured_latency.histogram(), Duration::from_secs_f64(row.second), interval, None)?;
    }
    let begin = rows.iter().find(|row| !row.is_warmup).map_or(0.0, |row| row.second);
    let length = Duration::from_secs_f64(summary.measured.seconds.max(0.001));
    for (operation, latency) in &tally.latency {
        let tag = Tag::new(operation.name());
        log.write_histogram(latency.histogram(), Duration::from_secs_f64(begin), length, tag)?;
    }
    bytes.flush()?;
    Ok(bytes)
}
