//! What keeps the program from doing what it was told. What a server does wrong is a result, not a fault.

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The command line or the scenario asks for something that does not exist: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Something outside failed: exit code 1. The text says what, on what, and what to do.
    #[error("{0}")]
    Failed(String),
}

impl Fault {
    /// Of something that the command line or the scenario asks for.
    pub(crate) fn usage(what: impl std::fmt::Display, why: &str) -> Self {
        Self::Usage(format!("{what}: {why}"))
    }

    /// Of an operation on something.
    pub(crate) fn failed(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}
