//! Operations on one account.

use meed_schemas::command::Keys;
use meed_schemas::http::problem::{Kind, Problem};
use meed_schemas::http::{Decoded, Operation, decode, subject};

use super::desk::{Desk, bad};
use crate::reply::Reply;

impl Desk<'_> {
    /// Executes one operation. `account` is what the path holds, empty where the body names the account;
    /// `named` is the hold or transaction in the path.
    pub(super) async fn operate(&self, operation: Operation, account: &str, named: &str) -> Result<Reply, Problem> {
        let currency = self.currency().await?;
        let mut decoded = decode(operation, &self.call.body, subject(named), currency).map_err(bad)?;
        let header = self.header_key()?;
        let keys = self.keys(&mut decoded, header)?;
        let in_body = decoded.account.take();
        let (identifier, field) = match &in_body {
            Some(identifier) => (&**identifier, "user_identifier"),
            None => (account, "account"),
        };
        Self::check_identifier(identifier, field)?;
        let program = self.program().await?;
        let account_id = self.account_id(identifier, field).await?;
        let request = self.request(self.member(&account_id), decoded.command, keys);
        let outcome = self.ask(request).await?;
        self.answer(&program, outcome)
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
