//! The transaction core of meed.
//!
//! Modules stand in the order in which a request meets them, and a module uses only modules declared below
//! it.

pub mod aliases;
pub mod config;
pub mod permits;
pub mod program;
pub mod store;
pub mod journal;
pub mod folder;
pub mod disk;
pub mod secrets;
pub mod clock;
pub mod metrics;
pub mod error;
