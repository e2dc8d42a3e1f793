//! The processes that make the load, on this machine and on others, as the coordinator sees them.

use std::io::{BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::error::Fault;
use crate::interrupt::{self, Loading};
use crate::ledger::Logged;
use crate::protocol::{self, Done, FromWorker, Hello, Interval, Plan, TOKEN_VARIABLE, ToWorker};
use crate::scenario::Scenario;

/// How long local processes may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long agents on other machines may take, people included.
const AGENTS_TIMEOUT: Duration = Duration::from_secs(600);
/// How soon the coordinator looks again whether somebody joins.
const JOIN_POLL: Duration = Duration::from_millis(5);
/// Longest wait for a message while the load runs, so that the view is never old.
const TICK_MAX: Duration = Duration::from_millis(100);
/// How long a stranger may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// All processes begin so long after the order, which must have reached all of them by then.
const START_DELAY_MS: u64 = 300;
/// How long an order may take to reach all of them.
const END_DELAY: Duration = Duration::from_millis(500);
/// How long all processes may be silent; with a load under way each tells of its intervals.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Where processes come from.
#[derive(Clone, Debug)]
pub(crate) struct Sources<'a> {
    /// Started here.
    pub(crate) local: u32,
    /// Started by agents on other machines.
    pub(crate) remote: u32,
    /// Where those come to, load after load; without it this load has a listener of its own.
    pub(crate) listener: Option<&'a TcpListener>,
    pub(crate) token: &'a str,
    /// Whether those started here give way to the server; see [`command_of`].
    pub(crate) give_way: bool,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    hello: Hello,
}

/// All processes, in the order in which they joined.
#[derive(Debug)]
pub(crate) struct Fleet {
    members: Vec<Member>,
    children: Vec<Child>,
    messages: Receiver<(usize, Option<FromWorker>)>,
    /// Whether one of them did not say what it did.
    pub(crate) has_lost: bool,
}

/// What a load came to.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// What each process did, in their order; of a load that failed, of those that came to their end.
    pub(crate) done: Vec<Done>,
    /// After how many seconds the schedule ended, when the program was asked to end meanwhile.
    pub(crate) ended: Option<u32>,
    /// Why it did not come to its end: a process is gone, with its ledger.
    pub(crate) failure: Option<String>,
}

/// What comes of the load while it runs, and at its end.
pub(crate) trait Watch {
    /// A process reports an interval.
    fn interval(&mut self, worker: usize, interval: Interval);
    /// The program was asked to end; the schedule ends after so many seconds.
    fn ends(&mut self, after_seconds: u32);
    /// Called several times a second.
    fn tick(&mut self);
}

impl Fleet {
    /// Without any process, for those that will send these messages.
    pub(crate) fn of_nobody(messages: Receiver<(usize, Option<FromWorker>)>) -> Self {
        Self { members: Vec::new(), children: Vec::new(), messages, has_lost: false }
    }

    /// Starts local processes and waits for all to join.
    pub(crate) fn gather(sources: &Sources<'_>) -> Result<Self, Fault> {
        let own;
        let listener = match sources.listener {
            Some(listener) => listener,
            None => {
                own = listen("127.0.0.1:0")?;
                &own
            }
        };
        let address = listener.local_addr().map_err(|error| Fault::failed("the coordinator's listener", error))?;
        let (sender, messages) = channel();
        let mut fleet = Self::of_nobody(messages);
        let program = std::env::current_exe().map_err(|error| Fault::failed("this program's own path", error))?;
        let local = format!("127.0.0.1:{}", address.port());
        let give_way = sources.give_way && has_chrt();
        for _ in 0..sources.local {
            let mut command = command_of(&program, give_way);
            // Ctrl-C in a terminal is for the coordinator, which tells them.
            command.args(["worker", &local]).env(TOKEN_VARIABLE, sources.token).stdin(Stdio::null()).process_group(0);
            let child = command.spawn().map_err(|error| Fault::failed("a process that makes load", error))?;
            fleet.children.push(child);
        }
        let wanted = (sources.local + sources.remote) as usize;
        let patience = if sources.remote > 0 { AGENTS_TIMEOUT } else { JOIN_TIMEOUT };
        fleet.accept(listener, wanted, sources.token, Instant::now() + patience, &sender)?;
        Ok(fleet)
    }

