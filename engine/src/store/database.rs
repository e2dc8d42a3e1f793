//! A fjall database that belongs to one journal: opened, created whole or not at all, and named in its faults.

use std::fs::{self, File};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fjall::config::{CompressionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy};
use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::room::Room;
use super::torn::cut_off_torn_batches;
use crate::background::yield_to_commits;
use crate::error::{Error, Result};

/// One background thread flushes and compacts. With two or more, fjall's first one hands compactions to the
/// others through the queue that it reads itself, and so turns without pause while one runs: a whole core.
const BACKGROUND_THREADS: usize = 1;
/// Bytes of fjall's own journals, which bound what a start reads again; fjall allows no less than 64 MiB.
const FJALL_JOURNAL_BYTES: u64 = 128 << 20;
/// Longest wait for a flush before the store is given up as stuck.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(300);
/// Wait for a flush after which it is asked whether the background thread has failed.
const FAILURE_LOOK_AFTER: Duration = Duration::from_secs(1);
/// Pause between two looks at room that is waited for.
pub(crate) const ROOM_LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Bytes of batches after which fjall's journal is synced. Before each flush its thread syncs what is not, up to 64 MB,
/// and holds the lock without which no batch is committed.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;

const META: &str = "meta";
const FORMAT_ROW: &[u8] = b"s/format";
const PURPOSE_ROW: &[u8] = b"s/purpose";
const JOURNAL_ROW: &[u8] = b"s/journal";

/// How a database is opened.
pub(crate) struct DatabaseSettings {
    /// What lies in it: a folder of another purpose is refused.
    pub(crate) purpose: &'static str,
    /// Newest version of its rows that is known here, written at creation.
    pub(crate) format: u32,
    /// The journal that it belongs to.
    pub(crate) journal_id: [u8; 16],
    /// Bytes of the cache of blocks and filters.
    pub(crate) cache_bytes: u64,
    /// Most table files held open.
    pub(crate) open_files: usize,
}

/// See the module.
pub(crate) struct Database {
    pub(crate) inner: fjall::Database,
    pub(crate) meta: Keyspace,
    pub(crate) folder: PathBuf,
    unsynced_bytes: AtomicU64,
    room: Room,
}

impl Database {
    /// Opens the database in `folder`, and creates it if the folder does not exist: under another name, which
    /// is changed when all of it is durable, so that a folder found without its own marks is damage.
    pub(crate) fn open(folder: &Path, settings: &DatabaseSettings) -> Result<Self> {
        match fs::metadata(folder) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(folder, settings)?,
            Err(e) => return Err(Error::io("look at", folder, e)),
        }
        cut_off_torn_batches(folder)?;
        let database = open_files(folder, settings)?;
        database.check_marks(settings)?;
        Ok(database)
    }

    fn check_marks(&self, settings: &DatabaseSettings) -> Result<()> {
        let row = |name: &[u8]| self.meta.get(name).map_err(|e| self.fault("read", e));
        let (format, purpose, journal) = (row(FORMAT_ROW)?, row(PURPOSE_ROW)?, row(JOURNAL_ROW)?);
        let (Some(format), Some(purpose), Some(journal)) = (format, purpose, journal) else {
            return Err(self.damaged("its format and journal are not recorded"));
        };
        let format: [u8; 4] = format.as_ref().try_into().map_err(|_| self.damaged("its format cannot be read"))?;
        let found = u32::from_le_bytes(format);
        if found > settings.format {
            return Err(Error::NewerFormat { path: self.folder.clone(), found, known: settings.format });
        }
        if found < settings.format {
            let detail = format!(
                "its rows have format {found}, this program reads only {}; start it with the version that wrote it",
                settings.format
            );
            return Err(Error::Mismatch { path: self.folder.clone(), detail });
        }
        let mismatch = |detail: &str| Error::Mismatch { path: self.folder.clone(), detail: detail.to_owned() };
        if purpose.as_ref() != settings.purpose.as_bytes() {
            return Err(mismatch("it holds another kind of data; put each folder back where it was"));
        }
        if journal.as_ref() != settings.journal_id {
            return Err(mismatch("it was written with another journal; restore both from the same copy"));
        }
        Ok(())
    }

    pub(crate) fn damaged(&self, detail: &str) -> Error {
        Error::Damaged { file: self.folder.clone(), offset: 0, detail: detail.to_owned() }
    }

    pub(crate) fn fault(&self, action: &'static str, error: fjall::Error) -> Error {
        store_fault(action, &self.folder, error)
    }

    /// Keeps what is in memory below the bound: half of it for what is written to now, half for what is being
    /// flushed. Waits only when the first half is full before the other has reached the disk.
    ///
    /// # Errors
    /// As [`Database::has_room`].
    pub(crate) fn make_room(&self, keyspaces: &[&Keyspace], memtable_bytes: u64) -> Result<()> {
        while !self.has_room(keyspaces, memtable_bytes)? {
            thread::sleep(ROOM_LOOK_PAUSE);
        }
        Ok(())
    }

    /// Whether [`Database::make_room`] would not wait; if there is no room, making some begins.
    ///
    /// # Errors
    /// The background thread has failed, or is not done for so long that it counts as stuck.
    pub(crate) fn has_room(&self, keyspaces: &[&Keyspace], memtable_bytes: u64) -> Result<bool> {
        let fault = |error| self.fault("flush", error);
        let waits = match self.room.look(keyspaces, memtable_bytes).map_err(fault)? {
            None => return Ok(true),
            Some(waits) => waits,
        };
        if waits > FAILURE_LOOK_AFTER {
            // The only way to learn that the background thread has failed; it waits for that thread's syncs.
            self.inner.persist(PersistMode::Buffer).map_err(fault)?;
        }
        if waits > FLUSH_WAIT_MAX {
            let detail = format!("not done after {} s", FLUSH_WAIT_MAX.as_secs());
            return Err(Error::Store { action: "flush", detail });
        }
        Ok(false)
    }

    /// Commits a batch of about so many bytes, and now and then syncs what was committed.
    pub(crate) fn commit(&self, batch: OwnedWriteBatch, bytes: u64) -> std::result::Result<(), fjall::Error> {
        batch.commit()?;
        if self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < UNSYNCED_BYTES_MAX {
            return Ok(());
        }
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        self.inner.persist(PersistMode::SyncData)
    }

    /// The keyspace of this name, created if it is not there.
    pub(crate) fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.inner.keyspace(name, keyspace_options).map_err(|e| self.fault("open", e))
    }
}

