//! The cookie that tells where a session goes, and the cookies that endpoints set.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::Id;
use super::config::{SameSite, Secure};
use crate::carrier::cookie_values;
use crate::clock::unix_seconds;
use crate::head::RequestHead;

/// The gateway's own.
pub struct OwnCookie {
    pub name: Box<str>,
    /// What stands behind the value, but for `Secure`.
    pub attributes: Box<str>,
    pub secure: Secure,
}

impl OwnCookie {
    /// `; Path=/; HttpOnly; SameSite=Lax` and the like.
    pub fn attributes(path: &str, max_age: Option<u64>, http_only: bool, same_site: SameSite) -> Box<str> {
        let mut text = format!("; Path={path}");
        if let Some(seconds) = max_age {
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if http_only {
            text.push_str("; HttpOnly");
        }
        text.push_str(match same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        });
        text.into()
    }

    /// The first value that may be one of the gateway's.
    pub fn read(&self, head: &RequestHead) -> Option<Id> {
        cookie_values(head, &self.name).find_map(|value| {
            // The decoder wants room for a little more than there is.
            let mut bytes = [0; 24];
            let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
            bytes.first_chunk().filter(|bytes| bytes.len() == length).map(|bytes| Id::from_le_bytes(*bytes))
        })
    }

    /// `secure`: whether the client has come over TLS.
    pub fn write(&self, id: Id, secure: bool) -> Option<HeaderValue> {
        let value = URL_SAFE_NO_PAD.encode(id.to_le_bytes());
        let secure = match self.secure {
            Secure::Always => true,
            Secure::Never => false,
            Secure::Auto => secure,
        };
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{}={value}{}{secure}", self.name, self.attributes)).ok()
    }
}

/// What a `Set-Cookie` field does to a cookie.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    Set(&'a [u8]),
    Unset,
}

/// What this one does to the cookie of that name. Clients throw a cookie away whose time is over, and believe `Max-Age` before `Expires`.
pub fn change<'a>(field: &'a [u8], name: &str) -> Option<Change<'a>> {
    let mut parts = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = parts.next()?.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let (mut age, mut expires) = (None, None);
    for part in parts {
        let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
        let (name, text) = part.split_at_checked(at).unwrap_or((part, b""));
        let text = text.strip_prefix(b"=").unwrap_or_default().trim_ascii();
        match name.trim_ascii() {
            name if name.eq_ignore_ascii_case(b"max-age") => age = is_over_by_age(text).or(age),
            name if name.eq_ignore_ascii_case(b"expires") => {
                expires = date(text).map(|at| at <= i64::try_from(unix_seconds()).unwrap_or(i64::MAX)).or(expires);
            }
            _ => {}
        }
    }
    let over = value.is_empty() || age.or(expires).unwrap_or(false);
    Some(if over { Change::Unset } else { Change::Set(value) })
}

/// `None` of what is no number.
fn is_over_by_age(text: &[u8]) -> Option<bool> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    number.then(|| digits.len() < text.len() || digits.iter().all(|digit| *digit == b'0'))
}

/// A date as servers write them into cookies, in more spellings than one (RFC 6265, section 5.1.1), in seconds after 1970.
fn date(text: &[u8]) -> Option<i64> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != ':').filter(|word| !word.is_empty()) {
        let number = || word.parse::<i16>().ok();
        if word.contains(':') {
            let mut parts = word.split(':').map(|part| part.parse::<i8>().ok());
            time = time.or(Some((parts.next()??, parts.next()??, parts.next()??)));
        } else if let Some(at) = MONTHS.iter().position(|known| word.starts_with(known)) {
            month = month.or(i8::try_from(at + 1).ok());
        } else if day.is_none() && word.len() <= 2 {
            day = number().and_then(|day| i8::try_from(day).ok());
        } else if year.is_none() {
            year = number().map(|year| match year {
                0..=69 => year + 2000,
                70..=99 => year + 1900,
                year => year,
            });
        }
    }
    let (hour, minute, second) = time?;
    let at = jiff::civil::DateTime::new(year?, month?, day?, hour, minute, second, 0).ok()?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_spellings_that_there_are() {
        for text in [
            "Thu, 01 Jan 1970 00:00:10 GMT",
            "Thu, 01-Jan-1970 00:00:10 GMT",
            "Thu, 01-Jan-70 00:00:10 GMT",
            "Thu Jan  1 00:00:10 1970",
        ] {
            assert_eq!(date(text.as_bytes()), Some(10), "{text}");
        }
        assert_eq!(date(b"Sun, 06 Nov 2033 08:49:37 GMT"), Some(2_014_879_777));
        for text in ["", "0", "never", "Thu, 01 Jan 1970", "Thu, 41 Jan 1970 00:00:00 GMT", "1:2 1 jan 1970", "\u{fc}"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_cookie_whose_time_is_over_is_unset() {
        let change = |field: &'static str| change(field.as_bytes(), "S");
        for over in [
            "S=",
            "S=; Path=/",
            "S=x; Max-Age=0",
            "S=x; max-age=-1; Expires=Sun, 06 Nov 2033 08:49:37 GMT",
            "S=deleted; expires=Thu, 01-Jan-1970 00:00:01 GMT; path=/",
            "S=x; Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        ] {
            assert_eq!(change(over), Some(Change::Unset), "{over}");
        }
        for set in ["S=x", "S=x; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "S=x; Expires=Session", "S=x; Max-Age="] {
            assert_eq!(change(set), Some(Change::Set(b"x")), "{set}");
        }
        assert_eq!(change("SS=x"), None);
    }
}
