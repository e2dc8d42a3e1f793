//! What a node keeps: its journal, its state store, its aliases and its secrets, all in its folder or all in a CQL
//! cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_schemas::time::Millis;
use tokio::task::JoinHandle;

use crate::aliases::{AliasOptions, AliasOwner, Aliases};
use crate::clock::boot_ms;
use crate::config::{EngineConfig, MemoryShares};
use crate::disk::{Disk, FolderLock};
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::cql::{self, Cql, CqlConfig, CqlReader, Extents, History, Registry, Statements};
use crate::journal::{Journal, JournalOptions, Records, Recovered};
use crate::ownership::Ownership;
use crate::program::{Programs, with_version};
use crate::publish::Fencing;
use crate::secrets::Secrets;
use crate::shard::{BUSINESS_KEY_DAYS, IDEMPOTENCY_KEY_DAYS};
use crate::store::cql::CqlStore;
use crate::store::{Store, StoreOptions};

/// A journal that is open for writing.
pub enum OpenJournal {
    /// In the folder.
    Embedded(Box<Journal>),
    /// In the cluster.
    Cql(Box<Cluster>),
}

/// All that is durable, open.
pub struct Durable {
    /// How many shards.
    pub shards: u16,
    /// Keys of hashes and ciphers.
    pub secrets: Secrets,
    /// What the journal found.
    pub recovered: Recovered,
    /// For writing.
    pub journal: OpenJournal,
    /// For reading.
    pub reader: Records,
    /// The state store.
    pub store: Store,
    /// The aliases.
    pub aliases: Aliases,
    /// Their thread.
    pub alias_owner: AliasOwner,
    /// How long opening the journal took.
    pub journal_took: Duration,
    /// How long opening the state store took.
    pub store_took: Duration,
    /// Held while the folder is in use.
    pub lock: Option<FolderLock>,
}

impl Durable {
    /// What the node may answer for, where several share the journal.
    pub fn ownership(&self) -> Option<Arc<Ownership>> {
        match &self.journal {
            OpenJournal::Embedded(_) => None,
            OpenJournal::Cql(cluster) => Some(Arc::clone(&cluster.ownership)),
        }
    }
}

/// A node's place in its cluster.
pub struct Cluster {
    /// The connection.
    pub cql: Arc<Cql>,
    /// How it is reached.
    pub config: CqlConfig,
    /// Its nodes, and who owns what.
    pub registry: Arc<Registry>,
    /// What this node may answer for.
    pub ownership: Arc<Ownership>,
    /// What asks the journal's tables.
    pub statements: Arc<Statements>,
    /// Where the records of this node's shards are.
    pub extents: Arc<Extents>,
    /// A second hand on the state, for recoveries.
    store: Option<Store>,
    /// Renews the lease, once the node has it.
    keeping: Option<JoinHandle<Result<()>>>,
}

impl Cluster {
    /// The state store for recoveries; once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_store(&mut self) -> Result<Store> {
        self.store.take().ok_or_else(|| Error::Internal("the store for recoveries was taken twice".into()))
    }

    /// Every program that was announced so far.
    ///
    /// # Errors
    /// The node stops; a document that cannot be read.
    pub fn programs(&self) -> Result<Programs> {
        let mut rows = self.registry.programs()?;
        rows.sort_by(|a, b| (&a.name, a.number).cmp(&(&b.name, b.number)));
        rows.iter().try_fold(Programs::default(), |programs, row| {
            with_version(&programs, &row.name, row.number, row.effective_from, &row.document)
        })
    }

    /// Waits until this node holds the lease of its name, and keeps it. The others give it shards from then on, so
    /// whatever takes time is done before.
    ///
    /// # Errors
    /// The node stops.
    pub fn join(&mut self) -> Result<()> {
        self.registry.register(&self.ownership)?;
        self.keeping = Some(self.cql.spawn(Arc::clone(&self.registry).keep(Arc::clone(&self.ownership))));
        Ok(())
    }

    /// Calls `on_lost` when another node has the lease, or it cannot be renewed for good.
    pub fn watch_lease(&mut self, on_lost: impl FnOnce(Error) + Send + 'static) {
        let Some(keeping) = self.keeping.take() else { return };
        self.cql.spawn(async move {
            let kept = keeping.await;
            if let Err(error) = kept.unwrap_or_else(|_| Err(Error::Stopped("the task of the lease panicked".into()))) {
                on_lost(error);
            }
        });
    }

    /// What publishing from this node's shards must keep to.
    pub fn fencing(&self, journal: &Records) -> Fencing {
        let (journal, ownership) = (journal.clone(), Arc::clone(&self.ownership));
        Fencing {
            epochs: Arc::new(move || journal.epochs().unwrap_or_default()),
            holds: Arc::new(move || ownership.holds(boot_ms())),
            balance_timeout: self.config.lease / 2,
        }
    }

    /// What has no answer by `until` is not asked again.
    pub fn stop_asking_at(&self, until: Instant) {
        let cql = Arc::clone(&self.cql);
        self.cql.spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            cql.stop_asking();
        });
    }

    /// Gives the lease back if all is in order, and ends the connection.
    pub fn close(self, in_order: bool) {
        self.cql.stop_asking();
        if in_order {
            self.registry.leave();
        }
        self.cql.close();
    }
}

