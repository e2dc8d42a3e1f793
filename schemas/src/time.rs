//! Instants as milliseconds since the Unix epoch, in RFC 3339 on the outside.

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// Stands for "never" wherever an expiry is stored.
pub const NEVER: Millis = i64::MAX;
/// One day.
pub const DAY_MS: Millis = 86_400_000;

/// Days since the epoch of a civil date of the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_shifted = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_shifted + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The civil date of a day number: the inverse of [`days_from_civil`].
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097) as u32;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (i64::from(year_of_era) + era * 400 + i64::from(month <= 2), month, day)
}

/// Parses an RFC 3339 instant with an offset and any number of fraction digits, kept to the millisecond.
/// A leap second counts as the second after it. `None` when it is not one.
pub fn parse(text: &str) -> Option<Millis> {
    let b = text.as_bytes();
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || !matches!(b[10], b'T' | b't' | b' ') {
        return None;
    }
    if b[13] != b':' || b[16] != b':' {
        return None;
    }
    let number = |from: usize, to: usize| {
        b[from..to].iter().try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if day < 1 || day > month_days || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut at, mut millis) = (19, 0i64);
    if b[at] == b'.' {
        let digits = b[at + 1..].iter().take_while(|d| d.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..3 {
            millis = millis * 10 + if place < digits { i64::from(b[at + 1 + place] - b'0') } else { 0 };
        }
        at += 1 + digits;
    }
    let offset_minutes = match b.get(at)? {
        b'Z' | b'z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month as u32, day as u32);
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    Some(seconds * 1_000 + millis)
}

/// Appends `2026-11-21T01:02:03.004Z`.
pub fn write(out: &mut Vec<u8>, at: Millis) {
    let (days, rest) = (at.div_euclid(DAY_MS), at.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    let mut buffer = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, value: u32| {
        buffer[at] = b'0' + (value / 10 % 10) as u8;
        buffer[at + 1] = b'0' + (value % 10) as u8;
    };
    let year = year.clamp(0, 9999) as u32;
    let (seconds, millis) = ((rest / 1_000) as u32, (rest % 1_000) as u32);
    put(0, year / 100);
    put(2, year % 100);
    put(5, month);
    put(8, day);
    put(11, seconds / 3_600);
    put(14, seconds / 60 % 60);
    put(17, seconds % 60);
    put(21, millis % 100);
    buffer[20] = b'0' + (millis / 100) as u8;
    out.extend_from_slice(&buffer);
}

/// The text of [`write()`].
pub fn format(at: Millis) -> String {
    let mut out = Vec::with_capacity(24);
    write(&mut out, at);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2026-11-21T01:02:03.004Z"), Some(1_795_222_923_004));
        assert_eq!(parse("2026-11-21T08:02:03.0049999+07:00"), Some(1_795_222_923_004));
        assert_eq!(format(1_795_222_923_004), "2026-11-21T01:02:03.004Z");
        let long = format!("2026-11-21T01:02:03.004{}Z", "9".repeat(1_000));
        assert_eq!(parse(&long), Some(1_795_222_923_004));
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01T00:00:00Z"));
        assert_eq!(format(parse("1969-12-31T23:59:59.9-00:00").unwrap_or(0)), "1969-12-31T23:59:59.900Z");
    }

    #[test]
    fn what_is_not_an_instant() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T01:02:03",
            "2026-02-29T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T01:02:03.Z",
            "2026-11-21T01:02:03+0700",
            "2026-11-21T01:02:03Zx",
            "2026-13-01T00:00:00Z",
            "2026-11-21T01:02:03+24:00",
            "２026-11-21T01:02:03Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn civil_dates_round_trip() {
        for days in (-800_000..3_000_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
