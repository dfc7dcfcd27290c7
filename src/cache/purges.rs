//! What an operator has taken out of the cache: by URL, prefix, host or tag, or all of it.
//!
//! Nothing is looked for when a purge comes, and nothing is walked: it is noted, with its moment, and an entry that is found afterwards is
//! held against what was noted since it was asked for. That is done once for every entry and purge; from then on the entry knows that it
//! was looked at. So a purge costs the same whatever is stored, and a hit costs one comparison as long as nothing is purged. What was asked
//! for before a purge and comes after it is held against it as well.
//!
//! The notes are bounded. Where they would grow beyond that, the older half of a part of them goes, and what was stored before the youngest of those counts as
//! purged: it is fetched anew, and never stays for want of room.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::key::{self, Parts};
use super::moment::Moment;
use crate::{authority, path};

/// The most notes: 16 MiB with their table, once so many different things were purged.
const MOST: usize = 1 << 18;
/// Of them in one part of the table. What grows, or is halved, is one part, which takes a tenth of a millisecond: the whole of it took
/// twenty, for all who look something up.
const PART: usize = 1 << 12;

/// What is purged. Hosts are as keys have them, paths canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    Everything,
    /// One target, on whatever route, scheme and port it is stored.
    Target {
        host: String,
        path: String,
        query: Option<String>,
    },
    /// All whose path begins so.
    Prefix {
        host: String,
        path: String,
    },
    Host(String),
    Tag(String, Within),
}

impl Purge {
    /// In bytes of memory, beside itself.
    pub(super) fn weight(&self) -> usize {
        match self {
            Purge::Everything => 0,
            Purge::Target { host, path, query } => host.len() + path.len() + query.as_ref().map_or(0, String::len),
            Purge::Prefix { host, path } => host.len() + path.len(),
            Purge::Host(host) => host.len(),
            Purge::Tag(tag, Within::Host(within) | Within::Route(within)) => tag.len() + within.len(),
            Purge::Tag(tag, Within::Everywhere) => tag.len(),
        }
    }
}

/// How far a tag goes: a service that puts another one's tag on its answers has no part in that one's purges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    Everywhere,
    Host(String),
    Route(String),
}

impl Purge {
    /// One URL, as clients ask for it. The scheme may be left out, and the port makes no difference.
    ///
    /// # Errors
    /// It is none that a client could ask for.
    pub fn url(text: &str) -> Result<Self, &'static str> {
        let (host, path, query) = split(text)?;
        let query = query.map(|query| {
            let canonical = path::encode_query(query.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
            canonical.unwrap_or_else(|| query.to_owned())
        });
        Ok(Purge::Target { host, path, query })
    }

    /// All URLs that begin so, up to their queries.
    ///
    /// # Errors
    /// As [`Purge::url`], or it has a query.
    pub fn prefix(text: &str) -> Result<Self, &'static str> {
        match split(text)? {
            (_, _, Some(_)) => Err("a prefix ends before the query"),
            (host, path, None) => Ok(Purge::Prefix { host, path }),
        }
    }

    /// All of a host.
    ///
    /// # Errors
    /// It is none.
    pub fn host(text: &str) -> Result<Self, &'static str> {
        Ok(Purge::Host(host(text)?))
    }
}

/// A host in the one spelling there is, without a port.
///
/// # Errors
/// It is none.
pub fn host(text: &str) -> Result<String, &'static str> {
    let canonical =
        authority::canonical(text.as_bytes()).ok_or("that is no host; one with other letters is written in ASCII (xn--)")?;
    Ok(canonical.host().to_owned())
}

/// Host, canonical path and query.
fn split(text: &str) -> Result<(String, String, Option<&str>), &'static str> {
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => rest,
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            return Err("only http and https are cached");
        }
        _ => text,
    };
    if rest.contains('#') {
        return Err("nothing that clients send has a fragment (`#`)");
    }
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let path = path::normalise(path.as_bytes()).map_err(path::PathProblem::detail)?;
    Ok((host(authority)?, path.into_owned(), query))
}

/// When something was purged; 0 for never.
#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    hard: u64,
    soft: u64,
}

impl Noted {
    fn note(&mut self, soft: bool, at: u64) {
        let noted = if soft { &mut self.soft } else { &mut self.hard };
        *noted = at.max(*noted);
    }

    fn last(self) -> u64 {
        self.hard.max(self.soft)
    }

