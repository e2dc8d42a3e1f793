//! The faults of the engine. A refusal of a request is a value, never one of these.

use std::path::PathBuf;

/// What went wrong, to what, and what to do. Every fault of a write or sync is final: the node stops and
/// recovers by restarting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Data that was durable is not what was written.
    #[error("damaged data in {} at offset {offset}: {detail}; restore this folder from a copy", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Byte offset of what is wrong.
        offset: u64,
        /// What is wrong, and with which account where that is known.
        detail: String,
    },
    /// Another process has the folder open.
    #[error("another process holds {}; stop it, or name another folder with --data", path.display())]
    Locked {
        /// The data folder.
        path: PathBuf,
    },
    /// The folder was written by a newer program.
    #[error("{} has format {found}, this program reads up to {known}; start it with a newer meed", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Newest version that this program reads.
        known: u32,
    },
    /// The folder belongs to another journal, or was made with other settings.
    #[error("{} does not belong here: {detail}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs, and what to do.
        detail: String,
    },
    /// A folder that no node has made.
    #[error("{} is no data folder of meed: it has no {file}", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
        /// What every data folder has.
        file: &'static str,
    },
    /// The state store failed.
    #[error("cannot {action} in the state store: {detail}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// What the store said.
        detail: String,
    },
    /// The CQL cluster refused something, or gave what cannot be.
    #[error("cannot {action} in the CQL cluster: {detail}")]
    Cql {
        /// What was tried.
        action: &'static str,
        /// What the cluster or the driver said.
        detail: String,
    },
    /// Events could not be published by a tool.
    #[error("cannot publish events: {0}")]
    Publish(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// Something that a rule of this program excludes.
    #[error("a rule inside the node is broken: {0}; the next start recovers from the journal")]
    Internal(String),
    /// A setting or document that cannot be used.
    #[error("{0}")]
    Setting(String),
    /// A part of the node has stopped, so nothing more can be answered.
    #[error("the node is stopping: {0}")]
    Stopped(String),
}

impl Error {
    /// Wraps an error of the operating system.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Wraps what the cluster or the driver said.
    pub fn cql(action: &'static str, detail: impl ToString) -> Self {
        Self::Cql { action, detail: detail.to_string() }
    }
}

/// What may fail.
pub type Result<T> = std::result::Result<T, Error>;
