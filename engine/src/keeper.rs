//! The node's store thread: the only one that calls the state store.
//!
//! Questions go before checkpoints, and are answered while a checkpoint waits for a flush, so that a cold account does
//! not wait for a batch. That order is safe: a shard forgets what a checkpoint covers only when it hears that it is
//! done, which it hears after the answers to all questions that were asked of the store before.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use meed_schemas::time::{DAY_MS, Millis};

use crate::error::{Error, Result};
use crate::shard::{BUSINESS_KEY_DAYS, Checkpoint, IDEMPOTENCY_KEY_DAYS, Input, StoreJob};
use crate::store::{KeyClass, ROOM_LOOK_PAUSE, Store, StoreView, week_of};

/// Delivers an input to the worker that owns the shard.
pub type Deliver = Box<dyn Fn(Vec<(u16, Input)>) + Send>;
/// Called on a fault; the process has to stop.
pub type OnFault = Box<dyn FnOnce(Error) + Send>;
/// Questions answered before a waiting checkpoint gets its turn.
const QUESTIONS_PER_CHECKPOINT: usize = 256;
/// Spilled keys read at once for a shard's filter; a cold account may wait for one such read per shard.
const KEYS_PER_QUESTION: usize = 4_096;

/// What the store is asked to do, without its thread; the simulator takes the same rounds from it.
#[derive(Debug, Default)]
pub struct Tasks {
    questions: VecDeque<StoreJob>,
    checkpoints: VecDeque<Checkpoint>,
    /// Checkpoints of no other shard are written meanwhile.
    alone: Option<u16>,
    /// Make everything before survive power loss, then forget keys older than their retention at this time.
    sync: Option<Millis>,
}

impl Tasks {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.checkpoints.is_empty() && self.sync.is_none()
    }

    fn has_checkpoint(&self) -> bool {
        !self.checkpoints.is_empty()
    }

    /// Adds questions.
    pub fn ask(&mut self, jobs: impl IntoIterator<Item = StoreJob>) {
        self.questions.extend(jobs);
    }

    /// Adds a checkpoint whose records are all journaled.
    pub fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push_back(checkpoint);
    }

    /// Says that for now checkpoints of this shard alone are written, or again of all.
    pub fn favour(&mut self, shard: Option<u16>) {
        self.alone = shard;
    }

    fn take_checkpoint(&mut self) -> Option<Checkpoint> {
        let Some(shard) = self.alone else { return self.checkpoints.pop_front() };
        let place = self.checkpoints.iter().position(|checkpoint| checkpoint.rows.shard == shard)?;
        self.checkpoints.remove(place)
    }

    /// Adds a sync, as of this time of the shards' clock. Keys are not forgotten because of a leap or gap of the
    /// clock that the node does not settle beyond either: they would not come back.
    pub fn sync(&mut self, now: Millis, settle_until: Millis) {
        self.sync = Some(now.min(settle_until));
    }

    /// What is done next: questions first, then one checkpoint if the store has room, else a sync of all of them.
    pub fn round(&mut self, has_room: bool) -> Round {
        let count = self.questions.len().min(QUESTIONS_PER_CHECKPOINT);
        let questions = self.questions.drain(..count).collect();
        let sync = if self.checkpoints.is_empty() { self.sync.take() } else { None };
        let checkpoint = if has_room { self.take_checkpoint() } else { None };
        Round { questions, checkpoint, sync }
    }
}

/// A round of the store's thread.
#[derive(Debug)]
pub struct Round {
    questions: Vec<StoreJob>,
    checkpoint: Option<Checkpoint>,
    sync: Option<Millis>,
}

impl Round {
    fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.checkpoint.is_none() && self.sync.is_none()
    }

    /// The questions and the checkpoint, for a store that takes time to answer.
    pub(crate) fn into_parts(self) -> (Vec<StoreJob>, Option<Checkpoint>) {
        (self.questions, self.checkpoint)
    }

    /// Does it. `deliver` gets what comes of it for the shards; true when everything before is synced.
    ///
    /// # Errors
    /// A fault of the store.
    pub fn carry_out(self, store: &mut Store, deliver: &mut dyn FnMut(Vec<(u16, Input)>)) -> Result<bool> {
        if !self.questions.is_empty() {
            let (answers, forgotten) = answer_all(store, self.questions)?;
            deliver(answers);
            // Who asked may have ended.
            forgotten.into_iter().for_each(|sender| {
                let _ = sender.send(());
            });
        }
        if let Some(Checkpoint { rows, copied }) = self.checkpoint {
            store.checkpoint(&rows)?;
            deliver(vec![(rows.shard, Input::CheckpointDone(copied))]);
        }
        let Some(now) = self.sync else { return Ok(false) };
        store.sync()?;
        for (class, days) in [(KeyClass::Idempotency, IDEMPOTENCY_KEY_DAYS), (KeyClass::Business, BUSINESS_KEY_DAYS)] {
            // A week is dropped when its last day is beyond the retention.
            store.drop_fact_weeks_before(class, week_of(now.saturating_sub(days * DAY_MS)))?;
        }
        Ok(true)
    }
}

