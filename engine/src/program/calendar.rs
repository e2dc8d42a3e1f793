//! Days, months and expiries in a program's time zone.
//!
//! The zone's rules are flattened into a table when a program is compiled, so a question costs a binary
//! search and some integer arithmetic, without a lock. Local midnight is the first instant at which the
//! local clock reads 00:00 or later of that day: where a clock skips midnight that is the moment it
//! jumps, where midnight comes twice the first.

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use meed_schemas::program::{Expiry, RoundTo};
use meed_schemas::time::{DAY_MS, Millis, civil_from_days, days_from_civil};

/// From here on (the year 2300) the table ends and a zone keeps its last offset. An expiry lies at most a
/// century and a year after an event, which lies at most five minutes ahead.
const TABLE_END: Millis = 10_413_792_000_000;
/// The first instant of year 0, the earliest that RFC 3339 can say. Earlier instants count as this one.
const AT_MIN: Millis = -62_167_219_200_000;
/// The last instant of year 9999. Later instants, [`meed_schemas::time::NEVER`] among them, count as it.
const AT_MAX: Millis = 253_402_300_799_999;

/// A time zone.
#[derive(Debug)]
pub struct Zone {
    /// Where each span of constant offset begins, ascending; the first is [`Millis::MIN`].
    starts: Vec<Millis>,
    /// Local time minus UTC in each span, in milliseconds.
    offsets: Vec<Millis>,
}

impl Zone {
    /// The zone of exactly this name in the time-zone database that is compiled in.
    pub fn load(name: &str) -> Option<Self> {
        let zone = TimeZoneDatabase::bundled().get(name).ok()?;
        if zone.is_unknown() || zone.iana_name() != Some(name) {
            return None;
        }
        let offset_ms = |offset: jiff::tz::Offset| Millis::from(offset.seconds()) * 1_000;
        let mut starts = vec![Millis::MIN];
        let mut offsets = vec![offset_ms(zone.to_offset(Timestamp::MIN))];
        for transition in zone.following(Timestamp::MIN) {
            let start = transition.timestamp().as_millisecond();
            if start >= TABLE_END {
                break;
            }
            // A transition may change the zone's abbreviation only.
            if offsets.last() != Some(&offset_ms(transition.offset())) {
                starts.push(start);
                offsets.push(offset_ms(transition.offset()));
            }
        }
        Some(Self { starts, offsets })
    }

    /// The span that holds an instant.
    fn span(&self, at: Millis) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The local civil day of an instant, in days since 1970-01-01.
    pub fn day_of(&self, at: Millis) -> i64 {
        let at = at.clamp(AT_MIN, AT_MAX);
        (at + self.offsets[self.span(at)]).div_euclid(DAY_MS)
    }

    /// The local midnight that begins a civil day.
    pub fn midnight(&self, day: i64) -> Millis {
        let local = day * DAY_MS;
        // No offset is a day or more, so no earlier span reaches this local time.
        let mut span = self.span(local - DAY_MS);
        loop {
            let at = (local - self.offsets[span]).max(self.starts[span]);
            match self.starts.get(span + 1) {
                Some(next) if at >= *next => span += 1,
                _ => return at,
            }
        }
    }

    /// The local month of an instant: `year * 12 + month - 1`.
    pub fn month_of(&self, at: Millis) -> i32 {
        month_of_day(self.day_of(at)) as i32
    }

    /// The first instant of a month numbered as by [`Zone::month_of`].
    pub fn start_of_month(&self, month: i32) -> Millis {
        self.midnight(first_day(i64::from(month)))
    }

    /// The local midnight that begins the `days`-th day after that of `at`.
    pub fn midnight_after_days(&self, at: Millis, days: u32) -> Millis {
        self.midnight(self.day_of(at) + i64::from(days))
    }

    /// The first instant at which points awarded at `occurred_at` are gone: the local midnight after
    /// their last day. `None` when they never expire.
    pub fn expiry_of(&self, occurred_at: Millis, expiry: Expiry) -> Option<Millis> {
        let day = self.day_of(occurred_at);
        let day_after = match expiry {
            Expiry::None => return None,
            Expiry::Days(days, RoundTo::Day) => day + i64::from(days) + 1,
            Expiry::Days(days, round_to) => day_after_end(month_of_day(day + i64::from(days)), round_to),
            Expiry::Months(months, RoundTo::Day) => day_months_after(day, months) + 1,
            // The clamp at the end of a month never leaves the month.
            Expiry::Months(months, round_to) => day_after_end(month_of_day(day) + i64::from(months), round_to),
        };
        Some(self.midnight(day_after))
    }
}

