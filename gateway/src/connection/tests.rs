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
