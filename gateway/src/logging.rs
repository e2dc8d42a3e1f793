//! Log lines on standard error. They never hold aliases, keys, tokens or bodies.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, SettingError};

/// The actors' library enters a span for every poll; unless a level is asked for it, it is off.
const ACTORS_QUIET: &str = "ractor=error";

/// Begins to log. A second call in one process changes nothing.
pub fn start(format: LogFormat, level: &str) -> Result<(), SettingError> {
    // A single word that is no level would be taken for the name of a module, and nothing else would be logged.
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let no_level = |part: &&str| is_word(part) && part.parse::<LevelFilter>().is_err();
    if let Some(wrong) = level.split(',').map(str::trim).find(no_level) {
        let detail = "error, warn, info, debug, trace or off, or MODULE=LEVEL";
        return Err(SettingError(format!("--log-level `{level}` cannot be used: `{wrong}` must be {detail}")));
    }
    let level = if level.contains("ractor") { level.to_owned() } else { format!("{level},{ACTORS_QUIET}") };
    let filter = EnvFilter::try_new(&level)
        .map_err(|error| SettingError(format!("--log-level `{level}` cannot be used: {error}")))?;
    // A line that cannot be written is lost: told on the same standard error, that would panic, and end the thread that
    // logs, were it the journal's.
    let builder = tracing_subscriber::fmt().log_internal_errors(false);
    let builder = builder.with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
