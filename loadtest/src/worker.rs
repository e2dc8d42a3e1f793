//! One process that makes load: it gets its part of the plan, makes its connections, sends on time, and reports.

mod load;
mod state;
mod books;
mod judge;
mod pending;

use std::io::{BufReader, Write};
use std::net::TcpStream;
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

/// Joins the coordinator at `address` and does what it says until it says that it is over.
///
/// # Errors
/// The coordinator is not there, goes away, or this process cannot do its part.
pub(crate) fn serve(address: &str, token: &str) -> Result<(), Fault> {
    let files_max = machine::raise_files_limit();
    let stream = connect(address)?;
    let hello = Hello {
        version: protocol::VERSION,
        token: token.to_owned(),
        host: machine::host_name(),
        process: std::process::id(),
        files_max,
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

fn obey(commands: &Receiver<ToWorker>, out: &Sender<FromWorker>, hello: Hello) -> Result<(), Fault> {
    let gone = || Fault::Failed("the coordinator went away".to_owned());
    out.send(FromWorker::Hello(hello)).map_err(|_| gone())?;
    let Ok(ToWorker::Plan(plan)) = commands.recv() else { return Err(gone()) };
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
            Ok(ToWorker::Finish) => return Ok(()),
            Ok(ToWorker::Plan(_) | ToWorker::Start { .. }) | Err(_) => return Err(gone()),
        }
    }
}

/// Makes load for a coordinator on another machine with several processes, run after run, until it is gone.
pub(crate) fn agent(coordinator: &str, token: &str, processes: Option<u32>) -> Result<(), Fault> {
    let program = std::env::current_exe().map_err(|error| Fault::failed("this program's own path", error))?;
    let count = processes.unwrap_or_else(machine::cores).max(1);
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (program, coordinator, token) = (program.clone(), coordinator.to_owned(), token.to_owned());
            std::thread::spawn(move || {
                loop {
                    let mut command = std::process::Command::new(&program);
                    command.args(["worker", &coordinator]).env(protocol::TOKEN_VARIABLE, &token);
                    match command.status() {
                        // The run is over; the coordinator may begin another.
                        Ok(status) if status.success() => {}
                        Ok(_) => return Ok(()),
                        Err(error) => return Err(Fault::failed("a process that makes load", error)),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap_or_else(|_| Err(Fault::Failed("a thread of the agent panicked".to_owned())))?;
    }
    Ok(())
}
