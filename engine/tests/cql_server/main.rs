//! The statements themselves, on a real server. `ops/cql-tests.sh` runs them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meed_engine::clock::SystemTimes;
use meed_engine::error::{Error, Result};
use meed_engine::journal::cql::{
    Appends, Cql, CqlConfig, CqlReader, Effect, History, ShardJournal, Statements, Trimmer, claim, open_keyspace,
};
use meed_engine::journal::{Records, frame};
use meed_engine::metrics::UpkeepMetrics;
use meed_engine::ownership::Ownership;
use meed_engine::reader::{ReadJob, Reader};
use meed_engine::store::cql::{AliasRow, CqlAliases, PublishedRows};
use meed_engine::trim::{Trim, Trimming};
use meed_schemas::codec;
use meed_schemas::command::References;
use meed_schemas::cql::FORMAT;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::record::{Detail, Record, RecordKind};

mod proxy;
#[path = "../../src/test_record.rs"]
mod test_record;

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
        batch_bytes: 1 << 10,
        node_name: "test".to_owned(),
        address: "127.0.0.1:1".to_owned(),
    }
}

/// A keyspace of two shards, made with its tables.
fn opened(keyspace: &str) -> (CqlConfig, Arc<Cql>) {
    let config = config(keyspace);
    let cql = Cql::connect(&config).unwrap();
    open_keyspace(&cql, &config, Some(2)).unwrap();
    (config, cql)
}

/// One record after another, each a batch of its own.
fn frames(shard: u16, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = frame::begin(&mut bytes, Position::new(shard, sequence));
    bytes.extend_from_slice(payload);
    frame::finish(&mut bytes, start).unwrap();
    bytes
}

fn record(sequence: u64, account: &str) -> Record {
    let earn = test_record::earn(Position::new(1, sequence), Identity::member("default", account));
    let is_expiry = sequence.is_multiple_of(3);
    Record {
        kind: if is_expiry { RecordKind::Expire } else { earn.kind },
        previous: sequence - 1,
        references: Some(Box::new(References { reference_id: Some("r".into()), ..References::default() })),
        detail: if is_expiry { Detail::None } else { earn.detail },
        ..earn
    }
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(record, &mut bytes);
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
    let history = Arc::new(History::prepare(cql).unwrap());
    let reader = CqlReader::new(Arc::clone(cql), Arc::clone(&statements), Arc::clone(&extents), history, 1);
    let journals = claimed.into_iter().map(|one| {
        let (cql, statements) = (Arc::clone(cql), Arc::clone(&statements));
        ShardJournal::new(cql, statements, Arc::clone(&extents), Arc::clone(&ownership), one, config).unwrap()
    });
    Owner { journals: journals.collect(), reader, last }
}

/// The buckets of shard 1 that are noted, with their first sequences.
fn noted(cql: &Cql) -> Vec<(i64, i64)> {
    cql.block_on(cql.rows("SELECT bucket, first_sequence FROM buckets WHERE shard = 1")).unwrap()
}

impl Owner {
    fn append(&mut self, cql: &Cql, sequence: u64, text: &str) -> Result<()> {
        self.append_bytes(cql, sequence, text.as_bytes())
    }

    fn append_bytes(&mut self, cql: &Cql, sequence: u64, payload: &[u8]) -> Result<()> {
        let appends = Appends::new(1);
        cql.block_on(self.journals[1].append(&appends, &frames(1, sequence, payload), sequence, 1))
    }

