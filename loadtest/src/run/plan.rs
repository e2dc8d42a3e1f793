//! From a scenario to the parts of its processes: absolute rates, file limits, source addresses and ports; and what to
//! do where the machine does not allow it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::error::Fault;
use crate::machine;
use crate::protocol::{Hello, Plan};
use crate::scenario::{Scenario, Stage};
use crate::schedule::Slope;
use crate::traffic::Purchase;

/// Files that a process needs beside its connections.
const FILES_RESERVED: u64 = 64;
/// The same that a node keeps for its store, its journal and its listeners; where it may have few files, half of them.
const SERVER_FILES_RESERVED: u64 = 512;
/// What it keeps of however few.
const SERVER_FILES_RESERVED_MIN: u64 = 192;
/// Requests a second that one process is trusted with: two thirds of what one does on a core of its own, at 5.3 µs each.
const RATE_PER_PROCESS: u64 = 125_000;
/// Most source addresses that are taken without being asked.
const LOOPBACK_SOURCES_MAX: u64 = 250;
/// Backlog of listening sockets below which a fast ramp loses connections for a second.
const BACKLOG_MIN: u64 = 4_096;

/// Absolute rates of the stages. `peak` is what the calibration found.
pub(crate) fn slopes(stages: &[Stage], peak: Option<u64>) -> Vec<Slope> {
    let slope = |stage: &Stage| {
        let of_peak = stage.percent_of_peak.map(|percent| peak.unwrap_or(0) * u64::from(percent) / 100);
        let rate = of_peak.or(stage.rate).unwrap_or(0);
        Slope { seconds: stage.seconds, rate, to_rate: stage.to_rate.unwrap_or(rate) }
    };
    stages.iter().map(slope).collect()
}

/// How many processes a load needs on this machine. What is due beyond the server's `peak`, if that is known, finds no free
/// connection and costs next to nothing; each process more takes from the server's processors.
pub(crate) fn processes(connections: u32, slopes: &[Slope], peak: Option<u64>, files_max: u64) -> u32 {
    let per_process = files_max.saturating_sub(FILES_RESERVED).max(1);
    let for_files = u64::from(connections).div_ceil(per_process);
    let rate = slopes.iter().map(|slope| slope.rate.max(slope.to_rate)).max().unwrap_or(0);
    let for_rate = rate.min(peak.unwrap_or(rate)).div_ceil(RATE_PER_PROCESS).min(u64::from(machine::cores()));
    u32::try_from(for_files.max(for_rate).max(1)).unwrap_or(u32::MAX).min(connections)
}

/// Whether servers that this program starts may open as many files as they get connections: they have its own limit.
///
/// # Errors
/// They may not; with what to change.
pub(crate) fn server_room(connections: u32, fronts: u32, files_max: u64) -> Result<(), Fault> {
    let reserved = SERVER_FILES_RESERVED.min(files_max / 2).max(SERVER_FILES_RESERVED_MIN);
    let room = files_max.saturating_sub(reserved);
    let of_one = u64::from(connections.div_ceil(fronts.max(1)));
    if of_one <= room {
        return Ok(());
    }
    let fronts = u64::from(connections).div_ceil(room.max(1));
    let more = if room > 0 { format!("--fronts {fronts}, or ") } else { String::new() };
    Err(Fault::Usage(format!(
        "the started server would get {of_one} connections, and a process may have {files_max} open files here, of which it \
         keeps {reserved} for itself; {more}raise the limit: `ulimit -n`, LimitNOFILE= of the service, \
         /etc/security/limits.conf"
    )))
}

