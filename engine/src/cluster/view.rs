//! A cluster as an operator sees it, from outside.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meed_schemas::time::Millis;

use crate::error::Result;
use crate::journal::cql::{Cql, CqlConfig, NodeRow, Registry, open_keyspace};
use crate::ownership::{LeaseRow, OwnerMap, RENEWALS_PER_LEASE};

/// What there is.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Who owns what.
    pub map: OwnerMap,
    /// The nodes, by name.
    pub nodes: Vec<NodeView>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// What it is called.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Whether it renewed its lease while this was made.
    pub is_renewing: bool,
    /// Whether it gives its shards away.
    pub draining: bool,
    /// Shards that the map gives it.
    pub shards: usize,
    /// Shards of these that it has begun.
    pub begun: usize,
    /// When it started.
    pub started_at: Millis,
}

/// Part of a lease in which its holder renews it at least once, even if a renewal is late.
const RENEWAL_SHARE: u32 = RENEWALS_PER_LEASE / 2;
/// Pace of looks at the nodes until all have renewed.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Looks at the cluster that this node would be in, until every node has renewed its lease; of one that does not it
/// waits for a third of the lease that its row tells.
///
/// # Errors
/// It cannot be reached, or there is none.
pub fn view(config: &CqlConfig) -> Result<ClusterView> {
    inside(config, |registry, shards| {
        let before: HashMap<u128, LeaseRow> =
            registry.nodes()?.into_iter().map(|row| (row.member.incarnation, row.lease)).collect();
        let began = Instant::now();
        // Who was not there before has come since.
        let is_renewing = |row: &NodeRow| before.get(&row.member.incarnation).is_none_or(|lease| *lease != row.lease);
        let rows = loop {
            std::thread::sleep(LOOK_INTERVAL);
            let (looked, rows) = (began.elapsed(), registry.nodes()?);
            let is_waited_for = |row: &NodeRow| {
                let lease = Duration::from_millis(u64::try_from(row.lease.lease_ms).unwrap_or(0));
                !is_renewing(row) && looked < lease / RENEWAL_SHARE
            };
            if !rows.iter().any(is_waited_for) {
                break rows;
            }
        };
        let map = registry.map(shards)?;
        let node = |row: NodeRow| {
            let own = row.member.incarnation;
            let seats = map.seats.iter().flatten().filter(|seat| seat.member.incarnation == own);
            NodeView {
                name: row.member.name.to_string(),
                address: row.member.address.to_string(),
                is_renewing: is_renewing(&row),
                draining: row.draining,
                shards: seats.clone().count(),
                begun: seats.filter(|seat| seat.epoch > 0).count(),
                started_at: row.started_at,
            }
        };
        let mut nodes: Vec<NodeView> = rows.into_iter().map(node).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ClusterView { map, nodes })
    })
}

/// Tells a node to give its shards away, or no longer to; false when there is no such node.
///
/// # Errors
/// As [`view`].
pub fn drain(config: &CqlConfig, name: &str, draining: bool) -> Result<bool> {
    inside(config, |registry, _| registry.drain(name, draining))
}

fn inside<T>(config: &CqlConfig, then: impl FnOnce(&Registry, u16) -> Result<T>) -> Result<T> {
    let cql = Cql::connect(config)?;
    let done = open_existing(&cql, config).and_then(|(registry, shards)| then(&registry, shards));
    cql.close();
    done
}

fn open_existing(cql: &std::sync::Arc<Cql>, config: &CqlConfig) -> Result<(Registry, u16)> {
    // Nothing may be created by who only looks: preparing its statements fails where there are no tables.
    let registry = Registry::open(cql, config, 0)?;
    Ok((registry, open_keyspace(cql, config, None)?.shards))
}
