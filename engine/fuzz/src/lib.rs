//! What the fuzzer calls: each target takes any bytes and panics when a property does not hold.
//!
//! `ops/fuzz.sh` runs them under the fuzzer; `cargo test` replays the corpus through the same functions.
//! A module uses only modules declared below it.

pub mod corpus;
mod http;
mod forward;
mod state;
mod record;
mod journal;

pub use forward::forward;
pub use http::http;
pub use journal::journal;
pub use record::record;
pub use state::state;

/// A target: any bytes are fine.
pub type Target = fn(&[u8]);

/// Every target with the name of its corpus.
pub const TARGETS: [(&str, Target); 5] =
    [("http", http), ("forward", forward), ("record", record), ("state", state), ("journal", journal)];
