//! The documents that describe a node, against a running one: `schemas/openapi.yaml` and `ops/METRICS.md`.
#![allow(clippy::unwrap_used)]

mod contract;
mod metrics;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/node.rs"]
mod node;
#[path = "../../../schemas/tests/contracts/schema.rs"]
mod schema;
#[path = "../../../schemas/tests/contracts/yaml.rs"]
mod yaml;
