//! Aliases: the phone numbers, addresses and cards by which a member is known at a till. Personal data, so they
//! lie in a store of their own, outside the journal, encrypted and erasable; nothing here is logged.
//!
//! One thread owns the store and serializes writes; a write is durable before its answer. Requests reach it
//! through a bounded queue. Writes that wait there together share their two syncs.

mod alias;
mod cache;
mod shared;
mod slots;
mod table;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::journal::cql::Cql;
pub use alias::{ALIAS_BYTES_MAX, Alias, NoAlias, normalize};
use cache::AliasCache;
use shared::SharedTable;
use table::{AliasHasher, AliasTable, Pending};

/// Most aliases of one account.
pub const ALIASES_PER_ACCOUNT_MAX: usize = 16;
/// Requests that share one commit at most.
const GROUP_REQUESTS_MAX: usize = 256;

/// Bounds of the alias store; their sum is part of the node's bound.
#[derive(Clone, Debug)]
pub struct AliasOptions {
    /// Bytes of the database's cache.
    pub cache_bytes: u64,
    /// Bytes of what was written and is not yet in tables.
    pub memtable_bytes: u64,
    /// Most resolved aliases kept for the workers, about 150 bytes each; 0 keeps none.
    pub cache_entries: usize,
    /// Most requests that wait for the owner; one more is [`Answer::Overloaded`].
    pub queue_requests: usize,
}

impl Default for AliasOptions {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, memtable_bytes: 8 << 20, cache_entries: 100_000, queue_requests: 4096 }
    }
}

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The account has the alias now.
    New,
    /// It had it already.
    Same,
    /// Another account of the program has it.
    TakenBy(String),
    /// The account has [`ALIASES_PER_ACCOUNT_MAX`].
    TooMany,
}

/// The answer to a request of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It was done, and if it wrote, it is durable.
    Done(T),
    /// The queue was full: nothing was done.
    Overloaded,
}

type Reply<T> = oneshot::Sender<Result<T>>;

enum Request {
    Put { program: String, alias: Alias, account: String, reply: Reply<PutOutcome> },
    Delete { program: String, alias: Alias, account: String, reply: Reply<bool> },
    List { program: String, account: String, reply: Reply<Vec<String>> },
    Resolve { program: String, alias: Alias, reply: Reply<Option<Arc<str>>> },
}

/// A handle to the alias store, for every worker. An `Err` from any of its methods means that the store has
/// stopped, and with it the node must.
#[derive(Clone)]
pub struct Aliases {
    requests: mpsc::Sender<Request>,
    cache: Arc<AliasCache>,
    hasher: AliasHasher,
    fault: Fault,
}

/// What stopped the owner. It is noted before anybody who waits for the owner can see that it has stopped: who sees
/// that first stops the node, and has to say why.
#[derive(Clone, Default)]
struct Fault(Arc<OnceLock<Error>>);

impl Fault {
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            // The first one counts.
            let _ = self.0.set(told(error));
        })
    }

    fn stopped(&self) -> Error {
        self.0
            .get()
            .map_or_else(|| Error::Stopped("the alias store has stopped: its node is stopping".to_owned()), told)
    }
}

/// A fault as everybody is told it who meets it. Damage stays damage: the process ends with the exit code of that.
fn told(error: &Error) -> Error {
    match error {
        Error::Damaged { file, offset, detail } => {
            Error::Damaged { file: file.clone(), offset: *offset, detail: detail.clone() }
        }
        Error::Stopped(why) => Error::Stopped(why.clone()),
        other => Error::Stopped(format!("the alias store has stopped: {other}")),
    }
}

/// The owner's thread.
pub struct AliasOwner(std::thread::JoinHandle<Result<()>>);

impl AliasOwner {
    /// Waits until all handles are dropped and what they asked is done.
    ///
    /// # Errors
    /// What stopped the owner before that.
    pub fn join(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| Err(Error::Stopped("the owner of the aliases panicked".to_owned())))
    }
}

impl Aliases {
    /// Opens the store in `dir` (its own folder), creating it if it is not there, and starts its owner.
    /// `secret` is [`crate::secrets::Secrets::alias`].
    ///
    /// # Errors
    /// As [`crate::store::Store::open`]; [`Error::Damaged`] also when keys or rows are missing.
    pub fn open(
        dir: &Path,
        journal_id: [u8; 16],
        secret: &[u8; 32],
        options: &AliasOptions,
    ) -> Result<(Self, AliasOwner)> {
        let table = Rows::Own(AliasTable::open(dir, journal_id, secret, options)?);
        Self::start(table, options)
    }

