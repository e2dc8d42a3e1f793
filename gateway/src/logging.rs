//! Log lines on standard error. They never hold aliases, keys, tokens or bodies.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, SettingError};

/// The actors' library enters a span for every poll; unless a level is asked for it, it is off.
const ACTORS_QUIET: &str = "ractor=error";

/// Begins to log. A second call in one process changes nothing.
pub fn start(format: LogFormat, level: &str) -> Result<(), SettingError> {
    let level = if level.contains("ractor") { level.to_owned() } else { format!("{level},{ACTORS_QUIET}") };
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| SettingError(format!("--log-level `{level}` cannot be used: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
