//! Writing JSON straight into bytes: no tree, no intermediate strings.

use crate::ids::Position;
use crate::money;
use crate::program::{MULTIPLIER_DIGITS, MULTIPLIER_ONE};
use crate::time::{self, Millis, NEVER};

/// The text that begins a member after another one: `,"name":`.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use key;

/// Appends text as it stands; for punctuation and member names.
#[inline]
pub fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends a JSON string with its quotes.
#[inline]
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    characters(out, text);
    out.push(b'"');
}

/// Appends the characters of a JSON string without quotes: `"`, `\` and control characters are escaped,
/// all else is UTF-8 as it is.
pub fn characters(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        match byte {
            b'"' => raw(out, "\\\""),
            b'\\' => raw(out, "\\\\"),
            b'\n' => raw(out, "\\n"),
            b'\r' => raw(out, "\\r"),
            b'\t' => raw(out, "\\t"),
            _ => {
                raw(out, "\\u00");
                out.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

/// Appends a string, or `null`.
pub fn string_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => raw(out, "null"),
    }
}

/// Appends an integer.
#[inline]
pub fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `true` or `false`.
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    raw(out, if value { "true" } else { "false" });
}

/// Appends a position as the string that ids are.
#[inline]
pub fn position(out: &mut Vec<u8>, position: Position) {
    out.push(b'"');
    integer(out, position.shard());
    out.push(b'-');
    integer(out, position.sequence());
    out.push(b'"');
}

/// Appends an instant as a string.
#[inline]
pub fn instant(out: &mut Vec<u8>, at: Millis) {
    out.push(b'"');
    time::write(out, at);
    out.push(b'"');
}

/// Appends an instant as a string, or `null` for none and for never.
pub fn instant_or_null(out: &mut Vec<u8>, at: impl Into<Option<Millis>>) {
    match at.into() {
        None | Some(NEVER) => raw(out, "null"),
        Some(at) => instant(out, at),
    }
}

/// Appends an amount as a string with all its minor digits.
pub fn amount(out: &mut Vec<u8>, minor: i64, minor_digits: u8) {
    out.push(b'"');
    money::write_minor(out, minor, minor_digits);
    out.push(b'"');
}

/// Appends a multiplier in ten-thousandths as a string without trailing zeros.
pub fn multiplier(out: &mut Vec<u8>, multiplier: u32) {
    if multiplier == MULTIPLIER_ONE {
        return raw(out, "\"1\"");
    }
    out.push(b'"');
    money::write_minor(out, i64::from(multiplier), MULTIPLIER_DIGITS);
    while out.last() == Some(&b'0') {
        out.pop();
    }
    if out.last() == Some(&b'.') {
        out.pop();
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_character_survives_escaping() {
        let all: String = (0..0x300u32).chain([0x2028, 0x1f600, 0xffff]).filter_map(char::from_u32).collect();
        let text = written(|out| string(out, &all));
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), all);
        assert!(text.bytes().all(|b| b >= 0x20 && b != 0x7f));
    }

    #[test]
    fn multipliers_have_no_trailing_zeros() {
        for (value, text) in [
            (0, "\"0\""),
            (1, "\"0.0001\""),
            (5_000, "\"0.5\""),
            (10_000, "\"1\""),
            (12_500, "\"1.25\""),
            (100_000, "\"10\""),
            (1_000_000, "\"100\""),
        ] {
            assert_eq!(written(|out| multiplier(out, value)), text);
        }
    }

    #[test]
    fn never_is_null() {
        assert_eq!(written(|out| instant_or_null(out, NEVER)), "null");
        assert_eq!(written(|out| instant_or_null(out, None)), "null");
        assert_eq!(written(|out| instant_or_null(out, 0)), "\"1970-01-01T00:00:00.000Z\"");
    }
}
