//! The seam between the front end and the engine: [`handle`] answers every business route, and [`begin`] sends an
//! operation on its way where nothing has to be waited for.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::HeaderMap;

use meed_engine::permits::NoPermit;
use meed_schemas::command::Command;
use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::{Operation, subject};

use crate::auth::Caller;
use crate::body::BodyFormat;
use crate::context::Context;
use crate::forward::Unanswered;
use crate::identify::TraceParent;
use crate::reply::Reply;
use crate::route::Route;

mod operate;
mod batch;
mod read;
mod events;
mod accounts;
mod desk;

use desk::Desk;
pub use operate::Operating;
use operate::operation_of;

/// A request that passed every check which needs no engine.
#[derive(Debug)]
pub struct Call<'a> {
    /// What it asks for.
    pub route: Route<'a>,
    /// The raw query; see [`crate::route::Query`].
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who calls, and for which program.
    pub caller: Caller<'a>,
    /// Its name in logs and answers.
    pub request_id: &'a str,
    /// Its valid `traceparent`.
    pub trace_parent: Option<TraceParent>,
    /// The whole body, within the limit of the route; empty where the route takes none.
    pub body: Bytes,
    /// How the body is written.
    pub body_format: BodyFormat,
}

/// Sends an operation on one account on its way. `None` where something has to be waited for before that, and for any
/// other route: then nothing is done, and [`handle`] does it. Apart from it so that what a request holds can be given
/// back before its account answers; with thousands of requests under way that memory stays in the caches.
///
/// # Errors
/// A refusal.
pub fn begin<'a>(context: &'a Context, call: &Call<'_>) -> Result<Option<Operating<'a>>, Problem> {
    let Some((operation, account, named)) = operation_of(&call.route) else { return Ok(None) };
    let Some(backend) = &context.backend else { return Err(Problem::of(Kind::NotReady)) };
    let desk = Desk::new(context, backend, call, None)?;
    backend.has_room().map_err(unanswered)?;
    let Some((asked, program)) = desk.begin(operation, account, named)? else { return Ok(None) };
    let secrets = backend.secrets().map_err(unanswered)?;
    Ok(Some(Operating { backend, secrets, program, asked }))
}

/// Answers a business route. A refusal is a problem; both are values.
pub async fn handle(context: &Rc<Context>, call: Call<'_>) -> Result<Reply, Problem> {
    let Some(backend) = &context.backend else { return Err(Problem::of(Kind::NotReady)) };
    let desk = Desk::new(context, backend, &call, Some(Instant::now()))?;
    backend.has_room().map_err(unanswered)?;
    if let Some((operation, account, named)) = operation_of(&call.route) {
        return desk.operate(operation, account, named).await;
    }
    match &call.route {
        Route::PosBatch {} => desk.batch(Some(Operation::Pos)).await,
        Route::Batch {} => desk.batch(None).await,
        Route::Balance { account } => desk.read(account, Command::Balance).await,
        Route::Lots { account } => desk.read(account, Command::Lots).await,
        Route::HoldList { account } => desk.read(account, Command::Holds).await,
        Route::HoldGet { account, hold } => desk.read(account, Command::HoldStatus { hold: subject(hold) }).await,
        Route::Transaction { account, transaction } => {
            desk.read(account, Command::Transaction { position: subject(transaction) }).await
        }
        Route::History { account } => desk.history(account).await,
        Route::Outcome { account, key } => desk.outcome_of_key(account, key).await,
        Route::OutcomeQuery { account } => desk.outcome_of_query(account).await,
        Route::AccountGet { account } => desk.read(account, Command::Account).await,
        Route::AccountPut { account } => desk.open_account(account).await,
        Route::AccountLookup {} => desk.lookup().await,
        Route::AliasPut { account, alias } => desk.put_alias(account, alias).await,
        Route::AliasDelete { account, alias } => desk.delete_alias(account, alias).await,
        Route::AliasList { account } => desk.list_aliases(account).await,
        Route::ProgramPut { program } => desk.put_program(program).await,
        Route::ProgramGet { program } => desk.get_program(program).await,
        Route::Events {} => desk.events(context).await,
        // Operations went to their account above, and open routes are answered before. All are named, so that a new
        // route has its place here before it compiles.
        Route::Earn { .. }
        | Route::Redeem { .. }
        | Route::Adjust { .. }
        | Route::AdminAdjust { .. }
        | Route::HoldCreate { .. }
        | Route::HoldCapture { .. }
        | Route::HoldVoid { .. }
        | Route::Reverse { .. }
        | Route::AccountPatch { .. }
        | Route::TierPut { .. }
        | Route::PosTransaction {}
        | Route::PosReturn {}
        | Route::Health {}
        | Route::Livez {}
        | Route::HealthLive {}
        | Route::Readyz {}
        | Route::HealthReady {}
        | Route::Version {}
        | Route::ProblemGet { .. } => Err(Problem::of(Kind::NotFound)),
    }
}

/// Why a request has no answer of its account, as a problem.
fn unanswered(why: Unanswered) -> Problem {
    match why {
        Unanswered::NoPermit(NoPermit::Draining) => Problem::of(Kind::Draining),
        Unanswered::NoPermit(NoPermit::CheckpointLag) => {
            Problem::new(Kind::Overloaded, "The state store is behind; nothing was executed. Send it again later.")
        }
        Unanswered::NoPermit(NoPermit::Node | NoPermit::Shard) | Unanswered::Overloaded => {
            Problem::of(Kind::Overloaded)
        }
        Unanswered::NotReady | Unanswered::NotOwner | Unanswered::Broken { was_sent: false } => {
            Problem::of(Kind::NotReady)
        }
        Unanswered::Unknown | Unanswered::Broken { was_sent: true } => Problem::of(Kind::OutcomeUnknown),
    }
}
