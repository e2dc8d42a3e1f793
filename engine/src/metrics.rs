//! What the engine measures. Names follow Prometheus' rules; no account is in a label.

use std::time::Duration;

use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

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
