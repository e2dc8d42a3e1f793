//! The front end seen from a socket: raw bytes in, raw bytes out.
#![allow(clippy::unwrap_used)]

mod support;
mod waiting;

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use meed_gateway::config::{ByteSize, ListenAddress, OptionalAddress, Settings};
use meed_gateway::context::CHECK_STARTED;
use meed_gateway::server::Front;

use support::{Answer, Client, EARN, JSON, Server, eventually, get, post, settings};

#[test]
fn operations_routes_answer() {
    let server = Server::start(settings());
    let mut client = server.client();
    for path in ["/health", "/livez", "/health/live"] {
        assert_eq!(client.ask(get(path)).json()["status"], "ok");
    }
    let refused = client.ask(get("/readyz?verbose"));
    assert_eq!((refused.status, refused.problem()), (503, "not-ready".to_owned()));
    assert_eq!(refused.json()["check"], CHECK_STARTED);
    assert_eq!(refused.json()["checks"]["draining"], "ok");
    assert_eq!(refused.header("retry-after"), Some("1"));
    server.node().shared.set_check(CHECK_STARTED, Ok(()));
    let ready = client.ask(get("/health/ready?verbose"));
    assert_eq!((ready.status, &ready.json()["checks"][CHECK_STARTED]), (200, &"ok".into()));
    assert_eq!(client.ask(get("/readyz")).body, "{\"status\":\"ready\"}");
    assert_eq!(client.ask(get("/api/v1/version")).json()["name"], "meed");
    let meaning = client.ask(get("/problems/too-late"));
    assert_eq!((meaning.status, &meaning.json()["status"]), (200, &422.into()));
    assert_eq!(client.ask(get("/problems/nothing")).problem(), "not-found");
    assert_eq!(client.ask(get("/metrics")).problem(), "not-found", "metrics have their own listener");
    let business = client.ask(post(EARN, JSON, "{}"));
    assert_eq!((business.status, business.problem()), (503, "not-ready".to_owned()));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(settings());
    let mut client = server.client();
    let mut bytes = String::new();
    for index in 0..100 {
        let path = if index % 2 == 0 { "/livez" } else { "/nothing" };
        bytes += &format!("GET {path} HTTP/1.1\r\nHost: m\r\nRequest-Id: r{index}\r\n\r\n");
        bytes += &post(EARN, JSON, "{\"points\":1}");
    }
    client.send(&bytes);
    for index in 0..100 {
        let answer = client.answer();
        assert_eq!(answer.header("request-id"), Some(format!("r{index}").as_str()));
        assert_eq!(answer.status, if index % 2 == 0 { 200 } else { 404 });
        assert_eq!(client.answer().status, 503);
    }
}

#[test]
fn an_answer_is_not_held_back_for_a_half_sent_request() {
    let server = Server::start(settings());
    let mut client = server.client();
    let (first, rest) = ("GET /livez HTTP/1.1\r\nHost: m\r\n\r\nGET /li", "vez HTTP/1.1\r\nHost: m\r\n\r\n");
    assert_eq!(client.ask(first).status, 200);
    assert_eq!(client.ask(rest).status, 200);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let server = Server::start(settings());
    let mut client = server.client();
    client.send(post(EARN, JSON, "{}"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().status, 503);
    assert!(client.is_closed());
}

#[test]
fn vanishing_clients_leave_nothing_behind() {
    let server = Server::start(settings());
    let open = || meed_gateway::metrics::render(&server.node().shared.metrics);
    let pieces = [
        "",
        "GET /li",
        "POST /api/v1/batch HTTP/1.1\r\nHost: m\r\nContent-Length: 99\r\n\r\n{",
        "\x00\x01\x02\r\n\r\n",
    ];
    for piece in pieces {
        let mut client = server.client();
        client.send(piece);
        drop(client);
        let mut client = server.client();
        client.send(piece);
        client.stream.shutdown(Shutdown::Both).unwrap();
    }
    let mut client = server.client();
    assert_eq!(client.ask(get("/livez")).status, 200);
    eventually("connections are closed", || open().contains("\nmeed_connections_open 1\n"));
    assert!(open().contains("\nmeed_http_requests_in_flight 0\n"));
}

#[test]
fn slow_heads_and_silent_connections_are_closed() {
    let server = Server::start(Settings { head_timeout_ms: 50, idle_timeout_ms: 3_600_000, ..settings() });
    let mut silent = server.client();
    let mut slow = server.client();
    slow.send("GET /livez HTTP/1.1\r\nHo");
    let mut slow_again = server.client();
    assert_eq!(slow_again.ask(get("/livez")).status, 200);
    let mut idle = server.client();
    assert_eq!(idle.ask(get("/livez")).status, 200);
    slow_again.send("GET /liv");
    let late = slow.answer();
    assert_eq!((late.status, late.problem()), (408, "request-timeout".to_owned()));
    assert_eq!(late.header("connection"), Some("close"));
    assert!(silent.is_closed() && slow.is_closed() && slow_again.is_closed());
    assert_eq!(idle.ask(get("/livez")).status, 200, "an idle connection has its own limit");
}

#[test]
fn idle_connections_are_closed() {
    let server = Server::start(Settings { idle_timeout_ms: 50, ..settings() });
    let mut client = server.client();
    assert_eq!(client.ask(get("/livez")).status, 200);
    assert!(client.is_closed());
}

#[test]
fn slow_bodies_are_answered_408() {
    let server = Server::start(Settings { body_timeout_ms: 50, ..settings() });
    for start in [
        "Content-Length: 20\r\n\r\n{\"po",
        "Content-Length: 20\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\n{\"po\r\n",
    ] {
        let mut client = server.client();
        let answer = client.ask(format!("POST {EARN} HTTP/1.1\r\nHost: m\r\n{start}"));
        assert_eq!((answer.status, answer.problem()), (408, "request-timeout".to_owned()));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed());
    }
}

