//! What texts in requests have in common, wherever they stand.

use std::borrow::Cow;

/// Longest reference, in bytes.
const REFERENCE_BYTES_MAX: usize = 255;

/// Whether text is a reference: 1 to 255 bytes without control characters.
pub(super) fn is_reference(text: &str) -> bool {
    let plain = |b: u8| (0x20..0x7f).contains(&b);
    (1..=REFERENCE_BYTES_MAX).contains(&text.len()) && (text.bytes().all(plain) || !text.chars().any(char::is_control))
}

/// The text of a JSON string literal; `None` for anything else, and for half a surrogate pair, which only
/// decoding notices.
pub(super) fn decode_string(literal: &str) -> Option<Cow<'_, str>> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        return serde_json::from_str::<String>(literal).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// An unknown member's name as a refusal names it: cut to what a client needs to find it.
pub(super) fn shown_name(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().take(CHARS_MAX).collect()
}
