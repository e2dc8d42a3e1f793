//! Data folders that are not as the node left them.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use meed_engine::journal::{BATCH_HEADER_BYTES, BLOCK_BYTES, RUN_BYTES};

use crate::load::{Load, check_all, under_load};
use crate::node::{Node, SMALL, copy, restore, segments, verified, verify};

/// A folder with some history, whose node was killed, and the clients that know it.
fn used(folder: &Path, name: &str) -> Vec<Load> {
    let mut loads: Vec<Load> = (0..4).map(|client| Load::new(client, 3, name)).collect();
    run(folder, &mut loads, name, Node::kill);
    loads
}

fn run(folder: &Path, loads: &mut [Load], name: &str, end: fn(Node)) {
    let node = Node::start(folder, SMALL);
    check_all(&node, loads, name);
    under_load(node, loads, 400, end);
}

#[test]
fn one_process_has_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), SMALL);
    let (code, message) = Node::refused(folder.path(), SMALL);
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains("another process holds"), "{message}");
    assert_eq!(verify(folder.path()).0, Some(4));
    node.client().earn("m-1", 5, "k");
    node.stop();
    verified(folder.path());
}

#[test]
fn folders_of_two_nodes_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other, mixed) = (folder.path().join("one"), folder.path().join("other"), folder.path().join("mixed"));
    for (data, points) in [(&one, 1), (&other, 2)] {
        let node = Node::start(data, SMALL);
        node.client().earn("m-1", points, "k");
        node.stop();
    }
    for part in ["journal", "state", "aliases"] {
        let _ = fs::remove_dir_all(&mixed);
        copy(&one, &mixed);
        restore(&other.join(part), &mixed.join(part));
        let (code, message) = Node::refused(&mixed, SMALL);
        assert_eq!(code, Some(1), "{part}: {message}");
        assert!(message.contains("does not belong"), "{part}: {message}");
    }
    // Hashes of keys made with other secrets would be found by nobody, and every retry executed again.
    restore(&one, &mixed);
    fs::copy(other.join("secrets"), mixed.join("secrets")).unwrap();
    let (code, message) = Node::refused(&mixed, SMALL);
    assert_eq!(code, Some(1), "{message}");
    restore(&one, &mixed);
    fs::remove_file(mixed.join("secrets")).unwrap();
    let (code, message) = Node::refused(&mixed, SMALL);
    assert!(code == Some(1) && message.contains("restore that file"), "{message}");
    let (code, _, message) = verify(&mixed);
    assert!(code == Some(1) && message.contains("restore that file"), "{message}");
    let (code, message) = Node::refused(&one, &["--shards", "8"]);
    assert!(code == Some(1) && message.contains("has 4 shards and 8 were asked for"), "{message}");
}

#[test]
fn a_newer_format_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let good = folder.path().join("good");
    let node = Node::start(&data, SMALL);
    node.client().earn("m-1", 1, "k");
    node.stop();
    copy(&data, &good);
    let refused = || {
        let (code, message) = Node::refused(&data, SMALL);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains("start it with a newer meed"), "{message}");
        restore(&good, &data);
    };
    // A newer format may also have members that this one does not know.
    let text = fs::read_to_string(data.join("node.json")).unwrap();
    fs::write(data.join("node.json"), text.replace("\"format\": 1", "\"format\": 2, \"zone\": \"a\"")).unwrap();
    refused();
    let mark = data.join("journal").join("durable-end");
    let mut bytes = fs::read(&mark).unwrap();
    for slot in [0, 4096] {
        bytes[slot + 8..slot + 12].copy_from_slice(&9u32.to_le_bytes());
    }
    fs::write(&mark, bytes).unwrap();
    refused();
    let newest = segments(&data).into_iter().find(|path| fs::read(path).unwrap().starts_with(b"meed")).unwrap();
    flip(&newest, 8, 0x08);
    refused();
    Node::start(&data, SMALL).stop();
}

#[test]
fn aliases_damaged_under_a_node_end_it_with_the_code_of_damage() {
    const ALIASES: &str = "/api/v1/accounts/m-1/aliases";
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(folder.path(), SMALL);
    node.client().earn("m-1", 1, "k");
    let put = format!("PUT {ALIASES}/card:7 HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(node.client().ask(&put).unwrap().status, 201);
    // Within the key of the first alias.
    flip(&folder.path().join("aliases/alias-keys"), 40, 0xff);
    // The answer may be lost with the node.
    let _ = node.client().get(ALIASES);
    let (code, message) = node.ended();
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("a row of an alias cannot be read; restore this folder from a copy"), "{message}");
}

fn flip(file: &Path, offset: u64, bits: u8) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&[byte[0] ^ bits]).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for data in [file.clone(), file.join("below")] {
        let (code, message) = Node::refused(&data, SMALL);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains("error: cannot ") && message.contains("file"), "{message}");
    }
    let data = folder.path().join("data");
    Node::start(&data, SMALL).stop();
    fs::remove_dir_all(data.join("state")).unwrap();
    fs::write(data.join("state"), "x").unwrap();
    let (code, message) = Node::refused(&data, SMALL);
    assert!(code == Some(1) && message.contains("state"), "{code:?} {message}");
}

