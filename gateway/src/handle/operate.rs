//! Operations on one account.

use std::borrow::Cow;
use std::sync::Arc;

use meed_engine::program::Program;
use meed_engine::secrets::Secrets;
use meed_schemas::command::{Command, Keys};
use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::{Decoded, Operation, decode, subject};

use super::desk::{Desk, Identifier, answer};
use super::unanswered;
use crate::reach::{Asked, Backend};
use crate::reply::Reply;
use crate::route::Route;

/// What a route asks of one account: the operation, the account in the path (empty where the body names it), and the
/// hold or transaction in the path.
pub(super) fn operation_of<'r>(route: &'r Route<'_>) -> Option<(Operation, &'r str, &'r str)> {
    Some(match route {
        Route::Earn { account } => (Operation::Earn, account, ""),
        Route::Redeem { account } => (Operation::Redeem, account, ""),
        Route::Adjust { account } | Route::AdminAdjust { account } => (Operation::Adjust, account, ""),
        Route::HoldCreate { account } => (Operation::Hold, account, ""),
        Route::HoldCapture { account, hold } => (Operation::Capture, account, hold),
        Route::HoldVoid { account, hold } => (Operation::Void, account, hold),
        Route::Reverse { account, transaction } => (Operation::Reverse, account, transaction),
        Route::AccountPatch { account } => (Operation::SetStatus, account, ""),
        Route::TierPut { account } => (Operation::SetTier, account, ""),
        Route::PosTransaction {} => (Operation::Pos, "", ""),
        Route::PosReturn {} => (Operation::PosReturn, "", ""),
        _ => return None,
    })
}

/// An operation whose account is asked. It holds nothing of its request.
pub struct Operating<'a> {
    pub(super) backend: &'a Backend,
    pub(super) secrets: &'a Secrets,
    pub(super) program: Arc<Program>,
    pub(super) asked: Asked,
}

impl Operating<'_> {
    /// Waits for the account, and renders its answer.
    ///
    /// # Errors
    /// A refusal.
    pub async fn answer(self) -> Result<Reply, Problem> {
        let outcome = self.asked.await.map_err(unanswered)?;
        answer(self.backend, self.secrets, &self.program, outcome)
    }
}

/// An operation that was read and is well-formed.
struct Checked<'t> {
    program: Arc<Program>,
    command: Command,
    keys: Keys,
    identifier: Identifier<'t>,
}

impl<'a> Desk<'a> {
    /// Executes one operation. `account` is what the path holds, empty where the body names the account;
    /// `named` is the hold or transaction in the path.
    pub(super) async fn operate(&self, operation: Operation, account: &str, named: &str) -> Result<Reply, Problem> {
        let found = self.find_program().await?;
        let Checked { program, command, keys, identifier } = self.check(operation, account, named, found)?;
        let account_id = self.resolve(identifier).await?;
        let outcome = self.ask(self.request(self.member(&account_id), command, keys)).await?;
        self.answer(&program, outcome)
    }

    /// Sends one operation on its way; `None` where something has to be waited for before, and then nothing is done.
    pub(super) fn begin(
        &self,
        operation: Operation,
        account: &str,
        named: &str,
    ) -> Result<Option<(Asked, Arc<Program>)>, Problem> {
        let Ok(found) = self.backend.known_program(&self.call.caller.program) else { return Ok(None) };
        let Checked { program, command, keys, identifier } = self.check(operation, account, named, found)?;
        let Identifier::Account(account_id) = identifier else { return Ok(None) };
        Ok(Some((self.send(self.request(self.member(&account_id), command, keys)), program)))
    }

    /// Reads the operation. What is wrong with a request is told in this order.
    fn check<'t>(
        &'t self,
        operation: Operation,
        account: &'t str,
        named: &str,
        found: Option<Arc<Program>>,
    ) -> Result<Checked<'t>, Problem> {
        let currency = Self::currency_of(found.as_ref());
        let mut decoded = decode(operation, &self.call.body, subject(named), currency)?;
        let header = self.header_key()?;
        let keys = self.keys(&mut decoded, header)?;
        let (identifier, field) = match decoded.account.take() {
            Some(identifier) => (identifier, "user_identifier"),
            None => (Cow::Borrowed(account), "account"),
        };
        let identifier = Identifier::parse(identifier, field)?;
        let program = found.ok_or_else(|| Problem::of(Kind::UnknownProgram))?;
        Ok(Checked { program, command: decoded.command, keys, identifier })
    }

    /// The keys of an operation, hashed; completes a return with its sale's.
    pub(super) fn keys(&self, decoded: &mut Decoded<'_>, header: Option<&str>) -> Result<Keys, Problem> {
        let business = decoded.business_key().map(|key| self.hash_business(&key));
        let keys = Keys { idempotency: header.map(|key| self.hash_idempotency(key)), business };
        if keys == Keys::default() && decoded.operation.needs_key() {
            return Err(Problem::of(Kind::IdempotencyKeyMissing));
        }
        if let Some(sale) = decoded.sale_key().map(|key| self.hash_business(&key)) {
            decoded.set_sale(sale);
        }
        Ok(keys)
    }
}
