use super::stock::{on_hit, on_miss, store, vary};
use super::*;
use crate::exchange::Exchange;
use crate::head::RequestHead;
use crate::wire::answer::{self, AnswerHead};
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderName;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use pingora_cache::key::CacheHashKey;
use pingora_cache::{HitStatus, HttpCache, RespCacheable};
use pingora_http::ResponseHeader;
use std::sync::Arc;

pub(crate) fn policy() -> CachePolicy {
    CachePolicy {
        default_ttl: Duration::from_secs(30),
        min_ttl: Duration::ZERO,
        max_ttl: Duration::from_secs(30),
        heuristic: None,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_stale: Duration::from_secs(3600),
        ignore_requests: false,
        max_body: 1024,
        key_headers: Box::new([]),
        handed: Box::new([]),
        query: policy::QueryKey::All,
        extra: None,
        on_disk: true,
        in_redis: true,
        keep_tags: false,
        statuses: Box::new([200, 204, 404]),
        refused: Box::default(),
    }
}

fn answer(fields: &[(&'static str, &str)]) -> ResponseHeader {
    let mut answer = ResponseHeader::build(200, None).unwrap();
    for (name, value) in fields {
        answer.append_header(*name, *value).unwrap();
    }
    answer
}

pub(crate) fn seen<'a>(head: &'a RequestHead) -> impl Fn(&HeaderName) -> Vec<&'a [u8]> {
    |name| {
        head.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_str().as_bytes())).map(|(_, value)| value).collect()
    }
}

fn asked(policy: &CachePolicy, head: &RequestHead) -> Use {
    rules::request(rules::form(head, policy, false), head, false, &Credentials::default(), policy, |_| false)
}

/// What is found at once, for a request that may use the cache.
fn at_once(cache: &'static Cache, policy: &CachePolicy, head: &RequestHead) -> Option<(Bytes, Outcome)> {
    if matches!(asked(policy, head), Use::Bypass(_)) {
        return None;
    }
    let hit = found(cache, policy, head)?;
    Some((hit.body().clone(), hit.outcome()))
}

fn found(cache: &'static Cache, policy: &CachePolicy, head: &RequestHead) -> Option<Hit> {
    match cache.look(policy, key(head, &Exchange::for_tests(), seen(head), ("r", "s"), policy), &Wishes::default(), seen(head)) {
        Looked::Fresh(hit) => Some(hit),
        _ => None,
    }
}

/// The engine's own way, and pingora's.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Own,
    Stock,
}

const WAYS: [Way; 2] = [Way::Own, Way::Stock];

/// What the client gets, and what the cache says it did.
async fn serve(
    way: Way,
    cache: &'static Cache,
    method: &str,
    fields: &[(&str, &str)],
    origin: Option<(&ResponseHeader, &[u8])>,
) -> (Vec<u8>, Outcome) {
    match way {
        Way::Own => own(cache, method, fields, origin).await,
        Way::Stock => stock(cache, method, fields, origin).await,
    }
}

fn head_of(answer: &ResponseHeader) -> Box<AnswerHead> {
    let mut raw = format!("HTTP/1.1 {} x\r\n", answer.status.as_u16()).into_bytes();
    answer.header_to_h1_wire(&mut raw);
    raw.extend_from_slice(b"\r\n");
    answer::take(&mut BytesMut::from(&raw[..]), &http::Method::GET, &Default::default()).unwrap().unwrap()
}

