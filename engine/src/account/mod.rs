//! One account: its state, its rules, and the only function that changes it.
//!
//! Everything here is synchronous and pure: time, programs and loaded facts are arguments, records and
//! replies are values. It knows neither store nor journal nor clock. [`turn()`] settles what is due and
//! decides a request; [`Account::apply`] carries a record out, live and in replay alike.

mod turn;
mod decide;
mod settle;
mod views;
mod session;
mod keys;
mod tier;
mod apply;
mod blob;
mod totals;
mod wallet;
mod facts;
#[cfg(test)]
mod format_tests;

use meed_schemas::command::Status;
use meed_schemas::record::{Balances, KeyBinding, RecordKind};
use meed_schemas::time::{Millis, NEVER};
use smallvec::SmallVec;

use self::facts::{ClosedHold, Overlay};
use self::wallet::Wallet;

pub use self::facts::{FactKey, FactValue, Facts, Fetch, Fetches, Outcome, Spilled};
pub use self::session::{Context, Records, Turn, Verdict};
pub use self::totals::{Sums, Totals};
pub use self::turn::{needs, turn};
pub use self::wallet::LOTS_MAX;

/// How many of the newest remembered operations keep their keys in the state.
pub const OPERATIONS_RESIDENT: usize = 8;
/// How many originals keep in the state how much of them was reversed: those reversed last.
pub const REVERSED_RESIDENT: usize = 32;
/// How many expired lots keep in the state what expired unspent: those that changed last.
pub const EXPIRED_RESIDENT: usize = 12;
/// How many closed holds keep in the state how they ended.
pub const CLOSED_HOLDS_RESIDENT: usize = 32;
/// Most open holds of an account.
pub const OPEN_HOLDS_MAX: usize = 1_024;
/// Lots that the open holds of an account may pin, each counted as often as it is pinned: they may all be released in
/// one decision, which has to fit into a batch of the smallest journal.
pub const PINS_MAX: usize = 16_384;
/// Tiers set by hand before the present one that an account remembers, for operations that come late.
const MANUALS_BEFORE: usize = 16;
/// Most months with spend. Months are never folded, so that a late operation of any accepted age finds the
/// spend of its time; a hundred years of them bound the state.
pub const SPEND_MONTHS_MAX: usize = 1_200;
/// Largest spend of a month, in minor units.
pub const SPEND_MONTH_MAX: i64 = 1_000_000_000_000_000_000;
/// Most versions of a program.
pub const PROGRAM_VERSIONS_MAX: usize = 1_000;

/// Spend by month, ascending; no month has none.
type SpendByMonth = SmallVec<[(i32, i64); 2]>;

/// How many effects of a kind there are, and where the newest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KindCount {
    kind: RecordKind,
    count: u64,
    /// Shard sequence.
    newest: u64,
}

/// A remembered operation, or a further key for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    /// Shard sequence of the record that renders the outcome.
    target: u64,
    fingerprint: u64,
    recorded_at: Millis,
    refusal: bool,
    /// Which of the hashes are there.
    has: [bool; 2],
    /// Of the `Idempotency-Key` and of the business key.
    hashes: [u128; 2],
}

impl Operation {
    fn has_key(&self, key: KeyBinding) -> bool {
        let layer = usize::from(key.business);
        self.has[layer] && self.hashes[layer] == key.hash
    }

    fn keys(&self) -> impl Iterator<Item = KeyBinding> {
        let (has, hashes) = (self.has, self.hashes);
        [false, true]
            .into_iter()
            .filter(move |business| has[usize::from(*business)])
            .map(move |business| KeyBinding { hash: hashes[usize::from(business)], business })
    }

    fn add_key(&mut self, key: KeyBinding) {
        let layer = usize::from(key.business);
        self.has[layer] = true;
        self.hashes[layer] = key.hash;
    }
}

