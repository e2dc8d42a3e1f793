//! What the simulated disk keeps, loses and tears.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

fn content(disk: &SimulatedDisk, path: &str) -> Vec<u8> {
    let file = disk.disk().open(Path::new(path)).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A file of 32 sectors, all synced.
fn synced(disk: &SimulatedDisk) -> super::super::DiskFile {
    let file = disk.disk().create(Path::new("d/f")).unwrap();
    file.write_at(&[1; 32 * SECTOR_BYTES], 0).unwrap();
    file.sync_data().unwrap();
    disk.disk().sync_dir(Path::new("d")).unwrap();
    file
}

#[test]
fn a_kill_keeps_what_was_written_and_a_power_cut_what_was_synced() {
    let disk = SimulatedDisk::new(1);
    let file = synced(&disk);
    file.write_at(&[2; SECTOR_BYTES], 0).unwrap();
    disk.end_process();
    assert!(file.write_at(&[3], 0).is_err(), "a file of a process that is gone");
    assert_eq!(content(&disk, "d/f")[0], 2);
    disk.disk().create(Path::new("d/g")).unwrap();
    disk.cut_power(0);
    assert!(disk.disk().exists(Path::new("d/f")).unwrap());
}

/// Whatever the seed: a write that was not synced changes no sector but its own.
#[test]
fn a_torn_write_harms_no_other_sector() {
    for seed in 0..2_000 {
        let disk = SimulatedDisk::new(seed);
        let file = synced(&disk);
        file.write_at(&[2; 8 * SECTOR_BYTES], 8 * SECTOR_BYTES as u64).unwrap();
        disk.cut_power(seed);
        let bytes = content(&disk, "d/f");
        assert_eq!(bytes.len(), 32 * SECTOR_BYTES);
        for (sector, bytes) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let is_touched = (8..16).contains(&sector);
            assert!(bytes.iter().all(|byte| *byte == 1 || (is_touched && *byte == 2)), "seed {seed}, sector {sector}");
        }
    }
}
