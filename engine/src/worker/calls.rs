//! Answers to come, as those who wait for them on the worker's thread hold them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use meed_schemas::command::Request;
use meed_schemas::outcome::{Refusal, Reply};

use super::{Admitted, Worker};
use crate::shard::{Envelope, Input, ReplyTo};

/// An answer to come.
pub struct Call {
    pub(super) worker: Worker,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Future for Call {
    type Output = Reply;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let mut slots = self.worker.inner.slots.borrow_mut();
        match slots.poll(self.slot, self.generation, cx.waker()) {
            Some(replies) => Poll::Ready(replies.pop().flatten().unwrap_or(Reply::Refused(Refusal::OutcomeUnknown))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.worker.inner.slots.borrow_mut().close(self.slot, self.generation);
    }
}

/// Answers to come, in the order of the requests.
pub struct CallMany {
    pub(super) worker: Worker,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Future for CallMany {
    type Output = Vec<Reply>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<Reply>> {
        let mut slots = self.worker.inner.slots.borrow_mut();
        match slots.poll(self.slot, self.generation, cx.waker()) {
            Some(replies) => Poll::Ready(
                std::mem::take(replies)
                    .into_iter()
                    .map(|r| r.unwrap_or(Reply::Refused(Refusal::OutcomeUnknown)))
                    .collect(),
            ),
            None => Poll::Pending,
        }
    }
}

impl Drop for CallMany {
    fn drop(&mut self) {
        self.worker.inner.slots.borrow_mut().close(self.slot, self.generation);
    }
}

/// Answers to any number of calls, each with the number that its call was given.
pub struct Answers {
    pub(super) worker: Worker,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Answers {
    /// Sends an admitted window on its way, in order. None of it is decided after `deadline_ms` of the node's
    /// monotonic clock; each is answered once, however late.
    pub fn send(&self, requests: impl Iterator<Item = (u32, Request)>, admitted: &Admitted, deadline_ms: i64) {
        for ((number, request), &shard) in requests.zip(&admitted.shards) {
            let (slot, generation) = (self.slot, self.generation);
            let to = ReplyTo { worker: self.worker.index(), slot, generation, index: number };
            let envelope = Envelope { request, to: Some(to), deadline_ms, bytes: admitted.bytes };
            self.worker.send_input(shard, Input::Command(envelope));
        }
        self.worker.flush_soon();
    }

    /// Waits for answers and takes all that have come into the empty `into`.
    pub async fn receive(&self, into: &mut Vec<(u32, Reply)>) {
        std::future::poll_fn(|cx| {
            let mut slots = self.worker.inner.slots.borrow_mut();
            match slots.poll_arrived(self.slot, self.generation, into, cx.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.worker.inner.slots.borrow_mut().close(self.slot, self.generation);
    }
}
