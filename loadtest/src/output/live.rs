//! Progress on standard error: one block that is redrawn on a terminal, plain lines elsewhere.
#![allow(clippy::float_arithmetic, reason = "rates for people")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};

use crate::output::table::microseconds;
use crate::summary::IntervalRow;

/// A plain line is of so many milliseconds at least: of several intervals, where they are shorter.
const LINE_MS: u64 = 1_000;
/// Rates that the small curve shows.
const CURVE_POINTS: usize = 60;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The view of one load.
#[derive(Debug)]
pub(crate) struct Live {
    is_terminal: bool,
    is_quiet: bool,
    title: String,
    seconds: u64,
    lines_drawn: usize,
    /// What the next plain line will be of, and how many intervals that is.
    unsaid: Option<(IntervalRow, u64)>,
    rates: VecDeque<f64>,
    errors: BTreeMap<String, u64>,
}

impl Live {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            is_quiet,
            title: String::new(),
            seconds: 0,
            lines_drawn: 0,
            unsaid: None,
            rates: VecDeque::new(),
            errors: BTreeMap::new(),
        }
    }

    /// A line that stays.
    pub(crate) fn say(&mut self, text: &str) {
        if !self.is_quiet {
            self.lines_drawn = 0;
            // Nobody reads it: then it is not needed.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// A load of so many seconds begins.
    pub(crate) fn begin(&mut self, title: &str, seconds: u64) {
        title.clone_into(&mut self.title);
        self.seconds = seconds;
        self.lines_drawn = 0;
        self.unsaid = None;
        self.rates.clear();
        self.errors.clear();
    }

    /// An interval of all processes is complete.
    pub(crate) fn interval(&mut self, row: &IntervalRow, interval_ms: u64) {
        for (kind, count) in &row.tally.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        let rate = per_second(row, interval_ms);
        self.rates.push_back(rate);
        if self.rates.len() > CURVE_POINTS {
            self.rates.pop_front();
        }
        if self.is_quiet {
        } else if self.is_terminal {
            let text = self.redraw(row, rate, interval_ms);
            // As above.
            let _ = std::io::stderr().write_all(text.as_bytes());
        } else if let Some(text) = self.gather(row, interval_ms) {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// The load is over: what no line has told of yet.
    pub(crate) fn end(&mut self, interval_ms: u64) {
        if let Some((sum, count)) = self.unsaid.take() {
            let _ = writeln!(std::io::stderr(), "{}", line(&sum, per_second(&sum, interval_ms * count)));
        }
    }

    /// The next plain line, when enough intervals are together for one: none of them is left out.
    fn gather(&mut self, row: &IntervalRow, interval_ms: u64) -> Option<String> {
        let (mut sum, mut count) = self.unsaid.take().unwrap_or_default();
        count += 1;
        sum.tally.add(&row.tally);
        sum.latency.add(&row.latency);
        (sum.second, sum.is_warmup) = (row.second, row.is_warmup);
        (sum.in_flight, sum.waiting, sum.open_connections) = (row.in_flight, row.waiting, row.open_connections);
        if count * interval_ms < LINE_MS {
            self.unsaid = Some((sum, count));
            return None;
        }
        Some(line(&sum, per_second(&sum, interval_ms * count)))
    }

    /// The block, and before it what moves the cursor to the begin of the one before.
    fn redraw(&mut self, row: &IntervalRow, rate: f64, interval_ms: u64) -> String {
        let most = self.rates.iter().copied().fold(1.0, f64::max);
        let bar = |rate: &f64| BARS[((rate / most * 7.0).round().clamp(0.0, 7.0)) as usize];
        let curve: String = self.rates.iter().map(bar).collect();
        let done = (row.second + interval_ms as f64 / 1_000.0) / (self.seconds.max(1) as f64);
        let filled = ((done * 40.0).round() as usize).min(40);
        let progress =
            format!("[{}{}] {:>3.0} %", "█".repeat(filled), "·".repeat(40 - filled), (done * 100.0).min(100.0));
        let errors = if self.errors.is_empty() { "none".to_owned() } else { by_kind(&self.errors) };
        let phase = if row.is_warmup { " (warm-up)" } else { "" };
        let lines = [
            format!("{}{phase}  {progress}", self.title),
            format!("rate       {rate:>10.0}/s   {curve}"),
            format!(
                "latency    p50 {}   p99 {}   p99.9 {}   max {}",
                microseconds(row.latency.quantile_us(0.5)),
                microseconds(row.latency.quantile_us(0.99)),
                microseconds(row.latency.quantile_us(0.999)),
                microseconds(row.latency.max_us())
            ),
            format!(
                "in flight  {}   waiting {}   connections {}   lag p99 {}",
                row.in_flight,
                row.waiting,
                row.open_connections,
                microseconds(row.tally.lag.quantile_us(0.99))
            ),
            format!("errors     {errors}"),
        ];
        let mut text = String::new();
        if self.lines_drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines_drawn));
        }
        for line in &lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        self.lines_drawn = lines.len();
        text
    }
}

