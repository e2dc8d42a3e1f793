//! Puts the reports of all processes together, interval by interval and stage by stage.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::fleet::Watch;
use crate::node::{Servers, Use};
use crate::output::Live;
use crate::protocol::{Interval, Tally};
use crate::recorder::Latencies;
use crate::scenario::Stage;
use crate::summary::{Came, IntervalRow};

/// How often memory and processor time of started servers are read.
const USAGE_EVERY: Duration = Duration::from_millis(250);

/// All that the processes reported.
pub(crate) struct Collector<'a> {
    stages: &'a [Stage],
    interval_ms: u64,
    workers: usize,
    tallies: Vec<Tally>,
    rows: BTreeMap<u64, (usize, IntervalRow)>,
    shown: u64,
    servers: Option<&'a Servers>,
    usage_at: Instant,
    usage: Option<Use>,
    live: &'a mut Live,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(
        stages: &'a [Stage],
        interval_ms: u64,
        workers: usize,
        servers: Option<&'a Servers>,
        live: &'a mut Live,
    ) -> Self {
        Self {
            stages,
            interval_ms,
            workers,
            tallies: stages.iter().map(|_| Tally::default()).collect(),
            rows: BTreeMap::new(),
            shown: 0,
            servers,
            usage_at: Instant::now(),
            usage: None,
            live,
        }
    }

    /// Tallies of the stages, and the intervals in order.
    pub(crate) fn finish(self) -> (Vec<Tally>, Vec<IntervalRow>) {
        self.live.end(self.interval_ms);
        let mut rows: Vec<IntervalRow> = self.rows.into_values().map(|(_, row)| row).collect();
        // The last interval is the rest after the schedule's end; often nothing is in it.
        rows.pop_if(|row| row.tally.counts.scheduled + row.tally.counts.completed + row.tally.counts.unknown == 0);
        (self.tallies, rows)
    }

    fn is_warmup(&self, number: u64) -> bool {
        let at_ms = number * self.interval_ms;
        let mut end_ms = 0;
        let stage = self.stages.iter().find(|stage| {
            end_ms += u64::from(stage.seconds) * 1_000;
            at_ms < end_ms
        });
        stage.is_some_and(|stage| stage.warmup)
    }
}

impl Watch for Collector<'_> {
    #[allow(clippy::float_arithmetic, reason = "seconds for people")]
    fn interval(&mut self, _worker: usize, interval: Interval) {
        let is_warmup = self.is_warmup(interval.number);
        let (reports, row) = self.rows.entry(interval.number).or_default();
        *reports += 1;
        row.second = (interval.number as f64) * (self.interval_ms as f64) / 1_000.0;
        row.is_warmup = is_warmup;
        row.in_flight += interval.in_flight;
        row.waiting += interval.waiting;
        row.open_connections += interval.open_connections;
        row.cpu_us += interval.cpu_us;
        row.server = self.usage;
        let mut latency = Latencies::default();
        for (stage, tally) in &interval.stages {
            if let Some(sum) = self.tallies.get_mut(usize::from(*stage)) {
                sum.add(tally);
            }
            row.tally.add(tally);
            let of_stage = tally.latencies();
            latency.add(&of_stage);
            if self.stages.get(usize::from(*stage)).is_some_and(|stage| !stage.warmup) {
                row.measured.add(Came::of(tally));
                row.measured_latency.add(&of_stage);
            }
        }
        row.latency.add(&latency);
        // The row has its histogram; those by operation are in the stages.
        row.tally.latency.clear();
    }

    fn ends(&mut self, after_seconds: u32) {
        self.live.say(&format!("asked to end: the schedule ends after {after_seconds} s, then the books are read"));
    }

    fn tick(&mut self) {
        if self.usage_at.elapsed() >= USAGE_EVERY {
            self.usage_at = Instant::now();
            self.usage = self.servers.map(Servers::usage);
        }
        while let Some((reports, row)) = self.rows.get(&self.shown) {
            if *reports < self.workers {
                break;
            }
            self.live.interval(row, self.interval_ms);
            self.shown += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Counts;
    use crate::traffic::Operation;

    #[test]
    fn what_was_due_in_the_warm_up_is_measured_in_no_interval() {
        let stage = |warmup| Stage {
            name: "stage".to_owned(),
            seconds: 1,
            rate: Some(1),
            to_rate: None,
            percent_of_peak: None,
            warmup,
        };
        let tally = |answers, latency_us| {
            let mut tally = Tally { counts: Counts { completed: answers, ..Counts::default() }, ..Tally::default() };
            tally.acknowledged.insert(Operation::EarnPoints, answers);
            tally.latency.entry(Operation::EarnPoints).or_default().record(latency_us);
            tally
        };
        let (stages, mut live) = ([stage(true), stage(false)], Live::new(true));
        let mut collector = Collector::new(&stages, 1_000, 1, None, &mut live);
        // The second interval has a late answer from the warm-up.
        let late = BTreeMap::from([(0, tally(3, 900_000)), (1, tally(5, 2_000))]);
        collector
            .interval(0, Interval { number: 0, stages: BTreeMap::from([(0, tally(7, 1_000))]), ..Interval::default() });
        collector.interval(0, Interval { number: 1, stages: late, ..Interval::default() });
        let (_, rows) = collector.finish();
        assert_eq!((rows[1].latency.count(), rows[1].measured_latency.count()), (2, 1));
        assert!(rows[1].measured_latency.max_us() < 3_000 && rows[0].measured_latency.is_empty());
        let came = Came::between(&rows, 1.0, 2.0, 1.0, false);
        assert_eq!((came.answers, came.good, came.seconds), (5, 5, 1.0));
        assert_eq!(Came::between(&rows, 0.0, 1.0, 1.0, true).answers, 7);
    }
}