/// As the engine does it.
async fn own(
    cache: &'static Cache,
    method: &str,
    fields: &[(&str, &str)],
    origin: Option<(&ResponseHeader, &[u8])>,
) -> (Vec<u8>, Outcome) {
    let (policy, head) = (policy(), RequestHead::build(method, "/a", fields));
    let used = asked(&policy, &head);
    if let Use::Bypass(why) = used {
        return (origin.unwrap().1.to_vec(), Outcome::Bypass(why));
    }
    let mut patience = Patience::default();
    let mut looked = cache.look(
        &policy,
        key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy),
        &Wishes::default(),
        seen(&head),
    );
    let fetch = loop {
        let next = match looked {
            Looked::Fresh(hit) => return (hit.body().to_vec(), hit.outcome()),
            Looked::Stale(..) => panic!("nothing says that it may be stale"),
            Looked::Predicted(missed) => break Fetch::predicted(missed, used, &Wishes::default()),
            Looked::Missed(missed) => cache.turn(missed, used, &Wishes::default()),
        };
        let key = match next {
            Next::Fetch(fetch) => break fetch,
            Next::Look(key) => key,
            Next::Wait(key, mut waiting) => match waiting.verdict(patience.left().unwrap()).await {
                Some(Verdict::Unfit) => break Fetch::alone(key, &Wishes::default()),
                _ => key,
            },
        };
        looked = cache.look(&policy, key, &Wishes::default(), seen(&head));
    };
    let (answer, body) = origin.expect("nobody should have asked the backend");
    let (outcome, answer) = (fetch.outcome(), head_of(answer));
    let mut keeping = cache.admit(fetch, &answer, &head.method, None, &policy, seen(&head));
    let outcome = outcome(keeping.is_storing());
    tokio::time::sleep(Duration::from_millis(20)).await;
    keeping.add(cache, body);
    keeping.done(cache, &answer);
    (body.to_vec(), outcome)
}

/// Walks pingora's state machine the way its proxy does.
async fn stock(
    cache: &'static Cache,
    method: &str,
    fields: &[(&str, &str)],
    origin: Option<(&ResponseHeader, &[u8])>,
) -> (Vec<u8>, Outcome) {
    let (policy, head) = (policy(), RequestHead::build(method, "/a", fields));
    let found = at_once(cache, &policy, &head);
    let mut http = HttpCache::new();
    let used = cache.enable(&mut http, &policy, asked(&policy, &head));
    if http.enabled() {
        http.set_cache_key(key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy).to_pingora(&policy));
        if !http.cacheable_prediction() {
            http.bypass();
        }
    }
    while http.enabled() {
        let Some((meta, hit)) = http.cache_lookup().await.unwrap() else {
            if http.is_cache_locked() {
                http.cache_lock_wait().await;
                continue;
            }
            on_miss(&mut http, used);
            break;
        };
        if http.cache_key().variance_bin().is_none()
            && let Some(variance) = vary(&policy, &meta, seen(&head))
            && !http.cache_vary_lookup(variance, &meta)
        {
            continue;
        }
        let fresh = meta.is_fresh(SystemTime::now());
        let status = match on_hit(used, &Wishes::default(), &policy, &meta, fresh) {
            Some(_) => HitStatus::ForceMiss,
            None if fresh => HitStatus::Fresh,
            None => HitStatus::Expired,
        };
        http.cache_found(meta, hit, status);
        if status == HitStatus::Fresh {
            let body = http.hit_handler().read_body().await.unwrap().unwrap_or_default();
            let outcome = Outcome::of(&http, used);
            http.finish_hit_handler().await.unwrap();
            // The short way must come to the same.
            assert_eq!(at_once(cache, &policy, &head), Some((body.clone(), outcome)));
            return (body.to_vec(), outcome);
        }
        if status == HitStatus::ForceMiss {
            on_miss(&mut http, used);
        }
        break;
    }
    assert_eq!(found, None, "the short way finds what pingora's does not");
    let (answer, body) = origin.expect("nobody should have asked the backend");
    if http.enabled() || http.bypassing() {
        match store(answer, &policy, cache.came(None)) {
            RespCacheable::Cacheable(meta) => {
                if http.bypassing() {
                    http.response_became_cacheable();
                    on_miss(&mut http, used);
                }
                if http.enabled() {
                    let variance = vary(&policy, &meta, seen(&head));
                    http.set_cache_meta(meta);
                    http.update_variance(variance);
                    http.set_miss_handler().await.unwrap();
                }
            }
            RespCacheable::Uncacheable(reason) => {
                if !http.bypassing() {
                    http.response_became_uncacheable(reason);
                }
                http.disable(reason);
            }
        }
    }
    let outcome = Outcome::of(&http, used);
    if http.enabled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        http.miss_handler().unwrap().write_body(Bytes::copy_from_slice(body), true).await.unwrap();
        http.finish_miss_handler().await.unwrap();
    }
    (body.to_vec(), outcome)
}

