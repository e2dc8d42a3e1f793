//! The publishing thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use meed_schemas::time::Millis;

use super::flow::{Flow, Stuck, Turn};
use super::kafka::{Link, Trouble, check_properties};
use super::mark::{Mark, Marks};
use super::{CurrentPrograms, Fencing};
use crate::clock::SystemTimes;
use crate::config::KafkaOptions;
use crate::error::{Error, Result};
use crate::feed::{Next, Reached, read_on};
use crate::journal::Records;
use crate::metrics::PublishMetrics;
use crate::retention::NeededFrom;

/// Pace of looking for new records and confirmations when there is nothing to do or no room. What has come meanwhile is
/// handed over at once, so that every partition gets one large batch of it.
const POLL: Duration = Duration::from_millis(100);
/// The same when the node ends.
const LAST_POLL: Duration = Duration::from_millis(10);
/// Pace of trying again when nothing can be published.
const RETRY: Duration = Duration::from_secs(1);
/// Time between two saves of the watermark.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a shard has come or gone, before what is published now is looked for.
const SHARDS_SETTLE: Duration = Duration::from_millis(200);
/// What a message may come later than its time-out: the client looks once a second.
const TIMEOUT_SLACK: Duration = Duration::from_secs(2);
/// Time between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The publishing thread, seen from the others.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// When to end at the latest, once told to.
    until: Mutex<Option<Instant>>,
    told: Condvar,
    published: Vec<AtomicU64>,
}

impl Shared {
    fn until(&self) -> Option<Instant> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, or until told to end.
    fn wait(&self, time: Duration) {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none() {
            // Woken early is as good.
            let _ = self.told.wait_timeout(until, time);
        } else {
            drop(until);
            std::thread::sleep(time.min(LAST_POLL));
        }
    }
}

impl Publisher {
    /// Starts to publish what the journal has and Kafka lacks. Kafka need not be there.
    ///
    /// # Errors
    /// Settings that cannot be used; the disk; a file of a newer format.
    pub fn start(
        options: KafkaOptions,
        marks: Marks,
        fencing: Option<Fencing>,
        journal: Records,
        programs: CurrentPrograms,
        metrics: PublishMetrics,
    ) -> Result<Self> {
        let published = (0..journal.shards()).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { until: Mutex::default(), told: Condvar::new(), published });
        check_properties(&options.properties).map_err(Error::Setting)?;
        let mark = read_mark(&marks, &options, &journal)?;
        let taken = Taken { epochs: Vec::new(), again_at: vec![None; usize::from(journal.shards())] };
        let run = Run { options, marks, mark, fencing, taken, journal, programs, shared: Arc::clone(&shared), metrics };
        let body = move || run.run();
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(body);
        let thread = thread.map_err(|error| Error::io("start the publishing thread of", "the node", error))?;
        Ok(Self { shared, thread })
    }

    /// What is not published yet, or not saved as published, stays in the journal.
    pub fn needed_from(&self) -> NeededFrom {
        let shared = Arc::clone(&self.shared);
        Box::new(move || Ok(shared.published.iter().map(|sequence| sequence.load(Ordering::Acquire) + 1).collect()))
    }

    /// Ends the thread. What is durable by now is published first, if that is done within `patience`; the rest
    /// is the next start's.
    pub fn stop(self, patience: Duration) {
        *self.shared.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + patience);
        self.shared.told.notify_all();
        // It logged what went wrong.
        let _ = self.thread.join();
    }
}

fn read_mark(marks: &Marks, options: &KafkaOptions, journal: &Records) -> Result<Mark> {
    let balances = options.balances_topic.as_deref().unwrap_or_default();
    marks.read(&options.events_topic, balances, &journal.removed_sequence()?)
}

struct Run {
    options: KafkaOptions,
    marks: Marks,
    mark: Mark,
    fencing: Option<Fencing>,
    taken: Taken,
    journal: Records,
    programs: CurrentPrograms,
    shared: Arc<Shared>,
    metrics: PublishMetrics,
}

/// The shards as this node has taken them.
struct Taken {
    epochs: Vec<i64>,
    /// When the balances of a shard's tail are sent once more: until then its balances count as not published.
    again_at: Vec<Option<Instant>>,
}

impl Taken {
    /// Shards whose balances are to be sent once more now, if all that wait are.
    fn due(&self) -> bool {
        let now = Instant::now();
        let mut waiting = self.again_at.iter().flatten().peekable();
        waiting.peek().is_some() && waiting.all(|at| *at <= now)
    }
}

impl Run {
    fn run(mut self) {
        let mut logged: Option<(Trouble, Instant)> = None;
        self.show(&self.mark);
        loop {
            let timeout = self.fencing.as_ref().map(|fencing| fencing.balance_timeout);
            let taken = self.take_shards();
            let linked =
                taken.and_then(|()| Link::connect(&self.options, &self.mark.events, &self.mark.balances, timeout));
            let ended = linked.and_then(|link| {
                if logged.take().is_some() {
                    tracing::info!("events are published again");
                }
                self.metrics.up.set(1.0);
                self.serve(&link)
            });
            self.metrics.up.set(0.0);
            if self.shared.until().is_some() {
                return;
            }
            let Err(trouble) = ended else { continue };
            self.metrics.failures.increment(1);
            if logged.as_ref().is_none_or(|(same, at)| *same != trouble || at.elapsed() >= LOG_INTERVAL) {
                tracing::warn!(%trouble, "events are not published; the journal keeps them until they can be");
                logged = Some((trouble, Instant::now()));
            }
            self.report(None);
            self.shared.wait(RETRY);
        }
    }

