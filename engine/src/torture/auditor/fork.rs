//! Auditors of one shard's owners, one after the other: each begins with what was durable when it took the shard.

use std::collections::{BTreeMap, VecDeque};

use meed_schemas::time::Millis;

use super::{Auditor, Found};
use crate::torture::profile::{Profile, Rules};

impl Auditor {
    /// Of a cluster whose only program has had this version since an instant.
    pub(in super::super) fn with_program(profile: &Profile, since: Millis, rules: Rules) -> Self {
        Self { versions: vec![(since, rules)], ..Self::new(profile) }
    }

    /// Of the next owner of a shard, whose records were durable up to a sequence.
    ///
    /// # Errors
    /// The one before had decided less.
    pub(in super::super) fn fork(&self, shard: u16, last: u64) -> Result<Self, String> {
        let mut logs = self.logs.clone();
        let log = &mut logs[usize::from(shard)];
        if log.records.len() < last as usize {
            return Err(format!("shard {shard} ends at {last}, and only {} were decided", log.records.len()));
        }
        log.records.truncate(last as usize);
        let mut keys = BTreeMap::new();
        for (record, _) in &log.records {
            for key in &record.keys {
                keys.insert((record.identity.clone(), key.business, key.hash), record.position);
            }
        }
        let accounts = self.accounts.iter().filter_map(|(identity, past)| {
            let newest = past.iter().rfind(|account| account.applied <= last)?;
            Some((identity.clone(), vec![newest.clone()]))
        });
        Ok(Self {
            attempts: Vec::new(),
            queues: BTreeMap::<_, VecDeque<_>>::new(),
            accounts: accounts.collect(),
            documents: self.documents.clone(),
            versions: self.versions.clone(),
            keys,
            told: BTreeMap::new(),
            latest_ms: self.latest_ms,
            gone: self.gone.clone(),
            logs,
        })
    }

    /// A shard's records are durable up to a sequence: no owner after this one begins with less.
    pub(in super::super) fn durable(&mut self, shard: u16, last: u64) {
        debug_assert!(self.logs[usize::from(shard)].records.len() as u64 >= last);
        for past in self.accounts.values_mut() {
            let newest = past.iter().rposition(|account| account.applied <= last).unwrap_or(0);
            past.drain(..newest);
        }
    }

    /// The highest sequence of a shard that an answer saw which has left.
    pub(in super::super) fn acknowledged(&self, shard: u16) -> u64 {
        self.logs[usize::from(shard)].acknowledged
    }

    /// Whether every account has settled what was due up to an instant.
    ///
    /// # Errors
    /// One has not.
    pub(in super::super) fn check_settled(&self, shard: u16, until: Millis) -> Found {
        for (identity, past) in &self.accounts {
            if let Some(account) = past.last()
                && let Some(due) = account.due_by(shard, until, &self.versions)
            {
                return Err(format!("{identity:?} has not settled what was due by {until}: {due:?}"));
            }
        }
        Ok(())
    }
}
