//! The vocabulary of meed as plain data: no async, no I/O, no clock.
//!
//! An [`ids::Identity`] names an account, a [`command::Request`] asks something of it, the account's rules
//! turn it into [`record::Record`]s and an [`outcome::Reply`]; an [`event`] tells others of a record.
//! A module uses only modules declared below it.

pub mod cql;
pub mod event;
pub mod http;
pub mod forward;
pub mod codec;
pub mod outcome;
pub mod record;
pub mod command;
pub mod program;
pub mod money;
pub mod wire;
pub mod time;
pub mod ids;
