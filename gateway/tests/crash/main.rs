//! Faults of the running node, with real processes: kills, stops, disks, folders, clients.
#![allow(clippy::unwrap_used)]

mod clients;
mod cycles;
mod disks;
mod folders;
mod history;
mod limits;
mod linearizable;
mod linearizable_tests;
mod load;
mod month_end;
mod node;
mod power;
mod slow_disk;
mod stops;

use std::time::Duration;

use load::{Load, Random, check_all, under_load};
use node::{Node, SMALL, verified};

const CYCLES: u64 = 100;
const CLIENTS: usize = 8;

#[test]
fn a_hundred_kills_under_load_lose_nothing() {
    let given = std::env::var("MEED_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or(0x6d65_6564);
    println!("MEED_CRASH_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut random = Random(seed);
    let mut loads: Vec<Load> = (0..CLIENTS).map(|client| Load::new(client, seed, "shared")).collect();
    for cycle in 1..=CYCLES {
        let node = Node::start(&data, SMALL);
        check_all(&node, &mut loads, "shared");
        under_load(node, &mut loads, 20 + random.below(300) as usize, Node::kill);
        if cycle % 10 == 0 {
            verified(&data);
        }
        if cycle % 4 == 0 {
            Node::kill_while_starting(&data, SMALL, Duration::from_millis(random.below(120)));
        }
    }
    let node = Node::start(&data, SMALL);
    check_all(&node, &mut loads, "shared");
    loads.iter().for_each(|load| load.check_history(&node));
    node.stop();
    verified(&data);
}
