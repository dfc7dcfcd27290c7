//! Statuses of HTTP, one or many.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// Statuses from `first` to `last`, both included; within 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub first: u16,
    pub last: u16,
}

impl StatusRange {
    pub fn contains(&self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    /// `200`, `2xx` or `200-399`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let text = text.trim();
            let three_digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            three_digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (first, last) = if let Some(class) = text.strip_suffix("xx") {
            let class = class.parse::<u16>().ok().filter(|class| *class < 10)?;
            (class * 100, class * 100 + 99)
        } else if let Some((first, last)) = text.split_once('-') {
            (number(first)?, number(last)?)
        } else {
            (number(text)?, number(text)?)
        };
        (100 <= first && first <= last && last <= 599).then_some(StatusRange { first, last })
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Status;
        impl Visitor<'_> for Status {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status from 100 to 599, a class such as `2xx`, or a range such as `200-399`")
            }

            fn visit_u64<E: Error>(self, status: u64) -> Result<StatusRange, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_i64<E: Error>(self, status: i64) -> Result<StatusRange, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StatusRange, E> {
                StatusRange::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Status)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^([1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?)$" },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_classes_and_ranges() {
        for (text, want) in [("204", Some((204, 204))), ("2xx", Some((200, 299))), ("200-399", Some((200, 399)))] {
            assert_eq!(StatusRange::parse(text).map(|range| (range.first, range.last)), want);
        }
        for wrong in ["", "99", "600", "6xx", "0xx", "xx", "399-200", "200-", "-200", "+20", "200-2000", "2x"] {
            assert_eq!(StatusRange::parse(wrong), None, "{wrong}");
        }
    }
}