/// The year of a month numbered as by [`Zone::month_of`].
pub fn year_of_month(month: i32) -> i32 {
    month.div_euclid(12)
}

/// The month of a civil day, numbered as by [`Zone::month_of`].
fn month_of_day(day: i64) -> i64 {
    let (year, month, _) = civil_from_days(day);
    year * 12 + i64::from(month) - 1
}

/// The first civil day of a month numbered as by [`Zone::month_of`].
fn first_day(month: i64) -> i64 {
    days_from_civil(month.div_euclid(12), month.rem_euclid(12) as u32 + 1, 1)
}

/// The same day of the month some months later, or the last of that month where it is shorter.
fn day_months_after(day: i64, months: u32) -> i64 {
    let (year, month, day_of_month) = civil_from_days(day);
    let target = year * 12 + i64::from(month) - 1 + i64::from(months);
    (first_day(target) + i64::from(day_of_month) - 1).min(first_day(target + 1) - 1)
}

/// The first day after the month, or after the quarter or year that holds it. Callers treat
/// [`RoundTo::Day`] themselves.
fn day_after_end(month: i64, round_to: RoundTo) -> i64 {
    let months = match round_to {
        RoundTo::Day | RoundTo::EndOfMonth => 1,
        RoundTo::EndOfQuarter => 3,
        RoundTo::EndOfYear => 12,
    };
    first_day(month - month.rem_euclid(months) + months)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::civil::Date;
    use jiff::tz::{TimeZone, TimeZoneDatabase};
    use meed_schemas::time;

    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::load(name).unwrap()
    }

    fn at(text: &str) -> Millis {
        time::parse(text).unwrap()
    }

    fn jiff_zone(name: &str) -> TimeZone {
        TimeZoneDatabase::bundled().get(name).unwrap()
    }

    fn date_of(day: i64) -> Date {
        let (year, month, day) = civil_from_days(day);
        Date::new(year as i16, month as i8, day as i8).unwrap()
    }

    /// Zones that skip midnight, repeat it, skip a day, have odd offsets, or none of it.
    const ZONES: [&str; 18] = [
        "UTC",
        "Asia/Jakarta",
        "America/New_York",
        "America/Sao_Paulo",
        "Africa/Cairo",
        "Asia/Beirut",
        "America/Havana",
        "America/St_Johns",
        "America/Santiago",
        "America/Asuncion",
        "Pacific/Apia",
        "Pacific/Kwajalein",
        "Pacific/Kiritimati",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Europe/Dublin",
        "Africa/Casablanca",
        "Africa/Monrovia",
    ];

    #[test]
    fn unknown_zones_are_refused() {
        for name in ["", "Mars/Olympus", "asia/jakarta", "Etc/Unknown", "EST5EDT,M3.2.0,M11.1.0", "+07:00"] {
            assert!(Zone::load(name).is_none(), "{name}");
        }
        let bundled = TimeZoneDatabase::bundled();
        let names: Vec<_> = bundled.available().map(|name| name.to_string()).collect();
        assert!(names.len() > 500);
        for name in names.iter().filter(|name| *name != "Etc/Unknown") {
            assert!(Zone::load(name).is_some(), "{name}");
        }
    }

    #[test]
    fn midnights() {
        let table = [
            ("Asia/Jakarta", (2027, 2, 1), "2027-01-31T17:00:00Z"),
            ("America/New_York", (2026, 3, 8), "2026-03-08T05:00:00Z"),
            ("America/New_York", (2026, 3, 9), "2026-03-09T04:00:00Z"),
            ("America/New_York", (2026, 11, 1), "2026-11-01T04:00:00Z"),
            ("America/New_York", (2026, 11, 2), "2026-11-02T05:00:00Z"),
            ("America/New_York", (2250, 7, 1), "2250-07-01T04:00:00Z"),
            // Clocks went from 24:00 to 01:00.
            ("America/Sao_Paulo", (2018, 11, 4), "2018-11-04T03:00:00Z"),
            ("Africa/Cairo", (2024, 4, 26), "2024-04-25T22:00:00Z"),
            ("Asia/Beirut", (2022, 3, 27), "2022-03-26T22:00:00Z"),
            // Clocks went from 24:00 back to 23:00, so the day before lasted 25 hours.
            ("America/Sao_Paulo", (2018, 2, 18), "2018-02-18T03:00:00Z"),
            // Clocks went from 01:00 back to 00:00: midnight came twice.
            ("America/Havana", (2024, 11, 3), "2024-11-03T04:00:00Z"),
            // Clocks went from 00:01 back to 23:01 of the day before.
            ("America/St_Johns", (2010, 11, 7), "2010-11-07T02:30:00Z"),
            // The whole day was skipped.
            ("Pacific/Apia", (2011, 12, 30), "2011-12-30T10:00:00Z"),
            ("Pacific/Apia", (2011, 12, 31), "2011-12-30T10:00:00Z"),
        ];
        for (name, (year, month, day), expected) in table {
            let midnight = zone(name).midnight(days_from_civil(year, month, day));
            assert_eq!(time::format(midnight), time::format(at(expected)), "{name} {year}-{month}-{day}");
        }
    }

    /// jiff itself is the oracle: every day near a change of clocks, and a sample of the rest.
    #[test]
    fn days_agree_with_the_library() {
        for name in ZONES {
            let (zone, oracle) = (zone(name), jiff_zone(name));
            let near = zone.starts[1..].iter().flat_map(|start| {
                let day = start.div_euclid(DAY_MS);
                day - 2..=day + 2
            });
            let sample = (-25_000..84_000).step_by(89);
            for day in near.chain(sample) {
                let skipped = name == "Pacific/Apia" && day == days_from_civil(2011, 12, 30)
                    || name == "Pacific/Kwajalein" && day == days_from_civil(1993, 8, 21)
                    || name == "Pacific/Kiritimati" && day == days_from_civil(1994, 12, 31);
                let midnight = zone.midnight(day);
                if !skipped {
                    let expected = date_of(day).to_zoned(oracle.clone()).unwrap().start_of_day().unwrap();
                    assert_eq!(midnight, expected.timestamp().as_millisecond(), "{name} {}", date_of(day));
                }
                for instant in [midnight - 1, midnight, midnight + 3_599_999, midnight + DAY_MS / 2] {
                    let timestamp = Timestamp::from_millisecond(instant).unwrap();
                    let expected = oracle.to_datetime(timestamp).date();
                    assert_eq!(date_of(zone.day_of(instant)), expected, "{name} {timestamp}");
                    let month = i32::from(expected.year()) * 12 + i32::from(expected.month()) - 1;
                    assert_eq!(zone.month_of(instant), month);
                }
            }
        }
    }

    #[test]
    fn months_begin_at_local_midnight() {
        let new_york = zone("America/New_York");
        let january = 2026 * 12;
        assert_eq!(new_york.month_of(at("2026-01-01T04:59:59.999Z")), january - 1);
        assert_eq!(new_york.month_of(at("2026-01-01T05:00:00Z")), january);
        assert_eq!(new_york.start_of_month(january), at("2026-01-01T05:00:00Z"));
        assert_eq!(new_york.start_of_month(january + 6), at("2026-07-01T04:00:00Z"));
        assert_eq!(zone("Asia/Jakarta").month_of(at("1996-12-31T17:00:00Z")), 1997 * 12);
        assert_eq!((year_of_month(january - 1), year_of_month(january), year_of_month(-1)), (2025, 2026, -1));
        for month in (1_900 * 12)..(2_200 * 12) {
            let start = new_york.start_of_month(month);
            assert_eq!((new_york.month_of(start - 1), new_york.month_of(start)), (month - 1, month));
        }
    }

    #[test]
    fn expiries() {
        use RoundTo::{Day, EndOfMonth, EndOfQuarter, EndOfYear};
        // The program's rule, the local time of the award, and the last local day of the points.
        let table = [
            (Expiry::Months(1, Day), "2026-01-31T12:00:00", "2026-02-28"),
            (Expiry::Months(1, Day), "2028-01-31T12:00:00", "2028-02-29"),
            (Expiry::Months(1, Day), "2026-02-28T12:00:00", "2026-03-28"),
            (Expiry::Months(12, Day), "2028-02-29T00:00:00", "2029-02-28"),
            (Expiry::Months(48, Day), "2028-02-29T00:00:00", "2032-02-29"),
            (Expiry::Months(11, Day), "2026-12-31T23:59:59", "2027-11-30"),
            (Expiry::Months(12, EndOfMonth), "2026-01-01T00:00:00", "2027-01-31"),
            (Expiry::Months(12, EndOfMonth), "2027-02-10T00:00:00", "2028-02-29"),
            (Expiry::Months(600, EndOfMonth), "1997-01-01T09:00:00", "2047-01-31"),
            (Expiry::Months(1, EndOfQuarter), "2026-11-30T00:00:00", "2026-12-31"),
            (Expiry::Months(1, EndOfQuarter), "2026-12-01T00:00:00", "2027-03-31"),
            (Expiry::Months(12, EndOfYear), "2026-12-31T00:00:00", "2027-12-31"),
            (Expiry::Months(1_200, EndOfYear), "2026-06-15T00:00:00", "2126-12-31"),
            (Expiry::Days(1, Day), "2026-12-31T23:59:59", "2027-01-01"),
            (Expiry::Days(30, Day), "2026-03-01T00:00:00", "2026-03-31"),
            (Expiry::Days(31, EndOfMonth), "2026-03-01T00:00:00", "2026-04-30"),
            (Expiry::Days(1, EndOfQuarter), "2026-06-30T00:00:00", "2026-09-30"),
            (Expiry::Days(1, EndOfYear), "2026-06-30T00:00:00", "2026-12-31"),
            (Expiry::Days(36_500, Day), "2026-01-01T00:00:00", "2125-12-08"),
        ];
        let local = |zone: &TimeZone, text: &str| {
            let datetime: jiff::civil::DateTime = text.parse().unwrap();
            datetime.to_zoned(zone.clone()).unwrap().timestamp().as_millisecond()
        };
        for name in ["UTC", "Asia/Jakarta", "America/New_York"] {
            let (zone, oracle) = (zone(name), jiff_zone(name));
            for (expiry, award, last_day) in table {
                let last_day: Date = last_day.parse().unwrap();
                let gone = local(&oracle, &format!("{}T00:00:00", last_day.tomorrow().unwrap()));
                let result = zone.expiry_of(local(&oracle, award), expiry);
                assert_eq!(result, Some(gone), "{name} {expiry:?} {award}");
            }
            assert_eq!(zone.expiry_of(0, Expiry::None), None);
        }
    }

    #[test]
    fn an_expiry_at_a_skipped_midnight_is_the_first_instant_after() {
        let sao_paulo = zone("America/Sao_Paulo");
        let expiry = sao_paulo.expiry_of(at("2018-10-03T15:00:00Z"), Expiry::Days(31, RoundTo::Day));
        assert_eq!(expiry, Some(at("2018-11-04T03:00:00Z")));
        assert_eq!(sao_paulo.midnight_after_days(at("2018-11-03T15:00:00Z"), 1), at("2018-11-04T03:00:00Z"));
        assert_eq!(sao_paulo.midnight_after_days(at("2018-11-04T03:30:00Z"), 0), at("2018-11-04T03:00:00Z"));
    }

    /// Whatever the day, the zone and the rule: the expiry lies ahead, awards of the same local day share
    /// it, and those of a later day do not expire before.
    #[test]
    fn expiries_ascend() {
        let rules = [
            Expiry::Days(1, RoundTo::Day),
            Expiry::Months(1, RoundTo::Day),
            Expiry::Months(3, RoundTo::EndOfQuarter),
            Expiry::Months(12, RoundTo::EndOfMonth),
        ];
        for name in ["America/Sao_Paulo", "Africa/Cairo", "Pacific/Apia", "America/St_Johns"] {
            let zone = zone(name);
            for rule in rules {
                let mut before = Millis::MIN;
                for day in days_from_civil(2009, 12, 1)..days_from_civil(2013, 3, 1) {
                    let start = zone.midnight(day);
                    let expiry = zone.expiry_of(start, rule).unwrap();
                    assert!(expiry > start && expiry >= before, "{name} {rule:?} {}", date_of(day));
                    let end = zone.midnight(zone.day_of(start) + 1) - 1;
                    assert_eq!(zone.expiry_of(end, rule), Some(expiry), "{name} {rule:?} {}", date_of(day));
                    before = expiry;
                }
            }
        }
    }

    #[test]
    fn any_instant_has_a_day() {
        for name in ZONES {
            let zone = zone(name);
            for instant in [Millis::MIN, AT_MIN, -1, 0, TABLE_END - 1, TABLE_END, AT_MAX, time::NEVER] {
                let year = year_of_month(zone.month_of(instant));
                assert!((-1..=10_000).contains(&year), "{name} {instant}: {year}");
                assert!(zone.midnight_after_days(instant, 0) <= instant.clamp(AT_MIN, AT_MAX));
                assert!(zone.expiry_of(instant, Expiry::Months(1_200, RoundTo::EndOfYear)).is_some());
            }
        }
    }
}
