//! Gives accounts points before they are redeemed or read, and reads what the server counted, over plain HTTP.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
const ITEMS_MAX: u64 = 10_000;
/// Enough for every redemption that a run can make.
const POINTS_EACH: u64 = 1_000_000_000;

/// An answer as far as it matters here.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// One request on a connection of its own.
///
/// # Errors
/// The connection fails, or the answer is not HTTP.
pub fn request(address: &str, method: &str, path: &str, body: &str) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("{method} http://{address}{path}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(failed)?;
    stream.write_all(body.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("{method} http://{address}{path}: the answer is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok(Answer { status, body })
}

/// Gives every account `m-1` to `m-<accounts>` a billion points. Repeating it changes nothing.
///
/// # Errors
/// Anything but 201 for every item.
pub fn prefill(address: &str, accounts: u64) -> Result<(), String> {
    let mut first = 1;
    while first <= accounts {
        let last = accounts.min(first + ITEMS_MAX - 1);
        let mut body = String::from(r#"{"items":["#);
        for account in first..=last {
            let comma = if account == first { "" } else { "," };
            let _ = write!(
                body,
                r#"{comma}{{"op":"earn","account":"m-{account}","points":{POINTS_EACH},"idempotency_key":"prefill"}}"#
            );
        }
        body.push_str("]}");
        let answer = request(address, "POST", "/api/v1/batch", &body)?;
        let executed = answer.body.matches(r#""status":201"#).count();
        if answer.status != 207 || u64::try_from(executed) != Ok(last - first + 1) {
            let start: String = answer.body.chars().take(300).collect();
            return Err(format!("giving points to accounts: status {}, {executed} executed: {start}", answer.status));
        }
        first = last + 1;
    }
    Ok(())
}

/// Codes other than the expected that the server's counter `meed_http_requests_total` has, as `code×count`.
///
/// # Errors
/// The metrics cannot be read.
pub fn unexpected_codes(metrics_address: &str, expected: &[u16]) -> Result<Vec<String>, String> {
    let answer = request(metrics_address, "GET", "/metrics", "")?;
    if answer.status != 200 {
        return Err(format!("metrics answered {}", answer.status));
    }
    Ok(codes_other_than(&answer.body, expected))
}

fn codes_other_than(metrics: &str, expected: &[u16]) -> Vec<String> {
    let sample = |line: &str| {
        let (_, rest) = line.strip_prefix("meed_http_requests_total{")?.split_once("code=\"")?;
        let (code, _) = rest.split_once('"')?;
        let (_, count) = line.rsplit_once(' ')?;
        let surprising = count != "0" && !expected.iter().any(|expected| code == expected.to_string());
        surprising.then(|| format!("{code}×{count}"))
    };
    metrics.lines().filter_map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_codes_that_should_not_be_there() {
        let metrics = "# TYPE meed_http_requests_total counter\n\
            meed_http_requests_total{route=\"/api/v1/batch\",method=\"POST\",code=\"207\"} 5\n\
            meed_http_requests_total{route=\"/x\",method=\"POST\",code=\"201\"} 12\n\
            meed_http_requests_total{route=\"/x\",method=\"POST\",code=\"503\"} 3\n\
            meed_http_requests_total{route=\"/x\",method=\"POST\",code=\"400\"} 0\n\
            other{code=\"500\"} 1\n";
        assert_eq!(codes_other_than(metrics, &[201, 207]), ["503×3"]);
        assert!(codes_other_than(metrics, &[201, 207, 503]).is_empty());
    }
}
