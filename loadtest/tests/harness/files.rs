//! The files of a run, read by what reads them.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::stub::{Stub, Vice};
use crate::{Setup, run};

/// As much of JSON Schema as `summary.schema.json` uses.
fn validate(root: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').unwrap();
        return validate(root, root.pointer(pointer).unwrap(), value, at);
    }
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{at}: type {other}"),
    };
    let name = schema["type"].as_str().unwrap_or_else(|| panic!("{at}: the schema has no type"));
    assert!(is(name), "{at}: {value} is no {name}");
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        assert!(allowed.contains(value), "{at}: {value}");
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(required.as_str().unwrap()).is_some(), "{at}: {required} is missing");
    }
    for (member, value) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(member), schema.get("additionalProperties")) {
            (Some(schema), _) => validate(root, schema, value, &format!("{at}/{member}")),
            (None, Some(schema)) if schema.is_object() => validate(root, schema, value, &format!("{at}/{member}")),
            (None, Some(Value::Bool(true))) => {}
            _ => panic!("{at}/{member} is not described"),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        validate(root, &schema["items"], item, &format!("{at}/items"));
    }
}

#[test]
fn every_file_is_there_and_says_the_same() {
    let more = "[[stages]]\nname = 'more'\nseconds = 1\nrate = 200\nto_rate = 100\n";
    let arguments = ["--set", "stages.0.warmup=true", "--set", "stages.0.seconds=1"].map(str::to_owned).to_vec();
    let ran = run(Stub::start(Vice::Loses(150)).address, &Setup { more, arguments, ..Setup::default() });
    assert_eq!(ran.code, 98, "{}", ran.text);
    let read = |name: &str| std::fs::read(ran.folder.path().join("out").join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();

    let schema: Value = serde_json::from_str(include_str!("../../summary.schema.json")).unwrap();
    validate(&schema, &schema, &ran.summary, "summary");

    // Warm-up is in the intervals, marked, and in no figure.
    let measured = ran.number("/measured/completed");
    let csv = text("intervals.csv");
    let names: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = |name: &str| names.iter().position(|one| *one == name).unwrap();
    let rows: Vec<Vec<f64>> =
        csv.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect();
    assert!(rows.iter().all(|row| row.len() == names.len()) && rows.len() >= 10, "{csv}");
    let sum = |name: &str| rows.iter().map(|row| row[column(name)]).sum::<f64>();
    assert!(sum("completed") > measured && sum("warmup") >= 4.0, "{csv}");
    assert_eq!(sum("scheduled"), sum("completed"));

    // The log has an interval per line, and a tagged histogram of the measured stages.
    let log = read("latency.hlog");
    let (mut tagged, mut deserializer) = (0, Deserializer::new());
    for entry in IntervalLogIterator::new(&log) {
        if let Ok(LogEntry::Interval(interval)) = entry {
            let bytes =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, interval.encoded_histogram());
            let histogram: Histogram<u64> = deserializer.deserialize(&mut bytes.unwrap().as_slice()).unwrap();
            if interval.tag().is_some_and(|tag| tag.as_str() == "earn-points") {
                tagged += histogram.len();
            }
        } else {
            assert!(entry.is_ok(), "{entry:?}");
        }
    }
    assert_eq!(tagged as f64, measured);
    let percentiles = text("latency.hgrm");
    assert!(percentiles.contains(&format!("Total count    = {measured:>12}")), "{percentiles}");

    let page = text("report.html");
    for part in ["<svg", "correctness", "lost", "Little", "p99.9", "</html>"] {
        assert!(page.contains(part), "no {part} in the page");
    }
    let foreign = ["src=", "href=", "<script", "@import", "url("];
    assert!(foreign.iter().all(|part| !page.contains(part)), "the page needs another file");
}
