//! The directives of an answer: `Cache-Control` (RFC 9111, section 5.2.2; RFC 5861), or in its place a field that is meant for this cache
//! (RFC 9213): `Portcullis-Cache-Control`, or `CDN-Cache-Control`.
//!
//! Of what is said twice, or is malformed, the least fresh wins. A targeted field is another thing: one that is not a structured field
//! (RFC 9651) does not count at all.

use sfv::{BareItem, Dictionary, ListEntry, Parser};
use smallvec::SmallVec;

use super::said::{Lines, Said};

/// The longest lifetime or age that is told apart from "for ever" (RFC 9111, section 1.2.2).
pub const LONGEST: u64 = 1 << 31;

/// See the module. Lifetimes in seconds.
#[derive(Debug, Default)]
pub struct Control<'a> {
    pub no_store: bool,
    /// Without a list of fields.
    pub no_cache: bool,
    /// Without a list of fields.
    pub private: bool,
    pub public: bool,
    pub must_understand: bool,
    /// `must-revalidate` or `proxy-revalidate`: once it is stale it is no answer.
    pub revalidate: bool,
    /// `must-revalidate`, which says besides that it may be stored for all.
    pub must_revalidate: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    /// Values of `private` and `no-cache` that name fields: those are for one client, or for now.
    pub fields: Lines<'a>,
    /// It is of a targeted field: `Expires` does not count beside it.
    pub targeted: bool,
}

impl<'a> Control<'a> {
    pub fn of(said: &Said<'a>) -> Self {
        [&said.own_control, &said.cdn_control].into_iter().find_map(|lines| Self::targeted(lines)).unwrap_or_else(|| {
            let mut control = Control::default();
            said.cache_control.iter().copied().flat_map(directives).for_each(|(name, argument)| control.hear(name, argument));
            control
        })
    }

    fn hear(&mut self, name: &[u8], argument: Option<&'a [u8]>) {
        let named = argument.and_then(fields_of);
        match word(name) {
            Some(Word::NoCache | Word::Private) if named.is_some() => self.fields.extend(named),
            Some(Word::MaxAge) => shorten(&mut self.max_age, lifetime(argument)),
            Some(Word::SMaxage) => shorten(&mut self.s_maxage, lifetime(argument)),
            Some(Word::StaleWhileRevalidate) => shorten(&mut self.stale_while_revalidate, lifetime(argument)),
            Some(Word::StaleIfError) => shorten(&mut self.stale_if_error, lifetime(argument)),
            Some(word) => self.set(word),
            None => {}
        }
    }

    fn set(&mut self, word: Word) {
        match word {
            Word::NoStore => self.no_store = true,
            Word::NoCache => self.no_cache = true,
            Word::Private => self.private = true,
            Word::Public => self.public = true,
            Word::MustUnderstand => self.must_understand = true,
            Word::MustRevalidate => (self.revalidate, self.must_revalidate) = (true, true),
            Word::ProxyRevalidate => self.revalidate = true,
            Word::MaxAge | Word::SMaxage | Word::StaleWhileRevalidate | Word::StaleIfError => {}
        }
    }

    /// `None` if there is no such field, or none that can be read.
    fn targeted(lines: &[&[u8]]) -> Option<Self> {
        if lines.is_empty() {
            return None;
        }
        let dictionary: Dictionary = Parser::parse_dictionary(&lines.join(&b", "[..])).ok()?;
        let mut control = Control { targeted: true, ..Control::default() };
        for (name, entry) in &dictionary {
            let item = match (entry, word(name.as_bytes())) {
                (ListEntry::Item(item), _) => item,
                (ListEntry::InnerList(_), Some(word @ (Word::NoCache | Word::Private))) => {
                    control.set(word);
                    continue;
                }
                (ListEntry::InnerList(_), _) => continue,
            };
            // A value of another type than the directive's is none (RFC 9213, section 2.1).
            match (word(name.as_bytes()), &item.bare_item) {
                (Some(Word::MaxAge), BareItem::Integer(number)) => control.max_age = capped(*number),
                (Some(Word::SMaxage), BareItem::Integer(number)) => control.s_maxage = capped(*number),
                (Some(Word::StaleWhileRevalidate), BareItem::Integer(number)) => control.stale_while_revalidate = capped(*number),
                (Some(Word::StaleIfError), BareItem::Integer(number)) => control.stale_if_error = capped(*number),
                // With a list of fields: taken for the whole.
                (Some(word @ (Word::NoCache | Word::Private)), BareItem::String(_)) => control.set(word),
                (Some(word), BareItem::Boolean(true)) => control.set(word),
                _ => {}
            }
        }
        (!dictionary.is_empty()).then_some(control)
    }

