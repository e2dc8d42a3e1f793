//! What a node can be told.

use std::path::PathBuf;
use std::time::Duration;

use meed_schemas::time::DAY_MS;

use crate::journal::cql::CqlConfig;
use crate::permits::PermitLimits;

/// Shortest retention in days that a setting may ask for: a hold may be open for 365 days, and a business key is
/// remembered for 90.
pub const RETENTION_DAYS_MIN: u32 = 366;
/// Retention where nothing is set: seven years with their leap days.
pub const RETENTION_DAYS_DEFAULT: u32 = 2_557;
/// Time between two looks at what is to do.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A retention of days as [`EngineConfig::journal_retention_ms`] takes it; 0 keeps everything.
pub fn retention_ms(days: u32) -> Option<i64> {
    (days > 0).then(|| i64::from(days) * DAY_MS)
}

/// Settings of the engine; the gateway fills them from file, environment and flags.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The data folder; unused with CQL.
    pub data: PathBuf,
    /// The CQL cluster that journal and state are in; `None`: both are in the data folder.
    pub cql: Option<CqlConfig>,
    /// Shards of a folder that is created, 1–4,096 (16 when not given); an existing one must have as many.
    pub shards: Option<u16>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Bytes of what grows with accounts; see [`MemoryShares`].
    pub memory_bytes: u64,
    /// Bounds of what is under way.
    pub permits: PermitLimits,
    /// A command is answered within this, or with `outcome-unknown`.
    pub request_deadline_ms: i64,
    /// Time between two checkpoints of everything.
    pub checkpoint_interval_ms: i64,
    /// Records without checkpoint beyond which load is shed; it bounds the restart.
    pub checkpoint_lag_records: u64,
    /// Length of a journal segment.
    pub segment_bytes: u64,
    /// How old a journal record must be to be removed, in milliseconds; `None` keeps all.
    pub journal_retention_ms: Option<i64>,
    /// Whether closed journal segments are packed.
    pub pack_segments: bool,
    /// Time between two looks at whether segments are to be packed or removed.
    pub upkeep_interval: Duration,
    /// A wall clock that leaps further than this against the monotonic one is not followed.
    pub clock_jump_ms: i64,
    /// A start longer than this after the last record does not settle what fell due since.
    pub settle_gap_days: i64,
    /// Settle it all the same.
    pub settle_past_gap: bool,
    /// Where events are published, if anywhere.
    pub kafka: Option<KafkaOptions>,
}

impl EngineConfig {
    /// The defaults, in this folder.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            cql: None,
            shards: None,
            workers: 1,
            memory_bytes: 2 << 30,
            permits: PermitLimits { commands: 65_536, bytes: 256 << 20, commands_per_shard: 16_384 },
            request_deadline_ms: 10_000,
            checkpoint_interval_ms: 10_000,
            checkpoint_lag_records: 2_000_000,
            segment_bytes: crate::journal::SEGMENT_BYTES_DEFAULT,
            journal_retention_ms: retention_ms(RETENTION_DAYS_DEFAULT),
            pack_segments: true,
            upkeep_interval: UPKEEP_INTERVAL,
            clock_jump_ms: 60_000,
            settle_gap_days: 31,
            settle_past_gap: false,
            kafka: None,
        }
    }
}

/// What the memory of a node is for. Requests under way have bounds of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShares {
    /// Bytes of accounts in memory. Idle ones leave it first.
    pub accounts: u64,
    /// Bytes of the filters of spilled keys.
    pub filters: u64,
    /// Bytes of the state store's cache, and as many of what it has not yet written to tables.
    pub store_half: u64,
}

impl MemoryShares {
    /// Filters get a sixteenth and the state store an eighth, but not less than 16 and not more than 128 MiB. So with
    /// less than some 22 MiB the sum is more than what is asked for: accounts have a quarter of it in any case.
    pub fn of(memory_bytes: u64) -> Self {
        let filters = memory_bytes / 16;
        let store_half = (memory_bytes / 16).clamp(8 << 20, 64 << 20);
        let accounts = memory_bytes.saturating_sub(filters + 2 * store_half).max(memory_bytes / 4);
        Self { accounts, filters, store_half }
    }
}

/// Where and how events are published.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// `HOST:PORT,…` of the brokers to begin with.
    pub brokers: String,
    /// The topic of events. It must exist.
    pub events_topic: String,
    /// The compacted topic of balances; none are published without it.
    pub balances_topic: Option<String>,
    /// Time between two flushes of balances.
    pub balances_interval_ms: u64,
    /// Further properties of the client, such as its compression and credentials.
    pub properties: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_the_memory_are_the_whole() {
        let default = MemoryShares::of(2 << 30);
        assert_eq!((default.filters, default.store_half), (128 << 20, 64 << 20));
        for memory_bytes in [24 << 20, 200 << 20, 2 << 30, 1 << 40] {
            let MemoryShares { accounts, filters, store_half } = MemoryShares::of(memory_bytes);
            assert_eq!(accounts + filters + 2 * store_half, memory_bytes);
        }
        assert_eq!(
            MemoryShares::of(1 << 20),
            MemoryShares { accounts: 1 << 18, filters: 1 << 16, store_half: 8 << 20 }
        );
    }
}
