//! What every business request needs: its program, its account, a way to the engine, and an answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderName;
use meed_engine::aliases::{Alias, normalize};
use meed_engine::program::Program;
use meed_engine::secrets::Secrets;
use meed_schemas::command::{Command, Keys, Request, RequestId};
use meed_schemas::http::problem::{self, Kind, Problem};
use meed_schemas::http::{BusinessKey, Facts, idempotency_key, status_of, write_answer};
use meed_schemas::ids::{ID_FORM, Identity, Position, check_account_id, is_alias};
use meed_schemas::money::Currency;
use meed_schemas::outcome::{Refusal, Reply as Outcome};
use meed_schemas::program::Document;
use meed_schemas::record::{Record, RecordKind};

use super::{Call, unanswered};
use crate::context::Context;
use crate::reach::{Asked, Backend};
use crate::reply::{Media, Reply};

/// Layers of keys, hashed with each: a business key can never be taken for an `Idempotency-Key`.
const LAYER_IDEMPOTENCY: u8 = 0;
const LAYER_BUSINESS: u8 = 1;
/// The header with the key of an operation.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Bytes that a permit counts for a command beside its body.
const COMMAND_BYTES: usize = 512;

/// One request at work.
pub(super) struct Desk<'a> {
    pub(super) context: &'a Context,
    pub(super) backend: &'a Backend,
    pub(super) call: &'a Call<'a>,
    secrets: &'a Secrets,
    /// When the request had come whole; `None` where its first step takes no time, and it has all of its own.
    since: Option<Instant>,
}

/// Rendering facts of one program.
pub(super) struct ProgramFacts<'a> {
    pub(super) program: Arc<Program>,
    pub(super) secrets: &'a Secrets,
}

impl Facts for ProgramFacts<'_> {
    fn document(&self, version: u32) -> &Document {
        // Every version that a record names is kept; the newest stands in only for damage.
        let version = self.program.version(version).unwrap_or_else(|| self.program.newest());
        &version.document
    }

    fn write_redemption_code(&self, redeem: Position, out: &mut Vec<u8>) {
        out.extend_from_slice(self.secrets.redemption_code(redeem).as_bytes());
    }
}

/// What a path or body names an account by, well-formed.
pub(super) enum Identifier<'t> {
    /// Its id.
    Account(Cow<'t, str>),
    /// An alias, to be looked up.
    Alias(Alias),
}

