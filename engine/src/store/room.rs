//! Room in memory for what is written to a database: memtables are sealed when they have half of the bound, and wait to
//! be flushed in the other half. Sealing takes locks that fjall holds while it syncs, so a thread of its own does it.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fjall::{AbstractTree, Keyspace};

use crate::background::yield_to_commits;

/// Flushed tables that wait for compaction in one keyspace, past which no more are made. fjall itself waits
/// from 30 on, and would wait for ever if its thread had failed; this one notices.
const UNCOMPACTED_RUNS_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Room(Mutex<State>);

#[derive(Default)]
struct State {
    /// Since when a write waits.
    waits_since: Option<Instant>,
    sealing: Option<JoinHandle<fjall::Result<()>>>,
    /// Memtables that were sealed. fjall lets go of them when it seals others, under the lock that readers need;
    /// freeing one takes 100 ms and more. So the last one who has them is here.
    sealed: Vec<Arc<dyn Send + Sync>>,
}

impl Room {
    /// `None` when there is room; else for how long it is waited for. Begins to seal where that is due.
    ///
    /// # Errors
    /// What sealing has met.
    pub(super) fn look(&self, keyspaces: &[&Keyspace], bytes_max: u64) -> fjall::Result<Option<Duration>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealing) = state.sealing.take_if(|sealing| sealing.is_finished()) {
            sealing.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        if state.sealing.is_none() {
            let active: u64 = keyspaces.iter().map(|keyspace| active_bytes(keyspace)).sum();
            if active < bytes_max / 2 {
                state.waits_since = None;
                return Ok(None);
            }
            if !keyspaces.iter().any(|keyspace| is_busy(keyspace)) {
                state.free();
                state.seal(keyspaces, active, bytes_max)?;
            }
        }
        let since = *state.waits_since.get_or_insert_with(Instant::now);
        Ok(Some(since.elapsed()))
    }
}

impl Drop for Room {
    /// Who opens the database next finds nobody in it.
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealing) = state.sealing.take() {
            // The database is going: what sealing has met is met again by its next start.
            let _ = sealing.join();
        }
    }
}

impl State {
    /// Seals the largest memtables.
    fn seal(&mut self, keyspaces: &[&Keyspace], mut active: u64, bytes_max: u64) -> fjall::Result<()> {
        let mut sizes: Vec<(u64, Keyspace)> = keyspaces.iter().map(|k| (active_bytes(k), Keyspace::clone(k))).collect();
        sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        sizes.retain(|(size, _)| {
            let is_sealed = active >= bytes_max / 8;
            active = active.saturating_sub(*size);
            is_sealed
        });
        for (_, keyspace) in &sizes {
            self.sealed.push(keyspace.tree.active_memtable());
        }
        let body = move || sizes.iter().try_for_each(|(_, keyspace)| keyspace.rotate_memtable().map(|_| ()));
        self.sealing = Some(thread::Builder::new().name("store-seal".into()).spawn(body)?);
        Ok(())
    }

    /// Frees what was flushed and nobody reads any more.
    fn free(&mut self) {
        let unused: Vec<_> = self.sealed.extract_if(.., |memtable| Arc::strong_count(memtable) == 1).collect();
        if unused.is_empty() {
            return;
        }
        let body = move || {
            yield_to_commits();
            drop(unused);
        };
        // Where there is no thread to be had, it is freed here.
        let _ = thread::Builder::new().name("store-free".into()).spawn(body);
    }
}

fn active_bytes(keyspace: &Keyspace) -> u64 {
    keyspace.tree.active_memtable().size()
}

/// Whether what was sealed is still to be flushed, or compaction is far behind.
fn is_busy(keyspace: &Keyspace) -> bool {
    keyspace.tree.sealed_memtable_count() > 0 || keyspace.tree.l0_run_count() >= UNCOMPACTED_RUNS_MAX
}
