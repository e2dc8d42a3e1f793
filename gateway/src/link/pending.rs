//! Answers to come, and the permits that are held for them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use meed_schemas::outcome::Reply;

use super::{Arrived, Link, Owner, refusal_of};
use crate::forward::Unanswered;
use crate::forward::message::Answer;

/// Permits of the front, given back when it is dropped.
pub(super) struct Admission {
    owner: Arc<Owner>,
    commands: i64,
    bytes: i64,
}

impl Admission {
    /// These have been acquired.
    pub(super) fn new(owner: Arc<Owner>, commands: i64, bytes: i64) -> Self {
        Self { owner, commands, bytes }
    }

    /// The part of the first `commands`.
    pub(super) fn split(&mut self, commands: usize) -> Self {
        let commands = i64::try_from(commands).unwrap_or(i64::MAX).min(self.commands);
        let bytes = self.bytes / self.commands.max(1) * commands;
        self.commands -= commands;
        self.bytes -= bytes;
        Self { owner: Arc::clone(&self.owner), commands, bytes }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.owner.permits.release_node(self.commands, self.bytes);
    }
}

/// Answers to come.
pub struct Pending {
    link: Link,
    slot: u32,
    generation: u32,
    _admission: Admission,
}

impl Pending {
    pub(super) fn new(link: Link, slot: u32, generation: u32, admission: Admission) -> Self {
        Self { link, slot, generation, _admission: admission }
    }

    fn poll_all<T>(&self, cx: &mut Context<'_>, take: impl FnOnce(&mut Vec<Option<Arrived>>) -> T) -> Poll<T> {
        let mut slots = self.link.inner.slots.borrow_mut();
        match slots.poll(self.slot, self.generation, cx.waker()) {
            Some(answers) => Poll::Ready(take(answers)),
            None => Poll::Pending,
        }
    }

    fn poll_one(&self, cx: &mut Context<'_>) -> Poll<Arrived> {
        self.poll_all(cx, |answers| answers.pop().flatten().unwrap_or(Err(Unanswered::Unknown)))
    }

    pub(super) async fn answer(self) -> Arrived {
        poll_fn(|cx| self.poll_one(cx)).await
    }

    async fn answers(self) -> Vec<Arrived> {
        let all = poll_fn(|cx| self.poll_all(cx, std::mem::take)).await;
        all.into_iter().map(|answer| answer.unwrap_or(Err(Unanswered::Unknown))).collect()
    }
}

/// The answer to one request.
impl Future for Pending {
    type Output = Result<Reply, Unanswered>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_one(cx).map(reply_of)
    }
}

/// The answer that a request to an account has.
fn reply_of(arrived: Arrived) -> Result<Reply, Unanswered> {
    match arrived? {
        Answer::Reply(reply) => Ok(reply),
        other => Err(refusal_of(&other)),
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let inner = &self.link.inner;
        inner.slots.borrow_mut().close(self.slot, self.generation);
        inner.outstanding.borrow_mut()[self.slot as usize] = None;
        let mut pages = inner.pages.borrow_mut();
        if !pages.is_empty() {
            pages.remove(&(self.slot, self.generation));
        }
    }
}

/// The answers to come of many requests.
pub struct Window(Vec<Pending>);

impl Window {
    pub(super) fn new(parts: Vec<Pending>) -> Self {
        Self(parts)
    }

    /// Waits for the answers, in the order of the requests.
    pub async fn answers(self) -> Vec<Result<Reply, Unanswered>> {
        let mut all = Vec::new();
        for pending in self.0 {
            all.extend(pending.answers().await.into_iter().map(reply_of));
        }
        all
    }
}
