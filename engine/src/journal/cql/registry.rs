//! The nodes of a cluster: who runs, and who holds the lease on the shards.

use std::sync::Arc;
use std::time::Duration;

use meed_schemas::time::Millis;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;

use super::CqlConfig;
use super::machine::Answer;
use super::session::{Cql, Pause};
use crate::error::{Error, Result};
use crate::ownership::{LeaseRow, Ownership, Taker, boot_ms};

/// The row of the lease on all shards.
const LEASE: &str = "shards";
/// The partition of the registry.
const CLUSTER: &str = "meed";
/// A node's row goes by itself when it has not been written for this long.
const ROW_SECONDS: i32 = 30;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Renewals in the time of one lease.
const RENEWALS_PER_LEASE: u32 = 6;
/// Looks at the lease in the time of one lease, for who waits for it.
const LOOKS_PER_LEASE: u32 = 20;

/// Who holds the lease.
#[derive(Debug, Clone)]
pub struct LeaseHolder {
    /// What it is called.
    pub name: String,
    /// The row itself.
    pub row: LeaseRow,
}

/// The registry, for one node.
pub struct Registry {
    cql: Arc<Cql>,
    name: String,
    incarnation: [u8; 16],
    lease: Duration,
    started_at: Millis,
    read_lease: PreparedStatement,
    make_lease: PreparedStatement,
    take_free: PreparedStatement,
    take_dead: PreparedStatement,
    renew: PreparedStatement,
    release: PreparedStatement,
    put_node: PreparedStatement,
    drop_node: PreparedStatement,
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

impl Registry {
    /// Of a node that starts at `started_at`.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open(cql: &Arc<Cql>, config: &CqlConfig, started_at: Millis) -> Result<Self> {
        let mut incarnation = [0; 16];
        getrandom::fill(&mut incarnation)
            .map_err(|e| Error::Setting(format!("the system gives no random bytes: {e}")))?;
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                name: config.node_name.clone(),
                incarnation,
                lease: config.lease,
                started_at,
                read_lease: cql.prepare_serial("SELECT holder, name, beat, lease_ms FROM leases WHERE id = ?").await?,
                make_lease: cql
                    .prepare(
                        "INSERT INTO leases (id, holder, name, beat, lease_ms) VALUES (?, ?, ?, 1, ?) IF NOT EXISTS",
                    )
                    .await?,
                take_free: cql
                    .prepare(
                        "UPDATE leases SET holder = ?, name = ?, beat = ?, lease_ms = ? WHERE id = ? \
                         IF holder = null AND beat = ?",
                    )
                    .await?,
                take_dead: cql
                    .prepare(
                        "UPDATE leases SET holder = ?, name = ?, beat = ?, lease_ms = ? WHERE id = ? \
                         IF holder = ? AND beat = ?",
                    )
                    .await?,
                renew: cql.prepare("UPDATE leases SET beat = ? WHERE id = ? IF holder = ?").await?,
                release: cql.prepare("UPDATE leases SET holder = null WHERE id = ? IF holder = ?").await?,
                put_node: cql
                    .prepare(
                        "INSERT INTO nodes (cluster, incarnation, name, role, beat, started_at) \
                         VALUES (?, ?, ?, ?, ?, ?) USING TTL ?",
                    )
                    .await?,
                drop_node: cql.prepare("DELETE FROM nodes WHERE cluster = ? AND incarnation = ?").await?,
            })
        })
    }

    /// Who holds the lease; `None` when nobody ever did.
    ///
    /// # Errors
    /// The node stops.
    pub async fn lease_holder(&self) -> Result<Option<LeaseHolder>> {
        type Row = (Option<Vec<u8>>, Option<String>, i64, i32);
        let rows: Vec<Row> = self.cql.read("read the lease", &self.read_lease, (LEASE,)).await?;
        Ok(rows.into_iter().next().map(|(holder, name, beat, lease_ms)| {
            let holder = holder.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes);
            let row = LeaseRow { holder, beat, lease_ms: i64::from(lease_ms) };
            LeaseHolder { name: name.unwrap_or_default(), row }
        }))
    }

    /// Waits until this node holds the lease. Blocks; meanwhile the registry shows it as a standby.
    ///
    /// # Errors
    /// The node stops.
    pub fn wait_for_lease(&self, ownership: &Ownership) -> Result<()> {
        self.cql.block_on(async {
            let mut taker = Taker::default();
            let mut shown = None;
            let mut heartbeat = tokio::time::interval(HEARTBEAT);
            loop {
                tokio::select! {
                    biased;
                    _ = heartbeat.tick() => self.show("standby").await?,
                    () = std::future::ready(()) => {}
                }
                let asked_ms = boot_ms();
                let holder = self.lease_holder().await?;
                let own = u128::from_be_bytes(self.incarnation);
                let answer = match holder {
                    None => {
                        let values = (LEASE, &self.incarnation[..], self.name.as_str(), milliseconds(self.lease));
                        self.cql.conditional("make the lease", &self.make_lease, values).await?
                    }
                    // An earlier try had an effect; a renewal tells from when it counts.
                    Some(LeaseHolder { row, .. }) if row.holder == Some(own) => {
                        let values = (row.beat + 1, LEASE, &self.incarnation[..]);
                        self.cql.conditional("renew the lease", &self.renew, values).await?
                    }
                    Some(LeaseHolder { row, .. }) if taker.may_take(row, asked_ms) => self.take(row).await?,
                    Some(LeaseHolder { name, row }) => {
                        if shown != row.holder {
                            tracing::info!(holder = name, "waiting for the lease");
                            shown = row.holder;
                        }
                        (Answer::Unknown, String::new())
                    }
                };
                if answer.0 == Answer::Applied {
                    ownership.renewed(asked_ms, self.lease);
                    return self.show("owner").await;
                }
                self.cql.check_going()?;
                tokio::time::sleep(self.lease / LOOKS_PER_LEASE).await;
            }
        })
    }

    async fn take(&self, row: LeaseRow) -> Result<(Answer, String)> {
        let own = &self.incarnation[..];
        let (name, lease_ms) = (self.name.as_str(), milliseconds(self.lease));
        match row.holder.map(u128::to_be_bytes) {
            None => {
                let values = (own, name, row.beat + 1, lease_ms, LEASE, row.beat);
                self.cql.conditional("take the lease", &self.take_free, values).await
            }
            Some(dead) => {
                let values = (own, name, row.beat + 1, lease_ms, LEASE, &dead[..], row.beat);
                self.cql.conditional("take the lease of a dead node", &self.take_dead, values).await
            }
        }
    }

    /// Renews the lease until the node stops.
    ///
    /// # Errors
    /// Another node has it.
    pub async fn keep(self: Arc<Self>, ownership: Arc<Ownership>) -> Result<()> {
        let mut beat = self.lease_holder().await?.map_or(0, |holder| holder.row.beat);
        let mut shown = tokio::time::Instant::now();
        let mut pause = Pause::new();
        while self.cql.check_going().is_ok() {
            beat += 1;
            let sent_ms = boot_ms();
            let values = (beat, LEASE, &self.incarnation[..]);
            match self.cql.conditional("renew the lease", &self.renew, values).await? {
                (Answer::Applied, _) => {
                    ownership.renewed(sent_ms, self.lease);
                    pause = Pause::new();
                    tokio::time::sleep(self.lease / RENEWALS_PER_LEASE).await;
                }
                (Answer::Unknown, error) => pause.wait("renew the lease", &error).await,
                _ => return Err(Error::Stopped("another node has taken the lease on the shards".into())),
            }
            if shown.elapsed() >= HEARTBEAT {
                shown = tokio::time::Instant::now();
                self.show("owner").await?;
            }
        }
        Ok(())
    }

    /// Gives the lease back, so that another node need not wait for its end. Tried once.
    pub fn release(&self) {
        self.cql.block_on(async {
            let own = &self.incarnation[..];
            let released = self.cql.conditional("give the lease back", &self.release, (LEASE, own)).await;
            if !matches!(released, Ok((Answer::Applied, _))) {
                tracing::warn!("the lease could not be given back; another node waits until it ends");
            }
            // Its row goes by itself otherwise.
            let _ = self.cql.try_write("leave the registry", &self.drop_node, (CLUSTER, own)).await;
        });
    }

    async fn show(&self, role: &str) -> Result<()> {
        let started_at = CqlTimestamp(self.started_at);
        let own = &self.incarnation[..];
        let values = (CLUSTER, own, self.name.as_str(), role, boot_ms(), started_at, ROW_SECONDS);
        self.cql.try_write("show this node in the registry", &self.put_node, values).await.map(|_| ())
    }
}
