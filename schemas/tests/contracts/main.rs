//! The language-neutral contracts against the code: `openapi.yaml`, `asyncapi.yaml` and `events/`.
#![allow(clippy::unwrap_used)]

mod events;
mod openapi;
#[path = "../records/mod.rs"]
mod records;
mod schema;
mod yaml;
