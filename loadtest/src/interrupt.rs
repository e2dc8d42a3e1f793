//! Signals that ask the program to end. The first that comes while a load runs ends its schedule early, and the run goes
//! on to its proof and its report. Any other ends the program at once, with the servers that it has started.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::Fault;

/// Nobody has asked, and there is no load that could end early.
const NO_LOAD: u8 = 0;
/// A load runs.
const LOADING: u8 = 1;
/// The program was asked to end.
const ASKED: u8 = 2;

/// Signals are the process's, and so is what is known of them.
static STATE: AtomicU8 = AtomicU8::new(NO_LOAD);
static STARTED: Mutex<Started> = Mutex::new(Started { pids: Vec::new(), folder: None });

/// What would outlive the program.
struct Started {
    pids: Vec<Pid>,
    folder: Option<PathBuf>,
}

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a thread takes the signals.
///
/// # Errors
/// The system refuses it.
pub(crate) fn watch() -> Result<(), Fault> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.map_err(|error| Fault::failed("waiting for signals", error))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if STATE.compare_exchange(LOADING, ASKED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                end(signal);
            }
        }
    });
    Ok(())
}

/// Ends the program and what it has started, of which nothing is kept.
fn end(signal: i32) -> ! {
    let started = started();
    for pid in &started.pids {
        // It may have ended already, which is what is wanted.
        let _ = kill_process(*pid, Signal::KILL);
    }
    if let Some(folder) = &started.folder {
        // What a server still writes while it ends may be left.
        let _ = std::fs::remove_dir_all(folder);
    }
    eprintln!("meed-loadtest: ended by signal {signal}");
    std::process::exit(128 + signal)
}

/// Whether the program was asked to end.
pub(crate) fn is_asked() -> bool {
    STATE.load(Ordering::Relaxed) == ASKED
}

/// While it lives a signal ends the load and not the program.
#[derive(Debug)]
pub(crate) struct Loading;

impl Loading {
    /// A load begins.
    ///
    /// # Errors
    /// The program was asked to end while an earlier one ran.
    pub(crate) fn begin() -> Result<Self, Fault> {
        STATE
            .compare_exchange(NO_LOAD, LOADING, Ordering::Relaxed, Ordering::Relaxed)
            .map(|_| Self)
            .map_err(|_| Fault::Failed("ended by a signal before the load began".to_owned()))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // Once asked, it stays so: no other load begins, and the next signal ends the program.
        let _ = STATE.compare_exchange(LOADING, NO_LOAD, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A server was started, with its data in a folder.
pub(crate) fn server_started(pid: u32, folder: &Path) {
    let mut started = started();
    started.pids.extend(i32::try_from(pid).ok().and_then(Pid::from_raw));
    started.folder = Some(folder.to_owned());
}

/// All servers have ended.
pub(crate) fn servers_ended() {
    *started() = Started { pids: Vec::new(), folder: None };
}