    /// Looks which shards this node owns, and where others have come to with those that it took.
    fn take_shards(&mut self) -> std::result::Result<(), Trouble> {
        let Some(fencing) = &self.fencing else { return Ok(()) };
        if (fencing.epochs)() == self.taken.epochs {
            return Ok(());
        }
        // Shards mostly come several at a time.
        self.shared.wait(SHARDS_SETTLE);
        let epochs = (fencing.epochs)();
        let again_at = Instant::now() + fencing.balance_timeout + TIMEOUT_SLACK;
        for (shard, epoch) in epochs.iter().enumerate() {
            if self.taken.epochs.get(shard) != Some(epoch) {
                self.taken.again_at[shard] = (*epoch != 0).then_some(again_at);
            }
        }
        self.taken.epochs = epochs;
        self.mark =
            read_mark(&self.marks, &self.options, &self.journal).map_err(|e| Trouble::Journal(e.to_string()))?;
        self.show(&self.mark);
        Ok(())
    }

    /// Whether the shards are still those that were taken.
    fn has_taken(&self) -> bool {
        self.fencing.as_ref().is_none_or(|fencing| (fencing.epochs)() == self.taken.epochs)
    }

    fn holds(&self) -> bool {
        self.fencing.as_ref().is_none_or(|fencing| (fencing.holds)())
    }

    /// Publishes over one link until told to end, until something is refused, or until a shard has another owner.
    fn serve(&mut self, link: &Link) -> std::result::Result<(), Trouble> {
        // The partitions are pinned before the first message.
        let mut pinned = self.mark.clone();
        (pinned.events.partitions, pinned.balances.partitions) = link.partitions();
        self.save_mark(pinned)?;
        let mut flow = Flow::new(&self.mark);
        let (mut flushed_at, mut saved_at) = (Instant::now(), Instant::now());
        let flush_interval = Duration::from_millis(self.options.balances_interval_ms);
        let served = loop {
            self.confirm(link, &mut flow);
            if let Some(refused) = link.refused() {
                break Err(Trouble::Refused(refused));
            }
            if !self.has_taken() {
                break Ok(());
            }
            if self.taken.due() && flow.send_balances_again(&self.mark.balances.published) {
                self.taken.again_at.fill(None);
            }
            let is_flush_due = flushed_at.elapsed() >= flush_interval || self.shared.until().is_some();
            let turn = flow.turn(link, &self.journal, &*self.programs, is_flush_due, &|| self.holds());
            let Turn { reached, is_full, has_begun_flush } = match turn {
                Ok(turn) => turn,
                Err(Stuck::Refused(detail)) => break Err(Trouble::Refused(detail)),
                Err(Stuck::Journal(error)) => break Err(Trouble::Journal(error.to_string())),
            };
            if has_begun_flush {
                flushed_at = Instant::now();
            }
            if saved_at.elapsed() >= SAVE_INTERVAL {
                saved_at = Instant::now();
                if let Err(trouble) = self.save(&flow) {
                    break Err(trouble);
                }
                self.report(Some(&flow));
            }
            if let Some(until) = self.shared.until() {
                let is_through = reached == Reached::End && flow.is_through();
                if is_through || Instant::now() >= until {
                    break Ok(());
                }
            }
            if reached == Reached::End || is_full {
                self.shared.wait(POLL);
            }
        };
        self.confirm(link, &mut flow);
        let saved = self.save(&flow);
        served.and(saved)
    }

    fn confirm(&self, link: &Link, flow: &mut Flow) {
        let (events, balances) = flow.confirm(link);
        self.metrics.events.increment(events as u64);
        self.metrics.balances.increment(balances as u64);
    }

    /// Saves how far the flow is, if it moved; then others may know it.
    fn save(&mut self, flow: &Flow) -> std::result::Result<(), Trouble> {
        // What is sent once more is not published before that.
        let mark = flow.mark(&self.mark, |shard| self.taken.again_at[shard].is_none());
        self.save_mark(mark)
    }

    fn save_mark(&mut self, mark: Mark) -> std::result::Result<(), Trouble> {
        if mark != self.mark {
            self.marks.save(&self.mark, &mark).map_err(|error| Trouble::Journal(error.to_string()))?;
            self.show(&mark);
            self.mark = mark;
        }
        Ok(())
    }

    fn show(&self, mark: &Mark) {
        for (shown, sequence) in self.shared.published.iter().zip(mark.published()) {
            shown.store(sequence, Ordering::Release);
        }
    }

    fn report(&self, flow: Option<&Flow>) {
        let last = self.journal.last_sequence();
        let lag: u64 = last.iter().zip(&self.mark.events.published).map(|(last, at)| last.saturating_sub(*at)).sum();
        let oldest = flow.and_then(Flow::oldest).or_else(|| self.oldest_unread(lag));
        let age_ms = oldest.map_or(0, |oldest| SystemTimes::start().wall_ms().saturating_sub(oldest));
        self.metrics.report(lag, flow.map_or(0, Flow::waiting), age_ms);
    }

    /// When the oldest record that is not even read was recorded.
    fn oldest_unread(&self, lag_records: u64) -> Option<Millis> {
        let (mut from, mut oldest) = (self.mark.events.published.clone(), None);
        if lag_records > 0 {
            let read = read_on(&self.journal, &mut from, 1, &mut |record, _| {
                oldest = Some(record.recorded_at);
                Ok(Next::Stop)
            });
            // Damage is told where the record is to be published.
            let _ = read;
        }
        oldest
    }
}
