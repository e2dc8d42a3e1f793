//! Many lives of one data folder under load, each of which ends in another way.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{Load, Random, check_all, under_load};
use crate::node::{Node, SMALL, verified};
use crate::power::{Layer, Left};

const CLIENTS: usize = 8;
/// How many lives, unless `MEED_CRASH_CYCLES` says otherwise.
const CYCLES: u64 = 100;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// kill -9; the page cache survives.
    Kill,
    /// Stopped for a while and continued, and killed when it has answered again.
    Pause,
    /// SIGTERM.
    Stop,
    /// kill -9 while it starts.
    KilledStart,
    /// Nothing survives that was not synced.
    Power(Left),
    /// The disk is full after some bytes.
    Full,
    /// A sync fails; what it should have made durable may go, or some of it, or nothing.
    FailedSync,
}

const ENDS: [End; 8] = [
    End::Kill,
    End::Pause,
    End::Stop,
    End::KilledStart,
    End::Power(Left::Nothing),
    End::Power(Left::Some),
    End::Full,
    End::FailedSync,
];

/// A number from the environment.
fn given(name: &str, otherwise: u64) -> u64 {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    println!("{name}={number}");
    number
}

struct Folder {
    data: std::path::PathBuf,
    log: std::path::PathBuf,
    loads: Vec<Load>,
    random: Random,
}

impl Folder {
    fn live(&mut self, end: End) {
        let answers = 20 + self.random.below(200) as usize;
        match end {
            End::Kill => self.under_load(answers, Node::kill),
            End::Pause => self.under_load(answers, pause_and_kill),
            End::Stop => self.under_load(answers, |node| drop(node.stop())),
            End::KilledStart => {
                let after = Duration::from_millis(self.random.below(120));
                Node::kill_while_starting(&self.data, SMALL, after);
            }
            End::Power(left) => {
                let layer = Layer::new(&self.log, &[]);
                let node = layer.try_start(&self.data, SMALL).unwrap_or_else(|(_, log)| panic!("{log}"));
                check_all(&node, &mut self.loads, "cycles");
                under_load(node, &mut self.loads, answers, Node::kill);
                layer.cut_power(&self.data, left, &mut self.random);
            }
            End::Full => {
                let bytes = self.random.below(600) * 1_024;
                self.until_it_stops(&[("MEED_LOSE_WRITES", bytes)], "No space");
            }
            End::FailedSync => {
                let syncs = self.random.below(300);
                self.until_it_stops(&[("MEED_LOSE_SYNCS", syncs)], "Input/output error");
            }
        }
        verified(&self.data);
    }

    fn under_load(&mut self, answers: usize, then: impl FnOnce(Node)) {
        let node = Node::start(&self.data, SMALL);
        check_all(&node, &mut self.loads, "cycles");
        under_load(node, &mut self.loads, answers, then);
    }

    /// Runs over a disk that fails some time. When the node has noticed the power goes, or does not: what was refused as
    /// not executed must not be there because its write has survived.
    fn until_it_stops(&mut self, settings: &[(&str, u64)], saying: &str) {
        // While it is sure to answer: what became of requests that were under way.
        let node = Node::start(&self.data, SMALL);
        check_all(&node, &mut self.loads, "cycles");
        node.stop();
        let layer = Layer::new(&self.log, settings);
        let mut ended = None;
        match layer.try_start(&self.data, SMALL) {
            Ok(node) => under_load(node, &mut self.loads, usize::MAX, |mut node| ended = Some(node.ended())),
            Err((status, log)) => ended = Some((status.code(), log)),
        }
        let (code, log) = ended.unwrap();
        assert!(code == Some(1) && log.contains(saying), "{settings:?}: {code:?} {log}");
        if let Some(left) = [Some(Left::Nothing), Some(Left::Some), None][self.random.below(3) as usize] {
            layer.cut_power(&self.data, left, &mut self.random);
        }
    }
}

fn pause_and_kill(node: Node) {
    node.signal(Signal::STOP);
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_millis(20) {
        std::thread::yield_now();
    }
    node.signal(Signal::CONT);
    node.client().earn("paused", 1, "again");
    node.kill();
}

#[test]
fn whatever_ends_a_life_under_load_nothing_is_lost() {
    let (seed, cycles) = (given("MEED_CRASH_SEED", 0x6d65_6564), given("MEED_CRASH_CYCLES", CYCLES));
    let folder = tempfile::tempdir().unwrap();
    let mut folder = Folder {
        data: folder.path().join("data"),
        log: folder.path().join("layer.log"),
        loads: (0..CLIENTS).map(|client| Load::new(client, seed, "cycles")).collect(),
        random: Random(seed),
    };
    let mut counts = [0; ENDS.len()];
    folder.live(End::Stop);
    for cycle in 1..=cycles {
        // Each way in turn, so that every one has its share, but in another order each time.
        let end = (cycle + folder.random.below(3)) as usize % ENDS.len();
        println!("cycle {cycle}: {:?}", ENDS[end]);
        folder.live(ENDS[end]);
        counts[end] += 1;
    }
    let node = Node::start(&folder.data, SMALL);
    check_all(&node, &mut folder.loads, "cycles");
    folder.loads.iter().for_each(|load| load.check_history(&node));
    node.stop();
    verified(&folder.data);
    println!("{:?}", ENDS.iter().zip(counts).collect::<Vec<_>>());
}

/// The layer does lose what is not synced: a node whose syncs do nothing is found out.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("layer.log"));
    let earn = |node: &Node, key: &str| {
        let mut client = node.client();
        (0..20).for_each(|n| drop(client.earn("m-1", 1, &format!("{key}-{n}"))));
    };
    let honest = Layer::new(&log, &[]);
    let node = honest.try_start(&data, SMALL).unwrap();
    earn(&node, "honest");
    node.kill();
    honest.cut_power(&data, Left::Nothing, &mut Random(1));
    let node = Node::start(&data, SMALL);
    assert_eq!(node.client().total("m-1"), 20);
    node.stop();

    let lying = Layer::new(&log, &[("MEED_LOSE_LIES", 1)]);
    let node = lying.try_start(&data, SMALL).unwrap();
    earn(&node, "lying");
    node.kill();
    assert!(lying.cut_power(&data, Left::Nothing, &mut Random(1)) > 0);
    assert!(totals_or_refuses(&data) != Some(40));
}

/// What the folder says of the account; nothing when the node does not start over it.
fn totals_or_refuses(data: &Path) -> Option<i64> {
    let node = Node::try_start(data, SMALL).ok()?;
    Some(node.client().total("m-1"))
}