/// Points pinned for a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    /// Shard sequence of its record.
    id: u64,
    recorded_at: Millis,
    /// End of its time to live; NEVER for a prepared one.
    expires_at: Millis,
    /// (expiry, points) in burn order.
    pins: SmallVec<[(Millis, i64); 1]>,
}

impl Hold {
    fn points(&self) -> i64 {
        self.pins.iter().map(|(_, points)| points).sum()
    }
}

/// A tier set by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manual {
    name: Box<str>,
    floor: bool,
    /// From when on.
    from: Millis,
    /// First instant at which it no longer holds, or NEVER.
    until: Millis,
}

/// How much of an original was reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reversed {
    /// Shard sequence of the original.
    original: u64,
    points: i64,
    amount: i64,
}

/// A version of a program, as its account keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramVersion {
    /// 1 for the first.
    pub number: u32,
    /// `recorded_at` of its record: from when on it decides (the first also for all earlier times).
    pub effective_from: Millis,
    /// The canonical document.
    pub document: Box<str>,
}

/// What most accounts do not have.
#[derive(Debug, Default)]
struct Rare {
    /// Open holds, by id.
    holds: Vec<Hold>,
    /// Newest last.
    closed: Vec<(u64, ClosedHold)>,
    /// Changed last, last.
    reversed: Vec<Reversed>,
    /// (expiry, points that expired unspent), changed last, last.
    expired: Vec<(Millis, i64)>,
    manual: Option<Manual>,
    /// Those that held before it, oldest first, each up to its end or to when another was set.
    manual_before: Vec<Manual>,
    versions: Vec<ProgramVersion>,
    /// `recorded_at` of the first and last key ever evicted.
    spilled_keys: Option<(Millis, Millis)>,
    reversed_spilled: bool,
    closed_spilled: bool,
    /// Latest expiry of the lots whose memory was ever evicted.
    expired_spilled: Option<Millis>,
    /// Not part of the blob.
    overlay: Overlay,
}

/// The state of one account.
#[derive(Debug)]
pub struct Account {
    wallet: Wallet,
    /// Shard sequence of the last record applied.
    applied: u64,
    /// Last account sequence.
    sequence: u64,
    /// Shard sequence of the last effect.
    newest: u64,
    created_at: Millis,
    /// `recorded_at` of the last effect.
    updated_at: Millis,
    /// When the tier changes if nothing happens before, NEVER for not by itself.
    tier_due: Millis,
    /// Earliest end of a hold, NEVER for none. Derived.
    hold_due: Millis,
    /// Version in which `tier` is meant.
    tier_version: u32,
    /// Level last journaled.
    tier: u8,
    status: Status,
    kinds: SmallVec<[KindCount; 1]>,
    spend: SpendByMonth,
    /// Newest last.
    operations: Vec<Operation>,
    rare: Option<Box<Rare>>,
}

impl Account {
    /// Reads from every cache line of the state itself that a turn will read, for `Table::warm`; the value means
    /// nothing.
    pub(crate) fn warm_inline(&self) -> u64 {
        self.applied ^ self.operations.len() as u64 ^ self.wallet.debt as u64 ^ self.spend.len() as u64
    }

    /// As [`Account::warm_inline`], of what the state points at.
    pub(crate) fn warm_heap(&self) -> u64 {
        let operations = self.operations.iter().step_by(2).fold(0, |sum, operation| sum ^ operation.target);
        operations ^ self.spend.first().map_or(0, |month| month.1 as u64)
    }

    /// A blank account, which does not exist until a record is applied.
    pub fn blank() -> Self {
        Self {
            wallet: Wallet::default(),
            applied: 0,
            sequence: 0,
            newest: 0,
            created_at: 0,
            updated_at: 0,
            tier_due: NEVER,
            hold_due: NEVER,
            tier_version: 0,
            tier: 0,
            status: Status::Active,
            kinds: SmallVec::new(),
            spend: SmallVec::new(),
            operations: Vec::new(),
            rare: None,
        }
    }

    /// Whether it has any effect.
    pub fn exists(&self) -> bool {
        self.sequence > 0
    }

