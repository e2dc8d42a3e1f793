//! Taking shards: after a claim nobody who owned them before can append to them.

use std::sync::Arc;

use super::extents::Extents;
use super::machine::{Ask, Claim, Claimed, Step};
use super::session::{Cql, Pause};
use super::statements::Statements;
use crate::error::{Error, Result};

/// Shards that are claimed at the same time.
const CLAIMS_AT_ONCE: usize = 8;
/// Times that a claim begins again because another was quicker.
const ATTEMPTS_MAX: u32 = 20;
/// The first bucket of a new shard.
const FIRST_BUCKET: i64 = 1;

/// A shard that was claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedShard {
    /// Which.
    pub shard: u16,
    /// Its open bucket and epoch.
    pub claimed: Claimed,
    /// Sequence of its last record, 0 for none.
    pub last_sequence: u64,
    /// Records in the open bucket.
    pub bucket_records: u64,
    /// Whether the shard is new.
    pub created: bool,
}

/// Claims the shards 0 to `shards`, and notes in the answer where their records are.
///
/// # Errors
/// A damaged chain; another that claims them all the time.
pub fn claim(cql: &Arc<Cql>, statements: &Arc<Statements>, shards: u16) -> Result<(Vec<ClaimedShard>, Arc<Extents>)> {
    cql.block_on(async {
        let extents = Arc::new(Extents::new(shards));
        let mut claimed = Vec::with_capacity(usize::from(shards));
        let mut under_way = tokio::task::JoinSet::new();
        let mut next = 0;
        while next < shards || !under_way.is_empty() {
            while next < shards && under_way.len() < CLAIMS_AT_ONCE {
                let (cql, statements, extents) = (Arc::clone(cql), Arc::clone(statements), Arc::clone(&extents));
                let shard = next;
                under_way.spawn(async move { claim_one(&cql, &statements, &extents, shard, None).await });
                next += 1;
            }
            match under_way.join_next().await {
                Some(Ok(one)) => claimed.push(one?),
                Some(Err(_)) => return Err(Error::Stopped("a claim of a shard panicked".into())),
                None => {}
            }
        }
        claimed.sort_by_key(|one: &ClaimedShard| one.shard);
        Ok((claimed, extents))
    })
}

/// Claims one shard, and notes in `extents` where its records are. `known_epoch` is that of the owner before, as far as
/// it is known.
///
/// # Errors
/// As [`claim`].
pub async fn claim_one(
    cql: &Cql,
    statements: &Statements,
    extents: &Extents,
    shard: u16,
    known_epoch: Option<i64>,
) -> Result<ClaimedShard> {
    let number = i32::from(shard);
    for _ in 0..ATTEMPTS_MAX {
        let row = statements.shard(cql, number).await?;
        let hint = row.map_or(FIRST_BUCKET, |(_, hint)| hint);
        let begun = Claim::begin(hint, row.is_some(), known_epoch);
        let Some((claimed, first_sequence)) = walk(cql, statements, shard, hint, begun).await? else {
            continue;
        };
        if row.is_none() && !statements.register(cql, number, claimed.bucket).await? {
            // It is not new: its chain may go on elsewhere.
            continue;
        }
        // After the claim nobody changes them.
        let (tail, mut buckets, now) = tokio::try_join!(
            statements.tail(cql, number, claimed.bucket),
            statements.buckets(cql, number),
            statements.shard(cql, number)
        )?;
        let first_bucket = now.map_or(FIRST_BUCKET, |(first, _)| first);
        if claimed.bucket < first_bucket {
            // This claimant slept while the chain went on, and one that slept longer has opened a bucket that was
            // removed.
            continue;
        }
        let Some(tail) = tail else {
            return Err(damaged(shard, claimed.bucket, "the bucket that was claimed is not there"));
        };
        debug_assert!(first_sequence.is_none_or(|first| first == tail.first_sequence));
        let is_noted = buckets.iter().any(|(_, bucket)| *bucket == claimed.bucket);
        if !is_noted || hint != claimed.bucket {
            statements.note_bucket(cql, number, claimed.bucket, tail.first_sequence).await?;
        }
        if !is_noted {
            buckets.push((tail.first_sequence, claimed.bucket));
            buckets.sort_unstable();
        }
        // Those before the first one are about to be removed.
        buckets.retain(|(_, bucket)| *bucket >= first_bucket);
        extents.set(shard, buckets, tail.last_sequence, claimed.epoch);
        return Ok(ClaimedShard {
            shard,
            claimed,
            last_sequence: tail.last_sequence,
            bucket_records: (tail.last_sequence + 1).saturating_sub(tail.first_sequence),
            created: row.is_none(),
        });
    }
    Err(Error::Stopped(format!(
        "shard {shard} is claimed by others all the time; run one node at a time under a lease"
    )))
}

/// Walks the chain; `None` when it has to begin again. With what was claimed comes the first sequence of a bucket
/// that was opened.
async fn walk(
    cql: &Cql,
    statements: &Statements,
    shard: u16,
    hint: i64,
    (mut claim, mut ask): (Claim, Ask),
) -> Result<Option<(Claimed, Option<u64>)>> {
    let mut pause = Pause::new();
    let mut first_sequence = None;
    loop {
        if let Ask::Open { bucket, .. } = ask {
            // The bucket before is sealed and under this claim's epoch, so its end stands.
            let before = statements.tail(cql, i32::from(shard), bucket - 1).await?;
            let first = before.map_or(1, |tail| tail.last_sequence + 1);
            first_sequence = Some(first);
        }
        if let Ask::Raise { bucket, .. } = ask
            && bucket != hint
            && let Some(tail) = statements.tail(cql, i32::from(shard), bucket).await?
        {
            // An owner that ended between opening a bucket and noting it left that to whoever comes next.
            statements.note_bucket(cql, i32::from(shard), bucket, tail.first_sequence).await?;
        }
        let executed = statements.execute(cql, i32::from(shard), ask, None, first_sequence.unwrap_or(1)).await?;
        match claim.answer(executed.0) {
            Step::Ask(next) => ask = next,
            Step::Again(next) => {
                cql.check_going()?;
                pause.wait("claim a shard", &executed.1).await;
                ask = next;
            }
            Step::Done => return Ok(Some((claim.claimed(), first_sequence))),
            Step::Deposed(_) => return Ok(None),
            Step::Missing => match statements.shard(cql, i32::from(shard)).await? {
                Some((_, now)) if now != hint => return Ok(None),
                _ => return Err(damaged(shard, hint, "the bucket that the shard's row names is not there")),
            },
            Step::Damaged(what) => return Err(damaged(shard, hint, what)),
        }
    }
}

pub(super) fn damaged(shard: u16, bucket: i64, what: &str) -> Error {
    Error::Damaged {
        file: format!("the CQL journal, shard {shard}, bucket {bucket}").into(),
        offset: 0,
        detail: what.to_owned(),
    }
}
