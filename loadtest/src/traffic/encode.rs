//! Requests as bytes. Everything that does not change is made once.

use std::io::Write as _;

use crate::traffic::{Operation, Planned};

/// The id of an account.
pub(crate) fn account_name(out: &mut Vec<u8>, prefix: &str, account: u32) {
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(account).as_bytes());
}

/// The key of an operation: run, process, number.
pub(crate) fn request_key(out: &mut Vec<u8>, run: &str, worker: u32, number: u64) {
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(run.as_bytes());
    out.push(b'-');
    out.extend_from_slice(buffer.format(worker).as_bytes());
    out.push(b'-');
    out.extend_from_slice(buffer.format(number).as_bytes());
}

/// The unchanging parts of requests.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    run: String,
    worker: u32,
    prefix: String,
    batch_items: u32,
    /// From the version of HTTP to the last header that is the same for all requests.
    common: Vec<u8>,
    body: Vec<u8>,
    key: Vec<u8>,
}

impl Heads {
    pub(crate) fn new(
        run: &str,
        worker: u32,
        prefix: &str,
        batch_items: u32,
        host: &str,
        program: Option<&str>,
        authorization: Option<&str>,
    ) -> Self {
        let mut common = format!(" HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in [("Program", program), ("Authorization", authorization)] {
            if let Some(value) = value {
                common.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        Self {
            run: run.to_owned(),
            worker,
            prefix: prefix.to_owned(),
            batch_items,
            common: common.into_bytes(),
            body: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Appends the request of a plan.
    pub(crate) fn request(&mut self, out: &mut Vec<u8>, planned: &Planned) {
        if planned.operation == Operation::Balance {
            out.extend_from_slice(b"GET /api/v1/points/");
            account_name(out, &self.prefix, planned.account);
            out.extend_from_slice(b"/balance");
            out.extend_from_slice(&self.common);
            return out.extend_from_slice(b"\r\n");
        }
        self.key.clear();
        request_key(&mut self.key, &self.run, self.worker, planned.number);
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        self.body_of(&mut body, planned);
        out.extend_from_slice(b"POST /api/v1/");
        self.path(out, planned);
        out.extend_from_slice(&self.common);
        if planned.operation != Operation::Batch {
            out.extend_from_slice(b"Idempotency-Key: ");
            out.extend_from_slice(&self.key);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"Content-Type: application/json\r\nContent-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&body);
        self.body = body;
    }

    fn path(&self, out: &mut Vec<u8>, planned: &Planned) {
        let about = planned.about.as_deref().unwrap_or_default().as_bytes();
        let parts: [&[u8]; 3] = match planned.operation {
            Operation::Pos => return out.extend_from_slice(b"pos/transaction"),
            Operation::Batch => return out.extend_from_slice(b"batch"),
            Operation::EarnPoints | Operation::EarnAmount | Operation::Balance => [b"/earn", b"", b""],
            Operation::Redeem => [b"/redeem", b"", b""],
            Operation::Hold => [b"/holds", b"", b""],
            Operation::Capture => [b"/holds/", about, b"/capture"],
            Operation::Void => [b"/holds/", about, b"/void"],
            Operation::Reverse => [b"/transactions/", about, b"/reverse"],
        };
        out.extend_from_slice(b"points/");
        account_name(out, &self.prefix, planned.account);
        for part in parts {
            out.extend_from_slice(part);
        }
    }

    fn body_of(&self, body: &mut Vec<u8>, planned: &Planned) {
        let key = std::str::from_utf8(&self.key).unwrap_or_default();
        let points = planned.points;
        let (whole, cents) = (planned.amount_minor / 100, planned.amount_minor % 100);
        // Writing to memory does not fail.
        let _ = match planned.operation {
            Operation::EarnPoints => {
                body.extend_from_slice(b"{\"points\":");
                body.extend_from_slice(itoa::Buffer::new().format(points).as_bytes());
                body.extend_from_slice(b",\"source\":\"PURCHASE\",\"reference_id\":\"");
                body.extend_from_slice(&self.key);
                body.extend_from_slice(b"\"}");
                Ok(())
            }
            Operation::EarnAmount => {
                write!(body, r#"{{"amount":"{whole}.{cents:02}","source":"PURCHASE","reference_id":"{key}"}}"#)
            }
            Operation::Redeem => {
                write!(body, r#"{{"points":{points},"reward_id":"tea","reference_id":"{key}"}}"#)
            }
            Operation::Hold => write!(body, r#"{{"points":{points},"ttl_seconds":3600,"reference_id":"{key}"}}"#),
            Operation::Capture | Operation::Reverse => write!(body, r#"{{"reference_id":"{key}"}}"#),
            Operation::Void => Ok(()),
            Operation::Pos => self.sale(body, planned, key),
            Operation::Batch => self.items(body, planned),
            Operation::Balance => Ok(()),
        };
    }

    fn sale(&self, body: &mut Vec<u8>, planned: &Planned, key: &str) -> std::io::Result<()> {
        let (whole, cents) = (planned.amount_minor / 100, planned.amount_minor % 100);
        write!(body, r#"{{"store_id":"s-{}","transaction_id":"{key}","user_identifier":""#, planned.account % 100)?;
        account_name(body, &self.prefix, planned.account);
        write!(body, r#"","amount":"{whole}.{cents:02}","timestamp":""#)?;
        meed_schemas::time::write(body, planned.at_ms);
        body.extend_from_slice(b"\"}");
        Ok(())
    }

    /// The items of a batch go to neighbouring accounts, so that the plan alone says which.
    fn items(&self, body: &mut Vec<u8>, planned: &Planned) -> std::io::Result<()> {
        body.extend_from_slice(b"{\"items\":[");
        for item in 0..self.batch_items {
            if item > 0 {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"op\":\"earn\",\"account\":\"");
            account_name(body, &self.prefix, planned.account + item);
            write!(body, r#"","points":{},"idempotency_key":""#, planned.points)?;
            request_key(body, &self.run, self.worker, planned.number + u64::from(item));
            body.extend_from_slice(b"\",\"reference_id\":\"");
            request_key(body, &self.run, self.worker, planned.number + u64::from(item));
            body.extend_from_slice(b"\"}");
        }
        body.extend_from_slice(b"]}");
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn planned(operation: Operation) -> Planned {
        let about = Some("h-7".into());
        Planned { operation, account: 3, number: 9, points: 5, amount_minor: 1_990, at_ms: 0, about }
    }

    #[test]
    fn every_request_is_whole() {
        let mut heads = Heads::new("ab12", 2, "p-", 3, "h:1", Some("shop"), Some("Bearer x"));
        for (operation, line, body) in [
            (Operation::EarnPoints, "POST /api/v1/points/p-3/earn", r#""points":5"#),
            (Operation::EarnAmount, "POST /api/v1/points/p-3/earn", r#""amount":"19.90""#),
            (Operation::Redeem, "POST /api/v1/points/p-3/redeem", r#""reference_id":"ab12-2-9""#),
            (Operation::Balance, "GET /api/v1/points/p-3/balance", ""),
            (Operation::Hold, "POST /api/v1/points/p-3/holds", r#""ttl_seconds""#),
            (Operation::Capture, "POST /api/v1/points/p-3/holds/h-7/capture", "{"),
            (Operation::Void, "POST /api/v1/points/p-3/holds/h-7/void", ""),
            (Operation::Reverse, "POST /api/v1/points/p-3/transactions/h-7/reverse", "{"),
            (Operation::Pos, "POST /api/v1/pos/transaction", r#""timestamp":"1970-01-01T00:00:00.000Z""#),
            (Operation::Batch, "POST /api/v1/batch", r#""account":"p-5","points":5,"idempotency_key":"ab12-2-11""#),
        ] {
            let mut out = Vec::new();
            heads.request(&mut out, &planned(operation));
            let text = String::from_utf8(out).unwrap();
            let (head, sent) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("{line} HTTP/1.1\r\nHost: h:1\r\nProgram: shop\r\n")), "{head}");
            assert!(sent.contains(body), "{sent}");
            if operation.writes() {
                assert!(head.contains(&format!("Content-Length: {}", sent.len())), "{head}");
                assert_eq!(head.contains("Idempotency-Key: ab12-2-9"), operation != Operation::Batch);
            }
            if !sent.is_empty() {
                serde_json::from_str::<serde_json::Value>(sent).unwrap();
            }
            let mut again = Vec::new();
            heads.request(&mut again, &planned(operation));
            assert_eq!(String::from_utf8(again).unwrap(), text);
        }
    }
}
