//! How many files a node may have open, and how many of them are connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::SettingError;

/// File descriptors that connections may not take: journal, tables of the store, listeners, links, log.
const FILES_RESERVED: u64 = 512;
/// Of a smaller limit connections take half, and leave at least so many: a node that has nothing to do has some 40, its
/// scrapers take up to 64, and the rest is for segments and tables.
const FILES_RESERVED_MIN: u64 = 192;
/// Fewest file descriptors that a node starts with. With those that are reserved it would serve next to nobody.
const FILES_MIN: u64 = 256;

/// Raises the soft file limit to the hard one, and bounds `wanted` by what it leaves.
///
/// # Errors
/// It is too small for a node.
pub(crate) fn connections_within_limit(wanted: u32) -> Result<u32, SettingError> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let files = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let Some(files) = files else { return Ok(wanted) };
    let connections = connections_of_files(files, wanted)?;
    if connections < wanted {
        tracing::info!(max_connections = connections, files, "the file limit bounds connections");
    }
    Ok(connections)
}

/// How many of the connections that are wanted a process serves that may open so many files.
fn connections_of_files(files: u64, wanted: u32) -> Result<u32, SettingError> {
    if files < FILES_MIN {
        return Err(SettingError(format!(
            "a node needs {FILES_MIN} open files at least, and this process may have {files}: raise the hard limit, \
             with `ulimit -n` in a shell or LimitNOFILE= in the unit"
        )));
    }
    let reserved = FILES_RESERVED.min(files / 2).max(FILES_RESERVED_MIN);
    Ok(u32::try_from(files - reserved).unwrap_or(u32::MAX).min(wanted))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn connections_leave_the_node_its_files() {
        for (files, connections) in [(256, 64), (300, 108), (600, 300), (1_024, 512), (4_096, 3_584), (u64::MAX, 9_999)]
        {
            assert_eq!(connections_of_files(files, 9_999).unwrap(), connections, "{files}");
        }
        assert_eq!(connections_of_files(1 << 20, 10).unwrap(), 10);
        let refused = connections_of_files(FILES_MIN - 1, 10).unwrap_err().to_string();
        assert!(refused.contains("256") && refused.contains("255") && refused.contains("ulimit -n"), "{refused}");
    }
}
