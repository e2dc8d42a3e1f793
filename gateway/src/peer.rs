//! Addresses between fronts and the owner of the accounts.

use std::fmt;
use std::path::PathBuf;

/// Where the owner listens for fronts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket on this machine.
    Unix(PathBuf),
    /// HOST:PORT.
    Tcp(String),
}

impl Peer {
    /// Reads `unix:PATH`, `HOST:PORT` or `http://HOST:PORT`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(PathBuf::from(path)));
        }
        let address = text.strip_prefix("http://").unwrap_or(text);
        let (host, port) = address.rsplit_once(':')?;
        (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then(|| Self::Tcp(address.to_owned()))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_two_forms() {
        assert_eq!(Peer::parse("unix:a/b.sock"), Some(Peer::Unix("a/b.sock".into())));
        for text in ["owner:7000", "http://owner:7000"] {
            assert_eq!(Peer::parse(text), Some(Peer::Tcp("owner:7000".to_owned())));
        }
        for bad in ["", "unix:", "owner", "owner:", ":1", "owner:99999", "https://owner:1", "http://owner:1/x"] {
            assert_eq!(Peer::parse(bad), None, "{bad}");
        }
    }
}
