//! Exit codes of the command line.

use meed_engine::error::Error;

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Something failed.
pub const EXIT_FAILED: u8 = 1;
/// The command line or a setting cannot be used.
pub const EXIT_USAGE: u8 = 2;
/// The data folder is damaged.
pub const EXIT_DAMAGED: u8 = 3;
/// Another process holds the data folder.
pub const EXIT_LOCKED: u8 = 4;

/// The exit code for a fault of the engine.
pub fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Setting(_) => EXIT_USAGE,
        Error::Damaged { .. } => EXIT_DAMAGED,
        Error::Locked { .. } => EXIT_LOCKED,
        _ => EXIT_FAILED,
    }
}
