//! Durations, sizes and rates, written with their units.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// A duration with its unit: `500ms`, `2s`, `1m`, `1h`, `1d`, or the unit's longer names (`2min`, `30 seconds`). A number without a unit is refused, for nobody remembers which unit
/// it would be. At most ten years, so that adding one to the present never overflows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// The units in milliseconds, the largest first, as [`Period`]'s `Display` needs them.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Ten years of 365 days.
const LONGEST_MILLIS: u64 = 3_650 * 86_400_000;

impl Period {
    /// # Errors
    /// What is wrong beyond not being a duration at all, for the end of the sentence; may be empty.
    pub fn parse(text: &str) -> Result<Period, &'static str> {
        let (number, unit) = split_number(text);
        let number: u64 = number.parse().map_err(|_| "")?;
        if unit.is_empty() {
            return Err("which has no unit");
        }
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == short(unit)).ok_or("")?;
        match number.checked_mul(*millis) {
            Some(millis) if millis <= LONGEST_MILLIS => Ok(Period(Duration::from_millis(millis))),
            _ => Err("which is longer than ten years (3650d)"),
        }
    }
}

impl Deref for Period {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        match UNITS.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", millis / unit),
            None => f.write_str("0s"),
        }
    }
}

/// A number of bytes: `64KiB`, `2MiB`, `10MB`, or a plain whole number. `KiB`, `MiB`, `GiB`, `TiB` count by 1024, `KB`, `MB`, `GB`,
/// `TB` by 1000; upper and lower case are the same. A bare `k`, `m` or `g` counts by 1024, as in NGINX and Apache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 16] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
];

impl Size {
    /// # Errors
    /// See [`Period::parse`].
    pub fn parse(text: &str) -> Result<Size, &'static str> {
        let (number, unit) = split_number(text);
        let number: u64 = number.parse().map_err(|_| "")?;
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, bytes) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or("")?;
        number.checked_mul(*bytes).map(Size).ok_or("which is more than 64 bits can count")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        match SIZES.iter().find(|(name, unit)| name.ends_with("iB") && bytes != 0 && bytes.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            None => write!(f, "{bytes}"),
        }
    }
}

/// So many per so long: `1000/minute`, `10/s`, `5/10s`. Units: `s`, `sec`, `second`, `m`, `min`, `minute`, `h`, `hr`, `hour`, `d`, `day`, and
/// their plurals. The count is at least 1, and the time is between one second and ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub count: u64,
    pub per: Duration,
}

impl Rate {
    /// # Errors
    /// See [`Period::parse`].
    pub fn parse(text: &str) -> Result<Rate, &'static str> {
        let (count, per) = text.split_once('/').ok_or("")?;
        let count: u64 = count.trim().parse().map_err(|_| "")?;
        if count == 0 {
            return Err("which lets nothing pass");
        }
        let (number, unit) = split_number(per.trim());
        let number: u64 = if number.is_empty() { 1 } else { number.parse().map_err(|_| "")? };
        let seconds: u64 = match short(unit) {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(""),
        };
        match number.checked_mul(seconds) {
            Some(0) => Err("which is per no time at all"),
            Some(seconds) if seconds <= LONGEST_MILLIS / 1_000 => Ok(Rate { count, per: Duration::from_secs(seconds) }),
            _ => Err("which is per more than ten years"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = Period(self.per).to_string();
        write!(f, "{}/{}", self.count, per.strip_prefix('1').filter(|unit| !unit.starts_with(char::is_numeric)).unwrap_or(&per))
    }
}

/// A unit of time as people write it, in its shortest form.
fn short(unit: &str) -> &str {
    match unit {
        "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        "msec" | "millisecond" | "milliseconds" => "ms",
        other => other,
    }
}

/// `500ms` into `500` and `ms`; one space between them is allowed.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.strip_prefix(' ').unwrap_or(unit))
}

/// A share of all: `10%`, `0.5%`. Kept in millionths, so four digits behind the point count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share(u32);

const WHOLE: u32 = 1_000_000;

impl Share {
    pub const ALL: Share = Share(WHOLE);

    /// # Errors
    /// See [`Period::parse`].
    pub fn parse(text: &str) -> Result<Share, &'static str> {
        let number = text.strip_suffix('%').ok_or("which has no percent sign")?;
        let number = number.strip_suffix(' ').unwrap_or(number);
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) {
            return Err("");
        }
        if part.len() > 4 {
            return Err("which is finer than a ten-thousandth of a percent");
        }
        let whole: u32 = whole.parse().map_err(|_| "which is more than all")?;
        let part = format!("{part:0<4}").parse::<u32>().map_err(|_| "")?;
        let millionths = whole.checked_mul(WHOLE / 100).and_then(|whole| whole.checked_add(part));
        millionths.filter(|share| *share <= WHOLE).map(Share).ok_or("which is more than all")
    }

    /// So many percent, of which there are at most 100.
    pub const fn percent(whole: u32) -> Share {
        Share(if whole < 100 { whole * (WHOLE / 100) } else { WHOLE })
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether so many of so many are at least this share.
    pub fn is_reached(self, part: u64, all: u64) -> bool {
        u128::from(part) * u128::from(WHOLE) >= u128::from(all) * u128::from(self.0)
    }

    /// The share of so many, rounded down.
    pub fn of(self, all: usize) -> usize {
        usize::try_from(all as u128 * u128::from(self.0) / u128::from(WHOLE)).unwrap_or(all)
    }

    /// Whether something drawn evenly from all numbers is within the share.
    pub fn takes(self, drawn: u64) -> bool {
        // The high bits times the whole: without a division.
        ((u128::from(drawn) * u128::from(WHOLE)) >> 64) < u128::from(self.0)
    }
}

