//! Kafka's client: an idempotent producer whose messages never time out, so that nothing is skipped and
//! nothing overtakes. Where shards change their owner, balances have a producer of their own, whose messages do: each
//! stands for itself, and a late one would replace a newer one. It knows no journal.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meed_schemas::event::{Attributes, MEDIA_TYPE, SPEC_VERSION};
use meed_schemas::ids::Position;
use meed_schemas::time::Millis;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::flow::{Sent, Topics};
use super::mark::TopicMark;
use crate::config::KafkaOptions;

/// Longest wait for the description of a topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages and kilobytes that the client may hold: the bound of memory while a broker is slow or gone.
const QUEUE_MESSAGES_MAX: &str = "100000";
const QUEUE_KILOBYTES_MAX: &str = "65536";
/// Most attributes of an event, with version and media type.
const HEADERS_MAX: usize = 12;
/// Answers of brokers that are taken at a time.
const EVENTS_PER_TURN_MAX: usize = 10_000;
/// Opaque of a balance: no record has sequence 0.
const BALANCE: usize = 0;

/// What the client is told whatever the settings say: without these the stream could have a gap, be out of
/// order or grow without bound. A message that timed out would be overtaken by the one behind it.
const FIXED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
    ("allow.auto.create.topics", "false"),
    ("queue.buffering.max.messages", QUEUE_MESSAGES_MAX),
    ("queue.buffering.max.kbytes", QUEUE_KILOBYTES_MAX),
];
/// What it is told unless the settings say otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "meed"),
    ("compression.type", "lz4"),
    ("linger.ms", "20"),
    ("batch.num.messages", "20000"),
    ("batch.size", "1000000"),
    ("reconnect.backoff.max.ms", "2000"),
    ("topic.metadata.propagation.max.ms", "5000"),
];
/// Other names of what is fixed, and what is fixed by being left as it is: with one of these no message would be
/// confirmed, or none be taken, or the newest be sent first.
const FIXED_TOO: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "request.required.acks",
    "delivery.timeout.ms",
    "retries",
    "message.send.max.retries",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "partitioner",
    "delivery.report.only.error",
    "transactional.id",
    "queuing.strategy",
];
/// Other names of properties, and those by which they are set here: of two names the client would take either one.
const ALIASES: &[(&str, &str)] = &[
    ("compression.codec", "compression.type"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.client.id"),
    ("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.client.secret"),
];
/// Compressions that the client is built with; others would need libraries.
const COMPRESSIONS: &[&str] = &["none", "snappy", "lz4"];

/// Why nothing is published at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// No broker answers.
    #[error("no broker answers: {0}")]
    Unreachable(String),
    /// The topic is not there.
    #[error("the topic {0} does not exist; create it")]
    TopicMissing(String),
    /// The topic has another number of partitions than at the first publication.
    #[error(
        "the topic {topic} has {found} partitions and had {pinned} at the first publication; accounts would change \
         their partition, so publish into a topic of another name"
    )]
    Partitions {
        /// Its name.
        topic: String,
        /// How many it has.
        found: u32,
        /// How many it had.
        pinned: u32,
    },
    /// A property of the client cannot be used.
    #[error("the Kafka client cannot be set up: {0}")]
    Setting(String),
    /// A message was refused for good; it is sent again.
    #[error("Kafka refused a message: {0}; it is sent again")]
    Refused(String),
    /// The journal cannot be read.
    #[error("{0}")]
    Journal(String),
}

/// What the client has told.
#[derive(Debug, Default)]
struct State {
    confirmed: Mutex<Vec<usize>>,
    balances: AtomicUsize,
    /// Balances that did not come in time.
    lost_balances: AtomicUsize,
    refused: Mutex<Option<String>>,
    /// How often the client has told anything.
    told: AtomicUsize,
}

