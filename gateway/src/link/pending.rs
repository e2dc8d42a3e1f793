//! Answers to come, and the permits that are held for them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

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
        self.owner.permits.release_shard(0, self.commands);
        self.owner.permits.release_node(self.commands, self.bytes);
    }
}

/// Answers to come.
pub(super) struct Pending {
    link: Link,
    slot: u32,
    generation: u32,
    _admission: Admission,
}

impl Pending {
    pub(super) fn new(link: Link, slot: u32, generation: u32, admission: Admission) -> Self {
        Self { link, slot, generation, _admission: admission }
    }

    async fn wait<T>(&mut self, take: impl Fn(&mut Vec<Option<Arrived>>) -> T) -> T {
        poll_fn(|cx| {
            let mut slots = self.link.inner.slots.borrow_mut();
            match slots.poll(self.slot, self.generation, cx.waker()) {
                Some(answers) => Poll::Ready(take(answers)),
                None => Poll::Pending,
            }
        })
        .await
    }

    pub(super) async fn answer(&mut self) -> Arrived {
        self.wait(|answers| answers.pop().flatten().unwrap_or(Err(Unanswered::Unknown))).await
    }

    async fn answers(&mut self) -> Vec<Arrived> {
        let take = |answers: &mut Vec<Option<Arrived>>| -> Vec<Arrived> {
            std::mem::take(answers).into_iter().map(|answer| answer.unwrap_or(Err(Unanswered::Unknown))).collect()
        };
        self.wait(take).await
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
        for mut pending in self.0 {
            all.extend(pending.answers().await.into_iter().map(|answer| match answer? {
                Answer::Reply(reply) => Ok(reply),
                other => Err(refusal_of(&other)),
            }));
        }
        all
    }
}
