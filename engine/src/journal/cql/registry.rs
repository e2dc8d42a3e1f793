//! The nodes of a cluster and the map of owners, as rows: asked for, and changed by conditional writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use meed_schemas::time::Millis;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::sync::Notify;

use super::CqlConfig;
use super::machine::Answer;
use super::session::{Cql, Pause};
use crate::clock::boot_ms;
use crate::error::{Error, Result};
use crate::ownership::{LOOKS_PER_LEASE, LeaseRow, Member, OwnerMap, Ownership, RENEWALS_PER_LEASE, Seat, Watcher};

/// The partition of the map.
const CLUSTER: &str = "meed";
/// Pause after another was quicker to change the map.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(2);

/// A node, as its row says.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// Who it is.
    pub member: Arc<Member>,
    /// Its lease.
    pub lease: LeaseRow,
    /// The version of the map that it knows, with all programs that were announced before it.
    pub seen: i64,
    /// Whether it is to give its shards away.
    pub draining: bool,
    /// When it started.
    pub started_at: Millis,
}

/// A version of a program, as it is announced.
#[derive(Debug, Clone)]
pub struct ProgramRow {
    /// The program.
    pub name: String,
    /// Number of the version.
    pub number: u32,
    /// From when it counts.
    pub effective_from: Millis,
    /// Its document.
    pub document: String,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done,
    /// The map or the row is another by now: read it again.
    Lost,
    /// It may have been made: read it again.
    Unknown,
}

fn changed(answer: Answer) -> Changed {
    match answer {
        Answer::Applied => Changed::Done,
        Answer::Unknown => Changed::Unknown,
        _ => Changed::Lost,
    }
}

struct Statements {
    nodes: PreparedStatement,
    node: PreparedStatement,
    make: PreparedStatement,
    take_name: PreparedStatement,
    renew: PreparedStatement,
    leave: PreparedStatement,
    bury: PreparedStatement,
    drain: PreparedStatement,
    version: PreparedStatement,
    seats: PreparedStatement,
    seat: PreparedStatement,
    announce: PreparedStatement,
    programs: PreparedStatement,
    put_program: PreparedStatement,
}

impl Statements {
    async fn prepare(cql: &Cql) -> Result<Self> {
        Ok(Self {
            nodes: cql
                .prepare("SELECT name, incarnation, beat, lease_ms, address, seen, draining, started_at FROM nodes")
                .await?,
            node: cql
                .prepare_serial(
                    "SELECT name, incarnation, beat, lease_ms, address, seen, draining, started_at FROM nodes \
                     WHERE name = ?",
                )
                .await?,
            make: cql
                .prepare(
                    "INSERT INTO nodes (name, incarnation, beat, lease_ms, address, seen, draining, started_at) \
                     VALUES (?, ?, 1, ?, ?, -1, false, ?) IF NOT EXISTS",
                )
                .await?,
            take_name: cql
                .prepare(
                    "UPDATE nodes SET incarnation = ?, beat = ?, lease_ms = ?, address = ?, seen = -1, \
                     draining = false, started_at = ? WHERE name = ? IF incarnation = ? AND beat = ?",
                )
                .await?,
            renew: cql.prepare("UPDATE nodes SET beat = ?, seen = ? WHERE name = ? IF incarnation = ?").await?,
            leave: cql.prepare("DELETE FROM nodes WHERE name = ? IF incarnation = ?").await?,
            bury: cql.prepare("DELETE FROM nodes WHERE name = ? IF incarnation = ? AND beat = ?").await?,
            drain: cql.prepare("UPDATE nodes SET draining = ? WHERE name = ? IF EXISTS").await?,
            version: cql.prepare("SELECT version, programs FROM owners WHERE cluster = ? LIMIT 1").await?,
            seats: cql
                .prepare_serial(
                    "SELECT shard, name, incarnation, address, epoch, version, programs FROM owners WHERE cluster = ?",
                )
                .await?,
            seat: cql
                .prepare(
                    "UPDATE owners SET version = ?, name = ?, incarnation = ?, address = ?, epoch = ? \
                     WHERE cluster = ? AND shard = ? IF version = ?",
                )
                .await?,
            announce: cql
                .prepare("UPDATE owners SET version = ?, programs = ? WHERE cluster = ? IF version = ?")
                .await?,
            programs: cql
                .prepare("SELECT name, number, effective_from, document FROM programs WHERE cluster = ?")
                .await?,
            put_program: cql
                .prepare(
                    "INSERT INTO programs (cluster, name, number, effective_from, document) VALUES (?, ?, ?, ?, ?)",
                )
                .await?,
        })
    }
}