#[test]
fn a_flipped_bit_is_found_and_named_and_never_answered_from() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let node = Node::start(data, SMALL);
    let mut client = node.client();
    let first = client.post("/api/v1/points/the-victim/earn", Some("first"), r#"{"points":77}"#).unwrap();
    // So many that the first key is in no blob any more, and that their segment is closed by the restart.
    for n in 0..20 {
        client.earn("the-victim", 1, &format!("k{n}"));
    }
    node.stop();
    let node = Node::start(data, SMALL);
    node.client().earn("the-victim", 1, "last");
    node.stop();
    verified(data);
    let (file, offset) = find(data, b"the-victim");
    flip(&file, offset + 2, 0x10);
    let (code, _, message) = verify(data);
    assert_eq!(code, Some(1), "{message}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name) && message.contains(" at offset "), "{message}");
    // The node starts, because what it needs is elsewhere; from the damaged record it answers nothing.
    let mut node = Node::start(data, SMALL);
    let answer = node.client().post("/api/v1/points/the-victim/earn", Some("first"), r#"{"points":77}"#);
    assert!(answer.is_err() || answer.unwrap().status == 503);
    let (code, log) = node.ended();
    assert!(code == Some(3) && log.contains("damaged data"), "{code:?} {log}");
    flip(&file, offset + 2, 0x10);
    verified(data);
    let node = Node::start(data, SMALL);
    let again = node.client().post("/api/v1/points/the-victim/earn", Some("first"), r#"{"points":77}"#).unwrap();
    assert_eq!((again.status, again.body), (first.status, first.body));
}

/// The first place in the journal that has these bytes.
fn find(data: &Path, bytes: &[u8]) -> (std::path::PathBuf, u64) {
    for file in segments(data) {
        let text = fs::read(&file).unwrap();
        if let Some(at) = text.windows(bytes.len()).position(|part| part == bytes) {
            return (file, at as u64);
        }
    }
    panic!("it is nowhere");
}

#[test]
fn the_state_is_built_again_from_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut loads = used(&data, "state");
    fs::remove_dir_all(data.join("state")).unwrap();
    run(&data, &mut loads, "state", Node::kill);
    let older = folder.path().join("older");
    copy(&data.join("state"), &older);
    run(&data, &mut loads, "state", |node| drop(node.stop()));
    run(&data, &mut loads, "state", Node::kill);
    restore(&older, &data.join("state"));
    let node = Node::start(&data, SMALL);
    check_all(&node, &mut loads, "state");
    loads.iter().for_each(|load| load.check_history(&node));
    node.stop();
    verified(&data);
}

#[test]
fn a_state_ahead_of_its_journal_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let older = folder.path().join("older");
    let mut loads = used(&data, "ahead");
    copy(&data.join("journal"), &older);
    run(&data, &mut loads, "ahead", |node| drop(node.stop()));
    let newer = folder.path().join("newer");
    copy(&data.join("journal"), &newer);
    restore(&older, &data.join("journal"));
    let (code, _, message) = verify(&data);
    assert!(code == Some(1) && message.contains("ahead of the journal"), "{code:?} {message}");
    let (code, message) = Node::refused(&data, SMALL);
    assert!(code == Some(3) && message.contains("the journal ends at"), "{code:?} {message}");
    // The refused start has left the journal such that a better copy of the rest can be put beside it.
    restore(&newer, &data.join("journal"));
    let node = Node::start(&data, SMALL);
    check_all(&node, &mut loads, "ahead");
}

#[test]
fn a_write_that_was_torn_by_a_power_cut_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut loads = used(&data, "torn");
    for round in 0..6u8 {
        let (file, end) = journal_end(&data);
        let bytes = fs::read(&file).unwrap();
        let mut torn = bytes[end - 512..end].to_vec();
        match round % 3 {
            // An older block in the place of the next batch, half a block, and noise.
            0 => {}
            1 => torn.truncate(200),
            _ => torn.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(round)),
        }
        let mut file = fs::OpenOptions::new().write(true).open(&file).unwrap();
        file.seek(SeekFrom::Start(end as u64)).unwrap();
        file.write_all(&torn).unwrap();
        drop(file);
        let text = verified(&data);
        assert!(text.contains("a torn tail begins in"), "{text}");
        run(&data, &mut loads, "torn", Node::kill);
    }
    verified(&data);
}

/// The segment being written when the node was killed, and where its last batch ends. That may be behind a block of
/// zeros: records end with zeros.
fn journal_end(data: &Path) -> (std::path::PathBuf, usize) {
    let used = segments(data).into_iter().rev().find_map(|file| {
        let bytes = fs::read(&file).unwrap();
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        let is_batch = |at: usize| bytes[at..].starts_with(b"mBAT");
        let Some(mut end) = (0..bytes.len()).step_by(BLOCK_BYTES).find(|at| is_batch(*at)) else {
            return Some((file, (last + 1).next_multiple_of(BLOCK_BYTES)));
        };
        while is_batch(end) {
            // Of its header: the length of its frames, and the number of runs.
            let [body, runs] =
                [52, 60].map(|at| u32::from_le_bytes(bytes[end + at..][..4].try_into().unwrap()) as usize);
            end += (BATCH_HEADER_BYTES + RUN_BYTES * runs + body).next_multiple_of(BLOCK_BYTES);
        }
        Some((file, end))
    });
    used.unwrap()
}
