//! The bare server of the comparison: the threading, the listeners and the HTTP library of `meed`, no logic, no disk.
//!
//! It reads the whole body and answers every request alike, with as many bytes as `meed` would.

use std::convert::Infallible;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use meed_benches::flags::Flags;
use meed_benches::listener::listen;
use tokio::task::LocalSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "bare_hyper [--listen HOST:PORT] [--workers N] [--status N] [--body-bytes N]

  --listen HOST:PORT  default 127.0.0.1:0, a free port
  --workers N         threads, each with its own listener; default one per core
  --status N          status of every answer; default 201
  --body-bytes N      bytes of JSON in every answer; default 345";

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// What every answer is made of. Clones share the body's bytes.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    fn new(status: u16, body_bytes: usize) -> Result<Self, String> {
        let status = StatusCode::from_u16(status).map_err(|error| format!("--status {status}: {error}"))?;
        let frame = r#"{"padding":""}"#.len();
        let padding = body_bytes.checked_sub(frame).ok_or_else(|| format!("--body-bytes must be at least {frame}"))?;
        Ok(Self { status, body: Bytes::from(format!(r#"{{"padding":"{}"}}"#, "x".repeat(padding))) })
    }

    async fn after(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            drop(frame?);
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REQUEST_ID, HeaderValue::from_static("0123456789abcdef"));
        Ok(response)
    }
}

fn serve_worker(listener: TcpListener, answer: &Answer) -> std::io::Result<Infallible> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            // A failed accept (the client is gone, or no file is left) concerns no other connection.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                if stream.set_nodelay(true).is_err() {
                    return;
                }
                let service = service_fn(|request| answer.clone().after(request));
                // The end of a connection, clean or not, is of no interest to a benchmark.
                let _ =
                    http1::Builder::new().pipeline_flush(true).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

fn run() -> Result<(), String> {
    let mut flags = Flags::parse(std::env::args().skip(1), &["help"])?;
    if flags.switch("help") {
        println!("{USAGE}");
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let address: SocketAddr = flags.value("listen", SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let workers: usize = flags.value("workers", cores)?;
    let answer = Answer::new(flags.value("status", 201)?, flags.value("body-bytes", 345)?)?;
    flags.finish()?;

    let failed = |error: std::io::Error| format!("cannot listen on {address}: {error}");
    let first = listen(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        listeners.push(listen(bound).map_err(failed)?);
    }
    let (sender, stopped) = std::sync::mpsc::channel();
    for listener in listeners {
        let (answer, sender) = (answer.clone(), sender.clone());
        std::thread::spawn(move || {
            let Err(error) = serve_worker(listener, &answer);
            // Fails only when the process is ending already.
            let _ = sender.send(error);
        });
    }
    drop(sender);
    println!("listening on http://{bound}");
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    match stopped.recv() {
        Ok(error) => Err(format!("a worker stopped: {error}")),
        Err(_) => Err("all workers panicked".to_owned()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bare_hyper: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