    /// Opens the tables that the nodes of a cluster share, and starts this node's owner.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open_shared(cql: &Arc<Cql>, secret: &[u8; 32], options: &AliasOptions) -> Result<(Self, AliasOwner)> {
        // Another node may change what this one remembers.
        let options = AliasOptions { cache_entries: 0, ..options.clone() };
        Self::start(Rows::Shared(SharedTable::open(cql, secret)?), &options)
    }

    fn start(table: Rows, options: &AliasOptions) -> Result<(Self, AliasOwner)> {
        let (requests, queue) = mpsc::channel(options.queue_requests.max(1));
        let cache = Arc::new(AliasCache::new(options.cache_entries));
        let fault = Fault::default();
        let handle = Self { requests, cache: Arc::clone(&cache), hasher: table.hasher().clone(), fault: fault.clone() };
        let thread = std::thread::Builder::new()
            .name("aliases".to_owned())
            .spawn(move || Owner { table, cache, fault }.run(queue))
            .map_err(|e| Error::io("start the thread of", "the aliases", e))?;
        Ok((handle, AliasOwner(thread)))
    }

    /// Gives an account an alias. Cancelling the future does not take the request back.
    pub async fn put(&self, program: &str, alias: &Alias, account: &str) -> Result<Answer<PutOutcome>> {
        let (program, alias, account) = (program.to_owned(), alias.clone(), account.to_owned());
        self.ask(|reply| Request::Put { program, alias, account, reply }).await
    }

    /// Takes an alias from an account and makes it unreadable; false when this account does not have it.
    /// Cancelling the future does not take the request back.
    pub async fn delete(&self, program: &str, account: &str, alias: &Alias) -> Result<Answer<bool>> {
        let (program, alias, account) = (program.to_owned(), alias.clone(), account.to_owned());
        self.ask(|reply| Request::Delete { program, alias, account, reply }).await
    }

    /// The aliases of an account, in order.
    pub async fn list(&self, program: &str, account: &str) -> Result<Answer<Vec<String>>> {
        let (program, account) = (program.to_owned(), account.to_owned());
        self.ask(|reply| Request::List { program, account, reply }).await
    }

    /// The account id that an alias names: from memory if it can be, else from the owner.
    pub async fn resolve(&self, program: &str, alias: &Alias) -> Result<Answer<Option<Arc<str>>>> {
        if let Some(account) = self.resolve_cached(program, alias) {
            return Ok(Answer::Done(Some(account)));
        }
        let (program, alias) = (program.to_owned(), alias.clone());
        self.ask(|reply| Request::Resolve { program, alias, reply }).await
    }

    /// The account id that an alias names, if it is at hand. `None` says nothing about the alias.
    fn resolve_cached(&self, program: &str, alias: &Alias) -> Option<Arc<str>> {
        self.cache.get(self.hasher.alias(program, alias.as_str()))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<Answer<T>> {
        let (reply, answer) = oneshot::channel();
        match self.requests.try_send(request(reply)) {
            Ok(()) => answer.await.map_err(|_| self.fault.stopped())?.map(Answer::Done),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(Answer::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.fault.stopped()),
        }
    }
}

/// A write that is decided; its answer leaves when the group is durable.
enum Decided {
    Put { hash: u128, account: Arc<str>, reply: Reply<PutOutcome> },
    Delete { hash: u128, reply: Reply<bool> },
}

/// The writes that will share a commit, and the hashes of what they touch.
#[derive(Default)]
struct Group {
    pending: Pending,
    decided: Vec<Decided>,
    touched: HashSet<u128>,
}

/// Where aliases are kept.
#[allow(clippy::large_enum_variant, reason = "made once and moved once")]
enum Rows {
    /// In this node's folder.
    Own(AliasTable),
    /// In the cluster; what is decided there is done at once, and nothing of it is pending.
    Shared(SharedTable),
}

impl Rows {
    fn hasher(&self) -> &AliasHasher {
        match self {
            Self::Own(table) => table.hasher(),
            Self::Shared(table) => table.hasher(),
        }
    }

