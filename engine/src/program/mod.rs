//! Programs: versioned rules, compiled into the pure functions that accounts ask.
//!
//! Knows neither accounts nor the clock: instants, spend and amounts are arguments, and equal arguments
//! give equal answers on every node.

pub mod award;
pub mod tier;

pub mod calendar;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use meed_schemas::money::Currency;
use meed_schemas::program::{Document, DocumentError, Level};
use meed_schemas::time::Millis;

use self::calendar::Zone;
use crate::error::{Error, Result as EngineResult};

/// One version of a program, ready to be asked.
#[derive(Debug)]
pub struct Version {
    /// 1 for the first version of the program, and dense from there.
    pub number: u32,
    /// From when on it decides. The first version decides for all earlier times too.
    pub effective_from: Millis,
    /// The rules as they were accepted.
    pub document: Document,
    zone: Arc<Zone>,
}

impl Version {
    /// Compiles a document.
    ///
    /// # Errors
    /// `time_zone`, when the time-zone database has no zone of exactly this name.
    pub fn compile(number: u32, effective_from: Millis, document: Document) -> Result<Self, DocumentError> {
        let Some(zone) = Zone::load(&document.time_zone) else {
            return Err(DocumentError {
                field: "time_zone".to_owned(),
                detail: "must be the name of a zone in the IANA time-zone database, such as Asia/Jakarta".to_owned(),
            });
        };
        Ok(Self { number, effective_from, document, zone: Arc::new(zone) })
    }

    /// The currency of every amount of the program.
    pub fn currency(&self) -> Currency {
        self.document.currency
    }

    /// The program's days and months.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The month of an instant: `year * 12 + month - 1`, in the program's time zone.
    pub fn month_of(&self, at: Millis) -> i32 {
        self.zone.month_of(at)
    }

    /// The first instant at which points awarded at `occurred_at` are gone; `None` when they stay.
    pub fn expiry_of(&self, occurred_at: Millis) -> Option<Millis> {
        self.zone.expiry_of(occurred_at, self.document.expiry)
    }

    /// The instant at which points awarded at `occurred_at` become available; `None` means at once.
    pub fn activation_of(&self, occurred_at: Millis) -> Option<Millis> {
        let days = self.document.pending_days;
        (days > 0).then(|| self.zone.midnight_after_days(occurred_at, days))
    }

    /// The level that the recorded spend by month has earned as of `month_now`, as an index.
    pub fn earned_level(&self, spend: &[(i32, i64)], month_now: i32) -> usize {
        tier::earned_level(&self.document.tiers, spend, month_now)
    }

    /// The spend that decides the tier as of `month_now`, in minor units.
    pub fn qualifying_spend(&self, spend: &[(i32, i64)], month_now: i32) -> i64 {
        tier::qualifying_spend(self.document.tiers.window, spend, month_now)
    }

    /// A level by index; beyond the highest, the highest.
    pub fn level(&self, index: usize) -> &Level {
        let levels = &self.document.tiers.levels;
        &levels[index.min(levels.len() - 1)]
    }

    /// The index of the level with this name, if this version has one.
    pub fn level_named(&self, name: &str) -> Option<usize> {
        self.document.level_named(name)
    }
}

/// A program with all its versions.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    /// By number, which is also by `effective_from`; never empty.
    versions: Vec<Arc<Version>>,
}

impl Program {
    /// A program with its first version.
    ///
    /// # Errors
    /// As [`Version::compile`].
    pub fn create(name: impl Into<String>, effective_from: Millis, document: Document) -> Result<Self, DocumentError> {
        let first = Version::compile(1, effective_from, document)?;
        Ok(Self { name: name.into(), versions: vec![Arc::new(first)] })
    }

    /// This program with one more version, which takes effect at `effective_from`, though not before the
    /// version that is the newest now.
    ///
    /// # Errors
    /// As [`check_successor`].
    pub fn succeed(&self, effective_from: Millis, document: Document) -> Result<Self, DocumentError> {
        let newest = self.newest();
        check_successor(&newest.document, &document)?;
        let version = Version {
            number: newest.number + 1,
            effective_from: effective_from.max(newest.effective_from),
            document,
            zone: Arc::clone(&newest.zone),
        };
        let mut versions = self.versions.clone();
        versions.push(Arc::new(version));
        Ok(Self { name: self.name.clone(), versions })
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All versions, oldest first.
    pub fn versions(&self) -> &[Arc<Version>] {
        &self.versions
    }

    /// The version in effect at an instant: the newest that took effect at or before it, else the first.
    pub fn version_at(&self, at: Millis) -> &Arc<Version> {
        // Nearly always the newest.
        let newest = self.newest();
        if newest.effective_from <= at {
            return newest;
        }
        let after = self.versions.partition_point(|version| version.effective_from <= at);
        &self.versions[after.saturating_sub(1)]
    }

    /// The newest version.
    pub fn newest(&self) -> &Arc<Version> {
        &self.versions[self.versions.len() - 1]
    }

    /// The version with a number.
    pub fn version(&self, number: u32) -> Option<&Arc<Version>> {
        self.versions.get((number as usize).checked_sub(1)?)
    }
}

/// Whether a document may follow another: currency and time zone are fixed at creation, because recorded
/// amounts, months and expiries are in them.
///
/// # Errors
/// The member that differs.
pub fn check_successor(old: &Document, new: &Document) -> Result<(), DocumentError> {
    let fixed = |field: &str, value: &str| {
        let detail = format!("is fixed at creation and must stay {value}");
        Err(DocumentError { field: field.to_owned(), detail })
    };
    if old.currency != new.currency {
        return fixed("currency", old.currency.code());
    }
    if old.time_zone != new.time_zone {
        return fixed("time_zone", &old.time_zone);
    }
    Ok(())
}

/// Every program of a node, immutable: a change makes another map that shares all that stays.
#[derive(Clone, Debug, Default)]
pub struct Programs(Arc<HashMap<String, Arc<Program>>>);

impl Programs {
    /// The program with this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Program>> {
        self.0.get(name)
    }

    /// These programs with one put in, in the place of the one with its name if there is one.
    #[must_use]
    pub fn with(&self, program: Program) -> Self {
        let mut programs = HashMap::clone(&self.0);
        programs.insert(program.name.clone(), Arc::new(program));
        Self(Arc::new(programs))
    }

    /// Every program, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Program>> {
        self.0.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The programs with one more journaled version; one that is there already changes nothing. Nodes number versions as
/// they adopt them, so one that came before another would be known by a wrong number.
///
/// # Errors
/// A version that does not follow the newest one; a document that cannot be read or compiled.
pub fn with_version(
    programs: &Programs,
    name: &str,
    number: u32,
    effective_from: Millis,
    document: &str,
) -> EngineResult<Programs> {
    let known = programs.get(name);
    let newest = known.map_or(0, |program| program.newest().number);
    if number <= newest {
        return Ok(programs.clone());
    }
    if number > newest + 1 {
        return Err(Error::Internal(format!("version {number} of program {name} came after version {newest}")));
    }
    let wrong = |error: DocumentError| {
        Error::Setting(format!("version {number} of program {name}: {} {}", error.field, error.detail))
    };
    let document = Document::parse(document.as_bytes()).map_err(wrong)?;
    let program = match known {
        Some(program) => program.succeed(effective_from, document),
        None => Program::create(name, effective_from, document),
    };
    Ok(programs.with(program.map_err(wrong)?))
}
