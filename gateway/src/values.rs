//! The types that settings have, each with its text for flags and variables and its TOML.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::peer::Peer;

/// A type that a setting can have.
pub(crate) trait Value: Sized {
    /// Whether the flag may stand without a value.
    const SWITCH: bool = false;
    /// Whether the flag takes several values.
    const LIST: bool = false;
    fn parse(text: &str) -> Result<Self, String>;
    fn toml(&self) -> String;
    fn magnitude(&self) -> Option<u64> {
        None
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => Self::parse(text),
            toml::Value::Integer(number) => Self::parse(&number.to_string()),
            toml::Value::Boolean(flag) => Self::parse(if *flag { "true" } else { "false" }),
            _ => Err("must be a plain value".to_owned()),
        }
    }
}

pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

macro_rules! integer_values {
    ($($type:ty),*) => { $(impl Value for $type {
        fn parse(text: &str) -> Result<Self, String> {
            text.replace('_', "").parse().map_err(|_| format!("must be an integer from 0 to {}, not `{text}`", <$type>::MAX))
        }
        fn toml(&self) -> String { self.to_string() }
        fn magnitude(&self) -> Option<u64> { Some(u64::from(*self)) }
    })* };
}
integer_values!(u16, u32, u64);

impl Value for bool {
    const SWITCH: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("must be `true` or `false`, not `{text}`"))
    }
    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(Self::from(text)) }
    }
    fn toml(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn toml(&self) -> String {
        quoted(self)
    }
}

impl<T: Value> Value for Vec<T> {
    const LIST: bool = true;
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').filter(|part| !part.is_empty()).map(T::parse).collect()
    }
    fn toml(&self) -> String {
        let parts: Vec<String> = self.iter().map(Value::toml).collect();
        format!("[{}]", parts.join(", "))
    }
    fn from_toml(value: &toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Array(items) => items.iter().map(T::from_toml).collect(),
            other => T::from_toml(other).map(|item| vec![item]),
        }
    }
}

/// A size in bytes: an integer, or one with `KiB`, `MiB` or `GiB` behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The size as a length in memory; a size beyond the address space is the address space.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Value for ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("must be a number of bytes such as 65536 or 64KiB, not `{text}`");
        let (digits, factor) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
            .iter()
            .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        let number: u64 = digits.trim().replace('_', "").parse().map_err(|_| refuse())?;
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
    fn toml(&self) -> String {
        let suffix = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = suffix.iter().find(|(_, shift)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        match whole {
            Some((suffix, shift)) => quoted(&format!("{}{suffix}", self.0 >> shift)),
            None => self.0.to_string(),
        }
    }
    fn magnitude(&self) -> Option<u64> {
        Some(self.0)
    }
}

/// Where to listen: HOST:PORT; port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl Value for ListenAddress {
    fn parse(text: &str) -> Result<Self, String> {
        let mut found =
            text.to_socket_addrs().map_err(|_| format!("must be HOST:PORT such as 127.0.0.1:8080, not `{text}`"))?;
        found.next().map(Self).ok_or_else(|| format!("`{text}` has no address"))
    }
    fn toml(&self) -> String {
        quoted(&self.0.to_string())
    }
}

/// Where to listen, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

impl Value for OptionalAddress {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        ListenAddress::parse(text).map(|address| Self(Some(address.0))).map_err(|detail| format!("{detail}, or `off`"))
    }
    fn toml(&self) -> String {
        quoted(&self.0.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }
}

/// Where the owner of the accounts listens for fronts, or nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalPeer(pub Option<Peer>);

impl Value for OptionalPeer {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        <Peer as Value>::parse(text).map(|peer| Self(Some(peer))).map_err(|detail| format!("{detail}, or `off`"))
    }
    fn toml(&self) -> String {
        quoted(&self.0.as_ref().map_or_else(|| "off".to_owned(), Peer::to_string))
    }
}

impl Value for Peer {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("must be unix:PATH or HOST:PORT, not `{text}`"))
    }
    fn toml(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A file, or what the program does without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionalFile(pub Option<PathBuf>);

impl Value for OptionalFile {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self(None)) } else { PathBuf::parse(text).map(|path| Self(Some(path))) }
    }
    fn toml(&self) -> String {
        self.0.as_ref().map_or_else(|| quoted("auto"), Value::toml)
    }
}

macro_rules! choices {
    ($($(#[doc = $doc:literal])+ $type:ident { $($(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal),+ })*) => { $(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[doc = $variant_doc])+ $variant),+ }
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("must be one of", $(" `", $text, "`",)+ ", not `{}`"), text)),
                }
            }
            fn toml(&self) -> String { quoted(match self { $(Self::$variant => $text),+ }) }
        }
    )* };
}

choices! {
    /// How log lines are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json"
    }

    /// Which journal makes operations durable.
    JournalKind {
        /// A write-ahead log in the data folder.
        Embedded = "embedded",
        /// ScyllaDB or Apache Cassandra.
        Cql = "cql"
    }
}

/// Refuses a number that is not within its bounds, both included.
pub(crate) fn within<T: Value>(value: T, bounds: Option<(u64, u64)>) -> Result<T, String> {
    match (value.magnitude(), bounds) {
        (Some(number), Some((least, most))) if number < least || number > most => {
            Err(format!("must be from {least} to {most}, not {number}"))
        }
        _ => Ok(value),
    }
}
