//! A disk in memory that breaks as real ones do, and repeats itself: the simulator's file system.
//!
//! A file has what is in the page cache and what is on the medium, both as sectors of 512 bytes; zeros at the end
//! cost nothing. A write goes to the cache; [`super::DiskFile::sync_data`] takes it to the medium. A name is on
//! the medium after the sync of its folder. When the process is killed the cache stays. When the power goes, any
//! subset of the unsynced sectors has reached the medium, some of them torn, and a prefix of the changes of names.
//! Folders are durable when they are made.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Disk;
use crate::random::Random;

mod damage;
mod inode;
#[cfg(test)]
mod tests;

pub use damage::{Damage, Rot};
use inode::Inode;

/// What a disk writes as one.
pub const SECTOR_BYTES: usize = 512;

/// What an armed disk does when its moment comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed in the middle of the change.
    Kill,
    /// The change fails with EIO, a part of it carried out.
    Eio,
    /// The file system is full from here on.
    Full,
}

type Name = Box<[u8]>;

/// A change of names that is not yet on the medium.
#[derive(Clone, Debug)]
enum NameChange {
    Set(Name, usize),
    Remove(Name),
}

/// What a disk holds.
#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<Name, usize>,
    durable_names: BTreeMap<Name, usize>,
    changed_names: Vec<NameChange>,
    folders: Vec<Name>,
    /// Which process it serves; files that an earlier one opened are closed.
    life: u32,
    locked: Vec<Name>,
    changes: u64,
    /// The change at which something happens, and what.
    armed: Option<(u64, Fault)>,
    sprung: Option<Fault>,
    is_dead: bool,
    is_full: bool,
    random: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// An open file of it.
#[derive(Clone, Debug)]
pub struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
    life: u32,
    path: Arc<Path>,
}

/// Holds a folder of it for a process.
#[derive(Debug)]
pub struct SimulatedLock {
    disk: SimulatedDisk,
    folder: Name,
    life: u32,
}

/// What a disk held, to go back to.
#[derive(Clone, Debug)]
pub struct Snapshot(State);

fn name(path: &Path) -> Name {
    path.as_os_str().as_bytes().into()
}

/// The folder in which a name is.
fn folder_of(name: &[u8]) -> &[u8] {
    name.iter().rposition(|b| *b == b'/').map_or(&[], |slash| &name[..slash])
}

