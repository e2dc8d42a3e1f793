//! The load-test harness of meed: sends on a schedule whatever the server does, over as many connections as asked for,
//! and proves at the end that no point was created or lost.
//!
//! `cli` understands the command line; [`run`] makes one run: it starts `node`s and a `fleet` of processes, each of
//! which is a `worker` that draws `traffic`, sends it at the times of a `schedule` over `connections`, and keeps a
//! `ledger`; then `check` compares the server's books with all ledgers, `verdict` judges, and `output` shows.
//! A module uses only modules declared below it.

mod cli;
mod compare;
mod search;
mod run;
mod output;
mod check;
mod verdict;
mod fleet;
mod summary;
mod node;
mod worker;
mod protocol;
mod ledger;
mod traffic;
mod schedule;
mod scenario;
mod connections;
mod http;
mod answer;
mod recorder;
mod figures;
mod machine;
mod interrupt;
mod error;

pub use cli::main;
pub use error::Fault;
pub use verdict::{EXIT_CORRECTNESS, EXIT_FAILED, EXIT_INVALID, EXIT_PASS, EXIT_THRESHOLD, EXIT_USAGE};
