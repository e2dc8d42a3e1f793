//! What clients and readers of the stream saw, held against what the cluster has.

use std::collections::BTreeMap;

use super::keyspace::{Entry, Keyspace};
use super::message::{Reply, Request, What};

/// Somebody who reads the stream by the rules: what is not newer than the account's last is dropped.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    /// By shard and account: the last number.
    last: BTreeMap<(u16, u64), u64>,
    seen: BTreeMap<(u16, u64), Entry>,
    /// Events that were not dropped, by shard.
    pub(super) taken: BTreeMap<u16, u64>,
}

impl Consumer {
    /// # Errors
    /// A gap; an event that comes again with other content.
    pub(super) fn takes(&mut self, shard: u16, sequence: u64, entry: Entry) -> Result<(), String> {
        if let Some(before) = self.seen.insert((shard, sequence), entry)
            && before != entry
        {
            return Err(format!("the stream has {before:?} and {entry:?} as record {sequence} of shard {shard}"));
        }
        let last = self.last.entry((shard, entry.account)).or_default();
        if entry.number <= *last {
            return Ok(());
        }
        if entry.number != *last + 1 {
            return Err(format!("the stream has a gap: {entry:?} of shard {shard} comes after number {last}"));
        }
        *last = entry.number;
        *self.taken.entry(shard).or_default() += 1;
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Auditor {
    /// By key: shard and sequence that were acknowledged.
    acknowledged: BTreeMap<u64, (u16, u64)>,
    /// By shard: the highest sequence that somebody was told of. Whoever asks later must see it.
    shown: BTreeMap<u16, u64>,
    pub(super) consumer: Consumer,
}

impl Auditor {
    /// What a request that is sent now has to see.
    pub(super) fn shown(&self, shard: u16) -> u64 {
        self.shown.get(&shard).copied().unwrap_or(0)
    }

    /// # Errors
    /// An answer that cannot be.
    pub(super) fn replied(
        &mut self,
        request: Request,
        reply: Reply,
        shown_before: u64,
        keyspace: &Keyspace,
    ) -> Result<(), String> {
        let shard = request.shard;
        let saw = match (request.what, reply) {
            (_, Reply::Refused) => return Ok(()),
            (What::Read, Reply::Seen(saw)) => {
                if saw < shown_before {
                    return Err(format!("a read of shard {shard} saw {saw} when {shown_before} had been shown before"));
                }
                saw
            }
            (What::Write { key, .. }, Reply::Written(sequence)) => {
                let there = keyspace.record(shard, sequence);
                if there.is_none_or(|entry| entry.key != key) {
                    return Err(format!(
                        "key {key} is acknowledged as record {sequence} of shard {shard}, and {there:?} is there"
                    ));
                }
                let before = self.acknowledged.insert(key, (shard, sequence));
                if before.is_some_and(|before| before != (shard, sequence)) {
                    return Err(format!("key {key} has two effects: {before:?} and {:?}", (shard, sequence)));
                }
                sequence
            }
            (what, reply) => return Err(format!("{what:?} is answered by {reply:?}")),
        };
        if saw > 0 && keyspace.record(shard, saw).is_none() {
            return Err(format!("record {saw} of shard {shard} was shown and is not durable"));
        }
        let shown = self.shown.entry(shard).or_default();
        *shown = saw.max(*shown);
        Ok(())
    }

    /// At the end: everything acknowledged is there once, and the stream has everything.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(&self, keyspace: &Keyspace, shards: u16) -> Result<(), String> {
        keyspace.check()?;
        for (key, (shard, sequence)) in &self.acknowledged {
            let there = keyspace.record(*shard, *sequence);
            if there.is_none_or(|entry| entry.key != *key) {
                return Err(format!("key {key} was acknowledged as record {sequence} of shard {shard}: {there:?}"));
            }
        }
        for shard in 0..shards {
            let (count, taken) = (keyspace.count(shard), self.consumer.taken.get(&shard).copied().unwrap_or(0));
            if count != taken {
                return Err(format!("shard {shard} has {count} records and the stream {taken}"));
            }
        }
        Ok(())
    }
}
