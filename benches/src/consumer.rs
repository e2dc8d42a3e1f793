//! A sample consumer of meed's topics: it deduplicates, proves that there is no gap, and rebuilds every
//! balance from the changes that events tell. What it knows of the stream is what
//! `schemas/events/COMPATIBILITY.md` promises.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Longest wait for a message that is there.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The part of an event's data that is checked.
#[derive(Deserialize)]
struct Data<'a> {
    sequence: u64,
    /// A balance has none.
    #[serde(default)]
    points: i64,
    total_points: i64,
    available_points: i64,
    pending_points: i64,
    held_points: i64,
    debt_points: i64,
    #[serde(borrow, default)]
    lots: Vec<Change<'a>>,
}

impl Data<'_> {
    fn told(&self) -> [i64; 5] {
        [self.total_points, self.available_points, self.pending_points, self.held_points, self.debt_points]
    }
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    change: Cow<'a, str>,
    points: i64,
    #[serde(borrow)]
    activates_at: Option<Cow<'a, str>>,
}

/// A line of the journal's events, as `GET /api/v1/events` writes them.
#[derive(Deserialize)]
struct Line<'a> {
    id: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// An account as its events tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    sequence: u64,
    /// Sum of all `points`.
    points: i64,
    live: i64,
    held: i64,
    pending: i64,
    debt: i64,
    /// Total, available, pending, held and debt, as the newest event tells them. The first records of an
    /// operation tell the balances after all of it, so only those of the newest are compared.
    told: [i64; 5],
}

impl Account {
    /// The same as rebuilt from the changes.
    fn rebuilt(&self) -> [i64; 5] {
        let total = self.live + self.held - self.debt;
        [total, total - self.held, self.pending, self.held, self.debt]
    }

    fn apply(&mut self, change: &Change<'_>) -> Result<(), String> {
        let points = change.points;
        match (&*change.change, change.activates_at.is_some()) {
            ("granted", false) => self.live += points,
            ("granted", true) => self.pending += points,
            ("activated", _) => {
                self.pending -= points;
                self.live += points;
            }
            ("taken", false) | ("expired", _) => self.live -= points,
            ("taken", true) => self.pending -= points,
            ("held", _) => {
                self.live -= points;
                self.held += points;
            }
            ("released", _) => {
                self.held -= points;
                self.live += points;
            }
            ("captured", _) => self.held -= points,
            ("paid_debt", _) => {
                self.live -= points;
                self.debt -= points;
            }
            ("owed", _) => self.debt += points,
            ("expired_before", _) => {}
            (other, _) => return Err(format!("the change {other} is not known")),
        }
        Ok(())
    }
}

/// What a message is identified by, and what it must be when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    value: u64,
    rest: u64,
}

/// A consumer's memory, and what it found.
#[derive(Debug, Default)]
pub struct Check {
    accounts: HashMap<Box<[u8]>, Account>,
    seen: HashMap<Box<[u8]>, Print>,
    balances: HashMap<Box<[u8]>, (u64, [i64; 5])>,
    /// Events that came for the first time.
    pub events: u64,
    /// Events that came again; they were the same.
    pub again: u64,
    /// Messages of the compacted topic.
    pub balance_messages: u64,
}

impl Check {
    /// How many accounts there are.
    pub fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// What the compacted topic says of an account: sequence; total, available, pending, held and debt.
    pub fn newest_balance(&self, key: &[u8]) -> Option<(u64, [i64; 5])> {
        self.balances.get(key).copied()
    }

    /// Takes an event: its id, sequence and key, all of its headers and its value.
    ///
    /// # Errors
    /// What is wrong with the stream, in words.
    pub fn event(&mut self, id: &[u8], key: &[u8], rest: &[u8], value: &[u8]) -> Result<(), String> {
        let name = || String::from_utf8_lossy(id).into_owned();
        let print = Print { value: xxh3_64(value), rest: xxh3_64(rest) };
        if let Some(before) = self.seen.get(id) {
            self.again += 1;
            return if *before == print { Ok(()) } else { Err(format!("{} came again with other bytes", name())) };
        }
        self.seen.insert(id.into(), print);
        self.events += 1;
        let data: Data<'_> = serde_json::from_slice(value).map_err(|error| format!("{}: {error}", name()))?;
        let account = match self.accounts.get_mut(key) {
            Some(account) => account,
            None => self.accounts.entry(key.into()).or_default(),
        };
        let expected = account.sequence + 1;
        if data.sequence != expected {
            let of = String::from_utf8_lossy(key);
            let what = if data.sequence > expected { "a gap" } else { "out of order" };
            return Err(format!("{what}: {of} has sequence {} where {expected} belongs", data.sequence));
        }
        account.sequence = data.sequence;
        account.points += data.points;
        for change in &data.lots {
            account.apply(change).map_err(|error| format!("{}: {error}", name()))?;
        }
        account.told = data.told();
        Ok(())
    }

