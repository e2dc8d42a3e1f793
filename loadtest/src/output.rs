//! What people and tools get to see: lines while the load runs, a table at its end, and the files of a run.

mod files;
mod html;
mod live;
mod svg;
mod table;

pub(crate) use files::{SUMMARY_FILE, clear, run_folder, write_files};
pub(crate) use live::Live;
pub(crate) use table::{microseconds, table};