#[tokio::test]
async fn a_miss_then_hits_for_get_and_head() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let origin = answer(&[("content-length", "5"), ("age", "10")]);
        let head = serve(way, cache, "HEAD", &[], Some((&origin, b""))).await;
        assert_eq!(head.1, Outcome::Miss { stored: false });
        let first = serve(way, cache, "GET", &[], Some((&origin, b"hello"))).await;
        assert_eq!(first, (b"hello".to_vec(), Outcome::Miss { stored: true }));
        for method in ["GET", "HEAD"] {
            let (body, outcome) = serve(way, cache, method, &[], None).await;
            assert_eq!(body, b"hello");
            assert!(matches!(outcome, Outcome::Hit { ttl: 18..=20 }), "{outcome:?}");
        }
        let bypass = serve(way, cache, "GET", &[("cookie", "a=b")], Some((&origin, b"mine"))).await;
        assert_eq!(bypass, (b"mine".to_vec(), Outcome::Bypass(Bypass::Credentials)));
        assert_eq!(cache.stats().memory.stored, 1);
        let the_key = key(&RequestHead::build("GET", "/a", &[]), &Exchange::for_tests(), |_| [], ("r", "s"), &policy())
            .to_pingora(&policy());
        assert!(cache.purge_key(&the_key).await && !cache.purge_key(&the_key).await);
        assert_eq!(serve(way, cache, "GET", &[], Some((&origin, b"again"))).await.1, Outcome::Miss { stored: true });
    }
}

#[tokio::test]
async fn variants_do_not_mix() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let origin = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
        for round in 0..2 {
            for (language, body) in [(None, b"--"), (Some("de"), b"de"), (Some("en"), b"en")] {
                let fields: Vec<(&str, &str)> = language.map(|language| ("accept-language", language)).into_iter().collect();
                let (got, outcome) = serve(way, cache, "GET", &fields, Some((&origin, body))).await;
                assert_eq!(got, body);
                assert_eq!(matches!(outcome, Outcome::Hit { .. }), round == 1, "{language:?} {outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_remembered_until_it_can() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let private = answer(&[("content-length", "1"), ("cache-control", "private")]);
        assert_eq!(serve(way, cache, "GET", &[], Some((&private, b"p"))).await.1, Outcome::Miss { stored: false });
        assert_eq!(serve(way, cache, "GET", &[], Some((&private, b"p"))).await.1, Outcome::Predicted { stored: false });
        let public = answer(&[("content-length", "1")]);
        assert_eq!(serve(way, cache, "GET", &[], Some((&public, b"q"))).await.1, Outcome::Predicted { stored: true });
        assert!(matches!(serve(way, cache, "GET", &[], None).await.1, Outcome::Hit { .. }));
    }
}

#[tokio::test]
async fn an_expired_answer_is_replaced_and_a_head_leaves_it_alone() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let short = answer(&[("content-length", "3"), ("cache-control", "max-age=1")]);
        serve(way, cache, "GET", &[], Some((&short, b"old"))).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let headed = serve(way, cache, "HEAD", &[], Some((&short, b""))).await.1;
        // Pingora takes what a request may not validate for a miss.
        let (own, stock) = (Outcome::Expired { stored: false }, Outcome::Miss { stored: false });
        assert_eq!(headed, if way == Way::Own { own } else { stock });
        assert_eq!(
            serve(way, cache, "GET", &[], Some((&short, b"new"))).await,
            (b"new".to_vec(), Outcome::Expired { stored: true })
        );
        assert_eq!(serve(way, cache, "GET", &[], None).await.0, b"new");
    }
}

