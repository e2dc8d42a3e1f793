//! Beginning one shard while the node runs.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::Parts;
use crate::error::{Error, Result};
use crate::journal::cql::{ProgramRow, ShardJournal, claim_one};
use crate::metrics::ClusterMetrics;
use crate::recovery::{self, ShardRecovery};
use crate::shard::Tenure;

/// What is known of a shard that comes.
pub(super) struct Known {
    /// The epoch of its owner before.
    pub(super) epoch: Option<i64>,
    /// Where this node had it before: told when what was asked of the store then has come, and its rows are forgotten.
    pub(super) forgotten: Option<Receiver<()>>,
}

/// Claims a shard, recovers it, and lets it decide; the epoch that it was claimed under.
///
/// # Errors
/// Damage; the node stops.
pub(super) fn begin(parts: &Parts, shard: u16, known: Known, metrics: &ClusterMetrics) -> Result<i64> {
    let began = Instant::now();
    let claiming = claim_one(&parts.cql, &parts.statements, &parts.extents, shard, known.epoch);
    let claimed = parts.cql.block_on(claiming)?;
    let (epoch, last_sequence) = (claimed.claimed.epoch, claimed.last_sequence);
    let journal = ShardJournal::new(
        Arc::clone(&parts.cql),
        Arc::clone(&parts.statements),
        Arc::clone(&parts.extents),
        Arc::clone(&parts.ownership),
        claimed,
        &parts.config,
    )?;
    let claim_took = began.elapsed();
    if let Some(forgotten) = known.forgotten {
        forgotten.recv().map_err(|_| Error::Stopped("the store's thread ended".into()))?;
    }
    let (ShardRecovery { start, records }, programs) =
        recovery::recover_shard(&parts.store, &parts.reader, shard, last_sequence, parts.seed)?;
    let rows = programs.iter().flat_map(|program| {
        program.versions().iter().map(|version| ProgramRow {
            name: program.name().to_owned(),
            number: version.number,
            effective_from: version.effective_from,
            document: version.document.to_canonical_json(),
        })
    });
    let rows: Vec<_> = rows.collect();
    parts.announcer.complete(&parts.node, &parts.registry, rows)?;
    parts.committer.attach(shard, journal);
    parts.tell(shard, Tenure::Begin(Box::new(start)));
    metrics.begun(began.elapsed());
    tracing::info!(
        shard,
        epoch,
        last_sequence,
        replayed_records = records,
        claim_ms = claim_took.as_millis(),
        took_ms = began.elapsed().as_millis(),
        "a shard has begun"
    );
    Ok(epoch)
}