    /// What it makes of what was looked at then.
    fn finding(self, then: u64) -> Finding {
        match self {
            Noted { hard, .. } if hard >= then => Finding::Gone,
            Noted { soft, .. } if soft >= then => Finding::Stale,
            _ => Finding::Untouched,
        }
    }

    fn later(self, other: Noted) -> Noted {
        Noted { hard: self.hard.max(other.hard), soft: self.soft.max(other.soft) }
    }
}

/// What the purges make of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Untouched,
    /// It may be given only as what is stale may.
    Stale,
    Gone,
}

/// See the module.
pub(super) struct Purges {
    /// When the last one came.
    newest: AtomicU64,
    book: RwLock<Book>,
    hasher: [ahash::RandomState; 2],
}

struct Book {
    noted: Notes,
    /// The lengths that the prefixes have, and when one of that length was last purged.
    lengths: BTreeMap<usize, u64>,
    everything: Noted,
    /// When a tag was last purged, anywhere, on one host, on one route.
    tags: [u64; 3],
    /// What was asked for before that counts as purged.
    forgotten: u64,
}

/// What is noted, in parts that are bounded each by itself.
struct Notes {
    parts: Box<[HashMap<u128, Noted, ahash::RandomState>]>,
    /// In each.
    most: usize,
}

/// Of what is noted, so that a host is not taken for a tag.
#[derive(Clone, Copy)]
enum Kind {
    Target = 1,
    Prefix,
    Host,
    Tag,
    TagOfHost,
    TagOfRoute,
}

impl Purges {
    pub(super) fn new() -> Self {
        Purges::of_most(MOST)
    }

    fn of_most(most: usize) -> Self {
        let book = Book {
            noted: Notes::of_most(most),
            lengths: BTreeMap::new(),
            everything: Noted::default(),
            tags: [0; 3],
            forgotten: 0,
        };
        Purges { newest: AtomicU64::new(0), book: RwLock::new(book), hasher: Default::default() }
    }

    fn number(&self, kind: Kind, parts: &[&[u8]]) -> u128 {
        let [one, two] = self.hasher.each_ref().map(|hasher| {
            let mut hasher = hasher.build_hasher();
            hasher.write_u8(kind as u8);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        });
        u128::from(one) << 64 | u128::from(two)
    }

    /// Notes it, as of now, and says when that is.
    pub(super) fn note(&self, purge: &Purge, soft: bool) -> u64 {
        let mut book = self.book.write();
        // Under the lock, and after whatever was noted before: the last moment is that of the last note.
        let at = Moment::now().get().max(self.newest.load(Ordering::Relaxed).saturating_add(1));
        self.put(&mut book, purge, soft, at);
        at
    }

    /// Notes what was ordered before this process was there.
    pub(super) fn note_at(&self, purge: &Purge, soft: bool, at: u64) {
        self.put(&mut self.book.write(), purge, soft, at);
    }

    /// Nobody knows any more what was purged up to then.
    pub(super) fn forget_before(&self, at: u64) {
        let mut book = self.book.write();
        book.forgotten = book.forgotten.max(at);
        self.newest.fetch_max(at, Ordering::Release);
    }

    fn put(&self, book: &mut Book, purge: &Purge, soft: bool, at: u64) {
        let mut forgotten = None;
        let mut put = |number| forgotten = forgotten.max(book.noted.note(number, soft, at));
        match purge {
            Purge::Everything => book.everything.note(soft, at),
            Purge::Target { host, path, query } => {
                put(self.number(Kind::Target, &[&key::target(host, path, query.as_deref())]));
                if query.is_some() {
                    // As it is stored where the query is no part of the key, or only some of it.
                    put(self.number(Kind::Target, &[&key::target(host, path, None)]));
                }
            }
            Purge::Prefix { host, path } => {
                put(self.number(Kind::Prefix, &[host.as_bytes(), path.as_bytes()]));
                let last = book.lengths.entry(path.len()).or_default();
                *last = at.max(*last);
            }
            Purge::Host(host) => put(self.number(Kind::Host, &[host.as_bytes()])),
            Purge::Tag(tag, within) => {
                let tag = tag.as_bytes();
                let (number, place) = match within {
                    Within::Everywhere => (self.number(Kind::Tag, &[tag]), 0),
                    Within::Host(host) => (self.number(Kind::TagOfHost, &[host.as_bytes(), tag]), 1),
                    Within::Route(route) => (self.number(Kind::TagOfRoute, &[route.as_bytes(), tag]), 2),
                };
                put(number);
                if let Some(last) = book.tags.get_mut(place) {
                    *last = at.max(*last);
                }
            }
        }
        if let Some(until) = forgotten {
            book.forgotten = book.forgotten.max(until);
            book.lengths.retain(|_, last| *last > until);
        }
        self.newest.fetch_max(at, Ordering::Release);
    }

