//! What is under way over one link: what was read and handed over, and what of it is confirmed. It reads the journal
//! and has no clock and no thread, and knows where messages go only as [`Topics`]: Kafka's client, or a simulated one.

use std::sync::Arc;

use meed_schemas::event::{Attributes, write_balance, write_data, write_key};
use meed_schemas::ids::Position;
use meed_schemas::time::Millis;

use super::balances::Balances;
use super::mark::Mark;
use super::outbox::Outbox;
use crate::error::Error;
use crate::feed::{Next, Reached, Rendering, read_on};
use crate::journal::Records;
use crate::program::Programs;

/// Messages that may wait for a confirmation.
const WINDOW: usize = 65_536;
/// Balances among them: their time begins when they are handed over, so that behind a slow broker the last of many
/// would never come in it.
const BALANCES_WINDOW: usize = 16_384;
/// Records that are read before confirmations are looked at again.
const READ_RECORDS_MAX: usize = 8_192;

/// Whether a message was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Taken,
    /// The client holds as much as it may.
    Full,
    /// The client is of no use any more.
    Refused(String),
}

/// The two topics, as one who publishes sees them. Messages of a shard arrive in the order in which they were handed
/// over, without a gap, until one is refused.
pub(crate) trait Topics {
    /// Hands over an event.
    fn send_event(&self, position: Position, at: Millis, attributes: &Attributes, data: &[u8]) -> Sent;

    /// Hands over a balance of an account in this shard.
    fn send_balance(&self, shard: u16, at: Millis, key: &[u8], value: &[u8]) -> Sent;

    /// The events confirmed since the last call, by their positions.
    fn take_confirmed(&self, into: &mut Vec<usize>);

    /// How many balances were confirmed before the last call of [`Topics::take_confirmed`], since the last of this, and
    /// how many did not come in time.
    fn take_confirmed_balances(&self) -> (usize, usize);
}

/// Why no more was handed over.
#[derive(Debug)]
pub(crate) enum Stuck {
    /// The client is of no use any more.
    Refused(String),
    /// The journal cannot be read.
    Journal(Error),
}

/// What became of a turn that did not end early.
#[derive(Debug)]
#[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "the simulator takes its turns without a clock"))]
pub(crate) struct Turn {
    /// How far it has read.
    pub(crate) reached: Reached,
    /// Whether nothing more can be handed over before something is confirmed.
    pub(crate) is_full: bool,
    /// Whether a flush of balances has begun.
    pub(crate) has_begun_flush: bool,
}

/// See the module.
pub(crate) struct Flow {
    /// By shard, the last sequence that was read.
    from: Vec<u64>,
    /// Events up to here were published before; only their balances may be missing.
    begin: Vec<u64>,
    outbox: Outbox,
    balances: Option<Balances>,
    confirmed: Vec<usize>,
    data: Vec<u8>,
}

impl Flow {
    /// Goes on behind what a mark says is published.
    pub(crate) fn new(mark: &Mark) -> Self {
        let events = &mark.events.published;
        let balances = (!mark.balances.name.is_empty()).then(|| mark.balances.published.clone());
        Self {
            from: mark.published().collect(),
            begin: events.clone(),
            outbox: Outbox::new(events),
            balances: balances.map(Balances::new),
            confirmed: Vec::new(),
            data: Vec::with_capacity(1_024),
        }
    }

    /// Messages that wait for a confirmation.
    pub(crate) fn waiting(&self) -> usize {
        self.outbox.waiting() + self.balances.as_ref().map_or(0, Balances::waiting)
    }

    /// When the oldest event that waits was recorded.
    #[cfg(feature = "kafka")]
    pub(crate) fn oldest(&self) -> Option<Millis> {
        self.outbox.oldest()
    }

    /// Whether more can be read and handed over.
    fn has_room(&self) -> bool {
        self.waiting() < WINDOW && !self.balances.as_ref().is_some_and(Balances::is_full)
    }

    /// Whether everything up to these sequences was read.
    pub(crate) fn has_read(&self, last_sequence: &[u64]) -> bool {
        self.from == last_sequence
    }

    /// Whether everything that was read is confirmed.
    pub(crate) fn is_through(&self) -> bool {
        let are_flushed = |balances: &Balances| !balances.is_flushing() && balances.published() == self.from;
        self.waiting() == 0 && self.balances.as_ref().is_none_or(are_flushed)
    }

    /// Reads on from behind `published` once more, for the balances alone; false while some are on their way.
    #[cfg(feature = "kafka")]
    pub(crate) fn send_balances_again(&mut self, published: &[u64]) -> bool {
        let Some(balances) = &mut self.balances else { return true };
        if balances.is_flushing() {
            return false;
        }
        *balances = Balances::new(published.to_owned());
        for ((from, begin), published) in self.from.iter_mut().zip(&mut self.begin).zip(published) {
            *begin = (*begin).max(*from);
            *from = (*from).min(*published);
        }
        true
    }

