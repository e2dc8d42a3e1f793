//! What comes to a shard and what it wants done, as plain values.

use std::sync::Arc;

use meed_schemas::command::Request;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;
use meed_schemas::time::Millis;

use super::table::Live;
use crate::account::{FactKey, Totals};
use crate::program::Programs;
use crate::store::{FactQuery, KeyPlace, ShardCheckpoint};

/// The accounts of a checkpoint, each with the shard sequence of the last record that it was copied with.
pub type Copied = Vec<(Identity, u64)>;

/// A part of a checkpoint on its way to the store.
#[derive(Debug)]
pub struct Checkpoint {
    /// What is written.
    pub rows: Box<ShardCheckpoint>,
    /// What the shard is told when it is.
    pub copied: Copied,
}

/// How long an `Idempotency-Key` is remembered at least.
pub const IDEMPOTENCY_KEY_DAYS: i64 = 31;
/// How long a business key is remembered at least.
pub const BUSINESS_KEY_DAYS: i64 = 90;

/// Where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The worker that waits for it.
    pub worker: u16,
    /// Its slot there.
    pub slot: u32,
    /// Tells this use of the slot from earlier ones.
    pub generation: u32,
    /// Which of the slot's answers.
    pub index: u32,
}

/// A command on its way.
#[derive(Debug)]
pub struct Envelope {
    /// What is asked.
    pub request: Request,
    /// By whom; `None` for the node itself.
    pub to: Option<ReplyTo>,
    /// Not decided after this, in milliseconds of the node's monotonic clock.
    pub deadline_ms: i64,
    /// Bytes that its permit counts.
    pub bytes: u32,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum Input {
    /// A command.
    Command(Envelope),
    /// An account's blob, or that there is none.
    Loaded(Identity, Option<Vec<u8>>),
    /// A spilled fact, or that there is none.
    Fact(Identity, u64, FactKey, Option<Vec<u8>>),
    /// A record that a command needs; `None` when there is no such record.
    Record(Identity, u64, Position, Option<Box<Record>>),
    /// A checkpoint is in the store.
    CheckpointDone(Copied),
    /// Accounts of the due index, in order of their instants; fewer than asked for when these are all.
    Due(Vec<(Millis, Identity)>),
    /// Keys that were spilled before the start, and where to go on, `None` at their end.
    SpilledKeys(Vec<u128>, Option<KeyPlace>),
    /// Time passes.
    Tick,
    /// Everything is to go to the store.
    CheckpointAll,
    /// The node gets the shard or gives it away; for the actor round the shard, not for the shard.
    Tenure(Box<Tenure>),
}

/// A change of who owns a shard, for a node that may get it or give it away while it runs.
#[derive(Debug)]
pub enum Tenure {
    /// This node is its owner and recovers it: commands wait.
    Prepare,
    /// It is recovered: commands are decided.
    Begin(Box<ShardStart>),
    /// It is to be given away: commands wait, and what is under way ends. Asked again and again until it has.
    Drain,
    /// It stays after all.
    Resume,
    /// Another node owns it: commands that wait are told.
    Release,
}

/// Why a record is read.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// To answer a replay from it.
    Replay {
        /// Who asked.
        to: ReplyTo,
        /// Whether the outcome itself was asked for rather than the operation retried.
        outcome: bool,
        /// Bytes that the permit counts.
        bytes: u32,
        /// The shard whose permit it gives back.
        shard: u16,
    },
    /// A command needs it.
    Original {
        /// The account.
        identity: Identity,
        /// The command.
        ticket: u64,
    },
}

