//! How long a shard is away while it changes its owner, as its clients and the nodes' logs see it, with the settings
//! that a node has by itself. `ops/cql-tests.sh figures` prints it, of a release.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meed_schemas::ids::Identity;
use meed_schemas::time::{self, Millis};

use super::Server;
use super::node::{Client, Node, PATIENCE};
use super::wait::pause;

const SHARDS: u16 = 16;
/// Shards that the second node gets from the first before anything is measured.
const MOVES_BEFORE: usize = 8;
/// Of a node that was killed, with the lease that nodes have by themselves.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// What the client of one shard saw.
#[derive(Default)]
struct Seen {
    /// Longest time from a request, tried again until it was acknowledged, to that; since the last look.
    worst: Duration,
    /// The last request that was acknowledged: when it was begun, and when it was answered.
    last: Option<(Instant, Instant)>,
    acknowledged: u64,
}

/// A client for each shard, which earns a point there after the other.
struct Probes {
    address: String,
    seen: Vec<Mutex<Seen>>,
    stop: AtomicBool,
    /// Answers other than 201 that say that the request may be sent again; by 503 and 504.
    retryable: [AtomicU64; 2],
}

impl Probes {
    fn new(node: &Node) -> Self {
        let seen = (0..SHARDS).map(|_| Mutex::default()).collect();
        let address = node.address.clone();
        Self { address, seen, stop: AtomicBool::new(false), retryable: Default::default() }
    }

    fn run(&self, shard: u16) {
        let account = (0..).map(|n| format!("p-{n}"));
        let account = account.into_iter().find(|id| Identity::member("default", id).shard(SHARDS) == shard).unwrap();
        let path = format!("/api/v1/points/{account}/earn");
        let mut client = Client::connect(&self.address).unwrap();
        for n in 0.. {
            let begun = Instant::now();
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let answer = client.post(&path, Some(&n.to_string()), r#"{"points":1}"#).unwrap();
                match answer.status {
                    201 => break,
                    503 => self.retryable[0].fetch_add(1, Ordering::Relaxed),
                    504 => self.retryable[1].fetch_add(1, Ordering::Relaxed),
                    _ => panic!("shard {shard}: {answer:?}"),
                };
                pause();
            }
            let mut seen = self.seen[usize::from(shard)].lock().unwrap();
            seen.worst = seen.worst.max(begun.elapsed());
            seen.last = Some((begun, Instant::now()));
            seen.acknowledged += 1;
        }
    }

    /// The shards' worst times since the last look, ascending, and what was answered with 503 and 504.
    fn look(&self) -> (Vec<Duration>, [u64; 2]) {
        let take = |seen: &Mutex<Seen>| std::mem::take(&mut seen.lock().unwrap().worst);
        let mut worst: Vec<Duration> = self.seen.iter().map(take).collect();
        worst.sort();
        (worst, [0, 1].map(|at: usize| self.retryable[at].swap(0, Ordering::Relaxed)))
    }

    fn tell(&self, what: &str) -> Duration {
        let (worst, [not_ready, unknown]) = self.look();
        let (middle, last) = (worst[worst.len() / 2], worst[worst.len() - 1]);
        println!(
            "{what}: the worst shard was away for {last:?}, the median {middle:?}; {not_ready} times 503, {unknown} times 504"
        );
        last
    }

    /// Waits until every shard has acknowledged a request that was begun after `since`; how long the last one took.
    fn wait_for_all(&self, since: Instant) -> Duration {
        let mut first: Vec<Option<Duration>> = vec![None; usize::from(SHARDS)];
        let begin = Instant::now();
        while first.contains(&None) {
            assert!(begin.elapsed() < PATIENCE, "{first:?}");
            for (seen, first) in self.seen.iter().zip(&mut first) {
                let last = seen.lock().unwrap().last.filter(|(begun, _)| *begun >= since);
                *first = first.or(last.map(|(_, answered)| answered - since));
            }
            pause();
        }
        first.into_iter().flatten().max().unwrap()
    }
}

