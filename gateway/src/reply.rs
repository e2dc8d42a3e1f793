//! An answer before it is written as HTTP.

use bytes::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::views::NDJSON_MEDIA_TYPE;
use tokio::sync::mpsc::Receiver;

use crate::stream::{Body, Piece};

/// The header with which a request is named in logs and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The type of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/problem+json`.
    Problem,
    /// `application/x-ndjson`.
    NdJson,
    /// `text/event-stream`.
    EventStream,
    /// `text/plain; charset=utf-8`.
    Text,
    /// The Prometheus text format.
    Prometheus,
}

impl Media {
    fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Problem => "application/problem+json",
            Self::NdJson => NDJSON_MEDIA_TYPE,
            Self::EventStream => "text/event-stream",
            Self::Text => "text/plain; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        })
    }
}

/// An answer: what handlers return. `Request-Id` is added where it is sent.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body; empty for 204.
    pub body: Bytes,
    /// Pieces that follow the body.
    pub pieces: Option<Receiver<Piece>>,
    /// The type of the body.
    pub media: Media,
    /// Whether it is the stored answer of an earlier request: `Idempotent-Replayed: true`.
    pub replayed: bool,
    /// Seconds for `Retry-After`.
    pub retry_after_seconds: Option<u32>,
    /// Methods for `Allow`.
    pub allow: Option<&'static str>,
    /// Whether to ask for a credential: `WWW-Authenticate: Bearer`.
    pub challenge: bool,
    /// Whether the connection closes after it.
    pub close: bool,
}

impl Reply {
    /// An answer with a body of this type.
    pub fn new(status: StatusCode, media: Media, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            pieces: None,
            media,
            replayed: false,
            retry_after_seconds: None,
            allow: None,
            challenge: false,
            close: false,
        }
    }

    /// A JSON answer.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::new(status, Media::Json, body)
    }

    /// A refusal.
    pub fn problem(problem: &Problem, request_id: &str) -> Self {
        let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut body = Vec::with_capacity(320 + problem.detail.len());
        problem.write(&mut body, request_id);
        Self {
            retry_after_seconds: problem.retry_after_seconds,
            challenge: problem.kind == Kind::Unauthorized,
            ..Self::new(status, Media::Problem, body)
        }
    }

    /// The same, and the connection closes.
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The HTTP response. `headers` is a map whose memory is used again, with what the sender adds.
    pub(crate) fn into_response(self, mut headers: HeaderMap, request_id: HeaderValue) -> Response<Body> {
        headers.insert(REQUEST_ID, request_id);
        if !self.body.is_empty() || self.pieces.is_some() {
            headers.insert(CONTENT_TYPE, self.media.value());
        }
        if self.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = Response::new(Body::new(self.body, self.pieces));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }

    /// The whole answer as bytes, for a connection that is closed without a parsed request.
    pub(crate) fn into_bytes(self, request_id: &str) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nrequest-id: {request_id}\r\ncontent-type: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.status.as_u16(),
            self.status.canonical_reason().unwrap_or("Refused"),
            self.media.value().to_str().unwrap_or("application/json"),
            self.body.len(),
        )
        .into_bytes();
        if let Some(seconds) = self.retry_after_seconds {
            head.extend_from_slice(format!("retry-after: {seconds}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&self.body);
        head
    }
}
