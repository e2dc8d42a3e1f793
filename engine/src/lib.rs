//! The transaction core of meed.
//!
//! Modules stand in the order in which a request meets them, and a module uses only modules declared below
//! it.

pub mod torture;
pub mod verify;
pub mod inspect;
pub mod backup;
pub mod start;
pub mod actor;
pub mod worker;
pub mod slots;
pub mod cluster;
pub mod followers;
pub mod durable;
pub mod recovery;
pub mod project;
pub mod publish;
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
pub mod shard;
pub mod commit;
pub mod config;
pub mod permits;
pub mod account;
pub mod aliases;
pub mod program;
pub mod snapshots;
pub mod store;
pub mod journal;
pub mod ownership;
pub mod folder;
pub mod disk;
pub mod secrets;
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
