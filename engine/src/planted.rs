//! Faults that can be planted, one at a time, to prove that they would be found. Only with the feature `planted`, which
//! no release has: without it [`planted`] is a constant, and the code behind it is not built.

/// A bug that somebody could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The journal says that a batch is durable without its fdatasync.
    SkipSync,
    /// Answers leave when their batch is handed to the journal.
    AcknowledgeBeforeSync,
    /// Replay begins a record early and does not ask whether the blob has it already.
    ApplyTwiceOnReplay,
    /// A blob lacks the keys of the oldest operation that it should have.
    ForgetKeyAtCheckpoint,
    /// The answer to a read does not wait for what it saw.
    ReleaseReadEarly,
    /// Points that expire last are spent first.
    BurnLatestFirst,
    /// What a capture does not take is gone.
    LoseRemainderOfCapture,
    /// Points expire although they are held.
    ExpireHeldPoints,
    /// A reversal computes with the program's current version.
    ReverseWithCurrentVersion,
    /// After a torn tail the last sequence of a shard is given again.
    ReuseSequenceAfterTornTail,
    /// Pending points may be spent.
    CountPendingAsAvailable,
    /// A checkpoint goes to the store before the journal has what is in it.
    CheckpointAhead,
    /// A recovered tail counts as durable though it was never synced.
    AcknowledgeUnsyncedTail,
    /// An account leaves memory although a load that its commands wait for is outstanding.
    EvictWhileLoading,
    /// A spilled key does not reach the store.
    LoseSpilledKey,
    /// The checksums of records are not compared.
    SkipChecksum,
    /// A refusal is not remembered under its key.
    ForgetRefusal,
    /// What was reversed before is not counted.
    ForgetReversed,
    /// Whoever reads batches does not ask whether one continues the one before it.
    DropPreviousBatchCheck,
    /// A segment goes although the replay of a start needs it.
    RemoveNeededSegment,
    /// The packed file of a segment is not synced before the plain one goes.
    SkipPackedSync,
    /// A snapshot is not synced before the segments that it stands for go.
    SkipSnapshotSync,
    /// A start does not ask whether the store has what the journal lacks.
    AcceptStoreAhead,
    /// A segment goes although not all of it is published.
    RemoveUnpublished,
    /// A claim leaves the epochs of buckets as they are.
    ClaimWithoutRaise,
    /// Whoever opens a bucket does not look whether the chain has gone on without it.
    OpenWithoutLookingBack,
    /// A bucket is opened although the seal of the one before has no answer.
    OpenBeforeSealed,
    /// A claim stops in a sealed bucket.
    ClaimSealed,
    /// An append without an answer counts as done.
    TakeUnknownForDone,
    /// The watermark of the stream goes beyond what is confirmed.
    PublishPastGap,
    /// A node answers although its lease has run out.
    AnswerBeyondLease,
    /// A node counts as dead when its lease was not renewed between two looks.
    TakeFromTheLiving,
    /// After the cluster was away others count as dead although they had no time to connect.
    GiveNoTimeToConnect,
    /// A bucket goes although a start has to replay it.
    RemoveUncheckpointed,
    /// A checkpoint's rows count as the newest whenever they come.
    CheckpointAsNewest,
    /// The row that says from where to replay is written before the states.
    RowBeforeStates,
    /// Whoever takes a shard relies on what its due index has.
    TrustFoundDue,
}

impl Fault {
    /// Those of several nodes on one cluster.
    pub const NODES: [Self; 13] = [
        Self::ClaimWithoutRaise,
        Self::OpenWithoutLookingBack,
        Self::OpenBeforeSealed,
        Self::ClaimSealed,
        Self::TakeUnknownForDone,
        Self::PublishPastGap,
        Self::AnswerBeyondLease,
        Self::TakeFromTheLiving,
        Self::GiveNoTimeToConnect,
        Self::RemoveUncheckpointed,
        Self::CheckpointAsNewest,
        Self::RowBeforeStates,
        Self::TrustFoundDue,
    ];

    /// Those of one node; one of the stream is in both lists.
    pub const ALL: [Self; 25] = [
        Self::SkipSync,
        Self::AcknowledgeBeforeSync,
        Self::ApplyTwiceOnReplay,
        Self::ForgetKeyAtCheckpoint,
        Self::ReleaseReadEarly,
        Self::BurnLatestFirst,
        Self::LoseRemainderOfCapture,
        Self::ExpireHeldPoints,
        Self::ReverseWithCurrentVersion,
        Self::ReuseSequenceAfterTornTail,
        Self::CountPendingAsAvailable,
        Self::CheckpointAhead,
        Self::AcknowledgeUnsyncedTail,
        Self::EvictWhileLoading,
        Self::LoseSpilledKey,
        Self::SkipChecksum,
        Self::ForgetRefusal,
        Self::ForgetReversed,
        Self::DropPreviousBatchCheck,
        Self::RemoveNeededSegment,
        Self::SkipPackedSync,
        Self::SkipSnapshotSync,
        Self::AcceptStoreAhead,
        Self::RemoveUnpublished,
        Self::PublishPastGap,
    ];
}

#[cfg(feature = "planted")]
mod chosen {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Fault;

    /// Index + 1 of the fault that is planted; 0 for none.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);
    static FROM_ENVIRONMENT: OnceLock<()> = OnceLock::new();

    /// Plants a fault in this process, or takes it out again.
    pub fn plant(fault: Option<Fault>) {
        FROM_ENVIRONMENT.get_or_init(|| ());
        CHOSEN.store(fault.map_or(0, |fault| fault as usize + 1), Ordering::Relaxed);
    }

    /// Whether this fault is planted: by [`plant`], or by its name in `MEED_PLANTED`.
    #[inline]
    pub fn planted(fault: Fault) -> bool {
        FROM_ENVIRONMENT.get_or_init(|| {
            let name = std::env::var("MEED_PLANTED").unwrap_or_default();
            let chosen = Fault::ALL.into_iter().chain(Fault::NODES).find(|fault| format!("{fault:?}") == name);
            CHOSEN.store(chosen.map_or(0, |fault| fault as usize + 1), Ordering::Relaxed);
        });
        CHOSEN.load(Ordering::Relaxed) == fault as usize + 1
    }
}

#[cfg(feature = "planted")]
pub use chosen::{plant, planted};

/// Whether this fault is planted: never, in a build without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_: Fault) -> bool {
    false
}

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("no release has faults planted: build with debug assertions, as `ops/planted.sh` does");
