//! What is published against `events/` and `asyncapi.yaml`: golden events byte for byte, their schemas, and
//! that a schema never breaks a reader of today. A golden event of a record never changes: what is sent
//! again after years is rendered again. `UPDATE_FIXTURES=1` writes what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meed_schemas::event::{
    Attributes, BALANCES_TOPIC, Balance, Documents, EVENTS_TOPIC, EventType, write_balance, write_data,
    write_structured,
};
use meed_schemas::record::{Detail, Record, RecordKind};
use serde_json::{Value, json};

use crate::records::{Named, at, facts, record, records, written};
use crate::schema::{check, object, resolved, validate};

const JOURNAL_ID: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("events")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(name: &str) -> Value {
    read(&folder().join(format!("{name}.schema.json")))
}

/// Every schema by its name.
fn schemas() -> BTreeMap<String, Value> {
    let types = EventType::ALL.into_iter().map(EventType::name);
    types.chain(["balance", "event"]).map(|name| (name.to_owned(), schema(name))).collect()
}

/// The records of all kinds, and those whose event differs though their kind does not.
fn events() -> Vec<Named> {
    let tier = |from: &str, to: &str| {
        record(RecordKind::Tier, 0, &[], Detail::Tier { from: from.into(), to: to.into(), manual: None })
    };
    let mut traced = records().swap_remove(0).1;
    let references = traced.references.as_mut().unwrap();
    references.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    let mut all = records();
    all.extend([
        ("earn_traced", traced),
        ("tier_down", tier("GOLD", "SILVER")),
        ("tier_gone", tier("DIAMOND", "BRONZE")),
        ("tier_same", tier("SILVER", "SILVER")),
    ]);
    all
}

fn structured(record: &Record) -> String {
    let facts = facts();
    let documents = Documents { decided: &facts.0, newest: &facts.0 };
    let mut attributes = Attributes::default();
    assert!(attributes.set(record, JOURNAL_ID, documents));
    written(|out| write_structured(out, &attributes, record, documents))
}

fn golden(name: &str, text: &str) {
    let path = folder().join("examples").join(format!("{name}.json"));
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, format!("{text}\n")).unwrap();
    }
    let fixture = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(format!("{text}\n"), fixture, "{name}");
}

/// Whether a value has only members that its schema describes.
fn described(schema: &Value, value: &Value, at: &str) {
    for (name, inner) in object(value) {
        let property = &schema["properties"][name];
        assert!(property.is_object(), "{at}.{name} is not described");
        if property.get("properties").is_some() {
            described(property, inner, &format!("{at}.{name}"));
        }
        for item in inner.as_array().into_iter().flatten() {
            described(&property["items"], item, &format!("{at}.{name}[]"));
        }
    }
}

#[test]
fn every_event_is_golden_and_valid() {
    let mut seen = BTreeSet::new();
    for (name, record) in events() {
        let text = structured(&record);
        golden(name, &text);
        let event: Value = serde_json::from_str(&text).unwrap();
        validate(&event, &schema("event"), &event, name);
        described(&schema("event"), &event, name);
        let kind = event["type"].as_str().unwrap();
        let of_type = schema(kind);
        validate(&of_type, &of_type, &event["data"], name);
        described(&of_type, &event["data"], name);
        assert_eq!(EventType::from_name(kind).map(EventType::name), Some(kind));
        seen.insert(kind.to_owned());
    }
    assert_eq!(seen, EventType::ALL.map(|event| event.name().to_owned()).into());
}

#[test]
fn attributes_follow_from_the_record_alone() {
    let (_, earn) = events().into_iter().find(|(name, _)| *name == "earn_traced").unwrap();
    let event: Value = serde_json::from_str(&structured(&earn)).unwrap();
    assert_eq!(event["id"], "0123456789abcdef0011223344556677-3-17");
    assert_eq!(event["source"], "/programs/default");
    assert_eq!(event["partitionkey"], "default/member/m-1");
    assert_eq!(event["sequence"], "00000000000000000005");
    assert_eq!(event["time"], "2026-11-20T10:00:00.000Z");
    assert_eq!(event["recordedtime"], meed_schemas::time::format(at("2026-11-21T01:02:03.004Z")));
    assert!(event["traceparent"].as_str().unwrap().starts_with("00-"));
    let odd = Record { identity: meed_schemas::ids::Identity::member("a<b>", "m\"1"), sequence: u64::MAX, ..earn };
    let event: Value = serde_json::from_str(&structured(&odd)).unwrap();
    assert_eq!((&event["source"], &event["subject"]), (&json!("/programs/a%3Cb%3E"), &json!("m\"1")));
    assert_eq!(event["sequence"], u64::MAX.to_string());
}