#[derive(Clone, Debug)]
struct Context(Arc<State>);

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.told.fetch_add(1, Ordering::Relaxed);
        // A broker that is gone says so many times a second; the lag is a metric.
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        self.0.told.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(_) if opaque == BALANCE => {
                self.0.balances.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner).push(opaque),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut), _)) if opaque == BALANCE => {
                self.0.lost_balances.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                let mut refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// A topic, and over how many partitions the shards are spread.
#[derive(Clone, Debug)]
struct Topic {
    name: String,
    partitions: u32,
}

impl Topic {
    fn partition_of(&self, shard: u16) -> i32 {
        i32::try_from(u32::from(shard) % self.partitions.max(1)).unwrap_or(0)
    }
}

/// A connection to brokers that have the topics.
pub(super) struct Link {
    producer: BaseProducer<Context>,
    balances_producer: Option<BaseProducer<Context>>,
    state: Arc<State>,
    events: Topic,
    balances: Option<Topic>,
}

impl Link {
    /// Connects, and looks at the topics: `events` and, when it has a name, `balances`. A balance that is not confirmed
    /// within `balance_timeout` is lost.
    pub(super) fn connect(
        options: &KafkaOptions,
        events: &TopicMark,
        balances: &TopicMark,
        balance_timeout: Option<Duration>,
    ) -> Result<Self, Trouble> {
        let state = Arc::new(State::default());
        let producer_of = |config: ClientConfig| -> Result<BaseProducer<Context>, Trouble> {
            let created = config.create_with_context(Context(Arc::clone(&state)));
            created.map_err(|error| Trouble::Setting(without_value(&error)))
        };
        let producer = producer_of(client_config(options)?)?;
        let events = describe(&producer, events)?;
        let balances = if balances.name.is_empty() { None } else { Some(describe(&producer, balances)?) };
        let balances_producer = match balance_timeout.filter(|_| balances.is_some()) {
            Some(timeout) => {
                let mut config = client_config(options)?;
                config.set("message.timeout.ms", timeout.as_millis().max(1).to_string());
                // Else one that is lost would end the producer: each stands for itself.
                config.set("enable.gapless.guarantee", "false");
                Some(producer_of(config)?)
            }
            None => None,
        };
        Ok(Self { producer, balances_producer, state, events, balances })
    }

    /// The partitions of the two topics; 0 for none.
    pub(super) fn partitions(&self) -> (u32, u32) {
        (self.events.partitions, self.balances.as_ref().map_or(0, |topic| topic.partitions))
    }

    /// Why a message was refused for good, if one was.
    pub(super) fn refused(&self) -> Option<String> {
        self.state.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Topics for Link {
    fn send_event(&self, position: Position, at: Millis, attributes: &Attributes, data: &[u8]) -> Sent {
        let mut headers = OwnedHeaders::new_with_capacity(HEADERS_MAX)
            .insert(Header { key: "ce_specversion", value: Some(SPEC_VERSION) })
            .insert(Header { key: "content-type", value: Some(MEDIA_TYPE) });
        for (key, value) in attributes.headers() {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let opaque = usize::try_from(position.to_u64()).unwrap_or(BALANCE);
        let record = BaseRecord::with_opaque_to(&self.events.name, opaque)
            .partition(self.events.partition_of(position.shard()))
            .timestamp(at)
            .key(attributes.key())
            .payload(data)
            .headers(headers);
        taken(self.producer.send(record).map_err(|(error, _)| error))
    }

    fn send_balance(&self, shard: u16, at: Millis, key: &[u8], value: &[u8]) -> Sent {
        let Some(topic) = &self.balances else { return Sent::Refused("there is no topic of balances".into()) };
        let record = BaseRecord::with_opaque_to(&topic.name, BALANCE)
            .partition(topic.partition_of(shard))
            .timestamp(at)
            .key(key)
            .payload(value);
        let producer = self.balances_producer.as_ref().unwrap_or(&self.producer);
        taken(producer.send(record).map_err(|(error, _)| error))
    }

    /// What the client has to tell is asked for here, by the thread that also hands messages over: a thread of the
    /// client's own would be woken for every answer of a broker, and would free what another thread has allocated.
    fn take_confirmed(&self, into: &mut Vec<usize>) {
        into.clear();
        for producer in std::iter::once(&self.producer).chain(&self.balances_producer) {
            // A poll without a wait handles one event: mostly an answer, with all the messages that it confirms.
            for _ in 0..EVENTS_PER_TURN_MAX {
                let told = self.state.told.load(Ordering::Relaxed);
                producer.poll(Duration::ZERO);
                if self.state.told.load(Ordering::Relaxed) == told {
                    break;
                }
            }
        }
        std::mem::swap(into, &mut self.state.confirmed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take_confirmed_balances(&self) -> (usize, usize) {
        (self.state.balances.swap(0, Ordering::Relaxed), self.state.lost_balances.swap(0, Ordering::Relaxed))
    }
}

/// What is wrong with a setting, without its value, which may be a secret.
fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, name, value) if !value.is_empty() => {
            format!("{name}: {}", description.trim().replace(value, "…"))
        }
        other => other.to_string(),
    }
}

fn taken(sent: Result<(), KafkaError>) -> Sent {
    match sent {
        Ok(()) => Sent::Taken,
        Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => Sent::Full,
        Err(error) => Sent::Refused(error.to_string()),
    }
}

fn client_config(options: &KafkaOptions) -> Result<ClientConfig, Trouble> {
    check_properties(&options.properties).map_err(Trouble::Setting)?;
    let mut config = with_properties(&options.properties);
    config.set("bootstrap.servers", &options.brokers);
    Ok(config)
}

fn with_properties(properties: &[(String, String)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    let given = properties.iter().map(|(name, value)| (usual_name(name), value.as_str()));
    for (name, value) in DEFAULTS.iter().copied().chain(given).chain(FIXED.iter().copied()) {
        config.set(name, value);
    }
    config
}

/// The name by which a property is set here.
fn usual_name(name: &str) -> &str {
    ALIASES.iter().find(|alias| alias.0 == name).map_or(name, |alias| alias.1)
}

/// Whether the client may have these properties.
///
/// # Errors
/// One that is fixed, or given twice; one that the client does not know, or not with this value.
pub(super) fn check_properties(properties: &[(String, String)]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, value) in properties {
        if FIXED.iter().any(|(fixed, _)| fixed == name) || FIXED_TOO.contains(&name.as_str()) {
            return Err(format!("the property {name} is fixed: the stream would not be what it promises"));
        }
        if !seen.insert(usual_name(name)) {
            return Err(format!("the property {name} is given twice"));
        }
        if usual_name(name) == "compression.type" && !COMPRESSIONS.contains(&value.as_str()) {
            return Err(format!("the property {name}: this build of the client has {}", COMPRESSIONS.join(", ")));
        }
    }
    let refused = with_properties(properties).create_native_config().err();
    refused.map_or(Ok(()), |error| Err(format!("the Kafka client cannot be set up: {}", without_value(&error))))
}

fn describe(producer: &BaseProducer<Context>, mark: &TopicMark) -> Result<Topic, Trouble> {
    let name = mark.name.clone();
    let metadata = producer.client().fetch_metadata(Some(&name), METADATA_TIMEOUT);
    let metadata = metadata.map_err(|error| Trouble::Unreachable(error.to_string()))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let found = topic.filter(|topic| topic.error().is_none()).map_or(0, |topic| topic.partitions().len());
    let found = u32::try_from(found).unwrap_or(u32::MAX);
    match (found, mark.partitions) {
        (0, _) => Err(Trouble::TopicMissing(name)),
        (_, 0) => Ok(Topic { name, partitions: found }),
        (found, pinned) if found == pinned => Ok(Topic { name, partitions: found }),
        (found, pinned) => Err(Trouble::Partitions { topic: name, found, pinned }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_property_that_is_refused_does_not_show_its_value() {
        for (name, value) in [("ssl.key.password", "hunter2"), ("linger.ms", "hunter2"), ("no.such", "hunter2")] {
            let error = ClientConfig::new().set(name, value).create_native_config().err().unwrap();
            let text = without_value(&error);
            assert!(text.contains(name) && !text.contains(value), "{text}");
        }
    }

    #[test]
    fn what_the_stream_rests_on_cannot_be_set() {
        let given = |name: &str| check_properties(&[(name.to_owned(), "1".to_owned())]);
        for name in FIXED.iter().map(|f| f.0).chain(FIXED_TOO.iter().copied()) {
            assert!(given(name).unwrap_err().contains(name));
        }
        assert!(given("delivery.report.only.error").is_err(), "nothing would ever be confirmed");
        assert_eq!(given("batch.size"), Ok(()));
        for (name, other) in [("batch.size", "batch.size")].iter().chain(ALIASES) {
            let twice = [*name, *other].map(|name| (name.to_owned(), "none".to_owned()));
            assert!(check_properties(&twice).unwrap_err().contains("twice"));
        }
    }

    #[test]
    fn a_property_by_another_name_takes_the_place_of_ours() {
        for (name, usual, value) in
            [("compression.codec", "compression.type", "snappy"), ("queue.buffering.max.ms", "linger.ms", "7")]
        {
            let given = [(name.to_owned(), value.to_owned())];
            assert_eq!(check_properties(&given), Ok(()));
            let config = with_properties(&given);
            assert_eq!((config.get(name), config.get(usual)), (None, Some(value)));
            // The client takes it for the same.
            assert_eq!(config.create_native_config().unwrap().get(name).unwrap(), value);
        }
        // What we set by itself is under the usual name only.
        let ours = DEFAULTS.iter().map(|default| default.0);
        ours.for_each(|name| assert_eq!(usual_name(name), name));
    }

    /// Else the node would be ready and never publish.
    #[test]
    fn what_the_client_refuses_is_refused_at_start() {
        let given = |name: &str, value: &str| check_properties(&[(name.to_owned(), value.to_owned())]);
        for name in ["compression.type", "compression.codec"] {
            for built in COMPRESSIONS {
                assert_eq!(given(name, built), Ok(()));
            }
            for missing in ["gzip", "zstd", "best"] {
                let refused = given(name, missing).unwrap_err();
                assert!(refused.contains(name) && refused.contains("none, snappy, lz4"), "{refused}");
            }
        }
        for (name, value) in [("no.such", "1"), ("linger.ms", "soon"), ("security.protocol", "ssl")] {
            let refused = given(name, value).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