/// Connections of each process: equal parts, as far as each one's file limit goes.
pub(crate) fn shares(connections: u32, files_max: &[u64]) -> Result<Vec<u32>, Fault> {
    let room = |files: &u64| u32::try_from(files.saturating_sub(FILES_RESERVED)).unwrap_or(u32::MAX);
    let rooms: Vec<u32> = files_max.iter().map(room).collect();
    let mut shares = vec![0u32; rooms.len()];
    let mut left = connections;
    while left > 0 {
        let hungry: Vec<usize> = (0..rooms.len()).filter(|index| shares[*index] < rooms[*index]).collect();
        let Ok(mut count) = u32::try_from(hungry.len()) else { break };
        if count == 0 {
            let most: u64 = rooms.iter().map(|room| u64::from(*room)).sum();
            return Err(Fault::Usage(format!(
                "{connections} connections need more open files than {} processes may have ({most} connections); {}",
                rooms.len(),
                machine::FILES_FIX
            )));
        }
        for index in hungry {
            let part = (left.div_ceil(count)).min(rooms[index] - shares[index]).min(left);
            shares[index] += part;
            left -= part;
            count = (count - 1).max(1);
        }
    }
    Ok(shares)
}

/// Source addresses of each host that makes load: every machine has ports of its own.
pub(crate) fn sources_by_host(
    asked: &[IpAddr],
    targets: &[SocketAddr],
    hellos: &[Hello],
    shares: &[u32],
) -> Result<BTreeMap<String, Vec<IpAddr>>, Fault> {
    let mut hosts: BTreeMap<&str, (u32, &Hello)> = BTreeMap::new();
    for (hello, share) in hellos.iter().zip(shares) {
        hosts.entry(&hello.host).or_insert((0, hello)).0 += share;
    }
    let of_host = |(host, (connections, hello)): (&str, (u32, &Hello))| {
        let asked = if hello.sources.is_empty() { asked } else { &hello.sources };
        Ok((host.to_owned(), sources(asked, targets, connections, hello.ports)?))
    };
    hosts.into_iter().map(of_host).collect()
}

/// Source addresses of one host: those asked for, or as many of the loopback network as spread the ports well.
fn sources(asked: &[IpAddr], targets: &[SocketAddr], connections: u32, ports: u64) -> Result<Vec<IpAddr>, Fault> {
    let pairs = |sources: u64| sources * targets.len() as u64 * ports;
    let is_loopback = targets.iter().all(|target| matches!(target.ip(), IpAddr::V4(address) if address.is_loopback()));
    if asked.is_empty() && is_loopback {
        // The kernel's search for a free port is slow long before none is left, so a quarter of them is used.
        let needed = u64::from(connections).div_ceil((targets.len() as u64 * ports / 4).max(1));
        let count = u8::try_from(needed.min(LOOPBACK_SOURCES_MAX)).unwrap_or(u8::MAX);
        let numbered = (1..=count).map(|number| IpAddr::V4(Ipv4Addr::new(127, 0, 0, number)));
        return Ok(if count > 1 { numbered.collect() } else { Vec::new() });
    }
    if pairs(asked.len().max(1) as u64) < u64::from(connections) {
        return Err(Fault::Usage(format!(
            "{connections} connections to {} targets need more than {ports} ports per source address; {}",
            targets.len(),
            machine::PORTS_FIX
        )));
    }
    Ok(asked.to_vec())
}

/// Parses a list of addresses and of networks such as `127.0.0.0/28`, whose host addresses are meant.
pub(crate) fn parse_sources(text: &str) -> Result<Vec<IpAddr>, Fault> {
    let wrong = |part: &str| Fault::Usage(format!("--sources: `{part}` is no address and no IPv4 network"));
    let mut found = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((network, bits)) = part.split_once('/') else {
            found.push(part.parse().map_err(|_| wrong(part))?);
            continue;
        };
        let network: Ipv4Addr = network.parse().map_err(|_| wrong(part))?;
        let bits: u32 = bits.parse().ok().filter(|bits| (16..=32).contains(bits)).ok_or_else(|| wrong(part))?;
        let size = 1u32 << (32 - bits);
        let first = u32::from(network) & !(size - 1);
        let hosts = if size > 2 { 1..size - 1 } else { 0..size };
        found.extend(hosts.map(|host| IpAddr::V4(Ipv4Addr::from(first + host))));
    }
    Ok(found)
}

