//! `metadata`: a JSON object that is carried along as it came, without insignificant white space.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::BadRequest;
use super::text::{decode_string, shown_name};

/// Largest `metadata`, in bytes, without insignificant white space.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Deepest nesting of `metadata`; the object itself is the first level.
pub const METADATA_DEPTH_MAX: usize = 32;

/// The compact form of a valid JSON text.
pub(super) fn compact(text: &str) -> Result<Box<str>, BadRequest> {
    if !text.starts_with('{') {
        return refuse("must be a JSON object");
    }
    // Bounded before the content is looked at: what follows walks each level again.
    let compact = without_white_space(text);
    if compact.len() > METADATA_BYTES_MAX {
        return refuse(&format!("must have at most {METADATA_BYTES_MAX} bytes"));
    }
    check(&compact, 1)?;
    Ok(compact.into_boxed_str())
}

fn refuse<T>(detail: &str) -> Result<T, BadRequest> {
    Err(BadRequest::new("metadata", detail))
}

/// Stops soon after the bound, so that a large body is not copied to be refused.
fn without_white_space(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(METADATA_BYTES_MAX));
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if out.len() > METADATA_BYTES_MAX {
            break;
        }
        if in_string {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
        } else {
            in_string = c == '"';
            if matches!(c, ' ' | '\t' | '\n' | '\r') {
                continue;
            }
        }
        out.push(c);
    }
    out
}

/// Refuses duplicate keys at any depth, strings that are no text, and nesting beyond the bound.
fn check(text: &str, depth: usize) -> Result<(), BadRequest> {
    let nested = matches!(text.as_bytes().first(), Some(b'{' | b'['));
    if nested && depth > METADATA_DEPTH_MAX {
        return refuse(&format!("must nest at most {METADATA_DEPTH_MAX} levels"));
    }
    if !nested {
        if text.starts_with('"') && decode_string(text).is_none() {
            return refuse("has a string that is not Unicode text");
        }
        return Ok(());
    }
    let mut keys = Vec::new();
    let parts = serde_json::Deserializer::from_str(text).deserialize_any(PartsVisitor { keys: &mut keys });
    let Ok(parts) = parts else { return refuse("has a member name that is not Unicode text") };
    keys.sort_unstable();
    if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        let name = shown_name(&pair[0]);
        return Err(BadRequest::new(format!("metadata.{name}"), "is given twice in one object"));
    }
    parts.into_iter().try_for_each(|part| check(part.get(), depth + 1))
}

/// The values of an object or array, and the decoded names of an object's members.
struct PartsVisitor<'k, 'a> {
    keys: &'k mut Vec<Cow<'a, str>>,
}

impl<'a> Visitor<'a> for PartsVisitor<'_, 'a> {
    type Value = Vec<&'a RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or array")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(key) = map.next_key::<&'a RawValue>()? {
            self.keys.push(decode_string(key.get()).ok_or_else(|| A::Error::custom("not text"))?);
            parts.push(map.next_value()?);
        }
        Ok(parts)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element()? {
            parts.push(part);
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn field_of(text: &str) -> String {
        compact(text).unwrap_err().field
    }

    #[test]
    fn white_space_outside_of_strings_goes() {
        let text = "{ \"a b\" :\t[ 1 ,\n{\"c\\\" d\" : \" e \"} ] , \"n\": 1e400 }";
        assert_eq!(&*compact(text).unwrap(), r#"{"a b":[1,{"c\" d":" e "}],"n":1e400}"#);
        assert_eq!(&*compact("{}").unwrap(), "{}");
    }

    #[test]
    fn duplicates_are_found_at_any_depth() {
        assert_eq!(field_of(r#"{"a":1,"a":1}"#), "metadata.a");
        assert_eq!(field_of(r#"{"a":1,"\u0061":1}"#), "metadata.a");
        assert_eq!(field_of(r#"{"x":[{"y":{"b":1,"c":2,"b":3}}]}"#), "metadata.b");
        assert!(compact(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#).is_ok());
    }

    #[test]
    fn the_bounds() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(compact(&nested(METADATA_DEPTH_MAX)).is_ok());
        assert_eq!(field_of(&nested(METADATA_DEPTH_MAX + 1)), "metadata");
        assert_eq!(field_of(&nested(100_000)), "metadata");
        let sized = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        assert_eq!(compact(&sized(METADATA_BYTES_MAX)).unwrap().len(), METADATA_BYTES_MAX);
        assert_eq!(field_of(&sized(METADATA_BYTES_MAX + 1)), "metadata");
        let spaced = format!("{{{}\"a\":1}}", " ".repeat(60_000));
        assert_eq!(&*compact(&spaced).unwrap(), r#"{"a":1}"#);
        for text in ["[]", "5", "\"a\"", "true", r#"{"a":"\ud800"}"#, r#"{"\ud800":1}"#] {
            assert_eq!(field_of(text), "metadata", "{text}");
        }
    }
}