/// Shards that were given away and have begun elsewhere since, by the nodes' logs: a look at the table of nodes would
/// take a processor from what is measured.
#[derive(Default)]
struct Moves {
    /// What nodes that have ended logged.
    ended: Vec<String>,
    told: usize,
    pauses: Vec<Duration>,
}

/// What a line of the log says under this name.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

impl Moves {
    /// Waits until so many shards have been given away and have begun at one of the nodes.
    fn wait_for(&mut self, count: usize, nodes: &[&Node]) {
        let begin = Instant::now();
        loop {
            let logs: Vec<_> = nodes.iter().map(|node| node.logged()).chain(self.ended.iter().cloned()).collect();
            let lines = || logs.iter().flat_map(|log| log.lines());
            let mut pauses: Vec<_> = lines().filter_map(|line| pause_after(line, lines())).collect();
            pauses.sort();
            if pauses.len() >= MOVES_BEFORE + count {
                self.pauses = pauses.into_iter().skip(MOVES_BEFORE).map(|(_, pause)| pause).collect();
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{count} shards should have moved: {logs:?}");
            pause();
        }
    }

    fn tell(&mut self) {
        let mut new = self.pauses.split_off(self.told);
        self.told += new.len();
        new.sort();
        println!("{} shards moved; they decided nothing for {new:?}", new.len());
    }
}

/// Of a line that says that a shard was given away: when, and how long it took from its pause until it had begun
/// elsewhere.
fn pause_after<'a>(line: &str, others: impl Iterator<Item = &'a str>) -> Option<(Millis, Duration)> {
    let at = |line: &str| time::parse(line.split_whitespace().next()?);
    line.contains("a shard was given away").then_some(())?;
    let (given_at, shard) = (at(line)?, field(line, "shard")?);
    let is_next = |other: &&str| other.contains("a shard has begun") && field(other, "shard") == Some(shard);
    let begun_at = others.filter(is_next).filter_map(at).filter(|begun_at| *begun_at >= given_at).min()?;
    let pause_ms = begun_at - given_at + field(line, "pause_ms")?.parse::<Millis>().ok()?;
    Some((given_at, Duration::from_millis(pause_ms.unsigned_abs())))
}

#[test]
fn how_long_shards_are_away() {
    let server = Server::new();
    let start = |name: &str| {
        let flags = [
            "--journal",
            "cql",
            "--cql-nodes",
            &server.address,
            "--cql-user",
            "cassandra",
            "--cql-password-file",
            &server.password,
            "--cql-keyspace",
            "figures",
            "--node",
            name,
        ];
        Node::start(Path::new("unused"), &flags)
    };
    let a = start("a");
    let b = start("b");
    server.wait_for_status("figures", &["a up 8 8", "b up 8 8", "16 of 16"]);
    let probes = Probes::new(&a);
    std::thread::scope(|scope| {
        for shard in 0..SHARDS {
            let probes = &probes;
            scope.spawn(move || probes.run(shard));
        }
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // The servers' Java machine compiles what it runs often.
            probes.wait_for_all(Instant::now() + Duration::from_secs(10));
            probes.look();
            probes.wait_for_all(Instant::now() + Duration::from_secs(3));
            probes.tell("nothing happens");
            let c = start("c");
            let mut moves = Moves::default();
            moves.wait_for(5, &[&a, &b, &c]);
            moves.tell();
            probes.tell("a third node joins");
            moves.ended.push(b.stop());
            moves.wait_for(5 + 5, &[&a, &c]);
            moves.tell();
            probes.tell("a node of three is stopped");
            let killed_at = Instant::now();
            c.kill();
            let took = probes.wait_for_all(killed_at);
            let (_, [not_ready, unknown]) = probes.look();
            println!(
                "a node of two is killed: every shard was served again {took:?} later; {not_ready} times 503, {unknown} times 504"
            );
            assert!(took <= TAKE_OVER_MAX, "{took:?}");
        }));
        probes.stop.store(true, Ordering::Relaxed);
        measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let acknowledged: u64 = probes.seen.iter().map(|seen| seen.lock().unwrap().acknowledged).sum();
    println!("{acknowledged} acknowledged");
    a.stop();
}