/// Opens what the node keeps; a node of a cluster has no lease yet.
///
/// # Errors
/// Held by another process, damaged, of a newer format, not permitted.
pub fn open(config: &EngineConfig, now: Millis) -> Result<Durable> {
    match &config.cql {
        None => open_folder(config),
        Some(cluster) => open_cluster(config, cluster, now),
    }
}

fn open_folder(config: &EngineConfig) -> Result<Durable> {
    let began = Instant::now();
    let disk = Disk::default();
    disk.create_dir(&config.data)?;
    let lock = disk.lock(&config.data)?;
    let folder = FolderIdentity::open_or_create(&disk, &config.data, config.shards)?;
    let options = JournalOptions {
        segment_bytes: config.segment_bytes,
        new_journal_id: Some(folder.journal_id),
        ..JournalOptions::new(folder.shards)
    };
    let (journal, reader, recovered) = Journal::open(disk, &config.data.join("journal"), options)?;
    let journal_took = began.elapsed();
    if recovered.journal_id != folder.journal_id {
        return Err(Error::Mismatch {
            path: config.data.join("journal"),
            detail: "it is the journal of another node; put the folders of one node together".into(),
        });
    }
    let secrets = match Secrets::load_beside(&config.data, folder.journal_id, recovered.last_batch > 0)? {
        Some(secrets) => secrets,
        None => Secrets::create(&config.data, folder.journal_id)?,
    };
    let store_half = MemoryShares::of(config.memory_bytes).store_half;
    let store_options = StoreOptions { cache_bytes: store_half, memtable_bytes: store_half, ..StoreOptions::default() };
    let store = Store::open(&config.data.join("state"), folder.journal_id.to_le_bytes(), &store_options)?;
    let store_took = began.elapsed() - journal_took;
    let (aliases, alias_owner) = Aliases::open(
        &config.data.join("aliases"),
        folder.journal_id.to_le_bytes(),
        &secrets.alias,
        &AliasOptions::default(),
    )?;
    Ok(Durable {
        shards: folder.shards,
        secrets,
        recovered,
        journal: OpenJournal::Embedded(Box::new(journal)),
        reader: Records::Embedded(reader),
        store,
        aliases,
        alias_owner,
        journal_took,
        store_took,
        lock: Some(lock),
    })
}

fn open_cluster(config: &EngineConfig, settings: &CqlConfig, now: Millis) -> Result<Durable> {
    let cql = Cql::connect(settings)?;
    let keyspace = cql::open_keyspace(&cql, settings, config.shards)?;
    let registry = Arc::new(Registry::open(&cql, settings, now)?);
    let ownership = Arc::new(Ownership::of(registry.own().incarnation, keyspace.shards));
    let began = Instant::now();
    let statements = Arc::new(Statements::prepare(&cql)?);
    let extents = Arc::new(Extents::new(keyspace.shards));
    let recovered = Recovered {
        journal_id: keyspace.journal_id,
        incarnation: 0,
        created: keyspace.created,
        clean: false,
        last_batch: 0,
        // Shards come while the node runs.
        last_sequence: vec![0; usize::from(keyspace.shards)],
        copied_batches: 0,
        cut: None,
    };
    let history = Arc::new(History::prepare(&cql)?);
    let reader =
        CqlReader::new(Arc::clone(&cql), Arc::clone(&statements), Arc::clone(&extents), history, keyspace.journal_id);
    let journal_took = began.elapsed();
    let open_store = || CqlStore::open(&cql, [IDEMPOTENCY_KEY_DAYS, BUSINESS_KEY_DAYS]).map(Store::Cql);
    let (store, second) = (open_store()?, open_store()?);
    let (aliases, alias_owner) = Aliases::open_shared(&cql, &keyspace.secrets.alias, &AliasOptions::default())?;
    let config = settings.clone();
    let cluster = Cluster { config, registry, ownership, keeping: None, statements, extents, store: Some(second), cql };
    Ok(Durable {
        shards: keyspace.shards,
        secrets: keyspace.secrets,
        recovered,
        journal: OpenJournal::Cql(Box::new(cluster)),
        reader: Records::Cql(reader),
        store,
        aliases,
        alias_owner,
        journal_took,
        store_took: began.elapsed() - journal_took,
        lock: None,
    })
}
