//! A broker and a keyspace on a Cassandra that `ops/cql-tests.sh` has started.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use super::{Broker, Node, binary};

const LEASE_MS: &str = "2000";

fn variable(name: &str) -> String {
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
    keyspace: &'static str,
}

impl Stage {
    pub(crate) fn new(keyspace: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(folder.path());
        Self { folder, broker, keyspace }
    }

    /// Flags that say where the journal is, and as whom.
    fn flags(&self, name: &str) -> Vec<String> {
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
            self.keyspace,
            "--cql-timeout-ms",
            "500",
            "--cql-bucket-bytes",
            "256KiB",
            "--lease-ms",
            LEASE_MS,
            "--shards",
            "4",
            "--node",
            name,
        ];
        flags.map(str::to_owned).to_vec()
    }

    pub(crate) fn start(&self, name: &str) -> Node {
        let mut arguments = self.flags(name);
        let stream = ["--kafka", &self.broker.address(), "--kafka-balances-interval-ms", "300"];
        arguments.extend(stream.map(str::to_owned));
        Node::start(Path::new(self.folder.path()).join(name), arguments, [0, 0])
    }

    /// Runs `meed cluster` with these arguments.
    pub(crate) fn cluster(&self, arguments: &[&str]) {
        let ended =
            Command::new(binary()).arg("cluster").args(arguments).args(self.flags("operator")).status().unwrap();
        assert!(ended.success(), "meed cluster {arguments:?}: {ended}");
    }
}
