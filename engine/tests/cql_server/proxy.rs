//! Between the driver and the server: answers that do not come, or say something else, and how often was asked.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

/// Version 4 of the protocol: version, flags, stream, opcode, length.
const HEAD_BYTES: usize = 9;
const ERROR: u8 = 0x00;
const EXECUTE: u8 = 0x0a;
/// No pause before something is asked again is shorter.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// What happens to the next statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The server does not get it, and is said to have timed out: a driver that follows its usual policy asks again.
    TimedOut,
    /// It is carried out, and its answer does not come.
    AnswerLost,
}

#[derive(Debug, Default)]
struct Seen {
    fault: Option<Fault>,
    /// The prepared statement that the fault met, and when it was asked.
    met: Option<(Vec<u8>, Vec<Instant>)>,
    /// Streams whose answer is lost.
    lost: BTreeSet<[u8; 2]>,
}

impl Seen {
    /// A statement is asked; the fault that meets it.
    fn asked(&mut self, id: &[u8]) -> Option<Fault> {
        match &mut self.met {
            Some((met, times)) if met == id => times.push(Instant::now()),
            Some(_) => {}
            None if self.fault.is_some() => self.met = Some((id.to_owned(), vec![Instant::now()])),
            None => {}
        }
        self.fault.take()
    }
}

struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Proxy {
    fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::default());
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let answers = Arc::new(Mutex::new(client.try_clone().unwrap()));
                let (there, back) = (Arc::clone(&shared), Arc::clone(&shared));
                let (to_server, to_client) = (server.try_clone().unwrap(), Arc::clone(&answers));
                std::thread::spawn(move || requests(client, to_server, &answers, &there));
                std::thread::spawn(move || carry_answers(server, &to_client, &back));
            }
        });
        Self { address, seen }
    }

    fn fail_next(&self, fault: Fault) {
        *self.seen.lock().unwrap() = Seen { fault: Some(fault), ..Seen::default() };
    }

    /// When the statement was asked that the fault met.
    fn times(&self) -> Vec<Instant> {
        self.seen.lock().unwrap().met.as_ref().unwrap().1.clone()
    }
}

fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEAD_BYTES];
    from.read_exact(&mut frame).ok()?;
    let length = u32::from_be_bytes(frame[5..].try_into().unwrap()) as usize;
    frame.resize(HEAD_BYTES + length, 0);
    from.read_exact(&mut frame[HEAD_BYTES..]).ok()?;
    Some(frame)
}

fn requests(mut client: TcpStream, mut server: TcpStream, answers: &Mutex<TcpStream>, seen: &Mutex<Seen>) {
    while let Some(frame) = frame(&mut client) {
        let stream: [u8; 2] = frame[2..4].try_into().unwrap();
        if frame[4] == EXECUTE {
            let body = &frame[HEAD_BYTES..];
            let id = &body[2..2 + usize::from(u16::from_be_bytes([body[0], body[1]]))];
            let mut seen = seen.lock().unwrap();
            match seen.asked(id) {
                Some(Fault::TimedOut) => {
                    answers.lock().unwrap().write_all(&read_timeout(stream)).unwrap();
                    continue;
                }
                Some(Fault::AnswerLost) => drop(seen.lost.insert(stream)),
                None => {}
            }
        }
        if server.write_all(&frame).is_err() {
            break;
        }
    }
    // The other direction ends with it.
    let _ = server.shutdown(Shutdown::Both);
}

fn carry_answers(mut server: TcpStream, client: &Mutex<TcpStream>, seen: &Mutex<Seen>) {
    while let Some(frame) = frame(&mut server) {
        let stream: [u8; 2] = frame[2..4].try_into().unwrap();
        if !seen.lock().unwrap().lost.remove(&stream) && client.lock().unwrap().write_all(&frame).is_err() {
            break;
        }
    }
    // As above.
    let _ = client.lock().unwrap().shutdown(Shutdown::Both);
}

/// A read that timed out at consistency ONE though one of one replicas answered: after it the usual policy of drivers
/// asks again, whatever the statement.
fn read_timeout(stream: [u8; 2]) -> Vec<u8> {
    let body = [&[0, 0, 0x12, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0]].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0x84, 0, stream[0], stream[1], ERROR][..], &length, &body].concat()
}

/// A statement that the driver asked again by itself would be refused by its own first try, and look like one of an
/// owner that has lost its shard.
#[test]
fn the_driver_asks_once_and_the_journal_asks_again() {
    let real = config("asked_once");
    let proxy = Proxy::start(real.hosts[0].clone());
    let timeout = Duration::from_secs(1);
    let config = CqlConfig { hosts: vec![proxy.address.to_string()], timeout, bucket_bytes: 1 << 20, ..real };
    let cql = Cql::connect(&config).unwrap();
    open_keyspace(&cql, &config, Some(2)).unwrap();
    let mut owner = own(&cql, &config);
    owner.append(&cql, 1, "first").unwrap();
    for (sequence, fault, not_before) in [(2, Fault::TimedOut, PAUSE_MIN), (3, Fault::AnswerLost, timeout)] {
        proxy.fail_next(fault);
        owner.append(&cql, sequence, "again").unwrap();
        let times = proxy.times();
        assert_eq!(times.len(), 2, "{fault:?}");
        assert!(times[1] - times[0] >= not_before, "{fault:?}: again after {:?}", times[1] - times[0]);
    }
    let all = [(1, "first"), (2, "again"), (3, "again")].map(|(sequence, text)| (sequence, text.to_owned()));
    assert_eq!(owner.all(0), all);
    cql.close();
}
