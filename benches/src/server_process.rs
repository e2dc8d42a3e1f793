//! A server of the comparison as a child process: started from a command line, watched through `/proc`, stopped by
//! SIGTERM.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Stands for the data folder in a server's command line. A server without it keeps no state.
pub const DATA_PLACEHOLDER: &str = "{data}";

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_POLL: Duration = Duration::from_millis(10);
/// The unit of processor time in `/proc`: Linux shows 100 ticks a second to programs on every architecture.
const TICK_US: u64 = 10_000;

/// Processor time that a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program itself.
    pub user_us: u64,
    /// In the kernel on its behalf.
    pub system_us: u64,
}

impl CpuTime {
    /// What was used since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }

    /// From the text of `/proc/PID/stat`. The program's name, in parentheses, may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok()?.checked_mul(TICK_US);
        Some(Self { user_us: ticks()?, system_us: ticks()? })
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    address: String,
    lines: Receiver<String>,
}

impl ServerProcess {
    /// Starts the server and waits for its line `listening on http://HOST:PORT`. The command is split at spaces; what
    /// it says on standard error goes to the file `log`.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not say where it listens within 60 seconds.
    pub fn start(command: &str, data: &Path, log: &Path) -> Result<Self, String> {
        let data = data.to_str().ok_or("the data folder's path is not UTF-8")?;
        let mut words = command.split_whitespace().map(|word| word.replace(DATA_PLACEHOLDER, data));
        let program = words.next().ok_or("a server's command is empty")?;
        let errors = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        let output = child.stdout.take().ok_or("the server has no standard output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Reads to the end even when nobody listens any more, so that the server never blocks on a full pipe.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self { child, address: String::new(), lines };
        server.address = server
            .announced("listening on http://", START_TIMEOUT)
            .map_err(|error| format!("{error}: {}", last_words(log)))?
            .ok_or_else(|| format!("{program} did not say where it listens within {START_TIMEOUT:?}"))?;
        Ok(server)
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `HOST:PORT` of the metrics, if the server prints a line `metrics on http://HOST:PORT` within the time.
    ///
    /// # Errors
    /// The server ended.
    pub fn metrics_address(&self, within: Duration) -> Result<Option<String>, String> {
        self.announced("metrics on http://", within)
    }

    fn announced(&self, prefix: &str, within: Duration) -> Result<Option<String>, String> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let address = line.strip_prefix(prefix).and_then(|rest| rest.split([' ', '/']).next());
                    if let Some(address) = address {
                        return Ok(Some(address.to_owned()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err("the server ended early".to_owned()),
            }
        }
    }

    /// Processor time so far.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_time(&self) -> Result<CpuTime, String> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        CpuTime::parse(&stat).ok_or_else(|| format!("{path} is not understood"))
    }

    /// Most memory that was resident at once.
    ///
    /// # Errors
    /// The process is gone.
    pub fn peak_memory_bytes(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1_024).ok_or_else(|| format!("{path} is not understood"))
    }

    /// Asks the server to stop and waits for it.
    ///
    /// # Errors
    /// It fails, or has not ended within 60 seconds.
    pub fn stop(mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).ok_or("the process id is no id")?;
        kill_process(pid, Signal::TERM).map_err(|error| format!("cannot stop the server: {error}"))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) => return stopped_well(status),
                Ok(None) => std::thread::sleep(STOP_POLL),
                Err(error) => return Err(format!("cannot wait for the server: {error}")),
            }
        }
        Err(format!("the server did not stop within {STOP_TIMEOUT:?}"))
    }
}

/// What the server said at the end.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines[lines.len().saturating_sub(5)..].join("\n  ") }
}

/// A server with a handler for SIGTERM exits 0; one without ends by it.
fn stopped_well(status: ExitStatus) -> Result<(), String> {
    if status.success() || status.signal() == Some(Signal::TERM.as_raw()) {
        Ok(())
    } else {
        Err(format!("the server failed at the end: {status}"))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_process_with_an_odd_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 320 5 6 20 0 1 0 100 1 1";
        let expected = CpuTime { user_us: 1_500_000, system_us: 3_200_000 };
        assert_eq!(CpuTime::parse(stat), Some(expected));
        assert_eq!(CpuTime::parse("42"), None);
        assert_eq!(expected.since(CpuTime { user_us: 500_000, system_us: 200_000 }).user_us, 1_000_000);
    }

    #[test]
    fn a_server_that_ends_early_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let error = ServerProcess::start("ls --no-such-flag", folder.path(), &log).unwrap_err();
        assert!(error.contains("ended early") && error.len() > "the server ended early: ".len(), "{error}");
        assert!(ServerProcess::start("no-such-program-here", folder.path(), &log).is_err());
    }
}
