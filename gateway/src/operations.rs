//! Health, readiness, version and the catalogue of problems; and the listener for metrics.

use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::context::Shared;
use crate::identify::RequestIds;
use crate::metrics;
use crate::reply::{Media, Reply};
use crate::route::Route;
use crate::stream::Body;
use meed_schemas::http::json;
use meed_schemas::http::problem::{self, Kind, Problem};

/// Time between two rounds of upkeep: histograms of the recorder grow until they are drained.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Connections to the metrics listener that are served at once.
const METRICS_CONNECTIONS_MAX: usize = 64;
/// Time for a scraper to send its request, and to be idle.
const METRICS_IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers a route that is open to everybody.
pub fn answer(shared: &Shared, route: &Route<'_>, query: Option<&str>, request_id: &str) -> Result<Reply, Problem> {
    Ok(match route {
        Route::Health {} | Route::Livez {} | Route::HealthLive {} => live(),
        Route::Readyz {} | Route::HealthReady {} => ready(shared, is_verbose(query), request_id),
        Route::Version {} => Reply::json(
            StatusCode::OK,
            concat!("{\"name\":\"meed\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\",\"api\":\"v1\"}"),
        ),
        Route::ProblemGet { problem } => match Kind::from_name(problem) {
            Some(kind) => {
                let mut body = Vec::with_capacity(256);
                problem::write_explanation(&mut body, kind);
                Reply::json(StatusCode::OK, body)
            }
            None => return Err(Problem::new(Kind::NotFound, "there is no problem with this name")),
        },
        _ => return Err(Problem::of(Kind::NotFound)),
    })
}

fn live() -> Reply {
    Reply::json(StatusCode::OK, "{\"status\":\"ok\"}")
}

fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")))
}

fn ready(shared: &Shared, verbose: bool, request_id: &str) -> Reply {
    let draining = shared.is_draining();
    let mut checks = shared.checks();
    // First: what else fails then fails because of it.
    checks.insert(0, ("draining", if draining { Err("the node is stopping".to_owned()) } else { Ok(()) }));
    let failing = checks.iter().find_map(|(name, state)| state.as_ref().err().map(|why| (*name, why.clone())));
    let Some((name, why)) = failing else {
        let mut out = b"{\"status\":\"ready\"".to_vec();
        if verbose {
            write_checks(&mut out, &checks);
        }
        out.push(b'}');
        return Reply::json(StatusCode::OK, out);
    };
    let kind = if draining { Kind::Draining } else { Kind::NotReady };
    let problem = Problem::new(kind, format!("{name}: {why}")).with("check", name);
    let mut reply = Reply::problem(&problem, request_id);
    if verbose {
        let mut out = reply.body.to_vec();
        out.pop();
        write_checks(&mut out, &checks);
        out.push(b'}');
        reply.body = Bytes::from(out);
    }
    reply
}

fn write_checks(out: &mut Vec<u8>, checks: &[(&'static str, Result<(), String>)]) {
    out.extend_from_slice(b",\"checks\":{");
    for (index, (name, state)) in checks.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::string(out, name);
        out.push(b':');
        json::string(out, state.as_ref().err().map_or("ok", String::as_str));
    }
    out.push(b'}');
}

/// Keeps the recorder and the gate tidy, and serves `/metrics`, `/livez` and `/readyz` on `listener`. Runs
/// until `stop` is there; on a runtime of its own, so that a scrape delays no request.
pub async fn serve(listener: Option<TcpListener>, shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let recorder = metrics::recorder();
    let upkeep = async {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            recorder.run_upkeep();
            shared.gate.forget_idle_addresses();
        }
    };
    let accept = async {
        let listener = listener.map(tokio::net::TcpListener::from_std).transpose();
        match listener {
            Ok(Some(listener)) => accept_scrapers(listener, &shared).await,
            Ok(None) => std::future::pending().await,
            Err(error) => {
                tracing::error!(%error, "cannot serve metrics");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = stop => {}
        () = upkeep => {}
        () = accept => {}
    }
}

async fn accept_scrapers(listener: tokio::net::TcpListener, shared: &Arc<Shared>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(METRICS_CONNECTIONS_MAX));
    let ids = Rc::new(RequestIds::new(getrandom::u64().unwrap_or_default()));
    loop {
        // Never closed, so acquiring cannot fail.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, ids) = (shared.clone(), ids.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = scrape(&shared, &ids, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(METRICS_IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::task::spawn_local(async move {
            let _ = connection.await;
            drop(permit);
        });
    }
}

fn scrape(shared: &Shared, ids: &RequestIds, request: &Request<Incoming>) -> Response<Body> {
    let id = ids.of(request.headers());
    let reply = reply_to_scrape(shared, request, id.to_str().unwrap_or_default());
    reply.into_response(HeaderMap::new(), id)
}

fn reply_to_scrape(shared: &Shared, request: &Request<Incoming>, request_id: &str) -> Reply {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut reply = Reply::problem(&Problem::of(Kind::MethodNotAllowed), request_id);
        reply.allow = Some("GET, HEAD");
        return reply;
    }
    match request.uri().path() {
        "/metrics" => {
            let mut page = metrics::render(&shared.metrics);
            metrics::render_start(&mut page, shared.started_at);
            if let Some(node) = shared.engine() {
                metrics::render_engine(&mut page, node);
            }
            page.push_str(&metrics::recorder().render());
            Reply::new(StatusCode::OK, Media::Prometheus, page)
        }
        "/livez" | "/health" | "/health/live" => live(),
        "/readyz" | "/health/ready" => ready(shared, is_verbose(request.uri().query()), request_id),
        _ => Reply::problem(&Problem::of(Kind::NotFound), request_id),
    }
}
