use meed_schemas::event::cursor;
use meed_schemas::http::problem::Problem;
use meed_schemas::http::{
    BATCH_ITEMS_MAX, BadRequest, BatchFormat, Decoded, Operation, decode, decode_batch, decode_list_query,
    decode_lookup, decode_nothing, decode_outcome_query, decode_version_query, idempotency_key, subject,
};
use meed_schemas::ids::{Identity, Position};
use meed_schemas::money::Currency;
use meed_schemas::program::Document;
use meed_schemas::time;

const SUBJECT: &str = "003000000000000f";

/// What a client sends. The first byte chooses what the rest is taken for: the body of an operation, of a batch, of
/// a program, or a query.
pub fn http(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let Some(currency) = Currency::from_code("IDR") else { return };
    match usize::from(kind) % 20 {
        chosen @ 0..11 => operation(Operation::ALL[chosen], body, currency),
        11 => batch(body, BatchFormat::Json, currency),
        12 => batch(body, BatchFormat::Ndjson, currency),
        13 => {
            if let Err(refusal) = decode_lookup(body) {
                refused(&refusal);
            }
        }
        14 => {
            if let Err(refusal) = decode_nothing(body) {
                refused(&refusal);
            }
        }
        15 => document(body),
        16 => {
            let _ = idempotency_key(body);
        }
        _ => queries(body),
    }
}

/// A single request is the same request as an item of a batch, in either form.
fn operation(operation: Operation, body: &[u8], currency: Currency) {
    let single = decode(operation, body, subject(SUBJECT), currency);
    match &single {
        Ok(decoded) => accepted(decoded),
        Err(refusal) => refused(refusal),
    }
    let Some(name) = name_of(operation) else { return };
    let Ok(text) = std::str::from_utf8(body) else { return };
    let Some(members) = text.trim_start_matches([' ', '\n', '\r', '\t']).strip_prefix('{') else { return };
    let path = match operation {
        Operation::Pos | Operation::PosReturn => String::new(),
        Operation::Capture | Operation::Void => format!(r#","account":"m-1","hold_id":"{SUBJECT}""#),
        Operation::Reverse => format!(r#","account":"m-1","reverse_transaction_id":"{SUBJECT}""#),
        _ => r#","account":"m-1""#.to_owned(),
    };
    let comma = if members.trim_start().starts_with('}') { "" } else { "," };
    let item = format!(r#"{{"op":"{name}"{path}{comma}{members}"#);
    let same = |item: &Result<Decoded<'_>, BadRequest>| match (&single, item) {
        (Ok(single), Ok(item)) => single.command == item.command && single.business_key() == item.business_key(),
        (single, item) => single.is_err() && item.is_err(),
    };
    let document = format!(r#"{{"items":[{item}]}}"#);
    match decode_batch(document.as_bytes(), BatchFormat::Json, None, currency, 1) {
        Ok(items) => assert!(same(&items[0]), "{single:?} alone and {items:?} in a batch"),
        Err(error) => assert!(single.is_err(), "{single:?} alone and {error:?} in a batch"),
    }
    if !item.contains('\n') {
        match decode_batch(item.as_bytes(), BatchFormat::Ndjson, None, currency, 1) {
            Ok(items) => assert!(same(&items[0]), "{single:?} alone and {items:?} in a line"),
            Err(error) => panic!("a line is one item: {error:?}"),
        }
    }
}

fn name_of(operation: Operation) -> Option<&'static str> {
    let names = ["earn", "redeem", "adjust", "pos", "pos_return", "hold", "capture", "void", "reverse"];
    names.into_iter().find(|name| Operation::from_name(name) == Some(operation))
}

fn accepted(decoded: &Decoded<'_>) {
    let mut canonical = Vec::new();
    decoded.command.write_canonical(&mut canonical);
    if let Some(key) = decoded.business_key() {
        key.write_canonical(&mut canonical);
    }
    let _ = decoded.sale_key();
    assert!(!canonical.is_empty());
}

/// A refusal is shown to the client, so it must be JSON whatever was sent.
fn refused(refusal: &BadRequest) {
    let mut body = Vec::new();
    Problem::from(refusal.clone()).write(&mut body, "r-1");
    let text = String::from_utf8_lossy(&body);
    assert!(!text.chars().any(|c| c < ' '), "{text:?}");
    assert!(text.starts_with(r#"{"type":"/problems/"#) && text.ends_with('}'), "{text}");
}

fn batch(body: &[u8], format: BatchFormat, currency: Currency) {
    let all = decode_batch(body, format, Some(Operation::Pos), currency, BATCH_ITEMS_MAX);
    let Ok(items) = all else { return };
    for item in &items {
        match item {
            Ok(decoded) => accepted(decoded),
            Err(refusal) => refused(refusal),
        }
    }
    if !items.is_empty() {
        let fewer = decode_batch(body, format, Some(Operation::Pos), currency, items.len() - 1);
        assert!(fewer.is_err(), "{} items pass where one less is allowed", items.len());
    }
}

fn document(body: &[u8]) {
    let Ok(document) = Document::parse(body) else { return };
    let canonical = document.to_canonical_json();
    match Document::parse(canonical.as_bytes()) {
        Ok(again) => assert_eq!(again.to_canonical_json(), canonical),
        Err(error) => panic!("{canonical} is refused: {error:?}"),
    }
}

fn queries(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let pairs: Vec<(&str, &str)> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let identity = Identity::member("default", "m-1");
    if let Err(refusal) = decode_list_query(&pairs).and_then(|list| list.of(&identity, |_| 7)) {
        refused(&refusal);
    }
    match decode_outcome_query(&pairs) {
        Ok(key) => key.write_canonical(&mut Vec::new()),
        Err(refusal) => refused(&refusal),
    }
    let _ = decode_version_query(&pairs);
    if let Some(sequences) = cursor::decode(text, 1, 3) {
        assert_eq!(cursor::decode(&cursor::encode(1, &sequences), 1, 3), Some(sequences));
    }
    if let Some(position) = Position::parse(text) {
        assert_eq!(Position::parse(&position.to_string()), Some(position));
    }
    if let Some(at) = time::parse(text) {
        assert_eq!(time::parse(&time::format(at)), Some(at));
    }
}
