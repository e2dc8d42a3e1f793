//! The shell round [`Appender`]: appends batches of one shard, one at a time, and knows of each what became of it.

use std::sync::Arc;

use super::CqlConfig;
use super::appends::Appends;
use super::claim::{ClaimedShard, damaged};
use super::extents::Extents;
use super::machine::{Appender, Ask, Step};
use super::session::{Cql, Pause};
use super::statements::{Batch, Statements};
use crate::error::{Error, Result};
use crate::journal::lz4;
use crate::ownership::Ownership;

/// The journal of one shard, for its owner.
#[derive(Debug)]
pub struct ShardJournal {
    cql: Arc<Cql>,
    statements: Arc<Statements>,
    extents: Arc<Extents>,
    ownership: Arc<Ownership>,
    shard: u16,
    appender: Appender,
    /// Identifies this owner's batches; the lower half counts.
    next_bid: u128,
}

impl ShardJournal {
    /// Of a shard that was claimed.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new(
        cql: Arc<Cql>,
        statements: Arc<Statements>,
        extents: Arc<Extents>,
        ownership: Arc<Ownership>,
        claimed: ClaimedShard,
        config: &CqlConfig,
    ) -> Result<Self> {
        let random = getrandom::u64()?;
        let appender = Appender::new(claimed.claimed, claimed.bucket_records, config.bucket_bytes);
        let next_bid = u128::from(random) << 64;
        Ok(Self { cql, statements, extents, ownership, shard: claimed.shard, appender, next_bid })
    }

    /// Appends `count` records whose frames these are, statement by statement when it is its turn among `appends`;
    /// durable when it returns. While the outcome of a try is unknown it is asked for again, and the shard takes no
    /// new command meanwhile.
    ///
    /// # Errors
    /// Another owns the shard; damage; the node stops.
    pub async fn append(&mut self, appends: &Appends, frames: &[u8], sequence: u64, count: usize) -> Result<()> {
        self.next_bid += 1;
        let (mut packed, mut check) = (Vec::new(), Vec::new());
        let is_shorter = lz4::pack(frames, &mut packed, &mut check)
            .map_err(|detail| Error::Stopped(format!("cannot pack a batch of shard {}: {detail}", self.shard)))?;
        let body = if is_shorter { &packed[..] } else { frames };
        let batch = Batch { sequence, bid: self.next_bid, count, bytes: frames.len(), body };
        let number = i32::from(self.shard);
        let mut ask = self.appender.begin(batch.bid, body.len() as u64);
        let mut pause = Pause::new();
        loop {
            let opened = matches!(ask, Ask::Append { bucket, .. } if !self.extents.has(self.shard, bucket));
            if opened {
                self.statements.note_bucket(&self.cql, number, self.appender.bucket(), sequence).await?;
                self.extents.add(self.shard, sequence, self.appender.bucket());
            }
            let turn = appends.turn().await;
            let executed = self.statements.execute(&self.cql, number, ask, Some(batch), sequence).await?;
            drop(turn);
            match self.appender.answer(executed.0) {
                Step::Ask(next) => ask = next,
                Step::Again(next) => {
                    self.ownership.set_unresolved(self.shard, true);
                    self.cql.check_going()?;
                    appends.pause(pause.wait("append to the journal", &executed.1)).await;
                    ask = next;
                }
                Step::Done => {
                    self.extents.append(self.shard, sequence, sequence + count as u64 - 1, frames);
                    self.ownership.set_unresolved(self.shard, false);
                    return Ok(());
                }
                Step::Deposed(epoch) => {
                    let epoch = epoch.map_or_else(|| "unknown".to_owned(), |epoch| epoch.to_string());
                    return Err(Error::Stopped(format!(
                        "another node owns shard {} under epoch {epoch}, this one had {}",
                        self.shard,
                        self.appender.epoch()
                    )));
                }
                // Only a claim can miss its first bucket.
                Step::Missing => return Err(damaged(self.shard, self.appender.bucket(), "the bucket is gone")),
                Step::Damaged(what) => return Err(damaged(self.shard, self.appender.bucket(), what)),
            }
        }
    }
}
