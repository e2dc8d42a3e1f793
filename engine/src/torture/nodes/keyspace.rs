//! What the simulated CQL cluster holds, and its statements. Each has its effect at once, one after the other; whether
//! and when it comes there, and its answer back, is the network's.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rows::{Found, Row, Tables, Value, Write};
use crate::journal::cql::chain::{self, Chain};
use crate::journal::cql::machine::{Answer, Ask};
use crate::ownership::{LeaseRow, Member, OwnerMap, Seat};
use crate::planted::{Fault, planted};

/// A batch of records.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) frames: Arc<[u8]>,
    pub(super) records: u64,
}

/// A node's row in the registry.
#[derive(Debug, Clone)]
pub(super) struct NodeRow {
    pub(super) member: Arc<Member>,
    pub(super) lease: LeaseRow,
    pub(super) draining: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Statement {
    Journal {
        shard: u16,
        ask: Ask,
        sequence: u64,
        row: Option<chain::Row<Batch>>,
    },
    Hint {
        shard: u16,
    },
    Register {
        shard: u16,
        bucket: i64,
    },
    /// Where the records of a shard are.
    Tail {
        shard: u16,
    },
    /// The rows of a bucket.
    Batches {
        shard: u16,
        bucket: i64,
    },
    /// Where a shard begins.
    First {
        shard: u16,
    },
    /// Nobody is to look before this bucket.
    BeginLater {
        shard: u16,
        bucket: i64,
    },
    /// The rows of a bucket go.
    Drop {
        shard: u16,
        bucket: i64,
    },
    Get(Row),
    Range {
        from: Row,
        to: Row,
        limit: usize,
    },
    /// Rows of one partition.
    Write(Vec<Write>),
    ReadPublished {
        shard: u16,
    },
    Published {
        shard: u16,
        up_to: u64,
    },
    Map,
    Seat {
        version: i64,
        shard: u16,
        seat: Option<Seat>,
    },
    Node {
        name: Box<str>,
    },
    Nodes,
    Join {
        row: NodeRow,
        replaced: Option<LeaseRow>,
    },
    Renew {
        name: Box<str>,
        holder: u128,
        beat: i64,
    },
    Bury {
        name: Box<str>,
        lease: LeaseRow,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Answered {
    Journal(Answer),
    Hint(Option<i64>),
    Tail { buckets: Vec<(u64, i64)>, last: u64 },
    Batches(Option<Vec<(u64, Batch)>>),
    Row(Option<(i64, Value)>),
    Rows(Vec<Found>),
    Published(u64),
    Map(OwnerMap),
    Nodes(Vec<NodeRow>),
    Changed(bool),
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct ShardTables {
    chain: Chain<Batch>,
    published: u64,
}

impl ShardTables {
    /// The buckets that are kept with their first sequences, and the last sequence.
    fn tail(&self) -> Answered {
        let (mut buckets, mut last) = (Vec::new(), 0);
        for bucket in self.chain.kept() {
            let rows = self.chain.rows_of(bucket);
            let mut rows = rows.into_iter().flatten();
            let first = rows.next();
            buckets.push((first.map_or(last + 1, |(sequence, _)| *sequence), bucket));
            if let Some((sequence, (_, batch))) = rows.next_back().or(first) {
                last = sequence + batch.records - 1;
            }
        }
        Answered::Tail { buckets, last }
    }
}

pub(super) struct Keyspace {
    shards: Vec<ShardTables>,
    tables: Tables,
    /// The cluster's clock.
    clock: i64,
    map: OwnerMap,
    nodes: BTreeMap<Box<str>, NodeRow>,
    /// As it was some time ago: what a read without a quorum of the newest may still see.
    old_nodes: BTreeMap<Box<str>, NodeRow>,
}

impl Keyspace {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardTables::default()).collect(),
            tables: Tables::default(),
            clock: 0,
            map: OwnerMap { version: 0, programs: 0, ..OwnerMap::unknown(shards) },
            nodes: BTreeMap::new(),
            old_nodes: BTreeMap::new(),
        }
    }

    pub(super) fn carry_out(&mut self, statement: &Statement, stale: bool) -> Answered {
        match statement {
            Statement::Journal { shard, ask, sequence, row } => {
                Answered::Journal(self.shards[usize::from(*shard)].chain.apply(*ask, *sequence, row.as_ref()))
            }
            Statement::Hint { shard } => Answered::Hint(self.shards[usize::from(*shard)].chain.hint()),
            Statement::Register { shard, bucket } => {
                Answered::Changed(self.shards[usize::from(*shard)].chain.register(*bucket))
            }
            Statement::Tail { shard } => self.shards[usize::from(*shard)].tail(),
            Statement::Batches { shard, bucket } => {
                let rows = self.shards[usize::from(*shard)].chain.rows_of(*bucket);
                let rows = rows.map(|rows| rows.iter().map(|(first, (_, batch))| (*first, batch.clone())));
                Answered::Batches(rows.map(Iterator::collect))
            }
            Statement::First { shard } => Answered::Hint(Some(self.shards[usize::from(*shard)].chain.first())),
            Statement::BeginLater { shard, bucket } => {
                Answered::Changed(self.shards[usize::from(*shard)].chain.begin_later(*bucket))
            }
            Statement::Drop { shard, bucket } => {
                self.shards[usize::from(*shard)].chain.remove(*bucket);
                Answered::Changed(true)
            }
            Statement::Get(row) => Answered::Row(self.tables.get(row)),
            Statement::Range { from, to, limit } => Answered::Rows(self.tables.range(from, to, *limit)),
            Statement::Write(rows) => {
                for row in rows {
                    self.clock += 1;
                    let timestamp = if planted(Fault::CheckpointAsNewest) { self.clock } else { row.timestamp };
                    self.tables.write(Write { timestamp, ..row.clone() });
                }
                Answered::Changed(true)
            }
            Statement::ReadPublished { shard } => Answered::Published(self.shards[usize::from(*shard)].published),
            // Its timestamp is its sequence.
            Statement::Published { shard, up_to } => {
                let tables = &mut self.shards[usize::from(*shard)];
                tables.published = tables.published.max(*up_to);
                Answered::Changed(true)
            }
            _ => self.look_up(statement, stale),
        }
    }

    /// The same for the map of owners and the registry of nodes.
    fn look_up(&mut self, statement: &Statement, stale: bool) -> Answered {
        match statement {
            Statement::Map => Answered::Map(self.map.clone()),
            Statement::Seat { version, shard, seat } => {
                let holds = self.map.version == *version;
                if holds {
                    self.map.version += 1;
                    self.map.seats[usize::from(*shard)] = seat.clone();
                }
                Answered::Changed(holds)
            }
            Statement::Node { name } => Answered::Nodes(self.nodes.get(name).cloned().into_iter().collect()),
            Statement::Nodes => {
                let nodes = if stale { &self.old_nodes } else { &self.nodes };
                let answered = Answered::Nodes(nodes.values().cloned().collect());
                self.old_nodes.clone_from(&self.nodes);
                answered
            }
            Statement::Join { row, replaced } => {
                let name = &row.member.name;
                let holds = self.nodes.get(name).map(|row| row.lease) == *replaced;
                if holds {
                    self.nodes.insert(name.clone(), row.clone());
                }
                Answered::Changed(holds)
            }
            Statement::Renew { name, holder, beat } => {
                let row = self.nodes.get_mut(name).filter(|row| row.lease.holder == *holder);
                Answered::Changed(row.map(|row| row.lease.beat = *beat).is_some())
            }
            Statement::Bury { name, lease } => {
                let holds = self.nodes.get(name).is_some_and(|row| row.lease == *lease);
                if holds {
                    self.nodes.remove(name);
                }
                Answered::Changed(holds)
            }
            _ => Answered::Unknown,
        }
    }

    /// Sets or takes back the wish that a node gives its shards away.
    pub(super) fn drain(&mut self, name: &str, draining: bool) {
        if let Some(row) = self.nodes.get_mut(name) {
            row.draining = draining;
        }
    }

    pub(super) fn map(&self) -> &OwnerMap {
        &self.map
    }

    /// Whether anybody looks in a bucket: one that was removed can come to be again, by statements that come very late.
    pub(super) fn is_kept(&self, shard: u16, bucket: i64) -> bool {
        self.shards[usize::from(shard)].chain.kept().any(|kept| kept == bucket)
    }

    /// Where the kept records of a shard begin, less 1.
    pub(super) fn removed(&self, shard: u16) -> u64 {
        match self.shards[usize::from(shard)].tail() {
            Answered::Tail { buckets, .. } => buckets.first().map_or(0, |(first, _)| first - 1),
            _ => 0,
        }
    }

    /// The tables of the state store.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }
}