#[tokio::test]
async fn misses_at_the_same_time_ask_once() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                tokio::spawn(async move {
                    let origin = answer(&[("content-length", "5")]);
                    serve(way, cache, "GET", &[], Some((&origin, b"hello"))).await
                })
            })
            .collect();
        let (mut stored, mut hits) = (0, 0);
        for task in tasks {
            let (body, outcome) = task.await.unwrap();
            assert_eq!(body, b"hello");
            stored += usize::from(outcome == (Outcome::Miss { stored: true }));
            hits += usize::from(matches!(outcome, Outcome::Hit { .. }));
        }
        assert_eq!((stored, hits), (1, 19));
    }
}

#[tokio::test]
async fn variants_from_before_a_purge_are_gone() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let origin = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
        let (de, en) = ([("accept-language", "de")], [("accept-language", "en")]);
        for (fields, body) in [(de, b"de"), (en, b"en")] {
            serve(way, cache, "GET", &fields, Some((&origin, body))).await;
        }
        let the_key = key(&RequestHead::build("GET", "/a", &[]), &Exchange::for_tests(), |_| [], ("r", "s"), &policy())
            .to_pingora(&policy());
        assert!(cache.purge_key(&the_key).await);
        // The primary is stored anew; the old variant is still in the store, but it is not this primary's.
        assert_eq!(serve(way, cache, "GET", &de, Some((&origin, b"DE"))).await.0, b"DE");
        assert_eq!(serve(way, cache, "GET", &en, Some((&origin, b"EN"))).await.0, b"EN");
        assert_eq!(serve(way, cache, "GET", &en, None).await.0, b"EN");
    }
}

#[tokio::test]
async fn one_cannot_be_stored_among_variants() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let stored = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
        let private = answer(&[("content-length", "2"), ("vary", "Accept-Language"), ("cache-control", "private")]);
        serve(way, cache, "GET", &[("accept-language", "de")], Some((&stored, b"de"))).await;
        serve(way, cache, "GET", &[("accept-language", "en")], Some((&private, b"en"))).await;
        // What is stored is given, whatever became of another variant.
        let (body, outcome) = serve(way, cache, "GET", &[("accept-language", "de")], None).await;
        assert_eq!((body.as_slice(), matches!(outcome, Outcome::Hit { .. })), (&b"de"[..], true), "{way:?} {outcome:?}");
        if way == Way::Own {
            let (_, outcome) = serve(way, cache, "GET", &[("accept-language", "en")], Some((&private, b"en"))).await;
            assert_eq!(outcome, Outcome::Predicted { stored: false }, "and that one is asked for by each for himself");
            let (_, outcome) = serve(way, cache, "GET", &[("accept-language", "fr")], Some((&stored, b"fr"))).await;
            assert_eq!(outcome, Outcome::Miss { stored: true }, "of a third one nothing is known");
            let (_, outcome) = serve(way, cache, "GET", &[("accept-language", "en")], Some((&stored, b"en"))).await;
            assert_eq!(outcome, Outcome::Predicted { stored: true });
            // It has come beside the others.
            for (language, body) in [("de", b"de"), ("fr", b"fr"), ("en", b"en")] {
                assert_eq!(serve(way, cache, "GET", &[("accept-language", language)], None).await.0, body, "{language}");
            }
        }
    }
}