    fn removed(&self) -> u64 {
        self.reader.removed_sequence()[1]
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
fn a_batch_that_is_shorter_packed_is_packed() {
    let (config, cql) = opened("packed");
    let config = CqlConfig { bucket_bytes: 1 << 20, ..config };
    let mut owner = own(&cql, &config);
    let texts = ["short".to_owned(), "one record like the other, ".repeat(200), "the last".to_owned()];
    for (sequence, text) in (1..).zip(&texts) {
        owner.append(&cql, sequence, text).unwrap();
    }
    type Row = (i64, i32, Vec<u8>);
    let rows: Vec<Row> =
        cql.block_on(cql.rows("SELECT seq, bytes, body FROM journal WHERE shard = 1 AND bucket = 1")).unwrap();
    for ((sequence, bytes, body), text) in rows.iter().zip(&texts) {
        let frames = frames(1, u64::try_from(*sequence).unwrap(), text.as_bytes());
        assert_eq!(usize::try_from(*bytes).unwrap(), frames.len());
        let is_packed = text.len() > 1_000;
        assert!(if is_packed { body.len() < frames.len() / 10 } else { *body == frames }, "{} bytes", body.len());
    }
    // The next owner has nothing of it in memory.
    let next = own(&cql, &config);
    assert_eq!(next.all(0), (1..).zip(texts.clone()).collect::<Vec<_>>());
    for (sequence, text) in (1..).zip(&texts) {
        assert_eq!(next.reader.read(Position::new(1, sequence)).unwrap().unwrap(), text.as_bytes());
    }
    let text =
        format!("UPDATE journal SET bytes = {} WHERE shard = 1 AND bucket = 1 AND seq = 2 IF EXISTS", rows[1].1 + 1);
    cql.block_on(cql.create(&text)).unwrap();
    let damaged = next.reader.read(Position::new(1, 2)).unwrap_err().to_string();
    assert!(damaged.contains("shard 1, bucket 1"), "{damaged}");
    cql.close();
}

/// An owner that ends between opening a bucket and noting it, or between making a shard and noting its first one.
#[test]
fn a_bucket_that_its_owner_did_not_note_is_noted_by_the_next() {
    let (config, cql) = opened("unnoted");
    let mut owner = own(&cql, &config);
    for sequence in 1..=20 {
        owner.append(&cql, sequence, &format!("old {sequence}")).unwrap();
    }
    let all = owner.all(0);
    let before = noted(&cql);
    let (before_last, last) = (before[before.len() - 2].0, before[before.len() - 1].0);
    for is_hinted in [true, false] {
        cql.block_on(cql.create(&format!("DELETE FROM buckets WHERE shard = 1 AND bucket = {last}"))).unwrap();
        if !is_hinted {
            let text = format!("UPDATE shards SET head_hint = {before_last} WHERE shard = 1 IF EXISTS");
            cql.block_on(cql.create(&text)).unwrap();
        }
        let next = own(&cql, &config);
        assert_eq!((noted(&cql), next.last), (before.clone(), 20), "hinted: {is_hinted}");
        assert_eq!(next.all(0), all);
    }
    cql.close();
}

#[test]
fn old_buckets_go_up_to_the_last_that_is_sealed() {
    let (config, cql) = opened("removed");
    let mut new = own(&cql, &config);
    for sequence in 1..=40 {
        new.append(&cql, sequence, &format!("new {sequence}")).unwrap();
    }
    let third = own(&cql, &config);

    let mut owner = own(&cql, &config);
    let trimmer = Trimmer::prepare(&cql, owner.reader.clone()).unwrap();
    let oldest = trimmer.oldest(1).unwrap();
    trimmer.remove(&oldest).unwrap();
    assert_eq!(owner.removed(), oldest.up_to);
    assert_eq!(owner.reader.read(Position::new(1, oldest.up_to)).unwrap(), None, "it is gone, not damaged");
    assert!(owner.reader.read(Position::new(1, oldest.up_to + 1)).unwrap().is_some());
    assert_eq!(owner.all(0).first().unwrap().0, oldest.up_to + 1, "a scan begins with what is kept");
    // One who looked before it went finds that it has gone.
    assert_eq!(third.reader.removed_sequence()[1], 0);
    while let Some(spare) = trimmer.oldest(1) {
        trimmer.remove(&spare).unwrap();
    }
    assert!(owner.removed() > 15 && owner.removed() < 40, "{}", owner.removed());
    let refused = new.append(&cql, 41, "too late").unwrap_err();
    assert!(refused.to_string().contains("another node owns shard 1"), "{refused}");
    let kept = owner.all(0);
    owner.append(&cql, 41, "on").unwrap();
    let last = own(&cql, &config);
    assert_eq!((last.removed(), last.last), (owner.removed(), 41));
    assert_eq!(last.all(0)[..kept.len()], kept);
    // A removal that a crash cut short after its first step is finished.
    let first = last.removed() + 1;
    let before = noted(&cql);
    let bucket = before.iter().find(|(_, sequence)| *sequence as u64 == first).unwrap().0;
    let text = format!("UPDATE shards SET first_bucket = {} WHERE shard = 1 IF EXISTS", bucket + 1);
    cql.block_on(cql.create(&text)).unwrap();
    let after = own(&cql, &config);
    assert!(after.removed() > last.removed());
    assert_eq!(noted(&cql).len(), before.len());
    Trimmer::prepare(&cql, after.reader.clone()).unwrap().finish_removals(1).unwrap();
    assert_eq!(noted(&cql).len(), before.len() - 1);
    cql.close();
}

#[test]
fn a_bucket_stays_as_long_as_somebody_needs_it() {
    let (config, cql) = opened("trimmed");
    let mut owner = own(&cql, &config);
    for sequence in 1..=40 {
        owner.append_bytes(&cql, sequence, &encoded(&record(sequence, "m"))).unwrap();
    }
    let needed: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::new(AtomicU64::new(1))).collect();
    let checkpoint = |replay_start: u64| {
        let text = format!(
            "INSERT INTO checkpoints (shard, replay_start, totals_sequence, accounts, totals) \
             VALUES (1, {replay_start}, 0, 0, 0x00) USING TIMESTAMP {replay_start}"
        );
        cql.block_on(cql.create(&text)).unwrap();
    };
    let of = |sequence: &Arc<AtomicU64>| {
        let sequence = Arc::clone(sequence);
        Box::new(move || Ok(vec![0, sequence.load(Ordering::Relaxed)])) as Box<dyn Fn() -> _ + Send>
    };
    let trimming = Trimming::start(Trim {
        trimmer: Trimmer::prepare(&cql, owner.reader.clone()).unwrap(),
        needed_from: needed.iter().map(of).collect(),
        is_clock_trusted: Box::new(|| true),
        times: (SystemTimes::start(), 60_000),
        retention_ms: Some(0),
        interval: Duration::from_millis(5),
        metrics: UpkeepMetrics::register(),
    })
    .unwrap();
    // Each of the three in turn is the one that needs what the others do not.
    let (mut at, mut floor) = ([0_u64; 3], 0);
    for step in 0..6 {
        at[step % 3] += 15;
        match step % 3 {
            0 => checkpoint(at[0] + 1),
            other => needed[other - 1].store(at[other] + 1, Ordering::Relaxed),
        }
        let lowest = at.into_iter().min().unwrap();
        let began = Instant::now();
        while lowest > 0 && owner.removed() + 4 < lowest {
            assert!(began.elapsed() < Duration::from_secs(30), "{} of {at:?}", owner.removed());
            std::thread::yield_now();
        }
        assert!(owner.removed() <= lowest && owner.removed() >= floor, "{} of {at:?}", owner.removed());
        floor = owner.removed();
    }
    assert!(floor > 20);
    trimming.stop();
    cql.close();
}

#[test]
fn the_history_is_read_as_it_was_written() {
    let (_, cql) = opened("rows");
    let history = History::prepare(&cql).unwrap();
    // Over the end of a part of an account's history.
    let sequences: Vec<u64> = (1_048_570..1_048_590).collect();
    let of = |account: &str, sequence: &u64| {
        let record = record(*sequence, account);
        Effect { payload: encoded(&record), tier: Some("BASE".into()), record }
    };
    let effects: Vec<Effect> = sequences.iter().flat_map(|s| [of("m-1", s), of("m-2", s)]).collect();
    history.write(&effects).unwrap();
    // Again, as after a crash.
    history.write(&effects[..7]).unwrap();
    let identity = Identity::member("default", "m-1");
    let page = |from: u64, kind, limit| -> Vec<u64> {
        let rows = history.page(&identity, Position::new(1, from), kind, limit).unwrap();
        rows.iter().for_each(|(position, payload)| {
            assert_eq!(*payload, encoded(&record(position.sequence(), "m-1")));
        });
        rows.into_iter().map(|(position, _)| position.sequence()).collect()
    };
    let newest_first = |from, to| (to..=from).rev().collect::<Vec<u64>>();
    assert_eq!(page(1_048_589, None, 5), newest_first(1_048_589, 1_048_585));
    assert_eq!(page(1_048_589, None, 100), newest_first(1_048_589, 1_048_576), "the newest part");
    assert_eq!(page(1_048_575, None, 100), newest_first(1_048_575, 1_048_570));
    let expired: Vec<u64> = newest_first(1_048_589, 1_048_576).into_iter().filter(|s| s % 3 == 0).collect();
    assert_eq!(page(1_048_589, Some(RecordKind::Expire), 100), expired);
    assert_eq!(page(1_048_589, Some(RecordKind::Expire), 2), expired[..2]);
    type Shown = (String, i64, i64, String, String, String);
    let text = "SELECT type, points, total_points, tier, reference_id, transaction_id FROM history \
                WHERE program = 'default' AND kind = 'member' AND account = 'm-2' AND part = 0 AND position = 1048573";
    let shown = cql.block_on(cql.rows::<Shown>(text)).unwrap();
    let id = Position::new(1, 1_048_573).to_string();
    let expected = ("EARN".to_owned(), 1, 1_048_573, "BASE".to_owned(), "r".to_owned(), id);
    assert_eq!(shown, [expected]);
    assert_eq!(history.saved(1).unwrap(), 0);
    history.save(1, 12).unwrap();
    history.save(1, 9).unwrap();
    assert_eq!(history.saved(1).unwrap(), 12, "an owner that slept takes nothing back");
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
        assert!(
            refused.contains("lacks [bid blob, body blob, bytes int, count int, epoch bigint (static)"),
            "{refused}"
        );
    }
    cql.close();
}