impl<'t> Identifier<'t> {
    /// Checks the form, before anything is looked up.
    ///
    /// # Errors
    /// A malformed one is 400 and names the field.
    pub(super) fn parse(text: Cow<'t, str>, field: &'static str) -> Result<Self, Problem> {
        if is_alias(&text) {
            let alias = normalize(&text).map_err(|error| Problem::invalid(field, format!("`{field}`: {error}")))?;
            return Ok(Self::Alias(alias));
        }
        if !check_account_id(&text) {
            return Err(Problem::invalid(field, format!("`{field}` must be {ID_FORM}")));
        }
        Ok(Self::Account(text))
    }
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        context: &'a Context,
        backend: &'a Backend,
        call: &'a Call<'a>,
        since: Option<Instant>,
    ) -> Result<Self, Problem> {
        Ok(Self { context, backend, call, secrets: backend.secrets().map_err(unanswered)?, since })
    }

    /// What is left of the time for the request.
    pub(super) fn left(&self) -> Duration {
        let whole = Duration::from_millis(self.context.shared.settings.request_deadline_ms);
        self.since.map_or(whole, |since| whole.saturating_sub(since.elapsed()))
    }

    pub(super) fn secrets(&self) -> &'a Secrets {
        self.secrets
    }

    /// The program of the request, if there is one.
    pub(super) async fn find_program(&self) -> Result<Option<Arc<Program>>, Problem> {
        self.backend.find_program(&self.call.caller.program).await.map_err(unanswered)
    }

    /// The program of the request.
    pub(super) async fn program(&self) -> Result<Arc<Program>, Problem> {
        self.find_program().await?.ok_or_else(|| Problem::of(Kind::UnknownProgram))
    }

    /// The currency by which amounts are read: the program's. Where there is no program a body is refused before it
    /// only for what is wrong in any.
    pub(super) fn currency_of(found: Option<&Arc<Program>>) -> Currency {
        found.map_or(Currency::ANY, |program| program.newest().currency())
    }

    pub(super) fn facts(&self, program: &Arc<Program>) -> ProgramFacts<'a> {
        facts(self.backend, self.secrets, program)
    }

    /// The `Idempotency-Key` of the request.
    pub(super) fn header_key(&self) -> Result<Option<&'a str>, Problem> {
        let mut values = self.call.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::invalid("Idempotency-Key", "`Idempotency-Key` is given twice"));
        }
        Ok(Some(idempotency_key(value.as_bytes())?))
    }

    /// The hash of an `Idempotency-Key`.
    pub(super) fn hash_idempotency(&self, key: &str) -> u128 {
        self.secrets.hash_key(LAYER_IDEMPOTENCY, key.as_bytes())
    }

    /// The hash of a business key.
    pub(super) fn hash_business(&self, key: &BusinessKey<'_>) -> u128 {
        let mut bytes = Vec::with_capacity(64);
        key.write_canonical(&mut bytes);
        self.secrets.hash_key(LAYER_BUSINESS, &bytes)
    }

    /// The program of the request, and the id of the account that an identifier names. Every route that names an
    /// account refuses in this order: a malformed identifier, an unknown program, an unknown alias.
    pub(super) async fn account<'t>(
        &self,
        identifier: &'t str,
        field: &'static str,
    ) -> Result<(Arc<Program>, Cow<'t, str>), Problem> {
        let identifier = Identifier::parse(identifier.into(), field)?;
        let program = self.program().await?;
        Ok((program, self.resolve(identifier).await?))
    }

    /// The account id that an identifier names.
    ///
    /// # Errors
    /// An alias that nobody has is 404.
    pub(super) async fn resolve<'t>(&self, identifier: Identifier<'t>) -> Result<Cow<'t, str>, Problem> {
        let alias = match identifier {
            Identifier::Account(account_id) => return Ok(account_id),
            Identifier::Alias(alias) => alias,
        };
        let program = &*self.call.caller.program;
        match self.backend.resolve(program, &alias, self.left()).await.map_err(unanswered)? {
            Some(account) => Ok(Cow::Owned(account)),
            None => Err(Problem::of(Kind::UnknownAccount)),
        }
    }

    /// A request to the engine.
    pub(super) fn request(&self, identity: Identity, command: Command, keys: Keys) -> Request {
        let mut canonical = Vec::with_capacity(96);
        let fingerprint = if keys == Keys::default() {
            0
        } else {
            command.write_canonical(&mut canonical);
            self.secrets.fingerprint(&canonical)
        };
        let traceparent = if command.is_read() { None } else { self.call.trace_parent.as_ref() };
        Request {
            identity,
            command,
            keys,
            fingerprint,
            request_id: request_id(self.call.request_id),
            traceparent: traceparent.map(|t| t.as_str().into()),
        }
    }

    pub(super) fn member(&self, account_id: &str) -> Identity {
        Identity::member(&self.call.caller.program, account_id)
    }

    /// Sends one request.
    pub(super) fn send(&self, request: Request) -> Asked {
        let bytes = u32::try_from(self.call.body.len() + COMMAND_BYTES).unwrap_or(u32::MAX);
        self.backend.ask(request, bytes, self.admission_wait(), self.left())
    }

    /// Sends one request and waits for its answer, or the deadline.
    pub(super) async fn ask(&self, request: Request) -> Result<Outcome, Problem> {
        self.send(request).await.map_err(unanswered)
    }

    pub(super) fn admission_wait(&self) -> Duration {
        Duration::from_millis(self.context.shared.settings.admission_wait_ms)
    }

    /// The answer that an executed record or a refusal gives.
    pub(super) fn answer(&self, program: &Arc<Program>, outcome: Outcome) -> Result<Reply, Problem> {
        answer(self.backend, self.secrets, program, outcome)
    }
}

/// What renders answers: the program as it is now, because a record may name a version that was accepted after
/// its request had begun.
fn facts<'a>(backend: &Backend, secrets: &'a Secrets, program: &Arc<Program>) -> ProgramFacts<'a> {
    let now = backend.known_program(program.name()).ok().flatten();
    ProgramFacts { program: now.unwrap_or_else(|| Arc::clone(program)), secrets }
}

/// The answer that an executed record or a refusal gives.
pub(super) fn answer(
    backend: &Backend,
    secrets: &Secrets,
    program: &Arc<Program>,
    outcome: Outcome,
) -> Result<Reply, Problem> {
    match outcome {
        Outcome::Executed { record, replayed } => {
            let mut reply = answer_of(&facts(backend, secrets, program), &record);
            reply.replayed = replayed;
            Ok(reply)
        }
        Outcome::Refused(refusal) => Err(refused(program, &refusal)),
        Outcome::RefusedBefore { refusal, request_id } => {
            let mut body = Vec::with_capacity(384);
            problem::write_refusal(&mut body, &refusal, &request_id, 0);
            let mut reply = Reply::new(status(problem::refusal_status(&refusal)), Media::Problem, body);
            reply.replayed = true;
            Ok(reply)
        }
        // No other answer is one of an operation.
        _ => Err(Problem::of(Kind::OutcomeUnknown)),
    }
}

fn answer_of(facts: &ProgramFacts<'_>, record: &Record) -> Reply {
    let mut body = Vec::with_capacity(512);
    write_answer(&mut body, record, facts);
    let media = if record.kind == RecordKind::Refusal { Media::Problem } else { Media::Json };
    Reply::new(status(status_of(record)), media, Bytes::from(body))
}

/// A refusal as a problem.
pub(super) fn refused(program: &Program, refusal: &Refusal) -> Problem {
    problem::problem_of(refusal, program.newest().currency().minor_digits)
}

pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The request id, as the number that this node made it from where it is one of its own form.
fn request_id(text: &str) -> RequestId {
    let own = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match u64::from_str_radix(text, 16) {
        Ok(number) if own => RequestId::Made(number),
        _ => RequestId::Given(text.into()),
    }
}