#[derive(Default)]
struct Shared {
    tasks: Tasks,
    /// Who wants a view of the store, of what is durable in it.
    views: Vec<SyncSender<StoreView>>,
    idle: bool,
    stop: bool,
}

impl Shared {
    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.views.is_empty() && !self.stop
    }
}

/// Hands work to the store thread.
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        store: Store,
        deliver: Deliver,
        on_synced: Box<dyn Fn() + Send>,
        on_fault: OnFault,
    ) -> Result<(Self, std::thread::JoinHandle<()>)> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let keeper = Self { shared: Arc::clone(&shared) };
        let body = move || {
            if let Err(error) = run(store, &shared, &deliver, &on_synced) {
                on_fault(error);
            }
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(body);
        Ok((keeper, thread.map_err(|error| Error::io("start a thread of", "the state store", error))?))
    }

    /// Asks the store.
    pub fn ask(&self, jobs: impl IntoIterator<Item = StoreJob>) {
        let mut shared = self.lock();
        shared.tasks.ask(jobs);
        self.wake(&mut shared);
    }

    /// Writes a checkpoint whose records are all journaled.
    pub fn checkpoint(&self, checkpoint: Checkpoint) {
        let mut shared = self.lock();
        shared.tasks.checkpoint(checkpoint);
        self.wake(&mut shared);
    }

    /// A shard is about to go, and its commands wait for its last checkpoint: those of others wait until `None` is
    /// said, or the thread is to end.
    pub fn favour(&self, shard: Option<u16>) {
        let mut shared = self.lock();
        shared.tasks.favour(shard);
        self.wake(&mut shared);
    }

    /// Another node had the shard: forgets what is remembered of its rows. Comes when everything that was asked before
    /// is answered; nothing comes after a fault.
    pub fn forget(&self, shard: u16) -> Receiver<()> {
        let (sender, receiver) = sync_channel(1);
        self.ask([StoreJob::Forget(shard, sender)]);
        receiver
    }

    /// Makes what was written survive power loss, and forgets old keys; as [`Tasks::sync`].
    pub fn sync(&self, now: Millis, settle_until: Millis) {
        let mut shared = self.lock();
        shared.tasks.sync(now, settle_until);
        self.wake(&mut shared);
    }

    /// A view of the store in which everything is durable; comes when the thread has the time. Nothing comes
    /// after a fault.
    pub fn view(&self) -> Receiver<StoreView> {
        let (sender, receiver) = sync_channel(1);
        let mut shared = self.lock();
        shared.views.push(sender);
        self.wake(&mut shared);
        receiver
    }

    /// Finishes what was handed over, syncs, and ends the thread.
    pub fn stop(&self) {
        let mut shared = self.lock();
        shared.stop = true;
        shared.tasks.favour(None);
        self.wake(&mut shared);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, shared: &mut Shared) {
        if std::mem::take(&mut shared.idle) {
            self.shared.1.notify_one();
        }
    }
}

