//! Publishing against a broker within the process: nothing is missing, nothing is out of order, and what is
//! sent twice is the same, whatever the broker does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use meed_schemas::command::References;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::program::{BUILT_IN_DOCUMENT, BUILT_IN_NAME, Document};
use meed_schemas::record::{Detail, Record, RecordKind};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::mark::{Mark, MarkFile, Marks};
use super::{CurrentPrograms, Fencing, Publisher};
use crate::commit::Lane;
use crate::config::KafkaOptions;
use crate::disk::Disk;
use crate::journal::{Journal, JournalOptions, JournalReader, Prepare, Records};
use crate::metrics::PublishMetrics;
use crate::program::{Program, Programs};
use crate::test_record::earn;

const SHARDS: u16 = 3;
const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A journal that tests append to, and a broker.
struct Stage {
    folder: tempfile::TempDir,
    journal: Journal,
    reader: JournalReader,
    last: Vec<u64>,
    cluster: Cluster,
}

/// Position, key, value, headers and time of a message.
type Seen = (String, Vec<u8>, Vec<u8>, Vec<(String, Vec<u8>)>, Option<i64>);

impl Stage {
    fn new(partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = JournalOptions {
            segment_bytes: 1 << 20,
            prepare: Prepare::Steps,
            new_journal_id: Some(7),
            ..JournalOptions::new(SHARDS)
        };
        let (journal, reader, _) = Journal::open(Disk::default(), &folder.path().join("journal"), options).unwrap();
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["events", "balances"] {
            cluster.create_topic(topic, partitions, 1).unwrap();
        }
        Self { folder, journal, reader, last: vec![0; usize::from(SHARDS)], cluster }
    }

    /// Appends so many records to every shard, each seventh of them without an event.
    fn append(&mut self, count: u64) {
        let mut lane: Lane<()> = Lane::new(self.last.clone(), usize::MAX);
        for _ in 0..count {
            for shard in 0..SHARDS {
                let sequence = &mut self.last[usize::from(shard)];
                *sequence += 1;
                lane.append(&record(shard, *sequence)).unwrap();
            }
        }
        let (_, buffer) = lane.submit().unwrap();
        self.journal.write(&[buffer.part()]).unwrap();
        self.journal.sync().unwrap();
    }

    fn options(&self) -> KafkaOptions {
        KafkaOptions {
            brokers: self.cluster.bootstrap_servers(),
            events_topic: "events".into(),
            balances_topic: Some("balances".into()),
            balances_interval_ms: 50,
            properties: vec![("linger.ms".into(), "1".into())],
        }
    }

    fn publisher(&self) -> Publisher {
        publisher(self.options(), self.folder.path(), &self.reader, None)
    }

    fn mark_file(&self) -> (MarkFile, Option<Mark>) {
        MarkFile::open(&Disk::default(), self.folder.path(), 7, SHARDS).unwrap()
    }

    fn wait_until_published(&self, publisher: &Publisher) {
        let began = Instant::now();
        let needed_from = publisher.needed_from();
        let all: Vec<u64> = self.last.iter().map(|sequence| sequence + 1).collect();
        while needed_from().unwrap() != all {
            assert!(began.elapsed() < PATIENCE, "{:?} of {all:?}", needed_from().unwrap());
            std::thread::yield_now();
        }
    }

