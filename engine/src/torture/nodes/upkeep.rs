//! What a node reads of its journal beside its shards, and how it removes old buckets: as [`crate::reader`] and
//! [`crate::trim`] do.

use std::rc::Rc;

use meed_schemas::codec;
use meed_schemas::ids::Position;
use meed_schemas::record::Record;

use super::desk::Desk;
use super::keyspace::{Answered, Statement};
use super::rows::{Row, Value};
use crate::journal::frame::verified;
use crate::trim::may_go;

/// Rest between two removals.
const REST_AFTER_REMOVAL_MS: i64 = 100;

/// Reads a record that this node has; `None` when it is no longer kept, or the shard is elsewhere.
///
/// # Errors
/// It has to be there, and is not.
pub(super) async fn read(desk: &Desk, position: Position) -> Result<Option<Box<Record>>, String> {
    let (shard, sequence) = (position.shard(), position.sequence());
    let bucket = {
        let extents = desk.extents.borrow();
        let extent = &extents[usize::from(shard)];
        let is_there = sequence > extent.removed() && sequence <= extent.last;
        extent.bucket_of(sequence).filter(|_| is_there)
    };
    let Some(bucket) = bucket else { return Ok(None) };
    let batches = match desk.line.ask(Statement::Batches { shard, bucket }).await {
        Answered::Batches(batches) => batches.unwrap_or_default(),
        _ => Vec::new(),
    };
    for (_, batch) in batches.into_iter().filter(|(first, _)| *first <= sequence) {
        let found = verified(&batch.frames).flatten().find(|frame| frame.position() == position);
        if let Some(frame) = found {
            let record = codec::decode(position, frame.payload()).map_err(|error| error.to_string())?;
            return Ok(Some(Box::new(record)));
        }
    }
    // It may have gone since it was looked for.
    if let Answered::Hint(Some(first)) = desk.line.ask(Statement::First { shard }).await {
        desk.forget_before(shard, first)?;
    }
    let extents = desk.extents.borrow();
    let extent = &extents[usize::from(shard)];
    match extent.epoch == 0 || sequence <= extent.removed() {
        true => Ok(None),
        false => Err(format!("record {position} is missing in bucket {bucket}")),
    }
}

/// Removes buckets that nobody needs, for ever.
pub(super) async fn trim(desk: Rc<Desk>) -> Result<(), String> {
    let mut any = false;
    loop {
        desk.line.pause(if any { REST_AFTER_REMOVAL_MS } else { desk.setup.trim_ms }).await;
        any = false;
        for shard in 0..desk.setup.shards {
            let spare = {
                let extents = desk.extents.borrow();
                let extent = &extents[usize::from(shard)];
                extent.oldest_spare().filter(|_| extent.epoch != 0)
            };
            if let Some((bucket, up_to)) = spare {
                any |= trim_one(&desk, shard, bucket, up_to).await?;
            }
        }
    }
}

/// Removes a bucket, unless somebody needs it; whether it did.
async fn trim_one(desk: &Desk, shard: u16, bucket: i64, up_to: u64) -> Result<bool, String> {
    let published = match desk.line.ask(Statement::ReadPublished { shard }).await {
        Answered::Published(published) => published,
        _ => 0,
    };
    let checkpointed = match desk.line.ask(Statement::Get(Row::Checkpoint { shard })).await {
        Answered::Row(Some((_, Value::Checkpoint(state)))) => state.replay_start.saturating_sub(1),
        _ => 0,
    };
    if !may_go(up_to, [published + 1].into_iter(), checkpointed) {
        return Ok(false);
    }
    desk.forget_before(shard, bucket + 1)?;
    desk.line.ask(Statement::BeginLater { shard, bucket: bucket + 1 }).await;
    desk.line.ask(Statement::Drop { shard, bucket }).await;
    Ok(true)
}
