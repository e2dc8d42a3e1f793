//! A question that has been asked of the owner and not yet answered, in the form in which it is sent again.

use std::time::Instant;

use meed_schemas::command::{Keys, Request};
use smallvec::SmallVec;

use super::encode_request;
use crate::forward::message::{Body, put_ask, put_commands};

/// One request of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Where its bytes end.
    end: u32,
    /// Whether it may be sent twice: it has a key, or only reads.
    again: bool,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Content {
    /// Requests to accounts, with one answer each.
    Commands { bytes: Vec<u8>, items: SmallVec<[Item; 1]> },
    /// Anything else, with one answer.
    One { body: Body, again: bool },
}

impl Content {
    pub(super) fn commands() -> Self {
        Self::Commands { bytes: Vec::with_capacity(192), items: SmallVec::new() }
    }

    pub(super) fn push(&mut self, request: &Request) {
        if let Self::Commands { bytes, items } = self {
            encode_request(request, bytes);
            let again = request.keys != Keys::default() || request.command.is_read();
            items.push(Item { end: u32::try_from(bytes.len()).unwrap_or(u32::MAX), again });
        }
    }

    /// How many answers it has.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Commands { items, .. } => items.len(),
            Self::One { .. } => 1,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Commands { bytes, .. } => bytes.len(),
            Self::One { body, .. } => body.0.len(),
        }
    }

    /// Whether the part with this index may be sent twice.
    pub(super) fn again(&self, index: u32) -> bool {
        match self {
            Self::Commands { items, .. } => items.get(index as usize).is_some_and(|item| item.again),
            Self::One { again, .. } => *again,
        }
    }
}

/// A question without its answer.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) generation: u32,
    /// Questions are sent again in the order in which they were asked.
    pub(super) order: u64,
    /// In the front's clock.
    pub(super) deadline_ms: i64,
    pub(super) asked_at: Instant,
    pub(super) content: Content,
    /// The frame that it is in, on this connection.
    pub(super) frame: Option<u64>,
    /// Whether it was in a frame that an earlier connection began to send.
    pub(super) was_sent: bool,
}

impl Outstanding {
    pub(super) fn new(generation: u32, order: u64, deadline_ms: i64, asked_at: Instant, content: Content) -> Self {
        Self { generation, order, deadline_ms, asked_at, content, frame: None, was_sent: false }
    }

    /// Whether the owner may have seen it, when frames up to `sent_frame` have begun to leave.
    pub(super) fn is_sent(&self, sent_frame: u64) -> bool {
        self.was_sent || self.frame.is_some_and(|frame| frame <= sent_frame)
    }

    /// Appends those of its parts that are still wanted.
    pub(super) fn put(&self, out: &mut Vec<u8>, slot: u32, deadline_ms: i64, wanted: impl Fn(u32) -> bool) {
        match &self.content {
            Content::One { body, .. } => put_ask(out, slot, self.generation, deadline_ms, &body.0),
            Content::Commands { bytes, items } => {
                let mut start = 0;
                let mut parts: SmallVec<[(u32, &[u8]); 1]> = SmallVec::new();
                for (index, item) in items.iter().enumerate() {
                    let (index, part) = (index as u32, &bytes[start..item.end as usize]);
                    start = item.end as usize;
                    if wanted(index) {
                        parts.push((index, part));
                    }
                }
                if !parts.is_empty() {
                    put_commands(out, slot, self.generation, deadline_ms, parts.into_iter());
                }
            }
        }
    }
}