fn create(folder: &Path, settings: &DatabaseSettings) -> Result<()> {
    let mut name = folder.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    match fs::remove_dir_all(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &temporary, e)),
        _ => {}
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    let database = open_files(&temporary, settings)?;
    let mut batch = database.inner.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&database.meta, FORMAT_ROW, settings.format.to_le_bytes());
    batch.insert(&database.meta, PURPOSE_ROW, settings.purpose);
    batch.insert(&database.meta, JOURNAL_ROW, settings.journal_id);
    batch.commit().map_err(|e| store_fault("create", &temporary, e))?;
    drop(database);
    fs::rename(&temporary, folder).map_err(|e| Error::io("create", folder, e))?;
    sync_folder(parent)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", folder, e))
}

fn open_files(folder: &Path, settings: &DatabaseSettings) -> Result<Database> {
    let builder = fjall::Database::builder(folder)
        .cache_size(settings.cache_bytes)
        .worker_threads(BACKGROUND_THREADS)
        .max_cached_files(Some(settings.open_files.max(10)))
        .max_journaling_size(FJALL_JOURNAL_BYTES);
    // fjall starts its thread from here. Writing a table takes it a processor for 100 ms and more.
    let open = move || {
        yield_to_commits();
        builder.open()
    };
    let opened = thread::scope(|scope| scope.spawn(open).join()).unwrap_or_else(|panic| resume_unwind(panic));
    let inner = opened.map_err(|e| store_fault("open", folder, e))?;
    let meta = inner.keyspace(META, keyspace_options).map_err(|e| store_fault("open", folder, e))?;
    Ok(Database { inner, meta, folder: folder.to_owned(), unsynced_bytes: AtomicU64::default(), room: Room::default() })
}

/// Values are small and mostly looked for in vain, so every level has its filters. Filters and indexes are cut into
/// blocks of their own at every level: a table's whole filter has megabytes, and one that is larger than a part of the
/// cache would be read from the disk for every row that is looked for. fjall would rotate a memtable by its own size;
/// the owner of a database bounds their sum instead, so that limit is out of reach.
fn keyspace_options() -> KeyspaceCreateOptions {
    let filter = |false_positives| {
        FilterPolicyEntry::Bloom(fjall::config::BloomConstructionPolicy::FalsePositiveRate(false_positives))
    };
    KeyspaceCreateOptions::default()
        .max_memtable_size(u64::MAX)
        .expect_point_read_hits(false)
        .filter_policy(FilterPolicy::new([filter(0.0001), filter(0.003)]))
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        .data_block_compression_policy(CompressionPolicy::disabled())
}

/// A fault of fjall as one of ours.
pub(super) fn store_fault(action: &'static str, folder: &Path, error: fjall::Error) -> Error {
    use fjall::{Error as Fjall, LsmError};
    let damaged = |detail: String| Error::Damaged { file: folder.to_owned(), offset: 0, detail };
    match error {
        Fjall::Locked => Error::Locked { path: folder.to_owned() },
        Fjall::Io(source) | Fjall::Storage(LsmError::Io(source)) => Error::io(action, folder, source),
        Fjall::Poisoned => Error::Store {
            action,
            detail: "a write in the background failed; see the message before this one".to_owned(),
        },
        Fjall::InvalidVersion(_) => Error::Mismatch {
            path: folder.to_owned(),
            detail: "its files have a format that the storage library does not read".to_owned(),
        },
        error @ (Fjall::Storage(_)
        | Fjall::JournalRecovery(_)
        | Fjall::InvalidTrailer
        | Fjall::InvalidTag(_)
        | Fjall::Decompress(_)
        | Fjall::Unrecoverable) => damaged(error.to_string()),
        error => Error::Store { action, detail: error.to_string() },
    }
}
