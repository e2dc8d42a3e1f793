//! One process that makes load: it gets its part of the plan, makes its connections, sends on time, and reports.

mod load;
mod state;
mod books;
mod judge;
mod pending;

use std::io::{BufReader, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::error::Fault;
use crate::machine;
use crate::protocol::{self, FromWorker, Hello, ToWorker};
use load::Load;

/// How long a process waits for its coordinator.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(30);
/// How soon it tries again meanwhile.
const COORDINATOR_POLL: Duration = Duration::from_millis(100);

/// Exit code of a process for which no coordinator had a load: an agent's last process, when the coordinator is done.
pub(crate) const EXIT_NOT_WANTED: u8 = 3;

/// Joins the coordinator at `address` and does what it says until it says that it is over. Returns the exit code.
///
/// # Errors
/// The coordinator refuses it, goes away in the middle, or this process cannot do its part.
pub(crate) fn serve(address: &str, token: &str, sources: Vec<IpAddr>) -> Result<u8, Fault> {
    let files_max = machine::raise_files_limit();
    let Ok(stream) = connect(address) else { return Ok(EXIT_NOT_WANTED) };
    let hello = Hello {
        version: protocol::VERSION,
        token: token.to_owned(),
        host: machine::host_name(),
        process: std::process::id(),
        files_max,
        ports: machine::ports_per_source(),
        sources,
    };
    let (out, sender) = channel();
    let mut writer = stream.try_clone().map_err(|error| Fault::failed("the coordinator's connection", error))?;
    // Encoding and writing a report takes a while; requests that are due do not wait for it.
    let writing = std::thread::spawn(move || write_all(&mut writer, &sender));
    let commands = listen(stream);
    let result = obey(&commands, &out, hello);
    if let Err(fault) = &result {
        // The coordinator may be gone; then nobody needs to know.
        let _ = out.send(FromWorker::Failed(fault.to_string()));
    }
    drop(out);
    // A panic of that thread has been printed already.
    let _ = writing.join();
    result
}

fn connect(address: &str) -> Result<TcpStream, Fault> {
    let deadline = std::time::Instant::now() + COORDINATOR_PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| Fault::failed(address, error))?;
                return Ok(stream);
            }
            Err(error) if std::time::Instant::now() > deadline => {
                return Err(Fault::failed(format!("no coordinator at {address}"), error));
            }
            Err(_) => std::thread::sleep(COORDINATOR_POLL),
        }
    }
}

fn write_all(stream: &mut TcpStream, messages: &Receiver<FromWorker>) {
    for message in messages {
        if protocol::send(stream, &message).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// The coordinator's commands as they come; the channel ends with the connection.
fn listen(stream: TcpStream) -> Receiver<ToWorker> {
    let (sender, commands) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(command)) = protocol::receive(&mut reader) {
            if sender.send(command).is_err() {
                return;
            }
        }
    });
    commands
}

fn obey(commands: &Receiver<ToWorker>, out: &Sender<FromWorker>, hello: Hello) -> Result<u8, Fault> {
    let gone = || Fault::Failed("the coordinator went away".to_owned());
    out.send(FromWorker::Hello(hello)).map_err(|_| gone())?;
    let plan = match commands.recv() {
        Ok(ToWorker::Plan(plan)) => plan,
        Ok(ToWorker::Refused(why)) => return Err(Fault::Failed(why)),
        Err(_) => return Ok(EXIT_NOT_WANTED),
        Ok(_) => return Err(gone()),
    };
    let mut load = Load::new(*plan).map_err(|error| Fault::failed("the connections", error))?;
    let connected = load.connect(commands).map_err(|error| Fault::failed("making connections", error))?;
    out.send(connected).map_err(|_| gone())?;
    let start = load.wait_for_start(commands).map_err(|error| Fault::failed("holding connections", error))?;
    let Some(ToWorker::Start { in_ms }) = start else { return Err(gone()) };
    load.run(Duration::from_millis(in_ms), out, commands).map_err(|error| Fault::failed("the load", error))?;
    let (done, ledger) = load.finish();
    out.send(FromWorker::Done(Box::new(done))).map_err(|_| gone())?;
    loop {
        match commands.recv() {
            Ok(ToWorker::Details(accounts)) => {
                out.send(FromWorker::Details(ledger.details(&accounts))).map_err(|_| gone())?;
            }
            // It came when the load was over.
            Ok(ToWorker::End { .. }) => {}
            Ok(ToWorker::Finish) => return Ok(0),
            Ok(ToWorker::Plan(_) | ToWorker::Start { .. } | ToWorker::Refused(_)) | Err(_) => return Err(gone()),
        }
    }
}

/// Makes load for a coordinator on another machine with several processes, load after load, until it is gone.
///
/// # Errors
/// The coordinator was never there, does not know the token, or went away in the middle of a load.
pub(crate) fn agent(coordinator: &str, token: &str, processes: Option<u32>, sources: &str) -> Result<(), Fault> {
    let program = std::env::current_exe().map_err(|error| Fault::failed("this program's own path", error))?;
    let count = processes.unwrap_or_else(machine::cores).max(1);
    let loads = AtomicU32::new(0);
    let make = || loop {
        let mut command = std::process::Command::new(&program);
        command.args(["worker", coordinator, "--sources", sources]).env(protocol::TOKEN_VARIABLE, token);
        let status = command.status().map_err(|error| Fault::failed("a process that makes load", error))?;
        match status.code() {
            // The load is over; the coordinator may begin another.
            Some(0) => loads.fetch_add(1, Ordering::Relaxed),
            Some(code) if code == i32::from(EXIT_NOT_WANTED) => return Ok(()),
            // It has said why.
            _ => return Err(Fault::Failed(format!("a process that makes load failed: {status}"))),
        };
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(make)).collect();
        let ended: Vec<Result<(), Fault>> = threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Fault::Failed("a thread of the agent panicked".to_owned())))
            })
            .collect();
        ended.into_iter().collect::<Result<(), Fault>>()
    })?;
    if loads.into_inner() == 0 {
        let why = "it is not there, or ended before it had a load for this machine";
        return Err(Fault::failed(format!("no load for the coordinator at {coordinator}"), why));
    }
    Ok(())
}
