//! What a head says about its request: `Request-Id`, `traceparent` and `Host`.

use std::cell::Cell;

use hyper::Version;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use meed_engine::random::Random;
use meed_schemas::http::problem::Problem;

use crate::reply::REQUEST_ID;

/// Longest `Request-Id` that is taken from a client.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Makes request ids: 16 hexadecimal digits, from a generator that is seeded once. They are unique, not
/// secret.
#[derive(Debug)]
pub struct RequestIds(Cell<u64>);

impl RequestIds {
    /// A generator; two with different seeds give different ids.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next id (SplitMix64: a permutation of a counter, so that an id returns only after 2^64).
    pub fn next(&self) -> [u8; 16] {
        let mut random = Random(self.0.get());
        let mut rest = random.bits();
        self.0.set(random.0);
        let mut text = [0; 16];
        for digit in &mut text {
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
        }
        text
    }

    /// The id of a request: the client's if it is one, else a new one.
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID) {
            Some(given) if is_request_id(given.as_bytes()) => given.clone(),
            // Hexadecimal digits are always a header value.
            _ => HeaderValue::from_bytes(&self.next()).unwrap_or(HeaderValue::from_static("0")),
        }
    }
}

fn is_request_id(text: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.iter().all(|byte| (0x20..0x7f).contains(byte))
}

/// HTTP/1.1 wants exactly one `Host` (RFC 9112, section 3.2); with two, whoever stands before may have read the other.
pub(crate) fn check_host(parts: &Parts) -> Result<(), Problem> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let detail = match (hosts.next(), hosts.next()) {
        (Some(_), None) => return Ok(()),
        (None, _) if parts.version != Version::HTTP_11 => return Ok(()),
        (None, _) => "the header Host is missing; HTTP/1.1 requires it",
        (Some(_), Some(_)) => "the header Host is given twice",
    };
    Err(Problem::invalid("Host", detail))
}

/// A valid `traceparent` header (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent([u8; Self::LENGTH]);

impl TraceParent {
    const LENGTH: usize = 55;

    /// Reads the header; what is not valid, or given twice, is as if it were absent. Of a later version the
    /// part that version 00 knows is kept.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let given = values.next()?;
        if values.next().is_some() { None } else { Self::parse(given.as_bytes()) }
    }

    /// Reads the text of the header.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let kept: [u8; Self::LENGTH] = text.get(..Self::LENGTH)?.try_into().ok()?;
        let hexadecimal =
            |range: std::ops::Range<usize>| kept[range].iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let zero = |range: std::ops::Range<usize>| kept[range].iter().all(|digit| *digit == b'0');
        let fields = hexadecimal(0..2) && hexadecimal(3..35) && hexadecimal(36..52) && hexadecimal(53..55);
        let dashes = kept[2] == b'-' && kept[35] == b'-' && kept[52] == b'-';
        let length = match &kept[..2] {
            b"00" => text.len() == Self::LENGTH,
            b"ff" => false,
            _ => text.len() == Self::LENGTH || text[Self::LENGTH] == b'-',
        };
        (fields && dashes && length && !zero(3..35) && !zero(36..52)).then_some(Self(kept))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_new_or_the_clients() {
        let ids = RequestIds::new(7);
        let mut headers = HeaderMap::new();
        let first = ids.of(&headers);
        assert_ne!(first, ids.of(&headers));
        assert_eq!(first.len(), 16);
        headers.insert(REQUEST_ID, HeaderValue::from_static("till 7/1"));
        assert_eq!(ids.of(&headers), "till 7/1");
        for bad in [vec![], vec![b'a'; 129], "é".as_bytes().to_vec(), b"a\tb".to_vec()] {
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(&bad).unwrap());
            assert_ne!(ids.of(&headers).as_bytes(), bad);
        }
    }

    #[test]
    fn trace_parents_are_checked() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(good.as_bytes()).unwrap().as_str(), good);
        let later = good.replacen("00", "01", 1) + "-more";
        assert_eq!(TraceParent::parse(later.as_bytes()).unwrap().as_str(), &later[..55]);
        for bad in [
            good.replacen("00", "ff", 1),
            good.to_uppercase(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("{later}x").replace("-more", "more"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            good.replace('-', "_"),
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
