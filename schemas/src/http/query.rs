//! Query parameters of reads, and the cursor of a list.

use super::BadRequest;
use super::keys::{BusinessKey, KeyKind};
use super::text::{is_reference, shown_name};
use crate::ids::{Identity, Position, check_id};
use crate::record::RecordKind;

/// Rows of a list when the request does not say.
pub const LIST_LIMIT_DEFAULT: usize = 50;
/// Most rows of one list.
pub const LIST_LIMIT_MAX: usize = 500;
/// Most rows that `offset` may skip: each is walked over. Beyond it there are cursors.
pub const LIST_OFFSET_MAX: usize = 10_000;

/// The parameters of a list of transactions, before anything is known of its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListParameters<'a> {
    limit: usize,
    offset: usize,
    kind: Option<RecordKind>,
    cursor: Option<&'a str>,
}

/// What a list of transactions is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Most rows, 1 to [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// Rows to skip, up to [`LIST_OFFSET_MAX`]; 0 with a cursor.
    pub offset: usize,
    /// Only rows of this type.
    pub kind: Option<RecordKind>,
    /// The row to begin with; absent: the newest.
    pub from: Option<Position>,
}

/// Where a list goes on: the next row to show, of which type and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The type that the list is restricted to.
    pub kind: Option<RecordKind>,
    /// The next row.
    pub next: Position,
}

const CURSOR_VERSION: u8 = 1;
const CURSOR_BYTES: usize = 10;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of a cursor: URL-safe and opaque. `seal` is a keyed hash, which is made over the cursor and the
/// account, so that a cursor is of use only where it was given out.
pub fn encode_cursor(cursor: Cursor, identity: &Identity, seal: impl Fn(&[u8]) -> u64) -> String {
    let mut bytes = [0; CURSOR_BYTES + 8];
    bytes[0] = CURSOR_VERSION;
    bytes[1] = cursor.kind.map_or(0, |kind| kind as u8);
    bytes[2..CURSOR_BYTES].copy_from_slice(&cursor.next.to_u64().to_be_bytes());
    let sealed = seal_of(&bytes[..CURSOR_BYTES], identity, seal);
    bytes[CURSOR_BYTES..].copy_from_slice(&sealed.to_be_bytes());
    // Three bytes are four digits, and 18 bytes leave no rest.
    let digits = bytes.chunks_exact(3).flat_map(|three| {
        let group = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(group >> shift & 63) as usize]))
    });
    digits.collect()
}

fn seal_of(cursor: &[u8], identity: &Identity, seal: impl Fn(&[u8]) -> u64) -> u64 {
    let mut sealed = Vec::with_capacity(cursor.len() + identity.as_bytes().len());
    sealed.extend_from_slice(cursor);
    sealed.extend_from_slice(identity.as_bytes());
    seal(&sealed)
}

fn decode_cursor(text: &str, identity: &Identity, seal: impl Fn(&[u8]) -> u64) -> Option<Cursor> {
    let mut bytes = [0; CURSOR_BYTES + 8];
    if text.len() != bytes.len() / 3 * 4 {
        return None;
    }
    for (four, three) in text.as_bytes().chunks_exact(4).zip(bytes.chunks_exact_mut(3)) {
        let mut group = 0;
        for digit in four {
            group = group << 6 | DIGITS.iter().position(|d| d == digit)? as u32;
        }
        three.copy_from_slice(&group.to_be_bytes()[1..]);
    }
    let (cursor, sealed) = bytes.split_at(CURSOR_BYTES);
    if cursor[0] != CURSOR_VERSION || seal_of(cursor, identity, seal).to_be_bytes() != sealed {
        return None;
    }
    let kind = match cursor[1] {
        0 => None,
        byte => Some(RecordKind::from_byte(byte)?),
    };
    let next = Position::from_u64(u64::from_be_bytes(cursor[2..].try_into().ok()?));
    Some(Cursor { kind, next })
}

/// Reads the decoded query parameters of a list of transactions.
///
/// # Errors
/// A parameter that is unknown, given twice or out of its bounds, or an `offset` beyond its bound (which names
/// `cursor`, as that is what to use).
pub fn decode_list_query<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Result<ListParameters<'_>, BadRequest> {
    let [limit, offset, kind, cursor] = parameters(pairs, ["limit", "offset", "type", "cursor"])?;
    let number = |name: &str, text: Option<&str>, default: usize, least: usize, most: usize| {
        let Some(text) = text else { return Ok(default) };
        whole_number(text).filter(|value| *value >= least && *value <= most).ok_or_else(|| {
            let detail = format!("must be a whole number from {least} to {most}");
            BadRequest::new(name, detail)
        })
    };
    let kind = match kind {
        Some(name) => Some(RecordKind::from_name(name).ok_or_else(|| {
            let names = RecordKind::EFFECTS.map(RecordKind::name).join(", ");
            BadRequest::new("type", format!("must be one of {names}"))
        })?),
        None => None,
    };
    let limit = number("limit", limit, LIST_LIMIT_DEFAULT, 1, LIST_LIMIT_MAX)?;
    if offset.and_then(whole_number).is_some_and(|offset| offset > LIST_OFFSET_MAX) {
        let detail = format!("is needed to go on here: `offset` is at most {LIST_OFFSET_MAX}, so follow `next`");
        return Err(BadRequest::new("cursor", detail));
    }
    let rows = number("offset", offset, 0, 0, LIST_OFFSET_MAX)?;
    if cursor.is_some() && offset.is_some() {
        return Err(BadRequest::new("cursor", "cannot come with `offset`"));
    }
    Ok(ListParameters { limit, offset: rows, kind, cursor })
}

