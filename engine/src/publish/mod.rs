//! Publishing: events go from the journal to Kafka, per shard in order, and the node remembers how far they are.
//!
//! The journal is the outbox. A thread reads what is durable, renders it and hands it to Kafka's client; what
//! is confirmed without a gap moves the *published* watermark, which is saved. After a
//! crash, or when Kafka refuses something, publishing goes on behind the watermark: what is sent again is the
//! same, byte for byte. Nothing here is ever waited for by an answer, and what is not sent yet lies in the
//! journal, not in memory.
//!
//! - [`outbox`] knows what was sent and confirmed; it has no I/O and no clock.
//! - `balances` collects the newest balances between two flushes to the compacted topic.
//! - `flow` reads the journal, hands over and takes confirmations, for the thread as for the simulator.
//! - [`mark`] is where the watermark is kept.
//! - `kafka` is the only place that knows rdkafka; `run` is the thread.

use std::sync::Arc;
use std::time::Duration;

use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use crate::program::Programs;

#[cfg(feature = "kafka")]
mod run;
#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
mod replay;
#[cfg(feature = "kafka")]
mod kafka;
mod balances;
pub(crate) mod flow;
pub mod mark;
pub mod outbox;

#[cfg(not(feature = "kafka"))]
pub use absent::{Publisher, replay};
#[cfg(feature = "kafka")]
pub use replay::replay;
#[cfg(feature = "kafka")]
pub use run::Publisher;

/// What of a journal is published once more.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only what was recorded at or after this.
    pub since: Option<Millis>,
    /// Only what was recorded before this.
    pub until: Option<Millis>,
    /// Only of this program.
    pub program: Option<String>,
}

impl Range {
    /// Whether a record is in it.
    pub fn has(&self, record: &Record) -> bool {
        self.since.is_none_or(|since| record.recorded_at >= since)
            && self.until.is_none_or(|until| record.recorded_at < until)
            && self.program.as_deref().is_none_or(|program| record.identity.program() == program)
    }
}

/// What publishing needs to know where shards change their owner.
///
/// An owner that was paused wakes with messages in its client's queue. Its events do no harm: they go on where its
/// others ended, and who reads them drops what is not newer than what it has. A balance could replace a newer one in
/// the compacted topic, so balances time out before the lease ends that they were sent under, and a new owner sends
/// those of the tail once more when the time of every message that was on its way is over.
#[derive(Clone)]
pub struct Fencing {
    /// By shard, the epoch that this node owns it under; 0 where it does not.
    pub epochs: Arc<dyn Fn() -> Vec<i64> + Send + Sync>,
    /// Whether the node's lease runs.
    pub holds: Arc<dyn Fn() -> bool + Send + Sync>,
    /// A balance that is not confirmed within this is not sent any more: less than the lease.
    pub balance_timeout: Duration,
}

/// Gives the programs as they are now.
pub type CurrentPrograms = Arc<dyn Fn() -> Arc<Programs> + Send + Sync>;

#[cfg(all(test, feature = "kafka"))]
mod tests;
