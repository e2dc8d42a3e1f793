//! The machine that this runs on: limits, processor, kernel, memory, and what a process has used.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::error::Fault;

/// The unit of processor time in `/proc`: Linux shows 100 ticks a second to programs on every architecture.
const TICK_US: u64 = 10_000;

/// What to change where a process may not open as many files as there should be connections.
pub(crate) const FILES_FIX: &str = "start more with --processes, or raise the limit: `ulimit -n`, LimitNOFILE= of the \
     service, /etc/security/limits.conf, sysctl fs.nr_open";
/// What to change where source addresses have too few ports.
pub(crate) const PORTS_FIX: &str = "give this machine more addresses and name them (--sources 10.0.0.1,10.0.0.2 or \
     10.0.0.0/28), or widen the range: sysctl -w net.ipv4.ip_local_port_range='1024 65535'";

/// What results of a machine depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) host: String,
    pub(crate) processor: String,
    pub(crate) cores: u32,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            host: host_name(),
            processor: model.map_or("unknown", |(_, model)| model).trim().to_owned(),
            cores: cores(),
            memory_bytes: kilobytes(&read("/proc/meminfo"), "MemTotal:") * 1_024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether an address is one of this machine's: only to those a socket can be bound.
pub(crate) fn is_here(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// Raises the limit of open files to what this process may have, and says what it is.
pub(crate) fn raise_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where that is refused, the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, wanted);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Ports that the kernel gives to outgoing connections, per source address and target.
pub(crate) fn ports_per_source() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let bounds: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match bounds.as_slice() {
        [low, high] if high > low => high - low + 1,
        _ => 28_232,
    }
}

/// Most connections that may wait to be accepted on a listener of this machine.
pub(crate) fn backlog_max() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// Processor time that this process has used.
pub(crate) fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Processor time of any process of this machine, in microseconds; `None` when it is gone.
pub(crate) fn cpu_us(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok()?.checked_mul(TICK_US);
    Some(ticks()? + ticks()?)
}

/// Resident memory of a process, now and at its highest.
pub(crate) fn memory_bytes(process: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    Some((kilobytes(&status, "VmRSS:") * 1_024, kilobytes(&status, "VmHWM:") * 1_024))
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// So many random bytes in hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Fault> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| Fault::failed("random bytes", error))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(!machine.kernel.is_empty() && !machine.host.is_empty());
        assert!(ports_per_source() > 0 && raise_files_limit() >= 256);
        assert!(memory_bytes(std::process::id()).is_some_and(|(now, most)| now > 0 && most >= now));
        assert!(cpu_us(std::process::id()).is_some() && cpu_us(0).is_none());
        assert!(own_cpu() > Duration::ZERO);
    }

    #[test]
    fn addresses_of_this_machine_are_told_from_others() {
        let is_here = |text: &str| super::is_here(text.parse().unwrap());
        assert!(is_here("127.0.0.9") && !is_here("192.0.2.1"));
        // Its address towards others, where it has any: no packet is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            let own = socket.local_addr().unwrap().ip();
            assert!(super::is_here(own), "{own}");
        }
    }
}
