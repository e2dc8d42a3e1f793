//! The threads that follow the journal and that no answer waits for: publishing, the history, and removing what is old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::durable::Cluster;
use crate::error::Result;
use crate::journal::cql::Trimmer;
use crate::journal::{JournalUpkeep, Records};
use crate::keeper::Keeper;
use crate::metrics::{ProjectMetrics, PublishMetrics, UpkeepMetrics};
use crate::node::Node;
use crate::project::Projector;
use crate::publish::Publisher;
use crate::publish::mark::Marks;
use crate::retention::{NeededFrom, UpkeepParts, UpkeepThread};
use crate::store::cql::PublishedRows;
use crate::trim::{Trim, Trimming};

/// Time at a stop for what Kafka lacks. The rest is the next start's.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(3);

/// What follows the journal of a node.
pub struct Followers {
    publisher: Option<Publisher>,
    /// Of a journal in CQL.
    projector: Option<Projector>,
    removing: Option<Removing>,
}

/// What removes old records.
enum Removing {
    /// From a journal in a folder.
    Segments(UpkeepThread),
    /// From one in CQL.
    Buckets(Trimming),
}

impl Followers {
    /// Starts those that a node has: `cluster` where its journal is in one, `upkeep` where it is in a folder.
    ///
    /// # Errors
    /// Settings that cannot be used; the disk; the cluster; the system gives no thread.
    pub fn start(
        node: &Arc<Node>,
        journal: &Records,
        cluster: Option<&Cluster>,
        upkeep: Option<(JournalUpkeep, Keeper)>,
    ) -> Result<Self> {
        let publisher = start_publisher(node, journal, cluster)?;
        // Registered in any case: the metrics page has the same measures on every node.
        let (metrics, project_metrics) = (UpkeepMetrics::register(), ProjectMetrics::register());
        // Whoever reads the journal behind the checkpoints has its place here.
        let mut needed_from: Vec<NeededFrom> = publisher.iter().map(Publisher::needed_from).collect();
        let mut projector = None;
        let removing = match (journal, cluster, upkeep) {
            (Records::Cql(reader), Some(cluster), _) => {
                let programs = {
                    let node = Arc::clone(node);
                    Arc::new(move || node.programs())
                };
                let started = Projector::start(reader.clone(), programs, project_metrics)?;
                needed_from.push(started.needed_from());
                projector = Some(started);
                let trimmer = Trimmer::prepare(&cluster.cql, reader.clone())?;
                Some(Removing::Buckets(Trimming::start(trim_of(node, trimmer, needed_from, metrics))?))
            }
            (_, _, Some((journal, keeper))) => {
                Some(Removing::Segments(UpkeepThread::start(upkeep_of(node, journal, keeper, needed_from, metrics))?))
            }
            _ => None,
        };
        Ok(Self { publisher, projector, removing })
    }

    /// Ends what removes records.
    pub fn stop_removing(&mut self) {
        match self.removing.take() {
            Some(Removing::Segments(upkeep)) => upkeep.stop(),
            Some(Removing::Buckets(trimming)) => trimming.stop(),
            None => {}
        }
    }

    /// Ends the rest. What is durable by now is published first, if that is done before `until`.
    pub fn stop(self, until: Instant) {
        if let Some(publisher) = self.publisher {
            publisher.stop(until.saturating_duration_since(Instant::now()).min(PUBLISH_PATIENCE));
        }
        if let Some(projector) = self.projector {
            projector.stop();
        }
    }
}

fn trim_of(node: &Arc<Node>, trimmer: Trimmer, needed_from: Vec<NeededFrom>, metrics: UpkeepMetrics) -> Trim {
    let (config, trusting) = (node.config(), Arc::clone(node));
    Trim {
        trimmer,
        needed_from,
        is_clock_trusted: Box::new(move || trusting.settles_everything()),
        times: (node.times, config.clock_jump_ms),
        retention_ms: config.journal_retention_ms,
        interval: config.upkeep_interval,
        metrics,
    }
}

/// What the upkeep thread is made of.
fn upkeep_of(
    node: &Arc<Node>,
    journal: JournalUpkeep,
    keeper: Keeper,
    needed_from: Vec<NeededFrom>,
    metrics: UpkeepMetrics,
) -> UpkeepParts {
    let journal_id = journal.reader().journal_id();
    let config = node.config();
    let trusting = Arc::clone(node);
    UpkeepParts {
        data: config.data.clone(),
        journal,
        keeper,
        needed_from,
        is_clock_trusted: Box::new(move || trusting.settles_everything()),
        times: (node.times, config.clock_jump_ms),
        identity: (journal_id, node.shards()),
        retention_ms: config.journal_retention_ms,
        pack: config.pack_segments,
        interval: config.upkeep_interval,
        metrics,
    }
}

/// Publishes events, if there is somewhere to publish them to.
fn start_publisher(node: &Arc<Node>, journal: &Records, cluster: Option<&Cluster>) -> Result<Option<Publisher>> {
    // Registered in any case: the metrics page has the same measures on every node.
    let metrics = PublishMetrics::register();
    let Some(options) = node.config().kafka.clone() else { return Ok(None) };
    let programs = {
        let node = Arc::clone(node);
        Arc::new(move || node.programs())
    };
    let (marks, fencing) = match cluster {
        None => {
            let marks =
                Marks::in_folder(&Disk::default(), &node.config().data, journal.journal_id(), journal.shards())?;
            (marks, None)
        }
        Some(cluster) => (Marks::Cql(PublishedRows::open(&cluster.cql)?.into()), Some(cluster.fencing(journal))),
    };
    Publisher::start(options, marks, fencing, journal.clone(), programs, metrics).map(Some)
}
