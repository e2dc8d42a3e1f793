//! Accounts, their aliases, and programs.

use meed_engine::aliases::{Alias, PutOutcome, normalize};
use meed_schemas::command::{Command, Keys, Status};
use meed_schemas::http::problem::{Kind, Problem, problem_of};
use meed_schemas::http::{decode_lookup, decode_nothing, decode_version_query, views};
use meed_schemas::ids::{ID_FORM, Identity, check_id};
use meed_schemas::outcome::{Limit, Reply as Outcome};
use meed_schemas::program::Document;

use super::desk::{Desk, refused, status};
use super::unanswered;
use crate::reply::Reply;
use crate::route::Query;

impl Desk<'_> {
    /// `PUT /accounts/{account}`: 201 and the OPEN when new, 200 and the account when there.
    pub(super) async fn open_account(&self, account: &str) -> Result<Reply, Problem> {
        decode_nothing(&self.call.body)?;
        let (program, account_id) = self.account(account, "account").await?;
        let request = self.request(self.member(&account_id), Command::Open, Keys::default());
        match self.ask(request).await? {
            Outcome::Account(view) => {
                let mut body = Vec::with_capacity(256);
                views::write_account(&mut body, &self.member(&account_id), &view, &self.facts(&program));
                Ok(Reply::json(status(200), body))
            }
            opened => self.answer(&program, opened),
        }
    }

    /// `POST /accounts/lookup`.
    pub(super) async fn lookup(&self) -> Result<Reply, Problem> {
        let identifier = decode_lookup(&self.call.body)?;
        let (_, account_id) = self.account(&identifier, "user_identifier").await?;
        self.require_account(&account_id).await?;
        let mut body = Vec::with_capacity(64);
        views::write_lookup(&mut body, &account_id);
        Ok(Reply::json(status(200), body))
    }

    /// The status of an account; refuses one that does not exist.
    async fn require_account(&self, account_id: &str) -> Result<Status, Problem> {
        let request = self.request(self.member(account_id), Command::Account, Keys::default());
        match self.ask(request).await? {
            Outcome::Account(view) => Ok(view.status),
            Outcome::Refused(refusal) => Err(refused(&*self.program().await?, &refusal)),
            _ => Err(Problem::of(Kind::OutcomeUnknown)),
        }
    }

    /// `PUT /accounts/{account}/aliases/{alias}`: durable before the answer.
    pub(super) async fn put_alias(&self, account: &str, alias: &str) -> Result<Reply, Problem> {
        decode_nothing(&self.call.body)?;
        let alias = parse_alias(alias)?;
        let (_, account_id) = self.account(account, "account").await?;
        if self.require_account(&account_id).await? == Status::Closed {
            return Err(Problem::of(Kind::AccountClosed));
        }
        let put = self.backend.put_alias(&self.call.caller.program, &alias, &account_id, self.left()).await;
        let code = match put.map_err(unanswered)? {
            PutOutcome::New => 201,
            PutOutcome::Same => 200,
            PutOutcome::TakenBy(_) => return Err(Problem::of(Kind::AliasTaken)),
            PutOutcome::TooMany => return Err(Problem::limit(Limit::Aliases)),
        };
        let mut body = Vec::with_capacity(96);
        views::write_alias(&mut body, &account_id, alias.as_str());
        Ok(Reply::json(status(code), body))
    }

    /// `DELETE /accounts/{account}/aliases/{alias}`: 204, also when it is absent.
    pub(super) async fn delete_alias(&self, account: &str, alias: &str) -> Result<Reply, Problem> {
        let alias = parse_alias(alias)?;
        let (_, account_id) = self.account(account, "account").await?;
        self.backend
            .delete_alias(&self.call.caller.program, &alias, &account_id, self.left())
            .await
            .map_err(unanswered)?;
        Ok(Reply::json(status(204), ""))
    }

    /// `GET /accounts/{account}/aliases`.
    pub(super) async fn list_aliases(&self, account: &str) -> Result<Reply, Problem> {
        Query::parse(self.call.query, &[])?;
        let (_, account_id) = self.account(account, "account").await?;
        self.require_account(&account_id).await?;
        let aliases =
            self.backend.aliases(&self.call.caller.program, &account_id, self.left()).await.map_err(unanswered)?;
        let mut body = Vec::with_capacity(128);
        views::write_aliases(&mut body, &account_id, aliases.iter().map(String::as_str));
        Ok(Reply::json(status(200), body))
    }

    /// `PUT /programs/{program}`: 201 new, 200 with its version. Durable and seen by every shard before the
    /// answer.
    pub(super) async fn put_program(&self, name: &str) -> Result<Reply, Problem> {
        Self::check_program(name)?;
        let parsed = Document::parse(&self.call.body).map_err(|error| {
            let field = if error.field.is_empty() { "body".to_owned() } else { error.field };
            let detail = format!("`{field}` {}", error.detail);
            Problem::invalid(field, detail)
        })?;
        let document = parsed.to_canonical_json().into_boxed_str();
        let identity = Identity::program_account(name);
        let request = self.request(identity, Command::PutProgram { document }, Keys::default());
        let (version, effective_from, created) = match self.ask(request).await? {
            Outcome::Executed { record, .. } => {
                (record.program_version, Some(record.recorded_at), record.program_version == 1)
            }
            Outcome::Program { version, .. } => {
                let programs = self.backend.programs();
                let from = programs.get(name).and_then(|p| p.version(version).map(|v| v.effective_from));
                (version, from, false)
            }
            Outcome::Refused(meed_schemas::outcome::Refusal::InvalidRequest { field, detail }) => {
                let detail = format!("`{field}` {detail}");
                return Err(Problem::invalid(field, detail));
            }
            Outcome::Refused(refusal) => return Err(problem_of(&refusal, 0)),
            _ => return Err(Problem::of(Kind::OutcomeUnknown)),
        };
        let mut body = Vec::with_capacity(1_024);
        views::write_program(&mut body, name, version, effective_from, &parsed);
        Ok(Reply::json(status(if created { 201 } else { 200 }), body))
    }

    /// `GET /programs/{program}?version=`.
    pub(super) async fn get_program(&self, name: &str) -> Result<Reply, Problem> {
        let query = Query::parse(self.call.query, &["version"])?;
        Self::check_program(name)?;
        let wanted = decode_version_query(query.pairs())?;
        self.backend.refresh_programs().await.map_err(unanswered)?;
        let programs = self.backend.programs();
        let Some(program) = programs.get(name) else { return Err(Problem::of(Kind::UnknownProgram)) };
        let version = match wanted {
            Some(number) => program.version(number).ok_or_else(|| {
                Problem::new(Kind::NotFound, format!("The program has {} versions.", program.newest().number))
            })?,
            None => program.newest(),
        };
        let mut body = Vec::with_capacity(1_024);
        views::write_program(&mut body, name, version.number, Some(version.effective_from), &version.document);
        Ok(Reply::json(status(200), body))
    }

    fn check_program(name: &str) -> Result<(), Problem> {
        if !check_id(name) {
            return Err(Problem::invalid("program", format!("`program` must be {ID_FORM}")));
        }
        Ok(())
    }
}

fn parse_alias(text: &str) -> Result<Alias, Problem> {
    normalize(text).map_err(|error| Problem::invalid("alias", format!("`alias`: {error}")))
}
