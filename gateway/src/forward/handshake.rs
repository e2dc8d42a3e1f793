//! The handshake: each side proves with a nonce of the other's that it knows the secret, before a frame is
//! taken. The owner proves it first, so a front tells nothing to a stranger.
//!
//! ```text
//! front → owner   magic 8, version 2, nonce 32
//! owner → front   magic 8, version 2, nonce 32, HMAC-SHA-256 (secret; "owner", version, both nonces) 32
//! front → owner   HMAC-SHA-256 (secret; "front", version, both nonces) 32
//! owner → front   1 when that is right; then frames
//! ```
//! It proves who connects; it encrypts nothing but the keys that the owner tells. On TCP the network between
//! them has to be one that nobody else reads or writes.

use std::io;
use std::path::Path;

use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hmac::{Hmac, Mac};
use meed_engine::secrets::Secrets;
use sha2::{Digest, Sha256};

use super::PROTOCOL_VERSION;
use super::socket::Socket;
use crate::error::Error;

const MAGIC: [u8; 8] = *b"MEEDLINK";
const NONCE_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
const HELLO_BYTES: usize = MAGIC.len() + 2 + NONCE_BYTES;
/// Shortest and longest secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

/// The secret that fronts and the owner share.
#[derive(Clone)]
pub struct LinkSecret(Box<[u8]>);

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret(..)")
    }
}

impl LinkSecret {
    /// Reads the secret from a file; white space round it is no part of it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let secret = bytes.trim_ascii();
        if !SECRET_BYTES.contains(&secret.len()) {
            let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
            return Err(format!("the secret in {} must have {least} to {most} bytes", path.display()));
        }
        Ok(Self(secret.into()))
    }

    /// The secret of the nodes of a keyspace: whoever may read the keyspace has it.
    pub(crate) fn of_keyspace(secrets: &Secrets) -> Self {
        let Secrets { key_hash, fingerprint, redemption_code, cursor, alias } = secrets;
        let mut hash = Sha256::new_with_prefix(b"meed: link between the nodes of a keyspace, version 1");
        for key in [&key_hash[..], fingerprint, redemption_code, cursor, alias] {
            hash.update(key);
        }
        Self(hash.finalize().as_slice().into())
    }

    fn tag(&self, side: &[u8], nonces: &Nonces) -> Hmac<Sha256> {
        // A key of any length is one.
        let mut mac = match <Hmac<Sha256>>::new_from_slice(&self.0) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of every length"),
        };
        mac.update(side);
        mac.update(&PROTOCOL_VERSION.to_le_bytes());
        mac.update(&nonces.front);
        mac.update(&nonces.owner);
        mac
    }

    fn prove(&self, side: &[u8], nonces: &Nonces) -> [u8; TAG_BYTES] {
        self.tag(side, nonces).finalize().into_bytes().into()
    }

    fn cipher(&self, nonces: &Nonces) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.prove(b"cipher", nonces).into())
    }

    /// Encrypts what one link tells once. The key is of this link alone, so its nonce is used once.
    pub(crate) fn seal(&self, nonces: &Nonces, plain: &[u8]) -> Vec<u8> {
        match self.cipher(nonces).encrypt(&Default::default(), plain) {
            Ok(sealed) => sealed,
            Err(_) => unreachable!("a text of a few bytes can be encrypted"),
        }
    }

    /// Decrypts what [`LinkSecret::seal`] made.
    pub(crate) fn open(&self, nonces: &Nonces, sealed: &[u8]) -> Option<Vec<u8>> {
        self.cipher(nonces).decrypt(&Default::default(), sealed).ok()
    }
}

/// Both sides' nonces: they name a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nonces {
    front: [u8; NONCE_BYTES],
    owner: [u8; NONCE_BYTES],
}

fn nonce() -> io::Result<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(nonce)
}

fn hello(nonce: &[u8; NONCE_BYTES]) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes[10..].copy_from_slice(nonce);
    bytes
}

fn check_hello(bytes: &[u8; HELLO_BYTES]) -> Result<[u8; NONCE_BYTES], Error> {
    if bytes[..8] != MAGIC {
        return Err(Error::Stranger);
    }
    match u16::from_le_bytes([bytes[8], bytes[9]]) {
        PROTOCOL_VERSION => Ok(std::array::from_fn(|i| bytes[10 + i])),
        other => Err(Error::Version { theirs: other, ours: PROTOCOL_VERSION }),
    }
}

