//! Times as RFC 3339 writes them, from the year 1 to 9999, to the nanosecond.

const DAY: i64 = 86_400;
const MIN: i64 = -62_135_596_800;
const MAX: i64 = 253_402_300_799;

/// The seconds since 1970, and the nanoseconds.
pub fn read(text: &str) -> Option<(i64, i32)> {
    let bytes = text.as_bytes();
    let digits = |from: usize, count: usize| -> Option<i64> {
        let part = bytes.get(from..from + count)?;
        let all = part.iter().all(u8::is_ascii_digit);
        all.then(|| part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if is(at, b'.') {
        let length = bytes.get(at + 1..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        nanos = super::nanos(text.get(at + 1..at + 1 + length)?)?;
        at += 1 + length;
    }
    let offset = match bytes.get(at..)? {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(at + 1, 2)?, digits(at + 4, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    (MIN..=MAX).contains(&seconds).then_some((seconds, nanos))
}

/// `None`: it is none.
pub fn write(seconds: i64, nanos: i64) -> Option<String> {
    if !(MIN..=MAX).contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let left = seconds.rem_euclid(DAY);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", left / 3600, left / 60 % 60, left % 60);
    super::fraction(&mut text, nanos.unsigned_abs());
    text.push('Z');
    Some(text)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The days since 1970 (of the Gregorian calendar, in eras of 400 years that begin in March).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_and_read_back() {
        for day in ((MIN / DAY)..=(MAX / DAY)).step_by(5) {
            let text = write(day * DAY + 5, 0).unwrap();
            assert_eq!(read(&text), Some((day * DAY + 5, 0)), "{text}");
        }
        assert_eq!(write(0, 0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(write(MIN, 0).as_deref(), Some("0001-01-01T00:00:00Z"));
        assert_eq!(write(MAX, 999_999_999).as_deref(), Some("9999-12-31T23:59:59.999999999Z"));
        assert_eq!(write(951_782_400, 1_000_000).as_deref(), Some("2000-02-29T00:00:00.001Z"));
        assert_eq!((write(MAX + 1, 0), write(MIN - 1, 0), write(0, -1), write(0, 1_000_000_000)), (None, None, None, None));
    }

    #[test]
    fn only_times_are_read() {
        assert_eq!(read("1970-01-01T01:00:00.5+01:00"), Some((0, 500_000_000)));
        assert_eq!(read("1969-12-31T23:30:00-00:30"), Some((0, 0)));
        for text in [
            "1970-01-01",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00z",
            "1970-01-01T00:00:00",
            "1970-01-01 00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00+24:00",
            "1970-01-01T00:00:00+0100",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "197\u{660}-01-01T00:00:00Z",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
