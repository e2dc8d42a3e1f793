//! `openapi.yaml` says what the code does: the same endpoints and problems as the contract, the same members
//! as the decoder, and examples that are what is really written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use meed_schemas::http::problem::KINDS;
use meed_schemas::http::{Operation, decode, decode_lookup, subject};
use meed_schemas::money::Currency;
use meed_schemas::program::Document;
use serde_json::Value;

use crate::schema::{object, operations, resolved, validate};

/// Every endpoint of the contract.
const ENDPOINTS: &[&str] = &[
    "get /api/v1/accounts/{account}",
    "get /api/v1/accounts/{account}/aliases",
    "get /api/v1/events",
    "get /api/v1/points/{account}/balance",
    "get /api/v1/points/{account}/holds",
    "get /api/v1/points/{account}/holds/{hold_id}",
    "get /api/v1/points/{account}/lots",
    "get /api/v1/points/{account}/outcomes",
    "get /api/v1/points/{account}/outcomes/{idempotency_key}",
    "get /api/v1/points/{account}/transactions",
    "get /api/v1/points/{account}/transactions/{transaction_id}",
    "get /api/v1/programs/{program}",
    "get /api/v1/version",
    "get /health",
    "get /health/live",
    "get /health/ready",
    "get /livez",
    "get /metrics",
    "get /problems/{problem}",
    "get /readyz",
    "delete /api/v1/accounts/{account}/aliases/{alias}",
    "patch /api/v1/accounts/{account}",
    "post /api/v1/accounts/lookup",
    "post /api/v1/admin/points/{account}/adjust",
    "post /api/v1/batch",
    "post /api/v1/points/{account}/adjust",
    "post /api/v1/points/{account}/earn",
    "post /api/v1/points/{account}/holds",
    "post /api/v1/points/{account}/holds/{hold_id}/capture",
    "post /api/v1/points/{account}/holds/{hold_id}/void",
    "post /api/v1/points/{account}/redeem",
    "post /api/v1/points/{account}/transactions/{transaction_id}/reverse",
    "post /api/v1/pos/batch",
    "post /api/v1/pos/return",
    "post /api/v1/pos/transaction",
    "put /api/v1/accounts/{account}",
    "put /api/v1/accounts/{account}/aliases/{alias}",
    "put /api/v1/admin/users/{account}/tier",
    "put /api/v1/programs/{program}",
];

/// The schema of each operation's body.
const REQUESTS: &[(Operation, &str)] = &[
    (Operation::Earn, "EarnRequest"),
    (Operation::Redeem, "RedeemRequest"),
    (Operation::Adjust, "AdjustRequest"),
    (Operation::Pos, "SaleRequest"),
    (Operation::PosReturn, "ReturnRequest"),
    (Operation::Hold, "HoldRequest"),
    (Operation::Capture, "CaptureRequest"),
    (Operation::Void, "VoidRequest"),
    (Operation::Reverse, "ReverseRequest"),
    (Operation::SetStatus, "StatusRequest"),
    (Operation::SetTier, "TierRequest"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn contract() -> Value {
    let text = std::fs::read_to_string(folder().join("openapi.yaml")).unwrap();
    crate::yaml::parse(&text).unwrap_or_else(|error| panic!("openapi.yaml: {error}"))
}

/// Every value of the document, with the path to it.
fn walk<'a>(value: &'a Value, path: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    visit(path, value);
    for (key, inner) in object(value) {
        walk(inner, &format!("{path}/{key}"), visit);
    }
    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
        walk(inner, &format!("{path}/{index}"), visit);
    }
}

#[test]
fn every_endpoint_is_described() {
    let root = contract();
    let described: BTreeSet<_> = operations(&root).into_iter().map(|(endpoint, _)| endpoint).collect();
    let expected: BTreeSet<_> = ENDPOINTS.iter().map(|endpoint| (*endpoint).to_owned()).collect();
    assert_eq!(described, expected);
    let ids: BTreeSet<_> = operations(&root)
        .iter()
        .map(|(_, operation)| operation["operationId"].clone())
        .map(|id| id.to_string())
        .collect();
    assert_eq!(ids.len(), ENDPOINTS.len());
    for (endpoint, operation) in operations(&root) {
        let item = &root["paths"][endpoint.split_once(' ').unwrap().1];
        let parameters = [&item["parameters"], &operation["parameters"]];
        let named: Vec<_> = parameters
            .iter()
            .flat_map(|list| list.as_array().into_iter().flatten())
            .map(|parameter| resolved(&root, parameter))
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
            .collect();
        let in_path: Vec<_> = endpoint.split('/').filter(|segment| segment.starts_with('{')).collect();
        assert_eq!(named, in_path, "{endpoint}");
    }
}

