//! Servers that the harness starts itself, in a temporary folder, and stops again: a node, a node with fronts, or any
//! program that says where it listens.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::interrupt;
use crate::machine;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_POLL: Duration = Duration::from_millis(20);
/// Connections that a started node may have; the file limit is the bound.
const CONNECTIONS: &str = "10000000";

/// What is started.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The program `meed`.
    pub(crate) program: PathBuf,
    /// Gateways in processes of their own in front of one owner; 0: one process does everything.
    pub(crate) fronts: u32,
    /// Where the temporary folder is made: on a disk, not in memory.
    pub(crate) folder_parent: PathBuf,
    /// Further flags of the node.
    pub(crate) flags: Vec<String>,
    /// Another program than `meed`, with its arguments: started once, or once per front.
    pub(crate) bare: Option<Vec<String>>,
}

/// Memory and processor time of all processes of the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    pub(crate) resident_bytes: u64,
    pub(crate) resident_bytes_max: u64,
    pub(crate) cpu_us: u64,
}

/// Running servers. Dropping them kills them.
#[derive(Debug)]
pub(crate) struct Servers {
    children: Vec<Child>,
    pub(crate) targets: Vec<SocketAddr>,
    folder: tempfile::TempDir,
}

impl Servers {
    /// Starts all processes and waits until each says where it listens.
    ///
    /// # Errors
    /// One cannot be started, or ends, or is not ready within 60 s; with what it said last.
    pub(crate) fn start(layout: &Layout) -> Result<Self, Fault> {
        let parent = &layout.folder_parent;
        std::fs::create_dir_all(parent).map_err(|error| Fault::failed(parent.display(), error))?;
        let folder = tempfile::Builder::new().prefix("loadtest-").tempdir_in(parent);
        let folder = folder.map_err(|error| Fault::failed(parent.display(), error))?;
        let mut servers = Self { children: Vec::new(), targets: Vec::new(), folder };
        let is_bound = has_setpriv();
        for command in commands(layout, servers.folder.path()) {
            let name = command.get_program().to_string_lossy().into_owned();
            let target = servers.launch(&name, if is_bound { bound(command) } else { command })?;
            servers.targets.push(target);
        }
        // The owner serves the fronts; clients come to them.
        if layout.bare.is_none() && layout.fronts > 0 {
            servers.targets.remove(0);
        }
        Ok(servers)
    }

    fn launch(&mut self, name: &str, mut command: Command) -> Result<SocketAddr, Fault> {
        let log = self.folder.path().join(format!("{}.log", self.children.len()));
        let errors = File::create(&log).map_err(|error| Fault::failed(log.display(), error))?;
        // Ctrl-C in a terminal is for this program, which stops its servers when the run is over.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut child = command.spawn().map_err(|error| {
            Fault::failed(
                format!("cannot start {name} (`cargo build --release --workspace` makes it; --node names another)"),
                error,
            )
        })?;
        let output = child.stdout.take();
        interrupt::server_started(child.id(), self.folder.path());
        self.children.push(child);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Reads to the end even when nobody listens any more, so that the server never blocks on a full pipe.
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let address =
                        line.strip_prefix("listening on http://").and_then(|rest| rest.split([' ', '/']).next());
                    if let Some(address) = address.and_then(|address| address.parse().ok()) {
                        return Ok(address);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Fault::Failed(format!("{name} did not say where it listens within {START_TIMEOUT:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Fault::Failed(format!("{name} ended early: {}", last_words(&log))));
                }
            }
        }
    }

    /// What the servers use by now.
    pub(crate) fn usage(&self) -> Use {
        let mut sum = Use::default();
        for child in &self.children {
            let (resident, most) = machine::memory_bytes(child.id()).unwrap_or_default();
            sum.resident_bytes += resident;
            sum.resident_bytes_max += most;
            sum.cpu_us += machine::cpu_us(child.id()).unwrap_or_default();
        }
        sum
    }

    pub(crate) fn process_count(&self) -> usize {
        self.children.len()
    }

    /// Asks every process to stop, fronts before the owner, and waits for each.
    ///
    /// # Errors
    /// One fails at the end, or has not ended within 60 s.
    pub(crate) fn stop(mut self) -> Result<(), Fault> {
        for child in self.children.iter_mut().rev() {
            let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                return Err(Fault::Failed(format!("the server ended before it was asked to: {status}")));
            }
            kill_process(pid, Signal::TERM).map_err(|error| Fault::failed("cannot stop the server", error))?;
            let deadline = Instant::now() + STOP_TIMEOUT;
            loop {
                match child.try_wait() {
                    Ok(Some(status)) if has_stopped_well(status) => break,
                    Ok(Some(status)) => return Err(Fault::Failed(format!("the server failed at the end: {status}"))),
                    Ok(None) if Instant::now() < deadline => std::thread::sleep(STOP_POLL),
                    Ok(None) => return Err(Fault::Failed(format!("the server did not stop within {STOP_TIMEOUT:?}"))),
                    Err(error) => return Err(Fault::failed("cannot wait for the server", error)),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail when it has ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        interrupt::servers_ended();
    }
}

/// The processes in the order in which they start.
fn commands(layout: &Layout, folder: &Path) -> Vec<Command> {
    let count = layout.fronts.max(1);
    if let Some([program, arguments @ ..]) = layout.bare.as_deref() {
        let mut bare = Vec::new();
        for _ in 0..count {
            let mut command = Command::new(program);
            command.args(arguments);
            bare.push(command);
        }
        return bare;
    }
    let base = || {
        let mut command = Command::new(&layout.program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]);
        command.args(["--max-connections", CONNECTIONS]);
        command
    };
    let mut owner = base();
    owner.arg("--data").arg(folder.join("data")).args(&layout.flags);
    if layout.fronts == 0 {
        return vec![owner];
    }
    let socket = format!("unix:{}", folder.join("owner").display());
    owner.args(["--owner-listen", &socket]);
    let mut commands = vec![owner];
    for _ in 0..layout.fronts {
        let mut front = base();
        front.args(["--front-of", &socket, "--workers", "1"]);
        commands.push(front);
    }
    commands
}

/// Without it servers outlive a harness that is killed.
fn has_setpriv() -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The same, told to end by the system when this program is gone, however it went: the signal stays with the process when
/// `setpriv`, of util-linux, becomes the server. It is that of the thread that starts it, which is the main one.
fn bound(command: Command) -> Command {
    let program = command.get_program();
    // Of one that is not there the system's own error says more than that of `setpriv`.
    if Path::new(program).components().count() > 1 && !Path::new(program).exists() {
        return command;
    }
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "TERM", "--"]).arg(program).args(command.get_args());
    bound
}

/// A server with a handler for SIGTERM exits 0; one without ends by it.
fn has_stopped_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it said nothing".to_owned() } else { lines[lines.len().saturating_sub(5)..].join("\n  ") }
}
