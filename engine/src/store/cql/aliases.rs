//! Aliases in CQL: given and taken by conditional writes, because two nodes may be asked at once.

use std::sync::Arc;

use scylla::statement::prepared::PreparedStatement;

use crate::error::Result;
use crate::journal::cql::Cql;

/// What is stored of one alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasRow {
    /// Keyed hash of the account that has it.
    pub account: Vec<u8>,
    /// Account and alias, sealed.
    pub sealed: Vec<u8>,
}

/// The rows of aliases and of the accounts' lists of them, by keyed hashes.
pub struct CqlAliases {
    cql: Arc<Cql>,
    find: PreparedStatement,
    give: PreparedStatement,
    take: PreparedStatement,
    list: PreparedStatement,
    put_listed: PreparedStatement,
    listed_at: PreparedStatement,
    drop_listed: PreparedStatement,
}

impl CqlAliases {
    /// Opens the tables in the keyspace in use.
    ///
    /// # Errors
    /// The cluster refuses a statement.
    pub fn open(cql: &Arc<Cql>) -> Result<Self> {
        cql.block_on(async {
            Ok(Self {
                cql: Arc::clone(cql),
                find: cql.prepare_serial("SELECT account, sealed FROM aliases WHERE alias = ?").await?,
                give: cql
                    .prepare("INSERT INTO aliases (alias, account, sealed) VALUES (?, ?, ?) IF NOT EXISTS")
                    .await?,
                take: cql.prepare("DELETE FROM aliases WHERE alias = ? IF account = ?").await?,
                list: cql.prepare("SELECT alias, sealed FROM account_aliases WHERE account = ?").await?,
                put_listed: cql
                    .prepare("INSERT INTO account_aliases (account, alias, sealed) VALUES (?, ?, ?)")
                    .await?,
                listed_at: cql
                    .prepare("SELECT WRITETIME(sealed) FROM account_aliases WHERE account = ? AND alias = ?")
                    .await?,
                drop_listed: cql
                    .prepare("DELETE FROM account_aliases USING TIMESTAMP ? WHERE account = ? AND alias = ?")
                    .await?,
            })
        })
    }

    /// Who has an alias.
    ///
    /// # Errors
    /// The node stops.
    pub fn find(&self, alias: &[u8]) -> Result<Option<AliasRow>> {
        self.cql.block_on(self.row(alias))
    }

    async fn row(&self, alias: &[u8]) -> Result<Option<AliasRow>> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.cql.read("read an alias", &self.find, (alias,)).await?;
        Ok(rows.into_iter().next().map(|(account, sealed)| AliasRow { account, sealed }))
    }

    /// When an alias was listed last, if it is.
    async fn listed_at(&self, account: &[u8], alias: &[u8]) -> Result<Option<i64>> {
        let action = "read when an alias was listed";
        let listed: Vec<(Option<i64>,)> = self.cql.read(action, &self.listed_at, (account, alias)).await?;
        Ok(listed.first().and_then(|(at,)| *at))
    }

    /// Unlists what was listed at this instant or before.
    async fn unlist(&self, listed_at: Option<i64>, account: &[u8], alias: &[u8]) -> Result<()> {
        match listed_at {
            Some(at) => self.cql.write("unlist an alias", &self.drop_listed, (at, account, alias)).await,
            None => Ok(()),
        }
    }

    /// Gives an alias that nobody has. It is listed first, so that no alias is ever missing from its account's list;
    /// what is listed and was not given is passed over, and unlisted when another account has it. Once it is given it is listed anew: who took it at the same
    /// time may unlist what was listed before. False when somebody has it: by [`CqlAliases::find`] it may be
    /// this account, by an earlier try whose answer was lost.
    ///
    /// # Errors
    /// The node stops.
    pub fn give(&self, alias: &[u8], row: &AliasRow, listed: &[u8]) -> Result<bool> {
        let account = row.account.as_slice();
        self.cql.block_on(async {
            self.cql.write("list an alias", &self.put_listed, (account, alias, listed)).await?;
            let values = (alias, account, row.sealed.as_slice());
            let written_at = self.listed_at(account, alias).await?;
            let is_given = self.cql.conditional_resolved("give an alias", &self.give, values).await?.applied();
            if is_given {
                self.cql.write("list an alias", &self.put_listed, (account, alias, listed)).await?;
            } else if self.row(alias).await?.is_some_and(|taken| taken.account != account) {
                // Whoever gives it to this account later lists it after this instant.
                self.unlist(written_at, account, alias).await?;
            }
            Ok(is_given)
        })
    }

    /// Takes an alias from its account. What is unlisted is what was listed before: an owner that sleeps after it took
    /// the alias would else unlist it when another one has given it again.
    ///
    /// # Errors
    /// The node stops.
    pub fn take(&self, alias: &[u8], account: &[u8]) -> Result<()> {
        self.cql.block_on(async {
            let listed_at = self.listed_at(account, alias).await?;
            // Refused when an earlier try has taken it.
            self.cql.conditional_resolved("take an alias", &self.take, (alias, account)).await?;
            self.unlist(listed_at, account, alias).await
        })
    }

    /// What is listed for an account: aliases and what is sealed of them.
    ///
    /// # Errors
    /// The node stops.
    pub fn listed(&self, account: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.cql.block_on(self.cql.read("read the aliases of an account", &self.list, (account,)))
    }
}