    /// Every message of a topic, partition by partition; each is in that of its shard.
    fn messages(&self, topic: &str) -> Vec<Seen> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "test")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut found = Vec::new();
        let partitions = metadata.topics()[0].partitions().len();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
            consumer.assign(&list).unwrap();
            for _ in 0..end {
                let began = Instant::now();
                // What is polled may be something else than a message.
                let message = loop {
                    if let Some(message) = consumer.poll(PATIENCE) {
                        break message.unwrap();
                    }
                    assert!(began.elapsed() < PATIENCE, "{topic} is not read");
                };
                let headers: Vec<(String, Vec<u8>)> = message
                    .headers()
                    .into_iter()
                    .flat_map(|headers| headers.iter())
                    .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                    .collect();
                let (key, value) = (message.key().unwrap().to_vec(), message.payload().unwrap().to_vec());
                let parsed: serde_json::Value = serde_json::from_slice(&value).unwrap();
                let position = parsed["transaction_id"].as_str().unwrap().to_owned();
                let shard = usize::from(Position::parse(&position).unwrap().shard());
                assert_eq!(usize::try_from(message.partition()), Ok(shard % partitions), "{topic}: {position}");
                found.push((position, key, value, headers, message.timestamp().to_millis()));
            }
        }
        found
    }

    /// The events without those that came again, which must be the same; checks that nothing is missing and
    /// that every shard is in order. Returns how many came again.
    fn check_events(&self) -> usize {
        let mut by_position: BTreeMap<String, Seen> = BTreeMap::new();
        let mut highest = vec![0; usize::from(SHARDS)];
        let mut again = 0;
        for message in self.messages("events") {
            let position = Position::parse(&message.0).unwrap();
            let highest = &mut highest[usize::from(position.shard())];
            if let Some(before) = by_position.get(&message.0) {
                assert_eq!(*before, message, "the same bytes");
                again += 1;
                continue;
            }
            assert!(position.sequence() > *highest, "{position} after {highest}");
            *highest = position.sequence();
            by_position.insert(message.0.clone(), message);
        }
        let expected = |shard: usize| (1..=self.last[shard]).filter(|sequence| has_event(*sequence)).count();
        assert_eq!(by_position.len(), (0..usize::from(SHARDS)).map(expected).sum::<usize>());
        again
    }

    /// The newest balance of every account is that of its newest effect.
    fn check_balances(&self) {
        let mut newest: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (position, key, ..) in self.messages("balances") {
            newest.insert(key, Position::parse(&position).unwrap().sequence());
        }
        let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for shard in 0..SHARDS {
            for sequence in (1..=self.last[usize::from(shard)]).filter(|sequence| has_event(*sequence)) {
                let id = record(shard, sequence).identity.id().to_owned();
                expected.insert(format!("default/member/{id}").into_bytes(), sequence);
            }
        }
        assert_eq!(newest, expected);
    }
}

fn publisher(options: KafkaOptions, folder: &Path, reader: &JournalReader, fencing: Option<Fencing>) -> Publisher {
    let document = Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap();
    let programs = Arc::new(Programs::default().with(Program::create(BUILT_IN_NAME, 0, document).unwrap()));
    let programs: CurrentPrograms = Arc::new(move || Arc::clone(&programs));
    let marks = Marks::in_folder(&Disk::default(), folder, 7, SHARDS).unwrap();
    let journal = Records::Embedded(reader.clone());
    Publisher::start(options, marks, fencing, journal, programs, PublishMetrics::register()).unwrap()
}

fn has_event(sequence: u64) -> bool {
    !sequence.is_multiple_of(7)
}

fn record(shard: u16, sequence: u64) -> Record {
    let position = Position::new(shard, sequence);
    let earned = earn(position, Identity::member("default", &format!("s{shard}-{}", sequence % 5)));
    let traced = || Box::new(References { traceparent: Some(TRACE.into()), ..References::default() });
    match has_event(sequence) {
        true => Record { references: sequence.is_multiple_of(2).then(traced), ..earned },
        false => {
            let detail = Detail::Key { target: Position::new(shard, 1) };
            Record { kind: RecordKind::Key, sequence: 0, detail, ..earned }
        }
    }
}

#[test]
fn everything_once_and_on_from_there() {
    let mut stage = Stage::new(2);
    stage.append(50);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    stage.append(20);
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    assert_eq!(stage.check_events(), 0);
    stage.append(30);
    let publisher = stage.publisher();
    publisher.stop(PATIENCE);
    let (_, mark) = stage.mark_file();
    let mark = mark.unwrap();
    assert_eq!((&mark.events.published, &mark.balances.published), (&stage.last, &stage.last), "a stop finishes");
    assert_eq!((mark.events.partitions, mark.balances.partitions), (2, 2));
    assert_eq!(stage.check_events(), 0, "nothing came again");
    stage.check_balances();
}