impl State {
    fn alive(&self, life: u32) -> io::Result<()> {
        if self.is_dead || life != self.life {
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }

    /// Every change passes here; `Err` when it must not be carried out, or not wholly.
    fn change(&mut self, life: u32) -> io::Result<()> {
        self.alive(life)?;
        self.changes += 1;
        let Some((at, fault)) = self.armed.filter(|(at, _)| *at <= self.changes) else { return Ok(()) };
        debug_assert!(at <= self.changes);
        self.armed = None;
        self.sprung = Some(fault);
        match fault {
            Fault::Kill => {
                self.is_dead = true;
                Err(io::Error::other("the process was killed"))
            }
            Fault::Eio => Err(io::Error::from_raw_os_error(5)),
            Fault::Full => {
                self.is_full = true;
                Ok(())
            }
        }
    }

    fn random(&mut self) -> Random {
        self.random = self.random.wrapping_add(1);
        Random(crate::random::mix(self.random))
    }

    fn rename(&mut self, change: NameChange) {
        set_name(&mut self.names, change.clone());
        self.changed_names.push(change);
    }
}

fn set_name(names: &mut BTreeMap<Name, usize>, change: NameChange) {
    match change {
        NameChange::Set(name, inode) => {
            names.retain(|_, held| *held != inode);
            names.insert(name, inode);
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
    }
}

impl SimulatedDisk {
    /// An empty disk whose faults this seed decides.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: seed, ..State::default() })))
    }

    /// It, as a disk.
    pub fn disk(&self) -> Disk {
        Disk::Simulated(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault happens at the `after`-th change from now on, counted from 1.
    pub fn arm(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        state.armed = Some((state.changes + after.max(1), fault));
    }

    /// The fault that has happened in this life of the process, if one has.
    pub fn sprung(&self) -> Option<Fault> {
        self.state().sprung
    }

    /// Whether the armed kill has happened in this life of the process.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// Nothing more fails, and there is space.
    pub fn calm(&self) {
        let mut state = self.state();
        state.armed = None;
        state.is_full = false;
    }

    /// There is no space from now on.
    pub fn fill(&self) {
        self.state().is_full = true;
    }

    /// Whether there is no space.
    pub fn is_full(&self) -> bool {
        self.state().is_full
    }

    /// The process is gone, the page cache is not: another process may open the files.
    pub fn end_process(&self) {
        let mut state = self.state();
        state.life += 1;
        state.locked.clear();
        state.armed = None;
        state.sprung = None;
        state.is_dead = false;
    }

    /// The power goes, and with it the process: of what was not synced, as much as the seed says is there.
    pub fn cut_power(&self, seed: u64) {
        self.end_process();
        let mut state = self.state();
        let mut random = Random(seed);
        let changed = std::mem::take(&mut state.changed_names);
        let kept = if random.chance(50) { random.below(changed.len() + 1) } else { 0 };
        for change in changed.into_iter().take(kept) {
            set_name(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        let named: Vec<usize> = state.names.values().copied().collect();
        for (index, inode) in state.inodes.iter_mut().enumerate() {
            match named.contains(&index) {
                true => inode.lose_power(&mut random),
                false => *inode = Inode::default(),
            }
        }
    }

    /// What it holds.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().clone())
    }

    /// Goes back to what it held, for a new process.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        let life = state.life;
        *state = snapshot.0.clone();
        state.life = life;
        drop(state);
        self.end_process();
    }

    pub(super) fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.change(life)?;
        let name = name(path);
        if !state.folders.contains(&name) {
            state.folders.push(name);
        }
        Ok(())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.alive(state.life)?;
        let name = name(path);
        Ok(state.names.contains_key(&name) || state.folders.contains(&name))
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive(state.life)?;
        let folder = name(folder);
        let own = state.names.keys().filter(|name| *folder_of(name) == *folder);
        Ok(own.filter_map(|name| String::from_utf8(name[folder.len() + 1..].into()).ok()).collect())
    }

    pub(super) fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut state = self.state();
        let life = state.life;
        state.change(life)?;
        let name = name(path);
        let inode = match state.names.get(&name).copied() {
            Some(inode) => {
                state.inodes[inode].cut(0);
                inode
            }
            None => {
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.rename(NameChange::Set(name, inode));
                inode
            }
        };
        Ok(SimulatedFile { disk: self.clone(), inode, life, path: Arc::from(path) })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        let state = self.state();
        state.alive(state.life)?;
        let found = state.names.get(&name(path)).copied();
        let inode = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(SimulatedFile { disk: self.clone(), inode, life: state.life, path: Arc::from(path) })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.change(life)?;
        let found = state.names.get(&name(from)).copied();
        let inode = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.rename(NameChange::Set(name(to), inode));
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.change(life)?;
        let name = name(path);
        if !state.names.contains_key(&name) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        state.rename(NameChange::Remove(name));
        Ok(())
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.change(life)?;
        let folder = name(path);
        let (synced, rest) = std::mem::take(&mut state.changed_names).into_iter().partition(|change| match change {
            NameChange::Set(name, _) | NameChange::Remove(name) => *folder_of(name) == *folder,
        });
        state.changed_names = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            set_name(&mut state.durable_names, change);
        }
        Ok(())
    }

    pub(super) fn lock(&self, folder: &Path) -> io::Result<Option<SimulatedLock>> {
        let mut state = self.state();
        state.alive(state.life)?;
        let folder = name(folder);
        if state.locked.contains(&folder) {
            return Ok(None);
        }
        state.locked.push(folder.clone());
        Ok(Some(SimulatedLock { disk: self.clone(), folder, life: state.life }))
    }
}

impl SimulatedFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive(self.life)?;
        Ok(state.inodes[self.inode].length)
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.alive(self.life)?;
        Ok(state.inodes[self.inode].read(bytes, offset))
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let changed = state.change(self.life);
        if changed.is_ok() && state.is_full && offset + bytes.len() as u64 > state.inodes[self.inode].allocated {
            return Err(io::Error::from_raw_os_error(28));
        }
        let written = match &changed {
            Ok(()) => bytes.len(),
            // What was under way when the process died or the disk failed is there in part.
            Err(_) if state.sprung.is_some() && state.life == self.life => {
                let sectors = bytes.len().div_ceil(SECTOR_BYTES);
                (state.random().below(sectors + 1) * SECTOR_BYTES).min(bytes.len())
            }
            Err(_) => 0,
        };
        state.inodes[self.inode].write(&bytes[..written], offset);
        changed
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let changed = state.change(self.life);
        match &changed {
            Ok(()) => state.inodes[self.inode].sync(),
            // Pages that could not be written are clean afterwards: a second sync finds nothing to do.
            Err(_) if !state.is_dead && state.life == self.life => {
                let mut random = state.random();
                state.inodes[self.inode].fail_sync(&mut random);
            }
            Err(_) => {}
        }
        changed
    }

    pub(super) fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.life)?;
        if state.is_full && length > state.inodes[self.inode].allocated {
            return Err(io::Error::from_raw_os_error(28));
        }
        let inode = &mut state.inodes[self.inode];
        inode.allocated = inode.allocated.max(length);
        inode.length = inode.length.max(length);
        Ok(())
    }

    pub(super) fn cut(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change(self.life)?;
        state.inodes[self.inode].cut(length);
        Ok(())
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked.retain(|folder| *folder != self.folder);
        }
    }
}
