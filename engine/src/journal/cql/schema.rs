//! The keyspace: made where there is none, checked where there is one, never altered.

use std::collections::{BTreeMap, BTreeSet};

use meed_schemas::cql::{FORMAT, Place, Table, tables};
use meed_schemas::ids::{SHARD_HASH_NAME, SHARDS_MAX};

use super::CqlConfig;
use super::session::Cql;
use crate::error::{Error, Result};
use crate::folder::SHARDS_DEFAULT;
use crate::secrets::{PAYLOAD_BYTES, Secrets};

/// The row that says what the keyspace belongs to.
const CLUSTER: &str = "meed";
const NAME_BYTES_MAX: usize = 48;

/// What a keyspace belongs to.
#[derive(Debug, Clone)]
pub struct KeyspaceIdentity {
    /// Random, made with the keyspace.
    pub journal_id: u128,
    /// How many shards.
    pub shards: u16,
    /// Keys of hashes, codes and ciphers, the same for all its nodes.
    pub secrets: Secrets,
    /// Whether it was made now.
    pub created: bool,
}

/// Uses the keyspace of `config`, which is made if it is not there, with `shards` shards (16 when not given).
///
/// # Errors
/// Tables of another form, another number of shards, a newer format.
pub fn open_keyspace(cql: &Cql, config: &CqlConfig, shards: Option<u16>) -> Result<KeyspaceIdentity> {
    let keyspace = &config.keyspace;
    let of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = keyspace.len() <= NAME_BYTES_MAX && keyspace.bytes().all(of_name);
    if !is_name || !keyspace.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(Error::Setting(format!(
            "`{keyspace}` is no keyspace: it needs 1 to {NAME_BYTES_MAX} lower-case letters, digits and _, a letter first"
        )));
    }
    if let Some(shards) = shards.filter(|shards| *shards == 0 || *shards > SHARDS_MAX) {
        return Err(Error::Setting(format!("shards is {shards}; it must be 1 to {SHARDS_MAX}")));
    }
    cql.block_on(async {
        make_keyspace(cql, config).await?;
        check_datacenters(cql, config).await?;
        let missing = check_tables(cql, keyspace).await?;
        let found = if missing.iter().any(|table| table.name == "cluster") { None } else { read(cql, config).await? };
        if found.is_some()
            && let Some(table) = missing.first()
        {
            return Err(mismatch(config, format!("table {} is missing; restore the keyspace from a copy", table.name)));
        }
        for table in &missing {
            cql.create(&table.statement.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)).await?;
        }
        let created = found.is_none();
        let found = match found {
            Some(found) => found,
            None => {
                insert(cql, shards.unwrap_or(SHARDS_DEFAULT)).await?;
                let missing = || mismatch(config, "the row of the cluster is missing".into());
                read(cql, config).await?.ok_or_else(missing)?
            }
        };
        if let Some(asked) = shards.filter(|asked| *asked != found.shards) {
            let has = found.shards;
            return Err(mismatch(
                config,
                format!("it has {has} shards and {asked} were asked for; leave --shards out"),
            ));
        }
        Ok(KeyspaceIdentity { created, ..found })
    })
}

fn mismatch(config: &CqlConfig, detail: String) -> Error {
    Error::Mismatch { path: format!("keyspace {}", config.keyspace).into(), detail }
}

async fn make_keyspace(cql: &Cql, config: &CqlConfig) -> Result<()> {
    let find = cql.prepare("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?").await?;
    let found: Vec<(String,)> = cql.read("look for the keyspace", &find, (&config.keyspace,)).await?;
    if !found.is_empty() {
        return Ok(());
    }
    // One that lies in all of them would be refused for ever after.
    let all = cql.datacenters();
    if all.len() > 1 {
        asked_datacenter(&all, config.datacenter.as_deref()).map_err(|detail| mismatch(config, detail))?;
    }
    let (keyspace, replicas) = (&config.keyspace, config.replicas);
    let place = config.datacenter.as_deref().unwrap_or("replication_factor").replace('\'', "''");
    tracing::info!(keyspace, replicas, "creating the keyspace");
    cql.create(&format!(
        "CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" WITH replication = \
         {{'class': 'NetworkTopologyStrategy', '{place}': {replicas}}}"
    ))
    .await
}