type Row = (String, Vec<u8>, i64, i32, String, i64, bool, CqlTimestamp);

fn node_of((name, incarnation, beat, lease_ms, address, seen, draining, started_at): Row) -> Option<NodeRow> {
    let holder = u128::from_be_bytes(incarnation.try_into().ok()?);
    let member = Member { name: name.into(), incarnation: holder, address: address.into() };
    Some(NodeRow {
        member: Arc::new(member),
        lease: LeaseRow { holder, beat, lease_ms: i64::from(lease_ms) },
        seen,
        draining,
        started_at: started_at.0,
    })
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// The registry, for one node.
pub struct Registry {
    cql: Arc<Cql>,
    own: Arc<Member>,
    lease: Duration,
    started_at: Millis,
    /// The version of the map that this node knows, programs included.
    seen: AtomicI64,
    hurry: Notify,
    ask: Statements,
}

impl Registry {
    /// Of a node that starts at `started_at`.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open(cql: &Arc<Cql>, config: &CqlConfig, started_at: Millis) -> Result<Self> {
        let mut incarnation = [0; 16];
        getrandom::fill(&mut incarnation)?;
        let own = Member {
            name: config.node_name.as_str().into(),
            incarnation: u128::from_be_bytes(incarnation),
            address: config.address.as_str().into(),
        };
        Ok(Self {
            ask: cql.block_on(Statements::prepare(cql))?,
            cql: Arc::clone(cql),
            own: Arc::new(own),
            lease: config.lease,
            started_at,
            seen: AtomicI64::new(-1),
            hurry: Notify::new(),
        })
    }

    /// This life of this node.
    pub fn own(&self) -> &Arc<Member> {
        &self.own
    }

    /// How long a lease runs.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether the node is not stopping.
    ///
    /// # Errors
    /// It is.
    pub fn check_going(&self) -> Result<()> {
        self.cql.check_going()
    }

    /// Waits until this node holds the lease of its name. Blocks.
    ///
    /// # Errors
    /// The node stops.
    pub fn register(&self, ownership: &Ownership) -> Result<()> {
        let mut watcher = Watcher::default();
        let mut shown = None;
        self.cql.block_on(async {
            loop {
                let asked_ms = boot_ms();
                if self.try_register(&mut watcher, &mut shown, asked_ms).await? {
                    ownership.renewed(asked_ms, self.lease);
                    return Ok(());
                }
                self.cql.check_going()?;
                tokio::time::sleep(self.lease / LOOKS_PER_LEASE).await;
            }
        })
    }

    async fn try_register(&self, watcher: &mut Watcher, shown: &mut Option<u128>, asked_ms: i64) -> Result<bool> {
        let name = &*self.own.name;
        let own = self.own.incarnation.to_be_bytes();
        let (lease_ms, started_at) = (milliseconds(self.lease), CqlTimestamp(self.started_at));
        let rows: Vec<Row> = self.cql.read("read the lease", &self.ask.node, (name,)).await?;
        watcher.look(asked_ms, boot_ms());
        let answer = match rows.into_iter().next().and_then(node_of) {
            None => {
                let values = (name, &own[..], lease_ms, &*self.own.address, started_at);
                self.cql.conditional("make the lease", &self.ask.make, values).await?
            }
            // An earlier try had an effect; a renewal tells from when it counts.
            Some(row) if row.lease.holder == self.own.incarnation => {
                let values = (row.lease.beat + 1, -1i64, name, &own[..]);
                self.cql.conditional("renew the lease", &self.ask.renew, values).await?
            }
            Some(NodeRow { lease, .. }) if watcher.is_dead(name, lease) => {
                let (dead, address) = (lease.holder.to_be_bytes(), &*self.own.address);
                let values = (&own[..], lease.beat + 1, lease_ms, address, started_at, name, &dead[..], lease.beat);
                self.cql.conditional("take the lease of a dead node", &self.ask.take_name, values).await?
            }
            Some(NodeRow { lease, .. }) => {
                if *shown != Some(lease.holder) {
                    tracing::info!(
                        name,
                        "waiting for the lease: a node of this name runs, or did; one with another --node shares the shards"
                    );
                    *shown = Some(lease.holder);
                }
                return Ok(false);
            }
        };
        Ok(answer.0 == Answer::Applied)
    }

    /// Renews the lease until the node stops.
    ///
    /// # Errors
    /// Another node has taken this one for dead.
    pub async fn keep(self: Arc<Self>, ownership: Arc<Ownership>) -> Result<()> {
        let name = &*self.own.name;
        let own = self.own.incarnation.to_be_bytes();
        let rows: Vec<Row> = self.cql.read("read the lease", &self.ask.node, (name,)).await?;
        let mut beat = rows.first().map_or(0, |row| row.2);
        let mut pause = Pause::new();
        while self.cql.check_going().is_ok() {
            beat += 1;
            let sent_ms = boot_ms();
            let values = (beat, self.seen.load(Ordering::Acquire), name, &own[..]);
            match self.cql.conditional("renew the lease", &self.ask.renew, values).await? {
                (Answer::Applied, _) => {
                    ownership.renewed(sent_ms, self.lease);
                    pause = Pause::new();
                    tokio::select! {
                        () = tokio::time::sleep(self.lease / RENEWALS_PER_LEASE) => {}
                        () = self.hurry.notified() => {}
                    }
                }
                (Answer::Unknown, error) => pause.wait("renew the lease", &error).await,
                _ if self.cql.check_going().is_err() => return Ok(()),
                _ => return Err(Error::Stopped("another node took this one for dead and its shards with it".into())),
            }
        }
        Ok(())
    }

    /// This node knows this version of the map and all programs that were announced before; others are told with the
    /// next renewal, which comes at once when somebody waits for it.
    pub fn set_seen(&self, version: i64, at_once: bool) {
        self.seen.fetch_max(version, Ordering::AcqRel);
        if at_once {
            self.hurry.notify_one();
        }
    }

    /// Leaves the cluster, so that others need not wait for the lease's end. Tried once.
    pub fn leave(&self) {
        let own = self.own.incarnation.to_be_bytes();
        let values = (&*self.own.name, &own[..]);
        let left = self.cql.block_on(self.cql.conditional("give the lease back", &self.ask.leave, values));
        if !matches!(left, Ok((Answer::Applied, _))) {
            tracing::warn!("the lease could not be given back; other nodes wait until it ends");
        }
    }

    /// All nodes that have a lease, whether it runs or not.
    ///
    /// # Errors
    /// The node stops.
    pub fn nodes(&self) -> Result<Vec<NodeRow>> {
        let rows: Vec<Row> = self.cql.block_on(self.cql.read("read the nodes", &self.ask.nodes, ()))?;
        Ok(rows.into_iter().filter_map(node_of).collect())
    }

    /// Ends the lease of a node that did not renew it; from then on the node cannot.
    ///
    /// # Errors
    /// The cluster refuses the statement.
    pub fn bury(&self, row: &NodeRow) -> Result<Changed> {
        let dead = row.lease.holder.to_be_bytes();
        let values = (&*row.member.name, &dead[..], row.lease.beat);
        let answer = self.cql.block_on(self.cql.conditional("end a dead lease", &self.ask.bury, values))?;
        Ok(changed(answer.0))
    }

    /// Tells a node to give its shards away, or no longer to; false when there is no such node.
    ///
    /// # Errors
    /// The cluster refuses the statement; no answer.
    pub fn drain(&self, name: &str, draining: bool) -> Result<bool> {
        let columns =
            self.cql.block_on(self.cql.conditional_resolved("drain a node", &self.ask.drain, (draining, name)))?;
        Ok(columns.applied())
    }

    /// The map's version, and how often programs were announced.
    ///
    /// # Errors
    /// The node stops.
    pub fn version(&self) -> Result<(i64, i64)> {
        let rows: Vec<(Option<i64>, Option<i64>)> =
            self.cql.block_on(self.cql.read("read the version of the owners", &self.ask.version, (CLUSTER,)))?;
        let (version, programs) = rows.into_iter().next().unwrap_or_default();
        Ok((version.unwrap_or(0), programs.unwrap_or(0)))
    }

    /// The map, with what is under way in it resolved.
    ///
    /// # Errors
    /// The node stops; a row that cannot be read.
    pub fn map(&self, shards: u16) -> Result<OwnerMap> {
        type Row = (Option<i32>, Option<String>, Option<Vec<u8>>, Option<String>, Option<i64>, i64, i64);
        let rows: Vec<Row> = self.cql.block_on(self.cql.read("read the owners", &self.ask.seats, (CLUSTER,)))?;
        let mut map = OwnerMap { version: 0, programs: 0, seats: vec![None; usize::from(shards)] };
        let mut members: Vec<Arc<Member>> = Vec::new();
        for (shard, name, incarnation, address, epoch, version, programs) in rows {
            (map.version, map.programs) = (version, programs);
            let (Some(shard), Some(name), Some(incarnation)) = (shard, name, incarnation) else { continue };
            let unreadable = || Error::cql("read the owners", "a row cannot be read");
            let incarnation = u128::from_be_bytes(incarnation.try_into().map_err(|_| unreadable())?);
            let known = members.iter().find(|member| member.incarnation == incarnation).cloned();
            let member = known.unwrap_or_else(|| {
                let address = address.unwrap_or_default().into();
                let member = Arc::new(Member { name: name.into(), incarnation, address });
                members.push(Arc::clone(&member));
                member
            });
            let seat = usize::try_from(shard).ok().and_then(|shard| map.seats.get_mut(shard)).ok_or_else(unreadable)?;
            *seat = Some(Seat { member, epoch: epoch.unwrap_or(0) });
        }
        Ok(map)
    }

    /// Gives a shard to somebody, if the map still has this version; its version is one more then.
    ///
    /// # Errors
    /// The cluster refuses the statement.
    pub fn seat(&self, version: i64, shard: u16, seat: &Seat) -> Result<Changed> {
        let Seat { member, epoch } = seat;
        let incarnation = member.incarnation.to_be_bytes();
        let (name, address, shard) = (&*member.name, &*member.address, i32::from(shard));
        let values = (version + 1, name, &incarnation[..], address, *epoch, CLUSTER, shard, version);
        let answer = self.cql.block_on(self.cql.conditional("change an owner", &self.ask.seat, values))?;
        Ok(changed(answer.0))
    }

    /// Every version of a program that was announced, or is about to be.
    ///
    /// # Errors
    /// The node stops.
    pub fn programs(&self) -> Result<Vec<ProgramRow>> {
        let mut found = Vec::new();
        let add = &mut |(name, number, effective_from, document): (String, i32, i64, String)| {
            let number = u32::try_from(number).map_err(|_| Error::cql("read the programs", "a row cannot be read"))?;
            found.push(ProgramRow { name, number, effective_from, document });
            Ok(())
        };
        self.cql.block_on(self.cql.read_paged("read the programs", &self.ask.programs, (CLUSTER,), add))?;
        Ok(found)
    }

    /// Writes a version of a program for the other nodes. It is the same write whoever makes it.
    ///
    /// # Errors
    /// The node stops.
    pub fn put_program(&self, row: &ProgramRow) -> Result<()> {
        let number = i32::try_from(row.number).unwrap_or(i32::MAX);
        let values = (CLUSTER, row.name.as_str(), number, row.effective_from, row.document.as_str());
        self.cql.block_on(self.cql.write("write a program", &self.ask.put_program, values))
    }

    /// Lets every node look at the programs; the version of the map that says so.
    ///
    /// # Errors
    /// The node stops.
    pub fn announce(&self) -> Result<i64> {
        loop {
            // Whether an earlier try had an effect does not matter: once more does no harm.
            let (version, programs) = self.version()?;
            let values = (version + 1, programs + 1, CLUSTER, version);
            let answer = self.cql.block_on(self.cql.conditional("announce a program", &self.ask.announce, values))?;
            if answer.0 == Answer::Applied {
                return Ok(version + 1);
            }
            self.cql.check_going()?;
            std::thread::sleep(ANNOUNCE_PAUSE);
        }
    }
}
