//! What the tasks of a node ask of the cluster. A statement without an answer is asked again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use super::AGAIN_MS;
use super::keyspace::{Answered, Statement};
use super::message::{Effect, Task};

/// Statements under way at once.
const AT_ONCE: usize = 16;

#[derive(Default)]
struct Lines {
    next: u64,
    /// What is waited for, and what has come of it.
    waiting: BTreeMap<u64, Option<Answered>>,
    out: Vec<Effect>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Line(RefCell<Lines>);

impl Line {
    fn open(&self, effect: impl FnOnce(u64) -> Effect) -> u64 {
        let mut lines = self.0.borrow_mut();
        lines.next += 1;
        let token = lines.next;
        lines.waiting.insert(token, None);
        lines.out.push(effect(token));
        token
    }

    /// Something has come: an answer, none in time, or the time itself.
    pub(super) fn came(&self, token: u64, answered: Answered) {
        if let Some(place) = self.0.borrow_mut().waiting.get_mut(&token) {
            place.get_or_insert(answered);
        }
    }

    /// What is to be sent.
    pub(super) fn take_out(&self) -> Vec<Effect> {
        std::mem::take(&mut self.0.borrow_mut().out)
    }

    async fn wait(&self, token: u64) -> Answered {
        poll_fn(|_| {
            let mut lines = self.0.borrow_mut();
            match lines.waiting.get_mut(&token).map(Option::take) {
                Some(None) => Poll::Pending,
                Some(Some(answered)) => {
                    lines.waiting.remove(&token);
                    Poll::Ready(answered)
                }
                None => Poll::Ready(Answered::Unknown),
            }
        })
        .await
    }

    /// Lets time pass.
    pub(super) async fn pause(&self, time_ms: i64) {
        let token = self.open(|token| Effect::Wake(Task::Line, token, time_ms));
        self.wait(token).await;
    }

    /// Asks once.
    pub(super) async fn ask_once(&self, statement: Statement) -> Answered {
        let token = self.open(|token| Effect::Ask(Task::Line, token, statement));
        self.wait(token).await
    }

    /// Asks until there is an answer.
    pub(super) async fn ask(&self, statement: Statement) -> Answered {
        loop {
            match self.ask_once(statement.clone()).await {
                Answered::Unknown => self.pause(AGAIN_MS).await,
                answered => return answered,
            }
        }
    }

    /// Asks several at a time; the answers in the order of the statements.
    pub(super) async fn ask_all(&self, statements: Vec<Statement>) -> Vec<Answered> {
        let mut answers = Vec::with_capacity(statements.len());
        for some in statements.chunks(AT_ONCE) {
            let tokens: Vec<u64> = some
                .iter()
                .map(|statement| self.open(|token| Effect::Ask(Task::Line, token, statement.clone())))
                .collect();
            let mut came = Vec::with_capacity(some.len());
            for token in tokens {
                came.push(self.wait(token).await);
            }
            for (statement, answered) in some.iter().zip(came) {
                answers.push(match answered {
                    Answered::Unknown => self.ask_after_pause(statement).await,
                    answered => answered,
                });
            }
        }
        answers
    }

    async fn ask_after_pause(&self, statement: &Statement) -> Answered {
        self.pause(AGAIN_MS).await;
        self.ask(statement.clone()).await
    }
}