#[test]
fn records_without_effect_have_no_event() {
    let facts = facts();
    let documents = Documents { decided: &facts.0, newest: &facts.0 };
    for kind in [RecordKind::Refusal, RecordKind::Key] {
        let record = Record { sequence: 0, ..record(kind, 0, &[], Detail::None) };
        assert!(!Attributes::default().set(&record, JOURNAL_ID, documents));
    }
}

/// Redemption codes are worth points, and a trace is an attribute.
#[test]
fn nothing_secret_is_in_the_data() {
    for (name, record) in events() {
        let text = structured(&record);
        let data: Value = serde_json::from_str(&text).unwrap();
        let data = data["data"].to_string();
        for secret in ["redemption_code", "CODE0", "fingerprint", "traceparent", "idempotency"] {
            assert!(!data.contains(secret), "{name}: {secret}");
        }
    }
}

#[test]
fn balances_are_golden_and_valid() {
    let facts = facts();
    let documents = Documents { decided: &facts.0, newest: &facts.0 };
    let (_, earn) = records().swap_remove(0);
    let text = written(|out| write_balance(out, &earn.identity, &Balance::of(&earn), documents.newest));
    golden("balance", &text);
    let (value, schema) = (serde_json::from_str(&text).unwrap(), schema("balance"));
    validate(&schema, &schema, &value, "balance");
    described(&schema, &value, "balance");
    let data: Value = serde_json::from_str(&written(|out| write_data(out, &earn, documents))).unwrap();
    for (name, member) in object(&value) {
        assert_eq!(&data[name], member, "a balance says what the event says");
    }
}

#[test]
fn invalid_examples_are_refused() {
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder().join("invalid")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let all = schemas();
        let (name, schema) = all.iter().find(|(name, _)| file.starts_with(&format!("{name}."))).unwrap();
        let refused = check(schema, schema, &read(&path), name);
        assert!(refused.is_err(), "{file} is valid");
        seen.insert(name.clone());
    }
    assert_eq!(seen, schemas().into_keys().collect(), "every schema has an invalid example");
}

/// What a reader of a schema may rely on: by path the types and values of every member, and what is required.
fn promises(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    let required: Vec<_> = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, property) in object(&schema["properties"]) {
        let path = format!("{path}/{name}");
        let value = json!({
            "type": property["type"], "enum": property["enum"], "const": property["const"],
            "required": required.contains(&json!(name)),
        });
        found.insert(path.clone(), value);
        promises(property, &path, found);
        promises(&property["items"], &path, found);
    }
}

/// What of the promises made is not kept, and what is new. See `COMPATIBILITY.md`.
fn compare(made: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> (Vec<String>, Vec<String>) {
    let mut broken = Vec::new();
    for (path, before) in made {
        let Some(after) = now.get(path) else {
            broken.push(format!("{path} is gone"));
            continue;
        };
        let values = |value: &Value| -> BTreeSet<String> {
            value["enum"].as_array().into_iter().flatten().map(Value::to_string).collect()
        };
        if before["type"] != after["type"] || before["const"] != after["const"] {
            broken.push(format!("{path} has another type"));
        }
        if !values(before).is_subset(&values(after)) || (before["enum"].is_null() != after["enum"].is_null()) {
            broken.push(format!("{path} lost a value"));
        }
        if before["required"] == true && after["required"] != true {
            broken.push(format!("{path} may be absent"));
        }
    }
    let new = now.keys().filter(|path| !made.contains_key(*path)).cloned().collect();
    (broken, new)
}

#[test]
fn schemas_keep_what_they_promised() {
    let mut now = BTreeMap::new();
    for (name, schema) in schemas() {
        promises(&schema, &name, &mut now);
    }
    let path = folder().join("released.json");
    let made: BTreeMap<String, Value> =
        if path.exists() { serde_json::from_value(read(&path)).unwrap() } else { BTreeMap::new() };
    let (broken, new) = compare(&made, &now);
    assert!(broken.is_empty(), "a change that breaks readers needs a new version of the topic: {broken:?}");
    if !new.is_empty() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        let mut text = String::from("{\n");
        for (index, (path, promise)) in now.iter().enumerate() {
            let end = if index + 1 < now.len() { "," } else { "" };
            text += &format!(" {}: {promise}{end}\n", json!(path));
        }
        std::fs::write(&path, text + "}\n").unwrap();
        return;
    }
    assert!(new.is_empty(), "UPDATE_FIXTURES=1 makes these promises: {new:?}");
}

