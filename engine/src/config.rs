//! What a node can be told.

use std::path::PathBuf;

use crate::journal::cql::CqlConfig;
use crate::permits::PermitLimits;

/// Settings of the engine; the gateway fills them from file, environment and flags.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The data folder; unused with CQL.
    pub data: PathBuf,
    /// The CQL cluster that journal and state are in; `None`: both are in the data folder.
    pub cql: Option<CqlConfig>,
    /// Shards of a folder that is created, 1–4,096 (16 when not given); an existing one must have as many.
    pub shards: Option<u16>,
    /// Worker threads; 0 = one per core.
    pub workers: usize,
    /// Bytes of accounts in memory.
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
            workers: 0,
            memory_bytes: 2 << 30,
            permits: PermitLimits { commands: 65_536, bytes: 256 << 20, commands_per_shard: 16_384 },
            request_deadline_ms: 10_000,
            checkpoint_interval_ms: 10_000,
            checkpoint_lag_records: 2_000_000,
            segment_bytes: crate::journal::SEGMENT_BYTES_DEFAULT,
            clock_jump_ms: 60_000,
            settle_gap_days: 31,
            settle_past_gap: false,
            kafka: None,
        }
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
