//! How many conditional writes of one record each a CQL cluster takes: what the node's rate on CQL is compared with.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_benches::flags::{self, Flags};
use meed_engine::error::Error;
use meed_engine::journal::cql::{Appends, Cql, CqlConfig, ShardJournal, Statements, claim, open_keyspace};
use meed_engine::journal::frame;
use meed_engine::ownership::Ownership;
use meed_schemas::ids::Position;

const USAGE: &str = "\
cql_appends: appends to the journal in CQL, one record with each conditional write

  --nodes HOST:PORT       a node of the cluster (127.0.0.1:19042)
  --keyspace NAME         made if it is not there (appends)
  --writers COUNT         writers, each to a shard of its own, one write under way (256)
  --bytes COUNT           length of a record (110)
  --seconds COUNT         (5)
  --warmup-seconds COUNT  (2)
";

fn run(mut flags: Flags) -> Result<(), String> {
    let nodes: String = flags.value("nodes", "127.0.0.1:19042".to_owned())?;
    let keyspace: String = flags.value("keyspace", "appends".to_owned())?;
    let writers: u16 = flags.value("writers", 256)?;
    let bytes: usize = flags.value("bytes", 110)?;
    let seconds: u64 = flags.value("seconds", 5)?;
    let warmup_seconds: u64 = flags.value("warmup-seconds", 2)?;
    flags.finish()?;
    let config = CqlConfig {
        address: "127.0.0.1:1".to_owned(),
        hosts: vec![nodes],
        keyspace,
        credentials: None,
        datacenter: None,
        replicas: 1,
        appends: usize::from(writers),
        timeout: Duration::from_secs(10),
        lease: Duration::from_secs(10),
        bucket_bytes: 64 << 20,
        batch_bytes: 1 << 10,
        node_name: "cql_appends".to_owned(),
    };
    let appended = appends(&config, writers, bytes, Duration::from_secs(warmup_seconds), Duration::from_secs(seconds));
    let (count, took) = appended.map_err(|error| error.to_string())?;
    println!(
        "{} conditional writes a second, {writers} under way",
        u128::from(count) * 1_000 / took.as_millis().max(1)
    );
    Ok(())
}

fn appends(
    config: &CqlConfig,
    writers: u16,
    bytes: usize,
    warmup: Duration,
    time: Duration,
) -> Result<(u64, Duration), Error> {
    let cql = Cql::connect(config)?;
    open_keyspace(&cql, config, Some(writers))?;
    let statements = Arc::new(Statements::prepare(&cql)?);
    let ownership = Arc::new(Ownership::new(writers));
    let (claimed, extents) = claim(&cql, &statements, writers)?;
    // One append of a shard is under way at a time, and no other bound counts here.
    let appends = Arc::new(Appends::new(usize::from(writers)));
    let begin = Instant::now() + warmup;
    let end = begin + time;
    let mut tasks = Vec::new();
    for one in claimed {
        let (shard, last) = (one.shard, one.last_sequence);
        let (statements, extents) = (Arc::clone(&statements), Arc::clone(&extents));
        let appends = Arc::clone(&appends);
        let mut journal =
            ShardJournal::new(Arc::clone(&cql), statements, extents, Arc::clone(&ownership), one, config)?;
        tasks.push(cql.spawn(async move {
            let (mut count, mut sequence, mut frames) = (0, last, Vec::new());
            while Instant::now() < end {
                sequence += 1;
                frames.clear();
                let start = frame::begin(&mut frames, Position::new(shard, sequence));
                frames.resize(frames.len() + bytes, 7);
                frame::finish(&mut frames, start)
                    .map_err(|_| Error::Setting("a record of this length cannot be framed".to_owned()))?;
                journal.append(&appends, &frames, sequence, 1).await?;
                count += u64::from(Instant::now() >= begin);
            }
            Ok::<u64, Error>(count)
        }));
    }
    let count = cql.block_on(async {
        let mut count = 0;
        for task in tasks {
            count += task.await.unwrap_or_else(|_| Err(Error::Stopped("a writer panicked".to_owned())))?;
        }
        Ok::<u64, Error>(count)
    })?;
    let took = begin.elapsed();
    cql.close();
    Ok((count, took))
}

fn main() -> ExitCode {
    flags::main(USAGE, run)
}
