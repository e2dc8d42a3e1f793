//! Many requests in one body: a JSON document with `items`, or a JSON line per item.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::BadRequest;
use super::decode::{Decoded, Operation, decode_item};
use super::members::unreadable;
use super::text::shown_name;
use crate::money::Currency;

/// Most items of a batch, unless the node is set to fewer.
pub const BATCH_ITEMS_MAX: usize = 10_000;

/// How items are written down, in the body and in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFormat {
    /// `application/json`: `{"items":[…]}`.
    Json,
    /// `application/x-ndjson`: one item per line. Lines of nothing but white space are no items.
    Ndjson,
}

/// Why nothing of a batch is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// More items than this: 413.
    TooManyItems(usize),
    /// The document is malformed: 400.
    BadRequest(BadRequest),
}

/// One item: a request, or why it is none.
type Item<'a> = Result<Decoded<'a>, BadRequest>;

/// Reads a whole batch before anything of it is done. An item that is wrong is that item's refusal; in
/// NDJSON so is a line that is no JSON.
///
/// # Errors
/// When there are more than `items_max` items, or when a JSON document is malformed.
pub fn decode_batch(
    body: &[u8],
    format: BatchFormat,
    default: Option<Operation>,
    currency: Currency,
    items_max: usize,
) -> Result<Vec<Item<'_>>, BatchError> {
    match format {
        BatchFormat::Json => decode_document(body, default, currency, items_max),
        BatchFormat::Ndjson => decode_lines(body, default, currency, items_max),
    }
}

fn decode_lines(
    body: &[u8],
    default: Option<Operation>,
    currency: Currency,
    items_max: usize,
) -> Result<Vec<Item<'_>>, BatchError> {
    let mut items = Vec::new();
    for line in body.split(|b| *b == b'\n') {
        if line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')) {
            continue;
        }
        if items.len() == items_max {
            return Err(BatchError::TooManyItems(items_max));
        }
        items.push(match std::str::from_utf8(line) {
            Ok(text) => decode_item(text, default, currency),
            Err(_) => Err(BadRequest::body("must be UTF-8")),
        });
    }
    Ok(items)
}

fn decode_document(
    body: &[u8],
    default: Option<Operation>,
    currency: Currency,
    items_max: usize,
) -> Result<Vec<Item<'_>>, BatchError> {
    let text = std::str::from_utf8(body).map_err(|_| BatchError::BadRequest(BadRequest::body("must be UTF-8")))?;
    let mut problem = None;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let visitor = DocumentVisitor { default, currency, items_max, problem: &mut problem };
    let items = deserializer.deserialize_map(visitor).and_then(|items| {
        deserializer.end()?;
        Ok(items)
    });
    items.map_err(|error| {
        let otherwise = || match unreadable(text, &error) {
            _ if is_object(text) => BadRequest::new("items", "must be an array"),
            refused => refused,
        };
        problem.unwrap_or_else(|| BatchError::BadRequest(otherwise()))
    })
}

/// Whether a document that was refused is a JSON object nevertheless, so that only its `items` are wrong.
fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Reads `{"items":[…]}`. serde's errors carry only a text, so what is wrong leaves through `problem`.
struct DocumentVisitor<'p> {
    default: Option<Operation>,
    currency: Currency,
    items_max: usize,
    problem: &'p mut Option<BatchError>,
}

impl DocumentVisitor<'_> {
    fn refuse<E: serde::de::Error>(&mut self, field: String, detail: &str) -> E {
        *self.problem = Some(BatchError::BadRequest(BadRequest::new(field, detail)));
        E::custom("refused")
    }
}

impl<'a> Visitor<'a> for DocumentVisitor<'_> {
    type Value = Vec<Item<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with items")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut items = None;
        while let Some(name) = map.next_key::<String>()? {
            if name != "items" {
                return Err(self.refuse(shown_name(&name), "is not a member of this request"));
            }
            if items.is_some() {
                return Err(self.refuse(name, "is given twice"));
            }
            items = Some(map.next_value_seed(ItemsSeed(&mut self))?);
        }
        items.ok_or_else(|| self.refuse("items".to_owned(), "is required"))
    }
}

struct ItemsSeed<'v, 'p>(&'v mut DocumentVisitor<'p>);

impl<'a> DeserializeSeed<'a> for ItemsSeed<'_, '_> {
    type Value = Vec<Item<'a>>;

    fn deserialize<D: serde::Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a> Visitor<'a> for ItemsSeed<'_, '_> {
    type Value = Vec<Item<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<&'a RawValue>()? {
            if items.len() == self.0.items_max {
                *self.0.problem = Some(BatchError::TooManyItems(self.0.items_max));
                return Err(A::Error::custom("too many items"));
            }
            items.push(decode_item(item.get(), self.0.default, self.0.currency));
        }
        Ok(items)
    }
}