/// The same columns under another key are another table: rows would replace each other, or be read in another order.
#[test]
fn tables_with_another_key_and_keyspaces_of_a_newer_format_are_refused() {
    let (config, cql) = opened("other_key");
    let of = |text: &str| cql.block_on(cql.create(text)).unwrap();
    let key = |table: &str, key: &str| {
        let tables = meed_schemas::cql::tables();
        let statement = tables.iter().find(|one| one.name == table).unwrap().statement;
        let columns = &statement[format!("CREATE TABLE {table}").len()..statement.find("PRIMARY KEY").unwrap()];
        of(&format!("DROP TABLE other_key.{table}"));
        of(&format!("CREATE TABLE IF NOT EXISTS {table}{columns}{key}"));
        open_keyspace(&cql, &config, None).map_err(|refused| refused.to_string())
    };
    let refused = key("buckets", "PRIMARY KEY ((shard, bucket)))").unwrap_err();
    assert!(refused.contains("it has [bucket bigint (partition key 1)]"), "{refused}");
    assert!(refused.contains("lacks [bucket bigint (clustering key 0)]"), "{refused}");
    key("buckets", "PRIMARY KEY (shard, bucket))").unwrap();
    let refused = key("history", "PRIMARY KEY ((program, kind, account, part), position))").unwrap_err();
    assert!(refused.contains("it has [position bigint (clustering key 0)]"), "{refused}");
    assert!(refused.contains("lacks [position bigint (clustering key 0, descending)]"), "{refused}");
    let with_order = "PRIMARY KEY ((program, kind, account, part), position)) WITH CLUSTERING ORDER BY (position DESC)";
    key("history", with_order).unwrap();
    let of_format = |format| {
        of(&format!("UPDATE cluster SET format = {format} WHERE id = 'meed' IF EXISTS"));
        open_keyspace(&cql, &config, None).unwrap_err()
    };
    let refused = of_format(FORMAT + 1);
    assert!(matches!(refused, Error::NewerFormat { found: 3, known: 2, .. }), "{refused}");
    // Its tables are those of now, what is in them need not be.
    let refused = of_format(FORMAT - 1).to_string();
    assert!(refused.contains("it is of version 1, and this is meed with version 2"), "{refused}");
    cql.close();
}

