//! A server that answers every request from memory with the same bytes, on one thread: what is left is the cost of
//! whoever asks. `taskset -c 0 target/release/examples/memory_stub 127.0.0.1:8081`

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::event::{Timespec, epoll};

const BODY: &str = r#"{"transaction_id":"0","account_id":"a","type":"EARN","points":1,"available_points":1}"#;
const EVENTS: usize = 256;
const LISTENER: u64 = u64::MAX;

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    println!("listening on http://{}", listener.local_addr()?);
    let padding = " ".repeat(345 - BODY.len());
    let answer =
        format!("HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 345\r\n\r\n{BODY}{padding}");
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&queue, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    let mut buffer = vec![0; 64 << 10];
    loop {
        events.clear();
        epoll::wait(&queue, rustix::buffer::spare_capacity(&mut events), None::<&Timespec>)?;
        for event in &events {
            if event.data.u64() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let number = epoll::EventData::new_u64(connections.len() as u64);
                    epoll::add(&queue, &stream, number, epoll::EventFlags::IN)?;
                    connections.push(Some(stream));
                }
                continue;
            }
            let slot = &mut connections[event.data.u64() as usize];
            let Some(stream) = slot else { continue };
            match stream.read(&mut buffer) {
                // A request is small, and one is under way: it comes in one piece.
                Ok(read) if read > 0 && stream.write_all(answer.as_bytes()).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => *slot = None,
            }
        }
    }
}