impl Default for Share {
    fn default() -> Self {
        Share::ALL
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / (WHOLE / 100), self.0 % (WHOLE / 100));
        match part {
            0 => write!(f, "{whole}%"),
            part => write!(f, "{whole}.{}%", format!("{part:04}").trim_end_matches('0')),
        }
    }
}

/// Deserialize, Serialize (as its text) and JsonSchema of a value that is written as one string.
macro_rules! written_as_text {
    ($type:ty, $expecting:literal, $name:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;

                impl Visitor<'_> for TextVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        <$type>::parse(text).map_err(|why| match why {
                            "" => E::invalid_value(Unexpected::Str(text), &self),
                            why => E::custom(format_args!(concat!("expected ", $expecting, ", found `{}`, {}"), text, why)),
                        })
                    }
                }

                deserializer.deserialize_str(TextVisitor)
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <$type>::parse(text).map_err(|why| {
                    let comma = if why.is_empty() { "" } else { ", " };
                    format!(concat!("expected ", $expecting, ", found `{}`{}{}"), text, comma, why)
                })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

written_as_text!(
    Period,
    "a duration such as 500ms or 2s",
    "Period",
    "^[0-9]+ ?(ms|msec|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)$",
    "500ms"
);
written_as_text!(
    Rate,
    "a rate such as 10/s or 1000/minute",
    "Rate",
    "^[1-9][0-9]* ?/ ?[0-9]* ?(s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)$",
    "1000/minute"
);

written_as_text!(Share, "a share such as 10% or 0.5%", "Share", "^[0-9]{1,3}([.][0-9]{1,4})? ?%$", "10%");

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 64KiB, 10MB or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).map_err(|why| match why {
                    "" => E::invalid_value(Unexpected::Str(text), &self),
                    why => E::custom(format_args!("expected a size such as 64KiB or 10MB, found `{text}`, {why}")),
                })
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Size::parse(text).map_err(|_| format!("expected a size such as 64KiB, 10MB or a number of bytes, found `{text}`"))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9]+ ?([kKmMgGtT][iI]?[bB]?|[bB])?$", "examples": ["64KiB", "10MB"] },
            { "type": "integer", "minimum": 0 },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_of_all() {
        for (text, shown) in [("10%", "10%"), ("0.5 %", "0.5%"), ("100%", "100%"), ("0%", "0%"), ("99.9999%", "99.9999%")] {
            assert_eq!(Share::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "%", "10", "101%", "-1%", "1e2%", "1.%", ".5%", "0.00001%", "100.0001%", "99999999999%"] {
            assert!(Share::parse(text).is_err(), "{text}");
        }
        assert!(!Share::parse("0%").unwrap().takes(0) && Share::ALL.takes(u64::MAX));
        let tenth = Share::parse("10%").unwrap();
        assert!(tenth.takes(u64::MAX / 10) && !tenth.takes(u64::MAX / 10 + (1 << 20)));
    }

    #[test]
    fn reads_periods() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1m", 60_000),
            ("1 h", 3_600_000),
            ("1d", 86_400_000),
            ("2min", 120_000),
            ("30 seconds", 30_000),
            ("1hour", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(Period::parse(text), Ok(Period(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "s", "5 parsecs", "-1s", "1.5s", "1S", "5  s", "1s2", "99999999999999999999s", "1h30m"] {
            assert_eq!(Period::parse(text), Err(""), "{text}");
        }
        assert_eq!(Period::parse("5"), Err("which has no unit"));
        assert!(
            Period::parse("3650d").is_ok() && Period::parse("3651d").is_err() && Period::parse("18446744073709551615d").is_err()
        );
    }

    #[test]
    fn reads_sizes() {
        for (text, bytes) in
            [("64KiB", 65_536), ("2mib", 2 << 20), ("10MB", 10_000_000), ("17", 17), ("3 GiB", 3 << 30), ("9B", 9)]
        {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for (text, bytes) in [("64K", 65_536), ("2m", 2 << 20), ("1g", 1 << 30), ("3Mi", 3 << 20)] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["64T", "1.5MB", "-1", "KiB", "1Kibibyte", ""] {
            assert_eq!(Size::parse(text), Err(""), "{text}");
        }
        assert!(Size::parse("18446744073709551615TiB").is_err());
    }

    #[test]
    fn reads_rates() {
        for (text, count, seconds) in [
            ("1000/minute", 1000, 60),
            ("10/s", 10, 1),
            ("5/10s", 5, 10),
            ("1 / day", 1, 86_400),
            ("100/min", 100, 60),
            ("7/hrs", 7, 3_600),
            ("5/2 minutes", 5, 120),
        ] {
            assert_eq!(Rate::parse(text), Ok(Rate { count, per: Duration::from_secs(seconds) }), "{text}");
        }
        for text in ["0/s", "10", "10/", "10/0s", "/s", "-1/s", "10/fortnight", "10/500ms", "1/99999999d"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["500ms", "90s", "2h", "3650d", "0s"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
        for text in ["1000/m", "10/s", "5/10s", "7/15m", "1/d"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!(
            (Size(65_536).to_string(), Size(1000).to_string(), Size(0).to_string()),
            ("64KiB".into(), "1000".into(), "0".into())
        );
        assert_eq!(
            "5".parse::<Period>(),
            Err("expected a duration such as 500ms or 2s, found `5`, which has no unit".to_owned())
        );
    }
}
