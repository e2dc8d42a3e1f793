//! What the engine measures. Names follow Prometheus' rules; no account is in a label.

use std::time::Duration;

use meed_schemas::time::Millis;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Of the journal thread.
#[derive(Debug, Clone)]
pub struct JournalMetrics {
    records: Histogram,
    bytes: Histogram,
    write: Histogram,
    sync: Histogram,
    written: Counter,
}

impl JournalMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_histogram!("meed_journal_batch_records", Unit::Count, "Records of one journal batch");
        describe_histogram!("meed_journal_batch_bytes", Unit::Bytes, "Bytes of the records of one journal batch");
        describe_histogram!("meed_journal_write_seconds", Unit::Seconds, "Time of one journal write");
        describe_histogram!("meed_journal_sync_seconds", Unit::Seconds, "Time of one journal fdatasync");
        describe_counter!("meed_journal_bytes_total", Unit::Bytes, "Bytes of records journaled");
        Self {
            records: histogram!("meed_journal_batch_records"),
            bytes: histogram!("meed_journal_batch_bytes"),
            write: histogram!("meed_journal_write_seconds"),
            sync: histogram!("meed_journal_sync_seconds"),
            written: counter!("meed_journal_bytes_total"),
        }
    }

    /// A batch was written and synced.
    pub fn batch(&self, records: usize, bytes: usize, write: Duration, sync: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a histogram's sample")]
        self.records.record(records as f64);
        #[expect(clippy::cast_precision_loss, reason = "a histogram's sample")]
        self.bytes.record(bytes as f64);
        self.write.record(write);
        self.sync.record(sync);
        self.written.increment(bytes as u64);
    }
}

/// Of the thread that prepares segments; registers with the installed recorder.
pub fn prepare_failures() -> Counter {
    let name = "meed_journal_prepare_failures_total";
    describe_counter!(name, Unit::Count, "Attempts to prepare the next journal segment that failed; they are repeated");
    counter!(name)
}

/// Of one worker's shards.
#[derive(Debug, Clone)]
pub struct ShardMetrics {
    /// Time that the oldest input of a turn's batch waited.
    pub wait: Histogram,
    /// Operations recognized by a key.
    pub replays: Counter,
    /// Commands whose deadline passed before their turn.
    pub expired: Counter,
}

impl ShardMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_histogram!(
            "meed_mailbox_wait_seconds",
            Unit::Seconds,
            "Time that the oldest waiting input of a shard waited for its turn"
        );
        describe_counter!(
            "meed_idempotent_replays_total",
            Unit::Count,
            "Operations recognized by a key and answered again"
        );
        describe_counter!(
            "meed_deadline_expired_total",
            Unit::Count,
            "Commands whose deadline had passed before their turn; they were not executed"
        );
        Self {
            wait: histogram!("meed_mailbox_wait_seconds"),
            replays: counter!("meed_idempotent_replays_total"),
            expired: counter!("meed_deadline_expired_total"),
        }
    }
}

/// Of the upkeep of closed journal segments.
#[derive(Debug, Clone)]
pub struct UpkeepMetrics {
    /// Segments removed.
    pub removed: Counter,
    /// Their bytes, unpacked.
    pub removed_bytes: Counter,
    /// Segments packed.
    pub packed: Counter,
    /// Their bytes before.
    pub plain_bytes: Counter,
    /// Their bytes after.
    pub packed_bytes: Counter,
    /// Snapshots taken.
    pub snapshots: Counter,
    /// Attempts that failed.
    pub failures: Counter,
}

impl UpkeepMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        let described = |name: &'static str, unit, text: &'static str| {
            describe_counter!(name, unit, text);
            counter!(name)
        };
        Self {
            removed: described(
                "meed_journal_segments_removed_total",
                Unit::Count,
                "Journal segments, in CQL buckets, removed because they were older than their retention",
            ),
            removed_bytes: described(
                "meed_journal_removed_bytes_total",
                Unit::Bytes,
                "Bytes of the removed journal segments, unpacked",
            ),
            packed: described("meed_journal_segments_packed_total", Unit::Count, "Closed journal segments packed"),
            plain_bytes: described(
                "meed_journal_packed_from_bytes_total",
                Unit::Bytes,
                "Bytes of the packed journal segments before",
            ),
            packed_bytes: described(
                "meed_journal_packed_to_bytes_total",
                Unit::Bytes,
                "Bytes of the packed journal segments after",
            ),
            snapshots: described("meed_snapshots_total", Unit::Count, "Snapshots of the state store taken"),
            failures: described(
                "meed_journal_upkeep_failures_total",
                Unit::Count,
                "Attempts to pack or remove journal segments that failed; they are repeated",
            ),
        }
    }
}

/// Of the publishing thread; they stand at 0 on a node that publishes nowhere.
#[derive(Debug, Clone)]
pub struct PublishMetrics {
    /// 1 while there is a link to Kafka that takes events.
    pub up: Gauge,
    /// Events confirmed.
    pub events: Counter,
    /// Balances confirmed.
    pub balances: Counter,
    /// Times that publishing had to begin again behind its watermark, or could not begin.
    pub failures: Counter,
    lag_records: Gauge,
    lag_seconds: Gauge,
    waiting: Gauge,
}

