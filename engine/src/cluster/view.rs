//! A cluster as an operator sees it, from outside.

use meed_schemas::time::Millis;

use crate::error::Result;
use crate::journal::cql::{Cql, CqlConfig, Registry, open_keyspace};
use crate::ownership::{OwnerMap, RENEWALS_PER_LEASE};

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

/// Looks at the cluster that this node would be in; takes a third of a lease.
///
/// # Errors
/// It cannot be reached, or there is none.
pub fn view(config: &CqlConfig) -> Result<ClusterView> {
    inside(config, |registry, shards| {
        let before = registry.nodes()?;
        std::thread::sleep(config.lease / RENEWAL_SHARE);
        let map = registry.map(shards)?;
        let mut nodes: Vec<NodeView> = Vec::new();
        for row in registry.nodes()? {
            let own = row.member.incarnation;
            let was = before.iter().find(|other| other.member.incarnation == own);
            let seats = map.seats.iter().flatten().filter(|seat| seat.member.incarnation == own);
            nodes.push(NodeView {
                name: row.member.name.to_string(),
                address: row.member.address.to_string(),
                is_renewing: was.is_none_or(|was| was.lease != row.lease),
                draining: row.draining,
                shards: seats.clone().count(),
                begun: seats.filter(|seat| seat.epoch > 0).count(),
                started_at: row.started_at,
            });
        }
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
