//! Dates as HTTP writes them (RFC 9110, section 5.6.7): three forms, in GMT, whatever the case (RFC 9111, section 4.2). Whatever else stands
//! there is no date, and who asks takes it for one that is past.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&[u8]; 12] = [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const DAY: i64 = 86_400;

/// The moment that a date names. One before 1970 is 1970.
pub fn parse(text: &[u8], now: SystemTime) -> Option<SystemTime> {
    // None is longer.
    let (text, mut lower) = (text.trim_ascii(), [0; 40]);
    let lower = lower.get_mut(..text.len())?;
    lower.copy_from_slice(text);
    lower.make_ascii_lowercase();
    let text = &*lower;
    let mut rest = Rest(text);
    let seconds = match memchr::memchr(b',', text) {
        // Sun, 06 Nov 1994 08:49:37 GMT
        Some(3) => {
            rest.day(3)?;
            rest.is(b", ")?;
            let day = rest.number(2)?;
            rest.is(b" ")?;
            let month = rest.month()?;
            rest.is(b" ")?;
            let year = rest.number(4)?;
            rest.is(b" ")?;
            let clock = rest.clock()?;
            rest.is(b" gmt")?;
            moment(year, month, day, clock)?
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        Some(length) => {
            rest.day(length)?;
            rest.is(b", ")?;
            let day = rest.number(2)?;
            rest.is(b"-")?;
            let month = rest.month()?;
            rest.is(b"-")?;
            let year = rest.number(2)?;
            rest.is(b" ")?;
            let clock = rest.clock()?;
            rest.is(b" gmt")?;
            moment(of_this_century(year, now), month, day, clock)?
        }
        // Sun Nov  6 08:49:37 1994
        None => {
            rest.day(3)?;
            rest.is(b" ")?;
            let month = rest.month()?;
            rest.is(b" ")?;
            let day = if rest.is(b" ").is_some() { rest.number(1)? } else { rest.number(2)? };
            rest.is(b" ")?;
            let clock = rest.clock()?;
            rest.is(b" ")?;
            moment(rest.number(4)?, month, day, clock)?
        }
    };
    rest.0.is_empty().then_some(())?;
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A year of two digits: one that seems to be more than 50 years ahead is past (RFC 9110, section 5.6.7).
fn of_this_century(year: i64, now: SystemTime) -> i64 {
    let days = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY.unsigned_abs());
    // Exact enough for the question.
    let this = 1970 + i64::try_from(days).unwrap_or(0) * 400 / 146_097;
    let year = this - this.rem_euclid(100) + year;
    if year > this + 50 { year - 100 } else { year }
}

/// Seconds since 1970, in the calendar that was proleptic before 1582.
fn moment(year: i64, month: i64, day: i64, clock: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * DAY + clock)
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn is(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// A weekday's name, whole or its first three letters. Which one it is says nothing that the rest does not.
    fn day(&mut self, length: usize) -> Option<()> {
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let known = |day: &&str| if length == 3 { day.as_bytes().starts_with(name) } else { day.as_bytes() == name };
        DAYS.iter().any(known).then_some(())
    }

    fn month(&mut self) -> Option<i64> {
        let (name, rest) = self.0.split_at_checked(3)?;
        self.0 = rest;
        let place = MONTHS.iter().position(|month| *month == name)?;
        i64::try_from(place + 1).ok()
    }

    fn number(&mut self, digits: usize) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        number.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    }

    /// Seconds of the day.
    fn clock(&mut self) -> Option<i64> {
        let hour = self.number(2)?;
        self.is(b":")?;
        let minute = self.number(2)?;
        self.is(b":")?;
        let second = self.number(2)?;
        // 60 is a leap second.
        (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000); // 2026
        parse(text.as_bytes(), now).map(|moment| moment.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn the_three_forms_are_one_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "sun, 06 NOV 1994 08:49:37 gmt",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Wed, 31 Dec 1969 23:59:59 GMT"), Some(0));
        assert_eq!(seconds("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(seconds("Thu Jan 15 00:00:00 2026"), Some(1_768_435_200));
        assert_eq!(seconds("Sat, 31 Dec 2016 23:59:60 GMT"), Some(1_483_228_800));
        // 2076, and 1977.
        assert_eq!(seconds("Tuesday, 29-Sep-76 00:00:00 GMT"), Some(3_368_563_200));
        assert_eq!(seconds("Thursday, 29-Sep-77 00:00:00 GMT"), Some(244_339_200));
    }

    #[test]
    fn the_calendar_is_jiffs() {
        for day in (0..60_000).step_by(7) {
            let stamp = jiff::Timestamp::from_second(day * 86_400 + 3_661).unwrap();
            let text = stamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            assert_eq!(seconds(&text), Some(stamp.as_second() as u64), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_date() {
        for text in [
            "",
            "0",
            "-1",
            "Sun, 06 Nov 1994 08:49:37 EET",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Mun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "Wed, 30 Feb 2000 00:00:00 GMT",
            "Wed, 29 Feb 1900 00:00:00 GMT",
            "Wed, 00 Jan 2000 00:00:00 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
            "Sun, \u{e9}\u{e9} Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
