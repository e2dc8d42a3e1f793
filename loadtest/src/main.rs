//! The program `meed-loadtest`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    meed_loadtest::main(std::env::args_os())
}
