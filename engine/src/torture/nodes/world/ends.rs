//! What has to be when nothing has broken for a minute.

use meed_schemas::ids::Identity;

use super::World;
use crate::journal::{MemoryRecords, Records};
use crate::recovery::recover_shard;
use crate::store::cql::day_of;
use crate::store::{AccountWrite, ShardCheckpoint, Store};
use crate::torture::nodes::rows::{Row, Value};

/// What fell due longer ago than this is settled, by the clock that is not hurried: a checkpoint and a sweep of the index.
const SETTLED_MS: i64 = 20_000;
/// What became durable longer ago than this is in the stream: points may expire at the last moment.
const PUBLISHED_MS: i64 = 5_000;

type Found = Result<(), String>;

impl World {
    pub(super) fn check_end(&self) -> Found {
        if let Some(client) = self.clients.iter().find(|client| client.what.is_some()) {
            return Err(format!("nothing breaks for a minute, and {client:?} has no answer"));
        }
        let map = self.keyspace.map();
        for shard in 0..self.profile.shards {
            let lives = |member: u128| {
                let mut nodes = self.processes.iter().filter_map(|process| process.node.as_ref());
                nodes.find(|node| node.incarnation() == member)
            };
            let owner = map.owner(shard).and_then(|member| lives(member.incarnation));
            let Some(owner) = owner.and_then(|node| node.owner_of(shard)) else {
                return Err(format!("nothing breaks for a minute, and nobody owns shard {shard}: {map:?}"));
            };
            let until = self.program.start_ms + (self.now - SETTLED_MS) * self.profile.wall_clock_factor;
            owner.auditor().check_settled(shard, until)?;
            self.check_store(shard)?;
        }
        self.ledger.borrow().check_stream(self.now - PUBLISHED_MS)
    }

    /// What the store and the journal's tail have of a shard is what all its records give, and its due index has every
    /// account that its state says is due.
    fn check_store(&self, shard: u16) -> Found {
        let wrong = |error: crate::error::Error| format!("shard {shard} cannot be recovered in the end: {error}");
        let tables = self.keyspace.tables();
        let state = match tables.get(&Row::Checkpoint { shard }) {
            Some((_, Value::Checkpoint(state))) => state,
            _ => return Ok(()),
        };
        let (from, to) =
            (Row::State { shard, identity: Vec::new() }, Row::State { shard, identity: vec![u8::MAX; 64] });
        let mut accounts = Vec::new();
        for (row, _, value) in tables.range(&from, &to, usize::MAX) {
            let (Row::State { identity, .. }, Value::State { due, state: blob }) = (row, value) else { continue };
            if let Some(at) = due {
                let (day, identity) = (day_of(at), identity.clone());
                let is_there = tables.get(&Row::Due { shard, day, at, identity: identity.clone() }).is_some();
                if !is_there || tables.get(&Row::Day { shard, day }).is_none() {
                    return Err(format!("the due index of shard {shard} lacks {identity:?}, which is due at {at}"));
                }
            }
            let identity = Identity::from_bytes(&identity).ok_or("an identity in the store cannot be read")?;
            accounts.push(AccountWrite { identity, blob, due_before: None, due: None, facts: Vec::new() });
        }
        let mut store = Store::in_memory();
        store.checkpoint(&ShardCheckpoint { shard, accounts, keys: Vec::new(), state }).map_err(wrong)?;
        let mut records = MemoryRecords::new(self.profile.shards);
        let ledger = self.ledger.borrow();
        let last = ledger.copy_records(shard, self.keyspace.removed(shard), &mut records);
        let (recovery, _) = recover_shard(&store, &Records::Memory(records), shard, last, 0).map_err(wrong)?;
        ledger.check_recovered(&recovery, Some(&|identity| store.load(shard, identity).ok().flatten()))
    }
}