#[tokio::test]
async fn what_has_expired_is_at_hand_for_who_asks_alone() {
    let cache = Cache::new(1 << 20);
    let stored = answer(&[("content-length", "3"), ("cache-control", "max-age=1, stale-if-error=60")]);
    serve(Way::Own, cache, "GET", &[], Some((&stored, b"old"))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let long = answer(&[("content-length", "2000")]);
    serve(Way::Own, cache, "GET", &[], Some((&long, &[b'l'; 2000]))).await;
    let (policy, head) = (policy(), RequestHead::build("GET", "/a", &[]));
    let of_route = || key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy);
    let looked = cache.look(&policy, of_route(), &Wishes::default(), seen(&head));
    let Looked::Predicted(missed) = looked else { panic!("it could not be stored") };
    let fetch = Fetch::predicted(missed, Use::Full, &Wishes::default());
    assert!(!fetch.validates() && !fetch.is_for_all() && !fetch.is_whole());
    assert_eq!(fetch.excuse(cache, Excuse::Error(Some(500)), &policy).unwrap().body(), "old");
    assert!(cache.kept(&policy, &of_route(), &Wishes::default(), Excuse::Error(None), seen(&head)).is_some());
}

#[tokio::test]
async fn what_says_that_it_is_longer_than_it_can_be_is_stored() {
    let cache = Cache::new(1 << 20);
    let mut empty = answer(&[("content-length", "5")]);
    empty.set_status(204).unwrap();
    assert_eq!(serve(Way::Own, cache, "GET", &[], Some((&empty, b""))).await.1, Outcome::Miss { stored: true });
    assert!(matches!(serve(Way::Own, cache, "GET", &[], None).await.1, Outcome::Hit { .. }));
}

#[tokio::test]
async fn a_fetch_from_before_a_purge_is_not_waited_for() {
    for soft in [false, true] {
        let cache = Cache::new(1 << 20);
        let (policy, head) = (policy(), RequestHead::build("GET", "/a", &[("host", "h")]));
        let turn = |used| {
            let of_route = key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy);
            match cache.look(&policy, of_route, &Wishes::default(), seen(&head)) {
                Looked::Missed(missed) => cache.turn(missed, used, &Wishes::default()),
                _ => panic!("nothing is stored"),
            }
        };
        let Next::Fetch(before) = turn(Use::Full) else { panic!("nobody else asks") };
        assert!(matches!((turn(Use::Full), turn(Use::ReadOnly)), (Next::Wait(..), Next::Wait(..))));
        cache.purge(&Purge::url("http://h/b").unwrap(), soft);
        assert!(matches!(turn(Use::Full), Next::Wait(..)), "that was something else");
        cache.purge(&Purge::url("http://h/a").unwrap(), soft);
        assert!(matches!(turn(Use::ReadOnly), Next::Fetch(_)));
        let Next::Fetch(after) = turn(Use::Full) else { panic!("the other one began before") };
        drop(before);
        assert!(matches!(turn(Use::Full), Next::Wait(..)));
        drop(after);
    }
}

#[tokio::test]
async fn a_client_that_has_it_gets_304() {
    for way in WAYS {
        let cache = Cache::new(1 << 20);
        let dated = ("last-modified", "Fri, 26 Mar 2010 00:05:00 GMT");
        let origin = answer(&[("content-length", "5"), ("etag", "W/\"v\""), dated, ("content-type", "text/plain")]);
        serve(way, cache, "GET", &[], Some((&origin, b"hello"))).await;
        let policy = policy();
        for (fields, expected) in [
            (&[][..], false),
            (&[("if-none-match", "\"v\"")], true),
            (&[("if-none-match", "\"u\""), ("if-none-match", "\"w\", W/\"v\"")], true),
            (&[("if-none-match", "*")], true),
            (&[("if-none-match", "\"u\"")], false),
            (&[("if-none-match", "")], false),
            (&[("if-modified-since", dated.1)], true),
            (&[("if-modified-since", "Fri, 26 Mar 2010 00:04:59 GMT")], false),
            (&[("if-modified-since", "yesterday")], false),
            // The tag goes first.
            (&[("if-none-match", "\"u\""), ("if-modified-since", dated.1)], false),
        ] {
            let head = RequestHead::build("GET", "/a", fields);
            let hit = found(cache, &policy, &head).unwrap();
            let conditions = hit::asked(&head.method, &[IF_NONE_MATCH, IF_MODIFIED_SINCE], seen(&head));
            let unchanged = conditions.and_then(|conditions| hit.not_modified(&conditions));
            assert_eq!(unchanged.is_some(), expected, "{fields:?}");
            if let Some(unchanged) = unchanged {
                let names: Vec<_> =
                    unchanged.headers().map(|(name, _)| name.to_ascii_lowercase()).filter(|name| name != b"date").collect();
                assert_eq!((unchanged.status.as_u16(), names), (304, vec![b"etag".to_vec(), b"last-modified".to_vec()]));
            }
        }
    }
}

