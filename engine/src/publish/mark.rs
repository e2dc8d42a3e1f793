//! How far each shard's records are published, and into which topics: in the file `published` of a data folder, or in
//! rows of a CQL keyspace, where whoever owns a shard next finds it.
//!
//! The file: two slots are written in turn, so that a crash in the middle of one leaves the other. A slot,
//! little-endian: magic (8 bytes) | format version u32 | length of the body u32 | generation u64 | body | zeros |
//! CRC32C of all before it u32. The body: journal id u128, then with varints per topic (events, balances)
//! its name, its partitions, and per shard the sequence; then per former topic, the oldest first, its name and its
//! partitions, to the body's end. A body without former topics ends before them.
//!
//! The partitions of a topic stay pinned when the settings name another one, so former topics are remembered, as many
//! as the slot has room for. How far they were is not: one that comes back is published into from the oldest record on.
//!
//! An older mark than the true one only makes duplicates, in the file as in the rows. A damaged file is therefore not
//! fatal: publishing begins again with the oldest record.

use std::path::Path;

use meed_schemas::codec::{Reader, put_bytes, put_varint};

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::store::cql::PublishedRows;

const MAGIC: [u8; 8] = *b"meedPUB\n";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 24;
const FILE: &str = "published";
const SLOT_UNIT_BYTES: usize = 4_096;
/// Bytes of a sequence as a varint, at most.
const SEQUENCE_BYTES_MAX: usize = 10;
/// Room for two names, ids and lengths.
const NAMES_BYTES_MAX: usize = 1_024;

/// One topic: how it was at the first publication, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TopicMark {
    /// Its name; empty: nothing is published there.
    pub name: String,
    /// Its partitions at the first publication, by which shards are spread; 0 before that.
    pub partitions: u32,
    /// By shard, the last sequence that is published without a gap.
    pub published: Vec<u64>,
}

/// How far the two topics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The topic of events.
    pub events: TopicMark,
    /// The compacted topic.
    pub balances: TopicMark,
}

impl Mark {
    /// By shard, up to where everything is published that goes anywhere.
    pub fn published(&self) -> impl Iterator<Item = u64> {
        let has_balances = !self.balances.name.is_empty();
        let both = self.events.published.iter().zip(&self.balances.published);
        both.map(move |(event, balance)| if has_balances { *event.min(balance) } else { *event })
    }
}

/// Where marks are kept.
#[derive(Debug)]
pub enum Marks {
    /// In a folder: the file, and what it says.
    File(Box<MarkFile>, Option<Mark>),
    /// In a keyspace.
    Cql(Box<PublishedRows>),
}

impl Marks {
    /// Those of a data folder.
    ///
    /// # Errors
    /// As [`MarkFile::open`].
    pub fn in_folder(disk: &Disk, folder: &Path, journal_id: u128, shards: u16) -> Result<Self> {
        let (file, found) = MarkFile::open(disk, folder, journal_id, shards)?;
        Ok(Self::File(Box::new(file), found))
    }

    /// The mark of these topics; an empty name is that of none. Where a topic has no mark, it begins with `begin`.
    ///
    /// # Errors
    /// The cluster, when the node stops.
    pub fn read(&self, events: &str, balances: &str, begin: &[u64]) -> Result<Mark> {
        let read = |name: &str, of: fn(&Mark) -> &TopicMark| -> Result<TopicMark> {
            let mut former = 0;
            let found = match self {
                Self::File(file, found) => {
                    former = file.pinned(found.as_ref(), name);
                    found.as_ref().map(of).filter(|found| found.name == name).cloned()
                }
                Self::Cql(rows) if !name.is_empty() => {
                    let (partitions, published) = rows.read(name, begin.len() as u16)?;
                    Some(TopicMark { name: name.to_owned(), partitions, published })
                }
                Self::Cql(_) => None,
            };
            let none = || TopicMark { name: name.to_owned(), partitions: former, published: begin.to_owned() };
            let mut mark = found.unwrap_or_else(none);
            // Nothing is removed before it is published, unless there was nowhere to publish to.
            mark.published.iter_mut().zip(begin).for_each(|(published, begin)| *published = (*published).max(*begin));
            Ok(mark)
        };
        Ok(Mark { events: read(events, |mark| &mark.events)?, balances: read(balances, |mark| &mark.balances)? })
    }

    /// Saves `mark`, durable when this returns; `before` is the one saved last.
    ///
    /// # Errors
    /// The disk; the cluster, when the node stops; partitions other than those that were pinned.
    pub fn save(&mut self, before: &Mark, mark: &Mark) -> Result<()> {
        match self {
            Self::File(file, found) => {
                file.save_after(found.as_ref(), mark)?;
                *found = Some(mark.clone());
                Ok(())
            }
            Self::Cql(rows) => {
                for (before, topic) in [(&before.events, &mark.events), (&before.balances, &mark.balances)] {
                    save_rows(rows, before, topic)?;
                }
                Ok(())
            }
        }
    }
}

