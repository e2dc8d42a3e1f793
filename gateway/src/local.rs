//! The engine of this process, as one worker has it.

use std::time::Duration;

use meed_engine::aliases::{Alias, Aliases, Answer, PutOutcome};
use meed_engine::error::Error;
use meed_engine::reader::PageQuery;
use meed_engine::worker::{CallMany, Worker};
use meed_schemas::command::Request;
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;

use crate::forward::Unanswered;

/// The engine of this process, as one worker has it.
#[derive(Clone)]
pub struct Local {
    /// The worker whose thread this is.
    pub worker: Worker,
    /// The aliases.
    pub aliases: Aliases,
}

impl Local {
    /// Whether a shard is this node's.
    pub(crate) fn owns(&self, shard: u16) -> bool {
        self.worker.node().owns(shard)
    }

    /// Sends one request and waits for its answer, at most for `left`.
    pub(crate) async fn ask(
        &self,
        request: Request,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<Reply, Unanswered> {
        let admitted = self.worker.admit(std::slice::from_ref(&request), bytes, wait).await;
        Ok(self.worker.call_within(request, &admitted.map_err(Unanswered::NoPermit)?, left).await)
    }

    /// Sends requests that get their permits together; at most `left` is waited for their answers.
    pub(crate) async fn send(
        &self,
        requests: Vec<Request>,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<CallMany, Unanswered> {
        let admitted = self.worker.admit(&requests, bytes, wait).await.map_err(Unanswered::NoPermit)?;
        Ok(self.worker.call_many(requests, &admitted, left))
    }

    /// A page of an account's history. Of a shard that has not begun here, or went meanwhile, records would be missed.
    pub(crate) async fn page(&self, query: PageQuery, left: Duration) -> Result<Vec<Record>, Unanswered> {
        let node = self.worker.node();
        let shard = query.identity.shard(node.shards());
        let tenure = || node.reader().journal().tenure(shard).filter(|_| node.owns(shard));
        let Some(before) = tenure() else { return Err(Unanswered::NotOwner) };
        let page = self.within(left, node.reader().page(query)).await?.ok_or(Unanswered::Overloaded);
        if tenure() == Some(before) { page } else { Err(Unanswered::NotOwner) }
    }

    /// The account of an alias.
    pub(crate) async fn resolve(
        &self,
        program: &str,
        alias: &Alias,
        left: Duration,
    ) -> Result<Option<String>, Unanswered> {
        let found = self.of_aliases(left, Unanswered::NotReady, self.aliases.resolve(program, alias)).await?;
        Ok(found.map(|account| account.as_ref().to_owned()))
    }

    /// The aliases of an account.
    pub(crate) async fn aliases_of(
        &self,
        program: &str,
        account: &str,
        left: Duration,
    ) -> Result<Vec<String>, Unanswered> {
        self.of_aliases(left, Unanswered::NotReady, self.aliases.list(program, account)).await
    }

    /// Gives an account an alias.
    pub(crate) async fn put_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<PutOutcome, Unanswered> {
        self.of_aliases(left, Unanswered::Unknown, self.aliases.put(program, alias, account)).await
    }

    /// Takes an alias from an account. Where the store fails it may be done nevertheless: an alias is gone with its
    /// key, which is durable before the rest of the deletion.
    pub(crate) async fn delete_alias(
        &self,
        program: &str,
        alias: &Alias,
        account: &str,
        left: Duration,
    ) -> Result<bool, Unanswered> {
        self.of_aliases(left, Unanswered::Unknown, self.aliases.delete(program, account, alias)).await
    }

    /// An answer of the alias store, which is waited for as by [`Self::within`]. A store that has stopped takes the
    /// node with it, since nothing can be promised any more; then `failed` is the answer.
    async fn of_aliases<T>(
        &self,
        left: Duration,
        failed: Unanswered,
        answer: impl Future<Output = Result<Answer<T>, Error>>,
    ) -> Result<T, Unanswered> {
        match self.within(left, answer).await? {
            Ok(Answer::Done(done)) => Ok(done),
            Ok(Answer::Overloaded) => Err(Unanswered::Overloaded),
            Err(error) => {
                self.worker.node().fault(error);
                Err(failed)
            }
        }
    }

    /// Waits at most for `left` or the time that a request has. What is asked for may be done nevertheless.
    async fn within<T>(&self, left: Duration, answer: impl Future<Output = T>) -> Result<T, Unanswered> {
        let deadline_ms = self.worker.node().config().request_deadline_ms;
        let left = left.min(Duration::from_millis(deadline_ms.unsigned_abs()));
        tokio::time::timeout(left, answer).await.map_err(|_| Unanswered::Unknown)
    }
}