impl ListParameters<'_> {
    /// The list of an account.
    ///
    /// # Errors
    /// A cursor of another list.
    pub fn of(self, identity: &Identity, seal: impl Fn(&[u8]) -> u64) -> Result<ListQuery, BadRequest> {
        let Self { limit, offset, kind, cursor } = self;
        let Some(text) = cursor else { return Ok(ListQuery { limit, offset, kind, from: None }) };
        let cursor = decode_cursor(text, identity, seal)
            .ok_or_else(|| BadRequest::new("cursor", "must be the `next` of an earlier list of this account"))?;
        if cursor.kind != kind {
            return Err(BadRequest::new("cursor", "must come with the `type` of the list that it continues"));
        }
        Ok(ListQuery { limit, offset, kind, from: Some(cursor.next) })
    }
}

/// Reads the decoded query parameters of `GET …/outcomes`: a business key.
///
/// # Errors
/// A parameter that is unknown, given twice, missing or no part of a key.
pub fn decode_outcome_query<'a, N: AsRef<str>, V: AsRef<str>>(
    pairs: &'a [(N, V)],
) -> Result<BusinessKey<'a>, BadRequest> {
    const NAMES: [&str; 6] = ["op", "reference_id", "source", "store_id", "terminal_id", "transaction_id"];
    let values = parameters(pairs, NAMES)?;
    let [op, reference_id, source, store_id, terminal_id, transaction_id] = values;
    let name = op.ok_or_else(|| BadRequest::new("op", "is required"))?;
    let kind = KeyKind::from_name(name).ok_or_else(|| BadRequest::new("op", "must be earn, redeem, reverse or pos"))?;
    let allowed: &[&str] = match kind {
        KeyKind::Earn | KeyKind::Redeem => &["op", "reference_id", "source"],
        KeyKind::Reverse => &["op", "reference_id"],
        KeyKind::Pos => &["op", "store_id", "terminal_id", "transaction_id"],
    };
    for (name, value) in NAMES.into_iter().zip(values) {
        if value.is_some() && !allowed.contains(&name) {
            return Err(BadRequest::new(name, "is no part of the key of this `op`"));
        }
    }
    let part = |name: &str, value: Option<&'a str>, right: fn(&str) -> bool| match value {
        Some(value) if right(value) => Ok(value),
        Some(_) => Err(BadRequest::new(name, "is no part of any key")),
        None => Err(BadRequest::new(name, "is required")),
    };
    let optional = |name: &str, value: Option<&'a str>, right| value.map(|_| part(name, value, right)).transpose();
    if kind == KeyKind::Pos {
        let store_id = part("store_id", store_id, check_id)?;
        let terminal_id = optional("terminal_id", terminal_id, check_id)?;
        let transaction_id = part("transaction_id", transaction_id, is_reference)?;
        return Ok(BusinessKey::till(store_id, terminal_id, transaction_id));
    }
    let reference_id = part("reference_id", reference_id, is_reference)?;
    Ok(BusinessKey::reference(kind, reference_id, optional("source", source, is_reference)?))
}

/// Reads the decoded query parameters of `GET /api/v1/programs/{program}`: the version, if one is named.
///
/// # Errors
/// A parameter that is unknown or given twice, or a version that is no number from 1.
pub fn decode_version_query<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Result<Option<u32>, BadRequest> {
    let [version] = parameters(pairs, ["version"])?;
    let Some(text) = version else { return Ok(None) };
    match whole_number(text).and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number >= 1 => Ok(Some(number)),
        _ => Err(BadRequest::new("version", "must be a whole number from 1")),
    }
}

/// The parameters by name, each known and given once.
fn parameters<'a, const COUNT: usize, N: AsRef<str>, V: AsRef<str>>(
    pairs: &'a [(N, V)],
    names: [&str; COUNT],
) -> Result<[Option<&'a str>; COUNT], BadRequest> {
    let mut values = [None; COUNT];
    for (name, value) in pairs {
        let Some(index) = names.iter().position(|known| *known == name.as_ref()) else {
            let shown = shown_name(name.as_ref());
            return Err(BadRequest::new(shown, "is not a parameter of this request"));
        };
        if values[index].replace(value.as_ref()).is_some() {
            return Err(BadRequest::new(names[index], "is given twice"));
        }
    }
    Ok(values)
}

