//! A broker, and a keyspace on a Cassandra that `ops/cql-tests.sh` has started or on a ring of them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use super::{Broker, Node, SmallDisk, binary};

const LEASE_MS: &str = "2000";

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ops/cql-tests.sh"))
}

pub(crate) fn cassandra(command: &str) {
    let script = variable("MEED_TEST_CASSANDRA");
    assert!(Command::new(script).arg(command).status().unwrap().success(), "{command}");
}

/// A broker and a keyspace.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) broker: Broker,
    /// Where the journal is, and as whom.
    flags: Vec<String>,
}

impl Stage {
    pub(crate) fn new(keyspace: &str) -> Self {
        Self::with(tempfile::tempdir().unwrap(), flags(keyspace))
    }

    /// With a broker whose disk can be filled; none where nothing can be mounted, which this says for the test `what`.
    pub(crate) fn with_small_disk(keyspace: &str, what: &str) -> Option<(Self, SmallDisk)> {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(&folder.path().join("kafka/logs"), what)?;
        Some((Self::with(folder, flags(keyspace)), disk))
    }

    /// With a journal that these flags name.
    pub(crate) fn with(folder: tempfile::TempDir, flags: Vec<String>) -> Self {
        let broker = Broker::start(folder.path());
        Self { folder, broker, flags }
    }

    fn flags_of(&self, name: &str) -> Vec<String> {
        [&self.flags[..], &["--node", name].map(str::to_owned)].concat()
    }

    pub(crate) fn start(&self, name: &str) -> Node {
        let mut arguments = self.flags_of(name);
        let stream = ["--kafka", &self.broker.address(), "--kafka-balances-interval-ms", "300"];
        arguments.extend(stream.map(str::to_owned));
        Node::start(Path::new(self.folder.path()).join(name), arguments, [0, 0])
    }

    /// Runs `meed cluster` with these arguments.
    pub(crate) fn cluster(&self, arguments: &[&str]) {
        let ended =
            Command::new(binary()).arg("cluster").args(arguments).args(self.flags_of("operator")).status().unwrap();
        assert!(ended.success(), "meed cluster {arguments:?}: {ended}");
    }
}

/// Of a keyspace on the one Cassandra.
fn flags(keyspace: &str) -> Vec<String> {
    let flags = [
        "--journal",
        "cql",
        "--cql-nodes",
        &variable("MEED_TEST_CQL"),
        "--cql-user",
        "cassandra",
        "--cql-password-file",
        &variable("MEED_TEST_CQL_PASSWORD"),
        "--cql-keyspace",
        keyspace,
        "--cql-timeout-ms",
        "500",
        "--cql-bucket-bytes",
        "256KiB",
        "--lease-ms",
        LEASE_MS,
        "--shards",
        "4",
    ];
    flags.map(str::to_owned).to_vec()
}