    /// Takes a message of the compacted topic.
    ///
    /// # Errors
    /// A value that is none.
    pub fn balance(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let balance: Data<'_> = serde_json::from_slice(value).map_err(|error| format!("a balance: {error}"))?;
        self.balance_messages += 1;
        // The topic keeps the last one of a key, so that is the one that counts.
        self.balances.insert(key.into(), (balance.sequence, balance.told()));
        Ok(())
    }

    /// Whether what was rebuilt is what the newest event and the compacted topic say, for every account.
    ///
    /// # Errors
    /// The first account for which it is not.
    pub fn finish(&self) -> Result<(), String> {
        for (key, account) in &self.accounts {
            let of = String::from_utf8_lossy(key);
            let rebuilt = account.rebuilt();
            if rebuilt != account.told {
                return Err(format!("{of}: rebuilt {rebuilt:?}, told {:?}", account.told));
            }
            if account.points != rebuilt[0] + rebuilt[2] {
                return Err(format!("{of}: the points of its events are {}, not {rebuilt:?}", account.points));
            }
        }
        for (key, (sequence, told)) in &self.balances {
            let of = String::from_utf8_lossy(key);
            match self.accounts.get(key) {
                Some(account) if (account.sequence, account.told) == (*sequence, *told) => {}
                Some(account) => {
                    let (at, is) = (account.sequence, account.told);
                    return Err(format!(
                        "{of}: the compacted topic says {told:?} at {sequence}, its events {is:?} at {at}"
                    ));
                }
                None => return Err(format!("{of} has a balance and no event")),
            }
        }
        Ok(())
    }

    /// Whether there is a balance of every account but those of programs.
    ///
    /// # Errors
    /// How many are missing.
    pub fn balances_are_whole(&self) -> Result<(), String> {
        let is_program = |key: &[u8]| key.windows(9).any(|part| part == b"/program/");
        let missing = self.accounts.keys().filter(|key| !is_program(key) && !self.balances.contains_key(*key)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} accounts are not in the compacted topic")) }
    }

    /// Compares with a program's events as the node tells them over HTTP, NDJSON: each was consumed with the same
    /// bytes. Returns how many there are.
    ///
    /// # Errors
    /// The first event that is not the same.
    pub fn compare(&self, lines: &str) -> Result<u64, String> {
        let mut count = 0;
        for line in lines.lines() {
            let line: Line<'_> = serde_json::from_str(line).map_err(|error| format!("a line of events: {error}"))?;
            let (Some(id), Some(data)) = (line.id, line.data) else { continue };
            match self.seen.get(id.as_bytes()) {
                Some(print) if print.value == xxh3_64(data.get().as_bytes()) => count += 1,
                Some(_) => return Err(format!("{id} was consumed with other bytes")),
                None => return Err(format!("{id} is in the journal and was not consumed")),
            }
        }
        Ok(count)
    }
}

/// Consumes a topic from its beginning to its end as it is now, all partitions at once. Returns how many messages there
/// were.
///
/// # Errors
/// What Kafka says; what `take` says.
pub fn consume(
    brokers: &str,
    topic: &str,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<(), String>,
) -> Result<u64, String> {
    let failed = |error: rdkafka::error::KafkaError| format!("{topic}: {error}");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "meed-consume")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "65536")
        .set("fetch.message.max.bytes", "4194304")
        .create()
        .map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), READ_TIMEOUT).map_err(failed)?;
    // By partition, the offset behind its last message; a partition that is through is not waited for.
    let mut ends = HashMap::new();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (begin, end) = consumer.fetch_watermarks(topic, partition.id(), READ_TIMEOUT).map_err(failed)?;
        if begin < end {
            ends.insert(partition.id(), end);
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut count, mut heard) = (0, Instant::now());
    while !ends.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            if heard.elapsed() > READ_TIMEOUT {
                return Err(format!("{topic}: nothing comes any more, and {} partitions are not through", ends.len()));
            }
            continue;
        };
        let message = message.map_err(failed)?;
        heard = Instant::now();
        let Some(end) = ends.get(&message.partition()).copied() else { continue };
        if message.offset() < end {
            take(&message)?;
            count += 1;
        }
        if message.offset() + 1 >= end {
            ends.remove(&message.partition());
        }
    }
    Ok(count)
}