#[test]
fn the_partitions_of_a_topic_are_those_of_its_first_publication_for_ever() {
    let (_, cql) = opened("pinned");
    let rows = PublishedRows::open(&cql).unwrap();
    assert_eq!(rows.read("events", 2).unwrap(), (0, vec![0, 0]));
    // A shard's row may be there before.
    rows.put("events", 1, 7).unwrap();
    // Of nodes that begin at once the first one counts.
    let pinned: Vec<u32> = std::thread::scope(|scope| {
        let rows = &rows;
        let pins: Vec<_> = (4..8).map(|asked| scope.spawn(move || rows.pin("events", asked).unwrap())).collect();
        pins.into_iter().map(|pin| pin.join().unwrap()).collect()
    });
    assert!(pinned.iter().all(|count| *count == pinned[0] && (4..8).contains(count)), "{pinned:?}");
    assert_eq!(rows.pin("events", 9).unwrap(), pinned[0]);
    assert_eq!(rows.pin("balances", 9).unwrap(), 9, "every topic has its own");
    assert_eq!(rows.read("events", 2).unwrap(), (pinned[0], vec![0, 7]));
    cql.close();
}

#[test]
fn an_alias_is_listed_for_no_account_that_did_not_get_it() {
    let (_, cql) = opened("aliases");
    let aliases = CqlAliases::open(&cql).unwrap();
    let row = |account: &[u8]| AliasRow { account: account.to_vec(), sealed: b"sealed".to_vec() };
    assert!(aliases.give(b"phone", &row(b"m-1"), b"text").unwrap());
    assert!(!aliases.give(b"phone", &row(b"m-2"), b"text").unwrap(), "m-1 has it");
    assert_eq!(aliases.listed(b"m-2").unwrap(), []);
    assert!(!aliases.give(b"phone", &row(b"m-1"), b"text").unwrap(), "as when an answer was lost");
    assert_eq!(aliases.listed(b"m-1").unwrap(), [(b"phone".to_vec(), b"text".to_vec())]);
    aliases.take(b"phone", b"m-1").unwrap();
    assert!(aliases.give(b"phone", &row(b"m-2"), b"text").unwrap());
    assert_eq!((aliases.listed(b"m-1").unwrap().len(), aliases.listed(b"m-2").unwrap().len()), (0, 1));
    cql.close();
}

#[test]
fn the_connection_ends_when_no_reading_thread_uses_it_any_more() {
    const READS: u64 = 2_000;
    const UNDER_WAY: u64 = 50;
    let (config, cql) = opened("reading");
    let owner = own(&cql, &config);
    let (told, began) = std::sync::mpsc::channel();
    let done = Arc::new(AtomicU64::new(0));
    let job = |_| {
        let (told, done, cql) = (told.clone(), Arc::clone(&done), Arc::clone(&cql));
        ReadJob::Feed(Box::new(move |_| {
            told.send(()).unwrap();
            noted(&cql);
            done.fetch_add(1, Ordering::AcqRel);
        }))
    };
    let fault = Arc::new(|error: Error| panic!("{error}"));
    let reader = Reader::start(Records::Cql(owner.reader), "reader", 4, fault).unwrap();
    reader.submit((0..READS).map(job).collect());
    (0..UNDER_WAY).for_each(|_| began.recv_timeout(Duration::from_secs(30)).unwrap());
    reader.stop();
    cql.close();
    assert_eq!(began.try_iter().count() as u64 + UNDER_WAY, done.load(Ordering::Acquire), "a read was broken off");
}