/// What is worth knowing before it goes wrong.
pub(crate) fn warnings(scenario: &Scenario, is_local: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let backlog = machine::backlog_max().filter(|backlog| is_local && *backlog < BACKLOG_MIN);
    if let Some(backlog) = backlog.filter(|_| scenario.connections > 1_000) {
        warnings.push(format!(
            "at most {backlog} connections may wait to be accepted here, so a fast ramp loses some for a second; \
             sysctl -w net.core.somaxconn={BACKLOG_MIN}"
        ));
    }
    warnings
}

/// What all plans of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) run: String,
    pub(crate) scenario: Scenario,
    pub(crate) slopes: Vec<Slope>,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) account_prefix: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    pub(crate) purchases: Vec<Purchase>,
}

/// One plan per process.
pub(crate) fn plans(
    common: &Common,
    shares: &[u32],
    hellos: &[Hello],
    sources: &BTreeMap<String, Vec<IpAddr>>,
) -> Vec<Plan> {
    let workers = u32::try_from(shares.len()).unwrap_or(u32::MAX);
    (0..)
        .zip(shares.iter().zip(hellos))
        .map(|(worker, (connections, hello))| {
            let own = |purchase: &&Purchase| purchase.account % workers == worker;
            // Processes begin with different targets and sources, so that small shares are spread as well.
            let mut targets = common.targets.clone();
            targets.rotate_left(worker as usize % common.targets.len().max(1));
            let mut sources = sources.get(&hello.host).cloned().unwrap_or_default();
            let turns = worker as usize % sources.len().max(1);
            sources.rotate_left(turns);
            Plan {
                run: common.run.clone(),
                worker,
                workers,
                scenario: common.scenario.clone(),
                slopes: common.slopes.clone(),
                targets,
                sources,
                connections: *connections,
                connections_per_second: (common.scenario.connections_per_second / workers).max(1),
                account_prefix: common.account_prefix.clone(),
                host: common.host.clone(),
                authorization: common.authorization.clone(),
                purchases: common.purchases.iter().filter(own).copied().collect(),
            }
        })
        .collect()
}

