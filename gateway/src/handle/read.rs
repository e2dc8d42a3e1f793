//! Reads: balances, holds, accounts, history, outcomes.

use meed_engine::reader::PageQuery;
use meed_schemas::command::{Command, Keys};
use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::{
    Cursor, decode_list_query, decode_outcome_query, encode_cursor, idempotency_key, views, write_outcome, write_row,
    write_transaction,
};
use meed_schemas::outcome::{HistoryHead, Reply as Outcome};

use super::desk::{Desk, refused, status};
use super::unanswered;
use crate::reply::Reply;
use crate::route::Query;

impl Desk<'_> {
    /// One question to an account.
    pub(super) async fn read(&self, account: &str, command: Command) -> Result<Reply, Problem> {
        self.query(&[])?;
        let (program, account_id) = self.account(account, "account").await?;
        let identity = self.member(&account_id);
        let outcome = self.ask(self.request(identity.clone(), command, Keys::default())).await?;
        let facts = self.facts(&program);
        let mut body = Vec::with_capacity(512);
        match outcome {
            Outcome::Balance(view) => views::write_balance(&mut body, &identity, &view, &facts),
            Outcome::Holds(holds) => views::write_holds(&mut body, &holds),
            Outcome::Hold(hold) => views::write_hold(&mut body, &hold),
            Outcome::Account(view) => views::write_account(&mut body, &identity, &view, &facts),
            Outcome::Transaction { record, reversed } => write_transaction(&mut body, &record, reversed, &facts),
            Outcome::Refused(refusal) => return Err(refused(&program, &refusal)),
            _ => return Err(Problem::of(Kind::OutcomeUnknown)),
        }
        Ok(Reply::json(status(200), body))
    }

    /// A page of an account's transactions, newest first.
    pub(super) async fn history(&self, account: &str) -> Result<Reply, Problem> {
        let parameters = self.query(&["limit", "offset", "type", "cursor"])?;
        let list = decode_list_query(parameters.pairs())?;
        let (program, account_id) = self.account(account, "account").await?;
        let identity = self.member(&account_id);
        let seal = |bytes: &[u8]| self.secrets().cursor_tag(bytes);
        let query = list.of(&identity, seal)?;
        let request = self.request(identity.clone(), Command::HistoryHead, Keys::default());
        let head = match self.ask(request).await? {
            Outcome::HistoryHead(head) => head,
            Outcome::Refused(refusal) => return Err(refused(&program, &refusal)),
            _ => return Err(Problem::of(Kind::OutcomeUnknown)),
        };
        let (total, newest) = match query.kind {
            Some(kind) => of_kind(&head, kind),
            None => (head.sequence, head.newest),
        };
        let mut records = Vec::new();
        if let Some(from) = query.from.or(newest) {
            let page = PageQuery {
                identity: identity.clone(),
                from,
                kind: query.kind,
                offset: query.offset as u64,
                limit: query.limit + 1,
            };
            records = self.backend.page(page, self.left()).await.map_err(unanswered)?;
        }
        let next = records
            .get(query.limit)
            .map(|record| encode_cursor(Cursor { kind: query.kind, next: record.position }, &identity, seal));
        records.truncate(query.limit);
        let mut body = Vec::with_capacity(128 + records.len() * 512);
        let facts = self.facts(&program);
        views::write_transactions_start(&mut body);
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            write_row(&mut body, record, &facts);
        }
        views::write_transactions_end(&mut body, total, next.as_deref());
        Ok(Reply::json(status(200), body))
    }

    /// The outcome of an `Idempotency-Key`.
    pub(super) async fn outcome_of_key(&self, account: &str, key: &str) -> Result<Reply, Problem> {
        self.query(&[])?;
        let key = idempotency_key(key.as_bytes())?;
        let keys = Keys { idempotency: Some(self.hash_idempotency(key)), business: None };
        self.outcome(account, keys).await
    }

    /// The outcome of a business key.
    pub(super) async fn outcome_of_query(&self, account: &str) -> Result<Reply, Problem> {
        let names = ["op", "reference_id", "source", "store_id", "terminal_id", "transaction_id"];
        let parameters = self.query(&names)?;
        let key = decode_outcome_query(parameters.pairs())?;
        let keys = Keys { idempotency: None, business: Some(self.hash_business(&key)) };
        self.outcome(account, keys).await
    }

    async fn outcome(&self, account: &str, keys: Keys) -> Result<Reply, Problem> {
        let (program, account_id) = self.account(account, "account").await?;
        let request = self.request(self.member(&account_id), Command::Outcome, keys);
        match self.ask(request).await? {
            Outcome::Outcome(record) => {
                let mut body = Vec::with_capacity(640);
                write_outcome(&mut body, &record, &self.facts(&program));
                Ok(Reply::json(status(200), body))
            }
            // The first request with the key is still running when the deadline has passed.
            Outcome::Refused(meed_schemas::outcome::Refusal::OutcomeUnknown) => Err(Problem::of(Kind::KeyInProgress)),
            Outcome::Refused(refusal) => Err(refused(&program, &refusal)),
            _ => Err(Problem::of(Kind::OutcomeUnknown)),
        }
    }

    fn query(&self, known: &[&str]) -> Result<Query<'_>, Problem> {
        Ok(Query::parse(self.call.query, known)?)
    }
}

/// How many effects of a kind there are, and where the newest is.
fn of_kind(head: &HistoryHead, kind: meed_schemas::record::RecordKind) -> (u64, Option<meed_schemas::ids::Position>) {
    let found = head.by_kind.iter().find(|(other, ..)| *other == kind);
    found.map_or((0, None), |(_, count, at)| (*count, Some(*at)))
}