/// Where the cluster has several datacenters, the keyspace must lie in one: a conditional write is decided among the
/// replicas of one datacenter, so that in two of them two owners of a shard could append to it at the same time.
async fn check_datacenters(cql: &Cql, config: &CqlConfig) -> Result<()> {
    let all = cql.datacenters();
    if all.len() < 2 {
        return Ok(());
    }
    let statement = cql.prepare("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?").await?;
    type Row = (BTreeMap<String, String>,);
    let rows: Vec<Row> = cql.read("read where the keyspace lies", &statement, (&config.keyspace,)).await?;
    let replication = rows.into_iter().next().unwrap_or_default().0;
    one_datacenter(&all, &replication, config.datacenter.as_deref()).map_err(|detail| mismatch(config, detail))
}

/// Says what is wrong with the replication of a keyspace in a cluster of these datacenters.
fn one_datacenter(
    all: &BTreeSet<String>,
    replication: &BTreeMap<String, String>,
    asked: Option<&str>,
) -> std::result::Result<(), String> {
    let asked = asked_datacenter(all, asked)?;
    let is_elsewhere = |(name, replicas): (&String, &String)| name != "class" && name != asked && replicas != "0";
    if replication.iter().any(is_elsewhere) || !replication.contains_key(asked) {
        return Err(format!(
            "its replication is {replication:?}; conditional writes are decided in one datacenter, so it must be of class \
             NetworkTopologyStrategy with replicas in {asked} alone"
        ));
    }
    Ok(())
}

/// The datacenter of these in which the keyspace is to lie.
fn asked_datacenter<'a>(all: &BTreeSet<String>, asked: Option<&'a str>) -> std::result::Result<&'a str, String> {
    asked.filter(|asked| all.contains(*asked)).ok_or_else(|| {
        let all = all.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        format!("the cluster has the datacenters {all}; say with --cql-datacenter in which the keyspace lies")
    })
}

/// Compares the tables that are there with what they must be; returns those that are not there.
async fn check_tables(cql: &Cql, keyspace: &str) -> Result<Vec<Table>> {
    let text = "SELECT table_name, column_name, type, kind, position, clustering_order FROM system_schema.columns \
                WHERE keyspace_name = ?";
    let statement = cql.prepare(text).await?;
    type ColumnRow = (String, String, String, String, i32, String);
    let rows: Vec<ColumnRow> = cql.read("read the tables", &statement, (keyspace,)).await?;
    type Column = (String, String, Option<Place>);
    let mut found: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for (table, column, kind, place, position, order) in rows {
        found.entry(table).or_default().push((column, kind, Place::of(&place, position, &order)));
    }
    let mut missing = Vec::new();
    for table in tables() {
        let Some(mut columns) = found.remove(table.name) else {
            missing.push(table);
            continue;
        };
        let mut expected: Vec<Column> =
            table.columns.iter().map(|c| (c.name.to_owned(), c.kind.to_owned(), Some(c.place))).collect();
        columns.sort();
        expected.sort();
        if columns != expected {
            let different = |(name, kind, place): &Column| match place {
                Some(place) => format!("{name} {kind}{place}"),
                None => format!("{name} {kind} (of an unknown kind)"),
            };
            let there = columns.iter().filter(|c| !expected.contains(c)).map(different);
            let not_there = expected.iter().filter(|c| !columns.contains(c)).map(different);
            let (there, not_there) = (there.collect::<Vec<_>>().join(", "), not_there.collect::<Vec<_>>().join(", "));
            return Err(Error::Mismatch {
                path: format!("table {keyspace}.{}", table.name).into(),
                detail: format!(
                    "it is of another form than version {FORMAT} (it has [{there}] and lacks [{not_there}]); it is left \
                     as it is: start the meed that made it, or name another keyspace"
                ),
            });
        }
    }
    Ok(missing)
}