/// An interval as a plain line.
fn line(row: &IntervalRow, rate: f64) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| microseconds(row.latency.quantile_us(quantile)));
    let errors = row.tally.errors_in_all();
    let kinds = if row.tally.errors.is_empty() { String::new() } else { format!(" ({})", by_kind(&row.tally.errors)) };
    format!(
        "{:>6.1} s  {rate:>8.0}/s  p50 {p50:>8}  p99 {p99:>8}  p99.9 {p999:>8}  max {:>8}  errors {errors:>5}{kinds}  in flight {:>6}  waiting {:>6}{}",
        row.second,
        microseconds(row.latency.max_us()),
        row.in_flight,
        row.waiting,
        if row.is_warmup { "  warm-up" } else { "" }
    )
}

fn per_second(row: &IntervalRow, interval_ms: u64) -> f64 {
    row.tally.counts.completed as f64 * 1_000.0 / interval_ms as f64
}

fn by_kind(errors: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    kinds.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(second: f64, errors: &[(&str, u64)]) -> IntervalRow {
        let mut row = IntervalRow { second, in_flight: 7, waiting: 9, open_connections: 32, ..IntervalRow::default() };
        row.tally.counts.completed = 250;
        row.tally.errors = errors.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        row.latency.record(1_500);
        row
    }

    #[test]
    fn a_plain_line_has_rate_latencies_errors_by_kind_and_what_waits() {
        let mut warm = row(3.0, &[("closed", 2), ("timeout", 5)]);
        warm.is_warmup = true;
        let text = line(&warm, 500.0);
        for part in [
            "3.0 s",
            "500/s",
            "p99  1.50 ms",
            "errors     7 (closed 2, timeout 5)",
            "in flight      7",
            "waiting      9",
            "warm-up",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        let text = line(&row(3.0, &[("503 overloaded", 2), ("no retry-after", 2)]), 500.0);
        assert!(text.contains("errors     2 (503 overloaded 2, no retry-after 2)"), "{text}");
        let text = line(&row(3.0, &[("no retry-after", 2)]), 500.0);
        assert!(text.contains("errors     0 (no retry-after 2)"), "the retry was none: {text}");
        let text = line(&row(3.0, &[]), 500.0);
        assert!(text.contains("errors     0  in flight") && !text.contains("warm-up"), "{text}");
    }

    #[test]
    fn plain_lines_leave_no_interval_out() {
        let mut live = Live::new(false);
        live.begin("steady", 4);
        // Four intervals of 300 ms make a line; a second is not a whole number of them.
        let lines: Vec<Option<String>> =
            (0..9).map(|number| live.gather(&row(f64::from(number) * 0.3, &[("timeout", 1)]), 300)).collect();
        let told: Vec<usize> = (0..9).filter(|number| lines[*number].is_some()).collect();
        assert_eq!(told, [3, 7]);
        let text = lines[7].as_ref().unwrap();
        assert!(text.contains("errors     4 (timeout 4)") && text.contains("833/s"), "{text}");
        assert_eq!(live.unsaid.as_ref().map(|(sum, count)| (sum.tally.errors["timeout"], *count)), Some((1, 1)));
        // An interval of a second or more is a line.
        live.begin("steady", 4);
        assert!(live.gather(&row(0.0, &[]), 1_000).is_some() && live.gather(&row(1.0, &[]), 10_000).is_some());
    }

    #[test]
    fn the_block_is_drawn_over_the_one_before_and_sums_errors() {
        let mut live = Live::new(true);
        live.begin("steady", 4);
        for (second, errors) in [(0.0, &[("timeout", 1)][..]), (0.5, &[]), (1.0, &[("closed", 1), ("timeout", 2)])] {
            live.interval(&row(second, errors), 500);
        }
        let first = live.redraw(&row(1.5, &[]), 500.0, 500);
        for part in
            ["steady  [", "50 %", "500/s   ███", "p50 1.50 ms", "connections 32", "errors     closed 1, timeout 3"]
        {
            assert!(first.contains(part), "no {part} in {first}");
        }
        assert!(!first.contains("\x1b[5A"), "nothing is above it that is its own");
        let second = live.redraw(&row(2.0, &[]), 500.0, 500);
        assert!(second.starts_with("\x1b[5A") && second.matches("\x1b[2K").count() == 5, "{second:?}");
        live.say("a line that stays");
        live.begin("steady", 4);
        assert!(live.redraw(&row(0.0, &[]), 500.0, 500).contains("errors     none"));
    }
}
