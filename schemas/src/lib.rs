//! The vocabulary of meed as plain data: no async, no I/O, no clock.
//!
//! A module uses only modules declared below it.

pub mod program;

pub mod ids;
pub mod money;
pub mod time;
