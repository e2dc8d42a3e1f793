//! Answers as they come from the wire: where one ends, and what of its body the load needs to know. Bytes in, values
//! out.

use std::mem::MaybeUninit;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest head of an answer.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest body of an answer.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;
const HEADERS_MAX: usize = 64;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: std::borrow::Cow<'a, [u8]>,
    /// The server closes the connection after it.
    pub(crate) closes: bool,
    /// It is the stored answer of an earlier request with the same key.
    pub(crate) replayed: bool,
    /// After how many seconds it says to come back.
    pub(crate) retry_after_seconds: Option<u64>,
    /// Bytes on the wire.
    pub(crate) length: usize,
}

/// The answer to a batch: a result per item, in the order of the items.
#[derive(Debug, Deserialize)]
pub(crate) struct BatchAnswer<'a> {
    #[serde(borrow)]
    pub(crate) results: Vec<BatchResult<'a>>,
}

/// What one item of a batch would have been answered by itself.
#[derive(Debug, Deserialize)]
pub(crate) struct BatchResult<'a> {
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) replayed: bool,
    #[serde(borrow)]
    pub(crate) body: &'a RawValue,
}

/// What came is no answer of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The first answer in `bytes`; `None` while it is not whole.
pub(crate) fn take(bytes: &[u8]) -> Result<Option<Answer<'_>>, Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut headers);
    let httparse::Status::Complete(head_bytes) = parsed.map_err(|_| Malformed)? else {
        return if bytes.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    let status = response.code.ok_or(Malformed)?;
    let mut framing = if matches!(status, 204 | 304) { Some(Framing::Length(0)) } else { None };
    let (mut closes, mut replayed, mut retry_after_seconds) = (response.version == Some(0), false, None);
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
            framing = framing.or(Some(Framing::Length(length.ok_or(Malformed)?)));
        } else if is("transfer-encoding") {
            framing = Some(Framing::Chunked);
        } else if is("connection") {
            closes = header.value.eq_ignore_ascii_case(b"close");
        } else if is("idempotent-replayed") {
            replayed = header.value.eq_ignore_ascii_case(b"true");
        } else if is("retry-after") {
            // A date is a time as well; a second is soon enough to look again.
            let seconds = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
            retry_after_seconds = Some(seconds.unwrap_or(1));
        }
    }
    let rest = &bytes[head_bytes..];
    let (body, body_bytes) = match framing.ok_or(Malformed)? {
        Framing::Length(length) if length > BODY_BYTES_MAX => return Err(Malformed),
        Framing::Length(length) => match rest.get(..length) {
            Some(body) => (body.into(), length),
            None => return Ok(None),
        },
        Framing::Chunked => match take_chunks(rest)? {
            Some((body, length)) => (body.into(), length),
            None => return Ok(None),
        },
    };
    Ok(Some(Answer { status, body, closes, replayed, retry_after_seconds, length: head_bytes + body_bytes }))
}

/// A body in chunks (RFC 9112, 7.1), and how many bytes it takes; trailers are passed over.
fn take_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let (line_bytes, size) = match httparse::parse_chunk_size(rest).map_err(|_| Malformed)? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return Ok(None),
        };
        let size = usize::try_from(size).map_err(|_| Malformed)?;
        if body.len().saturating_add(size) > BODY_BYTES_MAX {
            return Err(Malformed);
        }
        if size == 0 {
            let trailers = &rest[line_bytes..];
            if trailers.starts_with(b"\r\n") {
                return Ok(Some((body, at + line_bytes + 2)));
            }
            let end = memmem::find(trailers, b"\r\n\r\n");
            return Ok(end.map(|end| (body, at + line_bytes + end + 4)));
        }
        let Some(chunk) = rest.get(line_bytes..line_bytes + size + 2) else { return Ok(None) };
        let Some(chunk) = chunk.strip_suffix(b"\r\n") else { return Err(Malformed) };
        body.extend_from_slice(chunk);
        at += line_bytes + size + 2;
    }
}

/// The part of an operation's answer that the books need. Borrowed from the body: texts with escapes are not understood,
/// and what the load sends has none.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Effect<'a> {
    pub(crate) transaction_id: &'a str,
    pub(crate) account_id: &'a str,
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    pub(crate) points: i64,
    pub(crate) available_points: i64,
    #[serde(default)]
    pub(crate) hold_id: Option<&'a str>,
    /// Of a hold: what it pins.
    #[serde(default)]
    pub(crate) hold_points: Option<i64>,
    #[serde(default)]
    pub(crate) reason: Option<&'a str>,
}

