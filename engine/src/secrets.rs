//! The secrets of a node: made once at creation, kept in one file, never logged, journaled or published.
//!
//! Losing them would forget every idempotency key and every alias, so nothing here makes new ones where old
//! ones are missing: whether absence is creation or damage is the caller's to know.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use meed_schemas::ids::Position;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24Of128};

use crate::disk::Disk;
use crate::error::{Error, Result};

/// Name of the file in the data folder.
pub const SECRETS_FILE: &str = "secrets";
const MAGIC: &[u8; 8] = b"MEEDSECR";
const FORMAT: u32 = 1;
/// Random bytes that secrets are made of.
pub const PAYLOAD_BYTES: usize = 16 * 4 + 32;
/// Bytes of [`Secrets::for_front`].
pub const FRONT_BYTES: usize = 16 * 4;
/// Magic, format, id of the node's journal, payload, CRC32C of all before it.
const FILE_BYTES: usize = HEAD_BYTES + PAYLOAD_BYTES + 4;
const HEAD_BYTES: usize = MAGIC.len() + 4 + 16;

/// The letters of a redemption code: digits and capitals without `0 O 1 I L U`.
pub const CODE_ALPHABET: &[u8; 30] = b"23456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Length of a redemption code: the fewest letters of [`CODE_ALPHABET`] that can write every 64-bit number.
pub const CODE_LENGTH: usize = 14;
/// Luby and Rackoff need four rounds against an adversary who can also invert; the rest is margin, because
/// halves of 32 bits are small.
const FEISTEL_ROUNDS: u8 = 8;

/// The keys of a node's keyed hashes and ciphers.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Key of the hashes of idempotency and business keys.
    pub key_hash: [u8; 16],
    /// Key of the fingerprints of commands.
    pub fingerprint: [u8; 16],
    /// Key of the permutation that makes redemption codes of positions.
    pub redemption_code: [u8; 16],
    /// Key of the tags that guard cursors.
    pub cursor: [u8; 16],
    /// Keys of the hashes by which aliases (first half) and their accounts (second half) are looked up.
    pub alias: [u8; 32],
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// Makes a file with a secret, mode 0600, durable when this returns; false when there is one, which stays. The file
/// appears whole or not at all: a crash leaves at most a temporary file, which the next attempt replaces.
///
/// # Errors
/// The system refuses something, or another process makes the same file at this moment.
pub fn keep_secret(path: &Path, bytes: &[u8]) -> Result<bool> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &temporary, e)),
        _ => {}
    }
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("write", &temporary, e))?;
    // A hard link refuses to replace what is there, which a rename would do silently.
    let is_new = match fs::hard_link(&temporary, path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        made => made.map(|()| true).map_err(|e| Error::io("create", path, e))?,
    };
    fs::remove_file(&temporary).map_err(|e| Error::io("remove", &temporary, e))?;
    Disk::default().sync_dir(folder)?;
    Ok(is_new)
}

impl Secrets {
    /// Secrets of these random bytes.
    pub fn from_random(random: &[u8; PAYLOAD_BYTES]) -> Self {
        let part = |index: usize| -> [u8; 16] { std::array::from_fn(|i| random[index * 16 + i]) };
        Self {
            key_hash: part(0),
            fingerprint: part(1),
            redemption_code: part(2),
            cursor: part(3),
            alias: std::array::from_fn(|i| random[64 + i]),
        }
    }

    /// What a front needs of them to hash keys and to render answers: all but the key of the aliases.
    pub fn for_front(&self) -> [u8; FRONT_BYTES] {
        let parts = [&self.key_hash, &self.fingerprint, &self.redemption_code, &self.cursor];
        std::array::from_fn(|i| parts[i / 16][i % 16])
    }