fn save_rows(rows: &PublishedRows, before: &TopicMark, topic: &TopicMark) -> Result<()> {
    if topic.partitions != before.partitions {
        let pinned = rows.pin(&topic.name, topic.partitions)?;
        if pinned != topic.partitions {
            return Err(Error::Setting(format!(
                "another node has published into the topic {} with {pinned} partitions, it has {}",
                topic.name, topic.partitions
            )));
        }
    }
    let moved = before.published.iter().zip(&topic.published).enumerate().filter(|(_, (before, now))| before != now);
    for (shard, (_, sequence)) in moved {
        rows.put(&topic.name, shard as u16, *sequence)?;
    }
    Ok(())
}

/// The open file.
#[derive(Debug)]
pub struct MarkFile {
    file: DiskFile,
    journal_id: u128,
    slot_bytes: usize,
    generation: u64,
    /// Topics of before and their partitions, the oldest first.
    former: Former,
}

type Former = Vec<(String, u32)>;

/// What a slot says.
struct Slot {
    generation: u64,
    mark: Mark,
    former: Former,
}

impl MarkFile {
    /// Opens the file in a data folder, or makes it; with what it says, if that is of this journal and as many
    /// shards.
    ///
    /// # Errors
    /// The disk; a file of a newer format.
    pub fn open(disk: &Disk, folder: &Path, journal_id: u128, shards: u16) -> Result<(Self, Option<Mark>)> {
        let needed = HEAD_BYTES + NAMES_BYTES_MAX + 2 * usize::from(shards) * SEQUENCE_BYTES_MAX + 4;
        let slot_bytes = needed.next_multiple_of(SLOT_UNIT_BYTES);
        let path = folder.join(FILE);
        if !disk.exists(&path)? {
            let unfinished = folder.join("published.new");
            let file = disk.create(&unfinished)?;
            file.write_at(&vec![0; 2 * slot_bytes], 0)?;
            file.sync_data()?;
            disk.rename(&unfinished, &path)?;
            disk.sync_dir(folder)?;
        }
        let file = disk.open(&path)?;
        let mut found: Option<Slot> = None;
        for slot in 0..2 {
            let mut bytes = vec![0; slot_bytes];
            if file.read_at(&mut bytes, (slot * slot_bytes) as u64)? < slot_bytes {
                continue;
            }
            if bytes.starts_with(&MAGIC) && u32_at(&bytes, 8) > FORMAT {
                return Err(Error::NewerFormat { path, found: u32_at(&bytes, 8), known: FORMAT });
            }
            let read = decode(&bytes, journal_id, shards);
            found = match (found, read) {
                (Some(older), Some(newer)) if newer.generation < older.generation => Some(older),
                (_, Some(newer)) => Some(newer),
                (older, None) => older,
            };
        }
        let (generation, former, found) = match found {
            Some(slot) => (slot.generation, slot.former, Some(slot.mark)),
            None => (0, Former::new(), None),
        };
        Ok((Self { file, journal_id, slot_bytes, generation, former }, found))
    }

    /// The partitions of a topic when it was published into before, whichever of the two it was; 0 for none.
    fn pinned(&self, found: Option<&Mark>, name: &str) -> u32 {
        let present = found.into_iter().flat_map(|mark| [&mark.events, &mark.balances]);
        let present = present.map(|topic| (topic.name.as_str(), topic.partitions));
        let former = self.former.iter().map(|(name, partitions)| (name.as_str(), *partitions));
        let mut all = former.chain(present).filter(|topic| !topic.0.is_empty());
        all.find(|topic| topic.0 == name).map_or(0, |topic| topic.1)
    }

    /// As [`Self::save`]; topics that `before` has and `mark` has not become former ones.
    fn save_after(&mut self, before: Option<&Mark>, mark: &Mark) -> Result<()> {
        let now = [mark.events.name.as_str(), mark.balances.name.as_str()];
        for topic in before.into_iter().flat_map(|before| [&before.events, &before.balances]) {
            if topic.partitions > 0 && !topic.name.is_empty() && !now.contains(&topic.name.as_str()) {
                self.former.retain(|(name, _)| *name != topic.name);
                self.former.push((topic.name.clone(), topic.partitions));
            }
        }
        self.former.retain(|(name, _)| !now.contains(&name.as_str()));
        self.save(mark)
    }