fn run(mut store: Store, shared: &(Mutex<Shared>, Condvar), deliver: &Deliver, on_synced: &dyn Fn()) -> Result<()> {
    loop {
        let mut guard = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        while guard.is_idle() {
            guard.idle = true;
            guard = shared.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        guard.idle = false;
        let has_checkpoint = guard.tasks.has_checkpoint();
        let round = guard.tasks.round(!has_checkpoint || store.has_room()?);
        if has_checkpoint && round.is_empty() {
            guard.idle = true;
            // Woken by a question, it looks again at once.
            let _ = shared.1.wait_timeout(guard, ROOM_LOOK_PAUSE);
            continue;
        }
        let views = if has_checkpoint { Vec::new() } else { std::mem::take(&mut guard.views) };
        let stop = guard.stop && round.is_empty();
        drop(guard);
        if round.carry_out(&mut store, &mut |inputs| deliver(inputs))? {
            on_synced();
        }
        if !views.is_empty() {
            store.sync()?;
            for sender in views {
                // Who asked may have ended.
                let _ = sender.send(store.view()?);
            }
        }
        if stop {
            return store.sync();
        }
    }
}

/// Answers to questions, and who is to be told when they are delivered.
type Answers = (Vec<(u16, Input)>, Vec<SyncSender<()>>);

/// Answers questions; those of one kind together.
fn answer_all(store: &mut Store, questions: Vec<StoreJob>) -> Result<Answers> {
    let (mut answers, mut forgotten) = (Vec::with_capacity(questions.len()), Vec::new());
    let (mut loads, mut facts, mut askers) = (Vec::new(), Vec::new(), Vec::new());
    for question in questions {
        match question {
            StoreJob::Load(shard, identity) => loads.push((shard, identity)),
            StoreJob::Fact(shard, identity, ticket, key, query) => {
                facts.push((shard, identity, query));
                askers.push((ticket, key));
            }
            StoreJob::Due(shard, up_to, after, limit) => {
                answers.push((shard, Input::Due(store.due(shard, up_to, after.as_ref(), limit)?)));
            }
            StoreJob::Keys(shard, from) => {
                let (hashes, next) = store.spilled_keys(shard, from, KEYS_PER_QUESTION)?;
                answers.push((shard, Input::SpilledKeys(hashes, next)));
            }
            StoreJob::Forget(shard, sender) => {
                store.forget(shard);
                forgotten.push(sender);
            }
        }
    }
    let blobs = store.load_many(&loads)?;
    answers.extend(loads.into_iter().zip(blobs).map(|((shard, id), blob)| (shard, Input::Loaded(id, blob))));
    let values = store.spilled_many(&facts)?;
    for (((shard, identity, _), (ticket, key)), value) in facts.into_iter().zip(askers).zip(values) {
        answers.push((shard, Input::Fact(identity, ticket, key, value)));
    }
    Ok((answers, forgotten))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::{FactQuery, KEY_VALUE_BYTES, ShardCheckpoint, ShardState, SpilledKey};
    use meed_schemas::ids::Identity;

    #[test]
    fn questions_do_not_wait_for_room_and_a_sync_waits_for_what_was_before_it() {
        let (mut store, mut tasks) = (Store::in_memory(), Tasks::default());
        let rows = ShardCheckpoint { shard: 0, accounts: Vec::new(), keys: Vec::new(), state: ShardState::default() };
        tasks.checkpoint(Checkpoint { rows: Box::new(rows), copied: Vec::new() });
        tasks.sync(0, Millis::MAX);
        tasks.ask([StoreJob::Load(0, Identity::member("p", "m-1"))]);
        let mut round = |tasks: &mut Tasks, has_room| {
            let mut inputs = Vec::new();
            let is_synced = tasks.round(has_room).carry_out(&mut store, &mut |of| inputs.extend(of)).unwrap();
            (inputs, is_synced)
        };
        let (answers, is_synced) = round(&mut tasks, false);
        assert!(matches!(answers[..], [(0, Input::Loaded(..))]) && !is_synced);
        assert!(tasks.round(false).is_empty() && !tasks.is_empty(), "the rest waits");
        let (done, is_synced) = round(&mut tasks, true);
        assert!(matches!(done[..], [(0, Input::CheckpointDone(_))]) && !is_synced);
        assert_eq!((round(&mut tasks, true).1, tasks.is_empty()), (true, true));
    }

    #[test]
    fn while_a_shard_is_to_go_its_checkpoints_alone_are_taken() {
        let mut tasks = Tasks::default();
        for shard in [3, 5, 4, 5] {
            let rows = ShardCheckpoint { shard, accounts: Vec::new(), keys: Vec::new(), state: ShardState::default() };
            tasks.checkpoint(Checkpoint { rows: Box::new(rows), copied: Vec::new() });
        }
        tasks.favour(Some(5));
        let taken = |tasks: &mut Tasks| Some(tasks.round(true).into_parts().1?.rows.shard);
        assert_eq!([(); 3].map(|()| taken(&mut tasks)), [Some(5), Some(5), None]);
        tasks.favour(None);
        assert_eq!([(); 3].map(|()| taken(&mut tasks)), [Some(3), Some(4), None]);
    }

    #[test]
    fn a_leap_or_gap_that_is_not_settled_makes_no_key_too_old() {
        let (at, identity) = (1_800_000_000_000, Identity::member("p", "m-1"));
        let mut store = Store::in_memory();
        let (class, week) = (KeyClass::Idempotency, week_of(at));
        let keys = vec![SpilledKey { class, week, hash: 7, value: [1; KEY_VALUE_BYTES] }];
        let state = ShardState::default();
        store.checkpoint(&ShardCheckpoint { shard: 0, accounts: Vec::new(), keys, state }).unwrap();
        let query = FactQuery::Key { class, hash: 7, weeks: week..=week };
        let much_later = at + 400 * DAY_MS;
        for (settle_until, is_kept) in [(at, true), (Millis::MIN, true), (Millis::MAX, false)] {
            let mut tasks = Tasks::default();
            tasks.sync(much_later, settle_until);
            assert!(tasks.round(true).carry_out(&mut store, &mut |_| {}).unwrap());
            assert_eq!(store.spilled(0, &identity, &query).unwrap().is_some(), is_kept, "{settle_until}");
        }
    }
}
