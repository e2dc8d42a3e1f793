//! Taking a shard: what [`crate::cluster`] does when one comes to a node, over the simulated network. The claim and the
//! recovery are the product's.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::task::Poll;

use meed_schemas::codec;
use meed_schemas::ids::{Identity, Position};

use super::AGAIN_MS;
use super::desk::{Desk, Extent};
use super::keyspace::{Answered, Statement};
use super::line::Line;
use super::rows::{Row, Value};
use super::state::state_row;
use crate::journal::cql::machine::{Answer, Claim, Claimed, Step};
use crate::journal::{MemoryRecords, Records};
use crate::recovery::recover_shard;
use crate::shard::{ShardStart, StoreJob};
use crate::store::{AccountWrite, ShardCheckpoint, ShardState, Store};

/// The first bucket of a new shard.
const FIRST_BUCKET: i64 = 1;

/// A shard that was taken.
pub(super) struct Begun {
    pub(super) claimed: Claimed,
    /// Whether the open bucket has rows.
    pub(super) bucket_records: u64,
    pub(super) start: ShardStart,
    /// How far the stream is, and the records after that.
    pub(super) published: u64,
    pub(super) records: Records,
}

/// # Errors
/// A damaged chain, which no fault of this world explains.
async fn claim(line: &Line, shard: u16, known_epoch: i64) -> Result<Claimed, String> {
    loop {
        let hint = match line.ask(Statement::Hint { shard }).await {
            Answered::Hint(hint) => hint,
            _ => None,
        };
        if let Some(claim) = walk(line, shard, hint, known_epoch).await? {
            let (claimed, is_new) = (claim.claimed(), claim.is_of_new_shard());
            let register = Statement::Register { shard, bucket: claimed.bucket };
            let is_registered = !is_new || matches!(line.ask_once(register).await, Answered::Changed(true));
            let kept = tail(line, shard).await.buckets;
            // As in the product: it may have been removed, and opened again by an owner that slept.
            if is_registered && kept.first().is_none_or(|(_, first)| claimed.bucket >= *first) {
                return Ok(claimed);
            }
        }
        // The hint is old, another was quicker, it is not new, or an earlier try had an effect: begin again.
        line.pause(AGAIN_MS).await;
    }
}

async fn walk(line: &Line, shard: u16, hint: Option<i64>, known_epoch: i64) -> Result<Option<Claim>, String> {
    let (mut claim, mut ask) = Claim::begin(hint.unwrap_or(FIRST_BUCKET), hint.is_some(), Some(known_epoch));
    loop {
        let answer = match line.ask_once(Statement::Journal { shard, ask, sequence: 0, row: None }).await {
            Answered::Journal(answer) => answer,
            _ => Answer::Unknown,
        };
        match claim.answer(answer) {
            Step::Ask(next) => ask = next,
            Step::Again(next) => {
                line.pause(AGAIN_MS).await;
                ask = next;
            }
            Step::Done => return Ok(Some(claim)),
            Step::Missing | Step::Deposed(_) => return Ok(None),
            Step::Damaged(what) => return Err(format!("a claim finds damage: {what}")),
        }
    }
}

/// What there is of a shard in the journal's tables.
struct Tail {
    buckets: Vec<(u64, i64)>,
    last: u64,
}

async fn tail(line: &Line, shard: u16) -> Tail {
    match line.ask(Statement::Tail { shard }).await {
        Answered::Tail { buckets, last } => Tail { buckets, last },
        _ => Tail { buckets: Vec::new(), last: 0 },
    }
}

/// Reads the records after a sequence.
async fn read(desk: &Desk, shard: u16, tail: &Tail, from: u64) -> Result<MemoryRecords, String> {
    let mut records = MemoryRecords::new(desk.setup.shards);
    let removed = tail.buckets.first().map_or(0, |(first, _)| first - 1);
    records.set_extent(shard, removed, tail.last);
    let ends = tail.buckets.iter().skip(1).map(|(first, _)| first - 1).chain([tail.last]);
    for ((_, bucket), _) in tail.buckets.iter().zip(ends).filter(|(_, end)| *end > from) {
        let statement = Statement::Batches { shard, bucket: *bucket };
        if let Answered::Batches(Some(batches)) = desk.line.ask(statement).await {
            for (_, batch) in batches {
                records.add(&batch.frames).map_err(|error| error.to_string())?;
            }
        }
    }
    Ok(records)
}

/// The accounts with records after a sequence.
fn accounts_after(records: &Records, shard: u16, from: u64) -> Result<BTreeSet<Identity>, String> {
    let mut accounts = BTreeSet::new();
    let starts = vec![from; usize::from(records.shards())];
    let scanned = records.scan(&starts, &|other| other == shard, &mut |position, payload| {
        let record = codec::decode(position, payload);
        accounts.extend(record.ok().map(|record| record.identity));
        Ok(())
    });
    scanned.map_err(|error| error.to_string())?;
    Ok(accounts)
}

