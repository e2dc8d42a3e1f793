//! A ring of three Cassandra nodes, which takes the place of the one that `ops/cql-tests.sh` has started.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::stage::variable;
use super::wait::eventually;

/// Time for three servers that run to find each other.
const SETTLED_MAX: Duration = Duration::from_secs(300);

/// Three servers, of which each row is on all three.
pub(crate) struct Ring {
    folder: PathBuf,
    lib: PathBuf,
    script: String,
    port: String,
}

impl Ring {
    pub(crate) fn start() -> Self {
        let folder = PathBuf::from(variable("MEED_CASSANDRA_DIR"));
        let port: u16 = variable("MEED_TEST_CQL").rsplit(':').next().unwrap().parse().unwrap();
        let (lib, folder) = (folder.join("lib"), folder.join("ring"));
        let ring = Self { folder, lib, script: variable("MEED_TEST_CASSANDRA"), port: (port + 50).to_string() };
        // The others join the first.
        ring.run(1, "start");
        std::thread::scope(|scope| {
            for number in [2, 3] {
                scope.spawn({
                    let ring = &ring;
                    move || ring.run(number, "start")
                });
            }
        });
        // A schema that is made while one takes another for down stays different for minutes.
        eventually(SETTLED_MAX, || "the servers do not see each other".to_owned(), || ring.is_settled());
        ring
    }

    /// Whether each server sees the others, and all have the same schema.
    fn is_settled(&self) -> bool {
        let storage_port: u16 = self.port.parse::<u16>().unwrap() + 1;
        let sees = |number: i128, other: i128| {
            let log = std::fs::read_to_string(self.folder.join(number.to_string()).join("system.log")).unwrap();
            log.contains(&format!("InetAddress /127.0.0.{other}:{storage_port} is now UP"))
        };
        let all_see = (1..=3).all(|number| (1..=3).all(|other| other == number || sees(number, other)));
        all_see && {
            let versions = (1..=3).map(|number| schema_version(&self.address(number)).unwrap());
            versions.collect::<std::collections::BTreeSet<_>>().len() == 1
        }
    }

    fn address(&self, number: i128) -> String {
        format!("127.0.0.{number}:{}", self.port)
    }

    /// Flags of a node of meed that keeps its journal there. Three servers share this machine's processors: they take
    /// their time.
    pub(crate) fn flags(&self) -> Vec<String> {
        let nodes = [1, 2, 3].map(|number| self.address(number)).join(",");
        let of_journal = ["--journal", "cql", "--cql-nodes", &nodes, "--cql-keyspace", "ring", "--cql-replicas", "3"];
        let of_time = ["--cql-timeout-ms", "5000", "--lease-ms", "20000", "--shards", "4"];
        [&of_journal[..], &of_time[..]].concat().into_iter().map(str::to_owned).collect()
    }

    /// Runs a command of `ops/cassandra.sh` on one of them.
    pub(crate) fn run(&self, number: i128, command: &str) {
        let token = -(1_i128 << 63) + (number - 1) * (1_i128 << 64) / 3 + 1;
        let ended = Command::new(&self.script)
            .arg(command)
            .env("MEED_CASSANDRA_DIR", self.folder.join(number.to_string()))
            .env("MEED_CASSANDRA_LIB", &self.lib)
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

/// The version of the schema that a server has: version 4 of the protocol, without a client of it.
fn schema_version(address: &str) -> std::io::Result<[u8; 16]> {
    let mut stream = TcpStream::connect(address)?;
    let mut ask = |opcode: u8, body: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut frame = vec![4, 0, 0, 0, opcode];
        frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend(body);
        stream.write_all(&frame)?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut answer = vec![0; u32::from_be_bytes(head[5..].try_into().unwrap()) as usize];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    // STARTUP with a map of one entry, then QUERY at consistency ONE.
    ask(1, b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0")?;
    let query = b"SELECT schema_version FROM system.local";
    let rows = ask(7, &[&[0, 0, 0, query.len() as u8], &query[..], &[0, 1, 0]].concat())?;
    Ok(rows[rows.len() - 16..].try_into().unwrap())
}

impl Drop for Ring {
    fn drop(&mut self) {
        (1..=3).for_each(|number| self.run(number, "erase"));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
