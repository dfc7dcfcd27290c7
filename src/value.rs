//! The small values that configuration types are made of: durations, sizes, rates, secrets, and wrappers that keep places.
//!
//! They are written the way people say them (`500ms`, `2MiB`, `1000/minute`) and refuse what is ambiguous. What a value means to
//! a policy is not in here.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::node::{self, Node, magic};
use crate::problem::Place;

/// A value together with the place where it was written. Read by any deserializer but this crate's, the place is
/// [`Place::NOWHERE`]. Two values at different places are equal.
#[derive(Clone, Copy, Default)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

impl<T> Spanned<T> {
    pub fn new(value: T, place: Place) -> Self {
        Spanned { value, place }
    }

    /// A value that nobody wrote: a default.
    pub fn nowhere(value: T) -> Self {
        Spanned { value, place: Place::NOWHERE }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> From<T> for Spanned<T> {
    fn from(value: T) -> Self {
        Spanned::nowhere(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: PartialOrd> PartialOrd for Spanned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Spanned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl<T: std::hash::Hash> std::hash::Hash for Spanned<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            // Our deserializer: the three numbers of the place, then the value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let short = || A::Error::custom("a placed value was not complete");
                let line = seq.next_element()?.ok_or_else(short)?;
                let column = seq.next_element()?.ok_or_else(short)?;
                let width = seq.next_element()?.ok_or_else(short)?;
                let value = seq.next_element()?.ok_or_else(short)?;
                Ok(Spanned { value, place: Place { line, column, width } })
            }

            // Every other one.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::deserialize(deserializer).map(Spanned::nowhere)
            }
        }

        deserializer.deserialize_newtype_struct(magic::SPANNED, SpannedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A duration with its unit: `500ms`, `2s`, `1m`, `1h`, `1d`. A number without a unit is refused, for nobody remembers which unit
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
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or("")?;
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
        match UNITS.iter().find(|(_, unit)| millis != 0 && millis % unit == 0) {
            Some((name, unit)) => write!(f, "{}{name}", millis / unit),
            None => f.write_str("0s"),
        }
    }
}

/// A number of bytes: `64KiB`, `2MiB`, `10MB`, or a plain whole number. `KiB`, `MiB`, `GiB`, `TiB` count by 1024, `KB`, `MB`, `GB`,
/// `TB` by 1000; upper and lower case are the same. A bare `64K` is refused, for it could be either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
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
        match SIZES.iter().find(|(name, unit)| name.ends_with("iB") && bytes != 0 && bytes % unit == 0) {
            Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            None => write!(f, "{bytes}"),
        }
    }
}

/// So many per so long: `1000/minute`, `10/s`, `5/10s`. Units: `s`, `second`, `m`, `minute`, `h`, `hour`, `d`, `day`. The count is at
/// least 1, and the time is between one second and ten years.
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
        let seconds: u64 = match unit {
            "s" | "second" => 1,
            "m" | "minute" => 60,
            "h" | "hour" => 3_600,
            "d" | "day" => 86_400,
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

/// `500ms` into `500` and `ms`; one space between them is allowed.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.strip_prefix(' ').unwrap_or(unit))
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

written_as_text!(Period, "a duration such as 500ms or 2s", "Period", "^[0-9]+ ?(ms|s|m|h|d)$", "500ms");
written_as_text!(
    Rate,
    "a rate such as 10/s or 1000/minute",
    "Rate",
    "^[1-9][0-9]* ?/ ?[0-9]* ?(s|second|m|minute|h|hour|d|day)$",
    "1000/minute"
);

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
            { "type": "string", "pattern": "^[0-9]+ ?(([kKmMgGtT][iI]?)?[bB])?$", "examples": ["64KiB", "10MB"] },
            { "type": "integer", "minimum": 0 },
        ] })
    }
}

/// A password, a key or a token. It stands in an environment variable (`${NAME}`, the whole value) or in a file (`{ file: path }`);
/// written out in the configuration it is refused. Neither `Debug` nor `Serialize` reveals it, nor the error of [`Secret::read`].
#[derive(Clone)]
pub struct Secret(SecretSource);

#[derive(Clone)]
enum SecretSource {
    /// The variable's value as it was when the configuration was loaded.
    Variable {
        name: String,
        value: String,
    },
    File(PathBuf),
}