async fn insert(cql: &Cql, shards: u16) -> Result<()> {
    let statement = cql
        .prepare(
            "INSERT INTO cluster (id, format, journal_id, shards, shard_hash, secrets) VALUES (?, ?, ?, ?, ?, ?) \
             IF NOT EXISTS",
        )
        .await?;
    let mut journal_id = [0; 16];
    let mut secrets = [0; PAYLOAD_BYTES];
    getrandom::fill(&mut journal_id)?;
    getrandom::fill(&mut secrets)?;
    let journal_id = format!("{:032x}", u128::from_le_bytes(journal_id));
    // First, so that a keyspace with the row of the cluster has it.
    let owners = cql.prepare("INSERT INTO owners (cluster, version, programs) VALUES (?, 0, 0) IF NOT EXISTS").await?;
    cql.conditional_resolved("make the map of owners", &owners, (CLUSTER,)).await?;
    let values = (CLUSTER, FORMAT, journal_id.as_str(), i32::from(shards), SHARD_HASH_NAME, &secrets[..]);
    // Refused when another node, or an earlier try, was first: what is read afterwards counts.
    cql.conditional_resolved("make the row of the cluster", &statement, values).await.map(|_| ())
}

async fn read(cql: &Cql, config: &CqlConfig) -> Result<Option<KeyspaceIdentity>> {
    let text = "SELECT format, journal_id, shards, shard_hash, secrets FROM cluster WHERE id = ?";
    let statement = cql.prepare_serial(text).await?;
    type ClusterRow = (i32, String, i32, String, Vec<u8>);
    let rows: Vec<ClusterRow> = cql.read("read the row of the cluster", &statement, (CLUSTER,)).await?;
    let Some((format, journal_id, shards, shard_hash, secrets)) = rows.into_iter().next() else { return Ok(None) };
    if format > FORMAT {
        return Err(Error::NewerFormat {
            path: format!("keyspace {}", config.keyspace).into(),
            found: u32::try_from(format).unwrap_or(0),
            known: FORMAT.unsigned_abs(),
        });
    }
    if format < FORMAT {
        let detail = format!(
            "it is of version {format}, and this is meed with version {FORMAT}; it is left as it is: start the meed that \
             made it, or name another keyspace"
        );
        return Err(mismatch(config, detail));
    }
    if shard_hash != SHARD_HASH_NAME {
        return Err(mismatch(config, format!("its accounts are mapped to shards by {shard_hash}")));
    }
    let unreadable = || mismatch(config, "the row of the cluster cannot be read; restore it from a copy".into());
    let secrets: [u8; PAYLOAD_BYTES] = secrets.try_into().map_err(|_| unreadable())?;
    Ok(Some(KeyspaceIdentity {
        journal_id: u128::from_str_radix(&journal_id, 16).map_err(|_| unreadable())?,
        shards: u16::try_from(shards).ok().filter(|s| (1..=SHARDS_MAX).contains(s)).ok_or_else(unreadable)?,
        secrets: Secrets::from_random(&secrets),
        created: false,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_keyspace_lies_in_one_of_several_datacenters() {
        let all: BTreeSet<String> = ["east", "west"].map(str::to_owned).into();
        let check = |parts: &[(&str, &str)], asked| {
            let class = ("class", "org.apache.cassandra.locator.NetworkTopologyStrategy");
            let parts = parts.iter().chain([&class]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            one_datacenter(&all, &parts.collect(), asked)
        };
        assert_eq!(check(&[("east", "3")], Some("east")), Ok(()));
        assert_eq!(check(&[("east", "3"), ("west", "0")], Some("east")), Ok(()));
        assert!(check(&[("east", "3")], None).unwrap_err().contains("--cql-datacenter"));
        assert!(check(&[("east", "3")], Some("north")).unwrap_err().contains("east, west"));
        assert!(check(&[("east", "3")], Some("west")).is_err(), "its nodes have no replicas");
        for both in [&[("east", "3"), ("west", "3")][..], &[("replication_factor", "3")]] {
            assert!(check(both, Some("east")).unwrap_err().contains("east alone"));
        }
    }
}
