//! How a request reaches its account: through the engine of this process, over a link to its owner, or in a cluster
//! whichever of the two is right. Three ways with one face; the rest of the front end does not know which it is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use meed_engine::aliases::{Alias, PutOutcome};
use meed_engine::program::{Program, Programs};
use meed_engine::reader::PageQuery;
use meed_engine::secrets::Secrets;
use meed_engine::worker::{Call, CallMany};
use meed_schemas::command::Request;
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;

use crate::cluster::{self, Cluster};
use crate::feed::{self, Chunk, NoStart, Start, Wanted};
use crate::forward::Unanswered;
use crate::link::{self, Link};
pub use crate::local::Local;

/// Windows under way where they go in order.
const WINDOWS_UNDER_WAY: usize = 4;

/// What a worker's requests need of the accounts.
#[derive(Clone)]
pub enum Backend {
    /// They are here.
    Local(Local),
    /// They are the owner's.
    Owner(Link),
    /// They are spread over nodes.
    Cluster(Cluster),
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(local) => write!(f, "Local({})", local.worker.index()),
            Self::Owner(link) => write!(f, "{link:?}"),
            Self::Cluster(cluster) => write!(f, "{cluster:?}"),
        }
    }
}

impl Backend {
    /// The programs as they are known here; [`Backend::refresh_programs`] asks for all.
    pub fn programs(&self) -> Arc<Programs> {
        match self {
            Self::Local(local) => local.worker.node().programs(),
            Self::Owner(link) => link.programs(),
            Self::Cluster(cluster) => cluster.known().programs(),
        }
    }

    /// Keys of hashes, cursors and codes.
    ///
    /// # Errors
    /// They are not known yet.
    pub fn secrets(&self) -> Result<&Secrets, Unanswered> {
        match self {
            Self::Local(local) => Ok(&local.worker.node().secrets),
            Self::Owner(link) => link.secrets(),
            Self::Cluster(cluster) => cluster.known().secrets(),
        }
    }

    /// Whether a request has a chance at all.
    ///
    /// # Errors
    /// Why it has none.
    pub fn has_room(&self) -> Result<(), Unanswered> {
        match self {
            Self::Local(local) => local.worker.node().permits.has_room().map_err(Unanswered::NoPermit),
            Self::Owner(link) => link.has_room(),
            Self::Cluster(cluster) => cluster.has_room(),
        }
    }

    /// A program, or that there is none; an error where only [`Backend::find_program`] can tell.
    pub fn known_program(&self, name: &str) -> Result<Option<Arc<Program>>, Unsure> {
        match self {
            Self::Local(local) => Ok(local.worker.program(name)),
            Self::Owner(link) => link.programs().get(name).cloned().map(Some).ok_or(Unsure),
            Self::Cluster(cluster) => cluster.known().programs().get(name).cloned().map(Some).ok_or(Unsure),
        }
    }

