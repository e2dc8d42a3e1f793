//! Aliases that several nodes share, in CQL: the same decisions as [`super::table`], each of which takes effect at
//! once.
//!
//! A row is sealed under a key that the cluster's secrets give, with a nonce of its own. Deleting it makes it
//! unreadable for everybody who asks the cluster; its nodes' files lose it when they are compacted, after the grace
//! time of the tables.

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use sha2::{Digest, Sha256};

use super::table::AliasHasher;
use super::{ALIASES_PER_ACCOUNT_MAX, PutOutcome};
use crate::error::{Error, Result};
use crate::journal::cql::Cql;
use crate::store::cql::{AliasRow, CqlAliases};

const NONCE_BYTES: usize = 12;
/// What the cipher's key is derived for.
const KEY_PURPOSE: &[u8] = b"meed: cipher of aliases in CQL, version 1";

/// See the module.
pub(super) struct SharedTable {
    hasher: AliasHasher,
    cipher: ChaCha20Poly1305,
    rows: CqlAliases,
}

impl SharedTable {
    /// Opens the tables; `secret` as for [`super::Aliases::open`].
    pub(super) fn open(cql: &Arc<Cql>, secret: &[u8; 32]) -> Result<Self> {
        let key: [u8; 32] = Sha256::new().chain_update(KEY_PURPOSE).chain_update(secret).finalize().into();
        let cipher = ChaCha20Poly1305::new(&Key::from(key));
        Ok(Self { hasher: AliasHasher::new(secret), cipher, rows: CqlAliases::open(cql)? })
    }

    pub(super) fn hasher(&self) -> &AliasHasher {
        &self.hasher
    }

    fn seal(&self, about: &[u8], plain: &str) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)?;
        let payload = Payload { msg: plain.as_bytes(), aad: about };
        let too_long = |_| Error::Store { action: "encrypt an alias", detail: "it is too long".to_owned() };
        let mut sealed = nonce.to_vec();
        sealed.extend(self.cipher.encrypt(&Nonce::from(nonce), payload).map_err(too_long)?);
        Ok(sealed)
    }

    fn unseal(&self, about: &[u8], sealed: &[u8]) -> Result<String> {
        let open = || {
            let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
            let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
            let plain = self.cipher.decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad: about }).ok()?;
            String::from_utf8(plain).ok()
        };
        open().ok_or_else(|| Error::cql("read an alias", "its row cannot be opened with the secrets of this keyspace"))
    }

    pub(super) fn resolve(&self, program: &str, alias: &str) -> Result<Option<String>> {
        let alias = self.hasher.alias(program, alias).to_be_bytes();
        self.rows.find(&alias)?.map(|row| self.unseal(&alias, &row.sealed)).transpose()
    }

    pub(super) fn list(&self, program: &str, account: &str) -> Result<Vec<String>> {
        let account = self.hasher.account(program, account).to_be_bytes();
        let mut aliases = Vec::new();
        for (alias, sealed) in self.rows.listed(&account)? {
            // What is listed and was not given, or given to another since, is not this account's.
            if self.rows.find(&alias)?.is_some_and(|row| row.account == account) {
                aliases.push(self.unseal(&[&account[..], &alias].concat(), &sealed)?);
            }
        }
        aliases.sort_unstable();
        Ok(aliases)
    }

    pub(super) fn put(&self, program: &str, alias: &str, account: &str) -> Result<PutOutcome> {
        let alias_hash = self.hasher.alias(program, alias).to_be_bytes();
        let account_hash = self.hasher.account(program, account).to_be_bytes();
        let before = self.outcome(&alias_hash, &account_hash)?;
        if let Some(outcome) = before {
            return Ok(outcome);
        }
        if self.list(program, account)?.len() >= ALIASES_PER_ACCOUNT_MAX {
            return Ok(PutOutcome::TooMany);
        }
        let row = AliasRow { account: account_hash.to_vec(), sealed: self.seal(&alias_hash, account)? };
        let listed = self.seal(&[account_hash, alias_hash].concat(), alias)?;
        if self.rows.give(&alias_hash, &row, &listed)? {
            return Ok(PutOutcome::New);
        }
        // Somebody was quicker, or it was this very put and its answer was lost.
        Ok(match self.outcome(&alias_hash, &account_hash)? {
            Some(PutOutcome::Same) | None => PutOutcome::New,
            Some(other) => other,
        })
    }

    /// Whether this account or another has the alias.
    fn outcome(&self, alias: &[u8], account: &[u8]) -> Result<Option<PutOutcome>> {
        let Some(row) = self.rows.find(alias)? else { return Ok(None) };
        if row.account == account {
            return Ok(Some(PutOutcome::Same));
        }
        Ok(Some(PutOutcome::TakenBy(self.unseal(alias, &row.sealed)?)))
    }

    pub(super) fn delete(&self, program: &str, account: &str, alias: &str) -> Result<bool> {
        let alias = self.hasher.alias(program, alias).to_be_bytes();
        let account = self.hasher.account(program, account).to_be_bytes();
        if self.rows.find(&alias)?.is_none_or(|row| row.account != account) {
            return Ok(false);
        }
        self.rows.take(&alias, &account)?;
        Ok(true)
    }
}
