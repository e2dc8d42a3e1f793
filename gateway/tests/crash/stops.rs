//! Signals: what is told to stop stops, and what is killed while it starts starts again.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{Load, Random, check_all, under_load};
use crate::node::{Node, SMALL, verified};

#[test]
fn a_stop_under_load_loses_nothing_and_leaves_nothing_to_replay() {
    let folder = tempfile::tempdir().unwrap();
    let mut loads: Vec<Load> = (0..8).map(|client| Load::new(client, 1, "stops")).collect();
    for round in 0..4 {
        let node = Node::start(folder.path(), SMALL);
        if round > 0 {
            let log = node.logged();
            assert!(log.contains("clean=true") && log.contains("replayed_records=0"), "{log}");
        }
        check_all(&node, &mut loads, "stops");
        under_load(node, &mut loads, 500, |mut node| {
            let begin = Instant::now();
            node.signal(Signal::TERM);
            let (code, log) = node.ended();
            assert_eq!(code, Some(0), "{log}");
            assert!(begin.elapsed() < Duration::from_secs(30));
        });
        verified(folder.path());
    }
}

#[test]
fn a_second_signal_under_load_ends_at_once_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut loads: Vec<Load> = (0..8).map(|client| Load::new(client, 2, "twice")).collect();
    for _ in 0..4 {
        let node = Node::start(folder.path(), SMALL);
        check_all(&node, &mut loads, "twice");
        under_load(node, &mut loads, 300, |mut node| {
            node.signal(Signal::TERM);
            node.signal(Signal::TERM);
            let (code, log) = node.ended();
            // Two signals of one kind are one, if they come together.
            assert!(code == Some(1) || code == Some(0), "{code:?} {log}");
        });
    }
    let node = Node::start(folder.path(), SMALL);
    check_all(&node, &mut loads, "twice");
}

#[test]
fn a_folder_whose_first_start_was_killed_can_be_started() {
    let mut random = Random(7);
    for _ in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        for _ in 0..3 {
            Node::kill_while_starting(&data, SMALL, Duration::from_millis(random.below(100)));
        }
        let node = Node::start(&data, SMALL);
        node.client().earn("m-1", 5, "k");
        node.kill();
        let node = Node::start(&data, SMALL);
        assert_eq!(node.client().total("m-1"), 5);
    }
}
