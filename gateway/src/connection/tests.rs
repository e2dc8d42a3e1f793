//! What hyper is set to.

#![allow(clippy::unwrap_used)]

use super::*;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_client_that_closes_its_side_waits_for_its_answer() {
    let (mut client, server) = tokio::io::duplex(4096);
    let decided = Notify::new();
    let service = service_fn(async |_: Request<Incoming>| {
        decided.notified().await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
    });
    let serve = builder(16 << 10).serve_connection(TokioIo::new(server), service);
    let ask = async {
        client.write_all(b"GET / HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        // The server runs on this thread: it has seen the end by then.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        decided.notify_one();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answer, served) = tokio::join!(ask, serve);
    assert!(answer.ends_with("\r\n\r\ndone"), "{answer}");
    served.unwrap();
}

#[test]
fn a_row_of_accept_faults_is_told_once_and_so_is_its_end() {
    let (mut faults, begin) = (AcceptFaults::default(), Instant::now());
    let at = |seconds| begin + Duration::from_secs(seconds);
    assert!(!faults.is_over(at(0)), "there was none");
    let told = (0..60).filter(|second| faults.begins(at(*second)) || faults.is_over(at(*second))).count();
    assert_eq!(told, 1, "connections that are accepted in between do not end it");
    assert!(!faults.is_over(at(60)));
    assert!(faults.is_over(at(69)) && !faults.is_over(at(70)));
    assert!(faults.begins(at(71)));
    assert!(faults.begins(at(200)), "nobody connected meanwhile, and it is another row");
}