    /// The secrets of the owner's [`Secrets::for_front`]. The key of the aliases is zero: a front has none.
    pub fn of_owner(bytes: &[u8; FRONT_BYTES]) -> Self {
        Self::from_random(&std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0)))
    }

    /// Makes the secrets of a new data folder and keeps them in `DIR/secrets`, as [`keep_secret`]. The file names the
    /// journal that it belongs to.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the folder already has secrets: they are never replaced.
    pub fn create(dir: &Path, journal_id: u128) -> Result<Self> {
        let path = dir.join(SECRETS_FILE);
        let mut random = [0; PAYLOAD_BYTES];
        getrandom::fill(&mut random)?;
        let secrets = Self::from_random(&random);
        if !keep_secret(&path, &secrets.to_bytes(journal_id))? {
            let detail = "it has secrets already, and they are never replaced".to_owned();
            return Err(Error::Mismatch { path, detail });
        }
        Ok(secrets)
    }

    /// The secrets of a data folder, or `None` when the file is not there.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file is not what was written, [`Error::NewerFormat`], [`Error::Mismatch`] when
    /// they are those of another journal: no key in it would be found again, and every retry executed once more.
    pub fn load(dir: &Path, journal_id: u128) -> Result<Option<Self>> {
        let path = dir.join(SECRETS_FILE);
        match fs::read(&path) {
            Ok(bytes) => Self::from_bytes(&bytes, journal_id, &path).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path, e)),
        }
    }

    /// As [`Secrets::load`], of a folder whose journal has records or not.
    ///
    /// # Errors
    /// As there; and [`Error::Mismatch`] where there are records but no secrets: with others every retry would be
    /// executed again.
    pub fn load_beside(dir: &Path, journal_id: u128, has_records: bool) -> Result<Option<Self>> {
        let secrets = Self::load(dir, journal_id)?;
        if secrets.is_none() && has_records {
            let detail = "it has a journal but no secrets; restore that file from a copy".into();
            return Err(Error::Mismatch { path: dir.to_owned(), detail });
        }
        Ok(secrets)
    }

    fn to_bytes(&self, journal_id: u128) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&journal_id.to_le_bytes());
        for part in [&self.key_hash, &self.fingerprint, &self.redemption_code, &self.cursor] {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&self.alias);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8], journal_id: u128, path: &Path) -> Result<Self> {
        let damaged = |offset: usize, detail: &str| Error::Damaged {
            file: path.to_owned(),
            offset: offset as u64,
            detail: detail.to_owned(),
        };
        if !bytes.starts_with(MAGIC) || bytes.len() < MAGIC.len() + 4 {
            return Err(damaged(0, "not a file of secrets"));
        }
        let format = u32::from_le_bytes(std::array::from_fn(|i| bytes[MAGIC.len() + i]));
        if format > FORMAT {
            return Err(Error::NewerFormat { path: PathBuf::from(path), found: format, known: FORMAT });
        }
        if bytes.len() != FILE_BYTES {
            return Err(damaged(bytes.len(), "wrong length"));
        }
        let (body, checksum) = bytes.split_at(FILE_BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err(damaged(0, "wrong checksum"));
        }
        let (head, payload) = body.split_at(HEAD_BYTES);
        if head[MAGIC.len() + 4..] != journal_id.to_le_bytes() {
            let detail = "it is of another node; put the folders of one node together".to_owned();
            return Err(Error::Mismatch { path: path.to_owned(), detail });
        }
        Ok(Self::from_random(&std::array::from_fn(|i| payload[i])))
    }

    /// The hash by which an idempotency or business key is remembered (SipHash-2-4, 128 bits). `layer`
    /// separates families of keys: equal bytes in two layers are two keys.
    pub fn hash_key(&self, layer: u8, key: &[u8]) -> u128 {
        let mut hasher = SipHasher24Of128::new_with_key(&self.key_hash);
        hasher.write(&[layer]);
        hasher.write(key);
        hasher.finish128().as_u128()
    }

    /// The fingerprint of a command's canonical bytes (SipHash-2-4, 64 bits).
    pub fn fingerprint(&self, command: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.fingerprint).hash(command)
    }

    /// The tag of a cursor's bytes (SipHash-2-4, 64 bits): what tells a cursor of ours from an invented one.
    pub fn cursor_tag(&self, cursor: &[u8]) -> u64 {
        SipHasher24::new_with_key(&self.cursor).hash(cursor)
    }

    /// The redemption code of a position: unique because it is a permutation of all 64-bit numbers, and
    /// unguessable because the permutation is keyed (a balanced Feistel network: M. Luby and C. Rackoff, "How
    /// to construct pseudorandom permutations from pseudorandom functions", 1988). No index is needed either
    /// to keep codes apart or to find the redemption of one.
    pub fn redemption_code(&self, position: Position) -> String {
        let packed = position.to_u64();
        let (mut left, mut right) = ((packed >> 32) as u32, packed as u32);
        for round in 0..FEISTEL_ROUNDS {
            (left, right) = (right, left ^ self.feistel_round(round, right));
        }
        let mut rest = u64::from(left) << 32 | u64::from(right);
        let mut code = [0; CODE_LENGTH];
        for letter in code.iter_mut().rev() {
            *letter = CODE_ALPHABET[(rest % 30) as usize];
            rest /= 30;
        }
        code.iter().map(|&letter| letter as char).collect()
    }

    fn feistel_round(&self, round: u8, half: u32) -> u32 {
        let half = half.to_le_bytes();
        SipHasher24::new_with_key(&self.redemption_code).hash(&[round, half[0], half[1], half[2], half[3]]) as u32
    }
}

#[cfg(test)]
#[path = "secrets_tests.rs"]
mod tests;