/// What waits until the journal has what it saw.
#[derive(Debug)]
pub enum Held {
    /// An answer.
    Reply {
        /// To whom.
        to: ReplyTo,
        /// The shard whose permit it gives back.
        shard: u16,
        /// Bytes that the permit counts.
        bytes: u32,
        /// The answer.
        reply: Reply,
    },
    /// A record is to be read.
    Read {
        /// Which.
        position: Position,
        /// What for.
        purpose: Purpose,
    },
    /// The operation that a retry repeats is not durable yet: what the retry is told if that lasts beyond its deadline.
    /// Its answer is held besides.
    StillRunning(ReplyTo),
    /// A checkpoint is to be written.
    Checkpoint(Checkpoint),
}

/// What the store is asked for.
#[derive(Debug)]
pub enum StoreJob {
    /// An account's blob.
    Load(u16, Identity),
    /// A spilled fact, for the command with this ticket.
    Fact(u16, Identity, u64, FactKey, FactQuery),
    /// Due accounts up to an instant, after a place, at most so many.
    Due(u16, Millis, Option<(Millis, Identity)>, usize),
    /// Spilled keys from a place on.
    Keys(u16, KeyPlace),
    /// Another node had the shard: what is remembered of its rows is old. Said when all that was asked before is
    /// answered.
    Forget(u16, std::sync::mpsc::SyncSender<()>),
}

/// What a shard wants done now.
#[derive(Debug, Default)]
pub struct Output {
    /// Held things whose turn has come at once.
    pub ready: Vec<Held>,
    /// Questions to the store.
    pub jobs: Vec<StoreJob>,
    /// Operations recognized by a key.
    pub replays: u64,
    /// Commands whose deadline had passed before their turn.
    pub expired: u64,
}

/// What a shard is told of the world with every input.
#[derive(Debug)]
pub struct World {
    /// Now, by the clock of the worker. A turn takes it as no earlier than the last record of its shard.
    pub now: Millis,
    /// Nothing that is due after this is settled.
    pub settle_until: Millis,
    /// The node's monotonic clock.
    pub elapsed_ms: i64,
    /// Whether the node holds its lease, so that no other can have decided for the shard by now. Else what a command has
    /// waited for may be what another node has made of the account.
    pub may_decide: bool,
    /// The programs.
    pub programs: Arc<Programs>,
}

/// Bounds of a shard.
#[derive(Debug, Clone, Copy)]
pub struct ShardLimits {
    /// Bytes of accounts in memory.
    pub resident_bytes: usize,
    /// Accounts that may come into memory in one tick although it is full.
    pub unbounded_loads_per_tick: usize,
    /// Bytes of the filter of spilled keys.
    pub filter_bytes: usize,
    /// Records that may be without checkpoint before one is begun early.
    pub checkpoint_records: u64,
    /// Time between two checkpoints of everything.
    pub checkpoint_interval_ms: i64,
    /// Rows in one store batch, blobs and spilled facts together. A question to the store waits for one batch at most,
    /// so this bounds the wait of a cold account.
    pub checkpoint_rows: usize,
    /// Accounts that a checkpoint takes at a time where it is spread over time.
    pub checkpoint_step: u64,
    /// Idle accounts are packed after this.
    pub pack_after_ms: i64,
    /// Idle accounts settled in one tick: so many of those in memory, and so many that the store names.
    pub settled_per_tick: usize,
}

/// What a shard knows when it begins.
#[derive(Debug)]
pub struct ShardStart {
    /// Which shard.
    pub id: u16,
    /// Sequence of its last record, 0 for none.
    pub last_sequence: u64,
    /// `recorded_at` of its last record.
    pub last_recorded_at: Millis,
    /// Totals of its programs.
    pub totals: Totals,
    /// Accounts that exist, in the store or only in the journal.
    pub accounts: u64,
    /// Accounts that replay changed, each dirty since the first sequence that the store lacks.
    pub replayed: Vec<(Identity, Box<Live>)>,
    /// Whether the store holds no spilled keys of this shard.
    pub no_spilled_keys: bool,
    /// Seed of the hashes of accounts, secret; as long as the store lives the same, since keys are spilled
    /// under it.
    pub seed: u64,
}