/// The head of a 304, and what the client gets.
async fn validate(cache: &'static Cache, fields: &[(&str, &str)], answer: &ResponseHeader) -> Hit {
    let (policy, head) = (policy(), RequestHead::build("GET", "/a", fields));
    let looked = cache.look(
        &policy,
        key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy),
        &Wishes::default(),
        seen(&head),
    );
    let Looked::Missed(missed) = looked else { panic!("it has expired") };
    let Next::Fetch(fetch) = cache.turn(missed, Use::Full, &Wishes::default()) else { panic!("nobody else asks") };
    assert!(fetch.validates() && fetch.is_for_all());
    assert_eq!(fetch.validators().len(), 1);
    cache.validated(fetch, &head_of(answer), None, &policy).ok().unwrap()
}

#[tokio::test]
async fn a_304_makes_what_is_stored_fresh_again() {
    let cache = Cache::new(1 << 20);
    let stored = answer(&[("content-length", "3"), ("etag", "\"v\""), ("cache-control", "max-age=1"), ("x-a", "old")]);
    serve(Way::Own, cache, "GET", &[], Some((&stored, b"one"))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut unchanged =
        answer(&[("etag", "\"v\""), ("cache-control", "max-age=9"), ("x-a", "new"), ("content-length", "7"), ("age", "2")]);
    unchanged.set_status(304).unwrap();
    let hit = validate(cache, &[], &unchanged).await;
    assert_eq!((hit.outcome(), hit.age(), &hit.body()[..]), (Outcome::Revalidated { asked: false }, None, &b"one"[..]));
    let text = |hit: &Hit| {
        let field = |(name, value): (&[u8], &[u8])| [name, b"=", value].concat();
        String::from_utf8(hit.head().headers().filter(|(name, _)| *name != b"Date").map(field).collect::<Vec<_>>().join(&b' '))
            .unwrap()
    };
    assert_eq!(text(&hit).to_lowercase(), "content-length=3 etag=\"v\" cache-control=max-age=9 x-a=new");
    let (body, outcome) = serve(Way::Own, cache, "GET", &[], None).await;
    assert!(body == b"one" && matches!(outcome, Outcome::Hit { ttl: 5..=7 }), "{outcome:?}");
}

#[tokio::test]
async fn a_304_that_forbids_is_used_this_once() {
    let cache = Cache::new(1 << 20);
    let stored = answer(&[("content-length", "3"), ("etag", "\"v\""), ("cache-control", "max-age=1")]);
    serve(Way::Own, cache, "GET", &[], Some((&stored, b"one"))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let mut private = answer(&[("etag", "\"v\""), ("cache-control", "private")]);
    private.set_status(304).unwrap();
    assert_eq!(validate(cache, &[], &private).await.outcome(), Outcome::Revalidated { asked: false });
    let fetched = serve(Way::Own, cache, "GET", &[], Some((&stored, b"two"))).await;
    assert_eq!(fetched, (b"two".to_vec(), Outcome::Predicted { stored: true }));
}

#[tokio::test]
async fn what_a_304_says_to_one_client_is_not_kept_for_others() {
    let told = [
        &[("set-cookie", "id=2"), ("cache-control", "max-age=9, private=\"X-User\", no-cache=\"Set-Cookie\"")][..],
        // What was said before still counts where the 304 says nothing of it.
        &[("set-cookie", "id=2")][..],
    ];
    for more in told {
        let cache = Cache::new(1 << 20);
        let before = [
            ("content-length", "3"),
            ("etag", "\"v\""),
            ("cache-control", "max-age=1, no-cache=\"set-cookie, x-user\""),
            ("x-user", "first"),
        ];
        serve(Way::Own, cache, "GET", &[], Some((&answer(&before), b"one"))).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let own = [("etag", "\"v\""), ("x-user", "second"), ("x-a", "new")];
        let mut unchanged = answer(&[&own[..], more].concat());
        unchanged.set_status(304).unwrap();
        let hit = validate(cache, &[], &unchanged).await;
        let user = HeaderName::from_static("x-user");
        assert_eq!(hit.head().header(&user), Some(&b"second"[..]), "its own client has all of it");
        let (policy, head) = (policy(), RequestHead::build("GET", "/a", &[]));
        let of_route = key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy);
        let other =
            cache.kept(&policy, &of_route, &Wishes::default(), Excuse::Fallback(Duration::from_secs(60)), seen(&head)).unwrap();
        let field = |name| other.head().header(&HeaderName::from_static(name));
        assert_eq!((field("set-cookie"), field("x-user"), field("x-a")), (None, None, Some(&b"new"[..])), "{more:?}");
    }
}

#[tokio::test]
async fn what_a_304_makes_private_is_gone() {
    for control in ["private", "no-store"] {
        let cache = Cache::new(1 << 20);
        let stored = [("content-length", "3"), ("etag", "\"v\""), ("portcullis-cache-control", "max-age=1")];
        serve(Way::Own, cache, "GET", &[], Some((&answer(&stored), b"one"))).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let mut unchanged = answer(&[("etag", "\"v\""), ("cache-control", control)]);
        unchanged.set_status(304).unwrap();
        validate(cache, &[], &unchanged).await;
        assert_eq!(cache.stats().memory.entries, 0, "{control}");
    }
}

#[tokio::test]
async fn a_route_without_stale_answers_gives_none_whoever_wants_them() {
    let cache = Cache::new(1 << 20);
    let stored = answer(&[("content-length", "3"), ("etag", "\"v\""), ("cache-control", "max-age=1")]);
    serve(Way::Own, cache, "GET", &[], Some((&stored, b"one"))).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let head = RequestHead::build("GET", "/a", &[]);
    for (most, given) in [(Duration::from_secs(3600), true), (Duration::ZERO, false)] {
        let policy = CachePolicy { max_stale: most, ..policy() };
        let of_route = || key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy);
        let wishes = Wishes { max_stale: Some(u32::MAX), ..Wishes::default() };
        assert_eq!(matches!(cache.look(&policy, of_route(), &wishes, seen(&head)), Looked::Fresh(_)), given);
        let fallback = Excuse::Fallback(Duration::from_secs(3600));
        assert_eq!(cache.kept(&policy, &of_route(), &Wishes::default(), fallback, seen(&head)).is_some(), given);
    }
}