#[test]
fn every_problem_is_described() {
    let root = contract();
    let known: Vec<_> = KINDS.iter().map(|kind| format!("/problems/{}", kind.name())).collect();
    let described = &root["components"]["schemas"]["ProblemType"]["enum"];
    assert_eq!(*described, Value::from(known));
    for (endpoint, operation) in operations(&root) {
        for name in operation["x-problems"].as_array().into_iter().flatten() {
            assert!(KINDS.iter().any(|kind| *name == kind.name()), "{endpoint}: {name}");
        }
        let has_key = operation["parameters"].to_string().contains("IdempotencyKey");
        let reuse = operation["x-problems"].to_string().contains("idempotency-key-reused");
        assert_eq!(has_key, reuse, "{endpoint}");
    }
}

#[test]
fn references_lead_somewhere_and_components_are_used() {
    let root = contract();
    let mut used = BTreeSet::new();
    walk(&root, "", &mut |_, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            resolved(&root, value);
            used.insert(reference.to_owned());
        }
    });
    for (kind, components) in object(&root["components"]).filter(|(kind, _)| *kind != "securitySchemes") {
        for (name, _) in object(components).filter(|(name, _)| *name != "BatchItem") {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

#[test]
fn requests_have_the_members_that_are_decoded() {
    let root = contract();
    let schemas = &root["components"]["schemas"];
    let members = |schema: &str| -> BTreeSet<String> {
        object(&schemas[schema]["properties"]).map(|(name, _)| name.clone()).collect()
    };
    let all: BTreeSet<String> = REQUESTS.iter().flat_map(|(_, schema)| members(schema)).collect();
    let currency = Currency::from_code("IDR").unwrap();
    for (operation, schema) in REQUESTS {
        let described = members(schema);
        for name in &all {
            let body = format!("{{\"{name}\":null}}");
            let result = decode(*operation, body.as_bytes(), subject("1-1"), currency);
            let unknown = result.is_err_and(|error| error.detail.contains("not a member"));
            assert_eq!(unknown, !described.contains(name), "{schema}.{name}");
        }
        for name in schemas[schema]["required"].as_array().into_iter().flatten() {
            assert!(described.contains(name.as_str().unwrap()), "{schema} requires {name}");
        }
    }
}

#[test]
fn requests_in_examples_are_accepted() {
    let root = contract();
    let currency = Currency::from_code("IDR").unwrap();
    let mut seen = 0;
    for (endpoint, operation) in operations(&root) {
        let content = &resolved(&root, &operation["requestBody"])["content"]["application/json"];
        let Some(schema) = content["schema"]["$ref"].as_str().and_then(|name| name.rsplit('/').next()) else {
            continue;
        };
        for (name, example) in object(&content["examples"]) {
            validate(&root, &content["schema"], &example["value"], &format!("{endpoint} {name}"));
            let body = example["value"].to_string();
            let accepted = match REQUESTS.iter().find(|(_, of)| *of == schema) {
                Some((operation, _)) => decode(*operation, body.as_bytes(), subject("1-1"), currency).is_ok(),
                None if schema == "LookupRequest" => decode_lookup(body.as_bytes()).is_ok(),
                None if schema == "ProgramDocument" => Document::parse(body.as_bytes()).is_ok(),
                None => schema == "BatchRequest",
            };
            assert!(accepted, "{endpoint}: {body}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} examples");
}

/// Golden answers are examples, and are valid against the schema that they stand beside.
#[test]
fn answers_in_examples_are_valid() {
    let root = contract();
    let mut media = Vec::new();
    walk(&root, "", &mut |path, value| {
        if value.get("schema").is_some() && value.get("examples").is_some() {
            media.push((path.to_owned(), value));
        }
    });
    let mut seen = 0;
    for (path, media) in media {
        for (name, example) in object(&media["examples"]) {
            let value = match example["externalValue"].as_str() {
                Some(file) => {
                    let text = std::fs::read_to_string(folder().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
                    serde_json::from_str(&text).unwrap()
                }
                None => example["value"].clone(),
            };
            validate(&root, &media["schema"], &value, &format!("{path} {name}"));
            seen += 1;
        }
    }
    assert!(seen >= 45, "{seen} examples");
    let row = &serde_json::json!({"$ref": "#/components/schemas/Transaction"});
    let rows = std::fs::read_dir(folder().join("fixtures/answers")).unwrap().map(|entry| entry.unwrap().path());
    for file in rows.filter(|file| file.to_string_lossy().ends_with(".row.json")) {
        let text = std::fs::read_to_string(&file).unwrap();
        validate(&root, row, &serde_json::from_str(&text).unwrap(), &file.display().to_string());
    }
}
