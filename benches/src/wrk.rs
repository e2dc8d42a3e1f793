//! Runs wrk, the load generator, and reads what it found.

use std::path::Path;
use std::process::{Command, Stdio};

/// The requests that wrk sends.
pub const REQUESTS_LUA: &str = include_str!("../wrk/requests.lua");

const THREADS: u32 = 2;
/// Beyond this, wrk counts an answer as timed out. At 4,000 connections its default of 2 s meets healthy servers.
const TIMEOUT_S: u32 = 10;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One earn per request.
    Earn,
    /// One redemption per request.
    Redeem,
    /// A balance per request.
    Balance,
    /// Many earns per request.
    Batch,
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "earn" => Ok(Self::Earn),
            "redeem" => Ok(Self::Redeem),
            "balance" => Ok(Self::Balance),
            "batch" => Ok(Self::Batch),
            _ => Err("not one of earn, redeem, balance, batch".to_owned()),
        }
    }
}

impl Scenario {
    /// As written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Earn => "earn",
            Self::Redeem => "redeem",
            Self::Balance => "balance",
            Self::Batch => "batch",
        }
    }

    /// Status of every answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Earn | Self::Redeem => 201,
            Self::Balance => 200,
            Self::Batch => 207,
        }
    }

    /// Usual length of an answer's body, for the bare server.
    pub fn body_bytes(self, items: u64) -> u64 {
        match self {
            Self::Earn => 345,
            Self::Balance => 355,
            Self::Redeem => 420,
            Self::Batch => 387 * items,
        }
    }

    /// Whether the accounts must have points before.
    pub fn needs_points(self) -> bool {
        matches!(self, Self::Redeem | Self::Balance)
    }
}

/// One run's load.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is sent.
    pub scenario: Scenario,
    /// Connections, each with one request under way.
    pub connections: u32,
    /// Accounts `m-1` to `m-<accounts>`, drawn uniformly.
    pub accounts: u64,
    /// Operations per request of [`Scenario::Batch`].
    pub items: u64,
    /// How long.
    pub seconds: u32,
    /// Distinguishes the keys of this run from those of every other.
    pub run: String,
}

/// What one run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Answers.
    pub requests: u64,
    /// How long it took.
    pub duration_us: u64,
    /// Bytes read, heads included.
    pub bytes: u64,
    /// Answers with a status of 400 or more.
    pub status_errors: u64,
    /// Failed connects, reads and writes, and answers that came too late.
    pub socket_errors: u64,
    /// Percentiles of the latency, closed loop: 50, 90, 99, 99.9 and the worst.
    pub latency_us: [u64; 5],
}

impl Figures {
    /// Answers per second.
    pub fn requests_per_second(&self) -> u64 {
        let scaled = u128::from(self.requests) * 1_000_000;
        u64::try_from(scaled / u128::from(self.duration_us.max(1))).unwrap_or(u64::MAX)
    }

    fn parse(output: &str) -> Option<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix("figures "))?;
        let value = |name: &str| {
            let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name)?.1.parse::<u64>().ok()
        };
        Some(Self {
            requests: value("requests")?,
            duration_us: value("duration_us")?,
            bytes: value("bytes")?,
            status_errors: value("status")?,
            socket_errors: value("connect")? + value("read")? + value("write")? + value("timeout")?,
            latency_us: [value("p50_us")?, value("p90_us")?, value("p99_us")?, value("p999_us")?, value("max_us")?],
        })
    }
}

/// Whether wrk is there.
///
/// # Errors
/// How to get it.
pub fn check() -> Result<(), String> {
    let found = Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(|_| ()).map_err(|error| {
        format!("wrk, the load generator, cannot be started ({error}); install it with `apt-get install wrk`")
    })
}

/// Drives the server at `address`. `script` is a file that holds [`REQUESTS_LUA`].
///
/// # Errors
/// wrk fails, or says nothing that is understood.
pub fn run(address: &str, script: &Path, load: &Load) -> Result<Figures, String> {
    let output = Command::new("wrk")
        .arg(format!("-t{THREADS}"))
        .arg(format!("-c{}", load.connections))
        .arg(format!("-d{}s", load.seconds))
        .args(["--timeout", &format!("{TIMEOUT_S}s")])
        .arg("-s")
        .arg(script)
        .arg(format!("http://{address}"))
        .arg("--")
        .args([load.scenario.name(), &load.accounts.to_string(), &load.run, &load.items.to_string()])
        .output()
        .map_err(|error| format!("cannot start wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = Figures::parse(&text);
    figures.ok_or_else(|| format!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_script_prints() {
        let output = "Running 1s test\nfigures requests=1000 duration_us=2000000 bytes=5 connect=1 read=2 write=3 \
            status=7 timeout=4 p50_us=10 p90_us=20 p99_us=30 p999_us=40 max_us=50\n";
        let figures = Figures::parse(output);
        let expected = Figures {
            requests: 1_000,
            duration_us: 2_000_000,
            bytes: 5,
            status_errors: 7,
            socket_errors: 10,
            latency_us: [10, 20, 30, 40, 50],
        };
        assert_eq!(figures.as_ref(), Some(&expected));
        assert_eq!(expected.requests_per_second(), 500);
        assert_eq!(Figures::parse("unable to connect"), None);
    }
}
