//! Days, weeks and months as a calendar on the wall has them, in a time zone.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

/// What a quota is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Day,
    /// From Monday to Sunday (ISO 8601).
    Week,
    Month,
}

impl Unit {
    pub fn word(self) -> &'static str {
        match self {
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
        }
    }

    /// Its length, where that is always the same but for the hours that clocks are moved by.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Unit::Day => Some(86_400),
            Unit::Week => Some(7 * 86_400),
            Unit::Month => None,
        }
    }
}

/// So much per calendar period: `100000/month`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub count: u64,
    pub unit: Unit,
}

/// The most per period, so that sums stay far from overflow.
pub const MOST: u64 = 1 << 53;

impl Allowance {
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is no quota such as 100000/month; the periods are day, week and month");
        let (count, unit) = text.split_once('/').ok_or_else(expected)?;
        let count: u64 = count.trim().parse().map_err(|_| expected())?;
        let unit = match unit.trim() {
            "d" | "day" => Unit::Day,
            "week" => Unit::Week,
            "month" => Unit::Month,
            _ => return Err(expected()),
        };
        match count {
            1..=MOST => Ok(Allowance { count, unit }),
            _ => Err(format!("a quota is between 1 and {MOST} per period")),
        }
    }
}

impl<'de> Deserialize<'de> for Allowance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Allowance::parse(&text).map_err(D::Error::custom)
    }
}

impl JsonSchema for Allowance {
    fn schema_name() -> Cow<'static, str> {
        "Allowance".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ */ *(d|day|week|month)$", "examples": ["100000/month"] })
    }
}

/// A period of the calendar, in seconds since 1970: from its start up to, and without, its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: i64,
    pub end: i64,
}

/// Tells which period a moment belongs to.
#[derive(Debug)]
pub struct Calendar {
    unit: Unit,
    zone: TimeZone,
    /// The last answer: it holds for a long time.
    known: ArcSwap<Span>,
}

impl Calendar {
    pub fn new(unit: Unit, zone: TimeZone) -> Self {
        Calendar { unit, zone, known: ArcSwap::new(Arc::new(Span { start: 0, end: 0 })) }
    }

    /// The period that `now`, in seconds since 1970, belongs to.
    pub fn span(&self, now: i64) -> Span {
        let known = **self.known.load();
        if (known.start..known.end).contains(&now) {
            return known;
        }
        // Only at the ends of what a calendar can express: a day from then on.
        let span = self.compute(now).unwrap_or(Span { start: now, end: now.saturating_add(86_400) });
        self.known.store(Arc::new(span));
        span
    }

    fn compute(&self, now: i64) -> Option<Span> {
        let at = Timestamp::from_second(now).ok()?.to_zoned(self.zone.clone());
        let today = at.date();
        let first = match self.unit {
            Unit::Day => today,
            Unit::Week => today.checked_sub(i64::from(today.weekday().since(Weekday::Monday)).days()).ok()?,
            Unit::Month => today.first_of_month(),
        };
        let next = match self.unit {
            Unit::Day => first.checked_add(1.day()),
            Unit::Week => first.checked_add(7.days()),
            Unit::Month => first.checked_add(1.month()),
        };
        // A day may begin later than midnight, where clocks are moved then.
        let begin = |date: jiff::civil::Date| {
            date.to_zoned(self.zone.clone()).ok().and_then(|midnight: Zoned| midnight.start_of_day().ok())
        };
        let (start, end) = (begin(first)?.timestamp().as_second(), begin(next.ok()?)?.timestamp().as_second());
        (start..end).contains(&now).then_some(Span { start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(unit: Unit, zone: &str, now: &str) -> (String, String) {
        let zone = TimeZone::get(zone).unwrap();
        let now: Timestamp = now.parse().unwrap();
        let span = Calendar::new(unit, zone.clone()).span(now.as_second());
        let text = |at| Timestamp::from_second(at).unwrap().to_string();
        (text(span.start), text(span.end))
    }

    fn is(found: (String, String), start: &str, end: &str) {
        assert_eq!((found.0.as_str(), found.1.as_str()), (start, end));
    }

    #[test]
    fn periods_are_those_of_the_place() {
        is(span(Unit::Month, "UTC", "2028-02-29T12:00:00Z"), "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
        is(span(Unit::Month, "UTC", "2026-12-31T23:59:59Z"), "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        is(span(Unit::Month, "Europe/Berlin", "2026-06-30T22:30:00Z"), "2026-06-30T22:00:00Z", "2026-07-31T22:00:00Z");
        is(span(Unit::Week, "UTC", "2026-11-22T06:00:00Z"), "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z");
        is(span(Unit::Day, "Asia/Kolkata", "2026-01-01T18:30:00Z"), "2026-01-01T18:30:00Z", "2026-01-02T18:30:00Z");
    }

    #[test]
    fn days_on_which_clocks_are_moved_are_shorter_or_longer() {
        is(span(Unit::Day, "Europe/Berlin", "2026-03-29T12:00:00Z"), "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        is(span(Unit::Day, "Europe/Berlin", "2026-10-25T12:00:00Z"), "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
        // Clocks were moved at midnight: the day began at one.
        is(span(Unit::Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z"), "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z");
    }

    #[test]
    fn extremes_do_not_panic() {
        let calendar = Calendar::new(Unit::Month, TimeZone::UTC);
        for now in [i64::MIN, -1, 0, 253_402_207_000, i64::MAX] {
            calendar.span(now);
        }
    }

    #[test]
    fn allowances_are_written_like_rates() {
        assert_eq!(Allowance::parse("100000/month"), Ok(Allowance { count: 100_000, unit: Unit::Month }));
        for bad in ["", "5", "5/hour", "0/day", "-1/day", "9007199254740993/day", "5/month/day"] {
            assert!(Allowance::parse(bad).is_err(), "{bad}");
        }
    }
}