impl PublishMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_gauge!("meed_publish_up", Unit::Count, "1 while Kafka takes events");
        describe_counter!("meed_published_events_total", Unit::Count, "Events that Kafka confirmed");
        describe_counter!("meed_published_balances_total", Unit::Count, "Balances that Kafka confirmed");
        describe_counter!(
            "meed_publish_failures_total",
            Unit::Count,
            "Times that publishing could not begin, or had to begin again behind its watermark"
        );
        describe_gauge!("meed_publish_lag_records", Unit::Count, "Durable records that are not published yet");
        describe_gauge!("meed_publish_lag_seconds", Unit::Seconds, "Age of the oldest event that waits for Kafka");
        describe_gauge!("meed_publish_waiting", Unit::Count, "Messages handed to Kafka and not yet confirmed");
        Self {
            up: gauge!("meed_publish_up"),
            events: counter!("meed_published_events_total"),
            balances: counter!("meed_published_balances_total"),
            failures: counter!("meed_publish_failures_total"),
            lag_records: gauge!("meed_publish_lag_records"),
            lag_seconds: gauge!("meed_publish_lag_seconds"),
            waiting: gauge!("meed_publish_waiting"),
        }
    }

    /// How far publishing is behind, how many messages are under way, and the age of the oldest event.
    #[expect(clippy::cast_precision_loss, clippy::float_arithmetic, reason = "figures for people")]
    pub fn report(&self, lag_records: u64, waiting: usize, oldest_ms: Millis) {
        self.lag_records.set(lag_records as f64);
        self.waiting.set(waiting as f64);
        self.lag_seconds.set(oldest_ms.max(0) as f64 / 1_000.0);
    }
}

/// Of the projecting thread; they stand at 0 where there is none.
#[derive(Debug, Clone)]
pub struct ProjectMetrics {
    /// Rows written.
    pub rows: Counter,
    /// Times that writing failed.
    pub failures: Counter,
    lag_records: Gauge,
}

impl ProjectMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_counter!("meed_history_rows_total", Unit::Count, "Rows written to the history in CQL");
        describe_counter!(
            "meed_history_failures_total",
            Unit::Count,
            "Times that the history in CQL could not be written; it is tried again"
        );
        describe_gauge!(
            "meed_history_lag_records",
            Unit::Count,
            "Durable records that may not have their row in the history in CQL yet"
        );
        Self {
            rows: counter!("meed_history_rows_total"),
            failures: counter!("meed_history_failures_total"),
            lag_records: gauge!("meed_history_lag_records"),
        }
    }

    /// How far the history is behind.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn report(&self, lag_records: u64) {
        self.lag_records.set(lag_records as f64);
    }
}

/// Of a node among several; they stand at 0 on a node that owns a folder.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    nodes: Gauge,
    shards: Gauge,
    version: Gauge,
    /// Leases of other nodes that this one ended because they stood still.
    pub buried: Counter,
    given: Counter,
    begun: Counter,
    pause: Histogram,
    begin: Histogram,
}

impl ClusterMetrics {
    /// Registers with the installed recorder.
    pub fn register() -> Self {
        describe_gauge!("meed_cluster_nodes", Unit::Count, "Nodes whose leases run, as this node knows");
        describe_gauge!("meed_cluster_shards_owned", Unit::Count, "Shards that this node has begun and owns");
        describe_gauge!("meed_cluster_map_version", Unit::Count, "Version of the map of owners that this node knows");
        describe_counter!(
            "meed_cluster_leases_ended_total",
            Unit::Count,
            "Leases of other nodes that this node ended because they were not renewed"
        );
        describe_counter!("meed_cluster_shards_given_total", Unit::Count, "Shards given to another node in order");
        describe_counter!("meed_cluster_shards_begun_total", Unit::Count, "Shards claimed, recovered and begun");
        // Counted by the gateway, of every node the same.
        describe_counter!(
            "meed_cluster_redirects_total",
            Unit::Count,
            "Requests that were asked once more because their shard had another owner"
        );
        let _ = counter!("meed_cluster_redirects_total");
        describe_histogram!(
            "meed_cluster_give_seconds",
            Unit::Seconds,
            "Time from the pause of a shard to the change of its owner"
        );
        describe_histogram!("meed_cluster_begin_seconds", Unit::Seconds, "Time to claim a shard and to recover it");
        Self {
            nodes: gauge!("meed_cluster_nodes"),
            shards: gauge!("meed_cluster_shards_owned"),
            version: gauge!("meed_cluster_map_version"),
            buried: counter!("meed_cluster_leases_ended_total"),
            given: counter!("meed_cluster_shards_given_total"),
            begun: counter!("meed_cluster_shards_begun_total"),
            pause: histogram!("meed_cluster_give_seconds"),
            begin: histogram!("meed_cluster_begin_seconds"),
        }
    }

    /// What there is now.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn set(&self, nodes: usize, shards: usize, version: i64) {
        self.nodes.set(nodes as f64);
        self.shards.set(shards as f64);
        self.version.set(version as f64);
    }

    /// A shard was given away after a pause.
    pub fn given(&self, pause: Duration) {
        self.given.increment(1);
        self.pause.record(pause);
    }

    /// A shard has begun.
    pub fn begun(&self, took: Duration) {
        self.begun.increment(1);
        self.begin.record(took);
    }
}
