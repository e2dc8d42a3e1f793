//! What lies in data folders and keyspaces for years and has no version byte that could tell a change: the shard of an
//! account, and the bytes whose keyed hashes recognize a retry. With another shard no account would be found again;
//! with other bytes every retry across an upgrade would be another operation.
//!
//! A fixture that is not there is written with `UPDATE_FIXTURES=1`; one that is there is never changed.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::PathBuf;

use meed_schemas::command::{Basis, Command, Earn, Portion, References, Status};
use meed_schemas::http::{BusinessKey, KeyKind};
use meed_schemas::ids::{AccountKind, ID_BYTES_MAX, Identity, Position, SHARD_HASH_NAME};
use serde_json::{Value, json};

const SHARD_COUNTS: [u16; 3] = [1, 16, 4_096];

/// The text of a fixture, which is `text` where there is none yet and one may be written.
fn fixture(file: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every kind, and byte forms of 21 to 23 bytes: up to 22 lie in the identity itself.
fn identities() -> Vec<Identity> {
    let member = |id: &str| Identity::member("default", id);
    vec![
        member("m-1"),
        member("c-0001"),
        member("member-00001"),
        member("member-000001"),
        member("member-0000001"),
        member(&"x".repeat(ID_BYTES_MAX)),
        Identity::member("a-much-longer-program", "m-1"),
        Identity::new("default", AccountKind::Stock, "m-1"),
        Identity::new("default", AccountKind::Budget, "spring"),
        Identity::program_account("default"),
        Identity::new("default", AccountKind::Order, "order-77"),
    ]
}

#[test]
fn the_shard_of_an_account_never_changes() {
    let accounts: Vec<Value> = identities()
        .iter()
        .map(|identity| {
            let shards = SHARD_COUNTS.map(|count| (count.to_string(), json!(identity.shard(count))));
            json!({
                "program": identity.program(), "kind": identity.kind() as u8, "id": identity.id(),
                "shard_of": serde_json::Map::from_iter(shards),
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({"hash": SHARD_HASH_NAME, "accounts": accounts})).unwrap();
    let fixture: Value = serde_json::from_str(&fixture("shard_of.json", &format!("{text}\n"))).unwrap();
    assert_eq!(fixture["hash"], SHARD_HASH_NAME);
    let accounts = fixture["accounts"].as_array().unwrap();
    assert_eq!(accounts.len(), identities().len());
    for (account, expected) in accounts.iter().zip(identities()) {
        let kind = AccountKind::from_byte(account["kind"].as_u64().unwrap() as u8).unwrap();
        let identity = Identity::new(account["program"].as_str().unwrap(), kind, account["id"].as_str().unwrap());
        assert_eq!(identity, expected);
        for count in SHARD_COUNTS {
            assert_eq!(account["shard_of"][count.to_string()], identity.shard(count), "{identity:?} of {count}");
        }
    }
}

/// Of every member that is compared another value, so that no two can be exchanged unseen.
fn references() -> Option<Box<References>> {
    let text = |text: &str| Some(text.into());
    Some(Box::new(References {
        source: text("PURCHASE"),
        reference_id: text("order-1"),
        description: text("not compared"),
        reason: text("goodwill"),
        reward_id: text("tea"),
        metadata: text(r#"{"not":"compared"}"#),
        store_id: text("s-1"),
        terminal_id: text("t-1"),
        pos_transaction_id: text("0001"),
        traceparent: text("00-not-compared"),
    }))
}

/// Every command that can have a key, with its optional members and without.
fn commands() -> Vec<(&'static str, Command)> {
    let (hold, none, at) = (Position::new(3, 7), || None, Some(1_770_000_000_000));
    let earn = |basis, occurred_at, expires_at, activates_at| Earn { basis, occurred_at, expires_at, activates_at };
    let points = earn(Basis::Points(5), None, None, None);
    let amount = earn(Basis::Amount(1_990), at, Some(1_800_000_000_000), Some(-1));
    let reverse = |portion, occurred_at| Command::Reverse { original: hold, portion, occurred_at, references: None };
    vec![
        ("earn points", Command::Earn { earn: points, references: none() }),
        ("earn amount", Command::Earn { earn: amount, references: references() }),
        ("redeem", Command::Redeem { points: 50, occurred_at: None, references: none() }),
        ("redeem at", Command::Redeem { points: 50, occurred_at: at, references: references() }),
        ("adjust", Command::Adjust { points: -7, expires_at: None, references: none() }),
        ("adjust until", Command::Adjust { points: 7, expires_at: at, references: references() }),
        ("sale", Command::Sale { amount: 9, redeem_points: None, occurred_at: 1, references: references() }),
        ("sale redeeming", Command::Sale { amount: 0, redeem_points: Some(3), occurred_at: 1, references: none() }),
        (
            "return",
            Command::SaleReturn {
                sale: u128::MAX - 1,
                portion: Portion::Amount(9),
                occurred_at: at,
                references: references(),
            },
        ),
        ("reverse", reverse(Portion::Rest, None)),
        ("reverse amount", reverse(Portion::Amount(4), at)),
        ("reverse points", reverse(Portion::Points(4), at)),
        ("hold", Command::Hold { points: 9, ttl_seconds: None, references: none() }),
        ("hold for", Command::Hold { points: 9, ttl_seconds: Some(60), references: references() }),
        ("capture", Command::Capture { hold, points: None, references: none() }),
        ("capture part", Command::Capture { hold, points: Some(2), references: references() }),
        ("void", Command::Void { hold, references: references() }),
        ("freeze", Command::SetStatus { status: Status::Frozen, references: references() }),
        ("close", Command::SetStatus { status: Status::Closed, references: none() }),
        ("tier", Command::SetTier { tier: Some("GOLD".into()), until: at, references: references() }),
        ("no tier", Command::SetTier { tier: None, until: None, references: none() }),
    ]
}

fn keys() -> Vec<(&'static str, BusinessKey<'static>)> {
    vec![
        ("earn", BusinessKey::reference(KeyKind::Earn, "order-1", None)),
        ("earn with source", BusinessKey::reference(KeyKind::Earn, "order-1", Some("PURCHASE"))),
        ("redeem", BusinessKey::reference(KeyKind::Redeem, "order-1", None)),
        ("reverse", BusinessKey::reference(KeyKind::Reverse, "order-1", None)),
        ("till", BusinessKey::till("s-1", None, "0001")),
        ("till with terminal", BusinessKey::till("s-1", Some("t-1"), "0001")),
    ]
}

/// One line each: name, tab, bytes in hexadecimal digits.
fn hex_lines(all: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> String {
    let mut text = String::new();
    for (name, bytes) in all {
        write!(text, "{name}\t").unwrap();
        bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

fn compare(file: &str, text: &str) {
    let fixture = fixture(file, text);
    for (line, expected) in text.lines().zip(fixture.lines()) {
        assert_eq!(line, expected, "{file}");
    }
    assert_eq!(text.lines().count(), fixture.lines().count(), "{file}");
}

#[test]
fn what_a_retry_is_recognized_by_never_changes() {
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    };
    let commands = commands().into_iter().map(|(name, command)| (name, written(&|out| command.write_canonical(out))));
    compare("canonical/commands.hex", &hex_lines(commands));
    let keys = keys().into_iter().map(|(name, key)| (name, written(&|out| key.write_canonical(out))));
    compare("canonical/business-keys.hex", &hex_lines(keys));
}
