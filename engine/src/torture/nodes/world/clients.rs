//! What clients do: one operation at a time, tried until it has an answer.

use std::rc::Rc;

use meed_schemas::outcome::{Refusal, Reply};

use super::{Event, World};
use crate::torture::ask;
use crate::torture::auditor::has_key;
use crate::torture::clients::Before;
use crate::torture::event::{Event as Asking, What};
use crate::torture::nodes::message::{Answer, Request};
use crate::torture::world::Asked;

/// A client gives a try up after this.
const PATIENCE_MS: i64 = 2_500;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Client {
    /// What it wants to know, by the name of the request.
    pub(super) what: Option<u32>,
    /// Of its newest try.
    pub(super) number: u64,
    /// What was shown to anybody before that.
    shown_before: u64,
}

impl World {
    pub(super) fn ask(&mut self, client: usize) {
        // It stops when the storm is over.
        if !self.is_storm() {
            return;
        }
        let before = Before { profile: &self.program, asked: &self.asked };
        let id = match self.asker.next(before) {
            Asking::Again { ask } => Some(ask),
            Asking::Ask(ask) if !matches!(ask.what, What::Program { .. }) => {
                let now = self.program.start_ms + self.now * self.profile.wall_clock_factor;
                let ledger = self.ledger.borrow();
                let request = ask::request(&ask, &self.program, now, &|id| ledger.told(id));
                request.map(|request| {
                    let (what, account) = (ask.what, ask.account);
                    let asked = Asked { what, account, request: Rc::new(request), is_resolved: false };
                    self.asked.insert(ask.id, asked);
                    ask.id
                })
            }
            _ => None,
        };
        self.clients[client].what = id;
        match id {
            Some(_) => self.ask_again(client),
            None => self.after(1, Event::Client(client)),
        }
    }

    /// Sends what a client wants, under the same key as before.
    pub(super) fn ask_again(&mut self, client: usize) {
        let Client { what: Some(ask), number, .. } = self.clients[client] else { return };
        let Some(asked) = self.asked.get(&ask) else { return };
        let command = Rc::clone(&asked.request);
        // Without a key a second try would be a second operation.
        let is_first = number == 0;
        if !is_first && !command.command.is_read() && !has_key(&command) && command.keys.business.is_none() {
            return self.next(client);
        }
        self.next_try += 1;
        let number = self.next_try;
        let shard = command.identity.shard(self.profile.shards);
        let shown_before = self.ledger.borrow().shown(shard);
        self.clients[client] = Client { what: Some(ask), number, shown_before };
        let request = Request { client, number, shard, ask, command };
        let owns = |node: &usize| self.processes[*node].node.as_ref().is_some_and(|node| node.has(shard));
        let owners: Vec<usize> = (0..self.processes.len()).filter(owns).collect();
        let node = match owners.is_empty() || self.random.chance(10) {
            true => self.random.below(self.processes.len()),
            false => *self.random.pick(&owners),
        };
        if !self.is_lost() {
            // Some come when the client has long asked somebody else.
            let is_late = self.is_storm() && self.random.chance(self.profile.late_percent);
            let delay = if is_late { self.random.between(1_000, 10_000) } else { self.delay() };
            self.after(delay, Event::Request(node, request));
        }
        self.after(PATIENCE_MS, Event::GiveUp(client, number));
    }

    fn next(&mut self, client: usize) {
        self.clients[client] = Client::default();
        let pause = self.random.between(1, self.profile.pause_ms);
        self.after(pause, Event::Client(client));
    }

    /// # Errors
    /// An answer that cannot be.
    pub(super) fn replied(&mut self, request: &Request, answer: &Answer) -> Result<(), String> {
        let client = self.clients[request.client];
        // What comes when nobody waits for it any more must be right all the same, but may be old.
        let is_awaited = client.number == request.number;
        let Answer::Decided { reply, durable, shown } = answer else {
            if is_awaited {
                self.try_later(request.client);
            }
            return Ok(());
        };
        let shown_before = if is_awaited { client.shown_before } else { 0 };
        let who = (request.ask, &*request.command, request.shard);
        self.ledger.borrow_mut().replied(who, (reply, *durable, *shown), shown_before)?;
        if !is_awaited {
            return Ok(());
        }
        if matches!(**reply, Reply::Refused(Refusal::OutcomeUnknown)) {
            self.try_later(request.client);
            return Ok(());
        }
        if let Some(asked) = self.asked.get_mut(&request.ask) {
            asked.is_resolved = true;
        }
        self.next(request.client);
        Ok(())
    }

    fn try_later(&mut self, client: usize) {
        self.next_try += 1;
        let number = self.next_try;
        self.clients[client].number = number;
        let pause = self.random.between(20, 200);
        self.after(pause, Event::GiveUp(client, number));
    }
}