#[test]
fn who_waits_is_held_to_what_he_wants() {
    let now = std::time::SystemTime::now();
    let meta = entry::Meta {
        fallback: 0,
        on_disk: true,
        in_redis: true,
        fresh_until: now + Duration::from_secs(10),
        created: now,
        epoch: now - Duration::from_secs(20),
        variance: None,
        stale_while_revalidate: 0,
        stale_if_error: 0,
        asked: 1,
        tags: None,
        head: StoredHead::of(&answer(&[])).unwrap(),
    };
    let entry = Arc::new(entry::Entry::new(b"a", "", meta, Bytes::new()));
    let flowing = flow::Flowing { flow: flow::Flow::of(Vec::new()), length: 1, entry };
    let has = |max_age, min_fresh| Hit::flowing(&flowing, now, &Wishes { max_age, min_fresh, ..Wishes::default() }).is_some();
    assert!(has(None, None) && has(Some(20), Some(10)));
    assert!(!has(Some(19), None) && !has(None, Some(11)));
}

#[tokio::test]
async fn another_vary_takes_all_variants_away() {
    let cache = Cache::new(1 << 20);
    let by_language = answer(&[("content-length", "2"), ("vary", "Accept-Language")]);
    let by_both = answer(&[("content-length", "2"), ("vary", "Accept-Language, Accept")]);
    let (de, en) = ([("accept-language", "de")], [("accept-language", "en")]);
    serve(Way::Own, cache, "GET", &de, Some((&by_language, b"de"))).await;
    serve(Way::Own, cache, "GET", &en, Some((&by_both, b"en"))).await;
    assert_eq!(serve(Way::Own, cache, "GET", &en, None).await.0, b"en");
    assert_eq!(serve(Way::Own, cache, "GET", &de, Some((&by_both, b"DE"))).await.0, b"DE");
}