/// What the binding of CloudEvents to Kafka calls binary mode; readers rely on every name and every form.
#[test]
fn an_event_is_its_attributes_as_headers_its_key_and_the_time_of_its_record() {
    let mut stage = Stage::new(2);
    stage.append(12);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    let messages = stage.messages("events");
    for sequence in [11, 12] {
        let position = Position::new(1, sequence);
        let (_, key, _, headers, at) = messages.iter().find(|message| message.0 == position.to_string()).unwrap();
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap())).collect();
        let id = format!("{:032x}-1-{sequence}", 7);
        let account = format!("s1-{}", sequence % 5);
        let (recorded, of_account) = (format!("1970-01-01T00:00:01.0{sequence}Z"), format!("{sequence:020}"));
        let partition_key = format!("default/member/{account}");
        let mut expected = vec![
            ("ce_specversion", "1.0"),
            ("content-type", "application/json"),
            ("ce_id", &*id),
            ("ce_source", "/programs/default"),
            ("ce_type", "points.earned"),
            ("ce_subject", &account),
            ("ce_time", "1970-01-01T00:00:01.000Z"),
            ("ce_recordedtime", &recorded),
            ("ce_sequence", &of_account),
            ("ce_partitionkey", &partition_key),
        ];
        // Every second one of these records has a trace.
        expected.extend(sequence.is_multiple_of(2).then_some(("ce_traceparent", TRACE)));
        assert_eq!(headers, expected);
        assert_eq!((key.as_slice(), *at), (partition_key.as_bytes(), Some(1_000 + sequence as i64)));
    }
}

#[test]
fn what_comes_again_after_a_crash_is_the_same() {
    let mut stage = Stage::new(2);
    stage.append(10);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    // The file as it was before a crash that came after the broker had everything.
    let path = stage.folder.path().join("published");
    let before = std::fs::read(&path).unwrap();
    stage.append(40);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    std::fs::write(&path, &before).unwrap();
    stage.append(5);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    let again = stage.check_events();
    assert_eq!(again, 3 * (11..=50).filter(|sequence| has_event(*sequence)).count());
    stage.check_balances();
    // A file that says nothing begins at the beginning.
    std::fs::write(&path, vec![0; before.len()]).unwrap();
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    assert!(stage.check_events() > again);
    stage.check_balances();
}

#[test]
fn a_broker_that_goes_and_comes_back() {
    let mut stage = Stage::new(4);
    stage.append(10);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    stage.cluster.broker_down(1).unwrap();
    let before = stage.last.clone();
    stage.append(200);
    let began = Instant::now();
    // Told to end while nothing can be published, it does not wait longer than it may.
    publisher.stop(Duration::from_millis(200));
    assert!(began.elapsed() < PATIENCE / 2);
    assert_eq!(stage.mark_file().1.unwrap().events.published, before);
    let publisher = stage.publisher();
    stage.append(10);
    stage.cluster.broker_up(1).unwrap();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    stage.check_events();
    stage.check_balances();
}

#[test]
fn messages_that_are_refused_are_sent_again_in_order() {
    let mut stage = Stage::new(1);
    stage.append(10);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
    ] {
        stage.cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        stage.append(100);
        stage.wait_until_published(&publisher);
    }
    publisher.stop(PATIENCE);
    stage.check_events();
    stage.check_balances();
}

