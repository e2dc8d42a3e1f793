//! What an alias is: `kind:value`, in one form however it was typed. Pure.

use std::fmt;

/// Longest alias in bytes, kind and colon included, before and after it is normalized.
pub const ALIAS_BYTES_MAX: usize = 255;
const KIND_BYTES_MAX: usize = 32;
/// E.164: at most fifteen digits, country code included.
const PHONE_DIGITS_MAX: usize = 15;
const PHONE_DIGITS_MIN: usize = 3;

/// A normalized alias. Personal data: its `Debug` shows the kind alone, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alias(Box<str>);

/// Why a text is no alias. The messages repeat nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAlias {
    /// Neither `kind:value`, nor with `@`, nor with a leading `+`.
    #[error("an alias is kind:value, an address with @, or a phone number with a leading +")]
    NotAnAlias,
    /// Longer than [`ALIAS_BYTES_MAX`].
    #[error("an alias has at most 255 bytes")]
    TooLong,
    /// It has a control character.
    #[error("an alias has no control characters")]
    ControlCharacter,
    /// The kind is no lower-case word.
    #[error("the kind of an alias is a lower-case word of at most 32 letters, digits, - or _")]
    BadKind,
    /// Nothing after the kind.
    #[error("an alias has a value after its kind")]
    Empty,
    /// Not an E.164 number.
    #[error("a phone number is + and 3 to 15 digits (E.164)")]
    BadPhone,
    /// Not an address.
    #[error("an email address has one part before and one after its @, and no spaces")]
    BadEmail,
    /// Not a card number.
    #[error("a card number has ASCII digits or letters only")]
    BadCard,
}

impl Alias {
    /// The whole alias, `kind:value`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind, a lower-case word.
    pub fn kind(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl fmt::Debug for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:…", self.kind())
    }
}

/// Brings an alias into the one form in which it is stored and compared. `phone` loses spaces and dashes,
/// `email` its capitals; a bare value with `@` is an `email`, with a leading `+` a `phone`. Normalizing what is
/// normalized changes nothing.
pub fn normalize(text: &str) -> Result<Alias, NoAlias> {
    if text.len() > ALIAS_BYTES_MAX {
        return Err(NoAlias::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NoAlias::ControlCharacter);
    }
    let (kind, value) = match text.split_once(':') {
        _ if text.starts_with('+') => ("phone", text),
        Some((kind, value)) => (kind, value),
        None if text.contains('@') => ("email", text),
        None => return Err(NoAlias::NotAnAlias),
    };
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if kind.len() > KIND_BYTES_MAX || !kind.starts_with(|c: char| c.is_ascii_lowercase()) || !kind.bytes().all(word) {
        return Err(NoAlias::BadKind);
    }
    if value.is_empty() {
        return Err(NoAlias::Empty);
    }
    let value = match kind {
        "phone" => phone(value)?,
        "email" => email(value)?,
        "card" if !value.bytes().all(|b| b.is_ascii_alphanumeric()) => return Err(NoAlias::BadCard),
        _ => value.to_owned(),
    };
    let alias = format!("{kind}:{value}");
    // A lower-case letter can be longer than its capital.
    if alias.len() > ALIAS_BYTES_MAX {
        return Err(NoAlias::TooLong);
    }
    Ok(Alias(alias.into_boxed_str()))
}

fn phone(value: &str) -> Result<String, NoAlias> {
    let number: String = value.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let digits = number.strip_prefix('+').ok_or(NoAlias::BadPhone)?;
    let fits = (PHONE_DIGITS_MIN..=PHONE_DIGITS_MAX).contains(&digits.len());
    if !fits || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NoAlias::BadPhone);
    }
    Ok(number)
}

fn email(value: &str) -> Result<String, NoAlias> {
    let lower = value.to_lowercase();
    let (local, domain) = lower.rsplit_once('@').ok_or(NoAlias::BadEmail)?;
    if local.is_empty() || domain.is_empty() || local.contains('@') || lower.contains(char::is_whitespace) {
        return Err(NoAlias::BadEmail);
    }
    Ok(lower)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_form_however_it_was_typed() {
        let long = format!("card:{}", "7".repeat(250));
        let cases = [
            ("phone:+62 812-3456-7890", "phone:+6281234567890"),
            ("+62 812 3456 7890", "phone:+6281234567890"),
            ("+1-202-555-0100", "phone:+12025550100"),
            ("email:Ann@Example.COM", "email:ann@example.com"),
            ("Ann.Lee+x@Example.com", "email:ann.lee+x@example.com"),
            ("ÄNN@exämple.de", "email:änn@exämple.de"),
            ("card:60123456AB", "card:60123456AB"),
            ("line:U-Ab c:9", "line:U-Ab c:9"),
            ("x-1_2:v", "x-1_2:v"),
            ("wechat:a@b", "wechat:a@b"),
            (long.as_str(), long.as_str()),
        ];
        for (typed, normal) in cases {
            let alias = normalize(typed).unwrap();
            assert_eq!(alias.as_str(), normal);
            assert_eq!(normalize(alias.as_str()), Ok(alias.clone()), "normalizing twice");
            assert!(meed_schemas::ids::is_alias(typed));
            assert_eq!(format!("{alias:?}"), format!("{}:…", alias.kind()));
        }
    }

    #[test]
    fn what_is_no_alias() {
        let cases = [
            ("", NoAlias::NotAnAlias),
            ("m-1", NoAlias::NotAnAlias),
            ("phone:", NoAlias::Empty),
            ("phone:62812", NoAlias::BadPhone),
            ("phone:+0812345", NoAlias::BadPhone),
            ("+1234567890123456", NoAlias::BadPhone),
            ("+12", NoAlias::BadPhone),
            ("+1 (202) 555 0100", NoAlias::BadPhone),
            ("+１２３４", NoAlias::BadPhone),
            ("+", NoAlias::BadPhone),
            ("@", NoAlias::BadEmail),
            ("a@", NoAlias::BadEmail),
            ("a@b@c", NoAlias::BadEmail),
            ("a b@c", NoAlias::BadEmail),
            ("email:ann", NoAlias::BadEmail),
            ("card:6012 3456", NoAlias::BadCard),
            ("card:é", NoAlias::BadCard),
            ("Phone:+62812", NoAlias::BadKind),
            (":x", NoAlias::BadKind),
            ("1a:x", NoAlias::BadKind),
            ("a b:x", NoAlias::BadKind),
            ("line:a\u{7}", NoAlias::ControlCharacter),
            ("a\n@b", NoAlias::ControlCharacter),
        ];
        for (text, error) in cases {
            assert_eq!(normalize(text), Err(error), "{text:?}");
        }
        assert_eq!(normalize(&format!("card:{}", "7".repeat(251))), Err(NoAlias::TooLong));
        // İ becomes two letters of three bytes: what fitted does no more.
        let grows = format!("{}@b.cc", "İ".repeat(122));
        assert!(grows.len() <= ALIAS_BYTES_MAX);
        assert_eq!(normalize(&grows), Err(NoAlias::TooLong));
    }
}
