//! The journal as a feed: its durable records in journal order from a vector of positions on, each with the
//! program versions that it names.
//!
//! Who follows the feed keeps nothing but that vector: what was not read yet lies in the journal. It knows
//! neither who reads nor what becomes of a record.

use std::sync::Arc;

use meed_schemas::event::{Attributes, Documents};
use meed_schemas::program::Document;
use meed_schemas::record::{Detail, Record};

use crate::error::{Error, Result};
use crate::journal::{self, Records};
use crate::program::{Program, Programs};

/// Where a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// At what was durable when it began.
    End,
    /// Where the visitor stopped it, or after so many records.
    Limit,
}

/// What a visitor says of going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    More,
    /// This record was the last one.
    Stop,
}

/// Visits the durable records behind `from` (by shard, the last sequence that was read), at most `records_max`
/// of them, and moves `from` on past each. The visitor sees `from` as it is after its record.
///
/// # Errors
/// Damage of the journal; what the visitor returns, with `from` before that record.
pub fn read_on(
    journal: &Records,
    from: &mut [u64],
    records_max: usize,
    visit: &mut dyn FnMut(&Record, &[u64]) -> Result<Next>,
) -> Result<Reached> {
    let begin = from.to_owned();
    let mut visited = 0;
    let mut stopped = false;
    let scanned = journal.scan(&begin, &|_| true, &mut |position, payload| {
        // The journal's scan ends only by an error; this one says that there was none.
        if stopped || visited == records_max {
            stopped = true;
            return Err(Error::Stopped(String::new()));
        }
        let record = journal::decode(position, payload)?;
        let slot = &mut from[usize::from(position.shard())];
        let before = std::mem::replace(slot, position.sequence());
        match visit(&record, from) {
            Ok(next) => stopped = next == Next::Stop,
            Err(error) => {
                from[usize::from(position.shard())] = before;
                return Err(error);
            }
        }
        visited += 1;
        Ok(())
    });
    match scanned {
        Err(Error::Stopped(_)) if stopped => Ok(Reached::Limit),
        Err(error) => Err(error),
        Ok(()) if stopped => Ok(Reached::Limit),
        Ok(()) => Ok(Reached::End),
    }
}

/// Finds the program versions of records and makes their events' attributes.
pub struct Rendering<'a> {
    journal_id: u128,
    current: &'a dyn Fn() -> Arc<Programs>,
    programs: Arc<Programs>,
    attributes: Attributes,
}

impl<'a> Rendering<'a> {
    /// Rendering for a journal. `current` gives the programs as they are now; it is asked when a record names
    /// a version that was not there before.
    pub fn new(journal_id: u128, current: &'a dyn Fn() -> Arc<Programs>) -> Self {
        Self { journal_id, programs: current(), current, attributes: Attributes::default() }
    }

    /// Gives `then` a record's attributes and documents; `None` for a record that has no event.
    ///
    /// # Errors
    /// A record that names a program version which nobody has: damage.
    pub fn of<R>(&mut self, record: &Record, then: impl FnOnce(&Attributes, Documents<'_>) -> R) -> Result<Option<R>> {
        if !record.kind.is_effect() {
            return Ok(None);
        }
        let program = self.program_of(record);
        let found = program.as_ref().and_then(|program| {
            Some((program.version(record.program_version)?, program.version(record.newest_version)?))
        });
        let own;
        let documents = match (&found, &record.detail) {
            (Some((decided, newest)), _) => Documents { decided: &decided.document, newest: &newest.document },
            // A version is durable a moment before every shard knows it.
            (None, Detail::Program { document }) => {
                own = Document::parse(document.as_bytes())
                    .map_err(|error| unknown(record, &format!("{} {}", error.field, error.detail)))?;
                Documents { decided: &own, newest: &own }
            }
            (None, _) => return Err(unknown(record, "the program has no such version")),
        };
        if !self.attributes.set(record, self.journal_id, documents) {
            return Ok(None);
        }
        Ok(Some(then(&self.attributes, documents)))
    }

    /// The program, if it has the versions of this record.
    fn program_of(&mut self, record: &Record) -> Option<Arc<Program>> {
        let newest = record.newest_version.max(record.program_version);
        let find = |programs: &Programs| {
            let program = programs.get(record.identity.program())?;
            program.version(newest).map(|_| Arc::clone(program))
        };
        find(&self.programs).or_else(|| {
            self.programs = (self.current)();
            find(&self.programs)
        })
    }
}

fn unknown(record: &Record, detail: &str) -> Error {
    let (position, version) = (record.position, record.program_version);
    Error::Damaged {
        file: "journal".into(),
        offset: 0,
        detail: format!("record {position} names version {version} of {}: {detail}", record.identity.program()),
    }
}
