//! The connection to a CQL cluster: its thread, its statements, and what an answer or the lack of one means.
//!
//! The driver repeats nothing by itself, because a repeated conditional statement is refused by its own first try.
//! What may be repeated is repeated here: reads, and writes whose timestamp makes them the same write.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};
use scylla::value::{CqlValue, Row};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;

use super::CqlConfig;
use super::machine::Answer;
use crate::error::{Error, Result};

/// Pause before something is asked again, doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Of something that is asked again and again, every so many failures are logged.
const FAILURES_PER_LOG: u32 = 20;
/// Time for a change of the schema, which takes a large cluster seconds.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);
/// Rows in one page of a read.
const PAGE_ROWS: i32 = 1_000;
/// The same where a row may have a quarter of a mebibyte.
const PAGE_BATCHES: i32 = 8;

/// A connection. It has a thread of its own; blocking calls may be made from any thread without a runtime.
pub struct Cql {
    session: Session,
    /// Quoted.
    keyspace: String,
    handle: Handle,
    stopping: AtomicBool,
    end: Arc<Notify>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Cql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cql(..)")
    }
}

/// What an execution came to.
enum Outcome<T> {
    Done(T),
    /// The cluster refuses it, and would again.
    Refused(Error),
    /// No answer.
    Unknown(String),
}

/// How Cassandra begins to refuse a statement because the servers with the permissions did not answer it in time. It
/// has the code of a permission that is missing.
const PERMISSIONS_UNKNOWN: &str = "Unable to perform authorization";

fn outcome<T>(action: &'static str, result: std::result::Result<T, ExecutionError>) -> Outcome<T> {
    use DbError::{AlreadyExists, ConfigError, Invalid, SyntaxError, Unauthorized};
    match result {
        Ok(value) => Outcome::Done(value),
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(Unauthorized, detail)))
            if detail.starts_with(PERMISSIONS_UNKNOWN) =>
        {
            Outcome::Unknown(detail)
        }
        Err(
            error @ (ExecutionError::BadQuery(_)
            | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                AlreadyExists { .. } | ConfigError | Invalid | SyntaxError | Unauthorized,
                _,
            ))),
        ) => Outcome::Refused(Error::cql(action, error)),
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Pauses that grow.
pub(super) struct Pause {
    next: Duration,
    failures: u32,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { next: PAUSE_MIN, failures: 0 }
    }

    /// Waits, longer every time.
    pub(super) async fn wait(&mut self, action: &'static str, error: &str) {
        if self.failures.is_multiple_of(FAILURES_PER_LOG) {
            tracing::warn!(action, error, failures = self.failures + 1, "CQL did not answer; it is asked again");
        }
        self.failures += 1;
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSE_MAX);
    }
}

impl Cql {
    /// Connects, and starts the connection's thread.
    ///
    /// # Errors
    /// No node answers, or none lets this one in.
    pub fn connect(config: &CqlConfig) -> Result<Arc<Self>> {
        let failed = |error| Error::io("start the thread of", "the CQL connection", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let end = Arc::new(Notify::new());
        let thread = {
            let end = Arc::clone(&end);
            let body = move || runtime.block_on(end.notified());
            std::thread::Builder::new().name("cql".into()).spawn(body).map_err(failed)?
        };
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .serial_consistency(Some(SerialConsistency::LocalSerial))
            .request_timeout(Some(config.timeout))
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .speculative_execution_policy(None)
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&config.hosts)
            .connection_timeout(config.timeout)
            .keyspaces_to_fetch([config.keyspace.clone()])
            .default_execution_profile_handle(profile.into_handle());
        if let Some((user, password)) = &config.credentials {
            builder = builder.user(user, password);
        }
        if let Some(datacenter) = &config.datacenter {
            builder = builder.prefer_datacenter(datacenter.clone());
        }
        let built = {
            let (send, receive) = std::sync::mpsc::channel();
            handle.spawn(async move {
                // Whoever waits for it waits until it comes.
                let _ = send.send(builder.build().await);
            });
            receive.recv().map_err(|_| Error::Stopped("the thread of the CQL connection ended".into()))?
        };
        let session = match built {
            Ok(session) => session,
            Err(error) => {
                end.notify_one();
                let detail = format!("{error}; asked {}", config.hosts.join(", "));
                return Err(Error::Cql { action: "connect", detail });
            }
        };
        let stopping = AtomicBool::new(false);
        let keyspace = format!("\"{}\"", config.keyspace);
        Ok(Arc::new(Self { session, keyspace, handle, stopping, end, thread: Some(thread).into() }))
    }

