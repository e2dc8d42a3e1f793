//! Reading a body: its type, its limit, and the time it may take.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::admit::{BodyReservation, Gate};
use crate::route::Payload;
use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::views::NDJSON_MEDIA_TYPE;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// One JSON document.
    Json,
    /// One JSON document a line.
    NdJson,
}

/// A body that was read; `reservation` keeps its share of the memory for bodies in pieces.
#[derive(Debug)]
pub struct Collected<'a> {
    /// The bytes.
    pub bytes: Bytes,
    /// The memory that they hold, where they came in several pieces.
    pub reservation: Option<BodyReservation<'a>>,
}

/// The format that the headers declare. No `Content-Type` is taken as JSON.
pub fn format(headers: &HeaderMap, payload: Payload) -> Result<BodyFormat, Problem> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "the body must not be compressed: send it without Content-Encoding";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(BodyFormat::Json) };
    if given.as_bytes() == b"application/json" {
        return Ok(BodyFormat::Json);
    }
    let parsed = given.to_str().ok().and_then(parse_media_type);
    match parsed {
        Some(BodyFormat::NdJson) if payload != Payload::Batch => {}
        Some(format) => return Ok(format),
        None => {}
    }
    Err(Problem::new(
        Kind::UnsupportedMediaType,
        match payload {
            Payload::Batch => format!("accepted are application/json and {NDJSON_MEDIA_TYPE}, in UTF-8"),
            _ => "accepted is application/json, in UTF-8".to_owned(),
        },
    ))
}

fn parse_media_type(text: &str) -> Option<BodyFormat> {
    let mut parts = text.split(';');
    let name = parts.next()?.trim();
    let format = if name.eq_ignore_ascii_case("application/json") {
        BodyFormat::Json
    } else if name.eq_ignore_ascii_case(NDJSON_MEDIA_TYPE) {
        BodyFormat::NdJson
    } else {
        return None;
    };
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let utf8 = value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8");
        if name.trim().eq_ignore_ascii_case("charset") && !utf8 {
            return None;
        }
    }
    Some(format)
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::PayloadTooLarge, format!("the body may have at most {limit} bytes; nothing was executed"))
}

/// Reads a body of at most `limit` bytes. A length beyond it is refused before a byte is read; a body in
/// chunks is counted as it comes. A body that is there in one piece is not copied and reserves nothing.
/// `late` is set, and this task woken, when the body has taken too long.
pub async fn collect<'a>(
    mut incoming: Incoming,
    limit: usize,
    gate: &'a Gate,
    late: &Cell<bool>,
) -> Result<Collected<'a>, Problem> {
    let hint = incoming.size_hint();
    let declared = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(too_large(limit));
    }
    let first = next_piece(&mut incoming, late).await?;
    if first.len() > limit {
        return Err(too_large(limit));
    }
    if incoming.is_end_stream() {
        return Ok(Collected { bytes: first, reservation: None });
    }
    let overloaded = || Problem::new(Kind::Overloaded, "no memory for more bodies now; send it again later");
    // A declared length is reserved whole; chunks reserve the limit, because their end is not known.
    let reserve = if hint.exact().is_some() { declared } else { limit };
    let reservation = gate.reserve_body(reserve).ok_or_else(overloaded)?;
    let mut bytes = BytesMut::with_capacity(declared.max(first.len()));
    bytes.extend_from_slice(&first);
    drop(first);
    while !incoming.is_end_stream() {
        let piece = next_piece(&mut incoming, late).await?;
        if piece.len() > limit - bytes.len() {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&piece);
        if piece.is_empty() {
            break;
        }
    }
    Ok(Collected { bytes: bytes.freeze(), reservation: Some(reservation) })
}

/// The next bytes; empty at the end. Trailers are left out.
async fn next_piece(incoming: &mut Incoming, late: &Cell<bool>) -> Result<Bytes, Problem> {
    poll_fn(|context| {
        loop {
            if late.get() {
                return Poll::Ready(Err(Problem::of(Kind::RequestTimeout)));
            }
            return match Pin::new(&mut *incoming).poll_frame(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(Ok(Bytes::new())),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Ok(data)),
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(_))) => Poll::Ready(Err(Problem::invalid(
                    "body",
                    "the body ended early or its chunks are malformed; nothing was executed",
                ))),
            };
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn media_types() {
        let of = |text: &str, payload| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(text).unwrap());
            format(&headers, payload).map_err(|problem| problem.kind)
        };
        let refused = Err(Kind::UnsupportedMediaType);
        assert_eq!(of("application/json", Payload::Single), Ok(BodyFormat::Json));
        assert_eq!(of("Application/JSON ; Charset=\"UTF-8\"", Payload::Single), Ok(BodyFormat::Json));
        assert_eq!(of("application/json; version=1", Payload::Single), Ok(BodyFormat::Json));
        assert_eq!(of("application/json; charset=latin1", Payload::Single), refused);
        assert_eq!(of("application/x-ndjson", Payload::Batch), Ok(BodyFormat::NdJson));
        assert_eq!(of("application/x-ndjson", Payload::Single), refused);
        assert_eq!(of("text/plain", Payload::Batch), refused);
        assert_eq!(of("application/x-www-form-urlencoded", Payload::Single), refused);
        let mut headers = HeaderMap::new();
        assert_eq!(format(&headers, Payload::Single), Ok(BodyFormat::Json));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(format(&headers, Payload::Single).unwrap_err().kind, Kind::UnsupportedMediaType);
    }
}