#[test]
fn a_broken_promise_is_found() {
    let schema = json!({"required": ["a", "b"], "properties": {
        "a": {"type": "string"}, "b": {"type": "string", "enum": ["x", "y"]}, "c": {"type": "object", "properties": {"d": {"type": "integer"}}},
    }});
    let found = |change: &dyn Fn(&mut Value)| {
        let (mut made, mut now, mut changed) = (BTreeMap::new(), BTreeMap::new(), schema.clone());
        promises(&schema, "s", &mut made);
        change(&mut changed);
        promises(&changed, "s", &mut now);
        let (broken, new) = compare(&made, &now);
        (broken.join(","), new.join(","))
    };
    let nothing = String::new;
    assert_eq!(found(&|_| {}), (nothing(), nothing()));
    assert_eq!(found(&|s| s["properties"]["e"] = json!({"type": "null"})), (nothing(), "s/e".into()));
    assert_eq!(found(&|s| s["properties"]["b"]["enum"] = json!(["x", "y", "z"])), (nothing(), nothing()));
    assert_eq!(found(&|s| s["properties"]["b"]["enum"] = json!(["x"])).0, "s/b lost a value");
    assert_eq!(found(&|s| s["properties"]["a"]["type"] = json!("integer")).0, "s/a has another type");
    assert_eq!(
        found(&|s| s["properties"]["c"]["properties"]["d"]["type"] = json!("string")).0,
        "s/c/d has another type"
    );
    assert_eq!(found(&|s| s["required"] = json!(["b"])).0, "s/a may be absent");
    assert_eq!(found(&|s| s["properties"]["c"]["properties"] = json!({})).0, "s/c/d is gone");
}

#[test]
fn asyncapi_describes_the_topics() {
    let text = std::fs::read_to_string(folder().join("../asyncapi.yaml")).unwrap();
    let root = crate::yaml::parse(&text).unwrap_or_else(|error| panic!("asyncapi.yaml: {error}"));
    let addresses: BTreeSet<_> = object(&root["channels"]).map(|(_, c)| c["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, [EVENTS_TOPIC, BALANCES_TOPIC].into());
    let mut described = BTreeSet::new();
    for (name, message) in object(&root["components"]["messages"]) {
        let file = message["payload"]["$ref"].as_str().unwrap();
        assert!(folder().join("..").join(file).exists(), "{name}: {file}");
        for example in message["x-examples"].as_array().into_iter().flatten() {
            assert!(folder().join("..").join(example.as_str().unwrap()).exists(), "{name}: {example}");
        }
        described.insert(message["name"].as_str().unwrap().to_owned());
    }
    let types = EventType::ALL.into_iter().map(|event| event.name().to_owned());
    assert_eq!(described, types.chain(["balance".to_owned()]).collect());
    let mut messages = BTreeSet::new();
    for (_, channel) in object(&root["channels"]) {
        messages.extend(object(&channel["messages"]).map(|(_, message)| resolved(&root, message)["name"].to_string()));
    }
    assert_eq!(messages.len(), described.len(), "every message is in a channel");
    let headers = &root["components"]["schemas"]["EventHeaders"];
    let expected: BTreeSet<String> = object(&schema("event")["properties"])
        .map(|(name, _)| name.clone())
        .filter(|name| name != "data" && name != "datacontenttype")
        .map(|name| format!("ce_{name}"))
        .chain(["content-type".to_owned()])
        .collect();
    assert_eq!(object(&headers["properties"]).map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(), expected);
}
