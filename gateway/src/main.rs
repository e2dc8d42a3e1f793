//! The binary `meed`: from the command line to an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use meed_gateway::cli::{self, Command, EXIT_DONE};
use meed_gateway::{server, tools, torture};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let command = cli::parse(std::env::args_os(), environment, |path| std::fs::read_to_string(path));
    ExitCode::from(match command {
        Ok(Command::Serve(loaded)) => server::run(*loaded),
        Ok(Command::EventsReplay { loaded, topic, range }) => tools::replay(&loaded.settings, topic, &range),
        Ok(Command::ClusterStatus(loaded)) => tools::cluster_status(&loaded.settings),
        Ok(Command::ClusterDrain { loaded, node, undo }) => tools::cluster_drain(&loaded.settings, &node, undo),
        Ok(Command::ConfigShow(loaded)) => tools::print(&loaded.show()),
        Ok(Command::Verify { data, snapshot }) => tools::verify(&data, snapshot.as_deref()),
        Ok(Command::Snapshot { data, to }) => tools::snapshot(&data, &to),
        Ok(Command::Restore { data, from }) => tools::restore(&data, &from),
        Ok(Command::Inspect { data, account, from, limit }) => tools::inspect(&data, account, from, limit),
        Ok(Command::Torture(worlds)) => torture::torture(&worlds),
        Err(exit) if exit.code == EXIT_DONE => tools::print(&exit.message),
        Err(exit) => {
            let _ = write!(std::io::stderr(), "{}", exit.message);
            exit.code
        }
    })
}
