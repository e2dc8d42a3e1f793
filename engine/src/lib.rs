//! The transaction core of meed.
//!
//! A request comes to a [`worker`], which hands it to the [`actor`] of its [`shard`]; that lets the [`account`] decide
//! and puts the records into a [`commit`] pipeline; the [`committer`] writes them to the [`journal`], and [`release`]
//! lets the answer go. A module uses only modules declared below it.

// The simulator, and tools over a whole folder.
pub mod torture;
pub mod verify;
pub mod inspect;
pub mod backup;

// How a node starts, and what a worker runs.
pub mod start;
pub mod actor;
pub mod worker;
pub mod slots;

// Shards that come and go, and what follows the journal.
pub mod cluster;
pub mod followers;
pub mod durable;
pub mod recovery;
pub mod project;
pub mod publish;

// What the threads share, and the threads beside the workers.
pub mod node;
pub mod exchange;
pub mod trim;
pub mod retention;
pub mod upkeep;
pub mod keeper;
pub mod reader;
pub mod feed;
pub mod committer;
pub mod inbox;
pub mod release;

// What decides, without I/O.
pub mod shard;
pub mod commit;
pub mod config;
pub mod permits;
pub mod account;

// What is kept, and where.
pub mod aliases;
pub mod program;
pub mod snapshots;
mod read_state;
pub mod store;
pub mod journal;
pub mod ownership;
pub mod folder;
pub mod secrets;
pub mod disk;

// What all of them use.
pub mod clock;
pub mod metrics;
pub mod planted;
pub mod random;
pub mod background;
#[cfg(test)]
mod test_record;
#[cfg(test)]
mod test_fixture;
pub mod error;
