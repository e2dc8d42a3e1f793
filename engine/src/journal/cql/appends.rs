//! How many appends of a node's shards are under way at once.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The appends that may be under way at once, of all workers.
#[derive(Debug)]
pub struct Appends {
    turns: Semaphore,
    max: usize,
    /// Appends without an answer that pause before they are asked again.
    paused: AtomicUsize,
}

impl Appends {
    /// At least one.
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { turns: Semaphore::new(max), max, paused: AtomicUsize::new(0) }
    }

    /// How many one of so many workers may hand over: a batch that is not yet handed over grows, one that is does not,
    /// so no worker hands over more than its share. Together they may hand over more than there may be under way; what
    /// is too much waits for its turn. One that pauses keeps no other from being handed over.
    pub fn per_worker(&self, workers: usize) -> usize {
        self.max.div_ceil(workers.max(1)) + self.paused.load(Ordering::Relaxed)
    }

    /// Waits for a turn to ask one statement. It is never closed; without a turn there would be no limit, but an
    /// append.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Pauses, without a turn.
    pub(super) async fn pause(&self, pause: impl Future<Output = ()>) {
        self.paused.fetch_add(1, Ordering::Relaxed);
        pause.await;
        self.paused.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    /// Workers that hand over all they may, none of which is answered before no more comes.
    #[test]
    fn no_more_appends_are_under_way_than_the_node_may_have() {
        for (max, workers) in [(8, 3), (8, 16), (8, 2), (1, 4), (5, 5)] {
            let appends = Arc::new(Appends::new(max));
            let handed_over = workers * appends.per_worker(workers);
            assert!(handed_over >= max && handed_over < max + workers, "{handed_over} of {max} by {workers}");
            let (under_way, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let tasks: Vec<_> = (0..handed_over)
                    .map(|_| {
                        let (appends, answered) = (Arc::clone(&appends), Arc::clone(&answered));
                        let under_way = Arc::clone(&under_way);
                        tokio::spawn(async move {
                            let _turn = appends.turn().await;
                            under_way.fetch_add(1, Ordering::Relaxed);
                            answered.acquire().await.unwrap().forget();
                            under_way.fetch_sub(1, Ordering::Relaxed);
                        })
                    })
                    .collect();
                // Every task has run as far as it can: they take turns on one thread.
                tokio::task::yield_now().await;
                assert_eq!(under_way.load(Ordering::Relaxed), max, "{workers} workers");
                for _ in 0..handed_over {
                    assert!(under_way.load(Ordering::Relaxed) <= max);
                    answered.add_permits(1);
                    tokio::task::yield_now().await;
                }
                for task in tasks {
                    task.await.unwrap();
                }
            });
        }
    }

    #[test]
    fn an_append_that_pauses_takes_nobodys_turn_and_no_share() {
        let appends = Appends::new(2);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ended = Semaphore::new(0);
            let pause = appends.pause(async { ended.acquire().await.unwrap().forget() });
            let others = async {
                assert_eq!(appends.per_worker(2), 2, "its own share, and one for that which pauses");
                let _turns = (appends.turn().await, appends.turn().await);
                ended.add_permits(1);
            };
            tokio::join!(pause, others);
        });
        assert_eq!(appends.per_worker(2), 1);
    }
}