    /// Shard sequence of the last record applied, of any kind.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Last account sequence.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Shard sequence of its last effect, which the next one points back to.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its balances as of the last record.
    pub fn balances(&self) -> Balances {
        self.wallet.balances()
    }

    /// The earliest instant at which something has to be settled: an activation, the expiry of points that
    /// are not held, the end of a hold, a change of the tier by time alone.
    pub fn next_due(&self) -> Option<Millis> {
        let due = self.wallet.next_expiry().min(self.wallet.next_activation()).min(self.hold_due).min(self.tier_due);
        (due != NEVER).then_some(due)
    }

    /// Facts evicted from the state and not yet checkpointed, in the order of their eviction. A fact may
    /// occur twice: the later value is the newer.
    pub fn overlay(&self) -> &[Spilled] {
        self.rare.as_ref().map_or(&[], |rare| rare.overlay.all())
    }

    /// Drops what was evicted by records up to this shard sequence: it is in the store now.
    pub fn drop_overlay(&mut self, up_to: u64) {
        if let Some(rare) = &mut self.rare {
            rare.overlay.drop_up_to(up_to);
        }
    }

    /// `recorded_at` of the first and last key ever evicted; `None` when every key is in the state.
    pub fn spilled_keys_span(&self) -> Option<(Millis, Millis)> {
        self.rare.as_ref().and_then(|rare| rare.spilled_keys)
    }

    /// The versions of a program, oldest first; empty for other accounts.
    pub fn program_versions(&self) -> &[ProgramVersion] {
        self.rare.as_ref().map_or(&[], |rare| &rare.versions)
    }

    /// Bytes on the heap, overlay included.
    pub fn heap_bytes(&self) -> usize {
        let mut bytes = self.wallet.heap_bytes() + self.operations.capacity() * size_of::<Operation>();
        if self.kinds.spilled() {
            bytes += self.kinds.capacity() * size_of::<KindCount>();
        }
        if self.spend.spilled() {
            bytes += self.spend.capacity() * size_of::<(i32, i64)>();
        }
        if let Some(rare) = &self.rare {
            bytes += size_of::<Rare>()
                + rare.holds.capacity() * size_of::<Hold>()
                + rare.holds.iter().filter(|h| h.pins.spilled()).map(|h| h.pins.capacity() * 16).sum::<usize>()
                + rare.closed.capacity() * size_of::<(u64, ClosedHold)>()
                + rare.reversed.capacity() * size_of::<Reversed>()
                + rare.expired.capacity() * size_of::<(Millis, i64)>()
                + rare.manual_before.capacity() * size_of::<Manual>()
                + rare.versions.iter().map(|v| size_of::<ProgramVersion>() + v.document.len()).sum::<usize>()
                + rare.overlay.heap_bytes();
        }
        bytes
    }

    fn holds(&self) -> &[Hold] {
        self.rare.as_ref().map_or(&[], |rare| &rare.holds)
    }

    fn hold(&self, id: u64) -> Option<&Hold> {
        let holds = self.holds();
        holds.binary_search_by_key(&id, |hold| hold.id).ok().map(|index| &holds[index])
    }

    fn manual(&self) -> Option<&Manual> {
        self.rare.as_ref().and_then(|rare| rare.manual.as_ref())
    }

    fn manual_before(&self) -> &[Manual] {
        self.rare.as_ref().map_or(&[], |rare| &rare.manual_before)
    }

    fn kind_count(&self, kind: RecordKind) -> Option<&KindCount> {
        self.kinds.iter().find(|k| k.kind == kind)
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// Adds to the spend of a month.
fn add_spend(spend: &mut SpendByMonth, month: i32, amount: i64) {
    match spend.binary_search_by_key(&month, |(m, _)| *m) {
        Ok(index) => {
            spend[index].1 += amount;
            if spend[index].1 == 0 {
                spend.remove(index);
            }
        }
        Err(index) if amount != 0 => spend.insert(index, (month, amount)),
        Err(_) => {}
    }
}
