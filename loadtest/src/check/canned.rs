//! A server for tests that answers by the path alone.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use crate::http::Server;

/// Answers every request by 200 and a body; where there is none, the connection ends.
pub(crate) fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || converse(stream.unwrap(), &*answer));
        }
    });
    Server { address, host: address.to_string(), program: None, authorization: None }
}

/// Until the client goes; its questions have no body.
fn converse(mut stream: TcpStream, answer: &dyn Fn(&str) -> Option<String>) -> Option<()> {
    let (mut unread, mut buffer) = (Vec::new(), [0; 4 << 10]);
    loop {
        while let Some(end) = unread.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8(unread.drain(..end + 4).collect()).unwrap();
            let body = answer(head.split(' ').nth(1).unwrap())?;
            let text = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).ok()?;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => unread.extend_from_slice(&buffer[..read]),
        }
    }
}
