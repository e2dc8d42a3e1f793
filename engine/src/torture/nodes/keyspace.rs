//! What the simulated CQL cluster holds, and its statements. Each has its effect at once, one after the other; whether
//! and when it comes there, and its answer back, is the network's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::journal::cql::chain::{Chain, Row};
use crate::journal::cql::machine::{Answer, Ask};
use crate::ownership::{LeaseRow, Member, OwnerMap, Seat};

/// A record: what a client's key did to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) account: u64,
    /// Dense per account, from 1.
    pub(super) number: u64,
}

pub(super) type Entries = Arc<[Entry]>;

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
        row: Option<Row<Entries>>,
    },
    Hint {
        shard: u16,
    },
    Register {
        shard: u16,
        bucket: i64,
    },
    /// Everything that a claimant reads: records and the watermark of the stream.
    Records {
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
    Records { records: BTreeMap<u64, Entry>, published: u64 },
    Map(OwnerMap),
    Nodes(Vec<NodeRow>),
    Changed(bool),
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct ShardTables {
    chain: Chain<Entries>,
    /// Records of buckets that were cleared away: checkpoints have them.
    cleared: BTreeMap<u64, Entry>,
    published: u64,
}

impl ShardTables {
    fn records(&self) -> BTreeMap<u64, Entry> {
        let mut records = self.cleared.clone();
        for (first, (_, entries)) in self.chain.rows() {
            records.extend((first..).zip(entries.iter().copied()));
        }
        records
    }

    /// The records of all rows in the order of the chain, with what was cleared away before them.
    fn in_order(&self) -> impl Iterator<Item = (u64, Entry)> {
        let rows = self.chain.rows().flat_map(|(first, (_, entries))| (first..).zip(entries.iter().copied()));
        self.cleared.iter().map(|(sequence, entry)| (*sequence, *entry)).chain(rows)
    }
}

pub(super) struct Keyspace {
    shards: Vec<ShardTables>,
    map: OwnerMap,
    nodes: BTreeMap<Box<str>, NodeRow>,
    /// As it was some time ago: what a read without a quorum of the newest may still see.
    old_nodes: BTreeMap<Box<str>, NodeRow>,
}

impl Keyspace {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardTables::default()).collect(),
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
            Statement::Records { shard } => {
                let tables = &self.shards[usize::from(*shard)];
                Answered::Records { records: tables.records(), published: tables.published }
            }
            Statement::Published { shard, up_to } => {
                self.shards[usize::from(*shard)].published = *up_to;
                Answered::Changed(true)
            }
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
        }
    }

    /// Sets or takes back the wish that a node gives its shards away.
    pub(super) fn drain(&mut self, name: &str, draining: bool) {
        if let Some(row) = self.nodes.get_mut(name) {
            row.draining = draining;
        }
    }

    /// Clears old buckets away.
    pub(super) fn trim(&mut self, shard: u16) {
        let tables = &mut self.shards[usize::from(shard)];
        for (first, (_, entries)) in tables.chain.trim() {
            tables.cleared.extend((first..).zip(entries.iter().copied()));
        }
    }

    pub(super) fn map(&self) -> &OwnerMap {
        &self.map
    }

    /// The record at a sequence, if it is durable.
    pub(super) fn record(&self, shard: u16, sequence: u64) -> Option<Entry> {
        let tables = &self.shards[usize::from(shard)];
        tables.cleared.get(&sequence).copied().or_else(|| {
            let rows = tables.chain.rows().filter(|(first, _)| *first <= sequence);
            let found = rows.filter_map(|(first, (_, entries))| entries.get((sequence - first) as usize).copied());
            found.last()
        })
    }

    /// Checks that the records of every shard are one dense sequence, and those of each account too.
    pub(super) fn check(&self) -> Result<(), String> {
        for (shard, tables) in self.shards.iter().enumerate() {
            let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
            for (expected, (sequence, entry)) in (1..).zip(tables.in_order()) {
                if sequence != expected {
                    return Err(format!("shard {shard} has record {sequence} where {expected} belongs"));
                }
                let number = numbers.entry(entry.account).or_default();
                *number += 1;
                if entry.number != *number {
                    return Err(format!("shard {shard}, account {}: {entry:?} is its record {number}", entry.account));
                }
            }
        }
        Ok(())
    }

    /// How many records a shard has.
    pub(super) fn count(&self, shard: u16) -> u64 {
        self.shards[usize::from(shard)].in_order().count() as u64
    }
}
