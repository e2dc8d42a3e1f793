//! Replay of what the journal has and the store lacks, and the programs that both know.
//!
//! Records are applied by the same function as live; what a blob has already is skipped by its sequence.

use std::path::Path;

use hashbrown::HashMap;
use meed_schemas::ids::{AccountKind, Identity, Position};
use meed_schemas::record::Record;
use meed_schemas::time::{DAY_MS, Millis};
use smallvec::SmallVec;

use crate::account::{Account, Totals};
use crate::error::{Error, Result};
use crate::journal::{self, Records};
use crate::planted::{Fault, planted};
use crate::program::{Programs, with_version};
use crate::shard::table::Live;
use crate::shard::{ShardStart, decode_state};
use crate::store::Store;

/// How far the last record's time may be ahead of the clock without a word: what clocks are set by.
const AHEAD_MS_MAX: i64 = 1_000;
/// Where the store keeps until when the node settles.
const SETTLE_BOUND: &str = "settle-until";

/// Name in the store of the seed of the hashes of accounts.
const HASH_SEED: &str = "hash-seed";

/// Everything that a node begins with, besides its journal.
#[derive(Debug)]
pub struct Recovery {
    /// Its shards, by number.
    pub shards: Vec<ShardRecovery>,
    /// Every program.
    pub programs: Programs,
    /// Until when it settles what falls due, when that is not for ever.
    pub settles_until: Option<Millis>,
}

/// How long a node may have been away and still settle what fell due meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct SettleGap {
    /// In days.
    pub days: i64,
    /// Whether the operator says that it settles all the same.
    pub ignored: bool,
}

/// One shard, recovered.
#[derive(Debug)]
pub struct ShardRecovery {
    /// What it begins with.
    pub start: ShardStart,
    /// Records that were replayed.
    pub records: u64,
}

/// States that are loaded together.
const LOADS_AT_ONCE: usize = 256;

/// About how long a record of the tail is.
const RECORD_BYTES: usize = 128;

/// Records of a shard's tail for which place is made at once.
const RESERVED_RECORDS_MAX: usize = 1 << 20;

/// A record of the tail: its shard sequence and where its bytes are.
type Kept = (u64, std::ops::Range<usize>);