#[test]
fn large_heads_are_refused_with_a_reason() {
    let server = Server::start(settings());
    let long = format!("GET /livez HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "x".repeat(17 << 10));
    let many = format!("GET /livez HTTP/1.1\r\nHost: m\r\n{}\r\n", "X: y\r\n".repeat(100));
    let path = format!("GET /{} HTTP/1.1\r\nHost: m\r\n\r\n", "p".repeat(40 << 10));
    for head in [long, many, path] {
        let mut client = server.client();
        let answer = client.ask(&head);
        assert_eq!((answer.status, answer.problem()), (431, "headers-too-large".to_owned()));
        assert!(client.is_closed());
    }
    let most = format!("GET /livez HTTP/1.1\r\nHost: m\r\n{}\r\n", "X: y\r\n".repeat(99));
    assert_eq!(server.client().ask(most).status, 200);
    let long = format!("GET /livez HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "x".repeat(16_300));
    assert_eq!(server.client().ask(long).status, 200);
}

#[test]
fn malformed_heads_are_refused_with_a_reason() {
    let server = Server::start(settings());
    for head in [
        "GET / HTTP/9.9\r\n\r\n",
        "GET\r\n\r\n",
        "GET /livez HTTP/1.1\r\nbad header\r\n\r\n",
        "POST /livez HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let mut client = server.client();
        let answer = client.ask(head);
        assert_eq!((answer.status, answer.problem()), (400, "invalid-request".to_owned()), "{head}");
        assert_eq!(answer.json()["field"], "head");
        assert!(client.is_closed());
    }
}

#[test]
fn large_bodies_are_refused_by_length_and_by_count() {
    let server =
        Server::start(Settings { body_bytes: ByteSize(1024), batch_body_bytes: ByteSize(100_000), ..settings() });
    // By length: before the body, which is never sent.
    let mut client = server.client();
    let answer =
        client.ask(format!("POST {EARN} HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: 1025\r\n\r\n"));
    assert_eq!((answer.status, answer.problem()), (413, "payload-too-large".to_owned()));
    assert!(client.is_closed());
    // By count.
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let head = |path| format!("POST {path} HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut client = server.client();
    client.send(head(EARN) + &chunk);
    client.send("1\r\nx\r\n");
    assert_eq!(client.answer().status, 413);
    // Within: chunks, many reads, and a length.
    assert_eq!(server.client().ask(head(EARN) + &chunk + "0\r\n\r\n").status, 503);
    assert_eq!(server.client().ask(head("/api/v1/batch") + &chunk.repeat(90) + "0\r\n\r\n").status, 503);
    assert_eq!(server.client().ask(head("/api/v1/batch") + &chunk.repeat(98) + "0\r\n\r\n").status, 413);
    assert_eq!(server.client().ask(post(EARN, JSON, &"x".repeat(1024))).status, 503);
    assert_eq!(server.client().ask(post("/api/v1/batch", JSON, &"x".repeat(100_000))).status, 503);
    // A malformed chunk.
    let broken = server.client().ask(head(EARN) + "zz\r\n");
    assert_eq!((broken.status, broken.json()["field"].clone()), (400, "body".into()));
}

#[test]
fn a_client_that_goes_on_sending_is_not_reset() {
    let server = Server::start(Settings { body_bytes: ByteSize(1024), linger_ms: 60_000, ..settings() });
    let mut client = server.client();
    client.send(format!("POST {EARN} HTTP/1.1\r\nHost: m\r\nContent-Length: 900000\r\n\r\n{{"));
    assert_eq!(client.answer().status, 413);
    assert!(client.is_closed(), "the server sends no more");
    // It still reads: a reset could take the answer from a client that had not read it yet.
    for _ in 0..2_560 {
        client.send([b'x'; 4096]);
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn bodies_in_pieces_share_a_bounded_memory() {
    let server = Server::start(Settings { body_buffer_bytes: ByteSize(1 << 20), ..settings() });
    let begin = format!("POST /api/v1/batch HTTP/1.1\r\nHost: m\r\nContent-Length: {}\r\n\r\n{{", 700_000);
    let mut first = server.client();
    first.send(&begin);
    let in_flight =
        || meed_gateway::metrics::render(&server.node().shared.metrics).contains("\nmeed_http_requests_in_flight 1\n");
    eventually("the first body is begun", in_flight);
    let mut second = server.client();
    let answer = second.ask(&begin);
    assert_eq!((answer.status, answer.problem()), (503, "overloaded".to_owned()));
    first.send("x".repeat(699_999));
    assert_eq!(first.answer().problem(), "not-ready");
    let mut third = server.client();
    third.send(begin + &"x".repeat(699_999));
    assert_eq!(third.answer().problem(), "not-ready", "the memory was given back");
}

#[test]
fn a_refusal_for_lack_of_room_is_kept_for_a_moment() {
    const PAUSE_MS: u64 = 500;
    let bounded = Settings { body_buffer_bytes: ByteSize(1 << 20), overload_pause_ms: PAUSE_MS, ..settings() };
    let server = Server::start(bounded);
    let begin = "POST /api/v1/batch HTTP/1.1\r\nHost: m\r\nContent-Length: 2000000\r\n\r\n{";
    let (mut refused, mut other) = (server.client(), server.client());
    let began = Instant::now();
    refused.send(begin);
    assert_eq!(other.ask(get("/livez")).status, 200, "the same thread serves others meanwhile");
    assert_eq!(refused.answer().problem(), "overloaded");
    assert!(began.elapsed() >= Duration::from_millis(PAUSE_MS));
}

#[test]
fn methods_paths_and_types() {
    let server = Server::start(settings());
    let mut client = server.client();
    let wrong = client.ask(get(EARN));
    assert_eq!((wrong.status, wrong.problem()), (405, "method-not-allowed".to_owned()));
    assert_eq!(wrong.header("allow"), Some("POST"));
    let wrong = client.ask("DELETE /api/v1/accounts/a HTTP/1.1\r\nHost: m\r\n\r\n");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, PATCH, PUT"));
    for bad in ["%zz", "%4", "%ff"] {
        let answer = client.ask(get(&format!("/api/v1/points/{bad}/balance")));
        assert_eq!((answer.status, answer.json()["field"].clone()), (400, "path".into()));
    }
    assert_eq!(client.ask(get("/api/v2/version")).problem(), "not-found");
    let typed = |media: &str| post(EARN, &format!("Content-Type: {media}\r\n"), "{}");
    for accepted in ["application/json", "application/json; charset=utf-8"] {
        assert_eq!(client.ask(typed(accepted)).status, 503);
    }
    assert_eq!(client.ask(post(EARN, "", "{}")).status, 503, "no type is JSON");
    assert_eq!(client.ask(post(EARN, "Content-Type: text/plain\r\n", "")).status, 503, "no body has no type");
    for refused in ["text/plain", "application/json; charset=utf-16", "application/x-ndjson"] {
        let answer = client.ask(typed(refused));
        assert_eq!((answer.status, answer.problem()), (415, "unsupported-media-type".to_owned()));
        assert!(answer.json()["detail"].as_str().unwrap().contains("application/json"));
    }
    let lines = post("/api/v1/batch", "Content-Type: application/x-ndjson\r\n", "{}\n{}\n");
    assert_eq!(client.ask(lines).status, 503);
    let program = client.ask(post(EARN, "Program: a/b\r\n", "{}"));
    assert_eq!((program.status, program.json()["field"].clone()), (400, "Program".into()));
}

#[test]
fn a_request_names_one_host() {
    let server = Server::start(settings());
    let mut client = server.client();
    for hosts in ["", "Host: a\r\nHost: a\r\n"] {
        let answer = client.ask(format!("GET /livez HTTP/1.1\r\n{hosts}\r\n"));
        assert_eq!((answer.status, answer.problem()), (400, "invalid-request".to_owned()), "{hosts}");
        assert_eq!(answer.json()["field"], "Host");
    }
    assert_eq!(client.ask("GET /livez HTTP/1.0\r\n\r\n").status, 200);
}

#[test]
fn head_is_get_without_a_body() {
    let server = Server::start(settings());
    let mut client = server.client();
    client.send("HEAD /livez HTTP/1.1\r\nHost: m\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("15")));
    client.send("HEAD /nothing HTTP/1.1\r\nHost: m\r\n\r\n");
    assert_eq!(client.head().status, 404);
    assert_eq!(client.ask(get("/livez")).status, 200, "no body came between");
}

#[test]
fn every_answer_has_a_request_id() {
    let server = Server::start(settings());
    let mut client = server.client();
    let with = |id: &str| format!("GET /nothing HTTP/1.1\r\nHost: m\r\nRequest-Id: {id}\r\n\r\n");
    let echoed = client.ask(with("a \"quoted\\\" id"));
    assert_eq!(echoed.header("request-id"), Some("a \"quoted\\\" id"));
    assert_eq!(echoed.problem(), "not-found");
    let first = client.ask(with(&"x".repeat(129)));
    let second = client.ask(get("/livez"));
    let (first, second) = (first.header("request-id").unwrap(), second.header("request-id").unwrap());
    assert!(first.len() == 16 && second.len() == 16 && first != second);
}

#[test]
fn connections_beyond_the_cap_are_told_so() {
    let server = Server::start(Settings { max_connections: 2, linger_ms: 10_000, ..settings() });
    let mut kept = [server.client(), server.client()];
    for client in &mut kept {
        assert_eq!(client.ask(get("/livez")).status, 200);
    }
    let mut refused = server.client();
    let answer = refused.answer();
    assert_eq!((answer.status, answer.problem()), (503, "overloaded".to_owned()));
    assert_eq!((answer.header("retry-after"), answer.header("connection")), (Some("1"), Some("close")));
    assert!(refused.is_closed());
    let [first, mut second] = kept;
    drop(first);
    let place = || {
        let mut client = server.client();
        client.stream.write_all(get("/livez").as_bytes()).unwrap();
        client.answer().status == 200
    };
    eventually("the place is free again", place);
    assert_eq!(second.ask(get("/livez")).status, 200);
}

#[test]
fn refused_connections_do_not_linger_without_bound() {
    /// As a worker has it.
    const REFUSED_LINGERING_MAX: usize = 256;
    let server = Server::start(Settings { max_connections: 1, linger_ms: 60_000, ..settings() });
    let mut kept = server.client();
    assert_eq!(kept.ask(get("/livez")).status, 200);
    let refused = || {
        let mut client = server.client();
        assert_eq!(client.answer().problem(), "overloaded");
        client
    };
    // They have their answer and do not close: the worker reads what they may still send, so that it is not lost.
    let _lingering: Vec<Client> = (0..REFUSED_LINGERING_MAX).map(|_| refused()).collect();
    let mut beyond = refused();
    // This one has its answer too, and nobody reads from it: what it sends is refused by the system.
    beyond.send("x");
    eventually("it is gone", || beyond.stream.take_error().unwrap().is_some());
    assert_eq!(kept.ask(get("/livez")).status, 200);
}

#[test]
fn connections_beyond_the_cap_of_an_address_are_told_so() {
    let server = Server::start(Settings { max_connections_per_address: 1, ..settings() });
    let mut kept = server.client();
    assert_eq!(kept.ask(get("/livez")).status, 200);
    let mut refused = server.client();
    let answer = refused.answer();
    assert_eq!(answer.problem(), "overloaded");
    assert!(answer.body.contains("from this address"));
    assert_eq!(kept.ask(get("/livez")).status, 200);
}

#[test]
fn requests_beyond_the_rate_are_told_so() {
    let settings = Settings { requests_per_second_per_address: 1, request_burst_per_address: 2, ..settings() };
    let server = Server::start(settings);
    let mut client = server.client();
    let statuses: Vec<Answer> = (0..3).map(|_| client.ask(post(EARN, JSON, "{}"))).collect();
    assert_eq!(statuses[1].status, 503);
    assert_eq!((statuses[2].status, statuses[2].problem()), (429, "rate-limited".to_owned()));
    assert_eq!(statuses[2].header("retry-after"), Some("1"));
    assert_eq!(client.ask(get("/livez")).status, 200, "health is not counted");
}

#[test]
fn draining_finishes_what_runs() {
    let server = Server::start(settings());
    server.node().shared.set_check(CHECK_STARTED, Ok(()));
    let mut idle = server.client();
    assert_eq!(idle.ask(get("/livez")).status, 200);
    let mut running = server.client();
    running.send(format!("POST {EARN} HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n{{"));
    let page = || meed_gateway::metrics::render(&server.node().shared.metrics);
    eventually("a request runs", || page().contains("\nmeed_http_requests_in_flight 1\n"));
    let mut halfway = server.client();
    assert_eq!(halfway.ask(get("/livez")).status, 200);
    halfway.send("GET /read");
    // The only worker serves sockets in the order in which something came: it has read that part before
    // it accepts this one.
    assert_eq!(server.client().ask(get("/livez")).status, 200);
    server.node().shared.drain();
    assert!(idle.is_closed());
    halfway.send("yz HTTP/1.1\r\nHost: m\r\n\r\n");
    let refused = halfway.answer();
    assert_eq!((refused.status, refused.problem()), (503, "draining".to_owned()));
    assert_eq!(refused.header("connection"), Some("close"));
    running.send("}");
    let answer = running.answer();
    assert_eq!((answer.status, answer.problem()), (503, "not-ready".to_owned()));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn draining_has_an_end() {
    let server = Server::start(Settings { drain_timeout_ms: 50, ..settings() });
    let mut stuck = server.client();
    stuck.send(format!("POST {EARN} HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n{{"));
    let page = || meed_gateway::metrics::render(&server.node().shared.metrics);
    eventually("a request runs", || page().contains("\nmeed_http_requests_in_flight 1\n"));
    drop(server);
    assert!(stuck.is_closed());
}

#[test]
fn metrics_have_their_own_listener() {
    let metrics_listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    let server = Server::start(Settings { metrics_listen, workers: 2, ..settings() });
    for _ in 0..8 {
        assert_eq!(server.client().ask(get("/nothing")).status, 404);
        assert_eq!(server.client().ask(post("/api/v1/points/secret-member/earn", JSON, "{}")).status, 503);
    }
    let mut scraper = Client::connect(server.node().metrics_address.unwrap());
    let page = scraper.ask(get("/metrics"));
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "meed_http_requests_total{route=\"unmatched\",method=\"any\",code=\"404\"} 8",
        "meed_http_requests_total{route=\"/api/v1/points/{account}/earn\",method=\"POST\",code=\"503\"} 8",
        "meed_shed_requests_total{reason=\"not_ready\"} 8",
    ] {
        assert!(page.body.contains(line), "{line}\n{}", page.body);
    }
    assert!(!page.body.contains("secret-member"));
    assert_eq!(scraper.ask(get("/livez")).status, 200);
    assert_eq!(scraper.ask(get("/else")).status, 404);
    assert_eq!(scraper.ask(post("/metrics", "", "")).status, 405);
}

#[test]
fn scrapers_are_served_so_many_at_once() {
    /// As the listener has it.
    const METRICS_CONNECTIONS_MAX: usize = 64;
    let metrics_listen = OptionalAddress(Some("127.0.0.1:0".parse().unwrap()));
    let server = Server::start(Settings { metrics_listen, ..settings() });
    let connect = || Client::connect(server.node().metrics_address.unwrap());
    let mut served: Vec<Client> = (0..METRICS_CONNECTIONS_MAX).map(|_| connect()).collect();
    let serve = |served: &mut Vec<Client>| {
        served.iter_mut().for_each(|client| assert_eq!(client.ask(get("/livez")).status, 200));
    };
    serve(&mut served);
    let mut beyond = connect();
    beyond.send(get("/livez"));
    // One thread serves them all, so it has had its turn when these have their answers.
    serve(&mut served);
    beyond.stream.set_nonblocking(true).unwrap();
    assert_eq!(beyond.stream.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    beyond.stream.set_nonblocking(false).unwrap();
    served.pop();
    assert_eq!(beyond.answer().status, 200, "the place is free again");
}

#[test]
fn a_second_node_does_not_share_the_port() {
    let server = Server::start(settings());
    let again = Settings { listen: ListenAddress(server.node().address), ..settings() };
    let error = Front::open(again).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}
