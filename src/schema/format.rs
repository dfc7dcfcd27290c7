//! The formats that can be asserted.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::uri::has_scheme;

/// A format that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    DateTime,
    Date,
    Time,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Uri,
    Uuid,
    JsonPointer,
}

impl Format {
    pub fn of(name: &str) -> Option<Format> {
        Some(match name {
            "date-time" => Format::DateTime,
            "date" => Format::Date,
            "time" => Format::Time,
            "email" => Format::Email,
            "hostname" => Format::Hostname,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "uri" => Format::Uri,
            "uuid" => Format::Uuid,
            "json-pointer" => Format::JsonPointer,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::DateTime => "date-time",
            Format::Date => "date",
            Format::Time => "time",
            Format::Email => "email",
            Format::Hostname => "hostname",
            Format::Ipv4 => "ipv4",
            Format::Ipv6 => "ipv6",
            Format::Uri => "uri",
            Format::Uuid => "uuid",
            Format::JsonPointer => "json-pointer",
        }
    }

    pub fn takes(self, text: &str) -> bool {
        match self {
            Format::DateTime => {
                text.is_ascii()
                    && text.get(..10).is_some_and(is_date)
                    && text.get(10..11).is_some_and(|t| t == "T" || t == "t")
                    && text.get(11..).is_some_and(is_time)
            }
            Format::Date => is_date(text),
            Format::Time => is_time(text),
            Format::Email => {
                text.rsplit_once('@').is_some_and(|(local, host)| is_local(local) && (is_host(host) || is_literal(host)))
            }
            Format::Hostname => is_host(text),
            Format::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Format::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
            Format::Uri => is_uri(text),
            Format::Uuid => is_uuid(text),
            Format::JsonPointer => {
                let tildes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
                (text.is_empty() || text.starts_with('/')) && tildes
            }
        }
    }
}

fn number(text: Option<&str>, most: u32) -> Option<u32> {
    let text = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().filter(|number| *number <= most)
}

/// RFC 3339, `full-date`.
fn is_date(text: &str) -> bool {
    if text.len() != 10 || !text.is_ascii() || text.get(4..5) != Some("-") || text.get(7..8) != Some("-") {
        return false;
    }
    let (Some(year), Some(month), Some(day)) =
        (number(text.get(..4), 9999), number(text.get(5..7), 12), number(text.get(8..10), 31))
    else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    month >= 1 && day >= 1 && day <= days
}

/// RFC 3339, `full-time`. A leap second is one at the end of a day in UTC.
fn is_time(text: &str) -> bool {
    if !text.is_ascii() || text.get(2..3) != Some(":") || text.get(5..6) != Some(":") {
        return false;
    }
    let (Some(hour), Some(minute), Some(second)) =
        (number(text.get(..2), 23), number(text.get(3..5), 59), number(text.get(6..8), 60))
    else {
        return false;
    };
    let mut rest = text.get(8..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return false;
        }
        rest = fraction.get(end..).unwrap_or_default();
    }
    let offset = match rest {
        "Z" | "z" => Some(0),
        _ if rest.len() == 6 && rest.get(3..4) == Some(":") => {
            let sign = match rest.get(..1) {
                Some("+") => 1,
                Some("-") => -1,
                _ => return false,
            };
            let (hours, minutes) = (number(rest.get(1..3), 23), number(rest.get(4..6), 59));
            hours.zip(minutes).map(|(hours, minutes)| sign * (hours as i32 * 60 + minutes as i32))
        }
        _ => None,
    };
    let Some(offset) = offset else { return false };
    second < 60 || (hour as i32 * 60 + minute as i32 - offset).rem_euclid(24 * 60) == 24 * 60 - 1
}

/// RFC 1123.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(is_label)
}

/// RFC 5321, `Local-part`.
fn is_local(text: &str) -> bool {
    if let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        return quoted.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\');
    }
    let is_atom = |atom: &str| {
        !atom.is_empty() && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    text.len() <= 64 && text.split('.').all(is_atom)
}

fn is_literal(host: &str) -> bool {
    let Some(inside) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) else { return false };
    inside.parse::<Ipv4Addr>().is_ok() || inside.strip_prefix("IPv6:").is_some_and(|six| six.parse::<Ipv6Addr>().is_ok())
}

/// RFC 3986: a scheme, and nothing that has to be escaped.
fn is_uri(text: &str) -> bool {
    let Some((_, rest)) = text.split_once(':') else { return false };
    let escapes =
        rest.split('%').skip(1).all(|rest| rest.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)));
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    has_scheme(text) && escapes && rest.bytes().all(is_plain)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
