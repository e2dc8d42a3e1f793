//! Requests that a busy worker leaves in their sockets.

use std::time::Instant;

use meed_gateway::config::Settings;

use super::support::{PATIENCE, Server, eventually, get, settings};

#[test]
fn what_a_busy_worker_does_not_read_yet_waits_in_its_socket() {
    let server = Server::start(Settings { requests_per_worker: 1, ..settings() });
    let waiting = || meed_gateway::metrics::render(&server.node().shared.metrics).contains("connections_waiting 1\n");
    // A request that takes longer keeps nobody out, so on a slow machine the other may find room at once: then again.
    let has_waited = (0..100).any(|_| {
        let (mut half, mut other) = (server.client(), server.client());
        half.send("GET /li");
        other.send(get("/livez"));
        let (mut seen, began) = (false, Instant::now());
        other.stream.set_nonblocking(true).unwrap();
        while other.stream.peek(&mut [0]).is_err() {
            assert!(began.elapsed() < PATIENCE, "no answer");
            seen |= waiting();
        }
        other.stream.set_nonblocking(false).unwrap();
        assert_eq!(other.answer().status, 200, "though the half is still there");
        assert_eq!(half.ask("vez HTTP/1.1\r\nHost: m\r\n\r\n").status, 200);
        seen
    });
    assert!(has_waited);
}

#[test]
fn what_waits_in_its_socket_is_answered_when_the_node_stops() {
    let server = Server::start(Settings { requests_per_worker: 1, drain_timeout_ms: 5_000, ..settings() });
    let connected = || {
        let mut client = server.client();
        assert_eq!(client.ask(get("/livez")).status, 200);
        client
    };
    // Each of them keeps the next out for a moment: together for longer than the node takes to stop.
    let mut halves: Vec<_> = (0..40).map(|_| connected()).collect();
    let mut other = connected();
    halves.iter_mut().for_each(|half| half.send("GET /li"));
    other.send(get("/livez"));
    let page = || meed_gateway::metrics::render(&server.node().shared.metrics);
    eventually("requests wait", || !page().contains("connections_waiting 0\n"));
    server.node().shared.drain();
    assert_eq!(other.answer().status, 200);
    assert!(other.is_closed());
    for half in &mut halves {
        assert_eq!(half.ask("vez HTTP/1.1\r\nHost: m\r\n\r\n").status, 200);
    }
}
