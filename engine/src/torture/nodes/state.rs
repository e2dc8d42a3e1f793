//! The store's thread of a node: what [`crate::store::cql`] asks and writes, in the same order, over the simulated
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use meed_schemas::ids::Identity;
use meed_schemas::time::Millis;

use super::desk::Desk;
use super::keyspace::{Answered, Statement};
use super::rows::{Row, Value, Write};
use crate::planted::{Fault, planted};
use crate::shard::{Checkpoint, Input, StoreJob};
use crate::store::cql::{Days, Stage, class_number, day_of, fact_name, key_part, part, timestamp};
use crate::store::{FactKey, FactQuery, ShardCheckpoint};

/// Rows of the due index that are read at once.
const ROWS_AT_ONCE: usize = 4;

type Due = Vec<(Millis, Identity)>;

/// What the thread remembers of the tables.
struct Keeper {
    desk: Rc<Desk>,
    days: BTreeMap<u16, Days>,
    /// Per shard, the classes and weeks that have keys.
    weeks: BTreeMap<u16, BTreeSet<(i32, i32)>>,
}

/// Does what the node's shards ask of the store, for ever.
pub(super) async fn keep(desk: Rc<Desk>) -> Result<(), String> {
    let mut keeper = Keeper { desk, days: BTreeMap::new(), weeks: BTreeMap::new() };
    loop {
        let desk = Rc::clone(&keeper.desk);
        let has_work = || if desk.tasks.borrow().is_empty() { Poll::Pending } else { Poll::Ready(()) };
        poll_fn(|_| has_work()).await;
        let (questions, checkpoint) = desk.tasks.borrow_mut().round(true).into_parts();
        keeper.answer(questions).await;
        if let Some(Checkpoint { rows, copied }) = checkpoint {
            keeper.checkpoint(&rows).await;
            desk.deliver(rows.shard, Input::CheckpointDone(copied));
        }
    }
}

/// The row of an account's state.
pub(super) fn state_row(shard: u16, identity: &Identity) -> Row {
    Row::State { shard, identity: identity.as_bytes().to_vec() }
}

/// Groups the rows of a part of a checkpoint by their partitions: what is of one is written at once.
fn by_partition(rows: Vec<((i32, i32, i32), Write)>) -> Vec<Statement> {
    let mut batches: BTreeMap<(i32, i32, i32), Vec<Write>> = BTreeMap::new();
    for (partition, write) in rows {
        batches.entry(partition).or_default().push(write);
    }
    batches.into_values().map(Statement::Write).collect()
}

impl Keeper {
    async fn read(&self, row: Row) -> Option<(i64, Value)> {
        match self.desk.line.ask(Statement::Get(row)).await {
            Answered::Row(found) => found,
            _ => None,
        }
    }

    async fn read_bytes(&self, row: Row) -> Option<Vec<u8>> {
        match self.read(row).await {
            Some((_, Value::Bytes(bytes) | Value::State { state: bytes, .. })) => Some(bytes),
            _ => None,
        }
    }

    async fn answer(&mut self, questions: Vec<StoreJob>) {
        for question in questions {
            match question {
                StoreJob::Load(shard, identity) => {
                    let blob = self.read_bytes(state_row(shard, &identity)).await;
                    self.desk.deliver(shard, Input::Loaded(identity, blob));
                }
                StoreJob::Fact(shard, identity, ticket, key, query) => {
                    let value = self.spilled(shard, &identity, &query).await;
                    self.desk.deliver(shard, Input::Fact(identity, ticket, key, value));
                }
                StoreJob::Due(shard, up_to, after, limit) => {
                    let found = self.due(shard, up_to, after.as_ref(), limit).await;
                    self.desk.deliver(shard, Input::Due(found));
                }
                StoreJob::Keys(shard, _) => {
                    let hashes = self.hashes(shard).await;
                    self.desk.deliver(shard, Input::SpilledKeys(hashes, None));
                }
                StoreJob::Forget(shard, sender) => {
                    self.days.remove(&shard);
                    self.weeks.remove(&shard);
                    // Who asked may have ended.
                    let _ = sender.send(());
                }
            }
        }
    }

    async fn range(&self, from: Row, to: Row, limit: usize) -> Vec<super::rows::Found> {
        match self.desk.line.ask(Statement::Range { from, to, limit }).await {
            Answered::Rows(rows) => rows,
            _ => Vec::new(),
        }
    }