    fn accept(
        &mut self,
        listener: &TcpListener,
        wanted: usize,
        token: &str,
        deadline: Instant,
        sender: &Sender<(usize, Option<FromWorker>)>,
    ) -> Result<(), Fault> {
        listener.set_nonblocking(true).map_err(|error| Fault::failed("the coordinator's listener", error))?;
        while self.members.len() < wanted {
            if Instant::now() > deadline {
                return Err(Fault::Failed(format!("only {} of {wanted} processes joined in time", self.members.len())));
            }
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(JOIN_POLL);
                    continue;
                }
                // A stranger that went away before it was its turn.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(Fault::failed("the coordinator's listener", error)),
            };
            // Whoever does not know the token is no part of this.
            if let Some((member, reader)) = greet(stream, token)? {
                let number = self.members.len();
                self.members.push(member);
                let sender = sender.clone();
                std::thread::spawn(move || read_all(reader, number, &sender));
            }
        }
        Ok(())
    }

    /// Who joined.
    pub(crate) fn hellos(&self) -> impl Iterator<Item = &Hello> {
        self.members.iter().map(|member| &member.hello)
    }

    fn send(&mut self, worker: usize, message: &ToWorker) -> Result<(), Fault> {
        let stream = &mut self.members[worker].stream;
        protocol::send(stream, message)
            .and_then(|()| stream.flush())
            .map_err(|error| Fault::failed(format!("process {worker} that makes load"), error))
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<(usize, FromWorker)>, Fault> {
        match self.messages.recv_timeout(wait) {
            Ok((worker, Some(FromWorker::Failed(why)))) => Err(Fault::Failed(format!("process {worker}: {why}"))),
            Ok((worker, Some(message))) => Ok(Some((worker, message))),
            Ok((worker, None)) => Err(Fault::Failed(format!("process {worker} that makes load went away"))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Fault::Failed("all processes went away".to_owned())),
        }
    }

    /// Hands out the plans and waits until all connections were tried: open ones, failed ones, and why the first failed.
    pub(crate) fn connect(&mut self, plans: Vec<Plan>) -> Result<(u32, u32, Option<String>), Fault> {
        let wanted: u32 = plans.iter().map(|plan| plan.connections).sum();
        let rate: u32 = plans.iter().map(|plan| plan.connections_per_second).sum();
        let patience = Duration::from_secs(u64::from(2 * wanted / rate.max(1))) + SILENCE_MAX;
        for (worker, plan) in plans.into_iter().enumerate() {
            self.send(worker, &ToWorker::Plan(Box::new(plan)))?;
        }
        let (mut answers, mut sum) = (0, (0, 0, None));
        while answers < self.members.len() {
            match self.receive(patience)? {
                Some((_, FromWorker::Connected { open, failed, first_failure })) => {
                    sum = (sum.0 + open, sum.1 + failed, sum.2.or(first_failure));
                    answers += 1;
                }
                Some((worker, _)) => return Err(Fault::Failed(format!("process {worker} spoke out of turn"))),
                None => return Err(Fault::Failed("a process does not come to an end with its connections".to_owned())),
            }
        }
        Ok(sum)
    }

    /// Runs the load; each process tells of each of its intervals. What was measured before a process went away was
    /// measured, so that is no error.
    ///
    /// # Errors
    /// The program was asked to end before.
    pub(crate) fn run(&mut self, scenario: &Scenario, watch: &mut dyn Watch) -> Result<Loaded, Fault> {
        let _loading = Loading::begin()?;
        let (mut done, mut ended) = (self.members.iter().map(|_| None).collect::<Vec<_>>(), None);
        let failure = self.load(scenario, watch, &mut done, &mut ended).err().map(|fault| fault.to_string());
        Ok(Loaded { done: done.into_iter().flatten().collect(), ended, failure })
    }

    fn load(
        &mut self,
        scenario: &Scenario,
        watch: &mut dyn Watch,
        done: &mut [Option<Done>],
        end: &mut Option<u32>,
    ) -> Result<(), Fault> {
        let interval = Duration::from_millis(scenario.interval_ms);
        let begins = Instant::now() + Duration::from_millis(START_DELAY_MS);
        for worker in 0..self.members.len() {
            self.send(worker, &ToWorker::Start { in_ms: START_DELAY_MS })?;
        }
        let mut heard = Instant::now();
        while done.iter().any(Option::is_none) {
            let message = self.receive(TICK_MAX)?;
            if message.is_some() {
                heard = Instant::now();
            }
            match message {
                Some((worker, FromWorker::Interval(interval))) => watch.interval(worker, *interval),
                Some((worker, FromWorker::Done(report))) => done[worker] = Some(*report),
                Some((worker, _)) => return Err(Fault::Failed(format!("process {worker} spoke out of turn"))),
                None if heard.elapsed() > SILENCE_MAX => {
                    return Err(Fault::Failed("no process that makes load says anything".to_owned()));
                }
                None => {}
            }
            watch.tick();
            if end.is_none() && interrupt::is_asked() {
                let after_seconds = scenario.full_second(end_second(begins.elapsed(), interval));
                for worker in 0..self.members.len() {
                    self.send(worker, &ToWorker::End { after_seconds })?;
                }
                watch.ends(after_seconds);
                *end = Some(after_seconds);
            }
        }
        Ok(())
    }

    /// What every process did on these accounts.
    ///
    /// # Errors
    /// One went away, or says something else.
    pub(crate) fn details(&mut self, accounts: &[u32]) -> Result<Vec<(usize, Logged)>, Fault> {
        let mut all = Vec::new();
        for worker in 0..self.members.len() {
            let details = self.details_of(worker, accounts).inspect_err(|_| self.has_lost = true)?;
            all.extend(details.into_iter().map(|logged| (worker, logged)));
        }
        Ok(all)
    }

    fn details_of(&mut self, worker: usize, accounts: &[u32]) -> Result<Vec<Logged>, Fault> {
        self.send(worker, &ToWorker::Details(accounts.to_vec()))?;
        match self.receive(SILENCE_MAX)? {
            Some((_, FromWorker::Details(details))) => Ok(details),
            _ => Err(Fault::Failed(format!("process {worker} does not say what it did"))),
        }
    }

    /// Lets all processes end.
    pub(crate) fn finish(mut self) {
        for worker in 0..self.members.len() {
            // One that is gone already needs no order to go.
            let _ = self.send(worker, &ToWorker::Finish);
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail when it has ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The first full second of which all processes can still be told: they listen once in an interval.
fn end_second(elapsed: Duration, interval: Duration) -> u32 {
    let told = elapsed + interval + END_DELAY;
    u32::try_from(told.as_secs() + 1).unwrap_or(u32::MAX)
}

/// Binds where processes come to.
///
/// # Errors
/// The address is none of this machine's, or taken.
pub(crate) fn listen(address: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address)
        .map_err(|error| Fault::failed(format!("listening on {address} (--agents-listen)"), error))
}

fn greet(stream: TcpStream, token: &str) -> Result<Option<(Member, BufReader<TcpStream>)>, Fault> {
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_nodelay(true))
        .and_then(|()| stream.set_read_timeout(Some(HELLO_TIMEOUT)))
        .and_then(|()| stream.try_clone());
    let Ok(mut writer) = prepared else { return Ok(None) };
    let mut reader = BufReader::new(stream);
    let Ok(Some(FromWorker::Hello(hello))) = protocol::receive(&mut reader) else { return Ok(None) };
    if hello.token != token {
        let why = format!("{TOKEN_VARIABLE} is not the token that the coordinator printed");
        // It may have gone meanwhile; then it does not need to know.
        let _ = protocol::send(&mut writer, &ToWorker::Refused(why));
        return Ok(None);
    }
    if hello.version != protocol::VERSION {
        let (theirs, ours) = (hello.version, protocol::VERSION);
        return Err(Fault::Failed(format!("{} speaks version {theirs}, not {ours}: use one build", hello.host)));
    }
    if reader.get_ref().set_read_timeout(None).is_err() {
        return Ok(None);
    }
    Ok(Some((Member { stream: writer, hello }, reader)))
}

/// Without it processes are scheduled as any others.
fn has_chrt() -> bool {
    Command::new("chrt").arg("-m").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A process of this program. One that gives way is scheduled as SCHED_BATCH (sched(7)): an answer that wakes it does not
/// take the processor from the server that it measures. That needs `chrt`.
fn command_of(program: &Path, give_way: bool) -> Command {
    if !give_way {
        return Command::new(program);
    }
    let mut command = Command::new("chrt");
    command.args(["-b", "0"]).arg(program);
    command
}

fn read_all(mut reader: BufReader<TcpStream>, worker: usize, sender: &Sender<(usize, Option<FromWorker>)>) {
    loop {
        // A line that is no message ends the process's part as its end does.
        let message = protocol::receive(&mut reader).ok().flatten();
        let is_end = message.is_none();
        if sender.send((worker, message)).is_err() || is_end {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_fails_is_a_fault_and_not_waited_for() {
        // Bound, but it does not listen: to accept from it fails at once and always will.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let (sender, messages) = channel();
        let mut fleet = Fleet::of_nobody(messages);
        let deadline = Instant::now() + Duration::from_millis(200);
        let fault = fleet.accept(&socket.into(), 1, "token", deadline, &sender).unwrap_err().to_string();
        assert!(fault.contains("the coordinator's listener"), "{fault}");
    }

    #[test]
    fn a_process_that_gives_way_is_scheduled_in_batches() {
        let policy = |give_way| {
            let output = command_of(Path::new("cat"), give_way).arg("/proc/self/stat").output().unwrap();
            let stat = String::from_utf8(output.stdout).unwrap();
            // proc_pid_stat(5): field 41, behind the name in parentheses.
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(policy(false), 0, "SCHED_OTHER");
        assert_eq!(policy(true), 3, "SCHED_BATCH; this test needs chrt, of util-linux");
    }
}
