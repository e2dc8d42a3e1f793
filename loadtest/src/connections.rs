//! Many HTTP/1.1 connections on one thread, one request under way on each: epoll, no copies, one read and one write a
//! request. It knows bytes and sockets, nothing of what is asked.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::answer::{self, Answer};
use crate::machine;

/// What one read takes at most. Longer answers are put together from several.
const READ_BYTES: usize = 256 << 10;
/// Events that one turn handles.
const EVENTS_PER_TURN: usize = 512;

/// Why a connection, or the request on it, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breach {
    /// It was not made, and this is what the operating system says.
    Connect(Errno),
    /// The request could not be written.
    Write,
    /// The server reset it.
    Reset,
    /// The server closed it without an answer.
    Closed,
    /// What came is no HTTP.
    Malformed,
}

impl Breach {
    /// The kind of error under which it is counted.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Write => "write",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
        }
    }
}

/// The reason for a person, with what to change where that is known.
impl std::fmt::Display for Breach {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => {
                write!(formatter, "{error}")?;
                match *error {
                    Errno::CONNREFUSED => write!(formatter, "; nobody listens there: is the server started?"),
                    Errno::MFILE | Errno::NFILE => write!(formatter, "; {}", machine::FILES_FIX),
                    Errno::ADDRNOTAVAIL | Errno::ADDRINUSE => write!(
                        formatter,
                        "; the source address is none of this machine's, or all its ports are taken: {}",
                        machine::PORTS_FIX
                    ),
                    _ => Ok(()),
                }
            }
            Self::Write => write!(formatter, "the request could not be written"),
            Self::Reset => write!(formatter, "the server reset the connection"),
            Self::Closed => write!(formatter, "the server closed the connection without an answer"),
            Self::Malformed => write!(formatter, "what the server sent is no HTTP"),
        }
    }
}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// It is open and free.
    Connected,
    /// The answer to the request under way; free again unless it says that it closes.
    Answer(Answer<'a>),
    /// It is closed, for this reason.
    Broken(Breach),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Connecting,
    Free,
    Busy,
}

#[derive(Debug)]
struct Slot {
    stream: Option<TcpStream>,
    state: State,
    /// The begin of an answer that is not whole, or the rest of a request that did not go out; almost always nothing.
    partial: Vec<u8>,
    unsent: Vec<u8>,
}

