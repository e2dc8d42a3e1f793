//! The stream of events through a front.

use std::fmt::Write as _;

use super::node::Client;
use super::{Place, readiness};
use crate::wait::eventually;

/// More than the system buffers for a socket that nobody reads.
fn fill(client: &mut Client) {
    let description = "x".repeat(480);
    for batch in 0..6 {
        let mut lines = String::new();
        for number in 0..4_000 {
            writeln!(lines, r#"{{"op":"earn","account":"m-{}","points":1,"reference_id":"{batch}-{number}","description":"{description}"}}"#, number % 50).unwrap();
        }
        let answer = client.ask("POST", "/api/v1/batch", "Content-Type: application/x-ndjson\r\n", &lines);
        assert_eq!(answer.status, 207);
    }
}

#[test]
fn a_read_whose_owner_is_killed_does_not_look_complete() {
    let place = Place::new();
    let owner = place.owner();
    let front = place.front(&[]);
    fill(&mut front.client());
    let mut reader = front.client();
    reader.send("GET", "/api/v1/events", "", "").unwrap();
    assert_eq!(reader.receive_head().unwrap().status, 200);
    // Dropped, it is killed.
    drop(owner);
    eventually("the front notices", || readiness(&front).0 == 503);
    while let Ok(chunk) = reader.receive_chunk() {
        assert!(!chunk.is_empty(), "a part looks like all");
    }
    front.stop();
}
