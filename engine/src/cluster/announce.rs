//! Programs among nodes: a version is known to every node before its author hears that it is one.
//!
//! Its record is durable in the journal of its shard. It is then written to a table that all nodes read, and the map's
//! version is raised, which all nodes watch. A node that has adopted what the table has says so in its row with the
//! next renewal of its lease; the answer waits until the rows of all nodes say so. A node that cannot be told does not
//! decide beyond its lease, and its row is removed after that.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use meed_schemas::record::{Detail, Record};

use crate::error::Result;
use crate::journal::cql::{ProgramRow, Registry};
use crate::node::{Node, Then};

/// Time between two looks whether all nodes know.
const POLL: Duration = Duration::from_millis(10);

enum Job {
    /// A new version, or none: then whatever was announced before is waited for.
    Version(Option<Box<Record>>, Then),
    /// The table may have what not all nodes have looked at.
    Announce,
    Stop,
}

/// Takes what is to be announced; the requests that wait for it bound the queue by their permits.
#[derive(Clone)]
pub struct Announcer(Sender<Job>);

/// What is to be announced, in order.
pub struct AnnouncerQueue(Receiver<Job>);

impl Announcer {
    /// One, and its queue.
    pub fn new() -> (Self, AnnouncerQueue) {
        let (sender, receiver) = channel();
        (Self(sender), AnnouncerQueue(receiver))
    }

    /// Announces a version, or waits for those before; then calls.
    pub(super) fn ask(&self, record: Option<Box<Record>>, then: Then) {
        // When it has ended the node stops, and nobody hears anything.
        let _ = self.0.send(Job::Version(record, then));
    }

    /// A shard with programs comes here: whoever owned it may have ended between the journal and the table, or
    /// before all nodes had looked at it.
    ///
    /// # Errors
    /// The node stops.
    pub(super) fn complete(&self, node: &Node, registry: &Registry, rows: Vec<ProgramRow>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let known = registry.programs()?;
        let is_known =
            |row: &&ProgramRow| known.iter().any(|other| (&other.name, other.number) == (&row.name, row.number));
        for row in rows.iter().filter(|row| !is_known(row)) {
            registry.put_program(row)?;
        }
        adopt(node, rows)?;
        let _ = self.0.send(Job::Announce);
        Ok(())
    }

    pub(super) fn stop(&self) {
        let _ = self.0.send(Job::Stop);
    }
}

impl AnnouncerQueue {
    /// Works until it is stopped. `look` lets this node look at the map.
    ///
    /// # Errors
    /// The node stops; a document that does not compile, which its decision had excluded.
    pub(super) fn run(&self, node: &Arc<Node>, registry: &Registry, look: impl Fn()) -> Result<()> {
        let mut announced = -1;
        while let Ok(job) = self.0.recv() {
            let then = match job {
                Job::Stop => break,
                Job::Announce => None,
                Job::Version(None, then) => Some(then),
                Job::Version(Some(record), then) => {
                    let Detail::Program { document } = &record.detail else { continue };
                    let row = ProgramRow {
                        name: record.identity.program().to_owned(),
                        number: record.program_version,
                        effective_from: record.recorded_at,
                        document: document.to_string(),
                    };
                    registry.put_program(&row)?;
                    // Only now: what this node decides by it must find it wherever its shards go.
                    node.adopt_program_of(&record)?;
                    announced = registry.announce()?;
                    Some(then)
                }
            };
            let Some(then) = then else {
                announced = registry.announce()?;
                continue;
            };
            look();
            while !registry.nodes()?.iter().all(|row| row.seen >= announced) {
                registry.check_going()?;
                std::thread::sleep(POLL);
            }
            then();
        }
        Ok(())
    }
}

/// Takes versions that were announced.
///
/// # Errors
/// A version without the one before it; a document that does not compile.
pub(super) fn adopt(node: &Node, mut rows: Vec<ProgramRow>) -> Result<()> {
    rows.sort_by(|a, b| (&a.name, a.number).cmp(&(&b.name, b.number)));
    rows.iter().try_for_each(|row| node.adopt_program(&row.name, row.number, row.effective_from, &row.document))
}
