//! The HTTP front end of meed, and what its command line is made of.
//!
//! Modules stand in the order in which a request meets them, and a module uses only modules declared below
//! it. `server` starts and stops a node, `connection` is the life of one client connection, `admit` decides
//! whether it may come in; `operations` and `handle` answer.

pub mod cli;
pub mod torture;
pub mod tools;
pub mod server;
mod files;
pub mod backend;
pub mod front;
pub mod owner;
pub mod connection;
pub mod handle;
pub mod operations;
mod watch;
pub mod context;
pub mod intake;
pub mod reach;
pub mod cluster;
pub mod local;
pub mod link;
pub mod forward;
pub mod feed;
pub mod body;
pub mod admit;
pub mod auth;
pub mod identify;
pub mod metrics;
pub mod route;
pub mod reply;
pub mod stream;
pub mod logging;
pub mod error;
pub mod config;
mod values;
pub mod peer;
pub mod exit;

pub use connection::serve_worker;
pub use context::{Context, Shared};