/// The longest file that is taken for a secret, in bytes.
const LONGEST_SECRET: u64 = 1 << 20;
const NO_LITERAL: &str =
    "a secret must not be written in the configuration: name an environment variable as \"${NAME}\", or a file as { file: path }";

impl Secret {
    /// The content, without one trailing newline. A relative file name counts from `base`.
    ///
    /// # Errors
    /// The file cannot be read or is longer than 1 MiB, or there is nothing in it or in the variable. The text names the file or the
    /// variable, never the content.
    pub fn read(&self, base: &Path) -> Result<Vec<u8>, String> {
        let (mut content, origin) = match &self.0 {
            SecretSource::Variable { name, value } => (value.clone().into_bytes(), format!("the variable {name}")),
            SecretSource::File(path) => {
                let path = base.join(path);
                let content = read_bounded(&path).map_err(|error| format!("the secret file {} {error}", path.display()))?;
                (content, format!("the secret file {}", path.display()))
            }
        };
        if content.last() == Some(&b'\n') {
            content.pop();
            if content.last() == Some(&b'\r') {
                content.pop();
            }
        }
        // An empty password or key would let everybody in.
        if content.is_empty() { Err(format!("{origin} is empty")) } else { Ok(content) }
    }

    /// The file that [`Secret::read`] reads, if it is one: to watch it for changes.
    pub fn file(&self, base: &Path) -> Option<PathBuf> {
        match &self.0 {
            SecretSource::File(path) => Some(base.join(path)),
            SecretSource::Variable { .. } => None,
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(LONGEST_SECRET + 1).read_to_end(&mut content).map_err(cannot)?;
    if content.len() as u64 > LONGEST_SECRET { Err("is longer than 1 MiB".to_owned()) } else { Ok(content) }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// `ours`: the deserializer is this crate's, the only one that can tell a reference from a literal.
        struct SecretVisitor {
            ours: bool,
        }

        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a secret as \"${NAME}\" or { file: path }")
            }

            // The variable's name and its value.
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Secret, A::Error> {
                if !self.ours {
                    return Err(A::Error::invalid_type(Unexpected::Seq, &self));
                }
                let name = seq.next_element()?.ok_or_else(|| A::Error::custom(NO_LITERAL))?;
                let value = seq.next_element()?.ok_or_else(|| A::Error::custom(NO_LITERAL))?;
                Ok(Secret(SecretSource::Variable { name, value }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct InFile {
                    file: PathBuf,
                }
                let InFile { file } = InFile::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Secret(SecretSource::File(file)))
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(NO_LITERAL))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                deserializer.deserialize_any(SecretVisitor { ours: false })
            }
        }

        deserializer.deserialize_newtype_struct(magic::SECRET, SecretVisitor { ours: true })
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: the name of an environment variable as \"${NAME}\", or a file as { file: path }.",
            "anyOf": [
                { "type": "string", "pattern": "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$" },
                {
                    "type": "object",
                    "properties": { "file": { "type": "string", "description": "Its path; a relative one counts from the configuration file." } },
                    "required": ["file"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany(Vec::new())
    }
}

impl<T> Deref for OneOrMany<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for OneOrMany<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);

        /// The single values, for other deserializers than ours, which always gives a sequence.
        macro_rules! single {
            ($($method:ident($type:ty)),*) => {
                $(fn $method<E: de::Error>(self, value: $type) -> Result<Self::Value, E> {
                    T::deserialize(value.into_deserializer()).map(|value| OneOrMany(vec![value]))
                })*
            };
        }

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(|value| OneOrMany(vec![value]))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_any(self)
            }

            single!(visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str));
        }

        deserializer.deserialize_newtype_struct(magic::ONE_OR_MANY, ListVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// Any YAML, kept with its places, to be decoded later with [`node::decode`]. Only this crate's deserializer can read one.
#[derive(Clone, Debug)]
pub struct Raw(pub Arc<Node>);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            // Our deserializer leaves the node beside the road, for nothing but plain data passes through a visitor.
            fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
                node::take_raw().map(Raw).ok_or_else(|| E::custom("a raw value needs a configuration file"))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Raw, D::Error> {
                Err(D::Error::custom("a raw value needs a configuration file"))
            }
        }

        deserializer.deserialize_newtype_struct(magic::RAW, RawVisitor)
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        node::redacted_json(&self.0).serialize(serializer)
    }
}

impl JsonSchema for Raw {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Raw".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!(true)
    }
}