/// The front's side.
pub(crate) async fn as_front(socket: &Socket, secret: &LinkSecret) -> Result<Nonces, Error> {
    let front = nonce()?;
    socket.write_all(&hello(&front)).await?;
    let owner = check_hello(&socket.read_exact().await?)?;
    let nonces = Nonces { front, owner };
    let tag: [u8; TAG_BYTES] = socket.read_exact().await?;
    secret.tag(b"owner", &nonces).verify_slice(&tag).map_err(|_| Error::OtherSecret)?;
    socket.write_all(&secret.prove(b"front", &nonces)).await?;
    match socket.read_exact().await? {
        [ACCEPTED] => Ok(nonces),
        _ => Err(Error::OtherSecret),
    }
}

/// The owner's side.
pub(crate) async fn as_owner(socket: &Socket, secret: &LinkSecret) -> Result<Nonces, Error> {
    let checked = check_hello(&socket.read_exact().await?);
    let owner = nonce()?;
    if let Err(Error::Stranger) = checked {
        // Most likely a person who looks what is here.
        let text = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nThis is the internal listener of meed.\n";
        let _ = socket.write_all(text.as_bytes()).await;
    } else {
        socket.write_all(&hello(&owner)).await?;
    }
    let nonces = Nonces { front: checked?, owner };
    socket.write_all(&secret.prove(b"owner", &nonces)).await?;
    let tag: [u8; TAG_BYTES] = socket.read_exact().await?;
    let right = secret.tag(b"front", &nonces).verify_slice(&tag).is_ok();
    socket.write_all(&[if right { ACCEPTED } else { REFUSED }]).await?;
    if right { Ok(nonces) } else { Err(Error::OtherSecret) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::UnixStream;

    fn secret(text: &str) -> LinkSecret {
        LinkSecret(text.as_bytes().into())
    }

    async fn shake(front: &str, owner: &str) -> (Result<Nonces, Error>, Result<Nonces, Error>) {
        let (a, b) = UnixStream::pair().unwrap();
        let (front, owner) = (secret(front), secret(owner));
        let (a, b) = (Socket::Unix(a), Socket::Unix(b));
        let as_front = async {
            let done = as_front(&a, &front).await;
            drop(a);
            done
        };
        tokio::join!(as_front, as_owner(&b, &owner))
    }

    #[tokio::test]
    async fn both_sides_know_the_secret() {
        let (front, owner) = shake("a secret of this test", "a secret of this test").await;
        let (front, owner) = (front.unwrap(), owner.unwrap());
        let key = secret("a secret of this test");
        let sealed = key.seal(&owner, b"keys");
        assert_eq!(key.open(&front, &sealed).unwrap(), b"keys");
        assert_eq!(secret("another secret").open(&front, &sealed), None);
    }

    #[tokio::test]
    async fn another_secret_is_said_to_be_one() {
        let (front, owner) = shake("a secret of this test", "another secret of this test").await;
        assert!(matches!(front, Err(Error::OtherSecret)));
        // The front has gone without telling anything.
        assert!(owner.is_err());
    }

    #[tokio::test]
    async fn a_front_that_only_repeats_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b, key) = (Socket::Unix(a), Socket::Unix(b), secret("a secret of this test"));
        let repeat = async {
            a.write_all(&hello(&[1; NONCE_BYTES])).await.unwrap();
            let _: [u8; HELLO_BYTES] = a.read_exact().await.unwrap();
            let tag: [u8; TAG_BYTES] = a.read_exact().await.unwrap();
            a.write_all(&tag).await.unwrap();
            a.read_exact().await.unwrap()
        };
        let (answer, owner) = tokio::join!(repeat, as_owner(&b, &key));
        assert_eq!(answer, [REFUSED]);
        assert!(matches!(owner, Err(Error::OtherSecret)));
    }

    #[tokio::test]
    async fn another_version_and_another_protocol_are_told_apart() {
        let key = secret("a secret of this test");
        let mut newer = hello(&[1; NONCE_BYTES]);
        newer[8] += 1;
        let mut http = [b' '; HELLO_BYTES];
        http[..14].copy_from_slice(b"GET / HTTP/1.1");
        for (bytes, version) in [(newer, true), (http, false)] {
            let (a, b) = UnixStream::pair().unwrap();
            let (a, b) = (Socket::Unix(a), Socket::Unix(b));
            a.write_all(&bytes).await.unwrap();
            let owner = as_owner(&b, &key).await;
            match owner {
                Err(Error::Version { theirs: 3, .. }) if version => {
                    assert!(check_hello(&a.read_exact().await.unwrap()).is_ok());
                }
                Err(Error::Stranger) if !version => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
