//! What is sent to the listener for fronts: by strangers, and by one that knows the secret and misbehaves. The
//! handshake and the frames are written here a second time, from their description.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::node::{Node, PATIENCE};
use crate::{Place, earn, file, secret_of};

fn connect(place: &Place) -> UnixStream {
    let stream = UnixStream::connect(place.path("owner")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the other side closes; what it says before that is dropped.
fn is_closed(stream: &mut impl Read) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn tag(secret: &[u8], side: &[u8], nonces: [&[u8]; 2]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).unwrap();
    for part in [side, &2u16.to_le_bytes(), nonces[0], nonces[1]] {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// A link of somebody who knows the secret.
fn link(place: &Place) -> UnixStream {
    let (mut stream, secret) = (connect(place), secret_of(place));
    let own = [7; 32];
    stream.write_all(&[&b"MEEDLINK\x02\x00"[..], &own].concat()).unwrap();
    let mut answer = [0; 8 + 2 + 32 + 32];
    stream.read_exact(&mut answer).unwrap();
    let nonces: [&[u8]; 2] = [&own, &answer[10..42]];
    assert_eq!(answer[42..], tag(&secret, b"owner", nonces));
    stream.write_all(&tag(&secret, b"front", nonces)).unwrap();
    let mut accepted = [0];
    stream.read_exact(&mut accepted).unwrap();
    assert_eq!(accepted, [1]);
    stream
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..], &crc32c::crc32c(payload).to_le_bytes(), payload].concat()
}

#[test]
fn garbage_closes_the_connection_and_nothing_else() {
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&[]);
    let mut client = front.client();
    let check = |client: &mut crate::node::Client, key: &str| {
        assert_eq!(earn(client, "m-1", key).unwrap().status, 201, "{key}");
    };
    // Strangers: noise, another version, a good hello with a wrong proof, HTTP.
    let hello = [&b"MEEDLINK\x02\x00"[..], &[7; 32]].concat();
    let newer = [&b"MEEDLINK\x63\x00"[..], &[7; 32]].concat();
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (number, bytes) in [noise, newer, [hello, vec![0; 32]].concat()].iter().enumerate() {
        let mut stream = connect(&place);
        // It may close while we still write.
        let _ = stream.write_all(bytes);
        assert!(is_closed(&mut stream), "stranger {number}");
        check(&mut client, &format!("stranger-{number}"));
    }
    let mut stream = connect(&place);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: owner.example.com\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.starts_with("HTTP/1.1 400") && text.contains("internal listener"), "{text}");
    // One that knows the secret: a frame too long, damaged, or of no message; a message that ends early; a command
    // that is the node's own (SETTLE), and a window without requests.
    let mut damaged = frame(b"\x00\x08");
    damaged[9] ^= 1;
    let settle = b"\x01\x00\x00\x01\x01\x00\x01\x00\x0b\x01\x07defaultm-\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0e";
    let cases: [(&str, Vec<u8>); 6] = [
        ("long", [&u32::MAX.to_le_bytes()[..], &[0; 4]].concat()),
        ("damaged", damaged),
        ("unknown", frame(b"\x00\xff")),
        ("cut", frame(b"\x01\x00\x00\x02\x07def")),
        ("settle", frame(settle)),
        ("empty", frame(b"\x01\x00\x00\x01\x00")),
    ];
    for (name, bytes) in cases {
        let mut stream = link(&place);
        stream.write_all(&bytes).unwrap();
        assert!(is_closed(&mut stream), "{name}");
        check(&mut client, name);
    }
    let page = owner.metrics();
    assert!(page.lines().any(|line| line == "meed_fronts_refused_total 4"), "{page}");
    front.stop();
    owner.stop();
}

#[test]
fn a_front_that_takes_no_answers_is_not_read_and_harms_nobody() {
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&[]);
    let mut greedy = link(&place);
    greedy.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // Questions after the programs, in frames of a thousand, with a deadline far away.
    let ask = [&b"\x01\x00"[..], &[0xfe, 0xff, 0xff, 0xff, 0x0f], b"\x07"].concat();
    let bytes = frame(&ask.repeat(1_000));
    let mut written = 0;
    let error = loop {
        match greedy.write(&bytes[written % bytes.len()..]) {
            Ok(count) => written += count,
            Err(error) => break error,
        }
        assert!(written < 64 << 20, "it reads without end from one that takes no answers");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    println!("{written} bytes were taken");
    let mut client = front.client();
    for n in 0..50 {
        assert_eq!(earn(&mut client, "m-1", &format!("k-{n}")).unwrap().status, 201);
    }
    drop(greedy);
    front.stop();
    owner.stop();
}

#[test]
fn connections_of_fronts_are_bounded_and_a_link_that_stands_is_not_touched() {
    /// As the owner has it.
    const FRONTS_MAX: usize = 1_024;
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&[]);
    assert_eq!(earn(&mut front.client(), "m-1", "before").unwrap().status, 201);
    // The front's links have some of the places, so these are too many.
    let silent: Vec<UnixStream> = (0..FRONTS_MAX).map(|_| connect(&place)).collect();
    crate::wait::eventually("too many are refused", || owner.logged().contains("there are too many connections"));
    assert_eq!(earn(&mut front.client(), "m-1", "meanwhile").unwrap().status, 201);
    drop(silent);
    let late = place.front(&[]);
    assert_eq!(earn(&mut late.client(), "m-1", "after").unwrap().status, 201);
    late.stop();
    front.stop();
    owner.stop();
}

#[test]
fn the_socket_and_its_secret_are_the_owners_alone_and_a_stale_socket_is_replaced() {
    let place = Place::new();
    let owner = place.owner();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let secret_file = place.path("owner.secret");
    assert_eq!((mode(place.path("owner")), mode(secret_file.clone())), (0o600, 0o600));
    let secret = secret_of(&place);
    // Another owner at the same socket is refused while this one lives.
    let (data, door) = (place.path("other"), place.door());
    let serve = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--owner-listen", &door, "--data"];
    let (code, text) = crate::node::run(&[&serve[..], &[data.to_str().unwrap()]].concat());
    assert!(code == Some(1) && text.contains("cannot listen for fronts"), "{code:?} {text}");
    // Killed, it leaves its socket behind.
    drop(owner);
    assert!(place.path("owner").exists());
    let owner = place.owner();
    assert_eq!(secret_of(&place), secret, "a secret is made once");
    let front = place.front(&[]);
    assert_eq!(earn(&mut front.client(), "m-1", "k").unwrap().status, 201);
    front.stop();
    owner.stop();
    assert!(!place.path("owner").exists(), "stopped, it takes its socket along");
}

#[test]
fn over_tcp_both_sides_need_the_secret() {
    let place = Place::new();
    let secret = file(&place, "shared");
    let owner = Node::start(&place.path("data"), &["--owner-listen", "127.0.0.1:0", "--owner-secret", &secret]);
    let door = owner.announced("fronts on ");
    let front = Node::start(&place.path("front"), &["--front-of", &door, "--owner-secret", &secret]);
    assert_eq!(earn(&mut front.client(), "m-1", "k").unwrap().status, 201);
    let mut silent = TcpStream::connect(door.strip_prefix("http://").unwrap()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(is_closed(&mut silent), "one that says nothing is not kept");
    front.stop();
    owner.stop();
}