/// Connections by number, from 0.
pub(crate) struct Connections {
    epoll: OwnedFd,
    slots: Vec<Slot>,
    targets: Vec<SocketAddr>,
    sources: Vec<IpAddr>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

fn flags(wants_write: bool) -> epoll::EventFlags {
    if wants_write { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN }
}

impl Connections {
    /// Room for `count` connections, spread evenly over `targets` and over the local addresses `sources` (none: the
    /// kernel's choice).
    pub(crate) fn new(count: usize, targets: Vec<SocketAddr>, sources: Vec<IpAddr>) -> std::io::Result<Self> {
        let empty = || Slot { stream: None, state: State::Absent, partial: Vec::new(), unsent: Vec::new() };
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: std::iter::repeat_with(empty).take(count).collect(),
            targets,
            sources,
            buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS_PER_TURN),
        })
    }

    /// Begins to make a connection; its event comes later.
    pub(crate) fn connect(&mut self, slot: usize) -> Result<(), Breach> {
        let target = self.targets[slot % self.targets.len()];
        // Neighbouring connections to one target take different sources.
        let source = self.sources.get(slot / self.targets.len() % self.sources.len().max(1)).copied();
        let stream = open(target, source).map_err(|error| Breach::Connect(errno(&error)))?;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(slot as u64), flags(true))
            .map_err(Breach::Connect)?;
        let room = &mut self.slots[slot];
        room.stream = Some(stream);
        room.state = State::Connecting;
        room.partial.clear();
        room.unsent.clear();
        Ok(())
    }

    /// Sends a request on a free connection.
    pub(crate) fn send(&mut self, slot: usize, request: &[u8]) -> Result<(), Breach> {
        let room = &mut self.slots[slot];
        let Some(stream) = room.stream.as_mut().filter(|_| room.state == State::Free) else {
            return Err(Breach::Closed);
        };
        room.state = State::Busy;
        let written = match stream.write(request) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.close(slot);
                return Err(Breach::Write);
            }
        };
        if written < request.len() {
            room.unsent = request[written..].to_vec();
            let data = epoll::EventData::new_u64(slot as u64);
            if epoll::modify(&self.epoll, &*stream, data, flags(true)).is_err() {
                self.close(slot);
                return Err(Breach::Write);
            }
        }
        Ok(())
    }

    /// Closes a connection at once; no event comes of it any more.
    pub(crate) fn close(&mut self, slot: usize) {
        let room = &mut self.slots[slot];
        // Closing the socket takes it out of epoll.
        room.stream = None;
        room.state = State::Absent;
        room.partial = Vec::new();
        room.unsent = Vec::new();
    }

    /// Waits for events, at most so long, and hands each over.
    pub(crate) fn poll(&mut self, wait: Duration, mut handle: impl FnMut(usize, Event<'_>)) -> std::io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        // Nanoseconds: what epoll_wait counts in milliseconds is too coarse for a schedule.
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let slot = event.data.u64() as usize;
            let flags = event.flags;
            self.turn(slot, flags, &mut handle);
        }
        self.events = events;
        Ok(())
    }

    fn turn(&mut self, slot: usize, flags: epoll::EventFlags, handle: &mut impl FnMut(usize, Event<'_>)) {
        if self.slots[slot].state == State::Connecting {
            return self.turn_connecting(slot, flags, handle);
        }
        if flags.contains(epoll::EventFlags::OUT) && !self.slots[slot].unsent.is_empty() && !self.send_rest(slot) {
            self.close(slot);
            return handle(slot, Event::Broken(Breach::Write));
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.receive(slot, handle);
        }
    }

    fn turn_connecting(&mut self, slot: usize, flags: epoll::EventFlags, handle: &mut impl FnMut(usize, Event<'_>)) {
        let room = &mut self.slots[slot];
        let Some(stream) = room.stream.as_ref() else { return };
        let data = epoll::EventData::new_u64(slot as u64);
        let made = match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(Breach::Connect(errno(&error))),
            Ok(None) if flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP) => Err(Breach::Closed),
            Ok(None) => epoll::modify(&self.epoll, stream, data, self::flags(false)).map_err(Breach::Connect),
        };
        if let Err(breach) = made {
            self.close(slot);
            return handle(slot, Event::Broken(breach));
        }
        room.state = State::Free;
        handle(slot, Event::Connected);
    }

    /// Whether the connection is still good.
    fn send_rest(&mut self, slot: usize) -> bool {
        let room = &mut self.slots[slot];
        let Some(stream) = room.stream.as_mut() else { return true };
        match stream.write(&room.unsent) {
            Ok(written) => {
                room.unsent.drain(..written);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
        let data = epoll::EventData::new_u64(slot as u64);
        !room.unsent.is_empty() || epoll::modify(&self.epoll, &*stream, data, flags(false)).is_ok()
    }

    fn receive(&mut self, slot: usize, handle: &mut impl FnMut(usize, Event<'_>)) {
        let room = &mut self.slots[slot];
        let Some(stream) = room.stream.as_mut() else { return };
        let read = match stream.read(&mut self.buffer) {
            Ok(0) => Err(Breach::Closed),
            Ok(read) => Ok(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => Err(Breach::Reset),
        };
        let outcome = match read {
            Err(breach) => Err(breach),
            // Nobody asked: an answer to a request that was given up, or to nothing.
            Ok(_) if room.state != State::Busy => Err(Breach::Malformed),
            Ok(read) if room.partial.is_empty() => match answer::take(&self.buffer[..read]) {
                Ok(Some(answer)) if answer.length == read => {
                    room.state = State::Free;
                    let closes = answer.closes;
                    handle(slot, Event::Answer(answer));
                    if closes {
                        self.close(slot);
                    }
                    return;
                }
                Ok(None) => {
                    room.partial.extend_from_slice(&self.buffer[..read]);
                    return;
                }
                _ => Err(Breach::Malformed),
            },
            Ok(read) => {
                room.partial.extend_from_slice(&self.buffer[..read]);
                Ok(())
            }
        };
        match outcome {
            Ok(()) => self.take_partial(slot, handle),
            Err(breach) => {
                self.close(slot);
                handle(slot, Event::Broken(breach));
            }
        }
    }

    fn take_partial(&mut self, slot: usize, handle: &mut impl FnMut(usize, Event<'_>)) {
        let partial = std::mem::take(&mut self.slots[slot].partial);
        match answer::take(&partial) {
            Ok(Some(answer)) if answer.length == partial.len() => {
                self.slots[slot].state = State::Free;
                let closes = answer.closes;
                handle(slot, Event::Answer(answer));
                if closes {
                    self.close(slot);
                }
            }
            Ok(None) => self.slots[slot].partial = partial,
            _ => {
                self.close(slot);
                handle(slot, Event::Broken(Breach::Malformed));
            }
        }
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Connections").field("count", &self.slots.len()).finish_non_exhaustive()
    }
}

/// The number of an error of a system call; of one without, that of an unspecific failure.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A socket on its way to `target`.
fn open(target: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The kernel chooses the port when the target is known too, so one port serves many targets. It is a promise
        // to bind to no port; where the kernel does not know it, binding works as it always did.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if errno(&error) == Errno::INPROGRESS => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_does_not_allow_is_said_with_the_fix() {
        for (error, part) in [
            (Errno::CONNREFUSED, "nobody listens there"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "sysctl fs.nr_open"),
            (Errno::ADDRNOTAVAIL, "ip_local_port_range"),
            (Errno::ADDRINUSE, "--sources"),
        ] {
            let text = Breach::Connect(error).to_string();
            assert!(text.contains(part) && text.contains(&error.to_string()), "{text}");
        }
    }
}
