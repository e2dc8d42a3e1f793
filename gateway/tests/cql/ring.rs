//! A ring of three Cassandra nodes, of which one goes.

use std::path::Path;
use std::process::Command;

use crate::Load;
use crate::node::Node;

/// Three servers, of which each row is on all three.
struct Ring {
    folder: tempfile::TempDir,
    script: String,
    port: String,
}

impl Ring {
    fn start() -> Self {
        let variable = |name| std::env::var(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port: u16 = variable("MEED_TEST_CQL").rsplit(':').next().unwrap().parse().unwrap();
        let ring = Self { folder, script: variable("MEED_TEST_CASSANDRA"), port: (port + 50).to_string() };
        // One after another: a node whose seed does not answer yet ends at once.
        (1..=3).for_each(|number| ring.run(number, "start"));
        ring
    }

    fn run(&self, number: i128, command: &str) {
        let token = -(1_i128 << 63) + (number - 1) * (1_i128 << 64) / 3 + 1;
        let ended = Command::new(&self.script)
            .arg(command)
            .env("MEED_CASSANDRA_DIR", self.folder.path().join(number.to_string()))
            .env("MEED_CASSANDRA_LIB", self.folder.path().join("lib"))
            .env("MEED_CASSANDRA_ADDRESS", format!("127.0.0.{number}"))
            .env("MEED_CASSANDRA_SEED", "127.0.0.1")
            .env("MEED_CASSANDRA_TOKEN", token.to_string())
            .env("MEED_CASSANDRA_PORT", &self.port)
            .env("MEED_CASSANDRA_HEAP", "512m")
            .env("MEED_CASSANDRA_LOGIN", "0")
            .status()
            .unwrap();
        assert!(ended.success(), "{command} of node {number}");
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        (1..=3).for_each(|number| self.run(number, "erase"));
    }
}

#[test]
fn one_of_three_servers_gone_and_back_stops_nothing() {
    let ring = Ring::start();
    let nodes: Vec<String> = (1..=3).map(|number| format!("127.0.0.{number}:{}", ring.port)).collect();
    let mut flags = vec!["--journal", "cql", "--cql-keyspace", "ring", "--cql-replicas", "3", "--shards", "4"];
    flags.extend(nodes.iter().flat_map(|node| ["--cql-nodes", node]));
    // Three servers share this machine's processors: they take their time.
    flags.extend(["--cql-timeout-ms", "5000", "--lease-ms", "20000", "--workers", "2"]);
    let node = Node::start(Path::new("unused"), &flags);
    let load = Load::new(&node);
    let node = load.run(|load| {
        for gone in [3, 2] {
            ring.run(gone, "kill");
            load.wait_for(100);
            ring.run(gone, "start");
            load.wait_for(100);
        }
        node
    });
    node.stop();
}