    /// Saves a mark, durable when this returns.
    ///
    /// # Errors
    /// The disk; names that are too long.
    pub fn save(&mut self, mark: &Mark) -> Result<()> {
        let mut body = Vec::with_capacity(self.slot_bytes);
        body.extend_from_slice(&self.journal_id.to_le_bytes());
        for topic in [&mark.events, &mark.balances] {
            put_bytes(&mut body, topic.name.as_bytes());
            put_varint(&mut body, u64::from(topic.partitions));
            put_varint(&mut body, topic.published.len() as u64);
            topic.published.iter().for_each(|sequence| put_varint(&mut body, *sequence));
        }
        let room = (self.slot_bytes - HEAD_BYTES - 4).checked_sub(body.len());
        let mut room = room.ok_or_else(|| Error::Setting("the names of the topics are too long".into()))?;
        // The newest ones that there is room for.
        let fits = self.former.iter().rev().take_while(|topic| {
            let bytes = former_bytes(topic).len();
            room.checked_sub(bytes).map(|left| room = left).is_some()
        });
        let forgotten = self.former.len() - fits.count();
        self.former.drain(..forgotten);
        self.former.iter().for_each(|topic| body.extend_from_slice(&former_bytes(topic)));
        // Counted when it is saved: what failed half-way is written over, and never the slot that counts.
        let generation = self.generation + 1;
        let mut slot = Vec::with_capacity(self.slot_bytes);
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&FORMAT.to_le_bytes());
        slot.extend_from_slice(&(body.len() as u32).to_le_bytes());
        slot.extend_from_slice(&generation.to_le_bytes());
        slot.extend_from_slice(&body);
        slot.resize(self.slot_bytes - 4, 0);
        let checksum = crc32c::crc32c(&slot);
        slot.extend_from_slice(&checksum.to_le_bytes());
        self.file.write_at(&slot, generation % 2 * self.slot_bytes as u64)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn former_bytes((name, partitions): &(String, u32)) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, name.as_bytes());
    put_varint(&mut bytes, u64::from(*partitions));
    bytes
}

