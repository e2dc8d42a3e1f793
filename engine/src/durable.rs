//! What a node keeps: its journal, its state store, its aliases and its secrets, all in its folder or all in a CQL
//! cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_schemas::time::Millis;
use tokio::task::JoinHandle;

use crate::aliases::{AliasOptions, AliasOwner, Aliases};
use crate::config::EngineConfig;
use crate::disk::{Disk, FolderLock};
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::cql::{self, Cql, CqlConfig, CqlReader, History, Registry, ShardJournal, Statements};
use crate::journal::{Floor, Journal, JournalOptions, Records, Recovered};
use crate::ownership::{Ownership, boot_ms};
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
    Cql {
        /// One for every shard, in order.
        journals: Vec<ShardJournal>,
        /// The cluster.
        cluster: Cluster,
    },
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
            OpenJournal::Cql { cluster, .. } => Some(Arc::clone(&cluster.ownership)),
        }
    }
}

/// A node's place in its cluster.
pub struct Cluster {
    /// The connection.
    pub cql: Arc<Cql>,
    /// Appends under way at once.
    pub appends: usize,
    registry: Arc<Registry>,
    ownership: Arc<Ownership>,
    lease: Duration,
    /// Renews the lease.
    keeping: JoinHandle<Result<()>>,
}

impl Cluster {
    /// Calls `on_lost` when another node has the lease, or it cannot be renewed for good.
    pub fn watch_lease(&mut self, on_lost: impl FnOnce(Error) + Send + 'static) {
        let watched = self.cql.spawn(std::future::ready(Ok(())));
        let keeping = std::mem::replace(&mut self.keeping, watched);
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
            balance_timeout: self.lease / 2,
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
            self.registry.release();
        }
        self.cql.close();
    }
}

/// Opens what the node keeps; in a cluster, waits until this node may.
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
    let (journal, reader, recovered) = Journal::open(disk, &config.data.join("journal"), options, Floor::default())?;
    let journal_took = began.elapsed();
    if recovered.journal_id != folder.journal_id {
        return Err(Error::Mismatch {
            path: config.data.join("journal"),
            detail: "it is the journal of another node; put the folders of one node together".into(),
        });
    }
    let secrets = match Secrets::load(&config.data, folder.journal_id)? {
        Some(secrets) => secrets,
        // A journal whose keys were hashed with secrets that are gone would execute every retry again.
        None if recovered.last_batch > 0 => {
            let detail = "it has a journal but no secrets; restore that file from a copy".into();
            return Err(Error::Mismatch { path: config.data.clone(), detail });
        }
        None => Secrets::create(&config.data, folder.journal_id)?,
    };
    let store_options = StoreOptions::default();
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
    let ownership = Arc::new(Ownership::new(keyspace.shards));
    let registry = Arc::new(Registry::open(&cql, settings, now)?);
    registry.wait_for_lease(&ownership)?;
    let keeping = cql.spawn(Arc::clone(&registry).keep(Arc::clone(&ownership)));
    let began = Instant::now();
    let statements = Arc::new(Statements::prepare(&cql)?);
    let (claimed, extents) = cql::claim(&cql, &statements, keyspace.shards)?;
    let recovered = Recovered {
        journal_id: keyspace.journal_id,
        incarnation: claimed.iter().map(|one| one.claimed.epoch.unsigned_abs()).max().unwrap_or(0),
        created: keyspace.created,
        clean: false,
        last_batch: 0,
        last_sequence: claimed.iter().map(|one| one.last_sequence).collect(),
        copied_batches: 0,
        cut: None,
    };
    let history = Arc::new(History::prepare(&cql)?);
    let reader =
        CqlReader::new(Arc::clone(&cql), Arc::clone(&statements), Arc::clone(&extents), history, keyspace.journal_id);
    let journals = claimed.into_iter().map(|one| {
        let (cql, statements) = (Arc::clone(&cql), Arc::clone(&statements));
        ShardJournal::new(cql, statements, Arc::clone(&extents), Arc::clone(&ownership), one, settings)
    });
    let journals = journals.collect::<Result<Vec<_>>>()?;
    let journal_took = began.elapsed();
    let store = Store::Cql(CqlStore::open(&cql, [IDEMPOTENCY_KEY_DAYS, BUSINESS_KEY_DAYS])?);
    let (aliases, alias_owner) = Aliases::open_shared(&cql, &keyspace.secrets.alias, &AliasOptions::default())?;
    let cluster = Cluster { appends: settings.appends, lease: settings.lease, registry, ownership, keeping, cql };
    Ok(Durable {
        shards: keyspace.shards,
        secrets: keyspace.secrets,
        recovered,
        journal: OpenJournal::Cql { journals, cluster },
        reader: Records::Cql(reader),
        store,
        aliases,
        alias_owner,
        journal_took,
        store_took: began.elapsed() - journal_took,
        lock: None,
    })
}
