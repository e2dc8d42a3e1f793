//! The seam between the front end and the engine: one function answers every business route.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::HeaderMap;

use crate::auth::Caller;
use crate::body::BodyFormat;
use crate::context::Context;
use crate::identify::TraceParent;
use crate::problem::{Kind, Problem};
use crate::reply::Reply;
use crate::route::Route;

/// A request that passed every check which needs no engine.
#[derive(Debug)]
pub struct Call<'a> {
    /// What it asks for.
    pub route: Route<'a>,
    /// The raw query; see [`crate::route::Query`].
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who calls, and for which program.
    pub caller: Caller<'a>,
    /// Its name in logs and answers.
    pub request_id: &'a str,
    /// Its valid `traceparent`.
    pub trace_parent: Option<TraceParent>,
    /// The whole body, within the limit of the route; empty where the route takes none.
    pub body: Bytes,
    /// How the body is written.
    pub body_format: BodyFormat,
    /// Whom the connection is from.
    pub address: IpAddr,
    /// When its head was complete.
    pub received_at: Instant,
}

/// Answers a business route. A refusal is a problem; both are values.
pub async fn handle(context: &Rc<Context>, call: Call<'_>) -> Result<Reply, Problem> {
    tracing::debug!(worker = context.worker, request_id = call.request_id, "no engine");
    Err(Problem::new(Kind::NotReady, "this node has no engine yet; nothing was executed"))
}