impl<'a> Effect<'a> {
    /// Of any operation.
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Of a simple earn, whose answer has no nested member, with the members in the order of the contract's examples:
    /// many times faster than [`Effect::parse`]. `None`: it has another form, which that one may understand.
    pub(crate) fn scan(body: &'a [u8]) -> Option<Self> {
        let mut rest = body;
        Some(Self {
            transaction_id: text_member(&mut rest, b"\"transaction_id\":\"")?,
            account_id: text_member(&mut rest, b"\"account_id\":\"")?,
            kind: text_member(&mut rest, b"\"type\":\"")?,
            points: integer_member(&mut rest, b"\"points\":")?,
            available_points: integer_member(&mut rest, b"\"available_points\":")?,
            hold_id: None,
            hold_points: None,
            reason: None,
        })
    }
}

/// What follows `opening` in `rest`, which then begins behind that.
fn skip<'a>(rest: &mut &'a [u8], opening: &[u8]) -> Option<&'a [u8]> {
    // Most often it comes next, behind a brace or a comma; a search costs more than the comparison.
    let at = if rest.get(1..).is_some_and(|next| next.starts_with(opening)) { 1 } else { memmem::find(rest, opening)? };
    rest.get(at + opening.len()..)
}

fn text_member<'a>(rest: &mut &'a [u8], opening: &[u8]) -> Option<&'a str> {
    let value = skip(rest, opening)?;
    let end = memchr::memchr(b'"', value)?;
    *rest = &value[end + 1..];
    std::str::from_utf8(&value[..end]).ok()
}

fn integer_member(rest: &mut &[u8], opening: &[u8]) -> Option<i64> {
    let value = skip(rest, opening)?;
    let end = value.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-')?;
    *rest = &value[end..];
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

/// The name of the problem in a refusal's body, without `/problems/`.
pub(crate) fn problem(mut body: &[u8]) -> Option<&str> {
    text_member(&mut body, b"\"type\":\"").and_then(|name| name.strip_prefix("/problems/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces_is_whole_at_its_last_byte() {
        let plain: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nIdempotent-Replayed: true\r\n\r\nabc";
        let chunked: &[u8] =
            b"HTTP/1.1 503 Slow\r\nRetry-After: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        for whole in [plain, chunked] {
            for length in 0..whole.len() {
                assert!(take(&whole[..length]).unwrap().is_none(), "{length}");
            }
            let mut more = whole.to_vec();
            more.extend_from_slice(b"HTTP/1.1 200");
            let answer = take(&more).unwrap().unwrap();
            assert_eq!((&*answer.body, answer.length), (&b"abc"[..], whole.len()));
        }
        assert!(take(plain).unwrap().unwrap().replayed);
        assert_eq!(take(chunked).unwrap().unwrap().retry_after_seconds, Some(1));
        assert!(take(b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n").unwrap().unwrap().closes);
    }

    #[test]
    fn what_is_no_answer_is_malformed() {
        for bytes in [
            &b"hello there, this is no http"[..],
            b"HTTP/1.1 200 OK\r\n\r\nbody until the end",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            assert!(take(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn both_ways_of_reading_an_earn_agree() {
        let body = br#"{"transaction_id":"t-1","account_id":"m-1","type":"EARN","points":7,"new_balance":-3,
            "available_points":-3,"pending_points":0,"held_points":0,"sequence":1}"#;
        let read = Effect::scan(body).unwrap();
        assert_eq!(Some(read), Effect::parse(body));
        assert_eq!((read.transaction_id, read.points, read.available_points), ("t-1", 7, -3));
        assert!(Effect::scan(br#"{"transaction_id":"t-1"}"#).is_none());
        // Members in another order, and members between: the general way understands them.
        let other = br#"{"points":7,"type":"EARN","available_points":7,"account_id":"m-1","transaction_id":"t-1"}"#;
        assert!(Effect::scan(other).is_none() && Effect::parse(other).is_some());
        let more =
            br#"{"x":1,"transaction_id":"t","y":2,"account_id":"a","type":"EARN","points":7,"available_points":7}"#;
        assert!(Effect::scan(more).is_some() && Effect::scan(more) == Effect::parse(more));
        assert_eq!(problem(br#"{"type":"/problems/overloaded","status":503}"#), Some("overloaded"));
        assert_eq!(problem(b"<html>"), None);
    }
}
