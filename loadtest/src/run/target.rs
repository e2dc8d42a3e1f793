//! The servers of a run: named by the user, or started here and stopped at the end.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::Fault;
use crate::http::{Client, Server};
use crate::machine;
use crate::node::{Layout, Servers};
use crate::run::plan;

/// Where servers come from.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// `HOST:PORT` each.
    Targets(Vec<String>),
    /// Started here.
    Start(Layout),
}

/// Servers that answer.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) servers: Vec<Server>,
    pub(crate) started: Option<Servers>,
}

impl Session {
    /// Finds or starts the servers, which will get so many connections.
    ///
    /// # Errors
    /// There are none under a name, or they cannot be started, or could not have so many connections.
    pub(crate) fn open(reach: &Reach, authorization: Option<&str>, connections: u32) -> Result<Self, Fault> {
        let server = |address: SocketAddr, host: String| Server {
            address,
            host,
            program: None,
            authorization: authorization.map(str::to_owned),
        };
        match reach {
            Reach::Targets(targets) => {
                let servers = targets.iter().map(|target| Ok(server(resolve(target)?, target.clone())));
                Ok(Self { servers: servers.collect::<Result<_, Fault>>()?, started: None })
            }
            Reach::Start(layout) => {
                // What it starts inherits the limit as it is then.
                plan::server_room(connections, layout.fronts, machine::raise_files_limit())?;
                let started = Servers::start(layout)?;
                let servers = started.targets.iter().map(|target| server(*target, target.to_string())).collect();
                Ok(Self { servers, started: Some(started) })
            }
        }
    }

    /// Addresses of all.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.address).collect()
    }

    /// What the server says of its version; `unknown` when it says nothing.
    pub(crate) fn version(&self) -> String {
        let version = self.servers.first().map(|server| {
            let reply = Client::new(server.clone()).get("/api/v1/version");
            let said = reply.ok().filter(|reply| reply.status == 200).and_then(|reply| reply.json());
            said.and_then(|said| Some(said.get("version")?.as_str()?.to_owned()))
                .unwrap_or_else(|| "unknown".to_owned())
        });
        version.unwrap_or_default()
    }

    /// Stops what was started.
    ///
    /// # Errors
    /// It had ended before, or fails at the end.
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        self.started.take().map_or(Ok(()), Servers::stop)
    }
}

fn resolve(target: &str) -> Result<SocketAddr, Fault> {
    let wrong = |why: String| Fault::Usage(format!("--target {target}: {why}; http://HOST:PORT is meant"));
    let mut found = target.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("it has no address".to_owned()))
}