/// What a slot says; `None` when it is none of this journal.
fn decode(slot: &[u8], journal_id: u128, shards: u16) -> Option<Slot> {
    let end = slot.len() - 4;
    if !slot.starts_with(&MAGIC) || u32_at(slot, end) != crc32c::crc32c(&slot[..end]) {
        return None;
    }
    let generation = u64::from_le_bytes(std::array::from_fn(|i| slot[16 + i]));
    let mut body = Reader::new(slot.get(HEAD_BYTES..HEAD_BYTES + u32_at(slot, 12) as usize)?);
    if body.u128("journal id").ok()? != journal_id {
        return None;
    }
    let mut topic = || -> Option<TopicMark> {
        let name = body.text("topic").ok()?.to_owned();
        let partitions = u32::try_from(body.varint("partitions").ok()?).ok()?;
        let count = body.varint("shards").ok()?;
        let published = (0..count.min(u64::from(u16::MAX))).map(|_| body.varint("sequence").ok());
        Some(TopicMark { name, partitions, published: published.collect::<Option<_>>()? })
    };
    let mark = Mark { events: topic()?, balances: topic()? };
    let right = |topic: &TopicMark| topic.published.len() == usize::from(shards);
    if !right(&mark.events) || !right(&mark.balances) {
        return None;
    }
    let mut former = Former::new();
    while !body.is_empty() {
        let name = body.text("former topic").ok()?.to_owned();
        former.push((name, u32::try_from(body.varint("partitions").ok()?).ok()?));
    }
    Some(Slot { generation, mark, former })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::disk::simulated::{Fault, SimulatedDisk};
    use crate::test_fixture;

    fn mark(shards: usize, at: u64) -> Mark {
        let topic = |name: &str, partitions| TopicMark { name: name.into(), partitions, published: vec![at; shards] };
        Mark { events: topic("events", 4), balances: topic("balances", 2) }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        let open = || MarkFile::open(&disk, folder.path(), 7, 4_096).unwrap();
        let (mut file, found) = open();
        assert_eq!(found, None);
        for at in [1, u64::MAX >> 12] {
            file.save(&mark(4_096, at)).unwrap();
            assert_eq!(open().1, Some(mark(4_096, at)));
        }
        file = open().0;
        file.save(&mark(4_096, 9)).unwrap();
        assert_eq!(open().1, Some(mark(4_096, 9)), "a mark goes back only by what is saved");
        // Any byte of the newest slot that is damaged leaves the one before.
        let path = folder.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        let slot = bytes.len() / 2;
        for at in (0..slot).step_by(997) {
            let mut torn = bytes.clone();
            torn[slot + at] ^= 1;
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(open().1, Some(mark(4_096, u64::MAX >> 12)), "byte {at}");
        }
        std::fs::write(&path, &bytes[..100]).unwrap();
        assert_eq!(open().1, None);
    }

    #[test]
    fn the_file_is_pinned() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let open = || MarkFile::open(&disk, folder.path(), 0x6d65_6564, 4).unwrap();
        let unnamed = TopicMark { published: vec![0, 1, 2, 3], ..TopicMark::default() };
        let newer = Mark { balances: unnamed, ..mark(4, 300) };
        let mut file = open().0;
        file.save(&mark(4, 5)).unwrap();
        file.save(&newer).unwrap();
        let path = folder.path().join(FILE);
        let fixture = test_fixture::whole("publish/published-v1", &std::fs::read(&path).unwrap());
        std::fs::write(&path, &fixture).unwrap();
        assert_eq!(open().1, Some(newer));
        // The slot before.
        std::fs::write(&path, [&vec![0; fixture.len() / 2], &fixture[fixture.len() / 2..]].concat()).unwrap();
        assert_eq!(open().1, Some(mark(4, 5)));
    }

    /// The settings name other topics and then the first ones again: these have the partitions that they had.
    #[test]
    fn a_topic_that_comes_back_has_its_partitions() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let open = || Marks::in_folder(&disk, folder.path(), 0x6d65_6564, 4).unwrap();
        let publish_into = |events: &str, balances: &str, partitions: u32| {
            let mut marks = open();
            let before = marks.read(events, balances, &[0; 4]).unwrap();
            let mut pinned = before.clone();
            for topic in [&mut pinned.events, &mut pinned.balances] {
                if topic.partitions == 0 && !topic.name.is_empty() {
                    topic.partitions = partitions;
                }
            }
            pinned.events.published = vec![9; 4];
            marks.save(&before, &pinned).unwrap();
        };
        let partitions = |events: &str, balances: &str| {
            let mark = open().read(events, balances, &[1; 4]).unwrap();
            (mark.events.partitions, mark.balances.partitions)
        };
        publish_into("first", "balances", 4);
        assert_eq!(partitions("second", "balances"), (0, 4));
        publish_into("second", "", 6);
        let fixture =
            test_fixture::whole("publish/published-former-v1", &std::fs::read(folder.path().join(FILE)).unwrap());
        std::fs::write(folder.path().join(FILE), fixture).unwrap();
        assert_eq!(partitions("first", "balances"), (4, 4));
        assert_eq!(partitions("second", "first"), (6, 4), "a topic is the same as either of the two");
        assert_eq!(partitions("third", ""), (0, 0));
        assert_eq!(open().read("first", "", &[1; 4]).unwrap().events.published, [1; 4], "from the oldest record on");
        publish_into("first", "balances", 5);
        assert_eq!(partitions("first", "balances"), (4, 4));
        assert_eq!(partitions("second", "balances"), (6, 4));
        // Of more than there is room for, the newest ones are remembered.
        let long = |number: u32| format!("{number:0>249}");
        (0..40).for_each(|number| publish_into(&long(number), "balances", 7));
        assert_eq!(partitions(&long(39), "balances"), (7, 4));
        assert_eq!(partitions(&long(30), "balances"), (7, 4));
        assert_eq!(partitions(&long(0), "first"), (0, 0));
    }

    #[test]
    fn a_save_that_fails_leaves_the_newest_slot_alone() {
        for seed in 0..20 {
            let simulated = SimulatedDisk::new(seed);
            let open = || MarkFile::open(&simulated.disk(), Path::new("data"), 7, 4_096).unwrap();
            simulated.disk().create_dir(Path::new("data")).unwrap();
            let mut file = open().0;
            file.save(&mark(4_096, 1)).unwrap();
            for fault in [Fault::Eio, Fault::Kill] {
                simulated.arm(1, fault);
                file.save(&mark(4_096, 2)).unwrap_err();
            }
            simulated.end_process();
            assert_eq!(open().1, Some(mark(4_096, 1)), "seed {seed}");
        }
    }

    #[test]
    fn a_mark_of_another_journal_or_shape_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::default();
        MarkFile::open(&disk, folder.path(), 7, 4).unwrap().0.save(&mark(4, 5)).unwrap();
        assert_eq!(MarkFile::open(&disk, folder.path(), 8, 4).unwrap().1, None);
        assert_eq!(MarkFile::open(&disk, folder.path(), 7, 5).unwrap().1, None);
        assert_eq!(MarkFile::open(&disk, folder.path(), 7, 4).unwrap().1, Some(mark(4, 5)));
    }
}