#[tokio::test]
async fn what_is_cut_short_is_anothers_turn_and_what_is_too_long_is_remembered() {
    let cache = Cache::new(1 << 20);
    let (sized, chunked) = (answer(&[("content-length", "9")]), answer(&[("transfer-encoding", "chunked")]));
    let short = serve(Way::Own, cache, "GET", &[], Some((&sized, b"short"))).await;
    assert_eq!(short.1, Outcome::Miss { stored: true });
    let long = vec![b'x'; 1025];
    assert_eq!(serve(Way::Own, cache, "GET", &[], Some((&chunked, &long))).await.1, Outcome::Miss { stored: true });
    assert_eq!(cache.stats().memory.entries, 0);
    assert_eq!(serve(Way::Own, cache, "GET", &[], Some((&chunked, &long))).await.1, Outcome::Predicted { stored: false });
    // Once it is seen to be short enough, it is stored the next time.
    assert_eq!(serve(Way::Own, cache, "GET", &[], Some((&chunked, b"x"))).await.1, Outcome::Predicted { stored: false });
    assert_eq!(serve(Way::Own, cache, "GET", &[], Some((&chunked, b"x"))).await.1, Outcome::Miss { stored: true });
    assert_eq!(serve(Way::Own, cache, "GET", &[], None).await.0, b"x");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_said_to_be_stored_and_is_remembered() {
    let (way, cache) = (Way::Own, Cache::new(4096));
    let (sized, body) = (answer(&[("content-length", "900")]), [b'x'; 900]);
    assert_eq!(serve(way, cache, "GET", &[], Some((&sized, &body))).await.1, Outcome::Miss { stored: false });
    assert_eq!(serve(way, cache, "GET", &[], Some((&sized, &body))).await.1, Outcome::Predicted { stored: false });
}

#[tokio::test]
async fn what_changed_while_it_was_fetched_is_not_stored() {
    let cache = Cache::new(1 << 20);
    let (policy, head) = (policy(), RequestHead::build("GET", "/a", &[]));
    let looked = cache.look(
        &policy,
        key(&head, &Exchange::for_tests(), seen(&head), ("r", "s"), &policy),
        &Wishes::default(),
        seen(&head),
    );
    let Looked::Missed(missed) = looked else { panic!("nothing is stored") };
    let Next::Fetch(fetch) = cache.turn(missed, Use::Full, &Wishes::default()) else { panic!("nobody else asks") };
    let began = std::time::Instant::now();
    cache.changed(&RequestHead::build("POST", "/a", &[]), "http", std::iter::empty());
    let answer = head_of(&answer(&[("content-length", "1")]));
    assert!(!cache.admit(fetch, &answer, &head.method, Some(began), &policy, seen(&head)).is_storing());
}
