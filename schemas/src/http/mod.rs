//! JSON bodies of the HTTP contract: requests in, answers out. Bytes to values and back; no server, no
//! account rules.
//!
//! A body becomes a [`Decoded`] by [`decode()`] or [`decode_batch`]; a record or view becomes a body by
//! [`write_answer`], [`write_row`] and the writers of [`views`]; a refusal by [`problem`].

mod batch;
mod decode;
mod query;
mod members;
mod metadata;
mod keys;
pub mod views;
mod explain;
mod answer;
pub mod problem;
mod text;
pub mod json;

pub use answer::{Facts, status_of, write_answer, write_outcome, write_row};
pub(crate) use answer::{write_award, write_lot, write_manual_tier, write_reversed, write_tier};
pub use batch::{BATCH_ITEMS_MAX, BatchError, BatchFormat, decode_batch};
pub use decode::{Decoded, Operation, decode, decode_lookup, decode_nothing, subject};
pub use explain::write_transaction;
pub use keys::{BusinessKey, IDEMPOTENCY_KEY_BYTES_MAX, KeyKind, idempotency_key};
pub use metadata::{METADATA_BYTES_MAX, METADATA_DEPTH_MAX};
pub use query::{
    Cursor, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, LIST_OFFSET_MAX, ListParameters, ListQuery, decode_list_query,
    decode_outcome_query, decode_version_query, encode_cursor,
};

/// A request that cannot be what the contract describes: 400 `invalid-request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// The member or query parameter; `body` for the body as a whole.
    pub field: String,
    /// What is wrong and what to send instead, to be read after the field. Never repeats what was sent.
    pub detail: String,
}

impl BadRequest {
    /// What is wrong with which member.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }

    /// Of the body as a whole.
    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self::new("body", detail)
    }
}

impl From<BadRequest> for problem::Problem {
    fn from(error: BadRequest) -> Self {
        let detail = format!("`{}` {}", error.field, error.detail);
        Self::invalid(error.field, detail)
    }
}
