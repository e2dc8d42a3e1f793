//! Beginning one shard while the node runs.

use std::sync::Arc;
use std::time::Instant;

use super::Parts;
use crate::error::{Error, Result};
use crate::journal::cql::{ProgramRow, ShardJournal, claim_one};
use crate::metrics::ClusterMetrics;
use crate::recovery::{self, ShardRecovery};
use crate::shard::Tenure;

/// Claims a shard, recovers it, and lets it decide; the epoch that it was claimed under.
///
/// # Errors
/// Damage; the node stops.
pub(super) fn begin(parts: &Parts, shard: u16, metrics: &ClusterMetrics) -> Result<i64> {
    let began = Instant::now();
    let forgotten = parts.node.keeper().forget(shard);
    let claimed = parts.cql.block_on(claim_one(&parts.cql, &parts.statements, &parts.extents, shard))?;
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
    // Another node may have had it since this one had: nothing that was asked for then comes any more.
    forgotten.recv().map_err(|_| Error::Stopped("the store's thread ended".into()))?;
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
