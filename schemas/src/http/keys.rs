//! Keys that make a retry recognizable: the `Idempotency-Key` and business keys. What they hash to is for
//! the holder of the secret.

use super::BadRequest;

/// Longest `Idempotency-Key`, in bytes, without its quotes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The kind of operation that a business key belongs to. Numbers are hashed with the key: they never
/// change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// An earn, by `reference_id` and `source`.
    Earn = 1,
    /// A redemption, by `reference_id` and `source`.
    Redeem = 2,
    /// A reversal, by `reference_id`.
    Reverse = 3,
    /// A till's sale or return, by store, terminal and the till's transaction.
    Pos = 4,
}

impl KeyKind {
    /// The kind that an outcome is asked for by, in the query parameter `op`.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "earn" => Self::Earn,
            "redeem" => Self::Redeem,
            "reverse" => Self::Reverse,
            // A till numbers its sales and returns in one row, so they share one kind of key.
            "pos" | "pos_return" => Self::Pos,
            _ => return None,
        })
    }
}

/// What identifies an operation by its content. Scoped to an account by whoever hashes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusinessKey<'a> {
    kind: KeyKind,
    parts: [Option<&'a str>; 3],
}

impl<'a> BusinessKey<'a> {
    /// Of an earn, redemption or reversal; a reversal has no source.
    pub fn reference(kind: KeyKind, reference_id: &'a str, source: Option<&'a str>) -> Self {
        Self { kind, parts: [Some(reference_id), source, None] }
    }

    /// Of a till's request.
    pub fn till(store_id: &'a str, terminal_id: Option<&'a str>, transaction_id: &'a str) -> Self {
        Self { kind: KeyKind::Pos, parts: [Some(store_id), terminal_id, Some(transaction_id)] }
    }

    /// Appends the form that is hashed; no two keys have the same.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        for part in self.parts {
            match part {
                Some(text) => {
                    out.extend_from_slice(&(text.len() as u32 + 1).to_le_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
                None => out.extend_from_slice(&[0; 4]),
            }
        }
    }
}

/// The key in the value of the header `Idempotency-Key`, a path segment or a batch item's
/// `idempotency_key`: bare or in double quotes, which are no part of it.
///
/// # Errors
/// When it is not 1 to 255 printable ASCII characters.
pub fn idempotency_key(value: &[u8]) -> Result<&str, BadRequest> {
    let bare = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    let printable = bare.iter().all(|b| (0x20..0x7f).contains(b));
    match std::str::from_utf8(bare) {
        Ok(key) if printable && (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(key),
        _ => {
            let detail = format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters");
            Err(BadRequest::new("Idempotency-Key", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn quotes_are_no_part_of_a_key() {
        assert_eq!(idempotency_key(b"k-1").unwrap(), "k-1");
        assert_eq!(idempotency_key(b"\"k-1\"").unwrap(), "k-1");
        assert_eq!(idempotency_key(b"\"").unwrap(), "\"");
        let long = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX);
        assert_eq!(idempotency_key(long.as_bytes()).unwrap(), long);
        for bad in ["", "\"\"", "a\tb", "é", &format!("{long}k")] {
            assert!(idempotency_key(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(idempotency_key(&[0xff]).is_err());
    }

    #[test]
    fn parts_cannot_be_taken_for_each_other() {
        let form = |key: BusinessKey<'_>| {
            let mut out = Vec::new();
            key.write_canonical(&mut out);
            out
        };
        let keys = [
            BusinessKey::reference(KeyKind::Earn, "ab", None),
            BusinessKey::reference(KeyKind::Redeem, "ab", None),
            BusinessKey::reference(KeyKind::Earn, "a", Some("b")),
            BusinessKey::reference(KeyKind::Earn, "b", Some("a")),
            BusinessKey::till("ab", None, "c"),
            BusinessKey::till("a", Some("b"), "c"),
            BusinessKey::till("a", None, "bc"),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(form(*a), form(*b));
            }
        }
    }
}