    async fn weeks_of(&mut self, shard: u16) -> BTreeSet<(i32, i32)> {
        if !self.weeks.contains_key(&shard) {
            let from = Row::Week { shard, class: i32::MIN, week: i32::MIN };
            let to = Row::Week { shard, class: i32::MAX, week: i32::MAX };
            let found = self.range(from, to, usize::MAX).await;
            let weeks = found.into_iter().filter_map(|(row, ..)| match row {
                Row::Week { class, week, .. } => Some((class, week)),
                _ => None,
            });
            self.weeks.insert(shard, weeks.collect());
        }
        self.weeks.get(&shard).cloned().unwrap_or_default()
    }

    async fn spilled(&mut self, shard: u16, identity: &Identity, query: &FactQuery) -> Option<Vec<u8>> {
        let fact = match query {
            FactQuery::Key { class, hash, weeks } => {
                let class = class_number(*class);
                let known = self.weeks_of(shard).await;
                let is_wanted = |week: i32| u32::try_from(week).is_ok_and(|week| weeks.contains(&week));
                for (_, week) in known.into_iter().rev().filter(|(c, week)| *c == class && is_wanted(*week)) {
                    let found = self.read_bytes(Row::Key { shard, class, week, hash: *hash }).await;
                    if found.is_some() {
                        return found;
                    }
                }
                return None;
            }
            FactQuery::Reversed(position) => FactKey::Reversed(*position),
            FactQuery::ExpiredLot(instant) => FactKey::ExpiredLot(*instant),
            FactQuery::ClosedHold(position) => FactKey::ClosedHold(*position),
        };
        let fact = fact_name(shard, identity, &fact);
        self.read_bytes(Row::Fact { shard, identity: identity.as_bytes().to_vec(), fact }).await
    }

    async fn hashes(&mut self, shard: u16) -> Vec<u128> {
        let mut hashes = Vec::new();
        for (class, week) in self.weeks_of(shard).await {
            let key = |hash| Row::Key { shard, class, week, hash };
            let found = self.range(key(0), key(u128::MAX), usize::MAX).await;
            hashes.extend(found.into_iter().filter_map(|(row, ..)| match row {
                Row::Key { hash, .. } => Some(hash),
                _ => None,
            }));
        }
        hashes
    }

    async fn days_of(&mut self, shard: u16) -> &mut Days {
        if !self.days.contains_key(&shard) {
            let (from, to) = (Row::Day { shard, day: i32::MIN }, Row::Day { shard, day: i32::MAX });
            let found = self.range(from, to, usize::MAX).await;
            let days = found.into_iter().filter_map(|(row, ..)| match row {
                Row::Day { day, .. } => Some(day),
                _ => None,
            });
            self.days.insert(shard, Days::unswept(days));
        }
        self.days.entry(shard).or_insert_with(|| Days::unswept([]))
    }

    async fn due(&mut self, shard: u16, up_to: Millis, after: Option<&(Millis, Identity)>, limit: usize) -> Due {
        let mut sweep = self.days_of(shard).await.sweep(up_to, after, limit);
        while let Some(page) = sweep.page().cloned() {
            let (day, at, mut identity) = (page.day, page.at, page.identity);
            // The names after this one, which is not included.
            identity.push(0);
            let from = Row::Due { shard, day, at, identity };
            let to = Row::Due { shard, day, at: up_to, identity: vec![u8::MAX; 64] };
            let rows = self.range(from, to, ROWS_AT_ONCE).await;
            let is_last = rows.len() < ROWS_AT_ONCE;
            let mut last = None;
            for (row, ..) in rows {
                let Row::Due { at, identity, .. } = row else { continue };
                last = Some((at, identity.clone()));
                if let Some(account) = self.confirmed(shard, day, at, identity).await {
                    sweep.find(account);
                }
                if sweep.is_full() {
                    break;
                }
            }
            sweep.turn(last.filter(|_| !is_last));
        }
        self.days_of(shard).await.finish(sweep)
    }

    async fn confirmed(&self, shard: u16, day: i32, at: Millis, identity: Vec<u8>) -> Option<(Millis, Identity)> {
        let (timestamp, state) = self.read(Row::State { shard, identity: identity.clone() }).await?;
        if let Value::State { due, .. } = state
            && due == Some(at)
        {
            return Some((at, Identity::from_bytes(&identity)?));
        }
        let row = Row::Due { shard, day, at, identity };
        self.desk.line.ask(Statement::Write(vec![Write { row, timestamp, value: None }])).await;
        None
    }