    fn put(&mut self, pending: &mut Pending, program: &str, alias: &str, account: &str) -> Result<PutOutcome> {
        match self {
            Self::Own(table) => table.put(pending, program, alias, account),
            Self::Shared(table) => table.put(program, alias, account),
        }
    }

    fn delete(&mut self, pending: &mut Pending, program: &str, account: &str, alias: &str) -> Result<bool> {
        match self {
            Self::Own(table) => table.delete(pending, program, account, alias),
            Self::Shared(table) => table.delete(program, account, alias),
        }
    }

    fn list(&self, program: &str, account: &str) -> Result<Vec<String>> {
        match self {
            Self::Own(table) => table.list(program, account),
            Self::Shared(table) => table.list(program, account),
        }
    }

    fn resolve(&self, program: &str, alias: &str) -> Result<Option<String>> {
        match self {
            Self::Own(table) => table.resolve(program, alias),
            Self::Shared(table) => table.resolve(program, alias),
        }
    }

    fn commit(&mut self, pending: Pending) -> Result<()> {
        match self {
            Self::Own(table) => table.commit(pending),
            Self::Shared(_) => Ok(()),
        }
    }
}

struct Owner {
    table: Rows,
    cache: Arc<AliasCache>,
    fault: Fault,
}

impl Owner {
    /// Serves until every handle is gone, or a fault. After a fault the queue is dropped with all that waits in
    /// it, which its senders see as stopped.
    fn run(mut self, mut queue: mpsc::Receiver<Request>) -> Result<()> {
        let mut requests = Vec::with_capacity(GROUP_REQUESTS_MAX);
        while queue.blocking_recv_many(&mut requests, GROUP_REQUESTS_MAX) > 0 {
            let mut group = Group::default();
            for request in requests.drain(..) {
                self.serve(request, &mut group)?;
            }
            self.commit(&mut group)?;
        }
        Ok(())
    }

    fn serve(&mut self, request: Request, group: &mut Group) -> Result<()> {
        match request {
            Request::Put { program, alias, account, reply } => {
                let hash = self.touch(group, &program, &alias, &account)?;
                let outcome = self.table.put(&mut group.pending, &program, alias.as_str(), &account);
                let outcome = self.fault.note(outcome)?;
                if outcome == PutOutcome::New {
                    group.decided.push(Decided::Put { hash, account: account.into(), reply });
                } else {
                    // Whoever asked may be gone; nobody else waits for the answer.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Request::Delete { program, alias, account, reply } => {
                let hash = self.touch(group, &program, &alias, &account)?;
                let deleted = self.table.delete(&mut group.pending, &program, &account, alias.as_str());
                if self.fault.note(deleted)? {
                    group.decided.push(Decided::Delete { hash, reply });
                } else {
                    let _ = reply.send(Ok(false));
                }
            }
            Request::List { program, account, reply } => {
                let _ = reply.send(Ok(self.fault.note(self.table.list(&program, &account))?));
            }
            Request::Resolve { program, alias, reply } => {
                let account = self.fault.note(self.table.resolve(&program, alias.as_str()))?;
                let account: Option<Arc<str>> = account.map(Arc::from);
                if let Some(account) = &account {
                    self.cache.insert(self.table.hasher().alias(&program, alias.as_str()), account.clone());
                }
                let _ = reply.send(Ok(account));
            }
        }
        Ok(())
    }

    /// Notes what a write touches. The table decides on what is committed, so a write that touches what an
    /// earlier one of the group touches waits for that one's commit.
    fn touch(&mut self, group: &mut Group, program: &str, alias: &Alias, account: &str) -> Result<u128> {
        let hasher = self.table.hasher();
        let hashes = [hasher.alias(program, alias.as_str()), hasher.account(program, account)];
        if hashes.iter().any(|hash| group.touched.contains(hash)) {
            self.commit(group)?;
        }
        group.touched.extend(hashes);
        Ok(hashes[0])
    }

    fn commit(&mut self, group: &mut Group) -> Result<()> {
        let Group { pending, decided, .. } = std::mem::take(group);
        if !pending.is_empty() {
            self.fault.note(self.table.commit(pending))?;
        }
        for write in decided {
            match write {
                Decided::Put { hash, account, reply } => {
                    self.cache.insert(hash, account);
                    let _ = reply.send(Ok(PutOutcome::New));
                }
                Decided::Delete { hash, reply } => {
                    self.cache.remove(hash);
                    let _ = reply.send(Ok(true));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
