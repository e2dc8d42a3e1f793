//! The journal in ScyllaDB or Apache Cassandra: one row is one group commit of one shard, appended by a conditional
//! write that names the epoch of its owner.
//!
//! [`machine`] says what is asked next; the rest is the shell round it. This folder and `store/cql` are the only places
//! that know the driver.

use std::time::Duration;

mod claim;
mod appends;
mod appender;
mod trim;
mod reader;
mod history;
mod extents;
mod registry;
mod schema;
mod statements;
pub mod session;
pub mod chain;
pub mod machine;

pub use appender::ShardJournal;
pub use appends::Appends;
pub use claim::{ClaimedShard, claim, claim_one};
pub use extents::Extents;
pub use history::{Effect, History};
pub use reader::CqlReader;
pub use registry::{Changed, NodeRow, ProgramRow, Registry};
pub use schema::{KeyspaceIdentity, open_keyspace};
pub use session::Cql;
pub use statements::Statements;
pub use trim::{SpareBucket, Trimmer};

/// A batch takes no further decision beyond this, so that with its last decision it stays below a quarter of a
/// mebibyte; a single decision may be longer.
pub const BATCH_BYTES: usize = 192 << 10;
/// Appends under way at once, of all shards of a node, when nothing else is set: with more, each takes longer and
/// fewer records share one.
pub const APPENDS_DEFAULT: u32 = 8;
/// A bucket of a shard is sealed when it has reached this.
pub const BUCKET_BYTES_DEFAULT: u64 = 64 << 20;

/// How a node reaches its cluster.
#[derive(Clone)]
pub struct CqlConfig {
    /// Nodes to ask first, HOST:PORT.
    pub hosts: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// The datacenter whose replicas are asked, of which a quorum must answer.
    pub datacenter: Option<String>,
    /// Replicas in a keyspace that is created.
    pub replicas: u16,
    /// Appends under way at once, of all shards of the node.
    pub appends: usize,
    /// A statement without an answer within this has an unknown outcome.
    pub timeout: Duration,
    /// A node that does not renew its lease within this has lost its shards.
    pub lease: Duration,
    /// A bucket is sealed when it has reached this.
    pub bucket_bytes: u64,
    /// A batch takes no further decision beyond this; at most [`BATCH_BYTES`].
    pub batch_bytes: usize,
    /// What the node is called in the registry.
    pub node_name: String,
    /// Where other nodes reach it.
    pub address: String,
}

impl std::fmt::Debug for CqlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the password.
        f.debug_struct("CqlConfig")
            .field("hosts", &self.hosts)
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}