/// Decimal digits, nothing else.
fn whole_number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A number beyond any bound is still a number.
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn seal(bytes: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(bytes)
    }

    fn list(pairs: &[(&str, &str)]) -> Result<ListQuery, BadRequest> {
        decode_list_query(pairs)?.of(&Identity::member("p", "m"), seal)
    }

    #[test]
    fn lists_have_defaults_and_bounds() {
        assert_eq!(list(&[]).unwrap(), ListQuery { limit: 50, offset: 0, kind: None, from: None });
        let query = list(&[("limit", "500"), ("offset", "10000"), ("type", "EARN")]).unwrap();
        assert_eq!(query, ListQuery { limit: 500, offset: 10_000, kind: Some(RecordKind::Earn), from: None });
        for (pairs, field) in [
            (&[("limit", "0")][..], "limit"),
            (&[("limit", "501")], "limit"),
            (&[("limit", "+5")], "limit"),
            (&[("limit", "")], "limit"),
            (&[("offset", "10001")], "cursor"),
            (&[("offset", "99999999999999999999999")], "cursor"),
            (&[("offset", "-1")], "offset"),
            (&[("type", "earn")], "type"),
            (&[("type", "REFUSAL")], "type"),
            (&[("limit", "5"), ("limit", "5")], "limit"),
            (&[("page", "1")], "page"),
            (&[("cursor", "")], "cursor"),
        ] {
            assert_eq!(list(pairs).unwrap_err().field, field, "{pairs:?}");
        }
    }

    #[test]
    fn a_cursor_continues_only_its_own_list() {
        let identity = Identity::member("p", "m");
        let cursor = Cursor { kind: Some(RecordKind::Redeem), next: Position::new(7, 123_456_789) };
        let text = encode_cursor(cursor, &identity, seal);
        assert_eq!(text.len(), 24);
        let query = list(&[("cursor", &text), ("type", "REDEEM"), ("limit", "7")]).unwrap();
        assert_eq!((query.from, query.kind, query.limit), (Some(cursor.next), cursor.kind, 7));
        for pairs in [
            &[("cursor", text.as_str())][..],
            &[("cursor", &text), ("type", "EARN")],
            &[("cursor", &text), ("type", "REDEEM"), ("offset", "0")],
        ] {
            assert_eq!(list(pairs).unwrap_err().field, "cursor", "{pairs:?}");
        }
        let others = Identity::member("p", "other");
        let pairs = [("cursor", text.as_str()), ("type", "REDEEM")];
        assert!(decode_list_query(&pairs).unwrap().of(&others, seal).is_err());
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(list(&[("cursor", &changed), ("type", "REDEEM")]).is_err(), "{changed}");
        }
    }

    #[test]
    fn outcomes_are_asked_for_by_a_whole_key() {
        let ask = |pairs: &'static [(&'static str, &'static str)]| decode_outcome_query(pairs);
        let earn = ask(&[("op", "earn"), ("reference_id", "r"), ("source", "s")]).unwrap();
        assert_eq!(earn, BusinessKey::reference(KeyKind::Earn, "r", Some("s")));
        let till = ask(&[("op", "pos"), ("store_id", "s"), ("transaction_id", "t")]).unwrap();
        assert_eq!(till, BusinessKey::till("s", None, "t"));
        let with_terminal = ask(&[("op", "pos"), ("store_id", "s"), ("terminal_id", "1"), ("transaction_id", "t")]);
        assert_eq!(with_terminal.unwrap(), BusinessKey::till("s", Some("1"), "t"));
        for (pairs, field) in [
            (&[("reference_id", "r")][..], "op"),
            (&[("op", "adjust"), ("reference_id", "r")], "op"),
            (&[("op", "earn")], "reference_id"),
            (&[("op", "earn"), ("reference_id", "")], "reference_id"),
            (&[("op", "reverse"), ("reference_id", "r"), ("source", "s")], "source"),
            (&[("op", "pos"), ("store_id", "s")], "transaction_id"),
            (&[("op", "pos"), ("store_id", "s p"), ("transaction_id", "t")], "store_id"),
            (&[("op", "earn"), ("reference_id", "r"), ("store_id", "s")], "store_id"),
        ] {
            assert_eq!(decode_outcome_query(pairs).unwrap_err().field, field, "{pairs:?}");
        }
    }

    #[test]
    fn versions_begin_at_one() {
        let version = |text| decode_version_query(&[("version", text)]);
        assert_eq!(version("3").unwrap(), Some(3));
        assert_eq!(decode_version_query::<&str, &str>(&[]).unwrap(), None);
        for text in ["0", "-1", "x", "4294967296"] {
            assert!(version(text).is_err(), "{text}");
        }
    }
}