    async fn checkpoint(&mut self, checkpoint: &ShardCheckpoint) {
        let mut order = Stage::ORDER;
        if planted(Fault::RowBeforeStates) {
            order.swap(3, 5);
        }
        for stage in order {
            let statements = match stage {
                Stage::Facts => facts(checkpoint),
                Stage::Keys => self.keys(checkpoint).await,
                Stage::NewDue => self.new_due(checkpoint).await,
                Stage::States => states(checkpoint),
                Stage::OldDue => old_due(checkpoint),
                Stage::Row => vec![Statement::Write(vec![Write {
                    row: Row::Checkpoint { shard: checkpoint.shard },
                    timestamp: timestamp(checkpoint),
                    value: Some(Value::Checkpoint(checkpoint.state.clone())),
                }])],
            };
            self.desk.line.ask_all(statements).await;
        }
    }

    /// Notes something that has no timestamp of its own: the row is the same whenever it comes.
    async fn note(&self, row: Row) {
        let write = Write { row, timestamp: 0, value: Some(Value::Nothing) };
        self.desk.line.ask(Statement::Write(vec![write])).await;
    }

    async fn keys(&mut self, checkpoint: &ShardCheckpoint) -> Vec<Statement> {
        let shard = checkpoint.shard;
        let mut rows = Vec::new();
        let mut known = self.weeks_of(shard).await;
        for key in &checkpoint.keys {
            let (class, week) = (class_number(key.class), i32::try_from(key.week).unwrap_or(i32::MAX));
            if known.insert((class, week)) {
                self.note(Row::Week { shard, class, week }).await;
                self.weeks.entry(shard).or_default().insert((class, week));
            }
            let row = Row::Key { shard, class, week, hash: key.hash };
            let value = Some(Value::Bytes(key.value.to_vec()));
            let write = Write { row, timestamp: timestamp(checkpoint), value };
            rows.push(((class, week, key_part(key.hash)), write));
        }
        by_partition(rows)
    }

    async fn new_due(&mut self, checkpoint: &ShardCheckpoint) -> Vec<Statement> {
        let shard = checkpoint.shard;
        let mut rows = Vec::new();
        let changed = checkpoint.accounts.iter().filter(|a| a.due != a.due_before);
        for (account, at) in changed.filter_map(|account| Some((account, account.due?))) {
            let day = day_of(at);
            if self.days_of(shard).await.add(at) {
                self.note(Row::Day { shard, day }).await;
            }
            let row = Row::Due { shard, day, at, identity: account.identity.as_bytes().to_vec() };
            let write = Write { row, timestamp: timestamp(checkpoint), value: Some(Value::Nothing) };
            rows.push(((day, 0, 0), write));
        }
        by_partition(rows)
    }
}

fn facts(checkpoint: &ShardCheckpoint) -> Vec<Statement> {
    let shard = checkpoint.shard;
    let rows = checkpoint.accounts.iter().flat_map(|account| {
        account.facts.iter().map(move |(fact, value)| {
            let fact = fact_name(shard, &account.identity, fact);
            let row = Row::Fact { shard, identity: account.identity.as_bytes().to_vec(), fact };
            let write = Write { row, timestamp: timestamp(checkpoint), value: Some(Value::Bytes(value.clone())) };
            ((part(&account.identity), 0, 0), write)
        })
    });
    by_partition(rows.collect())
}

fn states(checkpoint: &ShardCheckpoint) -> Vec<Statement> {
    let rows = checkpoint.accounts.iter().map(|account| {
        let row = state_row(checkpoint.shard, &account.identity);
        let value = Some(Value::State { due: account.due, state: account.blob.clone() });
        ((part(&account.identity), 0, 0), Write { row, timestamp: timestamp(checkpoint), value })
    });
    by_partition(rows.collect())
}

fn old_due(checkpoint: &ShardCheckpoint) -> Vec<Statement> {
    let changed = checkpoint.accounts.iter().filter(|a| a.due != a.due_before);
    let rows = changed.filter_map(|account| {
        let at = account.due_before?;
        let (shard, day, identity) = (checkpoint.shard, day_of(at), account.identity.as_bytes().to_vec());
        let row = Row::Due { shard, day, at, identity };
        Some(((day, 0, 0), Write { row, timestamp: timestamp(checkpoint), value: None }))
    });
    by_partition(rows.collect())
}
