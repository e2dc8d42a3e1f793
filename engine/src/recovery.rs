//! Replay of what the journal has and the store lacks, and the programs that both know.
//!
//! Records are applied by the same function as live; what a blob has already is skipped by its sequence.

use hashbrown::HashMap;
use meed_schemas::codec;
use meed_schemas::ids::{AccountKind, Identity};
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use crate::account::{Account, Totals};
use crate::error::{Error, Result};
use crate::journal::JournalReader;
use crate::node::with_version;
use crate::program::Programs;
use crate::shard::{ShardStart, decode_state};
use crate::store::Store;

/// One shard, recovered.
#[derive(Debug)]
pub struct ShardRecovery {
    /// What it begins with.
    pub start: ShardStart,
    /// Records that were replayed.
    pub records: u64,
}

/// An account that replay has touched.
struct Touched {
    account: Account,
    /// First sequence that the store lacks; 0 while every record met was in its blob.
    since: u64,
    due_in_store: Option<Millis>,
}

struct Replay {
    shard: u16,
    replay_start: u64,
    totals: Totals,
    totals_sequence: u64,
    accounts: u64,
    last_recorded_at: Millis,
    has_store: bool,
    touched: HashMap<Identity, Touched>,
    records: u64,
}

impl Replay {
    fn begin(store: &Store, shard: u16, last_sequence: u64) -> Result<Self> {
        let mut replay = Self {
            shard,
            replay_start: 1,
            totals: Totals::default(),
            totals_sequence: 0,
            accounts: 0,
            last_recorded_at: 0,
            has_store: false,
            touched: HashMap::new(),
            records: 0,
        };
        let Some(state) = store.shard_state(shard)? else { return Ok(replay) };
        let damaged = |detail: String| Error::Damaged { file: "state".into(), offset: 0, detail };
        if state.totals_sequence > last_sequence || state.replay_start > last_sequence + 1 {
            return Err(damaged(format!(
                "the checkpoint of shard {shard} is of record {}, the journal ends at {last_sequence}",
                state.totals_sequence
            )));
        }
        (replay.last_recorded_at, replay.totals) =
            decode_state(&state.totals).map_err(|e| damaged(format!("the totals of shard {shard}: {e}")))?;
        replay.replay_start = state.replay_start.max(1);
        replay.totals_sequence = state.totals_sequence;
        replay.accounts = state.accounts;
        replay.has_store = true;
        Ok(replay)
    }

    fn apply(&mut self, store: &Store, record: &Record) -> Result<()> {
        let sequence = record.position.sequence();
        self.records += 1;
        self.last_recorded_at = self.last_recorded_at.max(record.recorded_at);
        if sequence > self.totals_sequence {
            self.totals.add(record);
            self.accounts += u64::from(record.sequence == 1);
        }
        let touched = match self.touched.get_mut(&record.identity) {
            Some(touched) => touched,
            None => {
                let account = self.load(store, &record.identity)?;
                let due_in_store = account.next_due();
                self.touched
                    .entry(record.identity.clone())
                    .insert(Touched { account, since: 0, due_in_store })
                    .into_mut()
            }
        };
        if sequence > touched.account.applied() {
            touched.account.apply(record);
            if touched.since == 0 {
                touched.since = sequence;
            }
        }
        Ok(())
    }

    fn load(&self, store: &Store, identity: &Identity) -> Result<Account> {
        if !self.has_store {
            return Ok(Account::new(identity));
        }
        match store.load(self.shard, identity)? {
            Some(blob) => Account::decode(identity, &blob).map_err(|error| Error::Damaged {
                file: "state".into(),
                offset: 0,
                detail: format!("the state of account {identity:?} in shard {}: {error}", self.shard),
            }),
            None => Ok(Account::new(identity)),
        }
    }