    /// Takes what is confirmed; returns how many events and balances are.
    pub(crate) fn confirm(&mut self, topics: &impl Topics) -> (usize, usize) {
        topics.take_confirmed(&mut self.confirmed);
        for opaque in &self.confirmed {
            let position = Position::from_u64(*opaque as u64);
            self.outbox.confirmed(position.shard(), position.sequence());
        }
        let (confirmed, lost) = topics.take_confirmed_balances();
        if let Some(waiting) = &mut self.balances {
            waiting.confirmed(confirmed, lost);
        }
        (self.confirmed.len(), confirmed)
    }

    /// Reads on and hands over, as far as there is room, then balances: also where so many accounts wait for a flush
    /// that nothing is read. `may_send` is asked before whatever others may have sent since.
    ///
    /// # Errors
    /// The client is of no use any more, or the journal cannot be read; everything before that is handed over.
    pub(crate) fn turn(
        &mut self,
        topics: &impl Topics,
        journal: &Records,
        programs: &dyn Fn() -> Arc<Programs>,
        is_flush_due: bool,
        may_send: &dyn Fn() -> bool,
    ) -> Result<Turn, Stuck> {
        let may_read = self.has_room() && may_send();
        let reached = if may_read { self.send_some(topics, journal, programs)? } else { None };
        let is_full = reached.is_none() || !self.has_room();
        let reached = reached.unwrap_or(Reached::Limit);
        let has_begun_flush = may_send() && self.flush_balances(topics, &programs(), is_flush_due, may_send);
        Ok(Turn { reached, is_full, has_begun_flush })
    }

    /// Reads on and hands over; nothing when the client takes no more for now.
    fn send_some(
        &mut self,
        topics: &impl Topics,
        journal: &Records,
        programs: &dyn Fn() -> Arc<Programs>,
    ) -> Result<Option<Reached>, Stuck> {
        let mut rendering = Rendering::new(journal.journal_id(), programs);
        let Self { from, begin, outbox, balances, data, .. } = self;
        let room = WINDOW.saturating_sub(outbox.waiting()).clamp(1, READ_RECORDS_MAX);
        // What the client said instead of taking a message.
        let mut refused = None;
        let reached = read_on(journal, from, room, &mut |record, _| {
            if let Some(balances) = balances {
                balances.note(record);
            }
            let (shard, sequence) = (record.position.shard(), record.position.sequence());
            if sequence <= begin[usize::from(shard)] {
                return Ok(Next::More);
            }
            let sent = rendering.of(record, |attributes, documents| {
                data.clear();
                write_data(data, record, documents);
                topics.send_event(record.position, record.recorded_at, attributes, data)
            })?;
            match sent {
                None => outbox.passed(shard, sequence),
                Some(Sent::Taken) => outbox.sent(shard, sequence, record.recorded_at),
                // Not read: it comes again.
                Some(sent) => {
                    refused = Some(sent);
                    return Err(Error::Stopped(String::new()));
                }
            }
            Ok(if balances.as_ref().is_some_and(Balances::is_full) { Next::Stop } else { Next::More })
        });
        match (refused, reached) {
            (Some(Sent::Refused(detail)), _) => Err(Stuck::Refused(detail)),
            (Some(Sent::Full | Sent::Taken), _) => Ok(None),
            (None, reached) => reached.map(Some).map_err(Stuck::Journal),
        }
    }

    /// Hands over balances of the flush that is under way, which may begin if `is_due`; returns whether one did.
    /// `may_send` is asked before each: whoever slept in between would hand over what is older than what another owner
    /// has sent.
    fn flush_balances(
        &mut self,
        topics: &impl Topics,
        programs: &Programs,
        is_due: bool,
        may_send: &dyn Fn() -> bool,
    ) -> bool {
        let Some(balances) = &mut self.balances else { return false };
        let begins = (is_due || balances.is_full()) && !balances.is_flushing();
        if begins {
            balances.begin_flush(&self.from);
        }
        let (mut key, data) = (Vec::new(), &mut self.data);
        let room = WINDOW.saturating_sub(self.outbox.waiting() + balances.waiting());
        let mut room = room.min(BALANCES_WINDOW.saturating_sub(balances.waiting()));
        balances.send(|identity, balance| {
            let version = programs.get(identity.program()).and_then(|program| program.version(balance.newest_version));
            // Every version that a record names is there; `send_some` looked.
            let (Some(version), true) = (version, room > 0 && may_send()) else { return false };
            room -= 1;
            key.clear();
            data.clear();
            write_key(&mut key, identity);
            write_balance(data, identity, balance, &version.document);
            // What else is wrong with the client shows in its refusals.
            topics.send_balance(balance.position.shard(), balance.recorded_at, &key, data) == Sent::Taken
        });
        begins
    }

    /// The mark as it is now; `is_settled` says of a shard whether its balances count as they are.
    pub(crate) fn mark(&self, before: &Mark, is_settled: impl Fn(usize) -> bool) -> Mark {
        let mut mark = before.clone();
        mark.events.published = self.outbox.published().collect();
        if let Some(balances) = &self.balances {
            let shards = mark.balances.published.iter_mut().zip(balances.published()).enumerate();
            shards.filter(|(shard, _)| is_settled(*shard)).for_each(|(_, (mark, now))| *mark = *now);
        }
        mark
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