/// What the store has of a shard that its recovery asks for.
async fn stored(desk: &Desk, state: ShardState, shard: u16, accounts: BTreeSet<Identity>) -> Result<Store, String> {
    let wanted = accounts.iter().map(|identity| Statement::Get(state_row(shard, identity)));
    let found = desk.line.ask_all(wanted.collect()).await;
    let writes = accounts.into_iter().zip(found).filter_map(|(identity, found)| match found {
        Answered::Row(Some((_, Value::State { state: blob, .. }))) => {
            Some(AccountWrite { identity, blob, due_before: None, due: None, facts: Vec::new() })
        }
        _ => None,
    });
    let mut store = Store::in_memory();
    let checkpoint = ShardCheckpoint { shard, accounts: writes.collect(), keys: Vec::new(), state };
    store.checkpoint(&checkpoint).map_err(|error| error.to_string())?;
    Ok(store)
}

/// Takes a shard; `None` when another has taken it meanwhile, and that was noticed.
///
/// # Errors
/// Damage, or what is not as a replay of everything has it.
pub(super) async fn begin(desk: Rc<Desk>, shard: u16) -> Result<Option<Begun>, String> {
    // Another node may have had it since this one had: nothing that was asked for then comes any more.
    let (sender, receiver) = sync_channel(1);
    desk.tasks.borrow_mut().ask([StoreJob::Forget(shard, sender)]);
    poll_fn(|_| if receiver.try_recv().is_ok() { Poll::Ready(()) } else { Poll::Pending }).await;
    // Of a claim that has ended; the newest one may be under way.
    let known_epoch = desk.setup.ledger.borrow().claimed(shard);
    let claimed = claim(&desk.line, shard, known_epoch).await?;
    desk.setup.ledger.borrow_mut().note_claim(shard, claimed.epoch);
    let tail = tail(&desk.line, shard).await;
    let (buckets, last) = (tail.buckets.clone(), tail.last);
    let extent = Extent { epoch: claimed.epoch, buckets, last, auditor: None };
    let removed = extent.removed();
    desk.extents.borrow_mut()[usize::from(shard)] = extent;
    match recover(&desk, shard, claimed, tail).await {
        Err(_) if desk.is_deposed(shard, claimed.epoch) => Ok(None),
        // Removed while it was recovered, by what an owner that had slept finished meanwhile: the node begins again.
        Err(_)
            if matches!(desk.line.ask(Statement::Tail { shard }).await, Answered::Tail { buckets, .. }
            if buckets.first().is_some_and(|(first, _)| first - 1 > removed)) =>
        {
            Ok(None)
        }
        recovered => recovered.map(Some),
    }
}

/// The last record after `published` that is gone, else `published`: an owner that had slept may have published more,
/// saved that, and removed it since this was read. Whoever publishes passes over it.
fn last_passed(records: &Records, shard: u16, published: u64, last: u64) -> Result<u64, String> {
    for sequence in (published + 1..=last).rev() {
        if records.read(Position::new(shard, sequence)).map_err(|error| error.to_string())?.is_none() {
            return Ok(sequence);
        }
    }
    Ok(published)
}

async fn recover(desk: &Desk, shard: u16, claimed: Claimed, tail: Tail) -> Result<Begun, String> {
    let line = &desk.line;
    let published = match line.ask(Statement::ReadPublished { shard }).await {
        Answered::Published(up_to) => up_to,
        _ => 0,
    };
    let state = match line.ask(Statement::Get(Row::Checkpoint { shard })).await {
        Answered::Row(Some((_, Value::Checkpoint(state)))) => Some(state),
        _ => None,
    };
    let from = state.as_ref().map_or(0, |state| state.replay_start.max(1) - 1);
    let records = Records::Memory(read(desk, shard, &tail, from.min(published)).await?);
    let store = match state {
        Some(state) => stored(desk, state, shard, accounts_after(&records, shard, from)?).await?,
        None => Store::in_memory(),
    };
    let recovered = recover_shard(&store, &records, shard, tail.last, desk.setup.seed);
    let (recovery, _) = recovered.map_err(|error| error.to_string())?;
    desk.setup.ledger.borrow().check_recovered(&recovery, None)?;
    let passed = last_passed(&records, shard, published, tail.last)?;
    if passed > published {
        let now = line.ask(Statement::ReadPublished { shard }).await;
        let is_published = matches!(now, Answered::Published(up_to) if up_to >= passed);
        let now = line.ask(Statement::Tail { shard }).await;
        let is_removed = matches!(now, Answered::Tail { buckets, .. } if buckets.first().is_some_and(|b| b.0 > passed));
        if !is_published || !is_removed {
            return Err(format!("record {} is not published and is gone", Position::new(shard, passed)));
        }
    }
    let bucket_records = tail.buckets.last().map_or(0, |(first, _)| (tail.last + 1).saturating_sub(*first));
    Ok(Begun { claimed, bucket_records, start: recovery.start, published: passed, records })
}
