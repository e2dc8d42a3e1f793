//! The transaction core of meed.
//!
//! Modules stand in the order in which a request meets them, and a module uses only modules declared below
//! it.

pub mod account;
pub mod program;

pub mod error;