    /// The datacenters of the nodes that are known.
    pub(super) fn datacenters(&self) -> BTreeSet<String> {
        self.session.get_cluster_state().get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect()
    }

    /// Runs a future on this thread while the connection's own thread carries its traffic.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }

    /// Starts a task on the connection's thread.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(future)
    }

    /// From now on nothing is asked again: what waits for an answer that does not come ends.
    pub fn stop_asking(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Ends the connection's thread.
    pub fn close(&self) {
        self.stop_asking();
        self.end.notify_one();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there has no more to tell than that it ended.
            let _ = thread.join();
        }
    }

    pub(super) fn check_going(&self) -> Result<()> {
        match self.stopping.load(Ordering::Acquire) {
            true => Err(Error::Stopped("CQL did not answer before the node had to stop".into())),
            false => Ok(()),
        }
    }

    /// Creates something if it is not there, and waits until all nodes agree on the schema.
    ///
    /// # Errors
    /// The cluster refuses it; the node stops.
    pub async fn create(&self, text: &str) -> Result<()> {
        let action = "create a table";
        let mut statement = Statement::new(self.qualified(text));
        statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
        self.again(action, || self.session.query_unpaged(statement.clone(), ())).await.map(|_| ())
    }

    /// Reads all rows of a statement that is not asked often. Its table, named without a keyspace, is one of this
    /// node's.
    ///
    /// # Errors
    /// The cluster refuses it; the node stops.
    pub async fn rows<R>(&self, text: &str) -> Result<Vec<R>>
    where
        R: for<'row> DeserializeRow<'row, 'row>,
    {
        let statement = self.prepare(text).await?;
        self.read("read rows", &statement, ()).await
    }

    /// Prepares a statement. Its table, named without a keyspace, is one of this node's.
    pub(crate) async fn prepare(&self, text: &str) -> Result<PreparedStatement> {
        let prepared = self.session.prepare(self.qualified(text)).await;
        let mut prepared = prepared.map_err(|error| Error::cql("prepare a statement", error))?;
        prepared.set_page_size(PAGE_ROWS);
        Ok(prepared)
    }

    /// The statement with its keyspace before the name of its table.
    fn qualified(&self, text: &str) -> String {
        for before in ["CREATE TABLE IF NOT EXISTS ", " FROM ", "INSERT INTO ", "UPDATE "] {
            if let Some((head, tail)) = text.split_once(before)
                && !tail.starts_with("system")
            {
                return format!("{head}{before}{}.{tail}", self.keyspace);
            }
        }
        text.to_owned()
    }

    /// Prepares a read that sees everything that was ever answered as applied, and resolves what is under way.
    pub(crate) async fn prepare_serial(&self, text: &str) -> Result<PreparedStatement> {
        let mut prepared = self.prepare(text).await?;
        prepared.set_consistency(Consistency::LocalSerial);
        Ok(prepared)
    }

    /// Asks once for a conditional write.
    ///
    /// # Errors
    /// The cluster refuses the statement itself; no answer is [`Answer::Unknown`].
    pub(crate) async fn conditional(
        &self,
        action: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(Answer, String)> {
        let result = match outcome(action, self.session.execute_unpaged(statement, values).await) {
            Outcome::Done(result) => result,
            Outcome::Refused(error) => return Err(error),
            Outcome::Unknown(error) => return Ok((Answer::Unknown, error)),
        };
        let columns = Columns::of(action, result)?;
        let answer = match columns.boolean("[applied]") {
            Some(true) => Answer::Applied,
            _ => Answer::Refused { epoch: columns.bigint("epoch"), bid: columns.u128("bid") },
        };
        Ok((answer, String::new()))
    }

    /// Asks for a conditional write until there is an answer: whether it was applied now, and the columns that the
    /// cluster gave with a refusal. Whoever calls it must know what a refusal by an own earlier try looks like.
    pub(crate) async fn conditional_resolved(
        &self,
        action: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
    ) -> Result<Columns> {
        let result = self.again(action, || self.session.execute_unpaged(statement, values.clone())).await?;
        Columns::of(action, result)
    }

    /// Writes; asked until it is answered, so it must be the same write every time.
    pub(crate) async fn write(
        &self,
        action: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
    ) -> Result<()> {
        self.again(action, || self.session.execute_unpaged(statement, values.clone())).await.map(|_| ())
    }

    /// As [`Cql::write`], of several rows of one partition that appear together.
    pub(crate) async fn write_batch(
        &self,
        action: &'static str,
        batch: &scylla::statement::batch::Batch,
        values: &[impl SerializeRow],
    ) -> Result<()> {
        self.again(action, || self.session.batch(batch, values)).await.map(|_| ())
    }

    /// Reads all rows.
    pub(crate) async fn read<R>(
        &self,
        action: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
    ) -> Result<Vec<R>>
    where
        R: for<'row> DeserializeRow<'row, 'row>,
    {
        let result = self.again(action, || self.session.execute_unpaged(statement, values.clone())).await?;
        let rows = rows_of(action, result)?;
        let rows = rows.rows::<R>().map_err(|error| Error::cql(action, error))?;
        rows.collect::<std::result::Result<_, _>>().map_err(|error| Error::cql(action, error))
    }

    /// Reads rows that may be long or many, page by page.
    pub(crate) async fn read_paged<R>(
        &self,
        action: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow + Clone,
        visit: &mut dyn FnMut(R) -> Result<()>,
    ) -> Result<()>
    where
        R: for<'row> DeserializeRow<'row, 'row>,
    {
        let mut state = scylla::response::PagingState::start();
        loop {
            let ask = || self.session.execute_single_page(statement, values.clone(), state.clone());
            let (result, paging) = self.again(action, ask).await?;
            let rows = rows_of(action, result)?;
            for row in rows.rows::<R>().map_err(|error| Error::cql(action, error))? {
                visit(row.map_err(|error| Error::cql(action, error))?)?;
            }
            match paging.into_paging_control_flow() {
                std::ops::ControlFlow::Continue(next) => state = next,
                std::ops::ControlFlow::Break(()) => return Ok(()),
            }
        }
    }

    /// Prepares a read of rows of the journal.
    pub(crate) async fn prepare_batches(&self, text: &str) -> Result<PreparedStatement> {
        let mut prepared = self.prepare(text).await?;
        prepared.set_page_size(PAGE_BATCHES);
        Ok(prepared)
    }

    async fn again<T, F>(&self, action: &'static str, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, ExecutionError>>,
    {
        let mut pause = Pause::new();
        loop {
            match outcome(action, ask().await) {
                Outcome::Done(value) => return Ok(value),
                Outcome::Refused(error) => return Err(error),
                Outcome::Unknown(error) => {
                    self.check_going()?;
                    pause.wait(action, &error).await;
                }
            }
        }
    }
}

fn rows_of(action: &'static str, result: QueryResult) -> Result<QueryRowsResult> {
    result.into_rows_result().map_err(|error| Error::cql(action, error))
}

/// The one row that answers a conditional write; which columns it has depends on the outcome.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<(String, Option<CqlValue>)>);

impl Columns {
    fn of(action: &'static str, result: QueryResult) -> Result<Self> {
        let rows = rows_of(action, result)?;
        let row = rows.maybe_first_row::<Row>().map_err(|error| Error::cql(action, error))?;
        let names = rows.column_specs().iter().map(|spec| spec.name().to_owned()).collect::<Vec<_>>();
        Ok(Self(row.map(|row| names.into_iter().zip(row.columns).collect()).unwrap_or_default()))
    }

    fn get(&self, name: &str) -> Option<&CqlValue> {
        self.0.iter().find(|(other, _)| other == name).and_then(|(_, value)| value.as_ref())
    }

    /// Whether the condition held.
    pub(crate) fn applied(&self) -> bool {
        self.boolean("[applied]") == Some(true)
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(CqlValue::as_boolean)
    }

    pub(crate) fn bigint(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(CqlValue::as_bigint)
    }

    pub(crate) fn blob(&self, name: &str) -> Option<&[u8]> {
        self.get(name).and_then(|value| value.as_blob()).map(Vec::as_slice)
    }

    fn u128(&self, name: &str) -> Option<u128> {
        self.blob(name).and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_that_cannot_be_read_now_are_no_refusal() {
        let answered = |detail: &str| {
            let error = RequestAttemptError::DbError(DbError::Unauthorized, detail.to_owned());
            outcome::<()>("write", Err(ExecutionError::LastAttemptError(error)))
        };
        let late = "Unable to perform authorization of permissions: Operation timed out - received only 0 responses.";
        assert!(matches!(answered(late), Outcome::Unknown(_)));
        let missing = "User meed has no MODIFY permission on <table meed.journal> or any of its parents";
        assert!(matches!(answered(missing), Outcome::Refused(_)));
    }
}
