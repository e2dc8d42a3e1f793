//! What a description in OpenAPI holds: its operations, its references, and whether a value is as it says.

use regex_lite::Regex;
use serde_json::Value;

pub(crate) fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

pub(crate) fn resolved<'a>(root: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value.get("$ref").and_then(Value::as_str) else { return value };
    let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} is not in this file"));
    resolved(root, root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")))
}

/// Every operation by `method path`.
pub(crate) fn operations(root: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (path, item) in object(&root["paths"]) {
        let methods = object(item).filter(|(method, _)| !matches!(method.as_str(), "parameters" | "servers"));
        found.extend(methods.map(|(method, operation)| (format!("{method} {path}"), operation)));
    }
    found
}

/// Panics unless [`check`] is content.
pub(crate) fn validate(root: &Value, schema: &Value, value: &Value, at: &str) {
    check(root, schema, value, at).unwrap_or_else(|complaint| panic!("{complaint}"));
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    }
}

/// As much of JSON Schema as the contracts use, formats left out: the first thing that is wrong.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolved(root, schema);
    let ensure = |holds: bool, complaint: &dyn Fn() -> String| {
        if holds { Ok(()) } else { Err(format!("{at}: {}", complaint())) }
    };
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(root, part, value, at)?;
    }
    for (kinds, most) in [("anyOf", usize::MAX), ("oneOf", 1)] {
        let Some(parts) = schema[kinds].as_array() else { continue };
        let fitting = parts.iter().filter(|part| check(root, part, value, at).is_ok()).count();
        ensure((1..=most).contains(&fitting), &|| format!("{value} fits {fitting} of {} kinds", parts.len()))?;
    }
    if let Some(other) = schema.get("not") {
        ensure(check(root, other, value, at).is_err(), &|| format!("{value} is {other}"))?;
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let is = |name: &Value| is_of_type(value, name.as_str().unwrap());
    ensure(types.is_empty() || types.iter().any(is), &|| format!("{value} is none of {types:?}"))?;
    if let Some(values) = schema["enum"].as_array() {
        ensure(values.contains(value), &|| format!("{value} is none of {values:?}"))?;
    }
    if let Some(only) = schema.get("const") {
        ensure(value == only, &|| format!("{value} is not {only}"))?;
    }
    if let (Some(number), Some(least)) = (value.as_i64(), schema["minimum"].as_i64()) {
        ensure(number >= least, &|| format!("{number} is below {least}"))?;
    }
    if let (Some(number), Some(most)) = (value.as_i64(), schema["maximum"].as_i64()) {
        ensure(number <= most, &|| format!("{number} is above {most}"))?;
    }
    if let (Some(text), Some(least)) = (value.as_str(), schema["minLength"].as_u64()) {
        ensure(text.len() as u64 >= least, &|| format!("{text} is too short"))?;
    }
    if let (Some(text), Some(most)) = (value.as_str(), schema["maxLength"].as_u64()) {
        ensure(text.chars().count() as u64 <= most, &|| format!("{text} is too long"))?;
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema["pattern"].as_str()) {
        ensure(Regex::new(pattern).unwrap().is_match(text), &|| format!("{text} does not match {pattern}"))?;
    }
    for item in value.as_array().into_iter().flatten().filter(|_| schema.get("items").is_some()) {
        check(root, &schema["items"], item, &format!("{at}[]"))?;
    }
    if !value.is_object() {
        return Ok(());
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        ensure(value.get(name.as_str().unwrap()).is_some(), &|| format!("{name} is missing"))?;
    }
    for (name, inner) in object(value) {
        match schema["properties"].get(name) {
            Some(property) => check(root, property, inner, &format!("{at}.{name}"))?,
            None => ensure(schema["additionalProperties"] != false, &|| format!("{name} is not described"))?,
        }
    }
    Ok(())
}
