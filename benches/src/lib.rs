//! What the benchmark programs share: flags, servers as child processes, wrk, and the arithmetic of comparisons.
//!
//! Nothing here knows the engine. A module uses only modules declared below it.

pub mod wrk;
pub mod prefill;
#[cfg(feature = "kafka")]
pub mod consumer;
pub mod server_process;
pub mod listener;
pub mod figures;
pub mod flags;
