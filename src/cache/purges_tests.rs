use std::time::Instant;

use bytes::Bytes;
use pingora_http::ResponseHeader;

use super::*;
use crate::cache::entry::Meta;
use crate::cache::said::Said;
use crate::cache::stored::StoredHead;
use crate::cache::tags::Tags;
use crate::cache::tests::{policy, seen};
use crate::exchange::Exchange;
use crate::head::RequestHead;

/// Stored at this moment, on this route.
fn entry(url: &str, route: &str, tags: &str) -> Entry {
    let head = RequestHead::build("GET", url, &[("host", "shop.example")]);
    let key = key::key(&head, &Exchange::for_tests(), seen(&head), (route, "s"), &policy());
    let mut answer = ResponseHeader::build(200, None).unwrap();
    answer.append_header("surrogate-key", tags).unwrap();
    let now = std::time::SystemTime::now();
    let meta = Meta {
        fallback: 0,
        on_disk: true,
        in_redis: true,
        fresh_until: now,
        created: now,
        epoch: now,
        variance: None,
        stale_while_revalidate: 0,
        stale_if_error: 0,
        asked: Moment::now().get(),
        tags: Tags::of(&Said::by_header(&answer)).unwrap(),
        head: StoredHead::of(&answer).unwrap(),
    };
    Entry::new(&key.primary, "", meta, Bytes::new())
}

fn target(path: &str, query: Option<&str>) -> Purge {
    Purge::Target { host: "shop.example".into(), path: path.into(), query: query.map(str::to_owned) }
}

fn prefix(path: &str) -> Purge {
    Purge::Prefix { host: "shop.example".into(), path: path.into() }
}

#[test]
fn a_purge_takes_what_it_names_and_nothing_else() {
    Moment::begin();
    let elsewhere = Purge::Host("other.example".into());
    let tag = |tag: &str, within| Purge::Tag(tag.into(), within);
    for (purge, goes) in [
        (Purge::Everything, true),
        (target("/a/b", Some("x=1")), true),
        (target("/a/b", Some("x=2")), false),
        (target("/a/b", None), false),
        (target("/a", Some("x=1")), false),
        (prefix("/"), true),
        (prefix("/a/"), true),
        (prefix("/a/b"), true),
        (prefix("/a/b/"), false),
        (prefix("/b"), false),
        (Purge::Prefix { host: "other.example".into(), path: "/".into() }, false),
        (Purge::Host("shop.example".into()), true),
        (elsewhere, false),
        (tag("red", Within::Everywhere), true),
        (tag("blue", Within::Everywhere), true),
        (tag("re", Within::Everywhere), false),
        (tag("shop.example", Within::Everywhere), false),
        (tag("red", Within::Host("shop.example".into())), true),
        (tag("red", Within::Host("other.example".into())), false),
        (tag("red", Within::Route("r".into())), true),
        (tag("red", Within::Route("s".into())), false),
    ] {
        for soft in [false, true] {
            let (purges, before) = (Purges::new(), entry("/a/b?x=1", "r", "red blue"));
            assert!(!purges.concern(before.checked.get()));
            purges.note(&purge, soft);
            assert!(purges.concern(before.checked.get()));
            let (finding, until) = purges.look_at(&before);
            let expected = match (goes, soft) {
                (false, _) => Finding::Untouched,
                (true, true) => Finding::Stale,
                (true, false) => Finding::Gone,
            };
            assert_eq!(finding, expected, "{purge:?}");
            before.checked.set(until);
            assert!(!purges.concern(before.checked.get()));
            assert_eq!(purges.look_at(&before).0, Finding::Untouched, "it was told once");
            let after = entry("/a/b?x=1", "r", "red blue");
            assert!(!purges.concern(after.checked.get()), "{purge:?}");
            // The same again takes it again.
            purges.note(&purge, soft);
            assert_eq!(purges.look_at(&after).0, expected, "{purge:?}");
        }
    }
}

#[test]
fn a_hard_purge_is_not_softened() {
    let (purges, entry) = (Purges::new(), entry("/a", "r", "red"));
    purges.note(&Purge::Host("shop.example".into()), false);
    purges.note(&Purge::Tag("red".into(), Within::Everywhere), true);
    assert_eq!(purges.look_at(&entry).0, Finding::Gone);
}

#[test]
fn notes_are_bounded_and_what_is_forgotten_counts_as_purged() {
    let (purges, first) = (Purges::of_most(100), entry("/first", "r", ""));
    let mut last = None;
    for number in 0..1000 {
        purges.note(&target(&format!("/{number}"), None), false);
        if number == 980 {
            last = Some(entry("/last", "r", ""));
        }
    }
    assert!(purges.book.read().noted.len() <= 101);
    assert_eq!(purges.look_at(&first).0, Finding::Gone);
    assert_eq!(purges.look_at(&last.unwrap()).0, Finding::Untouched);
}

/// What has to go goes part by part, of nearly the same age each.
#[test]
fn so_many_are_remembered_as_there_is_room_for() {
    const MOST: usize = 8 * PART;
    let purges = Purges::of_most(MOST);
    let note = |number: usize| purges.note(&Purge::Tag(number.to_string(), Within::Everywhere), false);
    let times: Vec<u64> = (0..3 * MOST).map(note).collect();
    let book = purges.book.read();
    assert!((MOST * 2 / 5..=MOST).contains(&book.noted.len()), "{}", book.noted.len());
    assert!(book.noted.parts.iter().all(|part| part.len() <= PART));
    let known = times.iter().filter(|at| **at > book.forgotten).count();
    assert!((MOST * 2 / 5..=MOST).contains(&known), "{known}");
}

/// A million entries and a hundred thousand purges: neither waits for the other.
#[test]
fn what_a_purge_costs_does_not_depend_on_what_is_stored() {
    let purges = Purges::new();
    let entry = entry("/a/b/c", "r", &(0..20).map(|number| format!("tag{number}")).collect::<Vec<_>>().join(" "));
    let begun = Instant::now();
    for number in 0..100_000 {
        purges.note(&Purge::Tag(format!("other{number}"), Within::Everywhere), false);
    }
    let noted = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..100_000 {
        assert_eq!(purges.look_at(&entry).0, Finding::Untouched);
    }
    let looked = begun.elapsed();
    // Microseconds each, on a busy machine without optimisation.
    assert!(noted.as_millis() < 10_000 && looked.as_millis() < 10_000, "{noted:?} {looked:?}");
}