#[test]
fn a_topic_that_is_missing_is_waited_for() {
    let mut stage = Stage::new(2);
    stage.append(10);
    stage.cluster.topic_error("events", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let publisher = stage.publisher();
    publisher.stop(Duration::from_millis(100));
    assert!(stage.mark_file().1.is_none_or(|mark| mark.events.published == [0; SHARDS as usize]));
    let publisher = stage.publisher();
    stage.cluster.topic_error("events", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    assert_eq!(stage.check_events(), 0);
}

#[test]
fn another_number_of_partitions_is_refused() {
    let mut stage = Stage::new(2);
    stage.append(10);
    let publisher = stage.publisher();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    let (mut file, mark) = stage.mark_file();
    let mut mark = mark.unwrap();
    mark.events.partitions = 3;
    file.save(&mark).unwrap();
    stage.append(10);
    let publisher = stage.publisher();
    publisher.stop(Duration::from_millis(300));
    assert_eq!(stage.mark_file().1.unwrap(), mark, "nothing was published");
    // A topic of another name has a number of its own.
    stage.cluster.create_topic("events-2", 5, 1).unwrap();
    let options = KafkaOptions { events_topic: "events-2".into(), ..stage.options() };
    let publisher = publisher_of(options, &stage);
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    let whole = (1..=20).filter(|sequence| has_event(*sequence)).count() * usize::from(SHARDS);
    assert_eq!(stage.messages("events-2").len(), whole);
    // The first one's number stays pinned meanwhile.
    let publisher = stage.publisher();
    publisher.stop(Duration::from_millis(300));
    assert_eq!(stage.mark_file().1.unwrap().events.name, "events-2", "nothing was published");
}

fn publisher_of(options: KafkaOptions, stage: &Stage) -> Publisher {
    publisher(options, stage.folder.path(), &stage.reader, None)
}

/// Ownership that the test changes.
#[derive(Clone, Default)]
struct Owner {
    epoch: Arc<AtomicI64>,
    holds: Arc<AtomicBool>,
}

impl Owner {
    fn fencing(&self) -> Fencing {
        let (epoch, holds) = (Arc::clone(&self.epoch), Arc::clone(&self.holds));
        Fencing {
            epochs: Arc::new(move || vec![epoch.load(Ordering::Relaxed); usize::from(SHARDS)]),
            holds: Arc::new(move || holds.load(Ordering::Relaxed)),
            balance_timeout: Duration::from_secs(1),
        }
    }
}

#[test]
fn a_balance_that_the_owner_before_sent_late_is_replaced() {
    // On a busy machine the time of late messages may be over before the test has sent its own.
    assert!((0..5).any(|_| late_balance_is_replaced()));
}

/// False when the late one came only after the balances were sent once more.
fn late_balance_is_replaced() -> bool {
    let mut stage = Stage::new(2);
    stage.append(20);
    let owner = Owner::default();
    owner.epoch.store(1, Ordering::Relaxed);
    let publisher = publisher(stage.options(), stage.folder.path(), &stage.reader, Some(owner.fencing()));
    let began = Instant::now();
    while stage.mark_file().1.is_none() {
        assert!(began.elapsed() < PATIENCE, "it has no link");
    }
    assert!(stage.messages("events").is_empty(), "published without a lease");
    owner.holds.store(true, Ordering::Relaxed);
    // Everything is published once.
    let began = Instant::now();
    while stage.messages("balances").len() < 5 * usize::from(SHARDS) {
        assert!(began.elapsed() < PATIENCE);
    }
    // The owner before wakes, and one of its balances comes after the newer one.
    let of_shard_0 = |message: &Seen| message.1.starts_with(b"default/member/s0-");
    let newest = stage.messages("balances").into_iter().rfind(of_shard_0).unwrap();
    let stale = String::from_utf8(newest.2.clone()).unwrap().replace(&newest.0, &Position::new(0, 1).to_string());
    let brokers = stage.cluster.bootstrap_servers();
    let late: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    late.send(BaseRecord::to("balances").key(&newest.1).payload(&stale).partition(0)).unwrap();
    late.flush(PATIENCE).unwrap();
    stage.wait_until_published(&publisher);
    let sent = stage.messages("balances");
    let of_key = || sent.iter().filter(|message| message.1 == newest.1);
    if of_key().take_while(|message| message.2 != stale.as_bytes()).filter(|message| message.0 == newest.0).count() > 1
    {
        return false;
    }
    let last_of_key = of_key().next_back().unwrap();
    assert_eq!(last_of_key.0, newest.0, "the late one is the last one");
    assert_eq!(stage.check_events(), 0, "events need not be sent again");
    // Another owner has had the shards meanwhile: publishing goes on behind the mark.
    owner.epoch.store(3, Ordering::Relaxed);
    stage.append(20);
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    stage.check_events();
    true
}

#[test]
fn a_balance_that_does_not_come_in_time_is_sent_again_and_no_event_with_it() {
    let mut stage = Stage::new(2);
    stage.append(20);
    let owner = Owner::default();
    owner.epoch.store(1, Ordering::Relaxed);
    owner.holds.store(true, Ordering::Relaxed);
    let publisher = publisher(stage.options(), stage.folder.path(), &stage.reader, Some(owner.fencing()));
    stage.wait_until_published(&publisher);
    // Every balance comes later than it may, as long as the broker is so slow; events have all the time they need.
    stage.cluster.broker_round_trip_time(1, Duration::from_millis(2_500)).unwrap();
    stage.append(20);
    let began = Instant::now();
    while stage.mark_file().1.is_none_or(|mark| mark.events.published != stage.last) {
        assert!(began.elapsed() < PATIENCE);
    }
    assert_ne!(publisher.needed_from()().unwrap(), stage.last.iter().map(|last| last + 1).collect::<Vec<_>>());
    stage.cluster.broker_round_trip_time(1, Duration::ZERO).unwrap();
    stage.wait_until_published(&publisher);
    publisher.stop(PATIENCE);
    assert_eq!(stage.check_events(), 0, "no event was sent again");
    stage.check_balances();
}
