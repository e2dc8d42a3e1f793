//! Publishing a part of a stopped node's journal once more, into any topic: for a reader that lost its own.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use meed_schemas::event::write_data;
use meed_schemas::ids::{AccountKind, Position};

use super::Range;
use super::flow::{Sent, Topics};
use super::kafka::Link;
use super::mark::TopicMark;
use super::outbox::Outbox;
use crate::account::Account;
use crate::config::KafkaOptions;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::feed::{Next, Reached, Rendering, read_on};
use crate::folder::FolderIdentity;
use crate::journal::{JournalReader, Records};
use crate::program::{Programs, with_version};
use crate::store::{Store, StoreOptions};

/// Messages that may wait for a confirmation, and records that are read before they are looked at.
const WINDOW: usize = 32_768;
/// Pace of looking for confirmations.
const POLL: Duration = Duration::from_millis(10);

/// Publishes the events of a range into the topic of `options`, with the same bytes as the first time, and
/// returns how many there were when all are confirmed. The node's own watermark is not touched.
///
/// # Errors
/// The folder cannot be read, is damaged, or another process holds it; what Kafka refuses.
pub fn replay(data: &Path, options: &KafkaOptions, range: &Range) -> Result<u64> {
    let disk = Disk::default();
    let folder = FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock(data)?;
    let (journal, _) = JournalReader::open(disk, &data.join("journal"))?;
    let journal = Records::Embedded(journal);
    let programs = RwLock::new(stored_programs(data, &folder)?);
    let current = || Arc::new(programs.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone());
    let topic = TopicMark { name: options.events_topic.clone(), ..TopicMark::default() };
    let failed = |trouble: super::kafka::Trouble| Error::Publish(trouble.to_string());
    let link = Link::connect(options, &topic, &TopicMark::default(), None).map_err(failed)?;
    let mut from = journal.removed_sequence()?;
    let mut outbox = Outbox::new(&from);
    let (mut count, mut confirmed, mut value) = (0, Vec::new(), Vec::new());
    loop {
        let mut rendering = Rendering::new(journal.journal_id(), &current);
        let room = WINDOW.saturating_sub(outbox.waiting());
        let mut is_full = room == 0;
        let read = read_on(&journal, &mut from, room, &mut |record, _| {
            if record.identity.kind() == AccountKind::Program
                && let meed_schemas::record::Detail::Program { document } = &record.detail
            {
                let (name, number) = (record.identity.program(), record.program_version);
                let next = with_version(&current(), name, number, record.recorded_at, document)?;
                *programs.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
            }
            let position = record.position;
            if !range.has(record) {
                return Ok(Next::More);
            }
            let sent = rendering.of(record, |attributes, documents| {
                value.clear();
                write_data(&mut value, record, documents);
                link.send_event(position, record.recorded_at, attributes, &value)
            })?;
            match sent {
                None => {}
                Some(Sent::Taken) => {
                    outbox.sent(position.shard(), position.sequence(), record.recorded_at);
                    count += 1;
                }
                Some(Sent::Full) => {
                    is_full = true;
                    return Err(Error::Stopped(String::new()));
                }
                Some(Sent::Refused(detail)) => return Err(Error::Publish(detail)),
            }
            Ok(Next::More)
        });
        let reached = match read {
            Err(Error::Stopped(_)) if is_full => Reached::Limit,
            other => other?,
        };
        link.take_confirmed(&mut confirmed);
        for opaque in &confirmed {
            let position = Position::from_u64(*opaque as u64);
            outbox.confirmed(position.shard(), position.sequence());
        }
        if let Some(refused) = link.refused() {
            return Err(Error::Publish(format!("Kafka refused a message: {refused}")));
        }
        if reached == Reached::End && outbox.waiting() == 0 {
            return Ok(count);
        }
        if reached == Reached::End || is_full {
            std::thread::sleep(POLL);
        }
    }
}

/// The programs of the last checkpoint. Later versions are in the journal, before the records that name them.
fn stored_programs(data: &Path, folder: &FolderIdentity) -> Result<Programs> {
    let mut programs = Programs::default();
    let path = data.join("state");
    if !Disk::default().exists(&path)? {
        return Ok(programs);
    }
    let store = Store::open(&path, folder.journal_id.to_le_bytes(), &StoreOptions::default())?;
    for shard in 0..folder.shards {
        store.accounts(shard, Some(AccountKind::Program), &mut |identity, blob| {
            let account = Account::decode(&identity, blob).map_err(|error| Error::Damaged {
                file: "state".into(),
                offset: 0,
                detail: format!("the state of program {}: {error}", identity.program()),
            })?;
            for version in account.program_versions() {
                let (number, from) = (version.number, version.effective_from);
                programs = with_version(&programs, identity.program(), number, from, &version.document)?;
            }
            Ok(())
        })?;
    }
    Ok(programs)
}