    /// Whether the answer itself says how long it is fresh.
    pub fn lifetime(&self) -> Option<u64> {
        self.s_maxage.or(self.max_age)
    }

    /// The names of the fields that are not stored.
    pub fn withheld(&self) -> SmallVec<[&'a [u8]; 4]> {
        self.fields.iter().copied().flat_map(list_of).collect()
    }

    /// The same in lower case, and for keeps.
    pub fn withheld_names(&self) -> SmallVec<[Box<[u8]>; 1]> {
        self.withheld().iter().map(|name| name.to_ascii_lowercase().into()).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    NoStore,
    NoCache,
    Private,
    Public,
    MustUnderstand,
    MustRevalidate,
    ProxyRevalidate,
    MaxAge,
    SMaxage,
    StaleWhileRevalidate,
    StaleIfError,
}

fn word(name: &[u8]) -> Option<Word> {
    let is = |known: &str, word| name.eq_ignore_ascii_case(known.as_bytes()).then_some(word);
    match name.len() {
        6 => is("public", Word::Public),
        7 => is("max-age", Word::MaxAge).or_else(|| is("private", Word::Private)),
        8 => is("no-store", Word::NoStore).or_else(|| is("no-cache", Word::NoCache)).or_else(|| is("s-maxage", Word::SMaxage)),
        14 => is("stale-if-error", Word::StaleIfError),
        15 => is("must-revalidate", Word::MustRevalidate).or_else(|| is("must-understand", Word::MustUnderstand)),
        16 => is("proxy-revalidate", Word::ProxyRevalidate),
        22 => is("stale-while-revalidate", Word::StaleWhileRevalidate),
        _ => None,
    }
}

/// What is not a number counts as stale (RFC 9111, section 4.2.1).
fn lifetime(argument: Option<&[u8]>) -> u64 {
    seconds(argument).unwrap_or(0)
}

fn shorten(known: &mut Option<u64>, seconds: u64) {
    *known = Some(known.map_or(seconds, |known| known.min(seconds)));
}

fn capped(number: i64) -> Option<u64> {
    Some(u64::try_from(number).unwrap_or(0).min(LONGEST))
}

/// The list of fields in quotes; `None` if there is none, so that the directive goes for the whole answer.
fn fields_of(argument: &[u8]) -> Option<&[u8]> {
    let names = argument.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let tokens = |name: &[u8]| http::HeaderName::from_bytes(name).is_ok();
    (list_of(names).next().is_some() && list_of(names).all(tokens)).then_some(names)
}

/// Every member of one line of a list field.
pub fn list_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Delta-seconds, quoted or not, capped at 2^31. `None` if it is not a number.
pub fn seconds(argument: Option<&[u8]>) -> Option<u64> {
    let argument = argument?;
    let digits = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(LONGEST)))
}

/// The directives of one `Cache-Control` line: names, and arguments with their quotes. A comma inside quotes does not separate.
pub fn directives(line: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let (mut rest, mut quotes) = (line, true);
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (member, after) = split_member(rest, &mut quotes);
            rest = after;
            let member = member.trim_ascii();
            if member.is_empty() {
                continue;
            }
            return Some(match memchr::memchr(b'=', member).and_then(|at| member.split_at_checked(at)) {
                Some((name, argument)) => (name.trim_ascii(), Some(argument.get(1..).unwrap_or_default().trim_ascii())),
                None => (member, None),
            });
        }
        None
    })
}

/// Up to the first comma outside quotes, and what follows it. A quote that is never closed takes the rest only if nothing is lost
/// by it: the line is then split at plain commas, so that no `no-store` can hide behind a stray quote; all of what is left of it, or a
/// line of nothing but such quotes would be read to its end for each of them.
fn split_member<'l>(line: &'l [u8], quotes: &mut bool) -> (&'l [u8], &'l [u8]) {
    let (mut quoted, mut escaped, mut end) = (false, false, None);
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if *quotes => quoted = !quoted,
            b',' if !quoted => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    if quoted {
        *quotes = false;
        end = memchr::memchr(b',', line);
    }
    match end.and_then(|at| line.split_at_checked(at)) {
        Some((member, after)) => (member, after.get(1..).unwrap_or_default()),
        None => (line, b""),
    }
}