    /// A program.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn find_program(&self, name: &str) -> Result<Option<Arc<Program>>, Unanswered> {
        match self {
            Self::Local(local) => Ok(local.worker.program(name)),
            Self::Owner(link) => link.find_program(name).await,
            Self::Cluster(cluster) => cluster.find_program(name).await,
        }
    }

    /// Makes sure that [`Backend::programs`] has every version that there is now.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn refresh_programs(&self) -> Result<(), Unanswered> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Owner(link) => link.refresh_programs().await,
            Self::Cluster(cluster) => cluster.refresh_programs().await,
        }
    }

    /// Sends one request. `bytes` is what its permit counts; `wait` how long it may wait for one; `left` what is left
    /// of the time for the request.
    pub fn ask(&self, request: Request, bytes: u32, wait: Duration, left: Duration) -> Asked {
        match self {
            Self::Local(local) => {
                if let Ok(admitted) = local.worker.try_admit(std::slice::from_ref(&request), bytes) {
                    return Asked::Here(local.worker.call_within(request, &admitted, left));
                }
                let local = local.clone();
                Asked::Waits(Box::pin(async move { local.ask(request, bytes, wait, left).await }))
            }
            Self::Owner(link) => {
                if let Some(pending) = link.try_ask(&request, bytes, left) {
                    return Asked::There(pending);
                }
                let link = link.clone();
                Asked::Waits(Box::pin(async move { link.ask(&request, bytes, wait, left).await }))
            }
            Self::Cluster(cluster) => {
                let cluster = cluster.clone();
                Asked::Waits(Box::pin(async move { cluster.ask(request, bytes, wait, left).await }))
            }
        }
    }

    /// Windows of one caller that may be under way at once without their order being lost.
    pub fn windows_under_way(&self) -> usize {
        match self {
            Self::Local(_) | Self::Owner(_) => WINDOWS_UNDER_WAY,
            // Parts of one may have to be asked again, of another node.
            Self::Cluster(_) => 1,
        }
    }

    /// Sends requests that get their permits together; those of one account are executed in order, also over
    /// several windows, of which [`Backend::windows_under_way`] may be under way.
    ///
    /// # Errors
    /// There are no permits: nothing was executed.
    pub async fn send_window(
        &self,
        requests: Vec<Request>,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<Window, Unanswered> {
        match self {
            Self::Local(local) => Ok(Window::Local(local.send(requests, bytes, wait, left).await?)),
            Self::Owner(link) => Ok(Window::Owner(link.send_window(&requests, bytes, wait, left).await?)),
            Self::Cluster(cluster) => Ok(Window::Cluster(cluster.send_window(requests, bytes, wait, left).await)),
        }
    }

    /// The account id of an alias.
    ///
    /// # Errors
    /// It cannot be asked now.
    pub async fn resolve(&self, program: &str, alias: &Alias, left: Duration) -> Result<Option<String>, Unanswered> {
        match self {
            Self::Local(local) => local.resolve(program, alias, left).await,
            Self::Owner(link) => link.resolve(program, alias.as_str(), left).await,
            Self::Cluster(cluster) => cluster.resolve(program, alias, left).await,
        }
    }

    /// Gives an account an alias; durable when this returns.
    ///
    /// # Errors
    /// It cannot be asked now.
    pub async fn put_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<PutOutcome, Unanswered> {
        match self {
            Self::Local(local) => local.put_alias(program, alias, account, left).await,
            Self::Owner(link) => link.put_alias(program, alias.as_str(), account, left).await,
            Self::Cluster(cluster) => cluster.put_alias(program, alias, account, left).await,
        }
    }

    /// Takes an alias from an account; durable when this returns.
    ///
    /// # Errors
    /// It cannot be asked now.
    pub async fn delete_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<bool, Unanswered> {
        match self {
            Self::Local(local) => local.delete_alias(program, alias, account, left).await,
            Self::Owner(link) => link.delete_alias(program, alias.as_str(), account, left).await,
            Self::Cluster(cluster) => cluster.delete_alias(program, alias, account, left).await,
        }
    }

    /// The aliases of an account, in order.
    ///
    /// # Errors
    /// It cannot be asked now.
    pub async fn aliases(&self, program: &str, account: &str, left: Duration) -> Result<Vec<String>, Unanswered> {
        match self {
            Self::Local(local) => local.aliases_of(program, account, left).await,
            Self::Owner(link) => link.aliases(program, account, left).await,
            Self::Cluster(cluster) => cluster.aliases(program, account, left).await,
        }
    }

    /// Where a stream of events begins.
    pub(crate) async fn begin_events(&self, start: &Start) -> Result<Result<Vec<u64>, NoStart>, Unanswered> {
        match self {
            Self::Local(local) => Ok(feed::begin(local.worker.node(), start).await),
            Self::Owner(link) => link.begin_events(start).await,
            Self::Cluster(cluster) => cluster.begin_events(start).await,
        }
    }

    /// The next events behind `from`, after at most `patience` at the end.
    pub(crate) async fn next_events(
        &self,
        wanted: &Wanted,
        from: Vec<u64>,
        patience: Duration,
    ) -> Result<Chunk, Unanswered> {
        match self {
            Self::Local(local) => {
                feed::next(local.worker.node(), wanted, from, patience).await.ok_or(Unanswered::Overloaded)
            }
            Self::Owner(link) => link.next_events(wanted, &from, patience).await,
            Self::Cluster(cluster) => cluster.next_events(wanted, from, patience).await,
        }
    }

    /// A page of an account's history.
    ///
    /// # Errors
    /// It cannot be asked now.
    pub async fn page(&self, query: PageQuery, left: Duration) -> Result<Vec<Record>, Unanswered> {
        match self {
            Self::Local(local) => local.page(query, left).await,
            Self::Owner(link) => link.page(&query, left).await,
            Self::Cluster(cluster) => cluster.page(query, left).await,
        }
    }
}

/// Whether there is such a program has to be asked.
#[derive(Clone, Copy, Debug)]
pub struct Unsure;

/// An answer to come, or that there is none. Small, because so many of them wait at once.
pub enum Asked {
    /// Of this process.
    Here(Call),
    /// Of the owner.
    There(link::Pending),
    /// Of a node of a cluster, or once there is a permit.
    Waits(Pin<Box<dyn Future<Output = Result<Reply, Unanswered>>>>),
}

impl Future for Asked {
    type Output = Result<Reply, Unanswered>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Here(call) => Pin::new(call).poll(context).map(Ok),
            Self::There(pending) => Pin::new(pending).poll(context),
            Self::Waits(answer) => answer.as_mut().poll(context),
        }
    }
}

/// Answers to come, in the order of the requests.
pub enum Window {
    /// Of this process.
    Local(CallMany),
    /// Of the owner.
    Owner(link::Window),
    /// Of several nodes.
    Cluster(cluster::Window),
}

impl Window {
    /// Waits for all of them, or the deadline.
    pub async fn answers(self) -> Vec<Result<Reply, Unanswered>> {
        match self {
            Self::Local(calls) => calls.await.into_iter().map(Ok).collect(),
            Self::Owner(window) => window.answers().await,
            Self::Cluster(window) => window.answers().await,
        }
    }
}