struct Replay {
    shard: u16,
    replay_start: u64,
    totals: Totals,
    totals_sequence: u64,
    accounts: u64,
    last_recorded_at: Millis,
    has_store: bool,
    /// The tail's records by account. They are applied at the end, account by account in the order of the
    /// store's rows, because looking accounts up in the order of the journal reads every block of the store
    /// many times over.
    tail: HashMap<Identity, SmallVec<[Kept; 2]>>,
    bytes: Vec<u8>,
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
            tail: HashMap::new(),
            bytes: Vec::new(),
            records: 0,
        };
        let Some(state) = store.shard_state(shard)? else { return Ok(replay) };
        let damaged = |detail: String| Error::Damaged { file: "state".into(), offset: 0, detail };
        let is_ahead = state.totals_sequence > last_sequence || state.replay_start > last_sequence + 1;
        if is_ahead && !planted(Fault::AcceptStoreAhead) {
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

    /// Checks that the journal has everything that the store lacks.
    fn check_begin(&self, begins_at: u64) -> Result<()> {
        if self.replay_start >= begins_at {
            return Ok(());
        }
        Err(Error::Damaged {
            file: "state".into(),
            offset: 0,
            detail: format!(
                "it lacks the records of shard {} from {} on, and the journal begins at {begins_at}; make it again from \
                 a snapshot with `meed restore`",
                self.shard, self.replay_start
            ),
        })
    }

    /// Makes place for so many records. A buffer that doubles touches three times the memory, and memory that was never
    /// touched is dear on a virtual machine.
    fn reserve(&mut self, records: u64) {
        let records = usize::try_from(records).unwrap_or(usize::MAX).min(RESERVED_RECORDS_MAX);
        self.bytes.reserve(records * RECORD_BYTES);
        self.tail.reserve(records.min(self.accounts as usize));
    }

    /// Passes over what is removed, where checkpoints have it whatever the newest of them says: an owner that had slept
    /// may have finished one after this shard's owner had read an older one, and then removed the records. Every later
    /// checkpoint has totals with them; one that has not is not of this journal.
    fn pass_removed(&mut self, removed: u64) {
        if self.totals_sequence >= removed {
            self.replay_start = self.replay_start.max(removed + 1);
        }
    }

    /// Takes one record of the tail.
    fn take(&mut self, record: Record, payload: &[u8]) {
        let sequence = record.position.sequence();
        self.records += 1;
        self.last_recorded_at = self.last_recorded_at.max(record.recorded_at);
        if sequence > self.totals_sequence {
            self.totals.add(&record);
            self.accounts += u64::from(record.sequence == 1);
        }
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.tail.entry(record.identity).or_default().push((sequence, begin..self.bytes.len()));
    }

    /// An account with its part of the tail applied to what the store has of it, dirty since the first sequence that
    /// the store lacks; 0 when it lacks none.
    fn account(&self, identity: &Identity, blob: Option<&[u8]>, tail: &[Kept]) -> Result<Box<Live>> {
        let account = self.decode(identity, blob)?;
        let due_in_store = account.next_due();
        let mut live = Live::new(account, due_in_store);
        for (sequence, range) in tail {
            if *sequence > live.account.applied() || planted(Fault::ApplyTwiceOnReplay) {
                live.account.apply(&journal::decode(Position::new(self.shard, *sequence), &self.bytes[range.clone()])?);
                live.dirty_since = if live.dirty_since == 0 { *sequence } else { live.dirty_since };
            }
        }
        live.recount();
        Ok(live)
    }

    fn decode(&self, identity: &Identity, blob: Option<&[u8]>) -> Result<Account> {
        match blob {
            Some(blob) => read_account(Path::new("state"), identity, blob),
            None => Ok(Account::blank()),
        }
    }

    fn finish(mut self, store: &Store, last_sequence: u64) -> Result<ShardRecovery> {
        let shard = self.shard;
        if self.records < (last_sequence + 1).saturating_sub(self.replay_start) {
            return Err(Error::Damaged {
                file: "journal".into(),
                offset: 0,
                detail: format!("records of shard {shard} from {} on went while they were replayed", self.replay_start),
            });
        }
        let mut tail: Vec<_> = std::mem::take(&mut self.tail).into_iter().collect();
        tail.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut replayed = Vec::with_capacity(tail.len());
        for some in tail.chunks(LOADS_AT_ONCE) {
            let wanted: Vec<_> = some.iter().map(|(identity, _)| (shard, identity.clone())).collect();
            let blobs = if self.has_store { store.load_many(&wanted)? } else { vec![None; some.len()] };
            for ((identity, records), blob) in some.iter().zip(blobs) {
                let live = self.account(identity, blob.as_deref(), records)?;
                if live.account.applied() > last_sequence {
                    return Err(Error::Damaged {
                        file: "state".into(),
                        offset: 0,
                        detail: format!("the state of account {identity:?} in shard {shard} is ahead of the journal"),
                    });
                }
                if live.dirty_since > 0 {
                    replayed.push((identity.clone(), live));
                }
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

/// Brings a node back to where its journal ends, whatever the store has of it. `new_seed` makes the seed of the hashes
/// of accounts for a store that is new.
///
/// # Errors
/// Damage of the journal or the store.
pub fn recover(
    store: &mut Store,
    reader: &Records,
    last_sequence: &[u64],
    threads: usize,
    gap: SettleGap,
    wall: Millis,
    new_seed: &dyn Fn() -> Result<u64>,
) -> Result<Recovery> {
    let mut shards = replay(store, reader, last_sequence, threads)?;
    let seed = hash_seed(store, new_seed)?;
    shards.iter_mut().for_each(|shard| shard.start.seed = seed);
    let programs = programs(store, &shards)?;
    let last_recorded_at = shards.iter().map(|r| r.start.last_recorded_at).max().unwrap_or(0);
    let settles_until = settle_bound(store, gap, last_recorded_at, wall)?;
    Ok(Recovery { shards, programs, settles_until })
}

/// What a node of a cluster has to know before it gets any shard: the seed of the hashes of accounts, and until when it
/// settles what falls due. The last record's time is that of the newest checkpoint of any shard, which is near enough
/// to a bound of days.
///
/// # Errors
/// As [`recover`].
pub fn prepare(
    store: &mut Store,
    shards: u16,
    gap: SettleGap,
    wall: Millis,
    new_seed: &dyn Fn() -> Result<u64>,
) -> Result<(u64, Option<Millis>)> {
    let mut last_recorded_at = 0;
    for shard in 0..shards {
        // Only the time counts here.
        let begun = Replay::begin(store, shard, u64::MAX - 1)?;
        last_recorded_at = last_recorded_at.max(begun.last_recorded_at);
    }
    Ok((hash_seed(store, new_seed)?, settle_bound(store, gap, last_recorded_at, wall)?))
}

/// Recovers one shard while the node runs: replay of what the journal has and the store lacks. With it come the
/// programs whose accounts lie in it.
///
/// # Errors
/// As [`recover`].
pub fn recover_shard(
    store: &Store,
    reader: &Records,
    shard: u16,
    last_sequence: u64,
    seed: u64,
) -> Result<(ShardRecovery, Programs)> {
    let removed = reader.removed_sequence()?.get(usize::from(shard)).copied().unwrap_or(0);
    let mut replay = Replay::begin(store, shard, last_sequence)?;
    replay.pass_removed(removed);
    replay.check_begin(removed + 1)?;
    let mut from = vec![0; usize::from(reader.shards())];
    let mut last = from.clone();
    (from[usize::from(shard)], last[usize::from(shard)]) = (replay.replay_start - 1, last_sequence);
    let mut recovered = replay_some(store, reader, &from, &last, vec![replay])?;
    for start in recovered.iter_mut().map(|recovery| &mut recovery.start) {
        start.seed = seed;
        // The owner before, if it has slept, may yet finish a checkpoint and take away what the due index has of these
        // accounts now. So their next checkpoints write it anew, whatever is there; what is there besides is passed
        // over.
        if !planted(Fault::TrustFoundDue) {
            start.replayed.iter_mut().for_each(|(_, live)| live.due_in_store = None);
        }
    }
    let programs = programs(store, &recovered)?;
    let missing = || Error::Internal(format!("nothing came of the replay of shard {shard}"));
    Ok((recovered.pop().ok_or_else(missing)?, programs))
}

/// The seed of the hashes of accounts, made with the store. Clients cannot know it, so ids that collide cannot be
/// chosen; spilled keys lie under it, so it never changes.
fn hash_seed(store: &mut Store, new_seed: &dyn Fn() -> Result<u64>) -> Result<u64> {
    if let Some(seed) = store.meta(HASH_SEED)?.and_then(|bytes| bytes.try_into().ok()) {
        return Ok(u64::from_le_bytes(seed));
    }
    let seed = store.meta_or_insert(HASH_SEED, &new_seed()?.to_le_bytes())?;
    let damaged = |_| Error::Damaged { file: "state".into(), offset: 0, detail: "the seed of its hashes".into() };
    Ok(u64::from_le_bytes(seed.try_into().map_err(damaged)?))
}

/// Until when the node settles what falls due, when that is not for ever: to the last record before a gap that is too
/// long. The bound outlives this process, because records of after the gap would hide it from the next start; only the
/// operator lifts it.
fn settle_bound(store: &mut Store, gap: SettleGap, last_recorded_at: Millis, wall: Millis) -> Result<Option<Millis>> {
    let kept = store.meta(SETTLE_BOUND)?.and_then(|bytes| bytes.try_into().ok()).map(Millis::from_le_bytes);
    let kept = kept.filter(|until| *until < Millis::MAX);
    let ahead_ms = last_recorded_at.saturating_sub(wall);
    if ahead_ms > AHEAD_MS_MAX {
        tracing::warn!(
            ahead_ms,
            "the last record has a time that is still to come: a clock was ahead, or this one is behind; until then \
             operations are recorded at that time, and nothing falls due before this clock says so"
        );
    }
    let longest = gap.days.saturating_mul(DAY_MS);
    let found = (last_recorded_at > 0 && wall - last_recorded_at > longest).then_some(last_recorded_at);
    // An older bound is the stricter one.
    let bound = if gap.ignored { None } else { kept.or(found) };
    if bound != kept {
        store.put_meta(SETTLE_BOUND, &bound.unwrap_or(Millis::MAX).to_le_bytes())?;
    }
    Ok(bound)
}

/// Replays all shards: `threads` threads, each over its own shards.
///
/// # Errors
/// Damage of the journal or the store.
fn replay(store: &Store, reader: &Records, last_sequence: &[u64], threads: usize) -> Result<Vec<ShardRecovery>> {
    let removed = reader.removed_sequence()?;
    let mut by_thread: Vec<Vec<Replay>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    let mut from = Vec::new();
    for (shard, last) in last_sequence.iter().enumerate() {
        let replay = Replay::begin(store, shard as u16, *last)?;
        replay.check_begin(removed.get(shard).map_or(1, |removed| removed + 1))?;
        let again = u64::from(planted(Fault::ApplyTwiceOnReplay));
        from.push((replay.replay_start - 1).saturating_sub(again));
        by_thread[shard % threads.max(1)].push(replay);
    }
    if by_thread.len() == 1
        && let Some(own) = by_thread.pop()
    {
        return replay_some(store, reader, &from, last_sequence, own);
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
    reader: &Records,
    from: &[u64],
    last_sequence: &[u64],
    mut own: Vec<Replay>,
) -> Result<Vec<ShardRecovery>> {
    let mut place = vec![None; from.len()];
    for (index, replay) in own.iter_mut().enumerate() {
        let shard = replay.shard as usize;
        place[shard] = Some(index);
        replay.reserve(last_sequence[shard].saturating_sub(from[shard]));
    }
    reader.scan(from, &|shard| place[shard as usize].is_some(), &mut |position, payload| {
        if let Some(index) = place[position.shard() as usize] {
            own[index].take(journal::decode(position, payload)?, payload);
        }
        Ok(())
    })?;
    let finish = |replay: Replay| {
        let last = last_sequence[replay.shard as usize];
        replay.finish(store, last)
    };
    own.into_iter().map(finish).collect()
}

/// The account of a state that is stored in `file`.
///
/// # Errors
/// [`Error::Damaged`].
pub(crate) fn read_account(file: &Path, identity: &Identity, blob: &[u8]) -> Result<Account> {
    Account::decode(identity, blob).map_err(|error| Error::Damaged {
        file: file.into(),
        offset: 0,
        detail: format!("the state of account {identity:?}: {error}"),
    })
}

/// Every program, from the program accounts in the store and those that replay touched.
///
/// # Errors
/// A blob or document that cannot be read.
fn programs(store: &Store, shards: &[ShardRecovery]) -> Result<Programs> {
    let mut programs = Programs::default();
    let mut add = |identity: &Identity, account: &Account| -> Result<()> {
        for version in account.program_versions() {
            let (number, from) = (version.number, version.effective_from);
            programs = with_version(&programs, identity.program(), number, from, &version.document)?;
        }
        Ok(())
    };
    for shard in shards {
        for (identity, live) in &shard.start.replayed {
            if identity.kind() == AccountKind::Program {
                add(identity, &live.account)?;
            }
        }
        store.accounts(shard.start.id, Some(AccountKind::Program), &mut |identity, blob| {
            add(&identity, &read_account(Path::new("state"), &identity, blob)?)
        })?;
    }
    Ok(programs)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