/// Consumes both topics to their ends and checks all that can be checked.
///
/// # Errors
/// What is wrong with the stream, in words.
pub fn check_topics(brokers: &str, events: &str, balances: Option<&str>) -> Result<Check, String> {
    let mut check = Check::default();
    let mut rest = Vec::new();
    consume(brokers, events, |message| {
        rest.clear();
        let mut id: &[u8] = &[];
        for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
            rest.extend_from_slice(header.key.as_bytes());
            rest.extend_from_slice(header.value.unwrap_or_default());
            if header.key == "ce_id" {
                id = header.value.unwrap_or_default();
            }
        }
        let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
        rest.extend_from_slice(key);
        rest.extend_from_slice(&message.timestamp().to_millis().unwrap_or_default().to_le_bytes());
        check.event(id, key, &rest, value)
    })?;
    if let Some(topic) = balances {
        consume(brokers, topic, |message| {
            check.balance(message.key().unwrap_or_default(), message.payload().unwrap_or_default())
        })?;
    }
    check.finish()?;
    Ok(check)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn data(sequence: u64, points: i64, total: i64) -> Vec<u8> {
        format!(
            "{{\"sequence\":{sequence},\"points\":{points},\"total_points\":{total},\"available_points\":{total},\
             \"pending_points\":0,\"held_points\":0,\"debt_points\":0,\
             \"lots\":[{{\"change\":\"granted\",\"points\":{points}}}]}}"
        )
        .into_bytes()
    }

    /// A consumer that accepts everything would prove nothing.
    #[test]
    fn what_is_wrong_is_found() {
        let mut good = Check::default();
        for sequence in 1..=3 {
            let id = format!("j-0-{sequence}");
            let value = data(sequence, 10, 10 * sequence as i64);
            good.event(id.as_bytes(), b"p/member/m", b"r", &value).unwrap();
            good.event(id.as_bytes(), b"p/member/m", b"r", &value).unwrap();
        }
        good.balance(b"p/member/m", &data(3, 0, 30)).unwrap();
        good.finish().unwrap();
        good.balances_are_whole().unwrap();
        assert_eq!((good.events, good.again, good.accounts()), (3, 3, 1));
        assert!(good.event(b"j-0-3", b"p/member/m", b"s", &data(3, 10, 30)).unwrap_err().contains("other bytes"));
        assert!(good.event(b"j-0-3", b"p/member/m", b"r", &data(3, 11, 31)).unwrap_err().contains("other bytes"));
        assert!(good.event(b"j-0-5", b"p/member/m", b"r", &data(5, 10, 50)).unwrap_err().contains("a gap"));
        let mut late = Check::default();
        late.event(b"j-0-1", b"p/member/m", b"r", &data(1, 10, 10)).unwrap();
        assert!(late.event(b"j-0-9", b"p/member/m", b"r", &data(1, 10, 10)).unwrap_err().contains("out of order"));
        late.balance(b"p/member/m", &data(1, 0, 9)).unwrap();
        assert!(late.finish().unwrap_err().contains("compacted topic"));
        let mut wrong = Check::default();
        wrong.event(b"j-0-1", b"p/member/m", b"r", &data(1, 10, 11)).unwrap();
        assert!(wrong.finish().unwrap_err().contains("rebuilt"));
        assert!(wrong.balances_are_whole().is_err());
        let value = String::from_utf8(data(1, 10, 10)).unwrap();
        assert_eq!(late.compare(&format!("{{\"id\":\"j-0-1\",\"data\":{value}}}\n{{\"cursor\":\"x\"}}")), Ok(1));
        assert!(late.compare(&format!("{{\"id\":\"j-0-2\",\"data\":{value}}}")).unwrap_err().contains("not consumed"));
    }
}
