//! What the coordinator and the processes that make the load say to each other: JSON, a line each, over TCP.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::{Entry, Logged};
use crate::recorder::Latencies;
use crate::scenario::Scenario;
use crate::schedule::Slope;
use crate::traffic::{Operation, Purchase};

/// Version of these messages: machines that run another version are refused.
pub(crate) const VERSION: u32 = 5;
/// The variable that carries the token to processes that make load; flags are seen by everybody.
pub(crate) const TOKEN_VARIABLE: &str = "MEED_LOADTEST_TOKEN";
/// The error under which refusals for want of capacity are counted that do not say when to come back.
pub(crate) const NO_RETRY_AFTER: &str = "no retry-after";
/// Most violations that one process names.
pub(crate) const VIOLATIONS_MAX: usize = 100;

/// To the coordinator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromWorker {
    /// The first message.
    Hello(Hello),
    /// All connections were tried.
    Connected { open: u32, failed: u32, first_failure: Option<String> },
    /// What happened since the last one.
    Interval(Box<Interval>),
    /// The load is over and every request has its outcome, or none.
    Done(Box<Done>),
    /// What this process did on some accounts.
    Details(Vec<Logged>),
    /// It cannot go on.
    Failed(String),
}

/// To a process that makes load.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// Whoever says such a hello has no part in this.
    Refused(String),
    /// Make the connections.
    Plan(Box<Plan>),
    /// Begin so long after this arrives.
    Start { in_ms: u64 },
    /// Nothing is due from that second of the load on.
    End { after_seconds: u32 },
    /// See [`FromWorker::Details`].
    Details(Vec<u32>),
    /// End.
    Finish,
}

/// Who says so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// What the coordinator gave out, so that nobody else joins.
    pub(crate) token: String,
    pub(crate) host: String,
    pub(crate) process: u32,
    /// Files that it may open.
    pub(crate) files_max: u64,
    /// Ports that its machine gives to outgoing connections, per source address and target.
    pub(crate) ports: u64,
    /// Source addresses that its machine is to use.
    pub(crate) sources: Vec<IpAddr>,
}

/// The part of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Distinguishes the keys of this run from those of every other.
    pub(crate) run: String,
    pub(crate) worker: u32,
    pub(crate) workers: u32,
    pub(crate) scenario: Scenario,
    /// The stages with absolute rates.
    pub(crate) slopes: Vec<Slope>,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) sources: Vec<IpAddr>,
    /// Of this process.
    pub(crate) connections: u32,
    pub(crate) connections_per_second: u32,
    pub(crate) account_prefix: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    /// This process's part of a replay.
    pub(crate) purchases: Vec<Purchase>,
}

/// What became of requests. Members of `summary.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Due.
    pub(crate) scheduled: u64,
    /// Written to a connection, retries not counted.
    pub(crate) sent: u64,
    /// Answered, whatever the answer.
    pub(crate) completed: u64,
    /// Never sent: too many were waiting, or the time was over.
    pub(crate) dropped: u64,
    /// Sent, and nobody knows what became of it, or of a part of it.
    pub(crate) unknown: u64,
    /// Ended in an error, unknown ones included; of a batch, at least one of its items.
    #[serde(default)]
    pub(crate) failed: u64,
    /// Further attempts.
    pub(crate) retries: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.completed += other.completed;
        self.dropped += other.dropped;
        self.unknown += other.unknown;
        self.failed += other.failed;
        self.retries += other.retries;
    }
}

/// Counts and latencies of requests that were due in one stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// Items of batches count each.
    pub(crate) acknowledged: BTreeMap<Operation, u64>,
    /// Refusals that belong to the business, by problem.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Everything else, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// From the scheduled time to the answer; answers without one count with the time that was waited.
    pub(crate) latency: BTreeMap<Operation, Latencies>,
    /// From the write to the answer.
    pub(crate) service: Latencies,
    /// From the scheduled time until this process looked at it.
    pub(crate) lag: Latencies,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.add(other.counts);
        merge(&mut self.acknowledged, &other.acknowledged);
        merge(&mut self.refused, &other.refused);
        merge(&mut self.errors, &other.errors);
        for (operation, latency) in &other.latency {
            self.latency.entry(*operation).or_default().add(latency);
        }
        self.service.add(&other.service);
        self.lag.add(&other.lag);
    }

    /// Latencies of all operations.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut all = Latencies::default();
        self.latency.values().for_each(|latency| all.add(latency));
        all
    }

    pub(crate) fn acknowledged_in_all(&self) -> u64 {
        self.acknowledged.values().sum()
    }

    /// Without [`NO_RETRY_AFTER`], which is said of refusals that are counted themselves.
    pub(crate) fn errors_in_all(&self) -> u64 {
        self.errors.iter().filter(|(kind, _)| *kind != NO_RETRY_AFTER).map(|(_, count)| count).sum()
    }
}

fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key.clone()).or_default() += count;
    }
}

/// What happened in an interval, by the stage in which it was due.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Its number, from 0 at the begin of the load.
    pub(crate) number: u64,
    pub(crate) stages: BTreeMap<u16, Tally>,
    /// Requests under way at its end.
    pub(crate) in_flight: u32,
    /// Due requests that wait for a connection at its end.
    pub(crate) waiting: u32,
    pub(crate) open_connections: u32,
    /// Processor time that the process used.
    pub(crate) cpu_us: u64,
}

/// A request whose outcome must be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) worker: u32,
    pub(crate) account: u32,
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) points: u32,
}

/// The end of the load in one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Acknowledged effects by account.
    pub(crate) entries: Vec<(u32, Entry)>,
    pub(crate) unknown: Vec<Open>,
    /// Further unknown outcomes, which are too many to be asked for: without them nothing is proven.
    pub(crate) unasked: u64,
    /// Answers that are wrong by themselves, at most [`VIOLATIONS_MAX`] of them.
    pub(crate) wrong: Vec<Wrong>,
    pub(crate) wrong_count: u64,
    pub(crate) resident_bytes: u64,
}

/// An answer that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wrong {
    pub(crate) account: u32,
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) what: String,
}

/// Writes a message.
pub(crate) fn send(stream: &mut impl Write, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads a message; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(stream: &mut impl BufRead) -> std::io::Result<Option<T>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_survives_the_wire_and_adds_up() {
        let counts = Counts { scheduled: 3, sent: 2, ..Counts::default() };
        let mut tally = Tally { counts, ..Tally::default() };
        tally.acknowledged.insert(Operation::EarnPoints, 2);
        tally.latency.entry(Operation::EarnPoints).or_default().record(700);
        tally.errors.insert("timeout".into(), 1);
        // Which is said of a refusal that is counted itself, or whose retry was none.
        tally.errors.insert(NO_RETRY_AFTER.to_owned(), 1);
        let mut bytes = Vec::new();
        send(
            &mut bytes,
            &FromWorker::Interval(Box::new(Interval {
                stages: BTreeMap::from([(1, tally.clone())]),
                ..Interval::default()
            })),
        )
        .unwrap();
        let Some(FromWorker::Interval(interval)) = receive(&mut bytes.as_slice()).unwrap() else { panic!() };
        tally.add(&interval.stages[&1]);
        assert_eq!((tally.counts.scheduled, tally.acknowledged_in_all(), tally.errors_in_all()), (6, 4, 2));
        assert_eq!(tally.latencies().count(), 2);
        assert!(receive::<FromWorker>(&mut &b""[..]).unwrap().is_none());
        assert!(receive::<FromWorker>(&mut &b"{\"nonsense\":1}\n"[..]).is_err());
    }
}