    /// Whether there is a purge that an entry was not held against yet.
    pub(super) fn concern(&self, checked: u64) -> bool {
        self.newest.load(Ordering::Acquire) >= checked
    }

    /// Holds an entry against all that was purged since it was looked at last, or asked for. And up to which moment it was looked at.
    pub(super) fn look_at(&self, entry: &Entry) -> (Finding, u64) {
        let checked = entry.checked.get();
        let book = self.book.read();
        let now = self.newest.load(Ordering::Relaxed).saturating_add(1);
        if book.forgotten >= entry.meta.asked {
            return (Finding::Gone, now);
        }
        let tags = entry.meta.tags.iter().flat_map(|tags| tags.iter());
        (self.noted(&book, &entry.primary, tags, checked).finding(checked), now)
    }

    /// What the purges make of an answer that was asked for then, and has never been held against them.
    pub(super) fn judge<'a>(&self, primary: &[u8], tags: impl Iterator<Item = &'a str>, asked: u64) -> Finding {
        if !self.concern(asked) {
            return Finding::Untouched;
        }
        let book = self.book.read();
        match book.forgotten >= asked {
            true => Finding::Gone,
            false => self.noted(&book, primary, tags, asked).finding(asked),
        }
    }

    /// Whether what is kept under a key was purged since, whatever its tags.
    pub(super) fn touch(&self, primary: &[u8], since: u64) -> bool {
        let book = self.book.read();
        book.forgotten >= since || self.noted(&book, primary, std::iter::empty(), since).last() >= since
    }

    /// What there is of it that was noted since.
    fn noted<'a>(&self, book: &Book, primary: &[u8], tags: impl Iterator<Item = &'a str>, since: u64) -> Noted {
        let mut noted = book.everything;
        let mut look = |kind, parts: &[&[u8]]| {
            if let Some(found) = book.noted.get(self.number(kind, parts)) {
                noted = noted.later(found);
            }
        };
        let Parts { target, host, path, route, .. } = key::read(primary);
        look(Kind::Target, &[target]);
        look(Kind::Host, &[host]);
        for (length, _) in book.lengths.range(..=path.len()).filter(|(_, last)| **last >= since) {
            look(Kind::Prefix, &[host, path.get(..*length).unwrap_or_default()]);
        }
        let [anywhere, on_host, on_route] = book.tags.map(|last| last >= since);
        for tag in tags {
            if anywhere {
                look(Kind::Tag, &[tag.as_bytes()]);
            }
            if on_host {
                look(Kind::TagOfHost, &[host, tag.as_bytes()]);
            }
            if on_route {
                look(Kind::TagOfRoute, &[route, tag.as_bytes()]);
                // What is kept of a call is its route's as well: `route#call#service`.
                for route in memchr::memchr_iter(b'#', route).filter_map(|at| route.get(..at)) {
                    look(Kind::TagOfRoute, &[route, tag.as_bytes()]);
                }
            }
        }
        noted
    }
}

impl Notes {
    fn of_most(most: usize) -> Self {
        let parts = most.div_ceil(PART).max(1);
        Notes { parts: std::iter::repeat_with(HashMap::default).take(parts).collect(), most: most / parts }
    }

    /// Which part it is in. All numbers are equally likely.
    fn part(&self, number: u128) -> usize {
        (number as u64 % self.parts.len().max(1) as u64) as usize
    }

    fn get(&self, number: u128) -> Option<Noted> {
        self.parts.get(self.part(number))?.get(&number).copied()
    }

    /// Notes it. Where the older half of its part had to go, until when those were; with them goes the right to tell what they were about.
    fn note(&mut self, number: u128, soft: bool, at: u64) -> Option<u64> {
        let which = self.part(number);
        let part = self.parts.get_mut(which)?;
        part.entry(number).or_default().note(soft, at);
        if part.len() <= self.most {
            return None;
        }
        let mut times: Vec<u64> = part.values().map(|noted| noted.last()).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        part.retain(|_, noted| noted.last() > median);
        Some(median)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }
}

#[cfg(test)]
#[path = "purges_tests.rs"]
mod tests;
