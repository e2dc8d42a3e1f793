//! New York's calendar, written for the check alone: no library, no cleverness.

/// Days since 1970-01-01, by counting.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    assert!(year >= 1970 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day));
    (1970..year).map(days_of).sum::<i64>() + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1
}

fn days_of(year: i64) -> i64 {
    337 + days_in(year, 2)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The n-th Sunday of a month, from 1; 0 is the last one.
fn sunday(year: i64, month: i64, which: usize) -> i64 {
    // 1970-01-04 was a Sunday.
    let before = day_number(year, month, 1) - 1;
    let days: Vec<i64> = (1..=days_in(year, month)).filter(|day| (before + day - 3) % 7 == 0).collect();
    if which == 0 { days[days.len() - 1] } else { days[which - 1] }
}

/// The days of the spring and of the autumn change, as month and day.
fn changes(year: i64) -> ((i64, i64), (i64, i64)) {
    match year {
        1987..=2006 => ((4, sunday(year, 4, 1)), (10, sunday(year, 10, 0))),
        2007.. => ((3, sunday(year, 3, 2)), (11, sunday(year, 11, 1))),
        _ => panic!("{year} is before the table"),
    }
}

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A day in New York.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Date {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
}

impl Date {
    fn of_day_number(number: i64) -> Self {
        let (mut year, mut month, mut rest) = (1970, 1, number);
        while rest >= days_of(year) {
            rest -= days_of(year);
            year += 1;
        }
        while rest >= days_in(year, month) {
            rest -= days_in(year, month);
            month += 1;
        }
        Self { year, month, day: rest + 1 }
    }

    /// The day in New York at an instant. Clocks go forward at 2:00 standard time (7:00 UTC) and back at 2:00
    /// daylight time (6:00 UTC).
    pub(crate) fn at(instant_ms: i64) -> Self {
        let year = Self::of_day_number(instant_ms.div_euclid(DAY_MS)).year;
        let (spring, autumn) = changes(year);
        let begin = day_number(year, spring.0, spring.1) * DAY_MS + 7 * HOUR_MS;
        let end = day_number(year, autumn.0, autumn.1) * DAY_MS + 6 * HOUR_MS;
        let behind_hours = if (begin..end).contains(&instant_ms) { 4 } else { 5 };
        Self::of_day_number((instant_ms - behind_hours * HOUR_MS).div_euclid(DAY_MS))
    }

    /// The instant of the midnight that begins the day.
    pub(crate) fn midnight_ms(self) -> i64 {
        let (spring, autumn) = changes(self.year);
        let today = (self.month, self.day);
        let behind_hours = if spring < today && today <= autumn { 4 } else { 5 };
        day_number(self.year, self.month, self.day) * DAY_MS + behind_hours * HOUR_MS
    }

    pub(crate) fn plus_days(self, days: i64) -> Self {
        Self::of_day_number(day_number(self.year, self.month, self.day) + days)
    }

    /// Months later, on the last day of the month if the day does not exist there.
    pub(crate) fn plus_months(self, months: i64) -> Self {
        let (mut year, mut month) = (self.year, self.month);
        for _ in 0..months {
            (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        }
        Self { year, month, day: self.day.min(days_in(year, month)) }
    }

    pub(crate) fn last_of_month(self) -> Self {
        Self { day: days_in(self.year, self.month), ..self }
    }
}

/// An instant as answers write it.
pub(crate) fn utc_text(instant_ms: i64) -> String {
    let date = Date::of_day_number(instant_ms.div_euclid(DAY_MS));
    let within_ms = instant_ms.rem_euclid(DAY_MS);
    let (hours, minutes) = (within_ms / HOUR_MS, within_ms / 60_000 % 60);
    let (seconds, millis) = (within_ms / 1000 % 60, within_ms % 1000);
    format!("{:04}-{:02}-{:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z", date.year, date.month, date.day)
}

/// The instant of a time of day, in UTC, of a date.
pub(crate) fn utc_ms(date: Date, hours: i64, minutes: i64) -> i64 {
    day_number(date.year, date.month, date.day) * DAY_MS + hours * HOUR_MS + minutes * 60_000
}

/// Against dates that an almanac of 1997, 1998 and 2047 has.
#[test]
fn known_days() {
    assert_eq!(changes(1997), ((4, 6), (10, 26)));
    assert_eq!(changes(1998), ((4, 5), (10, 25)));
    assert_eq!(changes(2047), ((3, 10), (11, 3)));
    let date = |year, month, day| Date { year, month, day };
    assert_eq!(utc_text(date(1997, 4, 6).midnight_ms()), "1997-04-06T05:00:00.000Z");
    assert_eq!(utc_text(date(1997, 4, 7).midnight_ms()), "1997-04-07T04:00:00.000Z");
    assert_eq!(utc_text(date(1997, 10, 26).midnight_ms()), "1997-10-26T04:00:00.000Z");
    assert_eq!(utc_text(date(1997, 10, 27).midnight_ms()), "1997-10-27T05:00:00.000Z");
    assert_eq!(Date::at(utc_ms(date(1997, 7, 1), 3, 59)), date(1997, 6, 30));
    assert_eq!(Date::at(utc_ms(date(1997, 7, 1), 4, 0)), date(1997, 7, 1));
    assert_eq!(Date::at(utc_ms(date(1998, 1, 1), 4, 59)), date(1997, 12, 31));
    assert_eq!(date(1997, 1, 31).plus_months(1), date(1997, 2, 28));
    assert_eq!(date(1998, 6, 30).plus_months(600), date(2048, 6, 30));
    assert_eq!(date(2000, 2, 28).plus_days(2), date(2000, 3, 1));
}
