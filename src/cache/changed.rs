//! What a request has changed is not answered from memory any more (RFC 9111, section 4.4).
//!
//! A target may be stored on several routes, for both schemes, and once for each value of a key header; so entries are not looked for,
//! but the time of the change is noted, and what was stored before that is no answer. The notes are a table of fixed size, in which
//! targets may share a place: an entry then goes for another one's change, and never stays for want of room.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Url;

use super::key;
use super::moment::Moment;
use crate::head::RequestHead;
use crate::path;

/// 2 MiB, of which the system gives what is used.
const PLACES: usize = 1 << 18;

/// When each target was changed last.
pub(super) struct Changes(Box<[AtomicU64]>);

/// A target's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// That of a target as keys begin with it.
    pub(super) fn of(target: &[u8]) -> Self {
        Place((key::number(target) % PLACES as u64) as u32)
    }
}

impl Changes {
    pub(super) fn new() -> Self {
        Changes(std::iter::repeat_with(AtomicU64::default).take(PLACES).collect())
    }

    pub(super) fn note(&self, place: Place, now: Moment) {
        self.note_at(place, now.get());
    }

    pub(super) fn note_at(&self, place: Place, at: u64) {
        if let Some(noted) = self.0.get(place.0 as usize) {
            noted.fetch_max(at, Ordering::Relaxed);
        }
    }

    fn noted(&self, place: Place) -> u64 {
        self.0.get(place.0 as usize).map_or(0, |noted| noted.load(Ordering::Relaxed))
    }

    /// Whether there was a change since `then`, or in the very same moment.
    pub(super) fn since(&self, place: Place, then: u64) -> bool {
        self.noted(place) >= then
    }

    /// Notes what a request has changed that was answered without an error: its target, and what the answer names of the same origin.
    /// `tell` hears of each target.
    pub(super) fn by<'a>(
        &self,
        head: &RequestHead,
        scheme: &str,
        named: impl Iterator<Item = &'a [u8]>,
        mut tell: impl FnMut(Moment, Vec<u8>),
    ) {
        let now = Moment::now();
        self.target(&head.host, &head.path, head.query(), now, &mut tell);
        let mut base = None;
        for reference in named {
            let Some(base) = base.get_or_insert_with(|| base_of(head, scheme)) else { return };
            let Some(url) = std::str::from_utf8(reference).ok().and_then(|reference| base.join(reference.trim()).ok()) else {
                continue;
            };
            // Both without their schemes' own ports: behind somebody else's TLS a backend may write `http`.
            let same = url.host() == base.host() && url.port() == base.port() && matches!(url.scheme(), "http" | "https");
            if let (true, Ok(path)) = (same, path::normalise(url.path().as_bytes())) {
                self.target(&head.host, &path, url.query(), now, &mut tell);
            }
        }
    }

    fn target(&self, host: &str, path: &str, query: Option<&str>, now: Moment, tell: &mut impl FnMut(Moment, Vec<u8>)) {
        // And as it is stored where the query is not part of the key.
        for query in [query, None].into_iter().take(1 + usize::from(query.is_some())) {
            let target = key::target(host, path, query);
            self.note(Place::of(&target), now);
            tell(now, target);
        }
    }
}

fn base_of(head: &RequestHead, scheme: &str) -> Option<Url> {
    let authority = std::str::from_utf8(head.authority()).ok()?;
    let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
    Url::parse(&format!("{scheme}://{authority}{}{query}", head.path)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_the_target_and_what_the_answer_names_of_its_origin() {
        let head = RequestHead::build("POST", "/items/1?draft", &[("host", "shop.example:8080")]);
        let changed = |named: &[&str], path: &str, query: Option<&str>| {
            let (changes, before) = (Changes::new(), Moment::now().get());
            changes.by(&head, "http", named.iter().map(|text| text.as_bytes()), |_, _| {});
            changes.since(Place::of(&key::target("shop.example", path, query)), before)
        };
        assert!(changed(&[], "/items/1", Some("draft")) && changed(&[], "/items/1", None));
        assert!(!changed(&[], "/items/2", None) && !changed(&[], "/items/1", Some("other")));
        for (named, path, query) in [
            ("/items/2", "/items/2", None),
            ("2", "/items/2", None),
            ("../cart?x=1", "/cart", Some("x=1")),
            ("http://shop.example:8080/a%7eb", "/a~b", None),
            ("HTTP://SHOP.EXAMPLE:8080/a/./b", "/a/b", None),
            ("//shop.example:8080/a", "/a", None),
        ] {
            assert!(changed(&[named], path, query), "{named}");
        }
        for foreign in
            ["http://shop.example/items/2", "http://other.example:8080/items/2", "//other/items/2", "ftp:/items/2", "\u{0}"]
        {
            assert!(!changed(&[foreign], "/items/2", None), "{foreign}");
        }
    }
}
