//! The attributes of an event, as CloudEvents 1.0 and its documented extensions name them: `recordedtime`,
//! `sequence`, `partitionkey` and `traceparent` (distributed tracing).

use super::{Documents, EventType, write_data, write_key};
use crate::http::json;
use crate::ids::Identity;
use crate::record::Record;
use crate::time;

/// The version of CloudEvents.
pub const SPEC_VERSION: &str = "1.0";
/// The type of an event's data.
pub const MEDIA_TYPE: &str = "application/json";

/// The names of the attributes, in the order in which they are written, and those of their headers in the Kafka binding
/// of CloudEvents.
const NAMES: [(&str, &str); 9] = [
    ("id", "ce_id"),
    ("source", "ce_source"),
    ("type", "ce_type"),
    ("subject", "ce_subject"),
    ("time", "ce_time"),
    ("recordedtime", "ce_recordedtime"),
    ("sequence", "ce_sequence"),
    ("partitionkey", "ce_partitionkey"),
    ("traceparent", "ce_traceparent"),
];
/// Digits of a sequence: every 64-bit number, so that texts sort as the numbers do.
const SEQUENCE_DIGITS: usize = 20;

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name without any prefix.
    pub name: &'static str,
    /// Its value.
    pub value: &'a str,
}

/// The attributes of one event, in memory that is used again for the next.
#[derive(Debug, Default)]
pub struct Attributes {
    text: Vec<u8>,
    /// Where each ends, in the order of the names.
    ends: [usize; NAMES.len()],
    has_trace: bool,
}

impl Attributes {
    /// Makes those of a record's event; false for a record that has no event.
    ///
    /// `id` is the journal and the position, so it is the same whenever and by whomever the event is sent;
    /// `source` the program, `subject` the account; `time` when it happened by the client, `recordedtime`
    /// by the node; `sequence` the account's, dense from 1, with leading zeros.
    pub fn set(&mut self, record: &Record, journal_id: u128, documents: Documents<'_>) -> bool {
        let Some(event) = EventType::of(record, documents) else { return false };
        let traceparent = record.references.as_deref().and_then(|r| r.traceparent.as_deref());
        self.has_trace = traceparent.is_some();
        let out = &mut self.text;
        out.clear();
        for (index, end) in self.ends.iter_mut().enumerate() {
            match index {
                0 => write_id(out, record, journal_id),
                1 => write_source(out, &record.identity),
                2 => json::raw(out, event.name()),
                3 => json::raw(out, record.identity.id()),
                4 => time::write(out, record.occurred_at),
                5 => time::write(out, record.recorded_at),
                6 => write_sequence(out, record.sequence),
                7 => write_key(out, &record.identity),
                _ => json::raw(out, traceparent.unwrap_or_default()),
            }
            *end = out.len();
        }
        true
    }

    /// Every attribute but the version.
    pub fn iter(&self) -> impl Iterator<Item = Attribute<'_>> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        self.parts().map(move |((name, _), bytes)| Attribute { name, value: text(bytes) })
    }

    /// The same as headers of the Kafka binding: their names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.parts().map(|((_, header), bytes)| (header, bytes))
    }

    fn parts(&self) -> impl Iterator<Item = ((&'static str, &'static str), &[u8])> {
        let count = if self.has_trace { NAMES.len() } else { NAMES.len() - 1 };
        let mut begin = 0;
        NAMES.into_iter().zip(self.ends).take(count).map(move |(names, end)| {
            let bytes = &self.text[begin..end];
            begin = end;
            (names, bytes)
        })
    }

    /// The `id`.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.text[..self.ends[0]]).unwrap_or_default()
    }

    /// The key in the stream, which is also an attribute.
    pub fn key(&self) -> &[u8] {
        &self.text[self.ends[6]..self.ends[7]]
    }
}

fn write_id(out: &mut Vec<u8>, record: &Record, journal_id: u128) {
    for shift in (0..32).rev() {
        let digit = (journal_id >> (shift * 4) & 0xf) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    out.push(b'-');
    json::integer(out, record.position.shard());
    out.push(b'-');
    json::integer(out, record.position.sequence());
}

/// A program as the path of a URI reference: what may not stand in a path is percent-encoded (RFC 3986).
fn write_source(out: &mut Vec<u8>, identity: &Identity) {
    json::raw(out, "/programs/");
    for byte in identity.program().bytes() {
        let stands = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if stands {
            out.push(byte);
        } else {
            out.push(b'%');
            for digit in [byte >> 4, byte & 0xf] {
                out.push(if digit < 10 { b'0' + digit } else { b'A' + digit - 10 });
            }
        }
    }
}

fn write_sequence(out: &mut Vec<u8>, sequence: u64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(sequence);
    out.extend_from_slice(&[b'0'; SEQUENCE_DIGITS][digits.len().min(SEQUENCE_DIGITS)..]);
    json::raw(out, digits);
}

/// Appends an event in the structured form of CloudEvents' JSON format, with its data within.
pub fn write_structured(out: &mut Vec<u8>, attributes: &Attributes, record: &Record, documents: Documents<'_>) {
    json::raw(out, "{\"specversion\":\"");
    json::raw(out, SPEC_VERSION);
    out.push(b'"');
    for Attribute { name, value } in attributes.iter() {
        json::raw(out, ",\"");
        json::raw(out, name);
        json::raw(out, "\":");
        json::string(out, value);
    }
    json::raw(out, ",\"datacontenttype\":\"");
    json::raw(out, MEDIA_TYPE);
    json::raw(out, "\",\"data\":");
    write_data(out, record, documents);
    out.push(b'}');
}
