//! A build without Kafka's client publishes nowhere, and says so when it is asked to.

use std::path::Path;
use std::time::Duration;

use super::mark::Marks;
use super::{CurrentPrograms, Fencing, Range};
use crate::config::KafkaOptions;
use crate::error::{Error, Result};
use crate::journal::Records;
use crate::metrics::PublishMetrics;
use crate::retention::NeededFrom;

/// The publishing thread, of which there is none.
#[derive(Debug)]
pub enum Publisher {}

impl Publisher {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn start(
        _options: KafkaOptions,
        _marks: Marks,
        _fencing: Option<Fencing>,
        _journal: Records,
        _programs: CurrentPrograms,
        _metrics: PublishMetrics,
    ) -> Result<Self> {
        Err(absent())
    }

    /// There is nothing to keep.
    pub fn needed_from(&self) -> NeededFrom {
        match *self {}
    }

    /// There is none to stop.
    pub fn stop(self, _patience: Duration) {
        match self {}
    }
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn replay(_data: &Path, _options: &KafkaOptions, _range: &Range) -> Result<u64> {
    Err(absent())
}

fn absent() -> Error {
    Error::Setting("this build has no Kafka client; build it with the feature `kafka`".into())
}
