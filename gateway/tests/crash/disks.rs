//! Disks without room, and folders that may not be written.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::load::{Load, check_all, under_load};
use crate::node::{Node, SMALL, copy, verified};

/// A small file system in memory; only where mounting is allowed.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A folder seen through a mount that nobody may write through, not even root; only where mounting is allowed.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn mount(of: &Path, at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let run = |arguments: &[&str]| {
            let mut mount = Command::new("mount");
            mount.args(arguments).arg(&at).stderr(Stdio::null());
            mount.status().is_ok_and(|status| status.success())
        };
        let mounted = run(&["--bind", of.to_str().unwrap()]).then(|| Self(at.clone()))?;
        run(&["-o", "remount,ro,bind"]).then_some(mounted)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The node says that it may not, and where.
#[track_caller]
fn not_permitted(data: &Path, saying: &str) {
    let (code, message) = Node::refused(data, SMALL);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains(saying) && message.contains(data.to_str().unwrap()), "{message}");
}

#[test]
fn a_folder_without_permission_is_refused_by_its_path_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut loads: Vec<Load> = (0..4).map(|client| Load::new(client, 6, "permission")).collect();
    under_load(Node::start(&data, SMALL), &mut loads, 100, Node::kill);
    match ReadOnly::mount(folder.path(), folder.path().join("seen")) {
        Some(seen) => {
            not_permitted(&seen.0.join("data"), "Read-only file system");
            not_permitted(&seen.0.join("new"), "Read-only file system");
        }
        None => println!("not allowed to mount"),
    }
    // Root may write whatever its mode is.
    if !rustix::process::geteuid().is_root() {
        let mode = |mode| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o500);
        not_permitted(&data, "Permission denied");
        mode(0o700);
    }
    check_whole(&data, &mut loads, "permission");
}

fn fill(node: Node, loads: &mut [Load]) -> (Option<i32>, String) {
    let mut ended = None;
    under_load(node, loads, usize::MAX, |mut node| ended = Some(node.ended()));
    ended.unwrap()
}

#[test]
fn a_full_disk_stops_the_node_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(folder.path().join("small"), "24m") else {
        println!("not allowed to mount: the test of the file size limit stands for this one");
        return;
    };
    let mut loads: Vec<Load> = (0..8).map(|client| Load::new(client, 4, "full")).collect();
    let mut data = small.0.join("data");
    let node = Node::start(&data, SMALL);
    let (code, log) = fill(node, &mut loads);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("the node stops: nothing more can be acknowledged") && log.contains("No space"), "{log}");
    // Without room it does not start either, and says why.
    match Node::try_start(&data, SMALL) {
        Ok(node) => node.kill(),
        Err((status, message)) => {
            assert!(status.code() == Some(1) && message.contains("No space"), "{status} {message}");
        }
    }
    let roomy = folder.path().join("roomy");
    copy(&data, &roomy);
    data = roomy;
    check_whole(&data, &mut loads, "full");
}

#[test]
fn a_write_that_the_system_refuses_stops_the_node_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let flags = ["--segment-bytes", "8MiB", "--shards", "4", "--workers", "2"];
    Node::start(&data, &flags).stop();
    let mut loads: Vec<Load> = (0..8).map(|client| Load::new(client, 5, "limit")).collect();
    // Files may grow to 512 KiB: the journal's segment is there, and can be written so far.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh"];
    let (code, log) = match Node::try_start_under(&limited, &data, &flags) {
        Ok(node) => fill(node, &mut loads),
        Err((status, log)) => (status.code(), log),
    };
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("too large") || log.contains("os error 27"), "{log}");
    check_whole(&data, &mut loads, "limit");
}

fn check_whole(data: &Path, loads: &mut [Load], name: &str) {
    let node = Node::start(data, &["--segment-bytes", "1MiB"]);
    check_all(&node, loads, name);
    loads.iter().for_each(|load| load.check_history(&node));
    node.stop();
    verified(data);
}
