//! The statements themselves, on a real server. `ops/cql-tests.sh` runs them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use meed_engine::error::Result;
use meed_engine::journal::cql::{Cql, CqlConfig, CqlReader, ShardJournal, Statements, claim, open_keyspace};
use meed_engine::journal::frame;
use meed_engine::ownership::Ownership;
use meed_schemas::ids::Position;

fn config(keyspace: &str) -> CqlConfig {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ops/cql-tests.sh"));
    let password = std::fs::read_to_string(variable("MEED_TEST_CQL_PASSWORD")).unwrap();
    CqlConfig {
        hosts: vec![variable("MEED_TEST_CQL")],
        keyspace: keyspace.to_owned(),
        credentials: Some(("cassandra".to_owned(), password.trim().to_owned())),
        datacenter: None,
        replicas: 1,
        appends: 4,
        timeout: Duration::from_secs(5),
        lease: Duration::from_secs(2),
        bucket_bytes: 256,
        node_name: "test".to_owned(),
        address: "127.0.0.1:1".to_owned(),
    }
}

/// One record after another, each a batch of its own.
fn frames(shard: u16, sequence: u64, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = frame::begin(&mut bytes, Position::new(shard, sequence));
    bytes.extend_from_slice(text.as_bytes());
    frame::finish(&mut bytes, start).unwrap();
    bytes
}

struct Owner {
    journals: Vec<ShardJournal>,
    reader: CqlReader,
    last: u64,
}

fn own(cql: &Arc<Cql>, config: &CqlConfig) -> Owner {
    let statements = Arc::new(Statements::prepare(cql).unwrap());
    let ownership = Arc::new(Ownership::new(2));
    let (claimed, extents) = claim(cql, &statements, 2).unwrap();
    let last = claimed[1].last_sequence;
    let reader = CqlReader::new(Arc::clone(cql), Arc::clone(&statements), Arc::clone(&extents), 1);
    let journals = claimed.into_iter().map(|one| {
        let (cql, statements) = (Arc::clone(cql), Arc::clone(&statements));
        ShardJournal::new(cql, statements, Arc::clone(&extents), Arc::clone(&ownership), one, config).unwrap()
    });
    Owner { journals: journals.collect(), reader, last }
}

impl Owner {
    fn append(&mut self, cql: &Cql, sequence: u64, text: &str) -> Result<()> {
        cql.block_on(self.journals[1].append(&frames(1, sequence, text), sequence, 1))
    }

    fn all(&self, from: u64) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let visit = &mut |position: Position, payload: &[u8]| {
            found.push((position.sequence(), String::from_utf8(payload.to_vec()).unwrap()));
            Ok(())
        };
        self.reader.scan(&[0, from], &|_| true, visit).unwrap();
        found
    }
}

#[test]
fn owners_follow_each_other_over_many_buckets() {
    let config = config("owners");
    let cql = Cql::connect(&config).unwrap();
    let made = open_keyspace(&cql, &config, Some(2)).unwrap();
    assert!(made.created);
    let again = open_keyspace(&cql, &config, None).unwrap();
    assert!(!again.created && again.secrets == made.secrets && again.journal_id == made.journal_id);

    let mut old = own(&cql, &config);
    assert_eq!(old.last, 0);
    for sequence in 1..=20 {
        old.append(&cql, sequence, &format!("old {sequence}")).unwrap();
    }
    assert_eq!(old.all(0).len(), 20);
    assert_eq!(old.all(17), (18..=20).map(|n| (n, format!("old {n}"))).collect::<Vec<_>>());
    for sequence in [1, 7, 20] {
        let read = old.reader.read(Position::new(1, sequence)).unwrap().unwrap();
        assert_eq!(read, format!("old {sequence}").as_bytes());
    }
    assert_eq!(old.reader.read(Position::new(1, 21)).unwrap(), None);

    // Another claims; the one before can append nothing any more, and what it appended is all there.
    let mut new = own(&cql, &config);
    assert_eq!(new.last, 20);
    let refused = old.append(&cql, 21, "too late").unwrap_err();
    assert!(refused.to_string().contains("another node owns shard 1"), "{refused}");
    for sequence in 21..=40 {
        new.append(&cql, sequence, &format!("new {sequence}")).unwrap();
    }
    let all = new.all(0);
    assert_eq!(all.len(), 40);
    assert!(all[20..].iter().all(|(sequence, text)| *text == format!("new {sequence}")));
    let third = own(&cql, &config);
    assert_eq!((third.last, third.all(0)), (40, all));
    cql.close();
}

#[test]
fn tables_of_another_form_are_refused_and_left_alone() {
    let config = config("old_form");
    let cql = Cql::connect(&config).unwrap();
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}";
    let of = |text: &str| cql.block_on(cql.create(text));
    of(&format!("CREATE KEYSPACE IF NOT EXISTS old_form WITH replication = {replication}")).unwrap();
    let text = "CREATE TABLE IF NOT EXISTS journal (shard int, bucket bigint, seq bigint, payload blob, \
                PRIMARY KEY ((shard, bucket), seq))";
    of(text).unwrap();
    // The second time it says the same: nothing was added or taken away.
    for _ in 0..2 {
        let refused = open_keyspace(&cql, &config, None).unwrap_err().to_string();
        assert!(refused.contains("table old_form.journal") && refused.contains("it has [payload blob]"), "{refused}");
        assert!(refused.contains("lacks [bid blob, body blob, count int, epoch bigint"), "{refused}");
    }
    cql.close();
}
