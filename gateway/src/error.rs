//! What may fail in the gateway. What is refused to a client is a value: [`crate::forward::Unanswered`],
//! [`crate::route::NoRoute`], and at last a problem document.

use std::io;

use meed_engine::error::Error as EngineError;

use crate::config::SettingError;
use crate::exit::{EXIT_FAILED, EXIT_USAGE, exit_code};

/// What may fail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The system refused something.
    #[error("cannot {action} {subject}: {source}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        subject: String,
        /// What the system said.
        source: io::Error,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The secret of owner and fronts cannot be used.
    #[error("{0}")]
    Secret(String),
    /// A front that cannot serve its owner's accounts.
    #[error("this front cannot start: {0}")]
    Front(Box<Error>),
    /// Nobody answers at the other end of a link, or the connection broke. It is tried again.
    #[error("{0}")]
    Link(#[from] io::Error),
    /// Something else listens there.
    #[error("it is not the internal listener of a meed")]
    Stranger,
    /// The other end speaks another version of the protocol.
    #[error("it speaks version {theirs} of the protocol, this program version {ours}; run the same meed on both sides")]
    Version {
        /// The other end's.
        theirs: u16,
        /// This program's.
        ours: u16,
    },
    /// The other end has another secret.
    #[error("it has another secret; give both sides the same file with --owner-secret")]
    OtherSecret,
    /// Keys of requests are hashed already with those of the owner before.
    #[error("it owns other accounts than the one before it; start this front anew")]
    OtherOwner,
    /// A front without anybody to ask.
    #[error("there is no address of an owner")]
    NoOwner,
}

impl Error {
    /// Wraps an error of the operating system.
    pub fn system(action: &'static str, subject: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, subject: subject.to_string(), source }
    }

    /// Whether two ends of a link do not belong together: trying again helps only when one of them is started anew.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, Self::Stranger | Self::Version { .. } | Self::OtherSecret | Self::OtherOwner | Self::NoOwner)
    }

    /// The exit code of a node that ends with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setting(_) | Self::Secret(_) => EXIT_USAGE,
            Self::Engine(error) => exit_code(error),
            _ => EXIT_FAILED,
        }
    }
}