/// Ends stages after so many seconds in all; one that has not begun by then goes.
pub(super) fn end_after(stages: &mut Vec<Stage>, seconds: u32) {
    let mut left = seconds;
    stages.retain_mut(|stage| {
        let kept = stage.seconds.min(left);
        if let (Some(rate), Some(to_rate)) = (stage.rate, stage.to_rate) {
            // Where the straight line has come to.
            let change = (i128::from(to_rate) - i128::from(rate)) * i128::from(kept) / i128::from(stage.seconds.max(1));
            stage.to_rate = u64::try_from(i128::from(rate) + change).ok();
        }
        stage.seconds = kept;
        left -= kept;
        kept > 0
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn processes_follow_the_file_limit() {
        let slow = [Slope { seconds: 1, rate: 100, to_rate: 100 }];
        assert_eq!(processes(100_000, &slow, None, 20_000), 6);
        assert_eq!(processes(100_000, &slow, None, 1_024), 105);
        assert_eq!(processes(100_000, &slow, None, 1_000_000), 1);
        assert_eq!(processes(3, &slow, None, 65), 3);
        let overload = [Slope { seconds: 1, rate: 10_000_000, to_rate: 10_000_000 }];
        assert_eq!(processes(1_024, &overload, Some(80_000), 20_000), 1);
        assert_eq!(processes(1_024, &overload, None, 20_000), machine::cores());
        assert_eq!(shares(100_000, &[20_000; 6]).unwrap().iter().sum::<u32>(), 100_000);
        assert_eq!(shares(10, &[66, 1_000, 1_000]).unwrap(), [2, 4, 4]);
        let message = shares(100_000, &[1_024; 4]).unwrap_err().to_string();
        assert!(message.contains("ulimit -n") && message.contains("--processes"), "{message}");
    }

    #[test]
    fn a_started_server_needs_a_file_for_each_connection() {
        let refused = |connections, fronts, files| {
            server_room(connections, fronts, files).err().map(|fault| fault.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(16_000, 0, 20_000), "");
        assert_eq!(refused(100_000, 6, 20_000), "");
        assert_eq!(refused(19_488, 0, 20_000), "");
        assert!(refused(19_489, 0, 20_000).contains("keeps 512 for itself; --fronts 2"));
        assert!(refused(100_000, 0, 20_000).contains("--fronts 6, or raise the limit: `ulimit -n`"));
        let message = refused(500, 0, 256);
        assert!(message.contains("500 connections") && message.contains("--fronts 8"), "{message}");
        assert!(!refused(500, 0, 192).contains("--fronts"), "no number of them would do");
    }

    #[test]
    fn source_addresses_are_as_many_as_ports_need() {
        let target: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let sources = |asked: &[IpAddr], target, connections| sources(asked, &[target], connections, 28_232);
        assert!(sources(&[], target, 100).unwrap().is_empty());
        let many = sources(&[], target, 100_000).unwrap();
        assert!(many.len() >= 4 && many.iter().all(|source| source.is_loopback()), "{many:?}");
        let far: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let message = sources(&[], far, 1_000_000).unwrap_err().to_string();
        assert!(message.contains("ip_local_port_range"), "{message}");
        assert_eq!(parse_sources("10.0.0.1,10.0.1.0/30").unwrap().len(), 3);
        assert!(parse_sources("10.0.0.0/8").is_err() && parse_sources("here").is_err());
    }

    #[test]
    fn every_host_has_ports_and_addresses_of_its_own() {
        let hello = |host: &str, sources: &str| Hello {
            version: 0,
            token: String::new(),
            host: host.to_owned(),
            process: 1,
            files_max: 100_000,
            ports: 28_232,
            sources: parse_sources(sources).unwrap(),
        };
        let far: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let by_host = |hellos: &[Hello]| {
            let shares = vec![25_000; hellos.len()];
            sources_by_host(&[], &[far], hellos, &shares)
        };
        // More than one machine's ports, and not more than two have.
        assert!(by_host(&[hello("a", ""), hello("b", "")]).is_ok());
        assert!(by_host(&[hello("a", ""), hello("a", "")]).is_err());
        let named =
            by_host(&[hello("a", "10.0.0.1,10.0.0.2"), hello("a", "10.0.0.1,10.0.0.2"), hello("b", "")]).unwrap();
        assert_eq!((named["a"].len(), named["b"].len()), (2, 0));
    }

    #[test]
    fn rates_relative_to_the_peak_become_absolute() {
        let stage = |rate, percent_of_peak| Stage {
            name: "s".into(),
            seconds: 1,
            rate,
            to_rate: None,
            percent_of_peak,
            warmup: false,
        };
        let found = slopes(&[stage(Some(7), None), stage(None, Some(150))], Some(1_000));
        assert_eq!(found.iter().map(|slope| slope.rate).collect::<Vec<_>>(), [7, 1_500]);
    }

    #[test]
    fn stages_end_in_the_middle_of_one() {
        let stage = |rate, to_rate, seconds, warmup| Stage {
            name: "stage".to_owned(),
            seconds,
            rate: Some(rate),
            to_rate,
            percent_of_peak: None,
            warmup,
        };
        let whole = [stage(10, None, 2, true), stage(1_000, Some(200), 8, false), stage(5, None, 3, false)];
        let ended = |seconds| {
            let mut stages = whole.to_vec();
            end_after(&mut stages, seconds);
            slopes(&stages, None)
        };
        let warm_up = Slope { seconds: 2, rate: 10, to_rate: 10 };
        assert_eq!(ended(1), [Slope { seconds: 1, ..warm_up }]);
        assert_eq!(ended(2), [warm_up]);
        assert_eq!(ended(4), [warm_up, Slope { seconds: 2, rate: 1_000, to_rate: 800 }]);
        assert_eq!(ended(12).iter().map(|slope| slope.seconds).sum::<u32>(), 12);
        assert_eq!(ended(99).iter().map(|slope| slope.seconds).sum::<u32>(), 13);
    }
}
