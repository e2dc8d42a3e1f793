//! Publishing: events go from the journal to Kafka, per shard in order, and the node remembers how far they are.
//!
//! The journal is the outbox. A thread reads what is durable, renders it and hands it to Kafka's client; what
//! is confirmed without a gap moves the *published* watermark, which is saved in a file of its own. After a
//! crash, or when Kafka refuses something, publishing goes on behind the watermark: what is sent again is the
//! same, byte for byte. Nothing here is ever waited for by an answer, and what is not sent yet lies in the
//! journal, not in memory.
//!
//! - [`outbox`] knows what was sent and confirmed; it has no I/O and no clock.
//! - `balances` collects the newest balances between two flushes to the compacted topic.
//! - [`mark`] is the file.
//! - `kafka` is the only place that knows rdkafka; `run` is the thread.

use std::sync::Arc;

use crate::program::Programs;

#[cfg(feature = "kafka")]
mod run;
#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod balances;
pub mod mark;
pub mod outbox;

#[cfg(not(feature = "kafka"))]
pub use absent::Publisher;
#[cfg(feature = "kafka")]
pub use run::{Published, Publisher};

/// Gives the programs as they are now.
pub type CurrentPrograms = Arc<dyn Fn() -> Arc<Programs> + Send + Sync>;

#[cfg(all(test, feature = "kafka"))]
mod tests;