    fn finish(self, last_sequence: u64) -> Result<ShardRecovery> {
        let shard = self.shard;
        let mut replayed = Vec::new();
        for (identity, touched) in self.touched {
            if touched.account.applied() > last_sequence {
                return Err(Error::Damaged {
                    file: "state".into(),
                    offset: 0,
                    detail: format!("the state of account {identity:?} in shard {shard} is ahead of the journal"),
                });
            }
            if touched.since > 0 {
                replayed.push((identity, touched.account, touched.since, touched.due_in_store));
            }
        }
        let start = ShardStart {
            id: shard,
            last_sequence,
            last_recorded_at: self.last_recorded_at,
            totals: self.totals,
            accounts: self.accounts,
            replayed,
            no_spilled_keys: !self.has_store,
            seed: 0,
        };
        Ok(ShardRecovery { start, records: self.records })
    }
}

/// Replays all shards: `threads` threads, each over its own shards.
///
/// # Errors
/// Damage of the journal or the store.
pub fn replay(
    store: &Store,
    reader: &JournalReader,
    last_sequence: &[u64],
    threads: usize,
) -> Result<Vec<ShardRecovery>> {
    let mut by_thread: Vec<Vec<Replay>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    let mut from = Vec::new();
    for (shard, last) in last_sequence.iter().enumerate() {
        let replay = Replay::begin(store, shard as u16, *last)?;
        from.push(replay.replay_start - 1);
        by_thread[shard % threads.max(1)].push(replay);
    }
    let parts: Vec<Result<Vec<ShardRecovery>>> = std::thread::scope(|scope| {
        let run = |own| scope.spawn(|| replay_some(store, reader, &from, last_sequence, own));
        let handles: Vec<_> = by_thread.into_iter().map(run).collect();
        let joined = |h: std::thread::ScopedJoinHandle<'_, _>| {
            h.join().unwrap_or_else(|_| Err(Error::Stopped("a replaying thread panicked".into())))
        };
        handles.into_iter().map(joined).collect()
    });
    let mut shards = Vec::new();
    for part in parts {
        shards.extend(part?);
    }
    shards.sort_by_key(|s| s.start.id);
    Ok(shards)
}

fn replay_some(
    store: &Store,
    reader: &JournalReader,
    from: &[u64],
    last_sequence: &[u64],
    mut own: Vec<Replay>,
) -> Result<Vec<ShardRecovery>> {
    let mut place = vec![None; from.len()];
    for (index, replay) in own.iter().enumerate() {
        place[replay.shard as usize] = Some(index);
    }
    reader.scan(from, &|shard| place[shard as usize].is_some(), &mut |position, payload| {
        let record = codec::decode(position, payload).map_err(|error| Error::Damaged {
            file: "journal".into(),
            offset: 0,
            detail: format!("record {position}: {error}"),
        })?;
        match place[position.shard() as usize] {
            Some(index) => own[index].apply(store, &record),
            None => Ok(()),
        }
    })?;
    let finish = |replay: Replay| {
        let last = last_sequence[replay.shard as usize];
        replay.finish(last)
    };
    own.into_iter().map(finish).collect()
}

/// Every program, from the program accounts in the store and those that replay touched.
///
/// # Errors
/// A blob or document that cannot be read.
pub fn programs(store: &Store, shards: &[ShardRecovery]) -> Result<Programs> {
    let mut programs = Programs::default();
    let mut add = |identity: &Identity, account: &Account| -> Result<()> {
        for version in account.program_versions() {
            let (number, from) = (version.number, version.effective_from);
            programs = with_version(&programs, identity.program(), number, from, &version.document)?;
        }
        Ok(())
    };
    for shard in shards {
        for (identity, account, ..) in &shard.start.replayed {
            if identity.kind() == AccountKind::Program {
                add(identity, account)?;
            }
        }
        store.accounts(shard.start.id, Some(AccountKind::Program), &mut |identity, blob| {
            let account = Account::decode(&identity, blob).map_err(|error| Error::Damaged {
                file: "state".into(),
                offset: 0,
                detail: format!("the state of program {}: {error}", identity.program()),
            })?;
            add(&identity, &account)
        })?;
    }
    Ok(programs)
}
